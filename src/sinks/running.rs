//! Sums and histograms that continue from interval to interval, for a receiver that is sent them so, and as bytes, so that the
//! next start goes on with them.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::aggregate::Sum;
use crate::memory::map_footprint;
use crate::series::Series;

use super::exponential::Exponential;
use super::http::Ready;
use super::room::{NoRoom, Room};
use super::{SinkContext, SinkError};

/// Version of the bytes.
const VERSION: u8 = 1;

/// A request's body, and the points in it.
pub(super) type Prepared = (Vec<u8>, u64);

/// Takes a value from the front of bytes.
fn take<'a, T: Deserialize<'a>>(rest: &mut &'a [u8]) -> Result<T, SinkError> {
    let (value, after) = postcard::take_from_bytes(rest).map_err(invalid)?;
    *rest = after;
    Ok(value)
}

fn invalid(why: impl std::fmt::Display) -> SinkError {
    SinkError::new(format!("what was saved of it cannot be used: {why}"))
}

/// Sums and histograms that continue from interval to interval.
#[derive(Default)]
pub(super) struct Running {
    room: Room,
    /// Records of this interval for whose series there was no room, and those for which there was no memory.
    pub(super) left_out: u64,
    pub(super) squeezed: u64,
    sums: HashMap<Series, Held<Sum>>,
    histograms: HashMap<Series, Held<Distribution>>,
}

/// Since when it goes, what it came to, and when it was updated last.
type Held<T> = (f64, T, f64);

#[derive(Clone, Default, Serialize, Deserialize)]
pub(super) struct Distribution {
    pub(super) buckets: Exponential,
    pub(super) sum: Sum,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Running {
    pub(super) fn new(context: &SinkContext) -> Running {
        Running { room: Room::new(context.max_series, &context.memory), ..Running::default() }
    }

    /// Whether a series is held, or has room to be.
    pub(super) fn has_room(&mut self, series: &Series) -> bool {
        let is_known = self.sums.contains_key(series) || self.histograms.contains_key(series);
        if is_known {
            return true;
        }
        let of_places = 2 * size_of::<(Series, Held<Distribution>)>();
        match self.room.take(self.sums.len() + self.histograms.len(), series.heap_bytes() + of_places, series) {
            Ok(()) => return true,
            Err(NoRoom::MaxSeries) => self.left_out += 1,
            Err(NoRoom::Memory) => self.squeezed += 1,
        }
        false
    }

    /// Bytes that it takes. Keys of series are counted whole: it keeps them longer than anybody else.
    fn heap_bytes(&self) -> usize {
        map_footprint::<Series, Held<Sum>>(self.sums.capacity())
            + map_footprint::<Series, Held<Distribution>>(self.histograms.capacity())
            + self.sums.keys().chain(self.histograms.keys()).map(Series::heap_bytes).sum::<usize>()
            + self.histograms.values().map(|(_, held, _)| held.buckets.heap_bytes()).sum::<usize>()
    }

    /// Adds to a sum: since when it goes, and where it is.
    pub(super) fn add(&mut self, series: &Series, start: f64, end: f64, value: f64) -> (f64, f64) {
        let (since, sum, updated) = self.sums.entry(series.clone()).or_insert((start, Sum::default(), end));
        sum.add(value);
        *updated = end;
        (*since, sum.value())
    }

    pub(super) fn merge(
        &mut self,
        series: &Series,
        start: f64,
        end: f64,
        fresh: &Distribution,
        values: &[(f64, f64)],
    ) -> (f64, Distribution) {
        let new = || (start, Distribution { min: fresh.min, max: fresh.max, ..Distribution::default() }, end);
        let (since, held, updated) = self.histograms.entry(series.clone()).or_insert_with(new);
        values.iter().for_each(|(value, count)| held.buckets.add(*value, *count));
        held.sum.merge(fresh.sum);
        (held.min, held.max) = (held.min.min(fresh.min), held.max.max(fresh.max));
        *updated = end;
        (*since, held.clone())
    }

    pub(super) fn forget(&mut self, oldest: f64) {
        self.sums.retain(|_, (_, _, updated)| *updated > oldest);
        self.histograms.retain(|_, (_, _, updated)| *updated > oldest);
        // A flood of names leaves large tables behind.
        if self.sums.capacity() > 4 * self.sums.len() + 64 {
            self.sums.shrink_to_fit();
        }
        if self.histograms.capacity() > 4 * self.histograms.len() + 64 {
            self.histograms.shrink_to_fit();
        }
        self.room.set(self.heap_bytes());
    }

    /// Forgets a histogram, which begins anew.
    pub(super) fn remove(&mut self, series: &Series) {
        self.histograms.remove(series);
    }

    /// Everything as bytes, with the requests of an interval that is in it; `None` as long as there is nothing.
    pub(super) fn save(&self, ready: &Ready<Prepared>) -> Option<Vec<u8>> {
        if self.sums.is_empty() && self.histograms.is_empty() && ready.is_done() {
            return None;
        }
        let mut out = vec![VERSION];
        let head = (self.sums.len() as u64, self.histograms.len() as u64, self.left_out, self.squeezed);
        postcard::to_io(&head, &mut out).ok()?;
        postcard::to_io(ready, &mut out).ok()?;
        for held in &self.sums {
            postcard::to_io(&held, &mut out).ok()?;
        }
        for held in &self.histograms {
            postcard::to_io(&held, &mut out).ok()?;
        }
        Some(out)
    }

    /// Goes on with what was saved: the requests that were not taken, and how many series found no room.
    ///
    /// # Errors
    /// If these bytes are not what [`Running::save`] makes. There is nothing then.
    pub(super) fn restore(&mut self, saved: &[u8]) -> Result<(Ready<Prepared>, u64), SinkError> {
        let Some((&VERSION, mut rest)) = saved.split_first() else {
            return Err(invalid("it was written by another version"));
        };
        let (sums, histograms, left_out, squeezed): (u64, u64, u64, u64) = take(&mut rest)?;
        let ready = take(&mut rest)?;
        let mut read = Running { room: self.room.clone(), ..Running::default() };
        let impossible = |series: &Series| invalid(format!("{series} has impossible numbers"));
        for _ in 0..sums {
            let (series, held): (Series, Held<Sum>) = take(&mut rest)?;
            if ![held.0, held.2].iter().all(|time| time.is_finite()) || !held.1.is_finite() {
                return Err(impossible(&series));
            }
            if read.has_room(&series) {
                read.sums.insert(series, held);
            }
        }
        for _ in 0..histograms {
            let (series, held): (Series, Held<Distribution>) = take(&mut rest)?;
            if ![held.0, held.2].iter().all(|time| time.is_finite()) || !held.1.is_possible() {
                return Err(impossible(&series));
            }
            if read.has_room(&series) {
                read.histograms.insert(series, held);
            }
        }
        if !rest.is_empty() {
            return Err(invalid("something follows it"));
        }
        let no_room = read.left_out + read.squeezed;
        *self = Running { left_out, squeezed, ..read };
        self.room.set(self.heap_bytes());
        Ok((ready, no_room))
    }
}

impl Distribution {
    fn is_possible(&self) -> bool {
        self.buckets.is_possible() && self.sum.is_finite() && self.min.is_finite() && self.max.is_finite()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Kind;
    use crate::snapshot::Snapshot;

    #[test]
    fn what_was_saved_goes_on_and_is_refused_where_it_is_cut_or_impossible() {
        let series = |kind, n: u64| Series::new(kind, &format!("s{n}"), &[]);
        let mut running = Running::default();
        for n in 0..5 {
            running.add(&series(Kind::Counter, n), 1.0, 11.0, n as f64);
            let fresh = Distribution { min: -1.0, max: 9.0, ..Distribution::default() };
            running.merge(&series(Kind::Timer, n), 1.0, 11.0, &fresh, &[(2.0, 3.0), (-1.0, 0.5)]);
        }
        let mut ready: Ready<Prepared> = Ready::default();
        let snapshot = Snapshot { sequence: 3, ..Snapshot::default() };
        ready.set(&snapshot, vec![(vec![1, 2], 7)]);
        let saved = running.save(&ready).expect("there is something");
        let mut next = Running::default();
        let (ready, no_room) = next.restore(&saved).expect("it is whole");
        assert!(ready.is_of(&snapshot) && ready.next() == Some((vec![1, 2], 7)) && no_room == 0);
        assert_eq!(next.add(&series(Kind::Counter, 4), 11.0, 21.0, 1.0), (1.0, 5.0));
        assert_eq!((next.sums.len(), next.histograms.len()), (5, 5));
        let (since, held) = next.merge(&series(Kind::Timer, 1), 11.0, 21.0, &Distribution::default(), &[(2.0, 1.0)]);
        assert_eq!((since, held.buckets.count(), held.min), (1.0, 4.5, -1.0));
        for cut in 0..saved.len() {
            assert!(Running::default().restore(&saved[..cut]).is_err(), "{cut} of {}", saved.len());
        }
        running.sums.insert(series(Kind::Counter, 9), (f64::NAN, Sum::default(), 1.0));
        let saved = running.save(&ready).expect("there is something");
        assert!(Running::default().restore(&saved).is_err());
    }
}
