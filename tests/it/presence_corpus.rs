//! Traces of heartbeats with what must come of them, through `systole replay --only presence`: every expectation once,
//! within the trace's tolerance, and no other event.

use std::path::Path;

use serde_json::{Map, Value};

use crate::support::{systole, text};

/// What an expectation may name.
const KEYS: [&str; 9] = ["kind", "service", "instance", "from", "to", "reason", "code", "count", "notify"];

fn rows(text: &str) -> Vec<Value> {
    text.lines().filter(|line| !line.trim().is_empty()).map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// What is wrong with the events of a trace.
fn faults(path: &Path) -> Vec<String> {
    let trace = rows(&std::fs::read_to_string(path).expect("a trace"));
    let output = systole(&["replay", "--only", "presence", path.to_str().expect("a plain path")], b"");
    assert!(output.status.success(), "{}: {}", path.display(), text(&output.stderr));
    let ignored = trace[0]["ignore"].as_array().cloned().unwrap_or_default();
    let is_ignored = |event: &Value| {
        ignored
            .iter()
            .any(|pattern| pattern.as_object().expect("pairs").iter().all(|(key, value)| event[key] == *value))
    };
    let mut events: Vec<Value> = rows(&text(&output.stdout)).into_iter().filter(|event| !is_ignored(event)).collect();
    let tolerance = trace[0]["tolerance"].as_f64().unwrap_or(0.3);
    let said = |event: &Value| -> Map<String, Value> {
        KEYS.iter().filter(|key| !event[**key].is_null()).map(|key| (key.to_string(), event[*key].clone())).collect()
    };
    let mut faults = Vec::new();
    for row in trace.iter().filter(|row| row["expect"].is_object()) {
        let at = row["t"].as_f64().expect("a time");
        let is_it = |event: &Value| {
            Some(&said(event)) == row["expect"].as_object()
                && (event["time"].as_f64().expect("a time") - at).abs() <= tolerance
        };
        match events.iter().position(is_it) {
            Some(n) => drop(events.remove(n)),
            None => faults.push(format!("missing at {at}: {}", row["expect"])),
        }
    }
    faults.extend(events.iter().map(|event| format!("unexpected: {event}")));
    faults
}

#[test]
fn every_trace_ends_as_it_must() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/presence");
    let mut traces: Vec<_> = std::fs::read_dir(dir).expect("traces").map(|entry| entry.expect("one").path()).collect();
    traces.sort();
    assert!(traces.len() >= 39);
    let all: Vec<String> = traces
        .iter()
        .flat_map(|path| {
            let name = path.file_name().expect("a file").to_string_lossy().into_owned();
            faults(path).into_iter().map(move |fault| format!("{name}: {fault}"))
        })
        .collect();
    assert!(all.is_empty(), "{} faults\n{}", all.len(), all.join("\n"));
}
