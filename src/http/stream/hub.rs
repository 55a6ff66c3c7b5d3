//! The hub of all streams: a task that sees each interval that is published and each change of presence, makes what clients
//! asked for, and puts it into their queues. It waits for none of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::timeout;

use crate::codec::write_json;
use crate::flush::FlusherHandle;
use crate::history::History;
use crate::journal::{Entry, Journal, MOST_ENTRIES, Query};
use crate::presence_driver::PresenceHandle;
use crate::snapshot::Snapshot;
use crate::supervise::Part;
use crate::web::Bodies;

use super::super::presence::PATIENCE;
use super::super::{About, verdict};
use super::client::{Client, Message, Position, Reader, write_event};
use super::lookup::Lookup;
use super::message::{Parts, write_entries};
use super::{MOST_MESSAGE, Subscription, Topics};

/// Changes of presence that are fetched at a time.
const FETCHED: usize = 32;

/// Those that are fetched for a client that comes back.
const FETCHED_AGAIN: usize = 1000;

/// All streams of a daemon. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Streams(Arc<Shared>);

/// What streams tell of.
#[derive(Clone, Debug)]
pub struct Sources {
    /// About the daemon.
    pub about: About,
    /// Who publishes intervals.
    pub flusher: FlusherHandle,
    /// Who is there; `None` if presence is off.
    pub presence: Option<PresenceHandle>,
    /// What happened.
    pub journal: Journal,
    /// The last intervals of every series.
    pub history: History,
}

#[derive(Debug)]
struct Shared {
    sources: Sources,
    bodies: Bodies,
    list: Mutex<List>,
    lookup: Mutex<Lookup>,
}

#[derive(Debug)]
struct List {
    clients: Vec<Arc<Client>>,
    /// How far they are.
    sent: Position,
    /// A message is being made.
    is_making: bool,
    is_over: bool,
}

/// Clients with the same subscription.
type Group = (Arc<Subscription>, Vec<Arc<Client>>);

impl Streams {
    /// Streams of these; `boot` is the start of the daemon, Unix seconds, and `part` sees each interval. To be called inside a
    /// Tokio runtime.
    pub fn start(sources: Sources, bodies: Bodies, boot: u64, part: &Part) -> Streams {
        let sent = Position { boot, ..Position::default() };
        let list = Mutex::new(List { clients: Vec::new(), sent, is_making: false, is_over: false });
        let streams = Streams(Arc::new(Shared { sources, bodies, list, lookup: Mutex::default() }));
        let (own, its_part) = (streams.clone(), part.clone());
        part.keep_task(move || run(own.clone(), its_part.clone()));
        streams
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        // Every change leaves it whole.
        self.0.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The verdict as JSON, if anybody wants an interval.
    async fn verdict(&self, groups: &[Group]) -> Vec<u8> {
        let wants = |(subscription, _): &Group| {
            subscription.topics.has(Topics::INTERVAL) || subscription.topics.has(Topics::LEDGER)
        };
        let mut out = Vec::new();
        if groups.iter().any(wants) {
            let Sources { about, flusher, presence, history, .. } = &self.0.sources;
            let look = verdict::look_at(about, flusher, presence.as_ref(), history).await;
            write_json(&look.verdict, &mut out);
        }
        out
    }

    /// A stream for a client, which was at `last`, if it was; `None` if no more intervals are closed.
    pub(super) async fn open(
        &self,
        subscription: Subscription,
        last: Option<Position>,
        place: OwnedSemaphorePermit,
    ) -> Option<Reader> {
        let client = Arc::new(Client::new(Arc::new(subscription)));
        let sent = {
            let mut list = self.lock();
            if list.is_over {
                return None;
            }
            list.clients.push(Arc::clone(&client));
            list.sent
        };
        let reader = Reader::new(Arc::clone(&client), self.clone(), place);
        if let Some(last) = last {
            self.catch_up(&client, last, sent).await;
        }
        Some(reader)
    }

    /// Begins with what happened after `last` and until `sent`; what comes later is put into the queue by the hub.
    async fn catch_up(&self, client: &Client, last: Position, sent: Position) {
        // Numbers of another start say nothing.
        let last = if last.boot == sent.boot { last } else { Position { boot: sent.boot, ..Position::default() } };
        let topics = client.subscription.topics;
        let mut bytes = Vec::new();
        if topics.has(Topics::PRESENCE) && last.presence < sent.presence {
            let all = sent.presence - last.presence;
            let missing = usize::try_from(all).unwrap_or(usize::MAX).min(FETCHED_AGAIN);
            let mut events = self.presence_since(sent.presence - missing as u64, missing).await;
            // Where some are forgotten, later ones have come, which the hub sends.
            events.retain(|(number, _)| *number <= sent.presence);
            let (frames, left_out) = write_presence(&events, Position { event: last.event, ..sent });
            bytes.extend(frames);
            client.miss(all.saturating_sub(events.len() as u64) + left_out);
        }
        if topics.has(Topics::EVENTS) {
            let entries = self.entries(last.event, sent.event);
            let (frames, left_out) = write_entries(&entries, sent);
            bytes.extend(frames);
            client.miss(sent.event.saturating_sub(last.event).saturating_sub(entries.len() as u64) + left_out);
        }
        if topics.has(Topics::INTERVAL) || topics.has(Topics::LEDGER) {
            client.miss(sent.sequence.saturating_sub(last.sequence));
        }
        if !bytes.is_empty() {
            client.begin_with(Message::new(bytes, self.0.bodies.holding()));
        }
    }

    /// A client has left.
    pub(super) fn leave(&self, client: &Arc<Client>) {
        self.lock().clients.retain(|one| !Arc::ptr_eq(one, client));
    }

    /// The entries of the journal after one number up to another, oldest first.
    fn entries(&self, after: u64, until: u64) -> Vec<Arc<Entry>> {
        if after >= until {
            return Vec::new();
        }
        let (mut entries, _) =
            self.0.sources.journal.find(&Query { since: after, most: MOST_ENTRIES, ..Query::default() });
        entries.retain(|entry| entry.number <= until);
        entries.reverse();
        entries
    }

    /// Changes of presence after the one with a number.
    async fn presence_since(&self, after: u64, most: usize) -> Vec<(u64, Value)> {
        let Some(presence) = &self.0.sources.presence else { return Vec::new() };
        let asked = presence.ask(move |state| state.events_since(Some(&after.to_string()), most));
        // Presence may be gone, or busy: the next change asks again.
        timeout(PATIENCE, asked).await.ok().and_then(Result::ok).unwrap_or_default()
    }

    /// Sends an interval, unless it was sent before.
    async fn send_interval(&self, snapshot: &Arc<Snapshot>) {
        let (groups, before, id, skipped) = {
            let mut list = self.lock();
            let before = list.sent;
            if snapshot.sequence <= before.sequence {
                return;
            }
            list.sent = Position { event: self.0.sources.journal.newest(), sequence: snapshot.sequence, ..before };
            list.is_making = !list.clients.is_empty();
            (groups(&list.clients), before, list.sent, snapshot.sequence - before.sequence - 1)
        };
        if groups.is_empty() {
            return;
        }
        let entries = self.entries(before.event, id.event);
        let verdict = self.verdict(&groups).await;
        let (shared, snapshot) = (Arc::clone(&self.0), Arc::clone(snapshot));
        let make = move || {
            let mut lookup = shared.lookup.lock().unwrap_or_else(PoisonError::into_inner);
            let wanted = groups.iter().filter(|(subscription, _)| subscription.topics.has(Topics::INTERVAL));
            let places = lookup.find(&snapshot, wanted.flat_map(|(subscription, _)| &subscription.series));
            let parts = Parts::new(&snapshot, &entries, verdict, before, id);
            for (subscription, clients) in &groups {
                let made = parts.message(&snapshot, subscription, &places);
                let missed = made.as_ref().map_or(0, |made| made.missed);
                let message = made.filter(|made| !made.bytes.is_empty());
                let message = message.map(|made| Message::new(made.bytes, shared.bodies.holding()));
                for client in clients {
                    // An interval that was closed while the one before was made.
                    let skipped = if subscription.topics.has(Topics::INTERVAL) { skipped } else { 0 };
                    if skipped + missed > 0 && before.sequence > 0 {
                        client.miss(skipped + missed);
                    }
                    message.iter().for_each(|message| client.put_interval(Arc::clone(message)));
                }
            }
        };
        let is_made = self.0.bodies.work(make).await.is_ok();
        self.made(!is_made);
    }

    /// A message was made, or could not be.
    fn made(&self, has_failed: bool) {
        let mut list = self.lock();
        if std::mem::take(&mut list.is_making) && has_failed {
            list.clients.iter().for_each(|client| client.miss(1));
        }
    }

    /// Sends changes of presence, as many as there are.
    async fn send_presence(&self, newest: u64) {
        loop {
            let wants = |client: &&Arc<Client>| client.subscription.topics.has(Topics::PRESENCE);
            let before = {
                let mut list = self.lock();
                if !list.clients.iter().any(|client| wants(&client)) {
                    list.sent.presence = newest.max(list.sent.presence);
                }
                list.sent
            };
            if before.presence >= newest {
                return;
            }
            let events = self.presence_since(before.presence, FETCHED).await;
            let Some((last, _)) = events.last() else { return };
            let (bytes, left_out) = write_presence(&events, before);
            // Who has come meanwhile was told what happened up to `before`, who comes from now on up to `last`.
            let clients: Vec<_> = {
                let mut list = self.lock();
                list.sent.presence = *last;
                list.clients.iter().filter(wants).cloned().collect()
            };
            let message = Message::new(bytes, self.0.bodies.holding());
            for client in &clients {
                if left_out > 0 {
                    client.miss(left_out);
                }
                client.put_presence(Arc::clone(&message));
            }
        }
    }

    fn end(&self) {
        let mut list = self.lock();
        list.is_over = true;
        list.clients.iter().for_each(|client| client.end());
    }
}

fn groups(clients: &[Arc<Client>]) -> Vec<Group> {
    let mut groups: HashMap<Arc<Subscription>, Vec<Arc<Client>>> = HashMap::new();
    for client in clients {
        groups.entry(Arc::clone(&client.subscription)).or_default().push(Arc::clone(client));
    }
    groups.into_iter().collect()
}

/// Changes of presence as server-sent events, and how many did not fit; `before` is how far clients are otherwise.
fn write_presence(events: &[(u64, Value)], before: Position) -> (Vec<u8>, u64) {
    let mut out: Vec<u8> = Vec::new();
    let mut left_out = 0;
    for (number, event) in events {
        let (mut data, mut frame) = (Vec::new(), Vec::new());
        write_json(event, &mut data);
        write_event(Some(Position { presence: *number, ..before }), "presence", &data, &mut frame);
        if out.len() + frame.len() <= MOST_MESSAGE {
            out.extend(frame);
        } else {
            left_out += 1;
        }
    }
    (out, left_out)
}

/// Runs until the flusher has ended; then the streams do.
async fn run(streams: Streams, part: Part) {
    // Left by a panic.
    streams.made(true);
    let mut published = streams.0.sources.flusher.subscribe();
    let mut newest = streams.0.sources.presence.as_ref().map(PresenceHandle::newest);
    loop {
        part.alive();
        tokio::select! {
            changed = published.changed() => {
                let last = published.borrow_and_update().snapshot.clone();
                if let Some(snapshot) = &last {
                    streams.send_interval(snapshot).await;
                }
                if changed.is_err() {
                    return streams.end();
                }
            }
            change = next_change(&mut newest) => match change {
                Some(number) => streams.send_presence(number).await,
                None => newest = None,
            },
        }
    }
}

/// The number of the newest change of presence when there is a new one; `None` when there will be none, nothing ever where
/// there is no presence.
async fn next_change(newest: &mut Option<watch::Receiver<u64>>) -> Option<u64> {
    match newest {
        Some(newest) => newest.changed().await.ok().map(|()| *newest.borrow_and_update()),
        None => std::future::pending().await,
    }
}
