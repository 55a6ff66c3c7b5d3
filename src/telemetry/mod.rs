//! The ledger: what came in, what became of it, and what was lost, each counted once.
//!
//! Every counter is one entry of the table in [`accounts`]; from it come the accounts, their sums and equations, the series,
//! `/metrics` and the table of `docs/ledger.md`. The ledger is published with every interval, as a record and as series, and
//! since the start in `/metrics` and `/api/v1/status`. These hold at every flush ([`Ledger::check`], and tests):
//!
//! ```text
//! lines.read   = metrics + events + service_checks + heartbeats + empty + malformed + internal_error
//! samples.read = recorded + folded + timestamped + dropped_by_rule + limited
//! sinks.*      : offered = delivered + queued + spooled + dropped     (records, since the start)
//! relays.*     : offered = delivered + queued + dropped               (datagrams, since the start)
//! notify.*     : offered = delivered + queued + dropped               (notifications, since the start)
//! completeness = datagrams / (datagrams + kernel_drops + unread)      (streams count as complete)
//!                of scale-out times cluster.edges_heard / cluster.edges_expected
//! ```
//! A partly bad line counts in `malformed` only, its good samples in `samples`.
#![deny(clippy::disallowed_methods)]

pub mod accounts;
mod entry;
mod notifier;
mod reasons;
mod tally;
mod warning;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::memory::Level;
use crate::protocol::Kind;
use crate::series::Series;

pub use accounts::{
    CaptureAccount, ClusterAccount, ClusterPartitionAccount, FlushAccount, HistoryAccount, HolderAccount, Limited,
    LineAccount, ListenerAccount, LogAccount, ManagementAccount, MemoryAccount, NotifierAccount, PartAccount,
    PortAccount, PresenceAccount, Refused, RelayAccount, SampleAccount, SeriesAccount, SinkAccount, StateAccount,
    TargetAccount,
};
pub use entry::{Account, Entry, EntryKind, Family, Term, Value, Visit};
pub use reasons::{Counts, Limit, Named, PartState, Reasons, Refusal};
pub use tally::Tally;
pub use warning::{Concern, Warning};

/// From here on a receive buffer is so full that a warning is due: datagrams are dropped at 1.
pub const QUEUE_WARNING: f64 = 0.75;

/// One interval's account, or the account since the start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ledger {
    /// By listener, in the order of the configuration.
    pub listeners: Vec<ListenerAccount>,
    /// Lines.
    pub lines: LineAccount,
    /// Values.
    pub samples: SampleAccount,
    /// Series held.
    pub series: SeriesAccount,
    /// By sink, since the start.
    pub sinks: BTreeMap<String, SinkAccount>,
    /// By relay, since the start.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub relays: BTreeMap<String, RelayAccount>,
    /// By target of notifications, since the start.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub notify: BTreeMap<String, NotifierAccount>,
    /// The daemon's own log.
    #[serde(default)]
    pub log: LogAccount,
    /// What `--capture` writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capture: Option<CaptureAccount>,
    /// Heartbeats.
    #[serde(default)]
    pub presence: PresenceAccount,
    /// By URL of the port, since the start.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ports: BTreeMap<String, PortAccount>,
    /// The management port.
    #[serde(default)]
    pub management: ManagementAccount,
    /// The memory.
    #[serde(default)]
    pub memory: MemoryAccount,
    /// The history.
    #[serde(default)]
    pub history: HistoryAccount,
    /// By part of the state folder, since the start.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub state: BTreeMap<String, StateAccount>,
    /// By part of the daemon, since the start.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parts: BTreeMap<String, PartAccount>,
    /// Of scale-out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterAccount>,
    /// The flush.
    pub flush: FlushAccount,
    /// In the first interval after a process that ended without a clean stop: seconds between its last sign of life and the
    /// start.
    #[serde(default)]
    pub unclean_stop: Option<f64>,
    /// Share of datagrams that were read, of all that came to our sockets, 0 to 1; of scale-out times the share of edges
    /// that were heard.
    pub completeness: f64,
}

/// The share that has no account: it is worked out from the listeners.
const COMPLETENESS: &[Entry] = &[Entry::new(
    "completeness",
    EntryKind::Gauge,
    "Share of datagrams that were read, of all that came to our sockets, 0 to 1; of scale-out times the share of edges that were heard.",
)
.series("completeness")
.metric("systole_completeness_ratio")];

/// What has no account either: it says how the last process ended.
const UNCLEAN_STOP: &[Entry] = &[Entry::new(
    "unclean_stop",
    EntryKind::Gauge,
    "Seconds between the last sign of life of a process that ended without a clean stop, and the start of this one.",
)
.series("unclean_stop")
.metric("systole_unclean_stop_seconds")];

/// One part of the ledger in the table: where it stands, its tags, and its entries.
#[cfg(feature = "internals")]
pub type Part = (&'static str, &'static [&'static str], &'static [Entry]);

#[cfg(feature = "internals")]
const fn part<A: Account>() -> Part {
    (A::PART, A::LABELS, A::ENTRIES)
}

/// The whole table of counters, in the order of the ledger.
#[cfg(feature = "internals")]
pub const TABLE: [Part; 23] = [
    part::<ListenerAccount>(),
    part::<LineAccount>(),
    part::<SampleAccount>(),
    part::<SeriesAccount>(),
    part::<SinkAccount>(),
    part::<RelayAccount>(),
    part::<TargetAccount>(),
    part::<NotifierAccount>(),
    part::<LogAccount>(),
    part::<CaptureAccount>(),
    part::<PresenceAccount>(),
    part::<PortAccount>(),
    part::<ManagementAccount>(),
    part::<MemoryAccount>(),
    part::<HolderAccount>(),
    part::<HistoryAccount>(),
    part::<StateAccount>(),
    part::<PartAccount>(),
    part::<ClusterAccount>(),
    part::<ClusterPartitionAccount>(),
    part::<FlushAccount>(),
    ("", &[], UNCLEAN_STOP),
    ("", &[], COMPLETENESS),
];

/// Tags and labels of an account.
pub type Labels<'a> = [(&'static str, &'a str)];

/// Calls with where an account stands in the ledger, its labels, and each of its entries with its value.
pub type VisitPart<'a> = dyn FnMut(&'static str, &Labels<'_>, &'static Entry, &dyn Value) + 'a;

/// A metric of `/metrics` with its samples.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// Its name, without `_total`.
    pub name: &'static str,
    /// The text of `# HELP`.
    pub help: &'static str,
    /// Whether it is a counter; else it is a gauge.
    pub is_counter: bool,
    /// Labels and value of each sample.
    pub samples: Vec<(Vec<(&'static str, String)>, f64)>,
}

impl Ledger {
    /// Puts a tally into the account of lines and samples.
    pub fn count(&mut self, tally: &Tally) {
        self.lines.add(&tally.lines);
        self.samples.add(&tally.samples);
        self.memory.add(&tally.memory);
    }

    /// Adds a later interval's account, to one since the start. Levels (series, sinks, flush) are replaced.
    pub fn add(&mut self, later: &Ledger) {
        self.add_counts(later);
        self.series = later.series.clone();
        self.sinks.clone_from(&later.sinks);
        self.relays.clone_from(&later.relays);
        self.notify.clone_from(&later.notify);
        self.ports.clone_from(&later.ports);
        self.parts.clone_from(&later.parts);
        self.state.clone_from(&later.state);
        self.unclean_stop = later.unclean_stop.or(self.unclean_stop);
        self.flush.add(&later.flush);
    }

    /// Adds what was counted later, and leaves levels as they are.
    pub fn add_counts(&mut self, later: &Ledger) {
        if self.listeners.len() < later.listeners.len() {
            self.listeners.resize_with(later.listeners.len(), ListenerAccount::default);
        }
        self.listeners.iter_mut().zip(&later.listeners).for_each(|(total, new)| total.add(new));
        self.lines.add(&later.lines);
        self.samples.add(&later.samples);
        self.log.add(&later.log);
        if let Some(capture) = &later.capture {
            self.capture.get_or_insert_default().add(capture);
        }
        self.presence.add(&later.presence);
        self.management.add(&later.management);
        self.memory.add(&later.memory);
        self.history.add(&later.history);
        if let Some(cluster) = &later.cluster {
            self.cluster.get_or_insert_default().add(cluster);
        }
        self.update_completeness();
    }

    /// Adds another node's account of the same interval: what it received, what it holds, and what gave way. What a node sends
    /// and how its parts are is its own.
    pub fn unite(&mut self, other: &Ledger) {
        for theirs in &other.listeners {
            match self.listeners.iter_mut().find(|ours| ours.url == theirs.url) {
                Some(ours) => {
                    let (buffer, peak) = (ours.receive_buffer, ours.queue_peak);
                    ours.add(theirs);
                    ours.receive_buffer = ours.receive_buffer.saturating_add(buffer);
                    ours.queue_peak = ours.queue_peak.max(peak);
                }
                None => self.listeners.push(theirs.clone()),
            }
        }
        self.lines.add(&other.lines);
        self.samples.add(&other.samples);
        for (ours, theirs) in [
            (&mut self.series.counters, other.series.counters),
            (&mut self.series.gauges, other.series.gauges),
            (&mut self.series.timers, other.series.timers),
            (&mut self.series.sets, other.series.sets),
            (&mut self.series.kvs, other.series.kvs),
        ] {
            *ours = ours.saturating_add(theirs);
        }
        self.log.add(&other.log);
        if let Some(capture) = &other.capture {
            self.capture.get_or_insert_default().add(capture);
        }
        self.presence.add(&other.presence);
        self.management.add(&other.management);
        self.memory.unite(&other.memory);
        self.flush = FlushAccount {
            duration_secs: self.flush.duration_secs.max(other.flush.duration_secs),
            late_secs: self.flush.late_secs.max(other.flush.late_secs),
            failed: self.flush.failed.saturating_add(other.flush.failed),
        };
        self.update_completeness();
    }

    /// Adds what another process has counted of the same interval at its listeners. Levels stay.
    pub fn unite_listeners(&mut self, others: &[ListenerAccount]) {
        for theirs in others {
            match self.listeners.iter_mut().find(|ours| ours.url == theirs.url) {
                Some(ours) => {
                    let (buffer, peak) = (ours.receive_buffer, ours.queue_peak);
                    ours.add(theirs);
                    (ours.receive_buffer, ours.queue_peak) = (buffer, peak.max(theirs.queue_peak));
                }
                None => self.listeners.push(theirs.clone()),
            }
        }
    }

    /// Works `completeness` out from the listeners and the edges.
    pub fn update_completeness(&mut self) {
        // Edges of a cluster say what they want to.
        let sum = |of: fn(&ListenerAccount) -> f64| self.listeners.iter().map(of).sum::<f64>();
        let read = sum(|listener| listener.datagrams as f64);
        let lost = sum(|listener| listener.kernel_drops as f64 + listener.unread as f64);
        let datagrams = if lost == 0.0 { 1.0 } else { read / (read + lost) };
        self.completeness = datagrams * self.cluster.as_ref().map_or(1.0, ClusterAccount::heard);
    }

    /// All malformed lines.
    pub fn malformed_total(&self) -> u64 {
        self.lines.malformed.total()
    }

    /// What somebody should look at before data is lost.
    pub fn warnings(&self) -> Vec<Warning> {
        let nearly_full = self.listeners.iter().filter(|listener| listener.queue_peak >= QUEUE_WARNING);
        let warning = |listener: &ListenerAccount| {
            let (url, percent) = (&listener.url, (listener.queue_peak * 100.0).floor());
            Concern::Queue.says(format!(
                "{url}: the receive buffer was {percent} % full; when it is full, the kernel drops datagrams"
            ))
        };
        let broken = self.parts.iter().filter(|(_, part)| !part.up).map(|(name, part)| {
            let why = part.last_failure.as_deref().unwrap_or("it has ended");
            Concern::Part.says(format!("{name} is {}: {why}", part.state.name()))
        });
        let memory = (self.memory.level > 0).then(|| {
            let MemoryAccount { level, live, max, .. } = self.memory;
            let gives_way = Level::of(u8::try_from(level).unwrap_or(u8::MAX)).gives_way();
            Concern::Memory.says(format!(
                "memory is at level {level} of 4, {} of {} MiB live: {gives_way} gave way; see `memory.holders`, or raise \
                 `max_memory`",
                live >> 20,
                max >> 20
            ))
        });
        nearly_full.map(warning).chain(broken).chain(memory).collect()
    }

    /// Whether the equations hold.
    ///
    /// # Errors
    /// The first equation that does not, with its numbers.
    pub fn check(&self) -> Result<(), String> {
        fn check<A: Account + std::fmt::Debug>(name: &str, account: &A) -> Result<(), String> {
            account.check().map_err(|(field, whole, parts)| {
                format!("{}{name}.{field} is {whole}, its parts are {parts}: {account:?}", A::PART)
            })
        }
        check("", &self.lines)?;
        check("", &self.samples)?;
        self.sinks.iter().try_for_each(|(name, sink)| check(&format!(".{name}"), sink))?;
        self.relays.iter().try_for_each(|(name, relay)| check(&format!(".{name}"), relay))?;
        self.notify.iter().try_for_each(|(name, target)| check(&format!(".{name}"), target))?;
        if !(0.0..=1.0).contains(&self.completeness) {
            return Err(format!("completeness is {}", self.completeness));
        }
        Ok(())
    }

    /// Shows every field of every account, with the labels of the account, in the order of the table.
    pub fn each(&self, visit: &mut dyn FnMut(&Labels<'_>, &'static Entry, &dyn Value)) {
        self.each_part(&mut |_, labels, entry, value| visit(labels, entry, value));
    }

    /// The same with where each account stands in the ledger.
    pub fn each_part(&self, visit: &mut VisitPart<'_>) {
        fn account<A: Account>(labels: &Labels<'_>, account: &A, visit: &mut VisitPart<'_>) {
            account.each(&mut |entry, value| visit(A::PART, labels, entry, value));
        }
        self.listeners.iter().for_each(|listener| account(&[("listener", &listener.url)], listener, visit));
        account(&[], &self.lines, visit);
        account(&[], &self.samples, visit);
        account(&[], &self.series, visit);
        self.sinks.iter().for_each(|(name, sink)| account(&[("sink", name)], sink, visit));
        for (name, relay) in &self.relays {
            account(&[("relay", name)], relay, visit);
            for (target, sent) in &relay.targets {
                account(&[("relay", name), ("target", target)], sent, visit);
            }
        }
        self.notify.iter().for_each(|(name, target)| account(&[("target", name)], target, visit));
        account(&[], &self.log, visit);
        self.capture.iter().for_each(|capture| account(&[], capture, visit));
        account(&[], &self.presence, visit);
        self.ports.iter().for_each(|(url, port)| account(&[("port", url)], port, visit));
        account(&[], &self.management, visit);
        account(&[], &self.memory, visit);
        self.memory.holders.iter().for_each(|(name, holder)| account(&[("holder", name)], holder, visit));
        account(&[], &self.history, visit);
        self.state.iter().for_each(|(name, part)| account(&[("part", name)], part, visit));
        self.parts.iter().for_each(|(name, part)| account(&[("part", name)], part, visit));
        if let Some(cluster) = &self.cluster {
            account(&[], cluster, visit);
            cluster.partitions.iter().for_each(|(number, own)| account(&[("partition", number)], own, visit));
        }
        account(&[], &self.flush, visit);
        if let Some(since) = self.unclean_stop {
            visit("", &[], &UNCLEAN_STOP[0], &since);
        }
        visit("", &[], &COMPLETENESS[0], &self.completeness);
    }

    /// The account as series: counters with what this interval added, gauges with levels. `before` says what sinks,
    /// relays, targets of notifications, ports and parts had counted at the interval's start.
    pub fn series(&self, before: &Ledger) -> Vec<(Series, f64)> {
        let mut fresh = self.clone();
        Value::subtract(&mut fresh.sinks, &before.sinks);
        Value::subtract(&mut fresh.relays, &before.relays);
        Value::subtract(&mut fresh.notify, &before.notify);
        Value::subtract(&mut fresh.ports, &before.ports);
        Value::subtract(&mut fresh.parts, &before.parts);
        Value::subtract(&mut fresh.state, &before.state);
        let mut out = Vec::new();
        fresh.each(&mut |labels, entry, value| {
            let Some(name) = entry.series else { return };
            let kind = if entry.kind == EntryKind::Counter { Kind::Counter } else { Kind::Gauge };
            let mut push = |own: Option<(&'static str, &str)>, value: f64| {
                let tags: Vec<_> = labels.iter().copied().chain(own).map(|(key, value)| (key, Some(value))).collect();
                out.push((Series::new(kind, &format!("systole.{name}"), &tags), value));
            };
            match entry.by {
                Some(key) if !entry.is_summed => value.each(&mut |reason, count| push(Some((key, reason)), count)),
                _ if entry.is_rare && value.count() == 0 => {}
                _ => push(entry.tag, value.number()),
            }
        });
        out
    }

    /// The account as metrics of `/metrics`, in the order of the table; those without samples are left out.
    pub fn metrics(&self) -> Vec<Metric> {
        let mut all: Vec<Metric> = Vec::new();
        self.each(&mut |labels, entry, value| {
            let is_counter = entry.kind == EntryKind::Counter;
            let mut push = |name: &'static str, help: &'static str, own: Option<(&'static str, &str)>, value: f64| {
                let labels = labels.iter().copied().chain(own).map(|(key, value)| (key, value.to_string()));
                let sample = (labels.collect(), value);
                match all.iter_mut().find(|metric| metric.name == name) {
                    Some(metric) => metric.samples.push(sample),
                    None => all.push(Metric { name, help, is_counter, samples: vec![sample] }),
                }
            };
            if let Some((family, label)) = entry.family {
                push(family.name, family.help, Some((family.label, label)), value.number());
            }
            match (entry.metric, entry.by) {
                (Some(name), Some(key)) => {
                    value.each(&mut |reason, count| push(name, entry.help(), Some((key, reason)), count));
                }
                (Some(name), None) => push(name, entry.help(), None, value.number()),
                (None, _) => {}
            }
        });
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_that_does_not_add_up_is_found() {
        let mut ledger = Ledger { completeness: 1.0, ..Ledger::default() };
        assert_eq!(ledger.check(), Ok(()));
        let lines = LineAccount { read: 2, metrics: 1, ..LineAccount::default() };
        ledger.count(&Tally { lines, ..Tally::default() });
        assert!(ledger.check().is_err_and(|e| e.starts_with("lines.read is 2, its parts are 1")));
        let relay = RelayAccount { offered: 3, delivered: 1, queued: 1, ..RelayAccount::default() };
        let ledger = Ledger { relays: [("raw".into(), relay)].into(), completeness: 1.0, ..Ledger::default() };
        assert!(ledger.check().is_err_and(|e| e.starts_with("relays.raw.offered is 3, its parts are 2")));
    }

    #[test]
    fn completeness_is_the_share_of_datagrams_that_were_read() {
        let listener = ListenerAccount { datagrams: 75, kernel_drops: 20, unread: 5, ..ListenerAccount::default() };
        let mut ledger = Ledger { listeners: vec![listener], ..Ledger::default() };
        ledger.update_completeness();
        assert_eq!(ledger.completeness, 0.75);
    }
}
