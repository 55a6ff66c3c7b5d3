//! More names than may be held, and names that come and go: memory stays, totals stay right.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use prost::Message;

use crate::support::otlp::Export;
use crate::support::receiver::{self, Reply::Says};
use crate::support::{Daemon, Random, alone, poll, records, size};

// The history keeps names that are gone, within its share: it has tests of its own.
fn config(more: &str, file: &std::path::Path) -> String {
    format!(
        "{more}\nself_metrics = false\n[[listen]]\nurl = \"tcp://127.0.0.1:0\"\n[[sink]]\ntype = \"file\"\npath = \"{}\"\n[http]\naddress = \"127.0.0.1:0\"\n\
         [history]\nenabled = false\n",
        file.display()
    )
}

/// Memory in KiB once everything that was sent has been read: when it stays the same for half a second.
fn memory_at_rest(daemon: &Daemon) -> u64 {
    let (mut last, mut since) = (0, Instant::now());
    poll("memory at rest", || {
        let now = daemon.rss_kib();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        if since.elapsed() >= Duration::from_millis(500) { Ok(last) } else { Err(last) }
    })
}

#[test]
fn a_flood_of_names_folds_into_the_overflow_series_and_established_series_stay_exact() {
    let _alone = alone();
    let names = size("SYSTOLE_TEST_NAMES", 200_000);
    let max_series = names / 50;
    let established = 200;
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("records.jsonl");
    // Half of the grace is for reading what is still in the kernel, however busy the machine is.
    let more = format!("interval = \"1day\"\nshutdown_grace = \"2m\"\nmax_series = {max_series}");
    let daemon = Daemon::start(dir.path(), &config(&more, &file));
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
        daemon.closed((interval + 1) * alive);
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

/// prometheus.WriteRequest, as far as samples go.
#[derive(Clone, PartialEq, Message)]
struct WriteRequest {
    #[prost(message, repeated, tag = "1")]
    series: Vec<Points>,
}

#[derive(Clone, PartialEq, Message)]
struct Points {
    #[prost(message, repeated, tag = "2")]
    points: Vec<Point>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Point {
    #[prost(double, tag = "1")]
    value: f64,
}

#[test]
fn sinks_that_remember_series_hold_no_more_than_the_daemon() {
    let dir = tempfile::tempdir().expect("a folder");
    let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    // The most series of a request, and every name ever told.
    let (most, names): (Arc<Mutex<usize>>, Arc<Mutex<BTreeSet<String>>>) = Default::default();
    let (seen_most, seen_names) = (Arc::clone(&most), Arc::clone(&names));
    let written = receiver::serve(any, move |request| {
        let body = snap::raw::Decoder::new().decompress_vec(&request.body).expect("snappy");
        let series = WriteRequest::decode(&body[..]).expect("the message").series;
        let living = series.iter().filter(|one| one.points.iter().all(|point| !point.value.is_nan())).count();
        let mut most = seen_most.lock().expect("no panic");
        *most = living.max(*most);
        Says(204, "")
    });
    let exported = receiver::serve(any, move |request| {
        let export = Export::decode(&request.body[..]).expect("the message");
        seen_names.lock().expect("no panic").extend(export.metrics().map(|metric| metric.name));
        Says(200, "")
    });
    let config = format!(
        "interval = \"100ms\"\nmax_series = 50\nseries_ttl = \"10ms\"\nself_metrics = false\n[[listen]]\n\
         url = \"udp://127.0.0.1:0\"\nworkers = 1\n[[sink]]\ntype = \"remote_write\"\nurl = \"http://{written}\"\n\
         [[sink]]\ntype = \"otlp\"\nurl = \"http://{exported}\"\ntemporality = \"cumulative\"\n\
         [http]\naddress = \"127.0.0.1:0\"\n[presence]\nenabled = false\n"
    );
    let daemon = Daemon::start(dir.path(), &config);
    let mut round = 0;
    poll("both leave some out", || {
        let status = daemon.status();
        let left_out = |sink: &str| status["sinks"][sink]["dropped"]["max_series"].as_u64().unwrap_or(0);
        if left_out("remote_write") > 0 && left_out("otlp") > 0 {
            return Ok(());
        }
        let lines: Vec<String> = (0..20).map(|n| format!("made.up.{round}.{n}:1|c")).collect();
        daemon.send_udp(&[lines.join("\n").as_bytes()]);
        round += 1;
        Err(status.to_string())
    });
    daemon.stop();
    // One may be the overflow series, which is the daemon's own.
    let (most, names) = (*most.lock().expect("no panic"), names.lock().expect("no panic").len());
    assert!((20..=51).contains(&most) && (20..=51).contains(&names), "{most} written, {names} exported");
}
