//! Taking in intervals, and giving way.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::fault;
use crate::memory::{Level, vec_footprint};
use crate::protocol::Kind;
use crate::series::Series;
use crate::snapshot::{CounterPoint, GaugePoint, KvPoint, SetPoint, Snapshot, TimerPoint};

use super::axis::{Axis, Interval};
use super::codec::kept;
use super::heat::FORGOTTEN_SECS;
use super::search::Segments;
use super::store::{Cell, Entry, Layout, PLACES, lock, place_of};
use super::track::{Keep, Scratch, Track};
use super::{LOOKED_SECS, Shared};

/// Rows that are taken in while a cell is locked.
const BATCH: usize = 64;

/// Steps of giving way: what is kept of intervals and of minutes, of series that nobody looked at for [`LOOKED_SECS`], then of
/// the others, in parts of [`WHOLE`].
const STEPS: [[(usize, usize); 2]; 15] = {
    const ALL: (usize, usize) = (WHOLE, WHOLE);
    [
        [ALL, ALL],
        [ALL, ALL],
        [(WHOLE, WHOLE / 2), ALL],
        [(WHOLE, WHOLE / 4), ALL],
        [(WHOLE, WHOLE / 8), ALL],
        [(WHOLE, 0), ALL],
        [(WHOLE / 2, 0), ALL],
        [(WHOLE / 4, 0), ALL],
        [(WHOLE / 8, 0), ALL],
        [(0, 0), ALL],
        [(0, 0), ALL],
        [(0, 0), (WHOLE, WHOLE / 4)],
        [(0, 0), (WHOLE, 0)],
        [(0, 0), (WHOLE / 4, 0)],
        [(0, 0), (0, 0)],
    ]
};
const WHOLE: usize = 16;

/// From this step on series leave that have stopped after less than [`PASSING_SECS`]: names that come and go, before others give
/// anything.
const PASSING_STEP: usize = 1;
const PASSING_SECS: f64 = 60.0;

/// From this step on a series finds room only where there is much of it: else the newest would push out all others.
const CROWDED_STEP: usize = 9;

/// From this step on the others have not even what is not sealed, and leave if the last interval has nothing of them.
const BARE_STEP: usize = 10;

/// Then nothing is left but what finds the series of the last interval.
const LAST_STEP: usize = STEPS.len() - 1;

/// Weight of a new number in what is usual.
const NOVELTY: f32 = 0.05;

/// Largest change that is extras apart.
const MOST_CHANGE: f32 = 1e6;

/// Least number of series that are gone before segments are looked through for them.
const DEAD: usize = 1024;

/// Bytes that a new series takes, about.
pub(super) const NEW_BYTES: u64 = 400;

/// Most intervals that a gap has a place of its own for.
const MOST_MISSING: u64 = 360;

/// What the one who records has for itself.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) axis: Axis,
    segments: Segments,
    /// By kind of point: where the keys of the last interval's series are, and their ids.
    order: [Vec<(usize, u32)>; 5],
    /// Ids that are free, and those whose series are gone but in segments still.
    free: Vec<u32>,
    dead: usize,
    pub(super) next_id: u32,
    pub(super) last_sequence: Option<u64>,
    /// How much gives way.
    step: usize,
    /// It works on an interval; if that is so at the start of the next, it has failed.
    is_recording: bool,
    scratch: Scratch,
}

/// What comes with a row.
#[derive(Clone, Copy, Debug)]
struct Extra<'a> {
    rate: f32,
    fingerprint: u32,
    is_exact: bool,
    percentiles: &'a [f64],
}

/// Where the rows of an interval go.
#[derive(Clone, Copy, Debug)]
struct At {
    number: u64,
    end: f64,
    block: u32,
    place: u32,
}

impl Writer {
    pub(super) fn new(axis: Axis) -> Writer {
        Writer {
            axis,
            segments: Segments::default(),
            order: Default::default(),
            free: Vec::new(),
            dead: 0,
            next_id: 0,
            last_sequence: None,
            step: 0,
            is_recording: false,
            scratch: Scratch::default(),
        }
    }

    #[cfg(feature = "internals")]
    pub(super) fn step(&self) -> usize {
        self.step
    }

    fn heap_bytes(&self) -> usize {
        let order = self.order.iter().map(|order| vec_footprint::<(usize, u32)>(order.capacity())).sum::<usize>();
        order + vec_footprint::<u32>(self.free.capacity()) + self.segments.heap_bytes() + 2 * self.axis.heap_bytes()
    }
}

impl Shared {
    /// Takes in an interval.
    pub(super) fn add(&self, snapshot: &Snapshot) {
        let mut writer = lock(&self.writer);
        if std::mem::replace(&mut writer.is_recording, true) {
            self.begin_anew(&mut writer);
        }
        let at = self.push_interval(&mut writer, snapshot);
        fault::pass("history:add");
        let mut fresh: Vec<(u32, Series)> = Vec::new();
        self.record_points(&mut writer, snapshot, at, &mut fresh);
        lock(&self.ledger).push(&snapshot.ledger, at.block, at.place);
        self.publish(&mut writer, &fresh);
        self.make_room(&mut writer);
        writer.is_recording = false;
    }

    /// Forgets everything, after a failure in the middle of an interval.
    fn begin_anew(&self, writer: &mut Writer) {
        self.store.clear();
        lock(&self.heated).clear();
        *lock(&self.ledger) = Default::default();
        let mut axis = self.new_axis();
        // Numbers of intervals go on, so that nobody takes one for another.
        axis.base = writer.axis.next();
        *writer = Writer { is_recording: true, last_sequence: writer.last_sequence, ..Writer::new(axis) };
        self.counts.series.store(0, Ordering::Relaxed);
        self.counts.own.store(0, Ordering::Relaxed);
        self.counts.begun_anew.fetch_add(1, Ordering::Relaxed);
        // That in work.
        self.counts.missed.fetch_add(1, Ordering::Relaxed);
        self.publish(writer, &[]);
    }

    /// Puts the interval onto the axis, and those that did not come before it.
    fn push_interval(&self, writer: &mut Writer, snapshot: &Snapshot) -> At {
        let before = writer.last_sequence.replace(snapshot.sequence);
        let missing = before.map_or(0, |before| snapshot.sequence.saturating_sub(before + 1)).min(MOST_MISSING);
        let begin = snapshot.end - snapshot.interval_secs;
        let last_end = writer.axis.last().map(|last| last.end);
        let unseen =
            |end: f64, secs: f64| Interval { end, secs, rate_secs: secs, completeness: None, is_superseded: false };
        if let Some(last_end) = last_end.filter(|last| *last < begin) {
            // What the clock or a pause has left out is missing, too.
            let gap = begin - last_end;
            let places = if gap > snapshot.interval_secs / 2.0 { missing.max(1) } else { 0 };
            for n in 1..=places {
                let secs = gap / places as f64;
                self.push_onto(writer, unseen(last_end + secs * n as f64, secs));
            }
        }
        let interval = Interval {
            end: snapshot.end,
            secs: snapshot.interval_secs,
            rate_secs: snapshot.rate_secs,
            completeness: Some(kept(snapshot.ledger.completeness)),
            is_superseded: false,
        };
        self.push_onto(writer, interval);
        let block = writer.axis.open_block();
        At { number: writer.axis.next() - 1, end: snapshot.end, block: block.number, place: block.length - 1 }
    }

    fn push_onto(&self, writer: &mut Writer, interval: Interval) {
        if writer.axis.push(interval).is_cut {
            if writer.step > 0 && self.bytes() < self.target() / 4 * 3 {
                writer.step -= 1;
            }
            self.sweep(writer);
        }
    }

    /// What a track keeps, by whether somebody has looked at it lately.
    fn keep(&self, axis: &Axis, step: usize) -> [Keep; 2] {
        let (first_block, all_minutes) = axis.kept();
        STEPS[step].map(|(intervals, minutes)| {
            let blocks = axis.open_block().number.saturating_sub(first_block) as usize;
            let own_block = axis.open_block().number - (blocks * intervals / WHOLE) as u32;
            let own_minutes =
                if minutes == WHOLE { all_minutes } else { axis.minute_of(self.options.minutes * minutes / WHOLE) };
            Keep {
                drops_head: step >= BARE_STEP && (intervals, minutes) == (0, 0),
                open_block: axis.open_block().number,
                first_block,
                own_block,
                first_minute: own_minutes,
                all_minutes,
            }
        })
    }

    /// Seals what is whole, and lets go what is too old or has to give way, series after series. Readers are told before and
    /// after it, so that they find what leaves, be it in intervals or in minutes.
    fn sweep(&self, writer: &mut Writer) {
        let kept = writer.axis.kept();
        self.change_axis(|axis| axis.leave(kept.0));
        self.sweep_series(writer);
        writer.axis.expire(kept);
        self.change_axis(|axis| axis.expire(kept));
        self.measure(writer);
    }

    fn sweep_series(&self, writer: &mut Writer) {
        let [ours, looked_at] = self.keep(&writer.axis, writer.step);
        let now = writer.axis.last().map_or(0.0, |last| last.end);
        self.cool(|touched| touched + FORGOTTEN_SECS < now);
        let (cells, layouts) = (self.store.cells(), self.store.layouts());
        let newest = writer.axis.next().saturating_sub(1);
        let Writer { axis, scratch, dead, .. } = writer;
        let (mut gone, mut own, mut points) = (0, 0, 0);
        for cell in cells.iter() {
            let mut entries = lock(&cell.entries);
            for place in 0..PLACES {
                let Some(entry) = entries.at(place) else { continue };
                let before = entry.heap_bytes();
                let is_looked_at = f64::from(entry.looked) + LOOKED_SECS > now;
                let keep = if is_looked_at { &looked_at } else { &ours };
                let layout = &layouts[usize::from(entry.layout)];
                let (shape, is_idle) = (layout.shape(), !entry.is_current(layout, newest.saturating_sub(1)));
                if entry.track.sweep(shape, axis, keep, scratch) {
                    entry.given_up = self.given_up_at(axis, keep) as u32;
                    points += 1;
                }
                entry.look_for_owner();
                let is_passing = entry.last_seen - entry.first_seen < PASSING_SECS && !is_looked_at;
                let gives_way = is_passing && writer.step >= PASSING_STEP;
                let leaves = is_idle && (entry.track.is_empty() || keep.drops_head || gives_way);
                let (after, is_own) = (entry.heap_bytes(), self.is_own(&entry.series));
                entries.bytes = (entries.bytes + after).saturating_sub(before);
                if leaves {
                    self.store.remove(cell, &mut entries, place);
                    gone += 1;
                    own += u64::from(is_own);
                    points += u64::from(gives_way);
                }
            }
            entries.shrink();
        }
        let [keep, _] = self.keep(axis, 0);
        lock(&self.ledger).sweep(axis, &keep, scratch);
        *dead += gone as usize;
        if gone > 0 {
            // A key may be where another was.
            writer.order = Default::default();
        }
        self.counts.series.fetch_sub(gone, Ordering::Relaxed);
        self.counts.own.fetch_sub(own, Ordering::Relaxed);
        self.counts.given_up.fetch_add(points, Ordering::Relaxed);
    }

    /// Lets heat maps go whose last reader came at such a time; how many went.
    pub(super) fn cool(&self, is_left: impl Fn(f64) -> bool) -> usize {
        let mut heated = lock(&self.heated);
        let before = heated.len();
        heated.retain(|(id, touched)| {
            let stays = !is_left(*touched);
            if !stays {
                // Another series of that id has none.
                self.store.with(*id, |entry| entry.heat = None);
            }
            stays
        });
        before - heated.len()
    }

    /// The time before which a track that keeps so much has nothing, Unix seconds.
    fn given_up_at(&self, axis: &Axis, keep: &Keep) -> f64 {
        let block = axis.block(keep.own_block).and_then(|block| axis.interval(block.first));
        let end = axis.last().map_or(0.0, |last| last.end);
        let of_intervals = block.map_or(end, |first| first.end - first.secs);
        if keep.own_block > keep.first_block || keep.first_minute == u32::MAX {
            return of_intervals;
        }
        of_intervals.min(super::axis::minute_end(keep.first_minute.saturating_sub(1)))
    }

    /// Publishes what was recorded.
    pub(super) fn publish(&self, writer: &mut Writer, fresh: &[(u32, Series)]) {
        let cells = self.store.cells();
        if !fresh.is_empty() {
            writer.segments.add(fresh);
        }
        let alive = self.counts.series.load(Ordering::Relaxed) as usize;
        if writer.dead > DEAD.max(alive / 8) {
            let free = writer.segments.bury(&cells, writer.dead > alive);
            writer.dead = writer.dead.saturating_sub(free.len());
            writer.free.extend(free);
        }
        self.set_segments(writer.segments.clone());
        self.set_axis(writer.axis.clone());
        self.measure(writer);
    }

    /// Publishes the bytes that the history takes.
    fn measure(&self, writer: &Writer) {
        let bytes = self.store.heap_bytes() + writer.heap_bytes() + lock(&self.ledger).heap_bytes();
        self.holding.set(bytes as u64);
    }

    fn bytes(&self) -> u64 {
        self.holding.bytes()
    }

    /// The most bytes that the history may take now: its share, less of it from level 1 on.
    fn target(&self) -> u64 {
        let cap = self.holding.cap();
        match self.holding.memory().level() {
            Level::Calm => cap,
            Level::Caches => cap.min(self.holding.memory().max().unwrap_or(u64::MAX)) / 2,
            Level::Samples => cap / 4,
            Level::Series => cap / 8,
            Level::Events => 0,
        }
    }

    /// Bytes that may still be taken.
    pub(super) fn left(&self) -> u64 {
        self.target().saturating_sub(self.bytes())
    }

    /// New series that find room in an interval. What others have of the past gives way for them, but not all of it.
    fn room(&self, step: usize) -> usize {
        let target = self.target();
        let most = if step < CROWDED_STEP { target.saturating_add(target / 8) } else { target / 16 * 15 };
        usize::try_from(most.saturating_sub(self.bytes()) / NEW_BYTES).unwrap_or(usize::MAX)
    }

    /// Gives way until there is no more than there may be, heat maps before all else.
    pub(super) fn make_room(&self, writer: &mut Writer) {
        if self.bytes() > self.target() {
            let gone = self.cool(|_| true);
            self.counts.given_up.fetch_add(gone as u64, Ordering::Relaxed);
            self.measure(writer);
        }
        if self.bytes() > self.target() && writer.step >= PASSING_STEP {
            // Names that came since may have stopped already: then nobody else gives more.
            self.sweep(writer);
        }
        while self.bytes() > self.target() && (writer.step < LAST_STEP) {
            self.holding.memory().note_reached(crate::memory::Holder::History);
            writer.step += 1;
            self.sweep(writer);
        }
    }

    /// Gives way where memory is short, between two intervals.
    pub(super) fn give_way(&self) {
        let mut writer = lock(&self.writer);
        if !writer.is_recording {
            self.make_room(&mut writer);
        }
    }
}

impl Shared {
    fn record_points(&self, writer: &mut Writer, snapshot: &Snapshot, at: At, fresh: &mut Vec<(u32, Series)>) {
        let rate = |series: &Series, value: f64| kept(snapshot.rate(series, value));
        let plain = |rate: f32| Extra { rate, fingerprint: 0, is_exact: true, percentiles: &[] };
        let counter = |point: &CounterPoint, row: &mut Vec<f32>| {
            let value = point.sum.value();
            row.push(kept(value));
            plain(rate(&point.series, value))
        };
        let mut of = |kind: usize, writer: &mut Writer, series: &mut dyn Iterator<Item = &Series>| {
            self.ids(writer, kind, series, snapshot, at, fresh)
        };
        let ids = of(0, writer, &mut snapshot.counters.iter().map(|point| &point.series));
        self.take(&ids, &snapshot.counters, at, |point| &point.series, counter);
        writer.order[0] = placed(ids);
        let gauge = |point: &GaugePoint, row: &mut Vec<f32>| {
            let value = point.gauge.value();
            row.push(kept(value));
            let bits = value.to_bits() ^ point.gauge.set_at().map_or(0, |at| at.to_bits().rotate_left(17));
            Extra { fingerprint: (bits ^ (bits >> 32)) as u32 | 1, ..plain(f32::NAN) }
        };
        let ids = of(1, writer, &mut snapshot.gauges.iter().map(|point| &point.series));
        self.take(&ids, &snapshot.gauges, at, |point| &point.series, gauge);
        writer.order[1] = placed(ids);
        let timer = |point: &TimerPoint, row: &mut Vec<f32>| {
            let own = snapshot.overrides.of(&point.series).and_then(|own| own.percentiles.as_deref());
            let percentiles = own.unwrap_or(&snapshot.policy.percentiles);
            let s = snapshot.summary(point);
            row.extend([s.count, s.sum, s.min, s.max, s.median].map(kept));
            for percentile in percentiles {
                let known = s.percentiles.iter().find(|known| known.percentile == *percentile);
                row.push(known.map_or(f32::NAN, |known| kept(known.value)));
            }
            Extra { is_exact: s.exact, percentiles, ..plain(rate(&point.series, s.count)) }
        };
        let ids = of(2, writer, &mut snapshot.timers.iter().map(|point| &point.series));
        self.take(&ids, &snapshot.timers, at, |point| &point.series, timer);
        self.heat(&ids, snapshot, at, &writer.axis);
        writer.order[2] = placed(ids);
        let set = |point: &SetPoint, row: &mut Vec<f32>| {
            row.push(kept(point.members.count()));
            plain(f32::NAN)
        };
        let ids = of(3, writer, &mut snapshot.sets.iter().map(|point| &point.series));
        self.take(&ids, &snapshot.sets, at, |point| &point.series, set);
        writer.order[3] = placed(ids);
        let kv = |point: &KvPoint, row: &mut Vec<f32>| {
            row.push(point.values.last().map_or(f32::NAN, |value| kept(*value)));
            plain(rate(&point.series, point.values.len() as f64))
        };
        let ids = of(4, writer, &mut snapshot.kvs.iter().map(|point| &point.series));
        self.take(&ids, &snapshot.kvs, at, |point| &point.series, kv);
        writer.order[4] = placed(ids);
    }

    /// Ids of series in the order of an interval's points, each with where its key is, which the index holds; new ones are put in. An id of one that
    /// found no room is `u32::MAX`.
    fn ids(
        &self,
        writer: &mut Writer,
        kind: usize,
        points: &mut dyn Iterator<Item = &Series>,
        snapshot: &Snapshot,
        at: At,
        fresh: &mut Vec<(u32, Series)>,
    ) -> Vec<(usize, u32)> {
        // Most series come in the order of the last interval.
        const AHEAD: usize = 4;
        let order = std::mem::take(&mut writer.order[kind]);
        let (mut next, mut ids) = (0, Vec::with_capacity(order.len()));
        let mut new: Vec<(usize, Series)> = Vec::new();
        for series in points {
            let key = series.key().as_ptr() as usize;
            let ahead = order.iter().skip(next).take(AHEAD).position(|(known, _)| *known == key);
            let id = match ahead {
                Some(ahead) => {
                    next += ahead + 1;
                    order[next - 1].1
                }
                None => self.store.index.find_and_share(series).unwrap_or(u32::MAX),
            };
            if id == u32::MAX {
                new.push((ids.len(), series.clone()));
            }
            ids.push((key, id));
        }
        self.insert(writer, new, &mut ids, snapshot, at, fresh);
        ids
    }

    fn insert(
        &self,
        writer: &mut Writer,
        mut new: Vec<(usize, Series)>,
        ids: &mut [(usize, u32)],
        snapshot: &Snapshot,
        at: At,
        fresh: &mut Vec<(u32, Series)>,
    ) {
        let most = self.room(writer.step);
        if new.len() > most {
            self.counts.refused.fetch_add((new.len() - most) as u64, Ordering::Relaxed);
            new.truncate(most);
        }
        if new.is_empty() {
            return;
        }
        let more = new.len().saturating_sub(writer.free.len()) as u32;
        self.store.reserve(writer.next_id + more);
        let cells = self.store.cells();
        for (n, series) in new {
            let id = writer.free.pop().unwrap_or_else(|| {
                writer.next_id += 1;
                writer.next_id - 1
            });
            ids[n].1 = id;
            let is_timer = super::store::is_timer(series.kind());
            let own = snapshot.overrides.of(&series);
            let percentiles = own.and_then(|own| own.percentiles.as_deref()).unwrap_or(&snapshot.policy.percentiles);
            let percentiles = if is_timer { percentiles.to_vec() } else { Vec::new() };
            let every = own.map_or(1, |own| own.every).max(1);
            let entry = Entry {
                layout: self.store.layout(Layout { percentiles, is_timer, every }),
                is_exact: true,
                owns_key: false,
                first_seen: at.end,
                last_seen: at.end,
                last: at.number,
                shown: f32::NAN,
                usual: f32::NAN,
                fingerprint: 0,
                looked: 0,
                given_up: 0,
                track: Track::default(),
                heat: None,
                series: series.clone(),
            };
            self.counts.series.fetch_add(1, Ordering::Relaxed);
            self.counts.own.fetch_add(u64::from(self.is_own(&series)), Ordering::Relaxed);
            self.store.insert(&cells, id, entry);
            fresh.push((id, series));
        }
    }

    /// Takes in the rows of points, a few of a cell at a time.
    fn take<'a, P>(
        &self,
        ids: &[(usize, u32)],
        points: &'a [P],
        at: At,
        series: impl Fn(&P) -> &Series,
        row: impl Fn(&'a P, &mut Vec<f32>) -> Extra<'a>,
    ) {
        let (cells, mut layouts) = (self.store.cells(), self.store.layouts());
        let (mut rows, mut extras) = (Vec::new(), Vec::new());
        let mut from = 0;
        while from < ids.len() {
            let cell = place_of(ids[from].1).0;
            let same = ids[from..].iter().take(BATCH).take_while(|(_, id)| place_of(*id).0 == cell).count();
            let range = from..from + same;
            from += same;
            let Some(cell) = cells.get(cell) else { continue };
            rows.clear();
            extras.clear();
            for point in &points[range.clone()] {
                let start = rows.len();
                let own = row(point, &mut rows);
                extras.push((start, own));
            }
            let mut entries = lock(&cell.entries);
            for (n, point) in range.enumerate() {
                let place = place_of(ids[point].1).1;
                let end = extras.get(n + 1).map_or(rows.len(), |(start, _)| *start);
                let Some(entry) = entries.at(place) else { continue };
                let series = series(&points[point]);
                debug_assert!(entry.series == *series);
                if !entry.series.is_same(series) {
                    entry.series = series.clone();
                }
                let (before, track) = (entry.heap_bytes(), place);
                if layouts[usize::from(entry.layout)].percentiles != extras[n].1.percentiles {
                    self.begin_series_anew(entry, &mut layouts, extras[n].1.percentiles);
                }
                let layout = &layouts[usize::from(entry.layout)];
                let row = &rows[extras[n].0..end];
                if row.len() != layout.shape().width {
                    continue;
                }
                put(entry, cell, track, layout, row, extras[n].1, at);
                let after = entry.heap_bytes();
                entries.bytes = (entries.bytes + after).saturating_sub(before);
            }
        }
    }

    /// Other percentiles are configured for a timer than it has rows of: these leave.
    fn begin_series_anew(&self, entry: &mut Entry, layouts: &mut Arc<Vec<Layout>>, percentiles: &[f64]) {
        let percentiles = percentiles.to_vec();
        entry.layout = self.store.layout(Layout { percentiles, ..layouts[usize::from(entry.layout)].clone() });
        (entry.track, entry.shown, entry.usual) = (Track::default(), f32::NAN, f32::NAN);
        *layouts = self.store.layouts();
    }

    /// Adds histograms of the timers that somebody looks at.
    fn heat(&self, ids: &[(usize, u32)], snapshot: &Snapshot, at: At, axis: &Axis) {
        if lock(&self.heated).is_empty() {
            return;
        }
        let cells = self.store.cells();
        for ((_, id), point) in ids.iter().zip(&snapshot.timers) {
            let (cell, place) = place_of(*id);
            let Some(cell) = cells.get(cell) else { continue };
            let mut entries = lock(&cell.entries);
            let Some(heat) = entries.at(place).and_then(|entry| entry.heat.as_mut()) else { continue };
            let before = heat.heap_bytes();
            heat.push(at.number, &snapshot.values(point), axis.base);
            let after = heat.heap_bytes();
            entries.bytes = (entries.bytes + after).saturating_sub(before);
        }
    }

    /// Whether it is one of the daemon's own.
    pub(super) fn is_own(&self, series: &Series) -> bool {
        // As a search, which knows no case.
        let [name, own] = [series.name(), &self.options.own_prefix].map(str::to_ascii_lowercase);
        super::search::is_own(name.as_bytes(), own.as_bytes())
    }
}

/// Those that have an id.
fn placed(mut ids: Vec<(usize, u32)>) -> Vec<(usize, u32)> {
    ids.retain(|(_, id)| *id != u32::MAX);
    ids
}

/// Takes in the row of a series.
fn put(entry: &mut Entry, cell: &Cell, place: usize, layout: &Layout, row: &[f32], extras: Extra<'_>, at: At) {
    let is_gauge = entry.series.kind() == Kind::Gauge;
    let is_updated = !is_gauge || extras.fingerprint != entry.fingerprint;
    entry.fingerprint = extras.fingerprint;
    entry.track.push(at.block, at.place, row, is_updated);
    (entry.last, entry.last_seen, entry.is_exact) = (at.number, at.end, extras.is_exact);
    entry.shown = if super::store::is_counter(entry.series.kind()) { extras.rate } else { row[layout.shown()] };
    let apart = (entry.shown - entry.usual).abs() / entry.usual.abs().max(f32::MIN_POSITIVE);
    let change = if apart.is_nan() { 0.0 } else { apart.min(MOST_CHANGE) };
    if entry.usual.is_nan() {
        entry.usual = entry.shown;
    } else if !entry.shown.is_nan() {
        entry.usual += (entry.shown - entry.usual) * NOVELTY;
    }
    // Numbers on their own, for who sorts by them.
    cell.change[place].store(change.to_bits(), Ordering::Relaxed);
    cell.rate[place].store(if extras.rate > 0.0 { extras.rate.to_bits() } else { 0 }, Ordering::Relaxed);
    cell.last[place].store((at.number + u64::from(layout.every) - 1) as u32, Ordering::Relaxed);
}
