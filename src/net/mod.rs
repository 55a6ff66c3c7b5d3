//! The mouth: sockets, drained in batches into reused buffers. Each receive worker is a thread that owns a
//! [`Shard`]; a listener has one worker, or several with `SO_REUSEPORT`.
//!
//! The flusher talks to workers with commands. Nothing here waits for anybody downstream: a worker that
//! cannot keep up shows in the kernel's drop counters, which are read here and published.
//!
//! A stop is two steps, so that nothing queued is lost: [`Listener::stop`] makes workers read what the kernel
//! holds and then nothing more; the flusher closes the last interval; [`Listener::join`] ends them.

mod datagrams;
pub mod framing;
pub mod relay;
mod stream;
mod streams;

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::sync::{mpsc, oneshot};

use crate::aggregate::{Columns, Partial, Shard, Tally};
use crate::allow::Allow;
use crate::protocol::Options;
use crate::sys;
use crate::tape::Tape;
use crate::vigil::Vigil;

use relay::Inlet;

/// Connections that the kernel may hold before they are accepted.
const BACKLOG: i32 = 1024;

/// Commands that may wait for a worker.
const COMMANDS: usize = 4;

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
    pub allow: Allow,
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
    /// Read what the kernel holds, until `deadline` at the latest, and nothing after that.
    Stop {
        /// When to give up.
        deadline: Instant,
        /// Told when it is done.
        done: oneshot::Sender<()>,
    },
}

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
            if count > 1 && address.port() != 0 {
                // With SO_REUSEPORT a second daemon could share the port unnoticed; without it, it can't.
                drop(open(spec.transport, address, false)?);
            }
            for _ in 0..count {
                let socket = open(spec.transport, address, count > 1)?;
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

    /// Starts a worker thread for each socket; heartbeats go to the vigil, everything to the tape and to the relays.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn start(
        self,
        mut shard: impl FnMut() -> Shard,
        vigil: Option<&Vigil>,
        tape: Option<&Tape>,
        relays: &[Inlet],
    ) -> io::Result<Listener> {
        let mut workers = Vec::new();
        let received = Arc::new(AtomicU64::new(0));
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
            let (others, received) =
                (Others { vigil: vigil.cloned(), tape: tape.cloned(), relays: relays.to_vec() }, Arc::clone(&received));
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
                        let from = datagrams::Source { spec, socket, receive_buffer, received };
                        datagrams::run(&from, shard, &others, inbox, &woken);
                    }
                    Some(runtime) => runtime.block_on(streams::run(spec, &socket, shard, others, inbox)),
                }
            })?;
            workers.push(Worker { commands, wake, thread });
        }
        let seen = vec![0; self.sockets.len()];
        let path = match &self.spec.place {
            Place::Path(path, _) => Some(path.clone()),
            Place::Address(_) | Place::Inherited(_) => None,
        };
        Ok(Listener {
            path,
            sockets: self.sockets,
            workers,
            seen,
            transport: self.spec.transport,
            received,
            received_seen: 0,
        })
    }
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
    workers: Vec<Worker>,
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

    /// Makes the workers read what the kernel holds, and then nothing more.
    pub async fn stop(&self, deadline: Instant) {
        let mut pending = Vec::new();
        for worker in &self.workers {
            let (done, finished) = oneshot::channel();
            if worker.commands.send(Command::Stop { deadline, done }).await.is_ok() {
                worker.wake();
                pending.push(finished);
            }
        }
        for finished in pending {
            let _ = finished.await;
        }
    }

    /// Ends the workers and closes the sockets.
    pub fn join(self) {
        for worker in self.workers {
            drop(worker.commands);
            drop(worker.wake);
            // A worker that panicked has said so on standard error.
            let _ = worker.thread.join();
        }
        if let Some(path) = self.path {
            // Somebody may have removed it already.
            let _ = fs::remove_file(path);
        }
    }
}

/// Who else wants to know what comes in.
#[derive(Clone, Debug)]
struct Others {
    vigil: Option<Vigil>,
    tape: Option<Tape>,
    relays: Vec<Inlet>,
}

impl Others {
    /// Passes on what lines said of presence.
    fn pass_on(&self, shard: &mut Shard) {
        for signal in shard.take_signals() {
            if let Some(vigil) = &self.vigil {
                vigil.signal(signal);
            }
        }
    }

    /// Whether senders' addresses are wanted of everything for now.
    fn want_senders(&self) -> bool {
        self.vigil.as_ref().is_some_and(Vigil::wants_senders)
    }

    fn record(&self, at: f64, bytes: &[u8], from: Option<SocketAddr>, via: &'static str) {
        if let Some(tape) = &self.tape {
            tape.put(at, bytes, from, via);
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
