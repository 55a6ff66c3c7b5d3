//! A sink that accepts and never reads holds up nobody: the others tick on time, memory stays bounded, what
//! it could not take is counted.

use std::io::Write;
use std::net::{TcpListener, TcpStream};

use crate::support::receiver::{Reply, serve};
use crate::support::{Daemon, alone, least_of_three, pause_ms, records, size};

#[test]
fn a_sink_that_never_reads_delays_and_costs_nobody_else() {
    let _alone = alone();
    let intervals = size("SYSTOLE_TEST_SLOW_INTERVALS", 40);
    let worst = least_of_three(0.1, || beside_a_hung_sink(intervals));
    assert!(worst <= 0.1, "a tick was {worst} s late");
}

#[test]
fn a_receiver_that_takes_everything_too_slowly_is_logged() {
    let dir = tempfile::tempdir().expect("a folder");
    let address = serve("127.0.0.1:0".parse().expect("an address"), |_| {
        pause_ms(500);
        Reply::Says(204, "")
    });
    let mut daemon = Daemon::start(
        dir.path(),
        &format!(
            "interval = \"100ms\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\n[http]\naddress = \"127.0.0.1:0\"\n\
             [[sink]]\ntype = \"influx\"\nname = \"slow\"\nurl = \"http://{address}\"\ndatabase = \"d\"\nqueue = 1\n"
        ),
    );
    daemon.wait_for("what it drops", |lines| {
        lines.iter().any(|line| line.contains("takes intervals more slowly than they come") && line.contains("slow"))
    });
    assert_eq!(daemon.status()["sinks"]["slow"]["last_error"], serde_json::Value::Null);
    daemon.stop();
}

/// How late the worst of so many ticks is, in seconds.
fn beside_a_hung_sink(intervals: u64) -> f64 {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("records.jsonl");
    let hung = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = hung.local_addr().expect("an address");
    // Connections are taken and kept, and never read.
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        while let Ok((stream, _)) = hung.accept() {
            kept.push(stream);
        }
    });
    let config = format!(
        "interval = \"200ms\"\nshutdown_grace = \"1s\"\n[[listen]]\nurl = \"tcp://127.0.0.1:0\"\n[http]\naddress = \"127.0.0.1:0\"\n\
         [[sink]]\ntype = \"graphite\"\nname = \"hung\"\naddress = \"{address}\"\nqueue = 2\ntimeout = \"300ms\"\n\
         [[sink]]\ntype = \"file\"\npath = \"{}\"\ninclude = [\"*.1\"]\nqueue = 1000\n",
        file.display()
    );
    let daemon = Daemon::start(dir.path(), &config);
    let mut stream = TcpStream::connect(daemon.tcp.expect("TCP")).expect("connected");
    let mut lines = String::new();
    for n in 0..6_000 {
        lines.push_str(&format!("a.rather.long.name.of.a.gauge.so.that.the.buffers.of.both.sides.fill.up.soon.and.nothing.more.fits.{n}:{n}|g\n"));
    }
    stream.write_all(lines.as_bytes()).expect("sent");
    let settle = intervals / 2;
    // It is hung for so long.
    pause_ms(200 * settle);
    let early = daemon.rss_kib();
    pause_ms(200 * (intervals - settle));
    let late = daemon.rss_kib();
    let status =
        daemon.status_when("an error of the hung sink", |status| !status["sinks"]["hung"]["last_error"].is_null());
    let sink = &status["sinks"]["hung"];
    assert!(sink["dropped"]["queue_full"].as_u64().is_some_and(|n| n > 0), "{sink}");
    assert!(sink["last_error"].as_str().is_some_and(|error| error.contains("accepts but does not read")), "{sink}");
    // It has a queue for a machine that is busy, and works that off while the other one hangs.
    let status = daemon.status_when("a file that is written", |status| {
        let file = &status["sinks"]["file"];
        file["queued"] == 0 && file["delivered"].as_u64().is_some_and(|n| n > 0)
    });
    assert_eq!(status["sinks"]["file"]["dropped"], serde_json::json!({}), "{status}");
    assert!(late < early + early / 4 + 8192, "memory grew from {early} to {late} KiB");
    daemon.stop();

    let ledgers: Vec<_> = records(&file).into_iter().filter(|r| r["type"] == "ledger").collect();
    let worst = ledgers.iter().filter_map(|l| l["flush"]["late_secs"].as_f64()).fold(0.0, f64::max);
    println!("{} ticks, the worst {:.1} ms late; memory {early} to {late} KiB", ledgers.len(), worst * 1e3);
    // A tick that is left out is later than any.
    if ledgers.len() as u64 >= intervals * 8 / 10 { worst } else { f64::INFINITY }
}
