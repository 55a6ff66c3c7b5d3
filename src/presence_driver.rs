//! Drives the presence engine on a thread of its own. Heartbeats come through a bounded channel that nobody
//! waits for; every quarter of a second what has come is applied, and then everybody is judged. What it knows survives a
//! restart in a state file.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufWriter, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};

use crate::notify;
use crate::presence::describe::describe;
use crate::presence::{
    Alarm, AlertBook, Engine, Event, EventKind, Identity, Notification, Policy, Reading, Refusal, Refusals, Saved,
    Severity,
};
use crate::protocol::Signal;
use crate::sys::unix_time;
use crate::telemetry::PresenceAccount;
use crate::untrusted::Escaped;

/// Time between two judgements.
const TICK: Duration = Duration::from_millis(250);

/// Signals that may wait unless it is configured; more are lost, counted, and the second does not count against anybody.
pub const QUEUE: usize = 8192;

/// Questions and everything else that may wait beside them.
const OTHERS: usize = 256;

/// How often it is looked at what the queue lost.
const LOST_EVERY: Duration = Duration::from_secs(1);

/// Time between two saved states.
const SAVE_EVERY: Duration = Duration::from_secs(10);

/// A saved state of that age says nothing any more, in seconds.
const STALE: f64 = 86_400.0;

/// Events that are remembered for the API, and most that wait for the next flush.
const REMEMBERED: usize = 1000;
const WAITING: usize = 100_000;

/// Format of a state file.
const FORMAT: &str = "systole-presence/1";

/// How presence is run.
#[derive(Clone, Debug)]
pub struct PresenceOptions {
    /// How presence is judged.
    pub policy: Policy,
    /// Where the state is kept; `None` is memory only.
    pub state_file: Option<PathBuf>,
    /// Key of the engine's table.
    pub seed: u64,
    /// Who tells of events.
    pub identity: Identity,
    /// Warnings about instances wait so long for a service's alarm that replaces them.
    pub group_wait: Duration,
    /// Signals that may wait.
    pub queue: usize,
}

enum Message {
    /// Boxed, for the room of the whole queue is taken at once.
    Signal(Box<Signal>),
    Drops {
        dropped: u64,
        received: u64,
    },
    Ask(Box<dyn FnOnce(&mut PresenceState) + Send>),
    Stop,
}

/// What the presence thread knows; questions get to see it.
#[derive(Debug)]
pub struct PresenceState {
    /// Who is there.
    pub engine: Engine,
    /// The last events, each with its number.
    pub remembered: VecDeque<(u64, Event)>,
    waiting: Vec<Event>,
    next_event: u64,
    /// What to add to the engine's clock to get Unix seconds.
    pub epoch: f64,
    /// Who tells of events.
    pub identity: Identity,
    /// Which alarms are out.
    pub alerts: AlertBook,
    receivers: Vec<notify::Receiver>,
    newest: watch::Sender<u64>,
    /// What the queue lost, and what was refused, until a flush takes it.
    queue_drops: u64,
    reported: Refusals,
}

/// What a flush takes with it.
#[derive(Debug, Default)]
pub struct Report {
    /// The values of this moment.
    pub readings: Vec<Reading>,
    /// What happened since the last flush, at Unix seconds.
    pub events: Vec<Event>,
    /// What was lost and refused since the last flush.
    pub account: PresenceAccount,
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

    /// Whether so many register that senders' addresses are wanted.
    pub fn wants_senders(&self) -> bool {
        self.shared.wants_senders.load(Ordering::Relaxed)
    }

    /// Tells of a second in which the kernel dropped so many of the datagrams that reached our sockets.
    pub fn drops(&self, dropped: u64, received: u64) {
        // There is room, unless the thread is gone.
        let _ = self.sender.try_send(Message::Drops { dropped, received });
    }

    /// The number of the newest event, and a way to wait for the next.
    pub fn newest(&self) -> watch::Receiver<u64> {
        self.newest.clone()
    }

    /// Ends the presence thread: it saves what it knows.
    pub fn stop(&self) {
        // If the queue is full for so long, the thread is gone.
        let _ = self.sender.send(Message::Stop);
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

/// Starts the presence thread with what an earlier one saved. It ends, and saves, when every handle is gone.
///
/// # Errors
/// If the thread cannot be started.
pub fn start(
    options: PresenceOptions,
    receivers: Vec<notify::Receiver>,
) -> io::Result<(PresenceHandle, JoinHandle<()>)> {
    let (sender, inbox) = sync_channel(options.queue + OTHERS);
    let shared = Arc::new(Shared {
        queue: options.queue,
        waiting: AtomicUsize::new(0),
        lost: AtomicU64::new(0),
        wants_senders: AtomicBool::new(false),
    });
    let (newest, seen) = watch::channel(0);
    let presence = PresenceHandle { sender, shared: Arc::clone(&shared), newest: seen };
    let driver = Driver::new(options, shared, receivers, newest);
    let thread = std::thread::Builder::new().name("presence".into()).spawn(move || driver.run(&inbox))?;
    Ok((presence, thread))
}

struct Driver {
    state: PresenceState,
    state_file: Option<PathBuf>,
    shared: Arc<Shared>,
    /// Signals since it was last looked at what the queue lost, what of that was seen since, and when to look again.
    taken: u64,
    lost: u64,
    next_look: Instant,
    started: Instant,
    /// The engine's clock when this presence began.
    base: f64,
    last_seen: Instant,
    next_tick: Instant,
    next_save: Instant,
    save_failed: bool,
    /// Keeps other processes away from the state file, once it is read or written.
    lock: Option<File>,
    dirty: bool,
    /// When maintenance of an unknown service was last logged.
    puzzled: Option<Instant>,
}

/// What the state file holds.
#[derive(Debug, Deserialize)]
struct StateFile {
    presence: Saved,
    alarms: Vec<Alarm>,
}

impl Driver {
    fn new(
        options: PresenceOptions,
        shared: Arc<Shared>,
        receivers: Vec<notify::Receiver>,
        newest: watch::Sender<u64>,
    ) -> Driver {
        let now = Instant::now();
        let (mut base, mut engine, mut alarms, mut state_lost) = (0.0, None, Vec::new(), false);
        let mut lock = None;
        // Nothing is left behind where there was never anybody: the lock is made with the first state.
        let mut state_file = options.state_file;
        let claimed = match &state_file {
            Some(path) if path.exists() => claim_or_warn(path, &mut lock),
            _ => Claim::Held,
        };
        // What is in a folder that cannot be written to is worth reading all the same.
        let readable = state_file.clone().filter(|_| claimed != Claim::Taken);
        if claimed != Claim::Held {
            state_file = None;
        }
        if let Some(path) = &readable {
            match load(path) {
                Ok(Some((saved, age))) => {
                    base = saved.presence.now + age;
                    alarms = saved.alarms;
                    engine = Some(Engine::restored(options.policy.clone(), saved.presence, base, options.seed));
                }
                Ok(None) => {}
                Err(problem) => {
                    tracing::warn!(file = %path.display(), problem, "presence starts empty: the saved state is lost");
                    state_lost = true;
                }
            }
        }
        let mut engine = engine.unwrap_or_else(|| Engine::new(options.policy, base, options.seed));
        if state_lost {
            engine.state_lost();
        }
        let alerts = AlertBook::new(options.group_wait.as_secs_f64(), alarms);
        let mut state = PresenceState {
            engine,
            remembered: VecDeque::new(),
            waiting: Vec::new(),
            next_event: 1,
            epoch: unix_time() - base,
            identity: options.identity,
            alerts,
            receivers,
            newest,
            queue_drops: 0,
            reported: Refusals::default(),
        };
        state.tell_again();
        Driver {
            state,
            state_file,
            shared,
            taken: 0,
            lost: 0,
            next_look: now + LOST_EVERY,
            started: now,
            base,
            last_seen: now,
            next_tick: now + TICK,
            next_save: now + SAVE_EVERY,
            save_failed: false,
            lock,
            dirty: false,
            puzzled: None,
        }
    }

    fn run(mut self, inbox: &Receiver<Message>) {
        loop {
            let pause = self.next_tick.saturating_duration_since(Instant::now());
            let message = inbox.recv_timeout(pause);
            self.notice_pause();
            match message {
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                Ok(message) => self.take(message),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if Instant::now() >= self.next_tick {
                // What has come is applied before anybody is judged.
                let mut stops = false;
                for message in inbox.try_iter().take(2 * (self.shared.queue + OTHERS)) {
                    stops |= matches!(message, Message::Stop);
                    self.take(message);
                }
                self.tick();
                if stops {
                    break;
                }
            }
        }
        self.state.engine.tick(self.clock());
        self.save();
    }

    fn clock(&self) -> f64 {
        self.base + self.started.elapsed().as_secs_f64()
    }

    /// Time in which we did not run is no silence of others.
    fn notice_pause(&mut self) {
        let slept = self.last_seen.elapsed().saturating_sub(TICK);
        self.last_seen = Instant::now();
        let now = self.clock();
        self.state.engine.at(now);
        if slept >= Duration::from_secs(1) {
            self.state.engine.stalled(now, slept.as_secs_f64());
        }
    }

    fn take(&mut self, message: Message) {
        self.state.engine.at(self.clock());
        match message {
            Message::Signal(signal) => {
                self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
                self.dirty = true;
                self.taken += 1;
                if let Signal::Maintenance { service, .. } = &*signal {
                    self.check_maintenance(service);
                }
                self.state.engine.signal(&signal);
            }
            Message::Drops { dropped, received } => {
                self.state.engine.kernel_drops(self.clock(), dropped, received);
            }
            Message::Ask(question) => {
                self.count_lost();
                self.state.collect();
                question(&mut self.state);
                self.dirty = true;
            }
            Message::Stop => {}
        }
    }

    /// Takes over what the queue has lost.
    fn count_lost(&mut self) {
        let lost = self.shared.lost.swap(0, Ordering::Relaxed);
        self.lost += lost;
        self.state.queue_drops += lost;
    }

    /// Says, at most once a minute, that somebody announced maintenance of a service that nobody knows.
    fn check_maintenance(&mut self, service: &str) {
        let often = self.puzzled.is_some_and(|at| at.elapsed() < Duration::from_secs(60));
        if often || self.state.engine.knows(service) {
            return;
        }
        self.puzzled = Some(Instant::now());
        let nearest = self.state.engine.like(service).unwrap_or("");
        tracing::warn!(
            service = %Escaped(service),
            nearest = %Escaped(nearest),
            "maintenance of an unknown service was announced; it is an ordinary metric"
        );
    }

    fn tick(&mut self) {
        let now = self.clock();
        if Instant::now() >= self.next_look {
            self.next_look = Instant::now() + LOST_EVERY;
            self.count_lost();
            let (lost, taken) = (std::mem::take(&mut self.lost), std::mem::take(&mut self.taken));
            self.state.engine.queue_drops(now, lost, taken);
        }
        self.state.engine.tick(now);
        self.shared.wants_senders.store(self.state.engine.is_crowded(), Ordering::Relaxed);
        let epoch = unix_time() - now;
        let step = epoch - self.state.epoch;
        if step.abs() >= 2.0 {
            self.state.engine.clock_stepped(step);
        }
        self.state.epoch = epoch;
        self.dirty |= self.state.engine.has_events();
        self.state.collect();
        let waited = self.state.alerts.tick(now + epoch);
        self.state.pass_on(waited);
        self.next_tick += TICK;
        if self.next_tick < Instant::now() {
            self.next_tick = Instant::now() + TICK;
        }
        if Instant::now() >= self.next_save {
            self.next_save = Instant::now() + SAVE_EVERY;
            self.save();
        }
    }

    /// Writes the state beside the old one, then puts it in its place. Nothing is written while there was never anybody.
    fn save(&mut self) {
        let Some(path) = &self.state_file else { return };
        let nobody = self.state.engine.is_empty() && !path.exists();
        if !std::mem::take(&mut self.dirty) || nobody {
            return;
        }
        if self.lock.is_none() && claim_or_warn(path, &mut self.lock) != Claim::Held {
            self.state_file = None;
            return;
        }
        let outcome = store(path, &self.state.engine, &self.state.alerts);
        if let Err(error) = &outcome
            && !self.save_failed
        {
            tracing::warn!(file = %path.display(), %error, "presence is kept in memory only: its state cannot be written");
        }
        self.save_failed = outcome.is_err();
    }
}

impl PresenceState {
    /// Takes over what has happened.
    fn collect(&mut self) {
        let events = self.engine.take_events();
        if events.is_empty() {
            return;
        }
        let mut notices = Vec::new();
        for mut event in events {
            event.shift(self.epoch);
            log_event(&event);
            notices.append(&mut self.alerts.take(self.next_event, &event));
            if self.remembered.len() == REMEMBERED {
                self.remembered.pop_front();
            }
            self.remembered.push_back((self.next_event, event.clone()));
            self.next_event += 1;
            if self.waiting.len() < WAITING {
                self.waiting.push(event);
            }
        }
        self.newest.send_replace(self.next_event - 1);
        self.pass_on(notices);
    }

    /// Puts notifications into every receiver.s queue.
    fn pass_on(&mut self, mut notices: Vec<Notification>) {
        if notices.is_empty() || self.receivers.is_empty() {
            return;
        }
        for notice in &mut notices {
            notice.detail = self.engine.detail(notice.alarm.key.service.as_deref());
        }
        self.receivers.iter().for_each(|receiver| receiver.outbox.put(&notices));
    }

    /// After a restart: what is still open, to those who forget what is not repeated.
    fn tell_again(&mut self) {
        let notices: Vec<Notification> = self
            .alerts
            .firing()
            .map(|alarm| Notification {
                alarm: alarm.clone(),
                resolved: false,
                event: None,
                detail: self.engine.detail(alarm.key.service.as_deref()),
            })
            .collect();
        self.receivers.iter().filter(|receiver| receiver.again).for_each(|receiver| receiver.outbox.put(&notices));
    }

    /// What the next flush takes with it.
    pub fn report(&mut self) -> Report {
        let refusals = self.engine.refusals();
        let before = std::mem::replace(&mut self.reported, refusals);
        let refused = refusals.by_reason().into_iter().zip(before.by_reason());
        let refused =
            refused.map(|((reason, all), (_, told))| (reason.as_str(), all - told)).filter(|(_, fresh)| *fresh > 0);
        let account = PresenceAccount {
            queue_drops: std::mem::take(&mut self.queue_drops),
            refused: refused.collect(),
            evicted: refusals.evicted - before.evicted,
        };
        log_losses(&account, self.engine.take_most_refused());
        Report { readings: self.engine.readings(), events: std::mem::take(&mut self.waiting), account }
    }
}

/// Says what was lost and refused, at most once an interval.
fn log_losses(account: &PresenceAccount, most: Option<(IpAddr, u64)>) {
    if account.queue_drops > 0 {
        tracing::warn!(heartbeats = account.queue_drops, "presence's queue was full; these were not heard");
    }
    if account.evicted > 0 {
        tracing::warn!(services = account.evicted, "services that were not established gave way to new ones");
    }
    // Operators without the token were told at once.
    let refused = account.refused.iter().filter(|(reason, _)| *reason != Refusal::Token.as_str());
    let reasons: Vec<String> = refused.map(|(reason, count)| format!("{reason} {count}")).collect();
    if !reasons.is_empty() {
        let from = most.map_or("unknown senders".to_string(), |(from, count)| format!("{from} ({count})"));
        tracing::warn!(reasons = reasons.join(", "), most_from = from, "heartbeats were refused");
    }
}

/// Logs what somebody is to be receivers, and at `debug` everything else.
fn log_event(event: &Event) {
    let text = describe(event);
    let text = Escaped(&text);
    match (event.notify, event.severity()) {
        (true, Severity::Critical | Severity::Warning) => tracing::warn!("presence: {text}"),
        (true, Severity::Info) => tracing::info!("presence: {text}"),
        (false, _) if event.change.kind() == EventKind::Warning => tracing::warn!("presence: {text}"),
        (false, _) => tracing::debug!("presence: {text}"),
    }
}

/// The last line of a state file: it is written when everything before it is.
#[derive(Serialize, Deserialize)]
struct Trailer {
    format: String,
    /// When it was written, Unix seconds.
    written: f64,
    crc32: u32,
}

/// A writer that keeps a checksum.
struct Checked<W> {
    inner: W,
    hash: crc32fast::Hasher,
}

impl<W: Write> Write for Checked<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hash.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Takes the lock of a state file: whoever reads or writes another daemon's state takes its services for silent ones. `None`
/// if another process has it.
fn claim(path: &Path) -> io::Result<Option<File>> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut name = OsString::from(path);
    name.push(".lock");
    let lock = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(name)?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// What came of claiming a state file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claim {
    /// It is ours to read and write.
    Held,
    /// Another process keeps its state in it.
    Taken,
    /// The lock cannot be made: nothing is written, but what is there may be read.
    Failed,
}

/// The same; with one warning if the state can be kept in memory only.
fn claim_or_warn(path: &Path, lock: &mut Option<File>) -> Claim {
    match claim(path) {
        Ok(None) => {
            tracing::warn!(
                file = %path.display(),
                "presence is kept in memory only: another process keeps its state in this file; set \
                 `presence.state_file` to a file of its own"
            );
            Claim::Taken
        }
        Ok(held) => {
            *lock = held;
            Claim::Held
        }
        Err(error) => {
            tracing::warn!(file = %path.display(), %error, "presence is kept in memory only: its state cannot be written");
            Claim::Failed
        }
    }
}

/// Writes a state and its trailer, a line each. It replaces the old one in one step.
fn store(path: &Path, engine: &Engine, alerts: &AlertBook) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let fresh = path.with_extension("new");
    let file = BufWriter::with_capacity(1 << 16, File::create(&fresh)?);
    let mut out = Checked { inner: file, hash: crc32fast::Hasher::new() };
    // As `StateFile` has it, without a copy of everything.
    out.write_all(b"{\"presence\":")?;
    engine.store(&mut out)?;
    out.write_all(b",\"alarms\":")?;
    serde_json::to_writer(&mut out, &alerts.open().collect::<Vec<_>>())?;
    out.write_all(b"}")?;
    let trailer = Trailer { format: FORMAT.into(), written: unix_time(), crc32: out.hash.finalize() };
    let mut file = out.inner;
    file.write_all(b"\n")?;
    serde_json::to_writer(&mut file, &trailer)?;
    file.write_all(b"\n")?;
    file.into_inner()?.sync_all()?;
    fs::rename(&fresh, path)
}

/// Reads a state and its age in seconds; `None` if there is none.
fn load(path: &Path) -> Result<Option<(StateFile, f64)>, String> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let cut = "it was cut off";
    let rest = bytes.strip_suffix(b"\n").ok_or(cut)?;
    let end = memchr::memrchr(b'\n', rest).ok_or(cut)?;
    let trailer: Trailer = serde_json::from_slice(&rest[end..]).map_err(|_| "its last line cannot be read")?;
    if trailer.format != FORMAT {
        return Err(format!("its format is `{}`, not `{FORMAT}`", trailer.format));
    }
    let body = &rest[..end];
    if crc32fast::hash(body) != trailer.crc32 {
        return Err("its checksum is wrong".into());
    }
    // A clock that was set back makes it no younger than new.
    let age = (unix_time() - trailer.written).max(0.0);
    if age > STALE {
        return Err(format!("it is {:.0} hours old", age / 3600.0));
    }
    let saved = serde_json::from_slice(body).map_err(|error| format!("it cannot be read: {error}"))?;
    Ok(Some((saved, age)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::{Reason, ServiceState, State};
    use crate::protocol::Heartbeat;

    #[test]
    fn a_report_that_nobody_waits_for_any_more_takes_nothing_out() {
        let options = PresenceOptions {
            policy: Policy::default(),
            state_file: None,
            seed: 1,
            identity: Identity { node: "here".into(), boot: 0 },
            group_wait: Duration::ZERO,
            queue: 10,
        };
        let (presence, thread) = start(options, Vec::new()).expect("started");
        let beat =
            Heartbeat { service: "a".into(), instance: "b".into(), interval: Some(10.0), ..Heartbeat::default() };
        presence.signal(Signal::Heartbeat(beat));
        let (hold, held) = std::sync::mpsc::channel::<()>();
        // It ends with an error, when the sender is dropped.
        let busy = presence.ask(move |_| held.recv().is_err());
        // A flush whose patience ends while presence is busy.
        drop(presence.ask(PresenceState::report));
        let next = presence.ask(PresenceState::report);
        drop(hold);
        assert_eq!(busy.blocking_recv(), Ok(true));
        let report = next.blocking_recv().expect("an answer");
        assert!(
            report.events.iter().any(|event| event.change.reason() == Some(Reason::Registered)),
            "{:?}",
            report.events
        );
        presence.stop();
        thread.join().expect("it ends");
    }

    #[test]
    fn a_state_that_cannot_be_locked_is_read_and_not_written() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("presence.json");
        let mut engine = Engine::new(Policy::default(), 0.0, 1);
        engine.at(5.0);
        engine.beat(&Heartbeat {
            service: "a".into(),
            instance: "b".into(),
            interval: Some(10.0),
            ..Heartbeat::default()
        });
        engine.tick(5.25);
        store(&path, &engine, &AlertBook::new(10.0, Vec::new())).expect("written");
        let before = fs::read(&path).expect("a state");
        // A folder in the lock's place: not even root makes a file of it.
        fs::create_dir(dir.path().join("presence.json.lock")).expect("a folder");
        let options = PresenceOptions {
            policy: Policy::default(),
            state_file: Some(path.clone()),
            seed: 1,
            identity: Identity { node: "here".into(), boot: 0 },
            group_wait: Duration::ZERO,
            queue: 10,
        };
        let (presence, thread) = start(options, Vec::new()).expect("started");
        let services = presence.ask(|state| state.engine.view(0.0).len()).blocking_recv();
        assert_eq!(services, Ok(1));
        presence.stop();
        thread.join().expect("it ends");
        assert_eq!(fs::read(&path).expect("a state"), before);
    }

    #[test]
    fn a_state_file_gives_back_what_was_saved_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("deep/presence.json");
        assert!(matches!(load(&path), Ok(None)));
        let mut engine = Engine::new(Policy::default(), 0.0, 1);
        engine.at(5.0);
        engine.beat(&Heartbeat {
            service: "a".into(),
            instance: "b".into(),
            interval: Some(10.0),
            version: Some("1.2".into()),
            ..Heartbeat::default()
        });
        engine.tick(5.25);
        store(&path, &engine, &AlertBook::new(10.0, Vec::new())).expect("written");
        let (saved, age) = load(&path).expect("a state").expect("it is there");
        assert!(age < 5.0);
        let restored = Engine::restored(Policy::default(), saved.presence, 6.0, 1);
        let view = restored.view(0.0);
        assert_eq!(
            (&*view[0].service, view[0].state, view[0].instances[0].state),
            ("a", ServiceState::Up, State::Unknown)
        );
        assert_eq!(view[0].instances[0].version.as_deref(), Some("1.2"));
        let mut bytes = fs::read(&path).expect("a file");
        let last = bytes.len() - 3;
        bytes[last] ^= 1;
        fs::write(&path, &bytes).expect("written");
        assert!(load(&path).is_err_and(|problem| problem.contains("checksum")));
        fs::write(&path, b"{}").expect("written");
        assert!(load(&path).is_err());
    }
}
