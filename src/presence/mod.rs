//! Who is there: turns heartbeats into the states of instances and services; silence is the other input.
//!
//! Pure: time is an argument ([`Engine::tick`]), and what happened comes out as [`Event`]s. An instance that promised to
//! be heard within `I` seconds is late after `I + g` and down after `m·I + g` ([`policy`] has the tables). Our own
//! blindness does not count against anybody, and the silence of the majority is told once.
#![deny(clippy::disallowed_methods)]

mod admission;
mod alert_book;
mod arrival_window;
mod blind;
pub mod describe;
mod engine;
mod evaluate;
mod evaluate_service;
mod event;
mod history;
mod instance;
mod observe;
pub mod policy;
mod readings;
mod report;
mod roster;
mod service;

pub use admission::Refusal;
pub use alert_book::{Alarm, AlertBook, AlertKey, AlertName, AlertState, Notification};
pub use blind::Saved;
pub use engine::{BlindSeconds, Engine, Refusals};
pub use event::{
    Change, Event, EventKind, Identity, InstanceContext, MassSilencePhase, Phase, Reason, ServiceContext, Severity,
    WarningCode, rfc3339,
};
pub use instance::{Instance, State, Timing};
pub use policy::{Policy, grace_for, misses_for};
pub use readings::{Reading, SERIES};
pub use report::{Flag, InstanceView, IntervalSource, ServiceView};
pub use service::{Service, ServiceState};
