"""What the scripts here share."""
import gzip
import http.server
import json
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

# Whoever ends a script ends what it started, too.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def free_port(kind=socket.SOCK_STREAM):
    """A port of this machine that nobody has, of streams or datagrams.

    It is none that the kernel gives to connections: a client that connects again while nobody listens could get the very port that it
    connects to as its own, and then be connected to itself, and whoever wants to listen finds the port in use.
    """
    with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
        given = int(file.read().split()[0])
    while True:
        with socket.socket(socket.AF_INET, kind) as s:
            try:
                s.bind(("127.0.0.1", random.randrange(10_000, given) if given > 12_000 else 0))
            except OSError:
                continue
            return s.getsockname()[1]


def wait_for(what, ready, seconds=30, pause=0.05, else_say=lambda: ""):
    """What `ready` returns, once that is true; errors of the network are no answer yet."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            found = ready()
            if found:
                return found
        except OSError:
            pass
        time.sleep(pause)
    sys.exit(f"{what}: not within {seconds} s {else_say()}".rstrip())


def listens(port):
    """Whether somebody accepts connections there."""
    socket.create_connection(("127.0.0.1", port), 1).close()
    return True


def get_json(url, timeout=10):
    with urllib.request.urlopen(url, timeout=timeout) as answer:
        return json.loads(answer.read())


def hostile_lines(count, seed=11):
    """Lines whose names and tags make trouble where they are cleaned or quoted: few enough names that many collide."""
    rng = random.Random(seed)
    bits = ['"', "\\", "'", " ", "{", "}", "=", "#", ",", "\t", "\r", "\x1b[2J", "\u202e", "\u2028", "ü", "\U0001f600", "_", "__", ".", "-",
            "9", "a", "b", "le", "quantile", "__name__", "up", "x", "n", "\\n", "# TYPE a", "systole.", "e+5", "NaN", "+Inf", "/", "?", "*"]
    ends = ["", "", "", ".total", "_total", "_sum", "_count", "_bucket", "_created", "_info", "_seconds", ".seconds.total", "_total_total"]
    keys = ["le", "quantile", "__name__", "__x", "job", "instance", "a.b", "a_b", "exported_le", 'k"', "k\\", "9", "", "ü"]

    def text(most):
        return "".join(rng.choice(bits) for _ in range(rng.randint(1, most)))

    lines = []
    for n in range(count):
        kind = rng.choice(["c", "c", "g", "ms", "h", "d", "s", "m"])
        name = ("b." if rng.random() < 0.2 else "") + text(3) + rng.choice(ends)
        if rng.random() < 0.5:
            name += f"{n % 700}"
        tags = ",".join(f"{rng.choice(keys)}:{text(2).replace(',', ';')}" if rng.random() < 0.8 else rng.choice(keys)
                        for _ in range(rng.randint(0, 3)))
        value = rng.choice([rng.randrange(1000), rng.random() * 1e9, "1e300"])
        lines.append(f"{name}:{value}|{kind}" + (f"|#{tags}" if tags else ""))
    return lines


class Processes:
    """Processes that end with the block, the last first."""

    def __init__(self):
        self.all = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in reversed(self.all):
            stop(process)

    def start(self, command, log, **options):
        process = subprocess.Popen(command, stdout=open(log, "a"), stderr=subprocess.STDOUT, **options)
        self.all.append(process)
        return process


def stop(process, with_signal=signal.SIGTERM):
    """Ends a process that was started here, and waits for it."""
    if process.poll() is None:
        process.send_signal(with_signal)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Systole:
    """A daemon with a configuration of its own, in a folder."""

    def __init__(self, processes, program, folder, config, name="systole"):
        self.tcp, self.page = free_port(), free_port()
        self.processes, self.program, self.log = processes, program, f"{folder}/{name}.log"
        self.config = f"{folder}/{name}.toml"
        with open(self.config, "w") as out:
            # Keys of the root must stand before tables. No other daemon keeps its state there.
            out.write(f'state_dir = "{folder}/{name}-state"\n{config["root"]}\n[http]\naddress = "127.0.0.1:{self.page}"\n'
                      f'[[listen]]\nurl = "tcp://127.0.0.1:{self.tcp}"\n'
                      f'[presence]\nstate_file = "off"\n{config["tables"]}')
        self.start()

    def start(self):
        self.process = self.processes.start([self.program, "run", "-c", self.config], self.log)
        wait_for("the daemon", self.is_ready)

    def is_ready(self):
        if self.process.poll() is not None:
            sys.exit(open(self.log).read())
        return urllib.request.urlopen(f"http://127.0.0.1:{self.page}/ready", timeout=5).status == 200

    def status(self):
        return get_json(f"http://127.0.0.1:{self.page}/api/v1/status")

    def send(self, lines):
        with socket.create_connection(("127.0.0.1", self.tcp), 10) as s:
            s.sendall("".join(line + "\n" for line in lines).encode())

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        stop(self.process)


def records(path):
    """The records of a file sink; a half one, of a daemon that was killed, is left out."""
    with open(path) as lines:
        for line in lines:
            if line.endswith("}\n"):
                yield json.loads(line)


def holds(account):
    """Whether a sink's equation holds."""
    return account["offered"] == (account["delivered"] + account["queued"] + account["spooled"]
                                  + sum(account["dropped"].values()))


class Receiver:
    """An HTTP server that hands each request's path, headers and body, unpacked, to `take`, and answers with what that
    returns: a status, or a status, headers and a body. It can be closed and opened again at the same port."""

    def __init__(self, take):
        self.take, self.port, self.server = take, free_port(), None
        self.open()

    def open(self):
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                answer = receiver.take(self.path, self.headers, body)
                status, headers, said = answer if isinstance(answer, tuple) else (answer, {}, b"")
                self.send_response(status)
                for key, value in headers.items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            def do_GET(self):
                self.do_POST()

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True
            connections = []

            def process_request(self, request, address):
                self.connections.append(request)
                super().process_request(request, address)

            def handle_error(self, *_):
                pass

        self.server = Server(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self):
        """As if it were killed: connections break, too."""
        self.server.shutdown()
        self.server.server_close()
        for connection in self.server.connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self.server.connections.clear()


def start_alertmanager(processes, folder, program="prometheus-alertmanager"):
    """An Alertmanager that notifies nobody; its port."""
    port = free_port()
    with open(f"{folder}/alertmanager.yml", "w") as out:
        out.write("route: {receiver: none}\nreceivers: [{name: none}]\n")
    processes.start([program, f"--config.file={folder}/alertmanager.yml", f"--storage.path={folder}/alertmanager",
                     f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address="], f"{folder}/alertmanager.log")
    wait_for("Alertmanager", lambda: urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=5))
    return port


def rss_mib(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024
