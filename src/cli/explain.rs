//! `systole explain`: how a line is read, and what would be flushed of it.

use std::ffi::OsString;
use std::io::{self, BufRead, Write};
use std::os::unix::ffi::OsStrExt;

use clap::Args;
use serde_json::Value;

use crate::assemble;
use crate::capture::hex;
use crate::codec::write_json;
use crate::config::Origins;
use crate::explain::{Explainer, Reading};
use crate::presence::describe::length;
use crate::protocol::lossy;
use crate::sinks::console::event_line;
use crate::snapshot::number;
use crate::untrusted::Escaped;

use super::colours::{self, BAD, painted};
use super::{ConfigArgs, FAILED, load_config, print, sources};

#[derive(Args)]
pub(super) struct ExplainArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Answer in JSON, one object a row; exit 0 even for malformed lines
    #[arg(long)]
    json: bool,
    /// Rows of standard input (or arguments) are hex-encoded datagrams
    #[arg(long)]
    hex: bool,
    /// Lines to explain; without any, rows of standard input
    #[arg(value_name = "LINE")]
    lines: Vec<OsString>,
}

pub(super) fn run(args: &ExplainArgs) -> u8 {
    let config = match sources(&args.config).and_then(|sources| load_config(&sources)) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let explainer = assemble::explainer(&config, &Origins::default());
    let mut good = true;
    let mut answer = |row: &[u8]| -> Result<(), u8> {
        let datagram = if args.hex { hex::decode(row) } else { Ok(row.to_vec()) };
        let mut out = Vec::new();
        match datagram {
            Ok(datagram) => {
                let reading = explainer.read(&datagram);
                good &= reading.errors.is_empty() && reading.untimely.is_empty();
                if args.json {
                    write_json(&reading, &mut out);
                    out.push(b'\n');
                } else {
                    write_reading_text(&reading, &datagram, &explainer, config.max_tags, &mut out);
                }
            }
            Err(problem) => {
                super::print_error(problem);
                return Err(super::USAGE);
            }
        }
        let is_printed = if args.json { print(&out) } else { colours::print(&lossy(&out)) };
        if is_printed { Ok(()) } else { Err(FAILED) }
    };
    let outcome = if args.lines.is_empty() {
        let stdin = io::stdin().lock();
        stdin.split(b'\n').try_for_each(|row| match row {
            Ok(row) => answer(row.strip_suffix(b"\r").unwrap_or(&row)),
            Err(error) => {
                super::print_error(format_args!("cannot read standard input: {error}"));
                Err(FAILED)
            }
        })
    } else {
        args.lines.iter().try_for_each(|line| answer(line.as_os_str().as_bytes()))
    };
    match outcome {
        Err(code) => code,
        Ok(()) if good || args.json => 0,
        Ok(()) => FAILED,
    }
}

/// For people: what was understood, what was not, and what would be flushed.
fn write_reading_text(reading: &Reading, datagram: &[u8], explainer: &Explainer, max_tags: u32, out: &mut Vec<u8>) {
    // Writing to memory cannot fail.
    let _ = tell_reading(reading, max_tags, out);
    for met in explainer.rules_of(datagram) {
        let told = format!("{} ({} = \"{}\"): {}", met.number + 1, met.key, met.pattern, met.outcome);
        let _ = writeln!(out, "  rule         {}", Escaped(&told));
    }
    if !reading.metrics.is_empty() {
        let lines = explainer.graphite_lines(&explainer.flushed(datagram));
        if lines.is_empty() {
            let why = if reading.heartbeats.is_empty() {
                ""
            } else {
                ": a heartbeat is no metric, unless `presence.forward_raw` is set"
            };
            let _ = writeln!(out, "  would flush  nothing{why}");
        } else {
            let _ = writeln!(out, "  would flush, after {} s:", number(explainer.interval_secs()));
        }
        for line in lines {
            let _ = writeln!(out, "    {line}");
        }
    }
}

/// What a line says of a run of a job.
fn run_of(job: &Value) -> String {
    let mut out = match job["counts_as"].as_str() {
        Some("running") => "a run begins".to_string(),
        Some("ok") => "a run ended well".to_string(),
        _ => "a run failed".to_string(),
    };
    if let Some(run) = job["run"].as_str() {
        out.push_str(&format!(", run {run}"));
    }
    if let Some(exit) = job["exit"].as_i64() {
        out.push_str(&format!(", exit {exit}"));
    }
    if let Some(message) = job["message"].as_str() {
        out.push_str(&format!(": {message}"));
    }
    out
}

/// Whose maintenance a line announces, and how long it is.
fn maintained(granted: &Value) -> String {
    let service = granted["service"].as_str().unwrap_or("");
    let who = match granted["instance"].as_str() {
        Some(instance) => format!("{service}/{instance}"),
        None => format!("{service}, all of it"),
    };
    match (granted["seconds"].as_f64().unwrap_or(0.0), granted["asked"].as_f64()) {
        (0.0, _) => format!("{who}: it ends"),
        (seconds, None) => format!("{who}: for {}", length(seconds)),
        (seconds, Some(asked)) => {
            format!(
                "{who}: for {}, the most that is granted (`presence.maintenance_max`) of {}",
                length(seconds),
                length(asked)
            )
        }
    }
}

/// What a watch makes of a line.
fn watched(watch: &Value) -> String {
    let text = |key: &str| watch[key].as_str().unwrap_or("");
    let by = format!("(match = \"{}\")", text("match"));
    if !text("message").is_empty() {
        return format!("{by}: {}", text("message"));
    }
    let mut out = format!("{}/{} {by}", text("service"), text("instance"));
    match text("evidence") {
        "change" => out.push_str(", if the value is another than the last"),
        "nonzero" => out.push_str(", if the value is not 0"),
        _ => {}
    }
    if let Some(seconds) = watch["interval"].as_f64() {
        out.push_str(&format!(": the next within {} s", number(seconds)));
    }
    if let Some(floor) = watch["floor"].as_u64() {
        out.push_str(&format!("; low below {floor} lines a minute"));
    }
    out
}

fn tell_reading(reading: &Reading, max_tags: u32, out: &mut Vec<u8>) -> io::Result<()> {
    writeln!(out, "{}", Escaped(&reading.input))?;
    if reading.metrics.is_empty() && reading.events_and_checks.is_empty() && reading.faults.is_empty() {
        writeln!(out, "  nothing: a blank line is ignored")?;
    }
    for metric in &reading.metrics {
        let text = |key: &str| metric.get(key).and_then(Value::as_str).unwrap_or("");
        writeln!(out, "  {:<12} {}", text("type"), Escaped(text("name")))?;
        if let Some(Value::Object(tags)) = metric.get("tags")
            && !tags.is_empty()
        {
            let tags = tags.iter().map(|(key, value)| match value {
                Value::Null => key.clone(),
                Value::String(value) => format!("{key}:{value}"),
                other => format!("{key}:{other}"),
            });
            writeln!(out, "  {:<12} {}", "tags", Escaped(&tags.collect::<Vec<_>>().join(", ")))?;
        }
        let verb = match text("op") {
            "set" => "set to ",
            "inc" => "increase by ",
            "dec" => "decrease by ",
            _ => "",
        };
        let values = metric.get("values").and_then(Value::as_array).cloned().unwrap_or_default();
        let values: Vec<String> = values
            .iter()
            .map(|value| value.as_f64().map_or_else(|| value.as_str().unwrap_or("").to_string(), number))
            .collect();
        writeln!(out, "  {:<12} {verb}{}", "values", Escaped(&values.join(", ")))?;
        if let Some(rate) = metric.get("rate").and_then(Value::as_f64) {
            writeln!(out, "  {:<12} {} (each value stands for {})", "rate", number(rate), number(1.0 / rate))?;
        }
        for key in ["timestamp", "container", "external_data", "cardinality"] {
            if let Some(value) = metric.get(key) {
                let value = value.as_str().map_or_else(|| value.to_string(), str::to_string);
                writeln!(out, "  {key:<12} {}", Escaped(&value))?;
            }
        }
    }
    for beat in &reading.heartbeats {
        let text = |key: &str| beat.get(key).and_then(Value::as_str).unwrap_or("");
        let promise = match beat.get("interval").and_then(Value::as_f64) {
            _ if beat.get("goodbye") == Some(&Value::Bool(true)) => ": a goodbye".to_string(),
            Some(seconds) => format!(": the next within {} s", number(seconds)),
            None => String::new(),
        };
        let who = format!("{}/{}", text("service"), text("instance"));
        writeln!(out, "  {:<12} {}{promise}", "heartbeat", Escaped(&who))?;
        if let Some(job) = beat.get("job") {
            writeln!(out, "  {:<12} {}", "job", Escaped(&run_of(job)))?;
        }
    }
    for maintenance in &reading.maintenance {
        writeln!(out, "  {:<12} {}", "maintenance", Escaped(&maintained(maintenance)))?;
    }
    for watch in &reading.watches {
        writeln!(out, "  {:<12} {}", "watch", Escaped(&watched(watch)))?;
    }
    for ignored in &reading.no_heartbeats {
        let text = |key: &str| ignored[key].as_str().unwrap_or("");
        writeln!(out, "  {:<12} {} ({})", "no heartbeat", text("message"), text("reason"))?;
    }
    if reading.more > 0 {
        writeln!(out, "  {} more values are not shown", reading.more)?;
    }
    for kept in &reading.events_and_checks {
        writeln!(out, "  {}", event_line(kept))?;
    }
    if !reading.skipped.is_empty() {
        writeln!(out, "  {:<12} {}", "skipped", Escaped(&reading.skipped.join(", ")))?;
    }
    for rate in &reading.odd_rates {
        writeln!(out, "  {:<12} @{} is taken as 1; above 0 and up to 1 is right", "rate", Escaped(rate))?;
    }
    if reading.tags_cut > 0 {
        writeln!(out, "  {:<12} {} tags beyond max_tags ({max_tags})", "cut", reading.tags_cut)?;
    }
    let faults = reading.faults.iter().map(|(line, error)| (line, error, "malformed", error.message()));
    let untimely = reading.untimely.iter();
    let untimely = untimely.map(|(line, error, message)| (line, error, "malformed if it comes now", message.as_str()));
    for (line, error, what, message) in faults.chain(untimely) {
        let before = lossy(&line[..(error.at as usize).min(line.len())]);
        let column = Escaped(&before).to_string().chars().count();
        writeln!(out, "  {}: {message}", painted(BAD, what))?;
        writeln!(out, "    {}", Escaped(&lossy(line)))?;
        let caret = painted(BAD, format_args!("^ {}", error.reason.name()));
        writeln!(out, "    {}{caret} at byte {}", " ".repeat(column), error.at)?;
    }
    Ok(())
}
