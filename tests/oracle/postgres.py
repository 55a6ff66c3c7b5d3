#!/usr/bin/env python3
"""PostgreSQL: what the sink writes, read back with SQL.

  postgres.py --systole PATH [--lines N]

PATH is a build with the feature `postgres`.
"""
import json
import os
import shutil
import subprocess

from common import free_port, wait_for
from readback import compare, run, tags_of

PROGRAMS = "/usr/lib/postgresql/15/bin"


def start(processes, folder, _):
    port, home, as_other = free_port(), f"{folder}/pg", []
    os.mkdir(home)
    if os.getuid() == 0:
        # It does not run as root.
        os.chmod(folder, 0o711)
        shutil.chown(home, "postgres")
        as_other = ["runuser", "-u", "postgres", "--"]
    subprocess.run(as_other + [f"{PROGRAMS}/initdb", "-D", f"{home}/data", "-A", "trust", "-U", "postgres"], check=True,
                   stdout=subprocess.DEVNULL, cwd=home)
    processes.start(as_other + [f"{PROGRAMS}/postgres", "-D", f"{home}/data", "-k", home, "-h", "127.0.0.1", "-p", str(port),
                                "-c", "fsync=off"], f"{folder}/pg.log", cwd=home)
    wait_for("PostgreSQL", lambda: psql(port, "SELECT 1") == ["1"])
    return f'[[sink]]\ntype = "postgres"\nurl = "postgres://postgres@127.0.0.1:{port}/postgres"\n', port


def psql(port, query):
    done = subprocess.run(["psql", "-h", "127.0.0.1", "-p", str(port), "-U", "postgres", "-Atc", query], capture_output=True, text=True)
    return done.stdout.splitlines() if done.returncode == 0 else None


def check(port, rows):
    found = psql(port, "SELECT jsonb_build_array(round(extract(epoch FROM time) * 1000), type, name, tags, field, value) FROM systole")
    count = compare("PostgreSQL", {(at, kind, name, tags_of(tags), field): value
                                   for at, kind, name, tags, field, value in map(json.loads, found)}, rows)
    notices = psql(port, "SELECT type FROM systole_notices ORDER BY type")
    assert notices == ["event", "service_check"], notices
    return f"{count} values equal in PostgreSQL"


if __name__ == "__main__":
    run(__doc__, start, check)
