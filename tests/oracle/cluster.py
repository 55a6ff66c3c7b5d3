#!/usr/bin/env python3
"""A cluster of three edges and two nodes that merge, on three servers of NATS with three replicas, while parts of it fail.

  cluster.py --systole PATH [--rate N] [--long]

PATH is a build with the feature `nats`. One after the other, under load: a node that merges is killed with -9 and started again, a server of
NATS is killed with -9 and started again, a node that merges stands still for longer than its session, an edge is killed with -9 and started
again, and every node is restarted in order. With `--long` each of these takes longer, and an edge is cut off from the bus for a minute,
and then every node. Afterwards each (series, interval) is in the files of the sinks once, or again with the same values; what was sent to
the edges that were not killed is there to the last line; of the killed one at most its open interval is missing, and of the one that was cut
off the intervals that the accounts name; and the restarts in order cost nothing at all.

Meanwhile services send heartbeats. One of them dies together with the node that notifies, which is one alarm; nothing else is one, but what
was away for ten seconds.
"""
import argparse
import collections
import datetime
import json
import os
import select
import signal
import socket
import sys
import tempfile
import threading
import time

from common import Processes, Receiver, Systole, free_port, get_json, listens, records, wait_for

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
             "-sd", f"{self.folder}/n{n}", "--cluster_name", "test", "--no_advertise", "--cluster", f"nats://127.0.0.1:{self.routes[n]}",
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


class Gate(threading.Thread):
    """Passes connections on to a port, unless it is shut: then nothing comes through, and nobody is told."""

    def __init__(self, target):
        super().__init__(daemon=True)
        self.target, self.is_open = target, threading.Event()
        self.is_open.set()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.start()

    def run(self):
        while True:
            client, _ = self.listener.accept()
            threading.Thread(target=self.carry, args=(client,), daemon=True).start()

    def carry(self, client):
        try:
            self.is_open.wait()
            server = socket.create_connection(("127.0.0.1", self.target), 5)
            while True:
                for ready in select.select([client, server], [], [])[0]:
                    self.is_open.wait()
                    some = ready.recv(1 << 16)
                    if not some:
                        return
                    (server if ready is client else client).sendall(some)
        except OSError:
            pass
        finally:
            client.close()


class Pager:
    """A webhook that knows when which alarm began and ended."""

    def __init__(self):
        self.all = []
        self.receiver = Receiver(self.take)

    def take(self, _path, _headers, body):
        said = json.loads(body)
        for key, event in zip(said["dedup_keys"], said["events"]):
            self.all.append((time.monotonic(), key, event["resolved"]))
        return 200

    def begun(self, part):
        return [at for at, key, is_over in self.all if part in key and not is_over]


class Hearts(threading.Thread):
    """A heartbeat of each service a second, to its edge."""

    def __init__(self, services):
        super().__init__(daemon=True)
        self.services, self.is_over = services, threading.Event()

    def run(self):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            while not self.is_over.wait(1):
                for service, port in list(self.services.items()):
                    out.sendto(f"heartbeat.{service}.1:2|g".encode(), ("127.0.0.1", port))


def node(processes, program, folder, name, role, bus, hook):
    tables = (f'[cluster]\nrole = "{role}"\nnode = "{name}"\nbus = {bus}\npartitions = {PARTITIONS}\nlateness = "3s"\n'
              f'state_file = "{folder}/{name}.state"\n')
    if role == "global":
        tables += f'[[sink]]\ntype = "file"\npath = "{folder}/{name}.jsonl"\n'
        tables += f'[[notify]]\ntype = "webhook"\nurl = "http://127.0.0.1:{hook}/"\n'
    udp = free_port(socket.SOCK_DGRAM)
    tables += f'[[listen]]\nurl = "udp://127.0.0.1:{udp}"\n'
    started = Systole(processes, program, folder, {"root": 'interval = "1s"', "tables": tables}, name)
    started.udp = udp
    return started


class Load(threading.Thread):
    """Lines to one edge, until it ends; a connection that breaks is made anew, and the lines of that write are in doubt."""

    def __init__(self, edge, name, rate):
        super().__init__(daemon=True)
        self.edge, self.name, self.rate = edge, name, rate
        self.sent, self.is_over, self.may_send = 0, threading.Event(), threading.Event()
        # When a write ended, by the wall clock.
        self.times = []
        self.may_send.set()

    def run(self):
        connection, at = None, 0
        while not self.is_over.is_set():
            lines = "".join(f"{self.name}.{(at + n) % SERIES}:1|c\n" for n in range(self.rate // 20)).encode()
            try:
                connection = connection or socket.create_connection(("127.0.0.1", self.edge.tcp), 10)
                connection.sendall(lines)
                self.sent += self.rate // 20
                self.times.append(time.time())
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

    def was_quiet(self, end):
        """Whether nothing was sent, such as while its edge is restarted, in most of the interval that ends then: a tenth of a second at
        its ends may count for its neighbours."""
        return not any(end - 0.9 < at < end - 0.1 for at in self.times)


def found(folder):
    """Values by series and time, how often one came again, and the accounts of the cluster by time."""
    values, doubles, accounts = {}, 0, {}
    for n in range(GLOBALS):
        for record in records(f"{folder}/global-{n}.jsonl"):
            if record["type"] == "counter" and record["name"].startswith("load."):
                key = (record["name"], record["time"])
                if key in values:
                    doubles += 1
                    assert values[key] == record["value"], f"{key}: {values[key]} and then {record['value']}"
                values[key] = record["value"]
            # The owner of the first partition has the accounts of the edges.
            if record.get("cluster", {}).get("edges_expected"):
                accounts[record["time"]] = record["cluster"]
    return values, doubles, accounts


class Run:
    """The cluster and what is sent to it."""

    def __init__(self, args, folder, processes):
        self.folder, self.rate, self.is_long = folder, args.rate, args.long
        self.nats = Nats(processes, folder)
        self.gates = [Gate(port) for port in self.nats.ports]
        self.pager = Pager()
        addresses = lambda ports: "[" + ", ".join(f'"127.0.0.1:{port}"' for port in ports) + "]"
        direct, gated = addresses(self.nats.ports), addresses(gate.port for gate in self.gates)

        def start(name, role, bus=direct):
            return node(processes, os.path.abspath(args.systole), folder, name, role, bus, self.pager.receiver.port)

        self.globals = [start(f"global-{n}", "global") for n in range(GLOBALS)]
        self.edges = [start(f"edge-{n}", "edge", gated if n == 1 else direct) for n in range(EDGES)]
        wait_for("owners of all partitions", self.are_owned)
        self.loads = [Load(edge, f"load.{n}", args.rate) for n, edge in enumerate(self.edges)]
        self.hearts = Hearts({"steady": self.edges[0].udp, "other": self.edges[1].udp, "victim": self.edges[0].udp})
        for one in [*self.loads, self.hearts]:
            one.start()
        self.began = time.monotonic()

    def status(self, daemon):
        return get_json(f"http://127.0.0.1:{daemon.page}/api/v1/cluster")

    def are_owned(self):
        return sum(p["is_ours"] for g in self.globals for p in self.status(g)["partitions"]) == PARTITIONS

    def step(self, what):
        print(f"{time.monotonic() - self.began:5.1f} s  {what}", flush=True)

    def pause(self, short, long):
        time.sleep(long if self.is_long else short)

    def service(self, name):
        return get_json(f"http://127.0.0.1:{self.globals[1].page}/api/v1/presence/{name}")

    def kill_who_notifies(self):
        wait_for("all services", lambda: all(self.service(name)["state"] == "up" for name in self.hearts.services))
        self.pause(3, 20)
        timeout = self.service("victim")["instances"][0]["timeout_s"]
        self.step(f"the node that notifies is killed, and a service with a timeout of {timeout} s dies")
        del self.hearts.services["victim"]
        self.globals[0].kill()
        died = time.monotonic()
        self.pause(4, 30)
        self.globals[0].start()
        wait_for("the alarm", lambda: self.pager.begun("victim"))
        took = self.pager.begun("victim")[0] - died
        self.step(f"its alarm came {took:.1f} s after that")
        assert took <= timeout + 7, f"{took} s"

    def kill_leader(self):
        leader = self.nats.leader("SYSTOLE_P0")
        self.step(f"the leader of the batches is killed, n{leader}")
        self.nats.kill(leader)
        self.pause(8, 30)
        self.nats.restart(leader)

    def stop_still(self):
        self.step("a node that merges stands still")
        self.globals[1].process.send_signal(signal.SIGSTOP)
        self.pause(8, 20)
        self.globals[1].process.send_signal(signal.SIGCONT)
        self.pause(0, 20)

    def cut_off(self, what, seconds, begin, end):
        """Cuts something off; when the alarms that may follow are over by themselves."""
        self.step(f"{what} for {seconds} s")
        begin()
        time.sleep(seconds)
        end()
        time.sleep(20)

    def kill_edge(self):
        self.step("an edge is killed")
        self.edges[2].kill()
        time.sleep(1)
        self.edges[2].start()
        self.pause(3, 20)

    def restart_all(self):
        """From when to when that took, by the wall clock."""
        self.step("every node is restarted, one after the other")
        begin = time.time()
        for one in self.globals:
            one.stop()
            one.start()
            wait_for("owners of all partitions", self.are_owned)
        for load, edge in zip(self.loads, self.edges):
            # A sender that goes on would not know what is read of its connection.
            load.may_send.clear()
            time.sleep(0.3)
            edge.stop()
            edge.start()
            load.may_send.set()
            self.pause(1, 10)
        self.pause(3, 20)
        return begin, time.time()

    def end(self):
        """What was sent to each edge."""
        self.hearts.is_over.set()
        for load in self.loads:
            load.is_over.set()
            load.join()
        self.step("no more is sent")
        time.sleep(0.5)
        for edge in self.edges:
            edge.stop()
        return [load.sent for load in self.loads]

    def sums(self):
        values = found(self.folder)[0]
        return [sum(value for (name, _), value in values.items() if name.startswith(f"load.{n}.")) for n in range(EDGES)]


def check_missing(n, load, values, accounts):
    """Intervals without a value of an edge are those in whose account it is named, and those in which nothing was sent to it; how many of
    the former."""
    times = {time for (name, time) in values if name.startswith(f"load.{n}.")}
    missing = {time for time in accounts if min(times) < time < max(times) and not load.was_quiet(seconds(time))} - times
    unnamed = [time for time in missing if f"edge-{n}" not in accounts[time].get("edges_behind", [])]
    assert not unnamed, f"nothing says that edge-{n} is missing at {unnamed}"
    return len(missing)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--systole", required=True)
    parser.add_argument("--rate", type=int, default=2000)
    parser.add_argument("--long", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Processes() as processes:
        run = Run(args, folder, processes)
        run.kill_who_notifies()
        run.kill_leader()
        run.stop_still()
        lost = 0
        if args.long:
            gates = run.gates
            run.cut_off("an edge is cut off from the bus", 60, lambda: [gate.is_open.clear() for gate in gates],
                        lambda: [gate.is_open.set() for gate in gates])
            servers = run.nats.running
            signals = lambda which: [server.send_signal(which) for server in servers]
            run.cut_off("nobody reaches the bus", 60, lambda: signals(signal.SIGSTOP), lambda: signals(signal.SIGCONT))
            lost = 61 + 3 + 2
        run.kill_edge()
        restarts = run.restart_all()
        sent = run.end()

        least = [sent[0], sent[1] - lost * args.rate, sent[2] - OPEN_INTERVALS * args.rate]
        wait_for("all that was sent", lambda: all(a >= b for a, b in zip(run.sums(), least)), 60, 0.5,
                 lambda: f"sent {sent}, found {run.sums()}")
        time.sleep(2)
        for one in run.globals:
            one.stop()
        values, doubles, accounts = found(folder)
        total = run.sums()
        assert total[0] == sent[0] and (lost or total[1] == sent[1]), f"sent {sent}, found {total}"
        assert all(a <= b <= c for a, b, c in zip(least, total, sent)), f"sent {sent}, found {total}"
        named = collections.Counter(edge for account in accounts.values() for edge in account.get("edges_behind", []))
        assert named["edge-2"] > 0, f"nothing says that something of edge-2 is missing: {named}"
        missing = check_missing(1, run.loads[1], values, accounts)
        run.step(f"{len(values)} values once, {doubles} of them again with the same value; of the killed edge "
                 f"{sent[2] - total[2]:.0f} of {sent[2]} lines are missing, of the one that was cut off "
                 f"{sent[1] - total[1]:.0f} of {sent[1]} in {missing} intervals, as is said: {dict(named)}")
        during = [account for time, account in accounts.items() if restarts[0] < seconds(time) < restarts[1]]
        bad = [account for account in during
               if any(account.get(key) for key in ["edges_partial", "batches_late", "batches_lost", "batches_skewed"])]
        assert during and not bad, f"restarts in order cost something: {bad[:3]}"
        may_be = {"victim"} | ({"the bus of systole", "edge-1/systole", "global-0/systole", "global-1/systole"} if args.long else set())
        wrong = [key for _, key, _ in run.pager.all if not any(part in key for part in may_be)]
        assert len(run.pager.begun("victim")) == 1 and not wrong, run.pager.all
        run.step(f"{len(during)} intervals during the restarts, all whole; alarms: "
                 f"{sorted({key for _, key, _ in run.pager.all})}")


def seconds(time):
    """Unix seconds of a time of a record."""
    return time if isinstance(time, (int, float)) else datetime.datetime.fromisoformat(time).timestamp()


if __name__ == "__main__":
    main()
