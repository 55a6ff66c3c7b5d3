//! What the engine says: every change of an instance or a service, and everything else that somebody may have to know.

use serde::Serialize;

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// An instance changed.
    Instance,
    /// A service changed.
    Service,
    /// Flapping began or ended.
    Flapping,
    /// Most of what should be heard is silent, or is heard again.
    MassSilence,
    /// Maintenance began or ended.
    Maintenance,
    /// Something to know that is no change.
    Warning,
    /// The daemon started and remembered so many instances that are to be confirmed.
    Restored,
}

/// One event. Fields that don't apply are left out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    /// When, in seconds of the engine's clock.
    #[serde(skip)]
    pub at: f64,
    /// About what.
    pub kind: EventKind,
    /// Which service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<Box<str>>,
    /// Which instance; `*` is the service as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<Box<str>>,
    /// State before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<&'static str>,
    /// State now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<&'static str>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// Which warning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'static str>,
    /// How many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Whether somebody is to be told.
    pub notify: bool,
    /// What was known of the instance.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub facts: Option<Facts>,
}

/// What was known of an instance when it changed.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Facts {
    /// As it said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<Box<str>>,
    /// As it said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<Box<str>>,
    /// Silent for so long, our own blindness left out.
    pub silence_s: f64,
    /// Time that did not count because we could not see.
    pub blind_s: f64,
    /// Interval in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval_s: Option<f64>,
    /// Beats that must be missed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub misses: Option<u32>,
    /// Silence that means down.
    pub timeout_s: f64,
    /// How long it was down, when it is no more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub down_for_s: Option<f64>,
}

impl Event {
    pub(super) fn new(at: f64, kind: EventKind, notify: bool) -> Event {
        Event {
            at,
            kind,
            service: None,
            instance: None,
            from: None,
            to: None,
            reason: None,
            code: None,
            count: None,
            notify,
            facts: None,
        }
    }

    /// How grave it is: `critical` wakes somebody, `warning` can wait until the morning.
    pub fn severity(&self) -> &'static str {
        match (self.kind, self.to) {
            (EventKind::Service, Some("down")) | (EventKind::MassSilence, Some("start")) => "critical",
            (EventKind::Service, Some("degraded")) | (EventKind::Instance, Some("down")) => "warning",
            (EventKind::Flapping, Some("start")) | (EventKind::Warning, _) => "warning",
            _ => "info",
        }
    }
}
