//! Presence as series: what every flush hands to the sinks, and what a scrape of ours shows.

use crate::protocol::Kind;
use crate::series::Series;
use compact_str::CompactString;

use super::Engine;
use crate::presence::admission::Refusals;
use crate::presence::blindness::BlindSeconds;
use crate::presence::instance::{Instance, State};
use crate::presence::policy::SeriesOf;
use crate::presence::service::{Service, ServiceState};

/// Instances and jobs up to which each has series of its own; beyond, only services have.
const INSTANCE_SERIES: usize = 10_000;

/// Every series of presence that sinks get.
pub const SERIES: [&str; 28] = [
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
    "presence_job_state",
    "presence_job_last_success_seconds",
    "presence_job_duration_seconds",
    "presence_job_runs_total",
    "presence_mass_silence",
    "presence_blind_seconds_total",
    "presence_peer_up",
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

impl Reading {
    /// The series, as a client would send it.
    pub fn series(&self) -> Series {
        let kind = if self.counts { Kind::Counter } else { Kind::Gauge };
        let tags: Vec<(&str, Option<&str>)> = self.tags.iter().map(|(key, value)| (*key, Some(&**value))).collect();
        Series::new(kind, self.name, &tags)
    }
}

/// Whether a peer answers, for sinks.
pub fn peer_reading(peer: CompactString, answers: bool) -> Reading {
    level("presence_peer_up", vec![("peer", peer)], flag(answers))
}

pub(super) fn level(name: &'static str, tags: Vec<(&'static str, CompactString)>, value: f64) -> Reading {
    Reading { name, tags, value, counts: false }
}

pub(super) fn count(name: &'static str, tags: Vec<(&'static str, CompactString)>, value: f64) -> Reading {
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
    vec![("instance", instance.name().clone()), ("service", service.name().clone())]
}

impl Engine {
    /// Whether instances and jobs have series of their own.
    pub(super) fn has_instance_series(&self) -> bool {
        match self.policy.series {
            SeriesOf::Auto => self.population() <= INSTANCE_SERIES,
            SeriesOf::Instances => true,
            SeriesOf::Services => false,
        }
    }

    /// The values of this moment for sinks. What counts, and the availability, is since this was last asked.
    pub fn readings(&mut self) -> Vec<Reading> {
        let mut all = Vec::new();
        let (now, reported_at) = (self.now, std::mem::replace(&mut self.reported_at, self.now));
        let by_instance = self.has_instance_series();
        for id in self.roster.service_ids() {
            let service = self.roster.service_mut(id);
            for (to, moved) in service.take_transitions() {
                let to = to.map_or("forgotten", State::as_str);
                let tags = vec![("service", service.name().clone()), ("to", to.into())];
                all.push(count("presence_transitions_total", tags, f64::from(moved)));
            }
            if !by_instance {
                continue;
            }
            for id in service.instances().to_vec() {
                let instance = self.roster.instance(id);
                let tags = who(self.roster.service_of(instance), instance);
                let has_left = instance.state() == State::Left;
                let (beats, missed, share) = self.roster.instance_mut(id).take_fresh(now, reported_at);
                all.push(count("presence_beats_total", tags.clone(), f64::from(beats)));
                all.push(count("presence_missed_total", tags.clone(), f64::from(missed)));
                if !has_left {
                    all.push(level("presence_availability", tags, share));
                }
            }
        }
        self.job_counts(&mut all);
        self.levels(&mut all);
        let ((seconds, seconds_before), (refusals, refusals_before)) =
            (self.blindness.take_report(), self.admission.take_report());
        trouble(seconds, seconds_before, &refusals, &refusals_before, &mut all);
        all
    }

    /// The values of this moment for a scrape. What counts is since the start.
    pub fn scraped(&self) -> Vec<Reading> {
        let mut all = Vec::new();
        self.levels(&mut all);
        if self.has_instance_series() {
            for service in self.roster.services_by_name() {
                for instance in self.roster.instances_of(service) {
                    all.push(count("presence_beats_total", who(service, instance), instance.received() as f64));
                    all.push(count("presence_missed_total", who(service, instance), instance.missed() as f64));
                    if instance.state() != State::Left {
                        let mut tags = who(service, instance);
                        tags.push(("start", instance.start().cloned().unwrap_or_default()));
                        tags.push(("version", instance.version().cloned().unwrap_or_default()));
                        all.push(level("presence_info", tags, 1.0));
                    }
                }
            }
        }
        self.job_totals(&mut all);
        trouble(self.blind(), BlindSeconds::default(), &self.refusals(), &Refusals::default(), &mut all);
        all
    }

    fn levels(&self, all: &mut Vec<Reading>) {
        let by_instance = self.has_instance_series();
        for service in self.roster.services_by_name() {
            let tag = || vec![("service", service.name().clone())];
            let is_up = matches!(service.state(), Some(ServiceState::Up | ServiceState::Degraded));
            if is_up || service.state() == Some(ServiceState::Down) {
                all.push(level("presence_service_up", tag(), flag(is_up)));
            }
            if let Some(min) = service.rules().min {
                all.push(level("presence_service_min", tag(), f64::from(min)));
            }
            for state in State::ALL {
                let count = self.roster.instances_of(service).filter(|instance| instance.state() == state).count();
                let tags = vec![("service", service.name().clone()), ("state", state.as_str().into())];
                all.push(level("presence_service_instances", tags, count as f64));
            }
            if !by_instance {
                continue;
            }
            // No level of one that left: a series that stays is a zombie.
            for instance in self.roster.instances_of(service).filter(|instance| instance.state() != State::Left) {
                let detector = instance.detector();
                let mut push = |name, value| all.push(level(name, who(service, instance), value));
                push("presence_up", flag(instance.is_present()));
                push("presence_state", number(instance.state()));
                push("presence_silence_seconds", detector.silence(self.now));
                push("presence_timeout_seconds", detector.timing(&self.policy, service.rules()).down);
                if let Some(interval) = detector.interval(&self.policy) {
                    push("presence_interval_seconds", interval);
                }
                push("presence_held", flag(self.is_held(instance)));
                push("presence_maintenance", flag(self.roster.is_maintained(instance, self.now)));
                push("presence_flapping", flag(instance.is_flapping()));
            }
        }
        self.job_levels(all);
        if !self.is_empty() {
            all.push(level("presence_mass_silence", Vec::new(), flag(self.is_mass_silence())));
            all.push(level("presence_roster_instances", Vec::new(), self.len() as f64));
        }
    }
}

/// Blindness and refusals beyond what was reported.
fn trouble(blind: BlindSeconds, blind_before: BlindSeconds, all: &Refusals, before: &Refusals, out: &mut Vec<Reading>) {
    let seconds = [
        ("restart", blind.restart - blind_before.restart),
        ("pause", blind.pause - blind_before.pause),
        ("drops", blind.drops - blind_before.drops),
        ("queue", blind.queue - blind_before.queue),
        ("peer", blind.peer - blind_before.peer),
    ];
    for (cause, seconds) in seconds.into_iter().filter(|(_, seconds)| *seconds > 0.0) {
        out.push(count("presence_blind_seconds_total", vec![("cause", cause.into())], seconds));
    }
    let rejected = all.by_reason().map(|(why, n)| ("presence_rejected_total", why.as_str(), n - before.of(why)));
    let ignored = all.ignored().into_iter().zip(before.ignored());
    let ignored = ignored.map(|((why, n), (_, before))| ("presence_ignored_total", why.name(), n - before));
    for (name, reason, n) in rejected.into_iter().chain(ignored).filter(|(.., n)| *n > 0) {
        out.push(count(name, vec![("reason", reason.into())], n as f64));
    }
    for (name, n) in [
        ("presence_evicted_total", all.evicted() - before.evicted()),
        ("presence_stragglers_total", all.stragglers() - before.stragglers()),
    ] {
        if n > 0 {
            out.push(count(name, Vec::new(), n as f64));
        }
    }
}
