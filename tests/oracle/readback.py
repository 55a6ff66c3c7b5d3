"""What the scripts share that read a sink's values back: 10,000 lines of every kind over three intervals, a daemon that writes its
records to a file as well, and the comparison of what was read back with those records."""
import argparse
import collections
import json
import os
import random
import sys
import tempfile
import time

from common import Processes, Systole, holds, records, wait_for

ROOT = 'interval = "1s"\nself_metrics = false\npercentiles = [50, 99]\ngauge_ttl = "2s"'


def close_to(a, b, tolerance=1e-9):
    return abs(a - b) <= tolerance * max(abs(a), abs(b), 1e-12)


def lines(count):
    rng = random.Random(11)
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


def tags_of(tags):
    """Pairs, several for a key of several values, from a record's table."""
    return tuple(sorted((key, one if one is not None else "") for key, value in tags.items()
                        for one in (value if isinstance(value, list) else [value])))


def rows_of(all_records):
    """By (time in ms, type, name, tags, field), and how many of each type are no metrics."""
    rows, notices = {}, collections.Counter()
    for record in all_records:
        kind = record["type"]
        if kind in ("event", "service_check", "presence"):
            notices[kind] += 1
        if kind in ("event", "service_check", "presence", "ledger"):
            continue
        key = (round(record["time"] * 1000), kind, record["name"], tags_of(record["tags"]))
        for field in ("value", "rate", "count", "sum", "min", "max", "mean", "median", "stddev"):
            if field in record:
                rows[key + (field,)] = record[field]
        for percentile, value in record.get("percentiles", {}).items():
            rows[key + (f"p{percentile}",)] = value
    return rows, notices


def compare(what, found, expected):
    """That two tables are equal; how many values that are."""
    missing = [key for key in expected if key not in found]
    extra = [key for key in found if key not in expected]
    if missing or extra:
        sys.exit(f"{what}: {len(missing)} of {len(expected)} are missing, {len(extra)} too many\n{missing[:3]}\n{extra[:3]}")
    for key, value in expected.items():
        if not close_to(found[key], value):
            sys.exit(f"{what}: {key} is {found[key]} instead of {value}")
    return len(expected)


def run(doc, start, check, unsupported=False, options=()):
    """`start(processes, folder, args)` starts a receiver; it returns the tables of its sinks and what `check` needs beside the
    rows that the records came to. `check` returns what is said of it. Without `unsupported` a sink may drop nothing."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systole", required=True)
    parser.add_argument("--lines", type=int, default=10_000)
    for option in options:
        parser.add_argument(option, required=True)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Processes() as processes:
        tables, receiver = start(processes, folder, args)
        file = f'[[sink]]\ntype = "file"\nname = "beside"\npath = "{folder}/records.jsonl"\n'
        daemon = Systole(processes, args.systole, folder, {"root": ROOT, "tables": file + tables})
        sent = list(lines(args.lines))
        third = len(sent) // 3 + 1
        for part in range(3):
            # Well inside an interval.
            time.sleep(1 - time.time() % 1 + 0.1)
            piece = sent[part * third:(part + 1) * third]
            for at in range(0, len(piece), 200):
                # UDP behind a relay has a buffer of its own.
                daemon.send(piece[at:at + 200])
                time.sleep(0.005)

        offered = {"records": None, "since": time.monotonic()}

        def all_delivered():
            status = daemon.status()
            waits = sum(account["queued"] for account in status["sinks"].values())
            records = sum(account["offered"] for account in status["sinks"].values())
            if records != offered["records"]:
                offered.update(records=records, since=time.monotonic())
            # Gauges are repeated until their time is over: then two intervals bring nothing more.
            is_over = status["lines"]["read"] == len(sent) and time.monotonic() - offered["since"] > 2.2
            return status if is_over and waits == 0 else None

        for name, account in wait_for("all is delivered", all_delivered)["sinks"].items():
            assert holds(account) and account["last_error"] is None, (name, account)
            assert set(account["dropped"]) <= ({"unsupported"} if unsupported else set()), (name, account)
        daemon.stop()
        rows, notices = rows_of(records(f"{folder}/records.jsonl"))
        assert notices == {"event": 1, "service_check": 1}, notices
        print(f"{args.lines} lines; {check(receiver, rows)}")
