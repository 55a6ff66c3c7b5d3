//! How a [`Snapshot`](crate::snapshot::Snapshot) is written: as JSON records for files, pipes, `replay` and the API, and as bytes
//! that hold all of it, for the spool.
#![deny(clippy::disallowed_methods)]

mod binary;
mod record;

pub use record::{EncodedRecord, Record, RecordType, Records, json_tags, records, write_json};
