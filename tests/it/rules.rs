//! Rules through the front door: names, tags and drops, what is told of them, and that they cost nothing for what is known.

use serde_json::Value;

use crate::support::{Daemon, records, systole, text};

const RULES: &str = r#"
[[rule]]
match = "debug.*"
drop = true
[[rule]]
match = "api.*.*.time"
rename = "api.time"
add_tags = { route = "$1", verb = "$2" }
[[rule]]
match = "*"
tags = { env = "prod*" }
drop_tags = ["request_id"]
[[rule]]
match = "old"
rename = "new"
"#;

#[test]
fn series_are_renamed_merged_and_dropped_and_every_sample_is_accounted_for() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = format!(
        "interval = \"200ms\"\nself_metrics = false\nmax_series = 50\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\nworkers = 1\n\
         [[sink]]\ntype = \"file\"\npath = \"{}\"\n[http]\naddress = \"127.0.0.1:0\"\n[presence]\nenabled = false\n{RULES}",
        dir.path().join("records.jsonl").display()
    );
    let daemon = Daemon::start(dir.path(), &config);
    // Each spelling three times: new, learned, known.
    for n in 0..3 {
        daemon.send_udp(&[
            b"debug.a:1|c\ndebug.a:2:3|c\ndebug.t:4|ms|#k:v",
            b"api.users.get.time:10|ms\napi.users.put.time:20|ms",
            b"old:1|c\nnew:2|c\nold:4|c|#k:v\nnew:8|c|#k:v",
            b"old:5|g\nold:u|s",
        ]);
        // A tag with as many values as there are requests is dropped before anything is held for it.
        for request in 0..100 {
            daemon.send_udp(&[format!("hits:1|c|#env:prod-1,request_id:{n}-{request}").as_bytes()]);
        }
        daemon.closed(111 * (n + 1));
    }
    let status = daemon.status();
    assert_eq!(status["lines"]["read"], 3 * 111);
    daemon.stop();
    let samples = &status["samples"];
    assert_eq!((&samples["dropped_by_rule"], &samples["folded"]), (&12.into(), &0.into()), "{status}");
    assert_eq!(samples["read"], 3 * 112);
    let all = records(&dir.path().join("records.jsonl"));
    let of = |kind: &str, name: &str, tags: Value| -> Vec<&Value> {
        all.iter().filter(|r| r["type"] == kind && r["name"] == name && r["tags"] == tags).collect()
    };
    let sum = |name: &str, tags: Value| -> f64 {
        let mine = [of("counter", name, tags.clone()), of("timer", name, tags)].concat();
        mine.iter().filter_map(|r| r["value"].as_f64().or(r["sum"].as_f64())).sum()
    };
    // Series of several kinds stay apart under the new name.
    assert_eq!(sum("new", serde_json::json!({})), 9.0);
    assert!(of("gauge", "new", serde_json::json!({})).iter().all(|r| r["value"] == 5.0));
    assert!(of("set", "new", serde_json::json!({})).iter().all(|r| r["value"] == 1.0));
    assert!(
        !of("gauge", "new", serde_json::json!({})).is_empty() && !of("set", "new", serde_json::json!({})).is_empty()
    );
    assert_eq!(sum("new", serde_json::json!({"k": "v"})), 36.0);
    assert_eq!(sum("api.time", serde_json::json!({"route": "users", "verb": "get"})), 30.0);
    assert_eq!(sum("api.time", serde_json::json!({"route": "users", "verb": "put"})), 60.0);
    assert_eq!(sum("hits", serde_json::json!({"env": "prod-1"})), 300.0);
    assert!(all.iter().all(|r| {
        let name = r["name"].as_str().unwrap_or("");
        !name.starts_with("debug") && name != "old"
    }));
}

#[test]
fn explain_says_which_rule_matches_and_what_would_be_flushed() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("c.toml");
    std::fs::write(&file, RULES).expect("written");
    let explain = |line: &str| text(&systole(&["explain", "-c", file.to_str().expect("plain"), line], b"").stdout);
    let renamed = explain("api.users.get.time:10|ms");
    assert!(
        renamed.contains("2 (match = \"api.*.*.time\"): becomes api.time;route=users;verb=get")
            && renamed.contains("api.time.mean;route=users;verb=get 10"),
        "{renamed}"
    );
    let dropped = explain("debug.x:1|c");
    assert!(dropped.contains("1 (match = \"debug.*\"): dropped") && !dropped.contains("debug.x.count"), "{dropped}");
    assert!(!explain("other:1|c").contains("rule"));
}

#[test]
fn ten_thousand_rules_start_at_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("c.toml");
    let rules: String =
        (0..10_000).map(|n| format!("[[rule]]\nmatch = \"service-{n}.*\"\nrename = \"s{n}.$1\"\n")).collect();
    std::fs::write(&file, rules).expect("written");
    let output = systole(&["explain", "-c", file.to_str().expect("plain"), "service-9999.a.b:1|c"], b"");
    let shown = text(&output.stdout);
    assert!(shown.contains("10000 (match") && shown.contains("s9999.a.b.count 1"), "{shown}");
}

#[test]
fn names_are_matched_by_their_parts_and_by_regular_expressions() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("systole.toml");
    let config = r#"
[[rule]]
match_parts = "api.*.time"
rename = "api_time"
add_tags = { route = "$1" }
scale = 0.001
[[rule]]
match_regex = '^(\w+)\.http-(?:get|put)\.(\d+)'
rename = "http"
add_tags = { host = "$1", code = "${2}", all = "$0" }
honor_tags = true
ttl = "1m"
[[rule]]
match = "api.*"
scale = -2
"#;
    std::fs::write(&file, config).expect("written");
    let explain = |line: &str| text(&systole(&["explain", "-c", file.to_str().expect("plain"), line], b"").stdout);
    for (line, expected) in [
        (
            "api.users.time:1500|ms",
            "rule         1 (match_parts = \"api.*.time\"): becomes api_time;route=users; values times 0.001",
        ),
        ("api.users.time:1500|ms", "api_time.max;route=users 1.5"),
        ("api.users.all.time:3|c", "rule         3 (match = \"api.*\"): as it is; values times -2"),
        ("api.users.all.time:3|c", "api.users.all.time.count -6"),
        ("api.x:+3|g", "api.x -6"),
        ("web.http-get.200:1|c", "becomes http;all=web.http-get.200;code=200;host=web; forgotten after 60 s"),
        ("web.http-get.200.x:1|c|#host:own", "becomes http;all=web.http-get.200;code=200;host=own;"),
    ] {
        let told = explain(line);
        assert!(told.contains(expected), "{line}: {expected}\n{told}");
    }
    assert!(!explain("web.http-del.200:1|c").contains("rule"));

    for (rule, expected) in [
        (
            "match_regex = '*a'\ndrop = true",
            "rule[0].match_regex: `*a` is no regular expression: repetition operator missing expression",
        ),
        ("match = \"a\"\nmatch_parts = \"b\"\ndrop = true", "rule[0].match_parts: it stands beside `match`"),
        ("match_parts = \"a.*\"\nrename = \"$2\"", "the number of stars in `match_parts`, which is 1"),
        ("match_regex = '(a)|b'\nadd_tags = { x = \"$2\" }", "the number of groups in `match_regex`, which is 1"),
        ("drop = true", "rule[0].match: missing"),
    ] {
        std::fs::write(&file, format!("[[rule]]\n{rule}\n")).expect("written");
        let output = systole(&["check", "-c", file.to_str().expect("plain")], b"");
        let said = text(&output.stderr) + &text(&output.stdout);
        assert!(!output.status.success() && said.contains(expected), "{rule}: {expected}\n{said}");
    }
}

/// Lines of a rule with `scale` are never taken for those of a series that is known.
#[test]
fn values_are_scaled_by_the_rule_of_their_own_line() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = format!(
        "interval = \"200ms\"\nself_metrics = false\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\nworkers = 1\n\
         [[sink]]\ntype = \"file\"\npath = \"{}\"\n[http]\naddress = \"127.0.0.1:0\"\n[presence]\nenabled = false\n\
         [[rule]]\nmatch = \"kb\"\nscale = 1000\n[[rule]]\nmatch = \"old\"\nrename = \"kb\"\n",
        dir.path().join("records.jsonl").display()
    );
    let daemon = Daemon::start(dir.path(), &config);
    for n in 1..=4 {
        // The other name comes first, and makes the series.
        daemon.send_udp(&[b"old:1|c\nkb:2|c\nold:1|c|#k:v\nkb:2|c|#k:v\nkb:1:1|c\nkb:3|ms:+5|g\nkb:7|ms|@0.5"]);
        daemon.closed(7 * n);
    }
    daemon.stop();
    let all = records(&dir.path().join("records.jsonl"));
    let sum = |kind: &str, key: &str, tags: Value| -> f64 {
        let mine = all.iter().filter(|r| r["type"] == kind && r["name"] == "kb" && r["tags"] == tags);
        mine.filter_map(|r| r[key].as_f64()).sum()
    };
    assert_eq!(sum("counter", "value", serde_json::json!({})), 4.0 * (1.0 + 2000.0 + 2000.0));
    assert_eq!(sum("counter", "value", serde_json::json!({"k": "v"})), 4.0 * 2001.0);
    assert_eq!(sum("timer", "sum", serde_json::json!({})), 4.0 * (3000.0 + 14_000.0));
    assert!(all.iter().any(|r| r["type"] == "gauge" && r["value"] == 20_000.0));
}
