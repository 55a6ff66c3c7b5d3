//! Prometheus, by scrape: the sink keeps what it has and serves it at `/metrics` of its own address, as text 0.0.4 or
//! OpenMetrics 1.0 by `Accept`; as protobuf timers are native histograms. What is served is written once an interval for
//! all who ask for the same, gzipped for those who take that.
//!
//! Counters, and sums and counts of timers, go on from interval to interval, and leave after `ttl` without an update. A gauge
//! leaves with its last record; what one interval has alone, members of sets and quantiles, is served for a minute. Names are
//! made Prometheus' own; of two series that would then be one, or of two types under one name, the first keeps the name, the
//! other is dropped, counted (`conflict`) and named in the log. A counter whose interval is negative cannot be served either
//! (`negative`), unless its name is among `updown`: it is a gauge then, the sum of all that came. No more than the daemon's
//! `max_series` are held (`max_series`), and no more than there is memory for (`memory`). Events, service checks and changes of presence have no form here (`unsupported`).

mod exposition;
mod names;
mod outcome;
mod protobuf;
mod saved;

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, HeaderValue, Uri, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::get;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::acl::AccessList;
use crate::memory::{Holder, Holding, Level, footprint};
use crate::ports::{
    self, Buffers, ConnectionLimits, Patience, Port, PortOptions, ServerTls, Shareable, TlsFiles, limit_options,
    serve_http, tls_options, token_in_plain_text,
};
use crate::settings::choice;
use crate::snapshot::{Snapshot, SnapshotId};
use crate::supervise::Gate;
use crate::web::{self, Bodies, MOST_BODY, Parameters, TokenAlone};

use super::blocking::joined;
use super::spec::{bare, series_of, unique};
use super::{Delivery, LONG, Opt, OptionVisitor, Receipt, Sink, SinkContext, SinkError, Spec};

pub(super) use crate::prometheus_text::Shape;
pub use exposition::{Distributions, Exposition, Format};
pub(super) use exposition::{Sample, Value};
pub(super) use names::{Naming, divisor, label_pairs};
pub(super) use outcome::OutcomeLog;
pub use outcome::{Conflict, Outcome};
pub(super) use protobuf::{NativeSide, native_side};

const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const PROTOBUF: &str = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited";

/// `prometheus` in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrometheusSpec {
    address: Option<SocketAddr>,
    ttl: Duration,
    native_histograms: bool,
    /// Patterns of counters that also fall.
    updown: Vec<String>,
    naming: Naming,
    /// What scrapers must show; empty for nothing.
    token: String,
    limits: ConnectionLimits,
    tls: TlsFiles,
}

impl Default for PrometheusSpec {
    fn default() -> PrometheusSpec {
        PrometheusSpec {
            address: None,
            ttl: Duration::from_secs(3600),
            native_histograms: true,
            updown: Vec::new(),
            naming: Naming::Systole,
            token: String::new(),
            limits: ConnectionLimits { in_all: 128, per_address: 64 },
            tls: TlsFiles::default(),
        }
    }
}

impl PrometheusSpec {
    /// The same with what is said of names and of counters that fall.
    pub fn names_of(&self, exposition: Exposition) -> Exposition {
        exposition.updown(&self.updown).named(self.naming)
    }

    fn url(&self, address: SocketAddr) -> String {
        format!("{}://{address}", if self.tls.is_on() { "https" } else { "http" })
    }
}

impl Spec for PrometheusSpec {
    fn names(&self, snapshot: &Snapshot, _: &SinkContext) -> Vec<String> {
        unique(series_of(snapshot).map(|series| names::identity(series, self.naming)))
    }

    fn options(&mut self, visitor: &mut dyn OptionVisitor) {
        visitor.field("address", "Address at which `/metrics` is scraped.", Opt::Address(&mut self.address));
        visitor.require_one("address", self.address.is_some(), "\"127.0.0.1:9125\"");
        visitor.field(
            "ttl",
            "How long a series without an update is exposed.",
            Opt::Duration(&mut self.ttl, Duration::from_millis(10)..=LONG),
        );
        visitor.field(
            "native_histograms",
            "Timers as native histograms, for scrapers that ask for protobuf.",
            Opt::Flag(&mut self.native_histograms),
        );
        let doc = "What everything is called: with \"exporter\" as statsd_exporter has it, without `_total` and units.";
        choice(visitor, "naming", doc, &Naming::NAMES, &mut self.naming);
        visitor.field("updown", "Patterns of counters that may fall; they are exposed as gauges, the sum of all that came. An interval in which any other counter falls is dropped.", Opt::Texts(&mut self.updown));
        visitor.example("updown", "[\"queue.*\"]");
        let doc = "What scrapers must show as `Authorization: Bearer TOKEN`.";
        visitor.field("token", doc, Opt::Secret(&mut self.token));
        visitor.example("token", "\"a secret\"");
        limit_options(visitor, &mut self.limits);
        tls_options(visitor, &mut self.tls);
    }

    fn set_from_url(&mut self, place: &str) -> Result<(), String> {
        let looked_up = bare(place).to_socket_addrs().ok().and_then(|mut all| all.next());
        self.address = Some(looked_up.ok_or_else(|| {
            format!("`{}` is no address with a port; `prometheus://127.0.0.1:9125` is right", bare(place))
        })?);
        Ok(())
    }

    fn place(&self) -> String {
        self.address.map_or_else(String::new, |address| format!("{}/metrics", self.url(address)))
    }

    fn tls_files(&self) -> Option<&TlsFiles> {
        Some(&self.tls)
    }

    fn listens_at(&self) -> Option<SocketAddr> {
        self.address
    }

    fn warning(&self) -> Option<String> {
        let address = self.address.filter(|address| !address.ip().is_loopback())?;
        if !self.token.is_empty() {
            return (!self.tls.is_on()).then(|| token_in_plain_text(address));
        }
        if self.tls.wants_client_certificates() {
            return None;
        }
        Some(format!(
            "{address} is not on loopback, and everybody who reaches it may read all metrics; set `token` or \
             `tls.client_ca` to say who may"
        ))
    }

    fn probe(&self) -> Result<String, String> {
        let place = self.place();
        match std::net::TcpListener::bind(self.address.as_slice()) {
            Ok(_) => Ok(format!("{place} can be served")),
            Err(error) => Err(format!("cannot serve {place}: {error}")),
        }
    }

    fn holds_series(&self) -> bool {
        true
    }

    fn open(&self, context: &SinkContext) -> Result<Box<dyn Sink>, String> {
        let address = self.address.ok_or("it has no address")?;
        let distributions = if self.native_histograms { Distributions::Native } else { Distributions::Summary };
        let exposition = self
            .names_of(Exposition::new(self.ttl.as_secs_f64(), distributions))
            .at_most(context.max_series, &context.memory);
        let outcome_log = OutcomeLog::new(&context.name, context.interval);
        let (listener, bound) = ports::bind_shareable(address, &context.ports).map_err(|error| {
            let advice = match context.ports.in_the_way(address) {
                Some(own) => own.to_string(),
                None => "another process may have this port: stop it, or choose another".into(),
            };
            format!("cannot listen on {}: {error}; {advice}", self.place())
        })?;
        let url = self.url(bound);
        let tls = ServerTls::load(&self.tls).map_err(|error| format!("cannot set up TLS: {error}"))?;
        tls.iter().for_each(|tls| tls.follow(&url, context.ports.supervisor()));
        let (limits, patience, buffers) = (self.limits, Patience::HTTP, Buffers::HTTP);
        let allow = AccessList::default();
        let port = Port::new(url, tls, PortOptions { limits, patience, buffers, allow }, &context.ports);
        let token = Some(self.token.as_str()).filter(|token| !token.is_empty()).map(Arc::from);
        Ok(Box::new(PrometheusSink::open(port, listener, context.ports.gate().clone(), token, exposition, outcome_log)))
    }
}

/// What is served. No interval is added twice: after a deadline that passed, the same one is offered again.
#[derive(Debug)]
pub(super) struct ScrapeState {
    pub(super) exposition: Exposition,
    last: Option<(SnapshotId, Outcome)>,
    /// What was asked for since the last interval, by format and whether it is gzipped.
    written: HashMap<(Format, bool), Bytes>,
    /// What that takes.
    holding: Holding,
}

impl ScrapeState {
    pub(super) fn new(exposition: Exposition) -> ScrapeState {
        let holding = exposition.memory().holding(Holder::HttpBodies);
        ScrapeState { exposition, last: None, written: HashMap::new(), holding }
    }

    /// Adds an interval, unless it was added already; what of it is not served, and whether it is new.
    pub(super) fn apply(&mut self, snapshot: &Snapshot) -> (Outcome, bool) {
        if let Some((identity, outcome)) = &self.last
            && *identity == snapshot.identity()
        {
            return (outcome.clone(), false);
        }
        let outcome = self.exposition.apply(snapshot);
        self.forget_written();
        self.last = Some((snapshot.identity(), outcome.clone()));
        (outcome, true)
    }

    fn forget_written(&mut self) {
        self.written.clear();
        self.holding.set(0);
    }

    /// Keeps an answer for others who ask for the same, if there is memory for it: half the share of answers is for those
    /// that are being sent.
    fn keep_written(&mut self, format: Format, is_gzipped: bool, written: &Bytes) {
        let bytes = self.holding.bytes() + footprint(written.len()) as u64;
        if self.holding.memory().level() < Level::Caches && bytes <= self.holding.cap() / 2 {
            self.written.insert((format, is_gzipped), written.clone());
            self.holding.set(bytes);
        }
    }

    /// The answer to a scrape: written when the first asks for it.
    fn written(&mut self, format: Format, is_gzipped: bool) -> io::Result<Bytes> {
        if self.holding.memory().level() >= Level::Caches {
            self.forget_written();
        }
        if let Some(written) = self.written.get(&(format, is_gzipped)) {
            return Ok(written.clone());
        }
        let mut out = Vec::new();
        if is_gzipped {
            // It is written into the compressor, so that the text is never there as a whole.
            let mut gzip = GzEncoder::new(out, Compression::fast());
            self.exposition.write(format, &mut gzip)?;
            out = gzip.finish()?;
        } else {
            self.exposition.write(format, &mut out)?;
        }
        out.shrink_to_fit();
        let written = Bytes::from(out);
        self.keep_written(format, is_gzipped, &written);
        Ok(written)
    }
}

type Shared = Arc<Mutex<ScrapeState>>;

/// A scrape endpoint.
struct PrometheusSink {
    shared: Shared,
    stop: watch::Sender<bool>,
    server: JoinHandle<()>,
    outcome_log: OutcomeLog,
}

impl PrometheusSink {
    /// Serves on a port, once the gate is open and the sink that had the listener before is closed.
    fn open(
        port: Port,
        listener: Arc<Shareable>,
        gate: Gate,
        token: Option<Arc<str>>,
        exposition: Exposition,
        outcome_log: OutcomeLog,
    ) -> PrometheusSink {
        // There a counter has to end in `_total`.
        let is_open = exposition.naming() == Naming::Systole;
        let shared: Shared = Arc::new(Mutex::new(ScrapeState::new(exposition)));
        let routes = router(Served { shared: Arc::clone(&shared), bodies: port.bodies(), token, is_open });
        let (stop, stopped) = watch::channel(false);
        let server = tokio::spawn(async move {
            let mut dropped = stopped.clone();
            let turn = async {
                gate.opened().await;
                listener.turn.lock().await
            };
            let _turn = tokio::select! {
                biased;
                // A reload that is refused drops what it has opened.
                _ = dropped.wait_for(|stop| *stop) => return,
                turn = turn => turn,
            };
            serve_http(&port, &listener.listener, routes, stopped).await;
        });
        PrometheusSink { shared, stop, server, outcome_log }
    }
}

/// Asks for the token where there is one.
async fn guard(State(served): State<Served>, request: Request, next: Next) -> Response {
    if served.token.is_none_or(|token| web::shows(&request, &token)) {
        return next.run(request).await;
    }
    web::unauthorized("this needs `Authorization: Bearer TOKEN` with the `token` of the sink")
}

pub(super) fn locked(shared: &Mutex<ScrapeState>) -> MutexGuard<'_, ScrapeState> {
    // Every update leaves it whole, so a panic elsewhere does not spoil it.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a scrape sees.
#[derive(Clone)]
struct Served {
    shared: Shared,
    bodies: Bodies,
    /// What scrapers must show, if anything.
    token: Option<Arc<str>>,
    /// Whether names are such that OpenMetrics takes them.
    is_open: bool,
}

fn router(served: Served) -> Router {
    Router::new()
        .route("/metrics", get(scrape))
        .route("/", get(index))
        .fallback(|uri: Uri| async move { web::not_found(uri.path(), &["/", "/metrics"], "") })
        .method_not_allowed_fallback(|| async { web::method_not_allowed() })
        .layer(DefaultBodyLimit::max(MOST_BODY))
        .layer(middleware::from_fn(web::promised))
        .layer(middleware::from_fn_with_state(served.clone(), guard))
        .with_state(served)
}

async fn index(Parameters(TokenAlone): Parameters<TokenAlone>) -> Response {
    web::text("systole: metrics for Prometheus are at /metrics\n")
}

async fn scrape(
    State(served): State<Served>,
    Parameters(TokenAlone): Parameters<TokenAlone>,
    headers: HeaderMap,
) -> Result<Response, Response> {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    let is_protobuf =
        accept.contains("application/vnd.google.protobuf") && accept.contains("io.prometheus.client.MetricFamily");
    let (format, kind) = match served.is_open && accept.contains("application/openmetrics-text") {
        _ if is_protobuf => (Format::Protobuf, PROTOBUF),
        true => (Format::OpenMetrics, OPEN_METRICS),
        false => (Format::Text, TEXT),
    };
    let is_gzipped = web::takes_gzip(&headers);
    let shared = served.shared;
    // A hundred thousand series take a while: not on a thread that serves others.
    let written = served.bodies.work(move || locked(&shared).written(format, is_gzipped)).await?;
    // The compressor writes to memory, where nothing fails.
    let mut response = served.bodies.shared(kind, written.unwrap_or_default()).await?;
    let headers = response.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("accept, accept-encoding"));
    if is_gzipped {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    Ok(response)
}

impl Sink for PrometheusSink {
    fn deliver<'a>(&'a mut self, snapshot: &'a Arc<Snapshot>) -> Delivery<'a, Result<Receipt, SinkError>> {
        Box::pin(async move {
            let (shared, interval) = (Arc::clone(&self.shared), Arc::clone(snapshot));
            let (outcome, _) = joined(spawn_blocking(move || locked(&shared).apply(&interval)).await)?;
            self.outcome_log.log(&outcome);
            let unsupported = ("unsupported", snapshot.count_events());
            Ok(Receipt::new(0, outcome.dropped().into_iter().chain([unsupported])))
        })
    }

    /// Everything that is served, so that no counter falls over a restart.
    fn save(&self) -> Option<Vec<u8>> {
        locked(&self.shared).save()
    }

    fn restore(&mut self, saved: &[u8]) -> Result<(), SinkError> {
        self.outcome_log.log_restored(locked(&self.shared).restore(saved)?);
        Ok(())
    }

    fn close(&mut self) -> Delivery<'_, ()> {
        Box::pin(async move {
            let _ = self.stop.send(true);
            self.server.abort();
            // When the task is gone its port is free.
            let _ = (&mut self.server).await;
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::Sum;
    use crate::memory::Memory;
    use crate::protocol::Kind;
    use crate::series::Series;
    use crate::snapshot::CounterPoint;

    #[test]
    fn written_answers_are_held_and_give_way_first() {
        let memory = Memory::new(4 << 20);
        let exposition = Exposition::new(60.0, Distributions::Summary).at_most(usize::MAX, &memory);
        let mut state = ScrapeState::new(exposition);
        let held = |memory: &Memory| memory.bytes(Holder::HttpBodies) as usize;
        let text = state.written(Format::Text, false).expect("written");
        assert_eq!(held(&memory), footprint(text.len()));
        // The same is sent again.
        assert_eq!(state.written(Format::Text, false).expect("written").as_ptr(), text.as_ptr());
        memory.set_level(Level::Caches);
        state.written(Format::Text, false).expect("written");
        assert_eq!((held(&memory), state.written.len()), (0, 0));
        memory.set_level(Level::Calm);
        state.written(Format::Text, true).expect("written");
        assert!(held(&memory) > 0);
        // Another part of the same interval is no repetition of it.
        let part = |part| Snapshot { sequence: 1, part, end: 1.0, ..Snapshot::default() };
        assert!(state.apply(&part(1)).1 && !state.apply(&part(1)).1 && state.apply(&part(2)).1);
        // An answer that takes more than half of the share is kept for nobody.
        let long = "n".repeat(60_000);
        let series = |n: usize| Series::new(Kind::Counter, &format!("{long}{n}"), &[]);
        let counters = (0..3).map(|n| CounterPoint { series: series(n), sum: Sum::default() }).collect();
        state.apply(&Snapshot { sequence: 1, end: 1.0, counters, ..Snapshot::default() });
        assert_eq!(held(&memory), 0);
        let text = state.written(Format::Text, false).expect("written");
        assert!(text.len() as u64 > memory.cap(Holder::HttpBodies) / 2, "{} bytes", text.len());
        assert_eq!(held(&memory), 0);
    }
}
