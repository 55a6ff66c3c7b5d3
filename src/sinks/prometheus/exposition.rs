//! What Prometheus gets, built from interval to interval: counters, sums and counts continue from where they were, gauges and
//! quantiles are those of the last interval. Text format 0.0.4 and OpenMetrics 1.0 (prometheus.io, "Exposition formats";
//! the OpenMetrics specification).

use std::cell::LazyCell;
use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::aggregate::{Sum, TimestampedSample};
use crate::glob::matches;
use crate::memory::{Memory, footprint, map_footprint, tree_footprint, vec_footprint};
use crate::prometheus_text::{PrometheusText, Shape};
use crate::protocol::Kind;
use crate::series::Series;
use crate::snapshot::{Deleted, Deletion, GaugePoint, Snapshot, TimerPoint, cumulative, number};

use super::super::exponential::Exponential;
use super::super::room::{NoRoom, Room};
use super::names::{Naming, divisor, family, identity, labels};
use super::outcome::{Conflict, Outcome};
use super::protobuf;
use super::saved::Saved;

/// What one interval has alone, members of sets and quantiles, is served for so long, for scrapes may be rarer, in seconds.
const HOLD_SECS: f64 = 60.0;

/// Ends of intervals are exact to less than that, in seconds.
const MOMENT_SECS: f64 = 1e-3;

/// Size of the parts in which an answer is written, in bytes.
const PART: usize = 32 << 10;

/// How a scrape is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// Text 0.0.4.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Length-delimited protobuf.
    Protobuf,
}

/// What timers, histograms and distributions become, unless a rule gives them buckets.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Distributions {
    /// Quantiles.
    #[default]
    Summary,
    /// Quantiles, and native histograms for those who ask.
    Native,
    /// Counts at or below these bounds, which are in seconds for timers.
    Classic(Vec<f64>),
    /// Both, unless a rule gives buckets: native histograms until it turns out that the receiver does not take them.
    NativeOrClassic(Vec<f64>),
}

/// What a family and its samples are called, beside its name.
fn suffixes(shape: Shape, naming: Naming) -> &'static [&'static str] {
    match shape {
        Shape::Counter if naming == Naming::Exporter => &[""],
        Shape::Counter => &["", "_total", "_created"],
        Shape::Gauge => &[""],
        Shape::Summary => &["", "_sum", "_count", "_created"],
        Shape::Histogram => &["", "_bucket", "_sum", "_count", "_created"],
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::sinks) enum Value {
    Counter(Sum),
    /// The running sum of a counter that also falls: a gauge.
    UpDown(Sum),
    Gauge(f64),
    Timer(Box<Distribution>),
}

/// A timer, from interval to interval.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::sinks) struct Distribution {
    /// Of the last interval that had values; none if that is long ago.
    pub(in crate::sinks) quantiles: Vec<(f64, f64)>,
    /// Counts at or below each bound, as values are sent.
    pub(in crate::sinks) buckets: Vec<(Option<f64>, Sum)>,
    /// In the unit that is served: timers in seconds.
    pub(in crate::sinks) native: Option<Exponential>,
    pub(in crate::sinks) sum: Sum,
    pub(in crate::sinks) count: Sum,
}

#[derive(Clone, Debug)]
pub(in crate::sinks) struct Sample {
    pub(in crate::sinks) series: Series,
    pub(in crate::sinks) family: Arc<str>,
    /// As text.
    labels: Box<str>,
    /// End of the interval that touched it last, and start of the first, Unix seconds.
    pub(in crate::sinks) updated: f64,
    pub(in crate::sinks) created: f64,
    /// Whether that was the first.
    pub(in crate::sinks) is_new: bool,
    /// Number of the interval that touched it last.
    pub(super) sequence: u64,
    /// It is flushed in one of so many intervals.
    pub(super) every: u32,
    /// It leaves after so many seconds without an update, if its rule says so.
    pub(super) ttl_secs: Option<f64>,
    /// What it is, if its rule says so.
    pub(super) help: Option<Arc<str>>,
    naming: Naming,
    pub(in crate::sinks) value: Value,
}

#[derive(Clone, Debug)]
pub(in crate::sinks) struct Family {
    pub(in crate::sinks) shape: Shape,
    name: Arc<str>,
    /// Places of its samples, by labels as Prometheus tells them apart.
    samples: BTreeMap<Box<str>, usize>,
}

/// Everything that Prometheus gets.
#[derive(Clone, Debug, Default)]
pub struct Exposition {
    families: BTreeMap<Arc<str>, Family>,
    /// Names of samples, with the family they belong to.
    taken: HashMap<String, String>,
    samples: Vec<Option<Sample>>,
    free: Vec<usize>,
    /// Where a series' sample is: names and labels are worked out once.
    places: HashMap<Series, usize>,
    /// A counter, summary or histogram without an update leaves after so many seconds.
    ttl_secs: f64,
    /// What one interval has alone leaves after so many.
    hold_secs: f64,
    distributions: Distributions,
    /// Patterns of counters that also fall.
    updown: Vec<String>,
    naming: Naming,
    room: Room,
    /// What has left with the last interval, if anybody wants to know.
    gone: Option<Vec<Sample>>,
    /// End of the interval before the last, Unix seconds.
    before: Option<f64>,
    end: Option<f64>,
}

impl Exposition {
    /// Nothing yet.
    pub fn new(ttl_secs: f64, distributions: Distributions) -> Exposition {
        Exposition { ttl_secs, hold_secs: HOLD_SECS, distributions, ..Exposition::default() }
    }

    /// Counters with such names go up and down: they become gauges.
    #[must_use]
    pub fn updown(self, patterns: &[String]) -> Exposition {
        Exposition { updown: patterns.to_vec(), ..self }
    }

    /// What everything is called.
    #[must_use]
    pub fn named(self, naming: Naming) -> Exposition {
        Exposition { naming, ..self }
    }

    /// Whose rules names follow.
    pub(super) fn naming(&self) -> Naming {
        self.naming
    }

    /// No more than `max_series` series of senders are held, in the sinks' share of the memory.
    #[must_use]
    pub fn at_most(self, max_series: usize, memory: &Memory) -> Exposition {
        Exposition { room: Room::new(max_series, memory), ..self }
    }

    /// The memory that it is in.
    pub(super) fn memory(&self) -> &Memory {
        self.room.memory()
    }

    /// For a receiver that is sent every interval: nothing is held for scrapes, and it is noted what leaves.
    #[must_use]
    pub fn pushed(self) -> Exposition {
        Exposition { hold_secs: 0.0, gone: Some(Vec::new()), ..self }
    }

    /// Adds an interval; what of it is left out.
    pub fn apply(&mut self, snapshot: &Snapshot) -> Outcome {
        let mut outcome = Outcome::default();
        self.gone.iter_mut().for_each(|gone| *gone = Vec::new());
        self.before = self.end.replace(snapshot.end);
        self.delete(&snapshot.deleted);
        let (of_gauges, of_counters): (Vec<&TimestampedSample>, Vec<&TimestampedSample>) =
            snapshot.timestamped.iter().partition(|one| one.series.kind() == Kind::Gauge);
        let mut counters: Vec<(&Series, f64)> =
            snapshot.counters.iter().map(|point| (&point.series, point.sum.value())).collect();
        counters.extend(of_counters.into_iter().map(|one| (&one.series, one.value)));
        // Of what a gauge is, and what it was at times of their own, the latest counts.
        let known = if of_gauges.is_empty() { &[] } else { &snapshot.gauges[..] };
        let set_at: HashMap<&Series, f64> =
            known.iter().filter_map(|point| Some((&point.series, point.gauge.set_at()?))).collect();
        let (past, later): (Vec<&TimestampedSample>, Vec<&TimestampedSample>) =
            of_gauges.into_iter().partition(|one| set_at.get(&one.series).is_some_and(|at| one.time <= *at));
        let mut gauges: Vec<(&Series, f64, u64)> = past.into_iter().map(|one| (&one.series, one.value, 1)).collect();
        gauges.extend(snapshot.gauges.iter().map(|GaugePoint { series, gauge }| (series, gauge.value(), 1)));
        gauges.extend(snapshot.sets.iter().map(|point| (&point.series, point.members.count(), 1)));
        let last = |point: &'_ crate::snapshot::KvPoint| point.values.last().copied();
        let kvs = snapshot.kvs.iter();
        gauges.extend(kvs.filter_map(|point| Some((&point.series, last(point)?, point.values.len() as u64))));
        gauges.extend(later.into_iter().map(|one| (&one.series, one.value, 1)));
        for (series, value) in counters {
            self.counter(series, value, snapshot, &mut outcome);
        }
        for (series, value, records) in gauges {
            let of = || Value::Gauge(value);
            if let Some(Value::Gauge(held)) = self.sample(series, Shape::Gauge, snapshot, records, of, &mut outcome) {
                *held = value;
            }
        }
        for point in &snapshot.timers {
            self.timer(point, snapshot, &mut outcome);
        }
        self.forget(snapshot, outcome.max_series + outcome.memory);
        self.shrink();
        self.room.set(self.heap_bytes());
        outcome
    }

    /// Whether a counter is one that also falls.
    pub(super) fn is_updown(&self, series: &Series) -> bool {
        self.updown.iter().any(|pattern| matches(pattern, series.name()))
    }

    fn counter(&mut self, series: &Series, value: f64, snapshot: &Snapshot, outcome: &mut Outcome) {
        if self.is_updown(series) {
            let of = || Value::UpDown(Sum::default());
            if let Some(Value::UpDown(sum)) = self.sample(series, Shape::Gauge, snapshot, 1, of, outcome) {
                sum.add(value);
            }
            return;
        }
        if value < 0.0 {
            // Prometheus takes what falls for a restart.
            outcome.negative(series);
            return;
        }
        let of = || Value::Counter(Sum::default());
        if let Some(Value::Counter(sum)) = self.sample(series, Shape::Counter, snapshot, 1, of, outcome) {
            sum.add(value);
        }
    }

    fn timer(&mut self, point: &TimerPoint, snapshot: &Snapshot, outcome: &mut Outcome) {
        let mut summary = snapshot.summary(point);
        let values = LazyCell::new(|| snapshot.values(point));
        let divisor = divisor(&point.series);
        let is_ruled = !summary.buckets.is_empty();
        if let Distributions::Classic(bounds) | Distributions::NativeOrClassic(bounds) = &self.distributions
            && !is_ruled
        {
            let bounds: Vec<f64> = bounds.iter().map(|bound| bound * divisor).collect();
            summary.buckets = cumulative(&values, &bounds);
        }
        let shape = if summary.buckets.is_empty() { Shape::Summary } else { Shape::Histogram };
        let is_native = match self.distributions {
            Distributions::Native => true,
            Distributions::NativeOrClassic(_) => !is_ruled,
            Distributions::Summary | Distributions::Classic(_) => false,
        };
        if let Some(&place) = self.places.get(&point.series)
            && let Some(Sample { value: Value::Timer(held), .. }) = &self.samples[place]
            && !held.goes_on_as(&summary.buckets, is_native)
        {
            // Its buckets were configured anew: totals of others mean something else.
            self.remove(place);
        }
        let of = || {
            Value::Timer(Box::new(Distribution {
                quantiles: Vec::new(),
                buckets: summary.buckets.iter().map(|(bound, _)| (*bound, Sum::default())).collect(),
                native: is_native.then(Exponential::default),
                sum: Sum::default(),
                count: Sum::default(),
            }))
        };
        let Some(Value::Timer(held)) = self.sample(&point.series, shape, snapshot, 1, of, outcome) else { return };
        if !is_native {
            held.native = None;
        }
        let quantile = |percentile: f64| (percentile * 1e10).round() / 1e12;
        let positive = summary.percentiles.iter().filter(|p| p.percentile >= 0.0);
        held.quantiles = positive.map(|p| (quantile(p.percentile), p.value)).collect();
        for ((_, held), (_, fresh)) in held.buckets.iter_mut().zip(&summary.buckets) {
            held.add(*fresh);
        }
        if let Some(native) = &mut held.native {
            values.iter().for_each(|(value, count)| native.add(value / divisor, *count));
        }
        held.sum.add(summary.sum);
        held.count.add(summary.count);
    }

    /// Native histograms are not taken: buckets replace them from now on.
    pub(in crate::sinks) fn without_native(&mut self) {
        if let Distributions::NativeOrClassic(bounds) = &mut self.distributions {
            self.distributions = Distributions::Classic(std::mem::take(bounds));
        }
        for sample in self.samples.iter_mut().flatten().chain(self.gone.iter_mut().flatten()) {
            if let Value::Timer(held) = &mut sample.value {
                held.native = None;
            }
        }
    }

    /// Where a series' value is, unless its name belongs to another, or there is no room; `records` is how many records of the
    /// interval it is.
    fn sample(
        &mut self,
        series: &Series,
        shape: Shape,
        snapshot: &Snapshot,
        records: u64,
        new: impl FnOnce() -> Value,
        outcome: &mut Outcome,
    ) -> Option<&mut Value> {
        let place = match self.places.get(series) {
            Some(&place) if self.families[&self.samples[place].as_ref()?.family].shape == shape => place,
            _ => {
                if let Err(why) = self.room.take(self.places.len(), bytes_of_new(series), series) {
                    let left_out = match why {
                        NoRoom::MaxSeries => &mut outcome.max_series,
                        NoRoom::Memory => &mut outcome.memory,
                    };
                    *left_out += records;
                    return None;
                }
                if let Some(&place) = self.places.get(series) {
                    self.remove_family(place);
                }
                let created = snapshot.end - snapshot.interval_secs_of(series);
                match self.admit(series, shape, created, new) {
                    Ok(place) => place,
                    Err(conflict) => {
                        outcome.conflict(conflict, records);
                        return None;
                    }
                }
            }
        };
        let sample = self.samples[place].as_mut()?;
        // Values with times of their own may touch it more than once in an interval.
        sample.is_new &= sample.updated == f64::NEG_INFINITY || sample.updated == snapshot.end;
        (sample.updated, sample.sequence) = (snapshot.end, snapshot.sequence);
        let overrides = snapshot.overrides.of(series);
        sample.every = overrides.map_or(1, |overrides| overrides.every);
        sample.ttl_secs = overrides.and_then(|overrides| overrides.ttl).map(|ttl| ttl.unwrap_or(f64::INFINITY));
        let help = snapshot.overrides.help(series);
        if sample.help.as_deref() != help {
            sample.help = help.map(Arc::from);
        }
        Some(&mut sample.value)
    }

    /// Makes a sample for a series that has none, and whose first interval began at `created`; its place.
    fn admit(
        &mut self,
        series: &Series,
        shape: Shape,
        created: f64,
        new: impl FnOnce() -> Value,
    ) -> Result<usize, Conflict> {
        let naming = self.naming;
        let name = family(series, naming);
        // With their types: those of two may be all that is different.
        let conflict = |holder: String| Conflict { holder, other: format!("{series:?}"), name: name.clone() };
        let holder = |samples: &[Option<Sample>], place: usize| {
            samples[place].as_ref().map_or_else(String::new, |sample| format!("{:?}", sample.series))
        };
        let (labels, key) = (labels(series, naming).into_boxed_str(), identity(series, naming).into_boxed_str());
        match self.families.get(name.as_str()) {
            Some(known) if known.shape != shape => {
                let first = known.samples.values().next().map(|&place| holder(&self.samples, place));
                return Err(conflict(first.unwrap_or_default()));
            }
            Some(known) => {
                if let Some(&place) = known.samples.get(&key) {
                    return Err(conflict(holder(&self.samples, place)));
                }
            }
            None => {
                let names = suffixes(shape, naming).iter().map(|suffix| format!("{name}{suffix}"));
                if let Some(taker) = names.clone().find_map(|name| self.taken.get(&name)) {
                    let known = self.families.get(taker.as_str());
                    let first = known.and_then(|known| known.samples.values().next());
                    return Err(conflict(first.map_or_else(|| taker.clone(), |&place| holder(&self.samples, place))));
                }
                names.for_each(|sample| drop(self.taken.insert(sample, name.clone())));
                let name: Arc<str> = name.as_str().into();
                let family = Family { shape, name: Arc::clone(&name), samples: BTreeMap::new() };
                self.families.insert(name, family);
            }
        }
        let Some(family) = self.families.get_mut(name.as_str()) else { return Err(conflict(String::new())) };
        let sample = Sample {
            series: series.clone(),
            family: Arc::clone(&family.name),
            labels,
            updated: f64::NEG_INFINITY,
            created,
            is_new: true,
            sequence: 0,
            every: 1,
            ttl_secs: None,
            help: None,
            naming,
            value: new(),
        };
        let place = self.free.pop().unwrap_or_else(|| {
            self.samples.push(None);
            self.samples.len() - 1
        });
        self.samples[place] = Some(sample);
        family.samples.insert(key, place);
        self.places.insert(series.clone(), place);
        Ok(place)
    }

    /// Removes deleted series.
    fn delete(&mut self, deleted: &[Deletion]) {
        for deletion in deleted {
            if let Deletion::Series(series) = deletion
                && let Some(&place) = self.places.get(series)
            {
                self.remove(place);
            }
        }
        let deleted = Deleted::new(deleted);
        if !deleted.has_folders() {
            return;
        }
        let all = self.samples.iter().flatten().filter(|sample| deleted.has_folder_of(&sample.series));
        let places: Vec<usize> = all.filter_map(|sample| self.places.get(&sample.series).copied()).collect();
        places.into_iter().for_each(|place| self.remove(place));
    }

    /// Removes what the interval did not update: gauges at once, for they are emitted as long as they are held; counters after
    /// their time. For as many as found no room (`refused`), those leave early that only one interval has touched, the oldest
    /// first: invented names do not keep others out.
    fn forget(&mut self, snapshot: &Snapshot, refused: u64) {
        let now = snapshot.end;
        let mut touched_once: Vec<(f64, usize)> = Vec::new();
        for place in 0..self.samples.len() {
            let Some(sample) = &mut self.samples[place] else { continue };
            // A series that is flushed in every sixth interval is not missed in the others.
            let is_due = snapshot.sequence.abs_diff(sample.sequence) >= u64::from(sample.every);
            let is_over = |limit_secs: f64| is_due && now - sample.updated >= limit_secs - MOMENT_SECS;
            let leaves = match &sample.value {
                Value::Gauge(_) if sample.series.kind() == Kind::Gauge => is_due,
                Value::Gauge(_) => is_over(self.hold_secs),
                Value::Timer(_) | Value::Counter(_) | Value::UpDown(_) => {
                    is_over(sample.ttl_secs.unwrap_or(self.ttl_secs))
                }
            };
            if leaves {
                self.remove(place);
                continue;
            }
            if refused > 0 && is_due && sample.is_new {
                touched_once.push((sample.updated, place));
            }
            let is_over = is_over(self.hold_secs);
            if let Value::Timer(held) = &mut sample.value
                && is_over
                && !held.quantiles.is_empty()
            {
                // Quantiles are served only where there are no buckets.
                if held.buckets.is_empty()
                    && held.native.is_none()
                    && let Some(gone) = &mut self.gone
                {
                    gone.push(sample.clone());
                }
                if let Value::Timer(held) = &mut sample.value {
                    held.quantiles.clear();
                }
            }
        }
        let most = usize::try_from(refused).unwrap_or(usize::MAX);
        if touched_once.len() > most {
            touched_once.select_nth_unstable_by(most, |a, b| a.0.total_cmp(&b.0));
            touched_once.truncate(most);
        }
        touched_once.into_iter().for_each(|(_, place)| self.remove(place));
    }

    fn remove(&mut self, place: usize) {
        let Some(sample) = self.samples[place].take() else { return };
        self.free.push(place);
        self.places.remove(&sample.series);
        if let Some(family) = self.families.get_mut(&sample.family) {
            family.samples.remove(identity(&sample.series, self.naming).as_str());
            if family.samples.is_empty() {
                let name = &sample.family;
                suffixes(family.shape, self.naming)
                    .iter()
                    .for_each(|suffix| drop(self.taken.remove(&format!("{name}{suffix}"))));
                self.families.remove(name);
            }
        }
        if let Some(gone) = &mut self.gone {
            gone.push(sample);
        }
    }

    /// Removes all of a family: it was configured anew, and has another shape now.
    fn remove_family(&mut self, place: usize) {
        let family = self.samples[place].as_ref().and_then(|sample| self.families.get(&sample.family));
        let places: Vec<usize> = family.map_or_else(Vec::new, |family| family.samples.values().copied().collect());
        places.into_iter().for_each(|place| self.remove(place));
    }

    /// Puts a sample of an earlier start where it was, unless its name belongs to another by now; `false` if there is no room for
    /// it.
    pub(super) fn put_back(&mut self, saved: Saved) -> bool {
        let Saved { series, updated, created, sequence, every, value, ttl_secs } = saved;
        if self.room.take(self.places.len(), bytes_of_new(&series), &series).is_err() {
            return false;
        }
        let shape = match &value {
            Value::Counter(_) => Shape::Counter,
            Value::UpDown(_) | Value::Gauge(_) => Shape::Gauge,
            Value::Timer(held) if held.buckets.is_empty() => Shape::Summary,
            Value::Timer(_) => Shape::Histogram,
        };
        if let Ok(place) = self.admit(&series, shape, created, || value)
            && let Some(sample) = &mut self.samples[place]
        {
            (sample.updated, sample.sequence, sample.every, sample.is_new) = (updated, sequence, every, false);
            sample.ttl_secs = ttl_secs;
        }
        true
    }

    /// Goes on after an interval that ended then.
    pub(super) fn go_on_after(&mut self, end: f64) {
        self.end = Some(end);
        self.room.set(self.heap_bytes());
    }

    /// Bytes that it takes. Keys of series are counted whole: it keeps them longer than anybody else.
    pub fn heap_bytes(&self) -> usize {
        let samples = self.samples.iter().flatten().chain(self.gone.iter().flatten());
        let texts: usize =
            self.taken.iter().map(|(name, of)| footprint(name.capacity()) + footprint(of.capacity())).sum();
        tree_footprint::<Arc<str>, Family>(self.families.len())
            + self.families.iter().map(|(name, family)| shared_text_bytes(name) + family.heap_bytes()).sum::<usize>()
            + map_footprint::<String, String>(self.taken.capacity())
            + texts
            + vec_footprint::<Option<Sample>>(self.samples.capacity())
            + vec_footprint::<Sample>(self.gone.as_ref().map_or(0, Vec::capacity))
            + vec_footprint::<usize>(self.free.capacity())
            + map_footprint::<Series, usize>(self.places.capacity())
            + samples.map(Sample::heap_bytes).sum::<usize>()
    }

    /// Lets the room of series go that have left: a flood of names would stay for ever.
    fn shrink(&mut self) {
        if self.samples.len() <= 4 * self.places.len() + 64 {
            return;
        }
        let mut samples = Vec::with_capacity(self.places.len());
        for sample in std::mem::take(&mut self.samples).into_iter().flatten() {
            let family = self.families.get_mut(&sample.family);
            let of_labels =
                family.and_then(|family| family.samples.get_mut(identity(&sample.series, self.naming).as_str()));
            for place in [of_labels, self.places.get_mut(&sample.series)].into_iter().flatten() {
                *place = samples.len();
            }
            samples.push(Some(sample));
        }
        (self.samples, self.free) = (samples, Vec::new());
        self.places.shrink_to_fit();
        self.taken.shrink_to_fit();
    }

    /// Removes every series.
    pub(in crate::sinks) fn clear(&mut self) {
        self.gone.iter_mut().for_each(Vec::clear);
        (0..self.samples.len()).for_each(|place| self.remove(place));
    }

    /// Samples that have left with the last interval, from one on.
    pub(in crate::sinks) fn gone(&self, from: usize) -> impl Iterator<Item = (usize, &Sample)> {
        self.gone.iter().flatten().enumerate().skip(from)
    }

    /// Who has the name and the labels of a sample that has left.
    pub(in crate::sinks) fn successor(&self, gone: &Sample) -> Option<&Sample> {
        let place = self.families.get(&gone.family)?.samples.get(identity(&gone.series, self.naming).as_str())?;
        self.samples[*place].as_ref()
    }

    /// Ends of the last interval and the one before, Unix seconds.
    pub(in crate::sinks) fn ends(&self) -> (Option<f64>, Option<f64>) {
        (self.end, self.before)
    }

    /// How many places there are, with samples or without.
    pub(in crate::sinks) fn places(&self) -> usize {
        self.samples.len()
    }

    /// How many series there are.
    #[cfg(feature = "internals")]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there are none.
    #[cfg(feature = "internals")]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Samples from a place on, each with its place, in no particular order.
    pub(in crate::sinks) fn samples(&self, from: usize) -> impl Iterator<Item = (usize, &Sample)> {
        let rest = self.samples.iter().enumerate().skip(from);
        rest.filter_map(|(place, sample)| Some((place, sample.as_ref()?)))
    }

    /// Families by name, with their samples by labels.
    pub(super) fn families(&self) -> impl Iterator<Item = (&str, &Family, impl Iterator<Item = &Sample>)> {
        self.families.iter().map(|(name, family)| {
            (&**name, family, family.samples.values().filter_map(|&place| self.samples[place].as_ref()))
        })
    }

    /// The shape of a sample's family.
    pub(in crate::sinks) fn shape_of(&self, sample: &Sample) -> Shape {
        self.families.get(&sample.family).map_or(Shape::Gauge, |family| family.shape)
    }

    /// The answer to a scrape.
    pub fn encode(&self, format: Format) -> Vec<u8> {
        let mut out = Vec::new();
        // Memory grows as it is needed.
        let _ = self.write(format, &mut out);
        out
    }

    /// Writes the answer to a scrape, in parts.
    ///
    /// # Errors
    /// Those of `out`.
    pub(super) fn write(&self, format: Format, out: &mut impl Write) -> io::Result<()> {
        match format {
            Format::Text | Format::OpenMetrics => self.render(format == Format::OpenMetrics, out),
            Format::Protobuf => protobuf::write(self, out),
        }
    }

    fn render(&self, is_open: bool, out: &mut impl Write) -> io::Result<()> {
        let mut text = PrometheusText::new(is_open);
        for (name, family, samples) in self.families() {
            let mut is_first = true;
            for sample in samples {
                if std::mem::take(&mut is_first) {
                    let help = match &sample.help {
                        Some(help) => help.to_string(),
                        None => format!("{} {}", family.shape.name(), sample.series.name()),
                    };
                    match self.naming {
                        Naming::Systole => text.family(name, family.shape, &help),
                        Naming::Exporter => text.family_as(name, family.shape, &help),
                    }
                }
                sample.render(is_open, &mut text);
                text.drain(PART, |part| out.write_all(part.as_bytes()))?;
            }
        }
        out.write_all(text.finish().as_bytes())
    }
}

/// Bytes that a shared text takes: two counts stand before it.
fn shared_text_bytes(text: &Arc<str>) -> usize {
    footprint(2 * size_of::<usize>() + text.len())
}

/// Bytes that one more series takes, about: its sample, its labels twice, a family, and names of samples.
fn bytes_of_new(series: &Series) -> usize {
    let (key, name) = (footprint(series.key().len()), footprint(series.name().len() + 8));
    let nodes = tree_footprint::<Box<str>, usize>(1) + size_of::<(Arc<str>, Family)>() * 3 / 2;
    let places = 3 * size_of::<(String, String)>() + 2 * size_of::<(Series, usize)>();
    series.heap_bytes() + 2 * key + 7 * name + size_of::<Sample>() + nodes + places
}

impl Distribution {
    /// Whether what an interval has of it, in buckets like these, can be added.
    fn goes_on_as(&self, buckets: &[(Option<f64>, f64)], is_native: bool) -> bool {
        let own = self.buckets.iter().map(|(bound, _)| bound.map(f64::to_bits));
        own.eq(buckets.iter().map(|(bound, _)| bound.map(f64::to_bits))) && (!is_native || self.native.is_some())
    }
}

impl Family {
    /// Bytes that it takes beside itself and its name.
    fn heap_bytes(&self) -> usize {
        tree_footprint::<Box<str>, usize>(self.samples.len())
            + self.samples.keys().map(|labels| footprint(labels.len())).sum::<usize>()
    }
}

impl Sample {
    /// Bytes that it takes beside itself.
    fn heap_bytes(&self) -> usize {
        let value = match &self.value {
            Value::Counter(_) | Value::UpDown(_) | Value::Gauge(_) => 0,
            Value::Timer(held) => {
                footprint(size_of::<Distribution>())
                    + vec_footprint::<(f64, f64)>(held.quantiles.capacity())
                    + vec_footprint::<(Option<f64>, Sum)>(held.buckets.capacity())
                    + held.native.as_ref().map_or(0, Exponential::heap_bytes)
            }
        };
        let help = self.help.as_ref().map_or(0, shared_text_bytes);
        self.series.heap_bytes() + footprint(self.labels.len()) + help + value
    }

    /// Every number of it: the suffix of its name, a label of its own, the value.
    pub(in crate::sinks) fn each(&self, mut visit: impl FnMut(&'static str, Option<(&'static str, String)>, f64)) {
        // Sums are kept as they were sent, so that no digit is lost on the way.
        let divisor = divisor(&self.series);
        match &self.value {
            Value::Counter(sum) => visit(self.naming.of_counters(), None, sum.value()),
            Value::UpDown(sum) => visit("", None, sum.value()),
            Value::Gauge(value) => visit("", None, *value),
            Value::Timer(held) => {
                if held.buckets.is_empty() {
                    for (quantile, value) in &held.quantiles {
                        visit("", Some(("quantile", number(*quantile))), value / divisor);
                    }
                }
                for (bound, count) in &held.buckets {
                    let bound = bound.map_or("+Inf".to_string(), |bound| number(bound / divisor));
                    visit("_bucket", Some(("le", bound)), count.value());
                }
                visit("_sum", None, held.sum.value() / divisor);
                visit("_count", None, held.count.value());
            }
        }
    }

    fn render(&self, is_open: bool, out: &mut PrometheusText) {
        let mut line = |suffix: &str, own: Option<(&str, String)>, value: f64| {
            let own = own.as_ref().map(|(key, value)| (*key, value.as_str()));
            out.sample(&self.family, suffix, &self.labels, own, value);
        };
        self.each(&mut line);
        if is_open && !matches!(self.value, Value::Gauge(_) | Value::UpDown(_)) {
            line("_created", None, self.created);
        }
    }
}
