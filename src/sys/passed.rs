//! Sockets that another process has opened for this one: one that hands over to it, or the service manager, which keeps
//! them while none runs (systemd's file descriptor store). Whoever binds an address asks here first.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};

use rapidhash::v3::rapidhash_v3;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use socket2::{SockAddr, SockRef, Socket, Type};

/// Most descriptors in a message; the kernel takes 253.
pub const MOST_PASSED: usize = 64;

/// How the names of the sockets begin that the service manager keeps for the next process.
const KEPT_NAME: &str = "systole-listener-";

/// Longest message, bytes.
const MOST_BYTES: usize = 64 << 10;

/// Those that nobody has taken yet, with the names that they were passed under.
static PASSED: Mutex<Vec<(String, Socket)>> = Mutex::new(Vec::new());

/// Offers a socket to whoever binds its address or asks for its name.
pub fn offer_socket(name: &str, socket: OwnedFd) {
    PASSED.lock().unwrap_or_else(PoisonError::into_inner).push((name.to_string(), socket.into()));
}

/// Takes the first socket that fits.
fn take(fits: impl Fn(&str, &Socket) -> bool) -> Option<Socket> {
    let mut passed = PASSED.lock().unwrap_or_else(PoisonError::into_inner);
    let at = passed.iter().position(|(name, socket)| fits(name, socket))?;
    Some(passed.remove(at).1)
}

/// A socket that was passed under this name.
pub(super) fn take_named(name: &str) -> Option<Socket> {
    take(|own, _| own == name)
}

/// A socket that was passed and is bound to this address.
pub fn take_bound(kind: Type, address: &SockAddr) -> Option<Socket> {
    let is_bound = |socket: &Socket| socket.local_addr().is_ok_and(|own| own == *address);
    take(|_, socket| socket.r#type().is_ok_and(|own| own == kind) && is_bound(socket))
}

/// The name under which the service manager keeps a socket: the same for the same address, which a name cannot hold.
///
/// # Errors
/// What the kernel says.
pub fn kept_name(socket: &impl AsFd) -> io::Result<String> {
    let socket = SockRef::from(socket);
    let (address, kind) = (socket.local_addr()?, socket.r#type()?);
    let text = format!("{kind:?} {:?} {:?}", address.as_socket(), address.as_pathname());
    Ok(format!("{KEPT_NAME}{:016x}", rapidhash_v3(text.as_bytes())))
}

/// Whether the service manager has kept a socket of this name for us.
pub(super) fn is_kept_name(name: &str) -> bool {
    name.starts_with(KEPT_NAME)
}

/// Closes those that the service manager has kept and nobody wants any more; their names, each once.
pub fn close_unwanted(is_wanted: impl Fn(&SockAddr) -> bool) -> Vec<String> {
    let mut passed = PASSED.lock().unwrap_or_else(PoisonError::into_inner);
    let is_unwanted = |(name, socket): &mut (String, Socket)| {
        is_kept_name(name) && !socket.local_addr().is_ok_and(|address| is_wanted(&address))
    };
    let mut names: Vec<String> = passed.extract_if(.., is_unwanted).map(|(name, _)| name).collect();
    names.dedup();
    names
}

/// Closes what nobody has taken. Datagrams that wait in there are lost. Returns the names under which the service manager has
/// those that it keeps.
pub fn close_untaken() -> Vec<String> {
    let untaken = std::mem::take(&mut *PASSED.lock().unwrap_or_else(PoisonError::into_inner));
    // Without an address it is kept under no name.
    untaken.iter().filter_map(|(_, socket)| kept_name(socket).ok()).collect()
}

/// Sends a message and descriptors, which the receiver has as well from then on.
///
/// # Errors
/// What the kernel says, and if it is too long or has too many descriptors.
pub fn send_with_descriptors(to: &UnixStream, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    if message.len() > MOST_BYTES || descriptors.len() > MOST_PASSED {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the message is too long"));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_PASSED))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    sendmsg(to, &[IoSlice::new(message)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives a message and the descriptors in it; an empty message is the end.
///
/// # Errors
/// What the kernel says, and if descriptors were lost because this process may not have so many.
pub fn receive_with_descriptors(from: &UnixStream) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut message = vec![0; MOST_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_PASSED))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        match recvmsg(from, &mut [IoSliceMut::new(&mut message)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            outcome => break outcome?,
        }
    };
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::other("descriptors were lost: this process may not have so many"));
    }
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(io::Error::other("the message is too long"));
    }
    message.truncate(received.bytes);
    let descriptors = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    Ok((message, descriptors.flatten().collect()))
}

/// A pair of sockets that keep messages apart, for a process and its child.
///
/// # Errors
/// What the kernel says.
pub fn message_pair() -> io::Result<(UnixStream, UnixStream)> {
    let (own, other) = Socket::pair(socket2::Domain::UNIX, Type::SEQPACKET, None)?;
    Ok((OwnedFd::from(own).into(), OwnedFd::from(other).into()))
}

/// Blocks until the other end is closed, by the end of its process as well.
pub fn wait_for_end(socket: &UnixStream) {
    // An end is told whatever is asked for.
    let mut of = [PollFd::new(socket, PollFlags::empty())];
    while matches!(poll(&mut of, None), Ok(0) | Err(Errno::INTR)) {}
}

/// The standard input, if it is one end of such a pair.
///
/// # Errors
/// If it is something else.
pub fn message_socket_of_input() -> io::Result<UnixStream> {
    let input = io::stdin().as_fd().try_clone_to_owned()?;
    let socket = Socket::from(input);
    if socket.r#type()? != Type::SEQPACKET {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the standard input is no socket of messages"));
    }
    Ok(OwnedFd::from(socket).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn a_socket_that_was_passed_is_the_same_socket() {
        let (own, other) = message_pair().expect("a pair");
        let bound = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let address = bound.local_addr().expect("an address");
        send_with_descriptors(&own, b"udp", &[bound.as_fd(), bound.as_fd()]).expect("it is sent");
        drop(bound);
        let (message, mut descriptors) = receive_with_descriptors(&other).expect("it is received");
        assert_eq!((message.as_slice(), descriptors.len()), (&b"udp"[..], 2));
        let sender = UdpSocket::bind("127.0.0.1:0").expect("a port");
        sender.send_to(b"a:1|c", address).expect("it is sent");
        offer_socket("", descriptors.remove(0));
        assert!(take_bound(Type::STREAM, &address.into()).is_none());
        let socket = UdpSocket::from(OwnedFd::from(take_bound(Type::DGRAM, &address.into()).expect("it was offered")));
        assert!(take_bound(Type::DGRAM, &address.into()).is_none());
        let mut text = [0; 16];
        assert_eq!(socket.recv(&mut text).expect("it is read"), 5);
        drop(own);
        wait_for_end(&other);
        assert_eq!(receive_with_descriptors(&other).expect("the end").0, b"");
    }
}
