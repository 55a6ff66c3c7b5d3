//! Histograms with buckets of base 2: Prometheus' native histograms and OpenTelemetry's exponential ones (Prometheus,
//! "Native histograms"; OpenTelemetry metrics data model, "ExponentialHistogram"). Bucket `i` of schema `s` holds what is above
//! `2^((i-1)·2^-s)` and at or below `2^(i·2^-s)`; with schema 6 a bucket is 1.1 % wide, so
//! that no value in it is further than that from any other.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::memory::tree_footprint;

/// The schema histograms begin with.
const SCHEMA: i32 = 6;
/// Most buckets of a sign; beyond it two become one, and the schema falls.
const MOST_BUCKETS: usize = 1600;
/// What is nearer to zero counts as zero (Prometheus' default, 2^-128).
pub(super) const ZERO_THRESHOLD: f64 = 2.938_735_877_055_719e-39;

/// The least schema that anything comes to: one bucket holds all doubles above 1.
const LEAST_SCHEMA: i32 = -10;

/// Counts of values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Exponential {
    pub(super) schema: i32,
    pub(super) zero: f64,
    pub(super) positive: BTreeMap<i32, f64>,
    pub(super) negative: BTreeMap<i32, f64>,
}

impl Default for Exponential {
    fn default() -> Exponential {
        Exponential { schema: SCHEMA, zero: 0.0, positive: BTreeMap::new(), negative: BTreeMap::new() }
    }
}

/// Buckets that follow one another: the place of the first, and the counts.
pub(super) type Run = (i32, Vec<f64>);

impl Exponential {
    /// Counts a finite value `count` times.
    pub(super) fn add(&mut self, value: f64, count: f64) {
        if value.abs() <= ZERO_THRESHOLD {
            self.zero = (self.zero + count).min(f64::MAX);
            return;
        }
        let place = (value.abs().log2() * f64::from(self.schema).exp2()).ceil() as i32;
        let side = if value > 0.0 { &mut self.positive } else { &mut self.negative };
        let held = side.entry(place).or_default();
        *held = (*held + count).min(f64::MAX);
        if side.len() > MOST_BUCKETS {
            self.coarsen();
        }
    }

    /// Bytes that it takes beside itself.
    pub(super) fn heap_bytes(&self) -> usize {
        [&self.positive, &self.negative].map(|side| tree_footprint::<i32, f64>(side.len())).iter().sum()
    }

    /// Makes buckets coarser until those of a sign span no more than `most`, the empty ones between them included.
    pub(super) fn narrow(&mut self, most: i32) {
        let span = |side: &BTreeMap<i32, f64>| match (side.first_key_value(), side.last_key_value()) {
            (Some((first, _)), Some((last, _))) => last - first + 1,
            _ => 0,
        };
        while span(&self.positive).max(span(&self.negative)) > most {
            self.coarsen();
        }
    }

    fn coarsen(&mut self) {
        self.schema -= 1;
        for side in [&mut self.positive, &mut self.negative] {
            let mut coarse = BTreeMap::new();
            for (place, count) in std::mem::take(side) {
                let held: &mut f64 = coarse.entry((place + 1).div_euclid(2)).or_default();
                *held = (*held + count).min(f64::MAX);
            }
            *side = coarse;
        }
    }

    /// Whether this is what [`Exponential::add`] makes.
    pub(super) fn is_possible(&self) -> bool {
        let sides = [&self.positive, &self.negative];
        let counts = || sides.into_iter().flat_map(BTreeMap::values).chain([&self.zero]);
        (LEAST_SCHEMA..=SCHEMA).contains(&self.schema)
            && sides.iter().all(|side| side.len() <= MOST_BUCKETS)
            && counts().all(|count| count.is_finite() && *count >= 0.0)
    }

    /// Everything that was counted.
    pub(super) fn count(&self) -> f64 {
        (self.zero + self.positive.values().sum::<f64>() + self.negative.values().sum::<f64>()).min(f64::MAX)
    }

    /// Whether counts are whole.
    pub(super) fn is_whole(&self) -> bool {
        let whole = |count: &f64| *count == count.trunc() && *count < 9e15;
        whole(&self.zero) && self.positive.values().all(whole) && self.negative.values().all(whole)
    }

    /// Buckets in runs, with no more than `gap` empty ones inside.
    pub(super) fn runs(side: &BTreeMap<i32, f64>, gap: i32) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for (&place, &count) in side {
            match runs.last_mut() {
                Some((first, counts)) if place - (*first + counts.len() as i32) <= gap => {
                    counts.resize((place - *first) as usize, 0.0);
                    counts.push(count);
                }
                _ => runs.push((place, vec![count])),
            }
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_its_upper_bound_and_not_its_lower() {
        let mut histogram = Exponential::default();
        for value in [1.0, 2.0, 2.000_001, 0.5, -1.0, 0.0] {
            histogram.add(value, 2.0);
        }
        assert_eq!(histogram.positive.into_iter().collect::<Vec<_>>(), [(-64, 2.0), (0, 2.0), (64, 2.0), (65, 2.0)]);
        assert_eq!((histogram.negative[&0], histogram.zero), (2.0, 2.0));
    }

    #[test]
    fn many_decades_take_coarser_buckets_and_no_count_is_lost() {
        let mut histogram = Exponential::default();
        for n in 0..20_000 {
            histogram.add(1.002_f64.powi(n) * 1e-6, 0.5);
        }
        assert!(histogram.schema < SCHEMA && histogram.positive.len() <= MOST_BUCKETS);
        assert_eq!((histogram.count(), histogram.is_whole()), (10_000.0, false));
        for place in histogram.positive.keys() {
            assert!((f64::from(*place) * (-f64::from(histogram.schema)).exp2()).exp2() > 0.99e-6);
        }
    }

    #[test]
    fn a_narrow_histogram_has_every_count() {
        let mut histogram = Exponential::default();
        [f64::MAX, 1e-30, 1.0, -5.0].iter().for_each(|value| histogram.add(*value, 2.0));
        histogram.narrow(1000);
        assert_eq!((histogram.count(), histogram.schema), (8.0, -1));
        let (first, last) = (histogram.positive.first_key_value(), histogram.positive.last_key_value());
        assert!(last.expect("some").0 - first.expect("some").0 < 1000);
    }

    #[test]
    fn runs_leave_out_wide_gaps_alone() {
        let side = [(1, 1.0), (2, 2.0), (5, 3.0), (20, 4.0)].into_iter().collect();
        assert_eq!(Exponential::runs(&side, 2), [(1, vec![1.0, 2.0, 0.0, 0.0, 3.0]), (20, vec![4.0])]);
        assert_eq!(Exponential::runs(&side, 100).len(), 1);
    }
}
