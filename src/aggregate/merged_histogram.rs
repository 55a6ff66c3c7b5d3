//! What histograms are merged into: the weights of their buckets, without a scale and a unit of their own. The result has
//! the same bytes in whatever order and groups the parts are merged.
//!
//! A bucket is the octave of a magnitude and the first bits of its mantissa: what a bucket of a
//! [`Histogram`](super::Histogram) is whose integers keep their digits, at any scale. So the merged buckets are those of
//! one histogram that recorded everything. An integer that does not keep its digits stands for the bucket of its middle.
//!
//! ```text
//! value      octave   3 digits: 10 bits       bucket
//! 5.0        2        0100000000              5.000 to 5.004
//! 5.003      2        0100000000              the same
//! -5.003     2        0100000000              the same of negative values
//! ```
//! Everything that a merge does is a sum, a minimum or a maximum, exactly:
//!
//! * Of different digits the least hold: a bucket of fewer digits is one of more without its last bits.
//! * Parts of one unit of weight have their counts added. Else weights are multiples of a grain of 2^-62: that is exact for
//!   weights of 1 and more, and for the units that histograms split them into, down to 1/1024. Weights stop at 2^66, which
//!   is reached by rates below 10^-10 alone.
//! * [`OCTAVES`] octaves from the largest magnitude down keep their buckets. All that is smaller, except zero, goes to the
//!   one bucket of its sign below them. Folding at an early maximum and again at the last one is folding at the last one:
//!   `max(max(b, m), n)` is `max(b, n)` for `m <= n`. So with `n` buckets an octave it holds at most
//!   `2 * (63 * n + 1) + 1` of them, each of 12 or 20 bytes, however many parts there are.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::memory::vec_footprint;

use super::histogram::{fine_bits, scaled};

/// Octaves below that of the largest magnitude that keep their buckets.
const OCTAVES: u32 = 62;
/// The octave of the smallest double above zero.
const FIRST_OCTAVE: i32 = -1074;
/// The number of octaves of doubles.
const ALL_OCTAVES: u32 = 2098;
/// Grains in a weight of 1, as a power of two.
const GRAIN_BITS: i32 = 62;

/// A bucket: 0 for zero, negative for negative values, and larger the larger the values are. Its magnitude is the octave,
/// counted from 1, before the first bits of the mantissa.
type Bucket = i32;

/// Weights of values, by bucket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Flat", into = "Flat")]
pub struct MergedHistogram {
    digits: u8,
    /// Those that have a weight, ascending.
    buckets: Vec<Bucket>,
    /// As many.
    weights: Weights,
    /// Values that the parts had clamped.
    clamped: u64,
}

#[derive(Clone, Debug, PartialEq)]
enum Weights {
    /// Numbers of a unit of weight.
    Counts { unit: f64, counts: Vec<u64> },
    /// Numbers of grains: units differ, or there are no values.
    Grains(Vec<u128>),
}

impl MergedHistogram {
    /// The buckets of values with weights above 0, in any order.
    pub fn of_samples(digits: u8, samples: &[(f64, f64)]) -> MergedHistogram {
        let (digits, bits) = (digits.clamp(1, 5), fine_bits(digits));
        if let [(_, unit), rest @ ..] = samples
            && rest.iter().all(|(_, weight)| weight == unit)
        {
            let mut placed: Vec<Bucket> = samples.iter().map(|&(value, _)| bucket_of(value, bits)).collect();
            placed.sort_unstable();
            let counts: Vec<(Bucket, u64)> =
                placed.chunk_by(|a, b| a == b).map(|same| (same[0], same.len() as u64)).collect();
            return MergedHistogram::of_counts(digits, *unit, &counts, 0);
        }
        let mut placed: Vec<(Bucket, f64)> =
            samples.iter().map(|&(value, weight)| (bucket_of(value, bits), weight)).collect();
        placed.sort_unstable_by_key(|&(bucket, _)| bucket);
        let lowest = lowest(largest(&placed, |placed| placed.0), bits);
        let grains = placed.iter().map(|&(bucket, weight)| (moved(bucket, 0, lowest), grains_of(weight)));
        let (buckets, grains) = united(grains, std::iter::empty(), u128::saturating_add);
        MergedHistogram { digits, buckets, weights: Weights::Grains(grains), clamped: 0 }
    }

    /// Buckets in ascending order, with their counts of a unit of weight.
    pub(super) fn of_counts(digits: u8, unit: f64, counts: &[(Bucket, u64)], clamped: u64) -> MergedHistogram {
        let lowest = lowest(largest(counts, |counted| counted.0), fine_bits(digits));
        let placed = counts.iter().map(|&(bucket, count)| (moved(bucket, 0, lowest), count));
        let (buckets, counts) = united(placed, std::iter::empty(), u64::saturating_add);
        let weights = match buckets.is_empty() {
            true => Weights::Grains(Vec::new()),
            false => Weights::Counts { unit, counts },
        };
        MergedHistogram { digits, buckets, weights, clamped }
    }

    /// Merges another one into this one.
    pub fn merge(&mut self, other: &MergedHistogram) {
        let digits = self.digits.min(other.digits);
        let bits = fine_bits(digits);
        let shifts = [&*self, other].map(|one| (fine_bits(one.digits) - bits) as u32);
        let lowest = lowest((self.largest() >> shifts[0]).max(other.largest() >> shifts[1]), bits);
        let ours = self.buckets.iter().map(|&bucket| moved(bucket, shifts[0], lowest));
        let theirs = other.buckets.iter().map(|&bucket| moved(bucket, shifts[1], lowest));
        (self.buckets, self.weights) = match (self.counts(), other.counts()) {
            (Some((unit, a)), Some((other, b))) if unit == other || a.is_empty() || b.is_empty() => {
                let unit = if a.is_empty() { other } else { unit };
                let (a, b) = (ours.zip(a.iter().copied()), theirs.zip(b.iter().copied()));
                let (buckets, counts) = united(a, b, u64::saturating_add);
                match buckets.is_empty() {
                    true => (buckets, Weights::Grains(Vec::new())),
                    false => (buckets, Weights::Counts { unit, counts }),
                }
            }
            _ => {
                let (a, b) = (self.grains(), other.grains());
                let (a, b) = (ours.zip(a.iter().copied()), theirs.zip(b.iter().copied()));
                let (buckets, grains) = united(a, b, u128::saturating_add);
                (buckets, Weights::Grains(grains))
            }
        };
        self.digits = digits;
        self.clamped = self.clamped.saturating_add(other.clamped);
    }

    /// The middle of each bucket with its weight, by ascending value.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, f64)> {
        let bits = fine_bits(self.digits);
        self.buckets.iter().enumerate().map(move |(n, &bucket)| (middle(bucket, bits), self.weight(n)))
    }

    /// Values that were moved to the nearest bucket that is held.
    pub fn clamped(&self) -> u64 {
        let lowest = lowest(self.largest(), fine_bits(self.digits));
        let folded = self.buckets.iter().enumerate().filter(|(_, bucket)| bucket.unsigned_abs() == lowest);
        folded.fold(self.clamped, |clamped, (n, _)| clamped.saturating_add(self.weight(n).round() as u64))
    }

    /// Size of buckets and weights in bytes.
    pub fn memory_bytes(&self) -> usize {
        let weights = match &self.weights {
            Weights::Counts { counts, .. } => counts.capacity() * size_of::<u64>(),
            Weights::Grains(grains) => grains.capacity() * size_of::<u128>(),
        };
        self.buckets.capacity() * size_of::<Bucket>() + weights
    }

    /// Bytes that it takes beside itself.
    pub(crate) fn heap_bytes(&self) -> usize {
        let weights = match &self.weights {
            Weights::Counts { counts, .. } => vec_footprint::<u64>(counts.capacity()),
            Weights::Grains(grains) => vec_footprint::<u128>(grains.capacity()),
        };
        vec_footprint::<Bucket>(self.buckets.capacity()) + weights
    }

    fn weight(&self, n: usize) -> f64 {
        match &self.weights {
            Weights::Counts { unit, counts } => (counts[n] as f64 * unit).min(f64::MAX),
            Weights::Grains(grains) => scaled(grains[n] as f64, -GRAIN_BITS),
        }
    }

    /// Counts with their unit; of no values with any.
    fn counts(&self) -> Option<(f64, &[u64])> {
        match &self.weights {
            Weights::Counts { unit, counts } => Some((*unit, counts)),
            Weights::Grains(grains) => grains.is_empty().then_some((1.0, &[])),
        }
    }

    fn grains(&self) -> Cow<'_, [u128]> {
        match &self.weights {
            Weights::Counts { unit, counts } => {
                let grains = grains_of(*unit);
                counts.iter().map(|&count| u128::from(count).saturating_mul(grains)).collect()
            }
            Weights::Grains(grains) => Cow::Borrowed(grains),
        }
    }

    fn largest(&self) -> u32 {
        largest(&self.buckets, |&bucket| bucket)
    }
}

/// The largest magnitude of ascending buckets.
fn largest<T>(all: &[T], bucket: impl Fn(&T) -> Bucket) -> u32 {
    let ends = [all.first(), all.last()];
    ends.into_iter().flatten().map(|one| bucket(one).unsigned_abs()).max().unwrap_or(0)
}

/// The magnitude of the bucket that takes all that is smaller; below all buckets if every double has its own.
fn lowest(largest: u32, bits: i32) -> u32 {
    let octave = largest >> bits;
    if octave > OCTAVES { ((octave - OCTAVES) << bits) - 1 } else { 1 }
}

/// Where a bucket goes that loses so many bits and is `lowest` at least.
fn moved(bucket: Bucket, shift: u32, lowest: u32) -> Bucket {
    let magnitude = (bucket.unsigned_abs() >> shift).max(lowest) as Bucket;
    match bucket {
        0 => 0,
        ..0 => -magnitude,
        1.. => magnitude,
    }
}

/// Two ascending lists of buckets as one, in which each occurs once.
fn united<W: Copy>(
    a: impl Iterator<Item = (Bucket, W)>,
    b: impl Iterator<Item = (Bucket, W)>,
    sum: impl Fn(W, W) -> W,
) -> (Vec<Bucket>, Vec<W>) {
    let room = a.size_hint().0 + b.size_hint().0;
    let (mut buckets, mut weights): (Vec<Bucket>, Vec<W>) = (Vec::with_capacity(room), Vec::with_capacity(room));
    let (mut a, mut b) = (a.peekable(), b.peekable());
    loop {
        let is_theirs = match (a.peek(), b.peek()) {
            (Some((ours, _)), Some((theirs, _))) => theirs < ours,
            (ours, _) => ours.is_none(),
        };
        let Some((bucket, weight)) = (if is_theirs { b.next() } else { a.next() }) else { break };
        match weights.last_mut() {
            Some(last) if buckets.last() == Some(&bucket) => *last = sum(*last, weight),
            _ => {
                buckets.push(bucket);
                weights.push(weight);
            }
        }
    }
    buckets.shrink_to_fit();
    weights.shrink_to_fit();
    (buckets, weights)
}

/// A finite magnitude above 0 as an integer with its highest bit set, times a power of two.
fn parts_of(magnitude: f64) -> (u64, i32) {
    let bits = magnitude.to_bits();
    let fraction = bits & ((1 << 52) - 1);
    let (mantissa, exponent) = match ((bits >> 52) & 0x7ff) as i32 {
        0 => (fraction, -1074),
        exponent => (fraction | (1 << 52), exponent - 1075),
    };
    let shift = mantissa.leading_zeros();
    (mantissa << shift, exponent - shift as i32)
}

fn bucket_of(value: f64, bits: i32) -> Bucket {
    if value == 0.0 {
        return 0;
    }
    let (mantissa, exponent) = parts_of(value.abs());
    let bucket = bucket_of_integer(mantissa, -exponent, bits);
    if value < 0.0 { -bucket } else { bucket }
}

/// The bucket of the magnitudes from `integer / 2^exponent` up to the next integer, or of their middle.
pub(super) fn bucket_of_integer(integer: u64, exponent: i32, bits: i32) -> Bucket {
    if integer == 0 {
        return 0;
    }
    let high = 63 - integer.leading_zeros() as i32;
    let leading = if high >= bits { integer >> (high - bits) } else { (2 * integer + 1) << (bits - 1 - high) };
    let octave = i64::from(high) - i64::from(exponent) - i64::from(FIRST_OCTAVE) + 1;
    // The leading one is not kept: the octave says that it is there.
    let bucket = ((octave - 1) << bits) + leading as i64;
    bucket.clamp(1 << bits, ((i64::from(ALL_OCTAVES) + 1) << bits) - 1) as Bucket
}

fn middle(bucket: Bucket, bits: i32) -> f64 {
    if bucket == 0 {
        return 0.0;
    }
    let magnitude = bucket.abs();
    let octave = (magnitude >> bits) - 1 + FIRST_OCTAVE;
    let leading = (1 << bits) | (magnitude & ((1 << bits) - 1));
    let middle = scaled(f64::from(2 * leading + 1), octave - bits - 1);
    if bucket < 0 { -middle } else { middle }
}

/// A weight as a number of grains: exact from 2^-10 to 2^66. One of 0, which a foreign message may have, is the least.
fn grains_of(weight: f64) -> u128 {
    if weight == 0.0 {
        return 1;
    }
    let (mantissa, exponent) = parts_of(weight);
    let (mantissa, shift) = (u128::from(mantissa), exponent + GRAIN_BITS);
    if shift < 0 {
        return mantissa.checked_shr(shift.unsigned_abs()).unwrap_or(0).max(1);
    }
    if shift as u32 > mantissa.leading_zeros() { u128::MAX } else { mantissa << shift }
}

/// The serialised form: equal histograms have equal bytes.
#[derive(Serialize, Deserialize)]
struct Flat {
    digits: u8,
    clamped: u64,
    weights: FlatWeights,
}

/// The first bucket, and from each to the next, with the weight.
#[derive(Serialize, Deserialize)]
enum FlatWeights {
    Counts {
        unit: f64,
        counts: Vec<(Bucket, u64)>,
    },
    /// Without the zeros that all of them end with.
    Grains {
        zeros: u32,
        grains: Vec<(Bucket, u128)>,
    },
}

impl From<MergedHistogram> for Flat {
    fn from(full: MergedHistogram) -> Flat {
        let before = std::iter::once(0).chain(full.buckets.iter().copied());
        let steps = full.buckets.iter().zip(before).map(|(bucket, before)| bucket - before);
        let weights = match &full.weights {
            Weights::Counts { unit, counts } => {
                FlatWeights::Counts { unit: *unit, counts: steps.zip(counts.iter().copied()).collect() }
            }
            Weights::Grains(grains) => {
                let zeros = grains.iter().map(|grains| grains.trailing_zeros()).min().unwrap_or(0);
                FlatWeights::Grains { zeros, grains: steps.zip(grains.iter().map(|grains| grains >> zeros)).collect() }
            }
        };
        Flat { digits: full.digits, clamped: full.clamped, weights }
    }
}

impl TryFrom<Flat> for MergedHistogram {
    type Error = &'static str;

    fn try_from(flat: Flat) -> Result<MergedHistogram, &'static str> {
        if !(1..=5).contains(&flat.digits) {
            return Err("a histogram has 1 to 5 digits");
        }
        let (steps, weights): (Vec<Bucket>, _) = match flat.weights {
            FlatWeights::Counts { unit, counts } => {
                if !(unit.is_finite() && unit > 0.0) || counts.iter().any(|(_, count)| *count == 0) || counts.is_empty()
                {
                    return Err("a histogram's counts are none");
                }
                let (steps, counts) = counts.into_iter().unzip();
                (steps, Weights::Counts { unit, counts })
            }
            FlatWeights::Grains { zeros, grains } => {
                if grains.iter().any(|(_, grains)| *grains == 0 || grains.leading_zeros() < zeros) {
                    return Err("a histogram's weights are none");
                }
                let (steps, grains) = grains.into_iter().map(|(step, grains)| (step, grains << zeros)).unzip();
                (steps, Weights::Grains(grains))
            }
        };
        let mut buckets = steps;
        for n in 1..buckets.len() {
            if buckets[n] <= 0 {
                return Err("a histogram's buckets are not in order");
            }
            buckets[n] = buckets[n].checked_add(buckets[n - 1]).ok_or("a histogram's bucket is beyond the last one")?;
        }
        let bits = fine_bits(flat.digits);
        let bound = lowest(largest(&buckets, |&bucket| bucket), bits).max(1 << bits)..(ALL_OCTAVES + 1) << bits;
        if buckets.iter().any(|&bucket| bucket != 0 && !bound.contains(&bucket.unsigned_abs())) {
            return Err("a histogram's buckets are beyond its bounds");
        }
        Ok(MergedHistogram { digits: flat.digits, buckets, weights, clamped: flat.clamped })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::Histogram;
    use proptest::prelude::*;

    /// A worker's samples, and the digits of its histogram; without one they are still exact.
    type Part = (u8, bool, Vec<(f64, f64)>);

    fn recorded(digits: u8, samples: &[(f64, f64)]) -> Histogram {
        let first = samples.iter().map(|(value, _)| value.abs()).find(|value| *value > 0.0).unwrap_or(1.0);
        let unit = samples.iter().map(|(_, weight)| *weight).fold(f64::INFINITY, f64::min);
        let mut histogram = Histogram::new(digits, first, first, if unit.is_finite() { unit } else { 1.0 });
        samples.iter().for_each(|&(value, weight)| histogram.record(value, weight));
        histogram
    }

    fn merged_of((digits, is_exact, samples): &Part) -> MergedHistogram {
        match is_exact {
            true => MergedHistogram::of_samples(*digits, samples),
            false => recorded(*digits, samples).to_merged(),
        }
    }

    fn merged(mut parts: Vec<MergedHistogram>, mut order: u64) -> MergedHistogram {
        while parts.len() > 1 {
            let mut next = || {
                // Knuth's linear congruential generator.
                order = order.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (order >> 33) as usize
            };
            let taken = parts.swap_remove(next() % parts.len());
            let into = next() % parts.len();
            parts[into].merge(&taken);
        }
        parts.pop().unwrap_or_else(|| MergedHistogram::of_samples(3, &[]))
    }

    fn bytes(histogram: &MergedHistogram) -> Vec<u8> {
        postcard::to_stdvec(histogram).expect("memory")
    }

    fn total(histogram: &MergedHistogram) -> u128 {
        histogram.grains().iter().sum()
    }

    fn most(digits: u8) -> usize {
        2 * (((OCTAVES as usize + 1) << fine_bits(digits)) + 1) + 1
    }

    fn weight() -> impl Strategy<Value = f64> {
        prop_oneof![
            4 => Just(1.0),
            1 => Just(1.0 / 0.1),
            1 => Just(1.0 / 0.3),
            1 => Just(1.0 / 0.7),
            1 => (0.001..1.0).prop_map(|rate| 1.0 / rate),
            1 => Just(1e-3_f64.recip()),
        ]
    }

    /// Values of both signs and zero, of so many octaves from a scale.
    fn samples(scales: std::ops::Range<i32>, octaves: f64) -> impl Strategy<Value = Vec<(f64, f64)>> {
        (scales, prop::collection::vec((0..8_u8, 0.0..octaves, weight()), 0..40), any::<bool>(), weight()).prop_map(
            |(scale, samples, is_even, even)| {
                let value = |sign, power: f64| match sign {
                    0 => 0.0,
                    1..=3 => -(power + f64::from(scale)).exp2(),
                    _ => (power + f64::from(scale)).exp2(),
                };
                let weight = |weight| if is_even { even } else { weight };
                samples.into_iter().map(|(sign, power, own)| (value(sign, power), weight(own))).collect()
            },
        )
    }

    fn parts() -> impl Strategy<Value = Vec<Part>> {
        let digits = prop_oneof![4 => Just(3_u8), 1 => 1..=4_u8];
        let one = (digits, any::<bool>(), prop_oneof![samples(-3..3, 12.0), samples(-1000..1000, 40.0)]);
        prop::collection::vec(one, 1..7)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(150))]

        #[test]
        fn any_order_and_any_groups_give_the_same_bytes(parts in parts(), orders: [u64; 4]) {
            let all: Vec<MergedHistogram> = parts.iter().map(merged_of).collect();
            let expected = merged(all.clone(), 1);
            for order in orders {
                let other = merged(all.clone(), order);
                prop_assert_eq!(bytes(&other), bytes(&expected));
                prop_assert!(other.buckets().eq(expected.buckets()) && other.clamped() == expected.clamped());
            }
            // Of the same weight in the end as at the beginning, and of no more buckets than there can be.
            prop_assert_eq!(total(&expected), all.iter().map(total).sum::<u128>());
            prop_assert!(expected.buckets.len() <= most(expected.digits) && expected.buckets.is_sorted());
            let decoded: MergedHistogram = postcard::from_bytes(&bytes(&expected)).expect("what was encoded");
            prop_assert_eq!(decoded, expected);
        }

        #[test]
        fn merged_histograms_are_one_that_recorded_everything(
            parts in prop::collection::vec(samples(-3..3, 8.0), 1..6),
            digits in 1..=4_u8,
            weight in weight(),
            order: u64,
        ) {
            let even = |samples: &[(f64, f64)]| samples.iter().map(|&(value, _)| (value, weight)).collect::<Vec<_>>();
            let whole = recorded(digits, &even(&parts.concat()));
            prop_assert_eq!(whole.clamped(), 0);
            let each = parts.iter().enumerate().map(|(n, part)| merged_of(&(digits, n % 3 == 2, even(part))));
            let all = merged(each.collect(), order);
            prop_assert_eq!(&all, &whole.to_merged());
            // And what it says are the same numbers.
            prop_assert!(all.buckets().eq(whole.buckets()));
        }

        #[test]
        fn every_sample_has_its_whole_weight_in_the_bucket_of_its_value(samples in samples(-1000..1000, 50.0)) {
            let all = MergedHistogram::of_samples(3, &samples);
            prop_assert_eq!(total(&all), samples.iter().map(|&(_, weight)| grains_of(weight)).sum::<u128>());
            for (value, _) in samples {
                let near = |held: f64| (held - value).abs() <= value.abs() / 2047.0;
                prop_assert!(all.buckets().any(|(held, _)| near(held)), "{}", value);
            }
        }

        #[test]
        fn bytes_that_were_changed_are_refused_or_keep_to_the_bounds(
            part in samples(-9..9, 20.0), at: prop::sample::Index, byte: u8, digits in 1..=5_u8,
        ) {
            let mut changed = bytes(&MergedHistogram::of_samples(digits, &part));
            let at = at.index(changed.len());
            changed[at] = byte;
            if let Ok(mut read) = postcard::from_bytes::<MergedHistogram>(&changed) {
                prop_assert!(read.buckets.is_sorted() && read.buckets().all(|(v, w)| v.is_finite() && w.is_finite()));
                read.merge(&MergedHistogram::of_samples(2, &part));
                prop_assert!(postcard::from_bytes::<MergedHistogram>(&bytes(&read)).is_ok());
            }
        }
    }

    #[test]
    fn a_bucket_is_the_same_at_every_scale() {
        for digits in 1..=5 {
            for value in [1.0, 1.5, 0.1, 1023.0, 1024.0, 1e-300, 1e300, 5e-324, 1e-310, f64::MIN_POSITIVE] {
                for coarser in [1.0, 3.0, 1000.0] {
                    let mut histogram = Histogram::new(digits, value, value * coarser, 1.0);
                    histogram.record(value, 1.0);
                    histogram.record(-value, 1.0);
                    let bits = fine_bits(digits);
                    let expected = [-bucket_of(value, bits), bucket_of(value, bits)];
                    assert_eq!(histogram.to_merged().buckets, expected, "{value} {digits} {coarser}");
                }
            }
        }
        // It reads as the middle.
        assert_eq!(middle(bucket_of(5.0, 10), 10), 5.0 + 0.5 * 4.0 / 1024.0);
        assert_eq!(middle(bucket_of(-5.003, 10), 10), -5.0 - 0.5 * 4.0 / 1024.0);
        assert_eq!((middle(bucket_of(-0.0, 10), 10), middle(bucket_of(5e-324, 10), 10)), (0.0, 5e-324));
        assert!(middle(bucket_of(f64::MAX, 17), 17) <= f64::MAX && middle(bucket_of(f64::MAX, 4), 4) > f64::MAX / 1.1);
    }

    #[test]
    fn an_integer_without_its_digits_stands_for_its_middle() {
        // 512 to 1023 have half of the digits: 700 to 701 stands for 700.5.
        assert_eq!(bucket_of_integer(700, 0, 10), bucket_of(700.5, 10));
        assert_eq!(bucket_of_integer(1, 0, 10), bucket_of(1.5, 10));
        assert_eq!(bucket_of_integer(1, 3, 10), bucket_of(1.5 / 8.0, 10));
        assert_eq!(bucket_of_integer(0, 3, 10), 0);
    }

    #[test]
    fn nothing_merged_with_nothing_is_nothing() {
        let empty = || Histogram::new(3, 1.0, 1.0, 7.0).to_merged();
        let mut all = empty();
        all.merge(&empty());
        assert!(all.buckets().next().is_none() && all == MergedHistogram::of_samples(3, &[]));
        all.merge(&MergedHistogram::of_samples(3, &[(2.0, 5.0)]));
        assert_eq!(all, MergedHistogram::of_samples(3, &[(2.0, 5.0)]));
        all.merge(&empty());
        assert_eq!(all, MergedHistogram::of_samples(3, &[(2.0, 5.0)]));
    }

    #[test]
    fn what_is_far_below_the_largest_value_is_folded_and_counted() {
        let powers: Vec<(f64, f64)> =
            (-1074..1024).flat_map(|n| [1.0, -1.0].map(|sign| (scaled(sign, n), 1.0))).collect();
        for digits in 1..=3 {
            let all = MergedHistogram::of_samples(digits, &powers);
            assert_eq!((all.buckets.len(), all.clamped()), (2 * 64, 2 * (2098 - 63)));
            assert_eq!(all.buckets().map(|(_, weight)| weight).sum::<f64>(), 2.0 * 2098.0);
            let one_by_one = powers.iter().map(|&sample| MergedHistogram::of_samples(digits, &[sample])).collect();
            assert_eq!(bytes(&merged(one_by_one, 3)), bytes(&all));
        }
        // Every bucket of one digit that there can be.
        let every = (0..2098 * 16_u32).flat_map(|n| {
            let value = scaled(f64::from(16 + n % 16), (n / 16) as i32 - 1078);
            [(value, 1.0), (-value, 1.0), (0.0, 1.0)]
        });
        let all = MergedHistogram::of_samples(1, &every.collect::<Vec<_>>());
        assert_eq!(all.buckets.len(), most(1));
        assert!(all.memory_bytes() == 12 * most(1) && all.heap_bytes() >= all.memory_bytes());
    }

    #[test]
    fn weights_of_many_units_are_exact_and_stop_at_the_top() {
        let thirds = [(1.0, 1.0 / 0.3), (1.0, 1.0 / 0.7), (2.0, 1.0), (2.0, 1.0 / 64.0)];
        let all = MergedHistogram::of_samples(3, &thirds);
        let weights: Vec<f64> = all.buckets().map(|(_, weight)| weight).collect();
        assert_eq!(weights, [1.0 / 0.3 + 1.0 / 0.7, 1.0 + 1.0 / 64.0]);
        assert_eq!(grains_of(1.0), 1 << GRAIN_BITS);
        assert_eq!(grains_of(2_f64.powi(-10) * (1.0 + f64::EPSILON)), (1 << 52) + 1);
        assert_eq!((grains_of(2_f64.powi(66)), grains_of(f64::MAX), grains_of(5e-324)), (u128::MAX, u128::MAX, 1));
        assert_eq!((grains_of(2_f64.powi(65)), grains_of(0.0)), (1 << 127, 1));
        let heavy = [(1.0, 1e30), (1.0, 1e300), (2.0, 1.0)];
        let all = MergedHistogram::of_samples(3, &heavy);
        let each = heavy.iter().map(|&sample| MergedHistogram::of_samples(3, &[sample])).collect();
        assert_eq!(bytes(&merged(each, 5)), bytes(&all));
        assert!(all.buckets().map(|(_, weight)| weight).eq([2_f64.powi(66), 1.0]));
    }
}
