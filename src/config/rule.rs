//! `[[rule]]`: what series are called, which tags they keep, whether they are kept, how they are summed up and where
//! they go.

use std::time::Duration;

use toml::Value;

use crate::aggregate::rules::{Rule, highest_reference, stars};
use crate::aggregate::{GaugePolicy, SeriesOverrides};
use crate::protocol::Kind;

use super::load::LIFETIME;
use super::print::{Out, number, strings};
use super::reader::{Section, Source, suggestion};
use super::schema::Sink;
use super::value::show_duration;

/// Longest pace, in intervals.
const MAX_EVERY: u64 = 10_000;

/// The rules; `sinks` are those that there are.
pub(super) fn read(root: &mut Section<'_>, s: &mut Source<'_>, sinks: &[Sink]) -> Vec<Rule> {
    let sections = root.sections(s, "rule");
    sections.into_iter().filter_map(|(section, place)| rule(section, &place, s, sinks)).collect()
}

fn rule(mut section: Section<'_>, place: &str, s: &mut Source<'_>, sinks: &[Sink]) -> Option<Rule> {
    let before = s.problems.len();
    let pattern = section.string(s, "match");
    if pattern.is_none() && s.problems.len() == before {
        section.missing(s, place, "match", "\"api.*\"");
    }
    let stars = pattern.as_deref().map_or(0, stars);
    let refers_right = |template: &str| highest_reference(template) <= stars;
    let right = format!("a text whose highest `$` is the number of stars in `match`, which is {stars}");
    let rename = section.find(s, "rename").and_then(|found| {
        let to = found.string(s)?;
        if to.is_empty() || !refers_right(&to) {
            found.refuse(s, &right);
        }
        Some(to)
    });
    let added = section.find(s, "add_tags").map(|found| (found.place.clone(), found.key.clone()));
    let add_tags: Vec<(String, String)> = section.map(s, "add_tags").unwrap_or_default().into_iter().collect();
    if let (Some((place, key)), Some((tag, _))) = (added, add_tags.iter().find(|(_, value)| !refers_right(value))) {
        s.problem(place, &format!("{key}.{tag}"), format!("not {right}"));
    }
    let rule = Rule {
        kinds: kinds(&mut section, s),
        overrides: overrides(&mut section, s, sinks),
        tags: section.map(s, "tags").unwrap_or_default().into_iter().collect(),
        rename,
        drop: section.bool(s, "drop").unwrap_or(false),
        drop_tags: section.strings(s, "drop_tags").unwrap_or_default(),
        keep_tags: section.strings(s, "keep_tags"),
        add_tags,
        pattern: pattern.clone().unwrap_or_default(),
    };
    let does_something = rule.drop
        || rule.rename.is_some()
        || !rule.drop_tags.is_empty()
        || rule.keep_tags.is_some()
        || !rule.add_tags.is_empty()
        || rule.overrides != SeriesOverrides::default();
    section.finish(s);
    if !does_something && s.problems.len() == before {
        let right = "say what it does, such as `rename`, `drop`, `drop_tags` or `percentiles`";
        s.problem(place.to_string(), "rule", format!("it does nothing; {right}"));
    }
    pattern.map(|_| rule)
}

/// One type, or several.
fn kinds(section: &mut Section<'_>, s: &mut Source<'_>) -> Vec<Kind> {
    let mut kinds = Vec::new();
    for found in section.one_or_more(s, "type") {
        let Some(word) = found.string(s) else { continue };
        match Kind::ALL.into_iter().find(|kind| kind.name() == word) {
            // A meter is a counter from the start.
            Some(Kind::Meter) => kinds.push(Kind::Counter),
            Some(kind) => kinds.push(kind),
            None => {
                let all = Kind::ALL.map(|kind| format!("`{}`", kind.name())).join(", ");
                let hint = suggestion(&word, Kind::ALL.iter().map(|kind| kind.name()));
                s.problem(found.place, &found.key, format!("`{word}` is none of {all}{hint}"));
            }
        }
    }
    kinds
}

fn overrides(section: &mut Section<'_>, s: &mut Source<'_>, sinks: &[Sink]) -> SeriesOverrides {
    let mut overrides = SeriesOverrides {
        percentiles: section.numbers(s, "percentiles", -100.0..=100.0),
        ..SeriesOverrides::default()
    };
    if let Some(found) = section.find(s, "buckets") {
        overrides.buckets = section.numbers(s, "buckets", f64::MIN..=f64::MAX).unwrap_or_default();
        if !overrides.buckets.windows(2).all(|two| two[0] < two[1]) {
            s.problem(found.place, &found.key, "not in ascending order; `buckets = [10, 50, 100]` is right");
        }
    }
    overrides.digits = section.integer(s, "digits", 1..=5).map(|digits| digits as u8);
    overrides.gauge = section.choice(s, "gauge", &GaugePolicy::NAMES).unwrap_or_default();
    overrides.ttl = section.lifetime(s, "ttl", LIFETIME).map(|ttl| ttl.map(|ttl| ttl.as_secs_f64()));
    if let Some(items) = section.list(s, "sinks") {
        let mut names = Vec::new();
        for item in items {
            let Some(name) = item.string(s).filter(|name| !name.is_empty()) else { continue };
            if !sinks.iter().any(|sink| sink.name == name) {
                let hint = suggestion(&name, sinks.iter().map(|sink| sink.name.as_str()));
                s.problem(item.place, &item.key, format!("no sink is called `{name}`{hint}"));
            }
            names.push(name);
        }
        overrides.sinks = Some(names);
    }
    overrides.every = section.integer(s, "interval", 1..=MAX_EVERY).unwrap_or(1) as u32;
    overrides
}

pub(super) fn print(out: &mut Out, rule: &Rule) {
    let table = |all: &[(String, String)]| {
        Value::Table(all.iter().map(|(key, value)| (key.clone(), Value::from(value.as_str()))).collect())
    };
    out.head("[[rule]]");
    out.set("match", rule.pattern.as_str());
    if !rule.tags.is_empty() {
        out.set("tags", table(&rule.tags));
    }
    if !rule.kinds.is_empty() {
        out.set("type", Value::Array(rule.kinds.iter().map(|kind| Value::from(kind.name())).collect()));
    }
    if let Some(rename) = &rule.rename {
        out.set("rename", rename.as_str());
    }
    out.set("drop", rule.drop);
    out.set("drop_tags", strings(&rule.drop_tags));
    if let Some(kept) = &rule.keep_tags {
        out.set("keep_tags", strings(kept));
    }
    if !rule.add_tags.is_empty() {
        out.set("add_tags", table(&rule.add_tags));
    }
    let own = &rule.overrides;
    let numbers = |all: &[f64]| Value::Array(all.iter().map(|&n| number(n)).collect());
    if let Some(percentiles) = &own.percentiles {
        out.set("percentiles", numbers(percentiles));
    }
    if !own.buckets.is_empty() {
        out.set("buckets", numbers(&own.buckets));
    }
    if let Some(digits) = own.digits {
        out.set("digits", i64::from(digits));
    }
    out.set("gauge", own.gauge.name());
    if let Some(ttl) = own.ttl {
        out.set("ttl", ttl.map_or("forever".into(), |secs| show_duration(Duration::from_secs_f64(secs))));
    }
    if let Some(sinks) = &own.sinks {
        out.set("sinks", strings(sinks));
    }
    out.set("interval", i64::from(own.every));
}
