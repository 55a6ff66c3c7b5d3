//! The thread of an edge: seals the intervals of this node, sends them, and knows what waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use crate::cluster::batch::{EdgeAccount, bodies, partition};
use crate::cluster::{Edge, EdgeOptions, Heard, NodeName, SavedEdge, Session, SessionId};
use crate::cluster_bus::Bus;
use crate::flush::OwnInterval;
use crate::supervise::Part;
use crate::sys::unix_time;

use super::Clock;
use super::state::EdgeState;
use super::status::{EdgeStatus, StatusBoard};

/// Bytes of a header without an account, at most.
const HEADER_BYTES: usize = 256;

/// Bytes of an account, at most.
const ACCOUNT_BYTES: usize = 66 << 10;

/// Longest sleep.
const LONGEST: Duration = Duration::from_millis(500);

/// How often an edge that is nothing else says that it lives, and reads the clock of the bus.
const SESSION_SECS: f64 = 2.0;
const CLOCK_SECS: f64 = 10.0;

/// A wall clock that is off by more is warned of, or makes the node not ready: owners refuse its batches.
const WARN_CLOCK_SECS: f64 = 1.0;
const BAD_CLOCK_SECS: f64 = 5.0;

/// How an edge is run.
#[derive(Debug)]
pub struct EdgeDriverOptions {
    /// What the machine is told; the number of the start is that of the state.
    pub edge: EdgeOptions,
    /// Length of an interval, in seconds.
    pub interval_secs: f64,
    /// Whether it renews the session of this node; an owner does that otherwise.
    pub is_alone: bool,
}

/// An edge and what it is connected with.
#[derive(Debug)]
pub struct EdgeDriver {
    bus: Arc<dyn Bus>,
    clock: Clock,
    name: NodeName,
    edge: Edge,
    state: EdgeState,
    status: StatusBoard,
    partitions: u16,
    sealed: u64,
    left_out: u64,
    has_left: bool,
    session: Option<OwnSession>,
    acknowledged: (mpsc::UnboundedSender<Answer>, mpsc::UnboundedReceiver<Answer>),
}

/// What a call of the bus gave.
#[derive(Debug)]
enum Answer {
    /// A batch is stored.
    Batch { partition: u16, boot: u64, n: u64 },
    /// By how much our wall clock is ahead of that of the bus, in seconds.
    ClockAhead(f64),
}

/// The session of an edge that is nothing else.
#[derive(Debug)]
struct OwnSession {
    id: SessionId,
    number: u64,
    renew_at: f64,
    read_clock_at: f64,
    warned: bool,
}

impl EdgeDriver {
    /// An edge that goes on with what its last start has left.
    pub fn new(
        options: EdgeDriverOptions,
        (state, saved): (EdgeState, SavedEdge),
        bus: Arc<dyn Bus>,
        status: StatusBoard,
    ) -> EdgeDriver {
        let EdgeDriverOptions { edge, interval_secs, is_alone } = options;
        let clock = Clock::default();
        let (name, partitions, boot) = (edge.name.clone(), edge.partitions, state.boot());
        let interval = (unix_time() / interval_secs) as u64;
        let id = SessionId { node: name.clone(), start: boot };
        let session = OwnSession { id, number: 0, renew_at: f64::MIN, read_clock_at: f64::MIN, warned: false };
        let mut driver = EdgeDriver {
            edge: Edge::start(EdgeOptions { boot, ..edge }, saved, interval, clock.now()),
            bus,
            clock,
            name,
            state,
            status,
            partitions,
            sealed: 0,
            left_out: 0,
            has_left: false,
            session: is_alone.then_some(session),
            acknowledged: mpsc::unbounded_channel(),
        };
        driver.save_numbers();
        driver
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
            self.send();
            self.publish();
            let pause = self.clock.until(self.edge.next_due().unwrap_or(f64::MAX), LONGEST);
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
        let saved = self.edge.saved();
        let left: usize = saved.spool.iter().map(Vec::len).sum();
        if left > 0 {
            tracing::warn!(
                batches = left,
                "batches for the cluster are not sent; the next start of this node sends them"
            );
        }
        self.state.save(saved);
        self.publish();
    }

    fn is_done(&self, is_open: bool, deadline: &watch::Receiver<Option<Instant>>) -> bool {
        let is_late = deadline.has_changed().is_err() || deadline.borrow().is_some_and(|until| Instant::now() >= until);
        (self.has_left || !is_open) && (is_late || self.edge.is_drained())
    }

    fn seal(&mut self, own: &OwnInterval) {
        let snapshot = &own.snapshot;
        let account = EdgeAccount::new(&snapshot.ledger);
        let mut all = Vec::with_capacity(self.partitions as usize);
        let partitions = self.partitions.try_into().expect("there is a partition");
        for (number, part) in partition(snapshot, partitions).iter().enumerate() {
            let header = HEADER_BYTES + if number == 0 { ACCOUNT_BYTES } else { 0 };
            let written = bodies(part, header);
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

    /// Saves the numbers that were given; what waits is saved at the end.
    fn save_numbers(&mut self) {
        let saved = self.edge.saved();
        self.state.save(SavedEdge { spool: Vec::new(), is_clean: false, ..saved });
    }

    fn send(&mut self) {
        let now = self.clock.now();
        for batch in self.edge.due(now) {
            let (bus, name, answers) = (Arc::clone(&self.bus), self.name.clone(), self.acknowledged.0.clone());
            tokio::spawn(async move {
                let sent = bus.put_batch(batch.partition, &name, unix_time(), batch.payload).await;
                if sent.is_ok() {
                    let stored = Answer::Batch { partition: batch.partition, boot: batch.boot, n: batch.n };
                    // The thread may have ended.
                    let _ = answers.send(stored);
                }
            });
        }
        self.renew_session(now);
    }

    fn renew_session(&mut self, now: f64) {
        let spooled = self.edge.spooled_batches();
        let Some(session) = self.session.as_mut().filter(|session| now >= session.renew_at) else { return };
        session.renew_at = now + SESSION_SECS;
        session.number += 1;
        let own = Session { id: session.id.clone(), number: session.number, takes: false, load: 0, spooled };
        let reads_clock = now >= session.read_clock_at;
        if reads_clock {
            session.read_clock_at = now + CLOCK_SECS;
        }
        let (bus, answers) = (Arc::clone(&self.bus), self.acknowledged.0.clone());
        tokio::spawn(async move {
            let before = unix_time();
            let Ok(sequence) = bus.put_session(&own.id.node, own.encode()).await else { return };
            let middle = (before + unix_time()) / 2.0;
            if !reads_clock {
                return;
            }
            let all = bus.sessions().await.unwrap_or_default();
            if let Some(stored) = all.iter().find(|stored| stored.sequence == sequence) {
                let _ = answers.send(Answer::ClockAhead(middle - stored.stored));
            }
        });
    }

    fn take(&mut self, answer: Answer) {
        match answer {
            Answer::Batch { partition, boot, n } => self.edge.acknowledged(partition, boot, n),
            Answer::ClockAhead(ahead) => {
                self.status.change(|status| status.clock_ahead_secs = Some(ahead));
                let Some(session) = &mut self.session else { return };
                let is_off = ahead.abs() > WARN_CLOCK_SECS;
                if is_off && !session.warned {
                    tracing::warn!(
                        ahead_secs = ahead,
                        "the clock of this node differs from that of the bus; owners refuse what is more than \
                         {BAD_CLOCK_SECS} s ahead, and do not wait for what is as much behind"
                    );
                }
                session.warned = is_off;
            }
        }
    }

    fn publish(&self) {
        let edge = EdgeStatus {
            boot: self.state.boot(),
            sealed: self.sealed,
            spooled_batches: self.edge.spooled_batches(),
            spooled_bytes: self.edge.spooled_bytes() as u64,
            dropped_batches: self.edge.dropped(),
            left_out: self.left_out,
        };
        let bus = self.bus.status();
        self.status.change(|status| {
            (status.edge, status.connected, status.bus) = (Some(edge), bus.connected, bus.to_string());
        });
    }
}
