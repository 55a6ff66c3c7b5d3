#!/usr/bin/env python3
"""The Dockerfile, compose.yaml and the manifests for Kubernetes: linted, held to their schemas, and their configurations run.

  containers.py --systole PATH [--hadolint PATH] [--prometheus PATH] [--promtool PATH]

No builder of images runs here. What an image would start is started as its files say, in namespaces of its own: the same
configuration, secrets and folders at the same paths, the names of the other containers, and the health check."""
import argparse
import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
import urllib.error
import urllib.parse
import urllib.request

import compose_spec
import dockerfile_parse
import kubernetes_validate
import yaml
from docker.utils.build import exclude_paths

from common import Processes, stop, wait_for

ROOT = pathlib.Path(__file__).resolve().parents[2]
INSIDE = "SYSTOLE_TEST_INSIDE"
# Of these folders the namespace has empty ones.
FOLDERS = ["/etc", "/run", "/var/lib"]


def check(fact, said):
    if not fact:
        sys.exit(f"FAILED: {said}")


def enter():
    """Goes on in namespaces of this script's own: a network with loopback alone, no other process, and empty folders."""
    if INSIDE not in os.environ:
        flags = ["--map-root-user", "--net", "--mount", "--pid", "--fork", "--mount-proc"]
        os.execvpe("unshare", ["unshare", *flags, sys.executable, *sys.argv], {**os.environ, INSIDE: "1"})
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for folder in FOLDERS:
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], check=True)


def answer(url, token=None):
    """Status and body."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=5) as got:
            return got.status, got.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def scraped(port, series, token=None, host="127.0.0.1"):
    """Waits until a scrape has this row."""
    def has():
        code, body = answer(f"http://{host}:{port}/metrics", token)
        return code == 200 and series in body.splitlines()
    wait_for(f"`{series}` at port {port}", has)


def lay(source, target):
    """A file or a folder at the place where a container has it."""
    target = pathlib.Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, target, dirs_exist_ok=True) if os.path.isdir(source) else shutil.copyfile(source, target)


def write(target, text):
    pathlib.Path(target).parent.mkdir(parents=True, exist_ok=True)
    pathlib.Path(target).write_text(text)


@contextlib.contextmanager
def empty_folders():
    """Those of one container; what it had is gone afterwards."""
    write("/etc/hosts", "127.0.0.1 localhost\n")
    yield
    for folder in FOLDERS:
        for path in pathlib.Path(folder).iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


class Image:
    """What the Dockerfile says of its last stage."""

    def __init__(self, program):
        self.program, self.path = program, ROOT / "Dockerfile"
        parser = dockerfile_parse.DockerfileParser(path=str(self.path), cache_content=True)
        every = parser.structure
        starts = [at for at, one in enumerate(every) if one["instruction"] == "FROM"]
        self.stages = [every[start:end] for start, end in zip(starts, [*starts[1:], None])]
        self.last = self.stages[-1]

    def value(self, instruction):
        found = [one["value"] for one in self.last if one["instruction"] == instruction]
        check(len(found) == 1, f"the image has {len(found)} × {instruction}")
        return found[0]

    def command(self, *arguments):
        """What the container runs, with the program that is under test."""
        entry = json.loads(self.value("ENTRYPOINT"))
        check(entry == ["/usr/bin/systole"], f"it starts {entry}")
        return [self.program, *(arguments or json.loads(self.value("CMD")))]

    def environment(self):
        name, value = self.value("ENV").split("=")
        return {"PATH": os.environ["PATH"], name: value}

    def health(self):
        command = json.loads(self.value("HEALTHCHECK").split(" CMD ")[1])
        check(command[0] == "/usr/bin/systole", f"health is checked by {command}")
        return subprocess.run([self.program, *command[1:]], env=self.environment(), capture_output=True).returncode

    def start(self, processes, **variables):
        """The container, until it is healthy."""
        os.makedirs("/var/lib/systole", exist_ok=True)
        daemon = processes.start(self.command(), "/var/lib/log", env={**self.environment(), "SYSTOLE_INTERVAL": "1s", **variables})

        def is_healthy():
            if daemon.poll() is not None:
                sys.exit("FAILED: " + open("/var/lib/log").read())
            return self.health() == 0
        wait_for("a healthy container", is_healthy)
        return daemon


def ends_well(image, daemon):
    stop(daemon, getattr(signal, image.value("STOPSIGNAL")))
    check(daemon.returncode == 0, f"it ends with {daemon.returncode}: {open('/var/lib/log').read()}")
    check(image.health() == 1, "a container that has ended is unhealthy")
    check(os.path.exists("/var/lib/systole/registry.state"), "its state is in the volume")


def dockerfile(image, args):
    subprocess.run([args.hadolint, "--failure-threshold", "style", image.path], check=True)
    planted = image.path.read_text().replace("\nUSER 10001:10001", "").replace("--no-install-recommends ", "")
    found = subprocess.run([args.hadolint, "-"], input=planted, text=True, capture_output=True)
    check(found.returncode != 0, "a mistake is found")
    user = image.value("USER")
    check(re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), f"it runs as {user}")
    check(image.value("ENV") == f"STATE_DIRECTORY={image.value('VOLUME')}", "the state is in the volume")
    ports = set(image.value("EXPOSE").split())
    config = tomllib.loads((ROOT / "packaging/docker/systole.toml").read_text())
    udp, scrape = urllib.parse.urlsplit(config["listen"][0]["url"]).port, config["sink"][0]["address"].split(":")[1]
    check(ports == {f"{udp}/udp", f"{scrape}/tcp", f"{config['http']['address'].split(':')[1]}/tcp"}, f"{ports} are the ports")

    # The context that is sent to the builder has all that is copied, and all that the manifest names.
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    tracked = set(subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, text=True).splitlines())
    context = sorted(tracked & set(exclude_paths(str(ROOT), patterns)))
    check(not any(path.startswith(("target", "tests", ".git")) for path in context), "the context is small")
    for stage in image.stages:
        for one in stage:
            if one["instruction"] == "COPY" and "--from=" not in one["value"]:
                for source in one["value"].split()[:-1]:
                    there = source == "." or any(pathlib.PurePath(path).match(source) for path in context)
                    check(there, f"{source} is copied, but not in the context")
    folder = pathlib.Path("/var/lib/context")
    for path in context:
        lay(ROOT / path, folder / path)
    manifest = subprocess.run(["cargo", "metadata", "--no-deps", "--format-version", "1", "--offline"], cwd=folder, capture_output=True, text=True)
    check(manifest.returncode == 0, manifest.stderr)
    shutil.rmtree(folder)


def image_alone(image):
    """As it is, then with a page that has a token."""
    with empty_folders(), Processes() as processes:
        lay(ROOT / "packaging/docker/systole.toml", "/etc/systole/systole.toml")
        daemon = image.start(processes)
        send("hello:1|c")
        scraped(9125, "hello_total 1")
        ends_well(image, daemon)
        daemon = image.start(processes, SYSTOLE_HTTP__ADDRESS="0.0.0.0:8127", SYSTOLE_HTTP__TOKEN="of-a-test")
        # Not forgotten over the restart.
        scraped(9125, "hello_total 1")
        codes = [answer("http://127.0.0.1:8127/api/v1/status", token)[0] for token in [None, "of-a-test"]]
        check(codes == [401, 200], f"the page answers {codes}")
        ends_well(image, daemon)


def send(*lines, to=("127.0.0.1", 8125)):
    kind = socket.AF_UNIX if isinstance(to, str) else socket.AF_INET
    with socket.socket(kind, socket.SOCK_DGRAM) as s:
        s.sendto("\n".join(lines).encode(), to)


def valid_compose(text):
    compose_spec.PyCompose.from_yaml(text).to_spec()


def refuses(validate, good, *changes):
    """The check of a schema finds what is planted."""
    for before, after in changes:
        check(before in good, f"`{before}` is there to be changed")
        try:
            validate(good.replace(before, after, 1))
        except Exception:
            continue
        sys.exit(f"FAILED: nothing is wrong with `{after}`")


def compose(image, args):
    folder = ROOT / "packaging/compose"
    text = (folder / "compose.yaml").read_text()
    valid_compose(text)
    refuses(valid_compose, text, ("restart: unless-stopped", "restarts: unless-stopped"), ("8125:8125/udp", "8125:port/udp"))
    spec = yaml.safe_load(text)
    services = spec["services"]
    for name, service in services.items():
        for port in service["ports"]:
            check(port.startswith("127.0.0.1:"), f"{name} opens {port} to others")
        for other in service.get("depends_on", {}):
            check(other in services, f"{name} waits for {other}")
    with empty_folders(), Processes() as processes:
        hosts = " ".join(services)
        write("/etc/hosts", f"127.0.0.1 localhost {hosts}\n")
        for service in services.values():
            for volume in service["volumes"]:
                source, target, *_ = volume.split(":")
                if source.startswith("."):
                    check((folder / source).is_file(), f"{source} is mounted")
                    lay(folder / source, target)
                else:
                    check(source in spec["volumes"], f"{source} is a volume")
        for name, secret in spec["secrets"].items():
            lay(folder / secret["file"], f"/run/secrets/{name}")
        token = pathlib.Path("/run/secrets/token").read_text().strip()
        daemon = image.start(processes)
        send("hello:1|c", "api.time:12:7:31|ms", "heartbeat.checkout.web-1:300|g")
        scraped(9125, "hello_total 1", token, "systole")
        check(answer("http://systole:9125/metrics")[0] == 401, "a scrape takes the token")

        subprocess.run([args.promtool, "check", "config", "/etc/prometheus/prometheus.yml"], check=True, capture_output=True)
        command = [word.replace("=/prometheus", "=/run/prometheus") for word in services["prometheus"]["command"]]
        processes.start([args.prometheus, *command], "/var/lib/prometheus.log")
        grafana(services)

        def found(query):
            # As Grafana asks.
            url = yaml.safe_load((folder / "grafana/datasources.yaml").read_text())["datasources"][0]["url"]
            code, body = answer(f"{url}/api/v1/query?{urllib.parse.urlencode({'query': query})}")
            return {json.dumps(one["metric"].get("job")): float(one["value"][1]) for one in json.loads(body)["data"]["result"]} if code == 200 else {}
        both = {'"statsd"': 1.0, '"systole"': 1.0}
        wait_for("both targets", lambda: found("up") == both, 60, else_say=lambda: f"{found('up')}")
        wait_for("the counter", lambda: found("hello_total") == {'"statsd"': 1.0}, 60)
        # One of each kind that the dashboard draws: the daemon's own, a timer, presence once.
        wait_for("the daemon's own numbers", lambda: list(found("systole_build_info")) == ['"systole"'], 60)
        wait_for("the timer", lambda: found("histogram_quantile(1, api_time_seconds)"), 60)
        wait_for("presence", lambda: found("presence_service_up") == {'"systole"': 1.0}, 60)
        ends_well(image, daemon)


def grafana(services):
    """What it is provisioned with fits what is mounted."""
    sources = yaml.safe_load(pathlib.Path("/etc/grafana/provisioning/datasources/systole.yaml").read_text())["datasources"]
    check([(source["type"], source["isDefault"]) for source in sources] == [("prometheus", True)], "one source, for dashboards that name none")
    [provider] = yaml.safe_load(pathlib.Path("/etc/grafana/provisioning/dashboards/systole.yaml").read_text())["providers"]
    [path] = pathlib.Path(provider["options"]["path"]).iterdir()
    check(json.loads(path.read_text())["title"] == "Systole", "its dashboard")
    check(services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == str(path), "its first page")


def valid_manifests(text):
    for manifest in yaml.safe_load_all(text):
        kubernetes_validate.validate(manifest, "1.37", strict=True)


def kubernetes(image, name):
    text = (ROOT / "packaging/kubernetes" / name).read_text()
    valid_manifests(text)
    refuses(valid_manifests, text, ("readOnlyRootFilesystem", "readOnlyRootFileSystem"), ("containerPort: 9125", "containerPort: scrape"))
    by_kind = {manifest["kind"]: manifest for manifest in yaml.safe_load_all(text)}
    [workload] = [manifest for kind, manifest in by_kind.items() if kind.endswith("Set")]
    service, config = by_kind["Service"]["spec"], by_kind["ConfigMap"]
    labels, pod = workload["spec"]["template"]["metadata"]["labels"], workload["spec"]["template"]["spec"]
    check(labels == workload["spec"]["selector"]["matchLabels"] == service["selector"], "selectors and labels are the same")
    check(workload["spec"].get("serviceName", by_kind["Service"]["metadata"]["name"]) == by_kind["Service"]["metadata"]["name"], "its service")
    version = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["version"]
    [container] = pod["containers"]
    everyone = [container, *pod.get("initContainers", [])]
    check({one["image"] for one in everyone} == {f"systole:{version}"}, f"the image is that of {version}")
    check(str(pod["securityContext"]["runAsUser"]) == image.value("USER").split(":")[0], "the user of the image")
    for one in everyone:
        context = one["securityContext"]
        check(context["readOnlyRootFilesystem"] and not context["allowPrivilegeEscalation"] and context["capabilities"]["drop"] == ["ALL"],
              "it has no rights")
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    claims = [{"name": claim["metadata"]["name"], "claim": {}} for claim in workload["spec"].get("volumeClaimTemplates", [])]
    volumes = {volume["name"]: volume for volume in pod["volumes"] + claims}

    with empty_folders(), Processes() as processes:
        for mount in container["volumeMounts"]:
            volume = volumes.pop(mount["name"])
            os.makedirs(mount["mountPath"])
            if "configMap" in volume:
                check(volume["configMap"]["name"] == config["metadata"]["name"], "its configuration")
                for key, content in config["data"].items():
                    write(f"{mount['mountPath']}/{key}", content)
            if "secret" in volume:
                write(f"{mount['mountPath']}/token", "of-a-test")
        check(not volumes, f"{list(volumes)} are mounted nowhere")
        daemon = image.start(processes, **{one["name"]: "node-1" for one in container.get("env", [])})
        for probe in [container["livenessProbe"], container["readinessProbe"]]:
            get = probe["httpGet"]
            check(answer(f"http://127.0.0.1:{ports[get['port']]}{get['path']}")[0] == 200, f"{get['path']} answers without a token")
        send("hello:1|c")
        if "daemonset" in name:
            send("level:-5|g", to="/var/run/systole/dsd.socket")
            scraped(ports["scrape"], 'level{node="node-1"} -5', "of-a-test")
        tags = '{node="node-1"}' if container.get("env") else ""
        scraped(ports["scrape"], f"hello_total{tags} 1", "of-a-test")
        for port in service["ports"]:
            at = ports[port["targetPort"]]
            if port.get("protocol") != "UDP":
                socket.create_connection(("127.0.0.1", at), 5).close()
        check(answer(f"http://127.0.0.1:{ports['scrape']}/metrics")[0] == 401, "a scrape takes the token")
        grace = pod["terminationGracePeriodSeconds"]
        check(grace > 10, f"{grace} s are enough for shutdown_grace")
        ends_well(image, daemon)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--systole", required=True, type=os.path.abspath)
    parser.add_argument("--hadolint", default=str(pathlib.Path(sys.executable).parent / "hadolint"))
    parser.add_argument("--prometheus", default="prometheus")
    parser.add_argument("--promtool", default="promtool")
    args = parser.parse_args()
    enter()
    image = Image(args.systole)
    dockerfile(image, args)
    image_alone(image)
    compose(image, args)
    for name in ["daemonset.yaml", "statefulset.yaml"]:
        kubernetes(image, name)
    print("Dockerfile, compose.yaml and manifests are well, and what they start answers")


if __name__ == "__main__":
    main()
