//! The short way: lines of the form that most traffic has, recognised without looking at the name.

use super::metric::Kind;

/// A line of nothing but `name:value|type`, whose value is a whole number of up to 15 digits: most of all traffic.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlainLine<'a> {
    /// What stands before the first `:`, unchecked: it may hold tags, `|`, or anything else.
    pub name: &'a [u8],
    /// The type; never a set.
    pub kind: Kind,
    /// The value, not negative.
    pub value: f64,
}

/// Recognises a [`PlainLine`] without looking at its name. Whoever already knows that name, byte for byte, as a
/// good one needs no more; all others ask [`super::parse_metric`].
#[inline]
pub fn plain_line(line: &[u8]) -> Option<PlainLine<'_>> {
    let colon = memchr::memchr(b':', line)?;
    let (kind, value) = plain_sample(&line[colon + 1..])?;
    Some(PlainLine { name: &line[..colon], kind, value })
}

/// A sample of that form. What this refuses is read the general way, which reads these alike (a test says so).
#[inline]
pub(super) fn plain_sample(text: &[u8]) -> Option<(Kind, f64)> {
    let mut number: u64 = 0;
    let mut digits = 0;
    loop {
        let byte = *text.get(digits)?;
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            break;
        }
        number = number * 10 + u64::from(digit);
        digits += 1;
        if digits > 15 {
            return None;
        }
    }
    if digits == 0 || text[digits] != b'|' {
        return None;
    }
    let kind = Kind::from_token(&text[digits + 1..]).filter(|&kind| kind != Kind::Set)?;
    Some((kind, number as f64))
}
