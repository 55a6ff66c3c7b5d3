//! What drives a sink: a task that prepares intervals ([`intake`]) and one that delivers them ([`task`]), a bounded queue, a
//! deadline, back-off with jitter, a spool on disk where one is configured, and an account.
//!
//! The queue holds whole intervals. When it is full the oldest that waits is dropped and counted, so that a
//! receiver that comes back gets the newest. With a spool, intervals go to disk while the receiver fails, or does not take
//! one within [`EXPOSED`], and wait there. `offered = delivered + queued + spooled + dropped` holds at any moment.
//!
//! Where closed intervals take more than their share of the memory, or memory is short altogether, what waits leaves, the oldest
//! first, but for the newest: what fails and is on disk is not kept in memory as well, and the rest is dropped (`memory`).
//!
//! A sink that panics loses the interval in work, which is counted as `failed`, and is opened anew.

mod intake;
mod spool;
mod task;

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::memory::{Holder, Level, Memory};
use crate::snapshot::{Filter, Snapshot};
use crate::supervise::{Part, Role, Supervisor};
use crate::telemetry::SinkAccount;

use super::Sink;
use super::spool::{Spool, SpoolOptions};

use intake::Intake;
use spool::Spooler;
use task::run;

/// First pause after a failure; it doubles from failure to failure.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Longest pause that is our own choice.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Longest pause that a receiver may ask for.
const LONGEST_REQUEST: Duration = Duration::from_secs(300);
/// Pause while the daemon is stopping.
const STOPPING_PAUSE: Duration = Duration::from_millis(100);
/// Longest wait, after the deadline, for a task to end that is told to, and for the disk.
const SETTLING: Duration = Duration::from_secs(1);
/// An interval that is not delivered for so long goes to disk meanwhile: a daemon that is killed must not take it along.
const EXPOSED: Duration = Duration::from_millis(50);

/// How a sink is driven.
#[derive(Clone, Debug)]
pub struct DriverOptions {
    /// Label in status and ledger.
    pub name: String,
    /// What kind of sink it is, as the configuration has it.
    pub kind: &'static str,
    /// Which series it gets, and under which names.
    pub filter: Filter,
    /// Intervals that may wait in memory.
    pub queue: usize,
    /// Longest delivery.
    pub timeout: Duration,
    /// The daemon's interval. Its ticks end a sink's own interval, what is spooled is delivered at twice its pace at least, and
    /// what happens again and again is logged at most once in it.
    pub interval: Duration,
    /// It gets one interval for so many of the daemon's, those that end at multiples.
    pub every: u32,
    /// Where intervals wait while it is down.
    pub spool: Option<SpoolOptions>,
}

impl DriverOptions {
    /// A sink with every default, for a daemon of this interval.
    pub fn new(name: &str, kind: &'static str, interval: Duration) -> DriverOptions {
        DriverOptions {
            name: name.to_string(),
            kind,
            filter: Filter::default(),
            queue: 4,
            timeout: Duration::from_secs(10),
            interval,
            every: 1,
            spool: None,
        }
    }
}

/// Opens a sink anew.
pub type Reopen = Box<dyn FnMut() -> Result<Box<dyn Sink>, String> + Send>;

/// A sink and its driver.
#[derive(Debug)]
pub struct SinkDriver {
    shared: Arc<Shared>,
    /// Prepares what is offered.
    preparing: JoinHandle<()>,
    /// Delivers it.
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    options: DriverOptions,
    /// The memory that intervals wait in.
    memory: Memory,
    intake: Mutex<Intake>,
    accepted: Notify,
    state: Mutex<State>,
    changed: Notify,
    /// The task that delivers, and the one that prepares.
    part: Part,
    intake_part: Part,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Arc<Snapshot>>,
    account: SinkAccount,
    /// End of the interval being delivered from memory.
    delivering: Option<f64>,
    /// The last delivery failed: whoever waits for an interval does not wait for this sink.
    is_failing: bool,
    /// Intervals in the spool.
    spooled_intervals: usize,
    /// Records in delivery that had to make room in the spool: counted as spooled, but not on disk any more.
    evicted: u64,
    /// A thread works on the spool.
    is_spool_busy: bool,
    /// Records that were dropped for memory since that was logged, and when it was.
    squeezed: u64,
    squeezed_at: Option<Instant>,
    /// The account is final: what still ends after that does not change it.
    is_settled: bool,
    /// Once set, nothing more is offered, and the task ends when the queue is empty or the deadline has passed.
    deadline: Option<Instant>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every update leaves the state whole, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn intake(&self) -> MutexGuard<'_, Intake> {
        self.intake.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts an interval into the queue, as the sink gets it.
    fn enqueue(&self, snapshot: Arc<Snapshot>) {
        let mut state = self.state();
        if state.is_failing {
            self.let_go_of(&snapshot);
        }
        state.push(snapshot, self.options.queue);
        drop(state);
        self.give_way();
        self.changed.notify_one();
    }

    /// Nobody waits for this sink to take an interval.
    fn let_go_of(&self, snapshot: &Snapshot) {
        if let Some(delivery) = &snapshot.delivery {
            delivery.let_go(&self.options.name);
        }
    }

    /// Whether closed intervals have to leave memory.
    fn is_short(&self) -> bool {
        self.memory.level() >= Level::Events || self.memory.is_over(Holder::ClosedIntervals)
    }

    /// Drops what waits but the newest, the oldest first, while closed intervals have to leave memory. With a spool that works
    /// no more than one waits for longer than [`EXPOSED`].
    fn give_way(&self) {
        if !self.is_short() {
            return;
        }
        self.give_way_in_intake();
        let mut state = self.state();
        while state.waiting.len() > 1
            && self.is_short()
            && let Some(oldest) = state.waiting.pop_front()
        {
            state.account.queued -= oldest.len() as u64;
            self.squeeze(&mut state, oldest.len() as u64);
        }
    }

    /// Counts records that are dropped for memory, and logs that once an interval.
    fn squeeze(&self, state: &mut State, records: u64) {
        state.account.dropped.count("memory", records);
        state.squeezed += records;
        if records > 0 && state.squeezed_at.is_none_or(|last| last.elapsed() >= self.options.interval) {
            state.squeezed_at = Some(Instant::now());
            let records = std::mem::take(&mut state.squeezed);
            tracing::warn!(
                sink = self.options.name,
                records,
                "memory is short: what waits longest for the sink is dropped"
            );
        }
    }

    fn account(&self) -> SinkAccount {
        let state = self.state();
        let mut account = state.account.clone();
        let in_memory = state.delivering.or(state.waiting.front().map(|oldest| oldest.end));
        account.oldest_waiting = [account.oldest_waiting, in_memory].into_iter().flatten().reduce(f64::min);
        account
    }
}

/// The account of a sink, to be read at any time. Cheap to clone; it does not keep the sink from ending.
#[derive(Clone, Debug)]
pub struct SinkStats(Arc<Shared>);

impl SinkStats {
    /// Label in status and ledger.
    pub fn name(&self) -> &str {
        &self.0.options.name
    }

    /// The account so far.
    pub fn account(&self) -> SinkAccount {
        self.0.account()
    }
}

impl State {
    fn push(&mut self, snapshot: Arc<Snapshot>, most: usize) {
        let records = snapshot.len() as u64;
        self.account.offered += records;
        self.account.queued += records;
        if self.waiting.len() >= most
            && let Some(oldest) = self.waiting.pop_front()
        {
            let records = oldest.len() as u64;
            self.account.queued -= records;
            self.account.dropped.count("queue_full", records);
        }
        self.waiting.push_back(snapshot);
    }
}

impl SinkDriver {
    /// Starts a sink's tasks on the current runtime, with nobody to watch them.
    ///
    /// # Errors
    /// If its spool cannot be used.
    #[cfg(feature = "internals")]
    pub fn start(options: DriverOptions, sink: Box<dyn Sink>) -> io::Result<SinkDriver> {
        SinkDriver::supervised(&Memory::unlimited(), options, sink, None, &Supervisor::default())
    }

    /// Starts a sink's tasks on the current runtime. What waits for it lies in this memory. After
    /// a panic `reopen` makes another sink; without it this one goes on.
    ///
    /// # Errors
    /// If its spool cannot be used.
    pub fn supervised(
        memory: &Memory,
        options: DriverOptions,
        sink: Box<dyn Sink>,
        reopen: Option<Reopen>,
        supervisor: &Supervisor,
    ) -> io::Result<SinkDriver> {
        let spool = match &options.spool {
            Some(spool) => {
                let (opened, lost) = Spool::open(spool.clone())?;
                if !opened.is_empty() {
                    tracing::info!(
                        sink = options.name,
                        records = opened.records(),
                        "intervals from before are waiting"
                    );
                }
                Some((opened, lost))
            }
            None => None,
        };
        let part = supervisor.part(&format!("sink:{}", options.name), Role::Sink);
        let intake_part = supervisor.part(&format!("sink:{}:intake", options.name), Role::Ordinary);
        let shared = Arc::new(Shared {
            part,
            intake_part,
            options,
            memory: memory.clone(),
            intake: Mutex::default(),
            accepted: Notify::new(),
            state: Mutex::default(),
            changed: Notify::new(),
        });
        let mut spooler = Spooler::new(Arc::clone(&shared), None);
        if let Some((mut spool, lost)) = spool {
            // What is left from before is offered anew.
            let mut state = shared.state();
            state.account.offered = spool.records() + lost.iter().map(|(_, records)| records).sum::<u64>();
            for (reason, records) in lost {
                state.account.dropped.count(reason, records);
                tracing::warn!(sink = shared.options.name, records, reason, "spooled records are given up");
            }
            drop(state);
            shared.follow(&mut spool);
            spooler.spool = Some(spool);
        }
        let task = shared.part.task(run(Arc::clone(&shared), sink, reopen, spooler));
        let intake = Arc::clone(&shared);
        let preparing = shared.intake_part.task(async move { intake.prepare().await });
        Ok(SinkDriver { shared, preparing, task })
    }

    /// Label in status and ledger.
    pub fn name(&self) -> &str {
        &self.shared.options.name
    }

    /// What kind of sink it is.
    pub fn kind(&self) -> &'static str {
        self.shared.options.kind
    }

    /// Hands an interval of the daemon's over; the sink gets what its filter and rules leave of it. Never waits: if the queue is
    /// full, the oldest that waits is dropped. The account has it once the sink's view is made.
    pub fn offer(&self, snapshot: &Arc<Snapshot>) {
        self.shared.accept(snapshot);
    }

    /// Counts an interval with which [`SinkDriver::offer`] panicked.
    pub fn lose(&self, snapshot: &Snapshot) {
        self.shared.lose(snapshot);
    }

    /// Lets what waits leave if closed intervals have to. To be called from time to time, between intervals, too.
    pub fn give_way(&self) {
        self.shared.give_way();
    }

    /// The account so far.
    pub fn account(&self) -> SinkAccount {
        self.shared.account()
    }

    /// The account for those who do not drive the sink.
    pub fn stats(&self) -> SinkStats {
        SinkStats(Arc::clone(&self.shared))
    }

    /// Ends the sink: delivers what waits until `deadline`; what then still waits is on disk where there is a spool, or dropped
    /// and counted.
    pub async fn finish(self, deadline: Instant) -> SinkAccount {
        let began = Instant::now();
        self.shared.part.stop();
        self.shared.intake_part.stop();
        // What was offered is prepared first; that only computes, and ends by itself.
        self.shared.close_intake();
        if let Err(error) = self.preparing.await {
            tracing::error!(sink = self.shared.options.name, %error, "intervals could not be prepared");
        }
        self.shared.state().deadline = Some(deadline);
        self.shared.changed.notify_one();
        let patience = deadline.saturating_duration_since(Instant::now());
        let mut task = self.task;
        if timeout(patience, &mut task).await.is_err() {
            task.abort();
            // It ends where it waits next, and the disk may still take what it was given: the account has both.
            let end = async {
                let _ = task.await;
                self.shared.spool_idle().await;
            };
            if timeout(SETTLING, end).await.is_err() {
                tracing::warn!(
                    sink = self.shared.options.name,
                    "a delivery or the disk does not end; it is not waited for"
                );
            }
        }
        let (sink, waited_secs) = (&self.shared.options.name, began.elapsed().as_secs_f64());
        let mut state = self.shared.state();
        state.is_settled = true;
        let left = state.account.queued;
        if left > 0 {
            let intervals = state.waiting.len() + usize::from(state.delivering.is_some());
            state.waiting.clear();
            state.account.queued = 0;
            state.account.dropped.count("shutdown", left);
            tracing::warn!(sink, intervals, records = left, waited_secs, "not delivered before the end; given up");
        }
        let evicted = std::mem::take(&mut state.evicted);
        if evicted > 0 {
            state.account.spooled = state.account.spooled.saturating_sub(evicted);
            state.account.dropped.count("spool_full", evicted);
            tracing::warn!(sink, records = evicted, reason = "spool_full", "spooled records are given up");
        }
        if state.account.spooled > 0 {
            let (intervals, records) = (state.spooled_intervals, state.account.spooled);
            tracing::info!(sink, intervals, records, waited_secs, "left on disk for the next start");
        }
        state.account.clone()
    }
}

#[cfg(test)]
mod tests;
