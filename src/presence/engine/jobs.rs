//! Jobs in the engine: what their lines say, what time means for them, and how bad they are.

use compact_str::CompactString;
use serde::Serialize;

use crate::protocol::{Heartbeat, Ignored};

use super::Engine;
use super::readings::{Reading, count, level};
use super::view::ServiceView;
use crate::presence::admission::Refusal;
use crate::presence::event::{Change, Event, Phase, Reason};
use crate::presence::evidence::Evidence;
use crate::presence::instance::State;
use crate::presence::jobs::{Job, JobId, JobReason, JobState, JobView, RunResult, Surroundings};
use crate::presence::service::ServiceState;
use crate::presence::time::{EngineTime, Epoch, UnixTime};

/// A job that is not well.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BadJob {
    /// Its service.
    #[serde(skip)]
    pub service: CompactString,
    /// Its instance; `-` is whoever runs it.
    pub instance: CompactString,
    /// Its state.
    pub state: JobState,
    /// The machine that its last run was on, if that said so.
    pub host: Option<CompactString>,
    /// The exit status of its last run, if that said one.
    pub exit: Option<i64>,
    /// How long its last run took, if that is known.
    pub duration_s: Option<f64>,
    /// When a run last ended well, RFC 3339.
    pub last_success: Option<String>,
    /// When the next run is due, RFC 3339.
    pub due: Option<String>,
}

impl BadJob {
    fn of(job: &Job, epoch: Epoch) -> BadJob {
        let last = job.history().back();
        BadJob {
            service: job.service().clone(),
            instance: job.instance().clone(),
            state: job.state(),
            host: last.and_then(|run| run.host().cloned()),
            exit: last.and_then(|run| run.exit()),
            duration_s: last.and_then(|run| run.duration_s()),
            last_success: job.succeeded().map(UnixTime::rfc3339),
            due: job.due(epoch).map(|(due, _)| due.rfc3339()),
        }
    }
}

/// Jobs, counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JobSummary {
    /// All jobs.
    pub jobs: usize,
    /// Those whose last run failed or did not come.
    pub critical: usize,
    /// Those with a run that lasts too long or never ended.
    pub warning: usize,
    /// Those that were not heard yet, or not when they were last awaited.
    pub unheard: usize,
    /// Those in maintenance, and how many of these are critical or a warning.
    pub maintenance: usize,
    /// See there.
    pub bad_in_maintenance: usize,
    /// Some of those that are not well, the worst first.
    pub bad: Vec<BadJob>,
}

/// Most jobs that a summary names, most that the view of a service has, and most of a service that a list of all has.
const NAMED: usize = 3;
const SHOWN: usize = 100;
const LISTED: usize = 8;

/// Runs of each job in a list.
const LISTED_RUNS: usize = 10;

/// Jobs that are not configured have one in so many of the places of instances at most.
const JOBS_PART: usize = 2;

fn who(job: &Job) -> Vec<(&'static str, CompactString)> {
    vec![("instance", job.instance().clone()), ("service", job.service().clone())]
}

fn with_result(job: &Job, result: RunResult) -> Vec<(&'static str, CompactString)> {
    vec![("instance", job.instance().clone()), ("result", result.as_str().into()), ("service", job.service().clone())]
}

/// Runs by result of the jobs of one service after the other, where jobs have no series of their own.
#[derive(Default)]
struct OfService {
    service: Option<CompactString>,
    runs: [u64; RunResult::ALL.len()],
}

impl OfService {
    /// Adds a job, which come by service.
    fn add(&mut self, job: &Job, runs: [u64; RunResult::ALL.len()], all: &mut Vec<Reading>) {
        if self.service.as_ref() != Some(job.service()) {
            self.end(all);
            self.service = Some(job.service().clone());
        }
        self.runs.iter_mut().zip(runs).for_each(|(sum, runs)| *sum += runs);
    }

    /// No job of the service comes any more.
    fn end(&mut self, all: &mut Vec<Reading>) {
        let runs = std::mem::take(&mut self.runs);
        let Some(service) = self.service.take() else { return };
        for (result, runs) in RunResult::ALL.into_iter().zip(runs).filter(|(_, runs)| *runs > 0) {
            let tags = vec![("result", result.as_str().into()), ("service", service.clone())];
            all.push(count("presence_job_runs_total", tags, runs as f64));
        }
    }
}

/// The state as series have it.
fn number(state: JobState) -> f64 {
    match state {
        JobState::Waiting | JobState::Retired => 0.0,
        JobState::Running => 1.0,
        JobState::Ok => 2.0,
        JobState::Failed => 3.0,
        JobState::Overrun => 4.0,
        JobState::Lost => 5.0,
        JobState::Missed => 6.0,
        JobState::Unheard => 7.0,
    }
}

impl Engine {
    /// What wall time the engine's clock stands at. Schedules of jobs are told in it.
    pub fn set_epoch(&mut self, epoch: Epoch) {
        let step = epoch.step_since(self.epoch);
        let is_first = !std::mem::replace(&mut self.has_epoch, true);
        // A clock that is slewed moves times of schedules, too.
        if step.abs() < 0.1 && !is_first {
            return;
        }
        self.epoch = epoch;
        for id in self.jobs.ids().collect::<Vec<_>>() {
            let step = if is_first { 0.0 } else { step };
            self.change_job(id, |job, by, _| job.clock_stepped(step, by));
        }
    }

    /// Takes a line of a job; `false` if it is of none.
    pub(super) fn take_job_line(&mut self, beat: &Heartbeat) -> bool {
        let known = self.jobs.find_for(&beat.service, &beat.instance);
        let says_status = beat.job.as_ref().is_some_and(|tags| tags.status.is_some());
        if known.is_none() && !says_status {
            return false;
        }
        let Some(id) = known.or_else(|| self.admit_job(beat)) else { return true };
        if beat.job.as_ref().is_some_and(|tags| tags.odd_status.is_some()) {
            self.admission.note_ignored(Ignored::BadStatus);
        }
        if self.evidence.is_some() && (says_status || beat.goodbye) {
            self.share_job_line(id, beat);
            return true;
        }
        self.leave_for_job(&beat.service, &beat.instance);
        if beat.goodbye && !says_status {
            self.job_says_goodbye(id, beat, self.now);
            return true;
        }
        self.change_job(id, |job, by, out| job.take(beat, by, out));
        true
    }

    /// A goodbye retires a job. Where a job is a whole service, one of those who run it ends, and nothing else.
    pub(super) fn job_says_goodbye(&mut self, id: JobId, beat: &Heartbeat, at: EngineTime) {
        let job = self.jobs.job(id);
        if *job.instance() == beat.instance && job.told_at() <= at {
            if let Some(evidence) = &mut self.evidence {
                evidence.jobs.end(&job.name(), at);
            }
            self.change_job(id, |job, by, out| job.retire(JobReason::Goodbye, by, out));
            self.remove_unless_configured(id);
        }
    }

    /// An instance that is a job leaves the roster.
    pub(super) fn leave_for_job(&mut self, service: &str, instance: &str) {
        let Some(id) = self.roster.find(service, instance) else { return };
        if self.roster.instance(id).state() != State::Left {
            let service = self.roster.instance(id).service();
            self.roster.service_mut(service).end_stay();
            self.leave(id, Reason::BecameJob);
        }
    }

    /// A new job, unless a limit forbids it.
    fn admit_job(&mut self, beat: &Heartbeat) -> Option<JobId> {
        let is_new = !self.jobs.has_service(&beat.service) && self.roster.find_service(&beat.service).is_none();
        let checked = self.admission.check(is_new, beat.source, &self.roster, &self.policy, self.now);
        if let Err(why) = checked.and_then(|()| self.make_room_for_job(&beat.service)) {
            if why == Refusal::Limit {
                self.warn_of_limit(self.roster.find_service(&beat.service));
            }
            self.admission.refuse(why, beat.source, self.now);
            return None;
        }
        self.admission.note_admitted(is_new, beat.source, self.now);
        Some(self.insert_job(Job::new(&beat.service, &beat.instance, self.now)))
    }

    /// A new job that a peer has admitted, unless the table is full here.
    pub(super) fn admit_job_elsewhere(&mut self, beat: &Heartbeat) -> Option<JobId> {
        if let Err(why) = self.make_room_for_job(&beat.service) {
            if why == Refusal::Limit {
                self.warn_of_limit(self.roster.find_service(&beat.service));
            }
            self.admission.refuse(why, None, self.now);
            return None;
        }
        Some(self.insert_job(Job::new(&beat.service, &beat.instance, self.now)))
    }

    /// Makes room for a job: in its service one that nothing is awaited of goes, else the oldest that is not established.
    fn make_room_for_job(&mut self, service: &str) -> Result<(), Refusal> {
        self.free_memory(Engine::evict_job)?;
        let of_service = |engine: &Engine| engine.jobs.of_service(service).count();
        while of_service(self) >= self.policy.max_instances_per_service {
            let idle = self.jobs.longest_idle(service).ok_or(Refusal::Limit)?;
            self.retire_job(idle, JobReason::Evicted);
        }
        let is_full = |engine: &Engine| {
            let is_new = !engine.jobs.has_service(service);
            (is_new && engine.jobs.service_count() >= engine.policy.max_services)
                || engine.jobs.unconfigured() >= engine.policy.max_instances.div_ceil(JOBS_PART)
                || engine.population() >= engine.policy.max_instances
        };
        while is_full(self) {
            if !self.evict_job() {
                return Err(Refusal::Limit);
            }
        }
        Ok(())
    }

    /// Forgets the oldest job that is not established; `false` if there is none.
    pub(super) fn evict_job(&mut self) -> bool {
        let Some(id) = self.jobs.take_oldest_candidate() else { return false };
        self.retire_job(id, JobReason::Evicted);
        self.admission.note_evicted();
        true
    }

    /// Instances and jobs.
    pub(super) fn population(&self) -> usize {
        self.roster.instance_count() + self.jobs.len()
    }

    /// Registers the jobs that are configured and not known.
    pub(super) fn expect_jobs(&mut self) {
        for (service, instance) in self.jobs.unknown_configured() {
            self.insert_job(Job::new(&service, &instance, self.now));
        }
    }

    fn insert_job(&mut self, job: Job) -> JobId {
        let is_muted = self.policy.rules_of(job.service()).mutes_service();
        let id = self.jobs.insert(job.muted(is_muted));
        self.admission.note_jobs(self.jobs.len());
        id
    }

    /// Takes over the jobs that an earlier engine saved at a time of its clock.
    pub(super) fn restore_jobs(&mut self, saved: Vec<Job>, at: EngineTime) {
        let mut dropped = Vec::new();
        for job in saved.into_iter().map(|job| job.restored(at)) {
            let is_shadowed = self.jobs.is_shadowed(job.service(), job.instance());
            let id = self.insert_job(job);
            let job = self.jobs.job(id);
            // What was only configured, and is no more, or is part of a whole now.
            let is_over = !job.is_configured() && (job.is_retired() || !job.was_heard());
            if is_shadowed || is_over {
                dropped.push(id);
            }
        }
        for id in dropped {
            self.retire_job(id, JobReason::Operator);
        }
        self.expect_jobs();
    }

    /// Changes a job, and reports what comes of it.
    fn change_job<T>(
        &mut self,
        id: JobId,
        change: impl FnOnce(&mut Job, Surroundings<'_>, &mut Vec<Event<EngineTime>>) -> T,
    ) -> T {
        self.change_job_at(id, self.now, change)
    }

    /// Whether a job is in maintenance.
    pub(super) fn is_maintained_job(&self, service: &str, instance: &str) -> bool {
        self.jobs.find(service, instance).is_some_and(|id| self.jobs.job(id).is_maintained(self.now))
    }

    /// A job retires that did not say so; what is configured stays known.
    fn retire_job(&mut self, id: JobId, why: JobReason) {
        self.forget_lines_of(id);
        self.change_job(id, |job, by, out| job.retire(why, by, out));
        self.remove_unless_configured(id);
    }

    fn remove_unless_configured(&mut self, id: JobId) {
        if !self.jobs.job(id).is_configured() {
            self.jobs.remove(id);
            self.admission.note_jobs(self.jobs.len());
        }
    }

    /// Lets time pass for jobs.
    pub(super) fn evaluate_jobs(&mut self) {
        let now = self.job_clock();
        for id in self.jobs.take_due(now) {
            let job = self.jobs.job(id);
            if now >= job.forgotten_at(self.policy.forget_service) {
                self.retire_job(id, JobReason::Expired);
            } else {
                self.change_job_at(id, now, |job, by, out| job.evaluate(by, out));
            }
        }
    }

    /// Awaits the first run of jobs that are configured, once the wall clock is known.
    pub(super) fn await_first_runs(&mut self) {
        if !std::mem::take(&mut self.awaits_first_runs) {
            return;
        }
        for id in self.jobs.ids().collect::<Vec<_>>() {
            self.change_job(id, |job, by, _| job.await_first(by));
        }
    }

    /// Suppresses what happens to jobs of a service, or to one of them; whether there are any.
    pub(super) fn maintain_jobs(&mut self, service: &str, instance: Option<&str>, until: EngineTime) -> bool {
        let all: Vec<JobId> = self.jobs.of_service(service).collect();
        let is_meant = |id: &JobId| instance.is_none_or(|name| *self.jobs.job(*id).instance() == name);
        let meant: Vec<JobId> = all.into_iter().filter(is_meant).collect();
        for &id in &meant {
            self.change_job(id, |job, _, _| job.maintain_until(until));
        }
        !meant.is_empty()
    }

    /// Announces maintenance of what has no instances.
    pub(super) fn report_maintenance(&mut self, service: &str, instance: Option<&str>, phase: Phase) {
        self.report(Event {
            service: Some(service.into()),
            instance: Some(instance.unwrap_or("*").into()),
            ..Event::new(self.now, Change::Maintenance(phase), false)
        });
    }

    /// Forgets the jobs of a service, or one of them, that were not heard after a time; whether there are any.
    pub(super) fn forget_jobs(&mut self, service: &str, instance: Option<&str>, since: EngineTime) -> bool {
        let meant = self.jobs.of_service(service);
        let meant: Vec<JobId> =
            meant.filter(|id| instance.is_none_or(|name| *self.jobs.job(*id).instance() == name)).collect();
        if let Some(Evidence { jobs: lines, .. }) = self.evidence.as_deref_mut() {
            let jobs = &self.jobs;
            let is_its =
                |beat: &Heartbeat| instance.is_none_or(|name| jobs.instance_for(service, &beat.instance) == name);
            lines.forget_waiting(since, |beat| beat.service == service && is_its(beat));
            meant.iter().for_each(|id| lines.forget(&jobs.job(*id).name(), since));
        }
        for &id in &meant {
            if self.jobs.job(id).heard() <= since {
                self.forget_job(id);
            }
        }
        !meant.is_empty()
    }

    /// An operator has a job forgotten.
    fn forget_job(&mut self, id: JobId) {
        self.change_job(id, |job, by, out| job.forget(by, out));
        self.remove_unless_configured(id);
    }

    /// Whether a job of a service, or one of them, is configured, so that it is awaited again when it is forgotten.
    pub fn has_configured_job(&self, service: &str, instance: Option<&str>) -> bool {
        let mut jobs = self.jobs.of_service(service).map(|id| self.jobs.job(id));
        jobs.any(|job| job.is_configured() && instance.is_none_or(|name| *job.instance() == name))
    }

    /// Whether there is any job.
    pub fn has_jobs(&self) -> bool {
        !self.jobs.is_empty()
    }

    /// Whether a service has a job of this name, or any.
    pub(super) fn knows_job(&self, service: &str, instance: Option<&str>) -> bool {
        match instance {
            Some(instance) => self.jobs.find(service, instance).is_some(),
            None => self.jobs.has_service(service),
        }
    }

    /// Jobs by service and instance: of one service or all, in a state or any, after one of a name; at most so many, and of
    /// each so many runs. Those that said goodbye are not among them.
    pub fn view_jobs(
        &self,
        service: Option<&str>,
        state: Option<JobState>,
        after: Option<(&str, &str)>,
        (most, runs): (usize, usize),
        epoch: Epoch,
    ) -> Vec<JobView> {
        let jobs = self.known_jobs(service).filter(|job| state.is_none_or(|state| job.state() == state));
        let jobs = jobs.filter(|job| after.is_none_or(|after| (&**job.service(), &**job.instance()) > after));
        jobs.take(most).map(|job| self.view_job(job, epoch, runs)).collect()
    }

    fn view_job(&self, job: &Job, epoch: Epoch, runs: usize) -> JobView {
        let until = job.maintained_until(self.now);
        job.view(self.now, epoch, runs, self.announced(job.service(), Some(job.instance()), until))
    }

    /// One job with all of its runs.
    pub fn view_of_job(&self, service: &str, instance: &str, epoch: Epoch) -> Option<JobView> {
        let job = self.jobs.job(self.jobs.find(service, instance)?);
        (!job.is_retired()).then(|| self.view_job(job, epoch, usize::MAX))
    }

    /// Jobs of a service with all of their runs, as its view has them.
    pub(super) fn view_jobs_of(&self, service: &str, epoch: Epoch) -> Vec<JobView> {
        let mut jobs = self.worst_jobs(service, SHOWN);
        jobs.sort_by(|a, b| a.instance().cmp(b.instance()));
        jobs.into_iter().map(|job| self.view_job(job, epoch, usize::MAX)).collect()
    }

    /// So many jobs of a service that have not said goodbye, the worst first, then by name.
    fn worst_jobs(&self, service: &str, most: usize) -> Vec<&Job> {
        let mut jobs: Vec<&Job> = self.known_jobs(Some(service)).collect();
        // By name they are already.
        jobs.sort_by_key(|job| (std::cmp::Reverse(job.badness()), !job.is_unheard()));
        jobs.truncate(most);
        jobs
    }

    /// Jobs of a service, or all, that have not said goodbye, by name.
    fn known_jobs(&self, service: Option<&str>) -> impl Iterator<Item = &Job> {
        let one = service.map(|service| self.jobs.of_service(service));
        let all = service.is_none().then(|| self.jobs.ids());
        let ids = one.into_iter().flatten().chain(all.into_iter().flatten());
        ids.map(|id| self.jobs.job(id)).filter(|job| !job.is_retired())
    }

    /// All services by name, those that have only jobs among them, each with its worst jobs, and how many it has.
    pub fn view_with_jobs(&self, epoch: Epoch) -> Vec<(ServiceView, JobSummary)> {
        let with_jobs = |service: ServiceView| {
            let jobs = self.worst_jobs(&service.service, LISTED).into_iter();
            let jobs = jobs.map(|job| self.view_job(job, epoch, LISTED_RUNS)).collect();
            let (state, seen) =
                (self.state_with_jobs(service.state, &service.service), self.job_summary_of(&service.service));
            (ServiceView { state, jobs, ..service }, seen)
        };
        let alone = self.jobs.services().filter(|name| self.roster.find_service(name).is_none());
        let mut all: Vec<_> =
            alone.filter_map(|name| Some(with_jobs(self.view_without_instances(name, epoch)?))).collect();
        all.extend(self.view(epoch).into_iter().map(with_jobs));
        all.sort_by(|(a, _), (b, _)| a.service.cmp(&b.service));
        all
    }

    /// The state of a service that has jobs and no instances: as bad as the worst of them.
    pub(super) fn state_by_jobs(&self, service: &str) -> Option<ServiceState> {
        let states = self.known_jobs(Some(service)).map(|job| match (job.badness(), job.state()) {
            (2.., _) => ServiceState::Down,
            (1, _) => ServiceState::Degraded,
            _ if job.is_maintained(self.now) => ServiceState::Maintenance,
            (_, JobState::Waiting | JobState::Unheard) => ServiceState::Unknown,
            _ => ServiceState::Up,
        });
        let order = [
            ServiceState::Down,
            ServiceState::Degraded,
            ServiceState::Maintenance,
            ServiceState::Unknown,
            ServiceState::Up,
        ];
        states.min_by_key(|state| order.iter().position(|known| known == state))
    }

    /// A service that has jobs and no instances.
    pub(super) fn view_by_jobs(&self, service: &str, epoch: Epoch) -> Option<ServiceView> {
        let alone = self.view_without_instances(service, epoch)?;
        Some(ServiceView { jobs: self.view_jobs_of(service, epoch), ..alone })
    }

    /// The same without the jobs.
    fn view_without_instances(&self, service: &str, epoch: Epoch) -> Option<ServiceView> {
        let state = self.state_by_jobs(service)?;
        let since = self.known_jobs(Some(service)).map(|job| job.changed()).max_by(|a, b| a.total_cmp(b));
        // If all of it is, for as long as the shortest.
        let until = self.known_jobs(Some(service)).map(|job| job.maintained_until(self.now));
        let until = until.reduce(|a, b| Some(a?.min(b?))).flatten();
        let announced = self.announced(service, None, until);
        Some(ServiceView {
            service: service.into(),
            state,
            present: 0,
            down: 0,
            left: 0,
            min: None,
            quorum: self.policy.rules_of(service).quorum,
            since: since.map_or_else(String::new, |since| epoch.to_unix(since).rfc3339()),
            maintenance_until: until.map(|until| epoch.to_unix(until).rfc3339()),
            maintenance_by: announced.by,
            maintenance_why: announced.why,
            jobs: Vec::new(),
            instances: Vec::new(),
        })
    }

    /// What sinks get of jobs: what counts is since this was last asked.
    pub(super) fn job_counts(&mut self, all: &mut Vec<Reading>) {
        let by_job = self.has_instance_series();
        let mut of_service = OfService::default();
        for id in self.jobs.ids().collect::<Vec<_>>() {
            let fresh = self.jobs.take_fresh(id);
            let job = self.jobs.job(id);
            if by_job {
                for (result, runs) in fresh.into_iter().filter(|(_, runs)| *runs > 0) {
                    all.push(count("presence_job_runs_total", with_result(job, result), f64::from(runs)));
                }
            } else {
                of_service.add(job, fresh.map(|(_, runs)| u64::from(runs)), all);
            }
        }
        of_service.end(all);
    }

    /// The same for a scrape: what counts is since the job is known.
    pub(super) fn job_totals(&self, all: &mut Vec<Reading>) {
        let by_job = self.has_instance_series();
        let mut of_service = OfService::default();
        for job in self.known_jobs(None) {
            if by_job {
                for (result, runs) in job.counts() {
                    all.push(count("presence_job_runs_total", with_result(job, result), runs as f64));
                }
            } else {
                of_service.add(job, job.counts().map(|(_, runs)| runs), all);
            }
        }
        of_service.end(all);
    }

    /// The levels of jobs; none of one that said goodbye or was forgotten. Where jobs have no series of their own, the state of
    /// the worst of each service.
    pub(super) fn job_levels(&self, all: &mut Vec<Reading>) {
        if !self.has_instance_series() {
            for service in self.jobs.services() {
                if let Some(worst) = self.worst_jobs(service, 1).first() {
                    all.push(level("presence_job_state", vec![("service", service.clone())], number(worst.state())));
                }
            }
            return;
        }
        for job in self.known_jobs(None) {
            all.push(level("presence_job_state", who(job), number(job.state())));
            if let Some(at) = job.succeeded() {
                let ago = (self.epoch.to_unix(self.now) - at).max(0.0);
                all.push(level("presence_job_last_success_seconds", who(job), ago));
            }
            if let Some(lasted) = job.last_duration() {
                all.push(level("presence_job_duration_seconds", who(job), lasted));
            }
        }
    }

    /// How all jobs are.
    pub fn job_summary(&self) -> JobSummary {
        self.summary_of(self.known_jobs(None))
    }

    /// How the jobs of a service are.
    pub fn job_summary_of(&self, service: &str) -> JobSummary {
        self.summary_of(self.known_jobs(Some(service)))
    }

    fn summary_of<'a>(&self, jobs: impl Iterator<Item = &'a Job>) -> JobSummary {
        let mut out = JobSummary::default();
        let mut bad = Vec::new();
        for job in jobs {
            out.jobs += 1;
            out.unheard += usize::from(job.is_unheard());
            out.maintenance += usize::from(job.is_maintained(self.now));
            match job.badness() {
                0 => continue,
                1 => out.warning += 1,
                _ => out.critical += 1,
            }
            out.bad_in_maintenance += usize::from(job.is_maintained(self.now));
            bad.push(job);
        }
        bad.sort_by_key(|job| std::cmp::Reverse(job.badness()));
        out.bad = bad.into_iter().take(NAMED).map(|job| BadJob::of(job, self.epoch)).collect();
        out
    }

    /// We could not hear from `from` to `to`.
    pub(super) fn note_blind(&mut self, from: EngineTime, to: EngineTime) {
        self.blind_times.note(from, to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::jobs::{CronSchedule, JobRule, NamedZone};
    use crate::presence::policy::{Policy, SeriesOf, grace_for};
    use crate::protocol::{Heartbeat, JobStatus, JobTags};

    fn at(secs: f64) -> EngineTime {
        EngineTime::from_secs(secs)
    }

    fn line(service: &str, instance: &str, status: Option<JobStatus>, run: &str) -> Heartbeat {
        let tags = JobTags { status, run: Some(run.into()), ..JobTags::default() };
        Heartbeat {
            service: service.into(),
            instance: instance.into(),
            job: Some(Box::new(tags)),
            ..Heartbeat::default()
        }
    }

    fn rule(service: &str, schedule: Option<&str>, every: Option<f64>) -> JobRule {
        let utc = NamedZone::new("UTC").expect("a zone");
        let schedule = schedule.map(|fields| CronSchedule::new(fields, &utc).expect("a schedule"));
        JobRule { service: service.into(), instance: None, schedule, every, grace: Some(10.0), max_runtime: None }
    }

    fn with_jobs(jobs: Vec<JobRule>) -> Engine {
        let mut engine = Engine::new(Policy { jobs, ..Policy::default() }, at(0.0), 1);
        engine.set_epoch(Epoch::new(UnixTime::from_secs(86_400.0), at(0.0)));
        engine.tick(at(0.25));
        engine
    }

    /// What is notified: states by service.
    fn notified(engine: &mut Engine) -> Vec<(String, &'static str)> {
        let events = engine.take_events().into_iter().filter(|event| event.notify);
        events.filter_map(|event| Some((event.service?.to_string(), event.change.to_name()?))).collect()
    }

    #[test]
    fn jobs_that_ran_once_give_way_and_others_do_not() {
        let policy = Policy { max_instances: 10, max_registrations_per_second: 100, ..Policy::default() };
        let mut engine = Engine::new(policy, at(0.0), 1);
        for n in 0..20 {
            engine.beat(&line("a", &format!("i{n}"), Some(JobStatus::Fail), "r"));
        }
        assert_eq!(engine.jobs.len(), 5);
        // Whoever went had its alarm ended.
        let ended = notified(&mut engine).into_iter().filter(|(_, to)| *to == "retired").count();
        assert_eq!(ended, 15);
        // A second run within the minute establishes nobody.
        engine.at(at(20.0));
        for n in 15..20 {
            engine.beat(&line("a", &format!("i{n}"), Some(JobStatus::Ok), "s"));
        }
        engine.beat(&line("a", "i20", Some(JobStatus::Ok), "r"));
        assert!(engine.jobs.find("a", "i15").is_none() && engine.jobs.find("a", "i20").is_some());
        engine.at(at(90.0));
        for n in 16..21 {
            engine.beat(&line("a", &format!("i{n}"), Some(JobStatus::Ok), "t"));
        }
        engine.beat(&line("a", "new", Some(JobStatus::Ok), "r"));
        assert!(engine.jobs.find("a", "new").is_none());
        assert_eq!(engine.refusals().of(Refusal::Limit), 1);
        engine.take_events();
        let bytes = engine.heap_bytes();
        assert!(engine.forget("a", None) && engine.jobs.is_empty());
        engine.take_events();
        assert!(engine.heap_bytes() < bytes);
    }

    #[test]
    fn jobs_that_are_not_configured_have_half_of_the_places_and_no_more_series_than_instances() {
        let policy = Policy { max_instances: 12, max_registrations_per_second: 100, ..Policy::default() };
        let policy = Policy { jobs: vec![rule("c", None, Some(3600.0))], series: SeriesOf::Services, ..policy };
        let mut engine = Engine::new(policy, at(0.0), 1);
        for secs in [0.0, 50.0, 100.0] {
            engine.at(at(secs));
            for n in 0..9 {
                engine.beat(&line("a", &format!("i{n}"), Some(JobStatus::Fail), &format!("{secs}")));
            }
            engine.beat(&line("c", "box", Some(JobStatus::Ok), &format!("{secs}")));
        }
        assert_eq!(engine.jobs.len(), 7);
        let (mut levels, mut counts) = (Vec::new(), Vec::new());
        engine.job_levels(&mut levels);
        engine.job_counts(&mut counts);
        assert_eq!(levels.iter().map(|one| one.value).collect::<Vec<_>>(), [3.0, 2.0]);
        assert_eq!(counts.len(), 2, "{counts:?}");
        assert_eq!(counts[1].value, 3.0);
        // Who failed is named even where only some are shown.
        assert_eq!(engine.job_summary_of("a").critical, 6);
        let all = engine.view_with_jobs(Epoch::UNIX);
        let states: Vec<_> = all.iter().map(|(service, seen)| (service.state, service.jobs.len(), seen.jobs)).collect();
        assert_eq!(states, [(ServiceState::Down, 6, 6), (ServiceState::Up, 1, 1)]);
    }

    #[test]
    fn a_job_that_is_not_configured_is_forgotten_when_it_has_missed_for_long() {
        let mut engine = with_jobs(vec![rule("kept", None, Some(3600.0))]);
        for service in ["a", "kept"] {
            engine.beat(&Heartbeat { interval: Some(3600.0), ..line(service, "-", Some(JobStatus::Ok), "r") });
        }
        let week = engine.policy.forget_service;
        engine.tick(at(week));
        let missed = |who: &str| (who.to_string(), "missed");
        assert_eq!(notified(&mut engine), [missed("kept"), missed("a")]);
        engine.tick(at(week + 3600.0 + grace_for(3600.0) + 1.0));
        assert_eq!(notified(&mut engine), [("a".to_string(), "retired")]);
        assert!(engine.jobs.find("a", "-").is_none() && engine.jobs.find("kept", "-").is_some());
    }

    #[test]
    fn a_schedule_that_is_configured_anew_is_awaited_from_then_on() {
        let mut engine = with_jobs(vec![rule("b", Some("0 2 * * *"), None), rule("gone", None, Some(5.0))]);
        engine.tick(at(20.0));
        assert_eq!(notified(&mut engine), [("gone".to_string(), "missed")]);
        let saved = engine.save();
        let policy = Policy { jobs: vec![rule("b", Some("0 14 * * *"), None)], ..Policy::default() };
        let mut engine = Engine::restored(policy, saved, at(30.0), 1);
        engine.set_epoch(Epoch::new(UnixTime::from_secs(86_400.0), at(0.0)));
        engine.tick(at(30.25));
        // One that is configured no more and was never heard is gone, and its alarm with it.
        assert_eq!(notified(&mut engine), [("gone".to_string(), "retired")]);
        engine.tick(at(8.0 * 3600.0));
        assert_eq!(notified(&mut engine), []);
        engine.tick(at(14.0 * 3600.0 + 11.0));
        assert_eq!(notified(&mut engine), [("b".to_string(), "missed")]);
    }

    #[test]
    fn a_wall_clock_that_is_set_invents_no_missed_run_and_hides_none_for_long() {
        for (step, next) in [(10.0 * 3600.0, 14.0 * 3600.0), (-300.0 * 86_400.0, 2.0 * 3600.0)] {
            let mut engine = with_jobs(vec![rule("b", Some("0 2,14 * * *"), None)]);
            engine.set_epoch(Epoch::new(UnixTime::from_secs(400.0 * 86_400.0), at(0.0)));
            engine.tick(at(1.0));
            engine.set_epoch(Epoch::new(UnixTime::from_secs(400.0 * 86_400.0 + step), at(0.0)));
            engine.tick(at(2.0));
            assert_eq!(notified(&mut engine), []);
            // From midnight on, or from 10 o'clock.
            let wait = next - step.rem_euclid(86_400.0);
            engine.tick(at(wait + 9.0));
            assert_eq!(notified(&mut engine), []);
            engine.tick(at(wait + 11.0));
            assert_eq!(notified(&mut engine), [("b".to_string(), "missed")], "{step}");
        }
    }

    #[test]
    fn a_suspension_over_the_time_of_a_job_hides_one_run_in_a_row() {
        // At the engine's 0 it is midnight; from a minute before two on it stands still for so long, each night.
        let epoch = |suspended: f64| Epoch::new(UnixTime::from_secs(86_400.0 + suspended), at(0.0));
        let mut engine = with_jobs(vec![rule("b", Some("0 2 * * *"), None)]);
        let state = |engine: &Engine| engine.view_by_jobs("b", Epoch::UNIX).expect("configured").jobs[0].state;
        for (night, expected) in [vec![], vec![("b".to_string(), "missed")], vec![]].into_iter().enumerate() {
            let two = 7200.0 + night as f64 * (86_400.0 - 660.0);
            engine.tick(at(two - 60.0));
            engine.set_epoch(epoch((night as f64 + 1.0) * 660.0));
            engine.tick(at(two - 59.0));
            assert_eq!(notified(&mut engine), expected, "{night}");
            assert_eq!(state(&engine), if night == 0 { JobState::Unheard } else { JobState::Missed });
        }
        // Awake again before its grace is over, it may still come.
        let mut engine = with_jobs(vec![rule("b", Some("0 2 * * *"), None)]);
        engine.tick(at(7140.0));
        engine.set_epoch(epoch(64.0));
        engine.tick(at(7141.0));
        assert_eq!(state(&engine), JobState::Waiting);
        engine.tick(at(7147.0));
        assert_eq!((notified(&mut engine), state(&engine)), (Vec::new(), JobState::Unheard));
    }

    #[test]
    fn a_configured_job_that_said_goodbye_is_awaited_again_when_it_is_heard() {
        let mut engine = with_jobs(vec![rule("b", None, Some(60.0))]);
        let goodbye = |instance: &str| Heartbeat { goodbye: true, job: None, ..line("b", instance, None, "") };
        // One of those who run it ends.
        engine.beat(&goodbye("pod"));
        assert!(!engine.jobs.job(engine.jobs.find("b", "-").expect("it is configured")).is_retired());
        engine.beat(&goodbye("-"));
        engine.tick(at(500.0));
        assert_eq!((notified(&mut engine), engine.view_by_jobs("b", Epoch::UNIX)), (Vec::new(), None));
        let mut readings = Vec::new();
        engine.job_levels(&mut readings);
        assert_eq!(readings, []);
        engine.beat(&line("b", "pod", Some(JobStatus::Ok), "r"));
        engine.tick(at(600.0));
        assert_eq!(notified(&mut engine), [("b".to_string(), "missed")]);
    }

    #[test]
    fn a_configured_job_that_is_forgotten_is_awaited_again() {
        let mut engine = with_jobs(vec![rule("b", None, Some(60.0))]);
        let is_failing = |engine: &mut Engine| notified(engine).iter().any(|(_, to)| *to == "failed");
        engine.beat(&line("b", "pod", Some(JobStatus::Fail), "r"));
        engine.beat(&line("a", "x", Some(JobStatus::Fail), "r"));
        assert!(is_failing(&mut engine));
        assert_eq!([engine.has_configured_job("b", None), engine.has_configured_job("a", None)], [true, false]);
        assert!(engine.forget("b", None) && engine.forget("a", None));
        // The alarms end, and nothing is known of a run any more.
        let ended = [("b".to_string(), "waiting"), ("a".to_string(), "retired")];
        assert_eq!(notified(&mut engine), ended);
        let seen = engine.view_by_jobs("b", Epoch::UNIX).expect("it is awaited");
        assert_eq!((seen.jobs[0].state, seen.jobs[0].level, seen.jobs[0].runs.len()), (JobState::Waiting, 0, 0));
        // After a restart, too.
        let policy = engine.policy.clone();
        let mut engine = Engine::restored(policy, engine.save(), at(10.0), 1);
        engine.set_epoch(Epoch::new(UnixTime::from_secs(86_400.0), at(0.0)));
        // The first time is one at which we may not have heard it.
        engine.tick(at(80.0));
        assert_eq!(notified(&mut engine), []);
        engine.tick(at(140.0));
        assert_eq!(notified(&mut engine), [("b".to_string(), "missed")]);
    }

    #[test]
    fn a_heartbeat_that_becomes_a_job_leaves_nobody_missing() {
        let mut engine = with_jobs(Vec::new());
        let beat =
            Heartbeat { service: "a".into(), instance: "x".into(), interval: Some(60.0), ..Heartbeat::default() };
        for n in 1..=70 {
            engine.beat(&beat);
            engine.tick(at(f64::from(n) * 60.0));
        }
        engine.beat(&line("a", "x", Some(JobStatus::Start), "r"));
        engine.tick(at(4201.0));
        for n in 71..=200 {
            engine.tick(at(f64::from(n) * 60.0));
        }
        assert_eq!(notified(&mut engine), []);
    }

    #[test]
    fn a_check_is_an_alert_where_that_is_wanted_and_ends_with_its_instance() {
        let mut engine = with_jobs(Vec::new());
        engine.policy.rules.health_alerts = true;
        let check = |health: u8| Heartbeat {
            service: "a".into(),
            instance: "x".into(),
            interval: Some(60.0),
            health: Some(health),
            ..Heartbeat::default()
        };
        for status in [0, 2, 2, 3, 1, 2] {
            engine.beat(&check(status));
        }
        let all = |words: &[&'static str]| words.iter().map(|word| ("a".to_string(), *word)).collect::<Vec<_>>();
        assert_eq!(notified(&mut engine), all(&["critical", "warning", "critical"]));
        engine.beat(&Heartbeat { goodbye: true, health: None, ..check(0) });
        assert_eq!(notified(&mut engine), all(&["forgotten"]));
        // In maintenance it is quiet; when that is over, the next check says what stands.
        engine.at(at(100.0));
        engine.beat(&check(0));
        engine.maintenance("a", None, 50.0);
        engine.beat(&check(2));
        assert_eq!(notified(&mut engine), []);
        engine.tick(at(160.0));
        engine.beat(&check(2));
        assert_eq!(notified(&mut engine), all(&["critical"]));
    }
}
