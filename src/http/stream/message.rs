//! What an interval is made into for those who asked for the same.

use std::collections::HashMap;
use std::sync::Arc;

use crate::codec::{write_json, write_ledger_record};
use crate::journal::Entry;
use crate::series::Series;
use crate::snapshot::{Aggregate, Point, Snapshot};

use super::client::{Position, write_event};
use super::lookup::point_at;
use super::{MOST_MESSAGE, Subscription, Topics};
use crate::http::events::Event;

/// Most bytes of the entries of a message: the rest is for the interval.
const MOST_EVENTS: usize = MOST_MESSAGE / 4;

/// Numbers beyond what history keeps are given as these.
const LARGEST: f64 = f32::MAX as f64;

/// What all messages of an interval have in common.
pub(super) struct Parts {
    /// What happened, as server-sent events, and how many entries found no room.
    events: (Vec<u8>, u64),
    /// The record of the ledger.
    ledger: Vec<u8>,
    /// The verdict, as the status has it; empty if there is none.
    verdict: Vec<u8>,
    /// The id of the message.
    id: Position,
}

/// A message, and how many entries it left out.
pub(super) struct Made {
    pub(super) bytes: Vec<u8>,
    pub(super) missed: u64,
}

/// Entries as server-sent events, the oldest first; of those that do not fit, the newest stay. `before` is the id of the last
/// message before them.
pub(super) fn write_entries(entries: &[Arc<Entry>], before: Position) -> (Vec<u8>, u64) {
    let (mut frames, mut size) = (Vec::new(), 0);
    for entry in entries.iter().rev() {
        let (mut data, mut frame) = (Vec::new(), Vec::new());
        write_json(&Event::of(entry), &mut data);
        write_event(Some(Position { event: entry.number, ..before }), "event", &data, &mut frame);
        size += frame.len();
        if size > MOST_EVENTS {
            break;
        }
        frames.push(frame);
    }
    frames.reverse();
    let missed = (entries.len() - frames.len()) as u64;
    (frames.concat(), missed)
}

impl Parts {
    /// `entries` are those of the interval, oldest first; `before` and `id` are how far clients are before the message and after
    /// it.
    pub(super) fn new(
        snapshot: &Snapshot,
        entries: &[Arc<Entry>],
        verdict: Vec<u8>,
        before: Position,
        id: Position,
    ) -> Parts {
        let mut ledger = Vec::new();
        write_ledger_record(snapshot, &mut ledger);
        Parts { events: write_entries(entries, before), ledger, verdict, id }
    }

    /// The message for a subscription; `None` if there is nothing to say. `places` are where series are in the snapshot.
    pub(super) fn message(
        &self,
        snapshot: &Snapshot,
        subscription: &Subscription,
        places: &HashMap<&Series, usize>,
    ) -> Option<Made> {
        let topics = subscription.topics;
        let mut made = Made { bytes: Vec::new(), missed: 0 };
        if topics.has(Topics::EVENTS) {
            made.bytes.extend_from_slice(&self.events.0);
            made.missed = self.events.1;
        }
        if topics.has(Topics::INTERVAL) || topics.has(Topics::LEDGER) {
            let data = self.interval(snapshot, subscription, places, MOST_MESSAGE - made.bytes.len());
            write_event(Some(self.id), "interval", &data, &mut made.bytes);
        }
        (!made.bytes.is_empty() || made.missed > 0).then_some(made)
    }

    /// The data of an interval, in at most about so many bytes.
    fn interval(
        &self,
        snapshot: &Snapshot,
        subscription: &Subscription,
        places: &HashMap<&Series, usize>,
        room: usize,
    ) -> Vec<u8> {
        /// For what surrounds the parts.
        const FRAME: usize = 512;
        let mut out = Vec::new();
        let completeness = snapshot.ledger.completeness;
        let head = serde_json::json!({
            "time": snapshot.end, "interval": snapshot.interval_secs, "completeness": completeness,
            "sequence": snapshot.sequence,
        });
        write_json(&head, &mut out);
        // What follows goes into the same object.
        out.pop();
        let frame = FRAME + self.verdict.len();
        let has_ledger = subscription.topics.has(Topics::LEDGER) && self.ledger.len() + frame <= room;
        let ledger = if has_ledger { &self.ledger[..] } else { b"" };
        if subscription.topics.has(Topics::INTERVAL) {
            out.extend_from_slice(b",\"series\":{");
            let room = room.saturating_sub(ledger.len() + frame);
            let left_out = write_series(snapshot, &subscription.series, places, room, &mut out);
            out.push(b'}');
            if left_out > 0 {
                out.extend_from_slice(format!(",\"left_out\":{left_out}").as_bytes());
            }
        }
        if !ledger.is_empty() {
            out.extend_from_slice(b",\"ledger\":");
            out.extend_from_slice(ledger);
        }
        if !self.verdict.is_empty() && self.verdict.len() < MOST_MESSAGE / 4 {
            out.extend_from_slice(b",\"verdict\":");
            out.extend_from_slice(&self.verdict);
        }
        out.push(b'}');
        out
    }
}

/// Appends the values of series, with `null` for those that the interval does not have, until `out` has so many bytes; how
/// many did not fit.
fn write_series(
    snapshot: &Snapshot,
    wanted: &[Series],
    places: &HashMap<&Series, usize>,
    room: usize,
    out: &mut Vec<u8>,
) -> usize {
    let mut one = Vec::new();
    for (n, series) in wanted.iter().enumerate() {
        one.clear();
        if n > 0 {
            one.push(b',');
        }
        write_json(&series.id(), &mut one);
        one.push(b':');
        match places.get(series).and_then(|at| point_at(snapshot, series.kind(), *at)) {
            Some(point) => write_json(&values(snapshot, point), &mut one),
            None => one.extend_from_slice(b"null"),
        }
        if out.len() + one.len() > room {
            return wanted.len() - n;
        }
        out.extend_from_slice(&one);
    }
    0
}

/// The numbers of a point by their names; of key-value pairs the last.
fn values(snapshot: &Snapshot, point: Point<'_>) -> serde_json::Map<String, serde_json::Value> {
    let numbers = snapshot.aggregates(point).filter(|(aggregate, _)| !matches!(aggregate, Aggregate::Bucket(_)));
    numbers.map(|(aggregate, value)| (aggregate.name().into_owned(), value.clamp(-LARGEST, LARGEST).into())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::Sum;
    use crate::http::stream::lookup::Lookup;
    use crate::journal::{Journal, Query};
    use crate::protocol::Kind;
    use crate::snapshot::{CounterPoint, KvPoint};

    fn counters(count: usize, value: f64) -> Snapshot {
        let point = |n: usize| {
            let mut sum = Sum::default();
            sum.add(value);
            CounterPoint { series: Series::new(Kind::Counter, &format!("c{n:04}"), &[]), sum }
        };
        Snapshot {
            sequence: 3,
            end: 20.0,
            interval_secs: 10.0,
            rate_secs: 10.0,
            counters: (0..count).map(point).collect(),
            kvs: vec![KvPoint { series: Series::new(Kind::Kv, "k", &[]), values: vec![1.0, 7.0] }],
            ..Snapshot::default()
        }
    }

    fn made(snapshot: &Snapshot, entries: &[Arc<Entry>], topics: Topics, series: Vec<Series>) -> Option<(String, u64)> {
        let id = Position { event: 9, presence: 2, sequence: 3, boot: 1 };
        let subscription = Subscription { topics, series };
        let places = Lookup::default().find(snapshot, subscription.series.iter());
        let made = Parts::new(snapshot, entries, b"{\"level\":\"ok\"}".to_vec(), Position { sequence: 2, ..id }, id)
            .message(snapshot, &subscription, &places)?;
        Some((String::from_utf8(made.bytes).expect("text"), made.missed))
    }

    #[test]
    fn an_interval_has_what_was_asked_for() {
        let snapshot = counters(2, 1e300);
        let series = |kind, name| Series::new(kind, name, &[]);
        let wanted = vec![series(Kind::Counter, "c0001"), series(Kind::Kv, "k"), series(Kind::Set, "gone")];
        let (text, _) = made(&snapshot, &[], Topics::INTERVAL, wanted.clone()).expect("a message");
        let data = text.strip_prefix("id: 9.2.3-1\nevent: interval\ndata: ").and_then(|text| text.strip_suffix("\n\n"));
        let data: serde_json::Value = serde_json::from_str(data.expect("one event")).expect("JSON");
        let largest = data["series"]["counter:c0001"]["value"].as_f64().expect("a number");
        assert!((largest / LARGEST - 1.0).abs() < 1e-12, "{largest}");
        assert_eq!(
            (&data["series"]["kv:k"]["value"], &data["series"]["set:gone"]),
            (&7.0.into(), &serde_json::Value::Null)
        );
        assert_eq!((&data["time"], &data["interval"], &data["sequence"]), (&20.0.into(), &10.0.into(), &3.into()));
        assert!(data.get("ledger").is_none() && data["verdict"]["level"] == "ok", "{data}");
        let (text, _) = made(&snapshot, &[], Topics::LEDGER, wanted).expect("a message");
        assert!(text.contains("\"ledger\":{") && !text.contains("counter:c0001"), "{text}");
        assert!(made(&snapshot, &[], Topics::EVENTS, Vec::new()).is_none());
    }

    #[test]
    fn a_message_is_bounded_and_says_what_it_lacks() {
        let snapshot = counters(100, 1.0);
        let long = "x".repeat(900);
        let series: Vec<Series> = (0..100).map(|n| Series::new(Kind::Set, &format!("{long}{n}"), &[])).collect();
        let journal = Journal::default();
        (0..500).for_each(|n| journal.add_start(f64::from(n), &format!("start {n}"), &long));
        let (mut entries, _) = journal.find(&Query { most: 500, ..Query::default() });
        entries.reverse();
        let (text, missed) = made(&snapshot, &entries, Topics::ALL, series).expect("a message");
        assert!(text.len() <= MOST_MESSAGE, "{}", text.len());
        let shown = text.matches("event: event\n").count() as u64;
        assert!(shown > 5 && shown + missed == 500 && text.contains("start 499"), "{shown} and {missed}");
        assert!(text.contains("\"left_out\":") && text.contains("\"ledger\":{"));
    }
}
