//! Nothing is lost without being counted: the ledger's equations over random mixes of input, and snapshots of
//! several senders' daemons that merge to the one daemon's.

use std::collections::{BTreeMap, HashMap};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use systole::internals::aggregate::{Columns, Partial, Quota, Shard, ShardOptions, TimeWindow, TimerPolicy};
use systole::internals::memory::Memory;
use systole::internals::net::relay::{self, Mode, RelaySpec};
use systole::internals::protocol::{Kind, Options};
use systole::internals::rollup::{Interval, Registry, RegistryOptions};
use systole::internals::snapshot::{Snapshot, SummaryPolicy, merge};
use systole::internals::supervise::Supervisor;
use systole::internals::telemetry::{Account, EntryKind, Ledger, LineAccount, SampleAccount, TABLE, Term};

use crate::support::{Random, alone, pause, size};

const TIMERS: TimerPolicy = TimerPolicy { exact_samples: 64, digits: 3, weighted: true };

struct Fixture {
    shards: Vec<Shard>,
    registry: Registry,
    closed: u32,
}

impl Fixture {
    fn new(shards: usize, max_series: usize) -> Fixture {
        let quota = Quota::new(max_series);
        let options = RegistryOptions {
            summary: Arc::new(SummaryPolicy {
                timers: TIMERS,
                percentiles: vec![50.0, 99.0],
                ..SummaryPolicy::default()
            }),
            series_ttl_secs: [Some(20.0); 5],
            ..RegistryOptions::default()
        };
        let shard = |n| {
            Shard::new(ShardOptions {
                timers: TIMERS,
                fold_histograms: false,
                quota: quota.clone(),
                seed: n,
                rules: None,
                heartbeats: None,
                times: TimeWindow { past_secs: 5e4, future_secs: 3600.0, origin: Some(0.0) },
            })
        };
        Fixture { shards: (0..shards as u64).map(shard).collect(), registry: Registry::new(options, shards), closed: 0 }
    }

    fn close(&mut self) -> Snapshot {
        let now = f64::from(self.closed) * 10.0;
        self.closed += 1;
        let registry = &self.registry;
        let mut partials: Vec<Partial> = self
            .shards
            .iter_mut()
            .enumerate()
            .map(|(n, shard)| shard.close(registry.retirements(n, now), Columns::default()))
            .collect();
        self.registry.close(&mut partials, Interval::new(now + 10.0, 10.0, now + 10.0, Duration::from_secs(10)))
    }
}

/// A datagram of good, partly bad, bad, blank and overlong lines.
fn datagram(random: &mut Random) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..random.below(6) {
        let name = format!("{}.{}", random.pick(&["api", "db", "x y", "ü"]), random.below(40));
        let kind = *random.pick(&["c", "g", "ms", "h", "d", "s", "m", "kv", "z", "", "C"]);
        let value = match random.below(8) {
            0 => "nope".to_string(),
            1 => String::new(),
            2 => format!("{}:{}:{}", random.below(9), random.below(9), random.below(9)),
            3 => format!("-{}", random.below(100)),
            4 => "1e400".into(),
            _ => format!("{}.{}", random.below(1000), random.below(10)),
        };
        let tail = *random.pick(&[
            "",
            "|@0.1",
            "|@x",
            "|#k:v",
            "|#a,b:c|c:id",
            "|T5",
            "|T-5",
            "|odd:1",
            "|@0.5:7|ms",
            "|:3|c",
        ]);
        match random.below(12) {
            0 => out.extend_from_slice(b" \t"),
            1 => out.extend_from_slice(b"_e{2,3}:ab|cde|t:error|#x|d:5"),
            2 => out.extend_from_slice(b"_sc|check|2|m:bad"),
            3 => out.extend((0..random.below(40)).map(|_| random.next() as u8)),
            4 => out.extend_from_slice(format!("{}:1|c", "n".repeat(1000 + random.below(60) as usize)).as_bytes()),
            _ => out.extend_from_slice(format!("{name}:{value}|{kind}{tail}").as_bytes()),
        }
        out.extend_from_slice(if random.below(5) == 0 { b"\r\n" } else { b"\n" });
    }
    out
}

#[test]
fn the_equations_hold_over_random_mixes() {
    let _alone = alone();
    let cases = size("SYSTOLE_TEST_MIXES", 100_000);
    let mut random = Random(20_261_122);
    let mut fixture = Fixture::new(2, 60);
    let (mut lines, mut retired) = (0, 0);
    let mut totals = Ledger::default();
    for case in 0..cases {
        let bytes = datagram(&mut random);
        // What a reader of the datagram would call lines: pieces between newlines, the last unless it is empty.
        let pieces = bytes.split(|&b| b == b'\n').count() as u64;
        lines += if bytes.is_empty() || bytes.ends_with(b"\n") { pieces - 1 } else { pieces };
        fixture.shards[(case % 2) as usize].ingest(&bytes, &Options::default(), None, case as f64);
        if random.below(200) == 0 {
            let snapshot = fixture.close();
            assert_eq!(snapshot.ledger.check(), Ok(()), "seed 20261122, case {case}");
            assert_eq!(snapshot.ledger.lines.read, lines, "case {case}");
            totals.add(&snapshot.ledger);
            retired += u64::from(fixture.shards.iter().map(Shard::len).sum::<usize>() < 60);
            lines = 0;
        }
    }
    assert_eq!(totals.check(), Ok(()));
    // The mix reached every term, but for those that these shards are not set up for.
    let mut missed = Vec::new();
    let mut note = |part: &str, field: &str, count: u64| {
        if count == 0 && !matches!(field, "heartbeats" | "dropped_by_rule" | "limited" | "internal_error") {
            missed.push(format!("{part}.{field}"));
        }
    };
    totals.lines.each(&mut |entry, value| {
        if entry.term != Term::None {
            note(LineAccount::PART, entry.field, value.count());
        }
    });
    totals.samples.each(&mut |entry, value| {
        if entry.term != Term::None {
            note(SampleAccount::PART, entry.field, value.count());
        }
    });
    assert!(missed.is_empty() && retired > 0, "{missed:?} {retired}");
}

/// Every counter of an account set to 1, 2, 4 and so on, through the JSON that the table describes; reasons are given one each.
fn numbered<A: Account + serde::de::DeserializeOwned + serde::Serialize>(first: u64) -> A {
    let mut fields = serde_json::to_value(A::default()).expect("JSON");
    let reason = |field: &str| match field {
        "malformed" => "bad_value",
        "limited" | "samples_limited" => "kv_values",
        "refused" | "connections_refused" => "full",
        _ => "queue_full",
    };
    for (n, entry) in A::ENTRIES.iter().enumerate() {
        let number = serde_json::json!(first << n);
        match (entry.kind, entry.by) {
            (EntryKind::Counter, Some(_)) => fields[entry.field] = serde_json::json!({ reason(entry.field): number }),
            (EntryKind::Counter, None) => fields[entry.field] = number,
            (EntryKind::Gauge | EntryKind::Detail | EntryKind::Accounts, _) => {}
        }
    }
    serde_json::from_value(fields).expect("an account")
}

/// Each counter of an account is added, subtracted and part of the equation that the table says.
fn holds_for<A: Account + serde::de::DeserializeOwned + serde::Serialize + PartialEq + std::fmt::Debug>() {
    let (first, second): (A, A) = (numbered(1), numbered(3));
    let mut both = first.clone();
    both.add(&second);
    assert_eq!(both, numbered(4), "{}", A::PART);
    assert_eq!(both.since(&second), first, "{}", A::PART);
    let (mut whole, mut parts) = (0, 0);
    first.each(&mut |entry, value| {
        whole += if entry.term == Term::Whole { value.count() } else { 0 };
        parts += if entry.term == Term::Part { value.count() } else { 0 };
    });
    let has_equation = A::ENTRIES.iter().any(|entry| entry.term == Term::Whole);
    assert_eq!(first.check().is_err(), has_equation && whole != parts, "{}", A::PART);
}

#[test]
fn every_counter_of_the_table_is_added_and_published() {
    use systole::internals::telemetry::{
        CaptureAccount, ClusterAccount, ClusterPartitionAccount, FlushAccount, HistoryAccount, HolderAccount,
        ListenerAccount, LogAccount, ManagementAccount, MemoryAccount, NotifierAccount, PartAccount, PortAccount,
        PresenceAccount, RelayAccount, SeriesAccount, SinkAccount, StateAccount, TargetAccount,
    };
    holds_for::<ListenerAccount>();
    holds_for::<LineAccount>();
    holds_for::<SampleAccount>();
    holds_for::<SinkAccount>();
    holds_for::<RelayAccount>();
    holds_for::<TargetAccount>();
    holds_for::<NotifierAccount>();
    holds_for::<LogAccount>();
    holds_for::<CaptureAccount>();
    holds_for::<PresenceAccount>();
    holds_for::<PortAccount>();
    holds_for::<ManagementAccount>();
    holds_for::<MemoryAccount>();
    holds_for::<HolderAccount>();
    holds_for::<HistoryAccount>();
    holds_for::<StateAccount>();
    holds_for::<PartAccount>();
    holds_for::<ClusterAccount>();
    holds_for::<ClusterPartitionAccount>();
    let relay = RelayAccount { targets: [("t".to_string(), numbered(1))].into(), ..numbered(1) };
    let ledger = Ledger {
        listeners: vec![ListenerAccount { url: "udp://[::1]:1".into(), ..numbered(1) }],
        lines: numbered(1),
        samples: numbered(1),
        series: SeriesAccount { counters: 1, ..SeriesAccount::default() },
        sinks: [("s".to_string(), numbered(1))].into(),
        relays: [("r".to_string(), relay)].into(),
        notify: [("n".to_string(), numbered(1))].into(),
        ports: [("p".to_string(), numbered(1))].into(),
        log: numbered(1),
        capture: Some(numbered(1)),
        presence: numbered(1),
        management: numbered(1),
        memory: MemoryAccount { holders: [("h".to_string(), numbered(1))].into(), ..numbered(1) },
        history: numbered(1),
        parts: [("p".to_string(), numbered(1))].into(),
        cluster: Some(ClusterAccount { partitions: [("7".to_string(), numbered(1))].into(), ..numbered(1) }),
        state: [("s".to_string(), numbered(1))].into(),
        flush: numbered::<FlushAccount>(1),
        unclean_stop: Some(1.0),
        completeness: 1.0,
    };
    let (series, metrics) = (ledger.series(&Ledger::default()), ledger.metrics());
    let mut visited = 0;
    ledger.each(&mut |_, _, _| visited += 1);
    for (part, labels, entries) in TABLE {
        visited -= entries.len();
        for entry in entries.iter() {
            let (name, at) = (entry.field, format!("{part}.{}", entry.field));
            if let Some(name) = entry.series {
                let found = series.iter().find(|(series, _)| series.name() == format!("systole.{name}"));
                let (found, value) = found.unwrap_or_else(|| panic!("{at} has no series"));
                assert!(labels.iter().all(|label| found.tags().any(|(key, _)| key == *label)), "{at}: {found}");
                assert!(*value > 0.0 || entry.kind == EntryKind::Gauge, "{at}");
            }
            let names = entry.metric.into_iter().chain(entry.family.map(|(family, _)| family.name));
            for metric in names {
                let found = metrics.iter().find(|found| found.name == metric);
                let found = found.unwrap_or_else(|| panic!("{at} has no metric"));
                assert_eq!(found.is_counter, entry.kind == EntryKind::Counter, "{at}");
                let has_all = |sample: &[(&str, String)]| labels.iter().all(|l| sample.iter().any(|(key, _)| key == l));
                assert!(!found.help.is_empty() && found.samples.iter().all(|(l, _)| has_all(l)), "{at}: {found:?}");
            }
            assert!(!entry.help().is_empty() && entry.help().ends_with(['.', ')']), "{name}: {}", entry.help());
        }
    }
    assert_eq!(visited, 0, "a part of the ledger is not in the table, or not shown");
}

#[test]
fn recorded_values_are_the_values_sent() {
    let mut random = Random(7);
    let mut fixture = Fixture::new(1, 1_000_000);
    let mut counters: HashMap<String, f64> = HashMap::new();
    let mut timers: HashMap<String, u64> = HashMap::new();
    for _ in 0..20_000 {
        let (name, value) = (format!("n{}", random.below(300)), random.below(1000));
        let line = if random.below(2) == 0 {
            *counters.entry(name.clone()).or_default() += value as f64;
            format!("{name}:{value}|c")
        } else {
            *timers.entry(name.clone()).or_default() += 1;
            format!("{name}:{value}|ms")
        };
        fixture.shards[0].ingest(line.as_bytes(), &Options::default(), None, 0.0);
    }
    let snapshot = fixture.close();
    assert_eq!((snapshot.counters.len(), snapshot.timers.len()), (counters.len(), timers.len()));
    snapshot.counters.iter().for_each(|p| assert_eq!(p.sum.value(), counters[p.series.name()]));
    snapshot.timers.iter().for_each(|p| assert_eq!(p.timer.samples(), timers[p.series.name()]));
}

/// What a sender does to one of a few series.
#[derive(Clone, Debug)]
struct Op {
    sender: usize,
    line: String,
    gauge: Option<(u8, f64)>,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = (0..3_usize, 0..6_u8, 0..4_u8, -50..50_i32, prop::bool::ANY).prop_map(
        |(sender, kind, name, value, sampled)| {
            let rate = if sampled { "|@0.5" } else { "" };
            let (line, gauge) = match kind {
                0 => (format!("n{name}:{value}|c{rate}"), None),
                1 => (format!("n{name}:{}|ms{rate}", value.abs()), None),
                2 => (format!("n{name}:{value}|h{rate}|#t:{}", name % 2), None),
                3 => (format!("n{name}:member{value}|s"), None),
                4 => (format!("n{name}:{}|g", value.abs()), Some((name, f64::from(value.abs())))),
                _ => (format!("n{name}:{value:+}|g"), Some((name, f64::NAN))),
            };
            Op { sender, line, gauge }
        },
    );
    prop::collection::vec(op, 0..400)
}

/// What the invariant on order says of a gauge: of the senders that set it, the one that did so last wins,
/// with the adjustments that followed on its side; adjustments of senders that never set it are added.
fn gauges_by_the_invariant(ops: &[Op]) -> BTreeMap<String, f64> {
    let mut sides: BTreeMap<u8, [(Option<usize>, f64); 3]> = BTreeMap::new();
    for (time, op) in ops.iter().enumerate() {
        let Some((name, value)) = op.gauge else {
            continue;
        };
        let side = &mut sides.entry(name).or_insert([(None, 0.0); 3])[op.sender];
        if value.is_nan() {
            let by = op.line.split([':', '|']).nth(1).and_then(|text| text.parse::<f64>().ok()).expect("a number");
            side.1 += by;
        } else {
            *side = (Some(time), value);
        }
    }
    let value = |sides: &[(Option<usize>, f64); 3]| {
        let winner = sides.iter().filter(|side| side.0.is_some()).max_by_key(|side| side.0).map_or(0.0, |side| side.1);
        winner + sides.iter().filter(|side| side.0.is_none()).map(|side| side.1).sum::<f64>()
    };
    sides.iter().map(|(name, sides)| (format!("n{name}"), value(sides))).collect()
}

/// A relay to these targets over random pieces: its last account, and the lines that were put.
fn relay(random: &mut Random, targets: Vec<SocketAddr>, mode: Mode, queue: usize, pieces: u64) -> (Ledger, u64) {
    let spec = RelaySpec {
        name: "r".into(),
        targets,
        mode,
        max_datagram: 600,
        queue,
        health_port: None,
        health_every: Duration::from_millis(20),
        gso: random.below(2) == 0,
    };
    let (inlet, relayed, thread) = relay::start(spec, &Memory::unlimited(), &Supervisor::default()).expect("it starts");
    let account = || Ledger {
        relays: BTreeMap::from([(relayed.name().to_string(), relayed.account())]),
        completeness: 1.0,
        ..Ledger::default()
    };
    let (mut all, mine) = (0, std::process::id());
    for n in 0..pieces {
        let lines = 1 + random.below(5);
        all += lines;
        let piece: Vec<String> = (0..lines).map(|k| format!("{mine}.{n}.{k}.{lines}:1|c")).collect();
        inlet.put(format!("{}\n", piece.join(if random.below(9) == 0 { "\n\n" } else { "\n" })).as_bytes());
        if random.below(40) == 0 {
            // At any moment of its work.
            pause(Duration::from_micros(random.below(2000)));
            assert_eq!(account().check(), Ok(()));
        }
    }
    drop(inlet);
    thread.join().expect("it ends");
    (account(), all)
}

#[test]
fn what_a_relay_was_offered_is_delivered_or_dropped() {
    let mut random = Random(20_261_126);
    let (mut queue_full, mut target_down) = (0, 0);
    // Another process may send to the port, which had been another's before.
    let mine = format!("{}.", std::process::id());
    for round in 0..200 {
        // Many lines, or few that are all sent at the end.
        let pieces = if round < 24 { 300 } else { 10 + random.below(50) };
        let there = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        there.set_nonblocking(true).expect("it can be");
        let gone = || UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port");
        let mut targets = vec![there.local_addr().expect("bound")];
        let is_alone = round % 3 == 0;
        if !is_alone {
            targets.extend([gone(), gone()]);
        }
        let mode = if random.below(2) == 0 { Mode::Mirror } else { Mode::Spread };
        let queue = if random.below(2) == 0 { 4 } else { 10_000 };
        let (ledger, lines) = relay(&mut random, targets, mode, queue, pieces);
        assert_eq!(ledger.check(), Ok(()), "round {round}");
        let account = &ledger.relays["r"];
        assert_eq!((account.offered, account.queued), (pieces, 0), "round {round}: {account:?}");
        queue_full += account.dropped.of("queue_full");
        target_down += account.dropped.of("target_down");
        if mode == Mode::Spread && account.dropped.of("queue_full") == 0 {
            // Each line went to one, whoever was down meanwhile.
            let told: u64 = account.targets.values().map(|target| target.lines + target.lost).sum();
            assert_eq!(told, lines, "round {round}: {account:?}");
        }
        if is_alone {
            // What was sent over loopback lies in the socket.
            let mut buffer = [0; 65_536];
            let mut came: HashMap<(String, u64), u64> = HashMap::new();
            while let Ok(count) = there.recv(&mut buffer) {
                for line in String::from_utf8_lossy(&buffer[..count]).split('\n').filter(|line| line.starts_with(&mine))
                {
                    let parts: Vec<&str> = line.split(['.', ':']).collect();
                    *came.entry((parts[1].into(), parts[3].parse().expect("a number"))).or_default() += 1;
                }
            }
            assert!(came.iter().all(|((_, lines), came)| lines == came), "round {round}: {came:?}");
            assert_eq!(came.len() as u64, account.delivered, "round {round}: {account:?}");
        }
    }
    assert!(queue_full > 0 && target_down > 0, "{queue_full} {target_down}");
}

type Values = BTreeMap<String, f64>;

/// Everything a snapshot says but gauges, and its gauges.
fn content(snapshot: &Snapshot) -> (Values, Values) {
    let mut values: Values = snapshot.counters.iter().map(|p| (format!("c {}", p.series), p.sum.value())).collect();
    values.extend(snapshot.sets.iter().map(|p| (format!("s {}", p.series), p.members.count())));
    for point in &snapshot.timers {
        let (key, s) = (format!("{} {}", point.series.kind().name(), point.series), snapshot.summary(point));
        let mut put = |what: &str, value: f64| values.insert(format!("{key} {what}"), value);
        put("count", s.count);
        put("samples", s.samples as f64);
        put("sum", s.sum);
        put("min", s.min);
        put("max", s.max);
        put("stddev", (s.stddev * 1e6).round() / 1e6);
        s.percentiles.iter().for_each(|p| {
            put(&format!("p{}", p.percentile), p.value);
        });
    }
    let gauges = snapshot.gauges.iter().map(|p| (p.series.name().to_string(), p.gauge.value())).collect();
    (values, gauges)
}

fn nearly(a: &Values, b: &Values) -> bool {
    a.len() == b.len()
        && a.iter().zip(b).all(|((ka, va), (kb, vb))| ka == kb && (va - vb).abs() <= 1e-9 * va.abs().max(1.0))
}

#[test]
fn snapshots_of_several_senders_merge_to_the_one_daemons() {
    let mut runner = TestRunner::new(Config { cases: size("SYSTOLE_TEST_MERGES", 400) as u32, ..Config::default() });
    let outcome = runner.run(&ops(), |ops| {
        let mut one = Fixture::new(1, 1000);
        let mut three = Fixture::new(3, 1000);
        let mut apart = [Fixture::new(1, 1000), Fixture::new(1, 1000), Fixture::new(1, 1000)];
        for (time, op) in ops.iter().enumerate() {
            let (bytes, now) = (op.line.as_bytes(), time as f64);
            one.shards[0].ingest(bytes, &Options::default(), None, now);
            three.shards[op.sender].ingest(bytes, &Options::default(), None, now);
            apart[op.sender].shards[0].ingest(bytes, &Options::default(), None, now);
        }
        let whole = one.close();
        let split = three.close();
        let [a, b, c] = apart.each_mut().map(Fixture::close);
        let gauges = gauges_by_the_invariant(&ops);
        for parts in [[&a, &b, &c], [&c, &a, &b]] {
            let merged = merge(&parts);
            prop_assert!(
                nearly(&content(&merged).0, &content(&whole).0),
                "{:?}\n{:?}",
                content(&merged).0,
                content(&whole).0
            );
            prop_assert!(nearly(&content(&merged).1, &gauges), "{:?}\n{gauges:?}", content(&merged).1);
            prop_assert_eq!(merged.ledger.check(), Ok(()));
            prop_assert_eq!(&merged.ledger.lines, &whole.ledger.lines);
            prop_assert_eq!(&merged.ledger.series, &whole.ledger.series);
        }
        prop_assert!(nearly(&content(&split).0, &content(&whole).0));
        prop_assert!(nearly(&content(&split).1, &gauges));
        // With one sender there is nothing to weigh: the order of its lines is the order.
        let alone: Vec<&Op> = ops.iter().filter(|op| op.sender == 0).collect();
        let mut single = Fixture::new(1, 1000);
        alone.iter().enumerate().for_each(|(n, op)| {
            single.shards[0].ingest(op.line.as_bytes(), &Options::default(), None, n as f64);
        });
        let single = single.close();
        prop_assert!(single.gauges.iter().all(|p| p.series.kind() == Kind::Gauge));
        prop_assert!(nearly(&content(&single).1, &content(&merge(&[&a])).1));
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}
