//! The history against a naive one: series of every kind that come, pause and go at random.

use std::collections::BTreeMap;

use super::*;
use crate::aggregate::{Gauge, Members, Sum, Timer, TimerPolicy};
use crate::memory::LEAST_MAX_MEMORY;
use crate::protocol::Kind;
use crate::snapshot::{CounterPoint, GaugePoint, SetPoint, SummaryPolicy, TimerPoint};

/// Numbers without a pattern; the seed is in the message of a failure.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 20) ^ (self.0 >> 43)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn number(&mut self) -> f64 {
        match self.below(6) {
            0 => 0.0,
            1 => self.below(1000) as f64,
            2 => self.below(100_000) as f64 / 100.0,
            3 => f64::from_bits(self.next() << 12 ^ self.next()).clamp(-1e300, 1e300),
            4 => 4096.0 * self.below(5000) as f64,
            _ => (self.below(1 << 40) as f64).sqrt() - 1000.0,
        }
    }
}

fn policy() -> std::sync::Arc<SummaryPolicy> {
    SummaryPolicy { percentiles: vec![50.0, 99.0, 1.0], ..SummaryPolicy::default() }.into()
}

/// An interval that ends then.
fn closed(sequence: u64, end: f64, secs: f64) -> Snapshot {
    let mut snapshot =
        Snapshot { sequence, end, interval_secs: secs, rate_secs: secs, policy: policy(), ..Snapshot::default() };
    snapshot.ledger.completeness = 1.0;
    snapshot.ledger.lines.read = sequence;
    snapshot
}

fn count(series: &Series, value: f64) -> CounterPoint {
    let mut sum = Sum::default();
    sum.add(value);
    CounterPoint { series: series.clone(), sum }
}

fn timer(series: &Series, values: &[f64]) -> TimerPoint {
    let mut timer = Timer::default();
    values.iter().for_each(|value| timer.record(*value, 1.0, &TimerPolicy::default()));
    TimerPoint { series: series.clone(), timer }
}

/// What is known of a series: by the end of an interval, by field.
type Model = BTreeMap<String, BTreeMap<u64, BTreeMap<String, f64>>>;

fn note(model: &mut Model, series: &Series, end: f64, fields: &[(&str, f64)]) {
    let fields = fields.iter().map(|(name, value)| ((*name).to_string(), *value)).collect();
    model.entry(series.id()).or_default().insert(end as u64, fields);
}

fn is_near(found: Option<f32>, expected: Option<f64>) -> bool {
    match (found, expected) {
        (None, None) => true,
        (Some(found), Some(expected)) => {
            let expected = expected.clamp(f64::from(f32::MIN), f64::from(f32::MAX));
            let apart = (f64::from(found) - expected).abs();
            // What is below the smallest normal number keeps fewer digits.
            apart <= expected.abs() * 1e-6 || apart < 1e-37
        }
        _ => false,
    }
}

fn query(series: Vec<Series>, from: f64, to: f64, step: Option<f64>) -> PointsQuery {
    PointsQuery { series, from, to, step, ledger: vec!["lines.read".into()], ..PointsQuery::default() }
}

/// Fills a history and a model with intervals of 10 s.
fn filled(random: &mut Random, history: &History, intervals: u64, start: f64) -> Model {
    let kinds = [Kind::Counter, Kind::Gauge, Kind::Timer, Kind::Set];
    let mut model = Model::new();
    let mut alive: Vec<(Series, u64)> = Vec::new();
    for n in 1..=intervals {
        let end = start + 10.0 * n as f64;
        let mut snapshot = closed(n, end, 10.0);
        alive.retain(|(_, until)| *until > n);
        if random.below(3) == 0 {
            let kind = kinds[random.below(4) as usize];
            let route = random.below(9).to_string();
            let series = Series::new(kind, &format!("m.{}", random.below(40)), &[("route", Some(&route))]);
            if alive.iter().all(|(known, _)| *known != series) {
                alive.push((series, n + random.below(300)));
            }
        }
        for (series, _) in &alive {
            if random.below(5) == 0 {
                continue;
            }
            let value = random.number();
            match series.kind() {
                Kind::Counter => {
                    snapshot.counters.push(count(series, value));
                    note(&mut model, series, end, &[("value", value), ("rate", value / 10.0)]);
                }
                Kind::Gauge => {
                    snapshot.gauges.push(GaugePoint { series: series.clone(), gauge: Gauge::absolute(value, end) });
                    note(&mut model, series, end, &[("value", value)]);
                }
                Kind::Timer => {
                    let values: Vec<f64> = (0..=random.below(4)).map(|_| random.below(900) as f64 / 8.0).collect();
                    let point = timer(series, &values);
                    let summary = snapshot.summary(&point);
                    let p99 = summary.percentiles.iter().find(|p| p.percentile == 99.0).map_or(f64::NAN, |p| p.value);
                    let (count, sum) = (summary.count, summary.sum);
                    let fields = [("count", count), ("sum", sum), ("min", summary.min), ("max", summary.max)];
                    note(&mut model, series, end, &[&fields[..], &[("median", summary.median), ("p99", p99)]].concat());
                    snapshot.timers.push(point);
                }
                _ => {
                    let mut members = Members::default();
                    let many = random.below(5);
                    (0..many).for_each(|member| members.insert(member.to_string().as_bytes()));
                    note(&mut model, series, end, &[("value", many as f64)]);
                    snapshot.sets.push(SetPoint { series: series.clone(), members });
                }
            }
        }
        history.add(&snapshot);
    }
    model
}

#[test]
fn what_comes_back_is_what_a_naive_history_has() {
    for seed in [1, 2, 3] {
        let mut random = Random(seed);
        let options = HistoryOptions { intervals: 60, minutes: 120, ..HistoryOptions::default() };
        let history = History::new(options, &Memory::unlimited());
        // In the middle of a minute.
        let start = 1_700_000_030.0;
        let model = filled(&mut random, &history, 700, start);
        let end = start + 7000.0;
        for (id, known) in &model {
            let series = Series::from_id(id).expect("an id");
            check_intervals(&history, &series, known, end);
            check_minutes(&history, &series, known, start, end);
        }
        let old = history.points(&query(Vec::new(), end - 600.0, end, None)).expect("few points");
        let read = &old.ledger["lines.read"];
        assert!(read.len() == 61 && read[60] == Some(700.0), "{read:?}");
    }
}

fn check_intervals(history: &History, series: &Series, known: &BTreeMap<u64, BTreeMap<String, f64>>, end: f64) {
    let points = history.points(&query(vec![series.clone()], end - 600.0 + 5.0, end, None)).expect("few points");
    assert_eq!((points.resolution, points.times.len()), (Resolution::Interval, 60));
    let own = &points.series[0];
    for (n, time) in points.times.iter().enumerate() {
        let expected = known.get(&(*time as u64));
        for (field, numbers) in &own.fields {
            let wanted = expected.and_then(|fields| fields.get(field).copied());
            if expected.is_some() && wanted.is_none() {
                continue;
            }
            assert!(is_near(numbers[n], wanted), "{series} {field} at {time}: {:?} for {wanted:?}", numbers[n]);
        }
    }
}

fn check_minutes(
    history: &History,
    series: &Series,
    known: &BTreeMap<u64, BTreeMap<String, f64>>,
    start: f64,
    end: f64,
) {
    let points = history.points(&query(vec![series.clone()], start, end, None)).expect("few points");
    assert_eq!(points.resolution, Resolution::Minute);
    assert!((117..=122).contains(&points.times.len()), "{}", points.times.len());
    let own = &points.series[0];
    for (n, time) in points.times.iter().enumerate() {
        let last = *time as u64;
        let minute = last.div_ceil(60) * 60;
        let inside: Vec<_> = known.range(minute - 59..=last).map(|(_, fields)| fields).collect();
        let of = |field: &str| inside.iter().filter_map(|fields| fields.get(field).copied()).collect::<Vec<f64>>();
        let clamped = |value: f64| value.clamp(f64::from(f32::MIN), f64::from(f32::MAX));
        let seen = if minute == last { 6.0 } else { (last - (minute - 60)) as f64 / 10.0 };
        let (name, extremes) = if series.kind() == Kind::Timer { ("count", false) } else { ("value", true) };
        let values = of(name);
        let sum: f64 = values.iter().map(|value| clamped(*value)).sum();
        let divisor = if matches!(series.kind(), Kind::Counter | Kind::Timer) { seen } else { values.len() as f64 };
        let expected = (!values.is_empty()).then(|| clamped(sum) / divisor);
        let is_first = n == 0;
        let scale = values.iter().fold(0.0_f64, |most, value| most.max(clamped(*value).abs()));
        let found = own.fields[name][n];
        // Sums of what cancels out are right to the largest of it.
        let near = match (found, expected) {
            (Some(found), Some(expected)) => (f64::from(found) - expected).abs() <= scale.max(1e-30) * 2e-6,
            (found, expected) => found.is_some() == expected.is_some(),
        };
        assert!(near || is_first, "{series} {name} at {time}: {found:?} for {expected:?}");
        if extremes && !is_first {
            let least = values.iter().copied().reduce(f64::min);
            assert!(is_near(own.min[name][n], least), "{series} min at {time}: {:?} for {least:?}", own.min[name][n]);
        }
        if !extremes && !is_first {
            let most = of("max").into_iter().reduce(f64::max);
            assert!(is_near(own.fields["max"][n], most), "{series} max at {time}");
        }
    }
}

#[test]
fn a_search_finds_what_a_naive_one_finds_page_by_page() {
    let mut random = Random(11);
    let options = HistoryOptions { intervals: 30, minutes: 0, ..HistoryOptions::default() };
    let history = History::new(options, &Memory::unlimited());
    let parts = ["api", "Checkout", "db", "latency", "hits", "q"];
    let mut all: BTreeMap<String, (Series, u64)> = BTreeMap::new();
    for n in 1..=200 {
        let mut snapshot = closed(n, 1000.0 + 10.0 * n as f64, 10.0);
        for _ in 0..random.below(40) {
            let name = format!("{}.{}", parts[random.below(6) as usize], parts[random.below(6) as usize]);
            let user = random.below(50).to_string();
            let series = Series::new(Kind::Counter, &name, &[("user", Some(&user))]);
            if snapshot.counters.iter().any(|point| point.series == series) {
                continue;
            }
            snapshot.counters.push(count(&series, 1.0));
            all.insert(series.id(), (series, n));
        }
        snapshot.counters.push(count(&Series::new(Kind::Counter, "systole.lines", &[]), 1.0));
        history.add(&snapshot);
        // Those that the axis has forgotten are forgotten when the next block begins.
        all.retain(|_, (_, last)| *last + 100 > n);
    }
    let patterns = ["api.* user:", "*ECK*", "?b.*", "*.h?ts", "*t*s", "*", "q.?"].map(|text| (text, None));
    for (text, prefix) in
        [("", None), ("LAT", None), ("checkout user:4", None), ("", Some("db."))].into_iter().chain(patterns)
    {
        let matches = |series: &Series| {
            let name = series.name().to_lowercase();
            let user = series.tags().next().and_then(|(_, value)| value).unwrap_or("").to_string();
            prefix.is_none_or(|prefix| name.starts_with(prefix))
                && text.split_whitespace().all(|word| match word {
                    "user:" => true,
                    "user:4" => user.starts_with('4'),
                    word if word.contains(['*', '?']) => crate::glob::matches(&word.to_lowercase(), &name),
                    word => name.contains(&word.to_lowercase()),
                })
        };
        let mut found: Vec<String> = Vec::new();
        let mut cursor = None;
        loop {
            let wanted = Wanted::new(text, None, &[], prefix).expect("a search");
            let query =
                SearchQuery { wanted, text: text.into(), sort: Sort::Name, limit: 7, cursor, spark: 5, facets: true };
            let page = history.search(&query).expect("a cheap search");
            found.extend(page.series.iter().map(|series| series.id.clone()));
            let counted: usize = page.facets.expect("asked for").kinds.values().sum();
            assert_eq!(counted, page.matched, "{text}");
            match page.next {
                Some(next) => cursor = Some(Cursor::parse(&next).expect("a cursor")),
                None => break,
            }
        }
        let mut sorted = found.clone();
        sorted.sort_by_key(|id| id.to_lowercase());
        sorted.dedup();
        assert_eq!(sorted, found, "{text}: in order, and none twice");
        // Series that are newer than the oldest block are there; those that are older may be.
        for (id, (series, last)) in &all {
            assert!(!matches(series) || *last < 165 || found.contains(id), "{text}: {id} of {last}");
        }
        assert!(found.iter().all(|id| matches(&Series::from_id(id).expect("an id"))), "{text}: {found:?}");
        // One by one it is the same, for series that are here and for others; the daemon's own are left out.
        let mut is_wanted = history.filter(Wanted::new(text, None, &[], prefix).expect("a search"));
        assert!(all.values().all(|(series, _)| is_wanted(series) == matches(series)), "{text}");
        assert!(!is_wanted(&Series::new(Kind::Counter, "systole.lines", &[])), "{text}");
    }
    let near = |text: &str| {
        let wanted = Wanted::new(text, None, &[], None).expect("a search");
        let query = SearchQuery {
            wanted,
            text: text.into(),
            sort: Sort::Loudest,
            limit: 7,
            cursor: None,
            spark: 0,
            facets: false,
        };
        history
            .search(&query)
            .expect("a cheap search")
            .near
            .expect("nothing matches")
            .into_iter()
            .map(|near| near.text)
            .collect::<Vec<_>>()
    };
    assert_eq!((near("latncy"), near("zzzzzzz")), (vec!["latency".to_string()], vec![]));
    let account = history.account();
    assert!(account.series < 2500, "{account:?}");
}

#[test]
fn of_what_does_not_fit_the_least_looked_at_gives_way_first_and_bytes_stay_below_the_share() {
    let memory = Memory::new(LEAST_MAX_MEMORY / 8);
    let history = History::new(HistoryOptions::default(), &memory);
    let mut random = Random(5);
    let series: Vec<Series> = (0..4000).map(|n| Series::new(Kind::Gauge, &format!("g.{n}"), &[])).collect();
    for n in 1..=400 {
        let end = 1_700_000_000.0 + 10.0 * n as f64;
        let gauge = |series: &Series| GaugePoint {
            series: series.clone(),
            gauge: Gauge::absolute(random.below(1 << 40) as f64 / 7.0, end),
        };
        let gauges = series.iter().map(gauge).collect();
        history.add(&Snapshot { gauges, ..closed(n, end, 10.0) });
        history.touch(&series[7], false);
        assert!(memory.bytes(Holder::History) <= memory.cap(Holder::History), "{n}");
    }
    let to = history.last_end().expect("intervals");
    let points = history.points(&query(vec![series[7].clone(), series[8].clone()], to - 3500.0, to, Some(10.0)));
    let points = points.expect("few points");
    let kept = |n: usize| points.series[n].fields["value"].iter().flatten().count();
    assert!(kept(0) >= 350 && kept(1) < 350, "{} and {}", kept(0), kept(1));
    let before = points.series[1].given_up_before.expect("some is given up");
    assert!(points.series[0].given_up_before.is_none() && points.given_up_before == Some(before));
    let first = points.times.iter().zip(&points.series[1].fields["value"]).find(|(_, value)| value.is_some());
    assert!(first.is_some_and(|(time, _)| time - 10.0 >= before && time - 10.0 < before + 1.0), "{first:?} {before}");
    assert!(points.marks.iter().any(|mark| mark.kind == MarkKind::GivenUp));
    // As a cache it goes when memory is short.
    memory.set_level(crate::memory::Level::Events);
    history.give_way();
    let account = history.account();
    assert!(account.bytes < account.cap / 2 && account.given_up > 0, "{account:?}");
}

#[test]
fn gaps_and_intervals_that_did_not_come_are_shown_as_missing() {
    let history = History::new(HistoryOptions::default(), &Memory::unlimited());
    let series = Series::new(Kind::Counter, "c", &[]);
    for (sequence, end) in [(1, 100.0), (2, 110.0), (5, 140.0), (6, 200.0)] {
        history.add(&Snapshot { counters: vec![count(&series, 3.0)], ..closed(sequence, end, 10.0) });
    }
    let points = history.points(&query(vec![series], 0.0, 300.0, None)).expect("few points");
    assert_eq!(points.times, [100.0, 110.0, 120.0, 130.0, 140.0, 190.0, 200.0]);
    let is_seen: Vec<bool> = points.completeness.iter().map(Option::is_some).collect();
    assert_eq!(is_seen, [true, true, false, false, true, false, true]);
    assert_eq!(points.series[0].fields["value"].iter().flatten().count(), 4);
    let marks: Vec<_> = points.marks.iter().map(|mark| (mark.kind, mark.from, mark.to, mark.text.as_str())).collect();
    assert_eq!(
        marks,
        [
            (MarkKind::Restart, 90.0, 90.0, "the daemon was started"),
            (MarkKind::NotSeen, 110.0, 130.0, "20 s not seen"),
            (MarkKind::NotSeen, 140.0, 190.0, "50 s not seen"),
        ]
    );
}

#[test]
fn gauges_tell_repeats_from_updates_and_heat_maps_begin_when_they_are_asked_for() {
    let history = History::new(HistoryOptions::default(), &Memory::unlimited());
    let (gauge, slow) = (Series::new(Kind::Gauge, "g", &[]), Series::new(Kind::Timer, "t", &[]));
    let heat = || {
        let query = PointsQuery { heat: true, ..query(vec![slow.clone()], 0.0, 300.0, None) };
        let mut points = history.points(&query).expect("few points");
        points.series.remove(0).heat
    };
    for n in 1..=6_u64 {
        let end = 10.0 * n as f64;
        // The second and the fifth repeat what was before.
        let received = if n == 2 || n == 5 { end - 11.0 } else { end - 1.0 };
        let point = GaugePoint { series: gauge.clone(), gauge: Gauge::absolute(7.0, received) };
        let timers = vec![timer(&slow, &[1.0, 5.0, 5.0])];
        history.add(&Snapshot { gauges: vec![point], timers, ..closed(n, end, 10.0) });
        if n == 3 {
            assert!(heat().is_some_and(|heat| heat.counts == vec![None; 3]));
        }
    }
    let points = history.points(&query(vec![gauge], 0.0, 300.0, None)).expect("few points");
    let updated: Vec<Option<bool>> = [true, false, true, true, false, true].map(Some).to_vec();
    assert_eq!(points.series[0].updated, updated);
    let heat = heat().expect("a heat map");
    let sums: Vec<Option<f32>> = heat.counts.iter().map(|row| row.as_ref().map(|row| row.iter().sum())).collect();
    assert_eq!(sums, [None, None, None, Some(3.0), Some(3.0), Some(3.0)]);
}

#[test]
fn a_reason_that_did_not_occur_is_0_and_coarse_numbers_are_means_of_all_intervals() {
    let history = History::new(HistoryOptions::default(), &Memory::unlimited());
    for n in 1..=12 {
        let mut snapshot = closed(n, 60_000.0 + 10.0 * n as f64, 10.0);
        if n == 3 {
            snapshot.ledger.lines.malformed.count(crate::protocol::Reason::ALL[0], 60);
        }
        history.add(&snapshot);
    }
    let path = format!("lines.malformed.{}", crate::protocol::Reason::ALL[0].name());
    let ask = |step| {
        let ledger = vec![path.clone(), "lines.malformed.nothing".into()];
        let query = PointsQuery { ledger, from: 60_000.0, to: 60_120.0, step, ..PointsQuery::default() };
        let mut points = history.points(&query).expect("few points");
        assert!(points.ledger["lines.malformed.nothing"].iter().all(Option::is_none));
        points.ledger.remove(&path).expect("it was asked for")
    };
    let exact: Vec<Option<f32>> = (1..=12).map(|n| Some(if n == 3 { 60.0 } else { 0.0 })).collect();
    assert_eq!((ask(None), ask(Some(60.0))), (exact, vec![Some(10.0), Some(0.0)]));
}

#[test]
fn heat_maps_give_way_before_all_else_and_64_timers_have_one() {
    let memory = Memory::new(LEAST_MAX_MEMORY);
    // A quarter of its share: heat maps alone take more than that.
    memory.set_level(crate::memory::Level::Samples);
    let history = History::new(HistoryOptions::default(), &memory);
    let all: Vec<Series> = (0..=MOST_HEATED).map(|n| Series::new(Kind::Timer, &format!("t.{n}"), &[])).collect();
    let values: Vec<f64> = (0..64).map(|n| (f64::from(n) / 2.0).exp2()).collect();
    let (mut most, mut gone) = (0, false);
    for n in 1..=400 {
        let timers = all.iter().map(|series| timer(series, &values)).collect();
        history.add(&Snapshot { timers, ..closed(n, 1_700_000_000.0 + 10.0 * n as f64, 10.0) });
        let heated = lock(&history.0.heated).len();
        (most, gone) = (most.max(heated), gone || n > 1 && heated == 0);
        // The first is asked for once, and makes room for the last.
        all.iter().skip(usize::from(n > 1)).for_each(|series| history.touch(series, true));
        assert!(memory.bytes(Holder::History) <= memory.cap(Holder::History) / 4, "{n}");
    }
    assert!(most == MOST_HEATED && gone, "{most}");
    let to = history.last_end().expect("intervals");
    let points = history.points(&query(vec![all[0].clone()], to - 3500.0, to, Some(10.0))).expect("few points");
    assert!(points.given_up_before.is_none() && points.series[0].fields["p99"].iter().all(Option::is_some));
}

#[test]
fn readers_miss_nothing_while_intervals_become_minutes() {
    let options = HistoryOptions { intervals: 60, minutes: 120, ..HistoryOptions::default() };
    let history = History::new(options, &Memory::unlimited());
    let series: Vec<Series> = (0..2000).map(|n| Series::new(Kind::Gauge, &format!("g.{n}"), &[])).collect();
    let record = |n: u64| {
        let end = 1_700_000_000.0 + 10.0 * n as f64;
        let gauge = |series: &Series| GaugePoint { series: series.clone(), gauge: Gauge::absolute(n as f64, end) };
        history.add(&Snapshot { gauges: series.iter().map(gauge).collect(), ..closed(n, end, 10.0) });
    };
    (1..=200).for_each(record);
    let is_done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            (201..=500).for_each(record);
            is_done.store(true, Ordering::Relaxed);
        });
        while !is_done.load(Ordering::Relaxed) {
            let to = history.last_end().expect("intervals");
            for (secs, series) in [(590.0, &series[0]), (590.0, &series[1999]), (1500.0, &series[0])] {
                let points = history.points(&query(vec![series.clone()], to - secs, to, None)).expect("few points");
                let missing: Vec<f64> = (points.times.iter().zip(&points.series[0].fields["value"]))
                    .filter(|(_, value)| value.is_none())
                    .map(|(time, _)| to - time)
                    .collect();
                assert!(missing.is_empty(), "{series} of {secs} s: {missing:?} s before the end");
            }
        }
    });
}

#[test]
fn names_that_come_and_go_leave_before_established_series_give_anything() {
    let memory = Memory::new(LEAST_MAX_MEMORY);
    let options = HistoryOptions { intervals: 90, minutes: 0, ..HistoryOptions::default() };
    let history = History::new(options, &memory);
    let established: Vec<Series> =
        (0..500).map(|n| Series::new(Kind::Counter, &format!("prod.api{n}.hits"), &[])).collect();
    let end = |n: u64| 1_700_000_000.0 + 10.0 * n as f64;
    let counters = |n: u64, names: &[Series]| {
        let counters = names.iter().map(|series| count(series, 3.0)).collect();
        Snapshot { counters, ..closed(n, end(n), 10.0) }
    };
    for n in 1..=60 {
        history.add(&counters(n, &established));
    }
    let quiet = history.account().bytes;
    for n in 61..=75 {
        let passing = (0..20_000).map(|k| Series::new(Kind::Counter, &format!("user.{n}.{k}.hits"), &[]));
        history.add(&counters(n, &established.iter().cloned().chain(passing).collect::<Vec<_>>()));
        assert!(memory.bytes(Holder::History) <= memory.cap(Holder::History), "{n}");
    }
    assert!(history.account().given_up > 100_000, "{:?}", history.account());
    let to = history.last_end().expect("intervals");
    let points = history.points(&query(vec![established[7].clone()], to - 750.0, to, Some(10.0))).expect("few points");
    assert_eq!(points.series[0].fields["value"].iter().flatten().count(), 75);
    // When those that found room have left as well, little more than their numbers is left: 16 bytes each.
    for n in 76..=300 {
        history.add(&counters(n, &established));
    }
    let bytes = history.account().bytes;
    assert!(bytes < quiet + (5 << 20), "{quiet} and then {bytes} bytes");
}

/// What anybody can see of a history, but for marks.
fn shown(history: &History, series: &[Series], to: f64) -> String {
    let mut all = String::new();
    for step in [None, Some(60.0), Some(600.0)] {
        for (from, until) in [(to - 10_000.0, to), (to - 900.0, to)] {
            let some = series.chunks(10).map(|some| history.points(&query(some.to_vec(), from, until, step)));
            let points = some.map(|points| Points { marks: Vec::new(), ..points.expect("few points") });
            all.push_str(&points.map(|points| format!("{points:?}\n")).collect::<String>());
        }
    }
    let wanted = Wanted::new("", None, &[], None).expect("it is simple");
    let search = SearchQuery {
        text: String::new(),
        wanted,
        sort: Sort::Name,
        limit: 200,
        cursor: None,
        spark: 20,
        facets: true,
    };
    let page = history.search(&search).expect("it is simple");
    all + &format!("{:?}", SeriesPage { series: page.series, ..SeriesPage::default() })
}

fn saved(history: &History) -> Vec<u8> {
    let mut bytes = Vec::new();
    history.save(&mut bytes).expect("memory");
    bytes
}

#[test]
fn what_was_saved_goes_on_as_without_a_restart() {
    for seed in 0..4 {
        let mut random = Random(977 * seed + 5);
        let options = HistoryOptions { intervals: 60, minutes: 300, ..HistoryOptions::default() };
        let new = || History::new(options.clone(), &Memory::unlimited());
        let (straight, mut restarted) = (new(), new());
        let kinds = [Kind::Counter, Kind::Gauge, Kind::Timer, Kind::Set];
        let series = |n: u64| Series::new(kinds[n as usize % 4], &format!("m.{n}"), &[("route", Some("/a"))]);
        for n in 1..=900 {
            let end = 1_000_000.0 + 10.0 * n as f64;
            let mut snapshot = closed(n, end, 10.0);
            for which in 0..30 {
                // Some come late, some go early, and some pause.
                if n < which * 17 || n > 900 - which * 11 || random.below(4) == 0 {
                    continue;
                }
                let (series, value) = (series(which), random.number());
                match series.kind() {
                    Kind::Counter => snapshot.counters.push(count(&series, value)),
                    Kind::Gauge => snapshot.gauges.push(GaugePoint { series, gauge: Gauge::absolute(value, end) }),
                    Kind::Timer => snapshot.timers.push(timer(&series, &[value.clamp(-1e9, 1e9), 1.0])),
                    _ => {
                        let mut members = Members::default();
                        (0..random.below(5)).for_each(|member| members.insert(&[member as u8]));
                        snapshot.sets.push(SetPoint { series, members });
                    }
                }
            }
            straight.add(&snapshot);
            restarted.add(&snapshot);
            if random.below(60) == 0 || n == 899 {
                let bytes = saved(&restarted);
                restarted = new();
                let restored = restarted.restore(&bytes).expect("it is whole");
                assert_eq!((restored.series, restored.no_room), (straight.account().series, 0), "seed {seed}, {n}");
                assert_eq!(saved(&restarted), bytes, "seed {seed}, {n}");
            }
        }
        let all: Vec<Series> = (0..30).map(series).collect();
        let to = straight.last_end().expect("intervals");
        assert_eq!(shown(&restarted, &all, to), shown(&straight, &all, to), "seed {seed}");
    }
}

#[test]
fn a_restart_is_a_mark_and_the_time_without_a_daemon_a_gap() {
    let history = History::new(HistoryOptions::default(), &Memory::unlimited());
    let series = Series::new(Kind::Counter, "c", &[]);
    let interval = |sequence, end| Snapshot { counters: vec![count(&series, 3.0)], ..closed(sequence, end, 10.0) };
    history.add(&interval(1, 110.0));
    let next = History::new(HistoryOptions::default(), &Memory::unlimited());
    next.restore(&saved(&history)).expect("it is whole");
    next.add(&interval(2, 170.0));
    let points = next.points(&query(vec![series.clone()], 0.0, 300.0, None)).expect("few points");
    assert_eq!((points.times, points.completeness), (vec![110.0, 160.0, 170.0], vec![Some(1.0), None, Some(1.0)]));
    let marks: Vec<_> = points.marks.iter().map(|mark| (mark.kind, mark.from, mark.to)).collect();
    let [start, gap] = [MarkKind::Restart, MarkKind::NotSeen];
    assert_eq!(marks, [(start, 100.0, 100.0), (start, 160.0, 160.0), (gap, 110.0, 160.0)]);
    // Of another interval it does not fit.
    let options = HistoryOptions { interval_secs: 5.0, ..HistoryOptions::default() };
    let other = History::new(options, &Memory::unlimited());
    assert_eq!(other.restore(&saved(&history)), Err(NotRestored::OtherInterval(10.0)));
    other.add(&interval(1, 170.0));
    assert_eq!(other.account().series, 1);
}

#[test]
fn other_percentiles_begin_a_timer_anew() {
    let history = History::new(HistoryOptions::default(), &Memory::unlimited());
    let series = Series::new(Kind::Timer, "t", &[]);
    let interval = |sequence: u64, percentiles: &[f64]| {
        let policy = SummaryPolicy { percentiles: percentiles.to_vec(), ..SummaryPolicy::default() };
        let closed = closed(sequence, 100.0 + 10.0 * sequence as f64, 10.0);
        Snapshot { timers: vec![timer(&series, &[1.0, 2.0])], policy: policy.into(), ..closed }
    };
    history.add(&interval(1, &[50.0, 99.0]));
    for (n, (percentiles, field)) in [(&[50.0, 90.0][..], "p90"), (&[75.0][..], "p75")].into_iter().enumerate() {
        history.add(&interval(2 + n as u64, percentiles));
        let points = history.points(&query(vec![series.clone()], 0.0, 300.0, None)).expect("few points");
        let own = &points.series[0].fields;
        assert_eq!(own[field].iter().flatten().count(), 1, "{own:?}");
        assert!(!own.contains_key("p99") && own["count"].iter().flatten().count() == 1, "{own:?}");
    }
}

#[test]
fn bytes_that_were_changed_are_refused_or_read_but_never_panic() {
    let mut random = Random(88);
    let options = HistoryOptions { intervals: 30, ..HistoryOptions::default() };
    let history = History::new(options.clone(), &Memory::unlimited());
    filled(&mut random, &history, 200, 1_000_000.0);
    let bytes = saved(&history);
    let (mut read, mut refused) = (0, 0);
    for n in 0..1500 {
        let mut changed = bytes.clone();
        if n % 3 == 0 {
            changed.truncate(random.below(bytes.len() as u64) as usize);
        } else {
            for _ in 0..1 + random.below(3) {
                // The head is where most goes wrong.
                let most = if n % 2 == 0 { bytes.len() as u64 } else { 600 };
                changed[random.below(most) as usize] = random.next() as u8;
            }
        }
        let other = History::new(options.clone(), &Memory::unlimited());
        match other.restore(&changed) {
            Ok(_) => read += 1,
            Err(_) => {
                refused += 1;
                assert_eq!((other.account().series, other.last_end()), (0, None));
            }
        }
        let end = other.last_end().unwrap_or(1e6).clamp(0.0, 1e10) + 10.0;
        other.add(&closed(500, end, 10.0));
        let series = Series::new(Kind::Timer, "m.1", &[("route", Some("1"))]);
        let _ = other.points(&query(vec![series], end - 5000.0, end, None));
    }
    assert!(read > 30 && refused > 30, "{read} read, {refused} refused");
}

#[test]
fn what_is_restored_keeps_to_its_share_of_the_memory() {
    let history = History::new(HistoryOptions::default(), &Memory::unlimited());
    let series = |n: u64| Series::new(Kind::Counter, &format!("a.rather.long.name.of.a.counter.{n}"), &[]);
    for n in 1..=40 {
        let counters = (0..20_000).map(|which| count(&series(which), (which * n) as f64)).collect();
        history.add(&Snapshot { counters, ..closed(n, 1000.0 + 10.0 * n as f64, 10.0) });
    }
    let memory = Memory::new(LEAST_MAX_MEMORY);
    // A sixteenth of what others may have.
    memory.set_level(crate::memory::Level::Series);
    let next = History::new(HistoryOptions::default(), &memory);
    let restored = next.restore(&saved(&history)).expect("it is whole");
    let account = next.account();
    assert!(restored.no_room > 0 && restored.series > 0, "{restored:?}");
    assert!(account.bytes <= account.cap, "{account:?}");
}
