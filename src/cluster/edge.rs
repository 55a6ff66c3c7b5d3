//! Sealed batches, numbered and sent one at a time.
//!
//! At each tick an edge seals one batch for each partition, also an empty one. A sealed batch never changes; what comes
//! later is in the next one. Of each partition one batch is in flight: the next is sent when it was acknowledged, and until
//! then the same bytes are sent again. So batches are in the log in the order of their numbers, and one that is stored
//! twice is recognised by its number.
//!
//! What waits is the spool. Beyond its bound the oldest batch goes, but not the one in flight, which may be stored already;
//! owners count it by the jump in the numbers.

use std::collections::VecDeque;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::random::Random;

use super::batch::{BatchHeader, EdgeAccount, FORMAT, Flags};
use super::{Interval, NodeName};

/// A batch that was not acknowledged in so many seconds is sent again.
const ANSWER_SECS: f64 = 2.0;

/// Retries are up to so many seconds later, so that not all edges come at once.
const JITTER_SECS: f64 = 0.5;

/// Listeners wait for the first acknowledgements for so many seconds at most.
const HELLO_SECS: f64 = 2.0;

/// What an edge is told when it starts.
#[derive(Clone, Debug)]
pub struct EdgeOptions {
    /// Its name.
    pub name: NodeName,
    /// Which start it is: greater than that of each start before.
    pub boot: u64,
    /// Partitions, the same for the life of the streams.
    pub partitions: u16,
    /// A hash of all settings that shape what is sent.
    pub config: u64,
    /// Most bytes that wait, of all partitions together.
    pub spool_bytes: usize,
    /// Any number, by which retries of edges differ.
    pub seed: u64,
}

/// What an edge heard of an interval.
#[derive(Clone, Copy, Debug)]
pub struct Heard<'a> {
    /// The interval.
    pub interval: Interval,
    /// How long it was measured, in seconds.
    pub length: f64,
    /// The bodies of each partition, of which there is one at least; see [`bodies`](super::batch::bodies).
    pub bodies: &'a [Vec<Bytes>],
    /// The account of the interval.
    pub account: Option<&'a EdgeAccount>,
}

/// A batch that is not acknowledged yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sealed {
    /// The start in which it was sealed.
    pub boot: u64,
    /// Its number.
    pub n: u64,
    /// The header and the body.
    pub payload: Bytes,
}

/// What an edge keeps over its starts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SavedEdge {
    /// The last number of each partition.
    pub numbers: Vec<u64>,
    /// What waits, by partition; empty if it is kept in memory alone.
    pub spool: Vec<Vec<Sealed>>,
    /// Whether the last start was left with a goodbye. So it is before the first one.
    pub is_clean: bool,
}

/// A batch to be published. The wall clock at the moment of sending goes with it, outside of the payload.
#[derive(Clone, Debug, PartialEq)]
pub struct Publish {
    /// The partition.
    pub partition: u16,
    /// The start in which it was sealed.
    pub boot: u64,
    /// Its number.
    pub n: u64,
    /// The header and the body, the same in each try.
    pub payload: Bytes,
}

/// One partition of an edge.
#[derive(Debug, Default)]
struct Lane {
    /// The last number that was given.
    n: u64,
    spool: VecDeque<Sealed>,
    /// When the first of the spool is sent again; `None` if it was not sent.
    again_at: Option<f64>,
}

/// The sending side of a node.
#[derive(Debug)]
pub struct Edge {
    options: EdgeOptions,
    lanes: Vec<Lane>,
    spooled_bytes: usize,
    dropped: u64,
    clean_before: bool,
    is_first: bool,
    left: bool,
    started: f64,
    random: Random,
}

impl Edge {
    /// Starts: says hello to all partitions, after what the start before has left. `interval` is the current one.
    pub fn start(options: EdgeOptions, saved: SavedEdge, interval: Interval, now: f64) -> Edge {
        let mut spools = saved.spool.into_iter();
        let mut numbers = saved.numbers.into_iter();
        let lane = |_| Lane {
            n: numbers.next().unwrap_or(0),
            spool: spools.next().unwrap_or_default().into(),
            again_at: None,
        };
        let lanes: Vec<Lane> = (0..options.partitions).map(lane).collect();
        let spooled_bytes = lanes.iter().flat_map(|lane| &lane.spool).map(|sealed| sealed.payload.len()).sum();
        let mut edge = Edge {
            random: Random::new(options.seed),
            options,
            lanes,
            spooled_bytes,
            dropped: 0,
            clean_before: saved.is_clean,
            is_first: true,
            left: false,
            started: now,
        };
        edge.say_hello(interval);
        edge
    }

    fn say_hello(&mut self, interval: Interval) {
        for partition in 0..self.options.partitions {
            let flags = Flags { hello: true, ..Flags::default() };
            let header = BatchHeader { flags, ..self.header(interval, 0.0) };
            self.put(partition, header, &[]);
        }
    }

    /// Goes on as another start, after another node of its name, whose numbers are those that owners know: this start counts
    /// from the beginning. What was never sent goes with it. A batch in flight may be stored, so it stays what it is.
    pub fn start_again(&mut self, boot: u64, interval: Interval) {
        (self.options.boot, self.clean_before, self.is_first) = (boot, false, true);
        let unsent = |lane: &mut Lane| {
            lane.n = 0;
            lane.spool.split_off(usize::from(lane.again_at.is_some()))
        };
        let unsent: Vec<VecDeque<Sealed>> = self.lanes.iter_mut().map(unsent).collect();
        self.say_hello(interval);
        for (partition, batches) in (0..).zip(unsent) {
            for Sealed { payload, .. } in batches {
                self.spooled_bytes -= payload.len();
                if let Ok((header, body)) = BatchHeader::decode(&payload)
                    && !header.flags.hello
                {
                    self.put(partition, BatchHeader { boot, clean_before: false, ..header }, body);
                }
            }
        }
    }

    /// Seals an interval.
    pub fn seal(&mut self, interval: &Heard<'_>) {
        self.seal_as(interval, false);
        self.is_first = false;
    }

    /// Seals the last interval, which ends here, and says goodbye.
    pub fn leave(&mut self, interval: &Heard<'_>) {
        self.seal_as(interval, true);
        self.left = true;
    }

    fn seal_as(&mut self, &Heard { interval, length, bodies, account }: &Heard<'_>, last: bool) {
        for partition in 0..self.options.partitions {
            let none = [Bytes::new()];
            let own = bodies.get(partition as usize).filter(|own| !own.is_empty()).map_or(&none[..], Vec::as_slice);
            for (at, body) in own.iter().enumerate() {
                let more = at + 1 < own.len();
                let header = self.header(interval, length);
                let flags = Flags { hello: false, first: self.is_first, more, last: last && !more };
                let account = account.filter(|_| partition == 0 && at == 0).cloned();
                let header = BatchHeader { flags, account, ..header };
                self.put(partition, header, body);
            }
        }
    }

    fn header(&self, interval: Interval, length: f64) -> BatchHeader {
        BatchHeader {
            format: FORMAT,
            edge: self.options.name.clone(),
            boot: self.options.boot,
            n: 0,
            interval,
            length,
            flags: Flags::default(),
            clean_before: self.clean_before,
            config: self.options.config,
            account: None,
        }
    }

    fn put(&mut self, partition: u16, mut header: BatchHeader, body: &[u8]) {
        let lane = &mut self.lanes[partition as usize];
        lane.n += 1;
        header.n = lane.n;
        let payload = Bytes::from(header.encode(body));
        self.spooled_bytes += payload.len();
        lane.spool.push_back(Sealed { boot: header.boot, n: header.n, payload });
        while self.spooled_bytes > self.options.spool_bytes && self.drop_oldest() {}
    }

    /// Drops the oldest batch of the partition that has most, but none in flight. `false` if there is none.
    fn drop_oldest(&mut self) -> bool {
        let in_flight = |lane: &Lane| usize::from(lane.again_at.is_some());
        let longest = self.lanes.iter_mut().max_by_key(|lane| lane.spool.len().saturating_sub(in_flight(lane)));
        let Some(dropped) = longest.and_then(|lane| lane.spool.remove(in_flight(lane))) else { return false };
        self.spooled_bytes -= dropped.payload.len();
        self.dropped += 1;
        true
    }

    /// The batches to be sent now.
    pub fn due(&mut self, now: f64) -> Vec<Publish> {
        let mut due = Vec::new();
        for (partition, lane) in (0_u16..).zip(&mut self.lanes) {
            if lane.again_at.is_some_and(|at| now < at) {
                continue;
            }
            let Some(Sealed { boot, n, payload }) = lane.spool.front().cloned() else { continue };
            lane.again_at = Some(now + ANSWER_SECS + self.random.unit() * JITTER_SECS);
            due.push(Publish { partition, boot, n, payload });
        }
        due
    }

    /// When something is to be sent next.
    pub fn next_due(&self) -> Option<f64> {
        let waiting = self.lanes.iter().filter(|lane| !lane.spool.is_empty());
        waiting.map(|lane| lane.again_at.unwrap_or(f64::MIN)).reduce(f64::min)
    }

    /// The bus has a batch. An acknowledgement of one that is not in flight says nothing.
    pub fn acknowledged(&mut self, partition: u16, boot: u64, n: u64) {
        let Some(lane) = self.lanes.get_mut(partition as usize) else { return };
        let is_in_flight = |sealed: &Sealed| (sealed.boot, sealed.n) == (boot, n);
        if lane.again_at.is_some() && lane.spool.front().is_some_and(is_in_flight) {
            lane.again_at = None;
            let gone = lane.spool.pop_front().map_or(0, |sealed| sealed.payload.len());
            self.spooled_bytes -= gone;
        }
    }

    /// Whether listeners may be bound: all partitions know of this start, or were given time.
    pub fn is_ready(&self, now: f64) -> bool {
        now - self.started >= HELLO_SECS || !self.is_first || self.is_drained()
    }

    /// Whether nothing waits.
    pub fn is_drained(&self) -> bool {
        self.lanes.iter().all(|lane| lane.spool.is_empty())
    }

    /// Batches that wait.
    pub fn spooled_batches(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.spool.len() as u64).sum()
    }

    /// Bytes that wait.
    pub fn spooled_bytes(&self) -> usize {
        self.spooled_bytes
    }

    /// Batches that were dropped because too much waited.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// The last number of each partition.
    pub fn numbers(&self) -> Vec<u64> {
        self.lanes.iter().map(|lane| lane.n).collect()
    }

    /// What is to be kept for the next start.
    pub fn saved(&self) -> SavedEdge {
        SavedEdge {
            numbers: self.numbers(),
            spool: self.lanes.iter().map(|lane| lane.spool.iter().cloned().collect()).collect(),
            is_clean: self.left,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(boot: u64) -> EdgeOptions {
        EdgeOptions {
            name: "e".parse().expect("a name"),
            boot,
            partitions: 2,
            config: 7,
            spool_bytes: 1 << 20,
            seed: 1,
        }
    }

    fn fresh() -> Edge {
        Edge::start(options(1), SavedEdge { is_clean: true, ..SavedEdge::default() }, 100, 0.0)
    }

    fn header(publish: &Publish) -> BatchHeader {
        BatchHeader::decode(&publish.payload).expect("a batch").0
    }

    fn heard(interval: Interval, bodies: &[Vec<Bytes>]) -> Heard<'_> {
        Heard { interval, length: 10.0, bodies, account: None }
    }

    fn body(text: &'static str) -> Vec<Bytes> {
        vec![Bytes::from_static(text.as_bytes())]
    }

    #[test]
    fn one_batch_of_a_partition_is_in_flight_and_the_same_bytes_are_sent_again() {
        let mut edge = fresh();
        edge.seal(&heard(100, &[body("a"), body("b")]));
        let first = edge.due(0.0);
        assert!(first.iter().all(|one| header(one).flags.hello && one.n == 1));
        assert_eq!(first.len(), 2);
        assert!(edge.due(1.9).is_empty());
        assert_eq!(edge.due(2.5), first);
        edge.acknowledged(1, 1, 1);
        let next = edge.due(2.6);
        assert_eq!(next.iter().map(|one| (one.partition, one.n)).collect::<Vec<_>>(), [(1, 2)]);
        assert!(header(&next[0]).flags.first && !header(&next[0]).flags.hello);
        // Twice the same acknowledgement is one.
        edge.acknowledged(1, 1, 1);
        assert!(!edge.is_drained() && edge.due(2.7).is_empty());
    }

    #[test]
    fn an_empty_partition_has_a_batch_and_a_large_one_several() {
        let mut edge = fresh();
        edge.seal(&heard(100, &[Vec::new(), [body("a"), body("b")].concat()]));
        edge.seal(&heard(101, &[]));
        let mut all = Vec::new();
        while let [one, ..] = &edge.due(0.0)[..] {
            edge.acknowledged(one.partition, one.boot, one.n);
            all.push(one.clone());
            edge.lanes.iter_mut().for_each(|lane| lane.again_at = None);
        }
        let of = |partition| all.iter().filter(move |one| one.partition == partition).map(header);
        assert_eq!(
            of(0).map(|one| (one.n, one.interval, one.flags.more)).collect::<Vec<_>>(),
            [(1, 100, false), (2, 100, false), (3, 101, false)]
        );
        assert_eq!(
            of(1).map(|one| (one.n, one.interval, one.flags.more)).collect::<Vec<_>>(),
            [(1, 100, false), (2, 100, true), (3, 100, false), (4, 101, false)]
        );
    }

    #[test]
    fn beyond_the_bound_the_oldest_goes_that_is_not_in_flight() {
        let mut edge = Edge::start(EdgeOptions { partitions: 1, ..options(1) }, SavedEdge::default(), 100, 0.0);
        edge.due(0.0);
        edge.options.spool_bytes = edge.spooled_bytes * 3;
        for interval in 100..104 {
            edge.seal(&heard(interval, &[]));
        }
        let waiting: Vec<u64> = edge.lanes[0].spool.iter().map(|sealed| sealed.n).collect();
        assert_eq!((waiting, edge.dropped()), (vec![1, 4, 5], 2));
    }

    #[test]
    fn a_start_goes_on_with_numbers_and_spool_and_says_whether_there_was_a_goodbye() {
        let mut edge = fresh();
        edge.seal(&heard(100, &[body("a"), body("b")]));
        let saved = edge.saved();
        assert_eq!((&saved.numbers[..], saved.is_clean), (&[2, 2][..], false));
        let mut next = Edge::start(options(2), saved, 105, 50.0);
        let sent = next.due(50.0);
        assert_eq!((sent[0].boot, sent[0].n), (1, 1));
        for (boot, n) in [(1, 1), (1, 2)] {
            next.acknowledged(0, boot, n);
            next.due(50.0);
        }
        let hello = next.due(60.0).into_iter().find(|one| one.partition == 0).map(|one| header(&one));
        let hello = hello.expect("it is due");
        assert_eq!((hello.boot, hello.n, hello.flags.hello, hello.clean_before), (2, 3, true, false));
        next.leave(&heard(105, &[]));
        assert!(next.saved().is_clean);
        let last = next.lanes[0].spool.back().expect("a batch");
        let last = BatchHeader::decode(&last.payload).expect("a batch").0;
        assert!(last.flags.last && last.flags.first);
    }

    #[test]
    fn another_start_counts_anew_and_takes_along_what_was_never_sent() {
        let mut edge = fresh();
        edge.seal(&heard(100, &[body("a"), body("b")]));
        edge.due(0.0);
        edge.acknowledged(1, 1, 1);
        edge.start_again(9, 103);
        edge.seal(&heard(103, &[body("c"), body("d")]));
        let of = |edge: &Edge, partition: usize| -> Vec<_> {
            let spool = edge.lanes[partition].spool.iter();
            let header = |one: &Sealed| BatchHeader::decode(&one.payload).expect("a batch").0;
            spool.map(header).map(|one| (one.boot, one.n, one.interval, one.flags.hello)).collect()
        };
        let hello = (9, 1, 103, true);
        // What is in flight may be stored.
        assert_eq!(of(&edge, 0), [(1, 1, 100, true), hello, (9, 2, 100, false), (9, 3, 103, false)]);
        assert_eq!(of(&edge, 1), [hello, (9, 2, 100, false), (9, 3, 103, false)]);
        let bytes: usize = edge.lanes.iter().flat_map(|lane| &lane.spool).map(|one| one.payload.len()).sum();
        assert_eq!((edge.spooled_bytes(), edge.numbers()), (bytes, vec![3, 3]));
    }

    #[test]
    fn listeners_wait_for_the_first_acknowledgements_but_not_for_long() {
        let mut edge = fresh();
        assert!(!edge.is_ready(1.9) && edge.is_ready(2.0));
        edge.due(0.0);
        edge.acknowledged(0, 1, 1);
        assert!(!edge.is_ready(0.1));
        edge.acknowledged(1, 1, 1);
        assert!(edge.is_ready(0.1));
    }
}
