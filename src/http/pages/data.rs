//! What pages show, from the history where there is one, and else from the last interval. The files of the pages know no
//! history and no sketches.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::time::Instant;

use axum::response::Response;

use crate::explain::Rule;
use crate::history::{
    self, Cursor, History, PointsQuery, SearchError, SearchQuery, SeriesInfo, SeriesPage, Sort, Wanted,
};
use crate::http::AppState;
use crate::http::senders::{RatesEntry, SenderEntry, TagKeyEntry};
use crate::http::series as of_series;
use crate::http::verdict::{LastHour, Look};
use crate::journal;
use crate::presence::Event;
use crate::presence::describe::{describe, length};
use crate::protocol::Kind;
use crate::senders::Share;
use crate::series::Series;
use crate::snapshot::{Point, Snapshot};
use crate::telemetry::Ledger;
use crate::untrusted::Escaped;

use super::parts::{Curve, amount, grouped};
use super::query::State;

/// Most rows of a list of series. The document stays small however many there are.
pub(super) const MOST_ROWS: usize = 200;

/// A series as a row of a table.
#[derive(Clone, Debug)]
pub(super) struct SeriesRow {
    pub(super) series: Series,
    /// Updates per second, where they are known.
    pub(super) rate: Option<f64>,
    /// Which of its numbers `value` is.
    pub(super) field: String,
    /// The last interval's; `None` if it has none.
    pub(super) value: Option<f64>,
    /// Smallest and largest of the history kept.
    pub(super) range: Option<(f64, f64)>,
    pub(super) spark: Vec<Option<f64>>,
    /// End of the last interval with a value, Unix seconds.
    pub(super) last_seen: f64,
    pub(super) is_current: bool,
}

/// What a search found.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    pub(super) total: u64,
    pub(super) matched: u64,
    pub(super) took_ms: f64,
    /// Where the next page begins.
    pub(super) next: Option<String>,
    /// Words like those asked for, where nothing matched.
    pub(super) near: Vec<(String, u64)>,
    pub(super) facets: Facets,
    pub(super) rows: Vec<SeriesRow>,
}

/// How many series there are of kinds, prefixes and tags.
#[derive(Clone, Debug, Default)]
pub(super) struct Facets {
    pub(super) kinds: Vec<(String, u64)>,
    pub(super) prefixes: Vec<(String, u64)>,
    pub(super) tags: Vec<(String, Vec<(String, u64)>)>,
}

/// The orders of a list of series in words, as [`Sort::ALL`] has them.
pub(super) const ORDERS: [&str; 4] = ["Name order", "Loudest", "Changed most", "Newest"];

/// The order that a page is asked for.
pub(super) fn order(state: &State) -> Sort {
    let asked = state.sort.as_deref().unwrap_or_default();
    Sort::ALL.iter().find(|(name, _)| *name == asked).map_or(Sort::Name, |(_, sort)| *sort)
}

/// The search that a page is asked for.
///
/// # Errors
/// What of it is too much, or no cursor.
pub(super) fn search_of(state: &State, limit: usize) -> Result<SearchQuery, String> {
    let text = state.q.clone().unwrap_or_default();
    let cursor = match &state.cursor {
        Some(text) => Some(Cursor::parse(text).ok_or("`cursor` is that of the link to the next page")?),
        None => None,
    };
    let prefix = state.prefix.as_deref().filter(|prefix| !prefix.is_empty());
    let wanted = Wanted::new(&text, state.kind.as_deref().and_then(Kind::of_series), &state.tags, prefix);
    let wanted = wanted.map_err(|error| error.to_string())?;
    Ok(SearchQuery { wanted, text, sort: order(state), limit, cursor, spark: SPARK, facets: true })
}

/// The search for the loudest series.
pub(super) fn loudest(limit: usize) -> SearchQuery {
    let (wanted, text, sort) = (Wanted::default(), String::new(), Sort::Loudest);
    SearchQuery { wanted, text, sort, limit, cursor: None, spark: SPARK, facets: false }
}

/// A series of the last interval as a row.
fn row(snapshot: &Snapshot, point: Point<'_>) -> SeriesRow {
    let per_sec = |count: f64| count / snapshot.interval_secs.max(0.001);
    let (field, value, rate) = match point {
        Point::Counter(point) => {
            let rate = snapshot.rate(&point.series, point.sum.value());
            ("rate".to_string(), rate, Some(rate.abs()))
        }
        Point::Gauge(point) => ("value".into(), point.gauge.value(), None),
        Point::Timer(point) => {
            let summary = snapshot.summary(point);
            let highest = summary.percentiles.iter().max_by(|a, b| a.percentile.total_cmp(&b.percentile));
            let (field, value) = highest.map_or(("max".into(), summary.max), |highest| {
                (format!("p{}", crate::snapshot::number(highest.percentile)), highest.value)
            });
            (field, value, Some(per_sec(summary.count)))
        }
        Point::Set(point) => ("value".into(), point.members.count(), None),
        Point::Kv(point) => {
            ("value".into(), point.values.last().copied().unwrap_or(0.0), Some(per_sec(point.values.len() as f64)))
        }
    };
    SeriesRow {
        series: point.series().clone(),
        rate,
        field,
        value: Some(value),
        range: None,
        spark: vec![Some(value)],
        last_seen: snapshot.end,
        is_current: true,
    }
}

/// How loud a point is, without a look at its samples.
fn loudness(point: Point<'_>) -> f64 {
    match point {
        Point::Counter(point) => point.sum.value().abs(),
        Point::Timer(point) => point.timer.count(),
        Point::Kv(point) => point.values.len() as f64,
        Point::Gauge(_) | Point::Set(_) => 0.0,
    }
}

/// A point by which the first of an order are kept: of a million no more than these.
struct Ranked<'a>(f64, &'a Series, usize);

impl Ord for Ranked<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_name = self.0.total_cmp(&other.0).then_with(|| self.1.name().cmp(other.1.name()));
        by_name.then_with(|| self.1.order(other.1)).then(self.2.cmp(&other.2))
    }
}

impl PartialOrd for Ranked<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ranked<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Ranked<'_> {}

/// What the last interval has of a search.
fn of_snapshot(history: &History, snapshot: &Snapshot, query: &SearchQuery) -> Found {
    let (mut is_wanted, mut is_listed) = (history.filter(query.wanted.clone()), history.filter(Wanted::default()));
    let mut first = BinaryHeap::with_capacity(query.limit + 1);
    let mut found = Found::default();
    for (n, point) in (0..).map_while(|n| Some((n, snapshot.point(n)?))) {
        let series = point.series();
        if !is_wanted(series) {
            found.total += u64::from(is_listed(series));
            continue;
        }
        found.total += 1;
        found.matched += 1;
        let rank = if query.sort == Sort::Loudest { -loudness(point) } else { 0.0 };
        first.push(Ranked(rank, series, n));
        if first.len() > query.limit {
            // The last of them.
            first.pop();
        }
    }
    let rows =
        first.into_sorted_vec().into_iter().filter_map(|Ranked(_, _, n)| Some(row(snapshot, snapshot.point(n)?)));
    found.rows = rows.collect();
    found
}

/// Points of small lines.
const SPARK: usize = 60;

/// Searches. It takes a while where there are a million series, so it runs where nobody waits.
pub(super) fn search(state: &AppState, look: &Look, query: &SearchQuery) -> Result<Found, SearchError> {
    let began = Instant::now();
    let mut found = match look.snapshot() {
        // Without a history, what the last interval has.
        Some(snapshot) if state.history.last_end().is_none() => of_snapshot(&state.history, snapshot, query),
        _ => of_history(state.history.search(query)?),
    };
    found.took_ms = (began.elapsed().as_secs_f64() * 1e4).round() / 10.0;
    Ok(found)
}

fn of_history(page: SeriesPage) -> Found {
    let pairs = |all: Vec<(String, usize)>| all.into_iter().map(|(name, n)| (name, n as u64)).collect();
    let facets = page.facets.unwrap_or_default();
    let mut kinds: Vec<(String, u64)> =
        facets.kinds.into_iter().map(|(name, n)| (name.to_string(), n as u64)).collect();
    kinds.sort_by_key(|(_, n)| Reverse(*n));
    Found {
        total: page.total,
        matched: page.matched as u64,
        took_ms: 0.0,
        next: page.next,
        near: page.near.into_iter().flatten().map(|near| (near.text, near.matched as u64)).collect(),
        facets: Facets {
            kinds,
            prefixes: pairs(facets.prefixes),
            tags: facets.tags.into_iter().map(|(key, values)| (key, pairs(values))).collect(),
        },
        rows: page.series.into_iter().filter_map(of_info).collect(),
    }
}

fn of_info(info: SeriesInfo) -> Option<SeriesRow> {
    let number = |value: Option<f32>| value.map(f64::from);
    Some(SeriesRow {
        series: Series::from_id(&info.id)?,
        rate: number(info.rate),
        field: info.field,
        value: number(info.value),
        range: number(info.min).zip(number(info.max)),
        spark: info.spark.into_iter().map(number).collect(),
        last_seen: info.last_seen,
        is_current: info.is_current,
    })
}

/// Numbers of the ledger over time, in equal steps.
#[derive(Clone, Debug, Default)]
pub(super) struct Trends {
    /// Ends of intervals, Unix seconds.
    pub(super) times: Vec<f64>,
    /// Seconds from one to the next.
    step: f64,
    /// Seconds of an interval, which the values are of.
    pub(super) interval: f64,
    /// How much of each was seen, 0 to 1.
    pub(super) complete: Vec<Option<f64>>,
    values: Vec<(String, Vec<Option<f64>>)>,
}

impl Trends {
    /// The values of a path.
    pub(super) fn of(&self, path: &str) -> &[Option<f64>] {
        self.values.iter().find(|(known, _)| known == path).map_or(&[], |(_, values)| values)
    }

    /// The values of a path, each divided by the length of its interval.
    pub(super) fn per_sec(&self, path: &str) -> Vec<Option<f64>> {
        self.of(path).iter().map(|value| value.map(|value| value / self.interval.max(0.001))).collect()
    }

    /// The value so many seconds before the last one.
    pub(super) fn before(&self, path: &str, secs: f64) -> Option<f64> {
        let values = self.of(path);
        let back = (secs / self.step.max(0.001)).round() as usize;
        values.get(values.len().checked_sub(1 + back)?).copied().flatten()
    }
}

/// A number of an interval's ledger.
fn of_ledger(ledger: &Ledger, path: &str) -> Option<f64> {
    let whole = serde_json::to_value(ledger).ok()?;
    let sum = |key: &str| ledger_sum(&whole["listeners"], key);
    match path {
        "datagrams" | "kernel_drops" => Some(sum(path)),
        "completeness" => Some(ledger.completeness),
        "lines.malformed" => Some(ledger.malformed_total() as f64),
        "series" => {
            let s = &ledger.series;
            Some((s.counters + s.gauges + s.timers + s.sets + s.kvs) as f64)
        }
        path => whole.pointer(&format!("/{}", path.replace('.', "/"))).and_then(serde_json::Value::as_f64),
    }
}

fn ledger_sum(listeners: &serde_json::Value, key: &str) -> f64 {
    let all = listeners.as_array().map_or(&[][..], Vec::as_slice);
    all.iter().filter_map(|listener| listener[key].as_f64()).sum()
}

/// Paths of the ledger that one of ours is the sum of.
fn parts_of(path: &str) -> Vec<String> {
    match path {
        "series" => ["counters", "gauges", "timers", "sets", "kvs"].map(|kind| format!("series.{kind}")).into(),
        "completeness" => Vec::new(),
        path => vec![path.to_string()],
    }
}

fn numbers(all: &[Option<f32>]) -> Vec<Option<f64>> {
    all.iter().map(|value| value.map(f64::from)).collect()
}

/// Numbers of the ledger in a time.
pub(super) fn trends(state: &AppState, look: &Look, time: (f64, f64), paths: &[&str]) -> Trends {
    let ledger = paths.iter().flat_map(|path| parts_of(path)).collect();
    let query = PointsQuery { ledger, from: time.0, to: time.1, ..PointsQuery::default() };
    let known = state.history.last_end().and_then(|_| state.history.points(&query).ok());
    if let Some(points) = known.filter(|points| !points.times.is_empty()) {
        let values = paths.iter().map(|path| {
            let values = match *path {
                "completeness" => numbers(&points.completeness),
                path => sum_of(&points, &parts_of(path)),
            };
            ((*path).to_string(), values)
        });
        return Trends {
            step: points.step,
            interval: points.interval,
            complete: numbers(&points.completeness),
            values: values.collect(),
            times: points.times,
        };
    }
    let Some(snapshot) = look.snapshot() else { return Trends::default() };
    let values = paths.iter().map(|path| ((*path).to_string(), vec![of_ledger(&snapshot.ledger, path)]));
    Trends {
        times: vec![snapshot.end],
        step: snapshot.interval_secs,
        interval: snapshot.interval_secs,
        complete: vec![Some(snapshot.ledger.completeness)],
        values: values.collect(),
    }
}

fn sum_of(points: &history::Points, paths: &[String]) -> Vec<Option<f64>> {
    let all: Vec<Vec<Option<f64>>> =
        paths.iter().filter_map(|path| points.ledger.get(path)).map(|all| numbers(all)).collect();
    let at = |n: usize| {
        let known: Vec<f64> = all.iter().filter_map(|values| values.get(n).copied().flatten()).collect();
        (!known.is_empty()).then(|| known.iter().sum())
    };
    (0..points.times.len()).map(at).collect()
}

/// What is said of the history.
pub(super) fn history_text(look: &Look) -> Option<String> {
    let history = &look.ledger.history;
    if !history.enabled {
        return None;
    }
    let span = |secs: f64| length(secs).replace("60 min", "1 h");
    let (fine, coarse) = (history.intervals as f64 * look.interval, history.minutes as f64 * 60.0);
    let room = if history.cap > 0 { format!(" of {}", grouped(history.cap >> 20)) } else { String::new() };
    Some(format!(
        "history {} at {}, {} by the minute, {}{room} MiB",
        span(fine),
        length(look.interval),
        span(coarse),
        amount((history.bytes as f64 / f64::from(1 << 20) * 10.0).round() / 10.0),
    ))
}

/// What is known of losses of the last hour.
pub(in crate::http) fn last_hour(history: &History, now: f64) -> LastHour {
    const HOUR: f64 = 3600.0;
    let Some(end) = history.last_end() else { return LastHour::default() };
    let ledger = vec!["kernel_drops".to_string(), "samples.folded".to_string()];
    let ask = |from: f64| {
        let query = PointsQuery { ledger: ledger.clone(), from, to: now, ..PointsQuery::default() };
        history.points(&query).ok()
    };
    let mut out = LastHour::default();
    let Some(points) = ask(end - HOUR) else { return out };
    // A point of several intervals is their mean.
    let weight = points.step / points.interval.max(0.001);
    let drops = sum_of(&points, &ledger[..1]);
    out.dropped = drops.iter().flatten().sum::<f64>() * weight;
    out.known_secs = drops.iter().flatten().count() as f64 * points.step;
    // Since when is finer where the intervals are kept.
    let fine = ask(end - points.interval * 100.0).unwrap_or(points);
    let weight = fine.step / fine.interval.max(0.001);
    let run = |values: &[Option<f64>]| {
        let known: Vec<(f64, f64)> =
            fine.times.iter().zip(values).filter_map(|(time, value)| Some((*time, (*value)?))).collect();
        let run: Vec<&(f64, f64)> = known.iter().rev().take_while(|(_, value)| *value > 0.0).collect();
        (run.last().map(|(time, _)| time - fine.step), run.iter().map(|(_, value)| value).sum::<f64>() * weight)
    };
    (out.losing_since, out.dropped_since) = run(&sum_of(&fine, &ledger[..1]));
    (out.folding_since, out.folded_since) = run(&sum_of(&fine, &ledger[1..]));
    out
}

/// Somebody who sends.
#[derive(Clone, Debug, Default)]
pub(super) struct SenderRow {
    pub(super) id: String,
    /// What is known beside the address: process, container, user.
    pub(super) more: String,
    /// Of all lines, 0 to 1.
    pub(super) share: f64,
    pub(super) lines_per_sec: f64,
    pub(super) bytes_per_sec: f64,
    pub(super) malformed_per_sec: f64,
    pub(super) new_series_per_sec: f64,
    pub(super) spark: Vec<Option<f64>>,
}

/// A line that was refused, one for each reason.
#[derive(Clone, Debug, Default)]
pub(super) struct Refused {
    pub(super) reason: String,
    pub(super) line: String,
    pub(super) sender: Option<String>,
    pub(super) per_sec: Option<f64>,
}

/// A tag key, by its distinct values.
#[derive(Clone, Debug, Default)]
pub(super) struct TagKeyRow {
    pub(super) key: String,
    /// Where it comes from, in words.
    pub(super) about: String,
    pub(super) values: u64,
    pub(super) new_per_sec: f64,
}

/// Who sends what.
#[derive(Clone, Debug, Default)]
pub(super) struct Senders {
    pub(super) seen: u64,
    pub(super) capacity: u64,
    pub(super) lines_per_sec: f64,
    /// Error of shares, 0 to 1.
    pub(super) error: f64,
    pub(super) rows: Vec<SenderRow>,
    pub(super) prefixes: Vec<SenderRow>,
    pub(super) tag_keys: Vec<TagKeyRow>,
    pub(super) refused: Vec<Refused>,
    pub(super) warnings: Vec<String>,
}

/// Something that happened.
#[derive(Clone, Debug, Default)]
pub(super) struct Happened {
    pub(super) time: f64,
    /// `info`, `ok`, `warning` or `error`.
    pub(super) level: String,
    pub(super) kind: String,
    pub(super) title: String,
    pub(super) text: String,
    pub(super) service: Option<String>,
}

/// Refused lines by reason, as the last interval counts them.
pub(super) fn refused_of_ledger(look: &Look) -> Vec<Refused> {
    let Some(snapshot) = look.snapshot() else { return Vec::new() };
    let mut all: Vec<Refused> = snapshot
        .ledger
        .lines
        .malformed
        .iter()
        .map(|(reason, n)| Refused {
            reason: reason.to_string(),
            per_sec: Some(n as f64 / snapshot.interval_secs.max(0.001)),
            ..Refused::default()
        })
        .collect();
    all.sort_by_key(|refused| Reverse(refused.per_sec.map_or(0, |rate| (rate * 1000.0) as u64)));
    all
}

/// Who sends what; of one sender, its prefixes.
pub(super) fn senders(state: &AppState, by: Option<&str>, sender: Option<&str>, q: Option<&str>) -> Senders {
    let answer = crate::http::senders::shown(&state.senders.report(), by, sender, q);
    let rates = |id: String, more: String, share: f64, rates: &RatesEntry, spark: &[f32]| SenderRow {
        id,
        more,
        share,
        lines_per_sec: rates.lines_per_sec,
        bytes_per_sec: rates.bytes_per_sec,
        malformed_per_sec: rates.malformed_per_sec,
        new_series_per_sec: rates.new_series_per_sec + rates.folded_per_sec,
        spark: spark.iter().map(|value| Some(f64::from(*value))).collect(),
    };
    let more = |sender: &SenderEntry| {
        let uid = sender.uid.map(|uid| format!("uid {uid}"));
        let known = [sender.process.clone(), sender.container.clone(), uid];
        known.into_iter().flatten().filter(|text| !sender.id.contains(text.as_str())).collect::<Vec<_>>().join(" ")
    };
    let about = |key: &TagKeyEntry| {
        let under = key.under.as_ref().map_or_else(String::new, |under| format!("under {under}"));
        key.sender.as_ref().map_or(under.clone(), |sender| format!("{under} from {sender}"))
    };
    let sender = |one: &SenderEntry| rates(one.id.clone(), more(one), one.share, &one.rates, &one.spark);
    Senders {
        seen: answer.seen,
        capacity: answer.capacity as u64,
        lines_per_sec: answer.lines_per_sec,
        error: answer.error,
        rows: answer.senders.iter().map(sender).collect(),
        prefixes: answer
            .prefixes
            .iter()
            .map(|one| rates(one.prefix.clone(), String::new(), one.share, &one.rates, &[]))
            .collect(),
        tag_keys: answer
            .tag_keys
            .iter()
            .map(|key| TagKeyRow {
                key: key.key.clone(),
                about: about(key),
                values: key.values,
                new_per_sec: key.new_per_sec,
            })
            .collect(),
        refused: answer
            .examples
            .iter()
            .filter(|one| one.per_sec > 0.0)
            .map(|one| Refused {
                reason: one.reason.to_string(),
                line: one.line.clone(),
                sender: one.sender.clone(),
                per_sec: Some(one.per_sec),
            })
            .collect(),
        warnings: answer.warnings,
    }
}

/// How lines are read, one value each, as the API has it.
pub(super) async fn explain(state: &AppState, lines: &str) -> Result<Vec<serde_json::Value>, Response> {
    let (state, lines) = (state.clone(), lines.to_string());
    let explained = state.bodies.clone().work(move || crate::http::explain::first(&state, &lines)).await?;
    Ok(explained.iter().filter_map(|one| serde_json::to_value(one).ok()).collect())
}

/// The effective settings, as the API has them.
pub(super) fn config(state: &AppState) -> serde_json::Value {
    serde_json::to_value(&*state.config).unwrap_or_default()
}

/// What happened, newest first.
pub(super) fn happened(state: &AppState, query: &journal::Query) -> Vec<Happened> {
    let (entries, _) = state.journal.find(query);
    entries.iter().map(|entry| of_entry(entry)).collect()
}

fn of_entry(entry: &journal::Entry) -> Happened {
    Happened {
        time: entry.time,
        level: entry.level.as_str().into(),
        kind: entry.kind.as_str().into(),
        title: entry.title.clone(),
        text: entry.text.clone(),
        service: entry.service.clone().filter(|_| entry.kind == journal::EntryKind::Presence),
    }
}

/// An event of presence as all others.
pub(super) fn of_presence(event: &Event) -> Happened {
    let level = journal::level_of(event);
    Happened {
        time: event.at.as_secs(),
        level: level.as_str().into(),
        kind: "presence".into(),
        title: describe(event),
        text: String::new(),
        service: event.service.as_ref().map(ToString::to_string),
    }
}

/// Host and port of the first UDP listener.
pub(super) fn udp_address(ledger: &Ledger) -> (String, String) {
    let addresses = ledger.listeners.iter().filter_map(|listener| listener.url.strip_prefix("udp://"));
    let address = addresses.filter_map(|address| address.rsplit_once(':')).next().unwrap_or(("127.0.0.1", "8125"));
    (address.0.to_string(), address.1.to_string())
}

impl SeriesRow {
    /// One of which nothing is known.
    pub(super) fn unknown(series: &Series) -> SeriesRow {
        SeriesRow {
            series: series.clone(),
            rate: None,
            field: "value".into(),
            value: None,
            range: None,
            spark: Vec::new(),
            last_seen: 0.0,
            is_current: false,
        }
    }
}

/// Numbers of one series over time.
#[derive(Clone, Debug, Default)]
pub(super) struct Points {
    pub(super) times: Vec<f64>,
    pub(super) complete: Vec<Option<f64>>,
    /// By the names of the API.
    pub(super) fields: Vec<(String, Vec<Option<f64>>)>,
}

impl Points {
    fn of(&self, field: &str) -> &[Option<f64>] {
        self.fields.iter().find(|(known, _)| known == field).map_or(&[], |(_, values)| values)
    }

    /// A field as a line.
    pub(super) fn line(&self, field: &str, label: &str, class: &'static str) -> Curve {
        Curve { label: label.into(), class, values: self.of(field).to_vec() }
    }

    /// What a drawing shows, in words.
    pub(super) fn sentence(&self, series: &Series, fields: &[&str]) -> String {
        let texts = fields.iter().filter_map(|field| {
            let known = || self.of(field).iter().flatten().copied();
            let (low, high) = (known().fold(f64::INFINITY, f64::min), known().fold(f64::NEG_INFINITY, f64::max));
            let last = known().last()?;
            Some(format!("{field} {}, from {} to {}", amount(last), amount(low), amount(high)))
        });
        let texts: Vec<String> = texts.collect();
        format!("{}: {}", Escaped(series.name()), if texts.is_empty() { "no values".into() } else { texts.join("; ") })
    }
}

/// The series that differ from one in the value of a tag, and what each is now.
#[derive(Clone, Debug)]
pub(super) struct ByTag {
    pub(super) key: String,
    pub(super) field: String,
    pub(super) values: Vec<(String, Series, Option<f64>)>,
}

/// What is known of a series beside its numbers.
#[derive(Clone, Debug, Default)]
pub(super) struct Details {
    pub(super) first_seen: Option<f64>,
    pub(super) rule: Option<String>,
    pub(super) percentiles: Vec<f64>,
    pub(super) dropped_tags: Vec<String>,
    /// Sinks, and what they call it.
    pub(super) goes_to: Vec<(String, Vec<String>)>,
    pub(super) senders: Vec<Share>,
    pub(super) senders_seen: u64,
    pub(super) by_tag: Vec<ByTag>,
    pub(super) is_exact: bool,
}

fn point_of<'a>(snapshot: &'a Snapshot, series: &Series) -> Option<Point<'a>> {
    (0..).map_while(|n| snapshot.point(n)).find(|point| point.series() == series)
}

/// A series as a row; `None` if it is not known.
pub(super) fn row_of(state: &AppState, look: &Look, series: &Series) -> Option<SeriesRow> {
    if let Some(details) = state.history.details(series) {
        return of_info(details.series);
    }
    let snapshot = look.snapshot()?;
    Some(row(snapshot, point_of(snapshot, series)?))
}

/// The order in which the fields of a series are shown.
fn rank(field: &str) -> (u8, u32) {
    let percentile = field.strip_prefix('p').and_then(|number| number.parse::<f64>().ok());
    match field {
        "rate" | "value" => (0, 0),
        "median" => (1, 0),
        "max" => (3, 0),
        "count" => (4, 0),
        _ => percentile.map_or((5, 0), |percentile| (2, (percentile * 1000.0) as u32)),
    }
}

/// The numbers of a series in a time.
pub(super) fn points(state: &AppState, look: &Look, series: &Series, time: (f64, f64)) -> Points {
    let query = PointsQuery { series: vec![series.clone()], from: time.0, to: time.1, ..PointsQuery::default() };
    let known = state.history.last_end().and_then(|_| state.history.points(&query).ok());
    let mut out = match known.filter(|points| !points.times.is_empty()) {
        Some(mut points) => Points {
            complete: numbers(&points.completeness),
            fields: match points.series.pop() {
                Some(one) => one.fields.iter().map(|(name, values)| (name.clone(), numbers(values))).collect(),
                None => Vec::new(),
            },
            times: points.times,
        },
        None => of_last(look, series),
    };
    out.fields.retain(|(name, _)| !matches!(name.as_str(), "sum_squares" | "stddev" | "samples"));
    out.fields.sort_by_key(|(name, _)| rank(name));
    out
}

/// The numbers of the last interval.
fn of_last(look: &Look, series: &Series) -> Points {
    let Some(snapshot) = look.snapshot() else { return Points::default() };
    let Some(point) = point_of(snapshot, series) else { return Points::default() };
    let fields = snapshot.aggregates(point).map(|(name, value)| (name.name().to_string(), vec![Some(value)]));
    Points { times: vec![snapshot.end], complete: vec![Some(snapshot.ledger.completeness)], fields: fields.collect() }
}

/// What is known of a series beside its numbers.
pub(super) fn details(state: &AppState, look: &Look, series: &Series) -> Details {
    let shares = state.senders.of_series(series.name());
    let (rule, dropped_tags) = of_series::rule_of(state, series);
    let place = |rule: &Rule| match (&rule.file, rule.line) {
        (Some(file), Some(line)) => format!("{} = \"{}\" ({file}:{line})", rule.form, rule.pattern),
        _ => format!("{} = \"{}\"", rule.form, rule.pattern),
    };
    let goes_to = of_series::goes_to(state, look.snapshot().map(|snapshot| &**snapshot), series);
    let mut out = Details {
        senders_seen: shares.len() as u64,
        senders: shares,
        rule: rule.as_ref().map(place),
        dropped_tags,
        goes_to: goes_to.into_iter().map(|one| (one.sink, one.names)).collect(),
        ..Details::default()
    };
    if let Some(known) = state.history.details(series) {
        out.first_seen = Some(known.series.first_seen);
        out.percentiles = known.percentiles;
        out.is_exact = known.exact;
        let by = |by: history::ByTag| {
            let value = |one: history::TagValue| {
                Some((one.value.unwrap_or_default(), Series::from_id(&one.id)?, one.now.map(f64::from)))
            };
            let values: Vec<_> = by.values.into_iter().filter_map(value).collect();
            ByTag { key: by.key, field: by.field, values }
        };
        out.by_tag = known.by_tag.into_iter().map(by).filter(|by| by.values.len() > 1).collect();
        return out;
    }
    let Some(snapshot) = look.snapshot() else { return out };
    if let Some(Point::Timer(point)) = point_of(snapshot, series) {
        (out.percentiles, out.is_exact) = (snapshot.policy.percentiles.clone(), snapshot.summary(point).exact);
    }
    out
}
