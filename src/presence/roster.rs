//! Who is known, and when to look at whom again.

use std::cmp::Reverse;

use rapidhash::v3::rapidhash_v3_seeded;

use super::engine::Engine;
use super::event::Reason;
use super::instance::{Instance, State, Suppression};
use super::service::Service;

/// An entry of the queue: when, whom, and in which order it was registered, by which one that has gone is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Due {
    at: f64,
    id: u32,
    order: u64,
}

/// An instance that is not present, by which one makes room first: who left before who is down, then the oldest change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Gone {
    is_down: bool,
    /// When it changed; the order of the bits is that of the times, which are not negative.
    changed: u64,
    order: u64,
    pub(super) id: u32,
}

impl Gone {
    /// Its place; `None` if it is present.
    pub(super) fn of(id: u32, instance: &Instance) -> Option<Gone> {
        let is_down = instance.state == State::Down;
        let changed = instance.changed.max(0.0).to_bits();
        (!instance.state.is_present()).then_some(Gone { is_down, changed, order: instance.order, id })
    }
}

impl Eq for Due {}

impl Ord for Due {
    fn cmp(&self, other: &Due) -> std::cmp::Ordering {
        self.at.total_cmp(&other.at).then(self.order.cmp(&other.order))
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Engine {
    pub(super) fn service(&self, id: u32) -> &Service {
        self.services[id as usize].as_ref().expect("a service lives as long as an instance or a queue names it")
    }

    pub(super) fn service_mut(&mut self, id: u32) -> &mut Service {
        self.services[id as usize].as_mut().expect("a service lives as long as an instance or a queue names it")
    }

    pub(super) fn instance(&self, id: u32) -> &Instance {
        self.instances[id as usize].as_ref().expect("an instance lives as long as its service lists it")
    }

    pub(super) fn instance_mut(&mut self, id: u32) -> &mut Instance {
        self.instances[id as usize].as_mut().expect("an instance lives as long as its service lists it")
    }

    /// Every instance that is known, by the place of its registration within its service.
    pub(super) fn ids(&self) -> Vec<u32> {
        (0..self.instances.len() as u32).filter(|&id| self.instances[id as usize].is_some()).collect()
    }

    fn hash(&self, service: &str, instance: &str) -> u64 {
        rapidhash_v3_seeded(service.as_bytes(), &self.hasher).rotate_left(23)
            ^ rapidhash_v3_seeded(instance.as_bytes(), &self.hasher)
    }

    pub(super) fn find(&self, service: &str, instance: &str) -> Option<u32> {
        let is_same = |&id: &u32| {
            let known = self.instance(id);
            *known.name == *instance && *self.service(known.service).name == *service
        };
        self.by_key.find(self.hash(service, instance), is_same).copied()
    }

    pub(super) fn find_service(&self, name: &str) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    /// When an instance will be down if nothing is heard of it, on the engine's clock; `None` if it is not present.
    pub fn down_at(&self, service: &str, instance: &str) -> Option<f64> {
        let instance = self.instance(self.find(service, instance)?);
        let (_, down) = instance.deadlines(&self.policy, &self.service(instance.service).rules);
        instance.state.is_present().then_some(down)
    }

    /// Whether a service is known.
    pub fn knows(&self, service: &str) -> bool {
        self.by_name.contains_key(service)
    }

    pub(super) fn order(&mut self) -> u64 {
        self.next_order += 1;
        self.next_order
    }

    pub(super) fn make_service(&mut self, name: &str) -> u32 {
        if let Some(id) = self.find_service(name) {
            return id;
        }
        let service = Service::new(name, self.policy.rules_of(name), self.order(), self.now);
        let order = service.order;
        let id = self.put_service(service);
        self.add_candidate(id, order);
        id
    }

    pub(super) fn put_service(&mut self, service: Service) -> u32 {
        let id = self.free_services.pop().unwrap_or_else(|| {
            self.services.push(None);
            (self.services.len() - 1) as u32
        });
        self.by_name.insert(service.name.clone(), id);
        self.dirty.insert((service.order, id));
        self.services[id as usize] = Some(service);
        id
    }

    pub(super) fn remove_service(&mut self, id: u32) {
        if let Some(service) = self.services[id as usize].take() {
            self.by_name.remove(&service.name);
            self.free_services.push(id);
        }
    }

    pub(super) fn make_instance(&mut self, service: u32, name: &str) -> u32 {
        let order = self.order();
        let instance = Instance::new(service, name, order, self.now);
        self.put_instance(instance)
    }

    pub(super) fn put_instance(&mut self, instance: Instance) -> u32 {
        let id = self.free_instances.pop().unwrap_or_else(|| {
            self.instances.push(None);
            (self.instances.len() - 1) as u32
        });
        let service = instance.service;
        let hash = self.hash(&self.service(service).name, &instance.name);
        let gone = Gone::of(id, &instance);
        self.instances[id as usize] = Some(instance);
        let known = self.service_mut(service);
        known.instances.push(id);
        known.absent.extend(gone);
        self.count += 1;
        let (instances, services, secrets) = (&self.instances, &self.services, &self.hasher);
        self.by_key.insert_unique(hash, id, |&id| {
            let Some(known) = &instances[id as usize] else { return 0 };
            let service = services[known.service as usize].as_ref().map_or("", |service| &service.name);
            rapidhash_v3_seeded(service.as_bytes(), secrets).rotate_left(23)
                ^ rapidhash_v3_seeded(known.name.as_bytes(), secrets)
        });
        id
    }

    /// Forgets an instance.
    pub(super) fn drop_instance(&mut self, id: u32, reason: Reason) {
        let instance = self.instance(id);
        let notify = instance.state == State::Down && instance.notified;
        self.go(id, None, reason, notify);
        let instance = self.instance(id);
        let (service, order) = (instance.service, instance.order);
        let hash = self.hash(&self.service(service).name, &instance.name);
        if let Ok(entry) = self.by_key.find_entry(hash, |&known| known == id) {
            entry.remove();
        }
        // They are in the order of registration.
        let place = self.service(service).instances.binary_search_by_key(&order, |&id| self.instance(id).order);
        if let Ok(place) = place {
            self.service_mut(service).instances.remove(place);
        }
        self.instances[id as usize] = None;
        self.free_instances.push(id);
        self.count -= 1;
        if let Some(mass) = &mut self.mass {
            mass.members.remove(&id);
        }
    }

    pub(super) fn mark_dirty(&mut self, service: u32) {
        let order = self.service(service).order;
        self.dirty.insert((order, service));
    }

    pub(super) fn in_maintenance(&self, instance: &Instance) -> bool {
        instance.maintenance_until.max(self.service(instance.service).maintenance_until) > self.now
    }

    /// Puts an instance where the queue will find it in time.
    pub(super) fn schedule(&mut self, id: u32) {
        let at = self.next_look(id);
        let instance = self.instances[id as usize].as_mut().expect("only living instances are scheduled");
        if at < instance.queued {
            instance.queued = at;
            self.queue.push(Reverse(Due { at, id, order: instance.order }));
        }
    }

    /// When time alone may change something about an instance.
    fn next_look(&self, id: u32) -> f64 {
        let instance = self.instance(id);
        let service = self.service(instance.service);
        let policy = &self.policy;
        let quiet = |at: f64| if instance.flapping { at.min(instance.stable + policy.flap_quiet) } else { at };
        match instance.state {
            State::Up => {
                let (late, down) = instance.deadlines(policy, &service.rules);
                quiet(late.unwrap_or(down))
            }
            State::Late | State::Unknown => {
                let (_, down) = instance.deadlines(policy, &service.rules);
                // Past its deadline, whom a mass silence holds is looked at when that ends.
                let held = down <= self.now && instance.member && self.mass.as_ref().is_some_and(|mass| !mass.expired);
                quiet(if held { f64::INFINITY } else { down })
            }
            State::Left => quiet(instance.left_at + self.forget_left_after(instance)),
            State::Down => {
                let mut at = instance.down_at + self.forget_down_after(service);
                let maintained = instance.maintenance_until.max(service.maintenance_until);
                if let Some((recheck, _)) = instance.rare().recheck {
                    at = at.min(recheck.max(maintained));
                } else if instance.pending == Some(Suppression::Maintenance) {
                    at = at.min(maintained);
                }
                quiet(at)
            }
        }
    }

    pub(super) fn forget_left_after(&self, instance: &Instance) -> f64 {
        if instance.never_established && instance.received > 1 {
            self.policy.forget_left.max(6.0 * 86_400.0)
        } else {
            self.policy.forget_left
        }
    }

    pub(super) fn forget_down_after(&self, service: &Service) -> f64 {
        match (service.present, service.rules.ephemeral) {
            (0, _) => self.policy.forget_service,
            (_, true) => self.policy.forget_ephemeral,
            (_, false) => self.policy.forget_down,
        }
    }

    /// Takes the instances that are due, in the order of their services and registrations.
    pub(super) fn take_due(&mut self) -> Vec<u32> {
        let mut due = Vec::new();
        while let Some(&Reverse(entry)) = self.queue.peek() {
            if entry.at > self.now {
                break;
            }
            self.queue.pop();
            if let Some(instance) = &mut self.instances[entry.id as usize]
                && instance.order == entry.order
                && instance.queued == entry.at
            {
                instance.queued = f64::INFINITY;
                due.push(entry.id);
            }
        }
        self.sort(&mut due);
        due
    }

    pub(super) fn sort(&self, ids: &mut [u32]) {
        ids.sort_by_key(|&id| {
            let instance = self.instance(id);
            (self.service(instance.service).order, instance.order)
        });
    }

    pub(super) fn schedule_service(&mut self, id: u32, at: f64) {
        let service = self.service_mut(id);
        if at < service.queued {
            service.queued = at;
            let order = service.order;
            self.service_queue.push(Reverse(Due { at, id, order }));
        }
    }

    /// GaugeLevels the services whose time has come.
    pub(super) fn wake_services(&mut self) {
        while let Some(&Reverse(entry)) = self.service_queue.peek() {
            if entry.at > self.now {
                break;
            }
            self.service_queue.pop();
            if let Some(service) = &mut self.services[entry.id as usize]
                && service.order == entry.order
            {
                if service.queued == entry.at {
                    service.queued = f64::INFINITY;
                }
                self.dirty.insert((entry.order, entry.id));
            }
        }
    }
}
