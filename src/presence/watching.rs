//! What a watched metric says of an instance beside that it lives: whether it comes and goes by itself, and whether it has
//! as many lines a minute as it should.
//!
//! An interval that is only learned declares nothing: an instance that was down and came back by itself for the third time
//! within eight days is irregular, and from then on its silence means that it has left.

use serde::{Deserialize, Serialize};

use super::time::EngineTime;
use crate::memory::{footprint, vec_footprint};

/// An instance is irregular after so many silences within so long, in seconds.
const IRREGULAR_SILENCES: usize = 3;
const IRREGULAR_WITHIN: f64 = 8.0 * 86_400.0;

/// Length of a minute in which lines are counted, in seconds.
const MINUTE: f64 = 60.0;

/// Minutes in a row that make it low, or fine again.
const MINUTES: u8 = 2;

/// What is remembered of an instance that a watch feeds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Watching {
    /// The watch, once it was heard since we started.
    #[serde(skip)]
    watch: Option<u16>,
    /// The value that showed it last, where the watch wants a change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<f64>,
    /// When it came back by itself after it was down.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    excused: Vec<EngineTime>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    irregular: bool,
    /// Fewer lines than it should have, and whether that was notified.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    low: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    low_notified: bool,
    /// The minute that is counted.
    #[serde(skip)]
    minute: Option<Minute>,
    /// Lines of the last minute that was judged.
    #[serde(skip)]
    last_lines: Option<u64>,
    /// Minutes in a row below the floor, and at or above it.
    #[serde(skip)]
    below: u8,
    #[serde(skip)]
    fine: u8,
    /// Lines that were counted here, and those that each peer has counted.
    #[serde(skip)]
    lines: Option<u64>,
    #[serde(skip)]
    elsewhere: Vec<(u16, u64)>,
    /// The peers that ever have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    counted_by: Vec<u16>,
}

#[derive(Clone, Copy, Debug)]
struct Minute {
    end: EngineTime,
    lines: u64,
    /// Part of it was not seen.
    is_blind: bool,
}

/// What a look at a minute found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing new.
    Same,
    /// It has too few lines.
    Low,
    /// It has enough again; whether that it had not was notified.
    Fine(bool),
    /// Nothing is counted any more, for it is not present; `Some` if it was low.
    Over(Option<bool>),
}

impl Watching {
    /// Bytes that it takes.
    pub(super) fn bytes(&self) -> usize {
        footprint(size_of::<Watching>()) + vec_footprint::<EngineTime>(self.excused.capacity())
    }

    /// The watch that feeds it.
    pub(super) fn watch(&self) -> Option<u16> {
        self.watch
    }

    /// A watch feeds it; `declares` says whether that declares an interval.
    pub(super) fn note_watch(&mut self, watch: u16, declares: bool) {
        self.watch = Some(watch);
        if declares {
            self.irregular = false;
            self.excused.clear();
        }
    }

    /// A value showed it.
    pub(super) fn note_value(&mut self, value: Option<f64>) {
        self.value = value.or(self.value);
    }

    /// The value that showed it last, where the watch wants a change.
    pub(super) fn value(&self) -> Option<f64> {
        self.value
    }

    pub(super) fn is_irregular(&self) -> bool {
        self.irregular
    }

    /// It came back by itself after it was down, without a declared interval; `true` if it is irregular from now on.
    pub(super) fn note_return(&mut self, now: EngineTime) -> bool {
        if self.irregular {
            return false;
        }
        self.excused.retain(|&at| at > now - IRREGULAR_WITHIN);
        self.excused.push(now);
        self.irregular = self.excused.len() >= IRREGULAR_SILENCES;
        self.irregular
    }

    /// Counts lines that were heard here; `true` if counting begins with them.
    pub(super) fn count(&mut self, lines: u32, now: EngineTime) -> bool {
        let all = self.lines.get_or_insert(0);
        *all = all.saturating_add(u64::from(lines));
        self.add(u64::from(lines), now)
    }

    /// Lines that were counted here; `None` if none are.
    pub(super) fn lines(&self) -> Option<u64> {
        self.lines
    }

    /// Counts lines of which a peer has counted so many until now; `true` if counting begins with them.
    pub(super) fn count_elsewhere(&mut self, peer: u16, total: u64, now: EngineTime) -> bool {
        let Some((_, known)) = self.elsewhere.iter_mut().find(|(known, _)| *known == peer) else {
            // How many of them are of this minute is not known.
            self.elsewhere.push((peer, total));
            if !self.counted_by.contains(&peer) {
                self.counted_by.push(peer);
            }
            return false;
        };
        let before = std::mem::replace(known, total);
        // A peer that has started again counts anew.
        let lines = if total < before { total } else { total - before };
        lines > 0 && self.add(lines, now)
    }

    /// Part of this minute was not seen, if a peer has counted some of its lines.
    pub(super) fn note_blind_of(&mut self, peer: u16) {
        if self.counted_by.contains(&peer) {
            self.note_blind();
        }
    }

    /// The places of peers are others than when the state was saved.
    pub(super) fn renumber_peers(&mut self, place_of: impl Fn(u16) -> Option<u16>) {
        self.counted_by = self.counted_by.iter().filter_map(|&peer| place_of(peer)).collect();
    }

    /// Whether its lines are counted and enough.
    pub(super) fn has_enough(&self) -> bool {
        self.minute.is_some() && !self.low
    }

    fn add(&mut self, lines: u64, now: EngineTime) -> bool {
        let begins = self.minute.is_none();
        let minute = self.minute.get_or_insert(Minute { end: now + MINUTE, lines: 0, is_blind: false });
        minute.lines = minute.lines.saturating_add(lines);
        begins
    }

    /// Part of this minute was not seen.
    pub(super) fn note_blind(&mut self) {
        if let Some(minute) = &mut self.minute {
            minute.is_blind = true;
        }
    }

    /// Whether it has fewer lines than it should have.
    pub(super) fn is_low(&self) -> bool {
        self.low
    }

    /// Lines of the last minute that was judged, if one was since we started.
    pub(super) fn last_lines(&self) -> Option<u64> {
        self.last_lines
    }

    /// Whether that it is low is notified.
    pub(super) fn set_low_notified(&mut self, is_notified: bool) {
        self.low_notified = is_notified;
    }

    /// Its lines are not counted any more; if it was low, whether that was notified.
    pub(super) fn stop_counting(&mut self) -> Option<bool> {
        (self.minute, self.last_lines, self.below, self.fine) = (None, None, 0, 0);
        let (was_low, was_notified) = (std::mem::take(&mut self.low), std::mem::take(&mut self.low_notified));
        was_low.then_some(was_notified)
    }

    /// Looks at its minute: `is_counted` says that it is up or late, without which nothing is.
    pub(super) fn look(&mut self, floor: u32, is_counted: bool, now: EngineTime) -> Verdict {
        if !is_counted {
            return Verdict::Over(self.stop_counting());
        }
        let Some(minute) = self.minute else {
            // It was low before our restart: its end is still to come.
            return if self.low { Verdict::Same } else { Verdict::Over(None) };
        };
        if now < minute.end {
            return Verdict::Same;
        }
        self.minute = Some(Minute { end: minute.end + MINUTE, lines: 0, is_blind: false });
        if minute.is_blind {
            return Verdict::Same;
        }
        self.last_lines = Some(minute.lines);
        if minute.lines < u64::from(floor) {
            (self.below, self.fine) = (self.below.saturating_add(1), 0);
        } else {
            (self.below, self.fine) = (0, self.fine.saturating_add(1));
        }
        if self.below >= MINUTES && !self.low {
            self.low = true;
            return Verdict::Low;
        }
        if self.fine >= MINUTES && self.low {
            self.low = false;
            return Verdict::Fine(std::mem::take(&mut self.low_notified));
        }
        Verdict::Same
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: f64) -> EngineTime {
        EngineTime::from_secs(secs)
    }

    #[test]
    fn the_third_return_within_eight_days_is_irregular_until_an_interval_is_declared() {
        let mut one = Watching::default();
        let day = 86_400.0;
        assert!(!one.note_return(at(0.0)) && !one.note_return(at(day)));
        // The first is forgotten by then.
        assert!(!one.note_return(at(8.5 * day)));
        assert!(one.note_return(at(8.6 * day)) && one.is_irregular());
        assert!(!one.note_return(at(8.7 * day)));
        one.note_watch(0, false);
        assert!(one.is_irregular());
        one.note_watch(0, true);
        assert!(!one.is_irregular());
    }

    #[test]
    fn two_minutes_below_the_floor_are_low_and_blind_minutes_are_none() {
        let mut one = Watching::default();
        assert!(one.count(1, at(0.0)) && !one.count(1, at(1.0)));
        let mut minute = |n: u32, lines: u32, is_blind: bool| {
            one.count(lines, at(60.0 * f64::from(n) - 1.0));
            if is_blind {
                one.note_blind();
            }
            one.look(5, true, at(60.0 * f64::from(n)))
        };
        assert_eq!(minute(1, 3, false), Verdict::Same, "2 and 3 are 5");
        assert_eq!(minute(2, 4, false), Verdict::Same);
        assert_eq!(minute(3, 0, true), Verdict::Same);
        assert_eq!(minute(4, 4, false), Verdict::Low);
        assert_eq!(minute(5, 4, false), Verdict::Same);
        assert_eq!(minute(6, 5, false), Verdict::Same);
        assert_eq!(minute(7, 5, false), Verdict::Fine(false));
        assert_eq!((minute(8, 0, false), minute(9, 0, false)), (Verdict::Same, Verdict::Low));
        one.set_low_notified(true);
        assert_eq!(one.look(5, false, at(541.0)), Verdict::Over(Some(true)));
        assert_eq!((one.is_low(), one.look(5, true, at(900.0))), (false, Verdict::Over(None)));
        // Over a restart it stays low until it goes down, or until two minutes are fine.
        let mut restored = Watching { low: true, low_notified: true, ..Watching::default() };
        assert_eq!(restored.look(5, true, at(1000.0)), Verdict::Same);
        assert_eq!(restored.look(5, false, at(1001.0)), Verdict::Over(Some(true)));
    }
}
