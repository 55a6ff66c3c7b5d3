//! More names than may be held, and names that come and go: memory stays, totals stay right.

mod support;

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use support::{Daemon, Random, records, size};

fn config(more: &str, file: &std::path::Path) -> String {
    format!(
        "{more}\nself_metrics = false\n[[listen]]\nurl = \"tcp://127.0.0.1:0\"\n[[sink]]\ntype = \"file\"\npath = \"{}\"\n[http]\naddress = \"127.0.0.1:0\"\n",
        file.display()
    )
}

/// Memory in KiB once everything that was sent has been read: when it stays the same for half a second.
fn memory_at_rest(daemon: &Daemon) -> u64 {
    let mut last = 0;
    for _ in 0..40 {
        std::thread::sleep(Duration::from_millis(500));
        let now = daemon.rss_kib();
        if now == last {
            break;
        }
        last = now;
    }
    last
}

#[test]
fn a_flood_of_names_folds_into_the_overflow_series_and_established_series_stay_exact() {
    let names = size("SYSTOLE_TEST_NAMES", 200_000);
    let max_series = names / 50;
    let established = 200;
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("records.jsonl");
    let daemon = Daemon::start(dir.path(), &config(&format!("interval = \"1h\"\nmax_series = {max_series}"), &file));
    let mut stream = TcpStream::connect(daemon.tcp.expect("TCP")).expect("connected");
    for n in 0..established {
        writeln!(stream, "known.{n}:1|c").expect("sent");
    }
    let mut random = Random(12);
    let (mut early, mut total, mut timed) = (0, 0_u64, 0_u64);
    let mut batch = String::new();
    for n in 0..names {
        let value = random.below(10);
        // One in ten is a timer, so that more than one kind overflows.
        if n % 10 == 0 {
            timed += 1;
            batch.push_str(&format!("random.{:016x}:{value}|ms\n", random.next()));
        } else {
            total += value;
            batch.push_str(&format!("random.{:016x}:{value}|c\n", random.next()));
        }
        if n % 100 == 0 {
            batch.push_str(&format!("known.{}:1|c\n", n / 100 % established));
        }
        if batch.len() > 60_000 {
            stream.write_all(batch.as_bytes()).expect("sent");
            batch.clear();
        }
        if n == names / 4 {
            early = memory_at_rest(&daemon);
        }
    }
    stream.write_all(batch.as_bytes()).expect("sent");
    drop(stream);
    let late = memory_at_rest(&daemon);
    println!("{names} names, {max_series} series: memory {early} KiB after a quarter, {late} KiB at the end");
    assert!(late <= early + early / 20 + 4096, "memory grew from {early} to {late} KiB");
    daemon.stop();

    let records = records(&file);
    let sum = |prefix: &str, field: &str, kind: &str| -> u64 {
        let all =
            records.iter().filter(|r| r["type"] == kind && r["name"].as_str().is_some_and(|n| n.starts_with(prefix)));
        all.filter_map(|r| r[field].as_f64()).sum::<f64>() as u64
    };
    let overflow = sum("systole.overflow", "value", "counter");
    assert_eq!(sum("random.", "value", "counter") + overflow, total);
    assert_eq!(sum("random.", "samples", "timer") + sum("systole.overflow", "samples", "timer"), timed);
    assert!(overflow > total / 2);
    for n in 0..established {
        let known = records.iter().find(|r| r["name"] == format!("known.{n}")).expect("an established series");
        let updates = (0..names).filter(|i| i % 100 == 0 && i / 100 % established == n).count();
        assert_eq!(known["value"].as_f64(), Some(1.0 + updates as f64));
    }
    let ledger = records.iter().find(|r| r["type"] == "ledger").expect("the account");
    let samples = &ledger["samples"];
    let parts = samples["recorded"].as_u64().zip(samples["folded"].as_u64()).map(|(a, b)| a + b);
    assert_eq!(samples["read"].as_u64(), parts);
    assert!(records.len() as u64 <= max_series + 10);
}

#[test]
fn names_that_come_and_go_neither_overflow_nor_pile_up() {
    let intervals = size("SYSTOLE_TEST_CHURN_INTERVALS", 40);
    let alive = size("SYSTOLE_TEST_CHURN_NAMES", 2_000);
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("records.jsonl");
    // Room for what the time to live keeps, and not for much more.
    let more =
        format!("interval = \"100ms\"\nseries_ttl = \"500ms\"\ngauge_ttl = \"300ms\"\nmax_series = {}", alive * 3);
    let daemon = Daemon::start(dir.path(), &config(&more, &file));
    let mut stream = TcpStream::connect(daemon.tcp.expect("TCP")).expect("connected");
    let mut early = 0;
    for interval in 0..intervals {
        let mut batch = String::new();
        for n in 0..alive {
            // Each interval a tenth of the names is new.
            let name = n + interval * alive / 10;
            let kind = ["c", "g", "ms", "s"][(name % 4) as usize];
            batch.push_str(&format!("churn.{name}:1|{kind}\n"));
        }
        stream.write_all(batch.as_bytes()).expect("sent");
        std::thread::sleep(Duration::from_millis(100));
        if interval == intervals / 3 {
            early = daemon.rss_kib();
        }
    }
    let late = daemon.rss_kib();
    let status = daemon.status();
    println!(
        "{intervals} intervals of {alive} names: memory {early} KiB after a third, {late} KiB at the end; {}",
        status["series"]
    );
    assert_eq!(status["samples"]["folded"], 0, "{status}");
    assert!(late <= early + early / 10 + 2048, "memory grew from {early} to {late} KiB");
    let held: u64 =
        ["counters", "gauges", "timers", "sets"].iter().filter_map(|kind| status["series"][kind].as_u64()).sum();
    assert!(held >= alive && held <= alive * 3, "{held} series are held");
    daemon.stop();
}
