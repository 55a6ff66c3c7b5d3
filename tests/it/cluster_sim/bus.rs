//! The bus of the simulation: what it acknowledged it loses if it is told to, everything else as it likes.

use std::collections::BTreeMap;

use bytes::Bytes;
use systole::internals::cluster::{Command, Emission, Event, Sequence, Stored, StoredBatch};

use super::content::SimContent;
use super::world::{EPOCH, End, World, act};

/// Records of a partition that are kept.
const MOST_RECORDS: usize = 64;

/// A message with the virtual time at which it was stored.
pub type Timed<T> = (f64, T);

#[derive(Default)]
pub struct Bus {
    pub log: Vec<Vec<StoredBatch>>,
    log_end: Sequence,
    /// All that ever were, of each partition; only the last ones can be read.
    pub records: Vec<Vec<Timed<Stored>>>,
    /// Those of streams that are no more.
    pub lost_records: Vec<Vec<Vec<Timed<Stored>>>>,
    record_end: Sequence,
    sessions: BTreeMap<usize, Vec<Timed<Stored>>>,
    session_end: Sequence,
    checkpoints: BTreeMap<(u16, Sequence), Bytes>,
    checkpoint_end: Sequence,
    down_until: f64,
    leader: u64,
    last_commit: f64,
    /// Its clock against the virtual time.
    skew: f64,
    /// Messages that a read gives at most.
    page: usize,
    pub races: u64,
    /// Batches are gone after so many seconds, if they are at all.
    pub max_age: Option<f64>,
}

impl Bus {
    pub fn new(partitions: u16, page: usize) -> Bus {
        let each = 0..partitions;
        let (log, records) = each.map(|_| (Vec::new(), Vec::new())).unzip();
        Bus { log, records, page, ..Bus::default() }
    }
}

impl World {
    fn bus_is_up(&self) -> bool {
        self.now >= self.bus.down_until
    }

    pub fn fail_over(&mut self, secs: f64) {
        self.bus.leader += 1;
        self.bus.down_until = self.bus.down_until.max(self.now + secs);
        self.bus.skew = self.rng.u() * 0.6 - 0.3;
    }

    /// When something that the leader took in is stored, and by which leader.
    fn commit_at(&mut self, most: f64) -> (f64, u64) {
        let when = self.bus.last_commit.max(self.now + 0.001 + self.rng.u() * most);
        self.bus.last_commit = when;
        (when, self.bus.leader)
    }

    /// Stores something that the leader has taken in; `reply` is done if it is acknowledged.
    fn commit<T>(
        &mut self,
        most: f64,
        store: impl Fn(&mut World) -> T + Clone + 'static,
        reply: impl Fn(&mut World, T) + Clone + 'static,
    ) {
        let (when, leader) = self.commit_at(most);
        let commit = move |world: &mut World| {
            if world.is_lost(leader) {
                return;
            }
            let stored = store(world);
            if leader == world.bus.leader {
                reply(world, stored);
            }
        };
        self.at(when, act(commit));
    }

    /// What was not acknowledged when the leader failed may be lost.
    fn is_lost(&mut self, leader: u64) -> bool {
        leader != self.bus.leader && self.rng.u() < 0.5
    }

    /// The first sequence that the log still has.
    fn first_kept(&self) -> Sequence {
        let Some(max_age) = self.bus.max_age else { return 1 };
        let kept = |batch: &&StoredBatch| batch.stored >= EPOCH + self.now - max_age;
        let all = self.bus.log.iter().filter_map(|all| Some(all.iter().find(kept)?.sequence));
        all.min().unwrap_or(self.bus.log_end + 1)
    }

    /// Makes the streams of records and checkpoints anew.
    pub fn lose_records(&mut self) {
        let bus = &mut self.bus;
        let empty = vec![Vec::new(); bus.records.len()];
        bus.lost_records.push(std::mem::replace(&mut bus.records, empty));
        bus.checkpoints.clear();
        (bus.record_end, bus.checkpoint_end) = (0, 0);
    }

    /// Loses the last batches of the log, as a majority of servers does that loses power.
    pub fn lose_end(&mut self, batches: u64) {
        self.bus.log_end = self.bus.log_end.saturating_sub(batches);
        let end = self.bus.log_end;
        for all in &mut self.bus.log {
            let left = all.partition_point(|batch| batch.sequence <= end);
            self.gone += all.split_off(left).len() as u64;
        }
    }

    fn stamp(&self) -> f64 {
        EPOCH + self.now + self.bus.skew
    }

    /// Publishes a batch; `reply` is done if it is acknowledged.
    pub fn publish(&mut self, partition: u16, sent: f64, payload: Bytes, reply: impl Fn(&mut World) + Clone + 'static) {
        if !self.bus_is_up() {
            return;
        }
        let store = move |world: &mut World| {
            world.bus.log_end += 1;
            let (sequence, stored) = (world.bus.log_end, world.stamp());
            let batch = StoredBatch { sequence, stored, sent, payload: payload.clone() };
            world.bus.log[partition as usize].push(batch);
            sequence
        };
        self.commit(0.01, store, move |world, _| reply(world));
    }

    /// A command of a node has reached the bus.
    pub fn bus_takes(&mut self, node: usize, inc: u64, command: &Command<Emission<SimContent>>) {
        if !self.bus_is_up() {
            return;
        }
        let lag = if self.rng.u() < 0.1 { self.rng.u() } else { 0.0 };
        let seen = self.now - lag;
        let event = match command {
            Command::PutSession { number, payload } => return self.put_session(node, inc, *number, payload.clone()),
            Command::WriteRecord { partition, expected, payload } => {
                return self.write_record(node, inc, *partition, *expected, payload.clone());
            }
            Command::WriteCheckpoint { at, payload } => {
                self.bus.checkpoint_end += 1;
                let sequence = self.bus.checkpoint_end;
                self.bus.checkpoints.insert((at.partition, sequence), payload.clone());
                Event::CheckpointStored { at: *at, sequence }
            }
            Command::ReadSessions => {
                let last = |all: &Vec<Timed<Stored>>| Some(all.iter().rev().find(|(at, _)| *at <= seen)?.1.clone());
                Event::Sessions(self.bus.sessions.values().filter_map(last).collect())
            }
            Command::ReadLastRecord { partition } => {
                let last = self.bus.records[*partition as usize].iter().rev().find(|(at, _)| *at <= seen);
                Event::LastRecord { partition: *partition, record: last.map(|(_, record)| record.clone()) }
            }
            Command::ReadRecords { partition, after } => {
                let all = &self.bus.records[*partition as usize];
                let kept = &all[all.len().saturating_sub(MOST_RECORDS)..];
                let after_it = kept.iter().filter(|(at, record)| record.sequence > *after && *at <= seen);
                let records = after_it.take(self.bus.page).map(|(_, record)| record.clone()).collect();
                Event::Records { partition: *partition, after: *after, records }
            }
            Command::ReadBatches { at, from } => {
                let all = &self.bus.log[at.partition as usize];
                let first = self.first_kept();
                let start = all.partition_point(|batch| batch.sequence < (*from).max(first));
                let batches: Vec<StoredBatch> = all[start..].iter().take(self.bus.page).cloned().collect();
                let is_end = start + batches.len() == all.len();
                Event::Batches { at: *at, batches, is_end, first, last: self.bus.log_end }
            }
            Command::ReadBodies { at, sequences } => {
                let (all, first) = (self.bus.log[at.partition as usize].iter(), self.first_kept());
                let is_kept = |batch: &&StoredBatch| batch.sequence >= first && sequences.contains(&batch.sequence);
                let batches = all.filter(is_kept).cloned().collect();
                Event::Bodies { at: *at, batches }
            }
            Command::ReadCheckpoint { at, sequence } => {
                let payload = self.bus.checkpoints.get(&(at.partition, *sequence)).cloned();
                Event::Checkpoint { at: *at, payload }
            }
            Command::Emit { .. } => unreachable!("sinks are no bus"),
        };
        self.answer(node, inc, event);
    }

    fn answer(&mut self, node: usize, inc: u64, event: Event) {
        self.send(End::Node(node), act(move |world| world.node_hears(node, inc, event.clone())));
    }

    fn put_session(&mut self, node: usize, inc: u64, number: u64, payload: Bytes) {
        let store = move |world: &mut World| {
            world.bus.session_end += 1;
            let sequence = world.bus.session_end;
            let stored = Stored { sequence, stored: world.stamp(), payload: payload.clone() };
            let now = world.now;
            world.bus.sessions.entry(node).or_default().push((now, stored));
            sequence
        };
        let reply =
            move |world: &mut World, sequence| world.answer(node, inc, Event::SessionStored { number, sequence });
        self.commit(0.01, store, reply);
    }

    /// The server compares when it takes a record in, and not always when it stores it: of two at once both may hear yes.
    fn write_record(&mut self, node: usize, inc: u64, partition: u16, expected: Sequence, payload: Bytes) {
        let last = move |world: &World| {
            world.bus.records[partition as usize].last().map_or(0, |(_, record): &Timed<Stored>| record.sequence)
        };
        if last(self) != expected {
            return self.answer(node, inc, Event::RecordAnswered { partition });
        }
        let store = move |world: &mut World| {
            let is_race = last(world) != expected;
            if !is_race || world.rng.u() < 0.7 {
                world.bus.races += u64::from(is_race);
                world.bus.record_end += 1;
                let (sequence, stored) = (world.bus.record_end, world.stamp());
                let record = Stored { sequence, stored, payload: payload.clone() };
                let now = world.now;
                world.bus.records[partition as usize].push((now, record));
            }
        };
        self.commit(0.02, store, move |world, ()| world.answer(node, inc, Event::RecordAnswered { partition }));
    }
}
