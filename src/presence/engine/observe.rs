//! What beats, goodbyes and operators say.

use std::net::IpAddr;

use crate::acl::equal;
use crate::fault;
use crate::protocol::{Heartbeat, Signal};

use super::Engine;
use crate::presence::admission::{Refusal, is_established};
use crate::presence::announced::Announced;
use crate::presence::event::{Change, Health, Phase, Reason, WarningCode};
use crate::presence::instance::{Instance, State};
use crate::presence::loss::PooledLoss;
use crate::presence::policy::{Misses, grace_for};
use crate::presence::roster::{InstanceId, Observed, ServiceId};
use crate::presence::service::{Service, TOGETHER_EVERY};
use crate::presence::time::EngineTime;

/// An instance that stays for so long, in seconds, shows that its service is no batch of short jobs.
const LONG_STAY: f64 = 3600.0;

impl Engine {
    /// Takes what a line says.
    pub fn signal(&mut self, signal: &Signal) {
        match signal {
            Signal::Heartbeat(beat) => self.beat(beat),
            Signal::Maintenance { service, instance, seconds, source, key } => {
                if self.trusts(service, *source, key.as_deref()) {
                    self.maintenance(service, instance.as_deref(), *seconds);
                }
            }
            Signal::Assist { service, instance, source, key } => {
                if self.roster.find(service, instance).is_some() && self.trusts(service, *source, key.as_deref()) {
                    self.assist(service, instance);
                }
            }
            Signal::Ignored(why) => self.admission.note_ignored(*why),
            Signal::Watched(seen) => seen.iter().for_each(|one| self.watched(one)),
        }
    }

    /// An operator's change was refused: it did not show the token.
    pub fn refuse_change(&mut self) {
        self.admission.refuse(Refusal::Token, None, self.now);
    }

    /// Whether somebody may speak of a service; who may not is counted.
    fn trusts(&mut self, service: &str, source: Option<IpAddr>, key: Option<&str>) -> bool {
        if self.policy.guards.is_empty() {
            return true;
        }
        let guard = match self.roster.find_service(service) {
            Some(id) => self.roster.service(id).rules().guard,
            None => self.policy.rules_of(service).guard,
        };
        let Some(guard) = guard.and_then(|at| self.policy.guards.get(usize::from(at))) else { return true };
        let is_allowed = guard.allow.permits(source);
        let has_key = guard.key.as_deref().is_none_or(|right| equal(right.as_bytes(), key.unwrap_or("").as_bytes()));
        let why = match (is_allowed, has_key) {
            (true, true) => return true,
            (false, _) => Refusal::Allow,
            (true, false) => Refusal::Key,
        };
        self.admission.refuse(why, source, self.now);
        false
    }

    /// Takes a heartbeat or a goodbye.
    pub fn beat(&mut self, beat: &Heartbeat) {
        if !self.trusts(&beat.service, beat.source, beat.key.as_deref()) {
            return;
        }
        if (beat.job.is_some() || self.has_jobs()) && self.take_job_line(beat) {
            return;
        }
        if beat.goodbye {
            self.goodbye(beat);
            self.evaluate_health(beat);
            return;
        }
        let (id, was) = match self.roster.find(&beat.service, &beat.instance) {
            Some(id) => (id, Some(self.roster.instance(id).state())),
            None => match self.admit(beat) {
                Some(id) => (id, None),
                None => return,
            },
        };
        if was.is_some() && self.roster.instance(id).is_straggler(beat, self.now, &self.policy) {
            self.admission.note_straggler();
            return;
        }
        if self.policy.goodbye_same_ip {
            self.note_home(id, was, beat.source);
        }
        let now = self.now;
        if self.is_copy(id, was, now) {
            self.take_copy(id, beat, now);
        } else {
            self.take_beat(id, was, beat, now);
        }
        self.note_here(id);
    }

    /// Takes a beat of somebody who is known by now, and was in a state before, or was not known; it was heard at `at`.
    pub(super) fn take_beat(&mut self, id: InstanceId, was: Option<State>, beat: &Heartbeat, at: EngineTime) {
        let Observed { gap, changes_runs } = self.roster.observe(id, was, beat, at, &self.policy);
        self.watch_again(id);
        if gap.was_present && gap.due > 0 && self.fleet_loss.note(self.now, gap.due) {
            self.warn(None, WarningCode::HighLoss, false);
        }
        self.count_towards_establishment(id);
        let is_restarted = self.check(id, beat);
        fault::pass("beat");
        self.note_habits(id, changes_runs);
        self.become_up(id, was);
        if is_restarted && was.is_some_and(|was| was != State::Left) {
            let up = Some(State::Up);
            self.report_instance(id, Change::Instance { from: up, to: up, reason: Reason::Restarted }, false);
        }
        if was.is_none() {
            self.note_newcomer(id);
        }
        let instance = self.roster.instance(id);
        if instance.was_just_confirmed() {
            self.mark_maybe_replaced(instance.service());
        }
        self.schedule(id);
        self.evaluate_health(beat);
    }

    /// What a beat tells of the habits of its service.
    fn note_habits(&mut self, id: InstanceId, changes_runs: bool) {
        let (now, instance) = (self.now, self.roster.instance(id));
        let (service_id, service) = (instance.service(), self.roster.service_of(instance));
        let is_long = !service.habit().has_long_stays() && now - instance.joined() >= LONG_STAY;
        let are_together = service.present() > 1
            && now - service.together_at() > TOGETHER_EVERY
            && self.is_with_another(instance, service);
        let is_rare = service.rules().misses == Misses::Auto && instance.detector().is_rare(&self.policy);
        let service = self.roster.service_mut(service_id);
        if is_long {
            service.habit_mut().note_long_stay();
        }
        if are_together {
            service.note_together(now);
        }
        if changes_runs {
            self.mark_dirty(service_id);
        }
        if is_rare {
            self.pool_loss(service_id);
        }
    }

    /// Whether an instance and another one of its service have been present together for longer than its timeout.
    fn is_with_another(&self, instance: &Instance, service: &Service) -> bool {
        let timeout = instance.detector().timing(&self.policy, service.rules()).down;
        let joined = instance.joined();
        let are_together = |other: &Instance| {
            let since = other.joined().max(joined);
            other.order() != instance.order()
                && other.state() == State::Up
                && other.detector().seen().is_some_and(|seen| seen - since > timeout)
        };
        self.now - joined > timeout && self.roster.instances_of(service).any(are_together)
    }

    /// Judges the instances of a service whose beats are rare by what all of them lose.
    pub(super) fn pool_loss(&mut self, id: ServiceId) {
        let service = self.roster.service(id);
        if service.rules().misses != Misses::Auto {
            return;
        }
        let mut pool = PooledLoss::default();
        let all = service.instances().to_vec();
        all.iter().for_each(|&id| pool.add(self.roster.instance(id).detector().loss()));
        for id in all {
            self.roster.instance_mut(id).detector_mut().take_pooled_loss(pool, &self.policy);
            self.schedule(id);
        }
    }

    /// Notes that a new instance came: where a service may be made of runs, it follows those whose second beat is due. When
    /// it is known as that, it replaces them.
    fn note_newcomer(&mut self, id: InstanceId) {
        let (now, newcomer) = (self.now, self.roster.instance(id));
        let (service_id, service) = (newcomer.service(), self.roster.service_of(newcomer));
        let Some(interval) = newcomer.detector().declared_interval() else { return };
        if !newcomer.is_short() || !service.runs().are_all() {
            return;
        }
        // Each is due by what it declared itself.
        let due_after = |other: &Instance| other.detector().declared_interval().unwrap_or(interval);
        let grace = |other: &Instance| grace_for(due_after(other));
        let is_due = |other: &Instance| {
            matches!(other.state(), State::Up | State::Late | State::Down)
                && now - other.first() >= due_after(other) - grace(other)
        };
        let due: Vec<InstanceId> = service.instances().iter().copied().filter(|&other| other != id).collect();
        let due: Vec<InstanceId> = due.into_iter().filter(|&other| is_due(self.roster.instance(other))).collect();
        for &other in &due {
            let other = self.roster.instance_mut(other);
            if now - other.first() <= due_after(other) + grace(other) && other.follow() {
                self.roster.service_mut(service_id).runs_mut().note_succession(interval, now);
            }
        }
        if self.roster.service(service_id).runs().is_rhythm() {
            due.into_iter().for_each(|other| self.leave(other, Reason::Replaced));
        }
    }

    /// A new instance, unless a limit forbids it.
    fn admit(&mut self, beat: &Heartbeat) -> Option<InstanceId> {
        let service = self.roster.find_service(&beat.service);
        let (is_new, now) = (service.is_none(), self.now);
        let checked = self.admission.check(is_new, beat.source, &self.roster, &self.policy, now);
        let admitted = checked.and_then(|()| self.make_room(service));
        if let Err(why) = admitted {
            if why == Refusal::Limit {
                self.warn_of_limit(service);
            }
            self.admission.refuse(why, beat.source, now);
            return None;
        }
        self.admission.note_admitted(is_new, beat.source, now);
        let service = self.register_service(&beat.service);
        self.roster.service_mut(service).note_heard();
        Some(self.register_instance(service, &beat.instance))
    }

    /// Makes room for an instance of a service, or of a new one.
    pub(super) fn make_room(&mut self, service: Option<ServiceId>) -> Result<(), Refusal> {
        self.free_memory(|engine| engine.evict_for(service))?;
        match service {
            None => {
                while self.roster.service_count() >= self.policy.max_services {
                    self.evict_service()?;
                }
            }
            // The oldest that left makes room, then the oldest that is down.
            Some(id) => {
                while self.roster.service(id).instances().len() >= self.policy.max_instances_per_service {
                    let oldest = self.roster.service(id).oldest_absent().ok_or(Refusal::Limit)?;
                    self.remove_instance(oldest, Reason::Evicted);
                }
            }
        }
        // A service that is not established itself does not push others out by growing.
        let may_evict = service.is_none_or(|id| is_established(id, &self.roster, &self.policy, self.now));
        while self.population() >= self.policy.max_instances {
            if !may_evict {
                return Err(Refusal::Limit);
            }
            if self.evict_service().is_err() && !self.evict_job() {
                return Err(Refusal::Limit);
            }
        }
        Ok(())
    }

    /// Frees about as much memory as an instance or a job takes, if there is too little: job lines that peers may be told go
    /// first, then `evict` forgets somebody; it returns `false` if there is nobody.
    pub(super) fn free_memory(&mut self, evict: impl FnOnce(&mut Engine) -> bool) -> Result<(), Refusal> {
        if !self.is_short_of_memory() || (self.give_up_job_lines() && !self.held.is_over()) || evict(self) {
            return Ok(());
        }
        Err(Refusal::Memory)
    }

    /// Forgets somebody who is absent, or not established, for an instance of a service or of a new one; `false` if there is
    /// nobody.
    fn evict_for(&mut self, service: Option<ServiceId>) -> bool {
        if let Some(oldest) = service.and_then(|id| self.roster.service(id).oldest_absent()) {
            self.remove_instance(oldest, Reason::Evicted);
            return true;
        }
        let may_evict = service.is_none_or(|id| is_established(id, &self.roster, &self.policy, self.now));
        may_evict && (self.evict_service().is_ok() || self.evict_job())
    }

    /// Forgets the oldest service that is not established.
    fn evict_service(&mut self) -> Result<(), Refusal> {
        let oldest = self.admission.take_oldest_candidate(&mut self.roster, &self.policy, self.now);
        let oldest = oldest.ok_or(Refusal::Limit)?;
        for id in self.roster.service(oldest).instances().to_vec() {
            self.remove_instance(id, Reason::Evicted);
        }
        self.remove_service(oldest);
        self.admission.note_evicted();
        self.warn_of_limit(None);
        Ok(())
    }

    /// Notes where a beat came from, before it counts: a goodbye is believed from there alone.
    fn note_home(&mut self, id: InstanceId, was: Option<State>, source: Option<IpAddr>) {
        let timing = self.roster.instance(id).detector().timing(&self.policy, self.rules(id));
        // Who said goodbye, or was never there, may come back from anywhere.
        let is_new = was.is_none_or(|was| was == State::Left);
        self.roster.instance_mut(id).note_home(source, self.now, timing.first(), is_new);
    }

    fn count_towards_establishment(&mut self, id: InstanceId) {
        let instance = self.roster.instance(id);
        let service = self.roster.service_of(instance);
        if !service.is_known_as_established() {
            let timeout = instance.detector().timing(&self.policy, service.rules()).down;
            let id = instance.service();
            self.roster.service_mut(id).count_beat(self.now, timeout);
        }
    }

    /// Warns of what a beat shows to be wrong; whether the process is another one than before.
    fn check(&mut self, id: InstanceId, beat: &Heartbeat) -> bool {
        if beat.sampled && self.roster.instance_mut(id).note_sampled() {
            self.warn_of_instance(id, WarningCode::Sampled, false);
        }
        let now = self.now;
        let identified = self.roster.change_texts(id, |instance| instance.identify(beat, now));
        if identified.is_conflict {
            self.warn_of_instance(id, WarningCode::InstanceConflict, true);
        }
        let mismatch = self.roster.instance_mut(id).detector_mut().compare_with_declared();
        if mismatch.is_slow {
            self.warn_of_instance(id, WarningCode::PromiseMismatch, false);
        }
        // That a watched metric has many lines is nobody's slip.
        if mismatch.is_loose && self.roster.instance(id).watching().is_none() {
            self.warn_of_instance(id, WarningCode::PromiseLoose, false);
        }
        identified.is_restarted
    }

    pub(super) fn become_up(&mut self, id: InstanceId, was: Option<State>) {
        let reason = match was {
            None => Reason::Registered,
            Some(State::Unknown) => Reason::Confirmed,
            Some(State::Late) => Reason::LateBeat,
            Some(State::Down) => Reason::Recovered,
            Some(State::Left) => Reason::Returned,
            Some(State::Up) => return,
        };
        let notify = self.roster.instance(id).has_notified_problem();
        self.transition(id, (was, Some(State::Up)), reason, notify);
        self.roster.instance_mut(id).clear_problem();
    }

    fn goodbye(&mut self, beat: &Heartbeat) {
        let Some(id) = self.roster.find(&beat.service, &beat.instance) else { return };
        if self.policy.goodbye_same_ip && !self.roster.instance(id).is_at_home(beat.source) {
            self.admission.refuse(Refusal::GoodbyeFrom, beat.source, self.now);
            return;
        }
        let instance = self.roster.instance(id);
        let (now, is_of_another) = (self.now, instance.is_of_another_process(beat));
        if !is_of_another {
            self.roster.change_texts(id, |instance| instance.note_health(beat, now));
        }
        if !is_of_another {
            self.note_left_here(id);
        }
        let instance = self.roster.instance_mut(id);
        if instance.state() == State::Left {
            if instance.note_repeated_goodbye(self.now) {
                self.warn_of_instance(id, WarningCode::ZeroRepeated, true);
            }
        } else if !is_of_another {
            // A goodbye of an older process means nothing.
            self.leave(id, Reason::Goodbye);
        }
    }

    /// The status of a service check as an alert of its own, where that is wanted. It ends with a status that is no problem,
    /// and with the instance.
    pub(super) fn evaluate_health(&mut self, beat: &Heartbeat) {
        let Some(id) = self.roster.find(&beat.service, &beat.instance) else { return };
        let rules = self.rules(id);
        let (wanted, is_muted) = (rules.health_alerts, rules.mutes_instances());
        if let Some(status) = beat.health.filter(|_| wanted) {
            let is_quiet = is_muted || self.roster.is_maintained(self.roster.instance(id), self.now);
            let to = Health::of_status(status);
            if let Some((from, notify)) = self.roster.instance_mut(id).change_health(to, is_quiet) {
                self.report_instance(id, Change::Health { from, to: Some(to) }, notify);
            }
        }
        if beat.goodbye && self.roster.instance(id).state() == State::Left {
            self.end_health_alert(id);
        }
    }

    /// Who is not there any more has no alert of its service check.
    pub(super) fn end_health_alert(&mut self, id: InstanceId) {
        if let Some(from) = self.roster.instance_mut(id).end_health_alert() {
            self.report_instance(id, Change::Health { from: Some(from), to: None }, true);
        }
    }

    /// An instance has left.
    pub(super) fn leave(&mut self, id: InstanceId, reason: Reason) {
        let instance = self.roster.instance(id);
        let (from, notify) = (instance.state(), instance.has_notified_problem());
        self.transition(id, (Some(from), Some(State::Left)), reason, notify);
        if reason != Reason::Goodbye {
            self.end_health_alert(id);
        }
        let timeout = self.roster.instance(id).detector().timing(&self.policy, self.rules(id)).down;
        let service = self.roster.service_of(self.roster.instance(id));
        let may_crash = reason == Reason::Goodbye && service.habit().has_long_stays() && !service.rules().ephemeral;
        let now = self.now;
        let instance = self.roster.instance_mut(id);
        instance.leave(now);
        // A goodbye after a short stay is no end of flapping.
        let is_early = may_crash && instance.leave_early(now, timeout);
        if !is_early && instance.stop_flapping() {
            self.report_instance(id, Change::Flapping(Phase::End), true);
        }
        self.schedule(id);
    }

    /// Something else was heard of a registered instance: it lives, but declares no interval.
    pub fn assist(&mut self, service: &str, instance: &str) {
        let Some(id) = self.roster.find(service, instance) else { return };
        let instance = self.roster.instance_mut(id);
        if !instance.is_present() {
            return;
        }
        instance.detector_mut().note_alive(self.now);
        let from = instance.state();
        if from != State::Up {
            self.transition(id, (Some(from), Some(State::Up)), Reason::Implicit, false);
        }
        self.schedule(id);
    }

    /// Suppresses what happens to a service, or to one of its instances, for so many seconds; 0 ends it. For how many,
    /// which the policy limits; `None` if it is unknown.
    pub fn maintenance(&mut self, service: &str, instance: Option<&str>, secs: f64) -> Option<f64> {
        self.announce(service, instance, secs, Announced::default())
    }

    /// The same with who announces it and why.
    pub fn announce(&mut self, service: &str, instance: Option<&str>, secs: f64, announced: Announced) -> Option<f64> {
        let granted = self.maintain(service, instance, secs, announced.clone())?;
        self.note_act(service, instance, Some(granted), announced);
        Some(granted)
    }

    /// The same, whoever announced it where.
    pub(crate) fn maintain(
        &mut self,
        service: &str,
        instance: Option<&str>,
        secs: f64,
        announced: Announced,
    ) -> Option<f64> {
        let granted = secs.clamp(0.0, self.policy.maintenance_max);
        let until = self.now + granted;
        let phase = if secs > 0.0 { Phase::Start } else { Phase::End };
        let has_jobs = self.maintain_jobs(service, instance, until);
        let service_id = self.roster.find_service(service);
        let found = instance.and_then(|name| self.roster.find(service, name));
        let is_known = if instance.is_some() { found.is_some() } else { service_id.is_some() };
        if !is_known && !has_jobs {
            return None;
        }
        self.announcements.set((service, instance), until, announced, self.now);
        self.report_maintenance(service, instance, phase);
        if let Some(service_id) = service_id.filter(|_| is_known) {
            match found {
                Some(id) => self.roster.instance_mut(id).maintain_until(until),
                None => self.roster.service_mut(service_id).maintain_until(until),
            }
            for id in self.roster.service(service_id).instances().to_vec() {
                self.schedule(id);
            }
            self.mark_dirty(service_id);
        }
        Some(granted)
    }

    /// Forgets an instance, or a service with all of its own. `false` if it is unknown.
    pub fn forget(&mut self, service: &str, instance: Option<&str>) -> bool {
        let was_known = self.forget_silent(service, instance, EngineTime::NEVER);
        if was_known {
            self.note_act(service, instance, None, Announced::default());
        }
        was_known
    }

    /// Forgets a service of which an operator has forgotten all instances, unless it is expected: its minimum does not keep it.
    pub(super) fn forget_empty(&mut self, id: ServiceId) {
        let service = self.roster.service_mut(id);
        service.forget_departure();
        if !service.is_expected() {
            self.remove_service(id);
        }
    }

    /// The same, of what was not heard after a time, wherever that was asked for.
    pub(super) fn forget_silent(&mut self, service: &str, instance: Option<&str>, since: EngineTime) -> bool {
        self.habits.forget_departure(service);
        let had_jobs = self.forget_jobs(service, instance, since);
        let found = match instance {
            Some(instance) => self.roster.find(service, instance).map(|id| vec![id]),
            None => self.roster.find_service(service).map(|id| self.roster.service(id).instances().to_vec()),
        };
        let was_known = had_jobs || found.is_some();
        for id in found.unwrap_or_default() {
            if self.roster.instance(id).detector().last_life() <= since {
                self.remove_instance(id, Reason::Operator);
            }
        }
        if let Some(id) = self.roster.find_service(service)
            && self.roster.service(id).instances().is_empty()
        {
            self.forget_empty(id);
        }
        was_known
    }
}
