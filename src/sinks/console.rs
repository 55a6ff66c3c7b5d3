//! Standard output: a table for people on a terminal, records otherwise. Text from the wire is shown with
//! everything that would act on a terminal written out.
//!
//! An interval that was written in part (a full disk) is continued where it stopped. Records for a pipe whose reader is gone
//! are dropped and counted (`closed`).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, IsTerminal, Write as _};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use crate::aggregate::{EventOrCheck, EventOrCheckBody};
use crate::codec::Records;
use crate::presence::{Event, SERIES, WarningCode};
use crate::series::Series;
use crate::snapshot::{Point, Snapshot, SnapshotId, number, short_number};
use crate::telemetry::Ledger;
use crate::untrusted::Escaped;

use super::blocking::{Blocking, Writer};
use super::{Delivery, OptionVisitor, Receipt, Sink, SinkContext, SinkError, Spec};

/// Rows of what people sent, all kinds together, and again of events; of the rest the number is shown.
const MAX_ROWS: usize = 200;
/// Services and changes that the line of presence names.
const MAX_NAMED: usize = 3;
/// Widest column of names.
const NAME_WIDTH: usize = 60;

/// `console` in the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsoleSpec;

impl Spec for ConsoleSpec {
    fn options(&mut self, _: &mut dyn OptionVisitor) {}

    fn set_from_url(&mut self, _: &str) -> Result<(), String> {
        Ok(())
    }

    fn place(&self) -> String {
        String::new()
    }

    fn accepts_out_of_order(&self) -> bool {
        true
    }

    fn probe(&self) -> Result<String, String> {
        Ok("standard output is always there".into())
    }

    fn open(&self, _: &SinkContext) -> Result<Box<dyn Sink>, String> {
        Ok(Box::new(ConsoleSink::new()))
    }
}

/// Standard output.
pub struct ConsoleSink(Blocking<ConsoleWriter>);

impl ConsoleSink {
    /// A table if standard output is a terminal, records otherwise.
    pub fn new() -> ConsoleSink {
        let table = io::stdout().is_terminal();
        ConsoleSink(Blocking::new(ConsoleWriter { table, out: None, begun: None, is_closed: false }))
    }
}

impl Default for ConsoleSink {
    fn default() -> ConsoleSink {
        ConsoleSink::new()
    }
}

impl Sink for ConsoleSink {
    fn deliver<'a>(&'a mut self, snapshot: &'a Arc<Snapshot>) -> Delivery<'a, Result<Receipt, SinkError>> {
        Box::pin(self.0.deliver(snapshot))
    }

    fn close(&mut self) -> Delivery<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// Pause before the next attempt to write to a descriptor that another process has set to non-blocking.
const PAUSE: Duration = Duration::from_millis(20);

struct ConsoleWriter {
    table: bool,
    /// Standard output without the library's buffer, which would keep what it could not write.
    out: Option<File>,
    /// The interval that a failure has interrupted.
    begun: Option<Begun>,
    /// Whether the reader is gone.
    is_closed: bool,
}

struct Begun {
    identity: SnapshotId,
    bytes: Vec<u8>,
    written: usize,
}

impl ConsoleWriter {
    fn text(&self, snapshot: &Snapshot) -> Vec<u8> {
        if self.table {
            return table(snapshot).into_bytes();
        }
        let mut bytes = Vec::new();
        Records { sorted: true, ..Records::ALL }.write(snapshot, &mut bytes);
        bytes
    }
}

impl Begun {
    fn write(&mut self, out: &mut File) -> io::Result<()> {
        while self.written < self.bytes.len() {
            match out.write(&self.bytes[self.written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => self.written += written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(PAUSE),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The rest of the line that was begun.
    fn rest_of_line(&self) -> &[u8] {
        let rest = &self.bytes[self.written..];
        if self.written == 0 || self.bytes[self.written - 1] == b'\n' {
            return b"";
        }
        &rest[..rest.iter().position(|&byte| byte == b'\n').map_or(rest.len(), |at| at + 1)]
    }
}

impl Writer for ConsoleWriter {
    fn write(&mut self, snapshot: &Snapshot) -> io::Result<Receipt> {
        let identity = snapshot.identity();
        let mut begun = match self.begun.take() {
            Some(same) if same.identity == identity => same,
            // That one is retried later, or was dropped; its last line is completed first.
            other => {
                let mut bytes = other.map_or_else(Vec::new, |other| other.rest_of_line().to_vec());
                bytes.append(&mut self.text(snapshot));
                Begun { identity, bytes, written: 0 }
            }
        };
        let out = match &mut self.out {
            Some(out) => out,
            none => none.insert(File::from(io::stdout().as_fd().try_clone_to_owned()?)),
        };
        match begun.write(out) {
            Ok(()) => {
                self.is_closed = false;
                Ok(Receipt::new(begun.bytes.len() as u64, []))
            }
            // The reader is gone; that is no reason to keep the intervals.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                if !self.is_closed {
                    tracing::warn!("nobody reads standard output any more; what it is given is dropped");
                }
                self.is_closed = true;
                Ok(Receipt::new(0, [("closed", snapshot.len() as u64)]))
            }
            Err(error) => {
                self.begun = Some(begun);
                Err(error)
            }
        }
    }
}

/// An interval as a table: what people sent, each kind with its part of the rows; then a line on presence and one on the
/// daemon itself.
pub fn table(snapshot: &Snapshot) -> String {
    let all = (0..snapshot.len()).map_while(|n| snapshot.point(n));
    let (own, mut sent): (Vec<Point>, Vec<Point>) = all.partition(|point| owner(point.series()) != Owner::Sender);
    sent.sort_by(|a, b| a.series().order(b.series()));

    let ledger = &snapshot.ledger;
    let datagrams: u64 = ledger.listeners.iter().map(|l| l.datagrams).sum();
    let drops: u64 = ledger.listeners.iter().map(|l| l.kernel_drops).sum();
    let time = UNIX_EPOCH + Duration::from_secs_f64(snapshot.end.max(0.0));
    let mut out = format!(
        "── {}  {} series  {} lines  {datagrams} datagrams  {} malformed{}  {drops} dropped by the kernel\n",
        humantime::format_rfc3339_seconds(time),
        sent.len(),
        ledger.lines.read,
        ledger.malformed_total(),
        reasons(ledger),
    );
    rows(snapshot, &sent, &mut out);
    for event in snapshot.events_and_checks.iter().take(MAX_ROWS) {
        let _ = writeln!(out, "   {}", event_line(event));
    }
    if snapshot.events_and_checks.len() > MAX_ROWS {
        let _ =
            writeln!(out, "   … and {} more events and service checks", snapshot.events_and_checks.len() - MAX_ROWS);
    }
    for line in [presence_line(snapshot, &own), own_line(snapshot, &own)].into_iter().flatten() {
        let _ = writeln!(out, "   {line}");
    }
    out
}

/// Whose a series is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Sender,
    Presence,
    Daemon,
}

fn owner(series: &Series) -> Owner {
    let name = series.name();
    match name.rfind("presence_") {
        _ if name.starts_with("systole.") => Owner::Daemon,
        // A prefix of ours may stand before it.
        Some(at) if SERIES.contains(&&name[at..]) && (at == 0 || name[..at].ends_with(['.', '_', '-'])) => {
            Owner::Presence
        }
        _ => Owner::Sender,
    }
}

/// The reasons of malformed lines, in parentheses.
fn reasons(ledger: &Ledger) -> String {
    let reasons: Vec<String> = ledger.lines.malformed.iter().map(|(reason, n)| format!("{reason} {n}")).collect();
    if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join(", ")) }
}

/// How many rows each list gets of `room`: all if they fit, else the same number each, and what short ones leave over goes to
/// the others.
fn shares(lengths: &[usize], room: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&n| lengths[n]);
    let (mut out, mut left) = (vec![0; lengths.len()], room);
    for (at, &n) in order.iter().enumerate() {
        out[n] = lengths[n].min(left / (order.len() - at));
        left -= out[n];
    }
    out
}

/// What people sent, by kind.
fn rows(snapshot: &Snapshot, sent: &[Point], out: &mut String) {
    let kinds: Vec<&[Point]> = sent.chunk_by(|a, b| a.series().kind() == b.series().kind()).collect();
    let shares = shares(&kinds.iter().map(|points| points.len()).collect::<Vec<_>>(), MAX_ROWS);
    let shown = || kinds.iter().zip(&shares).map(|(points, &share)| points.split_at(share));
    let name = |point: &Point| Escaped(&point.series().to_string()).to_string();
    let names = shown().flat_map(|(points, _)| points).map(|point| name(point).chars().count());
    let width = names.max().unwrap_or(0).min(NAME_WIDTH);
    for (points, rest) in shown() {
        for point in points {
            let (kind, name) = (point.series().kind().name(), name(point));
            let _ = writeln!(out, "   {kind:<12} {name:<width$} {}", values(snapshot, *point));
        }
        if let Some(point) = rest.first() {
            let kind = point.series().kind().name();
            let _ = writeln!(out, "   {kind:<12} … and {} more", rest.len());
        }
    }
}

/// The values of a row.
fn values(snapshot: &Snapshot, point: Point) -> String {
    match point {
        Point::Counter(point) => {
            let value = point.sum.value();
            format!("{:>12}  {}/s", short_number(value), short_number(snapshot.rate(&point.series, value)))
        }
        Point::Gauge(point) => format!("{:>12}", short_number(point.gauge.value())),
        Point::Timer(point) => {
            let s = snapshot.summary(point);
            let mut text = format!(
                "{:>12}  mean {}  min {}  max {}",
                short_number(s.count),
                short_number(s.mean),
                short_number(s.min),
                short_number(s.max)
            );
            for p in &s.percentiles {
                let _ = write!(text, "  p{} {}", number(p.percentile), short_number(p.value));
            }
            text
        }
        Point::Set(point) => {
            let about = if point.members.is_exact() { "" } else { "about " };
            format!("{:>12}", format!("{about}{}", short_number(point.members.count())))
        }
        Point::Kv(point) => {
            let last = point.values.last().map_or_else(String::new, |&value| short_number(value));
            let more =
                if point.values.len() > 1 { format!("  the last of {}", point.values.len()) } else { String::new() };
            format!("{last:>12}{more}")
        }
    }
}

/// Who is there, and what changed, in one line; nothing where nobody was heard.
fn presence_line(snapshot: &Snapshot, own: &[Point]) -> Option<String> {
    // Service and state of a level.
    let levels = |name: &'static str| {
        let gauges = own.iter().filter_map(|point| if let Point::Gauge(point) = point { Some(*point) } else { None });
        gauges.filter(move |point| point.series.name().ends_with(name)).map(|point| {
            let tag = |key: &str| point.series.tags().find(|(known, _)| *known == key).and_then(|(_, value)| value);
            (tag("service").unwrap_or(""), tag("state").unwrap_or(""), point.gauge.value())
        })
    };
    let services: Vec<_> = levels("presence_service_up").collect();
    let mut parts = Vec::new();
    if !services.is_empty() {
        let up = services.iter().filter(|(_, _, up)| *up > 0.0).count();
        parts.push(format!("{up} of {} services up", services.len()));
        let down: Vec<String> = services
            .iter()
            .filter(|(_, _, up)| *up <= 0.0)
            .take(MAX_NAMED)
            .map(|(name, ..)| {
                let up = levels("presence_service_instances").filter(|(of, state, _)| of == name && *state == "up");
                let up: f64 = up.map(|(.., n)| n).sum();
                // Some are up, and too few.
                let min = levels("presence_service_min").find(|(of, _, min)| of == name && *min > up && up > 0.0);
                let few = min.map(|(.., min)| format!(" ({} of at least {} instances)", number(up), number(min)));
                format!("{} is not{}", Escaped(name), few.unwrap_or_default())
            })
            .collect();
        parts.extend((!down.is_empty()).then(|| down.join(", ")));
        let mut states: BTreeMap<&str, f64> = BTreeMap::new();
        for (_, state, n) in levels("presence_service_instances") {
            *states.entry(state).or_default() += n;
        }
        let states = states.into_iter().filter(|(_, n)| *n > 0.0).map(|(state, n)| format!("{} {state}", number(n)));
        let states: Vec<String> = states.collect();
        parts.extend((!states.is_empty()).then(|| format!("instances: {}", states.join(", "))));
    }
    let mut events: Vec<&Event> = snapshot.presence.iter().collect();
    if !events.is_empty() {
        // What somebody is notified of first, then services before their instances.
        events.sort_by_key(|event| (!event.notify, event.instance.is_some()));
        let named: Vec<String> = events.iter().take(MAX_NAMED).map(|event| change(event)).collect();
        let more = events.len() - named.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        parts.push(format!("changed: {}{more}", named.join(", ")));
    }
    (!parts.is_empty()).then(|| format!("presence     {}", parts.join("; ")))
}

/// The daemon itself in one line; nothing where it has no series of its own.
fn own_line(snapshot: &Snapshot, own: &[Point]) -> Option<String> {
    let series = own.iter().filter(|point| owner(point.series()) == Owner::Daemon).count();
    let ledger = &snapshot.ledger;
    let folded = match ledger.samples.folded {
        0 => String::new(),
        folded => format!("; {folded} samples folded into systole.overflow"),
    };
    let flush_ms = number((ledger.flush.duration_secs * 1e4).round() / 10.0);
    (series > 0).then(|| {
        format!(
            "systole      {series} series of the daemon's own; memory {} MiB; flush {flush_ms} ms{folded}",
            ledger.memory.live >> 20
        )
    })
}

/// A change of presence in a few words.
fn change(event: &Event) -> String {
    if let Some(count) = event.change.restored() {
        let s = if count == 1 { "" } else { "s" };
        return format!("{count} instance{s} restored");
    }
    let who = match (&event.service, &event.instance) {
        (None, _) if event.nodes.is_some() => {
            event.nodes.iter().flatten().map(|node| Escaped(node).to_string()).collect::<Vec<_>>().join(" and ")
        }
        (Some(service), Some(instance)) => format!("{}/{}", Escaped(service), Escaped(instance)),
        (Some(service), None) => Escaped(service).to_string(),
        (None, _) => String::new(),
    };
    let (from, to) = (event.change.from_name(), event.change.to_name());
    let code = event.change.code().map(WarningCode::as_str);
    let words = [from.filter(|_| to.is_some()), from.and(to).map(|_| "→"), to, code];
    let words: Vec<&str> = words.into_iter().flatten().collect();
    let why = event.change.reason().map_or(String::new(), |reason| format!(" ({reason})"));
    let mark = if event.notify { " !" } else { "" };
    format!("{who} {}{why}{mark}", words.join(" ")).trim_start().to_string()
}

/// An event or a service check in one line.
pub fn event_line(event: &EventOrCheck) -> String {
    match &event.body {
        EventOrCheckBody::Event { title, text, alert_type, .. } => {
            format!("event        {alert_type}: {}  {}", Escaped(title), Escaped(text))
        }
        EventOrCheckBody::ServiceCheck { name, status, message } => {
            let word = ["ok", "warning", "critical", "unknown"].get(usize::from(*status)).unwrap_or(&"unknown");
            format!("check        {}: {word}  {}", Escaped(name), Escaped(message.as_deref().unwrap_or("")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::Gauge;
    use crate::protocol::Kind;
    use crate::snapshot::{CounterPoint, GaugePoint};

    fn counter(name: &str) -> CounterPoint {
        CounterPoint { series: Series::new(Kind::Counter, name, &[]), sum: Default::default() }
    }

    fn gauge(name: &str, tags: &[(&str, Option<&str>)], value: f64) -> GaugePoint {
        GaugePoint { series: Series::new(Kind::Gauge, name, tags), gauge: Gauge::absolute(value, 1.0) }
    }

    #[test]
    fn kinds_share_the_rows_and_short_ones_leave_theirs_to_others() {
        for (lengths, room, expected) in [
            (&[][..], 200, &[][..]),
            (&[3, 0, 5], 200, &[3, 0, 5]),
            (&[20_000, 20_000], 200, &[100, 100]),
            (&[20_000, 10, 90], 200, &[100, 10, 90]),
            (&[20_000, 300, 300, 300], 200, &[50, 50, 50, 50]),
            (&[5, 5, 5], 2, &[0, 1, 1]),
        ] {
            assert_eq!(shares(lengths, room), expected, "{lengths:?}");
        }
    }

    #[test]
    fn what_people_sent_comes_first_and_the_rest_folds_to_a_line_each() {
        let service = [("service", Some("pay\u{1b}[2J"))];
        let state = |state| [("service", Some("pay\u{1b}[2J")), ("state", Some(state))];
        let snapshot = Snapshot {
            counters: (0..20_000)
                .map(|n| counter(&format!("c{n:05}")))
                .chain([counter("systole.lines.read")])
                .collect(),
            gauges: vec![
                gauge("presence_service_up", &service, 0.0),
                gauge("presence_service_up", &[("service", Some("search"))], 1.0),
                gauge("presence_service_min", &service, 3.0),
                gauge("presence_service_instances", &state("up"), 2.0),
                gauge("presence_service_instances", &state("down"), 1.0),
                gauge("presence_of_mind", &[], 7.0),
                gauge("systole.series", &[], 3.0),
            ],
            ..Snapshot::default()
        };
        let table = table(&snapshot);
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[0].contains("  20001 series  "), "{}", lines[0]);
        assert_eq!(lines.len(), 1 + 199 + 1 + 1 + 2, "{table}");
        assert!(lines[1].starts_with("   counter      c00000 "), "{}", lines[1]);
        assert_eq!(lines[200], "   counter      … and 19801 more");
        assert!(lines[201].starts_with("   gauge        presence_of_mind "), "{}", lines[201]);
        assert_eq!(
            lines[202],
            "   presence     1 of 2 services up; pay\\u{1b}[2J is not (2 of at least 3 instances); instances: 1 down, 2 up"
        );
        assert_eq!(lines[203], "   systole      2 series of the daemon's own; memory 0 MiB; flush 0 ms");
    }
}
