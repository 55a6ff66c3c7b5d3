//! The statsd sink through the front door: what an interval came to, as lines for another server, which must come to the same.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Daemon, poll};

fn start(dir: &Path, sink: &str) -> Daemon {
    let config = format!(
        "interval = \"100ms\"\nself_metrics = false\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\nworkers = 1\n\
         [[sink]]\ntype = \"statsd\"\n{sink}\n[http]\naddress = \"127.0.0.1:0\"\n[presence]\nenabled = false\n"
    );
    Daemon::start(dir, &config)
}

fn receiver() -> (UdpSocket, String) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
    let address = socket.local_addr().expect("bound").to_string();
    (socket, address)
}

/// Datagrams, until `done` of them all or the patience is over.
fn datagrams(socket: &UdpSocket, done: impl Fn(&[String]) -> bool) -> Vec<String> {
    let (mut all, mut buffer) = (Vec::new(), [0; 65_536]);
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done(&all) {
        assert!(Instant::now() < deadline, "never: {all:?}");
        if let Ok(count) = socket.recv(&mut buffer) {
            all.push(String::from_utf8_lossy(&buffer[..count]).into_owned());
        }
    }
    all
}

fn dropped(status: &Value) -> &Value {
    &status["sinks"]["statsd"]["dropped"]
}

#[test]
fn a_negative_gauge_is_set_by_way_of_zero_in_one_datagram() {
    for (options, tagged) in
        [("", "t:-1.5|g|#k:v"), ("dialect = \"etsy\"", "t;k=v:-1.5|g"), ("gauge_sign = \"absolute\"", "t:-1.5|g|#k:v")]
    {
        let dir = tempfile::tempdir().expect("a folder");
        let (socket, address) = receiver();
        let daemon = start(dir.path(), &format!("address = \"{address}\"\nmax_datagram = 512\n{options}"));
        let names: Vec<String> =
            (0..300).map(|n| format!("some.name.{}", "x".repeat(n % 41) + &n.to_string())).collect();
        let lines: Vec<String> = names.iter().map(|name| format!("{name}:-5|g")).collect();
        for some in lines.chunks(20) {
            daemon.send_udp(&[some.join("\n").as_bytes()]);
        }
        daemon.send_udp(&[b"t:-1.5|g|#k:v\nzero:7|g\nzero:-7|g\nup:3|g"]);
        let found = datagrams(&socket, |all| {
            lines.iter().all(|line| all.iter().any(|one| one.lines().any(|known| known == line)))
        });
        let plain = options.contains("absolute");
        for (name, line) in names.iter().zip(&lines) {
            for one in &found {
                let all: Vec<&str> = one.lines().collect();
                let zero = format!("{name}:0|g");
                for (at, _) in all.iter().enumerate().filter(|(_, known)| *known == line) {
                    assert_eq!(at > 0 && all[at - 1] == zero, !plain, "{options}\n{one}");
                }
            }
        }
        assert!(found.iter().all(|one| one.len() <= 512));
        let text = found.join("\n");
        let has = |line: &str| text.lines().any(|known| known == line);
        assert!(has(tagged) && has("zero:0|g") && has("up:3|g"), "{options}\n{text}");
        assert_eq!(text.contains("|#"), !options.contains("etsy"), "{text}");
        daemon.stop();
    }
}

#[test]
fn gauges_of_a_chain_of_two_are_equal_after_ten_intervals() {
    for dialect in ["dogstatsd", "etsy"] {
        let (first, second) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let (_nobody, nowhere) = receiver();
        let behind = start(second.path(), &format!("address = \"{nowhere}\""));
        let to = behind.udp.expect("it listens");
        let daemon = start(first.path(), &format!("address = \"{to}\"\ndialect = \"{dialect}\""));
        let gauges = |daemon: &Daemon| -> BTreeMap<String, f64> {
            let all: Value = serde_json::from_str(&daemon.get("/api/v1/snapshot").1).expect("JSON");
            let all = all.as_array().expect("records").iter().filter(|record| record["type"] == "gauge");
            all.map(|r| (format!("{}{}", r["name"], r["tags"]), r["value"].as_f64().expect("a number"))).collect()
        };
        let wait = |expected: &BTreeMap<String, f64>| {
            poll(dialect, || {
                let found = gauges(&behind);
                if found == *expected { Ok(()) } else { Err(found) }
            });
        };
        let table = |rows: [(&str, f64); 5]| rows.map(|(name, value)| (name.to_string(), value)).into();
        daemon.send_udp(&[b"a:-5|g\nb:3|g\nc:0.25|g\nd:-7|g|#k:v w,bare\nd:7|g"]);
        daemon.send_udp(&[b"c:-1|g"]);
        let before = table([
            ("\"a\"{}", -5.0),
            ("\"b\"{}", 3.0),
            ("\"c\"{}", -0.75),
            ("\"d\"{\"bare\":null,\"k\":\"v w\"}", -7.0),
            ("\"d\"{}", 7.0),
        ]);
        // In the name a tag has always a value.
        let told = |table: BTreeMap<String, f64>| -> BTreeMap<String, f64> {
            let bare = |key: String| if dialect == "etsy" { key.replace("null", "\"true\"") } else { key };
            table.into_iter().map(|(key, value)| (bare(key), value)).collect()
        };
        wait(&told(before));
        // Through zero, up and down, and then for ten intervals the same.
        daemon.send_udp(&[b"a:+8|g\nb:-3.5|g\nc:-1|g\nd:+9|g|#k:v w,bare\nd:0|g\nd:-2|g"]);
        let after = told(table([
            ("\"a\"{}", 3.0),
            ("\"b\"{}", -0.5),
            ("\"c\"{}", -1.75),
            ("\"d\"{\"bare\":null,\"k\":\"v w\"}", 2.0),
            ("\"d\"{}", -2.0),
        ]));
        wait(&after);
        let delivered = |status: &Value| status["sinks"]["statsd"]["delivered"].as_u64().expect("a number");
        let now = delivered(&daemon.status());
        daemon.status_when("ten intervals later", |status| delivered(status) >= now + 50);
        wait(&after);
        behind.next_flush();
        assert_eq!(gauges(&behind), after, "{dialect}");
        assert_eq!(*dropped(&daemon.status()), serde_json::json!({}));
        daemon.stop();
        behind.stop();
    }
}

#[test]
fn a_gauge_that_cannot_be_told_with_its_time_is_counted() {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs() - 60;
    for (options, count) in [("", 1), ("gauge_sign = \"absolute\"", 0), ("dialect = \"etsy\"", 2)] {
        let dir = tempfile::tempdir().expect("a folder");
        let (_socket, address) = receiver();
        let mut config = format!("address = \"{address}\"\n{options}");
        config.push_str("\n[protocol]\ngauge_sign = \"absolute\"");
        let daemon = start(dir.path(), &config);
        daemon.send_udp(&[format!("late:-5|g|T{now}\nlate:5|g|T{}", now - 1).as_bytes()]);
        let status = daemon.status_when("told", |status| {
            let sink = &status["sinks"]["statsd"];
            sink["offered"] == 2 && sink["queued"] == 0
        });
        assert_eq!(dropped(&status)["unsupported"].as_u64().unwrap_or(0), count, "{options}: {status}");
        daemon.stop();
    }
}
