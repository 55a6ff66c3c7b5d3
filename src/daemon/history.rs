//! The thread that takes closed intervals into the history, so that no flush waits for it.

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
use crate::supervise::{Part, Role, Supervisor};
use crate::sys::yielding_thread;

use super::StartError;
use super::thread::join_by;

/// Intervals that wait for the history. Each keeps its interval in memory.
const QUEUE: usize = 2;

/// How often it looks whether memory is short.
const EVERY: Duration = Duration::from_secs(1);

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
    ) -> Result<(History, HistoryQueue), StartError> {
        let history = history::History::new(assemble::history_options(config), memory);
        let (queue, intervals) = sync_channel(QUEUE);
        let own = history.clone();
        let thread = supervisor
            .part("history", Role::Ordinary)
            .thread("history", move |part| {
                yielding_thread();
                part.keep(|| take_in(&own, &intervals, part));
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

/// Takes intervals in until the queue has closed.
fn take_in(history: &history::History, intervals: &Receiver<Arc<Snapshot>>, part: &Part) {
    loop {
        part.alive();
        match intervals.recv_timeout(EVERY) {
            Ok(interval) => {
                history.add(&interval);
            }
            Err(RecvTimeoutError::Timeout) => history.give_way(),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
