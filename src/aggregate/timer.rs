//! Timers, histograms and distributions: running sums, and exact samples up to a bound, so that small series match the
//! original to the last digit; beyond it a [`Histogram`], and merged ones a [`MergedHistogram`].
//!
//! Merged timers are the same to the bit in any order and any groups: whether samples stay exact depends on how many there
//! are in all parts together, each sample has its bucket whenever it gets there, and beyond the bound sums are
//! [`ExactSum`]s. The count alone, where weights are not used and samples stay exact, may differ in its last bits.
//!
//! *Weighted* statistics count a sample 1/rate times; unweighted ones use the values as received and correct only
//! `count`, like the original.

use serde::{Deserialize, Serialize};

use crate::memory::{footprint, vec_footprint};

use super::counter::Sum;
use super::exact_sum::{ExactSum, product};
use super::histogram::Histogram;
use super::merged_histogram::MergedHistogram;
use super::overrides::SeriesOverrides;

/// How samples are kept.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimerPolicy {
    /// Exact samples per series and interval (default 4096), then the histogram.
    pub exact_samples: usize,
    /// Significant digits of the histogram, 1 to 5 (default 3: 0.1 %).
    pub digits: u8,
    /// Whether sums and percentiles are weighted by 1/rate.
    pub weighted: bool,
}

impl TimerPolicy {
    /// The same with the digits that a rule gives a series.
    pub fn of(self, overrides: Option<&SeriesOverrides>) -> TimerPolicy {
        TimerPolicy { digits: overrides.and_then(|own| own.digits).unwrap_or(self.digits), ..self }
    }
}

/// Most samples that capacity is reserved for.
const ROOM: usize = 64;

impl Default for TimerPolicy {
    fn default() -> TimerPolicy {
        TimerPolicy { exact_samples: 4096, digits: 3, weighted: true }
    }
}

/// One interval of a timer. Few samples of one weight, as most timers have, take little more than their values; sums and
/// extremes are computed on demand.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Timer(Samples);

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Samples {
    /// Equal weights, and every value is a multiple of 1/1000, like milliseconds with up to three decimals.
    Narrow { weight: f64, values: Vec<i32> },
    /// Equal weights. Boxed, so that the other variants are a word smaller.
    Even(Box<Even>),
    /// Weights differ, or are not used.
    Uneven(Box<Uneven>),
    /// Beyond the bound of exact samples.
    Large(Box<Large>),
    /// Of several parts, beyond the bound.
    Merged(Box<Merged>),
}

impl Default for Timer {
    fn default() -> Timer {
        Timer(Samples::Narrow { weight: 1.0, values: Vec::new() })
    }
}

/// Sums and extremes of a timer, weighted if the policy says so; all 0 without samples.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Totals {
    /// Sum of the values.
    pub sum: f64,
    /// Sum of their squares.
    pub sum_squares: f64,
    /// The smallest value.
    pub min: f64,
    /// The largest value.
    pub max: f64,
}

/// Values of equal weight.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Even {
    weight: f64,
    values: Vec<f64>,
}

/// Values with a weight each.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Uneven {
    /// Sum of 1/rate, independent of the weights.
    count: Sum,
    values: Vec<f64>,
    weights: Vec<f64>,
}

/// The state of a timer beyond its bound of exact samples.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Large {
    histogram: Histogram,
    figures: Figures,
}

/// The same of several parts together.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Merged {
    histogram: MergedHistogram,
    figures: MergedFigures,
}

/// What is known of samples beside their histogram.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Figures {
    moments: Moments,
    samples: u64,
    count: Sum,
    sum: Sum,
    sum_squares: Sum,
    min: f64,
    max: f64,
    first_weight: f64,
    mixed: bool,
}

impl Figures {
    /// Those of no samples, of events that are counted beside them.
    fn new(events: f64, first_weight: f64) -> Figures {
        let mut count = Sum::default();
        count.add(events);
        Figures {
            moments: Moments::default(),
            samples: 0,
            count,
            sum: Sum::default(),
            sum_squares: Sum::default(),
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            first_weight,
            mixed: false,
        }
    }

    fn add(&mut self, value: f64, weight: f64) {
        self.moments.add(value, weight);
        self.samples += 1;
        self.sum.add(value * weight);
        self.sum_squares.add(square(value, weight));
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        self.mixed |= weight != self.first_weight;
    }

    fn totals(&self) -> Totals {
        Totals { sum: self.sum.value(), sum_squares: self.sum_squares.value(), min: self.min, max: self.max }
    }

    /// Buckets as values between the extremes, with their weights, or with the number of samples if the weights are equal.
    fn sorted(&self, buckets: impl Iterator<Item = (f64, f64)>) -> Vec<(f64, f64)> {
        let per_sample = if self.mixed { 1.0 } else { self.first_weight };
        buckets.map(|(value, weight)| (value.max(self.min).min(self.max), weight / per_sample)).collect()
    }
}

/// The figures of several parts: sums and extremes, which are the same in any order.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct MergedFigures {
    samples: u64,
    count: ExactSum,
    sum: ExactSum,
    sum_squares: ExactSum,
    /// Of the weights.
    weights: ExactSum,
    /// Of the squares times the weights, without the rounding of `sum_squares`.
    squares: ExactSum,
    min: f64,
    max: f64,
    /// The smallest first weight of a part.
    first_weight: f64,
    mixed: bool,
}

impl MergedFigures {
    fn new(first_weight: f64) -> MergedFigures {
        MergedFigures {
            samples: 0,
            count: ExactSum::default(),
            sum: ExactSum::default(),
            sum_squares: ExactSum::default(),
            weights: ExactSum::default(),
            squares: ExactSum::default(),
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            first_weight,
            mixed: false,
        }
    }

    /// Adds a sample, the count and the weight of which are added beside.
    fn add(&mut self, value: f64, weight: f64) {
        self.samples += 1;
        self.sum_squares.add(square(value, weight));
        let (first, rest) = product(value, weight);
        [first, rest].into_iter().for_each(|part| self.sum.add(part));
        let (square, more) = product(first, value);
        [square, more, rest * value].into_iter().for_each(|part| self.squares.add(part));
        self.min = lesser(self.min, value);
        self.max = -lesser(-self.max, -value);
        self.mixed |= weight != self.first_weight;
        self.first_weight = self.first_weight.min(weight);
    }

    fn merge(&mut self, other: &MergedFigures) {
        self.samples = self.samples.saturating_add(other.samples);
        self.count.merge(&other.count);
        self.sum.merge(&other.sum);
        self.sum_squares.merge(&other.sum_squares);
        self.weights.merge(&other.weights);
        self.squares.merge(&other.squares);
        self.min = lesser(self.min, other.min);
        self.max = -lesser(-self.max, -other.max);
        self.mixed |= other.mixed || self.first_weight != other.first_weight;
        self.first_weight = self.first_weight.min(other.first_weight);
    }

    /// Squared deviations are the squares less those of the mean, which nearly cancel out: without rounding nothing is lost.
    fn moments(&self) -> Moments {
        let weight = self.weights.value();
        let mean = self.sum.value() / weight;
        let (square, rest) = product(mean, mean);
        if !(square * weight).is_finite() || self.squares.value() == f64::MAX {
            return Moments { weight, mean, deviations: f64::INFINITY };
        }
        let mut deviations = self.squares.clone();
        let mut add = |(first, rest)| {
            deviations.add(first);
            deviations.add(rest);
        };
        self.sum.parts().into_iter().for_each(|part| add(product(-2.0 * mean, part)));
        self.weights.parts().into_iter().for_each(|part| {
            add(product(square, part));
            add(product(rest, part));
        });
        Moments { weight, mean, deviations: deviations.value().max(0.0) }
    }

    fn rounded(&self) -> Figures {
        let sum = |exact: &ExactSum| {
            let mut sum = Sum::default();
            sum.add(exact.value());
            sum
        };
        Figures {
            moments: self.moments(),
            samples: self.samples,
            count: sum(&self.count),
            sum: sum(&self.sum),
            sum_squares: sum(&self.sum_squares),
            min: self.min,
            max: self.max,
            first_weight: self.first_weight,
            mixed: self.mixed,
        }
    }
}

impl From<&Figures> for MergedFigures {
    fn from(part: &Figures) -> MergedFigures {
        let Moments { weight, deviations, .. } = part.moments;
        let [first, rest] = part.sum.parts();
        // The square of the sum, divided by the weight, as the mean and what it leaves of the sum.
        let mean = part.sum.value() / weight;
        let (whole, below) = product(mean, weight);
        let left = first - whole - below + rest;
        let (square, more) = product(whole, mean);
        let squares = [deviations, square, more, below * mean, 2.0 * mean * left, left * left / weight];
        MergedFigures {
            samples: part.samples,
            count: part.count.parts().into_iter().collect(),
            sum: part.sum.parts().into_iter().collect(),
            sum_squares: part.sum_squares.parts().into_iter().collect(),
            weights: [weight].into_iter().collect(),
            squares: squares.into_iter().collect(),
            min: part.min,
            max: part.max,
            first_weight: part.first_weight,
            mixed: part.mixed,
        }
    }
}

/// The lesser of two numbers, of zeros the negative one: in either order the same to the bit.
fn lesser(a: f64, b: f64) -> f64 {
    if b.total_cmp(&a).is_lt() { b } else { a }
}

impl Uneven {
    fn sort(&mut self) {
        let mut all: Vec<(f64, f64)> = self.values.iter().copied().zip(self.weights.iter().copied()).collect();
        all.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
        for ((value, weight), sorted) in self.values.iter_mut().zip(&mut self.weights).zip(all) {
            (*value, *weight) = sorted;
        }
        // If weights are used, the count is their sum: in one order the same to the last bit.
        if self.weights.iter().any(|&weight| weight != 1.0) {
            self.count = Sum::default();
            self.weights.iter().for_each(|&weight| self.count.add(weight));
        }
    }
}

impl Merged {
    fn merge(&mut self, other: &Merged) {
        self.histogram.merge(&other.histogram);
        self.figures.merge(&other.figures);
    }
}

impl Large {
    fn add(&mut self, value: f64, weight: f64) {
        self.histogram.record(value, weight);
        self.figures.add(value, weight);
    }
}

fn square(value: f64, weight: f64) -> f64 {
    (value * value * weight).min(f64::MAX)
}

/// Weight, mean and squared deviations, updated as in D. H. D. West, "Updating mean and variance estimates",
/// CACM 22(9), 1979; merged as in Chan, Golub and LeVeque, 1979.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
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
        if !self.record_known(value, weight, policy) {
            self.record_other(value, weight, policy);
        }
    }

    /// Records it if that is an append that takes no more memory; else does nothing and returns `false`.
    #[inline(always)]
    pub(super) fn record_known(&mut self, value: f64, weight: f64, policy: &TimerPolicy) -> bool {
        if let Samples::Narrow { weight: ours, values } = &mut self.0
            && weight == *ours
            && (policy.weighted || weight == 1.0)
            && values.len() < policy.exact_samples
            && values.len() < values.capacity()
            && let Some(narrow) = thousandths(value)
        {
            values.push(narrow);
            return true;
        }
        false
    }

    /// Whether this value takes more memory than there is now, or may. Another form of the samples does: of values that are no
    /// thousandths, or of weights that differ.
    pub(super) fn would_grow(&self, value: f64, weight: f64, policy: &TimerPolicy) -> bool {
        let own = if policy.weighted { weight } else { 1.0 };
        match &self.0 {
            Samples::Narrow { weight: ours, values } => {
                let is_same = *ours == weight && own == weight && thousandths(value).is_some();
                !is_same || values.len() == values.capacity()
            }
            Samples::Even(even) => even.weight != weight || even.values.len() == even.values.capacity(),
            Samples::Uneven(uneven) => {
                uneven.values.len() == uneven.values.capacity() || uneven.weights.len() == uneven.weights.capacity()
            }
            Samples::Large(_) => false,
            Samples::Merged(_) => true,
        }
    }

    /// Bytes that it takes beside itself.
    pub(crate) fn heap_bytes(&self) -> usize {
        match &self.0 {
            Samples::Narrow { values, .. } => vec_footprint::<i32>(values.capacity()),
            Samples::Even(even) => footprint(size_of::<Even>()) + vec_footprint::<f64>(even.values.capacity()),
            Samples::Uneven(uneven) => {
                footprint(size_of::<Uneven>())
                    + vec_footprint::<f64>(uneven.values.capacity())
                    + vec_footprint::<f64>(uneven.weights.capacity())
            }
            Samples::Large(large) => footprint(size_of::<Large>()) + large.histogram.heap_bytes(),
            Samples::Merged(merged) => footprint(size_of::<Merged>()) + merged.histogram.heap_bytes(),
        }
    }

    /// Records a value in any way.
    #[inline(never)]
    pub(super) fn record_other(&mut self, value: f64, weight: f64, policy: &TimerPolicy) {
        let own = if policy.weighted { weight } else { 1.0 };
        if let Samples::Merged(merged) = &mut self.0 {
            merged.figures.count.add(weight);
            merged.figures.weights.add(own);
            merged.figures.add(value, own);
            merged.histogram.merge(&MergedHistogram::of_samples(policy.digits, &[(value, own)]));
            return;
        }
        if !self.is_exact() || self.samples() >= policy.exact_samples as u64 {
            let large = self.promote(policy);
            large.figures.count.add(weight);
            large.add(value, own);
            return;
        }
        if self.samples() == 0 && own == weight {
            match &mut self.0 {
                Samples::Narrow { weight: ours, .. } => *ours = weight,
                Samples::Even(even) => even.weight = weight,
                Samples::Uneven(_) | Samples::Large(_) | Samples::Merged(_) => {}
            }
        }
        match &mut self.0 {
            Samples::Narrow { weight: ours, values } if *ours == weight && own == weight => {
                if let Some(narrow) = thousandths(value) {
                    push(values, narrow);
                } else {
                    let mut wide = Vec::with_capacity(values.len() + 4);
                    wide.extend(values.iter().map(|&v| from_thousandths(v)));
                    wide.push(value);
                    self.0 = Samples::Even(Box::new(Even { weight, values: wide }));
                }
            }
            Samples::Even(even) if even.weight == weight => push(&mut even.values, value),
            Samples::Narrow { .. } | Samples::Even(_) | Samples::Uneven(_) | Samples::Large(_) | Samples::Merged(_) => {
                let uneven = self.uneven();
                uneven.count.add(weight);
                uneven.values.push(value);
                uneven.weights.push(own);
            }
        }
    }

    /// Converts to samples with weights; there must be no histogram yet.
    fn uneven(&mut self) -> &mut Uneven {
        if !matches!(self.0, Samples::Uneven(_)) {
            let (mut values, mut weights) = (Vec::new(), Vec::new());
            self.each(|value, weight| {
                values.push(value);
                weights.push(weight);
            });
            let mut count = Sum::default();
            count.add(self.count());
            self.0 = Samples::Uneven(Box::new(Uneven { count, values, weights }));
        }
        match &mut self.0 {
            Samples::Uneven(uneven) => uneven,
            _ => unreachable!("it has just been made"),
        }
    }

    /// Converts exact samples into a histogram, if there is none yet.
    fn promote(&mut self, policy: &TimerPolicy) -> &mut Large {
        if !matches!(self.0, Samples::Large(_)) {
            let (mut smallest, mut largest, mut unit) = (f64::INFINITY, 0.0_f64, f64::INFINITY);
            let mut first_weight = None;
            self.each(|value, weight| {
                if value != 0.0 {
                    (smallest, largest) = (smallest.min(value.abs()), largest.max(value.abs()));
                }
                unit = unit.min(weight);
                first_weight.get_or_insert(weight);
            });
            let unit = if unit.is_finite() { unit } else { 1.0 };
            let mut large = Large {
                histogram: Histogram::new(policy.digits, smallest, largest, unit),
                figures: Figures::new(self.count(), first_weight.unwrap_or(unit)),
            };
            self.each(|value, weight| large.add(value, weight));
            self.0 = Samples::Large(Box::new(large));
        }
        match &mut self.0 {
            Samples::Large(large) => large,
            _ => unreachable!("it has just been made"),
        }
    }

    /// Merges another timer of the same policy. Exact samples are in no order then, until they are sorted.
    pub fn merge(&mut self, other: &Timer, policy: &TimerPolicy) {
        if other.samples() == 0 {
            return;
        }
        if self.samples() == 0 {
            *self = other.clone();
            return;
        }
        let fits = self.samples().saturating_add(other.samples()) <= policy.exact_samples as u64;
        if fits && self.is_exact() && other.is_exact() {
            self.unite(other, policy);
            return;
        }
        let mut merged = match std::mem::take(self).0 {
            Samples::Merged(merged) => merged,
            others => Box::new(Timer(others).to_merged(policy)),
        };
        match &other.0 {
            Samples::Merged(theirs) => merged.merge(theirs),
            _ => merged.merge(&other.to_merged(policy)),
        }
        self.0 = Samples::Merged(merged);
    }

    /// Adds the samples of another timer; both are exact.
    fn unite(&mut self, other: &Timer, policy: &TimerPolicy) {
        match (&mut self.0, &other.0) {
            (Samples::Narrow { weight, values }, Samples::Narrow { weight: same, values: theirs })
                if weight == same =>
            {
                values.extend_from_slice(theirs);
            }
            (_, Samples::Uneven(theirs)) => {
                let ours = self.uneven();
                ours.count.merge(theirs.count);
                ours.values.extend(&theirs.values);
                ours.weights.extend(&theirs.weights);
            }
            _ => other.each(|value, weight| self.record(value, weight, policy)),
        }
    }

    /// The form that is merged, beyond the bound of exact samples.
    fn to_merged(&self, policy: &TimerPolicy) -> Merged {
        match &self.0 {
            Samples::Merged(merged) => Merged::clone(merged),
            Samples::Large(large) => {
                Merged { histogram: large.histogram.to_merged(), figures: MergedFigures::from(&large.figures) }
            }
            Samples::Narrow { .. } | Samples::Even(_) | Samples::Uneven(_) => {
                let mut samples = Vec::with_capacity(self.samples() as usize);
                self.each(|value, weight| samples.push((value, weight)));
                let mut figures = MergedFigures::new(samples.first().map_or(1.0, |(_, weight)| *weight));
                samples.iter().for_each(|&(value, weight)| figures.add(value, weight));
                figures.weights = match &self.0 {
                    Samples::Uneven(uneven) => uneven.weights.iter().copied().collect(),
                    _ => <[f64; 2]>::from(product(samples.len() as f64, figures.first_weight)).into_iter().collect(),
                };
                figures.count = match &self.0 {
                    Samples::Uneven(uneven) if !policy.weighted => uneven.count.parts().into_iter().collect(),
                    _ => figures.weights.clone(),
                };
                Merged { histogram: MergedHistogram::of_samples(policy.digits, &samples), figures }
            }
        }
    }

    /// An empty timer with capacity for as many samples, up to 64.
    pub fn successor(&self) -> Timer {
        match &self.0 {
            Samples::Narrow { weight, values } => {
                Timer(Samples::Narrow { weight: *weight, values: Vec::with_capacity(values.len().min(ROOM)) })
            }
            Samples::Even(even) => {
                let values = Vec::with_capacity(even.values.len().min(ROOM));
                Timer(Samples::Even(Box::new(Even { weight: even.weight, values })))
            }
            Samples::Uneven(_) | Samples::Large(_) | Samples::Merged(_) => Timer::default(),
        }
    }

    /// The same without spare capacity.
    #[must_use]
    pub fn compact(mut self) -> Timer {
        match &mut self.0 {
            Samples::Narrow { values, .. } => values.shrink_to_fit(),
            Samples::Even(even) => even.values.shrink_to_fit(),
            Samples::Uneven(uneven) => {
                uneven.values.shrink_to_fit();
                uneven.weights.shrink_to_fit();
            }
            Samples::Large(_) | Samples::Merged(_) => {}
        }
        self
    }

    /// Puts exact samples into ascending order, so that nobody who asks for that order has to sort them again, and into the
    /// smallest form: the same samples are the same bytes then.
    pub(crate) fn sort(&mut self) {
        match &mut self.0 {
            Samples::Narrow { values, .. } => values.sort_unstable(),
            Samples::Even(even) => {
                even.values.sort_unstable_by(f64::total_cmp);
                // What followed a timer of other values may hold none of those.
                if let Some(values) = even.values.iter().map(|&value| thousandths(value)).collect() {
                    self.0 = Samples::Narrow { weight: even.weight, values };
                }
            }
            Samples::Uneven(uneven) => uneven.sort(),
            Samples::Large(_) | Samples::Merged(_) => {}
        }
    }

    /// Exact samples, in the order of arrival until they are sorted, with the weights of their values.
    fn each(&self, mut visit: impl FnMut(f64, f64)) {
        match &self.0 {
            Samples::Narrow { weight, values } => {
                values.iter().for_each(|&value| visit(from_thousandths(value), *weight))
            }
            Samples::Even(even) => even.values.iter().for_each(|&value| visit(value, even.weight)),
            Samples::Uneven(uneven) => {
                uneven.values.iter().zip(&uneven.weights).for_each(|(&value, &weight)| visit(value, weight));
            }
            Samples::Large(_) | Samples::Merged(_) => {}
        }
    }

    /// What is known of samples that are not exact.
    fn figures(&self) -> Option<Figures> {
        match &self.0 {
            Samples::Narrow { .. } | Samples::Even(_) | Samples::Uneven(_) => None,
            Samples::Large(large) => Some(large.figures),
            Samples::Merged(merged) => Some(merged.figures.rounded()),
        }
    }

    /// The first samples in the order of arrival; of a histogram the smallest.
    pub fn first(&self, count: usize) -> Vec<f64> {
        match &self.0 {
            Samples::Narrow { values, .. } => values.iter().take(count).map(|&value| from_thousandths(value)).collect(),
            Samples::Even(even) => even.values.iter().take(count).copied().collect(),
            Samples::Uneven(uneven) => uneven.values.iter().take(count).copied().collect(),
            Samples::Large(_) | Samples::Merged(_) => {
                self.sorted().into_iter().take(count).map(|(value, _)| value).collect()
            }
        }
    }

    /// The number of samples that arrived.
    pub fn samples(&self) -> u64 {
        match &self.0 {
            Samples::Narrow { values, .. } => values.len() as u64,
            Samples::Even(even) => even.values.len() as u64,
            Samples::Uneven(uneven) => uneven.values.len() as u64,
            Samples::Large(large) => large.figures.samples,
            Samples::Merged(merged) => merged.figures.samples,
        }
    }

    /// The number of events they stand for: the sum of 1/rate.
    pub fn count(&self) -> f64 {
        match &self.0 {
            Samples::Narrow { weight, .. } => (self.samples() as f64 * weight).min(f64::MAX),
            Samples::Even(even) => (self.samples() as f64 * even.weight).min(f64::MAX),
            Samples::Uneven(uneven) => uneven.count.value(),
            Samples::Large(large) => large.figures.count.value(),
            Samples::Merged(merged) => merged.figures.count.value(),
        }
    }

    /// Sums and extremes, in one pass over the samples.
    pub fn totals(&self) -> Totals {
        if let Some(figures) = self.figures() {
            return figures.totals();
        }
        let (mut sum, mut sum_squares) = (Sum::default(), Sum::default());
        let mut extremes: Option<(f64, f64)> = None;
        self.each(|value, weight| {
            sum.add(value * weight);
            sum_squares.add(square(value, weight));
            let (min, max) = extremes.unwrap_or((value, value));
            extremes = Some((min.min(value), max.max(value)));
        });
        let (min, max) = extremes.unwrap_or_default();
        Totals { sum: sum.value(), sum_squares: sum_squares.value(), min, max }
    }

    /// Whether all samples are held exactly.
    pub fn is_exact(&self) -> bool {
        !matches!(self.0, Samples::Large(_) | Samples::Merged(_))
    }

    /// Whether all samples have the same weight.
    pub fn is_uniform(&self) -> bool {
        match &self.0 {
            Samples::Narrow { .. } | Samples::Even(_) => true,
            Samples::Uneven(uneven) => uneven.weights.windows(2).all(|two| two[0] == two[1]),
            Samples::Large(large) => !large.figures.mixed,
            Samples::Merged(merged) => !merged.figures.mixed,
        }
    }

    /// The number of values that the histogram clamped.
    pub fn clamped(&self) -> u64 {
        match &self.0 {
            Samples::Narrow { .. } | Samples::Even(_) | Samples::Uneven(_) => 0,
            Samples::Large(large) => large.histogram.clamped(),
            Samples::Merged(merged) => merged.histogram.clamped(),
        }
    }

    /// Size in bytes.
    pub fn memory_bytes(&self) -> usize {
        let beyond = match &self.0 {
            Samples::Narrow { values, .. } => values.capacity() * size_of::<i32>(),
            Samples::Even(even) => size_of::<Even>() + even.values.capacity() * size_of::<f64>(),
            Samples::Uneven(uneven) => {
                size_of::<Uneven>() + (uneven.values.capacity() + uneven.weights.capacity()) * size_of::<f64>()
            }
            Samples::Large(large) => size_of::<Large>() + large.histogram.memory_bytes(),
            Samples::Merged(merged) => size_of::<Merged>() + merged.histogram.memory_bytes(),
        };
        size_of::<Timer>() + beyond
    }

    /// Population standard deviation.
    pub fn stddev(&self) -> f64 {
        let (weight, deviations) = match self.figures() {
            Some(Figures { moments, .. }) => (moments.weight, moments.deviations),
            None => {
                // Equal weights cancel out; leaving them out loses no digits.
                let even = self.is_uniform();
                let own = |weight: f64| if even { 1.0 } else { weight };
                let (mut total, mut sum) = (0.0, Sum::default());
                self.each(|value, weight| {
                    total += own(weight);
                    sum.add(value * own(weight));
                });
                let mean = sum.value() / total;
                let mut deviations = 0.0;
                self.each(|value, weight| deviations += own(weight) * (value - mean) * (value - mean));
                (total, deviations)
            }
        };
        if weight > 0.0 { (deviations / weight).sqrt().min(f64::MAX) } else { 0.0 }
    }

    /// Values and weights by ascending value, which costs little after `Timer::sort`; for a histogram the middles of its
    /// buckets, clamped to minimum and maximum.
    /// With equal weights the second number is the number of samples with that value.
    pub fn sorted(&self) -> Vec<(f64, f64)> {
        if let Samples::Narrow { values, .. } = &self.0 {
            let mut values = values.clone();
            values.sort_unstable();
            return values.into_iter().map(|value| (from_thousandths(value), 1.0)).collect();
        }
        let even = self.is_uniform();
        let mut all = Vec::new();
        match &self.0 {
            Samples::Large(large) => all = large.figures.sorted(large.histogram.buckets().into_iter()),
            Samples::Merged(merged) => all = merged.figures.rounded().sorted(merged.histogram.buckets()),
            Samples::Narrow { .. } | Samples::Even(_) | Samples::Uneven(_) => {
                self.each(|value, weight| all.push((value, if even { 1.0 } else { weight })));
            }
        }
        all.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        all
    }
}

/// A value as a number of thousandths, if that is the same to the last bit: a division of integers rounds like the
/// parsing of decimals.
#[inline]
fn thousandths(value: f64) -> Option<i32> {
    let number = (value * 1000.0).round_ties_even() as i32;
    (from_thousandths(number).to_bits() == value.to_bits()).then_some(number)
}

#[inline]
fn from_thousandths(number: i32) -> f64 {
    f64::from(number) / 1000.0
}

/// Appends to a vector that grows by half, because there are many of them.
#[inline]
fn push<T>(values: &mut Vec<T>, value: T) {
    if values.len() == values.capacity() {
        values.reserve_exact((values.len() / 2).max(4));
    }
    values.push(value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
        assert_eq!((t.count(), t.totals().sum, t.totals().sum_squares, t.samples()), (30.0, 90.0, 3500.0, 3));
        let t = timer([(10.0, 10.0), (30.0, 10.0), (50.0, 10.0)].into_iter(), &SMALL);
        assert_eq!((t.count(), t.totals().sum, t.is_uniform()), (30.0, 900.0, true));
    }

    #[test]
    fn the_deviation_survives_the_way_into_the_histogram() {
        let values = |n: i32| (0..n).map(|i| (1e9 + f64::from(i % 7), 1.0));
        let (exact, large) = (timer(values(70), &SMALL), timer(values(7000), &SMALL));
        assert!(exact.is_exact() && !large.is_exact());
        assert!((exact.stddev() - 2.0).abs() < 1e-9 && (large.stddev() - 2.0).abs() < 1e-6);
    }

    #[test]
    fn numbers_of_samples_that_another_node_invents_do_not_overflow() {
        let large = |samples: u64| {
            let mut one = timer((0..200).map(|i| (f64::from(i), 1.0)), &SMALL);
            if let Samples::Large(large) = &mut one.0 {
                large.figures.samples = samples;
            }
            one
        };
        let mut all = large(u64::MAX);
        all.merge(&large(2), &SMALL);
        all.merge(&large(u64::MAX), &SMALL);
        assert_eq!(all.samples(), u64::MAX);
    }

    #[test]
    fn sorting_changes_the_order_alone() {
        let narrow = |n: i32| (f64::from(n * 37 % 50), 1.0);
        let even = |n: i32| (f64::from(n * 37 % 50) + 0.1234, 1.0);
        let uneven = |n: i32| (f64::from(n * 37 % 50), if n % 3 == 0 { 2.0 } else { 1.0 });
        for (samples, count) in [(narrow as fn(i32) -> (f64, f64), 50), (even, 50), (uneven, 50), (narrow, 200)] {
            let before = timer((0..count).map(samples), &SMALL);
            let mut after = before.clone();
            after.sort();
            assert_eq!(after.sorted(), before.sorted());
            assert_eq!((after.samples(), after.count()), (before.samples(), before.count()));
            assert!(after.first(count as usize).is_sorted() && after.is_exact() == before.is_exact());
            assert!((after.totals().sum - before.totals().sum).abs() < 1e-9);
        }
    }

    #[test]
    fn merged_timers_equal_one_that_saw_everything() {
        for (n, m) in [(10, 20), (90, 60), (500, 3), (3, 500), (400, 600)] {
            let sample = |i: i32| (f64::from(i * i % 977) - 300.0, if i % 3 == 0 { 2.0 } else { 1.0 });
            let whole = timer((0..n + m).map(sample), &SMALL);
            let mut left = timer((0..n).map(sample), &SMALL);
            left.merge(&timer((n..n + m).map(sample), &SMALL), &SMALL);
            assert_eq!(
                (left.samples(), left.totals().min, left.totals().max),
                (whole.samples(), whole.totals().min, whole.totals().max)
            );
            assert!(
                (left.totals().sum - whole.totals().sum).abs() < 1e-6
                    && (left.stddev() / whole.stddev() - 1.0).abs() < 1e-9
            );
            assert_eq!(left.is_exact(), whole.is_exact());
            if whole.is_exact() {
                assert_eq!(left.sorted(), whole.sorted());
            }
        }
    }

    fn part() -> impl Strategy<Value = Timer> {
        let value = prop_oneof![(-40..4000_i32).prop_map(|n| f64::from(n) / 8.0), -10.0..500.0, Just(0.0), Just(-0.0)];
        let weight = prop_oneof![3 => Just(1.0), 1 => Just(10.0), 1 => Just(1.0 / 0.3)];
        (prop::collection::vec((value, weight), 0..40), any::<bool>(), any::<bool>()).prop_map(
            |(samples, is_even, follows)| {
                // One that follows a timer of values that are no thousandths has the form of those.
                let before = timer([(0.1234, 1.0)].into_iter(), &FEW);
                let mut timer = if follows { before.successor() } else { Timer::default() };
                let weight = |weight: f64| if is_even { 1.0 } else { weight };
                samples.into_iter().for_each(|(value, own)| timer.record(value, weight(own), &FEW));
                timer
            },
        )
    }

    const FEW: TimerPolicy = TimerPolicy { exact_samples: 30, digits: 3, weighted: true };

    proptest! {
        #[test]
        fn merged_timers_are_the_same_in_any_order_and_any_groups(
            parts in prop::collection::vec(part(), 1..6),
            picks in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 6),
        ) {
            let mut expected = Timer::default();
            parts.iter().for_each(|part| expected.merge(part, &FEW));
            expected.sort();
            let mut others = parts.clone();
            for (from, into) in picks {
                if others.len() > 1 {
                    let taken = others.swap_remove(from.index(others.len()));
                    let into = into.index(others.len());
                    others[into].merge(&taken, &FEW);
                    others[into].sort();
                }
            }
            let mut other = others.pop().expect("one is left");
            other.sort();
            let bytes = |timer: &Timer| postcard::to_stdvec(timer).expect("memory");
            prop_assert_eq!(bytes(&other), bytes(&expected));
            let samples = parts.iter().map(Timer::samples).sum();
            let is_exact = parts.iter().all(Timer::is_exact) && samples <= FEW.exact_samples as u64;
            prop_assert_eq!((other.samples(), other.is_exact()), (samples, is_exact));
            prop_assert_eq!(other.sorted(), expected.sorted());
            prop_assert_eq!(other.is_uniform(), expected.is_uniform());
            let numbers = |timer: &Timer| {
                let Totals { sum, sum_squares, min, max } = timer.totals();
                [timer.count(), sum, sum_squares, min, max, timer.stddev()].map(f64::to_bits)
            };
            prop_assert_eq!(numbers(&other), numbers(&expected));
        }
    }

    #[test]
    fn the_deviation_survives_a_merge() {
        let values = |n: i32, from: f64| {
            (0..n).map(move |i| (from + f64::from(i % 7), if i % 2 == 0 { 1.0 } else { 1.0 / 0.3 }))
        };
        for from in [0.0, -3.0, 1e9, -1e8, 1e-9] {
            let mut merged = timer(values(70, from), &SMALL);
            (0..3).for_each(|_| merged.merge(&timer(values(700, from), &SMALL), &SMALL));
            let mut exact = timer(values(70, from), &SMALL);
            let most = TimerPolicy { exact_samples: 10_000, ..SMALL };
            (0..3).for_each(|_| exact.merge(&timer(values(700, from), &most), &most));
            assert!(exact.is_exact() && !merged.is_exact());
            let (told, right) = (merged.stddev(), exact.stddev());
            assert!((told / right - 1.0).abs() < 1e-6, "{from}: {told} instead of {right}");
        }
        // A sum of squares that is beyond all doubles.
        let huge = |n: i32| timer((0..n).map(|i| (if i % 2 == 0 { 1e300 } else { -1e300 }, 1.0)), &SMALL);
        let mut merged = huge(70);
        merged.merge(&huge(70), &SMALL);
        assert_eq!((merged.stddev(), merged.totals().sum), (f64::MAX, 0.0));
    }

    #[test]
    fn a_merged_timer_takes_further_samples() {
        let sample = |n: i32| (f64::from(n * n % 977) - 300.0, if n % 3 == 0 { 2.0 } else { 1.0 });
        let mut merged = timer((0..80).map(sample), &SMALL);
        merged.merge(&timer((80..160).map(sample), &SMALL), &SMALL);
        (160..200).map(sample).for_each(|(value, weight)| merged.record(value, weight, &SMALL));
        let mut whole = timer((0..100).map(sample), &SMALL);
        whole.merge(&timer((100..200).map(sample), &SMALL), &SMALL);
        assert_eq!((merged.samples(), merged.sorted()), (whole.samples(), whole.sorted()));
        assert_eq!((merged.count(), merged.totals()), (whole.count(), whole.totals()));
        assert!(merged.heap_bytes() > merged.memory_bytes() - size_of::<Timer>());
    }

    /// A timer of four samples as version 1 of the format has it.
    #[rustfmt::skip]
    const EARLIER: [u8; 166] = [
        3, 3, 24, 3, 0, 5, 128, 48, 2, 128, 160, 19, 2, 1, 1, 128, 136, 50, 4, 0, 0, 0, 0, 0, 0,
        248, 63, 0, 0, 0, 0, 0, 8, 105, 64, 0, 0, 0, 0, 0, 64, 83, 64, 0, 0, 0, 0, 0, 8, 105, 64, 0,
        0, 0, 0, 0, 0, 224, 63, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 26, 64, 78, 236, 196,
        78, 236, 196, 72, 192, 216, 137, 157, 216, 63, 34, 241, 64, 4, 0, 0, 0, 0, 0, 0, 26, 64, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 116, 192, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 54, 7,
        245, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 105, 192, 0, 0, 0, 0, 0, 64, 83, 64, 0,
        0, 0, 0, 0, 0, 240, 63, 1,
    ];

    #[test]
    fn a_histogram_that_an_earlier_version_wrote_is_read() {
        let policy = TimerPolicy { exact_samples: 3, ..SMALL };
        let held = timer([(1.5, 1.0), (-200.25, 2.0), (0.0, 2.5), (77.0, 1.0)].into_iter(), &policy);
        let written: Timer = postcard::from_bytes(&EARLIER).expect("a timer");
        assert_eq!(postcard::to_stdvec(&held).expect("memory"), EARLIER);
        assert_eq!((written.sorted(), written.totals()), (held.sorted(), held.totals()));
        assert_eq!((written.samples(), written.count(), written.is_exact()), (4, 6.5, false));
    }

    #[test]
    fn a_timer_of_a_million_samples_takes_no_more_than_128_kib() {
        let policy = TimerPolicy::default();
        let t = timer((0..1_000_000_u32).map(|n| (f64::from(n.wrapping_mul(7919) % 100_000) / 10.0, 1.0)), &policy);
        assert_eq!((t.samples(), t.is_exact()), (1_000_000, false));
        assert!(t.memory_bytes() <= 128 << 10, "{} bytes", t.memory_bytes());
    }

    #[test]
    fn every_way_of_keeping_samples_says_the_same() {
        let whole = |n: i32| (f64::from(n), 1.0);
        let broken = |n: i32| (f64::from(n) + 0.1234, 1.0);
        let sampled = |n: i32| (f64::from(n) + 0.1, if n % 2 == 0 { 10.0 } else { 1.0 });
        for (samples, weighted) in
            [(whole as fn(i32) -> (f64, f64), true), (broken, true), (sampled, true), (sampled, false)]
        {
            let policy = TimerPolicy { weighted, ..SMALL };
            let (exact, large) = (timer((0..100).map(samples), &policy), timer((0..101).map(samples), &policy));
            assert!(exact.is_exact() && !large.is_exact());
            let (value, weight) = samples(100);
            let own = if weighted { weight } else { 1.0 };
            assert_eq!((exact.samples() + 1, exact.count() + weight), (large.samples(), large.count()));
            assert!((exact.totals().sum + value * own - large.totals().sum).abs() < 1e-9);
            assert!((exact.totals().sum_squares + value * value * own - large.totals().sum_squares).abs() < 1e-6);
            assert_eq!((exact.totals().min, exact.is_uniform()), (large.totals().min, large.is_uniform()));
            assert_eq!((large.totals().max, exact.totals().max), (value, samples(99).0));
            let held = |timer: &Timer| timer.sorted().iter().map(|&(_, weight)| weight).sum::<f64>();
            assert!((held(&exact) + if exact.is_uniform() { 1.0 } else { own } - held(&large)).abs() < 1e-9);
        }
    }

    #[test]
    fn thousandths_are_the_same_value_or_not_used() {
        for text in ["0", "0.001", "12.345", "999999.999", "-3.1", "2147483.647", "0.3", "1e3"] {
            let value: f64 = text.parse().expect("a number");
            assert_eq!(thousandths(value).map(from_thousandths).map(f64::to_bits), Some(value.to_bits()), "{text}");
        }
        for value in [0.0001, 2147483.648, -0.0, 1e300, 1.0 / 3.0, f64::MIN_POSITIVE] {
            assert_eq!(thousandths(value), None, "{value}");
        }
    }

    #[test]
    fn a_small_timer_takes_little_and_its_successor_is_empty() {
        let t = timer((0..10).map(|n| (f64::from(n), 1.0)), &SMALL).compact();
        assert!(t.memory_bytes() <= 80, "{}", t.memory_bytes());
        let next = t.successor();
        assert_eq!(
            (next.samples(), next.totals().sum, next.totals().max, next.stddev(), next.sorted().len()),
            (0, 0.0, 0.0, 0.0, 0)
        );
        let busy = timer((0..100).map(|n| (f64::from(n), 1.0)), &SMALL);
        assert!(busy.successor().memory_bytes() <= size_of::<Timer>() + ROOM * size_of::<i32>());
    }
}
