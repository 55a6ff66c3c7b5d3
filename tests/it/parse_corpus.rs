//! The conformance vectors of every dialect, through `systole explain --hex --json`: one answer a datagram. A vector with
//! malformed lines lists the reason and the position of each, in bytes from the start of the trimmed line.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Map, Value, json};

use crate::support::{close_to, systole, text};

const FILES: [&str; 10] = [
    "clients",
    "disputed",
    "dogstatsd",
    "etsy",
    "events",
    "framing",
    "multivalue",
    "nametags",
    "others",
    "statsite-binary",
];

const VECTORS: usize = 349;

fn vectors() -> Vec<Value> {
    let mut all = Vec::new();
    for file in FILES {
        let path = format!("{}/tests/corpus/parse/{file}.jsonl", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).expect("the corpus is part of the project");
        all.extend(text.lines().map(|line| serde_json::from_str::<Value>(line).expect("a vector")));
    }
    all
}

fn hex_of(vector: &Value) -> String {
    if let Some(hex) = vector.get("input_hex").and_then(Value::as_str) {
        return hex.to_string();
    }
    let input = vector["input"].as_str().expect("an input");
    input.bytes().fold(String::new(), |mut out, byte| {
        write!(out, "{byte:02x}").expect("text");
        out
    })
}

/// The configuration of a vector, as ours.
fn toml_of(config: &Value) -> String {
    let mut toml = String::from("[protocol]\n");
    for (key, value) in config.as_object().into_iter().flatten() {
        writeln!(toml, "{key} = {value}").expect("text");
    }
    toml
}

/// The corpus lists samples in one list, with tags as pairs; the answer has a list a kind, with tags as an object.
fn expected(vector: &Value) -> (Vec<Value>, Vec<Value>, Vec<Value>) {
    let (mut metrics, mut events, mut checks) = (Vec::new(), Vec::new(), Vec::new());
    for entry in vector["expect"].as_array().expect("a list") {
        let mut entry = entry.as_object().expect("an object").clone();
        let mut tags = Map::new();
        for pair in entry["tags"].as_array().expect("pairs") {
            let (key, value) = (pair[0].as_str().expect("a key").to_string(), pair[1].clone());
            match tags.get_mut(&key) {
                None => {
                    tags.insert(key, value);
                }
                Some(Value::Array(values)) => values.push(value),
                Some(one) => *one = json!([one.take(), value]),
            }
        }
        entry.insert("tags".into(), tags.into());
        match entry["type"].as_str().expect("a type") {
            "event" => {
                entry.remove("type");
                events.push(entry.into());
            }
            "service_check" => {
                entry.remove("type");
                checks.push(entry.into());
            }
            _ => metrics.push(entry.into()),
        }
    }
    (metrics, events, checks)
}

fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => close_to(a.as_f64().expect("a double"), b.as_f64().expect("a double")),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        _ => a == b,
    }
}

#[test]
fn every_vector_is_read_as_the_corpus_says() {
    let vectors = vectors();
    assert_eq!(vectors.len(), VECTORS);
    let mut by_config: BTreeMap<String, Vec<&Value>> = BTreeMap::new();
    for vector in &vectors {
        by_config.entry(toml_of(&vector["config"])).or_default().push(vector);
    }
    let dir = tempfile::tempdir().expect("a folder");
    let mut wrong = Vec::new();
    for (n, (toml, vectors)) in by_config.iter().enumerate() {
        let file = dir.path().join(format!("{n}.toml"));
        std::fs::write(&file, toml).expect("a configuration");
        let rows: String = vectors.iter().map(|vector| hex_of(vector) + "\n").collect();
        let output = systole(&["explain", "--hex", "--json", "-c", file.to_str().expect("plain")], rows.as_bytes());
        assert!(output.status.success(), "{}", text(&output.stderr));
        let answers: Vec<Value> =
            text(&output.stdout).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(answers.len(), vectors.len());
        for (vector, answer) in vectors.iter().zip(answers) {
            let (metrics, events, checks) = expected(vector);
            let errors = answer["errors"].as_array().expect("a list");
            let malformed: Vec<Value> = errors.iter().map(|error| json!([error["reason"], error["at"]])).collect();
            let good = same(&answer["metrics"], &metrics.into())
                && same(&answer["events"], &events.into())
                && same(&answer["service_checks"], &checks.into())
                && vector["errors"] == json!(errors.len())
                && vector.get("malformed").unwrap_or(&json!([])) == &json!(malformed);
            if !good {
                wrong.push(format!(
                    "{}\n   expected {} {}\n   found    {answer}",
                    vector["id"], vector["expect"], vector["malformed"]
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {VECTORS} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn an_answer_has_every_list_and_an_empty_row_gets_one_too() {
    let output = systole(&["explain", "--json"], b"a:1|c|x:1|#k:v,k:w,b\n\na:x|c\n");
    assert!(output.status.success());
    let answers: Vec<Value> = text(&output.stdout).lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    assert_eq!(answers.len(), 3);
    assert_eq!(
        answers[0],
        json!({"input": "a:1|c|x:1|#k:v,k:w,b", "events": [], "service_checks": [], "heartbeats": [], "errors": [],
            "metrics": [{"type": "counter", "name": "a", "tags": {"b": null, "k": ["v", "w"]}, "values": [1.0]}],
            "skipped": ["x:1"]})
    );
    assert_eq!(answers[1]["metrics"], json!([]));
    let error = &answers[2]["errors"][0];
    assert_eq!((&error["line"], &error["at"], &error["reason"]), (&json!("a:x|c"), &json!(2), &json!("bad_value")));
}

#[test]
fn without_json_a_bad_line_fails_and_the_caret_stands_under_the_byte() {
    let output = systole(&["explain", "a:1|c", "api.hits:nan|c"], b"");
    assert_eq!(output.status.code(), Some(1));
    let shown = text(&output.stdout);
    let lines: Vec<&str> = shown.lines().collect();
    let at =
        lines.iter().position(|line| line.trim() == "api.hits:nan|c" && line.starts_with("    ")).expect("the line");
    assert_eq!(lines[at].find("nan"), lines[at + 1].find('^'));
    assert!(shown.contains("a.count 1") && shown.contains("a.rate 0.1"));
    assert_eq!(systole(&["explain", "a:1|c"], b"").status.code(), Some(0));
    let explain = |args: &[&str]| text(&systole(&[&["explain"], args].concat(), b"").stdout);
    assert!(explain(&["a:-1|ms"]).contains("malformed: a duration (`ms`) is never negative"));
    assert!(!explain(&["a:x|ms"]).contains("never negative"));
    for (line, is_odd) in [("a:1|c|@0", true), ("a:1|c|@2", true), ("a:1|c|@1", false), ("a:1|c|@0.5", false)] {
        let said = explain(&[line]);
        assert_eq!(said.contains("is taken as 1"), is_odd, "{said}");
    }
    let tags = |count: usize| (0..count).map(|n| format!("k{n}:v")).collect::<Vec<_>>().join(",");
    let line = format!("a:1|c|#{}", tags(300));
    assert!(explain(&[&line]).contains("44 tags beyond max_tags (256)"));
    let json = explain(&["--json", &line]);
    assert!(json.contains("\"tags_cut\":44"), "{json}");
    assert!(!explain(&["--json", &format!("a:1|c|#{}", tags(256))]).contains("tags_cut"));
}
