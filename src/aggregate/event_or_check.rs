//! Events and service checks, copied out of the datagram.

use serde::{Deserialize, Serialize};

use crate::memory::footprint;
use crate::protocol::{AlertType, Cardinality, Event, Heartbeats, Kind, Name, Priority, ServiceCheck, Tags, lossy};
use crate::series::{KeyBuilder, Series};

/// An event or a service check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventOrCheck {
    /// Its own timestamp, or the time of receipt, in Unix seconds.
    pub time: f64,
    /// Canonical tags.
    pub tags: CanonicalTags,
    /// The host it names.
    pub host: Option<String>,
    /// DogStatsD's container id.
    pub container: Option<String>,
    /// DogStatsD's external data.
    pub external_data: Option<String>,
    /// DogStatsD's tag cardinality.
    pub cardinality: Option<Cardinality>,
    /// The event or the check.
    pub body: EventOrCheckBody,
}

/// Canonical tags in one allocation: there may be many, and a string for each would cost more than reading them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "Vec<(String, Option<String>)>", into = "Vec<(String, Option<String>)>")]
pub struct CanonicalTags(Series);

impl CanonicalTags {
    /// Canonical tags of these, in any order.
    pub fn new(tags: &[(&str, Option<&str>)]) -> CanonicalTags {
        CanonicalTags(Series::new(Kind::Counter, "", tags))
    }

    fn of_wire(tags: Tags<'_>, keys: &mut KeyBuilder) -> CanonicalTags {
        // Only a series' key implements the canonical form; its kind and name do not matter here.
        CanonicalTags(Series::from_key(keys.build(Kind::Counter, &Name::plain(""), tags.iter())))
    }

    /// The tags in canonical order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Option<&str>)> + Clone {
        self.0.tags()
    }
}

impl From<Vec<(String, Option<String>)>> for CanonicalTags {
    fn from(tags: Vec<(String, Option<String>)>) -> CanonicalTags {
        CanonicalTags::new(&tags.iter().map(|(key, value)| (key.as_str(), value.as_deref())).collect::<Vec<_>>())
    }
}

impl From<CanonicalTags> for Vec<(String, Option<String>)> {
    fn from(tags: CanonicalTags) -> Vec<(String, Option<String>)> {
        tags.iter().map(|(key, value)| (key.to_string(), value.map(str::to_string))).collect()
    }
}

/// The content of an event or a service check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum EventOrCheckBody {
    /// An event.
    Event {
        /// Never empty.
        title: String,
        /// May be empty.
        text: String,
        /// How urgent it is.
        priority: Priority,
        /// How grave it is.
        alert_type: AlertType,
        /// Events with the same key belong together.
        aggregation_key: Option<String>,
        /// What sent it.
        source_type: Option<String>,
    },
    /// A check's outcome.
    ServiceCheck {
        /// Never empty.
        name: String,
        /// 0 ok, 1 warning, 2 critical, 3 unknown.
        status: u8,
        /// The message.
        message: Option<String>,
    },
}

/// Copies an event out of its datagram, received at `now` Unix seconds; `keys` sorts its tags.
pub fn own_event(event: &Event<'_>, now: f64, keys: &mut KeyBuilder) -> EventOrCheck {
    EventOrCheck {
        time: event.timestamp.map_or(now, |seconds| seconds as f64),
        tags: CanonicalTags::of_wire(event.tags(), keys),
        host: text(event.host),
        container: text(event.container),
        external_data: text(event.external_data),
        cardinality: event.cardinality,
        body: EventOrCheckBody::Event {
            title: event.title.to_string(),
            text: event.text.to_string(),
            priority: event.priority,
            alert_type: event.alert_type,
            aggregation_key: text(event.aggregation_key),
            source_type: text(event.source_type),
        },
    }
}

/// Copies a service check out of its datagram, received at `now` Unix seconds; `keys` sorts its tags.
pub fn own_service_check(check: &ServiceCheck<'_>, now: f64, keys: &mut KeyBuilder) -> EventOrCheck {
    EventOrCheck {
        time: check.timestamp.map_or(now, |seconds| seconds as f64),
        tags: CanonicalTags::of_wire(check.tags(), keys),
        host: text(check.host),
        container: text(check.container),
        external_data: text(check.external_data),
        cardinality: check.cardinality,
        body: EventOrCheckBody::ServiceCheck {
            name: check.name.to_string(),
            status: check.status,
            message: text(check.message),
        },
    }
}

impl EventOrCheck {
    /// Bytes that it takes beside itself.
    pub(crate) fn heap_bytes(&self) -> usize {
        let own = |text: &String| footprint(text.capacity());
        let optional = |text: &Option<String>| text.as_ref().map_or(0, own);
        let tags = self.tags.0.heap_bytes();
        let body = match &self.body {
            EventOrCheckBody::Event { title, text, aggregation_key, source_type, .. } => {
                own(title) + own(text) + optional(aggregation_key) + optional(source_type)
            }
            EventOrCheckBody::ServiceCheck { name, message, .. } => own(name) + optional(message),
        };
        tags + body + [&self.host, &self.container, &self.external_data].map(optional).iter().sum::<usize>()
    }

    /// Removes the tag `key` where it is a secret for presence.
    pub fn hide_key(&mut self, heartbeats: &Heartbeats) {
        let name = match &self.body {
            EventOrCheckBody::ServiceCheck { name, .. } => name.as_str(),
            EventOrCheckBody::Event { .. } => "",
        };
        let is_hidden = |(key, value): &(&str, Option<&str>)| {
            *key == "key" && heartbeats.hides_key(name.as_bytes(), value.map(str::as_bytes))
        };
        if self.tags.iter().any(|tag| is_hidden(&tag)) {
            self.tags = CanonicalTags::new(&self.tags.iter().filter(|tag| !is_hidden(tag)).collect::<Vec<_>>());
        }
    }
}

fn text(bytes: Option<&[u8]>) -> Option<String> {
    bytes.map(|bytes| lossy(bytes).into_owned())
}
