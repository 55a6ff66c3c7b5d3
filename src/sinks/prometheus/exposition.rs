//! What Prometheus is told, built from interval to interval: counters, sums and counts go on from where they were, gauges and
//! quantiles are those of the last interval. Text format 0.0.4 and OpenMetrics 1.0 (prometheus.io, "Exposition formats";
//! the OpenMetrics specification).

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::sync::Arc;

use crate::aggregate::Sum;
use crate::protocol::Kind;
use crate::series::Series;
use crate::snapshot::{GaugePoint, Snapshot, TimerPoint, cumulative, number};

use super::super::exponential::Exponential;
use super::names::{divisor, escaped, family, labels};
use super::protobuf;

/// What one interval told alone, members of sets and quantiles, is told for so long, for scrapes may be rarer, in seconds.
const HOLD_SECS: f64 = 60.0;

/// How a scrape is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Text 0.0.4.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Length-delimited protobuf.
    Protobuf,
}

/// What timers, histograms and distributions are told as, unless a rule gives them buckets.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Distributions {
    /// Quantiles.
    #[default]
    Summary,
    /// Quantiles, and native histograms for those who ask.
    Native,
    /// Counts at or below these bounds, which are in seconds for timers.
    Classic(Vec<f64>),
}

/// What a family holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sinks) enum Shape {
    Counter,
    Gauge,
    Summary,
    Histogram,
}

impl Shape {
    fn name(self) -> &'static str {
        match self {
            Shape::Counter => "counter",
            Shape::Gauge => "gauge",
            Shape::Summary => "summary",
            Shape::Histogram => "histogram",
        }
    }

    /// What the samples of a family are called beside its name.
    fn suffixes(self) -> &'static [&'static str] {
        match self {
            Shape::Counter => &["_total", "_created"],
            Shape::Gauge => &[""],
            Shape::Summary => &["", "_sum", "_count", "_created"],
            Shape::Histogram => &["_bucket", "_sum", "_count", "_created"],
        }
    }
}

#[derive(Clone, Debug)]
pub(in crate::sinks) enum Value {
    Counter(Sum),
    Gauge(f64),
    Timer(Box<Distribution>),
}

/// A timer, from interval to interval.
#[derive(Clone, Debug)]
pub(in crate::sinks) struct Distribution {
    /// Of the last interval that had values; none if that is long ago.
    pub(in crate::sinks) quantiles: Vec<(f64, f64)>,
    /// Counts at or below each bound, as values are sent.
    pub(in crate::sinks) buckets: Vec<(Option<f64>, Sum)>,
    /// In what is told: timers in seconds.
    pub(in crate::sinks) native: Option<Exponential>,
    pub(in crate::sinks) sum: Sum,
    pub(in crate::sinks) count: Sum,
}

#[derive(Clone, Debug)]
pub(in crate::sinks) struct Sample {
    pub(in crate::sinks) series: Series,
    pub(in crate::sinks) family: Arc<str>,
    /// As text, the key within the family.
    pub(in crate::sinks) labels: Box<str>,
    /// End of the interval that touched it last, and start of the first, Unix seconds.
    pub(in crate::sinks) updated: f64,
    pub(in crate::sinks) created: f64,
    /// Whether that was the first.
    pub(in crate::sinks) is_new: bool,
    pub(in crate::sinks) value: Value,
}

#[derive(Clone, Debug)]
pub(in crate::sinks) struct Family {
    pub(in crate::sinks) shape: Shape,
    name: Arc<str>,
    /// Places of its samples, by labels.
    samples: BTreeMap<Box<str>, usize>,
}

/// Two series that would be one, of which the first keeps the name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Who has the name.
    pub holder: String,
    /// Who wants it.
    pub other: String,
    /// What the name is.
    pub name: String,
}

/// Everything that Prometheus is told.
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
    distributions: Distributions,
}

impl Exposition {
    /// Nothing yet.
    pub fn new(ttl_secs: f64, distributions: Distributions) -> Exposition {
        Exposition { ttl_secs, distributions, ..Exposition::default() }
    }

    /// Adds an interval; which series found their names taken.
    pub fn apply(&mut self, snapshot: &Snapshot) -> Vec<Conflict> {
        let mut conflicts = Vec::new();
        let mut counters: Vec<(&Series, f64)> =
            snapshot.counters.iter().map(|point| (&point.series, point.sum.value())).collect();
        let mut gauges: Vec<(&Series, f64)> =
            snapshot.gauges.iter().map(|GaugePoint { series, gauge }| (series, gauge.value())).collect();
        gauges.extend(snapshot.sets.iter().map(|point| (&point.series, point.members.count())));
        let last = |point: &'_ crate::snapshot::KvPoint| point.values.last().copied();
        gauges.extend(snapshot.kvs.iter().filter_map(|point| Some((&point.series, last(point)?))));
        for one in &snapshot.stamped {
            let all = if one.series.kind() == Kind::Gauge { &mut gauges } else { &mut counters };
            all.push((&one.series, one.value));
        }
        for (series, value) in counters {
            let of = || Value::Counter(Sum::default());
            if let Some(Value::Counter(sum)) = self.sample(series, Shape::Counter, snapshot, of, &mut conflicts) {
                // Prometheus takes what falls for a restart.
                sum.add(value.max(0.0));
            }
        }
        for (series, value) in gauges {
            let of = || Value::Gauge(value);
            if let Some(Value::Gauge(held)) = self.sample(series, Shape::Gauge, snapshot, of, &mut conflicts) {
                *held = value;
            }
        }
        for point in &snapshot.timers {
            self.timer(point, snapshot, &mut conflicts);
        }
        self.forget(snapshot.end);
        conflicts
    }

    fn timer(&mut self, point: &TimerPoint, snapshot: &Snapshot, conflicts: &mut Vec<Conflict>) {
        let mut summary = snapshot.summary(point);
        let divisor = divisor(&point.series);
        if let Distributions::Classic(bounds) = &self.distributions
            && summary.buckets.is_empty()
        {
            let bounds: Vec<f64> = bounds.iter().map(|bound| bound * divisor).collect();
            summary.buckets = cumulative(&snapshot.values(point), &bounds);
        }
        let shape = if summary.buckets.is_empty() { Shape::Summary } else { Shape::Histogram };
        let is_native = self.distributions == Distributions::Native;
        let of = || {
            Value::Timer(Box::new(Distribution {
                quantiles: Vec::new(),
                buckets: summary.buckets.iter().map(|(bound, _)| (*bound, Sum::default())).collect(),
                native: is_native.then(Exponential::default),
                sum: Sum::default(),
                count: Sum::default(),
            }))
        };
        let Some(Value::Timer(held)) = self.sample(&point.series, shape, snapshot, of, conflicts) else { return };
        let quantile = |percentile: f64| (percentile * 1e10).round() / 1e12;
        let positive = summary.percentiles.iter().filter(|p| p.percentile >= 0.0);
        held.quantiles = positive.map(|p| (quantile(p.percentile), p.value)).collect();
        for ((_, held), (_, fresh)) in held.buckets.iter_mut().zip(&summary.buckets) {
            held.add(*fresh);
        }
        if let Some(native) = &mut held.native {
            snapshot.values(point).iter().for_each(|(value, count)| native.add(value / divisor, *count));
        }
        held.sum.add(summary.sum);
        held.count.add(summary.count);
    }

    /// Where a series' value is, unless its name belongs to another.
    fn sample(
        &mut self,
        series: &Series,
        shape: Shape,
        snapshot: &Snapshot,
        new: impl FnOnce() -> Value,
        conflicts: &mut Vec<Conflict>,
    ) -> Option<&mut Value> {
        let place = match self.places.get(series) {
            Some(&place) if self.families[&self.samples[place].as_ref()?.family].shape == shape => place,
            _ => match self.admit(series, shape, snapshot, new) {
                Ok(place) => place,
                Err(conflict) => {
                    conflicts.push(conflict);
                    return None;
                }
            },
        };
        let sample = self.samples[place].as_mut()?;
        sample.is_new = sample.updated == f64::NEG_INFINITY;
        sample.updated = snapshot.end;
        Some(&mut sample.value)
    }

    /// Makes a sample for a series that has none; its place.
    fn admit(
        &mut self,
        series: &Series,
        shape: Shape,
        snapshot: &Snapshot,
        new: impl FnOnce() -> Value,
    ) -> Result<usize, Conflict> {
        let name = family(series);
        let conflict = |holder: String| Conflict { holder, other: series.to_string(), name: name.clone() };
        let holder = |samples: &[Option<Sample>], place: usize| {
            samples[place].as_ref().map_or_else(String::new, |sample| sample.series.to_string())
        };
        let labels = labels(series).into_boxed_str();
        match self.families.get(name.as_str()) {
            Some(known) if known.shape != shape => {
                let first = known.samples.values().next().map(|&place| holder(&self.samples, place));
                return Err(conflict(first.unwrap_or_default()));
            }
            Some(known) => {
                if let Some(&place) = known.samples.get(&labels) {
                    return Err(conflict(holder(&self.samples, place)));
                }
            }
            None => {
                let names = shape.suffixes().iter().map(|suffix| format!("{name}{suffix}"));
                if let Some(holder) = names.clone().find_map(|name| self.taken.get(&name)) {
                    return Err(conflict(holder.clone()));
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
            labels: labels.clone(),
            updated: f64::NEG_INFINITY,
            created: snapshot.end - snapshot.interval_secs_of(series),
            is_new: true,
            value: new(),
        };
        let place = self.free.pop().unwrap_or_else(|| {
            self.samples.push(None);
            self.samples.len() - 1
        });
        self.samples[place] = Some(sample);
        family.samples.insert(labels, place);
        self.places.insert(series.clone(), place);
        Ok(place)
    }

    /// Lets go what was not updated by the interval that ended `now`: gauges at once, for they are told as long as they
    /// stand; counters after their time.
    fn forget(&mut self, now: f64) {
        for place in 0..self.samples.len() {
            let Some(sample) = &mut self.samples[place] else { continue };
            let age = now - sample.updated;
            let stays = match &mut sample.value {
                Value::Gauge(_) if sample.series.kind() == Kind::Gauge => sample.updated >= now,
                Value::Gauge(_) => age < HOLD_SECS,
                Value::Timer(held) => {
                    if age >= HOLD_SECS {
                        held.quantiles.clear();
                    }
                    age < self.ttl_secs
                }
                Value::Counter(_) => age < self.ttl_secs,
            };
            if !stays {
                self.remove(place);
            }
        }
    }

    fn remove(&mut self, place: usize) {
        let Some(sample) = self.samples[place].take() else { return };
        self.free.push(place);
        self.places.remove(&sample.series);
        let Some(family) = self.families.get_mut(&sample.family) else { return };
        family.samples.remove(&sample.labels);
        if family.samples.is_empty() {
            let name = &sample.family;
            family.shape.suffixes().iter().for_each(|suffix| drop(self.taken.remove(&format!("{name}{suffix}"))));
            self.families.remove(name);
        }
    }

    /// How many series are told.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Nothing is told.
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
        match format {
            Format::Text | Format::OpenMetrics => self.render(format == Format::OpenMetrics).into_bytes(),
            Format::Protobuf => protobuf::encode(self),
        }
    }

    fn render(&self, is_open: bool) -> String {
        let mut out = String::new();
        for (name, family, samples) in self.families() {
            let total = if family.shape == Shape::Counter && !is_open { "_total" } else { "" };
            let shape = family.shape.name();
            let mut is_first = true;
            for sample in samples {
                if std::mem::take(&mut is_first) {
                    let source = escaped(sample.series.name());
                    // Writing to memory cannot fail.
                    let _ = writeln!(out, "# HELP {name}{total} {shape} {source}\n# TYPE {name}{total} {shape}");
                }
                sample.render(is_open, &mut out);
            }
        }
        if is_open {
            out.push_str("# EOF\n");
        }
        out
    }
}

impl Sample {
    /// Every number of it: the suffix of its name, a label of its own, the value.
    pub(in crate::sinks) fn each(&self, mut visit: impl FnMut(&'static str, Option<(&'static str, String)>, f64)) {
        // Sums are kept as they were sent, so that no digit is lost on the way.
        let divisor = divisor(&self.series);
        match &self.value {
            Value::Counter(sum) => visit("_total", None, sum.value()),
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

    fn render(&self, is_open: bool, out: &mut String) {
        let (name, labels) = (&self.family, &self.labels);
        let mut line = |suffix: &str, own: Option<(&str, String)>, value: f64| {
            out.push_str(name);
            out.push_str(suffix);
            match own {
                Some((key, own)) => {
                    let comma = if labels.is_empty() { "" } else { "," };
                    // Writing to memory cannot fail.
                    let _ = write!(out, "{{{labels}{comma}{key}=\"{own}\"}}");
                }
                None if labels.is_empty() => {}
                None => {
                    out.push('{');
                    out.push_str(labels);
                    out.push('}');
                }
            }
            out.push(' ');
            out.push_str(&number(value));
            out.push('\n');
        };
        self.each(&mut line);
        if is_open && !matches!(self.value, Value::Gauge(_)) {
            line("_created", None, self.created);
        }
    }
}
