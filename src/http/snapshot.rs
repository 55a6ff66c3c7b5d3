//! `/api/v1/snapshot`: the records of the last interval, sorted once for all who read them, and written while they are read.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use crate::codec::{Outline, Records};
use crate::memory::Holding;
use crate::snapshot::Snapshot;
use crate::web::{Bodies, PIECE, Pieces};

/// An interval with the order of its records.
#[derive(Debug)]
struct Sorted {
    snapshot: Arc<Snapshot>,
    outline: OnceLock<Outline>,
    /// The order.
    holding: Holding,
}

/// The interval that is read now, if one is. It lives as long as somebody reads it.
#[derive(Clone, Debug, Default)]
pub struct LastRead(Arc<Mutex<Weak<Sorted>>>);

impl LastRead {
    /// The array of an interval's records.
    pub(super) fn array(&self, snapshot: &Arc<Snapshot>, bodies: &Bodies) -> SnapshotArray {
        // It is whole at any time.
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = last.upgrade().filter(|known| Arc::ptr_eq(&known.snapshot, snapshot));
        let sorted = known.unwrap_or_else(|| {
            let (outline, holding) = (OnceLock::new(), bodies.holding());
            let sorted = Arc::new(Sorted { snapshot: Arc::clone(snapshot), outline, holding });
            *last = Arc::downgrade(&sorted);
            sorted
        });
        SnapshotArray { sorted, next: 0 }
    }
}

/// A JSON array that is being written.
#[derive(Debug)]
pub(super) struct SnapshotArray {
    sorted: Arc<Sorted>,
    next: usize,
}

impl Pieces for SnapshotArray {
    fn append(&mut self, out: &mut Vec<u8>) -> bool {
        let Sorted { snapshot, outline, holding } = &*self.sorted;
        let outline = outline.get_or_init(|| {
            let outline = Records { sorted: true, ..Records::ALL }.outline(snapshot);
            holding.set(outline.heap_bytes());
            outline
        });
        let next = outline.write_array_part(snapshot, self.next, PIECE, out);
        self.next = next.unwrap_or_default();
        next.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Memory;
    use crate::protocol::Kind;
    use crate::series::Series;
    use crate::snapshot::{CounterPoint, KvPoint};

    #[tokio::test]
    async fn the_pieces_of_an_interval_are_the_whole() {
        let series = |kind, n: u32| Series::new(kind, &format!("n{}", n * 7919 % 4001), &[("k", Some("v"))]);
        let counters = (0..4000).map(|n| CounterPoint { series: series(Kind::Counter, n), sum: Default::default() });
        let kvs = (0..10).map(|n| KvPoint { series: series(Kind::Kv, n), values: vec![1.0, 2.0] });
        for snapshot in
            [Snapshot::default(), Snapshot { counters: counters.collect(), kvs: kvs.collect(), ..Snapshot::default() }]
        {
            let snapshot = Arc::new(snapshot);
            let mut whole = Vec::new();
            Records { sorted: true, ..Records::ALL }.write_array(&snapshot, &mut whole);
            let (last_read, bodies) =
                (LastRead::default(), Bodies::new(&Memory::unlimited(), &crate::supervise::Part::new("bodies")));
            let (mut array, mut joined, mut largest) = (last_read.array(&snapshot, &bodies), Vec::new(), 0);
            assert!(Arc::ptr_eq(&array.sorted, &last_read.array(&snapshot, &bodies).sorted), "one order for all");
            let mut is_more = true;
            while is_more {
                let mut piece = Vec::new();
                is_more = array.append(&mut piece);
                largest = largest.max(piece.len());
                joined.extend(piece);
            }
            assert!(largest < 2 * PIECE, "{largest} bytes in a piece");
            assert_eq!(String::from_utf8_lossy(&joined), String::from_utf8_lossy(&whole));
        }
    }
}
