//! What drives a sink: a task, a bounded queue, a deadline, back-off with jitter, and an account.
//!
//! The queue holds whole intervals. When it is full the oldest that waits is given up and counted, so that a
//! receiver that comes back gets the newest. `offered = delivered + queued + dropped` holds at any moment.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::snapshot::{Filter, Snapshot};
use crate::sys::unix_time;
use crate::telemetry::SinkAccount;

use super::{Sink, SinkError};

/// First pause after a failure; it doubles from failure to failure.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Pause while the daemon is stopping.
const STOPPING_PAUSE: Duration = Duration::from_millis(100);

/// How a sink is driven.
#[derive(Clone, Debug)]
pub struct OutletOptions {
    /// Label in status and ledger.
    pub name: String,
    /// What kind of sink it is, as the configuration has it.
    pub kind: &'static str,
    /// Which series it gets.
    pub filter: Filter,
    /// Intervals that may wait.
    pub queue: usize,
    /// Longest delivery.
    pub timeout: Duration,
    /// A failing sink is logged at most once in so long.
    pub log_every: Duration,
}

/// A sink and its driver.
#[derive(Debug)]
pub struct Outlet {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    options: OutletOptions,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Arc<Snapshot>>,
    account: SinkAccount,
    /// Once set, nothing more is offered, and the task ends when the queue is empty or the time has come.
    deadline: Option<Instant>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every update leaves the state whole, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn give_up(&mut self, snapshot: &Snapshot, reason: &str) {
        let records = snapshot.len() as u64;
        self.account.queued -= records;
        *self.account.dropped.entry(reason.to_string()).or_default() += records;
    }
}

impl Outlet {
    /// Starts a sink's task on the current runtime.
    pub fn start(options: OutletOptions, sink: Box<dyn Sink>) -> Outlet {
        let shared = Arc::new(Shared { options, state: Mutex::default(), changed: Notify::new() });
        let task = tokio::spawn(run(Arc::clone(&shared), sink));
        Outlet { shared, task }
    }

    /// Label in status and ledger.
    pub fn name(&self) -> &str {
        &self.shared.options.name
    }

    /// What kind of sink it is.
    pub fn kind(&self) -> &'static str {
        self.shared.options.kind
    }

    /// Which series it gets; whoever offers looks to that.
    pub fn filter(&self) -> &Filter {
        &self.shared.options.filter
    }

    /// Hands a snapshot over. Never waits: if the queue is full, the oldest that waits is given up.
    pub fn offer(&self, snapshot: &Arc<Snapshot>) {
        let records = snapshot.len() as u64;
        let mut state = self.shared.state();
        state.account.offered += records;
        state.account.queued += records;
        if state.waiting.len() >= self.shared.options.queue
            && let Some(oldest) = state.waiting.pop_front()
        {
            state.give_up(&oldest, "queue_full");
        }
        state.waiting.push_back(Arc::clone(snapshot));
        drop(state);
        self.shared.changed.notify_one();
    }

    /// The account so far.
    pub fn account(&self) -> SinkAccount {
        self.shared.state().account.clone()
    }

    /// Ends the sink: delivers what waits until `deadline`; what then still waits is given up and counted.
    pub async fn finish(self, deadline: Instant) -> SinkAccount {
        self.shared.state().deadline = Some(deadline);
        self.shared.changed.notify_one();
        let patience = deadline.saturating_duration_since(Instant::now());
        let abort = self.task.abort_handle();
        if timeout(patience, self.task).await.is_err() {
            abort.abort();
        }
        let mut state = self.shared.state();
        let left = state.account.queued;
        if left > 0 {
            state.waiting.clear();
            state.account.queued = 0;
            *state.account.dropped.entry("shutdown".into()).or_default() += left;
            tracing::warn!(sink = self.shared.options.name, records = left, "not delivered before the end; given up");
        }
        state.account.clone()
    }
}

async fn run(shared: Arc<Shared>, mut sink: Box<dyn Sink>) {
    let mut complaint = Complaint::default();
    loop {
        let (next, stopping) = {
            let mut state = shared.state();
            (state.waiting.pop_front(), state.deadline.is_some())
        };
        match next {
            Some(snapshot) => deliver(&shared, sink.as_mut(), &snapshot, &mut complaint).await,
            None if stopping => break,
            None => shared.changed.notified().await,
        }
    }
    sink.close().await;
}

/// Tries until the snapshot is delivered.
async fn deliver(shared: &Shared, sink: &mut dyn Sink, snapshot: &Arc<Snapshot>, complaint: &mut Complaint) {
    let options = &shared.options;
    let mut pause = FIRST_PAUSE;
    loop {
        let began = Instant::now();
        let attempt = timeout(options.timeout, sink.deliver(snapshot)).await;
        let outcome = attempt.unwrap_or_else(|_| {
            let limit = options.timeout.as_secs_f64();
            Err(SinkError(format!("no end of the delivery within {limit} s; it accepts but does not read")))
        });
        match outcome {
            Ok(receipt) => {
                let records = snapshot.len() as u64;
                let left_out: u64 = receipt.dropped.iter().map(|(_, count)| count).sum();
                let mut state = shared.state();
                let account = &mut state.account;
                account.queued -= records;
                account.delivered += records - left_out.min(records);
                for (reason, count) in receipt.dropped {
                    *account.dropped.entry(reason.to_string()).or_default() += count;
                }
                account.delivery_ms = began.elapsed().as_secs_f64() * 1e3;
                account.delivery_bytes = receipt.bytes;
                account.last_success = unix_time();
                account.last_error = None;
                complaint.over(options);
                return;
            }
            Err(error) => {
                let (waiting, stopping) = {
                    let mut state = shared.state();
                    state.account.last_error = Some(error.to_string());
                    state.account.last_failure = unix_time();
                    (state.waiting.len() + 1, state.deadline)
                };
                complaint.raise(options, &error, waiting);
                if stopping.is_some_and(|deadline| Instant::now() >= deadline) {
                    return;
                }
                if stopping.is_some() {
                    tokio::time::sleep(STOPPING_PAUSE).await;
                } else {
                    // A stop ends the pause early.
                    let _ = timeout(jittered(pause), stop_requested(shared)).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }
}

async fn stop_requested(shared: &Shared) {
    while shared.state().deadline.is_none() {
        shared.changed.notified().await;
    }
}

/// Says that a sink fails, and that it works again: at most once in `log_every`.
#[derive(Default)]
struct Complaint {
    last: Option<Instant>,
    failures: u64,
}

impl Complaint {
    fn raise(&mut self, options: &OutletOptions, error: &SinkError, waiting: usize) {
        self.failures += 1;
        if self.last.is_some_and(|last| last.elapsed() < options.log_every) {
            return;
        }
        self.last = Some(Instant::now());
        tracing::warn!(
            sink = options.name,
            error = %error,
            failures = self.failures,
            intervals_waiting = waiting,
            queue = options.queue,
            "delivery failed; trying again"
        );
    }

    fn over(&mut self, options: &OutletOptions) {
        if self.failures > 0 {
            tracing::info!(sink = options.name, failures = self.failures, "delivering again");
        }
        *self = Complaint::default();
    }
}

/// Between half and all of a pause, so that sinks do not come back in step.
fn jittered(pause: Duration) -> Duration {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
    pause.mul_f64(0.5 + 0.5 * f64::from(nanos % 1000) / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::Sum;
    use crate::protocol::Kind;
    use crate::series::Series;
    use crate::sinks::{Delivery, Receipt};
    use crate::snapshot::CounterPoint;

    /// Fails while `broken`, hangs while `hung`; remembers what it took.
    #[derive(Clone, Default)]
    struct Fake {
        seen: Arc<Mutex<Vec<u64>>>,
        mode: Arc<Mutex<Mode>>,
    }

    #[derive(Clone, Copy, Default, PartialEq)]
    enum Mode {
        #[default]
        Good,
        Broken,
        Hung,
    }

    impl Sink for Fake {
        fn deliver<'a>(&'a mut self, snapshot: &'a Arc<Snapshot>) -> Delivery<'a, Result<Receipt, SinkError>> {
            Box::pin(async move {
                let mode = *self.mode.lock().expect("no panic");
                match mode {
                    Mode::Good => self.seen.lock().expect("no panic").push(snapshot.sequence),
                    Mode::Broken => return Err(SinkError("broken".into())),
                    Mode::Hung => std::future::pending().await,
                }
                Ok(Receipt::default())
            })
        }

        fn close(&mut self) -> Delivery<'_, ()> {
            Box::pin(std::future::ready(()))
        }
    }

    fn snapshot(sequence: u64) -> Arc<Snapshot> {
        let counter = CounterPoint { series: Series::new(Kind::Counter, "a", &[]), sum: Sum::default() };
        Arc::new(Snapshot { sequence, counters: vec![counter.clone(), counter], ..Snapshot::default() })
    }

    fn outlet(fake: &Fake, queue: usize) -> Outlet {
        let options = OutletOptions {
            name: "fake".into(),
            kind: "fake",
            filter: Filter::default(),
            queue,
            timeout: Duration::from_secs(1),
            log_every: Duration::from_secs(10),
        };
        Outlet::start(options, Box::new(fake.clone()))
    }

    fn adds_up(account: &SinkAccount) -> bool {
        account.offered == account.delivered + account.queued + account.dropped.values().sum::<u64>()
    }

    #[tokio::test(start_paused = true)]
    async fn a_sink_that_comes_back_gets_what_waited_in_order() {
        let fake = Fake::default();
        *fake.mode.lock().expect("no panic") = Mode::Broken;
        let outlet = outlet(&fake, 4);
        for n in 1..=3 {
            outlet.offer(&snapshot(n));
            tokio::time::sleep(Duration::from_secs(10)).await;
            assert!(adds_up(&outlet.account()));
        }
        assert_eq!((outlet.account().queued, outlet.account().last_error), (6, Some("broken".into())));
        *fake.mode.lock().expect("no panic") = Mode::Good;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(*fake.seen.lock().expect("no panic"), [1, 2, 3]);
        assert_eq!((outlet.account().delivered, outlet.account().last_error), (6, None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_gives_up_its_oldest_and_counts_it() {
        let fake = Fake::default();
        *fake.mode.lock().expect("no panic") = Mode::Hung;
        let outlet = outlet(&fake, 2);
        for n in 1..=6 {
            outlet.offer(&snapshot(n));
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert!(adds_up(&outlet.account()));
        }
        // One is being delivered, two wait, three are lost.
        let account = outlet.account();
        assert_eq!((account.offered, account.queued, account.dropped["queue_full"]), (12, 6, 6));
        *fake.mode.lock().expect("no panic") = Mode::Good;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(*fake.seen.lock().expect("no panic"), [1, 5, 6]);
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_end_what_cannot_be_delivered_is_counted() {
        let fake = Fake::default();
        *fake.mode.lock().expect("no panic") = Mode::Broken;
        let outlet = outlet(&fake, 4);
        outlet.offer(&snapshot(1));
        outlet.offer(&snapshot(2));
        let account = outlet.finish(Instant::now() + Duration::from_millis(300)).await;
        assert!(adds_up(&account));
        assert_eq!((account.queued, account.dropped["shutdown"]), (0, 4));
    }
}
