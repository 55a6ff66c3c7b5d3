//! The closed interval: immutable, shared, complete. Series, events, checks and the ledger: everything that a sink, the
//! page or another node needs of it.
//!
//! A [`Registry`](crate::rollup::Registry) makes snapshots of the partials of shards; [`merge`] merges snapshots of one
//! interval; [`Records`](crate::codec::Records) writes one as JSON Lines. Points have no particular order: sort them with
//! [`Series::order`] for people.
#![deny(clippy::disallowed_methods)]

mod aggregates;
mod deletion;
mod delivery_guard;
mod footprint;
mod merge;
mod number;
mod overrides;
mod row;
mod summary;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::aggregate::{EventOrCheck, Gauge, Members, Sum, Timer, TimestampedSample};
use crate::presence;
use crate::series::Series;
use crate::telemetry::{Ledger, SeriesAccount};

pub use aggregates::{Aggregate, Aggregates};
pub use deletion::{Deleted, Deletion};
pub use delivery_guard::DeliveryGuard;
pub use footprint::Footprint;
pub(crate) use merge::merge_timestamped;
pub use merge::{follow, merge};
pub use number::{grouped, number, short_number, write_number};
pub use overrides::{Filter, SnapshotOverrides};
pub(crate) use overrides::{Length, ends_interval};
pub use row::{FieldName, Row};
pub use summary::{Bins, Percentile, Summary, SummaryPolicy, cumulative, summarize};

/// One closed interval.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Number of the interval since the start, from 1.
    pub sequence: u64,
    /// Of an interval of a cluster that sinks get in parts: which one it is for this node. 0 is a whole interval.
    pub part: u64,
    /// End of the interval, Unix seconds.
    pub end: f64,
    /// Measured length, seconds.
    pub interval_secs: f64,
    /// What rates are divided by, seconds: the measured length, or the configured one (profile `etsy`).
    pub rate_secs: f64,
    /// Counters.
    pub counters: Vec<CounterPoint>,
    /// Gauges.
    pub gauges: Vec<GaugePoint>,
    /// Timers, histograms and distributions.
    pub timers: Vec<TimerPoint>,
    /// Sets.
    pub sets: Vec<SetPoint>,
    /// Key-value pairs.
    pub kvs: Vec<KvPoint>,
    /// Counters and gauges with timestamps, one per series and second.
    pub timestamped: Vec<TimestampedSample>,
    /// Events and service checks in the order received.
    pub events_and_checks: Vec<EventOrCheck>,
    /// Presence events in the order of time, each at Unix seconds.
    pub presence: Vec<presence::Event>,
    /// Deletions over the management port, for sinks that keep series.
    pub deleted: Vec<Deletion>,
    /// The account.
    pub ledger: Ledger,
    /// How timers are summarised.
    pub policy: Arc<SummaryPolicy>,
    /// Settings of its series from rules.
    pub overrides: SnapshotOverrides,
    /// Profile `etsy`: the prefix of the original's own series, unless they are switched off.
    pub stats_prefix: Option<Arc<str>>,
    /// What it is accounted for with.
    pub footprint: Footprint,
    /// Who is told when no sink has it any more.
    pub delivery: Option<DeliveryGuard>,
}

/// A counter's interval.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CounterPoint {
    /// Which.
    pub series: Series,
    /// The sum.
    pub sum: Sum,
}

/// A gauge at the end of an interval.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GaugePoint {
    /// Which.
    pub series: Series,
    /// The value with its adjustments.
    pub gauge: Gauge,
}

/// A timer's interval.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TimerPoint {
    /// Which.
    pub series: Series,
    /// The samples or their histogram.
    pub timer: Timer,
}

/// A set's interval.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SetPoint {
    /// Which.
    pub series: Series,
    /// The members.
    pub members: Members,
}

/// A point of any kind.
#[derive(Clone, Copy, Debug)]
pub enum Point<'a> {
    /// A counter.
    Counter(&'a CounterPoint),
    /// A timer, histogram or distribution.
    Timer(&'a TimerPoint),
    /// A gauge.
    Gauge(&'a GaugePoint),
    /// A set.
    Set(&'a SetPoint),
    /// Key-value pairs.
    Kv(&'a KvPoint),
}

impl<'a> Point<'a> {
    /// The series it belongs to.
    pub fn series(self) -> &'a Series {
        match self {
            Point::Counter(point) => &point.series,
            Point::Timer(point) => &point.series,
            Point::Gauge(point) => &point.series,
            Point::Set(point) => &point.series,
            Point::Kv(point) => &point.series,
        }
    }
}

/// The values of a key in an interval, in order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KvPoint {
    /// Which.
    pub series: Series,
    /// The values as received.
    pub values: Vec<f64>,
}

impl KvPoint {
    /// Keeps the first values up to a bound; how many are left out.
    pub(crate) fn keep(&mut self, most: usize) -> u64 {
        let left_out = self.values.len().saturating_sub(most);
        self.values.truncate(most);
        left_out as u64
    }
}

/// What tells snapshots apart.
pub type SnapshotId = (u64, u64, u64);

impl Snapshot {
    /// The same interval with nothing in it.
    pub fn without_data(&self) -> Snapshot {
        Snapshot {
            sequence: self.sequence,
            end: self.end,
            interval_secs: self.interval_secs,
            rate_secs: self.rate_secs,
            policy: Arc::clone(&self.policy),
            stats_prefix: self.stats_prefix.clone(),
            ..Snapshot::default()
        }
    }

    /// The number of records: one per series, event and check, one per value of a `kv` pair. The ledger is not counted.
    pub fn len(&self) -> usize {
        let kvs: usize = self.kvs.iter().map(|point| point.values.len()).sum();
        self.counters.len()
            + self.gauges.len()
            + self.timers.len()
            + self.sets.len()
            + kvs
            + self.timestamped.len()
            + self.events_and_checks.len()
            + self.presence.len()
    }

    /// Whether it has no records.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The `n`-th point, kind by kind.
    pub fn point(&self, mut n: usize) -> Option<Point<'_>> {
        if let Some(point) = self.counters.get(n) {
            return Some(Point::Counter(point));
        }
        n -= self.counters.len();
        if let Some(point) = self.timers.get(n) {
            return Some(Point::Timer(point));
        }
        n -= self.timers.len();
        if let Some(point) = self.gauges.get(n) {
            return Some(Point::Gauge(point));
        }
        n -= self.gauges.len();
        if let Some(point) = self.sets.get(n) {
            return Some(Point::Set(point));
        }
        self.kvs.get(n - self.sets.len()).map(Point::Kv)
    }

    /// A timer in numbers. Computed on demand: stored, it would be larger than the samples.
    pub fn summary(&self, point: &TimerPoint) -> Summary {
        // Only bins depend on the name.
        let name = if self.policy.bins.is_empty() { String::new() } else { point.series.to_string() };
        summarize(&point.timer, &name, &self.policy, self.overrides.of(&point.series))
    }

    /// A timer's values, ascending, each with the number of events that it stands for.
    pub fn values(&self, point: &TimerPoint) -> Vec<(f64, f64)> {
        summary::values(&point.timer, &self.policy)
    }

    /// Sorts the points of every kind by series.
    pub fn sort(&mut self) {
        self.counters.sort_by(|a, b| a.series.order(&b.series));
        self.gauges.sort_by(|a, b| a.series.order(&b.series));
        self.timers.sort_by(|a, b| a.series.order(&b.series));
        self.sets.sort_by(|a, b| a.series.order(&b.series));
        self.kvs.sort_by(|a, b| a.series.order(&b.series));
        self.timestamped.sort_by(|a, b| a.series.order(&b.series).then(a.time.total_cmp(&b.time)));
    }

    /// Whether it has points of intervals longer than its own.
    pub(crate) fn flushes_longer(&self) -> bool {
        !self.overrides.lengths.is_empty()
    }

    /// The number of events, service checks and changes of presence.
    pub fn count_events(&self) -> u64 {
        (self.events_and_checks.len() + self.presence.len()) as u64
    }

    /// Sequence number, end and part, which identify what a sink is given, also among those of earlier starts, which reuse the
    /// numbers.
    pub fn identity(&self) -> SnapshotId {
        (self.sequence, self.end.to_bits(), self.part)
    }

    fn count_series(&self) -> SeriesAccount {
        SeriesAccount {
            counters: self.counters.len() as u64,
            gauges: self.gauges.len() as u64,
            timers: self.timers.len() as u64,
            sets: self.sets.len() as u64,
            kvs: self.kvs.len() as u64,
        }
    }
}
