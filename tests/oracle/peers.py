#!/usr/bin/env python3
"""Other StatsD servers: how each is installed, configured and started, on loopback alone.

  peers.py install [NAME…]                  what is missing, from Debian and npm
  peers.py run NAME PORT OUT [SECONDS]      becomes the server: StatsD by UDP at PORT, plaintext for Graphite to the port OUT,
                                            every SECONDS (1)
"""
import os
import shutil
import subprocess
import sys
import tempfile

from common import free_port

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "../.."))
FOLDER = os.path.join(ROOT, "target/peers")
STATSD = os.environ.get("PEER_STATSD", os.path.join(FOLDER, "node_modules/statsd"))
NAMES = ["statsd", "netdata", "collectd"]


def install(names):
    """Debian's packages, without a server being started, and the original from npm."""
    missing = []
    if "statsd" in names and not os.path.exists(STATSD):
        missing += [] if shutil.which("npm") else ["nodejs", "npm"]
    if "netdata" in names and not shutil.which("netdata", path="/usr/sbin:/usr/bin"):
        missing.append("netdata-core")
    if "collectd" in names and not os.path.exists("/usr/lib/collectd/statsd.so"):
        missing.append("collectd-core")
    if missing:
        root = [] if os.geteuid() == 0 else ["sudo"]
        if not os.path.exists("/usr/sbin/policy-rc.d"):
            subprocess.run([*root, "tee", "/usr/sbin/policy-rc.d"], input=b"#!/bin/sh\nexit 101\n", stdout=subprocess.DEVNULL, check=True)
            subprocess.run([*root, "chmod", "+x", "/usr/sbin/policy-rc.d"], check=True)
        subprocess.run([*root, "apt-get", "update", "-qq"], check=True)
        subprocess.run([*root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-qq", "-y", "--no-install-recommends",
                        "-o", "DPkg::Lock::Timeout=300", *missing], check=True, stdout=subprocess.DEVNULL)
    if "statsd" in names and not os.path.exists(STATSD):
        os.makedirs(FOLDER, exist_ok=True)
        subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--silent", "--prefix", FOLDER, "statsd@0.9.0"], check=True)


def version(name):
    def said(*command):
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    if name == "statsd":
        return "statsd 0.9.0 (npm, Node " + said("node", "--version").lstrip("v") + ")"
    package = {"netdata": "netdata-core", "collectd": "collectd-core"}[name]
    return f"{name} {said('dpkg-query', '-W', '-f', '${Version}', package)} (Debian)"


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as out:
        out.write(text)


def command(name, folder, port, out, seconds):
    """What starts a peer, its files being in the folder."""
    return {"statsd": statsd, "netdata": netdata, "collectd": collectd}[name](folder, port, out, seconds)


def statsd(folder, port, out, seconds):
    write(f"{folder}/config.js", f"""{{
  port: {port}, address: "127.0.0.1", mgmt_address: "127.0.0.1", mgmt_port: {free_port()}, flushInterval: {int(seconds * 1000)},
  backends: ["./backends/graphite"], graphiteHost: "127.0.0.1", graphitePort: {out}, graphite: {{ legacyNamespace: false }}
}}
""")
    return ["node", f"{STATSD}/stats.js", f"{folder}/config.js"]


def netdata(folder, port, out, seconds):
    every = max(1, round(seconds))
    for part in ("conf", "cache", "lib", "log"):
        os.makedirs(f"{folder}/{part}", exist_ok=True)
    # Nothing is told to anybody.
    write(f"{folder}/conf/.opt-out-from-anonymous-statistics", "")
    write(f"{folder}/lib/cloud.d/cloud.conf", "[global]\n    enabled = no\n")
    write(f"{folder}/conf/netdata.conf", f"""[global]
    hostname = peer
    run as user = {os.environ.get("USER", "root")}
[directories]
    config = {folder}/conf
    stock config = {folder}/conf
    cache = {folder}/cache
    lib = {folder}/lib
    log = {folder}/log
[db]
    mode = ram
    update every = 1
[plugins]
    timex = no
    proc = no
    diskspace = no
    cgroups = no
    tc = no
    idlejitter = no
    loops = no
    checks = no
    apps = no
    enable running new plugins = no
    netdata monitoring = no
    netdata monitoring extended = no
    statsd = yes
[health]
    enabled = no
[ml]
    enabled = no
[registry]
    enabled = no
[web]
    mode = none
[statsd]
    bind to = udp:127.0.0.1:{port}
    update every (flushInterval) = {every}
""")
    write(f"{folder}/conf/exporting.conf", f"""[exporting:global]
    enabled = yes
    update every = {every}
[graphite:peer]
    enabled = yes
    destination = tcp:127.0.0.1:{out}
    data source = as collected
    prefix = netdata
    hostname = peer
    update every = {every}
    send charts matching = statsd_*
""")
    program = shutil.which("netdata", path="/usr/sbin:/usr/bin")
    return ["env", "DISABLE_TELEMETRY=1", "DO_NOT_TRACK=1", program, "-D", "-P", f"{folder}/pid", "-c", f"{folder}/conf/netdata.conf"]


def collectd(folder, port, out, seconds):
    write(f"{folder}/collectd.conf", f"""Hostname "host"
BaseDir "{folder}"
PIDFile "{folder}/pid"
Interval {seconds}
LoadPlugin statsd
LoadPlugin write_graphite
<Plugin statsd>
  Host "127.0.0.1"
  Port "{port}"
  TimerPercentile 90.0
  TimerLower true
  TimerUpper true
  TimerSum true
  TimerCount true
</Plugin>
<Plugin write_graphite>
  <Node "out">
    Host "127.0.0.1"
    Port "{out}"
    Protocol "tcp"
    StoreRates false
    AlwaysAppendDS false
    SeparateInstances true
  </Node>
</Plugin>
""")
    return ["/usr/sbin/collectd", "-f", "-C", f"{folder}/collectd.conf"]


def main():
    if sys.argv[1:2] == ["install"]:
        return install(sys.argv[2:] or NAMES)
    if sys.argv[1:2] != ["run"] or len(sys.argv) < 5:
        sys.exit(__doc__)
    name, port, out = sys.argv[2:5]
    seconds = float(sys.argv[5]) if len(sys.argv) > 5 else 1
    # Whoever starts it may give a folder that goes with it.
    folder = tempfile.mkdtemp(prefix=f"peer-{name}-", dir=os.environ.get("PEER_FOLDER"))
    made = command(name, folder, port, out, seconds)
    os.execvp(made[0], made)


if __name__ == "__main__":
    main()
