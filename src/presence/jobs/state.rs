//! The states of a job, and why they change.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::named::named_enum;

named_enum! {
    /// What is known of a job.
    pub enum JobState {
        /// Configured, and not heard yet.
        Waiting = "waiting",
        /// A run began and has not ended.
        Running = "running",
        /// Its last run ended well.
        Ok = "ok",
        /// Its last run failed.
        Failed = "failed",
        /// A run takes longer than it may.
        Overrun = "overrun",
        /// A run began and never ended.
        Lost = "lost",
        /// A run did not come when it was due.
        Missed = "missed",
        /// A run or its end may have come while we could not hear.
        Unheard = "unheard",
        /// It is no job any more. Only the last event of a job has this state.
        Retired = "retired",
    }
}

impl JobState {
    /// How bad it is: 0 is no problem, 1 can wait, 2 wakes somebody.
    pub fn level(self) -> u8 {
        match self {
            JobState::Failed | JobState::Missed => 2,
            JobState::Overrun | JobState::Lost => 1,
            JobState::Waiting | JobState::Running | JobState::Ok | JobState::Unheard | JobState::Retired => 0,
        }
    }
}

/// What an exit status is written with.
const EXIT: &str = "exit ";

/// Declares the reasons that are a name and nothing else.
macro_rules! job_reasons {
    ($($(#[$meta:meta])* $variant:ident = $text:literal,)+) => {
        /// Why a job changed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum JobReason {
            /// A run failed with this exit status.
            Exit(i64),
            $($(#[$meta])* $variant,)+
        }

        impl JobReason {
            /// The reason as records have it: a name, or `exit N`.
            pub fn text(self) -> Cow<'static, str> {
                match self {
                    JobReason::Exit(status) => format!("{EXIT}{status}").into(),
                    $(JobReason::$variant => $text.into(),)+
                }
            }

            /// The reason with a text of records.
            pub fn from_text(text: &str) -> Option<JobReason> {
                match text {
                    $($text => Some(JobReason::$variant),)+
                    _ => text.strip_prefix(EXIT)?.parse().ok().map(JobReason::Exit),
                }
            }
        }
    };
}

job_reasons! {
    /// A run began.
    Started = "started",
    /// A run ended well.
    Ended = "ended",
    /// A run failed, and said no exit status.
    Failed = "failed",
    /// A run said a status that is none, which counts as a failure.
    BadStatus = "bad_status",
    /// A run takes longer than its `max_runtime`.
    MaxRuntime = "max_runtime",
    /// A run still goes on, and the next one was due and did not come.
    StillRunning = "still_running",
    /// The end of a run may have been said while we could not hear.
    EndUnheard = "end_unheard",
    /// A run may have come while we could not hear.
    Blind = "blind",
    /// No run came when one was due.
    NoRun = "no_run",
    /// The next run began, and this one had not ended.
    NoEnd = "no_end",
    /// More runs are open than are kept.
    TooManyRuns = "too_many_runs",
    /// A problem of a maintenance stands at its end.
    MaintenanceOver = "maintenance_over",
    /// It said goodbye.
    Goodbye = "goodbye",
    /// An operator removed it, or its configuration.
    Operator = "operator",
    /// It made room for another one.
    Evicted = "evicted",
    /// It was not heard for long, and nothing is awaited of it.
    Expired = "expired",
}

impl Serialize for JobReason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text())
    }
}

impl<'de> Deserialize<'de> for JobReason {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<JobReason, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        JobReason::from_text(&text).ok_or_else(|| serde::de::Error::custom(format!("`{text}` is no reason of a job")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_its_text_and_comes_back() {
        for (reason, text) in [
            (JobReason::Exit(137), "exit 137"),
            (JobReason::Exit(-1), "exit -1"),
            (JobReason::NoRun, "no_run"),
            (JobReason::Failed, "failed"),
        ] {
            assert_eq!((&*reason.text(), JobReason::from_text(text)), (text, Some(reason)));
        }
        for wrong in ["exit", "exit ", "exit x", "", "missed_beats"] {
            assert_eq!(JobReason::from_text(wrong), None, "{wrong}");
        }
    }
}
