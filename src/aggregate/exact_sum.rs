//! A sum of doubles without rounding, so that it is the same to the bit in any order and groups: an integer of multiples of
//! the smallest double, as wide as all doubles (U. Kulisch, "Computer Arithmetic and Validity", 2008, chapter 8). It takes 272
//! bytes, and is for what is merged, not for samples that arrive: [`Sum`](super::Sum) is.

use serde::{Deserialize, Serialize};

use super::histogram::scaled;

/// Words of 64 bits: 2,098 bits for a double, the others for 2^77 of the largest.
const WORDS: usize = 34;
/// The smallest double above zero as a power of two.
const GRAIN: i32 = -1074;

/// The sum, in two's complement, the lowest word first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Flat", into = "Flat")]
pub(super) struct ExactSum([u64; WORDS]);

impl Default for ExactSum {
    fn default() -> ExactSum {
        ExactSum([0; WORDS])
    }
}

impl ExactSum {
    /// Adds a number; of an infinite one the largest there is.
    pub(super) fn add(&mut self, value: f64) {
        if value == 0.0 || value.is_nan() {
            return;
        }
        let bits = value.abs().min(f64::MAX).to_bits();
        let (exponent, fraction) = ((bits >> 52) as usize, bits & ((1 << 52) - 1));
        let (mantissa, place) = if exponent == 0 { (fraction, 0) } else { (fraction | (1 << 52), exponent - 1) };
        let moved = u128::from(mantissa) << (place % 64);
        // A double ends well below the last words.
        let [low, high, rest @ ..] = &mut self.0[place / 64..] else { return };
        let both = (u128::from(*high) << 64) | u128::from(*low);
        let (both, mut is_over) = if value > 0.0 { both.overflowing_add(moved) } else { both.overflowing_sub(moved) };
        (*low, *high) = (both as u64, (both >> 64) as u64);
        for word in rest {
            if !is_over {
                break;
            }
            (*word, is_over) = if value > 0.0 { word.overflowing_add(1) } else { word.overflowing_sub(1) };
        }
    }

    /// Adds another sum.
    pub(super) fn merge(&mut self, other: &ExactSum) {
        let mut is_over = false;
        for (word, part) in self.0.iter_mut().zip(other.0) {
            (*word, is_over) = carrying(*word, part, is_over);
        }
    }

    /// The nearest double, of those of the same distance the even one; never infinite.
    pub(super) fn value(&self) -> f64 {
        let is_negative = self.is_negative();
        let mut words = self.0;
        if is_negative {
            let mut is_over = false;
            for word in &mut words {
                (*word, is_over) = borrowing(0, *word, is_over);
            }
        }
        let Some(top) = words.iter().rposition(|&word| word != 0) else { return 0.0 };
        // 64 bits with the highest one, the last of which says whether there is anything below; a double has 53.
        let below = if top > 0 { words[top - 1] } else { 0 };
        let shift = words[top].leading_zeros();
        let both = ((u128::from(words[top]) << 64) | u128::from(below)) << shift;
        let has_more = both as u64 != 0 || words[..top.saturating_sub(1)].iter().any(|&word| word != 0);
        let (first, place) = match top {
            0 => (words[0], 0),
            _ => ((both >> 64) as u64 | u64::from(has_more), 64 * top as i32 - shift as i32),
        };
        let value = scaled(first as f64, place + GRAIN).min(f64::MAX);
        if is_negative { -value } else { value }
    }

    /// The sum as doubles of which each is what the ones before it leave: 159 bits at least.
    pub(super) fn parts(&self) -> [f64; 3] {
        let mut rest = self.clone();
        [(); 3].map(|()| {
            let part = rest.value();
            rest.add(-part);
            part
        })
    }

    fn is_negative(&self) -> bool {
        self.0[WORDS - 1] >> 63 == 1
    }
}

impl FromIterator<f64> for ExactSum {
    fn from_iter<I: IntoIterator<Item = f64>>(numbers: I) -> ExactSum {
        let mut sum = ExactSum::default();
        numbers.into_iter().for_each(|number| sum.add(number));
        sum
    }
}

fn carrying(a: u64, b: u64, carry: bool) -> (u64, bool) {
    let ((sum, first), carry) = (a.overflowing_add(b), u64::from(carry));
    let (sum, second) = sum.overflowing_add(carry);
    (sum, first | second)
}

fn borrowing(a: u64, b: u64, borrow: bool) -> (u64, bool) {
    let ((rest, first), borrow) = (a.overflowing_sub(b), u64::from(borrow));
    let (rest, second) = rest.overflowing_sub(borrow);
    (rest, first | second)
}

/// A product as the sum of two doubles, exact unless it is beyond their range.
pub(super) fn product(a: f64, b: f64) -> (f64, f64) {
    let product = a * b;
    if product.is_finite() { (product, a.mul_add(b, -product)) } else { (product, 0.0) }
}

/// The serialised form: without the words at either end that are no digits.
#[derive(Serialize, Deserialize)]
struct Flat {
    zeros: u8,
    words: Vec<u64>,
}

impl From<ExactSum> for Flat {
    fn from(full: ExactSum) -> Flat {
        let Some(zeros) = full.0.iter().position(|&word| word != 0) else {
            return Flat { zeros: 0, words: Vec::new() };
        };
        let sign = if full.is_negative() { u64::MAX } else { 0 };
        let mut words = full.0[zeros..].to_vec();
        while let [.., below, last] = words[..]
            && last == sign
            && (below ^ sign) >> 63 == 0
        {
            words.pop();
        }
        Flat { zeros: zeros as u8, words }
    }
}

impl TryFrom<Flat> for ExactSum {
    type Error = &'static str;

    fn try_from(flat: Flat) -> Result<ExactSum, &'static str> {
        let (start, end) = (usize::from(flat.zeros), usize::from(flat.zeros) + flat.words.len());
        if end > WORDS {
            return Err("a sum has too many words");
        }
        let is_negative = flat.words.last().is_some_and(|last| last >> 63 == 1);
        let mut words = [0; WORDS];
        words[start..end].copy_from_slice(&flat.words);
        words[end..].fill(if is_negative { u64::MAX } else { 0 });
        Ok(ExactSum(words))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sum(values: &[f64]) -> ExactSum {
        values.iter().copied().collect()
    }

    #[test]
    fn nothing_is_lost_between_the_largest_and_the_smallest() {
        assert_eq!(sum(&[f64::MAX, 5e-324, -f64::MAX]).value(), 5e-324);
        assert_eq!(sum(&[1e16, 1.0, -1e16]).value(), 1.0);
        assert_eq!(sum(&[0.1; 10]).value(), 1.0);
        assert_eq!(sum(&[-3.0, 1.0]).value(), -2.0);
        assert_eq!(sum(&[1e308, -1e308]).value(), 0.0);
        assert_eq!(sum(&[f64::INFINITY, f64::MAX, f64::NAN]).value(), f64::MAX);
        assert_eq!(sum(&[f64::NEG_INFINITY, f64::MIN, 1.0]).value(), f64::MIN);
        assert_eq!(sum(&[f64::MIN_POSITIVE, -5e-324]).value(), f64::MIN_POSITIVE - 5e-324);
    }

    #[test]
    fn the_nearest_double_is_told() {
        let half = f64::EPSILON / 2.0;
        assert_eq!(sum(&[1.0, half]).value(), 1.0);
        assert_eq!(sum(&[1.0, half, 5e-324]).value(), 1.0 + f64::EPSILON);
        assert_eq!(sum(&[1.0, half, -5e-324]).value(), 1.0);
        assert_eq!(sum(&[1.0 + f64::EPSILON, half]).value(), 1.0 + 2.0 * f64::EPSILON);
        assert_eq!(sum(&[-1.0, -half, -5e-324]).value(), -1.0 - f64::EPSILON);
        assert_eq!(sum(&[1.0, half, 5e-324]).parts(), [1.0 + f64::EPSILON, -half, 5e-324]);
    }

    proptest! {
        #[test]
        fn any_order_gives_the_same_bytes(
            values in prop::collection::vec(prop_oneof![-1e6..1e6, any::<f64>()], 0..40),
            cut: prop::sample::Index,
        ) {
            let bytes = |sum: &ExactSum| postcard::to_stdvec(sum).expect("memory");
            let whole = sum(&values);
            let mut other = values.clone();
            other.reverse();
            let (left, right) = other.split_at(cut.index(values.len() + 1));
            let mut merged = sum(right);
            merged.merge(&sum(left));
            prop_assert_eq!(bytes(&merged), bytes(&whole));
            let decoded: ExactSum = postcard::from_bytes(&bytes(&whole)).expect("what was encoded");
            prop_assert_eq!(&decoded, &whole);
            // What is taken away again leaves nothing.
            values.iter().for_each(|value| merged.add(-value));
            prop_assert_eq!(merged, ExactSum::default());
        }

        #[test]
        fn it_is_the_sum_of_integers(values in prop::collection::vec(any::<i64>(), 1..40)) {
            let doubles: Vec<f64> = values.iter().map(|&value| (value >> 11) as f64 / 4.0).collect();
            let expected: i64 = values.iter().map(|&value| value >> 11).sum();
            prop_assert_eq!(sum(&doubles).value(), expected as f64 / 4.0);
        }
    }
}
