//! Another StatsD server: an interval in its own protocol, one line for a counter, a gauge, each sample of a timer and each
//! member of a set that is still known, so that it can aggregate them further.
//!
//! The dialect `dogstatsd` has tags as `|#k:v`, histograms, distributions, events, service checks and times. In `etsy`, what the
//! original reads, histograms and distributions are timers, and tags stand in the name as Graphite has them, `name;k=v`: the
//! original refuses lines with `|#`. A sample that stands for several has the rate that says so. Sets that are estimates have no
//! members to send (`estimated`).
//!
//! A sign before a gauge's value adjusts it, so a negative one is set by way of zero, both lines in one datagram: `x:0|g`, `x:-5|g`.
//! A receiver that takes signs for part of the value (the DataDog agent) comes to the same; `gauge_sign = "absolute"` saves it
//! the zero. A gauge with a time of its own cannot be set that way, nor at all in `etsy`, which has no times (`unsupported`).
//!
//! Over UDP lines are packed into datagrams of at most `max_datagram` bytes; whether they arrive is not known, but a server that
//! is not there is an error; a line that no datagram holds is left out (`too_long`). Over TCP a line ends with a newline.
//!
//! What is written as a timer, a folded histogram too, and has a value below zero is left out: readers refuse it (`negative`).

use std::io;
use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use tokio::net::UdpSocket;
use tokio_rustls::TlsConnector;

use crate::aggregate::{EventOrCheck, EventOrCheckBody};
use crate::http_client::{Stream, connect};
use crate::protocol::Kind;
use crate::series::Series;
use crate::settings::choice;
use crate::snapshot::{Point, Snapshot, number, write_number};
use crate::untrusted::is_active;

use super::http::Security;
use super::spec::{bare, reach};
use super::{Delivery, Opt, OptionVisitor, Receipt, Sink, SinkContext, SinkError, Spec};

/// The least rate of which a reader can say how many events it stands for.
const LEAST_RATE: f64 = 5.6e-309;

/// How lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// With everything.
    #[default]
    Dogstatsd,
    /// What the original reads.
    Etsy,
}

/// What a sign before a gauge's value says to the receiver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sign {
    /// By how much it changes.
    #[default]
    Delta,
    /// Which value it has.
    Absolute,
}

/// Most that a datagram holds over IPv4, in bytes.
const DATAGRAM_BYTES: usize = 65_507;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Transport {
    #[default]
    Udp,
    Tcp,
}

/// `statsd` in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatsdSpec {
    address: String,
    transport: Transport,
    dialect: Dialect,
    gauge_sign: Sign,
    max_datagram: u64,
    security: Security,
}

impl Default for StatsdSpec {
    fn default() -> StatsdSpec {
        StatsdSpec {
            address: String::new(),
            transport: Transport::Udp,
            dialect: Dialect::Dogstatsd,
            gauge_sign: Sign::Delta,
            max_datagram: 1432,
            security: Security::default(),
        }
    }
}

impl Spec for StatsdSpec {
    fn options(&mut self, visitor: &mut dyn OptionVisitor) {
        visitor.field("address", "The server.", Opt::HostPort(&mut self.address));
        visitor.require_one("address", !self.address.is_empty(), "\"127.0.0.1:8125\"");
        choice(
            visitor,
            "transport",
            "How it is reached.",
            &[("udp", Transport::Udp), ("tcp", Transport::Tcp)],
            &mut self.transport,
        );
        choice(
            visitor,
            "dialect",
            "\"etsy\" writes what the original server reads, with tags in names.",
            &[("dogstatsd", Dialect::Dogstatsd), ("etsy", Dialect::Etsy)],
            &mut self.dialect,
        );
        choice(
            visitor,
            "gauge_sign",
            "How the server reads a sign before a gauge: most adjust by it (\"delta\"), so a negative value is set by way of zero; \"absolute\" is part of the value.",
            &[("delta", Sign::Delta), ("absolute", Sign::Absolute)],
            &mut self.gauge_sign,
        );
        let is_odd = self.dialect == Dialect::Etsy && self.gauge_sign == Sign::Absolute;
        visitor.require(
            "gauge_sign",
            if is_odd { Err("in the dialect `etsy` a sign adjusts; \"delta\" is right".into()) } else { Ok(()) },
        );
        visitor.field("max_datagram", "Longest datagram, in bytes.", Opt::Whole(&mut self.max_datagram, 512..=65_507));
        self.security.options(visitor);
    }

    fn set_from_url(&mut self, place: &str) -> Result<(), String> {
        self.address = bare(place).to_string();
        Ok(())
    }

    fn place(&self) -> String {
        self.address.clone()
    }

    fn probe(&self) -> Result<String, String> {
        match self.transport {
            Transport::Tcp => reach(&self.address),
            Transport::Udp => {
                let socket = std::net::UdpSocket::bind(("0.0.0.0", 0)).map_err(|error| error.to_string())?;
                let reached = socket.connect(&self.address);
                reached.map_err(|error| format!("cannot reach {}: {error}", self.address))?;
                Ok(format!("{} can be sent to; UDP does not say whether anybody listens", self.address))
            }
        }
    }

    fn open(&self, _: &SinkContext) -> Result<Box<dyn Sink>, String> {
        let connector = self.security.connector()?;
        Ok(Box::new(StatsdSink { spec: self.clone(), connector, wire: None }))
    }
}

enum Wire {
    Datagrams(UdpSocket),
    Stream(Box<dyn Stream>),
}

/// A StatsD server.
struct StatsdSink {
    spec: StatsdSpec,
    /// TLS over TCP, if it is used.
    connector: Option<TlsConnector>,
    wire: Option<Wire>,
}

/// An interval as lines. What stands in one item belongs into one datagram.
pub struct Encoder {
    dialect: Dialect,
    sign: Sign,
    longest: usize,
    line: Vec<u8>,
}

impl Encoder {
    /// Lines of a dialect, in items of at most so many bytes.
    pub fn new(dialect: Dialect, sign: Sign, longest: usize) -> Encoder {
        Encoder { dialect, sign, longest, line: Vec::new() }
    }

    /// Hands every item to `visit`; how many records cannot be sent, by reason.
    pub fn each(&mut self, snapshot: &Snapshot, mut visit: impl FnMut(&[u8])) -> [(&'static str, u64); 4] {
        let (mut estimated, mut unsupported, mut too_long, mut negative) = (0, 0, 0, 0);
        let longest = self.longest;
        // Whether it could be.
        let mut hand_on = |line: &[u8]| {
            let fits = line.len() <= longest;
            if fits {
                visit(line);
            }
            fits
        };
        for point in (0..).map_while(|n| snapshot.point(n)) {
            let series = point.series();
            let is_sent = match point {
                Point::Counter(point) => {
                    self.value(series, "c", point.sum.value(), 1.0, None);
                    hand_on(&self.line)
                }
                Point::Gauge(point) => {
                    self.gauge(series, point.gauge.value());
                    hand_on(&self.line)
                }
                Point::Kv(point) => {
                    // Only statsite knows key-value pairs.
                    unsupported += point.values.len() as u64;
                    true
                }
                Point::Timer(point) => {
                    let kind = match (series.kind(), self.dialect) {
                        (Kind::Histogram, Dialect::Dogstatsd) => "h",
                        (Kind::Distribution, Dialect::Dogstatsd) => "d",
                        _ => "ms",
                    };
                    let mut is_sent = true;
                    let values = snapshot.values(point);
                    if kind == "ms" && values.first().is_some_and(|(smallest, _)| *smallest < 0.0) {
                        // Readers refuse a negative duration; a part of the timer would be wrong.
                        negative += 1;
                        continue;
                    }
                    for (value, count) in values {
                        self.value(series, kind, value, count, None);
                        is_sent &= hand_on(&self.line);
                    }
                    is_sent
                }
                Point::Set(point) => match point.members.hashes() {
                    Some(hashes) => {
                        let mut is_sent = true;
                        for hash in hashes {
                            self.begin(series);
                            self.line.extend_from_slice(format!("{hash:016x}|s").as_bytes());
                            self.end(series, None);
                            is_sent &= hand_on(&self.line);
                        }
                        is_sent
                    }
                    None => {
                        estimated += 1;
                        true
                    }
                },
            };
            too_long += u64::from(!is_sent);
        }
        for one in &snapshot.timestamped {
            if one.series.kind() == Kind::Gauge {
                if self.dialect == Dialect::Etsy || (one.value < 0.0 && self.sign == Sign::Delta) {
                    unsupported += 1;
                    continue;
                }
                self.value(&one.series, "g", one.value, 1.0, Some(one.time));
            } else {
                self.value(&one.series, "c", one.value, 1.0, Some(one.time));
            }
            too_long += u64::from(!hand_on(&self.line));
        }
        for event in &snapshot.events_and_checks {
            if self.dialect == Dialect::Etsy {
                unsupported += 1;
            } else {
                self.event(event);
                too_long += u64::from(!hand_on(&self.line));
            }
        }
        unsupported += snapshot.presence.len() as u64;
        [("estimated", estimated), ("unsupported", unsupported), ("too_long", too_long), ("negative", negative)]
    }

    fn begin(&mut self, series: &Series) {
        self.line.clear();
        self.text(series.name());
        if self.dialect == Dialect::Etsy {
            self.name_tags(series);
        }
        self.line.push(b':');
    }

    /// Text without what would end it.
    fn text(&mut self, text: &str) {
        self.text_without(text, "");
    }

    fn text_without(&mut self, text: &str, more: &str) {
        let mut buffer = [0; 4];
        for c in text.chars() {
            let ends = is_active(c) || matches!(c, ':' | '|' | '@' | '#' | ',' | '\n') || more.contains(c);
            let shown = if ends { '_' } else { c };
            self.line.extend_from_slice(shown.encode_utf8(&mut buffer).as_bytes());
        }
    }

    /// Tags as the naming `etsy` has them, `;k=v`. What else the original does not take it cleans itself.
    fn name_tags(&mut self, series: &Series) {
        for (key, value) in series.tags() {
            self.line.push(b';');
            self.text_without(key, ";=");
            self.line.push(b'=');
            // Graphite has no tag without a value, and no empty one.
            match value {
                Some("") => self.line.push(b'_'),
                Some(value) => self.text_without(value, ";"),
                None => self.line.extend_from_slice(b"true"),
            }
        }
    }

    fn value(&mut self, series: &Series, kind: &str, value: f64, count: f64, time: Option<f64>) {
        self.begin(series);
        // Zero has no sign.
        write_number(&mut self.line, value + 0.0);
        self.line.push(b'|');
        self.line.extend_from_slice(kind.as_bytes());
        if count != 1.0 && count > 0.0 {
            self.line.extend_from_slice(b"|@");
            self.line.extend_from_slice(number((1.0 / count).max(LEAST_RATE)).as_bytes());
        }
        self.end(series, time);
    }

    fn gauge(&mut self, series: &Series, value: f64) {
        let mut before = Vec::new();
        if value < 0.0 && self.sign == Sign::Delta {
            // The sign adjusts it.
            self.value(series, "g", 0.0, 1.0, None);
            before = std::mem::take(&mut self.line);
            before.push(b'\n');
        }
        self.value(series, "g", value, 1.0, None);
        before.append(&mut self.line);
        self.line = before;
    }

    fn end(&mut self, series: &Series, time: Option<f64>) {
        if self.dialect == Dialect::Etsy {
            return;
        }
        self.tags(series.tags());
        if let Some(time) = time {
            self.line.extend_from_slice(format!("|T{}", time as i64).as_bytes());
        }
    }

    fn tags<'a>(&mut self, tags: impl Iterator<Item = (&'a str, Option<&'a str>)>) {
        for (n, (key, value)) in tags.enumerate() {
            self.line.extend_from_slice(if n == 0 { b"|#" } else { b"," });
            self.text(key);
            if let Some(value) = value {
                self.line.push(b':');
                // A value may hold colons.
                for (n, part) in value.split(':').enumerate() {
                    if n > 0 {
                        self.line.push(b':');
                    }
                    self.text(part);
                }
            }
        }
    }

    fn event(&mut self, event: &EventOrCheck) {
        self.line.clear();
        let mut fields: Vec<(&str, &str)> = Vec::new();
        let escaped = |text: &str| text.replace('\n', "\\n");
        let message = match &event.body {
            EventOrCheckBody::Event { title, text, priority, alert_type, aggregation_key, source_type } => {
                let (title, text) = (escaped(title), escaped(text));
                self.line.extend_from_slice(format!("_e{{{},{}}}:{title}|{text}", title.len(), text.len()).as_bytes());
                self.line.extend_from_slice(format!("|d:{}", event.time as i64).as_bytes());
                fields.extend(aggregation_key.as_deref().map(|key| ("k", key)));
                fields.extend([("p", priority.as_str()), ("t", alert_type.as_str())]);
                fields.extend(source_type.as_deref().map(|source| ("s", source)));
                None
            }
            EventOrCheckBody::ServiceCheck { name, status, message: said } => {
                self.line.extend_from_slice(b"_sc|");
                self.text(name);
                self.line.extend_from_slice(format!("|{status}|d:{}", event.time as i64).as_bytes());
                said.as_deref()
            }
        };
        fields.extend(event.host.as_deref().map(|host| ("h", host)));
        for (key, value) in fields {
            self.line.extend_from_slice(format!("|{key}:").as_bytes());
            self.text(value);
        }
        self.tags(event.tags.iter());
        if let Some(message) = message {
            // It must come last.
            self.line.extend_from_slice(b"|m:");
            self.line.extend_from_slice(escaped(message).replace("|", "_").as_bytes());
        }
    }
}

impl StatsdSink {
    async fn connect(&self) -> io::Result<Wire> {
        match self.spec.transport {
            Transport::Tcp => Ok(Wire::Stream(connect(&self.spec.address, self.connector.as_ref(), None).await?)),
            Transport::Udp => {
                let to = tokio::net::lookup_host(&self.spec.address).await?.next();
                let to = to.ok_or_else(|| io::Error::other("it has no address"))?;
                let from = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(from).await?;
                socket.connect(to).await?;
                Ok(Wire::Datagrams(socket))
            }
        }
    }

    async fn send(&mut self, pieces: &[Vec<u8>]) -> io::Result<()> {
        let mut wire = match self.wire.take() {
            Some(wire) => wire,
            None => self.connect().await?,
        };
        match &mut wire {
            Wire::Stream(stream) => {
                for piece in pieces {
                    stream.write_all(piece).await?;
                    stream.write_all(b"\n").await?;
                }
                stream.flush().await?;
            }
            Wire::Datagrams(socket) => {
                for (n, piece) in pieces.iter().enumerate() {
                    socket.send(piece).await?;
                    if n % 32 == 31 {
                        // A burst would only overflow the other side's buffer.
                        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                    }
                }
                // Somebody who is not there says so a moment later.
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                if let Some(error) = socket.take_error()? {
                    return Err(error);
                }
            }
        }
        self.wire = Some(wire);
        Ok(())
    }
}

impl Sink for StatsdSink {
    fn deliver<'a>(&'a mut self, snapshot: &'a Arc<Snapshot>) -> Delivery<'a, Result<Receipt, SinkError>> {
        Box::pin(async move {
            let most = self.spec.max_datagram as usize;
            let mut pieces: Vec<Vec<u8>> = Vec::new();
            let longest = if self.spec.transport == Transport::Udp { DATAGRAM_BYTES } else { usize::MAX };
            let mut encoder = Encoder::new(self.spec.dialect, self.spec.gauge_sign, longest);
            let dropped = encoder.each(snapshot, |item| match pieces.last_mut() {
                Some(last) if last.len() + 1 + item.len() <= most => {
                    last.push(b'\n');
                    last.extend_from_slice(item);
                }
                Some(_) | None => pieces.push(item.to_vec()),
            });
            let bytes = pieces.iter().map(Vec::len).sum::<usize>() as u64;
            if !pieces.is_empty() {
                self.send(&pieces).await.map_err(|error| SinkError::new(format!("{}: {error}", self.spec.address)))?;
            }
            Ok(Receipt::new(bytes, dropped))
        })
    }

    fn close(&mut self) -> Delivery<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}
