//! A bus inside of a process, for tests: nodes that share one see what each other wrote.
//!
//! Its clock is tokio's, so that a paused runtime has a virtual time here, too.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

use crate::cluster::{NodeName, Sequence, Stored, StoredBatch};

use super::{Answer, Bus, BusError, BusStatus, LIMIT, PUT_BATCH_LIMIT, Page, Responder};

/// What a bus in memory keeps, and how much of it a read gives.
#[derive(Clone, Copy, Debug)]
pub struct MemoryOptions {
    /// Batches are kept for so long.
    pub max_age: Duration,
    /// Sessions are kept for so long.
    pub session_max_age: Duration,
    /// Records of a partition that are kept.
    pub max_records: usize,
    /// Checkpoints of a partition that are kept.
    pub max_checkpoints: usize,
    /// Most messages of an answer.
    pub page: usize,
}

impl Default for MemoryOptions {
    fn default() -> MemoryOptions {
        MemoryOptions {
            max_age: Duration::from_secs(7200),
            session_max_age: Duration::from_secs(60),
            max_records: 64,
            max_checkpoints: 128,
            page: 256,
        }
    }
}

/// What is wrong with a bus in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemoryFault {
    /// Nothing.
    #[default]
    None,
    /// It takes nothing and answers nothing, as without a majority of servers.
    Away,
    /// The same, and there is no connection.
    Disconnected,
    /// It does all that it is asked, but no answer comes.
    AnswersLost,
    /// It takes no batches, as their stream is full.
    Full,
}

#[derive(Debug)]
struct Message {
    sequence: Sequence,
    subject: String,
    stored: f64,
    sent: f64,
    payload: Bytes,
}

/// Messages in order.
#[derive(Debug)]
struct Stream {
    messages: VecDeque<Message>,
    last: Sequence,
    max_age: Option<Duration>,
    max_per_subject: usize,
}

impl Stream {
    fn new(max_age: Option<Duration>, max_per_subject: usize) -> Stream {
        Stream { messages: VecDeque::new(), last: 0, max_age, max_per_subject }
    }

    fn expire(&mut self, now: f64) {
        let Some(max_age) = self.max_age else { return };
        while self.messages.front().is_some_and(|first| now - first.stored > max_age.as_secs_f64()) {
            self.messages.pop_front();
        }
    }

    fn put(&mut self, subject: String, now: f64, sent: f64, payload: Bytes) -> Sequence {
        self.expire(now);
        let of_subject = |message: &Message| message.subject == subject;
        if self.max_per_subject < usize::MAX
            && self.messages.iter().filter(|message| of_subject(message)).count() >= self.max_per_subject
            && let Some(first) = self.messages.iter().position(of_subject)
        {
            self.messages.remove(first);
        }
        self.last += 1;
        self.messages.push_back(Message { sequence: self.last, subject, stored: now, sent, payload });
        self.last
    }

    fn first(&self) -> Sequence {
        self.messages.front().map_or(self.last + 1, |message| message.sequence)
    }

    /// Messages from a sequence on whose subject begins so.
    fn from<'a, 's>(&'a self, from: Sequence, subject: &'s str) -> impl Iterator<Item = &'a Message> + use<'a, 's> {
        let start = self.messages.partition_point(|message| message.sequence < from);
        self.messages.range(start..).filter(move |message| message.subject.starts_with(subject))
    }

    /// Some of those, and whether they are all.
    fn page<'a>(&'a self, from: Sequence, subject: &str, most: usize) -> (Vec<&'a Message>, bool) {
        let mut all = self.from(from, subject);
        let some = all.by_ref().take(most).collect();
        (some, all.next().is_none())
    }
}

impl Message {
    fn to_stored(&self) -> Stored {
        Stored { sequence: self.sequence, stored: self.stored, payload: self.payload.clone() }
    }

    fn to_batch(&self) -> StoredBatch {
        let Message { sequence, stored, sent, .. } = *self;
        StoredBatch { sequence, stored, sent, payload: self.payload.clone() }
    }
}

/// What is behind the lock.
#[derive(Debug)]
struct Streams {
    batches: Stream,
    records: Stream,
    checkpoints: Stream,
    sessions: Stream,
    fault: MemoryFault,
    is_closed: bool,
}

/// Who answers at each node, the last one that began to; each has a number.
#[derive(Default)]
struct Responders {
    all: BTreeMap<NodeName, (u64, Responder)>,
    last: u64,
}

impl fmt::Debug for Responders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.all.keys()).finish()
    }
}

/// Answers at a node until it is dropped.
struct Serving<'a> {
    bus: &'a MemoryBus,
    node: NodeName,
    number: u64,
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        let mut responders = self.bus.responders();
        if responders.all.get(&self.node).is_some_and(|(number, _)| *number == self.number) {
            responders.all.remove(&self.node);
        }
    }
}

/// A bus in memory.
#[derive(Debug)]
pub struct MemoryBus {
    responders: Mutex<Responders>,
    page: usize,
    /// Unix time at `begun`.
    epoch: f64,
    begun: Instant,
    streams: Mutex<Streams>,
}

impl MemoryBus {
    /// An empty one.
    pub fn new(options: MemoryOptions) -> Arc<MemoryBus> {
        let streams = Streams {
            batches: Stream::new(Some(options.max_age), usize::MAX),
            records: Stream::new(None, options.max_records),
            checkpoints: Stream::new(None, options.max_checkpoints),
            sessions: Stream::new(Some(options.session_max_age), 1),
            fault: MemoryFault::None,
            is_closed: false,
        };
        let epoch = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs_f64();
        Arc::new(MemoryBus {
            responders: Mutex::default(),
            page: options.page,
            epoch,
            begun: Instant::now(),
            streams: Mutex::new(streams),
        })
    }

    /// Makes calls fail from now on, or no longer.
    pub fn set_fault(&self, fault: MemoryFault) {
        self.lock().fault = fault;
    }

    /// Makes the stream of the records anew, without any.
    pub fn lose_records(&self) {
        let mut streams = self.lock();
        streams.records = Stream::new(None, streams.records.max_per_subject);
    }

    /// Its clock, in Unix seconds.
    pub fn now(&self) -> f64 {
        self.epoch + self.begun.elapsed().as_secs_f64()
    }

    fn lock(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().expect("nobody panics with the lock")
    }

    fn responders(&self) -> MutexGuard<'_, Responders> {
        self.responders.lock().expect("nobody panics with the lock")
    }

    /// Does something with the streams at once, and answers as the fault allows.
    fn call<T: Send + 'static>(
        &self,
        limit: Duration,
        act: impl FnOnce(&mut Streams, f64) -> Result<T, BusError>,
    ) -> Answer<'_, T> {
        let now = self.now();
        let mut streams = self.lock();
        let answer = match streams.fault {
            _ if streams.is_closed => Some(Err(BusError::Failed("the bus is closed".into()))),
            MemoryFault::Away | MemoryFault::Disconnected => None,
            MemoryFault::None | MemoryFault::Full => Some(act(&mut streams, now)),
            MemoryFault::AnswersLost => {
                let _lost = act(&mut streams, now);
                None
            }
        };
        Box::pin(async move {
            // Others come in between, as with any bus.
            yield_now().await;
            match answer {
                Some(answer) => answer,
                None => {
                    sleep(limit).await;
                    Err(BusError::TimedOut)
                }
            }
        })
    }
}

/// The subject of a partition's batches. Longer ones never begin with it.
fn subject(partition: u16) -> String {
    format!("{partition}.")
}

impl Bus for MemoryBus {
    fn prepare(&self) -> Answer<'_, ()> {
        self.call(LIMIT, |_, _| Ok(()))
    }

    fn put_batch(&self, partition: u16, edge: &NodeName, sent: f64, payload: Bytes) -> Answer<'_, ()> {
        let subject = format!("{partition}.{edge}");
        self.call(PUT_BATCH_LIMIT, move |streams, now| {
            if streams.fault == MemoryFault::Full {
                return Err(BusError::Failed("the stream is full".into()));
            }
            streams.batches.put(subject, now, sent, payload);
            Ok(())
        })
    }

    fn put_session(&self, node: &NodeName, payload: Bytes) -> Answer<'_, Sequence> {
        let subject = node.to_string();
        self.call(LIMIT, move |streams, now| Ok(streams.sessions.put(subject, now, 0.0, payload)))
    }

    fn sessions(&self) -> Answer<'_, Vec<Stored>> {
        self.call(LIMIT, |streams, now| {
            streams.sessions.expire(now);
            Ok(streams.sessions.messages.iter().map(Message::to_stored).collect())
        })
    }

    fn last_record(&self, partition: u16) -> Answer<'_, Option<Stored>> {
        self.call(LIMIT, move |streams, _| {
            Ok(streams.records.from(0, &subject(partition)).last().map(Message::to_stored))
        })
    }

    fn records(&self, partition: u16, after: Sequence) -> Answer<'_, Vec<Stored>> {
        let page = self.page;
        self.call(LIMIT, move |streams, _| {
            let (records, _) = streams.records.page(after + 1, &subject(partition), page);
            Ok(records.into_iter().map(Message::to_stored).collect())
        })
    }

    fn write_record(&self, partition: u16, expected: Sequence, payload: Bytes) -> Answer<'_, ()> {
        self.call(LIMIT, move |streams, now| {
            let subject = subject(partition);
            if streams.records.from(0, &subject).last().map_or(0, |last| last.sequence) != expected {
                return Err(BusError::Refused);
            }
            streams.records.put(subject, now, 0.0, payload);
            Ok(())
        })
    }

    fn batches(&self, partition: u16, from: Sequence) -> Answer<'_, Page> {
        let page = self.page;
        self.call(LIMIT, move |streams, now| {
            streams.batches.expire(now);
            let (batches, is_end) = streams.batches.page(from, &subject(partition), page);
            let batches = batches.into_iter().map(Message::to_batch).collect();
            Ok(Page { batches, is_end, first: streams.batches.first(), last: streams.batches.last })
        })
    }

    fn bodies(&self, partition: u16, sequences: &[Sequence]) -> Answer<'_, Vec<StoredBatch>> {
        self.call(LIMIT, |streams, now| {
            streams.batches.expire(now);
            let subject = subject(partition);
            let one = |&sequence: &Sequence| {
                let message = streams.batches.from(sequence, &subject).next()?;
                (message.sequence == sequence).then(|| message.to_batch())
            };
            Ok(sequences.iter().filter_map(one).collect())
        })
    }

    fn write_checkpoint(&self, partition: u16, payload: Bytes) -> Answer<'_, Sequence> {
        self.call(LIMIT, move |streams, now| Ok(streams.checkpoints.put(subject(partition), now, 0.0, payload)))
    }

    fn read_checkpoint(&self, partition: u16, sequence: Sequence) -> Answer<'_, Option<Bytes>> {
        self.call(LIMIT, move |streams, _| {
            let subject = subject(partition);
            let message = streams.checkpoints.from(sequence, &subject).next();
            Ok(message.filter(|message| message.sequence == sequence).map(|message| message.payload.clone()))
        })
    }

    fn ask(&self, node: &NodeName, question: Bytes) -> Answer<'_, Bytes> {
        let responder = self.responders().all.get(node).map(|(_, responder)| responder.clone());
        let asked = self.call(LIMIT, |_, _| Ok(()));
        Box::pin(async move {
            asked.await?;
            let unanswered = || BusError::Failed("the node is not connected with the bus".into());
            responder.ok_or_else(unanswered)?(question).await.ok_or(BusError::TimedOut)
        })
    }

    fn serve(&self, node: &NodeName, responder: Responder) -> Answer<'_, ()> {
        let mut responders = self.responders();
        responders.last += 1;
        let number = responders.last;
        responders.all.insert(node.clone(), (number, responder));
        let serving = Serving { bus: self, node: node.clone(), number };
        Box::pin(async move {
            let _serving = serving;
            std::future::pending().await
        })
    }

    fn status(&self) -> BusStatus {
        let connected = self.lock().fault != MemoryFault::Disconnected;
        BusStatus { connected, server: Some("memory".into()), last_error: None }
    }

    fn close(&self) -> Answer<'_, ()> {
        self.lock().is_closed = true;
        Box::pin(std::future::ready(Ok(())))
    }
}
