//! When to look at whom again. Whoever is scheduled has one entry that counts; a later one that it supersedes is skipped
//! when it comes up, so that rescheduling moves nothing.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use crate::memory::vec_footprint;

use super::time::EngineTime;

/// An entry of the queue: when, and whom by its place in the table.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Entry {
    at: EngineTime,
    place: u32,
}

impl Eq for Entry {}

impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> Ordering {
        self.at.total_cmp(&other.at).then(self.place.cmp(&other.place))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A queue of places in a table, by time.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    queue: BinaryHeap<Reverse<Entry>>,
    /// When each place is looked at; never, if it is not scheduled.
    due: Vec<EngineTime>,
    /// How many places are scheduled.
    scheduled: usize,
}

/// Superseded entries beyond those that count and this many are thrown away when there are more than of these.
const MOST_SUPERSEDED: usize = 64;

impl Schedule {
    /// Bytes that it takes.
    pub(super) fn heap_bytes(&self) -> usize {
        vec_footprint::<Reverse<Entry>>(self.queue.capacity()) + vec_footprint::<EngineTime>(self.due.capacity())
    }

    /// Looks at a place at `at`, or earlier if it is scheduled so.
    pub(super) fn put(&mut self, place: u32, at: EngineTime) {
        if self.due.len() <= place as usize {
            self.due.resize(place as usize + 1, EngineTime::NEVER);
        }
        let due = &mut self.due[place as usize];
        if at < *due {
            self.scheduled += usize::from(*due == EngineTime::NEVER);
            *due = at;
            self.queue.push(Reverse(Entry { at, place }));
            if self.queue.len() > 2 * self.scheduled + MOST_SUPERSEDED {
                self.forget_superseded();
            }
        }
    }

    fn forget_superseded(&mut self) {
        let all = (0_u32..).zip(&self.due).filter(|(_, at)| **at < EngineTime::NEVER);
        self.queue = all.map(|(place, &at)| Reverse(Entry { at, place })).collect();
    }

    /// Looks at a place no more: whoever had it has gone.
    pub(super) fn remove(&mut self, place: u32) {
        if let Some(due) = self.due.get_mut(place as usize) {
            self.scheduled -= usize::from(*due < EngineTime::NEVER);
            *due = EngineTime::NEVER;
        }
    }

    /// Nobody is due before that.
    pub(super) fn next(&self) -> EngineTime {
        self.queue.peek().map_or(EngineTime::NEVER, |Reverse(entry)| entry.at)
    }

    /// Takes the places that are due at `now`.
    pub(super) fn take_due(&mut self, now: EngineTime) -> Vec<u32> {
        let mut places = Vec::new();
        while let Some(&Reverse(entry)) = self.queue.peek() {
            if entry.at > now {
                break;
            }
            self.queue.pop();
            let due = &mut self.due[entry.place as usize];
            if *due == entry.at {
                *due = EngineTime::NEVER;
                self.scheduled -= 1;
                places.push(entry.place);
            }
        }
        places
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: f64) -> EngineTime {
        EngineTime::from_secs(secs)
    }

    #[test]
    fn a_place_is_due_once_at_its_earliest_time() {
        let mut schedule = Schedule::default();
        schedule.put(3, at(10.0));
        schedule.put(3, at(5.0));
        // Later than it is scheduled already.
        schedule.put(3, at(7.0));
        schedule.put(1, at(6.0));
        assert!(schedule.take_due(at(4.9)).is_empty());
        assert_eq!(schedule.take_due(at(6.0)), [3, 1]);
        assert!(schedule.take_due(at(20.0)).is_empty(), "what was superseded is skipped");
    }

    #[test]
    fn what_is_superseded_does_not_pile_up() {
        let mut schedule = Schedule::default();
        // One that goes down and comes back again and again: to be forgotten after a day, and late after some seconds.
        for n in 0..10_000 {
            let now = f64::from(n) * 60.0;
            schedule.put(0, at(now + 86_400.0));
            schedule.put(0, at(now + 15.0));
            schedule.put(1, at(1e9));
            assert_eq!(schedule.take_due(at(now + 15.0)), [0]);
            assert!(schedule.queue.len() <= 2 * 2 + MOST_SUPERSEDED, "{}", schedule.queue.len());
        }
        schedule.remove(1);
        assert_eq!(schedule.scheduled, 0);
        assert!(schedule.take_due(at(2e9)).is_empty());
    }

    #[test]
    fn whoever_takes_the_place_of_one_that_has_gone_is_not_looked_at_for_it() {
        let mut schedule = Schedule::default();
        schedule.put(0, at(5.0));
        schedule.remove(0);
        schedule.put(0, at(8.0));
        assert!(schedule.take_due(at(5.0)).is_empty());
        assert_eq!(schedule.take_due(at(8.0)), [0]);
    }
}
