#!/usr/bin/env python3
"""A receiver that is away, and a daemon that is killed with -9 meanwhile: afterwards the receiver has every interval that was
closed 100 ms or more before a kill, in order, with the right values.

  outage.py --systole PATH [--interval 1s] [--intervals 30] [--kills 2] [--rate 20000] [--seed N]

The receiver takes line protocol over HTTP. What must be there is what a file sink of the same daemon has; that sink's ticks
and the daemon's memory are looked at, too.
"""
import argparse
import collections
import random
import subprocess
import tempfile
import threading
import time

from common import Processes, Receiver, Systole, free_port, holds, records, rss_mib, wait_for

GRACE = 0.1


class Influx:
    """What was written: fields by series and time, how often each, and whether time ever went back."""

    def __init__(self):
        self.points, self.times, self.backward, self.lock = {}, collections.Counter(), 0, threading.Lock()
        self.newest = 0

    def take(self, path, headers, body):
        with self.lock:
            for line in body.decode().splitlines():
                series, fields, at = line.rsplit(" ", 2)
                at = int(at)
                self.backward += at < self.newest
                self.newest = max(self.newest, at)
                self.times[at, series] += 1
                self.points[at, series] = dict(field.split("=") for field in fields.split(","))
        return 204


def series_of(record):
    tags = [f"metric_type={record['type']}"] + [f"{k}={v}" for k, v in sorted(record["tags"].items())]
    return ",".join([record["name"]] + tags)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--systole", required=True)
    parser.add_argument("--interval", type=float, default=1.0)
    parser.add_argument("--intervals", type=int, default=30)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--rate", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    args = parser.parse_args()
    rng = random.Random(args.seed)
    print(f"seed {args.seed}")
    influx = Influx()
    receiver = Receiver(influx.take)
    udp = free_port()
    with tempfile.TemporaryDirectory() as folder, Processes() as processes:
        daemon = Systole(processes, args.systole, folder, {"root": f'interval = "{round(args.interval * 1000)}ms"', "tables": f"""
[[listen]]
url = "udp://127.0.0.1:{udp}"
[[sink]]
type = "influx"
url = "http://127.0.0.1:{receiver.port}"
database = "systole"
timeout = "2s"
exclude = ["systole.*"]
spool = {{ path = "{folder}/spool", rate = 0 }}
[[sink]]
type = "file"
path = "{folder}/records.jsonl"
"""})
        load = None
        length = args.interval * args.intervals
        if args.rate:
            load = processes.start([args.systole, "load", "--to", f"udp://127.0.0.1:{udp}", "--rate", str(args.rate),
                                    "--profile", "mixed", "--series", "500", "--for", f"{length + 60:.0f}s"], f"{folder}/load.log")
        time.sleep(3 * args.interval)
        receiver.close()
        began = time.monotonic()
        kills, memory, late = [], [], 0.0
        pauses = sorted(rng.uniform(0.1, 0.9) * length for _ in range(args.kills)) if args.kills < 10 else None
        killed = 0
        while killed < args.kills or time.monotonic() - began < length:
            if killed < args.kills and (pauses is None or time.monotonic() - began >= pauses[killed]):
                if pauses is None:
                    # As often as asked for, at any moment.
                    daemon.send(f"beat.{n}:{killed}|c" for n in range(5))
                    time.sleep(rng.uniform(0, 6 * args.interval))
                daemon.kill()
                kills.append(time.time())
                killed += 1
                daemon.start()
            elif pauses is not None:
                memory.append(rss_mib(daemon.process.pid))
                time.sleep(0.1)
        waiting = daemon.status()["sinks"]["influx"]
        assert holds(waiting), waiting
        assert waiting["spooled"] > 0 and waiting["spool_bytes"] > 0 and waiting["last_error"], waiting
        receiver.open()
        if load:
            load.terminate()
            load.wait()
        caught_up = lambda: (lambda a: a["spooled"] == 0 and a["last_error"] is None)(daemon.status()["sinks"]["influx"])
        wait_for("the spool to empty", caught_up, seconds=120)
        account = daemon.status()["sinks"]["influx"]
        assert holds(account) and not account["dropped"], account
        daemon.stop()

        expected, jitter = {}, []
        for record in records(f"{folder}/records.jsonl"):
            if record["type"] == "ledger":
                jitter.append(record["flush"]["late_secs"])
            elif record["type"] in ("counter", "gauge", "timer", "set") and not record["name"].startswith("systole."):
                expected[round(record["time"] * 1000), series_of(record)] = record
        missing = wrong = excused = 0
        for (at, series), record in expected.items():
            found = influx.points.get((at, series))
            if found is None:
                # It may have been closed within 100 ms of a kill.
                if any(0 <= kill - at / 1000 < GRACE for kill in kills):
                    excused += 1
                else:
                    missing += 1
            else:
                key = "value" if "value" in found else "sum"
                wrong += float(found[key]) != record[key]
        twice = sum(count > 1 for count in influx.times.values())
        extra = sum(key not in expected for key in influx.points)
        times = {at for at, _ in influx.points}
        print(f"{len(times)} intervals, {len(influx.points)} points, {len(kills)} kills, {missing} missing, {wrong} wrong, {twice} twice, "
              f"{influx.backward} out of order, {excused} lost within {GRACE * 1000:.0f} ms of a kill, {extra} that the file lacks")
        assert not missing and not wrong and not twice and not influx.backward, "see above"
        # A file is written a moment later than the spool: the daemon may have been killed in between.
        assert extra <= 600 * len(kills), extra
        if args.kills < 10:
            worst = max(jitter)
            print(f"the other sink: {len(jitter)} intervals, ticks at most {worst * 1000:.0f} ms late; "
                  f"memory {memory[0]:.1f} MiB at first, {max(memory):.1f} at most, {memory[-1]:.1f} at last")
            assert worst <= 0.1, worst
            assert max(memory) - memory[len(memory) // 4] < 16, "memory grows"
    receiver.close()


if __name__ == "__main__":
    main()
