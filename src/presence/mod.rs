//! Who is there: turns heartbeats into the states of instances and services; silence is the other input.
//!
//! Pure: time is an argument ([`Engine::tick`]), and what happened comes out as [`Event`]s. An instance that promised to
//! be heard within `I` seconds is late after `I + g` and down after `m·I + g` ([`policy`] has the tables). Our own
//! blindness does not count against anybody, and the silence of the majority is told once.
#![deny(clippy::disallowed_methods)]

mod admission;
mod blind;
mod desk;
mod engine;
mod event;
mod gaps;
mod hear;
mod history;
mod instance;
mod judge;
mod judge_service;
pub mod policy;
mod readings;
mod report;
mod roster;
mod service;
pub mod words;

pub use blind::Saved;
pub use desk::{Alarm, Desk, Notice, Place, Topic};
pub use engine::{BlindSeconds, Engine, Refusals};
pub use event::{Company, Event, EventKind, Facts, Identity, rfc3339};
pub use instance::{Instance, State, Timing};
pub use policy::{Policy, grace_for, misses_for};
pub use readings::{Reading, SERIES};
pub use report::{InstanceView, ServiceView};
pub use service::{Service, ServiceState};
