#!/usr/bin/env python3
"""Reloads under load: the configuration is changed again and again, half of the times into a broken one. Every line that was sent is
counted, no interval comes twice or is split, a counter that is scraped never falls, and in the end what is in force is what a fresh
start with the file has.

  reloads.py --systole PATH [--reloads 20] [--seconds 15] [--rate 5000]
"""
import argparse
import json
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

from common import Processes, free_port, get_json, records, wait_for

TOKEN = "secret"
# Configurations that cannot be in force.
BROKEN = ["nonsense = 1\n", "percentiles = [50\n", '[[sink]]\nname = "x"\ntype = "file"\npath = "/proc/no/such"\n',
          '[[listen]]\nurl = "tcp://127.0.0.1:TAKEN"\n', "[[rule]]\nmatch = 7\n"]


class Load(threading.Thread):
    """Sends lines over TCP at a rate, on a new connection every second or so."""

    def __init__(self, port, rate):
        super().__init__(daemon=True)
        self.port, self.rate, self.lines, self.ended = port, rate, 0, threading.Event()

    def run(self):
        began, stream, turn = time.monotonic(), None, 0
        while not self.ended.wait(0.005):
            count = min(int((time.monotonic() - began) * self.rate) - self.lines, 2000)
            if turn % 200 == 0:
                if stream is not None:
                    stream.close()
                stream = socket.create_connection(("127.0.0.1", self.port), 10)
            turn += 1
            stream.sendall(b"".join(f"load.{n % 50}:1|c\n".encode() for n in range(count)))
            self.lines += count
        stream.close()


def configuration(rng, folder, ports, page):
    """One that is good: what the load goes through stays, the rest is by chance."""
    root = ['interval = "500ms"', f"percentiles = {rng.choice(['[50]', '[50, 99]', '[90.5]'])}", f"max_series = {rng.choice([5000, 9000])}",
            f'gauge_ttl = "{rng.choice([5, 60])}s"', f"self_metrics = {rng.choice(['true', 'false'])}"]
    tables = [f'[http]\naddress = "127.0.0.1:{page}"\ntoken = "{TOKEN}"\nhosts = ["{rng.choice(["a", "b"])}.example"]\n',
              f'[log]\nlevel = "{rng.choice(["info", "debug"])}"\n',
              f'[[listen]]\nurl = "tcp://127.0.0.1:{ports["load"]}"\nidle_timeout = "{rng.choice([60, 90])}s"\n'
              f'max_datagram = {rng.choice([8192, 65536])}\n',
              f'[[sink]]\nname = "main"\ntype = "file"\npath = "{folder}/main.jsonl"\nqueue = {rng.choice([50, 60])}\n',
              f'[[sink]]\nname = "scrape"\ntype = "prometheus"\naddress = "127.0.0.1:{ports["scrape"]}"\nttl = "{rng.choice([1, 2])}h"\n',
              f'[[presence.service]]\nmatch = "svc*"\nephemeral = {rng.choice(["true", "false"])}\n']
    if rng.random() < 0.5:
        tables.append(f'[[listen]]\nurl = "udp://127.0.0.1:{ports["more"]}"\nworkers = 1\n')
    if rng.random() < 0.5:
        tables.append(f'[[sink]]\nname = "more"\ntype = "file"\npath = "{folder}/more.jsonl"\n')
    if rng.random() < 0.5:
        tables.append(f'[[relay]]\nname = "copy"\ntargets = ["127.0.0.1:{ports["copy"]}"]\n')
    for rule in rng.sample(['match = "load.1*"\nrename = "moved.1$1"', 'match = "load.2*"\nadd_tags = { by = "rule" }',
                            'match = "load.3*"\ninterval = 4', 'match = "other.*"\ndrop = true'], rng.randrange(4)):
        tables.append(f"[[rule]]\n{rule}\n")
    return "\n".join(root) + "\n" + "".join(tables)


def reload(systole, url):
    said = subprocess.run([systole, "reload", "--json", "--url", url, "--token", TOKEN], capture_output=True, text=True, timeout=90)
    try:
        return said.returncode == 0, json.loads(said.stdout)
    except ValueError:
        sys.exit(f"FAILED: {said.stdout}{said.stderr}")


def in_force(url):
    return get_json(f"{url}/api/v1/config")["settings"]


def scraped(port):
    """The sum of all counters of the load. While the sink changes, its port is closed for a moment."""
    return wait_for("a scrape", lambda: (scrape(port),))[0]


def scrape(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return sum(float(value) for value in re.findall(r"^(?:load|moved)_\S+ (\S+)$", text, re.M))


def check(found, sent, extra):
    """All lines once, and intervals that follow one another."""
    ledgers = [record for record in found if record["type"] == "ledger"]
    counted = sum(record["value"] for record in found
                  if record["type"] == "counter" and record["name"].startswith(("load.", "moved.")))
    read = sum(record["lines"]["metrics"] for record in ledgers)
    if counted != sent or read != sent + extra:
        return f"{sent} lines were sent, {counted:.0f} counted; {read} read, with {extra} others"
    ends = [record["time"] for record in ledgers]
    if len(set(ends)) != len(ends) or sorted(ends) != ends:
        return f"intervals come twice or out of order: {ends}"
    # The last one ends with the stop.
    odd = [end for end in ends[:-1] if abs(end * 2 - round(end * 2)) > 1e-3]
    lengths = sum(record["interval"] for record in ledgers[1:])
    if odd or abs(lengths - (ends[-1] - ends[0])) > 0.05 * len(ends) ** 0.5:
        return f"{len(ends)} intervals are {lengths:.3f} s together, and {ends[-1] - ends[0]:.3f} s have passed; not on ticks: {odd}"
    return None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--systole", required=True, type=os.path.abspath)
    parser.add_argument("--reloads", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--rate", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    args = parser.parse_args()
    rng = random.Random(args.seed)
    folder = tempfile.mkdtemp(prefix="systole-reloads-")
    seed = f"(seed {args.seed}, see {folder})"
    ports = {"load": free_port(), "scrape": free_port(), "more": free_port(socket.SOCK_DGRAM), "copy": free_port(socket.SOCK_DGRAM)}
    page, taken = free_port(), socket.create_server(("127.0.0.1", 0))
    url, file = f"http://127.0.0.1:{page}", f"{folder}/systole.toml"

    def write(text):
        with open(file, "w") as config:
            config.write(text)

    write(configuration(rng, folder, ports, page))
    with Processes() as processes:
        env = {**os.environ, "XDG_STATE_HOME": folder}
        daemon = processes.start([args.systole, "run", "-c", file], f"{folder}/log", env=env)
        wait_for("the daemon", lambda: get_json(f"{url}/api/v1/status"))
        load = Load(ports["load"], args.rate)
        load.start()
        began, refused, last, slowest, good = time.monotonic(), 0, 0.0, 0.0, ""
        for n in range(args.reloads):
            time.sleep(max(0.0, began + args.seconds * n / args.reloads - time.monotonic()))
            is_good = n % 2 == 1 or n == args.reloads - 1
            text = configuration(rng, folder, ports, page)
            good = text if is_good else good
            # A key of the root must stand before tables.
            broken = rng.choice(BROKEN).replace("TAKEN", str(taken.getsockname()[1]))
            write(text if is_good else broken + text if "[[" not in broken else text + broken)
            since = time.monotonic()
            is_applied, report = reload(args.systole, url)
            slowest = max(slowest, time.monotonic() - since)
            if is_applied != is_good or report["needs_restart"]:
                sys.exit(f"FAILED: {report} {seed}")
            refused += not is_good
            total = scraped(ports["scrape"])
            if total < last:
                sys.exit(f"FAILED: counters fell from {last} to {total} {seed}")
            last = total
        load.ended.set()
        load.join()
        status = wait_for("all lines", lambda: (status := get_json(f"{url}/api/v1/status"))["lines"]["metrics"] >= load.lines and status)
        if (status["reloads"]["applied"], status["reloads"]["refused"]) != (args.reloads - refused, refused):
            sys.exit(f"FAILED: {status['reloads']} {seed}")
        wait_for("all lines at the scrape", lambda: scraped(ports["scrape"]) == load.lines)
        write(good)
        if reload(args.systole, url)[1]["changes"]:
            sys.exit(f"FAILED: the last one again is something else {seed}")
        running = in_force(url)
        daemon.terminate()
        daemon.wait(30)
        found = list(records(f"{folder}/main.jsonl"))
        processes.start([args.systole, "run", "-c", file], f"{folder}/fresh.log", env=env)
        fresh = wait_for("the fresh start", lambda: in_force(url))
    if running != fresh:
        odd = [(a, b) for a, b in zip(running, fresh) if a != b]
        sys.exit(f"FAILED: in force is {odd[:3]} or {len(running)} settings of {len(fresh)} {seed}")
    problem = check(found, load.lines, 0)
    if problem:
        sys.exit(f"FAILED: {problem} {seed}")
    print(f"{args.reloads} reloads under {args.rate} lines/s, {refused} refused: all {load.lines} lines once, intervals whole, counters only rose, "
          f"and in force is what a fresh start has; {slowest:.2f} s at most")


if __name__ == "__main__":
    main()
