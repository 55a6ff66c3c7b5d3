//! The cluster on the first page: nodes, the bus, who owns which share of the partitions, and how complete the last intervals are.

use std::collections::BTreeMap;

use maud::{Markup, html};

use crate::cluster::{LastInterval, NodeView, PartitionView};
use crate::cluster_driver::ClusterStatus;

use super::parts::{Wire, ago, amount, clock, count, grouped, percent, pill, share, spark};

/// Rows of each list.
const NODES: usize = 20;
const OWNERS: usize = 12;

/// Edges that are named.
const BEHIND: usize = 3;

/// A clock that is off by more is marked, in seconds.
const MOST_CLOCK_SECS: f64 = 1.0;

/// Both cards. `now` is Unix seconds.
pub(super) fn cards(status: &ClusterStatus, now: f64) -> Markup {
    html! {
        section.card.c8 data-live="cluster" { (nodes(status, now)) }
        section.card.c4 data-live="partitions" { (partitions(status)) }
    }
}

/// How a node is: a state and that in words. Without the bus nothing is known of others.
fn state(node: &NodeView, is_known: bool) -> (&'static str, &'static str) {
    match node {
        node if node.has_left => ("left", "stopped"),
        _ if !is_known => ("waiting", "not known"),
        node if !node.is_live => ("error", "not heard"),
        node if node.is_draining => ("waiting", "drained"),
        _ => ("ok", "alive"),
    }
}

fn nodes(status: &ClusterStatus, now: f64) -> Markup {
    let mut all: Vec<&NodeView> = status.nodes.iter().collect();
    // What is wrong first.
    all.sort_by_key(|node| (node.is_live || node.has_left || !status.answers, node.has_left));
    let (bus, text) = match (status.connected, status.answers) {
        (true, true) => ("ok", "bus connected"),
        (true, false) => ("error", "bus stores nothing"),
        (false, _) => ("error", "bus not connected"),
    };
    html! {
        header {
            h2 { "Cluster" } span.sub { "nodes, as " b { (Wire(&status.node)) } " sees them" }
            span title=(Wire(&status.bus)) { (pill(bus, text)) }
        }
        @if all.is_empty() {
            p.empty { "No node was seen yet: " (Wire(&status.bus)) "." }
        } @else {
            table {
                thead {
                    tr {
                        th scope="col" { "Node" } th scope="col" { "State" } th.wide-only scope="col" { "Role" }
                        th.num scope="col" { "Partitions" } th.num scope="col" { "Waiting" }
                        th.num.wide-only scope="col" { "Clock" } th.wide-only scope="col" { "Heard" }
                    }
                }
                tbody { @for node in all.iter().take(NODES) { (row(node, status.answers, now)) } }
            }
            @if all.len() > NODES { p.muted { "and " (count(all.len() - NODES, "more node")) } }
        }
    }
}

fn row(node: &NodeView, is_known: bool, now: f64) -> Markup {
    let (state, text) = state(node, is_known);
    let ahead = node.clock_ahead_secs;
    let is_off = ahead.is_some_and(|ahead| ahead.abs() > MOST_CLOCK_SECS);
    let tenths = ahead.map(|ahead| (ahead * 10.0).round() / 10.0 + 0.0);
    let off = tenths.map(|secs| format!("{}{} s", if secs > 0.0 { "+" } else { "" }, amount(secs)));
    html! {
        tr {
            td { b { (Wire(node.id.node.as_str())) } }
            td { (pill(state, text)) }
            td.wide-only { (node.role.name()) }
            td.num { @if node.role.is_global() && !node.has_left { (node.load) } @else { span.muted { "none" } } }
            td.num { @if node.spooled > 0 { (grouped(node.spooled)) } @else { "0" } }
            td.num.wide-only {
                @match off { Some(off) if is_off => span.warning { "▲ " (off) }, Some(off) => (off), None => span.muted { "not known" } }
            }
            td.wide-only { (ago(now, now - node.age)) }
        }
    }
}

fn partitions(status: &ClusterStatus) -> Markup {
    let mut owners: BTreeMap<&str, usize> = BTreeMap::new();
    // Without the bus the last ones are shown.
    let is_owned = |one: &&PartitionView| one.is_owner_live || !status.answers;
    for owner in status.partitions.iter().filter(is_owned).filter_map(|one| one.owner.as_ref()) {
        *owners.entry(owner.node.as_str()).or_default() += 1;
    }
    let all = status.partitions.len();
    let owned: usize = owners.values().sum();
    html! {
        header { h2 { "Merged" } span.sub { (count(all, "partition")) ", by owner" } }
        (completeness(status))
        @if all == 0 {
            p.empty { "No partition was seen yet." }
        } @else {
            table.fixed {
                tbody {
                    @for (owner, n) in owners.iter().take(OWNERS) {
                        tr {
                            td.n { (Wire(owner)) }
                            td.b { (share(*n as f64 / all as f64, "s1")) }
                            td.num.v { (n) }
                        }
                    }
                    @if owned < all && status.answers {
                        tr { td.n { span.error { "✕ nobody" } } td.b { (share((all - owned) as f64 / all as f64, "sd")) } td.num.v { (all - owned) } }
                    }
                }
            }
            @if owners.len() > OWNERS { p.muted { "and " (count(owners.len() - OWNERS, "more owner")) } }
        }
    }
}

fn completeness(status: &ClusterStatus) -> Markup {
    let Some(last) = &status.last else {
        return html! { p.empty { "No interval was merged with the accounts of the edges yet." } };
    };
    let course: Vec<Option<f64>> = status.intervals.iter().map(|one| Some(one.completeness)).collect();
    let is_whole = |one: &LastInterval| one.completeness >= 1.0;
    let whole = status.intervals.iter().filter(|one| is_whole(one)).count();
    html! {
        p {
            @if is_whole(last) { b { "100 % complete" } } @else { b.warning { "▲ " (percent(last.completeness)) " % complete" } }
            " at " (clock(last.end)) ": " (last.edges_heard) " of " (count(last.edges_expected as usize, "edge")) " heard"
            @if !last.edges_behind.is_empty() {
                ", not all of "
                @for (n, edge) in last.edges_behind.iter().take(BEHIND).enumerate() { @if n > 0 { ", " } b { (Wire(edge)) } }
                @if last.edges_behind.len() > BEHIND { " and " (last.edges_behind.len() - BEHIND) " more" }
            }
        }
        p.muted { (spark(&course, if whole == course.len() { "su" } else { "late" }, false)) " " (whole) " of the last " (count(course.len(), "interval")) " complete" }
    }
}
