//! The identity of a series: kind, name and canonical tags, in one shared allocation.
//!
//! Canonical means: names cleaned if the listener is configured so, lossy UTF-8, tags sorted by key (a tag without a
//! value before one with), exact duplicates removed. Equal series have equal bytes, so tables hash and compare only
//! bytes.
//!
//! ```text
//! kind u8 | name length u16 | name | { key length u16 | key | value length u16 or 0xFFFF for none | value }*
//! ```
#![deny(clippy::disallowed_methods)]

use std::cmp::Ordering;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use triomphe::ThinArc;

use crate::memory::footprint;
use crate::protocol::{Heartbeats, Kind, Metric, Name, Tag, cut_lossy};

const NO_VALUE: u16 = u16::MAX;
const HEADER: usize = 3;

/// Longest text in a key, in bytes, limited by its length field.
const MAX_TEXT: usize = NO_VALUE as usize - 1;

/// Bytes of tag text after which a key takes no more tags, so that offsets fit 32 bits.
const MAX_TAGS_TEXT: usize = 1 << 30;

/// The identity of a series. Cheap to clone; one word, because every table holds it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Series(ThinArc<(), u8>);

impl Series {
    /// A series from the canonical bytes of a [`KeyBuilder`].
    pub(crate) fn from_key(key: &[u8]) -> Series {
        Series(ThinArc::from_header_and_slice((), key))
    }

    /// A series from parts, for the daemon's own series.
    ///
    /// ```
    /// use systole::internals::{protocol::Kind, series::Series};
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

    /// Bytes that the allocation takes, which all clones share: a count, a length and the key.
    #[inline]
    pub(crate) fn heap_bytes(&self) -> usize {
        footprint(2 * size_of::<usize>() + self.key().len())
    }

    /// How many have this allocation.
    pub(crate) fn holders(&self) -> usize {
        self.0.with_arc(triomphe::Arc::strong_count)
    }

    /// Whether others have this allocation, too.
    pub(crate) fn is_shared(&self) -> bool {
        self.holders() > 1
    }

    /// Whether both share one allocation, and so are equal.
    #[inline]
    pub(crate) fn is_same(&self, other: &Series) -> bool {
        std::ptr::eq(self.key().as_ptr(), other.key().as_ptr())
    }

    /// The kind of its values.
    pub fn kind(&self) -> Kind {
        Kind::ALL[usize::from(self.key()[0])]
    }

    /// The bare name.
    pub fn name(&self) -> &str {
        text(self.name_bytes())
    }

    fn name_bytes(&self) -> &[u8] {
        &self.key()[HEADER..HEADER + self.name_len()]
    }

    #[inline]
    fn name_len(&self) -> usize {
        usize::from(u16::from_le_bytes([self.key()[1], self.key()[2]]))
    }

    /// Whether this is the series of a kind and a name without tags.
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
        self.tag_bytes().map(|(key, value)| (text(key), value.map(text)))
    }

    fn tag_bytes(&self) -> Tags<'_> {
        Tags { rest: &self.key()[HEADER + self.name_len()..] }
    }

    /// Orders by kind, name, tags, as records are printed.
    pub fn order(&self, other: &Series) -> Ordering {
        // UTF-8 sorts like its bytes, so decoding is not needed.
        let (ours, theirs) = (self.name_bytes(), other.name_bytes());
        (self.key()[0], ours).cmp(&(other.key()[0], theirs)).then_with(|| self.tag_bytes().cmp(other.tag_bytes()))
    }

    /// The text by which the API and its clients name a series: `kind:name;key=value;bare`, tags in canonical order, with
    /// `;`, `=` and `\` inside escaped by `\`. [`Series::from_id`] reads it.
    ///
    /// ```
    /// use systole::internals::{protocol::Kind, series::Series};
    /// let timer = Series::new(Kind::Timer, "latency", &[("route", Some("/pay")), ("a=b", None)]);
    /// assert_eq!(timer.id(), r"timer:latency;a\=b;route=/pay");
    /// assert_eq!(Series::from_id(&timer.id()), Some(timer));
    /// ```
    pub fn id(&self) -> String {
        let mut out = String::with_capacity(self.key().len() + 8);
        out.push_str(self.kind().name());
        out.push(':');
        push_escaped(&mut out, self.name());
        for (key, value) in self.tags() {
            out.push(';');
            push_escaped(&mut out, key);
            if let Some(value) = value {
                out.push('=');
                push_escaped(&mut out, value);
            }
        }
        out
    }

    /// The series that an id names, with tags in any order; `None` if it is no id.
    pub fn from_id(id: &str) -> Option<Series> {
        let (kind, rest) = id.split_once(':')?;
        let kind = Kind::of_series(kind)?;
        let mut tags: Vec<(String, Option<String>)> = Vec::new();
        let (mut name, mut is_name) = (String::new(), true);
        let mut rest = rest.chars();
        while let Some(c) = rest.next() {
            let text = match tags.last_mut() {
                _ if is_name => &mut name,
                Some((_, Some(value))) => value,
                Some((key, None)) => key,
                None => return None,
            };
            match c {
                '\\' => text.push(rest.next().filter(|c| matches!(c, ';' | '=' | '\\'))?),
                ';' => {
                    is_name = false;
                    tags.push((String::new(), None));
                }
                '=' => match tags.last_mut() {
                    Some((_, value @ None)) => *value = Some(String::new()),
                    // Of an id, an `=` in a name or a value is escaped.
                    _ => return None,
                },
                c => text.push(c),
            }
        }
        let tags: Vec<_> = tags.iter().map(|(key, value)| (key.as_str(), value.as_deref())).collect();
        Some(Series::new(kind, &name, &tags))
    }

    /// The same series with another kind.
    pub fn with_kind(&self, kind: Kind) -> Series {
        let mut key = self.key().to_vec();
        key[0] = kind as u8;
        Series::from_key(&key)
    }

    /// The same series with a prefix before its name, and with further tags where it does not have them.
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

/// Serializes a map in the order of its keys, so that equal maps have equal bytes.
pub(crate) fn by_series<V: Serialize, S: Serializer>(
    map: &HashMap<Series, V>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut all: Vec<(&Series, &V)> = map.iter().collect();
    all.sort_unstable_by(|(a, _), (b, _)| a.key().cmp(b.key()));
    serializer.collect_map(all)
}

/// Whether bytes have the layout of a series.
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
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        let (key, rest) = take_text(self.rest)?;
        let (value, rest) = take_text(rest)?;
        self.rest = rest;
        Some((key.unwrap_or(b""), value))
    }
}

/// Splits off one length-prefixed text.
fn take_text(bytes: &[u8]) -> Option<(Option<&[u8]>, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    let length = u16::from_le_bytes(*length);
    if length == NO_VALUE {
        return Some((None, rest));
    }
    let (value, rest) = rest.split_at_checked(usize::from(length))?;
    Some((Some(value), rest))
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("a key holds only text that was UTF-8 when it was built")
}

/// The name of a key.
pub(crate) fn name_of_key(key: &[u8]) -> &[u8] {
    let Some((header, rest)) = key.split_first_chunk::<HEADER>() else { return b"" };
    let length = usize::from(u16::from_le_bytes([header[1], header[2]]));
    &rest[..length.min(rest.len())]
}

/// The tags of a key, in canonical order; one without a value has an empty one.
pub(crate) fn tags_of_key(key: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let rest = key.get(HEADER + name_of_key(key).len()..).unwrap_or_default();
    Tags { rest }.map(|(key, value)| (key, value.unwrap_or_default()))
}

/// The name of a key without tags; `None` if it has tags.
#[inline]
pub(crate) fn plain_name(key: &[u8]) -> Option<&[u8]> {
    let (header, rest) = key.split_first_chunk::<HEADER>()?;
    (usize::from(u16::from_le_bytes([header[1], header[2]])) == rest.len()).then_some(rest)
}

/// Appends a text of an id.
fn push_escaped(out: &mut String, text: &str) {
    for c in text.chars() {
        if matches!(c, ';' | '=' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
}

/// Builds canonical keys in a reused buffer: a key that is not larger than earlier ones needs no allocation.
#[derive(Debug, Default)]
pub struct KeyBuilder {
    key: Vec<u8>,
    tag_text: Vec<u8>,
    tags: Vec<TagSpan>,
    /// Tags of the last key before duplicates were removed.
    taken: usize,
    /// Tags of the last metric beyond `max_tags`.
    cut: u64,
    /// Decides which tags `key` are secrets of presence.
    heartbeats: Option<Arc<Heartbeats>>,
}

/// A tag inside `tag_text`; `value` is the end of the value, or `None`.
#[derive(Clone, Copy, Debug)]
struct TagSpan {
    /// The start of the key as a number, enough for most comparisons.
    head: u64,
    start: u32,
    key_end: u32,
    value_end: Option<u32>,
}

impl KeyBuilder {
    /// A builder that omits the tag `key` where it is a secret of presence.
    pub fn hiding(heartbeats: Option<Arc<Heartbeats>>) -> KeyBuilder {
        KeyBuilder { heartbeats, ..KeyBuilder::default() }
    }

    /// Whether a tag is a secret of presence. The key holds only the name so far.
    #[inline]
    fn hides(&self, tag: &Tag<'_>) -> bool {
        tag.key == b"key" && self.heartbeats.as_ref().is_some_and(|all| all.hides_key(&self.key[HEADER..], tag.value))
    }

    /// The key of a metric as `kind`.
    #[inline]
    pub fn metric(&mut self, metric: &Metric<'_>, kind: Kind) -> &[u8] {
        self.cut = 0;
        if metric.tags.is_empty() {
            return self.build(kind, &metric.name, std::iter::empty());
        }
        self.build(kind, &metric.name, metric.tags.iter());
        if self.taken == metric.tags.max() {
            self.cut = metric.tags.cut();
        }
        &self.key
    }

    /// Tags of the last metric that `max_tags` cut.
    pub(crate) fn cut(&self) -> u64 {
        self.cut
    }

    /// The cost of building the last key, in bytes: reading and sorting a tag costs as much as copying 32.
    pub(crate) fn effort(&self) -> usize {
        self.key.len() + 32 * self.taken
    }

    /// The key of a name with tags in any order, of any bytes. Text of more than 65,534 bytes is truncated at a character
    /// boundary; the limits of the protocol ([`crate::protocol::MAX_NAME_BYTES`], [`crate::protocol::MAX_TAG_BYTES`]) are far
    /// below.
    #[inline]
    pub fn build<'a>(&mut self, kind: Kind, name: &Name<'_>, tags: impl Iterator<Item = Tag<'a>>) -> &[u8] {
        self.key.clear();
        self.key.extend_from_slice(&[kind as u8, 0, 0]);
        name.write_to(&mut self.key);
        if self.key.len() - HEADER > MAX_TEXT {
            let kept = cut_lossy(&self.key[HEADER..], MAX_TEXT).len();
            self.key.truncate(HEADER + kept);
        }
        let name_len = (self.key.len() - HEADER) as u16;
        self.key[1..HEADER].copy_from_slice(&name_len.to_le_bytes());
        self.append_tags(tags);
        &self.key
    }

    /// Replaces the key with another one.
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
        let mut hidden = 0;
        for tag in tags {
            if self.hides(&tag) {
                hidden += 1;
                continue;
            }
            let start = self.tag_text.len();
            if start > MAX_TAGS_TEXT {
                break;
            }
            push_lossy(&mut self.tag_text, tag.key);
            let key_end = self.tag_text.len() as u32;
            let value_end = tag.value.map(|value| {
                push_lossy(&mut self.tag_text, value);
                self.tag_text.len() as u32
            });
            let head = head(&self.tag_text[start..key_end as usize]);
            self.tags.push(TagSpan { head, start: start as u32, key_end, value_end });
        }
        self.taken = self.tags.len() + hidden;
        if self.tags.is_empty() {
            return;
        }
        let text = &self.tag_text;
        let parts = |tag: &TagSpan| {
            let key = &text[tag.start as usize..tag.key_end as usize];
            (key, tag.value_end.map(|end| &text[tag.key_end as usize..end as usize]))
        };
        self.tags.sort_unstable_by(|a, b| a.head.cmp(&b.head).then_with(|| parts(a).cmp(&parts(b))));
        self.tags.dedup_by(|a, b| a.head == b.head && parts(a) == parts(b));
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

/// Appends a text with its length, which it must fit.
#[inline]
fn append_text(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(&(text.len() as u16).to_le_bytes());
    out.extend_from_slice(text);
}

/// Appends a text as lossy UTF-8, truncated to the longest text of a key.
#[inline]
fn push_lossy(out: &mut Vec<u8>, text: &[u8]) {
    if text.len() <= MAX_TEXT && text.is_ascii() {
        out.extend_from_slice(text);
    } else {
        out.extend_from_slice(cut_lossy(text, MAX_TEXT).as_bytes());
    }
}

/// The first eight bytes of a text, padded with zeros, as a number with the same order.
#[inline]
fn head(text: &[u8]) -> u64 {
    let mut eight = [0; 8];
    match text.first_chunk() {
        Some(first) => eight = *first,
        None => eight[..text.len()].copy_from_slice(text),
    }
    u64::from_be_bytes(eight)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Line, Options, parse_line};
    use proptest::prelude::*;

    fn series(line: &str) -> Series {
        let Ok(Line::Samples(mut samples)) = parse_line(line.as_bytes(), &Options::default()) else {
            panic!("{line} is not a metric")
        };
        let metric = samples.next().expect("one sample").expect("a good sample");
        Series::from_key(KeyBuilder::default().metric(&metric, metric.kind))
    }

    proptest! {
        #[test]
        fn an_id_is_of_one_series(
            name in r"[a:;=\\ ü]{0,6}",
            tags in proptest::collection::vec((r"[k;=\\]{0,3}", proptest::option::of(r"[v:;=\\]{0,3}")), 0..4),
        ) {
            let tags: Vec<_> = tags.iter().map(|(key, value)| (key.as_str(), value.as_deref())).collect();
            let series = Series::new(Kind::Gauge, &name, &tags);
            prop_assert_eq!(Series::from_id(&series.id()), Some(series));
        }
    }

    #[test]
    fn what_is_no_id_names_no_series() {
        for id in ["", "a", "counters:a", "meter:a", "counter:a=b", "counter:a;k=v=w", r"counter:a\b", r"counter:a\"] {
            assert_eq!(Series::from_id(id), None, "{id}");
        }
        let ordered = Series::new(Kind::Counter, "a", &[("x", Some("")), ("y", None)]);
        assert_eq!(Series::from_id("counter:a;y;x="), Some(ordered));
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
    fn tags_are_ordered_as_texts_are() {
        let tags = |order: &[&str]| format!("a;{}", order.join(";"));
        assert_eq!(
            series("a:1|c|#abcdefghj,abcdefghi:1,abcdefgh,ab").to_string(),
            tags(&["ab", "abcdefgh", "abcdefghi=1", "abcdefghj"])
        );
        assert_eq!(series("a:1|c|#\u{e9}:1,z,zz:2,zz:1").to_string(), tags(&["z", "zz=1", "zz=2", "\u{e9}=1"]));
    }

    #[test]
    fn tags_beyond_the_bound_are_cut_and_counted() {
        let options = Options { max_tags: 3, ..Options::default() };
        let mut keys = KeyBuilder::default();
        for (line, expected, cut) in [
            ("a,x=1,y=2:1|c|#z,w:3,v", "a;x=1;y=2;z", 2),
            ("a:1|c|#z,y,x", "a;x;y;z", 0),
            ("a:1|c|#z,z,z,z,,x", "a;z", 2),
            ("a:1|c", "a", 0),
        ] {
            let Ok(Line::Samples(mut samples)) = parse_line(line.as_bytes(), &options) else { panic!("{line}") };
            let metric = samples.next().expect("one sample").expect("a good sample");
            let built = Series::from_key(keys.metric(&metric, metric.kind)).to_string();
            assert_eq!((built.as_str(), keys.cut()), (expected, cut), "{line}");
        }
    }

    /// Bytes as an attacker chooses them: few distinct ones, among them those of the grammar.
    fn bytes(length: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![
            3 => proptest::sample::select(b"\xff\xc3\xa9\xe2\x82\xac\xf0\x9f\x92\xa9:|#,;=[]@".to_vec()),
            2 => b'a'..=b'c',
            1 => any::<u8>(),
        ];
        // Repeating a short text reaches 64 KiB in reasonable time.
        (proptest::collection::vec(byte, 0..12), length).prop_map(|(unit, length)| match unit.len() {
            0 => Vec::new(),
            _ => unit.iter().copied().cycle().take(length).collect(),
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn a_key_can_be_built_of_any_bytes(
            name in bytes(0..70_000),
            tags in proptest::collection::vec((bytes(0..70_000), proptest::option::of(bytes(0..70_000))), 0..6),
        ) {
            let name = String::from_utf8_lossy(&name);
            let tags = tags.iter().map(|(key, value)| Tag { key, value: value.as_deref() });
            let mut keys = KeyBuilder::default();
            let key = keys.build(Kind::Gauge, &Name::plain(&name), tags);
            prop_assert!(is_canonical(key));
            let series = Series::from_key(key);
            prop_assert!(name.starts_with(series.name()));
            let told: Vec<_> = series.tags().collect();
            prop_assert!(told.windows(2).all(|two| two[0] < two[1]), "{told:?}");
        }

        #[test]
        fn any_line_has_keys_that_can_be_read(
            head in proptest::sample::select(vec!["_sc|n|0|#", "_e{1,1}:a|b|#", "a:1|c|#", "a,k=", "a[k=", ""]),
            middle in bytes(0..66_000),
            tail in proptest::sample::select(vec!["", ":1|c", "]:1|c|#x", "|#k:v", ":1|c:2|g|@0.5:3|ms"]),
            sanitize: bool,
        ) {
            let line = [head.as_bytes(), &middle, tail.as_bytes()].concat();
            let options = Options { sanitize, ..Options::default() };
            let mut keys = KeyBuilder::default();
            let is_bounded = |key: &[u8]| is_canonical(key) && key.len() < 60_000;
            match parse_line(&line, &options) {
                Ok(Line::Samples(samples)) => {
                    for metric in samples.filter_map(Result::ok).take(3) {
                        prop_assert!(is_bounded(keys.metric(&metric, metric.kind)));
                    }
                }
                Ok(Line::Event(event)) => {
                    prop_assert!(is_bounded(keys.build(Kind::Set, &Name::plain(""), event.tags().iter())));
                }
                Ok(Line::ServiceCheck(check)) => {
                    prop_assert!(is_bounded(keys.build(Kind::Set, &Name::plain(""), check.tags().iter())));
                }
                Ok(Line::Empty) | Err(_) => {}
            }
        }
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
