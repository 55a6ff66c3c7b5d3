//! `systole load` tells exactly what it sent, and the daemon's ledger agrees to the last line.

use std::io::Read;
use std::net::TcpListener;

use serde_json::Value;

use crate::support::{Daemon, command, records, text, until};

const CONFIG: &str = "interval = \"500ms\"\nself_metrics = false\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\n[[listen]]\nurl = \"tcp://127.0.0.1:0\"\n[http]\naddress = \"127.0.0.1:0\"\n";

fn load(to: &str, args: &[&str]) -> Value {
    let output = command(&["load", "--to", to, "--for", "400ms"]).args(args).output().expect("it ends");
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("a report")
}

fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_else(|| panic!("{key} in {value}"))
}

#[test]
fn load_and_ledger_agree_to_the_last_line() {
    for args in [
        &["--lines-per-packet", "1", "--rate", "20000"][..],
        &["--profile", "mixed", "--series", "200", "--lines-per-packet", "20", "--rate", "100000", "--threads", "2"],
        &["--profile", "timers", "--tags", "3", "--rate", "20000"],
        &["--profile", "mixed", "--lines-per-packet", "10", "--rate", "100000", "--gso"],
    ] {
        let dir = tempfile::tempdir().expect("a folder");
        let daemon = Daemon::start(dir.path(), CONFIG);
        let sent = load(&format!("udp://{}", daemon.udp.expect("UDP")), args);
        let status = daemon.flushed_when("every datagram", |status| {
            let l = &status["listeners"][0];
            number(l, "datagrams") + number(l, "kernel_drops") == number(&sent, "packets")
        });
        assert_eq!(number(&status["listeners"][0], "kernel_drops"), 0, "{args:?}");
        assert_eq!(number(&status["lines"], "read"), number(&sent, "lines"), "{args:?}");
        assert_eq!(number(&status["lines"], "metrics"), number(&sent, "lines"));
        daemon.stop();
        let records = records(&dir.path().join("stdout"));
        let sum = |kind: &str, field: &str| -> u64 {
            records.iter().filter(|r| r["type"] == kind).filter_map(|r| r[field].as_f64()).sum::<f64>() as u64
        };
        assert_eq!(sum("counter", "value"), number(&sent, "counter_sum"), "{args:?}");
        assert_eq!(sum("timer", "samples"), number(&sent, "timers"), "{args:?}");
    }
}

/// What arrives of a tenth of a second of load with a seed.
fn bytes_of(seed: &str) -> Vec<u8> {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let to = format!("tcp://{}", listener.local_addr().expect("bound"));
    let reader = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("it connects");
        let mut all = Vec::new();
        stream.read_to_end(&mut all).expect("bytes");
        all
    });
    load(&to, &["--profile", "mixed", "--tags", "2", "--lines-per-packet", "20", "--rate", "50000", "--seed", seed]);
    reader.join().expect("it reads")
}

#[test]
fn the_same_seed_sends_the_same_bytes_and_another_seed_others() {
    let [one, again, other] = ["7", "7", "8"].map(bytes_of);
    // How much is sent in the time depends on the machine.
    let both = one.len().min(again.len());
    assert!(both > 10_000, "{both} bytes");
    assert!(one[..both] == again[..both], "the same seed sends something else");
    assert_ne!(one[..1000], other[..1000]);
}

#[test]
fn load_goes_over_tcp_too() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(dir.path(), CONFIG);
    let to = format!("tcp://{}", daemon.tcp.expect("TCP"));
    let sent = load(&to, &["--profile", "mixed", "--lines-per-packet", "20", "--rate", "50000"]);
    daemon.flushed_when("every line", |status| number(&status["lines"], "read") == number(&sent, "lines"));
    daemon.stop();
}

#[test]
fn load_says_when_nobody_listens() {
    let output =
        command(&["load", "--to", "udp://127.0.0.1:9", "--for", "100ms", "--rate", "1000"]).output().expect("it ends");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("does anybody listen"), "{}", text(&output.stderr));
    assert_eq!(
        command(&["load", "--to", "tcp://127.0.0.1:9", "--gso"]).output().expect("it ends").status.code(),
        Some(2)
    );
}

#[test]
fn drops_of_a_small_buffer_are_counted_to_the_last_datagram_and_told_with_advice() {
    let dir = tempfile::tempdir().expect("a folder");
    let config =
        CONFIG.replacen("[[listen]]\n", "[[listen]]\nreceive_buffer = \"4KiB\"\nreceive_buffer_force = false\n", 1);
    let daemon = Daemon::start(dir.path(), &config);
    let to = format!("udp://{}", daemon.udp.expect("UDP"));
    // Stopped, it reads nothing, and the buffer overflows for sure.
    daemon.signal("-STOP");
    let sent = load(&to, &["--rate", "20000"]);
    daemon.signal("-CONT");
    let status = daemon.flushed_when("every datagram", |status| {
        let l = &status["listeners"][0];
        number(l, "datagrams") + number(l, "kernel_drops") == number(&sent, "packets")
    });
    let l = &status["listeners"][0];
    assert!(number(l, "kernel_drops") > 0 && number(l, "datagrams") > 0, "{l}");
    assert!(status["completeness"].as_f64().is_some_and(|share| share < 1.0));
    let log = daemon.stop().join("\n");
    assert!(
        log.contains("the kernel dropped datagrams") && log.contains("receive_buffer") && log.contains("workers"),
        "{log}"
    );
}

#[test]
fn the_status_interval_logs_what_was_received() {
    let dir = tempfile::tempdir().expect("a folder");
    let log = std::fs::File::create(dir.path().join("log")).expect("a file");
    let args =
        ["run", "--listen", "udp://127.0.0.1:0", "--http", "off", "--interval", "100ms", "--status-interval", "200ms"];
    let mut child = command(&args).stdout(std::process::Stdio::null()).stderr(log).spawn().expect("it starts");
    let told = || std::fs::read_to_string(dir.path().join("log")).expect("a log").matches("since the start").count();
    until("it is logged twice", || told() >= 2);
    let _ = std::process::Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
    child.wait().expect("it ends");
}
