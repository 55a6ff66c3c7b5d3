//! Naming `dogstatsd`: what the DataDog agent makes of its metrics (datadog-agent, `pkg/metrics`). A counter is its rate,
//! with its sum as `name.count`; a timer, histogram or distribution is `name.max`, `name.median`, `name.avg`, `name.count`
//! (a second) and the like, and `name.95percentile`; a gauge or set is bare.

use crate::snapshot::{Point, Snapshot, number};

use super::plain::Name;
use super::{Writer, bucket_name};

pub(super) fn write(snapshot: &Snapshot, point: Point<'_>, aggregates: &[String], out: &mut Writer) {
    let name = Name::new(point.series());
    match point {
        Point::Counter(point) => {
            let value = point.sum.value();
            name.write(out, "", snapshot.rate(&point.series, value));
            name.write(out, ".count", value);
        }
        Point::Gauge(point) => name.write(out, "", point.gauge.value()),
        Point::Set(point) => name.write(out, "", point.members.count()),
        Point::Kv(point) => point.values.iter().for_each(|&value| name.write(out, "", value)),
        Point::Timer(point) => {
            let s = snapshot.summary(point);
            if s.samples == 0 {
                return;
            }
            for aggregate in aggregates {
                let value = match aggregate.as_str() {
                    "max" => s.max,
                    "min" => s.min,
                    "median" => s.median,
                    "avg" => s.mean,
                    "sum" => s.sum,
                    // The agent sends it as a rate.
                    _ => snapshot.rate(&point.series, s.count),
                };
                name.write(out, &format!(".{aggregate}"), value);
            }
            for p in &s.percentiles {
                // The dot would be another part of the path.
                let text = number(p.percentile).replace('.', "_");
                name.write(out, &format!(".{text}percentile"), p.value);
            }
            for (bound, count) in &s.buckets {
                name.write(out, &format!(".{}", bucket_name(*bound)), *count);
            }
        }
    }
}
