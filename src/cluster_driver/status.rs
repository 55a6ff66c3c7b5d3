//! What a node knows of its cluster, for the API, the page and the command line.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use utoipa::ToSchema;

use crate::cluster::{NodeView, PartitionView};

/// The status of a node. Times are seconds.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct ClusterStatus {
    /// Its name.
    pub node: String,
    /// What it does, as the configuration has it.
    pub role: String,
    /// Whether the bus is connected, and to which server.
    pub bus: String,
    /// Whether the bus is connected.
    pub connected: bool,
    /// By how much its wall clock is ahead of that of the bus; absent until it is known.
    pub clock_ahead_secs: Option<f64>,
    /// Whether it gives its partitions up, and takes none.
    pub is_draining: bool,
    /// The edge, if it is one.
    pub edge: Option<EdgeStatus>,
    /// Edges whose settings differ from those of this node, as of the last interval; the owner of partition 0 knows.
    pub other_settings: BTreeSet<String>,
    /// All nodes that were seen; of an edge alone, itself.
    pub nodes: Vec<NodeView>,
    /// All partitions; none of an edge alone.
    pub partitions: Vec<PartitionView>,
}

/// What waits at an edge.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct EdgeStatus {
    /// The number of its start.
    pub boot: u64,
    /// The last interval that was sealed.
    pub sealed: u64,
    /// Batches that wait for the bus.
    pub spooled_batches: u64,
    /// Their bytes.
    pub spooled_bytes: u64,
    /// Batches that were dropped because too much waited.
    pub dropped_batches: u64,
    /// Series that are left out because they are too large for a message.
    pub left_out: u64,
}

/// Where both threads of a node put what they know. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct StatusBoard(Arc<Mutex<ClusterStatus>>);

impl StatusBoard {
    /// A board of a node of which nothing is known yet.
    pub fn new(node: &str, role: &str) -> StatusBoard {
        let status = ClusterStatus { node: node.to_string(), role: role.to_string(), ..ClusterStatus::default() };
        StatusBoard(Arc::new(Mutex::new(status)))
    }

    /// What is known.
    pub fn read(&self) -> ClusterStatus {
        // Every change leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets the node give its partitions up, and take none until its next start.
    pub fn drain(&self) {
        self.change(|status| status.is_draining = true);
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut ClusterStatus)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
