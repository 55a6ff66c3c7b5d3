//! The desk: which alarms are to be out. It takes what the engine wants told, lets a service's alarm replace the
//! warnings of its instances that it covers, and holds the pairing rule: the end of a problem is told if and only if the
//! problem was. Pure: time is an argument.

use std::collections::BTreeMap;

use compact_str::CompactString;

use serde::{Deserialize, Serialize};

use super::event::{Event, EventKind};
use super::words::sentence;

/// A warning about something that has no end stays out for so long, in seconds.
const PASSING: f64 = 300.0;

/// What an alarm is about: its identity, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Topic {
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

impl Topic {
    fn new(name: &str, event: &Event) -> Topic {
        let instance = event.instance.clone().filter(|instance| **instance != *"*");
        Topic { name: name.into(), service: event.service.clone(), instance, code: None }
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
    pub topic: Topic,
    /// `critical` or `warning`.
    pub severity: String,
    /// In words.
    pub text: String,
    /// When the problem was seen, in Unix seconds.
    pub since: f64,
    /// When it is over unless it is seen again, in Unix seconds; `None` lasts until it is resolved.
    pub until: Option<f64>,
    /// Where it stands.
    pub place: Place,
}

/// Where an alarm stands.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// It waits until then, in Unix seconds, for a service's alarm that may replace it.
    Waiting(f64),
    /// Its service's alarm speaks for it; when that ends it gets so many seconds.
    Covered(f64),
    /// It was told.
    Told,
}

/// What is to be told to whoever is to be told.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
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
pub struct Desk {
    group_wait: f64,
    open: BTreeMap<Topic, Alarm>,
    /// Events of alarms that wait.
    waiting: BTreeMap<Topic, (u64, Event)>,
}

impl Desk {
    /// A desk with what an earlier one had open; warnings about instances wait so many seconds.
    pub fn new(group_wait: f64, open: Vec<Alarm>) -> Desk {
        let open = open.into_iter().map(|alarm| (alarm.topic.clone(), alarm)).collect();
        Desk { group_wait, open, ..Desk::default() }
    }

    /// Every alarm that is open, told or not.
    pub fn open(&self) -> impl Iterator<Item = &Alarm> {
        self.open.values()
    }

    /// Every alarm that was told and is not over.
    pub fn told(&self) -> impl Iterator<Item = &Alarm> {
        self.open().filter(|alarm| alarm.place == Place::Told)
    }

    /// Takes an event, with its number; what is to be told at once.
    pub fn take(&mut self, id: u64, event: &Event) -> Vec<Notice> {
        if !event.notify {
            return Vec::new();
        }
        let (id_and_event, topic) = ((id, event.clone()), |name: &str| Topic::new(name, event));
        match (event.kind, event.to) {
            (EventKind::Instance, Some("down")) => {
                let topic = topic("PresenceInstanceDown");
                if self.group_wait > 0.0 && !self.open.contains_key(&topic) {
                    self.waiting.insert(topic.clone(), id_and_event);
                    self.put(topic, event, Place::Waiting(event.at + self.group_wait), None);
                    return Vec::new();
                }
                vec![self.tell(topic, event, id_and_event, None)]
            }
            (EventKind::Instance, _) => self.end(&topic("PresenceInstanceDown"), id_and_event),
            (EventKind::Service, Some("down")) => {
                let mut out = self.end(&topic("PresenceServiceDegraded"), id_and_event.clone());
                self.cover(event);
                out.push(self.tell(topic("PresenceServiceDown"), event, id_and_event, None));
                out
            }
            (EventKind::Service, Some("degraded")) => {
                let mut out = self.end(&topic("PresenceServiceDown"), id_and_event.clone());
                self.uncover(event);
                out.push(self.tell(topic("PresenceServiceDegraded"), event, id_and_event, None));
                out
            }
            (EventKind::Service, _) => {
                let mut out = self.end(&topic("PresenceServiceDown"), id_and_event.clone());
                out.extend(self.end(&topic("PresenceServiceDegraded"), id_and_event));
                self.uncover(event);
                out
            }
            (EventKind::Flapping, Some("start")) => {
                vec![self.tell(topic("PresenceFlapping"), event, id_and_event, None)]
            }
            (EventKind::Flapping, _) => self.end(&topic("PresenceFlapping"), id_and_event),
            (EventKind::MassSilence, Some("start")) => {
                vec![self.tell(topic("PresenceMassSilence"), event, id_and_event, None)]
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
                vec![self.tell(topic, event, id_and_event, Some(event.at + PASSING))]
            }
            (EventKind::MassSilence | EventKind::Maintenance | EventKind::Restored, _) => Vec::new(),
        }
    }

    /// Lets time pass: what has waited long enough, and what is over by itself.
    pub fn tick(&mut self, now: f64) -> Vec<Notice> {
        let mut out = Vec::new();
        for alarm in self.open.values_mut() {
            if let Place::Waiting(until) = alarm.place
                && now >= until
            {
                alarm.place = Place::Told;
                let event = self.waiting.remove(&alarm.topic);
                out.push(Notice { alarm: alarm.clone(), resolved: false, event, detail: String::new() });
            }
        }
        // What ends by itself was told with its end.
        self.open.retain(|_, alarm| alarm.until.is_none_or(|until| now < until));
        out
    }

    fn put(&mut self, topic: Topic, event: &Event, place: Place, until: Option<f64>) -> Alarm {
        let severity = event.severity().to_string();
        match self.open.get_mut(&topic) {
            // The same again: it lasts.
            Some(alarm) => {
                (alarm.text, alarm.place, alarm.until) = (sentence(event), place, until);
                alarm.clone()
            }
            None => {
                let text = sentence(event);
                let alarm = Alarm { topic: topic.clone(), severity, text, since: event.at, until, place };
                self.open.insert(topic, alarm.clone());
                alarm
            }
        }
    }

    fn tell(&mut self, topic: Topic, event: &Event, and_event: (u64, Event), until: Option<f64>) -> Notice {
        self.waiting.remove(&topic);
        let alarm = self.put(topic, event, Place::Told, until);
        Notice { alarm, resolved: false, event: Some(and_event), detail: String::new() }
    }

    fn end(&mut self, topic: &Topic, and_event: (u64, Event)) -> Vec<Notice> {
        let Some(mut alarm) = self.open.remove(topic) else { return Vec::new() };
        self.waiting.remove(topic);
        if alarm.place != Place::Told {
            return Vec::new();
        }
        alarm.text = sentence(&and_event.1);
        vec![Notice { alarm, resolved: true, event: Some(and_event), detail: String::new() }]
    }

    /// The warnings about instances of an event's service.
    fn warnings(&mut self, event: &Event) -> impl Iterator<Item = &mut Alarm> {
        let service = event.service.clone();
        let first = Topic { name: "PresenceInstanceDown".into(), service, instance: None, code: None };
        let (name, service) = (first.name.clone(), first.service.clone());
        let of_it = move |topic: &Topic| topic.name == name && topic.service == service;
        self.open.range_mut(first..).take_while(move |(topic, _)| of_it(topic)).map(|(_, alarm)| alarm)
    }

    /// The alarm of a service speaks for the warnings that still wait.
    fn cover(&mut self, event: &Event) {
        let waiting = std::mem::take(&mut self.waiting);
        let least = self.group_wait;
        for alarm in self.warnings(event).filter(|alarm| matches!(alarm.place, Place::Waiting(_))) {
            let facts = waiting.get(&alarm.topic).and_then(|(_, event)| event.facts.as_ref());
            alarm.place = Place::Covered(facts.map_or(least, |facts| facts.timeout_s));
        }
        self.waiting = waiting;
    }

    /// The service is back. Who is not back within its timeout is told by itself.
    fn uncover(&mut self, event: &Event) {
        for alarm in self.warnings(event) {
            if let Place::Covered(timeout) = alarm.place {
                alarm.place = Place::Waiting(event.at + timeout);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::event::Facts;

    fn event(at: f64, kind: EventKind, instance: Option<&str>, to: &'static str) -> Event {
        let facts = Facts { timeout_s: 45.0, ..Facts::default() };
        Event {
            service: Some("a".into()),
            instance: instance.map(Into::into),
            to: Some(to),
            facts: Some(facts),
            ..Event::new(at, kind, true)
        }
    }

    fn told(notices: &[Notice]) -> Vec<(String, bool)> {
        notices.iter().map(|notice| (notice.alarm.topic.key(), notice.resolved)).collect()
    }

    #[test]
    fn a_warning_waits_and_its_end_is_told_only_if_it_was() {
        let mut desk = Desk::new(10.0, Vec::new());
        assert!(desk.take(1, &event(0.0, EventKind::Instance, Some("x"), "down")).is_empty());
        assert!(desk.tick(9.0).is_empty());
        assert!(desk.take(2, &event(9.5, EventKind::Instance, Some("x"), "up")).is_empty());
        assert!(desk.tick(20.0).is_empty());
        desk.take(3, &event(30.0, EventKind::Instance, Some("x"), "down"));
        let key = "PresenceInstanceDown/a/x".to_string();
        assert_eq!(told(&desk.tick(40.0)), [(key.clone(), false)]);
        assert_eq!(told(&desk.take(4, &event(50.0, EventKind::Instance, Some("x"), "up"))), [(key, true)]);
        assert_eq!(desk.open().count(), 0);
    }

    #[test]
    fn a_service_alarm_replaces_the_warnings_that_wait_until_it_is_back() {
        let mut desk = Desk::new(10.0, Vec::new());
        desk.take(1, &event(0.0, EventKind::Instance, Some("x"), "down"));
        desk.take(2, &event(1.0, EventKind::Instance, Some("y"), "down"));
        let down = desk.take(3, &event(2.0, EventKind::Service, None, "down"));
        assert_eq!(told(&down), [("PresenceServiceDown/a".to_string(), false)]);
        assert!(desk.tick(100.0).is_empty());
        assert!(desk.take(4, &event(110.0, EventKind::Instance, Some("x"), "up")).is_empty());
        let up = desk.take(5, &event(110.0, EventKind::Service, None, "up"));
        assert_eq!(told(&up), [("PresenceServiceDown/a".to_string(), true)]);
        assert!(desk.tick(150.0).is_empty());
        assert_eq!(told(&desk.tick(155.0)), [("PresenceInstanceDown/a/y".to_string(), false)]);
    }

    #[test]
    fn degraded_that_becomes_down_is_another_alarm() {
        let mut desk = Desk::new(10.0, Vec::new());
        desk.take(1, &event(0.0, EventKind::Service, None, "degraded"));
        let worse = desk.take(2, &event(5.0, EventKind::Service, None, "down"));
        let (degraded, down) = ("PresenceServiceDegraded/a".to_string(), "PresenceServiceDown/a".to_string());
        assert_eq!(told(&worse), [(degraded, true), (down, false)]);
    }

    #[test]
    fn a_warning_without_an_end_is_over_by_itself() {
        let mut desk = Desk::new(10.0, Vec::new());
        let drops = Event { code: Some("ingest_drops"), ..Event::new(0.0, EventKind::Warning, true) };
        assert_eq!(desk.take(1, &drops)[0].alarm.until, Some(300.0));
        assert_eq!(desk.take(2, &Event { at: 60.0, ..drops })[0].alarm.until, Some(360.0));
        assert!(desk.tick(360.0).is_empty());
        assert_eq!(desk.open().count(), 0);
    }
}
