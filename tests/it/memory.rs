//! What a million counters, a hundred thousand timers and one busy timer cost, through the front door: the highest
//! resident memory of the whole daemon over several intervals, Graphite and HTTP included.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use crate::support::{Daemon, alone, size};

/// A Graphite server that reads whatever comes.
fn drain() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut buffer = vec![0; 1 << 16];
                while stream.read(&mut buffer).is_ok_and(|count| count > 0) {}
            });
        }
    });
    address
}

/// Sends the same lines in each of several intervals; what the daemon held before, and the most that it ever held, in MiB.
fn idle_and_peak_mib(lines: &str, intervals: usize) -> (f64, f64) {
    let dir = tempfile::tempdir().expect("a folder");
    let config = format!(
        "interval = \"2s\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\n[[listen]]\nurl = \"tcp://127.0.0.1:0\"\n\
         [http]\naddress = \"127.0.0.1:0\"\n[[sink]]\ntype = \"graphite\"\naddress = \"{}\"\n",
        drain()
    );
    let daemon = Daemon::start(dir.path(), &config);
    let idle = daemon.peak_kib() as f64 / 1024.0;
    let mut stream = TcpStream::connect(daemon.tcp.expect("TCP")).expect("connected");
    let expected = lines.lines().count() as u64;
    for n in 1..=intervals as u64 {
        stream.write_all(lines.as_bytes()).expect("sent");
        // All of it is in an interval that was closed before the next begins.
        daemon.closed(expected * n);
    }
    let peak = daemon.peak_kib() as f64 / 1024.0;
    drop(stream);
    daemon.stop();
    (idle, peak)
}

/// What is touched for the first time, code included, beside the series: a debug build's code is large.
const FIRST_TOUCHED_MIB: f64 = if cfg!(debug_assertions) { 9.0 } else { 6.0 };

/// The bound of the whole daemon is that of a release build, whose own code is small; any build is held to what the
/// series take.
fn check(what: &str, idle: f64, peak: f64, series_mib: f64, whole_mib: f64, is_full_size: bool) {
    println!("{what}: {idle:.1} MiB before, {peak:.1} MiB at most");
    assert!(peak - idle <= series_mib, "{:.1} MiB more than before, not {series_mib:.1}", peak - idle);
    assert!(!is_full_size || cfg!(debug_assertions) || peak <= whole_mib, "{peak:.1} MiB, not {whole_mib}");
}

#[test]
fn a_hundred_thousand_timers_of_ten_samples_take_no_more_than_48_mib() {
    let _alone = alone();
    let count = size("SYSTOLE_TEST_TIMERS", 20_000);
    let text: String = (0..count * 10)
        .map(|n| format!("app.web.latency.endpoint_{:06}:{}.{}|ms\n", n % count, n * 7 % 1000, n % 10))
        .collect();
    let (idle, peak) = idle_and_peak_mib(&text, 5);
    check(
        &format!("{count} timers of 10 samples"),
        idle,
        peak,
        FIRST_TOUCHED_MIB + 38.0 * count as f64 / 1e5,
        48.0,
        count == 100_000,
    );
}

#[test]
fn a_million_counters_take_no_more_than_200_mib() {
    let _alone = alone();
    let count = size("SYSTOLE_TEST_COUNTERS", 100_000);
    let text: String = (0..count).map(|n| format!("app.web.requests.endpoint_{n:06}:1|c\n")).collect();
    let (idle, peak) = idle_and_peak_mib(&text, 4);
    check(
        &format!("{count} counters"),
        idle,
        peak,
        FIRST_TOUCHED_MIB + 188.0 * count as f64 / 1e6,
        200.0,
        count == 1_000_000,
    );
}

#[test]
fn an_idle_daemon_takes_no_more_than_12_mib_and_a_busy_timer_no_more_than_a_histogram() {
    let _alone = alone();
    let text: String = (0..300_000_u64).map(|n| format!("busy:{}|ms\n", n * 7919 % 100_000)).collect();
    let (idle, peak) = idle_and_peak_mib(&text, 2);
    // A debug build's code, which counts when it runs for the first time, is a megabyte more.
    let at_most = if cfg!(debug_assertions) { 4.0 } else { 3.0 };
    check("a timer of 300,000 samples", idle, peak, at_most, 12.0, true);
}
