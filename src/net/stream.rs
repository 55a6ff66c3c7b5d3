//! Connections, of TCP or unix sockets alike.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use socket2::{SockRef, Socket};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::Transport;

/// Accepts connections.
pub(super) enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A connection.
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Acceptor {
    pub(super) fn new(socket: &Socket, transport: Transport) -> io::Result<Acceptor> {
        let socket = socket.try_clone()?;
        match transport {
            Transport::Unix => UnixListener::from_std(socket.into()).map(Acceptor::Unix),
            _ => TcpListener::from_std(socket.into()).map(Acceptor::Tcp),
        }
    }

    /// The next connection, and where it comes from if that can be told.
    pub(super) async fn accept(&self) -> io::Result<(Stream, Option<SocketAddr>)> {
        match self {
            Acceptor::Tcp(listener) => listener.accept().await.map(|(stream, from)| (Stream::Tcp(stream), Some(from))),
            Acceptor::Unix(listener) => listener.accept().await.map(|(stream, _)| (Stream::Unix(stream), None)),
        }
    }
}

/// A connection that the kernel has completed already, without waiting for one.
///
/// # Errors
/// `WouldBlock` if there is none, or what the kernel says.
pub(super) fn accept_queued(listener: &Socket, transport: Transport) -> io::Result<(Stream, Option<SocketAddr>)> {
    let (socket, from) = listener.accept()?;
    socket.set_nonblocking(true)?;
    match transport {
        Transport::Unix => UnixStream::from_std(socket.into()).map(|stream| (Stream::Unix(stream), None)),
        _ => TcpStream::from_std(socket.into()).map(|stream| (Stream::Tcp(stream), from.as_socket())),
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Tcp(stream) => stream.as_fd(),
            Stream::Unix(stream) => stream.as_fd(),
        }
    }
}

impl Stream {
    /// Tells the sender that we end; what it has sent can still be read.
    pub(super) fn say_goodbye(&self) {
        // One that has gone needs not be told.
        let _ = match self {
            Stream::Tcp(stream) => SockRef::from(stream).shutdown(Shutdown::Write),
            Stream::Unix(stream) => SockRef::from(stream).shutdown(Shutdown::Write),
        };
    }

    pub(super) async fn readable(&self) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.readable().await,
            Stream::Unix(stream) => stream.readable().await,
        }
    }

    pub(super) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.try_read(buffer),
            Stream::Unix(stream) => stream.try_read(buffer),
        }
    }
}
