//! Timers, histograms and distributions: running sums, and the samples themselves up to a bound, so that
//! small series match the original to the last digit; beyond it a [`Histogram`].
//!
//! *Weighted* statistics count a sample 1/rate times; unweighted ones use the values as received, and only
//! `count` is corrected, as the original does it.

use super::counter::Sum;
use super::histogram::Histogram;

/// How samples are kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TimerPolicy {
    /// Exact samples per series and interval (default 4096), then the histogram.
    pub exact_samples: usize,
    /// Significant digits of the histogram, 1 to 5 (default 3: 0.1 %).
    pub digits: u8,
    /// Weigh sums and percentiles by 1/rate.
    pub weighted: bool,
}

impl Default for TimerPolicy {
    fn default() -> TimerPolicy {
        TimerPolicy { exact_samples: 4096, digits: 3, weighted: true }
    }
}

/// One interval of a timer.
#[derive(Clone, Debug, Default)]
pub struct Timer {
    samples: u64,
    count: Sum,
    sum: Sum,
    sum_squares: Sum,
    min: f64,
    max: f64,
    values: Vec<f64>,
    /// Weights of `values`, kept only once two differ.
    weights: Vec<f64>,
    first_weight: f64,
    mixed: bool,
    large: Option<Box<Large>>,
}

/// What a timer holds beyond its bound of exact samples.
#[derive(Clone, Debug)]
struct Large {
    histogram: Histogram,
    moments: Moments,
}

/// Weight, mean and squared deviations, updated as in D. H. D. West, "Updating mean and variance estimates",
/// CACM 22(9), 1979; merged as in Chan, Golub and LeVeque, 1979.
#[derive(Clone, Copy, Debug, Default)]
struct Moments {
    weight: f64,
    mean: f64,
    deviations: f64,
}

impl Moments {
    fn merge(&mut self, other: Moments) {
        if other.weight == 0.0 {
            return;
        }
        let weight = self.weight + other.weight;
        let delta = other.mean - self.mean;
        self.mean += delta * other.weight / weight;
        self.deviations += other.deviations + delta * delta * self.weight * other.weight / weight;
        self.weight = weight;
    }

    fn add(&mut self, value: f64, weight: f64) {
        self.merge(Moments { weight, mean: value, deviations: 0.0 });
    }
}

impl Timer {
    /// Records a finite value that stands for `weight` events.
    #[inline]
    pub fn record(&mut self, value: f64, weight: f64, policy: &TimerPolicy) {
        let own = if policy.weighted { weight } else { 1.0 };
        self.count.add(weight);
        self.sum.add(value * own);
        self.sum_squares.add((value * value * own).min(f64::MAX));
        if self.samples == 0 {
            (self.min, self.max, self.first_weight) = (value, value, own);
        } else {
            self.min = self.min.min(value);
            self.max = self.max.max(value);
        }
        self.samples += 1;
        self.keep(value, own, policy);
    }

    #[inline]
    fn keep(&mut self, value: f64, weight: f64, policy: &TimerPolicy) {
        if let Some(large) = &mut self.large {
            large.histogram.record(value, weight);
            large.moments.add(value, weight);
            self.mixed |= weight != self.first_weight;
            return;
        }
        if weight != self.first_weight && !self.mixed {
            self.mixed = true;
            self.weights.resize(self.values.len(), self.first_weight);
        }
        self.values.push(value);
        if self.mixed {
            self.weights.push(weight);
        }
        if self.values.len() > policy.exact_samples {
            self.promote(policy);
        }
    }

    /// Pours the exact samples into a histogram.
    fn promote(&mut self, policy: &TimerPolicy) {
        let magnitudes = self.values.iter().map(|v| v.abs()).filter(|&v| v > 0.0);
        let (smallest, largest) = magnitudes.fold((f64::INFINITY, 0.0_f64), |(low, high), v| (low.min(v), high.max(v)));
        let unit = self.weights.iter().copied().fold(self.first_weight, f64::min);
        let mut large =
            Large { histogram: Histogram::new(policy.digits, smallest, largest, unit), moments: Moments::default() };
        for (n, &value) in self.values.iter().enumerate() {
            let weight = self.weights.get(n).copied().unwrap_or(self.first_weight);
            large.histogram.record(value, weight);
            large.moments.add(value, weight);
        }
        self.values = Vec::new();
        self.weights = Vec::new();
        self.large = Some(Box::new(large));
    }

    /// Adds what another timer of the same policy holds.
    pub fn merge(&mut self, other: &Timer, policy: &TimerPolicy) {
        if other.samples == 0 {
            return;
        }
        if self.samples == 0 {
            *self = other.clone();
            return;
        }
        self.samples += other.samples;
        self.count.merge(other.count);
        self.sum.merge(other.sum);
        self.sum_squares.merge(other.sum_squares);
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        if let Some(theirs) = &other.large {
            if self.large.is_none() {
                self.promote(policy);
            }
            let ours = self.large.as_mut().expect("it was there or has just been made");
            ours.histogram.merge(&theirs.histogram);
            ours.moments.merge(theirs.moments);
            self.mixed |= other.mixed || other.first_weight != self.first_weight;
        } else {
            for (n, &value) in other.values.iter().enumerate() {
                let weight = other.weights.get(n).copied().unwrap_or(other.first_weight);
                self.keep(value, weight, policy);
            }
        }
    }

    /// Forgets everything but the room for as many samples as were just used.
    pub fn clear(&mut self) {
        let (mut values, mut weights) = (std::mem::take(&mut self.values), std::mem::take(&mut self.weights));
        values.shrink_to(values.len());
        values.clear();
        weights.clear();
        *self = Timer { values, weights, ..Timer::default() };
    }

    /// Takes the content for a snapshot; the room for samples stays.
    pub fn take(&mut self) -> Timer {
        let taken = Timer {
            values: self.values.as_slice().into(),
            weights: self.weights.as_slice().into(),
            large: self.large.take(),
            ..*self
        };
        self.clear();
        taken
    }

    /// Samples that arrived.
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// Events they stand for: the sum of 1/rate.
    pub fn count(&self) -> f64 {
        self.count.value()
    }

    /// Sum of the values, weighted if the policy says so.
    pub fn sum(&self) -> f64 {
        self.sum.value()
    }

    /// Sum of the squares, weighted if the policy says so.
    pub fn sum_squares(&self) -> f64 {
        self.sum_squares.value()
    }

    /// Smallest value; 0 without samples.
    pub fn min(&self) -> f64 {
        self.min
    }

    /// Largest value; 0 without samples.
    pub fn max(&self) -> f64 {
        self.max
    }

    /// Whether the samples themselves are held.
    pub fn is_exact(&self) -> bool {
        self.large.is_none()
    }

    /// Whether all samples weigh the same.
    pub fn is_uniform(&self) -> bool {
        !self.mixed
    }

    /// Values clamped by the histogram.
    pub fn clamped(&self) -> u64 {
        self.large.as_ref().map_or(0, |large| large.histogram.clamped())
    }

    /// Bytes of samples or counts held.
    pub fn memory_bytes(&self) -> usize {
        let exact = (self.values.capacity() + self.weights.capacity()) * size_of::<f64>();
        size_of::<Timer>() + exact + self.large.as_ref().map_or(0, |large| large.histogram.memory_bytes())
    }

    /// Population standard deviation.
    pub fn stddev(&self) -> f64 {
        let (weight, deviations) = match &self.large {
            Some(large) => (large.moments.weight, large.moments.deviations),
            None => {
                let weights = || (0..self.values.len()).map(|n| self.weights.get(n).copied().unwrap_or(1.0));
                let total: f64 = weights().sum();
                let mut sum = Sum::default();
                self.values.iter().zip(weights()).for_each(|(&v, w)| sum.add(v * w));
                let mean = sum.value() / total;
                let deviations = self.values.iter().zip(weights()).map(|(&v, w)| w * (v - mean) * (v - mean)).sum();
                (total, deviations)
            }
        };
        if weight > 0.0 { (deviations / weight).sqrt().min(f64::MAX) } else { 0.0 }
    }

    /// Values and weights by ascending value; for a histogram the middles of its buckets, kept within min and
    /// max. With equal weights the second number is how many samples have that value.
    pub fn sorted(&self) -> Vec<(f64, f64)> {
        let mut all = match &self.large {
            Some(large) => {
                let per_sample = if self.mixed { 1.0 } else { self.first_weight };
                large
                    .histogram
                    .buckets()
                    .into_iter()
                    .map(|(value, weight)| (value.clamp(self.min, self.max), weight / per_sample))
                    .collect()
            }
            None if self.mixed => self.values.iter().copied().zip(self.weights.iter().copied()).collect(),
            None => self.values.iter().map(|&value| (value, 1.0)).collect::<Vec<_>>(),
        };
        all.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: TimerPolicy = TimerPolicy { exact_samples: 100, digits: 3, weighted: true };

    fn timer(values: impl Iterator<Item = (f64, f64)>, policy: &TimerPolicy) -> Timer {
        let mut timer = Timer::default();
        values.for_each(|(value, weight)| timer.record(value, weight, policy));
        timer
    }

    #[test]
    fn unweighted_sums_use_the_values_as_received() {
        let policy = TimerPolicy { weighted: false, ..SMALL };
        let t = timer([(10.0, 10.0), (30.0, 10.0), (50.0, 10.0)].into_iter(), &policy);
        assert_eq!((t.count(), t.sum(), t.sum_squares(), t.samples()), (30.0, 90.0, 3500.0, 3));
        let t = timer([(10.0, 10.0), (30.0, 10.0), (50.0, 10.0)].into_iter(), &SMALL);
        assert_eq!((t.count(), t.sum(), t.is_uniform()), (30.0, 900.0, true));
    }

    #[test]
    fn the_deviation_survives_the_way_into_the_histogram() {
        let values = |n: i32| (0..n).map(|i| (1e9 + f64::from(i % 7), 1.0));
        let (exact, large) = (timer(values(70), &SMALL), timer(values(7000), &SMALL));
        assert!(exact.is_exact() && !large.is_exact());
        assert!((exact.stddev() - 2.0).abs() < 1e-9 && (large.stddev() - 2.0).abs() < 1e-6);
    }

    #[test]
    fn merged_timers_equal_one_that_saw_everything() {
        for (n, m) in [(10, 20), (90, 60), (500, 3), (3, 500), (400, 600)] {
            let sample = |i: i32| (f64::from(i * i % 977) - 300.0, if i % 3 == 0 { 2.0 } else { 1.0 });
            let whole = timer((0..n + m).map(sample), &SMALL);
            let mut left = timer((0..n).map(sample), &SMALL);
            left.merge(&timer((n..n + m).map(sample), &SMALL), &SMALL);
            assert_eq!((left.samples(), left.min(), left.max()), (whole.samples(), whole.min(), whole.max()));
            assert!((left.sum() - whole.sum()).abs() < 1e-6 && (left.stddev() / whole.stddev() - 1.0).abs() < 1e-9);
            assert_eq!(left.is_exact(), whole.is_exact());
            if whole.is_exact() {
                assert_eq!(left.sorted(), whole.sorted());
            }
        }
    }

    #[test]
    fn a_timer_of_a_million_samples_takes_no_more_than_128_kib() {
        let policy = TimerPolicy::default();
        let t = timer((0..1_000_000_u32).map(|n| (f64::from(n.wrapping_mul(7919) % 100_000) / 10.0, 1.0)), &policy);
        assert_eq!((t.samples(), t.is_exact()), (1_000_000, false));
        assert!(t.memory_bytes() <= 128 << 10, "{} bytes", t.memory_bytes());
    }

    #[test]
    fn a_cleared_timer_is_empty() {
        let mut t = timer((0..500).map(|n| (f64::from(n), 1.0)), &SMALL);
        let taken = t.take();
        assert_eq!((taken.samples(), t.samples(), t.sum(), t.sorted().len()), (500, 0, 0.0, 0));
    }
}
