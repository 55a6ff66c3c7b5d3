//! The table of counters. Each entry is a field of an account, with everything that is done with it: where it is added, the
//! equation it is part of, its series, its metric of `/metrics`, and its line in `docs/ledger.md`. Its comment is the help
//! text of both.
//!
//! ```text
//! /// What it counts.
//! Counter|Gauge|Detail FIELD: TYPE, whole()|part(), series("…"), metric("…");
//! ```
//!
//! | word | meaning |
//! |---|---|
//! | `whole()`, `part()` | the whole of an account is the sum of its parts |
//! | `series(name)` | its series is `systole.NAME`, tagged with the labels of the account |
//! | `tagged(key, value)` | and with this |
//! | `metric(name)` | its metric, with the labels of the account; a counter's ends in `_total` |
//! | `within(&FAMILY, value)` | it is a value of a metric that several entries share |
//! | `by(key)` | it is counted by reason: the tag and label for that |
//! | `summed()` | its series has no reasons, only the sum |
//! | `rare()` | its series is left out while it is 0 |

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::protocol::Reason;

use super::entry::{Account, Entry, EntryKind, Family, Value, Visit, accounts};
use super::reasons::{Counts, Limit, Named, PartState, Reasons, Refusal};

const LINES: Family = Family { name: "systole_lines", help: "Lines read, by what they were.", label: "kind" };

const SAMPLES: Family =
    Family { name: "systole_samples", help: "Well-formed values, by what became of them.", label: "outcome" };

const SERIES: Family =
    Family { name: "systole_series", help: "Series held at the end of the last interval.", label: "kind" };

/// Malformed lines by reason.
pub type Malformed = Counts<Reason, { Reason::ALL.len() }>;

/// Values that a bound made be dropped, by bound.
pub type Limited = Counts<Limit, { <Limit as Named>::ALL.len() }>;

/// Connections refused or closed, by reason.
pub type Refused = Counts<Refusal, { <Refusal as Named>::ALL.len() }>;

accounts! {
    /// What a listener received. Workers fill in what they see, the flusher the rest.
    ListenerAccount, "listeners", ["listener"] {
        /// As bound: a port 0 is the one that was chosen.
        Detail url: String;
        /// Receive buffer that the kernel granted, in bytes, all workers together; 0 for streams.
        Gauge receive_buffer: u64, metric("systole_receive_buffer_bytes");
        /// Datagrams read.
        Counter datagrams: u64, series("datagrams"), metric("systole_datagrams");
        /// Bytes read.
        Counter bytes: u64, series("bytes"), metric("systole_bytes");
        /// Datagrams that the kernel dropped because the receive buffer was full.
        Counter kernel_drops: u64, series("kernel_drops"), metric("systole_kernel_drops");
        /// How full the receive buffer was at most, 0 to 1: of the interval, and in the status of the open one as well; of several
        /// workers the fullest. From 0.75 on the log and the status warn. 0 for streams and unix datagrams.
        Gauge queue_peak: f64, series("queue_peak"), metric("systole_queue_peak_ratio");
        /// Datagrams larger than `max_datagram`: their whole lines were read, the rest is lost.
        Counter truncated: u64, series("truncated"), metric("systole_truncated");
        /// Datagrams and connections refused: from sources outside of `allow`, over `max_connections`, or without good TLS.
        Counter refused: u64, series("refused"), metric("systole_refused");
        /// Connections refused, or closed before their clients closed them, by reason.
        Counter connections_refused: Refused, by("reason"), series("connections_refused"),
            metric("systole_connections_refused");
        /// Connections accepted.
        Counter connections: u64, series("connections"), metric("systole_connections");
        /// Connections read on with after an upgrade; the process before has accepted and counted them.
        Counter connections_taken_over: u64, series("connections_taken_over"), rare(), metric("systole_connections_taken_over");
        /// Datagrams that the deadline of a stop left unread.
        Counter unread: u64, series("unread"), rare(), metric("systole_unread");
        /// Bytes, of datagrams and of connections, that the deadline of a stop, or closing a connection, left unread.
        Counter unread_bytes: u64, series("unread_bytes"), rare(), metric("systole_unread_bytes");
    }

    /// What became of lines.
    LineAccount, "lines", [] {
        /// All lines.
        Counter read: u64, whole(), series("lines.read");
        /// Metric lines without a fault.
        Counter metrics: u64, part(), series("lines.metrics"), within(&LINES, "metric");
        /// Events.
        Counter events: u64, part(), series("lines.events"), within(&LINES, "event");
        /// Service checks.
        Counter service_checks: u64, part(), series("lines.service_checks"), within(&LINES, "service_check");
        /// Heartbeats.
        Counter heartbeats: u64, part(), series("lines.heartbeats"), within(&LINES, "heartbeat");
        /// Blank lines.
        Counter empty: u64, part(), series("lines.empty"), within(&LINES, "empty");
        /// Lines that were in work when a receive worker failed, and that no other count has.
        Counter internal_error: u64, part(), series("lines.internal_error"), rare(), within(&LINES, "internal_error");
        /// Malformed lines, by reason.
        Counter malformed: Malformed, part(), by("reason"), series("lines.malformed"), within(&LINES, "malformed"),
            metric("systole_lines_malformed");
        /// Unknown sections of lines, skipped.
        Counter sections_skipped: u64, series("sections_skipped"), metric("systole_sections_skipped");
        /// Events and service checks beyond the bound of an interval: counted as lines, but not kept.
        Counter notes_dropped: u64, series("notes_dropped"), metric("systole_notes_dropped");
        /// Tags beyond `max_tags`, cut.
        Counter tags_cut: u64, series("lines.tags_cut"), metric("systole_lines_tags_cut");
    }

    /// What became of values.
    SampleAccount, "samples", [] {
        /// All well-formed values.
        Counter read: u64, whole(), series("samples.read");
        /// Values recorded in a series of their own.
        Counter recorded: u64, part(), series("samples.recorded"), within(&SAMPLES, "recorded");
        /// Values recorded in an overflow series, because `max_series` was reached or memory was short.
        Counter folded: u64, part(), series("samples.folded"), within(&SAMPLES, "folded");
        /// Values kept apart for their own time.
        Counter timestamped: u64, part(), series("samples.timestamped"), within(&SAMPLES, "timestamped");
        /// Values dropped by a rule.
        Counter dropped_by_rule: u64, part(), series("samples.dropped_by_rule"), within(&SAMPLES, "dropped_by_rule");
        /// Values dropped because a bound was reached, by bound.
        Counter limited: Limited, part(), by("limit"), series("samples.limited"), within(&SAMPLES, "limited"),
            metric("systole_samples_limited");
    }

    /// Series held at the end of the interval.
    SeriesAccount, "series", [] {
        /// Counters.
        Gauge counters: u64, series("series"), tagged("kind", "counter"), within(&SERIES, "counter");
        /// Gauges.
        Gauge gauges: u64, series("series"), tagged("kind", "gauge"), within(&SERIES, "gauge");
        /// Timers, histograms and distributions.
        Gauge timers: u64, series("series"), tagged("kind", "timer"), within(&SERIES, "timer");
        /// Sets.
        Gauge sets: u64, series("series"), tagged("kind", "set"), within(&SERIES, "set");
        /// Key-value pairs.
        Gauge kvs: u64, series("series"), tagged("kind", "kv"), within(&SERIES, "kv");
    }

    /// What became of records at a sink, since the start.
    SinkAccount, "sinks", ["sink"] {
        /// Records offered to a sink.
        Counter offered: u64, whole(), series("sinks.offered"), metric("systole_sink_records_offered");
        /// Records a sink took.
        Counter delivered: u64, part(), series("sinks.delivered"), metric("systole_sink_records_delivered");
        /// Records waiting in memory.
        Gauge queued: u64, part(), series("sinks.queued"), metric("systole_sink_records_queued");
        /// Records waiting on disk.
        Gauge spooled: u64, part(), series("sinks.spooled"), metric("systole_sink_records_spooled");
        /// Records given up, by reason.
        Counter dropped: Reasons, part(), by("reason"), series("sinks.dropped"), summed(),
            metric("systole_sink_records_dropped");
        /// When a delivery last succeeded, Unix seconds; 0 for never.
        Gauge last_success: f64, metric("systole_sink_last_success_timestamp_seconds");
        /// What went wrong last; `null` after a delivery that left out nothing as unencodable.
        Detail last_error: Option<String>;
        /// Bytes that its spool takes on disk.
        Gauge spool_bytes: u64;
        /// End of the oldest interval that waits, Unix seconds.
        Detail oldest_waiting: Option<f64>;
        /// When a delivery last failed, Unix seconds; 0 for never. It is not in the record.
        [serde(skip)]
        Gauge last_failure: f64;
        /// How long the last delivery took, ms. It is not in the record.
        [serde(skip)]
        Gauge delivery_ms: f64;
        /// How many bytes the last delivery had; 0 where nobody counts them. It is not in the record.
        [serde(skip)]
        Gauge delivery_bytes: u64;
    }

    /// What a relay passed on, since the start, in datagrams and pieces of streams as they came in.
    RelayAccount, "relays", ["relay"] {
        /// Datagrams, and pieces of streams, to pass on.
        Counter offered: u64, whole(), series("relays.offered"), metric("systole_relay_datagrams_offered");
        /// Those sent whole, to every target that should have them.
        Counter delivered: u64, part(), series("relays.delivered"), metric("systole_relay_datagrams_delivered");
        /// Those on their way.
        Gauge queued: u64, part(), series("relays.queued"), metric("systole_relay_datagrams_queued");
        /// Those that were not sent, or not whole, or not to every target, by reason.
        Counter dropped: Reasons, part(), by("reason"), series("relays.dropped"), summed(),
            metric("systole_relay_datagrams_dropped");
        /// By target.
        Accounts targets: BTreeMap<String, TargetAccount>;
    }

    /// What a target of a relay was sent.
    TargetAccount, "relays.*.targets", ["relay", "target"] {
        /// Whether the target is thought to be there: 1 or 0.
        Gauge up: bool, series("relays.targets.up"), metric("systole_relay_target_up");
        /// Lines sent to the target.
        Counter lines: u64, series("relays.targets.lines"), metric("systole_relay_target_lines");
        /// Datagrams they went in.
        Counter datagrams: u64, series("relays.targets.datagrams"), metric("systole_relay_target_datagrams");
        /// Lines that the target was not sent: it was down, and no other took over.
        Counter lost: u64, series("relays.targets.lost"), metric("systole_relay_target_lines_lost");
    }

    /// What became of notifications for a target, since the start. Those that its patterns or its severity leave out are not
    /// offered.
    NotifierAccount, "notify", ["target"] {
        /// Notifications for a target: problems, and ends of those.
        Counter offered: u64, whole(), series("notify.offered"), metric("systole_notifications_offered");
        /// Notifications that the receiver took.
        Counter delivered: u64, part(), series("notify.delivered"), metric("systole_notifications_delivered");
        /// Notifications that wait, or are on their way.
        Gauge queued: u64, part(), series("notify.queued"), metric("systole_notifications_queued");
        /// Notifications given up, by reason.
        Counter dropped: Reasons, part(), by("reason"), series("notify.dropped"), summed(),
            metric("systole_notifications_dropped");
        /// Attempts that failed; most are tried again.
        Counter failures: u64, series("notify.failures"), metric("systole_notification_failures");
        /// Whether the last attempt succeeded, or none was made: 1 or 0.
        Gauge up: bool, series("notify.up"), metric("systole_notification_target_up");
        /// When the receiver last took something, Unix seconds; 0 for never.
        Gauge last_success: f64, metric("systole_notification_last_success_timestamp_seconds");
        /// When an attempt last failed, Unix seconds; 0 for never.
        Gauge last_failure: f64;
        /// Since when attempts fail, Unix seconds; 0 after one that succeeded.
        Gauge failing_since: f64;
        /// When a notification was last given up that nobody else has sent and no start will, Unix seconds; 0 for never.
        Gauge last_loss: f64;
        /// What went wrong last; `null` after an attempt that succeeded.
        Detail last_error: Option<String>;
    }

    /// What became of the lines of the daemon's own log; those that were written are not counted.
    LogAccount, "log", [] {
        /// Lines of the daemon's log that could not be written: nobody read standard error in time, or its disk was full.
        Counter lines_lost: u64, series("log.lines_lost"), metric("systole_log_lines_lost");
        /// Lines of the daemon's log beyond the limit of their kind.
        Counter lines_suppressed: u64, series("log.lines_suppressed"), metric("systole_log_lines_suppressed");
    }

    /// What became of pieces of the wire that were to be recorded.
    CaptureAccount, "capture", [] {
        /// Rows that `--capture` wrote.
        Counter rows: u64, series("capture.rows"), metric("systole_capture_rows");
        /// Rows that are not in the file: it was too slow or full, `max_size` was reached, or memory was
        /// short.
        Counter lost: u64, series("capture.lost"), metric("systole_capture_lost");
    }

    /// Heartbeats that presence did not get or did not take, which are lines as all others and counted as such, too, and
    /// events that it could not hand on.
    PresenceAccount, "presence", [] {
        /// Heartbeats that presence's full queue did not take.
        Counter queue_drops: u64, series("presence.queue_drops"), metric("systole_presence_queue_drops");
        /// Events beyond the 100,000 that wait for a flush, or beyond their part of `max_memory`; they have no record in a sink.
        Counter events_dropped: u64, series("presence.events_dropped"), metric("systole_presence_events_dropped");
        /// Heartbeats that were in work when presence failed.
        Counter failed: u64, series("presence.failed"), rare(), metric("systole_presence_failed");
        /// Heartbeats that presence refused, by reason (series: `presence_rejected_total`).
        Counter refused: Reasons, by("reason");
        /// Services that were not established and gave way to new ones (series: `presence_evicted_total`).
        Counter evicted: u64;
    }

    /// Connections of HTTP, of scrapes and of management, since the start.
    PortAccount, "ports", ["port"] {
        /// Connections accepted.
        Counter accepted: u64, series("ports.accepted"), metric("systole_port_connections_accepted");
        /// Connections that are open.
        Gauge open: u64, series("ports.open"), metric("systole_port_connections_open");
        /// Requests answered; of the management port, commands.
        Counter requests: u64, series("ports.requests"), metric("systole_port_requests");
        /// Connections refused, or closed before their request was answered, by reason.
        Counter refused: Refused, by("reason"), series("ports.refused"), metric("systole_port_connections_refused");
        /// Large answers cut short because their clients read nothing for too long.
        Counter answers_cut: u64, series("ports.answers_cut"), rare(), metric("systole_port_answers_cut");
        /// Requests answered with 503 because too many large answers were being sent.
        Counter answers_refused: u64, series("ports.answers_refused"), rare(), metric("systole_port_answers_refused");
        /// Requests that showed a wrong token, or any after too many wrong ones from the same address.
        Counter tokens_refused: u64, series("ports.tokens_refused"), rare(), metric("systole_port_tokens_refused");
        /// Times that changed certificates were taken into use.
        Counter tls_reloads: u64, series("ports.tls_reloads"), rare(), metric("systole_port_tls_reloads");
        /// Times that changed certificates could not be used; those before them stay.
        Counter tls_reloads_failed: u64, series("ports.tls_reloads_failed"), rare(),
            metric("systole_port_tls_reloads_failed");
        /// When the certificate in use ends, Unix seconds; 0 without TLS.
        Gauge tls_expires: f64, metric("systole_port_tls_expires_timestamp_seconds");
    }

    /// What came to the management port and is no command.
    ManagementAccount, "management", [] {
        /// Requests of HTTP at the management port; each ended its connection, and nothing after it was executed.
        Counter http_requests: u64, series("management.http_requests"), metric("systole_management_http_requests");
    }

    /// What the process holds in memory, and what gave way for `max_memory`.
    MemoryAccount, "memory", [] {
        /// `max_memory`, in bytes; 0 without a bound.
        Gauge max: u64, metric("systole_memory_max_bytes");
        /// Bytes that live, with what the allocator adds to each allocation.
        Gauge live: u64, series("memory.live"), metric("systole_memory_live_bytes");
        /// Resident bytes of the process.
        Gauge rss: u64, series("memory.rss"), metric("systole_memory_resident_bytes");
        /// How much gives way: 0 nothing, 1 caches, 2 exact samples, 3 new series, 4 events and samples with a timestamp.
        Gauge level: u64, series("memory.level"), metric("systole_memory_level");
        /// The highest level since the last tick.
        Gauge peak_level: u64, series("memory.peak_level"), metric("systole_memory_peak_level");
        /// By holder.
        [serde(skip_serializing_if = "BTreeMap::is_empty")]
        Accounts holders: BTreeMap<String, HolderAccount>;
        /// Times that a receive worker let its caches go.
        Counter caches_dropped: u64, series("memory.caches_dropped"), rare(), metric("systole_memory_caches_dropped");
        /// Timers and sets that became histograms and estimates before their bound of an interval.
        Counter early_estimates: u64, series("memory.early_estimates"), rare(),
            metric("systole_memory_early_estimates");
        /// Values that were recorded in an overflow series for this reason; `samples.folded` has them, too.
        Counter folded: u64, series("memory.folded"), rare(), metric("systole_memory_samples_folded");
        /// Events and service checks that were not kept for this reason; `lines.notes_dropped` has them, too.
        Counter events_dropped: u64, series("memory.events_dropped"), rare(), metric("systole_memory_events_dropped");
    }

    /// What one holder has in memory.
    HolderAccount, "memory.holders", ["holder"] {
        /// Bytes, within 10 %.
        Gauge bytes: u64, series("memory.holder_bytes"), metric("systole_memory_holder_bytes");
        /// Its share of `max_memory`, in bytes: above it, it gives way whatever the level is.
        Gauge cap: u64, metric("systole_memory_holder_cap_bytes");
    }

    /// The last intervals of series in memory.
    HistoryAccount, "history", [] {
        /// Whether there is a history.
        Detail enabled: bool;
        /// Bytes that it takes.
        Gauge bytes: u64;
        /// The most that it may take, in bytes; 0 without a bound.
        Gauge cap: u64;
        /// Intervals that it keeps.
        Gauge intervals: u64;
        /// Minutes that it keeps.
        Gauge minutes: u64;
        /// Series that it has.
        Gauge series: u64, metric("systole_history_series");
        /// Intervals that did not get into the history because it was busy; they are shown as missing.
        Counter intervals_missed: u64, series("history.intervals_missed"), rare(),
            metric("systole_history_intervals_missed");
        /// Times that a series gave up a part of its history because memory was short, or its heat map for another's.
        Counter given_up: u64, series("history.given_up"), rare(), metric("systole_history_given_up");
        /// Points of series for which the history had no room.
        Counter points_refused: u64, series("history.points_refused"), rare(), metric("systole_history_points_refused");
        /// Times that the history was begun anew, because it had failed in the middle of an interval.
        Counter begun_anew: u64, series("history.begun_anew"), rare(), metric("systole_history_begun_anew");
    }

    /// What outlives a restart, by part of the state folder, since the start.
    StateAccount, "state", ["part"] {
        /// When the part was written last, Unix seconds; 0 for never.
        Gauge written: f64, metric("systole_state_written_timestamp_seconds");
        /// Bytes of what was written last.
        Gauge bytes: u64, metric("systole_state_bytes");
        /// Writes that failed; what was written before stays.
        Counter failures: u64, series("state.failures"), rare(), metric("systole_state_failures");
        /// Times that what an earlier process had saved was not used and set aside, by reason.
        Counter discarded: Reasons, by("reason"), series("state.discarded"), metric("systole_state_discarded");
    }

    /// How a part of the daemon is: a thread or a task that goes on until a stop.
    PartAccount, "parts", ["part"] {
        /// `running`, `restarting` or `failed`.
        Detail state: PartState;
        /// Whether the part works: 1 or 0.
        Gauge up: bool, metric("systole_part_up");
        /// How often the part failed and was started again.
        Counter restarts: u64, series("part_restarts"), rare(), metric("systole_part_restarts");
        /// What the part lost by that and no other account counts, such as connections.
        Counter lost: u64, series("part_lost"), rare(), metric("systole_part_lost");
        /// Why it failed last.
        Detail last_failure: Option<String>;
        /// When it failed last, Unix seconds; 0 for never.
        Gauge last_failure_at: f64;
    }

    /// What an interval lacks that was merged of the batches of several edges.
    ClusterAccount, "cluster", [] {
        /// Edges of which the interval was expected.
        Gauge edges_expected: u64, series("cluster.edges.expected"), metric("systole_cluster_edges_expected");
        /// Edges that delivered all of the interval in time.
        Gauge edges_heard: u64, series("cluster.edges.heard"), metric("systole_cluster_edges_heard");
        /// Edges that received a part of an interval, as they were started in it after a crash.
        Gauge edges_partial: u64, series("cluster.edges.partial"), metric("systole_cluster_edges_partial");
        /// The first 20 edges, by name, that are missing or that something came of too late.
        Detail edges_behind: Vec<String>;
        /// Batches that came when their interval was sealed.
        Counter batches_late: u64, metric("systole_cluster_batches_late");
        /// Batches that never came.
        Counter batches_lost: u64, metric("systole_cluster_batches_lost");
        /// Batches that were refused, as the clock of their edge is ahead.
        Counter batches_skewed: u64, metric("systole_cluster_batches_skewed");
        /// Batches that were refused, as a later start of their edge was heard: two nodes have one name, or its clock was set back.
        Counter batches_ignored: u64, metric("systole_cluster_batches_ignored");
        /// Batches that could not be read.
        Counter batches_unreadable: u64, metric("systole_cluster_batches_unreadable");
        /// Values that edges had kept, and that were dropped because the edges together reached a bound, by bound.
        Counter samples_limited: Limited, by("limit"), metric("systole_cluster_samples_limited");
        /// By partition, where there are such batches or values.
        [serde(skip_serializing_if = "BTreeMap::is_empty")]
        Accounts partitions: BTreeMap<String, ClusterPartitionAccount>;
    }

    /// The same of a partition.
    ClusterPartitionAccount, "cluster.partitions", ["partition"] {
        /// Batches that came when their interval was sealed.
        Counter late: u64, series("cluster.batches.late"), rare();
        /// Batches that never came.
        Counter lost: u64, series("cluster.batches.lost"), rare();
        /// Batches that were refused, as the clock of their edge is ahead.
        Counter skewed: u64, series("cluster.batches.skewed"), rare();
        /// Batches that were refused, as a later start of their edge was heard: two nodes have one name, or its clock was set back.
        Counter ignored: u64, series("cluster.batches.ignored"), rare();
        /// Batches that could not be read.
        Counter unreadable: u64, series("cluster.batches.unreadable"), rare();
        /// Values that edges had kept, and that were dropped because the edges together reached a bound, by bound.
        Counter limited: Limited, by("limit"), series("cluster.samples.limited");
    }

    /// How the last flush went.
    FlushAccount, "flush", [] {
        /// From when the flush began to the merged snapshot, in seconds: without presence, the own series, and the delay in `late_secs`.
        Gauge duration_secs: f64, series("flush.duration_secs"), metric("systole_flush_duration_seconds");
        /// How late the tick was, in seconds.
        Gauge late_secs: f64, series("flush.late_secs"), metric("systole_flush_late_seconds");
        /// Intervals with values missing, because the flush failed while it merged them; their lines are counted.
        Counter failed: u64, series("flush.failed"), rare(), metric("systole_flush_failed");
    }
}

impl SampleAccount {
    /// Values that were recorded are dropped after all.
    pub(crate) fn limit_recorded(&mut self, limit: Limit, values: u64) {
        // Those of an overflow series were counted as folded.
        let recorded = values.min(self.recorded);
        let folded = (values - recorded).min(self.folded);
        self.recorded -= recorded;
        self.folded -= folded;
        Limited::count(&mut self.limited, limit, recorded + folded);
    }
}

impl ClusterAccount {
    /// Adds that of a later interval.
    pub fn add_later(&mut self, later: &ClusterAccount) {
        self.add(later);
    }

    /// The share of the edges that were heard, of those that were expected.
    pub fn heard(&self) -> f64 {
        if self.edges_expected == 0 { 1.0 } else { self.edges_heard as f64 / self.edges_expected as f64 }
    }
}

impl MemoryAccount {
    /// Adds that of another process.
    pub(super) fn unite(&mut self, other: &MemoryAccount) {
        let ours = std::mem::take(self);
        *self = MemoryAccount {
            max: ours.max.saturating_add(other.max),
            live: ours.live.saturating_add(other.live),
            rss: ours.rss.saturating_add(other.rss),
            level: ours.level.max(other.level),
            peak_level: ours.peak_level.max(other.peak_level),
            holders: ours.holders,
            caches_dropped: ours.caches_dropped.saturating_add(other.caches_dropped),
            early_estimates: ours.early_estimates.saturating_add(other.early_estimates),
            folded: ours.folded.saturating_add(other.folded),
            events_dropped: ours.events_dropped.saturating_add(other.events_dropped),
        };
        for (name, theirs) in &other.holders {
            let holder = self.holders.entry(name.clone()).or_default();
            holder.bytes = holder.bytes.saturating_add(theirs.bytes);
            holder.cap = holder.cap.saturating_add(theirs.cap);
        }
    }
}
