//! Reading a part of a stream in order, page by page.
//!
//! A consumer of JetStream gives many messages for one request. It lives on one replica, which may be behind the leader,
//! and it may be gone at any time. So it is only trusted with what it delivers without a gap; that nothing is left is what
//! the leader says. In a quiet stream that takes no request but the one about the stream's last sequence, which all readers
//! of the stream share:
//!
//! | what there is | requests |
//! |---|---|
//! | nothing in the stream since the leader was asked last | 0 |
//! | something, but not of this part; or the rest of a page | 2 |
//! | the first read, or one from elsewhere | 3 |
//! | what a replica lacks, for each message | 1 more |
//!
//! Records are few and the leader alone knows them: they are read without a consumer.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::{HeaderMap, StatusCode, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use crate::cluster::Sequence;

use super::super::BusError;
use super::api::{Api, Headers, Raw, seconds};
use super::streams::{Stream, StreamState};

/// Most messages of a page.
const PAGE: usize = 256;

/// Most bytes of a page: they have to come within the limit of a call.
const PAGE_BYTES: usize = 4 << 20;

/// Most messages of a page that are asked for one by one.
const MOST_SINGLE: usize = 32;

/// Longest wait for a page of a consumer, and for the consumer to be made.
const PULL_LIMIT: Duration = Duration::from_millis(750);

/// For how long no other consumer is asked for after that. While the servers choose who makes them, the leader of the
/// stream gives messages one by one.
const WITHOUT_CONSUMER: Duration = Duration::from_secs(2);

/// For how long a leader may be behind what was read before: a new one has yet to apply the last messages. After that
/// they are lost.
const CATCH_UP: Duration = Duration::from_secs(10);

/// The server forgets a consumer that nobody has asked for so long.
const INACTIVE_NANOSECONDS: u64 = 120_000_000_000;

/// Messages that were read, in order and without gaps.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) messages: Vec<Raw>,
    /// Whether these were all that there were when the read began.
    pub(super) is_end: bool,
    pub(super) state: StreamState,
}

/// Reads the messages of a stream whose subjects match a filter.
#[derive(Debug)]
pub(super) struct Reader {
    filter: String,
    /// What names of its consumers begin with; `None` to ask the leader for every message.
    name: Option<String>,
    place: Mutex<Position>,
}

#[derive(Debug, Default)]
struct Position {
    /// Taken out while it is used: what happens to a read that is given up, nobody knows.
    consumer: Option<Consumer>,
    /// A consumer that we have asked for, until we were answered. It may be on a server that is gone, and is not asked for
    /// again.
    asked: Option<String>,
    consumers: u64,
    /// There is nothing from the first of these to the second: the leader has said so.
    nothing: Option<(Sequence, Sequence)>,
    /// The servers do not make consumers at the moment.
    no_consumer_before: Option<Instant>,
    /// Since when the leader has been behind what was read before.
    behind: Option<Instant>,
}

/// A consumer on some server.
#[derive(Debug)]
struct Consumer {
    name: String,
    /// What follows all that we were given of it.
    next: Sequence,
    /// How many messages it has delivered.
    delivered: u64,
    inbox: String,
    subscriber: Subscriber,
    pulls: u64,
}

/// What a pull came to.
enum Pulled {
    /// The consumer has nothing more.
    Dry,
    /// As much as was asked for was delivered.
    Full,
    /// It is gone, or something was lost.
    Doubtful,
}

impl Reader {
    pub(super) fn new(filter: String, name: String) -> Reader {
        Reader { filter, name: Some(name), place: Mutex::default() }
    }

    /// One that asks the leader for every message.
    pub(super) fn of_few(filter: String) -> Reader {
        Reader { filter, name: None, place: Mutex::default() }
    }

    /// Messages from a sequence on: the first ones.
    pub(super) async fn read(&self, api: &Api, stream: &Stream, from: Sequence) -> Result<Read, BusError> {
        let mut place = self.place.lock().await;
        let state = stream.state(api).await?;
        let from = from.max(1);
        let mut read = Read { messages: Vec::new(), is_end: false, state };
        let known = place.nothing.map_or(0, |(_, last)| last).max(from - 1);
        if state.last < known && !stream.is_forgetful() {
            if place.behind.get_or_insert_with(Instant::now).elapsed() < CATCH_UP {
                let text = "its leader has yet to catch up, or has lost messages";
                return Err(BusError::Failed(format!(
                    "{} ends at {}, not at {known}: {text}",
                    stream.name, state.last
                )));
            }
        } else {
            place.behind = None;
        }
        if place.nothing.is_some_and(|(_, last)| state.last < last) {
            // The stream has lost its end, or was made anew.
            (place.nothing, place.consumer) = (None, None);
        }
        if from > state.last || place.nothing.is_some_and(|(first, last)| first <= from && state.last <= last) {
            read.is_end = true;
            return Ok(read);
        }
        if let Some(name) = &self.name
            && place.no_consumer_before.is_none_or(|at| Instant::now() >= at)
        {
            let pull = self.pull(api, stream, name, from, &mut place, &mut read.messages);
            let pulled = timeout(PULL_LIMIT, pull).await;
            place.no_consumer_before = None;
            match pulled {
                Ok(Ok(true)) => {
                    read.is_end = read.messages.last().is_some_and(|last| last.sequence >= state.last);
                    return Ok(read);
                }
                Ok(Ok(false)) => {}
                // What was read until then is good, and the leader of the stream has the rest.
                Ok(Err(_)) | Err(_) => place.no_consumer_before = Some(Instant::now() + WITHOUT_CONSUMER),
            }
        }
        self.finish(api, stream, from, &mut place, &mut read).await?;
        Ok(read)
    }

    /// Pulls messages from a consumer; whether the page is full.
    async fn pull(
        &self,
        api: &Api,
        stream: &Stream,
        name: &str,
        from: Sequence,
        place: &mut Position,
        messages: &mut Vec<Raw>,
    ) -> Result<bool, BusError> {
        // A consumer that the server has forgotten is made anew.
        for _ in 0..2 {
            let mut consumer = match place.consumer.take() {
                Some(consumer) if consumer.next == from => consumer,
                old => {
                    if let Some(old) = old {
                        forget(api, stream, &old.name).await;
                    }
                    self.create(api, stream, name, place, from).await?
                }
            };
            let pulled = consumer.pull(api, stream, from, messages).await?;
            consumer.next = messages.last().map_or(from, |last| last.sequence + 1);
            match pulled {
                Pulled::Doubtful => forget(api, stream, &consumer.name).await,
                Pulled::Dry | Pulled::Full => {
                    place.consumer = Some(consumer);
                    return Ok(matches!(pulled, Pulled::Full));
                }
            }
            if !messages.is_empty() {
                break;
            }
        }
        Ok(false)
    }

    /// Asks the leader for what is left, message by message: mostly there is nothing.
    async fn finish(
        &self,
        api: &Api,
        stream: &Stream,
        from: Sequence,
        place: &mut Position,
        read: &mut Read,
    ) -> Result<(), BusError> {
        let most = read.messages.len() + MOST_SINGLE;
        loop {
            let next = read.messages.last().map_or(from, |last| last.sequence + 1);
            if let Some(consumer) = &mut place.consumer {
                consumer.next = next;
            }
            if next > read.state.last {
                read.is_end = true;
                return Ok(());
            }
            if read.messages.len() >= most || bytes_of(&read.messages) >= PAGE_BYTES {
                return Ok(());
            }
            match api.get(&stream.name, &json!({ "seq": next, "next_by_subj": self.filter })).await? {
                Some(message) if message.sequence <= read.state.last => read.messages.push(message),
                Some(_) | None => {
                    place.nothing = Some((next, read.state.last));
                    read.is_end = true;
                    return Ok(());
                }
            }
        }
    }

    async fn create(
        &self,
        api: &Api,
        stream: &Stream,
        prefix: &str,
        place: &mut Position,
        from: Sequence,
    ) -> Result<Consumer, BusError> {
        if let Some(name) = place.asked.take() {
            forget(api, stream, &name).await;
        }
        place.consumers += 1;
        let name = format!("{prefix}-{}", place.consumers);
        place.asked = Some(name.clone());
        let inbox = api.client.new_inbox();
        let subscriber = api.client.subscribe(format!("{inbox}.*")).await;
        let subscriber = subscriber.map_err(|error| BusError::Failed(error.to_string()))?;
        let request = json!({
            "stream_name": stream.name,
            "config": {
                "name": name, "filter_subject": self.filter, "deliver_policy": "by_start_sequence",
                "opt_start_seq": from, "ack_policy": "none", "replay_policy": "instant", "num_replicas": 1,
                "mem_storage": true, "inactive_threshold": INACTIVE_NANOSECONDS,
            },
        });
        let subject = format!("CONSUMER.CREATE.{}.{name}.{}", stream.name, self.filter);
        api.ask::<Value>(&subject, &request).await?.map_err(|error| error.explain(&stream.name))?;
        place.asked = None;
        Ok(Consumer { name, next: from, delivered: 0, inbox, subscriber, pulls: 0 })
    }
}

/// Has a consumer deleted, if anybody hears it.
async fn forget(api: &Api, stream: &Stream, name: &str) {
    let subject = format!("$JS.API.CONSUMER.DELETE.{}.{name}", stream.name);
    let _it_goes_by_itself_later = api.client.publish(subject, Bytes::new()).await;
}

fn bytes_of(messages: &[Raw]) -> usize {
    messages.iter().map(|message| message.payload.len()).sum()
}

impl Consumer {
    /// Asks for what there is and takes it.
    async fn pull(
        &mut self,
        api: &Api,
        stream: &Stream,
        from: Sequence,
        messages: &mut Vec<Raw>,
    ) -> Result<Pulled, BusError> {
        self.pulls += 1;
        let reply = format!("{}.{}", self.inbox, self.pulls);
        let request = json!({ "batch": PAGE, "max_bytes": PAGE_BYTES, "no_wait": true });
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", stream.name, self.name);
        api.requests.fetch_add(1, Ordering::Relaxed);
        let sent = api.client.publish_with_reply(subject, reply.clone(), request.to_string().into()).await;
        sent.map_err(|error| BusError::Failed(error.to_string()))?;
        for _ in 0..PAGE {
            let message = loop {
                match self.subscriber.next().await {
                    // Messages keep their own subjects; the end of an earlier pull is none of this one.
                    Some(message) if message.status.is_some() && *message.subject != *reply => {}
                    Some(message) => break message,
                    None => return Ok(Pulled::Doubtful),
                }
            };
            match message.status {
                None | Some(StatusCode::OK) => {}
                // There is nothing more, or not within these bytes.
                Some(StatusCode::NOT_FOUND | StatusCode::TIMEOUT) => return Ok(Pulled::Dry),
                Some(status) if status.as_u16() == 409 && says(message.description.as_deref(), "bytes") => {
                    return Ok(if messages.is_empty() { Pulled::Dry } else { Pulled::Full });
                }
                Some(_) => return Ok(Pulled::Doubtful),
            }
            let Some(delivery) = message.reply.as_deref().and_then(Delivery::parse) else {
                return Ok(Pulled::Doubtful);
            };
            let follows = delivery.number == self.delivered + 1;
            let is_in_order = messages.last().is_none_or(|last| last.sequence < delivery.sequence);
            if !follows || !is_in_order {
                return Ok(Pulled::Doubtful);
            }
            self.delivered = delivery.number;
            // What the leader gave us when this replica lacked it is delivered nevertheless.
            if delivery.sequence >= from {
                messages.push(delivery.message(message.subject.as_str(), message.headers, message.payload));
            }
            if delivery.pending == 0 {
                return Ok(Pulled::Dry);
            }
        }
        Ok(Pulled::Full)
    }
}

fn says(description: Option<&str>, word: &str) -> bool {
    description.is_some_and(|text| text.to_lowercase().contains(word))
}

/// What the reply subject of a message says of it:
/// `$JS.ACK.<stream>.<consumer>.<deliveries>.<sequence>.<number>.<nanoseconds>.<pending>`, with `<domain>.<account>.` before the
/// stream and more at the end on newer servers.
#[derive(Debug, PartialEq, Eq)]
struct Delivery {
    sequence: Sequence,
    /// Which one it is of its consumer's.
    number: u64,
    nanoseconds: i64,
    pending: u64,
}

impl Delivery {
    fn parse(reply: &str) -> Option<Delivery> {
        let tokens: Vec<&str> = reply.strip_prefix("$JS.ACK.")?.split('.').collect();
        let tokens = match tokens.len() {
            7 => &tokens[3..],
            9.. => &tokens[5..],
            _ => return None,
        };
        Some(Delivery {
            sequence: tokens[0].parse().ok()?,
            number: tokens[1].parse().ok()?,
            nanoseconds: tokens[2].parse().ok()?,
            pending: tokens[3].parse().ok()?,
        })
    }

    fn message(&self, subject: &str, headers: Option<HeaderMap>, payload: Bytes) -> Raw {
        Raw {
            subject: subject.to_string(),
            sequence: self.sequence,
            stored: seconds(self.nanoseconds.into()),
            headers: Headers::map(headers),
            payload,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_is_read_in_both_forms() {
        let expected = Delivery { sequence: 81, number: 7, nanoseconds: 1_700_000_000_500_000_000, pending: 3 };
        for reply in [
            "$JS.ACK.SYSTOLE_P0.c-1.1.81.7.1700000000500000000.3",
            "$JS.ACK._.hash.SYSTOLE_P0.c-1.1.81.7.1700000000500000000.3",
            "$JS.ACK.hub.hash.SYSTOLE_P0.c-1.1.81.7.1700000000500000000.3.random",
        ] {
            assert_eq!(Delivery::parse(reply).as_ref(), Some(&expected), "{reply}");
        }
        assert_eq!(seconds(expected.nanoseconds.into()), 1_700_000_000.5);
        for reply in ["_INBOX.x", "$JS.ACK.s.c.1.2", "$JS.ACK.s.c.1.x.7.1.3"] {
            assert_eq!(Delivery::parse(reply), None, "{reply}");
        }
    }
}
