//! The gauges that stand before an interval, and their checkpoints.
//!
//! A gauge goes on from interval to interval, so what an interval says depends on all before it. A checkpoint holds what
//! stands at the end of the record's `base`; from there on it is computed from the log.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Interval;
use super::content::Content;
use super::record::Record;
use super::replay::Replay;

/// What stands at the end of the record's `base`, and what was computed last from there.
#[derive(Debug)]
pub(super) struct HeldGauges<C: Content> {
    at_base: C::Gauges,
    last: Option<(Interval, C::Gauges)>,
}

/// A checkpoint, as it is stored.
#[derive(Serialize, Deserialize)]
struct Checkpoint<S> {
    base: Interval,
    standing: S,
}

impl<C: Content> HeldGauges<C> {
    pub(super) fn new(at_base: C::Gauges) -> HeldGauges<C> {
        HeldGauges { at_base, last: None }
    }

    /// From the bytes of a checkpoint; `None` if they are none of this base.
    pub(super) fn decode(bytes: &[u8], base: Interval) -> Option<HeldGauges<C>>
    where
        C::Gauges: DeserializeOwned,
    {
        let checkpoint: Checkpoint<C::Gauges> = postcard::from_bytes(bytes).ok()?;
        (checkpoint.base == base).then(|| HeldGauges::new(checkpoint.standing))
    }

    /// What stands at the end of a sealed interval.
    pub(super) fn at_end(
        &mut self,
        content: &C,
        interval: Interval,
        (record, replay): (&Record, &Replay),
    ) -> C::Gauges {
        let last = self.last.as_ref().filter(|(last, _)| (record.base..=interval).contains(last));
        let (from, mut standing) = last.cloned().unwrap_or_else(|| (record.base, self.at_base.clone()));
        for between in from + 1..=interval {
            if let Some(&cut) = record.cuts.get(&between) {
                content.follow(&mut standing, between, &content.merge(replay.bodies(between, cut)));
            }
        }
        self.last = Some((interval, standing.clone()));
        standing
    }

    /// Keeps what stands at the end of a sealed interval, so that nothing is merged twice.
    pub(super) fn keep(&mut self, interval: Interval, standing: &C::Gauges) {
        self.last = Some((interval, standing.clone()));
    }

    /// The checkpoint of the end of a sealed interval.
    pub(super) fn checkpoint(&mut self, content: &C, base: Interval, known: (&Record, &Replay)) -> (C::Gauges, Bytes) {
        let kept = self.last.clone();
        let standing = self.at_end(content, base, known);
        self.last = kept;
        let checkpoint = Checkpoint { base, standing };
        let bytes = postcard::to_stdvec(&checkpoint).expect("a vector takes all of a plain structure");
        (checkpoint.standing, bytes.into())
    }

    /// The log is not what it was.
    pub(super) fn forget_last(&mut self) {
        self.last = None;
    }

    /// A record with a later base holds.
    pub(super) fn rebase(&mut self, at_base: C::Gauges) {
        self.at_base = at_base;
    }
}
