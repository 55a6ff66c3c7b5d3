//! What others observe: the view that several nodes share. A peer tells for how long it has not heard whom, never when, so
//! that no two clocks have to agree; the later evidence counts, whoever has it. Whom a lost peer alone had heard is
//! unwatched: that it is silent here says nothing.

use std::collections::{BTreeSet, HashMap};

use compact_str::CompactString;

use crate::protocol::Heartbeat;

use super::Engine;
use super::jobs_elsewhere::JobSighting;
use crate::presence::admission::Refusal;
use crate::presence::announced::Announced;
use crate::presence::event::{Change, Event, Health, PeerContext, Phase, Reason, WarningCode};
use crate::presence::evidence::{Act, Entry, Evidence, HeardElsewhere, Lost, MOST_ACTS, MOST_DROPPED};
use crate::presence::instance::{Instance, Recheck, State, Suppression};
use crate::presence::policy::{grace_for, misses_for};
use crate::presence::roster::InstanceId;
use crate::presence::service::ServiceState;
use crate::presence::time::EngineTime;
use crate::presence::watching::Watching;

/// Beats that two nodes have heard so close, in seconds, are one.
const COPY_SECS: f64 = 0.5;

/// A peer's time of a beat is as inexact as its answer was slow; by so many seconds it is later than ours for certain.
const LATER_SECS: f64 = 0.05;

/// Whoever has no interval yet counts as heard by somebody for so many seconds.
const UNKNOWN_INTERVAL: f64 = 30.0;

/// Before its first start a node could not hear; so far back, in seconds, that is said.
const DAY: f64 = 86_400.0;

/// A peer is known to be lost after so many seconds without an answer.
const LOST_FOR: f64 = 1.5;

/// Seconds between two warnings that nothing is heard here.
const WARN_EVERY: f64 = 300.0;

/// What a node itself has heard of an instance.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sighting {
    /// Its service.
    pub service: CompactString,
    /// Its name.
    pub instance: CompactString,
    /// Seconds since its last beat.
    pub age: f64,
    /// Seconds since its last goodbye.
    pub left_age: Option<f64>,
    /// The interval that it declared.
    pub interval: Option<f64>,
    /// As it said.
    pub start: Option<CompactString>,
    /// As it said.
    pub version: Option<CompactString>,
    /// Seconds since it was registered.
    pub known: f64,
    /// Its beats until now.
    pub beats: u64,
    /// Others have heard it, and this node has not.
    pub relayed: bool,
    /// What its last service check said, and seconds since then.
    pub health: Option<(u8, f64)>,
    /// That in words, empty if there were none; `None` if that is not told.
    pub message: Option<CompactString>,
    /// Lines of its metric here, since this node began to count them.
    pub lines: Option<u64>,
}

/// Something that a node has heard.
#[derive(Clone, Debug, PartialEq)]
pub enum Observation {
    /// Of an instance.
    Instance(Sighting),
    /// Of a job.
    Job(JobSighting),
}

/// What this node tells.
impl Engine {
    /// The same, with an account of who heard what: for several observers.
    #[must_use]
    pub fn shared(self) -> Engine {
        let mut engine = self;
        let evidence = Evidence::new(std::mem::take(&mut engine.before), engine.now);
        if engine.blind_times.is_empty() {
            // Peers may tell of runs whose end was said when nothing was heard here.
            engine.note_blind(engine.now - DAY, engine.now);
        }
        Engine { evidence: Some(Box::new(evidence)), ..engine }
    }

    /// The same, at a node that judges nobody: others ask it what it has heard, and nobody asks it who is there.
    #[must_use]
    pub fn listening_only(mut self) -> Engine {
        if let Some(evidence) = &mut self.evidence {
            evidence.listens_only = true;
        }
        self
    }

    pub(super) fn listens_only(&self) -> bool {
        self.evidence.as_ref().is_some_and(|evidence| evidence.listens_only)
    }

    /// Whom a peer alone had heard, to be saved.
    pub(super) fn saved_evidence(&self) -> Vec<HeardElsewhere> {
        let Some(evidence) = &self.evidence else { return Vec::new() };
        let unwatched: HashMap<InstanceId, f64> =
            evidence.lost.iter().flat_map(|lost| lost.unwatched.iter().map(|(id, secs)| (*id, *secs))).collect();
        let services = self.in_order();
        let ids = services.iter().flat_map(|service| service.instances().iter().copied()).zip(0_u32..);
        let heard = ids.filter_map(|(id, place)| {
            let (entry, instance) = (evidence.of(id), self.roster.instance(id));
            let is_its = self.is_heard_by(entry, entry.peer, instance)
                || unwatched.contains_key(&id)
                || is_down_by_peer(instance) && entry.elsewhere > EngineTime::LONG_AGO;
            let before = || evidence.restored.get(&id).copied().unwrap_or(0.0);
            is_its.then(|| HeardElsewhere {
                place,
                peer: entry.peer,
                at: entry.elsewhere,
                unwatched_s: unwatched.get(&id).copied().unwrap_or_else(before),
            })
        });
        heard.collect()
    }

    /// The places of peers are others than when the state was saved.
    pub fn renumber_peers(&mut self, place_of: impl Fn(u16) -> Option<u16>) {
        let Some(evidence) = &mut self.evidence else { return };
        let moved = evidence.renumber(&place_of);
        self.jobs.renumber_sources(&place_of);
        for id in self.roster.instance_ids() {
            let one = self.roster.instance_mut(id);
            if one.watching().is_some() {
                one.watching_mut().renumber_peers(&place_of);
            }
        }
        for id in moved {
            self.recover_from_lost_peer(id, true);
        }
    }

    /// Shows what was heard here after a number, instances and jobs, and, if a place is given, from there on those whom others have heard, as
    /// long as `take` takes it; where to go on, and whether it took everything. Who asks for the first time is told of what
    /// others have heard, too: it may have lost what it knew.
    pub fn sightings(
        &self,
        (heard, relayed): (u64, Option<u32>),
        mut take: impl FnMut(Observation) -> bool,
    ) -> ((u64, Option<u32>), bool) {
        let Some(evidence) = &self.evidence else { return ((heard, relayed), true) };
        let mut last = heard;
        let mut lines = evidence.jobs.since(heard, relayed.is_some_and(|place| place < u32::MAX)).peekable();
        for (number, id) in evidence.since(heard) {
            while let Some((number, heard, beat)) = lines.next_if(|(line, ..)| *line < number) {
                if !take(self.tell_job(heard, beat)) {
                    return ((last, relayed), false);
                }
                last = number;
            }
            let Some(instance) = self.roster.get_instance(id) else { continue };
            let entry = evidence.of(id);
            let has_left = entry.left_here > EngineTime::LONG_AGO;
            let left_age = has_left.then_some(self.now - entry.left_here);
            if !take(Observation::Instance(Sighting { left_age, ..self.sighting(instance, entry.here) })) {
                return ((last, relayed), false);
            }
            last = number;
        }
        for (number, heard, beat) in lines {
            if !take(self.tell_job(heard, beat)) {
                return ((last, relayed), false);
            }
            last = number;
        }
        let last = evidence.last_number();
        let is_relayed = |(id, instance): &(InstanceId, &Instance)| {
            // Of one that nobody watches this node knows no more than who asks.
            let is_confirmed = instance.is_present() && instance.state() != State::Unknown && !instance.is_unwatched();
            is_confirmed && evidence.of(*id).is_not_from_here()
        };
        let from = relayed.into_iter().flat_map(|place| self.roster.instances_from(place));
        for (id, instance) in from.filter(is_relayed) {
            // Without the time in which nobody watched it.
            let since = instance.detector().silent_since();
            if !take(Observation::Instance(Sighting { relayed: true, ..self.sighting(instance, since) })) {
                return ((last, Some(id.place())), false);
            }
        }
        ((last, relayed), true)
    }

    /// An instance that was heard last at a time.
    fn sighting(&self, instance: &Instance, last: EngineTime) -> Sighting {
        Sighting {
            service: self.roster.service_of(instance).name().clone(),
            instance: instance.name().clone(),
            age: (self.now - last).max(0.0),
            left_age: None,
            interval: instance.detector().declared_interval(),
            start: instance.start().cloned(),
            version: instance.version().cloned(),
            known: (self.now - instance.first()).max(0.0),
            beats: instance.received(),
            relayed: false,
            health: instance.checked().map(|(status, at)| (status, (self.now - at).max(0.0))),
            message: instance.checked().map(|_| instance.message().cloned().unwrap_or_default()),
            lines: instance.watching().and_then(|watching| watching.lines()),
        }
    }

    /// A beat was heard here, not by a peer.
    pub(super) fn note_here(&mut self, id: InstanceId) {
        let now = self.now;
        if let Some(evidence) = &mut self.evidence {
            evidence.note_here(id, now);
        }
    }

    /// A goodbye was.
    pub(super) fn note_left_here(&mut self, id: InstanceId) {
        let now = self.now;
        if let Some(evidence) = &mut self.evidence {
            evidence.note_left_here(id, now);
        }
    }

    /// Whether a beat at `at` is one that another node has heard, too.
    pub(super) fn is_copy(&self, id: InstanceId, was: Option<State>, at: EngineTime) -> bool {
        let Some(evidence) = &self.evidence else { return false };
        let elsewhere = evidence.of(id).elsewhere;
        matches!(was, Some(State::Up | State::Late)) && (at - elsewhere).abs() <= COPY_SECS
    }
}

/// What peers tell.
impl Engine {
    /// Takes what a peer has heard, which was asked for at `asked`.
    pub fn observe_elsewhere(&mut self, peer: u16, sighting: &Sighting, asked: EngineTime) {
        let at = asked - sighting.age;
        let left = sighting.left_age.map(|age| asked - age).filter(|&left| left >= at);
        let found = self.roster.find(&sighting.service, &sighting.instance);
        let beat = Heartbeat {
            service: sighting.service.clone(),
            instance: sighting.instance.clone(),
            interval: sighting.interval,
            start: sighting.start.clone(),
            version: sighting.version.clone(),
            ..Heartbeat::default()
        };
        let id = match found {
            Some(id) => id,
            // Who has left, or is silent for too long, is not registered for that.
            None if left.is_some() || sighting.age >= self.timeout_elsewhere(sighting) => return,
            None => match self.admit_elsewhere(&beat) {
                Some(id) => id,
                None => return,
            },
        };
        let is_new = found.is_none();
        if is_new {
            let (instance, born) = (self.roster.instance_mut(id), asked - sighting.known.max(sighting.age));
            instance.adopt(born, sighting.beats.saturating_sub(1));
            let service = instance.service();
            self.roster.service_mut(service).adopt(born, sighting.beats);
        }
        let instance = self.roster.instance(id);
        let (was, last) = (instance.state(), instance.detector().last_life());
        let is_later = at > last + LATER_SECS && !instance.is_straggler(&beat, at, &self.policy);
        let is_watched = at >= last - COPY_SECS && !sighting.relayed;
        if was == State::Unknown && !is_new && !is_later && is_watched {
            // It was watched all the while that this node was away.
            self.take_copy(id, &beat, last.max(at));
        } else if is_new || is_later {
            let was = (!is_new).then_some(was);
            let here = self.evidence.as_ref().map_or(EngineTime::LONG_AGO, |evidence| evidence.of(id).here);
            if matches!(was, Some(State::Up | State::Late)) && at - here <= COPY_SECS {
                self.take_copy(id, &beat, at);
            } else {
                self.take_beat(id, was, &beat, at);
            }
        }
        if let Some(evidence) = self.evidence.as_mut().filter(|_| !sighting.relayed) {
            evidence.note_elsewhere(id, peer, at);
            if is_later {
                self.leave_out_loss_since(id, peer, at);
            }
        }
        self.take_check(id, sighting, asked);
        self.count_elsewhere(id, peer, sighting.lines);
        let instance = self.roster.instance(id);
        let is_over = left.is_some_and(|left| left > instance.detector().last_life());
        if is_over && instance.state() != State::Left && !instance.is_of_another_process(&beat) {
            self.leave(id, Reason::Goodbye);
        }
    }

    /// A beat that a peer alone has heard is known only now: while the peer did not answer, nobody watched.
    fn leave_out_loss_since(&mut self, id: InstanceId, peer: u16, at: EngineTime) {
        let Some(evidence) = &self.evidence else { return };
        let blind = evidence.peer_blind.get(usize::from(peer));
        let unwatched = blind.map_or(0.0, |blind| blind.secs_lost(at, self.now));
        if unwatched > 0.0 && self.is_heard_by(evidence.of(id), peer, self.roster.instance(id)) {
            self.roster.instance_mut(id).detector_mut().leave_out_lost_peer(unwatched);
            self.schedule(id);
        }
    }

    /// Takes what a service check said to a peer, if that is later than what is known.
    fn take_check(&mut self, id: InstanceId, sighting: &Sighting, asked: EngineTime) {
        let Some((status, age)) = sighting.health else { return };
        let at = asked - age;
        let instance = self.roster.instance(id);
        if instance.checked().is_some_and(|(_, known)| at <= known + LATER_SECS) {
            return;
        }
        // A node of an earlier version tells no words: those that are known stay.
        let said = sighting.message.as_ref().or(instance.message()).filter(|text| !text.is_empty());
        let beat = Heartbeat {
            service: sighting.service.clone(),
            instance: sighting.instance.clone(),
            health: Some(status),
            message: said.cloned(),
            ..Heartbeat::default()
        };
        self.roster.change_texts(id, |instance| instance.note_health(&beat, at));
        self.evaluate_health(&beat);
    }

    /// Silence after which one that is not known here is not worth registering.
    fn timeout_elsewhere(&self, sighting: &Sighting) -> f64 {
        let Some(interval) = sighting.interval else { return self.policy.learn_timeout };
        f64::from(misses_for(interval)) * interval + grace_for(interval)
    }

    /// A new instance that a peer has admitted, unless the table is full here.
    fn admit_elsewhere(&mut self, beat: &Heartbeat) -> Option<InstanceId> {
        let service = self.roster.find_service(&beat.service);
        if let Err(why) = self.make_room(service) {
            if why == Refusal::Limit {
                self.warn_of_limit(service);
            }
            self.admission.refuse(why, None, self.now);
            return None;
        }
        let service = self.register_service(&beat.service);
        self.roster.service_mut(service).note_heard();
        Some(self.register_instance(service, &beat.instance))
    }

    /// Takes a beat that another node has heard, too: a sign of life, and no gap to learn from.
    pub(super) fn take_copy(&mut self, id: InstanceId, beat: &Heartbeat, at: EngineTime) {
        self.roster.change_texts(id, |instance| instance.observe_copy(at, beat));
        self.watch_again(id);
        let from = self.roster.instance(id).state();
        self.become_up(id, Some(from));
        self.schedule(id);
    }

    /// A peer has dropped too much in the seconds up to these times: that does not count against those whom it alone hears,
    /// as far as it was since their last beat.
    pub fn leave_out_elsewhere(&mut self, peer: u16, seconds: &[EngineTime]) {
        let Some(evidence) = self.evidence.as_mut().filter(|_| !seconds.is_empty()) else { return };
        let blind = evidence.peer_blind_mut(peer);
        seconds.iter().for_each(|&second| blind.note_dropped(second - 1.0, second));
        let Some(evidence) = &self.evidence else { return };
        let is_heard_there =
            |(id, instance): &(InstanceId, &Instance)| self.is_heard_by(evidence.of(*id), peer, instance);
        let all: Vec<InstanceId> = self.roster.instances().filter(is_heard_there).map(|(id, _)| id).collect();
        for id in all {
            let (now, rules) = (self.now, *self.rules(id));
            let detector = self.roster.instance_mut(id).detector_mut();
            let last = detector.last_life();
            for _ in seconds.iter().filter(|&&second| second >= last) {
                detector.leave_out_dropped_second(now, &self.policy, &rules);
            }
        }
    }

    /// Whether an instance that is present was heard of late by a peer alone.
    fn is_heard_by(&self, entry: Entry, peer: u16, instance: &Instance) -> bool {
        let recent = instance.detector().last_life() - 2.0 * self.interval_or_guess(instance);
        let is_heard = entry.elsewhere > EngineTime::LONG_AGO && entry.peer == peer;
        instance.is_present() && is_heard && entry.here < recent
    }

    /// The seconds in which too much was dropped here, since this was last asked.
    pub fn take_dropped(&mut self) -> Vec<EngineTime> {
        self.evidence.as_mut().map_or_else(Vec::new, |evidence| std::mem::take(&mut evidence.dropped))
    }

    /// Too much was dropped here in this second.
    pub(super) fn note_dropped_here(&mut self) {
        let now = self.now;
        if let Some(evidence) = self.evidence.as_mut().filter(|evidence| evidence.dropped.len() < MOST_DROPPED) {
            evidence.dropped.push(now);
        }
    }

    /// An answer of a peer was broken, or so many rows of it.
    pub fn refuse_digest(&mut self, count: u64) {
        self.admission.refuse_many(Refusal::Digest, count);
    }
}

fn is_down_by_peer(instance: &Instance) -> bool {
    instance.is_down() && instance.suppression() == Some(Suppression::Peer)
}

/// Lost peers.
impl Engine {
    /// A peer does not answer: whom it alone has heard is unwatched.
    pub fn lose_peer(&mut self, peer: u16) {
        let Some(evidence) = &self.evidence else { return };
        if evidence.is_lost(peer) {
            return;
        }
        let is_its_own = |(id, instance): &(InstanceId, &Instance)| {
            let entry = evidence.of(*id);
            let is_down_by_it = is_down_by_peer(instance) && entry.peer == peer;
            !instance.is_member() && (is_down_by_it || self.is_heard_by(entry, peer, instance))
        };
        let unwatched: Vec<InstanceId> = self.roster.instances().filter(is_its_own).map(|(id, _)| id).collect();
        for &id in &unwatched {
            self.roster.instance_mut(id).set_unwatched(true);
        }
        let (size, now) = (unwatched.len(), self.now);
        if let Some(evidence) = &mut self.evidence {
            let before: HashMap<InstanceId, f64> = evidence.take_restored(peer).into_iter().collect();
            let unwatched = unwatched.into_iter().map(|id| (id, before.get(&id).copied().unwrap_or(0.0))).collect();
            evidence.followed = evidence.followed.max(now);
            let since = evidence.known_until(peer, now) - LOST_FOR;
            evidence.lost.push(Lost { peer, since, is_told: false, unwatched, size });
            evidence.peer_blind_mut(peer).note_lost(since, now, false);
        }
    }

    /// A peer that answers has started again, too, since an earlier start of this node: it could not hear all of that time.
    pub fn note_peer_restart(&mut self, peer: u16) {
        let now = self.now;
        if let Some(evidence) = &mut self.evidence {
            let since = evidence.known_until(peer, now) - LOST_FOR;
            evidence.peer_blind_mut(peer).note_lost(since, now, false);
        }
    }

    /// An alarm says that a peer does not answer.
    pub fn tell_lost_peer(&mut self, peer: u16) {
        let lost = self.evidence.iter_mut().flat_map(|evidence| &mut evidence.lost);
        lost.filter(|lost| lost.peer == peer).for_each(|lost| lost.is_told = true);
    }

    /// A peer answers again, or for the first time since our start. Whoever it had heard alone, and is down for that, or was
    /// unwatched for too long, gets a fresh timeout.
    pub fn regain_peer(&mut self, peer: u16) {
        let Some(evidence) = &mut self.evidence else { return };
        evidence.note_answer(peer);
        let place = evidence.lost.iter().position(|lost| lost.peer == peer);
        let lost = place.map(|place| evidence.lost.swap_remove(place).unwatched);
        for (id, blind) in evidence.take_restored(peer).into_iter().chain(lost.into_iter().flatten()) {
            let is_spent = blind >= self.policy.mass_hold;
            self.recover_from_lost_peer(id, is_spent);
        }
    }

    /// Nobody could be asked, which is over: time in which nobody was judged counts against no peer.
    pub fn see_again(&mut self) {
        let now = self.now;
        if let Some(evidence) = &mut self.evidence {
            evidence.followed = now;
        }
    }

    /// How many instances are unwatched.
    pub fn unwatched(&self) -> usize {
        let is_any_lost = self.evidence.as_ref().is_some_and(|evidence| !evidence.lost.is_empty());
        if is_any_lost { self.roster.instances().filter(|(_, one)| one.is_unwatched()).count() } else { 0 }
    }

    /// The names of the first so many of them, in order.
    pub fn unwatched_names(&self, most: usize) -> Vec<String> {
        let mut first = BTreeSet::new();
        if self.unwatched() == 0 {
            return Vec::new();
        }
        for (_, one) in self.roster.instances().filter(|(_, one)| one.is_unwatched()) {
            let service = self.roster.service_of(one).name();
            if first.len() == most && first.last().is_some_and(|last| (service, one.name()) >= *last) {
                continue;
            }
            first.insert((service, one.name()));
            if first.len() > most {
                first.pop_last();
            }
        }
        let name = |(service, instance): (&CompactString, &CompactString)| match &**instance {
            "-" => service.to_string(),
            instance => format!("{service}/{instance}"),
        };
        first.into_iter().map(name).collect()
    }

    /// Somebody was heard who may have been unwatched.
    pub(super) fn watch_again(&mut self, id: InstanceId) {
        let instance = self.roster.instance_mut(id);
        if !instance.is_unwatched() {
            return;
        }
        instance.set_unwatched(false);
        if let Some(evidence) = &mut self.evidence {
            evidence.watch_again(id);
        }
    }

    /// As long as a peer is lost, it is not known what it hears of jobs and of lines that are counted. Who is unwatched is
    /// blind time, for `mass_hold` at most; when more than half of a lost peer's instances have found
    /// another node, the others have had the time for it.
    pub(super) fn follow_lost_peers(&mut self) {
        let now = self.now;
        let Some(evidence) = &mut self.evidence else { return };
        let secs = (now - std::mem::replace(&mut evidence.followed, now)).max(0.0);
        let (mut lost, mut is_blind) = (std::mem::take(&mut evidence.lost), false);
        for one in &mut lost {
            if let Some(evidence) = &mut self.evidence {
                evidence.peer_blind_mut(one.peer).note_lost(one.since, now, one.is_told);
            }
            self.note_blind_minutes_of(one.peer);
            one.unwatched.retain(|&id, _| self.roster.get_instance(id).is_some_and(Instance::is_unwatched));
            if one.is_dispersed() {
                one.size = 0;
                for (id, _) in std::mem::take(&mut one.unwatched) {
                    self.recover_from_lost_peer(id, true);
                }
                continue;
            }
            for (&id, blind) in &mut one.unwatched {
                let instance = self.roster.instance_mut(id);
                let added = secs.min(self.policy.mass_hold - *blind);
                if instance.is_present() && added > 0.0 {
                    *blind += added;
                    is_blind = true;
                    instance.detector_mut().leave_out_lost_peer(added);
                }
            }
        }
        if is_blind {
            self.blindness.note_lost_peer(secs);
        }
        if let Some(evidence) = &mut self.evidence {
            evidence.lost = lost;
        }
        self.find_deafness();
    }

    /// One that was unwatched is judged by itself again.
    fn recover_from_lost_peer(&mut self, id: InstanceId, gets_time: bool) {
        let Some(instance) = self.roster.get_instance(id) else { return };
        let fresh = self.now + instance.detector().timing(&self.policy, self.rules(id)).down;
        let instance = self.roster.instance_mut(id);
        instance.set_unwatched(false);
        if instance.is_present() && gets_time {
            instance.detector_mut().hold_until(fresh);
        } else if is_down_by_peer(instance) {
            instance.recheck_at(fresh, Recheck::Astray);
        }
        self.schedule(id);
    }

    /// The interval of an instance, or a guess.
    fn interval_or_guess(&self, instance: &Instance) -> f64 {
        instance.detector().interval(&self.policy).unwrap_or(UNKNOWN_INTERVAL)
    }

    /// Whether our own blindness says nothing of an instance: a peer that answers has heard it of late, or nobody watches
    /// it.
    fn is_seen_elsewhere(&self, id: InstanceId, instance: &Instance) -> bool {
        let Some(evidence) = &self.evidence else { return false };
        let entry = evidence.of(id);
        let recent = instance.detector().last_life() - 2.0 * self.interval_or_guess(instance);
        instance.is_unwatched() || entry.elsewhere >= recent && !evidence.is_lost(entry.peer)
    }

    /// For whom our own blindness says nothing, by place; nobody, if that is shorter.
    pub(super) fn seen_elsewhere(&self) -> Vec<bool> {
        let mut seen = Vec::new();
        if self.evidence.is_none() {
            return seen;
        }
        for (id, _) in self.roster.instances().filter(|(id, one)| self.is_seen_elsewhere(*id, one)) {
            let place = id.place() as usize;
            seen.resize(seen.len().max(place + 1), false);
            seen[place] = true;
        }
        seen
    }

    /// Warns that nothing is heard here while a peer hears those that were: the ear is broken, and nobody is silent.
    fn find_deafness(&mut self) {
        let now = self.now;
        let Some(evidence) = &mut self.evidence else { return };
        let silence = now - evidence.last_here;
        let may_be = evidence.last_here > EngineTime::LONG_AGO && silence >= 1.0 && now - evidence.listened_at >= 1.0;
        if !may_be || now - evidence.deaf_at < WARN_EVERY {
            return;
        }
        evidence.listened_at = now;
        let Some(evidence) = &self.evidence else { return };
        let (mut count, mut shortest) = (0, f64::INFINITY);
        for (id, instance) in self.roster.instances().filter(|(_, instance)| instance.is_present()) {
            let entry = evidence.of(id);
            if entry.here > EngineTime::LONG_AGO && entry.elsewhere > entry.here + COPY_SECS {
                count += 1;
                shortest = shortest.min(instance.detector().timing(&self.policy, self.roster.rules_of(instance)).down);
            }
        }
        if count >= self.policy.mass_instances && silence >= shortest {
            if let Some(evidence) = &mut self.evidence {
                evidence.deaf_at = now;
            }
            self.warn(None, WarningCode::Deaf, true);
        }
    }
}

/// For whoever decides what is notified.
impl Engine {
    /// A peer is gone, or is back: the two nodes in the order of their names, and what is known of it.
    pub fn report_peer(&mut self, phase: Phase, nodes: [CompactString; 2], peer: Option<PeerContext>) {
        let event = Event::new(self.now, Change::Peer(phase), true);
        self.report(Event { nodes: Some(nodes), peer, ..event });
    }

    /// What operators have done here since this was last asked.
    pub fn take_acts(&mut self) -> Vec<Act> {
        self.evidence.as_mut().map_or_else(Vec::new, |evidence| std::mem::take(&mut evidence.acts))
    }

    /// An operator has announced maintenance of so many seconds, or, without it, had somebody forgotten.
    pub(super) fn note_act(
        &mut self,
        service: &str,
        instance: Option<&str>,
        maintenance: Option<f64>,
        announced: Announced,
    ) {
        let at = self.now;
        if let Some(evidence) = self.evidence.as_mut().filter(|evidence| evidence.acts.len() < MOST_ACTS) {
            let (service, instance) = (service.into(), instance.map(CompactString::from));
            evidence.acts.push(Act { at, service, instance, maintenance, announced });
        }
    }

    /// Forgets what was not heard since an operator had it forgotten at a peer: an instance or a job, or all of a service.
    pub fn forget_elsewhere(&mut self, service: &str, instance: Option<&str>, at: EngineTime) {
        self.forget_silent(service, instance, at);
    }

    /// Whether a service, or one of its instances or jobs, is in maintenance.
    pub fn is_maintained(&self, service: &str, instance: Option<&str>) -> bool {
        let is_maintained = |id| self.roster.is_maintained(self.roster.instance(id), self.now);
        let of_instance = instance.and_then(|name| self.roster.find(service, name)).is_some_and(is_maintained);
        let of_service = self.roster.find_service(service);
        let of_service = of_service.is_some_and(|id| self.roster.service(id).maintenance_until() > self.now);
        of_instance || of_service || instance.is_some_and(|name| self.is_maintained_job(service, name))
    }

    /// Whether the last service check of an instance found nothing, whoever has heard it.
    pub fn is_well_by_check(&self, service: &str, instance: &str) -> bool {
        let found = self.roster.find(service, instance).map(|id| self.roster.instance(id));
        found.and_then(Instance::checked).is_some_and(|(status, _)| !Health::of_status(status).is_bad())
    }

    /// Whether an instance has as many lines as it should, by what all nodes have counted.
    pub fn is_well_by_floor(&self, service: &str, instance: &str) -> bool {
        let found = self.roster.find(service, instance).map(|id| self.roster.instance(id));
        found.and_then(Instance::watching).is_some_and(Watching::has_enough)
    }

    /// Whether there is evidence that a service, or one of its instances, is well.
    pub fn is_well(&self, service: &str, instance: Option<&str>) -> bool {
        let is_well = |instance: &Instance| matches!(instance.state(), State::Up | State::Left);
        if let Some(name) = instance {
            return self.roster.find(service, name).is_some_and(|id| is_well(self.roster.instance(id)));
        }
        self.roster.find_service(service).is_some_and(|id| {
            let service = self.roster.service(id);
            let is_up = matches!(service.state(), Some(ServiceState::Up | ServiceState::Left));
            is_up && self.roster.instances_of(service).all(is_well)
        })
    }
}
