//! A peer as this node knows it: whether it answers, how it is, and what it holds open.

use std::collections::{BTreeMap, BTreeSet};

use compact_str::CompactString;

use crate::presence::Alarm;
use crate::presence::alert_book::{AlertKey, AlertState, Ending};
use crate::presence::event::{PeerContext, PeerKind};
use crate::presence::time::{EngineTime, UnixTime};

use super::digest::{Cursor, Digest, ProblemRow};
use super::{FRESH_SECS, LOST_SECS, MISSED_POLLS, Missed, POLL_SECS};
use crate::memory::Holding;

/// A peer that does not answer for so long is an alarm, in seconds; one that tells part after part of more than a poll
/// takes, for the first time over a slow link; and one that has said that it is leaving.
pub(super) const GRACE: f64 = 10.0;
const PAGING_GRACE: f64 = 60.0;
const LEAVING_GRACE: f64 = 300.0;

/// Most problems that a peer may hold open.
const MOST_OPEN: usize = 20_000;

/// A problem as a peer has it.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) alarm: Alarm,
    /// When it began, and when this node first knew that the peer holds it open.
    pub(super) since: EngineTime,
    pub(super) known: EngineTime,
}

/// The end of a problem as a peer saw it.
#[derive(Clone, Debug)]
pub(super) struct Closed {
    pub(super) at: EngineTime,
    pub(super) text: String,
    pub(super) ending: Option<Ending>,
}

/// Most bytes of its text.
const MOST_END: usize = 300;

/// A peer.
#[derive(Debug)]
pub(super) struct Peer {
    /// Where it is, without what is secret.
    pub(super) url: String,
    /// Its name, once it has said it.
    pub(super) node: Option<CompactString>,
    /// Where to go on; `None` asks for everything.
    pub(super) cursor: Option<Cursor>,
    /// Which start of it had answered an earlier start of this node.
    start_before: Option<u64>,
    /// When its last whole answer was asked for, and since when it has not answered.
    digest_at: EngineTime,
    missed: u32,
    /// Seconds since its last whole answer, as far as this node ran.
    waited: f64,
    /// The last poll brought a part of an answer.
    is_paging: bool,
    pub(super) lost_at: Option<EngineTime>,
    /// It has answered, or not answered for long enough.
    pub(super) is_known: bool,
    /// Its targets, and whether it can reach each.
    pub(super) targets: BTreeMap<CompactString, bool>,
    pub(super) is_leaving: bool,
    /// It is a node of a cluster that judges nobody.
    pub(super) listens_only: bool,
    /// It is no member of the cluster any more. It counts as lost, which is no alarm.
    pub(super) is_former: bool,
    /// It has this node's own name.
    pub(super) is_namesake: bool,
    /// It says that it notifies some target.
    pub(super) speaks: bool,
    /// Why its last poll had no whole answer, in words.
    pub(super) trouble: Option<CompactString>,
    /// What it holds open, and what it saw the end of, and when.
    pub(super) open: BTreeMap<AlertKey, Held>,
    pub(super) closed: BTreeMap<AlertKey, Closed>,
    /// What it held open before it began to tell everything anew, and has not told again.
    stale: BTreeSet<AlertKey>,
    /// The alarm that it is gone, as it was reported.
    pub(super) alarm: Option<[CompactString; 2]>,
    pub(super) refused: u64,
}

impl Peer {
    pub(super) fn new(url: &str, node: Option<CompactString>, now: EngineTime) -> Peer {
        Peer {
            url: url.to_string(),
            node,
            cursor: None,
            start_before: None,
            digest_at: now,
            missed: 0,
            waited: 0.0,
            is_paging: false,
            lost_at: None,
            is_known: false,
            targets: BTreeMap::new(),
            is_leaving: false,
            listens_only: false,
            is_former: false,
            is_namesake: false,
            speaks: false,
            trouble: None,
            open: BTreeMap::new(),
            closed: BTreeMap::new(),
            stale: BTreeSet::new(),
            alarm: None,
            refused: 0,
        }
    }

    /// The same; this start of it had answered an earlier start of this node.
    pub(super) fn started_before(self, start_before: Option<u64>) -> Peer {
        Peer { start_before, ..self }
    }

    /// Which start of it has answered last.
    pub(super) fn last_start(&self) -> Option<u64> {
        self.cursor.map(|cursor| cursor.start).or(self.start_before)
    }

    /// Whether another start of it answers than the one that had answered an earlier start of this node; asked once.
    pub(super) fn has_started_again(&mut self) -> bool {
        let before = self.start_before.take();
        before.is_some_and(|before| self.last_start() != Some(before))
    }

    /// Its name, or where it is.
    pub(super) fn name(&self) -> &str {
        self.node.as_deref().unwrap_or(&self.url)
    }

    pub(super) fn answers(&self) -> bool {
        self.lost_at.is_none()
    }

    /// Seconds since its last whole answer was asked for.
    pub(super) fn age(&self, now: EngineTime) -> f64 {
        now - self.digest_at
    }

    /// Whether this node may judge as far as this peer is concerned: it knows what the peer heard up to now, or that it
    /// will not. `is_late`: fresher answers were waited for.
    pub(super) fn lets_judge(&self, now: EngineTime, is_late: bool) -> bool {
        !self.answers() || self.is_known && (is_late || self.age(now) <= FRESH_SECS)
    }

    /// Whether it is a node of this name that answers now. What it was called before it was lost says nothing.
    pub(super) fn is_answering_as(&self, node: &str) -> bool {
        self.is_known && self.answers() && self.node.as_deref() == Some(node)
    }

    /// Takes what an answer says of the peer itself.
    pub(super) fn begin(&mut self, digest: &Digest, cursor: Cursor) {
        if digest.whole {
            self.stale = self.open.keys().cloned().collect();
            self.closed.clear();
        }
        (self.node, self.cursor) = (Some(digest.node.clone()), Some(cursor));
        (self.targets, self.is_leaving, self.is_namesake) = (digest.targets.clone(), digest.leaving, false);
        (self.speaks, self.listens_only) = (digest.speaks, digest.listens_only);
    }

    /// All of an answer is taken; whether it answers again, or for the first time.
    pub(super) fn finish(&mut self, asked: EngineTime, digest: &Digest) -> bool {
        if digest.more {
            return false;
        }
        for key in std::mem::take(&mut self.stale) {
            self.open.remove(&key);
        }
        let is_first = !std::mem::replace(&mut self.is_known, true);
        self.digest_at = asked;
        self.trouble = None;
        (self.missed, self.waited, self.is_paging) = (0, 0.0, false);
        self.lost_at.take().is_some() || is_first
    }

    /// Takes a problem as the peer has it; whether there is room for it. Its end counts for what this node knows.
    pub(super) fn take_problem(
        &mut self,
        row: &ProblemRow,
        is_known: bool,
        (now, unix): (EngineTime, UnixTime),
        held: &Holding,
    ) -> bool {
        match row.closed_age.filter(|_| is_known) {
            Some(age) => {
                let text = row.text[..row.text.floor_char_boundary(MOST_END)].to_string();
                self.closed.insert(row.key.clone(), Closed { at: now - age, text, ending: row.ending });
            }
            None => drop(self.closed.remove(&row.key)),
        }
        self.stale.remove(&row.key);
        if !row.open {
            self.open.remove(&row.key);
            return true;
        }
        let known = self.open.get(&row.key).map(|held| held.known);
        if known.is_none() {
            let bytes = (entry_bytes::<Held>(&row.key) + row.text.len()) as u64;
            if self.open.len() >= MOST_OPEN || held.would_exceed(bytes) {
                return false;
            }
            held.add(bytes);
        }
        let problem = Held { alarm: alarm_of(row, unix), since: now - row.age, known: known.unwrap_or(now) };
        self.open.insert(row.key.clone(), problem);
        true
    }

    /// It had no whole answer to a poll; whether it is lost by that.
    pub(super) fn miss(&mut self, why: Missed, now: EngineTime) -> bool {
        (self.is_paging, self.is_namesake) = (why == Missed::More, why == Missed::Namesake);
        self.missed = self.missed.saturating_add(1);
        self.missed >= MISSED_POLLS && self.lose(now)
    }

    /// Whether it has told something since this node started.
    pub(super) fn has_answered(&self) -> bool {
        self.cursor.is_some()
    }

    /// What is to be known of it beside that it does not answer a node.
    pub(super) fn context(&self, by: &CompactString, kind: PeerKind) -> PeerContext {
        PeerContext { peer: self.name().into(), by: by.clone(), why: self.trouble.clone(), kind, former: false }
    }

    /// This node has run for so many seconds.
    pub(super) fn wait(&mut self, secs: f64) {
        self.waited += secs;
    }

    /// Whether it is lost because nothing whole came of it for too long.
    pub(super) fn lose_if_silent(&mut self, now: EngineTime) -> bool {
        self.waited >= LOST_SECS && self.lose(now)
    }

    fn lose(&mut self, now: EngineTime) -> bool {
        if self.lost_at.is_some() {
            return false;
        }
        (self.lost_at, self.is_known) = (Some(now), true);
        // What it told may be out of date when it answers again.
        if let Some(cursor) = &mut self.cursor {
            cursor.changed = 0;
        }
        self.open.clear();
        self.closed.clear();
        self.stale.clear();
        true
    }

    /// If it does not answer, that begins now: nobody could be asked before.
    pub(super) fn begin_to_be_lost(&mut self, now: EngineTime) {
        if !self.is_former && self.lost_at.is_some() {
            self.lost_at = Some(now);
        }
    }

    /// The same, of a node that is new: it counts as lost until it answers, which holds up nobody.
    pub(super) fn not_heard_yet(self, now: EngineTime) -> Peer {
        Peer { is_known: true, lost_at: Some(now), ..self }
    }

    /// The same; it had said that it is leaving to an earlier start of this node.
    pub(super) fn leaving(self, is_leaving: bool) -> Peer {
        Peer { is_leaving, ..self }
    }

    /// One that was no member any more is one again, and has yet to answer.
    pub(super) fn come_back(&mut self, now: EngineTime) {
        (self.is_former, self.is_leaving, self.lost_at) = (false, false, Some(now));
    }

    /// For how many seconds it has been lost, if it is no member any more.
    pub(super) fn is_former_for(&self, now: EngineTime) -> Option<f64> {
        self.lost_at.filter(|_| self.is_former).map(|lost| now - lost)
    }

    /// The same; an earlier start had forgotten it.
    pub(super) fn forgotten(self, is_former: bool, now: EngineTime) -> Peer {
        let lost_at = if is_former { Some(now) } else { self.lost_at };
        Peer { is_former, is_known: is_former, lost_at, ..self }
    }

    /// Bytes that it takes.
    pub(super) fn heap_bytes(&self) -> usize {
        let open = self.open.iter().map(|(key, held)| entry_bytes::<Held>(key) + held.alarm.heap_bytes());
        let closed = self.closed.iter().map(|(key, seen)| entry_bytes::<Closed>(key) + seen.text.capacity());
        open.chain(closed).chain(self.stale.iter().map(entry_bytes::<()>)).sum()
    }

    /// Whether it is gone for so long that somebody is to know.
    pub(super) fn is_gone(&self, now: EngineTime) -> bool {
        let grace = match (self.is_leaving, self.is_paging) {
            (true, _) => LEAVING_GRACE,
            (false, true) => PAGING_GRACE,
            (false, false) => GRACE,
        };
        !self.is_former && self.lost_at.is_some_and(|lost| now - lost >= grace - f64::from(MISSED_POLLS) * POLL_SECS)
    }
}

/// Bytes of what is kept of a problem under its key, in a tree whose nodes are two thirds full.
pub(super) fn entry_bytes<T>(key: &AlertKey) -> usize {
    size_of::<(AlertKey, T)>() * 3 / 2 + key.heap_bytes()
}

/// A peer's problem as an alarm of ours.
pub(super) fn alarm_of(row: &ProblemRow, unix: UnixTime) -> Alarm {
    Alarm {
        key: row.key.clone(),
        severity: row.severity,
        text: row.text.clone(),
        since: unix - row.age,
        until: row.ends_in.map(|secs| unix + secs),
        state: AlertState::Firing,
    }
}
