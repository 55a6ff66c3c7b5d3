//! What a node knows of its cluster, for the API, the page and the command line.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use utoipa::ToSchema;

use crate::cluster::{NodeView, PartitionView};
use crate::cluster_bus::Bus;

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
    /// Why the bus has refused something last, if nothing went well since.
    pub error: Option<String>,
    /// Whether another node has its name.
    pub has_twin: bool,
    /// By how much its wall clock is ahead of that of the bus; absent until it is known.
    pub clock_ahead_secs: Option<f64>,
    /// What is wrong, in sentences.
    pub problems: Vec<String>,
    /// Whether it gives its partitions up, and takes none.
    pub is_draining: bool,
    /// The edge, if it is one.
    pub edge: Option<EdgeStatus>,
    /// Edges whose settings differ from those of this node, as of the last interval; the owner of partition 0 knows.
    pub other_settings: BTreeSet<String>,
    /// The last interval that was handed to the sinks and had the accounts of the edges: those are with partition 0.
    pub last: Option<LastInterval>,
    /// All nodes that were seen; none by an edge alone.
    pub nodes: Vec<NodeView>,
    /// All partitions; none by an edge alone.
    pub partitions: Vec<PartitionView>,
}

/// How complete an interval was.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct LastInterval {
    /// Its end, Unix seconds.
    pub end: f64,
    /// Share of the datagrams that were read, times the share of the edges that were heard, 0 to 1.
    pub completeness: f64,
    /// Edges of which it was expected.
    pub edges_expected: u64,
    /// Edges that delivered all of it in time.
    pub edges_heard: u64,
    /// The first 20 edges that are missing, or of which something came too late.
    pub edges_behind: Vec<String>,
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

/// How often the threads put there what they know, in seconds.
pub(super) const STATUS_SECS: f64 = 0.5;

/// A wall clock that is off by more is a problem, in seconds.
pub(super) const MOST_CLOCK_SECS: f64 = 1.0;

impl ClusterStatus {
    fn find_problems(&self) -> Vec<String> {
        let mut all = Vec::new();
        if !self.connected {
            all.push(format!("the bus of the cluster is {}", self.bus));
        }
        if let Some(error) = self.error.as_ref().filter(|_| self.connected) {
            all.push(format!("the bus of the cluster refuses: {error}"));
        }
        if self.has_twin {
            let node = &self.node;
            all.push(format!(
                "another node runs under the name {node}: what one of them sends is taken for old; set `cluster.node`"
            ));
        }
        if let Some(ahead) = self.clock_ahead_secs.filter(|ahead| ahead.abs() > MOST_CLOCK_SECS) {
            let where_it_is = if ahead > 0.0 { "ahead of" } else { "behind" };
            all.push(format!("the clock of this node is {:.1} s {where_it_is} that of the bus", ahead.abs()));
        }
        if let Some(dropped) = self.edge.as_ref().map(|edge| edge.dropped_batches).filter(|dropped| *dropped > 0) {
            all.push(format!("{dropped} batches were dropped, as too much waits for the bus (`cluster.spool_memory`)"));
        }
        if !self.other_settings.is_empty() {
            let names: Vec<&str> = self.other_settings.iter().map(String::as_str).collect();
            all.push(format!("edges have other settings than this node: {}", names.join(", ")));
        }
        if let Some(last) = self.last.as_ref().filter(|last| last.edges_heard < last.edges_expected) {
            let (heard, expected) = (last.edges_heard, last.edges_expected);
            let names = last.edges_behind.join(", ");
            all.push(format!("of the last interval {heard} of {expected} edges were heard; not {names}"));
        }
        for node in self.nodes.iter().filter(|node| node.takes && !node.is_live && self.connected) {
            all.push(format!("the node {} is dead since {:.0} s", node.id.node, node.age));
        }
        let count = |is_bad: fn(&PartitionView) -> bool| self.partitions.iter().filter(|one| is_bad(one)).count();
        // Without the bus nothing is known of owners.
        let ownerless = if self.connected { count(|one| !one.is_owner_live) } else { 0 };
        if ownerless > 0 {
            all.push(format!("{ownerless} partitions of the cluster have no live owner"));
        }
        let lost = count(|one| one.log_lost);
        if lost > 0 {
            all.push(format!("the bus has lost batches of {lost} partitions"));
        }
        all
    }
}

/// Where both threads of a node put what they know. Cheap to clone.
#[derive(Clone, Debug)]
pub struct StatusBoard {
    bus: Arc<dyn Bus>,
    status: Arc<Mutex<ClusterStatus>>,
}

impl StatusBoard {
    /// A board of a node on this bus, of which nothing is known yet.
    pub fn new(node: &str, role: &str, bus: Arc<dyn Bus>) -> StatusBoard {
        let status = ClusterStatus { node: node.to_string(), role: role.to_string(), ..ClusterStatus::default() };
        StatusBoard { bus, status: Arc::new(Mutex::new(status)) }
    }

    /// What is known.
    pub fn read(&self) -> ClusterStatus {
        let bus = self.bus.status();
        let status = ClusterStatus { connected: bus.connected, bus: bus.to_string(), ..self.lock().clone() };
        ClusterStatus { problems: status.find_problems(), ..status }
    }

    /// Lets the node give its partitions up, and take none until its next start.
    pub fn drain(&self) {
        self.change(|status| status.is_draining = true);
    }

    /// The bus refuses something, and says why.
    pub fn fails(&self, error: &str) {
        self.change(|status| {
            if status.error.as_deref() != Some(error) {
                tracing::warn!(error, "the bus of the cluster refuses something; trying again");
                status.error = Some(error.to_string());
            }
        });
    }

    /// Something went well.
    pub(super) fn works(&self) {
        self.lock().error = None;
    }

    /// Another node has our name.
    pub(super) fn has_twin(&self) {
        self.change(|status| {
            if !std::mem::replace(&mut status.has_twin, true) {
                tracing::error!(
                    node = status.node,
                    "another node of the cluster runs under this name: what one of them sends is taken for old; set `cluster.node`"
                );
            }
        });
    }

    /// Whether it was asked to.
    pub(super) fn is_draining(&self) -> bool {
        self.lock().is_draining
    }

    /// Batches that wait at its edge.
    pub(super) fn spooled_batches(&self) -> u64 {
        self.lock().edge.as_ref().map_or(0, |edge| edge.spooled_batches)
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut ClusterStatus)) {
        change(&mut self.lock());
    }

    fn lock(&self) -> MutexGuard<'_, ClusterStatus> {
        // Every change leaves it whole.
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
