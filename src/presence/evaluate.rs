//! Judging: what the time that has passed means. Input up to then is applied first ("drain before judging"), and
//! services are judged last, so that a burst of goodbyes is one change.

use std::collections::BTreeSet;

use super::engine::{Engine, Mass};
use super::event::{Change, MassSilencePhase, Phase, Reason};
use super::instance::{Recheck, State, Suppression};

/// How long before or after the silence of an instance its replacement may have been registered.
const REPLACED_WITHIN: f64 = 600.0;
/// A replacement is looked for so long after the silence began.
const REPLACED_UNTIL: f64 = 1200.0;

/// An instance that went down in this tick, and where its event stands.
pub(super) type Down = (u32, usize);

impl Engine {
    /// Judges everybody at `now`.
    pub fn tick(&mut self, now: f64) {
        self.at(now);
        self.wake_services();
        let mut due = self.take_due();
        self.add_held(&mut due);
        for &id in &due {
            let instance = self.instance(id);
            if instance.state == State::Up {
                let (late, _) = instance.deadlines(&self.policy, &self.service(instance.service).rules);
                if late.is_some_and(|late| self.now >= late) {
                    self.go(id, Some(State::Late), Reason::MissedBeat, false);
                }
            }
        }
        let silent = self.find_silent(&due);
        let mut went_down = self.judge_silent(silent);
        self.replace();
        self.tell_what_was_quiet(&due, &mut went_down);
        self.end_flapping(&due, &mut went_down);
        self.forget_old(&due);
        for id in due {
            if self.instances[id as usize].is_some() {
                self.schedule(id);
            }
        }
        self.judge_services(&went_down);
    }

    /// Those whom a mass silence holds are not in the queue. They are due when it no longer does, or when somebody may have
    /// replaced them.
    fn add_held(&mut self, due: &mut Vec<u32>) {
        let Some(mass) = self.mass.as_ref().filter(|mass| !mass.expired) else { return };
        let over = self.now >= mass.start + self.policy.mass_hold;
        let members = mass.members.iter().copied().filter(|&id| {
            let service = self.instances[id as usize].as_ref().map(|instance| instance.service);
            over || service.is_some_and(|sid| self.maybe_replaced.contains(&(self.service(sid).order, sid)))
        });
        let known: BTreeSet<u32> = due.iter().copied().collect();
        due.extend(members.filter(|id| !known.contains(id)).collect::<Vec<_>>());
        self.sort(due);
    }

    /// Those who are silent beyond their deadline. Who was replaced, or never had an interval, leaves.
    fn find_silent(&mut self, due: &[u32]) -> Vec<u32> {
        let mut silent = Vec::new();
        for &id in due {
            let instance = self.instance(id);
            if !instance.state.is_present() {
                continue;
            }
            let (_, down) = instance.deadlines(&self.policy, &self.service(instance.service).rules);
            if self.now < down {
                continue;
            }
            if let Some(replacement) = self.replacement_of(id) {
                self.instance_mut(replacement).replaces = true;
                self.leave(id, Reason::Replaced);
            } else if self.instance(id).interval(&self.policy).is_none() {
                self.leave(id, Reason::NeverEstablished);
                self.instance_mut(id).never_established = true;
            } else {
                silent.push(id);
            }
        }
        silent
    }

    fn judge_silent(&mut self, mut silent: Vec<u32>) -> Vec<Down> {
        let now = self.now;
        self.follow_mass(&mut silent);
        let first = silent.iter().copied().filter(|&id| self.has_vote(id)).reduce(|a, b| {
            let since = |id: u32| self.instance(id).since + self.instance(id).blind;
            if since(b) < since(a) { b } else { a }
        });
        if self.mass.is_none()
            && let Some(first) = first
            && self.is_mass(first, false)
        {
            self.mass = Some(Mass { start: now, members: BTreeSet::new(), expired: false });
            self.join_all_late();
            self.say_mass(MassSilencePhase::Start, true);
        }
        let mut went_down = Vec::new();
        for id in silent {
            let instance = self.instance(id);
            let after = |start: f64| instance.heard.is_some_and(|heard| heard > start);
            // Heard after the mass silence began: judged by itself, or by a vote without its members.
            let mut own = self.mass.as_ref().is_some_and(|mass| !instance.member && after(mass.start));
            if own && self.has_vote(id) && self.is_mass(id, true) {
                if let Some(mass) = &mut self.mass {
                    (mass.start, mass.expired) = (now, false);
                }
                own = false;
                self.join_all_late();
            }
            if !own && self.mass.is_some() {
                self.join(id);
                if self.mass.as_ref().is_some_and(|mass| mass.expired) {
                    went_down.push((id, self.go_down(id, Reason::MassSilence, true)));
                }
                // Else it is held, and stays late or unknown.
            } else {
                let unconfirmed = self.instance(id).state == State::Unknown;
                let reason = if unconfirmed { Reason::SilentSinceRestart } else { Reason::MissedBeats };
                went_down.push((id, self.go_down(id, reason, false)));
            }
        }
        went_down
    }

    fn join(&mut self, id: u32) {
        if let Some(mass) = &mut self.mass
            && let Some(instance) = &mut self.instances[id as usize]
            && !std::mem::replace(&mut instance.member, true)
        {
            mass.members.insert(id);
        }
    }

    fn join_all_late(&mut self) {
        let mut ids = self.ids();
        ids.retain(|&id| matches!(self.instance(id).state, State::Late | State::Unknown));
        self.sort(&mut ids);
        ids.into_iter().for_each(|id| self.join(id));
    }

    /// Ends a mass silence when half of its members are heard again, and its hold when that has lasted too long.
    fn follow_mass(&mut self, silent: &mut Vec<u32>) {
        let now = self.now;
        let Some(mut mass) = self.mass.take() else { return };
        let (start, fraction) = (mass.start, self.policy.mass_fraction);
        mass.members.retain(|&id| {
            self.instances[id as usize].as_mut().is_some_and(|instance| {
                instance.member &= instance.state != State::Left;
                instance.member
            })
        });
        let voters: Vec<u32> = mass.members.iter().copied().filter(|&id| self.has_vote(id)).collect();
        let heard = |id: &&u32| self.instance(**id).heard.is_some_and(|heard| heard > start);
        let back = voters.iter().filter(heard).count();
        if !voters.is_empty() && (back as f64) < fraction * voters.len() as f64 {
            if !mass.expired && now >= start + self.policy.mass_hold {
                mass.expired = true;
                self.mass = Some(mass);
                self.say_mass(MassSilencePhase::HoldExpired, false);
            } else {
                self.mass = Some(mass);
            }
            return;
        }
        self.say_mass(MassSilencePhase::End, true);
        let members = mass.members;
        for id in self.ids() {
            let instance = self.instance(id);
            let rules = self.service(instance.service).rules;
            let timeout = instance.timing(&self.policy, &rules).down;
            let policy = &self.policy;
            let is_member = members.contains(&id);
            let Some(instance) = &mut self.instances[id as usize] else { continue };
            instance.member = false;
            match instance.state {
                State::Late | State::Unknown if is_member => instance.floor = instance.floor.max(now + timeout),
                State::Down if is_member && instance.pending == Some(Suppression::MassSilence) => {
                    instance.rare_mut().recheck = Some((now + timeout, Recheck::NotBackAfterMassSilence));
                }
                // Silent all through it: a fresh timeout, member or not.
                State::Up | State::Late | State::Unknown
                    if !is_member
                        && instance.heard.is_none_or(|heard| heard <= start)
                        && instance.was_due(now - start + 60.0, now, policy, &rules) =>
                {
                    instance.floor = instance.floor.max(now + timeout);
                }
                _ => {}
            }
            if is_member {
                self.schedule(id);
            }
        }
        silent.retain(|&id| self.instance(id).floor <= now);
    }

    fn say_mass(&mut self, phase: MassSilencePhase, notify: bool) {
        let event = self.event(Change::MassSilence(phase), notify);
        self.say(event);
    }

    /// Whether the silence of `candidate` is one of many: of those with a vote that should have been heard since it missed
    /// its first beat, more than half were not, and they are not one service alone.
    fn is_mass(&self, candidate: u32, without_members: bool) -> bool {
        let c = self.instance(candidate);
        let began = c.since + c.blind;
        let missed = began + c.interval(&self.policy).unwrap_or(0.0);
        let (mut heard, mut silent) = (0, 0);
        let mut services = BTreeSet::new();
        for (id, instance) in self.instances.iter().enumerate().filter_map(|(id, i)| Some((id as u32, i.as_ref()?))) {
            let service = self.service(instance.service);
            let left_out = (without_members && instance.member) || !self.has_vote(id);
            if !instance.state.is_present() || self.in_maintenance(instance) || service.rules.ephemeral || left_out {
                continue;
            }
            let (late, _) = instance.deadlines(&self.policy, &service.rules);
            if late.is_some_and(|late| self.now >= late) {
                if self.replacement_of(id).is_some() {
                    continue;
                }
                let interval = instance.interval(&self.policy).unwrap_or(0.0);
                if instance.since + instance.blind + interval + 1e-9 < began {
                    // Silent since before the candidate's last beat: another story.
                    continue;
                }
                silent += 1;
                services.insert(instance.service);
            } else if instance.heard.is_some_and(|heard| heard > missed) {
                heard += 1;
            }
        }
        silent >= self.policy.mass_instances
            && services.len() >= self.policy.mass_services
            && silent as f64 > self.policy.mass_fraction * (heard + silent) as f64
    }

    /// A newer instance of the same service that may stand for one that fell silent.
    fn replacement_of(&self, id: u32) -> Option<u32> {
        let gone = self.instance(id);
        let service = self.service(gone.service);
        let timeout = gone.timing(&self.policy, &service.rules).down;
        service.instances.iter().copied().find(|&other| {
            let x = self.instance(other);
            other != id
                && x.state == State::Up
                && !x.replaces
                && x.received >= 2
                && x.first > gone.first + timeout
                && (x.first - gone.since).abs() <= REPLACED_WITHIN
        })
    }

    /// Those that are down and were replaced leave.
    fn replace(&mut self) {
        for (order, sid) in std::mem::take(&mut self.maybe_replaced) {
            let Some(service) = self.services[sid as usize].as_ref().filter(|service| service.order == order) else {
                continue;
            };
            for id in service.instances.clone() {
                let instance = self.instance(id);
                if instance.state != State::Down || self.now - instance.since >= REPLACED_UNTIL {
                    continue;
                }
                if let Some(replacement) = self.replacement_of(id) {
                    self.instance_mut(replacement).replaces = true;
                    self.leave(id, Reason::Replaced);
                }
            }
        }
        // What has just been done may not make another replacement possible.
        self.maybe_replaced.clear();
    }

    fn go_down(&mut self, id: u32, reason: Reason, mass: bool) -> usize {
        let now = self.now;
        let (within, count) = (self.policy.flap_within, self.policy.flap_count);
        let maintained = self.in_maintenance(self.instance(id));
        let ephemeral = self.service(self.instance(id).service).rules.ephemeral;
        let instance = self.instance_mut(id);
        instance.down_at = now;
        instance.notified = false;
        if !mass {
            let flaps = &mut instance.rare_mut().flaps;
            flaps.retain(|&at| at > now - within);
            flaps.push(now);
        }
        let mut quiet = if mass {
            Some(Suppression::MassSilence)
        } else if maintained {
            Some(Suppression::Maintenance)
        } else {
            ephemeral.then_some(Suppression::Ephemeral)
        };
        let mut starts = false;
        if quiet.is_none() && !instance.flapping && instance.rare().flaps.len() >= count {
            instance.flapping = true;
            starts = true;
        }
        if quiet.is_none() && instance.flapping {
            quiet = Some(Suppression::Flapping);
        }
        instance.pending = quiet;
        instance.notified = quiet.is_none();
        let at = self.go(id, Some(State::Down), reason, quiet.is_none());
        if starts {
            let event = self.event_of(id, Change::Flapping(Phase::Start), true);
            self.say(event);
        }
        self.schedule(id);
        at
    }

    fn still_down(&mut self, id: u32, reason: Reason) -> Down {
        let instance = self.instance_mut(id);
        instance.notified = true;
        instance.pending = None;
        (id, self.go(id, Some(State::Down), reason, true))
    }

    fn tell_what_was_quiet(&mut self, due: &[u32], went_down: &mut Vec<Down>) {
        let now = self.now;
        for &id in due {
            let Some(instance) = self.instances[id as usize].as_ref().filter(|i| i.state == State::Down) else {
                continue;
            };
            let maintained = self.in_maintenance(instance);
            match (instance.rare().recheck, instance.pending) {
                (Some((at, reason)), _) if now >= at && !maintained => {
                    self.instance_mut(id).clear_recheck();
                    went_down.push(self.still_down(id, reason.reason()));
                }
                (recheck, Some(Suppression::Maintenance)) if !maintained && recheck.is_none_or(|(at, _)| now < at) => {
                    went_down.push(self.still_down(id, Reason::MaintenanceOver));
                }
                _ => {}
            }
        }
    }

    fn end_flapping(&mut self, due: &[u32], went_down: &mut Vec<Down>) {
        for &id in due {
            let (now, quiet) = (self.now, self.policy.flap_quiet);
            let Some(instance) = &mut self.instances[id as usize] else { continue };
            if !instance.flapping || now < instance.stable + quiet {
                continue;
            }
            instance.flapping = false;
            instance.rare_mut().flaps.clear();
            let told_late = instance.state == State::Down && instance.pending == Some(Suppression::Flapping);
            let event = self.event_of(id, Change::Flapping(Phase::End), true);
            self.say(event);
            if told_late {
                went_down.push(self.still_down(id, Reason::FlappingOver));
            }
        }
    }

    fn forget_old(&mut self, due: &[u32]) {
        for &id in due {
            let Some(instance) = &self.instances[id as usize] else { continue };
            let service = self.service(instance.service);
            if instance.state == State::Left && self.now >= instance.left_at + self.forget_left_after(instance) {
                self.drop_instance(id, Reason::LeftExpired);
            } else if instance.state == State::Down && self.now >= instance.down_at + self.forget_down_after(service) {
                self.drop_instance(id, Reason::DownExpired);
            }
        }
    }
}
