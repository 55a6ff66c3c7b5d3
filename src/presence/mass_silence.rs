//! Mass silence: when most of what should be heard falls silent at once, one cause is likelier than many, and it is
//! notified once. Whoever falls silent meanwhile is a member; as long as the mass silence holds, none of them is down.

use std::collections::BTreeSet;

use super::instance::{Instance, State};
use super::policy::Policy;
use super::replacement::replacement_of;
use super::roster::{InstanceId, Roster};
use super::service::ESTABLISHED_BEATS;
use super::time::EngineTime;

/// The share of its members that ends a mass silence when they are back. Those that are not would else never be notified
/// where only more than that begins one.
const END_FRACTION: f64 = 0.5;

/// No silence is of more than this share of all.
const NEVER_FRACTION: f64 = 1.0;

/// A mass silence that lasts.
#[derive(Clone, Debug)]
struct Current {
    start: EngineTime,
    members: BTreeSet<InstanceId>,
    /// It has lasted too long to hold downs back.
    expired: bool,
}

/// Whether there is a mass silence, and who belongs to it.
#[derive(Clone, Debug, Default)]
pub(super) struct MassSilence(Option<Current>);

impl MassSilence {
    /// One that was saved, with the members that are back in the tables.
    pub(super) fn restored(saved: Option<(EngineTime, bool)>, members: BTreeSet<InstanceId>) -> MassSilence {
        MassSilence(saved.map(|(start, expired)| Current { start, members, expired }))
    }

    /// Its start, and whether its hold has expired.
    pub(super) fn saved(&self) -> Option<(EngineTime, bool)> {
        self.0.as_ref().map(|current| (current.start, current.expired))
    }

    pub(super) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// When it began, or was renewed.
    pub(super) fn start(&self) -> Option<EngineTime> {
        self.0.as_ref().map(|current| current.start)
    }

    /// Whether it holds downs back.
    pub(super) fn holds(&self) -> bool {
        self.0.as_ref().is_some_and(|current| !current.expired)
    }

    /// Whether it lasts, but holds downs back no longer.
    pub(super) fn is_expired(&self) -> bool {
        self.0.as_ref().is_some_and(|current| current.expired)
    }

    pub(super) fn members(&self) -> impl Iterator<Item = InstanceId> + '_ {
        self.0.iter().flat_map(|current| current.members.iter().copied())
    }

    /// Begins without members, or begins anew with those that it has.
    pub(super) fn begin(&mut self, now: EngineTime) {
        let current = self.0.get_or_insert_with(|| Current { start: now, members: BTreeSet::new(), expired: false });
        (current.start, current.expired) = (now, false);
    }

    /// Makes an instance a member.
    pub(super) fn join(&mut self, id: InstanceId, instance: &mut Instance) {
        if let Some(current) = &mut self.0
            && instance.set_member(true)
        {
            current.members.insert(id);
        }
    }

    /// An instance is forgotten.
    pub(super) fn remove(&mut self, id: InstanceId) {
        if let Some(current) = &mut self.0 {
            current.members.remove(&id);
        }
    }

    /// Lets go of members that have left.
    pub(super) fn release_departed(&mut self, roster: &mut Roster) {
        let Some(current) = &mut self.0 else { return };
        current.members.retain(|&id| {
            if roster.get_instance(id).is_none() {
                return false;
            }
            let instance = roster.instance_mut(id);
            if instance.state() == State::Left {
                instance.set_member(false);
            }
            instance.is_member()
        });
    }

    /// Whether half of its members with a vote are heard again, or fewer where fewer begin one: then it is over. Without any
    /// it is, too, and where there is to be none any more.
    pub(super) fn is_over(&self, roster: &Roster, policy: &Policy, now: EngineTime) -> bool {
        let Some(current) = &self.0 else { return false };
        if policy.mass_fraction >= NEVER_FRACTION {
            return true;
        }
        let voters =
            || current.members.iter().map(|&id| roster.instance(id)).filter(|i| has_vote(i, roster, policy, now));
        let back = voters().filter(|instance| instance.detector().heard_after(current.start)).count();
        let all = voters().count();
        all == 0 || back > 0 && back as f64 >= policy.mass_fraction.min(END_FRACTION) * all as f64
    }

    /// Its hold expires, if it is time; `true` if it just did.
    pub(super) fn expire(&mut self, now: EngineTime, policy: &Policy) -> bool {
        let is_time = self.is_due(now, policy);
        if let Some(current) = &mut self.0 {
            current.expired |= is_time;
        }
        is_time
    }

    /// Whether its hold expires at `now`.
    pub(super) fn is_due(&self, now: EngineTime, policy: &Policy) -> bool {
        self.0.as_ref().is_some_and(|current| !current.expired && now >= current.start + policy.mass_hold)
    }

    /// Ends it; who belonged to it.
    pub(super) fn end(&mut self) -> BTreeSet<InstanceId> {
        self.0.take().map_or_else(BTreeSet::new, |current| current.members)
    }
}

/// Whether the silence, or the life, of an instance says something of the whole fleet. A name that was heard once or
/// twice says nothing: anybody can invent a dozen, and their end is no reason to suppress others.
pub(super) fn has_vote(instance: &Instance, roster: &Roster, policy: &Policy, now: EngineTime) -> bool {
    if instance.received() < u64::from(ESTABLISHED_BEATS) || instance.is_unwatched() {
        return false;
    }
    let service = roster.service_of(instance);
    // By its own timeout, not the least of the service: this is asked of everybody.
    let timeout = || instance.detector().timing(policy, service.rules()).down;
    service.is_established(now, timeout) || policy.expects(service.name())
}

/// Whether the silence of `candidate` is one of many: of those with a vote that should have been heard since it missed
/// its first beat, more than half were not, and they are not one service alone.
pub(super) fn is_one_of_many(
    candidate: InstanceId,
    without_members: bool,
    roster: &Roster,
    policy: &Policy,
    now: EngineTime,
) -> bool {
    let candidate = roster.instance(candidate).detector();
    let began = candidate.silent_since();
    let missed = began + candidate.interval(policy).unwrap_or(0.0);
    let (mut heard, mut silent) = (0, 0);
    let mut services = BTreeSet::new();
    for (id, instance) in roster.instances() {
        let rules = roster.rules_of(instance);
        let is_left_out = (without_members && instance.is_member())
            || rules.ephemeral
            || !instance.is_present()
            || !has_vote(instance, roster, policy, now)
            || roster.is_maintained(instance, now);
        if is_left_out {
            continue;
        }
        let detector = instance.detector();
        if detector.is_late(now, policy, rules) {
            let interval = detector.interval(policy).unwrap_or(0.0);
            // Silent since before the candidate's last beat is another story.
            let is_older = detector.silent_since() + interval + 1e-9 < began;
            let is_run = instance.is_followed() && roster.service_of(instance).runs().are_all();
            if !is_older && !is_run && replacement_of(id, roster, policy, now).is_none() {
                silent += 1;
                services.insert(instance.service());
            }
        } else if detector.heard_after(missed) {
            heard += 1;
        }
    }
    silent >= policy.mass_instances
        && services.len() >= policy.mass_services
        && silent as f64 > policy.mass_fraction * (heard + silent) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::event::Reason;
    use crate::presence::habit::Habit;
    use crate::presence::policy::Rules;
    use crate::presence::service::Service;
    use crate::protocol::Heartbeat;

    fn at(secs: f64) -> EngineTime {
        EngineTime::from_secs(secs)
    }

    /// So many services of two instances each, heard every second up to 9; those in `silent` up to 5.
    fn roster(services: usize, silent: std::ops::Range<usize>) -> (Roster, Vec<InstanceId>) {
        let (mut roster, mut ids) = (Roster::new(1), Vec::new());
        for service in 0..services {
            let order = roster.next_order();
            let name = format!("s{service}");
            let service =
                roster.insert_service(Service::new(&name, Rules::default(), Habit::default(), order, at(0.0)));
            for instance in ["a", "b"] {
                let order = roster.next_order();
                ids.push(roster.insert_instance(Instance::new(service, instance, order, at(0.0))));
            }
        }
        let (beat, policy) = (Heartbeat { interval: Some(1.0), ..Heartbeat::default() }, Policy::default());
        for second in 0..10 {
            let now = at(f64::from(second));
            for (n, &id) in ids.iter().enumerate() {
                if second <= 5 || !silent.contains(&n) {
                    let was = (second > 0).then_some(State::Up);
                    roster.observe(id, was, &beat, now, &policy);
                    let service = roster.instance(id).service();
                    roster.service_mut(service).count_beat(now, 5.0);
                    roster.transition(id, (was, Some(State::Up)), Reason::Registered, now, at(0.0));
                }
            }
        }
        (roster, ids)
    }

    #[test]
    fn more_than_half_in_two_services_are_many_and_less_or_one_service_are_not() {
        let policy = Policy::default();
        for (services, silent, expected) in [(3, 0..4, true), (3, 0..3, false), (2, 0..2, false), (4, 0..4, false)] {
            let (roster, ids) = roster(services, silent.clone());
            let is_many = is_one_of_many(ids[0], false, &roster, &policy, at(9.5));
            assert_eq!(is_many, expected, "{services} services, {silent:?}");
        }
    }

    #[test]
    fn it_is_over_when_half_of_its_members_are_back_and_holds_for_so_long() {
        let policy = Policy::default();
        let (mut roster, ids) = roster(3, 0..4);
        let mut mass = MassSilence::default();
        mass.begin(at(10.0));
        for &id in &ids[..4] {
            mass.join(id, roster.instance_mut(id));
        }
        assert!(mass.holds() && !mass.is_over(&roster, &policy, at(11.0)));
        // There is to be none any more.
        assert!(mass.is_over(&roster, &Policy { mass_fraction: 1.0, ..Policy::default() }, at(11.0)));
        roster.instance_mut(ids[0]).detector_mut().note_alive(at(12.0));
        assert!(!mass.is_over(&roster, &policy, at(12.0)));
        assert!(!mass.expire(at(309.0), &policy) && mass.expire(at(310.0), &policy));
        assert!(mass.is_expired() && !mass.holds() && !mass.expire(at(400.0), &policy));
        roster.instance_mut(ids[1]).detector_mut().note_alive(at(401.0));
        for mass_fraction in [0.5, 0.9] {
            assert!(mass.is_over(&roster, &Policy { mass_fraction, ..Policy::default() }, at(401.0)));
        }
        assert_eq!(mass.end().len(), 4);
        assert!(!mass.is_on());
    }
}
