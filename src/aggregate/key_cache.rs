//! Caches which series the same bytes meant before.
//!
//! A tagged line names its series by a name and a tag section in the sender's order. Splitting, sorting and joining tags
//! costs ten times as much as a lookup, and a sender always writes the same bytes, so they are cached.

use hashbrown::HashTable;
use hashbrown::hash_table::IntoIter;

use crate::memory::footprint;
use crate::protocol::Kind;
use crate::series::Series;

/// Longest cached key, in bytes.
const MAX_CACHED_KEY_BYTES: usize = 1024;

/// Most cached keys per series held. More means that a sender permutes its tags; then all are dropped.
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

/// A cached key and its series.
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

/// The cached keys of a shard.
#[derive(Debug, Default)]
pub(super) struct KeyCache {
    table: HashTable<Known>,
    /// Bytes that the texts take.
    text_bytes: usize,
}

impl KeyCache {
    /// The id of the series that a key meant, with that series: the id may belong to another one by now.
    #[inline]
    pub(super) fn find(&self, key: &CachedKey<'_>) -> Option<(u32, &Series)> {
        self.table.find(key.hash, |known| known.is(key)).map(|known| (known.id, &known.series))
    }

    /// Whether there are too many keys for a shard that holds `series` series.
    pub(super) fn is_too_large(&self, series: usize) -> bool {
        self.table.len() >= CACHED_KEYS_PER_SERIES * series + SPARE_CACHED_KEYS
    }

    /// Drops all keys if there are too many for a shard that holds `series` series.
    pub(super) fn make_room(&mut self, series: usize) {
        if self.is_too_large(series) {
            self.table.clear();
            self.text_bytes = 0;
        }
    }

    /// Bytes that it takes.
    #[inline]
    pub(super) fn heap_bytes(&self) -> usize {
        self.text_bytes + footprint(self.table.allocation_size())
    }

    /// Empties it. What it held is dropped by and by, by [`SpentKeys::drop_some`].
    pub(super) fn take(&mut self) -> SpentKeys {
        let KeyCache { table, text_bytes } = std::mem::take(self);
        SpentKeys { bytes: text_bytes + footprint(table.allocation_size()), rest: Some(table.into_iter()) }
    }

    /// Caches the series of a key.
    pub(super) fn remember(&mut self, key: CachedKey<'_>, id: u32, series: &Series) {
        let CachedKey { hash, kind, name, tags } = key;
        if name.len() + tags.len() > MAX_CACHED_KEY_BYTES {
            return;
        }
        // The same key, of a series that has left.
        if let Ok(stale) = self.table.find_entry(hash, |known| known.is(&key)) {
            let (stale, _) = stale.remove();
            self.text_bytes -= footprint(stale.text.len());
        }
        let text: Box<[u8]> = [name, tags].concat().into();
        self.text_bytes += footprint(text.len());
        let known = Known { hash, text, name_len: name.len(), kind, series: series.clone(), id };
        self.table.insert_unique(hash, known, |known| known.hash);
    }
}

/// Cached keys that are being dropped: a million at once would hold up receiving.
#[derive(Debug, Default)]
pub(super) struct SpentKeys {
    rest: Option<IntoIter<Known>>,
    bytes: usize,
}

impl SpentKeys {
    /// Bytes that are not dropped yet.
    pub(super) fn heap_bytes(&self) -> usize {
        self.bytes
    }

    /// Whether all are dropped.
    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_none()
    }

    /// Drops some of them.
    pub(super) fn drop_some(&mut self, most: usize) {
        let Some(rest) = &mut self.rest else { return };
        for known in rest.by_ref().take(most) {
            self.bytes -= footprint(known.text.len());
        }
        if rest.len() == 0 {
            *self = SpentKeys::default();
        }
    }
}
