//! Datadog: series to `/api/v2/series`, events to `/api/v1/events`, service checks to `/api/v1/check_run`, all as JSON
//! (docs.datadoghq.com, "API reference"). Names are the agent's: a counter is a count, a timer `name.avg`, `name.count`, `name.max`,
//! `name.median`, `name.95percentile` and so on; a gauge and a set are gauges. A change of presence is a run of the check
//! `systole.presence`. The tag `host` names the resource. What is refused permanently is dropped and counted (`refused`).

use std::sync::Arc;

use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName};
use serde_json::{Value, json};

use crate::aggregate::{EventOrCheck, EventOrCheckBody};
use crate::presence::{Event, Severity};
use crate::series::Series;
use crate::snapshot::{Aggregate, Point, Snapshot};

use super::agent;
use super::blocking::run_in_place;
use super::http::{Endpoint, Outcome, Post, Ready, gzip};
use super::spec::reach_url;
use super::{Delivery, Opt, OptionVisitor, Receipt, Sink, SinkContext, SinkError, Spec};

/// Series of a request, and bytes from which on it is sent: below the 5 MB that it may have unpacked, and, names as they are, the
/// 500 kB packed.
const REQUEST_SERIES: usize = 5000;
const REQUEST_BYTES: usize = 2 << 20;

const KEY: HeaderName = HeaderName::from_static("dd-api-key");

const COUNT: u8 = 1;
const GAUGE: u8 = 3;

/// `datadog` in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatadogSpec {
    endpoint: Endpoint,
    api_key: String,
    /// What series without a tag `host` belong to.
    host: String,
}

impl Default for DatadogSpec {
    fn default() -> DatadogSpec {
        let endpoint = Endpoint { url: "https://api.datadoghq.com".into(), ..Endpoint::default() };
        DatadogSpec { endpoint, api_key: String::new(), host: String::new() }
    }
}

impl Spec for DatadogSpec {
    fn options(&mut self, visitor: &mut dyn OptionVisitor) {
        self.endpoint.options(visitor, "\"https://api.datadoghq.eu\"");
        visitor.field("api_key", "Key of the API.", Opt::Secret(&mut self.api_key));
        visitor.example("api_key", "\"a secret\"");
        visitor.require_one("api_key", !self.api_key.is_empty(), "\"file:/run/secrets/datadog\"");
        visitor.field("host", "Host of the series that have no tag `host`.", Opt::TextOrNone(&mut self.host));
        visitor.example("host", "\"web-1\"");
    }

    fn place(&self) -> String {
        self.endpoint.place()
    }

    fn probe(&self) -> Result<String, String> {
        reach_url(&self.endpoint.url)
    }

    fn open(&self, context: &SinkContext) -> Result<Box<dyn Sink>, String> {
        let post = Post::new(self.endpoint.clone(), context)?;
        let aggregates = context.aggregates.clone();
        Ok(Box::new(DatadogSink { spec: self.clone(), post, aggregates, ready: Ready::default() }))
    }
}

/// A request: its path, its body, the records in it.
type Request = (String, Vec<u8>, u64);

/// Datadog's API.
struct DatadogSink {
    spec: DatadogSpec,
    post: Post,
    aggregates: Vec<String>,
    ready: Ready<Request>,
}

/// `key:value`, or `key` alone.
fn tags<'a>(tags: impl Iterator<Item = (&'a str, Option<&'a str>)>) -> Vec<String> {
    tags.map(|(key, value)| value.map_or(key.to_string(), |value| format!("{key}:{value}"))).collect()
}

impl DatadogSink {
    fn series(&self, snapshot: &Snapshot, series: &Series, suffix: &str, kind: u8, value: f64, time: f64) -> Value {
        let host = series.tags().find(|(key, _)| *key == "host").and_then(|(_, value)| value);
        let host = host.or(Some(self.spec.host.as_str()).filter(|host| !host.is_empty()));
        let mut one = json!({
            "metric": format!("{}{suffix}", series.name()),
            "type": kind,
            "points": [{"timestamp": time.round() as i64, "value": value}],
            "tags": tags(series.tags().filter(|(key, _)| *key != "host")),
        });
        if kind == COUNT {
            one["interval"] = (snapshot.interval_secs_of(series).round().max(1.0) as u64).into();
        }
        if let Some(host) = host {
            one["resources"] = json!([{"name": host, "type": "host"}]);
        }
        one
    }

    /// What is sent of one point.
    fn point(&self, snapshot: &Snapshot, point: Point<'_>, out: &mut Vec<Value>) {
        let series = point.series();
        let mut send = |suffix: &str, kind: u8, value: f64| {
            out.push(self.series(snapshot, series, suffix, kind, value, snapshot.end));
        };
        match point {
            Point::Counter(point) => send("", COUNT, point.sum.value()),
            Point::Gauge(_) | Point::Set(_) | Point::Kv(_) => {
                send("", GAUGE, snapshot.aggregates(point).last().map_or(0.0, |(_, value)| value));
            }
            Point::Timer(point) => {
                let summary = snapshot.summary(point);
                for (aggregate, name, value) in agent::aggregates(&summary, &self.aggregates) {
                    let kind = match aggregate {
                        Aggregate::Percentile(percentile) if percentile <= 0.0 => continue,
                        Aggregate::Count => COUNT,
                        _ => GAUGE,
                    };
                    send(&format!(".{name}"), kind, value);
                }
            }
        }
    }

    fn requests(&self, snapshot: &Snapshot) -> Vec<Request> {
        let mut requests: Vec<Request> = Vec::new();
        let (mut batch, mut records, mut bytes) = (Vec::new(), 0, 0);
        let mut close = |batch: &mut Vec<Value>, records: &mut u64| {
            if *records > 0 {
                let body = json!({"series": std::mem::take(batch)});
                requests.push(("/api/v2/series".into(), body.to_string().into_bytes(), std::mem::take(records)));
            }
        };
        let points = (0..).map_while(|n| snapshot.point(n)).map(Ok);
        for item in points.chain(snapshot.timestamped.iter().map(Err)) {
            let before = batch.len();
            let series = match item {
                Ok(point) => {
                    self.point(snapshot, point, &mut batch);
                    point.series()
                }
                Err(one) => {
                    let kind = if one.series.kind() == crate::protocol::Kind::Gauge { GAUGE } else { COUNT };
                    batch.push(self.series(snapshot, &one.series, "", kind, one.value, one.time));
                    &one.series
                }
            };
            records += 1;
            // What stands around a name and its tags, about.
            bytes += (batch.len() - before) * (series.key().len() + 100);
            if batch.len() >= REQUEST_SERIES || bytes >= REQUEST_BYTES {
                close(&mut batch, &mut records);
                bytes = 0;
            }
        }
        close(&mut batch, &mut records);
        let mut checks = Vec::new();
        for event in &snapshot.events_and_checks {
            match &event.body {
                EventOrCheckBody::Event { .. } => {
                    requests.push(("/api/v1/events".into(), self.event(event).to_string().into_bytes(), 1));
                }
                EventOrCheckBody::ServiceCheck { .. } => checks.push(self.check(event)),
            }
        }
        checks.extend(snapshot.presence.iter().map(|event| self.presence(event)));
        if !checks.is_empty() {
            let records = checks.len() as u64;
            requests.push(("/api/v1/check_run".into(), Value::Array(checks).to_string().into_bytes(), records));
        }
        requests
    }

    fn event(&self, event: &EventOrCheck) -> Value {
        let EventOrCheckBody::Event { title, text, priority, alert_type, aggregation_key, source_type } = &event.body
        else {
            return Value::Null;
        };
        json!({
            "title": title,
            "text": text,
            "date_happened": event.time as i64,
            "priority": priority,
            "alert_type": alert_type,
            "aggregation_key": aggregation_key,
            "source_type_name": source_type,
            "host": event.host.as_deref().unwrap_or(&self.spec.host),
            "tags": tags(event.tags.iter()),
        })
    }

    fn check(&self, event: &EventOrCheck) -> Value {
        let EventOrCheckBody::ServiceCheck { name, status, message } = &event.body else { return Value::Null };
        json!({
            "check": name,
            "status": status,
            "timestamp": event.time as i64,
            "message": message.as_deref().unwrap_or(""),
            "host_name": event.host.as_deref().unwrap_or(&self.spec.host),
            "tags": tags(event.tags.iter()),
        })
    }

    fn presence(&self, event: &Event) -> Value {
        let status = match event.severity() {
            Severity::Critical => 2,
            Severity::Warning => 1,
            Severity::Info => 0,
        };
        let tag = |key: &str, value: Option<&str>| value.map(|value| format!("{key}:{value}"));
        let tags: Vec<String> = [
            tag("service", event.service.as_deref()),
            tag("instance", event.instance.as_deref()),
            tag("from", event.change.from_name()),
            tag("to", event.change.to_name()),
            tag("reason", event.change.reason().as_deref()),
        ]
        .into_iter()
        .flatten()
        .collect();
        json!({
            "check": "systole.presence",
            "status": status,
            "timestamp": event.at.as_secs() as i64,
            "message": event.change.to_name().unwrap_or(""),
            "host_name": self.spec.host,
            "tags": tags,
        })
    }
}

impl Sink for DatadogSink {
    fn deliver<'a>(&'a mut self, snapshot: &'a Arc<Snapshot>) -> Delivery<'a, Result<Receipt, SinkError>> {
        Box::pin(async move {
            if !self.ready.is_of(snapshot) {
                let requests = run_in_place(|| self.requests(snapshot));
                self.ready.set(snapshot, requests);
            }
            let mut bytes = 0;
            while let Some((path, body, records)) = self.ready.next() {
                bytes += body.len() as u64;
                let url = self.post.url(&path);
                let api_key = self.spec.api_key.clone();
                let mut headers = vec![(CONTENT_TYPE, "application/json"), (KEY, api_key.as_str())];
                // Only series are taken packed.
                let body = if path == "/api/v2/series" {
                    headers.push((CONTENT_ENCODING, "gzip"));
                    gzip(&body)?
                } else {
                    body
                };
                if let Outcome::Refused(_) = self.post.send(&url, &headers, body).await? {
                    self.ready.refused += records;
                }
                self.ready.done();
            }
            Ok(Receipt::new(bytes, [("refused", self.ready.refused)]))
        })
    }

    /// What was not taken of the last interval: the rest must not be sent twice.
    fn save(&self) -> Option<Vec<u8>> {
        self.ready.save()
    }

    fn restore(&mut self, saved: &[u8]) -> Result<(), SinkError> {
        self.ready = Ready::restored(saved)?;
        Ok(())
    }

    fn close(&mut self) -> Delivery<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}
