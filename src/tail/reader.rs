//! The end of those who look.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::Notify;
use utoipa::ToSchema;

use crate::memory::{Holder, Holding, Memory};
use crate::untrusted::{Escaped, excerpt};

use super::filter::Filter;
use super::tap::Piece;
use super::verdict::{Reading, Verdict};
use super::{MOST_PER_SECOND, Tail};

/// Lines that wait for one who looks.
const MOST_WAITING: usize = 200;

/// Characters of a line and of a name that are shown.
const LINE_CHARS: usize = 1000;
const NAME_CHARS: usize = 200;

/// A line as it is shown. Texts are safe for a terminal, and keys of presence are masked.
#[derive(Debug, Serialize, ToSchema)]
pub struct TailLine {
    /// When it came, Unix seconds.
    time: f64,
    /// The address of the sender, if it has one.
    from: Option<String>,
    /// The URL of the listener.
    listener: String,
    /// The line.
    line: String,
    /// `ok` or `malformed`.
    verdict: &'static str,
    /// Why it is malformed.
    reason: Option<&'static str>,
    /// The byte, in the trimmed line, where that shows.
    at: Option<u32>,
    /// What is wrong, in a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'static str>,
    /// `counter` and so on, `event`, `service_check` or `heartbeat`; `null` if nothing of it can be read.
    kind: Option<&'static str>,
    /// The name of a metric or a check, the title of an event.
    name: Option<String>,
    #[serde(skip)]
    #[schema(ignore)]
    _held: Holding,
}

impl TailLine {
    pub(super) fn new(
        piece: &Piece,
        line: &[u8],
        verdict: &Verdict<'_>,
        reading: &Reading,
        memory: &Memory,
    ) -> TailLine {
        let held = memory.holding(Holder::HttpBodies);
        let error = verdict.error.as_ref();
        let shown = TailLine {
            time: piece.at,
            from: piece.from.map(|from| from.to_string()),
            listener: Escaped(&piece.origin.listener).to_string(),
            line: excerpt(&reading.masked(line), LINE_CHARS),
            verdict: if error.is_some() { "malformed" } else { "ok" },
            reason: error.map(|error| error.reason.name()),
            at: error.map(|error| error.at),
            message: error.map(|error| error.message()),
            kind: verdict.kind,
            name: verdict.name.as_ref().map(|name| excerpt(name.as_bytes(), NAME_CHARS)),
            _held: held,
        };
        let texts = shown.line.len() + shown.listener.len() + shown.name.as_ref().map_or(0, String::len);
        shown._held.set((size_of::<TailLine>() + texts) as u64);
        shown
    }
}

/// What one who looks is shown.
#[derive(Clone, Debug)]
pub enum TailItem {
    /// A line.
    Line(Arc<TailLine>),
    /// So many lines came, and were not looked at or not shown.
    Skipped(u64),
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<TailItem>,
    /// Lines that may be shown now, in parts of a line that come with time.
    allowance: f64,
    skipped: u64,
    /// Lines that may still be shown at all.
    left: Option<u64>,
}

/// One who looks.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) filter: Filter,
    queue: Mutex<Queue>,
    ready: Notify,
}

impl Client {
    pub(super) fn new(filter: Filter, left: Option<u64>) -> Client {
        let queue = Queue { allowance: MOST_PER_SECOND.into(), left, ..Queue::default() };
        Client { filter, queue: Mutex::new(queue), ready: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Every change leaves it whole.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So much time has passed, and so many lines were not looked at.
    pub(super) fn begin_turn(&self, passed: Duration, unseen: u64) {
        let mut queue = self.lock();
        let rate = f64::from(MOST_PER_SECOND);
        queue.allowance = (queue.allowance + rate * passed.as_secs_f64()).min(rate);
        queue.skipped += unseen;
    }

    /// Whether another line may be shown now.
    pub(super) fn has_room(&self) -> bool {
        let queue = self.lock();
        queue.allowance >= 1.0 && queue.waiting.len() < MOST_WAITING && queue.left != Some(0)
    }

    pub(super) fn put(&self, line: Arc<TailLine>) {
        let mut queue = self.lock();
        queue.allowance -= 1.0;
        queue.left = queue.left.map(|left| left.saturating_sub(1));
        queue.waiting.push_back(TailItem::Line(line));
        self.ready.notify_one();
    }

    pub(super) fn skip(&self, count: u64) {
        self.lock().skipped += count;
    }

    /// Shows how many lines were skipped, if any were.
    pub(super) fn tell_skipped(&self) {
        let mut queue = self.lock();
        if queue.skipped > 0 && queue.waiting.len() < MOST_WAITING && queue.left != Some(0) {
            let skipped = std::mem::take(&mut queue.skipped);
            queue.waiting.push_back(TailItem::Skipped(skipped));
            self.ready.notify_one();
        }
    }

    /// What to show next; `None` inside when all that were asked for were shown.
    fn take(&self) -> Option<Option<TailItem>> {
        let mut queue = self.lock();
        match queue.waiting.pop_front() {
            Some(item) => Some(Some(item)),
            None => (queue.left == Some(0)).then_some(None),
        }
    }
}

/// Looks at lines until it is dropped.
#[derive(Debug)]
pub struct TailReader {
    client: Arc<Client>,
    tail: Tail,
}

impl TailReader {
    pub(super) fn new(client: Arc<Client>, tail: Tail) -> TailReader {
        TailReader { client, tail }
    }

    /// The next to show; `None` when as many were shown as were asked for.
    pub async fn next(&self) -> Option<TailItem> {
        loop {
            if let Some(next) = self.client.take() {
                return next;
            }
            // What was put in between is noted.
            self.client.ready.notified().await;
        }
    }
}

impl Drop for TailReader {
    fn drop(&mut self) {
        self.tail.leave(&self.client);
    }
}
