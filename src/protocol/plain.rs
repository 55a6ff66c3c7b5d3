//! The fast path: lines of the form that most traffic has, recognised without examining the name.

use super::metric::Kind;
use super::parse::trim_end;

/// The first `:` is searched in this many bytes. Longer names take the slow path, and text without a `:` is not
/// searched to its end for every line.
const NAME_WITHIN: usize = 512;

/// The end of the tags is searched in this many bytes, for the same reason.
const TAGS_WITHIN: usize = 1024;

/// A line of the form `name:value|type` or `name:value|type|#tags` whose value is an integer of up to 15 digits: most
/// traffic.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlainLine<'a> {
    /// Everything before the first `:`, unchecked: it may contain tags, `|`, even the end of a line.
    pub name: &'a [u8],
    /// The type; never a set.
    pub kind: Kind,
    /// The value, not negative.
    pub value: f64,
    /// Everything after the type: nothing, or one `#` section to the end of the line, unchecked.
    pub tags: &'a [u8],
}

/// Recognises a [`PlainLine`] at the start of a text without examining its name; also returns what follows its newline.
/// A caller that knows the name as valid, byte for byte, needs no more; all others split the text into
/// [`super::lines`] and call [`super::parse_metric`].
#[inline(always)]
pub fn plain_line(text: &[u8]) -> Option<(PlainLine<'_>, &[u8])> {
    let colon = memchr::memchr(b':', &text[..text.len().min(NAME_WITHIN)])?;
    let (value, rest) = whole_number(&text[colon + 1..])?;
    let (kind, rest) = number_kind(rest)?;
    let line = PlainLine { name: &text[..colon], kind, value, tags: &[] };
    match rest {
        [] => Some((line, rest)),
        [b'\n', rest @ ..] | [b'\r', b'\n', rest @ ..] => Some((line, rest)),
        [b'|', b'#', rest @ ..] => {
            let near = &rest[..rest.len().min(TAGS_WITHIN)];
            let (tags, rest) = match memchr::memchr2(b'\n', b'|', near) {
                // A second section needs the slow path.
                Some(end) if rest[end] == b'|' => return None,
                Some(end) => (&rest[..end], &rest[end + 1..]),
                None if near.len() < rest.len() => return None,
                None => (rest, &rest[rest.len()..]),
            };
            Some((PlainLine { tags: trim_end(tags), ..line }, rest))
        }
        _ => None,
    }
}

/// A type whose values are numbers, and what follows it.
#[inline(always)]
fn number_kind(text: &[u8]) -> Option<(Kind, &[u8])> {
    let length = text.iter().take(3).position(|b| matches!(b, b'\n' | b'\r' | b'|')).unwrap_or(text.len().min(3));
    let (token, rest) = text.split_at(length);
    let kind = Kind::from_token(token).filter(|&kind| kind != Kind::Set)?;
    Some((kind, rest))
}

/// A sample without fields and with such a value. Everything else takes the slow path, which reads these samples with
/// the same result (there is a test).
#[inline]
pub(super) fn plain_sample(text: &[u8]) -> Option<(Kind, f64)> {
    let (value, rest) = whole_number(text)?;
    let (kind, rest) = number_kind(rest)?;
    rest.is_empty().then_some((kind, value))
}

/// An integer of up to 15 digits, and what follows the `|` after it.
#[inline(always)]
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
