//! The numbers of a point, one by one: what every format is made of that gives each number a name.

use std::borrow::Cow;
use std::{array, option, slice};

use super::{Point, Snapshot, Summary, number};

/// What a number of a point is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Aggregate {
    /// The value of a counter, a gauge or a key-value pair; of a set, the number of members.
    Value,
    /// Events of a timer: samples corrected by their rates.
    Count,
    /// A counter's value, or a timer's count, per second.
    Rate,
    /// The sum of a timer's values.
    Sum,
    /// The smallest.
    Min,
    /// The largest.
    Max,
    /// Their mean.
    Mean,
    /// Their median.
    Median,
    /// Their standard deviation.
    StdDev,
    /// A percentile, -100 to 100; a negative one is counted from the top.
    Percentile(f64),
    /// How many events lie at or below a bound; `None` is all of them.
    Bucket(Option<f64>),
}

impl Aggregate {
    /// `value`, `count`, …; `p99.9` and `top99.9` for percentiles, `le_100` and `le_inf` for buckets.
    pub fn name(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Aggregate::Value => "value",
            Aggregate::Count => "count",
            Aggregate::Rate => "rate",
            Aggregate::Sum => "sum",
            Aggregate::Min => "min",
            Aggregate::Max => "max",
            Aggregate::Mean => "mean",
            Aggregate::Median => "median",
            Aggregate::StdDev => "stddev",
            Aggregate::Percentile(percentile) => {
                let side = if percentile < 0.0 { "top" } else { "p" };
                return format!("{side}{}", number(percentile.abs())).into();
            }
            Aggregate::Bucket(None) => "le_inf",
            Aggregate::Bucket(Some(bound)) => return format!("le_{}", number(bound)).into(),
        })
    }
}

/// An iterator over the numbers of a point: the value and the rate of a counter; the value of a gauge or a set; each value of
/// key-value pairs; of a timer its count and rate and, if it has samples, the rest in the order of [`Aggregate`].
#[derive(Clone, Debug)]
pub struct Aggregates<'a>(Numbers<'a>);

#[derive(Clone, Debug)]
enum Numbers<'a> {
    Counter(array::IntoIter<(Aggregate, f64), 2>),
    One(option::IntoIter<(Aggregate, f64)>),
    Values(slice::Iter<'a, f64>),
    Timer { summary: Summary, rate: f64, next: usize },
}

/// Numbers of a timer that are no percentiles and no buckets.
const MOMENTS: usize = 8;

/// Those that a timer without samples has.
const ALWAYS: usize = 2;

fn of_timer(s: &Summary, rate: f64, n: usize) -> Option<(Aggregate, f64)> {
    if s.samples == 0 && n >= ALWAYS {
        return None;
    }
    let moments: [_; MOMENTS] = [
        (Aggregate::Count, s.count),
        (Aggregate::Rate, rate),
        (Aggregate::Sum, s.sum),
        (Aggregate::Min, s.min),
        (Aggregate::Max, s.max),
        (Aggregate::Mean, s.mean),
        (Aggregate::Median, s.median),
        (Aggregate::StdDev, s.stddev),
    ];
    if let Some(moment) = moments.get(n) {
        return Some(*moment);
    }
    let n = n - MOMENTS;
    if let Some(percentile) = s.percentiles.get(n) {
        return Some((Aggregate::Percentile(percentile.percentile), percentile.value));
    }
    let (bound, count) = s.buckets.get(n - s.percentiles.len())?;
    Some((Aggregate::Bucket(*bound), *count))
}

impl Iterator for Aggregates<'_> {
    type Item = (Aggregate, f64);

    fn next(&mut self) -> Option<(Aggregate, f64)> {
        match &mut self.0 {
            Numbers::Counter(numbers) => numbers.next(),
            Numbers::One(number) => number.next(),
            Numbers::Values(values) => values.next().map(|value| (Aggregate::Value, *value)),
            Numbers::Timer { summary, rate, next } => {
                *next += 1;
                of_timer(summary, *rate, *next - 1)
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = match &self.0 {
            Numbers::Counter(numbers) => numbers.len(),
            Numbers::One(number) => number.len(),
            Numbers::Values(values) => values.len(),
            Numbers::Timer { summary, next, .. } => {
                let all = match summary.samples {
                    0 => ALWAYS,
                    _ => MOMENTS + summary.percentiles.len() + summary.buckets.len(),
                };
                all.saturating_sub(*next)
            }
        };
        (left, Some(left))
    }
}

impl Snapshot {
    /// The numbers of a point.
    pub(crate) fn aggregates<'a>(&self, point: Point<'a>) -> Aggregates<'a> {
        let one = |value: f64| Numbers::One(Some((Aggregate::Value, value)).into_iter());
        Aggregates(match point {
            Point::Counter(point) => {
                let value = point.sum.value();
                let rate = self.rate(&point.series, value);
                Numbers::Counter([(Aggregate::Value, value), (Aggregate::Rate, rate)].into_iter())
            }
            Point::Gauge(point) => one(point.gauge.value()),
            Point::Set(point) => one(point.members.count()),
            Point::Kv(point) => Numbers::Values(point.values.iter()),
            Point::Timer(point) => {
                let summary = self.summary(point);
                let rate = self.rate(&point.series, summary.count);
                Numbers::Timer { summary, rate, next: 0 }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::{SeriesOverrides, Timer, TimerPolicy};
    use crate::protocol::Kind;
    use crate::series::Series;
    use crate::snapshot::{KvPoint, SummaryPolicy, TimerPoint, summarize};

    #[test]
    fn a_timer_has_every_number_of_its_summary_once() {
        let mut timer = Timer::default();
        [1.0, 2.0, 4.0].iter().for_each(|&value| timer.record(value, 1.0, &TimerPolicy::default()));
        let policy = SummaryPolicy { percentiles: vec![50.0, -99.9], ..SummaryPolicy::default() };
        let own = SeriesOverrides { buckets: vec![2.5], ..SeriesOverrides::default() };
        let summary = summarize(&timer, "t", &policy, Some(&own));
        let mut all = Aggregates(Numbers::Timer { summary, rate: 0.3, next: 0 });
        let names: Vec<_> = all.clone().map(|(aggregate, value)| (aggregate.name().into_owned(), value)).collect();
        let expected = [
            ("count", 3.0),
            ("rate", 0.3),
            ("sum", 7.0),
            ("min", 1.0),
            ("max", 4.0),
            ("mean", 7.0 / 3.0),
            ("median", 2.0),
            ("stddev", (14.0_f64 / 9.0).sqrt()),
            ("p50", 2.0),
            ("top99.9", 1.0),
            ("le_2.5", 2.0),
            ("le_inf", 3.0),
        ];
        for ((name, value), (known, right)) in names.iter().zip(expected) {
            assert!(name == known && (value - right).abs() < 1e-9, "{names:?}");
        }
        for left in (0..=expected.len()).rev() {
            assert_eq!(all.size_hint(), (left, Some(left)));
            assert_eq!(all.next().is_some(), left > 0);
        }
    }

    #[test]
    fn a_timer_without_samples_has_no_more_than_a_count_and_a_rate() {
        let point = TimerPoint { series: Series::new(Kind::Timer, "t", &[]), timer: Timer::default() };
        let snapshot = Snapshot::default();
        let all = snapshot.aggregates(Point::Timer(&point));
        assert_eq!(all.size_hint(), (2, Some(2)));
        assert_eq!(all.collect::<Vec<_>>(), [(Aggregate::Count, 0.0), (Aggregate::Rate, 0.0)]);
        let point = KvPoint { series: Series::new(Kind::Kv, "k", &[]), values: vec![1.0, 5.0] };
        assert_eq!(snapshot.aggregates(Point::Kv(&point)).last(), Some((Aggregate::Value, 5.0)));
    }
}
