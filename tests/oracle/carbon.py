#!/usr/bin/env python3
"""Graphite's carbon-cache as the receiver: lines of every kind in, whisper files read back.

  carbon.py --systole PATH [--series N]

Two daemons get the same lines over TCP; one writes plaintext, the other pickles, each under a prefix, to one carbon. A
listener of ours gets the same intervals as plaintext: what it heard is what must be in the whisper files, each value at
its second, tagged series included.
"""
import argparse
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time

from common import free_port

sys.path.insert(0, "/usr/lib/python3/dist-packages")
import whisper  # noqa: E402  (Debian's python3-whisper, which comes with graphite-carbon)
from carbon.util import TaggedSeries  # noqa: E402

CARBON = """[cache]
STORAGE_DIR = {w}/storage/
LOCAL_DATA_DIR = {w}/storage/whisper/
CONF_DIR = {w}/conf/
LOG_DIR = {w}/log/
PID_DIR = {w}/run/
DATABASE = whisper
USER =
MAX_CACHE_SIZE = inf
MAX_UPDATES_PER_SECOND = inf
MAX_CREATES_PER_MINUTE = inf
LINE_RECEIVER_INTERFACE = 127.0.0.1
LINE_RECEIVER_PORT = {plain}
PICKLE_RECEIVER_INTERFACE = 127.0.0.1
PICKLE_RECEIVER_PORT = {pickle}
CACHE_QUERY_INTERFACE = 127.0.0.1
CACHE_QUERY_PORT = {query}
ENABLE_TAGS = False
CACHE_WRITE_STRATEGY = naive
WHISPER_FALLOCATE_CREATE = False
"""


def start_carbon(folder):
    ports = {name: free_port() for name in ("plain", "pickle", "query")}
    for name in ("conf", "storage", "log", "run"):
        os.mkdir(os.path.join(folder, name))
    files = {
        "storage-schemas.conf": "[all]\npattern = .*\nretentions = 1s:1h\n",
        "storage-aggregation.conf": "[all]\npattern = .*\nxFilesFactor = 0\naggregationMethod = last\n",
        "carbon.conf": CARBON.format(w=folder, **ports),
    }
    for name, text in files.items():
        with open(os.path.join(folder, "conf", name), "w") as out:
            out.write(text)
    process = subprocess.Popen(
        ["carbon-cache", f"--config={folder}/conf/carbon.conf", "--nodaemon", "start"],
        stdin=subprocess.DEVNULL, stdout=open(f"{folder}/carbon.log", "w"), stderr=subprocess.STDOUT)
    wait_for_port(ports["plain"], process, f"{folder}/carbon.log")
    wait_for_port(ports["pickle"], process, f"{folder}/carbon.log")
    return process, ports


def wait_for_port(port, process, log):
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            if process.poll() is not None:
                sys.exit(f"it ended: {open(log).read()[-2000:]}")
            time.sleep(0.05)
    sys.exit(f"nobody listens on {port}: {open(log).read()[-2000:]}")


class Listener(threading.Thread):
    """A Graphite server that remembers `(name, time)` with the value."""

    def __init__(self):
        super().__init__(daemon=True)
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        self.heard = {}
        self.start()

    def run(self):
        while True:
            stream, _ = self.server.accept()
            threading.Thread(target=self.read, args=(stream,), daemon=True).start()

    def read(self, stream):
        for line in stream.makefile():
            name, value, moment = line.split()
            self.heard[name, int(moment)] = float(value)


def start_systole(folder, binary, prefix, protocol, carbon_port, listener_port):
    port = free_port()
    path = os.path.join(folder, f"{prefix}toml")
    with open(path, "w") as out:
        out.write(f"""interval = "2s"
prefix = "{prefix}"
self_metrics = false
[[listen]]
url = "tcp://127.0.0.1:{port}"
[[sink]]
type = "graphite"
name = "carbon"
address = "127.0.0.1:{carbon_port}"
protocol = "{protocol}"
[[sink]]
type = "graphite"
name = "listener"
address = "127.0.0.1:{listener_port}"
[[rule]]
match = "bucketed.*"
buckets = [10, 100]
[http]
address = "off"
[presence]
enabled = false
""")
    log = os.path.join(folder, f"{prefix}log")
    process = subprocess.Popen([binary, "run", "-c", path], stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=open(log, "w"))
    wait_for_port(port, process, log)
    return process, port


def lines(series):
    """Every kind, with and without tags, names that need escaping among them."""
    for n in range(series):
        kind = ["c", "g", "ms", "h", "d", "s", "kv", "m"][n % 8]
        value = f"user{n}" if kind == "s" else n % 97 + n / 8
        tags = ["", "", f"|#env:prod,host:web-{n % 7}", "|#bare,city:Zürich"][n // 8 % 4]
        stamp = f"|T{int(time.time()) - 30}" if n % 40 == 0 else ""
        name = ["app.web", "with space.x", "bucketed.t", "slash/y"][n // 32 % 4]
        for _ in range(n % 3 + 1):
            yield f"{name}.{n}:{value}|{kind}{tags}{stamp}\n"


def path_of(storage, name):
    """Where carbon keeps a metric."""
    if ";" in name:
        return os.path.join(storage, TaggedSeries.encode(TaggedSeries.parse(name).path, sep=os.sep, hash_only=True) + ".wsp")
    return os.path.join(storage, name.replace(".", os.sep) + ".wsp")


def read_back(storage, name, moment):
    path = path_of(storage, name)
    if not os.path.exists(path):
        return None
    try:
        # The second after `from`, up to `until`.
        found = whisper.fetch(path, moment - 1, moment)
    except whisper.CorruptWhisperFile:
        # It is being made.
        return None
    return found[1][0] if found and found[1] else None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--systole", required=True)
    parser.add_argument("--series", type=int, default=1000)
    args = parser.parse_args()
    processes = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            carbon, ports = start_carbon(folder)
            processes.append(carbon)
            listener = Listener()
            binary = os.path.abspath(args.systole)
            daemons = [start_systole(folder, binary, prefix, protocol, ports[port], listener.port)
                       for prefix, protocol, port in (("plain.", "plaintext", "plain"), ("pickled.", "pickle", "pickle"))]
            processes += [process for process, _ in daemons]
            text = "".join(lines(args.series)).encode()
            for round in range(2):
                for _, port in daemons:
                    with socket.create_connection(("127.0.0.1", port)) as stream:
                        stream.sendall(text)
                time.sleep(2.5)
            for process, _ in daemons:
                process.terminate()
                assert process.wait(20) == 0
            storage = f"{folder}/storage/whisper"
            wrong = check(storage, listener.heard)
            deadline = time.time() + 60
            while wrong and time.time() < deadline:
                time.sleep(0.5)
                wrong = check(storage, listener.heard)
            tagged = sum(";" in name for name, _ in listener.heard)
            pickled = sum(name.startswith("pickled.") for name, _ in listener.heard)
            if wrong:
                sys.exit("\n".join(wrong[:20]) + f"\n{len(wrong)} values are not what was sent")
            assert tagged > 100 and pickled > 1000 and len(listener.heard) > 2 * pickled - 1000, (tagged, pickled)
            print(f"{len(listener.heard)} values, {pickled} as pickles, {tagged} tagged: all in whisper as they were sent")
        finally:
            for process in processes:
                if process.poll() is None:
                    process.kill()
                    process.wait()


def check(storage, heard):
    wrong = []
    for (name, moment), value in sorted(heard.items()):
        found = read_back(storage, name, moment)
        if found != value:
            wrong.append(f"{name} at {moment}: {found} instead of {value}")
    return wrong


if __name__ == "__main__":
    main()
