//! Reads an open interval without closing it, and removes series at once, for the management port.

use std::collections::HashSet;

use crate::series::Series;
use crate::telemetry::Tally;

use super::columns::Class;
use super::gauge::Gauge;
use super::shard::Shard;

/// The values of a series in the open interval.
#[derive(Clone, Debug)]
pub enum Inspected {
    /// Nothing.
    Idle,
    /// A counter's sum.
    Sum(f64),
    /// A gauge's updates.
    Level(Gauge),
    /// The first samples of a timer, in the order of arrival while they are exact, and their total number.
    Samples(Vec<f64>, u64),
}

impl Shard {
    /// The number of series of a class.
    pub fn held(&self, class: Class) -> usize {
        self.indexes[class as usize].len()
    }

    /// The tally of the open interval.
    pub fn open_tally(&self) -> &Tally {
        &self.open.tally
    }

    /// The first `limit` series of a class by id, with at most `samples` samples each; fewer series if the samples take more
    /// than `most_bytes`.
    pub fn inspect(&self, class: Class, limit: usize, samples: usize, most_bytes: usize) -> Vec<(Series, Inspected)> {
        let columns = &self.open.columns;
        let mut left = most_bytes;
        let all = self.indexes[class as usize].all().take(limit);
        all.map_while(|(id, series)| {
            let peeked = match class {
                _ if !columns.is_touched(class, id) => Inspected::Idle,
                Class::Counter => columns.counters.get(id).map_or(Inspected::Idle, |sum| Inspected::Sum(sum.value())),
                Class::Gauge => columns.gauges.get(id).map_or(Inspected::Idle, |gauge| Inspected::Level(*gauge)),
                Class::Timer => columns
                    .timers
                    .get(id)
                    .map_or(Inspected::Idle, |timer| Inspected::Samples(timer.first(samples), timer.samples())),
                Class::Set | Class::Kv => Inspected::Idle,
            };
            if let Inspected::Samples(first, _) = &peeked {
                left = left.checked_sub(size_of_val(first.as_slice()))?;
            }
            Some((series.clone(), peeked))
        })
        .collect()
    }

    /// Removes the matching series of a class, with their values of the open interval; returns their names.
    pub fn forget(&mut self, class: Class, is_wanted: impl Fn(&Series) -> bool) -> Vec<Series> {
        let wanted: Vec<(u32, Series)> = self.indexes[class as usize]
            .all()
            .filter(|(_, series)| is_wanted(series))
            .map(|(id, series)| (id, series.clone()))
            .collect();
        let ids: HashSet<u32> = wanted.iter().map(|(id, _)| *id).collect();
        // The registry does not know a series that is new in this interval.
        let mut news = HashSet::new();
        self.open.created[class as usize].retain(|created| {
            let is_wanted = ids.contains(&created.id);
            if is_wanted {
                news.insert(created.id);
            }
            !is_wanted
        });
        for id in ids {
            self.open.columns.forget(class, id);
            if news.contains(&id) {
                self.remove(class, id);
            } else {
                self.retire(class, id);
            }
        }
        wanted.into_iter().map(|(_, series)| series).collect()
    }
}
