#!/usr/bin/env python3
"""InfluxDB as the receiver: 10,000 lines of every kind in, points read back with InfluxQL.

  influx.py --systole PATH [--lines N]

What must be there is what the records of the same intervals say, which a file sink writes beside it.
"""
import argparse
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request

from common import free_port, wait_for

FIELDS = {"counter": ["value", "rate"], "gauge": ["value"], "set": ["value"],
          "timer": ["count", "rate", "sum", "min", "max", "mean", "median", "stddev"]}


def ask(base, **query):
    data = urllib.parse.urlencode(query).encode()
    with urllib.request.urlopen(f"{base}/query", data=data, timeout=10) as answer:
        return json.loads(answer.read())


def lines(rng, count):
    for n in range(count):
        kind = ["c", "g", "ms", "h", "s"][n % 5]
        value = f"user{rng.randrange(50)}" if kind == "s" else rng.randrange(8000) / 8
        rate = rng.choice(["", "|@0.5"]) if kind in ("c", "ms", "h") else ""
        tags = rng.choice(["", "|#env:prod", "|#bare,city:Zürich,path:/a b=c"])
        yield f"{rng.choice(['app.web', 'with space,x'])}.{rng.randrange(30)}:{value}|{kind}{rate}{tags}\n"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--systole", required=True)
    parser.add_argument("--lines", type=int, default=10_000)
    args = parser.parse_args()
    rng, processes = random.Random(5), []
    with tempfile.TemporaryDirectory() as folder:
        try:
            http, rpc, tcp = free_port(), free_port(), free_port()
            with open(f"{folder}/influx.conf", "w") as out:
                out.write(f"""reporting-disabled = true
bind-address = "127.0.0.1:{rpc}"
[meta]
  dir = "{folder}/meta"
[data]
  dir = "{folder}/data"
  wal-dir = "{folder}/wal"
[http]
  bind-address = "127.0.0.1:{http}"
  log-enabled = false
[monitor]
  store-enabled = false
""")
            processes.append(subprocess.Popen(["influxd", "-config", f"{folder}/influx.conf"],
                                              stdout=open(f"{folder}/influx.log", "w"), stderr=subprocess.STDOUT))
            base = f"http://127.0.0.1:{http}"
            wait_for("InfluxDB", lambda: urllib.request.urlopen(f"{base}/ping", timeout=5).status == 204)
            ask(base, q="CREATE DATABASE systole")
            with open(f"{folder}/systole.toml", "w") as out:
                out.write(f"""interval = "1s"
[[listen]]
url = "tcp://127.0.0.1:{tcp}"
[[sink]]
type = "influx"
url = "{base}"
database = "systole"
[[sink]]
type = "file"
path = "{folder}/records.jsonl"
[http]
address = "off"
[presence]
enabled = false
""")
            daemon = subprocess.Popen([args.systole, "run", "-c", f"{folder}/systole.toml"],
                                      stderr=open(f"{folder}/systole.log", "w"))
            processes.append(daemon)
            text = "".join(lines(rng, args.lines)).encode()
            for _ in range(200):
                try:
                    stream = socket.create_connection(("127.0.0.1", tcp))
                    break
                except OSError:
                    time.sleep(0.05)
            for start in range(0, len(text), len(text) // 3 + 1):
                stream.sendall(text[start:start + len(text) // 3 + 1])
                time.sleep(1.1)
            stream.close()
            daemon.terminate()
            assert daemon.wait(20) == 0
            print(f"{compare(base, f'{folder}/records.jsonl')} fields read back with InfluxQL: all as the records have them")
        finally:
            for process in processes:
                if process.poll() is None:
                    process.terminate()
                    process.wait()


def compare(base, path):
    answer = ask(base, db="systole", epoch="ms", q='SELECT * FROM /.*/ GROUP BY *')
    found = {}
    for series in answer["results"][0]["series"]:
        tags = tuple(sorted((k, v) for k, v in series["tags"].items() if v))
        for row in series["values"]:
            point = dict(zip(series["columns"], row))
            found[series["name"], tags, point["time"]] = point
    compared = 0
    with open(path) as records:
        for record in map(json.loads, records):
            kind = record["type"]
            if kind not in ("counter", "gauge", "set", "timer", "histogram"):
                continue
            tags = {k: "true" if v is None else v for k, v in record["tags"].items()} | {"metric_type": kind}
            key = (record["name"], tuple(sorted(tags.items())), round(record["time"] * 1000))
            point = found.get(key)
            if point is None:
                sys.exit(f"{key} is not there")
            expected = {name: record[name] for name in FIELDS["timer" if kind == "histogram" else kind]}
            expected |= {f"p{p}": value for p, value in record.get("percentiles", {}).items()}
            for name, value in expected.items():
                if point.get(name) is None or abs(point[name] - value) > 1e-9 * max(abs(value), 1e-9):
                    sys.exit(f"{key}: {name} is {point.get(name)} instead of {value}")
                compared += 1
    assert compared > 3000, compared
    return compared


if __name__ == "__main__":
    main()
