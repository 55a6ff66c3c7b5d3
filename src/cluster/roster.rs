//! Which edges there are, by the log alone: whoever has read the same messages has the same roster. Nobody is in it by
//! being connected, or by a clock of ours.
//!
//! Batches of an edge are numbered per partition over all its starts, so the same batch stored twice is seen, and one that
//! never came is counted by the jump.
//!
//! An edge that was not heard for [`Terms::forget_secs`](super::Terms::forget_secs) before the end of an interval is not
//! expected in it, and when such an interval becomes the base of the record, the edge is forgotten, or records would grow
//! for ever. By then nothing of it is open, so all intervals to come say the same with it and without it. If it comes back
//! nobody knows whether what it sent before ever came: that is told, but not as a loss.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::batch::BatchHeader;
use super::bus::Sequence;
use super::record::BOUND;
use super::{Interval, NodeName, Terms};

/// A batch of an interval that begins more than so many seconds after it was stored is refused: its edge's clock is wrong.
pub(super) const MOST_SKEW_SECS: f64 = 5.0;

/// An edge whose clock is behind by more than this is not waited for; a second of it may be the way to the bus.
pub(super) const MOST_LAG_SECS: f64 = MOST_SKEW_SECS + 1.0;

/// The clock of an edge may have become slower by so much from one batch to the next.
const LAG_STEP_SECS: f64 = 0.5;

/// The lag of an edge that has sent nothing.
const UNKNOWN_LAG_SECS: f64 = 99.0;

/// What is known of an edge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// Its last start.
    pub boot: u64,
    /// The number of its last batch.
    pub n: u64,
    /// The last interval of which all its batches have come.
    pub last: Interval,
    /// The first interval it is asked for.
    pub first: Interval,
    /// It said goodbye.
    pub left: bool,
    /// Between its last goodbye and its next start: from this interval on, and up to before that one.
    pub away: (Interval, Interval),
    /// When its last batch was stored, by the clock of the bus.
    pub heard: f64,
    /// By how much its clock is behind that of the bus, at most, in seconds.
    pub lag: f64,
}

impl Member {
    /// Whether it had not been heard for so long at the end of an interval that it is forgotten.
    fn is_over(&self, interval: Interval, terms: &Terms) -> bool {
        terms.end(interval) - self.heard > terms.forget_secs
    }

    /// The interval within which it said goodbye and came back, if what it heard since has not come.
    pub(super) fn half_told(&self) -> Option<Interval> {
        let (from, to) = self.away;
        (!self.left && from > to && self.last < to).then_some(to)
    }
}

/// What is told of a batch when it is read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Finding {
    /// Batches `from` to `to` of an edge never came.
    Lost {
        /// The edge.
        edge: NodeName,
        /// The first one.
        from: u64,
        /// The last one.
        to: u64,
    },
    /// A batch was refused, because the clock of its edge is ahead.
    Skewed {
        /// The edge.
        edge: NodeName,
        /// Its start.
        boot: u64,
        /// The number of the batch.
        n: u64,
        /// The interval.
        interval: Interval,
    },
    /// A batch of an earlier start of an edge than was heard last, but with a later number: two nodes have one name, or the
    /// edge has no state and its clock was set back. It is not merged. If the edge lost its state, it may be the last one
    /// of before, stored again.
    Ignored {
        /// The edge.
        edge: NodeName,
        /// The start.
        boot: u64,
        /// The number of the batch.
        n: u64,
    },
    /// A message whose header this version can't read, or of numbers that nobody sends. Nobody knows whose it is.
    Unreadable {
        /// Where it is in the log.
        sequence: Sequence,
    },
    /// An edge that is not known goes on with number `n`. Edges have been forgotten, and whether it is one of them or what it
    /// sent before was lost is not known.
    Unknown {
        /// The edge.
        edge: NodeName,
        /// The number of its first batch that is known.
        n: u64,
    },
    /// The edge's settings that shape what it sends are others than those of the node that tells. Its batches are merged.
    OtherConfig {
        /// The edge.
        edge: NodeName,
        /// The hash of its settings.
        config: u64,
    },
    /// A part of the interval is missing, as the edge crashed: its batch begins at the start after that; or the edge had
    /// said goodbye and come back within it, and only what it heard before has come.
    Partial {
        /// The edge.
        edge: NodeName,
        /// The interval.
        interval: Interval,
    },
    /// An edge was started again and had not said goodbye.
    Restart {
        /// The edge.
        edge: NodeName,
        /// The interval in which it was started.
        interval: Interval,
    },
}

/// What becomes of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It was read before.
    Seen,
    /// It is of an earlier start than was heard.
    Ignored,
    /// It tells of its edge only.
    Counted,
    /// It belongs to its interval.
    Taken,
}

/// The edges of a partition.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Roster {
    members: BTreeMap<NodeName, Member>,
    /// How many were forgotten.
    forgotten: u64,
}

impl Roster {
    /// Takes the header of the next message.
    pub(super) fn take(
        &mut self,
        header: &BatchHeader,
        (stored, sent): (f64, f64),
        interval_secs: f64,
        mut report: impl FnMut(Finding),
    ) -> Verdict {
        let edge = || header.edge.clone();
        let interval = header.interval;
        let known = self.members.get(&header.edge);
        let is_seen = |member: &Member| (header.boot, header.n) <= (member.boot, member.n);
        if let Some(member) = known.filter(|member| is_seen(member)) {
            if header.n <= member.n {
                return Verdict::Seen;
            }
            report(Finding::Ignored { edge: edge(), boot: header.boot, n: header.n });
            return Verdict::Ignored;
        }
        let mut member = known.cloned().unwrap_or(Member {
            boot: 0,
            n: 0,
            last: interval - 1,
            first: interval,
            left: false,
            away: (0, 0),
            heard: stored,
            lag: UNKNOWN_LAG_SECS,
        });
        if known.is_none() && header.n > 1 && self.forgotten > 0 {
            report(Finding::Unknown { edge: edge(), n: header.n });
        } else if header.n > member.n + 1 {
            report(Finding::Lost { edge: edge(), from: member.n + 1, to: header.n - 1 });
        }
        let is_new_boot = header.boot > member.boot;
        if is_new_boot && !header.clean_before {
            report(Finding::Restart { edge: edge(), interval });
            if let Some(interval) = member.half_told() {
                report(Finding::Partial { edge: edge(), interval });
            }
        }
        member.lag = (member.lag + LAG_STEP_SECS).min(stored - sent);
        (member.boot, member.n, member.heard) = (header.boot, header.n, stored);
        if interval as f64 * interval_secs > stored + MOST_SKEW_SECS {
            report(Finding::Skewed { edge: edge(), boot: header.boot, n: header.n, interval });
            self.members.insert(edge(), member);
            return Verdict::Counted;
        }
        if interval < member.first {
            // Its clock was ahead and was put right.
            (member.last, member.first) = (interval - 1, interval);
        }
        if is_new_boot && member.left {
            // It was away on purpose. If that was within one interval, more of it is to come.
            member.away = (member.last + 1, interval);
            member.last = interval - 1;
        }
        if header.flags.first && header.clean_before && !header.flags.hello {
            // It said hello before it listened.
            let back = member.away.1;
            if member.last < member.first {
                (member.last, member.first) = (interval - 1, interval);
            } else if back > 0 && member.last + 1 == back {
                (member.last, member.away.1) = (interval - 1, interval);
            }
        }
        member.left = header.flags.last;
        if header.flags.first && !header.clean_before {
            report(Finding::Partial { edge: edge(), interval });
        }
        if !header.flags.hello && !header.flags.more {
            member.last = member.last.max(interval);
        }
        self.members.insert(edge(), member);
        if header.flags.hello { Verdict::Counted } else { Verdict::Taken }
    }

    /// The edges that an interval is expected of.
    pub(super) fn expected(&self, interval: Interval, terms: &Terms) -> impl Iterator<Item = (&NodeName, &Member)> {
        let is_expected = move |member: &Member| {
            let was_away = member.away.0 <= interval && interval < member.away.1;
            let is_here = member.first <= interval && !was_away && (!member.left || member.last >= interval);
            is_here && !member.is_over(interval, terms)
        };
        self.members.iter().filter(move |(_, member)| is_expected(member))
    }

    /// Forgets the edges that were not heard for long at the end of `base`, of which nothing is open.
    pub(super) fn forget(&mut self, base: Interval, terms: &Terms, is_open: impl Fn(&NodeName) -> bool) {
        let all = self.members.len();
        self.members.retain(|edge, member| !member.is_over(base, terms) || is_open(edge));
        self.forgotten += (all - self.members.len()) as u64;
    }

    /// Whether it knows no edge.
    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Whether its numbers are such as batches have.
    pub(super) fn is_sound(&self) -> bool {
        self.members.values().all(|member| {
            let Member { boot, n, last, first, away: (from, to), heard, lag, .. } = *member;
            [boot, n, last, first, from, to].iter().all(|number| *number < BOUND)
                && heard.is_finite()
                && lag.is_finite()
        })
    }

    /// How many edges were forgotten.
    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// An edge.
    pub fn get(&self, edge: &NodeName) -> Option<&Member> {
        self.members.get(edge)
    }

    /// All edges, by name.
    pub(super) fn members(&self) -> impl Iterator<Item = (&NodeName, &Member)> {
        self.members.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::super::batch::Flags;
    use super::super::testing::{self, INTERVAL, terms};
    use super::*;

    fn edge() -> NodeName {
        "e".parse().expect("a name")
    }

    fn header(boot: u64, n: u64, interval: Interval) -> BatchHeader {
        BatchHeader { boot, ..testing::header("e", n, interval) }
    }

    fn hello(boot: u64, n: u64, interval: Interval) -> BatchHeader {
        BatchHeader { flags: Flags { hello: true, ..Flags::default() }, ..header(boot, n, interval) }
    }

    /// Takes a batch that was sent and stored at the end of its interval.
    fn take(roster: &mut Roster, header: &BatchHeader) -> (Verdict, Vec<Finding>) {
        let mut findings = Vec::new();
        let at = (header.interval + 1) as f64 * INTERVAL;
        let verdict = roster.take(header, (at, at), INTERVAL, |finding| findings.push(finding));
        (verdict, findings)
    }

    fn expected(roster: &Roster, intervals: std::ops::Range<Interval>) -> Vec<Interval> {
        intervals.filter(|interval| roster.expected(*interval, &terms()).next().is_some()).collect()
    }

    #[test]
    fn a_batch_that_is_stored_twice_is_seen_and_one_that_never_came_is_counted() {
        let mut roster = Roster::default();
        let lost = Finding::Lost { edge: edge(), from: 1, to: 6 };
        assert_eq!(take(&mut roster, &hello(1, 7, 100)), (Verdict::Counted, vec![lost]));
        assert_eq!(take(&mut roster, &header(1, 8, 100)), (Verdict::Taken, vec![]));
        assert_eq!(take(&mut roster, &header(1, 8, 100)), (Verdict::Seen, vec![]));
        let lost = Finding::Lost { edge: edge(), from: 9, to: 11 };
        assert_eq!(take(&mut roster, &header(1, 12, 104)), (Verdict::Taken, vec![lost]));
        assert_eq!(take(&mut roster, &header(1, 10, 102)), (Verdict::Seen, vec![]));
    }

    #[test]
    fn a_batch_of_an_earlier_start_with_a_later_number_is_told() {
        let mut roster = Roster::default();
        take(&mut roster, &header(1, 7, 100));
        take(&mut roster, &header(2, 1, 101));
        assert_eq!(take(&mut roster, &header(1, 1, 100)), (Verdict::Seen, vec![]));
        let ignored = Finding::Ignored { edge: edge(), boot: 1, n: 8 };
        assert_eq!(take(&mut roster, &header(1, 8, 101)), (Verdict::Ignored, vec![ignored]));
        assert_eq!(roster.get(&edge()).map(|member| (member.boot, member.n)), Some((2, 1)));
    }

    #[test]
    fn a_batch_from_the_future_is_refused_and_its_edge_is_asked_again_when_its_clock_is_right() {
        let mut roster = Roster::default();
        let ahead = header(1, 1, 460);
        let mut findings = Vec::new();
        assert_eq!(roster.take(&ahead, (1010.0, 4610.0), INTERVAL, |finding| findings.push(finding)), Verdict::Counted);
        assert_eq!(findings, [Finding::Skewed { edge: edge(), boot: 1, n: 1, interval: 460 }]);
        assert_eq!(take(&mut roster, &header(1, 2, 101)).0, Verdict::Taken);
        assert_eq!(expected(&roster, 99..104), [101, 102, 103]);
    }

    #[test]
    fn a_start_after_a_crash_is_told_and_its_first_interval_is_partial() {
        let mut roster = Roster::default();
        take(&mut roster, &header(1, 1, 100));
        let restart = Finding::Restart { edge: edge(), interval: 102 };
        let unclean = |header: BatchHeader| BatchHeader { clean_before: false, ..header };
        assert_eq!(take(&mut roster, &unclean(hello(2, 2, 102))).1, [restart]);
        let partial = Finding::Partial { edge: edge(), interval: 102 };
        assert_eq!(
            take(
                &mut roster,
                &unclean(BatchHeader { flags: Flags { first: true, ..Flags::default() }, ..header(2, 3, 102) })
            )
            .1,
            [partial]
        );
        assert_eq!(take(&mut roster, &unclean(header(2, 4, 103))).1, []);
        assert_eq!(expected(&roster, 99..105), [100, 101, 102, 103, 104]);
        // So is one of which nobody has heard before.
        let restart = Finding::Restart { edge: edge(), interval: 102 };
        assert_eq!(take(&mut Roster::default(), &unclean(hello(2, 1, 102))).1, [restart]);
    }

    #[test]
    fn nobody_is_expected_between_a_goodbye_and_the_next_start() {
        let mut roster = Roster::default();
        take(&mut roster, &header(1, 1, 100));
        take(&mut roster, &BatchHeader { flags: Flags { last: true, ..Flags::default() }, ..header(1, 2, 102) });
        assert_eq!(expected(&roster, 99..105), [100, 101, 102]);
        take(&mut roster, &hello(2, 3, 105));
        // What it missed before its goodbye is missing still.
        assert_eq!(expected(&roster, 99..108), [100, 101, 102, 105, 106, 107]);
    }

    #[test]
    fn an_edge_that_listened_later_than_it_said_hello_is_expected_from_then_on() {
        let first = |boot, n, interval| BatchHeader {
            flags: Flags { first: true, ..Flags::default() },
            ..header(boot, n, interval)
        };
        let mut roster = Roster::default();
        take(&mut roster, &hello(1, 1, 100));
        assert_eq!(expected(&roster, 99..104), [100, 101, 102, 103]);
        take(&mut roster, &first(1, 2, 101));
        assert_eq!(expected(&roster, 99..104), [101, 102, 103]);
        // After a goodbye, too.
        take(&mut roster, &BatchHeader { flags: Flags { last: true, ..Flags::default() }, ..header(1, 3, 102) });
        take(&mut roster, &hello(2, 4, 102));
        take(&mut roster, &first(2, 5, 103));
        assert_eq!(roster.get(&edge()).and_then(Member::half_told), None);
        assert_eq!(expected(&roster, 103..106), [103, 104, 105]);
    }

    #[test]
    fn what_an_edge_had_open_that_left_came_back_and_crashed_within_an_interval_is_told() {
        let mut roster = Roster::default();
        let unclean = |header: BatchHeader| BatchHeader { clean_before: false, ..header };
        take(&mut roster, &header(1, 1, 101));
        take(&mut roster, &BatchHeader { flags: Flags { last: true, ..Flags::default() }, ..header(1, 2, 102) });
        assert_eq!(roster.get(&edge()).and_then(Member::half_told), None);
        assert_eq!(take(&mut roster, &hello(2, 3, 102)).1, []);
        assert_eq!(roster.get(&edge()).and_then(Member::half_told), Some(102));
        let mut crashed = roster.clone();
        let restart = Finding::Restart { edge: edge(), interval: 105 };
        let partial = Finding::Partial { edge: edge(), interval: 102 };
        assert_eq!(take(&mut crashed, &unclean(hello(3, 4, 105))).1, [restart, partial]);
        // Nothing is missing if its batch comes after all.
        take(&mut roster, &header(2, 4, 102));
        assert_eq!(roster.get(&edge()).and_then(Member::half_told), None);
        let restart = Finding::Restart { edge: edge(), interval: 105 };
        assert_eq!(take(&mut roster, &unclean(hello(3, 5, 105))).1, [restart]);
    }

    #[test]
    fn an_edge_that_was_silent_for_long_is_forgotten_and_nothing_of_it_is_lost_when_it_comes_back() {
        let (mut roster, terms) = (Roster::default(), Terms { forget_secs: 60.0, ..terms() });
        take(&mut roster, &header(1, 1, 100));
        // It was heard at 1010.
        let is_expected = |roster: &Roster, interval| roster.expected(interval, &terms).next().is_some();
        assert_eq!([106, 107].map(|interval| is_expected(&roster, interval)), [true, false]);
        for (base, is_open) in [(106, false), (107, true)] {
            roster.forget(base, &terms, |_| is_open);
            assert!(roster.get(&edge()).is_some() && roster.forgotten() == 0);
        }
        roster.forget(107, &terms, |_| false);
        assert!(roster.get(&edge()).is_none() && roster.forgotten() == 1);
        assert_eq!(
            take(&mut roster, &header(1, 7, 109)),
            (Verdict::Taken, vec![Finding::Unknown { edge: edge(), n: 7 }])
        );
        let lost = Finding::Lost { edge: edge(), from: 8, to: 8 };
        assert_eq!(take(&mut roster, &header(1, 9, 111)), (Verdict::Taken, vec![lost]));
        assert_eq!([108, 109].map(|interval| is_expected(&roster, interval)), [false, true]);
    }

    #[test]
    fn an_interval_is_delivered_with_its_last_batch() {
        let mut roster = Roster::default();
        take(&mut roster, &hello(1, 1, 100));
        take(&mut roster, &BatchHeader { flags: Flags { more: true, ..Flags::default() }, ..header(1, 2, 100) });
        assert_eq!(roster.get(&edge()).map(|member| member.last), Some(99));
        take(&mut roster, &header(1, 3, 100));
        assert_eq!(roster.get(&edge()).map(|member| member.last), Some(100));
    }
}
