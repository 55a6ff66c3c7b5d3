//! The alert book: which alarms are to be out. It takes what the engine wants told, lets a service's alarm replace the
//! warnings of its instances that it covers, and holds the pairing rule: the end of a problem is told if and only if the
//! problem was. Pure: time is an argument.

use std::collections::BTreeMap;

use compact_str::CompactString;

use serde::{Deserialize, Serialize};

use super::describe::describe;
use super::event::{Event, EventKind};

/// A warning about something that has no end stays out for so long, in seconds.
const PASSING: f64 = 300.0;

/// What an alarm is about: its identity, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AlertKey {
    /// As Alertmanager has it: `PresenceServiceDown` and the like.
    pub name: String,
    /// Which service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<CompactString>,
    /// Which instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<CompactString>,
    /// Which warning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

impl AlertKey {
    fn new(name: &str, event: &Event) -> AlertKey {
        let instance = event.instance.clone().filter(|instance| **instance != *"*");
        AlertKey { name: name.into(), service: event.service.clone(), instance, code: None }
    }

    /// One line that is the same for a problem and its end.
    pub fn key(&self) -> String {
        let mut key = self.name.clone();
        for part in [self.service.as_deref(), self.instance.as_deref(), self.code.as_deref()].into_iter().flatten() {
            key.push('/');
            key.push_str(part);
        }
        key
    }
}

/// An alarm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alarm {
    /// What it is about.
    pub topic: AlertKey,
    /// `critical` or `warning`.
    pub severity: String,
    /// In words.
    pub text: String,
    /// When the problem was seen, in Unix seconds.
    pub since: f64,
    /// When it is over unless it is seen again, in Unix seconds; `None` lasts until it is resolved.
    pub until: Option<f64>,
    /// Where it stands.
    pub place: AlertState,
}

/// Where an alarm stands.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum AlertState {
    /// It waits until then, in Unix seconds, for a service's alarm that may replace it.
    #[serde(rename = "waiting")]
    Pending(f64),
    /// Its service's alarm speaks for it; when that ends it gets so many seconds.
    #[serde(rename = "covered")]
    Inhibited(f64),
    /// It was told.
    #[serde(rename = "told")]
    Firing,
}

/// What is to be told to whoever is to be told.
#[derive(Clone, Debug, PartialEq)]
pub struct Notification {
    /// The alarm as it is now; its `place` says nothing here.
    pub alarm: Alarm,
    /// It is the end of it.
    pub resolved: bool,
    /// What happened; `None` for alarms that are told again after a restart.
    pub event: Option<(u64, Event)>,
    /// More in words: who is down, and whether we see the others.
    pub detail: String,
}

/// Which alarms are open. Times are Unix seconds.
#[derive(Clone, Debug, Default)]
pub struct AlertBook {
    group_wait: f64,
    open: BTreeMap<AlertKey, Alarm>,
    /// Events of alarms that wait.
    waiting: BTreeMap<AlertKey, (u64, Event)>,
}

impl AlertBook {
    /// An alert book with what an earlier one had open; warnings about instances wait so many seconds.
    pub fn new(group_wait: f64, open: Vec<Alarm>) -> AlertBook {
        let open = open.into_iter().map(|alarm| (alarm.topic.clone(), alarm)).collect();
        AlertBook { group_wait, open, ..AlertBook::default() }
    }

    /// Every alarm that is open, told or not.
    pub fn open(&self) -> impl Iterator<Item = &Alarm> {
        self.open.values()
    }

    /// Every alarm that was told and is not over.
    pub fn firing(&self) -> impl Iterator<Item = &Alarm> {
        self.open().filter(|alarm| alarm.place == AlertState::Firing)
    }

    /// Takes an event, with its number; what is to be told at once.
    pub fn take(&mut self, id: u64, event: &Event) -> Vec<Notification> {
        if !event.notify {
            return Vec::new();
        }
        let (id_and_event, topic) = ((id, event.clone()), |name: &str| AlertKey::new(name, event));
        match (event.kind, event.to) {
            (EventKind::Instance, Some("down")) => {
                let topic = topic("PresenceInstanceDown");
                if self.group_wait > 0.0 && !self.open.contains_key(&topic) {
                    self.waiting.insert(topic.clone(), id_and_event);
                    self.put(topic, event, AlertState::Pending(event.at + self.group_wait), None);
                    return Vec::new();
                }
                vec![self.fire(topic, event, id_and_event, None)]
            }
            (EventKind::Instance, _) => self.end(&topic("PresenceInstanceDown"), id_and_event),
            (EventKind::Service, Some("down")) => {
                let mut out = self.end(&topic("PresenceServiceDegraded"), id_and_event.clone());
                self.cover(event);
                out.push(self.fire(topic("PresenceServiceDown"), event, id_and_event, None));
                out
            }
            (EventKind::Service, Some("degraded")) => {
                let mut out = self.end(&topic("PresenceServiceDown"), id_and_event.clone());
                self.uncover(event);
                out.push(self.fire(topic("PresenceServiceDegraded"), event, id_and_event, None));
                out
            }
            (EventKind::Service, _) => {
                let mut out = self.end(&topic("PresenceServiceDown"), id_and_event.clone());
                out.extend(self.end(&topic("PresenceServiceDegraded"), id_and_event));
                self.uncover(event);
                out
            }
            (EventKind::Flapping, Some("start")) => {
                vec![self.fire(topic("PresenceFlapping"), event, id_and_event, None)]
            }
            (EventKind::Flapping, _) => self.end(&topic("PresenceFlapping"), id_and_event),
            (EventKind::MassSilence, Some("start")) => {
                vec![self.fire(topic("PresenceMassSilence"), event, id_and_event, None)]
            }
            (EventKind::MassSilence, Some("end")) => self.end(&topic("PresenceMassSilence"), id_and_event),
            (EventKind::Warning, _) => {
                let code = event.code.unwrap_or("");
                let mut topic = topic(match code {
                    "instance_conflict" | "zero_repeated" => "PresenceConflict",
                    "service_gone" => "PresenceServiceGone",
                    _ => "PresenceIngest",
                });
                topic.code = (topic.name != "PresenceServiceGone").then(|| code.to_string());
                vec![self.fire(topic, event, id_and_event, Some(event.at + PASSING))]
            }
            (EventKind::MassSilence | EventKind::Maintenance | EventKind::Restored, _) => Vec::new(),
        }
    }

    /// Lets time pass: what has waited long enough, and what is over by itself.
    pub fn tick(&mut self, now: f64) -> Vec<Notification> {
        let mut out = Vec::new();
        for alarm in self.open.values_mut() {
            if let AlertState::Pending(until) = alarm.place
                && now >= until
            {
                alarm.place = AlertState::Firing;
                let event = self.waiting.remove(&alarm.topic);
                out.push(Notification { alarm: alarm.clone(), resolved: false, event, detail: String::new() });
            }
        }
        // What ends by itself was told with its end.
        self.open.retain(|_, alarm| alarm.until.is_none_or(|until| now < until));
        out
    }

    fn put(&mut self, topic: AlertKey, event: &Event, place: AlertState, until: Option<f64>) -> Alarm {
        let severity = event.severity().to_string();
        match self.open.get_mut(&topic) {
            // The same again: it lasts.
            Some(alarm) => {
                (alarm.text, alarm.place, alarm.until) = (describe(event), place, until);
                alarm.clone()
            }
            None => {
                let text = describe(event);
                let alarm = Alarm { topic: topic.clone(), severity, text, since: event.at, until, place };
                self.open.insert(topic, alarm.clone());
                alarm
            }
        }
    }

    fn fire(&mut self, topic: AlertKey, event: &Event, and_event: (u64, Event), until: Option<f64>) -> Notification {
        self.waiting.remove(&topic);
        let alarm = self.put(topic, event, AlertState::Firing, until);
        Notification { alarm, resolved: false, event: Some(and_event), detail: String::new() }
    }

    fn end(&mut self, topic: &AlertKey, and_event: (u64, Event)) -> Vec<Notification> {
        let Some(mut alarm) = self.open.remove(topic) else { return Vec::new() };
        self.waiting.remove(topic);
        if alarm.place != AlertState::Firing {
            return Vec::new();
        }
        alarm.text = describe(&and_event.1);
        vec![Notification { alarm, resolved: true, event: Some(and_event), detail: String::new() }]
    }

    /// The warnings about instances of an event's service.
    fn warnings(&mut self, event: &Event) -> impl Iterator<Item = &mut Alarm> {
        let service = event.service.clone();
        let first = AlertKey { name: "PresenceInstanceDown".into(), service, instance: None, code: None };
        let (name, service) = (first.name.clone(), first.service.clone());
        let of_it = move |topic: &AlertKey| topic.name == name && topic.service == service;
        self.open.range_mut(first..).take_while(move |(topic, _)| of_it(topic)).map(|(_, alarm)| alarm)
    }

    /// The alarm of a service speaks for the warnings that still wait.
    fn cover(&mut self, event: &Event) {
        let waiting = std::mem::take(&mut self.waiting);
        let least = self.group_wait;
        for alarm in self.warnings(event).filter(|alarm| matches!(alarm.place, AlertState::Pending(_))) {
            let facts = waiting.get(&alarm.topic).and_then(|(_, event)| event.facts.as_ref());
            alarm.place = AlertState::Inhibited(facts.map_or(least, |facts| facts.timeout_s));
        }
        self.waiting = waiting;
    }

    /// The service is back. Who is not back within its timeout is told by itself.
    fn uncover(&mut self, event: &Event) {
        for alarm in self.warnings(event) {
            if let AlertState::Inhibited(timeout) = alarm.place {
                alarm.place = AlertState::Pending(event.at + timeout);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::event::InstanceContext;

    fn event(at: f64, kind: EventKind, instance: Option<&str>, to: &'static str) -> Event {
        let facts = InstanceContext { timeout_s: 45.0, ..InstanceContext::default() };
        Event {
            service: Some("a".into()),
            instance: instance.map(Into::into),
            to: Some(to),
            facts: Some(facts),
            ..Event::new(at, kind, true)
        }
    }

    fn notified(notices: &[Notification]) -> Vec<(String, bool)> {
        notices.iter().map(|notice| (notice.alarm.topic.key(), notice.resolved)).collect()
    }

    #[test]
    fn a_warning_waits_and_its_end_is_told_only_if_it_was() {
        let mut alerts = AlertBook::new(10.0, Vec::new());
        assert!(alerts.take(1, &event(0.0, EventKind::Instance, Some("x"), "down")).is_empty());
        assert!(alerts.tick(9.0).is_empty());
        assert!(alerts.take(2, &event(9.5, EventKind::Instance, Some("x"), "up")).is_empty());
        assert!(alerts.tick(20.0).is_empty());
        alerts.take(3, &event(30.0, EventKind::Instance, Some("x"), "down"));
        let key = "PresenceInstanceDown/a/x".to_string();
        assert_eq!(notified(&alerts.tick(40.0)), [(key.clone(), false)]);
        assert_eq!(notified(&alerts.take(4, &event(50.0, EventKind::Instance, Some("x"), "up"))), [(key, true)]);
        assert_eq!(alerts.open().count(), 0);
    }

    #[test]
    fn a_service_alarm_replaces_the_warnings_that_wait_until_it_is_back() {
        let mut alerts = AlertBook::new(10.0, Vec::new());
        alerts.take(1, &event(0.0, EventKind::Instance, Some("x"), "down"));
        alerts.take(2, &event(1.0, EventKind::Instance, Some("y"), "down"));
        let down = alerts.take(3, &event(2.0, EventKind::Service, None, "down"));
        assert_eq!(notified(&down), [("PresenceServiceDown/a".to_string(), false)]);
        assert!(alerts.tick(100.0).is_empty());
        assert!(alerts.take(4, &event(110.0, EventKind::Instance, Some("x"), "up")).is_empty());
        let up = alerts.take(5, &event(110.0, EventKind::Service, None, "up"));
        assert_eq!(notified(&up), [("PresenceServiceDown/a".to_string(), true)]);
        assert!(alerts.tick(150.0).is_empty());
        assert_eq!(notified(&alerts.tick(155.0)), [("PresenceInstanceDown/a/y".to_string(), false)]);
    }

    #[test]
    fn degraded_that_becomes_down_is_another_alarm() {
        let mut alerts = AlertBook::new(10.0, Vec::new());
        alerts.take(1, &event(0.0, EventKind::Service, None, "degraded"));
        let worse = alerts.take(2, &event(5.0, EventKind::Service, None, "down"));
        let (degraded, down) = ("PresenceServiceDegraded/a".to_string(), "PresenceServiceDown/a".to_string());
        assert_eq!(notified(&worse), [(degraded, true), (down, false)]);
    }

    #[test]
    fn a_warning_without_an_end_is_over_by_itself() {
        let mut alerts = AlertBook::new(10.0, Vec::new());
        let drops = Event { code: Some("ingest_drops"), ..Event::new(0.0, EventKind::Warning, true) };
        assert_eq!(alerts.take(1, &drops)[0].alarm.until, Some(300.0));
        assert_eq!(alerts.take(2, &Event { at: 60.0, ..drops })[0].alarm.until, Some(360.0));
        assert!(alerts.tick(360.0).is_empty());
        assert_eq!(alerts.open().count(), 0);
    }
}
