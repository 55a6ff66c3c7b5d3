#!/usr/bin/env python3
"""What happens to a daemon in a bad year, in minutes: kill -9, SIGSTOP, restarts, upgrades, good and bad configurations, a receiver that
fails or hangs, a full disk, floods. Senders with known totals go on all the while; afterwards nothing is counted twice, and nothing is
missing but what a kill may cost, which is stated.

  chaos.py --systole PATH [--seconds 60] [--seeds 1] [--first N]

The UDP socket is a service manager's, so that it outlives every process. A line over TCP or a unix stream counts as sent when it was written to
a connection that was open afterwards.
"""
import argparse
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time

from common import Processes, Receiver, free_port, get_json, records, wait_for

TOKEN = "secret"
INTERVAL = 1.0
# Lines a second of each sender.
RATE = 500
# A kill costs at most what came since the last interval was closed, and a moment for an interval that was on its way to the file.
GRACE = 0.3


def moment(secs):
    """The end of an interval, to the millisecond."""
    return round(secs, 3)


class Sender(threading.Thread):
    """Sends `NAME:1|c` at a rate over a transport, and remembers how many it had sent when."""

    def __init__(self, name, connect, is_stream):
        super().__init__(daemon=True)
        self.name, self.connect, self.is_stream = name, connect, is_stream
        self.sent, self.times, self.ended = 0, [], threading.Event()

    def has_closed(self, out):
        """Whether the other end has ended the connection."""
        out.setblocking(False)
        try:
            return out.recv(1) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True
        finally:
            out.settimeout(20)

    def run(self):
        out, began, due_before, unsure = None, time.monotonic(), 0, 0
        while not self.ended.wait(0.01):
            due = int((time.monotonic() - began) * RATE)
            count, due_before = min(due - due_before, 200), due
            try:
                if out is not None and self.is_stream and self.has_closed(out):
                    out.close()
                    out = None
                if out is None:
                    out = self.connect()
                lines = [f"{self.name}:1|c\n".encode()] * count
                for datagram in [b"".join(lines)] if self.is_stream else lines:
                    out.sendall(datagram)
                self.sent += count
            except OSError:
                # Nobody is there, or the connection has ended in the middle: some of these lines may have arrived.
                unsure += count if out is not None else 0
                out = None
            self.times.append((time.time(), self.sent, unsure))

    def sent_between(self, begin, end):
        """How many lines it sent between two times."""
        before = max((sent for at, sent, _ in self.times if at <= begin), default=0)
        return max((sent for at, sent, _ in self.times if at <= end), default=0) - before

    def unsure(self):
        return self.times[-1][2] if self.times else 0


class Chaos:
    def __init__(self, processes, systole, seed):
        self.processes, self.systole, self.rng = processes, systole, random.Random(seed)
        self.folder = tempfile.mkdtemp(prefix=f"systole-chaos-{seed}-")
        self.page, self.tcp, self.unix = free_port(), free_port(), f"{self.folder}/stream.sock"
        self.records, self.config, self.log = (f"{self.folder}/{name}" for name in ("records.jsonl", "systole.toml", "log"))
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 << 20)
        self.udp.bind(("127.0.0.1", 0))
        self.mode, self.received, self.lock = "takes", {}, threading.Lock()
        self.receiver = Receiver(self.take)
        self.kills, self.deaths, self.done, self.pid, self.process = [], [], {}, None, None
        self.keeps_open = self.rng.random() < 0.5
        self.write(self.good())
        self.start()

    def take(self, _path, _headers, body):
        """A receiver of line protocol: it takes an interval, fails, or hangs."""
        if self.mode == "fails":
            return 503
        if self.mode == "hangs":
            time.sleep(3)
            return 503
        with self.lock:
            for line in body.decode().splitlines():
                # What presence says goes to every sink.
                if line.startswith("sent."):
                    series, fields, at = line.rsplit(" ", 2)
                    value = next(field[6:] for field in fields.split(",") if field.startswith("value="))
                    self.received.setdefault((moment(int(at) / 1e3), series.split(",")[0]), []).append(float(value))
        return 204

    def good(self):
        return f"""interval = "{INTERVAL:g}s"
gauge_ttl = "1h"
state_dir = "{self.folder}/state"
state_interval = "1s"
keep_open_interval = {str(self.keeps_open).lower()}
percentiles = [{self.rng.choice(['50', '90', '50, 99'])}]
[[listen]]
url = "fd://statsd"
[[listen]]
url = "tcp://127.0.0.1:{self.tcp}"
[[listen]]
url = "unix://{self.unix}"
[[rule]]
match = "flood.{self.rng.randrange(10)}.*"
drop = true
[[sink]]
type = "file"
path = "{self.records}"
[[sink]]
type = "influx"
name = "spooled"
url = "http://127.0.0.1:{self.receiver.port}"
database = "systole"
timeout = "2s"
include = ["sent.*"]
spool = {{ path = "{self.folder}/spool", rate = 0 }}
[http]
address = "127.0.0.1:{self.page}"
token = "{TOKEN}"
[presence]
state_file = "{self.folder}/presence.json"
"""

    def write(self, text):
        with open(self.config + ".new", "w") as out:
            out.write(text)
        os.replace(self.config + ".new", self.config)

    def start(self):
        fd = self.udp.fileno()
        command = ["bash", "-c", f'export LISTEN_PID=$$; exec "$@" {f"3<&{fd} {fd}<&-" if fd != 3 else ""}', "bash",
                   self.systole, "run", "-c", self.config]
        env = {**os.environ, "LISTEN_FDS": "1", "LISTEN_FDNAMES": "statsd", "XDG_STATE_HOME": self.folder}
        self.process = self.processes.start(command, self.log, pass_fds=[fd], env=env)
        self.pid = self.process.pid
        self.wait_ready()

    def wait_ready(self):
        wait_for("the daemon", lambda: self.status()["pid"] == self.pid, 30, 0.02, lambda: f"(see {self.folder})")

    def status(self):
        return get_json(f"http://127.0.0.1:{self.page}/api/v1/status", 5)

    def alive(self):
        """Whether any thread of it is: the last one closes the sockets, and that may be another than the first."""
        try:
            state = open(f"/proc/{self.pid}/stat").read().rsplit(")", 1)[1].split()[0]
            return state not in "ZX" or len(os.listdir(f"/proc/{self.pid}/task")) > 1
        except OSError:
            return False

    def end(self, number):
        os.kill(self.pid, number)
        wait_for("the end of the daemon", lambda: not self.alive(), 40, 0.01, lambda: f"(see {self.folder})")

    # What happens.

    def restart(self):
        self.end(signal.SIGTERM)
        time.sleep(self.rng.choice([0, 0.3, 1.5]))
        self.start()

    def kill(self):
        self.kills.append(time.time())
        self.end(signal.SIGKILL)
        self.deaths.append(time.time())
        time.sleep(self.rng.choice([0, 0.5, 2]))
        self.start()

    def stand_still(self):
        os.kill(self.pid, signal.SIGSTOP)
        time.sleep(self.rng.uniform(0.2, 3))
        os.kill(self.pid, signal.SIGCONT)

    def upgrade(self):
        os.kill(self.pid, signal.SIGUSR2)
        before = self.pid

        def other():
            status = self.status()
            return status["pid"] if status["pid"] != before else None
        self.pid = wait_for("another process", other, 30, 0.05, lambda: f"(see {self.folder})")
        wait_for("the end of the one before", lambda: not os.path.exists(f"/proc/{before}") or "Z" in
                 open(f"/proc/{before}/stat").read().rsplit(")", 1)[1].split()[0], 20)

    def upgrade_badly(self):
        self.write(self.good() + "nonsense = 1\n")
        os.kill(self.pid, signal.SIGUSR2)
        time.sleep(0.5)
        self.write(self.good())

    def reload(self):
        self.write(self.good())
        os.kill(self.pid, signal.SIGHUP)
        time.sleep(self.rng.uniform(0, 1.5))

    def reload_badly(self):
        good = self.good()
        self.write(self.rng.choice([good + "nonsense = 1\n", good.replace("file", "fil"), good[:len(good) // 2] + "[", ""]))
        if open(self.config).read():
            os.kill(self.pid, signal.SIGHUP)
            time.sleep(0.3)
        self.write(good)

    def fail(self):
        self.mode = self.rng.choice(["fails", "hangs"])
        time.sleep(self.rng.uniform(0.5, 4))
        self.mode = "takes"

    def flood(self):
        out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        until = time.monotonic() + 1
        while time.monotonic() < until:
            for n in range(200):
                out.sendto(b"flood.%d.%d:1|c" % (n % 20, self.rng.randrange(5000)), self.udp.getsockname())
            time.sleep(0.002)

    def run(self, seconds):
        acts = [self.restart, self.kill, self.kill, self.stand_still, self.upgrade, self.upgrade, self.upgrade_badly, self.reload,
                self.reload, self.reload_badly, self.fail, self.fail, self.flood]
        senders = [Sender("sent.udp", self.over_udp, False), Sender("sent.tcp", self.over_tcp, True),
                   Sender("sent.unix", self.over_unix, True)]
        self.over_udp().sendall(b"standing:7|g")
        for sender in senders:
            sender.start()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(self.rng.uniform(0.1, 2))
            act = self.rng.choice(acts)
            self.done[act.__name__] = self.done.get(act.__name__, 0) + 1
            with open(self.log, "a") as log:
                log.write(f"--- {time.strftime('%H:%M:%S')} {act.__name__}\n")
            act()
        for sender in senders:
            sender.ended.set()
            sender.join()
        time.sleep(2 * INTERVAL)
        wait_for("the spool", lambda: self.status()["sinks"]["spooled"]["spooled"] == 0, 60, 0.2, lambda: f"(see {self.folder})")
        ended = time.time()
        self.end(signal.SIGTERM)
        return self.check(senders, ended)

    def over_udp(self):
        out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        out.connect(self.udp.getsockname())
        return out

    def over_tcp(self):
        return socket.create_connection(("127.0.0.1", self.tcp), 5)

    def over_unix(self):
        out = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        out.settimeout(5)
        out.connect(self.unix)
        return out

    def check(self, senders, ended):
        found = list(records(self.records))
        ledgers = [record for record in found if record["type"] == "ledger"]
        ends = [record["time"] for record in ledgers]
        drops = sum(listener["kernel_drops"] for record in ledgers for listener in record["listeners"])
        problems = []
        if len(set(ends)) != len(ends):
            problems.append(f"intervals twice: {sorted(end for end in set(ends) if ends.count(end) > 1)}")
        # What each kill may cost: everything since the last interval that was in the file before it.
        gaps = [(max((end for end in ends if end <= kill), default=0) - GRACE, kill + GRACE) for kill in self.kills]
        for sender in senders:
            got = sum(record["value"] for record in found if record["type"] == "counter" and record["name"] == sender.name)
            may_miss = sum(sender.sent_between(*gap) for gap in gaps) + (drops if sender.name == "sent.udp" else 0)
            if not sender.sent - may_miss <= got <= sender.sent + sender.unsure():
                problems.append(f"{sender.name}: {sender.sent} sent ({sender.unsure()} more perhaps), {got:.0f} in the records; "
                                f"{len(self.kills)} kills may cost {may_miss}, {drops} dropped by the kernel")
        said = {record["time"]: record["unclean_stop"] for record in ledgers if record.get("unclean_stop") is not None}
        # The first interval after a kill tells of it; of two kills before an interval is closed, it tells of both.
        told = {}
        for death in self.deaths:
            told.setdefault(min((end for end in ends if end > death), default=None), []).append(death)
        if set(said) != set(told):
            problems.append(f"kills are to be told at {sorted(set(told) - set(said))}, and are at {sorted(set(said) - set(told))}")
        for end, kills in told.items():
            if said.get(end, 0) < kills[-1] - kills[0]:
                problems.append(f"the interval of {end} says unclean_stop {said[end]}, of kills until {kills}")
        gauges = {record["time"]: record["value"] for record in found if record["type"] == "gauge" and record["name"] == "standing"}
        missing = [end for end in ends[1:] if gauges.get(end) != 7]
        if missing:
            problems.append(f"the gauge does not stand in {len(missing)} intervals of {len(ends)}, first at {missing[0]}")
        # The receiver of the spool: every interval that the file has, with the same value however often it came.
        for (end, name), values in self.received.items():
            if len(set(values)) != 1:
                problems.append(f"the spool has delivered {name} of {end} with several values: {values}")
        for record in found:
            if record["type"] == "counter" and record["name"].startswith("sent.") and (moment(record["time"]), record["name"]) not in self.received:
                near = any(abs(record["time"] - kill) < 2 * INTERVAL for kill in self.kills)
                if not near:
                    problems.append(f"the spool lacks {record['name']} of {record['time']}")
        twice = sum(len(values) - 1 for values in self.received.values())
        text = (f"{sum(self.done.values())} acts {self.done}, keep_open_interval {self.keeps_open}: {sum(sender.sent for sender in senders)} "
                f"lines, {len(ends)} intervals, {twice} series delivered again with the same value")
        return problems, text


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--systole", required=True, type=os.path.abspath)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first", type=int, default=int(time.time()))
    args = parser.parse_args()
    for seed in range(args.first, args.first + args.seeds):
        with Processes() as processes:
            chaos = Chaos(processes, args.systole, seed)
            try:
                problems, text = chaos.run(args.seconds)
            finally:
                if chaos.alive():
                    os.kill(chaos.pid, signal.SIGKILL)
                chaos.receiver.close()
        if problems:
            sys.exit(f"FAILED: seed {seed}: " + "\n".join(problems[:10]) + f"\n{text} (see {chaos.folder})")
        print(f"seed {seed}: {text}", flush=True)
        shutil.rmtree(chaos.folder)


if __name__ == "__main__":
    main()
