#!/usr/bin/env python3
"""Prometheus scrapes the daemon: 10,000 lines of every kind in, values read back with PromQL.

  prometheus.py --systole PATH [--lines N] [--restarts 5]

Counters and sums go on from interval to interval, so what Prometheus holds at the end must be the sum of what was sent;
gauges, sets and quantiles are those of the last interval. promtool looks at the exposition, and at that of 10,000 hostile names,
which Prometheus scrapes as OpenMetrics, too. Then the daemon is restarted some times: Prometheus sees no reset of any counter, and the
increase over all of it is what was sent.
"""
import argparse
import json
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections import defaultdict

from common import Processes, Systole, free_port, hostile_lines, stop, wait_for

INTERVAL = 1.0
DASHBOARD = os.path.join(os.path.dirname(__file__), "../../examples/grafana.json")


def get(url):
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


def query(prometheus, expression):
    """Labels of each series, without its name, with its value."""
    answer = json.loads(get(f"{prometheus}/api/v1/query?" + urllib.parse.urlencode({"query": expression})))
    assert answer["status"] == "success", answer
    return {tuple(sorted((k, v) for k, v in one["metric"].items() if k not in ("__name__", "instance", "job"))):
            float(one["value"][1]) for one in answer["data"]["result"]}


def resets(prometheus, selector):
    """How often each counter has fallen in the last hour, by name and labels."""
    names = json.loads(get(f"{prometheus}/api/v1/label/__name__/values?" + urllib.parse.urlencode({"match[]": selector})))["data"]
    counted = [name for name in names if name.endswith(("_total", "_count", "_sum", "_bucket"))]
    return {(name, labels): count for name in counted
            for labels, count in query(prometheus, f"resets({name}{selector}[1h])").items()}


def shown_timers(prometheus, send):
    """What the dashboard shows of two timers, a summary and one with buckets, in a Prometheus without native histograms."""
    dashboard = json.load(open(DASHBOARD))
    choice = next(one for one in dashboard["templating"]["list"] if one["name"] == "timer")
    selector = re.fullmatch(r"label_values\((.*), __name__\)", choice["query"]["query"])[1]
    names = json.loads(get(f"{prometheus}/api/v1/label/__name__/values?" + urllib.parse.urlencode({"match[]": selector})))["data"]
    offered = {re.fullmatch(choice["regex"].strip("/"), name)[1] for name in names}
    targets = next(panel for panel in dashboard["panels"] if panel["title"] == "$timer, quantiles")["targets"]
    for timer in ("wait_7_seconds", "bucketed_wait_7_seconds"):
        assert timer in offered, (timer, sorted(offered))

        def shows():
            # Of buckets it shows what comes between two scrapes.
            send(b"wait.7:300|ms\nbucketed.wait.7:300|ms\n")
            shown = {}
            for target in targets:
                expression = target["expr"].replace("${timer}", timer).replace("$timer", timer).replace("$__rate_interval", "1m")
                shown[target["legendFormat"]] = list(query(prometheus, expression).values())
            # The configuration has these percentiles; values are from 0 to 1 s.
            return all(len(shown[legend]) == 1 and 0 < shown[legend][0] <= 1 for legend in ("p50", "p99"))

        wait_for(f"the dashboard shows {timer}", shows)
    assert not any(name.startswith("systole_") for name in offered), offered


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--systole", required=True)
    parser.add_argument("--lines", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--restarts", type=int, default=5)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    processes = []
    with tempfile.TemporaryDirectory() as folder, Processes() as others:
        try:
            tcp, scrape, web, hostile = free_port(), free_port(), free_port(), free_port()
            hostile_daemon = Systole(others, args.systole, folder, {"root": f'interval = "{INTERVAL:g}s"\ngauge_ttl = "1h"', "tables": f"""
[[sink]]
type = "prometheus"
address = "127.0.0.1:{hostile}"
[[rule]]
match = "b.*"
buckets = [1, 500]
"""}, "hostile")
            hostile_daemon.send(hostile_lines(10_000))
            with open(f"{folder}/systole.toml", "w") as out:
                out.write(f"""interval = "{INTERVAL:g}s"
state_dir = "{folder}/state"
percentiles = [50, 99]
[[listen]]
url = "tcp://127.0.0.1:{tcp}"
[[sink]]
type = "prometheus"
address = "127.0.0.1:{scrape}"
[[rule]]
match = "bucketed.*"
buckets = [100, 500]
[http]
address = "off"
[presence]
enabled = false
""")
            command = [args.systole, "run", "-c", f"{folder}/systole.toml"]
            daemon = others.start(command, f"{folder}/systole.log")
            with open(f"{folder}/prom.yml", "w") as out:
                out.write("global: {scrape_interval: 1s}\nscrape_configs:\n  - job_name: ours\n    scrape_interval: 1s\n"
                          f"    static_configs: [{{targets: ['127.0.0.1:{scrape}']}}]\n"
                          f"  - job_name: hostile\n    scrape_interval: 3s\n    static_configs: [{{targets: ['127.0.0.1:{hostile}']}}]\n"
                          f"  - job_name: itself\n    static_configs: [{{targets: ['127.0.0.1:{hostile_daemon.page}']}}]\n")
            processes.append(subprocess.Popen(
                ["prometheus", f"--config.file={folder}/prom.yml", f"--storage.tsdb.path={folder}/prom",
                 f"--web.listen-address=127.0.0.1:{web}"],
                stderr=open(f"{folder}/prom.log", "w"), stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL))
            prometheus = f"http://127.0.0.1:{web}"
            wait_for("Prometheus", lambda: "Ready" in get(f"{prometheus}/-/ready"))
            wait_for("the daemon", lambda: get(f"http://127.0.0.1:{scrape}/metrics"))

            counters, sums, counts, below = (defaultdict(float) for _ in range(4))
            gauges, sets = {}, defaultdict(set)
            # Gauges and sets are told of one interval: they come with the last lines, all at once.
            parts = [[], []]
            for n in range(args.lines):
                tags = rng.choice(["", "|#route:/a", "|#route:/b c,zone:ü\"x"])
                labels = {"": (), "|#route:/a": (("route", "/a"),)}.get(tags, (("route", "/b c"), ("zone", "ü\"x")))
                key, kind, value = rng.randrange(40), rng.choice(["c", "ms", "h", "g", "s"]), rng.randrange(8000) / 8
                if kind == "c":
                    rate = rng.choice(["", "|@0.5"])
                    counters[f"hits_{key}_total", labels] += value * (2 if rate else 1)
                    parts[0].append(f"hits.{key}:{value}|c{rate}{tags}")
                elif kind in ("ms", "h"):
                    scale, suffix = (1e-3, "_seconds") if kind == "ms" else (1, "")
                    name = rng.choice(["wait", "bucketed.wait"]) if kind == "ms" else "size"
                    family = f"{name.replace('.', '_')}_{key}{suffix}"
                    sums[family + "_sum", labels] += value * scale
                    counts[family + "_count", labels] += 1
                    if name.startswith("bucketed"):
                        below[family + "_bucket", labels] += value <= 500
                    parts[0].append(f"{name}.{key}:{value}|{kind}{tags}")
                elif kind == "g":
                    gauges[f"level_{key}", labels] = value
                    parts[1].append(f"level.{key}:{value}|g{tags}")
                else:
                    sets[f"users_{key}", labels].add(value)
                    parts[1].append(f"users.{key}:{value}|s{tags}")
            third = len(parts[0]) // 3
            for piece in (parts[0][:third], parts[0][third:2 * third], parts[0][2 * third:] + parts[1]):
                # Away from a tick, so that a set's members are of one interval.
                time.sleep(INTERVAL - time.time() % INTERVAL + 0.1)
                with socket.create_connection(("127.0.0.1", tcp)) as stream:
                    stream.sendall(("\n".join(piece) + "\n").encode())

            # Sets are told once: they are looked at over the last seconds.
            expected = {"counters": counters, "sums": sums, "counts": counts}
            total = sum(counts.values())
            wait_for("everything is scraped", lambda: abs(sum(query(
                prometheus, 'sum({__name__=~"(wait|size|bucketed)_.*_count"})').values()) - total) < 0.5)
            compared = 0
            for kind, values in expected.items():
                for (name, labels), value in values.items():
                    found = query(prometheus, name).get(labels)
                    if found is None or abs(found - value) > 1e-9 * max(abs(value), 1e-9):
                        sys.exit(f"{kind}: {name}{dict(labels)} is {found} instead of {value}")
                    compared += 1
            for (name, labels), value in below.items():
                found = query(prometheus, f'{name}{{le="0.5"}}').get(tuple(sorted(labels + (("le", "0.5"),))))
                if found != value:
                    sys.exit(f"{name}{dict(labels)} has {found} at or below 0.5 s instead of {value}")
                compared += 1
            for (name, labels), value in gauges.items():
                found = query(prometheus, name).get(labels)
                if found != value:
                    sys.exit(f"{name}{dict(labels)} is {found} instead of {value}")
                compared += 1
            for (name, labels), members in sets.items():
                found = query(prometheus, f"max_over_time({name}[1m])").get(labels)
                if found != len(members):
                    sys.exit(f"{name}{dict(labels)} has {found} members instead of {len(members)}")
                compared += 1
            def send(line):
                with socket.create_connection(("127.0.0.1", tcp)) as stream:
                    stream.sendall(line)

            shown_timers(prometheus, send)
            exposition = get(f"http://127.0.0.1:{scrape}/metrics")
            lint = subprocess.run(["promtool", "check", "metrics"], input=exposition, capture_output=True, text=True)
            if lint.returncode != 0:
                sys.exit(f"promtool: {lint.stdout}{lint.stderr}")
            bad = get(f"http://127.0.0.1:{hostile}/metrics")
            families, series = bad.count("# TYPE"), sum(not line.startswith("#") for line in bad.splitlines())
            assert families > 2000, families
            lint = subprocess.run(["promtool", "check", "metrics"], input=bad, capture_output=True, text=True)
            # 3 is for names that are against the custom, 1 for what cannot be parsed.
            if lint.returncode not in (0, 3) or "error" in lint.stderr.split("\n")[0]:
                sys.exit(f"promtool, hostile names: {lint.returncode} {lint.stderr[:2000]}")

            def healthy():
                targets = json.loads(get(f"{prometheus}/api/v1/targets"))["data"]["activeTargets"]
                for target in targets:
                    # A busy machine may be late once.
                    if target["health"] == "down" and "deadline exceeded" not in target["lastError"]:
                        sys.exit(f"a scrape failed: {target['labels']['job']}: {target['lastError']}")
                return len(targets) == 3 and all(target["health"] == "up" for target in targets)

            wait_for("every target is scraped", healthy)
            for line in open(f"{folder}/prom.log"):
                if "Error on ingesting" in line or "Append failed" in line:
                    sys.exit(f"Prometheus: {line}")
            for n in range(1, args.restarts + 1):
                stop(daemon)
                daemon = others.start(command, f"{folder}/systole.log")
                wait_for("the next daemon", lambda: get(f"http://127.0.0.1:{scrape}/metrics"))
                with socket.create_connection(("127.0.0.1", tcp)) as stream:
                    stream.sendall(b"again:2|c\nagain.wait:10:30|ms\n")
                wait_for("it is scraped", lambda: list(query(prometheus, "again_total").values()) == [2 * n]
                         and list(query(prometheus, "again_wait_seconds_count").values()) == [2 * n])
            all_resets = resets(prometheus, '{job="ours"}')
            fallen = {series: count for series, count in all_resets.items() if count}
            assert len(all_resets) > 100 and not fallen, f"{args.restarts} restarts: of {len(all_resets)} counters these fell: {fallen}"
            grown = query(prometheus, "max_over_time(again_total[1h]) - min_over_time(again_total[1h])")
            assert list(grown.values()) == [2 * (args.restarts - 1)], grown
            total = sum(counters.values())
            found = sum(query(prometheus, 'sum({__name__=~"hits_.*_total"})').values())
            assert abs(found - total) <= 1e-9 * total, (found, total)
            print(f"{args.restarts} restarts: resets() of {len(all_resets)} counters are 0, and sums are what was sent")
            print(f"10,000 hostile lines, {families} families, {series} samples: no parse error by promtool, nor by a scrape as OpenMetrics")
            print(f"{args.lines} lines, {compared} values read back with PromQL: all as they were sent; promtool has nothing to say")
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait()


if __name__ == "__main__":
    main()
