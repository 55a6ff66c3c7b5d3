//! Traces of heartbeats with what must come of them, through `systole replay --only presence`. Those of tests/corpus/presence
//! have every event: each expectation is met once, within the trace's tolerance, and nothing else happens. Those of
//! tests/corpus/presence-wanted are of real deployments, and say what somebody on call wants: at most so many notifications,
//! these services named in time, silence in between.
//!
//! tests/oracle/presence_model.py has the rules in their shortest form, and checks the same traces.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{systole, text};

fn rows(text: &str) -> Vec<Value> {
    text.lines().filter(|line| !line.trim().is_empty()).map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn traces(of: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(of);
    let mut traces: Vec<_> = std::fs::read_dir(dir).expect("traces").map(|entry| entry.expect("one").path()).collect();
    traces.sort();
    traces
}

/// A trace, and the events that come of it.
fn replay(path: &Path) -> (Vec<Value>, Vec<Value>) {
    let trace = rows(&std::fs::read_to_string(path).expect("a trace"));
    let output = systole(&["replay", "--only", "presence", path.to_str().expect("a plain path")], b"");
    assert!(output.status.success(), "{}: {}", path.display(), text(&output.stderr));
    (trace, rows(&text(&output.stdout)))
}

fn time_of(event: &Value) -> f64 {
    event["time"].as_f64().expect("a time")
}

/// What is wrong with the events of a trace.
fn faults(path: &Path) -> Vec<String> {
    let (trace, events) = replay(path);
    let ignored = trace[0]["ignore"].as_array().cloned().unwrap_or_default();
    let is_ignored = |event: &Value| {
        ignored
            .iter()
            .any(|pattern| pattern.as_object().expect("pairs").iter().all(|(key, value)| event[key] == *value))
    };
    let mut events: Vec<Value> = events.into_iter().filter(|event| !is_ignored(event)).collect();
    let tolerance = trace[0]["tolerance"].as_f64().unwrap_or(0.3);
    let mut faults = Vec::new();
    for row in trace.iter().filter(|row| row["expect"].is_object()) {
        let at = row["t"].as_f64().expect("a time");
        let is_it = |event: &Value| {
            let mut expected = row["expect"].as_object().expect("pairs").iter();
            expected.all(|(key, value)| event[key] == *value) && (time_of(event) - at).abs() <= tolerance
        };
        match events.iter().position(is_it) {
            Some(n) => drop(events.remove(n)),
            None => faults.push(format!("missing at {at}: {}", row["expect"])),
        }
    }
    faults.extend(events.iter().map(|event| format!("unexpected: {event}")));
    faults
}

/// What somebody on call would complain about.
fn complaints(path: &Path) -> Vec<String> {
    let (trace, events) = replay(path);
    let want = &trace[0]["want"];
    let notified: Vec<&Value> = events.iter().filter(|event| event["notify"] == true).collect();
    let most = want["max_notifications"].as_u64().expect("a number") as usize;
    let mut complaints = Vec::new();
    if notified.len() > most {
        complaints.push(format!("{} notifications, at most {most} are wanted: {notified:#?}", notified.len()));
    }
    let of = |key: &str| want[key].as_array().cloned().unwrap_or_default();
    let secs = |value: &Value| value.as_f64().expect("a time");
    for must in of("must_notify") {
        let (from, to) = (secs(&must["from"]), secs(&must["to"]));
        let names = |event: &&Value| event["service"] == must["service"] && (from..=to).contains(&time_of(event));
        if !notified.iter().any(names) {
            complaints.push(format!("{} is not named between {from} and {to}", must["service"]));
        }
    }
    for quiet in of("quiet") {
        let (from, to) = (secs(&quiet[0]), secs(&quiet[1]));
        if notified.iter().any(|event| (from..to).contains(&time_of(event))) {
            complaints.push(format!("not quiet between {from} and {to}"));
        }
    }
    complaints
}

/// What is wrong with the traces of a folder.
fn judge(of: &str, least: usize, judge: impl Fn(&Path) -> Vec<String>) {
    let traces = traces(of);
    assert!(traces.len() >= least);
    let name = |path: &Path| path.file_name().expect("a file").to_string_lossy().into_owned();
    let of_one =
        |path: &PathBuf| judge(path).into_iter().map(|fault| format!("{}: {fault}", name(path))).collect::<Vec<_>>();
    let all: Vec<String> = traces.iter().flat_map(of_one).collect();
    assert!(all.is_empty(), "{} faults\n{}", all.len(), all.join("\n"));
}

#[test]
fn every_trace_ends_as_it_must() {
    judge("presence", 79, faults);
}

#[test]
fn every_trace_of_a_real_deployment_is_notified_as_somebody_on_call_wants() {
    judge("presence-wanted", 17, complaints);
}
