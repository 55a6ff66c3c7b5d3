//! Admission: who may be registered when many want to, and who gives way when the table is full.
//!
//! A name costs its sender one datagram, so a table that only fills can be filled by anybody. An *unestablished* service
//! (fewer than three beats, or younger than its timeout) gives way to a new one, the oldest first; an established or an
//! expected one never does. While more than half of the table is taken, or more than [`CROWD_PER_SECOND`] registrations a
//! second arrive, it is *crowded*: then the receive workers ask for the senders' addresses, and each address may register
//! so many services and instances a minute. (The reference model refuses at the limits and has no sources; traces that
//! reach neither are judged alike.)
//!
//! Everything here is O(1) for a registration, or amortised over those that it undoes.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};

use crate::named::named_enum;
use crate::protocol::Ignored;

use super::policy::Policy;
use super::roster::{Roster, ServiceId};
use super::time::EngineTime;

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
        /// A peer's answer that cannot be right.
        Digest = "digest",
        /// A goodbye from another address than the beats.
        GoodbyeFrom = "goodbye_from",
        /// Without the service's `key`.
        Key = "key",
        /// A table is full of those who do not give way.
        Limit = "limit",
        /// There is no memory for it: those who do not give way have presence's share.
        Memory = "memory",
        /// Too many register in this second.
        Rate = "rate",
        /// Its source has registered too many in this minute.
        Source = "source",
        /// An operator's change without the token.
        Token = "token",
    }
}

/// What was refused or not counted, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    refused: [u64; Refusal::ALL.len()],
    evicted: u64,
    stragglers: u64,
    ignored: [u64; Ignored::ALL.len()],
}

impl Refusals {
    /// What was refused of whom, by reason, in the order in which series have it.
    pub fn by_reason(&self) -> [(Refusal, u64); Refusal::ALL.len()] {
        [
            Refusal::Limit,
            Refusal::Memory,
            Refusal::Rate,
            Refusal::Source,
            Refusal::Allow,
            Refusal::Key,
            Refusal::GoodbyeFrom,
            Refusal::Token,
            Refusal::Digest,
        ]
        .map(|why| (why, self.of(why)))
    }

    /// What was refused for a reason.
    pub fn of(&self, why: Refusal) -> u64 {
        self.refused[why as usize]
    }

    /// Services that were not established and gave way to new ones.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Beats that a goodbye had overtaken.
    pub fn stragglers(&self) -> u64 {
        self.stragglers
    }

    /// Lines under a heartbeat's name that are none, by reason.
    pub fn ignored(&self) -> [(Ignored, u64); Ignored::ALL.len()] {
        Ignored::ALL.map(|why| (why, self.ignored[why as usize]))
    }
}

/// A service that may give way: its place, and the low half of its order, by which a place that was taken by another is
/// known.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    id: ServiceId,
    order: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Source {
    since: EngineTime,
    services: usize,
    instances: usize,
    refused: u64,
}

/// What is remembered of registrations and refusals.
#[derive(Clone, Debug, Default)]
pub(super) struct Admission {
    /// In the order of registration. Who has gone or become established is left out when it is met.
    candidates: VecDeque<Candidate>,
    /// The second that is counted, those who wanted in in it, and those who were let in.
    second: EngineTime,
    arrived: u32,
    admitted: usize,
    crowded_until: EngineTime,
    sources: HashMap<IpAddr, Source>,
    swept: EngineTime,
    limit_warned: bool,
    /// Jobs that are known. They take places of instances.
    jobs: usize,
    refusals: Refusals,
    reported: Refusals,
}

/// Who owns an IPv6 address owns its 64 bits of host, too.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) >> 64 << 64)),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Registrations.
impl Admission {
    /// So many jobs are known.
    pub(super) fn note_jobs(&mut self, jobs: usize) {
        self.jobs = jobs;
    }

    /// Whether so many register, or have registered, that senders' addresses are wanted.
    pub(super) fn is_crowded(&self, roster: &Roster, policy: &Policy, now: EngineTime) -> bool {
        now < self.crowded_until
            || 2 * roster.service_count() > policy.max_services
            || 2 * (roster.instance_count() + self.jobs) > policy.max_instances
    }

    /// Whether an instance may be registered now, from that source; its service may be new as well. Whether there is room
    /// is another question.
    pub(super) fn check(
        &mut self,
        is_new_service: bool,
        from: Option<IpAddr>,
        roster: &Roster,
        policy: &Policy,
        now: EngineTime,
    ) -> Result<(), Refusal> {
        self.note_arrival(now);
        if self.is_crowded(roster, policy, now)
            && let Some(source) = from.and_then(|from| self.source(from, now))
            && (source.instances >= policy.max_instances_per_source
                || (is_new_service && source.services >= policy.max_services_per_source))
        {
            return Err(Refusal::Source);
        }
        if self.admitted >= policy.max_registrations_per_second {
            return Err(Refusal::Rate);
        }
        Ok(())
    }

    /// An instance is registered, from that source.
    pub(super) fn note_admitted(&mut self, is_new_service: bool, from: Option<IpAddr>, now: EngineTime) {
        self.admitted += 1;
        if let Some(source) = from.and_then(|from| self.source(from, now)) {
            source.services += usize::from(is_new_service);
            source.instances += 1;
        }
    }

    fn note_arrival(&mut self, now: EngineTime) {
        if now >= self.second + 1.0 {
            (self.second, self.arrived, self.admitted) = (now, 0, 0);
        }
        self.arrived = self.arrived.saturating_add(1);
        if self.arrived > CROWD_PER_SECOND {
            self.crowded_until = now + WINDOW_SECS;
        }
    }

    /// The account of a source in this minute; `None` if there are too many.
    fn source(&mut self, address: IpAddr, now: EngineTime) -> Option<&mut Source> {
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
}

/// Who gives way.
impl Admission {
    /// Remembers a service that was just registered as one that may give way.
    pub(super) fn add_candidate(&mut self, id: ServiceId, roster: &Roster) {
        if self.candidates.len() > 2 * roster.service_count() + 64 {
            self.candidates.retain(|&candidate| is_candidate(candidate, roster));
        }
        self.candidates.push_back(Candidate { id, order: roster.service(id).order() as u32 });
    }

    /// The oldest service that is not established and not expected; `None` if there is none. Whoever became established
    /// meanwhile stays so.
    pub(super) fn take_oldest_candidate(
        &mut self,
        roster: &mut Roster,
        policy: &Policy,
        now: EngineTime,
    ) -> Option<ServiceId> {
        while let Some(oldest) = self.candidates.pop_front() {
            if !is_candidate(oldest, roster) || policy.expects(roster.service(oldest.id).name()) {
                continue;
            }
            if is_established(oldest.id, roster, policy, now) {
                roster.service_mut(oldest.id).establish();
                continue;
            }
            return Some(oldest.id);
        }
        None
    }
}

fn is_candidate(candidate: Candidate, roster: &Roster) -> bool {
    let service = roster.get_service(candidate.id);
    service.is_some_and(|service| service.order() as u32 == candidate.order && !service.is_known_as_established())
}

/// Whether a service is established by the least timeout of its instances.
pub(super) fn is_established(id: ServiceId, roster: &Roster, policy: &Policy, now: EngineTime) -> bool {
    let service = roster.service(id);
    let timeouts = || roster.instances_of(service).map(|one| one.detector().timing(policy, service.rules()).down);
    service.is_established(now, || timeouts().fold(f64::INFINITY, f64::min))
}

/// What is refused, and whom.
impl Admission {
    /// Counts a refusal, and who was refused.
    pub(super) fn refuse(&mut self, why: Refusal, from: Option<IpAddr>, now: EngineTime) {
        self.refusals.refused[why as usize] += 1;
        if let Some(source) = from.and_then(|from| self.source(from, now)) {
            source.refused += 1;
        }
    }

    /// Counts refusals of nobody in particular.
    pub(super) fn refuse_many(&mut self, why: Refusal, count: u64) {
        self.refusals.refused[why as usize] += count;
    }

    pub(super) fn note_straggler(&mut self) {
        self.refusals.stragglers += 1;
    }

    pub(super) fn note_ignored(&mut self, why: Ignored) {
        self.refusals.ignored[why as usize] += 1;
    }

    pub(super) fn note_evicted(&mut self) {
        self.refusals.evicted += 1;
    }

    /// `true` the first time that a limit on everybody is reached.
    pub(super) fn note_limit(&mut self) -> bool {
        !std::mem::replace(&mut self.limit_warned, true)
    }

    /// What was refused, since the start.
    pub(super) fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// The same, and what it was when this was last asked.
    pub(super) fn take_report(&mut self) -> (Refusals, Refusals) {
        (self.refusals, std::mem::replace(&mut self.reported, self.refusals))
    }

    /// Who was refused most since this was last asked, and how often.
    pub(super) fn take_most_refused(&mut self) -> Option<(IpAddr, u64)> {
        let most = self.sources.iter().map(|(address, source)| (source.refused, *address)).max();
        self.sources.values_mut().for_each(|source| source.refused = 0);
        most.filter(|(refused, _)| *refused > 0).map(|(refused, address)| (address, refused))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::habit::Habit;
    use crate::presence::policy::Rules;
    use crate::presence::service::Service;

    fn at(secs: f64) -> EngineTime {
        EngineTime::from_secs(secs)
    }

    #[test]
    fn more_sources_than_can_be_told_apart_take_no_more_memory() {
        let (mut admission, roster, policy) = (Admission::default(), Roster::new(1), Policy::default());
        for n in 0..20_000_u32 {
            let from = Some(IpAddr::from((0x7f00_0000 + n).to_be_bytes()));
            if admission.check(true, from, &roster, &policy, at(f64::from(n) / 900.0)).is_ok() {
                admission.note_admitted(true, from, at(f64::from(n) / 900.0));
            }
        }
        assert_eq!(admission.sources.len(), MAX_SOURCES);
        assert_eq!(network("::ffff:10.0.0.1".parse().expect("an address")), IpAddr::from([10, 0, 0, 1]));
        assert_eq!(network("2001:db8::5".parse().expect("an address")), network("2001:db8::6:7".parse().expect("one")));
    }

    #[test]
    fn candidates_that_have_gone_are_forgotten() {
        let (mut admission, mut roster) = (Admission::default(), Roster::new(1));
        for n in 0..1000 {
            let order = roster.next_order();
            let id = roster.insert_service(Service::new(
                &format!("s{n}"),
                Rules::default(),
                Habit::default(),
                order,
                at(0.0),
            ));
            admission.add_candidate(id, &roster);
            if n >= 10 {
                roster.remove_service(id);
            }
        }
        assert!(admission.candidates.len() <= 2 * roster.service_count() + 65, "{}", admission.candidates.len());
        let oldest = admission.take_oldest_candidate(&mut roster, &Policy::default(), at(1.0));
        assert_eq!(oldest, roster.find_service("s0"));
    }

    #[test]
    fn who_was_refused_most_is_told_once() {
        let mut admission = Admission::default();
        let [a, b] = [IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2])];
        for (from, why) in [(a, Refusal::Key), (b, Refusal::Allow), (b, Refusal::Key)] {
            admission.refuse(why, Some(from), at(1.0));
        }
        admission.refuse(Refusal::Token, None, at(1.0));
        assert_eq!((admission.take_most_refused(), admission.take_most_refused()), (Some((b, 2)), None));
        let (now, before) = admission.take_report();
        assert_eq!((now.of(Refusal::Key), now.of(Refusal::Token), before), (2, 1, Refusals::default()));
    }
}
