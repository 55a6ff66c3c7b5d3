//! Sockets, drained in batches into reused buffers. Each receive worker is a thread that owns a
//! [`Shard`]; a listener has one worker, or several with `SO_REUSEPORT`.
//!
//! The flusher talks to workers with commands. Nothing here waits for anybody downstream: a worker that
//! cannot keep up shows in the kernel's drop counters, which are read here and published.
//!
//! A stop has an order, so that nothing queued is lost and nothing is lost unseen ([`stop`]): connections are read to
//! their end while datagrams are still read; then the kernel is told to refuse datagrams, and what it has queued is read.
//! The flusher closes the last interval, and [`Listener::join`] ends the workers and closes the sockets.

mod datagrams;
pub mod framing;
pub mod relay;
mod stream;
mod streams;

use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::sync::{mpsc, oneshot};

use crate::acl::AccessList;
use crate::aggregate::{Columns, Partial, Shard, Tally};
use crate::capture::CaptureWriter;
use crate::presence_driver::PresenceHandle;
use crate::protocol::Options;
use crate::sys;

use relay::RelayHandle;

/// Connections that the kernel may hold before they are accepted.
const BACKLOG: i32 = 1024;

/// Commands that may wait for a worker.
const COMMANDS: usize = 4;

/// A worker looks at the deadline of a stop after each datagram; one that is so much later does not answer.
const STOP_SLACK: Duration = Duration::from_millis(100);

/// Pause between two looks at a worker that ends.
const JOIN_PAUSE: Duration = Duration::from_millis(1);

/// Datagrams or streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Datagrams of lines.
    Udp,
    /// Streams of lines.
    Tcp,
    /// Datagrams of lines, within this machine.
    Unixgram,
    /// Streams of lines, within this machine.
    Unix,
}

impl Transport {
    /// As captures have it.
    fn name(self) -> &'static str {
        match self {
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
            Transport::Unixgram => "unixgram",
            Transport::Unix => "unix",
        }
    }

    fn has_datagrams(self) -> bool {
        matches!(self, Transport::Udp | Transport::Unixgram)
    }

    /// What a socket that somebody else opened is.
    fn of(socket: &Socket) -> io::Result<Transport> {
        let is_unix = socket.local_addr()?.is_unix();
        match (socket.r#type()?, is_unix) {
            (Type::DGRAM, false) => Ok(Transport::Udp),
            (Type::DGRAM, true) => Ok(Transport::Unixgram),
            (Type::STREAM, false) => Ok(Transport::Tcp),
            (Type::STREAM, true) => Ok(Transport::Unix),
            _ => Err(io::Error::new(io::ErrorKind::Unsupported, "the socket has neither datagrams nor streams")),
        }
    }
}

/// Where a listener listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// At an address; port 0 lets the kernel choose.
    Address(SocketAddr),
    /// At a path, with these rights.
    Path(PathBuf, u32),
    /// At a socket that whoever started us has opened, by its name or number.
    Inherited(String),
}

/// How streams are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// At newlines.
    Newline,
    /// By a length before each, 4 bytes, little-endian.
    Length,
}

/// What a listener is made of.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Datagrams or streams; of an inherited socket it is found out.
    pub transport: Transport,
    /// Where.
    pub place: Place,
    /// How streams are cut.
    pub framing: Framing,
    /// Receive workers of UDP, at least 1.
    pub workers: usize,
    /// Receive buffer to ask for, bytes.
    pub receive_buffer: u64,
    /// Ask for more than `net.core.rmem_max`.
    pub receive_buffer_force: bool,
    /// Longest datagram, or line of a stream, bytes.
    pub max_datagram: usize,
    /// Cores that workers are kept on, in turn; empty for any.
    pub cores: Vec<usize>,
    /// Poll the device for so many microseconds when nothing is queued.
    pub busy_poll_us: Option<u32>,
    /// Run workers before every ordinary process.
    pub realtime: bool,
    /// Who may send.
    pub allow: AccessList,
    /// Ask for the sender of every datagram: somebody looks at it.
    pub with_senders: bool,
    /// Most connections at once.
    pub max_connections: usize,
    /// A silent connection is closed after so long.
    pub idle_timeout: Duration,
    /// How lines are read.
    pub options: Options,
}

/// What the flusher asks of a worker.
enum Command {
    /// Do something with the shard, between two batches.
    Do(Box<dyn FnOnce(&mut Shard) + Send>),
    /// Read what the kernel holds, and nothing after that; then tell.
    Stop(oneshot::Sender<()>),
}

/// When the workers of a listener give up reading: once a stop has begun.
type Deadline = Arc<OnceLock<Instant>>;

/// Sockets that are bound, but not yet read.
#[derive(Debug)]
pub struct Bound {
    spec: Spec,
    sockets: Vec<Arc<Socket>>,
    address: Option<SocketAddr>,
    receive_buffer: u64,
}

/// Binds a listener's sockets.
///
/// # Errors
/// What the kernel says; the address is for the caller to name.
pub fn bind(mut spec: Spec) -> io::Result<Bound> {
    let mut sockets = Vec::new();
    match spec.place.clone() {
        Place::Address(mut address) => {
            let count = if spec.transport == Transport::Udp { spec.workers.max(1) } else { 1 };
            for n in 0..count {
                // With SO_REUSEPORT a second daemon could share the port unnoticed. So the first socket is bound without,
                // and shares with the others from then on: none is opened for a try alone, which would take datagrams along.
                let socket = open(spec.transport, address, n > 0)?;
                if n == 0 && count > 1 {
                    socket.set_reuse_port(true)?;
                }
                address = socket.local_addr()?.as_socket().unwrap_or(address);
                sockets.push(Arc::new(socket));
            }
        }
        Place::Path(path, mode) => sockets.push(Arc::new(open_path(spec.transport, &path, mode)?)),
        Place::Inherited(name) => {
            let socket = sys::inherited_socket(&name)?;
            socket.set_nonblocking(true)?;
            spec.transport = Transport::of(&socket)?;
            sockets.push(Arc::new(socket));
        }
    }
    let mut receive_buffer = 0;
    for socket in sockets.iter().filter(|_| spec.transport == Transport::Udp) {
        // An old kernel does without, and datagrams come one by one.
        let _ = sys::receive_coalesced(socket);
        if let Some(microseconds) = spec.busy_poll_us {
            sys::busy_poll(socket, microseconds)?;
        }
        receive_buffer += sys::set_receive_buffer(socket, spec.receive_buffer, spec.receive_buffer_force)?;
    }
    let address = sockets[0].local_addr()?.as_socket();
    Ok(Bound { spec, sockets, address, receive_buffer })
}

/// A unix socket at a path. One that was left behind gives way; one that somebody listens at does not.
fn open_path(transport: Transport, path: &Path, mode: u32) -> io::Result<Socket> {
    let kind = if transport.has_datagrams() { Type::DGRAM } else { Type::STREAM };
    let address = SockAddr::unix(path)?;
    let socket = Socket::new(Domain::UNIX, kind, None)?;
    socket.set_nonblocking(true)?;
    match socket.bind(&address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let probe = Socket::new(Domain::UNIX, kind, None)?;
            let is_socket = fs::symlink_metadata(path)?.file_type().is_socket();
            let is_left = probe.connect(&address).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
            if !(is_socket && is_left) {
                return Err(error);
            }
            fs::remove_file(path)?;
            socket.bind(&address)?;
        }
        outcome => outcome?,
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    if !transport.has_datagrams() {
        socket.listen(BACKLOG)?;
    }
    Ok(socket)
}

fn open(transport: Transport, address: SocketAddr, reuse_port: bool) -> io::Result<Socket> {
    let datagrams = transport.has_datagrams();
    let (kind, protocol) = if datagrams { (Type::DGRAM, Protocol::UDP) } else { (Type::STREAM, Protocol::TCP) };
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    if reuse_port {
        socket.set_reuse_port(true)?;
    }
    if !datagrams {
        // A restart must not wait for old connections to time out.
        socket.set_reuse_address(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    if !datagrams {
        socket.listen(BACKLOG)?;
    }
    Ok(socket)
}

impl Bound {
    /// How many workers, and so shards, it needs.
    pub fn workers(&self) -> usize {
        self.sockets.len()
    }

    /// The address, with the port that was chosen; a unix socket has none.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Datagrams or streams.
    pub fn transport(&self) -> Transport {
        self.spec.transport
    }

    /// What the kernel granted, all workers together.
    pub fn receive_buffer(&self) -> u64 {
        self.receive_buffer
    }

    /// Whether the kernel granted less than was asked for.
    pub fn is_short_of_buffer(&self) -> bool {
        self.spec.transport == Transport::Udp
            && self.receive_buffer < self.spec.receive_buffer * self.sockets.len() as u64
    }

    /// Starts a worker thread for each socket; heartbeats go to the presence thread, everything to the capture and to the relays.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn start(
        self,
        mut shard: impl FnMut() -> Shard,
        presence: Option<&PresenceHandle>,
        capture: Option<&CaptureWriter>,
        relays: &[RelayHandle],
    ) -> io::Result<Listener> {
        let mut workers = Vec::new();
        let received = Arc::new(AtomicU64::new(0));
        let deadline = Deadline::default();
        let is_inherited = matches!(self.spec.place, Place::Inherited(_));
        for (n, socket) in self.sockets.iter().enumerate() {
            let (commands, inbox) = mpsc::channel(COMMANDS);
            let (spec, socket, shard) = (self.spec.clone(), Arc::clone(socket), shard());
            let port = self.address.map_or(0, |address| address.port());
            let name = match spec.transport {
                Transport::Udp => format!("udp-{port}-{n}"),
                Transport::Tcp => format!("tcp-{port}"),
                Transport::Unixgram => "unixgram".to_string(),
                Transport::Unix => "unix".to_string(),
            };
            let core = self.spec.cores.get(n % self.spec.cores.len().max(1)).copied();
            let (wake, woken) = UnixStream::pair()?;
            wake.set_nonblocking(true)?;
            woken.set_nonblocking(true)?;
            let runtime = if spec.transport.has_datagrams() {
                None
            } else {
                Some(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
            };
            let receive_buffer = self.receive_buffer / self.sockets.len() as u64;
            let (taps, received) = (
                Taps { presence: presence.cloned(), capture: capture.cloned(), relays: relays.to_vec() },
                Arc::clone(&received),
            );
            let deadline = Arc::clone(&deadline);
            let thread = std::thread::Builder::new().name(name).spawn(move || {
                if let Some(core) = core
                    && let Err(error) = sys::pin_thread(core)
                {
                    tracing::warn!(core, %error, "cannot keep a worker on its core; it runs on any");
                }
                if spec.realtime
                    && spec.transport.has_datagrams()
                    && let Err(error) = sys::realtime_thread()
                {
                    tracing::warn!(%error, "`realtime` is not allowed (it takes CAP_SYS_NICE); a worker waits its turn");
                }
                match runtime {
                    None => {
                        let from = datagrams::Source { spec, socket, receive_buffer, received, deadline };
                        datagrams::run(&from, shard, &taps, inbox, &woken);
                    }
                    Some(runtime) => runtime.block_on(streams::run(spec, &socket, shard, taps, inbox, deadline)),
                }
            })?;
            workers.push(Worker { commands, wake, thread });
        }
        let seen = self.sockets.iter().map(|socket| if is_inherited { dropped_before(socket) } else { 0 }).collect();
        let path = match &self.spec.place {
            Place::Path(path, _) => Some(path.clone()),
            Place::Address(_) | Place::Inherited(_) => None,
        };
        Ok(Listener {
            path,
            sockets: self.sockets,
            is_inherited,
            workers,
            deadline,
            seen,
            transport: self.spec.transport,
            received,
            received_seen: 0,
        })
    }
}

/// What an inherited socket has dropped before us: it outlives us, and so does its counter. A process before us may have
/// counted it; what was dropped while there was none is told here, and in no ledger.
fn dropped_before(socket: &Socket) -> u32 {
    // A stream, or a unix socket, has no such counter.
    let dropped = sys::dropped_datagrams(socket).unwrap_or(0);
    if dropped > 0 {
        tracing::warn!(
            dropped,
            "the inherited socket has dropped datagrams before this start; they are not counted again"
        );
    }
    dropped
}

impl Worker {
    fn wake(&self) {
        // If the pipe is full, the worker is being woken already.
        let _ = (&self.wake).write(&[1]);
    }
}

#[derive(Debug)]
struct Worker {
    commands: mpsc::Sender<Command>,
    /// Wakes a worker that waits for its socket.
    wake: UnixStream,
    thread: JoinHandle<()>,
}

/// A listener whose workers run.
#[derive(Debug)]
pub struct Listener {
    /// The file of a unix socket of ours.
    path: Option<PathBuf>,
    transport: Transport,
    sockets: Vec<Arc<Socket>>,
    /// Whoever started us has the sockets, too, and goes on with them.
    is_inherited: bool,
    workers: Vec<Worker>,
    deadline: Deadline,
    /// Drops read so far, by socket.
    seen: Vec<u32>,
    /// Messages that all workers together have read.
    received: Arc<AtomicU64>,
    received_seen: u64,
}

impl Listener {
    /// How many workers it has.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Asks a worker to close its interval; the partial comes through the receiver, or an error if the worker
    /// is gone.
    pub fn close(&self, worker: usize, retire: [Vec<u32>; 5], spare: Columns) -> oneshot::Receiver<Partial> {
        self.ask(worker, move |shard| shard.close(&retire, spare))
    }

    /// Asks a worker something about its shard; the answer comes through the receiver, or an error if the worker is gone.
    pub fn ask<T: Send + 'static>(
        &self,
        worker: usize,
        question: impl FnOnce(&mut Shard) -> T + Send + 'static,
    ) -> oneshot::Receiver<T> {
        let (reply, answer) = oneshot::channel();
        let question = move |shard: &mut Shard| {
            // If nobody waits any longer, an interval goes with the next answer: nothing is taken out before.
            if !reply.is_closed() {
                let _ = reply.send(question(shard));
            }
        };
        // A full or closed inbox drops the command, and with it the reply: the caller sees that.
        let worker = &self.workers[worker];
        let _ = worker.commands.try_send(Command::Do(Box::new(question)));
        worker.wake();
        answer
    }

    /// Datagrams that the kernel has dropped since this was last asked.
    pub fn take_kernel_drops(&mut self) -> u64 {
        // The kernel makes senders of unix datagrams wait instead.
        if self.transport != Transport::Udp {
            return 0;
        }
        let mut fresh = 0;
        for (socket, seen) in self.sockets.iter().zip(&mut self.seen) {
            // An open socket always answers; if not, the next look has it.
            let now = sys::dropped_datagrams(socket).unwrap_or(*seen);
            // The kernel's counter is 32 bits wide and wraps.
            fresh += u64::from(now.wrapping_sub(*seen));
            *seen = now;
        }
        fresh
    }

    /// Messages that were read since this was last asked.
    pub fn take_received(&mut self) -> u64 {
        let now = self.received.load(Ordering::Relaxed);
        now - std::mem::replace(&mut self.received_seen, now)
    }

    /// Lets the kernel refuse datagrams from now on; what it has queued stays readable, and so a drain ends by itself.
    ///
    /// A UDP socket is connected to its own address, from which nobody else can send: what comes from anywhere else finds no
    /// socket, is answered with an ICMP error and counted by the kernel (`Udp: NoPorts`). Unix senders get `EPIPE`.
    /// An inherited socket is left as it is: it belongs to the service manager, who hands the same socket to the next
    /// process, and what is not read now waits there for it.
    fn refuse(&self) {
        if self.is_inherited {
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
    fn finish_reading(&self, deadline: Instant) -> Vec<oneshot::Receiver<()>> {
        let _ = self.deadline.set(deadline);
        let stop = |worker: &Worker| {
            let (done, finished) = oneshot::channel();
            // An inbox that is full belongs to a worker that has not answered for long.
            let _ = worker.commands.try_send(Command::Stop(done));
            worker.wake();
            finished
        };
        self.workers.iter().map(stop).collect()
    }

    /// Ends the workers and closes the sockets. A worker that has not ended at the deadline is left alone: the process ends.
    pub async fn join(self, deadline: Instant) {
        let threads: Vec<_> = self.workers.into_iter().map(|worker| worker.thread).collect();
        for thread in threads {
            while !thread.is_finished() && Instant::now() < deadline {
                tokio::time::sleep(JOIN_PAUSE).await;
            }
            if thread.is_finished() {
                // A worker that panicked has said so on standard error.
                let _ = thread.join();
            }
        }
        if let Some(path) = self.path {
            // Somebody may have removed it already.
            let _ = fs::remove_file(path);
        }
    }
}

/// Makes all workers read what the kernel holds until `deadline`, and then nothing more. Datagrams are read as ever until
/// the last connection has ended, then refused, and those that are queued are read to the last.
pub async fn stop(listeners: &[&Listener], deadline: Instant) {
    let (datagrams, streams): (Vec<&Listener>, Vec<&Listener>) =
        listeners.iter().partition(|listener| listener.transport.has_datagrams());
    finished(streams.iter().flat_map(|listener| listener.finish_reading(deadline)).collect(), deadline).await;
    // All before any is drained: of sockets that share a port, those that are left get what the others refuse.
    datagrams.iter().for_each(|listener| listener.refuse());
    if datagrams.iter().any(|listener| listener.transport == Transport::Udp && !listener.is_inherited) {
        // A processor may have looked a socket up before it refused, and is about to queue a datagram there.
        sys::await_deliveries();
    }
    finished(datagrams.iter().flat_map(|listener| listener.finish_reading(deadline)).collect(), deadline).await;
}

/// Waits for workers that were stopped.
async fn finished(workers: Vec<oneshot::Receiver<()>>, deadline: Instant) {
    let end = tokio::time::Instant::from_std(deadline + STOP_SLACK);
    for worker in workers {
        if !matches!(tokio::time::timeout_at(end, worker).await, Ok(Ok(()))) {
            tracing::error!("a receive worker does not stop; what it has not read is lost, and in no count");
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
        // A machine may have no IPv6 but for the socket's kind.
        SocketAddr::V6(_) => {
            at(Ipv6Addr::LOCALHOST.into()).or_else(|_| at(Ipv4Addr::LOCALHOST.to_ipv6_mapped().into()))
        }
    }
}

/// Who else wants to know what comes in.
#[derive(Clone, Debug)]
struct Taps {
    presence: Option<PresenceHandle>,
    capture: Option<CaptureWriter>,
    relays: Vec<RelayHandle>,
}

impl Taps {
    /// Passes on what lines said of presence.
    fn pass_on(&self, shard: &mut Shard) {
        for signal in shard.take_signals() {
            if let Some(presence) = &self.presence {
                presence.signal(signal);
            }
        }
    }

    /// Whether senders' addresses are wanted of everything for now.
    fn want_senders(&self) -> bool {
        self.presence.as_ref().is_some_and(PresenceHandle::wants_senders)
    }

    fn record(&self, at: f64, bytes: &[u8], from: Option<SocketAddr>, via: &'static str) {
        if let Some(capture) = &self.capture {
            capture.put(at, bytes, from, via);
        }
        for relay in &self.relays {
            relay.put(bytes);
        }
    }
}

/// Counts what was read.
fn count_bytes(tally: &mut Tally, bytes: usize) {
    tally.bytes += bytes as u64;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    use crate::aggregate::{Quota, ShardOptions, TimeWindow, TimerPolicy};

    fn listener(address: &str, workers: usize) -> Listener {
        let spec = Spec {
            transport: Transport::Udp,
            place: Place::Address(address.parse().expect("an address")),
            framing: Framing::Newline,
            workers,
            receive_buffer: 1 << 20,
            receive_buffer_force: false,
            max_datagram: 65_536,
            cores: Vec::new(),
            busy_poll_us: None,
            realtime: false,
            allow: AccessList::default(),
            with_senders: false,
            max_connections: 1,
            idle_timeout: Duration::from_secs(1),
            options: Options::default(),
        };
        let shard = || {
            Shard::new(ShardOptions {
                timers: TimerPolicy { exact_samples: 64, digits: 3, weighted: true },
                fold_histograms: false,
                quota: Quota::new(1000),
                seed: 1,
                rules: None,
                heartbeats: None,
                times: TimeWindow::ANY,
            })
        };
        bind(spec).expect("bound").start(shard, None, None, &[]).expect("started")
    }

    /// Connected sockets to a listener's port at `host`: they are told of refusals.
    fn senders(listener: &Listener, host: &str, count: usize) -> Vec<UdpSocket> {
        let port = listener.sockets[0].local_addr().ok().and_then(|a| a.as_socket()).expect("bound").port();
        let to = SocketAddr::new(host.parse().expect("an address"), port);
        let from = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let sender = || UdpSocket::bind(from).and_then(|socket| socket.connect(to).map(|()| socket));
        (0..count).map(|_| sender().expect("a socket")).collect()
    }

    /// Holds all workers up until the sender is dropped.
    fn hold(listener: &Listener) -> Vec<std::sync::mpsc::Sender<()>> {
        let hold = |worker: usize| {
            let (held, until) = std::sync::mpsc::channel::<()>();
            let (tell, is_held) = std::sync::mpsc::channel::<()>();
            let wait = move |_: &mut Shard| {
                drop(tell);
                // It ends with an error, when the sender is dropped.
                let _ = until.recv();
            };
            let worker = &listener.workers[worker];
            worker.commands.try_send(Command::Do(Box::new(wait))).expect("room");
            worker.wake();
            let _ = is_held.recv();
            held
        };
        (0..listener.workers()).map(hold).collect()
    }

    async fn tally(listener: &Listener) -> Tally {
        let mut all = Tally::default();
        for worker in 0..listener.workers() {
            let partial = listener.close(worker, Default::default(), Columns::default()).await;
            all.add(&partial.expect("it answers").tally);
        }
        all
    }

    #[tokio::test]
    async fn a_stop_reads_what_is_queued_and_lets_the_kernel_refuse_the_rest() {
        let places = [
            ("127.0.0.1:0", 1, "127.0.0.1"),
            ("127.0.0.1:0", 3, "127.0.0.1"),
            ("0.0.0.0:0", 2, "127.0.0.2"),
            ("[::]:0", 2, "127.0.0.1"),
            ("[::]:0", 1, "::1"),
            ("[::1]:0", 2, "::1"),
        ];
        for (address, workers, host) in places {
            let mut listener = listener(address, workers);
            let senders = senders(&listener, host, 16);
            let held = hold(&listener);
            for sender in &senders {
                sender.send(b"x:1|c").expect("queued");
            }
            drop(held);
            let deadline = Instant::now() + Duration::from_secs(20);
            stop(&[&listener], deadline).await;
            // The sockets are still open: it is the kernel that refuses.
            for sender in &senders {
                let refused = |result: io::Result<usize>| {
                    result.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
                };
                while !refused(sender.send(b"x:1|c")) {
                    assert!(Instant::now() < deadline, "{address}: never refused");
                }
            }
            let tally = tally(&listener).await;
            assert_eq!((tally.datagrams, tally.unread, listener.take_kernel_drops()), (16, 0, 0), "{address}");
            listener.join(deadline).await;
        }
    }

    #[tokio::test]
    async fn a_deadline_ends_reading_between_two_datagrams_and_the_rest_is_counted() {
        let listener = listener("127.0.0.1:0", 1);
        let held = hold(&listener);
        let sender = senders(&listener, "127.0.0.1", 1).remove(0);
        for _ in 0..100 {
            sender.send(b"x:1|c").expect("queued");
        }
        let deadline = Instant::now();
        let done = listener.finish_reading(deadline);
        drop(held);
        for done in done {
            done.await.expect("it stops");
        }
        let tally = tally(&listener).await;
        assert_eq!((tally.datagrams, tally.unread, tally.unread_bytes, tally.lines), (0, 100, 500, 0));
        listener.join(deadline + Duration::from_secs(20)).await;
    }

    #[test]
    fn workers_share_a_port_with_nobody_else() {
        let first = listener("127.0.0.1:0", 2);
        let address = first.sockets[0].local_addr().ok().and_then(|a| a.as_socket()).expect("bound");
        // As a second daemon binds its first socket.
        let error = open(Transport::Udp, address, false).expect_err("taken");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
