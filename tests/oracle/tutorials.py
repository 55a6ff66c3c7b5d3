"""Follows tutorials and guides to the letter: what they say to write is written, what they say to type is typed, in order, in an
empty folder, and what they show must come.

    tutorials.py --systole PROGRAM [--bin FOLDER]… [--node-modules FOLDER] FILE…

The word behind the language of a fenced block says what it is; a block that is none of these fails:

* `console`: commands after `$ `, each run to its end, and the output of each. It has to exit with 0.
* `console repeat`: one command, typed again until it shows that.
* `console terminal=NAME`: commands in a terminal of their own, the last of which goes on. The line `^C` ends the one before.
* `text terminal=NAME`: what appears there next.
* `LANGUAGE file=PATH`: a file with that text. The text before has to name it.
* `LANGUAGE shown`: to look at. It is read as what it is where that can be done here: TOML (by `systole check`), YAML, JSON.

In what is shown `...` stands for any text, alone on a line for any lines, and blanks for blanks.

Every document has a network and a folder of its own, so that it finds the ports free that it names. A tutorial has to be over in five
minutes: the time that its commands take, and 200 words a minute to read."""
import argparse
import concurrent.futures
import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time

PATIENCE = 60  # seconds, for whatever is awaited
READING = 200 / 60  # words a second
MOST = 300  # seconds, for a tutorial
ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07]*\x07|[=>()][A-Z0-9]?)")


class Failure(Exception):
    pass


def end_of(text):
    """The last lines of what was printed."""
    lines = text.rstrip("\n").split("\n")
    return "\n".join(["…"] * (len(lines) > 60) + lines[-60:]) + "\n"


def blocks(document):
    """Each fenced block: the line it begins at, the words after the fence, its lines, and the paragraph before it."""
    lines, found, paragraph, last = document.split("\n"), [], [], []
    number = 0
    while number < len(lines):
        line = lines[number]
        if line.lstrip().startswith("```"):
            indent = len(line) - len(line.lstrip())
            begin, words = number + 1, line.strip()[3:].split()
            body = []
            number += 1
            while lines[number].strip() != "```":
                body.append(lines[number][indent:])
                number += 1
            found.append((begin, words, body, " ".join(paragraph or last)))
        elif line.strip():
            paragraph.append(line)
        elif paragraph:
            last, paragraph = paragraph, []
        number += 1
    return found


def prose(document):
    return re.sub(r"```.*?\n\s*```", "", document, flags=re.S)


def plain(text):
    """What a reader sees of the output of a terminal."""
    text = ESCAPES.sub("", text).replace("\r\n", "\n")
    return "\n".join(re.sub(r"[ \t]+", " ", line.split("\r")[-1]).rstrip() for line in text.split("\n"))


def pattern(shown):
    parts = []
    for line in shown:
        if line.strip() in ("...", "…"):
            parts.append(r"(?:[^\n]*\n)*?")
            continue
        pieces = re.split(r"\.\.\.|…", plain(line))
        parts.append("[^\n]*".join(re.escape(piece) for piece in pieces) + r"[ ]*\n")
    return "".join(parts)


class Command:
    """A command in a terminal of 140 columns."""

    def __init__(self, text, folder, environment):
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 140, 0, 0))
        self.text, self.output, self.master, self.seen = text, b"", master, 0
        self.process = subprocess.Popen(["bash", "--norc", "-c", text], cwd=folder, env=environment, stdin=slave, stdout=slave,
                                        stderr=slave, start_new_session=True)
        os.close(slave)

    def read(self, seconds):
        """Takes what has been written, for so long at most; whether there was any."""
        if not select.select([self.master], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self.master, 65536)
        except OSError:  # nobody has the other side any more
            data = b""
        self.output += data
        return bool(data)

    def printed(self):
        return plain(self.output.decode(errors="replace"))

    def end(self, seconds=PATIENCE):
        """Waits until it has ended, and everything it wrote is read."""
        until = time.monotonic() + seconds
        while self.process.poll() is None:
            self.read(0.05)
            if time.monotonic() > until:
                raise Failure(f"`{self.text}` has not ended within {seconds} s; it printed\n{end_of(self.printed())}")
        while self.read(0.05):
            pass
        return self.process.returncode

    def interrupt(self):
        os.killpg(self.process.pid, signal.SIGINT)
        self.end()

    def shows_next(self, shown):
        """Waits until these lines appear behind those that were awaited before."""
        wanted = re.compile("^" + pattern(shown), re.M)
        until = time.monotonic() + PATIENCE
        while True:
            printed = self.printed()
            # Only whole lines, or what is left when it has ended.
            has_ended = self.process.poll() is not None
            whole = printed + "\n" if has_ended else printed[:printed.rfind("\n") + 1]
            found = wanted.search(whole, self.seen)
            if found:
                self.seen = found.end()
                return
            if not self.read(0.1) and (has_ended or time.monotonic() > until):
                raise Failure(f"`{self.text}` {'ended' if has_ended else f'went on for {PATIENCE} s'} without showing\n"
                              + "\n".join(shown) + f"\nafter what was awaited before; it printed\n{end_of(whole[self.seen:])}")


class Reader:
    """Who follows a document."""

    def __init__(self, folder, environment):
        self.folder, self.environment, self.terminals, self.ran = folder, environment, {}, 0

    def start(self, text):
        self.ran += 1
        return Command(text, self.folder, self.environment)

    def run(self, text, shown):
        command = self.start(text)
        code = command.end()
        printed = command.printed().rstrip("\n") + "\n"
        if code != 0:
            raise Failure(f"`{text}` exits with {code}:\n{printed}")
        if not re.fullmatch(pattern(shown) if shown else "\n", printed):
            raise Failure(f"`{text}` prints\n{printed}where this is shown:\n" + "\n".join(shown))

    def repeat(self, text, shown):
        until = time.monotonic() + PATIENCE
        while True:
            try:
                return self.run(text, shown)
            except Failure:
                if time.monotonic() > until:
                    raise
            time.sleep(0.3)

    def type(self, name, commands):
        """Types into a terminal of that name."""
        for index, (text, shown) in enumerate(commands):
            before = self.terminals.get(name)
            if text == "^C":
                if not before:
                    raise Failure(f"nothing runs in the terminal {name}")
                before.interrupt()
            else:
                if before:
                    before.end()
                before = self.terminals[name] = self.start(text)
            if shown:
                before.shows_next(shown)
            if index + 1 < len(commands) and commands[index + 1][0] != "^C":
                before.end()

    def follow(self, words, body, before):
        language, said = words[0] if words else "", words[1] if len(words) > 1 else ""
        if said.startswith("file="):
            path = said[5:]
            if f"`{path}`" not in before:
                raise Failure(f"the text before does not name `{path}`")
            path = os.path.join(self.folder, path)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w") as out:
                out.write("\n".join(body) + "\n")
        elif language == "console" and said in ("", "repeat"):
            commands = typed(body)
            if said == "repeat" and len(commands) != 1:
                raise Failure("one command can be repeated")
            for text, shown in commands:
                (self.repeat if said else self.run)(text, shown)
        elif language == "console" and said.startswith("terminal="):
            self.type(said[9:], typed(body))
        elif language == "text" and said.startswith("terminal="):
            if said[9:] not in self.terminals:
                raise Failure(f"there is no terminal {said[9:]}")
            self.terminals[said[9:]].shows_next(body)
        elif said == "shown":
            self.look_at(language, "\n".join(body) + "\n")
        else:
            raise Failure(f"nobody knows what to do with a block of `{' '.join(words)}`")

    def look_at(self, language, text):
        if language == "json":
            json.loads(text)
        elif language == "yaml":
            import yaml
            list(yaml.safe_load_all(text))
        elif language == "toml":
            with tempfile.NamedTemporaryFile("w", suffix=".toml") as out:
                out.write(text)
                out.flush()
                self.run(f"systole check -c {out.name}", ["..."])
        elif language not in ("ini", "go", "java", "ruby", "properties", "sh", "text"):
            raise Failure(f"`{language}` can be run, or read as what it is")


def typed(body):
    """The commands of a block, each with the lines that are shown after it. A line that ends with a backslash or a bar goes on."""
    commands = []
    goes_on = False
    for line in body:
        if goes_on:
            commands[-1][0] += "\n" + line.removeprefix("> ")
        elif line.startswith("$ "):
            commands.append([line[2:], []])
        elif line == "^C":
            commands.append([line, []])
        elif commands:
            commands[-1][1].append(line)
            continue
        else:
            raise Failure("the block shows output before any command")
        goes_on = commands[-1][0].endswith(("\\", "|"))
    return commands


def follow(path, environment):
    """Follows one document, in a network of its own."""
    with open(path) as text:
        document = text.read()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as home:
        folder = f"{home}/work"
        os.mkdir(folder)
        environment = {**environment, "HOME": home, "XDG_STATE_HOME": f"{home}/state", "TERM": "xterm", "LANG": "C.UTF-8",
                       "LC_ALL": "C.UTF-8", "HOSTNAME": "web-1", "API_KEY": "a secret"}
        for name in [name for name in environment if name.startswith(("SYSTOLE_", "STATSD_", "DD_"))]:
            del environment[name]
        reader = Reader(folder, environment)
        begin = 0
        try:
            for begin, words, body, before in blocks(document):
                reader.follow(words, body, before)
        except Failure as failure:
            sys.exit(f"{path}:{begin}: {failure}")
        finally:
            for command in reader.terminals.values():
                if command.process.poll() is None:
                    os.killpg(command.process.pid, signal.SIGKILL)
    took = time.monotonic() - began
    words = len(prose(document).split())
    said = f"{path}: {reader.ran} commands in {took:.1f} s, {words} words"
    if "/tutorials/" in os.path.abspath(path):
        if reader.ran < 5:
            sys.exit(f"{path}: only {reader.ran} commands")
        if took + words / READING > MOST:
            sys.exit(f"{said}: more than {MOST} s")
        said += f": {took + words / READING:.0f} s"
    print(said, flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--systole", required=True)
    parser.add_argument("--bin", action="append", default=[], help="a folder that is looked into before those of PATH")
    parser.add_argument("--node-modules")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("files", nargs="+")
    options = parser.parse_args()
    if options.inside:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        follow(options.files[0], dict(os.environ))
        return
    with tempfile.TemporaryDirectory() as programs:
        os.symlink(os.path.realpath(options.systole), f"{programs}/systole")
        search = [programs, *map(os.path.abspath, options.bin), os.environ["PATH"]]
        environment = {**os.environ, "PATH": ":".join(search)}
        if options.node_modules:
            environment["NODE_PATH"] = os.path.abspath(options.node_modules)
        if not shutil.which("unshare"):
            sys.exit("unshare is needed (Debian's util-linux)")
        alone = ["unshare", "--map-root-user", "--mount-proc", "--net", "--pid", "--fork", "--kill-child"]

        def holds(path):
            command = [*alone, sys.executable, __file__, "--systole", options.systole, "--inside", path]
            return subprocess.run(command, env=environment).returncode == 0

        # They wait most of the time.
        with concurrent.futures.ThreadPoolExecutor(4) as beside:
            failed = [path for path, held in zip(options.files, beside.map(holds, options.files)) if not held]
    if failed:
        sys.exit(f"{len(failed)} of {len(options.files)} documents do not hold: {' '.join(failed)}")
    print(f"{len(options.files)} documents hold")


if __name__ == "__main__":
    main()
