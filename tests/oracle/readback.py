#!/usr/bin/env python3
"""Receivers of every other kind: 10,000 lines in, values read back from each and compared with the records of the same intervals.

  sinks.py --systole PATH --full PATH --statsd FOLDER [--lines N]

PATH of --full is a build with the features nats and postgres. Real: ClickHouse, PostgreSQL, NATS with JetStream, SQLite's file, the
original statsd. OTLP bodies are decoded with opentelemetry-proto, HDR logs with hdrhistogram; Datadog's API is a stub that is
strict about its published form.
"""
import argparse
import base64
import collections
import json
import os
import random
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request

from hdrh.histogram import HdrHistogram
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from common import Processes, Receiver, Systole, free_port, get_json, holds, listens, records, stop, wait_for

compared = collections.Counter()


def close_to(a, b, tolerance=1e-9):
    return abs(a - b) <= tolerance * max(abs(a), abs(b), 1e-12)


def lines(rng, count):
    for n in range(count):
        kind = ["c", "g", "ms", "h", "s", "d", "c"][n % 7]
        value = f"user{rng.randrange(50)}" if kind == "s" else rng.randrange(1, 8000) / 8
        if n % 3:
            tags = rng.choice(["|#env:prod", "|#bare,city:Zürich,path:/a b=c", "|#q:it's \"x\"\\y"])
            name = f"tagged.{rng.randrange(12)}"
        else:
            tags, name = "", f"plain.{rng.randrange(12)}"
        rate = rng.choice(["", "|@0.5"]) if kind in ("c", "ms", "h") else ""
        yield f"{name}.{kind}:{value}|{kind}{rate}{tags}"
    yield "_e{5,9}:title|some text|t:error|#env:prod"
    yield "_sc|disk|2|#env:prod|m:full"


def tags_of(record):
    return tuple(sorted((key, one if one is not None else "") for key, value in record["tags"].items()
                        for one in (value if isinstance(value, list) else [value])))


def expected_rows(path):
    """By (time in ms, type, name, tags, field)."""
    rows, notices = {}, []
    for record in records(path):
        kind = record["type"]
        if kind in ("event", "service_check", "presence"):
            notices.append(kind)
        if kind in ("event", "service_check", "presence", "ledger"):
            continue
        key = (round(record["time"] * 1000), kind, record["name"], tags_of(record))
        for field in ("value", "rate", "count", "sum", "min", "max", "mean", "median", "stddev"):
            if field in record:
                rows[key + (field,)] = record[field]
        for percentile, value in record.get("percentiles", {}).items():
            rows[key + (f"p{percentile}",)] = value
    return rows, collections.Counter(notices)


def compare(what, found, expected):
    missing = [key for key in expected if key not in found]
    extra = [key for key in found if key not in expected]
    if missing or extra:
        sys.exit(f"{what}: {len(missing)} of {len(expected)} are missing, {len(extra)} too many\n{missing[:3]}\n{extra[:3]}")
    for key, value in expected.items():
        if not close_to(found[key], value):
            sys.exit(f"{what}: {key} is {found[key]} instead of {value}")
        compared[what] += 1


def clickhouse(processes, folder):
    http, tcp = free_port(), free_port()
    os.makedirs(f"{folder}/ch/data", exist_ok=True)
    with open(f"{folder}/ch/config.xml", "w") as out:
        out.write(f"""<yandex><logger><level>warning</level><console>1</console></logger><listen_host>127.0.0.1</listen_host>
<http_port>{http}</http_port><tcp_port>{tcp}</tcp_port><path>{folder}/ch/data/</path><tmp_path>{folder}/ch/tmp/</tmp_path>
<users_config>{folder}/ch/users.xml</users_config><default_profile>default</default_profile>
<default_database>default</default_database><mark_cache_size>5368709</mark_cache_size></yandex>""")
    with open(f"{folder}/ch/users.xml", "w") as out:
        out.write("""<yandex><profiles><default><max_memory_usage>1000000000</max_memory_usage></default></profiles><users><default>
<password></password><networks><ip>::/0</ip></networks><profile>default</profile><quota>default</quota></default></users>
<quotas><default/></quotas></yandex>""")
    processes.start(["clickhouse-server", f"--config-file={folder}/ch/config.xml"], f"{folder}/ch.log")
    wait_for("ClickHouse", lambda: urllib.request.urlopen(f"http://127.0.0.1:{http}/ping").read() == b"Ok.\n")
    return http


def clickhouse_rows(http):
    query = "SELECT time_ms, type, name, tags.key AS k, tags.value AS v, field, value FROM systole FINAL FORMAT JSONEachRow"
    body = urllib.request.urlopen(f"http://127.0.0.1:{http}/?" + urllib.parse.urlencode({"query": query})).read()
    rows = (json.loads(line) for line in body.decode().splitlines())
    return {(int(r["time_ms"]), r["type"], r["name"], tuple(sorted(zip(r["k"], r["v"]))), r["field"]): float(r["value"])
            for r in rows}


def postgres(processes, folder):
    port = free_port()
    home = tempfile.mkdtemp()
    programs = "/usr/lib/postgresql/15/bin"
    as_other = []
    if os.getuid() == 0:
        shutil.chown(home, "postgres")
        as_other = ["runuser", "-u", "postgres", "--"]
    subprocess.run(as_other + [f"{programs}/initdb", "-D", f"{home}/data", "-A", "trust", "-U", "postgres"], check=True,
                   stdout=subprocess.DEVNULL, cwd=home)
    processes.start(as_other + [f"{programs}/postgres", "-D", f"{home}/data", "-k", home, "-h", "127.0.0.1", "-p", str(port),
                                "-c", "fsync=off"], f"{folder}/pg.log", cwd=home)
    wait_for("PostgreSQL", lambda: psql(port, "SELECT 1") == ["1"])
    return port, home


def psql(port, query):
    done = subprocess.run(["psql", "-h", "127.0.0.1", "-p", str(port), "-U", "postgres", "-Atc", query], capture_output=True, text=True)
    return done.stdout.splitlines() if done.returncode == 0 else None


def tags_of_json(text):
    return tuple(sorted((key, one if one is not None else "") for key, value in json.loads(text).items()
                        for one in (value if isinstance(value, list) else [value])))


class Nats:
    """As much of the protocol as reading a stream back takes."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), 10)
        self.file = self.socket.makefile("rb")
        self.file.readline()
        self.socket.sendall(b'CONNECT {"verbose":false,"headers":true,"no_responders":true}\r\nSUB box 1\r\n')

    def ask(self, subject, body):
        data = json.dumps(body).encode()
        self.socket.sendall(f"PUB {subject} box {len(data)}\r\n".encode() + data + b"\r\n")
        while True:
            head = self.file.readline().split()
            if head[0] == b"PING":
                self.socket.sendall(b"PONG\r\n")
            elif head[0] in (b"MSG", b"HMSG"):
                return json.loads(self.file.read(int(head[-1]) + 2))

    def records(self):
        state = self.ask("$JS.API.STREAM.INFO.systole", {})["state"]
        for sequence in range(state["first_seq"], state["last_seq"] + 1):
            message = self.ask("$JS.API.STREAM.MSG.GET.systole", {"seq": sequence})["message"]
            for line in base64.b64decode(message["data"]).decode().splitlines():
                yield line


class Otlp:
    """What two collectors are told: each interval alone, and from interval to interval."""

    def __init__(self):
        self.requests = {"/delta/v1/metrics": [], "/cumulative/v1/metrics": []}

    def take(self, path, headers, body):
        assert headers["Content-Type"] == "application/x-protobuf", headers
        request = ExportMetricsServiceRequest()
        request.ParseFromString(body)
        self.requests[path].append(request)
        return 200

    def points(self, path):
        for request in self.requests[path]:
            for resource in request.resource_metrics:
                assert resource.resource.attributes[0].key == "service.name"
                for scope in resource.scope_metrics:
                    for metric in scope.metrics:
                        data = getattr(metric, metric.WhichOneof("data"))
                        for point in data.data_points:
                            tags = tuple(sorted((a.key, a.value.string_value) for a in point.attributes))
                            yield metric, data, point, tags, round(point.time_unix_nano / 1e6)


def quantile_of(point, q):
    """The middle of the bucket in which a rank lies."""
    base = 2 ** (2 ** -point.scale)
    rank, passed = max(1, int(q * point.count + 0.5)), point.zero_count
    if passed >= rank:
        return 0.0
    for n, count in enumerate(point.positive.bucket_counts):
        passed += count
        if passed >= rank:
            return (base ** (point.positive.offset + n) + base ** (point.positive.offset + n + 1)) / 2
    return None


def check_otlp(otlp, rows):
    totals, seen = collections.defaultdict(float), set()
    for key, value in rows.items():
        if key[1] == "counter" and key[4] == "value":
            totals[key[2], key[3]] += value
    worst = 0.0
    kinds = {"sum": ["counter"], "gauge": ["gauge", "set"], "exponential_histogram": ["timer", "histogram", "distribution"]}
    for metric, data, point, tags, at in otlp.points("/delta/v1/metrics"):
        for kind in kinds[metric.WhichOneof("data")]:
            key = (at, kind, metric.name, tags)
            if kind in ("counter", "gauge", "set") and key + ("value",) in rows:
                assert close_to(point.as_double, rows[key + ("value",)]), key
                seen.add(key)
                if kind == "counter":
                    assert data.aggregation_temporality == 1 and data.is_monotonic
            elif key + ("count",) in rows:
                assert point.count == round(rows[key + ("count",)]), (key, point.count)
                for field in ("sum", "min", "max"):
                    assert close_to(getattr(point, field), rows[key + (field,)]), key
                for p in (50, 99):
                    error = abs(quantile_of(point, p / 100) / rows[key + (f"p{p}",)] - 1)
                    worst = max(worst, error)
                    assert error < 0.012, (key, p, error)
                seen.add(key)
    wanted = {key[:4] for key in rows}
    assert wanted == seen, (len(wanted), len(seen), list(wanted - seen)[:3])
    compared["OTLP"] += len(seen)
    latest = {}
    for metric, data, point, tags, at in otlp.points("/cumulative/v1/metrics"):
        if metric.WhichOneof("data") == "sum":
            assert data.aggregation_temporality == 2
            latest[metric.name, tags] = point.as_double
    assert latest.keys() == totals.keys()
    assert all(close_to(latest[key], totals[key]) for key in totals)
    compared["OTLP, cumulative"] += len(latest)
    return worst


class Datadog:
    def __init__(self):
        self.points, self.events, self.checks, self.lock = {}, [], [], threading.Lock()

    def take(self, path, headers, body):
        assert headers["DD-API-KEY"] == "a key" and headers["Content-Type"] == "application/json", headers
        message = json.loads(body)
        with self.lock:
            if path == "/api/v2/series":
                assert headers["Content-Encoding"] == "gzip" and set(message) == {"series"}
                for one in message["series"]:
                    assert set(one) <= {"metric", "type", "points", "tags", "interval", "resources"}, one
                    assert one["type"] in (1, 3) and (one["type"] == 3 or one["interval"] >= 1), one
                    (point,) = one["points"]
                    assert set(point) == {"timestamp", "value"} and isinstance(point["timestamp"], int)
                    assert all(isinstance(tag, str) for tag in one["tags"])
                    self.points[one["metric"], tuple(sorted(one["tags"])), point["timestamp"]] = point["value"]
                return 202, {}, b'{"errors":[]}'
            if path == "/api/v1/events":
                assert message["title"] == "title" and message["text"] == "some text" and message["alert_type"] == "error"
                self.events.append(message)
            elif path == "/api/v1/check_run":
                self.checks += message
            else:
                return 404
        return 202, {}, b'{"status":"ok"}'


def check_datadog(datadog, rows):
    expected = {}
    for (at, kind, name, tags, field), value in rows.items():
        tags = tuple(sorted(f"{k}:{v}" if v or k != "bare" else k for k, v in tags))
        suffix = {"value": "", "mean": ".avg", "max": ".max", "median": ".median", "count": ".count", "p50": ".50percentile",
                  "p99": ".99percentile"}.get(field)
        if suffix is not None:
            expected[name + suffix, tags, round(at / 1000)] = value
    compare("Datadog", datadog.points, expected)
    (event,), (check,) = datadog.events, datadog.checks
    assert check["check"] == "disk" and check["status"] == 2 and check["message"] == "full" and check["tags"] == ["env:prod"]
    assert event["tags"] == ["env:prod"]


def check_hdrlog(path, rows):
    worst, seen = 0.0, 0
    for line in open(path):
        if line.startswith(("#", '"')):
            continue
        tag, start, length, largest, packed = line.rstrip("\n").split(",")
        histogram = HdrHistogram.decode(packed)
        at = round((float(start) + float(length)) * 1000)
        series = tag.removeprefix("Tag=")
        # White space became `_`: found by what is left.
        keys = [key for key in rows if key[4] == "count" and abs(key[0] - at) <= 2
                and ";".join([key[2]] + [k if (k, v) == ("bare", "") else f"{k}={v}" for k, v in key[3]]).replace(" ", "_") == series]
        for key in keys:
            if histogram.get_total_count() == round(rows[key]):
                for p in ("50", "99"):
                    error = abs(histogram.get_value_at_percentile(float(p)) / 1000 / rows[key[:4] + (f"p{p}",)] - 1)
                    # Ranks are cut there and rounded here: with few samples another one may be meant.
                    if rows[key] > 200:
                        worst = max(worst, error)
                assert abs(histogram.get_max_value() / 1000 / rows[key[:4] + ("max",)] - 1) < 0.002
                seen += 1
                break
        else:
            sys.exit(f"HDR log: nothing belongs to {series} at {at}")
    wanted = sum(key[4] == "count" for key in rows)
    assert seen == wanted, (seen, wanted)
    compared["HDR log"] += seen


class Statsd:
    """The original, which is sent what intervals came to; what it tells a Graphite server of ours."""

    def __init__(self, processes, folder, statsd, name="statsd"):
        self.sums, self.last = collections.defaultdict(float), {}
        listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self.listen, args=(listener,), daemon=True).start()
        self.port, management = free_port(socket.SOCK_DGRAM), free_port()
        with open(f"{folder}/{name}.js", "w") as out:
            out.write(f"""{{ port: {self.port}, address: "127.0.0.1", mgmt_address: "127.0.0.1", mgmt_port: {management},
 backends: ["./backends/graphite"], graphiteHost: "127.0.0.1", graphitePort: {listener.getsockname()[1]}, flushInterval: 1000,
 graphite: {{ legacyNamespace: false }}, deleteCounters: true, deleteTimers: true, deleteSets: true }}""")
        processes.start(["node", f"{statsd}/stats.js", f"{folder}/{name}.js"], f"{folder}/{name}.log", cwd=statsd)
        wait_for("the original", lambda: listens(management))

    def listen(self, listener):
        while True:
            stream, _ = listener.accept()
            for line in stream.makefile():
                name, value, _ = line.split(" ")
                if name.endswith(".count") or name.endswith(".sum"):
                    self.sums[name] += float(value)
                self.last[name] = float(value)


def check_statsd(what, statsd, rows, kinds):
    sums, last = collections.defaultdict(float), {}
    for (at, kind, name, tags, field), value in sorted(rows.items(), key=str):
        if not name.startswith("plain.") or kind not in kinds:
            continue
        if kind == "counter" and field == "value":
            sums[f"stats.counters.{name}.count"] += value
        elif kind in ("timer", "histogram", "distribution") and field == "count":
            sums[f"stats.timers.{name}.count"] += value
        elif kind == "gauge":
            last[f"stats.gauges.{name}"] = value
    for name, value in sums.items():
        if not close_to(statsd.sums[name], value):
            sys.exit(f"the original: {name} came to {statsd.sums[name]} instead of {value}")
        compared[what] += 1
    for name, value in last.items():
        if statsd.last.get(name) != value:
            sys.exit(f"the original: {name} is {statsd.last.get(name)} instead of {value}")
        compared[what] += 1


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--systole", required=True)
    parser.add_argument("--full", required=True)
    parser.add_argument("--statsd", required=True)
    parser.add_argument("--lines", type=int, default=10_000)
    args = parser.parse_args()
    rng = random.Random(11)
    with tempfile.TemporaryDirectory() as folder, Processes() as processes:
        ch = clickhouse(processes, folder)
        pg, pg_home = postgres(processes, folder)
        nats, monitor = free_port(), free_port()
        processes.start(["nats-server", "-a", "127.0.0.1", "-p", str(nats), "-m", str(monitor), "-js", "-sd", f"{folder}/nats"],
                        f"{folder}/nats.log")
        wait_for("NATS", lambda: get_json(f"http://127.0.0.1:{monitor}/healthz")["status"] == "ok")
        statsd = Statsd(processes, folder, os.path.abspath(args.statsd))
        relayed = Statsd(processes, folder, os.path.abspath(args.statsd), "relayed")
        otlp, datadog = Otlp(), Datadog()
        otlp_receiver, datadog_receiver = Receiver(otlp.take), Receiver(datadog.take)
        root = 'interval = "1s"\nself_metrics = false\npercentiles = [50, 99]\ngauge_ttl = "2s"'
        file = f'[[sink]]\ntype = "file"\npath = "{folder}/%s.jsonl"\n'
        daemon = Systole(processes, args.systole, folder, {"root": root, "tables": (file % "one") + f"""
[[sink]]
type = "clickhouse"
url = "http://127.0.0.1:{ch}"
[[sink]]
type = "otlp"
url = "http://127.0.0.1:{otlp_receiver.port}/delta"
[[sink]]
type = "otlp"
name = "cumulative"
url = "http://127.0.0.1:{otlp_receiver.port}/cumulative"
temporality = "cumulative"
[[sink]]
type = "datadog"
url = "http://127.0.0.1:{datadog_receiver.port}"
api_key = "a key"
[[sink]]
type = "hdrlog"
path = "{folder}/hdr.log"
[[sink]]
type = "sqlite"
path = "{folder}/records.db"
[[sink]]
type = "statsd"
address = "127.0.0.1:{statsd.port}"
dialect = "etsy"
include = ["plain.*"]
[[relay]]
targets = ["127.0.0.1:{relayed.port}"]
"""})
        full = Systole(processes, args.full, folder, {"root": root, "tables": (file % "two") + f"""
[[sink]]
type = "postgres"
url = "postgres://postgres@127.0.0.1:{pg}/postgres"
[[sink]]
type = "nats"
servers = ["127.0.0.1:{nats}"]
"""}, name="full")
        sent = list(lines(rng, args.lines))
        third = len(sent) // 3 + 1
        for part in range(3):
            # Well inside an interval of all.
            time.sleep(1 - time.time() % 1 + 0.1)
            for one in (daemon, full):
                piece = sent[part * third:(part + 1) * third]
                for at in range(0, len(piece), 200):
                    # UDP behind the relay has a buffer of its own.
                    one.send(piece[at:at + 200])
                    time.sleep(0.005)
        time.sleep(3.5)
        for one in (daemon, full):
            for name, account in one.status()["sinks"].items():
                assert holds(account) and account["last_error"] is None, (name, account)
                assert set(account["dropped"]) <= ({"unsupported"} if name in ("otlp", "cumulative", "hdrlog", "statsd") else set()), \
                    (name, account)
            one.stop()
        time.sleep(1.5)
        rows, notices = expected_rows(f"{folder}/one.jsonl")
        assert notices == {"event": 1, "service_check": 1}, notices
        compare("ClickHouse", clickhouse_rows(ch), rows)
        query = urllib.parse.urlencode({"query": "SELECT type FROM systole_notices FINAL ORDER BY type"})
        told = urllib.request.urlopen(f"http://127.0.0.1:{ch}/?{query}").read().split()
        assert told == [b"event", b"service_check"], told
        database = sqlite3.connect(f"{folder}/records.db")
        compare("SQLite", {(round(at * 1000), kind, name, tags_of_json(tags), field): value for at, kind, name, tags, field, value
                           in database.execute("SELECT time, type, name, tags, field, value FROM records")}, rows)
        assert [r[0] for r in database.execute("SELECT type FROM notices ORDER BY type")] == ["event", "service_check"]
        worst = check_otlp(otlp, rows)
        check_datadog(datadog, rows)
        check_hdrlog(f"{folder}/hdr.log", rows)
        check_statsd("statsd", statsd, rows, ("counter", "gauge", "timer", "histogram", "distribution"))
        # What it gets raw it reads its own way: it knows no histograms.
        check_statsd("relay", relayed, rows, ("counter", "gauge", "timer"))

        rows, _ = expected_rows(f"{folder}/two.jsonl")
        found = psql(pg, "SELECT jsonb_build_array(round(extract(epoch FROM time) * 1000), type, name, tags::text, field, value) FROM systole")
        compare("PostgreSQL", {(at, kind, name, tags_of_json(tags), field): value
                               for at, kind, name, tags, field, value in map(json.loads, found)}, rows)
        assert psql(pg, "SELECT type FROM systole_notices ORDER BY type") == ["event", "service_check"]
        with open(f"{folder}/nats.jsonl", "w") as out:
            out.writelines(line + "\n" for line in Nats(nats).records())
        found, notices = expected_rows(f"{folder}/nats.jsonl")
        compare("NATS", found, rows)
        assert notices == {"event": 1, "service_check": 1}, notices
        figures = ", ".join(f"{name} {count}" for name, count in compared.items())
        print(f"{args.lines} lines; equal: {figures}; quantiles of OTLP's histograms at most {100 * worst:.2f} % off")
        stop(processes.all[1])
        shutil.rmtree(pg_home, ignore_errors=True)


if __name__ == "__main__":
    main()
