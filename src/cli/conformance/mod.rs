//! `systole conformance`: judges any StatsD server over the wire. It starts the server, sends the vectors, reads what comes
//! out, and says which lines it reads as they are meant.
//!
//! A counter is sent until it comes out, so that all vectors fall into one interval; another one marks the end. A server that
//! ends is started again for those that are left, and the vector that ended it has failed.

mod naming;
mod samples;
mod server;
mod vectors;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::{FAILED, USAGE, duration, print, print_error};

use naming::{GRAPHITE, LINES, Naming, SCRAPE, letters};
use samples::Sample;
use server::{Gone, Output, Server, Start, Transport};
use vectors::{Expected, Profile, Vector, format, vectors};

/// Counters that mark the beginning and the end.
const FIRST: &str = "conformancefirst";
const LAST: &str = "conformancelast";

/// How long a server may take to end by a line that it has read.
const HOSTILE: Duration = Duration::from_millis(150);

/// Figures that differ by less, as a part, are the same: some servers keep them in 32 bits, or in decimals.
const TOLERANCE: f64 = 1e-6;

#[derive(Args)]
pub(super) struct ConformanceArgs {
    /// A shell's command that starts the server: {port} stands for its StatsD port, {out} for where it writes
    #[arg(long, value_name = "CMD", required_unless_present = "list")]
    server: Option<String>,
    /// How what comes out is written
    #[arg(long, value_name = "KIND", default_value = "graphite")]
    output: Output,
    /// How lines are sent
    #[arg(long, value_name = "KIND", default_value = "udp")]
    transport: Transport,
    /// What the server is meant to read
    #[arg(long, value_name = "DIALECT", default_value = "systole")]
    profile: Profile,
    /// Where the server writes a figure, such as `counter=stats.{}.count`, `sum=stats.{}.sum*1000`: counter or total, gauge,
    /// set, and count, sum, min, max of timers. By default that of a server that is known
    #[arg(long, value_name = "FIGURE=NAME")]
    naming: Vec<String>,
    /// Only vectors of this group, or with this id; may be repeated
    #[arg(long, value_name = "GROUP|ID")]
    only: Vec<String>,
    /// Path of a scrape
    #[arg(long, value_name = "PATH", default_value = "/metrics")]
    path: String,
    /// Longest wait for the start of the server, and for what it flushes
    #[arg(long, value_name = "DUR", default_value = "30s", value_parser = duration)]
    timeout: Duration,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// Print the vectors of the profile, a row each, and run nothing
    #[arg(long)]
    list: bool,
}

/// What became of a vector.
#[derive(Clone, Debug, PartialEq)]
enum Verdict {
    Passed,
    /// What is wrong.
    Failed(String),
    /// What is expected is nowhere written.
    Untold,
}

pub(super) fn run(args: &ConformanceArgs) -> u8 {
    let is_wanted =
        |vector: &Vector| args.only.is_empty() || args.only.iter().any(|o| *o == vector.group || *o == vector.id);
    let vectors: Vec<Vector> = vectors(args.profile.groups()).into_iter().filter(is_wanted).collect();
    if vectors.is_empty() {
        print_error(format_args!("--only: no vector of this profile; groups are {}", args.profile.groups().join(", ")));
        return USAGE;
    }
    if args.list {
        return if print(listed(&vectors).as_bytes()) { 0 } else { FAILED };
    }
    let given = match (!args.naming.is_empty()).then(|| Naming::given(&args.naming)).transpose() {
        Ok(given) => given,
        Err(problem) => {
            print_error(problem);
            return USAGE;
        }
    };
    let start = Start {
        command: args.server.clone().expect("clap requires it without --list"),
        output: args.output,
        transport: args.transport,
        path: args.path.clone(),
    };
    let judged = Run { start, given, patience: args.timeout, naming: String::new() }.evaluate(&vectors);
    let (verdicts, naming) = match judged {
        Ok(judged) => judged,
        Err(problem) => {
            print_error(problem);
            return FAILED;
        }
    };
    let report = Report::new(args, &naming, &vectors, &verdicts);
    let text = if args.json { report.json() } else { report.text() };
    if print(text.as_bytes()) && report.failed == 0 { 0 } else { FAILED }
}

/// One row a vector, as JSON.
fn listed(vectors: &[Vector]) -> String {
    let rows = vectors.iter().map(|vector| {
        let (id, group, source, send) = (&vector.id, &vector.group, &vector.source, &vector.send);
        serde_json::json!({"id": id, "group": group, "source": source, "send": send, "decision": vector.decision})
            .to_string()
    });
    rows.map(|row| row + "\n").collect()
}

/// How a server is judged.
struct Run {
    start: Start,
    given: Option<Naming>,
    patience: Duration,
    /// That of the server.
    naming: String,
}

/// What a server did with some vectors.
enum Round {
    /// All that came out, and where figures are.
    Flushed(Vec<Sample>, Naming),
    /// It ended right after this one of them.
    EndedBy(usize),
    /// It has gone by one of them that is not known.
    Gone(Gone),
}

impl Run {
    /// A verdict for each vector, and the naming of the server.
    fn evaluate(mut self, vectors: &[Vector]) -> Result<(Vec<Verdict>, String), String> {
        let mut verdicts = vec![Verdict::Untold; vectors.len()];
        let mut rounds: Vec<Vec<usize>> = vec![(0..vectors.len()).collect()];
        while let Some(mut batch) = rounds.pop() {
            let sent: Vec<&Vector> = batch.iter().map(|&n| &vectors[n]).collect();
            match self.round(&sent)? {
                Round::Flushed(samples, naming) => {
                    for n in batch {
                        verdicts[n] = verdict(&vectors[n], &samples, &naming);
                    }
                    self.naming = naming.name;
                }
                // On a busy machine it may have been one before: what is suspected is tried by itself.
                Round::EndedBy(n) if batch.len() > 1 => {
                    rounds.push(vec![batch.remove(n)]);
                    rounds.push(batch);
                }
                Round::EndedBy(n) => verdicts[batch[n]] = Verdict::Failed("the server ends by it".into()),
                Round::Gone(gone) if batch.len() == 1 => {
                    let said =
                        if gone == Gone::Ended { "the server ends by it" } else { "the server is silent after it" };
                    verdicts[batch[0]] = Verdict::Failed(said.into());
                }
                Round::Gone(_) => {
                    rounds.push(batch.split_off(batch.len() / 2));
                    rounds.push(batch);
                }
            }
        }
        Ok((verdicts, self.naming))
    }

    /// Starts the server and sends these vectors.
    fn round(&self, vectors: &[&Vector]) -> Result<Round, String> {
        let mut server = Server::start(&self.start).map_err(|error| format!("cannot start the server: {error}"))?;
        let began = match server.await_counter(FIRST, self.patience) {
            Ok(samples) => samples,
            Err(gone) => return Err(self.never_began(gone, &mut server)),
        };
        let known = match self.start.output {
            Output::Graphite => GRAPHITE,
            Output::Prometheus => SCRAPE,
            Output::Statsd => LINES,
        };
        let naming = self.given.clone().or_else(|| Naming::of(known, FIRST, &began)).ok_or_else(|| {
            let names: Vec<&str> = began.iter().map(|s| s.name.as_str()).filter(|name| name.contains(FIRST)).collect();
            let names = names.join("`, `");
            format!("the counter `{FIRST}` came out as `{names}`, which is of no known naming; `--naming` says where figures are")
        })?;
        for (n, vector) in vectors.iter().enumerate() {
            server.send(&vector.send);
            if vector.is_hostile() {
                std::thread::sleep(HOSTILE);
            }
            if server.has_ended() {
                return Ok(Round::EndedBy(n));
            }
        }
        Ok(match server.await_counter(LAST, self.patience) {
            Ok(samples) => Round::Flushed(samples, naming),
            Err(gone) => Round::Gone(gone),
        })
    }

    fn never_began(&self, gone: Gone, server: &mut Server) -> String {
        let said = server.last_words();
        let said = if said.is_empty() { String::new() } else { format!("; it said:\n{said}") };
        match gone {
            Gone::Ended => format!("the server ended before a counter came out{said}"),
            Gone::Silent => format!(
                "no counter came out within {} s: does the command use {{port}}, and {{out}} for {}?{said}",
                self.patience.as_secs(),
                self.start.output.name(),
            ),
        }
    }
}

/// What is to be said of a vector, by what came out.
fn verdict(vector: &Vector, samples: &[Sample], naming: &Naming) -> Verdict {
    let is_marked = vector.send.concat().contains(&vector.mark);
    let samples: Vec<Sample> =
        samples.iter().filter(|sample| !is_marked || sample.name.contains(&vector.mark)).cloned().collect();
    if vector.expect.is_empty() {
        return match samples.first() {
            None => Verdict::Passed,
            Some(sample) => {
                Verdict::Failed(format!("is malformed, and came out as `{}` {}", sample.name, sample.value))
            }
        };
    }
    let exact = vector.group == "names";
    let mut is_told = false;
    for expected in &vector.expect {
        let of_series = of_series(expected, &samples, naming, exact);
        for (figure, value) in expected.figures() {
            if !naming.tells(expected.kind, figure, value) {
                continue;
            }
            is_told = true;
            let what =
                format!("{} `{}`{}: {}{value}", expected.kind.name(), expected.name, shown(expected), figure.word());
            match naming.find(expected.kind, figure, &expected.name, &of_series, exact) {
                Some(found) if is_same(found, value) => {}
                Some(found) => return Verdict::Failed(format!("{what} is expected, and {found} came out")),
                None => {
                    let others: Vec<&str> = samples.iter().map(|s| s.name.as_str()).take(3).collect();
                    let others = if others.is_empty() || !is_marked {
                        "nothing came out".into()
                    } else {
                        format!("what came out is `{}`…", others.join("`, `"))
                    };
                    return Verdict::Failed(format!("{what} is expected, and {others}"));
                }
            }
        }
    }
    if is_told { Verdict::Passed } else { Verdict::Untold }
}

/// The samples of a series: of its name and with its tags, and with as few others as there are, for a server may add some.
fn of_series(expected: &Expected, samples: &[Sample], naming: &Naming, exact: bool) -> Vec<Sample> {
    let has = |sample: &Sample| {
        expected.tags.iter().all(|(key, value)| {
            let mut pairs = sample.tags.iter();
            value.is_empty() || pairs.any(|(k, v)| letters(k) == letters(key) && letters(v) == letters(value))
        })
    };
    let of_name = |sample: &&Sample| naming.is_of(expected.kind, &expected.name, sample, exact) && has(sample);
    let found: Vec<&Sample> = samples.iter().filter(of_name).collect();
    let fewest = found.iter().map(|sample| sample.tags.len()).min();
    found.into_iter().filter(|sample| Some(sample.tags.len()) == fewest).cloned().collect()
}

fn shown(expected: &Expected) -> String {
    let tags: Vec<String> = expected.tags.iter().map(|(key, value)| format!("{key}={value}")).collect();
    if tags.is_empty() { String::new() } else { format!(" with {}", tags.join(", ")) }
}

fn is_same(a: f64, b: f64) -> bool {
    a == b || (a - b).abs() <= TOLERANCE * a.abs().max(b.abs())
}

/// How many of a group.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Tally {
    vectors: usize,
    passed: usize,
    failed: usize,
    untold: usize,
}

#[derive(Serialize)]
struct Row<'a> {
    id: &'a str,
    group: &'a str,
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<&'a str>,
    send: &'a [String],
    source: &'a str,
    decision: &'a str,
}

/// The result.
#[derive(Serialize)]
struct Report<'a> {
    format: String,
    profile: String,
    output: &'static str,
    naming: &'a str,
    vectors: usize,
    passed: usize,
    failed: usize,
    untold: usize,
    groups: BTreeMap<&'a str, Tally>,
    rows: Vec<Row<'a>>,
}

impl<'a> Report<'a> {
    fn new(args: &ConformanceArgs, naming: &'a str, vectors: &'a [Vector], verdicts: &'a [Verdict]) -> Report<'a> {
        let mut groups: BTreeMap<&str, Tally> = BTreeMap::new();
        let mut rows = Vec::new();
        for (vector, verdict) in vectors.iter().zip(verdicts) {
            let tally = groups.entry(&vector.group).or_default();
            tally.vectors += 1;
            let (word, problem) = match verdict {
                Verdict::Passed => ("passed", None),
                Verdict::Failed(problem) => ("failed", Some(problem.as_str())),
                Verdict::Untold => ("untold", None),
            };
            match verdict {
                Verdict::Passed => tally.passed += 1,
                Verdict::Failed(_) => tally.failed += 1,
                Verdict::Untold => tally.untold += 1,
            }
            let Vector { id, group, send, source, decision, .. } = vector;
            rows.push(Row { id, group, verdict: word, problem, send, source, decision });
        }
        let sum = |of: fn(&Tally) -> usize| groups.values().map(of).sum();
        Report {
            format: format(),
            profile: format!("{:?}", args.profile).to_lowercase(),
            output: args.output.name(),
            naming,
            vectors: vectors.len(),
            passed: sum(|tally| tally.passed),
            failed: sum(|tally| tally.failed),
            untold: sum(|tally| tally.untold),
            groups,
            rows,
        }
    }

    fn json(&self) -> String {
        let mut out = Vec::new();
        crate::codec::write_json(self, &mut out);
        out.push(b'\n');
        String::from_utf8(out).expect("JSON is text")
    }

    /// A table, and what is wrong.
    fn text(&self) -> String {
        let mut out = String::new();
        let mut line = |name: &str, tally: &Tally| {
            // Writing to memory cannot fail.
            let _ = writeln!(
                out,
                "{name:<12}{:>8}{:>8}{:>8}{:>9}",
                tally.vectors, tally.passed, tally.failed, tally.untold
            );
        };
        for (group, tally) in &self.groups {
            line(group, tally);
        }
        line("all", &Tally { vectors: self.vectors, passed: self.passed, failed: self.failed, untold: self.untold });
        let mut text = format!(
            "{}, profile {}, {} as {}\n{:<12}{:>8}{:>8}{:>8}{:>9}\n{out}",
            self.format, self.profile, self.output, self.naming, "", "vectors", "passed", "failed", "not told"
        );
        for row in self.rows.iter().filter(|row| row.problem.is_some()) {
            let sent = row.send.join(" ").escape_debug().to_string();
            let _ = writeln!(text, "\n{} ({}): {sent}", row.id, row.group);
            let _ = writeln!(text, "    {}", row.problem.unwrap_or_default().escape_debug());
            let _ = writeln!(text, "    {}; {}", row.source, row.decision);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(id: &str) -> Vector {
        vectors(Profile::Systole.groups()).into_iter().find(|vector| vector.id == id).expect("a vector")
    }

    fn systole() -> Naming {
        let first = Sample { name: "x.count".into(), tags: BTreeMap::new(), value: 1.0 };
        Naming::of(GRAPHITE, "x", &[first]).expect("a known naming")
    }

    #[test]
    fn what_is_malformed_must_not_come_out() {
        let vector = vector("etsy-042");
        assert_eq!(verdict(&vector, &[], &systole()), Verdict::Passed);
        let came = Sample { name: format!("{}test.metric.count", vector.mark), tags: BTreeMap::new(), value: 1.0 };
        assert!(matches!(verdict(&vector, &[came], &systole()), Verdict::Failed(_)));
    }

    #[test]
    fn a_value_or_a_tag_that_differs_fails_and_tags_of_the_servers_own_do_not() {
        let vector = vector("dd-005");
        let sample = |value, tags: &[(&str, &str)]| Sample {
            name: format!("{}users.online.count", vector.mark),
            tags: tags.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
            value,
        };
        let evaluate = |value, tags: &[(&str, &str)]| verdict(&vector, &[sample(value, tags)], &systole());
        assert_eq!(evaluate(2.0, &[("country", "china")]), Verdict::Passed);
        assert_eq!(evaluate(2.0, &[("country", "china"), ("host", "a")]), Verdict::Passed);
        assert!(matches!(evaluate(1.0, &[("country", "china")]), Verdict::Failed(said) if said.contains("1 came out")));
        assert!(matches!(evaluate(2.0, &[]), Verdict::Failed(said) if said.contains("what came out is")));
    }
}
