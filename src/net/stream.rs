//! Connections, of TCP or unix sockets alike.

use std::io;
use std::net::SocketAddr;

use socket2::Socket;
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

impl Stream {
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
