//! The beat: closes intervals on wall-clock-aligned ticks, off the receive path, and hands them on.
//!
//! Ticks fall on multiples of the interval. A late tick closes one longer interval, never a burst of short
//! ones, and its length is measured. A step of the wall clock moves the next tick; lengths come from the
//! monotonic clock.

mod changeover;
mod cluster;
mod handle;
mod losses;
mod memory;
mod recent;
mod repeats;
mod requests;
mod senders;
mod sources;
pub mod state;
mod trial;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};

use crate::aggregate::{Columns, Offenders, Partial, Shard};
use crate::capture::CaptureCounter;
use crate::fault;
use crate::history::History;
use crate::journal::Journal;
use crate::log::Log;
use crate::memory::{Holder, Holding, Level, Memory};
use crate::net::relay::RelayStats;
use crate::net::{Listener, Listeners, QueueWatch};
use crate::notify::TargetList;
use crate::ports::Ports;
use crate::presence_driver::{PresenceHandle, PresenceState};
use crate::rollup::{Interval, Registry};
use crate::senders::Senders;
use crate::sinks::SinkDriver;
use crate::snapshot::Snapshot;
use crate::state::Trial;
use crate::supervise::{Panic, Part, Role, Supervisor, catch, caught};
use crate::sys::{self, since, unix_time};
use crate::telemetry::{Account, Ledger, ListenerAccount, PresenceAccount, Tally};
use crate::untrusted::excerpt;

use handle::Request;
use repeats::Repeats;
use sources::Sources;

use changeover::{Before, PlannedChange};
pub use changeover::{Changeover, HeldDriver, NewListener, NextDriver, NextListener};
use cluster::WaitingPresence;
pub use cluster::{ClusterLinks, ClusterProblems, OwnInterval};
pub use handle::{
    Deleted, FlusherHandle, Inbox, Listing, MAX_ITEMS, MAX_SERIES, NamedSocket, OpenValue, Published, Stats, channel,
};
pub use recent::LostTime;

/// Where intervals wait for the history.
pub type HistoryQueue = std::sync::mpsc::SyncSender<Arc<Snapshot>>;

/// How often kernel drops are read.
const DROPS_EVERY: Duration = Duration::from_secs(1);

/// How often receive buffers are looked at, beside their workers, who may be held up: while one is this full, it may
/// overflow before long.
const QUEUES_EVERY: Duration = Duration::from_millis(100);
const QUEUES_OFTEN: Duration = Duration::from_millis(10);
const FILLING: f64 = 0.25;

/// Longest wait for what presence has to say.
const PRESENCE_PATIENCE: Duration = Duration::from_secs(1);

/// A worker that does not answer for so long is taken for dead.
const WORKER_PATIENCE: Duration = Duration::from_secs(5);

/// Least time for closing the last interval, however late it is.
const CLOSING: Duration = Duration::from_millis(100);

/// Records of an interval that is not kept beside the next one.
const LARGE: usize = 20_000;

/// Characters of a malformed line shown in the log.
const EXCERPT_CHARS: usize = 120;

/// A step of a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopStep {
    /// Make the listeners read what the kernel holds, until then, and then nothing more.
    StopListeners(Instant),
    /// Close the partial interval with its true length, and end the workers.
    CloseLastInterval,
    /// Save the partial interval for another process, which closes it, and end the workers. If it cannot be saved, it is closed.
    KeepLastInterval,
}

/// How a flusher is controlled. When the other ends are dropped, it stops by itself, without a grace.
#[derive(Debug)]
pub struct FlusherInputs {
    /// Once a deadline is set here there are no more ticks, and everything must end by then.
    pub deadline: watch::Receiver<Option<Instant>>,
    /// Steps of a stop, in order, and where to report that one is done.
    pub steps: mpsc::Receiver<(StopStep, oneshot::Sender<()>)>,
}

impl Default for FlusherInputs {
    /// Inputs whose other ends are gone.
    fn default() -> FlusherInputs {
        FlusherInputs { deadline: watch::channel(None).1, steps: mpsc::channel(1).1 }
    }
}

/// Closes intervals.
#[derive(Debug)]
pub struct Flusher {
    interval: Duration,
    listeners: Listeners,
    /// Kernel drops read since the last tick, by listener.
    drops: Vec<u64>,
    registry: Registry,
    spare: Vec<Columns>,
    drivers: Vec<SinkDriver>,
    history: Option<HistoryQueue>,
    inbox: Inbox,
    journal: Journal,
    /// The account since the start, of closed intervals.
    totals: Ledger,
    /// What the sources had counted at the last tick.
    counted: Ledger,
    sources: Sources,
    /// The open interval as it was read last, by worker.
    open: Vec<Tally>,
    open_presence: PresenceAccount,
    last_reading: Option<Instant>,
    started: Instant,
    last_close: Instant,
    warned_of_drops: bool,
    /// What the log said of the memory last.
    said_of_memory: memory::Reported,
    /// What the last interval lost.
    losses: losses::Losses,
    /// What the last hour lost.
    recent: recent::Recent,
    /// What the log said lately.
    repeats: repeats::Repeats,
    status_every: Option<Duration>,
    last_status: Instant,
    presence: Option<PresenceHandle>,
    inputs: FlusherInputs,
    /// Where intervals go, and come from, in a cluster.
    cluster: ClusterLinks,
    waiting_presence: WaitingPresence,
    /// The listeners read nothing, for another process is to go on with their sockets.
    is_paused: bool,
    /// Keeps what outlives the process.
    keeper: Option<state::StateWriter>,
    /// Holds the room for what another process is to go on with.
    trial: Vec<Trial>,
    /// What presence had to say of the open interval before this process.
    carried_presence: state::CarriedPresence,
    /// How the last process ended, until an interval has it.
    unclean_stop: Option<f64>,
    /// Who sends what.
    senders: senders::SenderAccount,
    /// What is being merged, and drained columns.
    in_flush: Holding,
    in_spare: Holding,
    part: Part,
    /// An interval that the workers were asked for, and one that is being merged. Both stay until the next step is done, so
    /// that a panic loses nothing that can be had again.
    closing: Option<Closing>,
    collected: Option<Collected>,
    /// What is to be different from the next interval on, and what goes on from before.
    waiting_change: Option<PlannedChange>,
    before: Before,
    /// Shards that workers have left behind at this tick, with the places of the workers.
    left: Vec<(usize, Box<Shard>)>,
    /// Receive buffers that are looked at.
    queues: Arc<Mutex<Vec<QueueWatch>>>,
}

/// What the workers were asked for at a tick.
#[derive(Debug)]
struct Closing {
    /// Answers that are to come, in the order of workers, after those that have.
    pending: VecDeque<oneshot::Receiver<Partial>>,
    partials: Vec<Partial>,
    end: f64,
    is_last: bool,
    began: Instant,
    /// Seconds between the tick and its closing.
    late: f64,
}

/// What the workers handed over at a tick.
#[derive(Debug)]
struct Collected {
    partials: Vec<Partial>,
    listeners: Vec<ListenerAccount>,
    interval: Interval,
    began: Instant,
    /// Seconds between the tick and its closing.
    late: f64,
    /// The registry works on it; if that fails, some of its values are gone.
    is_merging: bool,
    /// What the registry made of it, and what the sources had counted before.
    snapshot: Option<Snapshot>,
    before: Option<Ledger>,
    has_presence: bool,
    has_own_series: bool,
}

impl Flusher {
    /// A flusher for running listeners and started drivers. `registry` is made for all their workers in order.
    pub fn new(
        interval: Duration,
        listeners: Listeners,
        registry: Registry,
        drivers: Vec<SinkDriver>,
        inbox: Inbox,
        status_every: Option<Duration>,
        presence: Option<PresenceHandle>,
    ) -> Flusher {
        let accounts = listeners.iter().map(|listener| account_of(listener, &Tally::default(), 0, 0.0)).collect();
        let workers = listeners.iter().map(Listener::workers).sum();
        let sources = Sources {
            sinks: drivers.iter().map(SinkDriver::stats).collect(),
            http_requests: Arc::clone(&inbox.http_requests),
            ..Sources::default()
        };
        let now = sys::now();
        let flusher = Flusher {
            interval,
            drops: vec![0; listeners.iter().len()],
            listeners,
            registry,
            spare: Vec::new(),
            drivers,
            history: None,
            inbox,
            journal: Journal::default(),
            totals: Ledger { listeners: accounts, completeness: 1.0, ..Ledger::default() },
            counted: Ledger::default(),
            sources,
            open: vec![Tally::default(); workers],
            open_presence: PresenceAccount::default(),
            last_reading: None,
            started: now,
            last_close: now,
            warned_of_drops: false,
            said_of_memory: memory::Reported::default(),
            losses: losses::Losses::default(),
            recent: recent::Recent::default(),
            repeats: repeats::Repeats::default(),
            status_every,
            last_status: now,
            presence,
            inputs: FlusherInputs::default(),
            cluster: ClusterLinks::default(),
            waiting_presence: WaitingPresence::default(),
            is_paused: false,
            keeper: None,
            trial: Vec::new(),
            carried_presence: state::CarriedPresence::default(),
            unclean_stop: None,
            senders: senders::SenderAccount::default(),
            in_flush: Memory::unlimited().holding(Holder::ClosedIntervals),
            in_spare: Memory::unlimited().holding(Holder::Values),
            part: Part::new("flush"),
            closing: None,
            collected: None,
            waiting_change: None,
            before: Before::default(),
            left: Vec::new(),
            queues: Arc::default(),
        };
        flusher.publish(None, false, None);
        flusher
    }

    /// The workers have read since then, before the flusher was made: the first interval begins there.
    #[must_use]
    pub fn reading_since(self, began: Instant) -> Flusher {
        Flusher { last_close: began, ..self }
    }

    /// Accounts for these relays, for the daemon's log, for what is captured, and for these ports.
    #[must_use]
    pub fn accounting_for(
        mut self,
        relays: Vec<RelayStats>,
        log: Option<Log>,
        capture: Option<CaptureCounter>,
        ports: Ports,
    ) -> Flusher {
        self.sources = Sources { relays: relays.into(), log, capture, ports, ..self.sources };
        self.publish(None, false, None);
        self
    }

    /// Accounts for these targets of notifications.
    #[must_use]
    pub fn accounting_for_targets(mut self, targets: TargetList) -> Flusher {
        self.sources.targets = targets;
        self.publish(None, false, None);
        self
    }

    /// Accounts for this memory.
    #[must_use]
    pub fn in_memory(mut self, memory: &Memory) -> Flusher {
        self.sources.memory = memory.clone();
        self.senders.hold_in(memory);
        self.in_flush = memory.holding(Holder::ClosedIntervals);
        self.in_spare = memory.holding(Holder::Values);
        self.publish(None, false, None);
        self
    }

    /// Adds to this journal what happened in each interval.
    #[must_use]
    pub fn writing(self, journal: Journal) -> Flusher {
        Flusher { journal, ..self }
    }

    /// Publishes who sends what there; `prepended` is what names of series have before the names that are sent.
    #[must_use]
    pub fn publishing_senders(mut self, senders: &Senders, prepended: &str) -> Flusher {
        self.senders = senders::SenderAccount::new(senders, prepended, &self.sources.memory);
        self
    }

    /// Hands every interval to the history, too, by way of this queue.
    #[must_use]
    pub fn remembered_by(mut self, history: History, queue: HistoryQueue) -> Flusher {
        self.sources.history = history;
        self.history = Some(queue);
        self.publish(None, false, None);
        self
    }

    /// Is a node of a cluster.
    #[must_use]
    pub fn in_cluster(mut self, mut cluster: ClusterLinks) -> Flusher {
        self.sources.cluster = cluster.problems.take();
        self.publish(None, false, None);
        Flusher { cluster, ..self }
    }

    /// Stops as these inputs say.
    #[must_use]
    pub fn controlled_by(self, inputs: FlusherInputs) -> Flusher {
        Flusher { inputs, ..self }
    }

    /// Runs as this part of a daemon, all of whose parts are published.
    #[must_use]
    pub fn supervised_by(mut self, supervisor: &Supervisor, part: &Part) -> Flusher {
        self.part = part.clone();
        self.sources.parts = Some(supervisor.clone());
        self.publish(None, false, None);
        self
    }

    /// Ticks until a deadline is set, then drains the listeners and closes the partial interval with its true length. What
    /// comes back are the drivers: that interval waits in them.
    ///
    /// After a panic in a tick there are no more of them, for nothing could make its state anew: the part is given up, and
    /// whoever watches it asks for the stop, which closes the last interval all the same. `false` if that fails as well.
    pub async fn run(mut self) -> (Vec<SinkDriver>, bool) {
        if caught(self.tick()).await.is_err() {
            self.part.give_up("it panicked in a tick");
            self.merge_again().await;
        }
        let is_closed = caught(self.finish()).await.is_ok();
        if !is_closed {
            self.part.give_up("it panicked while it closed the last interval");
            self.merge_again().await;
        }
        self.drop_changes();
        let mut drivers = std::mem::take(&mut self.drivers);
        drivers.extend(self.before.drivers.drain(..).filter_map(|sink| sink.driver));
        (drivers, is_closed)
    }

    async fn tick(&mut self) {
        let mut stop = self.inputs.deadline.clone();
        // A task of its own: it goes on while workers are waited for, and ends when the listeners are gone.
        self.watch_queues();
        let watches = Arc::downgrade(&self.queues);
        let part = self.sources.parts.as_ref().map(|parts| parts.part("queues", Role::Ordinary));
        let part = part.unwrap_or_else(|| Part::new("queues"));
        let own = part.clone();
        part.keep_task(move || watch_queues(watches.clone(), own.clone()));
        let mut due = next_tick(unix_time(), self.interval);
        loop {
            self.part.alive();
            let now = unix_time();
            if now >= due {
                // The last tick that has passed names the interval, however late it is noticed.
                let interval_secs = self.interval.as_secs_f64();
                let end = due + ((now - due) / interval_secs).floor() * interval_secs;
                // A multiple of 0.2, say, as people write it.
                let end = (end * 1e6).round() / 1e6;
                self.look_at_leaving();
                self.close(end, now - due, false).await;
                self.change_over();
                self.let_go().await;
                due = next_tick(unix_time(), self.interval);
                continue;
            }
            if due - now > self.interval.as_secs_f64() {
                // The clock was set back.
                due = next_tick(now, self.interval);
            }
            let pause = Duration::from_secs_f64((due - now).max(0.0)).min(DROPS_EVERY);
            tokio::select! {
                // What can come again and again is last, so that it holds up nothing.
                biased;
                // That nobody can set it any more is a stop, too.
                _ = stop.wait_for(Option::is_some) => break,
                () = tokio::time::sleep(pause) => {
                    self.read_drops();
                    self.drivers.iter().for_each(SinkDriver::give_way);
                }
                event = state::next_event(&mut self.keeper) => self.handle_state(event).await,
                merged = self.cluster.next_merged() => self.hand_on_merged(merged),
                request = next_request(&mut self.inbox.requests) => match request {
                    Some(request) => self.handle_request(request).await,
                    None => self.inbox.requests = None,
                },
            }
        }
    }

    /// Does the steps of a stop. Those that were not asked for when nobody can ask any more are done all the same.
    async fn finish(&mut self) {
        self.drop_changes();
        let now = sys::now();
        let (mut have_stopped, mut is_closed) = (false, false);
        while !is_closed {
            let step = tokio::select! {
                step = self.inputs.steps.recv() => step,
                merged = self.cluster.next_merged() => {
                    self.hand_on_merged(merged);
                    continue;
                }
            };
            let (step, done) = match step {
                Some((step, done)) => (step, Some(done)),
                None if have_stopped => (StopStep::CloseLastInterval, None),
                None => (StopStep::StopListeners(now), None),
            };
            match step {
                StopStep::StopListeners(until) => {
                    // Those that are paused have read what was theirs, but for connections that nobody goes on with.
                    if self.is_paused {
                        self.listeners.end_connections(until).await;
                    } else {
                        self.listeners.stop(until).await;
                    }
                    have_stopped = true;
                }
                StopStep::CloseLastInterval | StopStep::KeepLastInterval => {
                    if step == StopStep::CloseLastInterval || !self.keep_last_interval().await {
                        // The kernel's counts are read for the last time: nothing is queued any more, and so nothing dropped.
                        self.close(unix_time(), 0.0, true).await;
                        self.save_last_state().await;
                    }
                    let deadline = self.inputs.deadline.borrow().unwrap_or(now);
                    std::mem::take(&mut self.listeners).join(deadline.max(sys::now() + CLOSING)).await;
                    is_closed = true;
                }
            }
            if let Some(done) = done {
                // Whoever asked may have been cancelled.
                let _ = done.send(());
            }
        }
    }

    /// How long something that is asked now is waited for.
    fn patience(&self, longest: Duration) -> Patience {
        Patience { began: tokio::time::Instant::now(), longest, stop: self.inputs.deadline.clone() }
    }

    fn read_drops(&mut self) {
        let (mut dropped, mut received) = (0, 0);
        for (listener, drops) in self.listeners.iter_mut().zip(&mut self.drops) {
            let fresh = listener.take_kernel_drops();
            *drops += fresh;
            dropped += fresh;
            received += listener.take_received();
        }
        if let Some(presence) = &self.presence {
            presence.drops(dropped, received);
        }
        self.listeners.iter().for_each(Listener::ask_alive);
    }

    /// Closes the open interval, which ended at `end` Unix seconds, `late` seconds ago.
    async fn close(&mut self, end: f64, late: f64, is_last: bool) {
        self.await_state().await;
        let began = sys::now();
        let (pending, partials) = (VecDeque::new(), Vec::new());
        self.closing = Some(Closing { pending, partials, end, is_last, began, late });
        self.ask_workers();
        self.close_asked().await;
    }

    /// Goes on with an interval that the workers were asked for.
    async fn close_asked(&mut self) {
        self.collect().await;
        self.read_drops();
        let Some(Closing { partials, end, is_last, began, late, .. }) = self.closing.take() else { return };
        let closed = sys::now();
        let carried_secs = self.keeper.as_mut().map_or(0.0, state::StateWriter::take_carried);
        let length_secs = closed.duration_since(self.last_close).as_secs_f64() + carried_secs;
        self.last_close = closed;
        let now = closed.duration_since(self.started).as_secs_f64();
        let interval = if is_last { Interval::last } else { Interval::new }(end, length_secs, now, self.interval);
        self.collected = Some(Collected {
            partials,
            listeners: Vec::new(),
            interval,
            began,
            late,
            is_merging: false,
            snapshot: None,
            before: None,
            has_presence: false,
            has_own_series: false,
        });
        self.merge().await;
    }

    /// Merges what was collected, and hands the interval on. What was collected stays until that is done, so that it can be
    /// tried again after a panic.
    async fn merge(&mut self) {
        self.make_room();
        self.merge_values();
        self.account();
        self.add_presence().await;
        let Flusher { collected: Some(collected), registry, .. } = self else { return };
        let (Some(snapshot), Some(before)) = (&mut collected.snapshot, &collected.before) else { return };
        if !std::mem::replace(&mut collected.has_own_series, true) {
            registry.add_own_series(snapshot, before);
        }
        snapshot.hold(&self.sources.memory);
        self.supersede_open().await;
        let Some(Collected { partials, interval, snapshot: Some(snapshot), .. }) = self.collected.take() else {
            return;
        };
        let outcome = self.hand_on(Arc::new(snapshot), interval);
        self.keep_columns(partials);
        assert!(outcome.is_ok(), "a sink cannot be handed an interval: {outcome:?}");
    }

    /// Merges what the workers collected.
    fn merge_values(&mut self) {
        let Flusher { collected: Some(collected), registry, listeners, drops, .. } = self else { return };
        if collected.snapshot.is_some() {
            return;
        }
        if collected.listeners.is_empty() {
            let mut rest = &collected.partials[..];
            for listener in listeners.iter() {
                let (own, others) = rest.split_at(listener.workers().min(rest.len()));
                self.inbox.hints.look_at(listener.url(), own);
                rest = others;
            }
            collected.listeners = listener_accounts(listeners, drops, &collected.partials);
            self.repeats.begin(collected.interval.now);
            log_losses(&collected.partials, &collected.listeners, &mut self.warned_of_drops, &mut self.repeats);
            self.losses.begin(&collected.partials, &collected.listeners, &mut self.repeats);
            self.losses.add(memory::log_given_up(&collected.partials, &self.sources.memory, &mut self.said_of_memory));
            self.losses.add(self.senders.close(
                &mut collected.partials,
                listeners,
                &collected.interval,
                &mut self.repeats,
            ));
        }
        let has_failed = std::mem::replace(&mut collected.is_merging, true);
        fault::pass("merge");
        let held: usize = collected.partials.iter().map(|partial| partial.held.total()).sum();
        self.in_flush.set(held as u64);
        let mut snapshot = registry.close(&mut collected.partials, collected.interval);
        self.in_flush.set(0);
        let ledger = &mut snapshot.ledger;
        let restored = std::mem::replace(&mut ledger.listeners, collected.listeners.clone());
        ledger.unite_listeners(&restored);
        ledger.unclean_stop = self.unclean_stop.take();
        if let Some(keeper) = self.keeper.as_mut().filter(|_| ledger.unclean_stop.is_some()) {
            keeper.save_soon();
        }
        ledger.flush.duration_secs = since(collected.began).as_secs_f64();
        ledger.flush.late_secs = collected.late.max(0.0);
        ledger.flush.failed = u64::from(has_failed);
        (collected.snapshot, collected.is_merging) = (Some(snapshot), false);
        fault::pass("merged");
    }

    /// Completes the ledger of the interval by what the sources have counted.
    fn account(&mut self) {
        let Flusher { collected: Some(collected), counted, sources, losses, recent, repeats, .. } = self else {
            return;
        };
        let (Some(snapshot), None) = (&mut collected.snapshot, &collected.before) else { return };
        let ledger = &mut snapshot.ledger;
        let before = read_sources(counted, sources, ledger);
        ledger.update_completeness();
        debug_assert_eq!(ledger.check(), Ok(()));
        let before = collected.before.insert(before);
        log_refusals(ledger, before, repeats);
        losses.of_sources(ledger, before, repeats);
        recent.add(ledger, before, collected.interval.end, collected.interval.length_secs);
        if ledger.management.http_requests > 0 {
            let requests = ledger.management.http_requests;
            if repeats.is_new("HTTP at the management port", requests) {
                tracing::warn!(
                    requests,
                    "HTTP came to the management port: a browser, or somebody who has the wrong port"
                );
            }
        }
        repeats.log(collected.interval.is_last);
        fault::pass("accounted");
    }

    /// Adds what presence reports.
    async fn add_presence(&mut self) {
        let mut patience = self.patience(PRESENCE_PATIENCE);
        let Flusher { presence: Some(presence), collected: Some(collected), registry, .. } = self else { return };
        let (cluster, waiting_presence) = (&self.cluster, &mut self.waiting_presence);
        let (Some(snapshot), false) = (&mut collected.snapshot, collected.has_presence) else { return };
        match patience.wait(presence.ask(PresenceState::report)).await {
            Some(Ok(report)) => {
                collected.has_presence = true;
                snapshot.ledger.presence = report.account;
                self.open_presence = PresenceAccount::default();
                if cluster.is_global() {
                    // The sinks get nothing of what this node closes itself.
                    snapshot.presence.clone_from(&report.events);
                    waiting_presence.add(report.readings, report.events);
                } else {
                    registry.add_presence(snapshot, report.readings, report.events);
                    std::mem::take(&mut self.carried_presence).add_to(snapshot, registry);
                }
            }
            Some(Err(_)) | None => tracing::error!("presence does not answer; it is not in this flush"),
        }
    }

    /// Goes on with an interval where it stands.
    async fn go_on(&mut self) {
        if self.closing.is_some() {
            self.close_asked().await;
        } else {
            self.merge().await;
        }
    }

    /// After a panic: tries once more to close and merge the interval that was in work.
    async fn merge_again(&mut self) {
        if caught(self.go_on()).await.is_ok() {
            return;
        }
        let Some(Collected { partials, listeners, .. }) = self.collected.take() else { return };
        let mut ledger = Ledger { listeners, ..Ledger::default() };
        partials.iter().for_each(|partial| ledger.count(&partial.tally));
        ledger.flush.failed = 1;
        tracing::error!(
            lines = ledger.lines.read,
            "an interval cannot be merged: its values are lost, its lines are counted"
        );
        self.totals.add_counts(&ledger);
        self.totals.flush.add(&ledger.flush);
        // Whoever looks at it keeps it from being replaced.
        let as_of = self.inbox.published.borrow().as_of;
        self.publish(None, false, as_of);
    }

    /// Keeps drained columns for the next interval, unless memory is short.
    fn keep_columns(&mut self, partials: Vec<Partial>) {
        if self.sources.memory.level() == Level::Calm {
            self.spare.extend(partials.into_iter().map(|partial| partial.columns));
        }
        self.in_spare.set(self.spare.iter().map(|columns| columns.drained_bytes() as u64).sum());
    }

    /// Lets a large last interval go before the next is made: both at once would be the daemon's peak of memory.
    fn make_room(&mut self) {
        if self.cluster.is_global() {
            return;
        }
        let is_large = |published: &Published| published.snapshot.as_ref().is_some_and(|last| last.len() > LARGE);
        if is_large(&self.inbox.published.borrow()) {
            let as_of = self.inbox.published.borrow().as_of;
            self.publish(None, true, as_of);
        }
    }

    fn publish(&self, snapshot: Option<Arc<Snapshot>>, closing: bool, as_of: Option<f64>) {
        self.inbox.published.send_replace(Arc::new(Published {
            snapshot,
            totals: self.totals_with_open(),
            losses: self.losses.warnings(),
            refused_from: self.losses.refused_from,
            recent: self.recent.all(),
            closed_lines: self.totals.lines.read,
            sources: self.sources.clone(),
            closing,
            leaving: self.leaving(),
            behind: self.behind(),
            at: Some(sys::now()),
            as_of,
        }));
    }

    /// Hands an interval of this node to every sink, or to the cluster.
    ///
    /// # Errors
    /// The first panic.
    fn hand_on(&mut self, snapshot: Arc<Snapshot>, interval: Interval) -> Result<(), Panic> {
        self.totals.add(&snapshot.ledger);
        let outcome = match self.cluster.is_edge() || self.cluster.is_global() {
            // Sinks get the intervals of the cluster, and what this node knows of presence.
            true => {
                self.cluster.send(&snapshot, interval);
                match self.waiting_presence.take_alone(interval.is_last) {
                    Some((readings, events)) => {
                        let mut alone = snapshot.without_data();
                        self.registry.add_presence(&mut alone, readings, events);
                        alone.hold(&self.sources.memory);
                        self.offer(&Arc::new(alone))
                    }
                    None => Ok(()),
                }
            }
            false => self.offer(&snapshot),
        };
        if !self.cluster.is_global() {
            self.remember(&snapshot);
        }
        tracing::debug!(
            sequence = snapshot.sequence,
            records = snapshot.len(),
            lines = snapshot.ledger.lines.read,
            duration_secs = snapshot.ledger.flush.duration_secs,
            "flushed"
        );
        let end = snapshot.end;
        let (fresh, more) = self.registry.take_new_prefixes();
        // Whoever sees the interval finds its entries.
        if let Err(panic) = catch(|| self.journal.add(&snapshot, (&fresh, more))) {
            tracing::error!(?panic, "what happened in an interval is not in the journal");
        }
        // The page of a node that merges shows what is merged.
        let shown =
            if self.cluster.is_global() { self.inbox.published.borrow().snapshot.clone() } else { Some(snapshot) };
        self.publish(shown, false, Some(end));
        if self.status_every.is_some_and(|every| since(self.last_status) >= every) {
            self.last_status = sys::now();
            self.log_status();
        }
        outcome
    }

    /// Hands an interval of the cluster to every sink. Its ledger is that of the edges: it is not in our account.
    fn hand_on_merged(&mut self, mut snapshot: Snapshot) {
        // The page and the history have a copy, for they keep it longer than a sink takes.
        let delivery = snapshot.delivery.take();
        if let Some((readings, events)) = self.waiting_presence.take_along(snapshot.end) {
            self.registry.add_presence(&mut snapshot, readings, events);
        }
        snapshot.hold(&self.sources.memory);
        let shown = Arc::new(snapshot);
        if let Some(delivery) = &delivery {
            delivery.hand_to(self.drivers.iter().map(SinkDriver::name));
        }
        if !self.drivers.is_empty() {
            let mut offered = Snapshot { delivery, ..(*shown).clone() };
            offered.hold(&self.sources.memory);
            if let Err(panic) = self.offer(&Arc::new(offered)) {
                tracing::error!(?panic, "a sink cannot be handed an interval of the cluster");
            }
        }
        self.remember(&shown);
        let as_of = self.inbox.published.borrow().as_of;
        self.publish(Some(shown), false, as_of);
    }

    /// Offers an interval to every sink. One that fails meanwhile keeps it from no other.
    ///
    /// # Errors
    /// The first panic.
    fn offer(&self, snapshot: &Arc<Snapshot>) -> Result<(), Panic> {
        let mut outcome = Ok(());
        for driver in &self.drivers {
            let offered = catch(|| {
                fault::pass("offer");
                driver.offer(snapshot);
            });
            if offered.is_err() {
                driver.lose(snapshot);
            }
            outcome = outcome.and(offered);
        }
        outcome
    }

    /// Puts an interval into the queue of the history.
    fn remember(&self, snapshot: &Arc<Snapshot>) {
        if let Some(queue) = &self.history
            && queue.try_send(Arc::clone(snapshot)).is_err()
        {
            // It shows the interval as missing.
            self.sources.history.miss();
        }
    }

    fn log_status(&self) {
        let t = &self.totals;
        let sum = |field: fn(&ListenerAccount) -> u64| t.listeners.iter().map(field).sum::<u64>();
        tracing::info!(
            datagrams = sum(|l| l.datagrams),
            kernel_drops = sum(|l| l.kernel_drops),
            lines = t.lines.read,
            malformed = t.malformed_total(),
            recorded = t.samples.recorded,
            folded = t.samples.folded,
            completeness = t.completeness,
            "since the start"
        );
    }

    /// These are the receive buffers that are looked at from now on.
    fn watch_queues(&self) {
        let watches = self.listeners.iter().map(Listener::queue_watch).collect();
        *self.queues.lock().unwrap_or_else(PoisonError::into_inner) = watches;
    }

    /// Asks every worker for its partial.
    fn ask_workers(&mut self) {
        let now = self.last_close.duration_since(self.started).as_secs_f64();
        let mut pending = VecDeque::new();
        for (n, listener) in self.listeners.iter().enumerate() {
            for worker in 0..listener.workers() {
                let retire = self.registry.retirements(pending.len(), now);
                let spare = self.spare.pop().unwrap_or_default();
                if let Some(change) = self.worker_change(n) {
                    listener.leave_change(worker, change);
                }
                pending.push_back(listener.close(worker, retire, spare));
            }
        }
        if let Some(closing) = &mut self.closing {
            closing.pending = pending;
        }
        // They are the shards' now.
        self.in_spare.set(self.spare.iter().map(|columns| columns.drained_bytes() as u64).sum());
    }

    /// Waits for the partials, in the order of workers.
    async fn collect(&mut self) {
        let mut patience = self.patience(WORKER_PATIENCE);
        let workers = self.open.len();
        let Flusher { closing: Some(Closing { pending, partials, .. }), open, left, registry, .. } = self else {
            return;
        };
        while let Some(next) = pending.front_mut() {
            fault::pass("collect");
            let answer = patience.wait(next).await.and_then(Result::ok);
            pending.pop_front();
            let worker = partials.len();
            match answer {
                Some(mut partial) => {
                    open[worker] = Tally::default();
                    if let Some(shard) = partial.left.take() {
                        registry.number_anew(&mut partial, shard.rules());
                        left.push((worker, shard));
                    }
                    partials.push(partial);
                }
                None => {
                    tracing::error!(worker, "a receive worker does not answer; its interval is not in this flush");
                    partials.push(Partial::default());
                }
            }
        }
        // Those that were not asked keep theirs for the next.
        partials.resize_with(workers, Partial::default);
    }
}

/// How long is waited for all that was asked at once: so long, and until the deadline of a stop once there is one, but for
/// [`CLOSING`] at least.
struct Patience {
    began: tokio::time::Instant,
    longest: Duration,
    stop: watch::Receiver<Option<Instant>>,
}

impl Patience {
    /// What `future` resolves to, if it does so in time.
    async fn wait<F: Future>(&mut self, future: F) -> Option<F::Output> {
        let (began, longest) = (self.began, self.longest);
        let past_deadline = async {
            let deadline = self.stop.wait_for(Option::is_some).await.ok().and_then(|deadline| *deadline);
            match deadline {
                Some(deadline) => tokio::time::sleep_until((began + CLOSING).max(deadline.into())).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            outcome = future => Some(outcome),
            () = tokio::time::sleep_until(began + longest) => None,
            () = past_deadline => None,
        }
    }

    /// The answers that come in time, in order; `None` for those that do not.
    async fn answers<T>(&mut self, pending: Vec<oneshot::Receiver<T>>) -> Vec<Option<T>> {
        let mut answers = Vec::with_capacity(pending.len());
        for answer in pending {
            answers.push(self.wait(answer).await.and_then(Result::ok));
        }
        answers
    }
}

/// The next request; nothing ever where none can come.
async fn next_request(requests: &mut Option<mpsc::Receiver<Request>>) -> Option<Request> {
    match requests {
        Some(requests) => requests.recv().await,
        None => std::future::pending().await,
    }
}

/// Looks at receive buffers at times of its own, until nobody has them any more.
async fn watch_queues(watches: Weak<Mutex<Vec<QueueWatch>>>, part: Part) {
    let mut fullest = 0.0_f64;
    loop {
        part.alive();
        tokio::time::sleep(if fullest < FILLING { QUEUES_EVERY } else { QUEUES_OFTEN }).await;
        let Some(watches) = watches.upgrade() else { return };
        let all = watches.lock().unwrap_or_else(PoisonError::into_inner);
        fullest = all.iter().filter_map(QueueWatch::look).fold(0.0, f64::max);
    }
}

/// Puts what the sources have counted into the ledger of an interval; what they had at its start.
fn read_sources(last: &mut Ledger, sources: &Sources, ledger: &mut Ledger) -> Ledger {
    let mut counted = Ledger::default();
    sources.read_into(&mut counted);
    // Sinks, relays, ports and parts are since the start in every ledger.
    ledger.sinks.clone_from(&counted.sinks);
    ledger.relays.clone_from(&counted.relays);
    ledger.ports.clone_from(&counted.ports);
    ledger.parts.clone_from(&counted.parts);
    ledger.log = counted.log.since(&last.log);
    ledger.capture = counted.capture.as_ref().map(|now| match &last.capture {
        Some(before) => now.since(before),
        None => now.clone(),
    });
    ledger.state.clone_from(&counted.state);
    ledger.management = counted.management.since(&last.management);
    ledger.history = counted.history.since(&last.history);
    // Its counters are the workers', and there already.
    ledger.memory.add(&counted.memory);
    sources.memory.take_peak();
    std::mem::replace(last, counted)
}

/// The accounts of the listeners for an interval, with the kernel's drops of it, which are zero from then on.
fn listener_accounts(listeners: &Listeners, drops: &mut [u64], partials: &[Partial]) -> Vec<ListenerAccount> {
    let mut rest = partials.iter();
    let of = |(listener, drops): (&Listener, &u64)| {
        let mut tally = Tally::default();
        rest.by_ref().take(listener.workers()).for_each(|partial| tally.add(&partial.tally));
        account_of(listener, &tally, *drops, listener.take_queue_peak())
    };
    let accounts = listeners.iter().zip(&*drops).map(of).collect();
    drops.fill(0);
    accounts
}

fn account_of(listener: &Listener, tally: &Tally, kernel_drops: u64, queue_peak: f64) -> ListenerAccount {
    ListenerAccount {
        queue_peak,
        url: listener.url().to_string(),
        receive_buffer: listener.receive_buffer(),
        kernel_drops: datagrams_of(kernel_drops, tally),
        ..tally.listener.clone()
    }
}

/// The kernel counts messages that it drops. Where senders let it cut large sends (`UDP_SEGMENT`), a message is
/// several datagrams: as many, on average, as those that were read.
fn datagrams_of(messages: u64, tally: &Tally) -> u64 {
    let taken = tally.listener.datagrams + tally.listener.unread;
    if tally.messages == 0 || taken == tally.messages {
        return messages;
    }
    (messages as f64 * taken as f64 / tally.messages as f64).round() as u64
}

/// How many lines were malformed for which reason.
fn reasons(partials: &[Partial]) -> String {
    let mut all = Tally::default();
    partials.iter().for_each(|partial| all.add(&partial.tally));
    all.malformed_by_reason()
}

/// Logs what ports refused.
fn log_refusals(ledger: &Ledger, before: &Ledger, repeats: &mut Repeats) {
    for (port, account) in &ledger.ports {
        let fresh = before.ports.get(port).map_or_else(|| account.clone(), |before| account.since(before));
        let refused = fresh.refused.total();
        if refused > 0 && repeats.is_new(&format!("connections refused at {port}"), refused) {
            let reasons: Vec<String> =
                fresh.refused.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
            tracing::warn!(
                port,
                refused,
                reasons = reasons.join(", "),
                "connections were refused, or closed before their request was answered"
            );
        }
    }
}

/// Says what was lost.
fn log_losses(partials: &[Partial], listeners: &[ListenerAccount], warned_of_drops: &mut bool, repeats: &mut Repeats) {
    let malformed: u64 = partials.iter().map(|partial| partial.tally.malformed_total()).sum();
    let example = partials.iter().find_map(|partial| partial.example.as_ref());
    if let Some(bad) = example.filter(|_| repeats.is_new("malformed lines", malformed)) {
        let from = bad.from.map_or("an unknown sender".to_string(), |from| from.to_string());
        tracing::warn!(
            lines = malformed,
            example = excerpt(&bad.line, EXCERPT_CHARS),
            from,
            reason = %bad.error,
            reasons = reasons(partials),
            "malformed lines"
        );
    }
    for l in listeners {
        if l.kernel_drops > 0
            && let Some(datagrams) =
                repeats.due_now(&format!("datagrams dropped by the kernel at {}", l.url), l.kernel_drops)
        {
            tracing::warn!(
                listener = l.url,
                datagrams,
                receive_buffer = l.receive_buffer,
                "the kernel dropped datagrams"
            );
            if !*warned_of_drops {
                *warned_of_drops = true;
                tracing::warn!(
                    "to lose less: a larger `receive_buffer` (with `sysctl -w net.core.rmem_max=…` where it was not \
                     granted), more `workers`, or more metrics in a datagram"
                );
            }
        }
        let mut is_new = |what: &str, count: u64| count > 0 && repeats.is_new(&format!("{what} at {}", l.url), count);
        if is_new("datagrams larger than `max_datagram`", l.truncated) {
            tracing::warn!(listener = l.url, datagrams = l.truncated, "datagrams were larger than `max_datagram`");
        }
        if is_new("refused", l.refused) {
            tracing::warn!(
                listener = l.url,
                refused = l.refused,
                connections = l.connections_refused.text(),
                "refused: source not in `allow`, over `max_connections`, or without good TLS"
            );
        }
    }
}

/// The worst prefix of all workers, and about how many of its samples were affected.
fn worst(partials: &[Partial], of: fn(&Partial) -> &Offenders) -> Option<(String, u64)> {
    let mut offenders = Offenders::default();
    partials.iter().for_each(|partial| offenders.merge(of(partial)));
    offenders.worst()
}

/// The next multiple of the interval after `now`.
pub(crate) fn next_tick(now: f64, interval: Duration) -> f64 {
    let interval = interval.as_secs_f64();
    ((now / interval).floor() + 1.0) * interval
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn past_the_deadline_all_that_hang_are_waited_for_once() {
        let (_stop, deadline) = watch::channel(Some(Instant::now()));
        let (senders, pending): (Vec<_>, Vec<_>) = (0..5).map(|_| oneshot::channel::<u32>()).unzip();
        let (sender, last) = oneshot::channel();
        sender.send(7).expect("a receiver");
        let began = tokio::time::Instant::now();
        let mut patience = Patience { began, longest: WORKER_PATIENCE, stop: deadline };
        let answers = patience.answers(pending.into_iter().chain([last]).collect()).await;
        assert_eq!(answers, [None, None, None, None, None, Some(7)]);
        assert!((CLOSING..CLOSING * 2).contains(&began.elapsed()), "{:?}", began.elapsed());
        drop(senders);
    }

    #[test]
    fn ticks_fall_on_multiples_of_the_interval() {
        let ten = Duration::from_secs(10);
        for (now, tick) in [(0.0, 10.0), (9.99, 10.0), (10.0, 20.0), (1_700_000_003.2, 1_700_000_010.0)] {
            assert_eq!(next_tick(now, ten), tick);
        }
    }
}
