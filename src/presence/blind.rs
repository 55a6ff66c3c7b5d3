//! Blind time: the clock of suspicion runs only while we can see. Our restarts, our pauses and what the kernel dropped
//! do not count, but they move a deadline only where a beat was due, and all together no further than twice the timeout.

use super::engine::{Engine, Mass};
use super::event::{Change, WarningCode};
use super::instance::{Instance, State};
use super::policy::Policy;
use super::service::Service;

/// Least pause between two warnings of dropped datagrams, in seconds.
const DROPS_EVERY: f64 = 60.0;

/// Losses of two kinds that come closer, in seconds, are told of the same second.
const SAME_SECOND: f64 = 0.9;

/// An instance that had nothing due while we were away is judged this long after we are back, at the latest.
const SETTLE: f64 = 60.0;

/// Everything that survives a restart. Times are those of the engine that said it.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Saved {
    /// The engine's clock.
    pub now: f64,
    /// Services with their instances.
    pub services: Vec<(Service, Vec<Instance>)>,
    /// A mass silence that lasts: its start, and whether its hold has expired.
    pub mass: Option<(f64, bool)>,
}

impl Engine {
    /// A second in which the kernel dropped so many of the datagrams that reached our sockets.
    pub fn kernel_drops(&mut self, now: f64, dropped: u64, received: u64) {
        self.at(now);
        if !self.is_too_much(dropped, received) {
            return;
        }
        if self.now - self.drops_at > DROPS_EVERY {
            self.warn_of_service(None, WarningCode::IngestDrops, true);
        }
        self.drops_at = self.now;
        // A second in which both were lost is one.
        if self.now - self.queue_drops_at >= SAME_SECOND {
            self.blind.drops += 1.0;
            self.leave_out_a_second();
        }
    }

    /// A second in which our own queue was full for so many of what lines said of presence, and had room for the others.
    pub fn queue_drops(&mut self, now: f64, dropped: u64, taken: u64) {
        self.at(now);
        if !self.is_too_much(dropped, taken) {
            return;
        }
        if self.now - self.queue_drops_at > DROPS_EVERY {
            self.warn_of_service(None, WarningCode::QueueDrops, true);
        }
        self.queue_drops_at = self.now;
        if self.now - self.drops_at >= SAME_SECOND {
            self.blind.queue += 1.0;
            self.leave_out_a_second();
        }
    }

    /// Whether a second in which so much was lost counts against nobody.
    fn is_too_much(&self, lost: u64, seen: u64) -> bool {
        let (lost, seen) = (lost as f64, seen as f64);
        lost > 0.0 && lost / (lost + seen) >= self.policy.drop_ratio
    }

    fn leave_out_a_second(&mut self) {
        let now = self.now;
        self.for_present(|instance, policy, service| {
            let timing = instance.timing(policy, &service.rules);
            let added = (timing.down - instance.blind_by_drops).min(1.0);
            if added > 0.0 {
                instance.blind_by_drops += added;
                instance.blind += added;
                if instance.was_due(1.0, now, policy, &service.rules) {
                    let floor = (now + timing.late.unwrap_or(timing.down)).min(instance.since + 2.0 * timing.down);
                    instance.floor = instance.floor.max(floor);
                }
            }
        });
    }

    /// We did not run for so many seconds, and run again at `now`.
    pub fn stalled(&mut self, now: f64, seconds: f64) {
        self.at(now);
        if seconds < self.policy.stall_min {
            return;
        }
        self.blind.pause += seconds;
        self.warn_of_service(None, WarningCode::LocalPause, false);
        let now = self.now;
        self.for_present(|instance, policy, service| {
            let timing = instance.timing(policy, &service.rules);
            instance.blind += seconds;
            if instance.was_due(seconds, now, policy, &service.rules) {
                let floor = instance.cap(now + timing.late.unwrap_or(timing.down), policy, &service.rules);
                instance.floor = instance.floor.max(floor);
            }
        });
    }

    /// The wall clock was set. No deadline depends on it.
    pub fn clock_stepped(&mut self, seconds: f64) {
        if seconds.abs() >= 2.0 {
            self.warn_of_service(None, WarningCode::ClockStep, false);
        }
    }

    /// What an earlier engine saved could not be read.
    pub fn state_lost(&mut self) {
        self.warn_of_service(None, WarningCode::StateLost, false);
    }

    fn for_present(&mut self, mut change: impl FnMut(&mut Instance, &Policy, &Service)) {
        for instance in self.instances.iter_mut().flatten().filter(|instance| instance.state.is_present()) {
            let Some(service) = &self.services[instance.service as usize] else { continue };
            change(instance, &self.policy, service);
        }
    }

    /// Writes what must survive a restart as JSON, as [`Engine::save`] has it, without a copy of it.
    ///
    /// # Errors
    /// What `out` says.
    pub fn store(&self, out: impl std::io::Write) -> std::io::Result<()> {
        #[derive(serde::Serialize)]
        struct Stored<'a> {
            now: f64,
            services: Vec<(&'a Service, Vec<&'a Instance>)>,
            mass: Option<(f64, bool)>,
        }
        let stored = Stored {
            now: self.now,
            services: self.registered(),
            mass: self.mass.as_ref().map(|mass| (mass.start, mass.expired)),
        };
        Ok(serde_json::to_writer(out, &stored)?)
    }

    /// Services with their instances, both in the order of registration.
    fn registered(&self) -> Vec<(&Service, Vec<&Instance>)> {
        let mut services: Vec<&Service> = self.services.iter().flatten().collect();
        services.sort_by_key(|service| service.order);
        let instances = |service: &Service| service.instances.iter().map(|&id| self.instance(id)).collect();
        services.into_iter().map(|service| (service, instances(service))).collect()
    }

    /// What must survive a restart.
    pub fn save(&self) -> Saved {
        let owned = |(service, all): (&Service, Vec<&Instance>)| (service.clone(), all.into_iter().cloned().collect());
        Saved {
            now: self.now,
            services: self.registered().into_iter().map(owned).collect(),
            mass: self.mass.as_ref().map(|mass| (mass.start, mass.expired)),
        }
    }

    /// Starts with what an earlier engine knew: whoever was present is to be confirmed. `now` is on that engine's clock.
    pub fn restored(policy: Policy, saved: Saved, now: f64, seed: u64) -> Engine {
        let mut engine = Engine::new(Policy { expect: Vec::new(), ..policy.clone() }, now, seed);
        engine.policy = policy;
        let away = now - saved.now;
        engine.blind.restart = away.max(0.0);
        let mut members = std::collections::BTreeSet::new();
        let mut count = 0;
        for (mut service, instances) in saved.services {
            service.rules = engine.policy.rules_of(&service.name);
            (service.instances, service.present, service.queued) = (Vec::new(), 0, f64::INFINITY);
            let name = service.name.clone();
            let sid = engine.make_service(&name);
            service.order = engine.service(sid).order;
            *engine.service_mut(sid) = service;
            for mut instance in instances {
                instance.service = sid;
                instance.order = engine.order();
                instance.queued = f64::INFINITY;
                if instance.state.is_present() {
                    instance.state = State::Unknown;
                    engine.unconfirm(&mut instance, sid, away);
                    engine.service_mut(sid).present += 1;
                    count += 1;
                }
                let is_member = instance.member;
                let id = engine.put_instance(instance);
                if is_member {
                    members.insert(id);
                }
            }
        }
        for sid in 0..engine.services.len() as u32 {
            engine.complete_service(sid);
        }
        if let Some((start, expired)) = saved.mass {
            engine.mass = Some(Mass { start, members, expired });
        }
        for expected in engine.policy.expect.clone() {
            if engine.find_service(&expected.service).is_none() {
                let sid = engine.make_service(&expected.service);
                let within = engine.service(sid).rules.within;
                let service = engine.service_mut(sid);
                service.state = Some(super::service::ServiceState::Unknown);
                service.expect_at = Some(now + within);
            }
        }
        for id in engine.ids() {
            engine.schedule(id);
        }
        let event = engine.event(Change::Restored(count), false);
        engine.say(event);
        engine
    }

    fn unconfirm(&self, instance: &mut Instance, sid: u32, away: f64) {
        let (now, rules) = (self.now, self.service(sid).rules);
        let timeout = instance.timing(&self.policy, &rules).down;
        instance.heard = None;
        instance.blind += away;
        instance.floor = 0.0;
        instance.floor = if instance.was_due(away, now, &self.policy, &rules) {
            instance.cap(now + timeout, &self.policy, &rules)
        } else {
            now + timeout.min(SETTLE)
        };
    }
}
