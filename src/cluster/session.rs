//! Who lives, whether we may act, and what time it is on the bus.
//!
//! Every node puts its session to the bus again and again. It trusts itself for some seconds from when it *sent* the last
//! renewal that was acknowledged; the others call it dead when they have seen no new one for a second more. All of that is
//! by each node's own monotonic clock: clocks that are wrong harm nobody. Nor does it fence anybody: a node that was
//! paused in between is stopped by the records.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::NodeName;
use super::bus::{Command, Sequence, Stored};
use super::record::BOUND;
use super::view::{LastInterval, NodeView};

/// Seconds from one renewal to the next.
const RENEW_SECS: f64 = 2.0;

/// A node trusts itself for so many seconds from the sending of a renewal.
const TRUST_SECS: f64 = 5.0;

/// Others call it dead after so many seconds without a new one.
pub(super) const DEAD_SECS: f64 = 6.0;

/// A node that owns nothing reads sessions less often the more there are: so many seconds for each, between these bounds.
const WATCH_SECS: f64 = 0.05;
const WATCH_LEAST_SECS: f64 = 1.75;
const WATCH_MOST_SECS: f64 = 30.0;

/// What was not looked at for so many seconds may have been there.
const MOST_LOOK_SECS: f64 = 3.0;

/// A round trip that took longer says nothing about the clock of the bus.
const MOST_ROUND_TRIP_SECS: f64 = 1.0;

/// Nodes that are remembered: more than a cluster has. While there are so many, new ones are not seen.
const MOST_NODES: usize = 4096;

/// A node that was not heard for so many seconds is forgotten.
const FORGET_SECS: f64 = 86_400.0;

/// Renewals whose way is remembered until they are read back.
const MOST_RENEWALS: usize = 16;

/// One start of a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
pub struct SessionId {
    /// Its name.
    pub node: NodeName,
    /// Grows with each start.
    pub start: u64,
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// Whose session it is.
    pub id: SessionId,
    /// Grows with each renewal.
    pub number: u64,
    /// Whether it takes partitions: not if it is an edge alone, or leaves.
    pub takes: bool,
    /// Partitions that it owns.
    pub load: u32,
    /// Batches that it has yet to send.
    pub spooled: u64,
    /// It holds batches back, as the bus has refused some and it has not sent them all since.
    pub holds_back: bool,
    /// What it says for people.
    pub note: SessionNote,
}

/// What a node does in its cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub enum NodeRole {
    /// It receives, and sends what it heard.
    #[default]
    #[serde(rename = "edge")]
    Edge,
    /// It merges what edges sent.
    #[serde(rename = "global")]
    Global,
    /// Both.
    #[serde(rename = "edge+global")]
    Both,
}

impl NodeRole {
    /// The word of the configuration.
    pub fn name(self) -> &'static str {
        match self {
            NodeRole::Edge => "edge",
            NodeRole::Global => "global",
            NodeRole::Both => "edge+global",
        }
    }

    /// Whether it receives.
    pub fn is_edge(self) -> bool {
        self != NodeRole::Global
    }

    /// Whether it merges, unless it gives its partitions up.
    pub fn is_global(self) -> bool {
        self != NodeRole::Edge
    }
}

/// What a node says of itself for people; nothing is decided by it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SessionNote {
    /// What it does, as its configuration has it.
    pub role: NodeRole,
    /// It gives its partitions up and goes on without.
    pub is_draining: bool,
    /// It stops: nobody misses it.
    pub has_left: bool,
    /// By how much its wall clock is ahead of that of the bus, in seconds.
    pub clock_ahead_secs: Option<f64>,
    /// Its interval, in seconds.
    pub interval_secs: f64,
    /// The hash of its settings that shape records.
    pub config: u64,
    /// The last interval that it has merged with the accounts of the edges.
    pub last: Option<LastInterval>,
}

impl SessionNote {
    fn is_sound(&self) -> bool {
        let last = self.last.as_ref();
        let numbers = [self.clock_ahead_secs, Some(self.interval_secs), last.map(|last| last.end)];
        let completeness = last.map_or(1.0, |last| last.completeness);
        numbers.iter().flatten().all(|number| number.is_finite()) && (0.0..=1.0).contains(&completeness)
    }
}

impl Session {
    /// Its bytes.
    pub fn encode(&self) -> Bytes {
        postcard::to_stdvec(self).expect("a vector takes all of a plain structure").into()
    }

    /// A session from its bytes; `None` if it is none that this version reads, or says what can't be.
    pub fn decode(bytes: &[u8]) -> Option<Session> {
        let is_bounded = |id: &SessionId, number| id.start < BOUND && number < BOUND;
        let is_sound = |one: &Session| is_bounded(&one.id, one.number) && one.note.is_sound();
        postcard::from_bytes(bytes).ok().filter(is_sound)
    }
}

/// A renewal on its way.
#[derive(Clone, Copy, Debug)]
struct Renewal {
    sent: f64,
    /// Where it was stored and the middle of its round trip, once it was acknowledged and was quick enough.
    middle: Option<(Sequence, f64)>,
}

/// A later start of our name: another node has it, or had, or our clock was set back. Others believe that one.
#[derive(Clone, Copy, Debug)]
struct LaterStart {
    /// The start and the number of its last session that was seen.
    seen: (u64, u64),
    /// Since when nothing new of it was seen, and when it was looked last.
    since: f64,
    looked_at: f64,
}

/// Our own session.
#[derive(Debug)]
pub(super) struct OwnSession {
    pub(super) id: SessionId,
    number: u64,
    next_at: f64,
    trusted_until: f64,
    renewals: BTreeMap<u64, Renewal>,
    /// What is said for people with the next renewal.
    pub(super) note: SessionNote,
    /// What to add to our clock for that of the bus.
    offset: Option<f64>,
    later: Option<LaterStart>,
}

impl OwnSession {
    pub(super) fn new(id: SessionId) -> OwnSession {
        OwnSession {
            id,
            number: 0,
            next_at: f64::MIN,
            trusted_until: f64::MIN,
            renewals: BTreeMap::new(),
            note: SessionNote::default(),
            offset: None,
            later: None,
        }
    }

    /// Goes on as a later start, which nobody trusts yet.
    pub(super) fn start_again(&mut self, start: u64) {
        self.id.start = start;
        (self.next_at, self.trusted_until, self.later) = (f64::MIN, f64::MIN, None);
        self.renewals.clear();
    }

    /// Whether a later start of our name was seen.
    pub(super) fn is_superseded(&self) -> bool {
        self.later.is_some()
    }

    /// The later start of our name, if it is over.
    pub(super) fn outlived(&self) -> Option<u64> {
        let LaterStart { seen, since, looked_at } = self.later?;
        (looked_at - since >= DEAD_SECS).then_some(seen.0)
    }

    /// A session was read that may be of a later start of our name.
    fn see_later(&mut self, session: &Session, now: f64) {
        let seen = (session.id.start, session.number);
        let is_known = self.later.is_some_and(|later| later.seen >= seen);
        if session.id.node != self.id.node || session.id.start <= self.id.start || is_known {
            return;
        }
        self.later = Some(LaterStart { seen, since: now, looked_at: now });
        // Ours has the same place at the bus: between two of its own there is time to read each.
        self.next_at = now + RENEW_SECS / 2.0;
    }

    /// All sessions were read.
    fn looked(&mut self, now: f64) {
        let Some(later) = &mut self.later else { return };
        if now - later.looked_at > MOST_LOOK_SECS {
            later.since = now;
        }
        later.looked_at = now;
    }

    /// The renewal that is due.
    pub(super) fn renew<E>(
        &mut self,
        takes: bool,
        load: u32,
        (spooled, holds_back): (u64, bool),
        now: f64,
    ) -> Option<Command<E>> {
        if now < self.next_at {
            return None;
        }
        self.next_at = now + RENEW_SECS;
        self.number += 1;
        self.renewals.insert(self.number, Renewal { sent: now, middle: None });
        if self.renewals.len() > MOST_RENEWALS {
            self.renewals.pop_first();
        }
        let note = self.note.clone();
        let session = Session { id: self.id.clone(), number: self.number, takes, load, spooled, holds_back, note };
        Some(Command::PutSession { number: self.number, payload: session.encode() })
    }

    /// Has the next renewal due at once.
    pub(super) fn renew_now(&mut self) {
        self.next_at = f64::MIN;
    }

    /// A renewal was acknowledged.
    pub(super) fn acknowledged(&mut self, number: u64, sequence: Sequence, now: f64) {
        let Some(renewal) = self.renewals.get_mut(&number) else { return };
        self.trusted_until = self.trusted_until.max(renewal.sent + TRUST_SECS);
        if now - renewal.sent <= MOST_ROUND_TRIP_SECS {
            renewal.middle = Some((sequence, (renewal.sent + now) / 2.0));
        }
    }

    /// A session of ours was read back: when the bus stored it is the time of the bus. The same renewal stored again, later,
    /// says nothing.
    fn read_back(&mut self, session: &Session, stored: &Stored) {
        let Some(Renewal { middle: Some((sequence, middle)), .. }) = self.renewals.get(&session.number) else { return };
        if session.id == self.id && stored.sequence == *sequence {
            self.offset = Some(stored.stored - middle);
        }
    }

    /// Whether nobody calls us dead yet.
    pub(super) fn is_trusted(&self, now: f64) -> bool {
        now < self.trusted_until
    }

    /// The time of the bus at a time of ours; `None` if it is not known yet.
    pub(super) fn bus_time(&self, now: f64) -> Option<f64> {
        Some(now + self.offset?)
    }
}

/// What we have last seen of a node.
#[derive(Debug)]
struct View {
    session: Session,
    /// When the bus stored it.
    stored: f64,
    /// When we saw it first.
    since: f64,
}

/// The sessions of all nodes, ours among them.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    all: BTreeMap<NodeName, View>,
    /// How much longer nobody is called dead, as sessions are read more rarely.
    patience: f64,
}

impl Sessions {
    /// How often a node that owns nothing reads them, which it is told once it has: all of many nodes would be too much.
    pub(super) fn watch_secs(&mut self) -> f64 {
        let every = (WATCH_SECS * self.all.len() as f64).clamp(WATCH_LEAST_SECS, WATCH_MOST_SECS);
        self.patience = 2.0 * (every - WATCH_LEAST_SECS);
        every
    }

    /// How many nodes were seen.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    fn dead_secs(&self) -> f64 {
        DEAD_SECS + self.patience
    }

    /// Takes the last session of each node.
    pub(super) fn take(&mut self, all: &[Stored], own: &mut OwnSession, now: f64) {
        let dead_secs = self.dead_secs();
        for stored in all {
            let Some(session) = Session::decode(&stored.payload) else { continue };
            own.read_back(&session, stored);
            own.see_later(&session, now);
            let age = |session: &Session| (session.id.start, session.number);
            let is_newer = |view: &View| {
                // A number that nobody goes on with was wrong.
                let is_over = now - view.since >= dead_secs && stored.stored > view.stored;
                age(&session) > age(&view.session) || is_over && session != view.session
            };
            let known = self.all.get(&session.id.node);
            if known.map_or(self.all.len() < MOST_NODES, is_newer) {
                self.all.insert(session.id.node.clone(), View { session, stored: stored.stored, since: now });
            }
        }
        own.looked(now);
        let most_secs = if self.all.len() < MOST_NODES { FORGET_SECS } else { dead_secs };
        self.all.retain(|_, view| now - view.since < most_secs);
    }

    /// Whether a session is over.
    pub(super) fn is_dead(&self, id: &SessionId, now: f64) -> bool {
        match self.all.get(&id.node) {
            None => true,
            // What we see of it is older than what it did.
            Some(view) if view.session.id.start < id.start => false,
            Some(view) => view.session.id != *id || now - view.since >= self.dead_secs(),
        }
    }

    /// All nodes that were seen, by name.
    pub(super) fn views(&self, now: f64) -> Vec<NodeView> {
        let view = |View { session, since, .. }: &View| NodeView {
            id: session.id.clone(),
            takes: session.takes,
            load: session.load,
            spooled: session.spooled,
            holds_back: session.holds_back,
            age: now - since,
            is_live: now - since < self.dead_secs(),
            role: session.note.role,
            is_draining: session.note.is_draining,
            has_left: session.note.has_left,
            clock_ahead_secs: session.note.clock_ahead_secs,
            interval_secs: session.note.interval_secs,
            config: session.note.config,
            last: session.note.last.clone(),
        };
        self.all.values().map(view).collect()
    }

    /// Live nodes that hold batches back.
    pub(super) fn holding_back(&self, now: f64) -> impl Iterator<Item = &NodeName> {
        let holds = move |view: &&View| view.session.holds_back && now - view.since < DEAD_SECS;
        self.all.values().filter(holds).map(|view| &view.session.id.node)
    }

    /// Live nodes that take partitions, by name.
    pub(super) fn takers(&self, now: f64) -> Vec<&str> {
        let lives = |view: &&View| view.session.takes && now - view.since < self.dead_secs();
        self.all.values().filter(lives).map(|view| view.session.id.node.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(node: &str, start: u64) -> SessionId {
        SessionId { node: node.parse().expect("a name"), start }
    }

    fn stored(node: &str, start: u64, number: u64, stored: f64) -> Stored {
        let session = Session {
            id: id(node, start),
            number,
            takes: true,
            load: 0,
            spooled: 0,
            holds_back: false,
            note: SessionNote::default(),
        };
        Stored { sequence: 1, stored, payload: session.encode() }
    }

    fn renew(own: &mut OwnSession, now: f64) -> bool {
        own.renew::<()>(true, 0, (0, false), now).is_some()
    }

    #[test]
    fn a_node_trusts_itself_from_the_sending_of_what_was_acknowledged() {
        let mut own = OwnSession::new(id("a", 1));
        assert!(renew(&mut own, 100.0) && !renew(&mut own, 101.9) && renew(&mut own, 102.0));
        assert!(!own.is_trusted(102.0));
        own.acknowledged(1, 1, 103.0);
        assert!(own.is_trusted(104.9) && !own.is_trusted(105.0));
        own.acknowledged(7, 1, 104.0);
        assert!(!own.is_trusted(105.0));
    }

    #[test]
    fn the_clock_of_the_bus_is_that_of_our_own_session_in_the_middle_of_its_way() {
        let (mut own, mut sessions) = (OwnSession::new(id("a", 1)), Sessions::default());
        renew(&mut own, 100.0);
        sessions.take(&[stored("a", 1, 1, 5000.0)], &mut own, 100.3);
        assert_eq!(own.bus_time(101.0), None);
        own.acknowledged(1, 1, 100.4);
        sessions.take(&[stored("a", 1, 1, 5000.0)], &mut own, 100.5);
        assert_eq!(own.bus_time(101.2), Some(5001.0));
        // The same one stored again says nothing,
        let again = Stored { sequence: 2, ..stored("a", 1, 1, 5004.0) };
        sessions.take(&[again], &mut own, 101.0);
        assert_eq!(own.bus_time(101.2), Some(5001.0));
        // and neither does a slow one.
        renew(&mut own, 102.0);
        own.acknowledged(2, 1, 103.5);
        sessions.take(&[stored("a", 1, 2, 9000.0)], &mut own, 104.0);
        assert_eq!(own.bus_time(101.2), Some(5001.0));
    }

    #[test]
    fn a_later_start_of_our_name_is_over_when_nothing_new_of_it_is_read_for_long() {
        let (mut own, mut sessions) = (OwnSession::new(id("a", 5)), Sessions::default());
        sessions.take(&[stored("a", 4, 9, 100.0), stored("b", 9, 1, 100.0)], &mut own, 100.0);
        assert!(!own.is_superseded());
        sessions.take(&[stored("a", 7, 1, 100.5)], &mut own, 100.5);
        assert!(own.is_superseded() && !renew(&mut own, 101.0) && renew(&mut own, 101.5));
        sessions.take(&[stored("a", 7, 2, 102.0)], &mut own, 102.0);
        let look = |own: &mut OwnSession, sessions: &mut Sessions, from: u32, until: u32| {
            (from..until).for_each(|n| sessions.take(&[stored("a", 5, 1, 103.0)], own, f64::from(n)));
        };
        look(&mut own, &mut sessions, 103, 107);
        assert_eq!(own.outlived(), None);
        // It may have lived while the bus was away.
        look(&mut own, &mut sessions, 120, 126);
        assert_eq!(own.outlived(), None);
        look(&mut own, &mut sessions, 126, 127);
        assert_eq!(own.outlived(), Some(7));
        own.start_again(8);
        assert!(!own.is_superseded() && renew(&mut own, 127.0));
    }

    #[test]
    fn a_session_that_was_forged_makes_nobody_dead_for_long_and_names_are_bounded() {
        let (mut own, mut sessions) = (OwnSession::new(id("a", 1)), Sessions::default());
        sessions.take(&[stored("b", 1, 1, 10.0)], &mut own, 10.0);
        sessions.take(&[stored("b", u64::MAX, 1, 11.0)], &mut own, 11.0);
        assert!(!sessions.is_dead(&id("b", 1), 11.0));
        sessions.take(&[stored("b", 1 << 40, 1, 11.5)], &mut own, 11.5);
        sessions.take(&[stored("b", 1, 2, 12.0)], &mut own, 12.0);
        assert!(sessions.is_dead(&id("b", 1), 12.0));
        sessions.take(&[stored("b", 1, 5, 18.0)], &mut own, 18.0);
        assert!(!sessions.is_dead(&id("b", 1), 18.0));
        let all: Vec<Stored> = (0..MOST_NODES as u64 + 9).map(|n| stored(&format!("n{n}"), 1, 1, 18.0)).collect();
        sessions.take(&all, &mut own, 18.0);
        assert_eq!(sessions.views(18.0).len(), MOST_NODES);
        assert!(!sessions.is_dead(&id("b", 1), 18.0));
        // Those of which nothing comes make room.
        sessions.take(&[stored("b", 1, 6, 24.0)], &mut own, 24.0);
        assert_eq!(sessions.views(24.0).len(), 1);
        sessions.take(&[], &mut own, 24.0 + FORGET_SECS);
        assert!(sessions.views(24.0 + FORGET_SECS).is_empty());
    }

    #[test]
    fn a_session_is_over_when_it_has_not_changed_for_long_or_its_node_was_started_again() {
        let (mut own, mut sessions) = (OwnSession::new(id("a", 1)), Sessions::default());
        assert!(sessions.is_dead(&id("b", 1), 0.0));
        sessions.take(&[stored("b", 1, 1, 0.0)], &mut own, 10.0);
        // The same again, or an older one from a replica that lags, is no sign of life.
        sessions.take(&[stored("b", 1, 1, 0.0)], &mut own, 13.0);
        assert!(!sessions.is_dead(&id("b", 1), 15.9) && sessions.is_dead(&id("b", 1), 16.0));
        assert!(!sessions.is_dead(&id("b", 2), 16.0), "we see an older start than the one that acted");
        sessions.take(&[stored("b", 2, 1, 0.0)], &mut own, 16.0);
        assert!(sessions.is_dead(&id("b", 1), 16.0));
        assert_eq!((sessions.takers(21.9), sessions.takers(22.0)), (vec!["b"], vec![]));
    }

    #[test]
    fn who_owns_nothing_reads_sessions_of_many_nodes_less_often_and_calls_them_dead_later() {
        let (mut own, mut sessions) = (OwnSession::new(id("a", 1)), Sessions::default());
        sessions.take(&[stored("b", 1, 1, 0.0)], &mut own, 10.0);
        assert_eq!((sessions.watch_secs(), sessions.is_dead(&id("b", 1), 16.0)), (1.75, true));
        let all: Vec<_> = (0..199).map(|n| stored(&format!("n{n}"), 1, 1, 0.0)).collect();
        sessions.take(&all, &mut own, 10.0);
        assert_eq!((sessions.watch_secs(), sessions.is_dead(&id("b", 1), 32.0)), (10.0, false));
        assert!(sessions.is_dead(&id("b", 1), 32.5));
    }

    #[test]
    fn a_session_that_says_what_can_not_be_is_none() {
        let session =
            |note| Session { id: id("a", 1), number: 1, takes: true, load: 0, spooled: 0, holds_back: false, note };
        let is_read = |note| Session::decode(&session(note).encode()).is_some();
        assert!(is_read(SessionNote::default()));
        let last = LastInterval { completeness: 1.5, ..LastInterval::default() };
        assert!(!is_read(SessionNote { last: Some(last), ..SessionNote::default() }));
        assert!(!is_read(SessionNote { clock_ahead_secs: Some(f64::NAN), ..SessionNote::default() }));
    }
}
