//! Where series are found and kept: cells of a few hundred, each behind a lock of its own that nobody holds for long, and an
//! index by key in parts that are locked likewise. One thread writes; anybody reads.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::HashTable;
use rapidhash::v3::rapidhash_v3;
use serde::{Deserialize, Serialize};

use crate::memory::{footprint, vec_footprint};
use crate::protocol::Kind;
use crate::series::Series;

use super::heat::Heat;
use super::track::{MOMENTS, Shape, Track};

/// Series of a cell.
pub(super) const PLACES: usize = 256;

/// Parts of the index.
const PARTS: usize = 256;

/// A lock whose data is whole at any time, or made anew after a panic.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the numbers of some series are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Layout {
    /// Percentiles of a timer.
    pub(super) percentiles: Vec<f64>,
    pub(super) is_timer: bool,
    /// It is flushed in every so many intervals.
    pub(super) every: u32,
}

impl Layout {
    pub(super) fn shape(&self) -> Shape {
        Shape { width: if self.is_timer { MOMENTS + self.percentiles.len() } else { 1 } }
    }

    /// The number of a row that is shown of a series.
    pub(super) fn shown(&self) -> usize {
        if !self.is_timer {
            return 0;
        }
        let highest = self.percentiles.iter().enumerate().filter(|(_, p)| **p > 0.0).max_by(|a, b| a.1.total_cmp(b.1));
        highest.map_or(3, |(n, _)| MOMENTS + n)
    }
}

/// A series.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) series: Series,
    /// The number of its layout.
    pub(super) layout: u16,
    /// Whether the percentiles of its last interval are exact.
    pub(super) is_exact: bool,
    /// Whether nobody else has its key any more, as the last sweep found.
    pub(super) owns_key: bool,
    /// When it came, and its last interval, Unix seconds.
    pub(super) first_seen: f64,
    pub(super) last_seen: f64,
    /// The number of that interval.
    pub(super) last: u64,
    /// The number that is shown, of that interval, and what it is usually.
    pub(super) shown: f32,
    pub(super) usual: f32,
    /// What a gauge was: another is an update.
    pub(super) fingerprint: u32,
    /// When somebody looked at it last, Unix seconds; 0 for never.
    pub(super) looked: u32,
    /// What is older than this was given up, Unix seconds; 0 for nothing.
    pub(super) given_up: u32,
    pub(super) track: Track,
    pub(super) heat: Option<Box<Heat>>,
}

impl Entry {
    /// Whether its last number is that of an interval: it may be flushed every few of them.
    pub(super) fn is_current(&self, layout: &Layout, interval: u64) -> bool {
        self.last + u64::from(layout.every) > interval
    }

    /// Looks whether somebody beside this and the index has its key.
    pub(super) fn look_for_owner(&mut self) {
        self.owns_key = self.series.holders() <= 2;
    }

    /// Bytes that it takes beside its place. A key that others have, too, is not counted.
    pub(super) fn heap_bytes(&self) -> usize {
        let key = if self.owns_key { self.series.heap_bytes() } else { 0 };
        key + self.track.heap_bytes() + self.heat.as_ref().map_or(0, |heat| heat.heap_bytes())
    }
}

/// Series behind one lock, and what is read of them without it.
#[derive(Debug)]
pub(super) struct Cell {
    pub(super) entries: Mutex<Entries>,
    /// By place: values or events a second, how much the shown number differs from the usual, the number of the last interval
    /// that these are of (modulo 2^32), which a series that is flushed every few intervals may have ahead, and when it came (Unix
    /// seconds).
    pub(super) rate: [AtomicU32; PLACES],
    pub(super) change: [AtomicU32; PLACES],
    pub(super) last: [AtomicU32; PLACES],
    pub(super) first_seen: [AtomicU32; PLACES],
    is_alive: [AtomicU64; PLACES / 64],
}

/// The entries of a cell, by place, and the bytes that they take beside their places. Without entries there are no places.
#[derive(Debug, Default)]
pub(super) struct Entries {
    places: Vec<Option<Entry>>,
    pub(super) bytes: usize,
}

impl Entries {
    /// The entry of a place.
    pub(super) fn at(&mut self, place: usize) -> Option<&mut Entry> {
        self.places.get_mut(place)?.as_mut()
    }

    fn put(&mut self, place: usize, entry: Entry) {
        if self.places.is_empty() {
            self.places = std::iter::repeat_with(|| None).take(PLACES).collect();
        }
        self.bytes += entry.heap_bytes();
        self.places[place] = Some(entry);
    }

    /// Frees the places if nobody has one.
    pub(super) fn shrink(&mut self) {
        if self.places.iter().all(Option::is_none) {
            self.places = Vec::new();
        }
    }

    fn heap_bytes(&self) -> usize {
        vec_footprint::<Option<Entry>>(self.places.capacity()) + self.bytes
    }
}

impl Cell {
    fn new() -> Cell {
        let zeros = || std::array::from_fn(|_| AtomicU32::new(0));
        Cell {
            entries: Mutex::default(),
            rate: zeros(),
            change: zeros(),
            last: zeros(),
            first_seen: zeros(),
            is_alive: Default::default(),
        }
    }

    pub(super) fn is_alive(&self, place: usize) -> bool {
        // A flag on its own: what is found dead or alive a moment later is checked by key.
        self.is_alive[place / 64].load(Ordering::Relaxed) >> (place % 64) & 1 == 1
    }

    fn set_alive(&self, place: usize, is_alive: bool) {
        let bit = 1 << (place % 64);
        match is_alive {
            true => self.is_alive[place / 64].fetch_or(bit, Ordering::Relaxed),
            false => self.is_alive[place / 64].fetch_and(!bit, Ordering::Relaxed),
        };
    }

    /// Bytes that it takes without its entries.
    const BYTES: usize = footprint(size_of::<Cell>() + 16);
}

/// The cell and the place of an id.
pub(super) fn place_of(id: u32) -> (usize, usize) {
    (id as usize / PLACES, id as usize % PLACES)
}

/// Ids by key.
#[derive(Debug)]
pub(super) struct Index(Box<[Mutex<Part>]>);

/// Series with their ids.
type Part = HashTable<(Series, u32)>;

impl Index {
    pub(super) fn new() -> Index {
        Index((0..PARTS).map(|_| Mutex::default()).collect())
    }

    fn part(&self, hash: u64) -> MutexGuard<'_, Part> {
        // Tables tell keys apart by the highest bits, and place them by the lowest.
        lock(&self.0[(hash >> 40) as usize % PARTS])
    }

    pub(super) fn find(&self, series: &Series) -> Option<u32> {
        let hash = rapidhash_v3(series.key());
        self.part(hash).find(hash, |(known, _)| known == series).map(|(_, id)| *id)
    }

    /// The same of one that a point has, which takes the place of an equal one: else there would be two allocations of its key.
    pub(super) fn find_and_share(&self, series: &Series) -> Option<u32> {
        let hash = rapidhash_v3(series.key());
        let mut part = self.part(hash);
        let (known, id) = part.find_mut(hash, |(known, _)| known == series)?;
        if !known.is_same(series) {
            *known = series.clone();
        }
        Some(*id)
    }

    fn insert(&self, series: &Series, id: u32) {
        let hash = rapidhash_v3(series.key());
        self.part(hash).insert_unique(hash, (series.clone(), id), |(known, _)| rapidhash_v3(known.key()));
    }

    pub(super) fn remove(&self, series: &Series) {
        let hash = rapidhash_v3(series.key());
        let mut part = self.part(hash);
        if let Ok(found) = part.find_entry(hash, |(known, _)| known == series) {
            found.remove();
        }
        if part.capacity() > 64 && part.len() * 8 < part.capacity() {
            part.shrink_to_fit(|(known, _)| rapidhash_v3(known.key()));
        }
    }

    fn clear(&self) {
        self.0.iter().for_each(|part| *lock(part) = HashTable::new());
    }

    fn heap_bytes(&self) -> usize {
        let parts = self.0.iter().map(|part| footprint(lock(part).allocation_size())).sum::<usize>();
        parts + footprint(size_of_val(&*self.0))
    }
}

/// All series.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) index: Index,
    cells: std::sync::RwLock<Arc<Vec<Arc<Cell>>>>,
    layouts: std::sync::RwLock<Arc<Vec<Layout>>>,
}

impl Store {
    pub(super) fn new() -> Store {
        Store { index: Index::new(), cells: Default::default(), layouts: Default::default() }
    }

    /// The cells as they are now; there may be more later.
    pub(super) fn cells(&self) -> Arc<Vec<Arc<Cell>>> {
        Arc::clone(&self.cells.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn layouts(&self) -> Arc<Vec<Layout>> {
        Arc::clone(&self.layouts.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The number of a layout. There are few: one for each list of percentiles that is configured.
    pub(super) fn layout(&self, wanted: Layout) -> u16 {
        let known = self.layouts();
        if let Some(at) = known.iter().position(|layout| *layout == wanted) {
            return at as u16;
        }
        let all = known.iter().cloned().chain([wanted]).collect::<Vec<_>>();
        let at = all.len() - 1;
        *self.layouts.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(all);
        at as u16
    }

    /// Adds cells for the ids below this one.
    pub(super) fn reserve(&self, ids: u32) {
        let wanted = (ids as usize).div_ceil(PLACES);
        let known = self.cells();
        if known.len() < wanted {
            let more = (known.len()..wanted).map(|_| Arc::new(Cell::new()));
            let all = known.iter().cloned().chain(more).collect();
            *self.cells.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(all);
        }
    }

    /// Puts a new series at an id for which there is a cell.
    pub(super) fn insert(&self, cells: &[Arc<Cell>], id: u32, entry: Entry) {
        let (cell, place) = place_of(id);
        let cell = &cells[cell];
        self.index.insert(&entry.series, id);
        cell.first_seen[place].store(entry.first_seen as u32, Ordering::Relaxed);
        cell.rate[place].store(0, Ordering::Relaxed);
        cell.change[place].store(0, Ordering::Relaxed);
        lock(&cell.entries).put(place, entry);
        cell.set_alive(place, true);
    }

    /// Takes the series of a place away; its id is not used again before it is nowhere else.
    pub(super) fn remove(&self, cell: &Cell, entries: &mut Entries, place: usize) {
        let Some(entry) = entries.places.get_mut(place).and_then(Option::take) else { return };
        entries.bytes = entries.bytes.saturating_sub(entry.heap_bytes());
        cell.set_alive(place, false);
        self.index.remove(&entry.series);
    }

    /// Looks at the entry of an id.
    pub(super) fn with<T>(&self, id: u32, look: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        let (cell, place) = place_of(id);
        let cells = self.cells();
        let cell = cells.get(cell)?;
        let mut entries = lock(&cell.entries);
        let entry = entries.at(place)?;
        let before = entry.heap_bytes();
        let looked = look(entry);
        let after = entry.heap_bytes();
        entries.bytes = (entries.bytes + after).saturating_sub(before);
        Some(looked)
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        self.index.clear();
        *self.cells.write().unwrap_or_else(PoisonError::into_inner) = Arc::default();
    }

    /// Bytes that it takes.
    pub(super) fn heap_bytes(&self) -> usize {
        let cells = self.cells();
        let entries = cells.iter().map(|cell| lock(&cell.entries).heap_bytes()).sum::<usize>();
        self.index.heap_bytes() + cells.len() * (Cell::BYTES + size_of::<Arc<Cell>>()) + entries
    }
}

/// The kind of a series in the history: a meter is a counter.
pub(super) fn is_counter(kind: Kind) -> bool {
    matches!(kind, Kind::Counter | Kind::Meter)
}

/// Whether it has several numbers an interval.
pub(super) fn is_timer(kind: Kind) -> bool {
    matches!(kind, Kind::Timer | Kind::Histogram | Kind::Distribution)
}
