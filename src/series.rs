//! What a value belongs to: kind, name and canonical tags, in one shared allocation.
//!
//! Canonical means: names cleaned if the listener asks for it, text lossily made UTF-8, tags sorted by key
//! (a tag without a value before one with), exact duplicates collapsed. Equal series have equal bytes, so a
//! table hashes and compares bytes and nothing else.
//!
//! ```text
//! kind u8 | name length u16 | name | { key length u16 | key | value length u16 or 0xFFFF for none | value }*
//! ```

use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use triomphe::ThinArc;

use crate::protocol::{Kind, Metric, Name, Tag, lossy};

const NO_VALUE: u16 = u16::MAX;
const HEADER: usize = 3;

/// The identity of a series. Cheap to clone; one word, for it stands in every table.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Series(ThinArc<(), u8>);

impl Series {
    /// A series from its canonical bytes, as a [`KeyBuilder`] made them.
    pub(crate) fn from_key(key: &[u8]) -> Series {
        Series(ThinArc::from_header_and_slice((), key))
    }

    /// A series from parts, for series of our own.
    ///
    /// ```
    /// use systole::{protocol::Kind, series::Series};
    /// let hits = Series::new(Kind::Counter, "hits", &[("b", Some("2")), ("a", None)]);
    /// assert_eq!(hits.to_string(), "hits;a;b=2");
    /// ```
    pub fn new(kind: Kind, name: &str, tags: &[(&str, Option<&str>)]) -> Series {
        let tags = tags.iter().map(|(key, value)| Tag { key: key.as_bytes(), value: value.map(str::as_bytes) });
        let mut builder = KeyBuilder::default();
        Series::from_key(builder.build(kind, &Name::plain(name), tags))
    }

    /// The canonical bytes.
    #[inline]
    pub fn key(&self) -> &[u8] {
        &self.0.slice
    }

    /// Whether both are one allocation, and so surely equal.
    #[inline]
    pub(crate) fn is_same(&self, other: &Series) -> bool {
        std::ptr::eq(self.key().as_ptr(), other.key().as_ptr())
    }

    /// What its values are.
    pub fn kind(&self) -> Kind {
        Kind::ALL[usize::from(self.key()[0])]
    }

    /// The bare name.
    pub fn name(&self) -> &str {
        text(&self.key()[HEADER..HEADER + self.name_len()])
    }

    fn name_len(&self) -> usize {
        usize::from(u16::from_le_bytes([self.key()[1], self.key()[2]]))
    }

    /// Whether this is the series of a kind and a bare name without tags.
    #[inline]
    pub(crate) fn is_plain(&self, kind: Kind, name: &[u8]) -> bool {
        let key = self.key();
        key.len() == HEADER + name.len()
            && key[0] == kind as u8
            && &key[HEADER..] == name
            && self.name_len() == name.len()
    }

    /// The tags in canonical order.
    pub fn tags(&self) -> impl Iterator<Item = (&str, Option<&str>)> + Clone {
        Tags { rest: &self.key()[HEADER + self.name_len()..] }
    }

    /// Orders by kind, name, tags, as records are printed.
    pub fn order(&self, other: &Series) -> Ordering {
        (self.kind(), self.name()).cmp(&(other.kind(), other.name())).then_with(|| self.tags().cmp(other.tags()))
    }

    /// The same series as another kind.
    pub fn with_kind(&self, kind: Kind) -> Series {
        let mut key = self.key().to_vec();
        key[0] = kind as u8;
        Series::from_key(&key)
    }

    /// The same series with a prefix before its name and tags added that it does not have yet.
    pub fn decorated(&self, prefix: &str, extra: &[(String, String)]) -> Series {
        if prefix.is_empty() && extra.is_empty() {
            return self.clone();
        }
        let name = format!("{prefix}{}", self.name());
        let own: Vec<_> = self.tags().collect();
        let added = extra
            .iter()
            .filter(|(key, _)| !own.iter().any(|(k, _)| k == key))
            .map(|(key, value)| (key.as_str(), Some(value.as_str())));
        let tags: Vec<_> = own.iter().copied().chain(added).collect();
        Series::new(self.kind(), &name, &tags)
    }
}

impl Serialize for Series {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.key())
    }
}

impl<'de> Deserialize<'de> for Series {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Series, D::Error> {
        let key = <&[u8]>::deserialize(deserializer)?;
        if is_canonical(key) {
            Ok(Series::from_key(key))
        } else {
            Err(serde::de::Error::custom("these bytes are no series"))
        }
    }
}

/// Whether bytes are laid out as a series'.
fn is_canonical(key: &[u8]) -> bool {
    let Some((header, rest)) = key.split_first_chunk::<HEADER>() else { return false };
    let length = usize::from(u16::from_le_bytes([header[1], header[2]]));
    let Some((name, mut rest)) = rest.split_at_checked(length) else { return false };
    let text = |rest: &mut &[u8], may_be_none: bool| {
        let Some((length, after)) = rest.split_first_chunk::<2>() else { return false };
        let length = u16::from_le_bytes(*length);
        if may_be_none && length == NO_VALUE {
            *rest = after;
            return true;
        }
        let Some((text, after)) = after.split_at_checked(usize::from(length)) else { return false };
        *rest = after;
        str::from_utf8(text).is_ok()
    };
    while !rest.is_empty() {
        if !text(&mut rest, false) || !text(&mut rest, true) {
            return false;
        }
    }
    usize::from(header[0]) < Kind::ALL.len() && str::from_utf8(name).is_ok()
}

/// Graphite's notation: `name;k=v;bare`.
impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        for (key, value) in self.tags() {
            write!(f, ";{key}")?;
            if let Some(value) = value {
                write!(f, "={value}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {self}", self.kind().name())
    }
}

#[derive(Clone)]
struct Tags<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Tags<'a> {
    type Item = (&'a str, Option<&'a str>);

    fn next(&mut self) -> Option<Self::Item> {
        let (key, rest) = take_text(self.rest)?;
        let (value, rest) = take_text(rest)?;
        self.rest = rest;
        Some((key.unwrap_or(""), value))
    }
}

/// One length-prefixed text, and what follows.
fn take_text(bytes: &[u8]) -> Option<(Option<&str>, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    let length = u16::from_le_bytes(*length);
    if length == NO_VALUE {
        return Some((None, rest));
    }
    let (value, rest) = rest.split_at_checked(usize::from(length))?;
    Some((Some(text(value)), rest))
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("a key holds only text that was UTF-8 when it was built")
}

/// The name in a key that has no tags; `None` for one that has.
#[inline]
pub(crate) fn plain_name(key: &[u8]) -> Option<&[u8]> {
    let (header, rest) = key.split_first_chunk::<HEADER>()?;
    (usize::from(u16::from_le_bytes([header[1], header[2]])) == rest.len()).then_some(rest)
}

/// Builds canonical keys in a buffer that is used again and again: nothing is allocated for a key that is
/// not larger than those before it.
#[derive(Debug, Default)]
pub struct KeyBuilder {
    key: Vec<u8>,
    tag_text: Vec<u8>,
    tags: Vec<TagSpan>,
}

/// A tag inside `tag_text`; `value` is the end of the value, or `None`.
#[derive(Clone, Copy, Debug)]
struct TagSpan {
    start: u32,
    key_end: u32,
    value_end: Option<u32>,
}

impl KeyBuilder {
    /// The key of a metric as `kind`.
    #[inline]
    pub fn metric(&mut self, metric: &Metric<'_>, kind: Kind) -> &[u8] {
        if metric.tags.is_empty() {
            return self.build(kind, &metric.name, std::iter::empty());
        }
        self.build(kind, &metric.name, metric.tags.iter())
    }

    /// The key of a name with tags in any order. A text of more than 65,534 bytes is cut; the wire's own
    /// limits ([`crate::protocol::MAX_NAME_BYTES`], [`crate::protocol::MAX_TAG_BYTES`]) keep far below.
    #[inline]
    pub fn build<'a>(&mut self, kind: Kind, name: &Name<'_>, tags: impl Iterator<Item = Tag<'a>>) -> &[u8] {
        self.key.clear();
        self.key.extend_from_slice(&[kind as u8, 0, 0]);
        name.write_to(&mut self.key);
        let name_len = length(self.key.len() - HEADER);
        self.key[1..HEADER].copy_from_slice(&name_len.to_le_bytes());
        self.key.truncate(HEADER + usize::from(name_len));
        self.append_tags(tags);
        &self.key
    }

    /// Takes another key in place of the one that was built.
    pub(crate) fn replace(&mut self, series: &Series) {
        self.key.clear();
        self.key.extend_from_slice(series.key());
    }

    /// The key that was built last.
    pub(crate) fn last(&self) -> &[u8] {
        &self.key
    }

    fn append_tags<'a>(&mut self, tags: impl Iterator<Item = Tag<'a>>) {
        self.tags.clear();
        self.tag_text.clear();
        for tag in tags {
            let start = self.tag_text.len() as u32;
            self.tag_text.extend_from_slice(lossy(tag.key).as_bytes());
            let key_end = self.tag_text.len() as u32;
            let value_end = tag.value.map(|value| {
                self.tag_text.extend_from_slice(lossy(value).as_bytes());
                self.tag_text.len() as u32
            });
            self.tags.push(TagSpan { start, key_end, value_end });
        }
        if self.tags.is_empty() {
            return;
        }
        let text = &self.tag_text;
        let parts = |tag: &TagSpan| {
            let key = &text[tag.start as usize..tag.key_end as usize];
            (key, tag.value_end.map(|end| &text[tag.key_end as usize..end as usize]))
        };
        self.tags.sort_unstable_by(|a, b| parts(a).cmp(&parts(b)));
        self.tags.dedup_by(|a, b| parts(a) == parts(b));
        for tag in &self.tags {
            let (key, value) = parts(tag);
            append_text(&mut self.key, key);
            match value {
                Some(value) => append_text(&mut self.key, value),
                None => self.key.extend_from_slice(&NO_VALUE.to_le_bytes()),
            }
        }
    }
}

fn append_text(out: &mut Vec<u8>, text: &[u8]) {
    let length = length(text.len());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&text[..usize::from(length)]);
}

fn length(bytes: usize) -> u16 {
    u16::try_from(bytes).unwrap_or(NO_VALUE).min(NO_VALUE - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Line, Options, parse_line};

    fn series(line: &str) -> Series {
        let Ok(Line::Samples(mut samples)) = parse_line(line.as_bytes(), &Options::default()) else {
            panic!("{line} is not a metric")
        };
        let metric = samples.next().expect("one sample").expect("a good sample");
        Series::from_key(KeyBuilder::default().metric(&metric, metric.kind))
    }

    #[test]
    fn tags_in_any_order_and_dialect_are_one_series() {
        let expected = series("a:1|c|#x:1,y:2");
        for line in ["a:1|c|#y:2,x:1", "a;y=2;x=1:1|c", "a,x=1:1|c|#y:2", "a:1|c|#x:1|#y:2,x:1", "a[x=1,y=2]:1|c"] {
            assert_eq!(series(line), expected, "{line}");
        }
        assert_ne!(series("a:1|c|#x:1"), expected);
        assert_ne!(series("a:1|g|#x:1,y:2"), expected);
    }

    #[test]
    fn a_tag_without_a_value_an_empty_value_and_two_values_all_differ() {
        assert_eq!(series("a:1|c|#k").to_string(), "a;k");
        assert_eq!(series("a:1|c|#k:").to_string(), "a;k=");
        assert_eq!(series("a:1|c|#k:2,k:1,k").to_string(), "a;k;k=1;k=2");
    }

    #[test]
    fn a_decorated_series_keeps_its_own_tags() {
        let global = [("host".to_string(), "h".to_string()), ("k".to_string(), "other".to_string())];
        assert_eq!(series("a:1|c|#k:1").decorated("p.", &global).to_string(), "p.a;host=h;k=1");
    }
}
