//! How many series a sink may hold that keeps them from interval to interval, and how much memory they may take.

use std::sync::Arc;

use crate::memory::{Holder, Holding, Level, Memory};
use crate::series::Series;

/// Series of the daemon's own that have room beside those of senders: they show what a flood of names does.
const OWN_SERIES: usize = 1000;

/// Why a series finds no room: the reason of what is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoRoom {
    /// There are as many as the daemon holds.
    MaxSeries,
    /// What sinks keep has its share of the memory, or new series fold everywhere.
    Memory,
}

/// Room for `max_series` series of senders, and for some of the daemon's own, in the sinks' share of the memory. What is beyond it
/// is dropped and counted (`max_series`, `memory`).
#[derive(Clone, Debug)]
pub(super) struct Room {
    max_series: usize,
    /// What the series take.
    held: Arc<Holding>,
}

impl Room {
    /// Room for so many series.
    pub(super) fn new(max_series: usize, memory: &Memory) -> Room {
        Room { max_series, held: Arc::new(memory.holding(Holder::Sinks)) }
    }

    /// Whether one more series, of so many bytes, finds room beside `held` others. If so, the bytes are published.
    pub(super) fn take(&self, held: usize, bytes: usize, series: &Series) -> Result<(), NoRoom> {
        // A prefix may stand before the name. A sender that takes such a name gains this little room and no more.
        let is_own = || ["systole.", "presence_"].iter().any(|own| series.name().contains(own));
        if held >= self.max_series && (held >= self.max_series.saturating_add(OWN_SERIES) || !is_own()) {
            return Err(NoRoom::MaxSeries);
        }
        let is_short = self.held.would_exceed(bytes as u64) || self.held.memory().level() >= Level::Series;
        if is_short && (held >= OWN_SERIES || !is_own()) {
            return Err(NoRoom::Memory);
        }
        self.held.add(bytes as u64);
        Ok(())
    }

    /// The memory that it is in.
    pub(super) fn memory(&self) -> &Memory {
        self.held.memory()
    }

    /// Publishes what the series take.
    pub(super) fn set(&self, bytes: usize) {
        self.held.set(bytes as u64);
    }
}

impl Default for Room {
    /// For as many as there are.
    fn default() -> Room {
        Room::new(usize::MAX, &Memory::unlimited())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::LEAST_MAX_MEMORY;
    use crate::protocol::Kind;

    #[test]
    fn the_daemons_own_series_find_room_when_senders_have_taken_theirs() {
        let series = |name: &str| Series::new(Kind::Counter, name, &[]);
        let room = Room::new(10, &Memory::unlimited());
        let take = |held, name: &str| room.take(held, 1, &series(name));
        assert_eq!((take(9, "a"), take(10, "a")), (Ok(()), Err(NoRoom::MaxSeries)));
        assert_eq!((take(10, "systole.overflow"), take(1009, "x.systole.lines.read")), (Ok(()), Ok(())));
        assert_eq!(take(1010, "systole.overflow"), Err(NoRoom::MaxSeries));
    }

    #[test]
    fn series_above_the_share_of_sinks_find_no_room_until_others_leave() {
        let memory = Memory::new(LEAST_MAX_MEMORY);
        let (first, second) = (Room::new(usize::MAX, &memory), Room::new(usize::MAX, &memory));
        let series = Series::new(Kind::Counter, "a", &[]);
        let most = memory.cap(Holder::Sinks) as usize;
        assert_eq!(first.take(0, most - 10, &series), Ok(()));
        assert_eq!((second.take(0, 11, &series), second.take(0, 10, &series)), (Err(NoRoom::Memory), Ok(())));
        assert_eq!(second.take(0, 1, &Series::new(Kind::Counter, "systole.overflow", &[])), Ok(()));
        first.set(0);
        assert_eq!(second.take(0, 100, &series), Ok(()));
        memory.set_level(Level::Series);
        assert_eq!(second.take(0, 1, &series), Err(NoRoom::Memory));
        drop(first);
        drop(second);
        assert_eq!(memory.bytes(Holder::Sinks), 0);
    }
}
