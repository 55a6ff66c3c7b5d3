//! `systole state show`: what is in the state folder. It only reads, whether a daemon runs or not.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::assemble;
use crate::daemon::{SPOOLS, decode_spools};
use crate::flush::state::describe;
use crate::presence::UnixTime;
use crate::presence_driver::{self, Held};
use crate::sinks::Contents;
use crate::state::{Found, RUNNING, begun_by, inspect, is_held, is_unsaved, survey};
use crate::untrusted::Escaped;

use super::{ConfigArgs, FAILED, USAGE, load_config, print, print_error, sources};

#[derive(Args)]
pub(super) struct StateArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Show what is kept over restarts: each part with its age, size and content, and what was set aside
    Show(ShowArgs),
}

#[derive(Args)]
struct ShowArgs {
    /// The folder; without it that of the configuration
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &StateArgs) -> u8 {
    let Action::Show(args) = &args.action;
    let env = |name: &str| std::env::var(name).ok();
    let (folder, presence) = match &args.dir {
        Some(folder) => (folder.clone(), Some(folder.join(assemble::PRESENCE_FILE))),
        None => match sources(&args.config).and_then(|sources| load_config(&sources)) {
            Ok(config) => match assemble::state_dir(&config, env) {
                Some(folder) => (folder, assemble::presence_state_file(&config, env)),
                None => {
                    print_error("there is no state folder: `state_dir` is \"off\", or there is no place for one");
                    return USAGE;
                }
            },
            Err(code) => return code,
        },
    };
    let all = match show(&folder, presence.as_deref()) {
        Ok(all) => all,
        Err(error) => {
            print_error(format_args!("cannot read {}: {error}", folder.display()));
            return FAILED;
        }
    };
    let text = if args.json { format!("{all:#}\n") } else { text(&all) };
    if print(text.as_bytes()) { 0 } else { FAILED }
}

/// What is there, as JSON.
fn show(folder: &Path, presence: Option<&Path>) -> std::io::Result<Value> {
    let found = survey(folder)?;
    let (is_held, begun) = (is_held(folder), begun_by(folder));
    let (aside, parts): (Vec<&Found>, Vec<&Found>) = found.iter().partition(|found| found.is_aside);
    let shown = |all: Vec<&Found>| all.into_iter().map(|found| shown(folder, found)).collect::<Vec<_>>();
    let parts: Vec<Value> =
        shown(parts).into_iter().chain(presence.and_then(|file| shown_presence(folder, file))).collect();
    Ok(json!({
        "folder": folder.display().to_string(),
        "in_use": is_held,
        "process": begun.filter(|_| is_held),
        "has_clean_end": !is_held && begun.is_none(),
        "unclean": begun.filter(|_| !is_held).map(|pid| json!({ "process": pid, "last_sign": last_sign(folder) })),
        "is_saved": !is_unsaved(folder),
        "parts": parts,
        "set_aside": shown(aside),
    }))
}

fn shown(folder: &Path, found: &Found) -> Value {
    let mut one = json!({ "part": found.part, "bytes": found.file_bytes });
    match &found.trailer {
        Ok((format, version, age_secs)) => {
            (one["format"], one["version"]) = (json!(format), json!(version));
            one["age_secs"] = json!((age_secs * 10.0).round() / 10.0);
        }
        Err(problem) => one["problem"] = json!(problem),
    }
    if !found.is_aside && found.trailer.is_ok() {
        match inspect(folder, &found.part) {
            Ok(saved) => one["content"] = content(&found.part, &saved.bytes).unwrap_or(Value::Null),
            Err(problem) => one["problem"] = json!(problem),
        }
    }
    one
}

/// The state file of presence, if there is one.
fn shown_presence(folder: &Path, file: &Path) -> Option<Value> {
    let (bytes, held) = presence_driver::inspect(file)?;
    let mut one = json!({ "part": "presence", "bytes": bytes });
    if file.parent() != Some(folder) {
        one["file"] = json!(file.display().to_string());
    }
    match held {
        Ok(Held { age_secs, counts: (services, instances, jobs) }) => {
            one["age_secs"] = json!((age_secs * 10.0).round() / 10.0);
            one["content"] = json!({ "services": services, "instances": instances, "jobs": jobs });
        }
        Err(problem) => one["problem"] = json!(problem),
    }
    Some(one)
}

/// What a part has, if its format is known here.
fn content(part: &str, bytes: &[u8]) -> Option<Value> {
    if part.starts_with("sink-") {
        let Contents { kind, totals_bytes, intervals, records, oldest } = Contents::of(bytes).ok()?;
        let all = json!({
            "type": kind, "intervals": intervals, "records": records, "oldest": oldest, "totals_bytes": totals_bytes,
        });
        return Some(all);
    }
    if part == SPOOLS {
        let folders: Vec<String> = decode_spools(bytes)?.keys().map(|folder| folder.display().to_string()).collect();
        return Some(json!({ "folders": folders }));
    }
    describe(part, bytes)
}

/// When the process that has not ended cleanly gave its last sign of life, Unix seconds.
fn last_sign(folder: &Path) -> Option<f64> {
    let touched = folder.join(RUNNING).metadata().and_then(|file| file.modified()).ok()?;
    touched.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs_f64())
}

/// A time with its day, in UTC.
fn time(unix: f64) -> String {
    UnixTime::from_secs(unix).rfc3339()
}

/// The same as text.
fn text(all: &Value) -> String {
    let folder = all["folder"].as_str().unwrap_or_default();
    let is = |key: &str| all[key] == json!(true);
    let process = match all["process"].as_u64() {
        Some(pid) => format!("process {pid} runs with it"),
        None if is("in_use") => "a process runs with it".into(),
        None if is("has_clean_end") && !is("is_saved") => {
            "the last process could not save its state when it ended".into()
        }
        None if is("has_clean_end") => "the last process ended cleanly".into(),
        None => {
            let who = all["unclean"]["process"].as_u64().map_or_else(String::new, |pid| format!(", {pid},"));
            let when = all["unclean"]["last_sign"].as_f64();
            let when = when.map_or_else(String::new, |at| format!("; its last sign of life was at {}", time(at)));
            format!("the last process{who} ended without a clean stop{when}")
        }
    };
    let mut out = format!("{}: {process}\n", Escaped(folder));
    let none = Vec::new();
    for (title, key) in [("part", "parts"), ("set aside", "set_aside")] {
        let rows = all[key].as_array().unwrap_or(&none);
        if rows.is_empty() && key == "set_aside" {
            continue;
        }
        let _ = writeln!(out, "\n{title:<24} {:>10} {:>12}  content", "age", "bytes");
        for row in rows {
            let age = row["age_secs"].as_f64().map_or("-".into(), |age| format!("{age:.0} s"));
            let content = match (row["problem"].as_str(), row["content"].as_object()) {
                (Some(problem), _) => format!("cannot be used: {problem}"),
                (None, Some(content)) => {
                    let words = content.iter().filter(|(_, value)| !value.is_null());
                    words
                        .map(|(key, value)| match (key.as_str(), value.as_f64()) {
                            ("last_end" | "end" | "oldest", Some(at)) if at > 0.0 => {
                                format!("{} {}", key.replace('_', " "), time(at))
                            }
                            _ => format!("{} {value}", key.replace('_', " ")),
                        })
                        .collect::<Vec<_>>()
                        .join(", ")
                }
                (None, None) => String::new(),
            };
            let part = Escaped(row["part"].as_str().unwrap_or_default()).to_string();
            let line = format!("{part:<24} {age:>10} {:>12}  {content}", row["bytes"].as_u64().unwrap_or(0));
            let _ = writeln!(out, "{}", line.trim_end());
        }
        if rows.is_empty() {
            let _ = writeln!(out, "nothing");
        }
    }
    out
}
