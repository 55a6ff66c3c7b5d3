//! What the machines want of a bus, and what they hear from it. On NATS JetStream:
//!
//! | command | is |
//! |---|---|
//! | `PutSession` | a publish to `<name>.n.<node>` |
//! | `ReadSessions` | the last message of each subject `<name>.n.*` |
//! | `ReadLastRecord` | the last message of `<name>.r.<partition>` |
//! | `ReadRecords` | the messages of that subject after a sequence, some at a time |
//! | `WriteRecord` | a publish there with `Nats-Expected-Last-Subject-Sequence` |
//! | `ReadBatches` | the messages of `<name>.p.<partition>.*` from a sequence, some at a time |
//! | `ReadBodies` | single messages of that stream by their sequences |
//! | `WriteCheckpoint`, `ReadCheckpoint` | `<name>.c.<partition>`, in chunks; the sequence is the first one's |
//!
//! Any command may be lost, be done twice, or be done long after it was sent; so may its answer. Reads may lag behind, but
//! always show a beginning of the log without gaps.

use bytes::Bytes;

/// The place of a message in a stream; the first is 1.
pub type Sequence = u64;

/// Where an answer goes: the partition, and the number of the command, which is never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The partition.
    pub partition: u16,
    /// The number of the command.
    pub ticket: u64,
}

/// What a node wants done. `E` is what it emits.
#[derive(Clone, Debug)]
pub enum Command<E> {
    /// Renew our session; `number` grows with each renewal.
    PutSession {
        /// The number of the renewal, as in the payload.
        number: u64,
        /// The encoded session.
        payload: Bytes,
    },
    /// Read the sessions of all nodes.
    ReadSessions,
    /// Read the last record of a partition, whether it is valid or not.
    ReadLastRecord {
        /// Whose record.
        partition: u16,
    },
    /// Read the records of a partition after a sequence.
    ReadRecords {
        /// Whose records.
        partition: u16,
        /// All of them come after this one.
        after: Sequence,
    },
    /// Append a record, if the last one on its subject is still the expected one.
    WriteRecord {
        /// Whose record.
        partition: u16,
        /// The last sequence on the subject, 0 for none.
        expected: Sequence,
        /// The encoded record.
        payload: Bytes,
    },
    /// Read batches of a partition.
    ReadBatches {
        /// Where the answer goes.
        at: Position,
        /// The first sequence that is wanted.
        from: Sequence,
    },
    /// Read batches again whose bodies were put away.
    ReadBodies {
        /// Where the answer goes.
        at: Position,
        /// Their sequences.
        sequences: Vec<Sequence>,
    },
    /// Append a checkpoint.
    WriteCheckpoint {
        /// Where the answer goes.
        at: Position,
        /// The encoded checkpoint.
        payload: Bytes,
    },
    /// Read a checkpoint.
    ReadCheckpoint {
        /// Where the answer goes.
        at: Position,
        /// Its sequence.
        sequence: Sequence,
    },
    /// Hand an interval to the sinks. Answered when each has delivered, spooled or counted it.
    Emit {
        /// Where the answer goes.
        at: Position,
        /// The interval.
        emission: E,
    },
}

/// A stored record or session.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its place in the stream.
    pub sequence: Sequence,
    /// When the bus stored it, by its clock.
    pub stored: f64,
    /// What was published.
    pub payload: Bytes,
}

/// A stored batch.
#[derive(Clone, Debug)]
pub struct StoredBatch {
    /// Its place in the stream.
    pub sequence: Sequence,
    /// When the bus stored it, by its clock.
    pub stored: f64,
    /// When the edge sent this try, by its own wall clock.
    pub sent: f64,
    /// The header and the body.
    pub payload: Bytes,
}

/// What a node hears.
#[derive(Clone, Debug)]
pub enum Event {
    /// The bus has acknowledged a renewal of our session.
    SessionStored {
        /// Its number.
        number: u64,
        /// Where it is.
        sequence: Sequence,
    },
    /// The last session of each node.
    Sessions(Vec<Stored>),
    /// The last record of a partition.
    LastRecord {
        /// Whose record.
        partition: u16,
        /// `None` if there is none.
        record: Option<Stored>,
    },
    /// Records of a partition, in order and without a gap after the one that was named.
    Records {
        /// Whose records.
        partition: u16,
        /// All of them come after this one.
        after: Sequence,
        /// The records.
        records: Vec<Stored>,
    },
    /// The server has answered to a record, or has not in time. Nothing is concluded from what it says.
    RecordAnswered {
        /// Whose record.
        partition: u16,
    },
    /// Batches of a partition, in order and without a gap.
    Batches {
        /// Which read this answers.
        at: Position,
        /// The batches.
        batches: Vec<StoredBatch>,
        /// Whether these were the last ones.
        is_end: bool,
        /// The first sequence that the stream still has.
        first: Sequence,
        /// The last sequence of the stream.
        last: Sequence,
    },
    /// Batches that were read again; those that the log has no longer are left out.
    Bodies {
        /// Which read this answers.
        at: Position,
        /// The batches.
        batches: Vec<StoredBatch>,
    },
    /// A checkpoint is stored.
    CheckpointStored {
        /// Which write this answers.
        at: Position,
        /// Where it is.
        sequence: Sequence,
    },
    /// A checkpoint.
    Checkpoint {
        /// Which read this answers.
        at: Position,
        /// `None` if it is gone.
        payload: Option<Bytes>,
    },
    /// All sinks of a partition took an interval.
    Emitted {
        /// Which emission this answers.
        at: Position,
    },
}
