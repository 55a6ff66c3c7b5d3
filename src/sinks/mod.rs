//! Where closed intervals go. A [`Sink`] knows one format and one receiver, and nothing of queues or retries:
//! those are the business of its [`SinkDriver`], which gives every sink a task, a bounded queue, a deadline and
//! back-off of its own, so that one that hangs does not delay the others.
//!
//! To add a sink: one file with a type that implements the two methods of [`Sink`], and a [`Spec`], which knows its
//! options, tries the receiver and makes the sink; and its line in the table of [`SinkKind`]. `exec` needs neither.

mod agent;
mod blocking;
pub mod clickhouse;
pub mod console;
pub mod datadog;
mod driver;
pub mod elasticsearch;
pub mod exec;
mod exponential;
pub mod file;
pub mod graphite;
pub mod hdrlog;
mod http;
pub mod influx;
#[cfg(feature = "kafka")]
pub mod kafka;
#[cfg(feature = "nats")]
pub mod nats;
pub mod otlp;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod prometheus;
pub mod remote_write;
mod room;
mod running;
mod spec;
mod spool;
#[cfg(feature = "sqlite")]
pub mod sqlite;
pub mod statsd;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::snapshot::Snapshot;
use crate::untrusted::excerpt;

pub use crate::settings::{Opt, OptionVisitor};
pub use driver::{Contents, DriverOptions, Handover, NextSink, Reopen, SHUTDOWN, SinkChange, SinkDriver, SinkStats};
pub(crate) use http::nats_login as nats_login_options;
pub use spec::{SinkContext, SinkKind, Spec};
pub use spool::{Order, SpoolOptions, is_spool_held, spooled_bytes};

/// The longest of any duration that is configured: a year.
pub(crate) const LONG: Duration = Duration::from_secs(366 * 86_400);

/// Characters of a record's name in a message.
const NAMED_CHARS: usize = 200;

/// A future that a sink returns.
pub type Delivery<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One receiver of snapshots.
pub trait Sink: Send + 'static {
    /// Delivers a snapshot whole, or fails and leaves as little behind as the receiver allows. After a failure
    /// or a deadline that passed, the same snapshot is offered again; how many records went through is in the
    /// receipt.
    ///
    /// # Errors
    /// In one line, what went wrong.
    fn deliver<'a>(&'a mut self, snapshot: &'a Arc<Snapshot>) -> Delivery<'a, Result<Receipt, SinkError>>;

    /// What the sink has to know of earlier intervals to go on after a restart, as bytes of its own format: totals since the
    /// start, for one. `None` if each interval stands for itself. It is asked between two deliveries, when the daemon stops, and
    /// before [`Sink::close`]. If the last snapshot was not delivered, it is offered again after the restart: what is saved says
    /// whether it is in the totals.
    fn save(&self) -> Option<Vec<u8>> {
        None
    }

    /// Goes on with what [`Sink::save`] gave to an earlier start, before the first delivery. It is called only if that start ended
    /// in order: totals that lag behind what the receiver has seen would count it twice, so after a crash they begin anew.
    ///
    /// # Errors
    /// In one line, why that cannot be used. The sink begins anew then.
    fn restore(&mut self, _saved: &[u8]) -> Result<(), SinkError> {
        Ok(())
    }

    /// Finishes; nothing is delivered afterwards.
    fn close(&mut self) -> Delivery<'_, ()>;
}

/// What a delivery left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receipt {
    /// Records that the format cannot carry, or the receiver refused permanently, by reason.
    pub dropped: Vec<(&'static str, u64)>,
    /// The first record that could not be encoded, and why.
    pub named: Option<String>,
    /// How many bytes were delivered; 0 if that is not known.
    pub bytes: u64,
}

impl Receipt {
    /// So many bytes, and what was left out, by reason; reasons without a record are omitted.
    pub fn new(bytes: u64, dropped: impl IntoIterator<Item = (&'static str, u64)>) -> Receipt {
        let dropped = dropped.into_iter().filter(|(_, records)| *records > 0).collect();
        Receipt { dropped, bytes, named: None }
    }

    /// The same, and what could not be encoded.
    #[must_use]
    fn with(mut self, unencodable: Unencodable) -> Receipt {
        if unencodable.records > 0 {
            self.dropped.push(("unencodable", unencodable.records));
            self.named = unencodable.first;
        }
        self
    }
}

/// Whether a time, in Unix seconds, has a date of four digits: those that RFC 3339 and its readers know.
fn has_date(secs: f64) -> bool {
    (0.0..253_402_300_800.0).contains(&secs)
}

/// Records of an interval that have no form in a format: a count that its integers do not hold, a time before its calendar.
/// No later attempt would change that, so they are dropped one by one, and the rest of the interval is delivered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Unencodable {
    records: u64,
    first: Option<String>,
}

impl Unencodable {
    /// One record, and why.
    fn add(&mut self, record: impl fmt::Display, why: impl fmt::Display) {
        self.add_many(1, record, why);
    }

    /// Several records of one name.
    fn add_many(&mut self, records: u64, record: impl fmt::Display, why: impl fmt::Display) {
        self.records += records;
        self.first.get_or_insert_with(|| {
            let name = excerpt(record.to_string().as_bytes(), NAMED_CHARS);
            format!("{name} cannot be encoded: {why}")
        });
    }
}

/// Why a delivery failed. The driver retries it.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
#[non_exhaustive]
pub struct SinkError {
    /// In one line.
    pub what: String,
    /// How long the receiver asks to wait.
    pub retry_after: Option<Duration>,
}

impl SinkError {
    /// A failure.
    pub fn new(what: impl Into<String>) -> SinkError {
        SinkError { what: what.into(), retry_after: None }
    }
}

impl From<std::io::Error> for SinkError {
    fn from(error: std::io::Error) -> SinkError {
        SinkError::new(error.to_string())
    }
}
