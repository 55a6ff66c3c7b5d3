//! Services with their instances as JSON, written in parts: the presence thread is asked for the next while the one before
//! is read. So a list shows each part as it is when it is asked for; up to [`PART`] services and instances are one part.

use std::io;

use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use utoipa::ToSchema;

use crate::codec::write_json;
use crate::presence::{InstanceView, ServicePart, ServiceState, ServiceView, State as InstanceState, ViewCursor};
use crate::web::{self, FromGiven, Given, Held};

use super::AppState;
use super::presence::{ask, unknown};

/// Most services and instances of a part. An instance takes about 450 bytes.
const PART: usize = 128;

/// Statuses of service checks.
const HEALTH: [&str; 4] = ["ok", "warning", "critical", "unknown"];

/// A state to list, which instances or services or both can have.
#[derive(Clone, Copy, Debug)]
struct AnyState {
    instance: Option<InstanceState>,
    service: Option<ServiceState>,
}

/// What `state` may be, in the order of the message that says so.
const STATES: [&str; 7] = ["up", "late", "down", "left", "unknown", "degraded", "maintenance"];

impl AnyState {
    fn from_name(name: &str) -> Option<AnyState> {
        let any = AnyState { instance: InstanceState::from_name(name), service: ServiceState::from_name(name) };
        (any.instance.is_some() || any.service.is_some()).then_some(any)
    }
}

/// States, for the document.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "it describes a parameter")]
pub(super) enum StateName {
    Up,
    Late,
    Down,
    Left,
    Unknown,
    Degraded,
    Maintenance,
}

/// Statuses of service checks, for the document.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "it describes a parameter")]
pub(super) enum HealthName {
    Ok,
    Warning,
    Critical,
    Unknown,
}

/// Who is listed.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    service: Option<String>,
    state: Option<AnyState>,
    health: Option<u8>,
}

impl FromGiven for Filter {
    const NAMES: &'static [&'static str] = &["service", "state", "health"];

    fn from_given(given: &Given) -> Result<Filter, String> {
        let health = |name: &str| HEALTH.iter().position(|known| *known == name).map(|at| at as u8);
        Ok(Filter {
            service: given.text("service").map(String::from),
            state: given.one_of("state", &STATES, AnyState::from_name)?,
            health: given.one_of("health", &HEALTH, health)?,
        })
    }
}

impl Filter {
    fn wants_instance(&self, instance: &InstanceView) -> bool {
        self.state.is_none_or(|wanted| wanted.instance == Some(instance.state))
            && self.health.is_none_or(|wanted| instance.health == Some(wanted))
    }

    /// Whether a service is listed even if none of its instances is.
    fn wants_service(&self, service: &ServiceView) -> bool {
        self.health.is_none() && self.state.is_none_or(|wanted| wanted.service == Some(service.state))
    }
}

/// Writes parts as JSON.
#[derive(Debug)]
struct Writer {
    filter: Filter,
    /// Whether the services are an array.
    is_array: bool,
    /// Whether a service was written, and whether one is that may have more instances.
    has_begun: bool,
    is_in_service: bool,
}

impl Writer {
    fn write(&mut self, part: ServicePart, out: &mut Vec<u8>) {
        let ServicePart { mut service, is_first, is_last } = part;
        if is_first {
            // One whose last part never came was forgotten meanwhile.
            self.end_service(out);
        }
        let instances = std::mem::take(&mut service.instances);
        let mut wanted = instances.iter().filter(|instance| self.filter.wants_instance(instance)).peekable();
        let is_wanted = wanted.peek().is_some() || self.filter.wants_service(&service);
        let mut is_behind = self.is_in_service;
        if is_wanted && !self.is_in_service {
            if self.has_begun {
                out.push(b',');
            }
            write_json(&service, out);
            // What it ends with is written when its instances are.
            out.truncate(out.len() - b"]}".len());
            (self.has_begun, self.is_in_service) = (true, true);
            is_behind = false;
        }
        for instance in wanted {
            if std::mem::replace(&mut is_behind, true) {
                out.push(b',');
            }
            write_json(instance, out);
        }
        if is_last {
            self.end_service(out);
        }
    }

    fn end_service(&mut self, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.is_in_service) {
            out.extend_from_slice(b"]}");
        }
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        self.end_service(out);
        out.extend_from_slice(if self.is_array { b"]\n" } else { b"\n" });
    }
}

/// A list that is being written.
struct Listing {
    state: AppState,
    writer: Writer,
    /// Where it goes on; `None` at the end.
    next: Option<ViewCursor>,
}

impl Listing {
    fn new(state: &AppState, filter: Filter, is_array: bool) -> Listing {
        let writer = Writer { filter, is_array, has_begun: false, is_in_service: false };
        Listing { state: state.clone(), writer, next: None }
    }

    /// Writes the part that comes after a cursor; `false` if there is nobody in it.
    async fn write(&mut self, after: Option<ViewCursor>, out: &mut Vec<u8>) -> Result<bool, Response> {
        let only = self.writer.filter.service.clone();
        let part = move |presence: &mut crate::presence_driver::PresenceState| {
            presence.part(only.as_deref(), after.as_ref(), PART)
        };
        let (parts, next) = ask(&self.state, part).await?;
        let is_somebody = !parts.is_empty();
        for part in parts {
            self.writer.write(part, out);
        }
        self.next = next;
        if self.next.is_none() {
            self.writer.end(out);
        }
        Ok(is_somebody)
    }
}

/// The services that pass a filter, as an array.
pub(super) async fn list(state: &AppState, filter: Filter) -> Result<Response, Response> {
    let mut listing = Listing::new(state, filter, true);
    let mut first = b"[".to_vec();
    listing.write(None, &mut first).await?;
    send(state, listing, first).await
}

/// One service.
pub(super) async fn one(state: &AppState, name: String) -> Result<Response, Response> {
    let filter = Filter { service: Some(name.clone()), ..Filter::default() };
    let mut listing = Listing::new(state, filter, false);
    let mut first = Vec::new();
    if !listing.write(None, &mut first).await? {
        return Err(unknown("service", ask(state, move |presence| presence.like(&name)).await?));
    }
    send(state, listing, first).await
}

/// Sends the first part of a list, and the others as they are read.
async fn send(state: &AppState, listing: Listing, first: Vec<u8>) -> Result<Response, Response> {
    if listing.next.is_none() {
        return state.bodies.whole(web::JSON, first).await;
    }
    let parts = stream::unfold((Some(first), listing), |(first, mut listing)| async move {
        if let Some(first) = first {
            return Some((Ok(Bytes::from(first)), (None, listing)));
        }
        let after = listing.next.take()?;
        let mut out = Vec::new();
        let part = match listing.write(Some(after), &mut out).await {
            Ok(_) => Ok(Bytes::from(out)),
            Err(_) => Err(io::Error::other("presence does not answer")),
        };
        Some((part, (None, listing)))
    });
    state.bodies.streamed(Held::Bytes(0), web::JSON, parts).await
}
