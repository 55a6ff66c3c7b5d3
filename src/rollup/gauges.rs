//! Gauges over intervals: their last value, how long they are re-emitted, and which of several values is flushed.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::aggregate::{Gauge, GaugePolicy, Levels, Partial, SeriesOverrides, Span};
use crate::memory::{footprint, vec_footprint};
use crate::snapshot::{GaugePoint, Snapshot};

use super::own_shard::OwnShard;
use super::registry::{GaugeLife, RegistryOptions, overrides};
use super::series_table::{SeriesTable, Slot, cut};

/// All gauges, by the id of their series.
#[derive(Debug, Default)]
pub(super) struct HeldGauges {
    slots: Vec<Option<HeldGauge>>,
    /// The values of gauges for which more than the last counts, and whether they were flushed.
    spans: HashMap<u32, HeldSpan>,
}

/// A gauge over intervals. Its times are in any unit, the same in all calls.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct HeldGauge {
    gauge: Gauge,
    updated: f64,
    flushes_left: u32,
}

impl HeldGauge {
    /// Its value at the end of the last interval.
    pub(crate) fn value(&self) -> f64 {
        self.gauge.value()
    }

    /// Appends an interval that updated a gauge, which may not have been there.
    pub(crate) fn update(known: &mut Option<HeldGauge>, next: &Gauge, life: GaugeLife, now: f64) {
        let flushes_left = match life {
            GaugeLife::Flushes(n) => n.max(1),
            GaugeLife::Forever | GaugeLife::Secs(_) => 1,
        };
        let gauge = known.map_or(*next, |known| {
            let mut gauge = known.gauge;
            gauge.then(next);
            gauge
        });
        *known = Some(HeldGauge { gauge, updated: now, flushes_left });
    }

    /// The same with times that are later by so many seconds.
    #[must_use]
    pub(super) fn shifted(self, by: f64) -> HeldGauge {
        HeldGauge { updated: self.updated + by, ..self }
    }

    /// When it was updated last.
    pub(crate) fn updated(&self) -> f64 {
        self.updated
    }

    /// What it is in this interval; `None` if its time is over.
    pub(crate) fn emit(&mut self, life: GaugeLife, now: f64) -> Option<Gauge> {
        let is_over = match life {
            GaugeLife::Secs(ttl) => now - self.updated >= ttl,
            GaugeLife::Flushes(_) => self.flushes_left == 0,
            GaugeLife::Forever => false,
        };
        self.flushes_left = self.flushes_left.saturating_sub(1);
        (!is_over).then_some(self.gauge)
    }

    /// Whether it stays when it was emitted.
    pub(crate) fn stays(&self, life: GaugeLife) -> bool {
        !matches!(life, GaugeLife::Flushes(_)) || self.flushes_left > 0
    }
}

/// The values of a gauge for which more than the last counts, and whether they were flushed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct HeldSpan {
    span: Span,
    was_flushed: bool,
}

impl HeldSpan {
    /// Adds the values of an interval, at whose start the gauge was `base`.
    pub(crate) fn add(&mut self, seen: &Levels, base: f64) {
        if std::mem::take(&mut self.was_flushed) {
            self.span = Span::default();
        }
        self.span.merge(&seen.resolved(base));
    }

    /// What is flushed in place of the last value. Without updates in an interval a gauge keeps its last value; a sum stays
    /// what it was.
    pub(crate) fn value(&mut self, policy: GaugePolicy, is_due: bool) -> Option<f64> {
        let is_idle = std::mem::replace(&mut self.was_flushed, is_due);
        self.span.value(policy).filter(|_| !is_idle || policy == GaugePolicy::Sum)
    }
}

/// How long a gauge is re-emitted, by its rule or as all are.
pub(crate) fn life_of(own: Option<&SeriesOverrides>, life: GaugeLife) -> GaugeLife {
    match own.and_then(|own| own.ttl) {
        Some(Some(ttl)) => GaugeLife::Secs(ttl),
        Some(None) => GaugeLife::Forever,
        None => life,
    }
}

impl HeldGauges {
    /// A gauge at the end of the last interval, if it is still held.
    pub(super) fn get(&self, id: u32) -> Option<Gauge> {
        self.slots.get(id as usize)?.as_ref().map(|known| known.gauge)
    }

    /// All gauges that are held: id, state, and the values for which more than the last counts.
    pub(super) fn all(&self) -> impl Iterator<Item = (u32, HeldGauge, Option<HeldSpan>)> {
        let held = (0..).zip(&self.slots).filter_map(|(id, slot)| Some((id, (*slot)?)));
        held.map(|(id, held)| (id, held, self.spans.get(&id).copied()))
    }

    /// Puts back what a gauge was before it was updated here, if it was.
    pub(super) fn restore(&mut self, id: u32, earlier: HeldGauge, span: Option<HeldSpan>) {
        let n = id as usize;
        if self.slots.len() <= n {
            self.slots.resize(n + 1, None);
        }
        match &mut self.slots[n] {
            Some(known) => {
                let later = known.gauge;
                known.gauge = earlier.gauge;
                known.gauge.then(&later);
            }
            slot => {
                *slot = Some(earlier);
                self.spans.extend(span.map(|span| (id, span)));
            }
        }
    }

    /// Bytes that it takes.
    pub(super) fn heap_bytes(&self) -> usize {
        let span = size_of::<(u32, HeldSpan)>() + 1;
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
        own: &mut OwnShard,
        partials: &mut [Partial],
        options: &RegistryOptions,
        now: f64,
        snapshot: &mut Snapshot,
    ) {
        let (updates, levels) = collect(table, own, partials, now);
        for (id, gauge) in updates {
            let n = id as usize;
            if self.slots.len() <= n {
                self.slots.resize(n + 1, None);
            }
            let slot = &mut self.slots[n];
            if let Some(seen) = levels.get(&id) {
                self.spans.entry(id).or_default().add(seen, slot.map_or(0.0, |known| known.value()));
            }
            HeldGauge::update(slot, &gauge, options.gauge_life, now);
        }
        for (id, slot) in (0..).zip(&mut self.slots) {
            let Some(known) = slot else { continue };
            let own = overrides(options, table.rule_of(id));
            let life = life_of(own, options.gauge_life);
            let Some(mut gauge) = known.emit(life, now) else {
                *slot = None;
                self.spans.remove(&id);
                continue;
            };
            if let Some(own) = own
                && let Some(span) = self.spans.get_mut(&id)
                && let Some(value) = span.value(own.gauge, snapshot.overrides.is_due(own.every))
            {
                gauge = Gauge::absolute(value, known.updated());
            }
            snapshot.gauges.push(GaugePoint { series: table.shown(id), gauge });
            if !known.stays(life) {
                *slot = None;
            }
        }
    }
}

/// The updates of all shards, by the id of their series, and the values of gauges of which more than the last counts. What was
/// taken out of the interval before its end comes before the rest.
fn collect(
    table: &mut SeriesTable,
    own: &mut OwnShard,
    partials: &mut [Partial],
    now: f64,
) -> (Vec<(u32, Gauge)>, HashMap<u32, Levels>) {
    let mut updates: Vec<(u32, Gauge)> = Vec::new();
    for (shard, partial) in partials.iter_mut().enumerate() {
        partial.columns.gauges.drain(|id, gauge: Gauge| match table.slot(shard, id, now, updates.len()) {
            Slot::Taken(at) => updates[at].1.merge(&gauge),
            Slot::New(_) => updates.push((table.id_of(shard, id), gauge)),
        });
    }
    let mut levels: HashMap<u32, Levels> = HashMap::new();
    for (shard, partial) in partials.iter_mut().enumerate() {
        partial.columns.levels.drain(|id, seen: Levels| levels.entry(table.id_of(shard, id)).or_default().merge(&seen));
    }
    let (shard, columns) = (table.own_shard(), &mut own.partial.columns);
    let mut earlier_levels: HashMap<u32, Levels> = HashMap::new();
    columns.levels.drain(|id, seen: Levels| _ = earlier_levels.insert(id, seen));
    columns.gauges.drain(|id, earlier: Gauge| {
        let seen = earlier_levels.remove(&id);
        match table.slot(shard, id, now, updates.len()) {
            Slot::Taken(at) => {
                let later = &mut updates[at].1;
                if seen.is_some() || levels.contains_key(&id) {
                    let mut seen = seen.unwrap_or_default();
                    seen.then(&levels.remove(&id).unwrap_or_default(), &earlier);
                    levels.insert(id, seen);
                }
                let mut whole = earlier;
                whole.then(later);
                *later = whole;
            }
            Slot::New(_) => {
                updates.push((id, earlier));
                levels.extend(seen.map(|seen| (id, seen)));
            }
        }
    });
    (updates, levels)
}

/// Emits the updates of all shards alone.
pub(super) fn emit_updates(
    table: &mut SeriesTable,
    own: &mut OwnShard,
    partials: &mut [Partial],
    now: f64,
    snapshot: &mut Snapshot,
) {
    let (updates, levels) = collect(table, own, partials, now);
    snapshot.gauges.extend(updates.into_iter().map(|(id, gauge)| GaugePoint { series: table.shown(id), gauge }));
    snapshot.overrides.levels.extend(levels.into_iter().map(|(id, seen)| (table.shown(id), seen)));
}
