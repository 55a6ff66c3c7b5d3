#!/usr/bin/env python3
"""Presence, live: 50 instances in 10 services beat with real clients over UDP; Alertmanager, a webhook and one of each other
kind of target are told.

  live_presence.py --systole PATH --example PATH --python PATH --node-modules FOLDER [--alertmanager PATH]

One after the other: all are up; a service is killed with -9; one instance of another is killed; one that runs under
`systole beat` is stopped with SIGTERM; the daemon is killed with -9 while a third service dies, and started again; the
first service comes back. Every alarm must come in time, at both, and no other. Slack, PagerDuty, ntfy (receivers that take
only what is published of them) and a command get those that their patterns and severities let through, each with its end.

Beside it a daemon whose wall clock is a day behind tells the same kinds of targets of a service that goes down and comes back:
as fast as any other, and with a duration that is right.
"""
import argparse
import glob
import http.server
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

from common import Processes, free_port, start_alertmanager, wait_for
from notify_stubs import LINK, Targets

PROMISE = 2
TIMEOUT = 4 * PROMISE + 1
GROUP_WAIT = 4
TICK = 0.5  # the tolerance of the design
HERE = os.path.dirname(os.path.abspath(__file__))


class Hook(http.server.ThreadingHTTPServer):
    """A webhook: keeps (arrival, key, resolved) of every event."""

    daemon_threads = True

    def __init__(self):
        self.seen = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                assert body["version"] == 1 and len(body["events"]) == len(body["dedup_keys"])
                for event, key in zip(body["events"], body["dedup_keys"]):
                    outer.seen.append((time.time(), key, event["resolved"], event))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Scene:
    """The daemon, its instances, and who is notified."""

    def __init__(self, args, processes, folder):
        self.args, self.processes, self.folder, self.children = args, processes, folder, {}
        self.udp, self.http = free_port(socket.SOCK_DGRAM), free_port()
        self.alertmanager = start_alertmanager(processes, folder, args.alertmanager)
        self.hook = Hook()
        self.targets = Targets(folder)
        self.problems = []

    def spawn(self, name, *command):
        log = os.path.join(self.folder, name.replace("/", "_") + ".log")
        self.children[name] = self.processes.start([str(part) for part in command], log, stdin=subprocess.DEVNULL)

    def start_systole(self):
        config = os.path.join(self.folder, "systole.toml")
        with open(config, "w") as out:
            # The five of a service start, and so fall silent, one after the other: on a busy machine over more than a tick.
            # Without a quorum it is not degraded, and that told, in between.
            out.write(f"""interval = "1s"
[[listen]]
url = "udp://127.0.0.1:{self.udp}"
[[sink]]
type = "file"
path = "{self.folder}/records.jsonl"
[http]
address = "127.0.0.1:{self.http}"
external_url = "{LINK}"
[presence]
state_file = "{self.folder}/presence.json"
alertmanager = ["http://127.0.0.1:{self.alertmanager}"]
webhook = ["http://127.0.0.1:{self.hook.server_address[1]}/"]
group_wait = "{GROUP_WAIT}s"
quorum = 0
""" + self.targets.config(pagerduty='severity = "critical"', ntfy='except = ["datadog*"]'))
        self.spawn("systole", self.args.systole, "run", "-c", config)
        booted = time.time()
        self.until("systole is ready", 10, lambda: self.get(self.http, "/ready", raw=True) is not None)
        return booted

    def start_instance(self, service, instance):
        a, port = self.args, self.udp
        line = f"heartbeat.{service}.{instance}:{PROMISE}|g"
        client = service.split("-")[0]
        name = f"{service}/{instance}"
        if client in ("pystatsd", "datadog", "check"):
            command = [a.python, f"{HERE}/clients/beat.py", client, port, service, instance, PROMISE]
        elif client == "hotshots":
            command = ["node", f"{HERE}/clients/beat.js", a.node_modules, port, service, instance, PROMISE]
        elif client == "cadence":
            command = [a.example, f"127.0.0.1:{port}", service, instance, PROMISE]
        elif client == "nc":
            command = ["bash", "-c", f"while :; do echo '{line}' | nc -u -q0 127.0.0.1 {port}; sleep {PROMISE}; done"]
        elif client == "bash":
            command = ["bash", "-c", f"while :; do printf '{line}' > /dev/udp/127.0.0.1/{port}; sleep {PROMISE}; done"]
        else:
            command = [a.systole, "beat", name, "--every", f"{PROMISE}s", "--to", f"udp://127.0.0.1:{port}", "--",
                       "sleep", "600"]
        self.spawn(name, *command)

    def kill(self, name):
        child = self.children[name]
        child.kill()
        child.wait()

    def get(self, port, path, raw=False):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
                body = answer.read()
                return body if raw else json.loads(body)
        except (OSError, ValueError):
            return None

    def until(self, what, seconds, is_so):
        began = time.time()
        while not is_so():
            if time.time() - began > seconds:
                raise SystemExit(f"FAILED: never: {what} (see {self.folder})")
            time.sleep(0.05)
        return time.time()

    def firing(self):
        """Alarms that Alertmanager holds, but the watchdog."""
        alerts = self.get(self.alertmanager, "/api/v2/alerts?active=true") or []
        labels = [alert["labels"] for alert in alerts]
        return {tuple(filter(None, (l["alertname"], l.get("service"), l.get("instance")))) for l in labels}

    def hooked(self, key, resolved):
        return next((at for at, seen, is_end, _ in self.hook.seen if seen == key and is_end == resolved), None)

    def told(self, what, topic, since, limit, resolved=False):
        """Waits until both know of an alarm or its end, and checks when the webhook did."""
        key = "/".join(topic)
        self.until(f"{key} {'resolved' if resolved else 'firing'} at the webhook", limit + 10,
                   lambda: self.hooked(key, resolved) is not None)
        webhook = self.hooked(key, resolved) - since
        seen = self.until(f"{key} at Alertmanager", 10, lambda: (tuple(topic) in self.firing()) != resolved) - since
        verdict = "ok" if webhook <= limit and seen <= limit + 0.5 else "LATE"
        print(f"{verdict}: {what}: webhook after {webhook:.2f} s, Alertmanager after {seen:.2f} s (limit {limit} s)", flush=True)
        if verdict != "ok":
            self.problems.append(what)


class Skewed:
    """A daemon whose wall clock is a day behind; its monotonic clock runs as ours does."""

    BEHIND = 86_400
    PROMISE = 1
    DOWN_FOR = 4

    def __init__(self, args, processes, folder):
        self.folder = os.path.join(folder, "skewed")
        os.makedirs(self.folder)
        self.targets, self.problems = Targets(self.folder), []
        udp, page = free_port(socket.SOCK_DGRAM), free_port()
        config = os.path.join(self.folder, "systole.toml")
        with open(config, "w") as out:
            out.write(f"""interval = "1s"
[[listen]]
url = "udp://127.0.0.1:{udp}"
[[sink]]
type = "file"
path = "{self.folder}/records.jsonl"
[http]
address = "127.0.0.1:{page}"
external_url = "{LINK}"
[presence]
state_file = "off"
""" + self.targets.config())
        libraries = glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")
        if not libraries:
            sys.exit("libfaketime is missing (Debian: faketime)")
        fake = {"LD_PRELOAD": libraries[0], "FAKETIME": f"-{self.BEHIND}s", "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                "DONT_FAKE_MONOTONIC": "1", "FAKETIME_NO_CACHE": "1"}
        processes.start([args.systole, "run", "-c", config], os.path.join(self.folder, "log"), env={**os.environ, **fake})
        self.address = ("127.0.0.1", udp)
        ready = f"http://127.0.0.1:{page}/ready"
        wait_for("the skewed daemon is ready", lambda: urllib.request.urlopen(ready, timeout=5))
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sender.sendto(b"heartbeat:1|g|#service:pay,instance:a,interval:1", self.address)
        began, timeout = time.time(), 4 * self.PROMISE + 1
        pager = self.targets.pagerduty
        down = self.await_told(pager, 1, began + timeout + TICK + 5)
        if not down or down[0] - began > timeout + TICK:
            self.problems.append(f"by a wrong clock: down was told after {down and down[0] - began} s")
            return
        time.sleep(self.DOWN_FOR)
        back = time.time()
        sender.sendto(b"heartbeat:60|g|#service:pay,instance:a", self.address)
        up = self.await_told(pager, 2, back + 6)
        if not up or up[0] - back > 1:
            self.problems.append(f"by a wrong clock: the end was told after {up and up[0] - back} s")

    def await_told(self, stub, count, until):
        while len(stub.seen) < count and time.time() < until:
            time.sleep(0.02)
        return stub.seen[count - 1] if len(stub.seen) >= count else None

    def check(self):
        """What was wrong."""
        self.thread.join()
        both = [("PresenceServiceDown/pay", False), ("PresenceServiceDown/pay", True)]
        wait_for("all have the end", lambda: self.targets.command.told() == both and len(self.targets.slack.seen) == 2 ==
                 len(self.targets.ntfy.seen), else_say=lambda: f"(see {self.folder})")
        said = self.targets.ntfy.seen[1][3]["text"]
        lasted = re.search(r"It lasted ([0-9.]+) s", said)
        if not lasted or not self.DOWN_FOR - 1 <= float(lasted.group(1)) <= self.DOWN_FOR + 2:
            self.problems.append(f"by a wrong clock: {said!r}")
        print("a daemon whose clock is a day behind told all of them in time")
        return self.problems + self.targets.problems()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--systole", required=True)
    parser.add_argument("--example", required=True)
    parser.add_argument("--python", required=True)
    parser.add_argument("--node-modules", required=True)
    parser.add_argument("--alertmanager", default="prometheus-alertmanager")
    args = parser.parse_args()
    for name in ("systole", "example", "python", "node_modules"):
        setattr(args, name, os.path.abspath(getattr(args, name)))
    folder = tempfile.mkdtemp(prefix="systole-live-")
    with Processes() as processes:
        scene = Scene(args, processes, folder)
        skewed = Skewed(args, processes, folder)
        run(scene)
        scene.problems += skewed.check()
    if scene.problems:
        raise SystemExit(f"FAILED: {scene.problems} (see {folder})")
    shutil.rmtree(folder)
    print("all in time, and nothing else was told")


def run(scene):
    clients = ["pystatsd-a", "pystatsd-b", "datadog-a", "datadog-b", "check-a", "hotshots-a", "cadence-a", "nc-a",
               "bash-a", "beat-a"]
    scene.start_systole()
    for service in clients:
        for n in range(5):
            scene.start_instance(service, f"i{n}")

    def present():
        services = scene.get(scene.http, "/api/v1/presence") or []
        return sum(1 for s in services for i in s["instances"] if i["state"] == "up")

    scene.until("all 50 are up", 60, lambda: present() == 50)
    print("50 instances of 10 services are up", flush=True)
    time.sleep(2 * PROMISE)

    # A whole service dies.
    killed = time.time()
    for n in range(5):
        scene.kill(f"datadog-a/i{n}")
    scene.told("a service was killed", ["PresenceServiceDown", "datadog-a"], killed, TIMEOUT + TICK)

    # One instance dies: its warning waits for a service's alarm that may replace it.
    killed = time.time()
    scene.kill("cadence-a/i3")
    limit = TIMEOUT + GROUP_WAIT + TICK
    scene.told("an instance was killed", ["PresenceInstanceDown", "cadence-a", "i3"], killed, limit)

    # One is asked to stop: that is no alarm.
    scene.children["beat-a/i2"].send_signal(signal.SIGTERM)
    def state(service, instance):
        found = scene.get(scene.http, f"/api/v1/presence/{service}/{instance}") or {}
        return found.get("state")
    scene.until("the one that was stopped has left", 5, lambda: state("beat-a", "i2") == "left")

    # The daemon dies, and meanwhile a service.
    time.sleep(11)  # a state is saved every 10 s
    scene.kill("systole")
    for n in range(5):
        scene.kill(f"nc-a/i{n}")
    time.sleep(5)
    booted = scene.start_systole()
    scene.told("a service died while we were away", ["PresenceServiceDown", "nc-a"], booted, TIMEOUT + 1)

    # The first service comes back.
    back = time.time()
    for n in range(5):
        scene.start_instance("datadog-a", f"i{n}")
    scene.told("the first service is back", ["PresenceServiceDown", "datadog-a"], back, PROMISE + 1, resolved=True)
    time.sleep(TIMEOUT + GROUP_WAIT)

    expected = [("PresenceServiceDown/datadog-a", False), ("PresenceInstanceDown/cadence-a/i3", False),
                ("PresenceServiceDown/nc-a", False), ("PresenceServiceDown/datadog-a", True)]
    seen = [(key, resolved) for _, key, resolved, _ in scene.hook.seen]
    if seen != expected:
        scene.problems.append(f"the webhook was told {seen}")
    targets = scene.targets
    for name, told, wanted in [
        ("PagerDuty", targets.pagerduty.told(), [one for one in expected if "InstanceDown" not in one[0]]),
        ("the command", targets.command.told(), expected),
        ("Slack", [end for _, end in targets.slack.told()], [end for _, end in expected]),
        ("ntfy", [end for _, end in targets.ntfy.told()], [False, False]),
    ]:
        if told != wanted:
            scene.problems.append(f"{name} was told {told}, not {wanted}")
    scene.problems += targets.problems()
    firing = scene.firing()
    if firing != {("PresenceInstanceDown", "cadence-a", "i3"), ("PresenceServiceDown", "nc-a"), ("PresenceWatchdog",)}:
        scene.problems.append(f"Alertmanager holds {sorted(firing)}")


if __name__ == "__main__":
    sys.exit(main())
