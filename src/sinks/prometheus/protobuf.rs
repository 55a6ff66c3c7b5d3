//! The answer to a scrape as length-delimited protobuf (`io.prometheus.client.MetricFamily`, github.com/prometheus/client_model),
//! in which histograms can be native. Timers are histograms here, with native buckets, and those of their rule if they have one.

use std::io::{self, Write};

use prost::Message;

use crate::prometheus_text::Shape;

use super::super::exponential::{Exponential, ZERO_THRESHOLD};
use super::exposition::{Exposition, Family, Sample, Value};
use super::names::{Naming, divisor, harmless, label_pairs};

#[derive(Clone, PartialEq, Message)]
struct LabelPair {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(string, optional, tag = "2")]
    value: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Timestamp {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Gauge {
    #[prost(double, optional, tag = "1")]
    value: Option<f64>,
}

#[derive(Clone, PartialEq, Message)]
struct Counter {
    #[prost(double, optional, tag = "1")]
    value: Option<f64>,
    #[prost(message, optional, tag = "3")]
    created: Option<Timestamp>,
}

#[derive(Clone, PartialEq, Message)]
struct Quantile {
    #[prost(double, optional, tag = "1")]
    quantile: Option<f64>,
    #[prost(double, optional, tag = "2")]
    value: Option<f64>,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(uint64, optional, tag = "1")]
    count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    sum: Option<f64>,
    #[prost(message, repeated, tag = "3")]
    quantiles: Vec<Quantile>,
    #[prost(message, optional, tag = "4")]
    created: Option<Timestamp>,
}

#[derive(Clone, PartialEq, Message)]
struct Bucket {
    #[prost(uint64, optional, tag = "1")]
    cumulative_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    upper_bound: Option<f64>,
}

#[derive(Clone, PartialEq, Message)]
struct BucketSpan {
    #[prost(sint32, optional, tag = "1")]
    offset: Option<i32>,
    #[prost(uint32, optional, tag = "2")]
    length: Option<u32>,
}

#[derive(Clone, PartialEq, Message)]
struct Histogram {
    #[prost(uint64, optional, tag = "1")]
    count: Option<u64>,
    #[prost(double, optional, tag = "4")]
    count_float: Option<f64>,
    #[prost(double, optional, tag = "2")]
    sum: Option<f64>,
    #[prost(message, repeated, tag = "3")]
    buckets: Vec<Bucket>,
    #[prost(sint32, optional, tag = "5")]
    schema: Option<i32>,
    #[prost(double, optional, tag = "6")]
    zero_threshold: Option<f64>,
    #[prost(uint64, optional, tag = "7")]
    zero_count: Option<u64>,
    #[prost(double, optional, tag = "8")]
    zero_count_float: Option<f64>,
    #[prost(message, repeated, tag = "9")]
    negative_spans: Vec<BucketSpan>,
    #[prost(sint64, repeated, tag = "10")]
    negative_deltas: Vec<i64>,
    #[prost(double, repeated, tag = "11")]
    negative_counts: Vec<f64>,
    #[prost(message, repeated, tag = "12")]
    positive_spans: Vec<BucketSpan>,
    #[prost(sint64, repeated, tag = "13")]
    positive_deltas: Vec<i64>,
    #[prost(double, repeated, tag = "14")]
    positive_counts: Vec<f64>,
    #[prost(message, optional, tag = "15")]
    created: Option<Timestamp>,
}

#[derive(Clone, PartialEq, Message)]
struct Metric {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<LabelPair>,
    #[prost(message, optional, tag = "2")]
    gauge: Option<Gauge>,
    #[prost(message, optional, tag = "3")]
    counter: Option<Counter>,
    #[prost(message, optional, tag = "4")]
    summary: Option<Summary>,
    #[prost(message, optional, tag = "7")]
    histogram: Option<Histogram>,
}

#[derive(Clone, PartialEq, Message)]
struct MetricFamily {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(string, optional, tag = "2")]
    help: Option<String>,
    #[prost(int32, optional, tag = "3")]
    kind: Option<i32>,
    #[prost(message, repeated, tag = "4")]
    metrics: Vec<Metric>,
}

/// Writes everything that is served, family by family.
pub(super) fn write(exposition: &Exposition, out: &mut impl Write) -> io::Result<()> {
    let mut encoded = Vec::new();
    for (name, family, samples) in exposition.families() {
        let samples: Vec<&Sample> = samples.collect();
        encoded.clear();
        // Memory grows as it is needed, so it has room.
        let _ = family_of(name, family, &samples, exposition.naming()).encode_length_delimited(&mut encoded);
        out.write_all(&encoded)?;
    }
    Ok(())
}

fn family_of(name: &str, family: &Family, samples: &[&Sample], naming: Naming) -> MetricFamily {
    let is_native = samples.iter().any(|sample| matches!(&sample.value, Value::Timer(held) if held.native.is_some()));
    let (suffix, kind) = match family.shape {
        Shape::Counter => (naming.of_counters(), 0),
        Shape::Gauge => ("", 1),
        Shape::Summary if is_native => ("", 4),
        Shape::Summary => ("", 2),
        Shape::Histogram => ("", 4),
    };
    let help = |sample: &&Sample| sample.help.as_deref().unwrap_or_else(|| sample.series.name()).to_string();
    let help = samples.first().map_or_else(String::new, help);
    MetricFamily {
        name: Some(format!("{name}{suffix}")),
        help: Some(harmless(&help)),
        kind: Some(kind),
        metrics: samples.iter().map(|sample| metric(sample, naming)).collect(),
    }
}

fn metric(sample: &Sample, naming: Naming) -> Metric {
    let pair = |(name, value)| LabelPair { name: Some(name), value: Some(value) };
    let mut metric =
        Metric { labels: label_pairs(&sample.series, naming).into_iter().map(pair).collect(), ..Metric::default() };
    let created = Some(Timestamp {
        seconds: sample.created.floor() as i64,
        nanos: ((sample.created - sample.created.floor()) * 1e9) as i32,
    });
    match &sample.value {
        Value::Gauge(value) => metric.gauge = Some(Gauge { value: Some(*value) }),
        Value::UpDown(sum) => metric.gauge = Some(Gauge { value: Some(sum.value()) }),
        Value::Counter(sum) => metric.counter = Some(Counter { value: Some(sum.value()), created }),
        Value::Timer(held) => {
            let divisor = divisor(&sample.series);
            let (count, sum) = (held.count.value(), held.sum.value() / divisor);
            if held.native.is_none() && held.buckets.is_empty() {
                let quantiles = held.quantiles.iter();
                let quantile = |(q, v): &(f64, f64)| Quantile { quantile: Some(*q), value: Some(v / divisor) };
                metric.summary = Some(Summary {
                    count: Some(count.round() as u64),
                    sum: Some(sum),
                    quantiles: quantiles.map(quantile).collect(),
                    created,
                });
                return metric;
            }
            let bucket = |(bound, count): &(Option<f64>, crate::aggregate::Sum)| Bucket {
                cumulative_count: Some(count.value().round() as u64),
                upper_bound: Some(bound.map_or(f64::INFINITY, |bound| bound / divisor)),
            };
            let mut histogram = Histogram {
                count: Some(count.round() as u64),
                sum: Some(sum),
                buckets: held.buckets.iter().map(bucket).collect(),
                created,
                ..Histogram::default()
            };
            if let Some(native) = &held.native {
                fill(&mut histogram, native);
            }
            metric.histogram = Some(histogram);
        }
    }
    metric
}

/// Adds native buckets: differences where counts are whole, the counts themselves otherwise.
fn fill(histogram: &mut Histogram, native: &Exponential) {
    let is_whole = native.is_whole();
    histogram.schema = Some(native.schema);
    histogram.zero_threshold = Some(ZERO_THRESHOLD);
    if is_whole {
        histogram.count = Some(native.count() as u64);
        histogram.zero_count = Some(native.zero as u64);
    } else {
        (histogram.count_float, histogram.zero_count_float) = (Some(native.count()), Some(native.zero));
        histogram.count = None;
    }
    let span = |(offset, length)| BucketSpan { offset: Some(offset), length: Some(length) };
    let sides = [&native.positive, &native.negative].map(|side| native_side(side, is_whole));
    let [positive, negative] = sides;
    histogram.positive_spans = positive.spans.into_iter().map(span).collect();
    (histogram.positive_deltas, histogram.positive_counts) = (positive.deltas, positive.counts);
    histogram.negative_spans = negative.spans.into_iter().map(span).collect();
    (histogram.negative_deltas, histogram.negative_counts) = (negative.deltas, negative.counts);
    if histogram.positive_spans.is_empty() && histogram.negative_spans.is_empty() {
        // Without a span a reader would not know that it is native.
        histogram.positive_spans = vec![span((0, 0))];
    }
}

/// Buckets of one sign as Prometheus has them.
#[derive(Debug, Default)]
pub(in crate::sinks) struct NativeSide {
    /// How many buckets are left out before each run, and how long it is.
    pub(in crate::sinks) spans: Vec<(i32, u32)>,
    /// Differences from bucket to bucket; empty if counts are not whole.
    pub(in crate::sinks) deltas: Vec<i64>,
    /// The counts; empty if they are whole.
    pub(in crate::sinks) counts: Vec<f64>,
}

/// Lays the buckets of one sign out.
pub(in crate::sinks) fn native_side(side: &std::collections::BTreeMap<i32, f64>, is_whole: bool) -> NativeSide {
    let mut out = NativeSide::default();
    let (mut next, mut last) = (0, 0_i64);
    for (first, counts) in Exponential::runs(side, 2) {
        out.spans.push((first - next, counts.len() as u32));
        next = first + counts.len() as i32;
        if is_whole {
            for count in counts {
                out.deltas.push(count as i64 - last);
                last = count as i64;
            }
        } else {
            out.counts.extend(counts);
        }
    }
    out
}
