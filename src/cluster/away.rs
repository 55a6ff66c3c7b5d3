//! When a missing batch is excused: normally some seconds after the end of the interval, by the clock of the bus. But not
//! while the bus, or we, were away: what edges could not send is not late. Then an owner catches up, and waits for as long
//! as overdue batches keep coming.

/// Without an overdue batch for so many seconds nothing more is waited for.
const STALL_SECS: f64 = 10.0;

/// Catching up ends after so many seconds at most.
const MOST_SECS: f64 = 900.0;

/// A gap between two answers of the log of more than this means that we were away.
const MOST_GAP_SECS: f64 = 3.0;

/// Whether we catch up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Away {
    catching_up: Option<CatchingUp>,
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
        Away { catching_up: Some(CatchingUp { since: now, progress: now }), answered: now }
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
        if bus < deadline {
            // Level with the present again.
            self.catching_up = None;
            return false;
        }
        if self.catching_up.is_none() && bus - deadline > 2.0 * interval_secs {
            self.catching_up = Some(CatchingUp { since: now, progress: now });
        }
        self.catching_up.is_none_or(|one| now >= (one.since + MOST_SECS).min(one.progress + STALL_SECS))
    }

    /// Whether missing batches are waited for beyond their deadline.
    pub(super) fn is_catching_up(&self) -> bool {
        self.catching_up.is_some()
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
        assert!(!away.is_due(1000.0, 10.0, 999.0, 1.0));
        assert!(away.is_due(1000.0, 10.0, 1000.0, 2.0));
        assert_eq!(away.back_for(2.0), None);
    }

    #[test]
    fn a_gap_in_reading_or_intervals_behind_mean_catching_up() {
        let mut away = Away::new(0.0);
        away.is_due(1000.0, 10.0, 999.0, 1.0);
        away.answered(3.0);
        assert_eq!(away.back_for(3.0), None);
        away.answered(6.1);
        assert_eq!(away.back_for(7.1), Some(1.0));
        let mut away = Away::new(0.0);
        away.is_due(1000.0, 10.0, 999.0, 1.0);
        assert!(away.is_due(1000.0, 10.0, 1020.0, 22.0));
        assert!(!away.is_due(1000.0, 10.0, 1020.1, 22.1));
    }
}
