//! Habits: what is remembered of a service beyond its instances, and for some days beyond the service itself. How long it
//! pauses between two stays, so that a job that runs now and then is not taken for a deploy that never came back; and
//! whether any of its instances ever stayed for long.

use std::collections::HashMap;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use crate::memory::{footprint, map_footprint};

use super::time::EngineTime;

/// How long the habits of a service that is gone are remembered, in seconds. No pause that is longer is waited for.
const KEPT: f64 = 8.0 * 86_400.0;

/// Pauses that are remembered.
const PAUSES: usize = 8;

/// The shortest pause that is worth a word, in seconds.
const SHORTEST: f64 = 600.0;

/// A pause is waited for so many times its length.
const PATIENCE: f64 = 1.25;

/// A stay of which the pause that follows can matter, in seconds: `service_gone` is for stays of an hour, and a pause is
/// compared with those that followed a stay of half the length.
const STAY_THAT_COUNTS: f64 = 1800.0;

/// How a service comes and goes. Times are on the engine's clock, lengths in seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Habit {
    /// The last pauses, oldest first: how long the stay before each was, and how long it was.
    #[serde(default)]
    pauses: Vec<(f64, f64)>,
    /// How long the stay was that has just ended.
    #[serde(default)]
    stay: Option<f64>,
    /// When that was.
    #[serde(default)]
    left_at: Option<EngineTime>,
    /// One of its instances stayed for an hour.
    #[serde(default)]
    has_long_stays: bool,
    /// It is forgotten, and missed then unless it comes back before.
    #[serde(default)]
    missed_at: Option<EngineTime>,
    /// When it was forgotten.
    #[serde(default)]
    forgotten_at: EngineTime,
}

impl Habit {
    pub(super) fn has_long_stays(&self) -> bool {
        self.has_long_stays
    }

    pub(super) fn note_long_stay(&mut self) {
        self.has_long_stays = true;
    }

    /// All of it has left, after a stay of so long if that is known.
    pub(super) fn note_left(&mut self, stay: Option<f64>, now: EngineTime) {
        (self.stay, self.left_at) = (stay, Some(now));
    }

    /// It is back; `true` if its pause ended a stay, so that another begins.
    pub(super) fn note_back(&mut self, now: EngineTime) -> bool {
        let Some(left_at) = self.left_at.take() else { return false };
        let pause = now - left_at;
        let Some(stay) = self.stay.filter(|&stay| stay > 0.0 && (SHORTEST..=KEPT).contains(&pause)) else {
            return false;
        };
        if self.pauses.len() == PAUSES {
            self.pauses.remove(0);
        }
        self.pauses.push((stay, pause));
        true
    }

    /// How long it may stay away before that is worth a word: a little longer than after stays of about this length.
    pub(super) fn patience(&self) -> f64 {
        let Some(stay) = self.stay.filter(|&stay| stay > 0.0) else { return SHORTEST };
        let alike = self.pauses.iter().filter(|(other, _)| (0.5 * stay..=2.0 * stay).contains(other));
        let longest = alike.map(|&(_, pause)| pause).fold(0.0, f64::max);
        (PATIENCE * longest).clamp(SHORTEST, KEPT)
    }

    /// It has left for good: an operator says so.
    pub(super) fn forget_departure(&mut self) {
        (self.left_at, self.missed_at) = (None, None);
    }

    /// Whether anything of it can matter later.
    fn is_worth_keeping(&self) -> bool {
        let may_pause = self.left_at.is_some() && self.stay.is_some_and(|stay| stay >= STAY_THAT_COUNTS);
        self.has_long_stays || !self.pauses.is_empty() || self.missed_at.is_some() || may_pause
    }
}

/// The habits of services that are forgotten.
#[derive(Clone, Debug, Default)]
pub(super) struct Habits {
    by_name: HashMap<CompactString, Habit>,
    /// No service is missed before that.
    next: Option<EngineTime>,
}

impl Habits {
    /// Those that were saved.
    pub(super) fn restored(saved: Vec<(CompactString, Habit)>) -> Habits {
        let by_name: HashMap<CompactString, Habit> = saved.into_iter().collect();
        let mut habits = Habits { by_name, next: None };
        habits.find_next();
        habits
    }

    /// To be saved, in the order of names.
    pub(super) fn saved(&self) -> Vec<(&CompactString, &Habit)> {
        let mut all: Vec<_> = self.by_name.iter().collect();
        all.sort_unstable_by_key(|(name, _)| *name);
        all
    }

    /// Bytes that they take, long names left out.
    pub(super) fn heap_bytes(&self) -> usize {
        let pauses = footprint(PAUSES * size_of::<(f64, f64)>());
        map_footprint::<CompactString, Habit>(self.by_name.capacity()) + self.by_name.len() * pauses
    }

    /// Those of a service that is registered.
    pub(super) fn take(&mut self, name: &str, now: EngineTime) -> Habit {
        let known = self.by_name.remove(name).filter(|habit| now - habit.forgotten_at <= KEPT);
        known.map_or_else(Habit::default, |habit| Habit { missed_at: None, ..habit })
    }

    /// Those of a service that is forgotten, which is missed at a time. The oldest of more than `most` give way.
    pub(super) fn keep(
        &mut self,
        name: &CompactString,
        habit: Habit,
        missed_at: Option<EngineTime>,
        (now, most): (EngineTime, usize),
    ) {
        let habit = Habit { missed_at, forgotten_at: now, ..habit };
        if !habit.is_worth_keeping() {
            return;
        }
        if self.by_name.len() >= most {
            self.make_room(now, most);
        }
        self.by_name.insert(name.clone(), habit);
        if let Some(at) = missed_at {
            self.next = Some(self.next.map_or(at, |next| next.min(at)));
        }
    }

    /// An eighth goes at once, so that this is rare.
    fn make_room(&mut self, now: EngineTime, most: usize) {
        self.by_name.retain(|_, habit| now - habit.forgotten_at <= KEPT);
        let room = most - most / 8;
        if self.by_name.len() < room {
            return;
        }
        let mut times: Vec<EngineTime> = self.by_name.values().map(|habit| habit.forgotten_at).collect();
        times.sort_unstable_by(EngineTime::total_cmp);
        let oldest = times[times.len() - room.min(times.len() - 1) - 1];
        self.by_name.retain(|_, habit| habit.forgotten_at > oldest);
    }

    /// Nobody is missed before that.
    pub(super) fn next(&self) -> EngineTime {
        self.next.unwrap_or(EngineTime::NEVER)
    }

    /// An operator forgets a service that is gone.
    pub(super) fn forget_departure(&mut self, name: &str) {
        if let Some(habit) = self.by_name.get_mut(name) {
            habit.forget_departure();
        }
    }

    /// Services that are forgotten and missed from now on, by name.
    pub(super) fn take_missed(&mut self, now: EngineTime) -> Vec<CompactString> {
        if self.next.is_none_or(|next| now < next) {
            return Vec::new();
        }
        let mut missed = Vec::new();
        for (name, habit) in &mut self.by_name {
            if habit.missed_at.is_some_and(|at| now >= at) {
                habit.missed_at = None;
                missed.push(name.clone());
            }
        }
        self.find_next();
        missed.sort_unstable();
        missed
    }

    fn find_next(&mut self) {
        self.next = self.by_name.values().filter_map(|habit| habit.missed_at).reduce(EngineTime::min);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: f64 = 3600.0;

    fn at(secs: f64) -> EngineTime {
        EngineTime::from_secs(secs)
    }

    #[test]
    fn a_pause_is_waited_for_after_a_stay_of_about_the_same_length() {
        let mut habit = Habit::default();
        assert_eq!(habit.patience(), 600.0);
        habit.note_left(Some(HOUR), at(HOUR));
        assert_eq!(habit.patience(), 600.0);
        assert!(habit.note_back(at(3.0 * HOUR)));
        assert!(!habit.note_back(at(3.0 * HOUR)), "it is back once");
        habit.note_left(Some(1.5 * HOUR), at(4.5 * HOUR));
        assert_eq!(habit.patience(), 2.5 * HOUR);
        habit.note_left(Some(3.0 * HOUR), at(9.0 * HOUR));
        assert_eq!(habit.patience(), 600.0, "another stay");
        // A short pause is none.
        assert!(!habit.note_back(at(9.0 * HOUR + 599.0)));
    }

    #[test]
    fn who_is_forgotten_is_missed_once_unless_it_comes_back_or_an_operator_says_otherwise() {
        let mut habits = Habits::default();
        for name in ["gone", "back", "retired"] {
            let mut habit = Habit::default();
            habit.note_left(Some(HOUR), at(0.0));
            habits.keep(&name.into(), habit, Some(at(100.0)), (at(10.0), 10));
        }
        assert!(habits.take("back", at(20.0)).note_back(at(700.0)));
        habits.forget_departure("retired");
        assert!(habits.take_missed(at(99.0)).is_empty());
        assert_eq!(habits.take_missed(at(100.0)), ["gone"]);
        assert!(habits.take_missed(at(200.0)).is_empty());
    }

    #[test]
    fn the_oldest_habits_give_way_and_those_that_say_nothing_are_not_kept() {
        let mut habits = Habits::default();
        for n in 0..100_u32 {
            let mut habit = Habit::default();
            habits.keep(&format!("nothing-{n}").into(), habit.clone(), None, (at(f64::from(n)), 16));
            habit.note_long_stay();
            habits.keep(&format!("s{n}").into(), habit, None, (at(f64::from(n)), 16));
            assert!(habits.by_name.len() <= 16);
        }
        assert!(habits.take("s99", at(100.0)).has_long_stays() && !habits.take("s0", at(100.0)).has_long_stays());
        assert!(!habits.take("s98", at(98.0 + KEPT + 1.0)).has_long_stays());
    }
}
