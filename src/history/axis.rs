//! The time axis that all series share: intervals, the blocks that their values are sealed in, and minutes.
//!
//! A block has at most [`BLOCK`] intervals and ends with a minute where it can, so that intervals leave the history in runs of
//! whole minutes, and a series' minutes are made of its intervals when these leave, never twice.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Most intervals of a block, and the minutes of a block of minutes.
pub(super) const BLOCK: u32 = 30;

const MINUTE: f64 = 60.0;

/// Starts of the daemon that are told.
const MOST_STARTS: usize = 100;

/// One interval.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Interval {
    /// Its end, Unix seconds.
    pub(super) end: f64,
    /// Its measured length, seconds.
    pub(super) secs: f64,
    /// What rates are divided by, seconds.
    pub(super) rate_secs: f64,
    /// Share of datagrams that were read, 0 to 1; `None` if the history has not seen the interval.
    pub(super) completeness: Option<f32>,
    /// The clock was set back behind it: later intervals have its place.
    pub(super) is_superseded: bool,
}

impl Interval {
    /// The minute it belongs to, counted from 1970: that in which it ends. A minute ends with its last instant.
    pub(super) fn minute(&self) -> u32 {
        ((self.end / MINUTE).ceil() - 1.0).max(0.0) as u32
    }

    pub(super) fn is_seen(&self) -> bool {
        self.completeness.is_some()
    }
}

/// The end of a minute, Unix seconds.
pub(super) fn minute_end(minute: u32) -> f64 {
    (f64::from(minute) + 1.0) * MINUTE
}

/// Intervals that are sealed together.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Block {
    pub(super) number: u32,
    /// The number of its first interval.
    pub(super) first: u64,
    pub(super) length: u32,
    /// Whether its last interval ends a minute.
    pub(super) ends_minute: bool,
}

/// One minute, as far as intervals of it have ended.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Minute {
    /// Minutes since 1970.
    pub(super) number: u32,
    /// End of its last interval, Unix seconds.
    pub(super) end: f64,
    /// Its intervals that were seen.
    pub(super) seen: u32,
    /// The length that rates are divided by of those, seconds.
    pub(super) rate_secs: f64,
    /// Their completeness times that length.
    pub(super) complete_secs: f64,
}

impl Minute {
    pub(super) fn add(&mut self, interval: &Interval) {
        self.end = interval.end;
        if let Some(completeness) = interval.completeness {
            self.seen += 1;
            self.rate_secs += interval.rate_secs;
            self.complete_secs += f64::from(completeness) * interval.rate_secs;
        }
    }
}

/// The axis.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    /// Configured length of an interval, seconds.
    interval_secs: f64,
    /// Intervals and minutes that are kept.
    most_intervals: usize,
    most_minutes: usize,
    /// When the daemon was started, Unix seconds.
    starts: VecDeque<f64>,
    /// The next interval is the first of a start.
    is_start: bool,
    /// The number of the first interval.
    pub(super) base: u64,
    /// The number of the first that stays: earlier ones leave, series after series.
    first_kept: u64,
    pub(super) intervals: VecDeque<Interval>,
    pub(super) blocks: VecDeque<Block>,
    pub(super) minutes: VecDeque<Minute>,
}

/// What a new interval changed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pushed {
    /// A block was closed: heads of earlier ones are to be sealed.
    pub(super) is_cut: bool,
}

impl Axis {
    pub(super) fn new(interval_secs: f64, intervals: usize, minutes: usize) -> Axis {
        // A minute is made of its intervals when these leave together.
        let least = (2.0 * MINUTE / interval_secs).ceil() as usize;
        Axis {
            interval_secs,
            most_intervals: intervals.max(least),
            most_minutes: minutes,
            starts: VecDeque::new(),
            is_start: true,
            base: 0,
            first_kept: 0,
            intervals: VecDeque::new(),
            blocks: VecDeque::new(),
            minutes: VecDeque::new(),
        }
    }

    /// Configured length of an interval, seconds.
    pub(super) fn interval_secs(&self) -> f64 {
        self.interval_secs
    }

    /// The begins of first intervals, Unix seconds.
    pub(super) fn starts(&self) -> impl Iterator<Item = f64> {
        self.starts.iter().copied()
    }

    /// The number of the next interval.
    pub(super) fn next(&self) -> u64 {
        self.base + self.intervals.len() as u64
    }

    pub(super) fn last(&self) -> Option<&Interval> {
        self.intervals.back()
    }

    /// An interval by its number.
    pub(super) fn interval(&self, number: u64) -> Option<&Interval> {
        self.intervals.get(usize::try_from(number.checked_sub(self.base)?).ok()?)
    }

    /// A block by its number.
    pub(super) fn block(&self, number: u32) -> Option<&Block> {
        let first = self.blocks.front()?.number;
        self.blocks.get(number.checked_sub(first)? as usize)
    }

    /// The block that is filled.
    pub(super) fn open_block(&self) -> Block {
        self.blocks.back().copied().unwrap_or(Block { number: 0, first: 0, length: 0, ends_minute: false })
    }

    /// The first minute that is kept.
    pub(super) fn first_minute(&self) -> u32 {
        self.minutes.front().map_or(0, |minute| minute.number)
    }

    pub(super) fn last_minute(&self) -> u32 {
        self.minutes.back().map_or(0, |minute| minute.number)
    }

    /// Where the intervals that are kept begin, Unix seconds.
    pub(super) fn begin(&self) -> Option<f64> {
        self.intervals.get(self.leaving()).map(|first| first.end - first.secs)
    }

    /// The number of the first interval that stays.
    pub(super) fn first_kept(&self) -> u64 {
        self.first_kept.max(self.base)
    }

    /// How many intervals are leaving: some series have them still, of others they are in minutes.
    pub(super) fn leaving(&self) -> usize {
        (self.first_kept() - self.base) as usize
    }

    /// Intervals before this block begin to leave.
    pub(super) fn leave(&mut self, block: u32) {
        if let Some(first) = self.block(block).map(|block| block.first) {
            self.first_kept = self.first_kept().max(first);
        }
    }

    /// Bytes that it takes.
    pub(super) fn heap_bytes(&self) -> usize {
        use crate::memory::vec_footprint;
        vec_footprint::<Interval>(self.intervals.capacity())
            + vec_footprint::<Block>(self.blocks.capacity())
            + vec_footprint::<Minute>(self.minutes.capacity())
            + vec_footprint::<f64>(self.starts.capacity())
    }

    /// Appends an interval. Those that leave for it are still here: [`Axis::expire`] lets them go.
    pub(super) fn push(&mut self, interval: Interval) -> Pushed {
        let last_minute = self.last().map(Interval::minute);
        if self.last().is_some_and(|last| last.end >= interval.end) {
            let later = self.intervals.iter_mut().rev().take_while(|known| known.end >= interval.end);
            later.for_each(|known| known.is_superseded = true);
        }
        if interval.is_seen() && std::mem::take(&mut self.is_start) {
            self.starts.push_back(interval.end - interval.secs);
            if self.starts.len() > MOST_STARTS {
                self.starts.pop_front();
            }
        }
        let mut is_cut = false;
        let next = self.next();
        let in_minute = (MINUTE / self.interval_secs).ceil() as u32;
        let ends_minute = last_minute.is_some_and(|last| last != interval.minute());
        match self.blocks.back_mut() {
            Some(open) if open.length < BLOCK && !(ends_minute && open.length + in_minute > BLOCK) => open.length += 1,
            open => {
                is_cut = open.is_some();
                let number = open.map_or(0, |open| {
                    open.ends_minute = ends_minute;
                    open.number + 1
                });
                self.blocks.push_back(Block { number, first: next, length: 1, ends_minute: false });
            }
        }
        match self.minutes.back_mut() {
            // After a step back of the clock there is one minute for those that come again.
            Some(minute) if minute.number >= interval.minute() => minute.add(&interval),
            _ => {
                let number = interval.minute();
                let mut minute = Minute { number, end: interval.end, seen: 0, rate_secs: 0.0, complete_secs: 0.0 };
                minute.add(&interval);
                self.minutes.push_back(minute);
            }
        }
        self.intervals.push_back(interval);
        Pushed { is_cut }
    }

    /// Blocks that may leave, counted from the oldest: whole minutes, as long as enough intervals stay.
    fn expired(&self) -> usize {
        let (mut left, mut expired) = (self.intervals.len(), 0);
        for (n, block) in self.blocks.iter().enumerate() {
            left -= block.length as usize;
            if left < self.most_intervals {
                break;
            }
            if block.ends_minute {
                expired = n + 1;
            }
        }
        expired
    }

    /// What is kept from now on: the first block and the first minute. [`Axis::expire`] lets go what is before them.
    pub(super) fn kept(&self) -> (u32, u32) {
        let block = self.blocks.get(self.expired()).map_or(0, |block| block.number);
        (block, self.minute_of(self.most_minutes))
    }

    /// The first of so many last minutes.
    pub(super) fn minute_of(&self, most: usize) -> u32 {
        if most == 0 { u32::MAX } else { self.last_minute().saturating_sub(most as u32 - 1) }
    }

    /// Lets intervals and minutes go that are not kept: those before these.
    pub(super) fn expire(&mut self, (block, minute): (u32, u32)) {
        while let Some(first) = self.blocks.front().filter(|first| first.number < block) {
            self.intervals.drain(..first.length as usize);
            self.base += u64::from(first.length);
            self.blocks.pop_front();
        }
        // Minutes of intervals that are here stay for the readers.
        let first = self.intervals.front().map_or(0, Interval::minute).min(minute);
        while self.minutes.front().is_some_and(|known| known.number < first) {
            self.minutes.pop_front();
        }
    }
}

/// The axis as it is saved.
#[derive(Serialize, Deserialize)]
pub(super) struct SavedAxis {
    interval_secs: f64,
    base: u64,
    first_kept: u64,
    starts: VecDeque<f64>,
    intervals: VecDeque<Interval>,
    blocks: VecDeque<Block>,
    minutes: VecDeque<Minute>,
}

impl SavedAxis {
    pub(super) fn interval_secs(&self) -> f64 {
        self.interval_secs
    }

    /// Whether an axis can be like that.
    fn is_possible(&self) -> bool {
        let ends = self.intervals.iter().flat_map(|one| [one.end, one.secs, one.rate_secs]);
        let minutes = self.minutes.iter().flat_map(|one| [one.end, one.rate_secs, one.complete_secs]);
        let mut next = (self.base, self.blocks.front().map_or(0, |first| first.number));
        let follows = self.blocks.iter().all(|block| {
            let is_next = (block.first, block.number) == next && (1..=BLOCK).contains(&block.length);
            next = (next.0.saturating_add(u64::from(block.length)), next.1.saturating_add(1));
            is_next
        });
        follows
            && next.0.checked_sub(self.base) == Some(self.intervals.len() as u64)
            && self.first_kept <= next.0
            && !self.intervals.is_empty()
            && ends.chain(minutes).chain(self.starts.iter().copied()).all(f64::is_finite)
            && self.minutes.iter().is_sorted_by(|a, b| a.number < b.number)
    }
}

impl Axis {
    pub(super) fn save(&self) -> SavedAxis {
        SavedAxis {
            interval_secs: self.interval_secs,
            base: self.base,
            first_kept: self.first_kept,
            starts: self.starts.clone(),
            intervals: self.intervals.clone(),
            blocks: self.blocks.clone(),
            minutes: self.minutes.clone(),
        }
    }

    /// Goes on with what was saved of an axis with the same length of an interval; whether that can be.
    pub(super) fn restore(&mut self, saved: SavedAxis) -> bool {
        let is_possible = saved.interval_secs == self.interval_secs && saved.is_possible();
        if is_possible {
            let SavedAxis { base, first_kept, starts, intervals, blocks, minutes, .. } = saved;
            *self = Axis { base, first_kept, starts, intervals, blocks, minutes, ..self.clone() };
        }
        is_possible
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(interval_secs: f64, start: f64, count: usize, most: usize) -> Axis {
        let mut axis = Axis::new(interval_secs, most, 10);
        for n in 1..=count {
            let end = start + interval_secs * n as f64;
            let completeness = Some(1.0);
            let interval =
                Interval { end, secs: interval_secs, rate_secs: interval_secs, completeness, is_superseded: false };
            if axis.push(interval).is_cut {
                axis.expire(axis.kept());
            }
            let mut next = axis.base;
            for block in &axis.blocks {
                assert_eq!(block.first, next);
                assert!(block.length <= BLOCK);
                next += u64::from(block.length);
            }
            assert_eq!(next, axis.next());
        }
        axis
    }

    #[test]
    fn intervals_leave_in_whole_minutes_and_enough_stay() {
        for (interval, start, most, slack) in [
            (10.0, 1_000_020.0, 360, 36),
            (10.0, 1_000_000.0, 360, 66),
            (1.0, 1_000_003.0, 360, 90),
            (7.0, 0.0, 360, 70),
            (60.0, 0.0, 360, 60),
            (300.0, 0.0, 36, 60),
            (0.2, 17.0, 360, 1000),
        ] {
            let axis = run(interval, start, 3 * most + 2000, most);
            let kept = axis.intervals.len();
            assert!((most..most + slack).contains(&kept) || interval < 0.34, "{interval}: {kept}");
            let first = axis.intervals[0];
            assert!((first.end - first.secs) / 60.0 - f64::from(first.minute()) < interval / 60.0 + 1e-6, "{interval}");
        }
    }

    #[test]
    fn a_clock_that_is_set_back_supersedes_what_it_passes_again() {
        let mut axis = run(10.0, 1000.0, 5, 30);
        axis.push(Interval { end: 1030.0, ..axis.intervals[0] });
        let superseded: Vec<bool> = axis.intervals.iter().map(|interval| interval.is_superseded).collect();
        assert_eq!(superseded, [false, false, true, true, true, false]);
    }
}
