//! Receiving: sockets are read in batches into reused buffers, by worker threads that own a [`Shard`](crate::aggregate::Shard)
//! each. A listener has one worker, or several with `SO_REUSEPORT`.
//!
//! | file | does |
//! |---|---|
//! | `bind` | opens a listener's sockets |
//! | `listener` | starts its workers, and passes the flusher's commands to them |
//! | `datagrams`, `streams` | the workers: UDP and unix datagrams; TCP and unix streams |
//! | `slots` | how many connections there may be, and which gives way to a new one |
//! | `connection`, `framing` | a connection; cutting its bytes into lines or frames |
//! | `failures` | panics of a worker |
//! | `taps` | copies to presence, capture and relays |
//! | `relay` | relays to other StatsD servers |
//! | `queue` | how full receive buffers are |
//! | `listeners` | all listeners, and the order in which they stop |
//!
//! Workers never wait for what comes after them: one that cannot keep up shows in the kernel's drop counters.
//!
//! A datagram that does not become lines is counted in one of these places, all published as fields of its listener in the
//! ledger and as the series `systole.FIELD{listener=…}`:
//!
//! | field | counted in | when |
//! |---|---|---|
//! | `kernel_drops` | [`Listener::take_kernel_drops`] | the receive buffer was full; the kernel's counter is read each second and at each flush |
//! | `refused` | `datagrams::read` | the sender is not in `allow` |
//! | `truncated` | `datagrams::read` | it is longer than `max_datagram`; its whole lines are used |
//! | `unread` | `datagrams::count_unread` | it was still queued at the deadline of a stop |
//!
//! Of streams, `refused` counts connections (`streams::Shared::refuse`) and `unread_bytes` what a stop, or closing a connection,
//! left unread.
//! What taps cannot take is counted by them: `presence.queue_drops`, `capture.lost`, `relays.*.dropped`.
//!
//! A stop has an order, so that nothing queued is lost and nothing is lost unseen ([`Listeners::stop`]): connections are read
//! to their end while datagrams are still read; then the kernel is told to refuse datagrams, and what it has queued is read.
//! The flusher closes the last interval, and [`Listener::join`] ends the workers and closes the sockets.

mod bind;
mod connection;
mod datagrams;
mod failures;
pub mod framing;
mod listener;
mod listeners;
mod queue;
pub mod relay;
#[cfg(feature = "internals")]
mod simulated;
mod slots;
mod streams;
mod taps;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use socket2::{Socket, Type};

use crate::acl::AccessList;
use crate::ports::ServerTls;
use crate::protocol::Options;
use crate::telemetry::Tally;

pub use bind::{BoundListener, bind};
pub use connection::OpenConnection;
pub use listener::{Hold, Listener, NextShards, WorkerChange};
pub use listeners::{Listeners, NamedConnection, stop};
pub use queue::QueueWatch;
#[cfg(feature = "internals")]
pub use simulated::SimulatedSocket;
pub use taps::Taps;

/// Most connections that the kernel queues before they are accepted; `net.core.somaxconn` may be lower. One more is not
/// answered, and its client tries again only after a second.
const BACKLOG: i32 = 4096;

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
    /// Its name in captures.
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

    /// The transport of a socket that another process opened.
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
pub enum ListenAddress {
    /// At an address; port 0 lets the kernel choose.
    Ip(SocketAddr),
    /// At a path, with these permissions.
    Path(PathBuf, u32),
    /// At a socket that the service manager passed, by its name or number.
    Inherited(String),
}

/// How streams are cut into messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// At newlines.
    Newline,
    /// By a length before each, 4 bytes, little-endian.
    Length,
}

/// The options of a listener.
#[derive(Clone, Debug)]
pub struct ListenerOptions {
    /// Datagrams or streams; an inherited socket overrides it.
    pub transport: Transport,
    /// Where it listens.
    pub address: ListenAddress,
    /// How streams are cut into messages.
    pub framing: Framing,
    /// Receive workers of UDP, at least 1.
    pub workers: usize,
    /// Requested receive buffer, bytes.
    pub receive_buffer: u64,
    /// Exceed `net.core.rmem_max` where the process may.
    pub receive_buffer_force: bool,
    /// Longest datagram, or line of a stream, bytes.
    pub max_datagram: usize,
    /// Cores that workers are pinned to, in turn; empty for none.
    pub cores: Vec<usize>,
    /// Busy-poll the device for so many microseconds when nothing is queued.
    pub busy_poll_us: Option<u32>,
    /// Run workers with a real-time priority.
    pub realtime: bool,
    /// Addresses that may send.
    pub allow: AccessList,
    /// Ask the kernel for the sender of every datagram, because presence needs it.
    pub with_senders: bool,
    /// Most connections at once.
    pub max_connections: usize,
    /// Most of them from one address.
    pub max_connections_per_address: usize,
    /// Time after which a connection without a whole line is closed.
    pub idle_timeout: Duration,
    /// TLS of TCP connections.
    pub tls: Option<ServerTls>,
    /// How lines are parsed.
    pub protocol: Options,
}

/// Counts received bytes.
fn count_bytes(tally: &mut Tally, bytes: usize) {
    tally.listener.bytes += bytes as u64;
}
