//! What connects a flusher with a cluster: where the intervals of this node go in place of its sinks, and where those of the
//! cluster come from.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::rollup::Interval;
use crate::snapshot::Snapshot;

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

/// A flusher's links; without any it is no part of a cluster.
#[derive(Debug, Default)]
pub struct ClusterLinks {
    /// Takes the intervals of this node.
    pub edge: Option<mpsc::Sender<OwnInterval>>,
    /// Gives intervals of the cluster.
    pub merged: Option<mpsc::Receiver<Snapshot>>,
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
