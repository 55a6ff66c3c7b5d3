//! Finds chosen series in an interval, whose points have no order. A series mostly lies where it lay in the interval before;
//! for those that do not, all points are looked through, once for all clients.

use std::collections::{HashMap, HashSet};

use crate::protocol::Kind;
use crate::series::Series;
use crate::snapshot::{Point, Snapshot};

/// Lengths of keys that are told apart; longer ones are one.
const LENGTHS: usize = 1024;

/// Where series lay in the last interval that had them: the index of the point among those of its kind.
#[derive(Debug, Default)]
pub(super) struct Lookup {
    places: HashMap<Series, usize>,
    #[cfg(test)]
    passes: usize,
}

/// The point of a kind at an index.
pub(super) fn point_at(snapshot: &Snapshot, kind: Kind, at: usize) -> Option<Point<'_>> {
    match kind {
        Kind::Counter | Kind::Meter => snapshot.counters.get(at).map(Point::Counter),
        Kind::Gauge => snapshot.gauges.get(at).map(Point::Gauge),
        Kind::Timer | Kind::Histogram | Kind::Distribution => snapshot.timers.get(at).map(Point::Timer),
        Kind::Set => snapshot.sets.get(at).map(Point::Set),
        Kind::Kv => snapshot.kvs.get(at).map(Point::Kv),
    }
}

impl Lookup {
    /// Where these series are in an interval; those that it does not have are left out.
    pub(super) fn find<'w>(
        &mut self,
        snapshot: &Snapshot,
        wanted: impl Iterator<Item = &'w Series>,
    ) -> HashMap<&'w Series, usize> {
        let wanted: HashSet<&Series> = wanted.collect();
        self.places.retain(|series, _| wanted.contains(series));
        let mut found = HashMap::with_capacity(wanted.len());
        let mut missing: HashMap<&[u8], &Series> = HashMap::new();
        for series in wanted {
            let place = self.places.get(series).copied();
            let point = place.and_then(|at| Some((at, point_at(snapshot, series.kind(), at)?)));
            match point.filter(|(_, point)| point.series() == series) {
                Some((at, _)) => drop(found.insert(series, at)),
                None => drop(missing.insert(series.key(), series)),
            }
        }
        if !missing.is_empty() {
            self.look_through(snapshot, &missing, &mut found);
        }
        found
    }

    fn look_through<'w>(
        &mut self,
        snapshot: &Snapshot,
        missing: &HashMap<&[u8], &'w Series>,
        found: &mut HashMap<&'w Series, usize>,
    ) {
        #[cfg(test)]
        {
            self.passes += 1;
        }
        // Most keys differ in their lengths already, which costs no hash.
        let mut lengths = [false; LENGTHS];
        missing.keys().for_each(|key| lengths[key.len().min(LENGTHS - 1)] = true);
        let mut left = missing.len();
        let all = [
            snapshot.counters.len(),
            snapshot.gauges.len(),
            snapshot.timers.len(),
            snapshot.sets.len(),
            snapshot.kvs.len(),
        ];
        let kinds = [Kind::Counter, Kind::Gauge, Kind::Timer, Kind::Set, Kind::Kv];
        for (kind, count) in kinds.into_iter().zip(all) {
            for at in 0..count {
                let Some(point) = point_at(snapshot, kind, at) else { break };
                let key = point.series().key();
                if !lengths[key.len().min(LENGTHS - 1)] {
                    continue;
                }
                if let Some(series) = missing.get(key) {
                    found.insert(series, at);
                    self.places.insert((*series).clone(), at);
                    left -= 1;
                    if left == 0 {
                        return;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::{Gauge, Timer};
    use crate::snapshot::{CounterPoint, GaugePoint, TimerPoint};

    #[test]
    fn series_are_found_where_they_were_or_wherever_they_are() {
        let series = |kind, name: &str| Series::new(kind, name, &[]);
        let interval = |names: &[&str]| Snapshot {
            counters: names
                .iter()
                .map(|name| CounterPoint { series: series(Kind::Counter, name), sum: Default::default() })
                .collect(),
            gauges: vec![GaugePoint { series: series(Kind::Gauge, "a"), gauge: Gauge::absolute(1.0, 0.0) }],
            timers: vec![TimerPoint { series: series(Kind::Histogram, "t"), timer: Timer::default() }],
            ..Snapshot::default()
        };
        let wanted = [
            series(Kind::Counter, "a"),
            series(Kind::Counter, "gone"),
            series(Kind::Gauge, "a"),
            series(Kind::Histogram, "t"),
            series(Kind::Timer, "t"),
        ];
        let mut lookup = Lookup::default();
        let mut find = |names: &[&str], wanted: &[Series]| {
            let snapshot = interval(names);
            let found = lookup.find(&snapshot, wanted.iter());
            for (series, at) in &found {
                assert_eq!(point_at(&snapshot, series.kind(), *at).map(Point::series), Some(*series));
            }
            (found.len(), lookup.passes)
        };
        assert_eq!(find(&["b", "a"], &wanted), (3, 1));
        // One that is not there makes the others be looked for no more than once.
        assert_eq!(find(&["b", "a"], &[wanted[0].clone(), wanted[2].clone(), wanted[3].clone()]), (3, 1));
        assert_eq!(find(&["a", "b", "c"], &wanted[..1]), (1, 2));
        assert_eq!(find(&["a", "b"], &wanted[..1]), (1, 2));
        assert_eq!(find(&[], &wanted[..1]), (0, 3));
    }
}
