#!/usr/bin/env python3
"""What a line costs at an edge of a cluster, beside a standalone daemon: processor seconds of each for the same lines over UDP, in turn, and
the median of the ratios of pairs with a bootstrap interval.

  edge_cost.py --systole PATH [--pairs N] [--lines N] [--interval SECONDS]

PATH is a build with the feature `nats`. The standalone daemon writes what it has aggregated to a file, the edge sends it to a NATS server.
"""
import argparse
import os
import random
import socket
import statistics
import tempfile
import time

from common import Processes, Systole, free_port, listens, wait_for

LINES_A_PACKET = 20
SERIES = 2000
RATE = 100_000


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def packets():
    lines = [f"load.{n % SERIES}:{n % 97}|{kind}" for n in range(SERIES) for kind in ["c", "ms", "c", "g"]]
    return ["\n".join(lines[n:n + LINES_A_PACKET]).encode() for n in range(0, len(lines), LINES_A_PACKET)]


def measure(daemon, udp, all_packets, count, interval):
    """Processor seconds for a million lines."""
    before, lines_before = cpu_seconds(daemon.process.pid), daemon.status()["lines"]["read"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.connect(("127.0.0.1", udp))
        begun = time.monotonic()
        for n in range(count):
            out.send(all_packets[n % len(all_packets)])
            if n % 50 == 0:
                time.sleep(max(0, n * LINES_A_PACKET / RATE - (time.monotonic() - begun)))
    # The intervals that are open are closed, and what they had is on its way.
    time.sleep(interval + 1.5)
    lines = daemon.status()["lines"]["read"] - lines_before
    assert lines > 0.9 * count * LINES_A_PACKET, f"{lines} of {count * LINES_A_PACKET} lines came"
    return (cpu_seconds(daemon.process.pid) - before) / lines * 1e6


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--systole", required=True)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--lines", type=int, default=400_000)
    parser.add_argument("--interval", type=int, default=1)
    args = parser.parse_args()
    program = os.path.abspath(args.systole)
    with tempfile.TemporaryDirectory() as folder, Processes() as processes:
        port = free_port()
        processes.start(["nats-server", "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", f"{folder}/nats"], f"{folder}/nats.log")
        wait_for("NATS", lambda: listens(port))

        def start(name, tables):
            udp = free_port(socket.SOCK_DGRAM)
            listen = f'[[listen]]\nurl = "udp://127.0.0.1:{udp}"\n'
            return Systole(processes, program, folder, {"root": f'interval = "{args.interval}s"', "tables": listen + tables}, name), udp

        alone = start("alone", f'[[sink]]\ntype = "file"\npath = "{folder}/alone.jsonl"\n')
        edge = start("edge", f'[cluster]\nrole = "edge"\nnode = "edge"\nbus = ["127.0.0.1:{port}"]\nreplicas = 1\n'
                             f'state_file = "{folder}/edge.state"\n')
        all_packets, count = packets(), args.lines // LINES_A_PACKET
        costs = {"alone": [], "edge": []}
        for n in range(args.pairs + 1):
            for name, daemon in sorted([("alone", alone), ("edge", edge)], reverse=n % 2 == 1):
                costs[name].append(measure(*daemon, all_packets, count, args.interval))
        # The first pair warms up.
        ratios = [edge / alone for alone, edge in list(zip(costs["alone"], costs["edge"]))[1:]]
        rng = random.Random(1)
        medians = sorted(statistics.median(rng.choices(ratios, k=len(ratios))) for _ in range(2000))
        print(f"processor seconds a million lines: alone {statistics.median(costs['alone'][1:]):.3f}, edge "
              f"{statistics.median(costs['edge'][1:]):.3f}; ratio {statistics.median(ratios):.3f} "
              f"[{medians[50]:.3f}, {medians[1949]:.3f}] of {len(ratios)} pairs")


if __name__ == "__main__":
    main()
