//! Captures: what comes in is recorded, and replayed gives what the daemon gave.

mod support;

use std::net::UdpSocket;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Daemon, command, records, systole, text};

#[test]
fn the_daemon_records_what_comes_in_and_replay_gives_the_same() {
    let dir = tempfile::tempdir().expect("a folder");
    let tape = dir.path().join("tape.jsonl");
    let config = format!(
        "interval = \"1h\"\nself_metrics = false\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\n[[listen]]\nurl = \"tcp://127.0.0.1:0\"\n\
         [[sink]]\ntype = \"file\"\npath = \"{}\"\n[presence]\nenabled = false\n[http]\naddress = \"127.0.0.1:0\"\n",
        dir.path().join("records.jsonl").display()
    );
    let daemon = Daemon::start_with(dir.path(), &config, &["--capture", tape.to_str().expect("plain")]);
    daemon.send_udp(&[b"a:1|c\na:2|c", b"bytes\xff:1|c", b"g:5|g"]);
    let mut stream = std::net::TcpStream::connect(daemon.tcp.expect("TCP")).expect("connected");
    std::io::Write::write_all(&mut stream, b"t:10|ms\nt:20|ms\nrest:1|c").expect("sent");
    drop(stream);
    // The interval is long: what was read shows at the end.
    std::thread::sleep(Duration::from_millis(500));
    daemon.stop();
    let rows: Vec<Value> = records(&tape);
    assert_eq!(rows[0]["format"], "systole-capture/1");
    assert!(rows[1]["from"].as_str().is_some_and(|from| from.starts_with("127.0.0.1:")), "{}", rows[1]);
    assert!(rows.iter().any(|row| row["hex"].is_string()) && rows.iter().any(|row| row["via"] == "tcp"));
    let output = systole(&["replay", tape.to_str().expect("plain"), "--interval", "1h"], b"");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let key = |r: &Value| (r["type"].to_string(), r["name"].to_string(), r["value"].to_string(), r["sum"].to_string());
    let told = |r: &&Value| r["type"] != "ledger";
    let mut live: Vec<_> = records(&dir.path().join("records.jsonl")).iter().filter(told).map(key).collect();
    let mut again: Vec<_> = text(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("a record"))
        .collect::<Vec<_>>()
        .iter()
        .filter(told)
        .map(key)
        .collect();
    live.sort();
    again.sort();
    assert_eq!(live.len(), 4, "{live:?}");
    assert_eq!(live, again);
}

#[test]
fn capture_stops_in_time_keeps_to_its_size_and_counts_what_it_left_out() {
    let dir = tempfile::tempdir().expect("a folder");
    let out = dir.path().join("tape.jsonl");
    let port = UdpSocket::bind("127.0.0.1:0").and_then(|s| s.local_addr()).expect("a port").port();
    let url = format!("udp://127.0.0.1:{port}");
    let args =
        ["capture", "--listen", &url, "--out", out.to_str().expect("plain"), "--for", "2s", "--max-size", "1KiB"];
    let mut child = command(&args);
    let child = child.stdin(Stdio::null()).spawn().expect("the binary starts");
    let sender = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let began = Instant::now();
    let mut sent = 0;
    while began.elapsed() < Duration::from_millis(1500) {
        sent += u64::from(sender.send_to(b"a:1|c", ("127.0.0.1", port)).is_ok());
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let said: Value = serde_json::from_str(&text(&output.stdout)).expect("JSON");
    let (rows, lost) = (said["rows"].as_u64().expect("rows"), said["lost"].as_u64().expect("lost"));
    assert!(rows > 5 && lost > 5 && rows + lost <= sent, "{said} of {sent}");
    assert_eq!(records(&out).len() as u64, rows + 1);
    assert!(std::fs::metadata(&out).expect("a file").len() <= 1024);
    let nowhere = systole(&["capture", "--listen", &url, "--out", "/no/such/folder/x"], b"");
    assert_eq!(nowhere.status.code(), Some(1));
}

#[test]
fn completions_and_the_manual_name_every_command() {
    for args in [&["completions", "bash"][..], &["completions", "zsh"], &["completions", "fish"], &["man"]] {
        let output = systole(args, b"");
        let said = text(&output.stdout);
        assert!(output.status.success() && said.contains("capture") && said.contains("presence"), "{args:?}");
    }
}
