//! Merges snapshots of one interval: counters and histograms add, sets unite, gauges merge by the order of
//! [`crate::aggregate::Gauge`]. The result does not depend on the order and the groups in which the parts are merged, except
//! for the order of points, events and key-value pairs, and for the last bits of counters and gauges.

use std::collections::HashMap;
use std::sync::Arc;

use crate::aggregate::TimestampedSample;
use crate::protocol::Kind;
use crate::series::Series;
use crate::telemetry::Ledger;

use super::{CounterPoint, GaugePoint, KvPoint, SetPoint, Snapshot, TimerPoint};

/// Merges snapshots of the same interval. Times, `rate_secs` and the policy are those of the first.
pub fn merge(parts: &[&Snapshot]) -> Snapshot {
    let Some(first) = parts.first() else {
        return Snapshot::default();
    };
    let mut merged = Snapshot {
        sequence: first.sequence,
        end: first.end,
        interval_secs: first.interval_secs,
        rate_secs: first.rate_secs,
        policy: Arc::clone(&first.policy),
        stats_prefix: first.stats_prefix.clone(),
        ledger: Ledger { completeness: 1.0, ..Ledger::default() },
        ..Snapshot::default()
    };
    merged.counters =
        unite(parts, |p| &p.counters, |p| &p.series, |ours: &mut CounterPoint, theirs| ours.sum.merge(theirs.sum));
    merged.gauges =
        unite(parts, |p| &p.gauges, |p| &p.series, |ours: &mut GaugePoint, theirs| ours.gauge.merge(&theirs.gauge));
    merged.sets =
        unite(parts, |p| &p.sets, |p| &p.series, |ours: &mut SetPoint, theirs| ours.members.merge(&theirs.members));
    merged.kvs =
        unite(parts, |p| &p.kvs, |p| &p.series, |ours: &mut KvPoint, theirs| ours.values.extend(&theirs.values));
    parts.iter().for_each(|part| merged.overrides.unite(&part.overrides));
    let (timers, overrides) = (first.policy.timers, &merged.overrides);
    merged.timers = unite(
        parts,
        |p| &p.timers,
        |p| &p.series,
        |ours: &mut TimerPoint, theirs| {
            ours.timer.merge(&theirs.timer, &timers.of(overrides.of(&ours.series)));
        },
    );
    // Merged exact samples stand in the order of the parts.
    merged.timers.iter_mut().for_each(|point| point.timer.sort());
    for part in parts {
        merged.timestamped.extend(part.timestamped.iter().cloned());
        merged.events_and_checks.extend(part.events_and_checks.iter().cloned());
        merged.presence.extend(part.presence.iter().cloned());
        merged.deleted.extend(part.deleted.iter().cloned());
        let listeners = std::mem::take(&mut merged.ledger.listeners);
        merged.ledger.add(&Ledger { listeners: Vec::new(), sinks: Default::default(), ..part.ledger.clone() });
        merged.ledger.listeners = listeners;
        merged.ledger.listeners.extend(part.ledger.listeners.iter().cloned());
    }
    merge_timestamped(&mut merged.timestamped);
    merged.ledger.update_completeness();
    merged.ledger.series = merged.count_series();
    merged
}

/// Joins two consecutive snapshots: of gauges the later wins, everything else is merged, and the lengths are added.
pub fn follow(before: Snapshot, after: &Snapshot) -> Snapshot {
    let before = before.without(&after.deleted);
    let mut whole = merge(&[&before, after]);
    whole.gauges =
        unite(&[&before, after], |p| &p.gauges, |p| &p.series, |ours: &mut GaugePoint, theirs| *ours = theirs.clone());
    (whole.sequence, whole.end) = (after.sequence, after.end);
    whole.interval_secs = before.interval_secs + after.interval_secs;
    whole.rate_secs = before.rate_secs + after.rate_secs;
    whole.overrides.add_lengths(&after.overrides);
    whole.ledger = before.ledger;
    whole.ledger.add(&after.ledger);
    whole.ledger.sinks.clone_from(&after.ledger.sinks);
    whole
}

/// One value per series and second: counters add up, of gauges the last one wins.
pub(crate) fn merge_timestamped(timestamped: &mut Vec<TimestampedSample>) {
    // The sort is stable, so later samples stay later.
    timestamped.sort_by(|a, b| a.series.order(&b.series).then(a.time.total_cmp(&b.time)));
    timestamped.dedup_by(|later, first| {
        let is_same = later.time == first.time && later.series == first.series;
        if is_same {
            first.value = match later.series.kind() {
                Kind::Gauge => later.value,
                _ => (first.value + later.value).clamp(f64::MIN, f64::MAX),
            };
        }
        is_same
    });
}

fn unite<'a, P: Clone + 'a>(
    parts: &[&'a Snapshot],
    points: impl Fn(&'a Snapshot) -> &'a Vec<P>,
    series: impl Fn(&P) -> &Series,
    join: impl Fn(&mut P, &P),
) -> Vec<P> {
    let mut at: HashMap<Series, usize> = HashMap::new();
    let mut united: Vec<P> = Vec::new();
    for part in parts {
        for point in points(part) {
            match at.get(series(point)) {
                Some(&n) => join(&mut united[n], point),
                None => {
                    at.insert(series(point).clone(), united.len());
                    united.push(point.clone());
                }
            }
        }
    }
    united
}
