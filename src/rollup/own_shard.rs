//! The registry's own shard: no worker feeds it. It holds the series of what was restored, until a worker has them or their time
//! is over, and values of the open interval that were taken out of the workers before its end, or came from another process.
//! Its ids are those of the series table.

use std::collections::HashMap;

use crate::aggregate::{Class, Gauge, Levels, Members, Partial, Sum, Timer, TimestampedSample};
use crate::telemetry::Ledger;

use super::registry::{Registry, overrides};

/// What was taken out of the open interval before its end.
#[derive(Debug)]
pub(super) struct OwnShard {
    /// Its number among the shards: it is the last.
    number: usize,
    pub(super) partial: Partial,
    /// What another process has counted of the interval.
    pub(super) ledger: Ledger,
    /// The last totals of counters that are sent as totals, by id.
    pub(super) totals: HashMap<u32, f64>,
}

impl OwnShard {
    /// An empty one after so many others.
    pub(super) fn new(number: usize) -> OwnShard {
        OwnShard { number, partial: Partial::default(), ledger: Ledger::default(), totals: HashMap::new() }
    }

    /// There are so many others now.
    pub(super) fn set_number(&mut self, number: usize) {
        self.number = number;
    }

    /// Its partial, and after it those of the other shards, each with the number of its shard.
    pub(super) fn before<'p>(
        &'p mut self,
        partials: &'p mut [Partial],
    ) -> impl Iterator<Item = (usize, &'p mut Partial)> {
        std::iter::once((self.number, &mut self.partial)).chain(partials.iter_mut().enumerate())
    }

    /// Bytes of its values.
    pub(super) fn heap_bytes(&self) -> usize {
        self.partial.columns.page_bytes()
    }
}

impl Registry {
    /// Takes in a part of the open interval, one partial of each shard in order, as [`crate::aggregate::Shard::cut`] gives
    /// it. It comes before what the shards have when the interval is closed. Tallies are not taken in: they are whole then.
    pub fn absorb(&mut self, partials: &mut [Partial]) {
        for (shard, partial) in partials.iter_mut().enumerate() {
            self.register_series(shard, partial);
            self.own.partial.events_and_checks.append(&mut partial.events_and_checks);
            let stamped: Vec<TimestampedSample> = std::mem::take(&mut partial.timestamped);
            self.own.partial.timestamped.extend(stamped);
        }
        self.note_totals(partials);
        let Registry { tables, own, options, .. } = self;
        let policy = options.summary.timers;
        let columns = &mut own.partial.columns;
        let [counters, gauges, timers, sets, kvs] = tables;
        let mut updates: HashMap<u32, (Gauge, Levels)> = HashMap::new();
        for (shard, partial) in partials.iter_mut().enumerate() {
            let part = &mut partial.columns;
            part.counters.drain(|local, sum: Sum| {
                let id = counters.id_of(shard, local);
                counters.own(id);
                columns.counters.touch(id).merge(sum);
            });
            part.gauges.drain(|local, gauge: Gauge| {
                updates.entry(gauges.id_of(shard, local)).or_default().0.merge(&gauge);
            });
            part.levels.drain(|local, seen: Levels| {
                updates.entry(gauges.id_of(shard, local)).or_default().1.merge(&seen);
            });
            part.timers.drain(|local, timer: Timer| {
                let id = timers.id_of(shard, local);
                timers.own(id);
                let own = overrides(options, timers.rule_of(id));
                columns.timers.touch(id).merge(&timer, &policy.of(own));
            });
            part.sets.drain(|local, members: Members| {
                let id = sets.id_of(shard, local);
                sets.own(id);
                columns.sets.touch(id).merge(&members);
            });
            part.kvs.drain(|local, values: Vec<f64>| {
                let id = kvs.id_of(shard, local);
                kvs.own(id);
                columns.kvs.touch(id).extend(values);
            });
        }
        for (id, (gauge, seen)) in updates {
            gauges.own(id);
            let is_first = !columns.gauges.is_touched(id);
            let whole = columns.gauges.touch(id);
            if seen != Levels::default() || columns.levels.is_touched(id) {
                columns.levels.touch(id).then(&seen, whole);
            }
            if is_first { *whole = gauge } else { whole.then(&gauge) }
        }
    }

    /// Notes the last totals of counters, and takes back what was counted of those that another process had the total of.
    pub(super) fn note_totals(&mut self, partials: &mut [Partial]) {
        let Registry { tables, own, .. } = self;
        let table = &mut tables[Class::Counter as usize];
        for (shard, partial) in partials.iter_mut().enumerate() {
            for (local, first) in std::mem::take(&mut partial.first_totals) {
                let Some(id) = table.held_id(shard, local) else { continue };
                // A total that is smaller is that of a counter which began anew.
                if let Some(before) = own.totals.remove(&id).filter(|before| *before <= first) {
                    table.own(id);
                    own.partial.columns.counters.touch(id).add(-before);
                }
            }
            for (local, total) in std::mem::take(&mut partial.totals) {
                let Some(id) = table.held_id(shard, local) else { continue };
                own.totals.insert(id, total);
            }
        }
    }
}
