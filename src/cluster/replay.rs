//! What an owner has read of the log: a function of the record it began with and of the messages since, so that every
//! owner who has read as far has the same.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::batch::BatchHeader;
use super::bus::{Sequence, StoredBatch};
use super::content::BatchId;
use super::record::{BOUND, Record};
use super::roster::{Finding, MOST_LAG_SECS, Roster, Verdict};
use super::{Interval, NodeName, Terms};

/// Messages are kept of so many open intervals; those of later ones are read again when their turn comes.
const MOST_OPEN_INTERVALS: usize = 30;

/// The number of a start is its Unix time in milliseconds, or follows that of the start before. It is not from so many seconds
/// ahead (ten years), whatever the clock of the edge was.
const MOST_BOOT_AHEAD_SECS: f64 = 10.0 * 365.0 * 86_400.0;

/// A batch that came too late for its interval.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LateBatch {
    /// The batch.
    pub id: BatchId,
    /// The interval it is of.
    pub interval: Interval,
}

/// What an interval of a partition lacks, and what else came until it was sealed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Batches of earlier intervals.
    pub late: Vec<LateBatch>,
    /// Edges that have delivered all of the interval.
    pub heard: Vec<NodeName>,
    /// Edges that are in the roster and have not.
    pub missing: Vec<NodeName>,
    /// What was told of batches since the interval before.
    pub findings: Vec<Finding>,
}

/// A message that was read.
#[derive(Clone, Debug)]
struct Read {
    sequence: Sequence,
    times: (f64, f64),
    /// Without the edge's account.
    header: BatchHeader,
}

/// A batch of an open interval.
#[derive(Clone, Debug)]
struct Held {
    id: BatchId,
    more: bool,
    config: u64,
    /// `None` if it was put away.
    message: Option<Bytes>,
}

/// What was read of a partition.
#[derive(Debug)]
pub(super) struct Replay {
    terms: Terms,
    /// The sequence to go on with.
    next: Sequence,
    /// The last message, and when it was stored.
    last: (Sequence, f64),
    /// The edges as they are before `next`.
    roster: Roster,
    /// Messages from the record's `resume` on, to move its roster with it, but for those that were read before.
    read: VecDeque<Read>,
    /// The last message of each edge from there on, whatever it was.
    heard: BTreeMap<NodeName, Sequence>,
    open: BTreeMap<Interval, BTreeMap<Sequence, Held>>,
    findings: Vec<(Sequence, Finding)>,
}

impl Replay {
    pub(super) fn new(record: &Record, terms: Terms) -> Replay {
        Replay {
            terms,
            next: record.resume,
            last: record.mark,
            roster: record.roster.clone(),
            read: VecDeque::new(),
            heard: BTreeMap::new(),
            open: BTreeMap::new(),
            findings: Vec::new(),
        }
    }

    /// The sequence to go on with.
    pub(super) fn next(&self) -> Sequence {
        self.next
    }

    /// The last message, and when it was stored.
    pub(super) fn last(&self) -> (Sequence, f64) {
        self.last
    }

    /// The edges as they are now.
    pub(super) fn roster(&self) -> &Roster {
        &self.roster
    }

    /// Takes the next message. Whether it is of an interval whose deadline was over when it was stored, though the clock of
    /// its edge is right.
    pub(super) fn take(&mut self, message: &StoredBatch) -> bool {
        if message.sequence < self.next {
            return false;
        }
        (self.next, self.last) = (message.sequence + 1, (message.sequence, message.stored));
        let Some(header) = read_header(message) else {
            self.findings.push((message.sequence, Finding::Unreadable { sequence: message.sequence }));
            return false;
        };
        let (sequence, times) = (message.sequence, (message.stored, message.sent));
        let findings = &mut self.findings;
        let verdict =
            self.roster.take(&header, times, self.terms.interval_secs, |finding| findings.push((sequence, finding)));
        let lag = self.roster.get(&header.edge).map_or(0.0, |member| member.lag);
        let deadline = self.terms.end(header.interval) + self.terms.lateness_secs;
        if verdict == Verdict::Taken {
            let is_near = self.open.keys().nth(MOST_OPEN_INTERVALS - 1).is_none_or(|last| header.interval <= *last);
            let message = is_near.then(|| message.payload.clone());
            let held = Held { id: id_of(&header), more: header.flags.more, config: header.config, message };
            self.open.entry(header.interval).or_default().insert(sequence, held);
        }
        self.heard.insert(header.edge.clone(), sequence);
        if verdict != Verdict::Seen {
            self.read.push_back(Read { sequence, times, header });
        }
        deadline < message.stored && lag <= MOST_LAG_SECS
    }

    /// There is nothing before a sequence any more.
    pub(super) fn skip_to(&mut self, first: Sequence) {
        self.next = self.next.max(first);
    }

    /// The first interval of which something was read.
    pub(super) fn first_open(&self) -> Option<Interval> {
        self.first_open_from(0)
    }

    /// The first interval from `oldest` on of which something was read.
    pub(super) fn first_open_from(&self, oldest: Interval) -> Option<Interval> {
        self.open.range(oldest..).next().map(|(interval, _)| *interval)
    }

    /// Whether something was read of an interval after `cut`.
    pub(super) fn has_more(&self, interval: Interval, cut: Sequence) -> bool {
        self.open.get(&interval).is_some_and(|batches| batches.range(cut + 1..).next().is_some())
    }

    /// Batches of an interval up to `cut`, in the order in which they are merged.
    fn batches(&self, interval: Interval, cut: Sequence) -> Vec<(Sequence, &Held)> {
        let all = self.open.get(&interval).into_iter().flat_map(|batches| batches.range(..=cut));
        let mut all: Vec<_> = all.map(|(sequence, held)| (*sequence, held)).collect();
        all.sort_by(|(_, a), (_, b)| a.id.cmp(&b.id));
        all
    }

    /// Which batches those are.
    pub(super) fn ids(&self, interval: Interval, cut: Sequence) -> Vec<BatchId> {
        self.batches(interval, cut).into_iter().map(|(_, held)| held.id.clone()).collect()
    }

    /// Their messages.
    pub(super) fn bodies(&self, interval: Interval, cut: Sequence) -> impl Iterator<Item = &[u8]> {
        self.batches(interval, cut)
            .into_iter()
            .filter_map(|(_, held)| held.message.as_deref())
            .filter(|message| !message.is_empty())
    }

    /// Those of them whose messages were put away.
    pub(super) fn put_away(&self, interval: Interval, cut: Sequence) -> impl Iterator<Item = Sequence> {
        let all = self.batches(interval, cut).into_iter();
        all.filter(|(_, held)| held.message.is_none()).map(|(sequence, _)| sequence)
    }

    /// Takes messages that were read again. Of those that were asked for and are gone nothing is left to merge.
    pub(super) fn take_bodies(&mut self, asked: &[Sequence], batches: &[StoredBatch]) {
        let all = self.open.values_mut().flatten();
        let mut wanted: BTreeMap<Sequence, &mut Held> =
            all.filter(|(sequence, _)| asked.contains(sequence)).map(|(sequence, held)| (*sequence, held)).collect();
        for held in wanted.values_mut() {
            held.message = Some(Bytes::new());
        }
        for batch in batches {
            if let Some(held) = wanted.get_mut(&batch.sequence) {
                held.message = Some(batch.payload.clone());
            }
        }
    }

    /// The account of an interval that was sealed at `cut`, with what came after `before`.
    pub(super) fn account(&self, record: &Record, interval: Interval, before: Sequence, cut: Sequence) -> Account {
        let earlier = self.open.range(..interval);
        let mut late: Vec<LateBatch> = earlier
            .flat_map(|(&interval, batches)| {
                let sealed_at = record.cuts.get(&interval).copied().unwrap_or(0);
                let late = batches.range((Bound::Excluded(before.max(sealed_at)), Bound::Included(cut)));
                late.map(move |(_, held)| LateBatch { id: held.id.clone(), interval })
            })
            .collect();
        late.sort();
        let here = self.open.get(&interval).into_iter().flat_map(|batches| batches.range(..=cut));
        let heard: BTreeSet<&NodeName> = here.filter(|(_, held)| !held.more).map(|(_, held)| &held.id.edge).collect();
        let roster = self.roster_before(record, cut + 1);
        let (delivered, missing): (Vec<_>, Vec<_>) =
            roster.expected(interval, &self.terms).partition(|(edge, _)| heard.contains(edge));
        let missing = missing.into_iter().map(|(edge, _)| edge.clone()).collect();
        let since = self.findings.iter().filter(|(sequence, _)| (before + 1..=cut).contains(sequence));
        let mut findings: Vec<Finding> = since.map(|(_, finding)| finding.clone()).collect();
        let half_told = delivered.into_iter().filter(|(_, member)| member.half_told() == Some(interval));
        findings.extend(half_told.map(|(edge, _)| Finding::Partial { edge: edge.clone(), interval }));
        let last_configs: BTreeMap<&NodeName, u64> =
            self.batches(interval, cut).into_iter().map(|(_, held)| (&held.id.edge, held.config)).collect();
        let others = last_configs.into_iter().filter(|(_, config)| *config != self.terms.config);
        findings.extend(others.map(|(edge, config)| Finding::OtherConfig { edge: edge.clone(), config }));
        findings.sort();
        findings.dedup();
        Account { late, heard: heard.into_iter().cloned().collect(), missing, findings }
    }

    /// The edges as they are before a sequence; the record is the one that the replay began with, or was given last.
    pub(super) fn roster_before(&self, record: &Record, end: Sequence) -> Roster {
        let mut roster = record.roster.clone();
        for read in self.read.iter().take_while(|read| read.sequence < end) {
            roster.take(&read.header, read.times, self.terms.interval_secs, |_| ());
        }
        roster
    }

    /// Whether anything of an edge was read from a sequence on.
    pub(super) fn has_read_of(&self, edge: &NodeName, from: Sequence) -> bool {
        self.heard.get(edge).is_some_and(|sequence| *sequence >= from)
    }

    /// From where on the log has to be read by somebody who needs nothing of intervals up to `base`, which was sealed at
    /// `cut`.
    pub(super) fn resume_after(&self, base: Interval, cut: Sequence) -> Sequence {
        let first = self.open.range(base + 1..).filter_map(|(_, batches)| batches.keys().next()).min();
        first.copied().unwrap_or(cut + 1).min(cut + 1)
    }

    /// Forgets what nobody needs who begins with this record.
    pub(super) fn begin_at(&mut self, record: &Record) {
        while self.read.front().is_some_and(|read| read.sequence < record.resume) {
            self.read.pop_front();
        }
        self.heard.retain(|_, sequence| *sequence >= record.resume);
        self.findings.retain(|(sequence, _)| *sequence >= record.resume);
        if self.roster.forgotten() < record.roster.forgotten() {
            self.forget(record);
        }
        self.open.retain(|interval, batches| {
            if *interval <= record.base {
                batches.retain(|sequence, _| *sequence >= record.resume);
            }
            !batches.is_empty()
        });
    }

    /// Goes on with a roster that lacks edges, as somebody does who begins with the record.
    fn forget(&mut self, record: &Record) {
        self.roster = record.roster.clone();
        self.findings.clear();
        for Read { sequence, times, header } in &self.read {
            let findings = &mut self.findings;
            let report = |finding| findings.push((*sequence, finding));
            self.roster.take(header, *times, self.terms.interval_secs, report);
        }
    }
}

/// The header of a message without the edge's account; `None` if this version can't read it, or nobody sends such numbers.
fn read_header(message: &StoredBatch) -> Option<BatchHeader> {
    let (mut header, _) = BatchHeader::decode(&message.payload).ok()?;
    header.account = None;
    let is_bounded = [header.n, header.interval].iter().all(|number| (1..BOUND).contains(number));
    let newest = (message.stored + MOST_BOOT_AHEAD_SECS) * 1e3;
    (is_bounded && header.boot as f64 <= newest).then_some(header)
}

/// Which batch it is.
fn id_of(header: &BatchHeader) -> BatchId {
    BatchId { edge: header.edge.clone(), boot: header.boot, n: header.n }
}

#[cfg(test)]
mod tests {
    use super::super::batch::Flags;
    use super::super::testing::{INTERVAL, batch, header, terms};
    use super::*;

    fn read(headers: &[BatchHeader]) -> (Record, Replay) {
        let record = Record::genesis();
        let mut replay = Replay::new(&record, terms());
        for (sequence, header) in (1..).zip(headers) {
            replay.take(&batch(sequence, header, (header.interval + 1) as f64 * INTERVAL));
        }
        (record, replay)
    }

    fn edge(name: &str) -> NodeName {
        name.parse().expect("a name")
    }

    #[test]
    fn edges_with_other_settings_are_named_once_an_interval_and_merged() {
        let with = |config, header| BatchHeader { config, ..header };
        let more = Flags { more: true, ..Flags::default() };
        let (record, replay) = read(&[
            header("a", 1, 100),
            with(9, BatchHeader { flags: more, ..header("b", 1, 100) }),
            with(9, header("b", 2, 100)),
            with(9, header("b", 3, 101)),
        ]);
        let other = |config| Account {
            findings: vec![Finding::OtherConfig { edge: edge("b"), config }],
            heard: vec![edge("a"), edge("b")],
            ..Account::default()
        };
        assert_eq!(replay.account(&record, 100, 0, 3), other(9));
        assert_eq!(replay.bodies(100, 3).count(), 3);
        let account = replay.account(&record, 101, 3, 4);
        assert_eq!((account.findings, account.missing), (other(9).findings, vec![edge("a")]));
    }

    #[test]
    fn messages_that_can_not_be_read_and_numbers_that_nobody_sends_are_told() {
        let (record, mut replay) = read(&[
            header("a", BOUND, 100),
            BatchHeader { boot: BOUND - 1, ..header("a", 1, 100) },
            header("a", 1, BOUND),
            header("a", 0, 100),
        ]);
        replay.take(&StoredBatch { payload: Bytes::from_static(b"junk"), ..batch(5, &header("a", 1, 100), 0.0) });
        assert_eq!((replay.read.len(), replay.next()), (0, 6));
        assert!(replay.roster().is_empty());
        let findings = |sequences: std::ops::RangeInclusive<Sequence>| -> Vec<Finding> {
            sequences.map(|sequence| Finding::Unreadable { sequence }).collect()
        };
        assert_eq!(replay.account(&record, 100, 0, 5).findings, findings(1..=5));
        assert_eq!(replay.account(&record, 101, 3, 4).findings, findings(4..=4));
    }

    #[test]
    fn messages_that_were_read_before_take_no_memory_and_are_of_an_edge_that_is_there() {
        let (mut record, mut replay) = read(&[header("a", 1, 100), header("b", 1, 100), header("a", 1, 100)]);
        assert_eq!((replay.read.len(), replay.first_open()), (2, Some(100)));
        assert!(replay.has_read_of(&edge("a"), 3) && !replay.has_read_of(&edge("b"), 3));
        record.resume = 4;
        replay.begin_at(&record);
        assert!(replay.heard.is_empty() && !replay.has_read_of(&edge("a"), 3));
    }

    #[test]
    fn who_was_forgotten_is_so_for_its_owner_as_for_the_next_one() {
        let (mut record, mut replay) = read(&[header("a", 1, 100), header("b", 1, 100), header("a", 2, 120)]);
        record.resume = 3;
        record.roster = replay.roster_before(&Record::genesis(), 3);
        record.roster.forget(110, &Terms { forget_secs: 50.0, ..terms() }, |name| replay.has_read_of(name, 3));
        assert!(record.roster.get(&edge("b")).is_none() && record.roster.get(&edge("a")).is_some());
        // Before the record holds the next batch comes.
        let next = batch(4, &header("b", 5, 121), 122.0 * INTERVAL);
        replay.take(&next);
        replay.begin_at(&record);
        let mut other = Replay::new(&record, terms());
        other.take(&batch(3, &header("a", 2, 120), 121.0 * INTERVAL));
        other.take(&next);
        assert_eq!((replay.roster(), &replay.findings), (other.roster(), &other.findings));
        assert_eq!(replay.findings, [(4, Finding::Unknown { edge: edge("b"), n: 5 })]);
    }

    #[test]
    fn an_edge_that_left_and_came_back_and_has_not_delivered_since_is_partial() {
        let last = BatchHeader { flags: Flags { last: true, ..Flags::default() }, ..header("e", 1, 100) };
        let flags = Flags { hello: true, ..Flags::default() };
        let hello = BatchHeader { boot: 2, flags, ..header("e", 2, 100) };
        let (record, replay) = read(&[last, hello, BatchHeader { boot: 2, ..header("e", 3, 100) }]);
        let partial = Finding::Partial { edge: "e".parse().expect("a name"), interval: 100 };
        let account = |cut| replay.account(&record, 100, 0, cut);
        let heard = |findings| Account { findings, heard: vec![edge("e")], ..Account::default() };
        assert_eq!(account(1), heard(vec![]));
        assert_eq!(account(2), heard(vec![partial]));
        assert_eq!(account(3), heard(vec![]));
    }

    #[test]
    fn a_reader_begins_with_the_first_batch_of_an_open_interval() {
        // One of 102 has come before the cut of 101.
        let (_, replay) = read(&[header("a", 1, 100), header("b", 1, 102), header("a", 2, 101), header("a", 3, 103)]);
        assert_eq!(
            [(99, 0), (100, 1), (101, 3), (102, 3)].map(|(base, cut)| replay.resume_after(base, cut)),
            [1, 2, 2, 4]
        );
        assert_eq!(replay.resume_after(103, 4), 5);
    }

    #[test]
    fn messages_of_intervals_far_ahead_are_put_away_and_read_again() {
        let headers: Vec<BatchHeader> = (1..=MOST_OPEN_INTERVALS as u64 + 2).map(|n| header("a", n, 99 + n)).collect();
        let (_, mut replay) = read(&headers);
        let last = 99 + headers.len() as u64;
        let away = |replay: &Replay| replay.put_away(last, 99).collect::<Vec<_>>();
        assert_eq!((away(&replay), replay.put_away(100, 99).count()), (vec![headers.len() as u64], 0));
        assert_eq!((replay.bodies(last, 99).count(), replay.ids(last, 99).len()), (0, 1));
        let again = batch(headers.len() as u64, &headers[headers.len() - 1], 0.0);
        replay.take_bodies(&away(&replay), &[again]);
        assert_eq!((away(&replay), replay.bodies(last, 99).count()), (vec![], 1));
        // One that is gone is waited for no longer.
        let before = replay.put_away(last - 1, 99).collect::<Vec<_>>();
        replay.take_bodies(&before, &[]);
        assert_eq!((replay.put_away(last - 1, 99).count(), replay.bodies(last - 1, 99).count()), (0, 0));
    }
}
