//! Distinct values of tags, by key. Only new series are looked at: what a known one has was seen when it was new.

use crate::hyperloglog::{estimate, merge, observe};
use crate::memory::{footprint, vec_footprint};

use super::origin::{Sender, Text};
use super::prefix::Prefix;

/// Keys of tags that are watched. Beyond it, the one that new series had least gives way.
pub const TAG_KEYS: usize = 64;

/// Longest key, in bytes.
const KEY_BYTES: usize = 48;

/// What each interval leaves of the weight of a key in the choice which one gives way: one that was heavy long ago is not to
/// keep out one that explodes now.
const FADE: f64 = 0.8;

/// Registers: a standard error of 1.6 %.
const REGISTERS: usize = 1 << 12;

/// From this share of an interval's values on they are taken for new, all of them: a difference of two estimates of many
/// values is less exact than the estimate of the few.
const ALL_NEW: f64 = 0.7;

/// New series with a key that is like an identifier have a new value each, or a few of them share one; in a roll-out many do.
const MOSTLY_NEW: f64 = 0.1;

/// Candidates for who brings most of the values.
const FEW: usize = 4;

/// The heaviest of few candidates: the space-saving algorithm (Metwally, Agrawal, El Abbadi, 2005).
#[derive(Clone, Copy, Debug)]
pub(super) struct Few<K>([Option<(u64, K, u64)>; FEW]);

impl<K> Default for Few<K> {
    fn default() -> Few<K> {
        Few([const { None }; FEW])
    }
}

impl<K: Copy> Few<K> {
    fn add(&mut self, hash: u64, key: K, count: u64) {
        if let Some((_, _, known)) = self.0.iter_mut().flatten().find(|(known, ..)| *known == hash) {
            *known += count;
            return;
        }
        let least = self.0.iter_mut().min_by_key(|place| place.as_ref().map_or(0, |(_, _, count)| *count));
        if let Some(place) = least {
            let before = place.as_ref().map_or(0, |(_, _, count)| *count);
            *place = Some((hash, key, before + count));
        }
    }

    fn merge(&mut self, other: &Few<K>) {
        other.0.iter().flatten().for_each(|(hash, key, count)| self.add(*hash, *key, *count));
    }

    /// The heaviest one, if it stands for most of `all`.
    fn most_of(&self, all: u64) -> Option<K> {
        let (_, key, count) = self.0.iter().flatten().max_by_key(|(_, _, count)| *count)?;
        (*count * 2 > all).then_some(*key)
    }
}

/// What new series of an interval had under a key.
#[derive(Clone, Debug)]
pub(super) struct TagKey {
    key: Text<KEY_BYTES>,
    registers: Box<[u8; REGISTERS]>,
    /// New series that had it, those of them that were looked at, and those whose sender is known.
    series: u64,
    looked_at: u64,
    with_sender: u64,
    prefixes: Few<Prefix>,
    senders: Few<Sender>,
}

impl TagKey {
    fn new(key: Text<KEY_BYTES>) -> TagKey {
        TagKey {
            key,
            registers: Box::new([0; REGISTERS]),
            series: 0,
            looked_at: 0,
            with_sender: 0,
            prefixes: Few::default(),
            senders: Few::default(),
        }
    }

    /// Begins anew with another key.
    fn begin(&mut self, key: Text<KEY_BYTES>) {
        (self.key, self.series, self.looked_at, self.with_sender) = (key, 0, 0, 0);
        (self.prefixes, self.senders) = (Few::default(), Few::default());
        self.registers.fill(0);
    }
}

/// The tags of new series.
#[derive(Clone, Debug, Default)]
pub(super) struct TagKeys {
    /// By place: the hash of the key.
    hashes: Vec<u64>,
    /// By place: what decides on which key gives way. It is what new series had the key, or those before it in its place.
    weights: Vec<u64>,
    keys: Vec<TagKey>,
}

/// A new series, as far as its tags are concerned.
pub(super) struct NewSeries {
    /// How many series it stands for.
    pub(super) weight: u64,
    pub(super) prefix: (u64, Prefix),
    /// Its sender, if that is known.
    pub(super) sender: Option<(u64, Sender)>,
}

impl TagKeys {
    /// Adds a tag of a new series, by the hashes of key and value.
    pub(super) fn add(&mut self, (hash, key): (u64, &[u8]), value: u64, series: &NewSeries) {
        let at = self.hashes.iter().position(|known| *known == hash).unwrap_or_else(|| self.insert(hash, key));
        self.weights[at] += series.weight;
        let tag = &mut self.keys[at];
        observe(&mut tag.registers, value);
        tag.series += series.weight;
        tag.looked_at += 1;
        tag.prefixes.add(series.prefix.0, series.prefix.1, series.weight);
        if let Some((hash, sender)) = series.sender {
            tag.with_sender += series.weight;
            tag.senders.add(hash, sender, series.weight);
        }
    }

    /// The place of a key that has none. Keys without end are to cost little: the registers of the one that gives way are
    /// used again.
    #[cold]
    fn insert(&mut self, hash: u64, key: &[u8]) -> usize {
        if self.keys.len() < TAG_KEYS {
            self.hashes.push(hash);
            self.weights.push(0);
            self.keys.push(TagKey::new(Text::new(key)));
            return self.keys.len() - 1;
        }
        // It begins with the weight of the other, so that keys without end do not keep out one that stays.
        let least = (0..self.weights.len()).min_by_key(|&at| self.weights[at]).unwrap_or(0);
        self.hashes[least] = hash;
        self.keys[least].begin(Text::new(key));
        least
    }

    /// The keys with their hashes.
    fn all(&self) -> impl Iterator<Item = (u64, &TagKey)> {
        self.hashes.iter().copied().zip(&self.keys)
    }

    pub(super) fn take(&mut self) -> TagKeys {
        std::mem::take(self)
    }

    pub(super) fn heap_bytes(&self) -> usize {
        vec_footprint::<u64>(self.hashes.capacity())
            + vec_footprint::<u64>(self.weights.capacity())
            + vec_footprint::<TagKey>(self.keys.capacity())
            + self.keys.len() * footprint(REGISTERS)
    }
}

/// A key since the start.
#[derive(Debug)]
struct Watched {
    hash: u64,
    key: Text<KEY_BYTES>,
    registers: Box<[u8; REGISTERS]>,
    /// New series that had it; those of long ago fade.
    weight: f64,
    values: f64,
    /// Values that the last interval added, and the one before.
    fresh: [f64; 2],
    /// New series of the last interval.
    fresh_series: u64,
    explodes: bool,
    under: Option<Prefix>,
    sender: Option<Sender>,
}

impl Watched {
    /// New series of the last interval share few values.
    fn is_mostly_new(&self) -> bool {
        self.fresh[0] >= MOSTLY_NEW * self.fresh_series as f64
    }
}

/// What is known of a key.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeyNow {
    pub(super) key: Text<KEY_BYTES>,
    /// Distinct values since the start.
    pub(super) values: f64,
    /// Of these, new in the last interval.
    pub(super) fresh: f64,
    /// It makes new series without end.
    pub(super) explodes: bool,
    /// What most new series with it begin with, and who sent most of those whose sender is known, when it last had new values.
    pub(super) under: Option<Prefix>,
    pub(super) sender: Option<Sender>,
}

/// The keys of tags since the start.
#[derive(Debug, Default)]
pub(super) struct TagTotals(Vec<Watched>);

impl TagTotals {
    /// Adds what the new series of an interval had, by worker.
    pub(super) fn close<'p>(&mut self, parts: impl Iterator<Item = &'p TagKeys>) {
        let mut all: Vec<(u64, TagKey)> = Vec::new();
        for (hash, part) in parts.flat_map(TagKeys::all) {
            match all.iter_mut().find(|(known, _)| *known == hash) {
                Some((_, known)) => {
                    merge(&mut known.registers, &part.registers);
                    known.series += part.series;
                    known.looked_at += part.looked_at;
                    known.with_sender += part.with_sender;
                    known.prefixes.merge(&part.prefixes);
                    known.senders.merge(&part.senders);
                }
                None => all.push((hash, part.clone())),
            }
        }
        for watched in &mut self.0 {
            (watched.fresh, watched.fresh_series) = ([0.0, watched.fresh[0]], 0);
            watched.weight *= FADE;
        }
        for (hash, key) in &all {
            self.add(*hash, key);
        }
    }

    fn add(&mut self, hash: u64, new: &TagKey) {
        let at = self.0.iter().position(|known| known.hash == hash).or_else(|| {
            let watched = Watched {
                hash,
                key: new.key,
                registers: Box::new([0; REGISTERS]),
                weight: 0.0,
                values: 0.0,
                fresh: [0.0; 2],
                fresh_series: 0,
                explodes: false,
                under: None,
                sender: None,
            };
            if self.0.len() < TAG_KEYS {
                self.0.push(watched);
                return Some(self.0.len() - 1);
            }
            let least = (0..TAG_KEYS).min_by(|&a, &b| self.0[a].weight.total_cmp(&self.0[b].weight))?;
            if self.0[least].weight > new.series as f64 {
                return None;
            }
            self.0[least] = watched;
            Some(least)
        });
        let Some(at) = at else { return };
        let watched = &mut self.0[at];
        let of_interval = estimate(&new.registers);
        merge(&mut watched.registers, &new.registers);
        let values = estimate(&watched.registers);
        let added = (values - watched.values).max(0.0);
        let fresh = if added >= ALL_NEW * of_interval { of_interval } else { added };
        // Values of series that were not looked at are like those that were, if these are new again and again.
        let looked_at = new.looked_at.max(1) as f64;
        let stand_for = if fresh >= MOSTLY_NEW * looked_at { new.series as f64 / looked_at } else { 1.0 };
        watched.fresh[0] = fresh * stand_for;
        watched.values = values;
        watched.weight += new.series as f64;
        watched.fresh_series = new.series;
        if watched.fresh[0] >= 1.0 {
            watched.under = new.prefixes.most_of(new.series);
            watched.sender = new.senders.most_of(new.with_sender);
        }
    }

    /// Finds the keys that explode: those with at least so many new values in two intervals one after the other, until they
    /// have less than half of that. Without the half, one that is about as fast as the bound would come and go.
    pub(super) fn find_exploding(&mut self, least: f64) {
        for watched in &mut self.0 {
            let begins = watched.is_mostly_new() && watched.fresh.iter().all(|&fresh| fresh >= least);
            watched.explodes = begins || watched.explodes && watched.fresh[0] >= least / 2.0;
        }
    }

    /// The keys, those with most new values first, then those with most values.
    pub(super) fn now(&self) -> Vec<KeyNow> {
        let now = |watched: &Watched| KeyNow {
            key: watched.key,
            values: watched.values,
            fresh: watched.fresh[0],
            explodes: watched.explodes,
            under: watched.under,
            sender: watched.sender,
        };
        let mut all: Vec<KeyNow> = self.0.iter().map(now).collect();
        all.sort_by(|a, b| {
            (b.fresh.round(), b.values).partial_cmp(&(a.fresh.round(), a.values)).unwrap_or(std::cmp::Ordering::Equal)
        });
        all
    }

    pub(super) fn heap_bytes(&self) -> usize {
        vec_footprint::<Watched>(self.0.capacity()) + self.0.len() * footprint(REGISTERS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rapidhash::v3::rapidhash_v3;

    fn series(prefix: &str) -> NewSeries {
        NewSeries { weight: 1, prefix: (rapidhash_v3(prefix.as_bytes()), Prefix::new(prefix.as_bytes())), sender: None }
    }

    fn add(keys: &mut TagKeys, key: &str, value: u64, under: &NewSeries) {
        let hash = rapidhash_v3(key.as_bytes());
        keys.add((hash, key.as_bytes()), rapidhash_v3(&value.to_le_bytes()), under);
    }

    #[test]
    fn a_key_that_explodes_shows_its_new_values_and_where_they_come_from() {
        let mut totals = TagTotals::default();
        for interval in 0..20_u64 {
            let mut keys = TagKeys::default();
            for n in 0..12_400 {
                add(&mut keys, "request_id", interval * 12_400 + n, &series("job.step."));
                add(&mut keys, "region", n % 3, &series("job.step."));
            }
            totals.close([&keys.take()].into_iter());
            let now = totals.now();
            let right = (interval + 1) as f64 * 12_400.0;
            assert_eq!((now[0].key.to_string(), now[1].key.to_string()), ("request_id".into(), "region".into()));
            assert!((now[0].values / right - 1.0).abs() < 0.06, "{} of {right}", now[0].values);
            assert!((now[0].fresh / 12_400.0 - 1.0).abs() < 0.06, "{:?}", now[0].fresh);
            assert_eq!(now[0].under.map(|under| under.to_string()).as_deref(), Some("job.step."));
            assert_eq!((now[1].values.round(), now[1].fresh.round()), (3.0, if interval == 0 { 3.0 } else { 0.0 }));
        }
        totals.close(std::iter::empty());
        assert_eq!(totals.now()[0].fresh, 0.0);
    }

    #[test]
    fn keys_without_end_do_not_keep_out_one_that_stays() {
        let mut totals = TagTotals::default();
        for interval in 0..3_u64 {
            let mut keys = TagKeys::default();
            for n in 0..5000 {
                let odd = format!("key{}", interval * 5000 + n);
                add(&mut keys, &odd, n, &series("a."));
                add(&mut keys, "request_id", interval * 5000 + n, &series("b."));
            }
            assert!(keys.keys.len() == TAG_KEYS && keys.heap_bytes() < 400 << 10);
            totals.close([&keys].into_iter());
        }
        let now = totals.now();
        assert_eq!((now.len(), now[0].key.to_string()), (TAG_KEYS, "request_id".into()));
        // One that was there once has one value, whatever was in its place before.
        assert!(now[1..].iter().all(|key| key.fresh < 1.5 && key.values < 1.5), "{now:?}");
    }

    #[test]
    fn keys_that_were_heavy_long_ago_do_not_keep_out_one_that_explodes() {
        let mut totals = TagTotals::default();
        let mut keys = TagKeys::default();
        for key in 0..TAG_KEYS {
            let many = NewSeries { weight: 100_000, ..series("a.") };
            add(&mut keys, &format!("key{key}"), 1, &many);
        }
        totals.close([&keys.take()].into_iter());
        (0..20).for_each(|_| totals.close(std::iter::empty()));
        (0..5000).for_each(|n| add(&mut keys, "request_id", n, &series("b.")));
        totals.close([&keys].into_iter());
        let now = totals.now();
        assert_eq!((now.len(), now[0].key.to_string()), (TAG_KEYS, "request_id".into()));
        assert!((now[0].fresh / 5000.0 - 1.0).abs() < 0.06, "{:?}", now[0].fresh);
    }
}
