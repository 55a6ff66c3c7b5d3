//! Jobs: what runs and ends. Not their silence is judged but their runs.

mod state;

pub use state::{JobReason, JobState};
