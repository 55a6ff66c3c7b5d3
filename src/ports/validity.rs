//! When a certificate holds: `Validity` of RFC 5280, 4.1.2.5. rustls checks it for certificates of others, not for ours.

use std::time::{SystemTime, UNIX_EPOCH};

/// Tags of DER.
const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;

/// The first and the last second of a certificate in DER; `None` if it is no certificate.
pub(super) fn validity(certificate: &[u8]) -> Option<(SystemTime, SystemTime)> {
    let (content, _) = expect(certificate, SEQUENCE)?;
    let (mut fields, _) = expect(content, SEQUENCE)?;
    if let Some((_, rest)) = expect(fields, VERSION) {
        fields = rest;
    }
    // Serial number, algorithm and issuer stand before it.
    for tag in [INTEGER, SEQUENCE, SEQUENCE] {
        (_, fields) = expect(fields, tag)?;
    }
    let (period, _) = expect(fields, SEQUENCE)?;
    let (from, rest) = time(period)?;
    Some((from, time(rest)?.0))
}

/// The content of the element that a text begins with, if it has this tag, and what follows it.
fn expect(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, content, rest) = element(der)?;
    (found == tag).then_some((content, rest))
}

/// An element: tag, content, and what follows it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        // So many bytes of a length; no certificate needs more than four. 0x80 is of BER alone.
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0, |length, &byte| length << 8 | usize::from(byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// A time, and what follows it.
fn time(der: &[u8]) -> Option<(SystemTime, &[u8])> {
    let (tag, text, rest) = element(der)?;
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let (year, text) = match tag {
        UTC_TIME => {
            let (year, text) = text.split_at_checked(2)?;
            // RFC 5280: 50 to 99 are of the last century.
            (format!("{}{year}", if year < "50" { "20" } else { "19" }), text)
        }
        GENERALIZED_TIME => {
            let (year, text) = text.split_at_checked(4)?;
            (year.to_string(), text)
        }
        _ => return None,
    };
    let part = |at: usize| text.get(at..at + 2);
    let text = format!("{year}-{}-{}T{}:{}:{}Z", part(0)?, part(2)?, part(4)?, part(6)?, part(8)?);
    // Before 1970 is long ago.
    let time = if year.as_str() < "1970" { UNIX_EPOCH } else { humantime::parse_rfc3339(&text).ok()? };
    Some((time, rest))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    #[test]
    fn a_certificate_says_when_it_holds() {
        for (from, to) in [((2020, 1, 2), (2049, 12, 31)), ((1960, 1, 1), (1999, 7, 4)), ((2050, 2, 28), (4096, 1, 1))]
        {
            let mut params = CertificateParams::new(vec!["localhost".into()]).expect("a name");
            params.not_before = date_time_ymd(from.0, from.1, from.2);
            params.not_after = date_time_ymd(to.0, to.1, to.2);
            let key = KeyPair::generate().expect("a key");
            let made = params.self_signed(&key).expect("a certificate");
            let shown = |(year, month, day)| match year {
                ..1970 => "1970-01-01T00:00:00Z".to_string(),
                _ => format!("{year:04}-{month:02}-{day:02}T00:00:00Z"),
            };
            let (since, until) = validity(made.der()).expect("it is one");
            let [since, until] = [since, until].map(|time| humantime::format_rfc3339_seconds(time).to_string());
            assert_eq!((since, until), (shown(from), shown(to)));
        }
    }

    #[test]
    fn what_is_cut_or_no_certificate_has_no_validity() {
        let params = CertificateParams::new(vec!["localhost".into()]).expect("a name");
        let made = params.self_signed(&KeyPair::generate().expect("a key")).expect("a certificate");
        for length in 0..made.der().len() {
            assert_eq!(validity(&made.der()[..length]), None, "{length}");
        }
        assert_eq!(validity(&[0x30, 0x80, 0, 0]), None);
        assert_eq!(validity(&[0x30, 0x85, 1, 0, 0, 0, 0]), None);
    }
}
