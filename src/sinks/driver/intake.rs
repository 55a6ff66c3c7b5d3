//! What a sink gets of an interval: its own view, where its filter or rules keep series from it, and several intervals as one,
//! where it has an interval of its own. Both copy what may be large, so they are made in a task beside the one that delivers:
//! neither the flush nor a delivery that hangs waits for them.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::snapshot::{Snapshot, ends_interval, follow};

use crate::supervise::{catch, caught};

use super::super::blocking::run_in_place;
use super::Shared;

/// What a sink that gets several intervals as one has of them.
#[derive(Default)]
struct Gathered {
    part: Option<Snapshot>,
    last_tick: Option<u64>,
    /// Records of `part` while it is out of there.
    before: usize,
    /// What a panic now would lose, beside `part`.
    in_work: Option<Arc<Snapshot>>,
}

/// Intervals as they were offered, oldest first.
#[derive(Debug, Default)]
pub(super) struct Intake {
    waiting: VecDeque<Arc<Snapshot>>,
    /// One of them is being prepared.
    is_busy: bool,
    /// The sink is driven in another way from now on: what it gets as one interval alone is not gathered any more.
    is_changed: bool,
    /// Nothing more is offered.
    is_closed: bool,
    /// And all that was is prepared.
    has_ended: bool,
}

impl Intake {
    /// Nothing is offered any more, and all that was is prepared.
    pub(super) fn has_ended(&self) -> bool {
        self.has_ended
    }
}

impl Shared {
    /// Takes an interval in as it is, if that is what the sink gets, or leaves it to the task.
    pub(super) fn accept(&self, snapshot: &Arc<Snapshot>) {
        let options = self.options();
        let mut intake = self.intake();
        let is_ready = options.every == 1 && snapshot.is_whole_for(&options.name, &options.filter);
        if is_ready && intake.waiting.is_empty() && !intake.is_busy && !intake.is_changed {
            drop(intake);
            self.enqueue(Arc::clone(snapshot));
            return;
        }
        intake.waiting.push_back(Arc::clone(snapshot));
        // The task only computes. If it gets no time for so long, the oldest is dropped as from a full queue.
        let most = options.queue.saturating_mul(options.every as usize);
        let oldest = if intake.waiting.len() > most { intake.waiting.pop_front() } else { None };
        drop(intake);
        if let Some(oldest) = oldest {
            let records = oldest.len_for_sink(&options.name, &options.filter) as u64;
            let mut state = self.state();
            state.account.offered += records;
            state.account.dropped.count("queue_full", records);
        }
        self.accepted.notify_one();
    }

    /// Drops what is to be prepared but the newest, the oldest first, while closed intervals have to leave memory.
    pub(super) fn give_way_in_intake(&self) {
        while self.is_short() {
            let mut intake = self.intake();
            let oldest = if intake.waiting.len() > 1 { intake.waiting.pop_front() } else { None };
            drop(intake);
            let Some(oldest) = oldest else { return };
            self.squeeze_offered(oldest.len_for_sink(&self.name, &self.options().filter));
        }
    }

    /// Counts records of the daemon's intervals that never come into the queue, because memory is short.
    fn squeeze_offered(&self, records: usize) {
        let mut state = self.state();
        state.account.offered += records as u64;
        self.squeeze(&mut state, records as u64);
    }

    /// Counts an interval that failed before it was taken in.
    pub(super) fn lose(&self, snapshot: &Snapshot) {
        // The filter may be what failed.
        let records = catch(|| snapshot.len_for_sink(&self.name, &self.options().filter));
        let records = records.unwrap_or_else(|_| snapshot.len()) as u64;
        let mut state = self.state();
        state.account.offered += records;
        state.account.dropped.count("failed", records);
    }

    /// The options are others.
    pub(super) fn change_intake(&self) {
        self.intake().is_changed = true;
        self.accepted.notify_one();
    }

    /// What was gathered goes as it is, if the sink does not get several intervals as one any more.
    fn end_gathering(&self, gathered: &mut Gathered) {
        if self.options().every == 1
            && let Some(part) = gathered.part.take()
        {
            self.enqueue(Arc::new(part));
        }
    }

    /// No more intervals follow.
    pub(super) fn close_intake(&self) {
        self.intake().is_closed = true;
        self.accepted.notify_one();
    }

    /// Prepares what is accepted until the intake is closed and empty.
    pub(super) async fn prepare(&self) {
        let mut gathered = Gathered::default();
        while let Err(panic) = caught(self.prepare_all(&mut gathered)).await {
            let lost = self.take_lost(&mut gathered);
            {
                let mut state = self.state();
                state.account.offered += lost;
                state.account.dropped.count("failed", lost);
            }
            self.intake_part.restart(panic).await;
        }
    }

    /// Records that are lost with a panic: of the interval in work, and of those before it.
    fn take_lost(&self, gathered: &mut Gathered) -> u64 {
        let Some(snapshot) = gathered.in_work.take() else { return 0 };
        let before = gathered.part.take().map_or(0, |part| part.len()) + std::mem::take(&mut gathered.before);
        // The filter may be what failed.
        let of_sink = catch(|| snapshot.len_for_sink(&self.name, &self.options().filter));
        (before + of_sink.unwrap_or_else(|_| snapshot.len())) as u64
    }

    async fn prepare_all(&self, gathered: &mut Gathered) {
        loop {
            let (next, is_changed, is_closed) = {
                let mut intake = self.intake();
                let next = intake.waiting.pop_front();
                let is_changed = next.is_none() && std::mem::take(&mut intake.is_changed);
                intake.is_busy = next.is_some() || is_changed;
                (next, is_changed, intake.is_closed)
            };
            match next {
                Some(snapshot) => {
                    self.end_gathering(gathered);
                    gathered.in_work = Some(Arc::clone(&snapshot));
                    self.intake_part.alive();
                    let whole = run_in_place(|| self.gather(self.view(&snapshot), gathered));
                    (gathered.in_work, gathered.before) = (None, 0);
                    if let Some(whole) = whole {
                        self.enqueue(whole);
                    }
                }
                None if is_changed => self.end_gathering(gathered),
                None if is_closed => break,
                None => self.accepted.notified().await,
            }
        }
        if let Some(part) = gathered.part.take() {
            self.enqueue(Arc::new(part));
        }
        self.intake().has_ended = true;
        self.changed.notify_one();
    }

    /// What the sink gets of an interval of the daemon's.
    fn view(&self, snapshot: &Arc<Snapshot>) -> Arc<Snapshot> {
        let Some(mut own) = snapshot.for_sink(&self.name, &self.options().filter) else {
            return Arc::clone(snapshot);
        };
        own.hold(&self.memory);
        Arc::new(own)
    }

    /// Puts an interval to those before it, if the sink gets several as one; `None` until they are complete.
    fn gather(&self, snapshot: Arc<Snapshot>, gathered: &mut Gathered) -> Option<Arc<Snapshot>> {
        let options = self.options();
        if options.every == 1 {
            return Some(snapshot);
        }
        // Ticks fall on multiples of the interval.
        let tick = (snapshot.end / options.interval.as_secs_f64()).round() as u64;
        // What was gathered is older than anything that waits.
        if self.is_short()
            && let Some(part) = gathered.part.take()
        {
            self.squeeze_offered(part.len());
        }
        gathered.before = gathered.part.as_ref().map_or(0, Snapshot::len);
        let mut whole = match gathered.part.take() {
            Some(before) => follow(before, &snapshot),
            None => Arc::unwrap_or_clone(snapshot),
        };
        whole.hold(&self.memory);
        // Nothing is known of a tick before the first.
        let last_tick = gathered.last_tick.replace(tick).unwrap_or(tick.saturating_sub(1));
        if ends_interval(options.every, last_tick, tick) {
            return Some(Arc::new(whole));
        }
        gathered.part = Some(whole);
        None
    }
}
