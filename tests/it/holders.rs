//! Holders of memory outside of the shards: what each says it has is what the allocator knows it has, within a tenth.

use systole::internals::aggregate::{Columns, Quota, Shard, ShardOptions, TimeWindow, TimerPolicy};
use systole::internals::memory::{Holder, LEAST_MAX_MEMORY, Memory};
use systole::internals::presence::policy::Policy;
use systole::internals::presence::{Engine, EngineTime, Refusal};
use systole::internals::protocol::{Heartbeat, Options};
use systole::internals::rollup::{Interval, Registry, RegistryOptions};
use systole::internals::sinks::prometheus::{Distributions, Exposition};
use systole::internals::snapshot::{Snapshot, SummaryPolicy, follow};

use crate::support::heap::held_bytes;

/// The interval of these lines, whose series nobody else has.
fn closed(lines: &str) -> Snapshot {
    let mut shard = Shard::new(ShardOptions {
        timers: TimerPolicy::default(),
        fold_histograms: false,
        quota: Quota::new(1_000_000),
        seed: 7,
        rules: None,
        heartbeats: None,
        times: TimeWindow::ANY,
    });
    let options = RegistryOptions {
        summary: SummaryPolicy { percentiles: vec![50.0, 99.0], ..SummaryPolicy::default() }.into(),
        ..RegistryOptions::default()
    };
    let mut registry = Registry::new(options, 1);
    shard.ingest(lines.as_bytes(), &Options::default(), None, 1.0);
    let mut partials = [shard.close(Default::default(), Columns::default())];
    registry.close(&mut partials, Interval::new(10.0, 10.0, 10.0, std::time::Duration::from_secs(10)))
}

fn lines(count: usize, line: impl Fn(usize) -> String) -> String {
    (0..count).map(|n| line(n) + "\n").collect()
}

fn check(what: &str, known: usize, held: i64) {
    let ratio = known as f64 / held as f64;
    println!("{what}: {known} of {held} bytes, {ratio:.3}");
    assert!((0.9..=1.1).contains(&ratio), "{what}: {known} of {held} bytes, {ratio:.3}");
}

/// Lines of every kind, each by what it is.
fn kinds() -> Vec<(&'static str, String)> {
    let long = "v".repeat(300);
    vec![
        ("counters", lines(8_000, |n| format!("app.web.requests.endpoint_{n}:1|c"))),
        ("counters with tags", lines(4_000, |n| format!("hits:1|c|#user:{n},env:prod,long:{long}"))),
        ("gauges", lines(8_000, |n| format!("app.level.{n}:5|g"))),
        ("timers", lines(40_000, |n| format!("t.{}:{}.5|ms", n % 4000, n % 1000))),
        ("histograms", lines(60_000, |n| format!("t.{}:{}|h", n % 20, n * 7919 % 1_000_003))),
        ("sets", lines(30_000, |n| format!("s.{}:{n}|s", n % 600))),
        ("kv", lines(30_000, |n| format!("k.{}:{n}|kv", n % 600))),
        ("events", lines(5000, |n| format!("_e{{5,7}}:title|text {}|h:host|#a:{n},b:{long}", n % 10))),
        ("timestamped", lines(20_000, |n| format!("old.{n}:1|c|T1700000000"))),
    ]
}

#[test]
fn a_closed_interval_knows_its_bytes() {
    let memory = Memory::new(LEAST_MAX_MEMORY);
    for (what, text) in kinds() {
        let before = held_bytes();
        let mut snapshot = closed(&text);
        let held = held_bytes() - before;
        check(what, snapshot.heap_bytes() as usize - size_of::<Snapshot>(), held);
        snapshot.hold(&memory);
        assert_eq!(memory.bytes(Holder::ClosedIntervals), snapshot.heap_bytes());
        // A copy is held for itself.
        let mut copy = snapshot.clone();
        assert_eq!(memory.bytes(Holder::ClosedIntervals), snapshot.footprint.bytes());
        copy.hold(&memory);
        drop(snapshot);
        assert_eq!(memory.bytes(Holder::ClosedIntervals), copy.footprint.bytes());
        drop(follow(copy, &Snapshot::default()));
        assert_eq!(memory.bytes(Holder::ClosedIntervals), 0);
    }
}

#[test]
fn what_prometheus_gets_knows_its_bytes_and_lets_them_go() {
    for distributions in [Distributions::Summary, Distributions::Native] {
        for (what, text) in kinds().into_iter().filter(|(what, _)| !["events", "timestamped"].contains(what)) {
            let memory = Memory::new(LEAST_MAX_MEMORY);
            let before = held_bytes();
            let mut exposition = Exposition::new(15.0, distributions.clone()).at_most(1_000_000, &memory);
            // Keys of series are nobody else's afterwards.
            exposition.apply(&closed(&text));
            let (held, series) = (held_bytes() - before, exposition.len());
            check(&format!("{what}, {series} series"), memory.bytes(Holder::Sinks) as usize, held);
            exposition.apply(&Snapshot { sequence: 10, end: 100.0, ..Snapshot::default() });
            exposition.apply(&Snapshot { sequence: 20, end: 200.0, ..Snapshot::default() });
            let left = memory.bytes(Holder::Sinks);
            assert!(exposition.is_empty() && left < 20_000, "{what}: {left} bytes are left");
        }
    }
}

#[test]
fn what_prometheus_gets_stays_within_the_share_of_sinks_and_keeps_who_was_there() {
    let memory = Memory::new(LEAST_MAX_MEMORY);
    let mut exposition = Exposition::new(1e9, Distributions::Native).at_most(usize::MAX, &memory);
    let long = "v".repeat(8000);
    exposition.apply(&closed("known:1|c\n"));
    // A second interval: it is no invented name.
    exposition.apply(&Snapshot { sequence: 2, end: 15.0, ..closed("known:1|c\n") });
    let mut left_out = 0;
    for round in 0..6 {
        let flood = closed(&lines(1500, |n| format!("flood.{round}.{n}:1|c|#long:{long}")));
        let outcome = exposition.apply(&Snapshot { sequence: round + 3, end: 20.0 + round as f64, ..flood });
        left_out += outcome.memory;
        assert_eq!((outcome.max_series, outcome.conflict), (0, 0));
        let (bytes, cap) = (memory.bytes(Holder::Sinks), memory.cap(Holder::Sinks));
        assert!(bytes <= cap + cap / 10, "{bytes} of {cap}");
    }
    assert!(left_out > 1000, "{left_out}");
    exposition.apply(&Snapshot { sequence: 9, end: 90.0, ..closed("known:1|c\n") });
    let known = exposition.encode(systole::internals::sinks::prometheus::Format::Text);
    assert!(String::from_utf8_lossy(&known).contains("known_total 3\n"));
}

#[test]
fn presence_knows_its_bytes_and_stays_within_its_share() {
    let beat = |service: usize, instance: usize, long: usize| Heartbeat {
        service: format!("service.{service:s>100}").into(),
        instance: format!("{instance:i>long$}").into(),
        interval: Some(10.0),
        start: Some(format!("{instance:b>long$}").into()),
        version: Some(format!("{instance:v>long$}").into()),
        ..Heartbeat::default()
    };
    let unlimited = Policy {
        max_registrations_per_second: usize::MAX,
        max_services: usize::MAX,
        max_instances: usize::MAX,
        max_instances_per_service: usize::MAX,
        ..Policy::default()
    };
    for (services, instances, long) in [(20, 10_000, 5), (5000, 10_000, 100)] {
        let memory = Memory::new(LEAST_MAX_MEMORY);
        let before = held_bytes();
        let mut engine = Engine::new(unlimited.clone(), EngineTime::default(), 1).in_memory(&memory);
        (0..instances).for_each(|n| engine.beat(&beat(n % services, n, long)));
        engine.tick(EngineTime::from_secs(1.0));
        drop(engine.take_events());
        engine.tick(EngineTime::from_secs(1.25));
        let held = held_bytes() - before;
        check(&format!("{instances} instances"), memory.bytes(Holder::Presence) as usize, held);
    }

    let memory = Memory::new(LEAST_MAX_MEMORY);
    let mut engine = Engine::new(unlimited, EngineTime::default(), 1).in_memory(&memory);
    let mut now = 0.0;
    // Established: three beats, and older than its timeout.
    while now < 60.0 {
        engine.at(EngineTime::from_secs(now));
        engine.beat(&Heartbeat { service: "real".into(), instance: "one".into(), ..beat(0, 0, 1) });
        engine.tick(EngineTime::from_secs(now));
        now += 5.0;
    }
    for n in 0..40_000 {
        engine.beat(&beat(n, n, 128));
        if n % 500 == 0 {
            engine.tick(EngineTime::from_secs(now));
            drop(engine.take_events());
        }
    }
    engine.tick(EngineTime::from_secs(now));
    drop(engine.take_events());
    engine.tick(EngineTime::from_secs(now + 0.25));
    let (bytes, cap) = (memory.bytes(Holder::Presence), memory.cap(Holder::Presence));
    assert!(bytes <= cap + cap / 10, "{bytes} of {cap}");
    assert!(engine.refusals().evicted() > 5_000 && engine.knows("real"), "{:?}", engine.refusals());
    assert_eq!(engine.refusals().of(Refusal::Limit), 0);
}
