//! Entries for what clients sent and for presence.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use crate::aggregate::{EventOrCheck, EventOrCheckBody};
use crate::presence::{
    self, Change, Health, JobState, Phase, ServiceState, Severity as PresenceSeverity, State, WatchReason, WatchState,
    describe,
};
use crate::protocol::AlertType;
use crate::series::Series;
use crate::snapshot::Snapshot;

use super::{Entry, EntryKind, MOST_OF_A_KIND, Severity};

/// Most checks whose status is known.
const MOST_CHECKS: usize = 4096;

/// The last status of each check, by what identifies it. Where there is no room all are forgotten: then each has an entry
/// once more.
#[derive(Debug, Default)]
pub(super) struct Checks {
    known: HashMap<u64, u8>,
    hasher: RandomState,
}

impl Checks {
    /// Whether a check has another status than before.
    fn has_changed(&mut self, check: &EventOrCheck, name: &str, status: u8) -> bool {
        let tags: Vec<_> = check.tags.iter().collect();
        let identity = self.hasher.hash_one((name, &check.host, tags));
        if self.known.len() >= MOST_CHECKS && !self.known.contains_key(&identity) {
            self.known.clear();
        }
        self.known.insert(identity, status) != Some(status)
    }
}

/// How many events, and changes of presence, of an interval have no entry.
pub(super) fn left_out(snapshot: &Snapshot) -> u64 {
    let is_event = |one: &&EventOrCheck| matches!(one.body, EventOrCheckBody::Event { .. });
    let events = snapshot.events_and_checks.iter().filter(is_event).count();
    (events.saturating_sub(MOST_OF_A_KIND) + snapshot.presence.len().saturating_sub(MOST_OF_A_KIND)) as u64
}

/// Entries for the newest events of an interval, and for checks whose status changed.
pub(super) fn of_clients(snapshot: &Snapshot, checks: &mut Checks) -> Vec<Entry> {
    let (mut events, mut changed) = (Vec::new(), Vec::new());
    // All checks count, so that the next interval is compared with the last status; texts are copied of the newest alone.
    for one in &snapshot.events_and_checks {
        match &one.body {
            EventOrCheckBody::Event { .. } => events.push(one),
            EventOrCheckBody::ServiceCheck { name, status, .. } => {
                if checks.has_changed(one, name, *status) {
                    changed.push(one);
                }
            }
        }
    }
    let newest = |all: Vec<&EventOrCheck>| {
        let first = all.len().saturating_sub(MOST_OF_A_KIND);
        all[first..].iter().map(|one| of_client(one)).collect::<Vec<_>>()
    };
    let mut out = newest(events);
    out.extend(newest(changed));
    out
}

fn of_client(one: &EventOrCheck) -> Entry {
    let entry = match &one.body {
        EventOrCheckBody::Event { title, text, alert_type, .. } => {
            let level = match alert_type {
                AlertType::Error => Severity::Error,
                AlertType::Warning => Severity::Warning,
                AlertType::Info => Severity::Info,
                AlertType::Success => Severity::Ok,
            };
            Entry::new(one.time, EntryKind::Event, level, title, text)
        }
        EventOrCheckBody::ServiceCheck { name, status, message } => {
            let (level, word) = match status {
                0 => (Severity::Ok, "ok"),
                1 => (Severity::Warning, "warning"),
                2 => (Severity::Error, "critical"),
                _ => (Severity::Warning, "unknown"),
            };
            let message = message.as_deref().unwrap_or("");
            Entry::new(one.time, EntryKind::ServiceCheck, level, &format!("{name} is {word}"), message)
        }
    };
    let host = one.host.as_deref().filter(|host| !host.is_empty());
    entry.tagged(host.map(|host| ("host", Some(host))).into_iter().chain(one.tags.iter()))
}

/// Entries for the newest changes of presence of an interval.
pub(super) fn of_presence(snapshot: &Snapshot) -> impl Iterator<Item = Entry> {
    let first = snapshot.presence.len().saturating_sub(MOST_OF_A_KIND);
    snapshot.presence[first..].iter().map(of_change)
}

/// How grave a change of presence is: it is `ok` only if something is well again.
pub(crate) fn level_of(event: &presence::Event) -> Severity {
    let is_up = matches!(
        event.change,
        Change::Instance { to: Some(State::Up), .. }
            | Change::Service { to: Some(ServiceState::Up), .. }
            | Change::Job { to: JobState::Ok, .. }
            | Change::Health { to: Some(Health::Ok), .. }
            | Change::Watch { to: WatchState::Ok, reason: WatchReason::Floor, .. }
            | Change::Peer(Phase::End)
    );
    match event.severity() {
        PresenceSeverity::Critical => Severity::Error,
        PresenceSeverity::Warning => Severity::Warning,
        PresenceSeverity::Info if is_up => Severity::Ok,
        PresenceSeverity::Info => Severity::Info,
    }
}

fn of_change(event: &presence::Event) -> Entry {
    let level = level_of(event);
    let said = describe::describe(event);
    // The first part says what happened, the others why.
    let (title, text) = said.split_once("; ").unwrap_or((&said, ""));
    let entry = Entry::new(event.at.as_secs(), EntryKind::Presence, level, title, text);
    let instance = event.instance.as_deref().map(|instance| ("instance", Some(instance)));
    let service = event.service.as_deref().map(|service| ("service", Some(service)));
    entry.tagged(instance.into_iter().chain(service))
}

/// Entries for the first series of prefixes, and one for how many more there are.
pub(super) fn of_prefixes(time: f64, (first, more): (&[Series], u64), out: &mut Vec<Entry>) {
    for series in first {
        let title = match series.name().split_once('.') {
            Some((prefix, _)) => format!("first series under {prefix}.: {}", series.name()),
            None => format!("first series: {}", series.name()),
        };
        let entry = Entry::new(time, EntryKind::Series, Severity::Info, &title, "");
        out.push(Entry { series: Some(series.clone()), ..entry.tagged(series.tags()) });
    }
    if more > 0 {
        let title = format!("{more} more new prefixes");
        out.push(Entry::new(time, EntryKind::Series, Severity::Info, &title, ""));
    }
}
