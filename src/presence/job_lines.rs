//! Lines of jobs among several observers: what this node itself has heard, for its peers, and what waits until the lines of
//! all nodes can be taken in the order of their times.

use std::collections::{BTreeMap, HashMap, VecDeque};

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use crate::memory::{footprint, map_footprint, tree_footprint, vec_footprint};
use crate::protocol::{Heartbeat, JobTags};

use super::text_bytes;
use super::time::EngineTime;

/// Lines that are remembered of each job, of all jobs, and for how long, in seconds.
pub(super) const OF_EACH: usize = 16;
const MOST: usize = 50_000;
const REMEMBERED_SECS: f64 = 8.0 * 86_400.0;

/// Lines that say the same and come closer than this are copies, in seconds.
const COPIES_SECS: f64 = 10.0;

/// Most lines that wait, and most bytes of their texts; one more is taken at once.
const MOST_WAITING: usize = 20_000;
const MOST_WAITING_BYTES: usize = 8 << 20;

/// Most jobs that are gone of which peers are told that they said goodbye.
const MOST_GOODBYES: usize = 5_000;

/// Places of a table that stay beside those that are taken, when many are given up.
const SPARE_PLACES: usize = 64;

/// Who has heard a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum HeardBy {
    /// This node.
    Here,
    /// A peer, by its place in the configuration.
    Peer(u16),
    /// Not the peer that tells of it.
    Another,
}

impl HeardBy {
    /// The same where peers have other places; `None` if it is no peer any more.
    pub(super) fn renumbered(self, place_of: impl Fn(u16) -> Option<u16>) -> Option<HeardBy> {
        match self {
            HeardBy::Peer(place) => place_of(place).map(HeardBy::Peer),
            HeardBy::Here | HeardBy::Another => Some(self),
        }
    }
}

/// A line that waits.
#[derive(Debug)]
pub(super) struct WaitingLine {
    pub(super) at: EngineTime,
    pub(super) by: HeardBy,
    pub(super) beat: Heartbeat,
}

/// A job: its service and its instance.
pub(super) type JobName = (CompactString, CompactString);

/// A line that was heard.
#[derive(Debug)]
struct HeardLine {
    at: EngineTime,
    by: HeardBy,
    job: JobName,
    beat: Heartbeat,
}

impl HeardLine {
    /// Whether another one is a copy of it.
    fn is_copy(&self, at: EngineTime, beat: &Heartbeat) -> bool {
        self.beat.job == beat.job && self.beat.goodbye == beat.goodbye && (self.at - at).abs() < COPIES_SECS
    }

    /// Whether it is the goodbye of its job. Where that is a whole service, one of those who run it says its own.
    fn is_goodbye(&self) -> bool {
        self.beat.goodbye && self.beat.instance == self.job.1
    }
}

/// Lines of jobs.
#[derive(Debug, Default)]
pub(super) struct JobLines {
    /// What was heard, by number.
    heard: BTreeMap<u64, HeardLine>,
    numbers: HashMap<JobName, VecDeque<u64>>,
    /// Goodbyes that ended jobs, the newest last.
    goodbyes: VecDeque<u64>,
    heard_bytes: usize,
    waiting: Vec<WaitingLine>,
    waiting_bytes: usize,
}

impl JobLines {
    /// Bytes that it takes beside itself.
    pub(super) fn heap_bytes(&self) -> usize {
        tree_footprint::<u64, HeardLine>(self.heard.len())
            + map_footprint::<JobName, VecDeque<u64>>(self.numbers.capacity())
            + self.numbers.len() * vec_footprint::<u64>(OF_EACH)
            + vec_footprint::<u64>(self.goodbyes.capacity())
            + self.heard_bytes
            + vec_footprint::<WaitingLine>(self.waiting.capacity())
            + self.waiting_bytes
    }

    /// Whether a line is known.
    pub(super) fn knows(&self, job: &JobName, at: EngineTime, beat: &Heartbeat) -> bool {
        self.copy_of(job, at, beat).is_some()
    }

    /// The number of a line that says the same, and who has heard it.
    fn copy_of(&self, job: &JobName, at: EngineTime, beat: &Heartbeat) -> Option<(u64, HeardBy)> {
        let numbers = self.numbers.get(job).into_iter().flatten();
        let mut known = numbers.filter_map(|number| Some((*number, self.heard.get(number)?)));
        known.find(|(_, line)| line.is_copy(at, beat)).map(|(number, line)| (number, line.by))
    }

    /// A line of a job was heard here, for which a number is free; whether that is new. What this node has heard already
    /// takes no further place, and what only peers have heard is told anew.
    pub(super) fn note_heard_here(&mut self, number: u64, job: JobName, at: EngineTime, beat: &Heartbeat) -> bool {
        match self.copy_of(&job, at, beat) {
            Some((_, HeardBy::Here)) => return false,
            Some((known, _)) => self.remove(known),
            None => {}
        }
        self.note_heard(number, job, (at, HeardBy::Here), beat);
        true
    }

    /// A line of a job was heard.
    pub(super) fn note_heard(&mut self, number: u64, job: JobName, (at, by): (EngineTime, HeardBy), beat: &Heartbeat) {
        let numbers = self.numbers.entry(job.clone()).or_default();
        let oldest = if numbers.len() >= OF_EACH { numbers.pop_front() } else { None };
        numbers.push_back(number);
        self.heard_bytes += line_bytes(&job, beat);
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
        self.heard_bytes = self.heard_bytes.saturating_sub(line_bytes(&job, &beat));
        if let Some(numbers) = self.numbers.get_mut(&job) {
            numbers.retain(|known| *known != number);
            if numbers.is_empty() {
                self.numbers.remove(&job);
            }
        }
    }

    /// Removes the lines of a job that are meant.
    fn remove_of(&mut self, job: &JobName, is_meant: impl Fn(&HeardLine) -> bool) {
        let numbers = self.numbers.get(job).into_iter().flatten().copied();
        let meant = numbers.filter(|number| self.heard.get(number).is_some_and(&is_meant));
        for number in meant.collect::<Vec<_>>() {
            self.remove(number);
        }
    }

    /// What a job said until a time is over: peers are not told of it.
    pub(super) fn forget(&mut self, job: &JobName, until: EngineTime) {
        self.remove_of(job, |line| line.at <= until);
    }

    /// A job said goodbye at a time: of what it said until then peers are told that alone.
    pub(super) fn end(&mut self, job: &JobName, at: EngineTime) {
        self.remove_of(job, |line| line.at < at);
        let numbers = self.numbers.get(job).into_iter().flatten().copied();
        let is_goodbye = |number: &u64| self.heard.get(number).is_some_and(HeardLine::is_goodbye);
        self.goodbyes.extend(numbers.filter(is_goodbye));
        while self.goodbyes.len() > MOST_GOODBYES
            && let Some(oldest) = self.goodbyes.pop_front()
        {
            self.remove(oldest);
        }
    }

    /// Whether a job said goodbye at a time or later.
    pub(super) fn has_ended(&self, job: &JobName, at: EngineTime) -> bool {
        let numbers = self.numbers.get(job).into_iter().flatten();
        let mut lines = numbers.filter_map(|number| self.heard.get(number));
        lines.any(|line| line.is_goodbye() && line.at >= at)
    }

    /// Gives up so many bytes of what was heard, the oldest lines first; how many went.
    pub(super) fn give_up(&mut self, bytes: usize) -> usize {
        let before = self.heap_bytes();
        while before - self.heap_bytes().min(before) < bytes
            && let Some((&oldest, _)) = self.heard.first_key_value()
        {
            self.remove(oldest);
            if self.numbers.capacity() > 4 * self.numbers.len() + SPARE_PLACES {
                self.numbers.shrink_to(2 * self.numbers.len());
            }
        }
        before - self.heap_bytes().min(before)
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
        let bytes = beat_bytes(&line.beat);
        if self.waiting.len() >= MOST_WAITING || self.waiting_bytes + bytes > MOST_WAITING_BYTES {
            return Some(line);
        }
        self.waiting_bytes += bytes;
        self.waiting.push(line);
        None
    }

    /// Forgets what waits, was heard until a time, and is meant.
    pub(super) fn forget_waiting(&mut self, until: EngineTime, is_meant: impl Fn(&Heartbeat) -> bool) {
        self.waiting.retain(|line| line.at > until || !is_meant(&line.beat));
        self.count_waiting();
    }

    fn count_waiting(&mut self) {
        self.waiting_bytes = self.waiting.iter().map(|line| beat_bytes(&line.beat)).sum();
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
        self.count_waiting();
        due.sort_by(|one, other| one.at.total_cmp(&other.at));
        due
    }
}

/// Bytes that a beat takes beside itself.
fn beat_bytes(beat: &Heartbeat) -> usize {
    let of_tags =
        |tags: &JobTags| [&tags.run, &tags.odd_status, &tags.host].into_iter().flatten().map(text_bytes).sum::<usize>();
    let tags = beat.job.as_ref().map_or(0, |tags| footprint(size_of::<JobTags>()) + of_tags(tags));
    let said = [&beat.start, &beat.version, &beat.message, &beat.key].into_iter().flatten();
    [&beat.service, &beat.instance].into_iter().chain(said).map(text_bytes).sum::<usize>() + tags
}

/// Bytes that a line of a job takes beside itself, its share of what is kept of the job among them.
fn line_bytes(job: &JobName, beat: &Heartbeat) -> usize {
    2 * (text_bytes(&job.0) + text_bytes(&job.1)) + beat_bytes(beat)
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
        lines.forget_waiting(at(99.0), |beat| beat.instance == "b");
        lines.forget_waiting(at(5.0), |_| true);
        assert_eq!(taken(&mut lines, 9.0), [at(9.0)]);
        assert!(lines.put(WaitingLine { at: at(1.0), by: HeardBy::Here, beat: beat("a") }).is_none());
        lines.forget_waiting(EngineTime::NEVER, |beat| beat.instance == "a");
        assert!(!lines.is_waiting());
    }

    #[test]
    fn what_waits_is_counted_with_its_texts_and_bounded_by_them() {
        let mut lines = JobLines::default();
        let said = || Heartbeat { message: Some("x".repeat(1000).into()), ..beat("a") };
        let put = |lines: &mut JobLines| lines.put(WaitingLine { at: at(1.0), by: HeardBy::Here, beat: said() });
        assert!((0..100).all(|_| put(&mut lines).is_none()));
        assert!(lines.heap_bytes() >= 100 * (1000 + size_of::<WaitingLine>()));
        while put(&mut lines).is_none() {}
        assert!(lines.waiting.len() < MOST_WAITING && lines.waiting_bytes <= MOST_WAITING_BYTES);
        assert!(!lines.take_until(at(1.0)).is_empty());
        assert_eq!((lines.waiting_bytes, put(&mut lines).is_none()), (0, true));
    }

    #[test]
    fn of_a_job_that_is_gone_peers_are_told_its_goodbye_or_nothing() {
        let mut lines = JobLines::default();
        let hear = |lines: &mut JobLines, number: u64, instance: &str, goodbye: bool| {
            let beat = Heartbeat { goodbye, ..beat(instance) };
            lines.note_heard(number, ("s".into(), instance.into()), (at(number as f64), HeardBy::Here), &beat);
        };
        let told = |lines: &JobLines| lines.since(0, true).map(|(number, ..)| number).collect::<Vec<_>>();
        let name = |instance: &str| ("s".into(), instance.into());
        for (number, instance) in [(1, "a"), (2, "b"), (3, "c"), (4, "c")] {
            hear(&mut lines, number, instance, false);
        }
        hear(&mut lines, 5, "a", true);
        lines.end(&name("a"), at(5.0));
        lines.forget(&name("c"), at(3.0));
        assert_eq!(told(&lines), [2, 4, 5]);
        assert!(lines.has_ended(&name("a"), at(5.0)) && !lines.has_ended(&name("a"), at(5.1)));
        lines.forget(&name("c"), EngineTime::NEVER);
        assert_eq!(told(&lines), [2, 5]);
        // However many say goodbye, what others said stays.
        for number in 10..10 + MOST_GOODBYES as u64 {
            hear(&mut lines, number, &number.to_string(), true);
            lines.end(&name(&number.to_string()), at(number as f64));
        }
        assert_eq!((told(&lines).len(), told(&lines)[0], told(&lines)[1]), (1 + MOST_GOODBYES, 2, 10));
    }

    #[test]
    fn the_oldest_lines_are_given_up_first_and_no_more_of_them_than_is_needed() {
        let mut lines = JobLines::default();
        let said = || Heartbeat { message: Some("x".repeat(1000).into()), ..beat("a") };
        for number in 1..=1000_u64 {
            let job = ("s".into(), number.to_string().into());
            lines.note_heard(number, job, (at(number as f64), HeardBy::Here), &said());
        }
        let before = lines.heap_bytes();
        let freed = lines.give_up(100_000);
        assert!((100_000..120_000).contains(&freed) && lines.heap_bytes() == before - freed, "{freed}");
        assert_eq!(lines.since(0, true).last().map(|(number, ..)| number), Some(1000));
        assert!(lines.since(0, true).next().is_some_and(|(number, ..)| number > 50));
        lines.give_up(before);
        assert!(lines.heard.is_empty() && lines.numbers.is_empty() && lines.heap_bytes() < 10_000);
    }
}
