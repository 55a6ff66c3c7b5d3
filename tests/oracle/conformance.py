#!/usr/bin/env python3
"""`systole conformance`: Systole passes every vector over every output, and a server with a mistake does not.

  conformance.py --systole PATH [--statsd FOLDER]
  conformance.py --systole PATH --docs       writes the tables of docs/conformance.md, with every peer that installs

With the original's folder, the lines that end it must be found.
"""
import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

import conformance_vectors
import peers
from mutant_server import MISTAKES

HERE = os.path.dirname(os.path.abspath(__file__))
# What the small server reads.
SMALL = ["statsd", "deltas", "malformed", "framing"]
GROUPS = ["statsd", "deltas", "packed", "dogstatsd", "clients", "nametags", "framing", "disputed", "malformed", "hostile"]


def judge(systole, server, *flags):
    """The report, and the exit code."""
    done = subprocess.run([systole, "conformance", "--server", server, "--json", *flags], capture_output=True, text=True, timeout=600)
    if not done.stdout:
        sys.exit(f"FAILED: {server}: {done.stderr}")
    return json.loads(done.stdout), done.returncode


def systole_with(folder, name, program, sink, profile="systole", listen="udp"):
    """A command that starts Systole; its configuration is written when its ports are known."""
    script = os.path.join(folder, name)
    toml = (f'interval = \\"1s\\"\\nprofile = \\"{profile}\\"\\nstate_dir = \\"$0-$1-state\\"\\n[[listen]]\\nurl = \\"{listen}://127.0.0.1:$1\\"\\n'
            f'[http]\\naddress = \\"off\\"\\n[[sink]]\\n{sink}\\naddress = \\"127.0.0.1:$2\\"\\n')
    peers.write(script, f'printf "{toml}" >"$0-$1.toml"\nexec {program} run -c "$0-$1.toml"\n')
    return f"sh {script} {{port}} {{out}}"


def ours(systole, folder):
    """Each way in which Systole is judged: what it is, the command, the flags."""
    def server(name, sink, *more):
        return systole_with(folder, name, systole, sink, *more)
    graphite = 'type = \\"graphite\\"'
    # The profile of DogStatsD tells rates where others tell counts.
    rates = [f"--naming={figure}" for figure in ("counter={}.count", "gauge={}", "set={}", "max={}.max")]
    return [("Graphite", server("graphite", graphite), []),
            ("Graphite, lines by TCP", server("tcp", graphite, "systole", "tcp"), ["--transport", "tcp"]),
            ("Graphite, profile etsy", server("etsy", graphite, "etsy"), ["--profile", "etsy"]),
            ("Graphite, profile dogstatsd", server("dogstatsd", graphite, "dogstatsd"), ["--profile", "dogstatsd", *rates]),
            ("Prometheus", server("prometheus", 'type = \\"prometheus\\"'), ["--output", "prometheus"]),
            ("StatsD lines", server("statsd", 'type = \\"statsd\\"\\ndialect = \\"dogstatsd\\"'), ["--output", "statsd"])]


def describe(report):
    return [f"{row['id']}: {row['problem']}" for row in report["rows"] if row["verdict"] == "failed"]


def check(systole, statsd, folder):
    for what, server, flags in ours(systole, folder):
        report, code = judge(systole, server, *flags)
        if code or report["failed"]:
            sys.exit(f"FAILED: Systole, {what}: {describe(report)}")
        print(f"Systole, {what}: {report['passed']} of {report['vectors']} passed, {report['untold']} not told")
    small = f"{sys.executable} {HERE}/mutant_server.py {{port}} {{out}}"
    flags = [flag for group in SMALL for flag in ("--only", group)]
    report, code = judge(systole, small, *flags)
    if code:
        sys.exit(f"FAILED: the small server without a mistake: {describe(report)}")
    extra = ["--only", "hostile"]
    for mistake, says in MISTAKES.items():
        report, code = judge(systole, f"{small} {mistake}", *flags, *(extra if mistake == "ends" else []))
        found = describe(report)
        if code != 1 or not found or mistake == "ends" and not any("disp-057: the server ends by it" in problem for problem in found):
            sys.exit(f"FAILED: a server that {says} was not found: {found}")
        print(f"a server that {says}: {len(found)} vectors fail")
    if statsd:
        os.environ["PEER_STATSD"] = os.path.abspath(statsd)
        report, _ = judge(systole, peer("statsd"), "--profile", "etsy", "--only", "hostile")
        ended = {row["id"] for row in report["rows"] if row.get("problem") == "the server ends by it"}
        if ended != {"disp-057", "disp-058", "disp-116", "disp-117"}:
            sys.exit(f"FAILED: the original ends by {sorted(ended)}: {describe(report)}")
        print("the original ends by four lines, and each is named")


def peer(name):
    return f"{sys.executable} {HERE}/peers.py run {name} {{port}} {{out}}"


def cell(report, group):
    tally = report["groups"].get(group)
    if not tally:
        return "–"
    told = tally["vectors"] - tally["untold"]
    return f"{tally['passed']} of {told}" if tally["passed"] != told else f"**all {told}**"


def docs(systole, folder):
    """Every peer, judged by everything but the cleaning of names."""
    peers.install(peers.NAMES)
    what, server, flags = ours(systole, folder)[0]
    with ThreadPoolExecutor(1 + len(peers.NAMES)) as pool:
        runs = {"Systole": pool.submit(judge, systole, server, *flags)}
        runs |= {name: pool.submit(judge, systole, peer(name)) for name in peers.NAMES}
        reports = {name: run.result()[0] for name, run in runs.items()}
    titles = [subprocess.run([systole, "--version"], capture_output=True, text=True).stdout.strip().capitalize(),
              *(peers.version(name) for name in peers.NAMES)]
    lines = [f"Vectors `{reports['Systole']['format']}`, profile systole, by UDP, Graphite out.", "",
             "| group | " + " | ".join(titles) + " |", "|---|" + "---|" * len(titles)]
    lines += [f"| {group} | " + " | ".join(cell(report, group) for report in reports.values()) + " |" for group in GROUPS]
    total = [f"{r['passed']} of {r['vectors'] - r['untold']}" for r in reports.values()]
    lines += ["| all | " + " | ".join(total) + " |", ""]
    for name in peers.NAMES:
        ended = [re.sub(r"^q\d{3}z", "", row["send"][0]) for row in reports[name]["rows"] if row.get("problem") == "the server ends by it"]
        if ended:
            lines += [f"{name} ends by " + ", ".join(f"`{line}`" for line in ended) + ".", ""]
    path = os.path.join(peers.ROOT, "docs/conformance.md")
    with open(path, encoding="utf-8") as page:
        old = page.read()
    table = "\n".join(lines)
    new = re.sub(r"(<!-- judged -->\n).*?(<!-- end -->)", lambda match: f"{match[1]}\n{table}\n{match[2]}", old, flags=re.S)
    peers.write(path, new)
    print(table)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systole", required=True)
    parser.add_argument("--statsd")
    parser.add_argument("--docs", action="store_true")
    options = parser.parse_args()
    systole = os.path.abspath(options.systole)
    conformance_vectors.main()
    with tempfile.TemporaryDirectory(prefix="conformance-") as folder:
        os.environ["PEER_FOLDER"] = os.environ["XDG_STATE_HOME"] = folder
        if options.docs:
            docs(systole, folder)
        else:
            check(systole, options.statsd, folder)


if __name__ == "__main__":
    main()
