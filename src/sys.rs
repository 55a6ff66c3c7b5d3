//! The kernel and the C library, where no safe crate will do: datagrams in batches, socket options, the
//! allocator's arenas. The only `unsafe` of the house; each block says why it is sound.
//!
//! `recvmmsg` over reused buffers: fewer wake-ups and whole batches for the parser. Crates were measured and
//! left aside: quinn-udp hides truncation and costs 70 % more, nix rebuilds its slices for every call.
#![allow(unsafe_code)]

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;
use std::time::{SystemTime, UNIX_EPOCH};

use socket2::Socket;

/// Datagrams read with one system call.
pub(crate) const BATCH_DATAGRAMS: usize = 64;

/// Buffers for a batch of datagrams, and what the last call put there.
pub(crate) struct Batch {
    /// `BATCH_DATAGRAMS` buffers of `size` bytes, one after the other.
    buffers: Box<[u8]>,
    size: usize,
    iovecs: Box<[libc::iovec]>,
    names: Box<[libc::sockaddr_storage]>,
    headers: Box<[libc::mmsghdr]>,
    received: usize,
}

// SAFETY: the raw pointers in `iovecs` and `headers` point into the boxed slices of the same value, which are
// never reallocated and move with it; nothing else holds them.
unsafe impl Send for Batch {}

/// One datagram of a batch.
pub(crate) struct Datagram<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) from: Option<SocketAddr>,
    /// The kernel cut it: it was larger than the buffer.
    pub(crate) truncated: bool,
}

impl Batch {
    /// Buffers for datagrams of up to `size` bytes.
    pub(crate) fn new(size: usize) -> Batch {
        let mut buffers = vec![0; BATCH_DATAGRAMS * size].into_boxed_slice();
        let mut iovecs: Box<[libc::iovec]> = buffers
            .chunks_exact_mut(size)
            .map(|chunk| libc::iovec { iov_base: chunk.as_mut_ptr().cast(), iov_len: size })
            .collect();
        // SAFETY: both are plain C structures for which all zeros is a valid value.
        let mut names: Box<[libc::sockaddr_storage]> = (0..BATCH_DATAGRAMS).map(|_| unsafe { zeroed() }).collect();
        let headers = iovecs
            .iter_mut()
            .zip(names.iter_mut())
            .map(|(iovec, name)| {
                // SAFETY: all zeros is a valid `mmsghdr`: null pointers with zero lengths.
                let mut header: libc::mmsghdr = unsafe { zeroed() };
                header.msg_hdr.msg_iov = iovec;
                header.msg_hdr.msg_iovlen = 1;
                header.msg_hdr.msg_name = ptr::from_mut(name).cast();
                header
            })
            .collect();
        Batch { buffers, size, iovecs, names, headers, received: 0 }
    }

    /// Reads what is queued, up to a batch, without waiting; how many datagrams.
    ///
    /// # Errors
    /// `WouldBlock` if nothing is queued, or what the kernel says.
    pub(crate) fn receive(&mut self, socket: RawFd) -> io::Result<usize> {
        self.received = 0;
        debug_assert_eq!(self.iovecs.len(), BATCH_DATAGRAMS);
        for header in &mut self.headers {
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        }
        // SAFETY: `headers` holds BATCH_DATAGRAMS initialised headers whose iovecs and names point to live
        // memory of this value, of the lengths they state, that nothing else borrows while `self` is
        // borrowed mutably. A null timeout is allowed.
        let count = unsafe {
            libc::recvmmsg(
                socket,
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

    /// The datagrams of the last call.
    pub(crate) fn datagrams(&self) -> impl Iterator<Item = Datagram<'_>> {
        self.headers[..self.received].iter().zip(&self.names).zip(self.buffers.chunks_exact(self.size)).map(
            |((header, name), buffer)| Datagram {
                bytes: &buffer[..(header.msg_len as usize).min(self.size)],
                from: address(name),
                truncated: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
            },
        )
    }
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

/// Asks for a receive buffer, beyond `net.core.rmem_max` if `force` and allowed; what the kernel granted, in
/// bytes of its own accounting (it doubles what is asked for).
pub(crate) fn set_receive_buffer(socket: &Socket, bytes: u64, force: bool) -> io::Result<u64> {
    let wanted = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    let forced = force && set_option(socket, libc::SO_RCVBUFFORCE, wanted).is_ok();
    if !forced {
        set_option(socket, libc::SO_RCVBUF, wanted)?;
    }
    Ok(socket.recv_buffer_size()? as u64)
}

fn set_option(socket: &Socket, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the value is a live `c_int` and its size is stated; the descriptor is open as long as `socket`.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            ptr::from_ref(&value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Datagrams that the kernel has dropped at this socket since it was made, modulo 2^32 (`SO_MEMINFO`).
pub(crate) fn dropped_datagrams(socket: &Socket) -> io::Result<u32> {
    /// `SK_MEMINFO_DROPS` and `SK_MEMINFO_VARS` of linux/sock_diag.h.
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
    if result == 0 { Ok(info[DROPS]) } else { Err(io::Error::last_os_error()) }
}

/// Wall time in Unix seconds; 0 on a clock that stands before 1970.
pub(crate) fn unix_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// Makes the allocator use one arena. Snapshots are allocated by one thread and freed by others, and the arenas
/// that glibc gives each thread then grow with names that come and go: 400 intervals with 10 % new names took
/// memory from 32 to 38 MiB, with one arena it stays at 24. Threads contend for it only when something new is
/// allocated, which the receive path does not do for known series. To be called before threads start.
pub fn use_one_arena() {
    // SAFETY: `mallopt` may be called at any time; it takes two integers and touches no memory of ours. That it
    // refuses does no harm.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn a_batch_has_every_datagram_with_its_sender_and_says_what_was_cut() {
        let receiver = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let sender = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let to = receiver.local_addr().expect("an address");
        for text in ["a", "bb", "ccccc"] {
            sender.send_to(text.as_bytes(), to).expect("sent");
        }
        let mut batch = Batch::new(4);
        assert_eq!(batch.receive(receiver.as_raw_fd()).expect("a batch"), 3);
        let all: Vec<_> = batch.datagrams().map(|d| (d.bytes.to_vec(), d.truncated)).collect();
        assert_eq!(all, [(b"a".to_vec(), false), (b"bb".to_vec(), false), (b"cccc".to_vec(), true)]);
        assert!(batch.datagrams().all(|d| d.from == sender.local_addr().ok()));
        let empty = batch.receive(receiver.as_raw_fd());
        assert_eq!(empty.expect_err("nothing is left").kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn the_kernel_says_how_many_datagrams_it_dropped() {
        let receiver = Socket::from(UdpSocket::bind("127.0.0.1:0").expect("a socket"));
        set_receive_buffer(&receiver, 4096, false).expect("a small buffer");
        let to = receiver.local_addr().expect("bound").as_socket().expect("an IP address");
        let sender = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        for _ in 0..1000 {
            sender.send_to(&[b'x'; 100], to).expect("sent");
        }
        let mut batch = Batch::new(128);
        let mut read = 0;
        while let Ok(count) = batch.receive(receiver.as_raw_fd()) {
            read += count;
        }
        assert_eq!(read + dropped_datagrams(&receiver).expect("a count") as usize, 1000);
        assert!(read < 1000);
    }
}
