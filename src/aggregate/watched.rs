//! The watched series of a shard: which of them were updated since they were looked at last.
//!
//! A line of a watched series costs nothing more than any other. Its update marks its cell as touched, as it always does;
//! whoever looks takes that mark (`Column::take_mark`), and the next update sets it again. Two things such a mark does not
//! tell: who sent the line, and how many there were. Series whose watch asks for one of these are *own*: their ids carry
//! the mark [`OWN`](super::index::OWN), which is no place in a column, so that their lines leave the fast path where others
//! stay on it, and are counted here by sender before they go on.
//!
//! Many series may be the same instance, so who is seen is kept once (`Identities`), and a look tells each of them once.
//! What is known of senders has a bound over all series, [`MOST_SENDERS`], and takes no more where memory for new series is
//! short; lines of those for whom there is no room are counted as refused. So that those of one watch do not shut out those of
//! another, each watch has its share all the same; and a series whose senders do not matter always has the one that stands for
//! all of them, for there are no more of these than there are series.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use compact_str::CompactString;
use hashbrown::HashTable;

use crate::memory::{footprint, vec_footprint};
use crate::protocol::Seen;
use crate::series::Series;
use crate::watches::{Evidence, WatchedLine, Watches};

use super::columns::{Class, Columns};
use super::index::Hasher;
use super::partial::TimestampedSample;

/// No watched series has this id.
const NOWHERE: u32 = u32::MAX;

/// A sender that was silent for so many looks (an hour of them) is forgotten.
const FORGOTTEN_AFTER: u32 = 4 * 3600;

/// Senders are looked through for such once in so many looks, a minute of them.
const FORGET_EVERY: u32 = 4 * 60;

/// Most senders of all series together. A watch that has less than its share of as many may have that beyond them.
const MOST_SENDERS: usize = 100_000;

/// What a shard watches.
#[derive(Debug)]
pub(super) struct WatchedSet {
    watches: Arc<Watches>,
    all: Vec<WatchedSeries>,
    /// The place of a series in `all`, by class and id.
    places: [Vec<u32>; 5],
    /// Series whose lines are looked at for their senders.
    by_source: usize,
    /// Senders are always known, where there are any.
    always_known: bool,
    /// A line without a sender has none, in this batch.
    are_known: bool,
    /// Looks so far.
    looks: u32,
    /// Samples with a timestamp of the open interval that were looked at.
    stamped: usize,
    identities: Identities,
    /// Senders of all series, those of each watch, and the most there may be.
    senders: usize,
    of_watch: Vec<usize>,
    most_senders: usize,
    /// There is memory for new ones, in this batch.
    may_grow: bool,
    /// Bytes of what is known of them.
    bytes: usize,
}

/// Instances that are watched, each once, whatever number of series it has.
#[derive(Debug, Default)]
struct Identities {
    all: Vec<Identity>,
    free: Vec<u32>,
    by_name: HashTable<u32>,
    hasher: RandomState,
    /// Those that were seen since the last look.
    seen: Vec<u32>,
    /// Bytes of their names.
    bytes: usize,
}

#[derive(Debug)]
struct Identity {
    watch: u16,
    service: CompactString,
    instance: CompactString,
    /// Series and senders that are this one.
    uses: u32,
    /// What it showed since the last look: by so many lines, where they are counted, from there.
    shown: Shown,
    lines: u32,
    source: Option<IpAddr>,
    /// The value that showed it, where a change is wanted.
    value: Option<f64>,
}

/// What lines show of their sender.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Shown {
    /// Nothing: there are none, or they are no evidence.
    #[default]
    Nothing,
    /// That it sends: of a watch that wants a change, the first value.
    First,
    /// That it lives.
    Alive,
}

impl Shown {
    /// What a value shows; `last` is the one before it.
    #[inline]
    fn by(evidence: Evidence, value: f64, last: Option<f64>) -> Shown {
        match evidence {
            Evidence::Change if last.is_none() => Shown::First,
            _ if evidence.is_in(value, last) => Shown::Alive,
            _ => Shown::Nothing,
        }
    }
}

#[derive(Debug)]
struct WatchedSeries {
    class: Class,
    id: u32,
    watch: u16,
    evidence: Evidence,
    follows: Follows,
}

#[derive(Debug)]
enum Follows {
    Marks(MarkedCell),
    Lines(Box<OwnLines>),
}

/// What is known of a series by its cell.
#[derive(Debug)]
struct MarkedCell {
    /// Whom it shows.
    identity: u32,
    /// The sum in this interval at the last look.
    before: f64,
    /// The value of the last evidence.
    last: Option<f64>,
    /// What it showed in an interval that is closed, after the last look.
    fresh: Shown,
}

/// What is known of a series by its lines.
#[derive(Debug)]
struct OwnLines {
    series: Series,
    /// Its senders matter; else one stands for all.
    by_source: bool,
    max: usize,
    senders: Vec<Sender>,
    by_address: HashTable<u32>,
    /// The sender of the last line.
    latest: usize,
    /// Lines of senders for whom there was no room.
    refused: u32,
}

#[derive(Debug)]
struct Sender {
    source: Option<IpAddr>,
    hash: u64,
    /// Whom it shows.
    identity: u32,
    last: Option<f64>,
    /// Lines since the last look that count, and whether it had a value before them.
    lines: u32,
    had_value: bool,
    /// It had lines since the last look, and the look at which it had some last.
    is_heard: bool,
    looked: u32,
}

impl Sender {
    #[inline]
    fn count(&mut self, evidence: Evidence, value: Option<f64>) {
        self.is_heard = true;
        let is_evidence = match value {
            Some(value) if evidence != Evidence::Any => {
                let is_evidence = evidence.is_in(value, self.last);
                self.last = Some(value);
                is_evidence
            }
            // What is no number is always something new.
            Some(_) | None => true,
        };
        self.lines = self.lines.saturating_add(u32::from(is_evidence));
    }

    /// What the lines since the last look show.
    fn shown(&self, evidence: Evidence) -> Shown {
        match self.lines {
            0 => Shown::Nothing,
            1 if evidence == Evidence::Change && self.last.is_some() && !self.had_value => Shown::First,
            1.. => Shown::Alive,
        }
    }
}

/// How a new series is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Watched {
    /// It is not.
    No,
    /// By the marks of its cell.
    ByMarks,
    /// By its lines.
    ByLines,
}

impl WatchedSet {
    pub(super) fn new(watches: Arc<Watches>) -> WatchedSet {
        WatchedSet {
            of_watch: vec![0; watches.all().len()],
            watches,
            all: Vec::new(),
            places: Default::default(),
            by_source: 0,
            always_known: true,
            are_known: true,
            looks: 0,
            stamped: 0,
            identities: Identities::default(),
            senders: 0,
            most_senders: MOST_SENDERS,
            may_grow: true,
            bytes: 0,
        }
    }

    /// Whether senders are known without being asked for.
    pub(super) fn set_always_known(&mut self, always_known: bool) {
        (self.always_known, self.are_known) = (always_known, always_known);
    }

    /// Whether senders are to be asked for.
    #[inline]
    pub(super) fn asks_for_senders(&self) -> bool {
        self.by_source > 0
    }

    /// Whether there is memory for more senders.
    #[inline]
    pub(super) fn let_grow(&mut self, may_grow: bool) {
        self.may_grow = may_grow;
    }

    #[inline]
    pub(super) fn begin_batch(&mut self) {
        self.are_known = self.always_known || self.by_source > 0;
    }

    /// Bytes that it takes.
    #[inline]
    pub(super) fn heap_bytes(&self) -> usize {
        let places: usize = self.places.iter().map(|places| vec_footprint::<u32>(places.capacity())).sum();
        places + vec_footprint::<WatchedSeries>(self.all.capacity()) + self.bytes + self.identities.heap_bytes()
    }

    fn place(&self, class: Class, id: u32) -> Option<usize> {
        let place = *self.places[class as usize].get(id as usize)?;
        (place != NOWHERE).then_some(place as usize)
    }

    /// A series got an id; how it is watched.
    pub(super) fn add(&mut self, class: Class, id: u32, series: &Series) -> Watched {
        let name = series.name();
        let Some((number, watch, stars)) = self.watches.find(name) else { return Watched::No };
        let tag = |key: &str| tag_of(series, key);
        let line = WatchedLine { name, stars: &stars, tag: &tag, source: None };
        let by_source = watch.is_named_by_source(&line);
        let who = watch.who(&line);
        // An address may make a service's name whole.
        if who.is_none() && !by_source {
            return Watched::No;
        }
        let (evidence, looks_at_lines) = (watch.evidence, watch.looks_at_lines(&line));
        let follows = if looks_at_lines {
            self.by_source += usize::from(by_source);
            let (max, series) = (if by_source { watch.max_instances } else { 1 }, series.clone());
            let (senders, by_address) = (Vec::new(), HashTable::new());
            let own = OwnLines { series, by_source, max, senders, by_address, latest: 0, refused: 0 };
            self.bytes += own.heap_bytes();
            Follows::Lines(Box::new(own))
        } else {
            let (service, instance) = who.unwrap_or_default();
            let identity = self.identities.take(number, service, instance);
            Follows::Marks(MarkedCell { identity, before: 0.0, last: None, fresh: Shown::Nothing })
        };
        let places = &mut self.places[class as usize];
        if places.len() <= id as usize {
            places.resize(id as usize + 1, NOWHERE);
        }
        places[id as usize] = self.all.len() as u32;
        self.all.push(WatchedSeries { class, id, watch: number, evidence, follows });
        if looks_at_lines { Watched::ByLines } else { Watched::ByMarks }
    }

    /// A series gave its id back.
    pub(super) fn remove(&mut self, class: Class, id: u32) {
        let Some(place) = self.place(class, id) else { return };
        self.places[class as usize][id as usize] = NOWHERE;
        let gone = self.all.swap_remove(place);
        if let Some(moved) = self.all.get(place) {
            self.places[moved.class as usize][moved.id as usize] = place as u32;
        }
        match gone.follows {
            Follows::Marks(marks) => self.identities.give_back(marks.identity),
            Follows::Lines(own) => {
                self.by_source -= usize::from(own.by_source);
                self.senders -= own.senders.len();
                self.of_watch[usize::from(gone.watch)] -= own.senders.len();
                self.bytes -= own.heap_bytes();
                own.senders.iter().for_each(|sender| self.identities.give_back(sender.identity));
            }
        }
    }

    /// Counts a line of a series whose lines are looked at. `value` is a number, if it is one.
    pub(super) fn count_line(
        &mut self,
        class: Class,
        id: u32,
        value: Option<f64>,
        from: Option<SocketAddr>,
        hasher: &Hasher,
    ) {
        let Some(place) = self.place(class, id) else { return };
        let WatchedSeries { evidence, follows: Follows::Lines(own), .. } = &mut self.all[place] else { return };
        if let Some(latest) = own.senders.get_mut(own.latest)
            && (!own.by_source || from.map(|from| from.ip()) == latest.source)
        {
            return latest.count(*evidence, value);
        }
        self.count_other(place, value, from.map(|from| from.ip()), hasher);
    }

    /// The same for a line of another sender than the last.
    #[cold]
    fn count_other(&mut self, place: usize, value: Option<f64>, from: Option<IpAddr>, hasher: &Hasher) {
        let (are_known, looks) = (self.are_known, self.looks);
        let share = self.most_senders / self.of_watch.len().max(1);
        let WatchedSeries { watch: number, evidence, follows: Follows::Lines(own), .. } = &mut self.all[place] else {
            return;
        };
        let has_its_share = self.of_watch[usize::from(*number)] >= share;
        let is_full = own.by_source && (self.senders >= self.most_senders && has_its_share || !self.may_grow);
        let source = from.filter(|_| own.by_source);
        if own.by_source && source.is_none() && !are_known {
            // Senders are asked for from the next batch on.
            return;
        }
        let (hash, before) = (hash_of(source, hasher), own.heap_bytes());
        let OwnLines { series, max, senders, by_address, latest, refused, .. } = &mut **own;
        if let Some(&at) = by_address.find(hash, |&at| senders[at as usize].source == source) {
            *latest = at as usize;
            return senders[at as usize].count(*evidence, value);
        }
        if senders.len() >= *max || is_full {
            *refused = refused.saturating_add(1);
            return;
        }
        let name = series.name();
        let Some((_, watch, stars)) = self.watches.find(name) else { return };
        let tag = |key: &str| tag_of(series, key);
        let Some((service, instance)) = watch.who(&WatchedLine { name, stars: &stars, tag: &tag, source }) else {
            return;
        };
        let identity = self.identities.take(*number, service, instance);
        let mut sender =
            Sender { source, hash, identity, last: None, lines: 0, had_value: false, is_heard: true, looked: looks };
        sender.count(*evidence, value);
        *latest = senders.len();
        senders.push(sender);
        by_address.insert_unique(hash, *latest as u32, |&at| senders[at as usize].hash);
        self.senders += 1;
        self.of_watch[usize::from(*number)] += 1;
        self.bytes = self.bytes + own.heap_bytes() - before;
    }

    /// An interval closes: what was updated since the last look is remembered.
    pub(super) fn close(&mut self, columns: &mut Columns, timestamped: &[TimestampedSample], seen: &mut Vec<Seen>) {
        self.look_at_stamped(timestamped);
        self.identities.report(seen);
        self.stamped = 0;
        for one in &mut self.all {
            if let Follows::Marks(marks) = &mut one.follows {
                marks.fresh = marks.look(one.class, one.id, one.evidence, columns);
                marks.before = 0.0;
            }
        }
    }

    /// Who was seen since the last look.
    pub(super) fn look(&mut self, columns: &mut Columns, timestamped: &[TimestampedSample], seen: &mut Vec<Seen>) {
        self.look_at_stamped(timestamped);
        self.looks += 1;
        let (looks, forgets) = (self.looks, self.looks.is_multiple_of(FORGET_EVERY));
        let mut refused: BTreeMap<u16, Seen> = BTreeMap::new();
        for one in &mut self.all {
            match &mut one.follows {
                Follows::Marks(marks) => {
                    let shown = marks.look(one.class, one.id, one.evidence, columns);
                    let value = marks.last.filter(|_| one.evidence == Evidence::Change);
                    self.identities.note(marks.identity, shown, 0, None, value);
                }
                Follows::Lines(own) => {
                    own.look(looks, one.evidence, &mut self.identities);
                    if own.refused > 0 {
                        let known = own.senders.first().map(|sender| &self.identities.all[sender.identity as usize]);
                        let row = refused.entry(one.watch).or_insert_with(|| Seen {
                            watch: one.watch,
                            service: known.map_or_else(CompactString::default, |known| known.service.clone()),
                            instance: known.map_or_else(CompactString::default, |known| known.instance.clone()),
                            ..Seen::default()
                        });
                        row.refused = row.refused.saturating_add(std::mem::take(&mut own.refused));
                    }
                    if forgets {
                        let (senders, bytes) = (own.senders.len(), own.heap_bytes());
                        own.forget(looks, &mut self.identities);
                        self.senders -= senders - own.senders.len();
                        self.of_watch[usize::from(one.watch)] -= senders - own.senders.len();
                        self.bytes = self.bytes + own.heap_bytes() - bytes;
                    }
                }
            }
        }
        self.identities.report(seen);
        seen.extend(refused.into_values());
    }

    /// Samples with a timestamp are kept apart from the columns. They are lines all the same.
    fn look_at_stamped(&mut self, timestamped: &[TimestampedSample]) {
        for TimestampedSample { series, value, .. } in timestamped.get(self.stamped..).unwrap_or_default() {
            let name = series.name();
            let Some((number, watch, stars)) = self.watches.find(name) else { continue };
            let tag = |key: &str| tag_of(series, key);
            let line = WatchedLine { name, stars: &stars, tag: &tag, source: None };
            // Its sender is not known any more.
            if watch.is_named_by_source(&line) || (watch.evidence == Evidence::Nonzero && *value == 0.0) {
                continue;
            }
            if let Some((service, instance)) = watch.who(&line) {
                let identity = self.identities.take(number, service, instance);
                self.identities.note(identity, Shown::Alive, 1, None, None);
                self.identities.give_back(identity);
            }
        }
        self.stamped = timestamped.len();
    }
}

impl Identities {
    fn heap_bytes(&self) -> usize {
        vec_footprint::<Identity>(self.all.capacity())
            + vec_footprint::<u32>(self.free.capacity())
            + vec_footprint::<u32>(self.seen.capacity())
            + table_bytes(&self.by_name)
            + self.bytes
    }

    fn hash(hasher: &RandomState, watch: u16, service: &str, instance: &str) -> u64 {
        hasher.hash_one((watch, service, instance))
    }

    /// The place of an instance, which is used once more.
    fn take(&mut self, watch: u16, service: CompactString, instance: CompactString) -> u32 {
        let hash = Identities::hash(&self.hasher, watch, &service, &instance);
        let is_it = |one: &Identity| one.watch == watch && one.service == service && one.instance == instance;
        if let Some(&at) = self.by_name.find(hash, |&at| is_it(&self.all[at as usize])) {
            self.all[at as usize].uses += 1;
            return at;
        }
        self.bytes += text_bytes(&service) + text_bytes(&instance);
        let new =
            Identity { watch, service, instance, uses: 1, shown: Shown::Nothing, lines: 0, source: None, value: None };
        let at = match self.free.pop() {
            Some(at) => {
                self.all[at as usize] = new;
                at
            }
            None => {
                self.all.push(new);
                (self.all.len() - 1) as u32
            }
        };
        let (all, hasher) = (&self.all, &self.hasher);
        self.by_name.insert_unique(hash, at, |&at| {
            let one = &all[at as usize];
            Identities::hash(hasher, one.watch, &one.service, &one.instance)
        });
        at
    }

    /// It is used once less. One that is not used any more goes when what was seen of it is told.
    fn give_back(&mut self, at: u32) {
        let one = &mut self.all[at as usize];
        one.uses -= 1;
        if one.uses == 0 && one.shown == Shown::Nothing {
            self.remove(at);
        }
    }

    fn remove(&mut self, at: u32) {
        let one = &mut self.all[at as usize];
        let hash = Identities::hash(&self.hasher, one.watch, &one.service, &one.instance);
        self.bytes -= text_bytes(&one.service) + text_bytes(&one.instance);
        (one.service, one.instance) = Default::default();
        if let Ok(entry) = self.by_name.find_entry(hash, |&known| known == at) {
            entry.remove();
        }
        self.free.push(at);
    }

    /// Its lines, so many, showed something or nothing.
    fn note(&mut self, at: u32, shown: Shown, lines: u32, source: Option<IpAddr>, value: Option<f64>) {
        if shown == Shown::Nothing {
            return;
        }
        let one = &mut self.all[at as usize];
        one.lines = one.lines.saturating_add(lines);
        one.source = source.or(one.source);
        if one.shown == Shown::Nothing {
            self.seen.push(at);
        }
        one.shown = one.shown.max(shown);
        one.value = value.or(one.value);
    }

    /// Tells who was seen, each once.
    fn report(&mut self, out: &mut Vec<Seen>) {
        for at in std::mem::take(&mut self.seen) {
            let one = &mut self.all[at as usize];
            let (service, instance) = (one.service.clone(), one.instance.clone());
            let (lines, source) = (std::mem::take(&mut one.lines), one.source.take());
            let (is_first, value) = (std::mem::take(&mut one.shown) == Shown::First, one.value.take());
            out.push(Seen { watch: one.watch, service, instance, source, lines, value, is_first, refused: 0 });
            if self.all[at as usize].uses == 0 {
                self.remove(at);
            }
        }
    }
}

/// Bytes that a text takes beside itself.
fn text_bytes(text: &CompactString) -> usize {
    if text.is_heap_allocated() { footprint(text.capacity()) } else { 0 }
}

/// Bytes of a table of places: each has a byte of control.
fn table_bytes(table: &HashTable<u32>) -> usize {
    // Of eight places seven are used.
    footprint(table.capacity().div_ceil(7) * 8 * (size_of::<u32>() + 1))
}

impl MarkedCell {
    /// What the updates since the last look show.
    fn look(&mut self, class: Class, id: u32, evidence: Evidence, columns: &mut Columns) -> Shown {
        let fresh = std::mem::take(&mut self.fresh);
        if !columns.take_mark(class, id) {
            return fresh;
        }
        let level = if evidence == Evidence::Any { None } else { columns.level(class, id) };
        let Some(value) = level else { return Shown::Alive };
        // A sum says by how much it grew, a gauge where it stands.
        let value = match value {
            Level::Standing(value) => value,
            Level::Sum(sum) => sum - std::mem::replace(&mut self.before, sum),
        };
        fresh.max(Shown::by(evidence, value, self.last.replace(value)))
    }
}

impl OwnLines {
    fn heap_bytes(&self) -> usize {
        footprint(size_of::<OwnLines>())
            + vec_footprint::<Sender>(self.senders.capacity())
            + table_bytes(&self.by_address)
    }

    /// Notes who was seen since the last look.
    fn look(&mut self, looks: u32, evidence: Evidence, identities: &mut Identities) {
        for sender in self.senders.iter_mut().filter(|sender| sender.is_heard) {
            (sender.is_heard, sender.looked) = (false, looks);
            let (shown, lines) = (sender.shown(evidence), std::mem::take(&mut sender.lines));
            sender.had_value = sender.last.is_some();
            let value = sender.last.filter(|_| evidence == Evidence::Change);
            identities.note(sender.identity, shown, lines, sender.source, value);
        }
    }

    /// Forgets senders that were silent for long. Who is heard again is known again with that line.
    fn forget(&mut self, looks: u32, identities: &mut Identities) {
        let is_gone = |sender: &Sender| looks - sender.looked > FORGOTTEN_AFTER;
        if !self.senders.iter().any(is_gone) {
            return;
        }
        self.senders.iter().filter(|sender| is_gone(sender)).for_each(|sender| identities.give_back(sender.identity));
        self.senders.retain(|sender| !is_gone(sender));
        self.senders.shrink_to_fit();
        (self.by_address, self.latest) = (HashTable::with_capacity(self.senders.len()), 0);
        for (at, sender) in self.senders.iter().enumerate() {
            self.by_address.insert_unique(sender.hash, at as u32, |&at| self.senders[at as usize].hash);
        }
    }
}

/// The value of a cell in an open interval.
pub(super) enum Level {
    /// Where a gauge stands.
    Standing(f64),
    /// What has been added up.
    Sum(f64),
}

impl Columns {
    /// The value of a cell, if it is a number.
    fn level(&self, class: Class, id: u32) -> Option<Level> {
        match class {
            Class::Counter => self.counters.get(id).map(|sum| Level::Sum(sum.value())),
            Class::Gauge => self
                .gauges
                .get(id)
                .map(|gauge| if gauge.is_set() { Level::Standing(gauge.value()) } else { Level::Sum(gauge.value()) }),
            Class::Timer => self.timers.get(id).map(|timer| Level::Sum(timer.totals().sum)),
            // What is no number is always something new.
            Class::Set | Class::Kv => None,
        }
    }
}

/// The value of a tag of a series.
fn tag_of<'s>(series: &'s Series, key: &str) -> Option<&'s str> {
    series.tags().find(|(known, _)| *known == key).and_then(|(_, value)| value)
}

#[inline]
fn hash_of(source: Option<IpAddr>, hasher: &Hasher) -> u64 {
    match source {
        Some(IpAddr::V4(address)) => hasher.hash_plain(&address.octets()),
        Some(IpAddr::V6(address)) => hasher.hash_plain(&address.octets()),
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::aggregate::{Quota, Shard, ShardOptions, TimeWindow, TimerPolicy};
    use crate::protocol::{Heartbeats, Options, Signal};
    use crate::telemetry::Tally;
    use crate::watches::{MetricWatch, Template};

    const NONE: [Vec<u32>; 5] = [const { Vec::new() }; 5];

    fn watch(pattern: &str, instance: &str, evidence: Evidence, floor: Option<u32>) -> MetricWatch {
        MetricWatch {
            pattern: pattern.into(),
            service: Template::parse("s", 0).expect("a template"),
            instance: Template::parse(instance, pattern.matches('*').count()).expect("a template"),
            interval: None,
            evidence,
            floor,
            max_instances: 2,
        }
    }

    fn shard(watches: Vec<MetricWatch>) -> Shard {
        let options = ShardOptions {
            timers: TimerPolicy::default(),
            fold_histograms: false,
            quota: Quota::new(1000),
            seed: 7,
            rules: None,
            heartbeats: Some(Arc::new(Heartbeats { forward: true, ..Heartbeats::default() })),
            times: TimeWindow::ANY,
        };
        Shard::new(options).watching(&Arc::new(Watches::new(watches)))
    }

    fn feed(shard: &mut Shard, text: &str, from: &str) {
        let from = from.parse().ok().map(|address: IpAddr| SocketAddr::new(address, 1));
        shard.ingest(text.as_bytes(), &Options::default(), from, 0.0);
    }

    fn look(shard: &mut Shard) -> impl Iterator<Item = Seen> {
        shard.look_at_watched();
        let watched = |signal| if let Signal::Watched(seen) = signal { Some(seen) } else { None };
        shard.take_signals().filter_map(watched).flatten().collect::<Vec<_>>().into_iter()
    }

    /// Who was seen, with the number of lines where they are counted.
    fn seen(shard: &mut Shard) -> Vec<String> {
        let mut all: Vec<String> =
            look(shard).map(|one| format!("{} {} -{}", one.instance, one.lines, one.refused)).collect();
        all.sort();
        all
    }

    #[test]
    fn an_update_is_seen_once_by_the_next_look_over_the_end_of_an_interval_too() {
        let mut shard = shard(vec![watch("a.*", "{1}-{host}", Evidence::Any, None)]);
        feed(&mut shard, "a.c:0|c|#host:h\na.g:1|g\na.t:1|ms\na.s:x|s\nb:1|c\nheartbeat.a:1|g", "10.0.0.1");
        // Those without a host are known by their sender.
        let all = ["c-h 0 -0", "g-10.0.0.1 1 -0", "s-10.0.0.1 1 -0", "t-10.0.0.1 1 -0"];
        assert_eq!(seen(&mut shard), all);
        assert!(seen(&mut shard).is_empty());
        for _ in 0..3 {
            feed(&mut shard, "a.c:0|c|#host:h", "10.0.0.1");
            let partial = shard.close(NONE, Columns::default());
            assert_eq!(
                partial.columns.counters.len(),
                usize::from(partial.created[0].len() != 2) + partial.created[0].len()
            );
            assert_eq!(seen(&mut shard), ["c-h 0 -0"]);
            assert!(seen(&mut shard).is_empty());
        }
        feed(&mut shard, "a.c:1|c|#host:h\na.c:1|c|#host:h", "10.0.0.1");
        assert_eq!(seen(&mut shard), ["c-h 0 -0"]);
        feed(&mut shard, "a.c:1|c|#host:h", "10.0.0.1");
        let _ = shard.close(NONE, Columns::default());
        feed(&mut shard, "a.c:1|c|#host:h|T1700000000", "10.0.0.1");
        assert_eq!(seen(&mut shard), ["c-h 1 -0"], "one has a time of its own, and each is told once");
    }

    #[test]
    fn values_decide_where_a_watch_asks_for_them() {
        let of = |evidence, lines: &[&str]| -> Vec<usize> {
            let mut shard = shard(vec![watch("x", "i", evidence, None)]);
            lines
                .iter()
                .map(|line| {
                    feed(&mut shard, line, "");
                    seen(&mut shard).len()
                })
                .collect()
        };
        assert_eq!(of(Evidence::Nonzero, &["x:0|c", "x:2|c", "x:0|c", "x:2|c"]), [0, 1, 0, 1]);
        assert_eq!(of(Evidence::Nonzero, &["x:0|g", "x:2|g", "x:0|g", "x:0|ms", "x:3|ms"]), [0, 1, 0, 0, 1]);
        assert_eq!(of(Evidence::Change, &["x:5|g", "x:5|g", "x:6|g", "x:+0|g", "x:+1|g"]), [1, 0, 1, 0, 1]);
        assert_eq!(of(Evidence::Change, &["x:5|c", "x:5|c", "x:6|c"]), [1, 0, 1]);
        assert_eq!(of(Evidence::Change, &["x:a|s", "x:a|s"]), [1, 1]);
        let floor = |evidence, lines: &[&str]| -> Vec<Vec<String>> {
            let mut shard = shard(vec![watch("x", "i", evidence, Some(5))]);
            lines
                .iter()
                .map(|line| {
                    feed(&mut shard, line, "");
                    seen(&mut shard)
                })
                .collect()
        };
        let lines = ["x:1|c\nx:1|c\nx:2|c|@0.5", "x:2|c", "x:0|c\nx:0|c|#a:b"];
        let counted = |all: [usize; 3]| all.map(|n| if n == 0 { vec![] } else { vec![format!("i {n} -0")] });
        assert_eq!(floor(Evidence::Any, &lines)[..2], counted([3, 1, 0])[..2]);
        assert_eq!(floor(Evidence::Change, &lines)[..2], counted([2, 0, 0])[..2]);
        assert_eq!(floor(Evidence::Nonzero, &lines)[2], Vec::<String>::new());
    }

    #[test]
    fn the_first_value_of_a_watch_that_wants_a_change_is_told_as_such() {
        for floor in [None, Some(5)] {
            let of = |evidence, lines: &[&str]| -> Vec<Vec<(Option<f64>, bool)>> {
                let mut shard = shard(vec![watch("x", "i", evidence, floor)]);
                let mut tell = |line: &&str| {
                    feed(&mut shard, line, "");
                    look(&mut shard).map(|seen| (seen.value, seen.is_first)).collect()
                };
                lines.iter().map(&mut tell).collect()
            };
            let (first, later) = (vec![(Some(5.0), true)], |value| vec![(Some(value), false)]);
            let changes = ["x:5|g", "x:5|g", "x:6|g", "x:5|g"];
            assert_eq!(of(Evidence::Change, &changes), [first.clone(), vec![], later(6.0), later(5.0)], "{floor:?}");
            // Only that it was the last value is known of those between two looks.
            assert_eq!(of(Evidence::Change, &["x:5|g\nx:5|g", "x:5|g"]), [first, vec![]], "{floor:?}");
            assert_eq!(of(Evidence::Change, &["x:a|s", "x:a|s"]), [[(None, false)], [(None, false)]], "{floor:?}");
            assert_eq!(of(Evidence::Any, &["x:5|g"]), [[(None, false)]], "{floor:?}");
        }
    }

    #[test]
    fn senders_beyond_the_most_are_refused_and_counted() {
        let mut shard = shard(vec![watch("x", "{source}", Evidence::Any, None)]);
        for _ in 0..2 {
            (1..=4).for_each(|n| feed(&mut shard, "x:1|c\nx:1|c|#a:b,c:d", &format!("10.0.0.{n}")));
        }
        // Two series, each with two of its own; who sends is told once.
        assert_eq!(seen(&mut shard), ["10.0.0.1 0 -8", "10.0.0.1 4 -0", "10.0.0.2 4 -0"]);
    }

    #[test]
    fn an_instance_of_many_series_is_seen_once_and_kept_once() {
        let mut shard = shard(vec![watch("*", "{host}", Evidence::Any, None)]);
        for n in 0..200 {
            feed(&mut shard, &format!("m{n}:1|c|#host:h{}", n % 4), "");
        }
        assert_eq!(seen(&mut shard), ["h0 0 -0", "h1 0 -0", "h2 0 -0", "h3 0 -0"]);
        let watched = |shard: &Shard| {
            let set = shard.watched.as_ref().expect("watches");
            (set.identities.all.len(), set.identities.free.len(), set.identities.by_name.len())
        };
        assert_eq!(watched(&shard), (4, 0, 4));
        let _ = shard.close(NONE, Columns::default());
        let _ = shard.close([(0..200).collect(), vec![], vec![], vec![], vec![]], Columns::default());
        assert_eq!(watched(&shard), (4, 4, 0), "its series have left");
    }

    #[test]
    fn senders_have_a_bound_over_all_series_and_are_accounted_and_forgotten() {
        let mut shard = shard(vec![watch("*", "{source}", Evidence::Any, None)]);
        shard.watched.as_mut().expect("watches").most_senders = 3;
        (0..4).for_each(|n| feed(&mut shard, &format!("m{n}:1|c"), "10.0.0.1"));
        let before = shard.watched.as_ref().expect("watches").heap_bytes();
        assert_eq!(seen(&mut shard), [" 0 -1", "10.0.0.1 3 -0"]);
        // Where memory is short there are no more, either.
        let watched = shard.watched.as_mut().expect("watches");
        (watched.most_senders, watched.may_grow) = (100, false);
        feed(&mut shard, "m3:1|c", "10.0.0.1");
        assert_eq!(seen(&mut shard), [" 0 -1"]);
        shard.watched.as_mut().expect("watches").may_grow = true;
        feed(&mut shard, "m3:1|c", "10.0.0.1");
        let grown = shard.watched.as_ref().expect("watches").heap_bytes();
        assert!(grown >= before + size_of::<Sender>(), "{before} {grown}");
        // An hour later nothing is known of those that were silent.
        for _ in 0..=FORGOTTEN_AFTER + FORGET_EVERY {
            let _ = seen(&mut shard);
        }
        let watched = shard.watched.as_ref().expect("watches");
        assert_eq!((watched.senders, watched.identities.by_name.len()), (0, 0));
        assert!(watched.heap_bytes() < grown);
        feed(&mut shard, "m3:1|c", "10.0.0.1");
        assert_eq!(seen(&mut shard), ["10.0.0.1 1 -0"]);
    }

    #[test]
    fn the_senders_of_one_watch_do_not_shut_out_those_of_another() {
        let spoofed = MetricWatch { max_instances: 1_000, ..watch("open.*", "{source}", Evidence::Any, None) };
        let own = watch("own.*", "{source}", Evidence::Any, None);
        let floored = watch("floored", "f", Evidence::Any, Some(5));
        let mut shard = shard(vec![spoofed, own, floored]);
        shard.watched.as_mut().expect("watches").most_senders = 6;
        (0..20).for_each(|n| feed(&mut shard, "open.x:1|c", &format!("10.0.1.{n}")));
        assert_eq!(seen(&mut shard).iter().filter(|one| one.ends_with("-0")).count(), 6);
        // A third of as many is there for each.
        ["own.a", "own.b", "own.c"].iter().for_each(|name| feed(&mut shard, &format!("{name}:1|c"), "10.0.0.1"));
        shard.watched.as_mut().expect("watches").may_grow = false;
        feed(&mut shard, "own.d:1|c\nfloored:1|c", "10.0.0.1");
        let mut all = seen(&mut shard);
        all.retain(|one| !one.starts_with("10.0.1."));
        assert_eq!(all, [" 0 -2", "10.0.0.1 2 -0", "f 1 -0"]);
        let watched = shard.watched.as_ref().expect("watches");
        assert_eq!((watched.senders, &watched.of_watch[..]), (9, &[6, 2, 1][..]));
    }

    #[test]
    fn a_sender_who_was_not_asked_for_is_nobody_until_he_is() {
        let mut shard = shard(vec![watch("x", "{source}", Evidence::Any, None)]);
        shard.attend_to_senders(false, false);
        shard.begin_batch();
        assert!(!shard.watched.as_ref().expect("watches").asks_for_senders());
        feed(&mut shard, "x:1|c", "");
        assert!(shard.asks_for_senders() && seen(&mut shard).is_empty());
        shard.begin_batch();
        feed(&mut shard, "x:1|c", "");
        assert_eq!(seen(&mut shard), ["- 1 -0"], "a unix socket has no addresses");
        let _ = shard.close(NONE, Columns::default());
        let _ = shard.close([vec![0], vec![], vec![], vec![], vec![]], Columns::default());
        assert!(!shard.watched.as_ref().expect("watches").asks_for_senders(), "its only series has left");
    }

    /// What a shard makes of texts, interval by interval: values by series, and the tally.
    fn outcome(watches: Vec<MetricWatch>, intervals: &[Vec<String>]) -> Vec<(Vec<String>, Tally)> {
        let (mut shard, mut spare) = (shard(watches), Columns::default());
        let mut names: [Vec<(u32, Series)>; 5] = Default::default();
        let mut all = Vec::new();
        for texts in intervals {
            for (n, text) in texts.iter().enumerate() {
                feed(&mut shard, text, ["10.0.0.1", "10.0.0.2", ""][n % 3]);
                if n % 2 == 0 {
                    let _ = seen(&mut shard);
                }
            }
            let mut partial = shard.close(NONE, std::mem::take(&mut spare));
            for (class, created) in partial.created.iter().enumerate() {
                names[class].extend(created.iter().map(|one| (one.id, one.series.clone())));
            }
            let name = |class: usize, id| {
                names[class].iter().find(|(known, _)| *known == id).map(|(_, series)| series.clone())
            };
            let mut values = Vec::new();
            partial.columns.counters.drain(|id, sum| values.push(format!("{:?} {}", name(0, id), sum.value())));
            partial.columns.gauges.drain(|id, gauge| values.push(format!("{:?} {}", name(1, id), gauge.value())));
            partial.columns.timers.drain(|id, timer| values.push(format!("{:?} {:?}", name(2, id), timer.totals())));
            partial.columns.sets.drain(|id, set| values.push(format!("{:?} {}", name(3, id), set.count())));
            partial.columns.kvs.drain(|id, kept| values.push(format!("{:?} {kept:?}", name(4, id))));
            values.sort();
            all.push((values, partial.tally));
            spare = partial.columns;
        }
        all
    }

    proptest! {
        #[test]
        fn what_is_watched_has_the_values_that_it_would_have(
            intervals in proptest::collection::vec(proptest::collection::vec(
                proptest::collection::vec("[abcd]:[0-3](:[12])?\\|(c|g|ms|s|kv|h)(\\|@0.5)?(\\|#(k:[12]|k:1,j:2|j:2,k:1|host:h))?", 1..6)
                    .prop_map(|lines| lines.join("\n")), 1..6), 1..4),
        ) {
            let watches = vec![
                watch("a", "i", Evidence::Any, None),
                watch("b", "{source}", Evidence::Change, None),
                watch("c", "{host}", Evidence::Nonzero, Some(3)),
            ];
            prop_assert_eq!(outcome(watches, &intervals), outcome(Vec::new(), &intervals));
        }
    }
}
