//! Access control: which source networks are allowed, and the comparison of secrets.

use std::net::IpAddr;

/// Source networks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessList(Option<Vec<(IpAddr, u8)>>);

impl AccessList {
    /// Allows only these networks, as (address, prefix length); `None` allows every source.
    pub fn new(networks: Option<Vec<(IpAddr, u8)>>) -> AccessList {
        AccessList(networks)
    }

    /// The networks; `None` for every source.
    pub fn networks(&self) -> Option<&[(IpAddr, u8)]> {
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
        networks.iter().any(|&(network, prefix)| match (network, source) {
            (IpAddr::V4(network), IpAddr::V4(source)) => {
                let shift = 32 - u32::from(prefix.min(32));
                (network.to_bits() ^ source.to_bits()).checked_shr(shift).unwrap_or(0) == 0
            }
            (IpAddr::V6(network), IpAddr::V6(source)) => {
                let shift = 128 - u32::from(prefix.min(128));
                (network.to_bits() ^ source.to_bits()).checked_shr(shift).unwrap_or(0) == 0
            }
            _ => false,
        })
    }
}

/// Compares secrets in constant time.
pub fn equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (x, y)| difference | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_in_a_network_or_not() {
        let ip = |text: &str| -> IpAddr { text.parse().expect("an address") };
        let allow = AccessList::new(Some(vec![(ip("10.1.0.0"), 16), (ip("fd00::"), 8), (ip("192.0.2.7"), 32)]));
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
        assert!(AccessList::new(Some(vec![(ip("0.0.0.0"), 0)])).permits(Some(ip("203.0.113.9"))));
        assert!(!AccessList::new(Some(vec![])).permits(Some(ip("127.0.0.1"))));
    }
}
