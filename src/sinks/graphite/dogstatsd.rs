//! Naming `dogstatsd`: what the DataDog agent makes of its metrics (datadog-agent, `pkg/metrics`). A counter is its rate,
//! with its sum as `name.count`; a timer, histogram or distribution is `name.max`, `name.median`, `name.avg`, `name.count`
//! (a second) and the like, and `name.95percentile`; a gauge or set is bare.

use crate::snapshot::{Aggregate, Point, Snapshot};

use super::super::agent;
use super::systole::Name;
use super::{Writer, part};

pub(super) fn write(snapshot: &Snapshot, point: Point<'_>, aggregates: &[String], out: &mut Writer) {
    let name = Name::new(point.series());
    match point {
        Point::Counter(point) => {
            let value = point.sum.value();
            name.write(out, "", snapshot.rate(&point.series, value));
            name.write(out, ".count", value);
        }
        Point::Gauge(_) | Point::Set(_) | Point::Kv(_) => {
            snapshot.aggregates(point).for_each(|(_, value)| name.write(out, "", value));
        }
        Point::Timer(point) => {
            let summary = snapshot.summary(point);
            for (aggregate, suffix, value) in agent::aggregates(&summary, aggregates) {
                // The agent sends a count as a rate.
                let is_count = aggregate == Aggregate::Count;
                let value = if is_count { snapshot.rate(&point.series, value) } else { value };
                name.write(out, &format!(".{}", part(&suffix)), value);
            }
            for (bound, count) in &summary.buckets {
                name.write(out, &format!(".{}", part(&Aggregate::Bucket(*bound).name())), *count);
            }
        }
    }
}
