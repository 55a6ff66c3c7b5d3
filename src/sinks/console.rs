//! Standard output: a table for people on a terminal, records otherwise. Text from the wire is shown with
//! everything that would act on a terminal written out.
//!
//! An interval that was written in part (a full disk) is continued where it stopped. Records for a pipe whose reader is gone
//! are dropped and counted (`closed`).

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, IsTerminal, Write as _};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use crate::aggregate::{EventOrCheck, EventOrCheckBody};
use crate::codec::Records;
use crate::presence::{Event, WarningCode};
use crate::series::Series;
use crate::snapshot::{Snapshot, number, short_number};
use crate::untrusted::Escaped;

use super::blocking::{Blocking, Writer};
use super::{Delivery, OptionVisitor, Receipt, Sink, SinkContext, SinkError, Spec};

/// Rows of a table; of the rest the number is shown.
const MAX_ROWS: usize = 200;
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
    identity: (u64, u64),
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

/// An interval as a table.
pub fn table(snapshot: &Snapshot) -> String {
    let mut rows: Vec<(&Series, String)> = Vec::new();
    rows.extend(snapshot.counters.iter().map(|point| {
        let value = point.sum.value();
        (&point.series, format!("{:>12}  {}/s", short_number(value), short_number(snapshot.rate(&point.series, value))))
    }));
    rows.extend(
        snapshot.gauges.iter().map(|point| (&point.series, format!("{:>12}", short_number(point.gauge.value())))),
    );
    rows.extend(snapshot.timers.iter().map(|point| {
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
        (&point.series, text)
    }));
    rows.extend(snapshot.sets.iter().map(|point| {
        let about = if point.members.is_exact() { "" } else { "about " };
        (&point.series, format!("{:>12}", format!("{about}{}", short_number(point.members.count()))))
    }));
    for point in &snapshot.kvs {
        rows.extend(point.values.iter().map(|&value| (&point.series, format!("{:>12}", short_number(value)))));
    }
    // The ledger's own series are the line at the top.
    rows.retain(|(series, _)| !series.name().starts_with("systole."));
    rows.sort_by(|a, b| a.0.order(b.0));

    let ledger = &snapshot.ledger;
    let datagrams: u64 = ledger.listeners.iter().map(|l| l.datagrams).sum();
    let drops: u64 = ledger.listeners.iter().map(|l| l.kernel_drops).sum();
    let time = UNIX_EPOCH + Duration::from_secs_f64(snapshot.end.max(0.0));
    let mut out = format!(
        "── {}  {} series  {} lines  {datagrams} datagrams  {} malformed  {drops} dropped by the kernel\n",
        humantime::format_rfc3339_seconds(time),
        rows.len(),
        ledger.lines.read,
        ledger.malformed_total(),
    );
    let names: Vec<String> =
        rows.iter().take(MAX_ROWS).map(|(series, _)| Escaped(&series.to_string()).to_string()).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).min(NAME_WIDTH);
    for ((series, text), name) in rows.iter().zip(&names) {
        let _ = writeln!(out, "   {:<12} {name:<width$} {text}", series.kind().name());
    }
    if rows.len() > MAX_ROWS {
        let _ = writeln!(out, "   … and {} more series", rows.len() - MAX_ROWS);
    }
    for event in snapshot.events_and_checks.iter().take(MAX_ROWS) {
        let _ = writeln!(out, "   {}", event_line(event));
    }
    if snapshot.events_and_checks.len() > MAX_ROWS {
        let _ =
            writeln!(out, "   … and {} more events and service checks", snapshot.events_and_checks.len() - MAX_ROWS);
    }
    for event in snapshot.presence.iter().take(MAX_ROWS) {
        let _ = writeln!(out, "   {}", presence_line(event));
    }
    if snapshot.presence.len() > MAX_ROWS {
        let _ = writeln!(out, "   … and {} more changes of presence", snapshot.presence.len() - MAX_ROWS);
    }
    out
}

/// A change of presence in one line.
pub fn presence_line(event: &Event) -> String {
    if let Some(count) = event.change.restored() {
        let s = if count == 1 { "" } else { "s" };
        return format!("presence     {count} instance{s} restored");
    }
    let who = match (&event.service, &event.instance) {
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
    format!("presence     {who} {}{why}{mark}", words.join(" "))
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
