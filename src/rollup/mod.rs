//! Roll-up: from the partials that shards ship at each flush to the [`Snapshot`](crate::snapshot::Snapshot) of the interval.
//!
//! What has to survive an interval lives here: which series exist over all shards (the series table), what held gauges are, and
//! points of series that are flushed in every n-th interval only.
#![deny(clippy::disallowed_methods)]

mod gauges;
mod multi_interval;
mod registry;
mod series_table;

pub use registry::{GaugeLife, Interval, Registry, RegistryOptions, SelfMetrics};
