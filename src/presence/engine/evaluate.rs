//! What the time that has passed means. Input up to then is applied first ("drain before judging"), and services are
//! evaluated last, so that a burst of goodbyes is one change.
//!
//! A tick goes through those that are due: late, then silent; mass silence, then down; replaced; what was suppressed and is
//! no longer; forgotten. Then the services that anything of this has touched.

use std::collections::{BTreeSet, HashMap};

use super::Engine;
use crate::presence::event::{Change, Event, MassSilencePhase, Phase, Reason, WarningCode};
use crate::presence::instance::{Instance, Recheck, State, Suppression};
use crate::presence::mass_silence::{has_vote, is_one_of_many};
use crate::presence::replacement::{Replacement, replacement_of, size_before};
use crate::presence::roster::{InstanceId, ServiceId};
use crate::presence::service::{Service, ServiceState};
use crate::presence::time::EngineTime;

/// Seconds before a mass silence in which a beat may have been due and lost with the others.
const MASS_SILENCE_MARGIN: f64 = 60.0;

/// An instance that went down in this tick, and where its event stands.
type Down = (InstanceId, usize);

impl Engine {
    /// Lets time pass: evaluates everybody at `now`.
    pub fn tick(&mut self, now: EngineTime) {
        self.at(now);
        if self.deaf_since.is_some() {
            return;
        }
        self.follow_lost_peers();
        for place in self.service_schedule.take_due(self.now) {
            self.mark_dirty(ServiceId::from_place(place));
            self.mark_maybe_replaced(ServiceId::from_place(place));
        }
        let due = self.take_due();
        self.find_late(&due);
        let mut silent = self.find_silent(&due);
        self.follow_mass_silence(&mut silent);
        self.begin_mass_silence(&silent);
        let mut went_down = self.take_down(silent);
        self.replace_down();
        self.count_missed(&due);
        self.notify_suppressed(&due, &mut went_down);
        self.end_flapping(&due, &mut went_down);
        self.end_crash_loops(&mut went_down);
        self.forget_old(&due);
        for id in due {
            if self.roster.get_instance(id).is_some() {
                self.schedule(id);
            }
        }
        self.evaluate_services(&went_down);
        self.miss_forgotten();
        self.take_job_lines();
        if !self.listens_only() {
            self.look_at_floors();
            self.await_first_runs();
            self.evaluate_jobs();
        }
        self.held.set(self.heap_bytes() as u64);
        if self.is_short_of_memory() {
            self.give_up_job_lines();
        }
    }

    /// Until then a tick changes nothing if nothing is heard: whatever time alone can change is among this.
    pub fn idle_until(&self) -> EngineTime {
        let is_judging = self.mass.is_on() || !self.counted.is_empty();
        if !self.dirty.is_empty() || !self.maybe_replaced.is_empty() || is_judging {
            return self.now;
        }
        if self.awaits_first_runs {
            return self.now;
        }
        if self.evidence.as_ref().is_some_and(|evidence| evidence.jobs.is_waiting()) {
            return self.now;
        }
        let jobs = self.jobs.next_due() + self.job_lag();
        self.instance_schedule.next().min(self.service_schedule.next()).min(self.habits.next()).min(jobs)
    }

    /// Those that are due, in the order of their services and registrations. Those whom a mass silence holds are not
    /// scheduled: they are due when it no longer holds them, or when somebody may have replaced them.
    fn take_due(&mut self) -> Vec<InstanceId> {
        let places = self.instance_schedule.take_due(self.now);
        let mut due: Vec<InstanceId> = places.into_iter().map(InstanceId::from_place).collect();
        if self.mass.holds() {
            let is_over = self.mass.is_due(self.now, &self.policy);
            let known: BTreeSet<InstanceId> = due.iter().copied().collect();
            let members = self.mass.members().filter(|id| !known.contains(id));
            due.extend(members.filter(|&id| {
                let service = self.roster.instance(id).service();
                is_over || self.maybe_replaced.contains(&(self.roster.service(service).order(), service))
            }));
        }
        self.roster.sort(&mut due);
        due
    }
}

/// Instances.
impl Engine {
    fn find_late(&mut self, due: &[InstanceId]) {
        for &id in due {
            let instance = self.roster.instance(id);
            if instance.state() == State::Up && instance.detector().is_late(self.now, &self.policy, self.rules(id)) {
                self.transition(id, (Some(State::Up), Some(State::Late)), Reason::MissedBeat, false);
            }
        }
    }

    /// Those who are silent beyond their deadline. Who was replaced, or never had an interval, leaves.
    fn find_silent(&mut self, due: &[InstanceId]) -> Vec<InstanceId> {
        let mut silent = Vec::new();
        for &id in due {
            let instance = self.roster.instance(id);
            let detector = instance.detector();
            if !instance.is_present() || self.now < detector.deadlines(&self.policy, self.rules(id)).down {
                continue;
            }
            let (has_interval, service) = (detector.interval(&self.policy).is_some(), instance.service());
            let is_irregular = instance.watching().is_some_and(|watching| watching.is_irregular());
            if let Some(replacement) = replacement_of(id, &self.roster, &self.policy, self.now) {
                self.replace(id, replacement);
            } else if self.may_be_run(id) {
                // It stays late; the next ones will show it.
            } else if is_irregular {
                self.leave(id, Reason::Irregular);
                self.roster.service_mut(service).excuse_departure();
            } else if has_interval && self.listens_only() {
                self.leave(id, Reason::Elsewhere);
                self.roster.service_mut(service).excuse_departure();
            } else if has_interval {
                silent.push(id);
            } else {
                self.leave(id, Reason::NeverEstablished);
                self.roster.instance_mut(id).detector_mut().give_up();
            }
        }
        silent
    }

    /// Whether an instance may have been one run of many: another one came when its second beat was due, and that one is not
    /// silent for too long itself. It may be so for no longer than twice the timeout.
    fn may_be_run(&self, id: InstanceId) -> bool {
        let instance = self.roster.instance(id);
        let service = self.roster.service_of(instance);
        if !instance.is_followed() || !service.runs().are_all() {
            return false;
        }
        let (detector, rules) = (instance.detector(), service.rules());
        let limit = detector.silent_since() + 2.0 * detector.timing(&self.policy, rules).down;
        let is_next = |other: &Instance| {
            other.first() > instance.first()
                && matches!(other.state(), State::Up | State::Late)
                && self.now < other.detector().deadlines(&self.policy, rules).down
        };
        self.now < limit && self.roster.instances_of(service).any(is_next)
    }

    /// Those that are silent go down, unless a mass silence holds them.
    fn take_down(&mut self, silent: Vec<InstanceId>) -> Vec<Down> {
        let mut went_down = Vec::new();
        for id in silent {
            if self.belongs_to_mass_silence(id) {
                self.mass.join(id, self.roster.instance_mut(id));
                if self.mass.is_expired() {
                    went_down.push((id, self.go_down(id, Reason::MassSilence)));
                }
                // Else it is held, and stays late or unknown.
            } else {
                let instance = self.roster.instance(id);
                let reason = match instance.state() {
                    _ if instance.is_unwatched() => Reason::Peer,
                    State::Unknown => Reason::SilentSinceRestart,
                    State::Up | State::Late | State::Down | State::Left => Reason::MissedBeats,
                };
                went_down.push((id, self.go_down(id, reason)));
            }
        }
        went_down
    }

    fn go_down(&mut self, id: InstanceId, reason: Reason) -> usize {
        let instance = self.roster.instance(id);
        let (from, service) = (instance.state(), instance.service());
        let cause = if reason == Reason::MassSilence {
            Some(Suppression::MassSilence)
        } else if reason == Reason::Peer {
            Some(Suppression::Peer)
        } else if self.roster.service(service).runs().are_known() {
            Some(Suppression::Run)
        } else if self.rules(id).mutes_instances() {
            Some(Suppression::Muted)
        } else if self.roster.is_maintained(instance, self.now) {
            Some(Suppression::Maintenance)
        } else {
            self.rules(id).ephemeral.then_some(Suppression::Ephemeral)
        };
        let (loops, starts_loop) = match cause {
            None | Some(Suppression::Muted) => self.note_crash(id),
            Some(_) => (false, false),
        };
        let cause = cause.or(loops.then_some(Suppression::Flapping));
        let went = self.roster.instance_mut(id).go_down(cause, self.now, &self.policy);
        let at = self.transition(id, (Some(from), Some(State::Down)), reason, went.is_notified);
        if went.starts_flapping {
            self.report_instance(id, Change::Flapping(Phase::Start), true);
        }
        if starts_loop {
            self.report_service_flapping(service, Phase::Start);
        }
        self.schedule(id);
        at
    }

    /// Notes that an instance is about to go down, if it is young: whether it is one of a crash loop of its service, and
    /// whether that begins with it. Runs are judged as what they are.
    fn note_crash(&mut self, id: InstanceId) -> (bool, bool) {
        let instance = self.roster.instance_mut(id);
        let (service, first) = (instance.service(), instance.first());
        let Some(last) = instance.detector().seen().filter(|_| instance.is_young() && !instance.is_flapping()) else {
            return (false, false);
        };
        if self.roster.service(service).runs().are_all() {
            return (false, false);
        }
        self.roster.instance_mut(id).crash();
        let noted = self.roster.service_mut(service).note_crash((first, last), self.now, &self.policy);
        self.mark_dirty(service);
        noted
    }

    /// Notifies a problem that lasts and was suppressed so far.
    fn notify_still_down(&mut self, id: InstanceId, reason: Reason) -> Down {
        self.roster.instance_mut(id).notify();
        let down = Some(State::Down);
        (id, self.transition(id, (down, down), reason, true))
    }

    /// Those that are down and were replaced leave.
    fn replace_down(&mut self) {
        for (order, service) in std::mem::take(&mut self.maybe_replaced) {
            let Some(service) = self.roster.get_registered(service, order) else { continue };
            for id in service.down() {
                if self.roster.instance(id).may_be_replaced(self.now)
                    && let Some(replacement) = replacement_of(id, &self.roster, &self.policy, self.now)
                {
                    self.replace(id, replacement);
                }
            }
        }
        // What has just been done may not make another replacement possible.
        self.maybe_replaced.clear();
    }

    fn replace(&mut self, id: InstanceId, replacement: Replacement) {
        let now = self.now;
        if let Replacement::By(newer) = replacement {
            let newer = self.roster.instance(newer);
            let (service, cut) = (newer.service(), newer.first());
            let size = size_before(self.roster.service(service), cut, &self.roster, now);
            self.roster.service_mut(service).sizes_mut().note(size, now);
        }
        if let Replacement::By(newer) = replacement {
            self.roster.instance_mut(newer).replace_another(now);
        }
        self.leave(id, Reason::Replaced);
        self.roster.instance_mut(id).note_replaced();
    }

    /// Goodbyes after short stays that count like downs, because nobody came back. They may be a crash loop in which every
    /// exit says goodbye.
    fn count_missed(&mut self, due: &[InstanceId]) {
        let now = self.now;
        for &id in due {
            if !self.roster.instance_mut(id).take_missed(now)
                || self.roster.is_maintained(self.roster.instance(id), now)
            {
                continue;
            }
            let is_muted = self.rules(id).mutes_instances();
            let service = self.roster.instance(id).service();
            if self.roster.instance_mut(id).note_missed(is_muted, now, &self.policy) {
                self.report_instance(id, Change::Flapping(Phase::Start), true);
            }
            if self.roster.service(service).present() > 0 {
                continue;
            }
            let an_instance_flaps = self.an_instance_flaps(service);
            if self.roster.service_mut(service).note_missed(an_instance_flaps, now, &self.policy) {
                self.report_service_flapping(service, Phase::Start);
            }
            self.mark_dirty(service);
        }
    }

    fn an_instance_flaps(&self, service: ServiceId) -> bool {
        self.roster.instances_of(self.roster.service(service)).any(|instance| instance.is_flapping())
    }

    /// What was suppressed and is no longer.
    fn notify_suppressed(&mut self, due: &[InstanceId], went_down: &mut Vec<Down>) {
        for &id in due {
            let instance = self.roster.instance(id);
            if !instance.is_down() || self.roster.is_maintained(instance, self.now) {
                continue;
            }
            let is_looping = instance.has_crashed() && self.roster.service_of(instance).is_in_crash_loop();
            match (instance.recheck(), instance.suppression()) {
                (Some((at, why)), _) if self.now >= at => {
                    self.roster.instance_mut(id).clear_recheck();
                    if is_looping {
                        self.roster.instance_mut(id).suppress(Suppression::Flapping);
                    } else if !self.rules(id).mutes_instances() {
                        went_down.push(self.notify_still_down(id, why.reason()));
                    }
                }
                (_, Some(Suppression::Maintenance)) => {
                    went_down.push(self.notify_still_down(id, Reason::MaintenanceOver));
                }
                (_, Some(_) | None) => {}
            }
        }
    }

    fn end_flapping(&mut self, due: &[InstanceId], went_down: &mut Vec<Down>) {
        for &id in due {
            let instance = self.roster.instance_mut(id);
            if instance.settles_at(&self.policy).is_none_or(|settles| self.now < settles) {
                continue;
            }
            instance.settle();
            let is_late_news = instance.is_down() && instance.suppression() == Some(Suppression::Flapping);
            self.report_instance(id, Change::Flapping(Phase::End), true);
            if is_late_news && self.roster.is_maintained(self.roster.instance(id), self.now) {
                self.roster.instance_mut(id).suppress(Suppression::Maintenance);
            } else if is_late_news {
                went_down.push(self.notify_still_down(id, Reason::FlappingOver));
            }
        }
    }

    /// Crash loops that are over. Those of the loop that fell silent before its newest came were replaced by others; the
    /// rest is notified if it is still down, unless the service's own alarm stands for it.
    fn end_crash_loops(&mut self, went_down: &mut Vec<Down>) {
        let now = self.now;
        let looping = self.dirty.iter().map(|&(_, id)| id);
        let looping = looping.filter(|&id| self.roster.get_service(id).is_some_and(Service::is_in_crash_loop));
        for service in looping.collect::<Vec<_>>() {
            let Some(since) = self.roster.service_mut(service).end_crash_loop(now, &self.policy) else { continue };
            let mut crashed = self.roster.service(service).down();
            crashed.retain(|&id| {
                let instance = self.roster.instance(id);
                instance.has_crashed() && instance.down_at() >= since
            });
            let newest = crashed.last().map_or(now, |&id| self.roster.instance(id).first());
            for id in crashed {
                let instance = self.roster.instance(id);
                let is_suppressed = instance.suppression() == Some(Suppression::Flapping);
                if instance.detector().seen().is_some_and(|seen| seen < newest) {
                    self.leave(id, Reason::Replaced);
                    self.roster.instance_mut(id).note_replaced();
                } else if is_suppressed && self.roster.is_maintained(instance, now) {
                    self.roster.instance_mut(id).suppress(Suppression::Maintenance);
                    self.schedule(id);
                } else if is_suppressed {
                    went_down.push(self.notify_still_down(id, Reason::FlappingOver));
                }
            }
        }
    }

    /// Services that are forgotten, and have not come back in time.
    fn miss_forgotten(&mut self) {
        for name in self.habits.take_missed(self.now) {
            let notify = !self.policy.rules_of(&name).mutes_service();
            self.report(Event {
                service: Some(name),
                ..Event::new(self.now, Change::Warning(WarningCode::ServiceGone), notify)
            });
        }
    }

    fn forget_old(&mut self, due: &[InstanceId]) {
        for &id in due {
            let instance = self.roster.instance(id);
            match instance.state() {
                State::Left if self.now >= instance.left_at() + self.forget_left_after(instance) => {
                    self.remove_instance(id, Reason::LeftExpired);
                }
                State::Down
                    if self.now >= instance.down_at() + self.forget_down_after(self.roster.service_of(instance)) =>
                {
                    self.remove_instance(id, Reason::DownExpired);
                }
                State::Left | State::Down | State::Unknown | State::Up | State::Late => {}
            }
        }
    }
}

/// Mass silence.
impl Engine {
    /// Ends a mass silence when half of its members are heard again, and its hold when that has lasted too long.
    fn follow_mass_silence(&mut self, silent: &mut Vec<InstanceId>) {
        self.mass.release_departed(&mut self.roster);
        if !self.mass.is_over(&self.roster, &self.policy, self.now) {
            if self.mass.expire(self.now, &self.policy) {
                self.report_mass_silence(MassSilencePhase::HoldExpired, false);
            }
            return;
        }
        self.report_mass_silence(MassSilencePhase::End, true);
        let Some(start) = self.mass.start() else { return };
        let members = self.mass.end();
        for id in self.roster.instance_ids() {
            self.recover_from_mass_silence(id, start, members.contains(&id));
        }
        let now = self.now;
        silent.retain(|&id| self.roster.instance(id).detector().may_be_judged(now));
    }

    /// A mass silence that began at `start` is over: whoever is not back gets a fresh timeout.
    fn recover_from_mass_silence(&mut self, id: InstanceId, start: EngineTime, is_member: bool) {
        let (now, policy, rules) = (self.now, &self.policy, *self.rules(id));
        let instance = self.roster.instance_mut(id);
        instance.set_member(false);
        let detector = instance.detector();
        let fresh = now + detector.timing(policy, &rules).down;
        let is_back = detector.heard_after(start);
        let was_due = || detector.was_due(now - start + MASS_SILENCE_MARGIN, now, policy, &rules);
        match instance.state() {
            State::Late | State::Unknown if is_member => instance.detector_mut().hold_until(fresh),
            State::Down if is_member && instance.suppression() == Some(Suppression::MassSilence) => {
                instance.recheck_at(fresh, Recheck::NotBackAfterMassSilence);
            }
            // Silent all through it, member or not.
            State::Up | State::Late | State::Unknown if !is_member && !is_back && was_due() => {
                instance.detector_mut().hold_until(fresh);
            }
            State::Up | State::Late | State::Unknown | State::Down | State::Left => {}
        }
        if is_member {
            self.schedule(id);
        }
    }

    /// Begins a mass silence if those that are silent are many.
    fn begin_mass_silence(&mut self, silent: &[InstanceId]) {
        if self.mass.is_on() {
            return;
        }
        let began = |id: &InstanceId| self.roster.instance(*id).detector().silent_since();
        let voters = silent.iter().copied().filter(|&id| self.has_vote(id));
        let first = voters.reduce(|a, b| if began(&b) < began(&a) { b } else { a });
        if first.is_some_and(|first| self.is_one_of_many(first, false)) {
            self.mass.begin(self.now);
            self.join_all_late();
            self.report_mass_silence(MassSilencePhase::Start, true);
        }
    }

    /// Whether the silence of an instance is part of the mass silence. Heard after that began, it is judged by itself, or
    /// by a vote without the members, which renews it.
    fn belongs_to_mass_silence(&mut self, id: InstanceId) -> bool {
        let Some(start) = self.mass.start() else { return false };
        let instance = self.roster.instance(id);
        if instance.is_member() || !instance.detector().heard_after(start) {
            return true;
        }
        if !self.has_vote(id) || !self.is_one_of_many(id, true) {
            return false;
        }
        self.mass.begin(self.now);
        self.join_all_late();
        true
    }

    fn join_all_late(&mut self) {
        for id in self.roster.instance_ids() {
            let instance = self.roster.instance_mut(id);
            if matches!(instance.state(), State::Late | State::Unknown) {
                self.mass.join(id, instance);
            }
        }
    }

    fn has_vote(&self, id: InstanceId) -> bool {
        has_vote(self.roster.instance(id), &self.roster, &self.policy, self.now)
    }

    fn is_one_of_many(&self, id: InstanceId, without_members: bool) -> bool {
        is_one_of_many(id, without_members, &self.roster, &self.policy, self.now)
    }
}

/// Services.
impl Engine {
    fn evaluate_services(&mut self, went_down: &[Down]) {
        let mut by_service: HashMap<ServiceId, Vec<Down>> = HashMap::new();
        for &down in went_down {
            if let Some(instance) = self.roster.get_instance(down.0) {
                let service = instance.service();
                self.mark_dirty(service);
                by_service.entry(service).or_default().push(down);
            }
        }
        for (order, id) in std::mem::take(&mut self.dirty) {
            if self.roster.get_registered(id, order).is_none() {
                continue;
            }
            let mine = by_service.get(&id).map_or(&[][..], Vec::as_slice);
            self.evaluate_service(id, mine);
            if self.roster.get_service(id).is_some() {
                self.schedule_service(id);
            }
        }
    }

    /// Looks at a service again when time alone may change something about it.
    fn schedule_service(&mut self, id: ServiceId) {
        let (now, service) = (self.now, self.roster.service(id));
        let down = self.roster.instances_of(service).filter(|instance| instance.is_down());
        let maintained = down.map(|instance| instance.maintenance_until()).filter(|&until| until > now);
        let next = maintained.fold(service.next_look(now, &self.policy), EngineTime::min);
        self.service_schedule.put(id.place(), next);
    }

    fn evaluate_service(&mut self, id: ServiceId, went_down: &[Down]) {
        let census = self.roster.census(id, self.now);
        let service = self.roster.service_mut(id);
        let Some(new) = service.evaluate(census, self.now) else {
            if !service.is_expected() {
                self.remove_service(id);
            }
            return;
        };
        if let Some(settled) = service.settle(new, self.now, &self.policy) {
            if settled.was_notified {
                self.report_service_flapping(id, Phase::End);
            }
            if settled.is_due {
                self.transition_service(id, new, true, went_down);
            }
        }
        if self.roster.service_mut(id).note_departure(new, self.now) {
            let notify = !self.roster.service(id).rules().mutes_service();
            self.warn(Some(id), WarningCode::ServiceGone, notify);
        }
        // One of its instances has just become a real alarm.
        let is_real = went_down.iter().any(|&(_, event)| self.events[event].notify);
        let service = self.roster.service(id);
        if service.state() == Some(new) {
            // Suppressed so far.
            if is_real && service.is_worse(new) && service.may_alarm(is_real) {
                self.transition_service(id, new, true, went_down);
            }
            return;
        }
        let an_instance_flaps = self.an_instance_flaps(id);
        if self.roster.service_mut(id).note_change(new, an_instance_flaps, self.now, &self.policy) {
            self.report_service_flapping(id, Phase::Start);
        }
        let service = self.roster.service(id);
        if new.is_bad() {
            let notify = !self.is_down_by_mass_silence(id, went_down) && service.may_alarm(is_real);
            self.transition_service(id, new, notify, went_down);
        } else {
            let notify = service.is_notified();
            self.roster.service_mut(id).note_good(new, self.now);
            self.transition_service(id, new, notify, &[]);
            self.roster.service_mut(id).clear_problem();
        }
    }

    /// Whether the mass silence, or a lost peer, stands for what happened to a service: to all that just went down, or to any that is.
    fn is_down_by_mass_silence(&self, id: ServiceId, went_down: &[Down]) -> bool {
        let is_by_mass = |id: InstanceId| {
            let instance = self.roster.instance(id);
            let stands_for_it = matches!(instance.suppression(), Some(Suppression::MassSilence | Suppression::Peer));
            instance.is_down() && stands_for_it
        };
        if went_down.is_empty() {
            return self.roster.service(id).instances().iter().any(|&id| is_by_mass(id));
        }
        went_down.iter().all(|&(id, _)| is_by_mass(id))
    }

    fn transition_service(&mut self, id: ServiceId, new: ServiceState, notify: bool, went_down: &[Down]) {
        self.report_service(id, Some(new), notify);
        if self.roster.service(id).state() == Some(ServiceState::Down) && new != ServiceState::Down {
            self.recheck_inhibited(id);
        }
        self.roster.service_mut(id).transition(new, notify, self.now);
        if new != ServiceState::Down || !notify {
            return;
        }
        // One page, not two.
        for &(id, event) in went_down {
            if std::mem::take(&mut self.events[event].notify) {
                self.roster.instance_mut(id).inhibit();
            }
        }
    }

    /// A service is back; its instances that are not get a timeout until they are notified by themselves.
    fn recheck_inhibited(&mut self, id: ServiceId) {
        for id in self.roster.service(id).instances().to_vec() {
            let instance = self.roster.instance(id);
            if instance.is_down() && instance.suppression() == Some(Suppression::Service) {
                let timeout = instance.detector().timing(&self.policy, self.rules(id)).down;
                self.roster.instance_mut(id).recheck_at(self.now + timeout, Recheck::NotBackWithService);
                self.schedule(id);
            }
        }
    }
}
