//! `systole replay`: same input, same bytes; time as the capture has it; faults as its control rows say.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::{Random, close_to, systole, text};

fn replay(dir: &Path, rows: &[Value], args: &[&str]) -> String {
    let file = dir.join("capture.jsonl");
    let body: String = rows.iter().map(|row| format!("{row}\n")).collect();
    std::fs::write(&file, body).expect("written");
    let mut all = vec!["replay", file.to_str().expect("plain")];
    all.extend(args);
    let output = systole(&all, b"");
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

fn records(out: &str) -> Vec<Value> {
    out.lines().map(|line| serde_json::from_str(line).expect("a record")).collect()
}

/// Forty seconds of everything, from eight senders; each gauge belongs to one of them.
fn everything() -> Vec<Value> {
    let mut random = Random(5);
    let mut rows = vec![json!({"format": "systole-capture/1", "started": 1_700_000_000})];
    for n in 0..6000 {
        let sender = random.below(8);
        let name = random.below(40);
        let data = match random.below(7) {
            0 => format!("c{name}:{}|c|@0.5", random.below(100)),
            1 => format!("g{sender}.{name}:{}|g", random.below(100)),
            2 => format!("g{sender}.{name}:+{}|g", random.below(100)),
            3 => format!("t{name}:{}|ms|#k:{}", random.below(1000), random.below(3)),
            4 => format!("s{name}:m{}|s\nh{name}:-{}|h", random.below(50), random.below(9)),
            5 => format!("broken{name}:x|c\nok:1|c"),
            _ => format!("_e{{2,1}}:e{}|x", random.below(10)),
        };
        rows.push(
            json!({"t": f64::from(n) / 150.0, "data": data, "from": format!("10.0.0.{sender}:4000"), "via": "udp"}),
        );
    }
    rows
}

#[test]
fn malformed_lines_are_told_beside_what_is_printed() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("capture.jsonl");
    let rows = [
        json!({"t": 0, "data": "a:1|c"}),
        json!({"t": 1, "data": "a:1|c\nb:x|c"}),
        json!({"t": 2, "data": "c:1|q\nd:x|c"}),
    ];
    std::fs::write(&file, rows.map(|row| format!("{row}\n")).concat()).expect("written");
    let file = file.to_str().expect("plain");
    let output = systole(&["replay", file, "--only", "counter"], b"");
    assert!(output.status.success());
    assert_eq!(records(&text(&output.stdout)).len(), 1);
    let said = text(&output.stderr);
    let right = format!("malformed lines: 3 (unknown_type=1 bad_value=2), the first at {file}:2");
    assert!(said.contains(&right) && said.lines().count() == 1, "{said}");
}

#[test]
fn the_same_capture_gives_the_same_bytes() {
    let dir = tempfile::tempdir().expect("a folder");
    let rows = everything();
    for args in [vec![], vec!["--as", "graphite"], vec!["--workers", "4"], vec!["--only", "ledger,counter"]] {
        let once = replay(dir.path(), &rows, &args);
        assert!(once.lines().count() > 4);
        assert_eq!(replay(dir.path(), &rows, &args), once, "{args:?}");
    }
}

#[test]
fn four_workers_say_what_one_says() {
    let dir = tempfile::tempdir().expect("a folder");
    let rows = everything();
    let by_key = |out: String| -> BTreeMap<String, Vec<Value>> {
        let mut all: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for record in records(&out) {
            let key = format!("{} {} {} {}", record["time"], record["type"], record["name"], record["tags"]);
            all.entry(key).or_default().push(record);
        }
        all
    };
    let one = by_key(replay(dir.path(), &rows, &["--workers", "1"]));
    let four = by_key(replay(dir.path(), &rows, &["--workers", "4"]));
    assert_eq!(one.keys().collect::<Vec<_>>(), four.keys().collect::<Vec<_>>());
    for (key, expected) in &one {
        if key.contains("event") {
            assert_eq!(expected.len(), four[key].len(), "{key}");
            continue;
        }
        for (a, b) in expected.iter().zip(&four[key]) {
            for (field, value) in a.as_object().expect("an object") {
                let same = match (value.as_f64(), b[field].as_f64()) {
                    (Some(x), Some(y)) => close_to(x, y) || (x - y).abs() < 1e-12,
                    _ => value == &b[field],
                };
                assert!(same, "{key} {field}: {value} and {}", b[field]);
            }
        }
    }
}

#[test]
fn intervals_end_at_multiples_and_a_row_on_the_edge_belongs_to_the_next() {
    let dir = tempfile::tempdir().expect("a folder");
    let rows = [
        json!({"t": 0, "data": "a:1|c"}),
        json!({"t": 9.999, "data": "a:2|c"}),
        json!({"t": 10, "data": "a:4|c"}),
        json!({"t": 25, "data": "g:7|g"}),
    ];
    let told = |args: &[&str]| -> Vec<(f64, f64)> {
        records(&replay(dir.path(), &rows, args))
            .iter()
            .map(|r| (r["time"].as_f64().expect("t"), r["value"].as_f64().expect("v")))
            .collect()
    };
    assert_eq!(told(&[]), [(10.0, 3.0), (20.0, 4.0), (30.0, 7.0)]);
    assert_eq!(told(&["--until", "25"]), [(10.0, 3.0), (20.0, 4.0)]);
    assert_eq!(told(&["--until", "40"]), [(10.0, 3.0), (20.0, 4.0), (30.0, 7.0), (40.0, 7.0)]);
    assert_eq!(told(&["--interval", "5s", "--only", "counter"]), [(5.0, 1.0), (10.0, 2.0), (15.0, 4.0)]);
    let graphite = replay(dir.path(), &rows, &["--as", "graphite", "--only", "counter"]);
    assert_eq!(graphite, "a.count 3 10\na.rate 0.3 10\na.count 4 20\na.rate 0.4 20\n");
    assert_eq!(replay(dir.path(), &[], &[]), "");
}

#[test]
fn an_end_row_closes_the_open_interval_and_nothing_follows_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let rows = [json!({"t": 1, "data": "a:1|c"}), json!({"t": 12, "ctl": "end"}), json!({"t": 13, "data": "late:1|c"})];
    let out = records(&replay(dir.path(), &rows, &["--only", "ledger"]));
    let lines: Vec<_> = out.iter().map(|r| (r["time"].as_f64(), r["lines"]["read"].as_u64())).collect();
    assert_eq!(lines, [(Some(10.0), Some(1)), (Some(20.0), Some(0))]);
}

#[test]
fn faults_of_a_trace_reach_the_aggregator() {
    let dir = tempfile::tempdir().expect("a folder");
    let told = |rows: &[Value]| -> Vec<(f64, f64, f64)> {
        let number = |r: &Value, field: &str| r[field].as_f64().expect("a number");
        records(&replay(dir.path(), rows, &["--only", "counter"]))
            .iter()
            .map(|r| (number(r, "time"), number(r, "interval"), number(r, "value")))
            .collect()
    };
    let line = |t: f64| json!({"t": t, "in": "a:1|c", "n": 2});
    // A crash loses the open interval, a clean stop closes it with its true length.
    let crash = json!({"t": 14, "ctl": "restart", "down": 8, "crash": true});
    let clean = json!({"t": 14, "ctl": "restart", "down": 8, "crash": false});
    assert_eq!(told(&[line(1.0), line(13.0), crash, line(20.0), line(25.0)]), [(10.0, 10.0, 2.0), (30.0, 8.0, 2.0)]);
    assert_eq!(
        told(&[line(1.0), line(13.0), clean, line(20.0), line(25.0)]),
        [(10.0, 10.0, 2.0), (14.0, 4.0, 2.0), (30.0, 8.0, 2.0)]
    );
    // After standing still one late tick closes one long interval, with what waited.
    let stall = json!({"t": 5, "ctl": "stall", "dur": 28});
    assert_eq!(told(&[line(1.0), stall, line(12.0), line(22.0), line(35.0)]), [(30.0, 30.0, 6.0), (40.0, 10.0, 2.0)]);
    let drops = json!({"t": 2, "ctl": "drops", "dropped": 3, "received": 1});
    let ledger = records(&replay(dir.path(), &[line(1.0), drops], &["--only", "ledger"]));
    assert_eq!(
        (&ledger[0]["listeners"][0]["kernel_drops"], ledger[0]["completeness"].as_f64()),
        (&json!(3), Some(0.4))
    );
}

#[test]
fn a_broken_capture_fails_with_file_and_line() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("c.jsonl");
    std::fs::write(&file, "{\"t\":0,\"data\":\"a:1|c\"}\n{\"t\":0}\n").expect("written");
    let output = systole(&["replay", file.to_str().expect("plain")], b"");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("c.jsonl:2: `data` or `hex` is missing"), "{}", text(&output.stderr));
    assert_eq!(systole(&["replay", "/no/such/file"], b"").status.code(), Some(1));
    assert_eq!(systole(&["replay", file.to_str().expect("plain"), "--only", "countr"], b"").status.code(), Some(2));
}

#[test]
fn as_lines_for_another_server_an_interval_comes_to_the_same_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let data = "c:3|c|@0.5|#k:v w,bare\ng:-2|g\nt:10:20|ms|@0.25\nh:1.5|h\ns:a|s\ns:b|s\nc:1|c|#k:v w,bare\n\
                _e{5,5}:ti|le|te\\nt|#a:b\n_sc|disk|1|m:full";
    let rows = [json!({"t": 0, "data": data})];
    let lines = replay(dir.path(), &rows, &["--as", "statsd"]);
    for expected in ["c:7|c|#bare,k:v w", "g:0|g", "g:-2|g", "t:10|ms|@0.25", "t:20|ms|@0.25", "h:1.5|h"] {
        assert!(lines.lines().any(|line| line == expected), "{expected}\n{lines}");
    }
    assert_eq!(lines.lines().filter(|line| line.starts_with("s:") && line.ends_with("|s")).count(), 2);
    assert!(
        lines.contains("_e{5,5}:ti|le|te\\nt|d:") && lines.contains("_sc|disk|1|d:") && lines.contains("|m:full"),
        "{lines}"
    );
    // Read again, they are the same interval, whatever a sign says to the reader.
    let again = [json!({"t": 0, "data": lines.trim_end()})];
    for sign in ["absolute", "delta"] {
        let config = dir.path().join("sign.toml");
        std::fs::write(&config, format!("[protocol]\ngauge_sign = \"{sign}\"\n")).expect("written");
        let values = |rows: &[Value]| {
            let args = ["--only", "counter,gauge,timer,histogram,set", "-c", config.to_str().expect("a plain path")];
            records(&replay(dir.path(), rows, &args))
        };
        assert_eq!(values(&again), values(&rows));
    }
}

#[test]
fn replay_and_explain_read_the_section_presence() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("systole.toml");
    let config = "[presence]\nnames = [\"alive\"]\nmisses = 1\ngrace = \"1s\"\n[[presence.service]]\nmatch = \"pay\"\nkey = \"k\"\n";
    std::fs::write(&file, config).expect("written");
    let file = file.to_str().expect("plain");
    let rows = [
        json!({"format": "systole-capture/1"}),
        json!({"t": 0.5, "data": "alive.web:2|g\nheartbeat.db:2|g\nalive.pay:2|g\nalive.pay.b:2|g|#key:k"}),
        json!({"t": 100, "data": "x:1|c"}),
    ];
    let told = |args: &[&str]| -> Vec<(String, f64)> {
        let all = records(&replay(dir.path(), &rows, args));
        let downs = all.iter().filter(|r| r["type"] == "presence" && r["kind"] == "service" && r["to"] == "down");
        downs
            .map(|r| (r["service"].as_str().expect("a name").to_string(), r["time"].as_f64().expect("a time")))
            .collect()
    };
    // A promise of 2 s: one miss and a grace of 1 s, instead of four and a grace of 1 s.
    let downs = told(&["-c", file, "--only", "presence"]);
    assert_eq!(downs.iter().map(|(name, _)| &**name).collect::<Vec<_>>(), ["web", "pay"]);
    assert!(downs.iter().all(|(_, at)| (3.5..=3.75).contains(at)), "{downs:?}");
    let downs = told(&["--only", "presence"]);
    assert_eq!(downs.iter().map(|(name, _)| &**name).collect::<Vec<_>>(), ["db"]);
    assert!((9.5..=9.75).contains(&downs[0].1), "{downs:?}");
    let off = dir.path().join("off.toml");
    // Without presence nothing is expected either.
    let expect = "[[presence.expect]]\nservice = \"never\"\nwithin = \"1s\"\n";
    let expecting = dir.path().join("expecting.toml");
    std::fs::write(&expecting, expect).expect("written");
    let downs = told(&["-c", expecting.to_str().expect("plain"), "--only", "presence"]);
    assert!(downs.iter().any(|(name, _)| name == "never"), "{downs:?}");
    std::fs::write(&off, format!("[presence]\nenabled = false\n{expect}")).expect("written");
    assert_eq!(told(&["-c", off.to_str().expect("plain"), "--only", "presence"]), []);

    let explained = |args: &[&str]| {
        let output = systole(&[&["explain", "--json"], args, &["alive.web:2|g"]].concat(), b"");
        serde_json::from_slice::<Value>(&output.stdout).expect("JSON")["heartbeats"].clone()
    };
    assert_eq!(explained(&["-c", file])[0]["service"], "web");
    assert_eq!(explained(&[]), json!([]));
    assert_eq!(explained(&["-c", off.to_str().expect("plain")]), json!([]));
    let output = systole(&["explain", "-c", file, "alive.web:2|g"], b"");
    assert!(text(&output.stdout).contains("heartbeat    web/-: the next within 2 s"), "{}", text(&output.stdout));
}
