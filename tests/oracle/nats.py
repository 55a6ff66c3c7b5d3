#!/usr/bin/env python3
"""NATS with JetStream: the records of a stream, read back one by one.

  nats.py --systole PATH [--lines N]

PATH is a build with the feature `nats`.
"""
import base64
import json
import socket

from common import free_port, get_json, wait_for
from readback import compare, rows_of, run


def start(processes, folder, _):
    port, monitor = free_port(), free_port()
    processes.start(["nats-server", "-a", "127.0.0.1", "-p", str(port), "-m", str(monitor), "-js", "-sd", f"{folder}/nats"],
                    f"{folder}/nats.log")
    wait_for("NATS", lambda: get_json(f"http://127.0.0.1:{monitor}/healthz")["status"] == "ok")
    return f'[[sink]]\ntype = "nats"\nservers = ["127.0.0.1:{port}"]\n', port


class Client:
    """As much of the protocol as reading a stream back takes."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), 10)
        self.file = self.socket.makefile("rb")
        self.file.readline()
        self.socket.sendall(b'CONNECT {"verbose":false,"headers":true,"no_responders":true}\r\nSUB box 1\r\n')

    def ask(self, subject, body):
        data = json.dumps(body).encode()
        self.socket.sendall(f"PUB {subject} box {len(data)}\r\n".encode() + data + b"\r\n")
        while True:
            head = self.file.readline().split()
            if head[0] == b"PING":
                self.socket.sendall(b"PONG\r\n")
            elif head[0] in (b"MSG", b"HMSG"):
                return json.loads(self.file.read(int(head[-1]) + 2))

    def records(self):
        state = self.ask("$JS.API.STREAM.INFO.systole", {})["state"]
        for sequence in range(state["first_seq"], state["last_seq"] + 1):
            message = self.ask("$JS.API.STREAM.MSG.GET.systole", {"seq": sequence})["message"]
            yield from map(json.loads, base64.b64decode(message["data"]).decode().splitlines())


def check(port, rows):
    found, notices = rows_of(Client(port).records())
    count = compare("NATS", found, rows)
    assert notices == {"event": 1, "service_check": 1}, notices
    return f"{count} values equal in NATS"


if __name__ == "__main__":
    run(__doc__, start, check)
