//! Naming `systole`: `name.count` and `name.rate`; a gauge or set bare; `name.mean`, `name.p99` and the like.

use crate::inert::is_active;
use crate::series::Series;
use crate::snapshot::{Snapshot, number};

use super::Writer;

pub(super) fn write(snapshot: &Snapshot, out: &mut Writer) {
    for point in &snapshot.counters {
        let name = Name::new(&point.series);
        let value = point.sum.value();
        name.write(out, ".count", value);
        name.write(out, ".rate", snapshot.rate(value));
    }
    for point in &snapshot.gauges {
        Name::new(&point.series).write(out, "", point.gauge.value());
    }
    for point in &snapshot.timers {
        let (name, s) = (Name::new(&point.series), &point.summary);
        name.write(out, ".count", s.count);
        name.write(out, ".rate", snapshot.rate(s.count));
        if s.samples == 0 {
            continue;
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
    }
    for point in &snapshot.sets {
        Name::new(&point.series).write(out, "", point.members.count());
    }
    for point in &snapshot.kvs {
        let name = Name::new(&point.series);
        point.values.iter().for_each(|&value| name.write(out, "", value));
    }
}

/// `.p99`, `.p99_9`, `.top10` for a percentile from the top.
fn percentile_suffix(percentile: f64) -> String {
    let text = number(percentile.abs()).replace('.', "_");
    if percentile < 0.0 { format!(".top{text}") } else { format!(".p{text}") }
}

/// A series' name and tags, escaped.
struct Name {
    name: String,
    tags: String,
    changed: bool,
}

impl Name {
    fn new(series: &Series) -> Name {
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

    fn write(&self, out: &mut Writer, aggregate: &str, value: f64) {
        if self.changed {
            out.changed.push(format!("{}{aggregate}{}", self.name, self.tags));
        }
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
