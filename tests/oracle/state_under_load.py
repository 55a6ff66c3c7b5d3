#!/usr/bin/env python3
"""The state of a million series is written beside datagrams at a small receive buffer: what writing costs the receiver.

  state_under_load.py --systole PATH [--series 1000000] [--rate 25000] [--seconds 60] [--pairs 3]

Two daemons take turns at the same load of datagrams with ten counters each and a buffer of 208 KiB, what a kernel gives without asking: one
writes its state, and the open interval with it, every five seconds, and one never does. Not one datagram may be dropped while the state is
written, unless the daemon that never writes drops some as well: then the machine is too busy for the rate, which is said.
"""
import argparse
import json
import os
import socket
import sys
import tempfile
import time

from common import Processes, Systole, free_port, wait_for

BUFFER = "208KiB"
LINES = 10


def listener(daemon, kind):
    return next(one for one in daemon.status()["listeners"] if one["url"].startswith(kind))


def load(processes, args, to, seconds, rate, folder):
    out = f"{folder}/load-{to[:3]}.json"
    sender = processes.start([args.systole, "load", "--to", to, "--rate", str(rate), "--series", str(args.series), "--lines-per-packet",
                              str(LINES), "--for", f"{seconds}s"], out)
    return sender, lambda: json.load(open(out))


def written(folder):
    """Which files of the state there are, and from when."""
    return {(entry.name, entry.stat().st_mtime_ns) for entry in os.scandir(f"{folder}/systole-state") if ".state" in entry.name}


def measure(args, every, keep):
    """Datagrams that were sent, that the kernel dropped, and how many files of the state were written meanwhile."""
    with tempfile.TemporaryDirectory(prefix="systole-state-") as folder, Processes() as processes:
        port = free_port(socket.SOCK_DGRAM)
        daemon = Systole(processes, args.systole, folder, {
            "root": f'interval = "10s"\nmax_series = {2 * args.series}\nmax_memory = "4GiB"\nstate_interval = "{every}"\nkeep_open_interval = {keep}',
            "tables": f'[[listen]]\nurl = "udp://127.0.0.1:{port}"\nreceive_buffer = "{BUFFER}"\n[[sink]]\ntype = "file"\npath = "/dev/null"\n'})
        # All series are here before it counts.
        first, _ = load(processes, args, f"tcp://127.0.0.1:{daemon.tcp}", 12, 150_000, folder)
        first.wait(60)
        wait_for("all series", lambda: daemon.status()["series"]["counters"] >= args.series * 0.9, 60)
        before, old, new = listener(daemon, "udp"), written(folder), set()
        sender, said = load(processes, args, f"udp://127.0.0.1:{port}", args.seconds, args.rate * LINES, folder)
        while sender.poll() is None:
            time.sleep(0.2)
            new |= written(folder)
        sent = said()["packets"]
        grown = lambda name: listener(daemon, "udp")[name] - before[name]
        wait_for("all datagrams", lambda: grown("datagrams") + grown("kernel_drops") >= sent, 30)
        sizes = sum(os.path.getsize(f"{folder}/systole-state/{name}") for name in os.listdir(f"{folder}/systole-state"))
        result = sent, grown("kernel_drops"), len(new - old), sizes
        daemon.stop()
        return result


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--systole", required=True, type=os.path.abspath)
    parser.add_argument("--series", type=int, default=1_000_000)
    parser.add_argument("--rate", type=int, default=25_000, help="datagrams a second")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--pairs", type=int, default=3)
    args = parser.parse_args()
    lost, beside = 0, 0
    for _ in range(args.pairs):
        sent, drops, files, size = measure(args, "5s", "true")
        print(f"written every 5 s: {sent} datagrams, {drops} dropped, {files} files written, {size >> 20} MiB", flush=True)
        assert files > args.seconds / 10, "the state was not written"
        lost += drops
        sent, drops, files, _ = measure(args, "1day", "false")
        print(f"never written:     {sent} datagrams, {drops} dropped, {files} files written", flush=True)
        beside += drops
    if lost and not beside:
        sys.exit(f"FAILED: {lost} datagrams are dropped where the state is written, none where it is not")
    print(f"{args.series} series, {args.rate} datagrams/s, {BUFFER}: {lost} dropped where the state is written, {beside} where it is not")


if __name__ == "__main__":
    main()
