//! Checkpoints in chunks: a server takes 1 MiB at once. Each chunk names its checkpoint, its own number and how many there
//! are, in a header: `Systole-Chunk: <random id> <number> <chunks>`. Others may write between two of them.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use serde_json::json;
use tokio::time::Instant;

use crate::cluster::Sequence;
use crate::random::Random;

use super::super::{BusError, LIMIT};
use super::api::{Api, Raw};
use super::streams::{MAX_CHUNKS, Stream};

/// Which chunk it is.
const CHUNK: &str = "Systole-Chunk";

/// Most bytes of a chunk.
const CHUNK_BYTES: usize = 512 << 10;

/// Most chunks of a checkpoint: the one before it has to stay until the record names the new one.
const MOST_CHUNKS: usize = MAX_CHUNKS as usize / 2;

/// A stream that is shorter than it was for so long is not one of a server that lags.
const SHORT: Duration = Duration::from_secs(10);

/// It is looked so often whether it has become longer.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Chunk {
    id: u64,
    number: usize,
    chunks: usize,
}

impl Chunk {
    fn encode(self) -> String {
        format!("{:016x} {} {}", self.id, self.number, self.chunks)
    }

    fn of(message: &Raw) -> Option<Chunk> {
        let mut words = message.headers.get(CHUNK)?.split(' ');
        let id = u64::from_str_radix(words.next()?, 16).ok()?;
        Some(Chunk { id, number: words.next()?.parse().ok()?, chunks: words.next()?.parse().ok()? })
    }
}

/// Appends a checkpoint; each chunk has a limit of its own.
pub(super) async fn write(api: &Api, subject: &str, seed: u64, payload: Bytes) -> Result<Sequence, BusError> {
    let chunks = payload.len().div_ceil(CHUNK_BYTES).max(1);
    if chunks > MOST_CHUNKS {
        let (is, most) = (payload.len() >> 20, (MOST_CHUNKS * CHUNK_BYTES) >> 20);
        let text = format!("a checkpoint of {is} MiB is above {most} MiB: give the cluster more partitions");
        return Err(BusError::Failed(text));
    }
    let id = Random::new(seed).bits();
    let mut first = None;
    for number in 0..chunks {
        let bytes = payload.slice(number * CHUNK_BYTES..payload.len().min((number + 1) * CHUNK_BYTES));
        let header = (CHUNK, Chunk { id, number, chunks }.encode());
        let sequence = api.limited(LIMIT, api.put(subject, &[header], bytes)).await?;
        first.get_or_insert(sequence);
    }
    Ok(first.expect("there is at least one chunk"))
}

/// A checkpoint by its first chunk; `None` if one of its chunks is gone.
pub(super) async fn read(
    api: &Api,
    stream: &Stream,
    subject: &str,
    sequence: Sequence,
) -> Result<Option<Bytes>, BusError> {
    let get = async |which| api.limited(LIMIT, api.get(&stream.name, &which)).await;
    let Some(message) = get(json!({ "seq": sequence })).await? else { return gone(api, stream, sequence).await };
    let Some(begin) = Chunk::of(&message).filter(|chunk| chunk.number == 0 && message.subject == subject) else {
        return Ok(None);
    };
    let mut payload = BytesMut::from(&message.payload[..]);
    let (mut last, mut number) = (message.sequence, 1);
    while number < begin.chunks {
        let Some(message) = get(json!({ "seq": last + 1, "next_by_subj": subject })).await? else {
            return gone(api, stream, sequence + begin.chunks as Sequence - 1).await;
        };
        last = message.sequence;
        match Chunk::of(&message) {
            Some(chunk) if chunk.id == begin.id && chunk.number == number => {
                payload.extend_from_slice(&message.payload);
                number += 1;
            }
            Some(chunk) if chunk.id == begin.id => return Ok(None),
            Some(_) | None => {}
        }
    }
    Ok(Some(payload.freeze()))
}

/// What is not there is gone, unless the leader has yet to catch up to it. A stream that ends before it for long has lost it.
async fn gone(api: &Api, stream: &Stream, sequence: Sequence) -> Result<Option<Bytes>, BusError> {
    let since = Instant::now();
    while since.elapsed() < SHORT && api.limited(LIMIT, stream.state(api)).await?.last < sequence {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::super::api::Headers;
    use super::*;

    #[test]
    fn a_chunk_is_known_by_its_header() {
        let chunk = Chunk { id: 0xabc, number: 2, chunks: 7 };
        let raw = |text: &str| Raw {
            subject: String::new(),
            sequence: 1,
            stored: 0.0,
            headers: Headers::Text(format!("NATS/1.0\r\n{CHUNK}: {text}\r\n\r\n")),
            payload: Bytes::new(),
        };
        assert_eq!(Chunk::of(&raw(&chunk.encode())), Some(chunk));
        assert_eq!(Chunk::of(&raw("x 1 2")), None);
    }
}
