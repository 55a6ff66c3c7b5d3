//! From a key to a dense number, and back: the part of a shard that lives from interval to interval.

use hashbrown::HashTable;
use rapidhash::v3::{RapidSecrets, rapidhash_v3_seeded};

use crate::protocol::Kind;
use crate::series::{Series, plain_name};

/// Marks a number whose series was sent under exactly its canonical name, without tags: then the same bytes on
/// the wire always mean this series, and need not be read again.
const PLAIN: u32 = 1 << 31;

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
        let is_same = |&id: &u32| self.at(id).is_some_and(|series| series.key() == key);
        self.table.find(hash, is_same).map(|&id| id & !PLAIN)
    }

    /// A series by the name it was sent under, if those bytes are known to mean it.
    #[inline]
    pub(super) fn find_plain(&self, hash: u64, kind: Kind, name: &[u8]) -> Option<u32> {
        let is_same = |&id: &u32| id & PLAIN != 0 && self.at(id).is_some_and(|series| series.is_plain(kind, name));
        self.table.find(hash, is_same).map(|&id| id & !PLAIN)
    }

    /// Remembers that a series was sent under exactly its canonical name.
    pub(super) fn mark_plain(&mut self, hash: u64, id: u32) {
        if let Some(known) = self.table.find_mut(hash, |&known| known & !PLAIN == id) {
            *known |= PLAIN;
        }
    }

    #[inline]
    fn at(&self, id: u32) -> Option<&Series> {
        self.series.get((id & !PLAIN) as usize)?.as_ref()
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
        let hash_of = |&id: &u32| known[(id & !PLAIN) as usize].as_ref().map_or(0, |s| hasher.hash(s.key()));
        self.table.insert_unique(hash, id, hash_of);
        id
    }

    /// Forgets a series; `false` if there is none of that number.
    pub(super) fn remove(&mut self, id: u32, hasher: &Hasher) -> bool {
        let Some(series) = self.series.get_mut(id as usize).and_then(Option::take) else {
            return false;
        };
        if let Ok(entry) = self.table.find_entry(hasher.hash(series.key()), |&known| known & !PLAIN == id) {
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

    /// Of a canonical key.
    #[inline]
    pub(super) fn hash(&self, key: &[u8]) -> u64 {
        match plain_name(key) {
            Some(name) => self.hash_plain(name),
            None => rapidhash_v3_seeded(key, &self.0),
        }
    }

    /// Of a name and a tag section as they were sent.
    #[inline]
    pub(super) fn hash_spelling(&self, name: &[u8], tags: &[u8]) -> u64 {
        self.hash_plain(name).rotate_left(23) ^ rapidhash_v3_seeded(tags, &self.0)
    }

    /// Of a key without tags. The kind is left out: a name seldom has more than one in a class.
    #[inline]
    pub(super) fn hash_plain(&self, name: &[u8]) -> u64 {
        rapidhash_v3_seeded(name, &self.0)
    }
}
