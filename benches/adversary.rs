//! What hostile input costs, beside plain counter lines: no input may cost more than its length.
//!
//! ```sh
//! cargo bench --bench adversary -- [--only TEXT] [--random N] [--seed S]      # in memory
//! cargo bench --bench adversary -- --socket [--seconds 1] [--worst 30]        # the daemon's CPU, over loopback
//! ```
//! In memory, a shape is read into a shard, its signals go to a presence engine, and the interval is closed and summed
//! up, all on one thread. Its cost is divided by that of plain counter lines (1,000 series, known) with as many lines or
//! as many bytes, whichever is greater; a packed value counts as a line, a new series as four more. Both sizes of
//! datagrams that matter are measured: 1,400 bytes (a packet) and 64 KiB (loopback, unix sockets). The bar is 20.
//!
//! Over the socket, where a shape takes seconds, those that were worst in memory are looked at: the daemon's CPU seconds for each byte that it read are divided by those of plain counters in
//! datagrams of the same size; then the worst shape goes on at full rate while the daemon is asked to stop.
//! Ratios hold on a noisy machine, nanoseconds are for orientation. The exit status is 1 if a ratio is above the bar.

#[path = "../tests/it/support/grammar.rs"]
mod grammar;

use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use grammar::{Form, PLAIN, Random, Shape, State, datagram, random_shape, shapes};
use serde_json::Value;
use systole::internals::aggregate::{Columns, Quota, Shard, ShardOptions, TimeWindow, TimerPolicy};
use systole::internals::presence::policy::Policy;
use systole::internals::presence::{Engine, EngineTime};
use systole::internals::protocol::{Heartbeats, Options};
use systole::internals::rollup::{GaugeLife, Interval, Registry, RegistryOptions};
use systole::internals::snapshot::SummaryPolicy;

const SIZES: [usize; 2] = [1_400, 65_507];
const BAR: f64 = 20.0;
/// Bytes of a shape that one measurement reads, and how many measurements there are; the fastest counts.
const BYTES: usize = 1 << 20;
const ROUNDS: usize = 3;
/// A round that takes longer is not done again.
const LONG: Duration = Duration::from_millis(500);
/// What a new series may cost, in lines, beside its line.
const SERIES_LINES: u64 = 4;
const NOW: u64 = 1_700_000_000;
const INTERVAL: f64 = 10.0;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let option = |name: &str| args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1)).cloned();
    let is_short = args.iter().any(|arg| arg == "--test");
    let bytes = if is_short { 1 << 16 } else { BYTES };
    let only = option("--only").unwrap_or_default();
    let mut all: Vec<Shape> = shapes();
    let mut random = Random(option("--seed").map_or(1, |seed| seed.parse().expect("a number")));
    if let Some(count) = option("--random") {
        all = (0..count.parse().expect("a number")).map(|_| random_shape(&mut random)).collect();
    }
    all.retain(|shape| shape.name.contains(&only));
    assert!(!all.is_empty(), "no shape has `{only}` in its name");
    let plain = Shape { name: "plain counters".into(), form: Form::Metric(PLAIN) };
    let highest = if args.iter().any(|arg| arg == "--socket") {
        let seconds = option("--seconds").map_or(1.0, |seconds| seconds.parse().expect("seconds"));
        let worst = option("--worst").map_or(30, |count| count.parse().expect("a number"));
        over_socket(&all, &plain, seconds, worst)
    } else {
        in_memory(&all, &plain, bytes).into_iter().map(|(ratio, _)| ratio).fold(0.0, f64::max)
    };
    if highest > BAR && !is_short {
        println!("a ratio is above {BAR}");
        std::process::exit(1);
    }
}

/// What reading some bytes took and came to: CPU time of this thread, but for the slowest datagram.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    secs: f64,
    /// The slowest datagram, by the clock.
    slowest_secs: f64,
    closing_secs: f64,
    /// Lines, or values if there are more, and new series.
    lines: u64,
    bytes: u64,
}

/// The highest ratio of each shape.
fn in_memory<'a>(all: &'a [Shape], plain: &Shape, bytes: usize) -> Vec<(f64, &'a Shape)> {
    let mut highest: Vec<(f64, &Shape)> = all.iter().map(|shape| (0.0, shape)).collect();
    println!("| shape | datagram | ns a byte | ns a line | closing, ns a line | slowest datagram, ms | x plain |");
    println!("|---|---|---|---|---|---|---|");
    for size in SIZES {
        let base = measure(plain, size, bytes);
        let (line, byte) = (base.secs / base.lines as f64, base.secs / base.bytes as f64);
        for (known, shape) in &mut highest {
            let cost = measure(shape, size, bytes);
            let fair = (cost.lines as f64 * line).max(cost.bytes as f64 * byte);
            let ratio = cost.secs / fair;
            *known = known.max(ratio);
            println!(
                "| {} | {size} | {:.1} | {:.0} | {:.0} | {:.2} | {ratio:.1}{} |",
                shape.name,
                cost.secs * 1e9 / cost.bytes as f64,
                cost.secs * 1e9 / cost.lines as f64,
                cost.closing_secs * 1e9 / cost.lines as f64,
                cost.slowest_secs * 1e3,
                if ratio > BAR { " !" } else { "" },
            );
        }
    }
    if let Some((ratio, shape)) = highest.iter().max_by(|a, b| a.0.total_cmp(&b.0)) {
        println!("worst: {}, {ratio:.1} x plain counters (bar {BAR})", shape.name);
    }
    highest
}

fn measure(shape: &Shape, size: usize, bytes: usize) -> Cost {
    let mut best = Cost { secs: f64::INFINITY, ..Cost::default() };
    for _ in 0..ROUNDS {
        let began = Instant::now();
        let cost = read_all(shape, size, bytes);
        if cost.secs < best.secs {
            best = cost;
        }
        if began.elapsed() > LONG {
            break;
        }
    }
    best
}

/// Reads fresh datagrams of a shape, in two intervals: names that stay are known in the second.
fn read_all(shape: &Shape, size: usize, bytes: usize) -> Cost {
    let timers = TimerPolicy::default();
    let mut shard = Shard::new(ShardOptions {
        timers,
        fold_histograms: false,
        quota: Quota::new(1_000_000),
        seed: 1,
        rules: None,
        heartbeats: Some(Arc::new(Heartbeats::default())),
        times: TimeWindow { past_secs: 604_800.0, future_secs: 3_600.0, origin: Some(0.0) },
    });
    let mut registry = Registry::new(
        RegistryOptions {
            summary: Arc::new(SummaryPolicy { timers, percentiles: vec![50.0, 99.0], ..SummaryPolicy::default() }),
            gauge_life: GaugeLife::Secs(300.0),
            series_ttl_secs: [Some(600.0); 5],
            ..RegistryOptions::default()
        },
        1,
    );
    let mut engine = Engine::new(Policy::default(), EngineTime::default(), 1);
    let binary = matches!(shape.form, Form::Binary(_));
    let options = Options { binary, ..Options::default() };
    let (mut state, mut random) = (State::default(), Random(7));
    let mut cost = Cost::default();
    for interval in 1..=2u32 {
        let mut all = Vec::new();
        let mut made = 0;
        while made < bytes / 2 {
            let one = datagram(shape, &mut state, size, NOW, &mut random);
            assert!(!one.is_empty(), "{} writes nothing", shape.name);
            made += one.len();
            all.push(one);
        }
        let now = NOW as f64 + f64::from(interval) * INTERVAL;
        let began = cpu_secs();
        for datagram in &all {
            let start = Instant::now();
            shard.ingest(black_box(datagram), &options, None, now);
            shard.take_signals().for_each(|signal| engine.signal(&signal));
            cost.slowest_secs = cost.slowest_secs.max(start.elapsed().as_secs_f64());
            cost.bytes += datagram.len() as u64;
        }
        cost.secs += cpu_secs() - began;
        let began = cpu_secs();
        engine.tick(EngineTime::from_secs(f64::from(interval) * INTERVAL));
        engine.take_events();
        let retired = registry.retirements(0, now - INTERVAL);
        let mut partials = [shard.close(retired, Columns::default())];
        let tally = &partials[0].tally;
        let created: usize = partials[0].created.iter().map(Vec::len).sum();
        cost.lines += tally.lines.read.max(tally.samples.read) + SERIES_LINES * created as u64;
        let snapshot = registry.close(&mut partials, Interval::new(now, INTERVAL, now, Duration::from_secs(10)));
        black_box(snapshot.ledger.check()).expect("the ledger's equations hold");
        let took = cpu_secs() - began;
        cost.secs += took;
        cost.closing_secs += took;
    }
    cost
}

/// CPU seconds of this thread: other processes don't count.
#[allow(unsafe_code)]
fn cpu_secs() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes a `timespec` to a pointer to one.
    let outcome = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(outcome, 0, "Linux has this clock");
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

const SYSTOLE: &str = env!("CARGO_BIN_EXE_systole");
const PORT: u16 = 19_225;
const HTTP: u16 = 19_227;
const GRACE: Duration = Duration::from_secs(10);

/// A daemon, killed when it goes out of scope.
struct Daemon(Child);

impl Daemon {
    fn start() -> Daemon {
        let (listen, http) = (format!("udp://127.0.0.1:{PORT}"), format!("127.0.0.1:{HTTP}"));
        let state = std::env::temp_dir().join(format!("systole-adversary-{}", std::process::id()));
        let child = Command::new(SYSTOLE)
            .args(["run", "--listen", &listen, "--http", &http, "--interval", "500ms", "--sink", "file:///dev/null"])
            .env("XDG_STATE_HOME", state)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the daemon starts");
        let daemon = Daemon(child);
        let deadline = Instant::now() + Duration::from_secs(10);
        while daemon.status().is_none() {
            assert!(Instant::now() < deadline, "the daemon does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        daemon
    }

    fn status(&self) -> Option<Value> {
        let mut stream = TcpStream::connect(("127.0.0.1", HTTP)).ok()?;
        write!(stream, "GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        serde_json::from_str(&answer[answer.find("\r\n\r\n")? + 4..]).ok()
    }

    /// CPU seconds so far.
    fn cpu(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).expect("Linux");
        let fields: Vec<&str> = stat.rsplit(')').next().expect("a name").split_whitespace().collect();
        let ticks = |n: usize| fields[n].parse::<f64>().expect("a number");
        (ticks(11) + ticks(12)) / 100.0
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.0.id().to_string()]).status();
        assert!(status.is_ok_and(|status| status.success()), "kill");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn over_socket(all: &[Shape], plain: &Shape, seconds: f64, count: usize) -> f64 {
    let mut ranked = in_memory(all, plain, BYTES / 4);
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
    println!();
    println!("| shape | datagram | MB read | kernel drops | CPU ns a byte | x plain |");
    println!("|---|---|---|---|---|---|");
    let mut worst: (f64, Option<(&Shape, usize)>) = (0.0, None);
    for size in SIZES {
        let base = cpu_per_byte(plain, size, seconds).1;
        for (_, shape) in ranked.iter().take(count) {
            let (text, cost) = cpu_per_byte(shape, size, seconds);
            let ratio = cost / base;
            println!(
                "| {} | {size} | {text} | {:.2} | {ratio:.1}{} |",
                shape.name,
                cost * 1e9,
                if ratio > BAR { " !" } else { "" }
            );
            if ratio > worst.0 {
                worst = (ratio, Some((shape, size)));
            }
        }
        println!("| plain counters | {size} | | {:.2} | 1 |", base * 1e9);
    }
    if let (ratio, Some((shape, size))) = worst {
        println!("worst: {}, {size} bytes: {ratio:.1} x plain counters (bar {BAR})", shape.name);
        let took = stop_under(shape, size);
        println!("SIGTERM to exit under it: {:.2} s (grace {} s)", took.as_secs_f64(), GRACE.as_secs());
        assert!(took < GRACE + Duration::from_secs(1), "the daemon overstayed its grace");
    }
    worst.0
}

/// Datagrams of a shape, enough that a series which is new in each stays new for a while.
fn supply(shape: &Shape, size: usize) -> Vec<Vec<u8>> {
    let (mut state, mut random) = (State::default(), Random(11));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(NOW, |since| since.as_secs());
    (0..(32 << 20) / size).map(|_| datagram(shape, &mut state, size, now, &mut random)).collect()
}

fn cpu_per_byte(shape: &Shape, size: usize, seconds: f64) -> (String, f64) {
    let all = supply(shape, size);
    let daemon = Daemon::start();
    let sender = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    sender.connect(("127.0.0.1", PORT)).expect("an address");
    let read = |status: &Value| {
        let listener = &status["listeners"][0];
        (listener["bytes"].as_f64().unwrap_or(0.0), listener["kernel_drops"].as_u64().unwrap_or(0))
    };
    let before = daemon.cpu();
    let began = Instant::now();
    'sending: loop {
        for one in &all {
            if began.elapsed().as_secs_f64() > seconds {
                break 'sending;
            }
            // A refused or dropped datagram is the daemon's to count.
            let _ = sender.send(one);
        }
    }
    // What is still queued is read, summed up and in the status when two ticks have passed without a change.
    let mut last = (0.0, 0);
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        std::thread::sleep(Duration::from_millis(1100));
        let now = daemon.status().map_or((0.0, 0), |status| read(&status));
        if now == last && now.0 > 0.0 || Instant::now() > deadline {
            break;
        }
        last = now;
    }
    let cpu = daemon.cpu() - before;
    (format!("{:.1} | {}", last.0 / 1e6, last.1), cpu / last.0.max(1.0))
}

/// How long a stop takes while a shape goes on at full rate.
fn stop_under(shape: &Shape, size: usize) -> Duration {
    let all = supply(shape, size);
    let mut daemon = Daemon::start();
    let sender = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let began = Instant::now();
    let mut asked: Option<Instant> = None;
    for one in all.iter().cycle() {
        let _ = sender.send_to(one, ("127.0.0.1", PORT));
        match asked {
            None if began.elapsed() > Duration::from_secs(3) => {
                daemon.signal("-TERM");
                asked = Some(Instant::now());
            }
            Some(at) if daemon.0.try_wait().is_ok_and(|ended| ended.is_some()) => return at.elapsed(),
            Some(at) if at.elapsed() > GRACE * 3 => return at.elapsed(),
            _ => {}
        }
    }
    Duration::ZERO
}
