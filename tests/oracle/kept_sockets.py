#!/usr/bin/env python3
"""Sockets that outlive the process: no datagram is lost over restarts, because somebody holds the socket meanwhile.

  kept_sockets.py --systole PATH [--restarts 5] [--rate 50000]

First the manager has opened the socket, as for a socket unit (LISTEN_FDS, LISTEN_PID, LISTEN_FDNAMES). Then the daemon opens it, and gives
it to the manager to keep (FDSTORE=1 on the notify socket), which passes it to the next process, also after `kill -9`.
"""
import argparse
import array
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

from common import Processes, free_port, records, wait_for


class Manager(threading.Thread):
    """The notify socket of a service manager: keeps what it is given to keep, and notes what it is told."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.path, self.said, self.kept = path, [], []
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(path)

    def run(self):
        while True:
            text, control, _, _ = self.socket.recvmsg(4096, socket.CMSG_SPACE(64 * 4))
            descriptors = array.array("i")
            for _, _, data in control:
                descriptors.frombytes(data[:len(data) - len(data) % 4])
            if b"FDSTORE=1" in text:
                name = next(line[7:].decode() for line in text.split(b"\n") if line.startswith(b"FDNAME="))
                # The same socket is kept once, as systemd does it.
                known = {os.fstat(fd).st_ino for fd, _ in self.kept}
                self.kept += [(fd, name) for fd in descriptors if os.fstat(fd).st_ino not in known]
            self.said.append(text.decode())

    def wait(self, what):
        wait_for(f"the message {what}", lambda: any(what in text for text in self.said), pause=0.002)


def start(processes, args, folder, sockets, environment):
    """A daemon with these sockets, each with its name, from descriptor 3 on."""
    manager = environment.pop("manager")
    manager.said.clear()
    moved = list(range(3, 3 + len(sockets)))
    # Copies first, so that no move overwrites a descriptor that is still to be moved.
    copies = [os.dup2(fd, 100 + n) for n, (fd, _) in enumerate(sockets)]
    moves = " ".join(f"{to}<&{copy} {copy}<&-" for to, copy in zip(moved, copies))
    command = ["bash", "-c", f'export LISTEN_PID=$$; exec "$@" {moves}', "bash", args.systole, "run", "-c", f"{folder}/systole.toml"]
    env = {**os.environ, **environment, "NOTIFY_SOCKET": manager.path, "XDG_STATE_HOME": folder}
    if sockets:
        env |= {"LISTEN_FDS": str(len(sockets)), "LISTEN_FDNAMES": ":".join(name for _, name in sockets)}
    process = processes.start(command, f"{folder}/log", pass_fds=copies, env=env)
    for copy in copies:
        os.close(copy)
    manager.wait("READY=1")
    return process


def run(processes, args, name, listen, held, environment, kill):
    """Restarts a daemon under load; what was sent and what is in the records."""
    folder = tempfile.mkdtemp(prefix="systole-kept-")
    port, out = held[0] if held else free_port(socket.SOCK_DGRAM), f"{folder}/records.jsonl"
    with open(f"{folder}/systole.toml", "w") as config:
        config.write(f'interval = "1s"\nself_metrics = false\n[[listen]]\nurl = "{listen.format(port=port)}"\nreceive_buffer = "32MiB"\n'
                     f'[[sink]]\ntype = "file"\npath = "{out}"\n[http]\naddress = "off"\n[presence]\nenabled = false\n')
    manager = Manager(f"{folder}/notify")
    manager.start()
    sockets = [(held[1].fileno(), "statsd")] if held else []
    process = start(processes, args, folder, sockets, {**environment, "manager": manager})
    seconds = 1.5 * (args.restarts + 1)
    load = subprocess.Popen([args.systole, "load", "--to", f"udp://127.0.0.1:{port}", "--rate", str(args.rate), "--lines-per-packet", "1",
                             "--for", f"{seconds}s"], stdout=subprocess.PIPE, text=True)
    for _ in range(args.restarts):
        time.sleep(1.5)
        process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        code = process.wait(20)
        if code != (-9 if kill else 0):
            sys.exit(f"FAILED: {name}: it exits {code} (see {folder})")
        process = start(processes, args, folder, sockets + manager.kept, {**environment, "manager": manager})
    sent = json.loads(load.communicate(timeout=60)[0])["lines"]
    time.sleep(1.2)
    process.send_signal(signal.SIGTERM)
    if process.wait(20) != 0:
        sys.exit(f"FAILED: {name}: it exits {process.returncode} (see {folder})")
    found = list(records(out))
    ledgers = [record for record in found if record["type"] == "ledger"]
    got = sum(record["lines"]["metrics"] for record in ledgers)
    drops = sum(listener["kernel_drops"] for record in ledgers for listener in record["listeners"])
    return sent, got, drops, folder


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--systole", required=True, type=os.path.abspath)
    parser.add_argument("--restarts", type=int, default=5)
    parser.add_argument("--rate", type=int, default=50000)
    args = parser.parse_args()
    held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 << 20)
    held.bind(("127.0.0.1", 0))
    with Processes() as processes:
        cases = [("a socket that the manager opened", "fd://statsd", (held.getsockname()[1], held), {}, False),
                 ("a socket that the manager keeps", "udp://127.0.0.1:{port}", None, {"FDSTORE": "8"}, False),
                 ("a socket that the manager keeps, kill -9", "udp://127.0.0.1:{port}", None, {"FDSTORE": "8"}, True)]
        for name, listen, socket_of_manager, environment, kill in cases:
            sent, got, drops, folder = run(processes, args, name, listen, socket_of_manager, environment, kill)
            # What a killed process had read and not flushed is lost: an interval at most for each, and a moment.
            lost, most = sent - got - drops, int(1.5 * args.rate * args.restarts) if kill else 0
            if not 0 <= lost <= most or drops:
                sys.exit(f"FAILED: {name}: {sent} sent, {got} in the records, {drops} dropped (see {folder})")
            print(f"{name}: {args.restarts} restarts at {args.rate} datagrams/s: {sent} sent, {lost} lost")


if __name__ == "__main__":
    main()
