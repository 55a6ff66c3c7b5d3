//! Emissions of partitions on their way to the sinks. Those of one interval go together, as far as they are there: a sink gets
//! one interval of this node, and not one for each partition.

use std::collections::BTreeMap;

use crate::cluster::{Emission, Interval, IntervalContent, Position};

/// Intervals that are on their way.
#[derive(Debug)]
pub(super) struct Emissions {
    /// Those of an interval wait for those of other partitions for so long.
    gather_secs: f64,
    gathering: BTreeMap<(Interval, u32), Group>,
}

/// Emissions of one version of an interval.
#[derive(Debug)]
pub(super) struct Group {
    since: f64,
    pub(super) positions: Vec<Position>,
    pub(super) emissions: Vec<Emission<IntervalContent>>,
}

impl Emissions {
    pub(super) fn new(gather_secs: f64) -> Emissions {
        Emissions { gather_secs, gathering: BTreeMap::new() }
    }

    pub(super) fn add(&mut self, at: Position, emission: Emission<IntervalContent>, now: f64) {
        let key = (emission.interval, emission.version);
        let new = || Group { since: now, positions: Vec::new(), emissions: Vec::new() };
        let group = self.gathering.entry(key).or_insert_with(new);
        group.positions.push(at);
        group.emissions.push(emission);
    }

    /// The first group that has all of so many partitions, or has waited for long enough.
    pub(super) fn next(&mut self, owned: usize, now: f64) -> Option<Group> {
        let is_due = |group: &Group| group.positions.len() >= owned || now - group.since >= self.gather_secs;
        let key = *self.gathering.iter().find(|(_, group)| is_due(group))?.0;
        self.gathering.remove(&key)
    }

    /// Whether nothing waits for others.
    pub(super) fn is_empty(&self) -> bool {
        self.gathering.is_empty()
    }
}
