//! The ledger over time: each number of an interval's account by its path, such as `lines.read`. Of several listeners, sinks and
//! the like there is the sum under the path without a name, and each under its own: `sinks.delivered`,
//! `sinks.graphite.delivered`; those of all listeners have no `listeners.` in front: `datagrams`.

use std::collections::BTreeMap;

use crate::telemetry::{EntryKind, Labels, Ledger};

use super::axis::Axis;
use super::codec::kept;
use super::track::{Keep, Scratch, Shape, Track, put_bytes, take_bytes};

/// Most paths. A daemon of ten sinks has about 400.
const MOST_PATHS: usize = 10_000;

/// Accounts that count since the start; others count for an interval.
const SINCE_START: [&str; 6] = ["sinks", "relays", "relays.*.targets", "notify", "ports", "parts"];

pub(super) const SHAPE: Shape = Shape { width: 1 };

/// A number of the ledger.
#[derive(Debug, Default)]
struct Path {
    track: Track,
    /// What it was since the start, where that is what is counted.
    before: f64,
    /// What is counted: an interval without a row has none of it.
    is_counter: bool,
    /// Bytes of the path of the whole, of which this is what one reason has.
    whole: Option<usize>,
}

/// What there is of a path.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) track: Track,
    pub(super) is_counter: bool,
    /// Of a reason: the track of all reasons. Only reasons that occur have a row.
    pub(super) whole: Option<Track>,
}

/// A number of an account.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Number {
    number: f64,
    /// Whether it is counted, and since the start.
    is_counter: bool,
    is_total: bool,
    /// As [`Path::whole`].
    whole: Option<usize>,
}

/// All numbers of the ledger.
#[derive(Debug, Default)]
pub(super) struct LedgerTracks {
    paths: BTreeMap<String, Path>,
    /// Whether what was counted before is known.
    has_begun: bool,
}

/// The paths of a field: that of the sum, and that of its account if it has a name.
fn paths(part: &str, labels: &Labels<'_>, field: &str) -> (Option<String>, Option<String>) {
    let dotted = |parts: &[&str]| parts.iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join(".");
    match labels {
        [] => (Some(dotted(&[part, field])), None),
        [(_, name)] if part == "listeners" => (Some(field.to_string()), Some(dotted(&[part, name, field]))),
        [(_, name)] => (Some(dotted(&[part, field])), Some(dotted(&[part, name, field]))),
        several => {
            // `relays.*.targets`
            let mut names = several.iter().map(|(_, name)| *name);
            let mut own: Vec<&str> =
                part.split('.').map(|part| if part == "*" { names.next().unwrap_or("") } else { part }).collect();
            own.extend(names);
            own.push(field);
            (None, Some(own.join(".")))
        }
    }
}

/// Each number of a ledger with its path.
fn numbers(ledger: &Ledger) -> BTreeMap<String, Number> {
    let mut all: BTreeMap<String, Number> = BTreeMap::new();
    ledger.each_part(&mut |part, labels, entry, value| {
        let is_counter = entry.kind == EntryKind::Counter;
        if !is_counter && entry.kind != EntryKind::Gauge {
            return;
        }
        let is_total = is_counter && SINCE_START.contains(&part);
        let (sum, own) = paths(part, labels, entry.field);
        let mut add = |path: String, number: f64, whole| {
            let none = Number { number: 0.0, is_counter, is_total, whole };
            all.entry(path).or_insert(none).number += number;
        };
        for path in sum.iter().chain(&own) {
            add(path.clone(), value.number(), None);
            value.each(&mut |reason, count| add(format!("{path}.{reason}"), count, Some(path.len())));
        }
    });
    all
}

impl LedgerTracks {
    /// Adds the account of an interval.
    pub(super) fn push(&mut self, ledger: &Ledger, block: u32, place: u32) {
        for (path, Number { number, is_counter, is_total, whole }) in numbers(ledger) {
            let is_new = !self.paths.contains_key(&path);
            if is_new && self.paths.len() >= MOST_PATHS {
                continue;
            }
            let known = self.paths.entry(path).or_default();
            (known.is_counter, known.whole) = (is_counter, whole);
            let before = if is_total { std::mem::replace(&mut known.before, number) } else { 0.0 };
            if is_total && is_new && !self.has_begun {
                // What was counted before the history began belongs to no interval of it.
                continue;
            }
            let fresh = if is_total { (number - before).max(0.0) } else { number };
            known.track.push(block, place, &[kept(fresh)], true);
        }
        self.has_begun = true;
    }

    pub(super) fn sweep(&mut self, axis: &Axis, keep: &Keep, scratch: &mut Scratch) {
        self.paths.values_mut().for_each(|path| {
            path.track.sweep(SHAPE, axis, keep, scratch);
        });
    }

    /// As it is saved.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        for (path, known) in &self.paths {
            put_bytes(path.as_bytes(), out);
            out.push(u8::from(known.is_counter));
            let whole = known.whole.map_or(0, |whole| whole as u32);
            out.extend_from_slice(&whole.to_le_bytes());
            known.track.write(out);
        }
    }

    /// Numbers that were saved; what counts since the start begins anew. `None` if these bytes are none.
    pub(super) fn read(mut rest: &[u8], axis: &Axis) -> Option<LedgerTracks> {
        let mut paths = BTreeMap::new();
        while !rest.is_empty() && paths.len() < MOST_PATHS {
            let path = str::from_utf8(take_bytes(&mut rest)?).ok()?;
            let (is_counter, after) = rest.split_first()?;
            let (whole, after) = after.split_first_chunk::<4>()?;
            rest = after;
            let whole = u32::from_le_bytes(*whole) as usize;
            let track = Track::read(&mut rest, SHAPE, axis)?;
            let whole = (whole > 0).then_some(whole);
            paths.insert(path.to_string(), Path { track, before: 0.0, is_counter: *is_counter != 0, whole });
        }
        Some(LedgerTracks { paths, has_begun: true })
    }

    pub(super) fn find(&self, path: &str) -> Option<Known> {
        let known = self.paths.get(path)?;
        let whole = known.whole.and_then(|whole| self.paths.get(path.get(..whole)?));
        Some(Known {
            track: known.track.clone(),
            is_counter: known.is_counter,
            whole: whole.map(|whole| whole.track.clone()),
        })
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let own = |(path, known): (&String, &Path)| {
            crate::memory::vec_footprint::<u8>(path.capacity()) + known.track.heap_bytes()
        };
        self.paths.iter().map(own).sum::<usize>() + crate::memory::tree_footprint::<String, Path>(self.paths.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{HolderAccount, ListenerAccount, SinkAccount, TargetAccount};

    #[test]
    fn every_number_has_a_path_and_several_accounts_a_sum() {
        let listener = |url: &str, datagrams| ListenerAccount { url: url.into(), datagrams, ..Default::default() };
        let mut ledger =
            Ledger { listeners: vec![listener("udp://a", 3), listener("udp://b", 4)], ..Ledger::default() };
        ledger.lines.read = 7;
        ledger.lines.malformed.count(crate::protocol::Reason::ALL[0], 1);
        ledger.sinks.insert("g".into(), SinkAccount { delivered: 5, ..Default::default() });
        let targets = [("t".to_string(), TargetAccount { lines: 9, ..Default::default() })].into();
        ledger.relays.insert("r".into(), crate::telemetry::RelayAccount { targets, ..Default::default() });
        ledger.memory.holders.insert("values".into(), HolderAccount { bytes: 12, cap: 0 });
        let all = numbers(&ledger);
        let reason = ledger.lines.malformed.iter().next().expect("it occurred").0;
        for (path, expected) in [
            ("datagrams", (7.0, false)),
            ("listeners.udp://b.datagrams", (4.0, false)),
            ("lines.read", (7.0, false)),
            ("lines.malformed", (1.0, false)),
            (&format!("lines.malformed.{reason}"), (1.0, false)),
            ("sinks.delivered", (5.0, true)),
            ("sinks.g.delivered", (5.0, true)),
            ("relays.r.targets.t.lines", (9.0, true)),
            ("memory.holders.values.bytes", (12.0, false)),
            ("completeness", (0.0, false)),
        ] {
            let found = all.get(path).map(|found| (found.number, found.is_total));
            assert_eq!(found, Some(expected), "{path} of {:?}", all.keys());
        }
    }
}
