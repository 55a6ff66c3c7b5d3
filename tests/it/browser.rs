//! What a web page can make a browser do to a daemon on the same machine, and a client that never ends its request.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::{Daemon, pause_ms, records, systole, text};

fn config(dir: &Path, more: &str) -> String {
    format!(
        "interval = \"200ms\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\n[[listen]]\nurl = \"tcp://127.0.0.1:0\"\n\
         [[sink]]\ntype = \"file\"\npath = \"{}\"\n[presence]\nenabled = false\n{more}",
        dir.join("records.jsonl").display()
    )
}

/// What a browser sends for `fetch(url, { method: "POST", mode: "no-cors", body })`.
fn post(body: &str) -> String {
    format!(
        "POST / HTTP/1.1\r\nHost: 127.0.0.1:8125\r\nContent-Length: {}\r\nOrigin: https://evil.example\r\n\
         Content-Type: text/plain;charset=UTF-8\r\n\r\n{body}",
        body.len()
    )
}

/// Sends all of it, whether it is read or not, and what comes back until the other end closes.
fn exchange(mut stream: impl Read + Write, sent: &str) -> String {
    for part in sent.as_bytes().chunks(40) {
        // The other end may have closed already.
        if stream.write_all(part).is_err() {
            break;
        }
    }
    let (mut heard, mut chunk) = (Vec::new(), [0; 4096]);
    // A reset is an end, too: what was sent after the first line was not read.
    while let Ok(count @ 1..) = stream.read(&mut chunk) {
        heard.extend_from_slice(&chunk[..count]);
    }
    text(&heard)
}

fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    stream
}

#[test]
fn nothing_is_recorded_of_a_post_to_a_listener_of_lines() {
    let dir = tempfile::tempdir().expect("a folder");
    let unix = dir.path().join("s");
    let more = format!("[[listen]]\nurl = \"unix://{}\"\n[http]\naddress = \"127.0.0.1:0\"\n", unix.display());
    let mut daemon = Daemon::start(dir.path(), &config(dir.path(), &more));
    let to = daemon.tcp.expect("TCP");
    let body = "\nowned:1|c\n_sc|owned|2\nheartbeat.owned:60|g\n";
    for request in [
        post(body),
        post(body).replace("\r\n", "\n"),
        // As a line it would be a sample with a tag.
        post(body).replace("POST / ", "POST /owned:1|c|#x: "),
        // Longer than a line may be.
        post(body).replace("POST /", &format!("GET /{}", "x".repeat(100_000))),
    ] {
        assert_eq!(exchange(connect(to), &request), "");
    }
    let stream = UnixStream::connect(&unix).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    assert_eq!(exchange(stream, &post(body)), "");
    // Names with blanks and slashes are names, and later lines are never requests.
    let mut lines = connect(to);
    lines.write_all(b"GET /users:12|ms\nGET / HTTP/1.1\nx:1|c\n").expect("sent");
    drop(lines);
    let status = daemon.flushed_when("all are told", |s| s["lines"]["read"] == 8);
    assert_eq!(status["lines"]["malformed"]["http_request"], 5, "{status}");
    assert_eq!((&status["lines"]["metrics"], &status["lines"]["service_checks"]), (&2.into(), &0.into()), "{status}");
    assert!(daemon.get("/metrics").1.contains("systole_lines_malformed_total{reason=\"http_request\"} 5"));
    daemon.wait_for("what came, and from whom", |lines| {
        lines.iter().any(|line| line.contains("http_request") && line.contains("POST / HTTP/1.1"))
    });
    daemon.stop();
    let all = records(&dir.path().join("records.jsonl"));
    assert!(all.iter().all(|r| !r.to_string().contains("owned")));
}

#[test]
fn nothing_is_executed_of_a_post_to_the_management_port() {
    let dir = tempfile::tempdir().expect("a folder");
    let more = "[http]\naddress = \"127.0.0.1:0\"\n[management]\naddress = \"127.0.0.1:0\"\n";
    let text = config(dir.path(), more).replace("200ms", "300ms");
    let mut daemon = Daemon::start(dir.path(), &text);
    let line = daemon.lines.iter().find_map(|line| line.trim().strip_prefix("manage")).expect("it says where");
    let port: SocketAddr = line.trim().strip_prefix("tcp://").and_then(|a| a.parse().ok()).expect("an address");
    let body = "\nhealth down\ndelgauges kept\n";
    daemon.send_udp(&[b"kept:5|g"]);
    daemon.flushed_when("it is held", |s| s["series"]["gauges"] == 1);
    let requests = [
        post(body),
        post(body).replace("\r\n", "\n"),
        post(body).replace("POST /", &format!("GET /{}", "x".repeat(100_000))),
    ];
    for request in &requests {
        assert_eq!(exchange(connect(port), request), "");
    }
    // After a command as well: somebody may pass on what a browser sends.
    assert_eq!(exchange(connect(port), &format!("health\n{}", post(body))), "health: up\n");
    // A request that stops in its first line.
    assert_eq!(exchange(connect(port), "POST /x"), "");
    let status = daemon.flushed_when("all are told", |s| s["management"]["http_requests"] == 5);
    assert_eq!(status["series"]["gauges"], 1);
    assert_eq!(exchange(connect(port), "health\nquit\n"), "health: up\n");
    assert!(daemon.get("/metrics").1.contains("systole_management_http_requests_total 5"));
    daemon.wait_for("a warning", |lines| lines.iter().any(|line| line.contains("HTTP came to the management port")));
    daemon.stop();
    let all = records(&dir.path().join("records.jsonl"));
    let series = all.iter().filter(|r| r["name"] == "systole.management.http_requests");
    assert_eq!(series.filter_map(|r| r["value"].as_f64()).sum::<f64>(), 5.0);
    let ledgers = all.iter().filter(|r| r["type"] == "ledger");
    assert_eq!(ledgers.filter_map(|r| r["management"]["http_requests"].as_u64()).sum::<u64>(), 5);
}

/// A request with a `Host` of its own, or none: the status and the body.
fn ask(to: SocketAddr, target: &str, host: Option<&str>) -> (u16, String) {
    let host = host.map_or(String::new(), |host| format!("Host: {host}\r\n"));
    let version = if host.is_empty() { "1.0" } else { "1.1" };
    let answer = exchange(connect(to), &format!("GET {target} HTTP/{version}\r\n{host}Connection: close\r\n\r\n"));
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    (head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status"), body.to_string())
}

#[test]
fn a_page_whose_name_points_to_this_machine_reads_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let more = "[http]\naddress = \"127.0.0.1:0\"\nhosts = [\"stats.example\"]\n";
    let daemon = Daemon::start(dir.path(), &config(dir.path(), more));
    let to = daemon.http.expect("HTTP");
    for path in ["/", "/metrics", "/api/v1/status", "/presence", "/nothing"] {
        let (code, body) = ask(to, path, Some(&format!("evil.example:{}", to.port())));
        assert_eq!(code, 421, "{path}");
        let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(body["error"]["code"], "unknown_host");
        assert!(body["error"]["message"].as_str().expect("text").contains("`http.hosts`"), "{body}");
    }
    assert_eq!(ask(to, "http://evil.example/api/v1/status", Some("localhost")).0, 421);
    for host in
        ["localhost", "LOCALHOST:1", "127.0.0.1", "127.0.0.1:8127", "[::1]:8127", "stats.example", "stats.example:80"]
    {
        assert_eq!(ask(to, "/api/v1/status", Some(host)).0, 200, "{host}");
    }
    // No browser.
    assert_eq!(ask(to, "/api/v1/status", None).0, 200);
    // Probes have names of their own.
    assert_eq!((ask(to, "/health", Some("probe")).0, ask(to, "/ready", Some("probe")).0), (200, 200));
    daemon.stop();
}

#[test]
fn headers_that_never_end_are_cut_off() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(dir.path(), &config(dir.path(), "[http]\naddress = \"127.0.0.1:0\"\n"));
    let mut slow = TcpStream::connect(daemon.http.expect("HTTP")).expect("connected");
    let mut silent = slow.try_clone().expect("another handle");
    silent.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    let began = Instant::now();
    slow.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n").expect("sent");
    std::thread::spawn(move || {
        while slow.write_all(b"x: y\r\n").is_ok() {
            pause_ms(500);
        }
    });
    // The end, or a reset; an answer to a request that is not whole would be wrong.
    let end = silent.read(&mut [0; 64]);
    let reset = std::io::ErrorKind::ConnectionReset;
    assert!(matches!(&end, Ok(0)) || end.as_ref().is_err_and(|e| e.kind() == reset), "{end:?}");
    let took = began.elapsed();
    assert!((9..20).contains(&took.as_secs()), "{took:?}");
    assert_eq!(daemon.get("/health").0, 200);
    daemon.stop();
}

#[test]
fn a_host_is_a_name_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("c.toml");
    for (hosts, place) in [("[\"http://stats.example\"]", 10), ("[\"a\", \"stats.example:80\"]", 15)] {
        std::fs::write(&file, format!("[http]\nhosts = {hosts}\n")).expect("written");
        let output = systole(&["check", "-c", file.to_str().expect("plain")], b"");
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2));
        assert!(
            said.contains(&format!(":2:{place}: http.hosts[")) && said.contains("without scheme and port"),
            "{said}"
        );
    }
    std::fs::write(&file, "[http]\nhosts = [\"stats.example\"]\n").expect("written");
    let printed = text(&systole(&["check", "--print", "-c", file.to_str().expect("plain")], b"").stdout);
    assert!(printed.contains("hosts = [\"stats.example\"]"), "{printed}");
}
