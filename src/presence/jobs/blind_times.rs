//! When we could not hear: our restarts and pauses, and seconds in which too much was dropped. A run that was due then may
//! have come. The same of peers, and when they did not answer.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::presence::time::EngineTime;

/// Most times that are remembered, and for how long, in seconds.
const MOST: usize = 1000;
const REMEMBERED_SECS: f64 = 8.0 * 86_400.0;

/// Times closer than this are one, in seconds: whole seconds that follow each other are.
const TOUCHING: f64 = 0.3;

/// When we could not hear, in order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(in crate::presence) struct BlindTimes(VecDeque<(EngineTime, EngineTime)>);

impl BlindTimes {
    /// We could not hear from `from` to `to`, which is not before the last one.
    pub(in crate::presence) fn note(&mut self, from: EngineTime, to: EngineTime) {
        while self.0.front().is_some_and(|(_, end)| *end < to - REMEMBERED_SECS) {
            self.0.pop_front();
        }
        if let Some((_, end)) = self.0.back_mut().filter(|(_, end)| from <= *end + TOUCHING) {
            *end = end.max(to);
            return;
        }
        if self.0.len() >= MOST {
            self.0.pop_front();
        }
        self.0.push_back((from, to));
    }

    pub(in crate::presence) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether we could not hear at some time between these.
    pub(in crate::presence) fn overlap(&self, from: EngineTime, to: EngineTime) -> bool {
        self.0.iter().rev().take_while(|(_, end)| *end > from).any(|(start, _)| *start < to)
    }

    /// The same of a time that had begun by `since` and went on then.
    fn overlap_since(&self, from: EngineTime, to: EngineTime, since: EngineTime) -> bool {
        let mut all = self.0.iter().rev().take_while(|(_, end)| *end > from.max(since));
        all.any(|(start, _)| *start < to && *start <= since)
    }

    /// For how many seconds between these we could not hear.
    fn secs(&self, from: EngineTime, to: EngineTime) -> f64 {
        let all = self.0.iter().rev().take_while(|(_, end)| *end > from);
        all.map(|(start, end)| (end.min(to) - start.max(from)).max(0.0)).sum()
    }

    /// Bytes that it takes beside itself.
    pub(in crate::presence) fn heap_bytes(&self) -> usize {
        crate::memory::vec_footprint::<(EngineTime, EngineTime)>(self.0.capacity())
    }
}

/// When what a peer heard is not known.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(in crate::presence) struct PeerBlindTimes {
    /// It dropped too much.
    dropped: BlindTimes,
    /// It did not answer.
    lost: BlindTimes,
    /// It did not answer, and an alarm said so.
    told: BlindTimes,
}

impl PeerBlindTimes {
    /// It dropped too much from `from` to `to`.
    pub(in crate::presence) fn note_dropped(&mut self, from: EngineTime, to: EngineTime) {
        self.dropped.note(from, to);
    }

    /// It has not answered since `since`; `is_told`: an alarm says so.
    pub(in crate::presence) fn note_lost(&mut self, since: EngineTime, now: EngineTime, is_told: bool) {
        self.lost.note(since, now);
        if is_told {
            self.told.note(since, now);
        }
    }

    /// For how many seconds between these it did not answer.
    pub(in crate::presence) fn secs_lost(&self, from: EngineTime, to: EngineTime) -> f64 {
        self.lost.secs(from, to)
    }

    /// Bytes that it takes beside itself.
    pub(in crate::presence) fn heap_bytes(&self) -> usize {
        self.dropped.heap_bytes() + self.lost.heap_bytes() + self.told.heap_bytes()
    }
}

/// A node that has heard a line, by when it could not hear.
#[derive(Clone, Copy)]
pub(in crate::presence) enum Ear<'a> {
    /// This one.
    Here(&'a BlindTimes),
    /// A peer.
    Peer(&'a PeerBlindTimes),
}

impl Ear<'_> {
    fn overlap(self, from: EngineTime, to: EngineTime) -> bool {
        match self {
            Ear::Here(blind) => blind.overlap(from, to),
            Ear::Peer(PeerBlindTimes { dropped, lost, .. }) => dropped.overlap(from, to) || lost.overlap(from, to),
        }
    }

    fn is_lost_still(self, from: EngineTime, to: EngineTime, since: EngineTime) -> bool {
        let Ear::Peer(PeerBlindTimes { lost, told, .. }) = self else { return false };
        told.overlap(from, to) || lost.overlap_since(from, to, since)
    }
}

/// When a line of a job may have been missed: by each of its last lines, when those could not hear who have heard that one.
#[derive(Clone, Copy)]
pub(in crate::presence) struct WhenBlind<'a>(&'a [Vec<Ear<'a>>]);

impl<'a> WhenBlind<'a> {
    /// By those who have heard each of the last lines.
    pub(in crate::presence) fn of(lines: &'a [Vec<Ear<'a>>]) -> WhenBlind<'a> {
        WhenBlind(lines)
    }

    /// Whether, for one of the lines, nobody who has heard it could hear at some time between these: so the next one may have
    /// been heard by nobody.
    pub(in crate::presence) fn overlap(self, from: EngineTime, to: EngineTime) -> bool {
        self.0.iter().any(|line| line.iter().all(|one| one.overlap(from, to)))
    }

    /// Whether, for one of the lines, only peers have heard it, and each was lost at some time between these: in a loss that
    /// went on at `since` already, or of which an alarm told.
    pub(in crate::presence) fn are_lost_still(self, from: EngineTime, to: EngineTime, since: EngineTime) -> bool {
        self.0.iter().any(|line| line.iter().all(|one| one.is_lost_still(from, to, since)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: f64) -> EngineTime {
        EngineTime::from_secs(secs)
    }

    #[test]
    fn a_peer_that_is_lost_again_is_no_longer_an_excuse_unless_that_is_told() {
        let mut peer = PeerBlindTimes::default();
        peer.note_lost(at(100.0), at(103.0), false);
        peer.note_lost(at(200.0), at(201.0), false);
        peer.note_lost(at(200.0), at(900.0), false);
        let own = BlindTimes::default();
        let lines = [vec![Ear::Peer(&peer)], vec![Ear::Here(&own), Ear::Peer(&peer)]];
        let when = WhenBlind::of(&lines);
        assert!(when.overlap(at(90.0), at(101.0)) && !when.overlap(at(104.0), at(200.0)));
        assert!(when.are_lost_still(at(300.0), at(400.0), at(250.0)));
        // Before it began, and after it was over.
        assert!(!when.are_lost_still(at(300.0), at(400.0), at(101.0)));
        assert!(!when.are_lost_still(at(90.0), at(110.0), at(104.0)));
        assert!(!WhenBlind::of(&lines[1..]).are_lost_still(at(300.0), at(400.0), at(250.0)));
        peer.note_dropped(at(1000.0), at(2000.0));
        peer.note_lost(at(200.0), at(900.0), true);
        let lines = [vec![Ear::Peer(&peer)]];
        let when = WhenBlind::of(&lines);
        assert!(when.are_lost_still(at(300.0), at(400.0), at(101.0)));
        assert!(when.overlap(at(1100.0), at(1200.0)) && !when.are_lost_still(at(1100.0), at(1200.0), at(1050.0)));
    }

    #[test]
    fn seconds_in_a_row_are_one_time_and_old_ones_are_forgotten() {
        let mut blind = BlindTimes::default();
        for n in 0..60 {
            blind.note(at(f64::from(n)), at(f64::from(n) + 1.0));
        }
        assert_eq!(blind.0, [(at(0.0), at(60.0))]);
        assert!(blind.overlap(at(59.0), at(70.0)) && blind.overlap(at(-5.0), at(0.5)));
        assert!(!blind.overlap(at(60.0), at(70.0)) && !blind.overlap(at(-5.0), at(0.0)));
        for n in 0..2 * MOST {
            blind.note(at(100.0 + 10.0 * n as f64), at(101.0 + 10.0 * n as f64));
        }
        assert_eq!(blind.0.len(), MOST);
        assert!(!blind.overlap(at(0.0), at(100.0)));
        blind.note(at(1e7), at(1e7 + 1.0));
        assert_eq!(blind.0.len(), 1);
    }
}
