//! Who is there: turns heartbeats into the states of instances and services; silence is the other input.
//!
//! Pure: time is an argument ([`Engine::tick`]), and what happened comes out as [`Event`]s. An instance that declared to
//! be heard within `I` seconds is late after `I + g` and down after `m·I + g` ([`policy`] has the tables). Our own
//! blindness does not count against anybody, and the silence of the majority is notified once.
//!
//! | file | keeps |
//! |---|---|
//! | [`engine`] | the parts, and the sequence: a beat is observed, a tick evaluates; views, series and what is saved |
//! | `roster` | who is known, by name and by place; what belongs together is consistent |
//! | `admission` | who may register, who gives way, what was refused |
//! | `schedule` | when to look at whom again |
//! | `jobs` | what runs and ends: its runs are judged, not its silence |
//! | `instance`, `service` | one of them: its state, and what of that was notified |
//! | `detector`, `arrival_window`, `loss` | from the times of beats to the times of late and down |
//! | `replacement` | who took the place of one that fell silent |
//! | `runs`, `crash_loop`, `habit` | services that are made of runs, whose instances crash again and again, that pause |
//! | `mass_silence` | whether one cause is likelier than many |
//! | `blindness` | what we could not see |
//! | `evidence`, `job_lines`, [`observers`] | what this node heard itself; what other nodes heard, and who of them notifies |
//! | `history` | the last day of an instance |
//! | `announced` | who announced a maintenance, and why |
//! | `watching` | what a watched metric says beside that its sender lives |
//! | `event`, [`describe`] | what happened, and that in words |
//! | `alert_book` | which alarms are out |
//! | [`policy`], `time` | what decides, and the two clocks |
#![deny(clippy::disallowed_methods)]

mod admission;
mod alert_book;
mod announced;
mod arrival_window;
mod blindness;
mod crash_loop;
pub mod describe;
mod detector;
mod engine;
mod event;
mod evidence;
mod habit;
mod history;
mod instance;
mod job_lines;
mod jobs;
mod loss;
mod mass_silence;
pub mod observers;
pub mod policy;
mod replacement;
mod roster;
mod runs;
mod schedule;
mod service;
mod time;
mod watching;

pub use admission::{Refusal, Refusals};
pub use alert_book::{Alarm, AlertBook, AlertKey, AlertName, AlertState, Ending, Notification, Which, which};
pub use announced::{Announced, MOST_ANNOUNCED};
pub use blindness::BlindSeconds;
pub use engine::{
    BadJob, BadService, Engine, FailingInstance, Flag, InstanceView, IntervalSource, JobSighting, JobSummary,
    Observation, Reading, SERIES, Saved, ServicePart, ServiceView, Sighting, Summary, Unsaved, ViewCursor,
    peer_reading,
};
pub use event::{
    Change, Event, EventKind, Health, Identity, InstanceContext, JobContext, MassSilencePhase, PeerContext, PeerKind,
    Phase, Reason, ServiceContext, Severity, WarningCode, WatchReason, WatchState, rfc3339,
};
pub use instance::{Instance, State};
pub use jobs::{CronSchedule, JobReason, JobRule, JobState, JobView, NamedZone, OpenRunView, RunResult, RunView};
pub use policy::{Policy, grace_for, misses_for};
pub use service::{Service, ServiceState};
pub use time::{EngineTime, Epoch, UnixTime};

/// Bytes that a text takes beside itself.
fn text_bytes(text: &compact_str::CompactString) -> usize {
    if text.is_heap_allocated() { crate::memory::footprint(text.capacity()) } else { 0 }
}
