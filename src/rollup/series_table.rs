//! The series of all shards with their dense ids, and for each shard the map from its ids to these.

use hashbrown::HashTable;
use rapidhash::v3::rapidhash_v3;

use crate::aggregate::Created;
use crate::aggregate::rules::NO_RULE;
use crate::memory::{footprint, vec_footprint};
use crate::series::Series;

use super::registry::RegistryOptions;

/// Where the value of a series is merged to.
pub(super) enum Slot {
    /// The existing point at this index, of another shard's value.
    Taken(usize),
    /// A new point of this series.
    New(Series),
}

/// Series of one class.
#[derive(Debug)]
pub(super) struct SeriesTable {
    table: HashTable<u32>,
    entries: Vec<Option<Entry>>,
    free: Vec<u32>,
    /// For each shard: its ids to ids of the table. The last is the registry's own, whose ids are those of the table.
    maps: Vec<Vec<u32>>,
    /// How many series the registry's own shard holds.
    owned: usize,
    /// By id: the series with prefix and tags, where those are configured.
    decorated: Vec<Option<Series>>,
    /// Bytes that those take.
    decorated_bytes: usize,
    /// By id: the rule that applies. Empty if no rule applies to any.
    rules: Vec<u32>,
    /// By id: whether that rule is one of before, until the series is created again. Empty if none is.
    stale: Vec<bool>,
}

/// A series that no shard holds any more.
pub(super) struct Gone {
    pub(super) id: u32,
    /// Under the name that sinks saw.
    pub(super) shown: Series,
}

const UNMAPPED: u32 = u32::MAX;

/// A table of fewer entries is not worth shrinking.
const SHRUNK_ENTRIES: usize = 1 << 15;

/// Cuts a vector with its room.
pub(super) fn cut<T>(all: &mut Vec<T>, length: usize) {
    all.truncate(length);
    all.shrink_to_fit();
}

#[derive(Debug)]
struct Entry {
    series: Series,
    /// End of the last interval that touched it.
    touched: f64,
    /// The index of its point in that interval.
    point: u32,
    /// The number of shards that hold it.
    holders: u16,
    /// Whether it occurred in more than one interval.
    is_established: bool,
}

impl SeriesTable {
    pub(super) fn new(shards: usize) -> SeriesTable {
        SeriesTable {
            table: HashTable::new(),
            entries: Vec::new(),
            free: Vec::new(),
            maps: vec![Vec::new(); shards + 1],
            owned: 0,
            decorated: Vec::new(),
            decorated_bytes: 0,
            rules: Vec::new(),
            stale: Vec::new(),
        }
    }

    /// Puts the shards into another order: for each place the one that it comes from, `None` for a new one. The registry's own shard
    /// stays the last, and holds the series of those that are left out.
    pub(super) fn arrange(&mut self, order: &[Option<usize>]) {
        let mut own = self.maps.pop().unwrap_or_default();
        let mut before = std::mem::take(&mut self.maps);
        let mut of = |place: &Option<usize>| place.and_then(|from| Some(std::mem::take(before.get_mut(from)?)));
        self.maps = order.iter().map(|place| of(place).unwrap_or_default()).collect();
        for id in before.into_iter().flatten().filter(|&id| id != UNMAPPED) {
            if own.len() <= id as usize {
                own.resize(id as usize + 1, UNMAPPED);
            }
            let place = &mut own[id as usize];
            if *place == UNMAPPED {
                (*place, self.owned) = (id, self.owned + 1);
            } else if let Some(entry) = &mut self.entries[id as usize] {
                entry.holders -= 1;
            }
        }
        self.maps.push(own);
    }

    /// Rules have other numbers: `number` gives them. A series that is created again takes the rule that it comes with.
    pub(super) fn renumber(&mut self, number: impl Fn(u32) -> u32) {
        self.rules.iter_mut().for_each(|rule| *rule = number(*rule));
        self.stale = vec![true; self.entries.len()];
    }

    /// Rules of all series that have one.
    pub(super) fn used_rules(&self) -> impl Iterator<Item = u32> + '_ {
        let used = self.entries.iter().zip(&self.rules).filter(|(entry, _)| entry.is_some());
        used.map(|(_, rule)| *rule).filter(|rule| *rule != NO_RULE)
    }

    /// Names series as sinks see them with these options, from now on.
    pub(super) fn decorate(&mut self, options: &RegistryOptions) {
        (self.decorated, self.decorated_bytes) = (Vec::new(), 0);
        if options.prefix.is_empty() && options.tags.is_empty() {
            return;
        }
        let named = |entry: &Option<Entry>| Some(entry.as_ref()?.series.decorated(&options.prefix, &options.tags));
        self.decorated = self.entries.iter().map(named).collect();
        self.decorated_bytes = self.decorated.iter().flatten().map(Series::heap_bytes).sum();
    }

    pub(super) fn len(&self) -> u64 {
        self.table.len() as u64
    }

    /// The id of a series.
    pub(super) fn find(&self, series: &Series) -> Option<u32> {
        let entries = &self.entries;
        let is_same = |&id: &u32| entries[id as usize].as_ref().is_some_and(|entry| entry.series == *series);
        self.table.find(rapidhash_v3(series.key()), is_same).copied()
    }

    /// Records that a shard holds a series; its id if it is new, or has another rule now.
    pub(super) fn register(&mut self, shard: usize, created: Created, options: &RegistryOptions) -> Option<u32> {
        let Created { id: local, rule, series } = created;
        let (id, is_new) = self.id(series, rule, options);
        self.map(shard, local, id);
        is_new.then_some(id)
    }

    /// The id of a series, and whether it is new, or has another rule now.
    fn id(&mut self, series: Series, rule: u32, options: &RegistryOptions) -> (u32, bool) {
        if let Some(id) = self.find(&series) {
            let is_stale = self.stale.get_mut(id as usize).is_some_and(std::mem::take);
            let is_changed = is_stale && self.rule_of(id) != rule;
            if is_changed {
                self.set_rule(id, rule);
            }
            return (id, is_changed);
        }
        // Only series within the quota get here, and the shards' keyed tables withstand chosen names.
        let hash = rapidhash_v3(series.key());
        let id = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            (self.entries.len() - 1) as u32
        });
        if !options.prefix.is_empty() || !options.tags.is_empty() {
            self.decorated.resize(self.entries.len(), None);
            let decorated = series.decorated(&options.prefix, &options.tags);
            self.decorated_bytes += decorated.heap_bytes();
            self.decorated[id as usize] = Some(decorated);
        }
        let touched = f64::NEG_INFINITY;
        let entry = Entry { series, touched, point: 0, holders: 0, is_established: false };
        self.entries[id as usize] = Some(entry);
        self.set_rule(id, rule);
        let entries = &self.entries;
        self.table.insert_unique(hash, id, |&id| {
            entries[id as usize].as_ref().map_or(0, |entry| rapidhash_v3(entry.series.key()))
        });
        (id, true)
    }

    /// Notes that a shard calls a series by this id of its own.
    fn map(&mut self, shard: usize, local: u32, id: u32) {
        if let Some(entry) = &mut self.entries[id as usize] {
            entry.holders += 1;
        }
        let map = &mut self.maps[shard];
        if map.len() <= local as usize {
            map.resize(local as usize + 1, UNMAPPED);
        }
        map[local as usize] = id;
    }

    /// The number of the registry's own shard.
    pub(super) fn own_shard(&self) -> usize {
        self.maps.len() - 1
    }

    /// Has the registry's own shard hold a series that is here.
    pub(super) fn own(&mut self, id: u32) {
        let shard = self.own_shard();
        if self.maps[shard].get(id as usize).is_none_or(|&known| known == UNMAPPED) {
            self.map(shard, id, id);
            self.owned += 1;
        }
    }

    /// Has the registry's own shard hold a series that may be new; its id, and whether it is.
    pub(super) fn own_series(&mut self, series: Series, rule: u32, options: &RegistryOptions) -> (u32, bool) {
        let (id, is_new) = self.id(series, rule, options);
        self.own(id);
        (id, is_new)
    }

    /// How many series the registry's own shard holds.
    pub(super) fn owned(&self) -> usize {
        self.owned
    }

    /// Those of them that other shards hold as well.
    pub(super) fn owned_by_others(&self) -> Vec<u32> {
        let map = &self.maps[self.own_shard()];
        let is_shared = |id: u32| self.entries[id as usize].as_ref().is_some_and(|entry| entry.holders > 1);
        map.iter().copied().filter(|&id| id != UNMAPPED && is_shared(id)).collect()
    }

    /// A series under the name that shards know, when it was touched last, and whether that was in more than one interval.
    pub(super) fn known(&self, id: u32) -> Option<(&Series, f64, bool)> {
        let entry = self.entries.get(id as usize)?.as_ref()?;
        Some((&entry.series, entry.touched, entry.is_established))
    }

    /// The ids of all series.
    pub(super) fn ids(&self) -> impl Iterator<Item = u32> {
        (0..).zip(&self.entries).filter(|(_, entry)| entry.is_some()).map(|(id, _)| id)
    }

    /// Notes when a series was touched last before it came here, unless it was touched here since.
    pub(super) fn restore(&mut self, id: u32, touched: f64, is_established: bool) {
        if let Some(entry) = &mut self.entries[id as usize] {
            entry.touched = entry.touched.max(touched);
            entry.is_established |= is_established;
        }
    }

    fn set_rule(&mut self, id: u32, rule: u32) {
        let id = id as usize;
        if rule != NO_RULE && self.rules.len() <= id {
            self.rules.resize(id + 1, NO_RULE);
        }
        if let Some(slot) = self.rules.get_mut(id) {
            *slot = rule;
        }
    }

    /// The rule that applies to a series; if several names lead to it, the rule of the first.
    #[inline]
    pub(super) fn rule_of(&self, id: u32) -> u32 {
        self.rules.get(id as usize).copied().unwrap_or(NO_RULE)
    }

    /// Records that a shard retired a series; the series if no shard holds it any more.
    pub(super) fn release(&mut self, shard: usize, local: u32) -> Option<Gone> {
        let id = std::mem::replace(self.maps[shard].get_mut(local as usize)?, UNMAPPED);
        self.entries.get(id as usize)?.as_ref()?;
        if shard == self.own_shard() {
            self.owned -= 1;
            if self.owned == 0 {
                self.maps[shard] = Vec::new();
            }
        }
        let shown = self.shown(id);
        let slot = self.entries.get_mut(id as usize)?;
        let entry = slot.as_mut()?;
        entry.holders -= 1;
        if entry.holders > 0 {
            return None;
        }
        if let Ok(found) = self.table.find_entry(rapidhash_v3(entry.series.key()), |&known| known == id) {
            found.remove();
        }
        *slot = None;
        if let Some(stale) = self.stale.get_mut(id as usize) {
            *stale = false;
        }
        if let Some(decorated) = self.decorated.get_mut(id as usize).and_then(Option::take) {
            self.decorated_bytes -= decorated.heap_bytes();
        }
        self.free.push(id);
        Some(Gone { id, shown })
    }

    /// Bytes that it takes beside the keys, which it shares with the shards.
    pub(super) fn heap_bytes(&self) -> usize {
        footprint(self.table.allocation_size())
            + vec_footprint::<Option<Entry>>(self.entries.capacity())
            + vec_footprint::<u32>(self.free.capacity())
            + self.maps.iter().map(|map| vec_footprint::<u32>(map.capacity())).sum::<usize>()
            + vec_footprint::<Option<Series>>(self.decorated.capacity())
            + self.decorated_bytes
            + vec_footprint::<u32>(self.rules.capacity())
    }

    /// Lets the room go that series took which have left, if it is much and most of it is empty. Returns how many ids are
    /// in use then, counted to the highest, if it did.
    pub(super) fn shrink(&mut self) -> Option<usize> {
        if self.entries.len() < SHRUNK_ENTRIES || self.table.len() * 8 > self.entries.len() {
            return None;
        }
        let used = self.entries.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        cut(&mut self.entries, used);
        cut(&mut self.decorated, used);
        cut(&mut self.rules, used);
        self.stale.truncate(used);
        // New series take the lowest ids, so that the highest can go next time.
        self.free.retain(|&id| (id as usize) < used);
        self.free.sort_unstable_by(|a, b| b.cmp(a));
        self.free.shrink_to_fit();
        for map in &mut self.maps {
            let used = map.iter().rposition(|&id| id != UNMAPPED).map_or(0, |last| last + 1);
            cut(map, used);
        }
        let entries = &self.entries;
        self.table
            .shrink_to_fit(|&id| entries[id as usize].as_ref().map_or(0, |entry| rapidhash_v3(entry.series.key())));
        Some(used)
    }

    pub(super) fn id_of(&self, shard: usize, local: u32) -> u32 {
        self.maps[shard][local as usize]
    }

    /// The same of a series that its shard may have removed.
    pub(super) fn held_id(&self, shard: usize, local: u32) -> Option<u32> {
        self.maps[shard].get(local as usize).copied().filter(|&id| id != UNMAPPED)
    }

    /// Marks a shard's series as touched by the interval that ended `now`, and returns where its value is merged to; `points`
    /// is the index of a new point.
    pub(super) fn slot(&mut self, shard: usize, local: u32, now: f64, points: usize) -> Slot {
        let id = self.id_of(shard, local);
        let entry = self.entries[id as usize].as_mut();
        let entry = entry.expect("a number in a column belongs to a registered series");
        if entry.touched == now {
            return Slot::Taken(entry.point as usize);
        }
        entry.is_established |= entry.touched > f64::NEG_INFINITY;
        (entry.touched, entry.point) = (now, points as u32);
        Slot::New(self.shown(id))
    }

    /// A registered series under the name that sinks see.
    pub(super) fn shown(&self, id: u32) -> Series {
        if let Some(Some(decorated)) = self.decorated.get(id as usize) {
            return decorated.clone();
        }
        let entry = self.entries[id as usize].as_ref();
        entry.expect("a number in use belongs to a registered series").series.clone()
    }

    /// Whether a series occurred in more than one interval.
    pub(super) fn is_established(&self, id: u32) -> bool {
        self.entries.get(id as usize).and_then(Option::as_ref).is_some_and(|entry| entry.is_established)
    }

    /// Series that the interval which ended `now` did not touch.
    pub(super) fn idle(&self, now: f64) -> impl Iterator<Item = Series> + '_ {
        let idle = move |(id, entry): (usize, &Option<Entry>)| {
            let entry = entry.as_ref()?;
            (entry.touched != now).then(|| self.shown(id as u32))
        };
        self.entries.iter().enumerate().filter_map(idle)
    }

    /// A shard's series that were idle for their lifetime (`ttl` by id, in seconds), as (shard's id, id).
    pub(super) fn idle_at(
        &self,
        shard: usize,
        now: f64,
        ttl: impl Fn(u32) -> Option<f64>,
    ) -> impl Iterator<Item = (u32, u32)> {
        self.maps[shard].iter().enumerate().filter_map(move |(local, &id)| {
            let entry = self.entries.get(id as usize)?.as_ref()?;
            (entry.touched <= now - ttl(id)?).then_some((local as u32, id))
        })
    }
}
