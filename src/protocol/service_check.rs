//! DogStatsD service checks: `_sc|name|0..3|d:…|h:…|#…|m:…`. A message ends at the next `|` and keeps its escapes.

use super::error::{ParseError, Reason};
use super::fields::{Field, TagBytes, field, filled, unsigned};
use super::metric::Cardinality;
use super::tags::Tags;

/// One service check, borrowed.
#[derive(Clone, Debug)]
pub struct ServiceCheck<'a> {
    /// Never empty.
    pub name: &'a str,
    /// 0 ok, 1 warning, 2 critical, 3 unknown.
    pub status: u8,
    /// Its own timestamp, in Unix seconds.
    pub timestamp: Option<u64>,
    /// The host it names.
    pub host: Option<&'a [u8]>,
    /// The message.
    pub message: Option<&'a [u8]>,
    /// DogStatsD's container id.
    pub container: Option<&'a [u8]>,
    /// DogStatsD's external data.
    pub external_data: Option<&'a [u8]>,
    /// DogStatsD's tag cardinality.
    pub cardinality: Option<Cardinality>,
    tags: Tags<'a>,
    fields: &'a [u8],
}

impl<'a> ServiceCheck<'a> {
    /// The tags, duplicates included.
    pub fn tags(&self) -> Tags<'a> {
        self.tags
    }

    /// Sections that were skipped.
    pub fn skipped_sections(&self) -> impl Iterator<Item = &'a [u8]> {
        self.fields
            .split(|&b| b == b'|')
            .filter(|f| !matches!(f.get(..2), Some(b"d:" | b"h:" | b"m:")) && super::fields::is_unknown(f))
    }
}

/// Reads a line that begins with `_sc|`.
pub(super) fn service_check(line: &[u8], max_tags: u32) -> Result<ServiceCheck<'_>, ParseError> {
    const PREFIX: usize = "_sc|".len();
    let refuse = |at: usize| ParseError::new(Reason::BadServiceCheck, at);
    let body = &line[PREFIX..];
    let name_len = memchr::memchr(b'|', body).ok_or(refuse(line.len()))?;
    if name_len == 0 {
        return Err(refuse(PREFIX));
    }
    let name = std::str::from_utf8(&body[..name_len])
        .map_err(|e| ParseError::new(Reason::NotUtf8, PREFIX + e.valid_up_to()))?;
    let rest = &body[name_len + 1..];
    let (status, fields) = match rest {
        [digit @ b'0'..=b'3'] => (digit - b'0', &rest[1..]),
        [digit @ b'0'..=b'3', b'|', fields @ ..] => (digit - b'0', fields),
        _ => return Err(refuse(PREFIX + name_len + 1)),
    };
    let mut check = ServiceCheck {
        name,
        status,
        timestamp: None,
        host: None,
        message: None,
        container: None,
        external_data: None,
        cardinality: None,
        tags: Tags::of_fields(fields, max_tags),
        fields,
    };
    // `fields` is the end of the line.
    let mut at = fields.as_ptr() as usize - line.as_ptr() as usize;
    let mut tag_bytes = TagBytes::after(0);
    for text in fields.split(|&b| b == b'|') {
        let value = text.get(2..).unwrap_or(&[]);
        match text.get(..2) {
            Some(b"d:") => check.timestamp = unsigned(value).or(check.timestamp),
            Some(b"h:") => check.host = Some(value),
            Some(b"m:") => check.message = Some(value),
            _ => match field(text) {
                Field::Container(id) => check.container = filled(id).or(check.container),
                Field::ExternalData(data) => check.external_data = filled(data).or(check.external_data),
                Field::Cardinality(level) => check.cardinality = Cardinality::from_text(level).or(check.cardinality),
                Field::Tags(tags) => tag_bytes.add(tags, at + text.len())?,
                Field::Empty | Field::Rate(_) | Field::Timestamp(_) | Field::Unknown => {}
            },
        }
        at += text.len() + 1;
    }
    Ok(check)
}
