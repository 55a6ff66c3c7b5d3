//! A connection of a port: bytes in and out, and how far its request is.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_rustls::server::TlsStream;

use crate::sys::Permit;

use super::counters::PortCounters;
use super::victim::{Phase, Progress};

/// The place of a connection in its port.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) from: SocketAddr,
    progress: Mutex<Progress>,
    /// Told when the connection must end.
    pub(super) closing: Notify,
    counters: Arc<PortCounters>,
    /// Passes to the connection that takes its place.
    permit: Mutex<Option<Permit>>,
}

impl Slot {
    pub(super) fn new(from: SocketAddr, phase: Phase, counters: Arc<PortCounters>, permit: Permit) -> Slot {
        Slot {
            from,
            progress: Mutex::new(Progress::new(phase, Instant::now())),
            closing: Notify::new(),
            counters,
            permit: Mutex::new(Some(permit)),
        }
    }

    /// Its progress. Every change leaves that whole, so a panic elsewhere does not spoil it.
    pub(super) fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn take_permit(&self) -> Option<Permit> {
        self.permit.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// A request is here, but for its body if it has one; it is answered when what comes back is dropped.
    pub(super) fn begin(self: &Arc<Slot>, has_body: bool) -> Answering {
        self.progress().begin(has_body, Instant::now());
        Answering(Arc::clone(self))
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub struct Answering(Arc<Slot>);

impl Answering {
    pub(super) fn slot(&self) -> &Arc<Slot> {
        &self.0
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.counters.count_request();
        self.0.progress().done(Instant::now());
    }
}

/// The part of an address for which connections are counted together: all of IPv4, the network of IPv6, of which one
/// machine has as many addresses as it likes.
pub fn machine(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
    }
}

/// A connection that was accepted.
#[derive(Debug)]
pub struct Conn {
    stream: Stream,
    slot: Arc<Slot>,
}

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Secured(Box<TlsStream<TcpStream>>),
}

impl Conn {
    pub(super) fn plain(stream: TcpStream, slot: Arc<Slot>) -> Conn {
        Conn { stream: Stream::Plain(stream), slot }
    }

    pub(super) fn secured(stream: TlsStream<TcpStream>, slot: Arc<Slot>) -> Conn {
        Conn { stream: Stream::Secured(Box::new(stream)), slot }
    }

    /// The other end.
    pub fn from(&self) -> SocketAddr {
        self.slot.from
    }

    /// A whole request was read; it is answered when what comes back is dropped.
    pub fn begin_answer(&self) -> Answering {
        self.slot.begin(false)
    }

    pub(super) fn slot(&self) -> Arc<Slot> {
        Arc::clone(&self.slot)
    }

    /// Notes whether a write went on.
    fn wrote(&self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let mut progress = self.slot.progress();
        match &polled {
            Poll::Pending => progress.stall(Instant::now()),
            Poll::Ready(_) => progress.sent(),
        }
        drop(progress);
        polled
    }

    /// Notes whether all is sent.
    fn flushed(&self, polled: Poll<io::Result<()>>) -> Poll<io::Result<()>> {
        let mut progress = self.slot.progress();
        match &polled {
            Poll::Pending => progress.stall(Instant::now()),
            Poll::Ready(_) => progress.flushed(),
        }
        drop(progress);
        polled
    }
}

macro_rules! on_stream {
    ($conn:expr, $stream:ident => $call:expr) => {
        match &mut $conn.stream {
            Stream::Plain($stream) => {
                let $stream = Pin::new($stream);
                $call
            }
            Stream::Secured($stream) => {
                let $stream = Pin::new(&mut **$stream);
                $call
            }
        }
    };
}

impl AsyncRead for Conn {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = on_stream!(self, stream => stream.poll_read(cx, buf));
        let count = buf.filled().len() - before;
        if count > 0 {
            self.slot.progress().heard(count, Instant::now());
        }
        polled
    }
}

impl AsyncWrite for Conn {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = on_stream!(self, stream => stream.poll_write(cx, buf));
        self.wrote(polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = on_stream!(self, stream => stream.poll_flush(cx));
        self.flushed(polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = on_stream!(self, stream => stream.poll_shutdown(cx));
        self.flushed(polled)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Secured(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = on_stream!(self, stream => stream.poll_write_vectored(cx, bufs));
        self.wrote(polled)
    }
}
