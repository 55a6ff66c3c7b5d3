//! The runs of a job: those that are open, and the last ones that are over.

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use crate::named::named_enum;
use crate::presence::text_bytes;
use crate::presence::time::{EngineTime, UnixTime};

/// The id of a run that has none.
pub(super) const NO_ID: &str = "-";

/// The id of a run; `None` if it has none.
pub(super) fn named(id: &CompactString) -> Option<CompactString> {
    (id != NO_ID).then(|| id.clone())
}

/// Runs that are remembered of each job, and how many of them keep their messages.
pub(super) const HISTORY: usize = 20;
pub(super) const MESSAGES: usize = 3;

named_enum! {
    /// What became of a run.
    pub enum RunResult {
        /// It ended well.
        Ok = "ok",
        /// It failed.
        Failed = "failed",
        /// It never ended.
        Lost = "lost",
        /// It did not come when it was due.
        Missed = "missed",
        /// It, or its end, may have come while we could not hear.
        Unheard = "unheard",
    }
}

/// A run that has begun.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::presence) struct OpenRun {
    /// Its id; `-` if it has none.
    pub(super) id: CompactString,
    /// When it began.
    pub(super) began: EngineTime,
    /// The same in wall time.
    pub(super) since: UnixTime,
    /// It lasts for too long, and that was reported.
    pub(super) overran: bool,
    /// When it lasted for too long, and its end may have been said while we could not hear. It is looked at once more, and
    /// is over when another one begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) excused: Option<EngineTime>,
}

impl OpenRun {
    /// When it lasts for too long.
    pub(super) fn overruns_at(&self, limit: f64) -> EngineTime {
        let first = self.began + limit;
        self.excused.filter(|&at| at >= first).map_or(first, |at| at + limit)
    }
}

/// A run that ended of late, by which copies of the message are known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct EndedRun {
    pub(super) id: CompactString,
    pub(super) is_good: bool,
    pub(super) at: EngineTime,
}

/// A run that is over, or did not come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::presence) struct FinishedRun {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) run: Option<CompactString>,
    pub(super) result: RunResult,
    /// When it began; of one that did not come, when it was due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) began: Option<UnixTime>,
    /// When it ended, or was given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ended: Option<UnixTime>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) duration_s: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) exit: Option<i64>,
    /// What it said at its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) message: Option<CompactString>,
}

impl FinishedRun {
    /// A run that had begun.
    pub(super) fn of(run: &OpenRun, result: RunResult, ended: UnixTime) -> FinishedRun {
        let id = named(&run.id);
        FinishedRun { began: Some(run.since), ..FinishedRun::unseen(id, result, ended) }
    }

    /// A run whose start was not heard.
    pub(super) fn unseen(run: Option<CompactString>, result: RunResult, ended: UnixTime) -> FinishedRun {
        FinishedRun { run, result, began: None, ended: Some(ended), duration_s: None, exit: None, message: None }
    }

    /// A run that did not come when it was due.
    pub(super) fn absent(result: RunResult, due: UnixTime) -> FinishedRun {
        FinishedRun { run: None, result, began: Some(due), ended: None, duration_s: None, exit: None, message: None }
    }

    /// Its exit status, if it said one.
    pub(in crate::presence) fn exit(&self) -> Option<i64> {
        self.exit
    }

    /// How long it took, if that is known.
    pub(in crate::presence) fn duration_s(&self) -> Option<f64> {
        self.duration_s
    }

    pub(super) fn heap_bytes(&self) -> usize {
        [&self.run, &self.message].into_iter().flatten().map(text_bytes).sum()
    }
}
