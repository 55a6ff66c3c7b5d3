//! How everything is, in a few numbers and names: for a verdict, which is asked for often, a view of all would be too much.

use compact_str::CompactString;

use super::Engine;
use super::jobs::JobSummary;
use crate::presence::blindness::BlindSeconds;
use crate::presence::instance::State;
use crate::presence::observers::ObserversView;
use crate::presence::service::ServiceState;
use crate::presence::time::UnixTime;

/// Most services that a summary names, and most instances.
const NAMED: usize = 3;

/// Most watches without a line that are named.
const IDLE: usize = 10;

/// A service that is not as it should be.
#[derive(Clone, Debug, PartialEq)]
pub struct BadService {
    /// Its name.
    pub service: CompactString,
    /// Its state: down or degraded.
    pub state: ServiceState,
    /// Instances that are present.
    pub present: usize,
    /// Instances that are present or down.
    pub total: usize,
    /// Instances that must be present.
    pub min: Option<u32>,
}

/// An instance that is present and says itself that it fails.
#[derive(Clone, Debug, PartialEq)]
pub struct FailingInstance {
    /// Its service.
    pub service: CompactString,
    /// Its name.
    pub instance: CompactString,
    /// What its service check said.
    pub message: Option<CompactString>,
}

/// Why what is known is not saved: a restart forgets it.
#[derive(Clone, Debug, PartialEq)]
pub struct Unsaved {
    /// Since when.
    pub since: UnixTime,
    /// In words.
    pub why: String,
}

/// Services and instances, counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// All services.
    pub services: usize,
    /// Services that are up.
    pub up: usize,
    /// Services that are down.
    pub down: usize,
    /// Services that are degraded.
    pub degraded: usize,
    /// Services in maintenance.
    pub maintenance: usize,
    /// Services that were not heard yet.
    pub unknown: usize,
    /// Services that have left.
    pub left: usize,
    /// Instances that are up, late or unconfirmed.
    pub present: usize,
    /// Instances that are late.
    pub late_instances: usize,
    /// Instances that are down.
    pub down_instances: usize,
    /// Of these, instances in maintenance.
    pub down_in_maintenance: usize,
    /// Instances that are unconfirmed.
    pub unconfirmed: usize,
    /// Instances that are present and say that they fail.
    pub failing: usize,
    /// Some of the services that are down, then of those that are degraded, by name.
    pub bad: Vec<BadService>,
    /// Some of those that fail.
    pub named_failing: Vec<FailingInstance>,
    /// Whether all present instances of a service fail.
    pub is_whole_service_failing: bool,
    /// Whether there is a mass silence.
    pub is_mass_silence: bool,
    /// Seconds in which we could not see, since the start.
    pub blind: BlindSeconds,
    /// Other observers of the same fleet; `None` if this is the only one.
    pub observers: Option<ObserversView>,
    /// Jobs, counted.
    pub jobs: JobSummary,
    /// Some of the watches that have taken no line since the start.
    pub idle_watches: Vec<String>,
    /// Why all of this is not saved, if it is not.
    pub unsaved: Option<Unsaved>,
}

impl Engine {
    /// How everything is.
    pub fn summary(&self) -> Summary {
        let mut out = Summary {
            is_mass_silence: self.is_mass_silence(),
            blind: self.blind(),
            jobs: self.job_summary(),
            idle_watches: self.idle_watches(),
            ..Summary::default()
        };
        let mut bad = Vec::new();
        for service in self.roster.services() {
            let (mut down, mut failing) = (0, 0);
            for instance in self.roster.instances_of(service) {
                match instance.state() {
                    State::Late => out.late_instances += 1,
                    State::Down => {
                        down += 1;
                        out.down_in_maintenance += usize::from(self.roster.is_maintained(instance, self.now));
                    }
                    State::Unknown => out.unconfirmed += 1,
                    State::Up | State::Left => {}
                }
                if instance.is_present() && instance.health() == Some(2) {
                    failing += 1;
                    if out.named_failing.len() < NAMED {
                        out.named_failing.push(FailingInstance {
                            service: service.name().clone(),
                            instance: instance.name().clone(),
                            message: instance.message().cloned(),
                        });
                    }
                }
            }
            out.services += 1;
            out.present += service.present();
            out.down_instances += down;
            out.failing += failing;
            out.is_whole_service_failing |= failing > 0 && failing == service.present();
            let state = service.state().unwrap_or(ServiceState::Unknown);
            *out.count_of(state) += 1;
            if state.is_bad() {
                bad.push((state == ServiceState::Degraded, service, down));
            }
        }
        bad.sort_by(|a, b| (a.0, a.1.name()).cmp(&(b.0, b.1.name())));
        out.bad = bad
            .into_iter()
            .take(NAMED)
            .map(|(is_degraded, service, down)| BadService {
                service: service.name().clone(),
                state: if is_degraded { ServiceState::Degraded } else { ServiceState::Down },
                present: service.present(),
                total: service.present() + down,
                min: service.rules().min,
            })
            .collect();
        out
    }
}

impl Engine {
    /// The patterns of some watches that have taken no line since the start.
    fn idle_watches(&self) -> Vec<String> {
        let watches = (0_u16..).zip(self.policy.watches.all());
        let idle = watches.filter(|(number, _)| !self.taken_watches.contains(number));
        idle.take(IDLE).map(|(_, watch)| watch.pattern.clone()).collect()
    }
}

impl Summary {
    fn count_of(&mut self, state: ServiceState) -> &mut usize {
        match state {
            ServiceState::Unknown => &mut self.unknown,
            ServiceState::Up => &mut self.up,
            ServiceState::Degraded => &mut self.degraded,
            ServiceState::Down => &mut self.down,
            ServiceState::Maintenance => &mut self.maintenance,
            ServiceState::Left => &mut self.left,
        }
    }
}
