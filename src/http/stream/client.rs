//! What waits for one client of a stream.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::timeout;

use crate::memory::Holding;

use super::hub::Streams;
use super::{MOST_MESSAGE, Subscription};

/// Messages of intervals that wait for a client at most.
const MOST_INTERVALS: usize = 2;

/// When nothing was sent for so long, a comment is, so that both ends and those between them know that the other is there.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// How far a client has got: the id of each message, with which it may go on after its connection broke.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Position {
    /// Number of the last entry of the journal.
    pub(super) event: u64,
    /// Number of the last change of presence.
    pub(super) presence: u64,
    /// Number of the last interval.
    pub(super) sequence: u64,
    /// The start of the daemon, Unix seconds: the numbers begin anew with each.
    pub(super) boot: u64,
}

impl Position {
    /// `EVENT.PRESENCE.SEQUENCE-BOOT`; where that is not what it is, nothing has come yet.
    pub(super) fn parse(id: &str) -> Position {
        let parsed = || {
            let (numbers, boot) = id.trim().split_once('-')?;
            let mut numbers = numbers.splitn(3, '.').map(|number| number.parse().ok());
            Some(Position {
                event: numbers.next()??,
                presence: numbers.next()??,
                sequence: numbers.next()??,
                boot: boot.parse().ok()?,
            })
        };
        parsed().unwrap_or_default()
    }
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Position { event, presence, sequence, boot } = self;
        write!(f, "{event}.{presence}.{sequence}-{boot}")
    }
}

/// Appends a server-sent event. The data is on one line, as JSON is.
pub(super) fn write_event(id: Option<Position>, name: &str, data: &[u8], out: &mut Vec<u8>) {
    if let Some(id) = id {
        out.extend_from_slice(format!("id: {id}\n").as_bytes());
    }
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\ndata: ");
    out.extend_from_slice(data);
    out.extend_from_slice(b"\n\n");
}

/// Bytes for all clients that asked for the same, and what they are accounted for with.
#[derive(Debug)]
pub(super) struct Message {
    bytes: Bytes,
    _held: Holding,
}

impl Message {
    pub(super) fn new(bytes: Vec<u8>, held: Holding) -> Arc<Message> {
        held.set(bytes.capacity() as u64);
        Arc::new(Message { bytes: bytes.into(), _held: held })
    }
}

#[derive(Debug)]
enum Queued {
    /// What an interval was made into.
    Interval(Arc<Message>),
    /// Changes of presence.
    Presence(Arc<Message>),
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Queued>,
    /// Messages that gave way.
    missed: u64,
    is_over: bool,
}

/// A client of a stream.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) subscription: Arc<Subscription>,
    queue: Mutex<Queue>,
    ready: Notify,
}

impl Client {
    pub(super) fn new(subscription: Arc<Subscription>) -> Client {
        Client { subscription, queue: Mutex::default(), ready: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Every change leaves it whole.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts the message of an interval into the queue; the oldest gives way.
    pub(super) fn put_interval(&self, message: Arc<Message>) {
        let mut queue = self.lock();
        let is_interval = |waiting: &Queued| matches!(waiting, Queued::Interval(_));
        if queue.waiting.iter().filter(|waiting| is_interval(waiting)).count() >= MOST_INTERVALS
            && let Some(oldest) = queue.waiting.iter().position(is_interval)
        {
            queue.waiting.remove(oldest);
            queue.missed += 1;
        }
        queue.waiting.push_back(Queued::Interval(message));
        self.ready.notify_one();
    }

    /// Puts changes of presence into the queue; the oldest of them give way.
    pub(super) fn put_presence(&self, message: Arc<Message>) {
        let mut queue = self.lock();
        let bytes = |waiting: &Queued| match waiting {
            Queued::Interval(_) => 0,
            Queued::Presence(message) => message.bytes.len(),
        };
        let mut held: usize = queue.waiting.iter().map(bytes).sum();
        while held + message.bytes.len() > MOST_MESSAGE
            && let Some(oldest) = queue.waiting.iter().position(|waiting| bytes(waiting) > 0)
        {
            held -= queue.waiting.remove(oldest).as_ref().map_or(0, bytes);
            queue.missed += 1;
        }
        queue.waiting.push_back(Queued::Presence(message));
        self.ready.notify_one();
    }

    /// Puts what happened while the client was away before all else.
    pub(super) fn begin_with(&self, message: Arc<Message>) {
        self.lock().waiting.push_front(Queued::Interval(message));
        self.ready.notify_one();
    }

    /// So many messages are missing.
    pub(super) fn miss(&self, count: u64) {
        self.lock().missed += count;
        self.ready.notify_one();
    }

    /// Ends the stream when what waits is sent.
    pub(super) fn end(&self) {
        self.lock().is_over = true;
        self.ready.notify_one();
    }

    /// What to send next; `None` inside if that was all.
    fn take(&self) -> Option<Option<Bytes>> {
        let mut queue = self.lock();
        let missed = std::mem::take(&mut queue.missed);
        if missed > 0 {
            let mut gap = Vec::new();
            write_event(None, "gap", format!("{{\"missed\":{missed}}}").as_bytes(), &mut gap);
            return Some(Some(gap.into()));
        }
        match queue.waiting.pop_front() {
            Some(Queued::Interval(message) | Queued::Presence(message)) => Some(Some(message.bytes.clone())),
            None => queue.is_over.then_some(None),
        }
    }

    async fn next(&self) -> Option<Bytes> {
        loop {
            if let Some(next) = self.take() {
                return next;
            }
            // What was put in between is noted.
            if timeout(HEARTBEAT, self.ready.notified()).await.is_err() {
                return Some(Bytes::from_static(b":\n\n"));
            }
        }
    }
}

/// Reads for a client. When it is dropped, the client has left.
#[derive(Debug)]
pub(super) struct Reader {
    client: Arc<Client>,
    streams: Streams,
    _place: OwnedSemaphorePermit,
}

impl Reader {
    pub(super) fn new(client: Arc<Client>, streams: Streams, place: OwnedSemaphorePermit) -> Reader {
        Reader { client, streams, _place: place }
    }

    /// All that is sent, until the client leaves or the daemon stops.
    pub(super) fn pieces(self) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        // How soon to come back, in milliseconds; it also shows that the stream is open.
        let first = Some(Bytes::from_static(b"retry: 1000\n\n"));
        stream::unfold((self, first), |(reader, first)| async move {
            let piece = match first {
                Some(first) => first,
                None => reader.client.next().await?,
            };
            Some((Ok(piece), (reader, None)))
        })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.streams.leave(&self.client);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Topics;
    use super::*;
    use crate::memory::{Holder, Memory};

    #[test]
    fn a_position_comes_back_and_what_is_none_is_the_beginning() {
        let position = Position { event: 12, presence: 0, sequence: 34, boot: 1_700_000_000 };
        assert_eq!(Position::parse(&position.to_string()), position);
        for id in ["", "12", "a.b.c-1", "1.2-3", "1.2.3", "node-1700000000-000012"] {
            assert_eq!(Position::parse(id), Position::default(), "{id}");
        }
    }

    #[test]
    fn who_does_not_read_keeps_two_intervals_and_is_told_how_many_are_missing() {
        let memory = Memory::new(1 << 30);
        let message = |text: &str| Message::new(text.as_bytes().to_vec(), memory.holding(Holder::HttpBodies));
        let client = Client::new(Arc::new(Subscription { topics: Topics::ALL, series: Vec::new() }));
        for text in ["1", "2", "3", "4"] {
            client.put_interval(message(text));
        }
        client.put_presence(message("p"));
        assert_eq!(memory.bytes(Holder::HttpBodies), 3);
        client.end();
        let all: Vec<_> = std::iter::from_fn(|| client.take().flatten()).collect();
        assert_eq!(all, ["event: gap\ndata: {\"missed\":2}\n\n", "3", "4", "p"]);
        assert_eq!((client.take(), memory.bytes(Holder::HttpBodies)), (Some(None), 0));
    }

    #[test]
    fn changes_of_presence_have_a_bound_of_their_own() {
        let memory = Memory::unlimited();
        let message = |byte: u8| Message::new(vec![byte; MOST_MESSAGE / 2], memory.holding(Holder::HttpBodies));
        let client = Client::new(Arc::new(Subscription { topics: Topics::ALL, series: Vec::new() }));
        client.put_interval(message(b'i'));
        (1..=5).for_each(|n| client.put_presence(message(n)));
        client.end();
        let all: Vec<u8> = std::iter::from_fn(|| client.take().flatten()).map(|bytes| bytes[0]).collect();
        assert_eq!(all, [b'e', b'i', 4, 5]);
    }
}
