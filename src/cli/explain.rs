//! `systole explain`: how a line is read, and what would be flushed of it.

use std::ffi::OsString;
use std::io::{self, BufRead, Write};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use clap::Args;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::aggregate::rules::{RuleOutcome, Rules};
use crate::aggregate::{
    Columns, EventOrCheck, Quota, Shard, TimeWindow, bad_time, kind_as, own_event, own_service_check,
};
use crate::assemble;
use crate::capture::hex;
use crate::codec::{EventFields, Tags, write_json};
use crate::config::{Config, Profile};
use crate::protocol::{
    BINARY_MAGIC, GaugeOp, Heartbeats, Line, Metric, Options, ParseError, Signal, Values, binary_frames, lines, lossy,
    parse_line,
};
use crate::rollup::{Interval, Registry, SelfMetrics};
use crate::series::{KeyBuilder, Series};
use crate::sinks::console::event_line;
use crate::sinks::graphite;
use crate::snapshot::number;
use crate::sys::unix_time;
use crate::untrusted::Escaped;

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

/// Bytes of names and tags that are shown of a datagram: many values under many tags are more than anybody reads, and than
/// memory may hold.
const SHOWN_BYTES: usize = 16 << 20;

/// One datagram, read.
#[derive(Default, Serialize)]
struct Reading {
    input: String,
    metrics: Vec<Value>,
    events: Vec<Value>,
    service_checks: Vec<Value>,
    /// Lines that presence reads, with what they say.
    heartbeats: Vec<Value>,
    /// Under a heartbeat's name but none: what they are besides stands elsewhere.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    no_heartbeats: Vec<Value>,
    errors: Vec<Value>,
    skipped: Vec<String>,
    /// Lines that are well-formed, but would be refused if they came now, for a time of their own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    refused_now: Vec<Value>,
    /// Metrics that are not listed, because there are too many.
    #[serde(skip_serializing_if = "is_nothing")]
    more: usize,
    /// What the listed ones take.
    #[serde(skip)]
    bytes: usize,
    #[serde(skip)]
    faults: Vec<(Vec<u8>, ParseError)>,
    /// Each with how far it is outside of the window.
    #[serde(skip)]
    untimely: Vec<(Vec<u8>, ParseError, String)>,
    /// Tags that `max_tags` cuts, of every sample, event and check.
    #[serde(skip_serializing_if = "is_none")]
    tags_cut: u64,
    /// Rates that are taken as 1.
    #[serde(skip)]
    odd_rates: Vec<String>,
    #[serde(skip)]
    events_and_checks: Vec<EventOrCheck>,
}

fn is_nothing(count: &usize) -> bool {
    *count == 0
}

fn is_none(count: &u64) -> bool {
    *count == 0
}

/// What is wrong with a time of a line's own, if it comes now; `None` if it is believed.
fn untimely(times: &TimeWindow, time: u64) -> Option<String> {
    let now = unix_time();
    if times.holds(time, now) {
        return None;
    }
    let ahead = time as f64 - now;
    Some(if ahead < 0.0 {
        format!("{} old; at most {} (`timestamp_past`)", span(-ahead), span(times.past_secs))
    } else if (1_000_000_000_000..10_000_000_000_000).contains(&time) {
        format!("looks like milliseconds; at most {} ahead (`timestamp_future`)", span(times.future_secs))
    } else {
        format!("{} ahead; at most {} (`timestamp_future`)", span(ahead), span(times.future_secs))
    })
}

/// A time in the two largest units that it has, such as `8 days` or `1 hour 30 minutes`.
fn span(seconds: f64) -> String {
    let mut rest = seconds as u64;
    let mut parts = Vec::new();
    for (length, unit) in [(86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second")] {
        let count = rest / length;
        rest %= length;
        if count > 0 {
            parts.push(format!("{count} {unit}{}", if count == 1 { "" } else { "s" }));
        }
    }
    parts.truncate(2);
    if parts.is_empty() { "0 seconds".into() } else { parts.join(" ") }
}

pub(super) fn run(args: &ExplainArgs) -> u8 {
    let config = match sources(&args.config).and_then(|sources| load_config(&sources)) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let protocol = assemble::protocol(&config, &config.protocol);
    let heartbeats = assemble::heartbeats(&config).map(Arc::new);
    let mut good = true;
    let mut answer = |row: &[u8]| -> Result<(), u8> {
        let datagram = if args.hex { hex::decode(row) } else { Ok(row.to_vec()) };
        let mut out = Vec::new();
        match datagram {
            Ok(datagram) => {
                let times = assemble::time_window(&config);
                let mut reading = read(&datagram, &protocol, heartbeats.as_ref(), &times);
                if let Some(heartbeats) = &heartbeats {
                    reading.mask(heartbeats);
                }
                good &= reading.errors.is_empty() && reading.untimely.is_empty();
                if args.json {
                    write_json(&reading, &mut out);
                    out.push(b'\n');
                } else {
                    write_reading_text(&reading, &datagram, &config, &mut out);
                }
            }
            Err(problem) => {
                super::print_error(problem);
                return Err(super::USAGE);
            }
        }
        if print(&out) { Ok(()) } else { Err(FAILED) }
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

fn read(datagram: &[u8], options: &Options, heartbeats: Option<&Arc<Heartbeats>>, times: &TimeWindow) -> Reading {
    let mut reading = Reading { input: lossy(datagram).into_owned(), ..Reading::default() };
    if options.binary && datagram.first() == Some(&BINARY_MAGIC) {
        for (frame, metric) in binary_frames(datagram, options) {
            match metric {
                Ok(metric) => {
                    reading.presence(std::iter::once(Ok(metric)), heartbeats);
                    reading.metric(&metric, heartbeats);
                }
                Err(error) => reading.fault(frame, error),
            }
        }
        return reading;
    }
    for line in lines(datagram) {
        match parse_line(line, options) {
            Ok(Line::Empty) => {}
            Ok(Line::Samples(samples)) => {
                let is_heartbeat = reading.presence(samples.clone(), heartbeats);
                let (mut first, mut refused) = (None, None);
                for sample in samples {
                    match sample {
                        Ok(metric) => {
                            reading.metric(&metric, heartbeats);
                            if !is_heartbeat && let Some(time) = metric.timestamp {
                                refused = refused.or_else(|| untimely(times, time.get()));
                            }
                        }
                        Err(error) => first = first.or(Some(error)),
                    }
                }
                if let Some(error) = first {
                    reading.fault(line, error);
                }
                if let Some(message) = refused {
                    reading.refuse(line, bad_time(line, b"T"), message);
                }
            }
            Ok(Line::Event(event)) => {
                reading.skipped.extend(event.skipped_sections().map(|s| lossy(s).into_owned()));
                let mut kept = own_event(&event, 0.0, &mut KeyBuilder::default());
                heartbeats.into_iter().for_each(|heartbeats| kept.hide_key(heartbeats));
                reading.events.push(event_json(&kept, event.timestamp));
                reading.events_and_checks.push(kept);
                reading.tags_cut += event.tags().cut();
                if let Some(message) = event.timestamp.and_then(|time| untimely(times, time)) {
                    reading.refuse(line, bad_time(line, b"d:"), message);
                }
            }
            Ok(Line::ServiceCheck(check)) => {
                reading.skipped.extend(check.skipped_sections().map(|s| lossy(s).into_owned()));
                let signal = heartbeats.and_then(|heartbeats| heartbeats.of_check(&check, None));
                let beat = signal.as_ref().and_then(heartbeat_json);
                reading.tags_cut += check.tags().cut();
                if beat.is_none()
                    && let Some(message) = check.timestamp.and_then(|time| untimely(times, time))
                {
                    reading.refuse(line, bad_time(line, b"d:"), message);
                }
                reading.heartbeats.extend(beat);
                reading.no_heartbeats.extend(signal.as_ref().and_then(ignored_json));
                let mut kept = own_service_check(&check, 0.0, &mut KeyBuilder::default());
                heartbeats.into_iter().for_each(|heartbeats| kept.hide_key(heartbeats));
                reading.service_checks.push(event_json(&kept, check.timestamp));
                reading.events_and_checks.push(kept);
            }
            Err(error) => reading.fault(line, error),
        }
    }
    reading
}

/// A heartbeat or a goodbye; other signals are shown as the lines they are.
fn heartbeat_json(signal: &Signal) -> Option<Value> {
    let Signal::Heartbeat(beat) = signal else { return None };
    let mut entry = Map::new();
    entry.insert("service".into(), json!(beat.service));
    entry.insert("instance".into(), json!(beat.instance));
    if let Some(interval) = beat.interval {
        entry.insert("interval".into(), json!(interval));
    }
    entry.insert("goodbye".into(), json!(beat.goodbye));
    for (key, text) in [("start", &beat.start), ("version", &beat.version)] {
        if let Some(text) = text {
            entry.insert(key.into(), json!(text));
        }
    }
    if let Some(health) = beat.health {
        entry.insert("health".into(), json!(health));
    }
    Some(Value::Object(entry))
}

/// Why a line under a heartbeat's name is none.
fn ignored_json(signal: &Signal) -> Option<Value> {
    let Signal::Ignored(why) = signal else { return None };
    Some(json!({"reason": why.name(), "message": why.message()}))
}

impl Reading {
    /// Masks the keys that are for presence alone in what is repeated of the input.
    fn mask(&mut self, heartbeats: &Heartbeats) {
        let masked = |text: &str| lossy(&heartbeats.masked(text.as_bytes())).into_owned();
        self.input = masked(&self.input);
        let refused = self.untimely.iter_mut().map(|(line, ..)| line);
        for line in self.faults.iter_mut().map(|(line, _)| line).chain(refused) {
            *line = heartbeats.masked(line);
        }
        for error in self.errors.iter_mut().chain(&mut self.refused_now) {
            if let Some(line) = error["line"].as_str() {
                error["line"] = masked(line).into();
            }
        }
        self.skipped.iter_mut().for_each(|section| *section = masked(section));
    }

    fn fault(&mut self, line: &[u8], error: ParseError) {
        let reason = error.reason;
        self.errors
            .push(json!({"line": lossy(line), "at": error.at, "reason": reason.name(), "message": error.message()}));
        self.faults.push((line.to_vec(), error));
    }

    /// A line with a time that a daemon does not believe now.
    fn refuse(&mut self, line: &[u8], error: ParseError, message: String) {
        let reason = error.reason.name();
        self.refused_now.push(json!({"line": lossy(line), "at": error.at, "reason": reason, "message": message}));
        self.untimely.push((line.to_vec(), error, message));
    }

    /// What a line says of presence; whether it is a heartbeat.
    fn presence<'a>(
        &mut self,
        samples: impl Iterator<Item = Result<Metric<'a>, ParseError>> + Clone,
        heartbeats: Option<&Arc<Heartbeats>>,
    ) -> bool {
        let signal = heartbeats.and_then(|heartbeats| heartbeats.of_line(samples, None));
        self.no_heartbeats.extend(signal.as_ref().and_then(ignored_json));
        let beat = signal.as_ref().and_then(heartbeat_json);
        let is_heartbeat = beat.is_some();
        self.heartbeats.extend(beat);
        is_heartbeat
    }

    fn metric(&mut self, metric: &Metric<'_>, heartbeats: Option<&Arc<Heartbeats>>) {
        self.skipped.extend(metric.skipped_sections().map(|s| lossy(s).into_owned()));
        self.tags_cut += metric.tags.cut();
        if let Some(rate) = metric.odd_rate().map(lossy)
            && self.odd_rates.last().is_none_or(|last| *last != rate)
        {
            self.odd_rates.push(rate.into_owned());
        }
        if self.bytes > SHOWN_BYTES {
            self.more += metric.values.len();
            return;
        }
        let series = Series::from_key(KeyBuilder::hiding(heartbeats.cloned()).metric(metric, metric.kind));
        self.bytes += series.key().len();
        let mut entry = Map::new();
        entry.insert("type".into(), metric.kind.name().into());
        entry.insert("name".into(), series.name().into());
        entry.insert("tags".into(), as_value(&Tags(series.tags())));
        let mut rest = Map::new();
        if metric.rate.get() < 1.0 {
            rest.insert("rate".into(), metric.rate.get().into());
        }
        if let Some(timestamp) = metric.timestamp {
            rest.insert("timestamp".into(), timestamp.get().into());
        }
        let mut text = |key: &str, value: Option<&[u8]>| {
            if let Some(value) = value {
                rest.insert(key.into(), lossy(value).into());
            }
        };
        text("container", metric.container());
        text("external_data", metric.external_data());
        text("cardinality", metric.cardinality().map(|c| c.as_str().as_bytes()));
        match metric.values {
            Values::Gauge { .. } => {
                // Each packed value of a gauge is a step of its own.
                for (op, value) in metric.values.gauge() {
                    if self.bytes > SHOWN_BYTES {
                        self.more += 1;
                        continue;
                    }
                    self.bytes += series.key().len();
                    let mut entry = entry.clone();
                    entry.insert("values".into(), json!([value]));
                    let word = match op {
                        GaugeOp::Set => "set",
                        GaugeOp::Increase => "inc",
                        GaugeOp::Decrease => "dec",
                    };
                    entry.insert("op".into(), word.into());
                    entry.extend(rest.clone());
                    self.metrics.push(entry.into());
                }
            }
            Values::Numbers { .. } | Values::Total(_) => {
                entry.insert("values".into(), metric.values.numbers().collect());
                entry.extend(rest);
                self.metrics.push(entry.into());
            }
            Values::Member(member) => {
                entry.insert("values".into(), json!([lossy(member)]));
                entry.extend(rest);
                self.metrics.push(entry.into());
            }
        }
    }
}

/// A part of a record as `explain` shows it.
fn as_value(part: &impl Serialize) -> Value {
    serde_json::to_value(part).expect("every key of a record is text, and no number is out of range")
}

fn event_json(event: &EventOrCheck, timestamp: Option<u64>) -> Value {
    let mut value = as_value(&EventFields(event));
    if let Some(timestamp) = timestamp {
        value["timestamp"] = timestamp.into();
    }
    value
}

/// Which rule each sample meets, and what becomes of it.
fn rules_of(datagram: &[u8], config: &Config) -> Vec<String> {
    let mut told = Vec::new();
    let protocol = assemble::protocol(config, &config.protocol);
    let mut keys = KeyBuilder::hiding(assemble::heartbeats(config).map(Arc::new));
    for line in lines(datagram) {
        let Ok(Line::Samples(samples)) = parse_line(line, &protocol) else { continue };
        for metric in samples.filter_map(Result::ok) {
            let kind = kind_as(metric.kind, config.profile == Profile::Etsy);
            let series = Series::from_key(keys.metric(&metric, kind));
            let Some((n, rule)) = config.rules.find(&series) else { continue };
            let outcome = match Rules::outcome(rule, &series) {
                RuleOutcome::Dropped => "dropped".to_string(),
                RuleOutcome::Same => "as it is".to_string(),
                RuleOutcome::Is(series) => format!("becomes {series}"),
            };
            let overrides = rule.overrides.to_string();
            let outcome = if overrides.is_empty() || rule.drop { outcome } else { format!("{outcome}; {overrides}") };
            told.push(format!("{} (match = \"{}\"): {outcome}", n + 1, rule.pattern));
        }
    }
    told
}

/// For people: what was understood, what was not, and what would be flushed.
fn write_reading_text(reading: &Reading, datagram: &[u8], config: &Config, out: &mut Vec<u8>) {
    // Writing to memory cannot fail.
    let _ = tell_reading(reading, config.max_tags, out);
    for told in rules_of(datagram, config) {
        let _ = writeln!(out, "  rule         {}", Escaped(&told));
    }
    if !reading.metrics.is_empty() {
        let _ = writeln!(out, "  would flush, after {} s:", number(config.interval.as_secs_f64()));
        for line in flushed(datagram, config) {
            let _ = writeln!(out, "    {line}");
        }
    }
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
        writeln!(out, "  {what}: {message}")?;
        writeln!(out, "    {}", Escaped(&lossy(line)))?;
        writeln!(out, "    {}^ {} at byte {}", " ".repeat(column), error.reason.name(), error.at)?;
    }
    Ok(())
}

/// The lines that a Graphite server would get of this datagram alone.
fn flushed(datagram: &[u8], config: &Config) -> Vec<String> {
    let quota = Quota::new(config.max_series);
    let mut shard = Shard::new(assemble::shard_options(config, &quota, 0));
    let mut options = assemble::registry_options(config, false);
    options.self_metrics = SelfMetrics::Off;
    let mut registry = Registry::new(options, 1);
    // Its own interval begins at 0.
    shard.set_origin(Some(unix_time()));
    shard.ingest(datagram, &assemble::protocol(config, &config.protocol), None, 0.0);
    let none = [const { Vec::new() }; 5];
    let interval_secs = config.interval.as_secs_f64();
    let interval = Interval::new(interval_secs, interval_secs, interval_secs, config.interval).last();
    let mut snapshot = registry.close(&mut [shard.close(none, Columns::default())], interval);
    snapshot.sort();
    let names = assemble::graphite_names(config);
    let lines = graphite::encode(&snapshot, &names);
    lossy(&lines)
        .lines()
        // The time would be that of the flush.
        .map(|line| line.rsplit_once(' ').map_or(line, |(line, _)| line).to_string())
        .collect()
}
