//! What a registry knows, as plain data: for another process after a restart, or for a registry of other rules. There are no ids
//! in it, and series have the names that shards know. Times are seconds before it was taken, so that any clock will do.
//!
//! A series goes to the rule that applies to the same names, tags and kinds as its old one; where there is none, it is matched
//! anew, and may get another name, or be dropped.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::aggregate::rules::{NO_RULE, RuleOutcome, RuleScope, Rules};
use crate::aggregate::{Class, EventOrCheck, Gauge, Levels, Members, Sum, Timer, TimestampedSample};
use crate::series::Series;
use crate::snapshot::Deletion;
use crate::telemetry::Ledger;

use super::gauges::{HeldGauge, HeldSpan};
use super::multi_interval::MultiInterval;
use super::registry::{Interval, Registry, RegistryOptions, overrides};

/// What goes over intervals.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SavedRegistry {
    /// Number of the last interval.
    pub sequence: u64,
    last_length: f64,
    /// Seconds for which series leave early, and after how many idle ones.
    early: Option<(f64, f64)>,
    scopes: Vec<RuleScope>,
    gauges: Vec<SavedGauge>,
    idle: Vec<SavedSeries>,
    longer: MultiInterval,
    deleted: Vec<Deletion>,
    prefixes: Vec<u64>,
}

/// A series.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct SavedSeries {
    class: Class,
    series: Series,
    rule: u32,
    /// When it was touched last.
    touched: f64,
    is_established: bool,
    /// The last total of a counter that is sent as a total.
    total: Option<f64>,
}

/// A gauge that stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct SavedGauge {
    series: SavedSeries,
    held: HeldGauge,
    span: Option<HeldSpan>,
}

/// A part of an interval that is not closed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SavedInterval {
    /// When it is to end, Unix seconds.
    pub end: f64,
    /// Number of the interval before it.
    pub sequence: u64,
    /// Its length so far, in seconds.
    pub length_secs: f64,
    /// What was counted in it.
    #[serde(with = "as_json")]
    pub ledger: Ledger,
    scopes: Vec<RuleScope>,
    counters: Vec<(Series, u32, Sum)>,
    gauges: Vec<(Series, u32, Gauge, Option<Levels>)>,
    timers: Vec<(Series, u32, Timer)>,
    sets: Vec<(Series, u32, Members)>,
    kvs: Vec<(Series, u32, Vec<f64>)>,
    timestamped: Vec<TimestampedSample>,
    events_and_checks: Vec<EventOrCheck>,
}

/// A ledger inside a format that says nothing of itself: it leaves out what is empty.
mod as_json {
    use serde::de::Error as _;
    use serde::ser::Error as _;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::telemetry::Ledger;

    pub(super) fn serialize<S: Serializer>(ledger: &Ledger, serializer: S) -> Result<S::Ok, S::Error> {
        serde_json::to_string(ledger).map_err(S::Error::custom)?.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Ledger, D::Error> {
        serde_json::from_str(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// What came back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Gauges that stand.
    pub gauges: usize,
    /// Series that had nothing in the last interval but zeros, or have a total.
    pub idle: usize,
    /// Points of longer intervals.
    pub longer: usize,
    /// Series for which there was no room, or that a rule drops.
    pub left_out: usize,
}

impl SavedRegistry {
    /// How many gauges stand, how many other series, and how many points wait for the end of a longer interval.
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.gauges.len(), self.idle.len(), self.longer.len())
    }

    /// Whether points wait for the end of a longer interval.
    pub fn has_longer(&self) -> bool {
        self.longer.len() > 0
    }

    /// Leaves points of longer intervals out; whether there were some.
    pub fn leave_out_longer(&mut self) -> bool {
        std::mem::take(&mut self.longer).len() > 0
    }
}

impl SavedRegistry {
    /// What a registry that knew this knew when it had closed an interval of which it had that, on a clock that began when this
    /// was saved. What it flushed then is gone, but for points of longer intervals: it may have ended before its tick, at a stop.
    #[must_use]
    pub fn after_closing(
        self,
        open: SavedInterval,
        interval: Interval,
        options: &RegistryOptions,
        most: usize,
    ) -> SavedRegistry {
        let mut registry = Registry::new(options.clone(), 0);
        let sequence = open.sequence.max(self.sequence);
        registry.restore(SavedRegistry { sequence, ..self }, 0.0, 0.0, most, 0);
        registry.restore_open(open);
        registry.close(&mut [], Interval { tick: interval.tick.saturating_sub(1), ..interval });
        registry.save(interval.now)
    }
}

impl SavedInterval {
    /// Series, and values that were recorded or kept apart.
    pub fn counts(&self) -> (usize, u64) {
        let series = self.counters.len() + self.gauges.len() + self.timers.len() + self.sets.len() + self.kvs.len();
        (series, self.ledger.samples.read)
    }
}

/// The numbers of rules in one configuration, found in another.
struct Renumbered<'a> {
    rules: Option<&'a Rules>,
    is_same: bool,
    /// Each with whether it drops its series.
    numbers: Vec<Option<(u32, bool)>>,
}

impl<'a> Renumbered<'a> {
    fn new(scopes: &[RuleScope], options: &'a RegistryOptions) -> Renumbered<'a> {
        let rules = options.rules.as_deref();
        let numbers = scopes.iter().map(|scope| rules?.of_scope(scope)).collect();
        Renumbered { rules, is_same: scopes == scopes_of(options), numbers }
    }

    /// What a series is called, and the number of its rule; `None` if it is dropped.
    fn find(&self, series: Series, rule: u32) -> Option<(Series, u32)> {
        if self.is_same && rule == NO_RULE {
            return Some((series, NO_RULE));
        }
        if let Some(Some((number, drops))) = self.numbers.get(rule as usize) {
            return (!drops).then_some((series, *number));
        }
        let Some(rules) = self.rules else { return Some((series, NO_RULE)) };
        match rules.verdict(&series) {
            (RuleOutcome::Same, number) => Some((series, number)),
            (RuleOutcome::Is(other), number) => Some((other, number)),
            (RuleOutcome::Dropped, _) => None,
        }
    }
}

fn scopes_of(options: &RegistryOptions) -> Vec<RuleScope> {
    options.rules.as_ref().map(|rules| rules.scopes()).unwrap_or_default()
}

impl Registry {
    /// How it closes intervals.
    pub fn options(&self) -> &RegistryOptions {
        &self.options
    }

    /// What is known at `now`, on the clock of the intervals. Of a registry that closes intervals as parts it is the sequence
    /// alone.
    pub fn save(&self, now: f64) -> SavedRegistry {
        let mut saved = SavedRegistry {
            sequence: self.sequence,
            last_length: self.last_length,
            early: self.early.map(|(until, idle)| (until - now, idle)),
            scopes: scopes_of(&self.options),
            deleted: self.deleted.clone(),
            prefixes: self.prefixes.known(),
            ..SavedRegistry::default()
        };
        if self.options.is_partial {
            return saved;
        }
        let series = |class: Class, id: u32| {
            let table = &self.tables[class as usize];
            let (series, touched, is_established) = table.known(id)?;
            let total = if class == Class::Counter { self.own.totals.get(&id).copied() } else { None };
            let (series, rule) = (series.clone(), table.rule_of(id));
            Some(SavedSeries { class, series, rule, touched: touched - now, is_established, total })
        };
        let gauges = self.gauges.all().filter_map(|(id, held, span)| {
            Some(SavedGauge { series: series(Class::Gauge, id)?, held: held.shifted(-now), span })
        });
        saved.gauges = gauges.collect();
        for class in [Class::Counter, Class::Timer, Class::Set] {
            let ids = self.tables[class as usize].ids().filter_map(|id| series(class, id));
            let emits = self.options.emits_idle(class);
            saved.idle.extend(ids.filter(|one| emits || one.total.is_some()));
        }
        saved.longer = self.multi_interval.clone();
        saved
    }

    /// Puts in what another registry knew `age_secs` ago, up to so many series; it is `now`. What is here already is later.
    /// Points of longer intervals that ended with the tick `closed` or before are left out: they were flushed.
    pub fn restore(&mut self, saved: SavedRegistry, age_secs: f64, now: f64, most: usize, closed: u64) -> Restored {
        let base = now - age_secs;
        // No interval that is closed later ends at the same instant.
        let latest = now.next_down();
        self.sequence += saved.sequence;
        self.prefixes.know(saved.prefixes);
        let later = std::mem::replace(&mut self.deleted, saved.deleted);
        self.deleted.extend(later);
        if self.last_close == f64::NEG_INFINITY {
            (self.last_close, self.last_length) = (latest, saved.last_length);
        }
        if self.early.is_none() {
            self.early = saved.early.map(|(until, idle)| (base + until, idle));
        }
        let mut restored = Restored::default();
        if self.options.is_partial {
            return restored;
        }
        let options = self.options.clone();
        let rules = Renumbered::new(&saved.scopes, &options);
        let put = |registry: &mut Registry, one: SavedSeries, restored: &mut Restored| {
            let (class, known) = (one.class, rules.find(one.series, one.rule));
            let owned: usize = registry.tables.iter().map(|table| table.owned()).sum();
            let Some((series, rule)) = known.filter(|_| owned < most) else {
                restored.left_out += 1;
                return None;
            };
            let id = registry.own_series(class, series, rule);
            registry.tables[class as usize].restore(id, (base + one.touched).min(latest), one.is_established);
            if let Some(total) = one.total {
                registry.own.totals.entry(id).or_insert(total);
            }
            Some(id)
        };
        for SavedGauge { series, held, span } in saved.gauges {
            if let Some(id) = put(self, series, &mut restored) {
                self.gauges.restore(id, held.shifted(base), span);
                restored.gauges += 1;
            }
        }
        for one in saved.idle {
            restored.idle += usize::from(put(self, one, &mut restored).is_some());
        }
        let mut longer = saved.longer;
        longer.renumber(|series, rule| {
            rules.find(series.clone(), rule).map(|(_, rule)| rule).filter(|rule| *rule != NO_RULE)
        });
        longer.drop_closed(closed, |rule| overrides(&options, rule).map_or(1, |own| own.every));
        restored.longer = longer.len();
        self.multi_interval.restore(longer, |rule| options.summary.timers.of(overrides(&options, rule)));
        restored
    }

    /// What was taken out of the open interval so far. Its owner says when it is to end, its length, and what was counted.
    pub fn save_open(&self) -> SavedInterval {
        let columns = &self.own.partial.columns;
        let named = |class: Class, id: u32| {
            let table = &self.tables[class as usize];
            table.known(id).map(|(series, ..)| (series.clone(), table.rule_of(id)))
        };
        let mut saved = SavedInterval {
            sequence: self.sequence,
            scopes: scopes_of(&self.options),
            ledger: self.own.ledger.clone(),
            timestamped: self.own.partial.timestamped.clone(),
            events_and_checks: self.own.partial.events_and_checks.clone(),
            ..SavedInterval::default()
        };
        let mut levels: HashMap<u32, Levels> = HashMap::new();
        columns.levels.each(|id, seen| _ = levels.insert(id, *seen));
        columns.counters.each(|id, sum| {
            saved.counters.extend(named(Class::Counter, id).map(|(series, rule)| (series, rule, *sum)));
        });
        columns.gauges.each(|id, gauge| {
            let seen = levels.get(&id).copied();
            saved.gauges.extend(named(Class::Gauge, id).map(|(series, rule)| (series, rule, *gauge, seen)));
        });
        columns.timers.each(|id, timer| {
            saved.timers.extend(named(Class::Timer, id).map(|(series, rule)| (series, rule, timer.clone())));
        });
        columns.sets.each(|id, members| {
            saved.sets.extend(named(Class::Set, id).map(|(series, rule)| (series, rule, members.clone())));
        });
        columns.kvs.each(|id, values| {
            saved.kvs.extend(named(Class::Kv, id).map(|(series, rule)| (series, rule, values.clone())));
        });
        saved
    }

    /// Puts in what another process had of an interval that it did not close: it comes before all that is here.
    pub fn restore_open(&mut self, saved: SavedInterval) {
        let options = self.options.clone();
        let rules = Renumbered::new(&saved.scopes, &options);
        let policy = options.summary.timers;
        self.own.ledger.unite(&saved.ledger);
        for (series, rule, sum) in saved.counters {
            let Some((series, rule)) = rules.find(series, rule) else { continue };
            let id = self.own_series(Class::Counter, series, rule);
            self.own.partial.columns.counters.touch(id).merge(sum);
        }
        for (series, rule, gauge, seen) in saved.gauges {
            let Some((series, rule)) = rules.find(series, rule) else { continue };
            let id = self.own_series(Class::Gauge, series, rule);
            let columns = &mut self.own.partial.columns;
            if seen.is_some() || columns.levels.is_touched(id) {
                let mut whole = seen.unwrap_or_default();
                let later = columns.levels.touch(id);
                whole.then(later, &gauge);
                *later = whole;
            }
            let is_first = !columns.gauges.is_touched(id);
            let later = columns.gauges.touch(id);
            let mut whole = gauge;
            if !is_first {
                whole.then(later);
            }
            *later = whole;
        }
        for (series, rule, timer) in saved.timers {
            let Some((series, rule)) = rules.find(series, rule) else { continue };
            let id = self.own_series(Class::Timer, series, rule);
            let policy = policy.of(overrides(&options, rule));
            self.own.partial.columns.timers.touch(id).merge(&timer, &policy);
        }
        for (series, rule, members) in saved.sets {
            let Some((series, rule)) = rules.find(series, rule) else { continue };
            let id = self.own_series(Class::Set, series, rule);
            self.own.partial.columns.sets.touch(id).merge(&members);
        }
        for (series, rule, mut values) in saved.kvs {
            let Some((series, rule)) = rules.find(series, rule) else { continue };
            let id = self.own_series(Class::Kv, series, rule);
            let later = self.own.partial.columns.kvs.touch(id);
            values.append(later);
            *later = values;
        }
        let stamped = saved.timestamped.into_iter().filter_map(|one| {
            let (series, rule) = rules.find(one.series, one.rule)?;
            Some(TimestampedSample { series, rule, ..one })
        });
        let later = std::mem::replace(&mut self.own.partial.timestamped, stamped.collect());
        self.own.partial.timestamped.extend(later);
        let later = std::mem::replace(&mut self.own.partial.events_and_checks, saved.events_and_checks);
        self.own.partial.events_and_checks.extend(later);
    }

    /// Holds a series for itself; its id.
    fn own_series(&mut self, class: Class, series: Series, rule: u32) -> u32 {
        let (id, is_new) = self.tables[class as usize].own_series(series, rule, &self.options);
        if is_new {
            self.note_rule(class, id);
        }
        id
    }
}

#[cfg(test)]
mod tests;
