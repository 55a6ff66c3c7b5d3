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

/// Runs that are remembered of each job, and bytes of what they said.
pub(super) const HISTORY: usize = 20;
pub(super) const TEXT_BYTES: usize = 4000;

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
    /// The machine it runs on, if it said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) host: Option<CompactString>,
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
    /// One that begins now.
    pub(super) fn begun(id: CompactString, host: Option<CompactString>, began: EngineTime, since: UnixTime) -> OpenRun {
        OpenRun { id, host, began, since, overran: false, excused: None }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        text_bytes(&self.id) + self.host.as_ref().map_or(0, text_bytes)
    }

    /// When it lasts for too long.
    pub(super) fn overruns_at(&self, limit: f64) -> EngineTime {
        let first = self.began + limit;
        self.excused.filter(|&at| at >= first).map_or(first, |at| at + limit)
    }
}

/// A run that ended of late, by which copies of the message are known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "SavedEnd")]
pub(super) struct EndedRun {
    pub(super) id: CompactString,
    pub(super) is_good: bool,
    pub(super) at: EngineTime,
}

/// The same as a state has it, or one of an older version, which did not keep how it ended.
#[derive(Deserialize)]
#[serde(untagged)]
enum SavedEnd {
    Known { id: CompactString, is_good: bool, at: EngineTime },
    Older(CompactString, EngineTime),
}

impl From<SavedEnd> for EndedRun {
    fn from(saved: SavedEnd) -> EndedRun {
        match saved {
            SavedEnd::Known { id, is_good, at } => EndedRun { id, is_good, at },
            SavedEnd::Older(id, at) => EndedRun { id, is_good: true, at },
        }
    }
}

/// A run that began and is not open any more, by which a start that others tell again is known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct ClosedRun {
    pub(super) id: CompactString,
    pub(super) began: EngineTime,
}

/// A run that is over, or did not come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::presence) struct FinishedRun {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) run: Option<CompactString>,
    /// The machine it ran on, if it said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) host: Option<CompactString>,
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
        FinishedRun { began: Some(run.since), host: run.host.clone(), ..FinishedRun::unseen(id, result, ended) }
    }

    /// A run whose start was not heard.
    pub(super) fn unseen(run: Option<CompactString>, result: RunResult, ended: UnixTime) -> FinishedRun {
        FinishedRun {
            run,
            host: None,
            result,
            began: None,
            ended: Some(ended),
            duration_s: None,
            exit: None,
            message: None,
        }
    }

    /// A run that did not come when it was due.
    pub(super) fn absent(result: RunResult, due: UnixTime) -> FinishedRun {
        FinishedRun { began: Some(due), ended: None, ..FinishedRun::unseen(None, result, due) }
    }

    /// Its exit status, if it said one.
    pub(in crate::presence) fn exit(&self) -> Option<i64> {
        self.exit
    }

    /// The machine it ran on, if it said so.
    pub(in crate::presence) fn host(&self) -> Option<&CompactString> {
        self.host.as_ref()
    }

    /// How long it took, if that is known.
    pub(in crate::presence) fn duration_s(&self) -> Option<f64> {
        self.duration_s
    }

    pub(super) fn heap_bytes(&self) -> usize {
        [&self.run, &self.host, &self.message].into_iter().flatten().map(text_bytes).sum()
    }
}
