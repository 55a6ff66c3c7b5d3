//! What changes in a cluster, line by line in the log: the bus, nodes that come and go, partitions that are taken and given up.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::NodeView;
use crate::cluster_bus::BusStatus;

use super::problems::{MOST_CLOCK_SECS, names, off_by};
use super::status::ClusterStatus;

/// What changes within so many seconds is logged together.
const TOGETHER_SECS: f64 = 2.0;

/// How a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NodeState {
    Live,
    Dead,
    Left,
}

/// What was logged.
#[derive(Debug, Default)]
pub(super) struct ChangeLog {
    is_connected: Option<bool>,
    is_clock_off: bool,
    other_settings: BTreeSet<String>,
    looked_at: f64,
    nodes: Option<BTreeMap<String, NodeState>>,
    own: BTreeSet<u16>,
    owners: BTreeMap<u16, String>,
}

impl ChangeLog {
    /// Logs what is other than it was. Of nodes nothing is known until the bus has answered for a while.
    pub(super) fn log_all(&mut self, status: &ClusterStatus, bus: &BusStatus, now: f64) {
        // At a start it takes a moment.
        if (bus.connected || now >= TOGETHER_SECS) && self.is_connected.replace(bus.connected) != Some(bus.connected) {
            match bus.connected {
                true => tracing::info!(bus = %bus, "the bus of the cluster is connected"),
                false => tracing::warn!(bus = %bus, "the bus of the cluster is not connected; trying again"),
            }
        }
        if now - self.looked_at < TOGETHER_SECS {
            return;
        }
        self.looked_at = now;
        if status.is_settled {
            self.log_nodes(status);
        }
        self.log_mistakes(status);
        self.log_partitions(status);
    }

    fn log_nodes(&mut self, status: &ClusterStatus) {
        let others = status.nodes.iter().filter(|node| node.id.node.as_str() != status.node);
        let state_of = |node: &NodeView| match (node.has_left, node.is_live) {
            (true, _) => NodeState::Left,
            (false, true) => NodeState::Live,
            (false, false) => NodeState::Dead,
        };
        let all: BTreeMap<String, NodeState> = others.map(|node| (node.id.node.to_string(), state_of(node))).collect();
        let before = self.nodes.replace(all);
        let Some(all) = &self.nodes else { return };
        let is_now = |wanted: NodeState| {
            let was = |name: &str| before.as_ref().and_then(|before| before.get(name)).copied();
            let changed = all.iter().filter(|(name, now)| **now == wanted && was(name) != Some(wanted));
            let list: Vec<&str> = changed.map(|(name, _)| name.as_str()).collect();
            (list.len(), names(&list))
        };
        let (count, nodes) = is_now(NodeState::Live);
        match &before {
            _ if count == 0 => {}
            None => tracing::info!(nodes, count, "other nodes of the cluster"),
            Some(_) => tracing::info!(nodes, count, "nodes of the cluster are there"),
        }
        let (count, nodes) = is_now(NodeState::Left);
        if count > 0 && before.is_some() {
            tracing::info!(nodes, count, "nodes of the cluster have stopped");
        }
        let (count, nodes) = is_now(NodeState::Dead);
        if count > 0 {
            tracing::warn!(nodes, count, "nodes of the cluster are not heard any more");
        }
    }

    fn log_mistakes(&mut self, status: &ClusterStatus) {
        let ahead = status.clock_ahead_secs.unwrap_or_default();
        let is_off = ahead.abs() > MOST_CLOCK_SECS;
        if is_off && !self.is_clock_off {
            tracing::warn!(
                "the clock of this node is {} that of the bus: owners refuse what is more than 5 s ahead, and do not wait for what is \
                 as much behind",
                off_by(ahead)
            );
        }
        self.is_clock_off = is_off;
        let fresh: Vec<&String> = status.other_settings.difference(&self.other_settings).collect();
        if !fresh.is_empty() {
            tracing::warn!(
                nodes = names(&fresh),
                "other nodes have other settings (interval, percentiles, rules and the like); give all nodes the same"
            );
        }
        self.other_settings.clone_from(&status.other_settings);
    }

    fn log_partitions(&mut self, status: &ClusterStatus) {
        let own: BTreeSet<u16> = status.partitions.iter().filter(|one| one.is_ours).map(|one| one.partition).collect();
        let count = own.difference(&self.own).count();
        if count > 0 {
            let taken = own.difference(&self.own);
            let from: BTreeSet<&str> = taken.filter_map(|one| self.owners.get(one)).map(String::as_str).collect();
            let from: Vec<&str> = from.into_iter().filter(|node| *node != status.node).collect();
            let from = if from.is_empty() { "nobody".to_string() } else { names(&from) };
            tracing::info!(partitions = count, from, owned = own.len(), "took partitions over");
        }
        let count = self.own.difference(&own).count();
        if count > 0 {
            tracing::info!(partitions = count, owned = own.len(), "gave partitions up");
        }
        self.own = own;
        let owners = status.partitions.iter().filter_map(|one| Some((one.partition, one.owner.as_ref()?)));
        // Who had one last is not forgotten while nobody has it.
        self.owners.extend(owners.map(|(partition, owner)| (partition, owner.node.to_string())));
    }
}
