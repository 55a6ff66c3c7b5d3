//! The dashboard asks for names that are there, in PromQL that Prometheus can read.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::{Daemon, poll};

/// Every expression of a dashboard.
fn expressions(value: &Value, out: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            out.extend(map.get("expr").and_then(Value::as_str).map(str::to_string));
            map.values().for_each(|value| expressions(value, out));
        }
        Value::Array(all) => all.iter().for_each(|value| expressions(value, out)),
        _ => {}
    }
}

#[test]
fn every_name_on_the_dashboard_is_told() {
    let text = include_str!("../../examples/grafana.json");
    let dashboard: Value = serde_json::from_str(text).expect("JSON");
    let mut all = Vec::new();
    expressions(&dashboard, &mut all);
    assert!(all.len() > 15, "{}", all.len());
    let dir = tempfile::tempdir().expect("a folder");
    let config = format!(
        "interval = \"100ms\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\nworkers = 1\n[[sink]]\ntype = \"file\"\npath = \"{}/r\"\n\
         [[sink]]\ntype = \"hdrlog\"\npath = \"{}/h\"\n[http]\naddress = \"127.0.0.1:0\"\n",
        dir.path().display(),
        dir.path().display()
    );
    let daemon = Daemon::start(dir.path(), &config);
    daemon.send_udp(&[b"a:1|c\nbroken\nheartbeat.pay:1|g|#instance:a,interval:1"]);
    daemon.status_when("flushed", |status| status["sinks"]["hdrlog"]["dropped"]["unsupported"].as_u64() > Some(0));
    // A service is known from its first beat on, and told with the next flush.
    let told = poll("a service", || {
        let told = daemon.get("/metrics").1;
        if told.contains("presence_service_up") { Ok(told) } else { Err(told) }
    });
    let known: BTreeSet<&str> = told
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split(['{', ' ']).next().unwrap_or(""))
        .collect();
    let mut asked = BTreeSet::new();
    for expression in &all {
        for (at, _) in expression.match_indices("systole_").chain(expression.match_indices("presence_service")) {
            let rest = &expression[at..];
            asked.insert(&rest[..rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len())]);
        }
    }
    let missing: Vec<&&str> = asked.iter().filter(|name| !known.contains(**name)).collect();
    assert!(missing.is_empty(), "not told: {missing:?}\n{told}");
    daemon.stop();
}
