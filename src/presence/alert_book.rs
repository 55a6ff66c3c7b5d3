//! The alert book: which alarms are open. It takes the events that want a notification, lets a service's alarm inhibit the
//! warnings about its instances, and keeps the pairing rule: the end of a problem is notified if and only if the problem
//! was. Pure: time is an argument.

use std::collections::BTreeMap;

use compact_str::CompactString;

use serde::{Deserialize, Serialize};

use super::describe::{describe, over_text};
use super::text_bytes;
use crate::memory::footprint;
use crate::named::named_enum;

use super::event::{
    Change, Event, EventKind, Health, MassSilencePhase, Phase, Reason, Severity, WarningCode, WatchReason, WatchState,
};
use super::instance::State;
use super::jobs::{JobReason, JobState};
use super::service::ServiceState;
use super::time::UnixTime;

/// A warning about something that has no end stays out for so long, in seconds.
const PASSING: f64 = 300.0;

/// Whether a warning comes again for as long as what it is about lasts. It is one alarm then, which ends when none came for
/// so long.
fn is_repeated(code: WarningCode) -> bool {
    matches!(code, WarningCode::IngestDrops | WarningCode::QueueDrops)
}

named_enum! {
    /// What an alarm is called, as Alertmanager has it, in the order of the names: alarms are listed in it.
    pub enum AlertName {
        /// Two processes use one name, or goodbyes are repeated.
        Conflict = "PresenceConflict",
        /// An instance or a service goes up and down.
        Flapping = "PresenceFlapping",
        /// A service check says that something is wrong.
        Health = "PresenceHealth",
        /// We see less than we should.
        Ingest = "PresenceIngest",
        /// An instance is down.
        InstanceDown = "PresenceInstanceDown",
        /// A job failed, did not run, or does not end.
        Job = "PresenceJob",
        /// Most of what should be heard is silent.
        MassSilence = "PresenceMassSilence",
        /// Two observers cannot reach each other.
        PeerUnreachable = "PresencePeerUnreachable",
        /// Too few instances of a service are present.
        ServiceDegraded = "PresenceServiceDegraded",
        /// No instance of a service is present.
        ServiceDown = "PresenceServiceDown",
        /// A service has left and did not come back.
        ServiceGone = "PresenceServiceGone",
        /// Nothing is wrong: somebody asked for a test.
        Test = "PresenceTest",
        /// A watched metric has too few lines, or is no heartbeat.
        Watch = "PresenceWatch",
    }
}

impl AlertName {
    /// Under which name a warning is an alarm.
    fn of_warning(code: WarningCode) -> AlertName {
        match code {
            WarningCode::InstanceConflict | WarningCode::ZeroRepeated => AlertName::Conflict,
            WarningCode::ServiceGone => AlertName::ServiceGone,
            WarningCode::WatchIrregular => AlertName::Watch,
            WarningCode::PeerUnreachable => AlertName::PeerUnreachable,
            WarningCode::ClockStep
            | WarningCode::Deaf
            | WarningCode::HighLoss
            | WarningCode::IngestDrops
            | WarningCode::Limit
            | WarningCode::LocalPause
            | WarningCode::PromiseLoose
            | WarningCode::PromiseMismatch
            | WarningCode::QueueDrops
            | WarningCode::Sampled
            | WarningCode::StateLost => AlertName::Ingest,
        }
    }
}

impl AlertName {
    /// The kind of the events that open and end alarms with this name.
    pub fn kind(self) -> EventKind {
        match self {
            AlertName::Flapping => EventKind::Flapping,
            AlertName::Health => EventKind::Health,
            AlertName::InstanceDown => EventKind::Instance,
            AlertName::Job => EventKind::Job,
            AlertName::MassSilence => EventKind::MassSilence,
            AlertName::PeerUnreachable => EventKind::Peer,
            AlertName::ServiceDegraded | AlertName::ServiceDown => EventKind::Service,
            AlertName::Watch => EventKind::Watch,
            AlertName::Conflict | AlertName::Ingest | AlertName::ServiceGone | AlertName::Test => EventKind::Warning,
        }
    }
}

/// What an alarm is about: its identity, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AlertKey {
    /// What it is called.
    pub name: AlertName,
    /// Which service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<CompactString>,
    /// Which instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<CompactString>,
    /// Which warning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<WarningCode>,
    /// Which two observers, in the order of their names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<[CompactString; 2]>,
}

impl AlertKey {
    /// One of this name about nothing else.
    pub fn of(name: AlertName) -> AlertKey {
        AlertKey { name, service: None, instance: None, code: None, nodes: None }
    }

    fn new(name: AlertName, event: &Event) -> AlertKey {
        let instance = event.instance.clone().filter(|instance| **instance != *"*");
        let (service, nodes) = (event.service.clone(), event.nodes.clone());
        AlertKey { service, instance, nodes, ..AlertKey::of(name) }
    }

    /// One line that is the same for a problem and its end, and different for any two alarms: a `/` in a name is `%2F`, and
    /// what looks like that is escaped, too.
    pub fn dedup_key(&self) -> String {
        let mut key = self.name.to_string();
        let code = self.code.map(WarningCode::as_str);
        let names = [self.service.as_deref(), self.instance.as_deref(), code].into_iter().flatten();
        for part in names.chain(self.nodes.iter().flatten().map(CompactString::as_str)) {
            key.push('/');
            push_escaped(&mut key, part);
        }
        key
    }
}

/// Appends a name without `/`; ordinary names stay as they are.
fn push_escaped(key: &mut String, name: &str) {
    for (at, c) in name.char_indices() {
        match c {
            '/' => key.push_str("%2F"),
            '%' if name[at + 1..].starts_with("2F") || name[at + 1..].starts_with("25") => key.push_str("%25"),
            c => key.push(c),
        }
    }
}

impl AlertKey {
    /// Bytes that it takes beside itself.
    pub fn heap_bytes(&self) -> usize {
        let names = [&self.service, &self.instance].into_iter().flatten();
        names.chain(self.nodes.iter().flatten()).map(text_bytes).sum()
    }
}

impl Alarm {
    /// The same of an alarm.
    pub fn heap_bytes(&self) -> usize {
        self.key.heap_bytes() + footprint(self.text.capacity())
    }
}

/// An alarm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alarm {
    /// What it is about.
    #[serde(rename = "topic")]
    pub key: AlertKey,
    /// How grave it is.
    pub severity: Severity,
    /// In words.
    pub text: String,
    /// When the problem was seen.
    pub since: UnixTime,
    /// When it is over unless it is seen again; `None` lasts until it is resolved.
    pub until: Option<UnixTime>,
    /// Where it stands.
    #[serde(rename = "place")]
    pub state: AlertState,
}

/// Where an alarm stands.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum AlertState {
    /// It waits until then for a service's alarm that may replace it.
    #[serde(rename = "waiting")]
    Pending(UnixTime),
    /// Its service's alarm speaks for it; when that ends it gets so many seconds.
    #[serde(rename = "covered")]
    Inhibited(f64),
    /// It was notified.
    #[serde(rename = "told")]
    Firing,
}

named_enum! {
    /// How an alarm ended.
    pub enum Ending {
        /// What was wrong is well again, or is not seen any more.
        Over = "over",
        /// An instance said goodbye, or all of a service did.
        Left = "left",
        /// A newer instance took its place.
        Replaced = "replaced",
        /// It is not known any more.
        Forgotten = "forgotten",
        /// Maintenance began: it has not recovered.
        Maintenance = "maintenance",
    }
}

impl Ending {
    /// How something ends that this ends.
    pub fn of(change: &Change) -> Ending {
        match change {
            Change::Instance { to: None, .. }
            | Change::Service { to: None, .. }
            | Change::Watch { reason: WatchReason::Forgotten, .. }
            | Change::Job { reason: JobReason::Operator, .. } => Ending::Forgotten,
            Change::Instance { to: Some(State::Left), reason: Reason::Replaced, .. } => Ending::Replaced,
            Change::Instance { to: Some(State::Left), .. }
            | Change::Service { to: Some(ServiceState::Left), .. }
            | Change::Job { to: JobState::Retired, .. } => Ending::Left,
            Change::Service { to: Some(ServiceState::Maintenance), .. } => Ending::Maintenance,
            Change::Instance { .. }
            | Change::Service { .. }
            | Change::Job { .. }
            | Change::Health { .. }
            | Change::Watch { .. }
            | Change::Peer(_)
            | Change::Flapping(_)
            | Change::MassSilence(_)
            | Change::Maintenance(_)
            | Change::Warning(_)
            | Change::Restored(_) => Ending::Over,
        }
    }
}

/// What receivers are sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Notification {
    /// The alarm as it is now; its state means nothing here.
    pub alarm: Alarm,
    /// It is the end of it.
    pub resolved: bool,
    /// What happened; `None` for alarms that are repeated after a restart.
    pub event: Option<(u64, Event)>,
    /// More in words: who is down, and whether we see the others.
    pub detail: String,
    /// Among observers: which of the beginnings and ends that its target is told of the alarm; 0 if nobody counts them.
    pub version: u64,
    /// Of an end that another node has seen: how that was.
    pub ending: Option<Ending>,
}

impl Notification {
    /// How an end came about.
    pub fn ending(&self) -> Ending {
        let former = |event: &Event| event.peer.as_ref().is_some_and(|peer| peer.former);
        match &self.event {
            Some((_, event)) if former(event) => Ending::Forgotten,
            Some((_, event)) => Ending::of(&event.change),
            None => self.ending.unwrap_or(Ending::Over),
        }
    }
}

/// What a notification is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Which {
    /// Its alarm.
    pub key: AlertKey,
    /// Whether it is the end of it.
    pub resolved: bool,
    /// Its place among what its target is told of the alarm; 0 if nobody counts.
    pub version: u64,
    /// How grave it says the alarm is.
    pub severity: Severity,
}

/// What a notification is known by.
pub fn which(notification: &Notification) -> Which {
    let Notification { alarm, resolved, version, .. } = notification;
    Which { key: alarm.key.clone(), resolved: *resolved, version: *version, severity: alarm.severity }
}

/// Whether a change leaves nothing of a problem.
fn is_end(change: &Change) -> bool {
    match change {
        Change::Instance { to, .. } => *to != Some(State::Down),
        Change::Service { to, .. } => !to.is_some_and(ServiceState::is_bad),
        Change::Job { to, reason, .. } => {
            matches!(to, JobState::Ok | JobState::Retired) || *reason == JobReason::Operator
        }
        Change::Health { to, .. } => !to.is_some_and(Health::is_bad),
        Change::Watch { to, .. } => *to == WatchState::Ok,
        Change::Peer(phase) | Change::Flapping(phase) => *phase == Phase::End,
        Change::MassSilence(phase) => *phase == MassSilencePhase::End,
        Change::Maintenance(_) | Change::Warning(_) | Change::Restored(_) => false,
    }
}

/// Which alarms are open.
#[derive(Clone, Debug, Default)]
pub struct AlertBook {
    group_wait: f64,
    open: BTreeMap<AlertKey, Alarm>,
    /// Events of alarms that wait.
    waiting: BTreeMap<AlertKey, (u64, Event)>,
    /// When alarms are over whose warnings are repeated, unless another one comes.
    over_at: BTreeMap<AlertKey, UnixTime>,
}

impl AlertBook {
    /// An alert book with what an earlier one had open; warnings about instances and degraded services wait so many seconds.
    pub fn new(group_wait: f64, open: Vec<Alarm>) -> AlertBook {
        let open = open.into_iter().map(|alarm| (alarm.key.clone(), alarm)).collect();
        AlertBook { group_wait, open, ..AlertBook::default() }
    }

    /// Warnings about instances wait so long from now on.
    pub fn set_group_wait(&mut self, group_wait: f64) {
        self.group_wait = group_wait;
    }

    /// Every alarm that is open, notified or not.
    pub fn open(&self) -> impl Iterator<Item = &Alarm> {
        self.open.values()
    }

    /// Every alarm that was notified and is not over.
    pub fn firing(&self) -> impl Iterator<Item = &Alarm> {
        self.open().filter(|alarm| alarm.state == AlertState::Firing)
    }

    /// Takes an event, with its number; what is to be notified at once. Whoever was notified of a problem is of its end, too,
    /// though notifications are off by then.
    pub fn take(&mut self, id: u64, event: &Event) -> Vec<Notification> {
        if !event.notify && (self.open.is_empty() || !is_end(&event.change)) {
            return Vec::new();
        }
        let (numbered, key) = ((id, event.clone()), |name| AlertKey::new(name, event));
        match event.change {
            Change::Instance { to: Some(State::Down), .. } => {
                self.fire_or_wait(key(AlertName::InstanceDown), event, numbered)
            }
            Change::Instance { .. } => self.end(&key(AlertName::InstanceDown), numbered),
            Change::Service { to: Some(ServiceState::Down), .. } => {
                let mut out = self.end(&key(AlertName::ServiceDegraded), numbered.clone());
                self.inhibit(event);
                out.push(self.fire(key(AlertName::ServiceDown), event, numbered, None));
                out
            }
            Change::Service { to: Some(ServiceState::Degraded), .. } => {
                let mut out = self.end(&key(AlertName::ServiceDown), numbered.clone());
                self.release(event);
                // A service that dies, or comes back, is degraded on the way.
                out.extend(self.fire_or_wait(key(AlertName::ServiceDegraded), event, numbered));
                out
            }
            Change::Service { .. } => {
                let mut out = self.end(&key(AlertName::ServiceDown), numbered.clone());
                out.extend(self.end(&key(AlertName::ServiceDegraded), numbered));
                self.release(event);
                out
            }
            Change::Job { to, .. } if to.level() > 0 => vec![self.fire(key(AlertName::Job), event, numbered, None)],
            // A start is no end of a problem.
            Change::Job { to: JobState::Ok | JobState::Retired, .. }
            | Change::Job { reason: JobReason::Operator, .. } => self.end(&key(AlertName::Job), numbered),
            Change::Health { to: Some(to), .. } if to.is_bad() => {
                vec![self.fire(key(AlertName::Health), event, numbered, None)]
            }
            Change::Health { .. } => self.end(&key(AlertName::Health), numbered),
            Change::Watch { to: WatchState::Low, .. } => {
                vec![self.fire(key(AlertName::Watch), event, numbered, None)]
            }
            Change::Watch { to: WatchState::Ok, .. } => self.end(&key(AlertName::Watch), numbered),
            Change::Peer(Phase::Start) => vec![self.fire(key(AlertName::PeerUnreachable), event, numbered, None)],
            Change::Peer(Phase::End) => self.end(&key(AlertName::PeerUnreachable), numbered),
            Change::Flapping(Phase::Start) => vec![self.fire(key(AlertName::Flapping), event, numbered, None)],
            Change::Flapping(Phase::End) => self.end(&key(AlertName::Flapping), numbered),
            Change::MassSilence(MassSilencePhase::Start) => {
                vec![self.fire(key(AlertName::MassSilence), event, numbered, None)]
            }
            Change::MassSilence(MassSilencePhase::End) => self.end(&key(AlertName::MassSilence), numbered),
            Change::Warning(code) => {
                let name = AlertName::of_warning(code);
                let is_repeated = is_repeated(code);
                let code = (name != AlertName::ServiceGone).then_some(code);
                let key = AlertKey { code, ..key(name) };
                if !is_repeated {
                    return vec![self.fire(key, event, numbered, Some(event.at + PASSING))];
                }
                let is_open = self.open.get(&key).is_some_and(|alarm| alarm.until.is_none());
                self.over_at.insert(key.clone(), event.at + PASSING);
                if is_open { Vec::new() } else { vec![self.fire(key, event, numbered, None)] }
            }
            Change::Job { .. }
            | Change::MassSilence(MassSilencePhase::HoldExpired)
            | Change::Maintenance(_)
            | Change::Restored(_) => Vec::new(),
        }
    }

    /// Lets time pass: what has waited long enough, and what is over by itself. What is in maintenance waits until that is
    /// over.
    pub fn tick(&mut self, now: UnixTime, is_maintained: impl Fn(&str, Option<&str>) -> bool) -> Vec<Notification> {
        let mut out = Vec::new();
        let is_maintained = |AlertKey { service, instance, .. }: &AlertKey| {
            service.as_deref().is_some_and(|service| is_maintained(service, instance.as_deref()))
        };
        for alarm in self.open.values_mut() {
            if let AlertState::Pending(until) = alarm.state
                && now >= until
                && !is_maintained(&alarm.key)
            {
                alarm.state = AlertState::Firing;
                let event = self.waiting.remove(&alarm.key);
                out.push(Notification {
                    alarm: alarm.clone(),
                    resolved: false,
                    event,
                    detail: String::new(),
                    version: 0,
                    ending: None,
                });
            }
        }
        // What ends by itself was notified with its end.
        self.open.retain(|_, alarm| alarm.until.is_none_or(|until| now < until));
        out.extend(self.end_repeated(now));
        out
    }

    /// Ends alarms whose warnings are repeated, and were not for long enough. One of before a restart of ours has that time from
    /// then on.
    fn end_repeated(&mut self, now: UnixTime) -> Vec<Notification> {
        let is_meant = |alarm: &&Alarm| alarm.until.is_none() && alarm.key.code.is_some_and(is_repeated);
        let mut over = Vec::new();
        for alarm in self.open.values().filter(is_meant) {
            let over_at = self.over_at.entry(alarm.key.clone()).or_insert(now + PASSING);
            // The wall clock may have been set back.
            *over_at = over_at.min(now + PASSING);
            if now >= *over_at {
                over.push(alarm.key.clone());
            }
        }
        let end = |key: AlertKey| {
            self.over_at.remove(&key);
            let alarm = self.open.remove(&key)?;
            let alarm = Alarm { text: over_text(&key), ..alarm };
            Some(Notification { alarm, resolved: true, event: None, detail: String::new(), version: 0, ending: None })
        };
        over.into_iter().filter_map(end).collect()
    }

    fn put(&mut self, key: AlertKey, event: &Event, state: AlertState, until: Option<UnixTime>) -> Alarm {
        match self.open.get_mut(&key) {
            // The same again: it lasts.
            Some(alarm) => {
                (alarm.text, alarm.state, alarm.until) = (describe(event), state, until);
                // A job that overran and then failed is worse than before.
                alarm.severity = alarm.severity.min(event.severity());
                alarm.clone()
            }
            None => {
                let (severity, text) = (event.severity(), describe(event));
                let alarm = Alarm { key: key.clone(), severity, text, since: event.at, until, state };
                self.open.insert(key, alarm.clone());
                alarm
            }
        }
    }

    /// A warning for which something worse may be about to stand.
    fn fire_or_wait(&mut self, key: AlertKey, event: &Event, numbered: (u64, Event)) -> Vec<Notification> {
        if self.group_wait > 0.0 && !self.open.contains_key(&key) {
            self.waiting.insert(key.clone(), numbered);
            self.put(key, event, AlertState::Pending(event.at + self.group_wait), None);
            return Vec::new();
        }
        vec![self.fire(key, event, numbered, None)]
    }

    fn fire(&mut self, key: AlertKey, event: &Event, numbered: (u64, Event), until: Option<UnixTime>) -> Notification {
        self.waiting.remove(&key);
        let alarm = self.put(key, event, AlertState::Firing, until);
        Notification { alarm, resolved: false, event: Some(numbered), detail: String::new(), version: 0, ending: None }
    }

    fn end(&mut self, key: &AlertKey, numbered: (u64, Event)) -> Vec<Notification> {
        let Some(mut alarm) = self.open.remove(key) else { return Vec::new() };
        self.waiting.remove(key);
        if alarm.state != AlertState::Firing {
            return Vec::new();
        }
        alarm.text = describe(&numbered.1);
        vec![Notification {
            alarm,
            resolved: true,
            event: Some(numbered),
            detail: String::new(),
            version: 0,
            ending: None,
        }]
    }

    /// The warnings about instances of an event's service.
    fn instance_warnings(&mut self, event: &Event) -> impl Iterator<Item = &mut Alarm> {
        let service = event.service.clone();
        let first = AlertKey { service: service.clone(), ..AlertKey::of(AlertName::InstanceDown) };
        let of_it = move |key: &AlertKey| key.name == AlertName::InstanceDown && key.service == service;
        self.open.range_mut(first..).take_while(move |(key, _)| of_it(key)).map(|(_, alarm)| alarm)
    }

    /// The alarm of a service inhibits the warnings that are still pending.
    fn inhibit(&mut self, event: &Event) {
        let waiting = std::mem::take(&mut self.waiting);
        let least = self.group_wait;
        for alarm in self.instance_warnings(event).filter(|alarm| matches!(alarm.state, AlertState::Pending(_))) {
            let context = waiting.get(&alarm.key).and_then(|(_, event)| event.context.as_ref());
            alarm.state = AlertState::Inhibited(context.map_or(least, |context| context.timeout_s));
        }
        self.waiting = waiting;
    }

    /// The service is back. An instance that is not back within its timeout is notified by itself.
    fn release(&mut self, event: &Event) {
        for alarm in self.instance_warnings(event) {
            if let AlertState::Inhibited(timeout) = alarm.state {
                alarm.state = AlertState::Pending(event.at + timeout);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::event::InstanceContext;

    fn at(secs: f64) -> UnixTime {
        UnixTime::from_secs(secs)
    }

    fn event(at_secs: f64, instance: Option<&str>, change: Change) -> Event {
        let context = InstanceContext { timeout_s: 45.0, ..InstanceContext::default() };
        Event {
            service: Some("a".into()),
            instance: instance.map(Into::into),
            context: Some(context),
            ..Event::new(at(at_secs), change, true)
        }
    }

    fn instance(at_secs: f64, name: &str, to: State) -> Event {
        event(at_secs, Some(name), Change::Instance { from: None, to: Some(to), reason: Reason::MissedBeats })
    }

    fn service(at_secs: f64, to: ServiceState) -> Event {
        event(at_secs, None, Change::Service { from: None, to: Some(to) })
    }

    fn nobody(_: &str, _: Option<&str>) -> bool {
        false
    }

    fn notified(notices: &[Notification]) -> Vec<(String, bool)> {
        notices.iter().map(|notice| (notice.alarm.key.dedup_key(), notice.resolved)).collect()
    }

    #[test]
    fn a_warning_waits_and_its_end_is_told_only_if_it_was() {
        let mut alerts = AlertBook::new(10.0, Vec::new());
        assert!(alerts.take(1, &instance(0.0, "x", State::Down)).is_empty());
        assert!(alerts.tick(at(9.0), nobody).is_empty());
        assert!(alerts.take(2, &instance(9.5, "x", State::Up)).is_empty());
        assert!(alerts.tick(at(20.0), nobody).is_empty());
        alerts.take(3, &instance(30.0, "x", State::Down));
        let key = "PresenceInstanceDown/a/x".to_string();
        assert_eq!(notified(&alerts.tick(at(40.0), nobody)), [(key.clone(), false)]);
        assert_eq!(notified(&alerts.take(4, &instance(50.0, "x", State::Up))), [(key, true)]);
        assert_eq!(alerts.open().count(), 0);
    }

    #[test]
    fn a_service_alarm_replaces_the_warnings_that_wait_until_it_is_back() {
        let mut alerts = AlertBook::new(10.0, Vec::new());
        alerts.take(1, &instance(0.0, "x", State::Down));
        alerts.take(2, &instance(1.0, "y", State::Down));
        let down = alerts.take(3, &service(2.0, ServiceState::Down));
        assert_eq!(notified(&down), [("PresenceServiceDown/a".to_string(), false)]);
        assert!(alerts.tick(at(100.0), nobody).is_empty());
        assert!(alerts.take(4, &instance(110.0, "x", State::Up)).is_empty());
        let up = alerts.take(5, &service(110.0, ServiceState::Up));
        assert_eq!(notified(&up), [("PresenceServiceDown/a".to_string(), true)]);
        assert!(alerts.tick(at(150.0), nobody).is_empty());
        assert_eq!(notified(&alerts.tick(at(155.0), nobody)), [("PresenceInstanceDown/a/y".to_string(), false)]);
    }

    #[test]
    fn maintenance_of_a_dead_service_keeps_its_instances_quiet_until_it_is_over() {
        let mut alerts = AlertBook::new(10.0, Vec::new());
        alerts.take(1, &instance(0.0, "x", State::Down));
        alerts.take(2, &service(4.0, ServiceState::Down));
        let began = alerts.take(3, &service(100.0, ServiceState::Maintenance));
        assert_eq!(notified(&began), [("PresenceServiceDown/a".to_string(), true)]);
        assert!(alerts.tick(at(5000.0), |service, _| service == "a").is_empty());
        // Somebody else is back meanwhile, which is no news.
        let up = Event { notify: false, ..service(5000.0, ServiceState::Up) };
        assert!(alerts.take(4, &up).is_empty());
        assert_eq!(notified(&alerts.tick(at(14_500.0), nobody)), [("PresenceInstanceDown/a/x".to_string(), false)]);
    }

    #[test]
    fn degraded_that_becomes_down_is_another_alarm() {
        let mut alerts = AlertBook::new(10.0, Vec::new());
        assert!(alerts.take(1, &service(0.0, ServiceState::Degraded)).is_empty());
        let (degraded, down) = ("PresenceServiceDegraded/a".to_string(), "PresenceServiceDown/a".to_string());
        assert_eq!(notified(&alerts.tick(at(10.0), nobody)), [(degraded.clone(), false)]);
        let worse = alerts.take(2, &service(15.0, ServiceState::Down));
        assert_eq!(notified(&worse), [(degraded, true), (down, false)]);
    }

    #[test]
    fn a_service_that_is_degraded_on_the_way_down_or_back_up_is_one_alarm() {
        let mut alerts = AlertBook::new(10.0, Vec::new());
        assert!(alerts.take(1, &service(0.0, ServiceState::Degraded)).is_empty());
        let down = "PresenceServiceDown/a".to_string();
        assert_eq!(notified(&alerts.take(2, &service(4.0, ServiceState::Down))), [(down.clone(), false)]);
        assert!(alerts.tick(at(60.0), nobody).is_empty());
        assert_eq!(notified(&alerts.take(3, &service(60.0, ServiceState::Degraded))), [(down, true)]);
        assert!(alerts.take(4, &service(63.0, ServiceState::Up)).is_empty());
        assert!(alerts.tick(at(100.0), nobody).is_empty());
        assert_eq!(alerts.open().count(), 0);
    }

    #[test]
    fn a_job_has_one_alarm_that_grows_worse_and_ends_with_a_good_run() {
        let mut alerts = AlertBook::new(10.0, Vec::new());
        let job = |secs: f64, to: JobState, reason: JobReason| {
            event(secs, Some("-"), Change::Job { from: JobState::Running, to, reason })
        };
        let key = "PresenceJob/a/-".to_string();
        let overrun = alerts.take(1, &job(0.0, JobState::Overrun, JobReason::MaxRuntime));
        assert_eq!((notified(&overrun), overrun[0].alarm.severity), (vec![(key.clone(), false)], Severity::Warning));
        let failed = alerts.take(2, &job(5.0, JobState::Failed, JobReason::Exit(1)));
        assert_eq!((notified(&failed), failed[0].alarm.severity), (vec![(key.clone(), false)], Severity::Critical));
        assert!(alerts.take(3, &job(6.0, JobState::Running, JobReason::Started)).is_empty());
        assert_eq!(notified(&alerts.take(4, &job(9.0, JobState::Ok, JobReason::Ended))), [(key, true)]);
        assert_eq!(alerts.open().count(), 0);
    }

    #[test]
    fn what_a_check_a_watch_or_a_peer_opens_it_ends() {
        let mut alerts = AlertBook::new(10.0, Vec::new());
        let health = |to| event(0.0, Some("x"), Change::Health { from: None, to: Some(to) });
        let watch = |to| event(0.0, Some("x"), Change::Watch { from: WatchState::Ok, to, reason: WatchReason::Floor });
        let peer =
            |phase| Event { nodes: Some(["n1".into(), "n2".into()]), ..Event::new(at(0.0), Change::Peer(phase), true) };
        for (key, start, end) in [
            ("PresenceHealth/a/x", health(Health::Unknown), health(Health::Warning)),
            ("PresenceWatch/a/x", watch(WatchState::Low), watch(WatchState::Ok)),
            ("PresencePeerUnreachable/n1/n2", peer(Phase::Start), peer(Phase::End)),
        ] {
            assert_eq!(notified(&alerts.take(1, &start)), [(key.to_string(), false)]);
            assert_eq!(notified(&alerts.take(2, &end)), [(key.to_string(), true)]);
        }
    }

    #[test]
    fn what_ends_when_notifications_are_off_ends_for_who_was_told_and_nobody_else() {
        let job = |to, reason| event(0.0, Some("x"), Change::Job { from: JobState::Running, to, reason });
        let flapping = |phase| event(0.0, Some("*"), Change::Flapping(phase));
        for (key, start, end) in [
            (
                "PresenceJob/a/x",
                job(JobState::Failed, JobReason::Exit(1)),
                Event { notify: false, ..job(JobState::Ok, JobReason::Ended) },
            ),
            ("PresenceFlapping/a", flapping(Phase::Start), Event { notify: false, ..flapping(Phase::End) }),
        ] {
            let mut alerts = AlertBook::new(10.0, Vec::new());
            assert_eq!(notified(&alerts.take(1, &start)), [(key.to_string(), false)]);
            let mut alerts = AlertBook::new(10.0, alerts.open().cloned().collect());
            assert!(alerts.take(2, &Event { notify: false, ..start.clone() }).is_empty());
            assert_eq!(notified(&alerts.take(3, &end)), [(key.to_string(), true)]);
            assert!(alerts.take(4, &Event { notify: false, ..start }).is_empty());
            assert!(alerts.take(5, &end).is_empty() && alerts.take(6, &Event { notify: true, ..end }).is_empty());
        }
    }

    #[test]
    fn a_warning_without_an_end_is_over_by_itself() {
        let mut alerts = AlertBook::new(10.0, Vec::new());
        let limit = Event::new(at(0.0), Change::Warning(WarningCode::Limit), true);
        assert_eq!(alerts.take(1, &limit)[0].alarm.until, Some(at(300.0)));
        assert_eq!(alerts.take(2, &Event { at: at(60.0), ..limit })[0].alarm.until, Some(at(360.0)));
        assert!(alerts.tick(at(360.0), nobody).is_empty());
        assert_eq!(alerts.open().count(), 0);
    }

    #[test]
    fn drops_that_go_on_are_one_alarm_which_ends_some_minutes_after_the_last() {
        let mut alerts = AlertBook::new(10.0, Vec::new());
        let drops = |secs: f64| Event::new(at(secs), Change::Warning(WarningCode::IngestDrops), true);
        let key = "PresenceIngest/ingest_drops".to_string();
        let began = alerts.take(1, &drops(0.0));
        assert_eq!((notified(&began), began[0].alarm.until), (vec![(key.clone(), false)], None));
        for n in 1..60 {
            let now = f64::from(n) * 240.0;
            assert!(alerts.tick(at(now), nobody).is_empty() && alerts.take(2, &drops(now)).is_empty(), "{now}");
        }
        let last = 59.0 * 240.0;
        assert!(alerts.tick(at(last + 299.0), nobody).is_empty());
        // Over a restart of ours, too.
        let open: Vec<Alarm> = alerts.open().cloned().collect();
        let mut restarted = AlertBook::new(10.0, open);
        assert!(
            restarted.tick(at(last + 400.0), nobody).is_empty() && restarted.take(3, &drops(last + 410.0)).is_empty()
        );
        assert!(restarted.tick(at(last + 709.0), nobody).is_empty());
        for (alerts, end) in [(&mut alerts, last + 300.0), (&mut restarted, last + 710.0)] {
            let ended = alerts.tick(at(end), nobody);
            assert_eq!((notified(&ended), ended[0].alarm.since), (vec![(key.clone(), true)], at(0.0)));
            assert_eq!((alerts.open().count(), alerts.over_at.len()), (0, 0));
        }
    }

    #[test]
    fn keys_of_different_alarms_differ_and_ordinary_names_stay_as_they_are() {
        let key = |service: &str, instance: &str| {
            let (service, instance) = (Some(service.into()), Some(instance.into()));
            AlertKey { service, instance, ..AlertKey::of(AlertName::InstanceDown) }.dedup_key()
        };
        assert_eq!(key("checkout.eu", "web-1:50%@é"), "PresenceInstanceDown/checkout.eu/web-1:50%@é");
        assert_eq!(key("a/b", "c"), "PresenceInstanceDown/a%2Fb/c");
        let names = ["a/b", "a", "b/c", "c", "a%2Fb", "a%252Fb", "a%25", "a%", "%2", "%/"];
        let all: Vec<(&str, &str)> = names.iter().flat_map(|a| names.map(|b| (*a, b))).collect();
        let keys: std::collections::BTreeSet<String> = all.iter().map(|(a, b)| key(a, b)).collect();
        assert_eq!(keys.len(), all.len(), "{keys:?}");
    }
}
