//! Finds the series of a sample and updates one counter, gauge, timer or set. Pure: time is an argument.
//!
//! A [`Shard`] belongs to one receive worker. At a tick it returns a [`Partial`]; the partials of all shards become one
//! immutable snapshot in [`crate::snapshot`]. All values merge: sums and histograms add, sets unite, gauges merge by
//! the order of [`Gauge`].
//!
//! Everything is bounded: series by a [`Quota`], exact samples by [`TimerPolicy::exact_samples`], set members
//! by [`EXACT_MEMBERS`], events and checks by [`MAX_EVENTS_AND_CHECKS`]. Reaching a bound is counted in the [`Tally`](crate::telemetry::Tally).
#![deny(clippy::disallowed_methods)]

mod columns;
mod counter;
mod event_or_check;
mod exact_sum;
mod gauge;
mod histogram;
mod index;
mod ingest;
mod inspect;
mod key_cache;
mod limits;
mod memory_use;
mod merged_histogram;
mod overrides;
mod partial;
pub mod pattern;
pub mod rules;
mod set;
mod several;
mod shard;
mod timer;
mod watched;

pub use columns::{Cell, Class, Column, Columns};
pub use counter::Sum;
pub use event_or_check::{CanonicalTags, EventOrCheck, EventOrCheckBody, own_event, own_service_check};
pub use gauge::Gauge;
pub use histogram::Histogram;
pub use inspect::Inspected;
pub(crate) use limits::MAX_TIMESTAMPED;
pub use limits::{MAX_EVENTS_AND_CHECKS, OVERFLOW_NAME, Offenders, Quota, TimeWindow, overflow_series};
pub use memory_use::HeldBytes;
pub use merged_histogram::MergedHistogram;
pub use overrides::{GaugePolicy, Levels, SeriesOverrides, Span};
pub use partial::{BadLine, Created, Partial, TimestampedSample};
pub use set::{EXACT_MEMBERS, Members};
pub use shard::{Shard, ShardOptions, bad_time, class_of, kind_as};
pub use timer::{Timer, TimerPolicy, Totals};
