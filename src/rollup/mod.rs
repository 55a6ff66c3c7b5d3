//! The roll-up: merges the partials of all shards into the [`Snapshot`](crate::snapshot::Snapshot) of the interval.
//!
//! State that outlives an interval is here: the series of all shards (the series table), held gauges, and points of series
//! that are flushed only in every n-th interval. [`SavedRegistry`] is that as plain data, for another process or other rules.
#![deny(clippy::disallowed_methods)]

#[cfg(test)]
mod fixture;
mod gauges;
mod multi_interval;
mod own_shard;
mod prefixes;
mod registry;
mod saved;
mod series_table;

pub(crate) use gauges::{HeldGauge, HeldSpan, life_of};
pub(crate) use multi_interval::MultiInterval;
pub(crate) use registry::JITTER;
pub use registry::{GaugeLife, Interval, Registry, RegistryOptions, SelfMetrics};
pub use saved::{Restored, SavedInterval, SavedRegistry};
