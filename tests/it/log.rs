//! Nothing of the daemon waits for somebody who reads what it says: a log and a console that nobody reads, or that have
//! nowhere to go.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, PipeReader, PipeWriter, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{self, Daemon, alone, exit_within, get, pause, records, size, until};

/// A daemon whose standard error and output go where a test wants them. Killed when it goes out of scope.
struct Deaf {
    child: Child,
    http: SocketAddr,
}

impl Deaf {
    /// Starts it with `config`, to which the page is added, and waits for the first tick.
    fn start(dir: &Path, config: &str, stdout: impl Into<Stdio>, stderr: impl Into<Stdio>) -> Deaf {
        Deaf::start_under(None, dir, config, stdout, stderr)
    }

    /// The same with a service manager's socket.
    fn start_under(
        manager: Option<&Path>,
        dir: &Path,
        config: &str,
        stdout: impl Into<Stdio>,
        stderr: impl Into<Stdio>,
    ) -> Deaf {
        // Its log does not say where it listens.
        let http = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port");
        let file = dir.join("deaf.toml");
        std::fs::write(&file, format!("{config}\n[http]\naddress = \"{http}\"\n")).expect("a configuration");
        let child = support::command(&["run", "-c", file.to_str().expect("a plain path")])
            .env("XDG_STATE_HOME", dir)
            .envs(manager.map(|path| ("NOTIFY_SOCKET", path)))
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .spawn()
            .expect("the binary starts");
        let mut daemon = Deaf { child, http };
        until("listening", || {
            assert_eq!(daemon.child.try_wait().expect("a child of ours"), None, "it has ended");
            TcpStream::connect(http).is_ok()
        });
        daemon
    }

    fn status(&self) -> Value {
        support::status(self.http)
    }

    fn status_when(&self, what: &str, done: impl Fn(&Value) -> bool) -> Value {
        support::status_when(self.http, what, done)
    }

    /// Asks it to stop; how long that took.
    fn stop(mut self, patience: Duration) -> Duration {
        let began = Instant::now();
        let killed = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        assert!(killed.expect("kill runs").success());
        let status = exit_within(&mut self.child, patience).expect("it stops");
        assert_eq!(status.code(), Some(0));
        began.elapsed()
    }
}

impl Drop for Deaf {
    fn drop(&mut self) {
        // Ended already in most tests.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A pipe that takes nothing until somebody reads it, and how many bytes are in it.
fn full_pipe() -> (PipeReader, PipeWriter, usize) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let again = format!("/proc/self/fd/{}", writer.as_raw_fd());
    let mut fill = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(again).expect("the same pipe");
    let mut filled = 0;
    loop {
        match fill.write(b"\n") {
            Ok(written) => filled += written,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return (reader, writer, filled),
            Err(error) => panic!("{error}"),
        }
    }
}

fn ticks(file: &Path) -> Vec<(f64, f64)> {
    let ledgers = records(file).into_iter().filter(|record| record["type"] == "ledger");
    let number = |value: &Value| value.as_f64().expect("a number");
    // What the end of the daemon cuts is no tick.
    let mut ticks: Vec<_> = ledgers.map(|l| (number(&l["time"]), number(&l["flush"]["late_secs"]))).collect();
    ticks.pop();
    ticks
}

/// Intervals between the first and the last tick that are not there.
fn missing(ticks: &[(f64, f64)], interval: f64) -> u64 {
    let whole = (ticks[ticks.len() - 1].0 - ticks[0].0) / interval;
    whole.round() as u64 + 1 - ticks.len() as u64
}

#[test]
fn a_log_that_nobody_reads_delays_no_tick_and_no_stop() {
    let _alone = alone();
    const INTERVAL: f64 = 0.1;
    let secs = size("SYSTOLE_TEST_FULL_LOG_SECS", 3);
    let is_bar = secs >= 60;
    let dir = tempfile::tempdir().expect("a folder");
    let config = |name: &str| {
        format!(
            "interval = \"{INTERVAL}s\"\nshutdown_grace = \"2s\"\n[log]\nlevel = \"debug\"\nformat = \"json\"\n\
             [[listen]]\nurl = \"udp://127.0.0.1:0\"\n[presence]\nenabled = false\n\
             [[sink]]\ntype = \"file\"\npath = \"{}\"\n",
            dir.path().join(name).display()
        )
    };
    let (reader, writer, _) = full_pipe();
    let deaf = Deaf::start(dir.path(), &config("full.jsonl"), Stdio::null(), writer);
    let control = Deaf::start(dir.path(), &config("control.jsonl"), Stdio::null(), Stdio::null());
    // For so long it has nobody to read it.
    pause(Duration::from_secs(secs));
    let status = deaf.status();
    let took = deaf.stop(Duration::from_secs(20));
    let took_control = control.stop(Duration::from_secs(20));
    drop(reader);
    let [full, beside] = ["full.jsonl", "control.jsonl"].map(|name| ticks(&dir.path().join(name)));
    let later: Vec<f64> = full
        .iter()
        .filter_map(|(end, late)| Some(late - beside.iter().find(|tick| (tick.0 - end).abs() < INTERVAL / 4.0)?.1))
        .collect();
    let worst = later.iter().copied().fold(f64::MIN, f64::max);
    let gaps = [missing(&full, INTERVAL), missing(&beside, INTERVAL)];
    println!(
        "{} ticks, {} and {} (control) missing; at most {:.1} ms later than the control's; stopped in {took:?} \
         ({took_control:?}); {} lines lost",
        full.len(),
        gaps[0],
        gaps[1],
        worst * 1e3,
        status["log"]["lines_lost"]
    );
    if is_bar {
        assert_eq!(gaps[0], 0);
        assert!(worst <= 0.05, "a tick was {worst} s later than the control's");
        assert!(took < Duration::from_secs(2), "it took {took:?} of its grace of 2 s");
        assert!(status["log"]["lines_lost"].as_u64() > Some(0), "{status}");
    }
    // A busy machine delays both; a daemon that waits for its reader has no tick at all.
    let expected = secs as f64 / INTERVAL;
    assert!(full.len() as f64 >= expected * 0.5, "{} of {expected} ticks", full.len());
    assert!(took < Duration::from_secs(10), "it took {took:?}");
}

#[test]
fn lost_lines_are_counted_and_told_when_somebody_reads_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = "interval = \"10ms\"\n[log]\nlevel = \"debug\"\nformat = \"json\"\n[[listen]]\nurl = \
                  \"udp://127.0.0.1:0\"\n[presence]\nenabled = false\n[[sink]]\ntype = \"console\"\n";
    let (mut reader, writer, filled) = full_pipe();
    let daemon = Deaf::start(dir.path(), config, Stdio::null(), writer);
    daemon.status_when("lost", |status| status["log"]["lines_lost"].as_u64() > Some(0));
    reader.read_exact(&mut vec![0; filled]).expect("what filled it");
    let (send, lines) = std::sync::mpsc::channel();
    let reading = std::thread::spawn(move || {
        for line in BufReader::new(reader).lines().map_while(Result::ok) {
            if let Ok(line) = serde_json::from_str::<Value>(&line) {
                // The test does not listen to the end.
                let _ = send.send(line);
            } else {
                assert!(line.starts_with("systole ") || line.starts_with("  "), "neither JSON nor the start: {line}");
            }
        }
    });
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut told = 0;
    let settled = loop {
        let line = lines.recv_timeout(deadline.saturating_duration_since(Instant::now())).expect("a report");
        if line["message"].as_str().is_some_and(|message| message.starts_with("log lines were lost")) {
            told += line["lines"].as_u64().expect("a number");
        }
        let lost = daemon.status()["log"]["lines_lost"].as_u64().expect("a number");
        if told > 0 && told == lost {
            break lost;
        }
    };
    let metrics = get(daemon.http, "/metrics", "").1;
    assert!(metrics.contains(&format!("systole_log_lines_lost_total {settled}\n")), "{metrics}");
    daemon.stop(Duration::from_secs(20));
    reading.join().expect("every line is whole");
    let last: Vec<Value> = lines.try_iter().collect();
    assert!(last.iter().any(|line| line["message"] == "stopped"), "the end is told");
}

#[test]
fn a_log_that_has_nowhere_to_go_is_lost_and_counted() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = "interval = \"50ms\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\n[presence]\nenabled = false\n\
                  [[sink]]\ntype = \"console\"\n";
    let (reader, closed) = std::io::pipe().expect("a pipe");
    drop(reader);
    let full = File::options().write(true).open("/dev/full").expect("Linux has it");
    for stderr in [Stdio::from(closed), Stdio::from(full)] {
        let daemon = Deaf::start(dir.path(), config, Stdio::null(), stderr);
        daemon.status_when("lost", |status| status["log"]["lines_lost"].as_u64() > Some(4));
        daemon.stop(Duration::from_secs(20));
    }
}

#[test]
fn a_flood_of_one_message_is_cut_and_leaves_the_others_alone() {
    const REFUSALS: u64 = 100;
    let dir = tempfile::tempdir().expect("a folder");
    let config = "interval = \"100ms\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\n[http]\naddress = \"127.0.0.1:0\"\n\
                  token = \"a-token-of-ours\"\n[[sink]]\ntype = \"console\"\n";
    let mut daemon = Daemon::start(dir.path(), config);
    let began = Instant::now();
    for _ in 0..REFUSALS {
        let mut stream = TcpStream::connect(daemon.http.expect("HTTP")).expect("connected");
        let request = "DELETE /api/v1/presence/nobody HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    }
    let windows = 1 + began.elapsed().as_secs() / 10;
    daemon.send_udp(&[b"nonsense"]);
    daemon.wait_for("another kind", |lines| lines.iter().any(|line| line.contains("malformed lines")));
    let status = daemon.status_when("suppressed", |status| {
        status["log"]["lines_suppressed"].as_u64().is_some_and(|n| n >= REFUSALS.saturating_sub(20 * windows).max(1))
    });
    let suppressed = status["log"]["lines_suppressed"].as_u64().expect("a number");
    let log = daemon.stop();
    let summaries: Vec<&String> = log.iter().filter(|line| line.contains("were suppressed")).collect();
    let summed: u64 =
        summaries.iter().filter_map(|line| line.split("lines=").nth(1)?.split(' ').next()?.parse::<u64>().ok()).sum();
    assert_eq!(summed, suppressed, "{summaries:?}");
    assert!(summaries.iter().all(|line| line.contains("was refused")), "{summaries:?}");
    let shown = log.iter().filter(|line| line.contains("was refused") && !line.contains("were suppressed")).count();
    assert_eq!(shown as u64 + suppressed, REFUSALS);
}

/// The console's account, which must add up.
fn console(status: &Value) -> &Value {
    let sink = &status["sinks"]["console"];
    let number = |key: &str| sink[key].as_u64().expect("a number");
    let dropped: u64 = sink["dropped"].as_object().expect("a table").values().filter_map(Value::as_u64).sum();
    assert_eq!(number("offered"), number("delivered") + number("queued") + number("spooled") + dropped, "{sink}");
    sink
}

#[test]
fn a_console_whose_reader_has_gone_drops_its_records_and_says_so() {
    let dir = tempfile::tempdir().expect("a folder");
    let udp = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port");
    let config = format!(
        "interval = \"50ms\"\n[[listen]]\nurl = \"udp://{udp}\"\n[presence]\nenabled = false\n\
         [[sink]]\ntype = \"console\"\n"
    );
    let (reader, stdout) = std::io::pipe().expect("a pipe");
    let (log, stderr) = std::io::pipe().expect("a pipe");
    let daemon = Deaf::start(dir.path(), &config, stdout, stderr);
    let mut lines = BufReader::new(reader).lines().map_while(Result::ok);
    // While somebody reads, records are delivered.
    assert!(lines.by_ref().any(|line| line.contains("systole.lines.read")));
    daemon.status_when("delivered", |status| console(status)["delivered"].as_u64() > Some(0));
    drop(lines);
    let early = daemon.status_when("closed", |status| console(status)["dropped"]["closed"].as_u64() > Some(0));
    let (delivered, closed) = (&console(&early)["delivered"], console(&early)["dropped"]["closed"].as_u64());
    // It goes on, and nothing more is called delivered.
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.send_to(b"after:1|c", udp).expect("sent");
    let late = daemon.status_when("read on", |status| {
        status["lines"]["metrics"] == 1 && console(status)["dropped"]["closed"].as_u64() > closed
    });
    assert_eq!(&console(&late)["delivered"], delivered);
    assert_eq!(console(&late)["last_error"], Value::Null);
    daemon.stop(Duration::from_secs(20));
    let log: Vec<String> = BufReader::new(log).lines().map_while(Result::ok).collect();
    let told = log.iter().filter(|line| line.contains("nobody reads standard output")).count();
    assert_eq!(told, 1, "{log:?}");
}

#[test]
fn a_console_that_nobody_reads_holds_up_no_tick_and_stops_within_its_grace() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("records.jsonl");
    let config = format!(
        "interval = \"100ms\"\nshutdown_grace = \"1s\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\n\
         [presence]\nenabled = false\n[[sink]]\ntype = \"console\"\nqueue = 2\n\
         [[sink]]\ntype = \"file\"\npath = \"{}\"\n",
        file.display()
    );
    // One pipe for both, as under a service manager.
    let (reader, writer, _) = full_pipe();
    let daemon = Deaf::start(dir.path(), &config, writer.try_clone().expect("the same"), writer);
    let status = daemon.status_when("dropped", |status| console(status)["dropped"]["queue_full"].as_u64() > Some(0));
    assert_eq!(console(&status)["delivered"], 0);
    assert_eq!(status["sinks"]["file"]["dropped"], json!({}));
    let took = daemon.stop(Duration::from_secs(20));
    println!("stopped in {took:?} of a grace of 1 s");
    drop(reader);
    assert!(ticks(&file).len() >= 3);
}

#[test]
fn a_console_on_a_full_disk_goes_on_where_it_stopped() {
    let dir = tempfile::tempdir().expect("a folder");
    let out = dir.path().join("out.jsonl");
    let config = "interval = \"50ms\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\n[presence]\nenabled = false\n\
                  [[sink]]\ntype = \"console\"\nqueue = 1000\n";
    let (log, stderr) = std::io::pipe().expect("a pipe");
    let daemon = Deaf::start(dir.path(), config, File::create(&out).expect("a file"), stderr);
    let limit = |bytes: &str| {
        let pid = daemon.child.id().to_string();
        let limited = Command::new("prlimit").args(["--pid", &pid, &format!("--fsize={bytes}:")]).status();
        assert!(limited.expect("util-linux").success());
    };
    // Records are some 100 bytes long: it is very likely cut inside one.
    limit("40009");
    daemon.status_when("full", |status| {
        console(status)["last_error"].as_str().is_some_and(|error| error.contains("too large"))
    });
    assert!(std::fs::metadata(&out).expect("a file").len() <= 40_009);
    limit("unlimited");
    daemon.status_when("delivered again", |status| {
        console(status)["last_error"] == Value::Null && console(status)["delivered"].as_u64() > Some(0)
    });
    daemon.stop(Duration::from_secs(20));
    let ledgers: Vec<f64> = records(&out)
        .iter()
        .filter(|record| record["type"] == "ledger")
        .map(|ledger| ledger["time"].as_f64().expect("a number"))
        .collect();
    assert!(ledgers.is_sorted_by(|a, b| a < b), "no interval is there twice: {ledgers:?}");
    drop(log);
}

#[test]
fn a_service_manager_that_does_not_read_holds_up_nobody_and_is_told_later() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = "interval = \"100ms\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\n[presence]\nenabled = false\n\
                  [[sink]]\ntype = \"console\"\n";
    let path = dir.path().join("manager");
    let manager = UnixDatagram::bind(&path).expect("a socket");
    let fill = UnixDatagram::unbound().expect("a socket");
    fill.set_nonblocking(true).expect("set");
    while fill.send_to(b"X_FULL=1", &path).is_ok() {}
    let daemon = Deaf::start_under(Some(&path), dir.path(), config, Stdio::null(), Stdio::null());
    until("ready", || get(daemon.http, "/ready", "").0 == 200);
    // Once it reads, it is told.
    manager.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
    let mut told = [0; 64];
    let mut hear = || {
        let length = manager.recv(&mut told).expect("word of it");
        support::text(&told[..length]).trim_end().to_string()
    };
    while hear() != "READY=1" {}
    while fill.send_to(b"X_FULL=1", &path).is_ok() {}
    daemon.stop(Duration::from_secs(20));
}

/// Run again in a process of its own, where the log may be started.
#[test]
fn a_panic_is_a_line_of_the_log_and_waits_for_nobody() {
    if std::env::var_os("SYSTOLE_TEST_PANICS").is_some() {
        let log =
            systole::internals::log::Log::start(tracing_subscriber::filter::LevelFilter::INFO, true).expect("started");
        let failed = std::thread::Builder::new().name("unlucky".into()).spawn(|| panic!("number {}", 7));
        assert!(failed.expect("started").join().is_err());
        log.finish();
        return;
    }
    let run = |stderr: Stdio| {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "log::a_panic_is_a_line_of_the_log_and_waits_for_nobody", "--nocapture"])
            .env("SYSTOLE_TEST_PANICS", "1")
            .env_remove("RUST_BACKTRACE")
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .expect("it starts");
        if exit_within(&mut child, Duration::from_secs(20)).is_none() {
            let _ = child.kill();
            panic!("it waits for a reader");
        }
    };
    let (reader, writer) = std::io::pipe().expect("a pipe");
    run(writer.into());
    let lines = BufReader::new(reader).lines().map_while(Result::ok);
    let told: Vec<Value> = lines.filter_map(|line| serde_json::from_str(&line).ok()).collect();
    let panic = told.iter().find(|line| line["message"] == "panicked: number 7").unwrap_or_else(|| panic!("{told:?}"));
    assert_eq!((&panic["level"], &panic["thread"]), (&json!("ERROR"), &json!("unlucky")));
    assert!(panic["at"].as_str().is_some_and(|at| at.contains("tests/it/log.rs:")), "{panic}");
    let (_unread, full, _) = full_pipe();
    run(full.into());
}
