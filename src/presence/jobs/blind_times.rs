//! When we could not hear: our restarts and pauses, and seconds in which too much was dropped. A run that was due then may
//! have come.

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

    /// Bytes that it takes beside itself.
    pub(in crate::presence) fn heap_bytes(&self) -> usize {
        crate::memory::vec_footprint::<(EngineTime, EngineTime)>(self.0.capacity())
    }
}

/// When a line of a job may have been missed: by each of its last lines, when those could not hear who have heard that one.
#[derive(Clone, Copy)]
pub(in crate::presence) struct WhenBlind<'a>(&'a [(Vec<&'a BlindTimes>, bool)]);

impl<'a> WhenBlind<'a> {
    /// By the last lines: those who have heard each, and whether this node is not among them.
    pub(in crate::presence) fn of(lines: &'a [(Vec<&'a BlindTimes>, bool)]) -> WhenBlind<'a> {
        WhenBlind(lines)
    }

    /// Whether, for one of the lines, nobody who has heard it could hear at some time between these: so the next one may have
    /// been heard by nobody.
    pub(in crate::presence) fn overlap(self, from: EngineTime, to: EngineTime) -> bool {
        self.0.iter().any(|(line, _)| line.iter().all(|one| one.overlap(from, to)))
    }

    /// The same, if this node was not among them: what only a lost peer may have heard is hidden as long as its own alarm
    /// stands for it.
    pub(in crate::presence) fn overlap_elsewhere(self, from: EngineTime, to: EngineTime) -> bool {
        self.0.iter().any(|(line, by_peers)| *by_peers && line.iter().all(|one| one.overlap(from, to)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: f64) -> EngineTime {
        EngineTime::from_secs(secs)
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
