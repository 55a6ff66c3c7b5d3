//! Drives the presence engine on a thread of its own. Heartbeats come through a bounded channel that nobody
//! waits for; every quarter of a second what has come is applied, and then everybody is evaluated. What it knows survives a
//! restart in a state file.

mod members;
mod observers;
mod poller;
mod state;
mod state_file;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

use crate::fault;
use crate::memory::{Holder, Memory};
use crate::notify::Outbox;
use crate::presence::observers::{MemberOptions, Observers, SavedObservers};
use crate::presence::{Alarm, AlertBook, Engine, EngineTime, Epoch, Identity, PeerContext, Phase, Policy, UnixTime};
use crate::protocol::Signal;
use crate::supervise::{Gate, Part, catch};
use crate::sys::unix_time;
use crate::untrusted::Escaped;

use state_file::StateFile;

pub use members::{AskNode, ClusterLink, Seen, respond, start as start_members};
pub use observers::Among;
pub use poller::{Pollers, shown as shown_peers, start as start_pollers};
pub use state::{PresenceState, Report};
pub use state_file::{Held, inspect};

/// Time between two evaluations.
const TICK: Duration = Duration::from_millis(250);

/// Signals that may wait unless it is configured; more are lost, counted, and the second does not count against anybody.
pub const QUEUE: usize = 8192;

/// Questions and everything else that may wait beside them.
const OTHERS: usize = 256;

/// Messages that may wait for an earlier process to leave, which takes some seconds: 50,000 instances with a heartbeat a
/// second, for 5 s.
const HELD: usize = 1 << 18;

/// Longest time until it is seen that the earlier process has left.
const HELD_POLL: Duration = Duration::from_millis(10);

/// Time between two checks of what the queue lost.
const LOST_EVERY: Duration = Duration::from_secs(1);

/// Time between two saved states.
const SAVE_EVERY: Duration = Duration::from_secs(10);

/// Least time between two of them where what the targets were told has changed, also as so many times what a save took.
const SAVE_SOON: Duration = Duration::from_secs(1);
const SAVE_PAUSE: u32 = 20;

/// Longest wait for deliveries at a stop, and how often they are looked at.
const DELIVERY_PATIENCE: Duration = Duration::from_secs(1);
const DELIVERY_POLL: Duration = Duration::from_millis(5);

/// Time between two warnings of maintenance that was announced for an unknown service.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// In a cluster another node reports within so many seconds when the one that did is gone.
const TAKE_OVER_SECS: f64 = 5.0;

/// How presence is run.
#[derive(Clone, Debug)]
pub struct PresenceOptions {
    /// How presence is judged.
    pub policy: Policy,
    /// Where the state is kept; `None` is memory only.
    pub state_file: Option<PathBuf>,
    /// Key of the engine's table.
    pub seed: u64,
    /// Who publishes events.
    pub identity: Identity,
    /// Warnings about instances wait so long for a service's alarm that replaces them.
    pub group_wait: Duration,
    /// How often the sinks are given what happened.
    pub interval: Duration,
    /// Signals that may wait.
    pub queue: usize,
    /// The memory that all of it lies in.
    pub memory: Memory,
    /// Other observers of the same fleet.
    pub peering: Peering,
    /// The state is read when this is open; what comes until then waits.
    pub gate: Gate,
}

/// The observers beside this one.
#[derive(Clone, Debug, PartialEq)]
pub enum Peering {
    /// It is the only one.
    Alone,
    /// URLs of them as they are shown, all different.
    Urls(Vec<String>),
    /// The nodes of its cluster.
    Cluster(MemberOptions),
}

enum Message {
    /// Boxed, for the room of the whole queue is taken at once.
    Signal(Box<Signal>),
    Drops {
        dropped: u64,
        received: u64,
    },
    Ask(Box<dyn FnOnce(&mut PresenceState) + Send>),
    /// Notify for the last time; the answer comes when that is done.
    Finish(oneshot::Sender<()>),
    Stop,
}

/// What the workers and the presence thread share.
#[derive(Debug)]
struct Shared {
    /// Most signals that may wait, and how many do.
    queue: usize,
    waiting: AtomicUsize,
    /// Signals that found no room.
    lost: AtomicU64,
    /// Senders' addresses are wanted.
    wants_senders: AtomicBool,
    /// Nothing is received any more.
    is_deaf: AtomicBool,
    /// What was there at the start.
    restored: OnceLock<Restored>,
    /// Makes the workers pass on who was seen by what is watched.
    look: RwLock<Option<Look>>,
    /// What a reload has changed: how silence is judged, and how long warnings wait.
    policy: Mutex<Option<(Policy, Duration)>>,
    /// The queues of the targets, which a reload changes.
    outboxes: Mutex<Vec<Arc<Outbox>>>,
}

/// What is done after each tick.
struct Look(Box<dyn Fn() + Send + Sync>);

impl fmt::Debug for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Look")
    }
}

/// What an earlier run had saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The state file.
    pub file: PathBuf,
    /// Services in it.
    pub services: usize,
    /// Instances that were present; none of them is confirmed before its next heartbeat.
    pub instances: usize,
}

/// A handle to the presence thread. Cheap to clone; nothing it does waits for that thread unless it says so.
#[derive(Clone, Debug)]
pub struct PresenceHandle {
    sender: SyncSender<Message>,
    shared: Arc<Shared>,
    newest: watch::Receiver<u64>,
}

impl PresenceHandle {
    /// Passes a heartbeat on.
    pub fn signal(&self, signal: Signal) {
        // Beyond the signals there is room for questions: a flood of heartbeats does not shut them out.
        let has_room = self.shared.waiting.fetch_add(1, Ordering::Relaxed) < self.shared.queue;
        if !has_room || self.sender.try_send(Message::Signal(Box::new(signal))).is_err() {
            self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Calls `look` after each tick from now on: it makes those who have watched metrics pass on who was seen, as signals, and
    /// waits for nobody.
    pub fn look_with(&self, look: impl Fn() + Send + Sync + 'static) {
        *self.shared.look.write().unwrap_or_else(PoisonError::into_inner) = Some(Look(Box::new(look)));
    }

    /// Whether so many register that senders' addresses are wanted.
    pub fn wants_senders(&self) -> bool {
        self.shared.wants_senders.load(Ordering::Relaxed)
    }

    /// Passes on a second in which the kernel dropped so many of the datagrams that reached our sockets.
    pub fn drops(&self, dropped: u64, received: u64) {
        // There is room, unless the thread is gone.
        let _ = self.sender.try_send(Message::Drops { dropped, received });
    }

    /// The number of the newest event, and a way to wait for the next.
    pub fn newest(&self) -> watch::Receiver<u64> {
        self.newest.clone()
    }

    /// What an earlier run had saved, if there was something.
    pub async fn restored(&self) -> Option<Restored> {
        // The thread answers when it has begun.
        self.ask(|_| ()).await.ok()?;
        self.shared.restored.get().cloned()
    }

    /// Receiving ends: nobody is judged any more. What is on its way is taken.
    pub fn stop_judging(&self) {
        self.shared.is_deaf.store(true, Ordering::Relaxed);
    }

    /// What is on its way is taken, and what it notifies is put into the queues of the targets; the answer comes when that is done.
    /// From then on the thread answers nobody, and saves what the targets are told, until [`PresenceHandle::stop`].
    pub fn finish(&self) -> oneshot::Receiver<()> {
        let (done, finished) = oneshot::channel();
        // If the queue is full for so long, the thread is gone.
        let _ = self.sender.send(Message::Finish(done));
        finished
    }

    /// Ends the presence thread: it saves what it knows.
    pub fn stop(&self) {
        // If the queue is full for so long, the thread is gone.
        let _ = self.sender.send(Message::Stop);
    }

    /// Judges as this policy says from now on, and when the thread begins anew as well; warnings about instances wait for so
    /// long. Waits while the queue is full.
    pub fn set_policy(&self, policy: Policy, group_wait: Duration) {
        let kept = (policy.clone(), group_wait);
        *self.shared.policy.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept);
        let change = move |state: &mut PresenceState| state.set_policy(policy, group_wait.as_secs_f64());
        // Without the thread nobody is judged.
        let _ = self.sender.send(Message::Ask(Box::new(change)));
    }

    /// Notifies these targets from now on, and when the thread begins anew as well; the answer comes when others are put nothing
    /// any more. Waits while the queue is full.
    pub fn set_targets(&self, outboxes: Vec<Arc<Outbox>>) -> oneshot::Receiver<()> {
        self.shared.outboxes.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&outboxes);
        let (done, changed) = oneshot::channel();
        let change = move |state: &mut PresenceState| {
            state.set_targets(outboxes);
            // Whoever asked may have gone.
            let _ = done.send(());
        };
        // Without the thread nobody is notified.
        let _ = self.sender.send(Message::Ask(Box::new(change)));
        changed
    }

    /// Asks something; the answer comes through the receiver, or an error if the thread is gone or too busy.
    pub fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut PresenceState) -> T + Send + 'static,
    ) -> oneshot::Receiver<T> {
        let (answer, answered) = oneshot::channel();
        let ask = move |state: &mut PresenceState| {
            // If nobody waits any longer, nothing is done: what a report takes out goes with the next one.
            if !answer.is_closed() {
                let _ = answer.send(question(state));
            }
        };
        let _ = self.sender.try_send(Message::Ask(Box::new(ask)));
        answered
    }
}

/// Starts the presence thread with what an earlier one saved, as this part of the daemon. It ends, and saves, when every
/// handle is gone.
///
/// After a panic it goes on with what it knows: losing everybody for one heartbeat that it cannot cope with would raise false
/// alarms. If it fails again within a minute it takes what was saved last.
///
/// # Errors
/// If the thread cannot be started.
pub fn start(
    options: PresenceOptions,
    outboxes: Vec<Arc<Outbox>>,
    part: &Part,
) -> io::Result<(PresenceHandle, JoinHandle<()>)> {
    let (sender, inbox) = sync_channel(options.queue + OTHERS);
    let shared = Arc::new(Shared {
        queue: options.queue,
        waiting: AtomicUsize::new(0),
        lost: AtomicU64::new(0),
        wants_senders: AtomicBool::new(false),
        is_deaf: AtomicBool::new(false),
        restored: OnceLock::new(),
        look: RwLock::default(),
        policy: Mutex::default(),
        outboxes: Mutex::new(outboxes),
    });
    let (newest, seen) = watch::channel(0);
    let presence = PresenceHandle { sender, shared: Arc::clone(&shared), newest: seen };
    let (gate, waiting) = (options.gate.clone(), Arc::clone(&shared));
    let anew = move || {
        let mut options = options.clone();
        if let Some((policy, group_wait)) = &*shared.policy.lock().unwrap_or_else(PoisonError::into_inner) {
            (options.policy, options.group_wait) = (policy.clone(), *group_wait);
        }
        let outboxes = shared.outboxes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Driver::new(options, Arc::clone(&shared), outboxes, newest.clone())
    };
    let thread = part.thread("presence", move |part| {
        let mut held = hold(&gate, &inbox, &waiting.waiting);
        run(anew(), &anew, (&inbox, &mut held), part);
    })?;
    Ok((presence, thread))
}

/// Holds what comes while the gate is closed, for the state is not there yet.
fn hold(gate: &Gate, inbox: &Receiver<Message>, waiting: &AtomicUsize) -> VecDeque<Message> {
    let mut held = VecDeque::new();
    while !gate.is_open() {
        if held.len() >= HELD {
            gate.wait();
            break;
        }
        match inbox.recv_timeout(HELD_POLL) {
            Ok(message) => {
                waiting.fetch_sub(usize::from(matches!(message, Message::Signal(_))), Ordering::Relaxed);
                held.push_back(message);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    held
}

/// Runs a driver until it is told to stop; `anew` makes one of what was saved. What was held comes before what is in the inbox.
fn run(
    mut driver: Driver,
    anew: &impl Fn() -> Driver,
    (inbox, held): (&Receiver<Message>, &mut VecDeque<Message>),
    part: &Part,
) {
    let mut work = |driver: &mut Driver| {
        while let Some(message) = held.pop_front() {
            driver.apply(message);
        }
        driver.run(inbox, part);
    };
    while let Err(panic) = catch(|| work(&mut driver)) {
        driver.count_failed();
        let (is_stopping, is_ended) = (driver.is_stopping, driver.is_ended);
        part.restart_thread(&panic);
        if is_stopping && part.fails_again() {
            return;
        }
        if part.fails_again() {
            let left = driver.state.leave();
            // The lock of the state file goes with it.
            drop(driver);
            driver = anew();
            driver.state.take_over(left);
            (driver.is_stopping, driver.is_ended) = (is_stopping, is_ended);
        }
    }
}

/// The wall clock.
fn wall_clock() -> UnixTime {
    UnixTime::from_secs(unix_time())
}

/// An engine and what it is among other observers, with what an earlier start has left, at a time of both clocks.
fn among(
    peering: Peering,
    node: &str,
    engine: Engine,
    (saved, firing, times): (SavedObservers, Vec<Alarm>, (EngineTime, UnixTime)),
) -> (Engine, Option<Observers>) {
    // Two starts are never at the same microsecond.
    let start = (unix_time() * 1e6) as u64;
    let firing = firing.into_iter();
    match peering {
        Peering::Alone => (engine, None),
        Peering::Urls(urls) => {
            let mut engine = engine.shared();
            saved.place_peers(&urls, &mut engine);
            (engine, Some(Observers::new(node, start, &urls, saved, firing, times)))
        }
        Peering::Cluster(options) => {
            let shared = engine.shared();
            let mut engine = if options.listens_only { shared.listening_only() } else { shared };
            saved.place_peers(&saved.members(), &mut engine);
            (engine, Some(Observers::in_cluster(node, start, options, saved, firing, times)))
        }
    }
}

/// The thread: takes messages, ticks, and saves.
struct Driver {
    state: PresenceState,
    state_file: StateFile,
    /// Something has changed since the state was saved.
    dirty: bool,
    /// Something was handed to targets or delivered since then: a start after a crash must not contradict it.
    has_told: bool,
    shared: Arc<Shared>,
    /// Signals since the last check of what the queue lost, and what it lost since.
    taken: u64,
    lost: u64,
    next_check: Instant,
    next_tick: Instant,
    next_save: Instant,
    /// No save begins before then, and when the last one began.
    soonest_save: Instant,
    save_began: Instant,
    /// The engine's clock: where it began, and when.
    base: EngineTime,
    started: Instant,
    /// When the thread last ran.
    last_run: Instant,
    /// The last warning of maintenance that was announced for an unknown service.
    warned_at: Option<Instant>,
    /// A heartbeat is in work.
    has_signal: bool,
    /// The end of all notifying was asked for: by whom, until that is answered.
    is_stopping: bool,
    finished: Option<oneshot::Sender<()>>,
    /// A stop was asked for: the targets are told nothing any more.
    is_ended: bool,
}

impl Driver {
    fn new(
        options: PresenceOptions,
        shared: Arc<Shared>,
        outboxes: Vec<Arc<Outbox>>,
        newest: watch::Sender<u64>,
    ) -> Driver {
        let PresenceOptions { policy, seed, identity, memory, .. } = options;
        let path = options.state_file.clone();
        let (state_file, saved) = StateFile::open(options.state_file);
        let is_lost = saved.is_err();
        let has_saved = matches!(saved, Ok(Some(_)));
        let was_among = matches!(&saved, Ok(Some((saved, _))) if saved.observers.is_some());
        let (base, mut engine, alarms, told, observers) = match saved {
            Ok(Some((saved, age))) => {
                let base = saved.presence.now() + age;
                let engine = Engine::restored(policy, saved.presence, base, seed).in_memory(&memory);
                (base, engine, saved.alarms, saved.told, saved.observers.unwrap_or_default())
            }
            Ok(None) | Err(_) => {
                let base = EngineTime::default();
                let engine = Engine::new(policy, base, seed).in_memory(&memory);
                (base, engine, Vec::new(), Some(Vec::new()), SavedObservers::default())
            }
        };
        if is_lost {
            engine.state_lost();
        }
        if let Some(file) = path.filter(|_| has_saved) {
            let all = engine.summary();
            // Only the first one counts: later ones begin with what this run has saved.
            let _ = shared.restored.set(Restored { file, services: all.services, instances: all.present });
        }
        let alerts = AlertBook::new(options.group_wait.as_secs_f64(), alarms);
        let epoch = Epoch::new(wall_clock(), base);
        engine.set_epoch(epoch);
        let held = memory.holding(Holder::Presence);
        if options.peering == Peering::Alone {
            // Of nodes that do not ask each other any more nobody says that they can.
            for nodes in alerts.firing().filter_map(|alarm| alarm.key.nodes.clone()) {
                let by = identity.node.as_str().into();
                let context = PeerContext { by, former: true, ..PeerContext::default() };
                engine.report_peer(Phase::End, nodes, Some(context));
            }
        }
        let firing: Vec<_> = alerts.firing().cloned().collect();
        let saved = (observers, firing, (base, epoch.to_unix(base)));
        let (engine, observers) = among(options.peering, &identity.node, engine, saved);
        let observers = observers.map(|observers| Among::new(observers.in_memory(&memory)));
        let mut state = PresenceState::new(engine, epoch, identity, alerts, outboxes, newest, held);
        state.shared = observers;
        state.kept = options.interval.as_secs_f64() + TAKE_OVER_SECS;
        state.resume(told.as_deref(), was_among);
        let now = Instant::now();
        Driver {
            state,
            state_file,
            dirty: false,
            has_told: false,
            shared,
            taken: 0,
            lost: 0,
            next_check: now + LOST_EVERY,
            next_tick: now + TICK,
            next_save: now + SAVE_EVERY,
            soonest_save: now,
            save_began: now,
            base,
            started: now,
            last_run: now,
            warned_at: None,
            has_signal: false,
            is_stopping: false,
            finished: None,
            is_ended: false,
        }
    }

    /// What a panic has lost.
    fn count_failed(&mut self) {
        self.state.count_failed(u64::from(std::mem::take(&mut self.has_signal)));
    }

    fn run(&mut self, inbox: &Receiver<Message>, part: &Part) {
        while !self.is_stopping {
            part.alive();
            let pause = self.next_tick.saturating_duration_since(Instant::now());
            let message = inbox.recv_timeout(pause);
            self.leave_out_pause();
            match message {
                Ok(message) => self.take(message),
                Err(RecvTimeoutError::Disconnected) => self.take(Message::Stop),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if Instant::now() >= self.next_tick {
                // What has come is applied before anybody is evaluated.
                for message in inbox.try_iter().take(2 * (self.shared.queue + OTHERS)) {
                    self.take(message);
                }
                if self.is_stopping {
                    break;
                }
                self.tick();
            }
        }
        self.state.engine_mut().take_all_job_lines();
        // What happened since the last tick is notified, and the alerts that it starts or ends are saved.
        self.tick();
        if let Some(finished) = self.finished.take() {
            // Nobody waits for that any more, perhaps.
            let _ = finished.send(());
        }
        self.await_deliveries();
        self.dirty = true;
        self.save_told();
        self.follow_deliveries(inbox);
    }

    /// The engine's clock.
    fn clock(&self) -> EngineTime {
        self.base + self.started.elapsed().as_secs_f64()
    }

    /// Time in which we did not run is no silence of others.
    fn leave_out_pause(&mut self) {
        let slept = self.last_run.elapsed().saturating_sub(TICK);
        self.last_run = Instant::now();
        let now = self.clock();
        self.state.engine_mut().at(now);
        if slept >= Duration::from_secs(1) {
            self.state.engine_mut().stalled(now, slept.as_secs_f64());
        }
    }

    /// Does what a message that waited says.
    fn take(&mut self, message: Message) {
        self.shared.waiting.fetch_sub(usize::from(matches!(message, Message::Signal(_))), Ordering::Relaxed);
        self.apply(message);
    }

    fn apply(&mut self, message: Message) {
        let now = self.clock();
        self.state.engine_mut().at(now);
        match message {
            Message::Signal(signal) => {
                self.has_signal = true;
                fault::pass("heartbeat");
                self.dirty = true;
                self.taken += 1;
                if let Signal::Maintenance { service, .. } = &*signal {
                    self.check_maintenance(service);
                }
                self.state.engine_mut().signal(&signal);
                self.has_signal = false;
            }
            Message::Drops { dropped, received } => {
                self.state.engine_mut().kernel_drops(now, dropped, received);
            }
            Message::Ask(question) => {
                self.count_lost();
                self.state.collect();
                question(&mut self.state);
                // Whoever only looks makes a state be saved, too: it says until when this node has watched, and what comes after
                // that is a time in which it was blind, if it is killed.
                self.dirty = true;
            }
            Message::Finish(finished) => (self.is_stopping, self.finished) = (true, Some(finished)),
            Message::Stop => (self.is_stopping, self.is_ended) = (true, true),
        }
    }

    /// Takes over what the queue has lost.
    fn count_lost(&mut self) {
        let lost = self.shared.lost.swap(0, Ordering::Relaxed);
        self.lost += lost;
        self.state.count_queue_drops(lost);
    }

    /// Warns, at most once a minute, of maintenance that is announced for an unknown service.
    fn check_maintenance(&mut self, service: &str) {
        let is_warned = self.warned_at.is_some_and(|at| at.elapsed() < WARN_EVERY);
        if is_warned || self.state.knows(service) {
            return;
        }
        self.warned_at = Some(Instant::now());
        let nearest = self.state.engine().like(service).unwrap_or("");
        tracing::warn!(
            service = %Escaped(service),
            nearest = %Escaped(nearest),
            "maintenance of an unknown service was announced; it is an ordinary metric"
        );
    }

    fn tick(&mut self) {
        let now = self.clock();
        if Instant::now() >= self.next_check {
            self.next_check = Instant::now() + LOST_EVERY;
            self.count_lost();
            let (lost, taken) = (std::mem::take(&mut self.lost), std::mem::take(&mut self.taken));
            self.state.engine_mut().queue_drops(now, lost, taken);
        }
        self.state.engine_mut().at(now);
        self.state.set_wall_clock(wall_clock());
        if self.shared.is_deaf.load(Ordering::Relaxed) {
            // Peering are not asked any more, either.
            self.state.engine_mut().stop_judging();
        } else {
            if self.state.may_judge() {
                self.state.engine_mut().tick(now);
            }
            self.state.tick_observers();
        }
        self.shared.wants_senders.store(self.state.engine().is_crowded(), Ordering::Relaxed);
        self.dirty |= self.state.engine().has_events();
        self.state.collect();
        self.dirty |= self.state.tick_alerts();
        self.has_told |= self.state.has_delivered();
        if let Some(Look(look)) = &*self.shared.look.read().unwrap_or_else(PoisonError::into_inner) {
            look();
        }
        self.next_tick += TICK;
        if self.next_tick < Instant::now() {
            self.next_tick = Instant::now() + TICK;
        }
        self.state.unsaved = self.state_file.unsaved().cloned();
        self.save_if_due();
    }

    /// Saves when it is time, or soon after targets were told something.
    fn save_if_due(&mut self) {
        let now = Instant::now();
        if self.state_file.is_syncing() {
            // A disk that is slow is waited for by later states, not by those who are judged.
            self.pause_saves();
        } else if now >= self.next_save || (self.has_told && now >= self.soonest_save) {
            (self.save_began, self.next_save) = (now, now + SAVE_EVERY);
            self.save();
            self.pause_saves();
        }
    }

    /// Saving takes a small part of the time, however long it takes.
    fn pause_saves(&mut self) {
        let now = Instant::now();
        self.soonest_save = now + SAVE_SOON.max(SAVE_PAUSE * (now - self.save_began));
    }

    /// Waits for a moment until what is notified is delivered, so that the next start does not tell it again. Who does not
    /// answer is not waited for.
    fn await_deliveries(&self) {
        let until = Instant::now() + DELIVERY_PATIENCE;
        while !self.state.is_settled() && Instant::now() < until {
            std::thread::sleep(DELIVERY_POLL);
        }
    }

    /// Saves what targets are told while their tasks end: a receiver that takes its time has an alert, and the next start knows it.
    fn follow_deliveries(&mut self, inbox: &Receiver<Message>) {
        while !self.is_ended {
            match inbox.recv_timeout(SAVE_SOON) {
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => self.is_ended = true,
                // Nobody is answered any more.
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
            }
            self.has_told |= self.state.has_delivered();
            if self.has_told || self.state_file.unsaved().is_some() {
                self.save_told();
            }
        }
    }

    /// Saves at a stop, with what the targets were told by now.
    fn save_told(&mut self) {
        let now = self.clock();
        self.state.engine_mut().at(now);
        self.has_told |= self.state.has_delivered();
        self.state.note_deliveries();
        self.save();
        self.state_file.sync();
    }

    /// Saves what has changed. Nothing is written while there was never anybody.
    fn save(&mut self) {
        // What could not be saved is tried again.
        let has_changed = std::mem::take(&mut self.dirty) | std::mem::take(&mut self.has_told);
        let is_dirty = has_changed || self.state_file.unsaved().is_some();
        let is_nobody =
            self.state.engine().is_empty() && !self.state.engine().has_jobs() && self.state_file.is_missing();
        if is_dirty && !is_nobody {
            let told = self.state.saved_targets();
            let observers = self.state.shared.as_ref().map(|shared| &shared.observers);
            self.state_file.save(self.state.engine(), self.state.alerts(), &told, observers);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::fs;

    use super::*;
    use crate::presence::{AlertName, Reason};
    use crate::protocol::Heartbeat;

    pub(super) fn options(state_file: Option<PathBuf>) -> PresenceOptions {
        PresenceOptions {
            policy: Policy::default(),
            state_file,
            seed: 1,
            identity: Identity { node: "here".into(), boot: 0 },
            group_wait: Duration::ZERO,
            interval: Duration::from_secs(10),
            queue: 10,
            memory: Memory::unlimited(),
            peering: Peering::Alone,
            gate: Gate::default(),
        }
    }

    fn beat() -> Signal {
        Signal::Heartbeat(Heartbeat {
            service: "a".into(),
            instance: "b".into(),
            interval: Some(10.0),
            ..Heartbeat::default()
        })
    }

    #[test]
    fn a_report_that_nobody_waits_for_any_more_takes_nothing_out() {
        let (presence, thread) = start(options(None), Vec::new(), &Part::new("presence")).expect("started");
        presence.signal(beat());
        let (hold, held) = std::sync::mpsc::channel::<()>();
        // It ends with an error, when the sender is dropped.
        let busy = presence.ask(move |_| held.recv().is_err());
        // A flush whose patience ends while presence is busy.
        drop(presence.ask(PresenceState::report));
        let next = presence.ask(PresenceState::report);
        drop(hold);
        assert_eq!(busy.blocking_recv(), Ok(true));
        let report = next.blocking_recv().expect("an answer");
        let is_registered = |reason: Option<Cow<'_, str>>| reason.as_deref() == Some(Reason::Registered.as_str());
        assert!(report.events.iter().any(|event| is_registered(event.change.reason())), "{:?}", report.events);
        presence.stop();
        thread.join().expect("it ends");
    }

    #[test]
    fn what_comes_before_an_earlier_process_has_left_waits_beside_the_queue() {
        let gate = Gate::closed();
        let options = PresenceOptions { gate: gate.clone(), ..options(None) };
        let (queue, until) = (options.queue, Instant::now() + Duration::from_secs(20));
        let (presence, thread) = start(options, Vec::new(), &Part::new("presence")).expect("started");
        for n in 0..20 * queue {
            while presence.shared.waiting.load(Ordering::Relaxed) >= queue {
                assert!(Instant::now() < until, "nobody takes them");
                std::thread::yield_now();
            }
            let Signal::Heartbeat(beat) = beat() else { panic!("a heartbeat") };
            presence.signal(Signal::Heartbeat(Heartbeat { instance: format!("i{n}").into(), ..beat }));
        }
        let known = presence.ask(|state| state.engine().summary().present);
        gate.open();
        assert_eq!(known.blocking_recv(), Ok(20 * queue));
        assert_eq!(presence.shared.lost.load(Ordering::Relaxed), 0);
        presence.stop();
        thread.join().expect("it ends");
    }

    #[test]
    fn what_happens_just_before_the_stop_is_notified_and_its_alert_is_saved() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("presence.json");
        let (sender, inbox) = sync_channel(3);
        let half = Message::Drops { dropped: 50, received: 100 };
        for message in [Message::Signal(Box::new(beat())), half, Message::Stop] {
            sender.try_send(message).expect("room");
        }
        let (queue, waiting) = (10, AtomicUsize::new(1));
        let (lost, wants_senders) = (AtomicU64::new(0), AtomicBool::new(false));
        let (restored, look, is_deaf) = (OnceLock::new(), RwLock::default(), AtomicBool::new(false));
        let policy = Mutex::default();
        let outboxes = vec![Arc::new(Outbox::for_tests())];
        let its_outboxes = Mutex::new(outboxes.clone());
        let shared =
            Shared { queue, waiting, lost, wants_senders, is_deaf, restored, look, policy, outboxes: its_outboxes };
        let outbox = Arc::clone(&outboxes[0]);
        let (newest, _) = watch::channel(0);
        Driver::new(options(Some(path.clone())), Arc::new(shared), outboxes, newest)
            .run(&inbox, &Part::new("presence"));
        assert_eq!(outbox.account().queued, 1);
        let (_, saved) = StateFile::open(Some(path));
        let (saved, _) = saved.expect("readable").expect("a state");
        let names: Vec<AlertName> = saved.alarms.iter().map(|alarm| alarm.key.name).collect();
        assert_eq!(names, [AlertName::Ingest]);
    }

    #[test]
    fn that_a_peer_is_lost_ends_at_a_start_without_peers() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("presence.json");
        let among = PresenceOptions { peering: Peering::Urls(vec!["http://b".into()]), ..options(Some(path.clone())) };
        let (presence, thread) = start(among, Vec::new(), &Part::new("presence")).expect("started");
        presence.signal(beat());
        let lose = |state: &mut PresenceState| {
            state.engine_mut().report_peer(Phase::Start, ["b".into(), "here".into()], None);
        };
        presence.ask(lose).blocking_recv().expect("an answer");
        presence.stop();
        thread.join().expect("it ends");
        let open = || {
            let (_, saved) = StateFile::open(Some(path.clone()));
            let (saved, _) = saved.expect("readable").expect("a state");
            saved.alarms.into_iter().map(|alarm| alarm.key.name).collect::<Vec<_>>()
        };
        assert_eq!(open(), [AlertName::PeerUnreachable]);
        let alone = options(Some(path.clone()));
        let (presence, thread) = start(alone, Vec::new(), &Part::new("presence")).expect("started");
        presence.stop();
        thread.join().expect("it ends");
        assert_eq!(open(), []);
    }

    #[test]
    fn a_state_that_cannot_be_locked_is_read_and_not_written() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("presence.json");
        let (presence, thread) =
            start(options(Some(path.clone())), Vec::new(), &Part::new("presence")).expect("started");
        presence.signal(beat());
        assert_eq!(presence.ask(|state| state.services_and_jobs().len()).blocking_recv(), Ok(1));
        presence.stop();
        thread.join().expect("it ends");
        let before = fs::read(&path).expect("a state");
        // A folder in the lock's place: not even root makes a file of it.
        let lock = dir.path().join("presence.json.lock");
        fs::remove_file(&lock).expect("a lock");
        fs::create_dir(&lock).expect("a folder");
        let (presence, thread) =
            start(options(Some(path.clone())), Vec::new(), &Part::new("presence")).expect("started");
        assert_eq!(presence.ask(|state| state.services_and_jobs().len()).blocking_recv(), Ok(1));
        presence.stop();
        thread.join().expect("it ends");
        assert_eq!(fs::read(&path).expect("a state"), before);
    }
}
