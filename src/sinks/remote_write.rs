//! Prometheus by remote write: protocol 1.0, or 2.0 with a fall-back (prometheus.io, "Prometheus Remote-Write 1.0" and "2.0
//! specification"). Names and labels are those of the scrape endpoint; counters go on from interval to interval.
//!
//! Of a counter that is new a zero is sent for the start of its first interval, so that `increase` sees it. Timers are native
//! histograms, or buckets (`classic`), or quantiles (`summary`). A series is sent in the intervals that touch it. The same
//! interval sent twice is the same samples, which Prometheus takes for one; what it refuses for good (out of order, another
//! value at the same time) is dropped and counted (`refused`): a request that is refused is sent again in halves, until what is
//! wrong stands alone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName};
use prost::Message;
use tokio::task::spawn_blocking;

use crate::snapshot::Snapshot;

use super::exponential::{Exponential, ZERO_THRESHOLD};
use super::http::{Endpoint, Outcome, Post};
use super::prometheus::{Distributions, Exposition, NativeSide, Sample, Shape, Value, label_pairs, native_side};
use super::spec::{choice, reach_url};
use super::{Delivery, Field, Form, LONG, Receipt, Sink, SinkError, Site, Spec};

/// Bytes of a request before they are compressed, about.
const REQUEST_BYTES: usize = 1 << 20;

/// How often in an interval a request that was refused is sent again as two.
const MOST_SPLITS: u32 = 100;

const VERSION: HeaderName = HeaderName::from_static("x-prometheus-remote-write-version");
const WRITTEN: &str = "x-prometheus-remote-write-samples-written";

/// What timers are sent as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Histograms {
    #[default]
    Native,
    Classic,
    Summary,
}

/// `remote_write` in the configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct RemoteWriteSpec {
    endpoint: Endpoint,
    /// 1 or 2.
    version: u64,
    histograms: Histograms,
    /// Bounds of classic histograms, in seconds for timers.
    buckets: Vec<f64>,
    ttl: Duration,
}

impl Default for RemoteWriteSpec {
    fn default() -> RemoteWriteSpec {
        RemoteWriteSpec {
            endpoint: Endpoint::default(),
            version: 1,
            histograms: Histograms::Native,
            // Those of Prometheus' own clients.
            buckets: vec![0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0],
            ttl: Duration::from_secs(3600),
        }
    }
}

impl Spec for RemoteWriteSpec {
    fn options(&mut self, form: &mut dyn Form) {
        self.endpoint.options(form, "\"http://127.0.0.1:9090/api/v1/write\"");
        form.field("version", Field::Whole(&mut self.version, 1..=2));
        let words =
            [("native", Histograms::Native), ("classic", Histograms::Classic), ("summary", Histograms::Summary)];
        choice(form, "histograms", &words, &mut self.histograms);
        form.field("buckets", Field::Numbers(&mut self.buckets, f64::MIN..=f64::MAX));
        let is_ascending = self.buckets.is_sorted_by(|a, b| a < b) && !self.buckets.is_empty();
        form.insist(
            "buckets",
            if is_ascending { Ok(()) } else { Err("ascending bounds are right, such as [0.1, 1, 10]".into()) },
        );
        form.field("ttl", Field::Duration(&mut self.ttl, Duration::from_millis(10)..=LONG));
    }

    fn locate(&mut self, place: &str) -> Result<(), String> {
        self.endpoint.url = format!("http:{}", place);
        Ok(())
    }

    fn place(&self) -> String {
        self.endpoint.place()
    }

    fn probe(&self) -> Result<String, String> {
        reach_url(&self.endpoint.url)
    }

    fn open(&self, site: &Site) -> Result<Box<dyn Sink>, String> {
        let distributions = match self.histograms {
            Histograms::Native => Distributions::Native,
            Histograms::Classic => Distributions::Classic(self.buckets.clone()),
            Histograms::Summary => Distributions::Summary,
        };
        Ok(Box::new(RemoteWriteSink {
            post: Post::new(self.endpoint.clone(), site)?,
            is_second: self.version == 2,
            state: Arc::new(Mutex::new(Exposition::new(self.ttl.as_secs_f64(), distributions))),
            applied: None,
        }))
    }
}

#[derive(Clone, PartialEq, Message)]
struct Label {
    // Text and bytes are the same on the wire; these are shared, not copied.
    #[prost(bytes = "bytes", tag = "1")]
    name: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Point {
    #[prost(double, tag = "1")]
    value: f64,
    #[prost(int64, tag = "2")]
    timestamp: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct BucketSpan {
    #[prost(sint32, tag = "1")]
    offset: i32,
    #[prost(uint32, tag = "2")]
    length: u32,
}

/// The same in both versions.
#[derive(Clone, PartialEq, Message)]
struct Histogram {
    #[prost(uint64, optional, tag = "1")]
    count_int: Option<u64>,
    #[prost(double, optional, tag = "2")]
    count_float: Option<f64>,
    #[prost(double, tag = "3")]
    sum: f64,
    #[prost(sint32, tag = "4")]
    schema: i32,
    #[prost(double, tag = "5")]
    zero_threshold: f64,
    #[prost(uint64, optional, tag = "6")]
    zero_count_int: Option<u64>,
    #[prost(double, optional, tag = "7")]
    zero_count_float: Option<f64>,
    #[prost(message, repeated, tag = "8")]
    negative_spans: Vec<BucketSpan>,
    #[prost(sint64, repeated, tag = "9")]
    negative_deltas: Vec<i64>,
    #[prost(double, repeated, tag = "10")]
    negative_counts: Vec<f64>,
    #[prost(message, repeated, tag = "11")]
    positive_spans: Vec<BucketSpan>,
    #[prost(sint64, repeated, tag = "12")]
    positive_deltas: Vec<i64>,
    #[prost(double, repeated, tag = "13")]
    positive_counts: Vec<f64>,
    #[prost(int64, tag = "15")]
    timestamp: i64,
}

#[derive(Clone, PartialEq, Message)]
struct FirstSeries {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<Label>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Point>,
    #[prost(message, repeated, tag = "4")]
    histograms: Vec<Histogram>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Metadata {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(uint32, tag = "3")]
    help: u32,
}

#[derive(Clone, PartialEq, Message)]
struct SecondSeries {
    #[prost(uint32, repeated, tag = "1")]
    labels: Vec<u32>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Point>,
    #[prost(message, repeated, tag = "3")]
    histograms: Vec<Histogram>,
    #[prost(message, optional, tag = "5")]
    metadata: Option<Metadata>,
}

/// Tags of the repeated fields of a request, which is written piece by piece.
const FIRST_SERIES: u32 = 1;
const SYMBOLS: u32 = 4;
const SECOND_SERIES: u32 = 5;

/// A request that grows.
#[derive(Default)]
struct Request {
    is_second: bool,
    body: Vec<u8>,
    /// Places of texts in `texts`; the first is empty.
    symbols: HashMap<Bytes, u32>,
    texts: Vec<Bytes>,
    first: FirstSeries,
    second: SecondSeries,
    /// Points and histograms in it.
    records: u64,
}

impl Request {
    fn new(is_second: bool) -> Request {
        let mut request = Request { is_second, ..Request::default() };
        request.symbol(Bytes::new());
        request
    }

    fn symbol(&mut self, text: Bytes) -> u32 {
        let next = self.texts.len() as u32;
        let number = *self.symbols.entry(text.clone()).or_insert(next);
        if number == next {
            self.texts.push(text);
        }
        number
    }

    /// Adds a series: labels in order, points, histograms.
    fn series(&mut self, labels: &[(Bytes, Bytes)], points: &[Point], histogram: Option<Histogram>, kind: i32) {
        self.records += 1;
        if self.is_second {
            let mut numbers = std::mem::take(&mut self.second.labels);
            numbers.clear();
            for (name, value) in labels {
                numbers.push(self.symbol(name.clone()));
                numbers.push(self.symbol(value.clone()));
            }
            self.second.labels = numbers;
            self.second.samples.clear();
            self.second.samples.extend_from_slice(points);
            self.second.histograms.clear();
            self.second.histograms.extend(histogram);
            self.second.metadata = Some(Metadata { kind, help: 0 });
            prost::encoding::message::encode(SECOND_SERIES, &self.second, &mut self.body);
        } else {
            self.first.labels.clear();
            let label = |(name, value): &(Bytes, Bytes)| Label { name: name.clone(), value: value.clone() };
            self.first.labels.extend(labels.iter().map(label));
            self.first.samples.clear();
            self.first.samples.extend_from_slice(points);
            self.first.histograms.clear();
            self.first.histograms.extend(histogram);
            prost::encoding::message::encode(FIRST_SERIES, &self.first, &mut self.body);
        }
    }

    fn finish(mut self) -> Result<Vec<u8>, SinkError> {
        if self.is_second {
            self.texts.iter().for_each(|text| prost::encoding::bytes::encode(SYMBOLS, text, &mut self.body));
        }
        let packed = snap::raw::Encoder::new().compress_vec(&self.body);
        packed.map_err(|error| SinkError::new(format!("a request cannot be compressed: {error}")))
    }
}

/// A request as it is sent.
struct Batch {
    body: Vec<u8>,
    /// Series of ours in it.
    series: u64,
    /// Where the next one goes on; `None` if nothing is left.
    next: Option<usize>,
}

/// At most `most` series of the interval that ended at `end`, from a place on.
fn batch(exposition: &Exposition, end: f64, from: usize, most: u64, is_second: bool) -> Result<Batch, SinkError> {
    let mut request = Request::new(is_second);
    let mut names = Names::default();
    let (mut series, mut next) = (0, None);
    for (place, sample) in exposition.samples(from) {
        if request.body.len() >= REQUEST_BYTES || series >= most {
            next = Some(place);
            break;
        }
        if sample.updated == end {
            series += 1;
            write(&mut request, &mut names, sample, exposition.shape_of(sample));
        }
    }
    Ok(Batch { body: request.finish()?, series, next })
}

/// Labels of the series being written, with the name at its place.
#[derive(Default)]
struct Names {
    labels: Vec<(Bytes, Bytes)>,
}

impl Names {
    fn with(
        &mut self,
        own: &[(Bytes, Bytes)],
        name: String,
        extra: Option<(&'static str, String)>,
    ) -> &[(Bytes, Bytes)] {
        self.labels.clear();
        self.labels.extend_from_slice(own);
        self.labels.push((Bytes::from_static(b"__name__"), Bytes::from(name)));
        self.labels.extend(extra.map(|(key, value)| (Bytes::from_static(key.as_bytes()), Bytes::from(value))));
        // Few are there, and nearly in order.
        self.labels.sort();
        &self.labels
    }
}

fn write(request: &mut Request, names: &mut Names, sample: &Sample, shape: Shape) {
    let own: Vec<(Bytes, Bytes)> =
        label_pairs(&sample.series).into_iter().map(|(key, value)| (Bytes::from(key), Bytes::from(value))).collect();
    let millis = |secs: f64| (secs * 1e3).round() as i64;
    // A moment later than the end of the interval before, which may have been told by a daemon before this one.
    let (timestamp, created) = (millis(sample.updated), millis(sample.created) + 1);
    let kind = match shape {
        Shape::Counter => 1,
        Shape::Gauge => 2,
        Shape::Histogram => 3,
        Shape::Summary => 5,
    };
    if let Value::Timer(held) = &sample.value
        && let Some(native) = &held.native
        && held.buckets.is_empty()
    {
        let sum = held.sum.value() / super::prometheus::divisor(&sample.series);
        let labels = names.with(&own, sample.family.to_string(), None);
        request.series(labels, &[], Some(histogram(native, sum, timestamp)), 3);
        return;
    }
    let (begins, is_told) = (sample.is_new && created < timestamp, shape != Shape::Gauge);
    sample.each(|suffix, extra, value| {
        let grows = is_told && (extra.is_none() || suffix == "_bucket");
        let points = [Point { value: 0.0, timestamp: created }, Point { value, timestamp }];
        let points = if begins && grows { &points[..] } else { &points[1..] };
        let labels = names.with(&own, format!("{}{suffix}", sample.family), extra);
        request.series(labels, points, None, kind);
    });
}

fn histogram(native: &Exponential, sum: f64, timestamp: i64) -> Histogram {
    let is_whole = native.is_whole();
    let spans = |side: &NativeSide| {
        side.spans.iter().map(|&(offset, length)| BucketSpan { offset, length }).collect::<Vec<_>>()
    };
    let positive = native_side(&native.positive, is_whole);
    let negative = native_side(&native.negative, is_whole);
    Histogram {
        count_int: is_whole.then(|| native.count() as u64),
        count_float: (!is_whole).then(|| native.count()),
        sum,
        schema: native.schema,
        zero_threshold: ZERO_THRESHOLD,
        zero_count_int: is_whole.then_some(native.zero as u64),
        zero_count_float: (!is_whole).then_some(native.zero),
        positive_spans: spans(&positive),
        positive_deltas: positive.deltas,
        positive_counts: positive.counts,
        negative_spans: spans(&negative),
        negative_deltas: negative.deltas,
        negative_counts: negative.counts,
        timestamp,
    }
}

/// The requests of an interval that was added to an exposition, one after the other, compressed.
///
/// # Errors
/// If one cannot be compressed.
pub fn requests(exposition: &Exposition, end: f64, mut visit: impl FnMut(Vec<u8>)) -> Result<(), SinkError> {
    let mut from = Some(0);
    while let Some(place) = from {
        let batch = batch(exposition, end, place, u64::MAX, false)?;
        visit(batch.body);
        from = batch.next;
    }
    Ok(())
}

/// A receiver of remote write.
struct RemoteWriteSink {
    post: Post,
    is_second: bool,
    state: Arc<Mutex<Exposition>>,
    /// The interval that was added last, and its conflicts: one that is offered again is not added again.
    applied: Option<((u64, u64), u64)>,
}

fn locked(state: &Mutex<Exposition>) -> MutexGuard<'_, Exposition> {
    // Every update leaves it whole, so a panic elsewhere does not spoil it.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RemoteWriteSink {
    /// Whether it was taken, not refused.
    async fn send(&mut self, body: Vec<u8>) -> Result<bool, SinkError> {
        let (content, version) = match self.is_second {
            true => ("application/x-protobuf;proto=io.prometheus.write.v2.Request", "2.0.0"),
            false => ("application/x-protobuf", "0.1.0"),
        };
        let headers = [(CONTENT_TYPE, content), (CONTENT_ENCODING, "snappy"), (VERSION, version)];
        let url = self.post.base().to_string();
        let outcome = self.post.send(&url, &headers, body).await?;
        let falls_back = self.is_second
            && match &outcome {
                Outcome::Refused(answer) => answer.status == 415,
                // A server that does not say what it wrote has not understood it.
                Outcome::Taken(answer) => !answer.headers.contains_key(WRITTEN),
            };
        if falls_back {
            tracing::warn!(
                url = self.post.base(),
                "the receiver does not know remote write 2.0; it gets 1.0 from now on"
            );
            self.is_second = false;
            return Err(SinkError::new("the receiver does not know remote write 2.0"));
        }
        Ok(matches!(outcome, Outcome::Taken(_)))
    }
}

impl Sink for RemoteWriteSink {
    fn deliver<'a>(&'a mut self, snapshot: &'a Arc<Snapshot>) -> Delivery<'a, Result<Receipt, SinkError>> {
        Box::pin(async move {
            if self.applied.as_ref().is_none_or(|(applied, _)| *applied != snapshot.identity()) {
                let (state, interval) = (Arc::clone(&self.state), Arc::clone(snapshot));
                let conflicts = spawn_blocking(move || locked(&state).apply(&interval)).await;
                let conflicts = conflicts.map_err(|error| SinkError::new(error.to_string()))?;
                if let Some(first) = conflicts.first() {
                    self.post.complain(&format!("{} and {} are both {}", first.holder, first.other, first.name));
                }
                self.applied = Some((snapshot.identity(), conflicts.len() as u64));
            }
            let conflicts = self.applied.as_ref().map_or(0, |(_, conflicts)| *conflicts);
            let (mut refused, mut bytes, mut from) = (0, 0, Some(0));
            let (mut most, mut splits) = (u64::MAX, 0);
            while let Some(place) = from {
                let (state, end, is_second) = (Arc::clone(&self.state), snapshot.end, self.is_second);
                let batch = spawn_blocking(move || batch(&locked(&state), end, place, most, is_second)).await;
                let batch = batch.map_err(|error| SinkError::new(error.to_string()))??;
                if batch.series > 0 {
                    bytes += batch.body.len() as u64;
                    if self.send(batch.body).await? {
                        // It goes on with larger ones.
                        most = most.saturating_mul(2);
                    } else if batch.series > 1 && splits < MOST_SPLITS {
                        // Servers drop a whole request for one sample of it: the others shall not suffer.
                        splits += 1;
                        most = batch.series / 2;
                        continue;
                    } else {
                        refused += batch.series;
                    }
                }
                from = batch.next;
            }
            let unsupported = snapshot.count_notices();
            Ok(Receipt::new(bytes, [("conflict", conflicts), ("refused", refused), ("unsupported", unsupported)]))
        })
    }

    fn close(&mut self) -> Delivery<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}
