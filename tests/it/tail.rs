//! Lines as they arrive: over HTTP, and as `systole tail` shows them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Daemon, command, exit_within, get, pause_ms, poll, text, until};

const PATIENCE: Duration = Duration::from_secs(20);

fn config(more: &str) -> String {
    format!(
        "interval = \"200ms\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\nworkers = 1\n[[listen]]\nurl = \"tcp://127.0.0.1:0\"\n\
         [http]\naddress = \"127.0.0.1:0\"\n{more}"
    )
}

/// A running `systole tail`, and what it shows.
struct Tail {
    child: Child,
    rows: Receiver<String>,
}

impl Tail {
    fn start(daemon: &Daemon, args: &[&str]) -> Tail {
        let url = format!("http://{}", daemon.http.expect("HTTP"));
        let mut child =
            command(&[&["tail", "--url", &url], args].concat()).stdin(Stdio::null()).spawn().expect("it starts");
        let out = child.stdout.take().expect("it was asked for");
        let (send, rows) = channel();
        std::thread::spawn(move || {
            for row in BufReader::new(out).lines().map_while(Result::ok) {
                if send.send(row).is_err() {
                    return;
                }
            }
        });
        Tail { child, rows }
    }

    /// The next row, while `send` sends what may become one: until somebody looks, nothing is shown.
    fn row(&self, mut send: impl FnMut()) -> String {
        poll("a row", || {
            send();
            self.rows.recv_timeout(Duration::from_millis(100))
        })
    }

    fn end(mut self) -> (Option<i32>, String) {
        let status = exit_within(&mut self.child, PATIENCE);
        let mut said = Vec::new();
        if status.is_none() {
            let _ = self.child.kill();
        }
        self.child.stderr.take().expect("it was asked for").read_to_end(&mut said).expect("text");
        (status.and_then(|status| status.code()), text(&said))
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Tail {
    /// Ends it.
    fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn lines_of_every_transport_are_shown_with_their_verdicts() {
    let dir = tempfile::tempdir().expect("a folder");
    let (stream, datagrams) = (dir.path().join("s"), dir.path().join("d"));
    let more = format!(
        "[[listen]]\nurl = \"unix://{}\"\n[[listen]]\nurl = \"unixgram://{}\"\n[presence]\nservice = [{{ match = \"pay\", key = \"s3cret\" }}]\n",
        stream.display(),
        datagrams.display()
    );
    let daemon = Daemon::start(dir.path(), &config(&more));
    let tail = Tail::start(&daemon, &["--json", "w*"]);
    let udp = daemon.udp.expect("UDP");
    let shown = |send: &dyn Fn()| -> Value { serde_json::from_str(&tail.row(send)).expect("JSON") };
    let first = shown(&|| daemon.send_udp(&[b"other:1|c\nwarm:1|c"]));
    assert_eq!(
        (&first["line"], &first["verdict"], &first["kind"]),
        (&"warm:1|c".into(), &"ok".into(), &"counter".into())
    );
    assert_eq!((&first["from"], &first["listener"]), (&"127.0.0.1".into(), &format!("udp://{udp}").into()));
    // What was sent meanwhile.
    while tail.rows.recv_timeout(Duration::from_millis(500)).is_ok() {}
    let mut tcp = TcpStream::connect(daemon.tcp.expect("TCP")).expect("connected");
    let mut unix = UnixStream::connect(&stream).expect("connected");
    let unixgram = UnixDatagram::unbound().expect("a socket");
    let once = |send: &mut dyn FnMut()| -> Value {
        send();
        serde_json::from_str(&tail.rows.recv_timeout(PATIENCE).expect("a row")).expect("JSON")
    };
    let row = once(&mut || tcp.write_all(b"w.tcp:5|ms|@0.1\n").expect("sent"));
    assert!(row["listener"].as_str().expect("text").starts_with("tcp://") && row["name"] == "w.tcp", "{row}");
    let row = once(&mut || unix.write_all(b"w.unix:x|c\n").expect("sent"));
    assert_eq!((&row["verdict"], &row["reason"], &row["at"]), (&"malformed".into(), &"bad_value".into(), &7.into()));
    assert!(row["message"].as_str().expect("text").contains("decimal number") && row["from"].is_null(), "{row}");
    let row = once(&mut || assert!(unixgram.send_to(b"w.gram:1|s", &datagrams).is_ok()));
    assert_eq!((&row["kind"], &row["name"]), (&"set".into(), &"w.gram".into()));
    // What a connection leaves of a line.
    let row = once(&mut || {
        tcp.write_all(b"w.half:1").expect("sent");
        tcp.shutdown(std::net::Shutdown::Both).expect("closed");
    });
    assert_eq!(row["line"], "w.half:1");
    tail.kill();
    // Keys of presence stay secret, and nothing acts on a terminal.
    let tail = Tail::start(&daemon, &["heartbeat.pay"]);
    let row = tail.row(|| daemon.send_udp(&[b"heartbeat.pay.web-1:60|g|#key:s3cret,a:\x1b[2J\xe2\x80\xae"]));
    assert!(
        row.contains("  ok         heartbeat      heartbeat.pay.web-1:60|g|#key:***,a:\\u{1b}[2J\\u{202e}"),
        "{row}"
    );
    tail.kill();
    daemon.stop();
}

#[test]
fn tail_shows_what_it_is_asked_for_and_ends_as_scripts_expect() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(dir.path(), &config(""));
    let sent = || daemon.send_udp(&[b"api.hits:1|c\napi.latncy:12,5|ms\nweb.hits:1|c"]);
    // As many as asked for, and then it ends.
    let tail = Tail::start(&daemon, &["hits", "--limit", "2"]);
    let rows = [tail.row(sent), tail.row(|| ())];
    assert!(rows[0].contains("  127.0.0.1        ok         counter        api.hits:1|c"), "{rows:?}");
    assert!(rows[1].ends_with("web.hits:1|c"), "{rows:?}");
    assert_eq!(tail.end(), (Some(0), String::new()));
    let tail = Tail::start(&daemon, &["--invalid"]);
    let row = tail.row(sent);
    assert!(
        row.contains("malformed  bad_value      api.latncy:12,5|ms  <- byte 11: not a finite decimal number"),
        "{row}"
    );
    tail.kill();
    let tail = Tail::start(&daemon, &["--from", "127.0.0.0/8", "--limit", "1"]);
    tail.row(sent);
    assert_eq!(tail.end().0, Some(0));
    // Nobody reads any more: quiet.
    let mut tail = Tail::start(&daemon, &[]);
    tail.row(sent);
    tail.rows = channel().1;
    until("it ends", || {
        sent();
        exit_within(&mut tail.child, Duration::from_millis(50)).is_some()
    });
    assert_eq!(tail.end(), (Some(0), String::new()));
    // What is wrong is said.
    for (args, says) in [
        (&["--from", "nowhere"][..], "`from` is an address or a network such as 10.0.0.0/8, and not `nowhere`"),
        (&["--url", "http://127.0.0.1:1"], "is the daemon running"),
    ] {
        let url = format!("http://{}", daemon.http.expect("HTTP"));
        let args =
            if args[0] == "--url" { [&["tail"], args].concat() } else { [&["tail", "--url", &*url], args].concat() };
        let output = command(&args).output().expect("it runs");
        assert!(
            output.status.code() == Some(1) && text(&output.stderr).contains(says),
            "{args:?}: {}",
            text(&output.stderr)
        );
    }
    // The daemon goes away.
    let tail = Tail::start(&daemon, &[]);
    tail.row(sent);
    daemon.stop();
    let (code, said) = tail.end();
    assert!(code == Some(1) && said.starts_with("systole: the daemon has"), "{code:?} {said}");
}

#[test]
fn a_token_is_asked_for_where_the_page_asks_for_one() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = config("token = \"secret\"\n").replace("address = \"127.0.0.1:0\"", "address = \"0.0.0.0:0\"");
    let daemon = Daemon::start(dir.path(), &config);
    let url = format!("http://127.0.0.1:{}", daemon.http.expect("HTTP").port());
    let output = command(&["tail", "--url", &url]).output().expect("it runs");
    assert!(output.status.code() == Some(1) && text(&output.stderr).contains("token"), "{}", text(&output.stderr));
    let mut child =
        command(&["tail", "--url", &url, "--limit", "1"]).env("SYSTOLE_TOKEN", "secret").spawn().expect("it starts");
    until("a line is shown", || {
        daemon.send_udp(&[b"a:1|c"]);
        exit_within(&mut child, Duration::from_millis(50)).is_some()
    });
    assert!(text(&child.wait_with_output().expect("it ends").stdout).contains("a:1|c"));
    daemon.stop();
}

/// Opens a tail over HTTP; the status, and the connection.
fn open(to: SocketAddr, query: &str) -> (u16, BufReader<TcpStream>) {
    let mut stream = TcpStream::connect(to).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    write!(stream, "GET /api/v1/tail{query} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n")
        .expect("sent");
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).expect("a status");
    let code = line.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a number");
    while line.len() > 2 {
        line.clear();
        reader.read_line(&mut line).expect("a head");
    }
    (code, reader)
}

#[test]
fn a_flood_is_sampled_and_what_is_received_is_as_ever() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(dir.path(), &config(""));
    let to = daemon.http.expect("HTTP");
    let (code, mut events) = open(to, "");
    assert_eq!(code, 200);
    let rare = open(to, "?match=rare.*");
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    udp.connect(daemon.udp.expect("UDP")).expect("connected");
    let (began, mut sent) = (Instant::now(), 0_u64);
    // Ten lines in each datagram, for two seconds.
    let many = "a.b.c:1|c\n".repeat(9);
    while began.elapsed() < Duration::from_secs(2) {
        for n in 0..50 {
            let last = if n == 7 { "rare.one:1|c" } else { "d:1|ms" };
            udp.send(format!("{many}{last}").as_bytes()).expect("sent");
            sent += 10;
        }
        pause_ms(1);
    }
    let lost = |status: &Value| status["listeners"][0]["kernel_drops"].as_u64().expect("a number") * 10;
    let status = daemon.flushed_when("all are read", |status| {
        status["lines"]["read"].as_u64().expect("a number") + lost(status) >= sent
    });
    let lines = &status["lines"];
    assert_eq!(lines["read"].as_u64().expect("a number") + lost(&status), sent, "{status}");
    assert_eq!(lines["read"], lines["metrics"], "{lines}");
    assert_eq!(status["samples"]["read"], status["samples"]["recorded"]);
    // As much as two and a half seconds may show, and what is not shown is said.
    let (mut shown, mut skipped) = (0_u64, 0);
    let mut name = String::new();
    while shown + skipped < sent - lost(&status) {
        let mut row = String::new();
        events.read_line(&mut row).expect("a row");
        match row.trim().split_once(": ") {
            Some(("event", event)) => name = event.to_string(),
            None if row.starts_with(':') => panic!("{shown} lines and {skipped} skipped of {sent}"),
            Some(("data", data)) => {
                let value: Value = serde_json::from_str(data).expect("JSON");
                match name.as_str() {
                    "line" => shown += 1,
                    _ => skipped += value["skipped"].as_u64().expect("a number"),
                }
            }
            _ => {}
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    assert!(shown as f64 <= 100.0 * (seconds + 2.0) && shown > 100, "{shown} lines in {seconds} s");
    // One line of five hundred, beside one who wants any.
    let (_, mut reader) = rare;
    let mut row = String::new();
    while !row.contains("\"rare.one:1|c\"") {
        assert!(!row.starts_with(':'), "nothing was shown for long");
        row.clear();
        reader.read_line(&mut row).expect("a rare line");
    }
    drop((events, reader));
    assert!(daemon.status()["memory"]["holders"]["http_bodies"]["bytes"].as_u64() < Some(4 << 20));
    daemon.stop();
}

#[test]
fn there_are_eight_places_and_a_stop_ends_them() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(dir.path(), &config(""));
    let to = daemon.http.expect("HTTP");
    let mut all: Vec<_> = (0..8).map(|_| open(to, "")).collect();
    assert!(all.iter().all(|(code, _)| *code == 200));
    let (code, body) = get(to, "/api/v1/tail", "");
    assert!(
        code == 503 && body.contains("\"busy\"") && body.contains("8 clients look at lines already"),
        "{code} {body}"
    );
    all.pop();
    until("a place again", || open(to, "").0 == 200);
    for (query, says) in [("invalid=yes", "`invalid` is 0 or 1"), ("limit=0", "`limit` is a whole number of 1")] {
        let (code, body) = get(to, &format!("/api/v1/tail?{query}"), "");
        assert!(code == 400 && body.contains(says), "{query}: {code} {body}");
    }
    let began = Instant::now();
    daemon.stop();
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    for (_, reader) in &mut all {
        let mut rest = Vec::new();
        // An end, or a reset.
        let _ = reader.read_to_end(&mut rest);
    }
}

#[test]
fn lines_are_shown_as_the_configuration_in_force_reads_them() {
    let (dir, other) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    let line = format!("late:1|c|T{}", now - 7200);
    let row = |daemon: &Daemon, is_it: &dyn Fn(&Value) -> bool| {
        let tail = Tail::start(daemon, &["--json"]);
        let row = poll("the row", || {
            let row: Value = serde_json::from_str(&tail.row(|| daemon.send_udp(&[line.as_bytes()]))).expect("JSON");
            if is_it(&row) { Ok(row) } else { Err(row.to_string()) }
        });
        tail.kill();
        ["line", "verdict", "reason", "kind", "message"].map(|key| row[key].clone())
    };
    let mut daemon = Daemon::start(dir.path(), &config(""));
    assert_eq!(row(&daemon, &|_| true)[1], "ok");
    let next = format!("timestamp_past = \"1h\"\n{}", config(""));
    std::fs::write(dir.path().join("systole.toml"), &next).expect("written");
    daemon.signal("-HUP");
    daemon.wait_for("a reload", |lines| lines.iter().any(|line| line.contains("reloaded: timestamp_past")));
    let fresh = Daemon::start(other.path(), &next);
    let after = row(&daemon, &|row| row["verdict"] == "malformed");
    assert_eq!(after, row(&fresh, &|_| true));
    assert_eq!(after[2], "bad_timestamp");
    fresh.stop();
    daemon.stop();
}
