//! A sink's spool as its driver uses it: on threads that may block, and with the sink's account.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::fault;
use crate::snapshot::Snapshot;
use crate::sys::{now, since, unix_time};

use super::super::spool::{Changes, Lost, Order, Spool, SpoolOptions};
use super::{EXPOSED, Shared};

/// So few intervals are not put to disk any more where a spool gives way to another one.
const LAST: usize = 3;

/// How long a spool that cannot be opened is left alone.
const SPOOL_PAUSE: Duration = Duration::from_secs(5);

/// What is to be delivered next.
pub(super) struct Item {
    pub(super) snapshot: Arc<Snapshot>,
    /// Where it lies in the spool; `None` if it is in memory alone.
    pub(super) position: Option<u64>,
    /// It is delivered and counted so.
    pub(super) is_done: bool,
}

/// The spool, if there is one, and how the account follows it. Its work is done where blocking is allowed.
pub(super) struct Spooler {
    shared: Arc<Shared>,
    spool: Option<Spool>,
    /// How it is used, also while it works.
    options: Option<SpoolOptions>,
    /// When it was last logged that the disk takes nothing.
    logged_at: Option<Instant>,
    /// What is being written to it.
    saving: Option<Arc<Snapshot>>,
    /// It panicked, and is to be opened anew.
    has_failed: bool,
}

impl Shared {
    /// Brings the account up to what the spool holds. This is done by the thread that worked on it, so that it is done even if
    /// nobody waits for the outcome any more.
    pub(super) fn follow(&self, spool: &mut Spool) {
        let Changes { appended, lost } = spool.take_changes();
        let mut state = self.state();
        state.is_spool_busy = false;
        if state.is_settled {
            drop(state);
            if appended > 0 {
                let sink = &self.name;
                tracing::warn!(sink, records = appended, "the disk took records after they were given up");
            }
            return;
        }
        // Records get into the spool out of the queue.
        state.account.queued = state.account.queued.saturating_sub(appended);
        for (reason, records) in lost {
            state.account.dropped.count(reason, records);
            tracing::warn!(sink = self.name, records, reason, "spooled records are given up");
        }
        state.account.spooled = spool.records();
        state.account.spool_bytes = spool.bytes();
        state.account.oldest_waiting = spool.oldest();
        state.spooled_intervals = spool.intervals();
        state.evicted = spool.evicted();
    }

    /// Resolves when no thread works on the spool.
    pub(super) async fn spool_idle(&self) {
        while self.state().is_spool_busy {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Opens a spool where blocking is allowed.
async fn open(options: SpoolOptions) -> Result<(Spool, Lost), String> {
    let (disk, (tell, opened)) = (options.disk.clone(), oneshot::channel());
    let open = move || _ = tell.send(Spool::open(options));
    if disk.work(Box::new(open)).await.is_err() {
        return Err("its spool cannot be read".into());
    }
    let opened = opened.await.map_err(|error| error.to_string())?;
    opened.map_err(|error| format!("its spool: {error}"))
}

impl Spooler {
    pub(super) fn new(shared: Arc<Shared>) -> Spooler {
        Spooler { shared, spool: None, options: None, logged_at: None, saving: None, has_failed: false }
    }

    /// Has a spool from now on. What is left in it from before is offered anew.
    pub(super) fn put(&mut self, (mut spool, lost): (Spool, Lost)) {
        let sink = &self.shared.name;
        if !spool.is_empty() {
            tracing::info!(sink, records = spool.records(), "intervals from before are waiting");
        }
        {
            let mut state = self.shared.state();
            state.account.offered += spool.records() + lost.iter().map(|(_, records)| records).sum::<u64>();
            for (reason, records) in lost {
                state.account.dropped.count(reason, records);
                tracing::warn!(sink, records, reason, "spooled records are given up");
            }
            state.spool = Some(spool.options().path.clone());
        }
        self.shared.follow(&mut spool);
        (self.options, self.spool) = (Some(spool.options().clone()), Some(spool));
    }

    /// Has the spool that the sink's options have by now, or none, once the one so far is empty. While the next one cannot be opened
    /// it has the one so far.
    pub(super) async fn change(&mut self) {
        if self.has_failed || !self.shared.has_next_spool() {
            return;
        }
        let next = match self.shared.options().spool.clone() {
            Some(options) => match open(options).await {
                Ok(opened) => Some(opened),
                Err(problem) => return self.put_off_change(&problem),
            },
            None => None,
        };
        self.spool = None;
        if let Some(options) = self.options.take() {
            let folder = options.path.display();
            tracing::info!(sink = self.shared.name, %folder, "the spool so far is empty, and not used any more");
            let mut state = self.shared.state();
            (state.spool, state.account.spool_bytes, state.account.oldest_waiting) = (None, 0, None);
        }
        if let Some(next) = next {
            self.put(next);
        }
    }

    /// The next spool cannot be opened, and is tried again later.
    fn put_off_change(&mut self, problem: &str) {
        let sink = &self.shared.name;
        tracing::warn!(sink, "the spool that it is to have cannot be used yet: {problem}");
        let mut state = self.shared.state();
        state.next_spool_due = Some(now() + SPOOL_PAUSE.max(self.shared.options().interval));
        state.account.last_error = Some(problem.to_string());
        state.account.last_failure = unix_time();
    }

    /// Whether it panicked, and [`Spooler::reopen`] has to make it anew.
    pub(super) fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Opens a spool that panicked anew, with what it has on disk. `item` is what was in work; it is gone from there if the
    /// disk has it.
    ///
    /// # Errors
    /// Why it cannot be opened.
    pub(super) async fn reopen(&mut self, item: &mut Option<Item>) -> Result<(), String> {
        let Some(options) = self.options.clone().filter(|_| self.has_failed) else { return Ok(()) };
        let (mut spool, lost) = open(options).await?;
        self.has_failed = false;
        let saving = self.saving.take();
        {
            let mut state = self.shared.state();
            let before = state.account.spooled.saturating_sub(std::mem::take(&mut state.evicted));
            let now = spool.records() + lost.iter().map(|(_, records)| records).sum::<u64>();
            // What the account has, and the disk has not, went with the panic.
            state.account.dropped.count("failed", before.saturating_sub(now));
            let mut fresh = now.saturating_sub(before);
            if let Some(done) = item.as_ref().filter(|item| item.is_done && item.snapshot.len() as u64 <= fresh) {
                fresh -= done.snapshot.len() as u64;
            }
            if let Some(saving) = saving {
                let records = saving.len() as u64;
                let is_in_work = item.as_ref().is_some_and(|item| Arc::ptr_eq(&item.snapshot, &saving));
                if records <= fresh {
                    fresh -= records;
                    state.account.queued = state.account.queued.saturating_sub(records);
                    if is_in_work {
                        (*item, state.delivering) = (None, None);
                    }
                } else if !is_in_work {
                    state.waiting.push_front(saving);
                }
            }
            // It was counted when it was taken out, and comes once more.
            state.account.offered += fresh;
            state.account.spooled = spool.records();
            for (reason, records) in lost {
                state.account.dropped.count(reason, records);
            }
        }
        self.shared.follow(&mut spool);
        self.spool = Some(spool);
        Ok(())
    }

    /// Uses the spool as the sink's options have it now.
    pub(super) fn follow_options(&mut self) {
        let options = self.shared.options();
        if let (Some(spool), Some(options)) = (&mut self.spool, &options.spool)
            && spool.options() != options
            && spool.options().path == options.path
        {
            spool.set_options(options.clone());
            self.options = Some(options.clone());
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.spool.as_ref().is_none_or(Spool::is_empty)
    }

    pub(super) fn order(&self) -> Order {
        self.spool.as_ref().map_or(Order::Strict, |spool| spool.options().order)
    }

    /// Time between two deliveries from disk.
    pub(super) fn replay_pause(&self) -> Duration {
        match self.spool.as_ref().map_or(0, |spool| spool.options().rate) {
            0 => Duration::ZERO,
            // Twice as fast as intervals come at the least, or the backlog would never end.
            rate => {
                let options = self.shared.options();
                (Duration::from_secs(1) / u32::try_from(rate).unwrap_or(u32::MAX))
                    .min(options.interval * options.every / 2)
            }
        }
    }

    /// Does something with the spool on a thread that may block.
    pub(super) async fn work<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Spool) -> T + Send + 'static,
    ) -> Option<T> {
        let mut spool = self.spool.take()?;
        let shared = Arc::clone(&self.shared);
        shared.state().is_spool_busy = true;
        let (disk, (tell, done)) = (spool.options().disk.clone(), oneshot::channel());
        let ended = disk.work(Box::new(move || {
            let outcome = work(&mut spool);
            fault::pass("spool");
            shared.follow(&mut spool);
            // Nobody may wait for it any more.
            let _ = tell.send((spool, outcome));
        }));
        if let Err(panic) = ended.await {
            self.shared.state().is_spool_busy = false;
            if let Some(payload) = panic {
                // The sink fails with it, and both are opened anew.
                self.has_failed = true;
                std::panic::resume_unwind(payload)
            }
            // The runtime ends.
            return None;
        }
        let (spool, outcome) = done.await.ok()?;
        self.spool = Some(spool);
        Some(outcome)
    }

    /// Writes a snapshot that is counted as queued to disk; its position.
    pub(super) async fn append(&mut self, snapshot: &Arc<Snapshot>) -> Option<u64> {
        let owned = Arc::clone(snapshot);
        self.saving = Some(Arc::clone(snapshot));
        let outcome = self.work(move |spool| spool.append(&owned)).await;
        self.saving = None;
        match outcome? {
            Ok(position) => Some(position),
            Err(error) => {
                let mut state = self.shared.state();
                state.account.last_error = Some(format!("spool: {error}"));
                state.account.last_failure = unix_time();
                drop(state);
                if self.logged_at.is_none_or(|last| since(last) >= self.shared.options().interval) {
                    self.logged_at = Some(now());
                    tracing::warn!(sink = self.shared.name, %error, "the spool takes nothing; intervals stay in memory");
                }
                None
            }
        }
    }

    /// Puts what is in memory alone on disk: what is being delivered, and what waits, in order. Whether the disk took it.
    pub(super) async fn save(&mut self, item: Option<&mut Item>) -> bool {
        if self.spool.is_none() {
            return true;
        }
        if let Some(item) = item
            && item.position.is_none()
        {
            item.position = self.append(&item.snapshot).await;
            match item.position {
                Some(position) => {
                    self.work(move |spool| spool.mark_busy(position)).await;
                    self.shared.state().delivering = None;
                }
                None => return false,
            }
        }
        // What comes meanwhile has its turn later: a disk may be slower than an interval.
        let waiting = self.shared.state().waiting.len();
        for _ in 0..waiting {
            // Out of the queue meanwhile, so that it is not dropped when the queue is full.
            let Some(next) = self.shared.state().waiting.pop_front() else { return true };
            if self.append(&next).await.is_none() {
                self.shared.state().waiting.push_front(next);
                return false;
            }
        }
        true
    }

    /// The oldest on disk.
    pub(super) async fn front(&mut self) -> Option<Item> {
        let (position, mut snapshot) = self.work(|spool| spool.front(unix_time())).await??;
        snapshot.hold(&self.shared.memory);
        Some(Item { snapshot: Arc::new(snapshot), position: Some(position), is_done: false })
    }

    pub(super) async fn remove(&mut self, position: u64) {
        self.work(move |spool| spool.remove(position)).await;
    }

    /// Leaves an interval that failed on disk for a later attempt. One that had to make room meanwhile is gone.
    pub(super) async fn put_off(&mut self, position: u64) {
        self.work(move |spool| spool.put_off(position)).await;
    }

    /// Resolves when something in memory ought to be on disk: at once while the receiver fails, else after a while.
    pub(super) async fn exposed(&self, since: tokio::time::Instant, is_failing: bool, in_memory: bool) {
        if self.spool.is_none() {
            std::future::pending::<()>().await;
        }
        if !is_failing {
            tokio::time::sleep_until(since + EXPOSED).await;
        }
        while !in_memory && !self.takes_waiting(is_failing) {
            self.shared.changed.notified().await;
        }
    }

    /// Whether what waits in memory is to go to disk. One that is given up has to be empty some day: while its receiver takes what
    /// lies there, it takes no more of what is new than memory has no room for.
    pub(super) fn takes_waiting(&self, is_failing: bool) -> bool {
        let (options, state) = (self.shared.options(), self.shared.state());
        if state.waiting.is_empty() || is_failing || state.has_spool_of(&options) {
            return !state.waiting.is_empty();
        }
        match options.spool {
            // What waits in memory is to be safe in a crash: it is few.
            Some(_) => state.spooled_intervals + state.waiting.len() > LAST || state.waiting.len() >= options.queue,
            None => state.waiting.len() * 2 >= options.queue,
        }
    }
}
