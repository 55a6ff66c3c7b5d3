//! Runs: a service whose instances each beat once or twice and are gone, like those of a job that is started anew, under a
//! new name, again and again. Once that is known, a run that has ended is no outage; what is judged is whether the next one
//! comes.

use serde::{Deserialize, Serialize};

use super::time::EngineTime;

/// Runs that followed each other in the promised rhythm from which on a service is known as runs.
const KNOWN_AFTER: u32 = 2;

/// Whether a service is made of runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Runs {
    /// Instances that are no runs: they lived on after their second beat was due, or declare no interval of a run.
    #[serde(skip)]
    lasting: usize,
    /// How often one run followed another.
    #[serde(default)]
    successions: u32,
    /// The last time that it did.
    #[serde(default = "long_ago")]
    succeeded: EngineTime,
}

fn long_ago() -> EngineTime {
    EngineTime::LONG_AGO
}

impl Default for Runs {
    fn default() -> Runs {
        Runs { lasting: 0, successions: 0, succeeded: EngineTime::LONG_AGO }
    }
}

impl Runs {
    /// Counts an instance that lasts, or counts it no more; `true` if the first came or the last is gone.
    pub(super) fn count(&mut self, was_lasting: bool, is_lasting: bool) -> bool {
        let before = self.lasting;
        self.lasting = (self.lasting + usize::from(is_lasting)).saturating_sub(usize::from(was_lasting));
        (before == 0) != (self.lasting == 0)
    }

    /// Nobody is counted yet.
    pub(super) fn recount(&mut self) {
        self.lasting = 0;
    }

    /// Whether each instance may be a run.
    pub(super) fn are_all(&self) -> bool {
        self.lasting == 0
    }

    /// Whether each instance is known to be one.
    pub(super) fn are_known(&self) -> bool {
        self.is_rhythm() && self.are_all()
    }

    /// Whether runs have followed each other often enough.
    pub(super) fn is_rhythm(&self) -> bool {
        self.successions >= KNOWN_AFTER
    }

    /// A run came when the second beat of another one was due. Those that come together count once.
    pub(super) fn note_succession(&mut self, interval: f64, now: EngineTime) {
        if now - self.succeeded >= 0.5 * interval {
            self.successions = self.successions.saturating_add(1);
            self.succeeded = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_successions_make_runs_known_and_one_that_lasts_ends_that() {
        let mut runs = Runs::default();
        for (secs, known) in [(60.0, false), (61.0, false), (120.0, true)] {
            runs.note_succession(60.0, EngineTime::from_secs(secs));
            assert_eq!(runs.are_known(), known, "{secs}");
        }
        assert!(runs.count(false, true) && !runs.are_known());
        assert!(runs.count(true, false) && runs.are_known());
    }
}
