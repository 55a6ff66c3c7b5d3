//! Presence over HTTP: who is there, what happened, and what an operator may change.

use std::fmt::Write;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::timeout;

use crate::inert::Html;
use crate::presence::{Event, ServiceView};
use crate::vigil::Watch;

use super::{House, bearer, equal, error, json as answer, page, with_type};

/// Longest wait for an answer of the vigil.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) fn routes() -> Router<House> {
    Router::new()
        .route("/presence", get(board))
        .route("/api/v1/presence", get(list))
        .route("/api/v1/presence/events", get(events))
        .route("/api/v1/presence/maintenance", post(maintenance))
        .route("/api/v1/presence/{service}", get(service).delete(forget_service))
        .route("/api/v1/presence/{service}/check", get(check))
        .route("/api/v1/presence/{service}/{instance}", get(instance).delete(forget_instance))
}

/// Asks the vigil.
async fn ask<T: Send + 'static>(
    house: &House,
    question: impl FnOnce(&mut Watch) -> T + Send + 'static,
) -> Result<T, Response> {
    let Some(vigil) = &house.vigil else {
        return Err(error(StatusCode::NOT_FOUND, "presence_off", "presence is off (`presence.enabled = false`)"));
    };
    match timeout(PATIENCE, vigil.ask(question)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) | Err(_) => Err(error(StatusCode::SERVICE_UNAVAILABLE, "busy", "presence does not answer")),
    }
}

async fn view(house: &House) -> Result<Vec<ServiceView>, Response> {
    ask(house, |watch| watch.engine.view(watch.epoch)).await
}

fn unknown(what: &str) -> Response {
    error(StatusCode::NOT_FOUND, "unknown", &format!("no {what} of that name was ever heard, or it is forgotten"))
}

#[derive(Deserialize)]
struct Filter {
    service: Option<String>,
    state: Option<String>,
    health: Option<u8>,
}

async fn list(State(house): State<House>, Query(filter): Query<Filter>) -> Result<Response, Response> {
    let mut services = view(&house).await?;
    services.retain(|service| filter.service.as_ref().is_none_or(|wanted| *wanted == *service.service));
    if filter.state.is_some() || filter.health.is_some() {
        for service in &mut services {
            service.instances.retain(|instance| {
                filter.state.as_ref().is_none_or(|wanted| wanted == instance.state)
                    && filter.health.is_none_or(|wanted| instance.health == Some(wanted))
            });
        }
        services.retain(|service| {
            !service.instances.is_empty() || filter.state.as_deref() == Some(service.state) && filter.health.is_none()
        });
    }
    Ok(answer(&services))
}

async fn service(State(house): State<House>, Path(name): Path<String>) -> Result<Response, Response> {
    let found = view(&house).await?.into_iter().find(|service| *service.service == *name);
    found.map(|service| answer(&service)).ok_or_else(|| unknown("service"))
}

async fn instance(
    State(house): State<House>,
    Path((name, instance)): Path<(String, String)>,
) -> Result<Response, Response> {
    let service = view(&house).await?.into_iter().find(|service| *service.service == *name);
    let found = service.and_then(|service| service.instances.into_iter().find(|known| *known.instance == *instance));
    found.map(|instance| answer(&instance)).ok_or_else(|| unknown("instance"))
}

#[derive(Deserialize)]
struct Wanted {
    min: Option<usize>,
}

/// 200 if a service is up, or has as many instances as are asked for; 503 if not; 404 if it is unknown.
async fn check(
    State(house): State<House>,
    Path(name): Path<String>,
    Query(wanted): Query<Wanted>,
) -> Result<Response, Response> {
    let service = view(&house).await?.into_iter().find(|service| *service.service == *name);
    let service = service.filter(|service| service.state != "unknown" && service.state != "left");
    let Some(service) = service else { return Err(unknown("service")) };
    let enough = wanted.min.map_or(service.state == "up", |min| service.present >= min);
    let mut response = answer(&json!({
        "service": service.service, "state": service.state, "present": service.present, "down": service.down,
    }));
    if !enough {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    Ok(response)
}

#[derive(Deserialize)]
struct Since {
    since: Option<u64>,
}

#[derive(Serialize)]
struct Numbered {
    id: u64,
    time: f64,
    severity: &'static str,
    #[serde(flatten)]
    event: Event,
}

/// The last events, oldest first; those after number `since` if that is given.
async fn events(State(house): State<House>, Query(since): Query<Since>) -> Result<Response, Response> {
    let since = since.since.unwrap_or(0);
    let events = ask(&house, move |watch| {
        let after = watch.remembered.iter().filter(|(id, _)| *id > since);
        after.map(|(id, event)| (*id, event.clone())).collect::<Vec<_>>()
    })
    .await?;
    let numbered = |(id, event): (u64, Event)| Numbered { id, time: event.at, severity: event.severity(), event };
    Ok(answer(&events.into_iter().map(numbered).collect::<Vec<_>>()))
}

/// Refuses, and counts, a write without the token of `http.token`.
async fn may_write(house: &House, headers: &HeaderMap) -> Result<(), Response> {
    let shown = house
        .write_token
        .as_ref()
        .is_some_and(|token| bearer(headers).is_some_and(|shown| equal(shown.as_bytes(), token.as_bytes())));
    if shown {
        return Ok(());
    }
    ask(house, |watch| watch.refused_writes += 1).await?;
    Err(error(
        StatusCode::UNAUTHORIZED,
        "unauthorized",
        "changes need `Authorization: Bearer TOKEN` with the token of `http.token`, which must be set",
    ))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Announcement {
    service: String,
    instance: Option<String>,
    seconds: f64,
    by: Option<String>,
    why: Option<String>,
}

async fn maintenance(State(house): State<House>, headers: HeaderMap, body: Bytes) -> Result<Response, Response> {
    may_write(&house, &headers).await?;
    let wanted: Announcement = serde_json::from_slice(&body).map_err(|problem| {
        let right = "{\"service\":\"…\",\"instance\":\"…\",\"seconds\":1800,\"by\":\"…\",\"why\":\"…\"} is right";
        error(StatusCode::BAD_REQUEST, "bad_request", &format!("{problem}; {right}"))
    })?;
    if !(0.0..=1e9).contains(&wanted.seconds) {
        return Err(error(StatusCode::BAD_REQUEST, "bad_request", "`seconds` is 0 or more"));
    }
    tracing::info!(
        service = wanted.service,
        instance = wanted.instance,
        seconds = wanted.seconds,
        by = wanted.by,
        why = wanted.why,
        "maintenance was announced"
    );
    let found =
        ask(&house, move |watch| watch.engine.maintenance(&wanted.service, wanted.instance.as_deref(), wanted.seconds))
            .await?;
    if found { Ok(answer(&json!({"ok": true}))) } else { Err(unknown("service or instance")) }
}

async fn forget_service(
    State(house): State<House>,
    Path(service): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Response> {
    forget(&house, &headers, service, None).await
}

async fn forget_instance(
    State(house): State<House>,
    Path((service, instance)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Response> {
    forget(&house, &headers, service, Some(instance)).await
}

async fn forget(
    house: &House,
    headers: &HeaderMap,
    service: String,
    instance: Option<String>,
) -> Result<Response, Response> {
    may_write(house, headers).await?;
    let found = ask(house, move |watch| watch.engine.forget(&service, instance.as_deref())).await?;
    if found { Ok(answer(&json!({"ok": true}))) } else { Err(unknown("service or instance")) }
}

/// Worst first.
fn rank(state: &str) -> usize {
    let order = ["down", "degraded", "unknown", "maintenance", "up", "left"];
    order.iter().position(|known| *known == state).unwrap_or(order.len())
}

/// The board: one page that works without JavaScript, what matters first.
async fn board(State(house): State<House>) -> Result<Response, Response> {
    let (mut services, mass, events, unconfirmed) = ask(&house, |watch| {
        let services = watch.engine.view(watch.epoch);
        let unconfirmed = services.iter().flat_map(|s| &s.instances).filter(|i| i.state == "unknown").count();
        let events: Vec<Event> = watch.remembered.iter().rev().take(20).map(|(_, event)| event.clone()).collect();
        (services, watch.engine.is_mass_silence(), events, unconfirmed)
    })
    .await?;
    services.sort_by_key(|service| rank(service.state));
    let mut out = page::head("Presence", 5);
    let count = |state: &str| services.iter().filter(|service| service.state == state).count();
    let (down, degraded) = (count("down"), count("degraded"));
    let headline = match (services.is_empty(), mass, down, degraded) {
        (true, ..) => ("", "Nobody was heard yet.".to_string()),
        (_, true, ..) => {
            ("bad", "Most of what should be heard is silent: one cause is likelier than many.".to_string())
        }
        (_, _, 0, 0) => ("good", format!("All {} services are there.", services.len())),
        (_, _, 0, n) => ("bad", format!("{n} of {} services degraded.", services.len())),
        (_, _, n, _) => ("bad", format!("{n} of {} services down.", services.len())),
    };
    let _ = write!(out, "<h1>Presence</h1><p class=\"{}\"><b>{}</b></p>", headline.0, headline.1);
    let totals = &house.published().totals;
    let drops: u64 = totals.listeners.iter().map(|listener| listener.kernel_drops).sum();
    let _ = write!(
        out,
        "<p class=\"sub\">up {} s · {unconfirmed} to be confirmed since then · {drops} datagrams lost · \
         <a href=\"/\">metrics</a></p>",
        house.uptime_secs() as u64
    );
    if services.is_empty() {
        out.push_str(
            "<p>Send a heartbeat: <code>echo 'heartbeat.checkout.web-1:10|g' | nc -u -w0 127.0.0.1 8125</code></p>",
        );
    }
    for service in &services {
        let _ = write!(
            out,
            "<h2><span class=\"{}\">{}</span> {}</h2><p class=\"sub\">{} of {} present</p><table><tr><th>instance</th>\
             <th>state</th><th class=\"n\">silent</th><th class=\"n\">timeout</th><th class=\"n\">interval</th><th>version</th>\
             <th>flags</th></tr>",
            if matches!(service.state, "down" | "degraded") { "bad" } else { "good" },
            service.state,
            Html(&service.service),
            service.present,
            service.present + service.down,
        );
        for one in &service.instances {
            let interval =
                one.interval_s.map_or("learning".to_string(), |s| format!("{s:.1} s {}", one.interval_source));
            let _ = write!(
                out,
                "<tr><td class=\"name\">{}</td><td class=\"{}\">{}</td><td class=\"n\">{:.0} s</td>\
                 <td class=\"n\">{:.0} s</td><td class=\"n\">{interval}</td><td>{}</td><td>{}</td></tr>",
                Html(&one.instance),
                if one.state == "down" { "bad" } else { "" },
                one.state,
                one.silence_s,
                one.timeout_s,
                Html(one.version.as_deref().unwrap_or("")),
                one.flags.join(" "),
            );
        }
        out.push_str("</table>");
    }
    if !events.is_empty() {
        out.push_str("<h2>What happened</h2><table>");
        for event in &events {
            let time = std::time::UNIX_EPOCH + Duration::from_secs_f64(event.at.max(0.0));
            let who = [event.service.as_deref(), event.instance.as_deref()];
            let who: Vec<&str> = who.into_iter().flatten().collect();
            let _ = write!(
                out,
                "<tr><td>{}</td><td class=\"name\">{}</td><td>{} {}</td><td>{}</td></tr>",
                humantime::format_rfc3339_seconds(time),
                Html(&who.join("/")),
                event.from.map_or(String::new(), |from| format!("{from} →")),
                event.to.or(event.code).unwrap_or(""),
                event.reason.unwrap_or(""),
            );
        }
        out.push_str("</table>");
    }
    out.push_str("</body></html>\n");
    Ok(with_type("text/html; charset=utf-8", out.into_bytes()))
}
