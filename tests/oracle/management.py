#!/usr/bin/env python3
"""The management port beside the original's: the same lines, the same commands, the same bytes.

  management.py --systole PATH --statsd FOLDER [--seed N]

Both run in profile etsy. First with an hour between flushes, so that the open interval stays what it is: listings of
random counters, gauges and timers (the layout is Node's), deletions, health, wrong commands. Then with two seconds, for
what is left after flushes. Of `stats` the names, and the values but for ages; `config` differs in content.
"""
import argparse
import difflib
import os
import random
import re
import socket
import subprocess
import tempfile
import time

from common import free_port


def talk(port, command):
    """Sends a command and reads its reply until nothing comes any more."""
    with socket.create_connection(("127.0.0.1", port)) as stream:
        stream.sendall(command)
        stream.settimeout(0.25)
        heard = b""
        try:
            while chunk := stream.recv(1 << 20):
                heard += chunk
        except socket.timeout:
            pass
        return heard


class Pair:
    """Both daemons, with the same interval."""

    def __init__(self, args, folder, interval_ms):
        self.processes = []
        self.sent = 0
        self.udp = [free_port(socket.SOCK_DGRAM) for _ in range(2)]
        self.mgmt = [free_port() for _ in range(2)]
        config = os.path.join(folder, "config.js")
        with open(config, "w") as f:
            f.write(f"""{{ port: {self.udp[0]}, address: "127.0.0.1", mgmt_address: "127.0.0.1", mgmt_port: {self.mgmt[0]},
              backends: ["./backends/console"], flushInterval: {interval_ms} }}""")
        toml = os.path.join(folder, "systole.toml")
        with open(toml, "w") as f:
            f.write(f"""profile = "etsy"
interval = "{interval_ms}ms"
[[listen]]
url = "udp://127.0.0.1:{self.udp[1]}"
workers = 1
[[sink]]
type = "console"
[http]
address = "off"
[presence]
enabled = false
[management]
address = "127.0.0.1:{self.mgmt[1]}"
""")
        for command in (["node", os.path.join(args.statsd, "stats.js"), config], [args.systole, "run", "-c", toml]):
            self.processes.append(
                subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL))
        for port in self.mgmt:
            for _ in range(200):
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except OSError:
                    time.sleep(0.05)

    def send(self, datagram):
        # The original's receive buffer is small.
        self.sent += 1
        if self.sent % 10 == 0:
            time.sleep(0.005)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            for port in self.udp:
                s.sendto(datagram, ("127.0.0.1", port))

    def both(self, command):
        return [talk(port, command) for port in self.mgmt]

    def end(self):
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait()


def same(pair, command, mask=None):
    theirs, ours = pair.both(command)
    if mask:
        theirs, ours = mask(theirs), mask(ours)
    if theirs != ours:
        theirs, ours = (text.decode(errors="replace").splitlines() for text in (theirs, ours))
        differences = "\n".join(difflib.unified_diff(theirs, ours, "the original", "ours", lineterm="", n=1))
        raise SystemExit(f"{command!r}:\n{differences}")
    return 1


def lines(rng, count):
    """Well-formed lines of names that need quotes or none, and numbers of all sizes."""
    names = [rng.choice(["a", "b1", "7", "12", "_x", "web.api", "web.api.get", "x-y", "deep.er.still", "constructo"]) +
             rng.choice(["", "", ".q", str(rng.randrange(40))]) for _ in range(60)]
    for _ in range(count):
        name = rng.choice(names)
        value = rng.choice([rng.randrange(10), rng.randrange(100000), round(rng.random() * 1000, 3),
                            round(rng.random() / 1000, 6), rng.randrange(10**12) * 10**10])
        kind = rng.choice(["c", "c", "g", "ms", "ms", "ms"])
        if kind != "ms":
            # Our sums are compensated, the original's are not: numbers whose sums are exact either way.
            value = rng.choice([rng.randrange(10), rng.randrange(100000), rng.randrange(8000) / 8, rng.randrange(10**6) * 2**20])
        if kind == "c":
            yield f"{name}:{value}|c" + rng.choice(["", "", "|@0.1", "|@0.5"])
        elif kind == "g":
            yield f"{name}:{rng.choice(['', '', '+', '-'])}{value}|g"
        else:
            yield f"{name}:{value}|ms"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--systole", required=True)
    parser.add_argument("--statsd", required=True)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    args = parser.parse_args()
    args.systole, args.statsd = os.path.abspath(args.systole), os.path.abspath(args.statsd)
    print(f"seed {args.seed}")
    rng = random.Random(args.seed)
    compared = 0
    with tempfile.TemporaryDirectory() as folder:
        pair = Pair(args, folder, 3_600_000)
        try:
            for command in (b"help\n", b"health\n", b"health", b"health\r\n", b"health down\n", b"health UP\n", b"health no\n",
                            b"counters\n", b"timers\n", b"gauges\n", b"Counters\n", b"\n", b" \n", b"what is this\n",
                            b"delcounters\n", b"deltimers a\n", b"delgauges a  b.*\n", b"quit\n"):
                compared += same(pair, command)
            for size in (1, 5, 20, 100, 400, 1500):
                for line in lines(rng, size):
                    pair.send(line.encode())
                # A timer of every length there is a layout for.
                for n in range(size % 113):
                    pair.send(f"long.t{size}:{rng.randrange(10 ** rng.randrange(1, 7))}|ms".encode())
                pair.send(b"broken:1|c|@x")
                pair.send(b"tagged:1|c|#k:v,a:b" if size == 1 else b"tagged:1|c|#k:v")
                time.sleep(0.3)
                for command in (b"counters\n", b"timers\n", b"gauges\n"):
                    compared += same(pair, command, tags_sorted)
            for command in (b"delcounters web.api.*\n", b"delcounters a a b1 no.such 7\n", b"deltimers a web.*\n",
                            b"delgauges deep.er.* _x\n", b"delcounters .*\n", b"delcounters *\n"):
                compared += same(pair, command)
                for listing in (b"counters\n", b"timers\n", b"gauges\n"):
                    compared += same(pair, listing, tags_sorted)
            compared += same(pair, b"stats\n", ages)
        finally:
            pair.end()
        pair = Pair(args, folder, 1000)
        try:
            pair.send(b"a.c:5|c\na.d:1|c|@0.5\nt:1|ms\nt:2|ms\ng:7|g\nu:-3|g")
            time.sleep(3.5)
            for command in (b"counters\n", b"timers\n", b"gauges\n"):
                compared += same(pair, command, lag)
            pair.send(b"g:+1|g\nu:4|g")
            time.sleep(0.2)
            compared += same(pair, b"gauges\n", lag)
            for command in (b"delcounters a.*\n", b"deltimers t\n", b"delgauges g\n"):
                compared += same(pair, command)
            time.sleep(2.2)
            for command in (b"counters\n", b"timers\n", b"gauges\n"):
                compared += same(pair, command, lag)
        finally:
            pair.end()
    print(f"{compared} replies are the original's, byte for byte")


def tags_sorted(reply):
    """Ours has the tags of a series in the order of their keys."""
    return reply.replace(b"tagged;k=v;a=b", b"tagged;a=b;k=v")


def lag(reply):
    """The delay of a flush is a daemon's own, and so is what it counted; the layout goes by their lengths."""
    reply = re.sub(rb"'statsd\.timestamp_lag': -?[0-9.e+-]+,?", b"", reply)
    reply = re.sub(rb"('statsd\.[a-z_]+'): [0-9]+", rb"\1: N", reply)
    return re.sub(rb"[\s,]+", b" ", reply)


def ages(reply):
    """Ages and times differ by a moment."""
    return re.sub(rb"(uptime|last_msg_seen|lastFlush|lastException): [0-9]+", rb"\1: N", reply)


if __name__ == "__main__":
    main()
