//! The `unsafe` of this crate, each block with the reason why it is sound: datagrams in batches (`recvmmsg`, `sendmmsg`),
//! socket options and calls that rustix and socket2 do not have. Callers see safe functions.
//!
//! `recvmmsg` over reused buffers gives fewer wake-ups and whole batches for the parser. Other crates were measured:
//! quinn-udp hides truncation and costs 70 % more, nix rebuilds its slices for every call.
//!
//! `tests/sanitize` runs the tests of this module under AddressSanitizer, which knows what the kernel writes in these calls.
#![allow(unsafe_code)]

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;
use std::sync::{Mutex, PoisonError};

use socket2::Socket;

use super::descriptors::restore_descriptor_limit;

/// Messages read with one system call; each is a datagram, or several coalesced ones.
pub const BATCH_DATAGRAMS: usize = 64;

/// Size of a buffer: the largest message.
const BUFFER_BYTES: usize = 64 << 10;

/// Room for the one requested control message: the size of the segments, or who sent.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; 64]);

/// Of it, what the credentials of a sender take.
// SAFETY: the macro computes with the length alone.
const CREDENTIALS_BYTES: usize = unsafe { libc::CMSG_SPACE(size_of::<libc::ucred>() as libc::c_uint) } as usize;

/// Buffers for a batch of messages, with the messages of the last call.
pub struct Batch {
    /// `BATCH_DATAGRAMS` buffers of `BUFFER_BYTES` bytes, one after the other.
    buffers: Box<[u8]>,
    iovecs: Box<[libc::iovec]>,
    names: Box<[libc::sockaddr_storage]>,
    controls: Box<[Control]>,
    headers: Box<[libc::mmsghdr]>,
    received: usize,
    /// Whether the headers ask for senders.
    with_senders: bool,
    /// Whether the socket is a unix socket.
    is_unix: bool,
    /// Room for control messages where senders are asked for, and where not, in bytes.
    control_bytes: [usize; 2],
}

// SAFETY: the raw pointers in `iovecs` and `headers` point into the boxed slices of the same value, which are
// never reallocated and move with it; nothing else holds them.
unsafe impl Send for Batch {}

/// One datagram of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// The bytes.
    pub bytes: &'a [u8],
    /// The sender, if it was requested.
    pub from: Option<SocketAddr>,
    /// Of a unix socket the process that sent it, by number and user, if that was requested.
    pub process: Option<(u32, u32)>,
    /// Whether the kernel truncated it because it was larger than the buffer.
    pub truncated: bool,
}

impl Default for Batch {
    fn default() -> Batch {
        Batch::new()
    }
}

impl Batch {
    /// Buffers for a batch. Pages are allocated as messages fill them.
    pub fn new() -> Batch {
        let mut buffers = vec![0; BATCH_DATAGRAMS * BUFFER_BYTES].into_boxed_slice();
        let mut iovecs: Box<[libc::iovec]> = buffers
            .chunks_exact_mut(BUFFER_BYTES)
            .map(|chunk| libc::iovec { iov_base: chunk.as_mut_ptr().cast(), iov_len: BUFFER_BYTES })
            .collect();
        // SAFETY: it is a plain C structure for which all zeros is a valid value.
        let mut names: Box<[libc::sockaddr_storage]> = (0..BATCH_DATAGRAMS).map(|_| unsafe { zeroed() }).collect();
        let mut controls = vec![Control([0; 64]); BATCH_DATAGRAMS].into_boxed_slice();
        let headers = iovecs
            .iter_mut()
            .zip(names.iter_mut().zip(controls.iter_mut()))
            .map(|(iovec, (name, control))| {
                // SAFETY: all zeros is a valid `mmsghdr`: null pointers with zero lengths.
                let mut header: libc::mmsghdr = unsafe { zeroed() };
                header.msg_hdr.msg_iov = iovec;
                header.msg_hdr.msg_iovlen = 1;
                header.msg_hdr.msg_name = ptr::from_mut(name).cast();
                header.msg_hdr.msg_control = control.0.as_mut_ptr().cast();
                header
            })
            .collect();
        let control_bytes = [size_of::<Control>(); 2];
        Batch {
            buffers,
            iovecs,
            names,
            controls,
            headers,
            received: 0,
            with_senders: false,
            is_unix: false,
            control_bytes,
        }
    }

    /// For this unix socket: there are no segments, and senders are processes if it has `SO_PASSCRED`.
    ///
    /// A sender may add descriptors (`SCM_RIGHTS`), which the kernel installs here if there is room for their message. So
    /// there is room for the credentials alone, which come first, and for nothing where there are none.
    #[must_use]
    pub fn of_unix(self, socket: &Socket) -> Batch {
        let with_senders = if socket.passcred().unwrap_or(false) { CREDENTIALS_BYTES } else { 0 };
        Batch { is_unix: true, control_bytes: [with_senders, 0], ..self }
    }

    /// Reads what is queued, up to a batch, without waiting; returns the number of messages. Senders cost time, so they are
    /// requested only `with_senders`.
    ///
    /// # Errors
    /// `WouldBlock` if nothing is queued, or what the kernel says.
    #[inline]
    pub fn receive(&mut self, socket: &impl AsFd, with_senders: bool) -> io::Result<usize> {
        debug_assert_eq!((self.iovecs.len(), self.controls.len()), (BATCH_DATAGRAMS, BATCH_DATAGRAMS));
        let name_len = if with_senders { size_of::<libc::sockaddr_storage>() as libc::socklen_t } else { 0 };
        let control_len = self.control_bytes[usize::from(!with_senders)];
        // Only the headers of the last call's messages need a reset, unless the request for senders changes.
        let is_other = self.received == 0 || with_senders != self.with_senders;
        let used = if is_other { BATCH_DATAGRAMS } else { self.received };
        self.with_senders = with_senders;
        for (header, name) in self.headers[..used].iter_mut().zip(&mut self.names) {
            header.msg_hdr.msg_controllen = control_len;
            header.msg_hdr.msg_namelen = name_len;
            header.msg_hdr.msg_name = if with_senders { ptr::from_mut(name).cast() } else { ptr::null_mut() };
        }
        self.received = 0;
        // SAFETY: `headers` holds BATCH_DATAGRAMS initialised headers whose iovecs, names and control buffers are
        // live memory of this value, of the lengths they state, that nothing else borrows while `self` is
        // borrowed mutably. A null timeout is allowed.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_fd().as_raw_fd(),
                self.headers.as_mut_ptr(),
                BATCH_DATAGRAMS as libc::c_uint,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        if count < 0 {
            return Err(io::Error::last_os_error());
        }
        self.received = count as usize;
        Ok(self.received)
    }

    /// The datagrams of the last call: a message of several segments is split.
    #[inline]
    pub fn datagrams(&self) -> impl Iterator<Item = Datagram<'_>> {
        let messages =
            self.headers[..self.received].iter().zip(&self.names).zip(self.buffers.chunks_exact(BUFFER_BYTES));
        messages.flat_map(|((header, name), buffer)| {
            let bytes = &buffer[..(header.msg_len as usize).min(BUFFER_BYTES)];
            let from = if header.msg_hdr.msg_namelen > 0 { address(name) } else { None };
            let truncated = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
            let process = if self.is_unix { credentials(header) } else { None };
            let segment = if self.is_unix { None } else { segment_bytes(header) }.unwrap_or(bytes.len());
            Segments { rest: bytes, segment: segment.max(1), empty: bytes.is_empty() }.map(move |bytes| Datagram {
                bytes,
                from,
                process,
                truncated,
            })
        })
    }
}

/// Splits a message into its segments; an empty message is one empty datagram.
struct Segments<'a> {
    rest: &'a [u8],
    segment: usize,
    empty: bool,
}

impl<'a> Iterator for Segments<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() {
            return std::mem::take(&mut self.empty).then_some(self.rest);
        }
        let (first, rest) = self.rest.split_at(self.segment.min(self.rest.len()));
        self.rest = rest;
        Some(first)
    }
}

/// The size of a message's segments, if the kernel put several into it.
#[inline]
fn segment_bytes(header: &libc::mmsghdr) -> Option<usize> {
    if header.msg_hdr.msg_controllen == 0 {
        return None;
    }
    // SAFETY: the kernel filled the control buffer, which is live and aligned, and stated its length; the macros
    // of the C library walk it within that length, and the payload of a `UDP_GRO` message is a `c_int`.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(&raw const header.msg_hdr);
        while !message.is_null() {
            if (*message).cmsg_level == libc::SOL_UDP && (*message).cmsg_type == libc::UDP_GRO {
                let size = ptr::read_unaligned(libc::CMSG_DATA(message).cast::<libc::c_int>());
                return usize::try_from(size).ok().filter(|&size| size > 0);
            }
            message = libc::CMSG_NXTHDR(&raw const header.msg_hdr, message);
        }
    }
    None
}

/// The number and the user of the process that sent a message, if the kernel says so.
fn credentials(header: &libc::mmsghdr) -> Option<(u32, u32)> {
    if header.msg_hdr.msg_controllen == 0 {
        return None;
    }
    // SAFETY: as in `segment_bytes`; the payload of a message `SCM_CREDENTIALS` is a `ucred`.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(&raw const header.msg_hdr);
        while !message.is_null() {
            if (*message).cmsg_level == libc::SOL_SOCKET && (*message).cmsg_type == libc::SCM_CREDENTIALS {
                let who = ptr::read_unaligned(libc::CMSG_DATA(message).cast::<libc::ucred>());
                // 0 stands for a process that this one cannot see.
                return u32::try_from(who.pid).ok().filter(|&pid| pid > 0).map(|pid| (pid, who.uid));
            }
            message = libc::CMSG_NXTHDR(&raw const header.msg_hdr, message);
        }
    }
    None
}

fn address(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that the kernel wrote a `sockaddr_in`, and a `sockaddr_storage` is at
            // least as large and as strictly aligned.
            let v4 = unsafe { &*ptr::from_ref(name).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddr::new(IpAddr::V4(ip), u16::from_be(v4.sin_port)))
        }
        libc::AF_INET6 => {
            // SAFETY: as above, with `sockaddr_in6`.
            let v6 = unsafe { &*ptr::from_ref(name).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Some(SocketAddr::new(IpAddr::V6(ip), u16::from_be(v6.sin6_port)))
        }
        _ => None,
    }
}

/// Prepared datagrams that are sent repeatedly.
pub struct Outgoing {
    _bytes: Box<[u8]>,
    _iovecs: Box<[libc::iovec]>,
    headers: Box<[libc::mmsghdr]>,
}

// SAFETY: the raw pointers in the headers point into the boxed slices of the same value, which are never changed,
// never reallocated, and move with it.
unsafe impl Send for Outgoing {}

impl Outgoing {
    /// Prepares the datagrams.
    pub fn new(datagrams: &[Vec<u8>]) -> Outgoing {
        let mut bytes = datagrams.concat().into_boxed_slice();
        let mut rest = &mut bytes[..];
        let mut iovecs: Box<[libc::iovec]> = datagrams
            .iter()
            .map(|datagram| {
                let (one, more) = std::mem::take(&mut rest).split_at_mut(datagram.len());
                rest = more;
                libc::iovec { iov_base: one.as_mut_ptr().cast(), iov_len: one.len() }
            })
            .collect();
        let headers = iovecs
            .iter_mut()
            .map(|iovec| {
                // SAFETY: all zeros is a valid `mmsghdr`: null pointers with zero lengths.
                let mut header: libc::mmsghdr = unsafe { zeroed() };
                header.msg_hdr.msg_iov = iovec;
                header.msg_hdr.msg_iovlen = 1;
                header
            })
            .collect();
        Outgoing { _bytes: bytes, _iovecs: iovecs, headers }
    }

    /// How many datagrams there are.
    pub fn len(&self) -> usize {
        self.headers.len()
    }

    /// Whether there are none.
    #[cfg(feature = "internals")]
    pub fn is_empty(&self) -> bool {
        self.headers.is_empty()
    }
}

/// Sends up to `count` datagrams from the `first` on over a connected socket; returns how many the kernel accepted.
///
/// # Errors
/// The kernel's error if it accepted none.
pub fn send_batch(socket: &Socket, out: &mut Outgoing, first: usize, count: usize) -> io::Result<usize> {
    let headers = &mut out.headers[first..];
    let count = count.min(headers.len());
    // SAFETY: `headers` holds at least `count` initialised headers, whose iovecs point to live memory of `out` of
    // the lengths they state; names and control buffers are null.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count as libc::c_uint, 0) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(sent as usize) }
}

/// Makes the kernel cut each send into datagrams of `bytes` bytes (`UDP_SEGMENT`); only the last may be shorter. 0
/// switches that off.
///
/// # Errors
/// If the kernel does not know it.
pub fn send_segmented(socket: &Socket, bytes: u16) -> io::Result<()> {
    set_udp_option(socket, libc::UDP_SEGMENT, libc::c_int::from(bytes))
}

/// Lets the kernel deliver coalesced datagrams as one message (`UDP_GRO`): a sender that segments its sends is then many
/// times cheaper to read.
///
/// # Errors
/// If the kernel does not know it.
pub fn receive_coalesced(socket: &Socket) -> io::Result<()> {
    set_udp_option(socket, libc::UDP_GRO, 1)
}

fn set_udp_option(socket: &Socket, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the value is a live `c_int` and its size is stated; the descriptor is open as long as `socket`.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            option,
            ptr::from_ref(&value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The kernel's account of a socket's receive buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketMemory {
    /// What is queued, in bytes as the kernel counts them: with its own structures.
    pub queued: u32,
    /// How much may be, in the same bytes.
    pub limit: u32,
    /// Datagrams dropped since the socket was created, modulo 2^32.
    pub dropped: u32,
}

impl SocketMemory {
    /// How full it is, 0 to 1. The kernel lets the last datagram exceed the limit.
    pub fn fill(self) -> f64 {
        (f64::from(self.queued) / f64::from(self.limit.max(1))).min(1.0)
    }
}

/// How full a socket's receive buffer is, and what was dropped there (`SO_MEMINFO`).
///
/// # Errors
/// If the kernel does not know it.
pub fn socket_memory(socket: &Socket) -> io::Result<SocketMemory> {
    /// `SK_MEMINFO_RMEM_ALLOC`, `SK_MEMINFO_RCVBUF`, `SK_MEMINFO_DROPS` and `SK_MEMINFO_VARS` of linux/sock_diag.h.
    const RMEM_ALLOC: usize = 0;
    const RCVBUF: usize = 1;
    const DROPS: usize = 8;
    const VARS: usize = 9;
    let mut info = [0_u32; VARS];
    let mut length = size_of::<[u32; VARS]>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `info`, which is that long.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(SocketMemory { queued: info[RMEM_ALLOC], limit: info[RCVBUF], dropped: info[DROPS] })
}

/// Takes ownership of a descriptor that the service manager passed; `None` if it was taken before.
pub(super) fn adopt_passed(fd: RawFd) -> Option<Socket> {
    static ADOPTED: Mutex<Vec<RawFd>> = Mutex::new(Vec::new());
    let mut adopted = ADOPTED.lock().unwrap_or_else(PoisonError::into_inner);
    if adopted.contains(&fd) {
        return None;
    }
    adopted.push(fd);
    // SAFETY: the caller has it from `sd_notify::listen_fds_with_names`, which found it open; it was passed for this
    // process to own, and `ADOPTED` gives it to one owner only.
    Some(unsafe { Socket::from_raw_fd(fd) })
}

/// Gives a command the limit of open descriptors that this process was started with: see [`super::raise_descriptor_limit`].
pub(super) fn with_first_limits(command: &mut Command) -> &mut Command {
    // SAFETY: between `fork` and `exec` it does no more than a system call, with what was stored before: no allocation, no
    // lock.
    unsafe { command.pre_exec(restore_descriptor_limit) }
}

/// Makes a write beyond the file size limit (`ulimit -f`) fail like on a full disk; by default it ends the process.
pub fn survive_file_size_limit() {
    // SAFETY: ignoring a signal touches no memory of ours.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// Gives the calling thread real-time priority (`SCHED_RR`, the lowest of that class), before all ordinary threads.
/// Threads that it starts do not inherit it. By default the kernel reserves 5 % of the time for others
/// (`kernel.sched_rt_runtime_us`).
///
/// # Errors
/// If it is not allowed: that takes `CAP_SYS_NICE`, or a limit `RLIMIT_RTPRIO` of at least 1.
pub fn realtime_thread() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: the call reads the parameters, which live until it returns; thread 0 is the calling one.
    let result =
        unsafe { libc::sched_setscheduler(0, libc::SCHED_RR | libc::SCHED_RESET_ON_FORK, &raw const parameters) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Configures the allocator to return memory. Snapshots are allocated by one thread and freed by others, so the arenas
/// that glibc gives each thread grow with changing names: over 400 intervals with 10 % new names memory grew from 32 to
/// 38 MiB; with one arena it stays at 24. Threads contend for it only when they allocate, which the receive path seldom
/// does for known series. Large tables are mapped individually, and so returned whole; by default glibc stops doing so
/// once a large one was freed. Call it before threads start.
pub fn return_memory() {
    // SAFETY: `mallopt` may be called at any time; it takes two integers and touches no memory of ours. That it
    // refuses does no harm.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 512 << 10);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 512 << 10);
    }
}

/// Gives memory that was freed back to the system, as far as whole pages are free. It takes as long as there is memory to
/// look through, and holds the allocator's lock; so never call it on a receive thread. Only glibc keeps what was freed.
pub fn trim() {
    // SAFETY: `malloc_trim` may be called at any time, and gives back only what nobody holds.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn a_batch_has_every_datagram_and_its_sender_if_asked() {
        let receiver = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let sender = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let to = receiver.local_addr().expect("an address");
        let mut batch = Batch::new();
        for with_senders in [true, false, true] {
            for text in ["a", "", "ccccc"] {
                sender.send_to(text.as_bytes(), to).expect("sent");
            }
            assert_eq!(batch.receive(&receiver, with_senders).expect("a batch"), 3);
            let all: Vec<_> = batch.datagrams().map(|d| (d.bytes.to_vec(), d.truncated)).collect();
            assert_eq!(all, [(b"a".to_vec(), false), (b"".to_vec(), false), (b"ccccc".to_vec(), false)]);
            let expected = if with_senders { sender.local_addr().ok() } else { None };
            assert!(batch.datagrams().all(|d| d.from == expected));
        }
        let empty = batch.receive(&receiver, true);
        assert_eq!(empty.expect_err("nothing is left").kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_batch_that_asks_for_senders_after_a_smaller_one_that_did_not_has_them_all() {
        let receiver = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let sender = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let to = receiver.local_addr().expect("an address");
        let mut batch = Batch::new();
        for (with_senders, count) in [(false, 1), (true, 9), (true, 2), (false, 20), (true, BATCH_DATAGRAMS)] {
            for _ in 0..count {
                sender.send_to(b"x", to).expect("sent");
            }
            assert_eq!(batch.receive(&receiver, with_senders).expect("a batch"), count);
            let expected = if with_senders { sender.local_addr().ok() } else { None };
            let known = batch.datagrams().filter(|datagram| datagram.from == expected).count();
            assert_eq!(known, count, "{with_senders}");
        }
    }

    #[test]
    fn segments_that_came_in_one_piece_are_datagrams_again() {
        let receiver = Socket::from(UdpSocket::bind("127.0.0.1:0").expect("a socket"));
        receive_coalesced(&receiver).expect("Linux knows UDP_GRO");
        let sender = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        sender.connect(receiver.local_addr().expect("bound").as_socket().expect("IP")).expect("connected");
        let sender = Socket::from(sender);
        send_segmented(&sender, 5).expect("Linux knows UDP_SEGMENT");
        sender.send(b"aaaaabbbbbccc").expect("sent");
        let mut batch = Batch::new();
        assert_eq!(batch.receive(&receiver, false).expect("a batch"), 1);
        let all: Vec<_> = batch.datagrams().map(|d| d.bytes.to_vec()).collect();
        assert_eq!(all, [b"aaaaa".to_vec(), b"bbbbb".to_vec(), b"ccc".to_vec()]);
    }

    #[test]
    fn the_process_behind_a_unix_datagram_is_known_if_asked_for() {
        let (sender, receiver) = std::os::unix::net::UnixDatagram::pair().expect("a pair");
        receiver.set_nonblocking(true).expect("set");
        let receiver = Socket::from(std::os::fd::OwnedFd::from(receiver));
        receiver.set_passcred(true).expect("Linux knows SO_PASSCRED");
        let mut batch = Batch::new().of_unix(&receiver);
        for with_senders in [true, false, true] {
            (0..3).for_each(|_| _ = sender.send(b"a:1|c").expect("sent"));
            assert_eq!(batch.receive(&receiver, with_senders).expect("a batch"), 3);
            let own = rustix::process::getuid().as_raw();
            let expected = with_senders.then(|| (std::process::id(), own));
            assert!(batch.datagrams().all(|datagram| datagram.process == expected && datagram.bytes == b"a:1|c"));
        }
    }

    #[test]
    fn descriptors_that_a_unix_datagram_brings_are_not_taken() {
        use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
        use std::io::{IoSlice, Read};
        for has_credentials in [true, false] {
            let (sender, receiver) = std::os::unix::net::UnixDatagram::pair().expect("a pair");
            receiver.set_nonblocking(true).expect("set");
            let receiver = Socket::from(std::os::fd::OwnedFd::from(receiver));
            receiver.set_passcred(has_credentials).expect("Linux knows SO_PASSCRED");
            let mut batch = Batch::new().of_unix(&receiver);
            for with_senders in [true, false] {
                let (mut read, write) = std::io::pipe().expect("a pipe");
                let mut room = [const { std::mem::MaybeUninit::uninit() }; 256];
                let mut control = SendAncillaryBuffer::new(&mut room);
                let passed = [write.as_fd(); 4];
                assert!(control.push(SendAncillaryMessage::ScmRights(&passed)));
                sendmsg(&sender, &[IoSlice::new(b"a:1|c")], &mut control, SendFlags::empty()).expect("sent");
                drop(write);
                assert_eq!(batch.receive(&receiver, with_senders).expect("a batch"), 1);
                let is_known = batch.datagrams().all(|datagram| datagram.process.is_some());
                assert_eq!(is_known, has_credentials && with_senders);
                rustix::io::ioctl_fionbio(&read, true).expect("set");
                // Nobody holds the other end any more.
                assert_eq!(read.read(&mut [0]).expect("the end"), 0, "{has_credentials}, {with_senders}");
            }
        }
    }

    #[test]
    fn the_kernel_says_how_full_a_buffer_is_and_how_many_datagrams_it_dropped() {
        let receiver = Socket::from(UdpSocket::bind("127.0.0.1:0").expect("a socket"));
        receiver.set_recv_buffer_size(4096).expect("a small buffer");
        let to = receiver.local_addr().expect("bound").as_socket().expect("an IP address");
        let sender = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        for _ in 0..1000 {
            sender.send_to(&[b'x'; 100], to).expect("sent");
        }
        let full = socket_memory(&receiver).expect("an account");
        assert!(full.fill() > 0.75 && full.limit as usize == receiver.recv_buffer_size().expect("a size"), "{full:?}");
        let mut batch = Batch::new();
        let mut read = 0;
        while let Ok(count) = batch.receive(&receiver, false) {
            read += count;
        }
        let empty = socket_memory(&receiver).expect("an account");
        assert_eq!(read + empty.dropped as usize, 1000);
        assert!(read < 1000 && empty.queued == 0, "{read}, {empty:?}");
    }

    #[test]
    fn datagrams_are_sent_in_batches_as_they_are() {
        let receiver = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let sender = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        sender.connect(receiver.local_addr().expect("bound")).expect("connected");
        let datagrams = [b"one".to_vec(), Vec::new(), b"three".to_vec(), b"last".to_vec()];
        let mut out = Outgoing::new(&datagrams);
        assert_eq!(send_batch(&Socket::from(sender), &mut out, 1, 2).expect("sent"), 2);
        let mut batch = Batch::new();
        assert_eq!(batch.receive(&receiver, false).expect("a batch"), 2);
        assert!(batch.datagrams().map(|datagram| datagram.bytes).eq(datagrams[1..3].iter()));
    }

    #[test]
    fn buffers_may_be_moved_between_calls_and_to_another_thread() {
        let receiver = UdpSocket::bind("[::1]:0").expect("a socket");
        let sender = UdpSocket::bind("[::1]:0").expect("a socket");
        let from = sender.local_addr().expect("an address");
        sender.connect(receiver.local_addr().expect("bound")).expect("connected");
        let out = Box::new(Outgoing::new(&[b"x".to_vec()]));
        let sent = std::thread::spawn(move || {
            let mut out = *out;
            send_batch(&Socket::from(sender), &mut out, 0, 1)
        });
        assert_eq!(sent.join().expect("no panic").expect("sent"), 1);
        let batch = Box::new(Batch::new());
        let mut batch = *batch;
        assert_eq!(batch.receive(&receiver, true).expect("a batch"), 1);
        assert!(batch.datagrams().all(|datagram| datagram.from == Some(from) && datagram.bytes == b"x"));
    }
}
