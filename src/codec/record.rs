//! Snapshots as JSON Lines: one schema for files, consoles, pipes, `replay` and the API.
//!
//! ```json
//! {"time":1700000010.0,"interval":10.0,"type":"counter","name":"api.hits","tags":{"route":"/a"},"value":42.0,"rate":4.2}
//! {"time":1700000010.0,"interval":10.0,"type":"gauge","name":"pool.size","tags":{},"value":17.0}
//! {"time":1700000010.0,"interval":10.0,"type":"timer","name":"t","tags":{},"count":3.0,"samples":3,"sum":60.0,"sum_squares":1400.0,"min":10.0,"max":30.0,"mean":20.0,"median":20.0,"stddev":8.16,"rate":0.3,"percentiles":{"90":30.0},"exact":true}
//! {"time":1700000010.0,"interval":10.0,"type":"set","name":"users","tags":{},"value":1234.0,"exact":true}
//! {"time":1700000010.0,"type":"event","title":"…","text":"…","tags":{}}
//! {"time":1700000010.0,"type":"service_check","name":"…","status":0,"tags":{}}
//! {"time":1700000010.0,"type":"presence","kind":"instance","service":"pay","instance":"a","from":"up","to":"late","reason":"missed_beat","notify":false}
//! {"time":1700000010.0,"interval":10.0,"type":"ledger"}
//! ```
//! Characters that act on a terminal are escaped, so it is safe to look at a file of records.

use std::collections::BTreeMap;
use std::io;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::ser::{CompactFormatter, Formatter};

use crate::aggregate::{EventOrCheck, EventOrCheckBody, TimestampedSample};
use crate::memory::vec_footprint;
use crate::presence::{Event, UnixTime};
use crate::protocol::{Cardinality, Kind};
use crate::series::Series;
use crate::snapshot::{Percentile, Point, Snapshot, TimerPoint, number};
use crate::telemetry::{ManagementAccount, PresenceAccount};
use crate::untrusted::is_active;

/// The type of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum RecordType {
    /// `counter`
    Counter,
    /// `gauge`
    Gauge,
    /// `timer`
    Timer,
    /// `histogram`
    Histogram,
    /// `distribution`
    Distribution,
    /// `set`
    Set,
    /// `kv`
    Kv,
    /// `event`
    Event,
    /// `service_check`
    ServiceCheck,
    /// `presence`
    Presence,
    /// `ledger`
    Ledger,
}

impl RecordType {
    /// Every type with its name.
    pub const NAMES: [(RecordType, &'static str); 11] = [
        (RecordType::Counter, "counter"),
        (RecordType::Gauge, "gauge"),
        (RecordType::Timer, "timer"),
        (RecordType::Histogram, "histogram"),
        (RecordType::Distribution, "distribution"),
        (RecordType::Set, "set"),
        (RecordType::Kv, "kv"),
        (RecordType::Event, "event"),
        (RecordType::ServiceCheck, "service_check"),
        (RecordType::Presence, "presence"),
        (RecordType::Ledger, "ledger"),
    ];

    /// The type of a name.
    pub fn from_name(name: &str) -> Option<RecordType> {
        Self::NAMES.iter().find(|(_, known)| *known == name).map(|(kind, _)| *kind)
    }

    /// The value of `type`.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(known, _)| *known == self).map_or("", |(_, name)| name)
    }

    /// The type of records of a kind of series.
    pub fn of(kind: Kind) -> RecordType {
        match kind {
            Kind::Counter | Kind::Meter => RecordType::Counter,
            Kind::Gauge => RecordType::Gauge,
            Kind::Timer => RecordType::Timer,
            Kind::Histogram => RecordType::Histogram,
            Kind::Distribution => RecordType::Distribution,
            Kind::Set => RecordType::Set,
            Kind::Kv => RecordType::Kv,
        }
    }
}

/// Bytes of a part in which records are written.
const PART_BYTES: usize = 256 << 10;

/// Which records of a snapshot to write, and how.
#[derive(Clone, Debug)]
pub struct Records {
    /// Types to write; `None` is all.
    pub only: Option<Vec<RecordType>>,
    /// Sort by type, name, tags.
    pub sorted: bool,
    /// Write the ledger as a record of its own, last.
    pub ledger: bool,
}

impl Records {
    /// Everything, unsorted: what files and pipes get.
    pub const ALL: Records = Records { only: None, sorted: false, ledger: true };

    /// Appends the records, one a line.
    pub fn write(&self, snapshot: &Snapshot, out: &mut Vec<u8>) {
        for record in self.outline(snapshot).records(snapshot) {
            write_json(&record, out);
            out.push(b'\n');
        }
    }

    /// Passes the records, one a line, to `visit` in parts of whole lines, of which each is little more than 256 KiB: all
    /// of them together may take more than the snapshot.
    ///
    /// # Errors
    /// The first of `visit`.
    pub fn write_parts(&self, snapshot: &Snapshot, mut visit: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let mut part = Vec::new();
        for record in self.outline(snapshot).records(snapshot) {
            write_json(&record, &mut part);
            part.push(b'\n');
            if part.len() >= PART_BYTES {
                visit(&part)?;
                part.clear();
            }
        }
        if part.is_empty() { Ok(()) } else { visit(&part) }
    }

    /// Passes each record to `visit`, encoded.
    pub fn each(&self, snapshot: &Snapshot, mut visit: impl FnMut(EncodedRecord<'_>)) {
        let mut json = Vec::new();
        for record in self.outline(snapshot).records(snapshot) {
            let kind = record.kind();
            let (time, series) = match &record {
                JsonRecord::Series { point, .. } => (snapshot.end, Some(point.series())),
                JsonRecord::Timestamped(one) => (one.time, Some(&one.series)),
                JsonRecord::EventOrCheck(event) => (event.time, None),
                JsonRecord::Presence(event) => (event.at.as_secs(), None),
                JsonRecord::Ledger(_) => (snapshot.end, None),
            };
            let key = series.map_or_else(|| kind.name().to_string(), Series::to_string);
            let has_interval = matches!(record, JsonRecord::Series { .. } | JsonRecord::Ledger(_));
            json.clear();
            write_json(&record, &mut json);
            visit(EncodedRecord { kind, key: &key, time, has_interval, json: &json });
        }
    }

    /// Appends the records as a JSON array.
    pub fn write_array(&self, snapshot: &Snapshot, out: &mut Vec<u8>) {
        let outline = self.outline(snapshot);
        let mut next = 0;
        while let Some(rest) = outline.write_array_part(snapshot, next, usize::MAX, out) {
            next = rest;
        }
    }

    fn wants(&self, kind: RecordType) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(&kind))
    }

    /// Which records are written, in their order.
    pub(crate) fn outline(&self, snapshot: &Snapshot) -> Outline {
        self.outline_of(snapshot, |_| true)
    }

    /// The same of those alone whose series are wanted; what belongs to none is asked for with `None`.
    pub(crate) fn outline_of(&self, snapshot: &Snapshot, wants: impl Fn(Option<&Series>) -> bool) -> Outline {
        type Make = fn(u32) -> Position;
        let mut positions = Vec::with_capacity(snapshot.len() + 1);
        let mut add = |make: Make, count: usize| positions.extend((0..count as u32).map(make));
        add(Position::Counter, snapshot.counters.len());
        add(Position::Gauge, snapshot.gauges.len());
        add(Position::Timer, snapshot.timers.len());
        add(Position::Set, snapshot.sets.len());
        // Key-value pairs have a record for each value.
        for (point, n) in snapshot.kvs.iter().zip(0..) {
            positions.extend((0..point.values.len() as u32).map(|value| Position::Kv(n, value)));
        }
        let kind_of = |position: &Position| position.record(snapshot).kind();
        positions.retain(|position| {
            (self.only.is_none() || self.wants(kind_of(position))) && wants(position.point(snapshot).map(Point::series))
        });
        if self.sorted {
            positions.sort_by(|a, b| match (a.point(snapshot), b.point(snapshot)) {
                (Some(a), Some(b)) => {
                    let (a, b) = (a.series(), b.series());
                    RecordType::of(a.kind()).cmp(&RecordType::of(b.kind())).then_with(|| a.order(b))
                }
                (a, b) => a.is_none().cmp(&b.is_none()),
            });
        }
        let mut rest: Vec<Position> = (0..snapshot.timestamped.len() as u32).map(Position::Timestamped).collect();
        let events = rest.len();
        rest.extend((0..snapshot.events_and_checks.len() as u32).map(Position::EventOrCheck));
        if self.sorted {
            rest[events..].sort_by_key(kind_of);
        }
        rest.extend((0..snapshot.presence.len() as u32).map(Position::Presence));
        rest.extend(self.ledger.then_some(Position::Ledger));
        let series_of = |position: &Position| match position {
            Position::Timestamped(n) => Some(&snapshot.timestamped[*n as usize].series),
            _ => None,
        };
        let is_wanted = |position: &Position| self.wants(kind_of(position)) && wants(series_of(position));
        positions.extend(rest.into_iter().filter(is_wanted));
        Outline { positions: positions.into() }
    }
}

/// Where a record of a snapshot comes from.
#[derive(Clone, Copy, Debug)]
enum Position {
    Counter(u32),
    Gauge(u32),
    Timer(u32),
    Set(u32),
    /// A point, and one of its values.
    Kv(u32, u32),
    Timestamped(u32),
    EventOrCheck(u32),
    Presence(u32),
    Ledger,
}

impl Position {
    fn point(self, snapshot: &Snapshot) -> Option<Point<'_>> {
        match self {
            Position::Counter(n) => Some(Point::Counter(&snapshot.counters[n as usize])),
            Position::Gauge(n) => Some(Point::Gauge(&snapshot.gauges[n as usize])),
            Position::Timer(n) => Some(Point::Timer(&snapshot.timers[n as usize])),
            Position::Set(n) => Some(Point::Set(&snapshot.sets[n as usize])),
            Position::Kv(n, _) => Some(Point::Kv(&snapshot.kvs[n as usize])),
            Position::Timestamped(_) | Position::EventOrCheck(_) | Position::Presence(_) | Position::Ledger => None,
        }
    }

    fn record(self, snapshot: &Snapshot) -> JsonRecord<'_> {
        if let Some(point) = self.point(snapshot) {
            let value = match (self, point) {
                (Position::Kv(_, value), Point::Kv(point)) => Some(point.values[value as usize]),
                _ => None,
            };
            return JsonRecord::Series { snapshot, point, value };
        }
        match self {
            Position::Timestamped(n) => JsonRecord::Timestamped(&snapshot.timestamped[n as usize]),
            Position::EventOrCheck(n) => JsonRecord::EventOrCheck(&snapshot.events_and_checks[n as usize]),
            Position::Presence(n) => JsonRecord::Presence(&snapshot.presence[n as usize]),
            _ => JsonRecord::Ledger(snapshot),
        }
    }
}

/// The records of a snapshot in their order: places alone, 12 bytes each, so that a long text can be written in parts. Each
/// method is given the snapshot that it was made of.
#[derive(Debug)]
pub(crate) struct Outline {
    positions: Box<[Position]>,
}

impl Outline {
    fn records<'a>(&'a self, snapshot: &'a Snapshot) -> impl Iterator<Item = JsonRecord<'a>> {
        self.positions.iter().map(|position| position.record(snapshot))
    }

    /// The first of them alone.
    pub(crate) fn first(self, count: usize) -> Outline {
        if count >= self.positions.len() {
            return self;
        }
        Outline { positions: self.positions[..count].into() }
    }

    /// Bytes that it takes.
    pub(crate) fn heap_bytes(&self) -> u64 {
        vec_footprint::<Position>(self.positions.len()) as u64
    }

    /// Appends a part of the JSON array of all records: from the `first` on, until the part has `bytes`. The record where the
    /// next part begins; `None` after the last.
    pub(crate) fn write_array_part(
        &self,
        snapshot: &Snapshot,
        first: usize,
        bytes: usize,
        out: &mut Vec<u8>,
    ) -> Option<usize> {
        let end = out.len().saturating_add(bytes);
        if first == 0 {
            out.push(b'[');
        }
        for (n, position) in self.positions.iter().enumerate().skip(first) {
            if n > first && out.len() >= end {
                return Some(n);
            }
            if n > 0 {
                out.extend_from_slice(b",\n");
            }
            write_json(&position.record(snapshot), out);
        }
        out.push(b']');
        None
    }
}

/// One record of a snapshot as JSON, with what identifies it at a receiver.
#[derive(Clone, Copy, Debug)]
pub struct EncodedRecord<'a> {
    /// Its type.
    pub kind: RecordType,
    /// The series, or the name of its type.
    pub key: &'a str,
    /// When, Unix seconds.
    pub time: f64,
    /// Whether it sums up an interval. A record with its own timestamp may share time, type and key with others.
    pub has_interval: bool,
    /// A JSON object on one line.
    pub json: &'a [u8],
}

/// An event, a service check or a change of presence, for receivers that store such beside numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// When, Unix seconds.
    pub time: f64,
    /// `event`, `service_check` or `presence`.
    pub kind: &'static str,
    /// The title of an event, the name of a check, the service of a change.
    pub name: String,
    /// The whole record, as JSON.
    pub record: String,
}

/// All records of a snapshot.
pub fn records(snapshot: &Snapshot) -> Vec<Record> {
    let record_of = |time: f64, kind: RecordType, name: &str, record: JsonRecord<'_>| {
        let mut json = Vec::new();
        write_json(&record, &mut json);
        let record = String::from_utf8_lossy(&json).into_owned();
        Record { time, kind: kind.name(), name: name.to_string(), record }
    };
    let events = snapshot.events_and_checks.iter().map(|event| {
        let name = match &event.body {
            EventOrCheckBody::Event { title, .. } => title,
            EventOrCheckBody::ServiceCheck { name, .. } => name,
        };
        record_of(event.time, event_type(event), name, JsonRecord::EventOrCheck(event))
    });
    let presence = snapshot.presence.iter().map(|event| {
        let service = event.service.as_deref().unwrap_or("");
        record_of(event.at.as_secs(), RecordType::Presence, service, JsonRecord::Presence(event))
    });
    events.chain(presence).collect()
}

fn event_type(event: &EventOrCheck) -> RecordType {
    match event.body {
        EventOrCheckBody::Event { .. } => RecordType::Event,
        EventOrCheckBody::ServiceCheck { .. } => RecordType::ServiceCheck,
    }
}

enum JsonRecord<'a> {
    /// A point, or one value of key-value pairs.
    Series {
        snapshot: &'a Snapshot,
        point: Point<'a>,
        value: Option<f64>,
    },
    Timestamped(&'a TimestampedSample),
    EventOrCheck(&'a EventOrCheck),
    Presence(&'a Event),
    Ledger(&'a Snapshot),
}

#[derive(Serialize)]
struct PresenceRecord<'a> {
    time: UnixTime,
    r#type: &'static str,
    #[serde(flatten)]
    event: &'a Event,
}

impl JsonRecord<'_> {
    fn kind(&self) -> RecordType {
        match self {
            JsonRecord::Series { point, .. } => RecordType::of(point.series().kind()),
            JsonRecord::Timestamped(one) => RecordType::of(one.series.kind()),
            JsonRecord::EventOrCheck(event) => event_type(event),
            JsonRecord::Presence(_) => RecordType::Presence,
            JsonRecord::Ledger(_) => RecordType::Ledger,
        }
    }
}

impl Serialize for JsonRecord<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let JsonRecord::Presence(event) = self {
            let record = PresenceRecord { time: event.at, r#type: RecordType::Presence.name(), event };
            return record.serialize(serializer);
        }
        let mut map = serializer.serialize_map(None)?;
        match self {
            // It was written above.
            JsonRecord::Presence(_) => {}
            JsonRecord::Series { snapshot, point, value } => write_point(snapshot, *point, *value, &mut map)?,
            // It has its own timestamp and no interval.
            JsonRecord::Timestamped(one) => {
                map.serialize_entry("time", &one.time)?;
                map.serialize_entry("type", RecordType::of(one.series.kind()).name())?;
                map.serialize_entry("name", one.series.name())?;
                map.serialize_entry("tags", &Tags(one.series.tags()))?;
                map.serialize_entry("value", &one.value)?;
            }
            JsonRecord::EventOrCheck(event) => {
                map.serialize_entry("time", &event.time)?;
                map.serialize_entry("type", event_type(event).name())?;
                write_event(event, &mut map)?;
            }
            JsonRecord::Ledger(snapshot) => write_ledger(snapshot, &mut map)?,
        }
        map.end()
    }
}

fn write_point<M: SerializeMap>(
    snapshot: &Snapshot,
    point: Point<'_>,
    value: Option<f64>,
    map: &mut M,
) -> Result<(), M::Error> {
    let series = point.series();
    map.serialize_entry("time", &snapshot.end)?;
    map.serialize_entry("interval", &snapshot.interval_secs_of(series))?;
    map.serialize_entry("type", RecordType::of(series.kind()).name())?;
    map.serialize_entry("name", series.name())?;
    map.serialize_entry("tags", &Tags(series.tags()))?;
    match (point, value) {
        (_, Some(value)) => map.serialize_entry("value", &value),
        (Point::Timer(point), None) => write_timer(snapshot, point, map),
        (point, None) => {
            for (aggregate, value) in snapshot.aggregates(point) {
                map.serialize_entry(&*aggregate.name(), &value)?;
            }
            if let Point::Set(point) = point {
                map.serialize_entry("exact", &point.members.is_exact())?;
            }
            Ok(())
        }
    }
}

/// A timer has numbers that only records have, and percentiles and buckets are objects.
fn write_timer<M: SerializeMap>(snapshot: &Snapshot, point: &TimerPoint, map: &mut M) -> Result<(), M::Error> {
    let summary = snapshot.summary(point);
    map.serialize_entry("count", &summary.count)?;
    map.serialize_entry("samples", &summary.samples)?;
    map.serialize_entry("sum", &summary.sum)?;
    map.serialize_entry("sum_squares", &summary.sum_squares)?;
    map.serialize_entry("min", &summary.min)?;
    map.serialize_entry("max", &summary.max)?;
    map.serialize_entry("mean", &summary.mean)?;
    map.serialize_entry("median", &summary.median)?;
    map.serialize_entry("stddev", &summary.stddev)?;
    map.serialize_entry("rate", &snapshot.rate(&point.series, point.timer.count()))?;
    map.serialize_entry("percentiles", &Percentiles(&summary.percentiles))?;
    if !summary.buckets.is_empty() {
        map.serialize_entry("buckets", &Buckets(&summary.buckets))?;
    }
    map.serialize_entry("exact", &summary.exact)
}

fn write_ledger<M: SerializeMap>(snapshot: &Snapshot, map: &mut M) -> Result<(), M::Error> {
    map.serialize_entry("time", &snapshot.end)?;
    map.serialize_entry("interval", &snapshot.interval_secs)?;
    map.serialize_entry("type", RecordType::Ledger.name())?;
    let ledger = &snapshot.ledger;
    map.serialize_entry("listeners", &ledger.listeners)?;
    map.serialize_entry("lines", &ledger.lines)?;
    map.serialize_entry("samples", &ledger.samples)?;
    map.serialize_entry("series", &ledger.series)?;
    map.serialize_entry("sinks", &ledger.sinks)?;
    if !ledger.relays.is_empty() {
        map.serialize_entry("relays", &ledger.relays)?;
    }
    if !ledger.notify.is_empty() {
        map.serialize_entry("notify", &ledger.notify)?;
    }
    map.serialize_entry("log", &ledger.log)?;
    if let Some(capture) = &ledger.capture {
        map.serialize_entry("capture", capture)?;
    }
    if ledger.presence != PresenceAccount::default() {
        map.serialize_entry("presence", &ledger.presence)?;
    }
    if ledger.management != ManagementAccount::default() {
        map.serialize_entry("management", &ledger.management)?;
    }
    let history = &ledger.history;
    if history.intervals_missed + history.given_up + history.points_refused + history.begun_anew > 0 {
        map.serialize_entry("history", history)?;
    }
    let state: BTreeMap<_, _> =
        ledger.state.iter().filter(|(_, part)| part.failures + part.discarded.total() > 0).collect();
    if !state.is_empty() {
        map.serialize_entry("state", &state)?;
    }
    // Those that always worked say nothing.
    let troubled: BTreeMap<_, _> = ledger.parts.iter().filter(|(_, part)| !part.up || part.restarts > 0).collect();
    if !troubled.is_empty() {
        map.serialize_entry("parts", &troubled)?;
    }
    if let Some(cluster) = &ledger.cluster {
        map.serialize_entry("cluster", cluster)?;
    }
    map.serialize_entry("flush", &ledger.flush)?;
    map.serialize_entry("unclean_stop", &ledger.unclean_stop)?;
    map.serialize_entry("completeness", &ledger.completeness)
}

/// An event or a service check without its time and type.
fn write_event<M: SerializeMap>(event: &EventOrCheck, map: &mut M) -> Result<(), M::Error> {
    fn optional<M: SerializeMap>(map: &mut M, key: &str, value: Option<&str>) -> Result<(), M::Error> {
        value.map_or(Ok(()), |value| map.serialize_entry(key, value))
    }
    match &event.body {
        EventOrCheckBody::Event { title, text, priority, alert_type, aggregation_key, source_type } => {
            map.serialize_entry("title", title)?;
            map.serialize_entry("text", text)?;
            map.serialize_entry("priority", priority)?;
            map.serialize_entry("alert_type", alert_type)?;
            optional(map, "aggregation_key", aggregation_key.as_deref())?;
            optional(map, "source_type", source_type.as_deref())?;
        }
        EventOrCheckBody::ServiceCheck { name, status, message } => {
            map.serialize_entry("name", name)?;
            map.serialize_entry("status", status)?;
            optional(map, "message", message.as_deref())?;
        }
    }
    map.serialize_entry("tags", &Tags(event.tags.iter()))?;
    optional(map, "host", event.host.as_deref())?;
    optional(map, "container", event.container.as_deref())?;
    optional(map, "external_data", event.external_data.as_deref())?;
    optional(map, "cardinality", event.cardinality.map(Cardinality::as_str))
}

/// An event or a service check as its record has it, without time and type: what `explain` shows of a line.
#[derive(Clone, Copy, Debug)]
pub struct EventFields<'a>(pub &'a EventOrCheck);

impl Serialize for EventFields<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        write_event(self.0, &mut map)?;
        map.end()
    }
}

/// Tags as an object: `null` without a value, an array for a key with several values.
#[derive(Clone, Copy, Debug)]
pub struct Tags<I>(pub I);

impl<'a, I: Iterator<Item = (&'a str, Option<&'a str>)> + Clone> Serialize for Tags<I> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        let mut rest = self.0.clone().peekable();
        while let Some((key, value)) = rest.next() {
            let mut values = vec![value];
            while let Some((_, value)) = rest.next_if(|(next, _)| *next == key) {
                values.push(value);
            }
            match values.as_slice() {
                [one] => map.serialize_entry(key, one)?,
                several => map.serialize_entry(key, several)?,
            }
        }
        map.end()
    }
}

/// A series' tags as JSON: `null` without a value, an array for a key with several values.
pub fn json_tags(series: &Series) -> String {
    let mut json = Vec::new();
    write_json(&Tags(series.tags()), &mut json);
    String::from_utf8_lossy(&json).into_owned()
}

struct Percentiles<'a>(&'a [Percentile]);

impl Serialize for Percentiles<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|p| (number(p.percentile), p.value)))
    }
}

struct Buckets<'a>(&'a [(Option<f64>, f64)]);

impl Serialize for Buckets<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(bound, count)| (bound.map_or("+Inf".into(), number), count)))
    }
}

/// Appends the record of an interval's ledger.
pub fn write_ledger_record(snapshot: &Snapshot, out: &mut Vec<u8>) {
    write_json(&JsonRecord::Ledger(snapshot), out);
}

/// Appends compact JSON in which no character acts on a terminal.
pub fn write_json<T: Serialize>(value: &T, out: &mut Vec<u8>) {
    let mut serializer = serde_json::Serializer::with_formatter(out, EscapingFormatter(CompactFormatter));
    let written = value.serialize(&mut serializer);
    debug_assert!(written.is_ok(), "writing to memory cannot fail, and every key is text");
}

struct EscapingFormatter(CompactFormatter);

impl Formatter for EscapingFormatter {
    fn write_string_fragment<W: io::Write + ?Sized>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        if fragment.is_ascii() && !fragment.contains('\u{7f}') {
            return self.0.write_string_fragment(writer, fragment);
        }
        let mut units = [0; 2];
        for c in fragment.chars() {
            if is_active(c) {
                for unit in c.encode_utf16(&mut units) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            } else {
                write!(writer, "{c}")?;
            }
        }
        Ok(())
    }
}
