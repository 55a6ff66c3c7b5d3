//! What the account of a target of notifications says of it.

use super::NotifierAccount;

/// Reasons of what is given up here and yet told: by something newer, another observer, or the next start.
const TOLD_OTHERWISE: [&str; 2] = ["superseded", "shutdown"];

impl NotifierAccount {
    /// Notifications that nobody is told.
    pub fn lost(&self) -> u64 {
        self.dropped.iter().filter(|(reason, _)| !TOLD_OTHERWISE.contains(reason)).map(|(_, n)| n).sum()
    }

    /// Whether alerts do not arrive: the last attempt failed, and something was lost by that, waits, or would.
    pub fn is_failing(&self) -> bool {
        let is_any = !self.up || self.queued > 0 || self.has_lost();
        self.last_error.is_some() && self.failing_since > 0.0 && is_any
    }

    /// Whether something was lost since attempts fail.
    pub fn has_lost(&self) -> bool {
        self.last_loss > 0.0 && self.last_loss >= self.failing_since
    }

    /// What was lost since the start and what waits, in words.
    pub fn outstanding(&self) -> String {
        let waits = if self.queued == 1 { "waits" } else { "wait" };
        format!("{} lost, {} {waits}", self.lost(), self.queued)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_fails_while_its_last_attempt_did_and_somebody_is_not_told() {
        let failing = NotifierAccount {
            queued: 13,
            failing_since: 100.0,
            last_error: Some("it answers 404".into()),
            ..NotifierAccount::default()
        };
        assert!(failing.is_failing() && !failing.has_lost());
        // Nothing has waited for a quarter of an hour.
        let idle = NotifierAccount { queued: 0, up: true, ..failing.clone() };
        assert!(!idle.is_failing());
        let mut lost = NotifierAccount { last_loss: 100.0, ..idle };
        assert!(lost.is_failing() && lost.has_lost());
        for (reason, n) in [("refused", 2), ("queue_full", 1), ("superseded", 5), ("shutdown", 7)] {
            lost.dropped.count(reason, n);
        }
        assert_eq!((lost.lost(), lost.outstanding().as_str()), (3, "3 lost, 0 wait"));
        let delivered = NotifierAccount { last_error: None, failing_since: 0.0, ..lost };
        assert!(!delivered.is_failing());
    }
}
