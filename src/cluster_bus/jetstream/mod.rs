//! The bus on NATS JetStream, 2.9 or later, over one connection.
//!
//! What is read comes from the leaders of the streams, or is held against what they say; no answer to a write is believed
//! beyond that something was stored. No ids of messages are sent, and nothing rests on the age of keys but that old
//! sessions and batches go.

mod api;
mod checkpoints;
mod reader;
mod streams;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, stream};
use serde_json::json;
use tokio::sync::Mutex;

use crate::cluster::{NodeName, Sequence, Stored, StoredBatch};
use crate::nats_client::NatsLogin;
use crate::random::Random;

use super::{Answer, Bus, BusError, BusStatus, LIMIT, PREPARE_LIMIT, PUT_BATCH_LIMIT, Page, Responder};
use api::{Api, Connection, SENT};
use reader::Reader;
use streams::Streams;

/// A connection is given up when the server has not answered to three of these.
const PING: Duration = Duration::from_secs(2);

/// Longest pause between two tries to connect.
const MOST_PAUSE: Duration = Duration::from_secs(2);

/// Between two tries of a bus that is closed.
const FOR_EVER: Duration = Duration::from_secs(1 << 32);

/// Single messages that are asked for at once.
const BODIES_AT_ONCE: usize = 16;

/// Questions of other nodes that are answered at once; more wait.
const ANSWERS_AT_ONCE: usize = 16;

/// Where the bus is, and what the streams are made with.
#[derive(Clone, Debug)]
pub struct BusOptions {
    /// Servers that are asked first, `host:port` with or without `nats://` or `tls://`.
    pub urls: Vec<String>,
    /// What subjects begin with, and streams in capitals: `systole`.
    pub name: String,
    /// Partitions of the series, 64.
    pub partitions: u16,
    /// Streams that they are spread over, 1.
    pub streams: u16,
    /// Replicas of each stream, 3.
    pub replicas: u8,
    /// Most bytes of a stream of batches; `None` for no bound.
    pub max_bytes: Option<u64>,
    /// For how long batches are kept, 2 h.
    pub max_age: Duration,
    /// For how long sessions are kept, 60 s. All nodes have to agree about it.
    pub session_max_age: Duration,
    /// Who we are.
    pub login: NatsLogin,
    /// The name of the connection, as the server lists it.
    pub connection_name: String,
    /// A random number that no other start of any node has.
    pub seed: u64,
}

impl Default for BusOptions {
    fn default() -> BusOptions {
        BusOptions {
            urls: vec!["127.0.0.1:4222".into()],
            name: "systole".into(),
            partitions: 64,
            streams: 1,
            replicas: 3,
            max_bytes: None,
            max_age: Duration::from_secs(7200),
            session_max_age: Duration::from_secs(60),
            login: NatsLogin::default(),
            connection_name: "systole".into(),
            seed: 0,
        }
    }
}

/// A bus on NATS JetStream.
pub struct JetStreamBus {
    api: Api,
    streams: Streams,
    batches: Vec<Reader>,
    records: Vec<Reader>,
    sessions: Reader,
    seen: Mutex<SeenSessions>,
    seed: u64,
    checkpoints: AtomicU64,
}

/// The last session of each node, by its subject.
#[derive(Default)]
struct SeenSessions {
    next: Sequence,
    all: BTreeMap<String, Stored>,
}

impl fmt::Debug for JetStreamBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JetStreamBus").field("place", &self.api.place).field("status", &self.status()).finish()
    }
}

impl JetStreamBus {
    /// Begins to connect, and goes on with that until it is closed. To be called inside of a runtime; it does not wait.
    ///
    /// # Errors
    /// If an option can't be used. A server that can't be reached is no error.
    pub fn connect(options: BusOptions) -> Result<Arc<JetStreamBus>, BusError> {
        let bad = |text: String| Err(BusError::Failed(text));
        if let Err(error) = options.name.parse::<NodeName>() {
            return bad(format!("`name` of the cluster: {error}"));
        }
        if options.streams == 0 || options.streams > options.partitions {
            return bad(format!("{} streams for {} partitions", options.streams, options.partitions));
        }
        let connection = Arc::new(Connection::default());
        let (events, closed) = (connection.clone(), connection.clone());
        let client = options
            .login
            .options()
            .map_err(BusError::Failed)?
            .name(&options.connection_name)
            .retry_on_initial_connect()
            .max_reconnects(None)
            .ping_interval(PING)
            .connection_timeout(MOST_PAUSE)
            .reconnect_delay_callback(move |attempts| match u32::try_from(attempts.saturating_sub(1)) {
                _ if closed.is_closed() => FOR_EVER,
                Ok(0) => Duration::ZERO,
                attempts => MOST_PAUSE.min(Duration::from_millis(10 << attempts.unwrap_or(u32::MAX).min(8))),
            })
            .event_callback(move |event| {
                events.take(&event);
                std::future::ready(())
            })
            .connect(options.urls.clone());
        // With retries it connects in a task of its own.
        let client = match client.now_or_never() {
            Some(Ok(client)) => client,
            Some(Err(error)) => return bad(format!("{}: {error}", options.urls.join(", "))),
            None => return bad("the client waits for something".into()),
        };
        let api = Api { client, connection, place: options.urls.join(", "), requests: AtomicU64::new(0) };
        let streams = Streams::new(&options);
        // Consumers belong to one start of one node.
        let start = Random::new(options.seed).bits();
        let reader = |filter: String, of: &str| Reader::new(filter, format!("{start:016x}-{of}"));
        Ok(Arc::new(JetStreamBus {
            batches: (0..options.partitions)
                .map(|partition| reader(streams.batch_filter(partition), &format!("p{partition}")))
                .collect(),
            records: (0..options.partitions).map(|partition| Reader::of_few(streams.record(partition))).collect(),
            sessions: reader(streams.session_filter(), "n"),
            seen: Mutex::default(),
            seed: options.seed,
            checkpoints: AtomicU64::new(0),
            api,
            streams,
        }))
    }

    /// How many requests were sent.
    #[cfg(any(test, feature = "internals"))]
    pub fn requests(&self) -> u64 {
        self.api.requests.load(Ordering::Relaxed)
    }

    fn limited<'a, T: 'a>(
        &'a self,
        limit: Duration,
        act: impl Future<Output = Result<T, BusError>> + Send + 'a,
    ) -> Answer<'a, T> {
        Box::pin(self.api.limited(limit, act))
    }

    async fn prepare_all(&self) -> Result<(), BusError> {
        let info = self.api.client.server_info();
        if !self.api.client.is_server_compatible(2, 9, 0) {
            let text = format!("{} is nats-server {}: 2.9 or later is needed", info.server_name, info.version);
            return Err(BusError::Failed(text));
        }
        // One that differs keeps no other from being made.
        let mut differs: Option<BusError> = None;
        for stream in self.streams.all() {
            match stream.prepare(&self.api).await {
                Err(error @ BusError::Different { .. }) => {
                    differs = differs.filter(|known| !known.is_of_bounds() || error.is_of_bounds()).or(Some(error));
                }
                other => other?,
            }
        }
        differs.map_or(Ok(()), Err)
    }

    async fn read_sessions(&self) -> Result<Vec<Stored>, BusError> {
        let mut seen = self.seen.lock().await;
        loop {
            let read = self.sessions.read(&self.api, &self.streams.sessions, seen.next).await?;
            if read.state.last + 1 < seen.next {
                *seen = SeenSessions::default();
                continue;
            }
            for message in read.messages {
                seen.next = message.sequence + 1;
                seen.all.insert(message.subject.clone(), message.into_stored());
            }
            if read.is_end {
                // One for each subject is kept, so what is before the first message is too old.
                seen.all.retain(|_, session| session.sequence >= read.state.first);
                let mut all: Vec<Stored> = seen.all.values().cloned().collect();
                all.sort_by_key(|session| session.sequence);
                return Ok(all);
            }
        }
    }

    async fn read_records(&self, partition: u16, after: Sequence) -> Result<Vec<Stored>, BusError> {
        let reader = at(&self.records, partition)?;
        let read = reader.read(&self.api, &self.streams.records, after + 1).await?;
        Ok(read.messages.into_iter().map(api::Raw::into_stored).collect())
    }

    async fn read_bodies(&self, partition: u16, sequences: Vec<Sequence>) -> Result<Vec<StoredBatch>, BusError> {
        let stream = self.streams.of(partition);
        let get = |sequence: Sequence| async move { self.api.get(&stream.name, &json!({ "seq": sequence })).await };
        let mut all = stream::iter(sequences.clone()).map(get).buffered(BODIES_AT_ONCE);
        let (mut batches, mut furthest_gone) = (Vec::new(), 0);
        for sequence in sequences {
            match all.next().await {
                Some(Ok(Some(message))) if self.streams.is_batch_of(partition, &message.subject) => {
                    batches.push(message.into_batch());
                }
                Some(Ok(Some(_))) => {}
                Some(Ok(None)) => furthest_gone = furthest_gone.max(sequence),
                Some(Err(error)) => return Err(error),
                None => break,
            }
        }
        stream.reaches(&self.api, furthest_gone).await?;
        Ok(batches)
    }
}

/// The reader of a partition.
fn at(readers: &[Reader], partition: u16) -> Result<&Reader, BusError> {
    readers.get(partition as usize).ok_or_else(|| BusError::Failed(format!("there is no partition {partition}")))
}

impl Bus for JetStreamBus {
    fn prepare(&self) -> Answer<'_, ()> {
        self.limited(PREPARE_LIMIT, self.prepare_all())
    }

    fn put_batch(&self, partition: u16, edge: &NodeName, sent: f64, payload: Bytes) -> Answer<'_, ()> {
        let subject = self.streams.batch(partition, edge);
        self.limited(PUT_BATCH_LIMIT, async move {
            self.api.put(&subject, &[(SENT, sent.to_string())], payload).await.map(|_| ())
        })
    }

    fn put_session(&self, node: &NodeName, payload: Bytes) -> Answer<'_, Sequence> {
        let subject = self.streams.session(node);
        self.limited(LIMIT, async move { self.api.put(&subject, &[], payload).await })
    }

    fn sessions(&self) -> Answer<'_, Vec<Stored>> {
        self.limited(LIMIT, self.read_sessions())
    }

    fn last_record(&self, partition: u16) -> Answer<'_, Option<Stored>> {
        let which = json!({ "last_by_subj": self.streams.record(partition) });
        self.limited(LIMIT, async move {
            let found = self.api.get(&self.streams.records.name, &which).await?;
            Ok(found.map(api::Raw::into_stored))
        })
    }

    fn records(&self, partition: u16, after: Sequence) -> Answer<'_, Vec<Stored>> {
        self.limited(LIMIT, self.read_records(partition, after))
    }

    fn write_record(&self, partition: u16, expected: Sequence, payload: Bytes) -> Answer<'_, ()> {
        let subject = self.streams.record(partition);
        self.limited(LIMIT, async move {
            let header = ("Nats-Expected-Last-Subject-Sequence", expected.to_string());
            self.api.put(&subject, &[header], payload).await.map(|_| ())
        })
    }

    fn batches(&self, partition: u16, from: Sequence) -> Answer<'_, Page> {
        self.limited(LIMIT, async move {
            let reader = at(&self.batches, partition)?;
            let read = reader.read(&self.api, self.streams.of(partition), from).await?;
            let batches = read.messages.into_iter().map(api::Raw::into_batch).collect();
            Ok(Page { batches, is_end: read.is_end, first: read.state.first, last: read.state.last })
        })
    }

    fn bodies(&self, partition: u16, sequences: &[Sequence]) -> Answer<'_, Vec<StoredBatch>> {
        self.limited(LIMIT, self.read_bodies(partition, sequences.to_vec()))
    }

    fn write_checkpoint(&self, partition: u16, payload: Bytes) -> Answer<'_, Sequence> {
        let subject = self.streams.checkpoint(partition);
        let seed = self.seed ^ self.checkpoints.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move { checkpoints::write(&self.api, &subject, seed, payload).await })
    }

    fn read_checkpoint(&self, partition: u16, sequence: Sequence) -> Answer<'_, Option<Bytes>> {
        let subject = self.streams.checkpoint(partition);
        Box::pin(async move { checkpoints::read(&self.api, &self.streams.checkpoints, &subject, sequence).await })
    }

    fn ask(&self, node: &NodeName, question: Bytes) -> Answer<'_, Bytes> {
        let subject = self.streams.question(node);
        let asked = async move { self.api.question(&subject, question).await };
        self.limited(LIMIT, asked)
    }

    fn serve(&self, node: &NodeName, responder: Responder) -> Answer<'_, ()> {
        let subject = self.streams.question(node);
        Box::pin(async move {
            let failed = |error: &dyn fmt::Display| BusError::Failed(error.to_string());
            let client = &self.api.client;
            let questions = client.subscribe(subject).await.map_err(|error| failed(&error))?;
            let answer = |question: async_nats::Message| {
                let responder = responder.clone();
                async move {
                    let Some(to) = question.reply else { return };
                    if let Some(answer) = responder(question.payload).await {
                        // Who asked asks again.
                        let _ = client.publish(to, answer).await;
                    }
                }
            };
            questions.for_each_concurrent(ANSWERS_AT_ONCE, answer).await;
            Ok(())
        })
    }

    fn status(&self) -> BusStatus {
        self.api.status()
    }

    fn close(&self) -> Answer<'_, ()> {
        Box::pin(async move {
            let flush = async { self.api.client.flush().await.map_err(|error| BusError::Failed(error.to_string())) };
            let flushed = self.api.limited(LIMIT, flush).await;
            self.api.connection.close();
            let _there_was_no_connection = tokio::time::timeout(LIMIT, self.api.client.drain()).await;
            flushed
        })
    }
}
