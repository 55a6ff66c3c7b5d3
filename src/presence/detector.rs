//! The failure detector of one instance: from the times at which it was heard to the times at which it is late and down.
//! A pure function of times; [`policy`](super::policy) has the tables of misses and grace.

use serde::{Deserialize, Serialize};

use super::arrival_window::ArrivalWindow;
use super::instance::State;
use super::loss::{Loss, PooledLoss, RARE};
use super::policy::{Misses, Policy, Rules, grace_for, misses_for};
use super::time::{EngineTime, Maybe};

/// Gaps from which on what an instance declares is compared with what is measured.
const COMPARE_GAPS: usize = 4;

/// Without a declared interval beats that come closer, in seconds, are one.
const BURST_SECS: f64 = 5.0;

/// Beats that come closer, in seconds, are copies of one datagram.
const COPY_SECS: f64 = 0.05;

/// An instance that had nothing due while we were away is judged this long after we are back, at the latest.
const SETTLE_SECS: f64 = 60.0;

/// When silence matters: seconds until late (never, while the interval is unknown), and until down.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Timing {
    /// Silence that means late.
    pub(super) late: Option<f64>,
    /// Silence that means down.
    pub(super) down: f64,
}

impl Timing {
    /// The first silence that means something.
    pub(super) fn first(self) -> f64 {
        self.late.unwrap_or(self.down)
    }
}

/// When an instance is late and down if nothing is heard.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Deadlines {
    pub(super) late: Option<EngineTime>,
    pub(super) down: EngineTime,
}

/// What the gap before a beat says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Gap {
    /// Beats that were due in it, the one that came among them; 0 if that is not known.
    pub(super) due: u64,
    /// The instance was present all the while, so its losses are those of the network.
    pub(super) was_present: bool,
}

/// What a comparison of the declared interval with the measured one has just found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mismatch {
    /// Beats come slower than declared.
    pub(super) is_slow: bool,
    /// Beats come much more often than declared.
    pub(super) is_loose: bool,
}

/// What is remembered of the arrivals of an instance.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Detector {
    /// Last beat.
    seen: Maybe<EngineTime>,
    /// Last evidence of life; `None` after we started.
    heard: Maybe<EngineTime>,
    /// From when on silence is counted.
    since: EngineTime,
    #[serde(rename = "promise", default, skip_serializing_if = "Maybe::is_none")]
    declared_interval: Maybe<f64>,
    #[serde(rename = "gaps")]
    arrivals: ArrivalWindow,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    mismatch: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    loose: bool,
    /// Blind time that does not count.
    #[serde(default, skip_serializing_if = "is_zero")]
    blind: f64,
    /// The part of it that dropped datagrams caused.
    #[serde(default, skip_serializing_if = "is_zero")]
    blind_by_drops: f64,
    /// Neither late nor down before this.
    #[serde(default, skip_serializing_if = "is_zero_time")]
    floor: EngineTime,
    /// It fell silent before its interval was known.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    never_established: bool,
    /// Last beat that counts for learning.
    counted: Maybe<EngineTime>,
    loss: Loss,
}

fn is_zero(secs: &f64) -> bool {
    *secs == 0.0
}

fn is_zero_time(at: &EngineTime) -> bool {
    *at == EngineTime::default()
}

impl Detector {
    /// A detector that has heard nothing; silence counts from now on.
    pub(super) fn new(now: EngineTime) -> Detector {
        Detector {
            seen: Maybe::NONE,
            heard: Maybe::NONE,
            since: now,
            declared_interval: Maybe::NONE,
            arrivals: ArrivalWindow::default(),
            mismatch: false,
            loose: false,
            blind: 0.0,
            blind_by_drops: 0.0,
            floor: EngineTime::default(),
            never_established: false,
            counted: Maybe::NONE,
            loss: Loss::default(),
        }
    }

    /// One that was saved at `now`: nothing was seen later, and no more of its silence was left out than there was.
    #[must_use]
    pub(super) fn restored(self, now: EngineTime) -> Detector {
        let past = |at: Maybe<EngineTime>| Maybe::from(at.get().map(|at| at.min(now)));
        let since = self.since.min(now);
        let blind = self.blind.clamp(0.0, now - since);
        let (seen, heard, counted) = (past(self.seen), past(self.heard), past(self.counted));
        Detector { seen, heard, counted, since, blind, ..self }
    }

    /// Takes a beat of an instance that was in a state, or was not known, and what it declares.
    pub(super) fn observe(
        &mut self,
        now: EngineTime,
        was: Option<State>,
        declared: Option<f64>,
        policy: &Policy,
    ) -> Gap {
        let mut gap = Gap::default();
        match (was, self.seen.get()) {
            (Some(State::Up | State::Late), Some(seen)) if self.blind == 0.0 && self.floor <= now => {
                let secs = match self.declared_interval.get().or(declared) {
                    Some(_) => now - seen,
                    None => self.undeclared_gap(now),
                };
                if secs > COPY_SECS {
                    gap = Gap { due: self.record(secs), was_present: true };
                    self.note_loss(secs, policy);
                }
            }
            (Some(State::Down), Some(seen)) => gap.due = self.record(now - seen),
            (Some(State::Left), Some(seen)) if self.never_established => {
                let last = self.counted.get().filter(|&counted| counted != EngineTime::default()).unwrap_or(seen);
                gap.due = self.record(now - last);
                self.counted = Maybe::some(now);
            }
            (Some(State::Left), _) => self.arrivals.clear(),
            (None, _) => {
                self.counted = Maybe::some(now);
                self.arrivals.clear();
            }
            (Some(State::Up | State::Late | State::Down | State::Unknown), _) => {}
        }
        self.never_established = false;
        self.seen = Maybe::some(now);
        self.note_alive(now);
        if let Some(interval) = declared {
            if self.declared_interval.get().is_some_and(|before| before != interval) {
                self.arrivals.clear();
            }
            self.declared_interval = Maybe::some(interval);
        }
        gap
    }

    /// Seconds since the last beat that counted, of which a burst is one; 0 for the others of it.
    fn undeclared_gap(&mut self, now: EngineTime) -> f64 {
        let Some(counted) = self.counted.get() else {
            self.counted = Maybe::some(now);
            return 0.0;
        };
        let secs = now - counted;
        if secs < BURST_SECS {
            return 0.0;
        }
        self.counted = Maybe::some(now);
        secs
    }

    /// Remembers a gap; how many beats were due in it, 0 if that is not known.
    fn record(&mut self, secs: f64) -> u64 {
        self.arrivals.push(secs);
        let Some(interval) = self.declared_interval.get() else { return 0 };
        (secs / interval).round().clamp(1.0, 1e6) as u64
    }

    /// Notes what a gap says of the network. Rare beats are counted against what is declared: too few are measured.
    fn note_loss(&mut self, secs: f64, policy: &Policy) {
        let declared = self.declared_interval.get().filter(|&declared| declared >= RARE);
        if let Some(interval) = declared.or_else(|| self.interval(policy)) {
            self.loss.note(secs, interval);
        }
    }

    /// What was lost of it.
    pub(super) fn loss(&self) -> &Loss {
        &self.loss
    }

    /// Whether its beats are rare: the loss of its service counts for it, too.
    pub(super) fn is_rare(&self, policy: &Policy) -> bool {
        self.interval(policy).is_some_and(|interval| interval >= RARE)
    }

    /// Takes what the whole service lost, if its beats are rare.
    pub(super) fn take_pooled_loss(&mut self, service: PooledLoss, policy: &Policy) {
        if let Some(interval) = self.interval(policy).filter(|&interval| interval >= RARE) {
            self.loss.judge_rare(interval, service);
        }
    }

    /// Takes a sign of life that is no beat.
    pub(super) fn note_alive(&mut self, now: EngineTime) {
        (self.heard, self.since) = (Maybe::some(now), now);
        (self.blind, self.blind_by_drops, self.floor) = (0.0, 0.0, EngineTime::default());
    }

    /// Compares what is declared with what is measured; what of it is new.
    pub(super) fn compare_with_declared(&mut self) -> Mismatch {
        let Some(declared) = self.declared_interval.get().filter(|_| self.arrivals.len() >= COMPARE_GAPS) else {
            return Mismatch::default();
        };
        let ratio = self.arrivals.recent_median() / declared;
        let is_slow = ratio > 1.5 && !self.mismatch;
        self.mismatch = (self.mismatch || is_slow) && ratio > 1.2;
        // Milliseconds sent as seconds?
        let is_loose = self.arrivals.len() >= 8 && self.arrivals.longest() < 0.05 * declared && !self.loose;
        self.loose |= is_loose;
        Mismatch { is_slow, is_loose }
    }

    /// It fell silent before its interval was known.
    pub(super) fn give_up(&mut self) {
        self.never_established = true;
    }

    pub(super) fn never_established(&self) -> bool {
        self.never_established
    }

    /// Beats come slower than declared.
    pub(super) fn is_mismatched(&self) -> bool {
        self.mismatch
    }

    /// The last beat.
    pub(super) fn seen(&self) -> Option<EngineTime> {
        self.seen.get()
    }

    /// Blind time that does not count, in seconds.
    pub(super) fn blind(&self) -> f64 {
        self.blind
    }

    pub(super) fn declared_interval(&self) -> Option<f64> {
        self.declared_interval.get()
    }

    /// When its silence began; our own blindness has moved that.
    pub(super) fn silent_since(&self) -> EngineTime {
        self.since + self.blind
    }

    /// When it was heard last, or when we began to listen.
    pub(super) fn last_life(&self) -> EngineTime {
        self.since
    }

    /// Seconds of silence, without those in which we could not see.
    pub(super) fn silence(&self, now: EngineTime) -> f64 {
        (now - self.since - self.blind).max(0.0)
    }

    /// Whether there was a sign of life after a time.
    pub(super) fn heard_after(&self, at: EngineTime) -> bool {
        self.heard.get().is_some_and(|heard| heard > at)
    }

    /// The interval in force: the declared one, unless beats come clearly slower; else the learned one, if it is known.
    pub(super) fn interval(&self, policy: &Policy) -> Option<f64> {
        let Some(declared) = self.declared_interval.get() else {
            return (self.arrivals.len() >= policy.learn_gaps).then(|| self.arrivals.median());
        };
        if self.arrivals.len() >= COMPARE_GAPS {
            let measured = self.arrivals.recent_median();
            if measured > 1.1 * declared {
                return Some(measured);
            }
        }
        Some(declared)
    }

    /// Beats that must be missed at an interval.
    pub(super) fn misses(&self, interval: f64, rules: &Rules) -> u32 {
        match rules.misses {
            Misses::ByInterval => misses_for(interval),
            Misses::Fixed(misses) => misses,
            Misses::Auto => self.loss.misses().unwrap_or_else(|| misses_for(interval)),
        }
    }

    /// What silence means.
    pub(super) fn timing(&self, policy: &Policy, rules: &Rules) -> Timing {
        let Some(interval) = self.interval(policy) else {
            return Timing { late: None, down: policy.learn_timeout };
        };
        let grace = rules.grace.unwrap_or_else(|| {
            let grace = grace_for(interval);
            if self.declared_interval.get().is_some() {
                return grace;
            }
            grace.max(6.0 * self.arrivals.median_deviation()).min(60.0)
        });
        let down = f64::from(self.misses(interval, rules)) * interval + grace;
        if self.declared_interval.get().is_none() {
            let down = down.max(30.0).max(2.0 * self.arrivals.longest());
            return Timing { late: Some((interval + grace).min(down)), down };
        }
        Timing { late: Some(interval + grace), down }
    }

    /// When it is late and down if nothing is heard.
    pub(super) fn deadlines(&self, policy: &Policy, rules: &Rules) -> Deadlines {
        let timing = self.timing(policy, rules);
        let base = self.silent_since();
        let down = (base + timing.down).max(self.floor);
        Deadlines { late: timing.late.map(|late| (base + late).max(self.floor.min(down))), down }
    }

    /// Whether it is late at `now`.
    pub(super) fn is_late(&self, now: EngineTime, policy: &Policy, rules: &Rules) -> bool {
        self.deadlines(policy, rules).late.is_some_and(|late| now >= late)
    }

    /// Whether a beat was due in the last `secs` seconds: some multiple of the interval, give or take the grace.
    pub(super) fn was_due(&self, secs: f64, now: EngineTime, policy: &Policy, rules: &Rules) -> bool {
        let Some(interval) = self.interval(policy) else { return true };
        let grace = self.timing(policy, rules).late.unwrap_or(interval) - interval;
        let (until, from) = (now - self.since, now - self.since - secs);
        let beat = ((from - grace) / interval - 1e-9).ceil().max(1.0);
        beat * interval - grace <= until
    }

    /// Neither late nor down before `at`.
    pub(super) fn hold_until(&mut self, at: EngineTime) {
        self.floor = self.floor.max(at);
    }

    /// Whether it may be late or down at `now`.
    pub(super) fn may_be_judged(&self, now: EngineTime) -> bool {
        self.floor <= now
    }

    /// Leaves out a second in which datagrams were dropped. All such seconds together are no longer than the timeout.
    pub(super) fn leave_out_dropped_second(&mut self, now: EngineTime, policy: &Policy, rules: &Rules) {
        let timing = self.timing(policy, rules);
        let added = (timing.down - self.blind_by_drops).min(1.0);
        if added <= 0.0 {
            return;
        }
        self.blind_by_drops += added;
        self.blind += added;
        if self.was_due(1.0, now, policy, rules) {
            self.hold_until((now + timing.first()).min(self.since + 2.0 * timing.down));
        }
    }

    /// Leaves out the seconds in which we stood still.
    pub(super) fn leave_out_pause(&mut self, secs: f64, now: EngineTime, policy: &Policy, rules: &Rules) {
        let timing = self.timing(policy, rules);
        self.blind += secs;
        if self.was_due(secs, now, policy, rules) {
            self.hold_until(self.capped(now + timing.first(), policy, rules));
        }
    }

    /// Leaves out seconds in which nobody watched it.
    pub(super) fn leave_out_lost_peer(&mut self, secs: f64) {
        self.blind += secs;
    }

    /// Leaves out the seconds for which we did not run: it is to be confirmed.
    pub(super) fn leave_out_restart(&mut self, secs: f64, now: EngineTime, policy: &Policy, rules: &Rules) {
        let timeout = self.timing(policy, rules).down;
        self.heard = Maybe::NONE;
        self.blind += secs;
        self.floor = if self.was_due(secs, now, policy, rules) {
            self.capped(now + timeout, policy, rules)
        } else {
            now + timeout.min(SETTLE_SECS)
        };
    }

    /// No later than blindness may move a silence.
    fn capped(&self, floor: EngineTime, policy: &Policy, rules: &Rules) -> EngineTime {
        floor.min(self.silent_since() + 2.0 * self.timing(policy, rules).down)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: f64) -> EngineTime {
        EngineTime::from_secs(secs)
    }

    /// A detector that has heard beats every so many seconds, the last at `until`.
    fn heard(every: f64, until: f64, declared: Option<f64>) -> Detector {
        let mut detector = Detector::new(at(0.0));
        let (mut now, mut was) = (0.0, None);
        while now <= until {
            detector.observe(at(now), was, declared, &Policy::default());
            (now, was) = (now + every, Some(State::Up));
        }
        detector
    }

    fn deadlines(detector: &Detector) -> (Option<f64>, f64) {
        let deadlines = detector.deadlines(&Policy::default(), &Rules::default());
        (deadlines.late.map(EngineTime::as_secs), deadlines.down.as_secs())
    }

    #[test]
    fn a_declared_interval_holds_from_the_first_beat_on_and_a_slower_one_is_measured() {
        // 4 misses of 10 s and a grace of 5 s.
        assert_eq!(deadlines(&heard(10.0, 0.0, Some(10.0))), (Some(15.0), 45.0));
        let slow = heard(20.0, 100.0, Some(10.0));
        assert_eq!(slow.interval(&Policy::default()), Some(20.0));
        assert_eq!(deadlines(&slow), (Some(130.0), 190.0));
    }

    #[test]
    fn beats_a_fifth_slower_than_declared_are_judged_by_what_is_measured() {
        // 4 misses of 12 s and a grace of 6 s after the last beat, at 60.
        assert_eq!(deadlines(&heard(12.0, 60.0, Some(10.0))), (Some(78.0), 114.0));
        assert_eq!(deadlines(&heard(10.5, 63.0, Some(10.0))), (Some(78.0), 108.0));
    }

    #[test]
    fn who_declares_another_interval_is_judged_by_that_from_then_on() {
        let mut detector = heard(60.0, 600.0, Some(60.0));
        detector.observe(at(660.0), Some(State::Up), Some(10.0), &Policy::default());
        assert_eq!(deadlines(&detector), (Some(675.0), 705.0));
    }

    #[test]
    fn a_beat_that_may_have_come_late_while_we_were_away_is_awaited_once_more() {
        let (policy, rules) = (Policy::default(), Rules::default());
        for (away, down) in [
            // The beat of 100 s has a grace of 50 s.
            (112.0, 464.0),
            (60.0, 412.0),
            // Nothing was due.
            (20.0, 352.0),
        ] {
            let mut detector = heard(100.0, 0.0, Some(100.0));
            detector.leave_out_restart(2.0, at(away + 2.0), &policy, &rules);
            assert_eq!(deadlines(&detector).1, down, "away at {away}");
        }
    }

    #[test]
    fn without_a_declared_interval_it_is_learned_from_gaps_and_a_burst_is_one_beat() {
        assert_eq!(deadlines(&heard(10.0, 40.0, None)), (None, 340.0));
        assert_eq!(heard(10.0, 50.0, None).interval(&Policy::default()), Some(10.0));
        assert_eq!(heard(1.0, 30.0, None).interval(&Policy::default()), Some(5.0));
    }

    #[test]
    fn gaps_say_how_many_beats_were_due() {
        let mut detector = heard(10.0, 20.0, Some(10.0));
        let gap = detector.observe(at(50.0), Some(State::Late), Some(10.0), &Policy::default());
        assert_eq!(gap, Gap { due: 3, was_present: true });
        let copy = detector.observe(at(50.01), Some(State::Up), Some(10.0), &Policy::default());
        assert_eq!(copy, Gap::default());
        let gap = detector.observe(at(150.01), Some(State::Down), Some(10.0), &Policy::default());
        assert_eq!(gap, Gap { due: 10, was_present: false });
    }

    #[test]
    fn a_comparison_finds_each_mismatch_once() {
        let mut slow = heard(20.0, 100.0, Some(10.0));
        assert_eq!(slow.compare_with_declared(), Mismatch { is_slow: true, is_loose: false });
        assert_eq!(slow.compare_with_declared(), Mismatch::default());
        assert!(slow.is_mismatched());
        let mut loose = heard(0.1, 1.0, Some(100.0));
        assert_eq!(loose.compare_with_declared(), Mismatch { is_slow: false, is_loose: true });
        assert_eq!(loose.compare_with_declared(), Mismatch::default());
    }

    #[test]
    fn blindness_moves_deadlines_no_further_than_twice_the_timeout() {
        let (policy, rules) = (Policy::default(), Rules::default());
        let mut detector = heard(10.0, 0.0, Some(10.0));
        for second in 1..=200 {
            detector.leave_out_dropped_second(at(f64::from(second)), &policy, &rules);
        }
        assert_eq!((detector.blind(), deadlines(&detector).1), (45.0, 90.0));
        let mut detector = heard(10.0, 0.0, Some(10.0));
        detector.leave_out_pause(1000.0, at(1000.0), &policy, &rules);
        assert_eq!(deadlines(&detector).1, 1045.0);
        // Nothing was due while we were away for two seconds.
        let mut detector = heard(100.0, 0.0, Some(100.0));
        detector.leave_out_restart(2.0, at(12.0), &policy, &rules);
        assert_eq!((detector.heard_after(at(-1.0)), detector.silence(at(12.0))), (false, 10.0));
    }
}
