#!/usr/bin/env python3
"""Real clients, every kind that each has: nothing is malformed, every value arrives.

  clients.py --systole PATH --rust PATH --python PATH --node-modules FOLDER
"""
import argparse
import collections
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request

from common import free_port

HERE = os.path.dirname(os.path.abspath(__file__))
ENV, KV = {"env": "prod"}, {"k": "v"}

# type, name, tags: what comes in all (sum of a counter, last of a gauge, [count, sum] of a timer, members of a set).
EXPECTED = {
    ("counter", "pystatsd.c"): ({}, 2), ("gauge", "pystatsd.g"): ({}, 9.5), ("gauge", "pystatsd.negative"): ({}, -5),
    ("timer", "pystatsd.t"): ({}, [1, 12.5]), ("set", "pystatsd.s"): ({}, 2), ("counter", "pystatsd.packed"): ({}, 3),
    ("counter", "hot_shots.c"): ({**ENV, **KV}, 2), ("gauge", "hot_shots.g"): (ENV, 7.5),
    ("timer", "hot_shots.t"): (ENV, [1, 12.5]), ("histogram", "hot_shots.h"): (ENV, [1, 3]),
    ("distribution", "hot_shots.d"): (ENV, [1, 4]), ("set", "hot_shots.s"): (ENV, 2),
    ("counter", "node_statsd.c"): ({}, 2), ("gauge", "node_statsd.g"): ({}, 7.5),
    ("timer", "node_statsd.t"): ({}, [1, 12.5]), ("histogram", "node_statsd.h"): ({}, [1, 3]),
    ("set", "node_statsd.s"): ({}, 2),
    ("counter", "cadence.c"): (None, 2), ("gauge", "cadence.g"): (ENV, 7.5), ("timer", "cadence.t"): (ENV, [1, 12]),
    ("histogram", "cadence.h"): (ENV, [3, 6]), ("distribution", "cadence.d"): (ENV, [1, 4]),
    ("counter", "cadence.m"): (ENV, 2), ("set", "cadence.s"): (ENV, 1),
    ("counter", "crate.c"): (KV, 3), ("gauge", "crate.g"): (KV, 7.5), ("timer", "crate.t"): (KV, [1, 12]),
    ("histogram", "crate.h"): (KV, [1, 3]), ("distribution", "crate.d"): (KV, [1, 4]), ("set", "crate.s"): (KV, 1),
    ("counter", "exporter_c"): (KV, 3), ("gauge", "exporter_g"): ({}, 7.5),
    ("distribution", "exporter_h"): ({}, [2, 2]),
    ("counter", "nc.c"): ({}, 1), ("counter", "bash.c"): ({}, 2),
}
for name in ("datadog", "datadog_uds"):
    EXPECTED |= {
        ("counter", f"{name}.c"): ({**ENV, **KV}, 2), ("gauge", f"{name}.g"): (ENV, 7.5),
        ("timer", f"{name}.t"): (ENV, [1, 12.5]), ("histogram", f"{name}.h"): (ENV, [1, 3]),
        ("distribution", f"{name}.d"): (ENV, [1, 4]), ("set", f"{name}.s"): (ENV, 1),
        ("counter", f"{name}.sampled"): (ENV, 5), ("counter", f"{name}.packed"): (ENV, 3),
    }
EVENTS = {"datadog": "text\nline2", "hot-shots": "te|xt", "crate": "text"}


def main():
    parser = argparse.ArgumentParser()
    for name in ("systole", "rust", "python", "node-modules"):
        parser.add_argument(f"--{name}", required=True, type=os.path.abspath)
    args = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="systole-clients-")
    udp, http = free_port(socket.SOCK_DGRAM), free_port(socket.SOCK_STREAM)
    path, out = f"{folder}/dsd.socket", f"{folder}/records.jsonl"
    with open(f"{folder}/systole.toml", "w") as config:
        config.write(f'interval = "1s"\nself_metrics = false\n[[listen]]\nurl = "udp://127.0.0.1:{udp}"\n'
                     f'[[listen]]\nurl = "unixgram://{path}"\n[[sink]]\ntype = "file"\npath = "{out}"\n'
                     f'[http]\naddress = "127.0.0.1:{http}"\n[presence]\nstate_file = "off"\n')
    log = open(f"{folder}/log", "wb")
    systole = subprocess.Popen([args.systole, "run", "-c", f"{folder}/systole.toml"], stdout=log, stderr=log)
    try:
        end = time.time() + 20
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{http}/ready", timeout=2).read()
                break
            except OSError:
                if time.time() > end:
                    raise SystemExit(f"FAILED: systole is not ready (see {folder})")
                time.sleep(0.1)
        run = lambda *command: subprocess.run([str(part) for part in command], check=True, timeout=60)
        for client in ("pystatsd", "datadog", "datadog-uds"):
            run(args.python, f"{HERE}/clients/send.py", client, udp, path)
        for client in ("hot-shots", "node-statsd"):
            run("node", f"{HERE}/clients/send.js", args.node_modules, client, udp)
        run("bash", "-c", f"echo 'nc.c:1|c' | nc -u -q0 127.0.0.1 {udp}")
        run("bash", "-c", f"printf 'bash.c:2|c' > /dev/udp/127.0.0.1/{udp}")
        run(args.rust, udp)
        time.sleep(2.5)
        status = json.loads(urllib.request.urlopen(f"http://127.0.0.1:{http}/api/v1/status", timeout=5).read())
        systole.send_signal(signal.SIGTERM)
        systole.wait(timeout=20)
    finally:
        systole.kill()
        systole.wait()
    problems = []
    if any(status["lines"]["malformed"].values()):
        problems.append(f"malformed: {status['lines']['malformed']}")
    found, events, checks = collections.defaultdict(list), [], []
    for line in open(out):
        record = json.loads(line)
        if record["type"] == "event":
            events.append(record["text"])
        elif record["type"] == "service_check":
            checks.append((record["name"], record["status"]))
        elif record["type"] not in ("ledger", "presence"):
            found[record["type"], record["name"]].append(record)
    for key, (tags, value) in EXPECTED.items():
        records = found.pop(key, [])
        if tags is not None and any(record["tags"] != tags for record in records):
            problems.append(f"{key}: tags {[record['tags'] for record in records]}, not {tags}")
        kind = key[0]
        if kind == "counter":
            got = sum(record["value"] for record in records)
        elif kind in ("gauge", "set"):
            got = max((record["value"] for record in records), default=None) if kind == "set" else (
                records[-1]["value"] if records else None)
        else:
            got = [sum(r["count"] for r in records), sum(r["sum"] for r in records)]
        if got != value:
            problems.append(f"{key}: {got}, not {value}")
    if found:
        problems.append(f"nobody expected {sorted(found)}")
    for client, text in EVENTS.items():
        if text not in events:
            problems.append(f"no event of {client}: {events}")
    if len([check for check in checks if check[1] == 1]) != 4:
        problems.append(f"service checks: {checks}")
    if problems:
        raise SystemExit("FAILED:\n" + "\n".join(problems) + f"\n(see {folder})")
    print(f"{len(EXPECTED)} series of 9 clients, {len(events)} events, {len(checks)} service checks: all as they were sent")


if __name__ == "__main__":
    main()
