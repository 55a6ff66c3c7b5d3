//! What survives a restart: everybody who is known, and whether there is a mass silence.

use std::collections::BTreeSet;
use std::io::{self, Write};

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use super::Engine;
use crate::presence::announced::{Announcement, Announcements};
use crate::presence::event::{Change, Event, Reason};
use crate::presence::evidence::{Before, HeardElsewhere};
use crate::presence::habit::{Habit, Habits};
use crate::presence::instance::Instance;
use crate::presence::jobs::{BlindTimes, Job, Jobs, PeerBlindTimes};
use crate::presence::mass_silence::MassSilence;
use crate::presence::policy::Policy;
use crate::presence::service::Service;
use crate::presence::time::EngineTime;
use crate::protocol::TAKEN;

/// Everything that survives a restart. Times are those of the engine that saved it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Saved {
    /// The engine's clock, and since when nothing was received, if that ended before.
    now: EngineTime,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deaf_since: Option<EngineTime>,
    /// Services with their instances.
    services: Vec<(Service, Vec<Instance>)>,
    /// A mass silence that lasts: its start, and whether its hold has expired.
    mass: Option<(EngineTime, bool)>,
    /// Habits of services that are forgotten.
    #[serde(default)]
    habits: Vec<(CompactString, Habit)>,
    /// Jobs, and when we could not hear.
    #[serde(default)]
    jobs: Vec<Job>,
    #[serde(default)]
    blind: BlindTimes,
    /// Whom a peer alone had heard.
    #[serde(default)]
    heard_elsewhere: Vec<HeardElsewhere>,
    /// Who announced which maintenance, and why.
    #[serde(default)]
    announced: Vec<Announcement>,
    /// When what peers heard is not known, by their places.
    #[serde(default)]
    peer_blind: Vec<PeerBlindTimes>,
}

impl Saved {
    /// The engine's clock when it was saved.
    pub fn now(&self) -> EngineTime {
        self.now
    }

    /// How many services, instances and jobs it has.
    pub fn counts(&self) -> (usize, usize, usize) {
        let instances = self.services.iter().map(|(_, instances)| instances.len()).sum();
        (self.services.len(), instances, self.jobs.len())
    }
}

impl Engine {
    /// Writes what must survive a restart as JSON, as [`Engine::save`] has it, without a copy of it.
    ///
    /// # Errors
    /// What `out` says.
    pub fn store(&self, out: impl Write) -> io::Result<()> {
        #[derive(Serialize)]
        struct Stored<'a> {
            now: EngineTime,
            #[serde(skip_serializing_if = "Option::is_none")]
            deaf_since: Option<EngineTime>,
            services: Vec<(&'a Service, Vec<&'a Instance>)>,
            mass: Option<(EngineTime, bool)>,
            habits: Vec<(&'a CompactString, &'a Habit)>,
            jobs: Vec<&'a Job>,
            blind: &'a BlindTimes,
            #[serde(skip_serializing_if = "Vec::is_empty")]
            heard_elsewhere: Vec<HeardElsewhere>,
            #[serde(skip_serializing_if = "Vec::is_empty")]
            announced: Vec<&'a Announcement>,
            #[serde(skip_serializing_if = "<[PeerBlindTimes]>::is_empty")]
            peer_blind: &'a [PeerBlindTimes],
        }
        let stored = Stored {
            now: self.now,
            deaf_since: self.deaf_since,
            services: self.registered(),
            mass: self.mass.saved(),
            habits: self.habits.saved(),
            jobs: self.jobs.in_order(),
            blind: &self.blind_times,
            heard_elsewhere: self.saved_evidence(),
            announced: self.announcements.saved(self.now),
            peer_blind: self.peer_blind(),
        };
        Ok(serde_json::to_writer(out, &stored)?)
    }

    /// What must survive a restart.
    pub fn save(&self) -> Saved {
        let owned = |(service, all): (&Service, Vec<&Instance>)| (service.clone(), all.into_iter().cloned().collect());
        let habits = self.habits.saved().into_iter();
        Saved {
            now: self.now,
            deaf_since: self.deaf_since,
            services: self.registered().into_iter().map(owned).collect(),
            mass: self.mass.saved(),
            habits: habits.map(|(name, habit)| (name.clone(), habit.clone())).collect(),
            jobs: self.jobs.in_order().into_iter().cloned().collect(),
            blind: self.blind_times.clone(),
            heard_elsewhere: self.saved_evidence(),
            announced: self.announcements.saved(self.now).into_iter().cloned().collect(),
            peer_blind: self.peer_blind().to_vec(),
        }
    }

    fn peer_blind(&self) -> &[PeerBlindTimes] {
        self.evidence.as_ref().map_or(&[], |evidence| &evidence.peer_blind)
    }

    /// Services with their instances, both in the order of registration.
    fn registered(&self) -> Vec<(&Service, Vec<&Instance>)> {
        self.in_order().into_iter().map(|service| (service, self.roster.instances_of(service).collect())).collect()
    }

    /// Services in the order of registration.
    pub(super) fn in_order(&self) -> Vec<&Service> {
        let mut services: Vec<&Service> = self.roster.services().collect();
        services.sort_by_key(|service| service.order());
        services
    }

    /// Starts with what an earlier engine knew: whoever was present is to be confirmed. `now` is on that engine's clock. What
    /// the state says to have happened after it was saved happened then: else that time would have to come before anything
    /// is told.
    pub fn restored(policy: Policy, saved: Saved, now: EngineTime, seed: u64) -> Engine {
        let mut engine = Engine::empty(policy, now, seed);
        let deaf_since = saved.deaf_since.unwrap_or(saved.now);
        let away = now - deaf_since;
        engine.blindness.note_restart(away);
        engine.habits = Habits::restored(saved.habits);
        engine.blind_times = saved.blind;
        engine.note_blind(deaf_since, now);
        let (mut members, mut to_confirm, mut all) = (BTreeSet::new(), 0, Vec::new());
        for (service, instances) in saved.services {
            let rules = engine.policy.rules_of(service.name());
            let order = engine.roster.next_order();
            let id = engine.roster.insert_service(service.restored(rules, order, saved.now));
            engine.mark_dirty(id);
            engine.admission.add_candidate(id, &engine.roster);
            for instance in instances {
                let order = engine.roster.next_order();
                let mut instance = instance.restored(id, order, saved.now);
                if instance.is_present() {
                    // It may have been heard while this node was about to stop.
                    let away = away.min(now - instance.detector().last_life()).max(0.0);
                    instance.detector_mut().leave_out_restart(away, now, &engine.policy, &rules);
                    to_confirm += 1;
                }
                let is_low = instance.watching().is_some_and(|watching| watching.is_low());
                let is_member = instance.is_member();
                let id = engine.roster.insert_restored(instance);
                all.push(id);
                if is_member {
                    members.insert(id);
                }
                if is_low {
                    engine.counted.push((order, id));
                }
                if !rules.health_alerts {
                    engine.end_health_alert(id);
                }
            }
        }
        let heard = saved.heard_elsewhere.into_iter();
        let heard = heard.filter_map(|one| Some((*all.get(one.place as usize)?, one))).collect();
        engine.before = Before { heard, peer_blind: saved.peer_blind, until: deaf_since };
        engine.complete_services();
        engine.reconcile_expectations();
        let mass = saved.mass.map(|(start, expired)| (start.min(saved.now), expired));
        engine.mass = MassSilence::restored(mass, members);
        engine.expect_services();
        for id in engine.roster.service_ids() {
            engine.pool_loss(id);
        }
        for id in engine.roster.instance_ids() {
            engine.schedule(id);
        }
        engine.announcements = Announcements::restored(saved.announced);
        engine.restore_jobs(saved.jobs, saved.now);
        engine.forget_reserved();
        engine.report(Event::new(now, Change::Restored(to_confirm), false));
        engine
    }

    /// Judges as this policy says from now on. Everybody who is known stays, with what is known of them.
    pub fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
        for id in self.roster.service_ids() {
            let rules = self.policy.rules_of(self.roster.service(id).name());
            let shows_only = !rules.health_alerts;
            self.roster.service_mut(id).set_rules(rules);
            if shows_only {
                self.roster.service(id).instances().to_vec().into_iter().for_each(|id| self.end_health_alert(id));
            }
            self.mark_dirty(id);
        }
        self.reconcile_expectations();
        self.expect_services();
        for id in self.roster.service_ids() {
            self.pool_loss(id);
        }
        for id in self.roster.instance_ids() {
            self.schedule(id);
        }
        let known: Vec<Job> = self.jobs.in_order().into_iter().cloned().collect();
        self.jobs = Jobs::new(&self.policy.jobs);
        self.restore_jobs(known, self.now);
        self.awaits_first_runs = true;
    }

    /// Services whose name is taken now leave: no heartbeat of them is taken any more.
    fn forget_reserved(&mut self) {
        for name in TAKEN {
            self.forget_jobs(name, None, self.now);
            let Some(id) = self.roster.find_service(name) else { continue };
            for id in self.roster.service(id).instances().to_vec() {
                self.remove_instance(id, Reason::Reserved);
            }
            self.forget_empty(id);
        }
    }

    /// Services that the configuration no longer expects are ordinary ones, and are forgotten if they have no instances.
    fn reconcile_expectations(&mut self) {
        for id in self.roster.service_ids() {
            let service = self.roster.service(id);
            if !service.is_expected() || self.policy.expects(service.name()) {
                continue;
            }
            let is_empty = service.instances().is_empty();
            self.roster.service_mut(id).cancel_expectation();
            if is_empty {
                self.remove_service(id);
            }
        }
    }

    /// What services that are restored from an older state lack: how often and since when they were heard.
    fn complete_services(&mut self) {
        for id in self.roster.service_ids() {
            let instances = self.roster.instances_of(self.roster.service(id));
            let received = instances.clone().map(Instance::received).sum();
            let born = instances.map(Instance::first).fold(self.now, EngineTime::min);
            self.roster.service_mut(id).complete(received, born);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::event::{EventKind, Health};
    use crate::presence::policy::Rules;
    use crate::protocol::Heartbeat;

    #[test]
    fn who_was_heard_in_the_future_by_a_state_is_told_all_the_same() {
        let at = EngineTime::from_secs;
        let mut engine = Engine::new(Policy::default(), at(0.0), 1);
        for second in 0..100 {
            engine.at(at(f64::from(second)));
            for instance in ["a", "b"] {
                let (service, instance) = ("s".into(), instance.into());
                engine.beat(&Heartbeat { service, instance, interval: Some(1.0), ..Heartbeat::default() });
            }
            engine.tick(at(f64::from(second)));
        }
        let saved = serde_json::to_value(engine.save()).expect("JSON");
        let mut far = saved["services"][0][1][0]["history"].clone();
        (far["cell"], far["bucket"]) = (u32::MAX.into(), u32::MAX.into());
        for (key, value) in [
            ("since", 1e9.into()),
            ("seen", 1e9.into()),
            ("heard", 1e9.into()),
            ("floor", 1e9.into()),
            ("blind", 1e9.into()),
            ("stable", 1e9.into()),
            ("history", far),
        ] {
            let mut saved = saved.clone();
            let instance = &mut saved["services"][0][1][0];
            assert_eq!(instance["name"], "a");
            instance[key] = value;
            let saved: Saved = serde_json::from_value(saved).expect("a state");
            let mut engine = Engine::restored(Policy::default(), saved, at(101.0), 1);
            let mut told = Vec::new();
            for second in 101..130 {
                let now = at(f64::from(second));
                engine.at(now);
                let (service, instance) = ("s".into(), "b".into());
                engine.beat(&Heartbeat { service, instance, interval: Some(1.0), ..Heartbeat::default() });
                engine.tick(now);
                told.extend(engine.take_events().into_iter().filter(|event| event.notify));
            }
            let told: Vec<_> = told.into_iter().filter_map(|event| event.instance).collect();
            assert_eq!(told, ["a"], "{key}");
            let seen = engine.view_of_instance("s", "a", crate::presence::Epoch::UNIX).expect("it is known");
            assert!(seen.day.ends_with('D'), "{key}: {}", seen.day);
        }
    }

    #[test]
    fn an_alarm_of_a_service_check_that_is_only_shown_now_ends_at_the_start() {
        let at = EngineTime::from_secs;
        let rules = Rules { health_alerts: true, ..Rules::default() };
        let mut engine = Engine::new(Policy { rules, ..Policy::default() }, at(0.0), 1);
        for instance in ["bad", "good"] {
            let health = Some(if instance == "bad" { 2 } else { 0 });
            let (service, instance) = ("s".into(), instance.into());
            engine.beat(&Heartbeat { service, instance, interval: Some(10.0), health, ..Heartbeat::default() });
        }
        let health = |engine: &mut Engine| {
            let events = engine.take_events().into_iter();
            let events = events.filter(|event| event.notify && event.change.kind() == EventKind::Health);
            events.map(|event| (event.instance.unwrap_or_default().to_string(), event.change)).collect::<Vec<_>>()
        };
        let begun = Change::Health { from: None, to: Some(Health::Critical) };
        assert_eq!(health(&mut engine), [("bad".to_string(), begun)]);
        let mut engine = Engine::restored(Policy::default(), engine.save(), at(1.0), 1);
        let ended = Change::Health { from: Some(Health::Critical), to: None };
        assert_eq!(health(&mut engine), [("bad".to_string(), ended)]);
        let mut engine = Engine::restored(Policy::default(), engine.save(), at(2.0), 1);
        assert_eq!(health(&mut engine), []);
    }

    #[test]
    fn a_service_whose_name_is_taken_now_leaves_without_a_page() {
        let at = EngineTime::from_secs;
        let mut engine = Engine::new(Policy::default(), at(0.0), 1);
        for n in 0..800 {
            let now = at(f64::from(n) * 10.0);
            engine.at(now);
            for service in ["peer", "kept"] {
                let (service, instance) = (service.into(), "i".into());
                engine.beat(&Heartbeat { service, instance, interval: Some(10.0), ..Heartbeat::default() });
            }
            engine.tick(now);
        }
        engine.take_events();
        let mut engine = Engine::restored(Policy::default(), engine.save(), at(8000.0), 1);
        for n in 800..2000 {
            engine.tick(at(f64::from(n) * 10.0));
        }
        let told = engine.take_events().into_iter().filter(|event| event.notify);
        let told: Vec<_> = told.filter_map(|event| event.service).collect();
        assert!(!told.is_empty() && told.iter().all(|service| service == "kept"), "{told:?}");
        assert!(!engine.knows("peer"));
    }
}
