//! Sending many datagrams with one system call: `sendmmsg`.

use std::io;
use std::mem::zeroed;
use std::os::fd::AsRawFd;

use socket2::Socket;

/// Datagrams to be sent over and over, made ready once.
pub struct Outgoing {
    _bytes: Box<[u8]>,
    _iovecs: Box<[libc::iovec]>,
    headers: Box<[libc::mmsghdr]>,
}

// SAFETY: the raw pointers in the headers point into the boxed slices of the same value, which are never changed,
// never reallocated, and move with it.
unsafe impl Send for Outgoing {}

impl Outgoing {
    /// Takes the datagrams.
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

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.headers.is_empty()
    }
}

/// Sends up to `count` datagrams from the `first` on over a connected socket; how many the kernel took.
///
/// # Errors
/// What the kernel says when it took none.
pub fn send_batch(socket: &Socket, out: &mut Outgoing, first: usize, count: usize) -> io::Result<usize> {
    let headers = &mut out.headers[first..];
    let count = count.min(headers.len());
    // SAFETY: `headers` holds at least `count` initialised headers, whose iovecs point to live memory of `out` of
    // the lengths they state; names and control buffers are null.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count as libc::c_uint, 0) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(sent as usize) }
}
