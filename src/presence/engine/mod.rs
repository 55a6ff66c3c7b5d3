//! The engine: takes beats and lets time pass. It holds the parts and puts them in sequence; each keeps its own state.
//!
//! A beat arrives: [`observe`] looks it up (or has it admitted), lets the instance's detector take it, and schedules the
//! next look. Time passes: [`evaluate`] takes who is due, first instances, then services, with mass silence between them,
//! and what follows from that comes out as [`Event`]s. A beat is a lookup and a few stores.

mod elsewhere;
mod evaluate;
mod jobs;
mod jobs_elsewhere;
mod observe;
mod readings;
mod restore;
mod summary;
mod view;
mod watch;

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::memory::{Holder, Holding, Level, Memory, vec_footprint};

use super::admission::{Admission, Refusals};
use super::announced::Announcements;
use super::blindness::{BlindSeconds, Blindness, LossySecond, is_too_much};
use super::event::{Change, Event, InstanceContext, MassSilencePhase, Phase, Reason, ServiceContext, WarningCode};
use super::evidence::{Before, Evidence};
use super::habit::Habits;
use super::instance::{Instance, State, Suppression};
use super::jobs::{BlindTimes, Jobs};
use super::loss::FleetLoss;
use super::mass_silence::MassSilence;
use super::policy::{Policy, Rules};
use super::roster::{InstanceId, Roster, ServiceId};
use super::schedule::Schedule;
use super::service::{Service, ServiceState};
use super::time::{EngineTime, Epoch};

pub use elsewhere::{Observation, Sighting};
pub use jobs::{BadJob, JobSummary};
pub use jobs_elsewhere::JobSighting;
pub use readings::{Reading, SERIES, peer_reading};
pub use restore::Saved;
pub use summary::{BadService, FailingInstance, Summary, Unsaved};
pub use view::{Flag, InstanceView, IntervalSource, ServicePart, ServiceView, ViewCursor};

/// Days for which one that never had an interval is remembered after it has left, if it was heard more than once: the
/// gaps between daily jobs are learned so.
const FORGET_UNESTABLISHED: f64 = 6.0 * 86_400.0;

/// Who is there.
#[derive(Debug)]
pub struct Engine {
    policy: Policy,
    now: EngineTime,
    roster: Roster,
    admission: Admission,
    instance_schedule: Schedule,
    service_schedule: Schedule,
    /// Services to evaluate in the next tick, in the order of registration.
    dirty: BTreeSet<(u64, ServiceId)>,
    /// Services in which somebody may have been replaced.
    maybe_replaced: BTreeSet<(u64, ServiceId)>,
    mass: MassSilence,
    /// Of services that are forgotten.
    habits: Habits,
    blindness: Blindness,
    blind_times: BlindTimes,
    jobs: Jobs,
    /// Who announced which maintenance, and why.
    announcements: Announcements,
    /// Where the engine's clock stands in wall time, whether that is known, and whether configured jobs have no first time yet.
    epoch: Epoch,
    has_epoch: bool,
    awaits_first_runs: bool,
    fleet_loss: FleetLoss,
    /// Instances whose lines are counted, with their places in the order of registration.
    counted: Vec<(u64, InstanceId)>,
    /// Watches that have taken a line since the start.
    taken_watches: BTreeSet<u16>,
    /// Who heard what, if there are several observers.
    evidence: Option<Box<Evidence>>,
    /// What an earlier start knew of that.
    before: Before,
    /// Since the last take.
    events: Vec<Event<EngineTime>>,
    /// When sinks last had readings.
    reported_at: EngineTime,
    /// Since then nothing is received any more.
    deaf_since: Option<EngineTime>,
    /// What it takes in memory, as of the last tick.
    held: Holding,
}

impl Engine {
    /// An engine that knows nobody but who is expected. `seed` keys its tables: senders are not to know which names
    /// collide.
    pub fn new(policy: Policy, now: EngineTime, seed: u64) -> Engine {
        let mut engine = Engine::empty(policy, now, seed);
        engine.expect_services();
        engine.expect_jobs();
        engine
    }

    fn empty(policy: Policy, now: EngineTime, seed: u64) -> Engine {
        let jobs = Jobs::new(&policy.jobs);
        Engine {
            policy,
            now,
            roster: Roster::new(seed),
            admission: Admission::default(),
            instance_schedule: Schedule::default(),
            service_schedule: Schedule::default(),
            dirty: BTreeSet::new(),
            maybe_replaced: BTreeSet::new(),
            mass: MassSilence::default(),
            habits: Habits::default(),
            blindness: Blindness::default(),
            blind_times: BlindTimes::default(),
            jobs,
            announcements: Announcements::default(),
            epoch: Epoch::UNIX,
            has_epoch: false,
            awaits_first_runs: true,
            fleet_loss: FleetLoss::default(),
            counted: Vec::new(),
            taken_watches: BTreeSet::new(),
            evidence: None,
            before: Before { until: now, ..Before::default() },
            events: Vec::new(),
            reported_at: now,
            deaf_since: None,
            held: Memory::unlimited().holding(Holder::Presence),
        }
    }

    /// The same in this memory.
    #[must_use]
    pub fn in_memory(self, memory: &Memory) -> Engine {
        Engine { held: memory.holding(Holder::Presence), ..self }
    }

    /// Bytes that it takes.
    pub fn heap_bytes(&self) -> usize {
        let events: usize = self.events.iter().map(Event::heap_bytes).sum();
        self.roster.heap_bytes()
            + self.habits.heap_bytes()
            + self.instance_schedule.heap_bytes()
            + self.service_schedule.heap_bytes()
            + self.jobs.heap_bytes()
            + self.announcements.heap_bytes()
            + self.blind_times.heap_bytes()
            + vec_footprint::<(u64, InstanceId)>(self.counted.capacity())
            + vec_footprint::<Event<EngineTime>>(self.events.capacity())
            + events
            + self.evidence.as_ref().map_or(0, |evidence| evidence.heap_bytes())
    }

    /// Whether presence has more than its share of the memory, or there is no memory for new series either.
    fn is_short_of_memory(&self) -> bool {
        self.held.is_over() || self.held.memory().level() >= Level::Series
    }

    /// Registers the services that are expected and not known.
    fn expect_services(&mut self) {
        for expected in self.policy.expect.clone() {
            if self.roster.find_service(&expected.service).is_none() {
                let id = self.register_service(&expected.service);
                self.roster.service_mut(id).expect(self.now);
            }
        }
    }

    /// The engine's clock: the latest time it was given.
    pub fn now(&self) -> EngineTime {
        self.now
    }

    /// Receiving ends: silence says nothing from now on, and nobody is judged any more. What still comes is taken.
    pub fn stop_judging(&mut self) {
        self.deaf_since.get_or_insert(self.now);
    }

    /// Sets the time; it never runs backwards.
    pub fn at(&mut self, now: EngineTime) {
        self.now = self.now.max(now);
    }

    /// What happened since this was last asked.
    pub fn take_events(&mut self) -> Vec<Event<EngineTime>> {
        let mut events = std::mem::take(&mut self.events);
        for event in &mut events {
            let service = event.service.as_deref().and_then(|name| self.roster.find_service(name));
            event.service_context = service.map(|id| self.service_context(self.roster.service(id)));
        }
        events
    }

    /// Whether something happened that was not taken.
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// What was refused.
    pub fn refusals(&self) -> Refusals {
        *self.admission.refusals()
    }

    /// Who was refused most since this was last asked, and how often.
    pub fn take_most_refused(&mut self) -> Option<(IpAddr, u64)> {
        self.admission.take_most_refused()
    }

    /// Whether so many register, or have registered, that senders' addresses are wanted.
    pub fn is_crowded(&self) -> bool {
        self.admission.is_crowded(&self.roster, &self.policy, self.now)
    }

    /// Whether a service is known.
    pub fn knows(&self, service: &str) -> bool {
        self.roster.find_service(service).is_some() || self.knows_job(service, None)
    }

    /// How many instances are known.
    pub fn len(&self) -> usize {
        self.roster.instance_count()
    }

    /// Nobody is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether there is a mass silence.
    pub fn is_mass_silence(&self) -> bool {
        self.mass.is_on()
    }

    /// When an instance will be down if nothing is heard of it; `None` if it is not present.
    #[cfg(feature = "internals")]
    pub fn down_at(&self, service: &str, instance: &str) -> Option<EngineTime> {
        let instance = self.roster.instance(self.roster.find(service, instance)?);
        let deadlines = instance.detector().deadlines(&self.policy, self.roster.rules_of(instance));
        instance.is_present().then_some(deadlines.down)
    }
}

/// Blindness: what does not count against anybody.
impl Engine {
    /// A second in which the kernel dropped so many of the datagrams that reached our sockets.
    pub fn kernel_drops(&mut self, now: EngineTime, dropped: u64, received: u64) {
        self.at(now);
        if is_too_much(dropped, received, self.policy.drop_ratio) {
            let second = self.blindness.note_kernel_drops(self.now);
            self.leave_out_second(second, WarningCode::IngestDrops);
        }
    }

    /// A second in which our own queue was full for so many of what lines said of presence, and had room for the others.
    pub fn queue_drops(&mut self, now: EngineTime, dropped: u64, taken: u64) {
        self.at(now);
        if is_too_much(dropped, taken, self.policy.drop_ratio) {
            let second = self.blindness.note_queue_drops(self.now);
            self.leave_out_second(second, WarningCode::QueueDrops);
        }
    }

    fn leave_out_second(&mut self, second: LossySecond, code: WarningCode) {
        if second.warns {
            self.warn(None, code, true);
        }
        self.note_blind_minutes();
        if second.is_left_out {
            self.note_blind(self.now - 1.0, self.now);
            self.note_dropped_here();
            let skipped = self.seen_elsewhere();
            let (now, policy) = (self.now, &self.policy);
            self.roster.for_each_present(&skipped, |detector, rules| {
                detector.leave_out_dropped_second(now, policy, rules);
            });
        }
    }

    /// We did not run for so many seconds, and run again at `now`.
    pub fn stalled(&mut self, now: EngineTime, secs: f64) {
        self.at(now);
        if secs < self.policy.stall_min {
            return;
        }
        self.blindness.note_pause(secs);
        self.note_blind_minutes();
        self.note_blind(self.now - secs, self.now);
        self.warn(None, WarningCode::LocalPause, false);
        let skipped = self.seen_elsewhere();
        let (now, policy) = (self.now, &self.policy);
        self.roster.for_each_present(&skipped, |detector, rules| detector.leave_out_pause(secs, now, policy, rules));
    }

    /// The wall clock was set. No deadline depends on it.
    pub fn clock_stepped(&mut self, secs: f64) {
        if secs.abs() >= 2.0 {
            self.warn(None, WarningCode::ClockStep, false);
        }
    }

    /// What an earlier engine saved could not be read.
    pub fn state_lost(&mut self) {
        self.warn(None, WarningCode::StateLost, false);
    }

    /// Seconds in which we could not see.
    pub fn blind(&self) -> BlindSeconds {
        self.blindness.seconds()
    }
}

/// Registration, and being forgotten.
impl Engine {
    /// The service of a name; a new one if it is not known.
    fn register_service(&mut self, name: &str) -> ServiceId {
        if let Some(id) = self.roster.find_service(name) {
            return id;
        }
        let (rules, order) = (self.policy.rules_of(name), self.roster.next_order());
        let habit = self.habits.take(name, self.now);
        let id = self.roster.insert_service(Service::new(name, rules, habit, order, self.now));
        self.mark_dirty(id);
        self.admission.add_candidate(id, &self.roster);
        id
    }

    fn register_instance(&mut self, service: ServiceId, name: &str) -> InstanceId {
        let order = self.roster.next_order();
        self.roster.insert_instance(Instance::new(service, name, order, self.now))
    }

    fn remove_service(&mut self, id: ServiceId) {
        let service = self.roster.service(id);
        let (notify, flapping_notified) = (service.is_notified(), service.is_flapping_notified());
        // Nobody waits for the end of an alert that is about nobody.
        if flapping_notified {
            self.report_service_flapping(id, Phase::End);
        }
        self.report_service(id, None, notify);
        let name = self.roster.service(id).name().clone();
        let (missed_at, habit) = self.roster.service_mut(id).depart();
        self.habits.keep(&name, habit, missed_at, (self.now, self.policy.max_services));
        self.service_schedule.remove(id.place());
        self.roster.remove_service(id);
    }

    fn remove_instance(&mut self, id: InstanceId, reason: Reason) {
        self.end_health_alert(id);
        self.end_low(id);
        if self.roster.instance_mut(id).stop_flapping() {
            self.report_instance(id, Change::Flapping(Phase::End), true);
        }
        let instance = self.roster.instance(id);
        let (from, notify) = (instance.state(), instance.has_notified_problem());
        let (service, loses_rare) = (instance.service(), instance.detector().is_rare(&self.policy));
        self.transition(id, (Some(from), None), reason, notify);
        self.instance_schedule.remove(id.place());
        self.mass.remove(id);
        if let Some(evidence) = &mut self.evidence {
            evidence.forget(id);
        }
        self.roster.remove_instance(id);
        if loses_rare {
            self.pool_loss(service);
        }
    }

    /// How long one that left is remembered.
    fn forget_left_after(&self, instance: &Instance) -> f64 {
        if instance.detector().never_established() && instance.received() > 1 {
            self.policy.forget_left.max(FORGET_UNESTABLISHED)
        } else {
            self.policy.forget_left
        }
    }

    /// How long one that is down is remembered.
    fn forget_down_after(&self, service: &Service) -> f64 {
        match (service.present(), service.rules().ephemeral) {
            (0, _) => self.policy.forget_service,
            (_, true) => self.policy.forget_ephemeral,
            (_, false) => self.policy.forget_down,
        }
    }
}

/// When to look again.
impl Engine {
    fn mark_dirty(&mut self, service: ServiceId) {
        self.dirty.insert((self.roster.service(service).order(), service));
    }

    /// Somebody of a service may have been replaced.
    pub(super) fn mark_maybe_replaced(&mut self, service: ServiceId) {
        self.maybe_replaced.insert((self.roster.service(service).order(), service));
    }

    /// Puts an instance where the next tick that matters will find it.
    fn schedule(&mut self, id: InstanceId) {
        let at = self.next_look(self.roster.instance(id));
        self.instance_schedule.put(id.place(), at);
    }

    /// When time alone may change something about an instance.
    fn next_look(&self, instance: &Instance) -> EngineTime {
        let (service, policy) = (self.roster.service_of(instance), &self.policy);
        let at = match instance.state() {
            State::Up => {
                let deadlines = instance.detector().deadlines(policy, service.rules());
                deadlines.late.unwrap_or(deadlines.down)
            }
            State::Late | State::Unknown => {
                let down = instance.detector().deadlines(policy, service.rules()).down;
                // Past its deadline, whom a mass silence holds is looked at when that ends.
                let is_held = down <= self.now && instance.is_member() && self.mass.holds();
                if is_held { EngineTime::NEVER } else { down }
            }
            State::Left => {
                let forgotten = instance.left_at() + self.forget_left_after(instance);
                instance.missed_at().map_or(forgotten, |missed| forgotten.min(missed))
            }
            State::Down => {
                let forgotten = instance.down_at() + self.forget_down_after(service);
                let maintained = instance.maintenance_until().max(service.maintenance_until());
                match instance.recheck() {
                    Some((recheck, _)) => forgotten.min(recheck.max(maintained)),
                    None if instance.suppression() == Some(Suppression::Maintenance) => forgotten.min(maintained),
                    None => forgotten,
                }
            }
        };
        instance.settles_at(policy).map_or(at, |settles| at.min(settles))
    }
}

/// What happens, as events.
impl Engine {
    /// Moves an instance from one state to another, `None` being not known and forgotten; where its event stands.
    fn transition(
        &mut self,
        id: InstanceId,
        (from, to): (Option<State>, Option<State>),
        reason: Reason,
        notify: bool,
    ) -> usize {
        let context = self.context(self.roster.instance(id));
        let change = Change::Instance { from, to, reason };
        let at = self.report_instance(id, change, notify);
        self.events[at].context = Some(context);
        let crossed = self.roster.transition(id, (from, to), reason, self.now, self.reported_at);
        let service = self.roster.instance(id).service();
        self.mark_dirty(service);
        // Somebody came, fell silent or went: for another one that may be the replacement.
        self.mark_maybe_replaced(service);
        if crossed {
            // How long those that are down are remembered depends on whether anybody is present.
            for other in self.roster.service(service).instances().to_vec() {
                if other != id && self.roster.instance(other).is_down() {
                    self.schedule(other);
                }
            }
        }
        at
    }

    fn context(&self, instance: &Instance) -> InstanceContext<EngineTime> {
        let (detector, rules) = (instance.detector(), self.roster.rules_of(instance));
        let interval = detector.interval(&self.policy);
        InstanceContext {
            version: instance.version().cloned(),
            start: instance.start().cloned(),
            last_seen: detector.seen(),
            source: instance.source(),
            silence_s: detector.silence(self.now),
            blind_s: detector.blind(),
            interval_s: interval,
            misses: interval.map(|interval| detector.misses(interval, rules)),
            timeout_s: detector.timing(&self.policy, rules).down,
            down_for_s: instance.is_down().then_some(self.now - instance.down_at()),
        }
    }

    fn service_context(&self, service: &Service) -> ServiceContext {
        let down = self.roster.instances_of(service).filter(|instance| instance.is_down()).count();
        let service_state = service.state().unwrap_or(ServiceState::Unknown);
        let (present, total) = (service.present(), service.present() + down);
        let min = service.rules().min.filter(|min| *min as usize > total);
        ServiceContext { service_state, present, total, min, ephemeral: service.rules().ephemeral }
    }

    /// Adds an event; where it stands among those since the last take.
    fn report(&mut self, mut event: Event<EngineTime>) -> usize {
        // Who judges nobody tells nobody of a service.
        event.notify &= event.service.is_none() || !self.listens_only();
        self.events.push(event);
        self.events.len() - 1
    }

    fn report_instance(&mut self, id: InstanceId, change: Change, notify: bool) -> usize {
        let instance = self.roster.instance(id);
        self.report(Event {
            service: Some(self.roster.service_of(instance).name().clone()),
            instance: Some(instance.name().clone()),
            ..Event::new(self.now, change, notify)
        })
    }

    fn report_service(&mut self, id: ServiceId, to: Option<ServiceState>, notify: bool) {
        let service = self.roster.service(id);
        let (name, change) = (service.name().clone(), Change::Service { from: service.state(), to });
        self.report(Event { service: Some(name), ..Event::new(self.now, change, notify) });
    }

    fn report_service_flapping(&mut self, id: ServiceId, phase: Phase) {
        let service = self.roster.service(id);
        let (name, notify) = (service.name().clone(), !service.is_muted());
        let event = Event::new(self.now, Change::Flapping(phase), notify);
        self.report(Event { service: Some(name), instance: Some("*".into()), ..event });
    }

    fn report_mass_silence(&mut self, phase: MassSilencePhase, notify: bool) {
        self.report(Event::new(self.now, Change::MassSilence(phase), notify));
    }

    /// Warns of something about a service, or about no service.
    fn warn(&mut self, service: Option<ServiceId>, code: WarningCode, notify: bool) {
        let service = service.map(|id| self.roster.service(id).name().clone());
        self.report(Event { service, ..Event::new(self.now, Change::Warning(code), notify) });
    }

    fn warn_of_instance(&mut self, id: InstanceId, code: WarningCode, notify: bool) {
        self.report_instance(id, Change::Warning(code), notify);
    }

    /// Warns, once, that a table is full: of a service, or altogether.
    fn warn_of_limit(&mut self, service: Option<ServiceId>) {
        let is_new = match service {
            Some(id) => self.roster.service_mut(id).note_limit(),
            None => self.admission.note_limit(),
        };
        if is_new {
            self.warn(service, WarningCode::Limit, true);
        }
    }

    /// What holds for an instance.
    fn rules(&self, id: InstanceId) -> &Rules {
        self.roster.rules_of(self.roster.instance(id))
    }
}

#[cfg(test)]
mod tests;
