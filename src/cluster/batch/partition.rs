//! Which partition a series is of, and the points of an interval by partition.

use std::cmp::Ordering;
use std::num::NonZeroU16;

use rapidhash::v3::rapidhash_v3;

use crate::aggregate::rules::NO_RULE;
use crate::aggregate::{EventOrCheck, EventOrCheckBody, Gauge, Levels, Members, Sum, Timer};
use crate::series::Series;
use crate::snapshot::Snapshot;

use super::{KV_VALUES, RecordClass, TAG, VALUE};

/// The partition of a series: the portable rapidhash (v3, default seed) of its kind, its name and its canonical tags, as
/// [`Series::key`] writes them, modulo the number of partitions. That is the same on every platform and part of the format:
/// all edges must agree.
pub fn partition_of(series: &Series, partitions: NonZeroU16) -> u16 {
    remainder(series.key(), partitions)
}

fn remainder(bytes: &[u8], partitions: NonZeroU16) -> u16 {
    (rapidhash_v3(bytes) % u64::from(partitions.get())) as u16
}

/// The partition of an event or a check: those of one title or name, with the same tags, stay together.
fn partition_of_event(event: &EventOrCheck, partitions: NonZeroU16) -> u16 {
    let name = match &event.body {
        EventOrCheckBody::Event { title, .. } => title,
        EventOrCheckBody::ServiceCheck { name, .. } => name,
    };
    let mut bytes = name.as_bytes().to_vec();
    append_tags(event.tags.iter(), &mut bytes);
    remainder(&bytes, partitions)
}

/// Appends tags as they are in a batch.
pub(super) fn append_tags<'a>(tags: impl Iterator<Item = (&'a str, Option<&'a str>)>, out: &mut Vec<u8>) {
    for (key, value) in tags {
        out.push(TAG);
        out.extend_from_slice(key.as_bytes());
        if let Some(value) = value {
            out.push(VALUE);
            out.extend_from_slice(value.as_bytes());
        }
    }
}

/// What a snapshot has for one partition, in the order of a batch.
#[derive(Clone, Debug, Default)]
pub struct Part<'a> {
    pub(super) records: Vec<Record<'a>>,
    pub(super) events_and_checks: Vec<&'a EventOrCheck>,
}

/// A record of a series.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'a> {
    pub(super) series: &'a Series,
    /// The number of its rule, or `NO_RULE`.
    pub(super) rule: u32,
    pub(super) value: Value<'a>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    Counter(&'a Sum),
    Gauge(&'a Gauge),
    Timer(&'a Timer),
    Set(&'a Members),
    Kv(&'a [f64]),
    Timestamped { time: f64, value: f64, rule: u32 },
    Levels(&'a Levels),
}

impl Value<'_> {
    pub(super) fn class(&self) -> RecordClass {
        match self {
            Value::Counter(_) => RecordClass::Counter,
            Value::Gauge(_) => RecordClass::Gauge,
            Value::Timer(_) => RecordClass::Timer,
            Value::Set(_) => RecordClass::Set,
            Value::Kv(_) => RecordClass::Kv,
            Value::Timestamped { .. } => RecordClass::Timestamped,
            Value::Levels(_) => RecordClass::Levels,
        }
    }

    fn time(&self) -> f64 {
        if let Value::Timestamped { time, .. } = self { *time } else { 0.0 }
    }
}

impl Record<'_> {
    fn order(&self, other: &Record<'_>) -> Ordering {
        let by_series = self.series.order(other.series);
        by_series
            .then_with(|| self.value.class().cmp(&other.value.class()))
            .then_with(|| self.value.time().total_cmp(&other.value.time()))
    }
}

/// The points, events and checks of a snapshot by partition: one part for each, in the order of their numbers.
pub fn partition(snapshot: &Snapshot, partitions: NonZeroU16) -> Vec<Part<'_>> {
    let mut parts = vec![Part::default(); usize::from(partitions.get())];
    for record in records(snapshot) {
        parts[usize::from(partition_of(record.series, partitions))].records.push(record);
    }
    for event in &snapshot.events_and_checks {
        parts[usize::from(partition_of_event(event, partitions))].events_and_checks.push(event);
    }
    // A stable sort: what is equal here, such as two records of the same key, stays in order.
    parts.iter_mut().for_each(|part| part.records.sort_by(Record::order));
    parts
}

fn records(snapshot: &Snapshot) -> impl Iterator<Item = Record<'_>> {
    let counters = snapshot.counters.iter().map(|p| (&p.series, Value::Counter(&p.sum)));
    let gauges = snapshot.gauges.iter().map(|p| (&p.series, Value::Gauge(&p.gauge)));
    let timers = snapshot.timers.iter().map(|p| (&p.series, Value::Timer(&p.timer)));
    let sets = snapshot.sets.iter().map(|p| (&p.series, Value::Set(&p.members)));
    let kvs = snapshot.kvs.iter().flat_map(|p| p.values.chunks(KV_VALUES).map(|some| (&p.series, Value::Kv(some))));
    let timestamped = snapshot.timestamped.iter();
    let timestamped =
        timestamped.map(|one| (&one.series, Value::Timestamped { time: one.time, value: one.value, rule: one.rule }));
    let levels = snapshot.overrides.levels.iter().map(|(series, seen)| (series, Value::Levels(seen)));
    let all = counters.chain(gauges).chain(timers).chain(sets).chain(kvs).chain(timestamped).chain(levels);
    let rules = &snapshot.overrides.of;
    all.map(|(series, value)| {
        let rule = match value {
            Value::Timestamped { rule, .. } => rule,
            _ if rules.is_empty() => NO_RULE,
            _ => rules.get(series).copied().unwrap_or(NO_RULE),
        };
        Record { series, rule, value }
    })
}
