//! Keys: which series the same bytes meant before.
//!
//! A tagged line names its series by a name and a tag section whose order is the sender's. Splitting, sorting and
//! joining tags costs ten times what a lookup costs, and senders spell alike, so the key is remembered.

use hashbrown::HashTable;

use crate::protocol::Kind;
use crate::series::Series;

/// Longest key remembered, in bytes.
const MAX_CACHED_KEY_BYTES: usize = 1024;

/// Keys beyond this many a series held are somebody's game with the order of tags: all are forgotten.
pub(super) const CACHED_KEYS_PER_SERIES: usize = 2;
const SPARE_CACHED_KEYS: usize = 1024;

/// A name and a tag section as they were sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct CachedKey<'a> {
    hash: u64,
    kind: Kind,
    name: &'a [u8],
    tags: &'a [u8],
}

impl<'a> CachedKey<'a> {
    #[inline]
    pub(super) fn new(hash: u64, kind: Kind, name: &'a [u8], tags: &'a [u8]) -> CachedKey<'a> {
        CachedKey { hash, kind, name, tags }
    }
}

/// A key and what it means.
#[derive(Debug)]
struct Known {
    hash: u64,
    /// The name, then the tags.
    text: Box<[u8]>,
    name_len: usize,
    kind: Kind,
    series: Series,
    id: u32,
}

impl Known {
    #[inline]
    fn is(&self, key: &CachedKey<'_>) -> bool {
        self.hash == key.hash
            && self.kind == key.kind
            && self.name_len == key.name.len()
            && self.text[..self.name_len] == *key.name
            && self.text[self.name_len..] == *key.tags
    }
}

/// The keys of a shard.
#[derive(Debug, Default)]
pub(super) struct KeyCache {
    table: HashTable<Known>,
}

impl KeyCache {
    /// The number of the series that a key meant, with that series: the number may have another owner by now.
    #[inline]
    pub(super) fn find(&self, key: &CachedKey<'_>) -> Option<(u32, &Series)> {
        self.table.find(key.hash, |known| known.is(key)).map(|known| (known.id, &known.series))
    }

    /// Forgets everything if there are too many for a shard that holds `series` series.
    pub(super) fn make_room(&mut self, series: usize) {
        if self.table.len() >= CACHED_KEYS_PER_SERIES * series + SPARE_CACHED_KEYS {
            self.table.clear();
        }
    }

    /// Remembers what a key means.
    pub(super) fn remember(&mut self, key: CachedKey<'_>, id: u32, series: &Series) {
        let CachedKey { hash, kind, name, tags } = key;
        if name.len() + tags.len() > MAX_CACHED_KEY_BYTES {
            return;
        }
        // The same key of a series that has left.
        if let Ok(stale) = self.table.find_entry(hash, |known| known.is(&key)) {
            stale.remove();
        }
        let text = [name, tags].concat().into();
        let known = Known { hash, text, name_len: name.len(), kind, series: series.clone(), id };
        self.table.insert_unique(hash, known, |known| known.hash);
    }
}
