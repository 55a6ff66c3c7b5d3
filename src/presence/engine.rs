//! The engine: takes beats and lets time pass. Pure: time is an argument, and what it says are [`Event`]s.
//!
//! A beat is a lookup and a few stores. Deadlines lie in a queue, one entry an instance, that is only looked at when it
//! is due and put back where the instance then belongs; so a beat moves nothing.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};

use hashbrown::HashTable;
use rapidhash::v3::RapidSecrets;

use crate::protocol::{Beat, Signal};

use super::event::{Event, EventKind, Facts};
use super::instance::{Instance, State, median};
use super::policy::Policy;
use super::roster::Due;
use super::service::{Service, ServiceState};

/// Registrations taken in a second; a flood beyond is refused.
const REGISTRATIONS_A_SECOND: u32 = 1000;

/// Seconds between two warnings of the same trouble.
const WARN_EVERY: f64 = 3600.0;

/// Silence of most of those that should be heard.
#[derive(Clone, Debug)]
pub(super) struct Mass {
    pub(super) start: f64,
    pub(super) members: Vec<u32>,
    pub(super) expired: bool,
}

/// What was refused or not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    /// Beats of new instances over a limit.
    pub limit: u64,
    /// Beats of new instances over the rate of registrations.
    pub rate: u64,
    /// Beats that a goodbye had overtaken.
    pub stragglers: u64,
}

/// Who is there.
#[derive(Debug)]
pub struct Engine {
    pub(super) policy: Policy,
    pub(super) now: f64,
    pub(super) services: Vec<Option<Service>>,
    pub(super) instances: Vec<Option<Instance>>,
    pub(super) free_services: Vec<u32>,
    pub(super) free_instances: Vec<u32>,
    pub(super) by_name: HashMap<Box<str>, u32>,
    pub(super) by_key: HashTable<u32>,
    pub(super) hasher: RapidSecrets,
    pub(super) next_order: u64,
    pub(super) count: usize,
    pub(super) mass: Option<Mass>,
    pub(super) drops_at: f64,
    limit_warned: bool,
    pub(super) queue: BinaryHeap<Reverse<Due>>,
    pub(super) service_queue: BinaryHeap<Reverse<Due>>,
    /// Services to look at in the next tick, in the order of registration.
    pub(super) dirty: BTreeSet<(u64, u32)>,
    /// Services in which somebody may have been replaced.
    pub(super) maybe_replaced: BTreeSet<(u64, u32)>,
    pub(super) events: Vec<Event>,
    registrations: (f64, u32),
    refusals: Refusals,
}

impl Engine {
    /// An engine that knows nobody but who is expected. `seed` keys the table: senders are not to know which names
    /// collide.
    pub fn new(policy: Policy, now: f64, seed: u64) -> Engine {
        let mut engine = Engine {
            policy,
            now,
            services: Vec::new(),
            instances: Vec::new(),
            free_services: Vec::new(),
            free_instances: Vec::new(),
            by_name: HashMap::new(),
            by_key: HashTable::new(),
            hasher: RapidSecrets::seed(seed),
            next_order: 0,
            count: 0,
            mass: None,
            drops_at: -1e9,
            limit_warned: false,
            queue: BinaryHeap::new(),
            service_queue: BinaryHeap::new(),
            dirty: BTreeSet::new(),
            maybe_replaced: BTreeSet::new(),
            events: Vec::new(),
            registrations: (0.0, 0),
            refusals: Refusals::default(),
        };
        for expected in engine.policy.expect.clone() {
            let id = engine.make_service(&expected.service);
            let service = engine.services[id as usize].as_mut().expect("it was just made");
            service.state = Some(ServiceState::Unknown);
            service.expect_at = Some(now + service.rules.within);
        }
        engine
    }

    /// What happened since this was last asked.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Whether something happened that was not taken.
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// What was refused.
    pub fn refusals(&self) -> Refusals {
        self.refusals
    }

    /// The engine's clock: the latest time it was told.
    pub fn now(&self) -> f64 {
        self.now
    }

    /// Tells the time; it never runs backwards.
    pub fn at(&mut self, now: f64) {
        self.now = self.now.max(now);
    }

    /// Says something; where it stands among the events since the last take.
    pub(super) fn say(&mut self, event: Event) -> usize {
        self.events.push(event);
        self.events.len() - 1
    }

    pub(super) fn event(&self, kind: EventKind, notify: bool) -> Event {
        Event::new(self.now, kind, notify)
    }

    pub(super) fn event_of(&self, id: u32, kind: EventKind, notify: bool) -> Event {
        let instance = self.instance(id);
        Event {
            service: Some(self.service(instance.service).name.clone()),
            instance: Some(instance.name.clone()),
            ..self.event(kind, notify)
        }
    }

    pub(super) fn warn_of(&mut self, id: u32, code: &'static str, notify: bool) {
        let event = Event { code: Some(code), ..self.event_of(id, EventKind::Warning, notify) };
        self.say(event);
    }

    pub(super) fn warn_of_service(&mut self, service: Option<&str>, code: &'static str, notify: bool) {
        let event =
            Event { code: Some(code), service: service.map(Into::into), ..self.event(EventKind::Warning, notify) };
        self.say(event);
    }

    fn facts(&self, instance: &Instance) -> Facts {
        let rules = &self.service(instance.service).rules;
        let interval = instance.interval(&self.policy);
        let was_down = instance.state == State::Down;
        Facts {
            version: instance.version.clone(),
            start: instance.start.clone(),
            silence_s: self.silence(instance),
            blind_s: instance.blind,
            interval_s: interval,
            misses: interval.map(|interval| instance.misses(interval, rules)),
            timeout_s: instance.timing(&self.policy, rules).down,
            down_for_s: was_down.then_some(self.now - instance.down_at),
        }
    }

    /// Seconds of silence, without those in which we could not see.
    pub(super) fn silence(&self, instance: &Instance) -> f64 {
        (self.now - instance.since - instance.blind).max(0.0)
    }

    /// Moves an instance to another state, `None` being forgotten; where its event stands.
    pub(super) fn go(&mut self, id: u32, to: Option<State>, reason: &'static str, notify: bool) -> usize {
        let from = self.instance(id).state;
        self.go_from(id, Some(from), to, reason, notify)
    }

    pub(super) fn go_from(
        &mut self,
        id: u32,
        from: Option<State>,
        to: Option<State>,
        reason: &'static str,
        notify: bool,
    ) -> usize {
        let now = self.now;
        let event = Event {
            from: Some(from.map_or("none", State::name)),
            to: Some(to.map_or("forgotten", State::name)),
            reason: Some(reason),
            facts: Some(self.facts(self.instance(id))),
            ..self.event_of(id, EventKind::Instance, notify)
        };
        let at = self.say(event);
        let instance = self.instance_mut(id);
        let sid = instance.service;
        instance.changed = now;
        if let Some(to) = to {
            instance.state = to;
        }
        if to == Some(State::Down) || reason == "recovered" {
            instance.stable = now;
        }
        let (was, is) = (from.is_some_and(State::is_present), to.is_some_and(State::is_present));
        let service = self.service_mut(sid);
        let before = service.present;
        service.present = service.present + usize::from(is) - usize::from(was);
        let crossed = (before == 0) != (service.present == 0);
        let order = service.order;
        self.dirty.insert((order, sid));
        if to == Some(State::Up) || to == Some(State::Down) {
            self.maybe_replaced.insert((order, sid));
        }
        if crossed {
            // How long those that are down are remembered depends on whether anybody is present.
            for other in self.service(sid).instances.clone() {
                if other != id && self.instance(other).state == State::Down {
                    self.schedule(other);
                }
            }
        }
        at
    }

    /// Takes what a line said.
    pub fn signal(&mut self, signal: &Signal) {
        match signal {
            Signal::Beat(beat) => self.beat(beat),
            Signal::Maintenance { service, instance, seconds } => {
                self.maintenance(service, instance.as_deref(), *seconds);
            }
            Signal::Assist { service, instance } => self.assist(service, instance),
        }
    }

    /// Takes a heartbeat or a goodbye.
    pub fn beat(&mut self, beat: &Beat) {
        if beat.goodbye {
            self.goodbye(beat);
            return;
        }
        let now = self.now;
        let (id, old) = match self.find(&beat.service, &beat.instance) {
            Some(id) => (id, Some(self.instance(id).state)),
            None => match self.register(beat) {
                Some(id) => (id, None),
                None => return,
            },
        };
        if old == Some(State::Left) {
            let instance = self.instance(id);
            let linger = self
                .policy
                .linger
                .unwrap_or_else(|| (0.5 * instance.interval(&self.policy).unwrap_or(4.0)).clamp(2.0, 10.0));
            let restarted = beat.start.is_some() && beat.start != instance.start;
            if now < instance.left_at + linger && !restarted {
                self.refusals.stragglers += 1;
                return;
            }
        }
        self.measure(id, old, beat);
        let restarted = self.identify(id, beat);
        self.compare_with_promise(id);
        let reason = match old {
            None => "registered",
            Some(State::Unknown) => "confirmed",
            Some(State::Late) => "late_beat",
            Some(State::Down) => "recovered",
            Some(State::Left) => "returned",
            Some(State::Up) => "",
        };
        if old != Some(State::Up) {
            let notify = old == Some(State::Down) && self.instance(id).notified;
            self.go_from(id, old, Some(State::Up), reason, notify);
            let instance = self.instance_mut(id);
            instance.notified = false;
            instance.pending = None;
        }
        if restarted && old.is_some_and(|old| old != State::Left) {
            let event = Event {
                from: Some("up"),
                to: Some("up"),
                reason: Some("restarted"),
                ..self.event_of(id, EventKind::Instance, false)
            };
            self.say(event);
        }
        if self.instance(id).received == 2 {
            let sid = self.instance(id).service;
            self.maybe_replaced.insert((self.service(sid).order, sid));
        }
        self.schedule(id);
    }

    /// A new instance, unless a limit forbids it.
    fn register(&mut self, beat: &Beat) -> Option<u32> {
        let service = self.find_service(&beat.service);
        if let Some(sid) = service
            && self.service(sid).instances.len() >= self.policy.max_instances_per_service
        {
            // The oldest that left makes room, then the oldest that is down.
            let gone = self.service(sid).instances.iter().copied().filter(|&id| !self.instance(id).state.is_present());
            let oldest = gone.min_by(|&a, &b| {
                let key = |id: u32| (self.instance(id).state == State::Down, self.instance(id).changed);
                key(a).0.cmp(&key(b).0).then(key(a).1.total_cmp(&key(b).1))
            });
            if let Some(oldest) = oldest {
                self.drop_instance(oldest, "evicted");
            }
        }
        let full = match service {
            None => self.by_name.len() >= self.policy.max_services,
            Some(sid) => self.service(sid).instances.len() >= self.policy.max_instances_per_service,
        };
        if full || self.count >= self.policy.max_instances {
            self.refusals.limit += 1;
            let warned = match service {
                Some(sid) if full => &mut self.service_mut(sid).limit_warned,
                _ => &mut self.limit_warned,
            };
            if !std::mem::replace(warned, true) {
                self.warn_of_service(Some(&beat.service), "limit", true);
            }
            return None;
        }
        if self.now >= self.registrations.0 + 1.0 {
            self.registrations = (self.now, 0);
        }
        self.registrations.1 += 1;
        if self.registrations.1 > REGISTRATIONS_A_SECOND {
            self.refusals.rate += 1;
            return None;
        }
        let sid = self.make_service(&beat.service);
        Some(self.make_instance(sid, &beat.instance))
    }

    /// What the time since the last beat says of the interval, and that silence begins anew.
    fn measure(&mut self, id: u32, old: Option<State>, beat: &Beat) {
        let now = self.now;
        let instance = self.instance_mut(id);
        match (instance.seen, old) {
            (Some(seen), Some(State::Up | State::Late)) if instance.blind == 0.0 && instance.floor <= now => {
                let mut gap = now - seen;
                if instance.promise.is_none() && beat.interval.is_none() {
                    // Without a promise beats less than 5 s apart are one.
                    gap = now - instance.counted.unwrap_or(now);
                    if gap < 5.0 && instance.counted.is_some() {
                        gap = 0.0;
                    } else {
                        instance.counted = Some(now);
                    }
                }
                if gap > 0.05 {
                    instance.remember(gap);
                }
            }
            (Some(seen), Some(State::Down)) => instance.remember(now - seen),
            _ => {}
        }
        match (old, instance.seen) {
            (None, _) => {
                instance.counted = Some(now);
                instance.gaps.clear();
            }
            (Some(State::Left), Some(seen)) if instance.never_established => {
                instance.remember(now - instance.counted.filter(|&counted| counted != 0.0).unwrap_or(seen));
                instance.counted = Some(now);
            }
            (Some(State::Left), _) => instance.gaps.clear(),
            _ => {}
        }
        instance.never_established = false;
        (instance.seen, instance.heard, instance.since) = (Some(now), Some(now), now);
        (instance.blind, instance.blind_by_drops, instance.floor) = (0.0, 0.0, 0.0);
        instance.received += 1;
        instance.recheck = None;
        if let Some(interval) = beat.interval {
            if instance.promise.is_some_and(|promise| promise != interval) {
                instance.gaps.clear();
            }
            instance.promise = Some(interval);
        }
        if beat.version.is_some() && beat.version != instance.version {
            instance.version.clone_from(&beat.version);
        }
        instance.health = beat.health.or(instance.health);
        instance.source = beat.source.or(instance.source);
    }

    /// Whether the process is another one than before.
    fn identify(&mut self, id: u32, beat: &Beat) -> bool {
        let now = self.now;
        let instance = self.instance_mut(id);
        if beat.start.is_none() || beat.start == instance.start {
            return false;
        }
        let mut restarted = false;
        let mut conflict = false;
        if instance.start.is_some() {
            if beat.start == instance.previous_start {
                // Two values in turn are two processes.
                conflict = now - instance.conflict_at > WARN_EVERY;
            } else {
                restarted = true;
            }
        }
        if conflict {
            instance.conflict_at = now;
        }
        instance.previous_start = instance.start.take();
        instance.start.clone_from(&beat.start);
        if conflict {
            self.warn_of(id, "instance_conflict", true);
        }
        restarted
    }

    fn compare_with_promise(&mut self, id: u32) {
        let instance = self.instance_mut(id);
        let Some(promise) = instance.promise else { return };
        if instance.gaps.len() < 4 {
            return;
        }
        let ratio = median(instance.recent()) / promise;
        let mut broken = false;
        if ratio > 1.5 && !instance.mismatch {
            instance.mismatch = true;
            broken = true;
        } else if ratio <= 1.2 {
            instance.mismatch = false;
        }
        let longest = instance.gaps.iter().copied().fold(0.0, f64::max);
        // Milliseconds sent as seconds?
        let loose = instance.gaps.len() >= 8 && longest < 0.05 * promise && !instance.loose;
        instance.loose |= loose;
        if broken {
            self.warn_of(id, "promise_mismatch", false);
        }
        if loose {
            self.warn_of(id, "promise_loose", false);
        }
    }

    fn goodbye(&mut self, beat: &Beat) {
        let Some(id) = self.find(&beat.service, &beat.instance) else { return };
        let now = self.now;
        let instance = self.instance_mut(id);
        if instance.state == State::Left {
            if now > instance.left_at + 15.0 && now - instance.conflict_at > WARN_EVERY {
                instance.conflict_at = now;
                self.warn_of(id, "zero_repeated", true);
            }
            return;
        }
        // A goodbye of an older process means nothing.
        if beat.start.is_some() && instance.start.is_some() && beat.start != instance.start {
            return;
        }
        self.leave(id, "goodbye");
    }

    pub(super) fn leave(&mut self, id: u32, reason: &'static str) {
        let now = self.now;
        let instance = self.instance(id);
        let notify = instance.state == State::Down && instance.notified;
        self.go(id, Some(State::Left), reason, notify);
        let instance = self.instance_mut(id);
        instance.left_at = now;
        instance.notified = false;
        instance.pending = None;
        instance.recheck = None;
        if std::mem::take(&mut instance.flapping) {
            let event = Event { to: Some("end"), ..self.event_of(id, EventKind::Flapping, true) };
            self.say(event);
        }
        self.schedule(id);
    }

    /// Something else was heard of a registered instance: it lives, but promises nothing.
    pub fn assist(&mut self, service: &str, instance: &str) {
        let Some(id) = self.find(service, instance) else { return };
        let now = self.now;
        let instance = self.instance_mut(id);
        if !instance.state.is_present() {
            return;
        }
        (instance.since, instance.heard) = (now, Some(now));
        (instance.blind, instance.blind_by_drops, instance.floor) = (0.0, 0.0, 0.0);
        if instance.state != State::Up {
            self.go(id, Some(State::Up), "implicit", false);
        }
        self.schedule(id);
    }

    /// Keeps quiet about a service, or one of its instances, for so many seconds; 0 ends it. `false` if it is unknown.
    pub fn maintenance(&mut self, service: &str, instance: Option<&str>, seconds: f64) -> bool {
        let Some(sid) = self.find_service(service) else { return false };
        let until = self.now + seconds.clamp(0.0, self.policy.maintenance_max);
        match instance {
            None => self.service_mut(sid).maintenance_until = until,
            Some(name) => {
                let Some(id) = self.find(service, name) else { return false };
                self.instance_mut(id).maintenance_until = until;
            }
        }
        let event = Event {
            service: Some(service.into()),
            instance: Some(instance.unwrap_or("*").into()),
            to: Some(if seconds > 0.0 { "start" } else { "end" }),
            ..self.event(EventKind::Maintenance, false)
        };
        self.say(event);
        for id in self.service(sid).instances.clone() {
            self.schedule(id);
        }
        self.mark_dirty(sid);
        true
    }

    /// Forgets an instance, or a service with all of its own. `false` if it is unknown.
    pub fn forget(&mut self, service: &str, instance: Option<&str>) -> bool {
        match instance {
            Some(instance) => {
                let Some(id) = self.find(service, instance) else { return false };
                self.drop_instance(id, "operator");
            }
            None => {
                let Some(sid) = self.find_service(service) else { return false };
                for id in self.service(sid).instances.clone() {
                    self.drop_instance(id, "operator");
                }
            }
        }
        true
    }
}
