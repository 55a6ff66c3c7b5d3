#!/usr/bin/env python3
"""A chain of two Systoles, into collectd and into the original statsd: gauges that are negative, go through zero and have tags are
equal at every end after ten intervals.

  chain.py --systole PATH --statsd FOLDER

The first tells the second by its sink `statsd`, which tells both others in the dialect `etsy`, said in a URL: with tags in names.
Each interval every gauge is told again; a receiver that takes a sign for a change is off by the value each time.
"""
import argparse
import glob
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import time

from common import Processes, free_port, get_json, holds, listens, wait_for

INTERVAL = 0.25
INTERVALS = 10


class Daemon:
    """A Systole that listens for datagrams, with its sinks on the command line."""

    def __init__(self, processes, program, folder, name, sinks):
        self.udp, self.page = free_port(socket.SOCK_DGRAM), free_port()
        self.log = f"{folder}/{name}.log"
        config = f"{folder}/{name}.toml"
        with open(config, "w") as out:
            out.write(f'interval = "{int(INTERVAL * 1000)}ms"\nself_metrics = false\n[presence]\nenabled = false\n'
                      f'[[listen]]\nurl = "udp://127.0.0.1:{self.udp}"\nworkers = 1\n[http]\naddress = "127.0.0.1:{self.page}"\n')
        arguments = [argument for sink in sinks for argument in ("--sink", sink)]
        self.process = processes.start([program, "run", "-c", config] + arguments, self.log)
        wait_for(name, self.is_ready)

    def is_ready(self):
        if self.process.poll() is not None:
            sys.exit(open(self.log).read())
        return get_json(f"http://127.0.0.1:{self.page}/api/v1/status")["ready"]

    def send(self, lines):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            for at in range(0, len(lines), 20):
                s.sendto("\n".join(lines[at:at + 20]).encode(), ("127.0.0.1", self.udp))

    def sinks(self):
        sinks = get_json(f"http://127.0.0.1:{self.page}/api/v1/status")["sinks"]
        for name, account in sinks.items():
            assert holds(account) and account["dropped"] == {}, (name, account)
        return sinks

    def gauges(self):
        records = get_json(f"http://127.0.0.1:{self.page}/api/v1/snapshot")
        return {r["name"] + "".join(f";{key}={value}" for key, value in sorted(r["tags"].items())): r["value"]
                for r in records if r["type"] == "gauge"}


class Original:
    def __init__(self, processes, folder, statsd):
        self.udp, self.management = free_port(socket.SOCK_DGRAM), free_port()
        with open(f"{folder}/original.js", "w") as out:
            out.write(f"""{{ port: {self.udp}, address: "127.0.0.1", mgmt_address: "127.0.0.1", mgmt_port: {self.management},
 backends: [], flushInterval: {int(INTERVAL * 1000)} }}""")
        processes.start(["node", f"{statsd}/stats.js", f"{folder}/original.js"], f"{folder}/original.log", cwd=statsd)
        wait_for("the original", lambda: listens(self.management))

    def gauges(self):
        with socket.create_connection(("127.0.0.1", self.management), 5) as stream:
            stream.sendall(b"gauges\n")
            said = b""
            while not said.endswith(b"END\n\n"):
                said += stream.recv(1 << 16)
        found = re.findall(r"'?([^\s':]+)'?: (-?[\d.]+)", said.decode())
        return {name: float(value) for name, value in found if name != "statsd.timestamp_lag"}


class Collectd:
    def __init__(self, processes, folder):
        self.udp, self.folder = free_port(socket.SOCK_DGRAM), f"{folder}/collectd"
        os.makedirs(self.folder)
        with open(f"{self.folder}/collectd.conf", "w") as out:
            out.write(f"""Hostname "host"
BaseDir "{self.folder}"
PIDFile "{self.folder}/pid"
Interval {INTERVAL}
LoadPlugin statsd
LoadPlugin csv
<Plugin statsd>
  Host "127.0.0.1"
  Port "{self.udp}"
</Plugin>
<Plugin csv>
  DataDir "{self.folder}/csv"
</Plugin>
""")
        processes.start(["/usr/sbin/collectd", "-f", "-C", f"{self.folder}/collectd.conf"], f"{folder}/collectd.log")
        wait_for("collectd", self.is_bound)

    def is_bound(self):
        return f":{self.udp:04X} " in open("/proc/net/udp").read()

    def gauges(self):
        found = {}
        for path in sorted(glob.glob(f"{glob.escape(self.folder)}/csv/host/statsd/gauge-*"), key=os.path.getmtime):
            # The name ends in the date.
            name = os.path.basename(path)[len("gauge-"):-len("-2026-11-26")]
            # It may be writing the last.
            rows = [row for row in open(path) if row.endswith("\n")][1:]
            if rows:
                found[name] = float(rows[-1].split(",")[1])
        return found


def compare(what, ends, expected):
    """Waits until every end says what is expected."""
    for name, end in ends.items():
        deadline = time.monotonic() + 10
        while (found := end.gauges()) != expected:
            if time.monotonic() > deadline:
                wrong = {key: (found.get(key), expected.get(key)) for key in found.keys() | expected.keys()
                         if found.get(key) != expected.get(key)}
                sys.exit(f"{what}: {name} has {len(wrong)} of {len(expected)} wrong, (found, expected): {dict(sorted(wrong.items())[:5])}")
            time.sleep(INTERVAL / 5)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--systole", required=True)
    parser.add_argument("--statsd", required=True)
    args = parser.parse_args()
    rng = random.Random(12)
    with tempfile.TemporaryDirectory() as folder, Processes() as processes:
        original, collectd = Original(processes, folder, os.path.abspath(args.statsd)), Collectd(processes, folder)
        second = Daemon(processes, args.systole, folder, "second",
                        [f"statsd://127.0.0.1:{original.udp}?dialect=etsy&name=original",
                         f"statsd://127.0.0.1:{collectd.udp}?dialect=etsy&name=collectd"])
        first = Daemon(processes, args.systole, folder, "first", [f"statsd://127.0.0.1:{second.udp}?max_datagram=512"])
        ends = {"the first": first, "the second": second, "the original": original, "collectd": collectd}

        values, lines = {}, []

        def put(name, value, tag=""):
            """Sets a gauge, a negative one by way of zero."""
            series = name + (";" + tag.replace(":", "=") if tag else "")
            values[series] = value
            lines.extend(f"{name}:{one}|g{'|#' + tag if tag else ''}" for one in ([0, value] if value < 0 else [value]))

        def change(name, by, tag=""):
            values[name + (";" + tag.replace(":", "=") if tag else "")] += by
            lines.append(f"{name}:{by:+}|g{'|#' + tag if tag else ''}")

        put("debt", -5)
        put("falls", 4)
        put("rises", -2.5)
        put("empties", 7)
        put("pool", -7, "dc:eu")
        put("pool", 7, "dc:us")
        for n in range(60):
            put(f"some.name.{n}", rng.randrange(-800, 800) / 8, rng.choice(["", "zone:a", "zone:b"]))
        first.send(lines)
        compare("at first", ends, values)
        lines.clear()
        change("falls", -7.25)
        change("rises", +8)
        put("empties", 0)
        change("pool", +9, "dc:eu")
        change("pool", -9, "dc:us")
        for name in [name for name in values if name.startswith("some.name")][:30]:
            name, _, tag = name.partition(";")
            change(name, rng.randrange(-1600, 1600) / 8, tag.replace("=", ":"))
        first.send(lines)
        compare("after the change", ends, values)
        told = INTERVALS * len(values)
        before = {name: daemon.sinks() for name, daemon in (("first", first), ("second", second))}
        for name, daemon in (("first", first), ("second", second)):
            for sink, account in before[name].items():
                wait_for(f"ten intervals of the {name}",
                         lambda: daemon.sinks()[sink]["delivered"] >= account["delivered"] + told)
        compare("ten intervals later", ends, values)
        # And it stays so.
        time.sleep(INTERVAL)
        compare("after that", ends, values)
        negative, tagged = sum(value < 0 for value in values.values()), sum(";" in name for name in values)
        print(f"{len(values)} gauges, {negative} of them negative, {tagged} with tags: equal at all four ends after "
              f"{INTERVALS} intervals")


if __name__ == "__main__":
    main()
