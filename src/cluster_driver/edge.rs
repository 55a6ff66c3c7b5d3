//! The thread of an edge: seals the intervals of this node, sends them, and knows what waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use crate::cluster::batch::{BodyWriter, EdgeAccount, partition};
use crate::cluster::{Edge, EdgeOptions, Heard, NodeName, SavedEdge};
use crate::cluster_bus::{Bus, BusError};
use crate::flush::OwnInterval;
use crate::supervise::Part;
use crate::sys::unix_time;

use super::Clock;
use super::state::EdgeState;
use super::status::{EdgeStatus, STATUS_SECS, StatusBoard};

/// Bytes of a header without an account, at most.
const HEADER_BYTES: usize = 256;

/// Bytes of an account, at most.
const ACCOUNT_BYTES: usize = 66 << 10;

/// Longest sleep, and longest one when the deadline of a stop is near.
const LONGEST: Duration = Duration::from_millis(500);
const SHORTEST: Duration = Duration::from_millis(20);

/// How an edge is run.
#[derive(Debug)]
pub struct EdgeDriverOptions {
    /// What the machine is told; the number of the start is that of the state.
    pub edge: EdgeOptions,
    /// Length of an interval, in seconds.
    pub interval_secs: f64,
}

/// An edge and what it is connected with.
#[derive(Debug)]
pub struct EdgeDriver {
    bus: Arc<dyn Bus>,
    clock: Clock,
    name: NodeName,
    edge: Edge,
    writer: BodyWriter,
    state: EdgeState,
    status: StatusBoard,
    partitions: u16,
    spool_bytes: usize,
    interval_secs: f64,
    sealed: u64,
    left_out: u64,
    has_left: bool,
    /// Batches that were stored since another node of our name was seen.
    ignored: u64,
    /// The bus has refused batches, and not all were sent since.
    holds_back: bool,
    publish_at: f64,
    /// The streams are as they should be.
    is_prepared: watch::Receiver<bool>,
    /// All partitions know of this start.
    ready: watch::Sender<bool>,
    /// What the last start has left is still on its way: until then the file keeps it.
    keeps_saved: bool,
    acknowledged: (mpsc::UnboundedSender<Answer>, mpsc::UnboundedReceiver<Answer>),
}

/// What a call of the bus gave.
#[derive(Debug)]
enum Answer {
    /// A batch is stored.
    Batch { partition: u16, boot: u64, n: u64 },
    /// The bus refuses something, and says why.
    Failed(String),
}

impl EdgeDriver {
    /// An edge that goes on with what its last start has left.
    pub fn new(
        options: EdgeDriverOptions,
        (state, saved): (EdgeState, SavedEdge),
        bus: Arc<dyn Bus>,
        is_prepared: watch::Receiver<bool>,
        status: StatusBoard,
    ) -> EdgeDriver {
        let EdgeDriverOptions { edge, interval_secs } = options;
        let clock = Clock::default();
        let (name, partitions, boot) = (edge.name.clone(), edge.partitions, state.boot());
        let spool_bytes = edge.spool_bytes;
        let interval = (unix_time() / interval_secs) as u64;
        let keeps_saved = saved.spool.iter().any(|spool| !spool.is_empty());
        let mut driver = EdgeDriver {
            edge: Edge::start(EdgeOptions { boot, ..edge }, saved, interval, clock.now()),
            writer: BodyWriter::default(),
            bus,
            clock,
            name,
            state,
            status,
            partitions,
            spool_bytes,
            interval_secs,
            sealed: 0,
            left_out: 0,
            has_left: false,
            ignored: 0,
            holds_back: false,
            publish_at: f64::MIN,
            is_prepared,
            ready: watch::channel(false).0,
            keeps_saved,
            acknowledged: mpsc::unbounded_channel(),
        };
        driver.save_numbers();
        driver
    }

    /// Whether what is heard from now on is waited for: all partitions know of this start, or were given time.
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// Runs until the last interval was sent, or the deadline of a stop has passed, or nobody can set one; what is not sent then
    /// is saved.
    pub async fn run(
        mut self,
        mut intervals: mpsc::Receiver<OwnInterval>,
        deadline: watch::Receiver<Option<Instant>>,
        part: &Part,
    ) {
        let mut is_open = true;
        while !self.is_done(is_open, &deadline) {
            part.alive();
            let is_drained = self.edge.is_drained();
            if let Some(boot) = self.status.start().filter(|boot| *boot > self.state.boot() && !self.has_left) {
                self.start_again(boot);
            }
            (self.keeps_saved, self.holds_back) = (self.keeps_saved && !is_drained, self.holds_back && !is_drained);
            self.send();
            if self.edge.is_ready(self.clock.now()) {
                self.ready.send_if_modified(|ready| !std::mem::replace(ready, true));
            }
            if self.clock.now() >= self.publish_at {
                self.publish();
            }
            let is_new = !*self.ready.borrow();
            let longest = if self.has_left || is_new { SHORTEST } else { LONGEST };
            let due = if *self.is_prepared.borrow() { self.edge.next_due() } else { None };
            let pause = self.clock.until(due.unwrap_or(f64::MAX), longest);
            tokio::select! {
                Some(answer) = self.acknowledged.1.recv() => {
                    self.take(answer);
                    while let Ok(answer) = self.acknowledged.1.try_recv() {
                        self.take(answer);
                    }
                }
                interval = intervals.recv(), if is_open => match interval {
                    Some(interval) => self.seal(&interval),
                    None => is_open = false,
                },
                () = tokio::time::sleep(pause) => {}
            }
        }
        let batches = self.edge.spooled_batches();
        let is_saved = self.state.save(self.edge.saved());
        match batches {
            0 => {}
            _ if is_saved => {
                tracing::warn!(batches, "batches are not sent to the cluster; the next start of this node sends them");
            }
            _ => tracing::error!(
                batches,
                "batches are not sent to the cluster and cannot be kept (`cluster.state_file`); they are lost"
            ),
        }
        self.publish();
    }

    fn is_done(&self, is_open: bool, deadline: &watch::Receiver<Option<Instant>>) -> bool {
        let is_late = deadline.has_changed().is_err() || deadline.borrow().is_some_and(|until| Instant::now() >= until);
        (self.has_left || !is_open) && (is_late || self.edge.is_drained())
    }

    /// Goes on after another node of its name.
    fn start_again(&mut self, boot: u64) {
        let batches = std::mem::take(&mut self.ignored);
        tracing::warn!(
            boot,
            batches,
            "the other node of the name of this one is gone: this one goes on, as a new start; `batches` that it sent \
             meanwhile are not merged"
        );
        self.state.start_again(boot);
        self.edge.start_again(boot, (unix_time() / self.interval_secs) as u64);
        self.save_numbers();
    }

    fn seal(&mut self, own: &OwnInterval) {
        let snapshot = &own.snapshot;
        let account = EdgeAccount::new(&snapshot.ledger);
        let mut all = Vec::with_capacity(self.partitions as usize);
        let partitions = self.partitions.try_into().expect("there is a partition");
        for (number, part) in partition(snapshot, partitions).iter().enumerate() {
            let header = HEADER_BYTES + if number == 0 { ACCOUNT_BYTES } else { 0 };
            let written = self.writer.bodies(part, header);
            if let Some(first) = written.left_out.first() {
                self.left_out += written.left_out.len() as u64;
                tracing::error!(
                    series = written.left_out.len(),
                    first,
                    "series are too large for a message of the cluster; they are left out"
                );
            }
            all.push(written.bodies.into_iter().map(Bytes::from).collect::<Vec<_>>());
        }
        let heard =
            Heard { interval: own.number, length: snapshot.interval_secs, bodies: &all, account: Some(&account) };
        let dropped = self.edge.dropped();
        match own.is_last {
            true => self.edge.leave(&heard),
            false => self.edge.seal(&heard),
        }
        (self.sealed, self.has_left) = (own.number, own.is_last);
        if self.edge.dropped() > dropped {
            tracing::warn!(
                batches = self.edge.dropped() - dropped,
                bytes = self.edge.spooled_bytes(),
                "too much waits for the bus (`cluster.spool_memory`): the oldest batches are dropped"
            );
        }
        self.save_numbers();
    }

    /// Saves the numbers that were given; what waits is saved with the last interval, before any of it is waited for.
    fn save_numbers(&mut self) {
        if self.has_left {
            self.state.save(self.edge.saved());
        } else if !self.keeps_saved {
            self.state.save(SavedEdge { numbers: self.edge.numbers(), ..SavedEdge::default() });
        }
    }

    fn send(&mut self) {
        if !*self.is_prepared.borrow() {
            return;
        }
        let now = self.clock.now();
        for batch in self.edge.due(now) {
            let (bus, name, answers) = (Arc::clone(&self.bus), self.name.clone(), self.acknowledged.0.clone());
            tokio::spawn(async move {
                let sent = bus.put_batch(batch.partition, &name, unix_time(), batch.payload).await;
                let answer = match sent {
                    Ok(()) => Answer::Batch { partition: batch.partition, boot: batch.boot, n: batch.n },
                    // It is sent again.
                    Err(BusError::TimedOut | BusError::Refused) => return,
                    Err(error) => Answer::Failed(error.to_string()),
                };
                // The thread may have ended.
                let _ = answers.send(answer);
            });
        }
    }

    fn take(&mut self, answer: Answer) {
        match answer {
            Answer::Batch { partition, boot, n } => {
                self.edge.acknowledged(partition, boot, n);
                self.ignored += u64::from(self.status.is_superseded());
                self.status.works();
            }
            Answer::Failed(error) => {
                self.holds_back = true;
                self.status.fails(&error);
            }
        }
    }

    fn publish(&mut self) {
        self.publish_at = self.clock.now() + STATUS_SECS;
        let edge = EdgeStatus {
            boot: self.state.boot(),
            sealed: self.sealed,
            spooled_batches: self.edge.spooled_batches(),
            spooled_bytes: self.edge.spooled_bytes() as u64,
            spool_bytes: self.spool_bytes as u64,
            dropped_batches: self.edge.dropped(),
            left_out: self.left_out,
            holds_back: self.holds_back,
        };
        self.status.change(|status| status.edge = Some(edge));
    }
}
