//! The daemon's own numbers since the start, as Prometheus text 0.0.4 or OpenMetrics 1.0: the table of counters, and what
//! presence says.

use crate::cluster::{LastInterval, NodeRole, NodeView, PartitionView};
use crate::cluster_driver::ClusterStatus;
use crate::presence::Reading;
use crate::prometheus_text::{PrometheusText, Shape, labels};
use crate::reloads::ReloadStatus;
use crate::telemetry::{ClusterAccount, Ledger};

/// What is written beside the ledger and presence.
pub(super) struct About {
    /// Since the start.
    pub(super) uptime_secs: f64,
    /// `None` if this node is in no cluster.
    pub(super) cluster: Option<ClusterStatus>,
    /// Reloads of the configuration.
    pub(super) reloads: ReloadStatus,
    /// As OpenMetrics.
    pub(super) is_open: bool,
    /// Seconds of the last upgrade in which nobody read the sockets, if there was one.
    pub(super) upgrade_pause_secs: Option<f64>,
}

/// `presence` is what presence says for a scrape.
pub(super) fn render(mut ledger: Ledger, presence: &[Reading], about: &About) -> String {
    let mut out = PrometheusText::new(about.is_open);
    let uptime_secs = about.uptime_secs;
    // What this node has merged is not in its own ledger, which is of what it received.
    ledger.cluster = about.cluster.as_ref().map(|cluster| {
        let last = cluster.last.clone().unwrap_or_default();
        let (edges_expected, edges_heard) = (last.edges_expected, last.edges_heard);
        ClusterAccount { edges_expected, edges_heard, ..cluster.account.clone() }
    });
    out.family("systole_build_info", Shape::Gauge, "The version that runs.");
    out.sample("systole_build_info", "", &labels([("version", env!("CARGO_PKG_VERSION"))]), None, 1.0);
    out.family("systole_uptime_seconds", Shape::Gauge, "Time since the start.");
    out.sample("systole_uptime_seconds", "", "", None, uptime_secs);
    if let Some(pause_secs) = about.upgrade_pause_secs {
        out.family(
            "systole_upgrade_pause_seconds",
            Shape::Gauge,
            "Time in the last upgrade in which nobody read the sockets.",
        );
        out.sample("systole_upgrade_pause_seconds", "", "", None, pause_secs);
    }
    reloads(&about.reloads, &mut out);
    for metric in ledger.metrics() {
        let (shape, suffix) = shape(metric.is_counter);
        out.family(metric.name, shape, metric.help);
        metric.samples.iter().for_each(|(tags, value)| {
            out.sample(metric.name, suffix, &labels(tags.iter().map(|(key, value)| (key, value))), None, *value);
        });
    }
    if let Some(status) = &about.cluster {
        cluster(status, &mut out);
    }
    readings(presence, &mut out);
    out.finish()
}

/// Reloads of the configuration.
fn reloads(status: &ReloadStatus, out: &mut PrometheusText) {
    out.family("systole_reloads", Shape::Counter, "Reloads of the configuration, by what became of them.");
    for (result, count) in [("applied", status.applied), ("refused", status.refused)] {
        out.sample("systole_reloads", "_total", &labels([("result", result)]), None, count as f64);
    }
    let help = "When the configuration in force was read, Unix seconds.";
    out.family("systole_config_loaded_timestamp_seconds", Shape::Gauge, help);
    out.sample("systole_config_loaded_timestamp_seconds", "", "", None, status.loaded_at);
    let help = "Settings of the file that are not in force before a restart.";
    out.family("systole_config_needs_restart", Shape::Gauge, help);
    out.sample("systole_config_needs_restart", "", "", None, status.needs_restart.len() as f64);
}

fn shape(is_counter: bool) -> (Shape, &'static str) {
    if is_counter { (Shape::Counter, "_total") } else { (Shape::Gauge, "") }
}

/// The cluster, as this node sees it.
fn cluster(status: &ClusterStatus, out: &mut PrometheusText) {
    let of_partitions =
        |count: fn(&PartitionView) -> bool| status.partitions.iter().filter(|one| count(one)).count() as f64;
    let edge = status.edge.clone().unwrap_or_default();
    let unemitted = status.partitions.iter().filter(|one| one.is_ours).map(|one| one.unemitted).sum::<u64>() as f64;
    let is_connected = f64::from(u8::from(status.connected));
    let answers = f64::from(u8::from(status.answers));
    let one = |value| vec![(String::new(), value)];
    let by_state = |role: NodeRole, is_live: bool| {
        let is_it = |node: &&NodeView| node.role == role && !node.has_left && node.is_live == is_live;
        let state = if is_live { "live" } else { "dead" };
        let count = status.nodes.iter().filter(is_it).count() as f64;
        (labels([("role", role.name()), ("state", state)]), count)
    };
    let roles = [NodeRole::Edge, NodeRole::Global, NodeRole::Both];
    let nodes = roles.into_iter().flat_map(|role| [by_state(role, true), by_state(role, false)]).collect();
    let last = |value: fn(&LastInterval) -> f64| status.last.iter().map(|last| (String::new(), value(last))).collect();
    let ahead = status.clock_ahead_secs.iter().map(|ahead| (String::new(), *ahead)).collect();
    let mut put = |name: &str, help: &str, is_counter: bool, samples: Vec<(String, f64)>| {
        let (name, (shape, suffix)) = (format!("systole_cluster_{name}"), shape(is_counter));
        out.family(&name, shape, help);
        samples.iter().for_each(|(labels, value)| out.sample(&name, suffix, labels, None, *value));
    };

    put("bus_connected", "Whether the bus is connected.", false, one(is_connected));
    put("bus_answers", "Whether the bus has stored something of this node in the last 8 s.", false, one(answers));
    put("nodes", "Nodes that were seen, by role and state.", false, nodes);
    put("partitions", "Partitions that are known here.", false, one(status.partitions.len() as f64));
    put("partitions_owned", "Partitions of this node.", false, one(of_partitions(|one| one.is_ours)));
    put(
        "partitions_catching_up",
        "Partitions of this node that have fallen behind.",
        false,
        one(of_partitions(|one| one.catching_up)),
    );
    put("partitions_ownerless", "Partitions without a live owner for 15 s.", false, one(status.ownerless.len() as f64));
    put("partitions_stuck", "Partitions that close no interval.", false, one(status.stuck.len() as f64));
    put("unemitted_intervals", "Intervals of partitions of this node that wait for sinks.", false, one(unemitted));
    put("waiting_batches", "Batches that wait for the bus.", false, one(edge.spooled_batches as f64));
    put("waiting_bytes", "Bytes that wait for the bus.", false, one(edge.spooled_bytes as f64));
    put("batches_dropped", "Batches dropped because too much waited.", true, one(edge.dropped_batches as f64));
    put("clock_ahead_seconds", "How much this clock is ahead of that of the bus.", false, ahead);
    put(
        "completeness_ratio",
        "How complete the last merged interval is, here or elsewhere.",
        false,
        last(|last| last.completeness),
    );
    put(
        "last_interval_timestamp_seconds",
        "End of the last merged interval, Unix seconds.",
        false,
        last(|last| last.end),
    );
    put("problems", "Problems that the status names.", false, one(status.problems.len() as f64));
}

/// Presence, name by name: a family stands together.
fn readings(readings: &[Reading], out: &mut PrometheusText) {
    let mut sorted: Vec<&Reading> = readings.iter().collect();
    sorted.sort_by_key(|reading| reading.name);
    for family in sorted.chunk_by(|a, b| a.name == b.name) {
        let (name, is_counter) = (family[0].name, family[0].counts);
        let (shape, suffix) = shape(is_counter);
        let stem = if is_counter { name.trim_end_matches("_total") } else { name };
        let help = match name {
            "presence_state" => "0 unknown, 1 up, 2 late, 3 down, 4 left.",
            _ => "See docs/presence.md.",
        };
        out.family(stem, shape, help);
        family.iter().for_each(|reading| {
            let tags = labels(reading.tags.iter().map(|(key, value)| (key, value)));
            out.sample(stem, suffix, &tags, None, reading.value);
        });
    }
}
