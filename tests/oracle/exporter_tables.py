#!/usr/bin/env python3
"""Transcribes the test tables of statsd_exporter, which are Go, into JSON: tests/corpus/import/exporter_tables.json.

    exporter_tables.py FOLDER     a clone of github.com/prometheus/statsd_exporter, or its git directory

Every entry has its file and line there. Nothing is chosen: what a table has is in the file.
"""

import json
import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "..", "corpus", "import", "exporter_tables.json")

TOKEN = re.compile(r"""
    (?P<space>[ \t\r]+|//[^\n]*|/\*.*?\*/)
  | (?P<line>\n)
  | (?P<raw>`[^`]*`)
  | (?P<string>"(?:[^"\\]|\\.)*")
  | (?P<number>-?(?:\d+\.?\d*|\.\d+)(?:e-?\d+)?)
  | (?P<word>[A-Za-z_][\w.]*)
  | (?P<mark>.)
""", re.X | re.S)


def git(folder, *args):
    place = ["--git-dir", folder] if not os.path.isdir(os.path.join(folder, ".git")) else ["-C", folder]
    return subprocess.run(["git", *place, *args], check=True, capture_output=True).stdout.decode()


def tokens(text):
    line, out = 1, []
    for found in TOKEN.finditer(text):
        kind = found.lastgroup
        if kind not in ("space", "line"):
            out.append((kind, found.group(), line))
        line += found.group().count("\n")
    return out


class Reader:
    """Reads values of Go: composite literals, and constants."""

    def __init__(self, text):
        self.all = tokens(text)
        self.at = 0

    def peek(self, ahead=0):
        at = self.at + ahead
        return self.all[at][1] if at < len(self.all) else ""

    def find(self, *marks):
        """Goes behind the next place where these stand."""
        while [self.peek(n) for n in range(len(marks))] != list(marks):
            self.at += 1
            assert self.at < len(self.all), marks
        self.at += len(marks)

    def skip_type(self):
        """Goes over a type, up to its brace; the name of the type."""
        name = ""
        while self.peek() != "{":
            name += self.peek()
            self.at += 1
        return name

    def is_composite(self):
        n, depth = 0, 0
        while True:
            mark = self.peek(n)
            if mark in "[(":
                depth += 1
            elif mark in "])":
                depth -= 1
            elif depth == 0 and mark == "{":
                return True
            elif depth == 0 and (mark in (",", "}", ":", "") or self.all[self.at + n][0] in ("raw", "string", "number")):
                return False
            n += 1

    def value(self):
        if self.is_composite():
            return self.composite()
        parts = []
        while self.peek() not in (",", "}", ""):
            parts.append(self.all[self.at])
            self.at += 1
        return constant(parts)

    def composite(self):
        kind = self.skip_type().lstrip("&")
        line = self.all[self.at][2]
        self.at += 1
        items = []
        while self.peek() != "}":
            key, where = None, self.all[self.at][2]
            if self.peek(1) == ":" and self.all[self.at][0] in ("word", "string"):
                token = self.all[self.at]
                key = token[1] if token[0] == "word" else text_of(token)
                self.at += 2
            items.append((key, self.value(), where))
            if self.peek() == ",":
                self.at += 1
        self.at += 1
        return {"kind": kind, "items": items, "line": line}


def text_of(token):
    if token[0] == "raw":
        return token[1][1:-1]
    # What JSON does not have: bytes.
    bytes_of = re.sub(r"\\x([0-9a-fA-F]{2})", lambda m: "\\u00" + m.group(1), token[1])
    return json.loads(bytes_of)


def constant(parts):
    if all(kind in ("string", "raw") or mark == "+" for kind, mark, _ in parts):
        return "".join(text_of(part) for part in parts if part[1] != "+")
    text = " ".join(mark for _, mark, _ in parts)
    known = {
        "true": True, "false": False,
        "defaultQuantiles": [{"Quantile": 0.5}, {"Quantile": 0.9}, {"Quantile": 0.99}],
        "prometheus.DefBuckets": [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10],
    }
    if text in known:
        return known[text]
    if text.startswith("MetricType"):
        return text[len("MetricType"):].lower()
    if text.startswith("ActionType"):
        return text[len("ActionType"):].lower()
    text = text.replace("time.Minute", "60").replace("time.Second", "1")
    assert re.fullmatch(r"[\d\s.+*e-]+", text), parts
    return eval(text)  # Digits and operators alone.


def fields(composite):
    """A composite literal as an object, a list, or a map."""
    if not isinstance(composite, dict):
        return composite
    items = composite["items"]
    if all(key is None for key, _, _ in items) and not composite["kind"].startswith("map"):
        return [fields(value) for _, value, _ in items]
    return {key: fields(value) for key, value, _ in items}


def events(composite):
    """Events as kind, name, value, whether it is relative, labels."""
    out = []
    for _, event, _ in (composite or {"items": []})["items"]:
        has = fields(event)
        kind = re.search(r"(Counter|Gauge|Observer)Event", event["kind"]).group(1).lower()
        get = lambda key: has.get(kind[0].upper() + key)
        out.append({
            "kind": kind, "name": get("MetricName"), "value": get("Value"), "relative": get("Relative") or False,
            "labels": get("Labels") or {},
        })
    return out


def table(text, function, *marks):
    """The entries of a table in a function, each with its line, and what follows it."""
    reader = Reader(text)
    reader.find("func", function, "(")
    reader.find(*marks)
    reader.at -= 1
    return reader, reader.composite()["items"]


def mapper(text, file):
    out = []
    reader = Reader(text)
    reader.find("func", "TestMetricMapperYAML", "(")
    reader.find("scenarios", ":", "=", "[", "]", "struct", "{")
    reader.find("}")
    for _, scenario, line in reader.composite()["items"]:
        has = {key: value for key, value, _ in scenario["items"]}
        entries = []
        for _, one, where in (has.get("mappings") or {"items": []})["items"]:
            entry = fields(one)
            if "scale" in entry:
                entry["scale"] = entry["scale"]["Val"]
            entry["at"] = f"{file}:{where}"
            entries.append(entry)
        out.append({
            "at": f"{file}:{line}", "name": has["testName"], "config": has.get("config", ""),
            "bad": has.get("configBad", False), "mappings": entries,
        })
    reader.find("func", "TestAction", "(")
    reader.find("scenarios", ":", "=", "[", "]", "struct", "{")
    reader.find("}")
    for _, scenario, line in reader.composite()["items"]:
        has = fields(scenario)
        out.append({
            "at": f"{file}:{line}", "name": has["testName"], "config": has["config"], "bad": has["configBad"],
            "action": has.get("expectedAction", ""), "mappings": [],
        })
    reader.find("func", "TestMultipleMatches", "(")
    reader.find("config", ":", "=")
    config, line = text_of(reader.all[reader.at]), reader.all[reader.at][2]
    reader.find("names", ":", "=")
    names = reader.composite()["items"]
    entries = [{"statsdMetric": key, "name": value, "at": f"{file}:{where}"} for key, value, where in names]
    for entry in entries:
        entry["labels"] = {"app": "myapp"}
    out.append({"at": f"{file}:{line}", "name": "TestMultipleMatches", "config": config, "bad": False, "mappings": entries})
    return out


STYLES = ["Dogstatsd", "Influxdb", "Librato", "SignalFX"]


def lines(text, file):
    out = []
    for function in re.findall(r"^func (Test\w*LineToEvents)\(", text, re.M):
        reader, entries = table(text, function, "testCases", ":", "=", "map", "[", "string", "]", "testCase", "{")
        rest = text.split(f"func {function}(")[1].split("\nfunc ")[0]
        styles = [style for style in STYLES if f"Enable{style}Parsing()" in rest]
        for name, case, line in entries:
            has = {key: value for key, value, _ in case["items"]}
            out.append({
                "at": f"{file}:{line}", "test": function, "name": name, "styles": styles, "in": has.get("in", ""),
                "out": events(has.get("out")),
            })
    return out


def packets(text, file):
    reader = Reader(text)
    reader.find("func", "TestHandlePacket", "(")
    reader.find("scenarios", ":", "=", "[", "]", "struct", "{")
    reader.find("}")
    out = []
    for _, case, line in reader.composite()["items"]:
        has = {key: value for key, value, _ in case["items"]}
        out.append({
            "at": f"{file}:{line}", "test": "TestHandlePacket", "name": has["name"], "styles": STYLES,
            "in": has.get("in", ""), "out": events(has.get("out")),
        })
    return out


def conflicts(text, file):
    reader = Reader(text)
    reader.find("func", "TestConflictingMetrics", "(")
    reader.find("scenarios", ":", "=", "[", "]", "struct", "{")
    reader.find("}")
    entries = reader.composite()["items"]
    reader.find("config", ":", "=")
    config = text_of(reader.all[reader.at])
    out = []
    for _, case, line in entries:
        has = {key: value for key, value, _ in case["items"]}
        out.append({
            "at": f"{file}:{line}", "name": has["name"], "config": config, "in": events(has["in"]),
            "expected": fields(has["expected"]),
        })
    return out


def main():
    folder = sys.argv[1]
    show = lambda file: git(folder, "show", f"HEAD:{file}")
    tables = {
        "source": "https://github.com/prometheus/statsd_exporter",
        "commit": git(folder, "rev-parse", "HEAD").strip(),
        "licence": "Apache-2.0, Copyright The Prometheus Authors; transcribed by tests/oracle/exporter_tables.py",
        "mapper": mapper(show("pkg/mapper/mapper_test.go"), "mapper_test.go"),
        "lines": lines(show("pkg/line/line_test.go"), "line_test.go") + packets(show("bridge_test.go"), "bridge_test.go"),
        "conflicts": conflicts(show("pkg/exporter/exporter_test.go"), "exporter_test.go"),
    }
    with open(OUT, "w", encoding="utf-8") as out:
        json.dump(tables, out, indent=1, ensure_ascii=False, sort_keys=True)
        out.write("\n")
    print({key: len(value) for key, value in tables.items() if isinstance(value, list)})


if __name__ == "__main__":
    main()
