//! Watches the parts of the daemon: the threads and tasks that go on until a stop.
//!
//! A [`Part`] is a name with a state. Its panic is caught where it runs ([`catch`], [`caught`]), so that what the part owns
//! (its queue, its socket, its table) outlives it; whoever catches it counts what was lost, and then starts the work again
//! by [`Part::restart`] or [`Part::restart_thread`]. The first time that is at once; a part that fails again within a minute
//! of its last start pauses, for a second at first and a minute at most.
//!
//! | state | when |
//! |---|---|
//! | `running` | it works |
//! | `restarting` | it failed: until it has run for a second, or, a sink, until it has dealt with an interval |
//! | `failed` | it ended, and nobody starts it again |
//!
//! An essential part that gives up ends the process ([`Supervisor::failed`]): the flush thread, whose state cannot be made
//! anew, and a receive worker that fails [`MOST_FAILURES`] times in [`RECENT`]. Other parts are never given up.
//!
//! An end that nobody asked for counts as a failure, too: a [`Guard`] that is dropped before [`Guard::end`] reports it.

use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use crate::fault;
use crate::sys::unix_time;
use crate::telemetry::{PartAccount, PartState};

/// Failures of a worker in [`RECENT`] that end the process.
pub const MOST_FAILURES: usize = 3;

/// Failures within this time of each other belong together.
pub const RECENT: Duration = Duration::from_secs(60);

/// A part that has run for so long after a start works again.
const SETTLING: Duration = Duration::from_secs(1);

/// First and longest pause before a start.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Pause before a start while the daemon stops: what is queued still goes out.
const STOPPING_PAUSE: Duration = Duration::from_millis(10);

/// An essential part that gave no sign of life for so long hangs.
const SILENCE: Duration = Duration::from_secs(10);

/// Holds threads up until it is opened. Clones are the same; a default one is open.
#[derive(Clone, Debug, Default)]
pub struct Gate(Option<Arc<(Mutex<bool>, Condvar, Notify)>>);

impl Gate {
    /// One that is closed.
    pub fn closed() -> Gate {
        Gate(Some(Arc::default()))
    }

    /// Lets all pass, from now on.
    pub fn open(&self) {
        if let Some(shared) = &self.0 {
            *shared.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
            shared.1.notify_all();
            shared.2.notify_waiters();
        }
    }

    /// Whether it is open.
    pub fn is_open(&self) -> bool {
        self.0.as_ref().is_none_or(|shared| *shared.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Resolves when it is open.
    pub async fn opened(&self) {
        let Some(shared) = &self.0 else { return };
        let opened = shared.2.notified();
        let is_open = *shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_open {
            opened.await;
        }
    }

    /// Waits until it is open.
    pub fn wait(&self) {
        if let Some(shared) = &self.0 {
            let closed = shared.0.lock().unwrap_or_else(PoisonError::into_inner);
            drop(shared.1.wait_while(closed, |is_open| !*is_open).unwrap_or_else(PoisonError::into_inner));
        }
    }
}

/// What a part is to the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Without it nothing is received or flushed: the watchdog of the service manager looks at it.
    Essential,
    /// It works again when it has run for a while.
    Ordinary,
    /// It works again when it has dealt with what it is given ([`Part::prove`]).
    Sink,
}

/// The message of a panic.
#[derive(Debug)]
pub struct Panic(String);

impl Panic {
    fn new(payload: &(dyn Any + Send)) -> Panic {
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        Panic(text.unwrap_or("(no text)").to_string())
    }

    /// One that somebody else has caught, in this.
    pub fn of(what: &str) -> Panic {
        Panic(what.to_string())
    }
}

/// Runs something that may panic. What it owned is gone then; what it borrowed is as the panic left it, and the caller has
/// to say why that is sound.
///
/// # Errors
/// The panic.
pub fn catch<T>(work: impl FnOnce() -> T) -> Result<T, Panic> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| Panic::new(&*payload))
}

/// The same of a future.
///
/// # Errors
/// The panic.
pub async fn caught<F: Future>(future: F) -> Result<F::Output, Panic> {
    let mut future = pin!(future);
    poll_fn(|context| match catch(|| future.as_mut().poll(context)) {
        Ok(poll) => poll.map(Ok),
        Err(panic) => std::task::Poll::Ready(Err(panic)),
    })
    .await
}

/// All parts of a daemon. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Supervisor(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    parts: Mutex<Vec<Part>>,
    /// All parts run: ends are failures from now on, until a stop.
    is_watching: AtomicBool,
    is_stopping: AtomicBool,
    /// The essential part that gave up first.
    failed: watch::Sender<Option<String>>,
}

impl Supervisor {
    /// A new part. If there is one of this name already, it gets a number; one that nobody holds any more is taken over, as
    /// when a sink opens its port anew.
    pub fn part(&self, name: &str, role: Role) -> Part {
        let mut parts = self.parts();
        if let Some(left) = parts.iter().find(|part| part.name() == name && Arc::strong_count(&part.0) == 1) {
            return left.clone();
        }
        let is_free = |name: &str| parts.iter().all(|part| part.name() != name);
        let numbered = (2..).map(|n| format!("{name}:{n}"));
        let name = std::iter::once(name.to_string()).chain(numbered).find(|name| is_free(name));
        let part = Part::with(name.unwrap_or_default(), role, Arc::downgrade(&self.0));
        if self.0.is_stopping.load(Ordering::Acquire) {
            part.stop();
        }
        parts.push(part.clone());
        part
    }

    /// Adds a part that was made before.
    pub fn adopt(&self, part: &Part) {
        self.parts().push(part.clone());
    }

    fn parts(&self) -> MutexGuard<'_, Vec<Part>> {
        self.0.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The account of every part, by name.
    pub fn accounts(&self) -> BTreeMap<String, PartAccount> {
        self.parts().iter().map(|part| (part.name().to_string(), part.account())).collect()
    }

    /// Which parts do not work, in words; `None` if all do.
    pub fn trouble(&self) -> Option<String> {
        let parts = self.parts();
        let of = |state: PartState| {
            let names: Vec<&str> = parts.iter().filter(|part| part.state() == state).map(Part::name).collect();
            (!names.is_empty()).then(|| format!("{}: {}", state.name(), names.join(", ")))
        };
        let trouble: Vec<String> = [PartState::Failed, PartState::Restarting].into_iter().filter_map(of).collect();
        (!trouble.is_empty()).then(|| trouble.join("; "))
    }

    /// Whether every essential part works and gave a sign of life lately.
    pub fn is_alive(&self) -> bool {
        let is_alive = |part: &Part| part.state() == PartState::Running && !part.is_silent();
        self.parts().iter().filter(|part| part.0.role == Role::Essential).all(is_alive)
    }

    /// From now on an end that nobody asked for is a failure: a start that fails half way ends what it has started.
    pub fn watch(&self) {
        self.0.is_watching.store(true, Ordering::Release);
    }

    /// From now on parts may end, and starts do not wait.
    pub fn stop(&self) {
        self.0.is_stopping.store(true, Ordering::Release);
        self.parts().iter().for_each(Part::stop);
    }

    /// Resolves when an essential part has given up, to its name.
    pub async fn failed(&self) -> String {
        let mut failed = self.0.failed.subscribe();
        // The sender is ours.
        let name = failed.wait_for(Option::is_some).await.ok().and_then(|name| name.clone());
        name.unwrap_or_default()
    }

    /// The essential part that has given up.
    pub fn given_up(&self) -> Option<String> {
        self.0.failed.borrow().clone()
    }
}

/// Whether the daemon is ready: it has started, no stop was asked for, and every part works. Cheap to clone.
#[derive(Clone)]
pub struct Readiness {
    is_open: Arc<AtomicBool>,
    parts: Supervisor,
    surroundings: Option<Arc<Check>>,
}

/// Why a daemon is not ready for a reason outside of it.
type Check = dyn Fn() -> Option<String> + Send + Sync;

impl Readiness {
    /// Not ready until it is opened.
    pub fn new(parts: &Supervisor) -> Readiness {
        Readiness { is_open: Arc::default(), parts: parts.clone(), surroundings: None }
    }

    /// Asks this as well.
    pub fn if_not(self, check: impl Fn() -> Option<String> + Send + Sync + 'static) -> Readiness {
        Readiness { surroundings: Some(Arc::new(check)), ..self }
    }

    /// The start is done, or a stop begins.
    pub fn set_open(&self, is_open: bool) {
        // A flag on its own: nothing else is published through it.
        self.is_open.store(is_open, Ordering::Relaxed);
    }

    /// Why it is not ready; `None` if it is.
    pub fn obstacle(&self) -> Option<String> {
        match self.is_open.load(Ordering::Relaxed) {
            true => self.parts.trouble().or_else(|| self.surroundings.as_ref().and_then(|check| check())),
            false => Some("starting or stopping".into()),
        }
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readiness").field("is_open", &self.is_open).field("parts", &self.parts).finish_non_exhaustive()
    }
}

/// A thread or a task that goes on until a stop. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Part(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    role: Role,
    began: Instant,
    /// When it gave the last sign of life, in milliseconds since `began`.
    alive_ms: AtomicU64,
    state: Mutex<State>,
    stopped: Condvar,
    stop: Notify,
    /// It may end while the daemon goes on.
    has_left: AtomicBool,
    /// Its daemon, if it has one that still is there.
    daemon: Weak<Shared>,
}

#[derive(Debug, Default)]
struct State {
    phase: Phase,
    /// The last failures, oldest first, at most [`MOST_FAILURES`].
    recent: VecDeque<Instant>,
    /// Failures in a row, each within [`RECENT`] of the start before it, and when that start was.
    in_a_row: u32,
    last_start: Option<Instant>,
    restarts: u64,
    lost: u64,
    last_failure: Option<String>,
    last_failure_at: f64,
    is_stopping: bool,
}

#[derive(Clone, Copy, Debug, Default)]
enum Phase {
    #[default]
    Running,
    /// It waits for its next start, or has to prove itself after it.
    Restarting,
    /// It was started again, and works from then on.
    Settling(Instant),
    Failed,
}

impl Part {
    /// A part that belongs to no daemon.
    pub fn new(name: &str) -> Part {
        Part::with(name.to_string(), Role::Ordinary, Weak::new())
    }

    fn with(name: String, role: Role, daemon: Weak<Shared>) -> Part {
        Part(Arc::new(Inner {
            name,
            role,
            began: Instant::now(),
            alive_ms: AtomicU64::new(0),
            state: Mutex::default(),
            stopped: Condvar::new(),
            stop: Notify::new(),
            has_left: AtomicBool::new(false),
            daemon,
        }))
    }

    /// Whether an end is a failure now.
    fn is_watched(&self) -> bool {
        let is_set = |flag: &AtomicBool| flag.load(Ordering::Acquire);
        let daemon = self.0.daemon.upgrade().filter(|_| !is_set(&self.0.has_left));
        daemon.is_some_and(|daemon| is_set(&daemon.is_watching) && !is_set(&daemon.is_stopping))
    }

    /// What it is called in the status.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A sign of life; also a place where tests make it fail, by its name.
    pub fn alive(&self) {
        // A time on its own: nothing else is published through it.
        self.0.alive_ms.store(self.0.began.elapsed().as_millis() as u64, Ordering::Relaxed);
        fault::pass(self.name());
    }

    fn is_silent(&self) -> bool {
        let last = Duration::from_millis(self.0.alive_ms.load(Ordering::Relaxed));
        self.0.began.elapsed().saturating_sub(last) > SILENCE
    }

    /// What it does.
    pub fn state(&self) -> PartState {
        match self.lock().phase {
            Phase::Running => PartState::Running,
            Phase::Settling(until) if Instant::now() >= until => PartState::Running,
            Phase::Settling(_) | Phase::Restarting => PartState::Restarting,
            Phase::Failed => PartState::Failed,
        }
    }

    fn account(&self) -> PartAccount {
        let state = self.state();
        let inner = self.lock();
        PartAccount {
            state,
            up: state == PartState::Running,
            restarts: inner.restarts,
            lost: inner.lost,
            last_failure: inner.last_failure.clone(),
            last_failure_at: inner.last_failure_at,
        }
    }

    /// Counts what a failure lost and no other account counts.
    pub fn count_lost(&self, more: u64) {
        self.lock().lost += more;
    }

    /// It has dealt with what it was given: a sink works again.
    pub fn prove(&self) {
        let mut state = self.lock();
        if matches!(state.phase, Phase::Restarting) {
            state.phase = Phase::Running;
        }
    }

    /// The daemon goes on without it: it may end, and is not among the parts any more.
    pub fn leave(&self) {
        self.0.has_left.store(true, Ordering::Release);
        self.stop();
        if let Some(daemon) = self.0.daemon.upgrade() {
            daemon.parts.lock().unwrap_or_else(PoisonError::into_inner).retain(|part| !Arc::ptr_eq(&part.0, &self.0));
        }
    }

    /// From now on its starts do not wait.
    pub fn stop(&self) {
        self.lock().is_stopping = true;
        self.0.stopped.notify_all();
        self.0.stop.notify_waiters();
    }

    /// Notes a failure; how long to wait before the next start.
    fn note(&self, panic: &Panic) -> Duration {
        let now = Instant::now();
        let mut state = self.lock();
        let is_recent = state.last_start.is_some_and(|start| now.duration_since(start) < RECENT);
        state.in_a_row = if is_recent { state.in_a_row.saturating_add(1) } else { 1 };
        if state.recent.len() == MOST_FAILURES {
            state.recent.pop_front();
        }
        state.recent.push_back(now);
        state.restarts += 1;
        state.last_failure = Some(panic.0.clone());
        state.last_failure_at = unix_time();
        // Who has given up is not started again, whatever else fails in it.
        if !matches!(state.phase, Phase::Failed) {
            state.phase = Phase::Restarting;
        }
        match state.in_a_row {
            1 => Duration::ZERO,
            _ if state.is_stopping => STOPPING_PAUSE,
            n => FIRST_PAUSE.saturating_mul(1 << (n - 2).min(6)).min(LONGEST_PAUSE),
        }
    }

    fn log(&self, panic: &Panic, pause: Duration) {
        tracing::error!(
            part = self.name(),
            failure = panic.0,
            pause_secs = pause.as_secs_f64(),
            "a part of the daemon failed; it is started again"
        );
    }

    /// It starts again.
    fn start(&self) {
        let now = Instant::now();
        let mut state = self.lock();
        state.last_start = Some(now);
        if !matches!(state.phase, Phase::Failed) && self.0.role != Role::Sink {
            state.phase = Phase::Settling(now + SETTLING);
        }
    }

    /// After a failure: resolves when it is time to start again.
    pub async fn restart(&self, panic: Panic) {
        // From here on a stop ends the wait; one that came before makes the pause short.
        let stop = self.0.stop.notified();
        let pause = self.note(&panic);
        self.log(&panic, pause);
        if !pause.is_zero() {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop => {}
            }
        }
        self.start();
    }

    /// The same for a thread.
    pub fn restart_thread(&self, panic: &Panic) {
        let pause = self.note(panic);
        self.log(panic, pause);
        let end = Instant::now() + pause;
        let mut state = self.lock();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let left = if state.is_stopping { left.min(STOPPING_PAUSE) } else { left };
            if left.is_zero() {
                break;
            }
            let (next, waited) = self.0.stopped.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
            state = next;
            if waited.timed_out() && state.is_stopping {
                break;
            }
        }
        drop(state);
        self.start();
    }

    /// Does work that returns when it is done, and after a panic again.
    pub fn keep<T>(&self, mut work: impl FnMut() -> T) -> T {
        loop {
            match catch(&mut work) {
                Ok(done) => return done,
                Err(panic) => self.restart_thread(&panic),
            }
        }
    }

    /// Notes a failure that was dealt with on the spot: it goes on. `true` if there were [`MOST_FAILURES`] in [`RECENT`].
    pub fn goes_on(&self, panic: &Panic) -> bool {
        self.note(panic);
        self.start();
        let state = self.lock();
        state.recent.len() == MOST_FAILURES && state.recent.front().is_some_and(|first| first.elapsed() < RECENT)
    }

    /// Whether it failed before within [`RECENT`].
    pub fn fails_again(&self) -> bool {
        self.lock().in_a_row > 1
    }

    /// It has ended and nobody starts it again; an essential part takes the process with it.
    pub fn give_up(&self, why: &str) {
        let mut state = self.lock();
        if matches!(state.phase, Phase::Failed) {
            return;
        }
        state.phase = Phase::Failed;
        state.last_failure = Some(why.to_string());
        state.last_failure_at = unix_time();
        drop(state);
        let is_essential = self.0.role == Role::Essential;
        let what = if is_essential { "the daemon stops and exits with 70" } else { "it is not started again" };
        tracing::error!(part = self.name(), why, "a part of the daemon failed; {what}");
        if let Some(daemon) = self.0.daemon.upgrade().filter(|_| is_essential) {
            daemon.failed.send_if_modified(|first| {
                let is_first = first.is_none();
                first.get_or_insert_with(|| self.name().to_string());
                is_first
            });
        }
    }

    /// Reports the end of the part when it is dropped.
    pub fn guard(&self) -> Guard {
        Guard(Some(self.clone()))
    }

    /// Starts its thread.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn thread<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce(&Part) -> T + Send + 'static,
    ) -> io::Result<JoinHandle<T>> {
        let part = self.clone();
        std::thread::Builder::new().name(name.to_string()).spawn(move || {
            let guard = part.guard();
            let done = work(&part);
            guard.end();
            done
        })
    }

    /// Starts its task on the current runtime.
    pub fn task(&self, work: impl Future<Output = ()> + Send + 'static) -> tokio::task::JoinHandle<()> {
        let guard = self.guard();
        tokio::spawn(async move {
            work.await;
            guard.end();
        })
    }

    /// Starts a task on the current runtime that ends when nothing is left for it to do, and is started again after a panic.
    pub fn keep_task<F>(&self, work: impl Fn() -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send,
    {
        let (part, guard) = (self.clone(), self.guard());
        tokio::spawn(async move {
            while let Err(panic) = caught(work()).await {
                part.restart(panic).await;
            }
            // Nothing is left to do, which is no failure.
            guard.release();
        });
    }

    /// Runs one of the many short tasks of a part, such as a connection: one that panics is counted, and the others go on.
    pub async fn one_of_many(&self, work: impl Future<Output = ()>) {
        let work = async {
            fault::pass(&format!("{}:connection", self.name()));
            work.await;
        };
        if let Err(panic) = caught(work).await {
            self.goes_on(&panic);
            self.count_lost(1);
            tracing::error!(part = self.name(), failure = panic.0, "a connection failed; it is closed");
        }
    }
}

/// See [`Part::guard`].
#[derive(Debug)]
#[must_use]
pub struct Guard(Option<Part>);

impl Guard {
    /// It has nothing to watch any more.
    fn release(mut self) {
        self.0 = None;
    }

    /// The end was right: its input has closed, or a stop was asked for.
    pub fn end(mut self) {
        if let Some(part) = self.0.take().filter(Part::is_watched) {
            part.give_up("it ended by itself");
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Some(part) = self.0.take() else { return };
        if std::thread::panicking() {
            part.give_up("it panicked");
        } else if part.is_watched() {
            part.give_up("it ended by itself");
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    fn fail(part: &Part) -> Duration {
        part.note(&Panic("for a test".into()))
    }

    #[test]
    fn pauses_grow_from_failure_to_failure_and_a_stop_ends_them() {
        let parts = Supervisor::default();
        let part = parts.part("a", Role::Ordinary);
        assert_eq!(fail(&part), Duration::ZERO);
        part.start();
        let pauses: Vec<u64> = (0..8).map(|_| fail(&part).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert!(parts.trouble().is_some_and(|trouble| trouble == "restarting: a"));
        let waiting = std::thread::spawn({
            let part = part.clone();
            move || part.restart_thread(&Panic("again".into()))
        });
        parts.stop();
        waiting.join().expect("it ends");
        assert_eq!(fail(&part), STOPPING_PAUSE);
    }

    #[test]
    fn a_sink_has_to_prove_itself_and_others_settle() {
        let parts = Supervisor::default();
        let (sink, other) = (parts.part("sink", Role::Sink), parts.part("other", Role::Ordinary));
        for part in [&sink, &other] {
            fail(part);
            part.start();
            assert_eq!(part.state(), PartState::Restarting);
        }
        other.lock().phase = Phase::Settling(Instant::now());
        assert_eq!(other.state(), PartState::Running);
        sink.prove();
        assert_eq!((sink.state(), parts.trouble()), (PartState::Running, None));
    }

    #[test]
    fn the_third_failure_within_a_minute_is_one_too_many() {
        let part = Supervisor::default().part("worker", Role::Essential);
        let panic = Panic("for a test".into());
        assert_eq!([(); 4].map(|()| part.goes_on(&panic)), [false, false, true, true]);
        let long_ago = Instant::now().checked_sub(RECENT).expect("the machine is up for a minute");
        part.lock().recent.iter_mut().for_each(|at| *at = long_ago);
        assert!(!part.goes_on(&panic));
    }

    #[tokio::test]
    async fn an_end_that_nobody_asked_for_is_a_failure_and_an_essential_one_is_fatal() {
        let parts = Supervisor::default();
        let early = parts.part("early", Role::Ordinary).thread("early", |_| ()).expect("started");
        early.join().expect("it ends");
        assert_eq!(parts.trouble(), None);
        parts.watch();
        let thread = parts.part("relay", Role::Ordinary).thread("relay", |_| ()).expect("started");
        thread.join().expect("it ends");
        assert_eq!((parts.trouble(), parts.given_up()), (Some("failed: relay".into()), None));
        let thread = parts.part("flush", Role::Essential).thread("flush", |_| panic!("for a test")).expect("started");
        thread.join().expect_err("it panicked");
        assert_eq!(parts.failed().await, "flush");
        assert!(!parts.is_alive());
        parts.stop();
        let task = parts.part("late", Role::Ordinary).task(async {});
        task.await.expect("it ends");
        assert!(!parts.trouble().is_some_and(|trouble| trouble.contains("late")));
    }

    #[test]
    fn a_part_that_has_given_up_stays_failed_after_another_failure() {
        let part = Supervisor::default().part("worker", Role::Essential);
        part.give_up("for a test");
        assert!(!part.goes_on(&Panic("another".into())));
        assert_eq!(part.state(), PartState::Failed);
    }

    /// Stops a part when something is logged.
    struct StopsWhenLogged(Part);

    impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for StopsWhenLogged {
        fn on_event(&self, _: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
            self.0.stop();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_between_a_failure_and_its_pause_ends_the_pause() {
        let part = Supervisor::default().part("a", Role::Ordinary);
        part.restart(Panic("first".into())).await;
        let stops = tracing_subscriber::registry().with(StopsWhenLogged(part.clone()));
        let _logged = tracing::subscriber::set_default(stops);
        let began = tokio::time::Instant::now();
        part.restart(Panic("again".into())).await;
        assert!(began.elapsed() < FIRST_PAUSE, "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn a_future_that_panics_leaves_what_it_borrowed() {
        let mut seen = Vec::new();
        let outcome = caught(async {
            seen.push(1);
            tokio::task::yield_now().await;
            panic!("for a {}", "test");
        })
        .await;
        assert_eq!((outcome.expect_err("it panicked").0, seen), ("for a test".to_string(), vec![1]));
        assert_eq!(caught(async { 7 }).await.expect("a number"), 7);
    }
}
