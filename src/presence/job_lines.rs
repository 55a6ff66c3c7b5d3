//! Lines of jobs among several observers: what this node itself has heard, for its peers, and what waits until the lines of
//! all nodes can be taken in the order of their times.

use std::collections::{BTreeMap, HashMap, VecDeque};

use compact_str::CompactString;

use crate::memory::{footprint, tree_footprint};
use crate::protocol::{Heartbeat, JobTags};

use super::text_bytes;
use super::time::EngineTime;

/// Lines that are remembered of each job, of all jobs, and for how long, in seconds.
pub(super) const OF_EACH: usize = 16;
const MOST: usize = 50_000;
const REMEMBERED_SECS: f64 = 8.0 * 86_400.0;

/// Lines that say the same and come closer than this are copies, in seconds.
const COPIES_SECS: f64 = 10.0;

/// Most lines that wait; one more is taken at once.
const MOST_WAITING: usize = 20_000;

/// Who has heard a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeardBy {
    /// This node.
    Here,
    /// A peer, by its place in the configuration.
    Peer(u16),
    /// Not the peer that tells of it.
    Another,
}

/// A line that waits.
#[derive(Debug)]
pub(super) struct WaitingLine {
    pub(super) at: EngineTime,
    pub(super) by: HeardBy,
    pub(super) beat: Heartbeat,
}

/// A job: its service and its instance.
type Name = (CompactString, CompactString);

/// A line that was heard.
#[derive(Debug)]
struct HeardLine {
    at: EngineTime,
    by: HeardBy,
    job: Name,
    beat: Heartbeat,
}

impl HeardLine {
    /// Whether another one is a copy of it.
    fn is_copy(&self, at: EngineTime, beat: &Heartbeat) -> bool {
        self.beat.job == beat.job && self.beat.goodbye == beat.goodbye && (self.at - at).abs() < COPIES_SECS
    }
}

/// Lines of jobs.
#[derive(Debug, Default)]
pub(super) struct JobLines {
    /// What was heard, by number.
    heard: BTreeMap<u64, HeardLine>,
    numbers: HashMap<Name, VecDeque<u64>>,
    heard_bytes: usize,
    waiting: Vec<WaitingLine>,
}

impl JobLines {
    /// Bytes that it takes beside itself.
    pub(super) fn heap_bytes(&self) -> usize {
        tree_footprint::<u64, HeardLine>(self.heard.len())
            + self.numbers.len() * footprint(size_of::<(Name, VecDeque<u64>)>() + OF_EACH * size_of::<u64>())
            + self.heard_bytes
            + self.waiting.capacity() * size_of::<WaitingLine>()
    }

    /// Whether a line is known.
    pub(super) fn knows(&self, job: &Name, at: EngineTime, beat: &Heartbeat) -> bool {
        self.copy_of(job, at, beat).is_some()
    }

    /// The number of a line that says the same, and who has heard it.
    fn copy_of(&self, job: &Name, at: EngineTime, beat: &Heartbeat) -> Option<(u64, HeardBy)> {
        let numbers = self.numbers.get(job).into_iter().flatten();
        let mut known = numbers.filter_map(|number| Some((*number, self.heard.get(number)?)));
        known.find(|(_, line)| line.is_copy(at, beat)).map(|(number, line)| (number, line.by))
    }

    /// A line of a job was heard here, for which a number is free; whether that is new. What this node has heard already
    /// takes no further place, and what only peers have heard is told anew.
    pub(super) fn note_heard_here(&mut self, number: u64, job: Name, at: EngineTime, beat: &Heartbeat) -> bool {
        match self.copy_of(&job, at, beat) {
            Some((_, HeardBy::Here)) => return false,
            Some((known, _)) => self.remove(known),
            None => {}
        }
        self.note_heard(number, job, (at, HeardBy::Here), beat);
        true
    }

    /// A line of a job was heard.
    pub(super) fn note_heard(&mut self, number: u64, job: Name, (at, by): (EngineTime, HeardBy), beat: &Heartbeat) {
        let numbers = self.numbers.entry(job.clone()).or_default();
        let oldest = if numbers.len() >= OF_EACH { numbers.pop_front() } else { None };
        numbers.push_back(number);
        self.heard_bytes += bytes_of(&job, beat);
        self.heard.insert(number, HeardLine { at, by, job, beat: beat.clone() });
        if let Some(oldest) = oldest {
            self.remove(oldest);
        }
        let is_old = |line: &HeardLine| at - line.at > REMEMBERED_SECS;
        while let Some((&first, _)) =
            self.heard.first_key_value().filter(|(_, line)| self.heard.len() > MOST || is_old(line))
        {
            self.remove(first);
        }
    }

    fn remove(&mut self, number: u64) {
        let Some(HeardLine { job, beat, .. }) = self.heard.remove(&number) else { return };
        self.heard_bytes = self.heard_bytes.saturating_sub(bytes_of(&job, &beat));
        if let Some(numbers) = self.numbers.get_mut(&job) {
            numbers.retain(|known| *known != number);
            if numbers.is_empty() {
                self.numbers.remove(&job);
            }
        }
    }

    /// What was heard after a number, here or, if that is wanted, by anybody, in order.
    pub(super) fn since(
        &self,
        after: u64,
        by_all: bool,
    ) -> impl Iterator<Item = (u64, (EngineTime, HeardBy), &Heartbeat)> {
        let all = self.heard.range(after.saturating_add(1)..);
        let all = all.filter(move |(_, line)| by_all || line.by == HeardBy::Here);
        all.map(|(number, line)| (*number, (line.at, line.by), &line.beat))
    }

    /// A line is to be taken in the order of all nodes; it is given back if no more can wait.
    pub(super) fn put(&mut self, line: WaitingLine) -> Option<WaitingLine> {
        if self.waiting.len() >= MOST_WAITING {
            return Some(line);
        }
        self.waiting.push(line);
        None
    }

    /// What waits and was heard until a time of a service, or of one instance of it, is forgotten.
    pub(super) fn forget(&mut self, service: &str, instance: Option<&str>, since: EngineTime) {
        let is_its = |beat: &Heartbeat| beat.service == service && instance.is_none_or(|name| beat.instance == name);
        self.waiting.retain(|line| line.at > since || !is_its(&line.beat));
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The lines up to a time, in order.
    pub(super) fn take_until(&mut self, until: EngineTime) -> Vec<WaitingLine> {
        if self.waiting.iter().all(|line| line.at > until) {
            return Vec::new();
        }
        let (mut due, rest) =
            std::mem::take(&mut self.waiting).into_iter().partition::<Vec<_>, _>(|one| one.at <= until);
        self.waiting = rest;
        due.sort_by(|one, other| one.at.total_cmp(&other.at));
        due
    }
}

fn bytes_of(job: &Name, beat: &Heartbeat) -> usize {
    let of_tags =
        |tags: &JobTags| [&tags.run, &tags.odd_status, &tags.host].into_iter().flatten().map(text_bytes).sum::<usize>();
    let tags = beat.job.as_ref().map_or(0, |tags| size_of_val(&**tags) + of_tags(tags));
    let texts = [Some(&beat.service), Some(&beat.instance), beat.start.as_ref(), beat.message.as_ref()];
    2 * (text_bytes(&job.0) + text_bytes(&job.1)) + texts.into_iter().flatten().map(text_bytes).sum::<usize>() + tags
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: f64) -> EngineTime {
        EngineTime::from_secs(secs)
    }

    fn beat(instance: &str) -> Heartbeat {
        Heartbeat { service: "s".into(), instance: instance.into(), ..Heartbeat::default() }
    }

    #[test]
    fn of_each_job_the_last_lines_are_told_and_old_ones_are_not() {
        let mut lines = JobLines::default();
        for number in 1..=100 {
            lines.note_heard(number, ("s".into(), "a".into()), (at(number as f64), HeardBy::Here), &beat("a"));
        }
        lines.note_heard(101, ("s".into(), "b".into()), (at(101.0), HeardBy::Peer(0)), &beat("b"));
        let since = |after, by_all| lines.since(after, by_all).map(|(number, ..)| number).collect::<Vec<u64>>();
        assert_eq!(since(0, true), (85..=101).collect::<Vec<u64>>());
        assert_eq!((since(99, false), since(101, true)), (vec![100], Vec::new()));
        assert!(lines.knows(&("s".into(), "b".into()), at(102.0), &beat("b")));
        assert!(!lines.knows(&("s".into(), "b".into()), at(112.0), &beat("b")));
        lines.note_heard(102, ("s".into(), "c".into()), (at(1e6), HeardBy::Here), &beat("c"));
        assert_eq!((lines.heard.len(), lines.numbers.len()), (1, 1));
    }

    #[test]
    fn copies_take_no_place_and_what_is_heard_here_too_is_told_as_that() {
        let mut lines = JobLines::default();
        let name = || ("s".into(), "a".into());
        lines.note_heard(1, name(), (at(0.0), HeardBy::Peer(0)), &beat("a"));
        assert!(lines.note_heard_here(2, name(), at(0.1), &beat("a")));
        assert!(!lines.note_heard_here(3, name(), at(0.2), &beat("a")));
        assert!(lines.note_heard_here(3, name(), at(60.0), &beat("a")));
        let all: Vec<_> = lines.since(0, true).map(|(number, (_, by), _)| (number, by)).collect();
        assert_eq!(all, [(2, HeardBy::Here), (3, HeardBy::Here)]);
    }

    #[test]
    fn what_waits_is_taken_in_the_order_of_time() {
        let mut lines = JobLines::default();
        for secs in [3.0, 1.0, 2.0, 9.0] {
            assert!(lines.put(WaitingLine { at: at(secs), by: HeardBy::Here, beat: beat("a") }).is_none());
        }
        let taken =
            |lines: &mut JobLines, until| lines.take_until(at(until)).iter().map(|one| one.at).collect::<Vec<_>>();
        assert_eq!(taken(&mut lines, 3.0), [at(1.0), at(2.0), at(3.0)]);
        assert!(taken(&mut lines, 3.0).is_empty() && lines.is_waiting());
        lines.forget("s", Some("b"), at(99.0));
        lines.forget("s", None, at(5.0));
        assert_eq!(taken(&mut lines, 9.0), [at(9.0)]);
        assert!(lines.put(WaitingLine { at: at(1.0), by: HeardBy::Here, beat: beat("a") }).is_none());
        lines.forget("s", Some("a"), EngineTime::NEVER);
        assert!(!lines.is_waiting());
    }
}
