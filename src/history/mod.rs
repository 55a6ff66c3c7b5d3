//! The last intervals and minutes of every series in memory: what the page and the API draw, and the search of series.
//!
//! All series share one time axis ([`axis`]); of each there are rows of numbers in single precision ([`track`]), sealed in blocks
//! without loss ([`codec`]): of counters the sum, of gauges the value and whether it was updated, of sets the number of members,
//! of `kv` the last value, of timers count, sum, smallest, largest, median and the configured percentiles. An interval that
//! leaves becomes part of a minute: of a timer's median and percentiles that has the mean, weighted by the count. What is
//! missing has no row. Samples with a time of their own are not here.
//!
//! It is a cache: within its share of `max_memory` it gives way in steps, first of series that nobody has looked at lately,
//! minutes before intervals, and from level 1 on there is less of it. It can be saved ([`saved`]): a start then goes on with it.
//!
//! One thread records ([`History::add`]); anybody reads meanwhile. No lock is held for longer than a few hundred rows take.
//! It knows no clock and does no input and output.
#![deny(clippy::disallowed_methods)]

mod archive;
mod axis;
mod codec;
mod heat;
mod ledger;
mod points;
mod record;
mod saved;
mod search;
mod series;
mod store;
#[cfg(test)]
mod tests;
mod track;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::memory::{Holder, Holding, Memory};
use crate::series::Series;
use crate::snapshot::Snapshot;
use crate::telemetry::HistoryAccount;

pub use archive::{Archive, ArchiveError, ArchiveQuery, Archived, ArchivedField};
pub use heat::HeatMap;
pub use points::{MOST_POINTS, Mark, MarkKind, Numbers, Points, PointsQuery, Resolution, SeriesPoints, TooMuch};
pub use saved::{FORMAT, NotRestored, Restored};
pub use search::{Cursor, SearchError, Sort, Wanted};
pub use series::{ByTag, Details, Facets, Near, SearchQuery, SeriesInfo, SeriesPage, TagValue};

use axis::Axis;
use record::Writer;
use search::Segments;
use store::{Store, lock};

/// A series that somebody has asked for gives way last for so many seconds.
const LOOKED_SECS: f64 = 3600.0;

/// Timers that have a heat map at a time: more than a screen shows.
const MOST_HEATED: usize = 64;

/// How much is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct HistoryOptions {
    /// Whether there is a history at all.
    pub enabled: bool,
    /// Configured length of an interval, seconds.
    pub interval_secs: f64,
    /// Last intervals that are kept (default 360).
    pub intervals: usize,
    /// Last minutes that are kept (default 1440).
    pub minutes: usize,
    /// How the names of the daemon's own series begin.
    pub own_prefix: String,
}

impl Default for HistoryOptions {
    fn default() -> HistoryOptions {
        let own_prefix = "systole.".into();
        HistoryOptions { enabled: true, interval_secs: 10.0, intervals: 360, minutes: 1440, own_prefix }
    }
}

#[derive(Debug, Default)]
struct Counts {
    /// Series that are here, and the daemon's own among them.
    series: AtomicU64,
    own: AtomicU64,
    /// Intervals that did not come in time.
    missed: AtomicU64,
    /// Times that a series gave something up, and points of series that found no room.
    given_up: AtomicU64,
    refused: AtomicU64,
    /// Times that it was begun anew.
    begun_anew: AtomicU64,
}

#[derive(Debug)]
struct Shared {
    options: HistoryOptions,
    holding: Holding,
    writer: Mutex<Writer>,
    store: Store,
    ledger: Mutex<ledger::LedgerTracks>,
    /// The ids of timers that have a heat map, and when somebody asked for it last, Unix seconds. Taken before a cell.
    heated: Mutex<Vec<(u32, f64)>>,
    /// What the one who records has published.
    axis: RwLock<Arc<Axis>>,
    segments: RwLock<Arc<Segments>>,
    counts: Counts,
}

impl Shared {
    fn new_axis(&self) -> Axis {
        new_axis(&self.options)
    }

    fn axis(&self) -> Arc<Axis> {
        Arc::clone(&self.axis.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn set_axis(&self, axis: Axis) {
        *self.axis.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(axis);
    }

    /// Changes what was published of the axis.
    fn change_axis(&self, change: impl FnOnce(&mut Axis)) {
        let mut axis = Axis::clone(&self.axis());
        change(&mut axis);
        self.set_axis(axis);
    }

    fn segments(&self) -> Arc<Segments> {
        Arc::clone(&self.segments.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Gives a timer a heat map, and notes when somebody asked for it.
    fn heat_up(&self, id: u32, series: &Series, now: f64) {
        let mut heated = lock(&self.heated);
        let warm = |entry: &mut store::Entry| {
            let is_it = entry.series == *series;
            if is_it && entry.heat.is_none() {
                entry.heat = Some(Box::default());
            }
            is_it
        };
        if self.store.with(id, warm) != Some(true) {
            return;
        }
        heated.retain(|(known, _)| *known != id);
        heated.push((id, now));
        if heated.len() > MOST_HEATED {
            let (oldest, _) = heated.remove(0);
            self.store.with(oldest, |entry| entry.heat = None);
            self.counts.given_up.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn set_segments(&self, segments: Segments) {
        let new = Arc::new(segments);
        let old = std::mem::replace(&mut *self.segments.write().unwrap_or_else(PoisonError::into_inner), new);
        // Outside of the lock.
        drop(old);
    }
}

fn new_axis(options: &HistoryOptions) -> Axis {
    Axis::new(options.interval_secs.max(0.001), options.intervals.max(1), options.minutes)
}

/// The history. Cheap to clone; clones are one.
#[derive(Clone, Debug)]
pub struct History(Arc<Shared>);

impl Default for History {
    fn default() -> History {
        History::new(HistoryOptions { enabled: false, ..HistoryOptions::default() }, &Memory::unlimited())
    }
}

impl History {
    /// An empty history in this memory.
    pub fn new(options: HistoryOptions, memory: &Memory) -> History {
        let axis = new_axis(&options);
        History(Arc::new(Shared {
            holding: memory.holding(Holder::History),
            writer: Mutex::new(Writer::new(axis.clone())),
            store: Store::new(),
            ledger: Mutex::default(),
            heated: Mutex::default(),
            axis: RwLock::new(Arc::new(axis)),
            segments: RwLock::default(),
            counts: Counts::default(),
            options,
        }))
    }

    /// Whether intervals are kept.
    pub fn is_enabled(&self) -> bool {
        self.0.options.enabled
    }

    /// Takes in a closed interval. One at a time; a gap in their numbers is shown as missing. If this panics, the next call
    /// begins the history anew.
    pub fn add(&self, snapshot: &Snapshot) {
        if self.is_enabled() {
            self.0.add(snapshot);
        }
    }

    /// Gives way where memory is short; to be called now and then between intervals.
    pub fn give_way(&self) {
        self.0.give_way();
    }

    /// Counts an interval that does not come here.
    pub fn miss(&self) {
        self.0.counts.missed.fetch_add(1, Ordering::Relaxed);
    }

    /// What is counted of it.
    pub fn account(&self) -> HistoryAccount {
        let Shared { options, holding, counts, .. } = &*self.0;
        // Counts on their own: nothing else is published through them.
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        HistoryAccount {
            enabled: options.enabled,
            bytes: holding.bytes(),
            cap: holding.memory().max().map_or(0, |_| holding.cap()),
            intervals: options.intervals as u64,
            minutes: options.minutes as u64,
            series: count(&counts.series),
            intervals_missed: count(&counts.missed),
            given_up: count(&counts.given_up),
            points_refused: count(&counts.refused),
            begun_anew: count(&counts.begun_anew),
        }
    }

    /// How much gives way: 0 for nothing, to 13.
    #[cfg(feature = "internals")]
    pub fn step(&self) -> usize {
        lock(&self.0.writer).step()
    }

    /// Tells of series that need not be here, one by one, whether a search finds them.
    pub fn filter(&self, wanted: Wanted) -> impl FnMut(&Series) -> bool {
        search::filter(wanted.without(&self.0.options.own_prefix))
    }

    /// The end of the last interval, Unix seconds.
    pub fn last_end(&self) -> Option<f64> {
        self.0.axis().last().map(|last| last.end)
    }

    /// Notes that somebody looks at a series: it gives way later than others. Who wants its heat map gets one of the intervals
    /// from now on, as long as somebody asks every few minutes; of more than [`MOST_HEATED`] timers that was asked for the longest
    /// ago leaves.
    pub fn touch(&self, series: &Series, wants_heat: bool) {
        let Some(now) = self.last_end() else { return };
        let Some(id) = self.0.store.index.find(series) else { return };
        self.0.store.with(id, |entry| entry.looked = now as u32);
        if wants_heat && store::is_timer(series.kind()) {
            self.0.heat_up(id, series, now);
        }
    }
}
