#!/usr/bin/env python3
"""Systole beside the original statsd: the same lines over TCP, the same names and values in Graphite.

  side_by_side.py --systole PATH --statsd FOLDER [--lines N] [--seed N]

The original runs with a config.js, Systole with what `systole import` makes of it; both write plaintext to a capturing
listener.
Random well-formed lines are sent in batches, each away from either daemon's tick, in small connections that are
awaited one by one, so that both see the same packets in the same order. The flush after each batch must have the
same names, and every value must be equal to 1e-9; what depends on the clock is compared by name only.
"""
import argparse
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

from common import free_port, wait_for

INTERVAL = 3.0
BATCHES = 8
CHUNK_BYTES = 8000
PERCENTILES = [90, 99.9, -10]
BY_NAME_ONLY = ("timestamp_lag", "processing_time", "graphiteStats.")


class Capture:
    """A Graphite server: collects flushes as (arrival of the last line, {name: [values]})."""

    def __init__(self):
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        self.lock = threading.Lock()
        self.flushes = {}
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            stream, _ = self.server.accept()
            threading.Thread(target=self.read, args=(stream,), daemon=True).start()

    def read(self, stream):
        with stream, stream.makefile("r", encoding="utf-8") as lines:
            for line in lines:
                name, value, stamp = line.split()
                with self.lock:
                    flush = self.flushes.setdefault(int(stamp), [0.0, {}])
                    flush[0] = time.time()
                    flush[1].setdefault(name, []).append(float(value))

    def after(self, moment):
        """The first flush that arrived wholly after a moment, or None."""
        with self.lock:
            later = [flush for _, flush in sorted(self.flushes.items()) if flush[0] > moment]
        # Lines of one flush arrive together.
        return later[0][1] if later and time.time() - later[0][0] > 0.3 else None

    def ticks(self):
        with self.lock:
            return [flush[0] for _, flush in sorted(self.flushes.items())]


def start(arguments, log, **options):
    return subprocess.Popen(arguments, stdout=log, stderr=log, stdin=subprocess.DEVNULL, **options)


def write_config(folder, name, port, capture):
    """The original's configuration, in JavaScript as people write it."""
    path = os.path.join(folder, name)
    with open(path, "w", encoding="utf-8") as out:
        out.write(f"""/* both daemons read this one */
{{
  servers: [ {{ server: "./servers/tcp", address: '127.0.0.1', port: {port} }} ] // TCP loses nothing
, mgmt_address: "127.0.0.1", mgmt_port: {free_port()}
, backends: [ "./backends/graphite" ], graphiteHost: "127.0.0.1", graphitePort: {capture.port}
, flushInterval: {int(INTERVAL * 1000)}, percentThreshold: {PERCENTILES}
}}
""")
    return path


def start_original(folder, statsd, capture):
    port = free_port()
    path = write_config(folder, "config.js", port, capture)
    log = open(os.path.join(folder, "original.log"), "w", encoding="utf-8")
    process = start(["node", os.path.join(statsd, "stats.js"), path], log, cwd=statsd)
    return process, port


def start_systole(folder, binary, capture):
    """Ours, with what it makes of such a configuration itself."""
    port = free_port()
    imported = subprocess.run([binary, "import", write_config(folder, "ours.js", port, capture)], capture_output=True, check=True)
    assert not imported.stderr, imported.stderr
    path = os.path.join(folder, "systole.toml")
    with open(path, "wb") as out:
        out.write(imported.stdout + b'\n[http]\naddress = "off"\n')
    log = open(os.path.join(folder, "systole.log"), "w", encoding="utf-8")
    return start([binary, "run", "-c", path], log), port


def series(rng):
    """300 series: names that need cleaning among them, tags in sorted order. All ASCII: over TCP the original
    reads every byte as a 7-bit character, and so makes other letters of the rest."""
    words = ["api", "db", "web server", "a/b", "p+q", "x_y", "z-1", "queue.depth", "per cent%"]
    kinds = ["c", "g", "ms", "s"]
    made = []
    for n in range(300):
        name = f"{rng.choice(words)}.{rng.choice(words)}.{n}"
        tags = ""
        if rng.random() < 0.3:
            keys = sorted(rng.sample(["env", "host", "region", "zone"], rng.randint(1, 3)))
            tags = "|#" + ",".join(f"{key}:{rng.choice(['a', 'b/c', 'd e', '7'])}{n}" for key in keys)
        made.append((name, kinds[n % 4], tags))
    return made


def line(rng, name, kind, tags):
    rate = ""
    if kind == "s":
        value = f"user{rng.randint(0, 60)}"
    elif kind == "g":
        value = rng.choice(["", "", "+", "-"]) + str(rng.choice([rng.randint(0, 1000), round(rng.random() * 50, 3)]))
    elif kind == "ms":
        value = str(rng.choice([rng.randint(0, 5000), round(rng.random() * 900, 2), "1.5e2"]))
        rate = rng.choice(["", "", "|@0.5", "|@0.1", "|@0.25"])
    else:
        value = str(rng.choice([1, 1, 5, rng.randint(0, 99), round(rng.random() * 9, 3)]))
        rate = rng.choice(["", "", "|@0.5", "|@0.1", "|@.3"])
    return f"{name}:{value}|{kind}{rate}{tags}\n"


def send(port, chunk):
    """One connection: sent, closed, and awaited until the daemon has closed its side too."""
    with socket.create_connection(("127.0.0.1", port)) as stream:
        stream.sendall(chunk)
        stream.shutdown(socket.SHUT_WR)
        stream.settimeout(10)
        while stream.recv(1024):
            pass


def quiet_moment(captures):
    """Waits for the start of the longer pause between the ticks of the two daemons."""
    now = time.time()
    ticks = []
    for capture in captures:
        last = capture.ticks()[-1]
        ticks.append(last + (1 + int((now - last) / INTERVAL)) * INTERVAL)
    ticks.sort()
    first, second = ticks
    # After the first comes the second, after the second comes the first of the next round.
    start_at = first if second - first >= INTERVAL / 2 else second
    time.sleep(max(0.0, start_at + 0.35 - time.time()))


def compare(ours, theirs, batch):
    problems = []
    missing, extra = sorted(set(theirs) - set(ours)), sorted(set(ours) - set(theirs))
    if missing or extra:
        problems.append(f"batch {batch}: missing {missing[:10]}, extra {extra[:10]}")
    for name in sorted(set(ours) & set(theirs)):
        if any(part in name for part in BY_NAME_ONLY):
            continue
        a, b = sorted(ours[name]), sorted(theirs[name])
        same = len(a) == len(b) and all(abs(x - y) <= 1e-9 * max(abs(x), abs(y), 1e-300) for x, y in zip(a, b))
        if not same:
            problems.append(f"batch {batch}: {name}: {a} instead of {b}")
    return problems


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--systole", required=True)
    parser.add_argument("--statsd", required=True)
    parser.add_argument("--lines", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=20261122)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    folder = tempfile.mkdtemp(prefix="side-by-side-")
    captures = [Capture(), Capture()]
    processes = []
    problems, names, values, sent = [], set(), 0, 0
    try:
        original, their_port = start_original(folder, os.path.abspath(options.statsd), captures[1])
        processes.append(original)
        systole, our_port = start_systole(folder, os.path.abspath(options.systole), captures[0])
        processes.append(systole)
        # Two flushes each: from the second on both tell their lag.
        wait_for("two flushes of both", lambda: all(len(c.ticks()) >= 2 for c in captures))
        known = series(rng)
        for batch in range(1, BATCHES + 1):
            lines = [line(rng, *rng.choice(known)) for _ in range(options.lines // BATCHES)]
            sent += len(lines)
            chunks, chunk = [], b""
            for text in lines:
                chunk += text.encode()
                if len(chunk) > CHUNK_BYTES - 200:
                    chunks.append(chunk)
                    chunk = b""
            chunks.append(chunk)
            quiet_moment(captures)
            began = time.time()
            for port in (our_port, their_port):
                for chunk in chunks:
                    send(port, chunk)
            ended = time.time()
            if any(began < tick < ended for c in captures for tick in c.ticks()):
                sys.exit(f"batch {batch} took {ended - began:.1f} s and met a tick: the machine is too slow for this test")
            flushes = [wait_for(f"the flush after batch {batch}", lambda c=c: c.after(ended)) for c in captures]
            problems += compare(flushes[0], flushes[1], batch)
            names |= set(flushes[1])
            values += sum(len(v) for v in flushes[1].values())
            for process in processes:
                if process.poll() is not None:
                    sys.exit(f"{process.args[0]} ended with {process.returncode}; see {folder}")
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(timeout=20)
    for problem in problems[:40]:
        print(problem)
    print(f"{sent} lines in {BATCHES} batches, {len(names)} names, {values} values compared, seed {options.seed}")
    if problems:
        sys.exit(f"{len(problems)} differences; logs in {folder}")
    shutil.rmtree(folder)
    print("side by side with the original: no difference")


if __name__ == "__main__":
    main()
