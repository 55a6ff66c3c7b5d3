//! The journal: the last things that happened, for people: events and service checks of clients, changes of presence, sinks
//! that fail and recover, limits and losses that begin and are over, parts of the daemon that failed, and its start.
//!
//! It is fed once an interval with the closed snapshot and its ledger. What lasts has two entries, one when it begins and one
//! when it is over ([`changes`]); a check has one when its status changes. Entries are numbered from 1, oldest first; the
//! newest [`MOST_ENTRIES`] are kept, in at most [`MOST_BYTES`], with texts cut to sizes for a list. What left for newer ones,
//! or found no room in its interval, is counted.
#![deny(clippy::disallowed_methods)]

mod changes;
mod entries;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::memory::{Holder, Holding, Level as MemoryLevel, Memory, footprint, vec_footprint};
use crate::named::named_enum;
use crate::series::Series;
use crate::snapshot::Snapshot;

use changes::Changes;
use entries::Checks;

pub(crate) use entries::level_of;

/// Most entries that are kept.
pub const MOST_ENTRIES: usize = 1000;

/// Most bytes of all entries.
const MOST_BYTES: usize = 2 << 20;

/// Most entries of one interval for events, for checks, and for presence each: a flood of one leaves the others in sight.
const MOST_OF_A_KIND: usize = 250;

/// Longest title and text, in characters, and most tags, with texts of at most so many characters.
const TITLE_CHARS: usize = 200;
const TEXT_CHARS: usize = 1000;
const MOST_TAGS: usize = 20;
const TAG_CHARS: usize = 100;

named_enum! {
    /// What an entry is about.
    pub enum EntryKind {
        /// An event that a client sent.
        Event = "event",
        /// A service check whose status changed.
        ServiceCheck = "service_check",
        /// A change of presence.
        Presence = "presence",
        /// A sink or the target of a relay that fails, or works again.
        Sink = "sink",
        /// A limit that is reached, or no more.
        Limit = "limit",
        /// Data that is being lost, or no more.
        Loss = "loss",
        /// A part of the daemon that failed.
        Part = "part",
        /// The first series of a prefix.
        Series = "series",
        /// The daemon started, or read its configuration again.
        Start = "start",
    }
}

named_enum! {
    /// How grave it is.
    pub enum Severity {
        /// Something works, or works again.
        Ok = "ok",
        /// It is good to know.
        Info = "info",
        /// Something may go wrong, or is less than it should be.
        Warning = "warning",
        /// Something failed, or is lost.
        Error = "error",
    }
}

/// Something that happened. Texts are as they were sent: whoever shows them escapes them.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// From 1 on, in the order of the journal.
    pub number: u64,
    /// When, Unix seconds.
    pub time: f64,
    /// What it is about.
    pub kind: EntryKind,
    /// How grave it is.
    pub level: Severity,
    /// One line, at most [`TITLE_CHARS`] characters.
    pub title: String,
    /// May be empty.
    pub text: String,
    /// The first tags of the client, in canonical order.
    pub tags: Vec<(String, Option<String>)>,
    /// The service that it is about.
    pub service: Option<String>,
    /// The series that it is about.
    pub series: Option<Series>,
}

impl Entry {
    fn new(time: f64, kind: EntryKind, level: Severity, title: &str, text: &str) -> Entry {
        Entry {
            number: 0,
            time,
            kind,
            level,
            title: cut(title, TITLE_CHARS),
            text: cut(text, TEXT_CHARS),
            tags: Vec::new(),
            service: None,
            series: None,
        }
    }

    fn tagged<'a>(mut self, tags: impl Iterator<Item = (&'a str, Option<&'a str>)>) -> Entry {
        for (key, value) in tags {
            if key == "service" && self.service.is_none() {
                self.service = value.map(|value| cut(value, TAG_CHARS));
            }
            if self.tags.len() < MOST_TAGS {
                self.tags.push((cut(key, TAG_CHARS), value.map(|value| cut(value, TAG_CHARS))));
            }
        }
        self
    }

    fn heap_bytes(&self) -> usize {
        let text = |text: &String| footprint(text.capacity());
        let tags = self.tags.iter().map(|(key, value)| text(key) + value.as_ref().map_or(0, text)).sum::<usize>();
        let texts = text(&self.title) + text(&self.text) + self.service.as_ref().map_or(0, text);
        let series = self.series.as_ref().map_or(0, Series::heap_bytes);
        footprint(size_of::<Entry>() + 16)
            + texts
            + tags
            + vec_footprint::<(String, Option<String>)>(self.tags.capacity())
            + series
    }

    /// Whether a text, in lower case, is in its title, its text, its service, its series or a tag.
    fn contains(&self, text: &str) -> bool {
        let has = |of: &str| of.to_lowercase().contains(text);
        has(&self.title)
            || has(&self.text)
            || self.service.as_deref().is_some_and(has)
            || self.series.as_ref().is_some_and(|series| has(series.name()))
            || self.tags.iter().any(|(key, value)| has(&format!("{key}:{}", value.as_deref().unwrap_or(""))))
    }
}

/// The first characters of a text, with `…` if there are more.
fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_string(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// Which entries to find.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Query {
    /// Only those after the one with this number; all if there is none yet.
    pub since: u64,
    /// Only of this kind.
    pub kind: Option<EntryKind>,
    /// Only those that contain this text, in any case.
    pub text: String,
    /// No more than the newest so many.
    pub most: usize,
}

#[derive(Debug, Default)]
struct State {
    /// Oldest first.
    entries: VecDeque<Arc<Entry>>,
    next: u64,
    dropped: u64,
    bytes: usize,
    changes: Changes,
    checks: Checks,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    held: Holding,
}

/// The journal. Cheap to clone; clones are one.
#[derive(Clone, Debug)]
pub struct Journal(Arc<Shared>);

impl Default for Journal {
    fn default() -> Journal {
        Journal::new(&Memory::unlimited())
    }
}

impl Journal {
    /// An empty one, which publishes what it holds in this memory.
    pub fn new(memory: &Memory) -> Journal {
        let state = State { next: 1, ..State::default() };
        // It is what HTTP shows of closed intervals.
        Journal(Arc::new(Shared { state: Mutex::new(state), held: memory.holding(Holder::ClosedIntervals) }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Whatever failed between two entries, each is whole.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds that the daemon started.
    pub fn add_start(&self, time: f64, title: &str, text: &str) {
        let mut state = self.lock();
        state.push(Entry::new(time, EntryKind::Start, Severity::Info, title, text));
        self.0.held.set(state.bytes as u64);
    }

    /// Adds what became of a reload of the configuration.
    pub fn add_reload(&self, time: f64, severity: Severity, title: &str, text: &str) {
        let mut state = self.lock();
        state.push(Entry::new(time, EntryKind::Start, severity, title, text));
        self.0.held.set(state.bytes as u64);
    }

    /// Adds what happened in an interval: from the snapshot, and from its ledger compared with the one before. `fresh` are
    /// the first series of prefixes that were not there before, and how many more there are.
    pub fn add(&self, snapshot: &Snapshot, fresh: (&[Series], u64)) {
        let is_short = self.0.held.memory().level() >= MemoryLevel::Events;
        let mut state = self.lock();
        let state = &mut *state;
        let mut found = state.changes.of(&snapshot.ledger, snapshot.end);
        let mut many = entries::of_clients(snapshot, &mut state.checks);
        many.extend(entries::of_presence(snapshot));
        entries::of_prefixes(snapshot.end, fresh, &mut many);
        if is_short {
            state.dropped += many.len() as u64;
        } else {
            found.append(&mut many);
        }
        state.dropped += entries::left_out(snapshot);
        found.sort_by(|a, b| a.time.total_cmp(&b.time));
        found.into_iter().for_each(|entry| state.push(entry));
        self.0.held.set(state.bytes as u64);
    }

    /// The entries that a query finds, newest first, and how many there were that are not kept.
    pub fn find(&self, query: &Query) -> (Vec<Arc<Entry>>, u64) {
        let text = query.text.to_lowercase();
        let (entries, dropped) = {
            let state = self.lock();
            let is_known = query.since < state.next;
            let after = state.entries.iter().filter(|entry| !is_known || entry.number > query.since);
            (after.cloned().collect::<Vec<_>>(), state.dropped)
        };
        let fits = |entry: &Arc<Entry>| {
            query.kind.is_none_or(|kind| entry.kind == kind) && (text.is_empty() || entry.contains(&text))
        };
        (entries.into_iter().rev().filter(fits).take(query.most).collect(), dropped)
    }

    /// The number of the newest entry; 0 if there is none.
    pub fn newest(&self) -> u64 {
        self.lock().next - 1
    }
}

impl State {
    fn push(&mut self, mut entry: Entry) {
        entry.number = self.next;
        self.next += 1;
        self.bytes += entry.heap_bytes();
        self.entries.push_back(Arc::new(entry));
        while self.entries.len() > MOST_ENTRIES || self.bytes > MOST_BYTES {
            let Some(oldest) = self.entries.pop_front() else { return };
            self.bytes -= oldest.heap_bytes();
            self.dropped += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::{CanonicalTags, EventOrCheck, EventOrCheckBody};
    use crate::protocol::{AlertType, Kind, Priority};

    fn event(title: &str, time: f64) -> EventOrCheck {
        EventOrCheck {
            time,
            tags: CanonicalTags::new(&[("service", Some("api")), ("bare", None)]),
            host: None,
            container: None,
            external_data: None,
            cardinality: None,
            body: EventOrCheckBody::Event {
                title: title.into(),
                text: "4.12".into(),
                priority: Priority::Normal,
                alert_type: AlertType::Warning,
                aggregation_key: None,
                source_type: None,
            },
        }
    }

    fn check(name: &str, status: u8) -> EventOrCheck {
        let body = EventOrCheckBody::ServiceCheck { name: name.into(), status, message: Some("full".into()) };
        EventOrCheck { body, ..event("", 5.0) }
    }

    fn interval(events_and_checks: Vec<EventOrCheck>) -> Snapshot {
        Snapshot { end: 10.0, events_and_checks, ..Snapshot::default() }
    }

    fn all(journal: &Journal) -> Vec<String> {
        let (found, _) = journal.find(&Query { most: usize::MAX, ..Query::default() });
        found.iter().map(|entry| format!("{} {} {}", entry.kind, entry.level, entry.title)).collect()
    }

    #[test]
    fn what_clients_send_is_found_by_kind_text_and_number() {
        let journal = Journal::default();
        journal.add_start(1.0, "systole started", "");
        journal.add(&interval(vec![event("deploy api", 6.0), check("disk", 2), event("Rollback", 7.0)]), (&[], 0));
        assert_eq!(
            all(&journal),
            [
                "event warning Rollback",
                "event warning deploy api",
                "service_check error disk is critical",
                "start info systole started"
            ]
        );
        let find = |query: &Query| journal.find(query).0.iter().map(|entry| entry.number).collect::<Vec<_>>();
        let query = Query { most: 10, ..Query::default() };
        assert_eq!(find(&Query { since: 2, ..query.clone() }), [4, 3]);
        // One that is not known, of an earlier start perhaps.
        assert_eq!(find(&Query { since: 77, ..query.clone() }), [4, 3, 2, 1]);
        assert_eq!(find(&Query { kind: Some(EntryKind::Event), most: 1, ..query.clone() }), [4]);
        assert_eq!(find(&Query { text: "ROLLB".into(), ..query.clone() }), [4]);
        assert_eq!(find(&Query { text: "service:api".into(), ..query }), [4, 3, 2]);
        let (found, dropped) = journal.find(&Query { text: "disk".into(), most: 1, ..Query::default() });
        assert_eq!((&*found[0].text, found[0].service.as_deref(), dropped), ("full", Some("api"), 0));
        assert_eq!(found[0].tags, [("bare".into(), None), ("service".into(), Some("api".into()))]);
    }

    #[test]
    fn a_check_has_an_entry_when_its_status_changes() {
        let journal = Journal::default();
        for status in [0, 0, 2, 2, 0] {
            journal.add(&interval(vec![check("disk", status)]), (&[], 0));
        }
        let expected =
            ["service_check ok disk is ok", "service_check error disk is critical", "service_check ok disk is ok"];
        assert_eq!(all(&journal), expected);
    }

    #[test]
    fn a_flood_leaves_the_others_in_sight_and_what_left_is_counted() {
        let memory = Memory::new(crate::memory::LEAST_MAX_MEMORY);
        let journal = Journal::new(&memory);
        let long = "x".repeat(5000);
        let mut flood: Vec<_> = (0..3000).map(|n| event(&format!("{n} {long}"), f64::from(n))).collect();
        flood.push(check("disk", 1));
        journal.add(&interval(flood), (&[], 0));
        let found = all(&journal);
        assert_eq!(found.len(), MOST_OF_A_KIND + 1);
        assert!(found.contains(&"service_check warning disk is warning".to_string()));
        // The newest stay.
        assert!(
            found[0].starts_with("event warning 2999 ") && found[0].chars().count() < TITLE_CHARS + 20,
            "{}",
            found[0]
        );
        assert_eq!(journal.find(&Query::default()).1, 3000 - MOST_OF_A_KIND as u64);
        for n in 0..10 {
            let texts = (0..200).map(|i| event(&format!("{n}.{i}"), 5.0)).collect();
            journal.add(&interval(texts), (&[], 0));
        }
        let (found, dropped) = journal.find(&Query { most: usize::MAX, ..Query::default() });
        assert_eq!((found.len() as u64 + dropped, found.len()), (5001, MOST_ENTRIES));
        let held: usize = found.iter().map(|entry| entry.heap_bytes()).sum();
        assert_eq!(memory.bytes(Holder::ClosedIntervals), held as u64);
        assert!(held <= MOST_BYTES);
    }

    #[test]
    fn first_series_of_prefixes_are_named_and_the_rest_is_counted() {
        let journal = Journal::default();
        let series = |name| Series::new(Kind::Counter, name, &[]);
        journal.add(&interval(Vec::new()), (&[series("checkout.hits"), series("hello")], 7));
        assert_eq!(
            all(&journal),
            [
                "series info 7 more new prefixes",
                "series info first series: hello",
                "series info first series under checkout.: checkout.hits"
            ]
        );
    }
}
