//! The daemon as its users meet it: real datagrams in, console, file, page and API out.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{self, Daemon, command, get, pause_ms, poll, records, text, until};

const QUICK: &str = "interval = \"1s\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\n[[listen]]\nurl = \"tcp://127.0.0.1:0\"\n[http]\naddress = \"127.0.0.1:0\"\n";

#[test]
fn a_first_counter_shows_in_console_page_and_api_within_an_interval() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(dir.path(), QUICK);
    // Between two questions an interval may end, and the next one does not have it.
    let mut all_sent = 0;
    let hello = poll("on the page and in the API in one interval", || {
        let sent = Instant::now();
        daemon.send_udp(&[b"hello:1|c\n"]);
        all_sent += 1;
        until("on the page", || daemon.get("/").1.contains(">hello<"));
        assert!(sent.elapsed() < Duration::from_secs(3), "not on the page within an interval");
        let (_, snapshot) = daemon.get("/api/v1/snapshot");
        let snapshot: Vec<Value> = serde_json::from_str(&snapshot).expect("JSON");
        snapshot.into_iter().find(|r| r["name"] == "hello").ok_or(())
    });
    // The page may have it of an interval before, and then more than one is sent in the next.
    let value = hello["value"].as_f64().expect("a number");
    assert!(hello["type"] == "counter" && (1.0..=f64::from(all_sent)).contains(&value), "{hello} of {all_sent}");
    let status = daemon.status();
    assert_eq!(status["profile"], "systole");
    assert!(status["lines"]["metrics"].as_u64() >= Some(1), "{status}");
    let console = records(&dir.path().join("stdout"));
    assert!(console.iter().any(|r| r["name"] == "hello" && r["value"] == 1.0));
    daemon.stop();
}

#[test]
fn the_http_routes_answer_as_documented() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(dir.path(), QUICK);
    daemon.send_udp(&[b"a:1|c\nb:x|c\n"]);
    daemon.flushed_when("a flush", |status| status["lines"]["read"] == 2);
    assert_eq!(daemon.get("/health").0, 200);
    assert_eq!(daemon.get("/ready").0, 200);
    let (code, body) = daemon.get("/nothing");
    let error: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((code, &error["error"]["code"]), (404, &"not_found".into()));
    let http = daemon.http.expect("HTTP");
    let mut post = TcpStream::connect(http).expect("connected");
    post.write_all(
        b"POST /api/v1/status HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    )
    .expect("sent");
    let mut answer = String::new();
    post.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 405") && answer.contains("method_not_allowed"), "{answer}");
    let (_, plain) = daemon.get("/metrics");
    assert!(
        plain.contains(
            "\n# TYPE systole_lines_malformed_total counter\nsystole_lines_malformed_total{reason=\"bad_value\"} 1\n"
        ),
        "{plain}"
    );
    let (_, open) = get(http, "/metrics", "Accept: application/openmetrics-text; version=1.0.0\r\n");
    assert!(open.contains("# TYPE systole_lines_malformed counter\n") && open.ends_with("# EOF\n"), "{open}");
    daemon.stop();
}

#[test]
fn away_from_loopback_every_route_but_health_and_ready_needs_the_token() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = QUICK.replace("address = \"127.0.0.1:0\"", "address = \"0.0.0.0:0\"\ntoken = \"s3cret\"");
    let daemon = Daemon::start(dir.path(), &config);
    let port = daemon.http.expect("HTTP").port();
    let to = ([127, 0, 0, 1], port).into();
    assert_eq!(get(to, "/health", "").0, 200);
    until("ready", || get(to, "/ready", "").0 == 200);
    for path in ["/health/", "/healthy"] {
        assert_eq!(get(to, path, "").0, 401, "{path}");
    }
    for path in ["/", "/metrics", "/api/v1/status", "/api/v1/snapshot"] {
        assert_eq!(get(to, path, "").0, 401, "{path}");
        assert_eq!(get(to, path, "Authorization: Bearer wrong!\r\n").0, 401, "{path}");
        assert_eq!(get(to, path, "Authorization: Bearer s3cret\r\n").0, 200, "{path}");
        assert_eq!(get(to, &format!("{path}?token=s3cret"), "").0, 303, "{path}");
    }
    assert!(get(to, "/", "Authorization: Bearer s3cret\r\n").1.contains("\"/presence\""));
    daemon.stop();
}

#[test]
fn malformed_lines_are_counted_and_told_once_an_interval_with_an_example_and_the_sender() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut daemon = Daemon::start(dir.path(), QUICK);
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let to = daemon.udp.expect("UDP");
    for _ in 0..50 {
        socket.send_to(b"good:1|c\nbroken:one|c\nalso:2|c", to).expect("sent");
    }
    daemon.wait_for("a warning", |lines| lines.iter().any(|line| line.contains("malformed lines")));
    let status = daemon.flushed_when("a flush", |status| status["lines"]["read"] == 150);
    assert_eq!((&status["lines"]["metrics"], &status["lines"]["malformed"]["bad_value"]), (&100.into(), &50.into()));
    let from = socket.local_addr().expect("an address").to_string();
    let log = daemon.stop();
    let warnings: Vec<&String> = log.iter().filter(|line| line.contains("malformed lines")).collect();
    assert!((1..=2).contains(&warnings.len()), "{warnings:?}");
    assert!(
        warnings[0].contains("broken:one|c") && warnings[0].contains(&from) && warnings[0].contains("byte 7"),
        "{}",
        warnings[0]
    );
}

#[test]
fn a_warning_of_malformed_lines_says_how_many_for_which_reason_and_of_a_time_what_is_wrong() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(dir.path(), QUICK);
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.send_to(b"old:1|c|T1\nolder:1|c|T2\nodd:x|c", daemon.udp.expect("UDP")).expect("sent");
    let status = daemon.flushed_when("a flush", |status| status["lines"]["read"] == 3);
    assert!(status["as_of"].as_f64().is_some_and(|at| at > 1.6e9), "{status}");
    let log = daemon.stop();
    let warning = log.iter().find(|line| line.contains("malformed lines")).expect("a warning");
    assert!(warning.contains("timestamp_past") && !warning.contains("not a timestamp"), "{warning}");
    assert!(warning.contains("bad_value=1 bad_timestamp=2"), "{warning}");
}

#[test]
fn an_oversized_datagram_keeps_its_whole_lines_and_is_counted_as_truncated() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = QUICK.replacen("[[listen]]\n", "[[listen]]\nmax_datagram = 512\n", 1);
    let daemon = Daemon::start(dir.path(), &config);
    let mut datagram = b"whole:1|c\n".to_vec();
    datagram.extend(std::iter::repeat_n(b'x', 600));
    datagram.extend_from_slice(b":1|c\n");
    daemon.send_udp(&[&datagram]);
    let status = daemon.flushed_when("a flush", |status| status["lines"]["read"] == 2);
    assert_eq!(status["listeners"][0]["truncated"], 1);
    assert_eq!((&status["lines"]["metrics"], &status["lines"]["malformed"]["too_long"]), (&1.into(), &1.into()));
    daemon.stop();
}

#[test]
fn sources_outside_the_allowed_networks_are_refused_and_counted() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = QUICK.replace("[[listen]]\n", "[[listen]]\nallow = [\"10.0.0.0/8\"]\n");
    let daemon = Daemon::start(dir.path(), &config);
    daemon.send_udp(&[b"a:1|c", b"a:1|c"]);
    drop(TcpStream::connect(daemon.tcp.expect("TCP")));
    let status = daemon.flushed_when("refusals", |status| {
        status["listeners"][0]["refused"] == 2 && status["listeners"][1]["refused"] == 1
    });
    assert_eq!(status["lines"]["read"], 0);
    daemon.stop();
}

#[test]
fn tcp_takes_partial_and_endless_lines_and_closes_silent_connections() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = "interval = \"1s\"\n[[listen]]\nurl = \"tcp://127.0.0.1:0\"\nmax_datagram = 1024\nidle_timeout = \"500ms\"\nmax_connections = 2\n[http]\naddress = \"127.0.0.1:0\"\n";
    let daemon = Daemon::start(dir.path(), config);
    let to = daemon.tcp.expect("TCP");
    let mut one = TcpStream::connect(to).expect("connected");
    for part in ["par", "tial:1", "|c\nnext", ":2|c\n"] {
        one.write_all(part.as_bytes()).expect("sent");
        one.flush().expect("sent");
        // So that each is read by itself.
        pause_ms(20);
    }
    one.write_all(&[b'e'; 5000]).expect("sent");
    one.write_all(b"\nafter:3|c\n").expect("sent");
    // They are accepted in the order in which they come.
    let mut two = TcpStream::connect(to).expect("connected");
    let mut three = TcpStream::connect(to).expect("connected");
    three.write_all(b"third:4|c\n").expect("sent");
    two.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    assert_eq!(two.read(&mut [0; 1]).unwrap_or(0), 0, "over the limit, and it has sent no line");
    let status = daemon.flushed_when("the lines", |status| status["lines"]["metrics"] == 4);
    assert_eq!(status["lines"]["malformed"]["too_long"], 1);
    one.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    assert_eq!(one.read(&mut [0; 1]).expect("closed, not timed out"), 0);
    let status = daemon.flushed_when("the refusal", |status| status["listeners"][0]["refused"] == 1);
    assert_eq!(status["listeners"][0]["connections"], 3);
    daemon.stop();
}

#[test]
fn a_busy_port_and_an_unwritable_file_fail_with_one_sentence_that_says_what_to_do() {
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a socket").local_addr().expect("an address");
    let taken = UdpSocket::bind(udp).expect("a socket");
    let tcp = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let http = tcp.local_addr().expect("an address");
    for (args, part) in [
        (
            vec!["--listen".to_string(), format!("udp://{udp}"), "--http".into(), "off".into()],
            "another process has this port",
        ),
        (
            vec!["--listen".into(), format!("tcp://{http}"), "--http".into(), "off".into()],
            "another process has this port",
        ),
        (
            vec!["--listen".into(), "udp://127.0.0.1:0".into(), "--http".into(), http.to_string()],
            "another process has this port",
        ),
        (
            vec![
                "--listen".into(),
                "udp://127.0.0.1:0".into(),
                "--http".into(),
                "off".into(),
                "--sink".into(),
                "file:///no/such/dir/x".into(),
            ],
            "make the folder",
        ),
    ] {
        let mut all = vec!["run"];
        all.extend(args.iter().map(String::as_str));
        let output = command(&all).stdin(Stdio::null()).output().expect("it ends");
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        let sentence: Vec<&str> = said.lines().filter(|line| line.starts_with("systole: ")).collect();
        assert!(sentence.len() == 1 && sentence[0].contains(part), "{said}");
    }
    drop(taken);
}

#[test]
fn several_workers_share_a_port_and_add_up() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = QUICK.replacen("[[listen]]\n", "[[listen]]\nworkers = 3\n", 1);
    let daemon = Daemon::start(dir.path(), &config);
    for _ in 0..300 {
        // A new sender each time, so that the kernel spreads them.
        daemon.send_udp(&[b"shared:1|c\nshared:5|ms\nwho:x|s"]);
    }
    let status = daemon.flushed_when("all lines", |status| status["lines"]["read"] == 900);
    assert_eq!((&status["series"]["counters"], &status["series"]["timers"]), (&1.into(), &1.into()));
    daemon.stop();
    let total = |kind: &str, field: &str| -> f64 {
        let records = records(&dir.path().join("stdout"));
        records.iter().filter(|r| r["type"] == kind && (r["name"] == "shared")).filter_map(|r| r[field].as_f64()).sum()
    };
    assert_eq!((total("counter", "value"), total("timer", "count")), (300.0, 300.0));
}

#[test]
fn send_reaches_the_daemon_over_both_transports() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(dir.path(), QUICK);
    for url in [format!("udp://{}", daemon.udp.expect("UDP")), format!("tcp://{}", daemon.tcp.expect("TCP"))] {
        let output = command(&["send", "a:1|c", "b:-2|g", "--to", &url]).output().expect("it ends");
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    daemon.flushed_when("all lines", |status| status["lines"]["metrics"] == 4);
    daemon.stop();
    assert_eq!(
        command(&["send", "a:1|c", "--to", "tcp://127.0.0.1:1"]).output().expect("it ends").status.code(),
        Some(1)
    );
    assert_eq!(command(&["send", "a:1|c", "--to", "nowhere"]).output().expect("it ends").status.code(), Some(2));
}

#[test]
fn the_ledger_is_published_as_series_and_holds() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(dir.path(), QUICK);
    daemon.send_udp(&[b"a:1|c\n\nb:2|g|odd\nc:x|c\n_sc|web|0\n_e{1,1}:a|b"]);
    daemon.flushed_when("a flush", |status| status["lines"]["read"] == 6);
    daemon.stop();
    let records = records(&dir.path().join("stdout"));
    let sum =
        |name: &str| -> f64 { records.iter().filter(|r| r["name"] == name).filter_map(|r| r["value"].as_f64()).sum() };
    for (name, value) in [
        ("systole.lines.read", 6.0),
        ("systole.lines.metrics", 2.0),
        ("systole.lines.empty", 1.0),
        ("systole.lines.events", 1.0),
        ("systole.lines.service_checks", 1.0),
        ("systole.lines.malformed", 1.0),
        ("systole.samples.recorded", 2.0),
        ("systole.sections_skipped", 1.0),
        ("systole.datagrams", 1.0),
    ] {
        assert_eq!(sum(name), value, "{name}");
    }
    assert!(records.iter().any(|r| r["type"] == "event" && r["title"] == "a"));
    assert!(records.iter().any(|r| r["type"] == "service_check" && r["name"] == "web"));
    let ledgers: Vec<&Value> = records.iter().filter(|r| r["type"] == "ledger").collect();
    assert!(ledgers.iter().all(|ledger| ledger["completeness"] == 1.0));
    let lines: u64 = ledgers.iter().filter_map(|ledger| ledger["lines"]["read"].as_u64()).sum();
    assert_eq!(lines, 6);
}

/// Counters and gauges with a timestamp are emitted for their own second, apart from the interval.
#[test]
fn a_sample_with_a_timestamp_keeps_its_time() {
    let dir = tempfile::tempdir().expect("a folder");
    let tape = dir.path().join("tape.jsonl");
    let lines = "a:1|c|T1700000000|#k:v\na:2|c|#k:v|T1700000000\na:4|c|@0.5|T1700000001|#k:v\na:8|c|#k:v\n\
                 g:5|g|T1700000000\ng:7|g|T1700000000\nt:3|ms|T1700000000\ng:+1|g|T1700000000";
    std::fs::write(&tape, serde_json::json!({"t": 1.0, "data": lines}).to_string()).expect("written");
    let replay = |kind: &str| {
        let args = ["replay", tape.to_str().expect("plain"), "--as", kind, "--only", "counter,gauge,timer,ledger"];
        let output = support::systole(&args, b"");
        assert!(output.status.success(), "{}", support::text(&output.stderr));
        support::text(&output.stdout)
    };
    let records: Vec<serde_json::Value> =
        replay("json").lines().map(|line| serde_json::from_str(line).expect("a record")).collect();
    let stamped: Vec<(String, f64, f64)> = records
        .iter()
        .filter(|r| r["type"] != "ledger" && r.get("interval").is_none())
        .map(|r| {
            let number = |key: &str| r[key].as_f64().expect("a number");
            (r["name"].as_str().expect("a name").to_string(), number("time"), number("value"))
        })
        .collect();
    let expected = [("a", 1_700_000_000.0, 3.0), ("a", 1_700_000_001.0, 8.0), ("g", 1_700_000_000.0, 7.0)];
    assert_eq!(stamped, expected.map(|(name, time, value)| (name.to_string(), time, value)));
    let open = records.iter().find(|r| r["name"] == "a" && r["interval"] == 10.0).expect("the interval's own");
    assert_eq!((&open["value"], &open["time"]), (&8.0.into(), &10.0.into()));
    let ledger = records.iter().find(|r| r["type"] == "ledger").expect("an account");
    assert_eq!((&ledger["samples"]["timestamped"], &ledger["samples"]["read"]), (&5.into(), &8.into()));
    assert_eq!(ledger["samples"]["recorded"], 3);
    let graphite = replay("graphite");
    for line in ["a.count;k=v 3 1700000000", "a.count;k=v 8 1700000001", "g 7 1700000000", "a.count;k=v 8 10"] {
        assert!(graphite.lines().any(|found| found == line), "{line}:\n{graphite}");
    }
}

#[test]
fn what_it_says_to_try_first_works_as_it_stands() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = "interval = \"200ms\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\n[http]\naddress = \"127.0.0.1:0\"\n";
    let daemon = Daemon::start(dir.path(), config);
    let port = daemon.udp.expect("UDP").port();
    let said =
        |word: &str| daemon.lines.iter().find_map(|line| line.trim().strip_prefix(word)).map(str::trim).expect("said");
    assert_eq!(said("or "), format!("echo 'hello:1|c' | nc -u -q0 127.0.0.1 {port}"));
    let words: Vec<String> = said("try ").split(' ').map(|word| word.trim_matches('\'').to_string()).collect();
    assert_eq!(words[..2], ["systole", "send"]);
    let args: Vec<&str> = words[1..].iter().map(String::as_str).collect();
    assert!(support::systole(&args, b"").status.success());
    daemon.flushed_when("it arrived", |s| s["lines"]["metrics"] == 1);
    // The board of a daemon that has heard nobody: the same order.
    let board = daemon.get("/presence").1;
    let (ours, netcat) = (board.find("systole send"), board.find("nc -u -q0"));
    assert!(ours.is_some() && ours < netcat, "{board}");
    daemon.stop();
}

#[test]
fn flags_of_run_need_no_run() {
    let with = |args: &[&str]| {
        let output = support::systole(args, b"");
        (output.status.code(), support::text(&output.stderr))
    };
    let (code, said) = with(&["--sink", "nonsense://x"]);
    assert_eq!((code, &said), (Some(2), &with(&["run", "--sink", "nonsense://x"]).1));
    assert!(said.contains("--sink"), "{said}");
    let (code, said) = with(&["--nonsense"]);
    assert!(code == Some(2) && said.contains("--nonsense") && said.contains("Usage: systole [OPTIONS]"), "{said}");
}
