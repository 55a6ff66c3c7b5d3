//! What a shard returns when an interval closes.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::protocol::ParseError;
use crate::senders::Gathered;
use crate::series::Series;
use crate::telemetry::Tally;

use super::columns::Columns;
use super::event_or_check::EventOrCheck;
use super::limits::Offenders;
use super::memory_use::HeldBytes;
use super::shard::Shard;

/// A counter's or a gauge's value with its own timestamp (`|T`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimestampedSample {
    /// Which.
    pub series: Series,
    /// Unix seconds.
    pub time: f64,
    /// A counter's sum, or a gauge's value.
    pub value: f64,
    /// The rule that treats it, or [`super::rules::NO_RULE`].
    pub rule: u32,
}

/// A malformed line: the first of an interval is kept as an example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLine {
    /// The line, truncated at 512 bytes.
    pub line: Vec<u8>,
    /// Why and where.
    pub error: ParseError,
    /// Who sent it.
    pub from: Option<SocketAddr>,
}

/// A series that got an id.
#[derive(Clone, Debug)]
pub struct Created {
    /// The id.
    pub id: u32,
    /// The rule that treats it, or [`super::rules::NO_RULE`].
    pub rule: u32,
    /// Which.
    pub series: Series,
}

/// One closed interval of one shard, on its way to the registry. The columns are reused.
#[derive(Debug, Default)]
pub struct Partial {
    /// New series with their ids, by class.
    pub created: [Vec<Created>; 5],
    /// Ids whose series were removed, by class. They were not touched in this interval, and are processed before
    /// `created`.
    pub retired: [Vec<u32>; 5],
    /// The values.
    pub columns: Columns,
    /// The tally.
    pub tally: Tally,
    /// The last totals of counters that are sent as totals and were touched, and the first ones of those that this shard had
    /// none of: they were counted in full.
    pub totals: Vec<(u32, f64)>,
    /// See above.
    pub first_totals: Vec<(u32, f64)>,
    /// Samples with a timestamp, in order.
    pub timestamped: Vec<TimestampedSample>,
    /// Events and service checks, in order.
    pub events_and_checks: Vec<EventOrCheck>,
    /// The first malformed line.
    pub example: Option<BadLine>,
    /// Whether a malformed line begins with what a client puts before a frame: its length.
    pub is_framed: bool,
    /// Who sent the first of what `allow` refused.
    pub refused_from: Option<IpAddr>,
    /// Which prefixes exceeded `max_series`, or what memory had room for.
    pub offenders: Offenders,
    /// The names of events, service checks and samples with a timestamp that were dropped: beyond their bound, or because
    /// memory is short.
    pub dropped: Offenders,
    /// Who sent what; empty of a shard that does not attend to senders.
    pub senders: Gathered,
    /// What the shard was, if it begins anew with the end of this interval.
    pub left: Option<Box<Shard>>,
    /// Bytes of all this.
    pub held: HeldBytes,
}
