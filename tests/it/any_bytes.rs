//! Any bytes are survived, and none of them cost more than their length: what switched workers off, or held them up, is
//! counted, and what comes after it is recorded.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use serde_json::Value;
use systole::internals::protocol::Reason;
use systole::internals::telemetry::Ledger;

use crate::support::{self, Daemon, records, systole, text, until};

/// A daemon with every kind of listener that writes its records to a file at the end.
fn start(dir: &Path, more: &str) -> Daemon {
    let interval = if more.contains("interval") { "" } else { "interval = \"1day\"" };
    let config = format!(
        "{interval}\n{more}\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\nworkers = 1\n\
         [[listen]]\nurl = \"tcp://127.0.0.1:0\"\n[[listen]]\nurl = \"unixgram://{0}/d\"\n\
         [[sink]]\ntype = \"file\"\npath = \"{0}/records.jsonl\"\n\
         [http]\naddress = \"127.0.0.1:0\"\n[presence]\nstate_file = \"off\"\n[management]\naddress = \"127.0.0.1:0\"\n",
        dir.display()
    );
    Daemon::start(dir, &config)
}

/// Stops it; its records, and the ledger, whose equations must hold.
fn finish(daemon: Daemon, dir: &Path) -> (Vec<Value>, Ledger) {
    daemon.stop();
    let all = records(&dir.join("records.jsonl"));
    let ledger = all.iter().find(|r| r["type"] == "ledger").expect("the account");
    let ledger: Ledger = serde_json::from_value(ledger.clone()).expect("a ledger");
    assert_eq!(ledger.check(), Ok(()));
    (all, ledger)
}

fn record<'a>(all: &'a [Value], name: &str) -> &'a Value {
    all.iter().find(|r| r["name"] == name).unwrap_or_else(|| panic!("no {name}: {all:?}"))
}

/// Lines under 64 KiB, each of which does harm somewhere: tags, names and values of bytes that are no text, or of a text
/// that grows when it is made one.
fn poison() -> Vec<Vec<u8>> {
    let heads: [&[u8]; 9] = [
        b"_sc|n|0|#k:",
        b"_sc|n|0|h:",
        b"_e{1,1}:a|b|#k:",
        b"_e{1,1}:a|b|s:",
        b"p:1|c|#k:",
        b"p:",
        b"p:1|g|@0.5|#",
        b"p,k=",
        b"heartbeat.p:10|g|#service:",
    ];
    let units: [&[u8]; 4] = [b"\xff", "\u{e9}".as_bytes(), b"\xf0\x9f\x92", "\u{1f4a9},".as_bytes()];
    let mut all = Vec::new();
    for head in heads {
        for unit in units {
            for length in [16_384, 65_400] {
                let body: Vec<u8> = unit.iter().copied().cycle().take(length - head.len()).collect();
                all.push([head, &body].concat());
            }
        }
    }
    all
}

#[test]
fn tags_of_any_bytes_switch_no_worker_off() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = start(dir.path(), "self_metrics = false");
    let seen = [b"_sc|n|0|#k:".to_vec(), vec![0xff; 21_845]].concat();
    let mut stream = TcpStream::connect(daemon.tcp.expect("TCP")).expect("connected");
    let unix = UnixDatagram::unbound().expect("a socket");
    let mut lines = 0;
    for line in std::iter::once(seen).chain(poison()) {
        // The sender of a unix datagram waits until there is room; UDP's buffer has room for all of these.
        daemon.send_udp(&[&line]);
        unix.send_to(&line, dir.path().join("d")).expect("sent");
        stream.write_all(&[line.as_slice(), b"\n"].concat()).expect("sent");
        lines += 3;
    }
    daemon.send_udp(&[b"after:1|c"]);
    unix.send_to(b"after:2|c", dir.path().join("d")).expect("sent");
    stream.write_all(b"after:4|c\n").expect("sent");
    drop(stream);
    let (all, ledger) = finish(daemon, dir.path());
    assert_eq!(record(&all, "after")["value"], 7.0);
    assert_eq!((ledger.lines.read, ledger.completeness), (lines + 3, 1.0));
    assert!(ledger.lines.malformed.of(Reason::TooLong) >= 3 * 8, "{:?}", ledger.lines);
}

#[test]
fn explain_and_replay_survive_what_the_daemon_survives() {
    let dir = tempfile::tempdir().expect("a folder");
    let hex = |line: &[u8]| line.iter().map(|b| format!("{b:02x}")).collect::<String>();
    // Every third of them has each beginning, each text and each length.
    let lines: Vec<Vec<u8>> = poison().into_iter().step_by(3).collect();
    let rows: Vec<u8> = lines.iter().flat_map(|line| [line.as_slice(), b"\n"].concat()).collect();
    let hex_rows: String = lines.iter().map(|line| hex(line) + "\n").collect();
    for (args, input) in [
        (&["explain"][..], rows.as_slice()),
        (&["explain", "--json"], &rows),
        (&["explain", "--hex"], hex_rows.as_bytes()),
        (&["explain", "--hex", "--json"], hex_rows.as_bytes()),
    ] {
        let output = systole(args, input);
        let expected = if args.contains(&"--json") { 0 } else { 1 };
        assert_eq!(output.status.code(), Some(expected), "{args:?}: {}", text(&output.stderr));
        if expected == 0 {
            assert_eq!(output.stdout.iter().filter(|&&b| b == b'\n').count(), lines.len());
        }
    }
    let capture = dir.path().join("c.jsonl");
    let rows: String = lines.iter().map(|line| format!("{{\"t\":0,\"hex\":\"{}\"}}\n", hex(line))).collect();
    std::fs::write(&capture, rows + "{\"t\":1,\"data\":\"after:1|c\"}\n").expect("written");
    let capture = capture.to_str().expect("a plain path");
    for format in ["json", "graphite", "prometheus", "influx", "statsd"] {
        let output = systole(&["replay", "--as", format, capture], b"");
        assert_eq!(output.status.code(), Some(0), "{format}: {}", text(&output.stderr));
        assert!(text(&output.stdout).contains("after"), "{format}");
    }
    // A row that is no text is told, like any other mistake.
    let broken = dir.path().join("b.jsonl");
    std::fs::write(&broken, b"{\"t\":0,\"data\":\"\xff\"}\n").expect("written");
    let output = systole(&["replay", broken.to_str().expect("a plain path")], b"");
    assert_eq!((output.status.code(), text(&output.stderr).contains(":1: not UTF-8")), (Some(1), true));
}

#[cfg(unix)]
#[test]
fn explain_takes_arguments_of_any_bytes() {
    use std::os::unix::ffi::OsStrExt;
    let line = std::ffi::OsStr::from_bytes(b"a:\xff|s|#\xff:\xfe");
    let output = support::command(&["explain", "--json"]).arg(line).output().expect("it runs");
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&told["metrics"][0]["values"][0], output.status.code()), (&"\u{fffd}".into(), Some(0)));
}

#[test]
fn explain_lists_no_more_than_can_be_read() {
    // Each value has the tags of all: a gigabyte of them.
    let tags: String = (0..256).map(|n| format!(",k{n}={}", "v".repeat(56))).collect();
    let line = format!("a{tags}{}|g", ":1".repeat(24_000));
    let output = systole(&["explain", "--json"], line.as_bytes());
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let listed = told["metrics"].as_array().expect("metrics").len() as u64;
    assert!(listed > 100 && listed + told["more"].as_u64().expect("more") == 24_000, "{listed}");
}

#[test]
fn a_negative_zero_is_zero() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = start(dir.path(), "self_metrics = false\n[protocol]\ngauge_sign = \"absolute\"");
    daemon.send_udp(&[b"z.g:-0|g\nz.c:-0.0|c\nz.t:-0:-1e-400|ms\nz.h:-0|h\nz.kv:-0|kv"]);
    let (all, ledger) = finish(daemon, dir.path());
    assert_eq!((ledger.lines.metrics, ledger.malformed_total()), (5, 0));
    for name in ["z.g", "z.c", "z.t", "z.h", "z.kv"] {
        assert!(!record(&all, name).to_string().contains("-0"), "{}", record(&all, name));
    }
}

#[test]
fn a_line_of_many_values_costs_what_its_length_costs() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = start(dir.path(), "self_metrics = false\nshutdown_grace = \"5s\"");
    // Sorted once a value, these took five seconds a datagram of an optimized build.
    let tags: String = (0..2000).map(|n| format!(",{:04x}=v", n * 40_503 % 65_536)).collect();
    let (mut values, mut kinds) = (0, [0; 3]);
    for round in 0..6 {
        let mut line = format!("a{round}{tags}:1|c");
        values += 1;
        kinds[0] += 1;
        while line.len() < 65_000 {
            let at = values % 3;
            line.push_str([":1|c", ":1|g", ":1|ms"][at]);
            values += 1;
            kinds[at] += 1;
        }
        daemon.send_udp(&[line.as_bytes()]);
    }
    let (all, ledger) = finish(daemon, dir.path());
    assert_eq!((ledger.lines.metrics, ledger.samples.recorded), (6, values as u64));
    let counted: f64 = all.iter().filter(|r| r["type"] == "counter").filter_map(|r| r["value"].as_f64()).sum();
    let timed: u64 = all.iter().filter(|r| r["type"] == "timer").filter_map(|r| r["samples"].as_u64()).sum();
    assert_eq!((counted, timed), (kinds[0] as f64, kinds[2]));
    assert_eq!(record(&all, "a0")["tags"].as_object().expect("tags").len(), 256);
    // What is cut is counted where a key is built: twice for the first kind of a line, once for each other.
    assert_eq!(ledger.lines.tags_cut % (2000 - 256), 0);
}

#[test]
fn samples_with_tags_of_their_own_under_many_tags_of_the_name_are_bounded_by_the_length_of_the_line() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = start(dir.path(), "self_metrics = false");
    // What anybody sends is far below the bound.
    daemon.send_udp(&[b"few,host=a,region=b,service=c:1|c|#x:1|@1:2|c|#x:2|@1:3|c|#x:3"]);
    let tags: String = (0..250).map(|n| format!(",key-{n:04}={}", "v".repeat(50))).collect();
    let samples: String = (0..3000).map(|n| format!(":1|c|#{n:04}|@1")).collect();
    daemon.send_udp(&[format!("many{tags}{samples}").as_bytes(), b"after:1|c"]);
    let (all, ledger) = finish(daemon, dir.path());
    let of = |name: &str| all.iter().filter(|r| r["name"] == name).count();
    assert_eq!((of("few"), of("after"), ledger.lines.malformed.of(Reason::TooLong)), (3, 1, 1));
    assert!((20..300).contains(&of("many")), "{}", of("many"));
    assert_eq!(ledger.samples.read, (of("many") + of("few") + 1) as u64);
}

#[test]
fn tags_beyond_max_tags_are_cut_and_counted_whatever_carries_them() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = start(dir.path(), "max_tags = 3");
    // The second time their bytes are known.
    let tags = "#a:1,b:2,c:3,d:4,e:5";
    for _ in 0..2 {
        daemon.send_udp(&[format!("m:1|c|{tags}\n_e{{1,1}}:x|y|{tags}\n_sc|n|0|{tags}\nfew:1|c|#a,b,c").as_bytes()]);
    }
    let (all, ledger) = finish(daemon, dir.path());
    assert_eq!(ledger.lines.tags_cut, 12);
    assert_eq!(record(&all, "systole.lines.tags_cut")["value"], 12.0);
    assert_eq!(record(&all, "m")["value"], 2.0);
    for kind in ["counter", "event", "service_check"] {
        let tagged = all.iter().find(|r| r["type"] == kind && r["tags"]["a"] == "1").expect("it is there");
        assert_eq!(tagged["tags"], serde_json::json!({"a": "1", "b": "2", "c": "3"}), "{kind}");
    }
}

#[test]
fn a_line_is_at_most_one_heartbeat() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = start(dir.path(), "self_metrics = false");
    let packed = format!("heartbeat.packed:{}20|g", "10|g:".repeat(12_000));
    daemon.send_udp(&[
        packed.as_bytes(),
        b"heartbeat.gone:10|g",
        b"heartbeat.gone:10|g:0|g",
        b"heartbeat.back:0|g:30|g",
    ]);
    let presence = |name: &str| -> Value {
        let (_, body) = daemon.get(&format!("/api/v1/presence/{name}"));
        serde_json::from_str(&body).unwrap_or(Value::Null)
    };
    until("`back` is up", || presence("back")["state"] == "up");
    assert_eq!(presence("packed")["instances"][0]["interval_s"], 20.0, "{}", presence("packed"));
    assert_eq!(presence("gone")["instances"][0]["state"], "left", "{}", presence("gone"));
    let (_, ledger) = finish(daemon, dir.path());
    assert_eq!((ledger.lines.read, ledger.lines.heartbeats, ledger.samples.read), (4, 4, 0));
}

#[test]
fn one_line_deletes_many_series() {
    let dir = tempfile::tempdir().expect("a folder");
    let daemon = start(dir.path(), "interval = \"200ms\"\nself_metrics = false");
    let line = daemon.lines.iter().find_map(|line| line.trim().strip_prefix("manage")).expect("it says where");
    let port = line.trim().strip_prefix("tcp://").expect("an address");
    for n in 0..50 {
        let lines: String = (0..1000).map(|m| format!("s.{n}.{m}:1|c\n")).collect();
        daemon.send_udp(&[lines.as_bytes()]);
    }
    daemon.flushed_when("all is read", |s| s["series"]["counters"] == 50_000);
    let names: String = (0..6000).map(|n| format!(" s.{}.{n}", n % 50)).collect();
    let mut stream = TcpStream::connect(port).expect("connected");
    stream.write_all(format!("delcounters{names} s.7.* nobody s.7.1\n").as_bytes()).expect("sent");
    let mut heard = String::new();
    let mut chunk = [0; 65_536];
    while !heard.ends_with("END\n\n") {
        let count = stream.read(&mut chunk).expect("an answer");
        assert!(count > 0, "{heard}");
        heard.push_str(&text(&chunk[..count]));
    }
    let count = |what: &str| heard.lines().filter(|line| line.starts_with(what)).count();
    // A thousand of the names are there by themselves, twenty of them in the folder.
    assert_eq!(count("deleted: "), 1000 + 1000 - 20);
    assert_eq!(count("metric "), 6000 - 1000 + 2);
    assert!(heard.ends_with("metric nobody not found\nmetric s.7.1 not found\nEND\n\n"));
    daemon.flushed_when("they are gone", |s| s["series"]["counters"] == 50_000 - 1980);
    daemon.stop();
}
