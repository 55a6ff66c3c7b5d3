#!/usr/bin/env python3
"""OTLP: what two collectors are told, of each interval alone and from interval to interval, decoded with opentelemetry-proto.

  otlp.py --systole PATH [--lines N]
"""
import collections

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from common import Receiver
from readback import close_to, run

KINDS = {"sum": ["counter"], "gauge": ["gauge", "set"], "exponential_histogram": ["timer", "histogram", "distribution"]}


def start(*_):
    otlp = Otlp()
    port = Receiver(otlp.take).port
    return f"""
[[sink]]
type = "otlp"
url = "http://127.0.0.1:{port}/delta"
[[sink]]
type = "otlp"
name = "cumulative"
url = "http://127.0.0.1:{port}/cumulative"
temporality = "cumulative"
""", otlp


class Otlp:
    """Two collectors."""

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


def check_deltas(otlp, rows):
    """That each interval was told alone; how many series were, and how far the quantiles of histograms were off at most."""
    seen, worst = set(), 0.0
    for metric, data, point, tags, at in otlp.points("/delta/v1/metrics"):
        for kind in KINDS[metric.WhichOneof("data")]:
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
    return len(seen), worst


def check_totals(otlp, rows):
    """That counters went on from interval to interval; how many."""
    totals, latest = collections.defaultdict(float), {}
    for key, value in rows.items():
        if key[1] == "counter" and key[4] == "value":
            totals[key[2], key[3]] += value
    for metric, data, point, tags, _ in otlp.points("/cumulative/v1/metrics"):
        if metric.WhichOneof("data") == "sum":
            assert data.aggregation_temporality == 2
            latest[metric.name, tags] = point.as_double
    assert latest.keys() == totals.keys()
    assert all(close_to(latest[key], totals[key]) for key in totals)
    return len(latest)


def check(otlp, rows):
    series, worst = check_deltas(otlp, rows)
    return (f"{series} series equal over OTLP, {check_totals(otlp, rows)} totals; quantiles of histograms at most "
            f"{100 * worst:.2f} % off")


if __name__ == "__main__":
    run(__doc__, start, check, unsupported=True)
