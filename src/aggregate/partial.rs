//! What a shard ships when an interval closes.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::protocol::ParseError;
use crate::series::Series;

use super::columns::Columns;
use super::event_or_check::EventOrCheck;
use super::limits::Offenders;
use super::tally::Tally;

/// A counter's or a gauge's value of a second of its own (`|T`).
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

/// What came with a malformed line: the first of an interval is kept as an example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLine {
    /// The line, cut at 512 bytes.
    pub line: Vec<u8>,
    /// Why and where.
    pub error: ParseError,
    /// Who sent it.
    pub from: Option<SocketAddr>,
}

/// A series that got a number.
#[derive(Clone, Debug)]
pub struct Created {
    /// The number.
    pub id: u32,
    /// The rule that treats it, or [`super::rules::NO_RULE`].
    pub rule: u32,
    /// Which.
    pub series: Series,
}

/// One closed interval of one shard, on its way to the registry. The columns come back as spare ones.
#[derive(Debug, Default)]
pub struct Partial {
    /// Series that got a number, by class.
    pub created: [Vec<Created>; 5],
    /// Numbers whose series were forgotten, by class. They were not touched before in this interval, and
    /// are read before `created`.
    pub retired: [Vec<u32>; 5],
    /// The values.
    pub columns: Columns,
    /// The counts.
    pub tally: Tally,
    /// Samples with a time of their own, in order.
    pub stamped: Vec<TimestampedSample>,
    /// Events and service checks, in order.
    pub notes: Vec<EventOrCheck>,
    /// The first malformed line.
    pub example: Option<BadLine>,
    /// Who ran into `max_series`.
    pub offenders: Offenders,
}
