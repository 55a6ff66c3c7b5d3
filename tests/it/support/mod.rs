//! What tests through the front door share: starting the real binary, talking to it, and always ending it.
#![allow(unreachable_pub)] // The whole of it is this binary's.

pub mod certs;
pub mod door;
pub mod extremes;
pub mod grammar;
pub mod heap;
pub mod otlp;
pub mod receiver;
pub mod slow;
pub mod sources;
mod wait;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use serde_json::Value;

pub use wait::{exit_within, least_of_three, pause, pause_ms, poll, until};

pub const SYSTOLE: &str = env!("CARGO_BIN_EXE_systole");

/// A runtime with the threads that a daemon needs at least.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads")
}

/// Held by tests that need much of the processors, and by those that measure how late something is: one runs at a time.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    // One that failed has nothing that another could find broken.
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Compares a file of the project, by its path from there, with what is generated; with `UPDATE` in the environment it is
/// written anew. `generated` gets the text as it is, for files of which only a part is; `subject` names the tests.
pub fn holds_what_is_generated(path: &str, subject: &str, generated: impl Fn(&str) -> String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let text = std::fs::read_to_string(&path).expect("a readable file");
    let made = generated(&text);
    if std::env::var_os("UPDATE").is_some() {
        return std::fs::write(&path, made).expect("written");
    }
    let lines = || text.lines().map(Some).chain([None]).zip(made.lines().map(Some).chain([None]));
    let (line, (is, right)) = lines().enumerate().find(|(_, (is, right))| is != right).unwrap_or((0, (None, None)));
    assert!(
        text == made,
        "{}:{} is {is:?} and not {right:?}, as it is generated; `UPDATE=1 cargo test --test it {subject}` writes it",
        path.display(),
        line + 1
    );
}

/// A daemon with one sink, named `it`, of these options.
pub fn with_sink(options: &str) -> String {
    format!(
        "interval = \"200ms\"\nself_metrics = false\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\nworkers = 1\n\
         [[sink]]\nname = \"it\"\n{options}\n[http]\naddress = \"127.0.0.1:0\"\n[presence]\nenabled = false\n"
    )
}

/// The account of the sink `it`, whose equation holds.
pub fn sink(status: &Value) -> &Value {
    let account = &status["sinks"]["it"];
    let number = |key: &str| account[key].as_u64().expect("a number");
    let dropped: u64 = account["dropped"].as_object().expect("a table").values().filter_map(Value::as_u64).sum();
    assert_eq!(number("offered"), number("delivered") + number("queued") + number("spooled") + dropped, "{account}");
    account
}

/// Runs a subcommand to its end with `input` on standard input.
pub fn systole(args: &[&str], input: &[u8]) -> Output {
    let mut child = command(args).stdin(Stdio::piped()).spawn().expect("the binary starts");
    let mut stdin = child.stdin.take().expect("it was asked for");
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        // A program that does not read its input closes it.
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().expect("the binary ends");
    writer.join().expect("the writer ends");
    output
}

/// The binary without the settings, and the state, of whoever runs the tests.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(SYSTOLE);
    command.args(args);
    bare(command)
}

/// The binary with these arguments as `"$@"` of a script of the shell.
fn shell(script: &str, args: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh", SYSTOLE]).args(args);
    bare(command)
}

fn config_file(dir: &Path) -> String {
    dir.join("systole.toml").to_str().expect("a plain path").to_string()
}

fn bare(mut command: Command) -> Command {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env_remove("STATE_DIRECTORY").env("XDG_STATE_HOME", "/dev/null/none");
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SYSTOLE_") {
            command.env_remove(name);
        }
    }
    command
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A running daemon. Killed, by its own PID, when it goes out of scope.
pub struct Daemon {
    child: Child,
    log: mpsc::Receiver<String>,
    pub lines: Vec<String>,
    pub udp: Option<SocketAddr>,
    pub tcp: Option<SocketAddr>,
    pub http: Option<SocketAddr>,
}

impl Daemon {
    /// Starts `systole run` with a configuration and waits until it says where it listens.
    pub fn start(dir: &Path, config: &str) -> Daemon {
        Daemon::start_with(dir, config, &[])
    }

    /// The same with more arguments.
    pub fn start_with(dir: &Path, config: &str, more: &[&str]) -> Daemon {
        let mut command = command(&["run", "-c", &config_file(dir)]);
        command.args(more).stdin(Stdio::null());
        Daemon::start_by(command, dir, config)
    }

    /// The same, with failures where tests want them, such as `flush@3`: see `src/fault.rs`.
    pub fn start_faulty(dir: &Path, config: &str, more: &[&str], faults: &str) -> Daemon {
        let mut command = command(&["run", "-c", &config_file(dir)]);
        command.args(more).stdin(Stdio::null()).env("SYSTOLE_TEST_FAULT", faults);
        Daemon::start_by(command, dir, config)
    }

    /// The same with more in the environment.
    pub fn start_in(dir: &Path, config: &str, faults: &str, environment: &[(&str, &str)]) -> Daemon {
        let mut command = command(&["run", "-c", &config_file(dir)]);
        command.stdin(Stdio::null()).env("SYSTOLE_TEST_FAULT", faults).envs(environment.iter().copied());
        Daemon::start_by(command, dir, config)
    }

    /// The same with a socket that it inherits as `fd://0`, as systemd passes it; this test has it too.
    pub fn start_inheriting(dir: &Path, config: &str, socket: OwnedFd) -> Daemon {
        let script = "exec 3<&0 0</dev/null; export LISTEN_PID=$$; exec \"$@\"";
        let mut command = shell(script, &["run", "-c", &config_file(dir)]);
        command.stdin(socket).env("LISTEN_FDS", "1");
        Daemon::start_by(command, dir, config)
    }

    /// The same after a line of the shell, such as `ulimit -n 100`.
    pub fn start_after(dir: &Path, config: &str, line: &str) -> Daemon {
        let mut command = shell(&format!("{line}; exec \"$@\""), &["run", "-c", &config_file(dir)]);
        command.stdin(Stdio::null());
        Daemon::start_by(command, dir, config)
    }

    fn start_by(mut command: Command, dir: &Path, config: &str) -> Daemon {
        assert!(config.contains("[http]"), "two daemons with the default address cannot run at a time: {config}");
        std::fs::write(config_file(dir), config).expect("a configuration");
        let mut child = command
            .env("XDG_STATE_HOME", dir)
            .stdout(std::fs::File::create(dir.join("stdout")).expect("a file"))
            .spawn()
            .expect("the binary starts");
        let stderr = child.stderr.take().expect("it was asked for");
        let (send, log) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        let mut daemon = Daemon { child, log, lines: Vec::new(), udp: None, tcp: None, http: None };
        let expected = config.matches("[[listen]]").count().max(1);
        daemon.wait_for("every listener", |lines| {
            lines.iter().filter(|line| line.contains("INFO listening")).count() >= expected
        });
        for line in daemon.lines.clone() {
            let line = line.trim();
            let Some((_, url)) = line.split_once("http://").or_else(|| line.split_once("https://")) else {
                if let Some((_, rest)) = line.split_once("listener=udp://") {
                    daemon.udp = rest.trim().parse().ok();
                } else if let Some((_, rest)) = line.split_once("listener=tcp://") {
                    daemon.tcp = rest.trim().parse().ok();
                }
                continue;
            };
            if line.starts_with("page") {
                daemon.http = url.split_whitespace().next().and_then(|address| address.parse().ok());
            }
        }
        daemon
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for log lines.
    pub fn wait_for(&mut self, what: &str, done: impl Fn(&[String]) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !done(&self.lines) {
            match self.log.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.lines.push(line),
                Err(_) => panic!("no {what} in the log:\n{}", self.lines.join("\n")),
            }
        }
    }

    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.pid().to_string()]).status().expect("kill runs");
        assert!(status.success());
    }

    /// Asks it to stop and waits until it has.
    pub fn stop(mut self) -> Vec<String> {
        self.signal("-TERM");
        let status = self.wait(Duration::from_secs(30));
        self.lines.extend(self.log.try_iter());
        assert_eq!(status, Some(0), "{}", self.lines.join("\n"));
        std::mem::take(&mut self.lines)
    }

    /// The exit code, if it ends in time.
    pub fn wait(&mut self, patience: Duration) -> Option<i32> {
        exit_within(&mut self.child, patience).and_then(|status| status.code())
    }

    pub fn send_udp(&self, datagrams: &[&[u8]]) {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let to = self.udp.expect("a UDP listener");
        for datagram in datagrams {
            socket.send_to(datagram, to).expect("sent");
        }
    }

    pub fn get(&self, path: &str) -> (u16, String) {
        get(self.http.expect("HTTP is on"), path, "")
    }

    pub fn status(&self) -> Value {
        status(self.http.expect("HTTP is on"))
    }

    /// Polls the status until it satisfies `done` and what it counts is in closed intervals: a tick follows.
    pub fn flushed_when(&self, what: &str, done: impl Fn(&Value) -> bool) -> Value {
        let counted = self.status_when(what, done);
        self.status_when(&format!("a flush after {what}"), |status| status["as_of"] != counted["as_of"])
    }

    /// Polls the status until it satisfies `done`.
    pub fn status_when(&self, what: &str, done: impl Fn(&Value) -> bool) -> Value {
        status_when(self.http.expect("HTTP is on"), what, done)
    }

    /// Waits until the interval that is open now is closed.
    pub fn next_flush(&self) -> Value {
        let before = self.status()["as_of"].as_f64();
        self.status_when("a flush", |status| status["as_of"].as_f64() > before)
    }

    /// Waits until so many lines have been read and the interval of the last is closed.
    pub fn closed(&self, lines: u64) -> Value {
        self.status_when("so many lines", |status| status["lines"]["read"].as_u64() >= Some(lines));
        self.next_flush()
    }

    /// Memory that the process holds, in KiB.
    pub fn rss_kib(&self) -> u64 {
        self.memory_kib("VmRSS:")
    }

    /// The most that it ever held.
    pub fn peak_kib(&self) -> u64 {
        self.memory_kib("VmHWM:")
    }

    fn memory_kib(&self, field: &str) -> u64 {
        memory_kib(self.pid(), field).expect("it runs")
    }
}

/// A number of a process's memory, in KiB; `None` if the process has ended.
pub fn memory_kib(pid: u32, field: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with(field))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Ended already in most tests.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The status of the daemon whose HTTP is there.
pub fn status(http: SocketAddr) -> Value {
    serde_json::from_str(&get(http, "/api/v1/status", "").1).expect("JSON")
}

/// Polls a status until it satisfies `done`.
pub fn status_when(http: SocketAddr, what: &str, done: impl Fn(&Value) -> bool) -> Value {
    poll(what, || {
        let status = status(http);
        if done(&status) { Ok(status) } else { Err(status.to_string()) }
    })
}

/// One HTTP request: status and body.
pub fn get(to: SocketAddr, path: &str, headers: &str) -> (u16, String) {
    get_within(to, path, headers, Duration::from_secs(10))
}

/// The same of a server that may be silent for so long.
pub fn get_within(to: SocketAddr, path: &str, headers: &str, patience: Duration) -> (u16, String) {
    let mut stream = TcpStream::connect(to).expect("the server is there");
    stream.set_read_timeout(Some(patience)).expect("a timeout");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n").expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    let answer = text(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line");
    let body =
        if head.to_lowercase().contains("transfer-encoding: chunked") { unchunk(body) } else { body.to_string() };
    (code, body)
}

fn unchunk(mut body: &str) -> String {
    let mut out = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).expect("a chunk size");
        if size == 0 {
            break;
        }
        out.push_str(&rest[..size]);
        body = &rest[size + 2..];
    }
    out
}

/// Records of a file, one a line; every line must be one.
pub fn records(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).expect("a file of records");
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

/// Configuration of a daemon with these listeners and a page that records each interval in a file of this folder.
pub fn recording(dir: &Path, interval: &str, listeners: &str) -> String {
    format!(
        "interval = \"{interval}\"\n{listeners}\n[[sink]]\ntype = \"file\"\npath = \"{}\"\n[http]\naddress = \"127.0.0.1:0\"\n\
         [presence]\nenabled = false\n",
        dir.join("records.jsonl").display()
    )
}

/// Sum of a counter over all intervals in the file of [`recording`].
pub fn sum(dir: &Path, name: &str) -> f64 {
    let all = records(&dir.join("records.jsonl"));
    all.iter().filter(|r| r["name"] == name && r["type"] == "counter").filter_map(|r| r["value"].as_f64()).sum()
}

/// Equal as numbers: relative 1e-9, or both nothing.
pub fn close_to(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1e-300)
}

/// A generator of reproducible numbers (SplitMix64, Steele et al. 2014).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From [0, 1).
    pub fn u(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub fn exp(&mut self, mean: f64) -> f64 {
        -(1.0 - self.u()).ln() * mean
    }

    pub fn lognormal(&mut self, median: f64, sigma: f64) -> f64 {
        let (u1, u2) = (self.u(), self.u());
        let z = (-2.0 * (1.0 - u1).ln()).sqrt() * (2.0 * std::f64::consts::PI * u2).cos();
        median * (sigma * z).exp()
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}

/// The first number of a generator: a seed of another.
pub fn mix(x: u64) -> u64 {
    Random(x).next()
}

/// A number from the environment, for tests that `tests/all` and `tests/long` run at full size.
pub fn size(variable: &str, quick: u64) -> u64 {
    std::env::var(variable).ok().map_or(quick, |text| text.parse().expect("a number"))
}
