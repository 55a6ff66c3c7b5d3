//! Spellings: which series the same bytes meant before.
//!
//! A tagged line names its series by a name and a tag section whose order is the sender's. Splitting, sorting and
//! joining tags costs ten times what a lookup costs, and senders spell alike, so the spelling is remembered.

use hashbrown::HashTable;

use crate::protocol::Kind;
use crate::series::Series;

/// Longest spelling remembered, in bytes.
const MAX_SPELLING_BYTES: usize = 1024;

/// Spellings beyond this many a series held are somebody's game with the order of tags: all are forgotten.
pub(super) const SPELLINGS_A_SERIES: usize = 2;
const SPARE_SPELLINGS: usize = 1024;

/// A name and a tag section as they were sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spelling<'a> {
    hash: u64,
    kind: Kind,
    name: &'a [u8],
    tags: &'a [u8],
}

impl<'a> Spelling<'a> {
    #[inline]
    pub(super) fn new(hash: u64, kind: Kind, name: &'a [u8], tags: &'a [u8]) -> Spelling<'a> {
        Spelling { hash, kind, name, tags }
    }
}

/// A spelling and what it means.
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
    fn is(&self, spelling: &Spelling<'_>) -> bool {
        self.hash == spelling.hash
            && self.kind == spelling.kind
            && self.name_len == spelling.name.len()
            && self.text[..self.name_len] == *spelling.name
            && self.text[self.name_len..] == *spelling.tags
    }
}

/// The spellings of a shard.
#[derive(Debug, Default)]
pub(super) struct Aliases {
    table: HashTable<Known>,
}

impl Aliases {
    /// The number of the series that a spelling meant, with that series: the number may have another owner by now.
    #[inline]
    pub(super) fn find(&self, spelling: &Spelling<'_>) -> Option<(u32, &Series)> {
        self.table.find(spelling.hash, |known| known.is(spelling)).map(|known| (known.id, &known.series))
    }

    /// Forgets everything if there are too many for a shard that holds `series` series.
    pub(super) fn make_room(&mut self, series: usize) {
        if self.table.len() >= SPELLINGS_A_SERIES * series + SPARE_SPELLINGS {
            self.table.clear();
        }
    }

    /// Remembers what a spelling means.
    pub(super) fn remember(&mut self, spelling: Spelling<'_>, id: u32, series: &Series) {
        let Spelling { hash, kind, name, tags } = spelling;
        if name.len() + tags.len() > MAX_SPELLING_BYTES {
            return;
        }
        // The same spelling of a series that has left.
        if let Ok(stale) = self.table.find_entry(hash, |known| known.is(&spelling)) {
            stale.remove();
        }
        let text = [name, tags].concat().into();
        let known = Known { hash, text, name_len: name.len(), kind, series: series.clone(), id };
        self.table.insert_unique(hash, known, |known| known.hash);
    }
}
