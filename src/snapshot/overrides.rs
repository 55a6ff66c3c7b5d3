//! Settings of the series of a snapshot from rules: their overrides, and the length of their intervals.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::aggregate::rules::Rules;
use crate::aggregate::{Levels, SeriesOverrides, TimestampedSample};
use crate::glob::matches;
use crate::series::Series;

use super::{Footprint, Snapshot};

/// The overrides of the series that have one.
#[derive(Clone, Debug, Default)]
pub struct SnapshotOverrides {
    pub(crate) rules: Option<Arc<Rules>>,
    /// Numbers of rules.
    pub(crate) of: Arc<HashMap<Series, u32>>,
    /// For series that are not flushed in every interval: in which they are, and its length.
    pub(crate) lengths: Vec<(u32, Length)>,
    /// In a part of an interval: the values of gauges of which more than the last counts.
    pub(crate) levels: HashMap<Series, Levels>,
}

/// Whether an interval of so many ticks ends with a tick that follows another one: every multiple ends one, also when its own
/// tick was skipped. So does a clock that was set back past one.
pub(crate) fn ends_interval(every: u32, last_tick: u64, tick: u64) -> bool {
    tick / u64::from(every) != last_tick / u64::from(every)
}

/// The length of a series' interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Length {
    /// Measured, seconds.
    pub(crate) interval_secs: f64,
    /// What rates are divided by, seconds.
    pub(crate) rate_secs: f64,
}

impl SnapshotOverrides {
    /// The overrides of a series, if a rule has any.
    pub fn of(&self, series: &Series) -> Option<&SeriesOverrides> {
        if self.of.is_empty() {
            return None;
        }
        self.rules.as_ref()?.overrides(*self.of.get(series)?)
    }

    /// What a series is, if its rule says so.
    pub(crate) fn help(&self, series: &Series) -> Option<&str> {
        if self.of.is_empty() {
            return None;
        }
        self.rules.as_ref()?.help(*self.of.get(series)?)
    }

    /// Whether series with this interval are due.
    pub(crate) fn is_due(&self, every: u32) -> bool {
        every == 1 || self.lengths.iter().any(|(known, _)| *known == every)
    }

    fn length(&self, series: &Series) -> Option<Length> {
        if self.lengths.is_empty() {
            return None;
        }
        let every = self.of(series)?.every;
        self.lengths.iter().find(|(known, _)| *known == every).map(|(_, length)| *length)
    }

    /// Adds the lengths of the next interval.
    pub(super) fn add_lengths(&mut self, after: &SnapshotOverrides) {
        for (every, length) in &after.lengths {
            match self.lengths.iter_mut().find(|(known, _)| known == every) {
                Some((_, ours)) => {
                    ours.interval_secs += length.interval_secs;
                    ours.rate_secs += length.rate_secs;
                }
                None => self.lengths.push((*every, *length)),
            }
        }
    }

    /// Merges those of another part of the same interval.
    pub(super) fn unite(&mut self, other: &SnapshotOverrides) {
        if self.rules.is_none() {
            *self = other.clone();
            return;
        }
        if !other.of.is_empty() {
            Arc::make_mut(&mut self.of).extend(other.of.iter().map(|(series, rule)| (series.clone(), *rule)));
        }
        for (series, levels) in &other.levels {
            self.levels.entry(series.clone()).or_default().merge(levels);
        }
    }
}

/// Which series a sink gets, by patterns of their names, and their names there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only these series; `None` is all.
    pub include: Option<Vec<String>>,
    /// All but these.
    pub exclude: Vec<String>,
    /// Prefix of every name.
    pub prefix: String,
    /// Added to every series that does not have them.
    pub tags: Vec<(String, String)>,
}

impl Filter {
    /// Whether it lets every series pass.
    pub fn is_open(&self) -> bool {
        self.include.is_none() && self.exclude.is_empty() && self.is_same()
    }

    /// Whether it leaves names unchanged.
    fn is_same(&self) -> bool {
        self.prefix.is_empty() && self.tags.is_empty()
    }

    fn passes(&self, series: &Series) -> bool {
        let is_among = |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern, series.name()));
        self.include.as_deref().is_none_or(is_among) && !is_among(&self.exclude)
    }
}

/// What a sink's view has of an interval.
struct Passing<'a> {
    sink: &'a str,
    filter: &'a Filter,
    overrides: &'a SnapshotOverrides,
}

impl Passing<'_> {
    fn series(&self, series: &Series) -> bool {
        let overrides = self.overrides.of(series);
        self.filter.passes(series) && overrides.is_none_or(|overrides| overrides.goes_to(self.sink))
    }

    fn timestamped(&self, one: &TimestampedSample) -> bool {
        let overrides = self.overrides.rules.as_deref().and_then(|rules| rules.overrides(one.rule));
        self.filter.passes(&one.series) && overrides.is_none_or(|overrides| overrides.goes_to(self.sink))
    }
}

impl Snapshot {
    /// Measured length of a series' interval, seconds.
    pub fn interval_secs_of(&self, series: &Series) -> f64 {
        self.overrides.length(series).map_or(self.interval_secs, |length| length.interval_secs)
    }

    /// A value of a series per second.
    pub fn rate(&self, series: &Series, value: f64) -> f64 {
        let secs = self.overrides.length(series).map_or(self.rate_secs, |length| length.rate_secs);
        if secs > 0.0 { (value / secs).clamp(f64::MIN, f64::MAX) } else { 0.0 }
    }

    fn rename(&mut self, name: impl Fn(&Series) -> Series) {
        if !self.overrides.of.is_empty() {
            let renamed = self.overrides.of.iter().map(|(series, rule)| (name(series), *rule)).collect();
            self.overrides.of = Arc::new(renamed);
        }
        self.counters.iter_mut().for_each(|point| point.series = name(&point.series));
        self.gauges.iter_mut().for_each(|point| point.series = name(&point.series));
        self.timers.iter_mut().for_each(|point| point.series = name(&point.series));
        self.sets.iter_mut().for_each(|point| point.series = name(&point.series));
        self.kvs.iter_mut().for_each(|point| point.series = name(&point.series));
        self.timestamped.iter_mut().for_each(|one| one.series = name(&one.series));
    }

    /// Whether a sink gets everything as it is: neither rules nor its filter exclude anything.
    pub(crate) fn is_whole_for(&self, sink: &str, filter: &Filter) -> bool {
        let rules = self.overrides.rules.as_deref();
        filter.is_open() && rules.is_none_or(|rules| rules.all_overrides().all(|overrides| overrides.goes_to(sink)))
    }

    /// How many records a sink's view has.
    pub(crate) fn len_for_sink(&self, sink: &str, filter: &Filter) -> usize {
        if self.is_whole_for(sink, filter) {
            return self.len();
        }
        let goes = self.passing(sink, filter);
        let rest = self.events_and_checks.len() + self.presence.len();
        let kvs = self.kvs.iter().filter(|point| goes.series(&point.series));
        self.counters.iter().filter(|point| goes.series(&point.series)).count()
            + self.gauges.iter().filter(|point| goes.series(&point.series)).count()
            + self.timers.iter().filter(|point| goes.series(&point.series)).count()
            + self.sets.iter().filter(|point| goes.series(&point.series)).count()
            + kvs.map(|point| point.values.len()).sum::<usize>()
            + self.timestamped.iter().filter(|one| goes.timestamped(one)).count()
            + rest
    }

    fn passing<'a>(&'a self, sink: &'a str, filter: &'a Filter) -> Passing<'a> {
        Passing { sink, filter, overrides: &self.overrides }
    }

    /// The view of a sink, if rules or its filter exclude anything; `None` if it gets everything.
    pub fn for_sink(&self, sink: &str, filter: &Filter) -> Option<Snapshot> {
        if self.is_whole_for(sink, filter) {
            return None;
        }
        let passing = self.passing(sink, filter);
        let goes = |series: &Series| passing.series(series);
        let timestamped = self.timestamped.iter().filter(|one| passing.timestamped(one));
        let mut own = Snapshot {
            sequence: self.sequence,
            part: self.part,
            end: self.end,
            interval_secs: self.interval_secs,
            rate_secs: self.rate_secs,
            counters: self.counters.iter().filter(|point| goes(&point.series)).cloned().collect(),
            gauges: self.gauges.iter().filter(|point| goes(&point.series)).cloned().collect(),
            timers: self.timers.iter().filter(|point| goes(&point.series)).cloned().collect(),
            sets: self.sets.iter().filter(|point| goes(&point.series)).cloned().collect(),
            kvs: self.kvs.iter().filter(|point| goes(&point.series)).cloned().collect(),
            timestamped: timestamped.cloned().collect(),
            events_and_checks: self.events_and_checks.clone(),
            presence: self.presence.clone(),
            deleted: self.deleted.iter().map(|one| one.decorated(&filter.prefix, &filter.tags)).collect(),
            ledger: self.ledger.clone(),
            policy: Arc::clone(&self.policy),
            overrides: self.overrides.clone(),
            stats_prefix: self.stats_prefix.clone(),
            footprint: Footprint::default(),
            delivery: self.delivery.clone(),
        };
        if !filter.is_same() {
            own.rename(|series| series.decorated(&filter.prefix, &filter.tags));
        }
        Some(own)
    }
}
