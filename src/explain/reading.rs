//! A datagram, read: what stands in it, and what is wrong.

use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::aggregate::{EventOrCheck, TimeWindow, bad_time, own_event, own_service_check};
use crate::codec::{EventFields, Tags};
use crate::protocol::{
    BINARY_MAGIC, GaugeOp, Heartbeats, JobStatus, JobTags, Line, Metric, Options, ParseError, Signal, Values,
    binary_frames, lines, lossy, parse_line,
};
use crate::series::{KeyBuilder, Series};
use crate::sys::unix_time;

/// Bytes of names and tags that are shown of a datagram: many values under many tags are more than anybody reads, and than
/// memory may hold.
const SHOWN_BYTES: usize = 16 << 20;

/// One datagram, read.
#[derive(Debug, Default, Serialize)]
pub struct Reading {
    pub(crate) input: String,
    pub(crate) metrics: Vec<Value>,
    pub(crate) events: Vec<Value>,
    pub(crate) service_checks: Vec<Value>,
    /// Lines that presence reads, with what they say.
    pub(crate) heartbeats: Vec<Value>,
    /// Lines that announce a maintenance, with whose and how long.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) maintenance: Vec<Value>,
    /// Under a heartbeat's name but none: what they are besides stands elsewhere.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) no_heartbeats: Vec<Value>,
    /// What watches make of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) watches: Vec<Value>,
    pub(crate) errors: Vec<Value>,
    pub(crate) skipped: Vec<String>,
    /// Lines that are well-formed, but would be refused if they came now, for a time of their own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) refused_now: Vec<Value>,
    /// Metrics that are not listed, because there are too many.
    #[serde(skip_serializing_if = "is_nothing")]
    pub(crate) more: usize,
    /// What the listed ones take.
    #[serde(skip)]
    pub(crate) bytes: usize,
    #[serde(skip)]
    pub(crate) faults: Vec<(Vec<u8>, ParseError)>,
    /// Each with how far it is outside of the window.
    #[serde(skip)]
    pub(crate) untimely: Vec<(Vec<u8>, ParseError, String)>,
    /// Tags that `max_tags` cuts, of every sample, event and check.
    #[serde(skip_serializing_if = "is_none")]
    pub(crate) tags_cut: u64,
    /// Rates that are taken as 1.
    #[serde(skip)]
    pub(crate) odd_rates: Vec<String>,
    #[serde(skip)]
    pub(crate) events_and_checks: Vec<EventOrCheck>,
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

/// Reads a datagram.
pub(super) fn read(
    datagram: &[u8],
    options: &Options,
    heartbeats: Option<&Arc<Heartbeats>>,
    times: &TimeWindow,
) -> Reading {
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
    if let Some(job) = beat.job.as_deref().filter(|job| job.status.is_some()) {
        entry.insert("job".into(), job_json(job));
    }
    Some(Value::Object(entry))
}

/// A maintenance: of a service or one instance, how long, or that it ends (0).
fn maintenance_json(signal: &Signal) -> Option<Value> {
    let Signal::Maintenance { service, instance, seconds, .. } = signal else { return None };
    Some(json!({"service": service, "instance": instance, "seconds": seconds}))
}

/// What a heartbeat says of a run of a job.
fn job_json(job: &JobTags) -> Value {
    let counts_as = match job.status {
        Some(JobStatus::Start) => "running",
        Some(JobStatus::Ok) => "ok",
        Some(JobStatus::Fail) | None => "failed",
    };
    let mut entry = Map::new();
    entry.insert("counts_as".into(), counts_as.into());
    if let Some(run) = &job.run {
        entry.insert("run".into(), json!(run));
    }
    if let Some(exit) = job.exit {
        entry.insert("exit".into(), exit.into());
    }
    if let Some(complaint) = job.complaint() {
        entry.insert("message".into(), json!(complaint));
    }
    Value::Object(entry)
}

/// Why a line under a heartbeat's name is none.
fn ignored_json(signal: &Signal) -> Option<Value> {
    let Signal::Ignored(why) = signal else { return None };
    Some(json!({"reason": why.name(), "message": why.message()}))
}

impl Reading {
    /// Masks the keys that are for presence alone in what is repeated of the input.
    pub(super) fn mask(&mut self, heartbeats: &Heartbeats) {
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
        self.maintenance.extend(signal.as_ref().and_then(maintenance_json));
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
