//! Naming `systole`: `name.count` and `name.rate`; a gauge or set bare; `name.mean`, `name.p99` and the like.

use std::borrow::Cow;

use crate::series::Series;
use crate::snapshot::{Aggregate, Point, Snapshot};
use crate::untrusted::is_active;

use super::{Writer, part};

pub(super) fn write(snapshot: &Snapshot, point: Point<'_>, out: &mut Writer) {
    let name = Name::new(point.series());
    let is_counter = matches!(point, Point::Counter(_));
    for (aggregate, value) in snapshot.aggregates(point) {
        name.write(out, &suffix(aggregate, is_counter), value);
    }
}

/// What follows a series' name, such as `.p99_9`.
fn suffix(aggregate: Aggregate, is_counter: bool) -> Cow<'static, str> {
    Cow::Borrowed(match aggregate {
        Aggregate::Value if is_counter => ".count",
        Aggregate::Value => "",
        Aggregate::Count => ".count",
        Aggregate::Rate => ".rate",
        Aggregate::Sum => ".sum",
        Aggregate::Min => ".min",
        Aggregate::Max => ".max",
        Aggregate::Mean => ".mean",
        Aggregate::Median => ".median",
        Aggregate::StdDev => ".stddev",
        Aggregate::Percentile(_) | Aggregate::Bucket(_) => return format!(".{}", part(&aggregate.name())).into(),
    })
}

/// The name that a series is given, if it is not its own.
pub(super) fn escaped(series: &Series) -> Option<String> {
    let name = Name::new(series);
    name.changed.then(|| name.name + &name.tags)
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
