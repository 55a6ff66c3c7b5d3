//! What an interval leaves to those after it: gauges that stand, idle series that are emitted as zeros, and points of series
//! with longer intervals. It is what a checkpoint has; equal content has equal bytes.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::aggregate::rules::NO_RULE;
use crate::aggregate::{Class, Gauge, Members, SeriesOverrides, Sum, Timer, class_of};
use crate::rollup::{GaugeLife, HeldGauge, HeldSpan, JITTER, MultiInterval, life_of};
use crate::series::{Series, by_series};
use crate::snapshot::{CounterPoint, GaugePoint, SetPoint, Snapshot, TimerPoint};

use super::Interval;
use super::interval_content::{IntervalContent, rule_of};

/// Share of an interval by which a lifetime of whole intervals may seem longer, as lengths are no whole numbers.
const ROUNDING: f64 = 1e-9;

/// What stands at the end of an interval of a partition.
#[derive(Clone, Debug, Default)]
pub struct Carried {
    state: Arc<State>,
    /// What of it is emitted in the interval. A checkpoint goes without: the next interval has its own.
    emitted: Arc<Snapshot>,
}

impl Serialize for Carried {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.state.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Carried {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Carried, D::Error> {
        let state = Arc::new(State::deserialize(deserializer)?);
        Ok(Carried { state, emitted: Arc::default() })
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct State {
    #[serde(serialize_with = "by_series")]
    gauges: HashMap<Series, StandingGauge>,
    /// Counters, timers and sets that are emitted when they are idle.
    #[serde(serialize_with = "by_series")]
    idle: HashMap<Series, Known>,
    slow: MultiInterval,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct StandingGauge {
    held: Option<HeldGauge>,
    span: Option<HeldSpan>,
    rule: u32,
}

impl Default for StandingGauge {
    fn default() -> StandingGauge {
        StandingGauge { held: None, span: None, rule: NO_RULE }
    }
}

/// A series that is emitted when it is idle.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Known {
    /// The last interval in which it was not.
    touched: Interval,
    rule: u32,
}

/// An interval that is appended.
struct Next<'a> {
    content: &'a IntervalContent,
    interval: Interval,
    points: &'a Snapshot,
    out: Snapshot,
}

impl Carried {
    /// What of it is emitted in its interval: gauges, zeros, and series whose longer interval is over. What was merged of
    /// those is not emitted by itself.
    pub(super) fn emitted(&self) -> Arc<Snapshot> {
        Arc::clone(&self.emitted)
    }

    /// Appends an interval.
    pub(super) fn follow(&mut self, content: &IntervalContent, interval: Interval, points: &Snapshot) {
        let registry = &content.options.registry;
        let state = Arc::make_mut(&mut self.state);
        let mut next = Next { content, interval, points, out: Snapshot::default() };
        if let Some(rules) = content.rules() {
            let (closed, periods) = (content.closed(interval), rules.all_overrides().map(|own| own.every));
            let rate_secs = registry.rate_secs.unwrap_or(closed.length_secs);
            next.out.overrides.lengths = state.slow.tick(periods, &closed, rate_secs);
            next.out.overrides.rules = Some(Arc::clone(rules));
        }
        next.gauges(&mut state.gauges);
        next.idle(&mut state.idle);
        next.slow(&mut state.slow);
        self.emitted = Arc::new(next.out);
    }
}

impl Next<'_> {
    fn own(&self, rule: u32) -> Option<&SeriesOverrides> {
        self.content.rules().filter(|_| rule != NO_RULE)?.overrides(rule)
    }

    fn rule(&self, series: &Series) -> u32 {
        rule_of(&self.points.overrides.of, series)
    }

    /// A length of time in intervals.
    fn intervals(&self, secs: f64) -> f64 {
        secs / self.content.options.interval_secs
    }

    /// Emits a series under its rule.
    fn name(&mut self, series: &Series, rule: u32) {
        if rule != NO_RULE {
            Arc::make_mut(&mut self.out.overrides.of).insert(series.clone(), rule);
        }
    }

    fn gauges(&mut self, known: &mut HashMap<Series, StandingGauge>) {
        let general = self.content.options.registry.gauge_life;
        let now = self.interval as f64;
        for GaugePoint { series, gauge } in &self.points.gauges {
            let known = known.entry(series.clone()).or_default();
            known.rule = self.rule(series);
            if let Some(seen) = self.points.overrides.levels.get(series) {
                let base = known.held.map_or(0.0, |held| held.value());
                known.span.get_or_insert_default().add(seen, base);
            }
            HeldGauge::update(&mut known.held, gauge, general, now);
        }
        known.retain(|series, known| {
            let Some(held) = &mut known.held else { return false };
            let own = self.own(known.rule);
            let life = match life_of(own, general) {
                GaugeLife::Secs(ttl) => GaugeLife::Secs((self.intervals(ttl) - ROUNDING).ceil()),
                other => other,
            };
            let Some(mut gauge) = held.emit(life, now) else { return false };
            if let (Some(own), Some(span)) = (own, &mut known.span)
                && let Some(value) = span.value(own.gauge, self.out.overrides.is_due(own.every))
            {
                gauge = Gauge::absolute(value, self.content.closed(held.updated() as Interval).end);
            }
            self.name(series, known.rule);
            self.out.gauges.push(GaugePoint { series: series.clone(), gauge });
            held.stays(life)
        });
    }

    fn idle(&mut self, known: &mut HashMap<Series, Known>) {
        let registry = &self.content.options.registry;
        let counters = self.points.counters.iter().map(|point| &point.series);
        let timers = self.points.timers.iter().map(|point| &point.series);
        let sets = self.points.sets.iter().map(|point| &point.series);
        for series in counters.chain(timers).chain(sets) {
            if registry.emits_idle(class_of(series.kind())) {
                known.insert(series.clone(), Known { touched: self.interval, rule: self.rule(series) });
            }
        }
        known.retain(|series, Known { touched, rule }| {
            if *touched == self.interval {
                return true;
            }
            let class = class_of(series.kind());
            let ttl = self.own(*rule).and_then(|own| own.ttl).unwrap_or(registry.series_ttl_secs[class as usize]);
            // One node retires series at the end of an interval, before it closes the next.
            let idle = self.interval.saturating_sub(*touched + 1) as f64 + JITTER;
            if ttl.is_some_and(|ttl| idle >= self.intervals(ttl)) {
                return false;
            }
            self.name(series, *rule);
            let series = series.clone();
            match class {
                Class::Counter => self.out.counters.push(CounterPoint { series, sum: Sum::default() }),
                Class::Timer => self.out.timers.push(TimerPoint { series, timer: Timer::default() }),
                Class::Set => self.out.sets.push(SetPoint { series, members: Members::default() }),
                Class::Gauge | Class::Kv => {}
            }
            true
        });
    }

    /// Puts the points of series with longer intervals to those that are held, and emits what is due.
    fn slow(&mut self, held: &mut MultiInterval) {
        let slow: Vec<u32> = self.content.slow_rules().collect();
        if slow.is_empty() {
            return;
        }
        let points = self.points;
        let is_slow = |series: &Series| slow.contains(&rule_of(&points.overrides.of, series));
        let out = &mut self.out;
        out.counters.extend(points.counters.iter().filter(|point| is_slow(&point.series)).cloned());
        out.timers.extend(points.timers.iter().filter(|point| is_slow(&point.series)).cloned());
        out.sets.extend(points.sets.iter().filter(|point| is_slow(&point.series)).cloned());
        out.kvs.extend(points.kvs.iter().filter(|point| is_slow(&point.series)).cloned());
        let own = points.overrides.of.iter().filter(|(_, rule)| slow.contains(rule));
        Arc::make_mut(&mut out.overrides.of).extend(own.map(|(series, rule)| (series.clone(), *rule)));
        held.hold(out, &self.content.options.registry.summary.timers);
    }
}
