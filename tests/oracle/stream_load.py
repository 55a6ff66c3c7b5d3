#!/usr/bin/env python3
"""What those who look cost the receive thread: its CPU time per million lines with clients beside without, interleaved.

  stream_load.py --systole PATH [--rate LINES] [--series N] [--rounds N] [--seconds N] [--clients N] [--tops N] [--tails N]
                 [--interval DUR]

A daemon with one receive worker gets a steady load, about half of what it takes, of counters with as many names as given. In
every second round clients follow `/api/v1/stream`, each with a hundred series of its own, `--tops` terminals show `systole top`, and
`--tails` look at lines. Nothing may be dropped, every client must have had each interval, and with no tails the CPU time per line may
be 1.05 times that without.
"""
import argparse
import fcntl
import http.client
import json
import os
import pty
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
import urllib.request

from common import free_port

MOST = 1.05


class Client(threading.Thread):
    """Reads a stream, and counts the intervals and what was missed."""

    def __init__(self, port, path):
        super().__init__(daemon=True)
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self.connection.request("GET", path, headers={"Accept": "text/event-stream"})
        self.answer = self.connection.getresponse()
        if self.answer.status != 200:
            raise SystemExit(f"FAILED: {path} answers {self.answer.status}")
        self.intervals, self.missed, self.rows = 0, 0, 0

    def run(self):
        name = b""
        try:
            for row in self.answer:
                if row.startswith(b"event: "):
                    name = row[7:].strip()
                    self.intervals += name == b"interval"
                    self.rows += 1
                elif row.startswith(b"data: ") and name == b"gap":
                    self.missed += json.loads(row[6:])["missed"]
        except (OSError, ValueError, AttributeError):
            # It was closed.
            pass

    def close(self):
        self.connection.sock and self.connection.sock.close()
        self.answer.close()


class Top:
    """`systole top` in a terminal of 200 x 50 that is read and not looked at."""

    def __init__(self, systole, port):
        self.terminal, inner = pty.openpty()
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
        self.process = subprocess.Popen([systole, "top", "--url", f"http://127.0.0.1:{port}"], stdin=inner, stdout=inner, stderr=inner,
                                        start_new_session=True)
        os.close(inner)
        self.shown = 0

    def start(self):
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        try:
            while seen := os.read(self.terminal, 1 << 16):
                self.shown += len(seen)
        except OSError:
            # It has ended.
            pass

    def close(self):
        ended = self.process.poll()
        self.process.terminate()
        self.process.wait()
        os.close(self.terminal)
        if ended is not None or self.shown < 5000:
            raise SystemExit(f"FAILED: top ended with {ended} after it had shown {self.shown} bytes")


def status(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/status", timeout=20) as answer:
        return json.loads(answer.read())


def receive_cpu(pid, name):
    """Nanoseconds that the thread of this name has run."""
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/comm") as comm:
            if comm.read().strip() == name:
                with open(f"/proc/{pid}/task/{task}/schedstat") as schedstat:
                    return int(schedstat.read().split()[0])
    raise SystemExit(f"FAILED: no thread {name}")


def measure(pid, udp, http_port, seconds):
    """CPU seconds of the receive thread per million lines over a while."""
    name = f"udp-{udp}-0"
    before, began = status(http_port)["lines"]["read"], receive_cpu(pid, name)
    time.sleep(seconds)
    cpu, lines = receive_cpu(pid, name) - began, status(http_port)["lines"]["read"] - before
    return cpu / 1e9 / (lines / 1e6), lines / seconds


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--systole", required=True)
    parser.add_argument("--rate", type=int, default=200_000)
    parser.add_argument("--series", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=12)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--tops", type=int, default=3)
    parser.add_argument("--tails", type=int, default=0)
    parser.add_argument("--interval", default="2s")
    args = parser.parse_args()
    udp, http_port = free_port(), free_port()
    folder = tempfile.mkdtemp()
    config = os.path.join(folder, "systole.toml")
    with open(config, "w") as file:
        file.write(
            f'interval = "{args.interval}"\n[[listen]]\nurl = "udp://127.0.0.1:{udp}"\nworkers = 1\n'
            f'[[sink]]\ntype = "file"\npath = "/dev/null"\n[http]\naddress = "127.0.0.1:{http_port}"\n'
        )
    environment = {**os.environ, "XDG_STATE_HOME": folder}
    daemon = subprocess.Popen([args.systole, "run", "-c", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    length = args.rounds * (args.seconds + 4) + 20
    load = None
    try:
        for _ in range(100):
            try:
                status(http_port)
                break
            except OSError:
                time.sleep(0.1)
        load = subprocess.Popen(
            [args.systole, "load", "--to", f"udp://127.0.0.1:{udp}", "--series", str(args.series), "--lines-per-packet", "20",
             "--rate", str(args.rate), "--for", f"{int(length)}s"], stdout=subprocess.DEVNULL)
        time.sleep(5)
        with urllib.request.urlopen(f"http://127.0.0.1:{http_port}/api/v1/snapshot?kind=counter&limit={args.clients * 100}", timeout=60) as answer:
            names = [record["name"] for record in json.loads(answer.read()) if not record["name"].startswith("systole.")]
        found = {False: [], True: []}
        for number in range(args.rounds):
            has_clients, clients = number % 2 == 1, []
            if has_clients:
                for n in range(args.clients):
                    own = names[n * 100:(n + 1) * 100]
                    clients.append(Client(http_port, "/api/v1/stream?" + "&".join(f"id=counter:{name}" for name in own)))
                clients += [Top(args.systole, http_port) for _ in range(args.tops)]
                clients += [Client(http_port, "/api/v1/tail") for _ in range(args.tails)]
            for client in clients:
                client.start()
            time.sleep(2)
            cost, rate = measure(daemon.pid, udp, http_port, args.seconds)
            found[has_clients].append(cost)
            print(f"{'with' if has_clients else 'without'} clients: {cost:.4f} CPU seconds a million lines, at {rate:,.0f} lines/s")
            for client in clients[:args.clients]:
                if client.intervals < 2 or client.missed:
                    raise SystemExit(f"FAILED: a client had {client.intervals} intervals and missed {client.missed}")
            for client in clients:
                client.close()
        drops = status(http_port)["listeners"][0]["kernel_drops"]
        ratio = statistics.median(found[True]) / statistics.median(found[False])
        print(f"the receive thread takes {ratio:.3f} times as long with {args.clients} streams, {args.tops} tops and {args.tails} tails; {drops} datagrams dropped")
        if drops or (args.tails == 0 and ratio > MOST):
            raise SystemExit("FAILED: more than that is too much")
    finally:
        for process in [load, daemon]:
            if process:
                process.terminate()
                process.wait()


if __name__ == "__main__":
    sys.exit(main())
