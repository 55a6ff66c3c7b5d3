//! How a rule changes the aggregation, the lifetime and the sinks of a series. [`super::rules`] changes names and tags.

use std::fmt::{self, Write};

use serde::{Deserialize, Serialize};

use super::columns::Class;
use super::gauge::Gauge;

/// Which value of a gauge is flushed if it took several in an interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum GaugePolicy {
    /// The last.
    #[default]
    Last,
    /// The smallest.
    Min,
    /// The largest.
    Max,
    /// Their mean.
    Mean,
    /// Their sum.
    Sum,
}

impl GaugePolicy {
    /// Every policy with its word in the configuration.
    pub const NAMES: [(&'static str, GaugePolicy); 5] = [
        ("last", GaugePolicy::Last),
        ("min", GaugePolicy::Min),
        ("max", GaugePolicy::Max),
        ("mean", GaugePolicy::Mean),
        ("sum", GaugePolicy::Sum),
    ];

    /// The word of the configuration.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, policy)| *policy == self).map_or("", |(name, _)| name)
    }
}

/// The settings of a rule for its series; those that are absent are as for all other series.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SeriesOverrides {
    /// Percentiles of timers, -100 to 100.
    pub percentiles: Option<Vec<f64>>,
    /// Inclusive upper bounds, ascending: how many values of a timer are at or below each is flushed.
    pub buckets: Vec<f64>,
    /// Digits of the histogram, 1 to 5.
    pub digits: Option<u8>,
    /// What is flushed of a gauge.
    pub gauge: GaugePolicy,
    /// Lifetime without an update, in seconds; the inner `None` is for ever.
    pub ttl: Option<Option<f64>>,
    /// The only sinks that get it.
    pub sinks: Option<Vec<String>>,
    /// Flushed in every n-th interval.
    pub every: u32,
}

impl Default for SeriesOverrides {
    fn default() -> SeriesOverrides {
        SeriesOverrides {
            percentiles: None,
            buckets: Vec::new(),
            digits: None,
            gauge: GaugePolicy::Last,
            ttl: None,
            sinks: None,
            every: 1,
        }
    }
}

impl SeriesOverrides {
    /// Whether a snapshot needs it.
    pub(crate) fn is_seen(&self) -> bool {
        self.percentiles.is_some()
            || !self.buckets.is_empty()
            || self.ttl.is_some()
            || self.sinks.is_some()
            || self.every > 1
    }

    /// Whether a sink of this name gets the series.
    pub fn goes_to(&self, sink: &str) -> bool {
        self.sinks.as_ref().is_none_or(|sinks| sinks.iter().any(|known| known == sink))
    }
}

/// The text that `explain` prints.
impl fmt::Display for SeriesOverrides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |numbers: &[f64]| numbers.iter().map(f64::to_string).collect::<Vec<_>>().join(", ");
        let mut words = String::new();
        if let Some(percentiles) = &self.percentiles {
            write!(words, "; percentiles {}", list(percentiles))?;
        }
        if !self.buckets.is_empty() {
            write!(words, "; buckets {}", list(&self.buckets))?;
        }
        if let Some(digits) = self.digits {
            write!(words, "; {digits} digits")?;
        }
        if self.gauge != GaugePolicy::Last {
            write!(words, "; a gauge is its {}", self.gauge.name())?;
        }
        match self.ttl {
            Some(Some(secs)) => write!(words, "; forgotten after {secs} s")?,
            Some(None) => write!(words, "; never forgotten")?,
            None => {}
        }
        if self.every > 1 {
            write!(words, "; every {} intervals", self.every)?;
        }
        match self.sinks.as_deref() {
            Some([]) => write!(words, "; to no sink")?,
            Some(sinks) => write!(words, "; only to {}", sinks.join(", "))?,
            None => {}
        }
        f.write_str(words.trim_start_matches("; "))
    }
}

/// Minimum, maximum, sum and number of values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Span {
    count: u64,
    min: f64,
    max: f64,
    sum: f64,
}

impl Span {
    fn add(&mut self, value: f64) {
        self.merge(&Span { count: 1, min: value, max: value, sum: value });
    }

    /// Merges the values of another one.
    pub fn merge(&mut self, other: &Span) {
        if other.count == 0 {
            return;
        }
        let (min, max) =
            if self.count == 0 { (other.min, other.max) } else { (self.min.min(other.min), self.max.max(other.max)) };
        let sum = (self.sum + other.sum).clamp(f64::MIN, f64::MAX);
        *self = Span { count: self.count + other.count, min, max, sum };
    }

    fn shifted(&self, by: f64) -> Span {
        let fit = |value: f64| value.clamp(f64::MIN, f64::MAX);
        let sum = fit(self.sum + by * self.count as f64);
        Span { count: self.count, min: fit(self.min + by), max: fit(self.max + by), sum }
    }

    /// The value that a policy selects; `None` for the last, which is not known here.
    pub fn value(&self, policy: GaugePolicy) -> Option<f64> {
        match policy {
            GaugePolicy::Last => None,
            GaugePolicy::Min => Some(self.min),
            GaugePolicy::Max => Some(self.max),
            GaugePolicy::Mean => Some(self.sum / self.count.max(1) as f64),
            GaugePolicy::Sum => Some(self.sum),
        }
    }
}

/// The values that a gauge took in an interval on one side: those since it was set, and those before, which are relative
/// to its value at the start of the interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Levels {
    set: Span,
    loose: Span,
}

impl Levels {
    /// Records the current value of a gauge.
    pub fn add(&mut self, gauge: &Gauge) {
        if gauge.is_set() { self.set.add(gauge.value()) } else { self.loose.add(gauge.value()) }
    }

    /// Merges another side.
    pub fn merge(&mut self, other: &Levels) {
        self.set.merge(&other.set);
        self.loose.merge(&other.loose);
    }

    /// Appends the values of a later part of the interval, before which the gauge had these updates.
    pub fn then(&mut self, later: &Levels, before: &Gauge) {
        let loose = later.loose.shifted(before.value());
        if before.is_set() {
            self.set.merge(&loose)
        } else {
            self.loose.merge(&loose)
        }
        self.set.merge(&later.set);
    }

    /// The values, for a gauge that was `base` at the start of the interval.
    pub fn resolved(&self, base: f64) -> Span {
        let mut span = self.set;
        span.merge(&self.loose.shifted(base));
        span
    }
}

/// The per-sample settings of a shard's series, by id. Empty if no rule has any.
#[derive(Debug, Default)]
pub(super) struct GaugeLevels {
    /// Digits of timers' histograms; 0 for the general setting.
    digits: Vec<u8>,
    /// 1 for gauges whose every value counts.
    gauges: Vec<u8>,
}

impl GaugeLevels {
    /// Sets the settings of an id, which may have belonged to another series.
    pub(super) fn set(&mut self, class: Class, id: u32, overrides: Option<&SeriesOverrides>) {
        let (marks, mark) = match class {
            Class::Timer => (&mut self.digits, overrides.and_then(|t| t.digits).unwrap_or(0)),
            Class::Gauge => (&mut self.gauges, overrides.map_or(0, |t| u8::from(t.gauge != GaugePolicy::Last))),
            Class::Counter | Class::Set | Class::Kv => return,
        };
        let id = id as usize;
        if mark > 0 && marks.len() <= id {
            marks.resize(id + 1, 0);
        }
        if let Some(slot) = marks.get_mut(id) {
            *slot = mark;
        }
    }

    /// Digits of a timer's histogram; 0 for the general setting.
    #[inline(always)]
    pub(super) fn digits(&self, id: u32) -> u8 {
        if self.digits.is_empty() { 0 } else { self.digits.get(id as usize).copied().unwrap_or(0) }
    }

    /// Whether every value of a gauge counts.
    #[inline(always)]
    pub(super) fn keeps_levels(&self, id: u32) -> bool {
        !self.gauges.is_empty() && self.gauges.get(id as usize).is_some_and(|&mark| mark > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::GaugeOp::{Increase, Set};

    #[test]
    fn a_policy_looks_at_every_value_of_the_interval() {
        let (mut gauge, mut levels) = (Gauge::default(), Levels::default());
        for (op, value) in [(Increase, 1.0), (Set, 10.0), (Increase, 5.0), (Set, 2.0)] {
            gauge.apply(op, value, 0.0);
            levels.add(&gauge);
        }
        // It was 100: 101, 10, 15, 2.
        let span = levels.resolved(100.0);
        let value = |policy| span.value(policy);
        assert_eq!(
            [value(GaugePolicy::Min), value(GaugePolicy::Max), value(GaugePolicy::Sum), value(GaugePolicy::Mean)],
            [Some(2.0), Some(101.0), Some(128.0), Some(32.0)]
        );
        assert_eq!(value(GaugePolicy::Last), None);
    }
}
