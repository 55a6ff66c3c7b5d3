//! What this node itself has heard, and what its peers have: the evidence behind a view that several observers share.
//!
//! What is heard here gets a number, so that a peer that asks twice a second is told only what is new to it. An instance
//! that a lost peer alone had heard is *unwatched*: its silence says nothing of it.

use std::collections::{BTreeSet, HashMap, VecDeque};

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use crate::memory::{map_footprint, vec_footprint};
use crate::protocol::Heartbeat;

use super::announced::Announced;
use super::job_lines::{HeardBy, JobLines, JobName};
use super::jobs::PeerBlindTimes;
use super::roster::InstanceId;
use super::time::EngineTime;

/// Numbers that are out of date may be as many as those that are not, and these.
const OUTDATED: usize = 1024;

/// What operators did that may wait to be told to peers.
pub(super) const MOST_ACTS: usize = 1000;

/// Seconds in which too much was dropped that may wait to be told to peers.
pub(super) const MOST_DROPPED: usize = 100;

/// What an operator has done.
#[derive(Clone, Debug, PartialEq)]
pub struct Act {
    /// When.
    pub at: EngineTime,
    /// To which service.
    pub service: CompactString,
    /// To which instance; without one to all of it.
    pub instance: Option<CompactString>,
    /// Maintenance of so many seconds; without it, it was forgotten.
    pub maintenance: Option<f64>,
    /// What was said of that.
    pub announced: Announced,
}

/// What is known of who heard an instance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Entry {
    /// Last beat here.
    pub(super) here: EngineTime,
    /// Last goodbye here.
    pub(super) left_here: EngineTime,
    /// Last beat that a peer has heard, and which one.
    pub(super) elsewhere: EngineTime,
    pub(super) peer: u16,
    /// Number of the last that was heard here; 0 is none.
    number: u64,
}

impl Default for Entry {
    fn default() -> Entry {
        let never = EngineTime::LONG_AGO;
        Entry { here: never, left_here: never, elsewhere: never, peer: 0, number: 0 }
    }
}

impl Entry {
    /// Nothing of it was ever heard here.
    pub(super) fn is_not_from_here(&self) -> bool {
        self.number == 0
    }
}

/// That a peer alone had heard an instance, as it survives a restart.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct HeardElsewhere {
    /// Place of the instance among all, in the order of services and then of registrations.
    pub(super) place: u32,
    pub(super) peer: u16,
    /// When it heard it last.
    pub(super) at: EngineTime,
    /// Seconds in which nobody watched it since.
    pub(super) unwatched_s: f64,
}

/// What an earlier start knew of its peers, and until when it asked them.
#[derive(Debug, Default)]
pub(super) struct Before {
    pub(super) heard: Vec<(InstanceId, HeardElsewhere)>,
    pub(super) peer_blind: Vec<PeerBlindTimes>,
    pub(super) until: EngineTime,
}

/// A peer that does not answer.
#[derive(Debug)]
pub(super) struct Lost {
    pub(super) peer: u16,
    /// Since when what it hears is not known.
    pub(super) since: EngineTime,
    /// An alarm says so.
    pub(super) is_told: bool,
    /// Whom it alone had heard, and for how many seconds that is blind time already.
    pub(super) unwatched: HashMap<InstanceId, f64>,
    /// How many there were at first.
    pub(super) size: usize,
}

impl Lost {
    /// Whether more than half of them have been heard by somebody else.
    pub(super) fn is_dispersed(&self) -> bool {
        2 * (self.size - self.unwatched.len().min(self.size)) > self.size
    }
}

/// What was heard, by whom.
#[derive(Debug)]
pub(super) struct Evidence {
    /// By the places of instances.
    entries: Vec<Entry>,
    /// What was heard here, in the order of numbers; what was heard again since is out of date.
    log: VecDeque<(u64, InstanceId)>,
    numbered: usize,
    last_number: u64,
    /// When anything was last heard here.
    pub(super) last_here: EngineTime,
    pub(super) lost: Vec<Lost>,
    /// Whom a peer alone had heard when an earlier start ended, and for how many seconds nobody watched it by then; until
    /// that peer is heard of.
    pub(super) restored: HashMap<InstanceId, f64>,
    /// Up to when blind time was counted.
    pub(super) followed: EngineTime,
    /// When deafness was last looked for, and warned of.
    pub(super) listened_at: EngineTime,
    pub(super) deaf_at: EngineTime,
    /// This node judges nobody.
    pub(super) listens_only: bool,
    /// What operators did, and peers are not told of yet.
    pub(super) acts: Vec<Act>,
    /// The same of seconds in which too much was dropped here.
    pub(super) dropped: Vec<EngineTime>,
    /// Lines of jobs, and when each peer could not hear.
    pub(super) jobs: JobLines,
    pub(super) peer_blind: Vec<PeerBlindTimes>,
    /// Peers that have answered since this start, and until when an earlier one has asked them.
    answered: BTreeSet<u16>,
    asked_before: EngineTime,
}

impl Evidence {
    /// Nothing was heard since this start.
    pub(super) fn new(before: Before, now: EngineTime) -> Evidence {
        let mut evidence = Evidence {
            entries: Vec::new(),
            log: VecDeque::new(),
            numbered: 0,
            last_number: 0,
            last_here: EngineTime::LONG_AGO,
            lost: Vec::new(),
            restored: HashMap::new(),
            followed: now,
            listened_at: EngineTime::LONG_AGO,
            deaf_at: EngineTime::LONG_AGO,
            listens_only: false,
            acts: Vec::new(),
            dropped: Vec::new(),
            jobs: JobLines::default(),
            peer_blind: before.peer_blind,
            answered: BTreeSet::new(),
            asked_before: before.until,
        };
        for (id, heard) in before.heard {
            evidence.restore(id, heard);
        }
        evidence
    }
}

impl Evidence {
    /// Bytes that it takes.
    pub(super) fn heap_bytes(&self) -> usize {
        let unwatched = self.lost.iter().map(|lost| &lost.unwatched).chain([&self.restored]);
        let unwatched = unwatched.map(|ids| map_footprint::<InstanceId, f64>(ids.capacity()));
        vec_footprint::<Entry>(self.entries.capacity())
            + vec_footprint::<(u64, InstanceId)>(self.log.capacity())
            + self.jobs.heap_bytes()
            + self.peer_blind.iter().map(PeerBlindTimes::heap_bytes).sum::<usize>()
            + unwatched.sum::<usize>()
            + vec_footprint::<Act>(self.acts.capacity())
    }

    /// What is known of an instance.
    pub(super) fn of(&self, id: InstanceId) -> Entry {
        self.entries.get(id.place() as usize).copied().unwrap_or_default()
    }

    fn entry(&mut self, id: InstanceId) -> &mut Entry {
        let place = id.place() as usize;
        if self.entries.len() <= place {
            self.entries.resize(place + 1, Entry::default());
        }
        &mut self.entries[place]
    }

    /// A beat was heard here.
    pub(super) fn note_here(&mut self, id: InstanceId, at: EngineTime) {
        self.entry(id).here = at;
        self.last_here = at;
        self.number(id);
    }

    /// A goodbye was heard here.
    pub(super) fn note_left_here(&mut self, id: InstanceId, at: EngineTime) {
        self.entry(id).left_here = at;
        self.last_here = at;
        self.number(id);
    }

    /// A line of a job was heard here. One that says what is known already takes no place of another.
    pub(super) fn note_job_line(&mut self, job: JobName, at: EngineTime, beat: &Heartbeat) {
        self.last_here = at;
        let is_new = self.jobs.note_heard_here(self.last_number + 1, job, at, beat);
        self.last_number += u64::from(is_new);
    }

    /// A peer has heard one that is not known.
    pub(super) fn note_job_line_elsewhere(&mut self, job: JobName, (at, peer): (EngineTime, u16), beat: &Heartbeat) {
        self.last_number += 1;
        self.jobs.note_heard(self.last_number, job, (at, HeardBy::Peer(peer)), beat);
    }

    /// When what a peer heard is not known.
    pub(super) fn peer_blind_mut(&mut self, peer: u16) -> &mut PeerBlindTimes {
        let peer = usize::from(peer);
        if self.peer_blind.len() <= peer {
            self.peer_blind.resize(peer + 1, PeerBlindTimes::default());
        }
        &mut self.peer_blind[peer]
    }

    /// A peer has answered.
    pub(super) fn note_answer(&mut self, peer: u16) {
        self.answered.insert(peer);
    }

    /// Until when it is known what a peer has heard that does not answer: until now, or, if it has not answered since this
    /// start, until an earlier one ended.
    pub(super) fn known_until(&self, peer: u16, now: EngineTime) -> EngineTime {
        if self.answered.contains(&peer) { now } else { self.asked_before }
    }

    /// A peer has heard a beat.
    pub(super) fn note_elsewhere(&mut self, id: InstanceId, peer: u16, at: EngineTime) {
        let entry = self.entry(id);
        if at >= entry.elsewhere {
            (entry.elsewhere, entry.peer) = (at, peer);
        }
    }

    fn number(&mut self, id: InstanceId) {
        self.last_number += 1;
        let number = self.last_number;
        let before = std::mem::replace(&mut self.entry(id).number, number);
        self.numbered += usize::from(before == 0);
        self.log.push_back((number, id));
        if self.log.len() > 2 * self.numbered + OUTDATED {
            let entries = &self.entries;
            self.log.retain(|&(number, id)| entries[id.place() as usize].number == number);
        }
    }

    /// An instance is forgotten: its place may be another's.
    pub(super) fn forget(&mut self, id: InstanceId) {
        if let Some(entry) = self.entries.get_mut(id.place() as usize) {
            self.numbered -= usize::from(entry.number != 0);
            *entry = Entry::default();
        }
        self.restored.remove(&id);
        self.watch_again(id);
    }

    /// An earlier start knew that a peer alone had heard an instance.
    fn restore(&mut self, id: InstanceId, heard: HeardElsewhere) {
        self.note_elsewhere(id, heard.peer, heard.at);
        self.restored.insert(id, heard.unwatched_s);
    }

    /// Peers have other places now: whom one had heard that is none any more, nobody had.
    pub(super) fn renumber(&mut self, place_of: impl Fn(u16) -> Option<u16>) -> Vec<InstanceId> {
        for (blind, before) in std::mem::take(&mut self.peer_blind).into_iter().zip(0..) {
            if let Some(peer) = place_of(before) {
                *self.peer_blind_mut(peer) = blind;
            }
        }
        let mut gone = Vec::new();
        for id in self.restored.keys().copied().collect::<Vec<_>>() {
            let entry = self.entry(id);
            match place_of(entry.peer) {
                Some(peer) => entry.peer = peer,
                None => {
                    entry.elsewhere = EngineTime::LONG_AGO;
                    self.restored.remove(&id);
                    gone.push(id);
                }
            }
        }
        gone
    }

    /// Takes out what an earlier start knew of a peer.
    pub(super) fn take_restored(&mut self, peer: u16) -> Vec<(InstanceId, f64)> {
        let entries = &self.entries;
        let is_its = |id: &InstanceId| entries.get(id.place() as usize).is_some_and(|entry| entry.peer == peer);
        let (its, others): (HashMap<InstanceId, f64>, _) =
            std::mem::take(&mut self.restored).into_iter().partition(|(id, _)| is_its(id));
        self.restored = others;
        its.into_iter().collect()
    }

    /// Somebody unwatched was heard, or is forgotten.
    pub(super) fn watch_again(&mut self, id: InstanceId) {
        for lost in &mut self.lost {
            lost.unwatched.remove(&id);
        }
    }

    /// Who was heard here after a number, in the order of numbers.
    pub(super) fn since(&self, number: u64) -> impl Iterator<Item = (u64, InstanceId)> {
        let first = self.log.partition_point(|&(known, _)| known <= number);
        self.log.range(first..).copied().filter(|&(known, id)| self.of(id).number == known)
    }

    /// The number of the last that was heard here.
    pub(super) fn last_number(&self) -> u64 {
        self.last_number
    }

    /// Whether a peer answers.
    pub(super) fn is_lost(&self, peer: u16) -> bool {
        self.lost.iter().any(|lost| lost.peer == peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: f64) -> EngineTime {
        EngineTime::from_secs(secs)
    }

    #[test]
    fn who_asks_is_given_what_is_new_and_each_once() {
        let mut evidence = Evidence::new(Before::default(), at(0.0));
        let ids: Vec<InstanceId> = (0..5).map(InstanceId::from_place).collect();
        for &id in &ids {
            evidence.note_here(id, at(1.0));
        }
        evidence.note_here(ids[0], at(2.0));
        let since = |evidence: &Evidence, number| evidence.since(number).map(|(_, id)| id).collect::<Vec<_>>();
        assert_eq!(since(&evidence, 0), [ids[1], ids[2], ids[3], ids[4], ids[0]]);
        assert_eq!(since(&evidence, 4), [ids[4], ids[0]]);
        let number = evidence.last_number();
        assert_eq!((since(&evidence, number), number), (Vec::new(), 6));
        evidence.note_left_here(ids[2], at(3.0));
        evidence.forget(ids[4]);
        assert_eq!(since(&evidence, number), [ids[2]]);
        assert_eq!(since(&evidence, 0), [ids[1], ids[3], ids[0], ids[2]]);
    }

    #[test]
    fn the_log_stays_in_proportion_to_who_is_known() {
        let mut evidence = Evidence::new(Before::default(), at(0.0));
        for n in 0..100_000_u32 {
            evidence.note_here(InstanceId::from_place(n % 7), at(f64::from(n)));
        }
        assert!(evidence.log.len() <= 2 * 7 + OUTDATED, "{}", evidence.log.len());
        assert_eq!(evidence.since(0).count(), 7);
    }
}
