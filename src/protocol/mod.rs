//! The wire: cuts a datagram into lines and reads each into a borrowed [`Metric`], [`Event`] or
//! [`ServiceCheck`], or into a [`ParseError`] that is `Copy`. No I/O, no clock, no allocation for a metric.
//!
//! One merged grammar reads what every client of every dialect sends:
//!
//! ```text
//! datagram = line { NL line } ;
//! line     = metric | event | check ;
//! metric   = rawname ":" sample { ":" sample } ;
//! sample   = values "|" type { "|" field } ;
//! values   = item { ":" item } ;                     packed; the whole text for a set
//! type     = "c" | "g" | "ms" | "h" | "d" | "s" | "m" | "kv" ;
//! field    = "@" rate | "#" tags | "c:" text | "e:" text | "card:" text | "T" digits | unknown | "" ;
//! tags     = [ "#" ] tag { "," [ "#" ] tag } ;       tag = key [ ":" value ]
//! event    = "_e{" digits "," digits "}:" title "|" text [ rubbish ] { "|" efield } ;
//! check    = "_sc|" name "|" ("0".."3") { "|" cfield } ;
//! rawname  = name with tags inside: name[k=v], name,k=v  name#k=v  name;k=v
//! ```
//!
//! Guarantees: blanks, CR and NUL are trimmed from both ends of a line; a malformed sample affects neither the rest of
//! its line nor the rest of the datagram; numbers are finite; a rate is in (0, 1]; a set member is not empty; a name is
//! UTF-8, not empty and at most `max_name` bytes long; tags have at most [`MAX_TAG_BYTES`] bytes, and at most
//! `max_tags` are read. Names and values are *not* escaped for terminals or HTML: whoever prints them does that.
#![deny(clippy::disallowed_methods)]

mod binary;
mod error;
mod event;
mod fields;
mod heartbeat;
mod metric;
mod name;
mod number;
mod parse;
mod plain;
mod request_line;
mod sanitize;
mod secret;
mod service_check;
mod tags;

pub use binary::{BINARY_MAGIC, BinaryFrame, binary_frame, binary_frames, newlines};
pub use error::{ParseError, Reason};
pub use event::{AlertType, Event, Priority};
pub use heartbeat::{
    Heartbeat, Heartbeats, Ignored, JobStatus, JobTags, MAX_DECLARED_INTERVAL, MIN_DECLARED_INTERVAL, Seen, Signal,
    TAKEN, is_instance_name, is_presence_name, is_service_name,
};
pub use metric::{Cardinality, GaugeOp, GaugeSign, Kind, Metric, Name, SampleRate, Values};
pub use number::decimal;
pub use parse::{Line, Lines, MAX_NAME_BYTES, Options, Samples, lines, parse_line, parse_metric, split_line, trim};
pub use plain::{PlainLine, plain_line};
pub use request_line::{is_request_line, may_be_request_line};
pub use sanitize::sanitize;
pub use secret::mask_key;
pub use service_check::ServiceCheck;
pub use tags::{MAX_TAG_BYTES, MAX_TAGS, NameTags, Tag, Tags, cut_lossy, lossy};
