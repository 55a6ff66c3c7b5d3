//! Why a line was refused, and where. `ParseError` is `Copy`: the hot path builds no strings.

use std::fmt;

/// Why a line, or one sample of it, is malformed. The names are fixed: they are keys of the ledger,
/// of `explain --json` and label values in `/metrics`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Reason {
    /// There is nothing before the first `:`.
    EmptyName,
    /// There is a `|` before the first `:`.
    BadName,
    /// No `|type` follows the value, or no `:value|type` follows the name.
    MissingType,
    /// The type is none of `c g ms h d s m kv`.
    UnknownType,
    /// A value is missing, not a finite decimal number, or a negative duration.
    BadValue,
    /// A sample rate is negative, not a decimal number, or too small to divide by.
    BadRate,
    /// A `T` field is not a positive integer.
    BadTimestamp,
    /// A set member is empty.
    BadMember,
    /// The name is not UTF-8.
    NotUtf8,
    /// The line contains a NUL byte.
    Nul,
    /// The name, the tags or the line exceed their limit.
    TooLong,
    /// An event's header or lengths don't fit its text.
    BadEvent,
    /// A service check has no name or no status of 0 to 3.
    BadServiceCheck,
    /// A stream ended inside a line, or a frame is invalid.
    BadFrame,
    /// A connection to a line listener began with an HTTP request and was closed.
    HttpRequest,
}

impl Reason {
    /// Every reason, in the order of its number.
    pub const ALL: [Reason; 15] = [
        Reason::EmptyName,
        Reason::BadName,
        Reason::MissingType,
        Reason::UnknownType,
        Reason::BadValue,
        Reason::BadRate,
        Reason::BadTimestamp,
        Reason::BadMember,
        Reason::NotUtf8,
        Reason::Nul,
        Reason::TooLong,
        Reason::BadEvent,
        Reason::BadServiceCheck,
        Reason::BadFrame,
        Reason::HttpRequest,
    ];

    /// The fixed name, as in the ledger.
    pub fn name(self) -> &'static str {
        match self {
            Reason::EmptyName => "empty_name",
            Reason::BadName => "bad_name",
            Reason::MissingType => "missing_type",
            Reason::UnknownType => "unknown_type",
            Reason::BadValue => "bad_value",
            Reason::BadRate => "bad_rate",
            Reason::BadTimestamp => "bad_timestamp",
            Reason::BadMember => "bad_member",
            Reason::NotUtf8 => "not_utf8",
            Reason::Nul => "nul",
            Reason::TooLong => "too_long",
            Reason::BadEvent => "bad_event",
            Reason::BadServiceCheck => "bad_service_check",
            Reason::BadFrame => "bad_frame",
            Reason::HttpRequest => "http_request",
        }
    }

    /// One sentence that says what would be right.
    pub fn message(self) -> &'static str {
        match self {
            Reason::EmptyName => "the name before `:` is empty; a line reads `name:value|type`",
            Reason::BadName => "`|` stands before the first `:`; a line reads `name:value|type`",
            Reason::MissingType => "no `|type` follows; a line reads `name:value|type`",
            Reason::UnknownType => "unknown type; one of c, g, ms, h, d, s, m, kv is right",
            Reason::BadValue => "not a finite decimal number such as 5, -0.5 or 1e-3",
            Reason::BadRate => "not a sample rate; `@` is followed by a number above 0 and up to 1",
            Reason::BadTimestamp => "not a timestamp; `T` is followed by Unix seconds, 1 or later",
            Reason::BadMember => "the set member is empty",
            Reason::NotUtf8 => "the name is not UTF-8",
            Reason::Nul => "a NUL byte inside the line",
            Reason::TooLong => "longer than the limit",
            Reason::BadEvent => "not an event; `_e{TITLE_BYTES,TEXT_BYTES}:title|text` with lengths in bytes is right",
            Reason::BadServiceCheck => "not a service check; `_sc|name|0..3` is right",
            Reason::BadFrame => "the stream ended inside the line",
            Reason::HttpRequest => "HTTP, where lines are read; nothing of the connection was",
        }
    }
}

/// A malformed line: the reason and the 0-based byte, in the trimmed line, where it shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// Why.
    pub reason: Reason,
    /// Where, in bytes from the start of the trimmed line.
    pub at: u32,
    detail: Detail,
}

/// A message that replaces the reason's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Detail {
    None,
    NegativeDuration,
    Untimely,
}

impl ParseError {
    pub(crate) fn new(reason: Reason, at: usize) -> ParseError {
        ParseError { reason, at: u32::try_from(at).unwrap_or(u32::MAX), detail: Detail::None }
    }

    /// A duration below zero.
    pub(crate) fn negative_duration(at: usize) -> ParseError {
        ParseError { detail: Detail::NegativeDuration, ..ParseError::new(Reason::BadValue, at) }
    }

    /// A well-formed timestamp outside of the accepted window.
    pub(crate) fn untimely(at: usize) -> ParseError {
        ParseError { detail: Detail::Untimely, ..ParseError::new(Reason::BadTimestamp, at) }
    }

    /// One sentence that says what would be right.
    pub fn message(&self) -> &'static str {
        match self.detail {
            Detail::None => self.reason.message(),
            Detail::NegativeDuration => "a duration (`ms`) is never negative",
            Detail::Untimely => "its own time is older than `timestamp_past`, or further ahead than `timestamp_future`",
        }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}: {}", self.reason.name(), self.at, self.message())
    }
}

impl std::error::Error for ParseError {}
