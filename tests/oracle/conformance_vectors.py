#!/usr/bin/env python3
"""The vectors of `systole conformance`, made of the corpus.

  conformance_vectors.py [--write]     compares src/cli/conformance/vectors.jsonl with what the corpus makes, or writes it

Each is a datagram or more with `{n}` before every name, which is replaced by what makes the name unique in a run, and what
its interval comes to. What cannot be told from the outside is left out: events, service checks, heartbeats, key-values,
meters, timestamps, settings of ours, and names with several types.
"""
import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
CORPUS = ROOT / "tests/corpus"
OUT = ROOT / "src/cli/conformance/vectors.jsonl"
FORMAT = "systole-conformance/1"
# Files of the corpus, and the group that their vectors are in.
FILES = {"etsy": "statsd", "others": "statsd", "multivalue": "packed", "dogstatsd": "dogstatsd", "clients": "clients",
         "nametags": "nametags", "framing": "framing", "disputed": "disputed"}
# Lines of which servers died, and those of them whose names matter, and stay as they are.
HOSTILE = {"disp-057", "disp-058", "disp-116", "disp-117", "disp-118", "disp-119", "disp-121"}
EXACT = {"disp-116", "disp-117", "disp-118", "disp-119"}
# Dialects that have tags in the name.
NAMETAGS = ("signalfx", "influx", "graphite", "librato")
# Vectors of aggregation in which nothing depends on settings of the original.
AGGREGATE = {"agg-etsy-004", "agg-etsy-007", "agg-etsy-010", "agg-etsy-038", "agg-etsy-040", "agg-etsy-046", "agg-etsy-047", "agg-etsy-050",
             "agg-etsy-051", "agg-etsy-052"}
# What begins a line that means something else with a name in front.
SPECIAL = ("_e", "_sc", ":")
SAMPLED = ("timer", "histogram", "distribution")


def rows(path):
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def named(datagram):
    """With the mark before every name."""
    return "\n".join("{n}" + line if line.strip("\r\n\0") else line for line in datagram.split("\n"))


def totals(entries, is_exact):
    """What an interval of these samples comes to."""
    found = {}
    for entry in entries:
        tags = {key: value for key, value in entry["tags"] if value is not None}
        name = entry["name"] if is_exact else "{n}" + entry["name"]
        key = (entry["type"], name, json.dumps(tags, sort_keys=True))
        weight = 1 / entry.get("rate", 1)
        one = found.setdefault(key, {"type": entry["type"], "name": name, "tags": tags})
        for value in entry["values"]:
            if entry["type"] == "counter":
                one["value"] = one.get("value", 0) + value * weight
            elif entry["type"] == "gauge":
                change = {"inc": value, "dec": -value}.get(entry["op"])
                one["value"] = value if change is None else one.get("value", 0) + change
            elif entry["type"] == "set":
                one.setdefault("members", set()).add(value)
            else:
                one["count"] = one.get("count", 0) + weight
                one["min"], one["max"] = min(one.get("min", value), value), max(one.get("max", value), value)
                # Whether a sum is weighted is not agreed upon.
                one["sum"] = None if weight != 1 or one.get("sum", 0) is None else one.get("sum", 0) + value
    for one in found.values():
        if "members" in one:
            one["value"] = len(one.pop("members"))
        if one.get("sum", 0) is None:
            del one["sum"]
    return list(found.values())


def is_judged(vector):
    entries = vector["expect"]
    keys = [key for entry in entries for key, _ in entry.get("tags", [])]
    types = {}
    for entry in entries:
        types.setdefault(entry.get("name"), set()).add(entry["type"])
    repeated = any(len({k for k, _ in e["tags"]}) != len(e["tags"]) for e in entries if "tags" in e)
    settings = vector.get("config", {})
    return ("input" in vector and set(settings) <= {"sanitize"} and vector["input"].strip()
            and not vector["input"].startswith(SPECIAL) and not any("timestamp" in entry for entry in entries)
            and all(entry["type"] in ("counter", "gauge", "set", *SAMPLED) for entry in entries)
            and all(len(kinds) == 1 for kinds in types.values()) and not repeated
            # A carriage return alone or a byte of zero says more of us than of a server.
            and "\0" not in vector["input"] and "=" not in "".join(keys)
            and not any(entry["name"].startswith("heartbeat") for entry in entries))


def group_of(vector, group):
    if vector["id"] in HOSTILE:
        return "hostile"
    if vector.get("config"):
        return "names"
    if vector["errors"] and not vector["expect"]:
        return "malformed"
    if group == "nametags":
        return group
    if any(entry.get("op") in ("inc", "dec") for entry in vector["expect"]):
        return "deltas"
    if group == "disputed" and vector["dialect"] in NAMETAGS:
        return "nametags"
    if group == "statsd" and any(entry["type"] in ("histogram", "distribution") for entry in vector["expect"]):
        return "dogstatsd"
    return group


def parsed():
    for file, group in FILES.items():
        for vector in rows(CORPUS / f"parse/{file}.jsonl"):
            if is_judged(vector):
                exact = vector["id"] in EXACT
                yield vector, group_of(vector, group), [vector["input"] if exact else named(vector["input"])], totals(vector["expect"], exact)


def aggregated():
    for vector in rows(CORPUS / "aggregate/vectors.jsonl"):
        if vector["id"] not in AGGREGATE:
            continue
        flush, expect = vector["expect_flush"], []
        for section, kind in (("counters", "counter"), ("gauges", "gauge"), ("sets", "set")):
            expect += [{"type": kind, "name": "{n}" + name, "tags": {}, "value": value} for name, value in flush.get(section, {}).items()]
        for name, outputs in flush.get("timers", {}).items():
            expect.append({"type": "timer", "name": "{n}" + name, "tags": {}, "count": outputs["count"], "min": outputs["lower"],
                           "max": outputs["upper"], "sum": outputs["sum"]})
        signed = any(sign in packet for packet in vector["packets"] for sign in (":+", ":-")) and "gauges" in flush
        yield vector, "deltas" if signed else "statsd", [named(packet) for packet in vector["packets"]], expect


def vectors():
    made = []
    for vector, group, datagrams, expect in [*parsed(), *aggregated()]:
        row = {"id": vector["id"], "group": group, "source": vector["source"], "send": datagrams, "expect": expect}
        row["decision"] = vector.get("note") or ("refused, and nothing of it counted" if not expect else "as the source has it")
        made.append(row)
    # Those that may end a server come last.
    made.sort(key=lambda row: row["group"] == "hostile")
    head = {"format": FORMAT, "vectors": len(made)}
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in [head, *made])


def main():
    text = vectors()
    if "--write" in sys.argv:
        OUT.write_text(text, encoding="utf-8")
    elif OUT.read_text(encoding="utf-8") != text:
        sys.exit("FAILED: src/cli/conformance/vectors.jsonl is not what the corpus makes; --write writes it")
    print(f"{len(text.splitlines()) - 1} vectors, as the corpus has them")


if __name__ == "__main__":
    main()
