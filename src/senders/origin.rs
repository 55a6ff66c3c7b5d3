//! Who sent a line.

use std::fmt;
use std::net::IpAddr;

/// Longest id of a container that is kept, in bytes: `ci-` and 64 digits fit.
const CONTAINER_BYTES: usize = 72;

/// Text of at most `N` bytes, in place: counting it allocates nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Text<const N: usize> {
    length: u8,
    bytes: [u8; N],
}

impl<const N: usize> Text<N> {
    /// The first `N` bytes of a text; `N` is at most 255.
    pub fn new(text: &[u8]) -> Text<N> {
        const { assert!(N <= u8::MAX as usize) };
        let length = text.len().min(N);
        let mut bytes = [0; N];
        bytes[..length].copy_from_slice(&text[..length]);
        Text { length: length as u8, bytes }
    }

    /// The bytes, which need not be UTF-8.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Text<N> {
        Text::new(b"")
    }
}

/// With U+FFFD in place of what is no UTF-8.
impl<const N: usize> fmt::Display for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.bytes()))
    }
}

impl<const N: usize> fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&String::from_utf8_lossy(self.bytes()), f)
    }
}

/// Where a line came from, as the kernel says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// It does not say.
    #[default]
    Unknown,
    /// An address; of IPv4 never in the form of IPv6.
    Address(IpAddr),
    /// A process of this machine, over a unix socket.
    Process {
        /// Its number, as this process sees it.
        pid: u32,
        /// The user that it runs as.
        uid: u32,
    },
}

impl Origin {
    /// The origin of an address.
    pub fn at(address: IpAddr) -> Origin {
        Origin::Address(address.to_canonical())
    }
}

/// An origin, and the container that its lines name (`|c:`), if they do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sender {
    /// Where from.
    pub origin: Origin,
    /// The id of the container; empty if none was named.
    pub container: Text<CONTAINER_BYTES>,
}

impl Sender {
    /// A sender from its parts.
    pub fn new(origin: Origin, container: &[u8]) -> Sender {
        Sender { origin, container: Text::new(container) }
    }

    /// The container's id, if one was named.
    pub fn container(&self) -> Option<String> {
        (!self.container.is_empty()).then(|| self.container.to_string())
    }

    /// The address, if it has one.
    pub fn address(&self) -> Option<IpAddr> {
        if let Origin::Address(address) = self.origin { Some(address) } else { None }
    }

    /// The process's number and user, if it is one.
    pub fn process(&self) -> Option<(u32, u32)> {
        if let Origin::Process { pid, uid } = self.origin { Some((pid, uid)) } else { None }
    }
}

/// The id: `10.4.7.19`, `10.4.7.19/CONTAINER`, `pid:4121`, `unknown`.
impl fmt::Display for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.origin {
            Origin::Unknown => f.write_str("unknown")?,
            Origin::Address(address) => write!(f, "{address}")?,
            Origin::Process { pid, .. } => write!(f, "pid:{pid}")?,
        }
        if self.container.is_empty() { Ok(()) } else { write!(f, "/{}", self.container) }
    }
}

/// The id of the container that a line names: its last section `c:`, behind which only `e:`, `card:`, `T`, `@` and `#` may
/// stand. Most lines have one section, which decides.
#[inline]
pub(super) fn container_of(line: &[u8]) -> &[u8] {
    let mut rest = line;
    while let Some(bar) = memchr::memrchr(b'|', rest) {
        let section = &rest[bar + 1..];
        match section {
            [b'c', b':', id @ ..] => return id,
            [b'e', b':', ..] | [b'T' | b'@' | b'#', ..] => {}
            [b'c', b'a', b'r', b'd', b':', ..] => {}
            _ => return b"",
        }
        rest = &rest[..bar];
    }
    b""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_found_among_the_sections() {
        for (line, container) in [
            ("a:1|c", ""),
            ("a:1|c|#x:y", ""),
            ("a:1|c|c:ci-1f", "ci-1f"),
            ("a:1|c|#x:y|c:ci-1f|T17|e:x|card:low", "ci-1f"),
            ("a:1|c|c:ci-1f|@0.1|#x:y", "ci-1f"),
            ("a:1|c|c:", ""),
            ("a:1|c:2|g", ""),
            ("", ""),
            ("no bar", ""),
        ] {
            assert_eq!(container_of(line.as_bytes()), container.as_bytes(), "{line}");
        }
    }

    #[test]
    fn an_id_names_address_process_and_container() {
        let of = |address: &str| Origin::at(address.parse().expect("an address"));
        let ids = [
            Sender::new(of("::ffff:10.4.7.19"), b""),
            Sender::new(of("fd00::7:3"), b"ci-4f"),
            Sender::new(Origin::Process { pid: 4121, uid: 33 }, b""),
            Sender::default(),
        ];
        assert_eq!(ids.map(|id| id.to_string()), ["10.4.7.19", "fd00::7:3/ci-4f", "pid:4121", "unknown"]);
        assert_eq!(Text::<4>::new(b"abcdef").bytes(), b"abcd");
    }
}
