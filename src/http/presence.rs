//! Presence over HTTP: states, events, and an operator's changes.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::acl::equal;
use crate::presence::{Flag, InstanceView, ServiceState, ServiceView, State as InstanceState, rfc3339};
use crate::presence_driver::PresenceState;
use crate::sys::unix_time;
use crate::untrusted::{Escaped, in_url};

use super::{AppState, bearer, board, error, json as answer};

/// Longest wait for the presence thread.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) fn routes() -> Router<AppState> {
    Router::new()
        .route("/presence", get(board::board))
        .route("/presence/{service}", get(board::service).post(board::change))
        .route("/api/v1/presence", get(list))
        .route("/api/v1/presence/events", get(events))
        .route("/api/v1/presence/maintenance", post(maintenance))
        .route("/api/v1/presence/{service}", get(service).delete(forget_service))
        .route("/api/v1/presence/{service}/check", get(check))
        .route("/api/v1/presence/{service}/{instance}/check", get(check_instance))
        .route("/api/v1/presence/{service}/{instance}", get(instance).delete(forget_instance))
}

/// Queries the presence thread.
pub(super) async fn ask<T: Send + 'static>(
    state: &AppState,
    question: impl FnOnce(&mut PresenceState) -> T + Send + 'static,
) -> Result<T, Response> {
    let Some(presence) = &state.presence else { return Err(off()) };
    match timeout(PATIENCE, presence.ask(question)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) | Err(_) => Err(error(StatusCode::SERVICE_UNAVAILABLE, "busy", "presence does not answer")),
    }
}

fn off() -> Response {
    error(StatusCode::NOT_FOUND, "presence_off", "presence is off (`presence.enabled = false`)")
}

async fn view(state: &AppState) -> Result<Vec<ServiceView>, Response> {
    ask(state, |presence| presence.services()).await
}

async fn one(state: &AppState, name: String) -> Result<Option<ServiceView>, Response> {
    ask(state, move |presence| presence.service(&name)).await
}

pub(super) fn unknown(what: &str) -> Response {
    error(StatusCode::NOT_FOUND, "unknown", &format!("no {what} of that name was ever heard, or it is forgotten"))
}

/// Statuses of service checks.
const HEALTH: [&str; 4] = ["ok", "warning", "critical", "unknown"];

/// A state to list, which instances or services or both can have.
#[derive(Clone, Copy)]
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

/// Most failing instances that a check names.
const NAMED: usize = 3;

#[derive(Deserialize)]
struct Filter {
    service: Option<String>,
    state: Option<String>,
    health: Option<String>,
}

async fn list(State(state): State<AppState>, Query(filter): Query<Filter>) -> Result<Response, Response> {
    let mut services = view(&state).await?;
    let wanted = match filter.state.as_deref().map(|name| AnyState::from_name(name).ok_or(())) {
        None => None,
        Some(Ok(wanted)) => Some(wanted),
        Some(Err(())) => {
            let message = format!("`state` is one of {}", STATES.join(", "));
            return Err(error(StatusCode::BAD_REQUEST, "bad_request", &message));
        }
    };
    services.retain(|service| filter.service.as_ref().is_none_or(|wanted| *wanted == *service.service));
    let health = match filter.health.as_deref() {
        None => None,
        Some(name) => match HEALTH.iter().position(|known| *known == name) {
            Some(at) => Some(at as u8),
            None => {
                let right = HEALTH.join(", ");
                return Err(error(StatusCode::BAD_REQUEST, "bad_request", &format!("`health` is one of {right}")));
            }
        },
    };
    if wanted.is_some() || health.is_some() {
        for service in &mut services {
            service.instances.retain(|instance| {
                wanted.is_none_or(|wanted| wanted.instance == Some(instance.state))
                    && health.is_none_or(|wanted| instance.health == Some(wanted))
            });
        }
        services.retain(|service| {
            let is_wanted = wanted.is_some_and(|wanted| wanted.service == Some(service.state));
            !service.instances.is_empty() || is_wanted && health.is_none()
        });
    }
    Ok(answer(&services))
}

async fn service(State(state): State<AppState>, Path(name): Path<String>) -> Result<Response, Response> {
    let found = one(&state, name).await?;
    found.map(|service| answer(&service)).ok_or_else(|| unknown("service"))
}

async fn instance(
    State(state): State<AppState>,
    Path((name, instance)): Path<(String, String)>,
) -> Result<Response, Response> {
    let service = one(&state, name).await?;
    let found = service.and_then(|service| service.instances.into_iter().find(|known| *known.instance == *instance));
    found.map(|instance| answer(&instance)).ok_or_else(|| unknown("instance"))
}

#[derive(Deserialize)]
struct Wanted {
    min: Option<usize>,
}

/// 200 if a service is up, or has the requested number of instances; 503 if not; 404 if it is unknown.
async fn check(
    State(state): State<AppState>,
    Path(name): Path<String>,
    Query(wanted): Query<Wanted>,
) -> Result<Response, Response> {
    let found = ask(&state, move |presence| Some((presence.service(&name)?, presence.is_mass_silence())));
    let Some((service, is_mass)) = found.await? else { return Err(unknown("service")) };
    let absent = match service.state {
        ServiceState::Unknown => Some("this service was not heard yet"),
        ServiceState::Left => Some("this service has left: all of its instances said goodbye or gave up"),
        ServiceState::Up | ServiceState::Degraded | ServiceState::Down | ServiceState::Maintenance => None,
    };
    if let Some(message) = absent {
        return Err(error(StatusCode::NOT_FOUND, "unknown", message));
    }
    let enough = wanted.min.map_or(service.state == ServiceState::Up, |min| service.present >= min);
    let late = service.instances.iter().filter(|instance| instance.state == InstanceState::Late).count();
    let failing: Vec<&InstanceView> = service.failing().collect();
    let well =
        service.instances.iter().filter(|instance| instance.is_present() && instance.state != InstanceState::Late);
    let well = well.filter(|instance| !instance.is_failing()).count();
    let maintained = service.instances.iter().filter(|instance| instance.flags.contains(&Flag::Maintenance)).count();
    let named = failing.iter().take(NAMED);
    let named: Vec<Value> = named.map(|i| json!({"instance": i.instance, "message": i.message})).collect();
    let flapping = service.instances.iter().any(|instance| instance.flags.contains(&Flag::Flapping));
    let mut response = answer(&json!({
        "service": service.service, "state": service.state, "present": service.present, "down": service.down,
        "late": late, "critical": failing.len(), "failing": named, "well": well, "flapping": flapping, "maintenance": maintained,
        "mass_silence": is_mass,
    }));
    if !enough {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    Ok(response)
}

/// A check is for a service.
async fn check_instance(Path((service, instance)): Path<(String, String)>) -> Response {
    let path = format!("/api/v1/presence/{}/{}", in_url(&service), in_url(&instance));
    error(StatusCode::BAD_REQUEST, "bad_request", &format!("check takes a service; for one instance: GET {path}"))
}

#[derive(Deserialize)]
struct Since {
    since: Option<String>,
}

/// The events after the one with an id, or with a number of this process; all that are kept if the id is unknown.
async fn events_since(state: &AppState, since: Option<String>) -> Result<Vec<(u64, Value)>, Response> {
    ask(state, move |presence| presence.events_since(since.as_deref())).await
}

/// The last events, oldest first; with `Accept: text/event-stream` also new ones.
async fn events(
    State(state): State<AppState>,
    Query(since): Query<Since>,
    headers: HeaderMap,
) -> Result<Response, Response> {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    if !accept.contains("text/event-stream") {
        let events = events_since(&state, since.since).await?;
        return Ok(answer(&events.into_iter().map(|(_, event)| event).collect::<Vec<_>>()));
    }
    let Some(newest) = state.presence.as_ref().map(|presence| presence.newest()) else { return Err(off()) };
    let Ok(place) = state.streams.clone().try_acquire_owned() else {
        return Err(error(StatusCode::SERVICE_UNAVAILABLE, "busy", "too many event streams are open"));
    };
    let last_id = headers.get("last-event-id").and_then(|value| value.to_str().ok()).map(String::from);
    let first = last_id.or(since.since);
    // The stream: events to send, the last event sent, and how to wait for more.
    let state = (Vec::<(u64, Value)>::new().into_iter(), first, newest, state, place);
    let stream = futures_util::stream::unfold(state, |(mut waiting, mut sent, mut newest, state, place)| async move {
        loop {
            if let Some((number, event)) = waiting.next() {
                sent = Some(number.to_string());
                let text = |key: &str| event[key].as_str().unwrap_or("").to_string();
                let said = sse::Event::default().id(text("id")).event(text("kind")).data(event.to_string());
                return Some((Ok::<_, Infallible>(said), (waiting, sent, newest, state, place)));
            }
            newest.mark_unchanged();
            waiting = events_since(&state, sent.clone()).await.ok()?.into_iter();
            if waiting.len() == 0 && newest.changed().await.is_err() {
                return None;
            }
        }
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::default()).into_response())
}

/// Rejects, and counts, a change without the token of `http.token`.
pub(super) async fn may_write(state: &AppState, shown: Option<&str>) -> Result<(), Response> {
    let right = state.write_token.as_ref();
    if right.is_some_and(|right| shown.is_some_and(|shown| equal(shown.as_bytes(), right.as_bytes()))) {
        return Ok(());
    }
    ask(state, |presence| presence.refuse_change()).await?;
    tracing::warn!("a change of presence over HTTP was refused: it did not show the token");
    Err(error(
        StatusCode::UNAUTHORIZED,
        "unauthorized",
        "changes need `Authorization: Bearer TOKEN` with the token of `http.token`, which must be set",
    ))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Announcement {
    pub(super) service: String,
    pub(super) instance: Option<String>,
    pub(super) seconds: f64,
    pub(super) by: Option<String>,
    pub(super) why: Option<String>,
}

async fn maintenance(State(state): State<AppState>, headers: HeaderMap, body: Bytes) -> Result<Response, Response> {
    may_write(&state, bearer(&headers)).await?;
    let wanted: Announcement = serde_json::from_slice(&body).map_err(|problem| {
        let right = "{\"service\":\"…\",\"instance\":\"…\",\"seconds\":1800,\"by\":\"…\",\"why\":\"…\"} is right";
        error(StatusCode::BAD_REQUEST, "bad_request", &format!("{problem}; {right}"))
    })?;
    let seconds = announce(&state, wanted).await?;
    Ok(answer(&json!({"ok": true, "seconds": seconds, "until": rfc3339(unix_time() + seconds)})))
}

/// Starts maintenance; returns the granted seconds.
pub(super) async fn announce(state: &AppState, wanted: Announcement) -> Result<f64, Response> {
    if !(0.0..=1e9).contains(&wanted.seconds) {
        return Err(error(StatusCode::BAD_REQUEST, "bad_request", "`seconds` is 0 or more"));
    }
    tracing::info!(
        service = %Escaped(&wanted.service),
        instance = %Escaped(wanted.instance.as_deref().unwrap_or("*")),
        seconds = wanted.seconds,
        by = %Escaped(wanted.by.as_deref().unwrap_or("")),
        why = %Escaped(wanted.why.as_deref().unwrap_or("")),
        "maintenance was announced"
    );
    let granted = ask(state, move |presence| {
        presence.announce_maintenance(&wanted.service, wanted.instance.as_deref(), wanted.seconds)
    })
    .await?;
    granted.ok_or_else(|| unknown("service or instance"))
}

async fn forget_service(
    State(state): State<AppState>,
    Path(service): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Response> {
    may_write(&state, bearer(&headers)).await?;
    forget(&state, service, None).await.map(|()| answer(&json!({"ok": true})))
}

async fn forget_instance(
    State(state): State<AppState>,
    Path((service, instance)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Response> {
    may_write(&state, bearer(&headers)).await?;
    forget(&state, service, Some(instance)).await.map(|()| answer(&json!({"ok": true})))
}

/// Removes an instance or a service.
pub(super) async fn forget(state: &AppState, service: String, instance: Option<String>) -> Result<(), Response> {
    tracing::info!(
        service = %Escaped(&service),
        instance = %Escaped(instance.as_deref().unwrap_or("*")),
        "an operator removed it"
    );
    let found = ask(state, move |presence| presence.forget(&service, instance.as_deref())).await?;
    if found { Ok(()) } else { Err(unknown("service or instance")) }
}
