//! The daemon's own numbers since the start, as Prometheus text 0.0.4 or OpenMetrics 1.0.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::presence::Reading;
use crate::snapshot::number;
use crate::telemetry::{ListenerAccount, RelayAccount, SinkAccount};

use super::AppState;

/// `presence` is what presence says for a scrape.
pub(super) fn render(state: &AppState, presence: &[Reading], open: bool) -> String {
    let published = state.published();
    let totals = &published.totals;
    let mut out = Exposition { text: String::new(), open };
    out.gauge("systole_build_info", "The version that runs.", &[(&[("version", env!("CARGO_PKG_VERSION"))], 1.0)]);
    out.gauge("systole_uptime_seconds", "Time since the start.", &[(&[], state.uptime_secs())]);

    type Field = fn(&ListenerAccount) -> u64;
    let listener_fields: [(&str, &str, Field); 8] = [
        ("datagrams", "Datagrams read.", |l| l.datagrams),
        ("bytes", "Bytes read.", |l| l.bytes),
        ("kernel_drops", "Datagrams the kernel dropped because the receive buffer was full.", |l| l.kernel_drops),
        ("truncated", "Datagrams larger than max_datagram.", |l| l.truncated),
        ("refused", "Datagrams and connections refused.", |l| l.refused),
        ("connections", "Connections accepted.", |l| l.connections),
        ("unread", "Datagrams that the deadline of a stop left unread.", |l| l.unread),
        ("unread_bytes", "Bytes that the deadline of a stop left unread.", |l| l.unread_bytes),
    ];
    for (name, help, field) in listener_fields {
        let samples: Vec<_> =
            totals.listeners.iter().map(|l| ([("listener", l.url.as_str())], field(l) as f64)).collect();
        out.counter(&format!("systole_{name}"), help, &borrowed(&samples));
    }
    let buffers: Vec<_> =
        totals.listeners.iter().map(|l| ([("listener", l.url.as_str())], l.receive_buffer as f64)).collect();
    out.gauge("systole_receive_buffer_bytes", "Receive buffer that the kernel granted.", &borrowed(&buffers));

    let l = &totals.lines;
    let lines = [
        ([("kind", "metric")], l.metrics as f64),
        ([("kind", "event")], l.events as f64),
        ([("kind", "service_check")], l.service_checks as f64),
        ([("kind", "heartbeat")], l.heartbeats as f64),
        ([("kind", "empty")], l.empty as f64),
        ([("kind", "malformed")], totals.malformed_total() as f64),
    ];
    out.counter("systole_lines", "Lines read, by what they were.", &borrowed(&lines));
    let malformed: Vec<_> = l.malformed.iter().map(|(reason, &n)| ([("reason", *reason)], n as f64)).collect();
    out.counter("systole_lines_malformed", "Malformed lines, by reason.", &borrowed(&malformed));
    out.counter("systole_sections_skipped", "Unknown sections of lines, skipped.", &[(&[], l.sections_skipped as f64)]);
    out.counter(
        "systole_notes_dropped",
        "Events and service checks beyond the bound of an interval.",
        &[(&[], l.notes_dropped as f64)],
    );
    out.counter("systole_lines_tags_cut", "Tags beyond `max_tags`, cut.", &[(&[], l.tags_cut as f64)]);

    out.counter(
        "systole_presence_queue_drops",
        "Heartbeats that presence's full queue did not take.",
        &[(&[], totals.presence.queue_drops as f64)],
    );

    let s = &totals.samples;
    let mut samples = vec![
        ([("outcome", "recorded")], s.recorded as f64),
        ([("outcome", "folded")], s.folded as f64),
        ([("outcome", "timestamped")], s.timestamped as f64),
        ([("outcome", "dropped_by_rule")], s.dropped_by_rule as f64),
    ];
    samples.push(([("outcome", "limited")], s.limited.values().sum::<u64>() as f64));
    out.counter("systole_samples", "Well-formed values, by what became of them.", &borrowed(&samples));

    let series = totals.series;
    let held = [
        ([("kind", "counter")], series.counters as f64),
        ([("kind", "gauge")], series.gauges as f64),
        ([("kind", "timer")], series.timers as f64),
        ([("kind", "set")], series.sets as f64),
        ([("kind", "kv")], series.kvs as f64),
    ];
    out.gauge("systole_series", "Series held.", &borrowed(&held));

    type SinkField = fn(&SinkAccount) -> f64;
    let sink_counters: [(&str, &str, SinkField); 2] = [
        ("offered", "Records offered to a sink.", |s| s.offered as f64),
        ("delivered", "Records a sink took.", |s| s.delivered as f64),
    ];
    for (name, help, field) in sink_counters {
        let samples: Vec<_> =
            totals.sinks.iter().map(|(sink, account)| ([("sink", sink.as_str())], field(account))).collect();
        out.counter(&format!("systole_sink_records_{name}"), help, &borrowed(&samples));
    }
    let dropped: Vec<_> = totals
        .sinks
        .iter()
        .flat_map(|(sink, account)| {
            account
                .dropped
                .iter()
                .map(move |(reason, &n)| ([("sink", sink.as_str()), ("reason", reason.as_str())], n as f64))
        })
        .collect();
    out.counter("systole_sink_records_dropped", "Records given up, by reason.", &borrowed(&dropped));
    let sink_gauges: [(&str, &str, SinkField); 3] = [
        ("records_queued", "Records waiting in memory.", |s| s.queued as f64),
        ("records_spooled", "Records waiting on disk.", |s| s.spooled as f64),
        ("last_success_timestamp_seconds", "When a delivery last succeeded; 0 for never.", |s| s.last_success),
    ];
    for (name, help, field) in sink_gauges {
        let samples: Vec<_> =
            totals.sinks.iter().map(|(sink, account)| ([("sink", sink.as_str())], field(account))).collect();
        out.gauge(&format!("systole_sink_{name}"), help, &borrowed(&samples));
    }
    relays(&totals.relays, &mut out);
    let log = totals.log;
    out.counter(
        "systole_log_lines_lost",
        "Lines of the daemon's log that nobody read in time.",
        &[(&[], log.lines_lost as f64)],
    );
    out.counter(
        "systole_log_lines_suppressed",
        "Lines of the daemon's log beyond the limit of their kind.",
        &[(&[], log.lines_suppressed as f64)],
    );
    if let Some(capture) = totals.capture {
        out.counter("systole_capture_rows", "Rows that --capture wrote.", &[(&[], capture.rows as f64)]);
        out.counter("systole_capture_lost", "Rows that --capture could not write.", &[(&[], capture.lost as f64)]);
    }
    out.counter(
        "systole_management_http_requests",
        "Requests of HTTP at the management port; each ended its connection.",
        &[(&[], totals.management.http_requests as f64)],
    );
    out.gauge("systole_flush_duration_seconds", "How long the last flush took.", &[(&[], totals.flush.duration_secs)]);
    out.gauge("systole_flush_late_seconds", "How late the last tick was.", &[(&[], totals.flush.late_secs)]);
    out.gauge(
        "systole_completeness_ratio",
        "Share of datagrams that the kernel handed over.",
        &[(&[], totals.completeness)],
    );
    out.presence(presence);
    if open {
        out.text.push_str("# EOF\n");
    }
    out.text
}

fn relays(relays: &BTreeMap<String, RelayAccount>, out: &mut Exposition) {
    let samples = |field: fn(&RelayAccount) -> u64| -> Vec<_> {
        relays.iter().map(|(name, relay)| ([("relay", name.as_str())], field(relay) as f64)).collect()
    };
    let (offered, delivered, queued) = (samples(|r| r.offered), samples(|r| r.delivered), samples(|r| r.queued));
    let dropped: Vec<_> = relays
        .iter()
        .flat_map(|(name, relay)| {
            let dropped = relay.dropped.iter();
            dropped.map(move |(reason, &n)| ([("relay", name.as_str()), ("reason", reason.as_str())], n as f64))
        })
        .collect();
    out.counter(
        "systole_relay_datagrams_offered",
        "Datagrams, and pieces of streams, to pass on.",
        &borrowed(&offered),
    );
    out.counter("systole_relay_datagrams_delivered", "Those sent whole, to every target.", &borrowed(&delivered));
    out.counter("systole_relay_datagrams_dropped", "Those that were not, by reason.", &borrowed(&dropped));
    out.gauge("systole_relay_datagrams_queued", "Those on their way.", &borrowed(&queued));
}

type Label<'a> = (&'a str, &'a str);
type Sample<'a> = (&'a [Label<'a>], f64);

fn borrowed<'a, const N: usize>(samples: &'a [([Label<'a>; N], f64)]) -> Vec<Sample<'a>> {
    samples.iter().map(|(labels, value)| (labels.as_slice(), *value)).collect()
}

struct Exposition {
    text: String,
    open: bool,
}

impl Exposition {
    /// A counter; its samples end in `_total`, as both formats want it.
    fn counter(&mut self, name: &str, help: &str, samples: &[Sample<'_>]) {
        let total = format!("{name}_total");
        let family = if self.open { name } else { &total };
        self.family(family, &total, "counter", help, samples);
    }

    fn gauge(&mut self, name: &str, help: &str, samples: &[Sample<'_>]) {
        self.family(name, name, "gauge", help, samples);
    }

    /// Presence, name by name: a family stands together.
    fn presence(&mut self, readings: &[Reading]) {
        let mut names: Vec<&str> = readings.iter().map(|reading| reading.name).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            let mine = readings.iter().filter(|reading| reading.name == name);
            let labels: Vec<(Vec<Label<'_>>, &Reading)> = mine
                .map(|reading| (reading.tags.iter().map(|(key, value)| (*key, &**value)).collect(), reading))
                .collect();
            let samples: Vec<Sample<'_>> = labels.iter().map(|(labels, r)| (labels.as_slice(), r.value)).collect();
            let help = match name {
                "presence_state" => "0 unknown, 1 up, 2 late, 3 down, 4 left.",
                _ => "See docs/presence.md.",
            };
            if labels.first().is_some_and(|(_, reading)| reading.counts) {
                self.counter(name.trim_end_matches("_total"), help, &samples);
            } else {
                self.gauge(name, help, &samples);
            }
        }
    }

    fn family(&mut self, family: &str, name: &str, kind: &str, help: &str, samples: &[Sample<'_>]) {
        if samples.is_empty() {
            return;
        }
        let out = &mut self.text;
        let _ = writeln!(out, "# HELP {family} {help}\n# TYPE {family} {kind}");
        for (labels, value) in samples {
            out.push_str(name);
            for (n, (key, value)) in labels.iter().enumerate() {
                let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
                let _ = write!(out, "{}{key}=\"{value}\"", if n == 0 { '{' } else { ',' });
            }
            if !labels.is_empty() {
                out.push('}');
            }
            let _ = writeln!(out, " {}", number(*value));
        }
    }
}
