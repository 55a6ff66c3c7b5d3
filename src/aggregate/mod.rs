//! Finds the series of a sample and updates one counter, gauge, timer or set. Pure: time is an argument.
//!
//! A [`Shard`] belongs to one receive worker. At a tick it ships a [`Partial`]; the partials of all shards
//! become one immutable snapshot in [`crate::snapshot`]. What is kept here per interval merges: sums add,
//! histograms add, sets unite, gauges go by the order of [`Gauge`].
//!
//! Everything is bounded: series by a [`Quota`], exact samples by [`TimerPolicy::exact_samples`], set members
//! by [`EXACT_MEMBERS`], events and checks by [`MAX_NOTES`]. Reaching a bound is counted in the [`Tally`].
#![deny(clippy::disallowed_methods)]

mod alias;
mod columns;
mod counter;
mod gauge;
mod histogram;
mod index;
mod ingest;
mod limits;
mod note;
mod partial;
mod peek;
pub mod rules;
mod set;
mod several;
mod shard;
mod tally;
mod timer;
mod treatment;

pub use columns::{Cell, Class, Column, Columns};
pub use counter::Sum;
pub use gauge::Gauge;
pub use histogram::Histogram;
pub use limits::{MAX_NOTES, OVERFLOW_NAME, Offenders, Quota, TimeWindow, overflow_series};
pub use note::{Note, NoteBody, NoteTags, own_event, own_service_check};
pub use partial::{BadLine, Created, Partial, Stamped};
pub use peek::Peeked;
pub use set::{EXACT_MEMBERS, Members};
pub use shard::{Shard, ShardOptions, bad_time, class_of, kind_as};
pub use tally::Tally;
pub use timer::{Timer, TimerPolicy, Totals};
pub use treatment::{GaugePolicy, Levels, Span, Treatment};
