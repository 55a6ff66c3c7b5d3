//! Datagrams: each worker is a thread that reads its socket in batches. Between batches it looks at its commands.
//!
//! When datagrams come fast, waking for each would cost ten times what reading it costs, sender and receiver
//! alike. So a worker that finds its socket empty shortly after it was woken naps instead of waiting, and finds a
//! batch afterwards. Where the buffer is small it does not: a nap must never be what fills it.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use socket2::Socket;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;

use crate::aggregate::Shard;
use crate::fault;
use crate::protocol::Reason;
use crate::senders::Origin;
use crate::sys::{BATCH_DATAGRAMS, Batch, Datagram, unix_time, wait_readable};

use super::failures::Failures;
use super::listener::{Changes, Outlives, ReadDeadline, WorkerChange, WorkerCommand, attend};
use super::queue::Queues;
use super::taps::{Progress, Taps};
use super::{ListenerOptions, Transport, count_bytes};

/// Number of datagrams of an interval for which the sender is always requested.
const DATAGRAMS_WITH_SENDERS: u64 = 10_000;

/// A socket that has data again within this time is under load.
const BUSY_WITHIN: Duration = Duration::from_micros(300);

/// Length of a nap; with the kernel's timer slack it lasts twice as long.
const NAP: Duration = Duration::from_micros(50);

/// Least receive buffer for naps, in bytes.
const NAP_BUFFER_BYTES: u64 = 4 << 20;

/// While a batch of so large a part of the receive buffer is worked off, much may be queued.
const MUCH: u64 = 64;

/// Under load, one of so many wake-ups looks how full the receive buffer is: a look costs about as much as a read that
/// finds nothing. While datagrams are read one by one there is little to see, and the flusher looks, too.
const LOOK_EVERY: u32 = 4;

/// Longest time to drain a socket that outlives this process, which senders keep filling for the next one.
const KEPT_DRAIN: Duration = Duration::from_millis(50);

/// Longest time to count what a deadline left unread; a full buffer takes a tenth of it.
const COUNTING: Duration = Duration::from_millis(200);

/// Errors in a row after which nothing more can be read.
const MAX_ERRORS: u32 = 16;

/// The socket of a worker, and how it is read.
pub(super) struct DatagramSource {
    pub(super) options: ListenerOptions,
    pub(super) socket: Arc<Socket>,
    /// How full the receive buffers of the listener are, and which of them is this one.
    pub(super) queues: Arc<Queues>,
    pub(super) number: usize,
    /// Receive buffer that the kernel granted, bytes.
    pub(super) receive_buffer: u64,
    /// Messages read, by all workers of the listener.
    pub(super) received: Arc<AtomicU64>,
    /// When to stop reading.
    pub(super) deadline: ReadDeadline,
    /// Whether the next process goes on with the socket.
    pub(super) is_kept: Outlives,
    /// What is to be different.
    pub(super) changes: Changes,
}

impl DatagramSource {
    /// Is as was asked for from now on, if something was.
    fn take_change(&mut self, shard: &mut Shard, to: &mut Taps) {
        let Some(WorkerChange { options, taps, .. }) = self.changes.take() else { return };
        if let Some(options) = options {
            // What the sockets are stays.
            self.options = ListenerOptions { transport: self.options.transport, ..*options };
        }
        if let Some(taps) = taps {
            *to = taps;
        }
        attend(shard, &self.options);
    }

    /// Whether the deadline of a stop has passed.
    fn is_over(&self) -> bool {
        self.deadline.get().is_some_and(|deadline| Instant::now() >= deadline)
    }

    fn is_kept(&self) -> bool {
        self.is_kept.load(Ordering::Relaxed)
    }
}

/// The batch of a worker. It outlives a panic of the worker, which then knows what was taken from the kernel and not read.
pub(super) struct Work {
    batch: Batch,
    /// Datagrams of the interval that were counted before the batch; `None` between two batches.
    counted_before: Option<u64>,
    /// Datagrams of the batch that are done.
    done: usize,
}

impl Work {
    pub(super) fn new(source: &DatagramSource) -> Work {
        let batch = Batch::new();
        let is_unix = source.options.transport == Transport::Unixgram;
        let batch = if is_unix { batch.of_unix(&source.socket) } else { batch };
        Work { batch, counted_before: None, done: 0 }
    }

    /// After a panic: the lines of the datagram in work are counted as `internal_error`, the rest of the batch as unread.
    pub(super) fn count_lost(&mut self, shard: &mut Shard) {
        let Some(before) = self.counted_before.take() else { return };
        let mut rest = self.batch.datagrams().skip(self.done);
        if shard.tally().listener.datagrams > before + self.done as u64
            && let Some(in_work) = rest.next()
        {
            shard.abandon(in_work.bytes);
        }
        count_unread(shard, rest);
    }
}

/// Runs until the channel of commands closes. `wake` is readable when there is one.
pub(super) fn run(
    source: &mut DatagramSource,
    work: &mut Work,
    shard: &mut Shard,
    failures: &mut Failures,
    taps: &mut Taps,
    inbox: &mut mpsc::Receiver<WorkerCommand>,
    wake: &UnixStream,
) {
    let socket = Arc::clone(&source.socket);
    let mut stopped = false;
    let mut woken = Instant::now();
    let may_nap = source.receive_buffer >= NAP_BUFFER_BYTES;
    let mut napped = false;
    // Whether to look how full the buffer is: after a wait, a nap or a long piece of work much may be queued.
    let (mut is_due, mut wakes) = (true, 0_u32);
    loop {
        match inbox.try_recv() {
            // One wake may stand for several commands: all are taken before the next wait.
            Ok(WorkerCommand::Run(question)) => {
                failures.run_question(question, shard);
                taps.send_signals(shard);
                source.take_change(shard, taps);
                continue;
            }
            Ok(WorkerCommand::Stop(done)) => {
                drain(source, taps, work, shard, failures);
                stopped = true;
                let _ = done.send(());
                continue;
            }
            // There are no connections.
            Ok(WorkerCommand::Pause(_) | WorkerCommand::Adopt(_)) => continue,
            Ok(WorkerCommand::Resume) => {
                stopped = false;
                continue;
            }
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => return,
        }
        if stopped {
            wait(wake, wake);
            continue;
        }
        if is_due {
            source.queues.look(source.number);
        }
        match read(source, taps, work, shard, failures) {
            Ok(Taken { messages: BATCH_DATAGRAMS, .. }) => (napped, is_due) = (false, true),
            // The next datagrams are cheaper to read as a batch.
            Ok(_) if may_nap && woken.elapsed() < BUSY_WITHIN => {
                (napped, is_due) = (true, true);
                woken = Instant::now();
                std::thread::sleep(NAP);
            }
            Ok(taken) => (napped, is_due) = (false, taken.bytes > source.receive_buffer / MUCH),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let began = Instant::now();
                wait(socket.as_ref(), wake);
                // Woken soon after falling asleep: the socket is under load.
                let is_busy = began.elapsed() < BUSY_WITHIN;
                woken = if is_busy || napped { Instant::now() } else { began };
                wakes = wakes.wrapping_add(1);
                (napped, is_due) = (false, !is_busy || wakes.is_multiple_of(LOOK_EVERY));
            }
            Err(error) => {
                // For instance an ICMP error that a peer provoked: no received datagram is affected.
                tracing::debug!(%error, "receive failed");
            }
        }
    }
}

/// Waits for a datagram or a command. A signal ends the wait early, which does no harm.
fn wait(socket: &impl AsFd, wake: &UnixStream) {
    let _ = wait_readable(socket, wake);
    let mut discarded = [0; 64];
    // If the other end is gone, the channel of commands is closed too.
    while io::Read::read(&mut &*wake, &mut discarded).is_ok_and(|count| count > 0) {}
}

/// What one batch was.
struct Taken {
    messages: usize,
    bytes: u64,
}

/// Reads and ingests one batch.
fn read(
    source: &DatagramSource,
    taps: &Taps,
    work: &mut Work,
    shard: &mut Shard,
    failures: &mut Failures,
) -> io::Result<Taken> {
    let options = &source.options;
    let tail = taps.tail();
    // A sender costs 30 ns a datagram, so it is only requested where it is used: with an allow-list (of the listener or of
    // presence), for the first datagrams of an interval, while presence suspects invented services, from a malformed line on
    // until one has been logged with its sender, for the batches that the sketch of senders looks at, and while somebody looks
    // at lines.
    let with_senders = options.with_senders
        || options.allow.is_restricted()
        || shard.tally().listener.datagrams < DATAGRAMS_WITH_SENDERS
        || shard.lacks_sender_of_example()
        || shard.asks_for_senders()
        || tail.is_some()
        || taps.wants_senders();
    fault::pass("receive");
    let Work { batch, counted_before, done } = work;
    let messages = batch.receive(source.socket.as_ref(), with_senders)?;
    (*counted_before, *done) = (Some(shard.tally().listener.datagrams), 0);
    shard.begin_batch();
    shard.tally().messages += messages as u64;
    let before = shard.tally().listener.bytes;
    source.received.fetch_add(messages as u64, Ordering::Relaxed);
    let now = unix_time();
    let before_tail = tail.map(|tail| (tail, Progress::of(shard)));
    let mut datagrams = batch.datagrams();
    while let Some(datagram) = datagrams.next() {
        // Checked for each datagram, because a batch may hold 4 MiB of lines.
        if source.is_over() {
            count_unread(shard, std::iter::once(datagram).chain(datagrams));
            break;
        }
        shard.tally().listener.datagrams += 1;
        count_bytes(shard.tally(), datagram.bytes.len());
        fault::pass("datagram");
        let from = datagram.from.map(|from| from.ip());
        if !options.allow.permits(from) {
            shard.tally().listener.refused += 1;
            shard.note_refused(from);
            *done += 1;
            continue;
        }
        let mut bytes = datagram.bytes;
        shard.note_sender(bytes, || origin(&datagram));
        if datagram.truncated || bytes.len() > options.max_datagram {
            // The last line is cut and could parse as a different value; only whole lines are used.
            bytes = &bytes[..bytes.len().min(options.max_datagram)];
            shard.tally().listener.truncated += 1;
            let whole = memchr::memrchr(b'\n', bytes).map_or(0, |end| end + 1);
            shard.refuse_fragment(&bytes[whole..], Reason::TooLong, datagram.from);
            bytes = &bytes[..whole];
        }
        taps.copy(now, bytes, datagram.from, options.transport.name());
        failures.ingest(shard, bytes, &options.protocol, datagram.from, now);
        *done += 1;
    }
    *counted_before = None;
    if let Some((tail, progress)) = before_tail {
        let permitted =
            batch.datagrams().take(*done).filter(|one| options.allow.permits(one.from.map(|from| from.ip())));
        let shown = permitted.map(|one| {
            let bytes = &one.bytes[..one.bytes.len().min(options.max_datagram)];
            (bytes, one.from, one.truncated || bytes.len() < one.bytes.len())
        });
        tail.look(progress.batch(shard, now), shown);
    }
    taps.send_signals(shard);
    Ok(Taken { messages, bytes: shard.tally().listener.bytes - before })
}

/// Where a datagram came from.
fn origin(datagram: &Datagram<'_>) -> Origin {
    match (datagram.from, datagram.process) {
        (Some(from), _) => Origin::at(from.ip()),
        (None, Some((pid, uid))) => Origin::Process { pid, uid },
        (None, None) => Origin::Unknown,
    }
}

/// Counts datagrams that a stop leaves unread.
fn count_unread<'a>(shard: &mut Shard, datagrams: impl Iterator<Item = Datagram<'a>>) {
    let tally = shard.tally();
    for datagram in datagrams {
        tally.listener.unread += 1;
        tally.listener.unread_bytes += datagram.bytes.len() as u64;
    }
}

/// Reads until the kernel holds nothing more, or until the deadline; what is left then is counted.
fn drain(source: &DatagramSource, taps: &Taps, work: &mut Work, shard: &mut Shard, failures: &mut Failures) {
    let end = source.is_kept().then(|| Instant::now() + KEPT_DRAIN);
    let mut errors = 0;
    while errors < MAX_ERRORS {
        if source.is_over() {
            return count_rest(source, work, shard);
        }
        if end.is_some_and(|end| Instant::now() >= end) {
            tracing::info!("what the socket still holds is left to the next process");
            return;
        }
        match read(source, taps, work, shard, failures) {
            Ok(_) => errors = 0,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            // It may belong to an earlier send of the previous owner of an inherited socket; the queue is behind it.
            Err(_) => errors += 1,
        }
    }
}

/// Counts what the kernel still holds. What a socket that outlives this process holds is left to the next one.
pub(super) fn count_rest(source: &DatagramSource, work: &mut Work, shard: &mut Shard) {
    let batch = &mut work.batch;
    let end = Instant::now() + COUNTING;
    while !source.is_kept() && Instant::now() < end {
        match batch.receive(source.socket.as_ref(), false) {
            Ok(messages) => {
                shard.tally().messages += messages as u64;
                count_unread(shard, batch.datagrams());
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    let unread = shard.tally().listener.unread;
    if unread > 0 {
        tracing::warn!(unread, "datagrams were still queued at the deadline of the stop; they are lost");
    }
}
