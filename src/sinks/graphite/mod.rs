//! Graphite's plaintext protocol over TCP: `name SP value SP unixtime NL`, tags as `name;k=v`.
//!
//! What the format cannot carry is escaped: white space, `;` and control characters become `_`. Two series
//! that are then one are both written, counted and named in the log. Events and service checks have no form
//! here; they are counted as dropped (`unsupported`).

mod etsy;
mod plain;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::inert::Plain;
use crate::snapshot::{Snapshot, write_number};
use crate::sys::unix_time;

use super::{Delivery, Receipt, Sink, SinkError};

pub use etsy::EtsyNames;

/// Send buffer asked for, in bytes. What lies in it counts as delivered although a server that breaks down may
/// never read it: small enough that little does, large enough for 10 MB/s over 50 ms of distance.
const SEND_BUFFER_BYTES: usize = 512 << 10;

/// How names are written.
#[derive(Clone, Debug)]
pub enum GraphiteNames {
    /// `name.count`, `name.mean`, `name.p99`.
    Systole,
    /// The original's.
    Etsy(EtsyNames),
}

/// What the original tells about its own flushes: `graphiteStats` and `processing_time`.
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

/// An interval in Graphite's form.
#[derive(Debug, Default)]
pub struct Lines {
    /// The lines.
    pub bytes: Vec<u8>,
    /// Names that two series were given, and how many series too many there were.
    pub collisions: Option<(String, u64)>,
}

/// Writes an interval. `timings` are told in the naming `etsy` if the original's own series are on.
pub fn encode(snapshot: &Snapshot, names: &GraphiteNames, timings: Option<&Timings>) -> Lines {
    let mut out = Writer {
        bytes: Vec::with_capacity(64 * snapshot.len()),
        time: (snapshot.end + 0.5).floor() as i64,
        changed: Vec::new(),
    };
    match names {
        GraphiteNames::Systole => plain::write(snapshot, &mut out),
        GraphiteNames::Etsy(names) => etsy::write(snapshot, names, timings, &mut out),
    }
    let collisions = out.collisions();
    Lines { bytes: out.bytes, collisions }
}

/// Collects lines.
struct Writer {
    bytes: Vec<u8>,
    time: i64,
    /// Full names that escaping changed: only those can collide.
    changed: Vec<String>,
}

impl Writer {
    /// One line: the parts of a name are joined as they are.
    fn line(&mut self, parts: &[&str], value: f64) {
        parts.iter().for_each(|part| self.bytes.extend_from_slice(part.as_bytes()));
        self.bytes.push(b' ');
        write_number(&mut self.bytes, value);
        self.bytes.push(b' ');
        self.bytes.extend_from_slice(itoa::Buffer::new().format(self.time).as_bytes());
        self.bytes.push(b'\n');
    }

    fn collisions(&self) -> Option<(String, u64)> {
        if self.changed.is_empty() {
            return None;
        }
        let mut counts: HashMap<&[u8], u64> = self.changed.iter().map(|name| (name.as_bytes(), 0)).collect();
        for line in self.bytes.split(|&b| b == b'\n') {
            let name = line.split(|&b| b == b' ').next().unwrap_or_default();
            if let Some(count) = counts.get_mut(name) {
                *count += 1;
            }
        }
        let too_many: u64 = counts.values().map(|count| count.saturating_sub(1)).sum();
        let worst = counts.iter().filter(|(_, count)| **count > 1).min_by_key(|(name, _)| **name)?;
        Some((String::from_utf8_lossy(worst.0).into_owned(), too_many))
    }
}

/// A Graphite server.
pub struct GraphiteSink {
    address: String,
    names: GraphiteNames,
    stream: Option<TcpStream>,
    timings: Timings,
    /// A collision is logged at most once in so long.
    log_every: Duration,
    collision_logged: Option<Instant>,
    /// The interval being delivered, encoded once.
    pending: Option<(u64, Vec<u8>)>,
}

impl GraphiteSink {
    /// A server at `host:port`; connected when there is something to deliver.
    pub fn new(address: String, names: GraphiteNames, log_every: Duration) -> GraphiteSink {
        let timings = Timings { last_flush: unix_time(), last_exception: unix_time(), ..Timings::default() };
        GraphiteSink { address, names, stream: None, timings, log_every, collision_logged: None, pending: None }
    }

    fn prepare(&mut self, snapshot: &Snapshot) {
        if self.pending.as_ref().is_some_and(|(sequence, _)| *sequence == snapshot.sequence) {
            return;
        }
        let began = Instant::now();
        self.timings.processing_ms = ((unix_time() - snapshot.end) * 1e3).max(0.0);
        let lines = encode(snapshot, &self.names, Some(&self.timings));
        self.timings.calculation_ms = began.elapsed().as_secs_f64() * 1e3;
        if let Some((name, series)) = &lines.collisions
            && self.collision_logged.is_none_or(|last| last.elapsed() >= self.log_every)
        {
            self.collision_logged = Some(Instant::now());
            tracing::warn!(name = %Plain(name), series, "several series have one name in Graphite; all are written");
        }
        self.pending = Some((snapshot.sequence, lines.bytes));
    }

    async fn send(&mut self) -> io::Result<()> {
        let Some((_, bytes)) = &self.pending else {
            return Ok(());
        };
        // A stream is only kept after a whole delivery, so a failed one begins anew on a fresh connection.
        let mut stream = match self.stream.take().filter(is_alive) {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(&self.address).await?;
                socket2::SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER_BYTES)?;
                stream
            }
        };
        stream.write_all(bytes).await?;
        stream.flush().await?;
        self.stream = Some(stream);
        Ok(())
    }
}

/// Whether the server has not closed the connection: writing to one that is closed may succeed and be lost.
fn is_alive(stream: &TcpStream) -> bool {
    let mut discarded = [0; 1024];
    loop {
        match stream.try_read(&mut discarded) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
        }
    }
}

impl Sink for GraphiteSink {
    fn deliver<'a>(&'a mut self, snapshot: &'a Arc<Snapshot>) -> Delivery<'a, Result<Receipt, SinkError>> {
        Box::pin(async move {
            self.prepare(snapshot);
            let began = Instant::now();
            if let Err(error) = self.send().await {
                self.timings.last_exception = unix_time();
                return Err(SinkError(format!("{}: {error}", self.address)));
            }
            self.timings.last_flush = unix_time();
            self.timings.flush_ms = began.elapsed().as_secs_f64() * 1e3;
            self.timings.flush_length = self.pending.take().map_or(0.0, |(_, bytes)| bytes.len() as f64);
            let (events, checks) = snapshot.count_notes();
            let unsupported = (events + checks) as u64;
            let dropped = if unsupported > 0 { vec![("unsupported", unsupported)] } else { Vec::new() };
            Ok(Receipt { dropped })
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
