//! Access control: which source networks are allowed, and the comparison of secrets.
#![deny(clippy::disallowed_methods)]

use std::net::IpAddr;

use ipnet::IpNet;
use subtle::ConstantTimeEq;

/// Source networks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessList(Option<Vec<IpNet>>);

impl AccessList {
    /// Allows only these networks; `None` allows every source.
    pub fn new(networks: Option<Vec<IpNet>>) -> AccessList {
        AccessList(networks)
    }

    /// The networks; `None` for every source.
    pub fn networks(&self) -> Option<&[IpNet]> {
        self.0.as_deref()
    }

    /// Whether any source is excluded.
    pub fn is_restricted(&self) -> bool {
        self.0.is_some()
    }

    /// Whether a source is allowed. An IPv4-mapped IPv6 address counts as the IPv4 address.
    #[inline]
    pub fn permits(&self, source: Option<IpAddr>) -> bool {
        let Some(networks) = &self.0 else { return true };
        let Some(source) = source else { return false };
        let source = source.to_canonical();
        networks.iter().any(|network| network.contains(&source))
    }
}

/// Compares secrets in constant time.
pub fn equal(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_in_a_network_or_not() {
        let ip = |text: &str| -> IpAddr { text.parse().expect("an address") };
        let networks = |all: &[&str]| Some(all.iter().map(|text| text.parse().expect("a network")).collect());
        // An address with bits beyond its prefix stands for its network.
        let allow = AccessList::new(networks(&["10.1.2.3/16", "fd00::/8", "192.0.2.7/32"]));
        for (source, expected) in [
            ("10.1.255.1", true),
            ("10.2.0.1", false),
            ("fd12::1", true),
            ("fe80::1", false),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("::ffff:10.1.2.3", true),
        ] {
            assert_eq!(allow.permits(Some(ip(source))), expected, "{source}");
        }
        assert!(AccessList::default().permits(None));
        assert!(AccessList::new(networks(&["0.0.0.0/0"])).permits(Some(ip("203.0.113.9"))));
        assert!(!AccessList::new(Some(vec![])).permits(Some(ip("127.0.0.1"))));
    }

    #[test]
    fn secrets_are_equal_or_not() {
        for (a, b, expected) in
            [("", "", true), ("a", "a", true), ("a", "b", false), ("a", "ab", false), ("", "a", false)]
        {
            assert_eq!(equal(a.as_bytes(), b.as_bytes()), expected, "{a} {b}");
        }
    }
}
