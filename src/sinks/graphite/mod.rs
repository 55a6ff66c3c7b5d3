//! Graphite over TCP, in its plaintext protocol, `name SP value SP unixtime NL`, or as pickles; tags as `name;k=v`.
//!
//! What the format cannot carry is escaped: white space, `;` and control characters become `_`. Two series
//! that are then one are both written, counted and named in the log. Events, service checks and changes of
//! presence have no form here; they are counted as dropped (`unsupported`).

mod dogstatsd;
mod etsy;
mod pickle;
mod presence;
mod systole;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use crate::http_client::{Stream, connect};
use crate::protocol::Kind;
use crate::series::Series;
use crate::settings::choice;
use crate::snapshot::{Point, Snapshot, write_number};
use crate::sys::unix_time;
use crate::untrusted::Escaped;

use super::http::Security;
use super::spec::{bare, reach, unique};
use super::{Delivery, Opt, OptionVisitor, Receipt, Sink, SinkContext, SinkError, Spec, Unencodable};

pub use etsy::EtsyNames;

/// Send buffer asked for, in bytes. What lies in it counts as delivered although a server that breaks down may
/// never read it: small enough that little does, large enough for 10 MB/s over 50 ms of distance.
const SEND_BUFFER_BYTES: usize = 512 << 10;

/// Bytes encoded before they are written.
const PIECE_BYTES: usize = 64 << 10;

/// Longest name, with its tags: a carbon closes the connection at a line of more than 16,384 bytes every time.
const MOST_NAME_BYTES: usize = 16_384 - 64;

/// How names are written.
#[derive(Clone, Debug)]
pub enum GraphiteNames {
    /// `name.count`, `name.mean`, `name.p99`.
    Systole,
    /// The original's.
    Etsy(EtsyNames),
    /// The DataDog agent's, with the aggregates of timers.
    Dogstatsd(Vec<String>),
}

/// A way to write names, as the configuration has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Naming {
    /// As the profile has it.
    #[default]
    Profile,
    /// `name.count`, `name.mean`, `name.p99`, `name.rate`; a gauge or set bare.
    Systole,
    /// The original's names.
    Etsy,
    /// The agent's: `name.avg`, `name.95percentile`; a counter as its rate.
    Dogstatsd,
}

impl Naming {
    const NAMES: [(&'static str, Naming); 3] =
        [("systole", Naming::Systole), ("etsy", Naming::Etsy), ("dogstatsd", Naming::Dogstatsd)];

    /// What a profile names by.
    fn of_profile(profile: &str) -> Naming {
        Self::NAMES.iter().find(|(name, _)| *name == profile).map_or(Naming::Systole, |(_, naming)| *naming)
    }

    /// With what it needs.
    fn names(self, context: &SinkContext) -> GraphiteNames {
        match self {
            Naming::Profile => Naming::of_profile(context.profile).names(context),
            Naming::Systole => GraphiteNames::Systole,
            Naming::Etsy => GraphiteNames::Etsy(context.etsy.clone()),
            Naming::Dogstatsd => GraphiteNames::Dogstatsd(context.aggregates.clone()),
        }
    }
}

impl GraphiteNames {
    /// The profile's.
    pub fn of(context: &SinkContext) -> GraphiteNames {
        Naming::Profile.names(context)
    }
}

/// `graphite` in the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GraphiteSpec {
    address: String,
    protocol: Wire,
    naming: Naming,
    security: Security,
}

impl Spec for GraphiteSpec {
    fn names(&self, snapshot: &Snapshot, context: &SinkContext) -> Vec<String> {
        let lines = encode(snapshot, &self.naming.names(context));
        let lines = String::from_utf8_lossy(&lines);
        unique(lines.lines().filter_map(|line| line.split(' ').next()).map(String::from))
    }

    fn options(&mut self, visitor: &mut dyn OptionVisitor) {
        visitor.field("address", "The server.", Opt::HostPort(&mut self.address));
        visitor.require_one("address", !self.address.is_empty(), "\"127.0.0.1:2003\"");
        choice(
            visitor,
            "protocol",
            "\"plaintext\" (port 2003) or \"pickle\" (port 2004).",
            &[("plaintext", Wire::Plaintext), ("pickle", Wire::Pickle)],
            &mut self.protocol,
        );
        if self.naming == Naming::Profile {
            self.naming = Naming::of_profile(visitor.profile());
        }
        choice(
            visitor,
            "naming",
            "How names are written; that of the profile by default.",
            &Naming::NAMES,
            &mut self.naming,
        );
        self.security.options(visitor);
    }

    fn set_from_url(&mut self, place: &str) -> Result<(), String> {
        self.address = bare(place).to_string();
        Ok(())
    }

    fn place(&self) -> String {
        self.address.clone()
    }

    fn accepts_out_of_order(&self) -> bool {
        true
    }

    fn probe(&self) -> Result<String, String> {
        reach(&self.address)
    }

    fn open(&self, context: &SinkContext) -> Result<Box<dyn Sink>, String> {
        let names = self.naming.names(context);
        let mut sink = GraphiteSink::new(self.address.clone(), names, self.protocol, context.interval);
        sink.connector = self.security.connector()?;
        Ok(Box::new(sink))
    }
}

/// What stands on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wire {
    /// Lines.
    #[default]
    Plaintext,
    /// Frames of Python's pickle format.
    Pickle,
}

/// What the original reports of its own flushes: `graphiteStats` and `processing_time`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timings {
    /// Seconds since the interval ended until it was handed to this sink, in ms.
    pub processing_ms: f64,
    /// Time spent on writing names and values, ms.
    pub calculation_ms: f64,
    /// When a delivery last failed, Unix seconds.
    pub last_exception: f64,
    /// When a delivery last succeeded, Unix seconds.
    pub last_flush: f64,
    /// How long that took, ms.
    pub flush_ms: f64,
    /// How many bytes that were.
    pub flush_length: f64,
}

/// An interval as Graphite lines, piece by piece: a million series would make hundreds of megabytes at once.
pub struct Encoder<'a> {
    snapshot: &'a Snapshot,
    names: Names<'a>,
    timings: Option<&'a Timings>,
    wire: Wire,
    /// The next point; `None` when everything was written.
    next: Option<usize>,
    unencodable: Unencodable,
}

enum Names<'a> {
    Systole,
    Dogstatsd(&'a [String]),
    Etsy(etsy::Context<'a>),
}

impl<'a> Encoder<'a> {
    /// Begins an interval. `timings` are written in the naming `etsy` if the original's own series are on.
    pub fn new(
        snapshot: &'a Snapshot,
        names: &'a GraphiteNames,
        timings: Option<&'a Timings>,
        wire: Wire,
    ) -> Encoder<'a> {
        let names = match names {
            GraphiteNames::Systole => Names::Systole,
            GraphiteNames::Dogstatsd(aggregates) => Names::Dogstatsd(aggregates),
            GraphiteNames::Etsy(names) => Names::Etsy(etsy::Context::new(names)),
        };
        Encoder { snapshot, names, timings, wire, next: Some(0), unencodable: Unencodable::default() }
    }

    /// Appends whole lines, or frames, until `limit` bytes or a little more are there; `false` if there is nothing left.
    pub fn fill(&mut self, bytes: &mut Vec<u8>, limit: usize) -> bool {
        let Some(mut next) = self.next else { return false };
        let frame = (self.wire == Wire::Pickle).then(pickle::Frame::default);
        let time = (self.snapshot.end + 0.5).floor() as i64;
        let mut out = Writer { bytes: std::mem::take(bytes), time, frame, fault: None };
        self.next = loop {
            let Some(point) = self.snapshot.point(next) else {
                self.write_timestamped(&mut out);
                if let Names::Etsy(context) = &self.names {
                    etsy::write_own(self.snapshot, context, self.timings, &mut out);
                }
                break None;
            };
            match &self.names {
                _ if presence::write(point, &mut out) => {}
                Names::Systole => systole::write(self.snapshot, point, &mut out),
                Names::Dogstatsd(aggregates) => dogstatsd::write(self.snapshot, point, aggregates, &mut out),
                Names::Etsy(context) => etsy::write(self.snapshot, point, context, &mut out),
            }
            next += 1;
            if let Some(why) = out.fault.take() {
                let records = if let Point::Kv(point) = point { point.values.len() } else { 1 };
                self.unencodable.add_many(records as u64, point.series(), why);
            }
            if out.bytes.len() >= limit {
                break Some(next);
            }
        };
        if let Some(frame) = &mut out.frame {
            frame.close(&mut out.bytes);
        }
        *bytes = out.bytes;
        true
    }

    /// Counters and gauges with times of their own: they have no rate.
    fn write_timestamped(&mut self, out: &mut Writer) {
        let interval = out.time;
        for one in &self.snapshot.timestamped {
            out.time = one.time as i64;
            let is_gauge = one.series.kind() == Kind::Gauge;
            match &self.names {
                Names::Systole | Names::Dogstatsd(_) => {
                    let name = systole::Name::new(&one.series);
                    name.write(out, if is_gauge { "" } else { ".count" }, one.value);
                }
                Names::Etsy(context) => etsy::write_timestamped(&one.series, one.value, context, out),
            }
            if let Some(why) = out.fault.take() {
                self.unencodable.add(&one.series, why);
            }
        }
        out.time = interval;
    }
}

/// A whole interval as Graphite lines.
pub fn encode(snapshot: &Snapshot, names: &GraphiteNames) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(snapshot, names, None, Wire::Plaintext);
    while encoder.fill(&mut bytes, usize::MAX) {}
    bytes
}

/// A name as one part of a path: a dot would begin another.
fn part(name: &str) -> String {
    name.replace('.', "_")
}

/// Collects points.
struct Writer {
    bytes: Vec<u8>,
    time: i64,
    /// `None` for plaintext.
    frame: Option<pickle::Frame>,
    /// Why the last record could not be written whole.
    fault: Option<&'static str>,
}

impl Writer {
    /// One point: the parts of a name are joined as they are.
    fn line(&mut self, parts: &[&str], value: f64) {
        if parts.iter().map(|part| part.len()).sum::<usize>() > MOST_NAME_BYTES {
            self.fault = Some("its name and tags are longer than a line may be");
            return;
        }
        if let Some(frame) = &mut self.frame {
            frame.point(&mut self.bytes, parts, self.time, value);
            return;
        }
        parts.iter().for_each(|part| self.bytes.extend_from_slice(part.as_bytes()));
        self.bytes.push(b' ');
        write_number(&mut self.bytes, value);
        self.bytes.push(b' ');
        self.bytes.extend_from_slice(itoa::Buffer::new().format(self.time).as_bytes());
        self.bytes.push(b'\n');
    }
}

/// Whether no naming has anything to escape in a series: nearly all of them, and cheap to see.
fn needs_no_escaping(series: &Series) -> bool {
    let is_safe = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
    is_safe(series.name())
        && series.tags().all(|(key, value)| is_safe(key) && value.is_some_and(|v| !v.is_empty() && is_safe(v)))
}

/// Series of one kind that are given the same name, because it was not their own: the first such name, and how
/// many series too many there are.
fn collisions(snapshot: &Snapshot, names: &GraphiteNames) -> Option<(String, u64)> {
    let escaped = |series: &Series| match names {
        _ if needs_no_escaping(series) => None,
        _ if presence::path(series).is_some() => presence::path(series),
        GraphiteNames::Systole | GraphiteNames::Dogstatsd(_) => systole::escaped(series),
        GraphiteNames::Etsy(_) => etsy::escaped(series),
    };
    let points = || (0..).map_while(|n| snapshot.point(n)).map(Point::series);
    let mut counts: BTreeMap<(Kind, String), u64> =
        points().filter_map(|series| Some(((series.kind(), escaped(series)?), 0))).collect();
    if counts.is_empty() {
        return None;
    }
    for series in points() {
        let name = escaped(series).unwrap_or_else(|| series.to_string());
        if let Some(count) = counts.get_mut(&(series.kind(), name)) {
            *count += 1;
        }
    }
    let too_many: u64 = counts.values().map(|count| count.saturating_sub(1)).sum();
    let (first, _) = counts.into_iter().find(|(_, count)| *count > 1)?;
    Some((first.1, too_many))
}

/// A Graphite server.
pub struct GraphiteSink {
    address: String,
    names: GraphiteNames,
    wire: Wire,
    /// TLS, if it is used.
    connector: Option<TlsConnector>,
    stream: Option<Box<dyn Stream>>,
    timings: Timings,
    /// A collision is logged at most once in so long.
    log_every: Duration,
    collision_logged: Option<Instant>,
}

impl GraphiteSink {
    /// A server at `host:port`; connected when there is something to deliver.
    pub fn new(address: String, names: GraphiteNames, wire: Wire, log_every: Duration) -> GraphiteSink {
        let timings = Timings { last_flush: unix_time(), last_exception: unix_time(), ..Timings::default() };
        GraphiteSink { address, names, wire, connector: None, stream: None, timings, log_every, collision_logged: None }
    }

    fn log_collisions(&mut self, snapshot: &Snapshot) {
        if self.collision_logged.is_some_and(|last| last.elapsed() < self.log_every) {
            return;
        }
        if let Some((name, series)) = collisions(snapshot, &self.names) {
            self.collision_logged = Some(Instant::now());
            tracing::warn!(name = %Escaped(&name), series, "several series have one name in Graphite; all are written");
        }
    }

    /// Writes an interval; how many bytes, and what has no form.
    async fn send(&mut self, snapshot: &Snapshot) -> io::Result<(usize, Unencodable)> {
        // A stream is only kept after a whole delivery, so a failed one begins anew on a fresh connection.
        let mut stream = match self.stream.take().and_then(alive) {
            Some(stream) => stream,
            None => connect(&self.address, self.connector.as_ref(), Some(SEND_BUFFER_BYTES)).await?,
        };
        let mut encoder = Encoder::new(snapshot, &self.names, Some(&self.timings), self.wire);
        let mut written = 0;
        let mut calculating = Duration::ZERO;
        let mut bytes = Vec::with_capacity(PIECE_BYTES + 4096);
        loop {
            bytes.clear();
            let began = Instant::now();
            if !encoder.fill(&mut bytes, PIECE_BYTES) {
                break;
            }
            calculating += began.elapsed();
            stream.write_all(&bytes).await?;
            written += bytes.len();
        }
        stream.flush().await?;
        self.stream = Some(stream);
        let unencodable = encoder.unencodable;
        self.timings.calculation_ms = calculating.as_secs_f64() * 1e3;
        Ok((written, unencodable))
    }
}

/// The connection, unless the server has closed it: writing to one that is closed may succeed and be lost.
fn alive(mut stream: Box<dyn Stream>) -> Option<Box<dyn Stream>> {
    let mut discarded = [0; 1024];
    loop {
        match stream.read(&mut discarded).now_or_never() {
            Some(Ok(0) | Err(_)) => return None,
            Some(Ok(_)) => {}
            None => return Some(stream),
        }
    }
}

impl Sink for GraphiteSink {
    fn deliver<'a>(&'a mut self, snapshot: &'a Arc<Snapshot>) -> Delivery<'a, Result<Receipt, SinkError>> {
        Box::pin(async move {
            self.log_collisions(snapshot);
            self.timings.processing_ms = ((unix_time() - snapshot.end) * 1e3).max(0.0);
            let began = Instant::now();
            let (written, unencodable) = match self.send(snapshot).await {
                Ok(written) => written,
                Err(error) => {
                    self.timings.last_exception = unix_time();
                    return Err(SinkError::new(format!("{}: {error}", self.address)));
                }
            };
            self.timings.last_flush = unix_time();
            self.timings.flush_ms = began.elapsed().as_secs_f64() * 1e3;
            self.timings.flush_length = written as f64;
            Ok(Receipt::new(written as u64, [("unsupported", snapshot.count_events())]).with(unencodable))
        })
    }

    fn close(&mut self) -> Delivery<'_, ()> {
        Box::pin(async move {
            if let Some(mut stream) = self.stream.take() {
                // Everything was delivered before; a server that objects to the goodbye loses nothing.
                let _ = stream.shutdown().await;
            }
        })
    }
}
