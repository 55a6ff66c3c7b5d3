//! Panics of a receive worker. One in a line costs that line: it is counted as `internal_error`, and the worker goes on with
//! the next. The catch is around a datagram, or a piece of a stream, so that ordinary lines cost nothing more.
//!
//! The shard is kept, unless the panic came from its tables ([`Shard::is_sound`]): then the worker reads on, so that nobody
//! is left waiting and everything is counted, but every line is an `internal_error`, and the daemon is stopped. It is
//! stopped, too, when a worker fails three times within a minute.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::aggregate::Shard;
use crate::capture::hex;
use crate::protocol::Options;
use crate::supervise::{MOST_FAILURES, Panic, Part, catch};

use super::listener::WorkerCommand;

/// Time between two log lines of failures.
const LOG_EVERY: Duration = Duration::from_secs(1);

/// Bytes of a datagram that are shown in the log.
const SHOWN_BYTES: usize = 64;

/// The failures of a worker.
#[derive(Debug)]
pub(super) struct Failures {
    part: Part,
    /// Kind of listener.
    kind: &'static str,
    /// The shard takes nothing more in.
    is_broken: bool,
    logged_at: Option<Instant>,
    /// Failures since, which were not logged.
    unlogged: u64,
}

impl Failures {
    pub(super) fn new(part: &Part, kind: &'static str) -> Failures {
        Failures { part: part.clone(), kind, is_broken: false, logged_at: None, unlogged: 0 }
    }

    /// Ingests a datagram, or whole lines of a stream.
    #[inline]
    pub(super) fn ingest(
        &mut self,
        shard: &mut Shard,
        bytes: &[u8],
        options: &Options,
        from: Option<SocketAddr>,
        now: f64,
    ) {
        let before = shard.tally().lines.read;
        if self.is_broken {
            return shard.abandon(bytes);
        }
        if let Err(panic) = catch(|| shard.ingest(bytes, options, from, now)) {
            self.ingest_rest(&panic, before, shard, bytes, options, from, now);
        }
    }

    /// Goes on after a panic.
    #[cold]
    #[expect(clippy::too_many_arguments, reason = "what an ingest has, and what became of it")]
    fn ingest_rest(
        &mut self,
        panic: &Panic,
        before: u64,
        shard: &mut Shard,
        bytes: &[u8],
        options: &Options,
        from: Option<SocketAddr>,
        now: f64,
    ) {
        let mut rest = shard.after_panic(bytes, before, options);
        self.note(panic, shard, Some(bytes));
        while !rest.is_empty() {
            if self.is_broken {
                return shard.abandon(rest);
            }
            let before = shard.tally().lines.read;
            let Err(panic) = catch(|| shard.ingest(rest, options, from, now)) else { return };
            rest = shard.after_panic(rest, before, options);
            self.note(&panic, shard, Some(bytes));
        }
    }

    /// Answers a question of the flusher's; one that fails has no answer.
    pub(super) fn run_question(&mut self, question: impl FnOnce(&mut Shard), shard: &mut Shard) {
        if let Err(panic) = catch(|| question(shard)) {
            self.note(&panic, shard, None);
        }
    }

    /// A connection failed outside of its lines: what it had not read is lost, and counts as a line.
    pub(super) fn lose_connection(&mut self, shard: &mut Shard) {
        let lines = &mut shard.tally().lines;
        lines.read += 1;
        lines.internal_error += 1;
        self.note(&Panic::of("a connection"), shard, None);
    }

    /// The worker cannot do what it is there for.
    pub(super) fn give_up(&self, why: &str) {
        self.part.give_up(why);
    }

    /// Notes a panic, and logs it at most once a second.
    fn note(&mut self, panic: &Panic, shard: &Shard, bytes: Option<&[u8]>) {
        let is_too_often = self.part.goes_on(panic);
        let has_room = self.logged_at.is_none_or(|at| at.elapsed() >= LOG_EVERY);
        if has_room {
            self.logged_at = Some(Instant::now());
            // Keys are masked in the whole before it is cut.
            let shown = bytes.map(|bytes| shard.masked(bytes));
            tracing::error!(
                listener = self.kind,
                length = bytes.map_or(0, <[u8]>::len),
                starts_with = shown.map(|bytes| hex::encode(&bytes[..bytes.len().min(SHOWN_BYTES)])),
                not_logged_before = std::mem::take(&mut self.unlogged),
                "a receive worker failed; the line in work is counted as `internal_error`"
            );
        } else {
            self.unlogged += 1;
        }
        if !shard.is_sound() {
            self.is_broken = true;
            self.part.give_up("it failed while it added or removed a series");
        } else if is_too_often {
            self.part.give_up(&format!("it failed {MOST_FAILURES} times within a minute"));
        }
    }

    /// The worker itself failed, outside of any line: the daemon is stopped.
    pub(super) fn fail(&mut self, panic: &Panic, shard: &Shard) {
        self.note(panic, shard, None);
        self.part.give_up("it failed outside of any line");
    }

    /// The same of a worker that cannot go on: it reads nothing more, and answers until the daemon has stopped, so
    /// that the last interval has what it counted.
    pub(super) fn serve_to_the_end(
        &mut self,
        panic: &Panic,
        shard: &mut Shard,
        inbox: &mut mpsc::Receiver<WorkerCommand>,
        mut count_unread: impl FnMut(&mut Shard),
    ) {
        self.fail(panic, shard);
        while let Some(command) = inbox.blocking_recv() {
            match command {
                WorkerCommand::Run(question) => self.run_question(question, shard),
                // It reads nothing more in any case.
                WorkerCommand::Resume | WorkerCommand::Pause(_) | WorkerCommand::Adopt(_) => {}
                WorkerCommand::Stop(done) => {
                    count_unread(shard);
                    let _ = done.send(());
                }
            }
        }
    }
}
