//! `[[rule]]`: what series are called, which tags they keep, whether they are kept, how they are summed up and where
//! they go.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use toml::Value;

use crate::aggregate::pattern::{Pattern, PatternKind};
use crate::aggregate::rules::{Rule, Rules, highest_reference};
use crate::aggregate::{GaugePolicy, SeriesOverrides};
use crate::protocol::Kind;
use crate::settings::{
    ItemsOf, List, Opt, OptionVisitor, Parsed, TablesOf, Wrong, choice, count, maybe, maybe_count, maybe_pairs,
    suggestion,
};

use super::schema::LIFETIME;

/// Longest pace, in intervals.
const MAX_EVERY: u64 = 10_000;

/// What values may be multiplied by.
const MOST_SCALE: RangeInclusive<f64> = -1e15..=1e15;

pub(super) fn describe(visitor: &mut dyn OptionVisitor, _: &str, doc: &'static str, rules: &mut Arc<Rules>) {
    let mut all = rules.all().to_vec();
    visitor.sections("rule", doc, &mut TablesOf { tables: &mut all, new: |_| Rule::default(), describe: one });
    *rules = Arc::new(Rules::new(all));
}

fn one(rule: &mut Rule, v: &mut dyn OptionVisitor) {
    pattern(rule, v);
    maybe_pairs(v, "tags", "Only series with these tags; the values are patterns.", &mut rule.tags);
    v.example("tags", "{ env = \"prod*\" }");
    kinds(v, &mut rule.kinds);
    renaming(rule, v);
    overrides(&mut rule.overrides, v);
    let does_something = rule.drop
        || rule.rename.is_some()
        || !rule.drop_tags.is_empty()
        || rule.keep_tags.is_some()
        || !rule.add_tags.is_empty()
        || rule.scale != 1.0
        || rule.help.is_some()
        || rule.overrides != SeriesOverrides::default();
    let right = "it does nothing; say what it does, such as `rename`, `drop`, `drop_tags` or `percentiles`";
    v.require("", if does_something { Ok(()) } else { Err(right.into()) });
}

/// What names are matched by, in one of the forms of a pattern.
fn pattern(rule: &mut Rule, v: &mut dyn OptionVisitor) {
    let is_written = |form: PatternKind| !v.is_reader() && rule.pattern.form() == form;
    let mut texts = PatternKind::ALL.map(|form| is_written(form).then(|| rule.pattern.text().to_string()));
    let [text, parts, regex] = &mut texts;
    maybe(v, PatternKind::Text.key(), "Pattern of the names.", text, |text| Opt::Text(text));
    v.example("match", "\"api.*.*.time\"");
    let doc = "The same with stars that take one part of a dotted name each, in place of `match`.";
    maybe(v, PatternKind::Parts.key(), doc, parts, |text| Opt::Text(text));
    v.example("match_parts", "\"api.*.*.time\"");
    let doc =
        "A regular expression (RE2) that is found anywhere in the names, in place of `match`; $1 is its first group.";
    maybe(v, PatternKind::Regex.key(), doc, regex, |text| Opt::Text(text));
    v.example("match_regex", "'^api\\.(\\w+)\\.time$'");
    v.require_one("match", texts.iter().any(Option::is_some), "\"api.*\"");
    let mut said = PatternKind::ALL.into_iter().zip(texts).filter_map(|(form, text)| Some((form, text?)));
    let Some((form, text)) = said.next() else { return };
    if let Some((other, _)) = said.next() {
        let right = format!("it stands beside `{}`, and one of them is right", form.key());
        v.require(other.key(), Err(right));
    }
    rule.pattern = Pattern::new(form, text.clone()).unwrap_or_else(|why| {
        v.require(form.key(), Err(format!("`{text}` is no regular expression: {why}; '^api\\.(\\w+)$' is right")));
        Pattern::default()
    });
}

/// Only some types: one, or several.
fn kinds(v: &mut dyn OptionVisitor, kinds: &mut Vec<Kind>) {
    fn kind(word: &str) -> Result<Option<Kind>, Wrong> {
        match Kind::ALL.into_iter().find(|kind| kind.name() == word) {
            // A meter is a counter from the start.
            Some(Kind::Meter) => Ok(Some(Kind::Counter)),
            Some(kind) => Ok(Some(kind)),
            None => {
                let all = Kind::ALL.map(|kind| format!("`{}`", kind.name())).join(", ");
                let hint = suggestion(word, Kind::ALL.iter().map(|kind| kind.name()));
                Err(Wrong::Because(format!("`{word}` is none of {all}{hint}")))
            }
        }
    }
    let mut is_there = !kinds.is_empty();
    let mut items = ItemsOf { items: kinds, read: kind, show: |kind| kind.name().into() };
    let list = List { items: &mut items, form: "a type, or several", takes_numbers: false, or_one: true };
    v.field("type", "Only series of these types.", Opt::Maybe(&mut is_there, Box::new(Opt::List(list))));
    v.example("type", "[\"timer\", \"histogram\"]");
}

/// Names and tags.
fn renaming(rule: &mut Rule, v: &mut dyn OptionVisitor) {
    let (groups, key) = (rule.pattern.groups(), rule.pattern.form().key());
    let what = if rule.pattern.form() == PatternKind::Regex { "groups" } else { "stars" };
    let right = format!("a text whose highest `$` is the number of {what} in `{key}`, which is {groups}");
    // Of what was refused nothing is known.
    let is_known = !rule.pattern.text().is_empty();
    let refers_right = |template: &str| !is_known || highest_reference(template) <= groups;
    let shown = rule.rename.as_deref().map(Value::from);
    let mut read = |to: &str| {
        rule.rename = Some(to.to_string());
        if to.is_empty() || !refers_right(to) { Err(Wrong::Not(right.clone())) } else { Ok(()) }
    };
    let parsed = Parsed { shown, form: "a text", takes_numbers: false, read: &mut read };
    v.field("rename", "The new name: $1, $2 … stand for what the stars of `match` matched.", Opt::Parsed(parsed));
    v.example("rename", "\"api.time\"");
    maybe(v, "help", "What the series are, for Prometheus.", &mut rule.help, |text| Opt::Text(text));
    v.example("help", "\"Time of a request\"");
    v.field("drop", "Drop the samples, and count them.", Opt::Flag(&mut rule.drop));
    v.field("drop_tags", "Patterns of keys of tags that are dropped.", Opt::Texts(&mut rule.drop_tags));
    v.example("drop_tags", "[\"request_id\"]");
    maybe(v, "keep_tags", "Patterns of keys of the only tags that are kept.", &mut rule.keep_tags, |v| Opt::Texts(v));
    v.example("keep_tags", "[\"env\", \"host\"]");
    maybe_pairs(v, "add_tags", "Tags that are added or replaced; $1, $2 … as in `rename`.", &mut rule.add_tags);
    v.example("add_tags", "{ route = \"$1\", verb = \"$2\" }");
    let odd = rule.add_tags.iter().find(|(_, value)| !refers_right(value));
    v.require("add_tags", odd.map_or(Ok(()), |(tag, _)| Err(format!("`{tag}` is not {right}"))));
    let doc = "Tags that were sent stay; `add_tags` adds those that were not.";
    v.field("honor_tags", doc, Opt::Flag(&mut rule.honor_tags));
    let doc = "Every value is multiplied by it; lines of such series are looked up by their rule each time.";
    v.field("scale", doc, Opt::Number(&mut rule.scale, MOST_SCALE));
}

/// What holds for its series in place of the settings of all.
fn overrides(own: &mut SeriesOverrides, v: &mut dyn OptionVisitor) {
    maybe(v, "percentiles", "In place of the daemon's `percentiles`.", &mut own.percentiles, |all| {
        Opt::Numbers(all, -100.0..=100.0)
    });
    v.example("percentiles", "[99, 99.99]");
    let mut is_there = !own.buckets.is_empty();
    let buckets = Opt::Numbers(&mut own.buckets, f64::MIN..=f64::MAX);
    let doc = "Bounds: how many values of a timer lie at or below each.";
    v.field("buckets", doc, Opt::Maybe(&mut is_there, Box::new(buckets)));
    v.example("buckets", "[10, 50, 100]");
    let is_ascending = own.buckets.windows(2).all(|two| two[0] < two[1]);
    let right = "not in ascending order; `buckets = [10, 50, 100]` is right";
    v.require("buckets", if is_ascending { Ok(()) } else { Err(right.into()) });
    maybe_count(v, "digits", "In place of the daemon's `digits`.", &mut own.digits, 1..=5);
    v.example("digits", "4");
    choice(v, "gauge", "What is flushed of a gauge's values in an interval.", &GaugePolicy::NAMES, &mut own.gauge);
    let mut ttl = own.ttl.map(|ttl| ttl.map(Duration::from_secs_f64));
    let doc = "How long a series stays without an update, in place of `gauge_ttl` and `series_ttl`.";
    maybe(v, "ttl", doc, &mut ttl, |ttl| Opt::Lifetime(ttl, LIFETIME));
    v.example("ttl", "\"1h\"");
    own.ttl = ttl.map(|ttl| ttl.map(|ttl| ttl.as_secs_f64()));
    fn name(text: &str) -> Result<Option<String>, Wrong> {
        Ok(Some(text.to_string()).filter(|name| !name.is_empty()))
    }
    let mut is_there = own.sinks.is_some();
    let mut names = own.sinks.take().unwrap_or_default();
    let mut items = ItemsOf { items: &mut names, read: name, show: |name| name.as_str().into() };
    let list = List { items: &mut items, form: "names of sinks", takes_numbers: false, or_one: false };
    let doc = "Only these sinks get it; `[]` is none.";
    v.field("sinks", doc, Opt::Maybe(&mut is_there, Box::new(Opt::List(list))));
    v.example("sinks", "[\"console\"]");
    own.sinks = is_there.then_some(names);
    count(v, "interval", "Flushed in every so-many-th interval.", &mut own.every, 1..=MAX_EVERY);
    v.example("interval", "6");
}
