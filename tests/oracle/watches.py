#!/usr/bin/env python3
"""Watched metrics of real emitters: gunicorn (--statsd-host), uWSGI (--stats-push statsd), the client of OpenStack Swift, and a
shell that counts. Each is killed and started again: one down, within its timeout and a tick, and one recovery; nothing else.

  watches.py --systole PATH
"""
import argparse
import os
import socket
import sys
import tempfile
import threading
import time
import urllib.request

from common import Processes, free_port, get_json, records, stop, wait_for

# An interval of 1 s: down after 4 missed and a grace of 1 s. A beat is late by a look of a quarter of a second at most, and a
# down by a tick.
TIMEOUT, SLACK = 5.0, 1.5

WATCHES = """
[[presence.watch]]
match = "web.gunicorn.request.status.*"
service = "gunicorn"
instance = "{source}"
interval = "1s"
[[presence.watch]]
match = "uwsgi.*.core.busy_workers"
service = "uwsgi"
instance = "{1}"
interval = "1s"
[[presence.watch]]
match = "proxy-server.*.timing"
service = "swift"
instance = "all"
interval = "1s"
evidence = "nonzero"
[[presence.watch]]
match = "jobs.done"
service = "jobs"
instance = "{host}"
interval = "1s"
floor = 3
"""

APPLICATION = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"fine"]
"""

SWIFT = """
import sys, time
import swift.common.utils as utils
conf = {"log_statsd_host": "127.0.0.1", "log_statsd_port": sys.argv[1]}
client = utils.get_statsd_client(conf, tail_prefix="proxy-server")
while True:
    client.timing("GET.200.timing", 12.5)
    time.sleep(0.4)
"""

COUNTER = "while :; do printf 'jobs.done:1|c|#host:box7' > /dev/udp/127.0.0.1/$0; sleep 0.4; done"


def fresh_page(port):
    """Somebody who looks at the page all the while, as a balancer does: gunicorn has something to say only then."""
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2).read()
        except OSError:
            pass
        time.sleep(0.3)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--systole", required=True, type=os.path.abspath)
    args = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="systole-watches-")
    udp, http, page = free_port(socket.SOCK_DGRAM), free_port(), free_port()
    out, programs = f"{folder}/records.jsonl", os.path.dirname(sys.executable)
    with open(f"{folder}/systole.toml", "w") as config:
        config.write(f'interval = "1s"\n[[listen]]\nurl = "udp://127.0.0.1:{udp}"\n[[sink]]\ntype = "file"\npath = "{out}"\n'
                     f'[http]\naddress = "127.0.0.1:{http}"\n[presence]\nstate_file = "off"\n{WATCHES}')
    with open(f"{folder}/application.py", "w") as application:
        application.write(APPLICATION)
    emitters = {
        "gunicorn": [f"{programs}/gunicorn", "-b", f"127.0.0.1:{page}", "--statsd-host", f"127.0.0.1:{udp}",
                     "--statsd-prefix", "web", "application:app"],
        "uwsgi": [f"{programs}/uwsgi", "--http-socket", f"127.0.0.1:{free_port()}", "--wsgi-file", "application.py", "--callable",
                  "app", "--master", "--stats-push", f"statsd:127.0.0.1:{udp},uwsgi.app1", "--stats-pusher-default-freq", "1"],
        "swift": [sys.executable, "-c", SWIFT, str(udp)],
        "jobs": ["bash", "-c", COUNTER, str(udp)],
    }
    threading.Thread(target=fresh_page, args=[page], daemon=True).start()
    with Processes() as processes:
        systole = processes.start([args.systole, "run", "-c", f"{folder}/systole.toml"], f"{folder}/log")
        wait_for("the daemon", lambda: urllib.request.urlopen(f"http://127.0.0.1:{http}/ready", timeout=2))
        running, took = {}, {}

        def start(name):
            # Its workers end with it.
            running[name] = processes.start(emitters[name], f"{folder}/{name}.log", cwd=folder, start_new_session=True)

        def end(name):
            os.killpg(running[name].pid, 9)
            running[name].wait()

        def state(name):
            try:
                return get_json(f"http://127.0.0.1:{http}/api/v1/presence/{name}")
            except urllib.error.HTTPError:
                return {"state": None}

        try:
            for name in emitters:
                start(name)
            for name in emitters:
                shown = wait_for(name, lambda: state(name)["state"] == "up" and state(name), else_say=lambda: folder)
                assert shown["instances"][0]["watch"], shown
            # One more second of each, for two at once are no mass silence of four.
            time.sleep(1)
            for pair in (("gunicorn", "jobs"), ("uwsgi", "swift")):
                for name in pair:
                    end(name)
                began = time.monotonic()
                while len(took) < 4 and any(name not in took for name in pair):
                    for name in pair:
                        if name not in took and state(name)["state"] == "down":
                            took[name] = time.monotonic() - began
                    assert time.monotonic() < began + TIMEOUT + 10, f"{pair}: {took} of {folder}"
                    time.sleep(0.02)
                for name in pair:
                    start(name)
                for name in pair:
                    wait_for(f"{name} again", lambda: state(name)["state"] == "up", else_say=lambda: folder)
        finally:
            for process in running.values():
                if process.poll() is None:
                    os.killpg(process.pid, 9)
        stop(systole)
    seen = [one for one in records(out) if one["type"] == "presence"]
    for name in emitters:
        assert took[name] <= TIMEOUT + SLACK, f"{name} was down after {took[name]:.1f} s"
        said = [(one["from"], one["to"], one["notify"]) for one in seen if one["kind"] == "service" and one["service"] == name]
        assert said == [("none", "up", False), ("up", "down", True), ("down", "up", True)], f"{name}: {said}"
    others = [one for one in seen if one["notify"] and one["kind"] not in ("service", "instance")]
    assert not others, others
    metrics = {one["name"] for one in records(out) if one["type"] in ("counter", "gauge", "timer")}
    assert {"jobs.done", "proxy-server.GET.200.timing", "uwsgi.app1.core.busy_workers"} <= metrics, metrics
    print(f"four emitters, each down once and up again; down after {', '.join(f'{n} {t:.1f} s' for n, t in took.items())}")


main()
