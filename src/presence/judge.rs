//! Judging: what the time that has passed means. Input up to then is applied first ("drain before judging"), and
//! services are judged last, so that a burst of goodbyes is one change.

use std::collections::BTreeSet;

use super::engine::{Engine, Mass};
use super::event::{Event, EventKind};
use super::instance::{Instance, Quiet, State};
use super::service::{Service, ServiceState};

/// A shortage against the minimum that no down explains must last so long: cold starts, clean restarts.
const SHORT_FOR: f64 = 60.0;

/// A service counts as established after so long,
const ESTABLISHED: f64 = 3600.0;
/// and as gone when all of it has left for so long.
const GONE_AFTER: f64 = 600.0;

/// How long before or after the silence of an instance its replacement may have been registered.
const REPLACED_WITHIN: f64 = 600.0;
/// A replacement is looked for so long after the silence began.
const REPLACED_UNTIL: f64 = 1200.0;

/// An instance that went down in this tick, and where its event stands.
type Down = (u32, usize);

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
                    self.go(id, Some(State::Late), "missed_beat", false);
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

    /// Those whom a mass silence holds are not in the queue; when it no longer does, they are due.
    fn add_held(&mut self, due: &mut Vec<u32>) {
        let Some(mass) = &self.mass else { return };
        if !mass.expired && self.now >= mass.start + self.policy.mass_hold {
            let known: BTreeSet<u32> = due.iter().copied().collect();
            due.extend(mass.members.iter().copied().filter(|id| !known.contains(id)));
            self.sort(due);
        }
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
                self.leave(id, "replaced");
            } else if self.instance(id).interval(&self.policy).is_none() {
                self.leave(id, "never_established");
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
        let first = silent.iter().copied().reduce(|a, b| {
            let since = |id: u32| self.instance(id).since + self.instance(id).blind;
            if since(b) < since(a) { b } else { a }
        });
        if self.mass.is_none()
            && let Some(first) = first
            && self.is_mass(first, false)
        {
            self.mass = Some(Mass { start: now, members: Vec::new(), expired: false });
            self.join_all_late();
            self.say_mass("start", "mass_silence", true);
        }
        let mut went_down = Vec::new();
        for id in silent {
            let instance = self.instance(id);
            let after = |start: f64| instance.heard.is_some_and(|heard| heard > start);
            // Heard after the mass silence began: judged by itself, or by a vote without its members.
            let mut own = self.mass.as_ref().is_some_and(|mass| !instance.member && after(mass.start));
            if own && self.is_mass(id, true) {
                if let Some(mass) = &mut self.mass {
                    (mass.start, mass.expired) = (now, false);
                }
                own = false;
                self.join_all_late();
            }
            if !own && self.mass.is_some() {
                self.join(id);
                if self.mass.as_ref().is_some_and(|mass| mass.expired) {
                    went_down.push((id, self.go_down(id, "mass_silence", true)));
                }
                // Else it is held, and stays late or unknown.
            } else {
                let unconfirmed = self.instance(id).state == State::Unknown;
                let reason = if unconfirmed { "silent_since_restart" } else { "missed_beats" };
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
            mass.members.push(id);
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
            let stays = self.instances[id as usize].as_mut().is_some_and(|instance| {
                instance.member &= instance.state != State::Left;
                instance.member
            });
            stays
        });
        let heard = |id: &&u32| self.instance(**id).heard.is_some_and(|heard| heard > start);
        let back = mass.members.iter().filter(heard).count();
        if !mass.members.is_empty() && (back as f64) < fraction * mass.members.len() as f64 {
            if !mass.expired && now >= start + self.policy.mass_hold {
                mass.expired = true;
                self.mass = Some(mass);
                self.say_mass("hold_expired", "hold", false);
            } else {
                self.mass = Some(mass);
            }
            return;
        }
        self.say_mass("end", "recovered", true);
        let members: BTreeSet<u32> = mass.members.iter().copied().collect();
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
                State::Down if is_member && instance.pending == Some(Quiet::MassSilence) => {
                    instance.recheck = Some((now + timeout, super::instance::Recheck::NotBackAfterMassSilence));
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

    fn say_mass(&mut self, to: &'static str, reason: &'static str, notify: bool) {
        let event = Event { to: Some(to), reason: Some(reason), ..self.event(EventKind::MassSilence, notify) };
        self.say(event);
    }

    /// Whether the silence of `candidate` is one of many: of those that should have been heard since it missed its first
    /// beat, more than half were not, and they are not one service alone.
    fn is_mass(&self, candidate: u32, without_members: bool) -> bool {
        let c = self.instance(candidate);
        let began = c.since + c.blind;
        let missed = began + c.interval(&self.policy).unwrap_or(0.0);
        let (mut heard, mut silent) = (0, 0);
        let mut services = BTreeSet::new();
        for (id, instance) in self.instances.iter().enumerate().filter_map(|(id, i)| Some((id as u32, i.as_ref()?))) {
            let service = self.service(instance.service);
            let counts = instance.state.is_present()
                && !self.in_maintenance(instance)
                && !(without_members && instance.member)
                && !service.rules.ephemeral;
            if !counts {
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
                    self.leave(id, "replaced");
                }
            }
        }
        // What has just been done may not make another replacement possible.
        self.maybe_replaced.clear();
    }

    fn go_down(&mut self, id: u32, reason: &'static str, mass: bool) -> usize {
        let now = self.now;
        let (within, count) = (self.policy.flap_within, self.policy.flap_count);
        let maintained = self.in_maintenance(self.instance(id));
        let ephemeral = self.service(self.instance(id).service).rules.ephemeral;
        let instance = self.instance_mut(id);
        instance.down_at = now;
        instance.notified = false;
        if !mass {
            instance.flaps.retain(|&at| at > now - within);
            instance.flaps.push(now);
        }
        let mut quiet = if mass {
            Some(Quiet::MassSilence)
        } else if maintained {
            Some(Quiet::Maintenance)
        } else {
            ephemeral.then_some(Quiet::Ephemeral)
        };
        let mut starts = false;
        if quiet.is_none() && !instance.flapping && instance.flaps.len() >= count {
            instance.flapping = true;
            starts = true;
        }
        if quiet.is_none() && instance.flapping {
            quiet = Some(Quiet::Flapping);
        }
        instance.pending = quiet;
        instance.notified = quiet.is_none();
        let at = self.go(id, Some(State::Down), reason, quiet.is_none());
        if starts {
            let event = Event { to: Some("start"), ..self.event_of(id, EventKind::Flapping, true) };
            self.say(event);
        }
        self.schedule(id);
        at
    }

    fn still_down(&mut self, id: u32, reason: &'static str) -> Down {
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
            match (instance.recheck, instance.pending) {
                (Some((at, reason)), _) if now >= at && !maintained => {
                    self.instance_mut(id).recheck = None;
                    went_down.push(self.still_down(id, reason.name()));
                }
                (recheck, Some(Quiet::Maintenance)) if !maintained && recheck.is_none_or(|(at, _)| now < at) => {
                    went_down.push(self.still_down(id, "maintenance_over"));
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
            instance.flaps.clear();
            let told_late = instance.state == State::Down && instance.pending == Some(Quiet::Flapping);
            let event = Event { to: Some("end"), ..self.event_of(id, EventKind::Flapping, true) };
            self.say(event);
            if told_late {
                went_down.push(self.still_down(id, "flapping_over"));
            }
        }
    }

    fn forget_old(&mut self, due: &[u32]) {
        for &id in due {
            let Some(instance) = &self.instances[id as usize] else { continue };
            let service = self.service(instance.service);
            if instance.state == State::Left && self.now >= instance.left_at + self.forget_left_after(instance) {
                self.drop_instance(id, "left_expired");
            } else if instance.state == State::Down && self.now >= instance.down_at + self.forget_down_after(service) {
                self.drop_instance(id, "down_expired");
            }
        }
    }

    // ------------------------------------------------------------------------------------------ services

    /// What the instances of a service make of it; `None` if it has none and nobody expects any.
    fn service_state(&mut self, sid: u32) -> Option<ServiceState> {
        let now = self.now;
        let service = self.service(sid);
        let maintained = service.maintenance_until > now;
        let (mut present, mut down, mut left, mut quiet) = (0_usize, 0_usize, 0, 0);
        for &id in &service.instances {
            let instance = self.instance(id);
            match instance.state {
                State::Up | State::Late | State::Unknown => present += 1,
                State::Left => left += 1,
                State::Down if maintained || instance.maintenance_until > now => quiet += 1,
                State::Down => down += 1,
            }
        }
        let service = self.service_mut(sid);
        let armed = service.expect_at.is_none_or(|at| now >= at);
        let mut min = service.rules.min.filter(|&min| min > 0).map(|min| min as usize);
        if let Some(wanted) = min {
            if present >= wanted {
                service.short_since = None;
            } else {
                let since = *service.short_since.get_or_insert(now);
                if armed && down < wanted - present && now < since + SHORT_FOR {
                    min = None;
                }
            }
        }
        if present == 0 {
            return if down > 0 || (min.is_some() && armed && !maintained && quiet == 0) {
                Some(ServiceState::Down)
            } else if quiet > 0 {
                Some(ServiceState::Maintenance)
            } else if service.expect_at.is_some() && !armed {
                Some(ServiceState::Unknown)
            } else {
                (left > 0).then_some(ServiceState::Left)
            };
        }
        let short = !maintained && armed && min.is_some_and(|min| present < min);
        let share = present as f64 / (present + down) as f64;
        let below = service.rules.quorum > 0.0 && !service.rules.ephemeral && share < service.rules.quorum;
        Some(if short || below { ServiceState::Degraded } else { ServiceState::Up })
    }

    fn judge_services(&mut self, went_down: &[Down]) {
        for &(id, _) in went_down {
            if let Some(instance) = &self.instances[id as usize] {
                self.mark_dirty(instance.service);
            }
        }
        for (order, sid) in std::mem::take(&mut self.dirty) {
            if self.services[sid as usize].as_ref().is_none_or(|service| service.order != order) {
                continue;
            }
            let mine: Vec<Down> = went_down
                .iter()
                .copied()
                .filter(|&(id, _)| self.instances[id as usize].as_ref().is_some_and(|i| i.service == sid))
                .collect();
            self.judge_service(sid, &mine);
            if self.services[sid as usize].is_some() {
                self.plan_service(sid);
            }
        }
    }

    /// When time alone may change something about a service.
    fn plan_service(&mut self, sid: u32) {
        let (now, policy) = (self.now, &self.policy);
        let service = self.service(sid);
        let mut times = vec![service.maintenance_until];
        times.extend(service.expect_at);
        times.extend(service.short_since.map(|since| since + SHORT_FOR));
        if service.flapping {
            times.push(service.stable + policy.flap_quiet);
        }
        if service.alive.is_some() && service.state == Some(ServiceState::Left) {
            times.push(service.changed + GONE_AFTER);
        }
        let downs = service.instances.iter().map(|&id| self.instance(id)).filter(|i| i.state == State::Down);
        times.extend(downs.map(|instance| instance.maintenance_until));
        let next = times.into_iter().filter(|&at| at > now).fold(f64::INFINITY, f64::min);
        if next.is_finite() {
            self.schedule_service(sid, next);
        }
    }

    fn judge_service(&mut self, sid: u32, mine: &[Down]) {
        let now = self.now;
        let Some(new) = self.service_state(sid) else {
            if self.service(sid).expect_at.is_none() {
                self.say_service(sid, "forgotten", self.service(sid).notified);
                self.remove_service(sid);
            }
            return;
        };
        let (flap_quiet, flap_within, flap_count) =
            (self.policy.flap_quiet, self.policy.flap_within, self.policy.flap_count);
        let worse = |service: &Service| !service.notified || new.level() > service.level;
        let service = self.service_mut(sid);
        if service.flapping && now >= service.stable + flap_quiet {
            service.flapping = false;
            service.flaps.clear();
            let told = std::mem::take(&mut service.flapping_told);
            let tell = new.is_bad() && service.state == Some(new) && worse(service);
            if told {
                self.say_flapping(sid, "end");
            }
            if tell {
                self.move_service(sid, new, true, mine);
            }
        }
        self.watch_for_departure(sid, new);
        let service = self.service(sid);
        let old = service.state;
        let told_anew = mine.iter().any(|&(_, event)| self.events[event].notify);
        if old == Some(new) {
            // Quiet so far, but one of its instances has just become a real alarm.
            if new.is_bad() && worse(service) && !service.flapping && told_anew {
                self.move_service(sid, new, true, mine);
            }
            return;
        }
        let was_bad = old.is_some_and(ServiceState::is_bad);
        let an_instance_flaps = service.instances.iter().any(|&id| self.instance(id).flapping);
        let service = self.service_mut(sid);
        if new == ServiceState::Down || (new.is_bad() && !was_bad) {
            service.flaps.retain(|&at| at > now - flap_within);
            service.flaps.push(now);
            if service.flaps.len() >= flap_count {
                let tell = !std::mem::replace(&mut service.flapping, true) && !an_instance_flaps;
                if tell {
                    service.flapping_told = true;
                    self.say_flapping(sid, "start");
                }
            }
        }
        let service = self.service_mut(sid);
        if new.is_bad() || was_bad {
            service.stable = now;
        }
        if !new.is_bad() {
            let notified = service.notified;
            self.move_service(sid, new, notified, &[]);
            self.service_mut(sid).notified = false;
            return;
        }
        let by_mass = |instance: &Instance| instance.pending == Some(Quiet::MassSilence);
        let quiet = if mine.is_empty() {
            let instances = &self.service(sid).instances;
            let mut gone = instances.iter().map(|&id| self.instance(id)).filter(|i| i.state == State::Down);
            gone.any(by_mass)
        } else {
            mine.iter().all(|&(id, _)| by_mass(self.instance(id)))
        };
        let notify = !quiet && !self.service(sid).flapping;
        self.move_service(sid, new, notify, mine);
    }

    /// A service that was there for long, and whose instances have all left for a while, is a deploy that never came
    /// back.
    fn watch_for_departure(&mut self, sid: u32, new: ServiceState) {
        let now = self.now;
        let service = self.service_mut(sid);
        match new {
            ServiceState::Up | ServiceState::Degraded => {
                service.alive.get_or_insert(now);
                service.gone = false;
            }
            ServiceState::Left if service.state == Some(new) && now - service.changed >= GONE_AFTER => {
                let Some(alive) = service.alive.take() else { return };
                let opted_out = service.rules.min == Some(0);
                if !service.gone && service.changed - alive >= ESTABLISHED && !opted_out {
                    service.gone = true;
                    let name = service.name.clone();
                    self.warn_of_service(Some(&name), "service_gone", true);
                }
            }
            _ => {}
        }
    }

    fn say_flapping(&mut self, sid: u32, to: &'static str) {
        let event = Event {
            service: Some(self.service(sid).name.clone()),
            instance: Some("*".into()),
            to: Some(to),
            ..self.event(EventKind::Flapping, true)
        };
        self.say(event);
    }

    fn say_service(&mut self, sid: u32, to: &'static str, notify: bool) {
        let service = self.service(sid);
        let event = Event {
            service: Some(service.name.clone()),
            from: Some(service.state.map_or("none", ServiceState::name)),
            to: Some(to),
            ..self.event(EventKind::Service, notify)
        };
        self.say(event);
    }

    fn move_service(&mut self, sid: u32, new: ServiceState, notify: bool, mine: &[Down]) {
        let now = self.now;
        self.say_service(sid, new.name(), notify);
        let service = self.service(sid);
        if service.state == Some(ServiceState::Down) && new != ServiceState::Down {
            // The service is back; these are not, yet.
            for id in service.instances.clone() {
                let instance = self.instance(id);
                if instance.state == State::Down && instance.pending == Some(Quiet::Service) {
                    let timeout = instance.timing(&self.policy, &self.service(sid).rules).down;
                    self.instance_mut(id).recheck = Some((now + timeout, super::instance::Recheck::NotBackWithService));
                    self.schedule(id);
                }
            }
        }
        let service = self.service_mut(sid);
        (service.state, service.changed) = (Some(new), now);
        service.notified |= notify;
        service.level = match new.is_bad() {
            true if notify => new.level(),
            true => service.level.min(new.level()),
            false => 0,
        };
        if new != ServiceState::Down || !notify {
            return;
        }
        // One page, not two.
        for &(id, event) in mine {
            if std::mem::take(&mut self.events[event].notify) {
                let instance = self.instance_mut(id);
                instance.notified = false;
                instance.pending = Some(Quiet::Service);
            }
        }
    }
}
