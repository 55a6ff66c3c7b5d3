#!/usr/bin/env python3
"""A daemon under a steady load for a long time: memory and descriptors stay what they are after the first minutes, ticks come no later than
a process that only sleeps wakes, and nothing is lost.

  soak.py --systole PATH [--minutes 40] [--rate 20000] [--series 20000]

The daemon has an interval of 1 s, a file sink, a Prometheus sink that is scraped, a spool whose receiver is away for a minute in ten, a page
that is asked, and clients of TCP that come and go.
"""
import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

from common import Processes, Receiver, free_port, get_json, wait_for

# What of the time counts as the beginning: histories and caches fill.
WARM_UP = 0.25


class Control(threading.Thread):
    """Sleeps until each whole second, as the daemon does, in a process of its own; how late it wakes."""

    CODE = """import sys, time
while True:
    due = int(time.time()) + 1
    time.sleep(max(0, due - time.time()))
    print(time.time() - due, flush=True)
"""

    def __init__(self, processes):
        super().__init__(daemon=True)
        self.late = []
        self.process = subprocess.Popen([sys.executable, "-c", self.CODE], stdout=subprocess.PIPE, text=True)
        processes.all.append(self.process)

    def run(self):
        for line in self.process.stdout:
            self.late.append(float(line))


def churn(port, ended, sent):
    """A client of TCP that connects, sends some lines and leaves, again and again."""
    while not ended.wait(0.05):
        with socket.create_connection(("127.0.0.1", port), 5) as out:
            out.sendall(b"tcp:1|c\n" * 10)
            sent[0] += 10


def rss_kib(pid):
    for line in open(f"/proc/{pid}/status"):
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


def slope(values):
    """How much a line through the values rises from the first to the last, as a share of their mean (least squares)."""
    n, mean = len(values), statistics.fmean(values)
    middle = (n - 1) / 2
    rise = sum((at - middle) * (value - mean) for at, value in enumerate(values)) / sum((at - middle) ** 2 for at in range(n))
    return rise * (n - 1) / mean


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--systole", required=True, type=os.path.abspath)
    parser.add_argument("--minutes", type=float, default=40)
    parser.add_argument("--rate", type=int, default=20000)
    parser.add_argument("--series", type=int, default=20000)
    args = parser.parse_args()
    seconds, folder = args.minutes * 60, tempfile.mkdtemp(prefix="systole-soak-")
    udp, tcp, page, scrape = free_port(socket.SOCK_DGRAM), free_port(), free_port(), free_port()
    away = [False]
    receiver = Receiver(lambda *_: 503 if away[0] else 204)
    with open(f"{folder}/systole.toml", "w") as config:
        config.write(f"""interval = "1s"
state_dir = "{folder}/state"
state_interval = "10s"
[[listen]]
url = "udp://127.0.0.1:{udp}"
receive_buffer = "8MiB"
[[listen]]
url = "tcp://127.0.0.1:{tcp}"
[[sink]]
type = "file"
path = "/dev/null"
[[sink]]
type = "prometheus"
address = "127.0.0.1:{scrape}"
[[sink]]
type = "influx"
url = "http://127.0.0.1:{receiver.port}"
database = "systole"
include = ["tcp", "systole.*"]
spool = {{ path = "{folder}/spool" }}
[http]
address = "127.0.0.1:{page}"
# The history grows until it has as many intervals as it may: that is before memory is looked at. Minutes leave by the half hour.
[history]
intervals = 120
minutes = 0
""")
    with Processes() as processes:
        env = {**os.environ, "XDG_STATE_HOME": folder}
        daemon = processes.start([args.systole, "run", "-c", f"{folder}/systole.toml"], f"{folder}/log", env=env)
        url = f"http://127.0.0.1:{page}"
        wait_for("the daemon", lambda: get_json(f"{url}/api/v1/status"))
        control = Control(processes)
        control.start()
        load = processes.start([args.systole, "load", "--to", f"udp://127.0.0.1:{udp}", "--rate", str(args.rate), "--series", str(args.series),
                                "--profile", "mixed", "--lines-per-packet", "10", "--for", f"{seconds:.0f}s"], f"{folder}/load.json")
        ended, sent = threading.Event(), [0]
        client = threading.Thread(target=churn, args=(tcp, ended, sent), daemon=True)
        client.start()
        memory, holders, descriptors, late, last = [], [], [], [], None
        began = time.monotonic()
        while time.monotonic() - began < seconds - 2:
            time.sleep(1)
            passed = time.monotonic() - began
            away[0] = passed % 600 > 540 and passed < seconds - 120
            status = get_json(f"{url}/api/v1/status", 30)
            if status.get("as_of") != last:
                last = status.get("as_of")
                late.append(status["flush"]["late_secs"])
            if int(passed) % 5 == 0:
                with urllib.request.urlopen(f"http://127.0.0.1:{scrape}/metrics", timeout=30) as answer:
                    answer.read()
                memory.append(rss_kib(daemon.pid))
                holders.append({name: of["bytes"] for name, of in status["memory"]["holders"].items()} | {"all live": status["memory"]["live"]})
                descriptors.append(len(os.listdir(f"/proc/{daemon.pid}/fd")))
        load.wait(30)
        ended.set()
        client.join()
        lines = json.load(open(f"{folder}/load.json"))["lines"] + sent[0]
        status = wait_for("all lines", lambda: (lambda now: now if now["lines"]["metrics"] >= lines else None)(
            get_json(f"{url}/api/v1/status")), 30)
        spooled = wait_for("the spool", lambda: get_json(f"{url}/api/v1/status")["sinks"]["influx"]["spooled"] == 0, 60)
        daemon.terminate()
        code = daemon.wait(20)
        receiver.close()
    warm = slice(int(len(memory) * WARM_UP), None)
    rise, quantile = slope(memory[warm]), lambda all_, q: sorted(all_)[int(q * (len(all_) - 1))]
    jitter, beside = (quantile(late, 0.99), quantile(control.late, 0.99))
    print(f"{args.minutes:g} minutes at {args.rate} lines/s: memory {statistics.fmean(memory[warm]) / 1024:.0f} MiB, {rise * 100:+.2f} % from end to "
          f"end; descriptors {min(descriptors[warm])} to {max(descriptors[warm])}; ticks late by {quantile(late, 0.5) * 1e3:.2f} ms (median) and "
          f"{jitter * 1e3:.2f} ms (99 %), a process that only sleeps by {quantile(control.late, 0.5) * 1e3:.2f} and {beside * 1e3:.2f}; "
          f"completeness {status['completeness']}, {status['lines']['metrics']} of {lines} lines")
    def grown(name):
        """MiB that a holder has in the mean of the last tenth more than in that of the first tenth."""
        all_ = [of[name] for of in holders[warm]]
        tenth = max(1, len(all_) // 10)
        return (statistics.fmean(all_[-tenth:]) - statistics.fmean(all_[:tenth])) / (1 << 20)

    by_holder = {name: grown(name) for name in holders[-1]}
    print("of it, MiB:", ", ".join(f"{name} {more:+.2f}" for name, more in by_holder.items() if abs(more) >= 0.05))
    problems = []
    if abs(rise) > 0.02:
        problems.append(f"memory changes by {rise * 100:+.2f} %")
    if max(descriptors[warm]) - min(descriptors[warm]) > 8:
        problems.append("descriptors grow")
    if status["completeness"] != 1.0 or status["lines"]["metrics"] != lines or code != 0 or not spooled:
        problems.append(f"something is lost: {status['listeners']}, exit code {code}")
    if problems:
        sys.exit(f"FAILED: {'; '.join(problems)} (see {folder})")


if __name__ == "__main__":
    main()
