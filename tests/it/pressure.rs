//! What a shard does when memory is short: it knows its bytes, gives way level by level, keeps established series exact and
//! counts everything that it gives up; and the same through the front door.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

use systole::internals::aggregate::{Columns, Quota, Shard, ShardOptions, TimeWindow, TimerPolicy};
use systole::internals::memory::{Holder, LEAST_MAX_MEMORY, Level, Memory};
use systole::internals::protocol::Options;
use systole::internals::rollup::{GaugeLife, Interval, Registry, RegistryOptions};
use systole::internals::snapshot::{Snapshot, SummaryPolicy};

use crate::support::heap::held_bytes;
use crate::support::{Daemon, alone, records};

fn shard_in(memory: &Memory) -> Shard {
    Shard::new(ShardOptions {
        timers: TimerPolicy::default(),
        fold_histograms: false,
        quota: Quota::new(1_000_000).in_memory(memory),
        seed: 7,
        rules: None,
        heartbeats: None,
        times: TimeWindow::ANY,
    })
}

fn feed(shard: &mut Shard, text: &str) {
    // In pieces as large as datagrams, each a batch.
    let mut rest = text;
    while !rest.is_empty() {
        let end =
            if rest.len() > 8000 { rest[..8000].rfind('\n').map_or(rest.len(), |end| end + 1) } else { rest.len() };
        shard.begin_batch();
        shard.ingest(&rest.as_bytes()[..end], &Options::default(), None, 1.0);
        rest = &rest[end..];
    }
    shard.begin_batch();
}

/// One shard and its registry, in a memory.
struct Fixture {
    memory: Memory,
    shard: Shard,
    registry: Registry,
    now: f64,
}

impl Fixture {
    fn new(max: u64) -> Fixture {
        Fixture::keeping(max, 20.0)
    }

    /// One that keeps idle series for so long.
    fn keeping(max: u64, ttl_secs: f64) -> Fixture {
        let memory = Memory::new(max);
        let options = RegistryOptions {
            summary: SummaryPolicy { percentiles: vec![50.0], ..SummaryPolicy::default() }.into(),
            gauge_life: GaugeLife::Secs(25.0),
            series_ttl_secs: [Some(ttl_secs); 5],
            ..RegistryOptions::default()
        };
        let shard = shard_in(&memory);
        Fixture { shard, registry: Registry::new(options, 1).in_memory(&memory), memory, now: 0.0 }
    }

    fn feed(&mut self, text: &str) {
        feed(&mut self.shard, text);
    }

    fn close(&mut self) -> Snapshot {
        let mut partials = [self.shard.close(self.registry.retirements(0, self.now), Columns::default())];
        self.now += 10.0;
        let interval = Interval::new(self.now, 10.0, self.now, Duration::from_secs(10));
        let snapshot = self.registry.close(&mut partials, interval);
        assert_eq!(snapshot.ledger.check(), Ok(()));
        snapshot
    }
}

/// The sum of a counter.
fn counter(snapshot: &Snapshot, name: &str) -> f64 {
    snapshot.counters.iter().filter(|point| point.series.name() == name).map(|point| point.sum.value()).sum()
}

/// The number of samples of a timer.
fn samples(snapshot: &Snapshot, name: &str) -> u64 {
    snapshot.timers.iter().filter(|point| point.series.name() == name).map(|point| point.timer.samples()).sum()
}

const OVERFLOW: &str = "systole.overflow";

fn lines(count: usize, line: impl Fn(usize) -> String) -> String {
    (0..count).fold(String::new(), |mut all, n| {
        let _ = writeln!(all, "{}", line(n));
        all
    })
}

#[test]
fn a_shard_knows_its_bytes_to_within_a_tenth() {
    let long = "v".repeat(200);
    for (what, text) in [
        ("counters", lines(30_000, |n| format!("app.web.requests.endpoint_{n}:1|c"))),
        ("tagged counters", lines(20_000, |n| format!("app.hits:1|c|#user:{n},env:prod,long:{long}"))),
        ("gauges", lines(30_000, |n| format!("app.level.{n}:5|g"))),
        ("timers of a few samples", lines(60_000, |n| format!("t.{}:{}.{}|ms", n % 9000, n % 1000, n % 10))),
        ("timers of many samples", lines(90_000, |n| format!("t.{}:{}|ms", n % 50, n * 7919 % 100_000))),
        ("timers of any value", lines(60_000, |n| format!("t.{}:{}|ms", n % 40, 1.0 / (n as f64 + 3.0)))),
        ("timers of any rate", lines(60_000, |n| format!("t.{}:{n}|ms|@0.{}", n % 400, n % 9 + 1))),
        ("histograms", lines(300_000, |n| format!("t.{}:{}|h", n % 20, n * 7919 % 1_000_003))),
        ("small sets", lines(60_000, |n| format!("s.{}:{n}|s", n % 7000))),
        ("large sets", lines(90_000, |n| format!("s.{}:{n}|s", n % 60))),
        ("kv", lines(90_000, |n| format!("k.{}:{n}|kv", n % 600))),
        ("events", lines(5000, |n| format!("_e{{5,7}}:title|text {}|h:host|#a:{n},b:{long}|k:agg", n % 10))),
        ("checks", lines(5000, |n| format!("_sc|check.{n}|1|#a:{n},b:2|m:message {n}"))),
        ("timestamped", lines(50_000, |n| format!("old.{n}:1|c|T1700000000"))),
    ] {
        let before = held_bytes();
        let mut shard = shard_in(&Memory::unlimited());
        let empty = held_bytes() - before;
        feed(&mut shard, &text);
        // What grew and is used again holds nothing of senders.
        let (grown, known) = (held_bytes() - before - empty, shard.held_bytes().total() as f64);
        let ratio = known / grown as f64;
        println!("{what}: {known} of {grown} bytes, {ratio:.3}");
        assert!((0.9..=1.1).contains(&ratio), "{what}: {known} of {grown} bytes, {ratio:.3}");
    }
}

#[test]
fn a_registry_and_a_closed_shard_know_their_bytes_too() {
    let mut fixture = Fixture::new(LEAST_MAX_MEMORY);
    let text = lines(40_000, |n| format!("a.{n}:1|c\ng.{n}:1|g"));
    let before = held_bytes();
    fixture.feed("alive:1|c");
    fixture.feed(&text);
    drop(fixture.close());
    let grown = (held_bytes() - before) as f64;
    let known = (fixture.memory.bytes(Holder::SeriesKeys) + fixture.memory.bytes(Holder::Values)) as f64;
    assert!((0.9..=1.1).contains(&(known / grown)), "{known} of {grown} bytes");
    // What left takes nothing: the tables shrink.
    for _ in 0..8 {
        drop(fixture.close());
        fixture.feed("alive:1|c");
    }
    let (left, known) = (held_bytes() - before, fixture.memory.bytes(Holder::SeriesKeys));
    assert!(left < grown as i64 / 20, "{left} of {grown} bytes are left");
    assert!(known < 1 << 20, "{known} bytes of keys");
}

#[test]
fn each_level_gives_one_thing_more_away_and_counts_it() {
    let mut fixture = Fixture::new(1 << 30);
    let timer = lines(1000, |n| format!("known.t:{n}|ms"));
    let kv = lines(1000, |n| format!("known.kv:{n}|kv"));
    let set = lines(1000, |n| format!("known.s:{n}|s"));
    let round = format!("{timer}{kv}{set}known.c:1|c|#a:b\nknown.g:5|g\n_e{{1,1}}:a|b\n_sc|n|0\nold:1|c|T1700000000\n");
    for level in Level::ALL {
        fixture.memory.set_level(level);
        let fresh = lines(10, |n| format!("new.{}.{n}:1|c", level.number()));
        fixture.feed(&format!("{round}{fresh}"));
        let snapshot = fixture.close();
        let ledger = &snapshot.ledger;
        let n = level.number();
        assert_eq!(ledger.memory.caches_dropped, u64::from(n == 1), "{level:?}");
        let timer = snapshot.timers.iter().find(|point| point.series.name() == "known.t").expect("it is there");
        // What is in the series itself at the last level is exact again: there are few.
        assert_eq!(timer.timer.is_exact(), n < 2 || n == 4, "{level:?}");
        assert_eq!(snapshot.kvs[0].values.len(), [1000, 1000, 256, 256, 16][usize::from(n)], "{level:?}");
        assert_eq!(counter(&snapshot, OVERFLOW), if n < 3 { 0.0 } else { 10.0 }, "{level:?}");
        assert_eq!(counter(&snapshot, "known.c"), 1.0);
        assert_eq!(ledger.memory.folded > 0, n >= 3, "{level:?}");
        assert_eq!(ledger.samples.folded, ledger.memory.folded, "{level:?}");
        assert_eq!(snapshot.events_and_checks.len(), if n < 4 { 2 } else { 0 }, "{level:?}");
        assert_eq!((ledger.memory.events_dropped, ledger.lines.notes_dropped), if n < 4 { (0, 0) } else { (2, 2) });
        assert_eq!(snapshot.timestamped.len(), usize::from(n < 4), "{level:?}");
        // Samples that found no room are in the overflow series: none is lost.
        assert_eq!(samples(&snapshot, "known.t") + samples(&snapshot, OVERFLOW), 1000, "{level:?}");
    }
    fixture.memory.set_level(Level::Calm);
    fixture.feed(&format!("{round}new.again:1|c"));
    let snapshot = fixture.close();
    assert_eq!((snapshot.ledger.samples.folded, counter(&snapshot, "new.again")), (0, 1.0));
    assert!(snapshot.timers.iter().any(|point| point.series.name() == "known.t" && point.timer.is_exact()));
}

#[test]
fn a_holder_above_its_share_gives_way_whatever_the_level_is() {
    // So that a shorter flood will do.
    let max = LEAST_MAX_MEMORY / 8;
    let long = "v".repeat(3000);
    let mut fixture = Fixture::new(max);
    fixture.feed(&lines(100, |n| format!("known.{n}:1|c\nknown.t{n}:{n}|ms")));
    let flood = 8000;
    for first in (0..flood).step_by(500) {
        let text = lines(500, |n| format!("flood.hits:1|c|#id:{},long:{long}", first + n));
        fixture.feed(&text);
        let bytes = fixture.memory.bytes(Holder::SeriesKeys);
        // What tables grow by is known only when they have grown.
        assert!(bytes <= fixture.memory.cap(Holder::SeriesKeys) + (256 << 10), "{bytes} bytes of keys");
    }
    fixture.feed(&lines(100, |n| format!("known.{n}:1|c\nknown.t{n}:{n}|ms")));
    let snapshot = fixture.close();
    for n in 0..100 {
        assert_eq!((counter(&snapshot, &format!("known.{n}")), samples(&snapshot, &format!("known.t{n}"))), (2.0, 2));
    }
    let (own, folded) = (counter(&snapshot, "flood.hits"), counter(&snapshot, OVERFLOW));
    assert_eq!(own + folded, f64::from(flood as u32));
    assert!(folded > 0.0 && snapshot.ledger.memory.folded == folded as u64);
    // Events and samples with a time of their own have shares of theirs.
    for first in (0..4000).step_by(100) {
        fixture.feed(&lines(100, |_| format!("_e{{1,{}}}:a|{long}", long.len())));
        fixture.feed(&lines(100, |n| format!("old.{}:1|c|#l:{long}|T1700000000", first + n)));
    }
    let memory = &fixture.memory;
    for holder in [Holder::Events, Holder::Timestamped] {
        let (bytes, cap) = (memory.bytes(holder), memory.cap(holder));
        assert!(bytes <= cap + cap / 10, "{bytes} bytes of {}, the share is {cap}", holder.name());
    }
    let ledger = fixture.close().ledger;
    assert!(ledger.memory.events_dropped > 0, "{:?}", ledger.memory);
    assert_eq!(ledger.lines.events, 4000);
    assert_eq!(ledger.samples.timestamped + ledger.samples.limited.total(), 4000);
}

#[test]
fn samples_without_end_stay_within_their_share_and_none_is_lost() {
    let mut fixture = Fixture::new(LEAST_MAX_MEMORY / 16);
    let (series, each) = (500, 400);
    for round in 0..each {
        fixture.feed(&lines(series, |n| format!("t{n}:{}|ms|@0.{}", (n * each + round) as f64 / 7.0, round % 9 + 1)));
    }
    let cap = fixture.memory.cap(Holder::Samples);
    let bytes = fixture.memory.bytes(Holder::Samples);
    assert!(bytes <= cap + cap / 4, "{bytes} bytes of samples, the share is {cap}");
    let snapshot = fixture.close();
    let all: u64 = snapshot.timers.iter().map(|point| point.timer.samples()).sum();
    assert_eq!(all, (series * each) as u64);
    assert!(snapshot.ledger.memory.early_estimates > 0);
}

#[test]
fn idle_series_leave_early_once_new_ones_found_no_room() {
    let mut fixture = Fixture::keeping(LEAST_MAX_MEMORY, 600.0);
    fixture.feed("known:1|c");
    drop(fixture.close());
    fixture.feed(&lines(1000, |n| format!("flood.{n}:1|c\ng.{n}:1|g")));
    fixture.feed("known:1|c");
    let held: Vec<u64> = (0..5).map(|_| fixture.close().ledger.series.counters).collect();
    assert_eq!(held, [1001; 5]);
    fixture.memory.set_level(Level::Series);
    fixture.feed("new.1:1|c\nnew.2:1|c");
    assert_eq!(fixture.close().ledger.memory.folded, 2);
    fixture.memory.set_level(Level::Calm);
    let held: Vec<u64> = (0..2).map(|_| fixture.close().ledger.series.counters).collect();
    // The one that occurred twice, and the overflow series, which is as new as they.
    assert!((1..=2).contains(&held[1]), "{held:?}");
    fixture.feed("known:1|c");
    let snapshot = fixture.close();
    assert_eq!((counter(&snapshot, "known"), snapshot.ledger.samples.folded), (1.0, 0));
    // Gauges stay: each is flushed while it stands.
    assert_eq!(fixture.close().ledger.series.gauges, 1000);
}

/// The level of a running daemon's memory.
fn level(status: &Value) -> u64 {
    status["memory"]["level"].as_u64().expect("a number")
}

#[test]
fn a_flood_of_names_leaves_established_series_exact_and_is_over_when_it_is_over() {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("records.jsonl");
    let config = format!(
        "interval = \"1s\"\nmax_memory = \"256MiB\"\nseries_ttl = \"1h\"\n\
                  [[listen]]\nurl = \"udp://127.0.0.1:0\"\n[[listen]]\nurl = \"tcp://127.0.0.1:0\"\n\
                  [http]\naddress = \"127.0.0.1:0\"\n[[sink]]\ntype = \"file\"\npath = \"{}\"\nqueue = 100\n\
                  include = [\"known.*\", \"flood.*\", \"systole.overflow\", \"systole.memory.*\"]\n",
        file.display()
    );
    let mut daemon = Daemon::start(dir.path(), &config);
    assert_eq!(level(&daemon.status()), 0);
    let mut stream = TcpStream::connect(daemon.tcp.expect("TCP")).expect("connected");
    let known = lines(50, |n| format!("known.c{n}:3|c\nknown.t{n}:5|ms"));
    // In two intervals, which makes them established.
    for round in 1..=2 {
        stream.write_all(known.as_bytes()).expect("a stream is never left unread");
        daemon.closed(100 * round);
    }
    let tail = "x".repeat(7000);
    let (rounds, names) = (30, 500);
    for round in 0..rounds {
        stream.write_all(known.as_bytes()).expect("a stream is never left unread");
        let flood = lines(names, |n| format!("flood.hits:1|c|#id:{},tail:{tail}", round * names + n));
        stream.write_all(flood.as_bytes()).expect("a stream is never left unread");
        // Intervals that wait for a file that cannot be written as fast would be dropped, too.
        daemon.status_when("the file is written", |status| status["sinks"]["file"]["queued"] == 0);
    }
    stream.write_all(known.as_bytes()).expect("a stream is never left unread");
    let sent = (rounds * names + 100 * (rounds + 3)) as u64;
    let status = daemon.closed(sent);
    let memory = &status["memory"];
    assert_eq!(memory["max"], 256 << 20);
    assert!(memory["folded"].as_u64().expect("a number") > 0, "{memory}");
    assert!(memory["holders"]["series_keys"]["cap"].as_u64().expect("a number") < 256 << 20);
    let samples = &status["samples"];
    assert_eq!(
        samples["read"],
        samples["recorded"].as_u64().expect("a number") + memory["folded"].as_u64().expect("a number")
    );
    assert!(daemon.peak_kib() < (256 + 48) << 10, "{} KiB at most", daemon.peak_kib());
    // The flood's series leave, and with them what gives way.
    let status =
        daemon.flushed_when("the series have left", |status| status["series"]["counters"].as_u64() < Some(500));
    assert!(level(&status) < 2, "{}", status["memory"]);
    daemon.status_when("nothing gives way", |status| level(status) == 0);
    let folds = |line: &String| line.contains("samples of new series went to `systole.overflow`");
    daemon.wait_for("the log says what was given up", |lines| lines.iter().any(folds));
    let line = daemon.lines.iter().find(|line| folds(line)).expect("a line").clone();
    assert!(line.contains("begin with `flood`") && line.contains("raise `max_memory`"), "{line}");
    assert!(line.contains("`series_keys` has reached its share") || line.contains("memory was at level"), "{line}");
    let is_over = |line: &String| line.contains("memory is enough again");
    daemon.wait_for("the log says that it is over", |lines| lines.iter().any(is_over));
    stream.write_all(b"later:1|c\n").expect("a stream is never left unread");
    let status = daemon.closed(sent + 1);
    assert_eq!(status["memory"]["folded"], memory["folded"], "a new series has room again");
    daemon.status_when("nobody is warned", |status| status["warnings"] == Value::Array(Vec::new()));
    drop(stream);
    daemon.stop();
    let records = records(&file);
    let sum = |name: &str, field: &str| -> f64 {
        let own = records.iter().filter(|record| record["name"] == name);
        own.filter_map(|record| record[field].as_f64()).sum()
    };
    for n in 0..50 {
        assert_eq!(sum(&format!("known.c{n}"), "value"), 3.0 * (rounds + 3) as f64);
        assert_eq!(sum(&format!("known.t{n}"), "count"), (rounds + 3) as f64);
    }
    assert_eq!(sum("flood.hits", "value") + sum("systole.overflow", "value"), (rounds * names) as f64);
    assert!(sum("systole.memory.folded", "value") > 0.0);
}
