//! `systole reload`: lets a running daemon read its configuration again.

use std::fmt::Write as _;
use std::time::Duration;

use clap::Args;
use hyper::Method;
use serde_json::{Value, json};

use crate::presence::UnixTime;
use crate::untrusted::Escaped;

use super::client::{ClientArgs, refusal};
use super::progress::Progress;
use super::{asking, print};

/// Longest wait for the answer: the configuration is in force from the next interval on.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Args)]
#[command(
    after_help = "Exit codes: 0 the configuration is in force, or will be with the next interval, but for what needs a restart; 1 it is not, and nothing has \
                        changed; 2 bad usage."
)]
pub(super) struct ReloadArgs {
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    daemon: ClientArgs,
}

pub(super) fn run(args: &ReloadArgs) -> u8 {
    asking(reload(args))
}

async fn reload(args: &ReloadArgs) -> Result<bool, String> {
    let client = args.daemon.client()?;
    let waiting = Progress::of_time("waiting for the next interval", None);
    let (status, report) = client.ask_within(Method::POST, "/api/v1/reload", Some(json!({})), PATIENCE).await?;
    drop(waiting);
    let is_report = report["result"].is_string();
    if !is_report && status == 401 {
        return Err(format!("{}, or send SIGHUP to the process", client.refused(status, &report)));
    }
    if !is_report {
        return Err(refusal(status, &report));
    }
    let is_applied = report["result"] == "applied" || report["result"] == "accepted";
    let text = if args.json { format!("{}\n", Escaped(&report.to_string())) } else { summary(&report) };
    Ok(print(text.as_bytes()) && is_applied)
}

/// The report for people.
fn summary(report: &Value) -> String {
    let mut out = String::new();
    let list = |key: &str| report[key].as_array().cloned().unwrap_or_default();
    let line = |change: &Value| {
        let path = Escaped(change["path"].as_str().unwrap_or("")).to_string();
        match (&change["was"], &change["is"]) {
            (Value::Null, is) => format!("  {path} = {}", Escaped(&is.to_string())),
            (was, Value::Null) => format!("  {path} is gone; it was {}", Escaped(&was.to_string())),
            (was, is) => format!("  {path} = {}; it was {}", Escaped(&is.to_string()), Escaped(&was.to_string())),
        }
    };
    // Writing to memory cannot fail.
    if report["result"] == "refused" {
        let _ = writeln!(out, "The reload is refused, and nothing has changed:");
        for problem in list("problems") {
            let _ = writeln!(out, "  {}", Escaped(problem.as_str().unwrap_or("")));
        }
        return out;
    }
    let (changes, waits, behind) = (list("changes"), list("needs_restart"), list("waiting_for"));
    for change in &changes {
        let _ = writeln!(out, "{}", line(change));
    }
    let _ = match (report["in_force_at"].as_f64(), changes.len()) {
        (Some(at), _) => {
            writeln!(out, "Accepted; in force with the next interval, at {}.", UnixTime::from_secs(at).clock())
        }
        (None, 0) => writeln!(out, "Reloaded; nothing has changed."),
        (None, _) => writeln!(out, "Reloaded."),
    };
    if !waits.is_empty() {
        let _ = writeln!(out, "These need a restart:");
        for change in &waits {
            let _ = writeln!(out, "{}", line(change));
        }
    }
    if !behind.is_empty() {
        let behind: Vec<String> =
            behind.iter().map(|worker| Escaped(worker.as_str().unwrap_or("")).to_string()).collect();
        let _ = writeln!(out, "These do not answer, and go on as before until they do: {}", behind.join(", "));
    }
    for warning in list("warnings") {
        let _ = writeln!(out, "warning: {}", Escaped(warning.as_str().unwrap_or("")));
    }
    out
}
