//! Views of presence for people and programs.

use std::cmp::Ordering;

use compact_str::CompactString;
use serde::Serialize;
use utoipa::ToSchema;

use crate::named::named_enum;

use super::Engine;
use crate::presence::announced::Announced;
use crate::presence::describe::length;
use crate::presence::instance::{Instance, State};
use crate::presence::jobs::{JobState, JobView};
use crate::presence::service::{Service, ServiceState};
use crate::presence::time::{EngineTime, Epoch};

/// Names in a list of those that are down.
const NAMED: usize = 10;

/// Drops are mentioned for so long, in seconds.
const DROPS_SHOWN: f64 = 600.0;

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
        /// A watched metric that comes and goes: its silence means nothing.
        Irregular = "irregular",
        /// Its watched metric has too few lines.
        Low = "low",
        /// Only an observer that is lost has heard it: its silence here says nothing.
        Unwatched = "unwatched",
    }
}

/// A service with its instances, as the API shows it.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct ServiceView {
    /// Its name.
    #[schema(value_type = String)]
    pub service: CompactString,
    /// Its state.
    #[schema(value_type = String)]
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
    /// In maintenance until then, RFC 3339; left out if it is in none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maintenance_until: Option<String>,
    /// Who announced that, as they say.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub maintenance_by: Option<CompactString>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub maintenance_why: Option<CompactString>,
    /// Its jobs by name, at most 100, where one service is shown; lists leave them out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub jobs: Vec<JobView>,
    /// Its instances by name.
    pub instances: Vec<InstanceView>,
}

/// An instance, as the API shows it.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct InstanceView {
    /// Its name.
    #[schema(value_type = String)]
    pub instance: CompactString,
    /// Its state.
    #[schema(value_type = String)]
    pub state: State,
    /// In this state since, RFC 3339.
    pub since: String,
    /// Silent for so long, our own blindness left out.
    pub silence_s: f64,
    /// Interval in force, if it is known.
    pub interval_s: Option<f64>,
    /// Where that comes from.
    #[schema(value_type = String)]
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
    #[schema(value_type = Option<String>)]
    pub version: Option<CompactString>,
    /// As it said.
    #[schema(value_type = Option<String>)]
    pub start: Option<CompactString>,
    /// Last sender's address.
    pub source: Option<String>,
    /// Status of its last service check.
    pub health: Option<u8>,
    /// What that said.
    #[schema(value_type = Option<String>)]
    pub message: Option<CompactString>,
    /// The worst of each half hour of the last day, the current one last: `U`p, `L`ate, `D`own, `G`one, `?` unconfirmed.
    pub day: String,
    /// Pattern of the watch that feeds it; `null` if it sends heartbeats.
    pub watch: Option<String>,
    /// Fewest lines a minute that the watch wants; `null` if it counts none.
    pub floor: Option<u32>,
    /// Lines of the last minute that was judged.
    pub lines_per_minute: Option<u64>,
    /// What is special about it.
    #[schema(value_type = Vec<String>)]
    pub flags: Vec<Flag>,
    /// In maintenance until then, of its own or with its service, RFC 3339; left out if it is in none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maintenance_until: Option<String>,
    /// Who announced that, as they say.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub maintenance_by: Option<CompactString>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub maintenance_why: Option<CompactString>,
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

    /// Whether it counts as present because an observer that is lost has heard it.
    pub fn is_unwatched(&self) -> bool {
        self.flags.contains(&Flag::Unwatched)
    }

    /// Whether it is present and its service check is critical.
    pub fn is_failing(&self) -> bool {
        self.is_present() && self.health == Some(2)
    }
}

/// Where a view goes on: behind this instance of a service, or behind the service.
#[derive(Clone, Debug, PartialEq)]
pub struct ViewCursor {
    /// Name of the service.
    pub service: CompactString,
    /// Name of the instance; `None` if all of the service were shown.
    pub instance: Option<CompactString>,
}

/// A service, or some of its instances where it has many.
#[derive(Clone, Debug, PartialEq)]
pub struct ServicePart {
    /// The service with those of its instances that are in this part; the counts are of all.
    pub service: ServiceView,
    /// Whether its first instances are in this part.
    pub is_first: bool,
    /// Whether its last instances are in this part.
    pub is_last: bool,
}

/// Keeps the first so many by name, in that order; whether there were more.
fn first_by_name<'a, T>(all: &mut Vec<&'a T>, most: usize, name: impl Fn(&'a T) -> &'a CompactString) -> bool {
    let is_more = all.len() > most;
    if is_more {
        all.select_nth_unstable_by(most, |a, b| name(a).cmp(name(b)));
        all.truncate(most);
    }
    all.sort_unstable_by(|a, b| name(a).cmp(name(b)));
    is_more
}

/// The status of a service check that is critical.
const CRITICAL: u8 = 2;

/// Longest name, in bytes, for which one that is like it is looked for, and most services that are compared with it.
const LONGEST_LIKE: usize = 64;
const MOST_LIKE: usize = 2000;

/// Most characters in which two names differ that are like each other.
const MOST_MISTYPED: usize = 8;

impl Engine {
    /// Services by name with their instances.
    pub fn view(&self, epoch: Epoch) -> Vec<ServiceView> {
        self.roster.services_by_name().into_iter().map(|service| self.view_service(service, epoch)).collect()
    }

    /// One service with its instances.
    pub fn view_of(&self, service: &str, epoch: Epoch) -> Option<ServiceView> {
        let Some(id) = self.roster.find_service(service) else { return self.view_by_jobs(service, epoch) };
        let view = self.view_service(self.roster.service(id), epoch);
        let jobs = self.view_jobs_of(service, epoch);
        Some(ServiceView { state: self.state_with_jobs(view.state, service), jobs, ..view })
    }

    /// One instance.
    pub fn view_of_instance(&self, service: &str, instance: &str, epoch: Epoch) -> Option<InstanceView> {
        let instance = self.roster.instance(self.roster.find(service, instance)?);
        Some(self.view_instance(self.roster.service_of(instance), instance, epoch))
    }

    /// The next part of the view of all services, or of one: at most so many services and instances in the order of names,
    /// and where the part after it begins.
    pub fn view_part(
        &self,
        only: Option<&str>,
        after: Option<&ViewCursor>,
        most: usize,
        epoch: Epoch,
    ) -> (Vec<ServicePart>, Option<ViewCursor>) {
        let is_next = |service: &&Service| {
            let is_behind = |after: &ViewCursor| match service.name().cmp(&after.service) {
                Ordering::Less => false,
                Ordering::Equal => after.instance.is_some(),
                Ordering::Greater => true,
            };
            only.is_none_or(|only| service.name() == only) && after.is_none_or(is_behind)
        };
        // One that is asked for by its name is shown with its jobs, and may have no more than them.
        let jobs = only.filter(|_| after.is_none()).and_then(|only| self.view_by_jobs(only, epoch));
        let mut services: Vec<&Service> = self.roster.services().filter(is_next).collect();
        if services.is_empty()
            && let Some(service) = jobs
        {
            return (vec![ServicePart { service, is_first: true, is_last: true }], None);
        }
        let mut jobs = jobs.map_or_else(Vec::new, |service| service.jobs);
        let mut is_more = first_by_name(&mut services, most, |service| service.name());
        let (mut parts, mut left, mut last) = (Vec::new(), most, None);
        for service in services {
            if left == 0 {
                is_more = true;
                break;
            }
            let begun = after.filter(|after| after.service == *service.name());
            let begun = begun.and_then(|after| after.instance.as_ref());
            let mut instances: Vec<&Instance> = self.roster.instances_of(service).collect();
            instances.retain(|instance| begun.is_none_or(|begun| instance.name() > begun));
            let is_cut = first_by_name(&mut instances, left, |instance| instance.name());
            left -= instances.len().clamp(1, left);
            let instance = if is_cut { instances.last().map(|instance| instance.name().clone()) } else { None };
            last = Some(ViewCursor { service: service.name().clone(), instance });
            let instances =
                instances.into_iter().map(|instance| self.view_instance(service, instance, epoch)).collect();
            let alone = self.view_alone(service, epoch);
            let state = if jobs.is_empty() { alone.state } else { self.state_with_jobs(alone.state, &alone.service) };
            let service = ServiceView { state, jobs: std::mem::take(&mut jobs), instances, ..alone };
            parts.push(ServicePart { service, is_first: begun.is_none(), is_last: !is_cut });
            if is_cut {
                is_more = true;
                break;
            }
        }
        (parts, last.filter(|_| is_more))
    }

    /// The state of a service whose instances are in one: those that left say nothing where jobs are known.
    pub(super) fn state_with_jobs(&self, state: ServiceState, service: &str) -> ServiceState {
        if state == ServiceState::Left { self.state_by_jobs(service).unwrap_or(state) } else { state }
    }

    /// A service without its instances.
    fn view_alone(&self, service: &Service, epoch: Epoch) -> ServiceView {
        let count = |state: State| self.roster.instances_of(service).filter(|one| one.state() == state).count();
        let until = Some(service.maintenance_until()).filter(|until| *until > self.now);
        let Announced { by, why } = self.announced(service.name(), None, until);
        ServiceView {
            service: service.name().clone(),
            state: service.state().unwrap_or(ServiceState::Unknown),
            present: service.present(),
            down: count(State::Down),
            left: count(State::Left),
            min: service.rules().min,
            quorum: service.rules().quorum,
            since: epoch.to_unix(service.changed()).rfc3339(),
            maintenance_until: until.map(|until| epoch.to_unix(until).rfc3339()),
            maintenance_by: by,
            maintenance_why: why,
            jobs: Vec::new(),
            instances: Vec::new(),
        }
    }

    fn view_service(&self, service: &Service, epoch: Epoch) -> ServiceView {
        let instances = self.roster.instances_of(service);
        let mut instances: Vec<InstanceView> =
            instances.map(|instance| self.view_instance(service, instance, epoch)).collect();
        instances.sort_by(|a, b| a.instance.cmp(&b.instance));
        ServiceView { instances, ..self.view_alone(service, epoch) }
    }

    fn view_instance(&self, service: &Service, instance: &Instance, epoch: Epoch) -> InstanceView {
        let (detector, rules) = (instance.detector(), service.rules());
        let interval = detector.interval(&self.policy);
        let deadlines = detector.deadlines(&self.policy, rules);
        let left = |at: EngineTime| (at - self.now).max(0.0);
        let watching = instance.watching();
        let flags = [
            (self.roster.is_maintained(instance, self.now), Flag::Maintenance),
            (instance.is_flapping(), Flag::Flapping),
            (self.is_held(instance), Flag::Held),
            (interval.is_none(), Flag::Learning),
            (detector.is_mismatched(), Flag::Mismatch),
            (instance.has_conflict(self.now), Flag::Conflict),
            (watching.is_some_and(|watching| watching.is_irregular()), Flag::Irregular),
            (watching.is_some_and(|watching| watching.is_low()), Flag::Low),
            ((instance.is_unwatched() || self.listens_only()) && instance.is_present(), Flag::Unwatched),
        ];
        let watch = watching.and_then(|watching| self.policy.watches.get(watching.watch()?));
        let until = instance.maintenance_until().max(service.maintenance_until());
        let until = Some(until).filter(|until| *until > self.now);
        let Announced { by, why } = self.announced(service.name(), Some(instance.name()), until);
        InstanceView {
            instance: instance.name().clone(),
            state: instance.state(),
            since: epoch.to_unix(instance.changed()).rfc3339(),
            silence_s: detector.silence(self.now),
            interval_s: interval,
            interval_source: match (detector.declared_interval(), interval) {
                (_, None) => IntervalSource::Learning,
                (Some(declared), Some(interval)) if interval != declared => IntervalSource::Measured,
                (Some(_), Some(_)) => IntervalSource::Declared,
                (None, Some(_)) => IntervalSource::Learned,
            },
            misses: interval.map(|interval| detector.misses(interval, rules)),
            timeout_s: detector.timing(&self.policy, rules).down,
            loss_1h: instance.history().loss(self.now),
            late_in_s: deadlines.late.filter(|_| instance.is_present()).map(left),
            down_in_s: instance.is_present().then(|| left(deadlines.down)),
            version: instance.version().cloned(),
            start: instance.start().cloned(),
            source: instance.source().map(|address| address.to_string()),
            health: instance.health(),
            message: instance.message().cloned(),
            day: instance.history().strip(self.now, instance.state()),
            watch: watch.map(|watch| watch.pattern.clone()),
            floor: watch.and_then(|watch| watch.floor),
            lines_per_minute: watching.and_then(|watching| watching.last_lines()),
            flags: flags.into_iter().filter(|(is_set, _)| *is_set).map(|(_, flag)| flag).collect(),
            maintenance_until: until.map(|until| epoch.to_unix(until).rfc3339()),
            maintenance_by: by,
            maintenance_why: why,
        }
    }

    /// What was said of a maintenance that lasts until then.
    pub(super) fn announced(&self, service: &str, instance: Option<&str>, until: Option<EngineTime>) -> Announced {
        until.map_or_else(Announced::default, |until| self.announcements.of(service, instance, until))
    }

    /// Whether a mass silence holds its down back.
    pub(super) fn is_held(&self, instance: &Instance) -> bool {
        instance.is_member() && instance.is_present() && self.mass.holds()
    }

    /// The service whose name is most like one that is unknown. For names that are as long as somebody may mistype, and among
    /// so many services, that it costs nobody else time.
    pub fn like(&self, name: &str) -> Option<&str> {
        if name.len() > LONGEST_LIKE {
            return None;
        }
        let most = (name.len().max(3) / 2).min(MOST_MISTYPED);
        let near = self.roster.service_names().filter(|known| known.len().abs_diff(name.len()) <= most).take(MOST_LIKE);
        let names = near.map(|known| (strsim::osa_distance(known, name), known));
        names.filter(|(distance, _)| *distance <= most).min().map(|(_, known)| known)
    }

    /// More about a service, or about everything, in words: who is down, what the network lost of it or of `instance`, and whether
    /// we see the others.
    pub fn detail(&self, service: Option<&str>, instance: Option<&str>) -> String {
        let service = service.and_then(|name| self.roster.find_service(name)).map(|id| self.roster.service(id));
        let mut out = match service {
            Some(service) => self.describe_down(service),
            None if self.mass.is_on() => self.describe_silent(),
            None => String::new(),
        };
        out.push_str(&service.map_or_else(String::new, |service| self.describe_loss(service, instance)));
        let is_other = |instance: &&Instance| {
            service.is_none_or(|service| self.roster.service_of(instance).order() != service.order())
        };
        let (mut up, mut all) = (0_usize, 0_usize);
        let others = self.roster.instances().map(|(_, instance)| instance).filter(is_other);
        for instance in others.filter(|instance| instance.state() != State::Left) {
            all += 1;
            up += usize::from(instance.state() == State::Up);
        }
        let which = if service.is_some() { "other " } else { "" };
        match all {
            0 => out.push_str("Nobody else is known; "),
            _ => out.push_str(&format!("{up} of {all} {which}instances are heard in time; ")),
        }
        out.push_str(&self.describe_blindness());
        out
    }

    /// When a job is to run and how long it may, and if none came, whether we could have missed it.
    pub fn job_detail(&self, service: &str, instance: &str) -> String {
        let Some(id) = self.jobs.find(service, instance) else { return String::new() };
        let job = self.jobs.job(id);
        let schedule = job.rule().and_then(|rule| rule.schedule.as_ref());
        let when = schedule.map(|schedule| format!("It is to run at `{}` ({})", schedule.fields(), schedule.zone()));
        let when = when.or_else(|| job.every().map(|every| format!("It is to run every {}", length(every))));
        let most = job.max_runtime().map(|most| format!("a run may take {}", length(most)));
        let mut out = match (when, most) {
            (Some(when), Some(most)) => format!("{when}, and {most}."),
            (Some(when), None) => format!("{when}."),
            (None, Some(most)) => format!("{}{}.", most[..1].to_uppercase(), &most[1..]),
            (None, None) => String::new(),
        };
        // Of a run that ended badly or goes on, what we did not receive says nothing.
        if job.state() == JobState::Missed && self.has_dropped() {
            out = format!("{out} {}", self.describe_blindness()).trim_start().to_string();
        }
        out
    }

    fn describe_down(&self, service: &Service) -> String {
        let mut down: Vec<&Instance> =
            self.roster.instances_of(service).filter(|instance| instance.is_down()).collect();
        if down.is_empty() {
            return String::new();
        }
        down.sort_by(|a, b| a.name().cmp(b.name()));
        // Such as `exited with 9`, which `beat` says before it falls silent.
        let name = |instance: &Instance| match (instance.health(), instance.message()) {
            (Some(CRITICAL), Some(said)) => format!("{}, which said `{said}`", instance.name()),
            _ => instance.name().to_string(),
        };
        let named: Vec<String> = down.iter().take(NAMED).map(|instance| name(instance)).collect();
        let silences = down.iter().map(|instance| instance.detector().silence(self.now));
        let silence = silences.fold(f64::INFINITY, f64::min);
        let more = if down.len() > NAMED { format!(" and {} more", down.len() - NAMED) } else { String::new() };
        format!("Down: {}{more}; last heard {} ago. ", named.join(", "), length(silence))
    }

    /// What the network lost of a service or of one of its instances, if that was measured and is worth a word.
    fn describe_loss(&self, service: &Service, instance: Option<&str>) -> String {
        let all = self.roster.instances_of(service).filter(|one| instance.is_none_or(|name| **one.name() == *name));
        let losses = all.filter_map(|one| one.history().loss(self.now));
        let Some(most) = losses.reduce(f64::max) else { return String::new() };
        let of = if instance.is_some() { "of it was" } else { "of an instance was at most" };
        format!("Loss {of} {} % in the last hour. ", (most * 1000.0).round() / 10.0)
    }

    fn describe_silent(&self) -> String {
        let (mut empty, mut partly) = (Vec::new(), Vec::new());
        for service in self.roster.services_by_name() {
            let is_silent = |one: &&Instance| matches!(one.state(), State::Late | State::Down);
            let is_there = |one: &&Instance| one.state() != State::Left;
            let count = self.roster.instances_of(service).filter(is_silent).count();
            let all = self.roster.instances_of(service).filter(is_there).count();
            match count {
                0 => {}
                count if count == all => empty.push(format!("{} ({count})", service.name())),
                count => partly.push(format!("{} ({count} of {all})", service.name())),
            }
        }
        let list = |what: &str, all: &[String]| match all.len() {
            0 => String::new(),
            n if n > NAMED => format!("{what}: {} and {} more services. ", all[..NAMED].join(", "), n - NAMED),
            _ => format!("{what}: {}. ", all.join(", ")),
        };
        let silences = self.roster.instances().map(|(_, one)| one).filter(|one| one.state() != State::Left);
        let last = silences.map(|one| one.detector().silence(self.now)).fold(f64::INFINITY, f64::min);
        let last =
            if last.is_finite() { format!("Last heartbeat of anybody {} ago. ", length(last)) } else { String::new() };
        format!("{}{}{last}", list("Nobody is left of", &empty), list("Partly silent", &partly))
    }

    /// Whether a drop was so recent that it is worth a word.
    fn is_recent(&self, at: EngineTime) -> bool {
        at >= EngineTime::default() && self.now - at < DROPS_SHOWN
    }

    fn has_dropped(&self) -> bool {
        self.is_recent(self.blindness.drops_at()) || self.is_recent(self.blindness.queue_drops_at())
    }

    fn describe_blindness(&self) -> String {
        let ago = |at: EngineTime| self.is_recent(at).then(|| length(self.now - at));
        match (ago(self.blindness.drops_at()), ago(self.blindness.queue_drops_at())) {
            (Some(ago), _) => format!("the kernel dropped datagrams {ago} ago."),
            (None, Some(ago)) => format!("presence's own queue overflowed {ago} ago."),
            (None, None) => "the kernel dropped nothing in the last 10 min.".to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::policy::Policy;
    use crate::presence::time::EngineTime;
    use crate::protocol::Heartbeat;

    #[test]
    fn names_that_are_like_an_unknown_one_cost_no_time_however_long_it_is() {
        let policy = Policy { max_registrations_per_second: 100_000, ..Policy::default() };
        let mut engine = Engine::new(policy, EngineTime::from_secs(0.0), 1);
        for n in 0..3000 {
            engine.beat(&Heartbeat {
                service: format!("{}{n}", "x".repeat(56)).into(),
                instance: "a".into(),
                ..Heartbeat::default()
            });
        }
        engine.beat(&Heartbeat { service: "payments".into(), instance: "a".into(), ..Heartbeat::default() });
        assert_eq!(engine.like("paymnets"), Some("payments"));
        assert_eq!((engine.like(&"y".repeat(60)), engine.like(&"x".repeat(31_000))), (None, None));
        assert_eq!(engine.like("zz"), None);
    }
}
