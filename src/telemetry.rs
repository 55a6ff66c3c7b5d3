//! The ledger: what came in, what became of it, and what was lost, each counted once.
//!
//! It is published with every interval, as a record and as series, and since the start in `/metrics` and
//! `/api/v1/status`. These hold at every flush ([`Ledger::check`], and tests):
//!
//! ```text
//! lines.read   = metrics + events + service_checks + heartbeats + empty + malformed
//! samples.read = recorded + folded + timestamped + dropped_by_rule + limited
//! sinks.*      : offered = delivered + queued + spooled + dropped     (records, since the start)
//! relays.*     : offered = delivered + queued + dropped               (datagrams, since the start)
//! completeness = datagrams / (datagrams + kernel_drops + unread)      (streams count as complete)
//! ```
//! A partly bad line counts in `malformed` only, its good samples in `samples`.
//!
//! | series | kind | tags | counts |
//! |---|---|---|---|
//! | `systole.datagrams` `.bytes` `.kernel_drops` `.truncated` `.refused` `.connections` `.unread` `.unread_bytes` | counter | `listener` | the listener's fields |
//! | `systole.lines.read` `.metrics` `.events` `.service_checks` `.heartbeats` `.empty` | counter | | lines |
//! | `systole.lines.malformed` | counter | `reason` | malformed lines |
//! | `systole.samples.read` `.recorded` `.folded` `.timestamped` `.dropped_by_rule` | counter | | values |
//! | `systole.samples.limited` | counter | `limit` | values beyond a bound |
//! | `systole.sections_skipped` `systole.notes_dropped` | counter | | unknown sections; events and checks beyond their bound |
//! | `systole.presence.queue_drops` | counter | | heartbeats that presence's full queue did not take |
//! | `systole.lines.tags_cut` | counter | | tags beyond `max_tags` |
//! | `systole.series` | gauge | `kind` | series held |
//! | `systole.sinks.offered` `.delivered` `.dropped` | counter | `sink` | records |
//! | `systole.sinks.queued` `.spooled` | gauge | `sink` | records waiting |
//! | `systole.relays.offered` `.delivered` `.dropped` | counter | `relay` | datagrams, and pieces of streams |
//! | `systole.relays.queued` | gauge | `relay` | those on their way |
//! | `systole.log.lines_lost` `.lines_suppressed` | counter | | lines of the daemon's log that nobody read in time; lines beyond the limit of their kind |
//! | `systole.capture.rows` `.lost` | counter | | rows that `--capture` wrote; rows that are not in the file |
//! | `systole.management.http_requests` | counter | | requests of HTTP at the management port; each ended its connection |
//! | `systole.flush.duration_secs` `systole.flush.late_secs` `systole.completeness` | gauge | | the flush |
#![deny(clippy::disallowed_methods)]

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::aggregate::Tally;
use crate::lasting::{Word, lasting_keys};
use crate::protocol::{Kind, Reason};
use crate::series::Series;

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
    /// The daemon's own log.
    #[serde(default)]
    pub log: LogAccount,
    /// What `--capture` writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capture: Option<CaptureAccount>,
    /// Heartbeats.
    #[serde(default)]
    pub presence: PresenceAccount,
    /// The management port.
    #[serde(default)]
    pub management: ManagementAccount,
    /// The flush.
    pub flush: FlushAccount,
    /// Share of datagrams that were read, of all that came to our sockets, 0 to 1.
    pub completeness: f64,
}

/// Heartbeats that presence did not get or did not take. They are lines as all others, and counted as such, too.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PresenceAccount {
    /// What lines said of presence and its full queue did not take.
    pub queue_drops: u64,
    /// What was heard and refused, by reason; reasons that did not occur are left out.
    #[serde(deserialize_with = "lasting_keys")]
    pub refused: BTreeMap<Word, u64>,
    /// Services that were not established and gave way to new ones.
    pub evicted: u64,
}

impl PresenceAccount {
    fn add(&mut self, later: &PresenceAccount) {
        self.queue_drops += later.queue_drops;
        later.refused.iter().for_each(|(reason, n)| *self.refused.entry(reason).or_default() += n);
        self.evicted += later.evicted;
    }
}

/// What a relay passed on, since the start, in datagrams and pieces of streams as they came in.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RelayAccount {
    /// All that came in.
    pub offered: u64,
    /// Of those, what was sent whole, to every target that should have it.
    pub delivered: u64,
    /// Of those, what is on its way.
    pub queued: u64,
    /// Of those, what was not sent, or not whole, or not to every target, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// By target, in lines.
    pub targets: BTreeMap<String, TargetAccount>,
}

/// What a target of a relay was sent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TargetAccount {
    /// Whether it is thought to be there.
    pub up: bool,
    /// Lines sent.
    pub lines: u64,
    /// Datagrams they went in.
    pub datagrams: u64,
    /// Lines that were not sent: it was down, and nobody took over.
    pub lost: u64,
}

/// What a listener received.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ListenerAccount {
    /// As bound: a port 0 is the one that was chosen.
    pub url: String,
    /// What the kernel granted, in bytes, all workers together; 0 for streams.
    pub receive_buffer: u64,
    /// Datagrams read.
    pub datagrams: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Datagrams that the kernel dropped because the buffer was full.
    pub kernel_drops: u64,
    /// Datagrams larger than `max_datagram`: their whole lines were read, the rest is lost.
    pub truncated: u64,
    /// Datagrams and connections refused.
    pub refused: u64,
    /// Connections accepted.
    pub connections: u64,
    /// Datagrams that the deadline of a stop left unread.
    #[serde(default)]
    pub unread: u64,
    /// Bytes, of datagrams and of connections, that the deadline of a stop left unread.
    #[serde(default)]
    pub unread_bytes: u64,
}

/// What became of lines.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LineAccount {
    /// All lines.
    pub read: u64,
    /// Metric lines without a fault.
    pub metrics: u64,
    /// Events.
    pub events: u64,
    /// Service checks.
    pub service_checks: u64,
    /// Heartbeats.
    pub heartbeats: u64,
    /// Blank lines.
    pub empty: u64,
    /// Lines with a fault, by reason; reasons that did not occur are left out.
    #[serde(deserialize_with = "lasting_keys")]
    pub malformed: BTreeMap<Word, u64>,
    /// Unknown sections, skipped.
    pub sections_skipped: u64,
    /// Events and service checks beyond the bound of an interval: counted above, but not kept.
    pub notes_dropped: u64,
    /// Tags beyond `max_tags`, cut: they are tags, not lines, and in no equation.
    #[serde(default)]
    pub tags_cut: u64,
}

/// What became of values.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SampleAccount {
    /// All well-formed values.
    pub read: u64,
    /// Recorded in a series of their own.
    pub recorded: u64,
    /// Recorded in an overflow series.
    pub folded: u64,
    /// Kept apart for their own time.
    pub timestamped: u64,
    /// Dropped by a rule.
    pub dropped_by_rule: u64,
    /// Dropped because a bound was reached, by bound.
    #[serde(deserialize_with = "lasting_keys")]
    pub limited: BTreeMap<Word, u64>,
}

/// Series held at the end of the interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeriesAccount {
    /// Counters.
    pub counters: u64,
    /// Gauges.
    pub gauges: u64,
    /// Timers, histograms and distributions.
    pub timers: u64,
    /// Sets.
    pub sets: u64,
    /// Key-value pairs.
    pub kvs: u64,
}

/// What became of records at a sink, since the start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SinkAccount {
    /// Records offered.
    pub offered: u64,
    /// Records the sink took.
    pub delivered: u64,
    /// Records waiting in memory.
    pub queued: u64,
    /// Records waiting on disk.
    pub spooled: u64,
    /// Records given up, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// When a delivery last succeeded, Unix seconds; 0 for never.
    pub last_success: f64,
    /// What went wrong last; `null` after a delivery that left out nothing as unencodable.
    pub last_error: Option<String>,
    /// Bytes that its spool takes on disk.
    pub spool_bytes: u64,
    /// End of the oldest interval that waits, Unix seconds.
    pub oldest_waiting: Option<f64>,
    /// When a delivery last failed, Unix seconds; 0 for never.
    #[serde(skip)]
    pub last_failure: f64,
    /// How long the last delivery took, ms.
    #[serde(skip)]
    pub delivery_ms: f64,
    /// How many bytes it had; 0 where nobody counts them.
    #[serde(skip)]
    pub delivery_bytes: u64,
}

/// What became of the lines of the daemon's own log; those that were written are not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogAccount {
    /// Lines that could not be written: nobody read standard error in time, or its disk was full.
    pub lines_lost: u64,
    /// Lines beyond what passes of one kind.
    pub lines_suppressed: u64,
}

/// What became of pieces of the wire that were to be recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureAccount {
    /// Rows written.
    pub rows: u64,
    /// Rows that are not in the file: it was too slow or full, or `max_size` was reached.
    pub lost: u64,
}

/// What came to the management port and is no command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagementAccount {
    /// Requests of HTTP; each ended its connection, and nothing after it was executed.
    pub http_requests: u64,
}

/// How the flush went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FlushAccount {
    /// From the tick to the finished snapshot, in seconds.
    pub duration_secs: f64,
    /// How late the tick was, in seconds.
    pub late_secs: f64,
}

impl Ledger {
    /// Puts a tally into the account of lines and samples.
    pub fn count(&mut self, tally: &Tally) {
        let lines = &mut self.lines;
        lines.read += tally.lines;
        lines.metrics += tally.metrics;
        lines.events += tally.events;
        lines.service_checks += tally.service_checks;
        lines.heartbeats += tally.heartbeats;
        lines.empty += tally.empty;
        lines.sections_skipped += tally.sections_skipped;
        lines.notes_dropped += tally.notes_dropped;
        lines.tags_cut += tally.tags_cut;
        for (reason, &count) in Reason::ALL.iter().zip(&tally.malformed) {
            if count > 0 {
                *lines.malformed.entry(reason.name()).or_default() += count;
            }
        }
        let samples = &mut self.samples;
        samples.read += tally.samples;
        samples.recorded += tally.recorded;
        samples.folded += tally.folded;
        samples.timestamped += tally.timestamped;
        samples.dropped_by_rule += tally.dropped_by_rule;
        if tally.stamped_limited > 0 {
            *samples.limited.entry("timestamped").or_default() += tally.stamped_limited;
        }
        if tally.kv_limited > 0 {
            *samples.limited.entry("kv_values").or_default() += tally.kv_limited;
        }
    }

    /// Adds a later interval's account, to one since the start. Levels (series, sinks, flush) are replaced.
    pub fn add(&mut self, later: &Ledger) {
        if self.listeners.len() < later.listeners.len() {
            self.listeners.resize_with(later.listeners.len(), ListenerAccount::default);
        }
        for (total, new) in self.listeners.iter_mut().zip(&later.listeners) {
            total.url.clone_from(&new.url);
            total.receive_buffer = new.receive_buffer;
            total.datagrams += new.datagrams;
            total.bytes += new.bytes;
            total.kernel_drops += new.kernel_drops;
            total.truncated += new.truncated;
            total.refused += new.refused;
            total.connections += new.connections;
            total.unread += new.unread;
            total.unread_bytes += new.unread_bytes;
        }
        let (lines, new) = (&mut self.lines, &later.lines);
        lines.read += new.read;
        lines.metrics += new.metrics;
        lines.events += new.events;
        lines.service_checks += new.service_checks;
        lines.heartbeats += new.heartbeats;
        lines.empty += new.empty;
        lines.sections_skipped += new.sections_skipped;
        lines.notes_dropped += new.notes_dropped;
        lines.tags_cut += new.tags_cut;
        new.malformed.iter().for_each(|(reason, n)| *lines.malformed.entry(reason).or_default() += n);
        let (samples, new) = (&mut self.samples, &later.samples);
        samples.read += new.read;
        samples.recorded += new.recorded;
        samples.folded += new.folded;
        samples.timestamped += new.timestamped;
        samples.dropped_by_rule += new.dropped_by_rule;
        new.limited.iter().for_each(|(limit, n)| *samples.limited.entry(limit).or_default() += n);
        self.log.lines_lost += later.log.lines_lost;
        self.log.lines_suppressed += later.log.lines_suppressed;
        if let Some(new) = later.capture {
            let capture = self.capture.get_or_insert_default();
            capture.rows += new.rows;
            capture.lost += new.lost;
        }
        self.presence.add(&later.presence);
        self.management.http_requests += later.management.http_requests;
        self.series = later.series;
        self.sinks.clone_from(&later.sinks);
        self.relays.clone_from(&later.relays);
        self.flush = later.flush;
        self.settle();
    }

    /// Works `completeness` out from the listeners.
    pub fn settle(&mut self) {
        let (read, lost) = self
            .listeners
            .iter()
            .fold((0, 0), |(read, lost), l| (read + l.datagrams, lost + l.kernel_drops + l.unread));
        self.completeness = if lost == 0 { 1.0 } else { read as f64 / (read + lost) as f64 };
    }

    /// All malformed lines.
    pub fn malformed_total(&self) -> u64 {
        self.lines.malformed.values().sum()
    }

    /// Whether the equations hold.
    ///
    /// # Errors
    /// The first equation that does not, with its numbers.
    pub fn check(&self) -> Result<(), String> {
        let l = &self.lines;
        let parts = l.metrics + l.events + l.service_checks + l.heartbeats + l.empty + self.malformed_total();
        if l.read != parts {
            return Err(format!("lines.read is {}, its parts are {parts}: {l:?}", l.read));
        }
        let s = &self.samples;
        let parts = s.recorded + s.folded + s.timestamped + s.dropped_by_rule + s.limited.values().sum::<u64>();
        if s.read != parts {
            return Err(format!("samples.read is {}, its parts are {parts}: {s:?}", s.read));
        }
        for (name, sink) in &self.sinks {
            let parts = sink.delivered + sink.queued + sink.spooled + sink.dropped.values().sum::<u64>();
            if sink.offered != parts {
                return Err(format!("sink {name}: offered is {}, its parts are {parts}: {sink:?}", sink.offered));
            }
        }
        for (name, relay) in &self.relays {
            let parts = relay.delivered + relay.queued + relay.dropped.values().sum::<u64>();
            if relay.offered != parts {
                return Err(format!("relay {name}: offered is {}, its parts are {parts}: {relay:?}", relay.offered));
            }
        }
        if !(0.0..=1.0).contains(&self.completeness) {
            return Err(format!("completeness is {}", self.completeness));
        }
        Ok(())
    }

    /// The account as series: counters with what this interval added, gauges with levels. `before` says what sinks and
    /// relays had counted at the interval's start.
    pub fn series(&self, before: &Ledger) -> Vec<(Series, f64)> {
        let mut out = Vec::new();
        let mut push = |kind: Kind, name: &str, tag: Option<(&str, &str)>, value: f64| {
            let tags: Vec<_> = tag.into_iter().map(|(key, value)| (key, Some(value))).collect();
            out.push((Series::new(kind, &format!("systole.{name}"), &tags), value));
        };
        for l in &self.listeners {
            let tag = Some(("listener", l.url.as_str()));
            for (name, value) in [
                ("datagrams", l.datagrams),
                ("bytes", l.bytes),
                ("kernel_drops", l.kernel_drops),
                ("truncated", l.truncated),
                ("refused", l.refused),
                ("connections", l.connections),
            ] {
                push(Kind::Counter, name, tag, value as f64);
            }
            // Only ever in the last interval of a daemon.
            for (name, value) in [("unread", l.unread), ("unread_bytes", l.unread_bytes)] {
                if value > 0 {
                    push(Kind::Counter, name, tag, value as f64);
                }
            }
        }
        let (l, s) = (&self.lines, &self.samples);
        for (name, value) in [
            ("lines.read", l.read),
            ("lines.metrics", l.metrics),
            ("lines.events", l.events),
            ("lines.service_checks", l.service_checks),
            ("lines.heartbeats", l.heartbeats),
            ("lines.empty", l.empty),
            ("samples.read", s.read),
            ("samples.recorded", s.recorded),
            ("samples.folded", s.folded),
            ("samples.timestamped", s.timestamped),
            ("samples.dropped_by_rule", s.dropped_by_rule),
            ("sections_skipped", l.sections_skipped),
            ("notes_dropped", l.notes_dropped),
            ("presence.queue_drops", self.presence.queue_drops),
            ("lines.tags_cut", l.tags_cut),
        ] {
            push(Kind::Counter, name, None, value as f64);
        }
        for (reason, &count) in &l.malformed {
            push(Kind::Counter, "lines.malformed", Some(("reason", reason)), count as f64);
        }
        for (limit, &count) in &s.limited {
            push(Kind::Counter, "samples.limited", Some(("limit", limit)), count as f64);
        }
        let SeriesAccount { counters, gauges, timers, sets, kvs } = self.series;
        for (kind, value) in [("counter", counters), ("gauge", gauges), ("timer", timers), ("set", sets), ("kv", kvs)] {
            push(Kind::Gauge, "series", Some(("kind", kind)), value as f64);
        }
        for (name, sink) in &self.sinks {
            let tag = Some(("sink", name.as_str()));
            let old = before.sinks.get(name).cloned().unwrap_or_default();
            let given_up = |account: &SinkAccount| account.dropped.values().sum::<u64>();
            push(Kind::Counter, "sinks.offered", tag, sink.offered.saturating_sub(old.offered) as f64);
            push(Kind::Counter, "sinks.delivered", tag, sink.delivered.saturating_sub(old.delivered) as f64);
            push(Kind::Counter, "sinks.dropped", tag, given_up(sink).saturating_sub(given_up(&old)) as f64);
            push(Kind::Gauge, "sinks.queued", tag, sink.queued as f64);
            push(Kind::Gauge, "sinks.spooled", tag, sink.spooled as f64);
        }
        for (name, relay) in &self.relays {
            let tag = Some(("relay", name.as_str()));
            let old = before.relays.get(name).cloned().unwrap_or_default();
            let given_up = |account: &RelayAccount| account.dropped.values().sum::<u64>();
            push(Kind::Counter, "relays.offered", tag, relay.offered.saturating_sub(old.offered) as f64);
            push(Kind::Counter, "relays.delivered", tag, relay.delivered.saturating_sub(old.delivered) as f64);
            push(Kind::Counter, "relays.dropped", tag, given_up(relay).saturating_sub(given_up(&old)) as f64);
            push(Kind::Gauge, "relays.queued", tag, relay.queued as f64);
        }
        push(Kind::Counter, "log.lines_lost", None, self.log.lines_lost as f64);
        push(Kind::Counter, "log.lines_suppressed", None, self.log.lines_suppressed as f64);
        if let Some(capture) = self.capture {
            push(Kind::Counter, "capture.rows", None, capture.rows as f64);
            push(Kind::Counter, "capture.lost", None, capture.lost as f64);
        }
        push(Kind::Counter, "management.http_requests", None, self.management.http_requests as f64);
        push(Kind::Gauge, "flush.duration_secs", None, self.flush.duration_secs);
        push(Kind::Gauge, "flush.late_secs", None, self.flush.late_secs);
        push(Kind::Gauge, "completeness", None, self.completeness);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_that_does_not_add_up_is_found() {
        let mut ledger = Ledger { completeness: 1.0, ..Ledger::default() };
        assert_eq!(ledger.check(), Ok(()));
        ledger.count(&Tally { lines: 2, metrics: 1, ..Tally::default() });
        assert!(ledger.check().is_err_and(|e| e.starts_with("lines.read is 2, its parts are 1")));
    }

    #[test]
    fn completeness_is_the_share_of_datagrams_that_were_read() {
        let listener = ListenerAccount { datagrams: 75, kernel_drops: 20, unread: 5, ..ListenerAccount::default() };
        let mut ledger = Ledger { listeners: vec![listener], ..Ledger::default() };
        ledger.settle();
        assert_eq!(ledger.completeness, 0.75);
    }
}
