//! Prometheus by remote write: protocol 1.0, or 2.0 with a fall-back (prometheus.io, "Prometheus Remote-Write 1.0" and "2.0
//! specification"). Names and labels are those of the scrape endpoint; counters go on from interval to interval.
//!
//! Of a counter that is new a zero is sent for the start of its first interval, so that `increase` sees it. Timers are native
//! histograms, unless the receiver says that it has none, or buckets (`classic`), or quantiles (`summary`). What goes on from
//! interval to interval is sent with every interval, as a scrape would show it. A series that leaves (a gauge that expired, an
//! instance that said goodbye, a counter after `ttl`) ends in a stale marker, and all that is left does at the end, as when a
//! target of scrapes is gone.
//!
//! The same interval sent twice is the same samples, which Prometheus takes for one; what it refuses permanently (out of order,
//! another value at the same time) is dropped and counted (`refused`): a request that is refused is sent again in halves,
//! and without zeros where times are what is wrong, until what is wrong stands alone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName};
use prost::Message;
use tokio::task::spawn_blocking;

use crate::settings::choice;
use crate::snapshot::Snapshot;

use super::blocking::joined;
use super::exponential::{Exponential, ZERO_THRESHOLD};
use super::http::{Endpoint, Outcome, Post};
use super::prometheus::{
    Distributions, Exposition, Naming, NativeSide, OutcomeLog, Sample, ScrapeState, Shape, Value, label_pairs, locked,
    native_side,
};
use super::spec::reach_url;
use super::{Delivery, LONG, Opt, OptionVisitor, Receipt, Sink, SinkContext, SinkError, Spec};

/// Bytes of a request before they are compressed, about.
const REQUEST_BYTES: usize = 1 << 20;

/// How often in an interval a request that was refused is sent again as two.
const MOST_SPLITS: u32 = 100;

/// How long the last stale markers may take, at the end.
const CLOSING: Duration = Duration::from_secs(2);

/// The value that ends a series, a NaN (Remote-Write 1.0 specification, "Staleness").
const STALE: f64 = f64::from_bits(0x7ff0_0000_0000_0002);

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
    /// Patterns of counters that also fall.
    updown: Vec<String>,
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
            updown: Vec::new(),
        }
    }
}

impl Spec for RemoteWriteSpec {
    fn options(&mut self, visitor: &mut dyn OptionVisitor) {
        self.endpoint.options(visitor, "\"http://127.0.0.1:9090/api/v1/write\"");
        visitor.field("version", "Version of the protocol; 2 falls back to 1.", Opt::Whole(&mut self.version, 1..=2));
        let words =
            [("native", Histograms::Native), ("classic", Histograms::Classic), ("summary", Histograms::Summary)];
        choice(
            visitor,
            "histograms",
            "Timers as \"native\" histograms (with a fall-back), \"classic\" ones with `buckets`, or a \"summary\".",
            &words,
            &mut self.histograms,
        );
        visitor.field(
            "buckets",
            "Bounds of classic histograms, in seconds.",
            Opt::Numbers(&mut self.buckets, f64::MIN..=f64::MAX),
        );
        let is_ascending = self.buckets.is_sorted_by(|a, b| a < b) && !self.buckets.is_empty();
        visitor.require(
            "buckets",
            if is_ascending { Ok(()) } else { Err("ascending bounds are right, such as [0.1, 1, 10]".into()) },
        );
        visitor.field(
            "ttl",
            "How long a series without an update is sent with every interval before it is marked as stale.",
            Opt::Duration(&mut self.ttl, Duration::from_millis(10)..=LONG),
        );
        visitor.field("updown", "Patterns of counters that may fall; they are sent as gauges, the sum of all that came. An interval in which any other counter falls is dropped.", Opt::Texts(&mut self.updown));
        visitor.example("updown", "[\"queue.*\"]");
    }

    fn set_from_url(&mut self, place: &str) -> Result<(), String> {
        self.endpoint.url = format!("http:{}", place);
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

    fn holds_series(&self) -> bool {
        true
    }

    fn open(&self, context: &SinkContext) -> Result<Box<dyn Sink>, String> {
        let distributions = match self.histograms {
            Histograms::Native => Distributions::NativeOrClassic(self.buckets.clone()),
            Histograms::Classic => Distributions::Classic(self.buckets.clone()),
            Histograms::Summary => Distributions::Summary,
        };
        Ok(Box::new(RemoteWriteSink {
            post: Post::new(self.endpoint.clone(), context)?,
            is_second: self.version == 2,
            state: Arc::new(Mutex::new(ScrapeState::new(
                Exposition::new(self.ttl.as_secs_f64(), distributions)
                    .updown(&self.updown)
                    .at_most(context.max_series, &context.memory)
                    .pushed(),
            ))),
            outcome_log: OutcomeLog::new(&context.name, context.interval),
            is_native: self.histograms == Histograms::Native,
            is_behind: true,
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
    /// Series of ours in it, and those of them that the interval touched.
    series: u64,
    fresh: u64,
    /// Whether a zero stands before a first value.
    has_zeros: bool,
    /// Where the next one continues; `None` if nothing is left.
    next: Option<usize>,
}

/// What a request is to hold.
#[derive(Clone, Copy)]
struct Order {
    /// Time of its samples, Unix milliseconds.
    at: i64,
    /// The place of the first series; places of what has left follow those of what is there.
    from: usize,
    /// Most series.
    most: u64,
    is_second: bool,
    with_zeros: bool,
}

/// Series from a place on: their values, and markers for those that have left with this interval.
fn batch(exposition: &Exposition, order: Order) -> Result<Batch, SinkError> {
    let mut request = Request::new(order.is_second);
    let mut names = Names::default();
    let (end, before) = exposition.ends();
    // What was sent before this interval was sent for its start at the latest.
    let earliest = before.map_or(i64::MIN, |before| millis(before) + 1);
    let mut batch = Batch { body: Vec::new(), series: 0, fresh: 0, has_zeros: false, next: None };
    let places = exposition.places();
    let there = exposition.samples(order.from).map(|(place, sample)| (place, sample, false));
    let gone = exposition.gone(order.from.saturating_sub(places)).map(|(n, sample)| (places + n, sample, true));
    for (place, sample, is_gone) in there.chain(gone) {
        if request.body.len() >= REQUEST_BYTES || batch.series >= order.most {
            batch.next = Some(place);
            break;
        }
        batch.series += 1;
        if is_gone {
            mark(&mut request, &mut names, sample, exposition.successor(sample), order.at);
            continue;
        }
        let is_fresh = Some(sample.updated) == end;
        batch.fresh += u64::from(is_fresh);
        let zero = (order.with_zeros && is_fresh && sample.is_new)
            .then(|| (millis(sample.created) + 1).max(earliest))
            .filter(|zero| *zero < order.at);
        let has_zero = write(&mut request, &mut names, sample, exposition.shape_of(sample), order.at, zero);
        batch.has_zeros |= has_zero;
    }
    batch.body = request.finish()?;
    Ok(batch)
}

fn millis(secs: f64) -> i64 {
    (secs * 1e3).round() as i64
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

/// Labels as the specification has them: none is empty.
fn own_labels(sample: &Sample) -> Vec<(Bytes, Bytes)> {
    let pairs = label_pairs(&sample.series, Naming::Systole).into_iter().filter(|(_, value)| !value.is_empty());
    pairs.map(|(key, value)| (Bytes::from(key), Bytes::from(value))).collect()
}

/// Writes what a series is at a time, with a zero before it at another; whether that was written.
fn write(request: &mut Request, names: &mut Names, sample: &Sample, shape: Shape, at: i64, zero: Option<i64>) -> bool {
    let own = own_labels(sample);
    let kind = match shape {
        Shape::Counter => 1,
        Shape::Gauge => 2,
        Shape::Histogram => 3,
        Shape::Summary => 5,
    };
    if let Value::Timer(held) = &sample.value
        && let Some(native) = &held.native
    {
        let sum = held.sum.value() / super::prometheus::divisor(&sample.series);
        let labels = names.with(&own, sample.family.to_string(), None);
        request.series(labels, &[], Some(histogram(native, sum, at)), 3);
        return false;
    }
    let zero = zero.filter(|_| shape != Shape::Gauge);
    sample.each(|suffix, extra, value| {
        let grows = extra.is_none() || suffix == "_bucket";
        let points = [Point { value: 0.0, timestamp: zero.unwrap_or(at) }, Point { value, timestamp: at }];
        let points = if zero.is_some() && grows { &points[..] } else { &points[1..] };
        let labels = names.with(&own, format!("{}{suffix}", sample.family), extra);
        request.series(labels, points, None, kind);
    });
    zero.is_some()
}

/// Ends the series of a sample that has left, but for those that another has taken over.
fn mark(request: &mut Request, names: &mut Names, gone: &Sample, successor: Option<&Sample>, at: i64) {
    let own = own_labels(gone);
    let native = |sample: &Sample| matches!(&sample.value, Value::Timer(held) if held.native.is_some());
    if native(gone) {
        if !successor.is_some_and(native) {
            let labels = names.with(&own, gone.family.to_string(), None);
            request.series(labels, &[], Some(histogram(&Exponential::default(), STALE, at)), 3);
        }
        return;
    }
    let mut kept = Vec::new();
    if let Some(successor) = successor.filter(|successor| !native(successor)) {
        successor.each(|suffix, extra, _| kept.push((suffix, extra)));
    }
    gone.each(|suffix, extra, _| {
        if !kept.iter().any(|(known, other)| *known == suffix && *other == extra) {
            let labels = names.with(&own, format!("{}{suffix}", gone.family), extra);
            request.series(labels, &[Point { value: STALE, timestamp: at }], None, 0);
        }
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
#[cfg(feature = "internals")]
pub fn requests(exposition: &Exposition, end: f64, mut visit: impl FnMut(Vec<u8>)) -> Result<(), SinkError> {
    let mut from = Some(0);
    while let Some(place) = from {
        let order = Order { at: millis(end), from: place, most: u64::MAX, is_second: false, with_zeros: true };
        let batch = batch(exposition, order)?;
        visit(batch.body);
        from = batch.next;
    }
    Ok(())
}

/// A receiver of remote write.
struct RemoteWriteSink {
    post: Post,
    is_second: bool,
    state: Arc<Mutex<ScrapeState>>,
    outcome_log: OutcomeLog,
    /// Timers are sent as native histograms.
    is_native: bool,
    /// The last delivery has not succeeded: what is sent now would come before it.
    is_behind: bool,
}

/// What became of a request.
enum Answer {
    Taken,
    /// It never will be; maybe for the time of a sample.
    Refused {
        for_its_time: bool,
    },
    /// The receiver does not know this form of it; the next one has another.
    NotKnown,
}

/// Whether a receiver says that it has no native histograms: Prometheus without the feature answers 500.
fn lacks_native(said: &str) -> bool {
    let said = said.to_lowercase();
    said.contains("native histogram") && ["disabled", "not enabled", "not supported"].iter().any(|no| said.contains(no))
}

/// Whether a refusal is about the times of samples: they are not the newest, or there are others of that time.
fn is_about_time(said: &str) -> bool {
    let said = said.to_lowercase().replace('-', " ");
    ["out of order", "duplicate", "more recent"].iter().any(|word| said.contains(word))
}

impl RemoteWriteSink {
    async fn send(&mut self, body: Vec<u8>) -> Result<Answer, SinkError> {
        let (content, version) = match self.is_second {
            true => ("application/x-protobuf;proto=io.prometheus.write.v2.Request", "2.0.0"),
            false => ("application/x-protobuf", "0.1.0"),
        };
        let headers = [(CONTENT_TYPE, content), (CONTENT_ENCODING, "snappy"), (VERSION, version)];
        let url = self.post.base().to_string();
        let outcome = match self.post.send(&url, &headers, body).await {
            Err(error) if self.is_native && lacks_native(&error.what) => {
                self.without_native();
                return Ok(Answer::NotKnown);
            }
            outcome => outcome?,
        };
        match outcome {
            Outcome::Refused(answer) if self.is_native && lacks_native(&String::from_utf8_lossy(&answer.body)) => {
                self.without_native();
                Ok(Answer::NotKnown)
            }
            Outcome::Refused(answer) if self.is_second && answer.status == 415 => Ok(self.without_second()),
            // A server that does not say what it wrote has not understood it.
            Outcome::Taken(answer) if self.is_second && !answer.headers.contains_key(WRITTEN) => {
                Ok(self.without_second())
            }
            Outcome::Taken(_) => Ok(Answer::Taken),
            Outcome::Refused(answer) => {
                Ok(Answer::Refused { for_its_time: is_about_time(&String::from_utf8_lossy(&answer.body)) })
            }
        }
    }

    fn without_second(&mut self) -> Answer {
        tracing::warn!(
            sink = self.outcome_log.sink(),
            "the receiver does not know remote write 2.0; it gets 1.0 from now on"
        );
        self.is_second = false;
        Answer::NotKnown
    }

    fn without_native(&mut self) {
        tracing::warn!(
            sink = self.outcome_log.sink(),
            "the receiver has no native histograms; timers are classic ones with `buckets` from now on"
        );
        self.is_native = false;
        locked(&self.state).exposition.without_native();
    }

    /// Sends every series as it is at a time: how many records were refused, and how many bytes there were.
    async fn send_all(&mut self, at: i64) -> Result<(u64, u64), SinkError> {
        let (mut refused, mut bytes, mut from) = (0, 0, Some(0));
        let (mut most, mut splits, mut with_zeros) = (u64::MAX, 0, true);
        while let Some(place) = from {
            let order = Order { at, from: place, most, is_second: self.is_second, with_zeros };
            let state = Arc::clone(&self.state);
            let batch = joined(spawn_blocking(move || batch(&locked(&state).exposition, order)).await)??;
            if batch.series > 0 {
                bytes += batch.body.len() as u64;
                match self.send(batch.body).await? {
                    Answer::NotKnown => continue,
                    Answer::Taken => {
                        // The next ones may be larger.
                        most = most.saturating_mul(2);
                    }
                    Answer::Refused { for_its_time: true } if batch.has_zeros => {
                        // A series of that name may have ended a moment ago, in a daemon before this one.
                        with_zeros = false;
                        continue;
                    }
                    Answer::Refused { .. } if batch.series > 1 && splits < MOST_SPLITS => {
                        // Servers drop a whole request for one sample of it: the others shall not suffer.
                        splits += 1;
                        (most, with_zeros) = (batch.series / 2, true);
                        continue;
                    }
                    Answer::Refused { .. } => refused += batch.fresh,
                }
            }
            (from, with_zeros) = (batch.next, true);
        }
        Ok((refused, bytes))
    }
}

impl Sink for RemoteWriteSink {
    fn deliver<'a>(&'a mut self, snapshot: &'a Arc<Snapshot>) -> Delivery<'a, Result<Receipt, SinkError>> {
        Box::pin(async move {
            self.is_behind = true;
            let (state, interval) = (Arc::clone(&self.state), Arc::clone(snapshot));
            let (outcome, is_news) = joined(spawn_blocking(move || locked(&state).apply(&interval)).await)?;
            if is_news {
                self.outcome_log.log(&outcome);
            }
            let (refused, bytes) = self.send_all(millis(snapshot.end)).await?;
            self.is_behind = false;
            let others = [("refused", refused), ("unsupported", snapshot.count_events())];
            Ok(Receipt::new(bytes, outcome.dropped().into_iter().chain(others)))
        })
    }

    /// Everything that is sent, and what the receiver has turned out not to know.
    fn save(&self) -> Option<Vec<u8>> {
        let state = locked(&self.state).save()?;
        Some([&[u8::from(self.is_second), u8::from(self.is_native)], &state[..]].concat())
    }

    fn restore(&mut self, saved: &[u8]) -> Result<(), SinkError> {
        let ([is_second, is_native], state) =
            saved.split_first_chunk().ok_or_else(|| SinkError::new("what was saved of it is cut short"))?;
        self.outcome_log.log_restored(locked(&self.state).restore(state)?);
        self.is_second &= *is_second != 0;
        if self.is_native && *is_native == 0 {
            self.without_native();
        }
        Ok(())
    }

    /// Ends every series now, as Prometheus does for a target that is gone.
    fn close(&mut self) -> Delivery<'_, ()> {
        Box::pin(async move {
            let end = {
                let mut state = locked(&self.state);
                let end = state.exposition.ends().0;
                state.exposition.clear();
                end
            };
            let Some(end) = end.filter(|_| !self.is_behind) else { return };
            match tokio::time::timeout(CLOSING, self.send_all(millis(end) + 1)).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::debug!(%error, "series are left without an end"),
                Err(_) => tracing::debug!("series are left without an end"),
            }
        })
    }
}
