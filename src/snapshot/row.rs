//! Snapshots as rows of numbers for databases: a series, a time, and named fields.

use std::borrow::Cow;

use crate::series::Series;

use super::{Point, Snapshot, number};

/// The name of a field.
pub type FieldName = Cow<'static, str>;

/// A series at a time.
#[derive(Clone, Debug, PartialEq)]
pub struct Row<'a> {
    /// Which.
    pub series: &'a Series,
    /// Unix seconds.
    pub time: f64,
    /// Its numbers: `value` and `rate` of a counter; `value` of a gauge, a set, a key-value pair; `count`, `rate`, `sum`,
    /// `min`, `max`, `mean`, `median`, `stddev`, percentiles as `p99.9` (`top99.9` for negative ones) and buckets as `le_100`
    /// of a timer.
    pub fields: Vec<(FieldName, f64)>,
}

impl Snapshot {
    /// Rows of the points from the `n`-th on, kind by kind, then of counters and gauges with timestamps; each with the index of
    /// its point.
    pub fn rows(&self, from: usize) -> impl Iterator<Item = (usize, Row<'_>)> {
        let points = (from..).map_while(|n| Some((n, self.point(n)?))).flat_map(|(n, point)| {
            let rows = self.rows_of(point);
            rows.into_iter().map(move |row| (n, row))
        });
        let all = self.counters.len() + self.timers.len() + self.gauges.len() + self.sets.len() + self.kvs.len();
        let stamped = self.stamped.iter().enumerate().skip(from.saturating_sub(all)).map(move |(n, one)| {
            (all + n, Row { series: &one.series, time: one.time, fields: vec![("value".into(), one.value)] })
        });
        points.chain(stamped)
    }

    fn rows_of<'a>(&'a self, point: Point<'a>) -> Vec<Row<'a>> {
        let series = point.series();
        let row = |fields: Vec<(FieldName, f64)>| Row { series, time: self.end, fields };
        vec![match point {
            Point::Counter(point) => {
                let value = point.sum.value();
                row(vec![("value".into(), value), ("rate".into(), self.rate(series, value))])
            }
            Point::Gauge(point) => row(vec![("value".into(), point.gauge.value())]),
            Point::Set(point) => row(vec![("value".into(), point.members.count())]),
            Point::Timer(point) => {
                let s = self.summary(point);
                let mut fields: Vec<(FieldName, f64)> =
                    vec![("count".into(), s.count), ("rate".into(), self.rate(series, s.count))];
                if s.samples > 0 {
                    let moments = [s.sum, s.min, s.max, s.mean, s.median, s.stddev];
                    let names = ["sum", "min", "max", "mean", "median", "stddev"];
                    fields.extend(names.into_iter().map(FieldName::from).zip(moments));
                }
                for p in &s.percentiles {
                    let side = if p.percentile < 0.0 { "top" } else { "p" };
                    fields.push((format!("{side}{}", number(p.percentile.abs())).into(), p.value));
                }
                for (bound, count) in &s.buckets {
                    let name = bound.map_or("le_inf".into(), |bound| format!("le_{}", number(bound)).into());
                    fields.push((name, *count));
                }
                row(fields)
            }
            Point::Kv(point) => {
                // Points of equal time would overwrite each other, so they are a millisecond apart.
                let last = point.values.len().saturating_sub(1);
                let time = |n: usize| self.end - (last - n) as f64 / 1e3;
                let rows = point.values.iter().enumerate();
                return rows
                    .map(|(n, &value)| Row { series, time: time(n), fields: vec![("value".into(), value)] })
                    .collect();
            }
        }]
    }
}
