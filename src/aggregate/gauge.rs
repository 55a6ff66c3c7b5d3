//! Gauges: an absolute value sets, a signed one adjusts.
//!
//! A gauge of one interval on one side (a receive worker, a node) has three parts: the last absolute value with its
//! time, the adjustments that followed it, and the adjustments made without one. That is enough to merge sides: the
//! later absolute value wins with the adjustments that followed it on its side; adjustments from sides without an
//! absolute value are added. [`Gauge::merge`] is commutative and associative (adjustments up to the last bits of a
//! sum).
//!
//! So what lines of one interval mean depends on whether one worker reads them all. An example:
//!
//! ```text
//! worker 1      worker 2     merged                flushed
//! +3, then 10   -            set 10                10
//! 10            +3           set 10, loose +3      13
//! +5            -            loose +5              5 more than before
//! ```
//! The value that an interval continues is held by `rollup::gauges`. It goes after `gauge_ttl` without an update
//! (default 5 min), and an adjustment then starts at 0.

use serde::{Deserialize, Serialize};

use crate::protocol::GaugeOp;

/// The state of a gauge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Gauge {
    /// The last absolute value and when its batch was received, in seconds.
    set: Option<(f64, f64)>,
    /// Adjustments that followed it.
    followed: f64,
    /// Adjustments without an absolute value before them on their side.
    loose: f64,
}

impl Gauge {
    /// A gauge that was set.
    pub fn absolute(value: f64, received: f64) -> Gauge {
        Gauge { set: Some((received, value)), followed: 0.0, loose: 0.0 }
    }

    /// Applies one value, received at `now` seconds.
    #[inline]
    pub fn apply(&mut self, op: GaugeOp, value: f64, now: f64) {
        match op {
            GaugeOp::Set => *self = Gauge::absolute(value, now),
            GaugeOp::Increase => self.adjust(value),
            GaugeOp::Decrease => self.adjust(-value),
        }
    }

    #[inline]
    fn adjust(&mut self, by: f64) {
        let part = if self.set.is_some() { &mut self.followed } else { &mut self.loose };
        *part = (*part + by).clamp(f64::MIN, f64::MAX);
    }

    /// Whether it has an absolute value.
    pub(super) fn is_set(&self) -> bool {
        self.set.is_some()
    }

    /// When its last absolute value was received, in seconds.
    pub fn set_at(&self) -> Option<f64> {
        self.set.map(|(received, _)| received)
    }

    /// Merges another side of the same interval into this one.
    pub fn merge(&mut self, other: &Gauge) {
        let loose = (self.loose + other.loose).clamp(f64::MIN, f64::MAX);
        if later(other.set, self.set) {
            self.set = other.set;
            self.followed = other.followed;
        } else if other.set == self.set && other.set.is_some() {
            self.followed = self.followed.max(other.followed);
        }
        self.loose = loose;
    }

    /// Appends a later interval.
    pub fn then(&mut self, next: &Gauge) {
        if next.set.is_some() {
            *self = *next;
            self.followed += self.loose;
            self.loose = 0.0;
        } else {
            self.adjust(next.loose);
        }
    }

    /// The value: an unknown gauge starts at 0.
    pub fn value(&self) -> f64 {
        let base = self.set.map_or(0.0, |(_, value)| value);
        (base + self.followed + self.loose).clamp(f64::MIN, f64::MAX)
    }
}

/// Whether `a` is the later absolute value; of two at the same instant the larger, so that order never matters.
fn later(a: Option<(f64, f64)>, b: Option<(f64, f64)>) -> bool {
    match (a, b) {
        (Some((a_time, a_value)), Some((b_time, b_value))) => {
            a_time.total_cmp(&b_time).then(a_value.total_cmp(&b_value)).is_gt()
        }
        (Some(_), None) => true,
        (None, _) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gauge(ops: &[(GaugeOp, f64, f64)]) -> Gauge {
        let mut gauge = Gauge::default();
        ops.iter().for_each(|&(op, value, now)| gauge.apply(op, value, now));
        gauge
    }

    use GaugeOp::{Decrease, Increase, Set};

    #[test]
    fn a_signed_gauge_adjusts_instead_of_setting() {
        assert_eq!(gauge(&[(Set, 333.0, 0.0), (Decrease, 10.0, 0.0), (Increase, 4.0, 0.0)]).value(), 327.0);
        assert_eq!(gauge(&[(Set, 5.0, 0.0), (Set, 0.0, 0.0), (Decrease, 5.0, 0.0)]).value(), -5.0);
    }

    #[test]
    fn an_adjustment_of_an_unknown_gauge_starts_at_zero() {
        assert_eq!(gauge(&[(Decrease, 5.0, 0.0)]).value(), -5.0);
    }

    #[test]
    fn the_later_absolute_value_wins_with_what_followed_it_and_loose_adjustments_are_added() {
        let early = gauge(&[(Set, 10.0, 1.0), (Increase, 1.0, 1.5)]);
        let late = gauge(&[(Increase, 100.0, 0.5), (Set, 20.0, 2.0), (Decrease, 3.0, 2.5)]);
        let loose = gauge(&[(Increase, 0.5, 0.1)]);
        let orders = [[early, late, loose], [loose, late, early], [late, loose, early]];
        for order in orders {
            let mut merged = Gauge::default();
            order.iter().for_each(|side| merged.merge(side));
            assert_eq!(merged.value(), 17.5);
        }
    }

    #[test]
    fn an_adjustment_in_a_later_interval_moves_the_standing_value() {
        let mut standing = gauge(&[(Set, 10.0, 1.0)]);
        standing.then(&gauge(&[(Increase, 2.0, 11.0)]));
        assert_eq!(standing.value(), 12.0);
        standing.then(&gauge(&[(Set, 1.0, 21.0), (Increase, 1.0, 21.0)]));
        assert_eq!(standing.value(), 2.0);
    }
}
