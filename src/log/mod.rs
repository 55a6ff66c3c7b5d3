//! The log: standard error, without waiting for its reader.
//!
//! Lines go into a bounded queue, which a thread writes. When nobody reads, or the disk is full, lines are lost: they are
//! counted, and the log reports the number when there is room again. At most [`LINES_OF_A_KIND`] lines of one kind (one
//! call site) pass in [`WINDOW`]; the rest is counted and summed up in one line. `debug` and `trace` are not limited:
//! whoever asks for them wants them all. A part of the queue is reserved for errors.
//!
//! Panics take the same way, and so does text that is not an event, such as the start-up block ([`Log::say`]). Nothing
//! here waits except [`Log::finish`], for a bounded time.

#[cfg(test)]
pub(crate) mod disk;
mod limit;
mod queue;

use std::fmt;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

use crate::supervise::Part;
use crate::sys;
use crate::telemetry::LogAccount;

use limit::Limiter;
use queue::{Queue, Weight};

pub use limit::{LINES_OF_A_KIND, WINDOW};

/// Longest wait at a stop for a log that nobody reads.
const PATIENCE: Duration = Duration::from_millis(100);
/// Longest wait at a stop for a log whose reader is slow.
const LONG_PATIENCE: Duration = Duration::from_secs(1);

/// Lines that were not written since the start.
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
    part: Part,
    /// Standard error, to check whether it accepts data.
    out: OwnedFd,
    set_level: SetLevel,
}

/// Changes what is logged.
struct SetLevel(Box<dyn Fn(LevelFilter) + Send + Sync>);

impl fmt::Debug for SetLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SetLevel")
    }
}

/// What is logged at a level.
fn filter(level: LevelFilter) -> Targets {
    // Other crates log warnings at most; a more capable filter takes half a megabyte.
    let others = level.min(LevelFilter::WARN);
    Targets::new().with_default(others).with_target("systole", level)
}

impl Log {
    /// Starts the log of this process, as text or JSON, and redirects panic messages to it. A log that was started before,
    /// in a test for example, stays.
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
        let part = Part::new("log");
        part.thread("log", move |part| {
            sys::yielding_thread();
            queue::write(&mine, &its, file, part);
        })?;

        let limit = limit::Limit { limiter: Arc::clone(&limiter), queue: Arc::clone(&queue) };
        let log = tracing_subscriber::fmt()
            .with_max_level(LevelFilter::TRACE)
            .with_writer(queue::LogWriter(Arc::clone(&queue)))
            .log_internal_errors(false)
            .with_target(false);
        // Both are types of their own.
        macro_rules! install {
            ($log:expr) => {{
                let (filter, handle) = reload::Layer::new(filter(level));
                // It fails when the log of the process is another one.
                let set_level = move |level| drop(handle.reload(self::filter(level)));
                ($log.with(filter).with(limit).try_init(), SetLevel(Box::new(set_level)))
            }};
        }
        let (started, set_level) = if json {
            install!(log.json().flatten_event(true).finish())
        } else {
            install!(log.with_ansi(io::stderr().is_terminal()).finish())
        };
        if started.is_ok() {
            std::panic::set_hook(Box::new(tell_panic));
        }
        Ok(Log(Arc::new(Shared { queue, limiter, counts, part, out, set_level })))
    }

    /// Logs what is of this level or above from now on.
    pub fn set_level(&self, level: LevelFilter) {
        (self.0.set_level.0)(level);
    }

    /// Writes text that is not an event, verbatim.
    pub fn say(&self, text: &str) {
        self.0.queue.put(Weight::Error, text.as_bytes());
    }

    /// Its thread, to be watched with the other parts of a daemon.
    pub fn part(&self) -> &Part {
        &self.0.part
    }

    /// What was not written since the start.
    pub fn account(&self) -> LogAccount {
        // Independent counters: nothing else is published through them.
        LogAccount {
            lines_lost: self.0.counts.lost.load(Ordering::Relaxed),
            lines_suppressed: self.0.counts.suppressed.load(Ordering::Relaxed),
        }
    }

    /// A guard that finishes the log when it is dropped, by a panic too.
    pub fn ending(&self) -> Ending {
        Ending(self.clone())
    }

    /// Waits until everything is written, at most 100 ms if nobody reads.
    pub fn finish(&self) {
        self.0.limiter.report(None);
        let end = Instant::now() + LONG_PATIENCE;
        // The reader, or the machine, is only slow: wait longer.
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

/// Logs a panic; the default hook writes to standard error itself, and waits for it.
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
