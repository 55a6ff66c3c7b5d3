#!/usr/bin/env python3
"""Restarts under load, accounted for to the last datagram: what was sent was recorded, or dropped by the kernel and counted
in a ledger, or refused by the kernel because no socket was there (`NoPorts`).

  restarts.py --systole PATH [--restarts 5] [--rate 20000] [--within 0.3]

A sender goes on at its rate while one daemon is stopped and the next one started, and a TCP client sends 20 lines a second
to whichever is there. Everything runs in a network namespace of its own, so that the kernel's counts are of this alone.
"""
import argparse
import fcntl
import os
import random
import select
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time

from common import Processes, records, wait_for

PORT = 8125
CHATTER = 0.05
# The host of a socket that is not the daemon's own: it gets it from here, and leaves it open for the next one.
INHERITED = "inherited"
# A buffer that overflows, so that there are drops to account for.
SMALL = "4KiB"
LARGE = "8MiB"
# Where the daemon listens, with how many workers, the buffer it asks for, and where the sender sends to.
PLACES = [("127.0.0.1", 1, LARGE, "127.0.0.1"), ("0.0.0.0", 2, LARGE, "127.0.0.1"), ("[::]", 1, SMALL, "127.0.0.1"),
          ("[::]", 3, LARGE, "::1"), (INHERITED, 1, LARGE, "127.0.0.1"), ("127.0.0.1", 2, SMALL, "127.0.0.1"),
          ("0.0.0.0", 1, LARGE, "127.0.0.2"), ("[::1]", 2, LARGE, "::1")]


def send(to, rate):
    """Sends datagrams of one line until standard input ends; says how many, and in how many seconds."""
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    # Several sockets, so that workers which share a port all get some. None is connected: refusals are the kernel's to count.
    out = [socket.socket(family, socket.SOCK_DGRAM) for _ in range(8)]
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    sent, began = 0, time.monotonic()
    first = began
    print("sending", flush=True)
    while not ended.is_set():
        due = int((time.monotonic() - began) * rate)
        # A sender that was held up does not make up for all of it at once.
        for _ in range(min(due - sent, 200)):
            out[sent % len(out)].sendto(b"x:1|c", (to, PORT))
            sent += 1
        if sent < due:
            began = time.monotonic() - sent / rate
        time.sleep(0.001)
    print(sent, time.monotonic() - first)


class Chatter(threading.Thread):
    """A client that sends a line over and over, and connects anew when the connection is gone."""

    def __init__(self, host):
        super().__init__(daemon=True)
        self.host, self.lines, self.connections, self.ended = host, 0, 0, threading.Event()

    def run(self):
        stream = None
        while not self.ended.wait(CHATTER):
            try:
                if stream is None:
                    stream = socket.create_connection((self.host, PORT), 1)
                    self.connections += 1
                stream.sendall(b"t:1|c\n")
                self.lines += 1
            except OSError:
                stream = None


def kernel():
    """The namespace's counts of UDP, of both families together."""
    counts = {}
    rows = [line.split() for line in open("/proc/net/snmp") if line.startswith("Udp:")]
    for name, value in zip(rows[0][1:], rows[1][1:]):
        counts[name] = int(value)
    for line in open("/proc/net/snmp6"):
        name, value = line.split()
        if name.startswith("Udp6"):
            counts[name[4:]] = counts.get(name[4:], 0) + int(value)
    return counts


class Daemon:
    def __init__(self, processes, args, folder, host, workers, buffer, inherited):
        self.records, self.log = f"{folder}/records.jsonl", f"{folder}/log"
        udp = f'"udp://{host}:{PORT}"\nworkers = {workers}'
        command, options = [args.systole, "run", "-c", f"{folder}/systole.toml"], {}
        if inherited:
            # As a service manager does it: descriptor 3 is the first.
            udp, host, fd = '"fd://0"', "127.0.0.1", inherited.fileno()
            move = f"3<&{fd} {fd}<&-" if fd != 3 else ""
            command = ["bash", "-c", f'export LISTEN_PID=$$; exec "$@" {move}', "bash", *command]
            options = {"pass_fds": [fd], "env": {**os.environ, "LISTEN_FDS": "1"}}
        with open(f"{folder}/systole.toml", "w") as out:
            out.write(f'interval = "1s"\nself_metrics = false\n[[listen]]\nurl = {udp}\nreceive_buffer = "{buffer}"\n'
                      f'[[listen]]\nurl = "tcp://{host}:{PORT}"\n'
                      f'[[sink]]\ntype = "file"\npath = "{self.records}"\n[presence]\nstate_file = "off"\n')
        self.process = processes.start(command, self.log, **options)
        wait_for("the daemon", self.is_ready, pause=0.005)

    def is_ready(self):
        log = open(self.log).read()
        if self.process.poll() is not None:
            sys.exit(log)
        return log.count("INFO listening") == 2

    def stop(self):
        """How long it takes from SIGTERM to the end."""
        began = time.monotonic()
        # A process that has ended can be read; `wait` with a timeout would look every 50 ms.
        ended = os.pidfd_open(self.process.pid)
        self.process.send_signal(signal.SIGTERM)
        select.select([ended], [], [], 30)
        took = time.monotonic() - began
        os.close(ended)
        self.process.wait(1)
        if self.process.returncode != 0:
            sys.exit(f"FAILED: it exits {self.process.returncode}\n{open(self.log).read()}")
        return took

    def account(self):
        sums = {"x": 0, "t": 0, "datagrams": 0, "kernel_drops": 0, "unread": 0}
        for record in records(self.records):
            # Presence tells how long it was blind, where there were drops.
            if record["type"] == "counter" and record["name"] in ("x", "t"):
                sums[record["name"]] += int(record["value"])
            elif record["type"] == "ledger":
                for listener in record["listeners"]:
                    for name in ("datagrams", "kernel_drops", "unread"):
                        sums[name] += listener.get(name, 0)
        return sums


def restart(n, args, rng):
    host, workers, buffer, to = PLACES[n % len(PLACES)]
    with tempfile.TemporaryDirectory(prefix="systole-restart-") as folder, Processes() as processes:
        for name in ("old", "new"):
            os.mkdir(f"{folder}/{name}")
        inherited = None
        if host == INHERITED:
            inherited = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            inherited.bind((to, PORT))
        before = kernel()
        old = Daemon(processes, args, f"{folder}/old", host, workers, buffer, inherited)
        chatter = Chatter(to)
        chatter.start()
        sender = subprocess.Popen([sys.executable, __file__, "--send", to, "--rate", str(args.rate)],
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        processes.all.append(sender)
        sender.stdout.readline()
        time.sleep(rng.uniform(0.3, 0.7))
        took = old.stop()
        new = Daemon(processes, args, f"{folder}/new", host, workers, buffer, inherited)
        time.sleep(rng.uniform(0.2, 0.4))
        sent, seconds = sender.communicate(timeout=10)[0].split()
        sent, rate = int(sent), int(sent) / float(seconds)
        also = new.stop()
        chatter.ended.set()
        chatter.join()
        if inherited:
            inherited.close()
        grown = {name: value - before[name] for name, value in kernel().items()}
        both = [daemon.account() for daemon in (old, new)]
        total = {name: both[0][name] + both[1][name] for name in both[0]}
        lost = sent - total["x"] - total["kernel_drops"] - grown["NoPorts"]
        print(f"{n + 1:3}: {host} with {workers} of {buffer} to {to}: {sent} sent ({rate:.0f}/s) = {both[0]['x']} + {both[1]['x']} recorded "
              f"+ {both[0]['kernel_drops']} + {both[1]['kernel_drops']} dropped + {grown['NoPorts']} refused + {lost}; "
              f"TCP {chatter.lines} sent in {chatter.connections} connections, {total['t']} recorded; "
              f"ended in {took * 1000:.0f} and {also * 1000:.0f} ms", flush=True)
        problems = []
        if lost or total["unread"] or total["x"] != total["datagrams"]:
            problems.append(f"the account is not exact: {sent} sent, {total}, {grown}")
        if total["kernel_drops"] != grown["RcvbufErrors"]:
            problems.append(f"the kernel counts {grown['RcvbufErrors']} drops, the ledgers {total['kernel_drops']}")
        if not min(both[0]["x"], both[1]["x"], both[0]["t"]):
            problems.append(f"nothing was recorded: {both}")
        if inherited and grown["NoPorts"]:
            problems.append("the kernel refused datagrams at a socket that is not the daemon's to close")
        if took > args.within:
            problems.append(f"it ended {took * 1000:.0f} ms after SIGTERM")
        if problems:
            sys.exit(f"FAILED: {'; '.join(problems)}\n{open(old.log).read()}\n{open(new.log).read()}")
        return took, rate, lost, total["kernel_drops"], grown["NoPorts"], sent


def enter_namespace():
    """Starts this script again in a network namespace of its own, and brings its loopback up."""
    if "--inside" not in sys.argv:
        flags = "-n" if os.geteuid() == 0 else "-rn"
        os.execvp("unshare", ["unshare", flags, sys.executable, *sys.argv, "--inside"])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        # SIOCSIFFLAGS with IFF_UP and IFF_RUNNING.
        fcntl.ioctl(s, 0x8914, struct.pack("16sh14x", b"lo", 0x41))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--systole", type=os.path.abspath)
    parser.add_argument("--restarts", type=int, default=5)
    parser.add_argument("--rate", type=int, default=20_000)
    parser.add_argument("--within", type=float, default=0.3, help="longest time from SIGTERM to the end, seconds")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--send", help=argparse.SUPPRESS)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.send:
        return send(args.send, args.rate)
    if not args.systole:
        parser.error("--systole is missing")
    enter_namespace()
    rng = random.Random(args.seed)
    print(f"seed {args.seed}")
    rounds = [restart(n, args, rng) for n in range(args.restarts)]
    times = sorted(took * 1000 for took, *_ in rounds)
    rate = statistics.median(rate for _, rate, *_ in rounds)
    lost, drops, refused, sent = (sum(column) for column in list(zip(*rounds))[2:])
    print(f"{len(rounds)} restarts: {sent} datagrams sent at {rate:.0f}/s, {drops} dropped and counted, {refused} refused by the kernel, "
          f"{lost} in no count; from SIGTERM to the end {statistics.median(times):.0f} ms, at most {times[-1]:.0f} ms")


if __name__ == "__main__":
    main()
