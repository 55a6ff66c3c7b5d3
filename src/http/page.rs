//! The status page at `/`: plain HTML without script, reloaded by the browser. It answers three questions: does anything
//! arrive, is anything lost, what are the values.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use crate::memory::Level;
use crate::series::Series;
use crate::snapshot::{Point, Snapshot, number, short_number};
use crate::telemetry::{Ledger, MemoryAccount, QUEUE_WARNING};
use crate::untrusted::Html;
use crate::web::{PIECE, Pieces};

use super::{AppState, assets};

/// Most series on the page; the API has all.
const MAX_ROWS: usize = 1000;

/// The beginning of a page that reloads itself; `title` must be escaped.
pub(super) fn head(title: &str, seconds: u64) -> String {
    let style = assets::url("style.css");
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <meta http-equiv=\"refresh\" content=\"{seconds}\"><link rel=\"stylesheet\" href=\"{style}\"></head><body>"
    )
}

/// The page, as far as it is not written yet.
#[derive(Debug)]
pub(super) struct StatusPage {
    /// What stands before the series.
    head: String,
    snapshot: Option<Arc<Snapshot>>,
    /// Points that are shown, by their numbers, and the next of them.
    points: Vec<usize>,
    next: usize,
    /// Rows that may still be shown: key-value pairs have one for each value.
    rows: usize,
}

impl StatusPage {
    pub(super) fn new(
        state: &AppState,
        snapshot: Option<Arc<Snapshot>>,
        ledger: &Ledger,
        warnings: &[String],
    ) -> StatusPage {
        let mut out = head("Systole", state.about.interval.as_secs().clamp(1, 10));
        let uptime = Duration::from_secs(state.uptime_secs() as u64);
        let _ = write!(
            out,
            "<h1>Systole</h1><p class=\"sub\">version {} · profile {} · flushes every {} · up {} · <a href=\"/presence\">presence</a></p>",
            env!("CARGO_PKG_VERSION"),
            state.about.profile,
            humantime::format_duration(state.about.interval),
            humantime::format_duration(uptime),
        );
        to_look_at(&mut out, warnings);
        match &snapshot {
            Some(snapshot) => interval(&mut out, snapshot),
            None => out.push_str("<p>The first interval is still open.</p>"),
        }
        memory(&mut out, &ledger.memory);
        totals(&mut out, ledger);
        let points = snapshot.as_ref().map_or_else(Vec::new, |snapshot| first_points(snapshot));
        if let Some(snapshot) = &snapshot {
            series_head(&mut out, snapshot);
        }
        StatusPage { head: out, snapshot, points, next: 0, rows: MAX_ROWS }
    }
}

impl Pieces for StatusPage {
    fn append(&mut self, out: &mut Vec<u8>) -> bool {
        let mut text = std::mem::take(&mut self.head);
        if let Some(snapshot) = &self.snapshot {
            while self.rows > 0
                && text.len() < PIECE
                && let Some(&n) = self.points.get(self.next)
            {
                self.next += 1;
                self.rows -= snapshot.point(n).map_or(0, |point| rows(&mut text, snapshot, point, self.rows));
            }
            if self.rows > 0 && self.next < self.points.len() {
                out.extend_from_slice(text.as_bytes());
                return true;
            }
            text.push_str("</table>");
        }
        text.push_str("</body></html>\n");
        out.extend_from_slice(text.as_bytes());
        false
    }
}

fn interval(out: &mut String, snapshot: &Snapshot) {
    let ledger = &snapshot.ledger;
    let end = UNIX_EPOCH + Duration::from_secs_f64(snapshot.end.max(0.0));
    let _ = write!(
        out,
        "<h2>The last interval</h2><p class=\"sub\">{} s until {}</p><div class=\"tiles\">",
        number((snapshot.interval_secs * 1000.0).round() / 1000.0),
        humantime::format_rfc3339_seconds(end),
    );
    let drops: u64 = ledger.listeners.iter().map(|l| l.kernel_drops).sum();
    let datagrams: u64 = ledger.listeners.iter().map(|l| l.datagrams).sum();
    let mut tile = |value: String, label: &str, bad: bool| {
        let class = if bad { "tile bad" } else { "tile" };
        let _ = write!(out, "<div class=\"{class}\"><b>{value}</b><span>{label}</span></div>");
    };
    tile(grouped(ledger.lines.read), "lines", false);
    tile(grouped(datagrams), "datagrams", false);
    tile(grouped(ledger.samples.recorded), "samples recorded", false);
    tile(grouped(ledger.malformed_total()), "lines malformed", ledger.malformed_total() > 0);
    tile(grouped(drops), "dropped by the kernel", drops > 0);
    let peak = ledger.listeners.iter().map(|l| l.queue_peak).fold(0.0, f64::max);
    tile(format!("{} %", number((peak * 100.0).floor())), "of the receive buffer at the peak", peak >= QUEUE_WARNING);
    tile(grouped(ledger.samples.folded), "folded over the limit", ledger.samples.folded > 0);
    tile(format!("{} %", number((ledger.completeness * 1e4).floor() / 100.0)), "complete", ledger.completeness < 1.0);
    out.push_str("</div>");
}

/// What somebody should look at, if there is something.
fn to_look_at(out: &mut String, warnings: &[String]) {
    if warnings.is_empty() {
        return;
    }
    out.push_str("<h2>To look at</h2><ul>");
    for warning in warnings {
        let _ = write!(out, "<li class=\"bad\">{}</li>", Html(warning));
    }
    out.push_str("</ul>");
}

/// How much of the memory is taken, what gives way, and who has more than half of its share.
fn memory(out: &mut String, account: &MemoryAccount) {
    if account.max == 0 {
        return;
    }
    let level = Level::of(u8::try_from(account.level).unwrap_or(u8::MAX));
    let _ = write!(
        out,
        "<h2>Memory</h2><p><span class=\"{}\">{} gives way</span> · {} of {} MiB live",
        if level == Level::Calm { "good" } else { "bad" },
        level.gives_way(),
        grouped(account.live >> 20),
        grouped(account.max >> 20),
    );
    for (name, holder) in account.holders.iter().filter(|(_, holder)| holder.bytes > holder.cap / 2) {
        let _ =
            write!(out, " · {} {} of its {} MiB", Html(name), grouped(holder.bytes >> 20), grouped(holder.cap >> 20));
    }
    out.push_str("</p>");
}

fn totals(out: &mut String, totals: &Ledger) {
    out.push_str(
        "<h2>Ingest since the start</h2><table><tr><th>listener<th class=\"n\">datagrams<th class=\"n\">bytes\
         <th class=\"n\">kernel drops<th class=\"n\">truncated<th class=\"n\">refused<th class=\"n\">connections\
         <th class=\"n\">receive buffer</tr>",
    );
    for l in &totals.listeners {
        let _ = write!(out, "<tr><td class=\"name\">{}</td>", Html(&l.url));
        for (value, bad) in [
            (l.datagrams, false),
            (l.bytes, false),
            (l.kernel_drops, true),
            (l.truncated, true),
            (l.refused, true),
            (l.connections, false),
            (l.receive_buffer, false),
        ] {
            cell(out, value, bad);
        }
        out.push_str("</tr>");
    }
    out.push_str("</table><h2>Ledger since the start</h2><table><tr>");
    let (l, s) = (&totals.lines, &totals.samples);
    let columns = [
        ("lines read", l.read, false),
        ("metrics", l.metrics, false),
        ("events", l.events, false),
        ("service checks", l.service_checks, false),
        ("heartbeats", l.heartbeats, false),
        ("empty", l.empty, false),
        ("malformed", totals.malformed_total(), true),
        ("samples", s.read, false),
        ("recorded", s.recorded, false),
        ("folded", s.folded, true),
        ("limited", s.limited.total(), true),
    ];
    columns.iter().for_each(|(name, ..)| {
        let _ = write!(out, "<th class=\"n\">{name}");
    });
    out.push_str("</tr><tr>");
    columns.iter().for_each(|&(_, value, bad)| cell(out, value, bad));
    out.push_str("</tr></table>");
    if l.malformed.total() > 0 {
        out.push_str("<p>Malformed lines: ");
        let reasons: Vec<String> = l.malformed.iter().map(|(reason, n)| format!("{reason} {}", grouped(n))).collect();
        out.push_str(&reasons.join(" · "));
        out.push_str("</p>");
    }
    out.push_str(
        "<h2>Sinks</h2><table><tr><th>sink<th class=\"n\">records offered<th class=\"n\">delivered<th class=\"n\">queued\
         <th class=\"n\">on disk<th class=\"n\">dropped<th>state</tr>",
    );
    for (name, sink) in &totals.sinks {
        let _ = write!(out, "<tr><td class=\"name\">{}</td>", Html(name));
        cell(out, sink.offered, false);
        cell(out, sink.delivered, false);
        cell(out, sink.queued, false);
        cell(out, sink.spooled, false);
        cell(out, sink.dropped.total(), true);
        match &sink.last_error {
            Some(error) => {
                let _ = write!(out, "<td class=\"bad\">{}</td></tr>", Html(error));
            }
            None if sink.last_success > 0.0 => out.push_str("<td class=\"good\">delivering</td></tr>"),
            None => out.push_str("<td>nothing delivered yet</td></tr>"),
        }
    }
    out.push_str("</table>");
}

/// The points that are shown, in their order: the senders' series first, then the daemon's own. Of a million no more than
/// these are kept in sight.
fn first_points(snapshot: &Snapshot) -> Vec<usize> {
    /// By what points are ordered, and the number of one.
    struct Ranked<'a>(bool, &'a Series, usize);

    impl Ord for Ranked<'_> {
        fn cmp(&self, other: &Self) -> Ordering {
            self.0.cmp(&other.0).then_with(|| self.1.order(other.1)).then(self.2.cmp(&other.2))
        }
    }

    impl PartialOrd for Ranked<'_> {
        fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
            Some(self.cmp(other))
        }
    }

    impl PartialEq for Ranked<'_> {
        fn eq(&self, other: &Self) -> bool {
            self.cmp(other).is_eq()
        }
    }

    impl Eq for Ranked<'_> {}

    let mut first = BinaryHeap::with_capacity(MAX_ROWS + 1);
    for (n, point) in (0..).map_while(|n| Some((n, snapshot.point(n)?))) {
        let series = point.series();
        first.push(Ranked(series.name().starts_with("systole."), series, n));
        if first.len() > MAX_ROWS {
            // The last of them.
            first.pop();
        }
    }
    first.into_sorted_vec().into_iter().map(|Ranked(_, _, n)| n).collect()
}

fn series_head(out: &mut String, snapshot: &Snapshot) {
    let kvs: usize = snapshot.kvs.iter().map(|point| point.values.len()).sum();
    let all = snapshot.counters.len() + snapshot.gauges.len() + snapshot.timers.len() + snapshot.sets.len() + kvs;
    let _ = write!(out, "<h2>Series of the last interval</h2><p class=\"sub\">{} in all", grouped(all as u64));
    if all > MAX_ROWS {
        let _ = write!(out, ", {MAX_ROWS} shown; all of them: <code>/api/v1/snapshot</code>");
    }
    out.push_str("</p><table><tr><th>kind<th>name<th class=\"n\">value</tr>");
}

/// The values of a point as they are shown.
fn values(snapshot: &Snapshot, point: Point<'_>, most: usize) -> Vec<String> {
    match point {
        Point::Counter(point) => {
            let value = point.sum.value();
            let rate = short_number(snapshot.rate(&point.series, value));
            vec![format!("{} · {rate} per s", short_number(value))]
        }
        Point::Gauge(point) => vec![short_number(point.gauge.value())],
        Point::Timer(point) => {
            let s = snapshot.summary(point);
            let mut text = format!(
                "count {} · mean {} · min {} · max {}",
                short_number(s.count),
                short_number(s.mean),
                short_number(s.min),
                short_number(s.max)
            );
            s.percentiles.iter().for_each(|p| {
                let _ = write!(text, " · p{} {}", number(p.percentile), short_number(p.value));
            });
            vec![text]
        }
        Point::Set(point) => {
            let about = if point.members.is_exact() { "" } else { "about " };
            vec![format!("{about}{} different", short_number(point.members.count()))]
        }
        Point::Kv(point) => point.values.iter().take(most).map(|&value| short_number(value)).collect(),
    }
}

/// Writes the rows of a point, at most so many; how many these are.
fn rows(out: &mut String, snapshot: &Snapshot, point: Point<'_>, most: usize) -> usize {
    let (series, values) = (point.series(), values(snapshot, point, most));
    for text in &values {
        let _ = write!(out, "<tr><td>{}</td><td class=\"name\">{}", series.kind().name(), Html(series.name()));
        for (key, value) in series.tags() {
            let _ = write!(out, " <span class=\"tag\">{}", Html(key));
            if let Some(value) = value {
                let _ = write!(out, ":{}", Html(value));
            }
            out.push_str("</span>");
        }
        let _ = write!(out, "</td><td class=\"n\">{text}</td></tr>");
    }
    values.len()
}

fn cell(out: &mut String, value: u64, bad: bool) {
    let class = if bad && value > 0 { "n bad" } else { "n" };
    let _ = write!(out, "<td class=\"{class}\">{}</td>", grouped(value));
}

/// Digits in groups of three, with thin spaces.
fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}
