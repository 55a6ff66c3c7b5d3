//! The mouth: sockets, drained in batches into reused buffers. Each receive worker is a thread that owns a
//! [`Shard`]; a listener has one worker, or several with `SO_REUSEPORT`.
//!
//! The flusher talks to workers with [`Command`]s. Nothing here waits for anybody downstream: a worker that
//! cannot keep up shows in the kernel's drop counters, which are read here and published.
//!
//! A stop is two steps, so that nothing queued is lost: [`Listener::stop`] makes workers read what the kernel
//! holds and then nothing more; the flusher closes the last interval; [`Listener::join`] ends them.

mod framing;
mod tcp;
mod udp;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::{mpsc, oneshot};

use crate::aggregate::{Columns, Partial, Shard, Tally};
use crate::allow::Allow;
use crate::protocol::Options;
use crate::sys;
use crate::vigil::Vigil;

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
}

/// What a listener is made of.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Datagrams or streams.
    pub transport: Transport,
    /// Where; port 0 lets the kernel choose.
    pub address: SocketAddr,
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
#[derive(Debug)]
pub enum Command {
    /// Close the interval.
    Close {
        /// Numbers of series that may leave, by class.
        retire: [Vec<u32>; 5],
        /// Empty columns for the next interval.
        spare: Box<Columns>,
        /// Where the interval goes.
        reply: oneshot::Sender<Partial>,
    },
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
    address: SocketAddr,
    receive_buffer: u64,
}

/// Binds a listener's sockets.
///
/// # Errors
/// What the kernel says; the address is for the caller to name.
pub fn bind(spec: Spec) -> io::Result<Bound> {
    let count = match spec.transport {
        Transport::Udp => spec.workers.max(1),
        Transport::Tcp => 1,
    };
    if count > 1 && spec.address.port() != 0 {
        // With SO_REUSEPORT a second daemon could share the port unnoticed; without it, it can't.
        drop(open(&spec, spec.address, false)?);
    }
    let mut address = spec.address;
    let mut sockets = Vec::new();
    let mut receive_buffer = 0;
    for _ in 0..count {
        let socket = open(&spec, address, count > 1)?;
        if spec.transport == Transport::Udp {
            // An old kernel does without, and datagrams come one by one.
            let _ = sys::receive_coalesced(&socket);
            if let Some(microseconds) = spec.busy_poll_us {
                sys::busy_poll(&socket, microseconds)?;
            }
            receive_buffer += sys::set_receive_buffer(&socket, spec.receive_buffer, spec.receive_buffer_force)?;
        }
        let bound = socket.local_addr()?.as_socket();
        address = bound.ok_or_else(|| io::Error::other("the socket has no IP address"))?;
        sockets.push(Arc::new(socket));
    }
    Ok(Bound { spec, sockets, address, receive_buffer })
}

fn open(spec: &Spec, address: SocketAddr, reuse_port: bool) -> io::Result<Socket> {
    let (kind, protocol) = match spec.transport {
        Transport::Udp => (Type::DGRAM, Protocol::UDP),
        Transport::Tcp => (Type::STREAM, Protocol::TCP),
    };
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    if reuse_port {
        socket.set_reuse_port(true)?;
    }
    if spec.transport == Transport::Tcp {
        // A restart must not wait for old connections to time out.
        socket.set_reuse_address(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    if spec.transport == Transport::Tcp {
        socket.listen(BACKLOG)?;
    }
    Ok(socket)
}

impl Bound {
    /// How many workers, and so shards, it needs.
    pub fn workers(&self) -> usize {
        self.sockets.len()
    }

    /// The address, with the port that was chosen.
    pub fn address(&self) -> SocketAddr {
        self.address
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

    /// Starts a worker thread for each socket; heartbeats go to the vigil.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn start(self, mut shard: impl FnMut() -> Shard, vigil: Option<&Vigil>) -> io::Result<Listener> {
        let mut workers = Vec::new();
        let received = Arc::new(AtomicU64::new(0));
        for (n, socket) in self.sockets.iter().enumerate() {
            let (commands, inbox) = mpsc::channel(COMMANDS);
            let (spec, socket, shard) = (self.spec.clone(), Arc::clone(socket), shard());
            let name = match spec.transport {
                Transport::Udp => format!("udp-{}-{n}", self.address.port()),
                Transport::Tcp => format!("tcp-{}", self.address.port()),
            };
            let core = self.spec.cores.get(n % self.spec.cores.len().max(1)).copied();
            let (wake, woken) = UnixStream::pair()?;
            wake.set_nonblocking(true)?;
            woken.set_nonblocking(true)?;
            let runtime = match spec.transport {
                Transport::Udp => None,
                Transport::Tcp => Some(tokio::runtime::Builder::new_current_thread().enable_all().build()?),
            };
            let receive_buffer = self.receive_buffer / self.sockets.len() as u64;
            let (vigil, received) = (vigil.cloned(), Arc::clone(&received));
            let thread = std::thread::Builder::new().name(name).spawn(move || {
                if let Some(core) = core
                    && let Err(error) = sys::pin_thread(core)
                {
                    tracing::warn!(core, %error, "cannot keep a worker on its core; it runs on any");
                }
                if spec.realtime
                    && spec.transport == Transport::Udp
                    && let Err(error) = sys::realtime_thread()
                {
                    tracing::warn!(%error, "`realtime` is not allowed (it takes CAP_SYS_NICE); a worker waits its turn");
                }
                match runtime {
                    None => {
                        let from = udp::Source { spec, socket, receive_buffer, received };
                        udp::run(&from, shard, vigil.as_ref(), inbox, &woken);
                    }
                    Some(runtime) => runtime.block_on(tcp::run(spec, &socket, shard, vigil, inbox)),
                }
            })?;
            workers.push(Worker { commands, wake, thread });
        }
        let seen = vec![0; self.sockets.len()];
        Ok(Listener {
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
        let (reply, partial) = oneshot::channel();
        // A full or closed inbox drops the command, and with it the reply: the caller sees that.
        let worker = &self.workers[worker];
        let _ = worker.commands.try_send(Command::Close { retire, spare: Box::new(spare), reply });
        worker.wake();
        partial
    }

    /// Datagrams that the kernel has dropped since this was last asked.
    pub fn take_kernel_drops(&mut self) -> u64 {
        if self.transport == Transport::Tcp {
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
    }
}

/// Closes a shard's interval and sends it off.
fn close(shard: &mut Shard, retire: &[Vec<u32>; 5], spare: Columns, reply: oneshot::Sender<Partial>) {
    // If the flusher gave up waiting, the interval goes with the next answer: nothing is taken out before.
    if reply.is_closed() {
        return;
    }
    let _ = reply.send(shard.close(retire, spare));
}

/// Passes on what lines said of presence.
fn pass_on(shard: &mut Shard, vigil: Option<&Vigil>) {
    for signal in shard.take_signals() {
        if let Some(vigil) = vigil {
            vigil.signal(signal);
        }
    }
}

/// Counts what was read.
fn count_bytes(tally: &mut Tally, bytes: usize) {
    tally.bytes += bytes as u64;
}
