//! What the engine says: every change of an instance or a service, and everything else that somebody may have to know.

use std::net::IpAddr;
use std::time::{Duration, UNIX_EPOCH};

use compact_str::CompactString;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::lasting::{Word, lasting, lasting_maybe};
use crate::untrusted::Escaped;

use super::describe::describe;

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// When, in seconds of the engine's clock.
    #[serde(skip)]
    pub at: f64,
    /// About what.
    pub kind: EventKind,
    /// Which service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<CompactString>,
    /// Which instance; `*` is the service as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<CompactString>,
    /// State before.
    #[serde(default, deserialize_with = "lasting_maybe", skip_serializing_if = "Option::is_none")]
    pub from: Option<Word>,
    /// State now.
    #[serde(default, deserialize_with = "lasting_maybe", skip_serializing_if = "Option::is_none")]
    pub to: Option<Word>,
    /// Why.
    #[serde(default, deserialize_with = "lasting_maybe", skip_serializing_if = "Option::is_none")]
    pub reason: Option<Word>,
    /// Which warning.
    #[serde(default, deserialize_with = "lasting_maybe", skip_serializing_if = "Option::is_none")]
    pub code: Option<Word>,
    /// How many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Whether somebody is to be told.
    pub notify: bool,
    /// What was known of the instance.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub facts: Option<InstanceContext>,
    /// What was known of its service.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub company: Option<ServiceContext>,
}

/// What was known of a service when something about it was told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceContext {
    /// The service's state.
    #[serde(deserialize_with = "lasting")]
    pub service_state: Word,
    /// Instances that are present.
    pub present: usize,
    /// Instances that are present or down.
    pub total: usize,
}

/// What was known of an instance when it changed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct InstanceContext {
    /// As it said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<CompactString>,
    /// As it said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<CompactString>,
    /// Last beat: on the engine's clock in the engine, Unix seconds in what is published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<f64>,
    /// Who sent it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
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

/// Who tells of events: their ids are unique and grow with every start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Name of the node.
    pub node: String,
    /// When it started, Unix seconds.
    pub boot: u64,
}

impl Identity {
    /// The id of the event with a number.
    pub fn id(&self, number: u64) -> String {
        format!("{}-{}-{number:06}", self.node, self.boot)
    }

    /// The number of an event of ours; `None` if it is from another start or node.
    pub fn number(&self, id: &str) -> Option<u64> {
        id.strip_prefix(&format!("{}-{}-", self.node, self.boot))?.parse().ok()
    }

    /// An event as webhooks and the API have it: times are RFC 3339.
    pub fn publish(&self, number: u64, event: &Event) -> Value {
        let mut value = serde_json::to_value(event).unwrap_or_default();
        if let Some(seen) = event.facts.as_ref().and_then(|facts| facts.last_seen) {
            value["last_seen"] = rfc3339(seen).into();
        }
        value["v"] = 1.into();
        value["id"] = self.id(number).into();
        value["node"] = self.node.as_str().into();
        value["time"] = rfc3339(event.at).into();
        value["severity"] = event.severity().into();
        value["text"] = Escaped(&describe(event)).to_string().into();
        value
    }
}

/// Unix seconds as people and webhooks have it, to the millisecond.
pub fn rfc3339(secs: f64) -> String {
    // Times before 1970 and beyond the year 9999 are clocks that were never set.
    let since = Duration::from_millis((secs.clamp(0.0, 253_402_300_799.0) * 1000.0).round() as u64);
    humantime::format_rfc3339_millis(UNIX_EPOCH + since).to_string()
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
            company: None,
        }
    }

    /// Moves its times from the engine's clock to Unix seconds.
    pub fn shift(&mut self, epoch: f64) {
        self.at += epoch;
        if let Some(seen) = self.facts.as_mut().and_then(|facts| facts.last_seen.as_mut()) {
            *seen += epoch;
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
