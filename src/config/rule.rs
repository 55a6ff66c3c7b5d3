//! `[[rule]]`: what series are called, which tags they keep, whether they are kept.

use toml::Value;

use crate::aggregate::rules::{Rule, highest_reference, stars};

use super::print::Out;
use super::reader::{Section, Source};

pub(super) fn read(root: &mut Section<'_>, s: &mut Source<'_>) -> Vec<Rule> {
    let sections = root.sections(s, "rule");
    sections.into_iter().filter_map(|(section, place)| rule(section, &place, s)).collect()
}

fn rule(mut section: Section<'_>, place: &str, s: &mut Source<'_>) -> Option<Rule> {
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
        || !rule.add_tags.is_empty();
    section.finish(s);
    if !does_something && s.problems.len() == before {
        let right = "`rename`, `drop`, `drop_tags`, `keep_tags` or `add_tags` is right";
        s.problem(place.to_string(), "rule", format!("it does nothing; {right}"));
    }
    pattern.map(|_| rule)
}

pub(super) fn print(out: &mut Out, rule: &Rule) {
    let list = |all: &[String]| Value::Array(all.iter().map(|item| Value::from(item.as_str())).collect());
    let table = |all: &[(String, String)]| {
        Value::Table(all.iter().map(|(key, value)| (key.clone(), Value::from(value.as_str()))).collect())
    };
    out.head("[[rule]]");
    out.set("match", rule.pattern.as_str());
    if !rule.tags.is_empty() {
        out.set("tags", table(&rule.tags));
    }
    if let Some(rename) = &rule.rename {
        out.set("rename", rename.as_str());
    }
    out.set("drop", rule.drop);
    out.set("drop_tags", list(&rule.drop_tags));
    if let Some(kept) = &rule.keep_tags {
        out.set("keep_tags", list(kept));
    }
    if !rule.add_tags.is_empty() {
        out.set("add_tags", table(&rule.add_tags));
    }
}
