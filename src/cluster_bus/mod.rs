//! The bus of scale-out: what carries batches, records, checkpoints and sessions between nodes and keeps them, and
//! what they ask each other.
//! [`Bus`] is what a driver of the machines in `cluster` needs of it, `JetStreamBus` is that on NATS JetStream (with the
//! feature `nats`), and `MemoryBus` is the same inside of a process, for tests. The streams are:
//!
//! | stream | subjects | has |
//! |---|---|---|
//! | `<NAME>_P<i>` | `<name>.p.<partition>.<edge>` | batches; partition modulo the number of streams is `i` |
//! | `<NAME>_R` | `<name>.r.<partition>` | records |
//! | `<NAME>_C` | `<name>.c.<partition>` | checkpoints, in chunks |
//! | `<NAME>_N` | `<name>.n.<node>` | sessions |
//!
//! Questions go to `<name>.q.<node>`, and no stream keeps them.
//!
//! What a caller may rely on:
//!
//! * Every call but `serve` answers within [`PUT_BATCH_LIMIT`], [`PREPARE_LIMIT`] or [`LIMIT`]. One that failed may have been done, or
//!   be done later.
//! * What `put_batch` and `put_session` acknowledged stays, as long as the stream keeps it. A batch that is sent twice is
//!   there twice. Batches that are put one after the other, each acknowledged, are read in that order.
//! * A read shows a beginning of what there is from the place that was asked for, in order and without gaps. What is left
//!   out is at the end, or is what the stream has no longer, which `first` tells.
//! * The answer of `write_record` proves nothing: two writers may both hear yes. What holds is decided by the records
//!   that are read back, see `cluster::Chain`.

use std::fmt::{self, Debug};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::cluster::{NodeName, Sequence, Stored, StoredBatch};

#[cfg(feature = "nats")]
mod jetstream;
#[cfg(any(test, feature = "internals"))]
mod memory;

#[cfg(feature = "nats")]
pub use crate::nats_client::NatsLogin;
#[cfg(feature = "nats")]
pub use jetstream::{BusOptions, JetStreamBus};
#[cfg(any(test, feature = "internals"))]
pub use memory::{MemoryBus, MemoryFault, MemoryOptions};

/// Longest wait for the acknowledgement of a batch.
pub const PUT_BATCH_LIMIT: Duration = Duration::from_secs(2);

/// Longest wait for the answer of any other call; each chunk of a checkpoint has it for itself.
pub const LIMIT: Duration = Duration::from_millis(1500);

/// Longest wait until streams are made.
pub const PREPARE_LIMIT: Duration = Duration::from_secs(10);

/// What comes of a call. Object safe, so that a driver has an `Arc<dyn Bus>`.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, BusError>> + Send + 'a>>;

/// What a node answers to a question; `None` is no answer.
pub type Answering = Pin<Box<dyn Future<Output = Option<Bytes>> + Send>>;

/// Answers questions of other nodes.
pub type Responder = Arc<dyn Fn(Bytes) -> Answering + Send + Sync>;

/// A replicated log, and a way to ask other nodes.
pub trait Bus: Send + Sync + Debug {
    /// Creates the streams that are missing, and compares the others with what they should be.
    fn prepare(&self) -> Answer<'_, ()>;

    /// Appends a batch; `sent` is the edge's wall clock at this try, in Unix seconds.
    fn put_batch(&self, partition: u16, edge: &NodeName, sent: f64, payload: Bytes) -> Answer<'_, ()>;

    /// Replaces the session of a node.
    fn put_session(&self, node: &NodeName, payload: Bytes) -> Answer<'_, Sequence>;

    /// The last session of each node, in the order of their sequences.
    fn sessions(&self) -> Answer<'_, Vec<Stored>>;

    /// The last record of a partition, whether it is valid or not.
    fn last_record(&self, partition: u16) -> Answer<'_, Option<Stored>>;

    /// Records of a partition after a sequence: the first ones, not always all.
    fn records(&self, partition: u16, after: Sequence) -> Answer<'_, Vec<Stored>>;

    /// Appends a record if the last one of its partition has the expected sequence, 0 for none.
    fn write_record(&self, partition: u16, expected: Sequence, payload: Bytes) -> Answer<'_, ()>;

    /// Batches of a partition from a sequence on: the first ones, not always all.
    fn batches(&self, partition: u16, from: Sequence) -> Answer<'_, Page>;

    /// Single batches of a partition, in the order that was asked for; those that are gone are left out.
    fn bodies(&self, partition: u16, sequences: &[Sequence]) -> Answer<'_, Vec<StoredBatch>>;

    /// Appends a checkpoint, of any length; the answer is what to read it by.
    fn write_checkpoint(&self, partition: u16, payload: Bytes) -> Answer<'_, Sequence>;

    /// A checkpoint; `None` if it is gone.
    fn read_checkpoint(&self, partition: u16, sequence: Sequence) -> Answer<'_, Option<Bytes>>;

    /// Asks another node. It may be asked twice.
    fn ask(&self, node: &NodeName, question: Bytes) -> Answer<'_, Bytes>;

    /// Has `responder` answer what other nodes ask this one, until the bus is closed or this is not waited for any more. It
    /// ends earlier if it fails.
    fn serve(&self, node: &NodeName, responder: Responder) -> Answer<'_, ()>;

    /// Whether it can be reached.
    fn status(&self) -> BusStatus;

    /// Sends what is on its way and ends what works in the background. Calls fail from then on.
    fn close(&self) -> Answer<'_, ()>;
}

/// Batches that were read.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// In order and without gaps.
    pub batches: Vec<StoredBatch>,
    /// Whether these were all that there were when the read began.
    pub is_end: bool,
    /// The first sequence that the stream still has, of any partition; one after `last` if it is empty.
    pub first: Sequence,
    /// The last sequence of the stream, of any partition; 0 if there never was one.
    pub last: Sequence,
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// No answer in time. It may have been done nevertheless, or be done later.
    #[error("the bus has not answered in time")]
    TimedOut,
    /// Another record was the last one. Nothing is wrong: somebody else has written.
    #[error("another record has come in between")]
    Refused,
    /// A stream is not as it should be.
    #[error(
        "stream `{stream}` has {field} = {found} where this node wants {expected}: \
         give all nodes the same [cluster] settings, or change the stream"
    )]
    Different {
        /// Its name.
        stream: String,
        /// The setting, as NATS calls it.
        field: &'static str,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// Anything else, with what to do about it.
    #[error("{0}")]
    Failed(String),
}

/// Settings that bound a stream: with others than a node wants it works all the same.
const BOUNDS: [&str; 3] = ["max_bytes", "max_age", "num_replicas"];

impl BusError {
    /// Whether a stream is bounded otherwise, and is else as it should be.
    pub fn is_of_bounds(&self) -> bool {
        matches!(self, BusError::Different { field, .. } if BOUNDS.contains(field))
    }
}

/// Whether a bus can be reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BusStatus {
    /// Whether there is a connection.
    pub connected: bool,
    /// Name and address of the server, or of the last one.
    pub server: Option<String>,
    /// What went wrong last, and has not gone well since.
    pub last_error: Option<String>,
}

impl fmt::Display for BusStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.server, self.connected) {
            (Some(server), true) => write!(f, "connected to {server}")?,
            (Some(server), false) => write!(f, "not connected, last to {server}")?,
            (None, _) => write!(f, "not connected")?,
        }
        match &self.last_error {
            Some(error) => write!(f, ": {error}"),
            None => Ok(()),
        }
    }
}
