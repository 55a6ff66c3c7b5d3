//! Counts of the heaviest keys of a stream, in a table of at most [`COUNTERS`] entries.
//!
//! A full table takes from every rank the median of a sample of them and drops what has nothing left (Anderson et al., "A
//! High-Performance Algorithm for Identifying Frequent Items in Data Streams", 2017): so a new key costs little on average, a
//! known one costs one lookup, weights are taken as they are, and tables add up. What a key's count may lack is what was
//! taken from ranks in all; up to [`COUNTERS`] keys the counts are exact.

use crate::memory::vec_footprint;

/// Entries of a table: senders, prefixes, or pairs of both.
pub const COUNTERS: usize = 1024;

/// Places of the hash table: a power of two, twice the entries.
const PLACES: usize = 2 * COUNTERS;

/// Ranks that the median is taken from.
const SAMPLED: usize = 65;

/// What is counted of a key; lines, or what they did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    /// Lines.
    pub lines: f64,
    /// Their bytes, with the newlines.
    pub bytes: f64,
    /// Malformed lines.
    pub malformed: f64,
    /// Series that were new.
    pub new_series: f64,
    /// Samples of names that would be new series and found no room.
    pub folded: f64,
}

impl Counts {
    /// Adds others.
    #[inline]
    pub fn add(&mut self, other: &Counts) {
        self.lines += other.lines;
        self.bytes += other.bytes;
        self.malformed += other.malformed;
        self.new_series += other.new_series;
        self.folded += other.folded;
    }

    /// All of them times a factor.
    #[must_use]
    pub fn times(&self, factor: f64) -> Counts {
        Counts {
            lines: self.lines * factor,
            bytes: self.bytes * factor,
            malformed: self.malformed * factor,
            new_series: self.new_series * factor,
            folded: self.folded * factor,
        }
    }

    /// What decides on who stays.
    #[inline]
    fn rank(&self) -> f64 {
        self.lines + self.malformed + self.new_series + self.folded
    }
}

/// A key with its counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<K> {
    /// What stands for the key: a keyed hash of 64 bits, which nobody can make another key have.
    pub(super) hash: u64,
    pub(super) key: K,
    pub(super) counts: Counts,
    rank: f64,
}

/// The heaviest keys.
#[derive(Clone, Debug)]
pub(super) struct Table<K> {
    /// Numbers of entries, from 1 on; 0 is an empty place.
    places: Box<[u16]>,
    entries: Vec<Entry<K>>,
    /// The most that a count may lack.
    lacking: f64,
}

impl<K> Default for Table<K> {
    fn default() -> Table<K> {
        Table { places: vec![0; PLACES].into(), entries: Vec::new(), lacking: 0.0 }
    }
}

impl<K: Copy> Table<K> {
    /// Adds to the counts of a key, which is made if it is new.
    #[inline]
    pub(super) fn add(&mut self, hash: u64, counts: &Counts, key: impl FnOnce() -> K) {
        let at = match self.search(hash) {
            Ok(at) => at,
            Err(place) => self.insert(place, hash, key()),
        };
        let entry = &mut self.entries[at];
        entry.counts.add(counts);
        entry.rank += counts.rank();
    }

    /// The entry of a hash, or the place for it.
    #[inline]
    fn search(&self, hash: u64) -> Result<usize, usize> {
        let mut place = hash as usize & (PLACES - 1);
        loop {
            let Some(at) = usize::from(self.places[place]).checked_sub(1) else { return Err(place) };
            if self.entries[at].hash == hash {
                return Ok(at);
            }
            place = (place + 1) & (PLACES - 1);
        }
    }

    #[cold]
    fn insert(&mut self, place: usize, hash: u64, key: K) -> usize {
        let mut place = place;
        if self.entries.len() == COUNTERS {
            self.purge();
            place = self.search(hash).err().unwrap_or(place);
        }
        self.entries.push(Entry { hash, key, counts: Counts::default(), rank: 0.0 });
        self.places[place] = self.entries.len() as u16;
        self.entries.len() - 1
    }

    /// Drops the lighter half, about.
    fn purge(&mut self) {
        let mut sample = [0.0; SAMPLED];
        let step = self.entries.len() / SAMPLED;
        sample.iter_mut().enumerate().for_each(|(n, rank)| *rank = self.entries[n * step].rank);
        let (_, median, _) = sample.select_nth_unstable_by(SAMPLED / 2, f64::total_cmp);
        let median = *median;
        self.lacking += median;
        self.entries.retain_mut(|entry| {
            entry.rank -= median;
            entry.rank > 0.0
        });
        self.index();
    }

    fn index(&mut self) {
        self.places.fill(0);
        for at in 0..self.entries.len() {
            if let Err(place) = self.search(self.entries[at].hash) {
                self.places[place] = at as u16 + 1;
            }
        }
    }

    /// Takes everything out.
    pub(super) fn take(&mut self) -> Taken<K> {
        let taken = Taken { entries: self.entries.clone(), lacking: self.lacking };
        self.clear();
        taken
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.places.fill(0);
        self.lacking = 0.0;
    }

    /// Adds what was taken out of another one; `scale` is what its lines and bytes are to be multiplied by.
    pub(super) fn merge<T: Copy>(&mut self, taken: &Taken<T>, scale: f64, key: impl Fn(T) -> K) {
        for entry in &taken.entries {
            let Counts { lines, bytes, .. } = entry.counts;
            let counts = Counts { lines: lines * scale, bytes: bytes * scale, ..entry.counts };
            self.add(entry.hash, &counts, || key(entry.key));
        }
        self.lacking += taken.lacking * scale;
    }

    /// Lets all counts fade to a share of them; those that nearly vanish leave.
    pub(super) fn fade(&mut self, share: f64) {
        if share == 0.0 {
            return self.clear();
        }
        self.lacking *= share;
        self.entries.retain_mut(|entry| {
            entry.counts = entry.counts.times(share);
            entry.rank *= share;
            entry.counts.rank() >= 0.5
        });
        self.index();
    }

    pub(super) fn get(&self, hash: u64) -> Option<&Entry<K>> {
        self.search(hash).ok().map(|at| &self.entries[at])
    }

    pub(super) fn entries(&self) -> &[Entry<K>] {
        &self.entries
    }

    /// The most that the lines of any key may lack.
    pub(super) fn lacking(&self) -> f64 {
        self.lacking
    }

    pub(super) fn heap_bytes(&self) -> usize {
        vec_footprint::<u16>(PLACES) + vec_footprint::<Entry<K>>(self.entries.capacity())
    }
}

/// What was in a table.
#[derive(Clone, Debug)]
pub(super) struct Taken<K> {
    pub(super) entries: Vec<Entry<K>>,
    pub(super) lacking: f64,
}

impl<K> Default for Taken<K> {
    fn default() -> Taken<K> {
        Taken { entries: Vec::new(), lacking: 0.0 }
    }
}

impl<K> Taken<K> {
    pub(super) fn heap_bytes(&self) -> usize {
        vec_footprint::<Entry<K>>(self.entries.capacity())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rapidhash::v3::rapidhash_v3;

    fn hash(n: u64) -> u64 {
        rapidhash_v3(&n.to_le_bytes())
    }

    fn lines(lines: f64) -> Counts {
        Counts { lines, ..Counts::default() }
    }

    #[test]
    fn as_many_keys_as_there_are_counters_are_counted_exactly() {
        let mut table = Table::default();
        for round in 1..=3 {
            (0..COUNTERS as u64).for_each(|n| table.add(hash(n), &lines((n * round) as f64), || n));
        }
        assert_eq!((table.entries().len(), table.lacking()), (COUNTERS, 0.0));
        assert!((0..COUNTERS as u64).all(|n| table.get(hash(n)).is_some_and(|e| e.counts.lines == (n * 6) as f64)));
    }

    #[test]
    fn the_heaviest_of_many_keys_stay_and_lack_no_more_than_is_said() {
        // Zipf's law over 50,000 keys, the light ones first, then all of them mixed.
        const KEYS: u64 = 50_000;
        let mut table = Table::default();
        let mut total = 0.0;
        for turn in 0..20 {
            for n in 0..KEYS {
                let n = (n * 7919 + turn * 13) % KEYS;
                let weight = 1e5 / (n + 1) as f64;
                table.add(hash(n), &lines(weight), || n);
                total += weight;
            }
        }
        assert!(table.entries().len() <= COUNTERS);
        for n in 0..20 {
            let right = 20.0 * 1e5 / (n + 1) as f64;
            let found = table.get(hash(n)).expect("it is heavy").counts.lines;
            assert!(found <= right * 1.000_001 && found >= right - table.lacking(), "{n}: {found} of {right}");
        }
        assert!(table.lacking() < total * 3.0 / COUNTERS as f64, "{} of {total}", table.lacking());
    }

    #[test]
    fn merged_tables_are_one_that_saw_all_and_what_fades_leaves() {
        let (mut left, mut right, mut whole) = (Table::default(), Table::default(), Table::default());
        for n in 0..900 {
            (if n % 3 == 0 { &mut left } else { &mut right }).add(hash(n), &lines(n as f64), || n);
            whole.add(hash(n), &lines(n as f64), || n);
        }
        left.merge(&right.take(), 1.0, |key| key);
        assert!((0..900).all(|n| left.get(hash(n)).map(|e| e.counts) == whole.get(hash(n)).map(|e| e.counts)));
        assert!(right.entries().is_empty() && right.get(hash(1)).is_none());
        left.fade(0.001);
        assert_eq!(left.entries().len(), 400);
        assert!(left.get(hash(499)).is_none() && left.get(hash(500)).is_some_and(|e| e.counts.lines == 0.5));
        left.fade(0.0);
        assert!(left.entries().is_empty());
    }
}
