#!/usr/bin/env python3
"""A cluster of three edges and two nodes that merge, on three servers of NATS with three replicas, while parts of it fail.

  cluster.py --systole PATH [--rate N]

PATH is a build with the feature `nats`. One after the other, under load: a node that merges is killed with -9 and started again, a server of
NATS is killed with -9 and started again, a node that merges stands still for longer than its session, an edge is killed with -9 and started
again, and an edge is restarted in order. Afterwards each (series, interval) is in the files of the sinks once, or again with the same values;
what was sent to the edges that were not killed is there to the last line; and of the killed one at most its open interval is missing, which
the account of an interval names.
"""
import argparse
import collections
import os
import signal
import socket
import sys
import tempfile
import threading
import time

from common import Processes, Systole, free_port, get_json, listens, records, wait_for

EDGES = 3
GLOBALS = 2
PARTITIONS = 8
SERIES = 40

# An interval that is open when an edge is killed, one that is on its way, and what TCP held.
OPEN_INTERVALS = 3


class Nats:
    """Three servers."""

    def __init__(self, processes, folder):
        self.processes, self.folder = processes, folder
        self.ports, self.routes, self.monitors = ([free_port() for _ in range(3)] for _ in range(3))
        self.running = [self.start(n) for n in range(3)]
        for port in self.ports:
            wait_for("NATS", lambda port=port: listens(port))

    def start(self, n):
        routes = ",".join(f"nats-route://127.0.0.1:{port}" for port in self.routes)
        return self.processes.start(
            ["nats-server", "-a", "127.0.0.1", "-p", str(self.ports[n]), "-m", str(self.monitors[n]), "-n", f"n{n}", "-js",
             "-sd", f"{self.folder}/n{n}", "--cluster_name", "test", "--cluster", f"nats://127.0.0.1:{self.routes[n]}",
             "--routes", routes], f"{self.folder}/n{n}.log")

    def leader(self, stream):
        """Which server leads a stream."""
        for monitor in self.monitors:
            try:
                found = get_json(f"http://127.0.0.1:{monitor}/jsz?streams=1&accounts=1", 2)
            except OSError:
                continue
            for account in found.get("account_details", []):
                for detail in account.get("stream_detail", []):
                    if detail["name"] == stream and detail.get("cluster", {}).get("leader"):
                        return int(detail["cluster"]["leader"][1:])
        return 0

    def kill(self, n):
        self.running[n].kill()
        self.running[n].wait()

    def restart(self, n):
        self.running[n] = self.start(n)


def node(processes, program, folder, name, role, bus):
    tables = (f'[cluster]\nrole = "{role}"\nnode = "{name}"\nbus = {bus}\npartitions = {PARTITIONS}\nlateness = "3s"\n'
              f'state_file = "{folder}/{name}.state"\n')
    if role == "global":
        tables += f'[[sink]]\ntype = "file"\npath = "{folder}/{name}.jsonl"\n'
    return Systole(processes, program, folder, {"root": 'interval = "1s"', "tables": tables}, name)


class Load(threading.Thread):
    """Lines to one edge, until it ends; a connection that breaks is made anew, and the lines of that write are in doubt."""

    def __init__(self, edge, name, rate):
        super().__init__(daemon=True)
        self.edge, self.name, self.rate = edge, name, rate
        self.sent, self.is_over, self.may_send = 0, threading.Event(), threading.Event()
        self.may_send.set()

    def run(self):
        connection, at = None, 0
        while not self.is_over.is_set():
            lines = "".join(f"{self.name}.{(at + n) % SERIES}:1|c\n" for n in range(self.rate // 20)).encode()
            try:
                connection = connection or socket.create_connection(("127.0.0.1", self.edge.tcp), 10)
                connection.sendall(lines)
                self.sent += self.rate // 20
                at += 1
            except OSError:
                connection = None
            time.sleep(0.05)
            if not self.may_send.is_set():
                connection.close()
                connection = None
                self.may_send.wait()
        if connection:
            connection.close()


def found(folder):
    """Values by series and time, and the names of edges of which something was missing."""
    values, doubles, named = {}, 0, collections.Counter()
    for n in range(GLOBALS):
        for record in records(f"{folder}/global-{n}.jsonl"):
            if record["type"] == "counter" and record["name"].startswith("load."):
                key = (record["name"], record["time"])
                if key in values:
                    doubles += 1
                    assert values[key] == record["value"], f"{key}: {values[key]} and then {record['value']}"
                values[key] = record["value"]
            for edge in (record.get("cluster") or {}).get("edges_behind", []):
                named[edge] += 1
    return values, doubles, named


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--systole", required=True)
    parser.add_argument("--rate", type=int, default=2000)
    args = parser.parse_args()
    program = os.path.abspath(args.systole)
    with tempfile.TemporaryDirectory() as folder, Processes() as processes:
        nats = Nats(processes, folder)
        bus = "[" + ", ".join(f'"127.0.0.1:{port}"' for port in nats.ports) + "]"
        start = lambda name, role: node(processes, program, folder, name, role, bus)
        globals_ = [start(f"global-{n}", "global") for n in range(GLOBALS)]
        edges = [start(f"edge-{n}", "edge") for n in range(EDGES)]
        status = lambda daemon: get_json(f"http://127.0.0.1:{daemon.page}/api/v1/cluster")
        wait_for("owners of all partitions",
                 lambda: sum(p["is_ours"] for g in globals_ for p in status(g)["partitions"]) == PARTITIONS)
        loads = [Load(edge, f"load.{n}", args.rate) for n, edge in enumerate(edges)]
        for load in loads:
            load.start()
        step = lambda what: print(f"{time.monotonic() - began:5.1f} s  {what}", flush=True)
        began = time.monotonic()
        time.sleep(3)

        step("a node that merges is killed")
        globals_[0].kill()
        time.sleep(4)
        globals_[0].start()

        leader = nats.leader("SYSTOLE_P0")
        step(f"the leader of the batches is killed, n{leader}")
        nats.kill(leader)
        time.sleep(8)
        nats.restart(leader)

        step("a node that merges stands still")
        globals_[1].process.send_signal(signal.SIGSTOP)
        time.sleep(8)
        globals_[1].process.send_signal(signal.SIGCONT)

        step("an edge is killed")
        edges[2].kill()
        time.sleep(1)
        edges[2].start()
        step("an edge is restarted")
        # A sender that goes on would not know what is read of its connection.
        loads[1].may_send.clear()
        time.sleep(0.3)
        edges[1].stop()
        edges[1].start()
        loads[1].may_send.set()
        time.sleep(3)

        for load in loads:
            load.is_over.set()
            load.join()
        step("no more is sent")
        time.sleep(0.5)
        for edge in edges:
            edge.stop()
        sent = [load.sent for load in loads]

        def sums():
            values = found(folder)[0]
            return [sum(value for (name, _), value in values.items() if name.startswith(f"load.{n}.")) for n in range(EDGES)]

        least = sent[2] - OPEN_INTERVALS * args.rate
        is_there = lambda now: now[0] >= sent[0] and now[1] >= sent[1] and now[2] >= least
        wait_for("all that was sent", lambda: is_there(sums()), 60, 0.5, lambda: f"sent {sent}, found {sums()}")
        time.sleep(2)
        for one in globals_:
            one.stop()
        values, doubles, named = found(folder)
        total = sums()
        assert total[:2] == sent[:2], f"sent {sent}, found {total}"
        assert least <= total[2] <= sent[2], f"sent {sent}, found {total}"
        assert named["edge-2"] > 0, f"nothing says that something of edge-2 is missing: {named}"
        step(f"{len(values)} values once, {doubles} of them again with the same value; of the killed edge "
             f"{sent[2] - total[2]:.0f} of {sent[2]} lines are missing, as is said: {dict(named)}")


if __name__ == "__main__":
    main()
