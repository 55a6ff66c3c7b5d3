//! What a receive worker counts, once each. A tally is plain numbers: the worker owns it and ships it with every closed
//! interval; the ledger adds it up.

use crate::protocol::ParseError;

use super::accounts::{LineAccount, ListenerAccount, MemoryAccount, SampleAccount};
use super::entry::Account;

/// Numbers of one worker and one interval.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// What was received; of this the flusher fills in what a worker does not know.
    pub listener: ListenerAccount,
    /// What became of lines.
    pub lines: LineAccount,
    /// What became of values.
    pub samples: SampleAccount,
    /// What gave way for memory; its levels are the flusher's.
    pub memory: MemoryAccount,
    /// Messages that datagrams came in: the kernel may hand over several datagrams in one.
    pub messages: u64,
    /// Reads of a stream that completed at least one line.
    pub chunks: u64,
}

impl Tally {
    /// Counts a malformed line.
    #[inline]
    pub fn refuse(&mut self, error: ParseError) {
        self.lines.malformed.count(error.reason, 1);
    }

    /// All malformed lines.
    pub fn malformed_total(&self) -> u64 {
        self.lines.malformed.total()
    }

    /// The reasons of malformed lines, each with its count, such as `bad_timestamp=2 nul=1`.
    pub fn malformed_by_reason(&self) -> String {
        self.lines.malformed.text()
    }

    /// Adds another worker's or interval's numbers.
    pub fn add(&mut self, other: &Tally) {
        self.listener.add(&other.listener);
        self.lines.add(&other.lines);
        self.samples.add(&other.samples);
        self.memory.add(&other.memory);
        self.messages += other.messages;
        self.chunks += other.chunks;
    }
}
