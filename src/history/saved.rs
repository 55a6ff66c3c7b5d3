//! The history as bytes, so that the next start has the time before it.
//!
//! ```text
//! head, in postcard's format: axis, number of the last interval, layouts
//! ledger         bytes u32 | tracks
//! for each cell  bytes u32 | its series
//! a series       bytes u32 | what is known of it, in postcard's format | its track
//! ```
//! Heat maps are not saved: they are of who looks at the moment.

use std::io::{self, Write};
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};

use crate::series::Series;

use super::axis::SavedAxis;
use super::ledger::LedgerTracks;
use super::record::{NEW_BYTES, Writer};
use super::store::{Entry, Layout, PLACES, is_counter, is_timer, lock, place_of};
use super::track::{Track, put_bytes, take_bytes};
use super::{History, Shared};

/// Version of the format.
pub const FORMAT: u32 = 1;

/// Most intervals in which a series is flushed once.
const MOST_EVERY: u32 = 1 << 20;

/// Why a history that was saved is not used.
#[derive(Clone, Debug, PartialEq)]
pub enum NotRestored {
    /// Its intervals were that long, in seconds: they do not fit onto the axis.
    OtherInterval(f64),
    /// It is damaged, or of something else.
    Damaged(&'static str),
}

#[derive(Serialize, Deserialize)]
struct Head {
    axis: SavedAxis,
    last_sequence: Option<u64>,
    layouts: Vec<Layout>,
}

/// What is known of a series, beside its track.
#[derive(Serialize, Deserialize)]
struct SavedEntry {
    series: Series,
    layout: u16,
    is_exact: bool,
    first_seen: f64,
    last_seen: f64,
    last: u64,
    shown: f32,
    usual: f32,
    fingerprint: u32,
    looked: u32,
    given_up: u32,
}

impl SavedEntry {
    fn of(entry: &Entry) -> SavedEntry {
        SavedEntry {
            series: entry.series.clone(),
            layout: entry.layout,
            is_exact: entry.is_exact,
            first_seen: entry.first_seen,
            last_seen: entry.last_seen,
            last: entry.last,
            shown: entry.shown,
            usual: entry.usual,
            fingerprint: entry.fingerprint,
            looked: entry.looked,
            given_up: entry.given_up,
        }
    }

    fn is_possible(&self, layout: &Layout) -> bool {
        let is_timer = is_timer(self.series.kind());
        layout.is_timer == is_timer
            && (is_timer || layout.percentiles.is_empty())
            && (1..=MOST_EVERY).contains(&layout.every)
            && self.first_seen.is_finite()
            && self.last_seen.is_finite()
    }

    fn entry(self, layout: u16, track: Track) -> Entry {
        Entry {
            series: self.series,
            layout,
            is_exact: self.is_exact,
            owns_key: true,
            first_seen: self.first_seen,
            last_seen: self.last_seen,
            last: self.last,
            shown: self.shown,
            usual: self.usual,
            fingerprint: self.fingerprint,
            looked: self.looked,
            given_up: self.given_up,
            track,
            heat: None,
        }
    }
}

/// Takes a value off the front.
fn take<'a, T: Deserialize<'a>>(rest: &mut &'a [u8]) -> Result<T, NotRestored> {
    let (value, after) = postcard::take_from_bytes(rest).map_err(|_| NotRestored::Damaged("it cannot be read"))?;
    *rest = after;
    Ok(value)
}

fn invalid(error: postcard::Error) -> io::Error {
    io::Error::other(error.to_string())
}

/// What became of a history that was saved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Series that are there again.
    pub series: u64,
    /// Series for which there was no memory.
    pub no_room: u64,
}

impl History {
    /// Writes everything but heat maps. An interval that comes meanwhile waits; who reads does not.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn save(&self, out: &mut dyn Write) -> io::Result<()> {
        let shared = &*self.0;
        let writer = lock(&shared.writer);
        let layouts = shared.store.layouts().to_vec();
        let head = Head { axis: writer.axis.save(), last_sequence: writer.last_sequence, layouts };
        let (mut bytes, mut framed) = (Vec::new(), postcard::to_stdvec(&head).map_err(invalid)?);
        lock(&shared.ledger).write(&mut bytes);
        put_bytes(&bytes, &mut framed);
        for cell in shared.store.cells().iter() {
            out.write_all(&framed)?;
            framed.clear();
            let mut entries = lock(&cell.entries);
            for place in 0..PLACES {
                let Some(entry) = entries.at(place) else { continue };
                bytes.clear();
                postcard::to_io(&SavedEntry::of(entry), &mut bytes).map_err(invalid)?;
                entry.track.write(&mut bytes);
                put_bytes(&bytes, &mut framed);
            }
        }
        out.write_all(&framed)
    }

    /// Goes on with what was saved, as far as there is memory for it. To be called before the first interval.
    ///
    /// # Errors
    /// Why it cannot be. The history is empty then.
    pub fn restore(&self, saved: &[u8]) -> Result<Restored, NotRestored> {
        let shared = &*self.0;
        if !self.is_enabled() || shared.axis().last().is_some() {
            return Ok(Restored::default());
        }
        let mut writer = lock(&shared.writer);
        let restored = shared.restore(&mut writer, saved);
        if restored.is_err() {
            shared.store.clear();
            *writer = Writer::new(shared.new_axis());
            shared.counts.series.store(0, Ordering::Relaxed);
            shared.counts.own.store(0, Ordering::Relaxed);
            shared.publish(&mut writer, &[]);
        }
        restored
    }
}

impl Shared {
    fn restore(&self, writer: &mut Writer, mut rest: &[u8]) -> Result<Restored, NotRestored> {
        let Head { axis, last_sequence, layouts } = take(&mut rest)?;
        let interval_secs = axis.interval_secs();
        if interval_secs != writer.axis.interval_secs() {
            return Err(NotRestored::OtherInterval(interval_secs));
        }
        if !writer.axis.restore(axis) {
            return Err(NotRestored::Damaged("its intervals do not fit together"));
        }
        writer.last_sequence = last_sequence;
        let cut = NotRestored::Damaged("it was cut off");
        let ledger = take_bytes(&mut rest).and_then(|bytes| LedgerTracks::read(bytes, &writer.axis));
        let ledger = ledger.ok_or_else(|| cut.clone())?;
        let numbers: Vec<u16> = layouts.iter().map(|layout| self.store.layout(layout.clone())).collect();
        let (mut restored, mut fresh) = (Restored::default(), Vec::new());
        let room = self.left();
        let mut bytes = 0;
        while !rest.is_empty() {
            let mut own = take_bytes(&mut rest).ok_or_else(|| cut.clone())?;
            let known: SavedEntry = take(&mut own)?;
            let of_layout = layouts.get(usize::from(known.layout)).zip(numbers.get(usize::from(known.layout)));
            let (layout, number) = of_layout.ok_or(NotRestored::Damaged("a series has no layout"))?;
            let track = Track::read(&mut own, layout.shape(), &writer.axis).filter(|_| own.is_empty());
            let track = track.ok_or(NotRestored::Damaged("the values of a series are none"))?;
            if !known.is_possible(layout) || self.store.index.find(&known.series).is_some() {
                return Err(NotRestored::Damaged("a series is not possible"));
            }
            bytes += NEW_BYTES + track.heap_bytes() as u64;
            if bytes > room {
                restored.no_room += 1;
                continue;
            }
            self.put_back(writer, known.entry(*number, track), layout.every, &mut fresh);
            restored.series += 1;
        }
        *lock(&self.ledger) = ledger;
        self.counts.given_up.fetch_add(restored.no_room, Ordering::Relaxed);
        self.publish(writer, &fresh);
        self.make_room(writer);
        Ok(restored)
    }

    fn put_back(&self, writer: &mut Writer, entry: Entry, every: u32, fresh: &mut Vec<(u32, Series)>) {
        let (id, series, last) = (writer.next_id, entry.series.clone(), entry.last);
        let rate = if is_counter(series.kind()) && entry.shown > 0.0 { entry.shown.to_bits() } else { 0 };
        writer.next_id += 1;
        self.store.reserve(writer.next_id);
        let cells = self.store.cells();
        self.counts.series.fetch_add(1, Ordering::Relaxed);
        self.counts.own.fetch_add(u64::from(self.is_own(&series)), Ordering::Relaxed);
        self.store.insert(&cells, id, entry);
        let (cell, place) = place_of(id);
        cells[cell].rate[place].store(rate, Ordering::Relaxed);
        cells[cell].last[place].store((last + u64::from(every) - 1) as u32, Ordering::Relaxed);
        fresh.push((id, series));
    }
}
