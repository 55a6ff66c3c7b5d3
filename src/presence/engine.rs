//! The engine: takes beats and lets time pass. Pure: time is an argument, and what it says are [`Event`]s.
//!
//! A beat is a lookup and a few stores. Deadlines lie in a queue, one entry an instance, that is only looked at when it
//! is due and put back where the instance then belongs; so a beat moves nothing.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};
use std::net::IpAddr;

use compact_str::CompactString;

use hashbrown::HashTable;
use rapidhash::v3::RapidSecrets;

use crate::protocol::Ignored;

use super::admission::{Admission, Refusal};
use super::event::{Change, Event, InstanceContext, Reason, ServiceContext, WarningCode};
use super::instance::{Instance, State};
use super::observe::FleetLoss;
use super::policy::Policy;
use super::roster::{Due, Gone};
use super::service::{Service, ServiceState};

/// Silence of most of those that should be heard.
#[derive(Clone, Debug)]
pub(super) struct Mass {
    pub(super) start: f64,
    pub(super) members: BTreeSet<u32>,
    pub(super) expired: bool,
}

/// What was refused or not counted, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    /// Beats of new instances over a limit.
    pub limit: u64,
    /// Beats of new instances over the rate of registrations.
    pub rate: u64,
    /// Beats of new instances whose source has registered too many in a minute.
    pub source: u64,
    /// Services that were not established and gave way to new ones.
    pub evicted: u64,
    /// From a sender who is not in the service's `allow`.
    pub allow: u64,
    /// Without the service's `key`.
    pub key: u64,
    /// Goodbyes from another address than the beats.
    pub goodbye_from: u64,
    /// Changes by operators who did not show the token.
    pub token: u64,
    /// Beats that a goodbye had overtaken.
    pub stragglers: u64,
    /// Under a heartbeat's name but none, by the place of the reason in [`Ignored::ALL`].
    pub ignored: [u64; Ignored::ALL.len()],
}

impl Refusals {
    /// Counts what was refused.
    pub(super) fn count(&mut self, why: Refusal) {
        let count = match why {
            Refusal::Allow => &mut self.allow,
            Refusal::GoodbyeFrom => &mut self.goodbye_from,
            Refusal::Key => &mut self.key,
            Refusal::Limit => &mut self.limit,
            Refusal::Rate => &mut self.rate,
            Refusal::Source => &mut self.source,
            Refusal::Token => &mut self.token,
        };
        *count += 1;
    }

    /// What was refused of whom, by reason, as series and the ledger have it.
    pub fn by_reason(&self) -> [(Refusal, u64); 7] {
        [
            (Refusal::Limit, self.limit),
            (Refusal::Rate, self.rate),
            (Refusal::Source, self.source),
            (Refusal::Allow, self.allow),
            (Refusal::Key, self.key),
            (Refusal::GoodbyeFrom, self.goodbye_from),
            (Refusal::Token, self.token),
        ]
    }
}

/// Seconds in which we could not see, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BlindSeconds {
    /// We were not running.
    pub restart: f64,
    /// We stood still.
    pub pause: f64,
    /// The kernel dropped datagrams.
    pub drops: f64,
    /// Our own queue was full.
    pub queue: f64,
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
    pub(super) by_name: HashMap<CompactString, u32>,
    pub(super) by_key: HashTable<u32>,
    pub(super) hasher: RapidSecrets,
    pub(super) next_order: u64,
    pub(super) count: usize,
    pub(super) mass: Option<Mass>,
    /// When the kernel dropped datagrams of late, and when our own queue overflowed.
    pub(super) drops_at: f64,
    pub(super) queue_drops_at: f64,
    pub(super) limit_warned: bool,
    pub(super) queue: BinaryHeap<Reverse<Due>>,
    pub(super) service_queue: BinaryHeap<Reverse<Due>>,
    /// Services to look at in the next tick, in the order of registration.
    pub(super) dirty: BTreeSet<(u64, u32)>,
    /// Services in which somebody may have been replaced.
    pub(super) maybe_replaced: BTreeSet<(u64, u32)>,
    pub(super) events: Vec<Event>,
    pub(super) admission: Admission,
    pub(super) refusals: Refusals,
    pub(super) told_refusals: Refusals,
    pub(super) blind: BlindSeconds,
    pub(super) told_blind: BlindSeconds,
    pub(super) fleet_loss: FleetLoss,
    /// When sinks were last told.
    pub(super) told_at: f64,
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
            queue_drops_at: -1e9,
            limit_warned: false,
            queue: BinaryHeap::new(),
            service_queue: BinaryHeap::new(),
            dirty: BTreeSet::new(),
            maybe_replaced: BTreeSet::new(),
            events: Vec::new(),
            admission: Admission::default(),
            refusals: Refusals::default(),
            told_refusals: Refusals::default(),
            blind: BlindSeconds::default(),
            told_blind: BlindSeconds::default(),
            fleet_loss: FleetLoss::default(),
            told_at: now,
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
        let mut events = std::mem::take(&mut self.events);
        for event in &mut events {
            let service = event.service.as_deref().and_then(|name| self.find_service(name));
            event.service_context = service.map(|id| self.service_context(self.service(id)));
        }
        events
    }

    fn service_context(&self, service: &Service) -> ServiceContext {
        let down = service.instances.iter().filter(|&&id| self.instance(id).state == State::Down).count();
        let service_state = service.state.unwrap_or(ServiceState::Unknown);
        ServiceContext { service_state, present: service.present, total: service.present + down }
    }

    /// Whether something happened that was not taken.
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// What was refused.
    pub fn refusals(&self) -> Refusals {
        self.refusals
    }

    /// Who was refused most since this was last asked, and how often.
    pub fn take_most_refused(&mut self) -> Option<(IpAddr, u64)> {
        self.admission.take_most_refused()
    }

    /// Seconds in which we could not see.
    pub fn blind(&self) -> BlindSeconds {
        self.blind
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

    pub(super) fn event(&self, change: Change, notify: bool) -> Event {
        Event::new(self.now, change, notify)
    }

    pub(super) fn event_of(&self, id: u32, change: Change, notify: bool) -> Event {
        let instance = self.instance(id);
        Event {
            service: Some(self.service(instance.service).name.clone()),
            instance: Some(instance.name.clone()),
            ..self.event(change, notify)
        }
    }

    pub(super) fn warn_of(&mut self, id: u32, code: WarningCode, notify: bool) {
        let event = self.event_of(id, Change::Warning(code), notify);
        self.say(event);
    }

    pub(super) fn warn_of_service(&mut self, service: Option<&str>, code: WarningCode, notify: bool) {
        let event = Event { service: service.map(Into::into), ..self.event(Change::Warning(code), notify) };
        self.say(event);
    }

    fn context(&self, instance: &Instance) -> InstanceContext {
        let rules = &self.service(instance.service).rules;
        let interval = instance.interval(&self.policy);
        let was_down = instance.state == State::Down;
        InstanceContext {
            version: instance.version.clone(),
            start: instance.start.clone(),
            last_seen: instance.seen,
            source: instance.source,
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
    pub(super) fn go(&mut self, id: u32, to: Option<State>, reason: Reason, notify: bool) -> usize {
        let from = self.instance(id).state;
        self.go_from(id, Some(from), to, reason, notify)
    }

    pub(super) fn go_from(
        &mut self,
        id: u32,
        from: Option<State>,
        to: Option<State>,
        reason: Reason,
        notify: bool,
    ) -> usize {
        let (now, told) = (self.now, self.told_at);
        let event = Event {
            context: Some(self.context(self.instance(id))),
            ..self.event_of(id, Change::Instance { from, to, reason }, notify)
        };
        let at = self.say(event);
        let before = Gone::of(id, self.instance(id));
        let instance = self.instance_mut(id);
        let sid = instance.service;
        instance.history.change(now, instance.changed, told, from, to);
        instance.changed = now;
        if let Some(to) = to {
            instance.state = to;
        }
        let after = Gone::of(id, instance).filter(|_| to.is_some());
        if to == Some(State::Down) || reason == Reason::Recovered {
            instance.stable = now;
        }
        let (was, is) = (from.is_some_and(State::is_present), to.is_some_and(State::is_present));
        let service = self.service_mut(sid);
        if let Some(before) = before {
            service.absent.remove(&before);
        }
        service.absent.extend(after);
        service.count_transition(to);
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
}
