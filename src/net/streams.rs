//! Streams: TCP and unix sockets. One thread serves all connections of a listener and owns its shard, so that connections
//! share it without a lock. The transport slows down a sender that is too fast.
//!
//! When there is no slot for a new connection, another gives way ([`super::slots`]). It is read for what the kernel has of it,
//! so that no whole line is lost, and so is one that sends no whole line for `idle_timeout`.
//!
//! While another process is about to go on, connections are paused: nothing is read of them, and each is ready to be passed on
//! with what it has sent of an unfinished line. Those that are passed on are closed here, which their clients do not see.
//!
//! At a stop the connections that the kernel has queued are accepted, and it refuses later ones. Every connection is read for
//! what the kernel has received until then, and on until it is silent for [`QUIET`], at most for [`LINGER`] longer.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use socket2::Socket;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{sleep_until, timeout, timeout_at};

use crate::aggregate::Shard;
use crate::fault;
use crate::ports::refusal;
use crate::protocol::Reason;
use crate::senders::Origin;
use crate::supervise::caught;
use crate::sys::{Descriptors, unix_time, unread_bytes};
use crate::telemetry::{Refusal, Tally};

use super::connection::{Acceptor, Connection, OpenConnection, Way, accept_queued, is_temporary};
use super::failures::Failures;
use super::framing::{Begun, Chunk, Cutter};
use super::listener::{Changes, Outlives, ReadDeadline, WorkerChange, WorkerCommand, attend};
use super::slots::{HeldSlot, Slots, YOUNG};
use super::taps::{Progress, Taps};
use super::{BACKLOG, ListenerOptions, Transport, count_bytes};

/// While stopping, a connection that is silent for this long has been read to its end: data in flight has arrived.
const QUIET: Duration = Duration::from_millis(30);

/// While stopping, a connection is read for at most this long after what the kernel had received when the stop began.
const LINGER: Duration = Duration::from_millis(150);

/// While stopping, data of a connection that sends a full buffer within [`LINGER`] may have been sent before the stop. The
/// buffers of two kernels hold no more than this (`tcp_rmem`, `tcp_wmem`: 6 and 4 MiB).
const IN_FLIGHT_BYTES: usize = 10 << 20;

/// Bytes read from a connection before the others have their turn.
const READ_BYTES: usize = 64 << 10;

/// A connection that gives way is read for what the kernel has, and for so much more at most, if it sends as fast as that.
const PARTING_BYTES: usize = 1 << 20;

/// Pause after a failed accept, most likely for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Longest handshake of TLS.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A connection without a slot waits this long for another to end before it is refused, if none gives way: a client that
/// opens one after the other has only one open, though earlier ones may still have to be read to their ends.
const ROOM_PATIENCE: Duration = Duration::from_millis(50);

/// It waits this long while one gives way, which needs nothing of its client, but turns of a thread that others keep busy.
const LEAVE_PATIENCE: Duration = Duration::from_secs(2);

/// At a stop, all queued connections together wait at most this long, and at most half of the time that is left.
const QUEUE_PATIENCE: Duration = Duration::from_secs(1);

/// What connections are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Read.
    Read,
    /// Wait: another process may go on.
    Pause,
    /// Read what is there, and end.
    End,
}

/// A connection that waits, until it is passed on.
type Passable = Rc<Cell<Option<OpenConnection>>>;

/// State that all connections of a listener share.
pub(super) struct Shared {
    /// Names the listener in the log.
    url: Arc<str>,
    options: RefCell<Rc<ListenerOptions>>,
    pub(super) shard: RefCell<Shard>,
    pub(super) failures: RefCell<Failures>,
    taps: RefCell<Rc<Taps>>,
    /// What is to be different.
    changes: Changes,
    /// Buffer that connections read into, in turn.
    scratch: RefCell<Box<[u8]>>,
    /// When to stop reading.
    deadline: ReadDeadline,
    /// Whether the next process goes on with the socket that accepts.
    is_kept: Outlives,
    /// How many connections do not wait, and who is told that one does.
    busy: Cell<usize>,
    has_paused: Notify,
    /// Those that wait, and whether somebody has taken them.
    passable: RefCell<Vec<Passable>>,
    is_passed_on: Cell<bool>,
}

/// Waits until a pause is over; whether that is the end.
async fn over(phase: &mut watch::Receiver<Phase>) -> bool {
    // If nobody can end the pause any more, that is the end as well, but nobody has anything.
    phase.wait_for(|phase| *phase != Phase::Pause).await.is_ok_and(|phase| *phase == Phase::End)
}

/// Counts a connection among those that do not wait.
struct Busy<'a>(&'a Shared);

impl<'a> Busy<'a> {
    fn new(shared: &'a Shared) -> Busy<'a> {
        shared.busy.set(shared.busy.get() + 1);
        Busy(shared)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.busy.set(self.0.busy.get() - 1);
        self.0.has_paused.notify_one();
    }
}

impl Shared {
    pub(super) fn new(
        url: Arc<str>,
        options: ListenerOptions,
        shard: Shard,
        failures: Failures,
        (taps, changes): (Taps, Changes),
        (deadline, is_kept): (ReadDeadline, Outlives),
    ) -> Rc<Shared> {
        Rc::new(Shared {
            url,
            options: RefCell::new(Rc::new(options)),
            shard: RefCell::new(shard),
            failures: RefCell::new(failures),
            taps: RefCell::new(Rc::new(taps)),
            changes,
            scratch: RefCell::new(vec![0; READ_BYTES].into_boxed_slice()),
            deadline,
            is_kept,
            busy: Cell::new(0),
            has_paused: Notify::new(),
            passable: RefCell::default(),
            is_passed_on: Cell::new(false),
        })
    }

    /// Waits until the pause is over; the connection, unless another process reads it from then on.
    async fn pause(&self, stream: Connection, begun: Begun, phase: &mut watch::Receiver<Phase>) -> Option<Connection> {
        if !stream.is_passable(&begun) {
            over(phase).await;
            return Some(stream);
        }
        let wait = async {
            let open = stream.into_open(begun)?;
            let own = open.socket_alone();
            let passable = Passable::new(Cell::new(Some(open)));
            self.passable.borrow_mut().push(Rc::clone(&passable));
            let is_end = over(phase).await;
            if passable.take().is_none() && is_end && self.is_passed_on.get() {
                return Ok(None);
            }
            own.open(self.options().transport).map(|(stream, ..)| Some(stream))
        };
        match wait.await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::error!(%error, "a connection cannot be read on after a pause: it is closed");
                self.refuse(Refusal::Full);
                None
            }
        }
    }

    /// Waits until all connections wait, and takes those that can be passed on.
    async fn all_paused(&self) -> Vec<OpenConnection> {
        while self.busy.get() > 0 {
            self.has_paused.notified().await;
        }
        self.passable.borrow().iter().filter_map(|passable| passable.take()).collect()
    }

    /// How connections are read.
    fn options(&self) -> Rc<ListenerOptions> {
        Rc::clone(&self.options.borrow())
    }

    /// Where lines are passed on.
    fn taps(&self) -> Rc<Taps> {
        Rc::clone(&self.taps.borrow())
    }

    /// Is as was asked for from now on, if something was.
    fn take_change(&self, shard: &mut Shard, slots: &Slots) {
        let Some(WorkerChange { options, taps, .. }) = self.changes.take() else { return };
        if let Some(options) = options {
            // What the socket is stays.
            let options = ListenerOptions { transport: self.options().transport, ..*options };
            slots.set_limits(options.max_connections, options.max_connections_per_address);
            self.options.replace(Rc::new(options));
        }
        if let Some(taps) = taps {
            self.taps.replace(Rc::new(taps));
        }
        attend(shard, &self.options());
    }

    /// Ingests whole lines.
    fn ingest(&self, shard: &mut Shard, bytes: &[u8], peer: Peer, now: f64) {
        let (options, taps) = (self.options(), self.taps());
        taps.copy(now, bytes, peer.from, options.transport.name());
        shard.note_sender(bytes, || peer.origin);
        let before = taps.tail().map(|tail| (tail, Progress::of(shard)));
        self.failures.borrow_mut().ingest(shard, bytes, &options.protocol, peer.from, now);
        if let Some((tail, progress)) = before {
            tail.look(progress.batch(shard, now), std::iter::once((bytes, peer.from, false)));
        }
    }

    /// Counts an incomplete line.
    fn refuse_fragment(&self, shard: &mut Shard, line: &[u8], reason: Reason, peer: Peer) {
        shard.note_sender(line, || peer.origin);
        shard.refuse_fragment(line, reason, peer.from);
        if let Some(tail) = self.taps().tail() {
            tail.look_at_fragment(unix_time(), line, peer.from, reason);
        }
    }

    /// Counts a connection that is refused, or closed before its client closed it.
    fn refuse(&self, why: Refusal) {
        let mut shard = self.shard.borrow_mut();
        let listener = &mut shard.tally().listener;
        // A client that had nothing to say for long is not refused anything.
        listener.refused += u64::from(why != Refusal::Timeout);
        listener.connections_refused.count(why, 1);
    }

    /// Counts what nobody will read of a connection.
    fn count_unread(&self, stream: &Connection) {
        self.shard.borrow_mut().tally().listener.unread_bytes += stream.unread() as u64;
    }

    /// Bytes that were left unread in the open interval.
    fn unread_so_far(&self) -> u64 {
        self.shard.borrow_mut().tally().listener.unread_bytes
    }

    /// Begins to end a connection if it is time: at a stop, when it has to give way, or when it was idle for too long.
    fn last_reading(
        &self,
        stream: &mut Connection,
        slot: &HeldSlot,
        is_idle: bool,
        is_stop: bool,
    ) -> Option<FinalRead> {
        let why = slot.asked().or(is_idle.then_some(Refusal::Timeout));
        if !is_stop && why.is_none() {
            return None;
        }
        stream.shut_down_sending();
        Some(match why {
            Some(why) if !is_stop => FinalRead::at_once(stream, why),
            Some(_) | None => FinalRead::at_stop(stream),
        })
    }
}

/// Runs until the channel of commands closes.
pub(super) async fn run(shared: Rc<Shared>, socket: &Arc<Socket>, inbox: &mut mpsc::Receiver<WorkerCommand>) {
    let listener = match Acceptor::new(socket, shared.options().transport) {
        Ok(listener) => listener,
        Err(error) => {
            let why = format!("its socket cannot be watched: {error}");
            return shared.failures.borrow_mut().give_up(&why);
        }
    };
    let (phase, its_phase) = watch::channel(Phase::Read);
    let slots = {
        let options = shared.options();
        let memory = shared.shard.borrow().memory().clone();
        Slots::new(options.max_connections, options.max_connections_per_address, Descriptors::for_port(), &memory)
    };
    let connections = Connections { shared: Rc::clone(&shared), slots, phase: its_phase, tasks: JoinSet::new() };
    let mut worker =
        Worker { shared: Rc::clone(&shared), listener, socket, phase, connections, waiting: None, has_failed: false };
    let tasks = LocalSet::new();
    tasks
        .run_until(async {
            while let Err(panic) = caught(worker.attend(inbox)).await {
                // Connections are served to their ends, so that what was sent is read and counted.
                shared.failures.borrow_mut().fail(&panic, &shared.shard.borrow());
                assert!(!std::mem::replace(&mut worker.has_failed, true), "it failed again");
            }
        })
        .await;
}

/// What the worker of a listener has.
struct Worker<'a> {
    shared: Rc<Shared>,
    listener: Acceptor,
    socket: &'a Socket,
    phase: watch::Sender<Phase>,
    connections: Connections,
    /// A connection that waits for a slot, and since when.
    waiting: Option<(Accepted, Instant)>,
    /// It failed outside of any connection: none is accepted any more until the stop.
    has_failed: bool,
}

impl Worker<'_> {
    /// Accepts connections, and does what the flusher asks for, until nobody can ask any more.
    async fn attend(&mut self, inbox: &mut mpsc::Receiver<WorkerCommand>) {
        let Worker { shared, listener, socket, phase, connections, waiting, has_failed } = self;
        loop {
            if let Some((accepted, since)) = waiting.take() {
                *waiting = connections.place(accepted).err().map(|(accepted, _)| (accepted, since));
            }
            // A connection that must stay for now may give way a moment later.
            let again = Instant::now() + YOUNG;
            let room = if connections.slots.is_one_leaving() { LEAVE_PATIENCE } else { ROOM_PATIENCE };
            let patience = waiting.as_ref().map_or(again, |(_, since)| again.min(*since + room));
            tokio::select! {
                biased;
                command = inbox.recv() => match command {
                    Some(WorkerCommand::Run(question)) => {
                        let mut shard = shared.shard.borrow_mut();
                        shared.failures.borrow_mut().run_question(question, &mut shard);
                        shared.taps().send_signals(&mut shard);
                        shared.take_change(&mut shard, &connections.slots);
                    }
                    Some(WorkerCommand::Stop(done)) => {
                        let waiting = waiting.take().map(|(accepted, _)| accepted);
                        let before = shared.unread_so_far();
                        // After a pause another process accepts those.
                        if *phase.borrow() == Phase::Read {
                            connections.admit_queued(socket, waiting).await;
                        }
                        phase.send_replace(Phase::End);
                        while connections.end_of_one().await {}
                        let unread = shared.unread_so_far().saturating_sub(before);
                        if unread > 0 {
                            tracing::warn!(bytes = unread, "connections were still sending at the stop; what they sent last is lost");
                        }
                        let _ = done.send(());
                    }
                    Some(WorkerCommand::Pause(paused)) => {
                        // It has no slot yet, and has a moment to get one.
                        if let Some((accepted, _)) = waiting.take()
                            && let Err((_, why)) = connections.place(accepted)
                        {
                            shared.refuse(why);
                        }
                        phase.send_replace(Phase::Pause);
                        let patience = shared.deadline.get().unwrap_or_else(Instant::now);
                        let open = timeout_at(patience.into(), shared.all_paused()).await.unwrap_or_default();
                        shared.is_passed_on.set(paused.send(open).is_ok());
                    }
                    Some(WorkerCommand::Resume) => {
                        shared.passable.borrow_mut().clear();
                        shared.is_passed_on.set(false);
                        phase.send_replace(Phase::Read);
                    }
                    Some(WorkerCommand::Adopt(open)) => open.into_iter().for_each(|open| connections.adopt(open)),
                    None => return,
                },
                true = connections.end_of_one() => {}
                () = sleep_until(patience.into()), if waiting.is_some() => {
                    if let Some((accepted, _)) = waiting.take_if(|(_, since)| Instant::now() >= *since + room) {
                        // If this thread was held up, those that are about to end have had no turn yet.
                        tokio::task::yield_now().await;
                        if let Err((_, why)) = connections.place(accepted) {
                            shared.refuse(why);
                        }
                    }
                }
                accepted = listener.accept(), if waiting.is_none() && !*has_failed && *phase.borrow() == Phase::Read => match accepted {
                    Ok(accepted) if !connections.admits(&accepted) => shared.refuse(Refusal::NotAllowed),
                    Ok(accepted) => {
                        *waiting = Some((accepted, Instant::now()));
                        fault::pass("accept");
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }
}

/// A connection, and its peer's address if it has one.
type Accepted = (Connection, Option<SocketAddr>);

/// The connections of a listener.
struct Connections {
    shared: Rc<Shared>,
    slots: Slots,
    phase: watch::Receiver<Phase>,
    tasks: JoinSet<()>,
}

impl Connections {
    fn admits(&self, (_, from): &Accepted) -> bool {
        let from = from.map(|from| from.ip());
        let permits = self.shared.options().allow.permits(from);
        if !permits {
            self.shared.shard.borrow_mut().note_refused(from);
        }
        permits
    }

    /// Serves a connection if there is a slot for it. If there is none, it comes back with the reason, and another one is
    /// asked to give way.
    fn place(&mut self, accepted: Accepted) -> Result<(), (Accepted, Refusal)> {
        let (from, now) = (accepted.1.map(|from| from.ip()), Instant::now());
        match self.slots.take(from, now) {
            Ok(slot) => {
                self.shared.shard.borrow_mut().tally().listener.connections += 1;
                self.admit(accepted, slot, Begun::default());
                Ok(())
            }
            Err(why) => {
                self.slots.make_room(why, from, now);
                Err((accepted, why))
            }
        }
    }

    /// Reads on with a connection that another process has accepted, and counted.
    fn adopt(&mut self, open: OpenConnection) {
        let options = self.shared.options();
        if options.tls.is_some() {
            // It has none.
            return self.shared.refuse(Refusal::Tls);
        }
        let (stream, from, begun) = match open.open(options.transport) {
            Ok(opened) => opened,
            Err(error) => return tracing::warn!(%error, "a connection of the process before this one cannot be read"),
        };
        let accepted = (stream, from);
        if !self.admits(&accepted) {
            self.shared.count_unread(&accepted.0);
            return self.shared.refuse(Refusal::NotAllowed);
        }
        match self.slots.take(from.map(|from| from.ip()), Instant::now()) {
            Ok(slot) => {
                self.shared.shard.borrow_mut().tally().listener.connections_taken_over += 1;
                self.admit(accepted, slot, begun);
            }
            Err(why) => {
                self.shared.count_unread(&accepted.0);
                self.shared.refuse(why);
            }
        }
    }

    fn admit(&mut self, (stream, from): Accepted, slot: HeldSlot, begun: Begun) {
        let secured = match &self.shared.options().tls {
            Some(tls) => stream.secured(Arc::clone(tls.acceptor().config())),
            None => Ok(stream),
        };
        match secured {
            Ok(stream) => {
                let task = serve(Rc::clone(&self.shared), (stream, begun), slot, from, self.phase.clone());
                self.slots.note_task(size_of_val(&task));
                self.tasks.spawn_local(task);
            }
            Err(error) => {
                tracing::error!(%error, "TLS cannot be used");
                self.shared.refuse(Refusal::Tls);
            }
        }
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
        let transport = self.shared.options().transport;
        let is_kept = self.shared.is_kept.load(Ordering::Relaxed);
        let refuse_later = || {
            if !is_kept && let Err(error) = socket.shutdown(Shutdown::Both) {
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
            if !self.admits(&accepted) {
                self.shared.refuse(Refusal::NotAllowed);
                continue;
            }
            let mut placed = self.place(accepted);
            while let Err((accepted, why)) = placed {
                if !matches!(timeout_at(until.min(limit).into(), self.end_of_one()).await, Ok(true)) {
                    self.shared.refuse(why);
                    break;
                }
                until = Instant::now() + ROOM_PATIENCE;
                placed = self.place(accepted);
            }
        }
    }
}

/// The rest of a connection, once a stop has begun or it has to give way.
struct FinalRead {
    /// Bytes that the kernel had received then and that are not read yet.
    owed: usize,
    /// Why it has to give way; `None` at a stop, when what was sent before is waited for.
    why: Option<Refusal>,
    /// When reading ends; set when nothing is owed any more.
    limit: Option<Instant>,
    /// Bytes read since `limit` was set.
    read: usize,
    /// Bytes that may still have been sent before the stop.
    in_flight: usize,
}

impl FinalRead {
    /// At a stop.
    fn at_stop(stream: &Connection) -> FinalRead {
        FinalRead { owed: unread_bytes(stream), why: None, limit: None, read: 0, in_flight: IN_FLIGHT_BYTES }
    }

    /// Of a connection that is closed to make room, or because it was silent for too long.
    fn at_once(stream: &Connection, why: Refusal) -> FinalRead {
        let at_stop = FinalRead::at_stop(stream);
        FinalRead { why: Some(why), in_flight: at_stop.owed + PARTING_BYTES, ..at_stop }
    }

    /// Accounts for bytes that were read.
    fn note(&mut self, count: usize) {
        self.owed = self.owed.saturating_sub(count);
        self.in_flight = self.in_flight.saturating_sub(count);
        self.read += count;
    }

    /// Whether everything that was sent before the stop, or that had come, has been read.
    fn is_due(&mut self, now: Instant) -> bool {
        if self.why.is_some() {
            // What it has sent, and that it has closed, is found by reading until there is nothing more.
            return self.in_flight == 0;
        }
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

/// Sets a connection up, unless that takes too long or it has to give way.
async fn set_up(
    shared: &Shared,
    stream: &mut Connection,
    slot: &HeldSlot,
    from: Option<SocketAddr>,
    mut phase: watch::Receiver<Phase>,
) -> Result<(), Refusal> {
    if !stream.is_handshaking() {
        return Ok(());
    }
    let past_stop = async {
        // If nobody can stop us any more, that is a stop.
        let _ = phase.wait_for(|phase| *phase == Phase::End).await;
        let limit = Instant::now() + LINGER;
        sleep_until(shared.deadline.get().map_or(limit, |deadline| limit.min(deadline)).into()).await;
    };
    tokio::select! {
        biased;
        outcome = timeout(HANDSHAKE, stream.shake_hands()) => match outcome {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                if let Some(why) = refusal(&error) {
                    let from = from.map_or("an unknown client".to_string(), |from| from.to_string());
                    tracing::warn!(listener = %shared.url, from, "a connection was refused: {why}");
                }
                Err(Refusal::Tls)
            }
            Err(_) => Err(Refusal::Timeout),
        },
        () = slot.wait() => Err(slot.asked().unwrap_or(Refusal::Full)),
        () = past_stop => Err(Refusal::Timeout),
    }
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy)]
struct Peer {
    /// Its address, if it has one.
    from: Option<SocketAddr>,
    origin: Origin,
}

/// Reads a connection, of which something may have begun, to its end.
async fn serve(
    shared: Rc<Shared>,
    (mut stream, begun): (Connection, Begun),
    slot: HeldSlot,
    from: Option<SocketAddr>,
    mut phase: watch::Receiver<Phase>,
) {
    slot.hold(stream.heap_bytes());
    if let Err(why) = set_up(&shared, &mut stream, &slot, from, phase.clone()).await {
        return shared.refuse(why);
    }
    let peer = Peer { from, origin: stream.origin(from) };
    let options = shared.options();
    let mut cutter = Cutter::new(options.framing, options.protocol.binary, options.max_datagram);
    cutter.go_on(begun);
    let mut busy = Some(Busy::new(&shared));
    let (mut ended, mut since_turn) = (false, 0);
    let mut final_read: Option<FinalRead> = None;
    loop {
        let now = Instant::now();
        let idle_end = slot.last_line() + shared.options().idle_timeout;
        if final_read.is_none() {
            let is = *phase.borrow_and_update();
            if is == Phase::Pause {
                drop(busy.take());
                let Some(again) = shared.pause(stream, cutter.begun(), &mut phase).await else { return };
                stream = again;
                busy = Some(Busy::new(&shared));
                continue;
            }
            final_read = shared.last_reading(&mut stream, &slot, now >= idle_end, is == Phase::End);
        }
        let patience = match &mut final_read {
            Some(final_read) => {
                let is_over = shared.deadline.get().is_some_and(|deadline| now >= deadline);
                if is_over || final_read.is_due(now) {
                    shared.count_unread(&stream);
                    break;
                }
                now + QUIET
            }
            None => idle_end,
        };
        let is_parting = final_read.as_ref().is_some_and(|last| last.why.is_some());
        let way = if is_parting { Way::Directly } else { Way::WhenReady };
        let ready = tokio::select! {
            biased;
            () = std::future::ready(()), if is_parting => Ok(Ok(())),
            ready = timeout_at(patience.into(), stream.readable()) => ready,
            _ = phase.changed(), if final_read.is_none() => continue,
            () = slot.wait(), if final_read.is_none() => continue,
        };
        match ready {
            Ok(Ok(())) => {}
            // Without a whole line for too long, which is looked at again above.
            Err(_) if final_read.is_none() => continue,
            Ok(Err(_)) | Err(_) => {
                shared.count_unread(&stream);
                break;
            }
        }
        fault::pass("connection");
        let read = stream.try_read(&mut shared.scratch.borrow_mut(), way);
        match read {
            Ok((0, _)) => {
                // TLS answers an end with an end.
                stream.shut_down_sending();
                ended = true;
                break;
            }
            Ok((count, taken)) => {
                if let Some(final_read) = &mut final_read {
                    final_read.note(taken);
                }
                if !ingest(&shared, &mut cutter, &slot, count, peer) {
                    // The next frame cannot be found, or no line follows.
                    return;
                }
                if !slot.hold(cutter.heap_bytes() + stream.heap_bytes()) {
                    // What is not needed goes first, then the longest unfinished lines.
                    cutter.compact();
                    slot.hold(cutter.heap_bytes() + stream.heap_bytes());
                    slot.relieve();
                }
                since_turn += count;
                if since_turn >= READ_BYTES {
                    // The socket of a fast sender may stay readable for ever: other connections, flushes and a stop get
                    // their turns in between.
                    since_turn = 0;
                    tokio::task::yield_now().await;
                }
            }
            Err(error) if is_temporary(&error) && !is_parting => since_turn = 0,
            Err(_) => {
                shared.count_unread(&stream);
                break;
            }
        }
    }
    if let Some(why) = final_read.and_then(|last| last.why)
        && !ended
    {
        shared.refuse(why);
    }
    finish(&shared, &mut cutter, ended, peer);
}

/// Counts what was left of a connection after its last whole line, or ingests it if its end completes a line.
fn finish(shared: &Shared, cutter: &mut Cutter, ended: bool, peer: Peer) {
    let Some(rest) = cutter.rest() else { return };
    let mut shard = shared.shard.borrow_mut();
    match rest {
        Chunk::Lines(rest) if ended => {
            // `printf 'x:1|c' | nc` ends without a newline, and that is a whole line.
            shard.tally().chunks += 1;
            shared.ingest(&mut shard, &rest, peer, unix_time());
            shared.taps().send_signals(&mut shard);
        }
        Chunk::Http(rest) => shared.refuse_fragment(&mut shard, &rest, Reason::HttpRequest, peer),
        Chunk::Lines(rest) | Chunk::Frame(rest) | Chunk::TooLong(rest) | Chunk::Broken(rest) => {
            shared.refuse_fragment(&mut shard, &rest, Reason::BadFrame, peer);
        }
    }
}

/// Lines that were neither blank nor malformed.
fn good_lines(tally: &Tally) -> u64 {
    let lines = &tally.lines;
    lines.metrics + lines.events + lines.service_checks + lines.heartbeats
}

/// Ingests the first `count` bytes of the scratch buffer; `false` if the rest of the connection cannot be read.
fn ingest(shared: &Shared, cutter: &mut Cutter, slot: &HeldSlot, count: usize, peer: Peer) -> bool {
    cutter.extend(&shared.scratch.borrow()[..count]);
    let mut shard = shared.shard.borrow_mut();
    shard.begin_batch();
    count_bytes(shard.tally(), count);
    let now = unix_time();
    let (mut chunks, mut is_good) = (0, true);
    let before = good_lines(shard.tally());
    while let Some(chunk) = cutter.take() {
        match chunk {
            Chunk::Lines(bytes) => {
                chunks = 1;
                shared.ingest(&mut shard, &bytes, peer, now);
            }
            Chunk::Frame(bytes) => {
                chunks += 1;
                shared.ingest(&mut shard, &bytes, peer, now);
            }
            Chunk::TooLong(start) => shared.refuse_fragment(&mut shard, &start, Reason::TooLong, peer),
            Chunk::Broken(bytes) => {
                shared.refuse_fragment(&mut shard, &bytes, Reason::BadFrame, peer);
                is_good = false;
                break;
            }
            Chunk::Http(line) => {
                shared.refuse_fragment(&mut shard, &line, Reason::HttpRequest, peer);
                is_good = false;
                break;
            }
        }
    }
    if chunks > 0 {
        slot.note_line(good_lines(shard.tally()) > before, Instant::now());
    }
    shared.taps().send_signals(&mut shard);
    shard.tally().chunks += chunks;
    cutter.shrink();
    is_good
}
