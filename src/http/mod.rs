//! The daemon over HTTP. It reads what the flusher publishes and what presence answers, and live counters.
//!
//! | route | answer |
//! |---|---|
//! | `GET /` | page: ingest, ledger, the last interval's series |
//! | `GET /health` | 200 while the process lives |
//! | `GET /ready` | 200 when all listeners are bound and the first tick is scheduled, 503 before and while stopping |
//! | `GET /metrics` | the daemon's own numbers, Prometheus text or OpenMetrics by `Accept` |
//! | `GET /api/v1/status` | version, uptime, profile, interval, and the ledger since the start |
//! | `GET /api/v1/snapshot` | records of the last interval, an array |
//! | `GET /presence` | the board: who is there, worst first |
//! | `GET /api/v1/presence[?service=&state=&health=]` | services with their instances |
//! | `GET /api/v1/presence/SERVICE[/INSTANCE]` | one of them |
//! | `GET /api/v1/presence/SERVICE/check[?min=N]` | 200 if it is there, 503 if not, 404 if it is unknown |
//! | `GET /presence/SERVICE` | one service: instances, the last day, events; forms for changes |
//! | `GET /api/v1/presence/events[?since=ID]` | the last 1,000 events; a stream with `Accept: text/event-stream` |
//! | `POST /api/v1/presence/maintenance`, `DELETE /api/v1/presence/SERVICE[/INSTANCE]` | changes; they always need the token |
//!
//! On loopback everything may be read by anybody of this machine; elsewhere every route but `/health` and `/ready` needs
//! `Authorization: Bearer TOKEN` (a browser may say `?token=TOKEN`). Errors are `{"error":{"code":"…","message":"…"}}`.
//!
//! On loopback `Host` must be `localhost`, an address of loopback, or one of `http.hosts`, else the answer is 421: a web
//! page whose name was made to point to 127.0.0.1 (DNS rebinding) would read everything in the browser of whoever visits
//! it. `/health` and `/ready` say nothing worth that, and probes come with names of their own. A request without `Host` is
//! no browser's.

mod board;
mod metrics;
mod page;
mod presence;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use crate::acl::equal;
use crate::codec::{Records, write_json};
use crate::flush::FlusherHandle;
use crate::presence_driver::PresenceHandle;
use crate::telemetry::Ledger;
use crate::untrusted::Escaped;

use board::{Shown, carried};

/// A connection whose next request's headers take longer is closed; so is one that is silent for so long between two.
const HEADER_PATIENCE: Duration = Duration::from_secs(10);

/// Pause after a failed accept: out of descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What does not change while the daemon runs.
#[derive(Clone, Debug)]
pub struct About {
    /// `systole` or `etsy`.
    pub profile: &'static str,
    /// Configured time between flushes.
    pub interval: Duration,
    /// When the daemon started.
    pub started: Instant,
}

/// What every route sees.
#[derive(Clone, Debug)]
pub struct AppState {
    /// About the daemon.
    pub about: About,
    /// The flusher, for what it publishes and for live counters.
    pub flusher: FlusherHandle,
    /// Whether all listeners are bound, the first tick is scheduled, and no stop was asked for.
    pub ready: Arc<AtomicBool>,
    /// What callers must show, if anything.
    pub token: Option<Arc<str>>,
    /// Names under which we may be asked, beside those of loopback; `None` for any.
    pub hosts: Option<Arc<[String]>>,
    /// Who is there; `None` if presence is off.
    pub presence: Option<PresenceHandle>,
    /// What those must show who change something, on loopback too; without it nobody can.
    pub write_token: Option<Arc<str>>,
    /// Event streams that may still be opened.
    pub streams: Arc<Semaphore>,
}

/// Most event streams at a time.
pub const STREAMS: usize = 64;

impl AppState {
    fn uptime_secs(&self) -> f64 {
        self.about.started.elapsed().as_secs_f64()
    }
}

/// Serves until `stop` turns true.
pub async fn serve(listener: TcpListener, state: AppState, mut stop: watch::Receiver<bool>) {
    let routes = TowerToHyperService::new(router(state));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_PATIENCE);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // An error means that whoever could stop us is gone, which is a stop too.
            _ = stop.wait_for(|stop| *stop) => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept an HTTP connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let connection = http.serve_connection(TokioIo::new(stream), routes.clone());
        let mut stop = stop.clone();
        tokio::spawn(async move {
            let mut connection = std::pin::pin!(connection);
            // That a client went away, or sent no HTTP, is its business.
            tokio::select! {
                _ = connection.as_mut() => return,
                _ = stop.wait_for(|stop| *stop) => connection.as_mut().graceful_shutdown(),
            }
            let _ = connection.await;
        });
    }
}

fn router(state: AppState) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/health", get(|| async { text("up\n") }))
        .route("/ready", get(ready))
        .route("/metrics", get(own_metrics))
        .route("/api/v1/status", get(status))
        .route("/api/v1/snapshot", get(snapshot))
        .merge(presence::routes())
        .fallback(|| async { error(StatusCode::NOT_FOUND, "not_found", "no such page; `/` has what there is") })
        .method_not_allowed_fallback(|| async {
            error(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "not with this method; pages and states are read with GET",
            )
        })
        .layer(middleware::from_fn_with_state(state.clone(), guard))
        .with_state(state)
}

/// Asks for the token where there is one, and for a name of ours where there is none, and sets the headers that keep a
/// browser from guessing.
async fn guard(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let is_open = matches!(request.uri().path(), "/health" | "/ready");
    let refusal = if is_open { None } else { refusal(&state, &request) };
    let mut response = match refusal {
        Some(refusal) => refusal,
        None => next.run(request).await,
    };
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'",
        ),
    ] {
        response.headers_mut().insert::<HeaderName>(name, HeaderValue::from_static(value));
    }
    response
}

fn refusal(state: &AppState, request: &Request) -> Option<Response> {
    if let Some(token) = &state.token
        && !shows(request, token)
    {
        let message = "this needs `Authorization: Bearer TOKEN` with the token of `http.token`";
        return Some(error(StatusCode::UNAUTHORIZED, "unauthorized", message));
    }
    let ours = state.hosts.as_ref()?;
    // A target with a name of its own (RFC 9112, 3.2.2) must not say another one than `Host`.
    let said = request.headers().get_all(header::HOST).iter().map(HeaderValue::as_bytes).map(String::from_utf8_lossy);
    let named = request.uri().authority().map(|authority| authority.as_str().into());
    let stranger = said.chain(named).find(|host| !is_ours(host, ours))?;
    let message = format!(
        "`{}` is no name of this daemon: ask for localhost, or list the name in `http.hosts`",
        Escaped(&stranger)
    );
    Some(error(StatusCode::MISDIRECTED_REQUEST, "unknown_host", &message))
}

/// Whether a `Host`, with or without a port, is one of loopback or of `ours`.
fn is_ours(host: &str, ours: &[String]) -> bool {
    let has_port = |port: &str| port.bytes().all(|b| b.is_ascii_digit());
    let name = match host.rsplit_once(':') {
        Some((name, port)) if has_port(port) && (name.ends_with(']') || !name.contains(':')) => name,
        _ => host,
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    let address = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    address.parse().is_ok_and(|address: IpAddr| address.is_loopback())
        || name.eq_ignore_ascii_case("localhost")
        || ours.iter().any(|known| known.eq_ignore_ascii_case(name))
}

fn shows(request: &Request, token: &str) -> bool {
    let query = request.uri().query().unwrap_or("").split('&').find_map(|pair| pair.strip_prefix("token="));
    [bearer(request.headers()), query].into_iter().flatten().any(|shown| equal(shown.as_bytes(), token.as_bytes()))
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

async fn index(State(state): State<AppState>, Query(shown): Query<Shown>) -> Response {
    let carry = carried(&state, &shown);
    let published = state.flusher.published_whole().await;
    let ledger = state.flusher.live().await.ledger();
    let page = page::render(&state, published.snapshot.as_deref(), &ledger, &carry);
    with_type("text/html; charset=utf-8", page.into_bytes())
}

async fn ready(State(state): State<AppState>) -> Response {
    // A flag on its own: nothing else is published through it.
    if state.ready.load(Ordering::Relaxed) {
        return text("ready\n");
    }
    error(StatusCode::SERVICE_UNAVAILABLE, "not_ready", "starting or stopping")
}

async fn own_metrics(State(state): State<AppState>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    let open = accept.contains("application/openmetrics-text");
    let kind = if open {
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    } else {
        "text/plain; version=0.0.4; charset=utf-8"
    };
    // Without an answer the rest is still worth showing.
    let presence = presence::ask(&state, |presence| presence.scraped()).await.unwrap_or_default();
    let ledger = state.flusher.live().await.ledger();
    with_type(kind, metrics::render(&ledger, state.uptime_secs(), &presence, open).into_bytes())
}

#[derive(Serialize)]
struct Status<'a> {
    version: &'static str,
    uptime_secs: f64,
    profile: &'static str,
    interval: f64,
    ready: bool,
    /// The last tick, in Unix seconds: intervals until then were handed to the sinks.
    #[serde(skip_serializing_if = "Option::is_none")]
    as_of: Option<f64>,
    #[serde(flatten)]
    ledger: &'a Ledger,
}

async fn status(State(state): State<AppState>) -> Response {
    let published = state.flusher.live().await;
    json(&Status {
        version: env!("CARGO_PKG_VERSION"),
        uptime_secs: state.uptime_secs(),
        profile: state.about.profile,
        interval: state.about.interval.as_secs_f64(),
        ready: state.ready.load(Ordering::Relaxed),
        as_of: published.as_of,
        ledger: &published.ledger(),
    })
}

async fn snapshot(State(state): State<AppState>) -> Response {
    let published = state.flusher.published_whole().await;
    // A million series take a while to write: not on a thread that serves others.
    let written = tokio::task::spawn_blocking(move || {
        let mut out = Vec::new();
        match &published.snapshot {
            Some(snapshot) => Records { sorted: true, ..Records::ALL }.write_array(snapshot, &mut out),
            None => out.extend_from_slice(b"[]"),
        }
        out
    });
    match written.await {
        Ok(body) => with_type("application/json", body),
        Err(_) => error(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the snapshot could not be written"),
    }
}

fn text(body: &'static str) -> Response {
    with_type("text/plain; charset=utf-8", body.as_bytes().to_vec())
}

fn json<T: Serialize>(value: &T) -> Response {
    let mut out = Vec::new();
    write_json(value, &mut out);
    out.push(b'\n');
    with_type("application/json", out)
}

fn with_type(kind: &'static str, body: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, kind)], body).into_response()
}

fn error(status: StatusCode, code: &str, message: &str) -> Response {
    let body = serde_json::json!({"error": {"code": code, "message": message}});
    (status, json(&body)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_loopback_and_those_that_are_listed_are_ours() {
        let ours = ["stats.example".to_string()];
        for (host, expected) in [
            ("localhost", true),
            ("LocalHost:8127", true),
            ("localhost.", true),
            ("127.0.0.1:8127", true),
            ("127.1.2.3", true),
            ("[::1]:8127", true),
            ("[::1]", true),
            ("stats.example:80", true),
            ("STATS.example", true),
            ("", false),
            ("evil.example", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example:8127", false),
            ("evil.example:127.0.0.1", false),
            ("localhost:8127:1", false),
            ("a@localhost", false),
            ("10.0.0.1", false),
            ("[::ffff:10.0.0.1]", false),
            ("0.0.0.0", false),
        ] {
            assert_eq!(is_ours(host, &ours), expected, "{host}");
        }
    }
}
