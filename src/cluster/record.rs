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

use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::bus::{Sequence, Stored};
use super::roster::Roster;
use super::{Interval, SessionId};

/// The format of records that is written.
pub(super) const FORMAT: u8 = 1;

/// Every lower number can be counted on, also as a float.
pub(super) const BOUND: u64 = 1 << 53;

/// Clocks of servers of the bus differ by less than this, in seconds.
const MOST_AHEAD_SECS: f64 = 3600.0;

/// Valid records that are remembered: as many as the stream keeps of a partition.
const MOST_KNOWN: usize = 64;

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
    /// The token of that record: in a stream that was made anew another one has its sequence.
    pub follows: u64,
    /// A random number, by which the writer knows it again.
    pub token: u64,
    /// Grows with each claim.
    pub epoch: u64,
    /// Who owns the partition.
    pub owner: Option<SessionId>,
    /// The length of an interval, in seconds; 0 before the first claim.
    pub interval_secs: f64,
    /// The last sealed interval, 0 for none.
    pub sealed: Interval,
    /// Up to where the log belongs to a sealed interval: from `base` on, where it is known. Those between that have none were
    /// skipped.
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
            follows: 0,
            token: 0,
            epoch: 0,
            owner: None,
            interval_secs: 0.0,
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

    /// A stored record; `None` if it is none, names a predecessor that does not precede it, or says that an interval is sealed
    /// which had yet to come.
    fn of(stored: &Stored) -> Option<Record> {
        let may_be = |record: &Record| {
            let sealed_at = record.sealed as f64 * record.interval_secs;
            record.prev < stored.sequence && sealed_at <= stored.stored + MOST_AHEAD_SECS
        };
        Record::decode(&stored.payload).filter(may_be)
    }

    /// Whether its numbers are such as an owner writes.
    fn is_sound(&self) -> bool {
        let Record { base, emitted, sealed, epoch, resume, .. } = *self;
        let sequences = || self.cuts.values().chain(self.amends.values().map(|one| &one.cut));
        let last = sequences().chain([&sealed, &epoch, &resume, &self.mark.0]).max();
        let is_amended = |(interval, one): (&Interval, &Amendment)| {
            (base + 1..=sealed).contains(interval) && one.emitted <= one.version && one.version < u32::MAX
        };
        let has_length = self.interval_secs.is_finite() && self.interval_secs > 0.0;
        (has_length || sealed == 0)
            && base <= emitted
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
        self.cuts.range(..interval).next_back().map_or(0, |(_, cut)| *cut)
    }

    /// How many sealed intervals wait for the sinks, if this is the last one that they took.
    pub(super) fn unemitted(&self, emitted: Interval) -> u64 {
        self.cuts.range(emitted + 1..).count() as u64
    }
}

/// The valid record of a partition, found by reading its records in order.
#[derive(Clone, Debug)]
pub struct Chain {
    /// The sequence of the valid record, and the record if it was read.
    valid: Sequence,
    record: Option<Record>,
    /// The sequences of the last valid records with their tokens, that of now at the end.
    known: VecDeque<(Sequence, u64)>,
    /// Up to here records may be of those that are not valid and do not know it yet.
    settled: Sequence,
    /// The last sequence that was read, and when it was stored if it was read here.
    last: Sequence,
    stored: Option<f64>,
    /// Up to where records are gathered before the chain can begin, and those that were.
    gathering: Option<(Sequence, Vec<Stored>)>,
}

impl Default for Chain {
    fn default() -> Chain {
        Chain::after(0, 0)
    }
}

impl Chain {
    /// Begins with the last record of the partition: the valid one is looked for from its predecessor on, which its writer
    /// had found to be valid. If the last one can't be read, all that are kept are looked through for the last that can.
    pub fn begin(last: Option<&Stored>) -> Chain {
        match last.map(|stored| (stored, Record::of(stored))) {
            None => Chain::default(),
            Some((_, Some(record))) => Chain::after(record.prev, record.follows),
            Some((_, None)) => Chain::begin_with_all(last),
        }
    }

    /// Begins with all records that are kept: the valid one is looked for from the first of the stream on, if that is among
    /// them. So all find the same, whatever they had read of a stream before.
    pub fn begin_with_all(last: Option<&Stored>) -> Chain {
        let Some(Stored { sequence: end, .. }) = last else { return Chain::default() };
        // Nothing follows what no record can name.
        Chain { valid: Sequence::MAX, gathering: Some((*end, Vec::new())), ..Chain::default() }
    }

    fn after(valid: Sequence, token: u64) -> Chain {
        Chain {
            valid,
            record: None,
            known: [(valid, token)].into(),
            settled: 0,
            last: valid,
            stored: None,
            gathering: None,
        }
    }

    /// The chain of all records that are kept, up to the end of the gathered ones.
    fn of_all(all: &[Stored]) -> Chain {
        let tokens: BTreeMap<Sequence, u64> =
            all.iter().filter_map(|stored| Some((stored.sequence, Record::of(stored)?.token))).collect();
        let is_mistaken = |record: &Record| tokens.get(&record.prev).is_some_and(|token| *token != record.follows);
        let mut records = all.iter().rev().filter_map(Record::of).filter(|record| !is_mistaken(record));
        let last = records.next();
        let has_first = records.chain(last.clone()).any(|record| record.prev == 0);
        let mut chain = match last {
            Some(last) if !has_first => Chain::after(last.prev, last.follows),
            Some(_) | None => Chain::default(),
        };
        chain.settled = all.last().map_or(0, |stored| stored.sequence);
        for stored in all {
            let is_taken = chain.take(stored);
            debug_assert!(is_taken, "what is settled is");
        }
        chain
    }

    /// Whether nobody who has read what we have can have written a record that follows this one: it was not valid, or is not
    /// there.
    fn is_unknown(&self, record: &Record) -> bool {
        let place = self.known.binary_search_by_key(&record.prev, |(sequence, _)| *sequence);
        match place {
            Ok(place) => self.known[place].1 != record.follows,
            Err(place) => place > 0,
        }
    }

    /// Whether the partition's records may end with this one. If not they are not those that were read here: the stream has
    /// lost its end, or was made anew; or a server that lags has answered.
    pub fn may_end_with(&self, last: Option<&Stored>) -> bool {
        let Some(last) = last else { return self.last == 0 && self.gathering.is_none() };
        if let Some((end, _)) = self.gathering {
            return last.sequence >= end;
        }
        match last.sequence.cmp(&self.last) {
            Ordering::Less => false,
            Ordering::Equal => self.stored.is_none_or(|stored| stored == last.stored),
            Ordering::Greater => {
                Record::of(last).is_none_or(|record| record.prev > self.last || !self.is_unknown(&record))
            }
        }
    }

    /// Whether this can be the last record that was read, or that another one named as its predecessor.
    fn is_last(&self, stored: &Stored) -> bool {
        match self.stored {
            Some(at) => at == stored.stored,
            None => Record::of(stored).is_none_or(|record| record.token == self.tip().1),
        }
    }

    /// Takes the next record of the partition; one that was read before changes nothing. `false` if it follows one that was
    /// not read, or was not valid here, or is another one than was read: records are gone, or the stream is another one. Then
    /// the chain has to begin anew.
    #[must_use]
    pub fn take(&mut self, stored: &Stored) -> bool {
        if stored.sequence <= self.last {
            return stored.sequence < self.last || self.is_last(stored);
        }
        if let Some((end, mut all)) = self.gathering.take() {
            (self.last, self.stored) = (stored.sequence, Some(stored.stored));
            all.push(stored.clone());
            if stored.sequence < end {
                self.gathering = Some((end, all));
                return true;
            }
            *self = Chain::of_all(&all);
            return true;
        }
        let record = Record::of(stored);
        if stored.sequence > self.settled && record.as_ref().is_some_and(|record| self.is_unknown(record)) {
            return false;
        }
        (self.last, self.stored) = (stored.sequence, Some(stored.stored));
        if let Some(record) = record.filter(|record| record.prev == self.valid && !self.is_unknown(record)) {
            self.known.push_back((stored.sequence, record.token));
            (self.valid, self.record) = (stored.sequence, Some(record));
            if self.known.len() > MOST_KNOWN {
                self.known.pop_front();
            }
        }
        true
    }

    /// What names the valid record: its sequence and its token.
    pub fn tip(&self) -> (Sequence, u64) {
        self.known.back().copied().unwrap_or_default()
    }

    /// The valid record with its sequence. Before the first one it is sequence 0.
    pub fn valid(&self) -> (Sequence, Option<&Record>) {
        (self.valid, self.record.as_ref())
    }

    /// Up to where the records were read.
    pub fn last(&self) -> Sequence {
        self.last
    }

    /// After which sequence records are to be read. The last one is read `again` to see whether it is still the same: a record
    /// that follows it is taken by any stream that is as long. So is one that was only named by its successor.
    pub fn read_after(&self, again: bool) -> Sequence {
        self.last.saturating_sub(u64::from(again || self.stored.is_none()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record whose token is a hundred times its sequence.
    fn stored(sequence: Sequence, prev: Sequence) -> Stored {
        let record = Record { prev, follows: 100 * prev, token: 100 * sequence, ..Record::genesis() };
        Stored { sequence, stored: 0.0, payload: record.encode() }
    }

    #[test]
    fn of_records_with_one_predecessor_the_first_is_valid() {
        let all = [stored(1, 0), stored(4, 1), stored(5, 1), stored(6, 4), stored(9, 6)];
        let mut chain = Chain::begin(None);
        for (record, expected) in all.iter().zip([1, 4, 4, 6, 9]) {
            assert!(chain.take(record));
            assert_eq!(chain.valid().0, expected);
        }
        assert_eq!(chain.valid().1.expect("it was read").token, 900);
    }

    #[test]
    fn the_valid_record_is_found_from_any_last_one() {
        // The last one names a predecessor that has been followed already.
        let all = [stored(4, 1), stored(6, 4), stored(9, 6), stored(12, 4)];
        for last in &all {
            let mut chain = Chain::begin(Some(last));
            assert!(all.iter().all(|one| chain.take(one)));
            assert_eq!(chain.valid().0, 9);
        }
    }

    #[test]
    fn what_was_read_before_changes_nothing_and_records_that_are_gone_are_noticed() {
        let mut chain = Chain::begin(None);
        assert!([stored(1, 0), stored(4, 1), stored(1, 0)].iter().all(|one| chain.take(one)));
        assert_eq!((chain.valid().0, chain.last()), (4, 4));
        assert!(!chain.take(&stored(9, 6)));
        assert_eq!((chain.valid().0, chain.last()), (4, 4));
    }

    #[test]
    fn a_stream_that_was_made_anew_is_noticed_however_far_it_is() {
        let read = |all: &[Stored]| {
            let mut chain = Chain::begin(None);
            assert!(all.iter().all(|one| chain.take(one)));
            chain
        };
        let old = [stored(3, 0), stored(8, 3), stored(12, 8)];
        let chain = read(&old);
        let other = Stored { stored: 1.0, ..stored(12, 5) };
        for (last, may) in [
            (None, false),
            (Some(stored(2, 0)), false),
            (Some(stored(12, 8)), true),
            (Some(other), false),
            (Some(stored(14, 5)), false),
            (Some(stored(14, 8)), true),
            (Some(stored(14, 12)), true),
            (Some(stored(17, 14)), true),
        ] {
            assert_eq!(chain.may_end_with(last.as_ref()), may, "{last:?}");
        }
        assert!(Chain::begin(None).may_end_with(None));
        // Two nodes go on with different chains in one stream: each notices the other's.
        assert!(!read(&old).take(&stored(14, 5)));
        assert!(!read(&[stored(2, 0), stored(5, 2), stored(14, 5)]).take(&stored(15, 12)));
        // One that was late is not the first that follows a valid one, and nothing is wrong.
        assert!(read(&old).take(&stored(14, 3)));
        // The other's may have the same sequence.
        let same = Record { prev: 8, follows: 7, ..Record::genesis() };
        let same = Stored { payload: same.encode(), ..stored(14, 8) };
        assert!(!read(&old).take(&same) && !read(&old).may_end_with(Some(&same)));
        // Whoever reads all that is kept finds the chain from the first one on, and goes on with it.
        let all = [old[0].clone(), old[1].clone(), stored(9, 7), same, stored(15, 9), stored(17, 8)];
        let mut chain = Chain::begin_with_all(all.last());
        assert!(all.iter().all(|one| chain.take(one)) && chain.take(&stored(18, 17)));
        assert_eq!((chain.valid().0, chain.last()), (18, 18));
    }

    #[test]
    fn a_record_that_follows_one_of_another_stream_is_noticed() {
        // Written by a node that knew a 12 of another stream.
        let same = Record { prev: 12, follows: 7, ..Record::genesis() };
        let all = [stored(8, 3), stored(12, 8), Stored { payload: same.encode(), ..stored(14, 12) }];
        let mut chain = Chain::begin(all.last());
        assert_eq!(chain.read_after(false), 11);
        assert!(!chain.take(&all[1]));
        let mut chain = Chain::begin_with_all(all.last());
        assert!(all.iter().all(|one| chain.take(one)));
        assert_eq!((chain.valid().0, chain.last(), chain.read_after(false), chain.read_after(true)), (12, 14, 14, 13));
        // So is its predecessor by that node.
        let mut chain = Chain::begin(None);
        assert!(chain.take(&stored(3, 0)) && chain.take(&stored(8, 3)) && chain.take(&stored(8, 3)));
        assert!(!chain.take(&Stored { stored: 1.0, ..stored(8, 0) }));
    }

    #[test]
    fn a_record_that_can_not_be_read_is_skipped() {
        let mut chain = Chain::begin(None);
        assert!(chain.take(&junk(1)) && chain.take(&stored(2, 0)));
        // Nor can one that follows itself, or what comes after it.
        assert!(chain.take(&stored(3, 3)) && chain.take(&stored(4, 9)));
        assert_eq!((chain.valid().0, chain.last()), (2, 4));
        assert_eq!(Record::decode(&Record { format: 9, ..Record::genesis() }.encode()), None);
    }

    #[test]
    fn a_record_that_seals_what_is_yet_to_come_is_none() {
        let sealing = |sequence, prev, sealed| {
            let record = Record {
                prev,
                follows: 7 * prev.min(1),
                token: 7,
                interval_secs: 10.0,
                sealed,
                emitted: sealed,
                base: sealed,
                ..Record::genesis()
            };
            Stored { sequence, stored: 1000.0, payload: record.encode() }
        };
        let mut chain = Chain::begin(None);
        assert!(chain.take(&sealing(1, 0, 99)) && chain.take(&sealing(2, 1, 1_600_000_000)));
        assert!(chain.take(&sealing(3, 1, 100)));
        assert_eq!(chain.valid().0, 3);
    }

    fn junk(sequence: Sequence) -> Stored {
        Stored { sequence, stored: 0.0, payload: Bytes::from_static(b"\x01") }
    }

    #[test]
    fn the_valid_record_is_found_though_the_last_one_can_not_be_read() {
        // Those before 70 are gone; 71 was too late.
        let all = [stored(70, 66), stored(71, 66), stored(72, 70), junk(73), stored(75, 75)];
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
        let base = Record {
            interval_secs: 10.0,
            sealed: 102,
            emitted: 101,
            base: 100,
            cuts: cuts([(101, 5), (102, 7)]),
            ..Record::genesis()
        };
        let is_read = |record: &Record| Record::decode(&record.encode()).is_some();
        assert!(is_read(&base));
        let amendment = |cut, version| BTreeMap::from([(101, Amendment { version, cut, emitted: 0 })]);
        for unsound in [
            Record { interval_secs: 0.0, ..base.clone() },
            Record { interval_secs: f64::NAN, ..base.clone() },
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
