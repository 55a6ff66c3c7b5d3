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

/// Every lower number can be counted on, also as a float.
pub(super) const BOUND: u64 = 1 << 53;

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

    /// A record from its bytes; `None` if it is none that this version reads, or says what can't be.
    pub fn decode(bytes: &[u8]) -> Option<Record> {
        if *bytes.first()? != FORMAT {
            return None;
        }
        postcard::from_bytes(bytes).ok().filter(Record::is_sound)
    }

    /// A stored record; `None` if it is none, or names a predecessor that does not precede it.
    fn of(stored: &Stored) -> Option<Record> {
        Record::decode(&stored.payload).filter(|record| record.prev < stored.sequence)
    }

    /// Whether its numbers are such as an owner writes.
    fn is_sound(&self) -> bool {
        let Record { base, emitted, sealed, epoch, resume, .. } = *self;
        let sequences = || self.cuts.values().chain(self.amends.values().map(|one| &one.cut));
        let last = sequences().chain([&sealed, &epoch, &resume, &self.mark.0]).max();
        let is_amended = |(interval, one): (&Interval, &Amendment)| {
            (base + 1..=sealed).contains(interval) && one.emitted <= one.version && one.version < u32::MAX
        };
        base <= emitted
            && emitted <= sealed
            && last.is_none_or(|last| *last < BOUND)
            && self.cuts.keys().all(|interval| (base..=sealed).contains(interval))
            && self.cuts.values().is_sorted()
            && self.amends.iter().all(is_amended)
            && self.losses < u32::MAX
            && self.roster.is_sound()
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
    /// Up to where records are gathered before the chain can begin, and those that were.
    gathering: Option<(Sequence, Vec<Stored>)>,
}

impl Chain {
    /// Begins with the last record of the partition: the valid one is looked for from its predecessor on, which its writer
    /// had found to be valid. If the last one can't be read, all that are kept are looked through for the last that can.
    pub fn begin(last: Option<&Stored>) -> Chain {
        match last.map(|stored| (stored.sequence, Record::of(stored))) {
            None => Chain::default(),
            Some((_, Some(record))) => Chain::after(record.prev),
            // Nothing follows what no record can name.
            Some((end, None)) => Chain { valid: Sequence::MAX, gathering: Some((end, Vec::new())), ..Chain::default() },
        }
    }

    fn after(valid: Sequence) -> Chain {
        Chain { valid, last: valid, ..Chain::default() }
    }

    /// Takes the next record of the partition; one that was read before changes nothing. `false` if records before it are
    /// gone that were not read: then the chain has to begin anew.
    #[must_use]
    pub fn take(&mut self, stored: &Stored) -> bool {
        if stored.sequence <= self.last {
            return true;
        }
        if let Some((end, mut all)) = self.gathering.take() {
            self.last = stored.sequence;
            all.push(stored.clone());
            if stored.sequence < end {
                self.gathering = Some((end, all));
                return true;
            }
            *self = Chain::after(all.iter().rev().find_map(Record::of).map_or(0, |record| record.prev));
            return all.iter().all(|stored| self.take(stored));
        }
        let record = Record::of(stored);
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
            let mut chain = Chain::begin(Some(last));
            assert!(all.iter().all(|one| chain.take(one)));
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
        assert!(chain.take(&junk(1)) && chain.take(&stored(2, 0, 7)));
        // Nor can one that follows itself, or what comes after it.
        assert!(chain.take(&stored(3, 3, 8)) && chain.take(&stored(4, 9, 8)));
        assert_eq!((chain.valid().0, chain.last()), (2, 4));
        assert_eq!(Record::decode(&Record { format: 9, ..Record::genesis() }.encode()), None);
    }

    fn junk(sequence: Sequence) -> Stored {
        Stored { sequence, stored: 0.0, payload: Bytes::from_static(b"\x01") }
    }

    #[test]
    fn the_valid_record_is_found_though_the_last_one_can_not_be_read() {
        // Those before 70 are gone; 71 was too late.
        let all = [stored(70, 66, 1), stored(71, 66, 2), stored(72, 70, 3), junk(73), stored(75, 75, 4)];
        for end in [3, 4] {
            let mut chain = Chain::begin(Some(&all[end]));
            for record in &all[..end] {
                assert!(chain.take(record));
                assert_eq!((chain.valid(), chain.last()), ((Sequence::MAX, None), record.sequence));
            }
            assert!(all[end..].iter().all(|record| chain.take(record)));
            assert_eq!((chain.valid().0, chain.last()), (72, 75));
        }
        // If none can be read there is none.
        let mut chain = Chain::begin(Some(&junk(73)));
        assert!(chain.take(&junk(73)));
        assert_eq!((chain.valid(), chain.last()), ((0, None), 73));
    }

    #[test]
    fn a_record_that_says_what_can_not_be_is_none() {
        let cuts = |cuts: [(Interval, Sequence); 2]| BTreeMap::from(cuts);
        let base =
            Record { sealed: 102, emitted: 101, base: 100, cuts: cuts([(101, 5), (102, 7)]), ..Record::genesis() };
        let is_read = |record: &Record| Record::decode(&record.encode()).is_some();
        assert!(is_read(&base));
        let amendment = |cut, version| BTreeMap::from([(101, Amendment { version, cut, emitted: 0 })]);
        for unsound in [
            Record { emitted: 99, ..base.clone() },
            Record { emitted: 103, ..base.clone() },
            Record { cuts: cuts([(101, 7), (102, 5)]), ..base.clone() },
            Record { cuts: cuts([(99, 5), (102, 7)]), ..base.clone() },
            Record { cuts: cuts([(101, 5), (103, 7)]), ..base.clone() },
            Record { cuts: cuts([(101, 5), (102, u64::MAX)]), ..base.clone() },
            Record { sealed: 1 << 60, ..base.clone() },
            Record { epoch: u64::MAX, ..base.clone() },
            Record { resume: u64::MAX, ..base.clone() },
            Record { amends: amendment(u64::MAX, 1), ..base.clone() },
            Record { amends: amendment(7, u32::MAX), ..base.clone() },
        ] {
            assert!(!is_read(&unsound), "{unsound:?}");
        }
    }
}
