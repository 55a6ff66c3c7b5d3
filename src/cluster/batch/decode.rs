//! Reads batches, whoever wrote them, and merges them. What a message makes a reader allocate is bounded by
//! [`MAX_PLAIN_BYTES`] and [`MAX_HELD_BYTES`], and by one record beyond them.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Deserialize;

use crate::aggregate::rules::{NO_RULE, Rules};
use crate::aggregate::{Class, EventOrCheck, Levels, TimestampedSample, class_of};
use crate::protocol::{Kind, Name, Tag};
use crate::series::{KeyBuilder, Series};
use crate::snapshot::{self, CounterPoint, GaugePoint, KvPoint, SetPoint, Snapshot, SummaryPolicy, TimerPoint};

use super::deflate::inflate;
use super::{
    BatchError, BatchHeader, EVENT_OR_CHECK, MAX_HELD_BYTES, MAX_NAME_BYTES, MAX_PLAIN_BYTES, RULE, RecordClass, TAG,
    VALUE,
};

/// Longest text of a series, in bytes.
const MAX_TEXT: usize = u16::MAX as usize - 1;

/// Bytes that a point takes in its vector, about.
const POINT: usize = 48;

/// A batch that was read.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Its header.
    pub header: BatchHeader,
    /// Its points, events and checks, the rules of its series, and the edge's ledger if it has one; all else is empty.
    pub content: Snapshot,
    /// Why the edge's ledger could not be read.
    pub ledger_error: Option<String>,
}

impl Batch {
    /// Reads a message, whose rules are these.
    ///
    /// # Errors
    /// If this version can't read it. A ledger that can't be read is no error: the points are there without it.
    pub fn decode(message: &[u8], rules: Option<&Arc<Rules>>) -> Result<Batch, BatchError> {
        let (header, body) = BatchHeader::decode(message)?;
        let mut content = content(body, rules)?;
        let mut ledger_error = None;
        match header.account.as_ref().map_or(Ok(None), |account| account.ledger()) {
            Ok(ledger) => content.ledger = ledger.unwrap_or_default(),
            Err(error) => ledger_error = Some(error.to_string()),
        }
        Ok(Batch { header, content, ledger_error })
    }
}

/// Merges the batches of one interval and partition in the order of edge, boot and number, whatever order they come in.
/// The interval's end is for the caller to fill in.
pub fn merge(mut batches: Vec<Batch>, policy: &Arc<SummaryPolicy>) -> Snapshot {
    let id = |batch: &Batch| (batch.header.edge.clone(), batch.header.boot, batch.header.n);
    batches.sort_by_cached_key(id);
    let length = batches.iter().map(|batch| batch.header.length).fold(0.0, f64::max);
    let interval = batches.first().map_or(0, |batch| batch.header.interval);
    let mut merged = merge_contents(batches.into_iter().map(|batch| batch.content).collect(), policy);
    merged.sequence = interval;
    (merged.interval_secs, merged.rate_secs) = (length, length);
    merged
}

/// Merges what was read from bodies, in the order in which it comes. The points of the result are sorted.
pub fn merge_contents(mut contents: Vec<Snapshot>, policy: &Arc<SummaryPolicy>) -> Snapshot {
    if contents.is_empty() {
        contents.push(Snapshot::default());
    }
    // The first says how timers are merged.
    contents[0].policy = Arc::clone(policy);
    let mut merged = snapshot::merge(&contents.iter().collect::<Vec<_>>());
    merged.sort();
    merged
}

/// Reads a body, whose rules are these.
///
/// # Errors
/// If this version can't read it, or these are not its rules.
pub fn content(body: &[u8], rules: Option<&Arc<Rules>>) -> Result<Snapshot, BatchError> {
    let plain = inflate(body, MAX_PLAIN_BYTES).map_err(|reason| BatchError::Inflate { part: "body", reason })?;
    let mut reader = Reader { rules: rules.map(|rules| &**rules), ..Reader::default() };
    let (mut rest, mut record) = (&plain[..], 0);
    while !rest.is_empty() {
        let at = plain.len() - rest.len();
        reader.record(&mut rest).map_err(|reason| BatchError::Record { record, at, reason })?;
        record += 1;
    }
    let Reader { mut content, of, .. } = reader;
    (content.overrides.rules, content.overrides.of) = (rules.cloned(), Arc::new(of));
    Ok(content)
}

/// Reads records.
#[derive(Default)]
struct Reader<'a> {
    content: Snapshot,
    rules: Option<&'a Rules>,
    /// The numbers of the rules of the series.
    of: HashMap<Series, u32>,
    /// The name of the last record.
    name: Vec<u8>,
    keys: KeyBuilder,
    last: Option<(Series, RecordClass)>,
    held: usize,
}

/// Takes a value off the front of some bytes.
fn take<'a, T: Deserialize<'a>>(what: &str, rest: &mut &'a [u8]) -> Result<T, String> {
    let (value, after) = postcard::take_from_bytes(rest)
        .map_err(|error| format!("{what}: {}", error.to_string().trim_end_matches('.')))?;
    *rest = after;
    Ok(value)
}

impl Reader<'_> {
    fn record(&mut self, rest: &mut &[u8]) -> Result<(), String> {
        let head: u8 = take("kind", rest)?;
        if head == EVENT_OR_CHECK {
            let event: EventOrCheck = take("event or check", rest)?;
            self.hold(size_of::<EventOrCheck>() + event.heap_bytes())?;
            self.content.events_and_checks.push(event);
            return Ok(());
        }
        let kind = Kind::ALL[usize::from(head & 7)];
        let bits = (head & !RULE) >> 3;
        let class = RecordClass::ALL.into_iter().find(|class| *class as u8 == bits && is_of(*class, kind));
        let class = class.ok_or_else(|| format!("there is no record of kind {head:#04x}"))?;
        if !self.content.events_and_checks.is_empty() {
            return Err("a series follows an event".into());
        }
        let rule = if head & RULE == 0 { NO_RULE } else { take("rule", rest)? };
        let series = self.series(kind, rest)?;
        if head & RULE != 0 && self.rules.and_then(|rules| rules.overrides(rule)).is_none() {
            let known = self.rules.map_or(0, |rules| rules.all().len());
            return Err(format!("{} has rule {rule}, counted from 0, and there are {known} here", series.id()));
        }
        if let Some((last, last_class)) = &self.last
            && last.order(&series).then(last_class.cmp(&class)).is_gt()
        {
            return Err(format!("{} is not in order", series.id()));
        }
        self.last = Some((series.clone(), class));
        if rule != NO_RULE && class != RecordClass::Timestamped && !self.of.contains_key(&series) {
            self.hold(POINT)?;
            self.of.insert(series.clone(), rule);
        }
        self.value(class, series, rule, rest)
    }

    /// Reads the value of a series.
    fn value(&mut self, class: RecordClass, series: Series, rule: u32, rest: &mut &[u8]) -> Result<(), String> {
        match class {
            RecordClass::Counter => {
                let sum = take("counter", rest)?;
                self.content.counters.push(CounterPoint { series, sum });
            }
            RecordClass::Gauge => {
                let gauge = take("gauge", rest)?;
                self.content.gauges.push(GaugePoint { series, gauge });
            }
            RecordClass::Timer => {
                let point = TimerPoint { series, timer: take("timer", rest)? };
                self.hold(point.timer.heap_bytes())?;
                self.content.timers.push(point);
            }
            RecordClass::Set => {
                let point = SetPoint { series, members: take("set", rest)? };
                self.hold(point.members.heap_bytes())?;
                self.content.sets.push(point);
            }
            RecordClass::Kv => {
                let values: Vec<f64> = take("key-value pair", rest)?;
                self.hold(size_of_val(&values[..]))?;
                match self.content.kvs.last_mut() {
                    Some(point) if point.series == series => point.values.extend(values),
                    _ => self.content.kvs.push(KvPoint { series, values }),
                }
            }
            RecordClass::Timestamped => {
                let (time, value) = take("sample with a timestamp", rest)?;
                self.content.timestamped.push(TimestampedSample { series, time, value, rule });
            }
            RecordClass::Levels => {
                let levels: Levels = take("values of a gauge", rest)?;
                self.hold(POINT)?;
                self.content.overrides.levels.entry(series).or_default().merge(&levels);
            }
            RecordClass::EventOrCheck => unreachable!("no kind of series is of it"),
        }
        Ok(())
    }

    /// Reads the name of a record.
    fn series(&mut self, kind: Kind, rest: &mut &[u8]) -> Result<Series, String> {
        let shared = take::<u32>("name", rest)? as usize;
        let suffix: &[u8] = take("name", rest)?;
        if shared > self.name.len() {
            return Err(format!("a name shares {shared} bytes with one of {}", self.name.len()));
        }
        if shared + suffix.len() > MAX_NAME_BYTES {
            return Err(format!("a name has {} bytes, more than {MAX_NAME_BYTES}", shared + suffix.len()));
        }
        self.name.truncate(shared);
        self.name.extend_from_slice(suffix);
        let mut parts = self.name.split(|&byte| byte == TAG);
        let name = text(parts.next().unwrap_or_default())?;
        let mut last = None;
        for tag in parts.clone().map(tag) {
            text(tag.key)?;
            text(tag.value.unwrap_or_default())?;
            if last >= Some((tag.key, tag.value)) {
                return Err(format!("the tags of {name:?} are not in order"));
            }
            last = Some((tag.key, tag.value));
        }
        let series = Series::from_key(self.keys.build(kind, &Name::plain(name), parts.map(tag)));
        self.hold(POINT + series.heap_bytes())?;
        Ok(series)
    }

    fn hold(&mut self, bytes: usize) -> Result<(), String> {
        self.held += bytes;
        match self.held > MAX_HELD_BYTES {
            true => Err(format!("the points take more than {MAX_HELD_BYTES} bytes of memory")),
            false => Ok(()),
        }
    }
}

/// Whether series of a kind may have such records.
fn is_of(class: RecordClass, kind: Kind) -> bool {
    match class {
        RecordClass::Counter => class_of(kind) == Class::Counter,
        RecordClass::Gauge | RecordClass::Levels => class_of(kind) == Class::Gauge,
        RecordClass::Timer => class_of(kind) == Class::Timer,
        RecordClass::Set => class_of(kind) == Class::Set,
        RecordClass::Kv => class_of(kind) == Class::Kv,
        RecordClass::Timestamped => matches!(class_of(kind), Class::Counter | Class::Gauge),
        RecordClass::EventOrCheck => false,
    }
}

/// A tag of its bytes in a name.
fn tag(bytes: &[u8]) -> Tag<'_> {
    let mut parts = bytes.splitn(2, |&byte| byte == VALUE);
    Tag { key: parts.next().unwrap_or_default(), value: parts.next() }
}

/// A text of a name.
fn text(bytes: &[u8]) -> Result<&str, String> {
    if bytes.len() > MAX_TEXT {
        return Err(format!("a text of a name has {} bytes, more than {MAX_TEXT}", bytes.len()));
    }
    str::from_utf8(bytes).map_err(|error| format!("a text of a name is no UTF-8 after byte {}", error.valid_up_to()))
}
