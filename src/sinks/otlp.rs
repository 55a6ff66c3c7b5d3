//! OpenTelemetry: metrics as protobuf over HTTP to a collector's `/v1/metrics` (OTLP 1.x, `opentelemetry/proto/metrics/v1`).
//!
//! Counters are sums, gauges and sets gauges, timers, histograms and distributions exponential histograms. With the temporality
//! `delta` each interval has its own sums; with `cumulative` sums and histograms continue from interval to interval. Points that
//! the receiver rejects in a partial success, or refuses permanently, are dropped and counted (`refused`); so is what continues
//! beyond the daemon's `max_series` (`max_series`) or what there is memory for (`memory`). Events, checks and changes of presence have no form here (`unsupported`), nor
//! has a histogram of more than 2^64 events, or a time after the year 2554 (`unencodable`).
//!
//! Bodies are not compressed unless `gzip` says so: not every receiver unpacks them. One that answers 400 or 415 then gets the
//! same body uncompressed, and if it takes that, everything that follows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE};
use prost::{Message, Oneof};

use crate::protocol::Kind;
use crate::series::Series;
use crate::settings::choice;
use crate::snapshot::{Point, Snapshot};

use super::blocking::run_in_place;
use super::exponential::{Exponential, ZERO_THRESHOLD};
use super::http::{Endpoint, Outcome, Post, Ready, gzip};
use super::running::{Distribution, Prepared, Running};
use super::spec::reach_url;
use super::{Delivery, LONG, Opt, OptionVisitor, Receipt, Sink, SinkContext, SinkError, Spec, Unencodable};

/// Points of a request, and about how many bytes.
const REQUEST_POINTS: usize = 5000;
const REQUEST_BYTES: usize = 4 << 20;

/// Most buckets of a sign. The empty ones between them are sent too: those of two values at the ends of what a double holds
/// would be 136,000.
const MOST_BUCKETS: i32 = 6400;

/// More than a count holds, rounding included.
const TOO_MANY: f64 = 1.8e19;

/// Unix seconds from which on a time has no form.
const TOO_LATE: f64 = 1.8e10;

/// What the sums of an interval are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Temporality {
    #[default]
    Delta,
    Cumulative,
}

/// `otlp` in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtlpSpec {
    endpoint: Endpoint,
    temporality: Temporality,
    gzip: bool,
    /// Attributes of the resource.
    resource: BTreeMap<String, String>,
    ttl: Duration,
}

impl Default for OtlpSpec {
    fn default() -> OtlpSpec {
        OtlpSpec {
            endpoint: Endpoint::default(),
            temporality: Temporality::Delta,
            gzip: false,
            resource: BTreeMap::from([("service.name".into(), "systole".into())]),
            ttl: Duration::from_secs(3600),
        }
    }
}

impl Spec for OtlpSpec {
    fn options(&mut self, visitor: &mut dyn OptionVisitor) {
        self.endpoint.options(visitor, "\"http://127.0.0.1:4318\"");
        let words = [("delta", Temporality::Delta), ("cumulative", Temporality::Cumulative)];
        choice(
            visitor,
            "temporality",
            "\"delta\" reports each interval alone, \"cumulative\" sums since the start.",
            &words,
            &mut self.temporality,
        );
        visitor.field(
            "gzip",
            "Compress requests; a receiver that answers 400 or 415 gets them plain.",
            Opt::Flag(&mut self.gzip),
        );
        visitor.field("resource", "Attributes of the resource.", Opt::Map(&mut self.resource));
        visitor.field(
            "ttl",
            "With \"cumulative\": how long a series without an update is reported.",
            Opt::Duration(&mut self.ttl, Duration::from_millis(10)..=LONG),
        );
    }

    fn set_from_url(&mut self, place: &str) -> Result<(), String> {
        self.endpoint.url = format!("http:{place}");
        Ok(())
    }

    fn has_query(&self) -> bool {
        true
    }

    fn place(&self) -> String {
        self.endpoint.place()
    }

    fn probe(&self) -> Result<String, String> {
        reach_url(&self.endpoint.url)
    }

    fn accepts_out_of_order(&self) -> bool {
        self.temporality == Temporality::Delta
    }

    fn holds_series(&self) -> bool {
        true
    }

    fn open(&self, context: &SinkContext) -> Result<Box<dyn Sink>, String> {
        let post = Post::new(self.endpoint.clone(), context)?;
        // The whole of it may be said.
        let is_whole =
            self.endpoint.url.split('?').next().is_some_and(|url| url.trim_end_matches('/').ends_with("/v1/metrics"));
        let url = post.url(if is_whole { "" } else { "/v1/metrics" });
        Ok(Box::new(OtlpSink {
            spec: self.clone(),
            url,
            post,
            is_uncompressed: !self.gzip,
            running: Running::new(context),
            ready: Ready::default(),
            unencodable: Unencodable::default(),
        }))
    }
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(string, tag = "1")]
    text: String,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

fn attribute(key: &str, value: &str) -> KeyValue {
    KeyValue { key: key.to_string(), value: Some(AnyValue { text: value.to_string() }) }
}

#[derive(Clone, PartialEq, Message)]
struct NumberPoint {
    #[prost(message, repeated, tag = "7")]
    attributes: Vec<KeyValue>,
    #[prost(fixed64, tag = "2")]
    start: u64,
    #[prost(fixed64, tag = "3")]
    time: u64,
    #[prost(double, optional, tag = "4")]
    value: Option<f64>,
}

#[derive(Clone, PartialEq, Message)]
struct Buckets {
    #[prost(sint32, tag = "1")]
    offset: i32,
    #[prost(uint64, repeated, tag = "2")]
    counts: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct HistogramPoint {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
    #[prost(fixed64, tag = "2")]
    start: u64,
    #[prost(fixed64, tag = "3")]
    time: u64,
    #[prost(fixed64, tag = "4")]
    count: u64,
    #[prost(double, optional, tag = "5")]
    sum: Option<f64>,
    #[prost(sint32, tag = "6")]
    scale: i32,
    #[prost(fixed64, tag = "7")]
    zero_count: u64,
    #[prost(message, optional, tag = "8")]
    positive: Option<Buckets>,
    #[prost(message, optional, tag = "9")]
    negative: Option<Buckets>,
    #[prost(double, optional, tag = "12")]
    min: Option<f64>,
    #[prost(double, optional, tag = "13")]
    max: Option<f64>,
    #[prost(double, tag = "14")]
    zero_threshold: f64,
}

#[derive(Clone, PartialEq, Message)]
struct Gauge {
    #[prost(message, repeated, tag = "1")]
    points: Vec<NumberPoint>,
}

#[derive(Clone, PartialEq, Message)]
struct Total {
    #[prost(message, repeated, tag = "1")]
    points: Vec<NumberPoint>,
    #[prost(int32, tag = "2")]
    temporality: i32,
    #[prost(bool, tag = "3")]
    is_monotonic: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Histogram {
    #[prost(message, repeated, tag = "1")]
    points: Vec<HistogramPoint>,
    #[prost(int32, tag = "2")]
    temporality: i32,
}

#[derive(Clone, PartialEq, Oneof)]
enum Data {
    #[prost(message, tag = "5")]
    Gauge(Gauge),
    #[prost(message, tag = "7")]
    Sum(Total),
    #[prost(message, tag = "10")]
    Histogram(Histogram),
}

#[derive(Clone, PartialEq, Message)]
struct Metric {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "3")]
    unit: String,
    #[prost(oneof = "Data", tags = "5, 7, 10")]
    data: Option<Data>,
}

#[derive(Clone, PartialEq, Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeMetrics {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    metrics: Vec<Metric>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceMetrics {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scopes: Vec<ScopeMetrics>,
}

#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(message, repeated, tag = "1")]
    resources: Vec<ResourceMetrics>,
}

#[derive(Clone, PartialEq, Message)]
struct PartialSuccess {
    #[prost(int64, tag = "1")]
    rejected: i64,
    #[prost(string, tag = "2")]
    message: String,
}

#[derive(Clone, PartialEq, Message)]
struct Response {
    #[prost(message, optional, tag = "1")]
    partial: Option<PartialSuccess>,
}

/// A collector.
struct OtlpSink {
    spec: OtlpSpec,
    url: String,
    post: Post,
    /// Nothing is compressed: it is not configured, or the receiver does not take it.
    is_uncompressed: bool,
    running: Running,
    ready: Ready<Prepared>,
    /// Of the interval whose requests these are.
    unencodable: Unencodable,
}

fn nanos(secs: f64) -> u64 {
    // A double does not hold nanoseconds of today.
    (secs.max(0.0) * 1e6).round() as u64 * 1000
}

fn attributes(series: &Series) -> Vec<KeyValue> {
    let mut all: Vec<KeyValue> = Vec::new();
    for (key, value) in series.tags() {
        match all.last_mut().filter(|last| last.key == key) {
            Some(KeyValue { value: Some(known), .. }) => {
                known.text.push(',');
                known.text.push_str(value.unwrap_or(""));
            }
            Some(_) | None => all.push(attribute(key, value.unwrap_or(""))),
        }
    }
    all
}

fn side(buckets: &BTreeMap<i32, f64>) -> Option<Buckets> {
    let (first, counts) = Exponential::runs(buckets, i32::MAX).pop()?;
    // A bucket of OpenTelemetry is counted from its lower bound.
    Some(Buckets { offset: first - 1, counts: counts.into_iter().map(|count| count.round() as u64).collect() })
}

impl OtlpSink {
    /// The requests of an interval, each with its points.
    fn requests(&mut self, snapshot: &Snapshot) -> Vec<Prepared> {
        let mut requests = Vec::new();
        let mut metrics: BTreeMap<(String, u8), Metric> = BTreeMap::new();
        let (mut points, mut bytes) = (0, 0);
        self.unencodable = Unencodable::default();
        let timestamped = snapshot.timestamped.iter().map(Ok);
        let all = (0..).map_while(|n| snapshot.point(n)).map(Err).chain(timestamped);
        (self.running.left_out, self.running.squeezed) = (0, 0);
        for item in all {
            let (name, class, metric) = match item {
                Err(point @ (Point::Counter(_) | Point::Timer(_)))
                    if self.spec.temporality == Temporality::Cumulative && !self.running.has_room(point.series()) =>
                {
                    continue;
                }
                Err(point) => match self.metric(snapshot, point) {
                    Ok(metric) => metric,
                    Err(why) => {
                        self.unencodable.add(point.series(), why);
                        continue;
                    }
                },
                Ok(one) if one.time >= TOO_LATE => {
                    self.unencodable.add(&one.series, "its time is too late");
                    continue;
                }
                Ok(one) => {
                    let class = if one.series.kind() == Kind::Gauge { 0 } else { 1 };
                    let point = number_point(&one.series, one.time - 1.0, one.time, one.value);
                    let metric = number(class, point, one.value, Temporality::Delta);
                    // A sum has one temporality, so this one is not put to those that go on.
                    let is_apart = class == 1 && self.spec.temporality == Temporality::Cumulative;
                    (one.series.name().to_string(), if is_apart { 3 } else { class }, metric)
                }
            };
            points += 1;
            bytes += metric.encoded_len();
            join(metrics.entry((name.clone(), class)).or_insert(Metric { name, ..Metric::default() }), metric);
            if points == REQUEST_POINTS || bytes >= REQUEST_BYTES {
                requests.push((self.request(std::mem::take(&mut metrics)), points as u64));
                (points, bytes) = (0, 0);
            }
        }
        if points > 0 {
            requests.push((self.request(metrics), points as u64));
        }
        self.running.forget(snapshot.end - self.spec.ttl.as_secs_f64());
        requests
    }

    fn request(&self, metrics: BTreeMap<(String, u8), Metric>) -> Vec<u8> {
        let resource = Resource { attributes: self.spec.resource.iter().map(|(k, v)| attribute(k, v)).collect() };
        let scope = Scope { name: "systole".into(), version: env!("CARGO_PKG_VERSION").into() };
        let scopes = vec![ScopeMetrics { scope: Some(scope), metrics: metrics.into_values().collect() }];
        Request { resources: vec![ResourceMetrics { resource: Some(resource), scopes }] }.encode_to_vec()
    }

    async fn send(&mut self, body: Vec<u8>) -> Result<Outcome, SinkError> {
        let headers = [(CONTENT_TYPE, "application/x-protobuf"), (CONTENT_ENCODING, "gzip")];
        if self.is_uncompressed {
            return self.post.send(&self.url, &headers[..1], body).await;
        }
        match self.post.attempt(&self.url, &headers, gzip(&body)?).await? {
            Outcome::Refused(answer) if [400, 415].contains(&answer.status) => {
                let outcome = self.post.send(&self.url, &headers[..1], body).await?;
                if let Outcome::Taken(_) = outcome {
                    let (url, status) = (self.spec.place(), answer.status);
                    tracing::warn!(url, status, "the receiver refuses what is compressed; it gets everything plain");
                    self.is_uncompressed = true;
                }
                Ok(outcome)
            }
            Outcome::Refused(answer) => {
                self.post.log_answer(&answer);
                Ok(Outcome::Refused(answer))
            }
            Outcome::Taken(answer) => Ok(Outcome::Taken(answer)),
        }
    }

    /// A metric with one point: its name, and what kind of data it has.
    ///
    /// # Errors
    /// Why it has no form.
    fn metric(&mut self, snapshot: &Snapshot, point: Point<'_>) -> Result<(String, u8, Metric), &'static str> {
        let series = point.series();
        let (start, end) = (snapshot.end - snapshot.interval_secs_of(series), snapshot.end);
        let name = series.name().to_string();
        let is_cumulative = self.spec.temporality == Temporality::Cumulative;
        Ok(match point {
            Point::Counter(point) => {
                let fresh = point.sum.value();
                let (since, value) =
                    if is_cumulative { self.running.add(series, start, end, fresh) } else { (start, fresh) };
                let metric = number(1, number_point(series, since, end, value), fresh, self.spec.temporality);
                (name, 1, metric)
            }
            Point::Gauge(_) | Point::Set(_) | Point::Kv(_) => {
                let value = snapshot.aggregates(point).last().map_or(0.0, |(_, value)| value);
                (name, 0, number(0, number_point(series, start, end, value), value, self.spec.temporality))
            }
            Point::Timer(point) => {
                let (values, totals) = (snapshot.values(point), point.timer.totals());
                if values.iter().map(|(_, count)| count).sum::<f64>() >= TOO_MANY {
                    return Err("it stands for too many events");
                }
                let mut fresh = Distribution { min: totals.min, max: totals.max, ..Distribution::default() };
                fresh.sum.add(totals.sum);
                let (since, mut held) = if is_cumulative {
                    self.running.merge(series, start, end, &fresh, &values)
                } else {
                    values.iter().for_each(|(value, count)| fresh.buckets.add(*value, *count));
                    (start, fresh)
                };
                if held.buckets.count() >= TOO_MANY {
                    // It begins anew with the next interval.
                    self.running.remove(series);
                    return Err("it has come to too many events");
                }
                held.buckets.narrow(MOST_BUCKETS);
                let (positive, negative) = (side(&held.buckets.positive), side(&held.buckets.negative));
                let counted = |side: &Option<Buckets>| side.as_ref().map_or(0, |side| side.counts.iter().sum::<u64>());
                let zero_count = held.buckets.zero.round() as u64;
                let point = HistogramPoint {
                    attributes: attributes(series),
                    start: nanos(since),
                    time: nanos(end),
                    count: counted(&positive) + counted(&negative) + zero_count,
                    sum: Some(held.sum.value()),
                    scale: held.buckets.schema,
                    zero_count,
                    positive,
                    negative,
                    min: Some(held.min),
                    max: Some(held.max),
                    zero_threshold: ZERO_THRESHOLD,
                };
                let unit = if series.kind() == Kind::Timer { "ms" } else { "" };
                let data = Histogram { points: vec![point], temporality: temporality(self.spec.temporality) };
                (name, 2, Metric { unit: unit.into(), data: Some(Data::Histogram(data)), ..Metric::default() })
            }
        })
    }
}

fn temporality(temporality: Temporality) -> i32 {
    match temporality {
        Temporality::Delta => 1,
        Temporality::Cumulative => 2,
    }
}

fn number_point(series: &Series, start: f64, end: f64, value: f64) -> NumberPoint {
    NumberPoint { attributes: attributes(series), start: nanos(start), time: nanos(end), value: Some(value) }
}

/// A sum (class 1), which rises if what is `fresh` is not negative, or a gauge.
fn number(class: u8, point: NumberPoint, fresh: f64, of: Temporality) -> Metric {
    let data = match class {
        1 => Data::Sum(Total { points: vec![point], temporality: temporality(of), is_monotonic: fresh >= 0.0 }),
        _ => Data::Gauge(Gauge { points: vec![point] }),
    };
    Metric { data: Some(data), ..Metric::default() }
}

/// Adds the points of a metric to another of the same name and class.
fn join(known: &mut Metric, more: Metric) {
    match (&mut known.data, more.data) {
        (None, data) => (known.data, known.unit) = (data, more.unit),
        (Some(Data::Gauge(known)), Some(Data::Gauge(more))) => known.points.extend(more.points),
        (Some(Data::Sum(known)), Some(Data::Sum(more))) => {
            known.points.extend(more.points);
            known.is_monotonic &= more.is_monotonic;
        }
        (Some(Data::Histogram(known)), Some(Data::Histogram(more))) => known.points.extend(more.points),
        (Some(_), _) => {}
    }
}

impl Sink for OtlpSink {
    fn deliver<'a>(&'a mut self, snapshot: &'a Arc<Snapshot>) -> Delivery<'a, Result<Receipt, SinkError>> {
        Box::pin(async move {
            if !self.ready.is_of(snapshot) {
                let requests = run_in_place(|| self.requests(snapshot));
                self.ready.set(snapshot, requests);
            }
            let mut bytes = 0;
            while let Some((body, points)) = self.ready.next() {
                bytes += body.len() as u64;
                match self.send(body).await? {
                    Outcome::Refused(_) => self.ready.refused += points,
                    Outcome::Taken(answer) => {
                        // A body that is none says nothing.
                        let partial = Response::decode(answer.body.clone()).ok().and_then(|response| response.partial);
                        if let Some(partial) = partial.filter(|partial| partial.rejected > 0) {
                            self.post.log_refusal(&partial.message);
                            self.ready.refused += (partial.rejected as u64).min(points);
                        }
                    }
                }
                self.ready.done();
            }
            let (left_out, squeezed) = (self.running.left_out, self.running.squeezed);
            if left_out > 0 {
                self.post.log_refusal("the sink holds `max_series` series; what is new is left out");
            }
            if squeezed > 0 {
                self.post.log_refusal("memory is short; the sink leaves out what is new");
            }
            let unsupported = snapshot.count_events();
            let dropped = [
                ("refused", self.ready.refused),
                ("max_series", left_out),
                ("memory", squeezed),
                ("unsupported", unsupported),
            ];
            Ok(Receipt::new(bytes, dropped).with(self.unencodable.clone()))
        })
    }

    /// Sums and histograms that continue, and what the receiver has not taken of the last interval, which is in them.
    fn save(&self) -> Option<Vec<u8>> {
        let running = self.running.save(&self.ready)?;
        Some([&[u8::from(self.spec.temporality == Temporality::Cumulative)], &running[..]].concat())
    }

    fn restore(&mut self, saved: &[u8]) -> Result<(), SinkError> {
        let (is_cumulative, saved) = saved.split_first().ok_or_else(|| SinkError::new("nothing was saved of it"))?;
        if *is_cumulative != u8::from(self.spec.temporality == Temporality::Cumulative) {
            // It is configured anew, and nothing of before goes on.
            return Ok(());
        }
        let (ready, no_room) = self.running.restore(saved)?;
        self.ready = ready;
        if no_room > 0 {
            self.post.log_refusal(&format!("there is no room for {no_room} series of before; these begin anew"));
        }
        Ok(())
    }

    fn close(&mut self) -> Delivery<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}
