//! The thread that takes closed intervals into the history, so that no flush waits for it, and keeps it in the state folder.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::assemble;
use crate::config::Config;
use crate::flush::HistoryQueue;
use crate::history;
use crate::memory::Memory;
use crate::snapshot::Snapshot;
use crate::state::{Discarded, Limits, StateFolder};
use crate::supervise::{Part, Role, Supervisor};
use crate::sys::yielding_thread;

use super::StartError;
use super::thread::join_by;

/// Intervals that wait for the history. Each keeps its interval in memory.
const QUEUE: usize = 2;

/// How often it looks whether memory is short.
const EVERY: Duration = Duration::from_secs(1);

/// Its part of the state.
const PART: &str = "history";

/// It is written no faster than that in the mean, in bytes a second: a large one is written rarely.
const BYTES_PER_SEC: u64 = 64 << 10;

/// The running history: it ends when its queue has closed.
#[derive(Debug)]
pub(super) struct History {
    history: history::History,
    thread: JoinHandle<()>,
}

impl History {
    pub(super) fn start(
        config: &Config,
        memory: &Memory,
        supervisor: &Supervisor,
        state: &StateFolder,
    ) -> Result<(History, HistoryQueue), StartError> {
        let history = history::History::new(assemble::history_options(config), memory);
        let (queue, intervals) = sync_channel(QUEUE);
        let own = history.clone();
        let mut file = StateFile::new(&history, state, config.state_interval);
        let thread = supervisor
            .part("history", Role::Ordinary)
            .thread("history", move |part| {
                yielding_thread();
                part.keep(|| take_in(&own, &intervals, &mut file, part));
            })
            .map_err(|error| StartError(format!("cannot start the thread of the history: {error}")))?;
        Ok((History { history, thread }, queue))
    }

    /// What the page and the API read.
    pub(super) fn handle(&self) -> history::History {
        self.history.clone()
    }

    /// Waits until the last interval is taken in.
    pub(super) async fn stop(self, deadline: Instant) {
        join_by(deadline, "the history", move || self.thread.join()).await;
    }
}

/// The history in the state folder.
struct StateFile {
    history: history::History,
    state: StateFolder,
    /// How often it is written at most.
    every: Duration,
    /// When it was written last, and how large it was.
    written: Instant,
    bytes: u64,
    is_restored: bool,
}

impl StateFile {
    fn new(history: &history::History, state: &StateFolder, every: Duration) -> StateFile {
        let (history, state) = (history.clone(), state.clone());
        StateFile { history, state, every, written: Instant::now(), bytes: 0, is_restored: false }
    }

    /// Goes on with what is there, once.
    fn restore(&mut self) {
        if std::mem::replace(&mut self.is_restored, true) || !self.history.is_enabled() {
            return;
        }
        let limits = Limits { age: Duration::from_secs(7 * 86_400), ..Limits::default() };
        let Some(saved) = self.state.read(PART, history::FORMAT, limits) else { return };
        self.bytes = saved.bytes.len() as u64;
        match self.history.restore(&saved.bytes) {
            Ok(history::Restored { series, no_room }) => {
                let age = format!("{:.0} s", saved.age_secs);
                tracing::info!(series, no_room, age, "the history goes on");
            }
            Err(history::NotRestored::OtherInterval(secs)) => {
                tracing::warn!("the history begins anew: that of before has intervals of {secs} s");
            }
            Err(history::NotRestored::Damaged(problem)) => self.state.set_aside(PART, Discarded::Damaged, problem),
        }
    }

    /// Writes it if it is time for that.
    fn write_if_due(&mut self) {
        let pause = self.every.max(Duration::from_secs(self.bytes / BYTES_PER_SEC));
        if self.written.elapsed() >= pause {
            self.write();
        }
    }

    fn write(&mut self) {
        self.written = Instant::now();
        if self.history.is_enabled() && self.history.last_end().is_some() && self.state.is_kept() {
            self.state.write(PART, history::FORMAT, |out| self.history.save(out));
            self.bytes = self.state.status().parts.get(PART).map_or(0, |part| part.bytes);
        }
    }
}

/// Takes intervals in until the queue has closed.
fn take_in(history: &history::History, intervals: &Receiver<Arc<Snapshot>>, file: &mut StateFile, part: &Part) {
    file.restore();
    loop {
        part.alive();
        file.write_if_due();
        match intervals.recv_timeout(EVERY) {
            Ok(interval) => {
                history.add(&interval);
            }
            Err(RecvTimeoutError::Timeout) => history.give_way(),
            Err(RecvTimeoutError::Disconnected) => return file.write(),
        }
    }
}
