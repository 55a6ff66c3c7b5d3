//! The tests of a configuration: for each the lines go through the daemon's own parser, rules and flush, alone and within one
//! interval, and the records that come out are held to what is expected.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::{Map, Value};

use crate::assemble;
use crate::codec::Records;
use crate::config::{Config, Expectation, Origins, Test};
use crate::explain::Explainer;
use crate::glob;
use crate::snapshot::short_number;
use crate::untrusted::Escaped;

/// How far two numbers may be apart to be equal, as a part of the larger one.
const EQUAL: f64 = 1e-6;

/// Records that are listed where an expected one is missing.
const LISTED: usize = 8;

/// What is not as a test expects it.
#[derive(Debug)]
pub(super) struct Failure {
    /// The number of the test.
    test: usize,
    /// Where it stands.
    place: String,
    name: String,
    message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.place.is_empty() {
            write!(f, "{}: ", Escaped(&self.place))?;
        }
        write!(f, "test `{}`: {}", Escaped(&self.name), Escaped(&self.message))
    }
}

/// How many tests failed.
pub(super) fn count(failures: &[Failure]) -> usize {
    failures.iter().map(|failure| failure.test).collect::<BTreeSet<_>>().len()
}

/// Runs the tests of a configuration.
pub(super) fn failures(config: &Config, origins: &Origins) -> Vec<Failure> {
    if config.tests.is_empty() {
        return Vec::new();
    }
    let explainer = assemble::explainer(config, origins);
    let run = |(n, test): (usize, &Test)| {
        let place = |path: &str| origins.place_of(path).unwrap_or("").to_string();
        let own = format!("test[{n}]");
        let failure = move |(expected, message): (Option<usize>, String)| Failure {
            test: n,
            place: place(&expected.map_or(own.clone(), |number| format!("{own}.expect[{number}]"))),
            name: test.name.clone(),
            message,
        };
        problems(test, &explainer, &config.tags).into_iter().map(failure).collect::<Vec<_>>()
    };
    config.tests.iter().enumerate().flat_map(run).collect()
}

/// What is wrong, each with the number of the expectation that it is about.
fn problems(test: &Test, explainer: &Explainer, common: &BTreeMap<String, String>) -> Vec<(Option<usize>, String)> {
    let datagram = test.lines.join("\n");
    let mut all = Vec::new();
    let faults = explainer.read(datagram.as_bytes()).faults;
    if faults.len() as u64 != test.malformed {
        let first = faults.first().map_or(String::new(), |(line, error)| {
            format!(": `{}`: {}", String::from_utf8_lossy(line), error.message())
        });
        all.push((None, format!("malformed lines: {} in place of {}{first}", faults.len(), test.malformed)));
    }
    let records = records(explainer, datagram.as_bytes(), common);
    let without_common = |expected: &Expectation| {
        let mut own = expected.clone();
        own.tags.retain(|(key, value)| common.get(key) != Some(value));
        own
    };
    let expected: Vec<Expectation> = test.expect.iter().map(without_common).collect();
    for (n, expected) in expected.iter().enumerate() {
        all.extend(problem(expected, &records).map(|problem| (Some(n), problem)));
    }
    if test.only {
        let is_expected = |record: &Record| expected.iter().any(|expected| record.is(expected));
        let others = records.iter().filter(|record| !is_expected(record));
        all.extend(others.map(|record| (None, format!("{record} came, which nothing expects"))));
    }
    all
}

/// A record that came.
struct Record {
    kind: String,
    name: String,
    /// Without those that every series gets.
    tags: BTreeMap<String, String>,
    fields: Map<String, Value>,
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{} {}", self.kind, self.name)?;
        for (key, value) in &self.tags {
            write!(f, ";{key}={value}")?;
        }
        write!(f, "`")
    }
}

/// What is flushed of a datagram, without the tags that every series gets.
fn records(explainer: &Explainer, datagram: &[u8], common: &BTreeMap<String, String>) -> Vec<Record> {
    let snapshot = explainer.flushed(datagram);
    let mut all = Vec::new();
    Records { only: None, sorted: true, ledger: false }.each(&snapshot, |record| {
        // What was just written reads back.
        let Ok(Value::Object(fields)) = serde_json::from_slice(record.json) else { return };
        let text = |key: &str| fields.get(key).and_then(Value::as_str).unwrap_or("").to_string();
        let tags = fields.get("tags").and_then(Value::as_object).into_iter().flatten();
        // A tag without a value is null, and a repeated key an array.
        let shown = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_string);
        let tags = tags.map(|(key, value)| (key.clone(), if value.is_null() { String::new() } else { shown(value) }));
        let own = tags.filter(|(key, value)| common.get(key) != Some(value));
        all.push(Record { kind: text("type"), name: text("name"), tags: own.collect(), fields });
    });
    all
}

impl Record {
    /// Whether it is the one that is expected, whatever its numbers are.
    fn is(&self, expected: &Expectation) -> bool {
        let tags = expected.tags.iter().cloned().collect::<BTreeMap<_, _>>();
        glob::matches(&expected.name, &self.name)
            && expected.kind.is_none_or(|kind| kind.name() == self.kind)
            && (!expected.has_tags || tags == self.tags)
    }

    /// Which numbers are not those that are expected.
    fn differences(&self, expected: &Expectation) -> Vec<String> {
        let numbers = expected.numbers.iter().map(|(key, number)| (key.to_string(), self.fields.get(*key), *number));
        let within = |field: &'static str, numbers: &BTreeMap<String, f64>| {
            let of = |(key, number): (&String, &f64)| {
                let found = self.fields.get(field).and_then(|all| all.get(key));
                (format!("{field}.{key}"), found, *number)
            };
            numbers.iter().map(of).collect::<Vec<_>>()
        };
        let all =
            numbers.chain(within("percentiles", &expected.percentiles)).chain(within("buckets", &expected.buckets));
        let difference = |(key, found, wanted): (String, Option<&Value>, f64)| match found.and_then(Value::as_f64) {
            Some(came) if (came - wanted).abs() <= EQUAL * came.abs().max(wanted.abs()) => None,
            Some(came) => Some(format!("{key} is {} in place of {}", short_number(came), short_number(wanted))),
            None => Some(format!("it has no {key}")),
        };
        all.filter_map(difference).collect()
    }
}

/// What is wrong with one expectation, if something is.
fn problem(expected: &Expectation, records: &[Record]) -> Option<String> {
    let matching: Vec<&Record> = records.iter().filter(|record| record.is(expected)).collect();
    if expected.absent {
        return matching.first().map(|record| format!("{record} came, which must not"));
    }
    let differences: Vec<Vec<String>> = matching.iter().map(|record| record.differences(expected)).collect();
    if differences.iter().any(Vec::is_empty) {
        return None;
    }
    let nearest = matching.iter().zip(&differences).min_by_key(|(_, differences)| differences.len());
    Some(match nearest {
        Some((record, differences)) => format!("{record}: {}", differences.join(", ")),
        None => format!("{} did not come; {}", wanted(expected), came(expected, records)),
    })
}

/// What is expected, in words.
fn wanted(expected: &Expectation) -> String {
    let kind = expected.kind.map_or(String::new(), |kind| format!("{} ", kind.name()));
    let tags: String = expected.tags.iter().map(|(key, value)| format!(";{key}={value}")).collect();
    let none = if expected.has_tags && tags.is_empty() { " without tags" } else { "" };
    format!("`{kind}{}{tags}`{none}", expected.name)
}

/// What came instead, the most alike first.
fn came(expected: &Expectation, records: &[Record]) -> String {
    if records.is_empty() {
        return "nothing came".into();
    }
    let distance = |record: &&Record| {
        let is_other_kind = expected.kind.is_some_and(|kind| kind.name() != record.kind);
        (strsim::damerau_levenshtein(&expected.name, &record.name), is_other_kind)
    };
    let mut nearest: Vec<&Record> = records.iter().collect();
    nearest.sort_by_cached_key(distance);
    let rest = nearest.len().saturating_sub(LISTED);
    let listed: Vec<String> = nearest.iter().take(LISTED).map(ToString::to_string).collect();
    format!("{} came{}", listed.join(", "), if rest > 0 { format!(", and {rest} others") } else { String::new() })
}
