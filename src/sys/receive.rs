//! Datagrams in batches: `recvmmsg` into buffers that are used again and again.

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::RawFd;
use std::ptr;

/// Messages read with one system call; each is a datagram, or several that came in one piece.
pub const BATCH_DATAGRAMS: usize = 64;

/// Bytes of a buffer: the most that a message can hold.
const BUFFER_BYTES: usize = 64 << 10;

/// Room for the one control message we ask for: the size of the segments.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; 64]);

/// Buffers for a batch of messages, and what the last call put there.
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
}

// SAFETY: the raw pointers in `iovecs` and `headers` point into the boxed slices of the same value, which are
// never reallocated and move with it; nothing else holds them.
unsafe impl Send for Batch {}

/// One datagram of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// What came.
    pub bytes: &'a [u8],
    /// Who sent it, if senders were asked for.
    pub from: Option<SocketAddr>,
    /// The kernel cut it: it was larger than the buffer.
    pub truncated: bool,
}

impl Default for Batch {
    fn default() -> Batch {
        Batch::new()
    }
}

impl Batch {
    /// Buffers for a batch. Memory is taken as messages fill it.
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
        Batch { buffers, iovecs, names, controls, headers, received: 0, with_senders: false }
    }

    /// Reads what is queued, up to a batch, without waiting; how many messages. Senders cost time, so they are
    /// only asked for `with_senders`.
    ///
    /// # Errors
    /// `WouldBlock` if nothing is queued, or what the kernel says.
    #[inline]
    pub fn receive(&mut self, socket: RawFd, with_senders: bool) -> io::Result<usize> {
        debug_assert_eq!((self.iovecs.len(), self.controls.len()), (BATCH_DATAGRAMS, BATCH_DATAGRAMS));
        let name_len = if with_senders { size_of::<libc::sockaddr_storage>() as libc::socklen_t } else { 0 };
        // Only the headers that the last call used were changed by it, unless they all asked for something else.
        let is_other = self.received == 0 || with_senders != self.with_senders;
        let used = if is_other { BATCH_DATAGRAMS } else { self.received };
        self.with_senders = with_senders;
        for (header, name) in self.headers[..used].iter_mut().zip(&mut self.names) {
            header.msg_hdr.msg_controllen = size_of::<Control>();
            header.msg_hdr.msg_namelen = name_len;
            header.msg_hdr.msg_name = if with_senders { ptr::from_mut(name).cast() } else { ptr::null_mut() };
        }
        self.received = 0;
        // SAFETY: `headers` holds BATCH_DATAGRAMS initialised headers whose iovecs, names and control buffers are
        // live memory of this value, of the lengths they state, that nothing else borrows while `self` is
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

    /// The datagrams of the last call: a message of several segments is cut at their borders.
    #[inline]
    pub fn datagrams(&self) -> impl Iterator<Item = Datagram<'_>> {
        let messages =
            self.headers[..self.received].iter().zip(&self.names).zip(self.buffers.chunks_exact(BUFFER_BYTES));
        messages.flat_map(|((header, name), buffer)| {
            let bytes = &buffer[..(header.msg_len as usize).min(BUFFER_BYTES)];
            let from = if header.msg_hdr.msg_namelen > 0 { address(name) } else { None };
            let truncated = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
            let segment = segment_bytes(header).unwrap_or(bytes.len());
            Segments { rest: bytes, segment: segment.max(1), empty: bytes.is_empty() }.map(move |bytes| Datagram {
                bytes,
                from,
                truncated,
            })
        })
    }
}

/// Cuts a message into its segments; an empty message is one empty datagram.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{receive_coalesced, send_segmented};
    use socket2::Socket;
    use std::net::UdpSocket;
    use std::os::fd::AsRawFd;

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
            assert_eq!(batch.receive(receiver.as_raw_fd(), with_senders).expect("a batch"), 3);
            let all: Vec<_> = batch.datagrams().map(|d| (d.bytes.to_vec(), d.truncated)).collect();
            assert_eq!(all, [(b"a".to_vec(), false), (b"".to_vec(), false), (b"ccccc".to_vec(), false)]);
            let expected = if with_senders { sender.local_addr().ok() } else { None };
            assert!(batch.datagrams().all(|d| d.from == expected));
        }
        let empty = batch.receive(receiver.as_raw_fd(), true);
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
            assert_eq!(batch.receive(receiver.as_raw_fd(), with_senders).expect("a batch"), count);
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
        assert_eq!(batch.receive(receiver.as_raw_fd(), false).expect("a batch"), 1);
        let all: Vec<_> = batch.datagrams().map(|d| d.bytes.to_vec()).collect();
        assert_eq!(all, [b"aaaaa".to_vec(), b"bbbbb".to_vec(), b"ccc".to_vec()]);
    }
}
