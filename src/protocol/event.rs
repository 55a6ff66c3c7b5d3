//! DogStatsD events: `_e{TITLE_BYTES,TEXT_BYTES}:title|text|d:…|h:…|k:…|p:…|s:…|t:…|#…`. Lengths, not
//! separators, delimit title and text; `\n` (two characters) stands for a newline in both.

use std::borrow::Cow;

use nom::bytes::complete::tag;
use nom::character::complete::{char, digit1};
use nom::sequence::{delimited, separated_pair};
use nom::{IResult, Parser};

use crate::named::named_enum;

use super::error::{ParseError, Reason};
use super::fields::{Field, TagBytes, field, filled, unsigned};
use super::metric::Cardinality;
use super::parse::trim_end;
use super::tags::{Tags, lossy};

named_enum! {
    /// How urgent an event is: `p:`.
    pub enum Priority {
        /// It can wait.
        Low = "low",
        /// What holds unless it says otherwise.
        Normal = "normal",
    }
}

named_enum! {
    /// How grave an event is: `t:`.
    pub enum AlertType {
        /// Something failed.
        Error = "error",
        /// Something may fail.
        Warning = "warning",
        /// What holds unless it says otherwise.
        Info = "info",
        /// Something went well.
        Success = "success",
    }
}

/// One event, borrowed.
#[derive(Clone, Debug)]
pub struct Event<'a> {
    /// Never empty.
    pub title: Cow<'a, str>,
    /// May be empty.
    pub text: Cow<'a, str>,
    /// Its own timestamp, in Unix seconds.
    pub timestamp: Option<u64>,
    /// The host it names.
    pub host: Option<&'a [u8]>,
    /// Events with the same key belong together.
    pub aggregation_key: Option<&'a [u8]>,
    /// How urgent it is.
    pub priority: Priority,
    /// What sent it.
    pub source_type: Option<&'a [u8]>,
    /// How grave it is.
    pub alert_type: AlertType,
    /// DogStatsD's container id.
    pub container: Option<&'a [u8]>,
    /// DogStatsD's external data.
    pub external_data: Option<&'a [u8]>,
    /// DogStatsD's tag cardinality.
    pub cardinality: Option<Cardinality>,
    tags: Tags<'a>,
    fields: &'a [u8],
}

impl<'a> Event<'a> {
    /// The tags, duplicates included.
    pub fn tags(&self) -> Tags<'a> {
        self.tags
    }

    /// Sections that were skipped.
    pub fn skipped_sections(&self) -> impl Iterator<Item = &'a [u8]> {
        self.fields.split(|&b| b == b'|').filter(|f| {
            !matches!(f.get(..2), Some(b"d:" | b"h:" | b"k:" | b"p:" | b"s:" | b"t:")) && super::fields::is_unknown(f)
        })
    }
}

fn header(line: &[u8]) -> IResult<&[u8], (&[u8], &[u8])> {
    delimited(tag("_e{"), separated_pair(digit1, char(','), digit1), tag("}:")).parse(line)
}

/// Reads a line that begins with `_e{`.
pub(super) fn event(line: &[u8], max_tags: u32) -> Result<Event<'_>, ParseError> {
    let refuse = |at: usize| ParseError::new(Reason::BadEvent, at);
    let (body, (title_len, text_len)) = header(line).map_err(|_| refuse(3.min(line.len())))?;
    let start = line.len() - body.len();
    let length = |digits| unsigned(digits).and_then(|n| usize::try_from(n).ok()).ok_or(refuse(3));
    let (title_len, text_len) = (length(title_len)?, length(text_len)?);
    let end = title_len.checked_add(1).and_then(|n| n.checked_add(text_len)).ok_or(refuse(3))?;
    if title_len == 0 {
        return Err(refuse(3));
    }
    if body.len() < end {
        return Err(refuse(line.len()));
    }
    if body[title_len] != b'|' {
        return Err(refuse(start + title_len));
    }
    let rest = trim_end(&body[end..]);
    // Anything between the text and the next `|` is ignored.
    let fields = memchr::memchr(b'|', rest).map_or(&rest[rest.len()..], |bar| &rest[bar + 1..]);
    let mut event = Event {
        title: unescape(&body[..title_len]),
        text: unescape(&body[title_len + 1..end]),
        timestamp: None,
        host: None,
        aggregation_key: None,
        priority: Priority::Normal,
        source_type: None,
        alert_type: AlertType::Info,
        container: None,
        external_data: None,
        cardinality: None,
        tags: Tags::of_fields(fields, max_tags),
        fields,
    };
    // `fields` is the end of the line, up to blanks.
    let mut at = fields.as_ptr() as usize - line.as_ptr() as usize;
    let mut tag_bytes = TagBytes::after(0);
    for text in fields.split(|&b| b == b'|') {
        let value = text.get(2..).unwrap_or(&[]);
        match text.get(..2) {
            Some(b"d:") => event.timestamp = unsigned(value).or(event.timestamp),
            Some(b"h:") => event.host = Some(value),
            Some(b"k:") => event.aggregation_key = Some(value),
            Some(b"s:") => event.source_type = Some(value),
            Some(b"p:") => event.priority = one_of(value, &Priority::ALL, Priority::as_str).unwrap_or(event.priority),
            Some(b"t:") => {
                event.alert_type = one_of(value, &AlertType::ALL, AlertType::as_str).unwrap_or(event.alert_type);
            }
            _ => match field(text) {
                Field::Container(id) => event.container = filled(id).or(event.container),
                Field::ExternalData(data) => event.external_data = filled(data).or(event.external_data),
                Field::Cardinality(level) => event.cardinality = Cardinality::from_text(level).or(event.cardinality),
                Field::Tags(tags) => tag_bytes.add(tags, at + text.len())?,
                Field::Empty | Field::Rate(_) | Field::Timestamp(_) | Field::Unknown => {}
            },
        }
        at += text.len() + 1;
    }
    Ok(event)
}

fn one_of<T: Copy>(text: &[u8], all: &[T], name: fn(T) -> &'static str) -> Option<T> {
    all.iter().copied().find(|one| name(*one).as_bytes() == text)
}

fn unescape(text: &[u8]) -> Cow<'_, str> {
    let text = lossy(text);
    if text.contains("\\n") { Cow::Owned(text.replace("\\n", "\n")) } else { text }
}
