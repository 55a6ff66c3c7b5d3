//! Gauges over intervals: their last value, how long they are re-emitted, and which of several values is flushed.

use std::collections::HashMap;

use crate::aggregate::{Gauge, GaugePolicy, Levels, Partial, Span};
use crate::memory::{footprint, vec_footprint};
use crate::snapshot::{GaugePoint, Snapshot};

use super::registry::{GaugeLife, RegistryOptions, overrides};
use super::series_table::{SeriesTable, Slot, cut};

/// All gauges, by the id of their series.
#[derive(Debug, Default)]
pub(super) struct HeldGauges {
    slots: Vec<Option<HeldGauge>>,
    /// The values of gauges for which more than the last counts, and whether they were flushed.
    spans: HashMap<u32, (Span, bool)>,
}

#[derive(Clone, Copy, Debug)]
struct HeldGauge {
    gauge: Gauge,
    updated: f64,
    flushes_left: u32,
}

impl HeldGauges {
    /// A gauge at the end of the last interval, if it is still held.
    pub(super) fn get(&self, id: u32) -> Option<Gauge> {
        self.slots.get(id as usize)?.as_ref().map(|known| known.gauge)
    }

    /// Bytes that it takes.
    pub(super) fn heap_bytes(&self) -> usize {
        let span = size_of::<(u32, (Span, bool))>() + 1;
        vec_footprint::<Option<HeldGauge>>(self.slots.capacity()) + footprint(self.spans.capacity() / 7 * 8 * span)
    }

    /// Lets the room of ids go that are not in use any more.
    pub(super) fn shrink(&mut self, used: usize) {
        cut(&mut self.slots, used);
        self.spans.shrink_to_fit();
    }

    /// Removes a gauge.
    pub(super) fn forget(&mut self, id: u32) {
        self.spans.remove(&id);
        if let Some(slot) = self.slots.get_mut(id as usize) {
            *slot = None;
        }
    }

    /// Merges the updates of all shards, and emits the gauges that are held.
    pub(super) fn emit(
        &mut self,
        table: &mut SeriesTable,
        partials: &mut [Partial],
        options: &RegistryOptions,
        now: f64,
        snapshot: &mut Snapshot,
    ) {
        let life = options.gauge_life;
        let flushes_left = match life {
            GaugeLife::Flushes(n) => n.max(1),
            GaugeLife::Forever | GaugeLife::Secs(_) => 1,
        };
        let mut fresh: Vec<(u32, Gauge)> = Vec::new();
        for (shard, partial) in partials.iter_mut().enumerate() {
            partial.columns.gauges.drain(|id, gauge: Gauge| match table.slot(shard, id, now, fresh.len()) {
                Slot::Taken(at) => fresh[at].1.merge(&gauge),
                Slot::New(_) => fresh.push((table.id_of(shard, id), gauge)),
            });
        }
        let mut levels: HashMap<u32, Levels> = HashMap::new();
        for (shard, partial) in partials.iter_mut().enumerate() {
            partial
                .columns
                .levels
                .drain(|id, seen: Levels| levels.entry(table.id_of(shard, id)).or_default().merge(&seen));
        }
        let slots = &mut self.slots;
        for (id, gauge) in fresh {
            let n = id as usize;
            if slots.len() <= n {
                slots.resize(n + 1, None);
            }
            if let Some(seen) = levels.get(&id) {
                let base = slots[n].map_or(0.0, |known| known.gauge.value());
                let (span, was_flushed) = self.spans.entry(id).or_default();
                if std::mem::take(was_flushed) {
                    *span = Span::default();
                }
                span.merge(&seen.resolved(base));
            }
            match &mut slots[n] {
                Some(known) => {
                    known.gauge.then(&gauge);
                    (known.updated, known.flushes_left) = (now, flushes_left);
                }
                none => *none = Some(HeldGauge { gauge, updated: now, flushes_left }),
            }
        }
        for (id, slot) in self.slots.iter_mut().enumerate() {
            let Some(known) = slot else { continue };
            let own = overrides(options, table.rule_of(id as u32));
            let life = match own.and_then(|own| own.ttl) {
                Some(Some(ttl)) => GaugeLife::Secs(ttl),
                Some(None) => GaugeLife::Forever,
                None => life,
            };
            if matches!(life, GaugeLife::Secs(ttl) if now - known.updated >= ttl) {
                *slot = None;
                self.spans.remove(&(id as u32));
                continue;
            }
            let mut gauge = known.gauge;
            if let Some(own) = own
                && let Some((span, was_flushed)) = self.spans.get_mut(&(id as u32))
            {
                // Without updates in an interval a gauge keeps its last value; a sum stays what it was.
                let is_idle = std::mem::replace(was_flushed, snapshot.overrides.is_due(own.every));
                let value = span.value(own.gauge).filter(|_| !is_idle || own.gauge == GaugePolicy::Sum);
                gauge = value.map_or(gauge, |value| Gauge::absolute(value, known.updated));
            }
            snapshot.gauges.push(GaugePoint { series: table.shown(id as u32), gauge });
            if matches!(life, GaugeLife::Flushes(_)) {
                known.flushes_left -= 1;
                if known.flushes_left == 0 {
                    *slot = None;
                }
            }
        }
    }
}
