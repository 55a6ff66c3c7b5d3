//! Names with tags inside: `name[k=v]`, `name,k=v`, `name#k=v`, `name;k=v`.
//!
//! If `[` precedes `]`, SignalFx tags are cut out. Then the earliest of `,` `#` `;` whose next segment holds `=`
//! after a non-empty key begins Influx, Librato or Graphite tags; otherwise the character belongs to the name.

use nom::bytes::complete::take_till;
use nom::character::complete::char;
use nom::sequence::delimited;
use nom::{IResult, Parser};

use super::metric::Name;
use super::tags::{NameTags, Tags};

/// What makes a name take the slow path.
pub(super) struct Survey {
    pub(super) non_ascii: bool,
    /// It has one of `[ , # ;`, which may begin tags.
    pub(super) special: bool,
}

/// Scans a name eight bytes at a time ("determine if a word has a byte equal to n", in S. E. Anderson, "Bit
/// Twiddling Hacks").
#[inline]
pub(super) fn survey(name: &[u8]) -> Survey {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    let mut high = 0;
    let mut special = 0;
    let mut look = |word: u64| {
        high |= word;
        for mark in [b'[', b',', b'#', b';'] {
            let zeroed = word ^ (ONES * u64::from(mark));
            special |= zeroed.wrapping_sub(ONES) & !zeroed;
        }
    };
    let mut words = name.chunks_exact(8);
    for word in &mut words {
        look(u64::from_le_bytes(word.try_into().expect("a chunk of eight has eight bytes")));
    }
    if !words.remainder().is_empty() {
        let mut last = [0; 8];
        match name.last_chunk() {
            // The last eight bytes overlap bytes that are scanned already, which is harmless.
            Some(eight) => last = *eight,
            None => last[..name.len()].copy_from_slice(name),
        }
        look(u64::from_le_bytes(last));
    }
    Survey { non_ascii: high & HIGHS != 0, special: special & HIGHS != 0 }
}

/// Splits a name into the bare name and its tags. Where SignalFx tags are cut out of the middle, tags of another style
/// are read only after the cut, or when nothing follows it.
pub(super) fn split_name<'a>(styles: &NameTags, name: &mut Name<'a>, tags: &mut Tags<'a>) {
    if styles.signalfx
        && let Ok((after, (before, inside))) = bracketed(name.head)
    {
        tags.bracketed = inside;
        (name.head, name.tail) = (before, after);
    }
    let behind = !name.tail.is_empty();
    let text = if behind { name.tail } else { name.head };
    let marks = [(styles.influx, b',', b','), (styles.librato, b'#', b','), (styles.graphite, b';', b';')];
    let first = marks
        .into_iter()
        .filter(|(enabled, ..)| *enabled)
        .filter_map(|(_, mark, separator)| {
            let at = memchr::memchr(mark, text)?;
            let segment = text[at + 1..].split(|&b| b == separator).next()?;
            (memchr::memchr(b'=', segment)? > 0).then_some((at, separator))
        })
        .min();
    if let Some((at, separator)) = first {
        tags.trailing = &text[at + 1..];
        tags.separator = separator;
        *(if behind { &mut name.tail } else { &mut name.head }) = &text[..at];
    }
}

/// `before[inside]after`: the first `[`, and the first `]` of the name if it comes later.
fn bracketed(raw: &[u8]) -> IResult<&[u8], (&[u8], &[u8])> {
    (take_till(|b| b == b'[' || b == b']'), delimited(char('['), take_till(|b| b == b']'), char(']'))).parse(raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_survey_sees_marks_and_letters_beyond_ascii_anywhere() {
        for length in 1..30 {
            for at in 0..length {
                for (mark, non_ascii, special) in [
                    (b'a', false, false),
                    (b'[', false, true),
                    (b',', false, true),
                    (b'#', false, true),
                    (b';', false, true),
                    (0xc3, true, false),
                ] {
                    let mut name = vec![b'x'; length];
                    name[at] = mark;
                    let found = survey(&name);
                    assert_eq!((found.non_ascii, found.special), (non_ascii, special), "{name:?}");
                }
            }
        }
    }
}
