//! How many series a sink may hold that keeps them from interval to interval.

use crate::series::Series;

/// Series of the daemon's own that have room beside those of senders: they show what a flood of names does.
const OWN_SERIES: usize = 1000;

/// Room for `max_series` series of senders, and for some of the daemon's own. What is beyond it is dropped and counted
/// (`max_series`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    max_series: usize,
}

impl Room {
    /// Room for so many series.
    pub(super) fn new(max_series: usize) -> Room {
        Room { max_series }
    }

    /// Whether one more series finds room beside `held` others.
    pub(super) fn takes(self, held: usize, series: &Series) -> bool {
        // A prefix may stand before the name. A sender that takes such a name gains this little room and no more.
        let is_own = || ["systole.", "presence_"].iter().any(|own| series.name().contains(own));
        held < self.max_series || (held < self.max_series.saturating_add(OWN_SERIES) && is_own())
    }
}

impl Default for Room {
    /// For as many as there are.
    fn default() -> Room {
        Room { max_series: usize::MAX }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Kind;

    #[test]
    fn the_daemons_own_series_find_room_when_senders_have_taken_theirs() {
        let (room, series) = (Room::new(10), |name: &str| Series::new(Kind::Counter, name, &[]));
        assert!(room.takes(9, &series("a")) && !room.takes(10, &series("a")));
        assert!(room.takes(10, &series("systole.overflow")) && room.takes(1009, &series("x.systole.lines.read")));
        assert!(!room.takes(1010, &series("systole.overflow")));
    }
}
