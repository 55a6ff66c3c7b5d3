//! The log: standard error, without waiting for whoever reads it.
//!
//! Lines go into a bounded queue, which a thread of its own writes. Where nobody reads on, or the disk is full, lines are
//! lost: they are counted, and the log says so when there is room again. Of one kind (one place in the code) at most
//! [`LINES_OF_A_KIND`] lines pass in [`WINDOW`]; the rest is counted and summed up in one line. `debug` and `trace` are
//! not limited: whoever asks for them wants them all. Errors have a part of the queue to themselves.
//!
//! Panics go the same way, and so does what is no event, such as the start-up block ([`Log::say`]). Nothing here waits
//! but [`Log::finish`], for a bounded time.

mod limit;
mod queue;

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::sys;
use crate::telemetry::LogAccount;

use limit::Limiter;
use queue::{Queue, Weight};

pub use limit::{LINES_OF_A_KIND, WINDOW};

/// Longest wait at the end for a log that nobody reads.
const PATIENCE: Duration = Duration::from_millis(100);
/// Longest wait at the end for one that takes what it is given, but slowly.
const LONG_PATIENCE: Duration = Duration::from_secs(1);

/// What was not written since the start.
#[derive(Debug, Default)]
struct Counts {
    lost: AtomicU64,
    suppressed: AtomicU64,
}

/// The log of this process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Log(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    queue: Arc<Queue>,
    limiter: Arc<Limiter>,
    counts: Arc<Counts>,
    /// Standard error, to ask whether it takes anything.
    out: OwnedFd,
}

impl Log {
    /// Starts the log of this process, text or JSON, and sends the messages of panics to it. A log that was started
    /// before, in a test say, stays.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start(level: LevelFilter, json: bool) -> io::Result<Log> {
        let counts = Arc::new(Counts::default());
        let queue = Arc::new(Queue::new(Arc::clone(&counts)));
        let limiter = Arc::new(Limiter::new(Arc::clone(&counts)));
        let out = io::stderr().as_fd().try_clone_to_owned()?;
        let file = std::fs::File::from(out.try_clone()?);
        let (mine, its) = (Arc::clone(&queue), Arc::clone(&limiter));
        let write = move || {
            sys::yielding_thread();
            queue::write(&mine, &its, file);
        };
        std::thread::Builder::new().name("log".into()).spawn(write)?;

        // No more of others than warnings; a filter that could do more would take half a megabyte.
        let others = level.min(LevelFilter::WARN);
        let filter = Targets::new().with_default(others).with_target("systole", level);
        let limit = limit::Limit { limiter: Arc::clone(&limiter), queue: Arc::clone(&queue) };
        let log = tracing_subscriber::fmt()
            .with_max_level(level)
            .with_writer(queue::Inlet(Arc::clone(&queue)))
            .log_internal_errors(false)
            .with_target(false);
        let started = if json {
            log.json().flatten_event(true).finish().with(filter).with(limit).try_init()
        } else {
            log.with_ansi(io::stderr().is_terminal()).finish().with(filter).with(limit).try_init()
        };
        if started.is_ok() {
            std::panic::set_hook(Box::new(tell_panic));
        }
        Ok(Log(Arc::new(Shared { queue, limiter, counts, out })))
    }

    /// Writes text that is no event, as it is.
    pub fn say(&self, text: &str) {
        self.0.queue.put(Weight::Error, text.as_bytes());
    }

    /// What was not written since the start.
    pub fn account(&self) -> LogAccount {
        // Counts on their own: nothing else is published through them.
        LogAccount {
            lines_lost: self.0.counts.lost.load(Ordering::Relaxed),
            lines_suppressed: self.0.counts.suppressed.load(Ordering::Relaxed),
        }
    }

    /// Finishes when it is dropped, by a panic too.
    pub fn ending(&self) -> Ending {
        Ending(self.clone())
    }

    /// Waits until everything is written, 100 ms at most if nobody reads.
    pub fn finish(&self) {
        self.0.limiter.tell(None);
        let end = Instant::now() + LONG_PATIENCE;
        // One who reads is only slow, or the machine is: then it is worth waiting longer.
        while !self.0.queue.wait_empty(PATIENCE)
            && sys::wait_writable(&self.0.out, Duration::ZERO)
            && Instant::now() < end
        {}
    }
}

/// See [`Log::ending`].
#[derive(Debug)]
pub struct Ending(Log);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.finish();
    }
}

/// Logs a panic; the default would write to standard error itself, and wait for it.
fn tell_panic(info: &std::panic::PanicHookInfo<'_>) {
    let message = info.payload_as_str().unwrap_or("(no text)");
    let at = info.location().map_or_else(String::new, ToString::to_string);
    let thread = std::thread::current();
    let trace = std::backtrace::Backtrace::capture();
    let trace = (trace.status() == std::backtrace::BacktraceStatus::Captured).then(|| trace.to_string());
    tracing::error!(
        target: "systole::panic",
        thread = thread.name().unwrap_or("?"),
        at,
        backtrace = trace,
        "panicked: {message}"
    );
}
