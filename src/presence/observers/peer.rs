//! A peer as this node knows it: whether it answers, how it is, and what it holds open.

use std::collections::BTreeMap;

use compact_str::CompactString;

use crate::presence::Alarm;
use crate::presence::alert_book::{AlertKey, AlertState};
use crate::presence::time::{EngineTime, UnixTime};

use super::digest::{Cursor, Digest, ProblemRow};
use super::{FRESH_SECS, MISSED_POLLS, POLL_SECS};

/// A peer that does not answer for so long is an alarm, in seconds; and one that has said that it is leaving.
const GRACE: f64 = 10.0;
const LEAVING_GRACE: f64 = 300.0;

/// A problem as a peer has it.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) alarm: Alarm,
    /// When it began, and when this node first knew that the peer holds it open.
    pub(super) since: EngineTime,
    pub(super) known: EngineTime,
}

/// A peer.
#[derive(Debug)]
pub(super) struct Peer {
    /// Where it is, without what is secret.
    pub(super) url: String,
    /// Its name, once it has said it.
    pub(super) node: Option<CompactString>,
    /// Where to go on; `None` asks for everything.
    pub(super) cursor: Option<Cursor>,
    /// When its last whole answer was asked for, and since when it has not answered.
    digest_at: EngineTime,
    missed: u32,
    pub(super) lost_at: Option<EngineTime>,
    /// It has answered, or not answered for long enough.
    pub(super) is_known: bool,
    /// Its targets, and whether it can reach each.
    pub(super) targets: BTreeMap<CompactString, bool>,
    pub(super) is_leaving: bool,
    /// It has this node's own name.
    pub(super) is_namesake: bool,
    /// What it holds open, and what it saw the end of, and when.
    pub(super) open: BTreeMap<AlertKey, Held>,
    pub(super) closed: BTreeMap<AlertKey, EngineTime>,
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
            digest_at: now,
            missed: 0,
            lost_at: None,
            is_known: false,
            targets: BTreeMap::new(),
            is_leaving: false,
            is_namesake: false,
            open: BTreeMap::new(),
            closed: BTreeMap::new(),
            alarm: None,
            refused: 0,
        }
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
    /// will not.
    pub(super) fn lets_judge(&self, now: EngineTime) -> bool {
        !self.answers() || self.is_known && self.age(now) <= FRESH_SECS
    }

    /// Takes what an answer says of the peer itself; whether it answers again.
    pub(super) fn take(&mut self, asked: EngineTime, digest: &Digest, cursor: Cursor) -> bool {
        if digest.whole {
            self.open.clear();
            self.closed.clear();
        }
        (self.node, self.cursor) = (Some(digest.node.clone()), Some(cursor));
        (self.targets, self.is_leaving) = (digest.targets.clone(), digest.leaving);
        (self.missed, self.is_namesake) = (0, false);
        if digest.more {
            return false;
        }
        (self.digest_at, self.is_known) = (asked, true);
        self.lost_at.take().is_some()
    }

    /// Takes a problem as the peer has it.
    pub(super) fn take_problem(&mut self, row: &ProblemRow, now: EngineTime, unix: UnixTime) {
        match row.closed_age {
            Some(age) => drop(self.closed.insert(row.key.clone(), now - age)),
            None => drop(self.closed.remove(&row.key)),
        }
        if !row.open {
            self.open.remove(&row.key);
            return;
        }
        let known = self.open.get(&row.key).map_or(now, |held| held.known);
        let held = Held { alarm: alarm_of(row, unix), since: now - row.age, known };
        self.open.insert(row.key.clone(), held);
    }

    /// It did not answer; whether it is lost by that.
    pub(super) fn miss(&mut self, now: EngineTime) -> bool {
        self.missed = self.missed.saturating_add(1);
        if self.missed < MISSED_POLLS || self.lost_at.is_some() {
            return false;
        }
        (self.lost_at, self.is_known) = (Some(now), true);
        // What it told may be out of date when it answers again.
        if let Some(cursor) = &mut self.cursor {
            cursor.changed = 0;
        }
        self.open.clear();
        self.closed.clear();
        true
    }

    /// Whether it is gone for so long that somebody is to know.
    pub(super) fn is_gone(&self, now: EngineTime) -> bool {
        let grace = if self.is_leaving { LEAVING_GRACE } else { GRACE };
        self.lost_at.is_some_and(|lost| now - lost >= grace - f64::from(MISSED_POLLS) * POLL_SECS)
    }
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
