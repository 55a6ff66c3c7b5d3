use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::aggregate::rules::Rule;
use crate::aggregate::{Columns, GaugePolicy, Partial, SeriesOverrides, Shard};
use crate::protocol::{Kind, Options};
use crate::random::Random;
use crate::rollup::{GaugeLife, Interval, fixture};
use crate::snapshot::Snapshot;
use crate::telemetry::SampleAccount;

const SECS: f64 = 10.0;

/// Some shards and their registry, whose clock begins at `clock`.
struct Node {
    shards: Vec<Shard>,
    registry: Registry,
    clock: f64,
    /// Ticks since 1970.
    tick: u64,
}

impl Node {
    fn new(shards: usize, options: &RegistryOptions, clock: f64, tick: u64) -> Node {
        let registry = Registry::new(options.clone(), shards);
        Node { shards: fixture::shards(shards, options, 1000), registry, clock, tick }
    }

    /// A line goes to the shard of its series.
    fn feed(&mut self, line: &str) {
        let name = line.split(':').next().expect("a name");
        let shard = name.bytes().map(usize::from).sum::<usize>() % self.shards.len();
        let options = Options { absolute_counters: true, ..Options::default() };
        // The clock of the wire is that of the tick, whoever reads it.
        self.shards[shard].ingest(line.as_bytes(), &options, None, self.tick as f64);
    }

    fn cut(&mut self) {
        let mut partials: Vec<Partial> = self.shards.iter_mut().map(|shard| shard.cut(Columns::default())).collect();
        self.registry.absorb(&mut partials);
    }

    fn close(&mut self) -> Snapshot {
        let mut partials = fixture::close(&mut self.shards, &self.registry, self.clock, &mut Vec::new());
        self.clock += SECS;
        self.tick += 1;
        let end = self.tick as f64 * SECS;
        let interval = Interval::new(end, SECS, self.clock, Duration::from_secs_f64(SECS));
        let mut snapshot = self.registry.close(&mut partials, interval);
        assert_eq!(snapshot.ledger.check(), Ok(()));
        snapshot.sort();
        snapshot
    }

    /// Another process takes over `age` seconds later, with other shards and another clock.
    fn handed_over(&mut self, shards: usize, options: &RegistryOptions, clock: f64, age: f64) -> (Node, Restored) {
        let saved = through_bytes(&self.registry.save(self.clock));
        let mut next = Node::new(shards, options, clock, self.tick);
        // What it has flushed it knows itself.
        let restored = next.registry.restore(saved, age, clock, 1000, 0);
        (next, restored)
    }

    /// The same with the open interval.
    fn taken_over(&mut self, shards: usize, options: &RegistryOptions, clock: f64) -> Node {
        self.cut();
        let open: SavedInterval = through_bytes(&self.registry.save_open());
        let (mut next, _) = self.handed_over(shards, options, clock, 0.0);
        next.registry.restore_open(open);
        next
    }
}

fn through_bytes<T: Serialize + serde::de::DeserializeOwned>(value: &T) -> T {
    let bytes = postcard::to_stdvec(value).expect("it can be written");
    postcard::from_bytes(&bytes).expect("it can be read")
}

/// Everything that sinks see of an interval.
fn shown(snapshot: &Snapshot) -> Vec<String> {
    let of = |series: &Series| (snapshot.interval_secs_of(series), series.to_string());
    let mut all = vec![format!("sequence {}", snapshot.sequence)];
    all.extend(snapshot.counters.iter().map(|p| format!("c {:?} {}", of(&p.series), p.sum.value())));
    all.extend(snapshot.gauges.iter().map(|p| format!("g {:?} {}", of(&p.series), p.gauge.value())));
    all.extend(snapshot.timers.iter().map(|p| {
        let totals = p.timer.totals();
        format!("t {:?} {} {} {:?}", of(&p.series), totals.sum, p.timer.samples(), p.timer.sorted())
    }));
    all.extend(snapshot.sets.iter().map(|p| format!("s {:?} {}", of(&p.series), p.members.count())));
    all.extend(snapshot.kvs.iter().map(|p| format!("k {:?} {:?}", of(&p.series), p.values)));
    all.extend(snapshot.timestamped.iter().map(|p| format!("T {} {} {}", p.series, p.time, p.value)));
    all.extend(snapshot.events_and_checks.iter().map(|event| format!("{event:?}")));
    all
}

fn rule(pattern: &str, overrides: SeriesOverrides) -> Rule {
    Rule { pattern: pattern.into(), overrides, ..Rule::default() }
}

fn rules() -> Vec<Rule> {
    vec![
        rule("slow*", SeriesOverrides { every: 3, ..SeriesOverrides::default() }),
        rule("slower*", SeriesOverrides { every: 5, ..SeriesOverrides::default() }),
        rule("most*", SeriesOverrides { gauge: GaugePolicy::Max, ..SeriesOverrides::default() }),
        rule("sum*", SeriesOverrides { gauge: GaugePolicy::Sum, ..SeriesOverrides::default() }),
        Rule { rename: Some("new.$1".into()), ..rule("old.*", SeriesOverrides::default()) },
        rule("brief*", SeriesOverrides { ttl: Some(Some(20.0)), ..SeriesOverrides::default() }),
    ]
}

fn options(random: &mut Random) -> RegistryOptions {
    let lives = [GaugeLife::Forever, GaugeLife::Secs(30.0), GaugeLife::Flushes(3)];
    RegistryOptions {
        zero_when_idle: std::array::from_fn(|_| random.below(2) == 0),
        gauge_life: lives[random.below(3) as usize],
        series_ttl_secs: [Some(40.0); 5],
        rules: Some(Arc::new(Rules::new(rules()))),
        ..RegistryOptions::default()
    }
}

/// A line of any kind, of few names.
fn line(random: &mut Random) -> String {
    let prefix = ["", "slow", "slower", "most", "sum", "old.", "brief"][random.below(7) as usize];
    let (n, value) = (random.below(3), random.below(1000));
    match random.below(9) {
        0 => format!("{prefix}c{n}:{value}|c"),
        1 => format!("{prefix}g{n}:{value}|g"),
        2 => format!("{prefix}g{n}:+{value}|g"),
        3 => format!("{prefix}g{n}:-{value}|g"),
        4 => format!("{prefix}t{n}:{value}|ms"),
        5 => format!("{prefix}s{n}:{value}|s"),
        6 => format!("{prefix}k{n}:{value}|kv"),
        7 => format!("{prefix}C{n}:{value}|C"),
        _ => format!("{prefix}c{n}:{value}|c|T17000{value:03}"),
    }
}

/// Two nodes of the same options that begin at different times of their clocks.
fn pair(random: &mut Random) -> (RegistryOptions, Node, Node) {
    let options = options(random);
    let whole = Node::new(1 + random.below(3) as usize, &options, 0.0, 100);
    let other = Node::new(1 + random.below(3) as usize, &options, 50.0, 100);
    (options, whole, other)
}

/// Gives both the same lines, fewer than `most`.
fn feed(random: &mut Random, most: u64, whole: &mut Node, other: &mut Node) {
    for _ in 0..random.below(most) {
        let line = line(random);
        whole.feed(&line);
        other.feed(&line);
    }
}

#[test]
fn what_is_saved_and_restored_goes_on_as_if_nothing_had_happened() {
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let (options, mut whole, mut other) = pair(&mut random);
        for interval in 0..20 {
            feed(&mut random, 20, &mut whole, &mut other);
            let (expected, snapshot) = (whole.close(), other.close());
            assert_eq!(shown(&snapshot), shown(&expected), "seed {seed}, interval {interval}");
            if random.below(3) == 0 {
                let clock = 10.0 * random.below(1000) as f64;
                other = other.handed_over(1 + random.below(3) as usize, &options, clock, 0.0).0;
            }
        }
    }
}

#[test]
fn what_was_known_of_an_interval_that_was_closed_goes_on_and_nothing_of_it_comes_again() {
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let (options, mut whole, mut other) = pair(&mut random);
        for interval in 0..20 {
            feed(&mut random, 20, &mut whole, &mut other);
            let crashes = random.below(3) == 0;
            let mut saved = None;
            if crashes {
                other.cut();
                let open: SavedInterval = through_bytes(&other.registry.save_open());
                saved = Some((through_bytes(&other.registry.save(other.clock)), open));
            }
            let (expected, snapshot) = (whole.close(), other.close());
            assert_eq!(shown(&snapshot), shown(&expected), "seed {seed}, interval {interval}");
            if let Some((registry, open)) = saved {
                let end = Interval::new(other.tick as f64 * SECS, SECS, SECS, Duration::from_secs_f64(SECS));
                let saved = registry.after_closing(open, end, &options, 1000);
                let clock = 10.0 * random.below(1000) as f64;
                let mut next = Node::new(1 + random.below(3) as usize, &options, clock, other.tick);
                let closed = if expected.flushes_longer() { other.tick } else { 0 };
                next.registry.restore(saved, 0.0, clock, 1000, closed);
                other = next;
            }
        }
    }
}

#[test]
fn points_of_a_longer_interval_stay_if_nothing_says_that_it_has_ended() {
    let options = options(&mut Random::new(0));
    let mut node = Node::new(1, &options, 0.0, 3);
    // The first interval of all ends a longer one.
    node.close();
    node.feed("slowc:1|c");
    node.cut();
    let saved = (node.registry.save(node.clock), node.registry.save_open());
    let end = Interval::new(6.0 * SECS, SECS, SECS, Duration::from_secs_f64(SECS));
    // A process that stopped before the tick has closed it, or one at the tick.
    for (closed, expected) in [(0, Some(3.0)), (6, None)] {
        let (registry, open): (SavedRegistry, SavedInterval) = through_bytes(&saved);
        let mut next = Node::new(1, &options, 0.0, 5);
        next.registry.restore(registry.after_closing(open, end, &options, 1000), 0.0, 0.0, 1000, closed);
        next.feed("slowc:2|c");
        let counters = next.close().counters;
        let found = counters.iter().find(|point| point.series.name() == "slowc").map(|point| point.sum.value());
        assert_eq!(found.filter(|sum| *sum != 0.0), expected, "{closed}");
    }
}

#[test]
fn an_interval_that_is_cut_or_handed_over_is_the_interval() {
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let (options, mut whole, mut other) = pair(&mut random);
        for interval in 0..20 {
            let mut samples = [SampleAccount::default(), SampleAccount::default()];
            for _ in 0..random.below(4) {
                feed(&mut random, 10, &mut whole, &mut other);
                match random.below(4) {
                    0 => {}
                    1 => {
                        // What was read by the one before is in its ledger.
                        let clock = 10.0 * random.below(1000) as f64;
                        for shard in &other.shards {
                            samples[1].read += shard.open_tally().samples.read;
                        }
                        other = other.taken_over(1 + random.below(3) as usize, &options, clock);
                    }
                    _ => other.cut(),
                }
            }
            let (expected, snapshot) = (whole.close(), other.close());
            samples[0].read = expected.ledger.samples.read;
            samples[1].read += snapshot.ledger.samples.read;
            assert_eq!(shown(&snapshot), shown(&expected), "seed {seed}, interval {interval}");
            assert_eq!(samples[0], samples[1], "seed {seed}, interval {interval}");
        }
    }
}

fn gauges(snapshot: &Snapshot) -> Vec<(String, f64)> {
    snapshot.gauges.iter().map(|point| (point.series.to_string(), point.gauge.value())).collect()
}

#[test]
fn a_lifetime_is_not_begun_anew() {
    let options = RegistryOptions { gauge_life: GaugeLife::Secs(60.0), ..RegistryOptions::default() };
    let mut node = Node::new(1, &options, 0.0, 100);
    node.feed("g:5|g");
    node.close();
    // 25 seconds without any process, and one that lives no longer than an interval each time.
    let mut ages = 0;
    for _ in 0..10 {
        let (next, _) = node.handed_over(1, &options, 1000.0, 15.0);
        node = next;
        let seen = gauges(&node.close());
        if seen.is_empty() {
            break;
        }
        assert_eq!(seen, [("g".to_string(), 5.0)]);
        ages += 1;
    }
    assert_eq!(ages, 2, "it was updated at 0 s, and emitted at 25 and 50 s");
}

#[test]
fn series_go_to_the_rule_of_their_pattern_or_are_matched_anew() {
    let with =
        |rules: Vec<Rule>| RegistryOptions { rules: Some(Arc::new(Rules::new(rules))), ..RegistryOptions::default() };
    let slow = |every| SeriesOverrides { every, ..SeriesOverrides::default() };
    let before = with(vec![rule("a*", slow(3)), rule("b*", slow(4)), rule("c*", slow(5))]);
    let mut node = Node::new(2, &before, 0.0, 59);
    node.close();
    for name in ["a", "b", "c", "d", "e"] {
        node.feed(&format!("{name}:1|g\n{name}.n:1|c"));
    }
    assert_eq!(node.close().len(), 4, "d and e are not slow");
    // b is dropped now, c has no rule any more, d is renamed, and the rule of a has another number.
    let after = with(vec![
        Rule { drop: true, ..rule("b*", SeriesOverrides::default()) },
        Rule { rename: Some("f$1".into()), ..rule("d*", SeriesOverrides::default()) },
        rule("a*", slow(3)),
    ]);
    let (mut next, restored) = node.handed_over(1, &after, 0.0, 0.0);
    assert_eq!(restored, Restored { gauges: 4, idle: 0, longer: 6, left_out: 1 });
    next.feed("c.n:2|c");
    let first = next.close();
    assert_eq!(first.counters.last().map(|point| point.sum.value()), Some(3.0));
    let names =
        |snapshot: &Snapshot| snapshot.counters.iter().map(|point| point.series.to_string()).collect::<Vec<_>>();
    assert_eq!(names(&first), ["b.n", "c.n"], "they wait for nothing any more");
    let first: Vec<String> = gauges(&first).into_iter().map(|(name, _)| name).collect();
    assert_eq!(first, ["b", "c", "e", "f"]);
    let second = next.close();
    assert_eq!(names(&second), ["a.n"], "at the third interval");
    let seen: Vec<String> = gauges(&second).into_iter().map(|(name, _)| name).collect();
    assert_eq!(seen, ["a", "c", "e", "f"]);
}

#[test]
fn points_that_no_rule_keeps_any_more_go_with_the_next_interval() {
    let slow = SeriesOverrides { every: 3, ..SeriesOverrides::default() };
    let before =
        RegistryOptions { rules: Some(Arc::new(Rules::new(vec![rule("a", slow)]))), ..RegistryOptions::default() };
    let mut node = Node::new(1, &before, 0.0, 59);
    node.close();
    node.feed("a:1|c");
    assert!(node.close().is_empty());
    let (mut next, _) = node.handed_over(1, &RegistryOptions::default(), 0.0, 0.0);
    assert_eq!((next.close().counters.len(), next.close().counters.len()), (1, 0));
}

#[test]
fn points_of_a_longer_interval_that_was_flushed_do_not_come_again() {
    let slow = |every| SeriesOverrides { every, ..SeriesOverrides::default() };
    let rules = Rules::new(vec![rule("a*", slow(3)), rule("b*", slow(30))]);
    let options = RegistryOptions { rules: Some(Arc::new(rules)), ..RegistryOptions::default() };
    let mut node = Node::new(1, &options, 0.0, 59);
    node.close();
    node.feed("a:1|c\nb:1|c");
    node.close();
    let saved = node.registry.save(node.clock);
    assert!(saved.has_longer());
    node.close();
    assert_eq!(node.close().counters.len(), 1, "a at the tick 63");
    // A crash after that, and a state of the tick 61.
    let restore = |closed: u64| {
        let mut next = Node::new(1, &options, 0.0, 64);
        next.registry.restore(saved.clone(), 0.0, 0.0, 1000, closed);
        next.close().counters.iter().map(|point| point.series.to_string()).collect::<Vec<_>>()
    };
    assert_eq!((restore(63), restore(62)), (vec![], vec!["a".to_string()]));
}

#[test]
fn what_is_restored_beyond_its_bound_is_left_out() {
    let options = RegistryOptions::default();
    let mut node = Node::new(1, &options, 0.0, 60);
    (0..10).for_each(|n| node.feed(&format!("g{n}:1|g")));
    node.close();
    let mut next = Node::new(1, &options, 0.0, 61);
    let restored = next.registry.restore(node.registry.save(node.clock), 0.0, 0.0, 4, 0);
    assert_eq!((restored.gauges, restored.left_out), (4, 6));
    assert_eq!(next.close().gauges.len(), 4);
}

#[test]
fn a_state_that_comes_late_comes_before_what_is_here() {
    let options = RegistryOptions::default();
    let mut node = Node::new(1, &options, 0.0, 60);
    node.feed("g:100|g\nh:7|g\nset:1|g");
    node.close();
    let saved = node.registry.save(node.clock);
    let mut next = Node::new(1, &options, 0.0, 61);
    next.feed("g:+5|g\nset:2|g");
    assert_eq!(gauges(&next.close()), [("g".to_string(), 5.0), ("set".to_string(), 2.0)]);
    next.registry.restore(saved, 0.0, next.clock, 1000, 0);
    let all = [("g".to_string(), 105.0), ("h".to_string(), 7.0), ("set".to_string(), 2.0)];
    assert_eq!(gauges(&next.close()), all);
}

#[test]
fn series_that_workers_have_again_are_not_held_twice() {
    let options = RegistryOptions::default();
    let mut node = Node::new(1, &options, 0.0, 60);
    (0..100).for_each(|n| node.feed(&format!("g{n}:1|g")));
    node.close();
    let (mut next, _) = node.handed_over(2, &options, 0.0, 0.0);
    let owned = |node: &Node| node.registry.tables[Class::Gauge as usize].owned();
    assert_eq!(owned(&next), 100);
    (0..60).for_each(|n| next.feed(&format!("g{n}:2|g")));
    next.close();
    next.close();
    assert_eq!(owned(&next), 40);
    assert_eq!(next.close().gauges.len(), 100);
}

#[test]
fn a_deletion_takes_what_was_taken_out_before_with_it() {
    let mut node = Node::new(1, &RegistryOptions::default(), 0.0, 60);
    node.feed("a:1|c\nb:2|c");
    node.cut();
    node.feed("a:4|c");
    let gone = node.shards[0].forget(Class::Counter, |series| series.name() == "a");
    gone.iter().for_each(|series| node.registry.forget_open(Class::Counter, series));
    let counters: Vec<_> = node.close().counters.iter().map(|p| (p.series.to_string(), p.sum.value())).collect();
    assert_eq!(counters, [("b".to_string(), 2.0)]);
    assert_eq!(Series::new(Kind::Counter, "a", &[]), gone[0]);
}
