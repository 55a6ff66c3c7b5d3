//! What was lost in the last hour, for those who did not look while it happened.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::telemetry::Ledger;

/// How long a loss is remembered, in seconds.
const REMEMBERED: f64 = 3600.0;

/// Losses with less between them, in seconds, are one.
const APART: f64 = 60.0;

/// A time in which data was lost.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LostTime {
    /// From the begin of the first interval that lost something to the end of the last, Unix seconds.
    pub began: f64,
    /// See `began`.
    pub ended: f64,
    /// Datagrams that the kernel dropped, and all that came to those listeners in the intervals that lost some.
    pub dropped: u64,
    /// See `dropped`.
    pub arrived: u64,
    /// The listener that lost most in an interval: its URL, how many, and its receive buffer in bytes.
    pub worst: (String, u64, u64),
    /// Values that a bound dropped.
    pub limited: u64,
    /// Records that sinks gave up, by the name of the sink.
    pub records: BTreeMap<String, u64>,
    /// Intervals that could not be merged.
    pub failed: u64,
}

impl LostTime {
    /// The share of datagrams that was lost, 0 to 1.
    pub fn share(&self) -> f64 {
        self.dropped as f64 / self.arrived.max(1) as f64
    }

    fn is_empty(&self) -> bool {
        self.dropped + self.limited + self.failed == 0 && self.records.is_empty()
    }
}

/// The times of the last hour that lost data, the oldest first: at most as many as lie [`APART`].
#[derive(Debug, Default)]
pub(super) struct Recent {
    all: Arc<[LostTime]>,
}

impl Recent {
    pub(super) fn all(&self) -> Arc<[LostTime]> {
        Arc::clone(&self.all)
    }

    /// Adds an interval that ended at `end` Unix seconds. `before` has what the sources had counted at its begin.
    pub(super) fn add(&mut self, ledger: &Ledger, before: &Ledger, end: f64, length_secs: f64) {
        let lost = lost(ledger, before, end, length_secs);
        // A clock that was set back leaves none in the future.
        let is_near = |known: &&LostTime| (end - known.ended).abs() < REMEMBERED;
        if lost.is_empty() && self.all.iter().all(|known| is_near(&known)) {
            return;
        }
        let mut all: Vec<LostTime> = self.all.iter().filter(is_near).cloned().collect();
        match all.last_mut() {
            _ if lost.is_empty() => {}
            Some(last) if lost.began - last.ended < APART => join(last, lost),
            _ => all.push(lost),
        }
        self.all = all.into();
    }
}

/// What an interval lost.
fn lost(ledger: &Ledger, before: &Ledger, end: f64, length_secs: f64) -> LostTime {
    let mut out = LostTime { began: end - length_secs, ended: end, ..LostTime::default() };
    for listener in ledger.listeners.iter().filter(|listener| listener.kernel_drops > 0) {
        out.dropped += listener.kernel_drops;
        out.arrived += listener.kernel_drops + listener.datagrams;
        if listener.kernel_drops > out.worst.1 {
            out.worst = (listener.url.clone(), listener.kernel_drops, listener.receive_buffer);
        }
    }
    out.limited = ledger.samples.limited.total();
    out.failed = ledger.flush.failed;
    for (name, sink) in &ledger.sinks {
        let dropped = sink.dropped.lost();
        let fresh = dropped - before.sinks.get(name).map_or(0, |before| before.dropped.lost()).min(dropped);
        if fresh > 0 {
            out.records.insert(name.clone(), fresh);
        }
    }
    out
}

fn join(known: &mut LostTime, more: LostTime) {
    known.ended = more.ended;
    known.dropped += more.dropped;
    known.arrived += more.arrived;
    if more.worst.1 > known.worst.1 {
        known.worst = more.worst;
    }
    known.limited += more.limited;
    known.failed += more.failed;
    for (name, records) in more.records {
        *known.records.entry(name).or_default() += records;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{ListenerAccount, SinkAccount};

    fn ledger(dropped: u64, given_up: u64) -> Ledger {
        let listener = ListenerAccount { datagrams: 50, kernel_drops: dropped, ..ListenerAccount::default() };
        let mut sink = SinkAccount::default();
        sink.dropped.count("queue_full", given_up);
        Ledger { listeners: vec![listener], sinks: [("a".into(), sink)].into(), ..Ledger::default() }
    }

    #[test]
    fn losses_near_each_other_are_one_and_all_are_forgotten_after_an_hour() {
        let mut recent = Recent::default();
        let mut before = Ledger::default();
        for (end, dropped, given_up) in
            [(10.0, 0, 0), (20.0, 150, 0), (30.0, 0, 0), (40.0, 50, 3), (200.0, 1, 3), (3700.0, 0, 3)]
        {
            let now = ledger(dropped, given_up);
            recent.add(&now, &before, end, 10.0);
            before = now;
        }
        let all = recent.all();
        assert_eq!(all.len(), 1, "{all:?}");
        assert_eq!((all[0].began, all[0].ended, all[0].dropped, all[0].arrived), (190.0, 200.0, 1, 51));
        let mut recent = Recent::default();
        recent.add(&ledger(150, 0), &ledger(0, 0), 20.0, 10.0);
        recent.add(&ledger(50, 3), &ledger(0, 0), 40.0, 10.0);
        let all = recent.all();
        assert_eq!((all.len(), all[0].began, all[0].ended, all[0].share()), (1, 10.0, 40.0, 200.0 / 300.0));
        assert_eq!((all[0].worst.1, all[0].records["a"]), (150, 3));
        recent.add(&ledger(0, 0), &ledger(0, 0), -90_000.0, 10.0);
        assert!(recent.all().is_empty(), "the clock was set back by a day");
    }
}
