//! What owners do with batches: they merge those of an interval and carry gauges on. The machines read the headers alone.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::bus::Sequence;
use super::replay::Account;
use super::session::SessionId;
use super::{Interval, NodeName};

/// How batches are merged.
pub trait Content {
    /// An interval of a partition.
    type Merged: Clone;
    /// The gauges that stand, which a later interval goes on with.
    type Gauges: Clone + Default + Serialize + DeserializeOwned;

    /// Merges whole messages, headers and bodies, in the order in which they come. A body that can't be read adds nothing.
    fn merge<'a>(&self, messages: impl Iterator<Item = &'a [u8]>) -> Self::Merged;

    /// Appends an interval to the gauges that stood before it. It is called for every interval, also for one of which there
    /// is nothing.
    fn follow(&self, standing: &mut Self::Gauges, interval: Interval, merged: &Self::Merged);
}

/// Which batch of a partition it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BatchId {
    /// The edge.
    pub edge: NodeName,
    /// Which of its starts.
    pub boot: u64,
    /// Its number among all of the edge and the partition.
    pub n: u64,
}

/// An interval of a partition, as sinks get it: the same from every owner, as often as it is emitted.
#[derive(Clone, Debug)]
pub struct Emission<C: Content> {
    /// The partition.
    pub partition: u16,
    /// The interval.
    pub interval: Interval,
    /// 0, and more for amendments.
    pub version: u32,
    /// Up to where the log was merged.
    pub cut: Sequence,
    /// Who emits it; all else is the same from everyone.
    pub owner: SessionId,
    /// What the interval has.
    pub merged: C::Merged,
    /// The gauges that stand at its end.
    pub standing: C::Gauges,
    /// What was missed; amendments have none.
    pub account: Option<Account>,
    /// The batches that were merged.
    pub batches: Vec<BatchId>,
}
