//! What is wrong with a cluster, in sentences that say what to do.

use std::collections::BTreeSet;

use crate::cluster::{NodeView, PartitionView};

use super::status::{BoardOptions, ClusterStatus};

/// A wall clock that is off by more is a problem, in seconds, and one that owners do not go along with.
pub(super) const MOST_CLOCK_SECS: f64 = 1.0;
pub(super) const BAD_CLOCK_SECS: f64 = 5.0;

/// So many sealed intervals wait for the sinks at most.
const MOST_UNEMITTED: u64 = 6;

/// Names that are shown.
const NAMES: usize = 5;

/// Names, and how many more there are.
pub(super) fn names(all: &[impl AsRef<str>]) -> String {
    let shown: Vec<&str> = all.iter().take(NAMES).map(AsRef::as_ref).collect();
    let more = all.len().saturating_sub(NAMES);
    if more > 0 { format!("{} and {more} more", shown.join(", ")) } else { shown.join(", ") }
}

/// By how much and where a clock is.
pub(super) fn off_by(ahead: f64) -> String {
    format!("{:.1} s {}", ahead.abs(), if ahead > 0.0 { "ahead of" } else { "behind" })
}

fn numbers(all: &[u16]) -> String {
    names(&all.iter().map(u16::to_string).collect::<Vec<_>>())
}

fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// Problems that are gathered.
#[derive(Debug, Default)]
struct Problems {
    errors: Vec<String>,
    warnings: Vec<String>,
}

impl ClusterStatus {
    /// What is wrong, and how many of it, from the first, need somebody now. `is_starting` is whether the bus may still come.
    pub(super) fn find_problems(&self, options: &BoardOptions, is_starting: bool) -> (Vec<String>, usize) {
        let mut all = Problems::default();
        self.of_bus(is_starting, &mut all);
        if self.has_twin {
            let node = &self.node;
            all.errors.push(format!(
                "another node runs under the name {node}: what one of them sends is taken for old; set `cluster.node`"
            ));
        }
        if let Some(error) = &self.difference {
            let list = if error.is_of_bounds() { &mut all.warnings } else { &mut all.errors };
            list.push(error.to_string());
        }
        if self.is_superseded {
            all.errors.push(format!(
                "another node runs under the name {} with a later start: what this one sends is ignored until that one is \
                 gone; set `cluster.node`",
                self.node
            ));
        }
        if self.ignores {
            let text =
                "batches of an edge are ignored, as a later start of its name was heard: two nodes have one name";
            all.errors.push(format!("{text}; set `cluster.node` of one of them"));
        }
        if let Some(ahead) = self.clock_ahead_secs.filter(|ahead| ahead.abs() > MOST_CLOCK_SECS) {
            let off = off_by(ahead);
            let grave = ahead.abs() > BAD_CLOCK_SECS;
            let list = if grave { &mut all.errors } else { &mut all.warnings };
            list.push(format!("the clock of this node is {off} that of the bus: let NTP set it"));
        }
        if let Some(dropped) = self.edge.as_ref().map(|edge| edge.dropped_batches).filter(|dropped| *dropped > 0) {
            all.warnings.push(format!(
                "{dropped} batches were dropped since the start, as too much waits for the bus: raise `cluster.spool_memory`"
            ));
        }
        // Without the bus nothing is known of others.
        if self.is_settled && self.answers {
            self.of_others(options, &mut all);
        }
        if let Some((theirs, ours)) = self.other_interval {
            all.errors.push(format!(
                "the records of the cluster are of intervals of {theirs} s, and this node's `interval` is {ours} s: it takes no \
                 partitions; give all nodes the same, or those of another interval another `cluster.name`"
            ));
        }
        self.of_intervals(&mut all);
        let errors = all.errors.len();
        (all.errors.into_iter().chain(all.warnings).collect(), errors)
    }

    fn of_bus(&self, is_starting: bool, all: &mut Problems) {
        let waits = match &self.edge {
            Some(edge) => format!(
                "; {} batches wait here, {} of {} MiB",
                edge.spooled_batches,
                edge.spooled_bytes >> 20,
                edge.spool_bytes >> 20
            ),
            None => "; nothing is merged here".into(),
        };
        if !self.connected {
            all.errors.push(format!("the bus of the cluster is {}{waits}", self.bus));
        } else if let Some(error) = self.error.as_ref().filter(|_| !self.answers) {
            all.errors.push(format!("the bus of the cluster refuses: {error}{waits}"));
        } else if !self.answers && !is_starting {
            all.errors.push(format!(
                "the bus of the cluster is connected and stores nothing: most of its servers are away, or JetStream is off{waits}"
            ));
        } else if let Some(error) = &self.error {
            all.warnings.push(format!("the bus of the cluster refuses: {error}"));
        }
    }

    /// Other nodes and their partitions.
    fn of_others(&self, options: &BoardOptions, all: &mut Problems) {
        let takes = |node: &NodeView| node.takes && node.is_live && !node.has_left;
        let has_merger = self.nodes.iter().any(takes);
        if !has_merger && !self.nodes.is_empty() {
            all.errors.push(
                "no node merges: none with the role \"global\" or \"edge+global\" is alive; start one. Until then nothing comes to the \
                 sinks, and the bus keeps batches for `cluster.max_age`"
                    .into(),
            );
        }
        let other: Vec<&NodeView> = self.nodes.iter().filter(|node| node.id.node.as_str() != self.node).collect();
        for node in other.iter().filter(|node| is_other(node.interval_secs, options.interval_secs)).take(NAMES) {
            all.errors.push(format!(
                "the node {} has an interval of {} s, this one {} s: they cannot be merged; give all nodes the same `interval`",
                node.id.node, node.interval_secs, options.interval_secs
            ));
        }
        if has_merger && !self.ownerless.is_empty() {
            let (many, which) = (count(self.ownerless.len(), "partition"), numbers(&self.ownerless));
            all.errors.push(format!(
                "{many} of the cluster have no live owner ({which}): look at the log of the nodes that merge"
            ));
        }
        if !self.stuck.is_empty() {
            let (many, which) = (count(self.stuck.len(), "partition"), numbers(&self.stuck));
            let owner = |one: &&PartitionView| self.stuck.contains(&one.partition);
            let owners =
                self.partitions.iter().filter(owner).filter_map(|one| Some(one.owner.as_ref()?.node.to_string()));
            let owners: BTreeSet<String> = owners.collect();
            let owners = names(&owners.into_iter().collect::<Vec<_>>());
            all.errors.push(format!(
                "{many} have closed no interval for long ({which}), owned by {owners}: look at its sinks and its log"
            ));
        }
        let dead = |node: &&&NodeView| !node.is_live && !node.has_left;
        let mut dead: Vec<&&NodeView> = other.iter().filter(dead).collect();
        // A node that merges first.
        dead.sort_by_key(|node| !node.role.is_global());
        for node in dead.iter().take(NAMES) {
            let (name, age, role) = (&node.id.node, node.age, node.role.name());
            let what = match node.role.is_global() {
                true if has_merger && node.role.is_edge() => {
                    "others merge what it did, and what it had open as an edge is lost; start it again"
                }
                true if has_merger => "others merge what it did; start it again",
                true => "start it again",
                false => "what it had open is lost; start it again",
            };
            all.warnings.push(format!("the node {name} ({role}) is not heard for {age:.0} s: {what}"));
        }
        if dead.len() > NAMES {
            all.warnings.push(format!("{} more nodes are not heard", dead.len() - NAMES));
        }
        let holding: Vec<&str> =
            other.iter().filter(|node| node.is_live && node.holds_back).map(|node| node.id.node.as_str()).collect();
        if !holding.is_empty() {
            all.warnings.push(format!(
                "the bus refuses batches of {}: intervals wait for them, up to 15 min; raise `max_bytes` or its limits",
                names(&holding)
            ));
        }
        let far =
            |node: &&&NodeView| node.is_live && node.clock_ahead_secs.is_some_and(|ahead| ahead.abs() > BAD_CLOCK_SECS);
        for node in other.iter().filter(far).take(NAMES) {
            let off = off_by(node.clock_ahead_secs.unwrap_or_default());
            all.warnings.push(format!("the clock of the node {} is {off} that of the bus", node.id.node));
        }
    }

    /// What the last interval lacks, and what sinks do not take.
    fn of_intervals(&self, all: &mut Problems) {
        if !self.other_settings.is_empty() {
            let others: Vec<&str> = self.other_settings.iter().map(String::as_str).collect();
            let others = names(&others);
            all.warnings.push(format!(
                "other settings than this node (interval, percentiles, rules and the like) have {others}: give all nodes the same"
            ));
        }
        if let Some(last) = self.last.as_ref().filter(|last| last.edges_heard < last.edges_expected) {
            let (heard, expected, behind) = (last.edges_heard, last.edges_expected, names(&last.edges_behind));
            all.warnings.push(format!(
                "of the last interval {heard} of {expected} edges were heard; missing or late: {behind}"
            ));
        }
        let lost = self.partitions.iter().filter(|one| one.log_lost).count();
        if lost > 0 {
            all.warnings.push(format!("the bus has lost batches of {}", count(lost, "partition")));
        }
        let full = self.partitions.iter().filter(|one| one.is_ours && one.unemitted >= MOST_UNEMITTED).count();
        if full > 0 {
            let many = count(full, "partition");
            all.warnings.push(format!("a sink takes nothing: {many} of this node close no interval until it does"));
        }
    }
}

/// Whether an interval is another one; 0 is not known.
pub(super) fn is_other(theirs: f64, ours: f64) -> bool {
    theirs > 0.0 && (theirs - ours).abs() > 1e-9
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{NodeRole, SessionId};

    fn options() -> BoardOptions {
        BoardOptions { node: "e".into(), interval_secs: 10.0, ..BoardOptions::default() }
    }

    fn node(name: &str, role: NodeRole, is_live: bool) -> NodeView {
        NodeView {
            id: SessionId { node: name.parse().expect("a name"), start: 1 },
            takes: role.is_global(),
            load: 0,
            spooled: 0,
            holds_back: false,
            age: 9.0,
            is_live,
            role,
            is_draining: false,
            has_left: false,
            clock_ahead_secs: None,
            interval_secs: 10.0,
            config: 1,
            last: None,
        }
    }

    fn status(nodes: Vec<NodeView>) -> ClusterStatus {
        let node = "e".into();
        ClusterStatus { node, connected: true, answers: true, is_settled: true, nodes, ..ClusterStatus::default() }
    }

    #[test]
    fn dead_nodes_are_named_by_what_they_did_and_nobody_is_while_the_bus_does_not_answer() {
        let nodes =
            vec![node("e", NodeRole::Edge, true), node("f", NodeRole::Edge, false), node("g", NodeRole::Both, false)];
        let seen = status(nodes);
        let (problems, errors) = seen.find_problems(&options(), false);
        assert_eq!((problems.len(), errors), (3, 1), "{problems:?}");
        let expected =
            ["no node merges: ", "the node g (edge+global) is not heard for 9 s: start it", "the node f (edge) "];
        assert!(problems.iter().zip(expected).all(|(problem, start)| problem.starts_with(start)), "{problems:?}");
        let (problems, errors) = ClusterStatus { answers: false, ..seen }.find_problems(&options(), false);
        assert_eq!((problems.len(), errors), (1, 1), "{problems:?}");
    }

    #[test]
    fn a_clock_is_a_warning_from_one_second_on_and_an_error_from_five() {
        let found = |ahead| {
            let status = ClusterStatus { clock_ahead_secs: Some(ahead), ..status(vec![]) };
            let (problems, errors) = status.find_problems(&options(), false);
            (problems.len(), errors, status.obstacle().is_some())
        };
        assert_eq!(found(0.9), (0, 0, false));
        assert_eq!(found(-1.1), (1, 0, false));
        assert_eq!(found(5.1), (1, 1, true));
        assert_eq!(found(-5.1), (1, 1, true));
    }

    #[test]
    fn names_are_bounded() {
        assert_eq!(names(&["a", "b"]), "a, b");
        assert_eq!(names(&["a", "b", "c", "d", "e", "f", "g"]), "a, b, c, d, e and 2 more");
    }
}
