//! What stands before the body of a batch.

use serde::{Deserialize, Serialize};

use crate::telemetry::Ledger;

use super::super::NodeName;
use super::deflate::{deflate, inflate};
use super::{BatchError, MAX_MESSAGE_BYTES};

/// The format that this version writes. A version reads its own format and the one before it; there is none before the
/// first.
pub const FORMAT: u8 = 1;

/// Most bytes of an edge's ledger, compressed. It is left out where it is larger; a usual one has two thousand.
const MAX_LEDGER_BYTES: usize = 64 << 10;

/// Most bytes of a ledger that is read, inflated.
const MAX_LEDGER_TEXT: usize = 4 << 20;

/// The header of a batch.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BatchHeader {
    /// The format of header and body, which is the first byte of a message in every version.
    pub format: u8,
    /// The edge.
    pub edge: NodeName,
    /// Which of its starts. It grows with each.
    pub boot: u64,
    /// 1, 2, 3 and so on for each edge and partition, over all starts.
    pub n: u64,
    /// The number of the interval: its start in Unix seconds, divided by its length.
    pub interval: u64,
    /// How long the interval was measured, in seconds.
    pub length: f64,
    /// What the batch is beside its content.
    pub flags: Flags,
    /// Whether the start before this one said goodbye.
    pub clean_before: bool,
    /// A hash of the settings that shape what is sent, which all nodes have in common.
    pub config: u64,
    /// The edge's account of the interval; in the first message of partition 0 alone.
    pub account: Option<EdgeAccount>,
}

/// Flags of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(into = "u8")]
pub struct Flags {
    /// Sent at a start, before anything is received.
    pub hello: bool,
    /// The first interval of a start, of which the edge may have heard a part.
    pub first: bool,
    /// Another message of the same interval and partition follows.
    pub more: bool,
    /// The edge leaves.
    pub last: bool,
}

impl From<Flags> for u8 {
    fn from(flags: Flags) -> u8 {
        let Flags { hello, first, more, last } = flags;
        u8::from(hello) | u8::from(first) << 1 | u8::from(more) << 2 | u8::from(last) << 3
    }
}

impl Flags {
    /// The flags of a byte; `None` if it has others.
    fn of_bits(bits: u8) -> Option<Flags> {
        let has = |n: u8| bits >> n & 1 == 1;
        (bits < 1 << 4).then(|| Flags { hello: has(0), first: has(1), more: has(2), last: has(3) })
    }
}

/// An edge's account of an interval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeAccount {
    /// Lines read.
    pub lines: u64,
    /// Datagrams that its kernel dropped.
    pub kernel_drops: u64,
    /// The ledger as compressed JSON, so that whoever needs only the numbers above does not read it; empty if it was left out.
    ledger: Vec<u8>,
}

impl EdgeAccount {
    /// The account of a ledger.
    pub fn new(ledger: &Ledger) -> EdgeAccount {
        let packed = serde_json::to_vec(ledger).map_or_else(|_| Vec::new(), |text| deflate(&text));
        EdgeAccount {
            lines: ledger.lines.read,
            kernel_drops: ledger.listeners.iter().map(|listener| listener.kernel_drops).fold(0, u64::saturating_add),
            ledger: if packed.len() > MAX_LEDGER_BYTES { Vec::new() } else { packed },
        }
    }

    /// Whether the ledger was left out because it was too large.
    pub fn is_left_out(&self) -> bool {
        self.ledger.is_empty()
    }

    /// The ledger; `None` if it was left out because it was too large.
    ///
    /// # Errors
    /// If its bytes are no ledger.
    pub fn ledger(&self) -> Result<Option<Ledger>, BatchError> {
        if self.is_left_out() {
            return Ok(None);
        }
        let invalid = |reason| BatchError::Inflate { part: "ledger", reason };
        let text = inflate(&self.ledger, MAX_LEDGER_TEXT).map_err(invalid)?;
        let ledger = serde_json::from_slice(&text);
        ledger.map(Some).map_err(|error| BatchError::Header { field: "ledger", reason: error.to_string() })
    }
}

/// Takes a field off the front of the rest of a header.
fn field<'a, T: Deserialize<'a>>(field: &'static str, rest: &mut &'a [u8]) -> Result<T, BatchError> {
    let (value, after) = postcard::take_from_bytes(rest)
        .map_err(|error| BatchError::Header { field, reason: error.to_string().trim_end_matches('.').to_string() })?;
    *rest = after;
    Ok(value)
}

impl BatchHeader {
    /// A message of this header and a body.
    pub fn encode(&self, body: &[u8]) -> Vec<u8> {
        let message = Vec::with_capacity(128 + body.len());
        let mut message = postcard::to_extend(self, message).expect("a vector takes all of a plain structure");
        message.extend_from_slice(body);
        message
    }

    /// The header and the body of a message. The body stays as it is, so that it can wait in this form for being merged.
    ///
    /// # Errors
    /// If this version can't read it.
    pub fn decode(message: &[u8]) -> Result<(BatchHeader, &[u8]), BatchError> {
        if message.len() > MAX_MESSAGE_BYTES {
            return Err(BatchError::TooLarge(message.len()));
        }
        match *message.first().ok_or(BatchError::Empty)? {
            FORMAT => BatchHeader::decode_1(message),
            other => Err(BatchError::Format(other)),
        }
    }

    fn decode_1(message: &[u8]) -> Result<(BatchHeader, &[u8]), BatchError> {
        let mut rest = message;
        let format = field("format", &mut rest)?;
        let name: &str = field("edge", &mut rest)?;
        let invalid = |field: &'static str, reason: String| BatchError::Header { field, reason };
        let header = BatchHeader {
            format,
            edge: name.parse().map_err(|error: super::super::BadNodeName| invalid("edge", error.to_string()))?,
            boot: field("boot", &mut rest)?,
            n: field("n", &mut rest)?,
            interval: field("interval", &mut rest)?,
            length: field("length", &mut rest)?,
            flags: {
                let bits: u8 = field("flags", &mut rest)?;
                Flags::of_bits(bits).ok_or_else(|| invalid("flags", format!("{bits:#04x} has unknown ones")))?
            },
            clean_before: field("clean_before", &mut rest)?,
            config: field("config", &mut rest)?,
            account: field("account", &mut rest)?,
        };
        if !header.length.is_finite() || header.length < 0.0 {
            return Err(invalid("length", format!("{} is no length of an interval", header.length)));
        }
        Ok((header, rest))
    }
}
