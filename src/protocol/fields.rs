//! The fields after a type: `@rate`, `#tags`, `c:`, `e:`, `card:`, `T`. Any order, any number. Unknown fields are
//! skipped, so that newer clients keep working.

use std::num::NonZeroU64;

use nom::branch::alt;
use nom::bytes::complete::tag;
use nom::combinator::{map, rest};
use nom::sequence::preceded;
use nom::{IResult, Parser};

use super::error::{ParseError, Reason};
use super::metric::{Cardinality, SampleRate, trim_blanks};
use super::number::decimal;
use super::tags::MAX_TAG_BYTES;

/// One field, recognised by how it starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Field<'a> {
    Empty,
    Rate(&'a [u8]),
    Tags(&'a [u8]),
    Container(&'a [u8]),
    ExternalData(&'a [u8]),
    Cardinality(&'a [u8]),
    Timestamp(&'a [u8]),
    Unknown,
}

/// Recognises a field. Never fails: everything else is [`Field::Unknown`].
#[inline]
pub(super) fn field(text: &[u8]) -> Field<'_> {
    match text.first() {
        None => Field::Empty,
        Some(b'@') => Field::Rate(&text[1..]),
        Some(b'#') => Field::Tags(&text[1..]),
        Some(b'T') => Field::Timestamp(&text[1..]),
        Some(b'c' | b'e') => named(text).map_or(Field::Unknown, |(_, field)| field),
        Some(_) => Field::Unknown,
    }
}

fn named(text: &[u8]) -> IResult<&[u8], Field<'_>> {
    alt((
        map(preceded(tag("c:"), rest), Field::Container),
        map(preceded(tag("e:"), rest), Field::ExternalData),
        map(preceded(tag("card:"), rest), Field::Cardinality),
    ))
    .parse(text)
}

/// A skipped field: an unknown one, or an undefined cardinality.
pub(super) fn is_unknown(text: &[u8]) -> bool {
    match field(text) {
        Field::Unknown => true,
        Field::Cardinality(level) => Cardinality::from_text(level).is_none(),
        Field::Empty
        | Field::Rate(_)
        | Field::Tags(_)
        | Field::Container(_)
        | Field::ExternalData(_)
        | Field::Timestamp(_) => false,
    }
}

/// Bytes of tag text of a line so far.
pub(super) struct TagBytes(usize);

impl TagBytes {
    /// Begins with the tags of the name.
    #[inline]
    pub(super) fn after(name: usize) -> TagBytes {
        TagBytes(name)
    }

    /// Adds the text of a section of tags that ends before byte `end` of the line.
    ///
    /// # Errors
    /// [`Reason::TooLong`] at the first byte beyond [`MAX_TAG_BYTES`].
    #[inline]
    pub(super) fn add(&mut self, tags: &[u8], end: usize) -> Result<(), ParseError> {
        self.0 += tags.len();
        if self.0 > MAX_TAG_BYTES {
            return Err(ParseError::new(Reason::TooLong, end - (self.0 - MAX_TAG_BYTES)));
        }
        Ok(())
    }
}

/// The rate after `@`.
#[inline]
pub(super) fn rate(text: &[u8]) -> Result<SampleRate, Reason> {
    let text = trim_blanks(text);
    if text.first() == Some(&b'-') {
        return Err(Reason::BadRate);
    }
    decimal(text).and_then(SampleRate::new).ok_or(Reason::BadRate)
}

/// The seconds after `T`, 1 or later. A number that does not fit a `u64` is as wrong as a letter.
pub(super) fn timestamp(text: &[u8]) -> Result<NonZeroU64, Reason> {
    unsigned(text).and_then(NonZeroU64::new).ok_or(Reason::BadTimestamp)
}

/// Digits and nothing else.
pub(super) fn unsigned(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The text, unless it is empty.
pub(super) fn filled(text: &[u8]) -> Option<&[u8]> {
    (!text.is_empty()).then_some(text)
}
