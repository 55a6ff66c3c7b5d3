//! What is remembered of an instance beyond its state: how it was in the last day, which share of the interval it was
//! present, and what was lost of it in the last hour.

use serde::{Deserialize, Serialize};

use super::instance::State;
use super::time::EngineTime;

/// Length of a cell of the strip, in seconds, and how many there are: a day.
const CELL: f64 = 1800.0;
const CELLS: usize = 48;

/// Length of a bucket of losses, in seconds, and how many there are: an hour.
const BUCKET: f64 = 600.0;
const BUCKETS: usize = 6;

/// The worst state in each half hour of the last day, two cells a byte, and losses of the last hour.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct History {
    cells: [u8; CELLS / 2],
    /// Number of the current half hour.
    cell: u32,
    /// Number of the current ten minutes.
    bucket: u32,
    /// Beats that were due, and those of them that were lost.
    losses: [(u16, u16); BUCKETS],
    /// Seconds present since the last report to sinks, up to the last change.
    present: f32,
}

fn cell_of(at: EngineTime) -> u32 {
    (at.as_secs() / CELL) as u32
}

fn bucket_of(at: EngineTime) -> u32 {
    (at.as_secs() / BUCKET) as u32
}

/// From good to bad: what a half hour is shown as. 0 is nothing.
fn rank(state: State) -> u8 {
    match state {
        State::Left => 1,
        State::Up => 2,
        State::Unknown => 3,
        State::Late => 4,
        State::Down => 5,
    }
}

/// The letter of a rank, as the board shows it.
const LETTERS: [char; 6] = ['.', 'G', 'U', '?', 'L', 'D'];

impl History {
    pub(super) fn new(now: EngineTime) -> History {
        History { cell: cell_of(now), ..History::default() }
    }

    /// One that was saved at `now`: it knows no later half hour.
    #[must_use]
    pub(super) fn restored(self, now: EngineTime) -> History {
        History { cell: self.cell.min(cell_of(now)), bucket: self.bucket.min(bucket_of(now)), ..self }
    }

    fn get(&self, cell: u32) -> u8 {
        let at = cell as usize % CELLS;
        self.cells[at / 2] >> (at % 2 * 4) & 15
    }

    fn set(&mut self, cell: u32, rank: u8) {
        let at = cell as usize % CELLS;
        let byte = &mut self.cells[at / 2];
        *byte = *byte & !(15 << (at % 2 * 4)) | rank << (at % 2 * 4);
    }

    /// Time has passed in a state.
    fn advance(&mut self, now: EngineTime, state: Option<State>) {
        let cell = cell_of(now);
        let rank = state.map_or(0, rank);
        self.set(self.cell, self.get(self.cell).max(rank));
        let from = self.cell.saturating_add(1).max(cell.saturating_sub(CELLS as u32));
        for passed in from..=cell {
            self.set(passed, rank);
        }
        self.cell = self.cell.max(cell);
    }

    /// The state changes at `now`; it was `was` since `changed`. Sinks were reported to at `reported_at`.
    pub(super) fn change(
        &mut self,
        now: EngineTime,
        changed: EngineTime,
        reported_at: EngineTime,
        was: Option<State>,
        is: Option<State>,
    ) {
        self.advance(now, was);
        self.set(self.cell, self.get(self.cell).max(is.map_or(0, rank)));
        if was.is_some_and(State::is_present) {
            self.present += (now - changed.max(reported_at)).max(0.0) as f32;
        }
    }

    /// The share of the time since `reported_at`, or since it was `first` heard, that it was present.
    pub(super) fn take_availability(
        &mut self,
        now: EngineTime,
        changed: EngineTime,
        reported_at: EngineTime,
        first: EngineTime,
        state: State,
    ) -> f64 {
        let length = now - reported_at.max(first);
        let mut present = f64::from(std::mem::take(&mut self.present));
        if state.is_present() {
            present += (now - changed.max(reported_at)).max(0.0);
        }
        let share = if length > 0.0 { present / length } else { f64::from(u8::from(state.is_present())) };
        share.clamp(0.0, 1.0)
    }

    /// A letter for each half hour of the last day, the current one last.
    pub(super) fn strip(&self, now: EngineTime, state: State) -> String {
        let mut copy = self.clone();
        copy.advance(now, Some(state));
        let first = copy.cell.saturating_add(1).saturating_sub(CELLS as u32);
        (first..=copy.cell).map(|cell| LETTERS[usize::from(copy.get(cell)).min(5)]).collect()
    }

    /// So many beats were due since the last, and all but one were lost.
    pub(super) fn note_loss(&mut self, now: EngineTime, due: u64) {
        let bucket = bucket_of(now);
        self.forget(bucket);
        let (expected, lost) = &mut self.losses[bucket as usize % BUCKETS];
        let due = due.min(u64::from(u16::MAX)) as u16;
        *expected = expected.saturating_add(due);
        *lost = lost.saturating_add(due.saturating_sub(1));
    }

    fn forget(&mut self, bucket: u32) {
        let old = self.bucket.max(bucket.saturating_sub(BUCKETS as u32));
        for passed in old.saturating_add(1)..=bucket {
            self.losses[passed as usize % BUCKETS] = (0, 0);
        }
        self.bucket = self.bucket.max(bucket);
    }

    /// The share of beats lost in the last hour; `None` if none was due.
    pub(super) fn loss(&self, now: EngineTime) -> Option<f64> {
        let mut copy = self.clone();
        copy.forget(bucket_of(now));
        let expected: u32 = copy.losses.iter().map(|(expected, _)| u32::from(*expected)).sum();
        let lost: u32 = copy.losses.iter().map(|(_, lost)| u32::from(*lost)).sum();
        (expected > 0).then(|| f64::from(lost) / f64::from(expected))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: f64) -> EngineTime {
        EngineTime::from_secs(secs)
    }

    #[test]
    fn the_strip_shows_the_worst_of_each_half_hour() {
        let mut history = History::new(at(0.0));
        history.change(at(0.0), at(0.0), at(0.0), None, Some(State::Up));
        history.change(at(2000.0), at(0.0), at(0.0), Some(State::Up), Some(State::Down));
        history.change(at(2010.0), at(2000.0), at(0.0), Some(State::Down), Some(State::Up));
        let strip = history.strip(at(4.0 * CELL), State::Up);
        assert_eq!(strip, "UDUUU");
        let later = history.strip(at(100.0 * CELL), State::Up);
        assert_eq!((later.len(), later.contains('D')), (CELLS, false));
    }

    #[test]
    fn availability_is_the_share_since_it_was_last_told() {
        let mut history = History::new(at(0.0));
        // Heard first at 5, reported at 10 and 20.
        history.change(at(5.0), at(5.0), at(0.0), None, Some(State::Up));
        assert_eq!(history.take_availability(at(10.0), at(5.0), at(0.0), at(5.0), State::Up), 1.0);
        history.change(at(12.0), at(5.0), at(10.0), Some(State::Up), Some(State::Down));
        assert!((history.take_availability(at(20.0), at(12.0), at(10.0), at(5.0), State::Down) - 0.2).abs() < 1e-6);
        assert_eq!(history.take_availability(at(30.0), at(12.0), at(20.0), at(5.0), State::Down), 0.0);
    }

    #[test]
    fn losses_are_forgotten_after_an_hour() {
        let mut history = History::new(at(0.0));
        for n in 0..10 {
            history.note_loss(at(f64::from(n)), 1);
        }
        history.note_loss(at(20.0), 10);
        assert_eq!(history.loss(at(30.0)), Some(0.45));
        assert_eq!(history.loss(at(4000.0)), None);
    }
}
