#!/usr/bin/env python3
"""Screenshots of the board in Chromium, desktop and phone: an empty, a healthy, a degraded and a mass-silent installation,
and the page of a service. Checks that the first line says what matters.

  board.py --systole PATH --out FOLDER [--chromium PATH]
"""
import argparse
import http.client
import json
import os
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request

from common import free_port

WIDTHS = {"desktop": (1280, 900), "phone": (420, 860)}
FLEET = {"api-gateway": 6, "checkout": 4, "payments": 3, "search": 8, "worker-mail": 2, "nightly.etl": 1}


class Daemon:
    def __init__(self, systole):
        self.udp, self.http = free_port(socket.SOCK_DGRAM), free_port(socket.SOCK_STREAM)
        folder = tempfile.mkdtemp(prefix="systole-board-")
        with open(f"{folder}/systole.toml", "w") as out:
            out.write(f'interval = "1s"\n[[listen]]\nurl = "udp://127.0.0.1:{self.udp}"\n[[sink]]\ntype = "file"\n'
                      f'path = "{folder}/records.jsonl"\n[http]\naddress = "127.0.0.1:{self.http}"\ntoken = "secret"\n'
                      '[presence]\nstate_file = "off"\n[[presence.service]]\nmatch = "payments"\nmin = 3\n')
        log = open(f"{folder}/log", "wb")
        self.child = subprocess.Popen([systole, "run", "-c", f"{folder}/systole.toml"], stdout=log, stderr=log)
        self.alive, self.quiet, self.stopped = {}, set(), False
        self.until("it is ready", lambda: self.get("/ready"))
        threading.Thread(target=self.beat, daemon=True).start()

    def beat(self):
        out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        while not self.stopped:
            for (service, instance), version in list(self.alive.items()):
                if (service, instance) not in self.quiet:
                    line = f"heartbeat:1|g|#service:{service},instance:{instance},interval:1,start:1795390000,version:{version}"
                    out.sendto(line.encode(), ("127.0.0.1", self.udp))
            time.sleep(0.8)

    def say(self, line):
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(line.encode(), ("127.0.0.1", self.udp))

    def start_fleet(self):
        for service, count in FLEET.items():
            for n in range(1, count + 1):
                self.alive[service, f"web-{n}.example.org"] = "1.4.2"

    def get(self, path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", timeout=5) as answer:
                return answer.read().decode()
        except (OSError, http.client.HTTPException):
            return None

    def until(self, what, is_so):
        end = time.time() + 30
        while not is_so():
            if time.time() > end:
                raise SystemExit(f"FAILED: never: {what}")
            time.sleep(0.1)

    def states(self):
        return {s["service"]: s["state"] for s in json.loads(self.get("/api/v1/presence"))}

    def stop(self):
        self.stopped = True
        self.child.kill()
        self.child.wait()


def shoot(chromium, daemon, path, out, name, wanted):
    page = daemon.get(path)
    if wanted not in page:
        raise SystemExit(f"FAILED: {name}: `{wanted}` is not on the page")
    for width, (x, y) in WIDTHS.items():
        file = os.path.join(out, f"{name}-{width}.png")
        profile = tempfile.mkdtemp(prefix="systole-chromium-")
        subprocess.run([chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                        "--force-color-profile=srgb", f"--user-data-dir={profile}", f"--window-size={x},{y}",
                        f"--screenshot={file}", f"http://127.0.0.1:{daemon.http}{path}"],
                       check=True, timeout=90, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if os.path.getsize(file) < 5000:
            raise SystemExit(f"FAILED: {file} is empty")
        print(f"ok: {file}", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--systole", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--chromium", default="chromium")
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    daemon = Daemon(os.path.abspath(args.systole))
    try:
        shoot(args.chromium, daemon, "/presence", args.out, "empty", "Nobody was heard yet")
        daemon.start_fleet()
        daemon.until("everybody is up", lambda: list(daemon.states().values()) == ["up"] * len(FLEET))
        time.sleep(2)
        shoot(args.chromium, daemon, "/presence", args.out, "healthy", "All is well: 6 services are up, 24 present")
        for n in range(1, 5):
            daemon.quiet.add(("checkout", f"web-{n}.example.org"))
        daemon.quiet |= {("payments", "web-2.example.org"), ("search", "web-5.example.org")}
        daemon.quiet.add(("search", "web-8.example.org"))
        daemon.say("heartbeat.search.web-8__example__org:0|g")
        daemon.say("heartbeat:0|g|#service:search,instance:web-8.example.org")
        daemon.say("maintenance:600|g|#service:worker-mail,instance:web-2.example.org")
        daemon.until("a service is down", lambda: daemon.states()["checkout"] == "down")
        daemon.until("one is degraded", lambda: daemon.states()["payments"] == "degraded")
        time.sleep(1)
        shoot(args.chromium, daemon, "/presence", args.out, "degraded", "1 service down: checkout; 1 degraded")
        shoot(args.chromium, daemon, "/presence/checkout", args.out, "service", "checkout")
        daemon.quiet = set()
        daemon.until("everybody is back", lambda: "down" not in daemon.states().values())
        time.sleep(3)
        daemon.quiet = set(daemon.alive)
        daemon.until("it is a mass silence", lambda: "Mass silence" in (daemon.get("/presence") or ""))
        time.sleep(1)
        shoot(args.chromium, daemon, "/presence", args.out, "mass-silence", "Mass silence")
    finally:
        daemon.stop()


if __name__ == "__main__":
    main()
