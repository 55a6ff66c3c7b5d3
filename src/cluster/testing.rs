//! A bus without faults for the tests of the machines: it does at once what they want, unless it is told not to.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::batch::{BatchHeader, FORMAT, Flags};
use super::{
    Command, Content, Emission, Event, Interval, Late, Node, NodeName, NodeOptions, Record, Sequence, SessionId,
    Stored, StoredBatch, Terms,
};

/// Unix time at 0 of the nodes' clocks, in whole intervals.
const EPOCH: f64 = 1000.0;

/// The length of an interval.
pub(super) const INTERVAL: f64 = 10.0;

/// Bodies of an interval, and of all before it.
#[derive(Debug)]
pub(super) struct Bodies;

impl Content for Bodies {
    type Merged = Vec<Vec<u8>>;
    type Gauges = Vec<Vec<u8>>;

    fn merge<'a>(&self, messages: impl Iterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
        messages.map(|message| BatchHeader::decode(message).expect("a batch of ours").1.to_vec()).collect()
    }

    fn follow(&self, standing: &mut Vec<Vec<u8>>, _interval: Interval, merged: &Vec<Vec<u8>>) {
        standing.extend(merged.iter().cloned());
    }
}

/// What a test does to commands: those of which it says no are lost.
pub(super) type Allows = fn(&Command<Emission<Bodies>>) -> bool;

/// A bus, and sinks that take all.
pub(super) struct TestBus {
    pub(super) partitions: u16,
    pub(super) allows: Allows,
    /// The first batch that is still there.
    pub(super) first: Sequence,
    pub(super) log: Vec<(u16, StoredBatch)>,
    pub(super) records: Vec<(u16, Stored)>,
    pub(super) emitted: Vec<Emission<Bodies>>,
    sessions: BTreeMap<NodeName, Stored>,
    pub(super) checkpoints: BTreeMap<(u16, Sequence), Bytes>,
    /// How long checkpoints take.
    pub(super) checkpoint_secs: f64,
    /// Answers on their way, and when they arrive.
    late: Vec<(f64, NodeName, Event)>,
    log_end: Sequence,
    sequence: Sequence,
}

impl Default for TestBus {
    fn default() -> TestBus {
        TestBus {
            partitions: 2,
            allows: |_| true,
            first: 1,
            log: Vec::new(),
            records: Vec::new(),
            emitted: Vec::new(),
            sessions: BTreeMap::new(),
            checkpoints: BTreeMap::new(),
            checkpoint_secs: 0.0,
            late: Vec::new(),
            log_end: 0,
            sequence: 0,
        }
    }
}

/// What all nodes of the tests agree about.
pub(super) fn terms() -> Terms {
    Terms {
        partitions: 2,
        interval_secs: INTERVAL,
        lateness_secs: 10.0,
        late: Late::Drop,
        forget_secs: 7200.0,
        config: 0,
    }
}

/// A node of the tests.
pub(super) fn node(name: &str, start: u64) -> Node<Bodies> {
    node_of(name, start, terms())
}

/// One that only watches.
pub(super) fn watching(name: &str, start: u64) -> Node<Bodies> {
    let id = SessionId { node: name.parse().expect("a name"), start };
    Node::watching(NodeOptions { seed: start, id, terms: terms() }, Arc::new(Bodies))
}

/// A node of other terms.
pub(super) fn node_of(name: &str, start: u64, terms: Terms) -> Node<Bodies> {
    let id = SessionId { node: name.parse().expect("a name"), start };
    Node::new(NodeOptions { seed: start ^ u64::from(name.as_bytes()[0]) << 32, id, terms }, Arc::new(Bodies))
}

/// The header of a batch.
pub(super) fn header(edge: &str, n: u64, interval: Interval) -> BatchHeader {
    BatchHeader {
        format: FORMAT,
        edge: edge.parse().expect("a name"),
        boot: 1,
        n,
        interval,
        length: INTERVAL,
        flags: Flags::default(),
        clean_before: true,
        config: 0,
        account: None,
    }
}

/// A batch of partition 0 that was sent and stored at a time of the bus, with its edge and number for a body.
pub(super) fn batch(sequence: Sequence, header: &BatchHeader, stored: f64) -> StoredBatch {
    let body = format!("{} {}", header.edge, header.n);
    StoredBatch { sequence, stored, sent: stored, payload: header.encode(body.as_bytes()).into() }
}

impl TestBus {
    /// A bus of so many partitions.
    pub(super) fn of(partitions: u16) -> TestBus {
        TestBus { partitions, ..TestBus::default() }
    }

    /// The time of the bus at a time of the nodes.
    pub(super) fn time(&self, now: f64) -> f64 {
        EPOCH + now
    }

    /// Stores a session of an edge that takes no partitions.
    pub(super) fn session(&mut self, edge: &str, number: u64, holds_back: bool, now: f64) {
        let id = SessionId { node: edge.parse().expect("a name"), start: 1 };
        let node = id.node.clone();
        let session =
            super::Session { id, number, takes: false, load: 0, spooled: 1, holds_back, note: Default::default() };
        let stored = Stored { sequence: number, stored: self.time(now), payload: session.encode() };
        self.sessions.insert(node, stored);
    }

    /// Stores the same batch in all partitions, with its edge and number for a body.
    pub(super) fn batch(&mut self, edge: &str, n: u64, interval: Interval, now: f64) {
        self.store(&header(edge, n, interval), now);
    }

    /// Stores a batch in all partitions.
    pub(super) fn store(&mut self, header: &BatchHeader, now: f64) {
        for partition in 0..self.partitions {
            self.log_end += 1;
            self.log.push((partition, batch(self.log_end, header, self.time(now))));
        }
    }

    /// Loses the last batches.
    pub(super) fn lose_end(&mut self, batches: u64) {
        self.log_end -= batches;
        self.log.retain(|(_, batch)| batch.sequence <= self.log_end);
    }

    /// Loses all records of each partition but the first ones.
    pub(super) fn lose_records(&mut self, kept: usize) {
        let mut left = vec![kept; self.partitions as usize];
        self.records.retain(|(partition, _)| {
            let left = &mut left[*partition as usize];
            std::mem::replace(left, left.saturating_sub(1)) > 0
        });
        self.sequence = self.records.last().map_or(0, |(_, record)| record.sequence);
    }

    /// Puts the first record of a new stream into the place of the last one of each partition.
    pub(super) fn replace_records(&mut self, now: f64) {
        let stored = self.time(now);
        for partition in 0..self.partitions {
            let token = 1000 + u64::from(partition);
            let first = Record { token, ..Record::genesis() };
            let last = self.records.iter().rev().find(|(of, _)| *of == partition).map(|(_, last)| last.sequence);
            self.records.retain(|(of, _)| *of != partition);
            let sequence = last.expect("there is one");
            self.records.push((partition, Stored { sequence, stored, payload: first.encode() }));
        }
    }

    /// Stores something for a record.
    pub(super) fn store_record(&mut self, partition: u16, payload: &'static [u8]) {
        self.sequence += 1;
        let stored = Stored { sequence: self.sequence, stored: EPOCH, payload: Bytes::from_static(payload) };
        self.records.push((partition, stored));
    }

    /// Loses all records of a partition but the last ones.
    pub(super) fn keep_records(&mut self, partition: u16, kept: usize) {
        let all = self.records.iter().filter(|(of, _)| *of == partition).count();
        let mut old = all.saturating_sub(kept);
        self.records.retain(|(of, _)| {
            let is_old = *of == partition && old > 0;
            old -= usize::from(is_old);
            !is_old
        });
    }

    /// All records of all partitions.
    pub(super) fn all_records(&self) -> impl Iterator<Item = Record> {
        self.records.iter().filter_map(|(_, stored)| Record::decode(&stored.payload))
    }

    /// The valid record of a partition.
    pub(super) fn record(&self, partition: u16) -> Record {
        let own = self.records.iter().filter(|(of, _)| *of == partition);
        let mut chain = super::Chain::begin(None);
        assert!(own.into_iter().all(|(_, stored)| chain.take(stored)));
        chain.valid().1.cloned().unwrap_or_else(Record::genesis)
    }

    /// Lets time pass for nodes.
    pub(super) fn run(&mut self, nodes: &mut [&mut Node<Bodies>], from: f64, to: f64) {
        let mut now = from;
        while now < to {
            now += Node::<Bodies>::tick_secs();
            for node in &mut *nodes {
                let is_here = |(at, to, _): &mut (f64, NodeName, Event)| *at <= now && *to == node.id().node;
                let arrived: Vec<_> = self.late.extract_if(.., is_here).collect();
                arrived.into_iter().for_each(|(.., event)| node.take(event, now));
                node.tick(now);
                self.obey(node, now);
            }
        }
    }

    /// Does what a node wants until it wants nothing.
    pub(super) fn obey(&mut self, node: &mut Node<Bodies>, now: f64) {
        loop {
            let commands = node.commands();
            if commands.is_empty() {
                return;
            }
            for command in commands {
                if !(self.allows)(&command) {
                    continue;
                }
                match self.reply(command, now) {
                    Some(event @ (Event::Checkpoint { .. } | Event::CheckpointStored { .. }))
                        if self.checkpoint_secs > 0.0 =>
                    {
                        self.late.push((now + self.checkpoint_secs, node.id().node.clone(), event));
                    }
                    Some(event) => node.take(event, now),
                    None => {}
                }
            }
        }
    }

    fn reply(&mut self, command: Command<Emission<Bodies>>, now: f64) -> Option<Event> {
        let stored = self.time(now);
        let mut next = || {
            self.sequence += 1;
            self.sequence
        };
        let record = |(of, record): &(u16, Stored), partition, after| {
            (*of == partition && record.sequence > after).then(|| record.clone())
        };
        Some(match command {
            Command::PutSession { number, payload } => {
                let id = super::Session::decode(&payload)?.id;
                let sequence = next();
                self.sessions.insert(id.node, Stored { sequence, stored, payload });
                Event::SessionStored { number, sequence }
            }
            Command::ReadSessions => Event::Sessions(self.sessions.values().cloned().collect()),
            Command::ReadLastRecord { partition } => {
                let last = self.records.iter().rev().find_map(|one| record(one, partition, 0));
                Event::LastRecord { partition, record: last }
            }
            Command::ReadRecords { partition, after } => {
                let records = self.records.iter().filter_map(|one| record(one, partition, after)).collect();
                Event::Records { partition, after, records }
            }
            Command::WriteRecord { partition, expected, payload } => {
                let last = self.records.iter().rev().find(|(of, _)| *of == partition);
                if last.map_or(0, |(_, record)| record.sequence) == expected {
                    let sequence = next();
                    self.records.push((partition, Stored { sequence, stored, payload }));
                }
                Event::RecordAnswered { partition }
            }
            Command::ReadBatches { at, from } => {
                let from = from.max(self.first);
                let own = self.log.iter().filter(|(of, batch)| *of == at.partition && batch.sequence >= from);
                let batches = own.map(|(_, batch)| batch.clone()).collect();
                Event::Batches { at, batches, is_end: true, first: self.first, last: self.log_end }
            }
            Command::ReadBodies { at, sequences } => {
                let own = self.log.iter().filter(|(_, batch)| sequences.contains(&batch.sequence));
                Event::Bodies { at, batches: own.map(|(_, batch)| batch.clone()).collect() }
            }
            Command::WriteCheckpoint { at, payload } => {
                let sequence = next();
                self.checkpoints.insert((at.partition, sequence), payload);
                Event::CheckpointStored { at, sequence }
            }
            Command::ReadCheckpoint { at, sequence } => {
                Event::Checkpoint { at, payload: self.checkpoints.get(&(at.partition, sequence)).cloned() }
            }
            Command::Emit { at, emission } => {
                self.emitted.push(emission);
                Event::Emitted { at }
            }
        })
    }
}
