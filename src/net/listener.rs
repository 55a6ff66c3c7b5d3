//! A running listener: worker threads, and what the flusher asks of them.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, mpsc as std_mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::Socket;
use tokio::sync::{mpsc, oneshot};

use crate::aggregate::{Columns, Partial, Shard, ShardOptions, TimeWindow, TimerPolicy};
use crate::protocol::Options;
use crate::supervise::{Part, Role, Supervisor, catch};
use crate::sys;
use crate::watches::Watches;

use super::bind::SocketFile;
use super::failures::Failures;
use super::queue::{QueueWatch, Queues};
use super::taps::Taps;
use super::{BoundListener, ListenAddress, ListenerOptions, OpenConnection, Transport, datagrams, streams};

/// Commands that may wait for a worker.
pub(super) const COMMANDS: usize = 4;

/// Pause between two looks at a worker that ends.
const JOIN_PAUSE: Duration = Duration::from_millis(1);

/// A command of the flusher to a worker.
pub(super) enum WorkerCommand {
    /// Call this with the shard, between two batches.
    Run(Box<dyn FnOnce(&mut Shard) + Send>),
    /// Read what the kernel holds, then report and read nothing more.
    Stop(oneshot::Sender<()>),
    /// Read nothing more of the connections for now. The answer has those that another process can go on with.
    Pause(oneshot::Sender<Vec<OpenConnection>>),
    /// Read on after a stop or a pause.
    Resume,
    /// Read on with these connections.
    Adopt(Vec<OpenConnection>),
}

/// When the workers of a listener stop reading: set when a stop begins, and none again if they are to read on.
#[derive(Clone, Debug, Default)]
pub(super) struct ReadDeadline(Arc<Mutex<Option<Instant>>>);

impl ReadDeadline {
    pub(super) fn get(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, deadline: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = deadline;
    }
}

/// Whether the sockets outlive this process: the service manager holds them too, or the next process reads them already.
pub(super) type Outlives = Arc<AtomicBool>;

/// What shards are from the next interval on.
#[derive(Clone, Debug, Default)]
pub enum NextShards {
    /// As they were.
    #[default]
    Same,
    /// They keep timers and judge timestamps in another way.
    Policies(TimerPolicy, TimeWindow),
    /// Each begins anew.
    Renewed(Box<ShardOptions>, Arc<Watches>),
}

/// What is different for a worker from the next interval on.
#[derive(Debug, Default)]
pub struct WorkerChange {
    /// How the listener is read.
    pub options: Option<Box<ListenerOptions>>,
    /// Where lines are passed on.
    pub taps: Option<Taps>,
    /// What the shard is.
    pub shard: NextShards,
}

impl WorkerChange {
    /// Both as one: this one did not begin before the later one was planned.
    fn then(self, later: WorkerChange) -> WorkerChange {
        let shard = match (self.shard, later.shard) {
            (before, NextShards::Same) => before,
            (NextShards::Renewed(options, watches), NextShards::Policies(timers, times)) => {
                NextShards::Renewed(Box::new(ShardOptions { timers, times, ..*options }), watches)
            }
            (_, later) => later,
        };
        WorkerChange { options: later.options.or(self.options), taps: later.taps.or(self.taps), shard }
    }
}

/// Makes it one with what was to be before.
fn add(to: &mut Option<WorkerChange>, change: WorkerChange) {
    *to = Some(match to.take() {
        Some(before) => before.then(change),
        None => change,
    });
}

/// What is to be different for a worker.
#[derive(Clone, Debug, Default)]
pub(super) struct Changes(Arc<Mutex<NextChanges>>);

#[derive(Debug, Default)]
struct NextChanges {
    /// From the end of the interval on that the worker closes next, whenever that is.
    planned: Option<WorkerChange>,
    /// From the end of its command on.
    due: Option<WorkerChange>,
}

impl Changes {
    fn lock(&self) -> MutexGuard<'_, NextChanges> {
        // Every change leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leave_change(&self, change: WorkerChange) {
        add(&mut self.lock().planned, change);
    }

    /// An interval of the shard is closed.
    fn begin(&self, shard: &mut Shard, partial: &mut Partial) {
        let Some(mut change) = self.lock().planned.take() else { return };
        match std::mem::take(&mut change.shard) {
            NextShards::Same => {}
            NextShards::Policies(timers, times) => shard.set_policies(timers, times),
            NextShards::Renewed(options, watches) => {
                // Counters that are sent as totals go on where they are.
                partial.totals = shard.last_totals();
                partial.left = Some(Box::new(shard.renew(*options, &watches)));
            }
        }
        add(&mut self.lock().due, change);
    }

    /// What is different from now on, after a command.
    pub(super) fn take(&self) -> Option<WorkerChange> {
        self.lock().due.take()
    }
}

/// Makes a shard attend to who sends what, as a listener with these options tells it.
pub(super) fn attend(shard: &mut Shard, options: &ListenerOptions) {
    // A connection has one sender, whom the kernel knows.
    let are_known = options.allow.is_restricted() || options.with_senders || !options.transport.has_datagrams();
    shard.attend_to_senders(are_known, options.protocol.binary);
}

/// Keeps the workers of a listener from reading until it is dropped.
#[derive(Debug)]
pub struct Hold {
    _workers: Vec<std_mpsc::Sender<()>>,
}

/// What the workers of a listener share.
#[derive(Clone)]
struct Shared {
    url: Arc<str>,
    is_kept: Outlives,
    queues: Arc<Queues>,
    /// Messages that all have read.
    received: Arc<AtomicU64>,
    deadline: ReadDeadline,
    /// They wait for its end before they read.
    hold: Option<Arc<Mutex<Vec<std_mpsc::Sender<()>>>>>,
}

impl BoundListener {
    /// Starts a worker thread for each socket. `url` names the listener in accounts; `shard` makes a shard for each worker, and
    /// `supervisor` watches them.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn start(
        self,
        url: &str,
        shard: impl FnMut() -> Shard,
        taps: &Taps,
        supervisor: &Supervisor,
    ) -> io::Result<Listener> {
        self.start_workers(url, shard, taps, supervisor, None)
    }

    /// The same; nothing is read before what comes beside it is dropped.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn start_held(
        self,
        url: &str,
        shard: impl FnMut() -> Shard,
        taps: &Taps,
        supervisor: &Supervisor,
    ) -> io::Result<(Listener, Hold)> {
        let hold = Arc::<Mutex<Vec<_>>>::default();
        let listener = self.start_workers(url, shard, taps, supervisor, Some(Arc::clone(&hold)))?;
        let held = std::mem::take(&mut *hold.lock().unwrap_or_else(PoisonError::into_inner));
        Ok((listener, Hold { _workers: held }))
    }

    fn start_workers(
        self,
        url: &str,
        mut shard: impl FnMut() -> Shard,
        taps: &Taps,
        supervisor: &Supervisor,
        hold: Option<Arc<Mutex<Vec<std_mpsc::Sender<()>>>>>,
    ) -> io::Result<Listener> {
        let mut workers = Vec::new();
        let queues = Arc::new(Queues::new(url, self.options.transport, &self.sockets));
        let is_kept = self.file.as_ref().map_or_else(Outlives::default, |file| Arc::clone(&file.is_kept));
        let name = match &self.options.address {
            ListenAddress::Inherited(name) => name.clone(),
            ListenAddress::Ip(_) | ListenAddress::Path(..) => String::new(),
        };
        is_kept.fetch_or(!name.is_empty(), Ordering::Relaxed);
        let deadline = ReadDeadline::default();
        let shared = Shared { url: url.into(), is_kept, queues, received: Arc::default(), deadline, hold };
        let taps = taps.of_listener(url, self.options.protocol);
        for n in 0..self.sockets.len() {
            workers.push(self.start_worker(n, shard(), taps.clone(), supervisor, shared.clone())?);
        }
        let Shared { is_kept, queues, received, deadline, .. } = shared;
        let drops_before =
            |(n, socket): (usize, &Arc<Socket>)| if n < self.passed { dropped_before(socket) } else { 0 };
        let drops_seen = self.sockets.iter().enumerate().map(drops_before).collect();
        Ok(Listener {
            url: url.to_string(),
            protocol: self.options.protocol,
            _file: self.file,
            receive_buffer: self.receive_buffer,
            sockets: self.sockets,
            is_held: !name.is_empty(),
            is_paused: false,
            name,
            is_kept,
            workers,
            deadline,
            queues,
            drops_seen,
            passed: self.passed,
            transport: self.options.transport,
            received,
            received_seen: 0,
        })
    }

    /// Starts the worker of the socket number `n`.
    fn start_worker(
        &self,
        n: usize,
        shard: Shard,
        taps: Taps,
        supervisor: &Supervisor,
        Shared { url, is_kept, queues, received, deadline, hold }: Shared,
    ) -> io::Result<Worker> {
        let (commands, mut inbox) = mpsc::channel(COMMANDS);
        let changes = Changes::default();
        let held = hold.map(|hold| {
            let (release, released) = std_mpsc::channel::<()>();
            hold.lock().unwrap_or_else(PoisonError::into_inner).push(release);
            released
        });
        let its_changes = changes.clone();
        let (options, socket) = (self.options.clone(), Arc::clone(&self.sockets[n]));
        let port = self.address.map_or(0, |address| address.port());
        let name = match options.transport {
            Transport::Udp => format!("udp-{port}-{n}"),
            Transport::Tcp => format!("tcp-{port}"),
            Transport::Unixgram => "unixgram".to_string(),
            Transport::Unix => "unix".to_string(),
        };
        let core = options.cores.get(n % options.cores.len().max(1)).copied();
        let (wake, woken) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        let runtime = if options.transport.has_datagrams() {
            None
        } else {
            Some(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
        };
        let receive_buffer = self.receive_buffer / self.sockets.len() as u64;
        let part = supervisor.part(&format!("worker:{name}"), Role::Essential);
        let thread = part.thread(&name, move |part| {
            if let Some(core) = core
                && let Err(error) = sys::pin_thread(core)
            {
                tracing::warn!(core, %error, "cannot keep a worker on its core; it runs on any");
            }
            if options.realtime
                && options.transport.has_datagrams()
                && let Err(error) = sys::realtime_thread()
            {
                tracing::warn!(%error, "`realtime` is not allowed (it takes CAP_SYS_NICE); a worker waits its turn");
            }
            let (mut shard, mut taps) = (shard, taps);
            attend(&mut shard, &options);
            if let Some(held) = held {
                // It ends with an error, when the other end is dropped.
                let _ = held.recv();
                part.alive();
            }
            let mut failures = Failures::new(part, options.transport.name());
            match runtime {
                None => {
                    let mut source = datagrams::DatagramSource {
                        options,
                        socket,
                        queues,
                        number: n,
                        receive_buffer,
                        received,
                        deadline,
                        is_kept,
                        changes: its_changes,
                    };
                    let (mut shard, mut work) = (shard, datagrams::Work::new(&source));
                    let run = || {
                        let (source, taps) = (&mut source, &mut taps);
                        datagrams::run(source, &mut work, &mut shard, &mut failures, taps, &mut inbox, &woken);
                    };
                    if let Err(panic) = catch(run) {
                        work.count_lost(&mut shard);
                        let unread = |shard: &mut Shard| datagrams::count_rest(&source, &mut work, shard);
                        failures.serve_to_the_end(&panic, &mut shard, &mut inbox, unread);
                    }
                }
                Some(runtime) => {
                    let (taps, deadline) = ((taps, its_changes), (deadline, is_kept));
                    let shared = streams::Shared::new(url, options, shard, failures, taps, deadline);
                    let work = || runtime.block_on(streams::run(Rc::clone(&shared), &socket, &mut inbox));
                    if let Err(panic) = catch(work) {
                        let (mut failures, mut shard) = (shared.failures.borrow_mut(), shared.shard.borrow_mut());
                        failures.serve_to_the_end(&panic, &mut shard, &mut inbox, |_| ());
                    }
                }
            }
        })?;
        Ok(Worker { commands, wake: Arc::new(wake), thread, part, changes, is_asked: Arc::default() })
    }
}

/// Datagrams that a socket which another process has opened dropped before this start. Its counter outlives processes: an
/// earlier one may have counted them; those dropped while none ran are logged here and are in no ledger.
fn dropped_before(socket: &Socket) -> u32 {
    // Streams and unix sockets have no such counter.
    let dropped = sys::socket_memory(socket).map_or(0, |memory| memory.dropped);
    if dropped > 0 {
        tracing::warn!(dropped, "the socket has dropped datagrams before this start; they are not counted again");
    }
    dropped
}

impl Worker {
    pub(super) fn wake(&self) {
        // If the pipe is full, the worker is being woken.
        let _ = (&*self.wake).write(&[1]);
    }

    /// Makes it pass on who was seen by what is watched.
    fn watcher(&self) -> WatchedWorker {
        let (commands, wake) = (self.commands.downgrade(), Arc::downgrade(&self.wake));
        WatchedWorker { commands, wake, is_asked: Arc::default() }
    }

    /// Asks for a sign of life, unless it was asked already.
    fn ask_alive(&self) {
        if self.is_asked.swap(true, Ordering::Relaxed) {
            return;
        }
        let (part, is_asked) = (self.part.clone(), Arc::clone(&self.is_asked));
        let answer = move |_: &mut Shard| {
            is_asked.store(false, Ordering::Relaxed);
            part.alive();
        };
        if self.commands.try_send(WorkerCommand::Run(Box::new(answer))).is_err() {
            self.is_asked.store(false, Ordering::Relaxed);
        }
        self.wake();
    }
}

/// A worker that is asked again and again who was seen by what is watched. It ends when its listener does.
#[derive(Debug)]
pub(super) struct WatchedWorker {
    commands: mpsc::WeakSender<WorkerCommand>,
    /// Weak, too: a worker that waits learns of its end when this closes.
    wake: Weak<UnixStream>,
    /// It was asked and has not answered yet.
    is_asked: Arc<AtomicBool>,
}

impl WatchedWorker {
    /// Asks, unless it was asked already. The answer goes to presence with the worker's signals.
    pub(super) fn ask(&self) {
        // The commands are given back first: the worker finds them closed when it wakes.
        let Some(wake) = self.wake.upgrade() else { return };
        let Some(commands) = self.commands.upgrade() else { return };
        if self.is_asked.swap(true, Ordering::Relaxed) {
            return;
        }
        let is_asked = Arc::clone(&self.is_asked);
        let look = move |shard: &mut Shard| {
            is_asked.store(false, Ordering::Relaxed);
            shard.look_at_watched();
        };
        if commands.try_send(WorkerCommand::Run(Box::new(look))).is_err() {
            self.is_asked.store(false, Ordering::Relaxed);
        }
        // If the pipe is full, the worker is being woken.
        let _ = (&*wake).write(&[1]);
    }
}

#[derive(Debug)]
pub(super) struct Worker {
    pub(super) commands: mpsc::Sender<WorkerCommand>,
    /// Wakes the worker while it waits for its socket.
    pub(super) wake: Arc<UnixStream>,
    pub(super) thread: JoinHandle<()>,
    pub(super) part: Part,
    pub(super) changes: Changes,
    /// It was asked for a sign of life and has not answered yet.
    pub(super) is_asked: Arc<AtomicBool>,
}

/// A running listener.
#[derive(Debug)]
pub struct Listener {
    pub(super) url: String,
    /// How its lines are read.
    pub(super) protocol: Options,
    pub(super) receive_buffer: u64,
    /// The socket file, if this listener created one.
    pub(super) _file: Option<SocketFile>,
    pub(super) transport: Transport,
    pub(super) sockets: Vec<Arc<Socket>>,
    /// The name under which the service manager passed its socket; empty if it did not.
    pub(super) name: String,
    pub(super) is_kept: Outlives,
    /// The service manager holds the sockets.
    pub(super) is_held: bool,
    pub(super) is_paused: bool,
    pub(super) workers: Vec<Worker>,
    pub(super) deadline: ReadDeadline,
    pub(super) queues: Arc<Queues>,
    /// Kernel drops counted so far, by socket.
    pub(super) drops_seen: Vec<u32>,
    /// The first so many sockets were another process's.
    pub(super) passed: usize,
    /// Messages that all workers have read.
    pub(super) received: Arc<AtomicU64>,
    pub(super) received_seen: u64,
}

impl Listener {
    /// The URL that it is bound to: its name in accounts.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its sockets for another process, each with the name under which the service manager passed it.
    ///
    /// # Errors
    /// If this process may have no more descriptors.
    pub fn duplicates(&self) -> io::Result<Vec<(String, OwnedFd)>> {
        self.sockets.iter().map(|socket| Ok((self.name.clone(), socket.as_fd().try_clone_to_owned()?))).collect()
    }

    /// The service manager holds these sockets, too, from now on: a stop leaves them open, with what they hold.
    pub fn keep_sockets(&mut self) {
        self.is_held = true;
        self.is_kept.store(true, Ordering::Relaxed);
    }

    /// Another process is to read these sockets: a stop leaves them open, with what they hold, and what they drop from then on is
    /// not counted here.
    pub(super) fn give_away(&self) {
        self.is_kept.store(true, Ordering::Relaxed);
    }

    /// The sockets are this process's from now on: what they have dropped another one has counted, if it had them.
    pub(super) fn begin(&mut self) {
        self.is_kept.store(self.is_held, Ordering::Relaxed);
        let now = self.kernel_drop_counters();
        self.drops_seen[..self.passed].copy_from_slice(&now[..self.passed]);
    }

    /// Counts no more what the sockets drop.
    pub(super) fn end_counting(&mut self) {
        self.is_paused = true;
    }

    /// Reads on, after a stop, as if there had been none.
    pub(super) fn resume(&mut self) {
        self.is_paused = false;
        self.is_kept.store(self.is_held, Ordering::Relaxed);
        self.deadline.set(None);
        for worker in &self.workers {
            // A full inbox belongs to a worker that hangs.
            let _ = worker.commands.try_send(WorkerCommand::Resume);
            worker.wake();
        }
    }

    /// Whether the sockets outlive this process.
    pub(super) fn is_kept(&self) -> bool {
        self.is_kept.load(Ordering::Relaxed)
    }

    /// Receive buffer that the kernel granted, all workers together, in bytes.
    pub fn receive_buffer(&self) -> u64 {
        self.receive_buffer
    }

    /// Number of workers.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Makes a worker close its interval. The receiver yields the partial, or an error if the worker is gone.
    pub fn close(&self, worker: usize, retire: [Vec<u32>; 5], spare: Columns) -> oneshot::Receiver<Partial> {
        let changes = self.workers[worker].changes.clone();
        self.ask(worker, move |shard| {
            let mut partial = shard.close(retire, spare);
            changes.begin(shard, &mut partial);
            partial
        })
    }

    /// From the interval on that a worker closes next it is as `change` says, however late that is.
    pub fn leave_change(&self, worker: usize, mut change: WorkerChange) {
        // Of each listener lines are shown with its name, as it reads them.
        let protocol = change.options.as_ref().map_or(self.protocol, |options| options.protocol);
        change.taps = change.taps.map(|taps| taps.of_listener(&self.url, protocol));
        self.workers[worker].changes.leave_change(change);
    }

    /// Workers that go on as before: they have closed no interval since a change was planned.
    pub fn behind(&self) -> impl Iterator<Item = &str> {
        self.workers.iter().filter(|worker| worker.changes.lock().planned.is_some()).map(|worker| worker.part.name())
    }

    /// How its workers read lines from the next interval on.
    pub fn set_protocol(&mut self, protocol: Options) {
        self.protocol = protocol;
    }

    /// Makes its workers read what the kernel holds, and then nothing more: the listener leaves, and the daemon goes on. The
    /// receivers resolve when that is done.
    pub fn begin_leaving(&self, deadline: Instant) -> Vec<oneshot::Receiver<()>> {
        // No later process wants its sockets, unless a socket unit opened them.
        self.is_kept.store(!self.name.is_empty(), Ordering::Relaxed);
        self.refuse();
        if self.transport == Transport::Udp && !self.is_kept() {
            // A processor may have looked the socket up before it refused, and is about to queue a datagram there.
            sys::await_deliveries();
        }
        self.finish_reading(deadline)
    }

    /// Its workers are no parts of the daemon any more, and may end.
    pub fn leave(&self) {
        self.workers.iter().for_each(|worker| worker.part.leave());
    }

    /// Calls `question` with the shard of a worker. The receiver yields the answer, or an error if the worker is gone.
    pub fn ask<T: Send + 'static>(
        &self,
        worker: usize,
        question: impl FnOnce(&mut Shard) -> T + Send + 'static,
    ) -> oneshot::Receiver<T> {
        let (reply, answer) = oneshot::channel();
        let question = move |shard: &mut Shard| {
            // If the caller has given up, the shard keeps its interval for the next one.
            if !reply.is_closed() {
                let _ = reply.send(question(shard));
            }
        };
        // A full or closed inbox drops the command and its reply, which the caller sees as an error.
        let worker = &self.workers[worker];
        let _ = worker.commands.try_send(WorkerCommand::Run(Box::new(question)));
        worker.wake();
        answer
    }

    /// Its workers, to be asked who was seen by what is watched.
    pub(super) fn watched_workers(&self) -> impl Iterator<Item = WatchedWorker> {
        self.workers.iter().map(Worker::watcher)
    }

    /// Asks every worker for a sign of life, which goes to its part.
    pub fn ask_alive(&self) {
        self.workers.iter().for_each(Worker::ask_alive);
    }

    /// Datagrams that the kernel has dropped since the last call.
    pub fn take_kernel_drops(&mut self) -> u64 {
        let now = self.kernel_drop_counters();
        let fresh = fresh_drops(&now, &self.drops_seen);
        self.drops_seen = now;
        fresh
    }

    /// What [`Listener::take_kernel_drops`] would return, which still does afterwards.
    pub fn kernel_drops(&self) -> u64 {
        fresh_drops(&self.kernel_drop_counters(), &self.drops_seen)
    }

    /// The kernel's counter of each socket.
    fn kernel_drop_counters(&self) -> Vec<u32> {
        // Senders of unix datagrams wait instead. What is read by another process is counted there.
        if self.transport != Transport::Udp || self.is_paused {
            return self.drops_seen.clone();
        }
        let sockets = self.queues.look_at_all().zip(&self.drops_seen);
        // If the kernel fails to answer, the next call counts them.
        sockets.map(|(memory, seen)| memory.map_or(*seen, |memory| memory.dropped)).collect()
    }

    /// How full the receive buffer was at most since the peak was taken last, 0 to 1; of several workers the fullest.
    pub fn queue_peak(&self) -> f64 {
        self.queues.peak()
    }

    /// The same, and begins anew.
    pub fn take_queue_peak(&self) -> f64 {
        self.queues.take_peak()
    }

    /// Looks at the receive buffers from outside.
    pub fn queue_watch(&self) -> QueueWatch {
        QueueWatch::of(&self.queues)
    }

    /// Messages that were read since the last call.
    pub fn take_received(&mut self) -> u64 {
        let now = self.received.load(Ordering::Relaxed);
        now - std::mem::replace(&mut self.received_seen, now)
    }

    /// Makes the kernel refuse datagrams from now on. What it has queued stays readable, so a drain ends.
    ///
    /// A UDP socket is connected to its own address, from which nobody else can send: what comes from anywhere else finds no
    /// socket, is answered with an ICMP error and counted by the kernel (`Udp: NoPorts`). Unix senders get `EPIPE`.
    /// A socket that outlives this process is left as it is: what is not read now waits there for the next one.
    pub(super) fn refuse(&self) {
        if self.is_kept() {
            return;
        }
        for socket in &self.sockets {
            let outcome = match self.transport {
                Transport::Udp => connect_to_itself(socket),
                Transport::Unixgram => socket.shutdown(Shutdown::Read),
                // Workers of streams do so when they have accepted what was queued.
                Transport::Tcp | Transport::Unix => Ok(()),
            };
            if let Err(error) = outcome {
                tracing::warn!(%error, "the kernel goes on queueing datagrams; what comes after the last read is in no count");
            }
        }
    }

    /// Makes the workers read what the kernel holds until `deadline`, and then nothing more. The receivers resolve when that
    /// is done.
    pub(super) fn finish_reading(&self, deadline: Instant) -> Vec<oneshot::Receiver<()>> {
        self.deadline.set(Some(deadline));
        let stop = |worker: &Worker| {
            let (done, finished) = oneshot::channel();
            // A full inbox belongs to a worker that hangs; the receiver yields an error then.
            let _ = worker.commands.try_send(WorkerCommand::Stop(done));
            worker.wake();
            finished
        };
        self.workers.iter().map(stop).collect()
    }

    /// Makes the worker of a stream listener read nothing more until [`Listener::resume`]; what is to end is read until
    /// `deadline`. The receiver yields the connections that another process can go on with.
    pub(super) fn pause(&self, deadline: Instant) -> oneshot::Receiver<Vec<OpenConnection>> {
        self.deadline.set(Some(deadline));
        let (done, paused) = oneshot::channel();
        self.command(WorkerCommand::Pause(done));
        paused
    }

    /// Goes on with connections that another process has read so far.
    pub(super) fn adopt(&self, connections: Vec<OpenConnection>) {
        self.command(WorkerCommand::Adopt(connections));
    }

    /// A command to the worker of a stream listener, which has one.
    fn command(&self, command: WorkerCommand) {
        let Some(worker) = self.workers.first() else { return };
        if worker.commands.try_send(command).is_err() {
            tracing::error!(listener = self.url, "a receive worker does not take what it is told");
        }
        worker.wake();
    }

    /// Ends the workers and closes the sockets. A worker that has not ended at the deadline is left running.
    pub async fn join(self, deadline: Instant) {
        let threads: Vec<_> = self.workers.into_iter().map(|worker| worker.thread).collect();
        for thread in threads {
            while !thread.is_finished() && Instant::now() < deadline {
                tokio::time::sleep(JOIN_PAUSE).await;
            }
            if thread.is_finished() {
                // A panic is already logged.
                let _ = thread.join();
            }
        }
    }
}

/// Connects a UDP socket to its own address, or to its own port of the loopback address if it is bound to all.
fn connect_to_itself(socket: &Socket) -> io::Result<()> {
    let own = socket.local_addr()?;
    let address = own.as_socket().ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))?;
    if !address.ip().is_unspecified() {
        return socket.connect(&own);
    }
    let at = |ip: IpAddr| socket.connect(&SocketAddr::new(ip, address.port()).into());
    match address {
        SocketAddr::V4(_) => at(Ipv4Addr::LOCALHOST.into()),
        // The machine may have no IPv6 loopback address.
        SocketAddr::V6(_) => {
            at(Ipv6Addr::LOCALHOST.into()).or_else(|_| at(Ipv4Addr::LOCALHOST.to_ipv6_mapped().into()))
        }
    }
}

/// Drops between two readings. The kernel's counters are 32 bits wide and wrap.
fn fresh_drops(now: &[u32], before: &[u32]) -> u64 {
    now.iter().zip(before).map(|(now, before)| u64::from(now.wrapping_sub(*before))).sum()
}
