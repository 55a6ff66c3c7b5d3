//! Series that are flushed in every so-many-th interval only: what they gathered in the others waits here. A series
//! whose turn comes at every sixth tick is flushed at ticks whose number is a multiple of six, so that daemons agree.

use std::collections::{BTreeMap, HashMap};

use crate::aggregate::TimerPolicy;
use crate::series::Series;
use crate::snapshot::{CounterPoint, GaugePoint, KvPoint, Length, SetPoint, Snapshot, TimerPoint};

use super::Interval;

/// Points that wait for their turn.
#[derive(Debug, Default)]
pub(super) struct MultiInterval {
    counters: HashMap<Series, CounterPoint>,
    gauges: HashMap<Series, GaugePoint>,
    timers: HashMap<Series, TimerPoint>,
    sets: HashMap<Series, SetPoint>,
    kvs: HashMap<Series, KvPoint>,
    /// By pace: how long what waits took so far.
    lengths: BTreeMap<u32, Length>,
    last_beat: u64,
}

impl MultiInterval {
    /// Notes that an interval has ended; which paces have their turn, with their lengths.
    pub(super) fn tick(
        &mut self,
        paces: impl Iterator<Item = u32>,
        interval: &Interval,
        rate_secs: f64,
    ) -> Vec<(u32, Length)> {
        for every in paces.filter(|&every| every > 1) {
            self.lengths.entry(every).or_insert(Length { interval_secs: 0.0, rate_secs: 0.0 });
        }
        let mut due = Vec::new();
        for (&every, length) in &mut self.lengths {
            length.interval_secs += interval.length_secs;
            length.rate_secs += rate_secs;
            // A tick may have been left out, or the clock set back.
            let turn = interval.beat / u64::from(every);
            if interval.is_last || turn != self.last_beat / u64::from(every) {
                due.push((every, *length));
                *length = Length { interval_secs: 0.0, rate_secs: 0.0 };
            }
        }
        self.last_beat = interval.beat;
        due
    }

    /// Takes the points out whose turn it is not, and puts those in whose turn has come.
    pub(super) fn hold(&mut self, snapshot: &mut Snapshot, timers: &TimerPolicy) {
        let overrides = snapshot.overrides.clone();
        let every = |series: &Series| overrides.of(series).map_or(1, |overrides| overrides.every);
        let is_due = |series: &Series| overrides.is_due(every(series));
        let turn = Turn { every: &every, is_due: &is_due };
        turn.take(&mut snapshot.counters, &mut self.counters, |p| &p.series, |held, p| held.sum.merge(p.sum));
        // A gauge is told whole in every interval.
        turn.take(&mut snapshot.gauges, &mut self.gauges, |p| &p.series, |held, p| *held = p);
        turn.take(&mut snapshot.timers, &mut self.timers, |p| &p.series, |held, p| held.timer.merge(&p.timer, timers));
        turn.take(&mut snapshot.sets, &mut self.sets, |p| &p.series, |held, p| held.members.merge(&p.members));
        turn.take(&mut snapshot.kvs, &mut self.kvs, |p| &p.series, |held, p| held.values.extend(p.values));
    }
}

struct Turn<'a> {
    every: &'a dyn Fn(&Series) -> u32,
    is_due: &'a dyn Fn(&Series) -> bool,
}

impl Turn<'_> {
    fn take<P>(
        &self,
        points: &mut Vec<P>,
        held: &mut HashMap<Series, P>,
        series: impl Fn(&P) -> &Series,
        join: impl Fn(&mut P, P),
    ) {
        let (slow, others) = std::mem::take(points).into_iter().partition(|point| (self.every)(series(point)) > 1);
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
