//! The values of one open interval, by class, indexed by the dense numbers of an index. A tick swaps the
//! columns of a shard for empty ones; nothing is swept on the receive path.

use super::counter::Sum;
use super::gauge::Gauge;
use super::set::Members;
use super::timer::Timer;

/// What decides how values of a series are kept. Meters are counters; histograms and distributions are timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// Something that holds one interval of one series.
pub trait Cell: Default {
    /// Forgets the interval; may keep allocated room for the next.
    fn clear(&mut self);
}

impl Cell for Sum {
    fn clear(&mut self) {
        *self = Sum::default();
    }
}

impl Cell for Gauge {
    fn clear(&mut self) {
        *self = Gauge::default();
    }
}

impl Cell for Timer {
    fn clear(&mut self) {
        Timer::clear(self);
    }
}

impl Cell for Members {
    fn clear(&mut self) {
        *self = Members::default();
    }
}

impl Cell for Vec<f64> {
    fn clear(&mut self) {
        *self = Vec::new();
    }
}

/// One class: a cell per number, and which cells this interval touched.
#[derive(Debug, Default)]
pub struct Column<T> {
    cells: Vec<(bool, T)>,
    touched: Vec<u32>,
}

impl<T: Cell> Column<T> {
    /// The cell of a number, marked as touched.
    #[inline]
    pub fn touch(&mut self, id: u32) -> &mut T {
        let n = id as usize;
        if n >= self.cells.len() {
            self.cells.resize_with(n + 1, Default::default);
        }
        let (touched, cell) = &mut self.cells[n];
        if !*touched {
            *touched = true;
            self.touched.push(id);
        }
        cell
    }

    /// Whether this interval touched the number.
    pub fn is_touched(&self, id: u32) -> bool {
        self.cells.get(id as usize).is_some_and(|(touched, _)| *touched)
    }

    /// Hands every touched cell to `visit`, then forgets the interval.
    pub fn drain(&mut self, mut visit: impl FnMut(u32, &mut T)) {
        for &id in &self.touched {
            let (touched, cell) = &mut self.cells[id as usize];
            visit(id, cell);
            cell.clear();
            *touched = false;
        }
        self.touched.clear();
    }

    /// How many numbers this interval touched.
    pub fn len(&self) -> usize {
        self.touched.len()
    }

    /// Nothing was touched.
    pub fn is_empty(&self) -> bool {
        self.touched.is_empty()
    }
}

/// The values of one interval.
#[derive(Debug, Default)]
pub struct Columns {
    /// Sums of counters.
    pub counters: Column<Sum>,
    /// What gauges were told.
    pub gauges: Column<Gauge>,
    /// Samples of timers, histograms and distributions.
    pub timers: Column<Timer>,
    /// Members of sets.
    pub sets: Column<Members>,
    /// Values of `kv` pairs in order.
    pub kvs: Column<Vec<f64>>,
}

impl Columns {
    pub(super) fn is_touched(&self, class: Class, id: u32) -> bool {
        match class {
            Class::Counter => self.counters.is_touched(id),
            Class::Gauge => self.gauges.is_touched(id),
            Class::Timer => self.timers.is_touched(id),
            Class::Set => self.sets.is_touched(id),
            Class::Kv => self.kvs.is_touched(id),
        }
    }
}
