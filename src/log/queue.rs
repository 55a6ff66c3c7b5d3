//! The queue of lines, and the thread that writes them.

use std::io::{self, Write};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

use crate::supervise::Part;

use super::Counts;
use super::limit::Limiter;

/// Bytes of queued lines. As many again may be in the batch being written.
const QUEUE_BYTES: usize = 64 << 10;
/// The part of these that only errors may use.
const ERROR_BYTES: usize = 16 << 10;
/// Bytes beyond these that only the report of lost lines may use.
const REPORT_BYTES: usize = 1 << 10;
/// Pause before a non-blocking descriptor that is full is tried again.
const PAUSE: Duration = Duration::from_millis(20);

/// How much of the queue a line may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weight {
    Ordinary,
    Error,
    /// The report of lost lines; there is one at a time.
    Report,
}

impl Weight {
    fn most(self) -> usize {
        match self {
            Weight::Ordinary => QUEUE_BYTES - ERROR_BYTES,
            Weight::Error => QUEUE_BYTES,
            Weight::Report => QUEUE_BYTES + REPORT_BYTES,
        }
    }
}

#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<u8>,
    /// Whether a batch is being written.
    is_writing: bool,
    /// Whether the thread has to check the limiter.
    is_woken: bool,
}

fn lines(text: &[u8]) -> u64 {
    text.iter().filter(|&&byte| byte == b'\n').count() as u64
}

impl Queue {
    pub(super) fn new(counts: Arc<Counts>) -> Queue {
        Queue { state: Mutex::default(), changed: Condvar::new(), counts }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every update leaves the state consistent, so a poisoned lock is harmless.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues whole lines; they are lost, and counted, if there is no room.
    pub(super) fn put(&self, weight: Weight, text: &[u8]) {
        let mut state = self.state();
        if state.waiting.len() + text.len() > weight.most() {
            self.counts.lost.fetch_add(lines(text), Ordering::Relaxed);
            return;
        }
        state.waiting.extend_from_slice(text);
        drop(state);
        self.changed.notify_all();
    }

    /// Makes the thread check the limiter.
    pub(super) fn wake(&self) {
        self.state().is_woken = true;
        self.changed.notify_all();
    }

    /// Waits until everything is written; `false` if it takes longer than `patience`.
    pub(super) fn wait_empty(&self, patience: Duration) -> bool {
        let is_busy = |state: &mut State| state.is_writing || !state.waiting.is_empty();
        let waited = self.changed.wait_timeout_while(self.state(), patience, is_busy);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Moves the queued lines into `batch`, which is empty; nothing if the limiter has to be checked, or at `due`.
    fn take(&self, batch: &mut Vec<u8>, due: Option<Instant>) {
        let mut state = self.state();
        state.is_writing = false;
        self.changed.notify_all();
        while state.waiting.is_empty() && !state.is_woken {
            state = match due.map(|due| due.saturating_duration_since(Instant::now())) {
                Some(Duration::ZERO) => break,
                Some(pause) => self.changed.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner).0,
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
        state.is_woken = false;
        std::mem::swap(&mut state.waiting, batch);
        state.is_writing = !batch.is_empty();
    }
}

/// Writes queued lines, for ever.
pub(super) fn write(queue: &Queue, limiter: &Limiter, out: impl Write, part: &Part) {
    let mut out = Out { out, is_mid_line: false };
    let mut batch = Vec::new();
    let mut told = 0;
    part.keep(|| {
        // Left by a panic.
        queue.counts.lost.fetch_add(lines(&batch), Ordering::Relaxed);
        batch.clear();
        write_on(queue, limiter, &mut out, &mut batch, &mut told, part);
    });
}

fn write_on(
    queue: &Queue,
    limiter: &Limiter,
    out: &mut Out<impl Write>,
    batch: &mut Vec<u8>,
    told: &mut u64,
    part: &Part,
) {
    loop {
        limiter.report(Some(Instant::now()));
        queue.take(batch, limiter.due());
        part.alive();
        match out.write(batch) {
            Ok(()) => {
                let lost = queue.counts.lost.load(Ordering::Relaxed);
                if lost > *told && !batch.is_empty() {
                    tracing::warn!(target: REPORT, lines = lost - *told, "log lines were lost: nobody read them in time");
                    *told = lost;
                }
            }
            Err(unwritten) => {
                queue.counts.lost.fetch_add(unwritten, Ordering::Relaxed);
            }
        }
        batch.clear();
    }
}

/// The target of the report of lost lines.
const REPORT: &str = "systole::log::report";

struct Out<W> {
    out: W,
    /// Whether a failure left a partial line.
    is_mid_line: bool,
}

impl<W: Write> Out<W> {
    /// Writes lines whole.
    ///
    /// # Errors
    /// The number of lines that could not be written.
    fn write(&mut self, batch: &[u8]) -> Result<(), u64> {
        if batch.is_empty() {
            return Ok(());
        }
        if self.is_mid_line {
            self.write_all(b"\n").map_err(|_| lines(batch))?;
        }
        self.write_all(batch).map_err(|rest| lines(&batch[batch.len() - rest..]))
    }

    /// Fails with the number of bytes that are left.
    fn write_all(&mut self, mut rest: &[u8]) -> Result<(), usize> {
        while !rest.is_empty() {
            match self.out.write(rest) {
                Ok(0) => return Err(rest.len()),
                Ok(written) => {
                    self.is_mid_line = rest[written - 1] != b'\n';
                    rest = &rest[written..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(PAUSE),
                Err(_) => return Err(rest.len()),
            }
        }
        Ok(())
    }
}

/// The subscriber's writer.
pub(super) struct LogWriter(pub(super) Arc<Queue>);

/// The writer of one event.
pub(super) struct LineWriter<'a>(&'a Queue, Weight);

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = LineWriter<'a>;

    fn make_writer(&'a self) -> LineWriter<'a> {
        LineWriter(&self.0, Weight::Ordinary)
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> LineWriter<'a> {
        let weight = match (metadata.target(), *metadata.level()) {
            (REPORT, _) => Weight::Report,
            (_, Level::ERROR) => Weight::Error,
            _ => Weight::Ordinary,
        };
        LineWriter(&self.0, weight)
    }
}

impl Write for LineWriter<'_> {
    /// The subscriber writes an event in one call.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        self.0.put(self.1, event);
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::log::disk::Disk;

    use super::*;

    fn queue() -> (Queue, Arc<Counts>) {
        let counts = Arc::new(Counts::default());
        (Queue::new(Arc::clone(&counts)), counts)
    }

    #[test]
    fn what_does_not_fit_is_counted_and_errors_have_room_of_their_own() {
        let (queue, counts) = queue();
        let line = [&[b'x'; 99][..], b"\n"].concat();
        for _ in 0..1000 {
            queue.put(Weight::Ordinary, &line);
        }
        let fitted = ((QUEUE_BYTES - ERROR_BYTES) / 100) as u64;
        assert_eq!(counts.lost.load(Ordering::Relaxed), 1000 - fitted);
        queue.put(Weight::Error, b"an error\nin two lines\n");
        assert_eq!(counts.lost.load(Ordering::Relaxed), 1000 - fitted);
        for _ in 0..1000 {
            queue.put(Weight::Error, &line);
        }
        queue.put(Weight::Report, b"so many were lost\n");
        assert!(!queue.wait_empty(Duration::ZERO));
        let mut batch = Vec::new();
        queue.take(&mut batch, None);
        assert_eq!(lines(&batch) + counts.lost.load(Ordering::Relaxed), 2003);
        assert!(batch.len() <= QUEUE_BYTES + REPORT_BYTES && batch.ends_with(b"so many were lost\n"));
        assert!(!queue.wait_empty(Duration::ZERO), "it is on its way");
    }

    #[test]
    fn a_line_after_half_a_line_begins_on_its_own() {
        let mut disk = Disk { room: 10, ..Disk::default() };
        let mut out = Out { out: &mut disk, is_mid_line: false };
        assert_eq!(out.write(b"first\nsecond\nthird\n"), Err(2));
        assert_eq!(out.write(b"fourth\n"), Err(1));
        out.out.room = 100;
        assert_eq!(out.write(b"fifth\n"), Ok(()));
        assert_eq!(out.write(b"sixth\n"), Ok(()));
        assert_eq!(disk.bytes, b"first\nseco\nfifth\nsixth\n");
    }
}
