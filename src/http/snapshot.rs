//! `/api/v1/snapshot`: the records of the last interval, sorted once for all who read them, and written while they are read.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use axum::response::Response;
use utoipa::ToSchema;

use crate::codec::{Outline, RecordType, Records};
use crate::glob::Budget;
use crate::memory::Holding;
use crate::protocol::Kind;
use crate::series::Series;
use crate::snapshot::Snapshot;
use crate::web::{Bodies, FromGiven, Given, PIECE, Pieces, too_much};

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
        SnapshotArray { sorted, some: None, next: 0 }
    }
}

/// Longest pattern of names, and longest tag, in characters; most tags.
const MOST_TEXT: usize = 256;
const MOST_TAGS: usize = 10;

/// Most `*` in a pattern of names: each may be tried at every place of a name.
const MOST_STARS: usize = 16;

/// Most steps that a pattern takes for all series, about a quarter of a second.
const MOST_STEPS: u64 = 200_000_000;

/// Most records that can be asked for.
const MOST_RECORDS: u64 = 10_000_000;

/// Kinds of series, for the document.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case", as = SeriesKind)]
#[expect(dead_code, reason = "it describes a parameter")]
pub(super) enum KindName {
    Counter,
    Gauge,
    Timer,
    Histogram,
    Distribution,
    Set,
    Kv,
}

/// Types of records, for the document.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "it describes a parameter")]
pub(super) enum TypeName {
    Counter,
    Gauge,
    Timer,
    Histogram,
    Distribution,
    Set,
    Kv,
    Event,
    ServiceCheck,
    Presence,
    Ledger,
}

/// Which records of an interval are wanted.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    /// `None` for all.
    types: Option<Vec<RecordType>>,
    /// A pattern, and what it may take.
    name: Option<(String, Budget)>,
    /// Keys, with values if these matter.
    tags: Vec<(String, Option<String>)>,
    limit: Option<usize>,
}

impl FromGiven for Filter {
    const NAMES: &'static [&'static str] = &["kind", "type", "name", "tag", "limit"];
    const REPEATED: &'static [&'static str] = &["type", "tag"];

    fn from_given(given: &Given) -> Result<Filter, String> {
        let kind = given.one_of("kind", &Kind::OF_SERIES.map(Kind::name), Kind::of_series)?.map(RecordType::of);
        let names: Vec<&str> = RecordType::NAMES.iter().map(|(_, name)| *name).collect();
        let right = || format!("`type` is one of {}", names.join(", "));
        let types = given.several("type", names.len(), MOST_TEXT)?;
        let types: Option<Vec<RecordType>> = types.iter().map(|name| RecordType::from_name(name)).collect();
        let types = types.ok_or_else(right)?;
        let types = match kind {
            Some(kind) if types.is_empty() || types.contains(&kind) => Some(vec![kind]),
            // A kind that is none of the types: nothing is both.
            Some(_) => Some(Vec::new()),
            None if types.is_empty() => None,
            None => Some(types),
        };
        let tags = given.several("tag", MOST_TAGS, MOST_TEXT)?.into_iter().map(|tag| match tag.split_once(':') {
            Some((key, value)) => (key.to_string(), Some(value.to_string())),
            None => (tag, None),
        });
        Ok(Filter {
            types,
            name: given.bounded("name", MOST_TEXT)?.map(|name| (name.to_string(), Budget::new(MOST_STEPS))),
            tags: tags.collect(),
            limit: given.number("limit", 1..=MOST_RECORDS)?.map(|limit| limit as usize),
        })
    }
}

impl Filter {
    /// Why it would cost too much, or did, if so.
    pub(super) fn too_costly(&self) -> Option<Response> {
        let (name, budget) = self.name.as_ref()?;
        let stars = name.bytes().filter(|&b| b == b'*').count();
        if stars > MOST_STARS {
            return Some(too_much("max_stars", &format!("`name` has {stars} `*`; at most {MOST_STARS}")));
        }
        let message = || format!("`name` takes more than {MOST_STEPS} steps: use longer texts, and fewer `*` and `?`");
        budget.is_spent().then(|| too_much("max_pattern_steps", &message()))
    }

    fn is_all(&self) -> bool {
        self.types.is_none() && self.name.is_none() && self.tags.is_empty() && self.limit.is_none()
    }

    fn wants(&self, series: Option<&Series>) -> bool {
        let Some(series) = series else { return self.name.is_none() && self.tags.is_empty() };
        self.name.as_ref().is_none_or(|(pattern, budget)| budget.matches(pattern, series.name()))
            && self.tags.iter().all(|(key, value)| {
                let mut same = series.tags().filter(|(known, _)| known == key);
                same.any(|(_, known)| value.is_none() || known == value.as_deref())
            })
    }

    fn outline(&self, snapshot: &Snapshot) -> Outline {
        let records = Records { only: self.types.clone(), sorted: true, ledger: true };
        records.outline_of(snapshot, |series| self.wants(series)).first(self.limit.unwrap_or(usize::MAX))
    }
}

/// A JSON array that is being written.
#[derive(Debug)]
pub(super) struct SnapshotArray {
    sorted: Arc<Sorted>,
    /// Some of the records, in their order.
    some: Option<(Outline, Holding)>,
    next: usize,
}

impl SnapshotArray {
    /// The records that pass a filter. It looks at all series, which takes a while.
    ///
    /// # Errors
    /// If the filter takes too long.
    pub(super) fn of(mut self, filter: Filter, bodies: &Bodies) -> Result<SnapshotArray, Box<Response>> {
        if !filter.is_all() {
            let (outline, holding) = (filter.outline(&self.sorted.snapshot), bodies.holding());
            if let Some(refusal) = filter.too_costly() {
                return Err(Box::new(refusal));
            }
            holding.set(outline.heap_bytes());
            self.some = Some((outline, holding));
        }
        Ok(self)
    }
}

impl Pieces for SnapshotArray {
    fn append(&mut self, out: &mut Vec<u8>) -> bool {
        let Sorted { snapshot, outline, holding } = &*self.sorted;
        let outline = match &self.some {
            Some((outline, _)) => outline,
            None => outline.get_or_init(|| {
                let all = Filter::default().outline(snapshot);
                holding.set(all.heap_bytes());
                all
            }),
        };
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
