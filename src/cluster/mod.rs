//! Scale-out: nodes on a replicated log give what one node would have given. Edges seal what they heard of each interval
//! into batches, one for each partition of the series; the owner of a partition merges the batches of all edges.
//!
//! The room is not connected to the daemon yet: only this crate's own tests build it.
#![deny(clippy::disallowed_methods)]

pub mod batch;
mod node_name;

pub use node_name::{BadNodeName, NodeName};
