//! Keeping what outlives the process: the flusher takes it out of the registry, and a thread of its own encodes and writes it;
//! another one reads at the start what the last process has left, while the workers receive already.
//!
//! | part | has | is written |
//! |---|---|---|
//! | `registry` | gauges, idle series, longer intervals, totals, the sequence | every `state_interval`, and at the stop |
//! | `open` | the open interval so far, with `keep_open_interval` | every `state_interval`; `open-over` when the interval is closed, before sinks get it |
//! | `closed` | the last tick that flushed longer intervals which `registry` still has | at that tick, before sinks get it |
//!
//! What is closed is taken back by a second thread, for the first one may be at a large part. A tick waits until the disk has
//! that, but not for longer than [`CLOSE_PATIENCE`]: one that hangs does not hold intervals up, and is asked again at the next tick.
//! Where `closed` cannot be written, `registry` is removed: what was flushed is never flushed again.

use std::io;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{OwnedPermit, Receiver, Sender, channel};
use tokio::sync::oneshot;

use crate::aggregate::Partial;
use crate::fault;
use crate::presence::{Event, UnixTime};
use crate::presence_driver::PresenceState;
use crate::rollup::{Interval, Registry, Restored, SavedInterval, SavedRegistry};
use crate::series::Series;
use crate::snapshot::Snapshot;
use crate::state::{Discarded, Limits, StateFolder, Turn};
use crate::sys::{self, since, unix_time};
use crate::telemetry::{Account, Ledger, PresenceAccount, Tally};

use super::{Flusher, PRESENCE_PATIENCE, WORKER_PATIENCE, account_of, next_tick};

pub use names::{CLOSED, OPEN, OPEN_OVER, REGISTRY};

/// The names of our parts.
mod names {
    /// What goes over intervals.
    pub const REGISTRY: &str = "registry";
    /// The open interval.
    pub const OPEN: &str = "open";
    /// The same once that is closed.
    pub const OPEN_OVER: &str = "open-over";
    /// The last tick that flushed longer intervals.
    pub const CLOSED: &str = "closed";
}

/// Format of all of them.
pub const FORMAT: u32 = 1;

/// How long ticks wait together for what the last process has left.
const LOAD_PATIENCE: Duration = Duration::from_secs(5);

/// How long a tick waits until no later process finds what it closes.
const CLOSE_PATIENCE: Duration = Duration::from_millis(200);

/// The tick of [`KeptTick`] that ends all longer intervals: they were flushed before their time.
const ALL_TICKS: u64 = u64::MAX;

/// How long a queue that is full is left alone.
const FULL_PAUSE: Duration = Duration::from_millis(10);

/// How state is kept.
#[derive(Clone, Debug)]
pub struct StateOptions {
    /// Where.
    pub folder: StateFolder,
    /// How often.
    pub every: Duration,
    /// Whether the open interval is kept, too.
    pub keeps_open: bool,
    /// Most series that are restored.
    pub most_series: usize,
    /// Since when this process receives, Unix seconds.
    pub receives_since: f64,
}

/// The part `registry`.
#[derive(Debug, Serialize, Deserialize)]
pub struct KeptRegistry {
    /// When it was taken, Unix seconds.
    pub taken: f64,
    /// The end of the last closed interval, Unix seconds.
    pub last_end: f64,
    /// What it knew.
    pub registry: SavedRegistry,
}

/// The part `open`, and `open-over`: what sinks got is not loaded again, but gauges and points of longer intervals are.
#[derive(Debug, Serialize, Deserialize)]
pub struct KeptInterval {
    /// When it was taken, Unix seconds.
    pub taken: f64,
    /// What it had.
    pub interval: SavedInterval,
    /// What presence had to say of it.
    pub presence: CarriedPresence,
}

/// What presence had to say of an interval that another process closes. Its levels are that one's to say.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct CarriedPresence {
    /// JSON, which knows nothing of the time.
    events: Vec<(UnixTime, String)>,
    counted: Vec<(Series, f64)>,
    /// JSON of the account.
    account: String,
}

impl CarriedPresence {
    /// Puts it to what presence has to say at the end of the interval.
    pub(super) fn add_to(self, snapshot: &mut Snapshot, registry: &Registry) {
        let event = |(at, text): &(UnixTime, String)| Some(Event { at: *at, ..serde_json::from_str(text).ok()? });
        let mut events: Vec<Event> = self.events.iter().filter_map(event).collect();
        events.append(&mut snapshot.presence);
        snapshot.presence = events;
        registry.add_counted(snapshot, self.counted);
        if let Ok(mut account) = serde_json::from_str::<PresenceAccount>(&self.account) {
            account.add(&snapshot.ledger.presence);
            snapshot.ledger.presence = account;
        }
    }
}

/// The part `closed`.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct KeptTick {
    /// Number of the interval that it ended: clocks step.
    sequence: u64,
    tick: u64,
    end: f64,
}

/// What no later process is to go on with.
#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    /// The part `open`.
    open: bool,
    /// Longer intervals that `registry` has points of.
    closed: Option<KeptTick>,
}

/// What is to be taken back, in its turns: what is saved later stays, however long that takes.
#[derive(Debug)]
struct TakeBack {
    open: Option<Turn>,
    /// Also the turn in which `registry` is removed if this cannot be written.
    closed: Option<(KeptTick, Turn)>,
    /// Whoever waits: whether the disk has it.
    done: oneshot::Sender<bool>,
}

impl Taken {
    /// Begins to take it back now.
    fn begin(self, folder: &StateFolder, done: oneshot::Sender<bool>) -> TakeBack {
        let open = if self.open { folder.begin(OPEN) } else { None };
        let closed = self.closed.and_then(|kept| Some((kept, folder.begin(REGISTRY)?)));
        TakeBack { open, closed, done }
    }
}

/// What the last process has left.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    registry: Option<KeptRegistry>,
    open: Option<KeptInterval>,
    over: Option<KeptInterval>,
    closed: KeptTick,
}

impl Loaded {
    /// What the last process knew when it had closed its last interval, as far as that is known, and what the open one had.
    /// Points of longer intervals that ended with the tick or before were flushed.
    fn joined(self, registry: &Registry, every: Duration, most: usize) -> (KeptRegistry, u64, Option<KeptInterval>) {
        let Loaded { registry: kept, open, over, closed } = self;
        let taken = over.as_ref().map_or_else(unix_time, |over| over.taken);
        let mut kept = kept.unwrap_or(KeptRegistry { taken, last_end: 0.0, registry: SavedRegistry::default() });
        let known = kept.registry.sequence;
        // What was flushed later.
        let tick = if closed.sequence > known { closed.tick } else { 0 };
        match over {
            Some(KeptInterval { interval, .. }) if interval.sequence >= known => {
                let secs = (interval.end - kept.taken).max(0.0);
                let at = Interval::new(interval.end, interval.length_secs, secs, every);
                kept.registry = kept.registry.after_closing(interval, at, registry.options(), most);
                (kept.taken, kept.last_end) = (kept.taken + secs, at.end);
            }
            Some(_) | None => {}
        }
        kept.last_end = kept.last_end.max(closed.end);
        kept.registry.sequence = kept.registry.sequence.max(closed.sequence);
        // An interval was closed after it was taken, so it was that one.
        let open = open.filter(|open| open.interval.sequence >= kept.registry.sequence);
        if let Some(open) = &open {
            kept.registry.sequence = open.interval.sequence;
        }
        (kept, tick, open)
    }
}

/// What is to be written.
struct Job {
    registry: Option<(Turn, Box<KeptRegistry>)>,
    open: Option<(Turn, Box<KeptInterval>)>,
    /// It is told, or will be, how the last process ended.
    is_told: bool,
    done: Option<oneshot::Sender<bool>>,
}

/// The flusher's end.
#[derive(Debug)]
pub(super) struct StateWriter {
    options: StateOptions,
    /// How long ticks still wait for what the last process has left.
    patience: Duration,
    loaded: Option<oneshot::Receiver<Loaded>>,
    jobs: Option<Sender<Job>>,
    take_back: Option<Sender<TakeBack>>,
    /// What the disk has not taken back as far as is known.
    to_take_back: Taken,
    /// That it did not was logged.
    has_warned: bool,
    /// Points of longer intervals are flushed before their time.
    ends_longer: bool,
    next: Instant,
    /// The end of the last closed interval, Unix seconds.
    last_end: f64,
    /// There may be a part `open`.
    has_open: bool,
    /// The part `registry` has points of longer intervals.
    has_longer: bool,
    /// Seconds that the open interval had before this process.
    carried_secs: f64,
}

impl StateWriter {
    /// Starts reading what the last process has left.
    fn start(options: StateOptions) -> StateWriter {
        let (loaded, is_loaded) = oneshot::channel();
        let (disk, folder) = (options.folder.disk(), options.folder.clone());
        let load = async move {
            // Whoever waits for it may have gone on.
            let _ = loaded.send(load(&folder));
        };
        let reads = disk.go_aside("state-read", Box::pin(load));
        // The one that is being written, and one more.
        let (jobs, queue) = channel(1);
        let writes = disk.go_aside("state-write", Box::pin(work(options.folder.clone(), queue)));
        let (take_back, closed) = channel(1);
        let closes = disk.go_aside("state-close", Box::pin(work_back(options.folder.clone(), closed)));
        for error in [reads.as_ref().err(), writes.as_ref().err(), closes.as_ref().err()].into_iter().flatten() {
            tracing::warn!(%error, "a thread for the state folder cannot be started");
        }
        StateWriter {
            patience: LOAD_PATIENCE,
            loaded: Some(is_loaded),
            jobs: writes.is_ok().then_some(jobs),
            take_back: closes.is_ok().then_some(take_back),
            to_take_back: Taken::default(),
            has_warned: false,
            ends_longer: false,
            next: sys::now() + options.every,
            last_end: 0.0,
            has_open: false,
            has_longer: false,
            carried_secs: 0.0,
            options,
        }
    }

    /// Room for a job of the thread that writes, if there is any.
    fn room(&self) -> Option<OwnedPermit<Job>> {
        let room = self.jobs.clone()?.try_reserve_owned();
        if matches!(room, Err(TrySendError::Full(_))) {
            tracing::debug!("the state folder is slow: it is written next time");
        }
        room.ok()
    }

    /// Resolves with what the last process has left, once.
    async fn loaded(&mut self) -> Option<Box<Loaded>> {
        let Some(waiting) = &mut self.loaded else { return std::future::pending().await };
        let loaded = waiting.await.ok();
        self.loaded = None;
        loaded.map(Box::new)
    }

    /// An interval tells how the last process ended: with the next state that is over.
    pub(super) fn save_soon(&mut self) {
        self.next = sys::now();
    }

    /// Seconds that an interval had before this process.
    pub(super) fn take_carried(&mut self) -> f64 {
        std::mem::take(&mut self.carried_secs)
    }
}

/// Writes what is handed to it.
async fn work(folder: StateFolder, mut queue: Receiver<Job>) {
    while let Some(Job { registry, open, is_told, done }) = queue.recv().await {
        fault::pass("state:write");
        let (mut is_written, began) = (true, sys::now());
        if let Some((turn, kept)) = registry {
            // It may have been removed meanwhile.
            is_written &= folder.write_turn(turn, FORMAT, |out| encode(&kept, out));
            if is_written {
                // It has what that says.
                folder.forget_problem(CLOSED);
            }
            if is_written && done.is_some() {
                folder.remove(OPEN_OVER);
            }
        }
        if let Some((turn, kept)) = open {
            // It may have been closed meanwhile.
            is_written &= folder.write_turn(turn, FORMAT, |out| encode(&kept, out));
        }
        if is_told {
            folder.touch();
        }
        tracing::debug!(took_secs = since(began).as_secs_f64(), "wrote the state");
        if let Some(done) = done {
            let _ = done.send(is_written);
        }
    }
}

/// Takes back what is handed to it.
async fn work_back(folder: StateFolder, mut queue: Receiver<TakeBack>) {
    while let Some(TakeBack { open, closed, done }) = queue.recv().await {
        let mut is_done = open.is_none_or(|turn| folder.end_turn(turn));
        if let Some((kept, registry)) = closed
            && !folder.write(CLOSED, FORMAT, |out| encode(&kept, out))
        {
            tracing::warn!("what was flushed cannot be noted in the state folder: the saved registry is removed");
            is_done &= folder.remove_turn(registry);
            is_done &= folder.remove(OPEN_OVER);
        }
        is_done &= folder.sync();
        // Whoever waited may have gone on.
        let _ = done.send(is_done);
    }
}

pub(super) fn encode<T: Serialize>(value: &T, out: &mut dyn io::Write) -> io::Result<()> {
    postcard::to_io(value, out).map(|_| ()).map_err(io::Error::other)
}

/// Reads what the last process has left.
fn load(folder: &StateFolder) -> Loaded {
    let any_age = Limits { age: Duration::MAX, ..Limits::default() };
    Loaded {
        registry: decode(folder, REGISTRY, Limits::default()),
        open: decode(folder, OPEN, Limits::default()),
        // However old they are, they say what was flushed.
        over: decode(folder, OPEN_OVER, any_age),
        closed: decode(folder, CLOSED, any_age).unwrap_or_default(),
    }
}

fn decode<T: DeserializeOwned>(folder: &StateFolder, part: &str, limits: Limits) -> Option<T> {
    let saved = folder.read(part, FORMAT, limits)?;
    match postcard::from_bytes(&saved.bytes) {
        Ok(value) => Some(value),
        Err(error) => {
            folder.set_aside(part, Discarded::Damaged, &format!("it cannot be read: {error}"));
            None
        }
    }
}

/// What is in a part of ours, for people; `None` if it is none of ours, or cannot be read.
pub fn describe(part: &str, bytes: &[u8]) -> Option<Value> {
    match part {
        REGISTRY => {
            let kept: KeptRegistry = postcard::from_bytes(bytes).ok()?;
            let (gauges, idle, longer) = kept.registry.counts();
            let (last_end, sequence) = (kept.last_end, kept.registry.sequence);
            let all = json!({
                "gauges": gauges, "idle_series": idle, "longer_points": longer, "sequence": sequence, "last_end": last_end,
            });
            Some(all)
        }
        OPEN | OPEN_OVER => {
            let KeptInterval { interval, .. } = postcard::from_bytes(bytes).ok()?;
            let (series, values) = interval.counts();
            let lines = interval.ledger.lines.read;
            let (end, secs) = (interval.end, interval.length_secs);
            Some(json!({ "series": series, "values": values, "lines": lines, "end": end, "length_secs": secs }))
        }
        CLOSED => {
            let KeptTick { end, .. } = postcard::from_bytes(bytes).ok()?;
            Some(json!({ "last_end": end }))
        }
        _ => None,
    }
}

/// What a keeper waits for.
#[derive(Debug)]
pub(super) enum StateEvent {
    /// What the last process has left is read; `None` if nothing can be read.
    Loaded(Option<Box<Loaded>>),
    /// The state is to be written.
    Due,
}

/// The next event; nothing ever where no state is kept.
pub(super) async fn next_event(keeper: &mut Option<StateWriter>) -> StateEvent {
    let Some(keeper) = keeper else { return std::future::pending().await };
    let is_kept = keeper.jobs.is_some() && keeper.options.folder.is_kept();
    let due = tokio::time::sleep_until(keeper.next.into());
    tokio::select! {
        biased;
        loaded = keeper.loaded() => StateEvent::Loaded(loaded),
        () = due, if is_kept => StateEvent::Due,
        else => std::future::pending().await,
    }
}

impl Flusher {
    /// Keeps what outlives the process, and goes on with what the last one has left.
    #[must_use]
    pub fn keeping(mut self, options: StateOptions) -> Flusher {
        self.sources.state = options.folder.clone();
        self.unclean_stop = options.folder.status().unclean_stop;
        self.totals.unclean_stop = self.unclean_stop;
        // Points of longer intervals need not be flushed at a stop.
        self.registry.keep_longer(options.folder.is_kept());
        self.keeper = options.folder.is_on().then(|| StateWriter::start(options));
        self.publish(None, false, None);
        self
    }

    /// Does what is to be done with the state.
    pub(super) async fn handle_state(&mut self, event: StateEvent) {
        match event {
            StateEvent::Loaded(loaded) => loaded.into_iter().for_each(|loaded| self.take_in(*loaded)),
            StateEvent::Due => self.save_state().await,
        }
    }

    /// Waits for what the last process has left, which comes before the interval that is closed now.
    pub(super) async fn await_state(&mut self) {
        let Some(left) = self.keeper.as_ref().filter(|keeper| keeper.loaded.is_some()).map(|keeper| keeper.patience)
        else {
            return;
        };
        let (began, mut patience) = (sys::now(), self.patience(left));
        let Some(keeper) = &mut self.keeper else { return };
        match patience.wait(keeper.loaded()).await {
            Some(Some(loaded)) => self.take_in(*loaded),
            Some(None) => {}
            None => {
                let waited = since(began);
                keeper.patience = left.saturating_sub(waited);
                let waited_secs = waited.as_secs_f64();
                tracing::warn!(waited_secs, "what the last process knew is not read yet: an interval goes without it");
            }
        }
    }

    /// Goes on with what the last process has left.
    pub(super) fn take_in(&mut self, loaded: Loaded) {
        let Flusher { keeper: Some(keeper), registry, started, last_close, carried_presence, .. } = self else {
            return;
        };
        let (every, unclean_stop) = (self.interval, &mut self.unclean_stop);
        let (now, clock) = (unix_time(), since(*started).as_secs_f64());
        let most = keeper.options.most_series;
        keeper.has_open = loaded.open.is_some();
        let is_known = loaded.registry.is_some();
        let (mut kept, closed, mut open) = loaded.joined(registry, every, most);
        if !keeper.options.folder.is_kept() {
            // It cannot be taken back.
            let had_longer = kept.registry.leave_out_longer();
            if open.take().is_some() || had_longer {
                tracing::warn!(
                    "an open interval, or points of longer ones, that the last process has left wait until the state folder \
                     can be written to: they would be delivered after every start"
                );
            }
        }
        let age_secs = (now - kept.taken).max(0.0);
        if keeper.options.folder.status().is_stale {
            let age = is_known.then(|| format!("{age_secs:.0} s old"));
            let age = age.as_deref().unwrap_or("gone");
            tracing::warn!(
                "the last process could not save its state when it ended: what this one goes on with is {age}"
            );
        }
        keeper.last_end = keeper.last_end.max(kept.last_end);
        keeper.has_longer = kept.registry.has_longer();
        let restored = registry.restore(kept.registry, age_secs, clock, most, closed);
        let Restored { gauges, idle, longer, left_out } = restored;
        if restored != Restored::default() {
            let age_secs = age_secs.round();
            tracing::info!(gauges, idle, longer, left_out, age_secs, "went on with the saved state");
        }
        let Some(KeptInterval { taken, interval, presence }) = open else { return };
        // The time before it was taken is in its length.
        keeper.carried_secs += interval.length_secs;
        let since = Duration::try_from_secs_f64(now - taken.max(keeper.options.receives_since)).unwrap_or_default();
        *last_close = sys::now().checked_sub(since).unwrap_or(*last_close);
        let (series, values) = interval.counts();
        // No interval has said it yet.
        *unclean_stop = unclean_stop.or(interval.ledger.unclean_stop);
        registry.restore_open(interval);
        *carried_presence = presence;
        tracing::info!(series, values, "went on with an interval that the last process had not closed");
    }

    /// Takes out what outlives the process, and has it written.
    pub(super) async fn save_state(&mut self) {
        let Some(keeper) = &mut self.keeper else { return };
        keeper.next = sys::now() + keeper.options.every;
        // What is there is not to be replaced before it is read.
        if keeper.loaded.is_some() {
            return;
        }
        // What would not be written is not taken out.
        let Some(room) = keeper.room() else { return };
        let began = sys::now();
        let keeps_open = keeper.options.keeps_open && !self.cluster.is_edge() && !self.cluster.is_global();
        if keeps_open {
            self.cut_open().await;
        }
        let open = keeps_open.then(|| self.kept_interval());
        let registry = Box::new(self.kept_registry());
        let Some(keeper) = &mut self.keeper else { return };
        let held_up_secs = since(began).as_secs_f64();
        tracing::debug!(held_up_secs, "took the state out of the registry");
        let has_longer = registry.registry.has_longer();
        // What is removed from now on is later than both.
        let registry = keeper.options.folder.begin(REGISTRY).map(|turn| (turn, registry));
        let open = open.and_then(|open| Some((keeper.options.folder.begin(OPEN)?, Box::new(open))));
        keeper.has_open |= open.is_some();
        keeper.has_longer |= has_longer;
        // The open interval has it, too.
        let is_told = self.unclean_stop.is_none() || open.is_some();
        room.send(Job { registry, open, is_told, done: None });
    }

    /// What goes over intervals, as of now.
    pub(super) fn kept_registry(&self) -> KeptRegistry {
        let last_end = self.keeper.as_ref().map_or(0.0, |keeper| keeper.last_end);
        let registry = self.registry.save(since(self.started).as_secs_f64());
        KeptRegistry { taken: unix_time(), last_end, registry }
    }

    /// The open interval so far, as it was cut last.
    pub(super) fn kept_interval(&self) -> KeptInterval {
        let now = unix_time();
        let keeper = self.keeper.as_ref();
        let mut interval = self.registry.save_open();
        interval.end = next_tick(now, self.interval);
        interval.length_secs = keeper.map_or(0.0, |keeper| keeper.carried_secs) + since(self.last_close).as_secs_f64();
        let mut read = Ledger::default();
        let mut workers = self.open.iter();
        for (listener, drops) in self.listeners.iter().zip(&self.drops) {
            let mut tally = Tally::default();
            workers.by_ref().take(listener.workers()).for_each(|worker| tally.add(worker));
            read.count(&tally);
            read.listeners.push(account_of(listener, &tally, *drops, listener.queue_peak()));
        }
        interval.ledger.unite(&read);
        interval.ledger.unclean_stop = self.unclean_stop;
        KeptInterval { taken: now, interval, presence: CarriedPresence::default() }
    }

    /// Takes out of the workers what the open interval has so far. A worker that does not answer keeps it.
    pub(super) async fn cut_open(&mut self) {
        let mut pending = Vec::new();
        for listener in self.listeners.iter() {
            for worker in 0..listener.workers() {
                let spare = self.spare.pop().unwrap_or_default();
                pending.push(listener.ask(worker, move |shard| shard.cut(spare)));
            }
        }
        let answers = self.patience(WORKER_PATIENCE).answers(pending).await;
        let mut partials: Vec<Partial> = Vec::with_capacity(answers.len());
        for (open, answer) in self.open.iter_mut().zip(answers) {
            if let Some(partial) = &answer {
                open.clone_from(&partial.tally);
            }
            partials.push(answer.unwrap_or_default());
        }
        self.registry.absorb(&mut partials);
        self.keep_columns(partials);
    }

    /// The interval in work is closed: no later process is to go on with it, or with longer ones that end with it.
    pub(super) async fn supersede_open(&mut self) {
        let Flusher { keeper: Some(keeper), collected: Some(collected), .. } = self else { return };
        let Some(snapshot) = &collected.snapshot else { return };
        keeper.last_end = collected.interval.end;
        if std::mem::take(&mut keeper.has_open) {
            keeper.to_take_back.open = true;
            keeper.options.folder.end_turns(OPEN);
            // It may have points of them.
            keeper.has_longer = true;
        }
        if keeper.has_longer && (snapshot.flushes_longer() || keeper.ends_longer) {
            let tick = if keeper.ends_longer { ALL_TICKS } else { collected.interval.tick };
            keeper.to_take_back.closed =
                Some(KeptTick { sequence: snapshot.sequence, tick, end: collected.interval.end });
        }
        self.take_back().await;
    }

    /// Has the disk take back what no later process is to go on with, and waits for that for a moment.
    async fn take_back(&mut self) {
        let mut patience = self.patience(CLOSE_PATIENCE);
        let Some(keeper) = &mut self.keeper else { return };
        let taken = keeper.to_take_back;
        if !taken.open && taken.closed.is_none() || !keeper.options.folder.is_kept() {
            return;
        }
        let (done, is_done) = oneshot::channel();
        // If the disk is busy with what came before, or fails, it is asked again at the next tick.
        let taken = taken.begin(&keeper.options.folder, done);
        if keeper.take_back.as_ref().is_some_and(|queue| queue.try_send(taken).is_ok())
            && matches!(patience.wait(is_done).await, Some(Ok(true)))
        {
            (keeper.to_take_back, keeper.has_warned) = (Taken::default(), false);
            return;
        }
        if !std::mem::replace(&mut keeper.has_warned, true) {
            tracing::warn!(
                waited = ?CLOSE_PATIENCE,
                "the state folder does not answer, or fails: if the process ends before that is over, an interval that was flushed \
                 may come again"
            );
        }
    }

    /// Writes the state for the last time, when the last interval is closed. If that fails, points of longer intervals are
    /// flushed after all.
    pub(super) async fn save_last_state(&mut self) {
        if !self.is_kept() {
            return;
        }
        if self.is_loading() {
            tracing::warn!("what the last process knew was not read in time: it stays as it is");
            self.leave_unsaved();
            // What is on the disk stays, and is flushed by the next process: it does not come in any more.
            self.keeper.iter_mut().for_each(|keeper| keeper.loaded = None);
            self.flush_longer().await;
            return;
        }
        let kept = self.kept_registry();
        let has_longer = kept.registry.has_longer();
        if !self.write_last(kept, None).await {
            tracing::error!("the state is not saved: gauges are as they were when it was written last");
            self.leave_unsaved();
            // What is on the disk has points of them, or will: the writer may only be late.
            if let Some(keeper) = self.keeper.as_mut().filter(|_| has_longer) {
                (keeper.has_longer, keeper.ends_longer) = (true, true);
            }
            self.flush_longer().await;
        }
    }

    /// Flushes points of longer intervals before their time, if there are any.
    async fn flush_longer(&mut self) {
        if self.kept_registry().registry.has_longer() {
            self.registry.keep_longer(false);
            self.close(unix_time(), 0.0, true).await;
        }
    }

    /// Saves the open interval for another process, with all else that it goes on with; whether that went well.
    pub(super) async fn keep_last_interval(&mut self) -> bool {
        if !self.is_kept() || self.cluster.is_edge() || self.cluster.is_global() {
            return false;
        }
        self.await_state().await;
        if self.is_loading() {
            // What is there is not to be replaced before it is read.
            return false;
        }
        let has_room = self.end_trial();
        self.patience(LOAD_PATIENCE).wait(has_room).await;
        self.read_drops();
        self.cut_open().await;
        let said = self.take_presence().await;
        let (kept, mut open) = (self.kept_registry(), self.kept_interval());
        open.presence.clone_from(&said);
        let turn = self.keeper.as_ref().and_then(|keeper| keeper.options.folder.begin(OPEN));
        let is_written = match turn {
            Some(turn) => self.write_last(kept, Some((turn, Box::new(open)))).await,
            None => false,
        };
        if !is_written {
            // It is closed here after all.
            self.carried_presence = said;
            self.keeper.iter_mut().for_each(|keeper| keeper.to_take_back.open = true);
            self.take_back().await;
        }
        is_written
    }

    /// Takes what presence has to say of the open interval, for whoever closes it.
    async fn take_presence(&mut self) -> CarriedPresence {
        let mut said = std::mem::take(&mut self.carried_presence);
        let mut patience = self.patience(PRESENCE_PATIENCE);
        let Some(presence) = &self.presence else { return said };
        let Some(Ok(report)) = patience.wait(presence.ask(PresenceState::report)).await else {
            tracing::error!("presence does not answer; what it has to say is in no flush");
            return said;
        };
        let text = |event: &Event| Some((event.at, serde_json::to_string(event).ok()?));
        said.events.extend(report.events.iter().filter_map(text));
        let counted = report.readings.iter().filter(|reading| reading.counts && reading.value > 0.0);
        said.counted.extend(counted.map(|reading| (reading.series(), reading.value)));
        let mut account: PresenceAccount = serde_json::from_str(&said.account).unwrap_or_default();
        account.add(&report.account);
        said.account = serde_json::to_string(&account).unwrap_or_default();
        said
    }

    /// What is known last is not saved.
    fn leave_unsaved(&self) {
        self.keeper.iter().for_each(|keeper| keeper.options.folder.leave_unsaved());
    }

    /// Whether what is saved outlives this process.
    fn is_kept(&self) -> bool {
        self.keeper.as_ref().is_some_and(|keeper| keeper.options.folder.is_kept())
    }

    /// Whether what the last process has left is still to be read.
    pub(super) fn is_loading(&self) -> bool {
        self.keeper.as_ref().is_some_and(|keeper| keeper.loaded.is_some())
    }

    /// Has the last state written, and waits for it; whether it is on the disk.
    async fn write_last(&mut self, kept: KeptRegistry, open: Option<(Turn, Box<KeptInterval>)>) -> bool {
        let (done, is_done) = oneshot::channel();
        let Some(keeper) = &self.keeper else { return false };
        let (Some(turn), Some(jobs)) = (keeper.options.folder.begin(REGISTRY), keeper.jobs.clone()) else {
            return false;
        };
        let job = Job { registry: Some((turn, Box::new(kept))), open, is_told: true, done: Some(done) };
        let mut patience = self.patience(LOAD_PATIENCE);
        let written = patience.wait(async move {
            let mut waiting = Some(job);
            // The one before it may still be on its way.
            while let Some(job) = waiting.take() {
                if let Err(TrySendError::Full(job)) = jobs.try_send(job) {
                    waiting = Some(job);
                    tokio::time::sleep(FULL_PAUSE).await;
                }
            }
            is_done.await
        });
        matches!(written.await, Some(Ok(true)))
    }
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Listeners;
    use crate::rollup::RegistryOptions;

    const EVERY: Duration = Duration::from_secs(10);

    /// A flusher of nothing, whose state is to be written by the test.
    fn flusher(folder: &StateFolder) -> (Flusher, Receiver<Job>, oneshot::Sender<Loaded>) {
        let (_, inbox) = crate::flush::channel();
        let registry = Registry::new(RegistryOptions::default(), 0);
        let mut flusher = Flusher::new(EVERY, Listeners::default(), registry, Vec::new(), inbox, None, None);
        let (jobs, queue) = channel(1);
        let (loaded, is_loaded) = oneshot::channel();
        flusher.keeper = Some(StateWriter {
            patience: LOAD_PATIENCE,
            loaded: Some(is_loaded),
            jobs: Some(jobs),
            take_back: None,
            to_take_back: Taken::default(),
            has_warned: false,
            ends_longer: false,
            next: sys::now(),
            last_end: 0.0,
            has_open: false,
            has_longer: false,
            carried_secs: 0.0,
            options: StateOptions {
                folder: folder.clone(),
                every: EVERY,
                keeps_open: false,
                most_series: 10,
                receives_since: 0.0,
            },
        });
        (flusher, queue, loaded)
    }

    /// The same, when it has read that nothing was left.
    async fn begun(folder: &StateFolder) -> (Flusher, Receiver<Job>) {
        let (mut flusher, queue, loaded) = flusher(folder);
        loaded.send(Loaded::default()).expect("it waits");
        flusher.await_state().await;
        (flusher, queue)
    }

    #[tokio::test(start_paused = true)]
    async fn ticks_wait_once_for_a_state_that_takes_long_to_read() {
        let (mut flusher, _queue, _loaded) = flusher(&StateFolder::off());
        let began = tokio::time::Instant::now();
        for _ in 0..4 {
            flusher.await_state().await;
        }
        assert!((LOAD_PATIENCE..LOAD_PATIENCE + CLOSE_PATIENCE).contains(&began.elapsed()), "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn a_registry_that_was_taken_before_its_removal_is_not_written_after_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = StateFolder::open(dir.path(), Duration::ZERO);
        let (mut flusher, queue) = begun(&folder).await;
        flusher.save_state().await;
        assert!(folder.remove(REGISTRY));
        drop(flusher);
        work(folder.clone(), queue).await;
        assert!(folder.read(REGISTRY, FORMAT, Limits::default()).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_saved_while_the_disk_is_slow_to_take_back_what_was_before_stays() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = StateFolder::open(dir.path(), Duration::ZERO);
        let (mut flusher, queue) = begun(&folder).await;
        let (take_back, late) = channel(1);
        let keeper = flusher.keeper.as_mut().expect("it keeps");
        keeper.take_back = Some(take_back);
        keeper.to_take_back = Taken { open: true, closed: Some(KeptTick::default()) };
        flusher.take_back().await;
        // An upgrade is next.
        let writing = tokio::spawn(work(folder.clone(), queue));
        assert!(flusher.keep_last_interval().await);
        drop(flusher);
        writing.await.expect("no panic");
        work_back(folder.clone(), late).await;
        assert!(folder.read(OPEN, FORMAT, Limits::default()).is_some());
    }

    fn kept(sequence: u64) -> KeptRegistry {
        let mut registry = SavedRegistry::default();
        registry.sequence = sequence;
        KeptRegistry { taken: unix_time(), last_end: 0.0, registry }
    }

    fn interval(sequence: u64) -> KeptInterval {
        let mut interval = SavedInterval::default();
        (interval.sequence, interval.end, interval.length_secs) = (sequence, unix_time(), 10.0);
        KeptInterval { taken: unix_time(), interval, presence: CarriedPresence::default() }
    }

    #[test]
    fn numbers_of_intervals_say_what_was_closed_whatever_the_clock_was() {
        let registry = Registry::new(RegistryOptions::default(), 1);
        // Its clock was an hour ahead.
        let closed = |sequence| KeptTick { sequence, tick: 1 << 40, end: unix_time() + 3600.0 };
        for (known, open, over, ended, expected) in [
            (Some(10), Some(10), None, 8, (10, 0, true)),
            (Some(10), Some(10), None, 10, (10, 0, true)),
            (Some(10), Some(10), None, 11, (11, 1 << 40, false)),
            (Some(11), Some(10), None, 0, (11, 0, false)),
            // The registry was not written, and the open interval was.
            (Some(9), Some(10), None, 0, (10, 0, true)),
            (Some(10), None, Some(10), 8, (11, 0, false)),
            (Some(10), None, Some(9), 8, (10, 0, false)),
            (Some(10), None, Some(10), 12, (12, 1 << 40, false)),
            (Some(10), Some(11), Some(10), 8, (11, 0, true)),
            // Nothing is there that could be older than what comes.
            (None, None, None, 8000, (8000, 1 << 40, false)),
            (None, None, None, 0, (0, 0, false)),
        ] {
            let (over, open) = (over.map(interval), open.map(interval));
            let loaded = Loaded { registry: known.map(kept), open, over, closed: closed(ended) };
            let (kept, tick, open) = loaded.joined(&registry, EVERY, 10);
            assert_eq!((kept.registry.sequence, tick, open.is_some()), expected, "{known:?} {ended}");
        }
    }
}
