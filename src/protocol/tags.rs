//! Tags as they stand on the wire, in every dialect, borrowed and read lazily.
//!
//! ```text
//! signalfx  name[k=v,k=v]suffix      influx  name,k=v,k=v      librato  name#k=v,k=v
//! graphite  name;k=v;k=v             dogstatsd  …|#k:v,k,##k:v|…   (several sections merge)
//! ```
//! Canonical order and the collapse of duplicates are the business of [`crate::series`].

use std::borrow::Cow;

/// One tag: its key and, unless it stands alone, its value. Neither need be UTF-8 yet.
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
#[derive(Clone, Copy, Debug, Default)]
pub struct Tags<'a> {
    /// What stands between `[` and `]`.
    pub(super) bracketed: &'a [u8],
    /// What follows the first `,`, `#` or `;` of the name.
    pub(super) trailing: &'a [u8],
    /// `,` or `;`.
    pub(super) separator: u8,
    /// The fields behind the type, if a `#` section is among them.
    pub(super) fields: &'a [u8],
}

impl<'a> Tags<'a> {
    /// No tag can come of this.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.bracketed.is_empty() && self.trailing.is_empty() && self.fields.is_empty()
    }

    /// Bytes of tag text, an upper bound of what the tags take.
    #[inline]
    pub fn text_len(&self) -> usize {
        self.bracketed.len() + self.trailing.len() + self.fields.len()
    }

    /// The tags in the order of the wire, duplicates included.
    pub fn iter(self) -> impl Iterator<Item = Tag<'a>> {
        let separator = self.separator;
        let in_name = split(self.bracketed, b',').chain(split(self.trailing, separator)).filter_map(assignment);
        let sections = split(self.fields, b'|').filter_map(|field| field.strip_prefix(b"#"));
        in_name.chain(sections.flat_map(section))
    }
}

/// The tags of one `#` section, `#` already gone.
pub(super) fn section(text: &[u8]) -> impl Iterator<Item = Tag<'_>> {
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

/// Like `slice::split`, but nothing at all for an empty text.
fn split(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    text.split(move |&byte| byte == separator).take(if text.is_empty() { 0 } else { usize::MAX })
}

/// Text that need not be UTF-8, with U+FFFD for what isn't.
pub fn lossy(text: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(text)
}
