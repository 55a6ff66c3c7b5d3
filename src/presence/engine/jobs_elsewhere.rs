//! Jobs among several observers. Lines are taken in the order of their times, whoever has heard them, as soon as every peer
//! that answers has told what it heard until then; so every node knows the same runs, and judges them by all that anybody
//! has heard.

use crate::memory::Holder;
use crate::protocol::{Heartbeat, JobStatus};

use super::Engine;
use super::elsewhere::Observation;
use crate::presence::event::Event;
use crate::presence::job_lines::{HeardBy, JobLines, WaitingLine};
use crate::presence::jobs::{Ear, Job, JobId, JobState, PeerBlindTimes, Surroundings, WhenBlind};
use crate::presence::time::EngineTime;

/// Bytes of lines that are given up beyond what is too much: room for those who come until that is looked at again.
const GIVEN_UP: usize = 64 << 10;

/// Lines are taken, and runs are judged, so many seconds late: what a peer that answers heard until then is known.
pub(super) const MERGE_SECS: f64 = 0.75;

/// A line of a job that a node itself has heard: a start or an end of a run, or a goodbye.
#[derive(Clone, Debug, PartialEq)]
pub struct JobSighting {
    /// What it said.
    pub beat: Heartbeat,
    /// Seconds since then.
    pub age: f64,
    /// Others have heard it, and this node has not.
    pub relayed: bool,
}

/// What this node tells.
impl Engine {
    /// A line of a job that was heard at a time, here or by others.
    pub(super) fn tell_job(&self, (at, by): (EngineTime, HeardBy), beat: &Heartbeat) -> Observation {
        Observation::Job(JobSighting {
            beat: beat.clone(),
            age: (self.now - at).max(0.0),
            relayed: by != HeardBy::Here,
        })
    }

    /// A line of a job was heard here: peers are told of it, and it waits for what they tell.
    pub(super) fn share_job_line(&mut self, id: JobId, beat: &Heartbeat) {
        let now = self.now;
        let name = self.jobs.job(id).name();
        if let Some(evidence) = &mut self.evidence {
            evidence.note_job_line(name, now, beat);
        }
        self.await_turn(WaitingLine { at: now, by: HeardBy::Here, beat: beat.clone() });
    }

    fn await_turn(&mut self, line: WaitingLine) {
        let Some(evidence) = &mut self.evidence else { return };
        if let Some(line) = evidence.jobs.put(line) {
            self.take_waited(&line);
        }
    }
}

/// What peers tell.
impl Engine {
    /// Takes a line of a job that a peer has heard, which was asked for at `asked`.
    pub fn observe_job_elsewhere(&mut self, peer: u16, sighting: JobSighting, asked: EngineTime) {
        let JobSighting { beat, age, relayed } = sighting;
        // The answer was written at some time while it was waited for.
        let at = asked + (self.now - asked).max(0.0) / 2.0 - age;
        let by = if relayed { HeardBy::Another } else { HeardBy::Peer(peer) };
        let known = self.jobs.find_for(&beat.service, &beat.instance);
        let job = known.map(|id| self.jobs.job(id));
        let its = job.map_or_else(|| (beat.service.clone(), beat.instance.clone()), Job::name);
        // A job that has said goodbye since stays so.
        let is_gone = job.is_none_or(Job::is_retired);
        let is_known = |lines: &JobLines| lines.knows(&its, at, &beat) || is_gone && lines.has_ended(&its, at);
        if self.evidence.as_ref().is_none_or(|evidence| is_known(&evidence.jobs)) {
            // It was taken, or waits; that the peer has heard it, too, is new.
            if let Some(id) = known {
                self.jobs.note_source(id, by, says_start(&beat), at);
            }
            return;
        }
        let admitted = known.or_else(|| says_status(&beat).then(|| self.admit_job_elsewhere(&beat)).flatten());
        let Some(id) = admitted else { return };
        let its = self.jobs.job(id).name();
        if let Some(evidence) = &mut self.evidence {
            evidence.note_job_line_elsewhere(its, (at, peer), &beat);
        }
        self.await_turn(WaitingLine { at, by, beat });
    }

    /// The instance of the job that a line of an instance is about: `-` if whoever runs it is the same job.
    pub fn job_instance<'a>(&'a self, service: &str, instance: &'a str) -> &'a str {
        self.jobs.instance_for(service, instance)
    }

    /// What a job said is over with it: peers are not told of it, now or when they start again.
    pub(super) fn forget_lines_of(&mut self, id: JobId) {
        if let Some(evidence) = &mut self.evidence {
            evidence.jobs.forget(&self.jobs.job(id).name(), EngineTime::NEVER);
        }
    }

    /// Makes room in memory: lines that peers may be told go before anybody who is known does. Whether there were any.
    pub(super) fn give_up_job_lines(&mut self) -> bool {
        let over = self.held.memory().bytes(Holder::Presence).saturating_sub(self.held.cap());
        let Some(evidence) = &mut self.evidence else { return false };
        let freed = evidence.jobs.give_up(over as usize + GIVEN_UP);
        self.held.sub(freed as u64);
        freed > 0
    }

    /// Takes the lines whose turn it is.
    pub(super) fn take_job_lines(&mut self) {
        let until = self.job_clock();
        let Some(evidence) = &mut self.evidence else { return };
        for line in evidence.jobs.take_until(until) {
            self.take_waited(&line);
        }
    }

    /// Takes all lines: there will be no more ticks.
    pub fn take_all_job_lines(&mut self) {
        let Some(evidence) = &mut self.evidence else { return };
        for line in evidence.jobs.take_until(EngineTime::NEVER) {
            self.take_waited(&line);
        }
    }

    fn take_waited(&mut self, line: &WaitingLine) {
        let WaitingLine { at, by, beat } = line;
        // A line before this one may have been its goodbye.
        let known = self.jobs.find_for(&beat.service, &beat.instance);
        let Some(id) = known.or_else(|| says_status(beat).then(|| self.admit_job_elsewhere(beat)).flatten()) else {
            return;
        };
        self.leave_for_job(&beat.service, &beat.instance);
        self.jobs.note_source(id, *by, says_start(beat), *at);
        if !says_status(beat) {
            self.job_says_goodbye(id, beat, *at);
            return;
        }
        self.change_job_at(id, *at, |job, by, out| job.take(beat, by, out));
    }
}

/// Judging.
impl Engine {
    /// The time at which jobs are judged.
    pub(super) fn job_clock(&self) -> EngineTime {
        if self.evidence.is_some() { self.now - MERGE_SECS } else { self.now }
    }

    /// What is to pass until a job that is due at a time is judged, in seconds.
    pub(super) fn job_lag(&self) -> f64 {
        if self.evidence.is_some() { MERGE_SECS } else { 0.0 }
    }

    /// Changes a job at a time, and reports what comes of it.
    pub(super) fn change_job_at<T>(
        &mut self,
        id: JobId,
        now: EngineTime,
        change: impl FnOnce(&mut Job, Surroundings<'_>, &mut Vec<Event<EngineTime>>) -> T,
    ) -> T {
        let job = self.jobs.job(id);
        let is_muted = job.is_muted();
        let never = PeerBlindTimes::default();
        let peers = self.evidence.as_ref().map(|evidence| &evidence.peer_blind);
        let of = |source: &HeardBy| match source {
            HeardBy::Here | HeardBy::Another => Ear::Here(&self.blind_times),
            HeardBy::Peer(peer) => Ear::Peer(peers.and_then(|peers| peers.get(usize::from(*peer))).unwrap_or(&never)),
        };
        // Without observers it does not matter who else has heard them once.
        let lines = peers.into_iter().flat_map(|_| job.sources());
        let mut all: Vec<Vec<Ear<'_>>> = lines.map(|line| line.iter().map(of).collect()).collect();
        if all.is_empty() {
            // What nobody has heard yet, this node may have missed.
            all.push(vec![Ear::Here(&self.blind_times)]);
        }
        let by = Surroundings { now, epoch: self.epoch, blind: WhenBlind::of(&all), is_muted };
        let mut events = Vec::new();
        let forget_after = self.policy.forget_service;
        let out = self.jobs.change(id, by, forget_after, |job| change(job, by, &mut events));
        self.events.append(&mut events);
        out
    }

    /// Whether there is evidence that a job is well: its last run ended so, or goes on.
    pub fn is_well_job(&self, service: &str, instance: &str) -> bool {
        self.jobs.find(service, instance).is_some_and(|id| {
            let job = self.jobs.job(id);
            job.badness() == 0 && matches!(job.state(), JobState::Ok | JobState::Running)
        })
    }
}

fn says_status(beat: &Heartbeat) -> bool {
    beat.job.as_ref().is_some_and(|tags| tags.status.is_some())
}

fn says_start(beat: &Heartbeat) -> bool {
    beat.job.as_ref().is_some_and(|tags| tags.status == Some(JobStatus::Start))
}

/// What a line says, as peers are told.
impl JobSighting {
    /// What it says of a run; `None` is a goodbye.
    pub fn status(&self) -> Option<JobStatus> {
        self.beat.job.as_ref().and_then(|tags| tags.status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{LEAST_MAX_MEMORY, Memory};
    use crate::presence::admission::Refusal;
    use crate::presence::policy::Policy;
    use crate::protocol::JobTags;

    #[test]
    fn when_memory_is_short_old_lines_of_jobs_go_and_nobody_who_is_known_does() {
        let at = EngineTime::from_secs;
        let memory = Memory::new(LEAST_MAX_MEMORY);
        let policy = Policy { max_registrations_per_second: 1000, ..Policy::default() };
        let mut engine = Engine::new(policy, at(0.0), 1).in_memory(&memory).shared();
        let beat = |n: usize| Heartbeat {
            service: "web".into(),
            instance: format!("web-{n}").into(),
            interval: Some(1000.0),
            ..Heartbeat::default()
        };
        let tags = JobTags { status: Some(JobStatus::Fail), ..JobTags::default() };
        let line = Heartbeat {
            service: "backup".into(),
            instance: "box".into(),
            message: Some("x".repeat(1000).into()),
            job: Some(Box::new(tags)),
            ..Heartbeat::default()
        };
        for n in 0..100 {
            engine.at(at(n as f64));
            engine.beat(&beat(n));
            engine.beat(&Heartbeat { instance: format!("box-{n}").into(), ..line.clone() });
            engine.at(at(n as f64 + 12.0));
            engine.beat(&Heartbeat { instance: format!("box-{n}").into(), ..line.clone() });
            engine.tick(at(n as f64 + 13.0));
            engine.take_events();
        }
        engine.tick(at(200.0));
        let told = |engine: &Engine| {
            let mut ages = Vec::new();
            engine.sightings((0, None), |seen| {
                ages.extend(if let Observation::Job(line) = seen { Some(line.age) } else { None });
                true
            });
            ages
        };
        let before = told(&engine);
        // Others of presence have nearly all of its share.
        let others = memory.holding(Holder::Presence);
        others.set(memory.cap(Holder::Presence) - engine.heap_bytes() as u64 + 1000);
        assert!(engine.is_short_of_memory());
        engine.beat(&beat(100));
        assert!(!engine.is_short_of_memory() && told(&engine).len() < before.len());
        others.add(1000 + memory.cap(Holder::Presence) - memory.bytes(Holder::Presence));
        engine.tick(at(201.0));
        engine.beat(&beat(101));
        assert_eq!((engine.len(), engine.jobs.len(), engine.refusals().of(Refusal::Memory)), (102, 100, 0));
        // Those that are left are the newest.
        assert!(!told(&engine).is_empty());
        let newest: Vec<f64> = before.iter().rev().take(told(&engine).len()).rev().map(|age| age + 1.0).collect();
        assert_eq!(told(&engine), newest);
        // Where lines free too little, a job is forgotten for a new one, too.
        others.set(memory.cap(Holder::Presence));
        engine.tick(at(202.0));
        engine.beat(&Heartbeat { instance: "box-new".into(), ..line.clone() });
        assert_eq!((engine.jobs.len(), engine.refusals().of(Refusal::Memory)), (100, 0));
        assert!(engine.jobs.find_for("backup", "box-new").is_some());
    }
}
