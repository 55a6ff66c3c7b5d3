//! The vectors: lines of the dialects, each with its source and what an interval of it comes to.
//!
//! `vectors.jsonl` has a head with its format and one row a vector; `tests/oracle/conformance_vectors.py` makes it of the corpus
//! (`tests/corpus`). `{n}` stands before a name for what makes it unique in a run.

use std::collections::BTreeMap;

use clap::ValueEnum;
use serde::Deserialize;

const ROWS: &str = include_str!("vectors.jsonl");

/// What of the vectors a dialect has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Profile {
    /// The original: signed gauges, names cleaned as it does
    Etsy,
    /// DogStatsD: tags, sections behind them, several values
    Dogstatsd,
    /// Everything but the cleaning of names
    Systole,
}

impl Profile {
    /// The groups of vectors that are judged.
    pub(super) fn groups(self) -> &'static [&'static str] {
        match self {
            Profile::Etsy => &["statsd", "deltas", "names", "framing", "malformed", "hostile"],
            Profile::Dogstatsd => &["statsd", "packed", "dogstatsd", "clients", "framing", "malformed", "hostile"],
            Profile::Systole => &[
                "statsd",
                "deltas",
                "packed",
                "dogstatsd",
                "clients",
                "nametags",
                "framing",
                "disputed",
                "malformed",
                "hostile",
            ],
        }
    }
}

/// The type of an expected metric.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Type {
    Counter,
    Gauge,
    Set,
    Timer,
    Histogram,
    Distribution,
}

impl Type {
    pub(super) fn name(self) -> &'static str {
        match self {
            Type::Counter => "counter",
            Type::Gauge => "gauge",
            Type::Set => "set",
            Type::Timer => "timer",
            Type::Histogram => "histogram",
            Type::Distribution => "distribution",
        }
    }
}

/// What an interval of a series comes to.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Expected {
    #[serde(rename = "type")]
    pub(super) kind: Type,
    pub(super) name: String,
    pub(super) tags: BTreeMap<String, String>,
    /// Of a counter the sum, of a gauge the last value, of a set the number of members.
    value: Option<f64>,
    count: Option<f64>,
    sum: Option<f64>,
    min: Option<f64>,
    max: Option<f64>,
}

/// A figure of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Figure {
    Value,
    Count,
    Sum,
    Min,
    Max,
}

impl Figure {
    /// What stands before its value.
    pub(super) fn word(self) -> &'static str {
        match self {
            Figure::Value => "",
            Figure::Count => "a count of ",
            Figure::Sum => "a sum of ",
            Figure::Min => "a minimum of ",
            Figure::Max => "a maximum of ",
        }
    }
}

impl Expected {
    /// Every figure that is expected.
    pub(super) fn figures(&self) -> impl Iterator<Item = (Figure, f64)> {
        let all = [
            (Figure::Value, self.value),
            (Figure::Count, self.count),
            (Figure::Sum, self.sum),
            (Figure::Min, self.min),
            (Figure::Max, self.max),
        ];
        all.into_iter().filter_map(|(figure, value)| Some((figure, value?)))
    }
}

/// Lines, and what becomes of them.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Vector {
    pub(super) id: String,
    pub(super) group: String,
    pub(super) source: String,
    /// Datagrams; over TCP, parts of a stream that end in a newline.
    pub(super) send: Vec<String>,
    /// Nothing if all of it is malformed.
    pub(super) expect: Vec<Expected>,
    /// Why this is expected where sources differ.
    pub(super) decision: String,
    /// What stands for `{n}`.
    #[serde(skip)]
    pub(super) mark: String,
}

/// What the vectors are of.
#[derive(Debug, Deserialize)]
struct Head {
    format: String,
}

/// Their version.
pub(super) fn format() -> String {
    let head = ROWS.lines().next().and_then(|row| serde_json::from_str::<Head>(row).ok());
    head.expect("the first row is a head").format
}

/// The vectors of some groups, each with a mark of its own in its names.
pub(super) fn vectors(groups: &[&str]) -> Vec<Vector> {
    let rows = ROWS.lines().skip(1);
    let all = rows.map(|row| serde_json::from_str::<Vector>(row).expect("each row is a vector"));
    let judged = all.filter(|vector| groups.contains(&vector.group.as_str()));
    judged.enumerate().map(|(n, vector)| vector.marked(&format!("q{n:03}z"))).collect()
}

impl Vector {
    /// With a mark in its names.
    fn marked(mut self, mark: &str) -> Vector {
        self.mark = mark.to_string();
        self.send.iter_mut().for_each(|datagram| *datagram = datagram.replace("{n}", mark));
        self.expect.iter_mut().for_each(|expected| expected.name = expected.name.replace("{n}", mark));
        self
    }

    /// Whether a server may end or hang by it.
    pub(super) fn is_hostile(&self) -> bool {
        self.group == "hostile"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_vector_is_in_a_profile_and_has_its_source_and_its_decision() {
        let all: Vec<&str> = [Profile::Etsy, Profile::Systole].into_iter().flat_map(|p| p.groups().to_vec()).collect();
        let found = vectors(&all);
        assert_eq!(found.len() + 1, ROWS.lines().count());
        assert_eq!(format(), "systole-conformance/1");
        for vector in &found {
            assert!(
                !vector.source.is_empty() && !vector.decision.is_empty() && !vector.send.is_empty(),
                "{}",
                vector.id
            );
            assert!(vector.expect.iter().all(|expected| expected.figures().count() > 0), "{}", vector.id);
            assert!(!vector.send.concat().contains("{n}"));
        }
    }
}
