//! Jobs as the API shows them.

use compact_str::CompactString;
use serde::Serialize;
use utoipa::ToSchema;

use super::job::Job;
use super::runs::{FinishedRun, OpenRun, RunResult, named};
use super::state::JobState;
use crate::presence::announced::Announced;
use crate::presence::time::{EngineTime, Epoch, UnixTime};

/// A job with its last runs, as the API shows it.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct JobView {
    /// Its service.
    #[schema(value_type = String)]
    pub service: CompactString,
    /// Its instance; `-` is whoever runs it.
    #[schema(value_type = String)]
    pub instance: CompactString,
    /// Its state.
    #[schema(value_type = String)]
    pub state: JobState,
    /// In this state since, RFC 3339.
    pub since: String,
    /// How bad it is since its last good run: 0 is well, 1 a warning, 2 critical.
    pub level: u8,
    /// Its schedule: five fields of cron.
    pub schedule: Option<String>,
    /// The time zone of the schedule.
    pub timezone: Option<String>,
    /// Seconds between two runs, without a schedule.
    pub every_s: Option<f64>,
    /// When the next run is due, RFC 3339.
    pub due: Option<String>,
    /// Seconds until then; below 0 it is awaited.
    pub due_in_s: Option<f64>,
    /// Seconds that a run may be late.
    pub grace_s: Option<f64>,
    /// Seconds that a run may take.
    pub max_runtime_s: Option<f64>,
    /// Whether it is in maintenance.
    pub maintenance: bool,
    /// Until when, RFC 3339.
    pub maintenance_until: Option<String>,
    /// Who announced that, as they say.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub maintenance_by: Option<CompactString>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub maintenance_why: Option<CompactString>,
    /// When a run last ended well, RFC 3339.
    pub last_success: Option<String>,
    /// How long the last run took that ended.
    pub last_duration_s: Option<f64>,
    /// Runs that go on, the oldest first.
    pub running: Vec<OpenRunView>,
    /// The last runs that are over, and those that did not come, the newest first.
    pub runs: Vec<RunView>,
}

/// A run that goes on.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct OpenRunView {
    /// Its id, if it has one.
    #[schema(value_type = Option<String>)]
    pub run: Option<CompactString>,
    /// The machine it runs on, if it said so.
    #[schema(value_type = Option<String>)]
    pub host: Option<CompactString>,
    /// When it began, RFC 3339.
    pub since: String,
    /// For so many seconds.
    pub running_s: f64,
    /// Whether it takes longer than it may.
    pub overrun: bool,
}

/// A run that is over, or did not come.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct RunView {
    /// Its id, if it has one.
    #[schema(value_type = Option<String>)]
    pub run: Option<CompactString>,
    /// The machine it ran on, if it said so.
    #[schema(value_type = Option<String>)]
    pub host: Option<CompactString>,
    /// What became of it.
    #[schema(value_type = String)]
    pub result: RunResult,
    /// When it began, RFC 3339, if that was heard; of one that did not come, when it was due.
    pub started: Option<String>,
    /// When it ended or was given up, RFC 3339.
    pub ended: Option<String>,
    /// How long it took.
    pub duration_s: Option<f64>,
    /// Its exit status, if it said one.
    pub exit: Option<i64>,
    /// What it said at its end.
    #[schema(value_type = Option<String>)]
    pub message: Option<CompactString>,
}

impl Job {
    /// As the API shows it, with so many of its last runs, and with what was said of its maintenance.
    pub(in crate::presence) fn view(
        &self,
        now: EngineTime,
        epoch: Epoch,
        runs: usize,
        announced: Announced,
    ) -> JobView {
        let schedule = self.rule().and_then(|rule| rule.schedule.as_ref());
        let due = self.due(epoch);
        let wall = epoch.to_unix(now);
        JobView {
            service: self.service().clone(),
            instance: self.instance().clone(),
            state: self.state(),
            since: epoch.to_unix(self.changed()).rfc3339(),
            level: self.badness(),
            schedule: schedule.map(|schedule| schedule.fields().to_string()),
            timezone: schedule.map(|schedule| schedule.zone().to_string()),
            every_s: self.every().filter(|_| schedule.is_none()),
            due: due.map(|(due, _)| due.rfc3339()),
            due_in_s: due.map(|(due, _)| due - wall),
            grace_s: due.map(|(_, grace)| grace),
            max_runtime_s: self.max_runtime(),
            maintenance: self.is_maintained(now),
            maintenance_until: self.maintained_until(now).map(|until| epoch.to_unix(until).rfc3339()),
            maintenance_by: announced.by,
            maintenance_why: announced.why,
            last_success: self.succeeded().map(UnixTime::rfc3339),
            last_duration_s: self.last_duration(),
            running: self.open_runs().iter().map(|run| OpenRunView::of(run, now)).collect(),
            runs: self.history().iter().rev().take(runs).map(RunView::of).collect(),
        }
    }
}

impl OpenRunView {
    fn of(run: &OpenRun, now: EngineTime) -> OpenRunView {
        OpenRunView {
            run: named(&run.id),
            host: run.host.clone(),
            since: run.since.rfc3339(),
            running_s: now - run.began,
            overrun: run.overran,
        }
    }
}

impl RunView {
    fn of(run: &FinishedRun) -> RunView {
        RunView {
            run: run.run.clone(),
            host: run.host.clone(),
            result: run.result,
            started: run.began.map(UnixTime::rfc3339),
            ended: run.ended.map(UnixTime::rfc3339),
            duration_s: run.duration_s,
            exit: run.exit,
            message: run.message.clone(),
        }
    }
}
