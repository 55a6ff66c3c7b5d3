//! `systole diff`: what another configuration makes of a capture.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::{systole, text};

/// Six intervals of two series that one tag tells apart, and a timer.
fn capture(dir: &Path) -> String {
    let rows = (0..12).map(|n| {
        let data = format!("api.hits:1|c|#id:{}\nt:{n}|ms\nbroken:x|c", n % 2);
        json!({"t": f64::from(n) * 5.0, "data": data}).to_string() + "\n"
    });
    let rows: String = rows.collect();
    written(dir, "capture.jsonl", &rows)
}

fn written(dir: &Path, name: &str, text: &str) -> String {
    let file = dir.join(name);
    std::fs::write(&file, text).expect("written");
    file.to_str().expect("plain").to_string()
}

#[test]
fn a_change_of_rules_shows_in_names_values_and_cost() {
    let dir = tempfile::tempdir().expect("a folder");
    let capture = capture(dir.path());
    let old = written(dir.path(), "old.toml", "percentiles = [50]\n");
    let rule = "[[rule]]\nmatch = \"api.*\"\ndrop_tags = [\"id\"]\n";
    let new = written(dir.path(), "new.toml", &format!("percentiles = [90]\n{rule}"));
    let output = systole(&["diff", &old, &new, &capture, "--json"], b"");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let series = |list: &str| -> Vec<String> {
        let all = report[list]["first"].as_array().expect("a list");
        all.iter().map(|one| one["series"].as_str().expect("a name").to_string()).collect()
    };
    assert_eq!(series("only_in_old"), ["counter api.hits;id=0", "counter api.hits;id=1"]);
    assert_eq!(series("only_in_new"), ["counter api.hits"]);
    assert_eq!(series("differing"), ["timer t"]);
    let timer = &report["differing"]["first"][0];
    assert_eq!([&timer["differing"], &timer["intervals"]], [6, 6]);
    assert_eq!([&timer["first"]["field"], &timer["first"]["old"]], [&json!("percentiles.50"), &json!(0.0)]);
    assert_eq!([&report["old"]["series"], &report["new"]["series"]], [3, 2]);
    assert_eq!([&report["old"]["records"], &report["new"]["records"]], [18, 12]);
    assert_eq!([&report["old"]["malformed"], &report["new"]["malformed"]], [12, 12]);
    let bytes = |side: &str| report[side]["graphite_bytes"].as_u64().expect("a number");
    assert!(bytes("old") > bytes("new") && bytes("new") > 0, "{report}");

    let said = text(&systole(&["diff", &old, &new, &capture], b"").stdout);
    assert!(said.contains("only in NEW: 1 series\n  counter api.hits  6 intervals\n"), "{said}");
    assert!(said.contains("timer t  6 of 6 intervals, first at 10 s: percentiles.50 0 -> nothing"), "{said}");
    assert!(said.lines().any(|line| line.starts_with("series ") && line.ends_with("-33.3 %")), "{said}");
}

#[test]
fn what_comes_to_the_same_does_not_differ() {
    let dir = tempfile::tempdir().expect("a folder");
    let capture = capture(dir.path());
    let old = written(dir.path(), "old.toml", "");
    // It drops what does not come.
    let new = written(dir.path(), "new.toml", "[[rule]]\nmatch = \"debug.*\"\ndrop = true\n");
    let output = systole(&["diff", &old, &new, &capture], b"");
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}{}", text(&output.stderr));
    assert!(said.starts_with("6 intervals") && said.ends_with("no difference\n"), "{said}");

    let slow = written(dir.path(), "slow.toml", "interval = \"1m\"\n");
    let output = systole(&["diff", &old, &slow, &capture], b"");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("`--interval 10s` replays both with one"), "{}", text(&output.stderr));
    assert_eq!(systole(&["diff", &old, &slow, &capture, "--interval", "20s"], b"").status.code(), Some(0));
    let broken = written(dir.path(), "broken.toml", "intervall = \"1s\"");
    assert_eq!(systole(&["diff", &old, &broken, &capture], b"").status.code(), Some(2));
}
