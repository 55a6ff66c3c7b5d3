//! The values of one open interval, by class, indexed by the dense ids of an index. A tick swaps the columns of a
//! shard for empty ones; nothing is swept on the receive path.

use serde::{Deserialize, Serialize};

use crate::memory::{footprint, vec_footprint};

use super::counter::Sum;
use super::gauge::Gauge;
use super::overrides::Levels;
use super::set::Members;
use super::timer::Timer;

/// How values of a series are stored. Meters are counters; histograms and distributions are timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum Class {
    /// `c`, `m`
    Counter,
    /// `g`
    Gauge,
    /// `ms`, `h`, `d`
    Timer,
    /// `s`
    Set,
    /// `kv`
    Kv,
}

impl Class {
    /// Every class, in the order of its number.
    pub const ALL: [Class; 5] = [Class::Counter, Class::Gauge, Class::Timer, Class::Set, Class::Kv];
}

/// The values of one series in one interval.
pub trait Cell: Default {
    /// Whether it may take bytes beside itself.
    const HAS_HEAP: bool = false;

    /// An empty cell for the next interval of the same series; it may reserve the capacity that this one needed.
    #[must_use]
    fn successor(&self) -> Self {
        Self::default()
    }

    /// Bytes that it takes beside itself.
    fn heap_bytes(&self) -> usize {
        0
    }
}

impl Cell for Sum {}

impl Cell for Gauge {}

impl Cell for Timer {
    const HAS_HEAP: bool = true;

    fn successor(&self) -> Timer {
        Timer::successor(self)
    }

    fn heap_bytes(&self) -> usize {
        Timer::heap_bytes(self)
    }
}

impl Cell for Members {
    const HAS_HEAP: bool = true;

    fn heap_bytes(&self) -> usize {
        Members::heap_bytes(self)
    }
}

impl Cell for Vec<f64> {
    const HAS_HEAP: bool = true;

    fn heap_bytes(&self) -> usize {
        vec_footprint::<f64>(self.capacity())
    }
}

impl Cell for Levels {}

/// Cells of a page. A column grows by pages, so that a new series never moves others.
const PAGE_CELLS: usize = 1024;

/// Drained pages that a column keeps; further ones are freed, so that an interval of many series does not use its
/// memory twice.
const KEPT_PAGES: usize = 16;

/// One class: a cell per id, and which cells this interval touched.
#[derive(Debug)]
pub struct Column<T> {
    pages: Vec<Page<T>>,
    /// Pages that have cells.
    with_cells: usize,
    /// Bytes that cells took beside themselves when they had been drained.
    reserved: usize,
    /// TouchedBits of touched cells that were taken out of their pages, by page; empty if nobody takes any.
    taken: Vec<TouchedBits>,
}

/// One bit per cell of a page.
type TouchedBits = [u64; PAGE_CELLS / 64];

#[derive(Debug)]
struct Page<T> {
    /// One bit per cell.
    touched: TouchedBits,
    cells: Option<Box<[T; PAGE_CELLS]>>,
}

impl<T> Default for Column<T> {
    fn default() -> Column<T> {
        Column { pages: Vec::new(), with_cells: 0, reserved: 0, taken: Vec::new() }
    }
}

impl<T> Default for Page<T> {
    fn default() -> Page<T> {
        Page { touched: [0; PAGE_CELLS / 64], cells: None }
    }
}

impl<T: Cell> Column<T> {
    /// The cell of an id, marked as touched.
    #[inline]
    pub fn touch(&mut self, id: u32) -> &mut T {
        let (at, n) = (id as usize / PAGE_CELLS, id as usize % PAGE_CELLS);
        if self.pages.get(at).is_none_or(|page| page.cells.is_none()) {
            self.add_cells(at);
        }
        let page = &mut self.pages[at];
        page.touched[n / 64] |= 1 << (n % 64);
        // It has some.
        &mut page.cells.get_or_insert_with(empty_cells)[n]
    }

    /// The same if its page has cells.
    #[inline]
    pub(super) fn touch_known(&mut self, id: u32) -> Option<&mut T> {
        let (at, n) = (id as usize / PAGE_CELLS, id as usize % PAGE_CELLS);
        let page = self.pages.get_mut(at)?;
        let cells = page.cells.as_mut()?;
        page.touched[n / 64] |= 1 << (n % 64);
        Some(&mut cells[n])
    }

    /// Whether an id was touched since its mark was taken last, in this interval. The next update marks it again;
    /// for everybody else it stays touched.
    pub(super) fn take_mark(&mut self, id: u32) -> bool {
        let (at, n) = (id as usize / PAGE_CELLS, id as usize % PAGE_CELLS);
        let Some(page) = self.pages.get_mut(at) else { return false };
        let mark = 1 << (n % 64);
        let is_touched = page.touched[n / 64] & mark != 0;
        if is_touched {
            page.touched[n / 64] &= !mark;
            if self.taken.len() <= at {
                self.taken.resize(at + 1, [0; PAGE_CELLS / 64]);
            }
            self.taken[at][n / 64] |= mark;
        }
        is_touched
    }

    /// Puts marks back that were taken.
    fn put_marks_back(&mut self) {
        for (page, taken) in self.pages.iter_mut().zip(&self.taken) {
            page.touched.iter_mut().zip(taken).for_each(|(touched, taken)| *touched |= taken);
        }
        self.taken.clear();
    }

    /// Gives a page cells. Apart from [`Column::touch`], which is small enough then to be part of what calls it.
    #[cold]
    #[inline(never)]
    fn add_cells(&mut self, at: usize) {
        if at >= self.pages.len() {
            self.pages.resize_with(at + 1, Page::default);
        }
        self.pages[at].cells = Some(empty_cells());
        self.with_cells += 1;
    }

    /// Bytes that the pages take, without what cells take beside themselves.
    #[inline]
    pub(super) fn page_bytes(&self) -> usize {
        self.with_cells * footprint(PAGE_CELLS * size_of::<T>())
            + vec_footprint::<Page<T>>(self.pages.capacity())
            + vec_footprint::<TouchedBits>(self.taken.capacity())
    }

    /// Bytes that cells take beside themselves in a column that was drained and not touched since: what they reserve.
    pub(super) fn reserved_bytes(&self) -> usize {
        self.reserved
    }

    /// The cell of an id, touched or not; `None` if its page has no cells.
    #[inline]
    pub(super) fn get(&self, id: u32) -> Option<&T> {
        let cells = self.pages.get(id as usize / PAGE_CELLS)?.cells.as_ref()?;
        Some(&cells[id as usize % PAGE_CELLS])
    }

    /// Whether this interval touched the id.
    pub fn is_touched(&self, id: u32) -> bool {
        let (page, n) = (id as usize / PAGE_CELLS, id as usize % PAGE_CELLS);
        let mark = 1 << (n % 64);
        self.pages.get(page).is_some_and(|page| page.touched[n / 64] & mark != 0)
            || self.taken.get(page).is_some_and(|taken| taken[n / 64] & mark != 0)
    }

    /// Passes every touched cell to `visit`, by ascending id.
    pub fn each(&self, mut visit: impl FnMut(u32, &T)) {
        for (number, page) in self.pages.iter().enumerate() {
            let (Some(cells), taken) = (&page.cells, self.taken.get(number)) else { continue };
            for (word, bits) in page.touched.iter().enumerate() {
                let mut touched = bits | taken.map_or(0, |taken| taken[word]);
                while touched != 0 {
                    let n = word * 64 + touched.trailing_zeros() as usize;
                    touched &= touched - 1;
                    visit((number * PAGE_CELLS + n) as u32, &cells[n]);
                }
            }
        }
    }

    /// Empties the cell of an id and marks it as untouched.
    pub(super) fn forget(&mut self, id: u32) {
        let n = id as usize % PAGE_CELLS;
        let Some(page) = self.pages.get_mut(id as usize / PAGE_CELLS) else { return };
        page.touched[n / 64] &= !(1 << (n % 64));
        if let Some(taken) = self.taken.get_mut(id as usize / PAGE_CELLS) {
            taken[n / 64] &= !(1 << (n % 64));
        }
        if let Some(cells) = &mut page.cells {
            cells[n] = T::default();
        }
    }

    /// Passes every touched cell to `visit`, by ascending id, and empties the column. What cells reserved that were not touched
    /// is freed: their series may have left.
    pub fn drain(&mut self, mut visit: impl FnMut(u32, T)) {
        self.reserved = 0;
        self.put_marks_back();
        for (number, page) in self.pages.iter_mut().enumerate() {
            let Some(cells) = &mut page.cells else { continue };
            let keep = number < KEPT_PAGES;
            for (word, bits) in page.touched.iter_mut().enumerate() {
                let touched = *bits;
                while *bits != 0 {
                    let n = word * 64 + bits.trailing_zeros() as usize;
                    *bits &= *bits - 1;
                    let next = if keep { cells[n].successor() } else { T::default() };
                    visit((number * PAGE_CELLS + n) as u32, std::mem::replace(&mut cells[n], next));
                }
                if T::HAS_HEAP && keep {
                    for (n, cell) in cells[word * 64..][..64].iter_mut().enumerate() {
                        let bytes = cell.heap_bytes();
                        if touched & (1 << n) != 0 {
                            self.reserved += bytes;
                        } else if bytes > 0 {
                            *cell = T::default();
                        }
                    }
                }
            }
            if !keep {
                page.cells = None;
                self.with_cells -= 1;
            }
        }
    }

    /// The number of ids that this interval touched.
    pub fn len(&self) -> usize {
        let touched: usize =
            self.pages.iter().flat_map(|page| page.touched).map(|bits| bits.count_ones() as usize).sum();
        // A mark may have been taken and set again.
        let again = self.pages.iter().zip(&self.taken).flat_map(|(page, taken)| {
            page.touched.iter().zip(taken).map(|(touched, taken)| (taken & !touched).count_ones() as usize)
        });
        touched + again.sum::<usize>()
    }

    /// Whether nothing was touched.
    #[cfg(feature = "internals")]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cold]
fn empty_cells<T: Cell>() -> Box<[T; PAGE_CELLS]> {
    // Through a vector: an array would be built on the stack first.
    let cells: Box<[T]> = (0..PAGE_CELLS).map(|_| T::default()).collect();
    cells.try_into().unwrap_or_else(|_| unreachable!("as many cells were made as a page has"))
}

/// The values of one interval.
#[derive(Debug, Default)]
pub struct Columns {
    /// Sums of counters.
    pub counters: Column<Sum>,
    /// Updates of gauges.
    pub gauges: Column<Gauge>,
    /// The values that gauges took, where a rule needs more than the last.
    pub levels: Column<Levels>,
    /// Samples of timers, histograms and distributions.
    pub timers: Column<Timer>,
    /// Members of sets.
    pub sets: Column<Members>,
    /// Values of `kv` pairs in order.
    pub kvs: Column<Vec<f64>>,
}

impl Columns {
    /// Bytes of the cells.
    #[inline]
    pub(crate) fn page_bytes(&self) -> usize {
        self.counters.page_bytes()
            + self.gauges.page_bytes()
            + self.levels.page_bytes()
            + self.timers.page_bytes()
            + self.sets.page_bytes()
            + self.kvs.page_bytes()
    }

    /// Bytes of drained columns.
    pub fn drained_bytes(&self) -> usize {
        self.page_bytes() + self.timers.reserved_bytes() + self.sets.reserved_bytes() + self.kvs.reserved_bytes()
    }

    /// Empties the cell of an id of a class.
    pub(crate) fn forget(&mut self, class: Class, id: u32) {
        match class {
            Class::Counter => self.counters.forget(id),
            Class::Gauge => {
                self.gauges.forget(id);
                self.levels.forget(id);
            }
            Class::Timer => self.timers.forget(id),
            Class::Set => self.sets.forget(id),
            Class::Kv => self.kvs.forget(id),
        }
    }

    pub(super) fn take_mark(&mut self, class: Class, id: u32) -> bool {
        match class {
            Class::Counter => self.counters.take_mark(id),
            Class::Gauge => self.gauges.take_mark(id),
            Class::Timer => self.timers.take_mark(id),
            Class::Set => self.sets.take_mark(id),
            Class::Kv => self.kvs.take_mark(id),
        }
    }

    /// Whether this interval touched the id of a class.
    pub(crate) fn is_touched(&self, class: Class, id: u32) -> bool {
        match class {
            Class::Counter => self.counters.is_touched(id),
            Class::Gauge => self.gauges.is_touched(id),
            Class::Timer => self.timers.is_touched(id),
            Class::Set => self.sets.is_touched(id),
            Class::Kv => self.kvs.is_touched(id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::timer::TimerPolicy;
    use super::*;

    #[test]
    fn a_column_hands_out_what_was_touched_and_nothing_else() {
        let mut column = Column::<Sum>::default();
        for round in 1..=3 {
            let ids = [0, 63, 64, 1023, 1024, 70_000, 5 + round];
            ids.iter().for_each(|&id| column.touch(id).add(f64::from(id + round)));
            assert_eq!((column.len(), column.is_touched(64), column.is_touched(65)), (7, true, false));
            let mut drained = Vec::new();
            column.drain(|id, sum| drained.push((id, sum.value())));
            let mut expected = ids.map(|id| (id, f64::from(id + round)));
            expected.sort_by_key(|&(id, _)| id);
            assert_eq!(drained, expected);
            assert!(column.is_empty() && !column.is_touched(70_000));
        }
    }

    #[test]
    fn a_mark_is_taken_once_after_each_update_and_the_interval_keeps_it() {
        let mut column = Column::<Sum>::default();
        column.touch(5).add(1.0);
        column.touch(1030).add(2.0);
        assert_eq!((column.take_mark(5), column.take_mark(5), column.take_mark(6)), (true, false, false));
        assert_eq!((column.is_touched(5), column.len()), (true, 2));
        column.touch(5).add(3.0);
        assert_eq!(
            (column.len(), column.take_mark(5), column.take_mark(1030), column.take_mark(9000)),
            (2, true, true, false)
        );
        column.touch(7).add(9.0);
        column.forget(1030);
        let mut drained = Vec::new();
        column.drain(|id, sum| drained.push((id, sum.value())));
        assert_eq!(drained, [(5, 4.0), (7, 9.0)]);
        assert!(!column.is_touched(5) && !column.take_mark(5) && column.is_empty());
    }

    #[test]
    fn a_cell_that_an_interval_did_not_touch_reserves_nothing_in_the_next() {
        let (mut column, policy) = (Column::<Timer>::default(), TimerPolicy::default());
        (0..100).for_each(|n| column.touch(7).record(f64::from(n), 1.0, &policy));
        column.drain(|_, _| {});
        let heap_bytes = |column: &Column<Timer>, id| column.get(id).map_or(0, Cell::heap_bytes);
        assert!(heap_bytes(&column, 7) > 0 && column.reserved_bytes() == heap_bytes(&column, 7));
        column.touch(8).record(1.0, 1.0, &policy);
        column.drain(|_, _| {});
        assert_eq!((heap_bytes(&column, 7), column.reserved_bytes()), (0, heap_bytes(&column, 8)));
    }
}
