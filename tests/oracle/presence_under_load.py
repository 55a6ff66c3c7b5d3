#!/usr/bin/env python3
"""Presence while the daemon is overwhelmed: 200 instances beat every 2 s, none of them dies, and none may be called down.

  presence_under_load.py --systole PATH [--seconds N]

(a) another listener gets several times the metrics that the daemon can take; (b) the listener of the heartbeats itself
loses about a fifth of its datagrams in the kernel. The daemon shares core 0 with busy processes, the load comes from core 1.
"""
import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

from common import free_port

INSTANCES = 200
SERVICES = 10
PROMISE = 2
BUSY = "import time\nwhile True:\n    sum(range(1000))"


class Beats(threading.Thread):
    """Sends every instance's beat in its own phase of the promise."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.port, self.stopped = port, False

    def run(self):
        out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        began, n = time.monotonic(), 0
        while not self.stopped:
            line = f"heartbeat.service-{n % SERVICES}.i{n % INSTANCES}:{PROMISE}|g"
            out.sendto(line.encode(), ("127.0.0.1", self.port))
            n += 1
            time.sleep(max(0.0, began + n * PROMISE / INSTANCES - time.monotonic()))


def get(port, path):
    for _ in range(20):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
                return json.loads(answer.read())
        except OSError:
            time.sleep(0.2)
    raise SystemExit(f"FAILED: {path} does not answer")


def totals(port, url):
    listeners = get(port, "/api/v1/status")["listeners"]
    mine = next(l for l in listeners if l["url"] == url)
    return mine["datagrams"], mine["kernel_drops"]


def run(systole, seconds, own_listener):
    folder = tempfile.mkdtemp(prefix="systole-load-")
    beats_port, load_port = free_port(socket.SOCK_DGRAM), free_port(socket.SOCK_DGRAM)
    http = free_port(socket.SOCK_STREAM)
    small = 'receive_buffer = "64KiB"\nreceive_buffer_force = false\n' if own_listener else ""
    config = f'interval = "1s"\n[[listen]]\nurl = "udp://127.0.0.1:{beats_port}"\nworkers = 1\n{small}'
    if not own_listener:
        config += f'[[listen]]\nurl = "udp://127.0.0.1:{load_port}"\nworkers = 1\n'
    config += f'[[sink]]\ntype = "file"\npath = "{folder}/records.jsonl"\n[http]\naddress = "127.0.0.1:{http}"\n'
    config += '[presence]\nstate_file = "off"\n'
    with open(f"{folder}/systole.toml", "w") as out:
        out.write(config)
    target = beats_port if own_listener else load_port
    url = f"udp://127.0.0.1:{target}"
    log = open(f"{folder}/systole.log", "wb")
    children = []
    try:
        children.append(subprocess.Popen(["taskset", "-c", "0", systole, "run", "-c", f"{folder}/systole.toml"],
                                         stdout=log, stderr=log))
        get(http, "/api/v1/status")
        beats = Beats(beats_port)
        beats.start()
        began = time.time()
        while sum(s["present"] for s in get(http, "/api/v1/presence")) < INSTANCES:
            if time.time() - began > 30:
                raise SystemExit("FAILED: not everybody is up")
            time.sleep(0.2)
        time.sleep(5 * PROMISE)
        busy = 2 if own_listener else 8
        children += [subprocess.Popen(["taskset", "-c", "0", sys.executable, "-c", BUSY]) for _ in range(busy)]
        before = totals(http, url)
        rate, end = 150_000, time.time() + seconds
        while time.time() < end:
            # In slices, so that the share that is lost can be held near a fifth.
            at = totals(http, url)
            arguments = ["--rate", str(int(rate))] if own_listener else []
            length = 4 if own_listener else min(20, seconds)
            subprocess.run(["taskset", "-c", "1", systole, "load", "--to", url, "--profile", "mixed", "--series", "10000",
                            "--lines-per-packet", "1" if own_listener else "20", "--for", f"{length}s", *arguments],
                           check=True, stdout=subprocess.DEVNULL)
            time.sleep(1.1)
            now = totals(http, url)
            read, lost = now[0] - at[0], now[1] - at[1]
            share = lost / max(1, read + lost)
            rate *= 0.7 if share > 0.3 else 0.9 if share > 0.22 else 1.4 if share < 0.1 else 1.1 if share < 0.18 else 1
        after = totals(http, url)
        time.sleep(4 * PROMISE + 3)
        events = get(http, "/api/v1/presence/events")
        present = sum(s["present"] for s in get(http, "/api/v1/presence"))
        beats.stopped = True
    finally:
        for child in children:
            child.kill()
        for child in children:
            child.wait()
    read, lost = after[0] - before[0], after[1] - before[1]
    downs = [e["text"] for e in events if e.get("to") in ("down", "degraded") or e["kind"] == "mass_silence"]
    late = sum(1 for e in events if e.get("to") == "late")
    what = "its own listener" if own_listener else "another listener"
    print(f"{what}: {seconds} s, {read} datagrams read, {lost} lost by the kernel ({100 * lost / max(1, read + lost):.0f} %, "
          f"offered {(read + lost) / max(1, read):.1f} x taken), {late} late, {len(downs)} false downs, {present} present", flush=True)
    problems = downs[:5]
    if present != INSTANCES:
        problems.append(f"{present} present")
    # An overload that is none shows nothing.
    if own_listener and not 0.1 <= lost / max(1, read + lost) <= 0.5:
        problems.append("the kernel did not lose about a fifth")
    if not own_listener and read + lost < 3 * read:
        problems.append("the load was less than three times what was taken")
    return problems


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--systole", required=True)
    parser.add_argument("--seconds", type=int, default=60)
    args = parser.parse_args()
    systole = os.path.abspath(args.systole)
    problems = run(systole, args.seconds, False) + run(systole, args.seconds, True)
    if problems:
        raise SystemExit(f"FAILED: {problems}")


if __name__ == "__main__":
    main()
