//! Views of presence for people and programs.

use compact_str::CompactString;

use serde::Serialize;

use crate::named::named_enum;

use super::describe::length;
use super::engine::Engine;
use super::event::rfc3339;
use super::instance::{Instance, State};
use super::service::{Service, ServiceState};

/// Names in a list of those that are down.
const NAMED: usize = 10;

named_enum! {
    /// Where the interval in force comes from.
    pub enum IntervalSource {
        /// The instance declares it.
        Declared = "promise",
        /// From the gaps between its beats.
        Learned = "learned",
        /// Its beats come slower than declared.
        Measured = "measured",
        /// It is not known yet.
        Learning = "learning",
    }
}

named_enum! {
    /// What is special about an instance.
    pub enum Flag {
        /// Its silence was announced.
        Maintenance = "maintenance",
        /// It goes up and down.
        Flapping = "flapping",
        /// A mass silence holds its down back.
        Held = "held",
        /// Its interval is not known yet.
        Learning = "learning",
        /// Its beats come slower than declared.
        Mismatch = "mismatch",
        /// Two processes use its name, or its goodbyes are repeated.
        Conflict = "conflict",
    }
}

/// A service with its instances, as the API shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ServiceView {
    /// Its name.
    pub service: CompactString,
    /// Its state.
    pub state: ServiceState,
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
    /// In this state since, RFC 3339.
    pub since: String,
    /// Its instances by name.
    pub instances: Vec<InstanceView>,
}

/// An instance, as the API shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InstanceView {
    /// Its name.
    pub instance: CompactString,
    /// Its state.
    pub state: State,
    /// In this state since, RFC 3339.
    pub since: String,
    /// Silent for so long, our own blindness left out.
    pub silence_s: f64,
    /// Interval in force, if it is known.
    pub interval_s: Option<f64>,
    /// Where that comes from.
    pub interval_source: IntervalSource,
    /// Beats that must be missed.
    pub misses: Option<u32>,
    /// Silence that means down.
    pub timeout_s: f64,
    /// Share of its beats that were lost in the last hour, if that is known.
    pub loss_1h: Option<f64>,
    /// Seconds until it is late, if nothing is heard.
    pub late_in_s: Option<f64>,
    /// Seconds until it is down, if nothing is heard.
    pub down_in_s: Option<f64>,
    /// As it said.
    pub version: Option<CompactString>,
    /// As it said.
    pub start: Option<CompactString>,
    /// Last sender's address.
    pub source: Option<String>,
    /// Status of its last service check.
    pub health: Option<u8>,
    /// What that said.
    pub message: Option<CompactString>,
    /// The worst of each half hour of the last day, the current one last: `U`p, `L`ate, `D`own, `G`one, `?` unconfirmed.
    pub day: String,
    /// What is special about it.
    pub flags: Vec<Flag>,
}

impl ServiceView {
    /// Who is present and says itself that it fails.
    pub fn failing(&self) -> impl Iterator<Item = &InstanceView> {
        self.instances.iter().filter(|instance| instance.is_failing())
    }
}

impl InstanceView {
    /// Whether it is up, late or unconfirmed.
    pub fn is_present(&self) -> bool {
        self.state.is_present()
    }

    /// Whether it is present and its service check is critical.
    pub fn is_failing(&self) -> bool {
        self.is_present() && self.health == Some(2)
    }
}

/// How long a conflict is shown after it was seen, in seconds.
const CONFLICT_SHOWN: f64 = 3600.0;

impl Engine {
    pub(super) fn sorted_services(&self) -> Vec<&Service> {
        let mut services: Vec<&Service> = self.services.iter().flatten().collect();
        services.sort_by(|a, b| a.name.cmp(&b.name));
        services
    }

    /// More about a service, or about everything, in words: who is down, and whether we see the others.
    pub fn detail(&self, service: Option<&str>) -> String {
        let mut out = String::new();
        let service = service.and_then(|name| self.find_service(name)).map(|id| self.service(id));
        if let Some(service) = service {
            let instances = service.instances.iter().map(|&id| self.instance(id));
            let mut down: Vec<&Instance> = instances.filter(|instance| instance.state == State::Down).collect();
            down.sort_by(|a, b| a.name.cmp(&b.name));
            let named: Vec<&str> = down.iter().take(NAMED).map(|instance| &*instance.name).collect();
            let silence = down.iter().map(|instance| self.silence(instance)).fold(f64::INFINITY, f64::min);
            if !down.is_empty() {
                let more = if down.len() > NAMED { format!(" and {} more", down.len() - NAMED) } else { String::new() };
                out = format!("Down: {}{more}; last heard {} ago. ", named.join(", "), length(silence));
            }
        }
        if service.is_none() && self.mass.is_some() {
            let is_silent = |&&id: &&u32| matches!(self.instance(id).state, State::Late | State::Down);
            let mut silent = Vec::new();
            for service in self.sorted_services() {
                let count = service.instances.iter().filter(is_silent).count();
                if count > 0 {
                    let whole = if count == service.instances.len() { "all " } else { "" };
                    silent.push(format!("{} ({whole}{count})", service.name));
                }
            }
            let more = silent.len().saturating_sub(NAMED);
            silent.truncate(NAMED);
            let more = if more > 0 { format!(" and {more} more services") } else { String::new() };
            out = format!("Silent: {}{more}. ", silent.join(", "));
        }
        let others = self
            .instances
            .iter()
            .flatten()
            .filter(|instance| service.is_none_or(|service| self.service(instance.service).order != service.order));
        let (mut up, mut all) = (0_usize, 0_usize);
        for instance in others.filter(|instance| instance.state != State::Left) {
            all += 1;
            up += usize::from(instance.state == State::Up);
        }
        let which = if service.is_some() { "other " } else { "" };
        out.push_str(&format!("{up} of {all} {which}instances are heard in time; "));
        let ago = |at: f64| (at >= 0.0 && self.now - at < 600.0).then(|| length(self.now - at));
        out.push_str(&match (ago(self.drops_at), ago(self.queue_drops_at)) {
            (Some(ago), _) => format!("the kernel dropped datagrams {ago} ago."),
            (None, Some(ago)) => format!("presence's own queue overflowed {ago} ago."),
            (None, None) => "the kernel dropped nothing in the last 10 min.".to_string(),
        });
        out
    }

    /// Names of services that are like a name, the likest first.
    pub fn like(&self, name: &str) -> Option<&str> {
        let names = self.by_name.keys().map(|known| (strsim::damerau_levenshtein(known, name), &**known));
        names.filter(|(distance, _)| *distance <= name.len().max(3) / 2).min().map(|(_, known)| known)
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

    /// One service with its instances.
    pub fn view_of(&self, service: &str, epoch: f64) -> Option<ServiceView> {
        self.find_service(service).map(|id| self.view_service(self.service(id), epoch))
    }

    fn view_service(&self, service: &Service, epoch: f64) -> ServiceView {
        let mut instances: Vec<InstanceView> =
            service.instances.iter().map(|&id| self.view_instance(service, self.instance(id), epoch)).collect();
        instances.sort_by(|a, b| a.instance.cmp(&b.instance));
        let count = |state: State| instances.iter().filter(|instance| instance.state == state).count();
        ServiceView {
            service: service.name.clone(),
            state: service.state.unwrap_or(ServiceState::Unknown),
            present: service.present,
            down: count(State::Down),
            left: count(State::Left),
            min: service.rules.min,
            quorum: service.rules.quorum,
            since: rfc3339(service.changed + epoch),
            instances,
        }
    }

    fn view_instance(&self, service: &Service, instance: &Instance, epoch: f64) -> InstanceView {
        let interval = instance.interval(&self.policy);
        let (late, down) = instance.deadlines(&self.policy, &service.rules);
        let left = |at: f64| (at - self.now).max(0.0);
        let is_present = instance.state.is_present();
        let flags = [
            (self.in_maintenance(instance), Flag::Maintenance),
            (instance.flapping, Flag::Flapping),
            (self.is_held(instance), Flag::Held),
            (interval.is_none(), Flag::Learning),
            (instance.mismatch, Flag::Mismatch),
            (self.now - instance.rare().conflict_at < CONFLICT_SHOWN, Flag::Conflict),
        ];
        InstanceView {
            instance: instance.name.clone(),
            state: instance.state,
            since: rfc3339(instance.changed + epoch),
            silence_s: self.silence(instance),
            interval_s: interval,
            interval_source: match (instance.promise, interval) {
                (_, None) => IntervalSource::Learning,
                (Some(promise), Some(interval)) if interval != promise => IntervalSource::Measured,
                (Some(_), _) => IntervalSource::Declared,
                (None, _) => IntervalSource::Learned,
            },
            misses: interval.map(|interval| instance.misses(interval, &service.rules)),
            timeout_s: instance.timing(&self.policy, &service.rules).down,
            loss_1h: instance.history.loss(self.now),
            late_in_s: late.filter(|_| is_present).map(left),
            down_in_s: is_present.then_some(left(down)),
            version: instance.version.clone(),
            start: instance.start.clone(),
            source: instance.source.map(|address| address.to_string()),
            health: instance.health,
            message: instance.rare().message.clone(),
            day: instance.history.strip(self.now, instance.state),
            flags: flags.into_iter().filter(|(is_set, _)| *is_set).map(|(_, flag)| flag).collect(),
        }
    }
}
