//! From a key to a dense number, and back: the part of a shard that lives from interval to interval.

use hashbrown::HashTable;
use rapidhash::v3::{RapidSecrets, rapidhash_v3_seeded};

use crate::series::Series;

/// Series of one class, each with a dense number that indexes the columns. Numbers of series that left are
/// given out again.
#[derive(Debug, Default)]
pub(super) struct Index {
    table: HashTable<u32>,
    series: Vec<Option<Series>>,
    free: Vec<u32>,
}

impl Index {
    #[inline]
    pub(super) fn find(&self, hash: u64, key: &[u8]) -> Option<u32> {
        self.table
            .find(hash, |&id| self.series[id as usize].as_ref().is_some_and(|series| series.key() == key))
            .copied()
    }

    /// Gives a series that is not there yet its number.
    pub(super) fn insert(&mut self, hash: u64, series: Series, hasher: &Hasher) -> u32 {
        let id = match self.free.pop() {
            Some(id) => id,
            None => {
                self.series.push(None);
                (self.series.len() - 1) as u32
            }
        };
        self.series[id as usize] = Some(series);
        let known = &self.series;
        self.table.insert_unique(hash, id, |&id| known[id as usize].as_ref().map_or(0, |s| hasher.hash(s.key())));
        id
    }

    /// Forgets a series; `false` if there is none of that number.
    pub(super) fn remove(&mut self, id: u32, hasher: &Hasher) -> bool {
        let Some(series) = self.series.get_mut(id as usize).and_then(Option::take) else {
            return false;
        };
        if let Ok(entry) = self.table.find_entry(hasher.hash(series.key()), |&known| known == id) {
            entry.remove();
        }
        self.free.push(id);
        true
    }

    pub(super) fn series(&self, id: u32) -> Option<&Series> {
        self.series.get(id as usize)?.as_ref()
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }
}

/// A keyed hash: UDP senders are not authenticated, so nobody may know which names collide.
#[derive(Clone, Debug)]
pub(super) struct Hasher(RapidSecrets);

impl Hasher {
    pub(super) fn new(seed: u64) -> Hasher {
        Hasher(RapidSecrets::seed(seed))
    }

    #[inline]
    pub(super) fn hash(&self, key: &[u8]) -> u64 {
        rapidhash_v3_seeded(key, &self.0)
    }
}
