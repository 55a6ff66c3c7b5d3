//! Snapshots as rows of numbers for databases: a series, a time, and named fields.

use std::borrow::Cow;

use crate::series::Series;

use super::{Point, Snapshot};

/// The name of a field.
pub type FieldName = Cow<'static, str>;

/// A series at a time.
#[derive(Clone, Debug, PartialEq)]
pub struct Row<'a> {
    /// Which.
    pub series: &'a Series,
    /// Unix seconds.
    pub time: f64,
    /// Its numbers, by the names of [`Aggregate`](super::Aggregate).
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
        let timestamped = self.timestamped.iter().enumerate().skip(from.saturating_sub(all)).map(move |(n, one)| {
            (all + n, Row { series: &one.series, time: one.time, fields: vec![("value".into(), one.value)] })
        });
        points.chain(timestamped)
    }

    fn rows_of<'a>(&'a self, point: Point<'a>) -> Vec<Row<'a>> {
        let series = point.series();
        let Point::Kv(point) = point else {
            let fields = self.aggregates(point).map(|(aggregate, value)| (aggregate.name(), value)).collect();
            return vec![Row { series, time: self.end, fields }];
        };
        // Points of equal time would overwrite each other, so they are a millisecond apart.
        let last = point.values.len().saturating_sub(1);
        let time = |n: usize| self.end - (last - n) as f64 / 1e3;
        let row = |(n, &value): (usize, &f64)| Row { series, time: time(n), fields: vec![("value".into(), value)] };
        point.values.iter().enumerate().map(row).collect()
    }
}
