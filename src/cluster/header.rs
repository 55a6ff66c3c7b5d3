//! What stands before the body of a batch, in postcard. Every batch stands alone: whoever reads it needs no other one.

use bytes::Bytes;
use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use super::content::BatchId;
use super::{Interval, record};

/// Every lower interval is a number of seconds that a float holds.
const MOST_INTERVAL: Interval = 1 << 53;

/// The header of a batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// The format of header and body.
    pub format: u8,
    /// The edge.
    pub edge: CompactString,
    /// Which of its starts; grows.
    pub boot: u64,
    /// 1, 2, 3 and so on for each edge and partition, over all starts.
    pub n: u64,
    /// The interval.
    pub interval: Interval,
    /// How long it was measured, in seconds.
    pub length: f64,
    /// Sent at a start, before anything is received; the body is empty.
    pub hello: bool,
    /// The first interval of a start, which may cover a part of it.
    pub first: bool,
    /// Another batch of the same interval follows.
    pub more: bool,
    /// The edge leaves.
    pub last: bool,
    /// Whether the start before this one had said goodbye.
    pub clean_before: bool,
    /// A hash of all settings that shape what is sent.
    pub config: u64,
}

impl Header {
    /// Which batch it is.
    pub fn id(&self) -> BatchId {
        BatchId { edge: self.edge.clone(), boot: self.boot, n: self.n }
    }

    /// The batch with this header.
    pub fn encode(&self, body: &[u8]) -> Bytes {
        let bytes = postcard::to_extend(self, Vec::with_capacity(64 + body.len()));
        let mut bytes = bytes.expect("a vector takes all of a plain structure");
        bytes.extend_from_slice(body);
        bytes.into()
    }

    /// The header and the body of a batch; `None` if it is none that this version reads.
    pub fn decode(payload: &Bytes) -> Option<(Header, Bytes)> {
        if *payload.first()? != record::FORMAT {
            return None;
        }
        let (header, body) = postcard::take_from_bytes::<Header>(payload).ok()?;
        if header.n == 0 || !(1..MOST_INTERVAL).contains(&header.interval) {
            return None;
        }
        let body = payload.slice_ref(body);
        Some((header, body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_read_as_it_was_written() {
        let header = Header {
            format: record::FORMAT,
            edge: "edge-1".into(),
            boot: 3,
            n: 17,
            interval: 170_000_000,
            length: 10.01,
            hello: false,
            first: true,
            more: false,
            last: false,
            clean_before: true,
            config: 42,
        };
        let payload = header.encode(b"points");
        assert_eq!(Header::decode(&payload), Some((header, Bytes::from_static(b"points"))));
        assert_eq!(Header::decode(&payload.slice(..7)), None);
        assert_eq!(Header::decode(&Bytes::from_static(b"\xff")), None);
        assert_eq!(Header::decode(&Bytes::new()), None);
    }
}
