//! A part of the daemon that fails under load: nothing goes uncounted, `/ready` says so within a second, and the part works
//! again, or the process exits with 70 after a last flush.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::support::sources::rust_files;
use crate::support::{self, Daemon, alone, get, pause_ms, poll, records, until};

/// Within this time of a failure `/ready` must say so.
const NOTICED_SECS: f64 = 1.0;

const PATIENCE: Duration = Duration::from_secs(30);

fn unix_now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64()
}

/// Asks `/ready` again and again; what it said other than 200, and when. A connection that fails is no answer.
struct Probe {
    said: Arc<Mutex<Vec<(f64, String)>>>,
    is_done: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Probe {
    fn start(http: SocketAddr) -> Probe {
        let (said, is_done) = (Arc::<Mutex<Vec<_>>>::default(), Arc::new(AtomicBool::new(false)));
        let (all, done) = (Arc::clone(&said), Arc::clone(&is_done));
        let thread = std::thread::spawn(move || {
            while !done.load(Ordering::Relaxed) {
                if let Some(body) = ask(http).filter(|answer| answer.starts_with("HTTP/1.1 503")) {
                    all.lock().expect("no panic").push((unix_now(), body));
                }
                pause_ms(20);
            }
        });
        Probe { said, is_done, thread }
    }

    /// When it was first said that a part does not work.
    fn first(&self, part: &str) -> Option<f64> {
        let said = self.said.lock().expect("no panic");
        said.iter().find(|(_, body)| names(body, part)).map(|(at, _)| *at)
    }

    fn stop(self) {
        self.is_done.store(true, Ordering::Relaxed);
        self.thread.join().expect("no panic");
    }
}

/// Whether an answer of `/ready` names a part that does not work.
fn names(answer: &str, part: &str) -> bool {
    let Some((_, body)) = answer.split_once("\r\n\r\n") else { return false };
    let body: Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(body["error"]["code"], "not_ready");
    let message = body["error"]["message"].as_str().expect("text");
    message.split("; ").any(|some| some.split_once(": ").is_some_and(|(_, parts)| parts.split(", ").any(|p| p == part)))
}

fn ask(http: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect(http).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(b"GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// What a datagram of the load holds: known series, tagged ones, what takes the slow path, and a heartbeat.
fn datagram(number: u64) -> String {
    let mut text = String::new();
    for n in 0..12 {
        text += &format!("requests.{n}:1|c\nlatency:{n}|ms|#host:{n}\n");
    }
    // Somebody goes silent at once, of which notifiers are told.
    let beat = if number < 2 { "gone.a:1|g|#interval:1".to_string() } else { format!("service.i{}:10|g", number % 3) };
    text += &format!("level:+1|g\n_e{{1,1}}:a|b\nheartbeat.{beat}\nunique:{number}|s\n");
    text
}

const LINES: u64 = 28;

/// Sends datagrams, 20,000 lines a second, until it is told to end, or nobody listens any more; how many were taken.
struct Load {
    is_done: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Load {
    fn start(to: SocketAddr) -> Load {
        let is_done = Arc::new(AtomicBool::new(false));
        let done = Arc::clone(&is_done);
        let thread = std::thread::spawn(move || {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
            socket.connect(to).expect("an address");
            let (mut sent, began) = (0_u64, Instant::now());
            while !done.load(Ordering::Relaxed) {
                match socket.send(datagram(sent).as_bytes()) {
                    Ok(_) => sent += 1,
                    // It tells of the one before, which was refused; this one was not sent.
                    Err(_) => return sent - 1,
                }
                let due = Duration::from_secs_f64((sent * LINES) as f64 / 20_000.0);
                pause_ms(due.saturating_sub(began.elapsed()).as_millis() as u64);
            }
            match socket.take_error() {
                Ok(None) => sent,
                Ok(Some(_)) | Err(_) => sent - 1,
            }
        });
        Load { is_done, thread }
    }

    fn stop(self) -> u64 {
        self.is_done.store(true, Ordering::Relaxed);
        self.thread.join().expect("no panic")
    }

    /// What was taken until nobody listened any more.
    fn end(self) -> u64 {
        self.thread.join().expect("no panic")
    }
}

fn number(of: &Value) -> u64 {
    of.as_u64().unwrap_or_else(|| panic!("{of} is no count"))
}

fn total(reasons: &Value) -> u64 {
    reasons.as_object().map_or(0, |all| all.values().map(number).sum())
}

/// The equation of lines, of a status or a ledger record; how many there were.
fn lines(of: &Value) -> u64 {
    let lines = &of["lines"];
    let kinds = ["metrics", "events", "service_checks", "heartbeats", "empty", "internal_error"];
    let sum: u64 = kinds.iter().map(|kind| number(&lines[kind])).sum();
    assert_eq!(number(&lines["read"]), sum + total(&lines["malformed"]), "{lines}");
    number(&lines["read"])
}

fn drops(of: &Value) -> u64 {
    of["listeners"]
        .as_array()
        .expect("listeners")
        .iter()
        .map(|l| number(&l["kernel_drops"]) + number(&l["unread"]))
        .sum()
}

/// An address where nobody listens.
fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port")
}

/// Accepts requests and answers each with 200.
fn receiver() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            // Heads and bodies are small: they come in one piece, or the client tries again.
            let _ = stream.read(&mut [0; 65_536]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    address
}

/// A server that is always up, as a relay asks for it.
fn healthy_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 64]);
            let _ = stream.write_all(b"health: up\n");
        }
    });
    address
}

/// One line, one datagram of the relay and one heartbeat have failed, and intervals of two sinks; all the rest of what was read
/// is there.
fn everything_is_counted(status: &Value, read: u64) {
    assert_eq!((lines(status), number(&status["lines"]["internal_error"])), (read * LINES, 1));
    for name in ["a", "b", "c"] {
        let sink = &status["sinks"][name];
        let known = number(&sink["delivered"]) + number(&sink["queued"]) + number(&sink["spooled"]);
        assert_eq!(number(&sink["offered"]), known + total(&sink["dropped"]), "{sink}");
        assert_eq!(sink["dropped"]["failed"].as_u64() > Some(0), name != "b", "{sink}");
    }
    let relay = &status["relays"]["raw"];
    let known = number(&relay["delivered"]) + number(&relay["queued"]) + total(&relay["dropped"]);
    assert_eq!((number(&relay["offered"]), known, number(&relay["dropped"]["failed"])), (read, read, 1), "{relay}");
    let presence = &status["presence"];
    assert_eq!((number(&presence["failed"]), number(&presence["queue_drops"])), (1, 0), "{presence}");
}

/// Every part that the status has is one of those that failed, and `/ready` said so of each within a second.
fn each_was_tested_and_noticed(failed: &Value, parts: &[String], probe: &Probe) {
    // The flush and a sink that is spared have tests of their own, or none is needed.
    let others = ["flush", "sink:a:intake", "sink:b", "sink:b:intake", "sink:c", "sink:p:intake"];
    let all = failed["parts"].as_object().expect("parts").keys();
    // A port that is opened anew while the one before still ends has a number behind its name.
    let is_tested = |name: &String| parts.iter().any(|part| name == part || *name == format!("{part}:2"));
    let untested: Vec<_> = all.filter(|name| !is_tested(name) && !others.contains(&name.as_str())).collect();
    assert!(untested.is_empty(), "no failure of these is tested: {untested:?}");
    for part in parts {
        let at = failed["parts"][part]["last_failure_at"].as_f64().expect("a time");
        let noticed = probe.first(part).unwrap_or_else(|| panic!("/ready never named {part}"));
        assert!(noticed - at <= NOTICED_SECS, "{part} was noticed after {} s", noticed - at);
    }
}

/// A failure in each part that is started again, all in one daemon.
#[test]
fn every_part_that_fails_is_noticed_counted_and_works_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let webhook = receiver();
    let target = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let file = |name: &str| dir.path().join(name).display().to_string();
    let (http, manage, scrape) = (free_port(), free_port(), free_port());
    let config = format!(
        "interval = \"200ms\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\nworkers = 1\n\
         [[sink]]\nname = \"a\"\ntype = \"file\"\npath = \"{}\"\n\
         [[sink]]\nname = \"b\"\ntype = \"file\"\npath = \"{}\"\n\
         [[sink]]\nname = \"c\"\ntype = \"file\"\npath = \"{}\"\nexclude = [\"latency\"]\n\
         [[sink]]\nname = \"p\"\ntype = \"prometheus\"\naddress = \"{scrape}\"\n\
         [[relay]]\nname = \"raw\"\ntargets = [\"{}\"]\nhealth_port = {}\nhealth_every = \"1s\"\n\
         [http]\naddress = \"{http}\"\n[management]\naddress = \"{manage}\"\n\
         [presence]\nwebhook = [\"http://{webhook}/\"]\nalertmanager = [\"http://{webhook}\"]\nsnitch_url = \"http://{webhook}/\"\ngroup_wait = \"0s\"\n",
        file("a.jsonl"),
        file("b.jsonl"),
        file("c.jsonl"),
        target.local_addr().expect("bound"),
        healthy_server().port(),
    );
    let parts = [
        ("worker:udp-PORT-0", "line@2000"),
        ("presence", "heartbeat@300"),
        ("sink:a", "sink:a@4"),
        ("sink:p", "sink:p@3"),
        ("sink:c:intake", "sink:c:intake@5"),
        ("relay:raw", "relay:line@8410"),
        ("capture", "capture@250"),
        ("notify:alertmanager", "notify:alertmanager@1"),
        ("notify:dead_man_switch", "notify:dead_man_switch@1"),
        ("port:http://HTTP", "port:http://HTTP@40,port:http://HTTP:connection@80"),
        ("port:tcp://MANAGE", "port:tcp://MANAGE@1"),
        ("relay:raw:health", "relay:raw:health@2"),
        ("notify:webhook", "notify:webhook@1"),
        ("port:http://SCRAPE", "port:http://SCRAPE@1"),
        ("bodies:http://HTTP", "bodies:http://HTTP@2"),
        ("bodies:http://SCRAPE", "bodies:http://SCRAPE@2"),
        ("bodies:tcp://MANAGE", "bodies:tcp://MANAGE@2"),
        ("queues", "queues@5"),
        ("history", "history:add@3"),
        ("streams", "streams@4"),
        ("tail", "tail@2"),
        ("memory", "memory@5"),
        ("log", "log@30"),
        ("reload", "reload@1"),
    ];
    let known = |text: String| {
        let ports = [("HTTP", http), ("MANAGE", manage), ("SCRAPE", scrape)];
        ports.iter().fold(text, |text, (word, port)| text.replace(word, &port.to_string()))
    };
    let (faults, capture) = (known(parts.map(|(_, fault)| fault).join(",")), file("capture.jsonl"));
    let daemon = Daemon::start_faulty(dir.path(), &config, &["--capture", &capture, "-v"], &faults);
    let port = daemon.udp.expect("UDP").port();
    let parts = parts.map(|(part, _)| part.replace("PORT", &port.to_string())).map(known);
    let (probe, load) = (Probe::start(http), Load::start(daemon.udp.expect("UDP")));
    daemon.signal("-HUP");
    // The connection that it fails with is lost; the next one is answered.
    until("an answer of the management port", || {
        let Ok(mut stream) = TcpStream::connect(manage) else { return false };
        let _ = stream.set_read_timeout(Some(PATIENCE));
        let mut answer = [0; 11];
        stream.write_all(b"health\n").is_ok() && stream.read_exact(&mut answer).is_ok() && &answer == b"health: up\n"
    });
    // The connection of the status may be the one that fails.
    let status = || {
        let mut stream = TcpStream::connect(http).ok()?;
        write!(stream, "GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        serde_json::from_str::<Value>(answer.split_once("\r\n\r\n")?.1).ok()
    };
    let known_http = format!("port:http://{http}");
    let failed = poll("every part has failed, and works again", || {
        // A scrape is what its port fails with; while its sink is opened anew, nobody listens.
        let _ = TcpStream::connect(scrape);
        let Some(status) = status() else { return Err("no answer".to_string()) };
        // HTTP failed with a connection, too.
        let times = |part: &str| if part == known_http { 2 } else { 1 };
        let works = |part: &String| {
            let account = &status["parts"][part];
            account["restarts"] == times(part) && account["state"] == "running"
        };
        let wrong: Vec<_> =
            parts.iter().filter(|part| !works(part)).map(|part| format!("{part} {}", status["parts"][part])).collect();
        if wrong.is_empty() { Ok(status) } else { Err(wrong.join("\n")) }
    });
    each_was_tested_and_noticed(&failed, &parts, &probe);
    assert_eq!(get(http, "/ready", "").0, 200);
    assert_eq!(get(scrape, "/metrics", "").0, 200, "it listens at its port again");
    probe.stop();
    let sent = load.stop();
    let status = daemon.flushed_when("everything was read", |status| {
        number(&status["listeners"][0]["datagrams"]) + drops(status) >= sent
    });
    let read = sent - drops(&status);
    everything_is_counted(&status, read);
    assert!(get(http, "/metrics", "").1.contains("systole_part_restarts_total{part=\"sink:a\"} 1\n"));
    let lost = number(&status["log"]["lines_lost"]);
    assert!(lost > 0, "{}", status["log"]);
    daemon.stop();
    let rows = std::fs::read_to_string(&capture).expect("a capture").lines().count() as u64 - 1;
    assert_eq!(rows, read - 1, "the capture lost the one that it failed with");
    // Whoever was not hit has all of it.
    let flushed = records(&dir.path().join("b.jsonl"));
    assert_eq!(ledgers(&flushed).map(lines).sum::<u64>(), read * LINES);
}

fn ledgers(records: &[Value]) -> impl Iterator<Item = &Value> {
    records.iter().filter(|record| record["type"] == "ledger")
}

/// Starts a daemon that a failure ends, and waits for that under load; the records of its file, and how many lines were sent
/// and taken by its sockets.
fn ends_with_70(dir: &Path, part: &str, faults: &str, more: &str) -> (Vec<Value>, u64) {
    let _alone = alone();
    let file = dir.join("records.jsonl");
    let config = format!(
        "interval = \"200ms\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\nworkers = 1\n\
         [[sink]]\ntype = \"file\"\npath = \"{}\"\n[http]\naddress = \"127.0.0.1:0\"\n{more}",
        file.display()
    );
    let mut daemon = Daemon::start_faulty(dir, &config, &[], faults);
    let part = part.replace("PORT", &daemon.udp.expect("UDP").port().to_string());
    let http = daemon.http.expect("HTTP is on");
    let probe = Probe::start(http);
    let load = Load::start(daemon.udp.expect("UDP"));
    assert_eq!(daemon.wait(PATIENCE), Some(70), "{part}");
    let sent = load.end();
    let exited = unix_now();
    let noticed = probe.first(&part).unwrap_or(exited);
    probe.stop();
    let records = records(&file);
    let last = ledgers(&records).last().expect("a last flush");
    let at = last["parts"][&part]["last_failure_at"].as_f64().unwrap_or_else(|| panic!("{part} is not in {last}"));
    assert!(noticed - at <= NOTICED_SECS, "noticed after {} s", noticed - at);
    let lost: u64 = ledgers(&records).map(drops).sum();
    (records, (sent - lost) * LINES)
}

#[test]
fn a_worker_that_fails_three_times_ends_the_process_after_a_last_flush() {
    let dir = tempfile::tempdir().expect("a folder");
    let (records, sent) = ends_with_70(dir.path(), "worker:udp-PORT-0", "line@3000*3", "");
    assert_eq!(ledgers(&records).map(lines).sum::<u64>(), sent);
    assert_eq!(ledgers(&records).map(|ledger| number(&ledger["lines"]["internal_error"])).sum::<u64>(), 3);
}

#[test]
fn a_flush_thread_that_fails_ends_the_process_after_a_last_flush() {
    for fault in ["flush@8", "collect@5", "merge@4", "merged@4", "accounted@4", "offer@4"] {
        let dir = tempfile::tempdir().expect("a folder");
        let (records, sent) = ends_with_70(dir.path(), "flush", fault, "");
        if fault == "offer@4" {
            // The one sink has not got that interval; the account since the start has.
            assert!(ledgers(&records).map(lines).sum::<u64>() < sent);
            let last = ledgers(&records).last().expect("a last flush");
            assert!(number(&last["sinks"]["file"]["dropped"]["failed"]) > 0, "{last}");
            continue;
        }
        assert_eq!(ledgers(&records).map(lines).sum::<u64>(), sent, "{fault}");
        let failed: u64 = ledgers(&records).map(|ledger| number(&ledger["flush"]["failed"])).sum();
        assert_eq!(failed, u64::from(fault == "merge@4"), "{fault}");
    }
}

#[test]
fn an_interval_that_cannot_be_merged_at_all_ends_the_process_as_well() {
    let dir = tempfile::tempdir().expect("a folder");
    let (records, sent) = ends_with_70(dir.path(), "flush", "merge@4*2", "");
    let written = ledgers(&records).map(lines).sum::<u64>();
    assert!(written < sent, "{written} of {sent}");
}

/// A sink whose code fails with every interval takes nobody with it.
#[test]
fn a_sink_that_fails_each_time_stays_restarting_and_its_intervals_are_counted() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = |name: &str| dir.path().join(name).display().to_string();
    let config = format!(
        "interval = \"100ms\"\nself_metrics = false\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\nworkers = 1\n\
         [[sink]]\nname = \"bad\"\ntype = \"file\"\npath = \"{}\"\nqueue = 2\n\
         [[sink]]\nname = \"good\"\ntype = \"file\"\npath = \"{}\"\n\
         [http]\naddress = \"127.0.0.1:0\"\n[presence]\nenabled = false\n",
        file("bad.jsonl"),
        file("good.jsonl"),
    );
    let daemon = Daemon::start_faulty(dir.path(), &config, &[], "sink:bad@1*1000000");
    daemon.send_udp(&[b"x:1|c"]);
    let status = daemon.status_when("given up", |status| {
        let bad = &status["sinks"]["bad"];
        status["parts"]["sink:bad"]["restarts"].as_u64() > Some(2) && total(&bad["dropped"]) > 0
    });
    let warnings = status["warnings"].as_array().expect("a list");
    assert!(warnings.iter().any(|warning| warning.as_str().expect("text").starts_with("sink:bad is restarting")));
    assert_eq!((&status["parts"]["sink:bad"]["state"], &status["ready"]), (&"restarting".into(), &false.into()));
    assert_eq!(status["parts"]["sink:good"]["state"], "running");
    let (code, body) = daemon.get("/ready");
    assert!(code == 503 && body.contains("restarting: sink:bad"), "{body}");
    let url = format!("http://{}", daemon.http.expect("a page"));
    let output = support::systole(&["status", "--ready", "--url", &url], b"");
    let problem = support::text(&output.stderr);
    assert!(output.status.code() == Some(1) && problem.contains("restarting: sink:bad"), "{problem}");
    let bad = daemon.status()["sinks"]["bad"].clone();
    let known = number(&bad["delivered"]) + number(&bad["queued"]) + total(&bad["dropped"]);
    assert_eq!((number(&bad["offered"]), number(&bad["delivered"])), (known, 0), "{bad}");
    daemon.stop();
    assert!(records(&dir.path().join("good.jsonl")).iter().any(|record| record["name"] == "x"));
}

/// Writes lines until the other side has closed.
fn write_until_closed(to: SocketAddr) {
    let mut stream = TcpStream::connect(to).expect("connected");
    until("closed", || stream.write_all(b"t:1|c\n").is_err());
}

#[test]
fn a_stream_goes_on_after_the_line_with_which_its_worker_failed() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = "interval = \"200ms\"\n[[listen]]\nurl = \"tcp://127.0.0.1:0\"\n[[sink]]\ntype = \"console\"\n\
                  [http]\naddress = \"127.0.0.1:0\"\n[presence]\nenabled = false\n";
    let daemon = Daemon::start_faulty(dir.path(), config, &[], "line@10,connection@150");
    let tcp = daemon.tcp.expect("TCP");
    let part = format!("worker:tcp-{}", tcp.port());
    let sent = {
        let mut stream = TcpStream::connect(tcp).expect("connected");
        for n in 0..100 {
            write!(stream, "t:1|c\nlevel:+{n}|g\n").expect("taken");
        }
        200
    };
    let status = daemon.status_when("all lines", |status| lines(status) >= sent);
    assert_eq!((lines(&status), number(&status["lines"]["internal_error"])), (sent, 1));
    assert_eq!((number(&status["lines"]["metrics"]), &status["parts"][&part]["restarts"]), (sent - 1, &1.into()));
    // A failure outside of any line ends its connection; others are served.
    write_until_closed(tcp);
    daemon.status_when("a connection that failed", |status| status["parts"][&part]["restarts"] == 2);
    let mut stream = TcpStream::connect(tcp).expect("connected");
    stream.write_all(b"last:1|c\n").expect("taken");
    let before = lines(&status);
    daemon.status_when("the next connection", |status| lines(status) > before);
    until("ready again", || daemon.get("/ready").0 == 200);
    daemon.stop();
}

#[test]
fn a_worker_that_fails_outside_of_lines_reads_no_more_and_what_it_counted_is_flushed() {
    let dir = tempfile::tempdir().expect("a folder");
    let (records, sent) = ends_with_70(dir.path(), "worker:udp-PORT-0", "receive@400", "");
    assert_eq!(ledgers(&records).map(lines).sum::<u64>(), sent);
}

#[test]
fn a_worker_that_fails_within_a_batch_counts_the_rest_of_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("records.jsonl");
    let config = format!(
        "interval = \"200ms\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\nworkers = 1\n\
         [[sink]]\ntype = \"file\"\npath = \"{}\"\n[http]\naddress = \"127.0.0.1:0\"\n[presence]\nenabled = false\n",
        file.display()
    );
    let mut daemon = Daemon::start_faulty(dir.path(), &config, &[], "datagram@10");
    // All of them are in the kernel before it reads on: they are one batch.
    daemon.signal("-STOP");
    let texts: Vec<String> = (0..40).map(datagram).collect();
    let all: Vec<&[u8]> = texts.iter().map(String::as_bytes).collect();
    daemon.send_udp(&all);
    daemon.signal("-CONT");
    assert_eq!(daemon.wait(PATIENCE), Some(70));
    let records = records(&file);
    let of_listener = |field: &str| ledgers(&records).map(|l| number(&l["listeners"][0][field])).sum::<u64>();
    assert_eq!((of_listener("datagrams"), of_listener("unread")), (10, 30));
    assert_eq!(of_listener("unread_bytes"), texts[10..].iter().map(|text| text.len() as u64).sum::<u64>());
    assert_eq!(ledgers(&records).map(lines).sum::<u64>(), 10 * LINES);
    assert_eq!(ledgers(&records).map(|ledger| number(&ledger["lines"]["internal_error"])).sum::<u64>(), LINES);
}

#[test]
fn connections_are_read_to_the_end_after_their_worker_failed() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("records.jsonl");
    let config = format!(
        "interval = \"200ms\"\n[[listen]]\nurl = \"tcp://127.0.0.1:0\"\n[[sink]]\ntype = \"file\"\npath = \"{}\"\n\
         [http]\naddress = \"127.0.0.1:0\"\n[presence]\nenabled = false\n",
        file.display()
    );
    let mut daemon = Daemon::start_faulty(dir.path(), &config, &[], "accept@2");
    let tcp = daemon.tcp.expect("TCP");
    daemon.signal("-STOP");
    // The kernel holds what they sent when the worker fails with the second.
    let mut open: Vec<TcpStream> = (0..3).map(|_| TcpStream::connect(tcp).expect("connected")).collect();
    open.iter_mut().for_each(|stream| stream.write_all(&b"t:1|c\n".repeat(500)).expect("taken"));
    daemon.signal("-CONT");
    assert_eq!(daemon.wait(PATIENCE), Some(70));
    let records = records(&file);
    assert_eq!(ledgers(&records).map(lines).sum::<u64>(), 1500);
}

#[test]
fn what_an_instance_takes_is_right_after_its_beat_failed() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = "interval = \"200ms\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\nworkers = 1\n[[sink]]\ntype = \"console\"\n\
                  [http]\naddress = \"127.0.0.1:0\"\n";
    let daemon = Daemon::start_faulty(dir.path(), config, &[], "beat@2");
    daemon.send_udp(&[b"heartbeat:10|g|#service:long,instance:a"]);
    until("registered", || daemon.get("/api/v1/presence/long").0 == 200);
    let version = "v".repeat(60);
    daemon.send_udp(&[format!("heartbeat:10|g|#service:long,instance:a,version:{version}").as_bytes()]);
    let restarts = |status: &Value| status["parts"]["presence"]["restarts"].as_u64();
    daemon.status_when("failed", |status| restarts(status) == Some(1));
    // Shorter texts take fewer bytes than were counted.
    daemon.send_udp(&[b"heartbeat:10|g|#service:long,instance:a,version:1"]);
    daemon.send_udp(&[b"heartbeat:10|g|#service:other,instance:b"]);
    until("registered", || daemon.get("/api/v1/presence/other").0 == 200);
    assert_eq!(restarts(&daemon.status()), Some(1), "it failed once");
    daemon.stop();
}

#[test]
fn lines_that_a_relay_lost_while_it_sent_are_counted_for_their_pieces_and_their_target() {
    let dir = tempfile::tempdir().expect("a folder");
    let target = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let to = target.local_addr().expect("bound");
    let config = format!(
        "interval = \"200ms\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\nworkers = 1\n[[sink]]\ntype = \"console\"\n\
         [[relay]]\nname = \"raw\"\ntargets = [\"{to}\"]\n[http]\naddress = \"127.0.0.1:0\"\n[presence]\nenabled = false\n"
    );
    let daemon = Daemon::start_faulty(dir.path(), &config, &[], "relay:send@3");
    let datagrams: Vec<String> = (0..40).map(datagram).collect();
    datagrams.iter().for_each(|text| daemon.send_udp(&[text.as_bytes()]));
    let status = daemon.status_when("all is relayed", |status| {
        let relay = &status["relays"]["raw"];
        relay["offered"] == 40 && relay["queued"] == 0
    });
    let relay = &status["relays"]["raw"];
    let of_target = &relay["targets"][to.to_string()];
    assert_eq!(number(&of_target["lines"]) + number(&of_target["lost"]), 40 * LINES, "{relay}");
    assert!(number(&of_target["lost"]) > 0 && number(&relay["dropped"]["failed"]) > 0, "{relay}");
    assert_eq!(number(&relay["delivered"]) + total(&relay["dropped"]), 40, "{relay}");
    daemon.stop();
}

#[test]
fn a_spool_that_fails_is_opened_anew_with_its_sink_and_nothing_is_counted_twice() {
    for fault in ["spool@4", "spool@5", "spool@6", "spool@9"] {
        let dir = tempfile::tempdir().expect("a folder");
        let down = free_port();
        let config = format!(
            "interval = \"100ms\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\nworkers = 1\n\
             [[sink]]\nname = \"s\"\ntype = \"graphite\"\naddress = \"{down}\"\nspool.path = \"{}\"\nspool.rate = 0\n\
             [http]\naddress = \"127.0.0.1:0\"\n[presence]\nenabled = false\n",
            dir.path().join("spool").display()
        );
        let daemon = Daemon::start_faulty(dir.path(), &config, &[], fault);
        daemon.send_udp(&[b"x:1|c"]);
        let adds_up = |status: &Value| {
            let sink = &status["sinks"]["s"];
            let known = number(&sink["delivered"]) + number(&sink["queued"]) + number(&sink["spooled"]);
            assert_eq!(number(&sink["offered"]), known + total(&sink["dropped"]), "{fault} {sink}");
        };
        let status = daemon.status_when("the spool failed", |status| status["parts"]["sink:s"]["restarts"] == 1);
        adds_up(&status);
        let status = daemon.status_when("it takes intervals again", |status| {
            adds_up(status);
            number(&status["sinks"]["s"]["spooled"]) > 0 && status["parts"]["sink:s"]["state"] == "running"
        });
        let before = number(&status["sinks"]["s"]["offered"]);
        let receiver = TcpListener::bind(down).expect("the port is free");
        std::thread::spawn(move || {
            for mut stream in receiver.incoming().map_while(Result::ok) {
                let _ = std::io::copy(&mut stream, &mut std::io::sink());
            }
        });
        daemon.status_when("what waited is delivered", |status| {
            adds_up(status);
            let sink = &status["sinks"]["s"];
            number(&sink["spooled"]) == 0 && number(&sink["delivered"]) + total(&sink["dropped"]) >= before
        });
        daemon.stop();
    }
}

#[test]
fn presence_that_fails_again_goes_on_with_what_was_saved() {
    let dir = tempfile::tempdir().expect("a folder");
    let state = dir.path().join("presence.json");
    let config = format!(
        "interval = \"100ms\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\nworkers = 1\n[[sink]]\ntype = \"file\"\npath = \"{}\"\n\
         [http]\naddress = \"127.0.0.1:0\"\n[presence]\nstate_file = \"{}\"\n",
        dir.path().join("records.jsonl").display(),
        state.display()
    );
    // A first run leaves somebody in the state file.
    let daemon = Daemon::start(dir.path(), &config);
    daemon.send_udp(&[b"heartbeat.saved.a:10|g"]);
    until("registered", || daemon.get("/api/v1/presence/saved").0 == 200);
    daemon.stop();
    let daemon = Daemon::start_faulty(dir.path(), &config, &[], "heartbeat@2,heartbeat@4");
    let beat = || daemon.send_udp(&[b"heartbeat.new.b:10|g"]);
    let failed = |times: u64| {
        daemon.status_when("failed", |status| status["parts"]["presence"]["restarts"].as_u64() == Some(times));
        until("an answer", || daemon.get("/api/v1/presence/saved").0 == 200);
    };
    beat();
    until("registered", || daemon.get("/api/v1/presence/new").0 == 200);
    beat();
    failed(1);
    assert_eq!(daemon.get("/api/v1/presence/new").0, 200, "it goes on with what it knows");
    beat();
    beat();
    failed(2);
    assert_eq!(daemon.get("/api/v1/presence/new").0, 404, "it has what was saved");
    beat();
    until("registered again", || daemon.get("/api/v1/presence/new").0 == 200);
    let status = daemon.flushed_when("its account", |status| status["presence"]["failed"] == 2);
    assert_eq!(number(&status["lines"]["heartbeats"]), 5);
    until("ready again", || daemon.get("/ready").0 == 200);
    daemon.stop();
}

/// What a service manager is told, and when.
fn manager(path: &Path) -> Arc<Mutex<Vec<(f64, String)>>> {
    let socket = std::os::unix::net::UnixDatagram::bind(path).expect("a socket");
    let told = Arc::<Mutex<Vec<_>>>::default();
    let all = Arc::clone(&told);
    std::thread::spawn(move || {
        let mut buffer = [0; 256];
        while let Ok(count) = socket.recv(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..count]).trim().to_string();
            all.lock().expect("no panic").push((unix_now(), text));
        }
    });
    told
}

#[test]
fn the_watchdog_is_not_fed_while_an_essential_part_does_not_work() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("notify");
    let told = manager(&path);
    let config = "interval = \"100ms\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\nworkers = 1\n[[sink]]\ntype = \"console\"\n\
                  [http]\naddress = \"127.0.0.1:0\"\n[presence]\nstate_file = \"off\"\n";
    // After the second failure it pauses for a second.
    let environment = [("NOTIFY_SOCKET", path.to_str().expect("a plain path")), ("WATCHDOG_USEC", "100000")];
    let daemon = Daemon::start_in(dir.path(), config, "presence@12*2,manager@4", &environment);
    let is_fed = |from: f64, to: f64| {
        let told = told.lock().expect("no panic");
        told.iter().any(|(at, text)| text == "WATCHDOG=1" && (from..to).contains(at))
    };
    until("fed", || is_fed(0.0, f64::INFINITY));
    let twice = daemon.status_when("it failed", |status| status["parts"]["presence"]["restarts"] == 2);
    let at = twice["parts"]["presence"]["last_failure_at"].as_f64().expect("a time");
    until("fed again", || is_fed(at + 1.0, f64::INFINITY));
    let manager = &daemon.status()["parts"]["manager"];
    assert_eq!((&manager["restarts"], &manager["state"]), (&1.into(), &"running".into()), "{manager}");
    // What was asked for before the failure may be on its way for a moment.
    assert!(!is_fed(at + 0.2, at + 1.9), "{:?}", told.lock());
    daemon.stop();
}

/// A plain build has no way to inject a failure.
#[test]
fn failures_can_be_injected_in_test_builds_alone() {
    for (path, code) in rust_files("src") {
        let has_word = |line: &str| {
            line.contains("SYSTOLE_TEST_FAULT")
                || line.contains("fault::{VARIABLE")
                || line.contains("fault::VARIABLE")
                || line.contains("fault::arm")
        };
        let lines: Vec<&str> = code.lines().collect();
        for (n, line) in lines.iter().enumerate().filter(|(_, line)| has_word(line)) {
            let before = &lines[..n];
            let is_test = |line: &&str| line.trim() == "#[cfg(feature = \"internals\")]";
            let inside_module = path.ends_with("fault.rs") && before.iter().any(is_test);
            let is_guarded = before.iter().rev().take(3).any(is_test);
            assert!(inside_module || is_guarded, "{}:{}: {line}", path.display(), n + 1);
        }
    }
    let fault = rust_files("src").into_iter().find(|(path, _)| path.ends_with("fault.rs")).expect("the hook").1;
    assert!(fault.contains("#[cfg(not(feature = \"internals\"))]\n#[inline(always)]\npub fn pass(_place: &str) {}"));
}
