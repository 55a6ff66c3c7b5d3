//! All jobs: by name, and by when to look at them again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use compact_str::CompactString;

use crate::memory::{tree_footprint, vec_footprint};

use super::job::{Job, JobRule, Surroundings};
use super::runs::RunResult;
use crate::presence::job_lines::HeardBy;
use crate::presence::schedule::Schedule;
use crate::presence::time::EngineTime;

/// The instance of a job that whoever runs it is.
const ANYBODY: &str = "-";

/// The place of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::presence) struct JobId(u32);

/// All jobs.
#[derive(Debug, Default)]
pub(in crate::presence) struct Jobs {
    places: Vec<Option<Job>>,
    free: Vec<JobId>,
    by_name: BTreeMap<CompactString, BTreeMap<CompactString, JobId>>,
    count: usize,
    queue: Schedule,
    /// Those that may give way to new ones, in the order of registration, with the low half of that order; who has gone or
    /// become established is left out when it is met.
    candidates: VecDeque<(JobId, u32)>,
    next_order: u64,
    /// Those that are configured.
    configured: usize,
    /// What is configured, by service and instance.
    rules: BTreeMap<CompactString, BTreeMap<CompactString, Arc<JobRule>>>,
    /// Bytes of what jobs hold beside themselves.
    job_bytes: usize,
}

impl Jobs {
    /// No jobs, and what is configured of those that will be.
    pub(in crate::presence) fn new(rules: &[JobRule]) -> Jobs {
        let mut jobs = Jobs::default();
        for rule in rules {
            let instance = rule.instance.as_deref().unwrap_or(ANYBODY);
            let of_service = jobs.rules.entry(rule.service.as_str().into()).or_default();
            of_service.entry(instance.into()).or_insert_with(|| Arc::new(rule.clone()));
        }
        jobs
    }

    pub(in crate::presence) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(in crate::presence) fn len(&self) -> usize {
        self.count
    }

    /// How many are not configured.
    pub(in crate::presence) fn unconfigured(&self) -> usize {
        self.count - self.configured
    }

    /// How many services have jobs.
    pub(in crate::presence) fn service_count(&self) -> usize {
        self.by_name.len()
    }

    pub(in crate::presence) fn has_service(&self, service: &str) -> bool {
        self.by_name.contains_key(service)
    }

    /// Bytes that it takes.
    pub(in crate::presence) fn heap_bytes(&self) -> usize {
        let names = tree_footprint::<CompactString, BTreeMap<CompactString, JobId>>(self.by_name.len());
        vec_footprint::<Option<Job>>(self.places.capacity())
            + vec_footprint::<(JobId, u32)>(self.candidates.capacity())
            + vec_footprint::<JobId>(self.free.capacity())
            + names
            + self.count * (size_of::<CompactString>() + size_of::<JobId>())
            + self.queue.heap_bytes()
            + self.job_bytes
    }

    /// The job of a name.
    pub(in crate::presence) fn find(&self, service: &str, instance: &str) -> Option<JobId> {
        self.by_name.get(service)?.get(instance).copied()
    }

    /// The job that a line of an instance is about: its own, or the one that is the whole service.
    pub(in crate::presence) fn find_for(&self, service: &str, instance: &str) -> Option<JobId> {
        let of_service = self.by_name.get(service)?;
        let whole = || of_service.get(ANYBODY).copied().filter(|id| self.job(*id).is_whole_service());
        of_service.get(instance).copied().or_else(whole)
    }

    /// The instance of that job; what is asked for if there is none.
    pub(in crate::presence) fn instance_for<'a>(&'a self, service: &str, instance: &'a str) -> &'a str {
        self.find_for(service, instance).map_or(instance, |id| self.job(id).instance())
    }

    /// Jobs of a service, by instance.
    pub(in crate::presence) fn of_service(&self, service: &str) -> impl Iterator<Item = JobId> {
        self.by_name.get(service).into_iter().flat_map(|all| all.values().copied())
    }

    /// Services with jobs, by name.
    pub(in crate::presence) fn services(&self) -> impl Iterator<Item = &CompactString> {
        self.by_name.keys()
    }

    /// All jobs, by service and instance.
    pub(in crate::presence) fn ids(&self) -> impl Iterator<Item = JobId> {
        self.by_name.values().flat_map(|all| all.values().copied())
    }

    /// A job.
    ///
    /// # Panics
    /// If it was removed.
    pub(in crate::presence) fn job(&self, id: JobId) -> &Job {
        self.places[id.0 as usize].as_ref().expect("a job that is there")
    }

    /// All jobs in the order of registration.
    pub(in crate::presence) fn in_order(&self) -> Vec<&Job> {
        let mut all: Vec<&Job> = self.places.iter().flatten().collect();
        all.sort_by_key(|job| job.order());
        all
    }

    /// What is configured of a job.
    fn rule_of(&self, service: &str, instance: &str) -> Option<Arc<JobRule>> {
        self.rules.get(service)?.get(instance).cloned()
    }

    /// Adds a job that is not known.
    pub(in crate::presence) fn insert(&mut self, job: Job) -> JobId {
        let (service, instance) = (job.service().clone(), job.instance().clone());
        let rule = self.rule_of(&service, &instance);
        let job = job.placed(self.next_order, rule);
        self.next_order += 1;
        let id = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            JobId((self.places.len() - 1) as u32)
        });
        if !job.is_established() {
            self.add_candidate(id, &job);
        }
        self.job_bytes += job.heap_bytes();
        self.configured += usize::from(job.is_configured());
        self.places[id.0 as usize] = Some(job);
        self.by_name.entry(service).or_default().insert(instance, id);
        self.count += 1;
        id
    }

    fn add_candidate(&mut self, id: JobId, job: &Job) {
        if self.candidates.len() > 2 * self.count + 64 {
            let mut candidates = std::mem::take(&mut self.candidates);
            candidates.retain(|&(id, order)| self.is_candidate(id, order));
            self.candidates = candidates;
        }
        self.candidates.push_back((id, job.order() as u32));
    }

    fn is_candidate(&self, id: JobId, order: u32) -> bool {
        let job = self.places[id.0 as usize].as_ref();
        job.is_some_and(|job| job.order() as u32 == order && !job.is_established())
    }

    /// The oldest job that gives way to a new one.
    pub(in crate::presence) fn take_oldest_candidate(&mut self) -> Option<JobId> {
        while let Some((id, order)) = self.candidates.pop_front() {
            if self.is_candidate(id, order) {
                return Some(id);
            }
        }
        None
    }

    /// Of a service's jobs that nothing is awaited of, the one that was not heard for the longest time.
    pub(in crate::presence) fn longest_idle(&self, service: &str) -> Option<JobId> {
        let idle = self.of_service(service).filter(|id| self.job(*id).is_idle());
        idle.min_by(|a, b| self.job(*a).heard().total_cmp(&self.job(*b).heard()))
    }

    /// Removes a job.
    pub(in crate::presence) fn remove(&mut self, id: JobId) {
        let Some(job) = self.places[id.0 as usize].take() else { return };
        self.job_bytes = self.job_bytes.saturating_sub(job.heap_bytes());
        if let Some(of_service) = self.by_name.get_mut(job.service()) {
            of_service.remove(job.instance());
            if of_service.is_empty() {
                self.by_name.remove(job.service());
            }
        }
        self.configured -= usize::from(job.is_configured());
        self.queue.remove(id.0);
        self.free.push(id);
        self.count -= 1;
    }

    /// A node has heard a line of a job.
    pub(in crate::presence) fn note_source(&mut self, id: JobId, by: HeardBy, begins: bool, at: EngineTime) {
        let job = self.places[id.0 as usize].as_mut().expect("a job that is there");
        let before = job.heap_bytes();
        job.note_source(by, begins, at);
        self.job_bytes = (self.job_bytes + job.heap_bytes()).saturating_sub(before);
    }

    /// The places of peers are others now.
    pub(in crate::presence) fn renumber_sources(&mut self, place_of: impl Fn(u16) -> Option<u16>) {
        for job in self.places.iter_mut().flatten() {
            let before = job.heap_bytes();
            job.renumber_sources(&place_of);
            self.job_bytes = (self.job_bytes + job.heap_bytes()).saturating_sub(before);
        }
    }

    /// Changes a job, and sees to it that it is looked at when time alone changes it again.
    pub(in crate::presence) fn change<T>(
        &mut self,
        id: JobId,
        by: Surroundings<'_>,
        forget_after: f64,
        change: impl FnOnce(&mut Job) -> T,
    ) -> T {
        let job = self.places[id.0 as usize].as_mut().expect("a job that is there");
        let before = job.heap_bytes();
        let out = change(job);
        self.job_bytes = (self.job_bytes + job.heap_bytes()).saturating_sub(before);
        let at = job.next_look(by, forget_after);
        if at < EngineTime::NEVER {
            self.queue.put(id.0, at);
        }
        out
    }

    /// Runs of a job since this was last asked, by result.
    pub(in crate::presence) fn take_fresh(&mut self, id: JobId) -> [(RunResult, u32); RunResult::ALL.len()] {
        self.places[id.0 as usize].as_mut().expect("a job that is there").take_fresh()
    }

    /// Nobody is to be looked at before that.
    pub(in crate::presence) fn next_due(&self) -> EngineTime {
        self.queue.next()
    }

    /// Those to look at now.
    pub(in crate::presence) fn take_due(&mut self, now: EngineTime) -> Vec<JobId> {
        if self.count == 0 {
            return Vec::new();
        }
        let due = self.queue.take_due(now).into_iter().map(JobId);
        due.filter(|id| self.places[id.0 as usize].is_some()).collect()
    }

    /// What jobs are configured, by service and instance, with those that are not known.
    pub(in crate::presence) fn unknown_configured(&self) -> Vec<(String, String)> {
        let names = self.rules.iter().flat_map(|(service, all)| all.keys().map(move |instance| (service, instance)));
        let unknown = names.filter(|(service, instance)| self.find(service, instance).is_none());
        unknown.map(|(service, instance)| (service.to_string(), instance.to_string())).collect()
    }

    /// Whether an instance is a job of its own in a service that is one job as a whole.
    pub(in crate::presence) fn is_shadowed(&self, service: &str, instance: &str) -> bool {
        let whole = self.rule_of(service, ANYBODY).filter(|rule| rule.instance.is_none());
        instance != ANYBODY && whole.is_some() && self.rule_of(service, instance).is_none()
    }
}
