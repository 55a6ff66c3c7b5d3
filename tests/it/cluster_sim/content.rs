//! What the batches of the simulation have: lines of four kinds, rolled up per series.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use systole::Gauge;
use systole::internals::cluster::batch::BatchHeader;
use systole::internals::cluster::{Content, Interval};
use systole::internals::protocol::GaugeOp;

/// A line, as an edge received it.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// The edge's wall clock.
    pub time: f64,
    pub series: &'static str,
    pub value: Received,
}

#[derive(Clone, Copy, Debug)]
pub enum Received {
    Count(f64),
    Sample(f64),
    Member(u32),
    Set(f64),
    Adjust(f64),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Value {
    Sum(f64),
    Samples(Vec<f64>),
    Members(BTreeSet<u32>),
    Gauge(Gauge),
    /// What sinks get of a gauge.
    Number(f64),
}

pub type Points = BTreeMap<String, Value>;

/// What an edge makes of its lines.
pub fn points_of(lines: &[Line]) -> Points {
    let mut points = Points::new();
    for line in lines {
        let at = points.entry(line.series.to_string());
        match line.value {
            Received::Count(by) => merge(at.or_insert(Value::Sum(0.0)), &Value::Sum(by)),
            Received::Sample(one) => merge(at.or_insert(Value::Samples(Vec::new())), &Value::Samples(vec![one])),
            Received::Member(one) => {
                merge(at.or_insert(Value::Members(BTreeSet::new())), &Value::Members([one].into()))
            }
            Received::Set(to) => adjust(at.or_insert(Value::Gauge(Gauge::default())), GaugeOp::Set, to, line.time),
            Received::Adjust(by) => {
                adjust(at.or_insert(Value::Gauge(Gauge::default())), GaugeOp::Increase, by, line.time)
            }
        }
    }
    points
}

fn adjust(value: &mut Value, op: GaugeOp, by: f64, time: f64) {
    if let Value::Gauge(gauge) = value {
        gauge.apply(op, by, time);
    }
}

fn merge(into: &mut Value, other: &Value) {
    match (into, other) {
        (Value::Sum(a), Value::Sum(b)) => *a += b,
        (Value::Samples(a), Value::Samples(b)) => {
            a.extend(b);
            a.sort_by(f64::total_cmp);
        }
        (Value::Members(a), Value::Members(b)) => a.extend(b),
        (Value::Gauge(a), Value::Gauge(b)) => a.merge(b),
        (a, b) => panic!("{a:?} and {b:?} are of one series"),
    }
}

/// The rooms of the cluster merge the bodies of the simulation with this.
#[derive(Debug)]
pub struct SimContent;

impl Content for SimContent {
    type Merged = Points;
    type Gauges = BTreeMap<String, Gauge>;

    fn merge<'a>(&self, messages: impl Iterator<Item = &'a [u8]>) -> Points {
        let mut merged = Points::new();
        for message in messages {
            let (_, body) = BatchHeader::decode(message).expect("a batch of ours");
            for (series, value) in decode(body) {
                match merged.get_mut(&series) {
                    Some(known) => merge(known, &value),
                    None => _ = merged.insert(series, value),
                }
            }
        }
        merged
    }

    fn follow(&self, standing: &mut BTreeMap<String, Gauge>, _: Interval, merged: &Points) {
        for (series, value) in merged {
            if let Value::Gauge(gauge) = value {
                match standing.get_mut(series) {
                    Some(known) => known.then(gauge),
                    None => _ = standing.insert(series.clone(), *gauge),
                }
            }
        }
    }
}

fn decode(body: &[u8]) -> Points {
    if body.is_empty() { Points::new() } else { postcard::from_bytes(body).expect("a body of ours") }
}

/// What a sink gets.
pub fn published(merged: &Points, standing: &BTreeMap<String, Gauge>) -> Points {
    let mut points = merged.clone();
    points.extend(standing.iter().map(|(series, gauge)| (series.clone(), Value::Number(gauge.value()))));
    points
}
