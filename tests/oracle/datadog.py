#!/usr/bin/env python3
"""Datadog's API: a stub that is strict about its published form.

  datadog.py --systole PATH [--lines N]
"""
import json
import threading

from common import Receiver
from readback import compare, run


def start(*_):
    datadog = Datadog()
    port = Receiver(datadog.take).port
    return f'[[sink]]\ntype = "datadog"\nurl = "http://127.0.0.1:{port}"\napi_key = "a key"\n', datadog


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


def check(datadog, rows):
    expected = {}
    for (at, kind, name, tags, field), value in rows.items():
        tags = tuple(sorted(f"{k}:{v}" if v or k != "bare" else k for k, v in tags))
        suffix = {"value": "", "mean": ".avg", "max": ".max", "median": ".median", "count": ".count", "p50": ".50percentile",
                  "p99": ".99percentile"}.get(field)
        if suffix is not None:
            expected[name + suffix, tags, round(at / 1000)] = value
    count = compare("Datadog", datadog.points, expected)
    (event,), (one,) = datadog.events, datadog.checks
    assert one["check"] == "disk" and one["status"] == 2 and one["message"] == "full" and one["tags"] == ["env:prod"]
    assert event["tags"] == ["env:prod"]
    return f"{count} values equal at Datadog's API"


if __name__ == "__main__":
    run(__doc__, start, check)
