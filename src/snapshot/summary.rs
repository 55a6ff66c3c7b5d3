//! The summary of a timer's interval: moments, percentiles, bins.
//!
//! With equal weights the original's rank rule holds (statsd/statsd, `lib/process_metrics.js`): the k-th
//! smallest of n values for `k = floor(|p|/100·n + 0.5)`, all of them if n is 1, no percentile if k is 0; for
//! a negative p the k largest. With different weights a percentile is the smallest value whose cumulative
//! weight reaches p/100 of the total.

use serde::{Deserialize, Serialize};

use crate::aggregate::{SeriesOverrides, Timer, TimerPolicy};

/// What to compute, and how timers of an interval are kept and merged.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SummaryPolicy {
    /// How samples are kept.
    pub timers: TimerPolicy,
    /// Percentiles, -100 to 100; a negative one counts from the top.
    pub percentiles: Vec<f64>,
    /// The DataDog agent's rules instead of the original's: integer weights, and no values between two samples.
    pub agent: bool,
    /// The original's histograms: the first whose text is contained in the series' name applies.
    pub bins: Vec<Bins>,
}

/// A histogram of the original's configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bins {
    /// Part of a name; empty for every series.
    pub metric: String,
    /// Exclusive upper limits in order; `None` takes the rest.
    pub limits: Vec<Option<f64>>,
}

/// A timer's interval in numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// The number of events: samples corrected by their rates.
    pub count: f64,
    /// The number of samples that arrived.
    pub samples: u64,
    /// Sum of the values.
    pub sum: f64,
    /// Sum of their squares.
    pub sum_squares: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// Their mean.
    pub mean: f64,
    /// Their median: the mean of the two middle values of an even number of equal weights.
    pub median: f64,
    /// Population standard deviation.
    pub stddev: f64,
    /// In the order of the policy; those of rank 0 are left out.
    pub percentiles: Vec<Percentile>,
    /// Counts of the bins that apply, as (upper limit, count).
    pub bins: Vec<(Option<f64>, f64)>,
    /// The number of events at or below each bound of a rule, as (bound, count); `None` is all of them.
    pub buckets: Vec<(Option<f64>, f64)>,
    /// Whether percentiles are exact.
    pub exact: bool,
}

/// One percentile.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Percentile {
    /// Which, -100 to 100.
    pub percentile: f64,
    /// The number of values it spans.
    pub count: f64,
    /// The largest of them, or the smallest for a negative percentile.
    pub value: f64,
    /// Their sum.
    pub sum: f64,
    /// The sum of their squares.
    pub sum_squares: f64,
}

/// Computes a timer's summary; `name` decides which bins apply, `own` are a rule's settings.
pub fn summarize(timer: &Timer, name: &str, policy: &SummaryPolicy, own: Option<&SeriesOverrides>) -> Summary {
    if timer.samples() == 0 {
        return Summary { exact: true, ..Summary::default() };
    }
    let percentiles = own.and_then(|own| own.percentiles.as_deref()).unwrap_or(&policy.percentiles);
    let sorted = timer.sorted();
    let buckets = match own {
        Some(own) if !own.buckets.is_empty() => cumulative(&weighted(&sorted, each(timer, policy)), &own.buckets),
        Some(_) | None => Vec::new(),
    };
    let summary = match policy.agent {
        true => agent_summary(timer, sorted, percentiles),
        false => summary(timer, sorted, name, policy, percentiles),
    };
    Summary { buckets, ..summary }.settled()
}

/// Clamps a value to the range of a double; a sum that left it at both ends is 0.
fn settled(value: f64) -> f64 {
    if value.is_nan() { 0.0 } else { value.clamp(f64::MIN, f64::MAX) }
}

impl Summary {
    /// With finite numbers only: no format can express others.
    fn settled(mut self) -> Summary {
        let own = [
            &mut self.count,
            &mut self.sum,
            &mut self.sum_squares,
            &mut self.min,
            &mut self.max,
            &mut self.mean,
            &mut self.median,
            &mut self.stddev,
        ];
        let of_percentiles =
            self.percentiles.iter_mut().flat_map(|p| [&mut p.count, &mut p.value, &mut p.sum, &mut p.sum_squares]);
        let counts = self.bins.iter_mut().chain(&mut self.buckets).map(|(_, count)| count);
        own.into_iter().chain(of_percentiles).chain(counts).for_each(|number| *number = settled(*number));
        self
    }
}

/// The number of events of a value of weight 1: equal weights are factored out.
fn each(timer: &Timer, policy: &SummaryPolicy) -> f64 {
    if policy.timers.weighted && timer.is_uniform() { timer.count() / timer.samples().max(1) as f64 } else { 1.0 }
}

/// A timer's values, ascending, each with the number of events that it stands for.
pub(super) fn values(timer: &Timer, policy: &SummaryPolicy) -> Vec<(f64, f64)> {
    weighted(&timer.sorted(), each(timer, policy))
}

/// Ascending values, each with the number of events that it stands for.
fn weighted(sorted: &[(f64, f64)], each: f64) -> Vec<(f64, f64)> {
    sorted.iter().map(|(value, weight)| (*value, (weight * each).min(f64::MAX))).collect()
}

/// The number of events at or below each of some ascending bounds, and the total; `values` are ascending, each with the
/// number of events that it stands for.
pub fn cumulative(values: &[(f64, f64)], bounds: &[f64]) -> Vec<(Option<f64>, f64)> {
    if bounds.is_empty() {
        return Vec::new();
    }
    let mut rest = values.iter().peekable();
    let mut count = 0.0;
    let all = bounds.iter().map(|&bound| Some(bound)).chain([None]);
    all.map(|bound| {
        while let Some((_, weight)) = rest.next_if(|(value, _)| bound.is_none_or(|bound| *value <= bound)) {
            count = (count + weight).min(f64::MAX);
        }
        (bound, count)
    })
    .collect()
}

fn summary(timer: &Timer, sorted: Vec<(f64, f64)>, name: &str, policy: &SummaryPolicy, percentiles: &[f64]) -> Summary {
    let sorted = Sorted::new(sorted);
    let (totals, is_uniform) = (timer.totals(), timer.is_uniform());
    let divisor = if policy.timers.weighted { timer.count() } else { timer.samples() as f64 };
    let bins = policy.bins.iter().find(|bins| name.contains(&bins.metric));
    Summary {
        count: timer.count(),
        samples: timer.samples(),
        sum: totals.sum,
        sum_squares: totals.sum_squares,
        min: totals.min,
        max: totals.max,
        mean: totals.sum / divisor,
        median: sorted.median(is_uniform),
        stddev: timer.stddev(),
        percentiles: percentiles.iter().filter_map(|&p| sorted.percentile(p, is_uniform)).collect(),
        bins: bins.map_or_else(Vec::new, |bins| sorted.bins(&bins.limits)),
        buckets: Vec::new(),
        exact: timer.is_exact(),
    }
}

/// The DataDog agent's summary (datadog-agent, `pkg/metrics/histogram.go`): a sample stands for the integer part of 1/rate
/// others; the median is the lower of two middle values; the percentile p is the first value whose cumulative weight
/// exceeds `(p·W - 1)/100`, rounded down.
fn agent_summary(timer: &Timer, sorted: Vec<(f64, f64)>, percentiles: &[f64]) -> Summary {
    let values: Vec<(f64, f64)> =
        sorted.into_iter().map(|(value, weight)| (value, (weight + 1e-9).trunc().max(1.0))).collect();
    let total: f64 = values.iter().map(|(_, weight)| weight).sum();
    let beyond = |place: f64| {
        let mut passed = 0.0;
        let found = values.iter().find(|(_, weight)| {
            passed += weight;
            passed > place
        });
        found.or(values.last()).map_or(0.0, |(value, _)| *value)
    };
    let totals = timer.totals();
    let percentile = |&percentile: &f64| Percentile {
        percentile,
        count: total * percentile / 100.0,
        value: beyond(((percentile * total - 1.0) / 100.0).trunc()),
        sum: 0.0,
        sum_squares: 0.0,
    };
    Summary {
        count: total,
        samples: timer.samples(),
        sum: totals.sum,
        sum_squares: totals.sum_squares,
        min: totals.min,
        max: totals.max,
        mean: totals.sum / total,
        median: beyond(((total - 1.0) / 2.0).trunc()),
        stddev: timer.stddev(),
        percentiles: percentiles.iter().filter(|p| **p > 0.0).map(percentile).collect(),
        bins: Vec::new(),
        buckets: Vec::new(),
        exact: timer.is_exact(),
    }
}

/// Ascending values with their weights, and the cumulative weights.
struct Sorted {
    values: Vec<(f64, f64)>,
    cumulative: Vec<f64>,
    /// Cumulative sums of values and of their squares.
    sums: Vec<(f64, f64)>,
}

impl Sorted {
    fn new(values: Vec<(f64, f64)>) -> Sorted {
        let (mut total, mut sum, mut sum_squares) = (0.0, 0.0, 0.0);
        let (mut cumulative, mut sums) = (Vec::with_capacity(values.len()), Vec::with_capacity(values.len()));
        for &(value, weight) in &values {
            total += weight;
            sum += value * weight;
            sum_squares += value * value * weight;
            cumulative.push(total);
            sums.push((sum, sum_squares));
        }
        Sorted { values, cumulative, sums }
    }

    fn total(&self) -> f64 {
        self.cumulative.last().copied().unwrap_or(0.0)
    }

    /// The value at which the cumulative weight reaches `weight`, up to rounding.
    fn at(&self, weight: f64) -> f64 {
        let reached = weight - 1e-9 * weight.max(1.0);
        self.value(self.cumulative.partition_point(|&c| c < reached))
    }

    /// The `n`-th value, or the last one. There is none where all weights are so small that a histogram counts nothing.
    fn value(&self, n: usize) -> f64 {
        self.values.get(n).or(self.values.last()).map_or(0.0, |(value, _)| *value)
    }

    fn median(&self, uniform: bool) -> f64 {
        let total = self.total().round();
        if uniform && total % 2.0 == 0.0 {
            let middle = total / 2.0;
            return 0.5 * self.at(middle) + 0.5 * self.at(middle + 1.0);
        }
        if uniform { self.at((total / 2.0).ceil()) } else { self.at(self.total() / 2.0) }
    }

    fn percentile(&self, percentile: f64, uniform: bool) -> Option<Percentile> {
        let total = if uniform { self.total().round() } else { self.total() };
        let share = percentile.abs() / 100.0 * total;
        let count = match (uniform, total) {
            (true, 1.0) => 1.0,
            (true, _) => (share + 0.5).floor().min(total),
            (false, _) => share,
        };
        if count <= 0.0 {
            return None;
        }
        let (value, from) = if percentile > 0.0 {
            (self.at(count), 0.0)
        } else if uniform {
            (self.at(total - count + 1.0), total - count)
        } else {
            // The largest value with less than the share above it.
            let n = self.cumulative.partition_point(|&c| total - c >= count * (1.0 - 1e-12));
            (self.value(n), total - count)
        };
        let (sum, sum_squares) = self.sums(from, from + count);
        Some(Percentile { percentile, count, value, sum, sum_squares })
    }

    /// Sum and sum of squares between two cumulative weights.
    fn sums(&self, from: f64, to: f64) -> (f64, f64) {
        if from == 0.0 {
            let whole = self.cumulative.partition_point(|&c| c <= to);
            let (mut sum, mut sum_squares) = whole.checked_sub(1).map_or((0.0, 0.0), |last| self.sums[last]);
            if let Some(&(value, _)) = self.values.get(whole) {
                let weight = to - whole.checked_sub(1).map_or(0.0, |last| self.cumulative[last]);
                sum += value * weight;
                sum_squares += value * value * weight;
            }
            return (sum.clamp(f64::MIN, f64::MAX), sum_squares.min(f64::MAX));
        }
        let (mut sum, mut sum_squares, mut before) = (0.0, 0.0, 0.0);
        for (&(value, _), &after) in self.values.iter().zip(&self.cumulative) {
            let weight = after.min(to) - f64::max(before, from);
            if weight > 0.0 {
                sum += value * weight;
                sum_squares += value * value * weight;
            }
            before = after;
        }
        (sum.clamp(f64::MIN, f64::MAX), sum_squares.min(f64::MAX))
    }

    fn bins(&self, limits: &[Option<f64>]) -> Vec<(Option<f64>, f64)> {
        let mut rest = self.values.iter().peekable();
        limits
            .iter()
            .map(|&limit| {
                let mut count = 0.0;
                while let Some((_, weight)) = rest.next_if(|(value, _)| limit.is_none_or(|limit| *value < limit)) {
                    count += weight;
                }
                (limit, count)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(samples: &[(f64, f64)], percentiles: &[f64], weighted: bool) -> Summary {
        let timers = TimerPolicy { weighted, ..TimerPolicy::default() };
        let mut timer = Timer::default();
        samples.iter().for_each(|&(value, weight)| timer.record(value, weight, &timers));
        let policy = SummaryPolicy { timers, percentiles: percentiles.to_vec(), ..SummaryPolicy::default() };
        let own = SeriesOverrides { buckets: vec![0.0, 2.0], ..SeriesOverrides::default() };
        summarize(&timer, "t", &policy, Some(&own))
    }

    fn values(summary: &Summary) -> Vec<(f64, f64)> {
        summary.percentiles.iter().map(|p| (p.percentile, p.value)).collect()
    }

    #[test]
    fn a_rank_of_zero_has_no_percentile_and_half_rounds_up() {
        let samples: Vec<_> = (1..=5).map(|n| (f64::from(n), 1.0)).collect();
        assert_eq!(
            values(&summary(&samples, &[5.0, 10.0, 50.0, 90.0, -20.0, 100.0], true)),
            [(10.0, 1.0), (50.0, 3.0), (90.0, 5.0), (-20.0, 5.0), (100.0, 5.0)]
        );
        assert_eq!(values(&summary(&[(7.0, 1.0)], &[0.0, 1.0, -1.0], true)), [(0.0, 7.0), (1.0, 7.0), (-1.0, 7.0)]);
    }

    #[test]
    fn different_weights_move_the_percentile() {
        let s = summary(&[(1.0, 1.0), (2.0, 10.0), (100.0, 1.0)], &[50.0, 90.0, 99.0], true);
        assert_eq!((values(&s), s.median), (vec![(50.0, 2.0), (90.0, 2.0), (99.0, 100.0)], 2.0));
        let unweighted = summary(&[(1.0, 1.0), (2.0, 10.0), (100.0, 1.0)], &[90.0], false);
        assert_eq!((values(&unweighted), unweighted.count), (vec![(90.0, 100.0)], 12.0));
    }

    #[test]
    fn every_number_is_finite_whatever_values_and_weights_are() {
        let ends = [f64::MAX, f64::MIN, 1e-308, -1e-308, 0.0, 1.0];
        let weights = [1.0, f64::MAX, 1e300, 1.5];
        for samples in [1, 2, 3, 50] {
            for (policy_weighted, agent) in [(true, false), (false, false), (true, true)] {
                let timers = TimerPolicy { weighted: policy_weighted, exact_samples: 20, ..TimerPolicy::default() };
                let bins = vec![Bins { metric: String::new(), limits: vec![Some(0.0), None] }];
                let percentiles = vec![50.0, 99.9, -10.0, 100.0, -100.0];
                let policy = SummaryPolicy { timers, percentiles, agent, bins };
                let own = SeriesOverrides { buckets: vec![0.0, 2.0], ..SeriesOverrides::default() };
                for shift in 0..ends.len() * weights.len() {
                    let mut timer = Timer::default();
                    for n in 0..samples {
                        let n = n * (1 + shift % 3) + shift;
                        timer.record(ends[n % ends.len()], weights[n / ends.len() % weights.len()], &timers);
                    }
                    let s = summarize(&timer, "t", &policy, Some(&own));
                    let own = [s.count, s.sum, s.sum_squares, s.min, s.max, s.mean, s.median, s.stddev];
                    let of = |p: &Percentile| [p.count, p.value, p.sum, p.sum_squares];
                    let counts = s.bins.iter().chain(&s.buckets).map(|(_, count)| *count);
                    let mut all = own.into_iter().chain(s.percentiles.iter().flat_map(of)).chain(counts);
                    assert!(all.all(f64::is_finite), "{samples} {shift}: {s:?}");
                    assert!(timer.sorted().iter().all(|(value, weight)| value.is_finite() && weight.is_finite()));
                }
            }
        }
    }

    #[test]
    fn weights_that_count_nothing_in_a_histogram_have_a_summary() {
        let timers = TimerPolicy { exact_samples: 0, ..TimerPolicy::default() };
        let mut timer = Timer::default();
        timer.record(5.0, 1e-300, &timers);
        let policy = SummaryPolicy { timers, percentiles: vec![50.0, -10.0], ..SummaryPolicy::default() };
        let s = summarize(&timer, "t", &policy, None);
        assert_eq!((timer.sorted().len(), s.samples, s.max, s.median), (0, 1, 5.0, 0.0));
    }

    #[test]
    fn buckets_count_what_lies_at_or_below_a_bound() {
        let s = summary(&[(1.0, 1.0), (2.0, 10.0), (2.5, 1.0), (-1.0, 2.0)], &[], true);
        assert_eq!(s.buckets, [(Some(0.0), 2.0), (Some(2.0), 13.0), (None, 14.0)]);
        let even = summary(&[(1.0, 10.0), (3.0, 10.0)], &[], true);
        assert_eq!(even.buckets, [(Some(0.0), 0.0), (Some(2.0), 10.0), (None, 20.0)]);
        let as_received = summary(&[(1.0, 10.0), (3.0, 10.0)], &[], false);
        assert_eq!(as_received.buckets, [(Some(0.0), 0.0), (Some(2.0), 1.0), (None, 2.0)]);
    }

    #[test]
    fn the_whole_range_from_the_top_has_the_full_sums() {
        let s = summary(&[(1.0, 1.0), (2.0, 1.0), (3.0, 1.0)], &[-100.0], false);
        assert_eq!((s.percentiles[0].sum, s.percentiles[0].value, s.percentiles[0].count), (6.0, 1.0, 3.0));
    }
}
