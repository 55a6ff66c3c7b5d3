#!/usr/bin/env python3
"""Upgrades under load: one process hands over to the next, again and again, and every line that was sent is in the records.

  upgrades.py --systole PATH [--upgrades 5] [--seconds 20] [--rate 50000] [--tcp-rate 5000] [--series 1000]

UDP comes at --rate lines a second and TCP at --tcp-rate; clients of TCP connect anew when they see that the other end has closed.
Three services send heartbeats meanwhile.
"""
import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

from common import Processes, free_port, get_json, records, wait_for

TOKEN = "secret"
SERVICES = 3
# The kernel holds this much while nobody reads.
BUFFER = "32MiB"


class Chatter(threading.Thread):
    """Sends lines over TCP at a rate, and looks before each send whether the other end has closed."""

    def __init__(self, port, rate):
        super().__init__(daemon=True)
        self.port, self.rate, self.lines, self.ended = port, rate, 0, threading.Event()

    def run(self):
        stream, began = None, time.monotonic()
        while not self.ended.wait(0.005):
            due = int((time.monotonic() - began) * self.rate) - self.lines
            if stream is not None:
                stream.setblocking(False)
                try:
                    if not stream.recv(1):
                        stream.close()
                        stream = None
                except BlockingIOError:
                    pass
            if stream is None:
                stream = socket.create_connection(("127.0.0.1", self.port), 5)
            stream.settimeout(10)
            count = min(due, 2000)
            stream.sendall(b"tcp:1|c\n" * count)
            self.lines += count
        if stream is not None:
            stream.close()


class Beats(threading.Thread):
    """Heartbeats of some services, twice a second."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.port, self.ended, self.lines = port, threading.Event(), 0

    def run(self):
        out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        while not self.ended.wait(0.5):
            for n in range(SERVICES):
                out.sendto(f"heartbeat.svc{n}.one:2|g".encode(), ("127.0.0.1", self.port))
                self.lines += 1


def alive(pid):
    try:
        return open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def check_intervals(found):
    """No interval twice, rates that fit, lengths that add up."""
    ledgers = [record for record in found if record["type"] == "ledger"]
    ends = [record["time"] for record in ledgers]
    if len(set(ends)) != len(ends) or sorted(ends) != ends:
        sys.exit(f"FAILED: intervals come twice or out of order: {ends}")
    lengths = sum(record["interval"] for record in ledgers[1:])
    if abs(lengths - (ends[-1] - ends[0])) > 0.05 * len(ends) ** 0.5:
        sys.exit(f"FAILED: {len(ends)} intervals are {lengths:.3f} s together, but {ends[-1] - ends[0]:.3f} s have passed")
    for record in found:
        if record["type"] == "counter" and abs(record["rate"] * record["interval"] - record["value"]) > 1e-6 * record["value"]:
            sys.exit(f"FAILED: {record}")
    changes = [record for record in found if record["type"] == "presence" and record.get("to") in ("down", "late", "left")]
    return len(ledgers), changes


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--systole", required=True, type=os.path.abspath)
    parser.add_argument("--upgrades", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rate", type=int, default=50000)
    parser.add_argument("--tcp-rate", type=int, default=5000)
    parser.add_argument("--series", type=int, default=1000)
    args = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="systole-upgrades-")
    port, tcp, page, out = free_port(socket.SOCK_DGRAM), free_port(), free_port(), f"{folder}/records.jsonl"
    with open(f"{folder}/systole.toml", "w") as config:
        config.write(f'interval = "1s"\n[[listen]]\nurl = "udp://127.0.0.1:{port}"\nreceive_buffer = "{BUFFER}"\n[[listen]]\n'
                     f'url = "tcp://127.0.0.1:{tcp}"\n[[sink]]\ntype = "file"\npath = "{out}"\n[http]\naddress = "127.0.0.1:{page}"\n'
                     f'token = "{TOKEN}"\n')
    url = f"http://127.0.0.1:{page}"
    heirs = []
    with Processes() as processes:
        env = {**os.environ, "XDG_STATE_HOME": folder}
        first = processes.start([args.systole, "run", "-c", f"{folder}/systole.toml"], f"{folder}/log", env=env)
        try:
            wait_for("the daemon", lambda: get_json(f"{url}/api/v1/status"))
            load = subprocess.Popen(
                [args.systole, "load", "--to", f"udp://127.0.0.1:{port}", "--rate", str(args.rate), "--series", str(args.series),
                 "--lines-per-packet", "10", "--for", f"{args.seconds}s"], stdout=subprocess.PIPE, text=True)
            chatter, beats = Chatter(tcp, args.tcp_rate), Beats(port)
            chatter.start()
            beats.start()
            worst = slowest = 0.0
            pid = first.pid
            for _ in range(args.upgrades):
                time.sleep(args.seconds / (args.upgrades + 1))
                said = subprocess.run([args.systole, "upgrade", "--url", url, "--token", TOKEN], capture_output=True, text=True, timeout=90)
                if said.returncode != 0:
                    sys.exit(f"FAILED: {said.stdout}{said.stderr}(see {folder})")
                status = get_json(f"{url}/api/v1/status")
                if status["pid"] == pid or not status["upgrade"]["is_clean"]:
                    sys.exit(f"FAILED: {status['upgrade']} (see {folder})")
                pid = status["pid"]
                heirs.append(pid)
                worst, slowest = max(worst, status["upgrade"]["pause_secs"]), max(slowest, status["upgrade"]["took_secs"])
            sent = json.loads(load.communicate(timeout=args.seconds + 60)[0])
            for thread in (chatter, beats):
                thread.ended.set()
                thread.join()
            time.sleep(1.5)
            os.kill(pid, signal.SIGTERM)
            wait_for("the end of the last process", lambda: not alive(pid))
        finally:
            for heir in heirs:
                if alive(heir):
                    os.kill(heir, signal.SIGKILL)
    found = list(records(out))
    sums = {}
    for record in found:
        if record["type"] == "counter" and not record["name"].startswith("systole."):
            kind = "tcp" if record["name"] == "tcp" else "udp"
            sums[kind] = sums.get(kind, 0) + record["value"]
    ledgers = [record for record in found if record["type"] == "ledger"]
    drops = sum(listener["kernel_drops"] for record in ledgers for listener in record["listeners"])
    read = sum(record["lines"]["metrics"] for record in ledgers)
    beaten = sum(record["lines"]["heartbeats"] for record in ledgers)
    intervals, changes = check_intervals(found)
    if drops or read != sent["lines"] + chatter.lines or sums["tcp"] != chatter.lines or beaten != beats.lines or changes:
        sys.exit(f"FAILED: sent {sent['lines']} by UDP and {chatter.lines} by TCP; read {read}, sums {sums}, {drops} dropped; heartbeats "
                 f"{beats.lines} and {beaten}; changes {changes[:3]} (see {folder})")
    if worst > 0.3:
        sys.exit(f"FAILED: a pause of {worst:.3f} s (see {folder})")
    print(f"{args.upgrades} upgrades under {args.rate} lines/s by UDP and {args.tcp_rate} by TCP: all {read} lines and {beaten} heartbeats "
          f"once, {drops} dropped, {intervals} intervals; pause {worst * 1e3:.0f} ms at most, the old process gone after {slowest:.2f} s at most")


if __name__ == "__main__":
    main()
