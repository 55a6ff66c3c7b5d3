//! The counters of a receive worker; each event is counted once. The worker owns its tally and returns it with every
//! closed interval; [`crate::telemetry`] makes the published ledger of it.

use crate::protocol::{ParseError, Reason};

/// Numbers of one worker and one interval.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Datagrams read. Streams have none.
    pub datagrams: u64,
    /// Messages they came in: the kernel may hand over several datagrams in one.
    pub messages: u64,
    /// Reads of a stream that completed at least one line.
    pub chunks: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Datagrams larger than `max_datagram`: their whole lines are read, the rest is a malformed line (`too_long`).
    pub truncated: u64,
    /// Datagrams and connections from sources that `allow` does not name, and connections over the limit.
    pub refused: u64,
    /// Connections accepted.
    pub connections: u64,
    /// Datagrams that the deadline of a stop left unread.
    pub unread: u64,
    /// Bytes, of datagrams and of connections, that the deadline of a stop left unread.
    pub unread_bytes: u64,
    /// Lines, of whatever kind.
    pub lines: u64,
    /// Lines of metrics without a fault.
    pub metrics: u64,
    /// Events.
    pub events: u64,
    /// Service checks.
    pub service_checks: u64,
    /// Heartbeats.
    pub heartbeats: u64,
    /// Lines of nothing but blanks.
    pub empty: u64,
    /// Lines with a fault, by [`Reason`].
    pub malformed: [u64; Reason::ALL.len()],
    /// Well-formed values.
    pub samples: u64,
    /// Values recorded in a series of their own.
    pub recorded: u64,
    /// Values recorded in an overflow series, because `max_series` was reached.
    pub folded: u64,
    /// `kv` values beyond the bound of one series and interval.
    pub kv_limited: u64,
    /// Values that a rule dropped.
    pub dropped_by_rule: u64,
    /// Values with a time of their own.
    pub timestamped: u64,
    /// Of those, what an interval does not keep.
    pub stamped_limited: u64,
    /// Events and service checks beyond the bound of one interval: counted as such, not kept.
    pub notes_dropped: u64,
    /// Unknown sections of lines, skipped.
    pub sections_skipped: u64,
    /// Tags beyond `max_tags`, cut.
    pub tags_cut: u64,
}

impl Tally {
    /// Counts a malformed line.
    #[inline]
    pub fn refuse(&mut self, error: ParseError) {
        self.malformed[error.reason as usize] += 1;
    }

    /// All malformed lines.
    pub fn malformed_total(&self) -> u64 {
        self.malformed.iter().sum()
    }

    /// The reasons of malformed lines, each with its count, such as `bad_timestamp=2 nul=1`.
    pub fn malformed_by_reason(&self) -> String {
        let counts = Reason::ALL.iter().zip(&self.malformed).filter(|(_, count)| **count > 0);
        counts.map(|(reason, count)| format!("{}={count}", reason.name())).collect::<Vec<_>>().join(" ")
    }

    /// Adds another worker's or interval's numbers.
    pub fn add(&mut self, other: &Tally) {
        let Tally {
            datagrams,
            messages,
            chunks,
            bytes,
            truncated,
            refused,
            connections,
            unread,
            unread_bytes,
            lines,
            metrics,
            events,
            service_checks,
            heartbeats,
            empty,
            malformed,
            samples,
            recorded,
            folded,
            kv_limited,
            dropped_by_rule,
            timestamped,
            stamped_limited,
            notes_dropped,
            sections_skipped,
            tags_cut,
        } = other;
        self.datagrams += datagrams;
        self.messages += messages;
        self.chunks += chunks;
        self.bytes += bytes;
        self.truncated += truncated;
        self.refused += refused;
        self.connections += connections;
        self.unread += unread;
        self.unread_bytes += unread_bytes;
        self.lines += lines;
        self.metrics += metrics;
        self.events += events;
        self.service_checks += service_checks;
        self.heartbeats += heartbeats;
        self.empty += empty;
        self.malformed.iter_mut().zip(malformed).for_each(|(ours, theirs)| *ours += theirs);
        self.samples += samples;
        self.recorded += recorded;
        self.folded += folded;
        self.kv_limited += kv_limited;
        self.dropped_by_rule += dropped_by_rule;
        self.timestamped += timestamped;
        self.stamped_limited += stamped_limited;
        self.notes_dropped += notes_dropped;
        self.sections_skipped += sections_skipped;
        self.tags_cut += tags_cut;
    }
}
