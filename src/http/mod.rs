//! The daemon over HTTP. It reads what the flusher published and nothing else.
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
//! On loopback everything may be read by anybody; elsewhere every route needs `Authorization: Bearer TOKEN`
//! (a browser may say `?token=TOKEN`). Errors are `{"error":{"code":"…","message":"…"}}`.

mod board;
mod metrics;
mod page;
mod presence;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use crate::allow::equal;
use crate::snapshot::{Records, Snapshot, write_json};
use crate::telemetry::Ledger;
use crate::vigil::Vigil;

/// Longest wait for an interval that is being closed.
const CLOSING: Duration = Duration::from_secs(5);

/// What the flusher publishes with every interval.
#[derive(Clone, Debug, Default)]
pub struct Published {
    /// The last closed interval.
    pub snapshot: Option<Arc<Snapshot>>,
    /// The account since the start.
    pub totals: Ledger,
    /// A large last interval was let go to make room for the next, which will be here in a moment.
    pub closing: bool,
    /// When it was published.
    pub at: Option<Instant>,
}

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
pub struct House {
    /// About the daemon.
    pub about: About,
    /// What the flusher says.
    pub published: watch::Receiver<Arc<Published>>,
    /// Whether all listeners are bound, the first tick is scheduled, and no stop was asked for.
    pub ready: Arc<AtomicBool>,
    /// What callers must show, if anything.
    pub token: Option<Arc<str>>,
    /// Who is there; `None` if presence is off.
    pub vigil: Option<Vigil>,
    /// What those must show who change something, on loopback too; without it nobody can.
    pub write_token: Option<Arc<str>>,
    /// Event streams that may still be opened.
    pub streams: Arc<Semaphore>,
}

/// Most event streams at a time.
pub const STREAMS: usize = 64;

impl House {
    fn published(&self) -> Arc<Published> {
        Arc::clone(&self.published.borrow())
    }

    /// What was published, with the last interval: while one is being closed that takes a moment.
    async fn published_whole(&self) -> Arc<Published> {
        let mut published = self.published.clone();
        // Without the flusher, or if it takes too long, there is no interval to show.
        let _ = tokio::time::timeout(CLOSING, published.wait_for(|published| !published.closing)).await;
        Arc::clone(&published.borrow())
    }

    fn uptime_secs(&self) -> f64 {
        self.about.started.elapsed().as_secs_f64()
    }
}

/// Serves until `stop` turns true.
pub async fn serve(listener: TcpListener, house: House, mut stop: watch::Receiver<bool>) {
    let stopped = async move {
        // An error means that whoever could stop us is gone, which is a stop too.
        let _ = stop.wait_for(|stop| *stop).await;
    };
    if let Err(error) = axum::serve(listener, router(house)).with_graceful_shutdown(stopped).await {
        tracing::error!(%error, "the HTTP server ended");
    }
}

fn router(house: House) -> Router {
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
        .layer(middleware::from_fn_with_state(house.clone(), guard))
        .with_state(house)
}

/// Asks for the token where there is one, and sets the headers that keep a browser from guessing.
async fn guard(State(house): State<House>, request: Request, next: Next) -> Response {
    let mut response = match &house.token {
        Some(token) if !shows(&request, token) => error(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "this needs `Authorization: Bearer TOKEN` with the token of `http.token`",
        ),
        _ => next.run(request).await,
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

fn shows(request: &Request, token: &str) -> bool {
    let query = request.uri().query().unwrap_or("").split('&').find_map(|pair| pair.strip_prefix("token="));
    [bearer(request.headers()), query].into_iter().flatten().any(|shown| equal(shown.as_bytes(), token.as_bytes()))
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

async fn index(State(house): State<House>) -> Response {
    with_type("text/html; charset=utf-8", page::render(&house, &*house.published_whole().await).into_bytes())
}

async fn ready(State(house): State<House>) -> Response {
    // A flag on its own: nothing else is published through it.
    if house.ready.load(Ordering::Relaxed) {
        return text("ready\n");
    }
    error(StatusCode::SERVICE_UNAVAILABLE, "not_ready", "starting or stopping")
}

async fn own_metrics(State(house): State<House>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    let open = accept.contains("application/openmetrics-text");
    let kind = if open {
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    } else {
        "text/plain; version=0.0.4; charset=utf-8"
    };
    // Without an answer the rest is still worth showing.
    let presence = presence::ask(&house, |watch| watch.engine.scraped()).await.unwrap_or_default();
    with_type(kind, metrics::render(&house, &presence, open).into_bytes())
}

#[derive(Serialize)]
struct Status<'a> {
    version: &'static str,
    uptime_secs: f64,
    profile: &'static str,
    interval: f64,
    ready: bool,
    #[serde(flatten)]
    ledger: &'a Ledger,
}

async fn status(State(house): State<House>) -> Response {
    let published = house.published();
    json(&Status {
        version: env!("CARGO_PKG_VERSION"),
        uptime_secs: house.uptime_secs(),
        profile: house.about.profile,
        interval: house.about.interval.as_secs_f64(),
        ready: house.ready.load(Ordering::Relaxed),
        ledger: &published.totals,
    })
}

async fn snapshot(State(house): State<House>) -> Response {
    let published = house.published_whole().await;
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
