#!/usr/bin/env python3
"""ClickHouse: what the sink writes, read back with SQL.

  clickhouse.py --systole PATH [--lines N]
"""
import json
import os
import urllib.parse
import urllib.request

from common import free_port, wait_for
from readback import compare, run


def start(processes, folder, _):
    http, tcp = free_port(), free_port()
    os.makedirs(f"{folder}/ch/data")
    with open(f"{folder}/ch/config.xml", "w") as out:
        out.write(f"""<yandex><logger><level>warning</level><console>1</console></logger><listen_host>127.0.0.1</listen_host>
<http_port>{http}</http_port><tcp_port>{tcp}</tcp_port><path>{folder}/ch/data/</path><tmp_path>{folder}/ch/tmp/</tmp_path>
<users_config>{folder}/ch/users.xml</users_config><default_profile>default</default_profile>
<default_database>default</default_database><mark_cache_size>5368709</mark_cache_size></yandex>""")
    with open(f"{folder}/ch/users.xml", "w") as out:
        out.write("""<yandex><profiles><default><max_memory_usage>1000000000</max_memory_usage></default></profiles><users><default>
<password></password><networks><ip>::/0</ip></networks><profile>default</profile><quota>default</quota></default></users>
<quotas><default/></quotas></yandex>""")
    processes.start(["clickhouse-server", f"--config-file={folder}/ch/config.xml"], f"{folder}/ch.log")
    base = f"http://127.0.0.1:{http}"
    wait_for("ClickHouse", lambda: urllib.request.urlopen(f"{base}/ping").read() == b"Ok.\n", 60)
    return f'[[sink]]\ntype = "clickhouse"\nurl = "{base}"\n', base


def ask(base, query):
    return urllib.request.urlopen(f"{base}/?" + urllib.parse.urlencode({"query": query})).read().decode().splitlines()


def check(base, rows):
    query = "SELECT time_ms, type, name, tags.key AS k, tags.value AS v, field, value FROM systole FINAL FORMAT JSONEachRow"
    found = {(int(r["time_ms"]), r["type"], r["name"], tuple(sorted(zip(r["k"], r["v"]))), r["field"]): float(r["value"])
             for r in map(json.loads, ask(base, query))}
    count = compare("ClickHouse", found, rows)
    notices = ask(base, "SELECT type FROM systole_notices FINAL ORDER BY type")
    assert notices == ["event", "service_check"], notices
    return f"{count} values equal in ClickHouse"


if __name__ == "__main__":
    run(__doc__, start, check)
