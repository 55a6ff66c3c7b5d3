//! An explanation as the API gives it.

use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::codec::Records;
use crate::protocol::{Line, ParseError, lines, lossy, parse_line};
use crate::snapshot::Snapshot;

use super::parts::{Part, parts};
use super::{Explainer, Met};

/// Most records, and most names at a sink, of an explanation.
const MOST: usize = 100;

/// A line, explained.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Explanation {
    /// The line, with secrets of presence masked.
    pub line: String,
    /// Whether it is taken as it is.
    pub ok: bool,
    /// What its bytes say.
    pub parts: Vec<Part>,
    /// What is read: `kind`, `name`, `tags`, `samples` and `rate` of a metric; the fields of an event or a service check.
    #[schema(value_type = Option<Object>)]
    pub read: Option<Value>,
    /// The rule that its series meets.
    pub rule: Option<Rule>,
    /// The records that would be flushed of it alone.
    #[schema(value_type = Vec<Object>)]
    pub flushed: Vec<Value>,
    /// The sinks that get it.
    pub goes_to: Vec<GoesTo>,
    /// What presence reads of it: `service`, `instance`, `interval`, `goodbye`, `late_after` and `down_after` in seconds.
    #[schema(value_type = Option<Object>)]
    pub heartbeat: Option<Value>,
    /// The watch that takes it: its `match`, and the `service` and `instance` that it is a beat of, in which `{source}` stands for
    /// the sender's address; with `interval`, `late_after` and `down_after` in seconds, `evidence` and `floor`; or, in `message`,
    /// why it shows nothing.
    #[schema(value_type = Option<Object>)]
    pub watch: Option<Value>,
    /// What is wrong with it.
    pub error: Option<Fault>,
    /// How many malformed lines of the same reason arrive each second; `null` for a line that is right.
    pub arrives_per_sec: Option<f64>,
}

/// A rule.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Rule {
    /// The key that the pattern has: `match`, `match_parts` or `match_regex`.
    pub form: &'static str,
    /// Its pattern.
    #[serde(rename = "match")]
    pub pattern: String,
    /// What becomes of the series, in words.
    pub outcome: String,
    /// Where it stands.
    pub file: Option<String>,
    /// Its line there.
    pub line: Option<usize>,
}

/// A sink that gets it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct GoesTo {
    /// Its name.
    pub sink: String,
    /// Names there.
    #[serde(rename = "as")]
    pub names: Vec<String>,
}

/// What is wrong with a line.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Fault {
    /// A word, as the ledger has it.
    pub reason: &'static str,
    /// The first byte that is wrong.
    pub from: usize,
    /// The byte behind the part that is wrong.
    pub to: usize,
    /// A sentence.
    pub message: String,
    /// A line that would be right and is most likely meant.
    pub write: Option<String>,
}

impl Explainer {
    /// The rule for the API.
    pub fn rule(&self, met: Met) -> Rule {
        let place = self.place_of(met.number).filter(|place| !place.file.is_empty());
        Rule {
            form: met.key,
            pattern: met.pattern,
            outcome: met.outcome,
            file: place.map(|place| place.file.clone()),
            line: place.map(|place| place.line),
        }
    }

    /// Where a snapshot goes, for the API.
    pub fn destinations(&self, snapshot: &Snapshot) -> Vec<GoesTo> {
        let first = |(sink, mut names): (String, Vec<String>)| {
            names.truncate(MOST);
            GoesTo { sink, names }
        };
        self.goes_to(snapshot).into_iter().map(first).collect()
    }

    /// Explains each line of a packet.
    pub fn explain(&self, packet: &[u8]) -> Vec<Explanation> {
        let all: Vec<Explanation> =
            lines(packet).filter(|line| !line.trim_ascii().is_empty()).map(|line| self.line(line)).collect();
        if all.is_empty() { vec![self.line(b"")] } else { all }
    }

    fn line(&self, line: &[u8]) -> Explanation {
        let reading = self.read(line);
        let shown = match &self.0.shard.heartbeats {
            Some(heartbeats) => heartbeats.masked(line),
            None => line.to_vec(),
        };
        let parts = parts(&shown);
        let fault = |error: &ParseError, message: String| {
            let at = (error.at as usize).min(shown.len());
            let end = parts.iter().find(|part| part.from <= at && at < part.to).map_or(shown.len(), |part| part.to);
            let write = self.corrected(line).map(|right| lossy(&right).into_owned());
            Fault { reason: error.reason.name(), from: at, to: end, message, write }
        };
        let broken = reading.faults.first().map(|(_, error)| fault(error, error.message().to_string()));
        let late = reading.untimely.first().map(|(_, error, message)| fault(error, message.clone()));
        let snapshot = self.flushed(line);
        let heartbeat = reading.heartbeats.first().cloned().map(|beat| self.with_deadlines(beat));
        Explanation {
            ok: broken.is_none() && late.is_none(),
            line: lossy(&shown).into_owned(),
            read: read(&reading.metrics, reading.events.first(), reading.service_checks.first()),
            rule: self.rules_of(line).into_iter().next().map(|met| self.rule(met)),
            flushed: records(&snapshot),
            goes_to: self.destinations(&snapshot),
            heartbeat,
            watch: reading.watches.first().cloned(),
            error: broken.or(late),
            arrives_per_sec: None,
            parts,
        }
    }

    /// A heartbeat with the silence after which it is late and down.
    fn with_deadlines(&self, mut beat: Value) -> Value {
        let service = beat["service"].as_str().unwrap_or("").to_string();
        // Of a job it is not its silence that is judged.
        let interval = beat["interval"].as_f64().filter(|_| beat["job"].is_null());
        if let (Some(policy), Some(interval)) = (&self.0.policy, interval) {
            let (late, down) = policy.deadlines_of(&service, interval);
            beat["late_after"] = json!(late);
            beat["down_after"] = json!(down);
        }
        beat
    }

    /// The nearest line that would be taken, if one of the usual mistakes was made.
    fn corrected(&self, line: &[u8]) -> Option<Vec<u8>> {
        let text = std::str::from_utf8(line).ok()?;
        let is_right = |line: &str| match parse_line(line.as_bytes(), &self.0.protocol) {
            Ok(Line::Samples(mut samples)) => samples.all(|sample| sample.is_ok()),
            Ok(Line::Event(_) | Line::ServiceCheck(_)) => true,
            Ok(Line::Empty) | Err(_) => false,
        };
        let mut tries = vec![text.trim().to_string(), text.replace(' ', "")];
        if let Some((name, rest)) = text.split_once(':') {
            let (value, sections) = rest.split_once('|').unwrap_or((rest, "c"));
            let sections = sections.trim();
            let digits: String =
                value.trim().chars().take_while(|c| c.is_ascii_digit() || "+-.eE".contains(*c)).collect();
            tries.push(format!("{name}:{}|{sections}", value.replace(',', ".")));
            tries.push(format!("{name}:{value}|c"));
            tries.push(format!("{name}:{}|{}", value.trim(), sections.to_lowercase()));
            if !digits.is_empty() {
                tries.push(format!("{name}:{digits}|{sections}"));
            }
        } else {
            tries.extend([format!("{text}:1|c"), text.replacen('=', ":", 1) + "|c", text.replacen(' ', ":", 1) + "|c"]);
        }
        tries.into_iter().find(|line| line != text && is_right(line)).map(String::into_bytes)
    }
}

/// What a line says.
fn read(metrics: &[Value], event: Option<&Value>, check: Option<&Value>) -> Option<Value> {
    if let Some(first) = metrics.first() {
        let samples = metrics.iter().filter_map(|metric| metric["values"].as_array()).flatten().take(MOST);
        let mut read = json!({
            "kind": first["type"], "name": first["name"], "tags": first["tags"],
            "samples": samples.collect::<Vec<_>>(), "rate": first.get("rate").cloned().unwrap_or(json!(1.0)),
        });
        for key in ["op", "timestamp", "container", "external_data", "cardinality"] {
            if let Some(value) = first.get(key) {
                read[key] = value.clone();
            }
        }
        return Some(read);
    }
    let with_kind = |kind: &str, fields: &Value| {
        let mut read = fields.clone();
        read["kind"] = kind.into();
        read
    };
    event.map(|event| with_kind("event", event)).or(check.map(|check| with_kind("service_check", check)))
}

/// The records of a snapshot, but for the ledger.
fn records(snapshot: &Snapshot) -> Vec<Value> {
    let mut all = Vec::new();
    let records = Records { only: None, sorted: true, ledger: false };
    records.each(snapshot, |record| {
        if all.len() < MOST {
            all.extend(serde_json::from_slice::<Value>(record.json));
        }
    });
    // What is flushed has the time of the flush, which is not yet.
    for record in &mut all {
        if let Some(record) = record.as_object_mut().filter(|record| record.contains_key("interval")) {
            record.remove("time");
        }
    }
    all
}
