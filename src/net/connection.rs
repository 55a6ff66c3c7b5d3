//! Connections, of TCP, with TLS or without, or of unix sockets alike.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustls::{ServerConfig, ServerConnection};
use socket2::{SockRef, Socket};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::memory::footprint;
use crate::senders::Origin;
use crate::sys;

use super::Transport;
use super::framing::Begun;

/// Reads of TLS before other connections have their turns.
const TLS_READS: usize = 16;

/// Bytes that the TLS of a connection allocates beside itself, as they were measured with 600 connections.
const TLS_BYTES: usize = 7600;

/// Most bytes of an unfinished line that are passed on with its connection.
const MOST_BEGUN: usize = 8 << 10;

/// How a connection is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// After [`Connection::readable`]: until the runtime has news of it, there is nothing.
    WhenReady,
    /// What the kernel has at this moment.
    Directly,
}

/// Accepts connections.
pub(super) enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// An open connection, for another process that reads on.
#[derive(Debug)]
pub struct OpenConnection {
    /// The socket. Nobody reads it, and whoever may go on with it shares it: there may be no descriptor for another one.
    pub socket: Arc<OwnedFd>,
    /// What it has sent of a line that is not whole.
    pub begun: Begun,
}

impl OpenConnection {
    /// The same, without what has begun.
    pub(super) fn socket_alone(&self) -> OpenConnection {
        OpenConnection { socket: Arc::clone(&self.socket), begun: Begun::default() }
    }

    /// To be read here, with where it comes from and what has come of a line. Nobody else is to have it any more.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn open(self, transport: Transport) -> io::Result<(Connection, Option<SocketAddr>, Begun)> {
        let socket = Arc::try_unwrap(self.socket).or_else(|shared| shared.try_clone())?;
        let socket = Socket::from(socket);
        // A client that has gone has none any more.
        let from = socket.peer_addr().ok().and_then(|from| from.as_socket());
        Ok((Connection::new(socket, transport)?, from, self.begun))
    }
}

/// A connection.
pub(super) enum Connection {
    Tcp(TcpStream),
    Tls(Box<TlsConnection>),
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
    // A unix socket's address is no place.
    Ok((Connection::new(socket, transport)?, from.as_socket()))
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Connection::Tcp(stream) => stream.as_fd(),
            Connection::Tls(tls) => tls.stream.as_fd(),
            Connection::Unix(stream) => stream.as_fd(),
        }
    }
}

impl Connection {
    /// Of a socket that is connected.
    fn new(socket: Socket, transport: Transport) -> io::Result<Connection> {
        socket.set_nonblocking(true)?;
        match transport {
            Transport::Unix => UnixStream::from_std(socket.into()).map(Connection::Unix),
            _ => TcpStream::from_std(socket.into()).map(Connection::Tcp),
        }
    }

    /// The same with TLS, whose handshake is to come.
    ///
    /// # Errors
    /// If the configuration cannot be used.
    pub(super) fn secured(self, config: Arc<ServerConfig>) -> io::Result<Connection> {
        let Connection::Tcp(stream) = self else { return Ok(self) };
        let tls = ServerConnection::new(config).map_err(io::Error::other)?;
        Ok(Connection::Tls(Box::new(TlsConnection {
            stream,
            tls,
            taken: 0,
            is_pending: false,
            record: Record::default(),
        })))
    }

    /// Where its bytes come from: an address, or of a unix socket the process that connected.
    pub(super) fn origin(&self, from: Option<SocketAddr>) -> Origin {
        match (self, from) {
            (_, Some(from)) => Origin::at(from.ip()),
            (Connection::Unix(stream), None) => stream.peer_cred().map_or(Origin::Unknown, |who| {
                // 0 stands for a process that this one cannot see.
                let pid = who.pid().and_then(|pid| u32::try_from(pid).ok()).filter(|&pid| pid > 0);
                pid.map_or(Origin::Unknown, |pid| Origin::Process { pid, uid: who.uid() })
            }),
            (Connection::Tcp(_) | Connection::Tls(_), None) => Origin::Unknown,
        }
    }

    /// Whether another process could read on after these bytes of a line: of TLS this one alone has the keys, and a line of which
    /// much has come is too long to be passed on.
    pub(super) fn is_passable(&self, begun: &Begun) -> bool {
        !matches!(self, Connection::Tls(_)) && begun.bytes.len() <= MOST_BEGUN
    }

    /// Reads nothing more, so that another process can read on.
    ///
    /// # Errors
    /// What the kernel says, and of a connection with TLS.
    pub(super) fn into_open(self, begun: Begun) -> io::Result<OpenConnection> {
        let socket: OwnedFd = match self {
            Connection::Tcp(stream) => stream.into_std()?.into(),
            Connection::Unix(stream) => stream.into_std()?.into(),
            Connection::Tls(_) => return Err(io::ErrorKind::Unsupported.into()),
        };
        Ok(OpenConnection { socket: Arc::new(socket), begun })
    }

    /// Whether nothing can be read before [`Connection::shake_hands`].
    pub(super) fn is_handshaking(&self) -> bool {
        matches!(self, Connection::Tls(tls) if tls.tls.is_handshaking())
    }

    /// Sets TLS up.
    ///
    /// # Errors
    /// Why that fails: the client has closed, speaks no TLS, or shows no certificate that is good.
    pub(super) async fn shake_hands(&mut self) -> io::Result<()> {
        match self {
            Connection::Tls(tls) => tls.shake_hands().await,
            Connection::Tcp(_) | Connection::Unix(_) => Ok(()),
        }
    }

    /// Closes the sending direction, so that the sender sees the end; what it has sent can still be read.
    pub(super) fn shut_down_sending(&mut self) {
        // An error means that the sender is gone.
        let _ = match self {
            Connection::Tcp(stream) => SockRef::from(&*stream).shutdown(Shutdown::Write),
            Connection::Tls(tls) => {
                tls.tls.send_close_notify();
                tls.send();
                SockRef::from(&tls.stream).shutdown(Shutdown::Write)
            }
            Connection::Unix(stream) => SockRef::from(&*stream).shutdown(Shutdown::Write),
        };
    }

    /// Bytes that it has allocated: TLS keeps a record that is not whole.
    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Connection::Tls(tls) => footprint(size_of::<TlsConnection>()) + TLS_BYTES + footprint(tls.record.begun()),
            Connection::Tcp(_) | Connection::Unix(_) => 0,
        }
    }

    pub(super) async fn readable(&self) -> io::Result<()> {
        match self {
            Connection::Tcp(stream) => stream.readable().await,
            Connection::Tls(tls) if tls.is_pending => Ok(()),
            Connection::Tls(tls) => tls.stream.readable().await,
            Connection::Unix(stream) => stream.readable().await,
        }
    }

    /// Reads without waiting. Returns the bytes of the stream, and those that the kernel gave for it: of TLS more.
    pub(super) fn try_read(&mut self, buffer: &mut [u8], way: Way) -> io::Result<(usize, usize)> {
        let count = match (&mut *self, way) {
            (Connection::Tls(tls), way) => {
                let read = tls.try_read(buffer, way);
                let taken = std::mem::take(&mut tls.taken);
                return read.map(|count| (count, taken));
            }
            (Connection::Tcp(stream), Way::WhenReady) => stream.try_read(buffer),
            (Connection::Unix(stream), Way::WhenReady) => stream.try_read(buffer),
            (_, Way::Directly) => sys::read_directly(self, buffer),
        }?;
        Ok((count, count))
    }

    /// Bytes that have come and that nobody will read if this is closed now: what the kernel holds, and of TLS the beginning
    /// of a record whose end is missing.
    pub(super) fn unread(&self) -> usize {
        let begun = if let Connection::Tls(tls) = self { tls.record.begun() } else { 0 };
        sys::unread_bytes(self) + begun
    }
}

/// A connection with TLS.
pub(super) struct TlsConnection {
    stream: TcpStream,
    tls: ServerConnection,
    /// Bytes that the kernel gave since that was asked last.
    taken: usize,
    /// Whether there may be decrypted bytes that nobody has read.
    is_pending: bool,
    record: Record,
}

impl TlsConnection {
    async fn shake_hands(&mut self) -> io::Result<()> {
        loop {
            while self.tls.wants_write() {
                match self.tls.write_tls(&mut Raw { stream: &self.stream }) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.stream.writable().await?,
                    outcome => drop(outcome?),
                }
            }
            if !self.tls.is_handshaking() {
                return Ok(());
            }
            self.stream.readable().await?;
            match self.pull(Way::WhenReady) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if is_temporary(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes what the kernel has of a record or two. Returns how many bytes.
    fn pull(&mut self, way: Way) -> io::Result<usize> {
        let mut counted = Counted { stream: &self.stream, way, record: &mut self.record };
        let count = self.tls.read_tls(&mut counted)?;
        self.taken += count;
        self.is_pending = true;
        let outcome = self.tls.process_new_packets();
        // An alert that tells the client what is wrong, or what the client asked for.
        self.send();
        outcome.map(|_| count).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// Sends what is to be sent as far as the kernel takes it; the rest is sent the next time.
    fn send(&mut self) {
        while self.tls.wants_write() {
            // If the client is gone, reading tells.
            if self.tls.write_tls(&mut Raw { stream: &self.stream }).is_err() {
                return;
            }
        }
    }

    fn try_read(&mut self, buffer: &mut [u8], way: Way) -> io::Result<usize> {
        for _ in 0..TLS_READS {
            match self.tls.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.is_pending = false,
                // The end, if the client said that it is one; without that, `UnexpectedEof`.
                outcome => return outcome,
            }
            if let Err(error) = self.pull(way) {
                // What came before a bad record is good.
                let before = self.tls.reader().read(buffer).unwrap_or(0);
                return if before > 0 { Ok(before) } else { Err(error) };
            }
        }
        // Much that has no content: others have their turns.
        Err(io::ErrorKind::WouldBlock.into())
    }
}

/// Whether an error only says that there is nothing to read now.
pub(super) fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// A socket to be written without waiting.
struct Raw<'a> {
    stream: &'a TcpStream,
}

impl Write for Raw<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One to be read so, which keeps count of records.
struct Counted<'a> {
    stream: &'a TcpStream,
    way: Way,
    record: &'a mut Record,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match self.way {
            Way::WhenReady => self.stream.try_read(buffer)?,
            Way::Directly => sys::read_directly(self.stream, buffer)?,
        };
        self.record.note(&buffer[..count]);
        Ok(count)
    }
}

/// How much of a record of TLS is here (RFC 8446, 5.1: a head of 5 bytes, of which two are the length of the rest).
#[derive(Clone, Copy, Debug, Default)]
struct Record {
    head: [u8; 5],
    /// Bytes of it that have come.
    come: usize,
}

impl Record {
    fn note(&mut self, mut bytes: &[u8]) {
        while let Some(&first) = bytes.first() {
            if let Some(place) = self.head.get_mut(self.come) {
                *place = first;
                (self.come, bytes) = (self.come + 1, &bytes[1..]);
            } else {
                let more = bytes.len().min(self.length() - self.come);
                (self.come, bytes) = (self.come + more, &bytes[more..]);
            }
            if self.come >= self.head.len() && self.come == self.length() {
                self.come = 0;
            }
        }
    }

    /// Of the whole record, once its head is here.
    fn length(&self) -> usize {
        let [.., high, low] = self.head;
        self.head.len() + usize::from(u16::from_be_bytes([high, low]))
    }

    /// Bytes of a record whose end is missing.
    fn begun(self) -> usize {
        self.come
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_of_a_record_is_what_came_after_the_last_whole_one() {
        let one = [&[23, 3, 3, 1, 4][..], &[9; 260]].concat();
        let empty = [23, 3, 3, 0, 0];
        let all = [&one[..], &empty, &one, &one[..7]].concat();
        for piece in [1, 2, 5, 6, 100, all.len()] {
            let mut record = Record::default();
            let mut come = 0;
            for bytes in all.chunks(piece) {
                record.note(bytes);
                come += bytes.len();
                let whole = [0, 265, 270, 535].into_iter().rfind(|&end| end <= come).expect("0 is one");
                assert_eq!(record.begun(), come - whole, "{come} bytes in pieces of {piece}");
            }
        }
    }
}
