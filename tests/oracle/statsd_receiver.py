#!/usr/bin/env python3
"""The original statsd as a receiver: of what intervals came to, from the sink, and of every line as it came, from a relay.

  statsd_receiver.py --systole PATH --statsd FOLDER [--lines N]
"""
import collections
import os
import socket
import threading

from common import free_port, listens, wait_for
from readback import close_to, run


def start(processes, folder, args):
    sink, relay = (Original(processes, folder, os.path.abspath(args.statsd), name) for name in ("sink", "relay"))
    return f"""
[[sink]]
type = "statsd"
address = "127.0.0.1:{sink.port}"
dialect = "etsy"
include = ["plain.*"]
[[relay]]
targets = ["127.0.0.1:{relay.port}"]
""", (sink, relay)


class Original:
    """The original, and what it tells a Graphite server of ours."""

    def __init__(self, processes, folder, statsd, name):
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


def compare(what, original, rows, kinds):
    """Waits until all of it has come; how many values that are."""
    sums, last = collections.defaultdict(float), {}
    for (_, kind, name, _, field), value in sorted(rows.items(), key=str):
        if not name.startswith("plain.") or kind not in kinds:
            continue
        if kind == "counter" and field == "value":
            sums[f"stats.counters.{name}.count"] += value
        elif kind in ("timer", "histogram", "distribution") and field == "count":
            sums[f"stats.timers.{name}.count"] += value
        elif kind == "gauge":
            last[f"stats.gauges.{name}"] = value

    def differing():
        return [(name, original.sums[name], value) for name, value in sums.items() if not close_to(original.sums[name], value)] + \
            [(name, original.last.get(name), value) for name, value in last.items() if original.last.get(name) != value]

    wait_for(f"{what} is equal", lambda: not differing(), else_say=differing)
    return len(sums) + len(last)


def check(originals, rows):
    sink, relay = originals
    count = compare("the sink", sink, rows, ("counter", "gauge", "timer", "histogram", "distribution"))
    # What it gets raw it reads its own way: it knows no histograms.
    relayed = compare("the relay", relay, rows, ("counter", "gauge", "timer"))
    return f"{count} values equal at the original from the sink, {relayed} from the relay"


if __name__ == "__main__":
    run(__doc__, start, check, unsupported=True, options=["--statsd"])
