//! Points of series and of the ledger over time.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::protocol::Kind;
use crate::series::Series;
use crate::snapshot::Aggregate;

use super::axis::Axis;
use super::codec::kept;
use super::ledger::{self, Known};
use super::series::some;
use super::store::{Layout, is_counter};
use super::track::{Fold, MOMENTS, Shape, Track};
use super::{HeatMap, History};

/// Most points of a series in an answer.
pub const MOST_POINTS: usize = 2000;

/// What a point of an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Resolution {
    /// An interval.
    Interval,
    /// A minute or several, or several intervals.
    Minute,
    /// Intervals from the database of the sink `sqlite`.
    Sqlite,
}

/// Which points are wanted.
#[derive(Clone, Debug, Default)]
pub struct PointsQuery {
    /// Of these series.
    pub series: Vec<Series>,
    /// Of these paths of the ledger.
    pub ledger: Vec<String>,
    /// Only these fields; all if there are none.
    pub fields: Vec<String>,
    /// Ends of intervals from here on, Unix seconds.
    pub from: f64,
    /// To here, Unix seconds.
    pub to: f64,
    /// Distance of points, seconds; the finest that reaches back to `from` without it.
    pub step: Option<f64>,
    /// Whether timers have a heat map.
    pub heat: bool,
}

/// More points than an answer may have.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error(
    "`max_points`: {series} series × {points} points; at most {MOST_POINTS} of a series: a larger `step`, or a shorter time"
)]
pub struct TooMuch {
    /// Series and paths that were asked for.
    pub series: usize,
    /// Points of each.
    pub points: u64,
}

/// Why something is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MarkKind {
    /// The daemon or the history did not see this time.
    NotSeen,
    /// The daemon was started.
    Restart,
    /// It was given up because memory was short.
    GivenUp,
}

/// What is to be said of a time.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Mark {
    /// Its begin, Unix seconds.
    pub from: f64,
    /// Its end, Unix seconds.
    pub to: f64,
    /// What happened.
    pub kind: MarkKind,
    /// The same in words.
    pub text: String,
}

/// Numbers over time; `null` where there is none.
pub type Numbers = Vec<Option<f32>>;

/// Points of a series.
#[derive(Clone, Debug, Default, PartialEq, Serialize, utoipa::ToSchema)]
pub struct SeriesPoints {
    /// As it was asked for.
    pub id: String,
    /// Its kind.
    pub kind: &'static str,
    /// The name.
    pub name: String,
    /// By key.
    pub tags: BTreeMap<String, Value>,
    /// By name of the field.
    pub fields: BTreeMap<String, Numbers>,
    /// The smallest interval of each point, where a point is several.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub min: BTreeMap<String, Numbers>,
    /// The largest.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub max: BTreeMap<String, Numbers>,
    /// Of a gauge, interval by interval: whether it was updated, and not repeated.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub updated: Vec<Option<bool>>,
    /// Of a timer, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heat: Option<HeatMap>,
    /// What is older than this was given up, Unix seconds.
    pub given_up_before: Option<f64>,
}

/// Points of series and of the ledger.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Points {
    /// What was asked for, Unix seconds.
    pub from: f64,
    /// See there.
    pub to: f64,
    /// The configured length of an interval, seconds.
    pub interval: f64,
    /// Distance of points, seconds.
    pub step: f64,
    /// What a point is.
    pub resolution: Resolution,
    /// The end of each point, Unix seconds.
    pub times: Vec<f64>,
    /// Share of datagrams that were read; `null` where nothing was seen.
    pub completeness: Numbers,
    /// What is older than this was given up of at least one series, Unix seconds.
    pub given_up_before: Option<f64>,
    /// Times of which something is to be said.
    pub marks: Vec<Mark>,
    /// In the order asked for.
    pub series: Vec<SeriesPoints>,
    /// By path.
    pub ledger: BTreeMap<String, Numbers>,
}

/// The points in time of an answer, and what lies in each.
struct Grid {
    step: f64,
    resolution: Resolution,
    /// Whether each is one interval.
    is_exact: bool,
    times: Vec<f64>,
    seen: Vec<u32>,
    rate_secs: Vec<f64>,
    complete_secs: Vec<f64>,
    /// By interval and by minute of the axis: its point.
    of_interval: Vec<Option<u32>>,
    of_minute: Vec<Option<u32>>,
    first_minute: u32,
    base: u64,
}

/// Part of the axis.
struct Part {
    end: f64,
    seen: u32,
    rate_secs: f64,
    complete_secs: f64,
}

/// Ends are sums of lengths, which are not exact.
const SLACK: f64 = 1e-6;

impl Grid {
    fn new(axis: &Axis, query: &PointsQuery) -> Grid {
        let in_range = |end: f64| end >= query.from - SLACK && end <= query.to + SLACK;
        let leaving = axis.leaving();
        let begin = axis.begin().unwrap_or(f64::INFINITY);
        let first = axis.intervals.get(leaving).map_or(u32::MAX, |first| first.minute());
        let old = |number: u32| number < first;
        let needs_minutes =
            query.from < begin && axis.minutes.iter().any(|minute| old(minute.number) && in_range(minute.end));
        let kept = axis.intervals.iter().skip(leaving);
        let count = kept.filter(|interval| !interval.is_superseded && in_range(interval.end)).count();
        let finest = if needs_minutes { 60.0_f64.max(axis.interval_secs()) } else { axis.interval_secs() };
        let most =
            if needs_minutes { axis.minutes.iter().filter(|minute| in_range(minute.end)).count() } else { count };
        let step = match query.step {
            Some(step) => step.max(finest),
            None => finest * most.div_ceil(MOST_POINTS).max(1) as f64,
        };
        let is_exact = !needs_minutes && step < axis.interval_secs() * 1.5;
        let mut grid = Grid {
            step,
            resolution: if is_exact { Resolution::Interval } else { Resolution::Minute },
            is_exact,
            times: Vec::new(),
            seen: Vec::new(),
            rate_secs: Vec::new(),
            complete_secs: Vec::new(),
            of_interval: vec![None; axis.intervals.len()],
            of_minute: vec![None; axis.minutes.len()],
            first_minute: axis.first_minute(),
            base: axis.base,
        };
        let last = axis.last().map_or(0.0, |last| last.end);
        let mut key = None;
        if needs_minutes {
            for (n, minute) in
                axis.minutes.iter().enumerate().filter(|(_, minute)| old(minute.number) && in_range(minute.end))
            {
                let end = super::axis::minute_end(minute.number);
                let (seen, rate_secs, complete_secs) = (minute.seen, minute.rate_secs, minute.complete_secs);
                grid.of_minute[n] = Some(grid.place(&mut key, last, Part { end, seen, rate_secs, complete_secs }));
            }
        }
        for (n, interval) in axis.intervals.iter().enumerate() {
            if n < leaving {
                // Of some series it is in its minute already, of others not yet.
                grid.of_interval[n] = grid.minute(axis, interval.minute()).map(|place| place as u32);
                continue;
            }
            if interval.is_superseded || !in_range(interval.end) {
                continue;
            }
            let share = interval.completeness.map_or(0.0, f64::from);
            let rate_secs = if interval.is_seen() { interval.rate_secs } else { 0.0 };
            let part = Part {
                end: interval.end,
                seen: interval.is_seen().into(),
                rate_secs,
                complete_secs: share * rate_secs,
            };
            grid.of_interval[n] = Some(grid.place(&mut key, last, part));
        }
        grid
    }

    /// The point that a part of the axis belongs to.
    fn place(&mut self, key: &mut Option<f64>, last: f64, part: Part) -> u32 {
        let own = ((part.end - SLACK) / self.step).floor();
        if self.is_exact || *key != Some(own) {
            *key = Some(own);
            self.times.push(if self.is_exact { part.end } else { ((own + 1.0) * self.step).min(last) });
            self.seen.push(0);
            self.rate_secs.push(0.0);
            self.complete_secs.push(0.0);
        }
        let at = self.times.len() - 1;
        self.seen[at] += part.seen;
        self.rate_secs[at] += part.rate_secs;
        self.complete_secs[at] += part.complete_secs;
        at as u32
    }

    fn interval(&self, number: u64) -> Option<usize> {
        let place = self.of_interval.get(usize::try_from(number.checked_sub(self.base)?).ok()?)?;
        place.map(|place| place as usize)
    }

    fn minute(&self, axis: &Axis, number: u32) -> Option<usize> {
        // Minutes without an interval are not on the axis.
        let guess = number.checked_sub(self.first_minute)? as usize;
        let known = axis.minutes.get(guess).is_some_and(|minute| minute.number == number);
        let at = if known { guess } else { axis.minutes.binary_search_by_key(&number, |minute| minute.number).ok()? };
        self.of_minute[at].map(|place| place as usize)
    }

    fn completeness(&self) -> Numbers {
        let of = |n: usize| (self.seen[n] > 0).then(|| kept((self.complete_secs[n] / self.rate_secs[n]).min(1.0)));
        (0..self.times.len()).map(of).collect()
    }

    /// Shows the row of each point that a track has: of one interval, or, as the row of a minute, of several.
    fn rows(&self, track: &Track, shape: Shape, axis: &Axis, mut visit: impl FnMut(usize, &[f32], bool)) {
        if self.is_exact {
            track.intervals(shape, axis, u64::MAX, |number, read| {
                if let Some(place) = self.interval(number) {
                    visit(place, read.row, read.is_updated);
                }
            });
            return;
        }
        let (mut fold, mut at, mut row) = (Fold::new(shape), 0, Vec::new());
        let mut next = |place: Option<usize>, add: &mut dyn FnMut(&mut Fold)| {
            if place != Some(at) {
                if !fold.is_empty() {
                    fold.row(&mut row);
                    visit(at, &row, true);
                    fold = Fold::new(shape);
                }
                at = place.unwrap_or(at);
            }
            add(&mut fold);
        };
        track.minutes(shape, axis, u64::MAX, |number, row| {
            if let Some(place) = self.minute(axis, number) {
                next(Some(place), &mut |fold| fold.add_minute(row));
            }
        });
        track.intervals(shape, axis, u64::MAX, |number, read| {
            if let Some(place) = self.interval(number) {
                next(Some(place), &mut |fold| fold.add(read.row));
            }
        });
        next(None, &mut |_| ());
    }

    /// Numbers of the ledger: of what is counted the mean of the intervals that were seen, of a level that of those that have it.
    fn ledger(&self, known: &Known, axis: &Axis) -> Numbers {
        let mut numbers = vec![None; self.times.len()];
        if let Some(whole) = &known.whole {
            self.rows(whole, ledger::SHAPE, axis, |place, _, _| numbers[place] = Some(0.0));
        }
        self.rows(&known.track, ledger::SHAPE, axis, |place, row, _| {
            numbers[place] = match self.is_exact {
                true => some(row[0]),
                false if known.is_counter => some(row[1] / self.seen[place].max(1) as f32),
                false => some(row[1] / row[0]),
            };
        });
        numbers
    }
}

/// A number of a point that has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    Value,
    Rate,
    Count,
    Sum,
    Mean,
    /// The number of a timer's row.
    Of(usize),
}

fn fields(kind: Kind, layout: &Layout) -> Vec<(String, Column)> {
    let named = |name: &str, field| (name.to_string(), field);
    if !layout.is_timer {
        let value = named("value", Column::Value);
        return if is_counter(kind) { vec![value, named("rate", Column::Rate)] } else { vec![value] };
    }
    let mut all = vec![
        named("count", Column::Count),
        named("rate", Column::Rate),
        named("sum", Column::Sum),
        named("mean", Column::Mean),
        named("min", Column::Of(2)),
        named("max", Column::Of(3)),
        named("median", Column::Of(4)),
    ];
    let percentile = |(n, p): (usize, &f64)| (Aggregate::Percentile(*p).name().into_owned(), Column::Of(MOMENTS + n));
    all.extend(layout.percentiles.iter().enumerate().map(percentile));
    all
}

/// A point of a series as it is read.
struct Point<'a> {
    row: &'a [f32],
    grid: &'a Grid,
    place: usize,
    is_counter: bool,
    every: f64,
}

impl Point<'_> {
    /// A sum of the point per interval, where it may be several.
    fn per_interval(&self, sum: f64) -> f64 {
        if self.grid.is_exact { sum } else { sum / f64::from(self.grid.seen[self.place].max(1)) * self.every }
    }

    /// A sum of the point per second.
    fn per_second(&self, sum: f64) -> f64 {
        let secs = self.grid.rate_secs[self.place];
        let secs = if self.grid.is_exact { secs * self.every } else { secs };
        if secs > 0.0 { sum / secs } else { f64::NAN }
    }

    fn number(&self, field: Column) -> Option<f32> {
        let of = |n: usize| self.row.get(n).map_or(f64::NAN, |number| f64::from(*number));
        // Of several intervals a plain row begins with how many there are.
        let plain = if self.grid.is_exact { of(0) } else { of(1) };
        let number = match field {
            Column::Value if self.grid.is_exact => of(0),
            Column::Value if self.is_counter => self.per_interval(plain),
            Column::Value => plain / of(0),
            Column::Rate if self.is_counter => self.per_second(plain),
            Column::Rate => self.per_second(of(0)),
            Column::Count => self.per_interval(of(0)),
            Column::Sum => self.per_interval(of(1)),
            Column::Mean => of(1) / of(0),
            Column::Of(n) => of(n),
        };
        if number.is_nan() { None } else { Some(kept(number)) }
    }
}

impl PointsQuery {
    /// Whether there are not too many.
    ///
    /// # Errors
    /// If there are.
    pub fn check(&self) -> Result<(), TooMuch> {
        let points = self.step.map_or(0.0, |step| ((self.to - self.from) / step).ceil());
        let series = self.series.len() + self.ledger.len();
        if points > MOST_POINTS as f64 { Err(TooMuch { series, points: points as u64 }) } else { Ok(()) }
    }
}

impl History {
    /// Points over time. What is not known has none; series that are asked for give way later than others.
    ///
    /// # Errors
    /// If there would be too many.
    pub fn points(&self, query: &PointsQuery) -> Result<Points, TooMuch> {
        /// Intervals leave once in some seconds: it is enough to look again.
        const MOST_TRIES: usize = 3;
        query.check()?;
        query.series.iter().for_each(|series| self.touch(series, query.heat));
        let mut axis = self.0.axis();
        let mut points = self.points_on(&axis, query);
        for _ in 1..MOST_TRIES {
            // Rows that left while they were looked for are in minutes, which this axis does not show.
            let now = self.0.axis();
            if now.first_kept() == axis.first_kept() {
                break;
            }
            points = self.points_on(&now, query);
            axis = now;
        }
        Ok(points)
    }

    fn points_on(&self, axis: &Axis, query: &PointsQuery) -> Points {
        let shared = &*self.0;
        let grid = Grid::new(axis, query);
        let mut all: Vec<SeriesPoints> =
            query.series.iter().map(|one| self.points_of(one, axis, &grid, query)).collect();
        let oldest =
            axis.begin().unwrap_or(0.0).min(axis.minutes.front().map_or(f64::INFINITY, |first| first.end - 60.0));
        all.iter_mut().for_each(|one| one.given_up_before = one.given_up_before.filter(|before| *before > oldest));
        let given_up = all.iter().filter_map(|one| one.given_up_before).max_by(f64::total_cmp);
        let paths: Vec<(String, Option<Known>)> = {
            let known = super::store::lock(&shared.ledger);
            query.ledger.iter().map(|path| (path.clone(), known.find(path))).collect()
        };
        let numbers = |known: &Known| grid.ledger(known, axis);
        let ledger = paths
            .into_iter()
            .map(|(path, known)| (path, known.as_ref().map_or_else(|| vec![None; grid.times.len()], numbers)));
        Points {
            from: query.from,
            to: query.to,
            interval: shared.options.interval_secs,
            step: grid.step,
            resolution: grid.resolution,
            completeness: grid.completeness(),
            given_up_before: given_up,
            marks: marks(axis, query, given_up),
            series: all,
            ledger: ledger.collect(),
            times: grid.times.clone(),
        }
    }

    fn points_of(&self, series: &Series, axis: &Axis, grid: &Grid, query: &PointsQuery) -> SeriesPoints {
        let shared = &*self.0;
        let mut out = SeriesPoints {
            id: series.id(),
            kind: series.kind().name(),
            name: series.name().to_string(),
            tags: super::series::tags(series),
            ..SeriesPoints::default()
        };
        let is_wanted = |name: &str| query.fields.is_empty() || query.fields.iter().any(|wanted| wanted == name);
        let times = grid.times.len();
        let layouts = shared.store.layouts();
        let known = shared.store.index.find(series).and_then(|id| {
            shared.store.with(id, |entry| {
                let layout = layouts.get(usize::from(entry.layout))?.clone();
                let heat = entry.heat.as_ref().filter(|_| query.heat);
                out.heat = heat.map(|heat| heat.map(times, |number| grid.interval(number)));
                out.given_up_before = (entry.given_up > 0).then_some(f64::from(entry.given_up));
                Some((layout, entry.track.clone()))
            })?
        });
        let percentiles = Vec::new;
        let is_timer = super::store::is_timer(series.kind());
        let (layout, track) =
            known.unwrap_or_else(|| (Layout { percentiles: percentiles(), is_timer, every: 1 }, Track::default()));
        let wanted: Vec<(String, Column)> =
            fields(series.kind(), &layout).into_iter().filter(|(name, _)| is_wanted(name)).collect();
        let mut columns = vec![vec![None; times]; wanted.len()];
        let is_plain_fold = !layout.is_timer && !grid.is_exact;
        let mut extremes = vec![(vec![None; times], vec![None; times]); if is_plain_fold { wanted.len() } else { 0 }];
        let mut updated = vec![None; if series.kind() == Kind::Gauge && grid.is_exact { times } else { 0 }];
        let (is_counter, every) = (is_counter(series.kind()), f64::from(layout.every));
        grid.rows(&track, layout.shape(), axis, |place, row, is_updated| {
            let point = Point { row, grid, place, is_counter, every };
            for ((_, field), column) in wanted.iter().zip(&mut columns) {
                column[place] = point.number(*field);
            }
            for ((_, field), (least, largest)) in wanted.iter().zip(&mut extremes) {
                // Of one interval, a second of it if that is wanted.
                let secs = if *field == Column::Rate { axis.interval_secs() * every } else { 1.0 };
                least[place] = some(kept(f64::from(row[2]) / secs));
                largest[place] = some(kept(f64::from(row[3]) / secs));
            }
            if let Some(updated) = updated.get_mut(place) {
                *updated = Some(is_updated);
            }
        });
        let names = || wanted.iter().map(|(name, _)| name.clone());
        let (least, largest): (Vec<_>, Vec<_>) = extremes.into_iter().unzip();
        out.min = names().zip(least).collect();
        out.max = names().zip(largest).collect();
        out.fields = names().zip(columns).collect();
        out.updated = updated;
        out
    }
}

/// What is to be said of the time that was asked for.
fn marks(axis: &Axis, query: &PointsQuery, given_up: Option<f64>) -> Vec<Mark> {
    let mut all: Vec<Mark> = Vec::new();
    let is_in = |from: f64, to: f64| to > query.from && from < query.to;
    if let Some(before) = given_up.filter(|before| *before > query.from) {
        let text = "given up, because memory was short".into();
        all.push(Mark { from: query.from, to: before.min(query.to), kind: MarkKind::GivenUp, text });
    }
    for begin in axis.starts().filter(|begin| is_in(*begin, *begin)) {
        all.push(Mark { from: begin, to: begin, kind: MarkKind::Restart, text: "the daemon was started".into() });
    }
    for interval in axis.intervals.iter().filter(|interval| !interval.is_seen() && !interval.is_superseded) {
        let begin = interval.end - interval.secs;
        if !is_in(begin, interval.end) {
            continue;
        }
        match all.last_mut().filter(|last| last.kind == MarkKind::NotSeen && (last.to - begin).abs() < SLACK) {
            Some(last) => last.to = interval.end,
            None => all.push(Mark { from: begin, to: interval.end, kind: MarkKind::NotSeen, text: String::new() }),
        }
    }
    for mark in all.iter_mut().filter(|mark| mark.kind == MarkKind::NotSeen) {
        mark.text = format!("{} s not seen", ((mark.to - mark.from) * 10.0).round() / 10.0);
    }
    all
}
