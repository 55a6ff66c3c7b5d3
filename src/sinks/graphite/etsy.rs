//! Naming `etsy`: the names of the original's Graphite backend (statsd/statsd, `backends/graphite.js`).
//!
//! | thing | legacy namespace | without |
//! |---|---|---|
//! | counter rate | `stats.K` | `GLOBAL.COUNTER.K.rate` |
//! | counter count | `stats_counts.K` | `GLOBAL.COUNTER.K.count` |
//! | timer | `stats.timers.K.AGG` | `GLOBAL.TIMER.K.AGG` |
//! | gauge, set | `stats.gauges.K`, `stats.sets.K.count` | `GLOBAL.GAUGE.K`, `GLOBAL.SET.K.count` |
//! | number of series | `STATS.numStats` | `GLOBAL.STATS.numStats` |
//!
//! The suffix follows the aggregate, the tags follow the suffix. A `kv` value, which the original does not
//! know, is `stats.kv.K`.

use crate::protocol::{Kind, sanitize};
use crate::series::Series;
use crate::snapshot::{Aggregate, Percentile, Point, Snapshot, Summary, number};

use super::{Timings, Writer, part};

/// The original's prefixes and switches of its Graphite backend, under its own defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct EtsyNames {
    /// `stats.x` and `stats_counts.x` instead of `stats.counters.x.rate`.
    pub legacy_namespace: bool,
    /// First part of every name without the legacy namespace.
    pub global_prefix: String,
    /// Last part of every name.
    pub global_suffix: String,
    /// Of counters.
    pub prefix_counter: String,
    /// Of timers.
    pub prefix_timer: String,
    /// Of gauges.
    pub prefix_gauge: String,
    /// Of sets.
    pub prefix_set: String,
    /// Of the daemon's own.
    pub prefix_stats: String,
    /// Write counts beside rates.
    pub flush_counts: bool,
    /// Timer outputs to write; empty for all.
    pub calculated_timer_metrics: Vec<String>,
}

impl Default for EtsyNames {
    fn default() -> EtsyNames {
        EtsyNames {
            legacy_namespace: true,
            global_prefix: "stats".into(),
            global_suffix: String::new(),
            prefix_counter: "counters".into(),
            prefix_timer: "timers".into(),
            prefix_gauge: "gauges".into(),
            prefix_set: "sets".into(),
            prefix_stats: "statsd".into(),
            flush_counts: true,
            calculated_timer_metrics: Vec::new(),
        }
    }
}

struct Prefixes {
    counter: String,
    timer: String,
    gauge: String,
    set: String,
    kv: String,
    own: String,
    number: String,
    suffix: String,
}

impl EtsyNames {
    fn prefixes(&self) -> Prefixes {
        let join = |parts: &[&str]| -> String {
            parts.iter().filter(|part| !part.is_empty()).map(|part| format!("{part}.")).collect()
        };
        let global = self.global_prefix.as_str();
        let suffix = if self.global_suffix.is_empty() { String::new() } else { format!(".{}", self.global_suffix) };
        if self.legacy_namespace {
            return Prefixes {
                counter: "stats.".into(),
                timer: "stats.timers.".into(),
                gauge: "stats.gauges.".into(),
                set: "stats.sets.".into(),
                kv: "stats.kv.".into(),
                own: join(&["stats", &self.prefix_stats]),
                number: join(&[&self.prefix_stats]),
                suffix,
            };
        }
        Prefixes {
            counter: join(&[global, &self.prefix_counter]),
            timer: join(&[global, &self.prefix_timer]),
            gauge: join(&[global, &self.prefix_gauge]),
            set: join(&[global, &self.prefix_set]),
            kv: join(&[global, "kv"]),
            own: join(&[global, &self.prefix_stats]),
            number: join(&[global, &self.prefix_stats]),
            suffix,
        }
    }

    /// Whether an output of a timer is wanted; `upper_90` is listed as `upper_percent`.
    fn wants(&self, aggregate: &str) -> bool {
        if self.calculated_timer_metrics.is_empty() {
            return true;
        }
        let general = match aggregate.rsplit_once('_') {
            Some((stem, number)) => {
                let digits = number.strip_prefix("top").unwrap_or(number);
                let is_percentile = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
                if is_percentile { format!("{stem}_percent") } else { aggregate.to_string() }
            }
            None => aggregate.to_string(),
        };
        self.calculated_timer_metrics.contains(&general)
    }
}

/// What every line of a snapshot needs.
pub(super) struct Context<'a> {
    names: &'a EtsyNames,
    prefixes: Prefixes,
}

impl<'a> Context<'a> {
    pub(super) fn new(names: &'a EtsyNames) -> Context<'a> {
        Context { names, prefixes: names.prefixes() }
    }
}

pub(super) fn write(snapshot: &Snapshot, point: Point<'_>, context: &Context<'_>, out: &mut Writer) {
    let Context { names, prefixes } = context;
    let suffix = prefixes.suffix.as_str();
    let key = Key::new(point.series());
    match point {
        Point::Counter(point) => {
            let value = point.sum.value();
            let rate = snapshot.rate(&point.series, value);
            if names.legacy_namespace {
                key.write(out, &prefixes.counter, suffix, rate);
                if names.flush_counts {
                    key.write(out, "stats_counts.", suffix, value);
                }
            } else {
                key.write(out, &prefixes.counter, &format!(".rate{suffix}"), rate);
                if names.flush_counts {
                    key.write(out, &prefixes.counter, &format!(".count{suffix}"), value);
                }
            }
        }
        Point::Timer(point) => {
            let summary = snapshot.summary(point);
            timer(&summary, snapshot.rate(&point.series, summary.count), &key, context, out);
        }
        Point::Gauge(point) => key.write(out, &prefixes.gauge, suffix, point.gauge.value()),
        Point::Set(point) => key.write(out, &prefixes.set, &format!(".count{suffix}"), point.members.count()),
        Point::Kv(point) => point.values.iter().for_each(|&value| key.write(out, &prefixes.kv, suffix, value)),
    }
}

/// The original's own series, after all others.
pub(super) fn write_own(snapshot: &Snapshot, context: &Context<'_>, timings: Option<&Timings>, out: &mut Writer) {
    if snapshot.stats_prefix.is_none() {
        return;
    }
    let prefixes = &context.prefixes;
    let series = snapshot.counters.len() + snapshot.gauges.len() + snapshot.timers.len() + snapshot.sets.len();
    out.line(&[&prefixes.number, "numStats", &prefixes.suffix], series as f64);
    if let Some(timings) = timings {
        own_timings(timings, prefixes, out);
    }
}

/// A counter or a gauge with a time of its own.
pub(super) fn write_timestamped(series: &Series, value: f64, context: &Context<'_>, out: &mut Writer) {
    let Context { names, prefixes } = context;
    let suffix = prefixes.suffix.as_str();
    let key = Key::new(series);
    match (series.kind() == Kind::Gauge, names.legacy_namespace) {
        (true, _) => key.write(out, &prefixes.gauge, suffix, value),
        (false, true) => key.write(out, "stats_counts.", suffix, value),
        (false, false) => key.write(out, &prefixes.counter, &format!(".count{suffix}"), value),
    }
}

/// The name that a series is given, if it is not its own.
pub(super) fn escaped(series: &Series) -> Option<String> {
    let key = Key::new(series);
    key.changed.then(|| key.name + &key.tags)
}

fn own_timings(timings: &Timings, prefixes: &Prefixes, out: &mut Writer) {
    for (name, value) in [
        ("processing_time", timings.processing_ms),
        ("graphiteStats.calculationtime", timings.calculation_ms),
        ("graphiteStats.last_exception", timings.last_exception),
        ("graphiteStats.last_flush", timings.last_flush),
        ("graphiteStats.flush_time", timings.flush_ms),
        ("graphiteStats.flush_length", timings.flush_length),
    ] {
        out.line(&[&prefixes.own, name, &prefixes.suffix], value);
    }
}

fn timer(s: &Summary, rate: f64, key: &Key, context: &Context<'_>, out: &mut Writer) {
    let Context { names, prefixes } = context;
    let mut put = |aggregate: &str, value: f64| {
        if names.wants(aggregate) {
            key.write(out, &prefixes.timer, &format!(".{aggregate}{}", prefixes.suffix), value);
        }
    };
    put("count", s.count);
    put("count_ps", rate);
    if s.samples == 0 {
        return;
    }
    for p in &s.percentiles {
        percentile(p, s, &mut put);
    }
    put("std", s.stddev);
    put("upper", s.max);
    put("lower", s.min);
    put("sum", s.sum);
    put("sum_squares", s.sum_squares);
    put("mean", s.mean);
    put("median", s.median);
    for (bound, count) in &s.buckets {
        let name = Aggregate::Bucket(*bound).name();
        key.write(out, &prefixes.timer, &format!(".{}{}", part(&name), prefixes.suffix), *count);
    }
    if names.wants("histogram") {
        for (limit, count) in &s.bins {
            let bin = limit.map_or("inf".into(), |limit| number(limit).replacen('.', "_", 1));
            key.write(out, &prefixes.timer, &format!(".histogram.bin_{bin}{}", prefixes.suffix), *count);
        }
    }
}

fn percentile(p: &Percentile, s: &Summary, put: &mut impl FnMut(&str, f64)) {
    let label = number(p.percentile).replacen('.', "_", 1).replacen('-', "top", 1);
    let bound = if p.percentile > 0.0 { "upper" } else { "lower" };
    // With one sample every percentile is that sample.
    let count = if s.samples == 1 { 1.0 } else { p.count };
    put(&format!("count_{label}"), count);
    put(&format!("mean_{label}"), p.sum / count);
    put(&format!("{bound}_{label}"), p.value);
    put(&format!("sum_{label}"), p.sum);
    put(&format!("sum_squares_{label}"), p.sum_squares);
}

/// A series' name and tags, cleaned as the original cleans them.
struct Key {
    name: String,
    tags: String,
    changed: bool,
}

impl Key {
    fn new(series: &Series) -> Key {
        let mut changed = false;
        let mut clean = |text: &str| {
            let cleaned = sanitize(text);
            changed |= cleaned != text;
            cleaned
        };
        let name = clean(series.name());
        let mut tags = String::new();
        for (key, value) in series.tags() {
            tags.push(';');
            tags.push_str(&clean(key).replace(';', "_"));
            if let Some(value) = value {
                tags.push('=');
                tags.push_str(&clean(value).replace(';', "_"));
            }
        }
        Key { name, tags, changed }
    }

    fn write(&self, out: &mut Writer, prefix: &str, suffix: &str, value: f64) {
        if self.name.is_empty() {
            out.fault = Some("cleaning leaves nothing of its name");
            return;
        }
        out.line(&[prefix, &self.name, suffix, &self.tags], value);
    }
}
