#!/usr/bin/env python3
"""A clock that is not Alertmanager's: two daemons whose clocks are 2 s ahead of and 2 s behind a real Alertmanager's
(libfaketime, on ours) tell it of services that go down and come back, one after the other. Each end must be effective at
Alertmanager within 5 s.

  clock_skew.py --systole PATH [--resolves 20] [--skew 2] [--alertmanager PATH]
"""
import argparse
import glob
import os
import socket
import sys
import tempfile
import time
import urllib.request
from datetime import datetime

from common import Processes, free_port, get_json, start_alertmanager, wait_for

LIMIT = 5
# Between two that come back, so that each meets another phase of the daemon's ticks.
STEP = 0.37


class Skewed:
    """A daemon with a clock of its own."""

    def __init__(self, processes, program, folder, name, skew, manager, count):
        self.name, self.udp, self.page = name, free_port(socket.SOCK_DGRAM), free_port()
        self.services = [f"{name}-{n}" for n in range(count)]
        self.folder = f"{folder}/{name}"
        os.makedirs(self.folder)
        config = f"{self.folder}/systole.toml"
        with open(config, "w") as out:
            # Everybody falls silent at once, and that is no mass silence here.
            out.write(f"""interval = "1s"
[[listen]]
url = "udp://127.0.0.1:{self.udp}"
[[sink]]
type = "file"
path = "{self.folder}/records.jsonl"
[http]
address = "127.0.0.1:{self.page}"
[presence]
state_file = "off"
alertmanager = ["http://127.0.0.1:{manager}"]
mass_fraction = 1.1
""")
        libraries = glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")
        if not libraries:
            sys.exit("libfaketime is missing (Debian: faketime)")
        # Only the time of day is another one; the monotonic clock runs as it does.
        fake = {"LD_PRELOAD": libraries[0], "FAKETIME": f"{skew:+g}s", "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                "DONT_FAKE_MONOTONIC": "1", "FAKETIME_NO_CACHE": "1"}
        processes.start([program, "run", "-c", config], f"{self.folder}/log", env={**os.environ, **fake})
        wait_for(f"{name} is ready", lambda: urllib.request.urlopen(f"http://127.0.0.1:{self.page}/ready", timeout=5))
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.skew = skew

    def beat(self, service, promise):
        self.socket.sendto(f"heartbeat:1|g|#service:{service},instance:a,interval:{promise}".encode(),
                           ("127.0.0.1", self.udp))

    def check_clock(self):
        """That the daemon's clock is as far from ours as it should be."""
        sent = time.time()
        self.beat(self.services[0], 1)
        events = wait_for("an event", lambda: get_json(f"http://127.0.0.1:{self.page}/api/v1/presence/events"))
        said = datetime.fromisoformat(events[0]["time"].replace("Z", "+00:00"))
        off = said.timestamp() - sent
        if abs(off - self.skew) > 1:
            sys.exit(f"{self.name}: its clock is {off:+.2f} s off, not {self.skew:+g} s")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--systole", required=True)
    parser.add_argument("--resolves", type=int, default=20)
    parser.add_argument("--skew", type=float, default=2)
    parser.add_argument("--alertmanager", default="prometheus-alertmanager")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="systole-clock-") as folder, Processes() as processes:
        run(args, os.path.abspath(args.systole), folder, processes)


def run(args, program, folder, processes):
    manager = start_alertmanager(processes, folder, args.alertmanager)
    daemons = [Skewed(processes, program, folder, name, skew, manager, args.resolves)
               for name, skew in (("ahead", args.skew), ("behind", -args.skew))]
    for daemon in daemons:
        daemon.check_clock()
        for service in daemon.services:
            daemon.beat(service, 1)

    def firing():
        alerts = get_json(f"http://127.0.0.1:{manager}/api/v2/alerts?active=true")
        return {a["labels"].get("service") for a in alerts if a["labels"]["alertname"] == "PresenceServiceDown"}

    all_of_them = {service for daemon in daemons for service in daemon.services}
    wait_for("all are down", lambda: firing() == all_of_them, 30)
    back, took, pending = {}, {}, list(range(args.resolves))
    due = time.monotonic()
    while len(took) < len(all_of_them):
        now = time.monotonic()
        if pending and now >= due:
            for daemon in daemons:
                service = daemon.services[pending[0]]
                daemon.beat(service, 600)
                back[service] = time.monotonic()
            pending.pop(0)
            due = now + STEP
        still = firing()
        for service, since in back.items():
            if service not in took and service not in still:
                took[service] = time.monotonic() - since
        late = [service for service, since in back.items() if service not in took and time.monotonic() - since > 20]
        if late:
            break
        time.sleep(0.02)
    good = True
    for daemon in daemons:
        times = sorted(took.get(service, float("inf")) for service in daemon.services)
        in_time = sum(1 for t in times if t <= LIMIT)
        good &= in_time == args.resolves
        print(f"clock {daemon.skew:+g} s: {in_time} of {args.resolves} ends effective within {LIMIT} s "
              f"(median {times[len(times) // 2]:.2f} s, worst {times[-1]:.2f} s)", flush=True)
    if not good:
        sys.exit(f"FAILED: late ends ({ {service: round(t, 2) for service, t in took.items() if t > LIMIT} })")


if __name__ == "__main__":
    main()
