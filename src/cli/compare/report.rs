//! What a comparison has found, for people and as JSON.

use std::fmt;

use serde::Serialize;

use crate::presence::UnixTime;
use crate::snapshot::{grouped, short_number};

use super::super::listed::Listed;
use super::matching::{Comparison, Difference, MAX_NAMES, Name, Side, Stream};

/// What one of a list is called, and what several are.
const NAMES: [&str; 2] = ["name", "names"];

/// What a comparison has found.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    same: bool,
    a: StreamReport,
    b: StreamReport,
    /// Pairs of values that were compared, and those of them that a neighbouring interval had.
    compared: u64,
    moved: u64,
    /// Names on both sides.
    names: u64,
    /// Values of names beyond the most that are compared.
    beyond: u64,
    only_in_a: Listed<OneSided>,
    only_in_b: Listed<OneSided>,
    missing: Listed<Missing>,
    differing: Listed<Differing>,
}

#[derive(Debug, Serialize)]
struct StreamReport {
    intervals: u64,
    values: u64,
    malformed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    late: Option<Late>,
}

/// Seconds from the time of values until they arrived.
#[derive(Debug, Serialize)]
struct Late {
    mean: f64,
    max: f64,
}

#[derive(Debug, Serialize)]
struct OneSided {
    name: String,
    values: u64,
    first: f64,
}

#[derive(Debug, Serialize)]
struct Missing {
    name: String,
    compared: u64,
    missing_in_a: u64,
    missing_in_b: u64,
    first: f64,
}

#[derive(Debug, Serialize)]
struct Differing {
    name: String,
    compared: u64,
    differing: u64,
    first: Difference,
    largest: Difference,
}

impl Report {
    /// With at most so many names of each kind.
    pub(super) fn new(comparison: &Comparison, list: usize) -> Report {
        let mut names: Vec<(&String, &Name)> = comparison.names.iter().collect();
        names.sort_unstable_by_key(|(name, _)| *name);
        let one_sided = |side: Side| {
            let of = |(name, known): (&String, &Name)| {
                (known.only_on() == Some(side)).then(|| OneSided {
                    name: name.clone(),
                    values: known.alone[side as usize],
                    first: known.first_alone[side as usize].unwrap_or(0.0),
                })
            };
            Listed::of(names.iter().copied().filter_map(of), list)
        };
        let missing = |(name, known): (&String, &Name)| {
            known.has_gaps().then(|| Missing {
                name: name.clone(),
                compared: known.compared,
                missing_in_a: known.alone[Side::B as usize],
                missing_in_b: known.alone[Side::A as usize],
                first: known.first_alone.into_iter().flatten().reduce(f64::min).unwrap_or(0.0),
            })
        };
        let differing = |(name, known): (&String, &Name)| {
            let (first, largest) = (known.first?, known.largest?);
            Some(Differing { name: name.clone(), compared: known.compared, differing: known.differing, first, largest })
        };
        let sum = |of: fn(&Name) -> u64| names.iter().map(|(_, known)| of(known)).sum();
        let [a, b] = Side::BOTH.map(|side| StreamReport::of(&comparison.streams[side as usize]));
        let mut report = Report {
            same: false,
            a,
            b,
            compared: sum(|name| name.compared),
            moved: sum(|name| name.moved),
            names: sum(|name| u64::from(name.compared > 0)),
            beyond: comparison.beyond,
            only_in_a: one_sided(Side::A),
            only_in_b: one_sided(Side::B),
            missing: Listed::of(names.iter().copied().filter_map(missing), list),
            differing: Listed::of(names.iter().copied().filter_map(differing), list),
        };
        let found = [report.only_in_a.count, report.only_in_b.count, report.missing.count, report.differing.count];
        let is_whole = report.beyond + report.a.malformed + report.b.malformed == 0;
        report.same = report.compared > 0 && found == [0; 4] && is_whole;
        report
    }

    /// Whether there is no difference.
    pub(super) fn is_same(&self) -> bool {
        self.same
    }

    pub(super) fn json(&self) -> String {
        // Numbers and texts alone cannot fail.
        let mut text = serde_json::to_string(self).unwrap_or_default();
        text.push('\n');
        text
    }
}

impl StreamReport {
    fn of(stream: &Stream) -> StreamReport {
        let late = Late { mean: stream.late.0 / stream.timed.max(1) as f64, max: stream.late.1 };
        StreamReport {
            intervals: stream.intervals,
            values: stream.values,
            malformed: stream.malformed,
            late: (stream.timed > 0).then_some(late),
        }
    }
}

impl fmt::Display for StreamReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (intervals, values) = (grouped(self.intervals), grouped(self.values));
        write!(f, "{intervals} intervals, {values} values, {} malformed lines", grouped(self.malformed))?;
        match &self.late {
            Some(late) => {
                let (mean, max) = (short_number(late.mean), short_number(late.max));
                write!(f, ", {mean} s after their time on average, {max} s at most")
            }
            None => Ok(()),
        }
    }
}

fn at(time: f64) -> String {
    UnixTime::from_secs(time).clock()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "A  {}\nB  {}", self.a, self.b)?;
        let moved = match self.moved {
            0 => String::new(),
            moved => format!("; {} of them are in the neighbouring interval", grouped(moved)),
        };
        writeln!(f, "compared {} values of {} names{moved}", grouped(self.compared), grouped(self.names))?;
        if self.beyond > 0 {
            let (beyond, most) = (grouped(self.beyond), grouped(MAX_NAMES as u64));
            writeln!(
                f,
                "not compared: {beyond} values of names beyond the first {most}; `--ignore PATTERN` leaves names out"
            )?;
        }
        let alone = |one: &OneSided| format!("{}  {} values, the first at {}", one.name, one.values, at(one.first));
        self.only_in_a.write(f, "only in A", NAMES, alone)?;
        self.only_in_b.write(f, "only in B", NAMES, alone)?;
        self.missing.write(f, "not in every interval of both", NAMES, |one| {
            let Missing { name, compared, missing_in_a, missing_in_b, first } = one;
            let first = at(*first);
            format!(
                "{name}  {missing_in_a} missing in A, {missing_in_b} in B, {compared} in both; the first at {first}"
            )
        })?;
        self.differing.write(f, "values differ", NAMES, |one| {
            let shown = |one: &Difference| format!("A {}, B {}", short_number(one.a), short_number(one.b));
            let Differing { name, compared, differing, first, largest } = one;
            let most = if first == largest { String::new() } else { format!("; at most {}", shown(largest)) };
            format!("{name}  {differing} of {compared}, first at {}: {}{most}", at(first.time), shown(first))
        })?;
        let found = self.only_in_a.count + self.only_in_b.count + self.missing.count + self.differing.count;
        match (self.same, self.compared) {
            (true, _) => writeln!(f, "no difference"),
            (false, 1..) if found == 0 => writeln!(f, "no difference in what was compared, which is not all"),
            (false, 0) => writeln!(f, "nothing was compared: both have to send, for two intervals at least"),
            (false, _) => writeln!(f, "different"),
        }
    }
}
