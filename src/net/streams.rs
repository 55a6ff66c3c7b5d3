//! Streams: TCP and unix sockets. One thread serves all connections of a listener and owns its shard, so that connections
//! share it without a lock. The transport slows down a sender that is too fast.
//!
//! At a stop the connections that the kernel has queued are accepted, and it refuses later ones. Every connection is read for
//! what the kernel has received until then, and on until it is silent for [`QUIET`], at most for [`LINGER`] longer.

use std::cell::RefCell;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::Socket;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{sleep_until, timeout, timeout_at};

use crate::aggregate::Shard;
use crate::fault;
use crate::protocol::Reason;
use crate::sys::{unix_time, unread_bytes};

use super::connection::{Acceptor, Connection, accept_queued};
use super::failures::Failures;
use super::framing::{Chunk, Cutter};
use super::listener::{ReadDeadline, WorkerCommand};
use super::taps::Taps;
use super::{BACKLOG, ListenAddress, ListenerOptions, Transport, count_bytes};

/// While stopping, a connection that is silent for this long has been read to its end: data in flight has arrived.
const QUIET: Duration = Duration::from_millis(30);

/// While stopping, a connection is read for at most this long after what the kernel had received when the stop began.
const LINGER: Duration = Duration::from_millis(150);

/// While stopping, data of a connection that sends a full buffer within [`LINGER`] may have been sent before the stop. The
/// buffers of two kernels hold no more than this (`tcp_rmem`, `tcp_wmem`: 6 and 4 MiB).
const IN_FLIGHT_BYTES: usize = 10 << 20;

/// Bytes read from a connection before the others have their turn.
const READ_BYTES: usize = 64 << 10;

/// Pause after a failed accept, most likely for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A connection beyond `max_connections` waits this long for another to end before it is refused: a client that opens one
/// after the other has only one open, though earlier ones may still have to be read to their ends.
const ROOM_PATIENCE: Duration = Duration::from_millis(50);

/// At a stop, all queued connections together wait at most this long, and at most half of the time that is left.
const QUEUE_PATIENCE: Duration = Duration::from_secs(1);

/// State that all connections of a listener share.
pub(super) struct Shared {
    options: ListenerOptions,
    pub(super) shard: RefCell<Shard>,
    pub(super) failures: RefCell<Failures>,
    taps: Taps,
    /// Buffer that connections read into, in turn.
    scratch: RefCell<Box<[u8]>>,
    /// When to stop reading.
    deadline: ReadDeadline,
}

impl Shared {
    pub(super) fn new(
        options: ListenerOptions,
        shard: Shard,
        failures: Failures,
        taps: Taps,
        deadline: ReadDeadline,
    ) -> Rc<Shared> {
        Rc::new(Shared {
            options,
            shard: RefCell::new(shard),
            failures: RefCell::new(failures),
            taps,
            scratch: RefCell::new(vec![0; READ_BYTES].into_boxed_slice()),
            deadline,
        })
    }

    /// Ingests whole lines.
    fn ingest(&self, shard: &mut Shard, bytes: &[u8], from: Option<SocketAddr>, now: f64) {
        self.failures.borrow_mut().ingest(shard, bytes, &self.options.protocol, from, now);
    }
}

pub(super) async fn run(shared: Rc<Shared>, socket: &Arc<Socket>, inbox: &mut mpsc::Receiver<WorkerCommand>) {
    let listener = match Acceptor::new(socket, shared.options.transport) {
        Ok(listener) => listener,
        Err(error) => {
            let why = format!("its socket cannot be watched: {error}");
            return shared.failures.borrow_mut().give_up(&why);
        }
    };
    let (stopping, stop) = watch::channel(false);
    let mut connections = Connections { shared: Rc::clone(&shared), stop, tasks: JoinSet::new() };
    // A connection that waits for room, and until when.
    let mut waiting: Option<(Accepted, Instant)> = None;
    let tasks = LocalSet::new();
    tasks
        .run_until(async {
            loop {
                if connections.have_room()
                    && let Some((accepted, _)) = waiting.take()
                {
                    connections.admit(accepted);
                }
                let patience = waiting.as_ref().map_or_else(Instant::now, |(_, until)| *until);
                tokio::select! {
                    biased;
                    command = inbox.recv() => match command {
                        Some(WorkerCommand::Run(question)) => {
                            shared.failures.borrow_mut().run_question(question, &mut shared.shard.borrow_mut());
                        }
                        Some(WorkerCommand::Stop(done)) => {
                            let waiting = waiting.take().map(|(accepted, _)| accepted);
                            connections.admit_queued(socket, waiting).await;
                            let _ = stopping.send(true);
                            while connections.end_of_one().await {}
                            let unread = shared.shard.borrow_mut().tally().listener.unread_bytes;
                            if unread > 0 {
                                tracing::warn!(bytes = unread, "connections were still sending at the stop; what they sent last is lost");
                            }
                            let _ = done.send(());
                        }
                        None => return,
                    },
                    true = connections.end_of_one() => {}
                    () = sleep_until(patience.into()), if waiting.is_some() => {
                        waiting = None;
                        connections.refuse();
                    }
                    accepted = listener.accept(), if waiting.is_none() && !*stopping.borrow() => match accepted {
                        Ok(accepted) if !connections.admits(&accepted) => connections.refuse(),
                        Ok(accepted) => waiting = Some((accepted, Instant::now() + ROOM_PATIENCE)),
                        Err(error) => {
                            tracing::warn!(%error, "cannot accept a connection");
                            tokio::time::sleep(ACCEPT_PAUSE).await;
                        }
                    },
                }
            }
        })
        .await;
}

/// A connection, and its peer's address if it has one.
type Accepted = (Connection, Option<SocketAddr>);

/// The connections of a listener.
struct Connections {
    shared: Rc<Shared>,
    stop: watch::Receiver<bool>,
    tasks: JoinSet<()>,
}

impl Connections {
    fn have_room(&self) -> bool {
        self.tasks.len() < self.shared.options.max_connections
    }

    fn admits(&self, (_, from): &Accepted) -> bool {
        self.shared.options.allow.permits(from.map(|from| from.ip()))
    }

    fn admit(&mut self, (stream, from): Accepted) {
        self.shared.shard.borrow_mut().tally().listener.connections += 1;
        self.tasks.spawn_local(serve(Rc::clone(&self.shared), stream, from, self.stop.clone()));
    }

    fn refuse(&self) {
        self.shared.shard.borrow_mut().tally().listener.refused += 1;
    }

    /// Waits for a connection to end; `false` if there is none.
    async fn end_of_one(&mut self) -> bool {
        let ended = self.tasks.join_next().await;
        if let Some(Err(error)) = &ended {
            tracing::error!(%error, "a connection failed; what it had not read is lost");
            self.shared.failures.borrow_mut().lose_connection(&mut self.shared.shard.borrow_mut());
        }
        ended.is_some()
    }

    /// At a stop: accepts the connections that the kernel has queued, which may hold data, and makes it refuse later ones. An
    /// inherited socket goes on queueing connections, for the next process.
    async fn admit_queued(&mut self, socket: &Socket, waiting: Option<Accepted>) {
        let transport = self.shared.options.transport;
        let is_inherited = matches!(self.shared.options.address, ListenAddress::Inherited(_));
        let refuse_later = || {
            if !is_inherited && let Err(error) = socket.shutdown(Shutdown::Both) {
                tracing::warn!(%error, "the kernel goes on accepting connections until the end");
            }
        };
        if transport == Transport::Unix {
            // Unix connections can be accepted afterwards; TCP ones cannot.
            refuse_later();
        }
        // The kernel queues one more than the backlog. Further ones came later.
        let mut queued: Vec<Accepted> = waiting.into_iter().collect();
        while queued.len() <= BACKLOG as usize + 1 {
            match accept_queued(socket, transport) {
                Ok(accepted) => queued.push(accepted),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        if transport != Transport::Unix {
            refuse_later();
        }
        let now = Instant::now();
        let left = self.shared.deadline.get().map(|deadline| deadline.saturating_duration_since(now));
        let limit = now + left.map_or(QUEUE_PATIENCE, |left| QUEUE_PATIENCE.min(left / 2));
        let mut until = Instant::now() + ROOM_PATIENCE;
        for accepted in queued {
            while !self.have_room() && matches!(timeout_at(until.min(limit).into(), self.end_of_one()).await, Ok(true))
            {
                until = Instant::now() + ROOM_PATIENCE;
            }
            if self.admits(&accepted) && self.have_room() {
                self.admit(accepted);
            } else {
                self.refuse();
            }
        }
    }
}

/// The rest of a connection, once a stop has begun.
struct FinalRead {
    /// Bytes that the kernel had received when the stop began and that are not read yet.
    owed: usize,
    /// When reading ends; set when nothing is owed any more.
    limit: Option<Instant>,
    /// Bytes read since `limit` was set.
    read: usize,
    /// Bytes that may still have been sent before the stop.
    in_flight: usize,
}

impl FinalRead {
    /// Accounts for bytes that were read.
    fn note(&mut self, count: usize) {
        self.owed = self.owed.saturating_sub(count);
        self.in_flight = self.in_flight.saturating_sub(count);
        self.read += count;
    }

    /// Whether everything that was sent before the stop has been read.
    fn is_due(&mut self, now: Instant) -> bool {
        if self.owed > 0 || now < *self.limit.get_or_insert(now + LINGER) {
            return false;
        }
        if self.in_flight == 0 || self.read < READ_BYTES {
            return true;
        }
        (self.read, self.limit) = (0, Some(now + LINGER));
        false
    }
}

/// Reads a connection to its end.
async fn serve(shared: Rc<Shared>, stream: Connection, from: Option<SocketAddr>, mut stop: watch::Receiver<bool>) {
    let options = &shared.options;
    let mut cutter = Cutter::new(options.framing, options.protocol.binary, options.max_datagram);
    let mut ended = false;
    let mut final_read: Option<FinalRead> = None;
    loop {
        if final_read.is_none() && *stop.borrow_and_update() {
            stream.shut_down_sending();
            final_read =
                Some(FinalRead { owed: unread_bytes(&stream), limit: None, read: 0, in_flight: IN_FLIGHT_BYTES });
        }
        let patience = match &mut final_read {
            Some(final_read) => {
                let now = Instant::now();
                let is_over = shared.deadline.get().is_some_and(|deadline| now >= *deadline);
                if is_over || final_read.is_due(now) {
                    shared.shard.borrow_mut().tally().listener.unread_bytes += unread_bytes(&stream) as u64;
                    break;
                }
                QUIET
            }
            None => options.idle_timeout,
        };
        let ready = tokio::select! {
            ready = timeout(patience, stream.readable()) => ready,
            _ = stop.changed(), if final_read.is_none() => continue,
        };
        if !matches!(ready, Ok(Ok(()))) {
            break;
        }
        fault::pass("connection");
        let read = stream.try_read(&mut shared.scratch.borrow_mut());
        match read {
            Ok(0) => {
                ended = true;
                break;
            }
            Ok(count) => {
                if let Some(final_read) = &mut final_read {
                    final_read.note(count);
                }
                if !ingest(&shared, &mut cutter, count, from) {
                    // The next frame cannot be found, or no line follows.
                    return;
                }
                if count == READ_BYTES {
                    // The socket of a fast sender may stay readable for ever: other connections, flushes and a stop get
                    // their turns in between.
                    tokio::task::yield_now().await;
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => break,
        }
    }
    let Some(rest) = cutter.rest() else { return };
    let mut shard = shared.shard.borrow_mut();
    match rest {
        Chunk::Lines(rest) if ended => {
            // `printf 'x:1|c' | nc` ends without a newline, and that is a whole line.
            shard.tally().chunks += 1;
            let now = unix_time();
            shared.taps.copy(now, &rest, from, options.transport.name());
            shared.ingest(&mut shard, &rest, from, now);
            shared.taps.send_signals(&mut shard);
        }
        Chunk::Http(rest) => shard.refuse_fragment(&rest, Reason::HttpRequest, from),
        Chunk::Lines(rest) | Chunk::Frame(rest) | Chunk::TooLong(rest) | Chunk::Broken(rest) => {
            shard.refuse_fragment(&rest, Reason::BadFrame, from);
        }
    }
}

/// Ingests the first `count` bytes of the scratch buffer; `false` if the rest of the connection cannot be read.
fn ingest(shared: &Shared, cutter: &mut Cutter, count: usize, from: Option<SocketAddr>) -> bool {
    cutter.extend(&shared.scratch.borrow()[..count]);
    let mut shard = shared.shard.borrow_mut();
    shard.begin_batch();
    count_bytes(shard.tally(), count);
    let now = unix_time();
    let (mut chunks, mut is_good) = (0, true);
    while let Some(chunk) = cutter.take() {
        match chunk {
            Chunk::Lines(bytes) => {
                chunks = 1;
                shared.taps.copy(now, &bytes, from, shared.options.transport.name());
                shared.ingest(&mut shard, &bytes, from, now);
            }
            Chunk::Frame(bytes) => {
                chunks += 1;
                shared.taps.copy(now, &bytes, from, shared.options.transport.name());
                shared.ingest(&mut shard, &bytes, from, now);
            }
            Chunk::TooLong(start) => shard.refuse_fragment(&start, Reason::TooLong, from),
            Chunk::Broken(bytes) => {
                shard.refuse_fragment(&bytes, Reason::BadFrame, from);
                is_good = false;
                break;
            }
            Chunk::Http(line) => {
                shard.refuse_fragment(&line, Reason::HttpRequest, from);
                is_good = false;
                break;
            }
        }
    }
    shared.taps.send_signals(&mut shard);
    shard.tally().chunks += chunks;
    cutter.shrink();
    is_good
}
