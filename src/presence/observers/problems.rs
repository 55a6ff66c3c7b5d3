//! Which problems are notified, by whom. Notifying goes by the level and not by the edge: whoever speaks notifies what it
//! or a peer holds open and nobody has notified, and the end of what was notified when nobody holds it open any more and
//! somebody knows that it is over. So a new speaker repeats nothing and forgets nothing, and a node that does not see a
//! problem cannot end it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::presence::Alarm;
use crate::presence::alert_book::{AlertKey, AlertName, Notification};
use crate::presence::engine::Engine;
use crate::presence::event::Event;
use crate::presence::time::{EngineTime, UnixTime};

use super::digest::ProblemRow;
use super::peer::{Peer, alarm_of};

/// How long a problem that is over is remembered, in seconds; and how long before that a peer is not told of it any more, so
/// that nobody learns what another has just forgotten.
const REMEMBERED: f64 = 3600.0;
const MARGIN: f64 = 10.0;

/// What a peer holds open, and this node does not, is notified after so many seconds: it may be about to see the same, or
/// what stands for it.
const PATIENCE: f64 = 0.9;

/// What was notified, and nobody holds open or has seen the end of, is over after so many seconds.
const UNCLAIMED: f64 = 86_400.0;

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
    /// How often its beginning or its end was notified, by whomever: odd while it is out; when last; and what of that is
    /// known to have arrived.
    version: u64,
    notified: EngineTime,
    arrived: u64,
    /// Number of its last change.
    #[serde(skip)]
    number: u64,
    #[serde(skip)]
    changed: EngineTime,
    /// What happened, for whoever is notified.
    #[serde(skip)]
    event: Option<(u64, Event)>,
}

impl Problem {
    fn new(alarm: Alarm, since: EngineTime, now: EngineTime) -> Problem {
        Problem {
            alarm,
            since,
            open: false,
            closed: None,
            version: 0,
            notified: now,
            arrived: 0,
            number: 0,
            changed: now,
            event: None,
        }
    }

    fn is_out(&self) -> bool {
        self.version % 2 == 1
    }

    /// Counts that its beginning or its end is notified now.
    fn notify(&mut self, now: EngineTime, resolved: bool) -> Notification {
        self.version += 1;
        self.notified = now;
        let (alarm, event) = (self.alarm.clone(), self.event.clone());
        Notification { alarm, resolved, event, detail: String::new() }
    }
}

/// All problems of late.
#[derive(Debug, Default)]
pub(super) struct Problems {
    all: BTreeMap<AlertKey, Problem>,
    /// By the number of the last change.
    log: BTreeMap<u64, AlertKey>,
    /// The last change that is forgotten: who has not got it begins anew.
    forgotten: u64,
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
            (problem.version, problem.open) = (problem.arrived, false);
            problems.all.insert(problem.alarm.key.clone(), problem);
        }
        for alarm in firing {
            let since = now - (unix - alarm.since).max(0.0);
            let key = alarm.key.clone();
            let is_new = !problems.all.contains_key(&key);
            let problem = problems.all.entry(key).or_insert_with(|| Problem::new(alarm.clone(), since, now));
            (problem.open, problem.closed, problem.alarm) = (true, None, alarm);
            if is_new {
                // It was notified before there were several observers.
                (problem.version, problem.arrived) = (1, 1);
            }
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
    pub(super) fn note(&mut self, notification: Notification, now: EngineTime, last: Number<'_>) {
        let Notification { alarm, resolved, event, .. } = notification;
        let key = alarm.key.clone();
        let problem = self.all.entry(key.clone()).or_insert_with(|| Problem::new(alarm.clone(), now, now));
        if !resolved && !problem.open {
            problem.since = now;
        }
        (problem.alarm, problem.open, problem.event) = (alarm, !resolved, event);
        problem.closed = resolved.then_some(now);
        self.touch(&key, now, last);
    }

    /// Takes what a peer knows of a problem; whether what this node is about to notify of it was notified by others.
    pub(super) fn learn(&mut self, row: &ProblemRow, now: EngineTime, unix: UnixTime, last: Number<'_>) -> bool {
        if row.version == 0 {
            return false;
        }
        let since = now - row.age;
        let problem = self.all.entry(row.key.clone()).or_insert_with(|| Problem::new(alarm_of(row, unix), since, now));
        if row.version < problem.version || row.version == problem.version && problem.arrived == problem.version {
            return false;
        }
        let was_on_its_way = problem.arrived < problem.version;
        (problem.version, problem.arrived) = (row.version, row.version);
        problem.notified = now - row.notified_age.unwrap_or(0.0);
        if !problem.open {
            problem.alarm = alarm_of(row, unix);
        }
        self.touch(&row.key, now, last);
        was_on_its_way
    }

    /// What was notified has arrived, as far as it was before a time.
    pub(super) fn note_arrived(&mut self, until: EngineTime, now: EngineTime, last: Number<'_>) {
        let is_new = |problem: &&Problem| problem.arrived < problem.version && problem.notified <= until;
        let keys: Vec<AlertKey> = self.all.values().filter(is_new).map(|problem| problem.alarm.key.clone()).collect();
        for key in keys {
            if let Some(problem) = self.all.get_mut(&key) {
                problem.arrived = problem.version;
            }
            self.touch(&key, now, last);
        }
    }

    /// What is on its way is taken back: somebody else notifies.
    pub(super) fn take_back(&mut self, now: EngineTime, last: Number<'_>) {
        let keys: Vec<AlertKey> =
            self.all.iter().filter(|(_, p)| p.arrived < p.version).map(|(k, _)| k.clone()).collect();
        for key in keys {
            if let Some(problem) = self.all.get_mut(&key) {
                problem.version = problem.arrived;
            }
            self.touch(&key, now, last);
        }
    }

    /// What is over by itself, and what nobody remembers any more.
    pub(super) fn tick(&mut self, now: EngineTime, unix: UnixTime, last: Number<'_>) {
        let mut ended = Vec::new();
        for (key, problem) in &mut self.all {
            if (problem.open || problem.is_out()) && problem.alarm.until.is_some_and(|until| unix >= until) {
                // It was notified with its end.
                (problem.open, problem.closed, problem.event) = (false, Some(now), None);
                problem.version += u64::from(problem.is_out());
                problem.arrived = problem.version;
                ended.push(key.clone());
            }
        }
        for key in ended {
            self.touch(&key, now, last);
        }
        let old = self.log.first_key_value().and_then(|(_, key)| self.all.get(key));
        if old.is_none_or(|problem| now - problem.changed < REMEMBERED) {
            return;
        }
        let is_old = |p: &Problem| !p.open && !p.is_out() && now - p.changed >= REMEMBERED;
        let gone: Vec<AlertKey> = self.all.iter().filter(|(_, p)| is_old(p)).map(|(key, _)| key.clone()).collect();
        for key in gone {
            if let Some(problem) = self.all.remove(&key) {
                self.log.remove(&problem.number);
                self.forgotten = self.forgotten.max(problem.number);
            }
        }
    }

    /// What is to be notified by whoever speaks.
    pub(super) fn speak(&mut self, node: &str, peers: &[Peer], engine: &Engine, last: Number<'_>) -> Vec<Notification> {
        let now = engine.now();
        let mut out = Vec::new();
        let begins: Vec<AlertKey> =
            self.all.iter().filter(|(_, p)| p.open && !p.is_out()).map(|(k, _)| k.clone()).collect();
        for key in begins {
            self.begin(&key, now, &mut out, last);
        }
        for (key, alarm, since) in self.held_by_peers(node, peers, engine) {
            let problem = self.all.entry(key.clone()).or_insert_with(|| Problem::new(alarm.clone(), since, now));
            (problem.alarm, problem.event) = (alarm, None);
            self.begin(&key, now, &mut out, last);
        }
        let held: BTreeSet<&AlertKey> =
            peers.iter().filter(|peer| peer.answers()).flat_map(|peer| peer.open.keys()).collect();
        let is_over = |(key, problem): &(&AlertKey, &Problem)| {
            problem.is_out() && !problem.open && !held.contains(key) && is_over((key, problem), node, peers, engine)
        };
        let ends: Vec<AlertKey> = self.all.iter().filter(is_over).map(|(key, _)| key.clone()).collect();
        for key in ends {
            if let Some(problem) = self.all.get_mut(&key) {
                out.push(problem.notify(now, true));
            }
            self.touch(&key, now, last);
        }
        out
    }

    fn begin(&mut self, key: &AlertKey, now: EngineTime, out: &mut Vec<Notification>, last: Number<'_>) {
        if let Some(problem) = self.all.get_mut(key) {
            out.push(problem.notify(now, false));
        }
        self.touch(key, now, last);
    }

    /// What peers hold open, and this node does not, that is to be notified.
    fn held_by_peers(&self, node: &str, peers: &[Peer], engine: &Engine) -> Vec<(AlertKey, Alarm, EngineTime)> {
        let now = engine.now();
        let mut all = BTreeMap::new();
        for (key, held) in peers.iter().filter(|peer| peer.answers()).flat_map(|peer| &peer.open) {
            let own = self.all.get(key);
            let is_known = own.is_some_and(|own| {
                let has_ended = own.closed.is_some_and(|closed| closed + 1.0 >= held.since);
                own.open || own.is_out() || has_ended
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

    /// All that is out, for receivers that forget what is not repeated.
    pub(super) fn out(&self) -> Vec<Notification> {
        let out = self.all.values().filter(|problem| problem.is_out());
        let again = |problem: &Problem| Notification {
            alarm: problem.alarm.clone(),
            resolved: false,
            event: None,
            detail: String::new(),
        };
        out.map(again).collect()
    }

    /// Whether a number is so old that changes after it are forgotten.
    pub(super) fn has_forgotten(&self, number: u64) -> bool {
        number < self.forgotten
    }

    /// What has changed after a number and up to another, as it is told to a peer.
    pub(super) fn rows(&self, since: u64, most: usize, now: EngineTime, unix: UnixTime) -> Vec<(u64, ProblemRow)> {
        let changed = self.log.range(since + 1..).filter_map(|(number, key)| Some((*number, key, self.all.get(key)?)));
        let is_remembered =
            |problem: &Problem| problem.open || problem.arrived % 2 == 1 || now - problem.changed < REMEMBERED - MARGIN;
        let rows = changed.filter(|(.., problem)| is_remembered(problem)).map(|(number, key, problem)| {
            let row = ProblemRow {
                key: key.clone(),
                severity: problem.alarm.severity,
                text: problem.alarm.text.clone(),
                age: (now - problem.since).max(0.0),
                ends_in: problem.alarm.until.map(|until| (until - unix).max(0.0)),
                open: problem.open,
                closed_age: problem.closed.map(|closed| (now - closed).max(0.0)),
                // What is on its way may never arrive.
                version: problem.arrived,
                notified_age: (problem.arrived > 0).then(|| (now - problem.notified).max(0.0)),
            };
            (number, row)
        });
        rows.take(most).collect()
    }
}

/// Whether that a peer is gone is for this node to know: it is one of the two, or has an alarm of its own about the same peer.
fn is_told_otherwise(key: &AlertKey, node: &str, peers: &[Peer]) -> bool {
    let is_gone = |name: &str| peers.iter().any(|peer| peer.name() == name && !peer.answers());
    key.nodes.as_ref().is_some_and(|nodes| nodes.iter().any(|one| one == node || is_gone(one)))
}

/// Whether this node has evidence that what a problem is about is well.
fn is_well(key: &AlertKey, engine: &Engine) -> bool {
    let service = || key.service.as_deref();
    match key.name {
        AlertName::InstanceDown => service().is_some_and(|service| engine.is_well(service, key.instance.as_deref())),
        AlertName::ServiceDown | AlertName::ServiceDegraded => {
            service().is_some_and(|service| engine.is_well(service, None))
        }
        _ => false,
    }
}

/// Whether somebody who answers has seen the end of what was notified, or knows better.
fn is_over((key, problem): (&AlertKey, &Problem), node: &str, peers: &[Peer], engine: &Engine) -> bool {
    let now = engine.now();
    // Nobody but this node and its peer knows of the two.
    if key.nodes.as_ref().is_some_and(|nodes| nodes.iter().any(|one| one == node)) {
        return true;
    }
    let after = |closed: EngineTime| closed + 1.0 >= problem.notified;
    let by_peer = |peer: &Peer| peer.answers() && peer.closed.get(key).is_some_and(|&closed| after(closed));
    problem.closed.is_some_and(after)
        || peers.iter().any(by_peer)
        || is_well(key, engine)
        || key.name == AlertName::MassSilence && !engine.is_mass_silence()
        || now - problem.changed >= UNCLAIMED
}
