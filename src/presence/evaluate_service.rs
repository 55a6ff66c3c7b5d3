//! Judging services: what their instances make of them, and whether that is to be told.

use super::engine::Engine;
use super::evaluate::Down;
use super::event::{Change, Event, Phase, WarningCode};
use super::instance::{Instance, Recheck, State, Suppression};
use super::service::{Service, ServiceState};

/// A shortage against the minimum that no down explains must last so long: cold starts, clean restarts.
const SHORT_FOR: f64 = 60.0;

/// A service counts as established after so long,
const ESTABLISHED: f64 = 3600.0;
/// and as gone when all of it has left for so long.
const GONE_AFTER: f64 = 600.0;

impl Engine {
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

    pub(super) fn judge_services(&mut self, went_down: &[Down]) {
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
            self.evaluate_service(sid, &mine);
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

    fn evaluate_service(&mut self, sid: u32, mine: &[Down]) {
        let now = self.now;
        let Some(new) = self.service_state(sid) else {
            if self.service(sid).expect_at.is_none() {
                self.say_service(sid, None, self.service(sid).notified);
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
                self.say_flapping(sid, Phase::End);
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
            // Suppression so far, but one of its instances has just become a real alarm.
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
                    self.say_flapping(sid, Phase::Start);
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
        let by_mass = |instance: &Instance| instance.pending == Some(Suppression::MassSilence);
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
                    self.warn_of_service(Some(&name), WarningCode::ServiceGone, true);
                }
            }
            _ => {}
        }
    }

    fn say_flapping(&mut self, sid: u32, phase: Phase) {
        let event = Event {
            service: Some(self.service(sid).name.clone()),
            instance: Some("*".into()),
            ..self.event(Change::Flapping(phase), true)
        };
        self.say(event);
    }

    pub(super) fn say_service(&mut self, sid: u32, to: Option<ServiceState>, notify: bool) {
        let service = self.service(sid);
        let event = Event {
            service: Some(service.name.clone()),
            ..self.event(Change::Service { from: service.state, to }, notify)
        };
        self.say(event);
    }

    fn move_service(&mut self, sid: u32, new: ServiceState, notify: bool, mine: &[Down]) {
        let now = self.now;
        self.say_service(sid, Some(new), notify);
        let service = self.service(sid);
        if service.state == Some(ServiceState::Down) && new != ServiceState::Down {
            // The service is back; these are not, yet.
            for id in service.instances.clone() {
                let instance = self.instance(id);
                if instance.state == State::Down && instance.pending == Some(Suppression::Service) {
                    let timeout = instance.timing(&self.policy, &self.service(sid).rules).down;
                    self.instance_mut(id).rare_mut().recheck = Some((now + timeout, Recheck::NotBackWithService));
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
                instance.pending = Some(Suppression::Service);
            }
        }
    }
}
