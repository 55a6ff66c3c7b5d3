#!/usr/bin/env python3
"""SQLite: what the sink writes into its file, read back with SQL.

  sqlite.py --systole PATH [--lines N]
"""
import json
import sqlite3

from readback import compare, run, tags_of


def start(_, folder, __):
    path = f"{folder}/records.db"
    return f'[[sink]]\ntype = "sqlite"\npath = "{path}"\n', path


def check(path, rows):
    database = sqlite3.connect(path)
    found = database.execute("SELECT time, type, name, tags, field, value FROM records")
    count = compare("SQLite", {(round(at * 1000), kind, name, tags_of(json.loads(tags)), field): value
                               for at, kind, name, tags, field, value in found}, rows)
    notices = [row[0] for row in database.execute("SELECT type FROM notices ORDER BY type")]
    assert notices == ["event", "service_check"], notices
    return f"{count} values equal in SQLite"


if __name__ == "__main__":
    run(__doc__, start, check)
