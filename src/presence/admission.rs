//! Admission: who may be registered when many want to, and who gives way when the table is full.
//!
//! A name costs its sender one datagram, so a table that only fills can be filled by anybody. An *unestablished* service
//! (fewer than [`ESTABLISHED_BEATS`] beats, or younger than its timeout) gives way to a new one, the oldest first; an
//! established or an expected one never does. While more than half of the table is taken, or more than
//! [`CROWD_PER_SECOND`] registrations a second arrive, it is *crowded*: then the receive workers ask for the senders'
//! addresses, and each address may register so many services and instances a minute. (The reference model refuses at the limits
//! and has no sources; traces that reach neither are judged alike.)
//!
//! Everything here is O(1) for a registration, or amortised over those that it undoes.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};

use crate::named::named_enum;

use super::engine::Engine;
use super::event::{Reason, WarningCode};

/// Beats after which a service is established, once it is older than its timeout.
const ESTABLISHED_BEATS: u8 = 3;

/// Beats of a service that come closer, in seconds, are one: copies of a datagram.
const COPY_SECS: f64 = 0.05;

/// Registrations a second that make a crowd.
const CROWD_PER_SECOND: u32 = 100;

/// Seconds that a crowd is remembered, and after which a source may register as much again.
const WINDOW_SECS: f64 = 60.0;

/// Most sources that are told apart. Who sends from more addresses than that invents them, too.
const MAX_SOURCES: usize = 4096;

named_enum! {
    /// Why something was refused, in the order of the names: accounts list them in it.
    pub enum Refusal {
        /// The sender is not in the service's `allow`.
        Allow = "allow",
        /// A goodbye from another address than the beats.
        GoodbyeFrom = "goodbye_from",
        /// Without the service's `key`.
        Key = "key",
        /// A table is full of those who do not give way.
        Limit = "limit",
        /// Too many register in this second.
        Rate = "rate",
        /// Its source has registered too many in this minute.
        Source = "source",
        /// An operator's change without the token.
        Token = "token",
    }
}

/// A service that may give way: its place, and the low half of its order, by which a place that was taken by another is
/// known.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    id: u32,
    order: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Source {
    since: f64,
    services: usize,
    instances: usize,
    refused: u64,
}

/// What is remembered of registrations.
#[derive(Clone, Debug, Default)]
pub(super) struct Admission {
    /// In the order of registration. Who has gone or become established is left out when it is met.
    candidates: VecDeque<Candidate>,
    /// The second that is counted, those who wanted in in it, and those who were let in.
    second: f64,
    arrived: u32,
    admitted: usize,
    crowded_until: f64,
    sources: HashMap<IpAddr, Source>,
    swept: f64,
}

impl Admission {
    fn arrive(&mut self, now: f64) {
        if now >= self.second + 1.0 {
            (self.second, self.arrived, self.admitted) = (now, 0, 0);
        }
        self.arrived = self.arrived.saturating_add(1);
        if self.arrived > CROWD_PER_SECOND {
            self.crowded_until = now + WINDOW_SECS;
        }
    }

    /// The account of a source in this minute; `None` if there are too many.
    fn source(&mut self, address: IpAddr, now: f64) -> Option<&mut Source> {
        let address = network(address);
        if !self.sources.contains_key(&address) {
            if self.sources.len() >= MAX_SOURCES && now >= self.swept + 1.0 {
                self.swept = now;
                self.sources.retain(|_, source| now < source.since + WINDOW_SECS || source.refused > 0);
            }
            if self.sources.len() >= MAX_SOURCES {
                return None;
            }
            self.sources.insert(address, Source { since: now, ..Source::default() });
        }
        let source = self.sources.get_mut(&address)?;
        if now >= source.since + WINDOW_SECS {
            *source = Source { since: now, refused: source.refused, ..Source::default() };
        }
        Some(source)
    }

    /// Notes who was refused something.
    pub(super) fn note_refused(&mut self, from: Option<IpAddr>, now: f64) {
        if let Some(source) = from.and_then(|from| self.source(from, now)) {
            source.refused += 1;
        }
    }

    /// Who was refused most since this was last asked, and how often.
    pub(super) fn take_most_refused(&mut self) -> Option<(IpAddr, u64)> {
        let most = self.sources.iter().map(|(address, source)| (source.refused, *address)).max();
        self.sources.values_mut().for_each(|source| source.refused = 0);
        most.filter(|(refused, _)| *refused > 0).map(|(refused, address)| (address, refused))
    }
}

/// Who owns an IPv6 address owns its 64 bits of host, too.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) >> 64 << 64)),
        v4 => v4,
    }
}

impl Engine {
    /// Whether so many register, or have registered, that senders' addresses are wanted.
    pub fn is_crowded(&self) -> bool {
        self.now < self.admission.crowded_until
            || 2 * self.by_name.len() > self.policy.max_services
            || 2 * self.count > self.policy.max_instances
    }

    /// Makes room for a new instance of a service, which may be new as well; why not, if it cannot.
    pub(super) fn admit(&mut self, service: Option<u32>, from: Option<IpAddr>) -> Result<(), Refusal> {
        let now = self.now;
        self.admission.arrive(now);
        if self.is_crowded()
            && let Some(source) = from.and_then(|from| self.admission.source(from, now))
            && (source.instances >= self.policy.max_instances_per_source
                || (service.is_none() && source.services >= self.policy.max_services_per_source))
        {
            return Err(Refusal::Source);
        }
        if self.admission.admitted >= self.policy.max_registrations_per_second {
            return Err(Refusal::Rate);
        }
        if !self.make_room(service) {
            return Err(Refusal::Limit);
        }
        self.admission.admitted += 1;
        if let Some(source) = from.and_then(|from| self.admission.source(from, now)) {
            source.services += usize::from(service.is_none());
            source.instances += 1;
        }
        Ok(())
    }

    fn make_room(&mut self, service: Option<u32>) -> bool {
        match service {
            None => {
                while self.by_name.len() >= self.policy.max_services {
                    if !self.evict_service() {
                        return false;
                    }
                }
            }
            // The oldest that left makes room, then the oldest that is down.
            Some(sid) => {
                while self.service(sid).instances.len() >= self.policy.max_instances_per_service {
                    let Some(oldest) = self.service(sid).absent.first() else { return false };
                    self.drop_instance(oldest.id, Reason::Evicted);
                }
            }
        }
        // A service that is not established itself does not push others out by growing.
        let may_evict = service.is_none_or(|sid| self.is_established(sid));
        while self.count >= self.policy.max_instances {
            if !may_evict || !self.evict_service() {
                return false;
            }
        }
        true
    }

    /// Forgets the oldest service that is not established; `false` if all are.
    fn evict_service(&mut self) -> bool {
        while let Some(oldest) = self.admission.candidates.pop_front() {
            if !self.is_candidate(oldest) || self.is_expected(oldest.id) {
                continue;
            }
            if self.is_established(oldest.id) {
                self.service_mut(oldest.id).established = true;
                continue;
            }
            for id in self.service(oldest.id).instances.clone() {
                self.drop_instance(id, Reason::Evicted);
            }
            let notified = self.service(oldest.id).notified;
            self.say_service(oldest.id, None, notified);
            self.remove_service(oldest.id);
            self.refusals.evicted += 1;
            self.warn_of_limit(None);
            return true;
        }
        false
    }

    fn is_candidate(&self, candidate: Candidate) -> bool {
        let service = self.services[candidate.id as usize].as_ref();
        service.is_some_and(|service| service.order as u32 == candidate.order && !service.established)
    }

    fn is_expected(&self, sid: u32) -> bool {
        let name = &*self.service(sid).name;
        self.policy.expect.iter().any(|expected| expected.service == name)
    }

    /// Remembers a service that was just registered as one that may give way.
    pub(super) fn add_candidate(&mut self, id: u32, order: u64) {
        let most = 2 * self.by_name.len() + 64;
        if self.admission.candidates.len() > most {
            let mut candidates = std::mem::take(&mut self.admission.candidates);
            candidates.retain(|&candidate| self.is_candidate(candidate));
            self.admission.candidates = candidates;
        }
        self.admission.candidates.push_back(Candidate { id, order: order as u32 });
    }

    /// Whether a service has been heard often enough, and for long enough, to stay.
    fn is_established(&self, sid: u32) -> bool {
        let service = self.service(sid);
        if service.established {
            return true;
        }
        let timeouts = service.instances.iter().map(|&id| self.instance(id).timing(&self.policy, &service.rules).down);
        service.beats >= ESTABLISHED_BEATS && self.now - service.born >= timeouts.fold(f64::INFINITY, f64::min)
    }

    /// Whether the silence, or the life, of an instance says something of the whole fleet. A name that was heard once or
    /// twice says nothing: anybody can invent a dozen, and their end is no reason to keep quiet about others.
    pub(super) fn has_vote(&self, id: u32) -> bool {
        let instance = self.instance(id);
        let service = self.service(instance.service);
        // By its own timeout, not the least of the service: this is asked of everybody.
        let is_established = service.established
            || (service.beats >= ESTABLISHED_BEATS
                && self.now - service.born >= instance.timing(&self.policy, &service.rules).down);
        instance.received >= u64::from(ESTABLISHED_BEATS) && (is_established || self.is_expected(instance.service))
    }

    /// Counts a beat of an instance towards its service's being established.
    pub(super) fn count_beat(&mut self, id: u32) {
        let now = self.now;
        let instance = self.instance(id);
        let (sid, service) = (instance.service, self.service(instance.service));
        if service.established {
            return;
        }
        let is_old = now - service.born >= instance.timing(&self.policy, &service.rules).down;
        let service = self.service_mut(sid);
        if now - service.beat_at >= COPY_SECS {
            service.beat_at = now;
            service.beats = service.beats.saturating_add(1);
        }
        service.established = is_old && service.beats >= ESTABLISHED_BEATS;
    }

    /// Says, once, that a table is full: of a service, or altogether.
    pub(super) fn warn_of_limit(&mut self, service: Option<u32>) {
        let warned = match service {
            Some(sid) => &mut self.service_mut(sid).limit_warned,
            None => &mut self.limit_warned,
        };
        if !std::mem::replace(warned, true) {
            let name = service.map(|sid| self.service(sid).name.clone());
            self.warn_of_service(name.as_deref(), WarningCode::Limit, true);
        }
    }

    /// What a service that is restored from an older state lacks: how often and since when it was heard.
    pub(super) fn complete_service(&mut self, sid: u32) {
        let service = self.service(sid);
        if service.beats > 0 {
            return;
        }
        let instances = || service.instances.iter().map(|&id| self.instance(id));
        let received: u64 = instances().map(|instance| instance.received).sum();
        let born = instances().map(|instance| instance.first).fold(self.now, f64::min);
        let service = self.service_mut(sid);
        (service.beats, service.born) = (received.min(u64::from(ESTABLISHED_BEATS)) as u8, born);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::event::{Change, Event, MassSilencePhase};
    use crate::presence::instance::State;
    use crate::presence::policy::{Expected, Policy};
    use crate::presence::service::ServiceState;
    use crate::protocol::Heartbeat;

    fn beat(service: &str, from: u32) -> Heartbeat {
        Heartbeat {
            service: service.into(),
            instance: "-".into(),
            interval: Some(1.0),
            source: Some(IpAddr::from((0x7f00_0000 + from).to_be_bytes())),
            ..Heartbeat::default()
        }
    }

    fn engine(policy: Policy) -> Engine {
        Engine::new(policy, 0.0, 1)
    }

    fn names(engine: &Engine) -> Vec<String> {
        engine.view(0.0).into_iter().map(|view| view.service.to_string()).collect()
    }

    #[test]
    fn the_oldest_service_that_is_not_established_gives_way_and_an_established_one_never() {
        let expect = vec![Expected { service: "payments".into(), min: 1, within: None }];
        let policy = Policy { max_services: 4, expect, ..Policy::default() };
        let mut engine = Engine::new(policy, 0.0, 1);
        let mut now = 0.0;
        // A promise of 1 s: established after three beats and 5 s.
        while now < 6.0 {
            engine.at(now);
            engine.beat(&beat("real", 2));
            now += 1.0;
        }
        for name in ["a", "b", "c"] {
            engine.beat(&beat(name, 3));
        }
        assert_eq!(names(&engine), ["b", "c", "payments", "real"]);
        engine.beat(&beat("b", 3));
        engine.beat(&beat("d", 4));
        assert_eq!(names(&engine), ["c", "d", "payments", "real"]);
        // After a restart the same holds.
        let saved = serde_json::to_string(&engine.save()).expect("JSON");
        let policy = engine.policy.clone();
        let saved = serde_json::from_str(&saved).expect("what was saved");
        let mut engine = Engine::restored(policy, saved, now, 1);
        for name in ["e", "f", "g"] {
            engine.beat(&beat(name, 5));
        }
        assert_eq!(names(&engine), ["f", "g", "payments", "real"]);
        assert_eq!((engine.refusals().evicted, engine.refusals().limit), (3, 0));
    }

    #[test]
    fn three_copies_of_a_beat_establish_nobody_and_a_state_of_before_counts_what_it_knows() {
        let mut engine = engine(Policy { max_services: 2, ..Policy::default() });
        for name in ["old", "copied"] {
            for _ in 0..3 {
                engine.beat(&beat(name, 2));
            }
        }
        engine.at(10.0);
        engine.beat(&beat("old", 2));
        engine.at(11.0);
        engine.beat(&beat("old", 2));
        engine.beat(&beat("new", 2));
        assert_eq!(names(&engine), ["new", "old"]);
        let mut saved = serde_json::to_value(engine.save()).expect("JSON");
        for service in saved["services"].as_array_mut().expect("services") {
            for key in ["born", "beats", "beat_at", "established"] {
                service[0].as_object_mut().expect("a service").remove(key);
            }
        }
        let saved = serde_json::from_value(saved).expect("an older state");
        let mut engine = Engine::restored(engine.policy.clone(), saved, 12.0, 1);
        engine.beat(&beat("newer", 2));
        assert_eq!(names(&engine), ["newer", "old"]);
    }

    #[test]
    fn a_source_registers_so_many_in_a_minute_while_it_is_crowded_and_others_are_let_in() {
        let mut engine = engine(Policy::default());
        for n in 0..500 {
            engine.beat(&beat(&format!("invented-{n}"), 2));
        }
        assert!(engine.is_crowded());
        // A hundred arrive before it is a crowd.
        assert_eq!((names(&engine).len(), engine.refusals().source), (100, 400));
        engine.beat(&beat("real", 3));
        assert!(names(&engine).contains(&"real".to_string()));
        let source = IpAddr::from([127, 0, 0, 2]);
        assert_eq!((engine.take_most_refused(), engine.take_most_refused()), (Some((source, 400)), None));
        engine.at(59.0);
        engine.beat(&beat("more", 2));
        assert_eq!(engine.refusals().source, 401);
        // When the crowd has gone, everybody may.
        engine.at(61.0);
        engine.beat(&beat("more", 2));
        assert!(!engine.is_crowded() && names(&engine).contains(&"more".to_string()));
    }

    #[test]
    fn instances_of_an_invented_service_do_not_fill_the_table() {
        let policy = Policy { max_instances: 20, max_registrations_per_second: 50, ..Policy::default() };
        let mut engine = engine(policy);
        for n in 0..30 {
            engine.beat(&Heartbeat { instance: format!("i{n}").into(), ..beat("invented", 2) });
        }
        assert_eq!((engine.len(), engine.refusals().limit), (20, 10));
        engine.beat(&beat("real", 3));
        assert_eq!((names(&engine), engine.len()), (vec!["real".to_string()], 1));
        for n in 0..100 {
            engine.beat(&beat(&format!("s{n}"), 4));
        }
        assert_eq!(engine.refusals().rate, 100 - (50 - 21));
    }

    #[test]
    fn more_sources_than_can_be_told_apart_take_no_more_memory() {
        let mut engine = engine(Policy { max_services_per_source: 1, ..Policy::default() });
        for n in 0..20_000 {
            engine.at(f64::from(n) / 900.0);
            engine.beat(&beat(&format!("s{n}"), n + 2));
            engine.beat(&beat(&format!("t{n}"), n + 2));
        }
        assert_eq!(engine.admission.sources.len(), MAX_SOURCES);
        assert!(engine.admission.candidates.len() <= 2 * engine.by_name.len() + 65);
        assert_eq!(network("::ffff:10.0.0.1".parse().expect("an address")), IpAddr::from([10, 0, 0, 1]));
        assert_eq!(network("2001:db8::5".parse().expect("an address")), network("2001:db8::6:7".parse().expect("one")));
    }

    #[test]
    fn at_the_limit_of_a_service_who_left_makes_room_before_who_is_down() {
        let mut engine = engine(Policy { max_instances_per_service: 3, ..Policy::default() });
        let of = |instance: &str, goodbye| Heartbeat { instance: instance.into(), goodbye, ..beat("s", 2) };
        for name in ["down", "left", "up"] {
            engine.beat(&of(name, false));
        }
        let mut now = 0.0;
        while now < 8.0 {
            now += 0.25;
            engine.at(now);
            engine.beat(&of("up", false));
            engine.beat(&of("left", false));
            engine.tick(now);
        }
        engine.beat(&of("left", true));
        let instances = |engine: &Engine| -> Vec<String> {
            engine.view(0.0)[0].instances.iter().map(|one| format!("{} {}", one.instance, one.state)).collect()
        };
        assert_eq!(instances(&engine), ["down down", "left left", "up up"]);
        engine.beat(&of("a", false));
        assert_eq!(instances(&engine), ["a up", "down down", "up up"]);
        engine.beat(&of("b", false));
        assert_eq!(instances(&engine), ["a up", "b up", "up up"]);
        engine.beat(&of("c", false));
        assert_eq!(
            (instances(&engine), engine.refusals().limit),
            (vec!["a up".into(), "b up".into(), "up up".into()], 1)
        );
    }

    #[test]
    fn a_goodbye_counts_only_from_where_the_beats_come() {
        let mut engine = Engine::new(Policy { goodbye_same_ip: true, ..Policy::default() }, 0.0, 1);
        let state = |engine: &Engine| engine.view(0.0)[0].instances[0].state;
        let goodbye = |from| Heartbeat { goodbye: true, ..beat("s", from) };
        engine.beat(&beat("s", 2));
        engine.at(1.0);
        engine.beat(&beat("s", 2));
        // A beat, or several, and a goodbye in one datagram.
        for _ in 0..5 {
            engine.beat(&beat("s", 3));
            engine.beat(&goodbye(3));
        }
        assert_eq!((state(&engine), engine.refusals().goodbye_from), (State::Up, 5));
        // It moves: the old address is silent, two beats come from the new one.
        for now in [2.0, 3.0, 4.0] {
            engine.at(now);
            engine.beat(&beat("s", 4));
        }
        engine.beat(&goodbye(2));
        assert_eq!((state(&engine), engine.refusals().goodbye_from), (State::Up, 6));
        engine.beat(&goodbye(4));
        assert_eq!(state(&engine), State::Left);
        // Who said goodbye may come back from anywhere.
        engine.at(20.0);
        engine.beat(&beat("s", 5));
        engine.beat(&goodbye(5));
        assert_eq!(state(&engine), State::Left);
    }

    /// Whether a mass silence is told when so many established services, heard every second, fall silent together with
    /// a dozen names that were heard so often; and the services that were told to be down.
    fn silence(services: u32, invented: &str, times: u32) -> (bool, Vec<String>) {
        let mut engine = engine(Policy::default());
        for second in 0..10_u32 {
            engine.at(f64::from(second));
            for n in 0..services {
                engine.beat(&beat(&format!("real-{n}"), 2));
            }
            for n in (0..12).filter(|_| second + times >= 10) {
                let (service, instance) = match invented {
                    "service" => (format!("e{n}"), "x".to_string()),
                    // As if they were of services that are known.
                    _ => (format!("real-{}", n % services), format!("e{n}")),
                };
                engine.beat(&Heartbeat { instance: instance.into(), interval: Some(2.0), ..beat(&service, 3) });
            }
            engine.tick(f64::from(second));
        }
        // The real ones are down after 5 s, and the dozen is late, but not down.
        for quarter in 0..24 {
            engine.tick(9.0 + f64::from(quarter) / 4.0);
        }
        let events = engine.take_events();
        let is_down = |event: &&Event| match event.change {
            Change::Instance { to, .. } => to == Some(State::Down),
            Change::Service { to, .. } => to == Some(ServiceState::Down),
            _ => false,
        };
        let down = events.iter().filter(|event| event.notify).filter(is_down);
        let names = down.filter_map(|event| Some(event.service.as_ref()?.to_string())).collect();
        (events.iter().any(|event| event.change == Change::MassSilence(MassSilencePhase::Start)), names)
    }

    #[test]
    fn invented_names_make_no_mass_silence_and_who_is_established_does() {
        let (is_mass, down) = silence(1, "service", 1);
        assert!(!is_mass && down.contains(&"real-0".to_string()), "{down:?}");
        let (is_mass, down) = silence(2, "service", 2);
        assert!(!is_mass && down.contains(&"real-1".to_string()), "{down:?}");
        let (is_mass, down) = silence(2, "instance", 2);
        assert!(!is_mass && !down.is_empty(), "{down:?}");
        // Enough that are known need no others, and nobody else prevents it.
        assert_eq!(silence(3, "service", 1), (true, vec![]));
        // Three beats are not enough before the timeout; who is kept up for longer than that is believed.
        assert!(!silence(1, "service", 3).0);
        assert_eq!(silence(1, "service", 8), (true, vec![]));
    }

    #[test]
    fn a_second_in_which_the_queue_was_full_counts_against_nobody() {
        let mut engine = engine(Policy::default());
        engine.beat(&beat("s", 2));
        engine.queue_drops(1.0, 1, 1000);
        assert_eq!(engine.blind().queue, 0.0);
        engine.queue_drops(2.0, 20, 1000);
        engine.kernel_drops(2.1, 20, 1000);
        assert_eq!((engine.blind().queue, engine.blind().drops), (1.0, 0.0));
        assert_eq!(engine.down_at("s", "-"), Some(6.0));
        let codes: Vec<_> = engine.take_events().into_iter().filter_map(|event| event.change.code()).collect();
        assert_eq!(codes, [WarningCode::QueueDrops, WarningCode::IngestDrops]);
    }
}
