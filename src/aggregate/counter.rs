//! Counters: compensated sums, so that a billion small increments lose nothing by rounding.

use serde::{Deserialize, Serialize};

/// A running sum with Neumaier's compensation (A. Neumaier, "Rundungsfehleranalyse einiger Verfahren zur
/// Summation endlicher Summen", ZAMM 54, 1974). Its error does not grow with the number of terms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sum {
    total: f64,
    compensation: f64,
}

impl Sum {
    /// Adds a finite number.
    #[inline]
    pub fn add(&mut self, value: f64) {
        let sum = self.total + value;
        self.compensation +=
            if self.total.abs() >= value.abs() { (self.total - sum) + value } else { (value - sum) + self.total };
        self.total = sum;
    }

    /// Adds another sum.
    pub fn merge(&mut self, other: Sum) {
        self.add(other.total);
        self.compensation += other.compensation;
    }

    /// Whether it can go on: one that comes from elsewhere may hold anything.
    pub(crate) fn is_finite(self) -> bool {
        self.total.is_finite() && self.compensation.is_finite()
    }

    /// Finite numbers of which it is the sum.
    pub(super) fn parts(self) -> [f64; 2] {
        let is_finite = self.total.is_finite() && self.compensation.is_finite();
        if is_finite { [self.total, self.compensation] } else { [self.value(), 0.0] }
    }

    /// The sum, clamped to the range of a double: never infinite, never NaN.
    #[inline]
    pub fn value(self) -> f64 {
        let value = self.total + self.compensation;
        if value.is_finite() {
            return value;
        }
        if self.total.is_nan() { 0.0 } else { self.total.clamp(f64::MIN, f64::MAX) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(values: &[f64]) -> f64 {
        let mut sum = Sum::default();
        values.iter().for_each(|&v| sum.add(v));
        sum.value()
    }

    #[test]
    fn small_terms_beside_a_large_one_are_not_lost() {
        assert_eq!(sum(&[1e16, 1.0, -1e16]), 1.0);
        assert_eq!(sum(&[0.1; 10]), 1.0);
    }

    #[test]
    fn an_overflowing_sum_is_clamped() {
        assert_eq!(sum(&[f64::MAX, f64::MAX]), f64::MAX);
        assert!(sum(&[f64::MAX, f64::MAX, f64::MIN, f64::MIN, f64::MIN]).is_finite());
    }

    #[test]
    fn a_merged_sum_is_the_sum_of_all_terms() {
        let (mut a, mut b) = (Sum::default(), Sum::default());
        [1e16, 1.0].iter().for_each(|&v| a.add(v));
        [-1e16, 1.0].iter().for_each(|&v| b.add(v));
        a.merge(b);
        assert_eq!(a.value(), 2.0);
    }
}
