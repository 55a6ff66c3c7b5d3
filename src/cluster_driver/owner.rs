//! The thread of a node that owns partitions: carries the commands of its machine to the bus and the answers back, and
//! intervals to the sinks.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use crate::cluster::{
    Command, Emission, Event, Finding, IntervalContent, LastInterval, Node, NodeName, NodeOptions, Sequence, Session,
    SessionId, SessionNote, Stored,
};
use crate::cluster_bus::{Bus, BusError};
use crate::snapshot::{DeliveryGuard, Snapshot};
use crate::supervise::Part;
use crate::sys::unix_time;

use super::Clock;
use super::emissions::Emissions;
use super::status::{STATUS_SECS, StatusBoard};

/// Share of an interval for which emissions wait for those of other partitions.
const GATHER: f64 = 0.3;

/// Intervals that sinks may have and have not taken, so that a backlog does not overflow their queues. One that fails is not
/// waited for.
const MOST_UNTAKEN: usize = 2;

/// How an owner is run.
#[derive(Debug)]
pub struct OwnerDriverOptions {
    /// What the machine is told.
    pub node: NodeOptions,
    /// What merges.
    pub content: Arc<IntervalContent>,
    /// Whether it owns nothing, and watches what others do.
    pub only_watches: bool,
}

/// A node that owns partitions, and what it is connected with.
pub struct OwnerDriver {
    bus: Arc<dyn Bus>,
    clock: Clock,
    content: Arc<IntervalContent>,
    node: Node<IntervalContent>,
    interval_secs: f64,
    emissions: Emissions,
    merged: mpsc::Sender<Snapshot>,
    status: StatusBoard,
    published_at: f64,
    /// The streams are as they should be.
    is_prepared: watch::Receiver<bool>,
    /// Intervals that a sink has yet to take.
    untaken: Arc<AtomicUsize>,
    /// Parts of intervals that were handed to the sinks.
    parts: u64,
    /// Where our last session is.
    own_session: Sequence,
    /// The node stops, and the number of the first session that says so.
    is_stopping: bool,
    goodbye: Option<u64>,
    has_said_goodbye: bool,
    events: (mpsc::UnboundedSender<Event>, mpsc::UnboundedReceiver<Event>),
}

impl OwnerDriver {
    /// A node that owns nothing yet. `merged` takes intervals for the sinks.
    pub fn new(
        options: OwnerDriverOptions,
        bus: Arc<dyn Bus>,
        is_prepared: watch::Receiver<bool>,
        merged: mpsc::Sender<Snapshot>,
        status: StatusBoard,
    ) -> OwnerDriver {
        let OwnerDriverOptions { node, content, only_watches } = options;
        let (interval_secs, start) = (node.terms.interval_secs, node.id.start);
        let gather_secs = (GATHER * interval_secs).clamp(0.5, 3.0);
        OwnerDriver {
            bus,
            clock: Clock::default(),
            node: match only_watches {
                true => Node::watching(node, Arc::clone(&content)),
                false => Node::new(node, Arc::clone(&content)),
            },
            content,
            interval_secs,
            emissions: Emissions::new(gather_secs),
            is_prepared,
            untaken: Arc::default(),
            own_session: 0,
            is_stopping: false,
            goodbye: None,
            has_said_goodbye: false,
            // No two starts of a node have the same.
            parts: start << 20,
            merged,
            status,
            published_at: f64::MIN,
            events: mpsc::unbounded_channel(),
        }
    }

    /// Runs until a deadline is set, all partitions are given up and the others know that it stops, or that deadline has passed, or nobody can set one.
    pub async fn run(mut self, mut deadline: watch::Receiver<Option<Instant>>, part: &Part) {
        let mut next_tick = self.clock.now();
        let mut is_leaving = false;
        loop {
            part.alive();
            let until = *deadline.borrow();
            if (until.is_some() || self.status.is_draining()) && !std::mem::replace(&mut is_leaving, true) {
                self.node.leave();
                next_tick = self.clock.now();
            }
            if let Some(until) = until {
                if !std::mem::replace(&mut self.is_stopping, true) {
                    self.node.leave();
                    next_tick = self.clock.now();
                }
                let is_known = self.has_said_goodbye || !*self.is_prepared.borrow();
                let has_left = is_known && self.node.owned().next().is_none() && self.emissions.is_empty();
                if has_left || Instant::now() >= until {
                    break;
                }
            }
            let now = self.clock.now();
            if now >= next_tick && *self.is_prepared.borrow() {
                next_tick = now + Node::<IntervalContent>::tick_secs();
                let (spooled, holds_back) = self.status.spooled();
                self.node.set_spooled(spooled, holds_back);
                self.node.set_note(SessionNote { has_left: self.is_stopping, ..self.status.note() });
                self.node.tick(now);
            }
            self.carry(now);
            self.emit(now);
            self.publish(now);
            let pause = self.clock.until(next_tick, Duration::from_millis(250));
            tokio::select! {
                Some(event) = self.events.1.recv() => {
                    self.take(event);
                    while let Ok(event) = self.events.1.try_recv() {
                        self.take(event);
                    }
                }
                changed = deadline.changed() => match changed {
                    Ok(()) => {}
                    Err(_) => break,
                },
                () = tokio::time::sleep(pause) => {}
            }
        }
        let kept = self.node.owned().count();
        if kept > 0 {
            tracing::warn!(partitions = kept, "partitions could not be given up in time; others take them after 6 s");
        }
        self.publish(f64::MAX);
    }

    fn take(&mut self, event: Event) {
        if let Event::SessionStored { number, sequence } = &event {
            // Sequences begin anew when all servers were restarted.
            self.own_session = *sequence;
            self.has_said_goodbye |= self.goodbye.is_some_and(|goodbye| *number >= goodbye);
            self.status.works();
        }
        let has_looked = matches!(event, Event::Sessions(_));
        self.node.take(event, self.clock.now());
        if has_looked {
            self.look_at_twin();
        }
    }

    /// Begins a new start when the node is over that had our name and a later one.
    fn look_at_twin(&mut self) {
        self.status.superseded(self.node.is_superseded());
        let Some(least) = self.node.outlived().filter(|_| !self.is_stopping) else { return };
        let start = least.max((unix_time() * 1e3) as u64);
        self.node.start_again(start);
        self.status.start_again(start);
    }

    fn carry(&mut self, now: f64) {
        for command in self.node.commands() {
            match command {
                Command::Emit { at, emission } => self.emissions.add(at, emission, now),
                other => {
                    if let (Command::PutSession { number, .. }, true) = (&other, self.is_stopping) {
                        self.goodbye.get_or_insert(*number);
                    }
                    let (bus, events) = (Arc::clone(&self.bus), self.events.0.clone());
                    let (me, status, own) = (self.node.id().clone(), self.status.clone(), self.own_session);
                    tokio::spawn(async move {
                        match call(bus.as_ref(), &me.node, other).await {
                            Ok(event) => {
                                if let Event::Sessions(all) = &event
                                    && has_twin(all, own, &me)
                                {
                                    status.has_twin();
                                }
                                // The thread may have ended.
                                let _ = events.send(event);
                            }
                            // It is asked for again.
                            Err(BusError::TimedOut | BusError::Refused) => {}
                            Err(error) => status.fails(&error.to_string()),
                        }
                    });
                }
            }
        }
    }

    /// Gives the sinks what is complete, as far as they take it.
    fn emit(&mut self, now: f64) {
        let owned = self.node.owned().count();
        while let Ok(room) = self.merged.try_reserve() {
            if self.untaken.load(Ordering::Acquire) >= MOST_UNTAKEN {
                return;
            }
            let Some(group) = self.emissions.next(owned, now) else { return };
            group.emissions.iter().for_each(|emission| self.report(emission));
            let (events, positions) = (self.events.0.clone(), group.positions);
            let mut snapshot = self.content.snapshot(group.emissions);
            self.status.merged(snapshot.ledger.cluster.as_ref(), last_interval(&snapshot));
            self.parts += 1;
            snapshot.part = self.parts;
            self.untaken.fetch_add(1, Ordering::AcqRel);
            let untaken = Arc::clone(&self.untaken);
            snapshot.delivery = Some(DeliveryGuard::new(move || {
                untaken.fetch_sub(1, Ordering::AcqRel);
                for at in &positions {
                    let _ = events.send(Event::Emitted { at: *at });
                }
            }));
            room.send(snapshot);
        }
    }

    /// Logs what is wrong with the batches of an interval, and names edges with other settings.
    fn report(&self, emission: &Emission<IntervalContent>) {
        let findings = emission.account.iter().flat_map(|account| &account.findings);
        let headers = findings.filter(|finding| matches!(finding, Finding::Unreadable { .. })).count() as u64;
        if emission.merged.unreadable() + headers > 0 {
            tracing::error!(
                partition = emission.partition,
                batches = emission.merged.unreadable() + headers,
                why = emission.merged.errors().join("; "),
                "batches of an interval cannot be read; they are left out"
            );
        }
        // Every partition has all edges, so one of them tells.
        let Some(account) = emission.account.as_ref().filter(|_| emission.partition == 0) else { return };
        let differs = |finding: &Finding| match finding {
            Finding::OtherConfig { edge, .. } => Some(edge.to_string()),
            _ => None,
        };
        let differing: BTreeSet<String> = account.findings.iter().filter_map(differs).collect();
        self.status.edges_differ(differing);
    }

    fn publish(&mut self, now: f64) {
        if now - self.published_at < STATUS_SECS {
            return;
        }
        self.published_at = now;
        let now = self.clock.now();
        let (nodes, partitions) = (self.node.nodes(now), self.node.partitions(now));
        let ahead = self.node.bus_time(now).map(|bus| unix_time() - bus);
        let other_interval = self.node.other_interval().map(|theirs| (theirs, self.interval_secs));
        self.status.change(|status| status.other_interval = other_interval);
        self.status.sees(nodes, partitions, ahead);
    }
}

/// Whether one of these sessions is of our name and another start, and was stored after the last one of ours, `own`, that was
/// known when they were asked for.
fn has_twin(all: &[Stored], own: Sequence, id: &SessionId) -> bool {
    let later = all.iter().filter(|stored| own > 0 && stored.sequence > own);
    let mut sessions = later.filter_map(|stored| Session::decode(&stored.payload));
    sessions.any(|session| session.id.node == id.node && session.id.start != id.start)
}

/// How complete an interval was, if it has the accounts of the edges.
fn last_interval(snapshot: &Snapshot) -> Option<LastInterval> {
    let account = snapshot.ledger.cluster.as_ref().filter(|account| account.edges_expected > 0)?;
    Some(LastInterval {
        end: snapshot.end,
        completeness: snapshot.ledger.completeness,
        edges_expected: account.edges_expected,
        edges_heard: account.edges_heard,
        edges_behind: account.edges_behind.clone(),
    })
}

/// Does a command. What fails is not told: the machine asks again.
async fn call(bus: &dyn Bus, me: &NodeName, command: Command<Emission<IntervalContent>>) -> Result<Event, BusError> {
    Ok(match command {
        Command::PutSession { number, payload } => {
            Event::SessionStored { number, sequence: bus.put_session(me, payload).await? }
        }
        Command::ReadSessions => Event::Sessions(bus.sessions().await?),
        Command::ReadLastRecord { partition } => {
            Event::LastRecord { partition, record: bus.last_record(partition).await? }
        }
        Command::ReadRecords { partition, after } => {
            Event::Records { partition, after, records: bus.records(partition, after).await? }
        }
        Command::WriteRecord { partition, expected, payload } => {
            // Whatever it answers, the record is read.
            let _ = bus.write_record(partition, expected, payload).await;
            Event::RecordAnswered { partition }
        }
        Command::ReadBatches { at, from } => {
            let page = bus.batches(at.partition, from).await?;
            Event::Batches { at, batches: page.batches, is_end: page.is_end, first: page.first, last: page.last }
        }
        Command::ReadBodies { at, sequences } => {
            Event::Bodies { at, batches: bus.bodies(at.partition, &sequences).await? }
        }
        Command::WriteCheckpoint { at, payload } => {
            Event::CheckpointStored { at, sequence: bus.write_checkpoint(at.partition, payload).await? }
        }
        Command::ReadCheckpoint { at, sequence } => {
            Event::Checkpoint { at, payload: bus.read_checkpoint(at.partition, sequence).await? }
        }
        Command::Emit { .. } => unreachable!("it is for the sinks"),
    })
}
