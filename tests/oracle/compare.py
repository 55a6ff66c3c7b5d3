#!/usr/bin/env python3
"""The original statsd and Systole on the same lines, held against each other by `systole compare`.

  compare.py --systole PATH --statsd FOLDER [--interval SECS] [--intervals N] [--seed N]

As somebody does who moves: Systole runs with what `systole import` makes of the original's config.js, takes the lines, and passes
them on to the original by a `[[relay]]`. Both write their Graphite lines to `systole compare`. There must be no difference.
Then the same once more for a few intervals with a rule in Systole's configuration that changes one name, and with lines of one
counter that only the original gets: both have to be found, and nothing else.

Lines are sent away from the ticks: a line that comes within one belongs to either interval. Both flush at multiples of the interval.
"""
import argparse
import concurrent.futures
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time

from common import free_port, get_json, wait_for
from side_by_side import line, series

PERCENTILES = [90, 99.9, -10]
# What each server says of itself, and what hangs on its clock.
OWN = ["*statsd.*"]
RENAMED, PLANTED = "planted.renamed", "planted.more"
# Parts of an interval in which lines are sent: time for a slow machine's flush before, and for what is queued after.
BEGIN, END = 0.3, 0.6


def write_config(folder, name, port, management, graphite, interval):
    path = os.path.join(folder, name)
    with open(path, "w", encoding="utf-8") as out:
        out.write(f"""{{
  address: "127.0.0.1", port: {port}
, mgmt_address: "127.0.0.1", mgmt_port: {management}
, backends: [ "./backends/graphite" ], graphiteHost: "127.0.0.1", graphitePort: {graphite}
, flushInterval: {int(interval * 1000)}, percentThreshold: {PERCENTILES}
}}
""")
    return path


def until_part(interval, part):
    """Waits for a moment of an interval, which may be that of the next one."""
    time.sleep((part - time.time() / interval) % 1.0 * interval)


def started(management):
    """The second from which the original counts, by the uptime that it tells; 0 while nobody can say."""
    with socket.create_connection(("127.0.0.1", management), 5) as stream:
        before = round(time.time())
        stream.sendall(b"stats\n")
        text = ""
        while "END" not in text:
            text += stream.recv(65536).decode()
        uptime = int(text.split("uptime: ")[1].split()[0])
        return before - uptime if before == round(time.time()) else 0


class Pair:
    """Both servers and who compares them."""

    def __init__(self, options, rule=""):
        self.folder = tempfile.mkdtemp(prefix="compare-")
        self.interval, self.processes = options.interval, []
        log = lambda name: open(os.path.join(self.folder, name), "w", encoding="utf-8")
        arguments = [options.systole, "compare", "tcp://127.0.0.1:0", "tcp://127.0.0.1:0", "--json"]
        for pattern in OWN:
            arguments += ["--ignore", pattern]
        self.compare = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
        self.processes.append(self.compare)
        ports = [int(self.compare.stderr.readline().rsplit(":", 1)[1]) for _ in range(2)]
        self.original_port, self.port, http = (free_port(socket.SOCK_DGRAM) for _ in range(3))
        self.start_original(options, ports[0], log("original.log"))
        config = write_config(self.folder, "ours.js", self.port, free_port(), ports[1], self.interval)
        imported = subprocess.run([options.systole, "import", config], capture_output=True, check=True, text=True).stdout
        ours = os.path.join(self.folder, "systole.toml")
        with open(ours, "w", encoding="utf-8") as out:
            out.write(imported + f'\n[[relay]]\ntargets = ["127.0.0.1:{self.original_port}"]\n{rule}\n[http]\naddress = "127.0.0.1:{http}"\n')
        self.processes.append(subprocess.Popen([options.systole, "run", "-c", ours], stdin=subprocess.DEVNULL,
                                               env=dict(os.environ, XDG_STATE_HOME=self.folder),
                                               stdout=log("systole.log"), stderr=subprocess.STDOUT))
        self.status = f"http://127.0.0.1:{http}/api/v1/status"
        wait_for("Systole", lambda: get_json(self.status))
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def start_original(self, options, graphite, log):
        """It flushes at multiples of the interval from the whole second that is nearest to its start: started until that is one."""
        for _ in range(20):
            management = free_port()
            config = write_config(self.folder, "config.js", self.original_port, management, graphite, self.interval)
            until_part(self.interval, 1.0 - 0.25 / self.interval)
            original = subprocess.Popen(["node", os.path.join(options.statsd, "stats.js"), config], cwd=options.statsd,
                                        stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
            self.processes.append(original)
            if wait_for("the original", lambda: started(management)) % self.interval == 0:
                return
            original.terminate()
            original.wait(timeout=30)
        sys.exit("the original does not start within half a second: the machine is too slow for this test")

    def send(self, lines, port=None):
        datagram = b""
        for text in lines:
            if len(datagram) + len(text) > 1400:
                self.socket.sendto(datagram, ("127.0.0.1", port or self.port))
                # Neither receive buffer is to overflow.
                time.sleep(0.001)
                datagram = b""
            datagram += text.encode()
        self.socket.sendto(datagram, ("127.0.0.1", port or self.port))

    def report(self):
        self.compare.terminate()
        out, errors = self.compare.communicate(timeout=60)
        if not out:
            sys.exit(f"no report: {errors}")
        status = get_json(self.status)
        for relay in (status.get("relays") or {}).values():
            if any((relay.get("dropped") or {}).values()):
                sys.exit(f"the relay dropped lines: {relay}")
        return self.compare.returncode, json.loads(out)

    def stop(self):
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        for process in self.processes:
            process.wait(timeout=30)


def run(options, rng, intervals, rule="", more=None):
    """The exit code and the report of a comparison over so many intervals."""
    pair = Pair(options, rule)
    known, sent = series(rng), 0
    try:
        # The first interval of both is cut, the last one not told to its end.
        for _ in range(intervals + 2):
            until_part(options.interval, BEGIN)
            end = time.time() + (END - BEGIN) * options.interval
            sent_now = 0
            while time.time() < end and sent_now < options.lines:
                some = [line(rng, *rng.choice(known)) for _ in range(200)]
                pair.send(some)
                sent_now += len(some)
                if more:
                    more(pair)
                time.sleep(0.01)
            sent += sent_now
        until_part(options.interval, BEGIN)
        code, report = pair.report()
    finally:
        pair.stop()
    return code, report, sent, pair.folder


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--systole", required=True, type=os.path.abspath)
    parser.add_argument("--statsd", required=True, type=os.path.abspath)
    parser.add_argument("--interval", type=int, default=2, help="seconds")
    parser.add_argument("--intervals", type=int, default=3)
    parser.add_argument("--lines", type=int, default=2000, help="an interval: no more than a receive buffer holds")
    parser.add_argument("--seed", type=int, default=20261127)
    options = parser.parse_args()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for outcome in [pool.submit(same, options), pool.submit(planted, options)]:
            outcome.result()
    print("the original and Systole on the same lines: no difference; what was planted is found")


def same(options):
    code, report, sent, folder = run(options, random.Random(options.seed), options.intervals)
    print(f"{sent} lines, {report['names']} names, {report['compared']} values compared, {report['moved']} moved, seed {options.seed}")
    if code != 0 or not report["same"] or report["moved"] or report["names"] < 300:
        sys.exit(f"the original is A, Systole is B: {json.dumps(report, indent=1)}\nlogs in {folder}")
    shutil.rmtree(folder)


def planted(options):
    def more(pair):
        pair.send([f"{RENAMED}:1|c\n", f"{PLANTED}:1|c\n"])
        pair.send([f"{PLANTED}:1|c\n"], pair.original_port)

    rule = f'[[rule]]\nmatch = "{RENAMED}"\nrename = "{RENAMED}.other"\n'
    code, report, _, folder = run(options, random.Random(options.seed + 1), 2, rule, more)
    names = {key: {one["name"] for one in report[key]["first"]} for key in ("only_in_a", "only_in_b", "missing", "differing")}
    wanted = {
        "only_in_a": {f"stats.{RENAMED}", f"stats_counts.{RENAMED}"},
        "only_in_b": {f"stats.{RENAMED}.other", f"stats_counts.{RENAMED}.other"},
        "missing": set(),
        "differing": {f"stats.{PLANTED}", f"stats_counts.{PLANTED}"},
    }
    if code != 1 or names != wanted:
        sys.exit(f"planted: found {names} in place of {wanted}; logs in {folder}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
