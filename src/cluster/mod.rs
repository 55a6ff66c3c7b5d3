//! Scale-out: nodes on a replicated log give what one node would have given. Edges seal what they heard of each interval
//! into batches, one for each partition of the series; owners of partitions merge the batches of all edges, seal the
//! interval at a position in the log, emit it, and mark it emitted. A record in the log says who owns a partition and how
//! far it is, so that whoever goes on emits the same.
//!
//! Everything here is a state machine without sockets, tasks or clocks. [`Edge`] and [`Node`] take times and [`Event`]s and
//! give [`Command`]s; a driver carries these to a bus (`cluster_bus`) and back. A command may be lost, done twice, or answered late or
//! never: the machines ask again. `tests/it/cluster_sim.rs` does all of that to them.
//!
//! | file | is about |
//! |---|---|
//! | `batch` | the messages of an interval, by partition |
//! | `bus` | what the machines want of a bus, and what they hear from it |
//! | `edge` | sealed batches, numbered and sent one at a time |
//! | `record` | the record of a partition, and which of the records in the log are valid |
//! | `session` | who lives, whether we may act, and what time it is on the bus |
//! | `preference` | which node should own which partition |
//! | `roster` | which edges there are, by the log alone |
//! | `replay` | what an owner has read: batches by interval, and the account of an interval |
//! | `interval_content` | how batches of lines are merged, and what sinks get of them |
//! | `carried` | what an interval leaves to those after it |
//! | `gauges` | the gauges that stand before an interval, and their checkpoints |
//! | `away` | when a missing batch is excused |
//! | `owner` | one partition: seal, emit, mark |
//! | `node` | all partitions of a node: claims, releases, and the writing of records |
//! | `view` | what a node tells of itself and of others |
//!
//! Times are seconds: those named `now` on the node's own monotonic clock, `stored` and `bus` on the clock of the bus, and
//! `sent` on the wall clock of an edge.
#![deny(clippy::disallowed_methods)]

mod away;
pub mod batch;
mod bus;
mod carried;
mod content;
mod edge;
mod gauges;
mod interval_content;
mod node;
mod node_name;
mod owner;
mod preference;
mod record;
mod replay;
mod roster;
mod session;
#[cfg(test)]
mod testing;
mod view;

pub use bus::{Command, Event, Position, Sequence, Stored, StoredBatch};
pub use carried::Carried;
pub use content::{BatchId, Content, Emission};
pub use edge::{Edge, EdgeOptions, Heard, Publish, SavedEdge, Sealed};
pub use interval_content::{ContentOptions, IntervalContent, MergedInterval};
pub use node::{Node, NodeOptions};
pub use node_name::{BadNodeName, NodeName};
pub use owner::{Late, Terms};
pub use preference::preferred;
pub use record::{Amendment, Chain, Record};
pub use replay::{Account, LateBatch};
pub use roster::{Finding, Member, Roster};
pub use session::{NodeRole, Session, SessionId, SessionNote};
pub use view::{EdgeView, LastInterval, NodeView, PartitionView};

/// The number of an interval: its start in Unix seconds, divided by its length.
pub type Interval = u64;
