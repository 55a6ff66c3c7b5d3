//! Sockets, drained in batches into reused buffers. Each receive worker is a thread that owns a
//! [`Shard`]; a listener has one worker, or several with `SO_REUSEPORT`.
//!
//! The flusher talks to workers with commands. Nothing here waits for anybody downstream: a worker that
//! cannot keep up shows in the kernel's drop counters, which are read here and published.
//!
//! A stop has an order, so that nothing queued is lost and nothing is lost unseen ([`stop`]): connections are read to
//! their end while datagrams are still read; then the kernel is told to refuse datagrams, and what it has queued is read.
//! The flusher closes the last interval, and [`Listener::join`] ends the workers and closes the sockets.

mod bind;
mod connection;
mod datagrams;
pub mod framing;
mod listener;
mod listeners;
pub mod relay;
mod streams;
mod taps;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use socket2::{Socket, Type};

use crate::acl::AccessList;
use crate::protocol::Options;
use crate::telemetry::Tally;

pub use bind::{BoundListener, bind};
pub use listener::Listener;
pub use listeners::{Listeners, stop};
pub use taps::Taps;

/// Connections that the kernel may hold before they are accepted.
const BACKLOG: i32 = 1024;

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
pub enum ListenAddress {
    /// At an address; port 0 lets the kernel choose.
    Ip(SocketAddr),
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
pub struct ListenerOptions {
    /// Datagrams or streams; of an inherited socket it is found out.
    pub transport: Transport,
    /// Where.
    pub address: ListenAddress,
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
    pub protocol: Options,
}

/// Counts what was read.
fn count_bytes(tally: &mut Tally, bytes: usize) {
    tally.listener.bytes += bytes as u64;
}
