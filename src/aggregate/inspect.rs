//! Looking at an open interval without closing it, and forgetting series at once: what the management port asks for.

use std::collections::HashSet;

use crate::series::Series;

use super::columns::Class;
use super::gauge::Gauge;
use super::shard::Shard;
use super::tally::Tally;

/// What a series holds of the open interval.
#[derive(Clone, Debug)]
pub enum Inspected {
    /// Nothing.
    Idle,
    /// A counter's sum.
    Sum(f64),
    /// What a gauge was told.
    Level(Gauge),
    /// The first samples of a timer, in the order of arrival as long as they are exact, and how many there are.
    Samples(Vec<f64>, u64),
}

impl Shard {
    /// How many series of a class it holds.
    pub fn held(&self, class: Class) -> usize {
        self.indexes[class as usize].len()
    }

    /// The counts of the open interval.
    pub fn open_tally(&self) -> &Tally {
        &self.open.tally
    }

    /// The first `limit` series of a class by their numbers, with at most `samples` samples each.
    pub fn inspect(&self, class: Class, limit: usize, samples: usize) -> Vec<(Series, Inspected)> {
        let columns = &self.open.columns;
        let all = self.indexes[class as usize].all().take(limit);
        all.map(|(id, series)| {
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
            (series.clone(), peeked)
        })
        .collect()
    }

    /// Forgets the series of a class that are wanted, with what they hold of the open interval; their names.
    pub fn forget(&mut self, class: Class, is_wanted: impl Fn(&Series) -> bool) -> Vec<Series> {
        let wanted: Vec<(u32, Series)> = self.indexes[class as usize]
            .all()
            .filter(|(_, series)| is_wanted(series))
            .map(|(id, series)| (id, series.clone()))
            .collect();
        let ids: HashSet<u32> = wanted.iter().map(|(id, _)| *id).collect();
        // Nobody has heard of a series that this interval brought.
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
