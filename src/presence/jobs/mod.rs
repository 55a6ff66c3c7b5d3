//! Jobs: what runs and ends. Not their silence is judged but their runs.
//!
//! | file | keeps |
//! |---|---|
//! | `table` | the jobs by name, when to look at which again, and who gives way |
//! | `job` | one of them: its runs, when the next is due, and what of that was notified |
//! | `runs` | open runs and the last ones |
//! | `schedule` | five fields of cron in a time zone |
//! | `blind_times` | when we, or peers, could not hear |
//! | `state`, `view` | names of states and reasons, and what is shown |

mod blind_times;
mod job;
mod runs;
mod schedule;
mod state;
mod table;
mod view;

pub(super) use blind_times::{BlindTimes, Ear, PeerBlindTimes, WhenBlind};
pub use job::JobRule;
pub(super) use job::{Job, Surroundings};
pub use runs::RunResult;
pub use schedule::{CronSchedule, NamedZone};
pub use state::{JobReason, JobState};
pub(super) use table::{JobId, Jobs};
pub use view::{JobView, OpenRunView, RunView};
