#!/usr/bin/env python3
"""A small StatsD server that writes to Graphite as the original does, with a mistake if one is named: `systole conformance` has to
find it.

  mutant_server.py PORT OUT [MISTAKE]
"""
import math
import re
import socket
import sys
import time

INTERVAL = 0.5
# What each mistake does wrong.
MISTAKES = {"rate": "counts a sampled counter once", "delta": "sets a gauge that has a sign", "float": "cuts decimals off counters",
            "members": "counts a member of a set twice", "lenient": "reads a number up to what is none", "extremes": "forgets the smallest of a timer",
            "last": "takes the last line of a datagram alone", "ends": "ends by a sample rate with a plus"}
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


class Bad(Exception):
    """A line that is malformed."""


def number(text, mistake):
    match = NUMBER.match(text)
    if not match or match[0] != text and mistake != "lenient":
        raise Bad
    value = float(match[0])
    if not math.isfinite(value):
        raise Bad
    return value


class Server:
    def __init__(self, mistake):
        self.mistake = mistake
        self.counters, self.gauges, self.timers, self.sets = {}, {}, {}, {}

    def line(self, line):
        line = line.strip()
        name, colon, rest = line.partition(":")
        if not name or not colon or "|" in name:
            raise Bad
        text, *sections = rest.split("|")
        if not sections:
            raise Bad
        kind, rate, tags = sections[0].strip(), 1.0, ""
        text = text.strip()
        for section in sections[1:]:
            if section.startswith("@"):
                if section.startswith("@+") and self.mistake == "ends":
                    sys.exit(1)
                rate = number(section[1:].strip(), None)
                if rate < 0:
                    raise Bad
                rate = min(rate, 1.0) or 1.0
            elif section.startswith("#"):
                tags = "".join(";" + tag.replace(":", "=", 1) for tag in section[1:].split(",") if ":" in tag)
            elif section.startswith("T") and not (section[1:].isdigit() and int(section[1:])):
                raise Bad
        self.sample(name, tags, kind, text, rate)

    def sample(self, name, tags, kind, text, rate):
        key = (name, tags)
        if kind == "c":
            value = number(text, self.mistake) / (1 if self.mistake == "rate" else rate)
            self.counters[key] = self.counters.get(key, 0) + (int(value) if self.mistake == "float" else value)
        elif kind == "g":
            value = number(text, self.mistake)
            relative = text[0] in "+-" and self.mistake != "delta"
            self.gauges[key] = self.gauges.get(key, 0) + value if relative else value
        elif kind == "ms":
            value = number(text, self.mistake)
            if value < 0:
                raise Bad
            self.timers.setdefault(key, []).append((value, 1 / rate))
        elif kind == "s" and text:
            self.sets.setdefault(key, []).append(text)
        else:
            raise Bad

    def datagram(self, data):
        lines = data.decode(errors="replace").split("\n")
        for line in lines[-1:] if self.mistake == "last" else lines:
            try:
                if line.strip():
                    self.line(line)
            except Bad:
                pass

    def flush(self):
        rows = [(f"stats.counters.{name}.count{tags}", value) for (name, tags), value in self.counters.items()]
        rows += [(f"stats.gauges.{name}{tags}", value) for (name, tags), value in self.gauges.items()]
        for (name, tags), members in self.sets.items():
            rows.append((f"stats.sets.{name}.count{tags}", len(members if self.mistake == "members" else set(members))))
        for (name, tags), samples in self.timers.items():
            values = sorted(value for value, _ in samples)
            figures = {"count": sum(weight for _, weight in samples), "sum": sum(values), "upper": values[-1],
                       "lower": values[-1 if self.mistake == "extremes" else 0]}
            rows += [(f"stats.timers.{name}.{figure}{tags}", value) for figure, value in figures.items()]
        self.counters, self.timers, self.sets = {}, {}, {}
        return "".join(f"{name} {value!r} {int(time.time())}\n" for name, value in rows)


def main():
    port, out, mistake = int(sys.argv[1]), int(sys.argv[2]), (sys.argv + [""])[3]
    server = Server(mistake)
    graphite = socket.create_connection(("127.0.0.1", out))
    wire = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    wire.bind(("127.0.0.1", port))
    due = time.monotonic() + INTERVAL
    while True:
        wire.settimeout(max(0.001, due - time.monotonic()))
        try:
            server.datagram(wire.recv(1 << 16))
        except TimeoutError:
            pass
        if time.monotonic() >= due:
            graphite.sendall(server.flush().encode())
            due += INTERVAL


if __name__ == "__main__":
    main()
