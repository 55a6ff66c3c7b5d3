#!/usr/bin/env python3
"""Holds the API to its document: schemathesis makes requests of it, right ones and wrong ones, and looks whether the answers are
those that the document promises. The daemon has series, events, malformed lines and services meanwhile, and no tick is late.

  api_document.py --systole PATH [--schemathesis PATH] [--examples N] [--late SECONDS]
"""
import argparse
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time

from common import Processes, free_port, get_json, listens, wait_for

TOKEN = "secret"
# What is not asked of an answer: what needs more than one request. Tokens are held by the tests in Rust.
LEFT_OUT = ["use_after_free", "ensure_resource_availability", "ignored_auth", "missing_required_header"]
# These do not end, and the last one has another process answer.
ENDLESS = "^/api/v1/(stream|tail|upgrade)$"


def feed(port, stop):
    """Sends all kinds of lines until it is stopped."""
    out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    n = 0
    while not stop.is_set():
        n += 1
        for lines in [
            f"api.hits:1|c|#route:/r{n % 50},env\npool.size:{n}|g\napi.latency:{n % 97}|ms|#route:/pay\nusers:{n}|s\nkey:{n}|kv",
            f"h:{n}|h\nd:{n}|d\nbroken:{n},5|ms\nno-type:1\n_e{{6,3}}:deploy|4.1|#a:b\n_sc|db|{n % 3}|m:says so",
            f"heartbeat.pay.web-{n % 3}:10|g\nheartbeat.cart.a:1|g",
        ]:
            out.sendto(lines.encode(), ("127.0.0.1", port))
        time.sleep(0.01)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systole", required=True)
    parser.add_argument("--schemathesis", default=os.path.join(os.path.dirname(sys.executable), "schemathesis"))
    parser.add_argument("--examples", type=int, default=40, help="most requests of a route in each phase")
    parser.add_argument("--late", type=float, default=0.5, help="a tick may be so late, in seconds")
    args = parser.parse_args()
    udp, http = free_port(socket.SOCK_DGRAM), free_port()
    url = f"http://127.0.0.1:{http}"
    with tempfile.TemporaryDirectory(prefix="systole-api-") as folder, Processes() as processes:
        with open(f"{folder}/systole.toml", "w") as out:
            out.write(f'interval = "1s"\n[[listen]]\nurl = "udp://127.0.0.1:{udp}"\n[[sink]]\nname = "records"\ntype = "file"\n'
                      f'path = "{folder}/records.jsonl"\n[[rule]]\nmatch = "api.*"\nadd_tags = {{ team = "a" }}\n'
                      f'[http]\naddress = "127.0.0.1:{http}"\ntoken = "{TOKEN}"\n[presence]\nstate_file = "off"\n')
        processes.start([args.systole, "run", "-c", f"{folder}/systole.toml"], f"{folder}/log")
        wait_for("the daemon", lambda: listens(http))
        stop, latest = threading.Event(), [0.0]
        threading.Thread(target=feed, args=(udp, stop), daemon=True).start()
        wait_for("an interval with series", lambda: len(get_json(f"{url}/api/v1/snapshot?name=api.*")) > 3)

        def watch():
            while not stop.wait(0.5):
                latest[0] = max(latest[0], get_json(f"{url}/api/v1/status", 30)["flush"]["late_secs"])

        threading.Thread(target=watch, daemon=True).start()
        with open(f"{folder}/schemathesis.toml", "w") as out:
            # A check that says that a service is away does so with 503, and so does a port that is busy.
            # Some routes take parameters that only fit together (`from` before `to`, an id or a name), which no schema says.
            out.write('[checks]\n' + "".join(f"{check}.enabled = false\n" for check in LEFT_OUT) + 'not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", 503]\n'
                      '[[operations]]\ninclude-path-regex = "^/($|series|presence|maintenance|senders|events|explain|config)"\n'
                      'checks.positive_data_acceptance.enabled = false\n'
                      '[[operations]]\ninclude-path-regex = "^/api/v1/(history|series)"\n'
                      'checks.positive_data_acceptance.enabled = false\n')
        began = time.monotonic()
        command = [args.schemathesis, "run", f"{url}/api/v1/openapi.json", "--phases", "examples,coverage,fuzzing",
                   "--max-examples", str(args.examples), "--exclude-path-regex", ENDLESS, "--header", f"Authorization: Bearer {TOKEN}",
                   "--request-timeout", "10", "--seed", "7", "--no-color", "--suppress-health-check", "all"]
        with open(f"{folder}/answers", "w+") as told:
            outcome = subprocess.run(command, cwd=folder, timeout=280, stdout=told, stderr=subprocess.STDOUT)
            told.seek(0)
            # Some of what is asked is long.
            lines = [line.rstrip("\n")[:500] for line in told]
        seconds = time.monotonic() - began
        stop.set()
        status = get_json(f"{url}/api/v1/status", 30)
        if outcome.returncode != 0:
            print("\n".join(lines))
            sys.exit(f"the answers are not what the document says ({outcome.returncode})")
        if latest[0] > args.late:
            sys.exit(f"a tick was {latest[0]:.3f} s late")
        requests = sum(port["requests"] for port in status["ports"].values())
        print(f"{requests} requests in {seconds:.0f} s: every answer is one that the document has; latest tick {latest[0]:.3f} s late")


main()
