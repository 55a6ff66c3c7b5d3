//! Presence as series: what every flush tells the sinks, and what a scrape of ours shows.

use compact_str::CompactString;

use crate::protocol::Ignored;

use super::engine::{BlindSeconds, Engine, Refusals};
use super::instance::{Instance, State};
use super::policy::SeriesOf;
use super::service::{Service, ServiceState};

/// Instances up to which each has series of its own; beyond, only services have.
const INSTANCE_SERIES: usize = 10_000;

/// Every series of presence that sinks get.
pub const SERIES: [&str; 23] = [
    "presence_up",
    "presence_state",
    "presence_availability",
    "presence_silence_seconds",
    "presence_timeout_seconds",
    "presence_interval_seconds",
    "presence_beats_total",
    "presence_missed_total",
    "presence_held",
    "presence_maintenance",
    "presence_flapping",
    "presence_service_up",
    "presence_service_instances",
    "presence_service_min",
    "presence_transitions_total",
    "presence_mass_silence",
    "presence_blind_seconds_total",
    "presence_roster_instances",
    "presence_ignored_total",
    "presence_rejected_total",
    "presence_evicted_total",
    "presence_stragglers_total",
    "presence_info",
];

/// One value for sinks.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// Name of the series.
    pub name: &'static str,
    /// Tags, in order.
    pub tags: Vec<(&'static str, CompactString)>,
    /// The value.
    pub value: f64,
    /// It counts; else it is a level.
    pub counts: bool,
}

fn level(name: &'static str, tags: Vec<(&'static str, CompactString)>, value: f64) -> Reading {
    Reading { name, tags, value, counts: false }
}

fn count(name: &'static str, tags: Vec<(&'static str, CompactString)>, value: f64) -> Reading {
    Reading { name, tags, value, counts: true }
}

fn flag(flag: bool) -> f64 {
    f64::from(u8::from(flag))
}

fn number(state: State) -> f64 {
    match state {
        State::Unknown => 0.0,
        State::Up => 1.0,
        State::Late => 2.0,
        State::Down => 3.0,
        State::Left => 4.0,
    }
}

fn who(service: &Service, instance: &Instance) -> Vec<(&'static str, CompactString)> {
    vec![("instance", instance.name.clone()), ("service", service.name.clone())]
}

impl Engine {
    pub(super) fn is_held(&self, instance: &Instance) -> bool {
        instance.member && instance.state.is_present() && self.mass.as_ref().is_some_and(|mass| !mass.expired)
    }

    fn has_instance_series(&self) -> bool {
        match self.policy.series {
            SeriesOf::Auto => self.count <= INSTANCE_SERIES,
            SeriesOf::Instances => true,
            SeriesOf::Services => false,
        }
    }

    /// The values of this moment for sinks. What counts, and the availability, is since this was last asked.
    pub fn readings(&mut self) -> Vec<Reading> {
        let mut all = Vec::new();
        let (now, told) = (self.now, std::mem::replace(&mut self.told_at, self.now));
        let services: Vec<u32> = (0..self.services.len() as u32).collect();
        for sid in services {
            let Some(service) = &mut self.services[sid as usize] else { continue };
            for (to, moved) in Service::TRANSITIONS.iter().zip(std::mem::take(&mut service.transitions)) {
                if moved > 0 {
                    let tags =
                        vec![("service", service.name.clone()), ("to", to.map_or("forgotten", State::as_str).into())];
                    all.push(count("presence_transitions_total", tags, f64::from(moved)));
                }
            }
            if !self.has_instance_series() {
                continue;
            }
            for id in self.service(sid).instances.clone() {
                let tags = who(self.service(sid), self.instance(id));
                let instance = self.instance_mut(id);
                let beats = std::mem::take(&mut instance.fresh_received);
                let missed = std::mem::take(&mut instance.fresh_missed);
                let (changed, first) = (instance.changed, instance.first);
                let share = instance.history.take_availability(now, changed, told, first, instance.state);
                all.push(count("presence_beats_total", tags.clone(), f64::from(beats)));
                all.push(count("presence_missed_total", tags.clone(), f64::from(missed)));
                if instance.state != State::Left {
                    all.push(level("presence_availability", tags, share));
                }
            }
        }
        self.levels(&mut all);
        let blind = std::mem::replace(&mut self.told_blind, self.blind);
        let refusals = std::mem::replace(&mut self.told_refusals, self.refusals);
        trouble(self.blind, blind, &self.refusals, &refusals, &mut all);
        all
    }

    /// The values of this moment for a scrape. What counts is since the start.
    pub fn scraped(&self) -> Vec<Reading> {
        let mut all = Vec::new();
        self.levels(&mut all);
        if self.has_instance_series() {
            for service in self.sorted_services() {
                for instance in service.instances.iter().map(|&id| self.instance(id)) {
                    all.push(count("presence_beats_total", who(service, instance), instance.received as f64));
                    all.push(count("presence_missed_total", who(service, instance), instance.missed as f64));
                    if instance.state != State::Left {
                        let mut tags = who(service, instance);
                        tags.push(("start", instance.start.clone().unwrap_or_default()));
                        tags.push(("version", instance.version.clone().unwrap_or_default()));
                        all.push(level("presence_info", tags, 1.0));
                    }
                }
            }
        }
        trouble(self.blind, BlindSeconds::default(), &self.refusals(), &Refusals::default(), &mut all);
        all
    }

    fn levels(&self, all: &mut Vec<Reading>) {
        let by_instance = self.has_instance_series();
        for service in self.sorted_services() {
            let tag = || vec![("service", service.name.clone())];
            let is_up = matches!(service.state, Some(ServiceState::Up | ServiceState::Degraded));
            if is_up || service.state == Some(ServiceState::Down) {
                all.push(level("presence_service_up", tag(), flag(is_up)));
            }
            if let Some(min) = service.rules.min {
                all.push(level("presence_service_min", tag(), f64::from(min)));
            }
            for state in State::ALL {
                let count = service.instances.iter().filter(|&&id| self.instance(id).state == state).count();
                let tags = vec![("service", service.name.clone()), ("state", state.as_str().into())];
                all.push(level("presence_service_instances", tags, count as f64));
            }
            if !by_instance {
                continue;
            }
            // No level of one that left: a series that stays is a zombie.
            let instances = service.instances.iter().map(|&id| self.instance(id));
            for instance in instances.filter(|instance| instance.state != State::Left) {
                let mut push = |name, value| all.push(level(name, who(service, instance), value));
                push("presence_up", flag(instance.state.is_present()));
                push("presence_state", number(instance.state));
                push("presence_silence_seconds", self.silence(instance));
                push("presence_timeout_seconds", instance.timing(&self.policy, &service.rules).down);
                if let Some(interval) = instance.interval(&self.policy) {
                    push("presence_interval_seconds", interval);
                }
                push("presence_held", flag(self.is_held(instance)));
                push("presence_maintenance", flag(self.in_maintenance(instance)));
                push("presence_flapping", flag(instance.flapping));
            }
        }
        if self.count > 0 {
            all.push(level("presence_mass_silence", Vec::new(), flag(self.mass.is_some())));
            all.push(level("presence_roster_instances", Vec::new(), self.count as f64));
        }
    }
}

/// Blindness and refusals beyond what was told.
fn trouble(blind: BlindSeconds, told_blind: BlindSeconds, all: &Refusals, told: &Refusals, out: &mut Vec<Reading>) {
    let seconds = [
        ("restart", blind.restart - told_blind.restart),
        ("pause", blind.pause - told_blind.pause),
        ("drops", blind.drops - told_blind.drops),
        ("queue", blind.queue - told_blind.queue),
    ];
    for (cause, seconds) in seconds.into_iter().filter(|(_, seconds)| *seconds > 0.0) {
        out.push(count("presence_blind_seconds_total", vec![("cause", cause.into())], seconds));
    }
    let rejected = all.by_reason().into_iter().zip(told.by_reason());
    let rejected = rejected.map(|((reason, all), (_, told))| ("presence_rejected_total", reason.as_str(), all - told));
    let ignored = Ignored::ALL.into_iter().zip(all.ignored.iter().zip(told.ignored));
    let ignored = ignored.map(|(why, (all, told))| ("presence_ignored_total", why.name(), all - told));
    for (name, reason, n) in rejected.chain(ignored).filter(|(.., n)| *n > 0) {
        out.push(count(name, vec![("reason", reason.into())], n as f64));
    }
    if all.evicted > told.evicted {
        out.push(count("presence_evicted_total", Vec::new(), (all.evicted - told.evicted) as f64));
    }
    if all.stragglers > told.stragglers {
        out.push(count("presence_stragglers_total", Vec::new(), (all.stragglers - told.stragglers) as f64));
    }
}
