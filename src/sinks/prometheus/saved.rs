//! What Prometheus gets as bytes, so that the next start goes on with it: a counter that fell would be taken for a restart.
//!
//! A head, then each series, in postcard's format (<https://postcard.jamesmunns.com>). What is damaged or impossible is refused as
//! a whole. What the configuration has made something else begins anew, and nothing else does.

use serde::{Deserialize, Serialize};

use crate::aggregate::Sum;
use crate::protocol::Kind;
use crate::series::Series;
use crate::snapshot::SnapshotId;

use super::super::SinkError;
use super::super::exponential::Exponential;
use super::ScrapeState;
use super::exposition::{Distribution, Exposition, Sample, Value};
use super::outcome::Outcome;

/// Version of the format. The first had no lifetimes.
const VERSION: u8 = 2;

#[derive(Serialize, Deserialize)]
struct Head {
    /// End of the last interval, Unix seconds.
    end: f64,
    /// Which one that was, and what of it was left out, by reason.
    last: Option<(SnapshotId, [u64; 4])>,
    series: u64,
}

/// A series as it was.
#[derive(Serialize, Deserialize)]
pub(super) struct Saved {
    pub(super) series: Series,
    pub(super) updated: f64,
    pub(super) created: f64,
    pub(super) sequence: u64,
    pub(super) every: u32,
    pub(super) value: Value,
    /// Written behind all else, which the first version had alone.
    #[serde(skip)]
    pub(super) ttl_secs: Option<f64>,
}

impl Saved {
    fn of(sample: &Sample) -> Saved {
        let Sample { series, updated, created, sequence, every, value, ttl_secs, .. } = sample.clone();
        Saved { series, updated, created, sequence, every, value, ttl_secs }
    }

    /// Whether a series can be like that.
    fn is_possible(&self) -> bool {
        let kind = self.series.kind();
        let grows = |sum: &Sum| sum.is_finite() && sum.value() >= 0.0;
        let is_timer = matches!(kind, Kind::Timer | Kind::Histogram | Kind::Distribution);
        let is_counter = matches!(kind, Kind::Counter | Kind::Meter);
        let fits = match &self.value {
            Value::Counter(sum) => is_counter && grows(sum),
            Value::UpDown(sum) => is_counter && sum.is_finite(),
            Value::Gauge(value) => !is_counter && !is_timer && value.is_finite(),
            Value::Timer(held) => is_timer && held.is_possible(grows),
        };
        let is_lifetime = self.ttl_secs.is_none_or(|secs| secs >= 0.0);
        fits && is_lifetime && self.updated.is_finite() && self.created.is_finite() && self.every > 0
    }
}

impl Distribution {
    fn is_possible(&self, grows: impl Fn(&Sum) -> bool) -> bool {
        let bounds: Vec<f64> = self.buckets.iter().map(|(bound, _)| bound.unwrap_or(f64::INFINITY)).collect();
        self.quantiles.iter().all(|(quantile, value)| (0.0..=1.0).contains(quantile) && value.is_finite())
            && bounds.is_sorted_by(|a, b| a < b)
            && self.buckets.iter().all(|(_, count)| grows(count))
            && self.native.as_ref().is_none_or(Exponential::is_possible)
            && grows(&self.count)
            && self.sum.is_finite()
    }
}

fn invalid(why: impl std::fmt::Display) -> SinkError {
    SinkError::new(format!("what was saved of it cannot be used: {why}"))
}

impl ScrapeState {
    /// Everything as bytes; `None` as long as there is nothing.
    pub(in crate::sinks) fn save(&self) -> Option<Vec<u8>> {
        let end = self.exposition.ends().0?;
        let samples = || self.exposition.samples(0).map(|(_, sample)| sample);
        let last =
            self.last.as_ref().map(|(identity, outcome)| (*identity, outcome.dropped().map(|(_, records)| records)));
        let mut out = vec![VERSION];
        postcard::to_io(&Head { end, last, series: samples().count() as u64 }, &mut out).ok()?;
        for sample in samples() {
            postcard::to_io(&Saved::of(sample), &mut out).ok()?;
            postcard::to_io(&sample.ttl_secs, &mut out).ok()?;
        }
        Some(out)
    }

    /// Goes on with what was saved; how many series have found no room. After an error there is nothing.
    ///
    /// # Errors
    /// If these bytes are not what [`ScrapeState::save`] makes.
    pub(in crate::sinks) fn restore(&mut self, saved: &[u8]) -> Result<u64, SinkError> {
        let (version, (head, rest)) = match saved.split_first() {
            Some((&version @ 1..=VERSION, rest)) => {
                (version, postcard::take_from_bytes::<Head>(rest).map_err(invalid)?)
            }
            _ => return Err(invalid("it was written by another version")),
        };
        if !head.end.is_finite() {
            return Err(invalid("it has no time"));
        }
        let left_out = self.exposition.restore(rest, &head, version);
        if left_out.is_err() {
            self.exposition.clear();
        }
        let left_out = left_out?;
        self.last = head.last.map(|(identity, dropped)| (identity, Outcome::of_counts(dropped)));
        self.forget_written();
        Ok(left_out)
    }
}

impl Exposition {
    fn restore(&mut self, mut rest: &[u8], head: &Head, version: u8) -> Result<u64, SinkError> {
        let mut left_out = 0;
        for _ in 0..head.series {
            let mut saved: Saved;
            (saved, rest) = postcard::take_from_bytes(rest).map_err(invalid)?;
            if version > 1 {
                (saved.ttl_secs, rest) = postcard::take_from_bytes(rest).map_err(invalid)?;
            }
            if !saved.is_possible() {
                return Err(invalid(format!("{} has impossible numbers", saved.series)));
            }
            let is_other = match saved.value {
                Value::Counter(_) => self.is_updown(&saved.series),
                Value::UpDown(_) => !self.is_updown(&saved.series),
                Value::Gauge(_) | Value::Timer(_) => false,
            };
            if !is_other && !self.put_back(saved) {
                left_out += 1;
            }
        }
        if !rest.is_empty() {
            return Err(invalid("something follows it"));
        }
        self.go_on_after(head.end);
        Ok(left_out)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Distributions, Format};
    use super::*;
    use crate::aggregate::{Gauge, Timer, TimerPolicy};
    use crate::memory::Memory;
    use crate::snapshot::{CounterPoint, GaugePoint, Snapshot, TimerPoint};

    const FORMATS: [Format; 2] = [Format::OpenMetrics, Format::Protobuf];

    fn state(distributions: &Distributions, updown: &[String], most: usize) -> ScrapeState {
        let exposition = Exposition::new(60.0, distributions.clone()).updown(updown);
        ScrapeState::new(exposition.at_most(most, &Memory::unlimited()))
    }

    /// An interval with the numbers of some series.
    fn interval(sequence: u64, values: &[(u8, f64)]) -> Snapshot {
        let policy = TimerPolicy::default();
        let mut snapshot =
            Snapshot { sequence, end: 1e9 + 10.0 * sequence as f64, interval_secs: 10.0, ..Snapshot::default() };
        for (n, value) in values {
            let series = |kind| Series::new(kind, &format!("s{n}"), &[("k", Some("v"))]);
            let (mut sum, mut timer) = (Sum::default(), Timer::default());
            sum.add(*value);
            timer.record(*value, 1.0, &policy);
            match n % 4 {
                0 | 1 => snapshot.counters.push(CounterPoint { series: series(Kind::Counter), sum }),
                2 => snapshot
                    .gauges
                    .push(GaugePoint { series: series(Kind::Gauge), gauge: Gauge::absolute(*value, 1.0) }),
                _ => snapshot.timers.push(TimerPoint { series: series(Kind::Timer), timer }),
            }
        }
        snapshot
    }

    fn shown(state: &ScrapeState) -> [Vec<u8>; 2] {
        FORMATS.map(|format| state.exposition.encode(format))
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn after_a_restart_everything_goes_on_as_without_one(
            intervals in proptest::collection::vec(proptest::collection::vec((0..12_u8, -5.0..1e6_f64), 0..8), 2..12),
            at in 0..12_usize,
            is_classic: bool,
        ) {
            let distributions = if is_classic { Distributions::Classic(vec![0.1, 10.0]) } else { Distributions::Native };
            let updown = ["s1".to_string()];
            let mut straight = state(&distributions, &updown, 100);
            let mut restarted = state(&distributions, &updown, 100);
            for (n, values) in intervals.iter().enumerate() {
                let snapshot = interval(1 + n as u64, values);
                straight.apply(&snapshot);
                restarted.apply(&snapshot);
                if n == at.min(intervals.len() - 2) {
                    let saved = restarted.save().expect("an interval was added");
                    restarted = state(&distributions, &updown, 100);
                    prop_assert_eq!(restarted.restore(&saved).expect("it is whole"), 0);
                    // The one that may be delivered again is in it.
                    prop_assert!(!restarted.apply(&snapshot).1);
                    for cut in (0..saved.len()).step_by(1 + saved.len() / 64) {
                        let mut other = state(&distributions, &updown, 100);
                        prop_assert!(other.restore(&saved[..cut]).is_err());
                        prop_assert_eq!(other.exposition.encode(Format::Text), b"");
                    }
                }
                prop_assert_eq!(shown(&restarted), shown(&straight));
            }
        }
    }

    fn text(state: &ScrapeState) -> String {
        String::from_utf8(state.exposition.encode(Format::Text)).expect("text")
    }

    #[test]
    fn what_is_configured_anew_begins_anew_and_nothing_else() {
        let mut before = state(&Distributions::Classic(vec![0.1]), &[], 100);
        let all = [(0, 5.0), (1, 7.0), (3, 50.0)];
        before.apply(&interval(1, &all));
        let saved = before.save().expect("an interval was added");

        // A counter that may fall from now on, and other buckets.
        let mut after = state(&Distributions::Classic(vec![0.2]), &["s1".to_string()], 100);
        assert_eq!(after.restore(&saved).expect("it is whole"), 0);
        after.apply(&interval(2, &all));
        let shown = text(&after);
        for line in ["s0_total{k=\"v\"} 10", "s1{k=\"v\"} 7", "s3_seconds_count{k=\"v\"} 1"] {
            assert!(shown.lines().any(|found| found == line), "{line}\n{shown}");
        }
        assert!(!shown.contains("le=\"0.1\"") && !shown.contains("s1_total"), "{shown}");

        // Of another shape altogether.
        let mut after = state(&Distributions::Summary, &[], 100);
        assert_eq!(after.restore(&saved).expect("it is whole"), 0);
        assert_eq!(after.apply(&interval(2, &all)).0.conflict, 0);
        assert!(text(&after).contains("s3_seconds_count{k=\"v\"} 1"), "{}", text(&after));

        // No room for all.
        let mut after = state(&Distributions::Summary, &[], 2);
        assert_eq!(after.restore(&saved).expect("it is whole"), 1);
    }

    #[test]
    fn impossible_numbers_are_refused() {
        let series = |kind| Series::new(kind, "s", &[]);
        let saved =
            |series, value| Saved { series, updated: 1.0, created: 0.0, sequence: 1, every: 1, value, ttl_secs: None };
        let sum = |value| {
            let mut sum = Sum::default();
            sum.add(value);
            sum
        };
        let good = saved(series(Kind::Counter), Value::Counter(sum(1.0)));
        for (n, bad) in [
            saved(series(Kind::Counter), Value::Counter(sum(f64::NAN))),
            saved(series(Kind::Counter), Value::Counter(sum(-1.0))),
            saved(series(Kind::Gauge), Value::Gauge(f64::INFINITY)),
            saved(series(Kind::Gauge), Value::Counter(sum(1.0))),
            saved(series(Kind::Timer), Value::Gauge(1.0)),
            Saved { updated: f64::NAN, ..saved(series(Kind::Counter), Value::Counter(sum(1.0))) },
            Saved { every: 0, ..saved(series(Kind::Counter), Value::Counter(sum(1.0))) },
        ]
        .iter()
        .enumerate()
        {
            // The first version, which is read as well.
            let mut bytes = vec![1];
            postcard::to_io(&Head { end: 1.0, last: None, series: 2 }, &mut bytes).expect("memory");
            for one in [&good, bad] {
                postcard::to_io(one, &mut bytes).expect("memory");
            }
            let mut state = state(&Distributions::Summary, &[], 100);
            let error = state.restore(&bytes).expect_err("a bad one").to_string();
            assert!(error.contains("impossible") && text(&state).is_empty(), "{n}: {error}");
        }
    }
}
