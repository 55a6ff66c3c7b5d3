//! Opens the sockets of a listener.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::ports::ServerTls;
use crate::sys;

use super::listener::Outlives;
use super::{BACKLOG, ListenAddress, ListenerOptions, Transport};

/// A listener whose sockets are bound and not read yet.
#[derive(Debug)]
pub struct BoundListener {
    pub(super) options: ListenerOptions,
    pub(super) sockets: Vec<Arc<Socket>>,
    /// The first so many of them are another process's, or were.
    pub(super) passed: usize,
    pub(super) file: Option<SocketFile>,
    pub(super) address: Option<SocketAddr>,
    pub(super) receive_buffer: u64,
}

/// Binds a listener's sockets.
///
/// # Errors
/// An error of the kernel, without the address.
pub fn bind(mut options: ListenerOptions) -> io::Result<BoundListener> {
    let (mut sockets, mut file) = (Vec::new(), None);
    let count_passed;
    match options.address.clone() {
        ListenAddress::Ip(mut address) => {
            let count = if options.transport == Transport::Udp { options.workers.max(1) } else { 1 };
            // All that were passed are taken, also if they are more: closing one would lose what waits in it.
            sockets.extend(passed(options.transport, &address.into()));
            count_passed = sockets.len();
            for socket in sockets.iter().filter(|_| count > 1) {
                socket.set_reuse_port(true)?;
            }
            for n in sockets.len()..count {
                // With SO_REUSEPORT a second daemon could share the port unnoticed. So the first socket is bound without it,
                // and gets it afterwards, for the others. A trial socket would take datagrams with it when it is closed.
                let socket = open(options.transport, address, n > 0)?;
                if n == 0 && count > 1 {
                    socket.set_reuse_port(true)?;
                }
                address = socket.local_addr()?.as_socket().unwrap_or(address);
                sockets.push(Arc::new(socket));
            }
        }
        ListenAddress::Path(path, mode) => {
            let before = passed(options.transport, &SockAddr::unix(&path)?).next();
            // Nobody finds a socket without its file.
            let before = before.filter(|_| path.symlink_metadata().is_ok_and(|file| file.file_type().is_socket()));
            // Until this one is started the file is that of the process before.
            let is_kept = Outlives::new(before.is_some().into());
            count_passed = usize::from(before.is_some());
            sockets.push(match before {
                Some(socket) => {
                    fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
                    socket
                }
                None => Arc::new(open_path(options.transport, &path, mode)?),
            });
            let file_number = number_of(&path)?;
            file = Some(SocketFile { path, file_number, is_kept });
        }
        ListenAddress::Inherited(name) => {
            let socket = sys::inherited_socket(&name)?;
            socket.set_nonblocking(true)?;
            options.transport = Transport::of(&socket)?;
            if options.tls.is_some() && options.transport != Transport::Tcp {
                return Err(io::Error::new(io::ErrorKind::Unsupported, "TLS takes a TCP socket, and this is none"));
            }
            sockets.push(Arc::new(socket));
            count_passed = 1;
        }
    }
    let mut receive_buffer = 0;
    for socket in sockets.iter().filter(|_| options.transport == Transport::Udp) {
        // Optional: old kernels do not support it.
        let _ = sys::receive_coalesced(socket);
        if let Some(microseconds) = options.busy_poll_us {
            sys::busy_poll(socket, microseconds)?;
        }
        receive_buffer += sys::set_receive_buffer(socket, options.receive_buffer, options.receive_buffer_force)?;
    }
    if options.transport == Transport::Unixgram {
        // Without it nobody knows which process sends; everything else works.
        let _ = sockets[0].set_passcred(true);
    }
    let address = sockets[0].local_addr()?.as_socket();
    Ok(BoundListener { options, sockets, passed: count_passed, file, address, receive_buffer })
}

/// Sockets of this address that the process before this one has passed.
fn passed(transport: Transport, address: &SockAddr) -> impl Iterator<Item = Arc<Socket>> {
    let kind = if transport.has_datagrams() { Type::DGRAM } else { Type::STREAM };
    std::iter::from_fn(move || sys::take_bound(kind, address).map(Arc::new))
}

/// The file of a unix socket. It is removed with the listener, also with one that never starts, unless another process
/// goes on with the socket.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Its device and inode: another socket may have taken the path.
    file_number: (u64, u64),
    pub(super) is_kept: Outlives,
}

/// Device and inode of a file.
fn number_of(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_own = || number_of(&self.path).is_ok_and(|number| number == self.file_number);
        if !self.is_kept.load(Ordering::Relaxed) && is_own() {
            // It may be gone already.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Opens a unix socket at a path. A stale socket file is replaced; one that a process listens at is an error.
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

pub(super) fn open(transport: Transport, address: SocketAddr, reuse_port: bool) -> io::Result<Socket> {
    let datagrams = transport.has_datagrams();
    let (kind, protocol) = if datagrams { (Type::DGRAM, Protocol::UDP) } else { (Type::STREAM, Protocol::TCP) };
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    if reuse_port {
        socket.set_reuse_port(true)?;
    }
    if !datagrams {
        // A restart does not wait for old connections to time out.
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

impl BoundListener {
    /// Number of workers, and so of shards.
    pub fn workers(&self) -> usize {
        self.sockets.len()
    }

    /// The address, with the port that the kernel chose; `None` for a unix socket.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// TLS of its connections.
    pub fn tls(&self) -> Option<&ServerTls> {
        self.options.tls.as_ref()
    }

    /// Datagrams or streams.
    pub fn transport(&self) -> Transport {
        self.options.transport
    }

    /// Receive buffer that was asked for, of each worker, bytes.
    pub fn receive_buffer_asked(&self) -> u64 {
        self.options.receive_buffer
    }

    /// Receive buffer that the kernel granted, all workers together, bytes.
    pub fn receive_buffer(&self) -> u64 {
        self.receive_buffer
    }

    /// Whether the kernel granted less than requested.
    pub fn is_short_of_buffer(&self) -> bool {
        self.options.transport == Transport::Udp
            && self.receive_buffer < self.options.receive_buffer * self.sockets.len() as u64
    }
}
