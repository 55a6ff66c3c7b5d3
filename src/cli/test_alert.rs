//! `systole presence test-alert`: what became of a test at each target.

use std::fmt::Write;
use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};

use crate::untrusted::Escaped;

use super::client::DaemonClient;

/// Longest wait for the answer: a target may take its `timeout` for the problem and again for its end.
const PATIENCE: Duration = Duration::from_secs(1230);

/// Sends a test; what became of it, as JSON or as lines, and whether all of it was delivered.
pub(super) async fn run(
    daemon: &DaemonClient,
    target: Option<&str>,
    severity: &str,
    as_json: bool,
) -> Result<(bool, String), String> {
    let mut wanted = json!({"severity": severity});
    if let Some(target) = target {
        wanted["target"] = target.into();
    }
    let answer = daemon.good_within(Method::POST, "/api/v1/notify/test", Some(wanted), PATIENCE).await?;
    let text = if as_json { format!("{}\n", Escaped(&answer.to_string())) } else { lines(&answer) };
    Ok((answer["delivered"] == true, text))
}

fn lines(answer: &Value) -> String {
    let mut out = String::new();
    for target in answer["targets"].as_array().into_iter().flatten() {
        let text = |key: &str| Escaped(target[key].as_str().unwrap_or("")).to_string();
        let _ = writeln!(out, "{} ({}, {})", text("target"), text("type"), text("place"));
        for (name, key) in [("problem", "problem"), ("end", "resolve")] {
            let attempt = &target[key];
            if !attempt.is_object() {
                continue;
            }
            let took = attempt["seconds"].as_f64().unwrap_or(0.0);
            let said = match (attempt["delivered"] == true, attempt["status"].as_u64()) {
                (true, Some(status)) => format!("delivered, {status}"),
                (true, None) => "delivered".to_string(),
                (false, _) => format!("FAILED: {}", Escaped(attempt["error"].as_str().unwrap_or("unknown"))),
            };
            let _ = writeln!(out, "  {name:7}  {said}  ({took:.2} s)");
        }
        if !target["note"].is_null() {
            let _ = writeln!(out, "  {}", text("note"));
        }
    }
    out
}
