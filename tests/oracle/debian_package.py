#!/usr/bin/env python3
"""The Debian package in a fresh root with a systemd of its own: installed, started, used, upgraded, removed and purged.

  debian_package.py [--systole PATH] [--keep FOLDER]

Builds the package (of a program that is there already, with --systole), checks it with lintian, and installs it into a minimal Debian
of this machine's release, which boots under systemd-nspawn. As root; --keep has the root for the next run, which takes a minute to make."""
import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

from common import wait_for

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = "/etc/systole/systole.toml"
# What is kept of an account after a purge, as Debian's own packages keep theirs.
ACCOUNTS = ["passwd", "group", "shadow", "gshadow"]
# What dpkg and systemd write down of what has happened, whatever the package is.
DIARIES = ["/var/lib/dpkg/", "/var/log/", "/etc/.pwd.lock", "/var/lib/systemd/deb-systemd-helper", "/var/cache/", "/var/tmp/"]
DIARIES += [f"/etc/{name}-" for name in ACCOUNTS]
# On another machine it may be more: the share of datagrams that nobody may lose over an upgrade is none.
LOAD_SECONDS = 20


def check(fact, said):
    if not fact:
        sys.exit(f"FAILED: {said}")


def say(text):
    print(text, flush=True)


def run(*command, **options):
    """Its output; the end, if it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    check(done.returncode == 0, f"{' '.join(map(str, command))} exits with {done.returncode}:\n{done.stdout}")
    return done.stdout


class Machine:
    """A Debian that has booted."""

    def __init__(self, root):
        self.root = root
        self.nspawn = subprocess.Popen(
            ["systemd-nspawn", "--quiet", f"--directory={root}", "--boot", "--register=no", "--keep-unit", "--private-network", "--console=pipe"],
            stdin=subprocess.DEVNULL, stdout=open(f"{root}.log", "w"), stderr=subprocess.STDOUT)
        try:
            wait_for("a machine that has booted", self.has_booted, 90, else_say=lambda: open(f"{root}.log").read())
        except SystemExit:
            self.stop()
            raise

    def leader(self):
        check(self.nspawn.poll() is None, f"systemd-nspawn has ended: {open(f'{self.root}.log').read()}")
        return open(f"/proc/{self.nspawn.pid}/task/{self.nspawn.pid}/children").read().split()[0]

    def has_booted(self):
        try:
            return self.ask("systemctl", "is-system-running").stdout.strip() in ["running", "degraded"]
        except IndexError:
            return False

    def inside(self, command):
        return ["nsenter", f"--target={self.leader()}", "--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd", *command]

    def ask(self, *command, **options):
        return subprocess.run(self.inside(command), capture_output=True, text=True, **options)

    def do(self, *command):
        return run(*self.inside(command))

    def fetch(self, url):
        """What is there, or nothing."""
        return self.ask("curl", "--silent", "--fail", url).stdout

    def scrape(self, series):
        """The value of a series as Prometheus would get it."""
        rows = [row.rsplit(" ", 1) for row in self.fetch("http://127.0.0.1:9125/metrics").splitlines() if row[:1] != "#"]
        return float(dict(rows)[series]) if series in dict(rows) else None

    def files(self):
        """All of the disk, and what a daemon might leave beside it."""
        folders = subprocess.check_output(["find", self.root, "-xdev", "-printf", "/%P\n"], text=True).splitlines()
        return {path for path in folders if not path.startswith(tuple(DIARIES))} | set(self.do("find", "/run", "-name", "*systole*").splitlines())

    def stop(self):
        self.nspawn.terminate()
        self.nspawn.wait(60)


def make_root(keep):
    """A minimal Debian with systemd, unpacked."""
    release = next(line.split("=")[1].strip() for line in open("/etc/os-release") if line.startswith("VERSION_CODENAME="))
    archive = pathlib.Path(keep) / f"{release}.tar"
    if not archive.exists():
        say(f"a fresh {release}")
        run("mmdebstrap", "--quiet", "--variant=minbase", "--include=systemd,systemd-sysv,curl", release, f"{archive}.part.tar")
        os.rename(f"{archive}.part.tar", archive)
    root = tempfile.mkdtemp(prefix="systole-debian-")
    os.chmod(root, 0o755)
    run("tar", "-C", root, "-xf", archive)
    return root


def build(program, folder):
    """The package, and the one that comes after it."""
    flags = ["--program", program] if program else []
    debs = []
    for revision in [1, 2]:
        # With a light compression, which is the only difference to what is shipped.
        path = run(ROOT / "packaging/debian/build", *flags, "--fast", "--deb-revision", str(revision)).splitlines()[-1]
        debs.append(shutil.move(path, folder))
        if not program:
            flags = ["--program", ROOT / "target/dist/systole"]
    return debs


def lint(deb):
    done = subprocess.run(["lintian", "--allow-root", "--fail-on", "error", "--display-info", deb], capture_output=True, text=True)
    check(done.returncode == 0, f"lintian:\n{done.stdout}{done.stderr}")
    say("".join(f"  lintian: {line}\n" for line in done.stdout.splitlines() if line.startswith("W:")) + "lintian finds no error")
    names = run("dpkg-deb", "--contents", deb)
    for path in ["usr/bin/systole", "lib/systemd/system/systole.service", "sysusers.d/systole.conf", "man1/systole.1.gz",
                 "man1/systole-presence-list.1.gz", "bash-completion/completions/systole", "vendor-completions/_systole",
                 "vendor_completions.d/systole.fish", "doc/systole/copyright", "doc/systole/changelog.gz", "doc/systole/changelog.Debian.gz",
                 "doc/systole/third-party-licenses.gz"]:
        check(path in names, f"{path} is in the package:\n{names}")


def default_configuration(machine):
    """What is commented out is right as well."""
    text = (ROOT / "packaging/debian/systole.toml").read_text()
    lines = [line[1:] if line[:1] == "#" and line[1:2] not in ("", " ") else line for line in text.splitlines()]
    # The listener that takes the place of the other one.
    lines = [line.replace("[::]:8125", "[::]:8126") for line in lines]
    check(len([line for line in lines if line == "[[listen]]"]) == 3, "three listeners")
    # A secret as its head says.
    install = next(line.lstrip("# ") for line in text.splitlines() if line.startswith("#   install "))
    machine.do("sh", "-c", f"echo of-a-test | {install}")
    path = pathlib.Path(machine.root) / "srv/whole.toml"
    path.write_text("\n".join(lines))
    said = machine.do("setpriv", "--reuid=systole", "--regid=systole", "--clear-groups", "systole", "check", "-c", "/srv/whole.toml")
    path.unlink()
    machine.do("rm", "/etc/systole/token")
    say(f"with all that is commented out: {said.strip().splitlines()[-1]}")


def works(machine):
    """It is there after the installation, without rights, and what is sent can be seen."""
    check(machine.ask("systemctl", "is-enabled", "systole").stdout == "enabled\n", "it starts with the machine")
    wait_for("a daemon that is ready", lambda: machine.ask("systole", "status", "--ready").returncode == 0, 30,
             else_say=lambda: machine.ask("journalctl", "-u", "systole").stdout)
    pid = machine.do("systemctl", "show", "--value", "-p", "MainPID", "systole").strip()
    owner = machine.do("stat", "-c", "%U", f"/proc/{pid}").strip()
    check(owner == "systole", f"it runs as {owner}")
    check(machine.do("stat", "-c", "%U %a", "/var/lib/systole") == "systole 700\n", "the state is its own")
    machine.do("systemd-analyze", "verify", "--man=no", "systole.service")
    exposure = machine.do("systemd-analyze", "security", "--threshold=20", "systole.service").splitlines()[-1]
    say(exposure)
    machine.do("systole", "check")
    as_documented(machine)
    machine.do("systole", "send", "pool.size:17|g")
    wait_for("the gauge in a scrape", lambda: machine.scrape("pool_size") == 17, 30)
    check(json.loads(machine.fetch("http://127.0.0.1:8127/api/v1/status"))["lines"]["metrics"] == 2, "and on the page")
    return pid


def as_documented(machine):
    """The commands of docs/installation.md print what stands there, once an interval has passed."""
    text = (ROOT / "docs/installation.md").read_text()
    block = text.split("## Debian")[1].split("```console\n")[1].split("```")[0]
    for step in block.split("$ ")[1:]:
        command, _, expected = step.partition("\n")
        wait_for(f"`{command}` to print {expected!r}", lambda: machine.ask("sh", "-c", command).stdout == expected, 30,
                 else_say=lambda: f"but {machine.ask('sh', '-c', command).stdout!r}")


def configure(machine):
    """As an administrator does: a second listener, in force by a reload, which refuses a mistake."""
    path = pathlib.Path(machine.root + CONFIG)
    text = path.read_text()
    path.write_text("[[listen]]\nurl = 8125\n")
    check(machine.ask("systemctl", "reload", "systole").returncode != 0, "a reload says that the configuration has a mistake")
    for line in ["[[listen]]", 'url = "unixgram:', 'mode = "0666"']:
        at = text.index(f"#{line}", text.index("# A socket in the file system"))
        text = text[:at] + text[at + 1:]
    path.write_text(text)
    machine.do("systole", "check")
    machine.do("systemctl", "reload", "systole")
    nobody = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
    send = [*nobody, "systole", "send", "by.socket:1|c", "--to", "unixgram:///run/systole/dsd.socket"]
    wait_for("a socket for everybody", lambda: machine.ask(*send).returncode == 0, else_say=lambda: machine.ask(*send).stderr)
    wait_for("its metric", lambda: machine.scrape("by_socket_total") == 1)
    return text


def upgrade(machine, pid):
    """To a higher version under load: what was known is known, and nothing that was sent is lost."""
    load = subprocess.Popen(machine.inside(["systole", "load", "--to", "udp://127.0.0.1:8125", "--profile", "counters", "--series", "10",
                                            "--rate", "2000", "--for", f"{LOAD_SECONDS}s"]), stdout=subprocess.PIPE, text=True)
    # In the middle of it.
    wait_for("the load", lambda: json.loads(machine.fetch("http://127.0.0.1:8127/api/v1/status") or "{}").get("lines", {}).get("metrics", 0) > 2000)
    before = machine.do("dpkg-query", "--show", "--showformat=${Version}", "systole")
    machine.do("dpkg", "--install", "/second.deb")
    check(load.poll() is None, "the upgrade falls into the load")
    after = machine.do("dpkg-query", "--show", "--showformat=${Version}", "systole")
    check(machine.ask("dpkg", "--compare-versions", after, "gt", before).returncode == 0, f"{after} is later than {before}")
    wait_for("the daemon after the upgrade", lambda: machine.ask("systole", "status", "--ready").returncode == 0)
    check(machine.do("systemctl", "show", "--value", "-p", "MainPID", "systole").strip() != pid, "another process")
    sent = json.loads(load.communicate()[0])
    machine.do("systole", "send", "pool.size:+5|g")
    wait_for("the gauge of before the upgrade", lambda: machine.scrape("pool_size") == 22, else_say=lambda: f"{machine.scrape('pool_size')}")

    def arrived():
        rows = [row.rsplit(" ", 1) for row in machine.fetch("http://127.0.0.1:9125/metrics").splitlines()]
        return sum(float(value) for name, value in rows if name.startswith("app_web_requests_"))
    wait_for("all of the load", lambda: arrived() == sent["counter_sum"], else_say=lambda: f"{arrived()} of {sent}")
    say(f"upgraded from {before} to {after}: the gauge is there, and all of {sent['lines']} lines")


def purge(machine, before, text):
    accounts = {name: pathlib.Path(f"{machine.root}/etc/{name}").read_text().splitlines() for name in ACCOUNTS}
    machine.do("dpkg", "--remove", "systole")
    check(machine.ask("systemctl", "is-active", "systole").stdout.strip() == "inactive", "it is stopped")
    check(pathlib.Path(machine.root + CONFIG).read_text() == text, "a removal keeps the configuration")
    check(os.listdir(machine.root + "/var/lib/systole"), "and the state")
    machine.do("dpkg", "--purge", "systole")
    left = machine.files() - before
    check(not left, f"a purge leaves {sorted(left)}")
    for name, lines in accounts.items():
        now = pathlib.Path(f"{machine.root}/etc/{name}").read_text().splitlines()
        check(now == lines, f"/etc/{name} is as it was")
        check([line for line in now if "systole" in line] == [now[-1]], f"one account in /etc/{name}")
    shadow = accounts["shadow"][-1].split(":")
    check(shadow[0] == "systole" and shadow[1].startswith("!"), "the account is locked")
    say("a purge leaves nothing but the locked account")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--systole", type=os.path.abspath)
    parser.add_argument("--keep", default="/var/tmp")
    args = parser.parse_args()
    check(os.geteuid() == 0, "a machine of its own takes root: sudo")
    with tempfile.TemporaryDirectory(prefix="systole-packages-") as folder:
        debs = build(args.systole, folder)
        say(f"{os.path.basename(debs[0])}: {os.path.getsize(debs[0])} bytes")
        lint(debs[0])
        root = make_root(args.keep)
        machine = None
        try:
            for deb, name in zip(debs, ["first", "second"]):
                shutil.copyfile(deb, f"{root}/{name}.deb")
            machine = Machine(root)
            before = machine.files()
            check(not any("systole" in path for path in before), "nothing of it is there yet")
            machine.do("dpkg", "--install", "/first.deb")
            pid = works(machine)
            default_configuration(machine)
            text = configure(machine)
            upgrade(machine, pid)
            check(pathlib.Path(root + CONFIG).read_text() == text, "an upgrade keeps the configuration")
            purge(machine, before, text)
        finally:
            if machine:
                machine.stop()
            shutil.rmtree(root)
            os.path.exists(f"{root}.log") and os.remove(f"{root}.log")


if __name__ == "__main__":
    main()
