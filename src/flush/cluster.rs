//! What connects a flusher with a cluster: where the intervals of this node go in place of its sinks, and where those of the
//! cluster come from.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::rollup::Interval;
use crate::snapshot::Snapshot;
use crate::telemetry::{Concern, Warning};

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
    pub(super) fn send(&self, snapshot: &Arc<Snapshot>, interval: Interval, configured: Duration) {
        let Some(edge) = &self.edge else { return };
        let number = match interval.is_last {
            // It ends before its tick.
            true => (interval.end / configured.as_secs_f64()).floor().max(0.0) as u64,
            false => interval.tick.saturating_sub(1),
        };
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
