#!/usr/bin/env python3
"""Socket activation under systemd-socket-activate: lines that were queued before the daemon started are not lost.

  activation.py --systole PATH [--activate PATH]
"""
import argparse
import json
import os
import socket
import subprocess
import tempfile
import time

from common import free_port


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--systole", required=True, type=os.path.abspath)
    parser.add_argument("--activate", default="systemd-socket-activate")
    args = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="systole-activation-")
    port, out = free_port(socket.SOCK_DGRAM), f"{folder}/records.jsonl"
    with open(f"{folder}/systole.toml", "w") as config:
        config.write(f'interval = "1s"\nself_metrics = false\n[[listen]]\nurl = "fd://statsd"\n[[sink]]\ntype = "file"\n'
                     f'path = "{out}"\n[http]\naddress = "off"\n[presence]\nenabled = false\n')
    # The manager tells how the daemon is over this socket.
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(f"{folder}/notify")
    manager.settimeout(20)
    log = open(f"{folder}/log", "wb")
    daemon = subprocess.Popen(
        [args.activate, "-d", "-l", f"127.0.0.1:{port}", "--fdname=statsd", "-E", f"NOTIFY_SOCKET={folder}/notify",
         args.systole, "run", "-c", f"{folder}/systole.toml"], stdout=log, stderr=log)
    try:
        end = time.time() + 10
        while b"Listening on" not in open(f"{folder}/log", "rb").read():
            if time.time() > end:
                raise SystemExit(f"FAILED: systemd-socket-activate does not listen (see {folder})")
            time.sleep(0.05)
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        # The first one starts the daemon; all of these are queued by the kernel until it reads.
        for _ in range(100):
            sender.sendto(b"early:1|c", ("127.0.0.1", port))
        said = manager.recv(4096)
        if b"READY=1" not in said:
            raise SystemExit(f"FAILED: the manager was told {said}")
        for _ in range(100):
            sender.sendto(b"late:1|c", ("127.0.0.1", port))
        time.sleep(1.5)
        daemon.terminate()
        if b"STOPPING=1" not in manager.recv(4096):
            raise SystemExit("FAILED: the manager was not told of the end")
        if daemon.wait(timeout=20) != 0:
            raise SystemExit(f"FAILED: it exits {daemon.returncode} (see {folder})")
    finally:
        daemon.kill()
        daemon.wait()
    sums = {}
    for line in open(out):
        record = json.loads(line)
        if record["type"] == "counter":
            sums[record["name"]] = sums.get(record["name"], 0) + record["value"]
    if sums != {"early": 100.0, "late": 100.0}:
        raise SystemExit(f"FAILED: {sums} (see {folder})")
    print("100 lines queued before the start and 100 after it: none lost; the manager was told ready and stopping")


if __name__ == "__main__":
    main()
