//! Naming `systole`: `name.count` and `name.rate`; a gauge or set bare; `name.mean`, `name.p99` and the like.

use crate::series::Series;
use crate::snapshot::{Point, Snapshot, Summary, number};
use crate::untrusted::is_active;

use super::{Writer, bucket_name};

pub(super) fn write(snapshot: &Snapshot, point: Point<'_>, out: &mut Writer) {
    let name = Name::new(point.series());
    match point {
        Point::Counter(point) => {
            let value = point.sum.value();
            name.write(out, ".count", value);
            name.write(out, ".rate", snapshot.rate(&point.series, value));
        }
        Point::Gauge(point) => name.write(out, "", point.gauge.value()),
        Point::Timer(point) => {
            let summary = snapshot.summary(point);
            timer(&summary, snapshot.rate(&point.series, summary.count), &name, out);
        }
        Point::Set(point) => name.write(out, "", point.members.count()),
        Point::Kv(point) => point.values.iter().for_each(|&value| name.write(out, "", value)),
    }
}

fn timer(s: &Summary, rate: f64, name: &Name, out: &mut Writer) {
    name.write(out, ".count", s.count);
    name.write(out, ".rate", rate);
    if s.samples == 0 {
        return;
    }
    for (aggregate, value) in [
        (".sum", s.sum),
        (".min", s.min),
        (".max", s.max),
        (".mean", s.mean),
        (".median", s.median),
        (".stddev", s.stddev),
    ] {
        name.write(out, aggregate, value);
    }
    for p in &s.percentiles {
        name.write(out, &percentile_suffix(p.percentile), p.value);
    }
    for (bound, count) in &s.buckets {
        name.write(out, &format!(".{}", bucket_name(*bound)), *count);
    }
}

/// The name that a series is given, if it is not its own.
pub(super) fn escaped(series: &Series) -> Option<String> {
    let name = Name::new(series);
    name.changed.then(|| name.name + &name.tags)
}

/// `.p99`, `.p99_9`, `.top10` for a percentile from the top.
fn percentile_suffix(percentile: f64) -> String {
    let text = number(percentile.abs()).replace('.', "_");
    if percentile < 0.0 { format!(".top{text}") } else { format!(".p{text}") }
}

/// A series' name and tags, escaped.
pub(super) struct Name {
    name: String,
    tags: String,
    changed: bool,
}

impl Name {
    pub(super) fn new(series: &Series) -> Name {
        let mut changed = false;
        let name = escape(series.name(), &[';'], &mut changed);
        let mut tags = String::new();
        for (key, value) in series.tags() {
            tags.push(';');
            tags.push_str(&escape(key, &[';', '='], &mut changed));
            tags.push('=');
            // Graphite has no tag without a value, and no empty one.
            match value {
                Some("") => tags.push('_'),
                Some(value) => tags.push_str(&escape(value, &[';'], &mut changed)),
                None => tags.push_str("true"),
            }
            changed |= value.is_none_or(str::is_empty);
        }
        Name { name, tags, changed }
    }

    pub(super) fn write(&self, out: &mut Writer, aggregate: &str, value: f64) {
        out.line(&[&self.name, aggregate, &self.tags], value);
    }
}

fn escape(text: &str, special: &[char], changed: &mut bool) -> String {
    let mut escaped: String = text
        .chars()
        .map(|c| {
            let bad = c.is_whitespace() || is_active(c) || special.contains(&c);
            *changed |= bad;
            if bad { '_' } else { c }
        })
        .collect();
    if escaped.starts_with('~') {
        // Graphite refuses a tag value that begins so.
        escaped.replace_range(..1, "_");
        *changed = true;
    }
    escaped
}
