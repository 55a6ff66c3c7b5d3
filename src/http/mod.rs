//! The daemon over HTTP. It reads what the flusher publishes and what presence answers, and live counters.
//!
//! | route | answer |
//! |---|---|
//! | `GET /`, `/series`, `/series/show`, `/presence…`, `/senders`, `/events`, `/explain`, `/config` | [pages] |
//! | `GET /health` | 200 while the process lives |
//! | `GET /ready` | 200 when all listeners are bound, the first tick is scheduled and every part works, 503 else |
//! | `GET /metrics` | the daemon's own numbers, Prometheus text or OpenMetrics by `Accept` |
//! | `GET /api/v1/status` | version, uptime, profile, interval, and the ledger since the start |
//! | `GET /api/v1/snapshot[?kind=&type=&name=&tag=&limit=]` | records of the last interval, an array |
//! | `GET /api/v1/explain?line=` | how a line is read, what is flushed of it, and where that goes |
//! | `GET /api/v1/config` | what is in force, and where it is set |
//! | `GET /api/v1/openapi.json` | the routes as OpenAPI 3.1 |
//! | `GET /api/v1/events[?since=&limit=&kind=&q=]` | the last 1,000 things that happened, newest first |
//! | `GET /api/v1/senders[?by=&sender=&q=&limit=]` | who sends what, and which tags explode |
//! | `GET /api/v1/cluster` | nodes, partitions and edges of the cluster that this node is in |
//! | `GET /login`, `POST /login`, `POST /logout` | the form that asks a browser for the token, and its cookie |
//! | `GET /assets/NAME` | stylesheets and scripts |
//! | `GET /api/v1/stream[?topics=&id=…]` | a stream of intervals and of what happens |
//! | `GET /api/v1/series[?q=&kind=&tag=&prefix=&sort=&limit=&cursor=&spark=&facets=]` | series that match |
//! | `GET /api/v1/series/details?id=` | one of them |
//! | `GET /api/v1/history?id=&ledger=[&field=&from=&to=&step=&heat=]` | points over time |
//! | `GET /api/v1/tail[?match=&invalid=&from=&limit=]` | lines as they arrive |
//! | `GET /api/v1/presence[?service=&state=&health=]` | services with their instances |
//! | `GET /api/v1/presence/SERVICE[/INSTANCE]` | one of them |
//! | `GET /api/v1/presence/SERVICE/check[?min=N]` | 200 if it is there, 503 if not, 404 if it is unknown |
//! | `GET /api/v1/jobs[?service=&state=&after=&limit=]` | jobs with their last runs |
//! | `GET /presence/SERVICE` | one service: instances, the last day, events; forms for changes |
//! | `GET /api/v1/presence/events[?since=ID]` | the last 1,000 events; a stream with `Accept: text/event-stream` |
//! | `POST /api/v1/cluster/drain` | lets this node give up its partitions; it needs the token |
//! | `POST /api/v1/upgrade` | hands over to a new process of the program; it needs the token |
//! | `POST /api/v1/reload` | reads the configuration again; it needs the token |
//! | `POST /api/v1/notify/test` | sends a test alert to the targets of notifications; it needs the token |
//! | `GET /api/v1/presence/peer[?since=CURSOR]` | what this node has heard, for other observers; it needs their token |
//! | `POST /api/v1/presence/maintenance`, `DELETE /api/v1/presence/SERVICE[/INSTANCE]` | changes; they always need the token |
//!
//! On loopback everything may be read by anybody of this machine; elsewhere every route but `/health`, `/ready` and
//! `/assets` needs `Authorization: Bearer TOKEN`, or the cookie that a browser gets at `/login`. Errors are
//! `{"error":{"code":"…","message":"…"}}`.
//!
//! On loopback `Host` must be `localhost`, an address of loopback, or one of `http.hosts`, else the answer is 421: a web
//! page whose name was made to point to 127.0.0.1 (DNS rebinding) would read everything in the browser of whoever visits
//! it. `/health` and `/ready` say nothing worth that, and probes come with names of their own. A request without `Host` is
//! no browser's.

mod access;
mod assets;
mod caching;
mod cluster;
mod config;
mod events;
mod explain;
mod history;
mod jobs;
mod listing;
mod live;
mod login;
mod metrics;
mod notify;
mod openapi;
mod orders;
mod pages;
mod presence;
mod reload;
mod senders;
mod series;
mod snapshot;
mod stream;
mod tail;
mod verdict;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::middleware;
use axum::response::Response;
use axum::routing::{get, post};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use utoipa::ToSchema;

use crate::cluster_driver::StatusBoard;
use crate::explain::Explainer;
use crate::flush::FlusherHandle;
use crate::history::History;
use crate::journal::Journal;
use crate::notify::Tester;
use crate::ports::{Port, serve_http};
use crate::presence::observers::ObserversView;
use crate::presence_driver::PresenceHandle;
use crate::reloads::{FailedUpgrade, ReloadStatus, Reloads};
use crate::senders::Senders;
use crate::supervise::Readiness;
use crate::tail::Tail;
use crate::telemetry::Ledger;
use crate::web::{
    self, Bodies, Gzip, Held, MOST_BODY, Nothing, Once, Parameters, TokenAlone, error, json, text, with_type,
};

pub use access::{Access, AccessOptions};
pub use config::{Effective, Origin, Setting};
pub use history::Past;
pub use live::Live;
pub use orders::{HandedOver, NO_PAGE, Order, Orders, Upgrading};
pub use snapshot::LastRead;
pub use stream::{Sources, Streams};

/// What does not change while the daemon runs, or is the same for all who see it.
#[derive(Clone, Debug)]
pub struct About {
    /// `systole` or `etsy`.
    pub profile: &'static str,
    /// Configured time between flushes.
    pub interval: Duration,
    /// The name of this machine.
    pub node: Arc<str>,
    /// When the daemon started.
    pub started: Instant,
    /// `max_series`.
    pub max_series: Arc<AtomicU64>,
    /// Reloads of the configuration.
    pub reloads: Reloads,
}

/// What every route sees.
#[derive(Clone, Debug)]
pub struct AppState {
    /// About the daemon.
    pub about: About,
    /// The flusher, for what it publishes and for live counters.
    pub flusher: FlusherHandle,
    /// Whether all listeners are bound, the first tick is scheduled, every part works, and no stop was asked for.
    pub readiness: Readiness,
    /// Who may read, and who may change something.
    pub access: Arc<Access>,
    /// Compresses answers.
    pub gzip: Gzip,
    /// Who is there; `None` if presence is off.
    pub presence: Option<PresenceHandle>,
    /// What happened.
    pub journal: Journal,
    /// Streams of intervals.
    pub live: Streams,
    /// The last intervals of every series.
    pub history: History,
    /// Lines as they arrive.
    pub tail: Tail,
    /// What is older than that; `None` if nobody keeps it.
    pub past: Option<Past>,
    /// Event streams that may still be opened.
    pub streams: Arc<Semaphore>,
    /// The large bodies that are being sent.
    pub bodies: Bodies,
    /// The interval that is being read.
    pub last_read: LastRead,
    /// Answers for which much is collected, each for all who wait for it.
    pub once: OnceEach,
    /// Who sends what.
    pub senders: Senders,
    /// Explains lines.
    pub explainer: Explainer,
    /// What is configured.
    pub config: Arc<Effective>,
    /// Sends test alerts.
    pub tester: Tester,
    /// What is known of the cluster; `None` if this node is in none.
    pub cluster: Option<StatusBoard>,
    /// Passes on what operators ask of the process; `None` if nobody carries it out.
    pub orders: Option<Orders>,
    /// The process before this one, if it handed over.
    pub handed_over: Option<Arc<HandedOver>>,
}

/// Most event streams at a time.
pub const STREAMS: usize = 64;

const HTML: &str = "text/html; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

/// Answers that are made once for all who wait for the same.
#[derive(Clone, Debug, Default)]
pub struct OnceEach {
    board: Once,
    metrics: Once,
    events: Once,
}

impl About {
    fn max_series(&self) -> u64 {
        // A number on its own: nothing else is published through it.
        self.max_series.load(Ordering::Relaxed)
    }

    fn uptime_secs(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }
}

/// Serves until `stop` turns true.
pub async fn serve(port: Port, listener: Arc<TcpListener>, state: Live, stop: watch::Receiver<bool>) {
    serve_http(&port, &listener, router(state), stop).await;
}

/// Where to begin, for whoever asks for a page that there is not.
const PAGES: [&str; 9] = [
    "/",
    "/presence",
    "/health",
    "/ready",
    "/metrics",
    "/api/v1/status",
    "/api/v1/snapshot",
    "/api/v1/senders",
    "/api/v1/presence",
];

async fn no_page(uri: Uri) -> Response {
    web::not_found(uri.path(), &PAGES, " and what `docs/http.md` has below it")
}

fn router(state: Live) -> Router {
    Router::new()
        .merge(pages::routes())
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/metrics", get(own_metrics))
        .route("/api/v1/status", get(status))
        .route("/api/v1/snapshot", get(last_snapshot))
        .route("/api/v1/explain", get(explain::explain))
        .route("/api/v1/config", get(config::config))
        .route("/api/v1/openapi.json", get(openapi::document))
        .route("/api/v1/events", get(events::events))
        .route("/api/v1/senders", get(senders::senders))
        .route("/api/v1/cluster", get(cluster::cluster))
        .route("/api/v1/cluster/drain", post(cluster::drain))
        .route("/api/v1/upgrade", post(orders::upgrade))
        .route("/assets/{name}", get(assets::asset))
        .merge(login::routes())
        .route("/api/v1/stream", get(stream::stream))
        .merge(series::routes())
        .merge(history::routes())
        .route("/api/v1/tail", get(tail::tail))
        .merge(presence::routes())
        .merge(notify::routes())
        .merge(jobs::routes())
        .route("/api/v1/reload", post(reload::reload))
        .fallback(no_page)
        .method_not_allowed_fallback(|| async { web::method_not_allowed() })
        .layer(DefaultBodyLimit::max(MOST_BODY))
        .layer(middleware::from_fn(web::promised))
        .layer(middleware::from_fn(pages::problem::for_people))
        .layer(middleware::from_fn_with_state(state.clone(), access::guard))
        .layer(middleware::from_fn_with_state(state.now().gzip.clone(), web::compressed))
        .with_state(state)
}

/// Whether the process lives
#[utoipa::path(
    get,
    path = "/health",
    params(
        ("token" = Option<String>, Query, description = "Not looked at"),
    ),
    responses(
        (status = 200, description = "It does", content_type = "text/plain", body = String),
    ),
)]
async fn health(Parameters(TokenAlone): Parameters<TokenAlone>) -> Response {
    text("up\n")
}

/// Whether everything works
///
/// All listeners are bound, the first tick is scheduled, and every part works. In a cluster the clock is right by that of the bus, and
/// the bus works, or there is room for what waits for it; a node that only merges needs the bus.
#[utoipa::path(
    get,
    path = "/ready",
    params(
        ("token" = Option<String>, Query, description = "Not looked at"),
    ),
    responses(
        (status = 200, description = "It does", content_type = "text/plain", body = String),
        (status = 503, description = "Not yet, or not any more; the message says what is missing", body = openapi::Failure),
    ),
)]
async fn ready(State(state): State<AppState>, Parameters(TokenAlone): Parameters<TokenAlone>) -> Response {
    match state.readiness.obstacle() {
        None => match state.cluster.as_ref().and_then(StatusBoard::caveat) {
            None => text("ready\n"),
            Some(caveat) => with_type(TEXT, format!("ready; {caveat}\n")),
        },
        Some(obstacle) => error(StatusCode::SERVICE_UNAVAILABLE, "not_ready", &obstacle),
    }
}

/// The daemon's own numbers
///
/// Prometheus text, or OpenMetrics by `Accept`.
#[utoipa::path(
    get,
    path = "/metrics",
    responses(
        (status = 200, description = "The numbers", content(("text/plain"), ("application/openmetrics-text"))),
    ),
)]
async fn own_metrics(
    State(state): State<AppState>,
    Parameters(Nothing): Parameters<Nothing>,
    headers: HeaderMap,
) -> Result<Response, Response> {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    let open = accept.contains("application/openmetrics-text");
    let kind = if open {
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    } else {
        "text/plain; version=0.0.4; charset=utf-8"
    };
    let text = state.once.metrics.share(kind, async {
        let _turn = state.bodies.turn().await;
        // Without an answer the rest is still worth showing.
        let presence = presence::ask(&state, |presence| presence.scraped()).await.unwrap_or_default();
        let (ledger, uptime) = (state.flusher.live().await.ledger(), state.about.uptime_secs());
        let own = format!(":{}", state.access.port());
        let others = ledger.ports.iter().filter(|(url, _)| url.starts_with("http") && !url.ends_with(&own));
        state.flusher.hints().note_scrape(others.map(|(_, port)| port));
        let cluster = state.cluster.as_ref().map(StatusBoard::read);
        let upgrade_pause_secs = state.handed_over.as_ref().map(|before| before.pause_secs);
        let reloads = state.about.reloads.status();
        let about = metrics::About { uptime_secs: uptime, upgrade_pause_secs, cluster, reloads, is_open: open };
        state.bodies.work(move || metrics::render(ledger, &presence, &about).into()).await
    });
    state.bodies.shared(kind, text.await?).await
}

/// The daemon, and its ledger since the start.
#[derive(Serialize, ToSchema)]
struct Status<'a> {
    version: &'static str,
    /// The process.
    pid: u32,
    /// The name of this machine.
    node: &'a str,
    uptime_secs: f64,
    /// `systole` or `etsy`.
    profile: &'static str,
    /// Configured time between flushes, in seconds.
    interval: f64,
    ready: bool,
    /// The last tick, in Unix seconds: intervals until then were handed to the sinks.
    #[serde(skip_serializing_if = "Option::is_none")]
    as_of: Option<f64>,
    /// What somebody should look at before data is lost.
    warnings: Vec<String>,
    /// The ledger since the start, as `docs/ledger.md` has it.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    ledger: &'a Ledger,
    /// Whether the data can be trusted.
    #[schema(value_type = Object)]
    verdict: verdict::Verdict,
    /// Other observers of the same fleet.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object)]
    observers: Option<ObserversView>,
    /// Watches that have taken no line since the start, ten at most.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    idle_watches: Vec<String>,
    /// What comes near to what was meant, with the setting that would help: at most one sentence of each kind.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hints: Vec<String>,
    /// How this process took over from the one before it, if that handed over.
    #[serde(skip_serializing_if = "Option::is_none")]
    upgrade: Option<&'a HandedOver>,
    /// The last upgrade that was asked for, if it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    failed_upgrade: Option<FailedUpgrade>,
    /// Reloads of the configuration since the start.
    reloads: ReloadStatus,
}

/// The daemon, and its ledger since the start
#[utoipa::path(
    get,
    path = "/api/v1/status",
    responses(
        (status = 200, description = "As of now", body = Status),
    ),
)]
async fn status(State(state): State<AppState>, Parameters(Nothing): Parameters<Nothing>) -> Response {
    let verdict::Look { published, ledger, verdict, presence, warnings, .. } = verdict::look(&state).await;
    let (observers, idle_watches) =
        presence.map_or((None, Vec::new()), |summary| (summary.observers, summary.idle_watches));
    json(&Status {
        version: env!("CARGO_PKG_VERSION"),
        pid: std::process::id(),
        node: &state.about.node,
        uptime_secs: state.about.uptime_secs(),
        profile: state.about.profile,
        interval: state.about.interval.as_secs_f64(),
        ready: state.readiness.obstacle().is_none(),
        as_of: published.as_of,
        warnings: warnings.into_iter().map(|warning| warning.text).collect(),
        ledger: &ledger,
        verdict,
        observers,
        idle_watches,
        hints: state.flusher.hints().all(),
        upgrade: state.handed_over.as_deref(),
        failed_upgrade: state.about.reloads.failed_upgrade(),
        reloads: ReloadStatus { waiting_for: published.behind.clone(), ..state.about.reloads.status() },
    })
}

/// The records of the last interval
///
/// In the order of type, name and tags.
#[utoipa::path(
    get,
    path = "/api/v1/snapshot",
    params(
        ("kind" = Option<snapshot::KindName>, Query, description = "Only series of this kind"),
        ("type" = Option<Vec<snapshot::TypeName>>, Query, description = "Only records of these types", max_items = 11),
        ("name" = Option<String>, Query, description = "Only series whose names match: `*` (at most 16) is any text, `?` any character", max_length = 256, pattern = r"^[^*]*(\*[^*]*){0,16}$"),
        ("tag" = Option<Vec<String>>, Query, description = "Only series with all of these: `key:value`, or `key` with any value", max_items = 10),
        ("limit" = Option<u64>, Query, description = "At most so many", minimum = 1, maximum = 10_000_000),
        ("if-none-match" = Option<String>, Header, description = "The tag of what the client has"),
    ),
    responses(
        (status = 200, description = "The records", body = Vec<Object>),
        (status = 304, description = "What `If-None-Match` names is still right"),
    ),
)]
async fn last_snapshot(
    State(state): State<AppState>,
    Parameters(filter): Parameters<snapshot::Filter>,
    headers: HeaderMap,
) -> Result<Response, Response> {
    if let Some(refusal) = filter.too_costly() {
        return Err(refusal);
    }
    let published = state.flusher.published_whole().await;
    let Some(snapshot) = &published.snapshot else { return Ok(with_type(web::JSON, "[]")) };
    let tag = caching::interval_tag(snapshot);
    if let Some(unchanged) = caching::unchanged(&headers, &tag) {
        return Ok(unchanged);
    }
    let held = Held::State(Arc::as_ptr(snapshot) as usize, 0);
    let (array, bodies) = (state.last_read.array(snapshot, &state.bodies), state.bodies.clone());
    let array = state.bodies.work(move || array.of(filter, &bodies)).await?.map_err(|refusal| *refusal)?;
    let mut response = state.bodies.made(held, web::JSON, array).await?;
    caching::mark(&mut response, &tag, caching::ASK_AGAIN);
    Ok(response)
}
