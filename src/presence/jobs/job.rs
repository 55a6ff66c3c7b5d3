//! One job: its runs, when the next one is due, and what of that was notified. Times that a schedule asks for are wall time,
//! everything else is on the engine's clock.

use std::collections::VecDeque;
use std::sync::Arc;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use crate::memory::vec_footprint;
use crate::protocol::{Heartbeat, JobStatus, JobTags};

use super::blind_times::WhenBlind;
use super::runs::{ClosedRun, EndedRun, FinishedRun, HISTORY, NO_ID, OpenRun, RunResult, TEXT_BYTES, named};
use super::schedule::CronSchedule;
use super::state::{JobReason, JobState};
use crate::presence::event::{Change, Event, JobContext};
use crate::presence::job_lines::{HeardBy, JobName, OF_EACH};
use crate::presence::policy::grace_for;
use crate::presence::text_bytes;
use crate::presence::time::{EngineTime, Epoch, UnixTime};

/// Most runs that are open at a time.
const MOST_OPEN: usize = 8;

/// Runs that are remembered when they are not open any more: those whose starts a peer may tell again.
const MOST_CLOSED: usize = OF_EACH;

/// Messages of one kind about one run that come closer than this are copies, in seconds.
const COPIES_SECS: f64 = 10.0;

/// A line up to this long before its time serves that time, in seconds; in schedules that come often a part of their period.
const EARLY_SECS: f64 = 60.0;
const EARLY_PART: f64 = 0.25;

/// Grace of a job with a schedule that says when it starts, and what an hour that comes twice adds, in seconds.
const START_GRACE: f64 = 300.0;
const HOUR: f64 = 3600.0;

/// A step of the wall clock from which on times of schedules are found again, in seconds.
const CLOCK_STEP: f64 = 60.0;

/// Runs, and seconds between the first sign of it and the last, from which on a job does not give way to new ones.
const ESTABLISHED_RUNS: u64 = 2;
const ESTABLISHED_SECS: f64 = 60.0;

/// Lines of which it is remembered who has heard them.
const MOST_SOURCES: usize = 8;

/// What is configured of a job.
#[derive(Clone, Debug, PartialEq)]
pub struct JobRule {
    /// Its service.
    pub service: String,
    /// This instance only; without one, whoever runs it is the same job.
    pub instance: Option<String>,
    /// When it runs.
    pub schedule: Option<CronSchedule>,
    /// Or how often, in seconds.
    pub every: Option<f64>,
    /// How long after its time a run may come, in seconds.
    pub grace: Option<f64>,
    /// How long a run may take, in seconds.
    pub max_runtime: Option<f64>,
}

/// What a job is judged by, beside itself.
#[derive(Clone, Copy)]
pub(in crate::presence) struct Surroundings<'a> {
    /// The engine's clock.
    pub(in crate::presence) now: EngineTime,
    /// Where it stands in wall time.
    pub(in crate::presence) epoch: Epoch,
    /// When we could not hear.
    pub(in crate::presence) blind: WhenBlind<'a>,
    /// Nobody is to be notified of this service.
    pub(in crate::presence) is_muted: bool,
}

impl Surroundings<'_> {
    fn wall(&self) -> UnixTime {
        self.epoch.to_unix(self.now)
    }
}

/// When the next run is to be heard, without its grace.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
enum DueAt {
    /// By a schedule.
    Wall(UnixTime),
    /// After the last one.
    Engine(EngineTime),
}

/// When the next run is to be heard.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Due {
    at: DueAt,
    /// Seconds that it may be late.
    grace: f64,
    /// The wall clock was set forward over it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    is_passed_over: bool,
}

impl Due {
    fn new(at: DueAt, grace: f64) -> Due {
        Due { at, grace, is_passed_over: false }
    }

    /// On the engine's clock, without its grace.
    fn engine(&self, epoch: Epoch) -> EngineTime {
        match self.at {
            DueAt::Wall(at) => epoch.to_engine(at),
            DueAt::Engine(at) => at,
        }
    }

    /// In wall time, without its grace.
    fn unix(&self, epoch: Epoch) -> UnixTime {
        match self.at {
            DueAt::Wall(at) => at,
            DueAt::Engine(at) => epoch.to_unix(at),
        }
    }
}

/// Who has heard a line of a job.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct LineSources {
    at: EngineTime,
    begins: bool,
    by: Vec<HeardBy>,
}

/// What is remembered of a job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::presence) struct Job {
    service: CompactString,
    instance: CompactString,
    /// Place in the order of registration.
    #[serde(skip)]
    order: u64,
    /// What is configured of it.
    #[serde(skip)]
    rule: Option<Arc<JobRule>>,
    /// Nobody is to be notified of its service.
    #[serde(skip)]
    muted: bool,
    state: JobState,
    /// Since when it is in its state.
    changed: EngineTime,
    /// When it was last heard; configured jobs begin with the start.
    heard: EngineTime,
    /// When it was first heard.
    #[serde(default)]
    born: EngineTime,
    /// When the last line that said something of a run was sent, and the last one that said the end of one. Among several
    /// observers a line may come after a later one.
    #[serde(default)]
    told_at: EngineTime,
    #[serde(default)]
    ended_at: EngineTime,
    /// Who has heard its last lines, if there are several observers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    sources: Vec<LineSources>,
    /// The interval that its lines promise, and the longest run that they allow.
    promised: Option<f64>,
    promised_runtime: Option<f64>,
    due: Option<Due>,
    /// What `due` was found by, to notice that it is configured otherwise.
    basis: String,
    /// Runs that have begun, in that order.
    open: Vec<OpenRun>,
    /// Runs that ended of late, and those that had begun and are not open any more, whatever became of them.
    ended: Vec<EndedRun>,
    #[serde(default)]
    closed: VecDeque<ClosedRun>,
    /// It says when it starts.
    says_starts: bool,
    /// A run that was due may have come, or the end of one may have been said, while we could not hear; and no end was heard
    /// since. The next time in a row is none.
    unheard: bool,
    /// When that was last found.
    #[serde(default)]
    unheard_at: EngineTime,
    /// How bad it is what was notified: see [`JobState::level`].
    level: u8,
    /// A problem that maintenance suppresses.
    pending: Option<(JobState, JobReason)>,
    maintenance_until: EngineTime,
    /// It said goodbye. Only what is configured stays then.
    #[serde(default)]
    is_retired: bool,
    /// The newest last.
    history: VecDeque<FinishedRun>,
    succeeded: Option<UnixTime>,
    last_duration: Option<f64>,
    /// Runs since it is known, by result; and of these, what sinks do not have yet.
    counts: [u64; RunResult::ALL.len()],
    #[serde(skip)]
    fresh: [u32; RunResult::ALL.len()],
}

impl Job {
    pub(in crate::presence) fn new(service: &str, instance: &str, now: EngineTime) -> Job {
        Job {
            service: service.into(),
            instance: instance.into(),
            order: 0,
            rule: None,
            muted: false,
            state: JobState::Waiting,
            changed: now,
            heard: now,
            born: now,
            told_at: EngineTime::LONG_AGO,
            ended_at: EngineTime::LONG_AGO,
            sources: Vec::new(),
            promised: None,
            promised_runtime: None,
            due: None,
            basis: String::new(),
            open: Vec::new(),
            ended: Vec::new(),
            closed: VecDeque::new(),
            says_starts: false,
            unheard: false,
            unheard_at: EngineTime::LONG_AGO,
            level: 0,
            pending: None,
            maintenance_until: EngineTime::default(),
            is_retired: false,
            history: VecDeque::new(),
            succeeded: None,
            last_duration: None,
            counts: [0; RunResult::ALL.len()],
            fresh: [0; RunResult::ALL.len()],
        }
    }

    /// The same in this place of the order, and with what is configured of it. When it is due is found anew if that says
    /// otherwise than before.
    pub(in crate::presence) fn placed(self, order: u64, rule: Option<Arc<JobRule>>) -> Job {
        let mut job = Job { order, rule, ..self };
        if job.basis != job.current_basis() {
            job.due = None;
        }
        job
    }

    /// One that was saved at `now`: nothing was seen later.
    pub(in crate::presence) fn restored(self, now: EngineTime) -> Job {
        Job {
            changed: self.changed.min(now),
            heard: self.heard.min(now),
            born: self.born.min(now),
            told_at: self.told_at.min(now),
            ended_at: self.ended_at.min(now),
            unheard_at: self.unheard_at.min(now),
            ..self
        }
    }
}

/// The machine that a line is from: what it says, else its instance.
fn host_of(beat: &Heartbeat) -> Option<CompactString> {
    let said = beat.job.as_ref().and_then(|tags| tags.host.as_ref());
    said.or(Some(&beat.instance)).filter(|host| **host != NO_ID).cloned()
}

/// Who it is, and what is shown of it.
impl Job {
    pub(in crate::presence) fn service(&self) -> &CompactString {
        &self.service
    }

    pub(in crate::presence) fn instance(&self) -> &CompactString {
        &self.instance
    }

    /// Its service and its instance.
    pub(in crate::presence) fn name(&self) -> JobName {
        (self.service.clone(), self.instance.clone())
    }

    pub(in crate::presence) fn order(&self) -> u64 {
        self.order
    }

    pub(in crate::presence) fn is_muted(&self) -> bool {
        self.muted
    }

    /// The same; nobody is to be notified of it if its service is muted.
    pub(in crate::presence) fn muted(self, muted: bool) -> Job {
        Job { muted, ..self }
    }

    pub(in crate::presence) fn state(&self) -> JobState {
        self.state
    }

    pub(in crate::presence) fn changed(&self) -> EngineTime {
        self.changed
    }

    pub(in crate::presence) fn rule(&self) -> Option<&JobRule> {
        self.rule.as_deref()
    }

    pub(in crate::presence) fn is_configured(&self) -> bool {
        self.rule.is_some()
    }

    /// Whether whoever runs it is the same job.
    pub(in crate::presence) fn is_whole_service(&self) -> bool {
        self.rule.as_ref().is_some_and(|rule| rule.instance.is_none())
    }

    pub(in crate::presence) fn is_retired(&self) -> bool {
        self.is_retired
    }

    /// Whether a run of it was ever heard.
    pub(in crate::presence) fn was_heard(&self) -> bool {
        self.runs_heard() > 0 || !self.open.is_empty() || self.says_starts
    }

    /// Whether it does not give way to new ones: it is configured, or was heard more than once, for longer than it may be
    /// silent.
    pub(in crate::presence) fn is_established(&self) -> bool {
        let age = self.heard - self.born;
        self.is_configured() || (self.runs_heard() >= ESTABLISHED_RUNS && age >= self.patience().max(ESTABLISHED_SECS))
    }

    /// Runs that came, whatever became of them.
    fn runs_heard(&self) -> u64 {
        [RunResult::Ok, RunResult::Failed, RunResult::Lost].map(|result| self.counts[result as usize]).iter().sum()
    }

    /// Whether nothing is awaited of it: neither a run nor the end of one.
    pub(in crate::presence) fn is_idle(&self) -> bool {
        self.due.is_none() && self.open.is_empty() && !self.is_configured()
    }

    /// When it is forgotten: so long after what was last awaited of it, unless it is configured.
    pub(in crate::presence) fn forgotten_at(&self, forget_after: f64) -> EngineTime {
        if self.is_configured() {
            return EngineTime::NEVER;
        }
        self.heard + self.patience() + forget_after
    }

    /// How long after a sign of it the next one may be, in seconds.
    fn patience(&self) -> f64 {
        self.every().map_or(0.0, |every| every + self.grace(every))
    }

    pub(in crate::presence) fn heard(&self) -> EngineTime {
        self.heard
    }

    /// Whether it was not heard when it was last awaited, or not yet, and nothing worse is known.
    pub(in crate::presence) fn is_unheard(&self) -> bool {
        self.badness() == 0 && matches!(self.state, JobState::Waiting | JobState::Unheard)
    }

    /// When the last line that said something of a run was sent.
    pub(in crate::presence) fn told_at(&self) -> EngineTime {
        self.told_at
    }

    /// Who has heard its last lines.
    pub(in crate::presence) fn sources(&self) -> impl Iterator<Item = &[HeardBy]> {
        self.sources.iter().map(|line| line.by.as_slice())
    }

    /// A node has heard a line of it, which says that a run begins or something else.
    pub(in crate::presence) fn note_source(&mut self, by: HeardBy, begins: bool, at: EngineTime) {
        let is_copy = |line: &&mut LineSources| line.begins == begins && (at - line.at).abs() < COPIES_SECS;
        // What the peer that tells of it has not heard itself, and is not known here, this node may have heard, before it
        // lost what it knew.
        let is_relayed = by == HeardBy::Another;
        let by = if is_relayed { HeardBy::Here } else { by };
        if let Some(line) = self.sources.iter_mut().find(is_copy) {
            if !is_relayed && !line.by.contains(&by) {
                line.by.push(by);
            }
            return;
        }
        let place = self.sources.partition_point(|line| line.at <= at);
        self.sources.insert(place, LineSources { at, begins, by: vec![by] });
        if self.sources.len() > MOST_SOURCES {
            self.sources.remove(0);
        }
    }

    /// The places of peers are others now. What only such have heard as are none any more says nothing.
    pub(in crate::presence) fn renumber_sources(&mut self, place_of: impl Fn(u16) -> Option<u16>) {
        for line in &mut self.sources {
            let by = std::mem::take(&mut line.by).into_iter();
            line.by = by.filter_map(|by| by.renumbered(&place_of)).collect();
        }
        self.sources.retain(|line| !line.by.is_empty());
    }

    /// How bad it is, notified or not: 0 is well, 1 can wait, 2 wakes somebody.
    pub(in crate::presence) fn badness(&self) -> u8 {
        let pending = self.pending.map_or(0, |(state, _)| state.level());
        self.level.max(self.state.level()).max(pending)
    }

    pub(in crate::presence) fn is_maintained(&self, now: EngineTime) -> bool {
        self.maintenance_until > now
    }

    /// When its maintenance ends, if it is in one.
    pub(in crate::presence) fn maintained_until(&self, now: EngineTime) -> Option<EngineTime> {
        self.is_maintained(now).then_some(self.maintenance_until)
    }

    pub(in crate::presence) fn maintain_until(&mut self, until: EngineTime) {
        self.maintenance_until = until;
    }

    /// When the next run is due, and until when it may come.
    pub(in crate::presence) fn due(&self, epoch: Epoch) -> Option<(UnixTime, f64)> {
        self.due.map(|due| (due.unix(epoch), due.grace))
    }

    pub(in crate::presence) fn every(&self) -> Option<f64> {
        self.rule.as_ref().and_then(|rule| rule.every).or(self.promised)
    }

    pub(in crate::presence) fn max_runtime(&self) -> Option<f64> {
        self.rule.as_ref().and_then(|rule| rule.max_runtime).or(self.promised_runtime)
    }

    pub(in crate::presence) fn open_runs(&self) -> &[OpenRun] {
        &self.open
    }

    /// Runs that are over, the newest last.
    pub(in crate::presence) fn history(&self) -> &VecDeque<FinishedRun> {
        &self.history
    }

    /// When a run last ended well.
    pub(in crate::presence) fn succeeded(&self) -> Option<UnixTime> {
        self.succeeded
    }

    /// How long the last run took that said so, in seconds.
    pub(in crate::presence) fn last_duration(&self) -> Option<f64> {
        self.last_duration
    }

    /// Runs since it is known, by result.
    pub(in crate::presence) fn counts(&self) -> [(RunResult, u64); RunResult::ALL.len()] {
        RunResult::ALL.map(|result| (result, self.counts[result as usize]))
    }

    /// Runs since this was last asked, by result.
    pub(in crate::presence) fn take_fresh(&mut self) -> [(RunResult, u32); RunResult::ALL.len()] {
        let fresh = std::mem::take(&mut self.fresh);
        RunResult::ALL.map(|result| (result, fresh[result as usize]))
    }

    /// Bytes that it takes beside itself.
    pub(in crate::presence) fn heap_bytes(&self) -> usize {
        let names = text_bytes(&self.service) + text_bytes(&self.instance);
        let open = self.open.iter().map(OpenRun::heap_bytes).sum::<usize>();
        let ended = self.ended.iter().map(|ended| text_bytes(&ended.id)).sum::<usize>();
        let closed = self.closed.iter().map(|closed| text_bytes(&closed.id)).sum::<usize>();
        let history = self.history.iter().map(FinishedRun::heap_bytes).sum::<usize>();
        names
            + crate::memory::footprint(self.basis.capacity())
            + open
            + ended
            + closed
            + history
            + vec_footprint::<LineSources>(self.sources.capacity())
            + vec_footprint::<OpenRun>(self.open.capacity())
            + vec_footprint::<EndedRun>(self.ended.capacity())
            + vec_footprint::<ClosedRun>(self.closed.capacity())
            + vec_footprint::<FinishedRun>(self.history.capacity())
    }
}

/// What its lines say.
impl Job {
    /// Takes a line of it: what that says of a run, the interval it promises, and a message. One that says nothing of a run
    /// shows progress and nothing else.
    pub(in crate::presence) fn take(
        &mut self,
        beat: &Heartbeat,
        by: Surroundings<'_>,
        out: &mut Vec<Event<EngineTime>>,
    ) {
        self.heard = self.heard.max(by.now);
        let Some(tags) = beat.job.as_deref() else { return };
        let Some(status) = tags.status else { return };
        let is_late = by.now < self.told_at;
        if is_late && self.is_retired {
            return;
        }
        if self.is_retired {
            (self.is_retired, self.state) = (false, JobState::Waiting);
        }
        let id = tags.run.as_ref().or(beat.start.as_ref()).cloned().unwrap_or_else(|| NO_ID.into());
        if !is_late {
            self.told_at = by.now;
            self.promised = beat.interval.or(self.promised);
            self.promised_runtime = tags.max_runtime.or(self.promised_runtime);
        }
        match status {
            JobStatus::Start if is_late => self.begin_earlier_run(id, host_of(beat), by),
            JobStatus::Start => self.begin_run(id, host_of(beat), by, out),
            JobStatus::Ok | JobStatus::Fail => self.end_run(id, tags, beat, by, out),
        }
    }

    /// Runs of an id that ended a moment ago: messages about them are copies.
    fn just_ended(&self, id: &str, now: EngineTime) -> impl Iterator<Item = &EndedRun> {
        self.ended.iter().filter(move |ended| ended.id == id && (now - ended.at).abs() < COPIES_SECS)
    }

    /// Whether a run of an id that began at a time has begun here before, and is not open any more.
    fn is_closed(&self, id: &str, began: EngineTime) -> bool {
        self.closed.iter().any(|closed| closed.id == id && (closed.began - began).abs() < COPIES_SECS)
    }

    /// Takes a run out of those that are open.
    fn close(&mut self, at: usize) -> OpenRun {
        let run = self.open.remove(at);
        self.note_closed(&run);
        run
    }

    /// Takes out the runs that are open and meant.
    fn close_all(&mut self, is_meant: impl Fn(&OpenRun) -> bool) {
        while let Some(at) = self.open.iter().position(&is_meant) {
            self.close(at);
        }
    }

    fn note_closed(&mut self, run: &OpenRun) {
        if self.closed.len() >= MOST_CLOSED {
            self.closed.pop_front();
        }
        self.closed.push_back(ClosedRun { id: run.id.clone(), began: run.began });
    }

    fn begin_run(
        &mut self,
        id: CompactString,
        host: Option<CompactString>,
        by: Surroundings<'_>,
        out: &mut Vec<Event<EngineTime>>,
    ) {
        let is_open = self.open.iter().position(|run| run.id == id);
        let is_copy = is_open.is_some_and(|at| by.now - self.open[at].began < COPIES_SECS);
        if is_copy || self.just_ended(&id, by.now).next().is_some() || self.is_closed(&id, by.now) {
            return;
        }
        self.give_up_excused(by);
        let is_open = self.open.iter().position(|run| run.id == id);
        // Without ids a start means that the run before never ended.
        if is_open.is_some() || (id == NO_ID && !self.open.is_empty()) {
            self.lose(is_open.unwrap_or(0), JobReason::NoEnd, by, out);
        }
        while self.open.len() >= MOST_OPEN {
            self.lose(0, JobReason::TooManyRuns, by, out);
        }
        let run = OpenRun::begun(id.clone(), host.clone(), by.now, by.wall());
        self.open.push(run);
        self.says_starts = true;
        self.await_next(by.wall(), by.now);
        if self.state != JobState::Running {
            let context = JobContext { run: named(&id), host, ..JobContext::default() };
            self.change((JobState::Running, JobReason::Started), context, by, out);
        }
    }

    /// Runs whose end may have been said while we could not hear are over when another one begins.
    fn give_up_excused(&mut self, by: Surroundings<'_>) {
        while let Some(at) = self.open.iter().position(|run| run.excused.is_some()) {
            let run = self.close(at);
            self.record(FinishedRun::of(&run, RunResult::Unheard, by.wall()));
        }
    }

    /// A start that is known after a later line: the run goes on, unless it was known before and is over, or its end, or that
    /// of any without an id, is known. Peers tell everything again to whoever starts again.
    fn begin_earlier_run(&mut self, id: CompactString, host: Option<CompactString>, by: Surroundings<'_>) {
        self.says_starts = true;
        let is_end = |ended: &EndedRun| ended.id == id || ended.id == NO_ID;
        let is_known = self.open.iter().any(|run| run.id == id)
            || self.is_closed(&id, by.now)
            || self.ended.iter().any(|ended| is_end(ended) && ended.at >= by.now - COPIES_SECS);
        if id != NO_ID && !is_known && self.open.len() < MOST_OPEN {
            let place = self.open.partition_point(|run| run.began <= by.now);
            self.open.insert(place, OpenRun::begun(id, host, by.now, by.wall()));
        }
    }

    /// An open run never ended.
    fn lose(&mut self, at: usize, why: JobReason, by: Surroundings<'_>, out: &mut Vec<Event<EngineTime>>) {
        let run = self.close(at);
        let context = JobContext { run: named(&run.id), host: run.host.clone(), ..JobContext::default() };
        self.record(FinishedRun::of(&run, RunResult::Lost, by.wall()));
        self.change((JobState::Lost, why), context, by, out);
    }

    fn end_run(
        &mut self,
        id: CompactString,
        tags: &JobTags,
        beat: &Heartbeat,
        by: Surroundings<'_>,
        out: &mut Vec<Event<EngineTime>>,
    ) {
        let is_late = by.now < self.told_at;
        let known = self.open.iter().position(|run| run.id == id && run.began <= by.now);
        let is_good = tags.status == Some(JobStatus::Ok);
        // An end of another status is that of another run.
        if known.is_none() && self.just_ended(&id, by.now).any(|ended| ended.is_good == is_good) {
            return;
        }
        let is_its = self.open.len() == 1 && id == NO_ID && self.open[0].began <= by.now;
        let known = known.or(is_its.then_some(0));
        if known.is_none() && is_good {
            // What hangs, and was notified, is overtaken by a run whose start was not heard, too.
            self.close_all(|run| run.overran && run.began <= by.now);
        }
        if known.is_none() && !is_late && (!self.says_starts || self.open.is_empty()) {
            // Nobody told us of a start: the end is the sign of the run.
            self.says_starts &= !self.open.is_empty();
            self.await_next(by.wall(), by.now);
        }
        let run = known.map(|at| self.close(at));
        if self.ended.len() >= 2 * MOST_OPEN {
            self.ended.remove(0);
        }
        self.ended.push(EndedRun { id: id.clone(), is_good, at: by.now });
        self.unheard &= is_late;
        let result = if is_good { RunResult::Ok } else { RunResult::Failed };
        let lasted = tags.duration.or(run.as_ref().map(|run| by.now - run.began));
        let said = beat.message.as_ref().filter(|message| !message.is_empty());
        let message = said.cloned().or_else(|| tags.complaint());
        let host = host_of(beat).or_else(|| run.as_ref().and_then(|run| run.host.clone()));
        let mut finished = match &run {
            Some(run) => FinishedRun::of(run, result, by.wall()),
            None => FinishedRun::unseen(named(&id), result, by.wall()),
        };
        (finished.duration_s, finished.exit) = (lasted, tags.exit);
        (finished.host, finished.message) = (host.clone(), message.clone());
        self.record(finished);
        self.last_duration = lasted.or(self.last_duration);
        let context = JobContext { run: named(&id), host, duration_s: lasted, message, ..JobContext::default() };
        if by.now < self.ended_at {
            // How a later one ended says more.
            return;
        }
        self.ended_at = by.now;
        if is_good {
            self.succeeded = Some(by.wall());
            if let Some(run) = run {
                // What began before, and was notified, has been overtaken: it hides no run that does not come.
                self.close_all(|other| other.overran && other.began <= run.began);
            }
            self.change((JobState::Ok, JobReason::Ended), context, by, out);
        } else {
            let said_so = if tags.odd_status.is_some() { JobReason::BadStatus } else { JobReason::Failed };
            let reason = tags.exit.filter(|exit| *exit != 0).map_or(said_so, JobReason::Exit);
            self.change((JobState::Failed, reason), context, by, out);
        }
    }

    /// It is no job any more; what is configured is awaited again when it is next heard.
    pub(in crate::presence) fn retire(
        &mut self,
        why: JobReason,
        by: Surroundings<'_>,
        out: &mut Vec<Event<EngineTime>>,
    ) {
        if self.is_retired {
            return;
        }
        self.open.clear();
        (self.due, self.is_retired) = (None, true);
        self.change((JobState::Retired, why), JobContext::default(), by, out);
    }

    /// An operator has it forgotten. What is configured is awaited as if it had never been heard; everything else retires.
    pub(in crate::presence) fn forget(&mut self, by: Surroundings<'_>, out: &mut Vec<Event<EngineTime>>) {
        if !self.is_configured() {
            self.retire(JobReason::Operator, by, out);
            return;
        }
        self.change((JobState::Waiting, JobReason::Operator), JobContext::default(), by, out);
        let (service, instance, rule) = (self.service.clone(), self.instance.clone(), self.rule.clone());
        let new = Job::new(&service, &instance, by.now).placed(self.order, rule).muted(self.muted);
        *self = Job { maintenance_until: self.maintenance_until, fresh: self.fresh, ..new };
        self.await_first(by);
    }
}

/// What time means.
impl Job {
    /// When the next run is to be heard, after one at `wall`, which is now or the time that a run missed.
    fn await_next(&mut self, wall: UnixTime, now: EngineTime) {
        self.basis = self.current_basis();
        if let Some(schedule) = self.rule.as_ref().and_then(|rule| rule.schedule.as_ref()) {
            let next = schedule.next(wall + EARLY_SECS).and_then(|following| {
                let next = schedule.next(wall + EARLY_SECS.min((following.at - wall) * EARLY_PART))?;
                let period = schedule.next(next.at + EARLY_SECS).map_or(HOUR, |after| after.at - next.at);
                Some((next, period))
            });
            self.due = next.map(|(next, period)| {
                let twice = if next.is_twice { HOUR } else { 0.0 };
                Due::new(DueAt::Wall(next.at), self.grace(period) + twice)
            });
        } else if let Some(every) = self.every() {
            self.due = Some(Due::new(DueAt::Engine(now + every), self.grace(every)));
        }
    }

    /// Awaits its first run, if it is configured when that is.
    pub(in crate::presence) fn await_first(&mut self, by: Surroundings<'_>) {
        if self.due.is_none() && !self.is_retired && self.is_configured() {
            self.await_next(by.wall(), by.now);
        }
    }

    /// By what it is found when the next run is due.
    fn current_basis(&self) -> String {
        match self.rule.as_ref().and_then(|rule| rule.schedule.as_ref()) {
            Some(schedule) => format!("{} {}", schedule.fields(), schedule.zone()),
            None => self.every().map_or_else(String::new, |every| every.to_string()),
        }
    }

    fn grace(&self, period: f64) -> f64 {
        let rule = self.rule.as_ref();
        rule.and_then(|rule| rule.grace).unwrap_or_else(|| {
            let has_schedule = rule.is_some_and(|rule| rule.schedule.is_some());
            if self.says_starts && has_schedule { START_GRACE } else { grace_for(period) }
        })
    }

    /// The wall clock was set, by so many seconds. A time that it passed over, as where we were suspended, is one at which we
    /// could not hear. A time that it lies before again is found anew.
    pub(in crate::presence) fn clock_stepped(&mut self, step: f64, by: Surroundings<'_>) {
        let Some(Due { at: DueAt::Wall(at), .. }) = self.due else { return };
        let wall = by.wall();
        let is_passed_over = step >= CLOCK_STEP && at <= wall && at > wall - step;
        // Steps that follow each other are one.
        let is_set_again = is_passed_over && self.unheard && by.now - self.unheard_at < CLOCK_STEP;
        if step <= -CLOCK_STEP || is_set_again {
            self.await_next(wall, by.now);
        } else if let Some(due) = &mut self.due {
            due.is_passed_over |= is_passed_over;
        }
    }

    /// When time alone may change something about it.
    pub(in crate::presence) fn next_look(&self, by: Surroundings<'_>, forget_after: f64) -> EngineTime {
        let limit = self.max_runtime();
        let runs = self.open.iter().filter(|run| !run.overran);
        let overruns = runs.filter_map(|run| limit.map(|limit| run.overruns_at(limit)));
        let due = self.due.map(|due| due.engine(by.epoch) + due.grace);
        let pending = self.pending.map(|_| self.maintenance_until);
        let forgotten = self.forgotten_at(forget_after);
        overruns.chain(due).chain(pending).chain([forgotten]).fold(EngineTime::NEVER, EngineTime::min)
    }

    /// Lets time pass.
    pub(in crate::presence) fn evaluate(&mut self, by: Surroundings<'_>, out: &mut Vec<Event<EngineTime>>) {
        if let Some((to, _)) = self.pending.filter(|_| !self.is_maintained(by.now)) {
            self.pending = None;
            // No run ended well since, whatever else has begun.
            if to.level() > self.level {
                self.change((to, JobReason::MaintenanceOver), JobContext::default(), by, out);
            }
        }
        if let Some(limit) = self.max_runtime() {
            while let Some(at) = self.open.iter().position(|run| !run.overran && by.now >= run.overruns_at(limit)) {
                self.overrun(at, JobReason::MaxRuntime, by, out);
            }
        }
        let Some(due) = self.due else { return };
        let at = due.engine(by.epoch);
        if by.now < at + due.grace {
            return;
        }
        self.skip_due(due, by);
        if self.open.iter().any(|run| self.may_run(run, by.now)) {
            // The clock was set over that time: whether anybody would have started is not known.
            if !self.open[0].overran && !due.is_passed_over {
                self.overrun(0, JobReason::StillRunning, by, out);
            }
        } else {
            self.miss(due, by, out);
        }
    }

    /// Whether somebody said that a run may take as long as it does by now.
    fn may_run(&self, run: &OpenRun, now: EngineTime) -> bool {
        self.max_runtime().is_some_and(|limit| now < run.began + limit)
    }

    /// No run came when one was due. One that hangs, or died with its host, stands for no other.
    fn miss(&mut self, due: Due, by: Surroundings<'_>, out: &mut Vec<Event<EngineTime>>) {
        let at = due.engine(by.epoch);
        let is_hidden = due.is_passed_over && !self.unheard;
        let may_have_come = is_hidden || self.is_excused((at - EARLY_SECS, at + due.grace), by);
        let (result, change) = if may_have_come {
            (RunResult::Unheard, (JobState::Unheard, JobReason::Blind))
        } else {
            let why = if self.open.is_empty() { JobReason::NoRun } else { JobReason::StillRunning };
            (RunResult::Missed, (JobState::Missed, why))
        };
        if may_have_come {
            self.note_unheard(by.now);
        }
        for run in &mut self.open {
            // As the next run may have begun, so may this one have ended.
            run.excused = may_have_come.then_some(by.now);
            run.overran |= !may_have_come;
        }
        let due = due.unix(by.epoch);
        self.record(FinishedRun::absent(result, due));
        self.change(change, JobContext { due: Some(due), ..JobContext::default() }, by, out);
    }

    /// Whether a line between two times may have been missed: once in a row; and as long as the loss of a peer goes on that
    /// excused the last one, or the alarm that it is lost stands in place of the job's.
    fn is_excused(&self, (from, to): (EngineTime, EngineTime), by: Surroundings<'_>) -> bool {
        !self.unheard && by.blind.overlap(from, to) || by.blind.are_lost_still(from, to, self.unheard_at)
    }

    fn note_unheard(&mut self, now: EngineTime) {
        (self.unheard, self.unheard_at) = (true, now);
    }

    /// Awaits the run after one that was due.
    fn skip_due(&mut self, due: Due, by: Surroundings<'_>) {
        match due.at {
            // The clock has shown none of the times before now.
            DueAt::Wall(_) if due.is_passed_over => self.await_next(by.wall(), by.now),
            DueAt::Wall(at) => self.await_next(at.max(by.wall() - due.grace), by.now),
            DueAt::Engine(at) => {
                let Some(every) = self.every().filter(|every| *every > 0.0) else { return };
                let passed = ((by.now - (at + due.grace)) / every).floor().max(0.0) + 1.0;
                self.due = Some(Due { at: DueAt::Engine(at + passed * every), ..due });
            }
        }
    }

    /// An open run lasts for too long, unless its end may have been said while we could not hear. That excuses it once: not
    /// the next run, if no end was heard since, nor the same one when it is looked at again; unless a lost peer excuses
    /// more. It is looked at again one `max_runtime` later if no other is ever due: nothing else would say that it hangs.
    fn overrun(&mut self, at: usize, why: JobReason, by: Surroundings<'_>, out: &mut Vec<Event<EngineTime>>) {
        let run = &self.open[at];
        let context = JobContext {
            run: named(&run.id),
            host: run.host.clone(),
            duration_s: Some(by.now - run.began),
            ..JobContext::default()
        };
        let is_excused = match run.excused {
            None => self.is_excused((run.began, by.now), by),
            Some(before) => by.blind.are_lost_still(before, by.now, self.unheard_at),
        };
        if is_excused {
            self.note_unheard(by.now);
            self.open[at].excused = Some(by.now);
            if why == JobReason::MaxRuntime && self.due.is_some() {
                // Whether the next one comes is judged by itself.
                let run = self.close(at);
                self.record(FinishedRun::of(&run, RunResult::Unheard, by.wall()));
            }
            self.change((JobState::Unheard, JobReason::EndUnheard), context, by, out);
        } else {
            (self.open[at].overran, self.open[at].excused) = (true, None);
            self.change((JobState::Overrun, why), context, by, out);
        }
    }

    fn record(&mut self, run: FinishedRun) {
        let (count, fresh) = (&mut self.counts[run.result as usize], &mut self.fresh[run.result as usize]);
        *count += 1;
        *fresh = fresh.saturating_add(1);
        if self.history.len() >= HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(run);
        self.bound_texts();
    }

    /// Of old runs the texts go first, and before them those of runs that did not fail.
    fn bound_texts(&mut self) {
        let bytes_of = |run: &FinishedRun| run.message.as_ref().map_or(0, CompactString::len);
        while self.history.iter().map(bytes_of).sum::<usize>() > TEXT_BYTES {
            let dispensable = |run: &FinishedRun| run.message.is_some() && run.result != RunResult::Failed;
            let mut runs = self.history.iter();
            let at = runs.position(dispensable).or_else(|| self.history.iter().position(|run| run.message.is_some()));
            let Some(at) = at else { return };
            self.history[at].message = None;
        }
    }

    /// Changes its state. A problem is notified once, and again when it gets worse; what ends it is a run that ended well, a
    /// goodbye, or an operator.
    fn change(
        &mut self,
        (to, reason): (JobState, JobReason),
        mut context: JobContext,
        by: Surroundings<'_>,
        out: &mut Vec<Event<EngineTime>>,
    ) {
        let level = to.level();
        let ends = matches!(to, JobState::Ok | JobState::Retired) || reason == JobReason::Operator;
        let notify = if ends {
            self.pending = None;
            std::mem::take(&mut self.level) > 0
        } else if level > 0 && self.is_maintained(by.now) {
            // The worst stands, and of equal ones the last.
            if self.pending.is_none_or(|(known, _)| level >= known.level()) {
                self.pending = Some((to, reason));
            }
            false
        } else {
            let is_worse = level > self.level;
            self.level = self.level.max(level);
            is_worse
        };
        if level > 0 {
            (context.last_success, context.next_due) = (self.succeeded, self.due(by.epoch).map(|(due, _)| due));
        }
        let change = Change::Job { from: self.state, to, reason };
        out.push(Event {
            service: Some(self.service.clone()),
            instance: Some(self.instance.clone()),
            job: Some(context).filter(|context| *context != JobContext::default()),
            ..Event::new(by.now, change, notify && !by.is_muted)
        });
        (self.state, self.changed) = (to, by.now);
    }
}
