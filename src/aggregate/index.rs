//! Maps keys to dense ids and back: the part of a shard that persists over intervals.
//!
//! A table with linear probing (Knuth, TAOCP 3, 6.4, algorithms L and R) whose slot, 32 bits of the hash and the id, is
//! one word. With a million series the cost of a lookup is its cache misses: the slot, the pointer to the series, its
//! key. Growing reads only slots, no keys.

use rapidhash::v3::{RapidSecrets, rapidhash_v3_seeded};

use crate::memory::vec_footprint;
use crate::protocol::Kind;
use crate::series::{Series, plain_name};

/// Marks an id whose series was sent under exactly its canonical name, without tags: the same bytes on the wire always
/// mean this series and need not be parsed again.
const PLAIN: u32 = 1 << 31;

/// Marks an id whose series' lines are looked at one by one (`watched.rs`). It is no place in a column, and so a line of it
/// leaves the fast path at the first step that looks one up; other lines do not need to be asked whether they have it.
pub(super) const OWN: u32 = 1 << 30;

/// An empty slot.
const EMPTY: Slot = Slot { hash: 0, id: u32::MAX };

/// Slots of the smallest table.
const MIN_SLOTS: usize = 16;

/// A table of fewer slots is not worth shrinking.
const SHRUNK_SLOTS: usize = 1 << 16;

/// A slot of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    hash: u32,
    /// An id, possibly marked [`PLAIN`].
    id: u32,
}

/// Series of one class, each with a dense id that indexes the columns. Ids of series that left are reused.
#[derive(Debug)]
pub(super) struct Index {
    /// The number of slots is a power of two; at most four fifths are used.
    slots: Vec<Slot>,
    len: usize,
    series: Vec<Option<Series>>,
    free: Vec<u32>,
    /// Bytes that the keys take.
    key_bytes: usize,
}

impl Default for Index {
    fn default() -> Index {
        Index { slots: vec![EMPTY; MIN_SLOTS], len: 0, series: Vec::new(), free: Vec::new(), key_bytes: 0 }
    }
}

impl Index {
    #[inline]
    pub(super) fn find(&self, hash: u64, key: &[u8]) -> Option<u32> {
        self.probe(hash, |id| self.at(id).is_some_and(|series| series.key() == key))
    }

    /// The series of a name on the wire, if these bytes are known to mean it. A tenth of what a line costs is saved where it is a part of
    /// its caller, which the compiler does not see by itself.
    #[inline(always)]
    pub(super) fn find_plain(&self, hash: u64, kind: Kind, name: &[u8]) -> Option<u32> {
        self.probe(hash, |id| id & PLAIN != 0 && self.at_marked(id).is_some_and(|series| series.is_plain(kind, name)))
    }

    /// The series with a key whose lines are looked at one by one: [`Index::find`] leaves those out.
    pub(super) fn find_own(&self, hash: u64, key: &[u8]) -> Option<u32> {
        let is_same = |id| id & OWN != 0 && self.at_marked(id).is_some_and(|series| series.key() == key);
        self.probe(hash, is_same).map(|id| id & !OWN)
    }

    /// Records that the lines of a series are looked at one by one.
    pub(super) fn mark_own(&mut self, hash: u64, id: u32) {
        if let Some(at) = self.position(hash, |known| known & !PLAIN == id) {
            self.slots[at].id |= OWN;
        }
    }

    /// The slot where a search begins. Reading it early, for many lines, brings it into the cache before the search.
    #[inline]
    pub(super) fn home(&self, hash: u64) -> Slot {
        self.slots[self.place(hash as u32)]
    }

    /// The series of a slot, for the same purpose.
    #[inline]
    pub(super) fn guess(&self, slot: Slot) -> Option<&Series> {
        self.at(slot.id)
    }

    /// Records that a series was sent under exactly its canonical name.
    pub(super) fn mark_plain(&mut self, hash: u64, id: u32) {
        if let Some(at) = self.position(hash, |known| known & !(PLAIN | OWN) == id) {
            self.slots[at].id |= PLAIN;
        }
    }

    #[inline]
    fn place(&self, hash: u32) -> usize {
        hash as usize & (self.slots.len() - 1)
    }

    #[inline(always)]
    fn probe(&self, hash: u64, is_same: impl Fn(u32) -> bool) -> Option<u32> {
        self.position(hash, is_same).map(|at| self.slots[at].id & !PLAIN)
    }

    #[inline(always)]
    fn position(&self, hash: u64, is_same: impl Fn(u32) -> bool) -> Option<usize> {
        let hash = hash as u32;
        let mut at = self.place(hash);
        loop {
            let slot = self.slots[at];
            if slot.hash == hash && slot != EMPTY && is_same(slot.id) {
                return Some(at);
            }
            if slot == EMPTY {
                return None;
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
    }

    #[inline]
    fn at(&self, id: u32) -> Option<&Series> {
        self.series.get((id & !PLAIN) as usize)?.as_ref()
    }

    /// The same of an id with any marks.
    #[inline]
    fn at_marked(&self, id: u32) -> Option<&Series> {
        self.series.get((id & !(PLAIN | OWN)) as usize)?.as_ref()
    }

    /// Assigns an id to a series that is not in the table yet.
    pub(super) fn insert(&mut self, hash: u64, series: Series) -> u32 {
        let id = match self.free.pop() {
            Some(id) => id,
            None => {
                self.series.push(None);
                (self.series.len() - 1) as u32
            }
        };
        self.key_bytes += series.heap_bytes();
        self.series[id as usize] = Some(series);
        self.len += 1;
        if self.len * 5 > self.slots.len() * 4 {
            let larger = vec![EMPTY; self.slots.len() * 2];
            let slots = std::mem::replace(&mut self.slots, larger);
            slots.into_iter().filter(|&slot| slot != EMPTY).for_each(|slot| self.put(slot));
        }
        self.put(Slot { hash: hash as u32, id });
        id
    }

    fn put(&mut self, slot: Slot) {
        let mut at = self.place(slot.hash);
        while self.slots[at] != EMPTY {
            at = (at + 1) & (self.slots.len() - 1);
        }
        self.slots[at] = slot;
    }

    /// Removes a series; `false` if no series has this id.
    pub(super) fn remove(&mut self, id: u32, hash_of: impl Fn(&[u8]) -> u64) -> bool {
        let Some(series) = self.series.get_mut(id as usize).and_then(Option::take) else {
            return false;
        };
        if let Some(at) = self.position(hash_of(series.key()), |known| known & !(PLAIN | OWN) == id) {
            self.vacate(at);
            self.len -= 1;
        }
        self.key_bytes -= series.heap_bytes();
        self.free.push(id);
        true
    }

    /// Bytes that the keys and the table take.
    #[inline]
    pub(super) fn heap_bytes(&self) -> usize {
        self.key_bytes
            + vec_footprint::<Slot>(self.slots.capacity())
            + vec_footprint::<Option<Series>>(self.series.capacity())
            + vec_footprint::<u32>(self.free.capacity())
    }

    /// Lets the room go that series took which have left, if it is much and most of it is empty.
    pub(super) fn shrink(&mut self) {
        let room = self.slots.len().max(self.series.len());
        if room < SHRUNK_SLOTS || self.len * 8 > room {
            return;
        }
        let used = self.series.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        // The slots went before, but for one with a high number, such as an overflow series, the rest could not.
        if self.slots.len() < SHRUNK_SLOTS && used == self.series.len() {
            return;
        }
        self.series.truncate(used);
        self.series.shrink_to_fit();
        // New series take the lowest ids, so that the highest can go next time.
        self.free.retain(|&id| (id as usize) < used);
        self.free.sort_unstable_by(|a, b| b.cmp(a));
        self.free.shrink_to_fit();
        let wanted = (self.len * 2).next_power_of_two().max(MIN_SLOTS);
        let slots = std::mem::replace(&mut self.slots, vec![EMPTY; wanted]);
        slots.into_iter().filter(|&slot| slot != EMPTY).for_each(|slot| self.put(slot));
    }

    /// Empties a slot and moves the following ones that would no longer be found.
    fn vacate(&mut self, mut hole: usize) {
        let last = self.slots.len() - 1;
        let mut at = hole;
        loop {
            at = (at + 1) & last;
            let slot = self.slots[at];
            if slot == EMPTY {
                break;
            }
            // A slot may move back only to where its search begins.
            let distance = at.wrapping_sub(self.place(slot.hash)) & last;
            if distance >= (at.wrapping_sub(hole) & last) {
                self.slots[hole] = slot;
                hole = at;
            }
        }
        self.slots[hole] = EMPTY;
    }

    pub(super) fn series(&self, id: u32) -> Option<&Series> {
        self.series.get(id as usize)?.as_ref()
    }

    /// Every series with its id, by ascending ids.
    pub(super) fn all(&self) -> impl Iterator<Item = (u32, &Series)> {
        (0..).zip(&self.series).filter_map(|(id, series)| Some((id, series.as_ref()?)))
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }
}

/// A keyed hash: UDP senders are not authenticated and must not be able to predict which names collide.
#[derive(Clone, Debug)]
pub(super) struct Hasher(RapidSecrets);

impl Hasher {
    pub(super) fn new(seed: u64) -> Hasher {
        Hasher(RapidSecrets::seed(seed))
    }

    /// The hash of a canonical key.
    #[inline]
    pub(super) fn hash(&self, key: &[u8]) -> u64 {
        match plain_name(key) {
            Some(name) => self.hash_plain(name),
            None => rapidhash_v3_seeded(key, &self.0),
        }
    }

    /// The hash of a name and a tag section as they were sent.
    #[inline]
    pub(super) fn hash_key(&self, name: &[u8], tags: &[u8]) -> u64 {
        self.hash_plain(name).rotate_left(23) ^ rapidhash_v3_seeded(tags, &self.0)
    }

    /// The hash of a key without tags. It leaves the kind out: a name seldom has more than one in a class.
    #[inline]
    pub(super) fn hash_plain(&self, name: &[u8]) -> u64 {
        rapidhash_v3_seeded(name, &self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[test]
    fn the_room_of_a_flood_goes_although_its_last_series_stays_for_longer() {
        let hash = |n: u32| u64::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut index = Index::default();
        let count = SHRUNK_SLOTS as u32 * 2;
        for n in 0..count {
            assert_eq!(index.insert(hash(n), Series::new(Kind::Counter, &format!("s{n}"), &[])), n);
        }
        let series = |n: u32| Series::new(Kind::Counter, &format!("s{n}"), &[]);
        (0..count - 1).for_each(|id| assert!(index.remove(id, |_| hash(id))));
        index.shrink();
        let last = series(count - 1);
        assert_eq!(index.find(hash(count - 1), last.key()), Some(count - 1));
        // Its number is the highest, so the places of all others are still there.
        assert!(index.heap_bytes() > count as usize * size_of::<Option<Series>>());
        assert!(index.remove(count - 1, |_| hash(count - 1)));
        index.shrink();
        assert!(index.heap_bytes() < 4 << 10, "{} bytes", index.heap_bytes());
    }

    proptest! {
        #[test]
        fn an_index_is_a_map(steps in proptest::collection::vec((any::<bool>(), 0..60_u32), 0..400)) {
            // Few distinct hashes, so that searches overlap and wrap around the end.
            let hash = |n: u32| u64::from(n % 7 + 12);
            let (mut index, mut model) = (Index::default(), HashMap::new());
            for (add, n) in steps {
                let series = Series::new(Kind::Counter, &format!("s{n}"), &[]);
                match model.get(&n) {
                    None if add => {
                        model.insert(n, index.insert(hash(n), series));
                    }
                    Some(&id) if !add => {
                        prop_assert!(index.remove(id, |_| hash(n)) && !index.remove(id, |_| hash(n)));
                        model.remove(&n);
                    }
                    None | Some(_) => {}
                }
                for n in 0..60 {
                    let key = Series::new(Kind::Counter, &format!("s{n}"), &[]);
                    prop_assert_eq!(index.find(hash(n), key.key()), model.get(&n).copied());
                }
            }
            prop_assert_eq!(index.len(), model.len());
        }
    }
}
