//! Hearing: what beats, goodbyes and operators say. A beat is a lookup and a few stores.

use std::net::IpAddr;

use crate::acl::equal;
use crate::protocol::{Heartbeat, Signal};

use super::admission::Refusal;
use super::engine::Engine;
use super::event::{Change, Event, Phase, Reason, WarningCode};
use super::instance::State;

/// Seconds between two warnings of the same trouble.
const WARN_EVERY: f64 = 3600.0;

/// Minutes over which the loss of the whole fleet is measured, how many beats must have been due in them, and the share
/// of them from which on it is told.
const LOSS_MINUTES: usize = 5;
const LOSS_DUE: u64 = 1000;
const HIGH_LOSS: f64 = 0.05;

/// Beats of everybody that were due, and those of them that were lost, by minute.
#[derive(Clone, Debug, Default)]
pub(super) struct FleetLoss {
    minute: u64,
    due: [(u64, u64); LOSS_MINUTES],
    warned_at: Option<f64>,
}

impl FleetLoss {
    /// Notes a gap of so many beats; `true` if so much is lost that it is to be told.
    fn note(&mut self, now: f64, due: u64) -> bool {
        let minute = (now / 60.0) as u64;
        for passed in (self.minute + 1).max(minute.saturating_sub(LOSS_MINUTES as u64))..=minute {
            self.due[passed as usize % LOSS_MINUTES] = (0, 0);
        }
        self.minute = self.minute.max(minute);
        let (expected, lost) = &mut self.due[minute as usize % LOSS_MINUTES];
        (*expected, *lost) = (*expected + due, *lost + due.saturating_sub(1));
        if due < 2 || self.warned_at.is_some_and(|at| now < at + WARN_EVERY) {
            return false;
        }
        let (expected, lost) = self.due.iter().fold((0, 0), |(e, l), (expected, lost)| (e + expected, l + lost));
        let is_high = expected >= LOSS_DUE && lost as f64 >= HIGH_LOSS * expected as f64;
        if is_high {
            self.warned_at = Some(now);
        }
        is_high
    }
}

impl Engine {
    /// Takes what a line said.
    pub fn signal(&mut self, signal: &Signal) {
        match signal {
            Signal::Heartbeat(beat) => self.beat(beat),
            Signal::Maintenance { service, instance, seconds, source, key } => {
                if self.trusts(service, *source, key.as_deref()) {
                    self.maintenance(service, instance.as_deref(), *seconds);
                }
            }
            Signal::Assist { service, instance, source, key } => {
                if self.find(service, instance).is_some() && self.trusts(service, *source, key.as_deref()) {
                    self.assist(service, instance);
                }
            }
            Signal::Ignored(why) => self.refusals.ignored[*why as usize] += 1,
        }
    }

    /// An operator's change was refused: it did not show the token.
    pub fn refuse_change(&mut self) {
        self.refusals.count(Refusal::Token);
    }

    /// Whether somebody may speak of a service; who may not is counted.
    fn trusts(&mut self, service: &str, source: Option<IpAddr>, key: Option<&str>) -> bool {
        if self.policy.guards.is_empty() {
            return true;
        }
        let guard = match self.find_service(service) {
            Some(sid) => self.service(sid).rules.guard,
            None => self.policy.rules_of(service).guard,
        };
        let Some(guard) = guard.and_then(|at| self.policy.guards.get(usize::from(at))) else { return true };
        if !guard.allow.permits(source) {
            self.refusals.count(Refusal::Allow);
            self.admission.note_refused(source, self.now);
            return false;
        }
        if guard.key.as_deref().is_some_and(|right| !equal(right.as_bytes(), key.unwrap_or("").as_bytes())) {
            self.refusals.count(Refusal::Key);
            self.admission.note_refused(source, self.now);
            return false;
        }
        true
    }

    /// Takes a heartbeat or a goodbye.
    pub fn beat(&mut self, beat: &Heartbeat) {
        if !self.trusts(&beat.service, beat.source, beat.key.as_deref()) {
            return;
        }
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
        if self.policy.goodbye_same_ip {
            self.note_home(id, old, beat.source);
        }
        self.measure(id, old, beat);
        self.count_beat(id);
        if beat.sampled && !std::mem::replace(&mut self.instance_mut(id).sampled, true) {
            self.warn_of(id, WarningCode::Sampled, false);
        }
        let restarted = self.identify(id, beat);
        self.compare_with_promise(id);
        let reason = match old {
            None => Some(Reason::Registered),
            Some(State::Unknown) => Some(Reason::Confirmed),
            Some(State::Late) => Some(Reason::LateBeat),
            Some(State::Down) => Some(Reason::Recovered),
            Some(State::Left) => Some(Reason::Returned),
            Some(State::Up) => None,
        };
        if let Some(reason) = reason {
            let notify = old == Some(State::Down) && self.instance(id).notified;
            self.go_from(id, old, Some(State::Up), reason, notify);
            let instance = self.instance_mut(id);
            instance.notified = false;
            instance.pending = None;
        }
        if restarted && old.is_some_and(|old| old != State::Left) {
            let up = Some(State::Up);
            let event = self.event_of(id, Change::Instance { from: up, to: up, reason: Reason::Restarted }, false);
            self.say(event);
        }
        if self.instance(id).received == 2 {
            let sid = self.instance(id).service;
            self.maybe_replaced.insert((self.service(sid).order, sid));
        }
        self.schedule(id);
    }

    /// A new instance, unless a limit forbids it.
    fn register(&mut self, beat: &Heartbeat) -> Option<u32> {
        let service = self.find_service(&beat.service);
        if let Err(why) = self.admit(service, beat.source) {
            self.refusals.count(why);
            if why == Refusal::Limit {
                self.warn_of_limit(service);
            }
            self.admission.note_refused(beat.source, self.now);
            return None;
        }
        let sid = self.make_service(&beat.service);
        Some(self.make_instance(sid, &beat.instance))
    }

    /// Notes where a beat came from, before it counts: a goodbye is believed from there alone.
    fn note_home(&mut self, id: u32, old: Option<State>, source: Option<IpAddr>) {
        let instance = self.instance(id);
        let timing = instance.timing(&self.policy, &self.service(instance.service).rules);
        let (now, patience) = (self.now, timing.late.unwrap_or(timing.down));
        // Who said goodbye, or was never there, may come back from anywhere.
        let is_new = old.is_none_or(|old| old == State::Left);
        self.instance_mut(id).note_home(source, now, patience, is_new);
    }

    /// What the time since the last beat says of the interval, and that silence begins anew.
    fn measure(&mut self, id: u32, old: Option<State>, beat: &Heartbeat) {
        let now = self.now;
        let mut due = 0;
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
                    due = instance.remember(gap, now);
                }
            }
            (Some(seen), Some(State::Down)) => {
                instance.remember(now - seen, now);
            }
            _ => {}
        }
        match (old, instance.seen) {
            (None, _) => {
                instance.counted = Some(now);
                instance.gaps.clear();
            }
            (Some(State::Left), Some(seen)) if instance.never_established => {
                instance.remember(now - instance.counted.filter(|&counted| counted != 0.0).unwrap_or(seen), now);
                instance.counted = Some(now);
            }
            (Some(State::Left), _) => instance.gaps.clear(),
            _ => {}
        }
        instance.never_established = false;
        (instance.seen, instance.heard, instance.since) = (Some(now), Some(now), now);
        (instance.blind, instance.blind_by_drops, instance.floor) = (0.0, 0.0, 0.0);
        instance.received += 1;
        instance.fresh_received = instance.fresh_received.saturating_add(1);
        instance.clear_recheck();
        if let Some(interval) = beat.interval {
            if instance.promise.is_some_and(|promise| promise != interval) {
                instance.gaps.clear();
            }
            instance.promise = Some(interval);
        }
        if beat.version.is_some() && beat.version != instance.version {
            instance.version.clone_from(&beat.version);
        }
        instance.note_health(beat);
        instance.source = beat.source.or(instance.source);
        if due > 0 && self.fleet_loss.note(now, due) {
            self.warn_of_service(None, WarningCode::HighLoss, false);
        }
    }

    /// Whether the process is another one than before.
    fn identify(&mut self, id: u32, beat: &Heartbeat) -> bool {
        let now = self.now;
        let instance = self.instance_mut(id);
        if beat.start.is_none() || beat.start == instance.start {
            return false;
        }
        let mut restarted = false;
        let mut conflict = false;
        if instance.start.is_some() {
            if beat.start == instance.rare().previous_start {
                // Two values in turn are two processes.
                conflict = now - instance.rare().conflict_at > WARN_EVERY;
            } else {
                restarted = true;
            }
        }
        if conflict {
            instance.rare_mut().conflict_at = now;
        }
        if let Some(start) = instance.start.take() {
            instance.rare_mut().previous_start = Some(start);
        }
        instance.start.clone_from(&beat.start);
        if conflict {
            self.warn_of(id, WarningCode::InstanceConflict, true);
        }
        restarted
    }

    fn compare_with_promise(&mut self, id: u32) {
        let instance = self.instance_mut(id);
        let Some(promise) = instance.promise else { return };
        if instance.gaps.len() < 4 {
            return;
        }
        let ratio = instance.gaps.recent_median() / promise;
        let mut broken = false;
        if ratio > 1.5 && !instance.mismatch {
            instance.mismatch = true;
            broken = true;
        } else if ratio <= 1.2 {
            instance.mismatch = false;
        }
        let longest = instance.gaps.longest();
        // Milliseconds sent as seconds?
        let loose = instance.gaps.len() >= 8 && longest < 0.05 * promise && !instance.loose;
        instance.loose |= loose;
        if broken {
            self.warn_of(id, WarningCode::PromiseMismatch, false);
        }
        if loose {
            self.warn_of(id, WarningCode::PromiseLoose, false);
        }
    }

    fn goodbye(&mut self, beat: &Heartbeat) {
        let Some(id) = self.find(&beat.service, &beat.instance) else { return };
        let now = self.now;
        if self.policy.goodbye_same_ip && !self.instance(id).is_at_home(beat.source) {
            self.refusals.count(Refusal::GoodbyeFrom);
            self.admission.note_refused(beat.source, self.now);
            return;
        }
        let instance = self.instance_mut(id);
        let is_older = beat.start.is_some() && instance.start.is_some() && beat.start != instance.start;
        if !is_older {
            instance.note_health(beat);
        }
        if instance.state == State::Left {
            if now > instance.left_at + 15.0 && now - instance.rare().conflict_at > WARN_EVERY {
                instance.rare_mut().conflict_at = now;
                self.warn_of(id, WarningCode::ZeroRepeated, true);
            }
            return;
        }
        // A goodbye of an older process means nothing.
        if is_older {
            return;
        }
        self.leave(id, Reason::Goodbye);
    }

    pub(super) fn leave(&mut self, id: u32, reason: Reason) {
        let now = self.now;
        let instance = self.instance(id);
        let notify = instance.state == State::Down && instance.notified;
        self.go(id, Some(State::Left), reason, notify);
        let instance = self.instance_mut(id);
        instance.left_at = now;
        instance.notified = false;
        instance.pending = None;
        instance.clear_recheck();
        if std::mem::take(&mut instance.flapping) {
            let event = self.event_of(id, Change::Flapping(Phase::End), true);
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
            self.go(id, Some(State::Up), Reason::Implicit, false);
        }
        self.schedule(id);
    }

    /// Keeps quiet about a service, or one of its instances, for so many seconds; 0 ends it. For how many,
    /// which the policy limits; `None` if it is unknown.
    pub fn maintenance(&mut self, service: &str, instance: Option<&str>, seconds: f64) -> Option<f64> {
        let sid = self.find_service(service)?;
        let granted = seconds.clamp(0.0, self.policy.maintenance_max);
        let until = self.now + granted;
        match instance {
            None => self.service_mut(sid).maintenance_until = until,
            Some(name) => {
                let id = self.find(service, name)?;
                self.instance_mut(id).maintenance_until = until;
            }
        }
        let phase = if seconds > 0.0 { Phase::Start } else { Phase::End };
        let event = Event {
            service: Some(service.into()),
            instance: Some(instance.unwrap_or("*").into()),
            ..self.event(Change::Maintenance(phase), false)
        };
        self.say(event);
        for id in self.service(sid).instances.clone() {
            self.schedule(id);
        }
        self.mark_dirty(sid);
        Some(granted)
    }

    /// Forgets an instance, or a service with all of its own. `false` if it is unknown.
    pub fn forget(&mut self, service: &str, instance: Option<&str>) -> bool {
        match instance {
            Some(instance) => {
                let Some(id) = self.find(service, instance) else { return false };
                self.drop_instance(id, Reason::Operator);
            }
            None => {
                let Some(sid) = self.find_service(service) else { return false };
                for id in self.service(sid).instances.clone() {
                    self.drop_instance(id, Reason::Operator);
                }
            }
        }
        true
    }
}
