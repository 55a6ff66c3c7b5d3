//! What is said of series: a page of those that match a search, and one in detail.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use serde::Serialize;
use serde_json::Value;

use crate::protocol::Kind;
use crate::series::Series;
use crate::snapshot::Aggregate;

use super::axis::Axis;
use super::codec::kept;
use super::search::{self, Cursor, Facet, Page, SearchError, Sort, Wanted};
use super::store::{Entry, Layout, is_counter};
use super::{History, Shared};

/// Most series of a name that are looked through for those that differ in one tag.
const MOST_SIBLINGS: usize = 2000;

/// Most values of a tag in the details of a series.
const MOST_VALUES: usize = 20;

/// Most suggestions for a word that nothing matches.
const MOST_NEAR: usize = 3;

/// A page of a search.
#[derive(Clone, Debug)]
pub struct SearchQuery {
    /// Which series.
    pub wanted: Wanted,
    /// What was searched for, for suggestions where nothing matches.
    pub text: String,
    /// Their order.
    pub sort: Sort,
    /// Most series, 1 to 200.
    pub limit: usize,
    /// Where the page begins: behind that of another.
    pub cursor: Option<Cursor>,
    /// Points of the sparkline, 0 to 120.
    pub spark: usize,
    /// Whether to count kinds, prefixes and tags.
    pub facets: bool,
}

/// A series, and its shown number.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct SeriesInfo {
    /// Opaque text, the same as long as the daemon runs.
    pub id: String,
    /// `counter`, `gauge`, `timer`, `histogram`, `distribution`, `set` or `kv`.
    pub kind: &'static str,
    /// The name.
    pub name: String,
    /// By key; `null` without a value, an array of several.
    pub tags: BTreeMap<String, Value>,
    /// When it came, Unix seconds.
    pub first_seen: f64,
    /// The end of the last interval that had it, Unix seconds.
    pub last_seen: f64,
    /// Whether the last interval has it.
    pub is_current: bool,
    /// Sum of a counter or events of a timer a second in the last interval; `null` if that has none, and for others.
    pub rate: Option<f32>,
    /// The name of the shown number.
    pub field: String,
    /// The shown number; `null` if the last interval has none.
    pub value: Option<f32>,
    /// Its smallest over the history.
    pub min: Option<f32>,
    /// Its largest over the history.
    pub max: Option<f32>,
    /// Its last numbers, oldest first.
    pub spark: Vec<Option<f32>>,
}

/// Words near to what nothing matches.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Near {
    /// What to search for instead.
    pub text: String,
    /// Series that match it.
    pub matched: usize,
}

/// What the series that match have in common. From 20,000 on they are estimates.
#[derive(Clone, Debug, Default, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Facets {
    /// Series by kind.
    pub kinds: BTreeMap<&'static str, usize>,
    /// First parts of names, most series first.
    #[schema(value_type = Vec<Vec<Value>>)]
    pub prefixes: Vec<(String, usize)>,
    /// Keys of tags with their values, most series first.
    #[schema(value_type = Vec<Vec<Value>>)]
    pub tags: Vec<(String, Vec<(String, usize)>)>,
}

/// A page of series.
#[derive(Clone, Debug, Default, PartialEq, Serialize, utoipa::ToSchema)]
pub struct SeriesPage {
    /// Series that are known, without the daemon's own.
    pub total: u64,
    /// Those that match.
    pub matched: usize,
    /// How long the search took, milliseconds.
    pub took_ms: f64,
    /// The cursor of the next page; `null` on the last.
    pub next: Option<String>,
    /// Where nothing matches: what would.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub near: Option<Vec<Near>>,
    /// Where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub facets: Option<Facets>,
    /// The page.
    pub series: Vec<SeriesInfo>,
}

/// One value of a tag.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct TagValue {
    /// The value; `null` for a tag without one.
    pub value: Option<String>,
    /// The series that has it.
    pub id: String,
    /// The shown number of that series; `null` if the last interval has none.
    pub now: Option<f32>,
}

/// Series that differ in one tag.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct ByTag {
    /// Its key.
    pub key: String,
    /// The name of the shown number.
    pub field: String,
    /// At most 20, the largest number first.
    pub values: Vec<TagValue>,
}

/// One series in detail.
#[derive(Clone, Debug, PartialEq)]
pub struct Details {
    /// The series.
    pub series: SeriesInfo,
    /// Its percentiles.
    pub percentiles: Vec<f64>,
    /// What it is one of, tag by tag.
    pub by_tag: Vec<ByTag>,
    /// Whether the percentiles of its last interval are exact.
    pub exact: bool,
}

/// Tags by key.
pub(super) fn tags(series: &Series) -> BTreeMap<String, Value> {
    let mut all: BTreeMap<String, Value> = BTreeMap::new();
    for (key, value) in series.tags() {
        let value = value.map_or(Value::Null, Value::from);
        match all.get_mut(key) {
            None => drop(all.insert(key.to_string(), value)),
            Some(Value::Array(several)) => several.push(value),
            Some(one) => *one = vec![one.take(), value].into(),
        }
    }
    all
}

/// The name of the number that is shown of a series.
fn shown_field(series: &Series, layout: &Layout) -> String {
    match layout.shown() {
        0 if is_counter(series.kind()) => "rate".into(),
        0 => "value".into(),
        3 => "max".into(),
        n => Aggregate::Percentile(layout.percentiles[n - super::track::MOMENTS]).name().into_owned(),
    }
}

/// A number that there is.
pub(super) fn some(number: f32) -> Option<f32> {
    (!number.is_nan()).then_some(number)
}

impl Shared {
    /// What is said of a series with a sparkline of so many points.
    fn info(&self, id: u32, axis: &Axis, spark: usize) -> Option<SeriesInfo> {
        let (layouts, newest) = (self.store.layouts(), axis.next().saturating_sub(1));
        let (mut info, track, layout) = self.store.with(id, |entry| {
            let layout = layouts.get(usize::from(entry.layout))?;
            Some((self.describe(id, entry, layout, newest), entry.track.clone(), layout.clone()))
        })??;
        let (shape, column) = (layout.shape(), layout.shown());
        let divides = info.field == "rate";
        // Values a second, by the length of the interval.
        let scaled = |value: f32, secs: f64| if divides { kept(f64::from(value) / secs) } else { value };
        let mut add = |value: f32| {
            if !value.is_nan() {
                info.min = Some(info.min.map_or(value, |least| least.min(value)));
                info.max = Some(info.max.map_or(value, |most| most.max(value)));
            }
        };
        let usual_secs = axis.last().map_or(1.0, |last| last.rate_secs) * f64::from(layout.every);
        let is_plain = !shape.is_timer();
        let wanted = if is_plain { 0b1100 } else { 1 << column.min(63) };
        track.minutes(shape, axis, wanted, |_, row| {
            let (least, largest) = if is_plain { (row[2], row[3]) } else { (row[column], row[column]) };
            add(scaled(least, usual_secs));
            add(scaled(largest, usual_secs));
        });
        let first = axis.next().saturating_sub(spark as u64).max(axis.base);
        info.spark = vec![None; (axis.next() - first) as usize];
        track.intervals(shape, axis, 1 << column.min(63), |number, read| {
            let Some(interval) = axis.interval(number) else { return };
            let value = scaled(read.row[column], interval.rate_secs * f64::from(layout.every));
            add(value);
            if let Some(place) = number.checked_sub(first) {
                info.spark[place as usize] = some(value);
            }
        });
        Some(info)
    }

    fn describe(&self, id: u32, entry: &Entry, layout: &Layout, newest: u64) -> SeriesInfo {
        let is_current = entry.is_current(layout, newest);
        let (cell, place) = super::store::place_of(id);
        let rate = self.store.cells().get(cell).map(|cell| f32::from_bits(cell.rate[place].load(Ordering::Relaxed)));
        let has_rate = is_counter(entry.series.kind()) || layout.is_timer;
        SeriesInfo {
            id: entry.series.id(),
            kind: entry.series.kind().name(),
            name: entry.series.name().to_string(),
            tags: tags(&entry.series),
            first_seen: entry.first_seen,
            last_seen: entry.last_seen,
            is_current,
            rate: rate.filter(|_| has_rate && is_current),
            field: shown_field(&entry.series, layout),
            value: some(entry.shown).filter(|_| is_current),
            min: None,
            max: None,
            spark: Vec::new(),
        }
    }

    fn facets(&self, counted: &search::Counted) -> Facets {
        // As it was sent, not in lower case.
        let sent = |facet: &Facet, of: &dyn Fn(&Series) -> Option<String>| {
            let (text, count, id) = facet;
            let sent = self.store.with(*id, |entry| of(&entry.series)).flatten();
            (sent.unwrap_or_else(|| String::from_utf8_lossy(text).into_owned()), *count)
        };
        let is_same = |sent: &str, lowered: &[u8]| sent.to_lowercase().as_bytes() == lowered;
        let prefix =
            |facet: &Facet| sent(facet, &|series| series.name().split_once('.').map(|(first, _)| format!("{first}.")));
        let value_of = |key: &[u8], facet: &Facet| {
            let of = |series: &Series| {
                let mut own = series.tags().filter(|(own, _)| is_same(own, key)).filter_map(|(_, value)| value);
                own.find(|value| is_same(value, &facet.0)).map(String::from)
            };
            sent(facet, &of)
        };
        let tag = |(key, values): &(Vec<u8>, Vec<Facet>)| {
            let of = |series: &Series| series.tags().find(|(own, _)| is_same(own, key)).map(|(own, _)| own.to_string());
            let own = values.first().map(|facet| sent(facet, &of).0);
            let own = own.unwrap_or_else(|| String::from_utf8_lossy(key).into_owned());
            (own, values.iter().map(|facet| value_of(key, facet)).collect())
        };
        Facets {
            kinds: counted.kinds.iter().map(|(kind, count)| (Kind::ALL[usize::from(*kind)].name(), *count)).collect(),
            prefixes: counted.top_prefixes().iter().map(prefix).collect(),
            tags: counted.top_tags().iter().map(tag).collect(),
        }
    }
}

impl History {
    /// Series that match a search: one page of them. `took_ms` is left to the caller, who has a clock.
    ///
    /// # Errors
    /// [`SearchError::Costly`] if its patterns take more than [`Wanted::MOST_STEPS`].
    pub fn search(&self, query: &SearchQuery) -> Result<SeriesPage, SearchError> {
        let shared = &*self.0;
        let (segments, cells, axis) = (shared.segments(), shared.store.cells(), shared.axis());
        let wanted = query.wanted.clone().without(&shared.options.own_prefix);
        let page = Page {
            sort: query.sort,
            limit: query.limit,
            cursor: query.cursor.as_ref(),
            has_facets: query.facets,
            last: axis.next().saturating_sub(1) as u32,
        };
        let found = search::search(&segments, &cells, &wanted, page);
        if wanted.is_spent() {
            return Err(SearchError::Costly);
        }
        let count = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
        let is_nothing = found.matched == 0 && !query.text.trim().is_empty();
        Ok(SeriesPage {
            total: count(&shared.counts.series).saturating_sub(count(&shared.counts.own)),
            matched: found.matched,
            took_ms: 0.0,
            next: found.next.as_ref().map(Cursor::text),
            near: is_nothing.then(|| self.near(query)),
            facets: found.counted.as_ref().map(|counted| shared.facets(counted)),
            series: found.ids.iter().filter_map(|id| shared.info(*id, &axis, query.spark)).collect(),
        })
    }

    /// What to search for instead: the word that nothing matches is replaced by one that is near to it.
    fn near(&self, query: &SearchQuery) -> Vec<Near> {
        let shared = &*self.0;
        let (segments, cells) = (shared.segments(), shared.store.cells());
        let matched = |text: &str| {
            let wanted = Wanted::new(text, None, &[], None).ok()?.without(&shared.options.own_prefix);
            let page = Page { sort: Sort::Name, limit: 0, cursor: None, has_facets: false, last: 0 };
            Some(search::search(&segments, &cells, &wanted, page).matched)
        };
        let words: Vec<&str> = query.text.split_whitespace().collect();
        let Some(missing) = words.iter().position(|word| matched(word) == Some(0)) else { return Vec::new() };
        let replaced = |near: String| {
            let mut words = words.clone();
            words[missing] = &near;
            let text = words.join(" ");
            let matched = matched(&text).filter(|matched| *matched > 0)?;
            Some(Near { text, matched })
        };
        search::near(&segments, words[missing], MOST_NEAR).into_iter().filter_map(replaced).collect()
    }

    /// A series in detail; `None` if it is not known.
    pub fn details(&self, series: &Series) -> Option<Details> {
        let shared = &*self.0;
        let id = shared.store.index.find(series)?;
        self.touch(series, false);
        let axis = shared.axis();
        let info = shared.info(id, &axis, 0)?;
        let layouts = shared.store.layouts();
        let (layout, exact) = shared.store.with(id, |entry| (usize::from(entry.layout), entry.is_exact))?;
        Some(Details {
            by_tag: self.by_tag(series, &axis, &info.field),
            percentiles: layouts.get(layout)?.percentiles.clone(),
            exact,
            series: info,
        })
    }

    /// Series of the same name that differ in one tag, by tag.
    fn by_tag(&self, series: &Series, axis: &Axis, field: &str) -> Vec<ByTag> {
        let shared = &*self.0;
        let (segments, cells) = (shared.segments(), shared.store.cells());
        let ids = search::of_name(&segments, &cells, series.kind(), series.name(), MOST_SIBLINGS);
        let (layouts, newest) = (shared.store.layouts(), axis.next().saturating_sub(1));
        let look = |entry: &mut Entry| {
            let layout = layouts.get(usize::from(entry.layout))?;
            let now = some(entry.shown).filter(|_| entry.is_current(layout, newest));
            (entry.series.name() == series.name()).then(|| (entry.series.clone(), now))
        };
        let siblings: Vec<_> = ids.into_iter().filter_map(|id| shared.store.with(id, look)?).collect();
        let of = |key: &str| {
            let others = |series: &Series| -> Vec<(String, Option<String>)> {
                let others = series.tags().filter(|(own, _)| *own != key);
                others.map(|(key, value)| (key.to_string(), value.map(String::from))).collect()
            };
            let own = others(series);
            let alike = |(sibling, now): &(Series, Option<f32>)| {
                let (_, value) = sibling.tags().find(|(own, _)| *own == key)?;
                (others(sibling) == own).then(|| TagValue {
                    value: value.map(String::from),
                    id: sibling.id(),
                    now: *now,
                })
            };
            let mut values: Vec<TagValue> = siblings.iter().filter_map(alike).collect();
            values.sort_by(|a, b| b.now.partial_cmp(&a.now).unwrap_or(std::cmp::Ordering::Equal).then(a.id.cmp(&b.id)));
            values.truncate(MOST_VALUES);
            ByTag { key: key.to_string(), field: field.to_string(), values }
        };
        let mut keys: Vec<&str> = series.tags().map(|(key, _)| key).collect();
        keys.dedup();
        keys.into_iter().map(of).filter(|by| by.values.len() > 1).collect()
    }
}
