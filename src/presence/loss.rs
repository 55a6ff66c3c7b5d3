//! Lost beats: of one instance, to decide how many must be missed before it is down; of a service whose beats are rare, for
//! the same; and of the whole fleet, to warn when the network loses too many.

use serde::{Deserialize, Serialize};

use super::time::EngineTime;

/// Most of what is measured before it is halved.
const MEMORY: u16 = 20_000;

/// Beats between two computations of the misses that loss asks for.
const RECOMPUTE_EVERY: u8 = 16;

/// From this interval on, in seconds, beats are rare: a hundred of them take a day.
pub(super) const RARE: f64 = 600.0;

/// Beats by which loss is judged before anything is measured, one of them lost.
const PRIOR: f64 = 100.0;

/// The same where beats are rare.
const RARE_PRIOR: f64 = 10.0;

/// Loss of an instance, measured from gaps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Loss {
    /// Beats, of which only the last bits matter; earlier versions have written all of them.
    #[serde(deserialize_with = "low_byte")]
    beats: u8,
    /// Less than `MEMORY` and one gap.
    expected: u16,
    lost: u16,
    /// Runs of lost beats.
    runs: u16,
    misses: u8,
}

fn low_byte<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
    Ok(u32::deserialize(deserializer)? as u8)
}

/// The loss of all instances of a service together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct PooledLoss {
    expected: u64,
    lost: u64,
    runs: u64,
}

impl PooledLoss {
    /// Adds what was measured of an instance.
    pub(super) fn add(&mut self, one: &Loss) {
        self.expected += u64::from(one.expected);
        self.lost += u64::from(one.lost);
        self.runs += u64::from(one.runs);
    }

    fn misses_at(self, interval: f64) -> u8 {
        misses_at(interval, self.expected as f64, self.lost as f64, self.runs as f64, RARE_PRIOR)
    }
}

/// Enough misses that the measured loss gives under one false down in 1000 instance-days.
fn misses_at(interval: f64, expected: f64, lost: f64, runs: f64, prior: f64) -> u8 {
    let p = (lost + 1.0) / (expected + prior);
    // That a loss follows a loss: bursts make it likelier.
    let again = p.max(1.0 - (runs + 10.0) / (lost + 10.0));
    let misses = 1.0 + ((0.001 * interval / 86_400.0 / p).ln() / again.ln()).ceil();
    if again < 1.0 && misses.is_finite() { misses.clamp(3.0, 10.0) as u8 } else { 10 }
}

impl Loss {
    /// Notes a gap at an interval.
    pub(super) fn note(&mut self, gap: f64, interval: f64) {
        let steps = (gap / interval).round_ties_even().clamp(1.0, 1000.0) as u16;
        self.expected += steps;
        self.lost += steps - 1;
        self.runs += u16::from(steps > 1);
        if self.expected >= MEMORY {
            (self.expected, self.lost, self.runs) = (self.expected / 2, self.lost / 2, self.runs / 2);
        }
        self.beats = self.beats.wrapping_add(1);
        if self.beats.is_multiple_of(RECOMPUTE_EVERY) {
            self.misses = self.misses_at(interval, PRIOR);
        }
    }

    /// Beats are rare: the loss of the whole service is asked, too, and the larger answer holds.
    pub(super) fn judge_rare(&mut self, interval: f64, service: PooledLoss) {
        self.misses = service.misses_at(interval).max(self.misses_at(interval, RARE_PRIOR));
    }

    /// Beats that must be missed; `None` as long as too little was measured.
    pub(super) fn misses(&self) -> Option<u32> {
        (self.misses > 0).then_some(u32::from(self.misses))
    }

    fn misses_at(&self, interval: f64, prior: f64) -> u8 {
        misses_at(interval, f64::from(self.expected), f64::from(self.lost), f64::from(self.runs), prior)
    }
}

/// Minutes over which the loss of the whole fleet is measured, how many beats must have been due in them, and the share
/// of them from which on there is a warning.
const FLEET_MINUTES: usize = 5;
const FLEET_DUE: u64 = 1000;
const HIGH_LOSS: f64 = 0.05;

/// Seconds between two warnings.
const WARN_EVERY: f64 = 3600.0;

/// Beats of everybody that were due, and those of them that were lost, by minute.
#[derive(Clone, Debug, Default)]
pub(super) struct FleetLoss {
    minute: u64,
    due: [(u64, u64); FLEET_MINUTES],
    warned_at: Option<EngineTime>,
}

impl FleetLoss {
    /// Notes a gap of so many beats; `true` if so much is lost that it deserves a warning.
    pub(super) fn note(&mut self, now: EngineTime, due: u64) -> bool {
        let minute = (now.as_secs() / 60.0) as u64;
        for passed in (self.minute + 1).max(minute.saturating_sub(FLEET_MINUTES as u64))..=minute {
            self.due[passed as usize % FLEET_MINUTES] = (0, 0);
        }
        self.minute = self.minute.max(minute);
        let (expected, lost) = &mut self.due[minute as usize % FLEET_MINUTES];
        (*expected, *lost) = (*expected + due, *lost + due.saturating_sub(1));
        if due < 2 || self.warned_at.is_some_and(|at| now < at + WARN_EVERY) {
            return false;
        }
        let (expected, lost) = self.due.iter().fold((0, 0), |(e, l), (expected, lost)| (e + expected, l + lost));
        let is_high = expected >= FLEET_DUE && lost as f64 >= HIGH_LOSS * expected as f64;
        if is_high {
            self.warned_at = Some(now);
        }
        is_high
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_is_lost_the_more_beats_must_be_missed() {
        let (mut clean, mut lossy) = (Loss::default(), Loss::default());
        for n in 0..160 {
            clean.note(10.0, 10.0);
            lossy.note(if n % 3 == 0 { 20.0 } else { 10.0 }, 10.0);
        }
        assert_eq!(Loss::default().misses(), None);
        let (clean, lossy) = (clean.misses().expect("measured"), lossy.misses().expect("measured"));
        assert!(clean >= 3 && lossy > clean && lossy <= 10, "{clean}, {lossy}");
    }

    #[test]
    fn what_was_measured_comes_back_and_so_does_that_of_earlier_versions() {
        let before = r#"{"expected":20999,"lost":900,"runs":80,"beats":1000000,"misses":10}"#;
        let loss: Loss = serde_json::from_str(before).expect("a loss");
        assert_eq!((loss.expected, loss.beats, loss.misses()), (20_999, (1_000_000 % 256) as u8, Some(10)));
        let text = serde_json::to_string(&loss).expect("JSON");
        assert_eq!(serde_json::from_str::<Loss>(&text).expect("the same"), loss);
    }

    #[test]
    fn rare_beats_are_judged_by_what_the_service_loses() {
        let hour = 3600.0;
        let (mut one, mut pool) = (Loss::default(), PooledLoss::default());
        one.judge_rare(hour, pool);
        assert_eq!(one.misses(), Some(5), "nothing is known: one of ten is lost");
        let mut lossy = Loss::default();
        (0..50).for_each(|n| lossy.note(if n % 5 == 0 { 2.0 * hour } else { hour }, hour));
        pool.add(&lossy);
        one.judge_rare(hour, pool);
        assert!(one.misses().is_some_and(|misses| misses > 5), "{one:?}");
        let known = one.misses();
        // It loses none itself, and knows that after a while; the service's loss still holds.
        (0..20).for_each(|_| one.note(hour, hour));
        one.judge_rare(hour, pool);
        assert_eq!(one.misses(), known);
    }

    #[test]
    fn high_loss_of_the_fleet_is_a_warning_once_an_hour() {
        let mut fleet = FleetLoss::default();
        let at = EngineTime::from_secs;
        assert!((0..1000).all(|_| !fleet.note(at(1.0), 1)));
        // A twentieth is lost.
        let warned = (0..60).filter(|_| fleet.note(at(2.0), 2)).count();
        assert_eq!(warned, 1);
        // Five minutes later that is forgotten.
        assert!(!fleet.note(at(400.0), 2));
    }
}
