//! What the log would say in each interval: it says it once, and then every few minutes how much of it there was.

use std::collections::BTreeMap;

/// How long a thing is only counted after it was said, in seconds.
const WINDOW: f64 = 300.0;

/// So many times as much as was said is worth saying before that.
const MUCH_MORE: u64 = 10;

/// Most things that are told apart: some of their names come from the wire.
const MOST: usize = 64;

/// All beyond these.
const OTHERS: &str = "further warnings";

/// A thing that was said.
#[derive(Clone, Copy, Debug)]
struct Logged {
    at: f64,
    /// How much of it there was.
    said: u64,
    /// How much of it came since then.
    held: u64,
}

/// What was said lately.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    said: BTreeMap<String, Logged>,
    /// On a clock that never steps, seconds.
    now: f64,
}

impl Repeats {
    /// Begins with what an interval has to say.
    pub(super) fn begin(&mut self, now: f64) {
        self.now = now;
    }

    /// Whether a thing is to be said now. Else it is counted for the next sum.
    pub(super) fn is_new(&mut self, what: &str, count: u64) -> bool {
        let is_known = self.said.contains_key(what);
        let what = if is_known || self.said.len() < MOST { what } else { OTHERS };
        if let Some(said) = self.said.get_mut(what) {
            said.held += count;
            return false;
        }
        self.said.insert(what.to_string(), Logged { at: self.now, said: count, held: 0 });
        true
    }

    /// How much of a thing is to be said now: it is new, or much more has come since it was said.
    pub(super) fn due_now(&mut self, what: &str, count: u64) -> Option<u64> {
        if self.is_new(what, count) {
            return Some(count);
        }
        let said = self.said.get_mut(what).filter(|said| said.held >= said.said.saturating_mul(MUCH_MORE))?;
        *said = Logged { at: self.now, said: said.held, held: 0 };
        Some(said.said)
    }

    /// Ends an interval: the sums that are due, all of them at the last one. What did not come again is new the next time.
    fn due(&mut self, is_last: bool) -> Vec<(String, u64, f64)> {
        let (now, mut due) = (self.now, Vec::new());
        self.said.retain(|what, said| {
            let secs = now - said.at;
            if secs < WINDOW && !is_last {
                return true;
            }
            if said.held == 0 {
                return false;
            }
            due.push((what.clone(), said.held, secs));
            *said = Logged { at: now, said: said.held, held: 0 };
            true
        });
        due
    }

    /// Logs what [`Repeats::due`] has.
    pub(super) fn log(&mut self, is_last: bool) {
        for (what, count, secs) in self.due(is_last) {
            tracing::warn!(count, secs = secs.round(), "{what}: again since this was logged");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thing_is_said_once_then_summed_and_new_again_after_a_pause() {
        let mut repeats = Repeats::default();
        let mut said = Vec::new();
        for interval in 0..100 {
            let now = f64::from(interval) * 10.0;
            repeats.begin(now);
            if interval < 40 && repeats.is_new("malformed lines", 15) {
                said.push((now, 0));
            }
            said.extend(repeats.due(false).into_iter().map(|(_, held, _)| (now, held)));
        }
        // 30 intervals after the first, and 9 after these until the next sum.
        assert_eq!(said, [(0.0, 0), (300.0, 450), (600.0, 135)]);
        repeats.begin(1000.0);
        let said = [3, 20, 9, 100, 290, 10, 3000].map(|n| repeats.due_now("drops", n));
        assert_eq!(said, [Some(3), None, None, Some(129), None, None, Some(3300)]);
        assert_eq!(repeats.due(true), []);
        assert!(repeats.is_new("malformed lines", 1) && !repeats.is_new("malformed lines", 7));
        assert_eq!(repeats.due(true), [("malformed lines".to_string(), 7, 0.0)]);
        let new = (0..100).filter(|n| repeats.is_new(&format!("a tag {n}"), 1)).count();
        assert_eq!(new, MOST, "its own, and one for the others");
    }
}
