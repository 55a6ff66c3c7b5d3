//! A crash loop under new ids: instances that come, die young and are followed by others. It is one flapping of their
//! service, not a warning for each of them.
//!
//! A *crash* is a down of an id that never left or went down before and whose last beat came less than [`YOUNG`] after its
//! first. The third within half an hour, of an id that was registered after the last beat of the first of them, begins a
//! loop: ids that die side by side are none. It is over ten minutes after the last crash. tests/oracle/presence_model.py
//! (R33) says what that could hide and what bounds it.

use serde::{Deserialize, Serialize};

use super::policy::Policy;
use super::time::EngineTime;

/// An instance is young for so long, in seconds.
pub(super) const YOUNG: f64 = 300.0;

/// Crashes that are remembered.
const REMEMBERED: usize = 16;

/// A young instance that went down.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Crash {
    at: EngineTime,
    last_beat: EngineTime,
}

/// The crashes of a service, and whether they are a loop.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct CrashLoop {
    crashes: Vec<Crash>,
    /// When the first crash of the loop was that it is in.
    since: Option<EngineTime>,
}

impl CrashLoop {
    pub(super) fn is_on(&self) -> bool {
        self.since.is_some()
    }

    /// Notes a crash of an instance that was heard from `first` to `last_beat`; whether it is one of a loop.
    pub(super) fn note(&mut self, first: EngineTime, last_beat: EngineTime, now: EngineTime, policy: &Policy) -> bool {
        self.crashes.retain(|crash| crash.at > now - policy.flap_within);
        if self.crashes.len() == REMEMBERED {
            self.crashes.remove(0);
        }
        self.crashes.push(Crash { at: now, last_beat });
        let oldest = self.crashes[0];
        if self.since.is_none() && self.crashes.len() >= policy.flap_count && first > oldest.last_beat {
            self.since = Some(oldest.at);
        }
        self.is_on()
    }

    /// Ends the loop; when it began.
    pub(super) fn end(&mut self) -> Option<EngineTime> {
        self.crashes.clear();
        self.since.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: f64) -> EngineTime {
        EngineTime::from_secs(secs)
    }

    #[test]
    fn the_third_crash_of_ids_that_follow_each_other_is_a_loop() {
        let (mut crashes, policy) = (CrashLoop::default(), Policy::default());
        assert!(!crashes.note(at(0.0), at(10.0), at(55.0), &policy));
        assert!(!crashes.note(at(60.0), at(70.0), at(115.0), &policy));
        assert!(crashes.note(at(120.0), at(130.0), at(175.0), &policy));
        assert!(crashes.note(at(180.0), at(190.0), at(235.0), &policy));
        assert_eq!((crashes.end(), crashes.is_on()), (Some(at(55.0)), false));
    }

    #[test]
    fn ids_that_die_side_by_side_or_rarely_are_no_loop() {
        let (mut crashes, policy) = (CrashLoop::default(), Policy::default());
        for n in 0..40 {
            assert!(!crashes.note(at(f64::from(n) / 10.0), at(10.0), at(55.0), &policy));
        }
        assert_eq!(crashes.crashes.len(), REMEMBERED);
        let mut rare = CrashLoop::default();
        for n in 0..5 {
            let first = 1000.0 * f64::from(n);
            assert!(!rare.note(at(first), at(first + 10.0), at(first + 55.0), &policy));
        }
    }
}
