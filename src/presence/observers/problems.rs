//! Which problems are notified, by whom. Notifying goes by the level and not by the edge: whoever speaks notifies what it
//! or a peer holds open and nobody has notified, and the end of what was notified when nobody holds it open any more and
//! somebody knows that it is over. So a new speaker repeats nothing and forgets nothing, and a node that does not see a
//! problem cannot end it. All of that holds for each target by itself: what has arrived at one is not told again there because
//! another one could not be reached.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use crate::presence::Alarm;
use crate::presence::alert_book::{AlertKey, AlertName, Ending, Notification, Which};
use crate::presence::describe::over_text;
use crate::presence::engine::Engine;
use crate::presence::event::{Event, Severity};
use crate::presence::time::{EngineTime, UnixTime};

use super::digest::{MOST_TARGETS, MOST_TEXT, ProblemRow, ToldRow};
use super::peer::{Peer, alarm_of, entry_bytes};
use crate::memory::Holding;

/// How long a problem that is over is remembered, in seconds; and how long before that a peer is not told of it any more, so
/// that nobody learns what another has just forgotten.
const REMEMBERED: f64 = 3600.0;
const MARGIN: f64 = 10.0;

/// What a peer holds open, and this node does not, is notified after so many seconds: it may be about to see the same, or
/// what stands for it.
const PATIENCE: f64 = 0.9;

/// A node that is back leaves the end of its own loss for so many seconds to the one that spoke meanwhile.
const HANDOVER: f64 = 2.0;

/// What was notified, and nobody holds open or has seen the end of, is over after so many seconds.
const UNCLAIMED: f64 = 86_400.0;

/// Most problems, beyond which a peer tells no further ones and those of this node that are over are forgotten, so many of the
/// oldest at once; and in how many places of their size one is kept.
const MOST: usize = 50_000;
const FORGOTTEN_AT_ONCE: usize = 1_000;
const ENTRIES: usize = 2;

/// What a target was told of a problem.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct AtTarget {
    /// How often its beginning or its end was notified, by whomever: odd while it is out there; when last; and what of that is
    /// known to have arrived.
    version: u64,
    notified: EngineTime,
    arrived: u64,
    /// How grave it was said to be.
    severity: Severity,
}

impl AtTarget {
    fn is_out(&self) -> bool {
        self.version % 2 == 1
    }

    /// What is on its way is not any more: whoever notifies next tells it.
    fn take_back(&mut self) {
        if self.arrived < self.version {
            (self.version, self.severity) = (self.arrived, Severity::Info);
        }
    }
}

/// A problem.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Problem {
    /// As it was last known.
    alarm: Alarm,
    /// When it began.
    since: EngineTime,
    /// This node's own machine holds it open.
    open: bool,
    /// When it saw the end of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    closed: Option<EngineTime>,
    /// By target.
    #[serde(default)]
    told: BTreeMap<CompactString, AtTarget>,
    /// What every target was told, and when, by a state of a version that kept that once for all.
    #[serde(default, rename = "arrived", skip_serializing)]
    arrived_everywhere: u64,
    #[serde(default, rename = "notified", skip_serializing)]
    notified_everywhere: EngineTime,
    /// Number of its last change.
    #[serde(skip)]
    number: u64,
    #[serde(skip)]
    changed: EngineTime,
    /// What happened, for whoever is notified.
    #[serde(skip)]
    event: Option<(u64, Event)>,
    /// How it ended, if it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ending: Option<Ending>,
}

impl Problem {
    fn new(alarm: Alarm, since: EngineTime, now: EngineTime) -> Problem {
        Problem {
            alarm,
            since,
            open: false,
            closed: None,
            told: BTreeMap::new(),
            arrived_everywhere: 0,
            notified_everywhere: EngineTime::default(),
            number: 0,
            changed: now,
            event: None,
            ending: None,
        }
    }

    /// Whether it is out at some target.
    fn is_out(&self) -> bool {
        self.told.values().any(AtTarget::is_out)
    }

    /// Whether it is over, and every target has what it was to be told.
    fn is_done(&self) -> bool {
        !self.open && self.told.values().all(|told| !told.is_out() && told.arrived >= told.version)
    }

    fn is_out_at(&self, target: &str) -> bool {
        self.told.get(target).is_some_and(AtTarget::is_out)
    }

    /// Whether a target is to be told of it, as it is: for the first time, or that it is worse.
    fn is_news(&self, target: &str, severity: Severity) -> bool {
        self.told.get(target).is_none_or(|told| !told.is_out() || severity < told.severity)
    }

    fn at_target(&mut self, target: &str) -> &mut AtTarget {
        let fresh = || AtTarget { version: 0, notified: EngineTime::default(), arrived: 0, severity: Severity::Info };
        self.told.entry(target.into()).or_insert_with(fresh)
    }

    /// It is about to be told that it is over: in the words of whoever saw that, or in general ones. What it was told at its
    /// beginning reads as an outage.
    fn see_end(&mut self, peers: &[Peer]) {
        if self.closed.is_some() {
            return;
        }
        let by_peer = peers.iter().filter(|peer| peer.answers()).find_map(|peer| peer.closed.get(&self.alarm.key));
        let (text, ending) = match by_peer {
            Some(seen) => (seen.text.clone(), seen.ending),
            None => (over_text(&self.alarm.key), None),
        };
        (self.alarm.text, self.event, self.ending) = (text, None, ending);
    }

    /// Counts that a target is notified of its beginning or its end now.
    fn notify(&mut self, target: &str, now: EngineTime, resolved: bool) -> Notification {
        let severity = self.alarm.severity;
        let told = self.at_target(target);
        // Of one that is out, that it is worse.
        told.version += if told.is_out() == resolved { 1 } else { 2 };
        (told.notified, told.severity) = (now, severity);
        let version = told.version;
        let (alarm, event, ending) = (self.alarm.clone(), self.event.clone(), self.ending);
        Notification { alarm, resolved, event, detail: String::new(), version, ending }
    }
}

/// What others have told a target, as this node learns it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Learned {
    pub(super) target: CompactString,
    pub(super) alarm: Alarm,
    /// It is out there.
    pub(super) is_out: bool,
    /// This node was about to tell it, too.
    pub(super) is_overtaken: bool,
}

/// Who speaks to which target, and what it knows.
#[derive(Clone, Copy)]
pub(super) struct Speaking<'a> {
    pub(super) node: &'a str,
    pub(super) target: &'a str,
    pub(super) peers: &'a [Peer],
    pub(super) engine: &'a Engine,
    pub(super) now: EngineTime,
}

/// All problems of late.
#[derive(Debug, Default)]
pub(super) struct Problems {
    all: BTreeMap<AlertKey, Problem>,
    /// By the number of the last change.
    log: BTreeMap<u64, AlertKey>,
    /// The last change that is forgotten: who has not got it begins anew.
    forgotten: u64,
    /// Some were forgotten for new ones since the last tick.
    made_room: bool,
}

/// A change of a problem: its number, which is that of the last change of anything but sightings.
pub(super) type Number<'a> = &'a mut u64;

impl Problems {
    /// What an earlier start knew, and what its alert book holds open.
    pub(super) fn restored(
        saved: Vec<Problem>,
        firing: Vec<Alarm>,
        now: EngineTime,
        unix: UnixTime,
        last: Number<'_>,
    ) -> Problems {
        let mut problems = Problems::default();
        for mut problem in saved {
            // What was on its way may have been lost with that process.
            problem.told.values_mut().for_each(AtTarget::take_back);
            problem.open = false;
            problems.all.insert(problem.alarm.key.clone(), problem);
        }
        for alarm in firing {
            let since = now - (unix - alarm.since).max(0.0);
            let key = alarm.key.clone();
            let problem = problems.all.entry(key).or_insert_with(|| Problem::new(alarm.clone(), since, now));
            (problem.open, problem.closed, problem.alarm) = (true, None, alarm);
        }
        for key in problems.all.keys().cloned().collect::<Vec<_>>() {
            problems.touch(&key, now, last);
        }
        problems
    }

    /// What survives a restart.
    pub(super) fn saved(&self) -> Vec<&Problem> {
        self.all.values().collect()
    }

    fn touch(&mut self, key: &AlertKey, now: EngineTime, last: Number<'_>) {
        let Some(problem) = self.all.get_mut(key) else { return };
        *last += 1;
        self.log.remove(&problem.number);
        (problem.number, problem.changed) = (*last, now);
        self.log.insert(*last, key.clone());
    }

    /// Takes what this node's own machine would notify.
    pub(super) fn note(&mut self, notification: Notification, now: EngineTime, last: Number<'_>, held: &Holding) {
        let ending = resolved_ending(&notification);
        let Notification { alarm, resolved, event, .. } = notification;
        let key = alarm.key.clone();
        if !self.all.contains_key(&key) {
            if self.all.len() >= MOST || held.is_over() {
                self.make_room(held);
            }
            held.add(problem_bytes(&key, alarm.text.capacity(), 0) as u64);
        }
        let problem = self.all.entry(key.clone()).or_insert_with(|| Problem::new(alarm.clone(), now, now));
        if !resolved && !problem.open {
            problem.since = now;
        }
        (problem.alarm, problem.open, problem.event) = (alarm, !resolved, event);
        (problem.closed, problem.ending) = (resolved.then_some(now), ending);
        self.touch(&key, now, last);
    }

    /// Forgets the oldest of those that are over and told. What is open stays: there are no more than the engine has names.
    fn make_room(&mut self, held: &Holding) {
        let is_done = |key: &&AlertKey| self.all.get(*key).is_some_and(Problem::is_done);
        let gone: Vec<AlertKey> = self.log.values().filter(is_done).take(FORGOTTEN_AT_ONCE).cloned().collect();
        let mut freed = 0;
        for key in &gone {
            if let Some(problem) = self.forget(key) {
                freed += problem_bytes(key, problem.alarm.text.capacity(), problem.told.len()) as u64;
            }
        }
        held.sub(freed.min(held.bytes()));
        self.made_room |= !gone.is_empty();
    }

    fn forget(&mut self, key: &AlertKey) -> Option<Problem> {
        let problem = self.all.remove(key)?;
        self.log.remove(&problem.number);
        self.forgotten = self.forgotten.max(problem.number);
        Some(problem)
    }

    /// Takes what a target knows, as its queue has it: these alarms and no others are out there.
    pub(super) fn adopt(
        &mut self,
        target: &str,
        known: Vec<Alarm>,
        (now, unix): (EngineTime, UnixTime),
        last: Number<'_>,
    ) {
        let mut keys = BTreeSet::new();
        for alarm in known {
            let since = now - (unix - alarm.since).max(0.0);
            keys.insert(alarm.key.clone());
            self.all.entry(alarm.key.clone()).or_insert_with(|| Problem::new(alarm, since, now));
        }
        let differs = |(key, problem): &(&AlertKey, &Problem)| problem.is_out_at(target) != keys.contains(*key);
        let keys: Vec<AlertKey> = self.all.iter().filter(differs).map(|(key, _)| key.clone()).collect();
        for key in keys {
            if let Some(problem) = self.all.get_mut(&key) {
                let severity = problem.alarm.severity;
                let told = problem.at_target(target);
                (told.version, told.notified, told.severity) = (told.version + 1, now, severity);
                told.arrived = told.version;
            }
            self.touch(&key, now, last);
        }
    }

    /// A target is known: an older state may say what it was told, as every other one.
    pub(super) fn begin_with(&mut self, target: &str, now: EngineTime, last: Number<'_>) {
        let is_new = |p: &Problem| p.arrived_everywhere > 0 && !p.told.contains_key(target);
        let keys: Vec<AlertKey> = self.all.iter().filter(|(_, p)| is_new(p)).map(|(key, _)| key.clone()).collect();
        for key in keys {
            if let Some(problem) = self.all.get_mut(&key) {
                let (arrived, notified) = (problem.arrived_everywhere, problem.notified_everywhere);
                let severity = problem.alarm.severity;
                *problem.at_target(target) = AtTarget { version: arrived, notified, arrived, severity };
            }
            self.touch(&key, now, last);
        }
    }

    /// Whether a problem is known.
    pub(super) fn knows(&self, key: &AlertKey) -> bool {
        self.all.contains_key(key)
    }

    /// Bytes that it takes.
    pub(super) fn heap_bytes(&self) -> usize {
        let bytes = |(key, problem): (&AlertKey, &Problem)| {
            problem_bytes(key, problem.alarm.text.capacity(), problem.told.len())
        };
        self.all.iter().map(bytes).sum()
    }

    /// Takes what a peer knows of a problem; what is new of what targets were told. `None` if there is no room for it.
    pub(super) fn learn(
        &mut self,
        row: &ProblemRow,
        (now, unix): (EngineTime, UnixTime),
        last: Number<'_>,
        held: &Holding,
    ) -> Option<Vec<Learned>> {
        if row.told.is_empty() {
            return Some(Vec::new());
        }
        if !self.all.contains_key(&row.key) {
            let bytes = problem_bytes(&row.key, row.text.len(), row.told.len()) as u64;
            if self.all.len() >= MOST || held.would_exceed(bytes) {
                return None;
            }
            held.add(bytes);
        }
        let since = now - row.age;
        let problem = self.all.entry(row.key.clone()).or_insert_with(|| Problem::new(alarm_of(row, unix), since, now));
        let mut learned = Vec::new();
        for (target, theirs) in &row.told {
            if problem.told.len() >= MOST_TARGETS && !problem.told.contains_key(target) {
                continue;
            }
            let told = problem.at_target(target);
            if theirs.version < told.version || theirs.version == told.version && told.arrived == told.version {
                continue;
            }
            let is_overtaken = told.arrived < told.version;
            (told.version, told.arrived) = (theirs.version, theirs.version);
            (told.notified, told.severity) = (now - theirs.age, theirs.severity);
            let is_out = told.is_out();
            learned.push(Learned { target: target.clone(), alarm: alarm_of(row, unix), is_out, is_overtaken });
        }
        if learned.is_empty() {
            return Some(learned);
        }
        if !problem.open {
            problem.alarm = alarm_of(row, unix);
        }
        self.touch(&row.key, now, last);
        Some(learned)
    }

    /// A target has dealt with a beginning or an end that it was given. Another one may have been given to it since, and this one
    /// may have been taken back meanwhile.
    pub(super) fn note_arrived(&mut self, target: &str, one: &Which, now: EngineTime, last: Number<'_>) {
        let told = self.all.get_mut(&one.key).and_then(|problem| problem.told.get_mut(target));
        let Some(told) = told.filter(|told| one.version > told.arrived) else { return };
        told.arrived = one.version;
        if told.version < one.version {
            (told.version, told.severity, told.notified) = (one.version, one.severity, now);
        }
        self.touch(&one.key, now, last);
    }

    /// What is on its way to a target is taken back: somebody else notifies it.
    pub(super) fn take_back(&mut self, target: &str, now: EngineTime, last: Number<'_>) {
        let is_on_its_way = |p: &Problem| p.told.get(target).is_some_and(|told| told.arrived < told.version);
        let keys: Vec<AlertKey> = self.all.iter().filter(|(_, p)| is_on_its_way(p)).map(|(k, _)| k.clone()).collect();
        for key in keys {
            if let Some(told) = self.all.get_mut(&key).and_then(|problem| problem.told.get_mut(target)) {
                told.take_back();
            }
            self.touch(&key, now, last);
        }
    }

    /// What is over by itself, and what nobody remembers any more; whether there was something of that.
    pub(super) fn tick(&mut self, now: EngineTime, unix: UnixTime, last: Number<'_>) -> bool {
        let mut ended = Vec::new();
        for (key, problem) in &mut self.all {
            if (problem.open || problem.is_out()) && problem.alarm.until.is_some_and(|until| unix >= until) {
                // It was notified with its end.
                (problem.open, problem.closed, problem.event) = (false, Some(now), None);
                for told in problem.told.values_mut() {
                    told.version += u64::from(told.is_out());
                    told.arrived = told.version;
                }
                ended.push(key.clone());
            }
        }
        for key in ended {
            self.touch(&key, now, last);
        }
        let made_room = std::mem::take(&mut self.made_room);
        let old = self.log.first_key_value().and_then(|(_, key)| self.all.get(key));
        if old.is_none_or(|problem| now - problem.changed < REMEMBERED) {
            return made_room;
        }
        let is_old = |p: &Problem| !p.open && !p.is_out() && now - p.changed >= REMEMBERED;
        let gone: Vec<AlertKey> = self.all.iter().filter(|(_, p)| is_old(p)).map(|(key, _)| key.clone()).collect();
        for key in &gone {
            self.forget(key);
        }
        made_room || !gone.is_empty()
    }

    /// What a target is to be notified of by whoever speaks to it.
    pub(super) fn speak(&mut self, to: Speaking<'_>, last: Number<'_>) -> Vec<Notification> {
        let (target, now) = (to.target, to.now);
        let mut out = Vec::new();
        let is_news = |p: &Problem| p.open && p.is_news(target, p.alarm.severity);
        let begins: Vec<AlertKey> = self.all.iter().filter(|(_, p)| is_news(p)).map(|(k, _)| k.clone()).collect();
        for key in begins {
            self.begin(target, &key, now, &mut out, last);
        }
        for (key, alarm, since) in self.held_by_peers(to) {
            let problem = self.all.entry(key.clone()).or_insert_with(|| Problem::new(alarm.clone(), since, now));
            (problem.alarm, problem.event) = (alarm, None);
            self.begin(target, &key, now, &mut out, last);
        }
        let is_held = |key: &AlertKey| to.peers.iter().any(|peer| peer.answers() && peer.open.contains_key(key));
        let is_over = |(key, problem): &(&AlertKey, &Problem)| {
            let told = problem.told.get(target).filter(|told| told.is_out());
            let is_over = |told: &AtTarget| is_over((key, problem), told.notified, to);
            !problem.open && !is_held(key) && told.is_some_and(is_over)
        };
        let ends: Vec<AlertKey> = self.all.iter().filter(is_over).map(|(key, _)| key.clone()).collect();
        for key in ends {
            if let Some(problem) = self.all.get_mut(&key) {
                problem.see_end(to.peers);
                out.push(problem.notify(target, now, true));
            }
            self.touch(&key, now, last);
        }
        out
    }

    fn begin(&mut self, target: &str, key: &AlertKey, now: EngineTime, out: &mut Vec<Notification>, last: Number<'_>) {
        if let Some(problem) = self.all.get_mut(key) {
            out.push(problem.notify(target, now, false));
        }
        self.touch(key, now, last);
    }

    /// What peers hold open, and this node does not, that a target is to be notified of.
    fn held_by_peers(&self, to: Speaking<'_>) -> Vec<(AlertKey, Alarm, EngineTime)> {
        let Speaking { node, target, peers, engine, now } = to;
        let mut all = BTreeMap::new();
        for (key, held) in peers.iter().filter(|peer| peer.answers()).flat_map(|peer| &peer.open) {
            let own = self.all.get(key);
            let is_known = own.is_some_and(|own| {
                let has_ended = own.closed.is_some_and(|closed| closed + 1.0 >= held.since);
                own.open || !own.is_news(target, held.alarm.severity) || has_ended
            });
            let stands_for_it = key.name == AlertName::InstanceDown && self.is_service_down(key);
            let is_quiet = || {
                let service = key.service.as_deref();
                service.is_some_and(|service| engine.is_maintained(service, key.instance.as_deref()))
            };
            if is_known
                || is_told_otherwise(key, node, peers)
                || stands_for_it
                || now - held.known < PATIENCE
                || is_well(key, engine)
                || is_quiet()
            {
                continue;
            }
            all.entry(key.clone()).or_insert_with(|| (held.alarm.clone(), held.since));
        }
        all.into_iter().map(|(key, (alarm, since))| (key, alarm, since)).collect()
    }

    /// Whether the alarm of its service stands for that of an instance.
    fn is_service_down(&self, key: &AlertKey) -> bool {
        let service = AlertKey { name: AlertName::ServiceDown, instance: None, ..key.clone() };
        self.all.get(&service).is_some_and(|problem| problem.open || problem.is_out())
    }

    /// All that is out at a target.
    pub(super) fn out(&self, target: &str) -> Vec<Notification> {
        let out = self.all.values().filter(|problem| problem.is_out_at(target));
        let again = |problem: &Problem| Notification {
            alarm: problem.alarm.clone(),
            resolved: false,
            event: None,
            detail: String::new(),
            version: 0,
            ending: None,
        };
        out.map(again).collect()
    }

    /// Whether a number is so old that changes after it are forgotten.
    pub(super) fn has_forgotten(&self, number: u64) -> bool {
        number < self.forgotten
    }

    /// What has changed after a number, as it is told to a peer, in the order of numbers.
    pub(super) fn rows(&self, since: u64, now: EngineTime, unix: UnixTime) -> impl Iterator<Item = (u64, ProblemRow)> {
        let after = self.log.range((Bound::Excluded(since), Bound::Unbounded));
        let changed = after.filter_map(|(number, key)| Some((*number, key, self.all.get(key)?)));
        let is_remembered = move |p: &Problem| {
            p.open || p.told.values().any(|told| told.arrived % 2 == 1) || now - p.changed < REMEMBERED - MARGIN
        };
        changed.filter(move |(.., problem)| is_remembered(problem)).map(move |(number, key, problem)| {
            let row = ProblemRow {
                key: key.clone(),
                severity: problem.alarm.severity,
                text: cut(&problem.alarm.text),
                age: (now - problem.since).max(0.0),
                ends_in: problem.alarm.until.map(|until| (until - unix).max(0.0)),
                open: problem.open,
                closed_age: problem.closed.map(|closed| (now - closed).max(0.0)),
                ending: problem.ending,
                told: problem
                    .told
                    .iter()
                    .filter_map(|(target, told)| Some((target.clone(), row_of(told, now)?)))
                    .collect(),
            };
            (number, row)
        })
    }
}

/// Whether that a peer is gone is for this node to know: it is one of the two, or has an alarm of its own about the same peer.
fn is_told_otherwise(key: &AlertKey, node: &str, peers: &[Peer]) -> bool {
    let is_gone = |name: &str| peers.iter().any(|peer| peer.name() == name && !peer.answers());
    key.nodes.as_ref().is_some_and(|nodes| nodes.iter().any(|one| one == node || is_gone(one)))
}

/// Bytes of a problem with a text of so many bytes, of which so many targets were told.
fn problem_bytes(key: &AlertKey, text: usize, targets: usize) -> usize {
    ENTRIES * entry_bytes::<Problem>(key) + text + told_bytes(targets)
}

/// Bytes of what so many targets were told of a problem.
fn told_bytes(targets: usize) -> usize {
    targets * size_of::<(CompactString, AtTarget)>() * 3 / 2
}

/// As much of a text as is told.
fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(MOST_TEXT)].to_string()
}

/// Whether this node has evidence that what a problem is about is well.
fn is_well(key: &AlertKey, engine: &Engine) -> bool {
    let service = || key.service.as_deref();
    match key.name {
        AlertName::InstanceDown => service().is_some_and(|service| engine.is_well(service, key.instance.as_deref())),
        AlertName::ServiceDown | AlertName::ServiceDegraded => {
            service().is_some_and(|service| engine.is_well(service, None))
        }
        AlertName::Job | AlertName::Health | AlertName::Watch => {
            let instance = || key.instance.as_deref();
            service().zip(instance()).is_some_and(|(service, instance)| match key.name {
                AlertName::Job => engine.is_well_job(service, instance),
                AlertName::Health => engine.is_well_by_check(service, instance),
                _ => engine.is_well_by_floor(service, instance),
            })
        }
        _ => false,
    }
}

/// What a peer is told of what a target was told: what is on its way may never arrive.
fn row_of(told: &AtTarget, now: EngineTime) -> Option<ToldRow> {
    let age = (now - told.notified).max(0.0);
    let severity = if told.arrived == told.version { told.severity } else { Severity::Info };
    (told.arrived > 0).then_some(ToldRow { version: told.arrived, age, severity })
}

/// How a problem ended, if that is an end.
fn resolved_ending(notification: &Notification) -> Option<Ending> {
    notification.resolved.then(|| notification.ending())
}

/// Whether somebody who answers has seen the end of what was notified at a time, or knows better.
fn is_over((key, problem): (&AlertKey, &Problem), notified: EngineTime, to: Speaking<'_>) -> bool {
    let Speaking { node, peers, engine, now, .. } = to;
    // Nobody but this node and its peer knows of the two. While the peer speaks still it tells that: it has seen the same.
    if let Some(nodes) = key.nodes.as_ref().filter(|nodes| nodes.iter().any(|one| one == node)) {
        let tells = |peer: &Peer| peer.answers() && peer.speaks && nodes.iter().any(|one| one == peer.name());
        return !peers.iter().any(tells) || now - problem.changed >= HANDOVER;
    }
    // What one drops it alone can see; if it is gone, nobody drops anything.
    let is_nobodys =
        key.name == AlertName::Ingest && peers.iter().all(|peer| peer.answers() || peer.is_gone(now) || peer.is_former);
    let after = |closed: EngineTime| closed + 1.0 >= notified;
    let by_peer = |peer: &Peer| peer.answers() && peer.closed.get(key).is_some_and(|seen| after(seen.at));
    problem.closed.is_some_and(after)
        || peers.iter().any(by_peer)
        || is_nobodys
        || is_well(key, engine)
        || key.name == AlertName::MassSilence && !engine.is_mass_silence()
        || now - problem.changed >= UNCLAIMED
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Holder, Memory};
    use crate::presence::alert_book::AlertState;

    fn notification(n: usize, resolved: bool) -> Notification {
        let key = AlertKey {
            service: Some("a".into()),
            instance: Some(n.to_string().into()),
            ..AlertKey::of(AlertName::Job)
        };
        let (severity, since, state) = (Severity::Critical, UnixTime::default(), AlertState::Firing);
        let alarm = Alarm { key, severity, text: String::new(), since, until: None, state };
        Notification { alarm, resolved, event: None, detail: String::new(), version: 0, ending: None }
    }

    #[test]
    fn own_problems_have_a_bound_and_the_oldest_that_are_over_make_room() {
        let held = Memory::unlimited().holding(Holder::Presence);
        let (mut problems, mut last) = (Problems::default(), 0);
        let mut note = |problems: &mut Problems, n: usize, resolved: bool| {
            problems.note(notification(n, resolved), EngineTime::from_secs(1.0), &mut last, &held);
        };
        note(&mut problems, 0, false);
        for n in 1..MOST + 500 {
            note(&mut problems, n, false);
            note(&mut problems, n, true);
        }
        assert_eq!(problems.all.len(), MOST - FORGOTTEN_AT_ONCE + 500);
        let knows = |n: usize| problems.knows(&notification(n, false).alarm.key);
        assert!(knows(0) && !knows(1) && !knows(FORGOTTEN_AT_ONCE) && knows(FORGOTTEN_AT_ONCE + 1));
        assert_eq!((problems.log.len(), held.bytes() as usize), (problems.all.len(), problems.heap_bytes()));
        assert!(problems.has_forgotten(2) && !problems.has_forgotten(last));
    }
}
