//! What is told of presence: series for sinks, and views for people and programs.

use serde::Serialize;

use super::engine::Engine;
use super::instance::{Instance, State};
use super::service::{Service, ServiceState};

/// Instances up to which each has series of its own; beyond, only services have.
const INSTANCE_SERIES: usize = 10_000;

/// One value for sinks.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// Name of the series.
    pub name: &'static str,
    /// Tags, in order.
    pub tags: Vec<(&'static str, Box<str>)>,
    /// The value.
    pub value: f64,
    /// It counts; else it is a level.
    pub counts: bool,
}

/// A service with its instances, as the API shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ServiceView {
    /// Its name.
    pub service: Box<str>,
    /// `up`, `degraded`, `down`, `maintenance`, `left` or `unknown`.
    pub state: &'static str,
    /// Instances that are up, late or unconfirmed.
    pub present: usize,
    /// Instances that are down.
    pub down: usize,
    /// Instances that left.
    pub left: usize,
    /// Instances that must be present.
    pub min: Option<u32>,
    /// Share below which it is degraded.
    pub quorum: f64,
    /// In this state since, Unix seconds.
    pub since: f64,
    /// Its instances by name.
    pub instances: Vec<InstanceView>,
}

/// An instance, as the API shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InstanceView {
    /// Its name.
    pub instance: Box<str>,
    /// `up`, `late`, `down`, `left` or `unknown`.
    pub state: &'static str,
    /// In this state since, Unix seconds.
    pub since: f64,
    /// Silent for so long, our own blindness left out.
    pub silence_s: f64,
    /// Interval in force, if it is known.
    pub interval_s: Option<f64>,
    /// `promise`, `learned`, `measured` (slower than promised) or `learning`.
    pub interval_source: &'static str,
    /// Beats that must be missed.
    pub misses: Option<u32>,
    /// Silence that means down.
    pub timeout_s: f64,
    /// Seconds until it is late, if nothing is heard.
    pub late_in_s: Option<f64>,
    /// Seconds until it is down, if nothing is heard.
    pub down_in_s: Option<f64>,
    /// As it said.
    pub version: Option<Box<str>>,
    /// As it said.
    pub start: Option<Box<str>>,
    /// Last sender's address.
    pub source: Option<String>,
    /// Status of its last service check.
    pub health: Option<u8>,
    /// `maintenance`, `flapping`, `held`, `learning`, `mismatch`.
    pub flags: Vec<&'static str>,
}

fn level(state: State) -> f64 {
    match state {
        State::Unknown => 0.0,
        State::Up => 1.0,
        State::Late => 2.0,
        State::Down => 3.0,
        State::Left => 4.0,
    }
}

impl Engine {
    fn is_held(&self, instance: &Instance) -> bool {
        instance.member && instance.state.is_present() && self.mass.as_ref().is_some_and(|mass| !mass.expired)
    }

    fn sorted_services(&self) -> Vec<&Service> {
        let mut services: Vec<&Service> = self.services.iter().flatten().collect();
        services.sort_by(|a, b| a.name.cmp(&b.name));
        services
    }

    /// The values of this moment. Beats and losses count since this was last asked.
    pub fn readings(&mut self) -> Vec<Reading> {
        let mut all = Vec::new();
        let mut push = |name, tags: Vec<(&'static str, Box<str>)>, value: f64, counts| {
            all.push(Reading { name, tags, value, counts });
        };
        let by_instance = self.count <= INSTANCE_SERIES;
        let mut told = Vec::new();
        for service in self.sorted_services() {
            let tag = || vec![("service", service.name.clone())];
            let is_up = matches!(service.state, Some(ServiceState::Up | ServiceState::Degraded));
            if is_up || service.state == Some(ServiceState::Down) {
                push("presence_service_up", tag(), f64::from(u8::from(is_up)), false);
            }
            if let Some(min) = service.rules.min {
                push("presence_service_min", tag(), f64::from(min), false);
            }
            for state in [State::Unknown, State::Up, State::Late, State::Down, State::Left] {
                let count = service.instances.iter().filter(|&&id| self.instance(id).state == state).count();
                let tags = vec![("service", service.name.clone()), ("state", state.name().into())];
                push("presence_service_instances", tags, count as f64, false);
            }
            if !by_instance {
                continue;
            }
            for &id in &service.instances {
                let instance = self.instance(id);
                let tags = || vec![("instance", instance.name.clone()), ("service", service.name.clone())];
                told.push((id, instance.received, instance.missed));
                let beats = instance.received - instance.told_received;
                let missed = instance.missed - instance.told_missed;
                push("presence_beats_total", tags(), beats as f64, true);
                push("presence_missed_total", tags(), missed as f64, true);
                if instance.state == State::Left {
                    // No level of one that left: a series that stays is a zombie.
                    continue;
                }
                let flag = |flag: bool| f64::from(u8::from(flag));
                push("presence_up", tags(), flag(instance.state.is_present()), false);
                push("presence_state", tags(), level(instance.state), false);
                push("presence_silence_seconds", tags(), self.silence(instance), false);
                push("presence_timeout_seconds", tags(), instance.timing(&self.policy, &service.rules).down, false);
                if let Some(interval) = instance.interval(&self.policy) {
                    push("presence_interval_seconds", tags(), interval, false);
                }
                push("presence_held", tags(), flag(self.is_held(instance)), false);
                push("presence_maintenance", tags(), flag(self.in_maintenance(instance)), false);
                push("presence_flapping", tags(), flag(instance.flapping), false);
            }
        }
        if self.count > 0 {
            push("presence_mass_silence", Vec::new(), f64::from(u8::from(self.mass.is_some())), false);
            push("presence_roster_instances", Vec::new(), self.count as f64, false);
        }
        for (id, received, missed) in told {
            let instance = self.instance_mut(id);
            (instance.told_received, instance.told_missed) = (received, missed);
        }
        all
    }

    /// Whether there is a mass silence.
    pub fn is_mass_silence(&self) -> bool {
        self.mass.is_some()
    }

    /// How many instances are known.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Nobody is known.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Services by name with their instances; `epoch` is what to add to the engine's clock to get Unix seconds.
    pub fn view(&self, epoch: f64) -> Vec<ServiceView> {
        self.sorted_services().into_iter().map(|service| self.view_service(service, epoch)).collect()
    }

    fn view_service(&self, service: &Service, epoch: f64) -> ServiceView {
        let mut instances: Vec<InstanceView> =
            service.instances.iter().map(|&id| self.view_instance(service, self.instance(id), epoch)).collect();
        instances.sort_by(|a, b| a.instance.cmp(&b.instance));
        let count = |state: State| instances.iter().filter(|instance| instance.state == state.name()).count();
        ServiceView {
            service: service.name.clone(),
            state: service.state.map_or("unknown", ServiceState::name),
            present: service.present,
            down: count(State::Down),
            left: count(State::Left),
            min: service.rules.min,
            quorum: service.rules.quorum,
            since: service.changed + epoch,
            instances,
        }
    }

    fn view_instance(&self, service: &Service, instance: &Instance, epoch: f64) -> InstanceView {
        let interval = instance.interval(&self.policy);
        let (late, down) = instance.deadlines(&self.policy, &service.rules);
        let left = |at: f64| (at - self.now).max(0.0);
        let is_present = instance.state.is_present();
        let flags = [
            (self.in_maintenance(instance), "maintenance"),
            (instance.flapping, "flapping"),
            (self.is_held(instance), "held"),
            (interval.is_none(), "learning"),
            (instance.mismatch, "mismatch"),
        ];
        InstanceView {
            instance: instance.name.clone(),
            state: instance.state.name(),
            since: instance.changed + epoch,
            silence_s: self.silence(instance),
            interval_s: interval,
            interval_source: match (instance.promise, interval) {
                (_, None) => "learning",
                (Some(promise), Some(interval)) if interval != promise => "measured",
                (Some(_), _) => "promise",
                (None, _) => "learned",
            },
            misses: interval.map(|interval| instance.misses(interval, &service.rules)),
            timeout_s: instance.timing(&self.policy, &service.rules).down,
            late_in_s: late.filter(|_| is_present).map(left),
            down_in_s: is_present.then_some(left(down)),
            version: instance.version.clone(),
            start: instance.start.clone(),
            source: instance.source.map(|address| address.to_string()),
            health: instance.health,
            flags: flags.into_iter().filter(|(is_set, _)| *is_set).map(|(_, flag)| flag).collect(),
        }
    }
}
