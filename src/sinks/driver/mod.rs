//! What drives a sink: a task that prepares intervals ([`intake`]) and one that delivers them ([`task`]), a bounded queue, a
//! deadline, back-off with jitter, a spool on disk where one is configured, and an account.
//!
//! The queue holds whole intervals. When it is full the oldest that waits is dropped and counted, so that a
//! receiver that comes back gets the newest. With a spool, intervals go to disk while the receiver fails, or does not take
//! one within [`EXPOSED`], and wait there. A spool that a change takes, or puts elsewhere, is used until it is empty.
//! `offered = delivered + queued + spooled + dropped` holds at any moment.
//!
//! Where closed intervals take more than their share of the memory, or memory is short altogether, what waits leaves, the oldest
//! first, but for the newest: what fails and is on disk is not kept in memory as well, and the rest is dropped (`memory`).
//!
//! A sink that panics loses the interval in work, which is counted as `failed`, and is opened anew.
//!
//! At the end, what was not delivered and is not on disk can be taken over by the sink's next driver, with what the sink itself
//! has to know of earlier intervals ([`Handover`]).

mod handover;
mod intake;
mod spool;
mod task;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::memory::{Holder, Level, Memory};
use crate::snapshot::{Filter, Snapshot};
use crate::supervise::{Gate, Part, Role, Supervisor};
use crate::sys::{now, since};
use crate::telemetry::{Reasons, SinkAccount};

use super::Sink;
use super::spool::{Spool, SpoolOptions};

pub use handover::{Contents, Handover};

use intake::Intake;
use spool::Spooler;
use task::run;

/// Why records are dropped that were not delivered before the end.
pub const SHUTDOWN: &str = "shutdown";

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

/// What is different for a sink from some interval on: what waits for it, and its account, stay.
pub struct SinkChange {
    /// How it is driven. Its name is the same. If the folder of its spool is another one, or there is none, what lies in the one so
    /// far is delivered first, and new intervals go there, too, if memory has no room for them.
    pub options: DriverOptions,
    /// Another sink in its place, if that is another one.
    pub sink: Option<NextSink>,
}

/// A sink that takes the place of another one of the same name.
pub struct NextSink {
    /// The sink. If both have the same port, it answers when the other one is closed.
    pub sink: Box<dyn Sink>,
    /// Opens it again.
    pub reopen: Reopen,
    /// It is of the same kind: what goes on from interval to interval goes on.
    pub goes_on: bool,
}

impl fmt::Debug for SinkChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SinkChange").field("options", &self.options).finish_non_exhaustive()
    }
}

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
    name: String,
    options: RwLock<Arc<DriverOptions>>,
    /// What takes the place of the sink before the next delivery.
    next: Mutex<Option<Next>>,
    /// The memory that intervals wait in.
    memory: Memory,
    intake: Mutex<Intake>,
    accepted: Notify,
    state: Mutex<State>,
    changed: Notify,
    /// The deadline of the end has passed: no delivery goes on.
    over: Notify,
    /// The task that delivers, and the one that prepares.
    part: Part,
    intake_part: Part,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Arc<Snapshot>>,
    account: SinkAccount,
    /// The interval being delivered from memory.
    delivering: Option<Arc<Snapshot>>,
    /// What the sink is to go on with.
    to_restore: Option<Vec<u8>>,
    /// It goes on with what an earlier driver has left.
    has_resumed: bool,
    /// Its next driver takes over, and what the sink has for it.
    is_handed_over: bool,
    saved: Option<Vec<u8>>,
    /// The last delivery failed: whoever waits for an interval does not wait for this sink.
    is_failing: bool,
    /// The folder of the spool that it has: another one than the options say until that is empty.
    spool: Option<PathBuf>,
    /// Before that the next one is not tried: it could not be opened.
    next_spool_due: Option<Instant>,
    /// Intervals in the spool.
    spooled_intervals: usize,
    /// What was dropped until the last delivery.
    dropped_before: Reasons,
    /// Records in delivery that had to make room in the spool: counted as spooled, but not on disk any more.
    evicted: u64,
    /// A thread works on the spool.
    is_spool_busy: bool,
    /// Records that were dropped for memory since that was logged, and when it was.
    squeezed: u64,
    squeezed_at: Option<Instant>,
    /// The account is final: what still ends after that does not change it.
    is_settled: bool,
    /// Nothing more is offered, and the task ends when all is delivered.
    is_leaving: bool,
    /// Once set, nothing more is offered, and the task ends when the queue is empty or the deadline has passed.
    deadline: Option<Instant>,
    /// It has passed.
    is_over: bool,
    /// How long the end took, seconds.
    waited_secs: f64,
}

struct Next(NextSink);

impl fmt::Debug for Next {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Next")
    }
}

impl Shared {
    /// How the sink is driven now.
    fn options(&self) -> Arc<DriverOptions> {
        Arc::clone(&self.options.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Another sink is to take its place.
    fn has_next(&self) -> bool {
        self.next.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Nothing more is offered.
    fn is_ending(&self) -> bool {
        let state = self.state();
        state.deadline.is_some() || state.is_leaving && self.intake().has_ended()
    }

    /// Whether it is to have another spool, or none, and can: the one that it has is empty. At its end it has what it has.
    fn has_next_spool(&self) -> bool {
        let options = self.options();
        let state = self.state();
        let is_due = state.next_spool_due.is_none_or(|due| now() >= due);
        let is_ending = state.is_leaving || state.deadline.is_some();
        !state.has_spool_of(&options) && state.spooled_intervals == 0 && is_due && !is_ending
    }

    /// Another sink is to take its place, or it is to have another spool.
    fn is_changing(&self) -> bool {
        self.has_next() || self.has_next_spool()
    }

    fn take_next(&self) -> Option<NextSink> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner).take().map(|Next(next)| next)
    }

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
        state.push(snapshot, self.options().queue);
        drop(state);
        self.give_way();
        self.changed.notify_one();
    }

    /// Nobody waits for this sink to take an interval.
    fn let_go_of(&self, snapshot: &Snapshot) {
        if let Some(delivery) = &snapshot.delivery {
            delivery.let_go(&self.name);
        }
    }

    /// Whether closed intervals have to leave memory.
    fn is_short(&self) -> bool {
        self.memory.level() >= Level::Events || self.memory.is_over(Holder::ClosedIntervals)
    }

    /// Drops what waits but the newest, the oldest first, while closed intervals have to leave memory. With a spool that works, and
    /// is to stay, no more than one waits for longer than [`EXPOSED`].
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
        if records > 0 && state.squeezed_at.is_none_or(|last| since(last) >= self.options().interval) {
            state.squeezed_at = Some(now());
            let records = std::mem::take(&mut state.squeezed);
            tracing::warn!(sink = self.name, records, "memory is short: what waits longest for the sink is dropped");
        }
    }

    fn account(&self) -> SinkAccount {
        let state = self.state();
        let mut account = state.account.clone();
        let in_memory = state.delivering.as_ref().or(state.waiting.front()).map(|oldest| oldest.end);
        account.oldest_waiting = [account.oldest_waiting, in_memory].into_iter().flatten().reduce(f64::min);
        account
    }
}

/// At the end.
impl Shared {
    /// Takes the intervals that wait, oldest first.
    fn take_waiting(&self) -> Vec<Arc<Snapshot>> {
        let mut state = self.state();
        state.delivering.take().into_iter().chain(std::mem::take(&mut state.waiting)).collect()
    }

    /// Counts records that waited, in so many intervals, as lost with the stop.
    fn give_up(&self, intervals: usize, records: u64) {
        if records == 0 {
            return;
        }
        let mut state = self.state();
        state.account.queued = state.account.queued.saturating_sub(records);
        state.account.dropped.count(SHUTDOWN, records);
        let (sink, waited_secs) = (&self.name, state.waited_secs);
        tracing::warn!(sink, intervals, records, waited_secs, "not delivered before the end; given up");
    }

    /// The final account.
    fn close_account(&self) -> SinkAccount {
        let sink = &self.name;
        let mut state = self.state();
        let fresh = state.account.dropped.since(&state.dropped_before);
        // What is lost with the stop is said by itself.
        if fresh.lost() > fresh.of(SHUTDOWN) {
            tracing::warn!(sink, dropped = fresh.text(), "records were dropped since the last delivery");
        }
        let evicted = std::mem::take(&mut state.evicted);
        if evicted > 0 {
            state.account.spooled = state.account.spooled.saturating_sub(evicted);
            state.account.dropped.count("spool_full", evicted);
            tracing::warn!(sink, records = evicted, reason = "spool_full", "spooled records are given up");
        }
        if state.account.spooled > 0 {
            let (intervals, records, waited_secs) = (state.spooled_intervals, state.account.spooled, state.waited_secs);
            if state.has_spool_of(&self.options()) {
                tracing::info!(sink, intervals, records, waited_secs, "left on disk for the next start");
            } else {
                let folder = state.spool.clone().unwrap_or_default();
                let folder = folder.display();
                tracing::warn!(
                    sink,
                    intervals,
                    records,
                    %folder,
                    "left on disk, and not delivered until a sink has that folder for its spool again"
                );
            }
        }
        state.account.clone()
    }
}

/// The account of a sink, to be read at any time. Cheap to clone; it does not keep the sink from ending.
#[derive(Clone, Debug)]
pub struct SinkStats(Arc<Shared>);

impl SinkStats {
    /// Label in status and ledger.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The account so far.
    pub fn account(&self) -> SinkAccount {
        self.0.account()
    }
}

impl State {
    /// Whether it has the spool that the options say, or, as they say, none.
    fn has_spool_of(&self, options: &DriverOptions) -> bool {
        self.spool.as_ref() == options.spool.as_ref().map(|spool| &spool.path)
    }

    /// Whether the time for deliveries is over.
    fn is_over(&self) -> bool {
        self.is_over || self.deadline.is_some_and(|deadline| now() >= deadline)
    }

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
        SinkDriver::supervised(&Memory::unlimited(), options, sink, None, &Supervisor::default(), &Gate::default())
    }

    /// Starts a sink's tasks on the current runtime. What waits for it lies in this memory. After
    /// a panic `reopen` makes another sink; without it this one goes on. Nothing is delivered before `gate` is open: what lies in
    /// the spool comes after what the sink has to know of earlier intervals ([`SinkDriver::resume`]).
    ///
    /// # Errors
    /// If its spool cannot be used.
    pub fn supervised(
        memory: &Memory,
        options: DriverOptions,
        sink: Box<dyn Sink>,
        reopen: Option<Reopen>,
        supervisor: &Supervisor,
        gate: &Gate,
    ) -> io::Result<SinkDriver> {
        let spool = options.spool.clone().map(Spool::open).transpose()?;
        let part = supervisor.part(&format!("sink:{}", options.name), Role::Sink);
        let intake_part = supervisor.part(&format!("sink:{}:intake", options.name), Role::Ordinary);
        let shared = Arc::new(Shared {
            part,
            intake_part,
            name: options.name.clone(),
            options: RwLock::new(Arc::new(options)),
            next: Mutex::default(),
            memory: memory.clone(),
            intake: Mutex::default(),
            accepted: Notify::new(),
            state: Mutex::default(),
            changed: Notify::new(),
            over: Notify::new(),
        });
        let mut spooler = Spooler::new(Arc::clone(&shared));
        if let Some(opened) = spool {
            spooler.put(opened);
        }
        let (gate, work) = (gate.clone(), run(Arc::clone(&shared), sink, reopen, spooler));
        let task = shared.part.task(async move {
            gate.opened().await;
            work.await;
        });
        let intake = Arc::clone(&shared);
        let preparing = shared.intake_part.task(async move { intake.prepare().await });
        Ok(SinkDriver { shared, preparing, task })
    }

    /// Label in status and ledger.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// What kind of sink it is.
    pub fn kind(&self) -> &'static str {
        self.shared.options().kind
    }

    /// The folder of the spool that it has, or is to have.
    pub fn spool(&self) -> Option<PathBuf> {
        let options = self.shared.options();
        let has = self.shared.state().spool.clone();
        has.or_else(|| options.spool.as_ref().map(|spool| spool.path.clone()))
    }

    /// Makes sure that a spool can be opened.
    ///
    /// # Errors
    /// If it cannot be used, or another sink or process uses it.
    pub fn check_spool(spool: &SpoolOptions) -> io::Result<()> {
        Spool::check(spool)
    }

    /// Makes sure that a spool can be opened once the process that has it hands over to this one.
    ///
    /// # Errors
    /// If it cannot be used.
    pub fn check_held_spool(spool: &SpoolOptions) -> io::Result<()> {
        Spool::check_held(spool)
    }

    /// Is as `change` says from now on. What is being delivered is delivered, or fails, as before.
    pub fn change(&self, change: SinkChange) {
        *self.shared.options.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(change.options);
        if let Some(next) = change.sink {
            *self.shared.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(Next(next));
        }
        self.shared.state().next_spool_due = None;
        self.shared.change_intake();
        self.shared.changed.notify_one();
    }

    /// Gets nothing more: it delivers what it has, and ends then, or at [`SinkDriver::finish`].
    pub fn leave(&self) {
        self.shared.part.leave();
        self.shared.intake_part.leave();
        self.shared.close_intake();
        self.shared.state().is_leaving = true;
        self.shared.changed.notify_one();
    }

    /// Whether it has, or had, something that is lost without it: a new one that nothing was left to has not.
    pub fn has_something(&self) -> bool {
        let state = self.shared.state();
        state.has_resumed || state.is_leaving || state.account.offered > 0
    }

    /// Whether it left and has delivered all it had.
    pub fn has_ended(&self) -> bool {
        self.task.is_finished()
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
        let shared = self.end(deadline).await;
        let left = shared.state().account.queued;
        shared.give_up(shared.take_waiting().len(), left);
        shared.close_account()
    }

    /// Ends the sink like [`SinkDriver::finish`], but what is neither delivered nor on disk then is for the next driver: it stays
    /// `queued` in this account.
    pub async fn hand_over(self, deadline: Instant) -> Handover {
        self.shared.state().is_handed_over = true;
        let shared = self.end(deadline).await;
        let (waiting, totals) = (shared.take_waiting(), shared.state().saved.take());
        // What the task had in its hands when it had to be stopped is nowhere.
        let queued = waiting.iter().map(|snapshot| snapshot.len() as u64).sum();
        let lost = shared.state().account.queued.saturating_sub(queued);
        shared.give_up(1, lost);
        shared.close_account();
        Handover::new(shared, totals, waiting)
    }

    /// What it would hand over of intervals if it ended now; it has them still. With a spool they go there.
    pub fn waiting(&self) -> Handover {
        let (options, state) = (self.shared.options(), self.shared.state());
        let all = state.delivering.iter().chain(&state.waiting).filter(|_| options.spool.is_none());
        Handover { kind: options.kind.to_string(), totals: None, waiting: all.cloned().collect(), giver: None }
    }

    /// Counts records that an earlier driver of this sink has lost with its end, when no interval could say so any more.
    pub fn count_lost(&self, records: u64) {
        if records == 0 {
            return;
        }
        let mut state = self.shared.state();
        state.account.offered = state.account.offered.saturating_add(records);
        state.account.dropped.count(SHUTDOWN, records);
        let sink = &self.shared.name;
        tracing::warn!(
            sink,
            records,
            reason = SHUTDOWN,
            "the last process could not keep what it had not delivered: it counts as dropped"
        );
    }

    /// Goes on where an earlier driver of this sink has stopped. To be called before anything is offered.
    pub fn resume(&self, handover: Handover) {
        let Handover { kind, totals, waiting, .. } = handover;
        let options = self.shared.options();
        let (intervals, mut state) = (waiting.len(), self.shared.state());
        state.has_resumed = true;
        if kind == options.kind {
            state.to_restore = totals;
        }
        // One of them was in delivery, beside those in the queue.
        let too_many = waiting.len().saturating_sub(options.queue.saturating_add(1));
        let mut records = 0;
        for (n, snapshot) in waiting.into_iter().enumerate() {
            let own = snapshot.len() as u64;
            state.account.offered += own;
            if n < too_many {
                state.account.dropped.count("queue_full", own);
                continue;
            }
            records += own;
            state.account.queued += own;
            state.waiting.push_back(snapshot);
        }
        drop(state);
        if intervals > 0 {
            tracing::info!(sink = options.name, intervals, records, "intervals from before are waiting");
        }
        self.shared.give_way();
        self.shared.changed.notify_one();
    }

    /// Lets the tasks end by a deadline. What waits then is in the queue, or in delivery if the sink did not end in time.
    async fn end(self, deadline: Instant) -> Arc<Shared> {
        let began = now();
        self.shared.part.stop();
        self.shared.intake_part.stop();
        // What was offered is prepared first; that only computes, and ends by itself.
        self.shared.close_intake();
        if let Err(error) = self.preparing.await {
            tracing::error!(sink = self.shared.name, %error, "intervals could not be prepared");
        }
        self.shared.state().deadline = Some(deadline);
        self.shared.changed.notify_one();
        let patience = deadline.saturating_duration_since(now());
        let mut task = self.task;
        if timeout(patience, &mut task).await.is_err() {
            self.shared.state().is_over = true;
            self.shared.over.notify_one();
            if timeout(SETTLING, &mut task).await.is_err() {
                task.abort();
                // It ends where it waits next, and the disk may still take what it was given: the account has both.
                let end = async {
                    let _ = task.await;
                    self.shared.spool_idle().await;
                };
                if timeout(SETTLING, end).await.is_err() {
                    tracing::warn!(
                        sink = self.shared.name,
                        "a delivery or the disk does not end; it is not waited for"
                    );
                }
            }
        }
        {
            let mut state = self.shared.state();
            (state.is_settled, state.waited_secs) = (true, since(began).as_secs_f64());
        }
        self.shared
    }
}

#[cfg(test)]
mod tests;
