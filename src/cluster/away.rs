//! When a missing batch is excused: normally some seconds after the end of the interval, by the clock of the bus. But not
//! while the bus, or we, were away: what edges could not send is not late. Then an owner catches up, and waits for as long
//! as overdue batches keep coming. It does so for some seconds at least, also when nothing is overdue yet: if the bus comes
//! back a second before a deadline, edges have no more than that second.

/// Without an overdue batch for so many seconds nothing more is waited for. Catching up takes so long at least.
const STALL_SECS: f64 = 10.0;

/// Catching up ends after so many seconds at most.
pub(super) const MOST_SECS: f64 = 900.0;

/// A gap between two answers of the log of more than this means that we were away.
const MOST_GAP_SECS: f64 = 3.0;

/// Whether we catch up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Away {
    catching_up: Option<CatchingUp>,
    /// Whether a deadline was over when it was looked at last.
    is_overdue: bool,
    /// When the log answered last.
    answered: f64,
}

#[derive(Clone, Copy, Debug)]
struct CatchingUp {
    since: f64,
    /// When an overdue batch came last.
    progress: f64,
}

impl Away {
    /// Somebody who has just taken over was away until now.
    pub(super) fn new(now: f64) -> Away {
        Away { catching_up: Some(CatchingUp { since: now, progress: now }), is_overdue: true, answered: now }
    }

    /// The log has answered.
    pub(super) fn answered(&mut self, now: f64) {
        if now - self.answered > MOST_GAP_SECS {
            self.catching_up = Some(CatchingUp { since: now, progress: now });
        }
        self.answered = now;
    }

    /// A batch has come of an interval whose deadline was over when it was stored.
    pub(super) fn overdue_batch(&mut self, now: f64) {
        if let Some(catching_up) = &mut self.catching_up {
            catching_up.progress = now;
        }
    }

    /// Whether an interval is waited for no longer, which had its deadline at `deadline`; `bus` is the time of the bus.
    pub(super) fn is_due(&mut self, deadline: f64, interval_secs: f64, bus: f64, now: f64) -> bool {
        self.is_overdue = bus >= deadline;
        if !self.is_overdue {
            // Level with the present again.
            self.catching_up.take_if(|one| now - one.since >= STALL_SECS);
            return false;
        }
        if self.catching_up.is_none() && bus - deadline > 2.0 * interval_secs {
            self.catching_up = Some(CatchingUp { since: now, progress: now });
        }
        self.catching_up.is_none_or(|one| now >= (one.since + MOST_SECS).min(one.progress + STALL_SECS))
    }

    /// Whether missing batches are waited for beyond their deadline.
    pub(super) fn is_catching_up(&self) -> bool {
        self.is_overdue && self.catching_up.is_some()
    }

    /// For how long we have been back: silence before that is not an edge's.
    pub(super) fn back_for(&self, now: f64) -> Option<f64> {
        self.catching_up.map(|one| now - one.since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_due_while_overdue_batches_come() {
        let mut away = Away::new(0.0);
        assert!(!away.is_due(1000.0, 10.0, 1005.0, 5.0));
        away.overdue_batch(8.0);
        assert!(!away.is_due(1000.0, 10.0, 1017.9, 17.9));
        assert!(away.is_due(1000.0, 10.0, 1018.0, 18.0));
        // They are waited for a quarter of an hour at most.
        away.overdue_batch(899.0);
        assert!(away.is_due(1000.0, 10.0, 1900.0, 900.0));
    }

    #[test]
    fn who_is_level_with_the_present_excuses_at_the_deadline() {
        let mut away = Away::new(0.0);
        assert!(away.is_catching_up() && !away.is_due(1000.0, 10.0, 999.0, 10.0) && !away.is_catching_up());
        assert!(away.is_due(1000.0, 10.0, 1000.0, 11.0));
        assert_eq!(away.back_for(11.0), None);
    }

    #[test]
    fn who_comes_back_just_before_a_deadline_waits_beyond_it() {
        let mut away = Away::new(0.0);
        assert!(!away.is_due(1000.0, 10.0, 999.0, 9.0));
        assert!(!away.is_due(1000.0, 10.0, 999.9, 9.9) && !away.is_due(1000.0, 10.0, 1000.0, 9.99));
        assert!(away.is_catching_up() && away.is_due(1000.0, 10.0, 1001.0, 10.0));
    }

    #[test]
    fn a_gap_in_reading_or_intervals_behind_mean_catching_up() {
        let level = |mut away: Away| {
            away.is_due(1000.0, 10.0, 999.0, 0.0);
            away
        };
        let mut away = level(Away::new(-10.0));
        away.answered(-7.0);
        away.answered(-4.0);
        assert_eq!(away.back_for(-4.0), None);
        away.answered(-0.9);
        assert_eq!(away.back_for(0.1), Some(1.0));
        let mut away = level(Away::new(-10.0));
        assert!(away.is_due(1000.0, 10.0, 1020.0, 22.0));
        assert!(!away.is_due(1000.0, 10.0, 1020.1, 22.1));
    }
}
