//! Writes batches.

use std::io::Write;

use flate2::Compression;
use flate2::write::DeflateEncoder;
use serde::Serialize;

use crate::aggregate::rules::NO_RULE;
use crate::aggregate::{EventOrCheck, EventOrCheckBody};

use super::header::{BatchHeader, Flags};
use super::partition::{Part, Record, Value, append_tags};
use super::{EVENT_OR_CHECK, HELD_BYTES, MAX_NAME_BYTES, MAX_RECORD_BYTES, MESSAGE_BYTES, PLAIN_BYTES, RULE};

/// Bytes that the header of a further message of the same interval may be longer than the first.
const HEADER_SPARE: usize = 16;

/// Bytes of the end of deflate.
const END: usize = 16;

/// Plain bytes from which it is worthwhile to compress what there is, to see how much more a message takes. It is done a
/// few times for a message that is full, and never for others.
const WORTHWHILE: usize = 16 << 10;

/// The messages of an interval and a partition.
#[derive(Clone, Debug, Default)]
pub struct Encoded {
    /// At least one, in order. Each has the next `n`; the account is in the first.
    pub messages: Vec<Vec<u8>>,
    /// Names of the series that are left out, because a record would exceed [`MAX_RECORD_BYTES`].
    pub left_out: Vec<String>,
}

/// The bodies of those messages.
#[derive(Clone, Debug, Default)]
pub struct Bodies {
    /// At least one, in order.
    pub bodies: Vec<Vec<u8>>,
    /// Names of the series that are left out, because a record would exceed [`MAX_RECORD_BYTES`].
    pub left_out: Vec<String>,
}

/// Writes a part of a snapshot. The header is that of the first message; `more` is filled in, and `last` is kept for the
/// last one.
pub fn encode(header: &BatchHeader, part: &Part<'_>) -> Encoded {
    let Bodies { bodies, left_out } = bodies(part, header.encode(&[]).len() + HEADER_SPARE);
    let all = bodies.len();
    let messages = bodies.iter().zip(0..).map(|(body, at)| {
        let more = at + 1 < all;
        BatchHeader {
            n: header.n + at as u64,
            flags: Flags { more, last: header.flags.last && !more, ..header.flags },
            account: header.account.clone().filter(|_| at == 0),
            ..header.clone()
        }
        .encode(body)
    });
    Encoded { messages: messages.collect(), left_out }
}

/// The bodies of the messages of a part, for headers of so many bytes.
pub fn bodies(part: &Part<'_>, header_bytes: usize) -> Bodies {
    BodyWriter::default().bodies(part, header_bytes)
}

/// Writes records into bodies, of one part after the other: the tables of deflate take as long to make as a small body to
/// write.
#[derive(Debug, Default)]
pub struct BodyWriter {
    /// Most bytes of a body.
    room: usize,
    out: Bodies,
    body: Body,
    /// The name of the last record.
    name: Vec<u8>,
    next_name: Vec<u8>,
    record: Vec<u8>,
}

/// The body of one message. What is not yet compressed waits in `pending`.
#[derive(Debug)]
struct Body {
    packed: DeflateEncoder<Vec<u8>>,
    pending: Vec<u8>,
    plain: usize,
    held: usize,
}

impl Default for Body {
    fn default() -> Body {
        let packed = DeflateEncoder::new(Vec::new(), Compression::fast());
        Body { packed, pending: Vec::new(), plain: 0, held: 0 }
    }
}

impl Body {
    /// Whether another record has room.
    fn fits(&mut self, bytes: usize, held: usize, room: usize) -> bool {
        if self.plain == 0 {
            return true;
        }
        if self.plain + bytes > PLAIN_BYTES || self.held + held > HELD_BYTES {
            return false;
        }
        if self.packed.get_ref().len() + most_packed(self.pending.len() + bytes) > room
            && self.pending.len() >= WORTHWHILE
        {
            self.compress();
            self.packed.flush().expect("a vector takes all bytes");
        }
        self.packed.get_ref().len() + most_packed(self.pending.len() + bytes) <= room
    }

    fn compress(&mut self) {
        self.packed.write_all(&self.pending).expect("a vector takes all bytes");
        self.pending.clear();
    }

    /// Its bytes; it is empty then.
    fn finish(&mut self) -> Vec<u8> {
        self.compress();
        (self.plain, self.held) = (0, 0);
        self.packed.reset(Vec::new()).expect("a vector takes all bytes")
    }
}

/// Most bytes that so many take after deflate.
fn most_packed(plain: usize) -> usize {
    plain + plain / 16 + 128
}

impl BodyWriter {
    /// The bodies of the messages of a part, for headers of so many bytes.
    pub fn bodies(&mut self, part: &Part<'_>, header_bytes: usize) -> Bodies {
        self.room = MESSAGE_BYTES.saturating_sub(header_bytes + END);
        for record in &part.records {
            self.series(record);
        }
        for event in &part.events_and_checks {
            self.event(event);
        }
        self.close();
        self.body.pending.shrink_to(MESSAGE_BYTES);
        self.record.shrink_to(MESSAGE_BYTES);
        std::mem::take(&mut self.out)
    }

    fn series(&mut self, record: &Record<'_>) {
        self.next_name.clear();
        self.next_name.extend_from_slice(record.series.name().as_bytes());
        append_tags(record.series.tags(), &mut self.next_name);
        self.write_series(record);
        let held = record.series.heap_bytes()
            + match record.value {
                Value::Counter(_) | Value::Gauge(_) | Value::Timestamped { .. } | Value::Levels(_) => 0,
                Value::Timer(timer) => timer.heap_bytes(),
                Value::Set(members) => members.heap_bytes(),
                Value::Kv(values) => size_of_val(values),
            };
        if self.record.len() > MAX_RECORD_BYTES || self.next_name.len() > MAX_NAME_BYTES {
            self.out.left_out.push(record.series.id());
            return;
        }
        if !self.body.fits(self.record.len(), held, self.room) {
            self.close();
            self.write_series(record);
        }
        self.take(held);
        std::mem::swap(&mut self.name, &mut self.next_name);
    }

    fn event(&mut self, event: &EventOrCheck) {
        self.record.clear();
        self.record.push(EVENT_OR_CHECK);
        append(&mut self.record, event);
        if self.record.len() > MAX_RECORD_BYTES {
            self.out.left_out.push(match &event.body {
                EventOrCheckBody::Event { title, .. } => title.clone(),
                EventOrCheckBody::ServiceCheck { name, .. } => name.clone(),
            });
            return;
        }
        let held = event.heap_bytes();
        if !self.body.fits(self.record.len(), held, self.room) {
            self.close();
        }
        self.take(held);
    }

    /// Writes a record of `next_name` after one of `name`.
    fn write_series(&mut self, record: &Record<'_>) {
        let out = &mut self.record;
        out.clear();
        let head = (record.value.class() as u8) << 3 | record.series.kind() as u8;
        if record.rule == NO_RULE {
            out.push(head);
        } else {
            out.push(head | RULE);
            append(out, &record.rule);
        }
        let shared = self.name.iter().zip(&self.next_name).take_while(|(a, b)| a == b).count();
        append(out, &shared);
        append(out, &(self.next_name.len() - shared));
        out.extend_from_slice(&self.next_name[shared..]);
        match record.value {
            Value::Counter(sum) => append(out, sum),
            Value::Gauge(gauge) => append(out, gauge),
            Value::Timer(timer) => append(out, timer),
            Value::Set(members) => append(out, members),
            Value::Kv(values) => append(out, values),
            Value::Timestamped { time, value, .. } => append(out, &(time, value)),
            Value::Levels(levels) => append(out, levels),
        }
    }

    fn take(&mut self, held: usize) {
        self.body.pending.extend_from_slice(&self.record);
        self.body.plain += self.record.len();
        self.body.held += held;
    }

    /// Ends a body and begins another one.
    fn close(&mut self) {
        self.out.bodies.push(self.body.finish());
        self.name.clear();
    }
}

fn append<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    postcard::to_io(value, out).expect("a vector takes all of a plain structure");
}
