//! A histogram for values of any sign and scale: `hdrhistogram` with a power-of-two scale that is chosen per series and
//! changed when values exceed it.
//!
//! A magnitude is recorded as the integer `floor(|v| · 2^exponent)` and read back as the middle of its bucket. With 3
//! digits a bucket of an integer of 1024 or more is at most 1/1024 wide relative to its value, so the middle is within
//! 0.05 %; one octave below it is within 0.1 %, which is used when there is no other room. Scales differ by powers of
//! two, so a change of scale moves whole buckets, except for those below 2048, one integer wide, which then fall into
//! finer ones: once, that adds 0.05 %. So 31 octaves, or 9.3 decades, are held, in at most 124 KiB of counts; one more
//! digit takes 8 to 16 times as much. Values of both signs share that range: 14 octaves, or 4 decades, of each sign from
//! the largest down. A value that fits no scale together with those already held is clamped to the nearest end, and
//! counted.
//!
//! Weights (1/rate) become integer counts of a `unit`. The unit is refined when a weight is not a multiple of it, a few
//! times at most, because each time moves all counts; the remainder is carried to the next sample, so that the total
//! weight stays right.
//!
//! Scale and unit depend on the order of the values, so histograms are not merged as they are, but as
//! [`MergedHistogram`]s.

use hdrhistogram::Histogram as Hdr;
use serde::{Deserialize, Serialize};

use crate::memory::{footprint, vec_footprint};

use super::merged_histogram::{MergedHistogram, bucket_of_integer};

/// Octaves of integers that keep their digits with a margin.
const OCTAVES: i32 = 30;
/// The octave of a new extreme after a change of scale: it leaves two octaves before the next change.
const ROOM: i32 = 2;
/// Finest split of a unit of weight.
const MAX_SPLIT: u32 = 64;
/// How often a split of the unit is considered at most: random weights fit none.
const MAX_SPLITS: u8 = 8;
/// Most units per weight after a split: counts have 32 bits.
const MAX_UNITS: f64 = 1024.0;

/// Counts of values, by value.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "Flat", into = "Flat")]
pub struct Histogram {
    digits: u8,
    /// Integers of two to the power of this or more keep their digits.
    fine_bits: i32,
    exponent: i32,
    positive: Hdr<u32>,
    negative: Option<Box<Hdr<u32>>>,
    /// Smallest and largest magnitude held, except zero.
    smallest: f64,
    largest: f64,
    /// The largest magnitude of each sign, the positive one first.
    largest_of: [f64; 2],
    unit: f64,
    /// How often a split of the unit was considered.
    splits: u8,
    carry: f64,
    clamped: u64,
}

impl Histogram {
    /// An empty histogram with a scale for magnitudes from `smallest` to `largest` (except zero) and with `unit` as its
    /// unit of weight.
    pub fn new(digits: u8, smallest: f64, largest: f64, unit: f64) -> Histogram {
        let smallest = if smallest > 0.0 && smallest.is_finite() { smallest } else { 1.0 };
        let fine_bits = fine_bits(digits);
        let top_bits = fine_bits + OCTAVES;
        let exponent = (fine_bits + ROOM - floor_log2(smallest)).min(top_bits - 1 - floor_log2(largest.max(smallest)));
        Histogram {
            digits,
            fine_bits,
            exponent,
            positive: new_hdr(digits),
            negative: None,
            smallest: f64::INFINITY,
            largest: 0.0,
            largest_of: [0.0; 2],
            unit,
            splits: 0,
            carry: 0.0,
            clamped: 0,
        }
    }

    /// Records a finite value with a weight above 0.
    pub fn record(&mut self, value: f64, weight: f64) {
        let magnitude = value.abs();
        if magnitude > 0.0 {
            self.make_room(magnitude);
            let largest = &mut self.largest_of[usize::from(value < 0.0)];
            if magnitude > *largest {
                *largest = magnitude;
                self.share_room();
            }
        }
        let integer = self.integer(magnitude);
        let count = self.counts_of(weight);
        self.add(value < 0.0, integer, count);
    }

    /// The buckets as they are merged.
    pub fn to_merged(&self) -> MergedHistogram {
        let read = |hdr: &Hdr<u32>, sign: i32, counts: &mut Vec<(i32, u64)>| {
            counts.extend(hdr.iter_recorded().map(|step| {
                let bucket = bucket_of_integer(step.value_iterated_to(), self.exponent, self.fine_bits);
                (sign * bucket, step.count_since_last_iteration())
            }));
        };
        let mut counts = Vec::new();
        if let Some(negative) = &self.negative {
            read(negative, -1, &mut counts);
            counts.reverse();
        }
        read(&self.positive, 1, &mut counts);
        MergedHistogram::of_counts(self.digits, self.unit, &counts, self.clamped)
    }

    /// The middle of each bucket that is not empty, with its weight, by ascending value.
    pub fn buckets(&self) -> Vec<(f64, f64)> {
        let read = |hdr: &Hdr<u32>, sign: f64| -> Vec<(f64, f64)> {
            hdr.iter_recorded()
                .map(|step| {
                    let low = hdr.lowest_equivalent(step.value_iterated_to());
                    let middle = if low == 0 { 0.0 } else { 0.5 * (low as f64 + hdr.next_non_equivalent(low) as f64) };
                    let value = sign * scaled(middle, -self.exponent);
                    (value, (step.count_since_last_iteration() as f64 * self.unit).min(f64::MAX))
                })
                .collect()
        };
        let mut all = self.negative.as_ref().map_or_else(Vec::new, |hdr| read(hdr, -1.0));
        all.reverse();
        all.extend(read(&self.positive, 1.0));
        all
    }

    /// Values that were moved to the nearest representable one.
    pub fn clamped(&self) -> u64 {
        self.clamped
    }

    /// Size of the counts in bytes.
    pub fn memory_bytes(&self) -> usize {
        let bytes = |hdr: &Hdr<u32>| hdr.distinct_values() * size_of::<u32>();
        bytes(&self.positive) + self.negative.as_deref().map_or(0, bytes)
    }

    /// Bytes that it takes beside itself.
    pub(crate) fn heap_bytes(&self) -> usize {
        let bytes = |hdr: &Hdr<u32>| vec_footprint::<u32>(hdr.distinct_values());
        let negative = |hdr: &Hdr<u32>| footprint(size_of::<Hdr<u32>>()) + bytes(hdr);
        bytes(&self.positive) + self.negative.as_deref().map_or(0, negative)
    }

    /// Changes the scale so that `magnitude` fits, if the values already held still fit.
    fn make_room(&mut self, magnitude: f64) {
        let bits = self.exponent + floor_log2(magnitude);
        if bits < self.fine_bits {
            // How far the scale can grow before the largest value held exceeds it.
            let headroom = if self.largest > 0.0 { self.finest() - self.exponent } else { i32::MAX };
            let needed = self.fine_bits - bits;
            // One octave may lie lower than is comfortable.
            if needed - 1 <= headroom {
                self.rescale(self.exponent + (needed + ROOM).min(headroom));
            } else {
                self.clamped += 1;
            }
        } else if bits >= self.top_bits() {
            // How far it can shrink before the smallest value held becomes too coarse.
            let headroom = if self.smallest.is_finite() {
                self.exponent + floor_log2(self.smallest) - (self.fine_bits - 1)
            } else {
                i32::MAX
            };
            let needed = bits - (self.top_bits() - 1);
            if needed <= headroom {
                self.rescale(self.exponent - (needed + ROOM).min(headroom));
            } else {
                self.clamped += 1;
                return;
            }
        }
        self.smallest = self.smallest.min(magnitude);
        self.largest = self.largest.max(magnitude);
    }

    fn top_bits(&self) -> i32 {
        self.fine_bits + OCTAVES
    }

    /// The finest scale that holds the largest values of both signs within the bound.
    fn finest(&self) -> i32 {
        // Half of the counts of an HdrHistogram's first bucket: the size of each further octave.
        let octaves = |largest: f64, exponent: i32| match largest > 0.0 {
            true => (exponent + floor_log2(largest) - self.fine_bits).max(0) + 2,
            // An empty histogram has its first bucket too.
            false => 0,
        };
        let mut exponent = self.top_bits() - 1 - floor_log2(self.largest);
        let [positive, negative] = self.largest_of;
        while octaves(positive, exponent) + octaves(negative, exponent) > OCTAVES + 1 {
            exponent -= 1;
        }
        exponent
    }

    /// Coarsens the scale if values of both signs exceed the bound.
    fn share_room(&mut self) {
        if self.largest_of.contains(&0.0) {
            return;
        }
        let shift = self.exponent - self.finest();
        if shift <= 0 {
            return;
        }
        // Values that were exact enough, and no longer are.
        let fine = 1_u64 << (self.fine_bits - 1);
        let loses = |hdr: &Hdr<u32>| -> u64 {
            let steps =
                hdr.iter_recorded().filter(|step| (fine..fine << shift.min(40)).contains(&step.value_iterated_to()));
            steps.map(|step| step.count_since_last_iteration()).sum()
        };
        self.clamped += loses(&self.positive) + self.negative.as_deref().map_or(0, loses);
        self.rescale(self.exponent - shift);
    }

    fn rescale(&mut self, exponent: i32) {
        let shift = exponent - self.exponent;
        if shift == 0 {
            return;
        }
        self.exponent = exponent;
        let top = 1_u64 << self.top_bits();
        let moved = |hdr: &Hdr<u32>, digits: u8| {
            let mut scaled = new_hdr(digits);
            for step in hdr.iter_recorded() {
                let low = hdr.lowest_equivalent(step.value_iterated_to());
                // The middle: in buckets one integer wide, a finer scale must not read it as the lower end.
                let middle = 0.5 * (low as f64 + hdr.next_non_equivalent(low) as f64);
                let moved = if low == 0 { 0 } else { (self::scaled(middle, shift) as u64).clamp(1, top - 1) };
                add(&mut scaled, moved, u32::try_from(step.count_since_last_iteration()).unwrap_or(u32::MAX));
            }
            scaled
        };
        self.positive = moved(&self.positive, self.digits);
        self.negative = self.negative.take().map(|hdr| Box::new(moved(&hdr, self.digits)));
    }

    fn integer(&self, magnitude: f64) -> u64 {
        if magnitude == 0.0 {
            return 0;
        }
        // A magnitude too small for the scale stays above zero, one too large stays below the top.
        (scaled(magnitude, self.exponent) as u64).clamp(1, (1 << self.top_bits()) - 1)
    }

    fn add(&mut self, negative: bool, integer: u64, count: u32) {
        if count == 0 {
            return;
        }
        let hdr = if negative && integer > 0 {
            self.negative.get_or_insert_with(|| Box::new(new_hdr(self.digits)))
        } else {
            &mut self.positive
        };
        add(hdr, integer, count);
    }

    /// A weight as a number of units.
    fn counts_of(&mut self, weight: f64) -> u32 {
        let mut counts = weight / self.unit;
        if self.splits < MAX_SPLITS && !is_whole(counts) {
            self.refine(counts);
            counts = weight / self.unit;
        }
        let exact = counts + self.carry;
        let whole = exact.round().clamp(0.0, f64::from(u32::MAX));
        self.carry = (exact - whole).clamp(-1.0, 1.0);
        whole as u32
    }

    /// Splits the unit so that a weight of this many units becomes a multiple of it, or nearly so.
    #[cold]
    fn refine(&mut self, counts: f64) {
        self.splits += 1;
        let split = (2..=MAX_SPLIT).find(|&k| is_whole(counts * f64::from(k)));
        let split = split.unwrap_or(if counts < f64::from(MAX_SPLIT) { MAX_SPLIT } else { 1 });
        if split > 1
            && counts * f64::from(split) <= MAX_UNITS
            && self.unit > f64::MIN_POSITIVE * f64::from(MAX_SPLIT)
            && self.fits(split)
        {
            self.split(split);
        }
    }

    /// Whether all counts can be multiplied.
    fn fits(&self, factor: u32) -> bool {
        let largest = |hdr: &Hdr<u32>| hdr.iter_recorded().map(|s| s.count_since_last_iteration()).max().unwrap_or(0);
        let most = largest(&self.positive).max(self.negative.as_deref().map_or(0, largest));
        most.saturating_mul(u64::from(factor)) <= u64::from(u32::MAX) / 4
    }

    fn split(&mut self, factor: u32) {
        self.unit /= f64::from(factor);
        self.carry *= f64::from(factor);
        let multiply = |hdr: &mut Hdr<u32>| {
            let held: Vec<(u64, u32)> = hdr
                .iter_recorded()
                .map(|s| (s.value_iterated_to(), u32::try_from(s.count_since_last_iteration()).unwrap_or(u32::MAX)))
                .collect();
            for (value, count) in held {
                add(hdr, value, count.saturating_mul(factor - 1));
            }
        };
        multiply(&mut self.positive);
        if let Some(hdr) = self.negative.as_deref_mut() {
            multiply(hdr);
        }
    }
}

/// The first power of two above ten to the power of the digits: so many buckets has an octave of integers that keep their
/// digits.
pub(super) fn fine_bits(digits: u8) -> i32 {
    [4, 7, 10, 14, 17][usize::from(digits.clamp(1, 5)) - 1]
}

/// Whether a number of units is an integer, up to rounding.
fn is_whole(counts: f64) -> bool {
    (counts - counts.round()).abs() <= 1e-9 * counts.max(1.0)
}

fn new_hdr(digits: u8) -> Hdr<u32> {
    Hdr::new(digits.clamp(1, 5)).expect("1 to 5 digits are what an HdrHistogram takes")
}

fn add(hdr: &mut Hdr<u32>, value: u64, count: u32) {
    let counts = hdr.distinct_values();
    // Resizing is on, and no value reaches the type's limit, so recording cannot fail.
    let recorded = hdr.record_n(value, count);
    debug_assert!(recorded.is_ok());
    if hdr.distinct_values() > counts {
        // It grows to twice its size; a copy has no spare room.
        *hdr = hdr.clone();
    }
}

/// `floor(log2(x))` for x > 0, subnormals included.
fn floor_log2(x: f64) -> i32 {
    let exponent = ((x.to_bits() >> 52) & 0x7ff) as i32;
    if exponent == 0 { x.log2().floor() as i32 } else { exponent - 1023 }
}

/// `x · 2^n`, in two steps because `2^n` alone may leave the range of a double.
pub(super) fn scaled(x: f64, n: i32) -> f64 {
    x * 2_f64.powi(n / 2) * 2_f64.powi(n - n / 2)
}

/// The serialised form: for each sign the lowest integers of the buckets that are not empty, with their counts.
#[derive(Serialize, Deserialize)]
struct Flat {
    digits: u8,
    exponent: i32,
    positive: Vec<(u64, u64)>,
    negative: Option<Vec<(u64, u64)>>,
    smallest: f64,
    largest: f64,
    largest_of: [f64; 2],
    unit: f64,
    carry: f64,
    clamped: u64,
}

impl From<Histogram> for Flat {
    fn from(full: Histogram) -> Flat {
        let flat = |hdr: &Hdr<u32>| {
            let steps = hdr.iter_recorded();
            steps.map(|s| (hdr.lowest_equivalent(s.value_iterated_to()), s.count_since_last_iteration())).collect()
        };
        Flat {
            digits: full.digits,
            exponent: full.exponent,
            positive: flat(&full.positive),
            negative: full.negative.as_deref().map(flat),
            smallest: full.smallest,
            largest: full.largest,
            largest_of: full.largest_of,
            unit: full.unit,
            carry: full.carry,
            clamped: full.clamped,
        }
    }
}

impl TryFrom<Flat> for Histogram {
    type Error = &'static str;

    fn try_from(flat: Flat) -> Result<Histogram, &'static str> {
        if !(1..=5).contains(&flat.digits) {
            return Err("a histogram has 1 to 5 digits");
        }
        // Nothing can have been recorded beyond the exponents of doubles.
        let is_sound = flat.exponent.abs() <= 2200 && flat.unit.is_finite() && flat.unit > 0.0;
        if !is_sound || flat.largest.is_nan() || flat.carry.is_nan() {
            return Err("a histogram's scale is none");
        }
        let mut full = Histogram::new(flat.digits, flat.smallest, flat.largest, flat.unit);
        let top = 1_u64 << full.top_bits();
        let fill = |counts: &[(u64, u64)]| {
            let mut hdr = new_hdr(flat.digits);
            for &(integer, count) in counts {
                if integer >= top {
                    return Err("a value is beyond the scale of its histogram");
                }
                add(&mut hdr, integer, u32::try_from(count).map_err(|_| "a count is too large")?);
            }
            Ok(hdr)
        };
        full.exponent = flat.exponent;
        full.positive = fill(&flat.positive)?;
        full.negative = flat.negative.as_deref().map(fill).transpose()?.map(Box::new);
        (full.smallest, full.largest, full.largest_of) = (flat.smallest, flat.largest, flat.largest_of);
        (full.carry, full.clamped) = (flat.carry, flat.clamped);
        // It was refined when it was recorded.
        full.splits = MAX_SPLITS;
        Ok(full)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worst_error(values: &[f64]) -> f64 {
        let mut histogram = Histogram::new(3, values[0].abs(), values[0].abs(), 1.0);
        values.iter().for_each(|&v| histogram.record(v, 1.0));
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let read: Vec<f64> =
            histogram.buckets().iter().flat_map(|&(v, n)| std::iter::repeat_n(v, n as usize)).collect();
        assert_eq!(read.len(), sorted.len());
        sorted.iter().zip(read).map(|(&e, r)| if e == 0.0 { r.abs() } else { (r / e - 1.0).abs() }).fold(0.0, f64::max)
    }

    #[test]
    fn values_over_nine_decades_are_within_a_thousandth() {
        let decades: Vec<f64> = (0..=9000).map(|n| 0.003 * 10_f64.powf(f64::from(n) / 1000.0)).collect();
        assert!(worst_error(&decades) <= 0.001);
        let falling: Vec<f64> = decades.iter().rev().copied().collect();
        assert!(worst_error(&falling) <= 0.001);
    }

    #[test]
    fn negative_values_and_zero_are_held_too() {
        let values: Vec<f64> = (-500..500).map(|n| f64::from(n) * 1.37).collect();
        assert!(worst_error(&values) <= 0.001);
        assert!(worst_error(&[0.0, 0.0, 5.0]) <= 0.001);
    }

    #[test]
    fn both_signs_share_the_room_there_is_and_what_gets_too_coarse_is_counted() {
        let of = |values: &mut dyn Iterator<Item = f64>| {
            let mut histogram = Histogram::new(3, 1.0, 1.0, 1.0);
            values.for_each(|value| histogram.record(value, 1.0));
            histogram
        };
        let powers = |from: i32, to: i32| (from..to).map(|n| 2_f64.powi(n) * 1.01);
        // Four decades of each sign, in any order.
        let histogram = of(&mut powers(0, 14).rev().flat_map(|v| [v, -v]));
        assert!(histogram.clamped() == 0 && histogram.memory_bytes() <= 124 << 10, "{}", histogram.memory_bytes());
        let held: Vec<f64> = histogram.buckets().iter().map(|(value, _)| *value).collect();
        assert!(powers(0, 14).all(|v| [v, -v].iter().all(|v| held.iter().any(|h| (h / v - 1.0).abs() < 0.001))));
        // Nine of each sign: the small ones are less exact, which is counted.
        let histogram = of(&mut powers(0, 30).flat_map(|v| [v, -v]));
        assert!(histogram.memory_bytes() <= 124 << 10, "{}", histogram.memory_bytes());
        assert!((20..=40).contains(&histogram.clamped()), "{}", histogram.clamped());
        assert_eq!(histogram.buckets().iter().map(|(_, count)| count).sum::<f64>(), 60.0);
    }

    #[test]
    fn digits_are_kept_over_all_decades() {
        for (digits, bound) in [(1, 0.1), (2, 0.01), (4, 0.0001), (5, 0.00001)] {
            let mut histogram = Histogram::new(digits, 0.003, 0.003, 1.0);
            let values: Vec<f64> = (0..=900).map(|n| 0.003 * 10_f64.powf(f64::from(n) / 100.0)).collect();
            values.iter().for_each(|&v| histogram.record(v, 1.0));
            let held = histogram.buckets();
            let near = |v: f64| held.iter().map(|(h, _)| (h / v - 1.0).abs()).fold(f64::INFINITY, f64::min);
            let worst = values.iter().map(|&v| near(v)).fold(0.0, f64::max);
            assert!(worst <= bound && histogram.clamped() == 0, "{digits} digits: {worst}");
        }
    }

    #[test]
    fn any_scale_will_do() {
        for scale in [1e-300, 1e-9, 1.0, 1e12, 1e300, 5e-320] {
            let values: Vec<f64> = (100..1000).map(|n| f64::from(n) * scale).collect();
            let bound = if scale < 1e-310 { 0.01 } else { 0.001 };
            assert!(worst_error(&values) <= bound, "{scale}: {}", worst_error(&values));
        }
    }

    #[test]
    fn a_value_that_fits_no_common_scale_is_clamped_and_counted_and_harms_no_other() {
        let mut histogram = Histogram::new(3, 1.0, 1.0, 1.0);
        [1.0, 2.0, 1e300, 1e-300].iter().for_each(|&v| histogram.record(v, 1.0));
        assert_eq!(histogram.clamped(), 2);
        let values: Vec<f64> = histogram.buckets().iter().map(|b| b.0).collect();
        assert!(values.iter().any(|v| (v - 1.0).abs() < 0.001) && values.iter().any(|v| (v / 2.0 - 1.0).abs() < 0.001));
        assert!(histogram.memory_bytes() <= 124 << 10, "{}", histogram.memory_bytes());
    }

    #[test]
    fn random_weights_soon_leave_the_unit_as_it_is() {
        let mut histogram = Histogram::new(3, 5.0, 5.0, 1.0);
        let mut weights = (1..).map(|n: u32| 1.0 + f64::from(n.wrapping_mul(2_654_435_761)) / 1e8);
        let mut total = 0.0;
        let mut record = |histogram: &mut Histogram, count| {
            for (n, weight) in weights.by_ref().take(count).enumerate() {
                histogram.record((n % 100) as f64, weight);
                total += weight;
            }
        };
        record(&mut histogram, usize::from(MAX_SPLITS));
        let unit = histogram.unit;
        assert!(unit > 1.0 / MAX_UNITS, "{unit}");
        record(&mut histogram, 100_000);
        assert_eq!(histogram.unit, unit);
        let held: f64 = histogram.buckets().iter().map(|b| b.1).sum();
        assert!((held - total).abs() <= unit, "{held} {total}");
    }

    #[test]
    fn fractional_weights_add_up() {
        let mut histogram = Histogram::new(3, 5.0, 5.0, 1.0);
        let mut total = 0.0;
        for n in 0..1000 {
            let weight = [1.0, 1.0 / 0.3, 1.0 / 0.7, 10.0, 1.0 / 0.123][n % 5];
            histogram.record(5.0 + n as f64, weight);
            total += weight;
        }
        let held: f64 = histogram.buckets().iter().map(|b| b.1).sum();
        assert!((held - total).abs() <= 1.0, "{held} {total}");
    }
}
