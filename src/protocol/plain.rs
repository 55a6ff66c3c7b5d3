//! The short way: lines of the form that most traffic has, recognised without looking at the name.

use super::metric::Kind;

/// A line of nothing but `name:value|type` or `name:value|type|#tags`, whose value is a whole number of up to 15 digits: most of all traffic.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlainLine<'a> {
    /// What stands before the first `:`, unchecked: it may hold tags, `|`, or anything else.
    pub name: &'a [u8],
    /// The type; never a set.
    pub kind: Kind,
    /// The value, not negative.
    pub value: f64,
    /// What follows the type: nothing, or one `#` section to the end of the line, unchecked.
    pub tags: &'a [u8],
}

/// Recognises a [`PlainLine`] without looking at its name. Whoever already knows that name, byte for byte, as a
/// good one needs no more; all others ask [`super::parse_metric`].
#[inline]
pub fn plain_line(line: &[u8]) -> Option<PlainLine<'_>> {
    let colon = memchr::memchr(b':', line)?;
    let (value, rest) = whole_number(&line[colon + 1..])?;
    let (kind, tags) = match Kind::from_token(rest) {
        Some(Kind::Set) => return None,
        Some(kind) => (kind, &rest[rest.len()..]),
        None => tagged(rest)?,
    };
    Some(PlainLine { name: &line[..colon], kind, value, tags })
}

/// A type and the one tag section behind it. Another section would have a meaning of its own.
fn tagged(text: &[u8]) -> Option<(Kind, &[u8])> {
    let bar = text.iter().take(3).position(|&b| b == b'|')?;
    let kind = Kind::from_token(&text[..bar]).filter(|&kind| kind != Kind::Set)?;
    let tags = text[bar + 1..].strip_prefix(b"#")?;
    memchr::memchr(b'|', tags).is_none().then_some((kind, tags))
}

/// A sample without fields and with such a value. What this refuses is read the general way, which reads these
/// alike (a test says so).
#[inline]
pub(super) fn plain_sample(text: &[u8]) -> Option<(Kind, f64)> {
    let (value, rest) = whole_number(text)?;
    let kind = Kind::from_token(rest).filter(|&kind| kind != Kind::Set)?;
    Some((kind, value))
}

/// A whole number of up to 15 digits, and what follows the `|` behind it.
#[inline]
fn whole_number(text: &[u8]) -> Option<(f64, &[u8])> {
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
    Some((number as f64, &text[digits + 1..]))
}
