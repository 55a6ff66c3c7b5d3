//! The presence thread among other observers: what it tells them, what it takes from them, and when it notifies.

use std::sync::Arc;

use crate::notify::Outbox;
use crate::presence::observers::{Cursor, Digest, Mistaken, Observers, ObserversView, PeerView};
use crate::presence::{AlertKey, AlertName, Engine, EngineTime, Notification, Reading, peer_reading};

use super::state::PresenceState;

/// This node among others, and what of its notifications is on its way. It needs no thread and no runtime.
#[derive(Debug)]
pub struct Among {
    /// What this node knows of the others.
    pub observers: Observers,
    /// When something was last given to the targets, until they have dealt with all of it.
    given: Option<EngineTime>,
    /// How often a peer was told that this node is leaving.
    farewells: usize,
    is_leaving: bool,
}

impl Among {
    /// A node that has given nothing to its targets yet.
    pub fn new(observers: Observers) -> Among {
        Among { observers, given: None, farewells: 0, is_leaving: false }
    }

    /// Notifies, if it is for this node to do: puts into the queues of the targets what they are to be sent now, and takes back
    /// what others have sent.
    pub fn speak(&mut self, engine: &Engine, outboxes: &[Arc<Outbox>]) {
        let now = engine.now();
        let is_idle = outboxes.iter().all(|outbox| outbox.is_idle());
        let works = !outboxes.iter().any(|outbox| outbox.fails());
        let arrived = if is_idle { self.given.take() } else { None };
        self.observers.note_receivers(works, arrived, now);
        let spoken = self.observers.speak(engine);
        if !spoken.notifications.is_empty() {
            self.given = Some(now);
        }
        if spoken.is_silenced {
            self.given = None;
            outboxes.iter().for_each(|outbox| outbox.stand_down());
        }
        outboxes.iter().for_each(|outbox| outbox.withdraw(&spoken.overtaken));
        if let Some(mut again) = spoken.again {
            again.iter_mut().for_each(|one| one.detail = detail(engine, &one.alarm.key));
            outboxes.iter().for_each(|outbox| outbox.take_over(&again));
        }
        // An end is for whoever knows of the beginning, and others may have told that.
        let ends = || spoken.notifications.iter().filter(|one| one.resolved).map(|one| &one.alarm);
        outboxes.iter().for_each(|outbox| outbox.adopt(ends()));
        pass_on(engine, outboxes, spoken.notifications);
    }
}

/// Puts notifications into every target's queue.
pub(super) fn pass_on(engine: &Engine, outboxes: &[Arc<Outbox>], mut notifications: Vec<Notification>) {
    if notifications.is_empty() || outboxes.is_empty() {
        return;
    }
    notifications.iter_mut().for_each(|one| one.detail = detail(engine, &one.alarm.key));
    outboxes.iter().for_each(|outbox| outbox.put(&notifications));
}

/// More about an alarm in words.
pub(super) fn detail(engine: &Engine, key: &AlertKey) -> String {
    if key.name == AlertName::PeerUnreachable {
        return unwatched(engine);
    }
    engine.detail(key.service.as_deref(), key.instance.as_deref())
}

/// What a lost peer alone had heard, in words.
fn unwatched(engine: &Engine) -> String {
    match engine.unwatched() {
        0 => "Everything that it had heard is heard by others.".into(),
        1 => "1 instance that it alone had heard is heard by nobody: its silence is not told by itself.".into(),
        n => format!("{n} instances that it alone had heard are heard by nobody: their silence is not told by itself."),
    }
}

/// For the tasks that ask peers, and the route that answers them.
impl PresenceState {
    /// How the observers are; `None` if this is the only one.
    pub fn observers(&self) -> Option<ObserversView> {
        self.shared.as_ref().map(|shared| shared.observers.view(self.engine()))
    }

    /// What is new to a peer; `None` if there are no observers beside this one.
    pub fn digest(&mut self, since: Option<Cursor>) -> Option<Digest> {
        let unix = self.unix_now();
        let shared = self.shared.as_mut()?;
        shared.farewells += usize::from(shared.is_leaving);
        Some(shared.observers.digest(&self.engine, since, unix))
    }

    /// The time before a peer is asked, and where to go on.
    pub(super) fn before_poll(&mut self, peer: usize) -> (EngineTime, Option<Cursor>) {
        (self.engine.now(), self.shared.as_ref().and_then(|shared| shared.observers.cursor(peer)))
    }

    /// Takes a peer's answer; whether there is more.
    pub(super) fn take_digest(&mut self, peer: usize, asked: EngineTime, digest: Digest) -> Result<bool, Mistaken> {
        let unix = self.unix_now();
        let Some(shared) = &mut self.shared else { return Ok(false) };
        shared.observers.take_digest(peer, digest, &mut self.engine, (asked, unix))
    }

    /// A peer did not answer, or what it answered is broken.
    pub(super) fn miss_peer(&mut self, peer: usize, is_broken: bool) {
        let Some(shared) = &mut self.shared else { return };
        if is_broken {
            shared.observers.refuse(peer, &mut self.engine);
        }
        shared.observers.miss(peer, &mut self.engine);
    }

    /// The daemon is about to stop.
    pub(super) fn say_farewell(&mut self) {
        if let Some(shared) = &mut self.shared {
            shared.observers.leave();
            shared.is_leaving = true;
        }
    }

    /// Whether so many peers have been told of that, or none of them asks.
    pub(super) fn has_said_farewell(&mut self, peers: usize) -> bool {
        self.shared.as_ref().is_none_or(|shared| shared.farewells >= peers || shared.observers.has_lost_peer())
    }
}

/// For the thread.
impl PresenceState {
    /// Whether silence may be judged now.
    pub(super) fn may_judge(&self) -> bool {
        self.shared.as_ref().is_none_or(|shared| shared.observers.may_judge(self.engine.now()))
    }

    /// Lets time pass among observers.
    pub(super) fn tick_observers(&mut self) {
        let unix = self.unix_now();
        if let Some(shared) = &mut self.shared {
            shared.observers.tick(&mut self.engine, unix);
        }
    }

    /// What this node's own machine would notify goes to the targets, or, among observers, to what they know.
    pub(super) fn notify(&mut self, notifications: Vec<Notification>) {
        let now = self.engine.now();
        match &mut self.shared {
            Some(shared) => shared.observers.note(notifications, now),
            None => pass_on(&self.engine, &self.outboxes, notifications),
        }
    }

    /// Whether each peer answers, as series.
    pub(super) fn peer_readings(&self) -> Vec<Reading> {
        let peers = self.observers().map_or_else(Vec::new, |observers| observers.peers);
        let name = |peer: &PeerView| peer.node.clone().unwrap_or_else(|| peer.url.as_str().into());
        peers.iter().map(|peer| peer_reading(name(peer), peer.reachable)).collect()
    }

    /// Notifies, if it is for this node to do.
    pub(super) fn speak(&mut self) {
        if let Some(shared) = &mut self.shared {
            shared.speak(&self.engine, &self.outboxes);
        }
    }
}
