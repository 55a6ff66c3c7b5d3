//! The registry of all series, over all shards: closes intervals into snapshots, holds gauges and idle series, and decides
//! which series are retired.
//!
//! Each shard has dense ids for its series. The registry maps them to its own once, when a series is new, so that a flush
//! only indexes arrays.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::aggregate::rules::{NO_RULE, Rule, Rules};
use crate::aggregate::{Class, Gauge, Members, Partial, SeriesOverrides, Sum, Timer};
use crate::memory::{Holder, Holding, Memory};
use crate::presence::{self, Reading};
use crate::protocol::Kind;
use crate::series::Series;
use crate::snapshot::{
    CounterPoint, Deletion, GaugePoint, KvPoint, SetPoint, Snapshot, SnapshotOverrides, SummaryPolicy, TimerPoint,
    merge_timestamped,
};
use crate::telemetry::{Ledger, Limit, SeriesAccount, Tally};

use super::gauges::{self, HeldGauges};
use super::multi_interval::MultiInterval;
use super::own_shard::OwnShard;
use super::prefixes::Prefixes;
use super::series_table::{SeriesTable, Slot};

/// Intervals for which series that occurred in one only leave early after new ones found no room in memory, and after how
/// many idle ones they do.
const EARLY_INTERVALS: f64 = 10.0;
const IDLE_INTERVALS: f64 = 2.0;

/// Share of an interval that a series may leave early: ticks come a moment sooner or later, and without this it would be
/// chance whether a lifetime of whole intervals ends with one tick or with the next.
pub(crate) const JITTER: f64 = 0.2;

/// Most deletions of an interval that are passed on to sinks.
const MOST_DELETIONS: usize = 10_000;

/// How long a gauge without updates is re-emitted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum GaugeLife {
    /// For ever.
    #[default]
    Forever,
    /// Until this many seconds have passed since its last update.
    Secs(f64),
    /// In this many flushes after its last update.
    Flushes(u32),
}

/// Which series of its own the daemon adds.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum SelfMetrics {
    /// None.
    #[default]
    Off,
    /// The ledger as `systole.*`.
    Ledger,
    /// The original's, under this prefix (`statsd`); `lag` adds its `timestamp_lag`.
    Etsy {
        /// The original's `prefixStats`.
        prefix: Arc<str>,
        /// Whether times of the flush are included, which differ from run to run.
        lag: bool,
    },
}

/// How intervals are closed. By default every series is kept for ever, as it came, and none is added.
#[derive(Clone, Debug, Default)]
pub struct RegistryOptions {
    /// How timers are summarised.
    pub summary: Arc<SummaryPolicy>,
    /// Emit zeros for idle counters, timers, sets.
    pub zero_when_idle: [bool; 3],
    /// How long gauges are re-emitted.
    pub gauge_life: GaugeLife,
    /// Seconds after which an idle series is retired, by class; `None` is never.
    pub series_ttl_secs: [Option<f64>; 5],
    /// Before every name.
    pub prefix: String,
    /// Added to every series that does not have the key.
    pub tags: Vec<(String, String)>,
    /// Rates are per second of this length instead of the measured one.
    pub rate_secs: Option<f64>,
    /// The daemon's own series.
    pub self_metrics: SelfMetrics,
    /// Settings of single series.
    pub rules: Option<Arc<Rules>>,
    /// Others merge the intervals with those of other nodes: an interval has what was received in it and nothing more. Gauges
    /// are in it if they were updated, with their adjustments, and whatever goes over intervals is left to who merges them:
    /// gauges that stand, idle series, series with longer intervals. Of the own series there are only the original's counters,
    /// which add up.
    pub is_partial: bool,
}

impl RegistryOptions {
    /// Whether idle series of a class are emitted.
    pub fn emits_idle(&self, class: Class) -> bool {
        !self.is_partial
            && match class {
                Class::Counter => self.zero_when_idle[0],
                Class::Timer => self.zero_when_idle[1],
                Class::Set => self.zero_when_idle[2],
                Class::Gauge => true,
                Class::Kv => false,
            }
    }

    /// Adds the ledger as series, of which those are wanted. `before` says what sinks and relays had counted when the
    /// interval began.
    pub(crate) fn add_own_series(&self, snapshot: &mut Snapshot, before: &Ledger, is_wanted: impl Fn(&Series) -> bool) {
        if self.self_metrics != SelfMetrics::Ledger || self.is_partial {
            return;
        }
        for (series, value) in snapshot.ledger.series(before).into_iter().filter(|(series, _)| is_wanted(series)) {
            let series = series.decorated(&self.prefix, &self.tags);
            if series.kind() == Kind::Counter {
                let mut sum = Sum::default();
                sum.add(value);
                snapshot.counters.push(CounterPoint { series, sum });
            } else {
                snapshot.gauges.push(GaugePoint { series, gauge: Gauge::absolute(value, snapshot.end) });
            }
        }
    }
}

/// When an interval ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// Its end, Unix seconds.
    pub end: f64,
    /// Its measured length, seconds.
    pub length_secs: f64,
    /// Its end on a clock that never steps, seconds.
    pub now: f64,
    /// Number of the tick that ended it: the configured intervals since 1970.
    pub tick: u64,
    /// Whether it is the last one: everything pending is flushed.
    pub is_last: bool,
}

impl Interval {
    /// An interval that ended on a tick.
    pub fn new(end: f64, length_secs: f64, now: f64, configured: Duration) -> Interval {
        let tick = (end / configured.as_secs_f64()).round().max(0.0) as u64;
        Interval { end, length_secs, now, tick, is_last: false }
    }

    /// The last interval, which ends at any time: its tick is the last one that has passed.
    pub fn last(end: f64, length_secs: f64, now: f64, configured: Duration) -> Interval {
        let tick = (end / configured.as_secs_f64()).floor().max(0.0) as u64;
        Interval { tick, is_last: true, ..Interval::new(end, length_secs, now, configured) }
    }
}

/// The series of all shards.
#[derive(Debug)]
pub struct Registry {
    pub(super) options: RegistryOptions,
    pub(super) sequence: u64,
    pub(super) tables: [SeriesTable; 5],
    pub(super) gauges: HeldGauges,
    overrides: Arc<HashMap<Series, u32>>,
    pub(super) multi_interval: MultiInterval,
    pub(super) deleted: Vec<Deletion>,
    pub(super) prefixes: Prefixes,
    /// When the last interval ended, and how long it was.
    pub(super) last_close: f64,
    pub(super) last_length: f64,
    /// Its tables, and the gauges.
    held: Option<(Holding, Holding)>,
    /// Until when series leave early that occurred in one interval only, and after how many idle seconds.
    pub(super) early: Option<(f64, f64)>,
    /// What was restored, and what was taken out of the open interval before its end.
    pub(super) own: OwnShard,
    has_closed: bool,
    /// Whether points of longer intervals stay when the last interval is closed: they are saved.
    keeps_longer: bool,
}

impl Registry {
    /// A registry for `shards` shards.
    pub fn new(options: RegistryOptions, shards: usize) -> Registry {
        let tables = std::array::from_fn(|_| SeriesTable::new(shards));
        Registry {
            options,
            sequence: 0,
            tables,
            gauges: HeldGauges::default(),
            overrides: Arc::default(),
            multi_interval: MultiInterval::default(),
            deleted: Vec::new(),
            prefixes: Prefixes::default(),
            last_close: f64::NEG_INFINITY,
            last_length: 0.0,
            held: None,
            early: None,
            own: OwnShard::new(shards),
            has_closed: false,
            keeps_longer: false,
        }
    }

    /// Closes intervals in another way from now on. Series keep what they are until they are created again: those with a rule of
    /// before keep it, wherever the new rules have one of the same pattern and settings or not.
    pub fn change(&mut self, options: RegistryOptions) {
        let is_renamed = options.prefix != self.options.prefix || options.tags != self.options.tags;
        let has_other_rules = options.rules != self.options.rules;
        let before = std::mem::replace(&mut self.options, options);
        if has_other_rules {
            self.change_rules(before.rules);
        }
        if is_renamed {
            self.tables.iter_mut().for_each(|table| table.decorate(&self.options));
        }
        if is_renamed || has_other_rules {
            let (options, tables) = (&self.options, &self.tables);
            let seen = tables.iter().flat_map(|table| table.ids().map(move |id| (table, id)));
            let seen = seen.filter(|(table, id)| is_shown(options, table.rule_of(*id)));
            self.overrides = Arc::new(seen.map(|(table, id)| (table.shown(id), table.rule_of(id))).collect());
        }
    }

    /// Numbers rules anew. Those of before that series still have, and that are not among the new ones, follow these and match
    /// nothing.
    fn change_rules(&mut self, before: Option<Arc<Rules>>) {
        let now = self.options.rules.take();
        let now = now.as_deref().map_or(&[][..], Rules::all);
        let mut numbers: HashMap<u32, u32> = HashMap::new();
        let mut left = Vec::new();
        let used: BTreeSet<u32> =
            self.tables.iter().flat_map(SeriesTable::used_rules).chain(self.multi_interval.used_rules()).collect();
        for old in used {
            let Some(rule) = before.as_ref().and_then(|rules| rules.all().get(old as usize)) else { continue };
            let is_same = |new: &Rule| rule.is_same_for_series(new);
            let number = now.iter().position(is_same).unwrap_or_else(|| {
                left.push(rule.overrides.clone());
                now.len() + left.len() - 1
            });
            numbers.insert(old, number as u32);
        }
        let number = |old: u32| numbers.get(&old).copied().unwrap_or(NO_RULE);
        self.tables.iter_mut().for_each(|table| table.renumber(number));
        self.multi_interval.renumber(|_, old| numbers.get(&old).copied());
        let rules = Rules::new(now.to_vec()).followed_by(left);
        self.options.rules = (!rules.all().is_empty()).then(|| Arc::new(rules));
    }

    /// Gives what is new in a partial the numbers that rules have now: those of its shard are from before a change.
    pub fn number_anew(&self, partial: &mut Partial, rules: Option<&Rules>) {
        let before = rules.map_or(&[][..], Rules::all);
        let now = self.options.rules.as_deref().map_or(&[][..], Rules::all);
        let number = |rule: &mut u32| {
            let old = before.get(*rule as usize);
            let at = old.and_then(|old| now.iter().position(|new| old.is_same_for_series(new)));
            *rule = at.map_or(NO_RULE, |at| at as u32);
        };
        partial.created.iter_mut().flatten().for_each(|created| number(&mut created.rule));
        partial.timestamped.iter_mut().for_each(|sample| number(&mut sample.rule));
    }

    /// Series that are created again take the rule that they come with: their shards have begun anew.
    pub fn expect_other_rules(&mut self) {
        self.tables.iter_mut().for_each(|table| table.renumber(|rule| rule));
    }

    /// Puts the shards into another order: for each place the one that it comes from, `None` for a new one. The series of one that
    /// is left out are those of the registry itself, until another shard has them or their time is over.
    pub fn arrange(&mut self, order: &[Option<usize>]) {
        self.tables.iter_mut().for_each(|table| table.arrange(order));
        self.own.set_number(order.len());
    }

    /// Publishes what it holds in this memory.
    #[must_use]
    pub fn in_memory(self, memory: &Memory) -> Registry {
        Registry { held: Some((memory.holding(Holder::SeriesKeys), memory.holding(Holder::Values))), ..self }
    }

    /// Lets room go that nobody needs any more, and publishes what is held.
    fn shrink(&mut self) {
        for class in Class::ALL {
            let used = self.tables[class as usize].shrink();
            if let (Some(used), Class::Gauge) = (used, class) {
                self.gauges.shrink(used);
            }
        }
        if let Some((keys, values)) = &self.held {
            keys.set(self.tables.iter().map(SeriesTable::heap_bytes).sum::<usize>() as u64);
            values.set((self.gauges.heap_bytes() + self.own.heap_bytes()) as u64);
        }
    }

    /// An interval with nothing in it, under the number of the last one.
    pub fn empty(&self, end: f64, length_secs: f64) -> Snapshot {
        Snapshot {
            sequence: self.sequence,
            end,
            interval_secs: length_secs,
            rate_secs: self.options.rate_secs.unwrap_or(length_secs),
            policy: Arc::clone(&self.options.summary),
            stats_prefix: match &self.options.self_metrics {
                SelfMetrics::Etsy { prefix, .. } => Some(Arc::clone(prefix)),
                SelfMetrics::Off | SelfMetrics::Ledger => None,
            },
            ledger: Ledger { completeness: 1.0, ..Ledger::default() },
            ..Snapshot::default()
        }
    }

    /// Closes an interval: one partial of each shard, in order. Afterwards their columns are empty and can be reused by the
    /// shards. The ledger of the snapshot has lines, samples and series.
    pub fn close(&mut self, partials: &mut [Partial], interval: Interval) -> Snapshot {
        self.sequence += 1;
        let deleted = std::mem::take(&mut self.deleted);
        let mut snapshot = Snapshot { deleted, ..self.empty(interval.end, interval.length_secs) };
        // Ends are distinct, so that a series knows whether this interval touched it.
        let now = if interval.now > self.last_close { interval.now } else { self.last_close.next_up() };
        self.register(partials, &mut snapshot);
        self.let_go();
        (self.last_close, self.last_length) = (now, interval.length_secs);
        self.apply_rules(&interval, &mut snapshot);
        self.note_totals(partials);
        self.emit_counters(partials, now, &mut snapshot);
        let table = &mut self.tables[Class::Gauge as usize];
        if self.options.is_partial {
            gauges::emit_updates(table, &mut self.own, partials, now, &mut snapshot);
        } else {
            self.gauges.emit(table, &mut self.own, partials, &self.options, now, &mut snapshot);
        }
        self.emit_timers(partials, now, &mut snapshot);
        self.emit_sets(partials, now, &mut snapshot);
        self.emit_kvs(partials, now, &mut snapshot);
        let is_slow = |rules: &Arc<Rules>| rules.all_overrides().any(|own| own.every > 1);
        let is_needed = snapshot.overrides.rules.as_ref().is_some_and(is_slow) || self.multi_interval.has_orphans();
        if !self.options.is_partial && is_needed {
            self.multi_interval.hold(&mut snapshot, &self.options.summary.timers);
        }
        if snapshot.ledger.memory.folded > 0 {
            let (until, idle) = (EARLY_INTERVALS * interval.length_secs, IDLE_INTERVALS * interval.length_secs);
            self.early = Some((now + until, idle));
        }
        self.has_closed = true;
        self.shrink();
        snapshot.ledger.series = SeriesAccount {
            counters: self.tables[Class::Counter as usize].len(),
            gauges: self.tables[Class::Gauge as usize].len(),
            timers: self.tables[Class::Timer as usize].len(),
            sets: self.tables[Class::Set as usize].len(),
            kvs: self.tables[Class::Kv as usize].len(),
        };
        snapshot
    }

    /// The first series of prefixes that were not there before the last intervals, and how many more there are.
    pub fn take_new_prefixes(&mut self) -> (Vec<Series>, u64) {
        self.prefixes.take()
    }

    /// Collects tallies, events and checks, and new and retired series.
    fn register(&mut self, partials: &mut [Partial], snapshot: &mut Snapshot) {
        let mut tally = Tally::default();
        for (shard, partial) in partials.iter_mut().enumerate() {
            tally.add(&partial.tally);
            self.register_series(shard, partial);
        }
        for (_, partial) in self.own.before(partials) {
            snapshot.events_and_checks.append(&mut partial.events_and_checks);
            for mut one in std::mem::take(&mut partial.timestamped) {
                one.series = one.series.decorated(&self.options.prefix, &self.options.tags);
                snapshot.timestamped.push(one);
            }
        }
        merge_timestamped(&mut snapshot.timestamped);
        // Another process has counted what it read of the interval.
        snapshot.ledger.add_counts(&std::mem::take(&mut self.own.ledger));
        let datagrams = snapshot.ledger.listeners.iter().map(|listener| listener.datagrams).sum::<u64>();
        snapshot.ledger.count(&tally);
        if let SelfMetrics::Etsy { prefix, lag } = &self.options.self_metrics {
            let packets = tally.listener.datagrams + tally.chunks + datagrams;
            let lines = &snapshot.ledger.lines;
            for (name, value) in [
                ("bad_lines_seen", lines.malformed.total()),
                ("packets_received", packets),
                ("metrics_received", lines.read - lines.empty),
            ] {
                let mut sum = Sum::default();
                sum.add(value as f64);
                let series = Series::new(Kind::Counter, &format!("{prefix}.{name}"), &[]);
                snapshot.counters.push(CounterPoint { series, sum });
            }
            if *lag && self.has_closed && !self.options.is_partial {
                let late = snapshot.interval_secs - snapshot.rate_secs;
                let series = Series::new(Kind::Gauge, &format!("{prefix}.timestamp_lag"), &[]);
                snapshot.gauges.push(GaugePoint { series, gauge: Gauge::absolute(late, snapshot.end) });
            }
        }
    }

    /// Takes in which series a shard has removed, and which are new.
    pub(super) fn register_series(&mut self, shard: usize, partial: &mut Partial) {
        for class in Class::ALL {
            // What is done here is not done again, should this be tried a second time.
            for id in std::mem::take(&mut partial.retired[class as usize]) {
                self.release(class, shard, id);
            }
            for created in std::mem::take(&mut partial.created[class as usize]) {
                let Some(id) = self.tables[class as usize].register(shard, created, &self.options) else { continue };
                self.prefixes.see(&self.tables[class as usize].shown(id));
                self.note_rule(class, id);
            }
        }
    }

    /// A shard does not hold a series any more.
    fn release(&mut self, class: Class, shard: usize, local: u32) {
        let Some(gone) = self.tables[class as usize].release(shard, local) else { return };
        if self.overrides.contains_key(&gone.shown) {
            Arc::make_mut(&mut self.overrides).remove(&gone.shown);
        }
        if class == Class::Gauge {
            self.gauges.forget(gone.id);
        }
        if class == Class::Counter {
            self.own.totals.remove(&gone.id);
        }
    }

    /// Tells snapshots of the rule of a series, if they need it.
    pub(super) fn note_rule(&mut self, class: Class, id: u32) {
        let table = &self.tables[class as usize];
        let (shown, rule) = (table.shown(id), table.rule_of(id));
        if is_shown(&self.options, rule) {
            Arc::make_mut(&mut self.overrides).insert(shown, rule);
        } else if self.overrides.contains_key(&shown) {
            Arc::make_mut(&mut self.overrides).remove(&shown);
        }
    }

    /// Lets series go that are held for what was restored alone: others hold them by now, or their time is over.
    fn let_go(&mut self) {
        if self.tables.iter().all(|table| table.owned() == 0) {
            return;
        }
        let shard = self.tables[0].own_shard();
        let over = self.retirements(shard, self.last_close);
        for (class, mut gone) in Class::ALL.into_iter().zip(over) {
            gone.extend(self.tables[class as usize].owned_by_others());
            gone.sort_unstable();
            gone.dedup();
            for id in gone {
                if !self.own.partial.columns.is_touched(class, id) {
                    self.release(class, shard, id);
                }
            }
        }
    }

    /// Adds the rules' settings for the series of this interval.
    fn apply_rules(&mut self, interval: &Interval, snapshot: &mut Snapshot) {
        let Some(rules) = &self.options.rules else { return };
        let periods = rules.all_overrides().map(|overrides| overrides.every);
        let rate_secs = self.options.rate_secs.unwrap_or(interval.length_secs);
        let interval = Interval { is_last: interval.is_last && !self.keeps_longer, ..*interval };
        let lengths = match self.options.is_partial {
            true => Vec::new(),
            false => self.multi_interval.tick(periods, &interval, rate_secs),
        };
        snapshot.overrides = SnapshotOverrides {
            lengths,
            rules: Some(Arc::clone(rules)),
            of: Arc::clone(&self.overrides),
            ..SnapshotOverrides::default()
        };
    }

    fn emit_counters(&mut self, partials: &mut [Partial], now: f64, snapshot: &mut Snapshot) {
        let (table, points) = (&mut self.tables[Class::Counter as usize], &mut snapshot.counters);
        points.reserve_exact(most(partials, |partial| partial.columns.counters.len()));
        for (shard, partial) in self.own.before(partials) {
            partial.columns.counters.drain(|id, sum: Sum| match table.slot(shard, id, now, points.len()) {
                Slot::Taken(at) => points[at].sum.merge(sum),
                Slot::New(series) => points.push(CounterPoint { series, sum }),
            });
        }
        if self.options.emits_idle(Class::Counter) {
            points.extend(table.idle(now).map(|series| CounterPoint { series, sum: Sum::default() }));
        }
    }

    fn emit_timers(&mut self, partials: &mut [Partial], now: f64, snapshot: &mut Snapshot) {
        let (table, points) = (&mut self.tables[Class::Timer as usize], &mut snapshot.timers);
        let (options, policy) = (&self.options, self.options.summary.timers);
        points.reserve_exact(most(partials, |partial| partial.columns.timers.len()));
        for (shard, partial) in self.own.before(partials) {
            partial.columns.timers.drain(|id, timer: Timer| match table.slot(shard, id, now, points.len()) {
                Slot::Taken(at) => {
                    let own = overrides(options, table.rule_of(table.id_of(shard, id)));
                    points[at].timer.merge(&timer, &policy.of(own));
                }
                Slot::New(series) => points.push(TimerPoint { series, timer: timer.compact() }),
            });
        }
        // Here once, not in every sink.
        points.iter_mut().for_each(|point| point.timer.sort());
        if self.options.emits_idle(Class::Timer) {
            points.extend(table.idle(now).map(|series| TimerPoint { series, timer: Timer::default() }));
        }
    }

    fn emit_sets(&mut self, partials: &mut [Partial], now: f64, snapshot: &mut Snapshot) {
        let (table, points) = (&mut self.tables[Class::Set as usize], &mut snapshot.sets);
        for (shard, partial) in self.own.before(partials) {
            partial.columns.sets.drain(|id, members: Members| match table.slot(shard, id, now, points.len()) {
                Slot::Taken(at) => points[at].members.merge(&members),
                Slot::New(series) => points.push(SetPoint { series, members }),
            });
        }
        if self.options.emits_idle(Class::Set) {
            points.extend(table.idle(now).map(|series| SetPoint { series, members: Members::default() }));
        }
    }

    /// The bound of values is that of all shards together, as with the samples of timers.
    fn emit_kvs(&mut self, partials: &mut [Partial], now: f64, snapshot: &mut Snapshot) {
        let (table, points) = (&mut self.tables[Class::Kv as usize], &mut snapshot.kvs);
        let most = self.options.summary.timers.exact_samples;
        let own = table.own_shard();
        for (shard, partial) in self.own.before(partials) {
            let mut left_out = 0;
            partial.columns.kvs.drain(|id, values: Vec<f64>| match table.slot(shard, id, now, points.len()) {
                Slot::Taken(at) => {
                    points[at].values.extend(values);
                    left_out += points[at].keep(most);
                }
                Slot::New(series) => {
                    let mut point = KvPoint { series, values };
                    left_out += point.keep(most);
                    points.push(point);
                }
            });
            // What our own shard has is in the tallies of the others.
            if shard != own {
                partial.tally.samples.limit_recorded(Limit::KvValues, left_out);
            }
            snapshot.ledger.samples.limit_recorded(Limit::KvValues, left_out);
        }
    }

    /// Adds presence's series and events.
    pub fn add_presence(&self, snapshot: &mut Snapshot, readings: Vec<Reading>, events: Vec<presence::Event>) {
        snapshot.presence = events;
        for reading in readings {
            let Reading { value, counts, .. } = reading;
            let series = reading.series().decorated(&self.options.prefix, &self.options.tags);
            if counts {
                let mut sum = Sum::default();
                sum.add(value);
                snapshot.counters.push(CounterPoint { series, sum });
            } else {
                snapshot.gauges.push(GaugePoint { series, gauge: Gauge::absolute(value, snapshot.end) });
            }
        }
    }

    /// Adds to what presence counts in an interval, after [`Registry::add_presence`].
    pub fn add_counted(&self, snapshot: &mut Snapshot, counted: Vec<(Series, f64)>) {
        for (series, value) in counted {
            let series = series.decorated(&self.options.prefix, &self.options.tags);
            // Those of presence are the last ones.
            match snapshot.counters.iter_mut().rev().find(|point| point.series == series) {
                Some(point) => point.sum.add(value),
                None => {
                    let mut sum = Sum::default();
                    sum.add(value);
                    snapshot.counters.push(CounterPoint { series, sum });
                }
            }
        }
    }

    /// Adds the ledger as series, once it is complete. `before` says what sinks and relays had counted when the
    /// interval began.
    pub fn add_own_series(&self, snapshot: &mut Snapshot, before: &Ledger) {
        self.options.add_own_series(snapshot, before, |_| true);
    }

    /// Which series of its own the daemon adds.
    pub fn self_metrics(&self) -> &SelfMetrics {
        &self.options.self_metrics
    }

    /// Whether idle series of a class are emitted.
    pub fn emits_idle(&self, class: Class) -> bool {
        self.options.emits_idle(class)
    }

    /// A gauge at the end of the last interval, if it is still held.
    pub fn held_gauge(&self, series: &Series) -> Option<Gauge> {
        let id = self.tables[Class::Gauge as usize].find(series)?;
        self.gauges.get(id)
    }

    /// Removes a gauge.
    pub fn forget_gauge(&mut self, series: &Series) {
        if let Some(id) = self.tables[Class::Gauge as usize].find(series) {
            self.gauges.forget(id);
        }
    }

    /// Removes what was taken out of the open interval of a series before its end.
    pub fn forget_open(&mut self, class: Class, series: &Series) {
        if let Some(id) = self.tables[class as usize].find(series) {
            self.own.partial.columns.forget(class, id);
        }
    }

    /// Has points of longer intervals stay when the last interval is closed, or not: who keeps them saves them.
    pub fn keep_longer(&mut self, keeps: bool) {
        self.keeps_longer = keeps;
    }

    /// Records deletions, which sinks get with the open interval; `false` if there are too many.
    pub fn delete(&mut self, deletions: impl IntoIterator<Item = Deletion>) -> bool {
        for deletion in deletions {
            if self.deleted.len() >= MOST_DELETIONS {
                return false;
            }
            self.deleted.push(deletion.decorated(&self.options.prefix, &self.options.tags));
        }
        true
    }

    /// Seconds after which an idle series of a class leaves that occurred in one interval only, where new series found no room
    /// in memory lately. Those that are flushed while they are idle stay.
    fn early(&self, class: Class, now: f64) -> Option<f64> {
        let (until, idle) = self.early?;
        (now < until && class != Class::Gauge && !self.emits_idle(class)).then_some(idle)
    }

    /// Ids of a shard's series that have been idle for their lifetime, by class.
    pub fn retirements(&self, shard: usize, now: f64) -> [Vec<u32>; 5] {
        std::array::from_fn(|class| {
            let (ttl, early) = (self.options.series_ttl_secs[class], self.early(Class::ALL[class], now));
            let is_ruled =
                self.options.rules.as_ref().is_some_and(|rules| rules.all_overrides().any(|t| t.ttl.is_some()));
            if ttl.is_none() && early.is_none() && !is_ruled {
                return Vec::new();
            }
            let table = &self.tables[class];
            let ttl_of = |id: u32| match overrides(&self.options, table.rule_of(id)).and_then(|own| own.ttl) {
                Some(own) => own,
                None => match early {
                    Some(idle) if !table.is_established(id) => Some(ttl.map_or(idle, |ttl| ttl.min(idle))),
                    Some(_) | None => ttl,
                },
            };
            let stands = |id: u32| class == Class::Gauge as usize && self.gauges.get(id).is_some();
            table
                .idle_at(shard, now + JITTER * self.last_length, ttl_of)
                .filter(|&(_, id)| !stands(id))
                .map(|(local, _)| local)
                .collect()
        })
    }
}

/// Whether the overrides of a rule concern those who get intervals.
fn is_shown(options: &RegistryOptions, rule: u32) -> bool {
    let Some(rules) = options.rules.as_ref().filter(|_| rule != NO_RULE) else { return false };
    rules.is_seen(rule) || (options.is_partial && rules.overrides(rule).is_some())
}

pub(super) fn overrides(options: &RegistryOptions, rule: u32) -> Option<&SeriesOverrides> {
    if rule == NO_RULE { None } else { options.rules.as_ref()?.overrides(rule) }
}

/// The most points that partials can give: the number of their cells.
fn most(partials: &[Partial], cells: impl Fn(&Partial) -> usize) -> usize {
    partials.iter().map(cells).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::rules::Rule;
    use crate::aggregate::{Columns, GaugePolicy, Shard};
    use crate::protocol::{GaugeOp, Options};
    use crate::rollup::fixture;

    struct Fixture {
        shards: Vec<Shard>,
        registry: Registry,
        spare: Vec<Columns>,
        now: f64,
    }

    impl Fixture {
        fn new(shards: usize, change: impl FnOnce(&mut RegistryOptions)) -> Fixture {
            let mut options = RegistryOptions {
                gauge_life: GaugeLife::Secs(30.0),
                series_ttl_secs: [Some(60.0); 5],
                ..RegistryOptions::default()
            };
            change(&mut options);
            Fixture {
                shards: fixture::shards(shards, &options, 100),
                registry: Registry::new(options, shards),
                spare: Vec::new(),
                now: 0.0,
            }
        }

        fn feed(&mut self, shard: usize, text: &str) {
            let now = self.now;
            self.shards[shard].ingest(text.as_bytes(), &Options::default(), None, now);
        }

        /// Closes an interval, and has the own series added.
        fn close_part(&mut self) -> Snapshot {
            let mut partials = fixture::close(&mut self.shards, &self.registry, self.now, &mut Vec::new());
            self.now += 10.0;
            let interval = Interval::new(self.now, 10.0, self.now, Duration::from_secs(10));
            let mut snapshot = self.registry.close(&mut partials, interval);
            self.registry.add_own_series(&mut snapshot, &Ledger::default());
            snapshot
        }

        fn close(&mut self) -> Vec<String> {
            let mut partials = fixture::close(&mut self.shards, &self.registry, self.now, &mut self.spare);
            self.now += 10.0;
            let snapshot =
                self.registry.close(&mut partials, Interval::new(self.now, 10.0, self.now, Duration::from_secs(10)));
            assert_eq!(snapshot.ledger.check(), Ok(()));
            self.spare.extend(partials.into_iter().map(|p| p.columns));
            let mut all: Vec<String> = snapshot
                .counters
                .iter()
                .map(|p| format!("{} {}", p.series, p.sum.value()))
                .chain(snapshot.gauges.iter().map(|p| format!("{} {}", p.series, p.gauge.value())))
                .chain(snapshot.sets.iter().map(|p| format!("{} {}", p.series, p.members.count())))
                .chain(
                    snapshot
                        .timers
                        .iter()
                        .map(|p| format!("{} {}/{}", p.series, p.timer.totals().sum, p.timer.samples())),
                )
                .collect();
            all.sort();
            all
        }
    }

    #[test]
    fn shards_are_put_together() {
        let mut fixture = Fixture::new(2, |_| {});
        fixture.feed(0, "a:1|c\ng:5|g\nt:1|ms\ns:x|s");
        fixture.feed(1, "b:1|c\na:2|c\ng:+1|g\nt:2|ms\ns:x|s\ns:y|s");
        assert_eq!(fixture.close(), ["a 3", "b 1", "g 6", "s 2", "t 3/2"]);
        fixture.feed(1, "a:1|c\nt:5|ms");
        assert_eq!(fixture.close(), ["a 1", "g 6", "t 5/1"]);
    }

    #[test]
    fn a_rule_gives_its_digits_to_what_shards_have_together() {
        let overrides = SeriesOverrides { digits: Some(5), ..SeriesOverrides::default() };
        let rule = Rule { pattern: "fine".into(), overrides, ..Rule::default() };
        let mut fixture = Fixture::new(2, |options| options.rules = Some(Arc::new(Rules::new(vec![rule]))));
        // Exact in each shard, and too many in both.
        let samples = |name: &str| (0..3000).map(|n| format!("{name}:{}|ms\n", 1.0 + f64::from(n))).collect::<String>();
        for shard in 0..2 {
            fixture.feed(shard, &samples("fine"));
            fixture.feed(shard, &samples("plain"));
        }
        let mut partials: Vec<Partial> =
            fixture.shards.iter_mut().map(|shard| shard.close([const { Vec::new() }; 5], Columns::default())).collect();
        let interval = Interval::new(10.0, 10.0, 10.0, Duration::from_secs(10));
        let snapshot = fixture.registry.close(&mut partials, interval);
        for (name, bound) in [("fine", 0.00001), ("plain", 0.001)] {
            let point = snapshot.timers.iter().find(|point| point.series.name() == name).expect("it was sent");
            let sorted = point.timer.sorted();
            let worst = sorted.iter().map(|(value, _)| (value / value.round() - 1.0).abs()).fold(0.0, f64::max);
            assert!(!point.timer.is_exact() && worst <= bound && worst > bound / 10.0, "{name}: {worst}");
        }
    }

    #[test]
    fn shards_keep_as_many_values_of_a_pair_together_as_one_does() {
        let values = |name: &str, count: usize| format!("{name}:1|kv\n").repeat(count);
        let mut fixture = Fixture::new(2, |_| {});
        fixture.feed(0, &(values("k", 3000) + &values("few", 10)));
        fixture.feed(1, &(values("k", 5000) + &values("few", 20)));
        let snapshot = fixture.close_part();
        let kept: Vec<_> = snapshot.kvs.iter().map(|point| (point.series.name(), point.values.len())).collect();
        assert_eq!(kept, [("k", 4096), ("few", 30)]);
        let samples = &snapshot.ledger.samples;
        let limited = samples.limited.of(Limit::KvValues);
        assert_eq!((samples.read, samples.recorded, limited, snapshot.ledger.check()), (8030, 4126, 3904, Ok(())));
    }

    #[test]
    fn a_gauge_stands_until_its_time_is_over() {
        let mut fixture = Fixture::new(1, |_| {});
        fixture.feed(0, "g:5|g");
        assert_eq!(fixture.close(), ["g 5"]);
        fixture.feed(0, "g:+1|g");
        assert_eq!(fixture.close(), ["g 6"]);
        assert_eq!(
            [fixture.close(), fixture.close(), fixture.close()],
            [vec!["g 6".to_string()], vec!["g 6".into()], vec![]]
        );
        fixture.feed(0, "g:+1|g");
        assert_eq!(fixture.close(), ["g 1"]);
    }

    #[test]
    fn idle_series_are_zero_where_that_is_wanted_and_leave_after_their_time() {
        let mut fixture = Fixture::new(2, |options| options.zero_when_idle = [true; 3]);
        fixture.feed(0, "a:1|c");
        fixture.feed(1, "a:1|c\nt:1|ms");
        assert_eq!(fixture.close(), ["a 2", "t 1/1"]);
        let mut rounds = 0;
        while !fixture.close().is_empty() {
            rounds += 1;
            assert!(rounds < 20);
        }
        assert_eq!(rounds, 6);
        fixture.feed(0, "b:1|c");
        assert_eq!(fixture.close(), ["b 1"]);
        assert!(fixture.shards.iter().map(Shard::len).sum::<usize>() == 1);
    }

    #[test]
    fn prefix_and_tags_go_on_every_series() {
        let mut fixture = Fixture::new(1, |options| {
            options.prefix = "p.".into();
            options.tags = vec![("host".into(), "h".into())];
        });
        fixture.feed(0, "a:1|c|#k:v\nb:1|c|#host:own");
        assert_eq!(fixture.close(), ["p.a;host=h;k=v 1", "p.b;host=own 1"]);
    }

    #[test]
    fn a_lifetime_of_whole_intervals_ends_with_a_tick_that_comes_a_moment_early() {
        let mut fixture = Fixture::new(1, |options| options.series_ttl_secs = [Some(20.0); 5]);
        fixture.feed(0, "a:1|c");
        fixture.close();
        fixture.close();
        fixture.now -= 0.5;
        fixture.close();
        assert_eq!(fixture.shards[0].len(), 1);
        fixture.close();
        assert_eq!(fixture.shards[0].len(), 0);
    }

    #[test]
    fn a_last_interval_has_the_tick_that_has_passed() {
        let tick = |end| Interval::last(end, 1.0, end, Duration::from_secs(10)).tick;
        assert_eq!([20.0, 24.9, 25.1, 29.9, 30.0].map(tick), [2, 2, 2, 2, 3]);
    }

    #[test]
    fn points_of_a_longer_interval_wait_for_its_end_though_their_series_has_left() {
        let slow = SeriesOverrides { every: 5, ..SeriesOverrides::default() };
        let rules = Arc::new(Rules::new(vec![Rule { pattern: "*".into(), overrides: slow, ..Rule::default() }]));
        let mut fixture = Fixture::new(1, |options| {
            options.series_ttl_secs = [Some(10.0); 5];
            options.rules = Some(rules);
        });
        fixture.close();
        fixture.feed(0, "c:40|c");
        let parts: Vec<Snapshot> = (0..4).map(|_| fixture.close_part()).collect();
        assert_eq!(fixture.shards[0].len(), 0);
        assert_eq!(parts.iter().map(Snapshot::len).collect::<Vec<_>>(), [0, 0, 0, 1]);
        let series = &parts[3].counters[0].series;
        assert_eq!((parts[3].interval_secs_of(series), parts[3].rate(series, 40.0)), (50.0, 0.8));
    }

    #[test]
    fn a_part_has_what_was_received_in_its_interval_and_nothing_more() {
        let rule = |pattern: &str, overrides| Rule { pattern: pattern.into(), overrides, ..Rule::default() };
        let slow = SeriesOverrides { every: 6, ..SeriesOverrides::default() };
        let largest = SeriesOverrides { gauge: GaugePolicy::Max, ..SeriesOverrides::default() };
        let renamed = Rule { rename: Some("new".into()), ..rule("old", SeriesOverrides::default()) };
        let rules = Rules::new(vec![rule("slow*", slow), rule("most", largest), renamed]);
        let mut fixture = Fixture::new(2, |options| {
            options.is_partial = true;
            options.gauge_life = GaugeLife::Forever;
            options.zero_when_idle = [true; 3];
            options.self_metrics = SelfMetrics::Ledger;
            options.rules = Some(Arc::new(rules));
            options.prefix = "p.".into();
        });
        fixture.feed(0, "g:5|g\ng:+1|g\nslow:1|c\nt:1|ms\ns:x|s\nold:2|c\nk:1|kv\nmost:9|g\nmost:3|g");
        fixture.feed(1, "g:-2|g\nonly:+3|g\nslow.t:7|ms");
        let first = fixture.close_part();
        let gauge = |snapshot: &Snapshot, name: &str| {
            snapshot.gauges.iter().find(|point| point.series.name() == name).map(|point| point.gauge)
        };
        let (mut set, mut loose) = (Gauge::absolute(5.0, 0.0), Gauge::default());
        set.apply(GaugeOp::Increase, 1.0, 0.0);
        let mut other = Gauge::default();
        other.apply(GaugeOp::Decrease, 2.0, 0.0);
        set.merge(&other);
        loose.apply(GaugeOp::Increase, 3.0, 0.0);
        assert_eq!((gauge(&first, "p.g"), gauge(&first, "p.only")), (Some(set), Some(loose)));
        let counters: Vec<_> = first.counters.iter().map(|p| (p.series.name(), p.sum.value())).collect();
        assert_eq!(counters, [("p.slow", 1.0), ("p.new", 2.0)]);
        assert_eq!((first.timers.len(), first.sets.len(), first.kvs.len()), (2, 1, 1));
        // Whoever merges the parts does with the values what the rule says.
        let most = Series::new(Kind::Gauge, "p.most", &[]);
        let levels = first.overrides.levels.get(&most).map(|levels| levels.resolved(0.0).value(GaugePolicy::Max));
        assert_eq!((levels, first.overrides.of(&most).map(|own| own.gauge)), (Some(Some(9.0)), Some(GaugePolicy::Max)));
        fixture.feed(1, "g:+1|g");
        let second = fixture.close_part();
        let mut next = Gauge::default();
        next.apply(GaugeOp::Increase, 1.0, 0.0);
        assert_eq!((gauge(&second, "p.g"), second.len()), (Some(next), 1));
        assert_eq!(fixture.close_part().len(), 0);
    }
}
