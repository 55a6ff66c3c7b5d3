//! A shard: the series of one receive worker and the values of its open interval.
//!
//! The worker owns it; nothing is shared and nothing is locked. [`Shard::ingest`] reads a datagram and updates values; a
//! known series costs one hash, one comparison and one update, and no allocation. [`Shard::close`] swaps the values for
//! empty columns and returns them as a [`Partial`].

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::memory::{Memory, footprint, vec_footprint};
use crate::protocol::{
    Event, GaugeOp, Heartbeats, Kind, Metric, ParseError, Reason, Seen, ServiceCheck, Signal, Values, lossy, mask_key,
};
use crate::senders::{Origin, Sketch};
use crate::series::{KeyBuilder, Series, name_of_key, tags_of_key};
use crate::telemetry::{Limit, Tally};
use crate::watches::Watches;

use super::columns::{Cell, Class, Columns};
use super::event_or_check::{EventOrCheck, own_event, own_service_check};
use super::index::{Hasher, Index};
use super::ingest::{BEYOND_CACHE, LOOKUP_BATCH, PendingLine};
use super::key_cache::{KeyCache, SpentKeys};
use super::limits::{
    MAX_EVENT_AND_CHECK_BYTES, MAX_EVENTS_AND_CHECKS, MAX_TIMESTAMPED, MAX_TIMESTAMPED_BYTES, Quota, TimeWindow,
    overflow_series,
};
use super::memory_use::{ALWAYS_TAKEN, HeldBytes, MemoryUse, SHORT_MEMBERS};
use super::overrides::GaugeLevels;
use super::partial::{BadLine, Created, Partial, TimestampedSample};
use super::rules::{NO_RULE, RuleOutcome, RuleOutcomes, Rules, Verdict};
use super::set::{EXACT_MEMBERS, Members};
use super::timer::TimerPolicy;
use super::watched::{Watched, WatchedSet};

/// Series removed at once when an interval closes, and before a batch: what takes longer would hold up receiving.
const RETIRED_AT_CLOSE: usize = 20_000;
const RETIRED_AT_ONCE: usize = 1000;

/// A shard that receives little has few batches or none, and little to hold up: when its interval closes, it removes so many
/// series divided by the lines that it read. A removal takes about 0.2 µs, so that less than a hundred lines wait for it.
const RETIRED_TIMES_LINES: u64 = 200_000_000;
/// The most for one that receives nothing.
const RETIRED_WHEN_IDLE: u64 = 1_000_000;

/// Cached keys dropped before a batch.
const SPENT_AT_ONCE: usize = 1000;

/// Bytes that a new series takes beside its key: its places in the tables of its shard and of the registry. The registry
/// takes its part when the interval closes, and so it is reserved until then.
const SERIES_BYTES: usize = 160;
const REGISTERED_BYTES: usize = 64;

/// Longest excerpt of a malformed line kept for the log, in bytes.
const EXAMPLE_BYTES: usize = 512;

/// Whether frames stand in a line, each behind its length: 32 bits, little end first, of which the upper half is not used. The length
/// of the first is not in the line any more if it begins with white space, as those of 9 to 13 do.
#[cold]
fn has_frames(line: &[u8]) -> bool {
    let is_frame = |from: usize| match line[from..] {
        [low, high, 0, 0, ref rest @ ..] => {
            let length = usize::from(u16::from_le_bytes([low, high]));
            length > 0 && rest.len() >= length
        }
        _ => false,
    };
    // The first byte of a length that is 0 is its second, or its third.
    memchr::memmem::find(line, b"\0\0").is_some_and(|at| (1..=2).any(|before| at >= before && is_frame(at - before)))
}

/// How a shard aggregates.
#[derive(Clone, Debug)]
pub struct ShardOptions {
    /// How timers keep their samples.
    pub timers: TimerPolicy,
    /// Histograms and distributions are timers (profile `etsy`).
    pub fold_histograms: bool,
    /// Room for series, shared with the other shards.
    pub quota: Quota,
    /// Key of the hash.
    pub seed: u64,
    /// What series are called, and whether they are kept.
    pub rules: Option<Arc<Rules>>,
    /// Which lines are heartbeats; `None` for no line.
    pub heartbeats: Option<Arc<Heartbeats>>,
    /// Which timestamps are accepted.
    pub times: TimeWindow,
}

/// Where samples are recorded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) class: Class,
    pub(super) id: u32,
    pub(super) folded: Folded,
}

/// Whether a place is an overflow series that replaces another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Folded {
    /// It is not.
    No,
    /// It is, because of `max_series`.
    Number,
    /// It is, because memory is short.
    Memory,
}

/// The series of one worker and the values of its open interval.
#[derive(Debug)]
pub struct Shard {
    pub(super) options: ShardOptions,
    pub(super) hasher: Hasher,
    pub(super) keys: KeyBuilder,
    pub(super) indexes: [Index; 5],
    pub(super) key_cache: KeyCache,
    /// Ids of the overflow series, by kind.
    pub(super) overflow: [Option<u32>; Kind::ALL.len()],
    /// Pending lines of a datagram that are looked up together; empty between datagrams.
    pub(super) waiting: Vec<PendingLine>,
    /// The number of series of a class from which on lines are looked up together.
    pub(super) wait_beyond: usize,
    pub(super) open: Partial,
    /// Cached outcomes of the rules.
    outcomes: RuleOutcomes,
    /// The rule that applies to the series of the sample being recorded.
    pub(super) matched_rule: u32,
    /// What that rule multiplies values by.
    pub(super) scale: f64,
    /// Per-sample settings of series, from rules.
    gauge_levels: GaugeLevels,
    /// The last totals of counters that are sent as totals, by id.
    totals: HashMap<u32, f64>,
    /// The time of the last receipt.
    pub(super) heard: f64,
    /// Signals for presence that were not taken yet.
    pub(super) signals: Vec<Signal>,
    /// Bytes of the keys of samples with a timestamp, and of events and service checks.
    timestamped_bytes: usize,
    event_bytes: usize,
    /// Samples with a timestamp, and events and service checks, of the open interval that were taken out already.
    cut_timestamped: usize,
    cut_events: usize,
    /// Bytes that samples of timers and values of `kv` pairs, and members of sets, take beside their cells.
    sample_bytes: usize,
    member_bytes: usize,
    pub(super) memory_use: MemoryUse,
    /// How timers keep their samples in this batch.
    timers: TimerPolicy,
    /// Cached keys that are being dropped.
    spent_keys: SpentKeys,
    /// Series to remove, by class, unless they are touched before their turn.
    retiring: [Vec<u32>; 5],
    /// Whether the current line may concern presence, and so must not be cached.
    pub(super) concerns_presence: bool,
    /// A line or frame is in work that is counted as read, but perhaps not yet by what it was.
    pub(super) is_reading: bool,
    /// A series is being added or removed; still so after a panic.
    is_table_open: bool,
    /// Who sends what, if that is attended to.
    pub(super) senders: Option<Box<Sketch>>,
    /// Whether senders are always known, and lines may be binary, as it was told last.
    attends: Option<(bool, bool)>,
    /// Series that show who lives, if any do, and who was seen before the interval closed.
    pub(super) watched: Option<Box<WatchedSet>>,
    seen: Vec<Seen>,
}

impl Shard {
    /// An empty shard.
    pub fn new(options: ShardOptions) -> Shard {
        let (memory_use, timers) = (MemoryUse::new(options.quota.memory()), options.timers);
        Shard {
            hasher: Hasher::new(options.seed),
            keys: KeyBuilder::hiding(options.heartbeats.clone()),
            options,
            indexes: Default::default(),
            key_cache: KeyCache::default(),
            overflow: Default::default(),
            waiting: Vec::with_capacity(LOOKUP_BATCH),
            wait_beyond: BEYOND_CACHE,
            open: Partial::default(),
            outcomes: RuleOutcomes::default(),
            matched_rule: NO_RULE,
            scale: 1.0,
            gauge_levels: GaugeLevels::default(),
            totals: HashMap::new(),
            heard: f64::NEG_INFINITY,
            signals: Vec::new(),
            timestamped_bytes: 0,
            event_bytes: 0,
            cut_timestamped: 0,
            cut_events: 0,
            sample_bytes: 0,
            member_bytes: 0,
            memory_use,
            timers,
            spent_keys: SpentKeys::default(),
            retiring: Default::default(),
            concerns_presence: false,
            is_reading: false,
            is_table_open: false,
            senders: None,
            attends: None,
            watched: None,
            seen: Vec::new(),
        }
    }

    /// The same, watching for these.
    #[must_use]
    pub fn watching(self, watches: &Arc<Watches>) -> Shard {
        let watched = (!watches.is_empty()).then(|| Box::new(WatchedSet::new(Arc::clone(watches))));
        Shard { watched, ..self }
    }

    /// Notes who was seen by watched series since this was last called; it comes out with the signals.
    pub fn look_at_watched(&mut self) {
        let Some(watched) = &mut self.watched else { return };
        let mut seen = std::mem::take(&mut self.seen);
        watched.look(&mut self.open.columns, &self.open.timestamped, &mut seen);
        if !seen.is_empty() {
            self.signals.push(Signal::Watched(seen));
        }
    }

    /// Begins anew with other options, between two intervals: no series is known any more, and none takes room. What it was comes
    /// back, to be dropped where that holds nobody up.
    #[must_use]
    pub fn renew(&mut self, options: ShardOptions, watches: &Arc<Watches>) -> Shard {
        let mut next = Shard::new(options).watching(watches);
        next.heard = self.heard;
        std::mem::swap(&mut next.signals, &mut self.signals);
        next.attend_as(self);
        let before = std::mem::replace(self, next);
        let overflow = before.overflow.iter().flatten().count();
        (overflow..before.len()).for_each(|_| before.options.quota.give());
        before
    }

    /// Begins anew as it is: another shard goes on with its series.
    #[must_use]
    pub fn leave(&mut self) -> Shard {
        self.renew(self.options.clone(), &Arc::default())
    }

    /// The last totals of all counters that are sent as totals, by id.
    pub fn last_totals(&self) -> Vec<(u32, f64)> {
        self.totals.iter().map(|(&id, &total)| (id, total)).collect()
    }

    /// What its series are called, and treated by.
    pub fn rules(&self) -> Option<&Rules> {
        self.options.rules.as_deref()
    }

    /// Keeps timers and judges timestamps in another way, from the next interval on.
    pub fn set_policies(&mut self, timers: TimerPolicy, times: TimeWindow) {
        (self.options.timers, self.timers) = (timers, self.memory_use.timers(timers));
        self.options.times = TimeWindow { origin: self.options.times.origin, ..times };
    }

    /// Attends to who sends what as another one does.
    fn attend_as(&mut self, other: &Shard) {
        if let Some((always_known, binary)) = other.attends {
            self.attend_to_senders(always_known, binary);
        }
    }

    /// Attends to who sends what from now on. `always_known` says that the senders of all batches are known, whether that was
    /// asked for or not, and `binary` that lines may come in the binary protocol.
    pub fn attend_to_senders(&mut self, always_known: bool, binary: bool) {
        self.attends = Some((always_known, binary));
        self.senders = Some(Box::new(Sketch::new(self.options.seed, always_known, binary)));
        if let Some(watched) = &mut self.watched {
            watched.set_always_known(always_known);
        }
    }

    /// Whether the next batch is to ask the kernel for senders.
    #[inline]
    pub fn asks_for_senders(&self) -> bool {
        self.senders.as_ref().is_some_and(|senders| senders.asks())
            || self.watched.as_ref().is_some_and(|watched| watched.asks_for_senders())
    }

    /// Says whose lines come next, if that is of interest in this batch; `text` is all of them.
    #[inline]
    pub fn note_sender(&mut self, text: &[u8], origin: impl FnOnce() -> Origin) {
        if let Some(senders) = &mut self.senders
            && senders.attends()
        {
            senders.begin_lines(text, origin());
        }
    }

    /// Begins a batch: publishes what the shard holds in memory, and decides what gives way until the next.
    pub fn begin_batch(&mut self) {
        self.memory_use.publish(self.held_bytes());
        let before = self.memory_use.gives_way;
        self.memory_use.decide();
        let now = self.memory_use.gives_way;
        if now != before {
            self.timers = self.memory_use.timers(self.options.timers);
            if now.caches && !before.caches {
                self.open.tally.memory.caches_dropped += 1;
                self.spent_keys = self.key_cache.take();
            }
        }
        self.spent_keys.drop_some(SPENT_AT_ONCE);
        self.retire_some(RETIRED_AT_ONCE);
        if let Some(watched) = &mut self.watched {
            watched.let_grow(!now.series);
            watched.begin_batch();
        }
        if let Some(senders) = &mut self.senders {
            let Tally { listener, lines, chunks, .. } = &self.open.tally;
            let is_near = now.samples || now.series || self.options.quota.is_nearly_taken();
            senders.begin_batch(listener.datagrams + chunks, lines.read, is_near);
        }
    }

    /// The memory that it is in.
    pub fn memory(&self) -> &Memory {
        self.options.quota.memory()
    }

    /// Bytes that the shard holds.
    pub fn held_bytes(&self) -> HeldBytes {
        HeldBytes {
            series_keys: self.key_bytes(),
            values: self.open.columns.page_bytes() + self.member_bytes,
            samples: self.sample_bytes,
            events: self.event_bytes + vec_footprint::<EventOrCheck>(self.open.events_and_checks.capacity()),
            timestamped: self.timestamped_bytes + vec_footprint::<TimestampedSample>(self.open.timestamped.capacity()),
            senders: self.senders.as_ref().map_or(0, |senders| footprint(size_of::<Sketch>()) + senders.heap_bytes()),
        }
    }

    /// Bytes of the keys of series, and of the tables that find them.
    fn key_bytes(&self) -> usize {
        let created = self.open.created.iter().map(|created| vec_footprint::<Created>(created.capacity()));
        self.indexes.iter().map(Index::heap_bytes).sum::<usize>()
            + created.sum::<usize>()
            + self.key_cache.heap_bytes()
            + self.spent_keys.heap_bytes()
            + self.outcomes.heap_bytes()
            + self.watched.as_ref().map_or(0, |watched| watched.heap_bytes())
    }

    /// Whether the tables can be relied on after a panic.
    ///
    /// Values can: each is whole in itself, and a panic in an update costs at most the value of the line in work. A panic
    /// while a series is added or removed can leave an id in the index that the registry never heard of, which would end
    /// the flush later; such a shard must take nothing more in.
    pub fn is_sound(&self) -> bool {
        !self.is_table_open
    }

    /// Lines safe to show: without keys.
    pub fn masked(&self, text: &[u8]) -> Vec<u8> {
        let text = mask_key(text);
        self.options.heartbeats.as_ref().map_or_else(|| text.clone(), |heartbeats| heartbeats.masked(&text))
    }

    /// The tally of the open interval.
    #[inline]
    pub fn tally(&mut self) -> &mut Tally {
        &mut self.open.tally
    }

    /// Records the samples of a line; returns whether all were valid.
    #[inline]
    pub(super) fn samples<'s>(
        &mut self,
        mut samples: impl Iterator<Item = Result<Metric<'s>, ParseError>> + Clone,
        line: &[u8],
        from: Option<SocketAddr>,
        now: f64,
    ) -> bool {
        self.concerns_presence = false;
        match samples.next() {
            Some(Ok(metric)) if !self.may_concern_presence(&metric) && self.is_believed(&metric, now) => {
                self.record(&metric, &from, now);
                match samples.next() {
                    None => {
                        self.open.tally.lines.metrics += 1;
                        true
                    }
                    Some(second) => self.several(std::iter::once(second).chain(samples), line, from, now),
                }
            }
            Some(first) => match samples.next() {
                None => self.several(std::iter::once(first), line, from, now),
                Some(second) => self.several([first, second].into_iter().chain(samples), line, from, now),
            },
            None => true,
        }
    }

    /// Whether a timestamp is outside of the accepted window.
    #[cold]
    pub(super) fn is_outside(&self, time: u64, now: f64) -> bool {
        !self.options.times.holds(time, now)
    }

    /// Whether a sample has no timestamp, or an accepted one.
    #[inline]
    pub(super) fn is_believed(&self, metric: &Metric<'_>, now: f64) -> bool {
        metric.timestamp.is_none_or(|time| !self.is_outside(time.get(), now))
    }

    /// Sets the Unix second of the shard's time 0; `None` if it is not known, and then every timestamp is accepted.
    pub fn set_origin(&mut self, origin: Option<f64>) {
        self.options.times.origin = origin;
    }

    #[inline]
    fn may_concern_presence(&self, metric: &Metric<'_>) -> bool {
        self.options.heartbeats.as_ref().is_some_and(|heartbeats| heartbeats.may_concern(metric))
    }

    /// Takes the signals for presence.
    pub fn take_signals(&mut self) -> std::vec::Drain<'_, Signal> {
        self.signals.drain(..)
    }

    /// Whether an example of a malformed line was kept without its sender.
    #[inline]
    pub fn lacks_sender_of_example(&self) -> bool {
        self.open.example.as_ref().is_some_and(|example| example.from.is_none())
    }

    /// Keeps the sender of what `allow` refuses: the first of an interval.
    #[cold]
    pub fn note_refused(&mut self, from: Option<IpAddr>) {
        self.open.refused_from = self.open.refused_from.or(from);
    }

    /// Counts a malformed line; the first of an interval is kept as an example, preferably the first with a known sender.
    pub fn refuse(&mut self, line: &[u8], error: ParseError, from: Option<SocketAddr>) {
        self.open.is_framed |= error.reason == Reason::Nul && has_frames(line);
        let wanted = match &self.open.example {
            None => true,
            Some(example) => example.from.is_none() && from.is_some(),
        };
        if wanted {
            // It is logged, so secrets are masked.
            let mut line = self.masked(line);
            line.truncate(EXAMPLE_BYTES);
            self.open.example = Some(BadLine { line, error, from });
        }
        if self.senders.as_mut().is_some_and(|senders| senders.malformed(line, error.reason)) {
            let mut shown = self.masked(line);
            shown.truncate(EXAMPLE_BYTES);
            if let Some(senders) = &mut self.senders {
                senders.keep_example(line, error.reason, shown);
            }
        }
        self.open.tally.refuse(error);
    }

    /// Counts an incomplete line.
    pub fn refuse_fragment(&mut self, line: &[u8], reason: Reason, from: Option<SocketAddr>) {
        self.open.tally.lines.read += 1;
        self.refuse(line, ParseError::new(reason, line.len()), from);
    }

    /// Records one sample.
    #[inline]
    pub fn record(&mut self, metric: &Metric<'_>, from: &Option<SocketAddr>, now: f64) {
        let kind = self.kind_of(metric.kind);
        self.keys.metric(metric, kind);
        self.open.tally.lines.tags_cut += self.keys.cut();
        if self.options.rules.is_some() && self.is_dropped() {
            self.count_dropped(metric);
            return;
        }
        if metric.timestamp.is_some()
            && let Some((time, value)) = own_time(metric, kind)
        {
            self.stamp(metric, Series::from_key(self.keys.last()), time, value);
            return;
        }
        let class = class_of(kind);
        let key = self.keys.last();
        let hash = self.hasher.hash(key);
        self.open.tally.lines.sections_skipped += u64::from(metric.skipped);
        if let Some(id) = self.indexes[class as usize].find(hash, key) {
            self.open.tally.samples.recorded += self.update(class, id, metric, now);
        } else {
            let place = self.new_place(metric, kind, hash, from);
            self.update_at(place, metric, now);
        }
    }

    /// Applies the rules to the key in the builder; `true` if its samples are dropped.
    pub(super) fn is_dropped(&mut self) -> bool {
        let held = self.len();
        let Some(rules) = &self.options.rules else { return false };
        let is_short = self.memory_use.gives_way.caches;
        let Verdict { outcome, rule, scale } = self.outcomes.of(self.keys.last(), rules, held, is_short);
        (self.matched_rule, self.scale) = (*rule, *scale);
        match outcome {
            RuleOutcome::Same => false,
            RuleOutcome::Is(series) => {
                self.keys.replace(series);
                false
            }
            RuleOutcome::Dropped => true,
        }
    }

    /// Whether the values of the last sample are multiplied: such a line is looked up by its rule each time.
    #[inline]
    pub(super) fn is_scaled(&self) -> bool {
        self.scale != 1.0
    }

    /// Counts a sample that a rule drops.
    pub(super) fn count_dropped(&mut self, metric: &Metric<'_>) {
        let values = metric.values.len() as u64;
        self.open.tally.samples.read += values;
        self.open.tally.samples.dropped_by_rule += values;
        self.open.tally.lines.sections_skipped += u64::from(metric.skipped);
    }

    /// Keeps a sample that has a timestamp, apart from the interval.
    #[cold]
    pub(super) fn stamp(&mut self, metric: &Metric<'_>, series: Series, time: f64, value: f64) {
        let values = metric.values.len() as u64;
        self.open.tally.lines.sections_skipped += u64::from(metric.skipped);
        self.open.tally.samples.read += values;
        let kept = self.open.timestamped.len() + self.cut_timestamped;
        if kept >= MAX_TIMESTAMPED || self.timestamped_bytes >= MAX_TIMESTAMPED_BYTES {
            self.open.tally.samples.limited.count(Limit::Timestamped, values);
            self.open.dropped.add(series.name().as_bytes());
            return;
        }
        if self.memory_use.gives_way.timestamped {
            self.open.tally.samples.limited.count(Limit::Memory, values);
            self.open.dropped.add(series.name().as_bytes());
            return;
        }
        self.open.tally.samples.timestamped += values;
        // Samples of one line may share their series.
        if self.open.timestamped.last().is_none_or(|last| !last.series.is_same(&series)) {
            self.timestamped_bytes += series.heap_bytes();
        }
        let value = scaled(value, self.scale);
        self.open.timestamped.push(TimestampedSample { series, time, value, rule: self.matched_rule });
    }

    /// Decides where samples of the key in the builder go, which has no id yet.
    #[cold]
    pub(super) fn new_place(&mut self, metric: &Metric<'_>, kind: Kind, hash: u64, from: &Option<SocketAddr>) -> Place {
        let class = class_of(kind);
        if let Some(watched) = &mut self.watched
            && let Some(id) = self.indexes[class as usize].find_own(hash, self.keys.last())
        {
            watched.count_line(class, id, last_number(metric), *from, &self.hasher);
            return Place { class, id, folded: Folded::No };
        }
        let registered = self.open.created.iter().map(Vec::len).sum::<usize>() * REGISTERED_BYTES;
        let needed = SERIES_BYTES + self.keys.last().len() + registered;
        let has_room = self.memory_use.has_room_for(needed, self.key_bytes());
        let has_place = has_room && self.options.quota.take();
        if let Some(senders) = &mut self.senders {
            let key = self.keys.last();
            let name = metric.name.as_sent().unwrap_or_else(|| name_of_key(key));
            senders.new_series(name, || metric.container().unwrap_or_default(), tags_of_key(key), !has_place);
        }
        if has_place {
            let series = Series::from_key(self.keys.last());
            let plain = metric.name.as_sent().is_some_and(|name| series.is_plain(kind, name));
            let id = self.create(class, hash, series, self.matched_rule);
            if plain && metric.tags.is_empty() && !self.concerns_presence && !self.is_scaled() {
                self.indexes[class as usize].mark_plain(hash, id);
            }
            self.watch_new(class, id, hash, metric, *from);
            return Place { class, id, folded: Folded::No };
        }
        let mut name = Vec::new();
        metric.name.write_to(&mut name);
        self.open.offenders.add(&name);
        let id = self.overflow_of(kind);
        Place { class, id, folded: if has_room { Folded::Number } else { Folded::Memory } }
    }

    /// Watches a new series, if a watch takes it.
    fn watch_new(&mut self, class: Class, id: u32, hash: u64, metric: &Metric<'_>, from: Option<SocketAddr>) {
        let (Some(watched), index) = (&mut self.watched, &mut self.indexes[class as usize]) else { return };
        let Some(series) = index.series(id) else { return };
        let is_reserved = |name| self.options.heartbeats.as_ref().is_some_and(|known| known.is_reserved(name));
        if !is_reserved(series.name()) && watched.add(class, id, series) == Watched::ByLines {
            index.mark_own(hash, id);
            watched.count_line(class, id, last_number(metric), from, &self.hasher);
        }
    }

    /// The overflow series of a kind.
    fn overflow_of(&mut self, kind: Kind) -> u32 {
        match self.overflow[kind as usize] {
            Some(id) => id,
            None => {
                let series = overflow_series(kind);
                let hash = self.hasher.hash(series.key());
                // A sender may have created a series of this name while there was room.
                let class = class_of(kind);
                let known = self.indexes[class as usize].find(hash, series.key());
                let id = known.unwrap_or_else(|| self.create(class, hash, series, NO_RULE));
                self.overflow[kind as usize] = Some(id);
                id
            }
        }
    }

    /// Updates the series of a place.
    pub(super) fn update_at(&mut self, place: Place, metric: &Metric<'_>, now: f64) {
        let values = self.update(place.class, place.id, metric, now);
        let tally = &mut self.open.tally;
        match place.folded {
            Folded::No => tally.samples.recorded += values,
            Folded::Number => tally.samples.folded += values,
            Folded::Memory => {
                tally.samples.folded += values;
                tally.memory.folded += values;
            }
        }
    }

    fn create(&mut self, class: Class, hash: u64, series: Series, rule: u32) -> u32 {
        self.is_table_open = true;
        let id = self.indexes[class as usize].insert(hash, series.clone());
        self.open.created[class as usize].push(Created { id, rule, series });
        let overrides = self.options.rules.as_ref().and_then(|rules| rules.overrides(rule));
        self.gauge_levels.set(class, id, overrides);
        self.is_table_open = false;
        id
    }

    /// Records the current value of a gauge, if every value counts.
    #[inline(always)]
    pub(super) fn keep_level(&mut self, id: u32) {
        if self.gauge_levels.keeps_levels(id) {
            let columns = &mut self.open.columns;
            columns.levels.touch(id).add(columns.gauges.touch(id));
        }
    }

    /// The policy of a timer.
    #[inline(always)]
    pub(super) fn timer_policy(&self, id: u32) -> TimerPolicy {
        match self.gauge_levels.digits(id) {
            0 => self.timers,
            digits => TimerPolicy { digits, ..self.timers },
        }
    }

    /// Records a sample of a timer that may take more memory; `false` if it went to the overflow series instead, and was
    /// counted as that.
    #[inline(never)]
    pub(super) fn record_sample(&mut self, id: u32, value: f64, weight: f64, policy: &TimerPolicy) -> bool {
        let mut id = id;
        let mut is_folded = false;
        if self.memory_use.gives_way.growth {
            let timer = self.open.columns.timers.touch(id);
            if timer.samples() >= ALWAYS_TAKEN as u64 && timer.would_grow(value, weight, policy) {
                (id, is_folded) = self.fold_growth(Class::Timer, id);
            }
        }
        let timer = self.open.columns.timers.touch(id);
        let (before, was_exact) = (timer.heap_bytes(), timer.is_exact());
        timer.record_other(value, weight, policy);
        self.sample_bytes = (self.sample_bytes + timer.heap_bytes()).saturating_sub(before);
        if was_exact && !timer.is_exact() && timer.samples() <= self.options.timers.exact_samples as u64 {
            self.open.tally.memory.early_estimates += 1;
        }
        !is_folded
    }

    /// Records a member of a set; `false` if it went to the overflow series instead, and was counted as that.
    #[inline]
    fn record_member(&mut self, id: u32, member: &[u8]) -> bool {
        let hash = Members::hash(lossy(member).as_bytes());
        let gives_way = self.memory_use.gives_way;
        let most = if gives_way.series { SHORT_MEMBERS } else { EXACT_MEMBERS };
        let set = self.open.columns.sets.touch(id);
        if set.has_room(most) {
            set.insert_hash(hash, most);
            return true;
        }
        self.record_new_member(id, hash, most)
    }

    /// The same for a member that may take more memory.
    #[inline(never)]
    fn record_new_member(&mut self, id: u32, hash: u64, most: usize) -> bool {
        let gives_way = self.memory_use.gives_way;
        let (mut id, mut is_folded) = (id, false);
        if gives_way.growth {
            let set = self.open.columns.sets.touch(id);
            if set.kept() >= ALWAYS_TAKEN && set.would_grow(hash) {
                (id, is_folded) = self.fold_growth(Class::Set, id);
            }
        }
        let set = self.open.columns.sets.touch(id);
        let (before, kept) = (set.heap_bytes(), set.kept());
        set.insert_hash(hash, most);
        self.member_bytes = (self.member_bytes + set.heap_bytes()).saturating_sub(before);
        if kept > 0 && kept < EXACT_MEMBERS && !set.is_exact() {
            self.open.tally.memory.early_estimates += 1;
        }
        !is_folded
    }

    /// Where a value goes whose series must not take more memory, and whether that is another series. The overflow series
    /// itself takes all: it is one.
    #[cold]
    fn fold_growth(&mut self, class: Class, id: u32) -> (u32, bool) {
        let Some(series) = self.indexes[class as usize].series(id) else { return (id, false) };
        let series = series.clone();
        let overflow = self.overflow_of(series.kind());
        if overflow == id {
            return (id, false);
        }
        self.open.offenders.add(series.name().as_bytes());
        let tally = &mut self.open.tally;
        tally.samples.read += 1;
        tally.samples.folded += 1;
        tally.memory.folded += 1;
        (overflow, true)
    }

    /// Updates a series; returns the number of recorded values.
    #[inline]
    fn update(&mut self, class: Class, id: u32, metric: &Metric<'_>, now: f64) -> u64 {
        let (mut values, scale) = (0, self.scale);
        match (class, metric.values) {
            (Class::Counter, Values::Numbers { first, packed: None }) => {
                self.open.columns.counters.touch(id).add(scaled(first * metric.rate.weight(), scale));
                values = 1;
            }
            (Class::Counter, Values::Total(total)) => {
                let total = scaled(total, scale);
                let before = self.totals.insert(id, total);
                if before.is_none() {
                    self.open.first_totals.push((id, total));
                }
                let before = before.unwrap_or(0.0);
                // A total that fell means that the counter was restarted.
                let added = if total < before { total } else { total - before };
                self.open.columns.counters.touch(id).add(added);
                values = 1;
            }
            (Class::Counter, numbers) => {
                let sum = self.open.columns.counters.touch(id);
                for value in numbers.numbers() {
                    sum.add(scaled(value * metric.rate.weight(), scale));
                    values += 1;
                }
            }
            (Class::Gauge, adjustments) => {
                for (op, value) in adjustments.gauge() {
                    self.open.columns.gauges.touch(id).apply(op, scaled(value, scale), now);
                    self.keep_level(id);
                    values += 1;
                }
            }
            (Class::Timer, numbers) => {
                let (policy, weight) = (self.timer_policy(id), metric.rate.weight());
                let mut numbers = numbers.numbers().map(|value| scaled(value, scale));
                loop {
                    let timer = self.open.columns.timers.touch(id);
                    let mut other = None;
                    for value in numbers.by_ref() {
                        if !timer.record_known(value, weight, &policy) {
                            other = Some(value);
                            break;
                        }
                        values += 1;
                    }
                    let Some(value) = other else { break };
                    values += u64::from(self.record_sample(id, value, weight, &policy));
                }
            }
            (Class::Set, Values::Member(member)) => {
                values = u64::from(self.record_member(id, member));
            }
            (Class::Set, Values::Numbers { .. } | Values::Gauge { .. } | Values::Total(_)) => {}
            (Class::Kv, numbers) => {
                let Partial { columns, tally, .. } = &mut self.open;
                let kept = columns.kvs.touch(id);
                let before = kept.heap_bytes();
                for value in numbers.numbers().map(|value| scaled(value, scale)) {
                    let must_not_grow =
                        self.memory_use.gives_way.growth && kept.len() >= ALWAYS_TAKEN && kept.len() == kept.capacity();
                    if kept.len() < self.timers.exact_samples && !must_not_grow {
                        kept.push(value);
                        values += 1;
                    } else {
                        let is_short = must_not_grow || kept.len() < self.options.timers.exact_samples;
                        let limit = if is_short { Limit::Memory } else { Limit::KvValues };
                        tally.samples.read += 1;
                        tally.samples.limited.count(limit, 1);
                    }
                }
                self.sample_bytes = (self.sample_bytes + kept.heap_bytes()).saturating_sub(before);
            }
        }
        self.open.tally.samples.read += values;
        values
    }

    pub(super) fn event(&mut self, event: &Event<'_>, line: &[u8], from: Option<SocketAddr>, now: f64) {
        if event.timestamp.is_some_and(|time| self.is_outside(time, now)) {
            self.refuse(line, bad_time(line, b"d:"), from);
            return;
        }
        self.open.tally.lines.sections_skipped += event.skipped_sections().count() as u64;
        self.open.tally.lines.tags_cut += event.tags().cut();
        self.keep_event(&event.title, |keys| own_event(event, now, keys));
        self.open.tally.lines.events += 1;
    }

    pub(super) fn service_check(&mut self, check: &ServiceCheck<'_>, line: &[u8], from: Option<SocketAddr>, now: f64) {
        if let Some(heartbeats) = &self.options.heartbeats
            && let Some(signal) = heartbeats.of_check(check, from.map(|from| from.ip()))
        {
            let forward = heartbeats.forward;
            let is_beat = matches!(signal, Signal::Heartbeat(_));
            self.signals.push(signal);
            if !is_beat {
                self.ordinary_check(check, line, from, now);
                return;
            }
            if forward {
                // A heartbeat counts when it arrives, whatever its sender's clock says.
                let time = check.timestamp.filter(|&time| !self.is_outside(time, now)).map_or(now, |time| time as f64);
                self.keep_event(check.name, |keys| EventOrCheck { time, ..own_service_check(check, now, keys) });
            }
            self.open.tally.lines.heartbeats += 1;
            return;
        }
        self.ordinary_check(check, line, from, now);
    }

    fn ordinary_check(&mut self, check: &ServiceCheck<'_>, line: &[u8], from: Option<SocketAddr>, now: f64) {
        if check.timestamp.is_some_and(|time| self.is_outside(time, now)) {
            self.refuse(line, bad_time(line, b"d:"), from);
            return;
        }
        self.open.tally.lines.sections_skipped += check.skipped_sections().count() as u64;
        self.open.tally.lines.tags_cut += check.tags().cut();
        self.keep_event(check.name, |keys| own_service_check(check, now, keys));
        self.open.tally.lines.service_checks += 1;
    }

    fn keep_event(&mut self, name: &str, own: impl FnOnce(&mut KeyBuilder) -> EventOrCheck) {
        if self.memory_use.gives_way.events {
            self.open.tally.lines.notes_dropped += 1;
            self.open.tally.memory.events_dropped += 1;
            self.open.dropped.add(name.as_bytes());
            return;
        }
        let kept = self.open.events_and_checks.len() + self.cut_events;
        if kept < MAX_EVENTS_AND_CHECKS && self.event_bytes < MAX_EVENT_AND_CHECK_BYTES {
            let mut event = own(&mut self.keys);
            if let Some(heartbeats) = &self.options.heartbeats {
                event.hide_key(heartbeats);
            }
            self.event_bytes += event.heap_bytes();
            self.open.events_and_checks.push(event);
        } else {
            self.open.tally.lines.notes_dropped += 1;
            self.open.dropped.add(name.as_bytes());
        }
    }

    /// Closes the interval. `retire` has ids, by class, whose series are removed unless an interval touches them: many now,
    /// further ones between the next batches. `spare` are drained columns of an earlier [`Partial`].
    pub fn close(&mut self, retire: [Vec<u32>; 5], spare: Columns) -> Partial {
        if let Some(watched) = &mut self.watched {
            watched.close(&mut self.open.columns, &self.open.timestamped, &mut self.seen);
        }
        self.retiring = retire;
        let most = (RETIRED_TIMES_LINES / self.open.tally.lines.read.max(1)).min(RETIRED_WHEN_IDLE) as usize;
        let most = most.max(RETIRED_AT_CLOSE);
        self.retire_some(most);
        // What this interval touched stays, when the turn of the rest comes.
        for class in Class::ALL {
            let columns = &self.open.columns;
            self.retiring[class as usize].retain(|&id| !columns.is_touched(class, id));
        }
        self.note_totals();
        self.indexes.iter_mut().for_each(Index::shrink);
        // Without a new line nobody else looks, and cached keys hold on to series that have left.
        if self.spent_keys.is_empty() && self.key_cache.is_too_large(self.len()) {
            self.spent_keys = self.key_cache.take();
        }
        self.spent_keys.drop_some(most);
        let received = self.open.tally.listener.datagrams + self.open.tally.chunks;
        self.open.senders = self.senders.as_mut().map(|senders| senders.close(received)).unwrap_or_default();
        let senders = self.open.senders.heap_bytes();
        let held = HeldBytes { series_keys: 0, senders, ..self.held_bytes() };
        (self.timestamped_bytes, self.event_bytes) = (0, 0);
        (self.cut_timestamped, self.cut_events) = (0, 0);
        self.sample_bytes = spare.timers.reserved_bytes() + spare.kvs.reserved_bytes();
        self.member_bytes = spare.sets.reserved_bytes();
        let closed = std::mem::replace(&mut self.open, Partial { columns: spare, ..Partial::default() });
        self.memory_use.publish(self.held_bytes());
        Partial { held, ..closed }
    }

    /// Takes out what the open interval has so far, and goes on with it: values, new series and those that left, samples with a
    /// timestamp, events. Everything that is counted stays for [`Shard::close`]; the partial has a copy of the tally.
    pub fn cut(&mut self, spare: Columns) -> Partial {
        if let Some(watched) = &mut self.watched {
            watched.close(&mut self.open.columns, &self.open.timestamped, &mut self.seen);
        }
        // The registry is to have the values of what was touched when its series leaves.
        for class in Class::ALL {
            let columns = &self.open.columns;
            self.retiring[class as usize].retain(|&id| !columns.is_touched(class, id));
        }
        self.note_totals();
        self.cut_timestamped += self.open.timestamped.len();
        self.cut_events += self.open.events_and_checks.len();
        self.sample_bytes = spare.timers.reserved_bytes() + spare.kvs.reserved_bytes();
        self.member_bytes = spare.sets.reserved_bytes();
        let open = &mut self.open;
        Partial {
            created: std::mem::take(&mut open.created),
            retired: std::mem::take(&mut open.retired),
            columns: std::mem::replace(&mut open.columns, spare),
            tally: open.tally.clone(),
            totals: std::mem::take(&mut open.totals),
            first_totals: std::mem::take(&mut open.first_totals),
            timestamped: std::mem::take(&mut open.timestamped),
            events_and_checks: std::mem::take(&mut open.events_and_checks),
            ..Partial::default()
        }
    }

    /// Notes the last totals of counters that were touched.
    fn note_totals(&mut self) {
        if self.totals.is_empty() {
            return;
        }
        let Partial { columns, totals, .. } = &mut self.open;
        totals.extend(self.totals.iter().filter(|(id, _)| columns.counters.is_touched(**id)).map(|(&id, &t)| (id, t)));
    }

    /// Removes some of the series that are to be removed.
    fn retire_some(&mut self, most: usize) {
        let mut left = most;
        for class in Class::ALL {
            let mut ids = std::mem::take(&mut self.retiring[class as usize]);
            let first = ids.len().saturating_sub(left);
            left -= ids.len() - first;
            for id in ids.drain(first..) {
                self.retire(class, id);
            }
            if !ids.is_empty() {
                self.retiring[class as usize] = ids;
            }
        }
    }

    pub(super) fn retire(&mut self, class: Class, id: u32) {
        if !self.open.columns.is_touched(class, id) && self.remove(class, id) {
            self.open.retired[class as usize].push(id);
        }
    }

    /// Removes a series from the table; `false` if no series has this id.
    pub(super) fn remove(&mut self, class: Class, id: u32) -> bool {
        let index = &mut self.indexes[class as usize];
        let overflow = index.series(id).and_then(|series| {
            let kind = series.kind();
            (self.overflow[kind as usize] == Some(id)).then_some(kind)
        });
        self.is_table_open = true;
        let has_gone = index.remove(id, |key| self.hasher.hash(key));
        self.is_table_open = false;
        if !has_gone {
            return false;
        }
        if class == Class::Counter {
            self.totals.remove(&id);
        }
        self.gauge_levels.set(class, id, None);
        if let Some(watched) = &mut self.watched {
            watched.remove(class, id);
        }
        match overflow {
            Some(kind) => self.overflow[kind as usize] = None,
            None => self.options.quota.give(),
        }
        true
    }

    /// The time of the last receipt, in the seconds passed to [`Shard::ingest`]; `None` for never.
    pub fn last_heard(&self) -> Option<f64> {
        (self.heard > f64::NEG_INFINITY).then_some(self.heard)
    }

    /// The number of series in this shard.
    pub fn len(&self) -> usize {
        self.indexes.iter().map(Index::len).sum()
    }

    /// Whether the shard has no series.
    #[cfg(feature = "internals")]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[inline]
    pub(super) fn kind_of(&self, kind: Kind) -> Kind {
        kind_as(kind, self.options.fold_histograms)
    }
}

/// The error of a line whose timestamp is not accepted, at its last field that begins with `mark`.
#[cold]
pub fn bad_time(line: &[u8], mark: &[u8]) -> ParseError {
    let (mut at, mut place) = (0, 0);
    for field in line.split(|&b| b == b'|') {
        if field.starts_with(mark) {
            place = at + mark.len();
        }
        at += field.len() + 1;
    }
    ParseError::untimely(place)
}

/// The timestamp and the value of a sample that is kept apart from the interval: a counter, or a gauge that is set. An
/// adjustment makes no sense at a time that has passed.
pub(super) fn own_time(metric: &Metric<'_>, kind: Kind) -> Option<(f64, f64)> {
    let time = metric.timestamp?.get() as f64;
    let value = match (class_of(kind), metric.values) {
        (Class::Counter, values @ Values::Numbers { .. }) => values.numbers().sum::<f64>() * metric.rate.weight(),
        (Class::Gauge, values) => match values.gauge().last() {
            Some((GaugeOp::Set, value)) => value,
            _ => return None,
        },
        _ => return None,
    };
    value.is_finite().then_some((time, value))
}

/// A value in the unit that a rule makes of it.
#[inline]
fn scaled(value: f64, scale: f64) -> f64 {
    if scale == 1.0 { value } else { (value * scale).clamp(f64::MIN, f64::MAX) }
}

/// The last value of a metric that is a number.
fn last_number(metric: &Metric<'_>) -> Option<f64> {
    match metric.values {
        Values::Numbers { .. } | Values::Total(_) => metric.values.numbers().last(),
        Values::Gauge { .. } => metric.values.gauge().last().map(|(_, value)| value),
        Values::Member(_) => None,
    }
}

/// The kind of a sample's series: a meter is a counter, and with the profile `etsy` histograms and distributions are
/// timers.
#[inline]
pub fn kind_as(kind: Kind, fold_histograms: bool) -> Kind {
    match kind {
        Kind::Meter => Kind::Counter,
        Kind::Histogram | Kind::Distribution if fold_histograms => Kind::Timer,
        Kind::Counter | Kind::Gauge | Kind::Timer | Kind::Histogram | Kind::Distribution | Kind::Set | Kind::Kv => kind,
    }
}

/// The class that stores values of a kind.
#[inline]
pub fn class_of(kind: Kind) -> Class {
    match kind {
        Kind::Counter | Kind::Meter => Class::Counter,
        Kind::Gauge => Class::Gauge,
        Kind::Timer | Kind::Histogram | Kind::Distribution => Class::Timer,
        Kind::Set => Class::Set,
        Kind::Kv => Class::Kv,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Options;

    fn shard(max_series: usize) -> Shard {
        let quota = Quota::new(max_series);
        Shard::new(ShardOptions {
            timers: TimerPolicy::default(),
            fold_histograms: false,
            quota,
            seed: 7,
            rules: None,
            heartbeats: None,
            times: TimeWindow::ANY,
        })
    }

    fn counters(partial: &mut Partial) -> Vec<(u32, f64)> {
        let mut all = Vec::new();
        partial.columns.counters.drain(|id, sum| all.push((id, sum.value())));
        all
    }

    fn feed(shard: &mut Shard, text: &str) {
        shard.ingest(text.as_bytes(), &Options::default(), None, 0.0);
    }

    const NONE: [Vec<u32>; 5] = [const { Vec::new() }; 5];

    #[test]
    fn a_series_keeps_its_number_from_interval_to_interval() {
        let mut shard = shard(10);
        feed(&mut shard, "a:1|c\nb:1|c\na:2|c|@0.5");
        let mut first = shard.close(NONE, Columns::default());
        assert_eq!(counters(&mut first), [(0, 5.0), (1, 1.0)]);
        feed(&mut shard, "b:3|m");
        let mut second = shard.close(NONE, std::mem::take(&mut first.columns));
        assert_eq!((counters(&mut second), second.created[0].len()), (vec![(1, 3.0)], 0));
    }

    #[test]
    fn above_the_limit_new_names_fold_into_the_overflow_series() {
        let mut shard = shard(1);
        feed(&mut shard, "a:1|c\nuser.1:2|c\nuser.2:3|c\na:4|c\nt:1:2|ms");
        let mut partial = shard.close(NONE, Columns::default());
        let names: Vec<String> = partial.created[0].iter().map(|created| created.series.to_string()).collect();
        assert_eq!(names, ["a", OVERFLOW]);
        assert_eq!(counters(&mut partial), [(0, 5.0), (1, 5.0)]);
        assert_eq!(
            (partial.tally.samples.recorded, partial.tally.samples.folded, partial.tally.samples.read),
            (2, 4, 6)
        );
        assert_eq!(partial.offenders.worst(), Some(("user".into(), 2)));
    }

    const OVERFLOW: &str = super::super::limits::OVERFLOW_NAME;

    #[test]
    fn a_spelling_never_means_the_series_that_took_over_a_number() {
        let mut shard = shard(10);
        let retire = [vec![0], vec![], vec![], vec![], vec![]];
        for round in 0..3 {
            feed(&mut shard, "a:1|c|#y:2,x:1\na:2|c|#x:1,y:2\na:4|c|#y:2,x:1\nbad:-1|ms|#y:2,x:1");
            let mut partial = shard.close(NONE, Columns::default());
            assert_eq!(counters(&mut partial), [(0, 7.0)], "round {round}");
            assert_eq!(shard.close(retire.clone(), Columns::default()).retired[0], [0]);
            feed(&mut shard, "b:1|c|#z:3\nb:1|c|#z:3");
            let mut partial = shard.close(NONE, Columns::default());
            let names: Vec<String> = partial.created[0].iter().map(|created| created.series.to_string()).collect();
            assert_eq!((names, counters(&mut partial)), (vec!["b;z=3".to_string()], vec![(0, 2.0)]));
            assert_eq!(shard.close(retire.clone(), Columns::default()).retired[0], [0]);
        }
    }

    #[test]
    fn a_retired_series_makes_room_unless_it_was_touched() {
        let mut shard = shard(1);
        feed(&mut shard, "a:1|c");
        let _ = shard.close(NONE, Columns::default());
        let retire = [vec![0], vec![], vec![], vec![], vec![]];
        feed(&mut shard, "a:1|c");
        assert!(shard.close(retire.clone(), Columns::default()).retired[0].is_empty());
        assert_eq!(shard.close(retire.clone(), Columns::default()).retired[0], [0]);
        feed(&mut shard, "b:1|c");
        let mut partial = shard.close(NONE, Columns::default());
        assert_eq!((partial.tally.samples.folded, counters(&mut partial)), (0, vec![(0, 1.0)]));
    }

    #[test]
    fn a_shard_that_receives_nothing_removes_all_that_is_to_leave_and_what_was_cached_of_it() {
        let many = 3 * RETIRED_AT_CLOSE;
        let retire = || [(0..many as u32).collect(), vec![], vec![], vec![], vec![]];
        let filled = || {
            let mut shard = shard(2 * many);
            (0..many).for_each(|n| feed(&mut shard, &format!("a{n}:1|c|#z:1,a:{n}")));
            let _ = shard.close(NONE, Columns::default());
            shard
        };
        let mut idle = filled();
        let full = idle.held_bytes().series_keys;
        assert_eq!(idle.close(retire(), Columns::default()).retired[0].len(), many);
        assert!(idle.held_bytes().series_keys < full / 20, "{} of {full}", idle.held_bytes().series_keys);
        // One that has much to receive is not held up for so long.
        let mut busy = filled();
        (0..many).for_each(|n| feed(&mut busy, &format!("b{}:1|c", n % 10)));
        assert_eq!(busy.close(retire(), Columns::default()).retired[0].len(), RETIRED_AT_CLOSE);
    }

    #[test]
    fn frames_are_found_by_lengths_that_fit() {
        let frame = |length: usize, text: &str| [&(length as u32).to_le_bytes()[..], text.as_bytes()].concat();
        let long = format!("{}:1|c", "n".repeat(600));
        for (line, expected) in [
            (frame(9, "hello:1|c"), true),
            (frame(9, "hello:1|c").repeat(2)[4..].to_vec(), true),
            (frame(long.len(), &long), true),
            (frame(512, &long), true),
            (frame(90, "hello:1|c"), false),
            (frame(0, "hello:1|c"), false),
            (b"hello\0:1|c".to_vec(), false),
            (b"hello\0\0\0\0\0".to_vec(), false),
            (Vec::new(), false),
        ] {
            assert_eq!(has_frames(&line), expected, "{line:?}");
        }
    }
}
