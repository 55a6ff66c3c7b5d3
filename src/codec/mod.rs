//! The formats of a [`Snapshot`](crate::snapshot::Snapshot): JSON records for files, pipes, `replay` and the API, and bytes
//! without loss for the spool.
#![deny(clippy::disallowed_methods)]

mod binary;
mod record;

pub(crate) use record::Outline;
pub use record::{
    EncodedRecord, EventFields, Record, RecordType, Records, Tags, json_tags, records, write_json, write_ledger_record,
};
