//! Twelve floods, each at full speed against a daemon of its own with a ceiling for its memory (`max_memory`): its resident
//! memory stays below the ceiling and a margin, what was freed goes back to the system, series that were there before stay
//! exact, and what was sent is what the ledger has.
//!
//! `tests/long` sends all of them at both ceilings for 20 s each; without that, the worst few are sent for a moment, side by
//! side. A datagram of a flood has a fixed number of lines, so that the lines of those that the kernel dropped are known.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::grammar::{Form, Metric, More, Name, Number, PLAIN, Packing, Random, Rate, State, Tags, line};
use crate::support::{Daemon, alone, memory_kib, pause_ms, size, until};

/// What the daemon may hold beyond its ceiling: code, stacks, what an allocator keeps between two looks.
const MARGIN_MIB: u64 = 48;
/// How often its resident memory is looked at.
const LOOK_MS: u64 = 100;
/// Sources of a flood of heartbeats, which each may register so many.
const SOURCES: u8 = 200;
/// Series that are there before a flood.
const KNOWN: usize = 50;
/// Most connections that a flood of them holds, each for itself.
const CONNECTIONS: usize = 1500;
/// Requests whose answers nobody reads.
const UNREAD: usize = 200;

/// What a flood consists of.
#[derive(Clone, Copy)]
enum Way {
    /// Datagrams of so many lines, each of about so many bytes at most.
    Datagrams(Form, usize, usize),
    /// Connections that begin a line and never end it.
    Connections,
    /// Requests for the last interval, whose answers are not read.
    Unread,
}

struct Flood {
    name: &'static str,
    way: Way,
    /// It is sent in the short version, too.
    is_short: bool,
}

/// A metric that is a plain counter but for this.
const fn metric(kind: &'static str, name: Name, number: Number, tags: Tags, more: More) -> Form {
    Form::Metric(Metric { kind, name, number, tags, more, ..PLAIN })
}

const FLOODS: [Flood; 12] = {
    const fn datagrams(name: &'static str, form: Form, lines: usize, room: usize) -> Flood {
        Flood { name, way: Way::Datagrams(form, lines, room), is_short: false }
    }
    const fn short(flood: Flood) -> Flood {
        Flood { is_short: true, ..flood }
    }
    let samples = Metric {
        kind: "ms",
        name: Name::Among(10_000),
        packing: Packing::Packed(10),
        number: Number::Any,
        rate: Rate::Any,
        ..PLAIN
    };
    let long_tags = metric("c", Name::Fresh, Number::One, Tags::Long, More::None);
    let tag_keys = metric("c", Name::Same, Number::One, Tags::ManyShuffled, More::None);
    let stamped = metric("c", Name::Same, Number::One, Tags::WideFresh(3, 100), More::Now);
    let event = Form::Event(1000, 4000, Tags::ManyShuffled, More::None);
    let check = Form::Check(Name::Fresh, Tags::ManyShuffled, More::None);
    [
        datagrams("names", metric("c", Name::Fresh, Number::One, Tags::None, More::None), 300, 100),
        short(datagrams("tags", long_tags, 3, 16_000)),
        datagrams("tag keys", tag_keys, 10, 3_000),
        datagrams("set members", metric("s", Name::Among(1000), Number::Word, Tags::None, More::None), 150, 100),
        short(datagrams("samples", Form::Metric(samples), 60, 200)),
        datagrams("long names", metric("c", Name::LongFresh, Number::One, Tags::None, More::None), 8, 1_100),
        short(datagrams("events", event, 4, 12_000)),
        datagrams("service checks", check, 10, 4_000),
        short(datagrams("timestamps", stamped, 20, 1_000)),
        datagrams("presence instances", Form::BeatFresh(2_000), 10, 1_000),
        Flood { name: "connections", way: Way::Connections, is_short: false },
        Flood { name: "unread responses", way: Way::Unread, is_short: false },
    ]
};

/// What was sent beside the known series.
#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    datagrams: u64,
    lines_per_datagram: u64,
}

/// What the receiver of a daemon's intervals has heard: sums of counts, and the last value of anything, by path.
#[derive(Default)]
struct Heard {
    counts: HashMap<String, f64>,
    last: HashMap<String, f64>,
}

/// A Graphite server that reads all and sums up.
fn graphite() -> (SocketAddr, Arc<Mutex<Heard>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let heard = Arc::<Mutex<Heard>>::default();
    let sums = Arc::clone(&heard);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                let mut words = line.split(' ');
                let (Some(path), Some(Ok(value))) = (words.next(), words.next().map(str::parse::<f64>)) else {
                    continue;
                };
                let mut sums = sums.lock().expect("no panic");
                if path.ends_with(".count") {
                    *sums.counts.entry(path.to_string()).or_default() += value;
                }
                sums.last.insert(path.to_string(), value);
            }
        }
    });
    (address, heard)
}

fn config(dir: &Path, max_memory_mib: u64, graphite: SocketAddr) -> String {
    // The history keeps, within its share, what a flood has left in it: it has tests of its own.
    // What waits in the kernel at the end is read before anything is looked at: not much, where a debug build reads it.
    let buffer = if cfg!(debug_assertions) { "256KiB" } else { "16MiB" };
    format!(
        "interval = \"1s\"\nmax_memory = \"{max_memory_mib}MiB\"\nseries_ttl = \"2s\"\ngauge_ttl = \"2s\"\n\
         [[listen]]\nurl = \"udp://127.0.0.1:0\"\nreceive_buffer = \"{buffer}\"\n[[listen]]\nurl = \"tcp://127.0.0.1:0\"\n\
         [[listen]]\nurl = \"unix://{}\"\n\
         [[sink]]\ntype = \"graphite\"\naddress = \"{graphite}\"\ninclude = [\"known.*\", \"systole.overflow\"]\n\
         [[sink]]\ntype = \"prometheus\"\naddress = \"127.0.0.1:0\"\nttl = \"2s\"\n\
         [http]\naddress = \"127.0.0.1:0\"\n[history]\nenabled = false\n[presence]\nmisses = 2\ngrace = \"500ms\"\ngroup_wait = \"0s\"\n\
         forget_service = \"100ms\"\nforget_down = \"100ms\"\n",
        dir.join("known").display()
    )
}

/// The known series: counters, timers and a gauge, by a stream of their own, ten times a second. How many rounds were sent.
fn send_known(dir: &Path, stop: &AtomicBool, rounds: &AtomicU64) {
    let mut stream = UnixStream::connect(dir.join("known")).expect("it listens");
    let mut round = String::new();
    for n in 0..KNOWN {
        round.push_str(&format!("known.c{n}:3|c\nknown.t{n}:5|ms\n"));
    }
    round.push_str("known.g:+1|g\n");
    while !stop.load(Ordering::Relaxed) {
        stream.write_all(round.as_bytes()).expect("a stream is never left unread");
        rounds.fetch_add(1, Ordering::Relaxed);
        pause_ms(100);
    }
}

const LINES_A_ROUND: u64 = 2 * KNOWN as u64 + 1;

/// Sends as fast as the kernel takes it. Two threads, so that the daemon is what is slow.
fn send_datagrams(form: Form, lines: usize, room: usize, to: SocketAddr, length: Duration) -> Sent {
    let until = Instant::now() + length;
    let sender = |seed: u64| {
        move || {
            let from = |n: u8| {
                UdpSocket::bind(SocketAddr::from(([127, 0, seed as u8, n], 0))).expect("an address of loopback")
            };
            let sockets: Vec<UdpSocket> = (1..=SOURCES).map(from).collect();
            // Names of the two do not meet.
            let mut state = State::starting_at(seed << 40);
            let (mut random, mut datagram, mut sent) = (Random(seed), Vec::new(), 0_u64);
            while Instant::now() < until {
                let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
                datagram.clear();
                for _ in 0..lines {
                    line(&form, &mut state, room, now.as_secs(), &mut random, &mut datagram);
                    datagram.push(b'\n');
                }
                // What the kernel does not take was not sent.
                sent += u64::from(sockets[sent as usize % sockets.len()].send_to(&datagram, to).is_ok());
            }
            sent
        }
    };
    let threads: Vec<_> = (1..=2).map(|seed| std::thread::spawn(sender(seed))).collect();
    let datagrams = threads.into_iter().map(|thread| thread.join().expect("it sends")).sum();
    Sent { datagrams, lines_per_datagram: lines as u64 }
}

/// Connections that each begin a line as long as is allowed; one that is closed is opened again.
fn hold_connections(to: SocketAddr, most: usize, begin: &[u8], until: Instant) {
    let mut open: Vec<(TcpStream, usize)> = Vec::new();
    while Instant::now() < until {
        if open.len() < most
            && let Ok(stream) = TcpStream::connect(to)
        {
            stream.set_nonblocking(true).expect("it can be");
            open.push((stream, 0));
        }
        open.retain_mut(|(stream, written)| match stream.write(&begin[*written..]) {
            Ok(more) => {
                *written += more;
                // An answer stays where it is; a connection that was closed has none.
                !matches!(stream.peek(&mut [0]), Ok(0))
            }
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        });
        // Full buffers are no reason to spin.
        if open.len() >= most {
            pause_ms(5);
        }
    }
}

/// Ends what goes on beside a flood.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What one flood did to one daemon.
struct Outcome {
    before_mib: u64,
    peak_mib: u64,
    after_mib: u64,
    text: String,
}

/// Sends a flood and checks what came of it.
fn flood(flood: &Flood, max_memory_mib: u64, length: Duration) -> Outcome {
    let dir = tempfile::tempdir().expect("a folder");
    let (graphite, heard) = graphite();
    let daemon = Daemon::start(dir.path(), &config(dir.path(), max_memory_mib, graphite));
    let (is_over, rounds, pid) = (AtomicBool::new(false), AtomicU64::new(0), daemon.pid());
    let (mut sent, mut before_mib, mut after_mib) = (Sent::default(), 0, 0);
    let peak = AtomicU64::new(0);
    std::thread::scope(|scope| {
        // Whatever fails, those beside end.
        let _over = Over(&is_over);
        scope.spawn(|| send_known(dir.path(), &is_over, &rounds));
        daemon.flushed_when("the known series", |status| status["samples"]["recorded"].as_u64() > Some(LINES_A_ROUND));
        daemon.next_flush();
        before_mib = daemon.rss_kib() / 1024;
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                peak.fetch_max(memory_kib(pid, "VmRSS:").unwrap_or(0) / 1024, Ordering::Relaxed);
                pause_ms(LOOK_MS);
            }
        });
        let (udp, tcp, http) = (daemon.udp.expect("UDP"), daemon.tcp.expect("TCP"), daemon.http.expect("HTTP"));
        match flood.way {
            Way::Datagrams(form, lines, room) => sent = send_datagrams(form, lines, room, udp, length),
            Way::Connections => {
                let until = Instant::now() + length;
                // Headers without an end, too.
                scope.spawn(move || hold_connections(http, CONNECTIONS / 4, &[b'a'; 60_000], until));
                hold_connections(tcp, CONNECTIONS, &[b'a'; 60_000], until);
            }
            Way::Unread => {
                let many = metric("c", Name::Among(100_000), Number::One, Tags::Few(3), More::None);
                let names = scope.spawn(move || send_datagrams(many, 100, 200, udp, length));
                let request = b"GET /api/v1/snapshot HTTP/1.1\r\nHost: localhost\r\n\r\n";
                hold_connections(http, UNREAD, request, Instant::now() + length);
                sent = names.join().expect("it sends");
            }
        }
        // All that was sent has been read, or was dropped by the kernel, and counted so.
        daemon.status_when("all datagrams", |status| {
            let l = &status["listeners"][0];
            let of = |key: &str| l[key].as_u64().unwrap_or(0);
            of("datagrams") + of("kernel_drops") >= sent.datagrams
        });
        if flood.name == "presence instances" {
            // They stay for as long as they said that they would be heard, and longer.
            until("everybody is forgotten", || !daemon.get("/api/v1/presence?state=up").1.contains("iiii"));
            until("everybody is forgotten", || !daemon.get("/api/v1/presence").1.contains("iiii"));
        }
        // Five intervals, so that the last of the flood is idle, gone and given back. On a busy machine the daemon may be
        // that late.
        for interval in 1..=20 {
            daemon.next_flush();
            after_mib = daemon.rss_kib() / 1024;
            if interval >= 5 && after_mib <= most_after(before_mib, max_memory_mib) {
                break;
            }
        }
    });
    let rounds = rounds.load(Ordering::Relaxed);
    let status = check_ledger(&daemon, flood, sent, rounds);
    let peak_mib = peak.load(Ordering::Relaxed).max(daemon.peak_kib() / 1024);
    let l = &status["listeners"][0];
    let text = format!(
        "{:>18} | {max_memory_mib:>5} | {before_mib:>6} | {peak_mib:>5} | {after_mib:>5} | {:>9} | {:>9} | {:>9} | {:>9}",
        flood.name, sent.datagrams, l["kernel_drops"], status["samples"]["recorded"], status["samples"]["folded"]
    );
    println!("{text}");
    daemon.stop();
    check_known(&heard.lock().expect("no panic"), flood, rounds, &status);
    Outcome { before_mib, peak_mib, after_mib, text }
}

/// What was sent is what the ledger has, of a daemon that gets nothing more.
fn check_ledger(daemon: &Daemon, flood: &Flood, sent: Sent, rounds: u64) -> Value {
    let known = rounds * LINES_A_ROUND;
    let status = daemon.flushed_when("all lines", |status| {
        let l = &status["listeners"][0];
        let read = l["datagrams"].as_u64().unwrap_or(0) * sent.lines_per_datagram;
        status["lines"]["read"].as_u64() >= Some(read + known)
    });
    let of = |account: &str, key: &str| status[account][key].as_u64().unwrap_or_else(|| panic!("{account}.{key}"));
    let by_reason =
        |value: &Value| value.as_object().map_or(0, |all| all.values().filter_map(Value::as_u64).sum::<u64>());
    let l = &status["listeners"][0];
    let datagrams = l["datagrams"].as_u64().expect("a number");
    assert_eq!(datagrams + l["kernel_drops"].as_u64().expect("a number"), sent.datagrams, "{}: {l}", flood.name);
    if !matches!(flood.way, Way::Connections) {
        assert_eq!(
            of("lines", "read"),
            datagrams * sent.lines_per_datagram + known,
            "{}: {}",
            flood.name,
            status["lines"]
        );
    }
    let samples = &status["samples"];
    let parts: u64 =
        ["recorded", "folded", "timestamped", "dropped_by_rule"].iter().map(|part| of("samples", part)).sum();
    assert_eq!(of("samples", "read"), parts + by_reason(&samples["limited"]), "{}: {samples}", flood.name);
    status
}

/// Series that were there before are exact, and what was folded is in the overflow series.
fn check_known(heard: &Heard, flood: &Flood, rounds: u64, status: &Value) {
    // An event has no form in Graphite.
    let account = &status["sinks"]["graphite"];
    assert!(account["dropped"].as_object().is_some_and(|all| all.keys().all(|why| why == "unsupported")), "{account}");
    for n in 0..KNOWN {
        for (path, expected) in [(format!("known.c{n}.count"), 3 * rounds), (format!("known.t{n}.count"), rounds)] {
            assert_eq!(heard.counts.get(&path), Some(&(expected as f64)), "{path} after {rounds} rounds");
        }
    }
    assert_eq!(heard.last.get("known.g"), Some(&(rounds as f64)));
    // Each sample of these floods counts once, but for timers at a rate, and for sets, whose overflow counts members.
    let (overflow, folded) =
        (heard.counts.get("systole.overflow.count").copied(), status["samples"]["folded"].as_f64());
    let (overflow, folded) = (overflow.unwrap_or(0.0), folded.expect("a number"));
    match flood.way {
        Way::Datagrams(Form::Metric(Metric { kind: "ms", .. }), ..) => {
            assert!(overflow >= folded, "{overflow} {folded}")
        }
        Way::Datagrams(Form::Metric(Metric { kind: "s", .. }), ..) => assert_eq!(overflow > 0.0, folded > 0.0),
        _ => assert_eq!(overflow, folded, "{}: the overflow series at the receiver", flood.name),
    }
}

/// What the daemon may hold when a flood is over, in MiB.
fn most_after(before_mib: u64, max_memory_mib: u64) -> u64 {
    before_mib + max_memory_mib / 10
}

/// Says what all came to, and what was too much.
fn report(outcomes: &[(u64, Outcome)]) {
    let too_much = |(max, outcome): &&(u64, Outcome)| {
        outcome.peak_mib > max + MARGIN_MIB || outcome.after_mib > most_after(outcome.before_mib, *max)
    };
    let found: Vec<&str> = outcomes.iter().filter(too_much).map(|(_, outcome)| &*outcome.text).collect();
    assert!(
        found.is_empty(),
        "a peak above `max_memory` and {MARGIN_MIB} MiB, or too much left after it:\n{}",
        found.join("\n")
    );
}

#[test]
fn floods_stay_below_the_ceiling_and_leave_nothing_behind() {
    let _alone = alone();
    let secs = size("SYSTOLE_TEST_FLOOD_SECS", 0);
    println!("             flood |   MiB | before |  peak | after | datagrams | by kernel |  recorded |    folded");
    if secs > 0 {
        // One after the other, at full speed.
        let only = std::env::var("SYSTOLE_TEST_FLOOD").ok();
        let floods = || FLOODS.iter().filter(|flood| only.as_deref().is_none_or(|only| only == flood.name));
        let ceiling = size("SYSTOLE_TEST_FLOOD_MIB", 0);
        let ceilings = [256, 1024].into_iter().filter(|max| ceiling == 0 || *max == ceiling);
        let all = ceilings.flat_map(|max| floods().map(move |one| (max, one)));
        let outcomes: Vec<_> = all.map(|(max, one)| (max, flood(one, max, Duration::from_secs(secs)))).collect();
        return report(&outcomes);
    }
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let short = FLOODS.iter().filter(|one| one.is_short);
        let running: Vec<_> =
            short.map(|one| scope.spawn(move || (256, flood(one, 256, Duration::from_secs(2))))).collect();
        running.into_iter().map(|one| one.join().expect("a flood")).collect()
    });
    report(&outcomes);
}
