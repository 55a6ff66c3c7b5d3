//! Presence over HTTP: states, events, and an operator's changes.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{FromRequest, Path, Request, State};
use axum::http::{Extensions, HeaderMap, StatusCode, header};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use compact_str::CompactString;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::timeout;
use utoipa::ToSchema;

use crate::presence::observers::{Cursor, is_node_name};
use crate::presence::{
    Announced, Flag, InstanceView, JobSummary, JobView, MOST_ANNOUNCED, ServiceState, ServiceView,
    State as InstanceState, rfc3339,
};
use crate::presence_driver::PresenceState;
use crate::sys::unix_time;
use crate::untrusted::{Escaped, in_url};
use crate::web::{self, FromGiven, Given, Nothing, Parameters, bad_request, error, json as small, line};

use super::access::Caller;
use super::listing::{self, Filter};
use super::{AppState, Live};

/// Longest wait for the presence thread.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

pub(super) fn routes() -> Router<Live> {
    Router::new()
        .route("/api/v1/presence", get(list))
        .route("/api/v1/presence/events", get(events))
        .route("/api/v1/presence/maintenance", post(maintenance))
        .route("/api/v1/presence/peer", get(peer))
        .route("/api/v1/presence/{service}", get(service).delete(forget_service))
        .route("/api/v1/presence/{service}/check", get(check).delete(forget_check))
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

/// The error for a name that is not known; `near` is a service with a name like it.
pub(super) fn unknown(what: &str, near: Option<String>) -> Response {
    let near = near.map_or_else(String::new, |near| format!(" (did you mean the service `{}`?)", Escaped(&near)));
    error(StatusCode::NOT_FOUND, "unknown", &format!("no {what} of that name was ever heard, or it is forgotten{near}"))
}

/// Most failing instances that a check names.
const NAMED: usize = 3;

/// Services with their instances
#[utoipa::path(
    get,
    path = "/api/v1/presence",
    params(
        ("service" = Option<String>, Query, description = "Only this one"),
        ("state" = Option<listing::StateName>, Query, description = "Only instances or services in this state"),
        ("health" = Option<listing::HealthName>, Query, description = "Only instances whose last service check said so"),
    ),
    responses(
        (status = 200, description = "Those that pass", body = Vec<ServiceView>),
    ),
)]
pub(super) async fn list(
    State(state): State<AppState>,
    Parameters(filter): Parameters<Filter>,
) -> Result<Response, Response> {
    listing::list(&state, filter).await
}

/// A service with its instances
#[utoipa::path(
    get,
    path = "/api/v1/presence/{service}",
    params(
        ("service" = String, Path, description = "Its name"),
    ),
    responses(
        (status = 200, description = "The service", body = ServiceView),
    ),
)]
pub(super) async fn service(
    State(state): State<AppState>,
    Path(name): Path<String>,
    Parameters(Nothing): Parameters<Nothing>,
) -> Result<Response, Response> {
    listing::one(&state, name).await
}

/// An instance, or a job.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum InstanceOrJob {
    Instance(Box<InstanceView>),
    Job(Box<JobView>),
}

/// An instance, or a job of that name
#[utoipa::path(
    get,
    path = "/api/v1/presence/{service}/{instance}",
    params(
        ("service" = String, Path, description = "Its name"),
        ("instance" = String, Path, description = "Its name"),
    ),
    responses(
        (status = 200, description = "The instance; if there is none of that name, the job", body = InstanceOrJob),
    ),
)]
pub(super) async fn instance(
    State(state): State<AppState>,
    Path((name, instance)): Path<(String, String)>,
    Parameters(Nothing): Parameters<Nothing>,
) -> Result<Response, Response> {
    let found = ask(&state, move |presence| {
        let found = presence.instance(&name, &instance).map(|found| InstanceOrJob::Instance(found.into()));
        let job = || presence.job(&name, &instance).map(|found| InstanceOrJob::Job(found.into()));
        found.or_else(job).ok_or_else(|| presence.like(&name))
    });
    found.await?.map(|found| small(&found)).map_err(|near| unknown("instance or job", near))
}

/// Most instances that a check may ask for.
const MOST_WANTED: u64 = 1_000_000;

pub(super) struct Wanted {
    min: Option<usize>,
}

impl FromGiven for Wanted {
    const NAMES: &'static [&'static str] = &["min"];

    fn from_given(given: &Given) -> Result<Wanted, String> {
        Ok(Wanted { min: given.number("min", 1..=MOST_WANTED)?.map(|min| min as usize) })
    }
}

/// Whether a service is there, for load balancers and scripts
///
/// It is up, or has the requested number of instances; who was heard only by an observer that is lost does not count.
#[utoipa::path(
    get,
    path = "/api/v1/presence/{service}/check",
    params(
        ("service" = String, Path, description = "Its name"),
        ("min" = Option<u64>, Query, description = "So many must be present", minimum = 1, maximum = 1_000_000),
    ),
    responses(
        (status = 200, description = "It is there", body = Object),
        (status = 503, description = "It is not; or presence does not answer, which is an error", body = Object),
    ),
)]
pub(super) async fn check(
    State(state): State<AppState>,
    Path(name): Path<String>,
    Parameters(wanted): Parameters<Wanted>,
) -> Result<Response, Response> {
    // On the presence thread, so that only what is answered leaves it.
    let found = ask(&state, move |presence| {
        let service = presence.service(&name).ok_or_else(|| presence.like(&name))?;
        // Of many jobs a view has some.
        let jobs = presence.jobs_of(&service.service);
        let heard = service.present.saturating_sub(unwatched(&service));
        let is_up = || service.state == ServiceState::Up && (heard > 0 || service.present == 0 && jobs.jobs > 0);
        let is_there = wanted.min.map_or_else(is_up, |min| heard >= min);
        let enough = is_there && jobs.critical + jobs.warning == 0;
        let checked = checked(&service, &jobs, presence.is_mass_silence());
        Ok((service.state, (is_there, enough), checked, presence.listens_only()))
    });
    let (is, (is_there, enough), checked, listens_only) = found.await?.map_err(|near| unknown("service", near))?;
    let absent = match is {
        _ if listens_only => Some("this node only receives: ask one of its cluster that merges"),
        ServiceState::Unknown => Some("this service was not heard yet"),
        ServiceState::Left => Some("this service has left: all of its instances said goodbye or gave up"),
        ServiceState::Up | ServiceState::Degraded | ServiceState::Down | ServiceState::Maintenance => None,
    };
    if let Some(message) = absent {
        return Err(error(StatusCode::NOT_FOUND, "unknown", message));
    }
    let mut checked = checked;
    if !enough {
        checked["reason"] = match wanted.min {
            _ if is_there => "a job is not well".into(),
            Some(min) => format!("{} present{}, {min} wanted", checked["present"], unwatched_text(&checked)),
            None if is == ServiceState::Up => format!("{} present{}", checked["present"], unwatched_text(&checked)),
            None => format!("it is {is}"),
        }
        .into();
    }
    let mut response = small(&checked);
    if !enough {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    Ok(response)
}

/// How many of a service count as present because an observer that is lost has heard them.
fn unwatched(service: &ServiceView) -> usize {
    service.instances.iter().filter(|instance| instance.is_unwatched()).count()
}

fn unwatched_text(checked: &Value) -> String {
    match &checked["unwatched"] {
        none if *none == 0 => String::new(),
        some => format!(" ({some} heard only by an observer that is lost)"),
    }
}

fn checked(service: &ServiceView, jobs: &JobSummary, is_mass: bool) -> Value {
    let late = service.instances.iter().filter(|instance| instance.state == InstanceState::Late).count();
    let failing: Vec<&InstanceView> = service.failing().collect();
    let well =
        service.instances.iter().filter(|instance| instance.is_present() && instance.state != InstanceState::Late);
    let well = well.filter(|instance| !instance.is_failing() && !instance.is_unwatched()).count();
    let is_unconfirmed = |one: &&InstanceView| one.state == InstanceState::Unknown && !one.is_unwatched();
    let unconfirmed = service.instances.iter().filter(is_unconfirmed).count();
    let maintained = service.instances.iter().filter(|instance| instance.flags.contains(&Flag::Maintenance)).count();
    let named = failing.iter().take(NAMED);
    let named: Vec<Value> = named.map(|i| json!({"instance": i.instance, "message": i.message})).collect();
    let jobs = counted(jobs);
    let low = service.instances.iter().filter(|i| i.is_present() && i.flags.contains(&Flag::Low));
    let low: Vec<Value> = low
        .map(|i| json!({"instance": i.instance, "watch": i.watch, "lines": i.lines_per_minute, "floor": i.floor}))
        .collect();
    let flapping = service.instances.iter().any(|instance| instance.flags.contains(&Flag::Flapping));
    json!({
        "service": service.service, "state": service.state, "present": service.present, "down": service.down,
        "late": late, "critical": failing.len(), "failing": named, "well": well, "flapping": flapping, "maintenance": maintained,
        "mass_silence": is_mass, "unwatched": unwatched(service), "unconfirmed": unconfirmed, "low": low.len(), "named_low": &low[..low.len().min(NAMED)], "min": service.min, "instances": service.instances.len(), "jobs": jobs,
    })
}

/// How the jobs of a service are; null if it has none.
fn counted(jobs: &JobSummary) -> Value {
    if jobs.jobs == 0 {
        return Value::Null;
    }
    json!({
        "total": jobs.jobs, "critical": jobs.critical, "warning": jobs.warning, "unknown": jobs.unheard,
        "maintenance": jobs.maintenance, "bad": jobs.bad,
    })
}

/// A check is for a service.
async fn check_instance(
    Path((service, instance)): Path<(String, String)>,
    Parameters(_): Parameters<Wanted>,
) -> Response {
    let path = format!("/api/v1/presence/{}/{}", in_url(&service), in_url(&instance));
    bad_request(&format!("check takes a service; for one instance: GET {path}"))
}

pub(super) struct Since {
    since: Option<String>,
}

impl FromGiven for Since {
    const NAMES: &'static [&'static str] = &["since"];

    fn from_given(given: &Given) -> Result<Since, String> {
        Ok(Since { since: given.text("since").map(String::from) })
    }
}

/// Events that are fetched at a time for a stream, so that one that nobody reads holds no more.
const STREAMED: usize = 32;

/// The events after the one with an id, or with a number of this process, at most so many; all that are kept if the id is
/// unknown.
async fn events_since(state: &AppState, since: Option<String>, most: usize) -> Result<Vec<(u64, Value)>, Response> {
    ask(state, move |presence| presence.events_since(since.as_deref(), most)).await
}

/// The last events of presence, oldest first
///
/// With `Accept: text/event-stream` also new ones, as they come.
#[utoipa::path(
    get,
    path = "/api/v1/presence/events",
    params(
        ("since" = Option<String>, Query, description = "The id of an event, or its number: only later ones"),
    ),
    responses(
        (status = 200, description = "The events", content((Vec<Object> = "application/json"), (String = "text/event-stream"))),
    ),
)]
pub(super) async fn events(
    State(state): State<AppState>,
    Parameters(since): Parameters<Since>,
    headers: HeaderMap,
) -> Result<Response, Response> {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    if !accept.contains("text/event-stream") {
        let question = since.since.clone().unwrap_or_default();
        let body = state.once.events.share(&question, async {
            let _turn = state.bodies.turn().await;
            let events = events_since(&state, since.since, usize::MAX).await?;
            Ok(line(&events.into_iter().map(|(_, event)| event).collect::<Vec<_>>()).into())
        });
        return state.bodies.shared(web::JSON, body.await?).await;
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
                let said = sse::Event::default()
                    .id(text("id"))
                    .event(text("kind"))
                    .data(String::from_utf8_lossy(&line(&event)).trim_end());
                return Some((Ok::<_, Infallible>(said), (waiting, sent, newest, state, place)));
            }
            newest.mark_unchanged();
            waiting = events_since(&state, sent.clone(), STREAMED).await.ok()?.into_iter();
            if waiting.len() == 0 && newest.changed().await.is_err() {
                return None;
            }
        }
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::default()).into_response())
}

/// What a peer has, and who it is.
pub(super) struct Known {
    since: Option<Cursor>,
    node: String,
}

impl FromGiven for Known {
    const NAMES: &'static [&'static str] = &["since", "node"];

    fn from_given(given: &Given) -> Result<Known, String> {
        let read = |text: &str| text.parse().map_err(|()| "`since` is the `cursor` of an answer before".to_string());
        let node = given.text("node").unwrap_or("");
        if !node.is_empty() && !is_node_name(node) {
            return Err("`node` is the name of an observer".into());
        }
        Ok(Known { since: given.text("since").map(read).transpose()?, node: node.into() })
    }
}

/// What this node has heard, for other observers
///
/// It needs the token of `presence.peer_token`. Ages, never times; with `since` only what is new. A page of it: while `more` is
/// true the next one follows at once.
#[utoipa::path(
    get,
    path = "/api/v1/presence/peer",
    params(
        ("since" = Option<String>, Query, description = "The `cursor` of the answer before", pattern = r"^[0-9]{1,19}\.[0-9]{1,19}\.[0-9]{1,19}(\.[0-9]{1,10})?$"),
        ("node" = Option<String>, Query, description = "The name of the observer that asks", pattern = r"^[^\x00-\x1f\x7f-\x9f,/]{1,128}$"),
    ),
    responses(
        (status = 200, description = "What it has heard, and which problems it knows", body = Object),
    ),
)]
pub(super) async fn peer(
    State(state): State<AppState>,
    Parameters(Known { since, node }): Parameters<Known>,
    headers: HeaderMap,
    extensions: Extensions,
) -> Result<Response, Response> {
    if let Some(refused) = state.access.refused_peer(&headers, &extensions) {
        return Err(refused);
    }
    let digest = ask(&state, move |presence| presence.digest(since, &node)).await?.ok_or_else(off)?;
    let body = state.bodies.work(move || serde_json::to_vec(&digest).unwrap_or_default()).await?;
    state.bodies.shared(web::JSON, body.into()).await
}

/// Counts a change that is refused; a form may have shown a token in a field.
pub(super) async fn may(
    state: &AppState,
    caller: &Caller,
    field: Option<&str>,
    refused: Option<Response>,
) -> Result<(), Response> {
    let Some(refused) = refused else { return Ok(()) };
    ask(state, |presence| presence.refuse_change()).await?;
    tracing::warn!(from = %caller.peer, "a change of presence over HTTP was refused: {}", caller.shown(field));
    Err(refused)
}

/// The body of a change that a program asks for. The head decides: nothing of the body is waited for, or kept, without the token.
pub(super) async fn body_of_change(state: &AppState, request: Request) -> Result<Bytes, Response> {
    let caller = Caller::new(state, request.headers(), request.extensions());
    may(state, &caller, None, caller.refused_change(&state.access)).await?;
    Bytes::from_request(request, state).await.map_err(IntoResponse::into_response)
}

/// Maintenance of a service, or of one instance.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Announcement {
    pub(super) service: String,
    pub(super) instance: Option<String>,
    #[schema(minimum = 0, maximum = 1_000_000_000)]
    pub(super) seconds: f64,
    /// Who announces it; shown with it
    #[schema(max_length = 200)]
    pub(super) by: Option<String>,
    /// Why; shown with it
    #[schema(max_length = 200)]
    pub(super) why: Option<String>,
}

/// Announces maintenance
#[utoipa::path(
    post,
    path = "/api/v1/presence/maintenance",
    request_body(content = Announcement),
    responses(
        (status = 200, description = "It is announced: `seconds` that were granted, and `until`", body = Object),
    ),
)]
pub(super) async fn maintenance(
    State(state): State<AppState>,
    Parameters(Nothing): Parameters<Nothing>,
    request: Request,
) -> Result<Response, Response> {
    let body = body_of_change(&state, request).await?;
    let wanted: Announcement = serde_json::from_slice(&body).map_err(|problem| {
        let right = "{\"service\":\"…\",\"instance\":\"…\",\"seconds\":1800,\"by\":\"…\",\"why\":\"…\"} is right";
        bad_request(&format!("{problem}; {right}"))
    })?;
    let seconds = announce(&state, wanted).await?;
    Ok(small(&json!({"ok": true, "seconds": seconds, "until": rfc3339(unix_time() + seconds)})))
}

/// Starts maintenance; returns the granted seconds.
pub(super) async fn announce(state: &AppState, wanted: Announcement) -> Result<f64, Response> {
    if !(0.0..=1e9).contains(&wanted.seconds) {
        return Err(bad_request("`seconds` is 0 or more, and at most 1,000,000,000"));
    }
    let Announcement { service, instance, seconds, by, why } = wanted;
    let given = |text: &Option<String>| text.as_deref().filter(|text| !text.is_empty()).map(CompactString::from);
    let announced = Announced { by: given(&by), why: given(&why) };
    if !announced.is_short() {
        return Err(bad_request(&format!("`by` and `why` have at most {MOST_ANNOUNCED} characters")));
    }
    let whom = (service.clone(), instance.clone());
    let granted = ask(state, move |presence| {
        let granted = presence.announce_maintenance(&whom.0, whom.1.as_deref(), seconds, announced);
        granted.ok_or_else(|| presence.like(&whom.0))
    });
    let granted = granted.await?.map_err(|near| unknown("service or instance", near))?;
    tracing::info!(
        service = %Escaped(&service),
        instance = %Escaped(instance.as_deref().unwrap_or("*")),
        seconds = granted,
        by = %Escaped(by.as_deref().unwrap_or("")),
        why = %Escaped(why.as_deref().unwrap_or("")),
        "maintenance was announced"
    );
    Ok(granted)
}

/// Forgets a service
#[utoipa::path(
    delete,
    path = "/api/v1/presence/{service}",
    params(
        ("service" = String, Path, description = "Its name"),
    ),
    responses(
        (status = 200, description = "It is forgotten; `awaited` is true if a job of that name is configured, so that its next run is awaited again", body = Object),
    ),
)]
pub(super) async fn forget_service(
    State(state): State<AppState>,
    Path(service): Path<String>,
    Parameters(Nothing): Parameters<Nothing>,
    caller: Caller,
) -> Result<Response, Response> {
    may(&state, &caller, None, caller.refused_change(&state.access)).await?;
    forget(&state, service, None).await.map(|again| small(&json!({"ok": true, "awaited": again})))
}

/// Forgets an instance
#[utoipa::path(
    delete,
    path = "/api/v1/presence/{service}/{instance}",
    params(
        ("service" = String, Path, description = "Its name"),
        ("instance" = String, Path, description = "Its name"),
    ),
    responses(
        (status = 200, description = "It is forgotten; `awaited` is true if a job of that name is configured, so that its next run is awaited again", body = Object),
    ),
)]
pub(super) async fn forget_instance(
    State(state): State<AppState>,
    Path((service, instance)): Path<(String, String)>,
    Parameters(Nothing): Parameters<Nothing>,
    caller: Caller,
) -> Result<Response, Response> {
    may(&state, &caller, None, caller.refused_change(&state.access)).await?;
    forget(&state, service, Some(instance)).await.map(|again| small(&json!({"ok": true, "awaited": again})))
}

/// Forgets an instance called `check`
///
/// Its path is that of the check of its service, so it cannot be asked for by that.
#[utoipa::path(
    delete,
    path = "/api/v1/presence/{service}/check",
    params(
        ("service" = String, Path, description = "The name of its service"),
    ),
    responses(
        (status = 200, description = "It is forgotten; `awaited` is true if a job of that name is configured, so that its next run is awaited again", body = Object),
    ),
)]
pub(super) async fn forget_check(
    state: State<AppState>,
    Path(service): Path<String>,
    nothing: Parameters<Nothing>,
    caller: Caller,
) -> Result<Response, Response> {
    forget_instance(state, Path((service, "check".into())), nothing, caller).await
}

/// Removes an instance or a service; whether there is a job among it that is configured, and so is awaited again.
pub(super) async fn forget(state: &AppState, service: String, instance: Option<String>) -> Result<bool, Response> {
    let whom = (service.clone(), instance.clone());
    let found = ask(state, move |presence| {
        let is_known = presence.forget(&whom.0, whom.1.as_deref());
        let again = presence.has_configured_job(&whom.0, whom.1.as_deref());
        if is_known { Ok(again) } else { Err(presence.like(&whom.0)) }
    });
    let is_awaited = found.await?.map_err(|near| unknown("service or instance", near))?;
    tracing::info!(
        service = %Escaped(&service),
        instance = %Escaped(instance.as_deref().unwrap_or("*")),
        awaited = is_awaited,
        "an operator removed it"
    );
    Ok(is_awaited)
}
