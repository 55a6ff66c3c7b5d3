//! Tags of every dialect, borrowed from the wire and read lazily.
//!
//! ```text
//! signalfx  name[k=v,k=v]suffix      influx  name,k=v,k=v      librato  name#k=v,k=v
//! graphite  name;k=v;k=v             dogstatsd  …|#k:v,k,##k:v|…   (several sections merge)
//! ```
//! [`crate::series`] sorts them and removes duplicates. Everything that carries tags has a bound on their text,
//! [`MAX_TAG_BYTES`], and one on their number, `max_tags`: a line beyond the first is malformed, tags beyond the second
//! are cut and counted.

use std::borrow::Cow;

/// Most tag text that a sample, an event or a service check may carry, in bytes.
pub const MAX_TAG_BYTES: usize = 16 * 1024;

/// Most tags that are kept of a sample, an event or a service check, unless `max_tags` says otherwise.
pub const MAX_TAGS: u32 = 256;

/// One tag: its key and, if it has one, its value. Neither is necessarily UTF-8 yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag<'a> {
    /// Never empty.
    pub key: &'a [u8],
    /// `None` for a tag without `:`; `Some("")` for `key:`.
    pub value: Option<&'a [u8]>,
}

/// The styles of tags inside a name that a listener reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameTags {
    /// `name[k=v]`
    pub signalfx: bool,
    /// `name,k=v`
    pub influx: bool,
    /// `name#k=v`
    pub librato: bool,
    /// `name;k=v`
    pub graphite: bool,
}

impl NameTags {
    /// The names of the styles, as the configuration writes them.
    pub const NAMES: [&'static str; 4] = ["graphite", "influx", "signalfx", "librato"];
    /// Every style: the default.
    pub const ALL: NameTags = NameTags { signalfx: true, influx: true, librato: true, graphite: true };
    /// Names are taken whole.
    pub const NONE: NameTags = NameTags { signalfx: false, influx: false, librato: false, graphite: false };

    /// Switches a style on by its configured name; `false` if there is no such style.
    pub fn enable(&mut self, name: &str) -> bool {
        match name {
            "signalfx" => self.signalfx = true,
            "influx" => self.influx = true,
            "librato" => self.librato = true,
            "graphite" => self.graphite = true,
            _ => return false,
        }
        true
    }

    /// The enabled styles by their configured names.
    pub fn names(self) -> Vec<&'static str> {
        let enabled = [self.graphite, self.influx, self.signalfx, self.librato];
        Self::NAMES.iter().zip(enabled).filter(|(_, on)| *on).map(|(name, _)| *name).collect()
    }
}

/// The tags of one sample, not yet split.
#[derive(Clone, Copy, Debug)]
pub struct Tags<'a> {
    /// The text between `[` and `]`.
    pub(super) bracketed: &'a [u8],
    /// What follows the first `,`, `#` or `;` of the name.
    pub(super) trailing: &'a [u8],
    /// `,` or `;`.
    pub(super) separator: u8,
    /// Most tags that are read.
    pub(super) max: u32,
    /// The fields after the type, if a `#` section is among them.
    pub(super) fields: &'a [u8],
}

impl<'a> Tags<'a> {
    /// No tags yet, and at most `max`.
    #[inline]
    pub(super) fn none(max: u32) -> Tags<'a> {
        Tags { bracketed: &[], trailing: &[], separator: b',', max, fields: &[] }
    }

    /// The tags of `#` sections alone.
    pub(super) fn of_fields(fields: &'a [u8], max: u32) -> Tags<'a> {
        Tags { fields, ..Tags::none(max) }
    }

    /// Whether there are certainly no tags.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.bracketed.is_empty() && self.trailing.is_empty() && self.fields.is_empty()
    }

    /// Bytes of tag text inside the name.
    #[inline]
    pub(super) fn name_text_len(&self) -> usize {
        self.bracketed.len() + self.trailing.len()
    }

    /// Whether there are tags after the type, so that another sample of the line may have others.
    #[inline]
    pub(crate) fn has_own(&self) -> bool {
        !self.fields.is_empty()
    }

    /// The tags in the order of the wire, duplicates included, at most `max_tags`.
    pub fn iter(self) -> impl Iterator<Item = Tag<'a>> {
        self.all().take(self.max as usize)
    }

    /// How many tags `max_tags` cuts.
    pub fn cut(self) -> u64 {
        // There are at most as many tags as separators, and counting those is fast.
        let marks = |mark, text| memchr::memchr_iter(mark, text).count();
        let in_name = marks(b',', self.bracketed) + marks(self.separator, self.trailing);
        let most = 3 + in_name + marks(b',', self.fields) + marks(b'|', self.fields);
        if most <= self.max as usize {
            return 0;
        }
        self.all().skip(self.max as usize).count() as u64
    }

    /// Where the tags after the type begin in their line.
    pub(crate) fn place_in(&self, line: &[u8]) -> usize {
        // They are part of the line, so the difference of the pointers is their offset.
        (self.fields.as_ptr() as usize).saturating_sub(line.as_ptr() as usize).min(line.len())
    }

    /// How many tags are read at most.
    #[inline]
    pub(crate) fn max(&self) -> usize {
        self.max as usize
    }

    fn all(self) -> impl Iterator<Item = Tag<'a>> {
        let separator = self.separator;
        let in_name = split(self.bracketed, b',').chain(split(self.trailing, separator)).filter_map(assignment);
        let sections = split(self.fields, b'|').filter_map(|field| field.strip_prefix(b"#"));
        in_name.chain(sections.flat_map(section))
    }
}

/// The tags of one `#` section, without the `#`.
fn section(text: &[u8]) -> impl Iterator<Item = Tag<'_>> {
    split(text, b',').filter_map(|item| {
        let item = item.strip_prefix(b"#").unwrap_or(item);
        let (key, value) = match memchr::memchr(b':', item) {
            Some(colon) => (&item[..colon], Some(&item[colon + 1..])),
            None => (item, None),
        };
        (!key.is_empty()).then_some(Tag { key, value })
    })
}

fn assignment(item: &[u8]) -> Option<Tag<'_>> {
    let equals = memchr::memchr(b'=', item)?;
    (equals > 0).then(|| Tag { key: &item[..equals], value: Some(&item[equals + 1..]) })
}

/// Like `slice::split`, but yields nothing for an empty text.
fn split(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    text.split(move |&byte| byte == separator).take(if text.is_empty() { 0 } else { usize::MAX })
}

/// Text with U+FFFD in place of invalid UTF-8.
pub fn lossy(text: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(text)
}

/// The same, truncated to at most `max` bytes at a character boundary.
pub fn cut_lossy(text: &[u8], max: usize) -> Cow<'_, str> {
    // The lossy text is at least as long as the bytes, so a character that is split here lies beyond the cut.
    match lossy(&text[..text.len().min(max.saturating_add(3))]) {
        Cow::Borrowed(text) => Cow::Borrowed(&text[..text.floor_char_boundary(max)]),
        Cow::Owned(mut text) => {
            text.truncate(text.floor_char_boundary(max));
            Cow::Owned(text)
        }
    }
}
