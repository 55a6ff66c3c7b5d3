#!/usr/bin/env python3
"""`systole top` in tmux, against a real daemon with data: its screens as text at 80x24 and 200x50, keys, sizes, an outage, and
the terminal as it was after q, a signal, a suspension and a panic. Then the table of the console.

  top.py --systole PATH [--faulty PATH]

--faulty is a build with the feature `internals`, which can be made to panic.
"""
import argparse
import fcntl
import os
import pty
import re
import signal
import socket
import statistics
import subprocess
import tempfile
import termios
import threading
import time

from common import Processes, Systole, free_port, wait_for

# Data of all kinds, some that is refused, and a name that would act on a terminal.
LINES = ["api.requests:1|c|#route:/cart", "api.requests:1|c|#route:/pay", "checkout.latency:%d|ms|#route:/pay", "pool.in_use:%d|g",
         "users:%d|s", "db.rows:%d|h", "api.latncy:12,5|ms", "evil\x1b[2J.name:1|c"]
BEATS = [f"heartbeat:1|g|#service:checkout,instance:web-{n},interval:1" for n in (1, 2)]


class Feeder:
    """Sends those lines ten times a second, and beats once."""

    def __init__(self, port):
        self.port, self.stopped = port, threading.Event()
        self.thread = threading.Thread(target=self.feed, daemon=True)
        self.thread.start()

    def feed(self):
        out, n = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), 0
        while not self.stopped.wait(0.1):
            n += 1
            lines = "\n".join(line.replace("%d", str(n % 97)) for line in LINES + (BEATS if n % 10 == 1 else []))
            try:
                out.sendto(lines.encode(), ("127.0.0.1", self.port))
            except OSError:
                # Nobody listens while the daemon is away.
                pass

    def stop(self):
        self.stopped.set()
        self.thread.join()


class Tmux:
    """A server of its own with one window, in which a shell runs."""

    def __init__(self, folder, columns, rows, environment, name="tmux"):
        self.socket = f"{folder}/{name}"
        self.tmux("-f", "/dev/null", "new-session", "-d", "-x", str(columns), "-y", str(rows), "env", "PS1=$ ", "sh",
                  env={**os.environ, "LC_ALL": "C.UTF-8", "ENV": "", **environment})
        self.wait("the prompt of the shell", lambda screen: screen.startswith("$"))

    def tmux(self, *args, env=None):
        return subprocess.run(["tmux", "-S", self.socket, *args], check=True, capture_output=True, text=True, timeout=20, env=env).stdout

    def screen(self, *flags):
        return self.tmux("capture-pane", "-p", *flags)

    def keys(self, *keys):
        for key in keys:
            self.tmux("send-keys", key)
            if key == "Escape":
                # With what follows at once it would be another key.
                time.sleep(0.1)

    def type(self, text):
        self.tmux("send-keys", "-l", "--", text)

    def run(self, command):
        self.type(command)
        self.keys("Enter")

    def wait(self, what, is_so, seconds=20):
        found = {}

        def ready():
            found["screen"] = self.screen()
            return is_so(found["screen"])

        wait_for(what, ready, seconds, 0.01, lambda: "\n" + found["screen"])
        return found["screen"]

    def see(self, *texts):
        return self.wait(f"{texts} on the screen", lambda screen: all(text in screen for text in texts))

    def size(self, columns, rows):
        self.tmux("resize-window", "-x", str(columns), "-y", str(rows))

    def is_restored(self, before):
        """Whether the terminal is as it was, at the prompt of the shell."""
        state = self.tmux("display-message", "-p", "#{alternate_on} #{cursor_flag}").split()
        # What is typed before the prompt is there is read by whoever is ending.
        at_prompt = self.screen().rstrip().endswith("$")
        return at_prompt and state == ["0", "1"] and self.settings() == before

    def settings(self):
        device = self.tmux("display-message", "-p", "#{pane_tty}").strip()
        return subprocess.run(["stty", "-g", "-F", device], check=True, capture_output=True, text=True).stdout

    def end(self):
        subprocess.run(["tmux", "-S", self.socket, "kill-server"], capture_output=True, timeout=20, check=False)


def holds(what, is_so, shown=""):
    if not is_so:
        raise SystemExit(f"FAILED: {what}\n{shown}")
    print(f"ok: {what}", flush=True)


def row(screen, n):
    lines = screen.split("\n")
    return lines[n] if n < len(lines) else ""


def pid_of_top(tmux):
    """The process that is in front of the shell."""
    shell = tmux.tmux("display-message", "-p", "#{pane_pid}").strip()
    children = subprocess.run(["ps", "-o", "pid=,comm=", "--ppid", shell], capture_output=True, text=True, check=False).stdout
    return next(int(line.split()[0]) for line in children.splitlines() if "systole" in line)


def first_screens(tmux):
    screen = tmux.see("SYSTOLE", "LIVE", "[1] Series", "checkout.latency;route=/pay", "api.requests;route=/cart")
    lines = screen.rstrip("\n").split("\n")
    holds("80x24: 24 rows of at most 80 columns", len(lines) == 24 and all(len(line) <= 80 for line in lines), screen)
    holds("the verdict stands in the second row", re.match(r" [✓▲✕] \w", row(screen, 1)), screen)
    screen = tmux.wait("lines come", lambda screen: re.search(r"lines/s +[1-9]", row(screen, 3)))
    screen = tmux.wait("the ledger is balanced", lambda screen: re.search(r"ledger +[\d,]+ read = .* malformed +✓", row(screen, 5)))
    holds("80x24: first rows, list, sinks, what was refused, what changed, keys",
          "complete" in row(screen, 3) and "memory" in row(screen, 4) and "LINES/S▾" in row(screen, 8)
          and "SINKS" in row(screen, 19) and "REFUSED" in row(screen, 20) and "CHANGED" in row(screen, 22)
          and "q quit" in row(screen, 23), screen)
    holds("names from the wire do not act", "evil\\u{1b}[2J.name" in tmux.see("evil"), screen)


def views(tmux):
    for key, texts in [("2", ["[2] Senders", "127.0.0.1"]), ("3", ["[3] Tag keys", "route"]), ("4", ["[4] Presence", "checkout", "2 of 2", "UU"]),
                       ("5", ["[5] Sinks", "file", "delivering"]), ("6", ["[6] Losses", "malformed lines", "bad_value"]),
                       ("7", ["[7] Lines", "api.requests:1|c|#route:/cart"])]:
        tmux.keys(key)
        tmux.see(*texts)
    tmux.keys("?")
    tmux.see("systole top", "sparklines")
    tmux.keys("Escape", "1")
    print("ok: seven views and help", flush=True)
    # The keys that change the list.
    tmux.keys("/")
    tmux.type("latency")
    screen = tmux.wait("filtered", lambda screen: "checkout.latency" in screen and "pool.in_use" not in screen)
    tmux.keys("Enter", "Escape", "s")
    screen = tmux.wait("by name", lambda screen: "NAME▴" in screen and "pool.in_use" in screen)
    holds("sorted by name", screen.index("api.requests;route=/cart") < screen.index("pool.in_use"), screen)
    tmux.keys("r")
    # Series of the daemon itself are among them: not all have room.
    tmux.wait("reversed", lambda screen: "NAME▾" in screen and "users" in row(screen, 9) and "api.requests" not in row(screen, 10))
    tmux.keys("r", "s", "s", "s", "Down")
    selected = tmux.wait("selected", lambda screen: re.search(r"^ >", row(screen, 10), re.M))
    tmux.keys("Enter")
    screen = tmux.wait("a chart", lambda screen: re.search("[\u2801-\u28ff]", screen) and "whole" in screen)
    tmux.keys("Escape")
    tmux.keys("e")
    tmux.see("Explain")
    tmux.keys("C-u")
    tmux.type("a.b:1,5|ms")
    tmux.keys("Enter")
    tmux.see("refused", "bad_value", "^")
    tmux.keys("Escape")
    print("ok: filter, sort, reverse, select, chart, explain", flush=True)
    return selected


def pause(tmux):
    tmux.keys("Space")
    screen = tmux.see("PAUSED")
    time.sleep(1.5)
    without_clock = lambda screen: "\n".join(screen.split("\n")[1:])
    holds("a paused screen stays as it is", without_clock(tmux.screen()) == without_clock(screen))
    tmux.keys("Space")
    tmux.see("LIVE")


def milliseconds(tmux, keys):
    """The median time from a key to its text on the screen, by way of two processes of tmux."""
    took = []
    for key, text in keys:
        started = time.monotonic()
        tmux.keys(key)
        while text not in tmux.screen():
            if time.monotonic() - started > 5:
                raise SystemExit(f"FAILED: {text} does not come\n{tmux.screen()}")
        took.append((time.monotonic() - started) * 1e3)
    return statistics.median(took)


def answers_keys(tmux, folder):
    """How much longer a key takes than at a program that only writes it: what tmux and a busy machine take is in both."""
    control = Tmux(folder, 80, 24, {}, "control")
    try:
        control.run("clear; stty -icanon -echo; cat")
        control.wait("the control", lambda screen: not screen.strip())
        # In turns, so that both meet the same load.
        rounds = []
        for n in range(8):
            plain = milliseconds(control, [("x", "x" * (3 * n + k)) for k in (1, 2, 3)])
            rounds.append((milliseconds(tmux, [("2", "[2] Senders"), ("1", "[1] Series"), ("2", "[2] Senders")]), plain))
            tmux.keys("1")
            tmux.see("[1] Series")
    finally:
        control.end()
    own, plain = (statistics.median(column) for column in zip(*rounds))
    holds(f"a key is answered within 50 ms: median {own:.0f} ms, {plain:.0f} ms of it at a program that only writes it", own - plain <= 50)


def writes_little(tmux, folder):
    file = f"{folder}/written"
    tmux.tmux("pipe-pane", f"cat >> {file}")
    time.sleep(3.2)
    tmux.tmux("pipe-pane")
    size = os.path.getsize(file) if os.path.exists(file) else 0
    holds(f"only what changes is written: {size} bytes in three intervals", 0 < size < 12_000)


def sizes(tmux):
    tmux.size(200, 50)
    screen = tmux.wait("200x50", lambda screen: "│" in row(screen, 12) and re.search("[\u2801-\u28ff]", screen))
    lines = screen.rstrip("\n").split("\n")
    holds("200x50: 50 rows, a chart beside the list, senders and presence below", len(lines) == 50 and "SENDERS" in row(screen, 34)
          and "PRESENCE" in row(screen, 34) and "whole" in screen and "VALUE" in row(screen, 8), screen)
    tmux.size(100, 30)
    screen = tmux.wait("100x30", lambda screen: "SENDERS" in row(screen, 20) and "VALUE" in row(screen, 8))
    tmux.size(50, 12)
    screen = tmux.wait("50x12", lambda screen: "lines/s" in row(screen, 1) and "NAME" in row(screen, 2))
    tmux.size(80, 24)
    tmux.see("CHANGED")
    print("ok: 100x30, 50x12 and back", flush=True)


def outage(tmux, daemon):
    daemon.stop()
    screen = tmux.wait("no answer", lambda screen: "OFFLINE" in screen and "No answer from http://127.0.0.1" in row(screen, 1))
    holds("an outage is said, with what is shown still", "trying again" in screen and "What you see is from" in screen
          or len(row(screen, 1)) >= 79, screen)
    daemon.start()
    tmux.see("LIVE")
    print("ok: it comes back by itself", flush=True)


def ends(tmux, command, faulty, before):
    tmux.keys("q")
    tmux.wait("the prompt after q", lambda _: tmux.is_restored(before))
    tmux.run("echo code=$?")
    tmux.see("code=0")
    for name in ["TERM", "INT", "HUP"]:
        tmux.run(command)
        tmux.see("LIVE")
        os.kill(pid_of_top(tmux), getattr(signal, f"SIG{name}"))
        tmux.wait(f"the terminal after SIG{name}", lambda _: tmux.is_restored(before))
    print("ok: the terminal is as it was after q, SIGTERM, SIGINT and SIGHUP", flush=True)
    tmux.run("clear; " + command)
    tmux.see("LIVE")
    tmux.keys("C-z")
    tmux.wait("suspended", lambda _: tmux.is_restored(before))
    tmux.run("fg")
    tmux.see("LIVE")
    os.kill(pid_of_top(tmux), signal.SIGTSTP)
    tmux.wait("stopped", lambda _: tmux.is_restored(before))
    tmux.run("fg")
    tmux.see("LIVE")
    tmux.keys("q")
    tmux.wait("the prompt", lambda _: tmux.is_restored(before))
    print("ok: it is suspended and goes on", flush=True)
    if faulty:
        tmux.run(f"clear; SYSTOLE_TEST_FAULT=top@4 {command.replace(command.split()[0], faulty, 1)}")
        tmux.wait("a panic is told", lambda screen: "a test wants a failure at `top`" in screen and tmux.is_restored(before))
        print("ok: the terminal is as it was after a panic, which is told", flush=True)


def hangs_up(folder, command):
    """The end of the terminal is the end of it: with the signal, and without one, where the shell is not there to pass it on."""
    for has_signal in [True, False]:
        ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (50, 200))
        # Only of its own terminal a session hears that it is gone.
        take = (lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)) if has_signal else None
        top = subprocess.Popen(command.split(), stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, preexec_fn=take, cwd=folder)
        os.close(theirs)
        try:
            shown = b""
            while b"LIVE" not in shown:
                shown += os.read(ours, 65536)
            os.close(ours)
            top.wait(timeout=10)
        finally:
            if top.poll() is None:
                top.kill()
                top.wait()
    print("ok: it ends with its terminal", flush=True)


def plain(tmux, command):
    tmux.run(f"clear; LC_ALL=C NO_COLOR=1 {command}")
    tmux.see("LIVE", "checkout.latency")
    screen = tmux.screen("-e")
    holds("LC_ALL=C and NO_COLOR: ASCII without colours",
          tmux.screen().isascii() and not re.search("\x1b\\[[0-9;]*(3[0-7]|4[0-7]|38|48|9[0-7])[;m]", screen), screen)
    tmux.keys("q")


def console(tmux, systole, folder):
    port = free_port(socket.SOCK_DGRAM)
    file = f"{folder}/console.toml"
    with open(file, "w") as out:
        out.write(f'interval = "1s"\n[[listen]]\nurl = "udp://127.0.0.1:{port}"\n[http]\naddress = "off"\n[presence]\nstate_file = "off"\n'
                  '[[sink]]\ntype = "console"\n')
    tmux.run(f"clear; {systole} run -c {file}")
    feeder = Feeder(port)
    try:
        screen = tmux.see("counter      api.requests;route=/cart", "presence     1 of 1 services up", "systole      ")
    finally:
        feeder.stop()
        tmux.keys("C-c")
    table = screen[screen.rindex("──"):] if "systole      " in screen[screen.rindex("──"):] else screen
    holds("the console shows what people sent, then a line each on presence and the daemon",
          "presence_up" not in table and "systole.lines" not in table
          and table.index("checkout.latency") < table.index("presence     ") < table.index("systole      "), screen)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--systole", required=True)
    parser.add_argument("--faulty")
    args = parser.parse_args()
    systole = os.path.abspath(args.systole)
    faulty = args.faulty and os.path.abspath(args.faulty)
    folder = tempfile.mkdtemp(prefix="systole-top-")
    udp = free_port(socket.SOCK_DGRAM)
    config = {"root": 'interval = "1s"', "tables": f'[[listen]]\nurl = "udp://127.0.0.1:{udp}"\n[[sink]]\ntype = "file"\n'
              f'path = "{folder}/records.jsonl"\n'}
    started = time.monotonic()
    with Processes() as processes:
        daemon = Systole(processes, systole, folder, config)
        feeder = Feeder(udp)
        tmux = Tmux(folder, 80, 24, {})
        try:
            before = tmux.settings()
            command = f"{systole} top --url http://127.0.0.1:{daemon.page}"
            tmux.run(command)
            first_screens(tmux)
            views(tmux)
            pause(tmux)
            answers_keys(tmux, folder)
            writes_little(tmux, folder)
            sizes(tmux)
            outage(tmux, daemon)
            ends(tmux, command, faulty, before)
            hangs_up(folder, command)
            plain(tmux, command)
            console(tmux, systole, folder)
        finally:
            tmux.end()
            feeder.stop()
    print(f"all as it should be, in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
