//! Batches: what an edge heard of one interval, for one partition of the series. There is one message for each interval and
//! partition, also when nothing was heard; more where it would exceed [`MESSAGE_BYTES`], all but the last flagged `more`.
//! Every message stands alone: names are written out, and no other message is needed to read it.
//!
//! ```text
//! message        header | body
//! header         format u8 | the other fields of BatchHeader (postcard)
//! body           deflate of: { series record }* { event record }*
//! series record  head, u8 | [ rule, varint ] | shared, varint | length of suffix, varint | suffix | value (postcard)
//! head           class << 3 | kind; 0x40 is added if the number of a rule follows
//! event record   0x30 | event or service check (postcard)
//! name           name { 0xFF key [ 0xFE value ] }*
//! ```
//!
//! Series records are sorted by [`Series::order`](crate::series::Series::order); events and checks keep the order of receipt. A name, with its tags in
//! canonical order, is the first `shared` bytes of the name before it and a suffix; the first name of a body shares nothing.
//! No text has 0xFE or 0xFF, which are in no UTF-8. Values are as [`Snapshot::encode`](crate::snapshot::Snapshot::encode) writes them. A sample with a
//! timestamp is its time and its value. Values of key-value pairs beyond [`KV_VALUES`] are in further records of the same
//! series. The number of a rule is its place in the configuration, from 0; it is there if the rule does more to a series than to
//! change its name and tags. The values that a gauge took in the interval are a record of their own after the gauge, where its
//! rule asks for more than the last.
//!
//! So equal content gives equal bytes, whatever the order of the points was; how far deflate compresses is a matter of the
//! build. A reader merges what it reads by [`merge()`]: gauges by the Unix times of their absolute values, as
//! [`crate::aggregate::Gauge`] says, everything else in the order of edge, boot and number.
//!
//! The points must be those of the interval alone: a gauge that only stands is not in a batch, or its loose adjustments
//! would be added again in each interval.
//!
//! What is not in a batch: presence, deletions over the management port, and settings of rules, which all nodes have.

mod decode;
mod deflate;
mod encode;
mod header;
mod partition;
#[cfg(test)]
mod tests;

pub use decode::{Batch, content, merge, merge_contents};
pub use encode::{Bodies, BodyWriter, Encoded, bodies, encode};
pub use header::{BatchHeader, EdgeAccount, FORMAT, Flags};
pub use partition::{Part, partition, partition_of};

/// Most bytes of a message, unless a single series is larger.
pub const MESSAGE_BYTES: usize = 512 << 10;

/// Most bytes of a record before it is compressed. A larger series is left out and named.
pub const MAX_RECORD_BYTES: usize = 4 << 20;

/// Most values of key-value pairs in a record.
pub const KV_VALUES: usize = 32_768;

/// Most bytes of a message that is read: one record that does not compress, with a header.
pub const MAX_MESSAGE_BYTES: usize = 8 << 20;

/// Most bytes of a body that is read, inflated.
pub const MAX_PLAIN_BYTES: usize = 16 << 20;

/// Bytes of an inflated body after which a writer begins another message.
const PLAIN_BYTES: usize = 8 << 20;

/// Most memory for the points of a message that is read, in bytes. Histograms and long names with a long common beginning
/// take more than their bytes here.
pub const MAX_HELD_BYTES: usize = 128 << 20;

/// Memory of points after which a writer begins another message, in bytes.
const HELD_BYTES: usize = 32 << 20;

/// Longest name with tags, in bytes; what a line can have is far below.
const MAX_NAME_BYTES: usize = 256 << 10;

/// Before the key of a tag.
const TAG: u8 = 0xFF;

/// Before the value of a tag.
const VALUE: u8 = 0xFE;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
enum RecordClass {
    Counter,
    Gauge,
    Timer,
    Set,
    Kv,
    Timestamped,
    EventOrCheck,
    Levels,
}

impl RecordClass {
    const ALL: [RecordClass; 8] = [
        RecordClass::Counter,
        RecordClass::Gauge,
        RecordClass::Timer,
        RecordClass::Set,
        RecordClass::Kv,
        RecordClass::Timestamped,
        RecordClass::EventOrCheck,
        RecordClass::Levels,
    ];
}

/// The byte that an event or a service check begins with.
const EVENT_OR_CHECK: u8 = (RecordClass::EventOrCheck as u8) << 3;

/// In the first byte of a record of a series: the number of its rule follows.
const RULE: u8 = 0x40;

/// Why a message can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// It has no bytes.
    #[error("the message is empty")]
    Empty,
    /// It is larger than any message is.
    #[error("the message has {0} bytes, more than {MAX_MESSAGE_BYTES}")]
    TooLarge(usize),
    /// It is of another version.
    #[error("the message has format {0}; this version reads format {FORMAT}")]
    Format(u8),
    /// A field of the header is wrong.
    #[error("header, {field}: {reason}")]
    Header {
        /// Which.
        field: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The compressed part is wrong.
    #[error("the {part} can't be inflated: {reason}")]
    Inflate {
        /// `body` or `ledger`.
        part: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A record is wrong.
    #[error("record {record}, at byte {at} of the inflated body: {reason}")]
    Record {
        /// Its number in the message, from 0.
        record: usize,
        /// Where it begins.
        at: usize,
        /// What is wrong.
        reason: String,
    },
}
