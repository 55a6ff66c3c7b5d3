//! Receiving over loopback, beside receivers that do less: a *discarding* one (batched reads that touch nothing), a
//! *counting* one (reads and counts newlines), and any peer whose command is given.
//!
//! ```sh
//! cargo bench --bench udp -- [--seconds 10] [--pairs 5] [--only V1,V2] [--peer 'CMD …{port}…']
//! cargo bench --bench udp -- --only flush        # a million series: what closing an interval costs
//! cargo bench --bench udp -- --only overload     # offered three times what is taken: is the account exact?
//! ```
//! The receiver is pinned to core 0, the generator (`systole load`) to core 1. For each workload the highest lossless
//! rate of each receiver is searched (loss of at most 0.1 %); then both get the same load, interleaved, and the
//! medians of the pairs are told. Read the ratios: they hold on a noisy machine.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};
use systole::internals::sys::{
    BATCH_DATAGRAMS, Batch, receive_coalesced, set_receive_buffer, socket_memory, wait_readable,
};

const SYSTOLE: &str = env!("CARGO_BIN_EXE_systole");
const PORT: u16 = 19_125;
const HTTP: u16 = 19_127;
const LOSSLESS: f64 = 0.001;
/// Seconds of one step of the search for the highest lossless rate, and steps.
const SEARCH_SECS: f64 = 4.0;
const SEARCH_STEPS: usize = 6;
/// Seconds between flushes.
const INTERVAL: u64 = 4;
/// Processes that keep the receiver's core busy under overload.
const BUSY: usize = 12;
/// Receivers of this ending get the stock receive buffer of the kernel: 104 KiB, of which it makes 208.
const SMALL: &str = ", small buffer";
/// And of this one runs before every ordinary process.
const REALTIME: &str = ", realtime";

struct Workload {
    name: &'static str,
    says: &'static str,
    load: &'static [&'static str],
    /// What is compared, the first being the measure.
    receivers: &'static [&'static str],
}

const MIXED: &[&str] = &["--profile", "mixed", "--series", "10000", "--lines-per-packet", "20"];

const WORKLOADS: [Workload; 6] = [
    Workload {
        name: "V1",
        says: "1 line a packet, counters, 1,000 series",
        load: &["--lines-per-packet", "1"],
        receivers: &["discard", "systole"],
    },
    Workload {
        name: "V2",
        says: "20 lines a packet, counters, 1,000 series",
        load: &["--lines-per-packet", "20"],
        receivers: &["count", "systole"],
    },
    Workload {
        name: "V3",
        says: "1 line a packet, mixed, 10,000 series",
        load: &["--profile", "mixed", "--series", "10000", "--lines-per-packet", "1"],
        receivers: &["discard", "systole"],
    },
    Workload {
        name: "V4",
        says: "20 lines a packet, mixed, 10,000 series",
        load: MIXED,
        receivers: &["count", "systole"],
    },
    Workload {
        name: "V5",
        says: "20 lines a packet, counters, segmented by the sender (UDP_SEGMENT)",
        load: &["--lines-per-packet", "20", "--gso"],
        receivers: &["count", "systole"],
    },
    Workload {
        name: "V9",
        says: "as V4, with a receive buffer of 208 KiB",
        load: MIXED,
        receivers: &["systole", "systole, small buffer", "systole, realtime, small buffer", "count, small buffer"],
    },
];

/// What one run showed.
#[derive(Clone, Copy, Debug, Default)]
struct Run {
    lines_per_second: f64,
    loss: f64,
    cpu_per_million_lines: f64,
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if args.first().is_some_and(|arg| arg == "--busy") {
        // Until it is killed, or the bench is.
        let ended = when_standard_input_ends();
        while !ended.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
        return;
    }
    if args.first().is_some_and(|arg| arg == "--receiver") {
        receiver(args[1] == "count", args[2].parse().expect("bytes"));
        return;
    }
    let option = |name: &str| args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1)).cloned();
    if args.iter().any(|arg| arg == "--test") {
        // Under `cargo test --benches` there is nothing to measure.
        return;
    }
    let seconds = option("--seconds").map_or(10.0, |s| s.parse().expect("seconds"));
    let pairs = option("--pairs").map_or(5, |n| n.parse().expect("a number"));
    let only = option("--only");
    let peer = option("--peer");
    let drain = drain();
    match only.as_deref() {
        Some("flush") => return flush(drain),
        Some("overload") => return overload(drain, pairs, seconds),
        _ => {}
    }
    println!(
        "| workload | receiver | highest lossless, M lines/s | at the same load: loss | CPU s per M lines | ratio of rates | ratio of CPU |"
    );
    println!("|---|---|---|---|---|---|---|");
    for workload in WORKLOADS.iter().filter(|w| only.as_ref().is_none_or(|only| only.split(',').any(|o| o == w.name))) {
        let mut names: Vec<String> = workload.receivers.iter().map(|name| name.to_string()).collect();
        names.extend(peer.iter().map(|_| "peer".to_string()));
        let start = |name: &str| start(name, drain, peer.as_deref());
        let best: Vec<f64> = names.iter().map(|name| search(&start, name, workload)).collect();
        let common = best.iter().copied().fold(f64::INFINITY, f64::min) * 0.95;
        let mut runs: Vec<Vec<Run>> = vec![Vec::new(); names.len()];
        for _ in 0..pairs {
            for (name, runs) in names.iter().zip(&mut runs) {
                runs.push(measure(&start, name, workload, seconds, Some(common)));
            }
        }
        let median = |runs: &[Run], field: fn(&Run) -> f64| {
            let mut all: Vec<f64> = runs.iter().map(field).collect();
            all.sort_by(f64::total_cmp);
            all[all.len() / 2]
        };
        let cpu: Vec<f64> = runs.iter().map(|runs| median(runs, |r| r.cpu_per_million_lines)).collect();
        for (n, name) in names.iter().enumerate() {
            // Pairs that ran after one another are compared, then the median is taken.
            let ratio_cpu = {
                let mut all: Vec<f64> = runs[n]
                    .iter()
                    .zip(&runs[0])
                    .map(|(a, b)| a.cpu_per_million_lines / b.cpu_per_million_lines)
                    .collect();
                all.sort_by(f64::total_cmp);
                all[all.len() / 2]
            };
            println!(
                "| {} | {name} | {:.3} | {:.3} % | {:.4} | {:.2} | {:.2} |",
                workload.name,
                best[n] / 1e6,
                median(&runs[n], |r| r.loss) * 100.0,
                cpu[n],
                best[n] / best[0],
                ratio_cpu,
            );
        }
        println!("| | *{}* | | | | | |", workload.says);
    }
}

/// The highest rate, in lines a second, with a loss of at most 0.1 %.
fn search(start: &impl Fn(&str) -> Child, name: &str, workload: &Workload) -> f64 {
    // The generator's own speed differs from run to run.
    let free: Vec<Run> = (0..3).map(|_| measure(start, name, workload, SEARCH_SECS, None)).collect();
    let best = |runs: &mut dyn Iterator<Item = &Run>| runs.map(|run| run.lines_per_second).fold(0.0, f64::max);
    if free.iter().all(|run| run.loss <= LOSSLESS) {
        return best(&mut free.iter());
    }
    let low = best(&mut free.iter().filter(|run| run.loss <= LOSSLESS));
    let (mut low, mut high) = (low, best(&mut free.iter()));
    for _ in 0..SEARCH_STEPS {
        let rate = 0.5 * (low + high);
        if measure(start, name, workload, SEARCH_SECS, Some(rate)).loss <= LOSSLESS {
            low = rate;
        } else {
            high = rate;
        }
    }
    low
}

fn measure(start: &impl Fn(&str) -> Child, name: &str, workload: &Workload, seconds: f64, rate: Option<f64>) -> Run {
    let mut child = start(name);
    let before = cpu_secs(child.id());
    let sent = load(workload.load, seconds, rate);
    std::thread::sleep(Duration::from_millis(500));
    let cpu = cpu_secs(child.id()) - before;
    let number = |key: &str| sent[key].as_f64().expect("a number");
    let lost = if name.starts_with("systole") { ledger_loss() } else { kernel_drops() as f64 / number("packets") };
    stop(&mut child);
    let taken = number("lines") * (1.0 - lost);
    Run { lines_per_second: number("lines_per_second"), loss: lost, cpu_per_million_lines: cpu / (taken / 1e6) }
}

/// Runs the generator on core 1; what it says it sent.
fn load(args: &[&str], seconds: f64, rate: Option<f64>) -> Value {
    let mut load = Command::new("taskset");
    load.args(["-c", "1", SYSTOLE, "load", "--to", &format!("udp://127.0.0.1:{PORT}")]);
    load.args(["--for", &format!("{}ms", seconds * 1e3)]).args(args);
    if let Some(rate) = rate {
        load.args(["--rate", &format!("{}", rate as u64)]);
    }
    let output = load.stderr(Stdio::inherit()).output().expect("systole load runs");
    serde_json::from_slice(&output.stdout).expect("a report")
}

fn start(name: &str, drain: u16, peer: Option<&str>) -> Child {
    let mut command = Command::new("taskset");
    command.args(["-c", "0"]);
    let (kind, small) = name.strip_suffix(SMALL).map_or((name, false), |kind| (kind, true));
    let (kind, realtime) = kind.strip_suffix(REALTIME).map_or((kind, false), |kind| (kind, true));
    match kind {
        "systole" => {
            let file = std::env::temp_dir().join(format!("systole-bench-{}.toml", std::process::id()));
            let buffer = if small { "receive_buffer = \"104KiB\"\nreceive_buffer_force = false\n" } else { "" };
            let config = format!(
                "interval = \"{INTERVAL}s\"\nmax_series = 2000000\n\
                 [[listen]]\nurl = \"udp://127.0.0.1:{PORT}\"\nrealtime = {realtime}\n{buffer}[http]\naddress = \"127.0.0.1:{HTTP}\"\n\
                 [[sink]]\ntype = \"graphite\"\naddress = \"127.0.0.1:{drain}\"\n"
            );
            std::fs::write(&file, config).expect("a configuration");
            command.args([SYSTOLE, "run", "-c"]).arg(file);
        }
        "peer" => {
            let line = peer.expect("a peer's command").replace("{port}", &PORT.to_string());
            command.args(["sh", "-c", &format!("exec {line}")]);
        }
        kind => {
            let own = std::env::current_exe().expect("this program");
            let bytes = if small { 104 << 10 } else { 16 << 20 };
            command.arg(own).args(["--receiver", kind, &bytes.to_string()]);
        }
    }
    let log = std::fs::File::create(std::env::temp_dir().join("systole-bench.log")).expect("a log");
    let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log).spawn().expect("a receiver starts");
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is_bound() {
        assert!(Instant::now() < deadline, "{name} does not listen on port {PORT}");
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(200));
    child
}

/// A million series at half the rate that one line a packet can have: what a flush costs, and whether it is felt.
fn flush(drain: u16) {
    const SERIES: &str = "1000000";
    let args = ["--series", SERIES, "--lines-per-packet", "1"];
    let mut child = start("systole", drain, None);
    let free = load(&["--lines-per-packet", "1"], 4.0, None)["lines_per_second"].as_f64().expect("a number");
    // Every series once, so that what follows is steady.
    load(&args, 8.0, Some(free / 2.0));
    std::thread::sleep(Duration::from_secs(INTERVAL));
    let before = (beside_receiving_secs(child.id()), status());
    let watched = std::thread::spawn(|| {
        let (mut late, mut took) = (0.0_f64, 0.0_f64);
        let ends = Instant::now() + Duration::from_secs(6 * INTERVAL);
        while Instant::now() < ends {
            let flush = &status()["flush"];
            late = late.max(flush["late_secs"].as_f64().expect("a number"));
            took = took.max(flush["duration_secs"].as_f64().expect("a number"));
            std::thread::sleep(Duration::from_millis(250));
        }
        (late, took)
    });
    let sent = load(&args, (5 * INTERVAL) as f64, Some(free / 2.0));
    let (late, took) = watched.join().expect("watched");
    let after = (beside_receiving_secs(child.id()), status());
    let grown = |pointer: &str| {
        let read = |status: &Value| status.pointer(pointer).and_then(Value::as_f64).expect("a number");
        read(&after.1) - read(&before.1)
    };
    let records = grown("/sinks/graphite/delivered");
    println!(
        "{SERIES} series, {} lines/s: {} datagrams lost; at most {late:.3} s late, {took:.3} s from tick to snapshot; \
         {:.2} s of CPU a million records beside receiving (close, write to Graphite, HTTP)",
        sent["lines_per_second"],
        grown("/listeners/0/kernel_drops"),
        (after.0 - before.0) / (records / 1e6),
    );
    stop(&mut child);
}

/// The daemon shares its core with busy processes until it takes a third of what is offered: datagrams sent are
/// datagrams read and dropped, lines read are lines recorded, to the last one.
fn overload(drain: u16, runs: usize, seconds: f64) {
    println!(
        "| lines a packet | sent | read | dropped | sent − read − dropped | lines read − recorded | offered : taken |"
    );
    println!("|---|---|---|---|---|---|---|");
    for lines in ["1", "20"] {
        for _ in 0..runs {
            let mut child = start("systole", drain, None);
            let mut busy: Vec<Child> = (0..BUSY)
                .map(|_| {
                    let own = std::env::current_exe().expect("this program");
                    Command::new("taskset").args(["-c", "0"]).arg(own).arg("--busy").stdin(Stdio::piped()).spawn()
                })
                .collect::<Result<_, _>>()
                .expect("busy processes start");
            let sent = load(&["--lines-per-packet", lines], seconds, None)["packets"].as_u64().expect("a number");
            for process in &mut busy {
                drop(process.stdin.take());
                let _ = process.kill();
                let _ = process.wait();
            }
            std::thread::sleep(Duration::from_millis(INTERVAL * 1000 + 500));
            let status = status();
            let number = |pointer: &str| status.pointer(pointer).and_then(Value::as_u64).expect("a number");
            let (read, dropped) = (number("/listeners/0/datagrams"), number("/listeners/0/kernel_drops"));
            println!(
                "| {lines} | {sent} | {read} | {dropped} | {} | {} | {:.1} |",
                sent as i64 - read as i64 - dropped as i64,
                number("/lines/read") as i64 - number("/samples/recorded") as i64,
                sent as f64 / read as f64
            );
            stop(&mut child);
        }
    }
}

fn stop(child: &mut Child) {
    drop(child.stdin.take());
    let _ = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
    let _ = child.wait();
    while is_bound() {
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The kernel's row of our port: its last column counts drops.
fn row() -> Option<String> {
    let table = std::fs::read_to_string("/proc/net/udp").ok()?;
    table
        .lines()
        .find(|line| line.split_whitespace().nth(1).is_some_and(|a| a.ends_with(&format!(":{PORT:04X}"))))
        .map(str::to_string)
}

fn is_bound() -> bool {
    row().is_some()
}

fn kernel_drops() -> u64 {
    row().and_then(|row| row.split_whitespace().last()?.parse().ok()).unwrap_or(0)
}

/// Systole's own account, after the flush that follows the load.
fn ledger_loss() -> f64 {
    std::thread::sleep(Duration::from_millis(INTERVAL * 1000 + 200));
    1.0 - status()["completeness"].as_f64().expect("a number")
}

fn status() -> Value {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", HTTP)).expect("the API");
    write!(stream, "GET /api/v1/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let body = answer.split("\r\n\r\n").nth(1).expect("a body");
    serde_json::from_str(body.trim()).expect("JSON")
}

/// User and system time of all threads but those that receive.
fn beside_receiving_secs(pid: u32) -> f64 {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    threads
        .flatten()
        .filter(|thread| {
            std::fs::read_to_string(thread.path().join("comm")).is_ok_and(|name| !name.starts_with("udp-"))
        })
        .map(|thread| cpu_of(&thread.path().join("stat")))
        .sum()
}

/// User and system time of a process, all threads.
fn cpu_secs(pid: u32) -> f64 {
    // `taskset` becomes its command, so the PID is the receiver's.
    cpu_of(format!("/proc/{pid}/stat").as_ref())
}

fn cpu_of(file: &std::path::Path) -> f64 {
    let stat = std::fs::read_to_string(file).expect("it runs");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    let ticks = |n: usize| fields[n].parse::<f64>().expect("ticks");
    (ticks(11) + ticks(12)) / 100.0
}

/// A TCP port that reads whatever comes.
fn drain() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut buffer = vec![0; 1 << 16];
                while stream.read(&mut buffer).is_ok_and(|count| count > 0) {}
            });
        }
    });
    port
}

/// Reads until standard input ends: the least that a receiver can do, with the same naps as Systole's.
fn receiver(counts: bool, buffer: u64) {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).expect("a socket");
    socket.set_nonblocking(true).expect("non-blocking");
    set_receive_buffer(&socket, buffer, buffer >= 1 << 20).expect("a buffer");
    receive_coalesced(&socket).expect("UDP_GRO");
    let address: std::net::SocketAddr = ([127, 0, 0, 1], PORT).into();
    socket.bind(&address.into()).expect("bound");
    let ended = when_standard_input_ends();
    let naps = buffer >= 4 << 20;
    let mut batch = Batch::new();
    let (mut datagrams, mut lines) = (0_u64, 0_u64);
    while !ended.load(Ordering::Relaxed) {
        match batch.receive(&socket, false) {
            Ok(count) => {
                if counts {
                    for datagram in batch.datagrams() {
                        lines += memchr::memchr_iter(b'\n', datagram.bytes).count() as u64;
                    }
                }
                datagrams += count as u64;
                if count < BATCH_DATAGRAMS && naps {
                    std::thread::sleep(Duration::from_micros(50));
                }
            }
            Err(_) if naps => std::thread::sleep(Duration::from_micros(50)),
            Err(_) => {
                // Until it is readable; the end is seen at the next datagram, or by the signal.
                let _ = wait_readable(&socket, &socket);
            }
        }
    }
    eprintln!(
        "{datagrams} messages, {lines} lines, {} dropped",
        socket_memory(&socket).map_or(0, |memory| memory.dropped)
    );
}

fn when_standard_input_ends() -> Arc<AtomicBool> {
    let ended = Arc::new(AtomicBool::new(false));
    let ends = Arc::clone(&ended);
    std::thread::spawn(move || {
        let _ = std::io::stdin().read(&mut [0]);
        ends.store(true, Ordering::Relaxed);
    });
    ended
}
