//! What a million counters, a hundred thousand timers and one busy timer cost, through the front door: how much
//! the highest resident memory of the whole daemon grows over several intervals, Graphite and HTTP included, and
//! the history left out, which has a test of its own.

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
         [http]\naddress = \"127.0.0.1:0\"\n[[sink]]\ntype = \"graphite\"\naddress = \"{}\"\n\
         [history]\nenabled = false\n",
        drain()
    );
    let daemon = Daemon::start(dir.path(), &config);
    let mut stream = TcpStream::connect(daemon.tcp.expect("TCP")).expect("connected");
    // One line, so that what every line touches for the first time is not taken for what the others take: the sketches of
    // senders, a closed interval and a request.
    stream.write_all(b"first:1|ms\n").expect("sent");
    daemon.closed(1);
    let idle = daemon.peak_kib() as f64 / 1024.0;
    let expected = lines.lines().count() as u64;
    for n in 1..=intervals as u64 {
        stream.write_all(lines.as_bytes()).expect("sent");
        // All of it is in an interval that was closed before the next begins.
        daemon.closed(1 + expected * n);
    }
    let peak = daemon.peak_kib() as f64 / 1024.0;
    drop(stream);
    daemon.stop();
    (idle, peak)
}

/// What is touched for the first time beside the series, code included. A debug build's code is large, and so slow beside
/// other tests that lines of one interval may end in two.
const FIRST_TOUCHED_MIB: f64 = if cfg!(debug_assertions) { 12.0 } else { 6.0 };

/// Holds what the daemon grew by over its idle size, not that size: it is mostly code, which is shared and can be evicted.
fn check(what: &str, idle: f64, peak: f64, growth_mib: f64) {
    println!("{what}: {:.1} MiB more than the {idle:.1} MiB of the idle daemon", peak - idle);
    assert!(peak - idle <= growth_mib, "{:.1} MiB more than idle, not {growth_mib:.1}", peak - idle);
}

#[test]
fn a_hundred_thousand_timers_of_ten_samples_take_no_more_than_44_mib() {
    let _alone = alone();
    let count = size("SYSTOLE_TEST_TIMERS", 20_000);
    let text: String = (0..count * 10)
        .map(|n| format!("app.web.latency.endpoint_{:06}:{}.{}|ms\n", n % count, n * 7 % 1000, n % 10))
        .collect();
    let (idle, peak) = idle_and_peak_mib(&text, 5);
    let growth = FIRST_TOUCHED_MIB + 38.0 * count as f64 / 1e5;
    check(&format!("{count} timers of 10 samples"), idle, peak, growth);
}

#[test]
fn a_million_counters_take_no_more_than_190_mib() {
    let _alone = alone();
    let count = size("SYSTOLE_TEST_COUNTERS", 100_000);
    let text: String = (0..count).map(|n| format!("app.web.requests.endpoint_{n:06}:1|c\n")).collect();
    let (idle, peak) = idle_and_peak_mib(&text, 4);
    let growth = FIRST_TOUCHED_MIB + 184.0 * count as f64 / 1e6;
    check(&format!("{count} counters"), idle, peak, growth);
}

#[test]
fn a_busy_timer_takes_no_more_than_a_histogram() {
    let _alone = alone();
    let text: String = (0..300_000_u64).map(|n| format!("busy:{}|ms\n", n * 7919 % 100_000)).collect();
    let (idle, peak) = idle_and_peak_mib(&text, 2);
    // With what is touched for the first time: the sketches of senders, which are a megabyte, and code, which is four more in a
    // debug build.
    let at_most = if cfg!(debug_assertions) { 8.0 } else { 4.0 };
    check("a timer of 300,000 samples", idle, peak, at_most);
}
