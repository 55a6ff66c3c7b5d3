//! What a server writes, read as samples: Graphite's plaintext, Prometheus' text, and StatsD lines.
//!
//! StatsD lines are read here, and not by `protocol`: what is judged is not its own judge.

use std::collections::{BTreeMap, BTreeSet};

/// A value that came out.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample {
    /// As it was written, without tags. Of StatsD lines: name and type, and the figure: `name|c`, `name|ms.count`.
    pub(super) name: String,
    pub(super) tags: BTreeMap<String, String>,
    pub(super) value: f64,
}

/// `name;tag=value 12 1700000000`.
pub(super) fn graphite(line: &str) -> Option<Sample> {
    let mut parts = line.trim_end().rsplitn(3, ' ');
    let (_, value, name) = (parts.next()?, parts.next()?, parts.next()?);
    let mut pieces = name.split(';');
    let name = pieces.next()?.to_string();
    let tags =
        pieces.filter_map(|piece| piece.split_once('=')).map(|(key, value)| (key.into(), value.into())).collect();
    Some(Sample { name, tags, value: value.parse().ok()? })
}

/// The samples of a scrape; comments and what is not of the format are passed over.
pub(super) fn prometheus(text: &str) -> Vec<Sample> {
    text.lines().filter(|line| !line.starts_with('#')).filter_map(exposed).collect()
}

/// `name{label="value"} 12`.
fn exposed(line: &str) -> Option<Sample> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut tags = BTreeMap::new();
    if let Some(labels) = rest.strip_prefix('{') {
        rest = labels;
        loop {
            rest = rest.trim_start_matches([',', ' ']);
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            let (key, after) = rest.split_once("=\"")?;
            let (value, after) = quoted(after)?;
            tags.insert(key.trim().to_string(), value);
            rest = after;
        }
    }
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample { name: name.to_string(), tags, value })
}

/// A label's value up to its closing quote, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match chars.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}

/// A series of StatsD lines, and what they came to.
#[derive(Debug)]
struct Totals {
    sum: f64,
    count: f64,
    last: f64,
    min: f64,
    max: f64,
    members: BTreeSet<String>,
}

impl Totals {
    fn new() -> Totals {
        let (min, max) = (f64::INFINITY, f64::NEG_INFINITY);
        Totals { sum: 0.0, count: 0.0, last: 0.0, min, max, members: BTreeSet::new() }
    }

    fn add(&mut self, text: &str, weight: f64) {
        self.members.insert(text.to_string());
        let Ok(value) = text.parse::<f64>() else { return };
        self.sum += value * weight;
        self.count += weight;
        self.last = if text.starts_with(['+', '-']) { self.last + value } else { value };
        self.min = self.min.min(value);
        self.max = self.max.max(value);
    }
}

/// StatsD lines, aggregated over the whole run.
#[derive(Debug, Default)]
pub(super) struct StatsdLines {
    series: BTreeMap<(String, String, BTreeMap<String, String>), Totals>,
}

impl StatsdLines {
    /// Adds a line: `name:1:2|ms|@0.5|#key:value`.
    pub(super) fn add(&mut self, line: &str) {
        let mut fields = line.trim_end().split('|');
        let Some((name, values)) = fields.next().and_then(|head| head.split_once(':')) else { return };
        let Some(kind) = fields.next() else { return };
        let (mut weight, mut tags) = (1.0, BTreeMap::new());
        for field in fields {
            if let Some(rate) = field.strip_prefix('@').and_then(|rate| rate.parse::<f64>().ok()) {
                weight = 1.0 / rate;
            } else if let Some(list) = field.strip_prefix('#') {
                let pairs = list.split(',').filter_map(|tag| tag.split_once(':'));
                tags.extend(pairs.map(|(key, value)| (key.to_string(), value.to_string())));
            }
        }
        let totals = self.series.entry((name.into(), kind.into(), tags)).or_insert_with(Totals::new);
        values.split(':').for_each(|value| totals.add(value, weight));
    }

    /// What the lines came to.
    pub(super) fn samples(&self) -> Vec<Sample> {
        let mut all = Vec::new();
        for ((name, kind, tags), totals) in &self.series {
            let mut push = |figure: &str, value: f64| {
                all.push(Sample { name: format!("{name}|{kind}{figure}"), tags: tags.clone(), value });
            };
            match kind.as_str() {
                "c" => push("", totals.sum),
                "g" => push("", totals.last),
                "s" => push("", totals.members.len() as f64),
                _ => {
                    push(".count", totals.count);
                    push(".sum", totals.sum);
                    push(".min", totals.min);
                    push(".max", totals.max);
                }
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(name: &str, tags: &[(&str, &str)], value: f64) -> Sample {
        let tags = tags.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        Sample { name: name.into(), tags, value }
    }

    #[test]
    fn plaintext_has_tags_behind_the_name_and_spaces_only_where_a_server_left_them() {
        assert_eq!(graphite("a.count;k=v 4 17\n"), Some(sample("a.count", &[("k", "v")], 4.0)));
        assert_eq!(graphite("a b.count 1e3 17"), Some(sample("a b.count", &[], 1000.0)));
        assert_eq!(graphite("a.count 4"), None);
    }

    #[test]
    fn an_exposition_is_read_with_its_labels() {
        let text = "# TYPE a counter\na_total{k=\"v\\\"w\",l=\"}\"} 4 17\nb 2.5\nbroken{k=v} 1\n";
        assert_eq!(prometheus(text), [sample("a_total", &[("k", "v\"w"), ("l", "}")], 4.0), sample("b", &[], 2.5)]);
    }

    #[test]
    fn lines_come_to_sums_last_values_members_and_what_timers_had() {
        let mut lines = StatsdLines::default();
        for line in ["c:2|c|@0.5|#k:v\n", "c:1|c|#k:v", "g:5|g", "g:-7|g", "s:a|s", "s:a|s", "s:b|s", "t:1:3|ms|@0.5"] {
            lines.add(line);
        }
        let found = lines.samples();
        for expected in [
            sample("c|c", &[("k", "v")], 5.0),
            sample("g|g", &[], -2.0),
            sample("s|s", &[], 2.0),
            sample("t|ms.count", &[], 4.0),
            sample("t|ms.sum", &[], 8.0),
            sample("t|ms.min", &[], 1.0),
            sample("t|ms.max", &[], 3.0),
        ] {
            assert!(found.contains(&expected), "{expected:?} in {found:?}");
        }
    }
}
