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

    /// Whether we could not hear at some time between these.
    pub(in crate::presence) fn overlap(&self, from: EngineTime, to: EngineTime) -> bool {
        self.0.iter().rev().take_while(|(_, end)| *end > from).any(|(start, _)| *start < to)
    }

    /// Bytes that it takes beside itself.
    pub(in crate::presence) fn heap_bytes(&self) -> usize {
        crate::memory::vec_footprint::<(EngineTime, EngineTime)>(self.0.capacity())
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
