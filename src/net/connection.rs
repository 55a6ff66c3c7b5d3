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
pub(super) enum Connection {
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
    pub(super) async fn accept(&self) -> io::Result<(Connection, Option<SocketAddr>)> {
        match self {
            Acceptor::Tcp(listener) => {
                listener.accept().await.map(|(stream, from)| (Connection::Tcp(stream), Some(from)))
            }
            Acceptor::Unix(listener) => listener.accept().await.map(|(stream, _)| (Connection::Unix(stream), None)),
        }
    }
}

/// Accepts a connection that the kernel has queued, without waiting.
///
/// # Errors
/// `WouldBlock` if there is none, or what the kernel says.
pub(super) fn accept_queued(listener: &Socket, transport: Transport) -> io::Result<(Connection, Option<SocketAddr>)> {
    let (socket, from) = listener.accept()?;
    socket.set_nonblocking(true)?;
    match transport {
        Transport::Unix => UnixStream::from_std(socket.into()).map(|stream| (Connection::Unix(stream), None)),
        _ => TcpStream::from_std(socket.into()).map(|stream| (Connection::Tcp(stream), from.as_socket())),
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Connection::Tcp(stream) => stream.as_fd(),
            Connection::Unix(stream) => stream.as_fd(),
        }
    }
}

impl Connection {
    /// Closes the sending direction, so that the sender sees the end; what it has sent can still be read.
    pub(super) fn shut_down_sending(&self) {
        // An error means that the sender is gone.
        let _ = match self {
            Connection::Tcp(stream) => SockRef::from(stream).shutdown(Shutdown::Write),
            Connection::Unix(stream) => SockRef::from(stream).shutdown(Shutdown::Write),
        };
    }

    pub(super) async fn readable(&self) -> io::Result<()> {
        match self {
            Connection::Tcp(stream) => stream.readable().await,
            Connection::Unix(stream) => stream.readable().await,
        }
    }

    pub(super) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Connection::Tcp(stream) => stream.try_read(buffer),
            Connection::Unix(stream) => stream.try_read(buffer),
        }
    }
}
