//! Series that are flushed only in every n-th interval: their points of the others are kept here. A series with n = 6 is
//! flushed at ticks whose number is a multiple of six, so that all daemons flush it at the same ticks.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::aggregate::TimerPolicy;
use crate::aggregate::rules::NO_RULE;
use crate::series::{Series, by_series};
use crate::snapshot::{CounterPoint, GaugePoint, KvPoint, Length, SetPoint, Snapshot, TimerPoint, ends_interval};

use super::Interval;

/// Points that are not due yet.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct MultiInterval {
    #[serde(serialize_with = "by_series")]
    counters: HashMap<Series, CounterPoint>,
    #[serde(serialize_with = "by_series")]
    gauges: HashMap<Series, GaugePoint>,
    #[serde(serialize_with = "by_series")]
    timers: HashMap<Series, TimerPoint>,
    #[serde(serialize_with = "by_series")]
    sets: HashMap<Series, SetPoint>,
    #[serde(serialize_with = "by_series")]
    kvs: HashMap<Series, KvPoint>,
    /// The rules of series that have points here: the series may leave before these are due.
    #[serde(serialize_with = "by_series")]
    rules: HashMap<Series, u32>,
    /// For each n, the length of the kept intervals so far.
    lengths: BTreeMap<u32, Length>,
    last_tick: u64,
    /// Some points have no rule any more: they go with what else there is of their series.
    #[serde(skip)]
    has_orphans: bool,
}

impl MultiInterval {
    /// Rules of points that are not due yet.
    pub(super) fn used_rules(&self) -> impl Iterator<Item = u32> + '_ {
        self.rules.values().copied()
    }

    /// Records the end of an interval; returns each n that is due, with its length.
    pub(crate) fn tick(
        &mut self,
        periods: impl Iterator<Item = u32>,
        interval: &Interval,
        rate_secs: f64,
    ) -> Vec<(u32, Length)> {
        for every in periods.filter(|&every| every > 1) {
            self.lengths.entry(every).or_insert(Length { interval_secs: 0.0, rate_secs: 0.0 });
        }
        let mut due = Vec::new();
        for (&every, length) in &mut self.lengths {
            length.interval_secs += interval.length_secs;
            length.rate_secs += rate_secs;
            if interval.is_last || ends_interval(every, self.last_tick, interval.tick) {
                due.push((every, *length));
                *length = Length { interval_secs: 0.0, rate_secs: 0.0 };
            }
        }
        self.last_tick = interval.tick;
        due
    }

    /// Points that wait.
    pub(super) fn len(&self) -> usize {
        self.counters.len() + self.gauges.len() + self.timers.len() + self.sets.len() + self.kvs.len()
    }

    /// Whether points have no rule any more, and so go with the next interval.
    pub(super) fn has_orphans(&self) -> bool {
        self.has_orphans
    }

    /// Gives the points other numbers of rules; those without one go with the next interval.
    pub(super) fn renumber(&mut self, number: impl Fn(&Series, u32) -> Option<u32>) {
        let known = std::mem::take(&mut self.rules);
        self.rules = known
            .into_iter()
            .filter_map(|(series, rule)| {
                let rule = number(&series, rule)?;
                Some((series, rule))
            })
            .collect();
        self.has_orphans = true;
    }

    /// Drops what belongs to intervals that ended with the tick `closed` or before: it was flushed.
    pub(super) fn drop_closed(&mut self, closed: u64, every: impl Fn(u32) -> u32) {
        let last = self.last_tick;
        if closed <= last {
            return;
        }
        let is_open = |every: u32| !ends_interval(every, last, closed);
        let rules = &self.rules;
        let stays = |series: &Series| is_open(rules.get(series).map_or(1, |&rule| every(rule)));
        self.counters.retain(|series, _| stays(series));
        self.gauges.retain(|series, _| stays(series));
        self.timers.retain(|series, _| stays(series));
        self.sets.retain(|series, _| stays(series));
        self.kvs.retain(|series, _| stays(series));
        self.lengths.retain(|every, _| is_open(*every));
        self.last_tick = closed;
    }

    /// Puts earlier points before those that are here.
    pub(super) fn restore(&mut self, earlier: MultiInterval, policy: impl Fn(u32) -> TimerPolicy) {
        let later = std::mem::replace(self, earlier);
        let rules = self.rules.clone();
        join(&mut self.counters, later.counters, |known, point| known.sum.merge(point.sum));
        join(&mut self.gauges, later.gauges, |known, point| *known = point);
        join(&mut self.timers, later.timers, |known, point| {
            let policy = policy(rules.get(&known.series).copied().unwrap_or(NO_RULE));
            known.timer.merge(&point.timer, &policy);
        });
        join(&mut self.sets, later.sets, |known, point| known.members.merge(&point.members));
        join(&mut self.kvs, later.kvs, |known, point| known.values.extend(point.values));
        self.rules.extend(later.rules);
        for (every, later) in later.lengths {
            let length = self.lengths.entry(every).or_insert(Length { interval_secs: 0.0, rate_secs: 0.0 });
            length.interval_secs += later.interval_secs;
            length.rate_secs += later.rate_secs;
        }
        self.last_tick = self.last_tick.max(later.last_tick);
        self.has_orphans |= later.has_orphans;
    }

    /// Takes the points that are not due out of a snapshot, and adds the kept ones that are.
    pub(crate) fn hold(&mut self, snapshot: &mut Snapshot, timers: &TimerPolicy) {
        if self.rules.keys().any(|series| !snapshot.overrides.of.contains_key(series)) {
            let of = Arc::make_mut(&mut snapshot.overrides.of);
            self.rules.iter().for_each(|(series, rule)| _ = of.entry(series.clone()).or_insert(*rule));
        }
        let overrides = snapshot.overrides.clone();
        let every = |series: &Series| overrides.of(series).map_or(1, |overrides| overrides.every);
        let is_due = |series: &Series| overrides.is_due(every(series));
        let takes_all = std::mem::take(&mut self.has_orphans);
        let turn = Turn { every: &every, is_due: &is_due, takes_all };
        turn.take(&mut snapshot.counters, &mut self.counters, |p| &p.series, |held, p| held.sum.merge(p.sum));
        // A gauge's value is complete in every interval.
        turn.take(&mut snapshot.gauges, &mut self.gauges, |p| &p.series, |held, p| *held = p);
        let policy = |series: &Series| timers.of(overrides.of(series));
        let merge = |held: &mut TimerPoint, p: TimerPoint| held.timer.merge(&p.timer, &policy(&held.series));
        turn.take(&mut snapshot.timers, &mut self.timers, |p| &p.series, merge);
        snapshot.timers.iter_mut().filter(|p| every(&p.series) > 1).for_each(|p| p.timer.sort());
        turn.take(&mut snapshot.sets, &mut self.sets, |p| &p.series, |held, p| held.members.merge(&p.members));
        turn.take(&mut snapshot.kvs, &mut self.kvs, |p| &p.series, |held, p| held.values.extend(p.values));
        let held = self.counters.keys().chain(self.gauges.keys()).chain(self.timers.keys());
        let held = held.chain(self.sets.keys()).chain(self.kvs.keys());
        self.rules = held.filter_map(|series| Some((series.clone(), *overrides.of.get(series)?))).collect();
    }
}

/// Appends later points to earlier ones.
fn join<P>(earlier: &mut HashMap<Series, P>, later: HashMap<Series, P>, join: impl Fn(&mut P, P)) {
    for (series, point) in later {
        match earlier.get_mut(&series) {
            Some(known) => join(known, point),
            None => _ = earlier.insert(series, point),
        }
    }
}

struct Turn<'a> {
    every: &'a dyn Fn(&Series) -> u32,
    is_due: &'a dyn Fn(&Series) -> bool,
    /// Takes points of other series as well if some are held.
    takes_all: bool,
}

impl Turn<'_> {
    fn take<P>(
        &self,
        points: &mut Vec<P>,
        held: &mut HashMap<Series, P>,
        series: impl Fn(&P) -> &Series,
        join: impl Fn(&mut P, P),
    ) {
        let (slow, others) = std::mem::take(points)
            .into_iter()
            .partition(|point| (self.every)(series(point)) > 1 || (self.takes_all && held.contains_key(series(point))));
        *points = others;
        let slow: Vec<P> = slow;
        for point in slow {
            match held.get_mut(series(&point)) {
                Some(known) => join(known, point),
                None => {
                    held.insert(series(&point).clone(), point);
                }
            }
        }
        points.extend(held.extract_if(|series, _| (self.is_due)(series)).map(|(_, point)| point));
    }
}
