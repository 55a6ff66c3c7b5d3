//! What connects a flusher with a cluster: where the intervals of this node go in place of its sinks, and where those of the
//! cluster come from.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use compact_str::CompactString;
use tokio::sync::mpsc;

use crate::presence::{Event, Reading};
use crate::rollup::Interval;
use crate::snapshot::Snapshot;
use crate::telemetry::{Concern, Warning};

/// A node to which no interval of the cluster comes for so long owns no partition.
const ALONE_AFTER: Duration = Duration::from_secs(60);

/// What an edge heard of an interval.
#[derive(Clone, Debug)]
pub struct OwnInterval {
    /// The number of the interval: its start in Unix seconds, divided by its length.
    pub number: u64,
    /// What was heard.
    pub snapshot: Arc<Snapshot>,
    /// Nothing follows.
    pub is_last: bool,
}

/// Says what is wrong with the cluster. Cheap to clone.
#[derive(Clone)]
pub struct ClusterProblems(Arc<dyn Fn() -> (Vec<String>, usize) + Send + Sync>);

impl ClusterProblems {
    /// Asks this whenever somebody looks: for problems, and how many of them, from the first, need somebody now.
    pub fn new(ask: impl Fn() -> (Vec<String>, usize) + Send + Sync + 'static) -> ClusterProblems {
        ClusterProblems(Arc::new(ask))
    }

    pub(super) fn warnings(&self) -> impl Iterator<Item = Warning> {
        let (problems, errors) = (self.0)();
        let about = move |n| if n < errors { Concern::ClusterDown } else { Concern::Cluster };
        problems.into_iter().enumerate().map(move |(n, text)| about(n).says(text))
    }
}

impl fmt::Debug for ClusterProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterProblems").finish_non_exhaustive()
    }
}

/// What presence has for the sinks of a cluster, until an interval of the cluster takes it along: those that keep series take
/// what an interval does not have for gone.
#[derive(Debug, Default)]
pub(super) struct WaitingPresence {
    readings: HashMap<(&'static str, Tags), Reading>,
    events: Vec<Event>,
    /// When one last took something along.
    taken: Option<Instant>,
    /// Its end.
    end: f64,
}

type Tags = Vec<(&'static str, CompactString)>;

impl WaitingPresence {
    /// Takes a report: of levels the last one counts, and what counts is summed.
    pub(super) fn add(&mut self, readings: Vec<Reading>, mut events: Vec<Event>) {
        self.readings.retain(|_, reading| reading.counts);
        for reading in readings {
            match self.readings.entry((reading.name, reading.tags.clone())) {
                Entry::Occupied(known) => known.into_mut().value += reading.value,
                Entry::Vacant(room) => drop(room.insert(reading)),
            }
        }
        self.events.append(&mut events);
    }

    /// What goes along with an interval of the cluster that ends then; nothing if an earlier part of it has taken it.
    pub(super) fn take_along(&mut self, end: f64) -> Option<(Vec<Reading>, Vec<Event>)> {
        if end <= self.end {
            return None;
        }
        (self.end, self.taken) = (end, Some(Instant::now()));
        Some(self.take())
    }

    /// What goes by itself, for nothing follows, or no interval of the cluster has come here for long: this node owns no
    /// partition.
    pub(super) fn take_alone(&mut self, is_last: bool) -> Option<(Vec<Reading>, Vec<Event>)> {
        let taken = *self.taken.get_or_insert_with(Instant::now);
        let is_due = is_last || taken.elapsed() >= ALONE_AFTER;
        (is_due && !(self.readings.is_empty() && self.events.is_empty())).then(|| self.take())
    }

    /// Levels stay, for the next interval of the cluster may come before the next report.
    fn take(&mut self) -> (Vec<Reading>, Vec<Event>) {
        let readings = self.readings.values().cloned().collect();
        self.readings.retain(|_, reading| !reading.counts);
        (readings, std::mem::take(&mut self.events))
    }
}

/// A flusher's links; without any it is no part of a cluster.
#[derive(Debug, Default)]
pub struct ClusterLinks {
    /// Takes the intervals of this node.
    pub edge: Option<mpsc::Sender<OwnInterval>>,
    /// Gives intervals of the cluster.
    pub merged: Option<mpsc::Receiver<Snapshot>>,
    /// Says what is wrong with it.
    pub problems: Option<ClusterProblems>,
}

impl ClusterLinks {
    /// Whether intervals of this node go to the cluster.
    pub(super) fn is_edge(&self) -> bool {
        self.edge.is_some()
    }

    /// Whether the sinks get intervals of the cluster.
    pub(super) fn is_global(&self) -> bool {
        self.merged.is_some()
    }

    /// Hands an interval of this node on. Whoever takes them is never waited for.
    pub(super) fn send(&self, snapshot: &Arc<Snapshot>, interval: Interval) {
        let Some(edge) = &self.edge else { return };
        // The last one ends before its tick.
        let number = if interval.is_last { interval.tick } else { interval.tick.saturating_sub(1) };
        let own = OwnInterval { number, snapshot: Arc::clone(snapshot), is_last: interval.is_last };
        if edge.try_send(own).is_err() {
            tracing::error!(
                lines = snapshot.ledger.lines.read,
                "the thread that sends intervals to the cluster does not take one; it is lost"
            );
        }
    }

    /// The next interval of the cluster; never any where none come.
    pub(super) async fn next_merged(&mut self) -> Snapshot {
        if let Some(merged) = &mut self.merged
            && let Some(snapshot) = merged.recv().await
        {
            return snapshot;
        }
        std::future::pending().await
    }
}
