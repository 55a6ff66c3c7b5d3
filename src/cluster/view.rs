//! What a node tells of itself and of others, for status and command line. Nothing is decided by it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::bus::Sequence;
use super::record::Record;
use super::roster::Roster;
use super::session::NodeRole;
use super::{Interval, NodeName, SessionId};

/// A partition, as a node sees it: by its valid record, and if it is the node's own also by what was read and marked since.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct PartitionView {
    /// The partition.
    pub partition: u16,
    /// Who owns it; `None` if nobody does, or if its record was not read yet.
    pub owner: Option<SessionId>,
    /// Whether its owner is not called dead.
    pub is_owner_live: bool,
    /// How often it was claimed.
    pub epoch: u64,
    /// Whether the node has it.
    pub is_ours: bool,
    /// The last sealed interval, 0 for none.
    pub sealed: Interval,
    /// The last interval that all sinks took.
    pub emitted: Interval,
    /// The last interval that nobody needs to read again.
    pub base: Interval,
    /// Sealed intervals that wait for the sinks.
    pub unemitted: u64,
    /// Whether missing batches are waited for beyond the deadline, as the bus or the node was away.
    pub catching_up: bool,
    /// The log lacks what the record needs.
    pub log_lost: bool,
    /// The sequence of the log to go on with.
    pub next: Sequence,
    /// The edges, by name. Of a partition of another node they are as they were where its reader would begin.
    pub edges: Vec<EdgeView>,
}

/// An edge, as a partition knows it.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct EdgeView {
    /// Its name.
    pub name: NodeName,
    /// Its last start.
    pub boot: u64,
    /// The number of its last batch.
    pub n: u64,
    /// The last interval of which all its batches have come.
    pub last: Interval,
    /// It said goodbye.
    pub left: bool,
    /// When its last batch was stored, by the clock of the bus.
    pub heard: f64,
    /// By how much its clock is behind that of the bus, at most, in seconds.
    pub lag: f64,
}

/// A node whose session was seen.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct NodeView {
    /// Which start of it.
    pub id: SessionId,
    /// Whether it takes partitions.
    pub takes: bool,
    /// Partitions that it owns.
    pub load: u32,
    /// Batches that it has yet to send.
    pub spooled: u64,
    /// Whether the bus has refused some of them: owners wait for it.
    pub holds_back: bool,
    /// Since when its session has not changed, in seconds.
    pub age: f64,
    /// Whether it is not called dead.
    pub is_live: bool,
    /// What it does, as its configuration has it.
    pub role: NodeRole,
    /// It gives its partitions up and goes on without.
    pub is_draining: bool,
    /// It has stopped, as it was asked to.
    pub has_left: bool,
    /// By how much its wall clock is ahead of that of the bus, in seconds; absent until it is known.
    pub clock_ahead_secs: Option<f64>,
    /// Its interval, in seconds.
    pub interval_secs: f64,
    /// The hash of its settings that shape records.
    pub config: u64,
    /// The last interval that it has merged with the accounts of the edges.
    pub last: Option<LastInterval>,
}

/// How complete an interval was.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LastInterval {
    /// Its end, Unix seconds.
    pub end: f64,
    /// Share of the datagrams that were read, times the share of the edges that were heard, 0 to 1.
    pub completeness: f64,
    /// Edges of which it was expected.
    pub edges_expected: u64,
    /// Edges that delivered all of it in time.
    pub edges_heard: u64,
    /// The first 20 edges that are missing, or of which something came too late.
    pub edges_behind: Vec<String>,
}

impl PartitionView {
    /// A partition by its record alone.
    pub(super) fn of_record(partition: u16, record: &Record) -> PartitionView {
        PartitionView {
            partition,
            owner: record.owner.clone(),
            is_owner_live: false,
            epoch: record.epoch,
            is_ours: false,
            sealed: record.sealed,
            emitted: record.emitted,
            base: record.base,
            unemitted: record.unemitted(record.emitted),
            catching_up: false,
            log_lost: false,
            next: record.resume,
            edges: edges(&record.roster),
        }
    }
}

/// The edges of a roster.
pub(super) fn edges(roster: &Roster) -> Vec<EdgeView> {
    let view = |(name, member): (&NodeName, &super::Member)| EdgeView {
        name: name.clone(),
        boot: member.boot,
        n: member.n,
        last: member.last,
        left: member.left,
        heard: member.heard,
        lag: member.lag,
    };
    roster.members().map(view).collect()
}
