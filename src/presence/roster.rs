//! Who is known: the tables of services and instances, by name and by place. It decides nothing; it keeps what belongs
//! together consistent.

use std::collections::HashMap;

use compact_str::CompactString;
use hashbrown::HashTable;
use rapidhash::v3::{RapidSecrets, rapidhash_v3_seeded};

use crate::memory::{footprint, vec_footprint};
use crate::protocol::Heartbeat;

use super::detector::{Detector, Gap};
use super::event::Reason;
use super::instance::{Instance, State};
use super::policy::{Policy, Rules};
use super::service::{Census, Service};
use super::text_bytes;
use super::time::EngineTime;

/// The place of a service in the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ServiceId(u32);

impl ServiceId {
    pub(super) fn from_place(place: u32) -> ServiceId {
        ServiceId(place)
    }

    pub(super) fn place(self) -> u32 {
        self.0
    }
}

/// The place of an instance in the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct InstanceId(u32);

impl InstanceId {
    pub(super) fn from_place(place: u32) -> InstanceId {
        InstanceId(place)
    }

    pub(super) fn place(self) -> u32 {
        self.0
    }
}

/// Everybody who is known.
#[derive(Debug)]
pub(super) struct Roster {
    services: Vec<Option<Service>>,
    instances: Vec<Option<Instance>>,
    free_services: Vec<ServiceId>,
    free_instances: Vec<InstanceId>,
    by_name: HashMap<CompactString, ServiceId>,
    by_key: HashTable<InstanceId>,
    secrets: RapidSecrets,
    last_order: u64,
    instance_count: usize,
    /// Bytes of what names and other texts take beside themselves.
    text_bytes: usize,
}

/// What a beat shows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Observed {
    pub(super) gap: Gap,
    /// All instances of the service may be runs, and could not before; or the other way round.
    pub(super) changes_runs: bool,
}

/// Makes room for more by an eighth: twice as much at once would be more than presence's share of the memory.
fn grow_a_little<T>(places: &mut Vec<T>) {
    if places.len() == places.capacity() {
        places.reserve_exact(places.len() / 8 + 64);
    }
}

fn hash(service: &str, instance: &str, secrets: &RapidSecrets) -> u64 {
    rapidhash_v3_seeded(service.as_bytes(), secrets).rotate_left(23) ^ rapidhash_v3_seeded(instance.as_bytes(), secrets)
}

impl Roster {
    /// One that knows nobody. `seed` keys the table: senders are not to know which names collide.
    pub(super) fn new(seed: u64) -> Roster {
        Roster {
            services: Vec::new(),
            instances: Vec::new(),
            free_services: Vec::new(),
            free_instances: Vec::new(),
            by_name: HashMap::new(),
            by_key: HashTable::new(),
            secrets: RapidSecrets::seed(seed),
            last_order: 0,
            instance_count: 0,
            text_bytes: 0,
        }
    }

    /// The next place in the order of registration.
    pub(super) fn next_order(&mut self) -> u64 {
        self.last_order += 1;
        self.last_order
    }

    /// Bytes that all of it takes, but for what few instances have.
    pub(super) fn heap_bytes(&self) -> usize {
        let entry = size_of::<(CompactString, ServiceId)>() + 1;
        let instances: usize = self.by_name.len() * footprint(4 * size_of::<InstanceId>());
        vec_footprint::<Option<Service>>(self.services.capacity())
            + vec_footprint::<Option<Instance>>(self.instances.capacity())
            + vec_footprint::<ServiceId>(self.free_services.capacity())
            + vec_footprint::<InstanceId>(self.free_instances.capacity())
            + vec_footprint::<u8>(self.by_name.capacity() * entry * 8 / 7)
            + footprint(self.by_key.allocation_size())
            + instances
            + self.instance_count * size_of::<InstanceId>()
            + self.text_bytes
    }

    /// Changes an instance in a way that may change its texts. Their bytes are counted right away: what follows the change
    /// may fail, and then they are right all the same.
    pub(super) fn change_texts<T>(&mut self, id: InstanceId, change: impl FnOnce(&mut Instance) -> T) -> T {
        let instance = self.instance_mut(id);
        let before = instance.text_bytes();
        let outcome = change(instance);
        let after = instance.text_bytes();
        self.text_bytes = (self.text_bytes + after).saturating_sub(before);
        outcome
    }
}

/// Services.
impl Roster {
    pub(super) fn find_service(&self, name: &str) -> Option<ServiceId> {
        self.by_name.get(name).copied()
    }

    pub(super) fn service(&self, id: ServiceId) -> &Service {
        self.get_service(id).expect("a service lives as long as an instance or a queue names it")
    }

    pub(super) fn service_mut(&mut self, id: ServiceId) -> &mut Service {
        self.services[id.0 as usize].as_mut().expect("a service lives as long as an instance or a queue names it")
    }

    /// The service at a place, if there is one.
    pub(super) fn get_service(&self, id: ServiceId) -> Option<&Service> {
        self.services.get(id.0 as usize)?.as_ref()
    }

    /// The service that was registered at a place as that number, if it is still there.
    pub(super) fn get_registered(&self, id: ServiceId, order: u64) -> Option<&Service> {
        self.get_service(id).filter(|service| service.order() == order)
    }

    pub(super) fn service_count(&self) -> usize {
        self.by_name.len()
    }

    pub(super) fn service_names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(|name| &**name)
    }

    pub(super) fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.iter().flatten()
    }

    pub(super) fn service_ids(&self) -> Vec<ServiceId> {
        (0..self.services.len() as u32).map(ServiceId).filter(|&id| self.get_service(id).is_some()).collect()
    }

    /// Services by name.
    pub(super) fn services_by_name(&self) -> Vec<&Service> {
        let mut services: Vec<&Service> = self.services().collect();
        services.sort_by(|a, b| a.name().cmp(b.name()));
        services
    }

    pub(super) fn insert_service(&mut self, service: Service) -> ServiceId {
        let id = self.free_services.pop().unwrap_or_else(|| {
            grow_a_little(&mut self.services);
            self.services.push(None);
            ServiceId((self.services.len() - 1) as u32)
        });
        self.text_bytes += 2 * text_bytes(service.name());
        self.by_name.insert(service.name().clone(), id);
        self.services[id.0 as usize] = Some(service);
        id
    }

    pub(super) fn remove_service(&mut self, id: ServiceId) {
        if let Some(service) = self.services[id.0 as usize].take() {
            self.by_name.remove(service.name());
            self.text_bytes = self.text_bytes.saturating_sub(2 * text_bytes(service.name()));
            self.free_services.push(id);
        }
    }
}

/// Instances.
impl Roster {
    pub(super) fn find(&self, service: &str, instance: &str) -> Option<InstanceId> {
        let is_same = |&id: &InstanceId| {
            let known = self.instance(id);
            **known.name() == *instance && **self.service_of(known).name() == *service
        };
        self.by_key.find(hash(service, instance, &self.secrets), is_same).copied()
    }

    pub(super) fn instance(&self, id: InstanceId) -> &Instance {
        self.get_instance(id).expect("an instance lives as long as its service lists it")
    }

    pub(super) fn instance_mut(&mut self, id: InstanceId) -> &mut Instance {
        self.instances[id.0 as usize].as_mut().expect("an instance lives as long as its service lists it")
    }

    /// The instance at a place, if there is one.
    pub(super) fn get_instance(&self, id: InstanceId) -> Option<&Instance> {
        self.instances.get(id.0 as usize)?.as_ref()
    }

    pub(super) fn instance_count(&self) -> usize {
        self.instance_count
    }

    /// Everybody, in the order of places.
    pub(super) fn instances(&self) -> impl Iterator<Item = (InstanceId, &Instance)> {
        self.instances_from(0)
    }

    /// Everybody from a place on, in the order of places.
    pub(super) fn instances_from(&self, place: u32) -> impl Iterator<Item = (InstanceId, &Instance)> {
        let rest = self.instances.get(place as usize..).unwrap_or_default();
        rest.iter().zip(place..).filter_map(|(instance, place)| Some((InstanceId(place), instance.as_ref()?)))
    }

    pub(super) fn instance_ids(&self) -> Vec<InstanceId> {
        self.instances().map(|(id, _)| id).collect()
    }

    pub(super) fn instances_of(&self, service: &Service) -> impl Iterator<Item = &Instance> + Clone {
        service.instances().iter().map(|&id| self.instance(id))
    }

    pub(super) fn service_of(&self, instance: &Instance) -> &Service {
        self.service(instance.service())
    }

    pub(super) fn rules_of(&self, instance: &Instance) -> &Rules {
        self.service_of(instance).rules()
    }

    /// Tells an instance of a beat: it was in a state before, or was not known.
    pub(super) fn observe(
        &mut self,
        id: InstanceId,
        was: Option<State>,
        beat: &Heartbeat,
        now: EngineTime,
        policy: &Policy,
    ) -> Observed {
        let was_lasting = !self.instance(id).is_short();
        let gap = self.change_texts(id, |instance| instance.observe(now, was, beat, policy));
        let instance = self.instance(id);
        let (service, is_lasting) = (instance.service(), !instance.is_short());
        let changes_runs = self.service_mut(service).runs_mut().count(was_lasting, is_lasting);
        Observed { gap, changes_runs }
    }

    /// Visits the detectors of all that are present, but for those whose places are skipped, with the rules of their services.
    pub(super) fn for_each_present(&mut self, skipped: &[bool], mut visit: impl FnMut(&mut Detector, &Rules)) {
        for (place, instance) in self.instances.iter_mut().enumerate() {
            let Some(instance) = instance.as_mut().filter(|instance| instance.is_present()) else { continue };
            if skipped.get(place).is_some_and(|&is_skipped| is_skipped) {
                continue;
            }
            if let Some(service) = &self.services[instance.service().0 as usize] {
                visit(instance.detector_mut(), service.rules());
            }
        }
    }

    /// Whether maintenance of an instance or of its service was announced.
    pub(super) fn is_maintained(&self, instance: &Instance, now: EngineTime) -> bool {
        instance.maintenance_until().max(self.service_of(instance).maintenance_until()) > now
    }

    /// How many instances of a service are in which state.
    pub(super) fn census(&self, id: ServiceId, now: EngineTime) -> Census {
        let service = self.service(id);
        let is_maintained = service.maintenance_until() > now;
        let mut census = Census::default();
        for instance in self.instances_of(service) {
            let count = match instance.state() {
                State::Up | State::Late | State::Unknown => &mut census.present,
                State::Left => &mut census.left,
                State::Down if is_maintained || instance.maintenance_until() > now => &mut census.maintained,
                State::Down => &mut census.down,
            };
            *count += 1;
        }
        census
    }

    pub(super) fn insert_instance(&mut self, instance: Instance) -> InstanceId {
        let id = self.free_instances.pop().unwrap_or_else(|| {
            grow_a_little(&mut self.instances);
            self.instances.push(None);
            InstanceId((self.instances.len() - 1) as u32)
        });
        let service = self.services[instance.service().0 as usize].as_mut();
        let service = service.expect("a service is registered before its instances");
        service.add_instance(id, &instance);
        let key = hash(service.name(), instance.name(), &self.secrets);
        self.text_bytes += instance.text_bytes();
        self.instances[id.0 as usize] = Some(instance);
        self.instance_count += 1;
        let (instances, services, secrets) = (&self.instances, &self.services, &self.secrets);
        self.by_key.insert_unique(key, id, |&id| {
            let Some(known) = &instances[id.0 as usize] else { return 0 };
            let service = services[known.service().0 as usize].as_ref().map_or("", |service| service.name());
            hash(service, known.name(), secrets)
        });
        id
    }

    /// The same for one that was saved.
    pub(super) fn insert_restored(&mut self, instance: Instance) -> InstanceId {
        let id = self.insert_instance(instance);
        let instance = self.instances[id.0 as usize].as_ref().expect("it was just inserted");
        if let Some(service) = &mut self.services[instance.service().0 as usize] {
            service.count_restored(instance);
        }
        id
    }

    pub(super) fn remove_instance(&mut self, id: InstanceId) {
        let instance = self.instance(id);
        let (service, order) = (instance.service(), instance.order());
        let key = hash(self.service(service).name(), instance.name(), &self.secrets);
        if let Ok(entry) = self.by_key.find_entry(key, |&known| known == id) {
            entry.remove();
        }
        // They are in the order of registration.
        let instances = self.service(service).instances();
        if let Ok(place) = instances.binary_search_by_key(&order, |&id| self.instance(id).order()) {
            let is_lasting = !self.instance(id).is_short();
            let service = self.service_mut(service);
            service.remove_instance(place);
            service.runs_mut().count(is_lasting, false);
        }
        if let Some(gone) = self.instances[id.0 as usize].take() {
            self.text_bytes = self.text_bytes.saturating_sub(gone.text_bytes());
        }
        self.free_instances.push(id);
        self.instance_count -= 1;
    }

    /// Moves an instance from one state to another, and its service's counts with it. `true` if the first of the service
    /// came or the last is no longer present.
    pub(super) fn transition(
        &mut self,
        id: InstanceId,
        states: (Option<State>, Option<State>),
        reason: Reason,
        now: EngineTime,
        reported_at: EngineTime,
    ) -> bool {
        let instance = self.instances[id.0 as usize].as_mut().expect("only who is known changes its state");
        let service = self.services[instance.service().0 as usize].as_mut();
        let service = service.expect("a service lives as long as its instances");
        service.before_transition(id, instance);
        instance.transition(states, reason, now, reported_at);
        service.after_transition(id, instance, states)
    }

    /// Sorts instances by the order of their services and their own.
    pub(super) fn sort(&self, ids: &mut [InstanceId]) {
        ids.sort_by_key(|&id| {
            let instance = self.instance(id);
            (self.service_of(instance).order(), instance.order())
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::habit::Habit;

    fn roster() -> (Roster, ServiceId) {
        let mut roster = Roster::new(1);
        let order = roster.next_order();
        let id =
            roster.insert_service(Service::new("s", Rules::default(), Habit::default(), order, EngineTime::default()));
        (roster, id)
    }

    fn add(roster: &mut Roster, service: ServiceId, name: &str) -> InstanceId {
        let order = roster.next_order();
        roster.insert_instance(Instance::new(service, name, order, EngineTime::default()))
    }

    fn go(roster: &mut Roster, id: InstanceId, from: Option<State>, to: Option<State>, now: f64) -> bool {
        let now = EngineTime::from_secs(now);
        roster.transition(id, (from, to), Reason::Registered, now, EngineTime::default())
    }

    #[test]
    fn who_is_removed_is_not_found_and_its_place_is_taken_again() {
        let (mut roster, service) = roster();
        let (a, b) = (add(&mut roster, service, "a"), add(&mut roster, service, "b"));
        assert_eq!((roster.find("s", "a"), roster.find("s", "b"), roster.find("t", "a")), (Some(a), Some(b), None));
        roster.remove_instance(a);
        assert_eq!((roster.find("s", "a"), roster.instance_count()), (None, 1));
        let c = add(&mut roster, service, "c");
        assert_eq!((c, roster.find("s", "c")), (a, Some(a)));
        assert_eq!(roster.service(service).instances(), [b, c]);
        roster.remove_service(service);
        assert_eq!((roster.find_service("s"), roster.service_count()), (None, 0));
    }

    #[test]
    fn a_service_counts_who_is_present_and_who_makes_room_first() {
        let (mut roster, service) = roster();
        let [a, b, c] = ["a", "b", "c"].map(|name| add(&mut roster, service, name));
        assert!(go(&mut roster, a, None, Some(State::Up), 0.0), "the first came");
        assert!(!go(&mut roster, b, None, Some(State::Up), 0.0));
        assert!(!go(&mut roster, c, None, Some(State::Up), 0.0));
        go(&mut roster, a, Some(State::Up), Some(State::Down), 1.0);
        assert_eq!(roster.service(service).oldest_absent(), Some(a));
        go(&mut roster, b, Some(State::Up), Some(State::Left), 2.0);
        assert_eq!((roster.service(service).oldest_absent(), roster.service(service).present()), (Some(b), 1));
        assert!(go(&mut roster, c, Some(State::Up), Some(State::Left), 3.0), "the last has left");
        go(&mut roster, b, Some(State::Left), None, 4.0);
        assert_eq!(roster.service(service).oldest_absent(), Some(c));
        let census = Census { down: 1, left: 2, ..Census::default() };
        assert_eq!(roster.census(service, EngineTime::from_secs(5.0)), census);
    }
}
