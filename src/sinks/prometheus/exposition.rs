//! What a scrape is told, built from interval to interval: counters, sums and counts go on from where they were, gauges and
//! quantiles are those of the last interval. Text format 0.0.4 and OpenMetrics 1.0 (prometheus.io, "Exposition formats";
//! the OpenMetrics specification).

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;

use crate::aggregate::Sum;
use crate::protocol::Kind;
use crate::series::Series;
use crate::snapshot::{GaugePoint, Snapshot, TimerPoint, number};

use super::names::{divisor, escaped, family, labels};

/// What one interval told alone, members of sets and quantiles, is told for so long, for scrapes may be rarer, in seconds.
const HOLD_SECS: f64 = 60.0;

/// How a scrape is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Text 0.0.4.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

/// What a family holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
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
enum Value {
    Counter(Sum),
    Gauge(f64),
    /// Quantiles of the last interval that had values; none if that is long ago.
    Summary {
        quantiles: Vec<(f64, f64)>,
        sum: Sum,
        count: Sum,
    },
    /// Counts at or below each bound.
    Histogram {
        buckets: Vec<(Option<f64>, Sum)>,
        sum: Sum,
        count: Sum,
    },
}

#[derive(Clone, Debug)]
struct Sample {
    series: Series,
    /// End of the interval that touched it last, and start of the first, Unix seconds.
    updated: f64,
    created: f64,
    value: Value,
}

#[derive(Clone, Debug)]
struct Family {
    shape: Shape,
    /// By labels.
    samples: BTreeMap<String, Sample>,
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

/// Everything that a scrape is told.
#[derive(Clone, Debug, Default)]
pub struct Exposition {
    families: BTreeMap<String, Family>,
    /// Names of samples, with the family they belong to.
    taken: HashMap<String, String>,
    /// A counter, summary or histogram without an update leaves after so many seconds.
    ttl_secs: f64,
}

impl Exposition {
    /// Nothing yet.
    pub fn new(ttl_secs: f64) -> Exposition {
        Exposition { ttl_secs, ..Exposition::default() }
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
            let of = |_: &Series| Value::Counter(Sum::default());
            if let Some(Value::Counter(sum)) = self.sample(series, Shape::Counter, snapshot, of, &mut conflicts) {
                // Prometheus takes what falls for a restart.
                sum.add(value.max(0.0));
            }
        }
        for (series, value) in gauges {
            let of = |_: &Series| Value::Gauge(value);
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
        let summary = snapshot.summary(point);
        let bounds: Vec<Option<f64>> = summary.buckets.iter().map(|(bound, _)| *bound).collect();
        let shape = if bounds.is_empty() { Shape::Summary } else { Shape::Histogram };
        let of = |_: &Series| match shape {
            Shape::Histogram => Value::Histogram {
                buckets: bounds.iter().map(|bound| (*bound, Sum::default())).collect(),
                sum: Sum::default(),
                count: Sum::default(),
            },
            _ => Value::Summary { quantiles: Vec::new(), sum: Sum::default(), count: Sum::default() },
        };
        match self.sample(&point.series, shape, snapshot, of, conflicts) {
            Some(Value::Summary { quantiles, sum, count }) => {
                let quantile = |percentile: f64| (percentile * 1e10).round() / 1e12;
                *quantiles = summary
                    .percentiles
                    .iter()
                    .filter(|p| p.percentile >= 0.0)
                    .map(|p| (quantile(p.percentile), p.value))
                    .collect();
                sum.add(summary.sum);
                count.add(summary.count);
            }
            Some(Value::Histogram { buckets, sum, count }) => {
                for ((_, held), (_, fresh)) in buckets.iter_mut().zip(&summary.buckets) {
                    held.add(*fresh);
                }
                sum.add(summary.sum);
                count.add(summary.count);
            }
            Some(Value::Counter(_) | Value::Gauge(_)) | None => {}
        }
    }

    /// Where a series' value is, unless its name belongs to another.
    fn sample(
        &mut self,
        series: &Series,
        shape: Shape,
        snapshot: &Snapshot,
        new: impl Fn(&Series) -> Value,
        conflicts: &mut Vec<Conflict>,
    ) -> Option<&mut Value> {
        let name = family(series);
        let conflict = |holder: String| Conflict { holder, other: series.to_string(), name: name.clone() };
        match self.families.get(&name) {
            Some(known) if known.shape != shape => {
                let holder = known.samples.values().next().map(|sample| sample.series.to_string());
                conflicts.push(conflict(holder.unwrap_or_default()));
                return None;
            }
            Some(_) => {}
            None => {
                let names = shape.suffixes().iter().map(|suffix| format!("{name}{suffix}"));
                if let Some(holder) = names.clone().find_map(|name| self.taken.get(&name)) {
                    conflicts.push(conflict(holder.clone()));
                    return None;
                }
                names.for_each(|sample| drop(self.taken.insert(sample, name.clone())));
                self.families.insert(name.clone(), Family { shape, samples: BTreeMap::new() });
            }
        }
        let family = self.families.get_mut(&name)?;
        let created = snapshot.end - snapshot.interval_secs_of(series);
        let sample = family.samples.entry(labels(series)).or_insert_with(|| Sample {
            series: series.clone(),
            updated: snapshot.end,
            created,
            value: new(series),
        });
        if sample.series != *series {
            let holder = sample.series.to_string();
            conflicts.push(Conflict { holder, other: series.to_string(), name });
            return None;
        }
        sample.updated = snapshot.end;
        Some(&mut sample.value)
    }

    /// Lets go what was not updated by the interval that ended `now`: gauges at once, for they are told as long as they
    /// stand; counters after their time.
    fn forget(&mut self, now: f64) {
        let ttl_secs = self.ttl_secs;
        for family in self.families.values_mut() {
            family.samples.retain(|_, sample| match &mut sample.value {
                Value::Gauge(_) if sample.series.kind() == Kind::Gauge => sample.updated >= now,
                Value::Gauge(_) => now - sample.updated < HOLD_SECS,
                Value::Summary { quantiles, .. } => {
                    if now - sample.updated >= HOLD_SECS {
                        quantiles.clear();
                    }
                    now - sample.updated < ttl_secs
                }
                Value::Counter(_) | Value::Histogram { .. } => now - sample.updated < ttl_secs,
            });
        }
        let taken = &mut self.taken;
        self.families.retain(|name, family| {
            if family.samples.is_empty() {
                family.shape.suffixes().iter().for_each(|suffix| drop(taken.remove(&format!("{name}{suffix}"))));
            }
            !family.samples.is_empty()
        });
    }

    /// How many series are told.
    pub fn len(&self) -> usize {
        self.families.values().map(|family| family.samples.len()).sum()
    }

    /// Nothing is told.
    pub fn is_empty(&self) -> bool {
        self.families.is_empty()
    }

    /// The answer to a scrape.
    pub fn render(&self, format: Format) -> String {
        let mut out = String::new();
        for (name, family) in &self.families {
            let is_open = format == Format::OpenMetrics;
            let shown = if family.shape == Shape::Counter && !is_open { format!("{name}_total") } else { name.clone() };
            let source = family.samples.values().next().map_or("", |sample| sample.series.name());
            let shape = family.shape.name();
            // Writing to memory cannot fail.
            let _ = writeln!(out, "# HELP {shown} {shape} {}", escaped(source));
            let _ = writeln!(out, "# TYPE {shown} {shape}");
            for (labels, sample) in &family.samples {
                sample.render(name, labels, is_open, &mut out);
            }
        }
        if format == Format::OpenMetrics {
            out.push_str("# EOF\n");
        }
        out
    }
}

impl Sample {
    fn render(&self, name: &str, labels: &str, is_open: bool, out: &mut String) {
        let mut line = |suffix: &str, extra: &str, value: f64| {
            let comma = if labels.is_empty() || extra.is_empty() { "" } else { "," };
            let braces = !(labels.is_empty() && extra.is_empty());
            let (open, close) = if braces { ("{", "}") } else { ("", "") };
            // Writing to memory cannot fail.
            let _ = writeln!(out, "{name}{suffix}{open}{labels}{comma}{extra}{close} {}", number(value));
        };
        // Sums are kept as they were sent, so that no digit is lost on the way.
        let divisor = divisor(&self.series);
        match &self.value {
            Value::Counter(sum) => line("_total", "", sum.value()),
            Value::Gauge(value) => return line("", "", *value),
            Value::Summary { quantiles, sum, count } => {
                quantiles
                    .iter()
                    .for_each(|(q, value)| line("", &format!("quantile=\"{}\"", number(*q)), *value / divisor));
                line("_sum", "", sum.value() / divisor);
                line("_count", "", count.value());
            }
            Value::Histogram { buckets, sum, count } => {
                for (bound, held) in buckets {
                    let bound = bound.map_or("+Inf".to_string(), |bound| number(bound / divisor));
                    line("_bucket", &format!("le=\"{bound}\""), held.value());
                }
                line("_sum", "", sum.value() / divisor);
                line("_count", "", count.value());
            }
        }
        if is_open {
            line("_created", "", self.created);
        }
    }
}
