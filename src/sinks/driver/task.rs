//! The task of a sink: what is delivered next, how it is retried, and what goes to disk meanwhile.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use crate::supervise::{Panic, catch, caught};
use crate::sys::{self, now, unix_time};
use crate::telemetry::Reasons;

use super::super::blocking::run_in_place;
use super::super::spool::Order;
use super::super::{Receipt, Sink, SinkError};
use super::spool::{Item, Spooler};
use super::{DriverOptions, FIRST_PAUSE, LONGEST_PAUSE, LONGEST_REQUEST, NextSink, Reopen, STOPPING_PAUSE, Shared};

/// Longest time for a sink that failed to close.
const CLOSING: Duration = Duration::from_secs(1);

/// Delivers until the stop. After a panic the interval in work is given up, and the sink is opened anew where that is known:
/// what it holds may be anything.
pub(super) async fn run(shared: Arc<Shared>, sink: Box<dyn Sink>, mut reopen: Option<Reopen>, mut spooler: Spooler) {
    let mut driver = Driver {
        failure_log: FailureLog::default(),
        pause: FIRST_PAUSE,
        is_failing: false,
        named: None,
        has_told_excess: false,
    };
    let (mut sink, mut item) = (Some(sink), None);
    loop {
        let work = async {
            if spooler.has_failed() {
                spooler.reopen(&mut item).await?;
                if let Some(item) = item.take() {
                    give_up(&shared, &mut spooler, &item).await;
                }
            }
            spooler.change().await;
            if let Some(next) = shared.take_next() {
                take_place(&shared, &mut sink, next, &mut reopen).await;
                driver.begin_anew();
            }
            let sink = match (&mut sink, &mut reopen) {
                (Some(sink), _) => sink,
                (None, Some(reopen)) => sink.insert(reopen()?),
                (None, None) => return Ok(true),
            };
            Ok::<bool, String>(driver.deliver_all(&shared, sink.as_mut(), &mut spooler, &mut item).await)
        };
        let panic = match caught(work).await {
            Ok(Ok(true)) => return,
            Ok(Ok(false)) => continue,
            Ok(Err(problem)) => Panic::of(&format!("it cannot be opened again: {problem}")),
            Err(panic) => panic,
        };
        // Without its spool it waits until that is open again.
        if !spooler.has_failed()
            && let Some(item) = item.take()
        {
            let _ = caught(give_up(&shared, &mut spooler, &item)).await;
        }
        if reopen.is_some()
            && let Some(mut failed) = sink.take()
        {
            // It may hold a port or a file that the next one needs.
            let _ = caught(timeout(CLOSING, failed.close())).await;
            let _ = catch(|| drop(failed));
        }
        shared.part.restart(panic).await;
    }
}

/// Puts a sink in the place of another one, which is closed. What goes on from interval to interval goes on, before anybody sees the
/// new one.
async fn take_place(
    shared: &Shared,
    sink: &mut Option<Box<dyn Sink>>,
    mut next: NextSink,
    reopen: &mut Option<Reopen>,
) {
    if let Some(mut before) = sink.take() {
        if next.goes_on {
            let saved = run_in_place(|| catch(|| before.save()));
            shared.state().to_restore = saved.ok().flatten();
            restore(shared, next.sink.as_mut());
        }
        if timeout(CLOSING, before.close()).await.is_err() {
            tracing::warn!(sink = shared.name, "the sink so far does not close; it is not waited for");
        }
    }
    (*sink, *reopen) = (Some(next.sink), Some(next.reopen));
}

/// Counts an interval that was in work when its sink failed; it is not tried again, for it may be the cause.
async fn give_up(shared: &Shared, spooler: &mut Spooler, item: &Item) {
    let records = item.snapshot.len() as u64;
    if !item.is_done {
        let mut state = shared.state();
        if state.is_settled {
            return;
        }
        state.delivering = None;
        state.evicted = 0;
        let waiting = match item.position {
            Some(_) => &mut state.account.spooled,
            None => &mut state.account.queued,
        };
        *waiting = waiting.saturating_sub(records);
        state.account.dropped.count("failed", records);
    }
    if !item.is_done {
        tracing::error!(sink = shared.name, records, "a sink failed while it had an interval; that is given up");
    }
    if let Some(position) = item.position {
        spooler.remove(position).await;
    }
}

/// Gives the sink what it is to go on with, if that has come.
fn restore(shared: &Shared, sink: &mut dyn Sink) {
    let Some(saved) = shared.state().to_restore.take() else { return };
    let sink_name = &shared.name;
    match run_in_place(|| catch(|| sink.restore(&saved))) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(sink = sink_name, %error, "it begins anew"),
        Err(panic) => tracing::error!(sink = sink_name, ?panic, "what was saved of it made it fail; it begins anew"),
    }
}

/// Keeps what the sink has for its next driver, if there will be one.
fn save(shared: &Shared, sink: &dyn Sink) {
    if shared.state().is_handed_over {
        let saved = run_in_place(|| catch(|| sink.save()));
        shared.state().saved = saved.ok().flatten();
    }
}

/// Leaves an item that was not delivered for a later attempt: on disk if it is there, else before all others in the queue.
async fn leave(shared: &Shared, spooler: &mut Spooler, item: &Item) {
    match item.position {
        Some(position) => spooler.put_off(position).await,
        None => {
            let mut state = shared.state();
            state.delivering = None;
            state.waiting.push_front(Arc::clone(&item.snapshot));
        }
    }
}

/// Memory is too short for an item that failed: it comes again from disk, or is dropped if it is not there.
async fn let_go(shared: &Shared, spooler: &mut Spooler, item: &Item) {
    match item.position {
        Some(position) => spooler.put_off(position).await,
        None => {
            let records = item.snapshot.len() as u64;
            let mut state = shared.state();
            state.delivering = None;
            state.account.queued = state.account.queued.saturating_sub(records);
            shared.squeeze(&mut state, records);
        }
    }
}

struct Driver {
    failure_log: FailureLog,
    pause: Duration,
    /// Whether the last delivery failed.
    is_failing: bool,
    /// When it was last logged that records cannot be encoded.
    named: Option<Instant>,
    /// Whether it was logged that the sink says it left out more than there was.
    has_told_excess: bool,
}

impl Driver {
    /// Another sink has the place: nothing is known of its receiver.
    fn begin_anew(&mut self) {
        (self.pause, self.is_failing, self.failure_log) = (FIRST_PAUSE, false, FailureLog::default());
    }

    /// Delivers until the stop, `true`, or until another sink is to take the place, or another spool; `item` is what is in work.
    async fn deliver_all(
        &mut self,
        shared: &Shared,
        sink: &mut dyn Sink,
        spooler: &mut Spooler,
        item: &mut Option<Item>,
    ) -> bool {
        let mut replayed: Option<tokio::time::Instant> = None;
        loop {
            if shared.is_changing() {
                return false;
            }
            restore(shared, sink);
            spooler.follow_options();
            let is_over = shared.state().is_over();
            let is_stopping = shared.is_ending();
            if is_over {
                break;
            }
            let backlog = !spooler.is_empty();
            let mut next = None;
            if !backlog || spooler.order() == Order::Interleave {
                let mut state = shared.state();
                next = state.waiting.pop_front().map(|snapshot| Item { snapshot, position: None, is_done: false });
                state.delivering = next.as_ref().map(|item| Arc::clone(&item.snapshot));
            } else if spooler.takes_waiting(self.is_failing) {
                spooler.save(None).await;
            }
            if next.is_none() && backlog {
                if shared.state().deadline.is_some() && shared.state().waiting.is_empty() {
                    break;
                }
                // From disk at a limited rate; what is new meanwhile goes behind it, or before it.
                let due = replayed.map(|last| last + spooler.replay_pause());
                if let Some(due) = due.filter(|due| *due > tokio::time::Instant::now()) {
                    tokio::select! {
                        biased;
                        () = tokio::time::sleep_until(due) => {}
                        () = shared.changed.notified() => {}
                    }
                    continue;
                }
                replayed = Some(tokio::time::Instant::now());
                next = spooler.front().await;
                if next.is_none() {
                    continue;
                }
            }
            match next {
                Some(next) => {
                    let let_go = self.deliver(shared, sink, spooler, item.insert(next)).await;
                    *item = None;
                    if let Some(error) = let_go {
                        self.wait(shared, spooler, &error).await;
                    }
                }
                None if is_stopping => break,
                None => shared.changed.notified().await,
            }
        }
        // What was never tried.
        spooler.save(None).await;
        save(shared, sink);
        sink.close().await;
        true
    }

    /// Retries until the item is delivered, or is left on disk for later, or memory is too short for it: then with the error,
    /// after which a pause is due.
    async fn deliver(
        &mut self,
        shared: &Shared,
        sink: &mut dyn Sink,
        spooler: &mut Spooler,
        item: &mut Item,
    ) -> Option<SinkError> {
        loop {
            let began = now();
            let since = tokio::time::Instant::now();
            let options = shared.options();
            shared.part.alive();
            let outcome = {
                let snapshot = Arc::clone(&item.snapshot);
                let mut attempt = pin!(timeout(options.timeout, sink.deliver(&snapshot)));
                loop {
                    tokio::select! {
                        // What is delivered counts, however late.
                        biased;
                        outcome = &mut attempt => break outcome,
                        () = shared.over.notified() => {
                            spooler.save(Some(item)).await;
                            leave(shared, spooler, item).await;
                            return None;
                        }
                        () = spooler.exposed(since, self.is_failing, item.position.is_none()) => {
                            if !spooler.save(Some(item)).await {
                                // The disk takes nothing: no busy loop.
                                tokio::select! {
                                    biased;
                                    outcome = &mut attempt => break outcome,
                                    () = tokio::time::sleep(FIRST_PAUSE) => {}
                                }
                            }
                        }
                    }
                }
            };
            shared.part.prove();
            let outcome = outcome.unwrap_or_else(|_| {
                let limit = options.timeout.as_secs_f64();
                Err(SinkError::new(format!("no end of the delivery within {limit} s; it accepts but does not read")))
            });
            match outcome {
                Ok(receipt) => {
                    self.count_success(shared, item, receipt, sys::since(began));
                    item.is_done = true;
                    if let Some(position) = item.position {
                        spooler.remove(position).await;
                    }
                    return None;
                }
                Err(error) => {
                    self.is_failing = true;
                    let (waiting, is_stopping) = {
                        let mut state = shared.state();
                        state.account.last_error = Some(error.to_string());
                        state.account.last_failure = unix_time();
                        state.is_failing = true;
                        state.waiting.iter().for_each(|waiting| shared.let_go_of(waiting));
                        (state.waiting.len() + 1, state.deadline.is_some())
                    };
                    self.failure_log.failed(&options, &error, waiting, shared.state().spooled_intervals);
                    spooler.save(Some(item)).await;
                    shared.let_go_of(&item.snapshot);
                    // What is on disk can wait for the next start; what the disk did not take cannot.
                    let is_end = is_stopping && {
                        let state = shared.state();
                        let is_safe = item.position.is_some() && state.waiting.is_empty() && state.evicted == 0;
                        is_safe || state.is_over()
                    };
                    shared.give_way();
                    if !is_end && shared.is_changing() {
                        leave(shared, spooler, item).await;
                        return None;
                    }
                    if !is_end && shared.is_short() {
                        let_go(shared, spooler, item).await;
                        return Some(error);
                    }
                    if !is_end {
                        self.wait(shared, spooler, &error).await;
                    }
                    // When interleaved, something newer may have come.
                    if is_end || (item.position.is_some() && spooler.order() == Order::Interleave) {
                        leave(shared, spooler, item).await;
                        return None;
                    }
                }
            }
        }
    }

    fn count_success(&mut self, shared: &Shared, item: &Item, receipt: Receipt, took: Duration) {
        let records = item.snapshot.len() as u64;
        let mut state = shared.state();
        if state.is_settled {
            // It was given up, and counted so.
            return;
        }
        state.delivering = None;
        state.evicted = 0;
        state.is_failing = false;
        shared.let_go_of(&item.snapshot);
        let dropped = state.account.dropped.since(&state.dropped_before);
        let account = &mut state.account;
        match item.position {
            // The spool follows at once; until then the account is ahead of it.
            Some(_) => account.spooled = account.spooled.saturating_sub(records),
            None => account.queued = account.queued.saturating_sub(records),
        }
        let unencodable = receipt.dropped.iter().find(|(reason, _)| *reason == "unencodable").map_or(0, |(_, n)| *n);
        let (mut delivered, mut excess) = (records, 0_u64);
        for (reason, count) in receipt.dropped {
            let left_out = count.min(delivered);
            delivered -= left_out;
            excess = excess.saturating_add(count - left_out);
            if left_out > 0 {
                account.dropped.count(reason, left_out);
            }
        }
        account.delivered += delivered;
        let dropped_by_now = account.dropped.clone();
        if excess > 0 && !std::mem::replace(&mut self.has_told_excess, true) {
            tracing::error!(
                sink = shared.name,
                records,
                excess,
                "the sink says that it left out more records than there were"
            );
        }
        if records == 0 && receipt.bytes == 0 {
            // Nothing was asked of the receiver, so nothing is known of it.
            return;
        }
        account.delivery_ms = took.as_secs_f64() * 1e3;
        account.delivery_bytes = receipt.bytes;
        account.last_success = unix_time();
        account.last_error = receipt.named;
        if let Some(first) = &account.last_error
            && self.named.is_none_or(|last| sys::since(last) >= shared.options().interval)
        {
            self.named = Some(now());
            tracing::warn!(
                sink = shared.name,
                records = unencodable,
                first,
                "records cannot be encoded for this sink; they are dropped"
            );
        }
        self.failure_log.recovered(&shared.options(), &dropped);
        state.dropped_before = dropped_by_now;
        self.is_failing = false;
        self.pause = FIRST_PAUSE;
    }

    /// Pauses after a failure; what comes meanwhile goes to disk, and a stop ends the pause early.
    async fn wait(&mut self, shared: &Shared, spooler: &mut Spooler, error: &SinkError) {
        if shared.state().deadline.is_some() {
            tokio::time::sleep(STOPPING_PAUSE).await;
            return;
        }
        let asked = error.retry_after.unwrap_or(Duration::ZERO).min(LONGEST_REQUEST);
        let end = tokio::time::Instant::now() + jittered(self.pause).max(asked);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        loop {
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(end) => return,
                () = shared.changed.notified() => {
                    spooler.save(None).await;
                    if shared.state().deadline.is_some() || shared.is_changing() {
                        return;
                    }
                }
            }
        }
    }
}

/// Logs that a sink fails, at most once in an interval, and that it works again.
#[derive(Default)]
struct FailureLog {
    last: Option<Instant>,
    failures: u64,
}

impl FailureLog {
    fn failed(&mut self, options: &DriverOptions, error: &SinkError, waiting: usize, on_disk: usize) {
        self.failures += 1;
        if self.last.is_some_and(|last| sys::since(last) < options.interval) {
            return;
        }
        self.last = Some(now());
        tracing::warn!(
            sink = options.name,
            error = %error,
            failures = self.failures,
            intervals_waiting = waiting,
            intervals_on_disk = on_disk,
            queue = options.queue,
            "delivery failed; trying again"
        );
    }

    /// With what was dropped meanwhile.
    fn recovered(&mut self, options: &DriverOptions, dropped: &Reasons) {
        let (sink, failures) = (&options.name, self.failures);
        if failures > 0 && !dropped.is_empty() {
            tracing::warn!(
                sink,
                failures,
                dropped = dropped.text(),
                "delivering again; records were dropped meanwhile"
            );
        } else if failures > 0 {
            tracing::info!(sink, failures, "delivering again");
        }
        *self = FailureLog::default();
    }
}

/// Between half and all of a pause, so that sinks do not come back in step.
fn jittered(pause: Duration) -> Duration {
    // Microseconds of the clock are as good as chance.
    pause.mul_f64(0.5 + 0.5 * (unix_time() * 1000.0).fract())
}
