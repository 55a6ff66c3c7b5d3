//! What the driver of a sink leaves to the one of the same name in the next process: the intervals that were not delivered, and
//! what the sink has to know of those before ([`Sink::save`](crate::sinks::Sink::save)).
//!
//! As bytes it is, in postcard's format (<https://postcard.jamesmunns.com>), the kind of the sink, the bytes of the sink as an
//! option, then for each interval its records, its end, and its bytes, as the spool has them. Bytes are preceded by their number.

use std::io::{self, Write};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::memory::Memory;
use crate::snapshot::Snapshot;

use super::Shared;

/// What is handed over.
#[derive(Debug)]
pub struct Handover {
    /// What kind of sink it is: another one has no use for `totals`.
    pub(super) kind: String,
    pub(super) totals: Option<Vec<u8>>,
    /// Oldest first.
    pub(super) waiting: Vec<Arc<Snapshot>>,
    pub(super) giver: Option<Arc<Shared>>,
}

/// What is in a hand-over, for who looks at it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contents {
    /// What kind of sink it is.
    pub kind: String,
    /// Bytes that the sink goes on with.
    pub totals_bytes: u64,
    /// Intervals that were not delivered, and their records.
    pub intervals: u64,
    /// Their records.
    pub records: u64,
    /// End of the oldest, Unix seconds.
    pub oldest: Option<f64>,
}

impl Handover {
    /// Version of the format.
    pub const FORMAT: u32 = 1;

    pub(super) fn new(giver: Arc<Shared>, totals: Option<Vec<u8>>, waiting: Vec<Arc<Snapshot>>) -> Handover {
        Handover { kind: giver.options().kind.to_string(), totals, waiting, giver: Some(giver) }
    }

    /// Label of the sink that hands over.
    pub fn name(&self) -> &str {
        self.giver.as_ref().map_or("", |giver| &giver.name)
    }

    /// Whether there is nothing to take over.
    pub fn is_empty(&self) -> bool {
        self.totals.is_none() && self.waiting.is_empty()
    }

    /// Writes it.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        put(out, &self.kind)?;
        put(out, &self.totals.is_some())?;
        if let Some(totals) = &self.totals {
            put_bytes(out, totals)?;
        }
        put(out, &(self.waiting.len() as u64))?;
        for snapshot in &self.waiting {
            put(out, &(snapshot.len() as u64, snapshot.end))?;
            put_bytes(out, &snapshot.encode()?)?;
        }
        Ok(())
    }

    /// Reads what [`Handover::write`] wrote. Intervals are held in this memory.
    ///
    /// # Errors
    /// If the bytes are something else.
    pub fn read(bytes: &[u8], memory: &Memory) -> io::Result<Handover> {
        let (mut totals, mut waiting) = (None, Vec::new());
        let kind = walk(bytes, &mut |part| {
            match part {
                Part::Totals(bytes) => totals = Some(bytes.to_vec()),
                Part::Interval { bytes, .. } => {
                    let mut snapshot = Snapshot::decode(bytes)?;
                    snapshot.hold(memory);
                    waiting.push(Arc::new(snapshot));
                }
            }
            Ok(())
        })?;
        Ok(Handover { kind, totals, waiting, giver: None })
    }

    /// Intervals that were not delivered.
    pub fn intervals(&self) -> usize {
        self.waiting.len()
    }

    /// Their records.
    pub fn records(&self) -> u64 {
        self.waiting.iter().map(|snapshot| snapshot.len() as u64).sum()
    }

    /// How long the sink was waited for, seconds.
    pub fn waited_secs(&self) -> f64 {
        self.giver.as_ref().map_or(0.0, |giver| giver.state().waited_secs)
    }

    /// Nobody takes it over: what waited is counted as dropped.
    pub fn give_up(self) {
        if let Some(giver) = &self.giver {
            giver.give_up(self.intervals(), self.records());
        }
    }
}

impl Contents {
    /// What is in bytes of a hand-over.
    ///
    /// # Errors
    /// If the bytes are something else.
    pub fn of(bytes: &[u8]) -> io::Result<Contents> {
        let mut contents = Contents::default();
        let kind = walk(bytes, &mut |part| {
            match part {
                Part::Totals(bytes) => contents.totals_bytes = bytes.len() as u64,
                Part::Interval { records, end, .. } => {
                    contents.intervals += 1;
                    contents.records += records;
                    contents.oldest.get_or_insert(end);
                }
            }
            Ok(())
        })?;
        Ok(Contents { kind, ..contents })
    }
}

enum Part<'a> {
    Totals(&'a [u8]),
    Interval { records: u64, end: f64, bytes: &'a [u8] },
}

/// Shows each part; the kind of the sink.
fn walk<'a>(bytes: &'a [u8], visit: &mut dyn FnMut(Part<'a>) -> io::Result<()>) -> io::Result<String> {
    let mut rest = bytes;
    let kind: String = take(&mut rest)?;
    if take(&mut rest)? {
        visit(Part::Totals(take_bytes(&mut rest)?))?;
    }
    let intervals: u64 = take(&mut rest)?;
    for _ in 0..intervals {
        let (records, end) = take(&mut rest)?;
        visit(Part::Interval { records, end, bytes: take_bytes(&mut rest)? })?;
    }
    if rest.is_empty() { Ok(kind) } else { Err(invalid("something follows it")) }
}

fn invalid(why: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_string())
}

fn put(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    out.write_all(&postcard::to_stdvec(value).map_err(invalid)?)
}

fn put_bytes(out: &mut dyn Write, bytes: &[u8]) -> io::Result<()> {
    put(out, &(bytes.len() as u64))?;
    out.write_all(bytes)
}

fn take<'a, T: Deserialize<'a>>(rest: &mut &'a [u8]) -> io::Result<T> {
    let (value, after) = postcard::take_from_bytes(rest).map_err(invalid)?;
    *rest = after;
    Ok(value)
}

fn take_bytes<'a>(rest: &mut &'a [u8]) -> io::Result<&'a [u8]> {
    let length: u64 = take(rest)?;
    let length = usize::try_from(length).map_err(invalid)?;
    let (bytes, after) = rest.split_at_checked(length).ok_or_else(|| invalid("it is cut short"))?;
    *rest = after;
    Ok(bytes)
}
