#!/usr/bin/env python3
"""Prometheus and VictoriaMetrics by remote write, and Prometheus scraping native histograms: 10,000 lines of every kind in,
values read back. A stock Prometheus takes remote write with default settings meanwhile: a counter that pauses has no gap, and what
leaves is absent within an interval and a second; 10,000 hostile names are taken by remote write and scraped as protobuf.

  remote_write.py --systole PATH [--lines N] [--victoria PROGRAM]
"""
import argparse
import json
import random
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections import defaultdict

from common import Processes, Systole, free_port, get_json, holds, hostile_lines, wait_for

LABELS = [("", ()), ("|#route:/a,Zone:9", (("Zone", "9"), ("route", "/a"))), ('|#k:ü"\\x', (("k", 'ü"\\x'),))]


def query(base, text, at=None):
    url = f"{base}/api/v1/query?" + urllib.parse.urlencode({"query": text} | ({"time": at} if at else {}))
    result = get_json(url)["data"]["result"]
    hidden = ("__name__", "job", "instance")
    return {tuple(sorted((k, v) for k, v in one["metric"].items() if k not in hidden)): float(one["value"][1])
            for one in result if "value" in one}


def near(found, expected, tolerance):
    return found is not None and abs(found - expected) <= tolerance * max(abs(expected), 1e-12)


class Pausing:
    """Default settings into a Prometheus of which nothing is asked but to receive."""

    STEP = 0.5
    GAUGE_TTL = 2.0

    def __init__(self, processes, systole, folder):
        self.web, self.processes = free_port(), processes
        with open(f"{folder}/stock.yml", "w") as out:
            out.write("global: {scrape_interval: 15s}\n")
        processes.start(["prometheus", f"--config.file={folder}/stock.yml", f"--storage.tsdb.path={folder}/stock",
                         f"--web.listen-address=127.0.0.1:{self.web}", "--web.enable-remote-write-receiver"], f"{folder}/stock.log")
        self.base = f"http://127.0.0.1:{self.web}"
        wait_for("a stock Prometheus", lambda: urllib.request.urlopen(f"{self.base}/-/ready").status == 200)
        root = f'interval = "{self.STEP}s"\nself_metrics = false\ngauge_ttl = "{self.GAUGE_TTL}s"'
        self.daemon = Systole(processes, systole, folder, {"root": root, "tables": f"""
[[sink]]
type = "remote_write"
url = "{self.base}/api/v1/write"
updown = ["queue.*"]
"""}, "pausing")
        self.beat = "heartbeat.pay:1|g|#instance:a,interval:60"
        self.sent = time.time()
        self.daemon.send(["paused:3|c", "paused:4.7|c", "queue.depth:-2|c", "level:7|g", "wait:100:250:3000|ms", self.beat])

    def at(self, text, when):
        return query(self.base, text, when)

    def until(self, what, text, seconds=20):
        return wait_for(what, lambda: query(self.base, text), seconds)

    def absent_by(self, text, when):
        """Whether a series is absent at a time, once that has passed and Prometheus knows of it."""
        self.until(f"{text} is gone", f"absent({text})")
        time.sleep(max(0.0, when - time.time()))
        found = self.at(f"absent({text})", when)
        if not found:
            sys.exit(f"{text} is still there at {when}: {self.at(text, when)}\n" + open(self.daemon.log).read()[-2000:])

    def check(self):
        step, tick = self.STEP, (self.sent // self.STEP + 1) * self.STEP
        # It stood for its time after the tick, and was gone one interval and a second later.
        self.absent_by("level", tick + self.GAUGE_TTL + step + 1)
        assert self.at("level", tick + self.GAUGE_TTL - step), "the gauge left too early"
        pause_end = tick + 10 * step
        time.sleep(max(0.0, pause_end + step - time.time()))
        self.daemon.send(["paused:0.3|c"])
        self.until("the counter goes on", "paused_total > 7.9")
        answer = get_json(f"{self.base}/api/v1/query?" + urllib.parse.urlencode({"query": "paused_total[1m]"}))
        values = [(float(at), float(value)) for at, value in answer["data"]["result"][0]["values"]]
        gap = max(b[0] - a[0] for a, b in zip(values, values[1:]))
        assert values[0][1] == 0 and values[-1][1] == 3 + 4.7 + 0.3 and len(values) >= 11, values
        # A tick that comes late closes one longer interval.
        assert gap <= 2 * step + 0.01, values
        assert list(self.at("resets(paused_total[1m])", time.time()).values()) == [0], values
        assert list(query(self.base, "queue_depth").values()) == [-2]
        # Timers came as classic histograms, without a loss.
        assert list(query(self.base, "wait_seconds_count").values()) == [3]
        assert query(self.base, "wait_seconds_bucket")[(("le", "0.1"),)] == 1
        log = open(self.daemon.log).read()
        assert log.count("has no native histograms") == 1 and "delivery failed" not in log, log
        up = 'presence_up{service="pay",instance="a"}'
        assert list(query(self.base, up).values()) == [1]
        gone = time.time()
        self.daemon.send(["heartbeat.pay:0|g|#instance:a"])
        self.absent_by(up, gone + step + 1)
        account = self.daemon.status()["sinks"]["remote_write"]
        assert holds(account) and set(account["dropped"]) <= {"unsupported"}, account
        # What a daemon told that has stopped is gone; the next one goes on with it.
        for n in range(1, 4):
            self.daemon.stop()
            stopped = time.time()
            assert self.at("absent(paused_total)", stopped), self.at("paused_total", stopped)
            self.daemon.start()
            self.daemon.send(["paused:2|c", "wait:100|ms"])
            self.until("the counter is back", f"paused_total == {8 + 2 * n} and on() wait_seconds_count == {3 + n}")
        for name in ["paused_total", "wait_seconds_count", "wait_seconds_sum", "wait_seconds_bucket"]:
            resets = query(self.base, f"resets({name}[10m])")
            assert resets and not any(resets.values()), (name, resets)
        assert query(self.base, "wait_seconds_bucket")[(("le", "0.1"),)] == 4
        # That the receiver has no native histograms is known still.
        assert open(self.daemon.log).read().count("has no native histograms") == 1 + 3, open(self.daemon.log).read()
        account = self.daemon.status()["sinks"]["remote_write"]
        assert holds(account) and set(account["dropped"]) <= {"unsupported"}, account
        return len(values), gap


def send_hostile(processes, systole, folder, stock, scrape):
    """10,000 hostile names by remote write, and to be scraped as protobuf."""
    daemon = Systole(processes, systole, folder, {"root": 'interval = "1s"\nself_metrics = false', "tables": f"""
[[sink]]
type = "remote_write"
url = "{stock}/api/v1/write"
[[sink]]
type = "prometheus"
address = "127.0.0.1:{scrape}"
[[rule]]
match = "b.*"
buckets = [1, 500]
"""}, "hostile")
    daemon.send(hostile_lines(10_000))
    return daemon


def check_hostile(daemon, prometheus):
    def account():
        return daemon.status()["sinks"]["remote_write"]

    wait_for("hostile names are delivered", lambda: account()["delivered"] > 1000)
    assert holds(account()) and "refused" not in account()["dropped"], account()

    def healthy():
        for target in get_json(f"{prometheus}/api/v1/targets")["data"]["activeTargets"]:
            if target["labels"]["job"] == "hostile" and target["health"] != "unknown":
                # A busy machine may be late once.
                assert target["health"] == "up" or "deadline exceeded" in target["lastError"], target["lastError"]
                return query(prometheus, 'count({job="hostile"}) > 1000')

    wait_for("hostile names are scraped", healthy)
    return account()["delivered"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--systole", required=True)
    parser.add_argument("--lines", type=int, default=10_000)
    parser.add_argument("--victoria", default="victoria-metrics")
    args = parser.parse_args()
    rng = random.Random(7)
    with tempfile.TemporaryDirectory() as folder, Processes() as processes:
        web, scrape, vm, hostile_scrape = free_port(), free_port(), free_port(), free_port()
        pausing = Pausing(processes, args.systole, folder)
        with open(f"{folder}/prom.yml", "w") as out:
            out.write("global: {scrape_interval: 1s}\nscrape_configs:\n  - job_name: scraped\n    static_configs:\n"
                      f"      - targets: ['127.0.0.1:{scrape}']\n"
                      f"  - job_name: hostile\n    scrape_interval: 3s\n    static_configs:\n      - targets: ['127.0.0.1:{hostile_scrape}']\n")
        processes.start(["prometheus", f"--config.file={folder}/prom.yml", f"--storage.tsdb.path={folder}/prom",
                         f"--web.listen-address=127.0.0.1:{web}", "--web.enable-remote-write-receiver",
                         "--enable-feature=native-histograms"], f"{folder}/prom.log")
        processes.start([args.victoria, f"-storageDataPath={folder}/vm", f"-httpListenAddr=127.0.0.1:{vm}",
                         "-retentionPeriod=1", "-search.latencyOffset=0s", "-memory.allowedBytes=256MB", "-loggerLevel=WARN"],
                        f"{folder}/vm.log")
        prometheus, victoria = f"http://127.0.0.1:{web}", f"http://127.0.0.1:{vm}"
        wait_for("Prometheus", lambda: urllib.request.urlopen(f"{prometheus}/-/ready").status == 200)
        wait_for("VictoriaMetrics", lambda: urllib.request.urlopen(f"{victoria}/health").status == 200)
        daemon = Systole(processes, args.systole, folder, {"root": 'interval = "1s"\nself_metrics = false', "tables": f"""
[[sink]]
type = "remote_write"
name = "native"
url = "{prometheus}/api/v1/write"
[[sink]]
type = "remote_write"
name = "second"
url = "{prometheus}/api/v1/write"
version = 2
prefix = "second."
[[sink]]
type = "remote_write"
name = "classic"
url = "{victoria}/api/v1/write"
histograms = "classic"
buckets = [0.1, 0.25, 0.5, 1]
[[sink]]
type = "prometheus"
address = "127.0.0.1:{scrape}"
[[sink]]
type = "file"
path = "{folder}/records.jsonl"
"""})
        hostile = send_hostile(processes, args.systole, folder, pausing.base, hostile_scrape)
        counters, gauges, samples = defaultdict(float), {}, defaultdict(list)
        lines = []
        for n in range(args.lines):
            tags, labels = rng.choice(LABELS)
            key = rng.randrange(5)
            kind = ["c", "ms", "ms", "h", "g"][n % 5]
            if kind == "c":
                value, rate = rng.randrange(800) / 8, rng.choice(["", "|@0.5"])
                counters[f"hits_{key}_total", labels] += value * (2 if rate else 1)
                lines.append(f"hits.{key}:{value}|c{rate}{tags}")
            elif kind == "g":
                gauges[f"level_{key}", labels] = value = rng.randrange(-800, 800) / 8
                lines.append(f"level.{key}:0|g{tags}\nlevel.{key}:{value}|g{tags}" if value < 0 else f"level.{key}:{value}|g{tags}")
            else:
                value = round(rng.lognormvariate(5, 1), 3)
                name, scale = ("wait", 1e-3) if kind == "ms" else ("size", 1)
                suffix = "_seconds" if kind == "ms" else ""
                samples[f"{name}_{key}{suffix}", labels].append(value * scale)
                lines.append(f"{name}.{key}:{value}|{kind}{tags}")
        quarter = len(lines) // 4 + 1
        for part in range(4):
            daemon.send(lines[part * quarter:(part + 1) * quarter])
            time.sleep(1.1)
        time.sleep(1.5)
        urllib.request.urlopen(f"{victoria}/internal/force_flush")
        compared = 0

        def check(what, found, expected, tolerance=1e-9):
            nonlocal compared
            if not near(found, expected, tolerance):
                sys.exit(f"{what}: {found} instead of {expected}\n" + open(daemon.log).read()[-2000:])
            compared += 1

        places = [("pushed", prometheus, '{job="",', ""), ("scraped", prometheus, '{job="scraped",', ""),
                  ("second", prometheus, '{job="",', "second_"), ("Victoria", victoria, "{", "")]
        for place, base, head, prefix in places:
            for (name, labels), value in counters.items():
                check(f"{place} {name}", query(base, f"last_over_time({prefix}{name}{head}}}[1m])").get(labels), value)
            for (name, labels), value in gauges.items():
                check(f"{place} {name}", query(base, f"last_over_time({prefix}{name}{head}}}[1m])").get(labels), value)
        worst = 0.0
        for (name, labels), values in samples.items():
            values.sort()
            for place, base, head, prefix in places[:3]:
                series = f"{prefix}{name}{head}}}"
                check(f"{place} {name} count", query(base, f"histogram_count({series})").get(labels), len(values))
                check(f"{place} {name} sum", query(base, f"histogram_sum({series})").get(labels), sum(values))
                for q in (0.5, 0.9, 0.99):
                    exact = values[max(0, min(len(values) - 1, int(q * len(values) + 0.5) - 1))]
                    found = query(base, f"histogram_quantile({q}, {series})").get(labels)
                    # Prometheus looks within the bucket of the value: the next value may be far from it, the bucket is not.
                    error = min(abs(found / v - 1) for v in values[max(0, int(q * len(values)) - 2):int(q * len(values)) + 2])
                    worst = max(worst, error)
                    if error > 0.012:
                        sys.exit(f"{place} {name} {q}: {found} instead of {exact}")
                    compared += 1
            for bound in ("0.1", "0.25", "0.5", "1", "+Inf"):
                found = query(victoria, f"last_over_time({name}_bucket[1m])")
                check(f"Victoria {name} {bound}", found.get(tuple(sorted(labels + (("le", bound),)))),
                      sum(value <= float(bound.replace("+", "")) for value in values))
            check(f"Victoria {name} sum", query(victoria, f"last_over_time({name}_sum[1m])").get(labels), sum(values))
        status = daemon.status()["sinks"]
        for name, account in status.items():
            assert holds(account) and not account["dropped"], (name, account)
        assert "does not know remote write 2.0" in open(daemon.log).read()
        # The first interval of a counter is not lost to `increase`: a zero stands before it.
        (name, labels), value = next(iter(counters.items()))
        total = query(prometheus, f'max_over_time({name}{{job=""}}[5m]) - min_over_time({name}{{job=""}}[5m])').get(labels)
        check("increase since zero", total, value)
        # What a daemon that has stopped told is gone: native histograms and counters, here and there.
        daemon.stop()
        stopped = time.time()
        gone = ["wait_0_seconds", "hits_0_total", "level_0", "second_wait_0_seconds"]
        for name in gone:
            if not query(prometheus, f'absent({name}{{job=""}})', stopped):
                sys.exit(f"{name} is still there: {query(prometheus, name, stopped)}")

        def gone_there():
            urllib.request.urlopen(f"{victoria}/internal/force_flush")
            return query(victoria, "absent(hits_0_total)", stopped)

        wait_for("the end of a counter in VictoriaMetrics", gone_there)
        samples_of_counter, gap = pausing.check()
        names = check_hostile(hostile, prometheus)
        print(f"a stock Prometheus, default settings: {samples_of_counter} samples of a counter that paused ten intervals, at most {gap:.2f} s "
              f"apart, no reset; gauge, goodbye and stop are absent in time; {names} hostile records taken, none refused")
        print(f"{args.lines} lines, {compared} values read back from Prometheus (pushed, 2.0 with fall-back, scraped) and VictoriaMetrics: "
              f"equal; quantiles of native histograms at most {100 * worst:.2f} % off")


if __name__ == "__main__":
    main()
