//! Random lines of every kind, received by three edges, come out of the owners of the partitions as one node would have
//! flushed them. Everything is real but for the bus, which is a list in memory, and the time. Sums may differ in their last
//! digits, and gauges with writers at several edges go by their own rule, which is worked out from the lines here. Of a
//! key-value pair with more values than are kept, as many are, and as many are counted, but perhaps others.
//!
//! `SYSTOLE_TEST_EQUAL_LINES` is the number of lines.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use systole::internals::aggregate::rules::{Rule, Rules};
use systole::internals::aggregate::{
    Columns, GaugePolicy, Quota, SeriesOverrides, Shard, ShardOptions, TimeWindow, TimerPolicy,
};
use systole::internals::cluster::batch::{EdgeAccount, bodies, partition};
use systole::internals::cluster::{
    Command, ContentOptions, Edge, EdgeOptions, Emission, Event, Heard, IntervalContent, Late, Node, NodeOptions,
    SavedEdge, SessionId, Stored, StoredBatch, Terms,
};
use systole::internals::codec::Records;
use systole::internals::protocol::Options;
use systole::internals::rollup::{GaugeLife, Interval, Registry, RegistryOptions};
use systole::internals::snapshot::{Snapshot, SummaryPolicy};
use systole::internals::telemetry::{Limit, LineAccount, SampleAccount};

use crate::support::{Random, size};

const EPOCH: f64 = 1_700_000_000.0;
const SECS: f64 = 10.0;
const FIRST: u64 = 170_000_000;
const INTERVALS: u64 = 14;
/// Intervals with lines; in the others, series are idle and gauges end.
const BUSY: u64 = 9;
const PARTITIONS: u16 = 5;
const EDGES: usize = 3;
const SENDERS: u64 = 12;
const GAUGE_INTERVALS: u64 = 3;

const TIMERS: TimerPolicy = TimerPolicy { exact_samples: 40, digits: 3, weighted: true };

/// How lines come to edges.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Split {
    BySender,
    AtRandom,
    AllToOne,
}

/// A line, as it is received.
struct Line {
    at: f64,
    edge: usize,
    text: String,
    /// Name, sign and value of a gauge.
    gauge: Option<(String, char, f64)>,
}

fn rules() -> Arc<Rules> {
    let rule =
        |pattern: &str, overrides: SeriesOverrides| Rule { pattern: pattern.into(), overrides, ..Rule::default() };
    let general = SeriesOverrides::default;
    Arc::new(Rules::new(vec![
        rule("fine.*", SeriesOverrides { digits: Some(5), ..general() }),
        rule("slow.*", SeriesOverrides { every: 3, percentiles: Some(vec![75.0]), ..general() }),
        Rule {
            rename: Some("new.$1".into()),
            ..rule("old.*", SeriesOverrides { buckets: vec![10.0, 100.0], ttl: Some(Some(20.0)), ..general() })
        },
        rule("most.*", SeriesOverrides { gauge: GaugePolicy::Max, ..general() }),
        rule("sum.*", SeriesOverrides { gauge: GaugePolicy::Sum, every: 2, ..general() }),
        Rule { drop: true, ..rule("dropped.*", general()) },
    ]))
}

fn registry_options(is_partial: bool) -> RegistryOptions {
    RegistryOptions {
        summary: Arc::new(SummaryPolicy {
            timers: TIMERS,
            percentiles: vec![50.0, 99.0, -5.0],
            ..SummaryPolicy::default()
        }),
        zero_when_idle: [true; 3],
        gauge_life: GaugeLife::Secs(GAUGE_INTERVALS as f64 * SECS),
        series_ttl_secs: [Some(2.0 * SECS); 5],
        prefix: "p.".into(),
        tags: vec![("site".into(), "x".into())],
        rules: Some(rules()),
        is_partial,
        ..RegistryOptions::default()
    }
}

/// Where lines are aggregated.
struct Receiver {
    shard: Shard,
    registry: Registry,
}

impl Receiver {
    fn new(is_partial: bool, seed: u64) -> Receiver {
        let shard = Shard::new(ShardOptions {
            timers: TIMERS,
            fold_histograms: false,
            quota: Quota::new(1_000_000),
            seed,
            rules: Some(rules()),
            heartbeats: None,
            times: TimeWindow::ANY,
        });
        Receiver { shard, registry: Registry::new(registry_options(is_partial), 1) }
    }

    fn take(&mut self, line: &Line) {
        self.shard.ingest(line.text.as_bytes(), &Options::default(), None, line.at);
    }

    fn close(&mut self, interval: u64) -> Snapshot {
        let (start, end) = (interval as f64 * SECS, (interval + 1) as f64 * SECS);
        let retired = self.registry.retirements(0, start);
        let mut partials = [self.shard.close(retired, Columns::default())];
        let mut snapshot =
            self.registry.close(&mut partials, Interval::new(end, SECS, end, Duration::from_secs_f64(SECS)));
        snapshot.ledger.update_completeness();
        snapshot
    }
}

/// A line of any kind. Most names come and go with the intervals.
fn line(random: &mut Random, split: Split, interval: u64, at: f64) -> Line {
    let sender = random.below(SENDERS);
    let edge = match split {
        Split::BySender => sender as usize % EDGES,
        Split::AtRandom => random.below(EDGES as u64) as usize,
        Split::AllToOne => 1,
    };
    let tags = *random.pick(&["", "", "|#k:v", "|#b,a:1", "|#site:own"]);
    let rate = *random.pick(&["", "", "|@0.1", "|@0.3"]);
    let n = random.below(8) + interval / 3 * 3;
    let value = random.lognormal(20.0, 1.5);
    let decimals = *random.pick(&[0, 1, 3, 9]);
    let kind = *random.pick(&["ms", "h", "d"]);
    let (second, unique) = (EPOCH as u64 + interval * 10 + random.below(5), random.next() % 1_000_000);
    let gauge = |name: String, sign: char| {
        let text = format!("{name}:{}{value:.2}|g", if sign == '=' { String::new() } else { sign.to_string() });
        (text, Some((name, sign, format!("{value:.2}").parse().expect("a number"))))
    };
    // Of a gauge with a rule all values are at one edge, unless the lines are at any.
    let sign = *random.pick(&['=', '=', '+', '-']);
    let (text, gauge) = match random.below(20) {
        0..3 => (format!("c.{n}:{value:.decimals$}|c{rate}{tags}"), None),
        3 => gauge(format!("g.{sender}.{n}"), sign),
        4 => gauge(format!("most.{sender}"), sign),
        5 => gauge(format!("sum.{sender}"), sign),
        // Each edge has few samples of these, and all have many.
        6..9 => (format!("t.{n}:{value:.decimals$}|{kind}{rate}{tags}"), None),
        9 => (format!("t.many:{value:.decimals$}|ms{rate}"), None),
        10 => (format!("fine.{}:{value:.decimals$}|h", n % 2), None),
        11 => (format!("s.{}:{}|s", n % 3, random.below(9000)), None),
        12 => (format!("k.{n}:{value:.decimals$}|kv"), None),
        13 => (format!("stamped.{n}:{value:.1}|c|T{second}"), None),
        14 => (format!("stamped.g.{edge}.{unique}:{value:.1}|g|T{second}"), None),
        15 => (format!("slow.{n}:{value:.1}|{}", *random.pick(&["c", "ms", "kv"])), None),
        16 => (format!("slow.s.{n}:{}|s\nslow.g.{sender}:{value:.1}|g", random.below(50)), None),
        17 => (format!("old.{n}:{value:.1}|{}", *random.pick(&["c", "ms"])), None),
        18 => (format!("_e{{5,2}}:e{unique:04}|ab|#k:{n}\n_sc|check.{n}|{}|m:{unique}", n % 4), None),
        _ => ("dropped.x:1|c\nbroken\n\nz:1|nokind".into(), None),
    };
    Line { at, edge, text, gauge }
}

/// The bus in memory.
#[derive(Default)]
struct Bus {
    end: u64,
    sessions: BTreeMap<usize, Stored>,
    records: BTreeMap<u16, Vec<Stored>>,
    batches: BTreeMap<u16, Vec<StoredBatch>>,
    checkpoints: BTreeMap<u64, Bytes>,
}

impl Bus {
    fn store(&mut self, now: f64, payload: Bytes) -> Stored {
        self.end += 1;
        Stored { sequence: self.end, stored: EPOCH + now, payload }
    }

    /// Does a command of a node at once.
    fn take(&mut self, node: usize, now: f64, command: Command<Emission<IntervalContent>>) -> Event {
        match command {
            Command::PutSession { number, payload } => {
                let stored = self.store(now, payload);
                let sequence = stored.sequence;
                self.sessions.insert(node, stored);
                Event::SessionStored { number, sequence }
            }
            Command::ReadSessions => Event::Sessions(self.sessions.values().cloned().collect()),
            Command::ReadLastRecord { partition } => {
                let record = self.records.get(&partition).and_then(|all| all.last()).cloned();
                Event::LastRecord { partition, record }
            }
            Command::ReadRecords { partition, after } => {
                let all = self.records.get(&partition).into_iter().flatten();
                let records = all.filter(|record| record.sequence > after).cloned().collect();
                Event::Records { partition, after, records }
            }
            Command::WriteRecord { partition, expected, payload } => {
                let last = self.records.get(&partition).and_then(|all| all.last()).map_or(0, |last| last.sequence);
                if last == expected {
                    let record = self.store(now, payload);
                    self.records.entry(partition).or_default().push(record);
                }
                Event::RecordAnswered { partition }
            }
            Command::ReadBatches { at, from } => {
                let all = self.batches.get(&at.partition).into_iter().flatten();
                let batches = all.filter(|batch| batch.sequence >= from).cloned().collect();
                Event::Batches { at, batches, is_end: true, first: 1, last: self.end }
            }
            Command::ReadBodies { at, sequences } => {
                let all = self.batches.get(&at.partition).into_iter().flatten();
                let batches = all.filter(|batch| sequences.contains(&batch.sequence)).cloned().collect();
                Event::Bodies { at, batches }
            }
            Command::WriteCheckpoint { at, payload } => {
                let sequence = self.store(now, payload.clone()).sequence;
                self.checkpoints.insert(sequence, payload);
                Event::CheckpointStored { at, sequence }
            }
            Command::ReadCheckpoint { at, sequence } => {
                Event::Checkpoint { at, payload: self.checkpoints.get(&sequence).cloned() }
            }
            Command::Emit { .. } => unreachable!("sinks are no bus"),
        }
    }
}

/// Edges, owners and the bus.
struct Cluster {
    bus: Bus,
    content: Arc<IntervalContent>,
    receivers: Vec<Receiver>,
    edges: Vec<Edge>,
    nodes: Vec<Node<IntervalContent>>,
    /// By interval and node.
    emitted: BTreeMap<(u64, usize), Vec<Emission<IntervalContent>>>,
}

impl Cluster {
    fn new() -> Cluster {
        let content =
            Arc::new(IntervalContent::new(ContentOptions { registry: registry_options(true), interval_secs: SECS }));
        let terms = Terms {
            partitions: PARTITIONS,
            interval_secs: SECS,
            lateness_secs: 10.0,
            late: Late::Drop,
            config: 0,
            forget_secs: 7200.0,
        };
        let edge = |n: usize| {
            let name = format!("e{n}").parse().expect("a name");
            let options =
                EdgeOptions { name, boot: 1, partitions: PARTITIONS, config: 0, spool_bytes: 1 << 30, seed: n as u64 };
            Edge::start(options, SavedEdge { is_clean: true, ..SavedEdge::default() }, FIRST, 0.0)
        };
        let node = |n: u64| {
            let id = SessionId { node: format!("g{n}").parse().expect("a name"), start: 1 };
            Node::new(NodeOptions { id, terms, seed: n }, Arc::clone(&content))
        };
        Cluster {
            bus: Bus::default(),
            receivers: (0..EDGES as u64).map(|n| Receiver::new(true, n)).collect(),
            edges: (0..EDGES).map(edge).collect(),
            nodes: [1, 2].map(node).into(),
            emitted: BTreeMap::new(),
            content,
        }
    }

    /// Has all edges seal an interval.
    fn seal(&mut self, interval: u64) {
        for (receiver, edge) in self.receivers.iter_mut().zip(&mut self.edges) {
            let snapshot = receiver.close(interval);
            let parts = partition(&snapshot, NonZeroU16::new(PARTITIONS).expect("not 0"));
            let all = parts.iter().map(|part| {
                let bodies = bodies(part, 100);
                assert!(bodies.left_out.is_empty());
                bodies.bodies.into_iter().map(Bytes::from).collect()
            });
            let (all, account) = (all.collect::<Vec<Vec<Bytes>>>(), EdgeAccount::new(&snapshot.ledger));
            edge.seal(&Heard { interval, length: SECS, bodies: &all, account: Some(&account) });
        }
    }

    /// Lets some time pass.
    fn run(&mut self, from: f64, until: f64) {
        let mut now = from;
        while now < until {
            for edge in &mut self.edges {
                while let due @ [_, ..] = &edge.due(now)[..] {
                    for one in due {
                        self.bus.end += 1;
                        let (sequence, stored) = (self.bus.end, EPOCH + now);
                        let batch = StoredBatch { sequence, stored, sent: stored, payload: one.payload.clone() };
                        self.bus.batches.entry(one.partition).or_default().push(batch);
                        edge.acknowledged(one.partition, one.boot, one.n);
                    }
                }
            }
            for (n, node) in self.nodes.iter_mut().enumerate() {
                node.tick(now);
                loop {
                    let commands = node.commands();
                    if commands.is_empty() {
                        break;
                    }
                    for command in commands {
                        if let Command::Emit { at, emission } = command {
                            self.emitted.entry((emission.interval, n)).or_default().push(emission);
                            node.take(Event::Emitted { at }, now);
                        } else {
                            node.take(self.bus.take(n, now, command), now);
                        }
                    }
                }
            }
            now += Node::<IntervalContent>::tick_secs();
        }
    }
}

/// Lines of an interval to everybody; what one node flushes.
fn receive(cluster: &mut Cluster, alone: &mut Receiver, lines: &[Line]) {
    for line in lines {
        cluster.receivers[line.edge].take(line);
        alone.take(line);
    }
}

type Fields = serde_json::Map<String, Value>;

/// The records of snapshots, without the ledger, by what they are of.
fn records(snapshots: &[Snapshot]) -> BTreeMap<String, Vec<Fields>> {
    let mut all: BTreeMap<String, Vec<Fields>> = BTreeMap::new();
    for snapshot in snapshots {
        let mut text = Vec::new();
        Records { ledger: false, ..Records::ALL }.write(snapshot, &mut text);
        for line in String::from_utf8(text).expect("text").lines() {
            let Value::Object(fields) = serde_json::from_str(line).expect("JSON") else { panic!("{line}") };
            let word = |field: &str| fields.get(field).map_or(String::new(), Value::to_string);
            let own = if word("type") == "\"kv\"" { "value" } else { "title" };
            let key = ["type", "name", "tags", "time", own].map(word).join(" ");
            all.entry(key).or_default().push(fields);
        }
    }
    all
}

/// Fields that are sums of floating-point numbers.
const SUMS: [&str; 8] = ["value", "rate", "count", "sum", "sum_squares", "mean", "stddev", "buckets"];

fn is_close(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => {
            let (a, b) = (a.as_f64().expect("a number"), b.as_f64().expect("a number"));
            a == b || (a - b).abs() <= 1e-12 * a.abs().max(b.abs())
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, one)| b.get(key).is_some_and(|other| is_close(one, other)))
        }
        (a, b) => a == b,
    }
}

fn is_same(a: &Fields, b: &Fields) -> bool {
    a.len() == b.len()
        && a.iter().all(|(field, one)| {
            let Some(other) = b.get(field) else { return false };
            one == other || SUMS.contains(&field.as_str()) && is_close(one, other)
        })
}

/// A gauge, worked out from its lines: of an interval the latest absolute value of any edge with what followed it there, and
/// the adjustments of edges that have none.
#[derive(Clone, Copy)]
struct Level {
    value: f64,
    updated: u64,
}

fn levels(known: &mut HashMap<String, Level>, interval: u64, lines: &[Line]) {
    /// Of an edge: what was set when, what followed, and what was adjusted without.
    type Side = (Option<(f64, f64)>, f64);
    let mut sides: HashMap<(&str, usize), Side> = HashMap::new();
    for line in lines {
        let Some((name, sign, value)) = &line.gauge else { continue };
        let side = sides.entry((name, line.edge)).or_default();
        match sign {
            '=' => *side = (Some((line.at, *value)), 0.0),
            '+' => side.1 += value,
            _ => side.1 -= value,
        }
    }
    let mut names: Vec<&str> = sides.keys().map(|(name, _)| *name).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let own = || (0..EDGES).filter_map(|edge| sides.get(&(name, edge)));
        let loose: f64 = own().filter(|side| side.0.is_none()).map(|side| side.1).sum();
        let latest = own().filter_map(|side| Some((side.0?, side.1))).max_by(|a, b| a.0.0.total_cmp(&b.0.0));
        let before = known.get(name).map_or(0.0, |level| level.value);
        let value = latest.map_or(before, |((_, set), followed)| set + followed) + loose;
        known.insert(name.to_string(), Level { value, updated: interval });
    }
    known.retain(|_, level| interval - level.updated < GAUGE_INTERVALS);
}

/// Takes the gauges of the lines out of records, by their name.
fn take_gauges(records: &mut BTreeMap<String, Vec<Fields>>) -> BTreeMap<String, f64> {
    let is_gauge = |fields: &Fields| {
        let name = fields.get("name").and_then(Value::as_str).unwrap_or_default();
        fields["type"] == "gauge" && ["p.g.", "p.most.", "p.sum."].iter().any(|prefix| name.starts_with(prefix))
    };
    let all = records.extract_if(.., |_, all| all.iter().any(is_gauge)).flat_map(|(_, all)| all);
    all.map(|one| (one["name"].as_str().unwrap_or_default()[2..].to_string(), one["value"].as_f64().expect("a number")))
        .collect()
}

/// Names of key-value pairs of which there are more values than one node keeps of an interval.
fn full_pairs(lines: &[Line]) -> HashSet<String> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for line in lines.iter().filter(|line| line.text.ends_with("|kv")) {
        *counts.entry(line.text.split(':').next().unwrap_or_default()).or_default() += 1;
    }
    let full = counts.into_iter().filter(|(_, values)| *values > TIMERS.exact_samples);
    full.map(|(name, _)| format!("p.{name}")).collect()
}

/// Takes the records of these key-value pairs out; how many values each has.
fn take_pairs<'a>(
    records: &mut BTreeMap<String, Vec<Fields>>,
    names: impl Iterator<Item = &'a HashSet<String>> + Clone,
) -> BTreeMap<String, usize> {
    let is_full = |fields: &Fields| {
        let name = fields.get("name").and_then(Value::as_str).unwrap_or_default();
        fields["type"] == "kv" && names.clone().any(|names| names.contains(name))
    };
    let mut counts = BTreeMap::new();
    for one in records.extract_if(.., |_, all| all.iter().any(is_full)).flat_map(|(_, all)| all) {
        *counts.entry(one["name"].to_string()).or_default() += 1;
    }
    counts
}

fn holds(seed: u64, split: Split, lines: u64) {
    let mut random = Random(seed);
    let (mut cluster, mut alone) = (Cluster::new(), Receiver::new(false, 99));
    let (mut expected, mut expected_levels, mut level) = (Vec::new(), Vec::new(), HashMap::new());
    let mut full: Vec<HashSet<String>> = Vec::new();
    for interval in FIRST..FIRST + INTERVALS {
        let count = if interval < FIRST + BUSY { lines / BUSY } else { 0 };
        let start = interval as f64 * SECS;
        let all: Vec<Line> = (0..count)
            .map(|n| line(&mut random, split, interval - FIRST, start + SECS * n as f64 / count as f64))
            .collect();
        receive(&mut cluster, &mut alone, &all);
        cluster.run(start - EPOCH, start + SECS - EPOCH);
        cluster.seal(interval);
        expected.push(alone.close(interval));
        levels(&mut level, interval, &all);
        expected_levels.push(level.clone());
        full.push(full_pairs(&all));
        if interval == FIRST + BUSY / 2 {
            cluster.nodes[1].leave();
        }
    }
    let end = (FIRST + INTERVALS) as f64 * SECS - EPOCH;
    cluster.run(end, end + 30.0);
    let owners = cluster.emitted.values().filter(|all| !all.is_empty()).count();
    assert!(owners > INTERVALS as usize, "one node owned all");
    let mut compared = 0;
    for (interval, (alone, levels)) in (FIRST..).zip(expected.iter().zip(&expected_levels)) {
        let mut parts: Vec<Vec<Emission<IntervalContent>>> = Vec::new();
        for node in 0..2 {
            parts.extend(cluster.emitted.remove(&(interval, node)));
        }
        let mut partitions: Vec<u16> = parts.iter().flatten().map(|one| one.partition).collect();
        partitions.sort_unstable();
        assert_eq!(partitions, (0..PARTITIONS).collect::<Vec<_>>(), "{split:?} {interval}");
        let snapshots: Vec<Snapshot> = parts.into_iter().map(|part| cluster.content.snapshot(part)).collect();
        let (mut ours, mut theirs) = (records(&snapshots), records(std::slice::from_ref(alone)));
        if split == Split::AtRandom {
            let (gauges, _) = (take_gauges(&mut ours), take_gauges(&mut theirs));
            for (name, level) in levels.iter().filter(|(name, _)| name.starts_with("g.")) {
                let value = gauges.get(name).unwrap_or_else(|| panic!("{interval}: {name} is missing"));
                assert!((value - level.value).abs() <= 1e-9, "{interval}: {name} is {value}, not {}", level.value);
            }
            let plain = gauges.keys().filter(|name| name.starts_with("g.")).count();
            assert_eq!(plain, levels.keys().filter(|name| name.starts_with("g.")).count(), "{interval}");
        }
        // A rule may make an interval of three.
        let last = (interval - FIRST) as usize;
        let recent = full[last.saturating_sub(2)..=last].iter();
        assert_eq!(take_pairs(&mut ours, recent.clone()), take_pairs(&mut theirs, recent), "{split:?} {last}");
        compare(&ours, &theirs, &format!("seed {seed}, {split:?}, interval {last}"));
        compared += ours.len();
        let lines = snapshots.iter().fold(LineAccount::default(), |mut sum, one| {
            systole::internals::telemetry::Account::add(&mut sum, &one.ledger.lines);
            sum
        });
        let merging = snapshots.iter().filter_map(|one| one.ledger.cluster.as_ref());
        let limited: u64 = merging.map(|cluster| cluster.samples_limited.of(Limit::KvValues)).sum();
        let received = snapshots.iter().map(|one| one.ledger.samples.clone()).filter(|own| own.read > 0);
        let samples: Vec<SampleAccount> = received
            .map(|mut own| {
                own.recorded -= limited;
                own.limited.count(Limit::KvValues, limited);
                own
            })
            .collect();
        assert_eq!(lines, alone.ledger.lines);
        assert!(samples.iter().all(|own| *own == alone.ledger.samples), "{samples:?} {:?}", alone.ledger.samples);
        assert!(snapshots.iter().all(|one| one.ledger.completeness == 1.0));
    }
    println!("{split:?}: {compared} records are the same");
}

fn compare(ours: &BTreeMap<String, Vec<Fields>>, theirs: &BTreeMap<String, Vec<Fields>>, place: &str) {
    let differ: Vec<_> = ours.keys().filter(|key| !theirs.contains_key(*key)).collect();
    assert!(differ.is_empty(), "{place}: one node has not {:?}", &differ[..differ.len().min(5)]);
    for (key, one) in theirs {
        let other = ours.get(key).unwrap_or_else(|| panic!("{place}: {key} is missing"));
        assert_eq!(one.len(), other.len(), "{place}: {key}");
        for (one, other) in one.iter().zip(other) {
            assert!(is_same(one, other), "{place}: {key}\none node: {one:?}\ncluster:  {other:?}");
        }
    }
}

#[test]
fn three_edges_give_the_records_of_one_node() {
    let lines = size("SYSTOLE_TEST_EQUAL_LINES", 20_000);
    for (seed, split) in (1..).zip([Split::BySender, Split::AtRandom, Split::AllToOne]) {
        holds(seed, split, lines);
    }
}
