//! The record of a partition: who owns it and how far it is. It is one message, so that nobody can move one without the
//! other; and it is the fence.
//!
//! A record names its predecessor. Of all records that name the same one, the first in the log is valid and the others are
//! nothing, whatever the server said to those who wrote them: servers have said yes to two at once. What is valid is thus
//! decided by the log, never changes, and can be read by anybody: [`Chain`].
//!
//! ```text
//! sequence  1        4        5        6        9
//! prev      0        1        1        4        6
//! valid     yes      yes      no       yes      yes
//! ```

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::bus::{Sequence, Stored};
use super::roster::Roster;
use super::{Interval, SessionId};

/// The format of records that is written.
pub(super) const FORMAT: u8 = 1;

/// A later version of an emitted interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amendment {
    /// 1 for the first one.
    pub version: u32,
    /// Up to where the log is merged.
    pub cut: Sequence,
    /// The last version that was emitted.
    pub emitted: u32,
}

/// The record of a partition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The format.
    pub format: u8,
    /// The sequence of the record that this one follows, 0 for none.
    pub prev: Sequence,
    /// A random number, by which the writer knows it again.
    pub token: u64,
    /// Grows with each claim.
    pub epoch: u64,
    /// Who owns the partition.
    pub owner: Option<SessionId>,
    /// The last sealed interval, 0 for none.
    pub sealed: Interval,
    /// Up to where the log belongs to a sealed interval: from `base` on, where it is known.
    pub cuts: BTreeMap<Interval, Sequence>,
    /// The last interval that all sinks took.
    pub emitted: Interval,
    /// The last interval that nobody needs to read again.
    pub base: Interval,
    /// From where on the log is read, 0 for its beginning.
    pub resume: Sequence,
    /// The edges as they are before the message at `resume`.
    pub roster: Roster,
    /// Amendments of intervals after `base`.
    pub amends: BTreeMap<Interval, Amendment>,
    /// The last batch that had been read when an interval was sealed last, and when it was stored: whoever finds another one
    /// there knows that the log was rewritten.
    pub mark: (Sequence, f64),
    /// The interval whose account tells all that is known, and not only what came since the one before: what was told before
    /// was of a log that is no more.
    pub retold: Option<Interval>,
    /// How often the log has lost its end. What it has now is all that there is.
    pub losses: u32,
    /// Where the gauges are that stand at the end of `base`; `None` if there are none.
    pub checkpoint: Option<Sequence>,
}

impl Record {
    /// What stands before the first record of a partition.
    pub fn genesis() -> Record {
        Record {
            format: FORMAT,
            prev: 0,
            token: 0,
            epoch: 0,
            owner: None,
            sealed: 0,
            cuts: BTreeMap::new(),
            emitted: 0,
            base: 0,
            resume: 0,
            roster: Roster::default(),
            amends: BTreeMap::new(),
            mark: (0, 0.0),
            retold: None,
            losses: 0,
            checkpoint: None,
        }
    }

    /// Its bytes.
    pub fn encode(&self) -> Bytes {
        postcard::to_stdvec(self).expect("a vector takes all of a plain structure").into()
    }

    /// A record from its bytes; `None` if it is none that this version reads.
    pub fn decode(bytes: &[u8]) -> Option<Record> {
        if *bytes.first()? != FORMAT {
            return None;
        }
        postcard::from_bytes(bytes).ok()
    }

    /// Up to where the log had been given out when an interval was sealed: the cut before its own.
    pub(super) fn cut_before(&self, interval: Interval) -> Sequence {
        self.cuts.get(&(interval - 1)).copied().unwrap_or(0)
    }
}

/// The valid record of a partition, found by reading its records in order.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    /// The sequence of the valid record, and the record if it was read.
    valid: Sequence,
    record: Option<Record>,
    /// The last sequence that was read.
    last: Sequence,
}

impl Chain {
    /// Begins with the last record of the partition: the valid one is looked for from its predecessor on, which its writer
    /// had found to be valid.
    pub fn begin(last: Option<&Record>) -> Chain {
        let valid = last.map_or(0, |record| record.prev);
        Chain { valid, record: None, last: valid }
    }

    /// Takes the next record of the partition; one that was read before changes nothing. `false` if records before it are
    /// gone that were not read: then the chain has to begin anew.
    #[must_use]
    pub fn take(&mut self, stored: &Stored) -> bool {
        if stored.sequence <= self.last {
            return true;
        }
        let record = Record::decode(&stored.payload);
        if record.as_ref().is_some_and(|record| record.prev > self.last) {
            return false;
        }
        self.last = stored.sequence;
        if let Some(record) = record.filter(|record| record.prev == self.valid) {
            (self.valid, self.record) = (stored.sequence, Some(record));
        }
        true
    }

    /// The valid record with its sequence. Before the first one it is sequence 0.
    pub fn valid(&self) -> (Sequence, Option<&Record>) {
        (self.valid, self.record.as_ref())
    }

    /// Up to where the records were read.
    pub fn last(&self) -> Sequence {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(sequence: Sequence, prev: Sequence, token: u64) -> Stored {
        let record = Record { prev, token, ..Record::genesis() };
        Stored { sequence, stored: 0.0, payload: record.encode() }
    }

    #[test]
    fn of_records_with_one_predecessor_the_first_is_valid() {
        let all = [stored(1, 0, 10), stored(4, 1, 11), stored(5, 1, 12), stored(6, 4, 13), stored(9, 6, 14)];
        let mut chain = Chain::begin(None);
        for (record, expected) in all.iter().zip([1, 4, 4, 6, 9]) {
            assert!(chain.take(record));
            assert_eq!(chain.valid().0, expected);
        }
        assert_eq!(chain.valid().1.expect("it was read").token, 14);
    }

    #[test]
    fn the_valid_record_is_found_from_any_last_one() {
        // The last one names a predecessor that has been followed already.
        let all = [stored(4, 1, 11), stored(6, 4, 13), stored(9, 6, 14), stored(12, 4, 15)];
        for last in &all {
            let last = Record::decode(&last.payload);
            let mut chain = Chain::begin(last.as_ref());
            let rest = all.iter().filter(|one| one.sequence > last.as_ref().map_or(0, |last| last.prev));
            assert!(rest.into_iter().all(|one| chain.take(one)));
            assert_eq!(chain.valid().0, 9);
        }
    }

    #[test]
    fn what_was_read_before_changes_nothing_and_records_that_are_gone_are_noticed() {
        let mut chain = Chain::begin(None);
        assert!([stored(1, 0, 10), stored(4, 1, 11), stored(1, 0, 10)].iter().all(|one| chain.take(one)));
        assert_eq!((chain.valid().0, chain.last()), (4, 4));
        assert!(!chain.take(&stored(9, 6, 14)));
        assert_eq!((chain.valid().0, chain.last()), (4, 4));
    }

    #[test]
    fn a_record_that_can_not_be_read_is_skipped() {
        let mut chain = Chain::begin(None);
        let junk = Stored { sequence: 1, stored: 0.0, payload: Bytes::from_static(b"\x01") };
        assert!(chain.take(&junk) && chain.take(&stored(2, 0, 7)));
        assert_eq!(chain.valid().0, 2);
        assert_eq!(Record::decode(&Record { format: 9, ..Record::genesis() }.encode()), None);
    }
}
