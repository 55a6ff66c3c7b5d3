//! What shows only over time: whether the bus goes on answering, and which partitions stand still.

use std::collections::BTreeSet;

use crate::cluster::{Interval, LastInterval};

use super::status::{BoardOptions, ClusterStatus};

/// When the bus is back it takes so long until all others are seen again, in seconds.
const SETTLING_SECS: f64 = 8.0;

/// A dead owner's partitions have another one after so many seconds.
const TAKE_OVER_SECS: f64 = 15.0;

/// A partition that seals nothing for three intervals, `lateness` and so long stands still, in seconds; one that catches up waits
/// for up to 15 minutes.
const STUCK_SECS: f64 = 45.0;

/// A partition over time.
#[derive(Clone, Copy, Debug, Default)]
struct Course {
    sealed: Interval,
    /// Since when that is the last one it has sealed.
    since: f64,
    /// Since when its owner is not live.
    ownerless: Option<f64>,
}

/// What was seen, by the clock of the board.
#[derive(Debug, Default)]
pub(super) struct Watched {
    /// Since when the bus answers.
    works_since: Option<f64>,
    partitions: Vec<Course>,
    /// The last interval that was merged here.
    pub(super) own_last: Option<LastInterval>,
    /// Edges of it with other settings.
    pub(super) edges_differ: BTreeSet<String>,
}

impl Watched {
    /// Whether the bus has answered for long enough for others to be seen.
    fn is_settled(&self, now: f64) -> bool {
        self.works_since.is_some_and(|since| now - since >= SETTLING_SECS)
    }

    /// Takes the partitions of a status, and names those that stand still. The bus answers, and has done so just now, or not.
    pub(super) fn look(
        &mut self,
        status: &mut ClusterStatus,
        options: &BoardOptions,
        (answers, is_fresh): (bool, bool),
        now: f64,
    ) {
        self.works_since = answers.then(|| self.works_since.unwrap_or(now));
        let has_settled = self.is_settled(now);
        status.is_settled = has_settled && is_fresh;
        self.partitions.resize_with(status.partitions.len(), Course::default);
        (status.ownerless, status.stuck) = (Vec::new(), Vec::new());
        let is_held_back = status.nodes.iter().any(|node| node.is_live && node.holds_back);
        let has_begun = status.partitions.iter().any(|one| one.sealed > 0);
        let patience = 3.0 * options.interval_secs + options.lateness_secs + STUCK_SECS;
        for (course, one) in self.partitions.iter_mut().zip(&status.partitions) {
            // While the bus is away nothing moves, and owners wait for who holds batches back.
            if one.sealed != course.sealed || !has_settled || is_held_back {
                (course.sealed, course.since) = (one.sealed, now);
            }
            let is_seen = status.is_settled && !one.is_owner_live;
            course.ownerless = is_seen.then(|| course.ownerless.unwrap_or(now));
            if course.ownerless.is_some_and(|since| now - since >= TAKE_OVER_SECS) {
                status.ownerless.push(one.partition);
            } else if has_begun && !one.catching_up && now - course.since >= patience {
                status.stuck.push(one.partition);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::PartitionView;

    fn status(sealed: [Interval; 2], is_owner_live: bool) -> ClusterStatus {
        let one = |partition: u16| PartitionView {
            partition,
            owner: None,
            is_owner_live,
            epoch: 1,
            is_ours: false,
            sealed: sealed[partition as usize],
            emitted: 0,
            base: 0,
            unemitted: 0,
            catching_up: false,
            log_lost: false,
            next: 1,
            edges: Vec::new(),
        };
        ClusterStatus { partitions: (0..2).map(one).collect(), ..ClusterStatus::default() }
    }

    #[test]
    fn partitions_that_stand_still_or_have_no_owner_are_named_once_the_bus_has_answered_for_a_while() {
        let options = BoardOptions { interval_secs: 10.0, lateness_secs: 10.0, ..BoardOptions::default() };
        let mut watched = Watched::default();
        let mut look = |now: f64, sealed, is_live, answers| {
            let mut status = status(sealed, is_live);
            watched.look(&mut status, &options, (answers, answers), now);
            (status.ownerless, status.stuck)
        };
        let none = (vec![], vec![]);
        assert_eq!(look(0.0, [7, 7], true, true), none);
        assert_eq!(look(80.0, [8, 7], true, true), none);
        assert_eq!(look(90.0, [9, 7], true, true), (vec![], vec![1]));
        // The bus is away, and back.
        assert_eq!(look(200.0, [9, 7], true, false), none);
        assert_eq!(look(201.0, [9, 7], true, true), none);
        assert_eq!(look(290.0, [9, 7], true, true), (vec![], vec![0, 1]));
        // An owner dies, and another one takes its partitions.
        assert_eq!(look(300.0, [10, 10], false, true), none);
        assert_eq!(look(315.0, [10, 10], false, true), (vec![0, 1], vec![]));
        assert_eq!(look(316.0, [10, 10], true, true), none);
    }
}
