//! Prometheus, by scrape: the sink keeps what was told and serves it at `/metrics` of its own address, as text 0.0.4 or
//! OpenMetrics 1.0 by `Accept`; as protobuf timers are native histograms.
//!
//! Counters, and sums and counts of timers, go on from interval to interval, and leave after `ttl` without an update. A gauge
//! leaves with its last record; what one interval told alone, members of sets and quantiles, is told for a minute. Names are made Prometheus' own; of two series that would then be one, or
//! of two types under one name, the first keeps the name, the other is dropped, counted (`conflict`) and named in the log.
//! Events, service checks and changes of presence have no form here (`unsupported`).

mod exposition;
mod names;
mod protobuf;

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::inert::Plain;
use crate::snapshot::Snapshot;

use super::spec::bare;
use super::{Delivery, Field, Form, LONG, Receipt, Sink, SinkError, Site, Spec};

pub use exposition::{Conflict, Distributions, Exposition, Format};
pub(super) use exposition::{Sample, Shape, Value};
pub(super) use names::{divisor, label_pairs};
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
}

impl Default for PrometheusSpec {
    fn default() -> PrometheusSpec {
        PrometheusSpec { address: None, ttl: Duration::from_secs(3600), native_histograms: true }
    }
}

impl Spec for PrometheusSpec {
    fn options(&mut self, form: &mut dyn Form) {
        form.field("address", Field::Address(&mut self.address));
        form.demand("address", self.address.is_some(), "\"127.0.0.1:9125\"");
        form.field("ttl", Field::Duration(&mut self.ttl, Duration::from_millis(10)..=LONG));
        form.field("native_histograms", Field::Flag(&mut self.native_histograms));
    }

    fn locate(&mut self, place: &str) -> Result<(), String> {
        let looked_up = bare(place).to_socket_addrs().ok().and_then(|mut all| all.next());
        self.address = Some(looked_up.ok_or_else(|| {
            format!("`{}` is no address with a port; `prometheus://127.0.0.1:9125` is right", bare(place))
        })?);
        Ok(())
    }

    fn place(&self) -> String {
        self.address.map_or_else(String::new, |address| format!("http://{address}/metrics"))
    }

    fn probe(&self) -> Result<String, String> {
        let place = self.place();
        match std::net::TcpListener::bind(self.address.as_slice()) {
            Ok(_) => Ok(format!("{place} can be served")),
            Err(error) => Err(format!("cannot serve {place}: {error}")),
        }
    }

    fn open(&self, site: &Site) -> Result<Box<dyn Sink>, String> {
        let address = self.address.ok_or("it has no address")?;
        let distributions = if self.native_histograms { Distributions::Native } else { Distributions::Summary };
        let opened = PrometheusSink::open(address, self.ttl, distributions, site.interval).map_err(|error| {
            format!(
                "cannot listen on {}: {error}; another process may have this port: stop it, or choose another",
                self.place()
            )
        })?;
        Ok(Box::new(opened))
    }
}

type Shared = Arc<Mutex<Exposition>>;

/// A scrape endpoint.
pub struct PrometheusSink {
    shared: Shared,
    server: JoinHandle<()>,
    log_every: Duration,
    conflict_logged: Option<Instant>,
}

impl PrometheusSink {
    /// Serves at an address; series without updates leave after `ttl`. Conflicts are logged at most once in `log_every`.
    ///
    /// # Errors
    /// If the address cannot be had.
    pub fn open(
        address: SocketAddr,
        ttl: Duration,
        distributions: Distributions,
        log_every: Duration,
    ) -> io::Result<PrometheusSink> {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let shared: Shared = Arc::new(Mutex::new(Exposition::new(ttl.as_secs_f64(), distributions)));
        let router = Router::new()
            .route("/metrics", get(scrape))
            .route("/", get(|| async { "systole: metrics for Prometheus are at /metrics\n" }))
            .with_state(Arc::clone(&shared));
        let server = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "the scrape endpoint ended");
            }
        });
        Ok(PrometheusSink { shared, server, log_every, conflict_logged: None })
    }

    fn complain(&mut self, conflicts: &[Conflict]) {
        let Some(first) = conflicts.first() else { return };
        if self.conflict_logged.is_some_and(|last| last.elapsed() < self.log_every) {
            return;
        }
        self.conflict_logged = Some(Instant::now());
        tracing::warn!(
            name = %Plain(&first.name),
            holder = %Plain(&first.holder),
            other = %Plain(&first.other),
            series = conflicts.len(),
            "series have a name in Prometheus that belongs to another; they are left out"
        );
    }
}

fn locked(shared: &Shared) -> MutexGuard<'_, Exposition> {
    // Every update leaves it whole, so a panic elsewhere does not spoil it.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn scrape(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    let is_protobuf =
        accept.contains("application/vnd.google.protobuf") && accept.contains("io.prometheus.client.MetricFamily");
    let (format, kind) = match accept.contains("application/openmetrics-text") {
        _ if is_protobuf => (Format::Protobuf, PROTOBUF),
        true => (Format::OpenMetrics, OPEN_METRICS),
        false => (Format::Text, TEXT),
    };
    // A hundred thousand series take a while: not on a thread that serves others.
    let rendered = spawn_blocking(move || locked(&shared).encode(format)).await.unwrap_or_default();
    ([(header::CONTENT_TYPE, kind)], rendered).into_response()
}

impl Sink for PrometheusSink {
    fn deliver<'a>(&'a mut self, snapshot: &'a Arc<Snapshot>) -> Delivery<'a, Result<Receipt, SinkError>> {
        Box::pin(async move {
            let (shared, interval) = (Arc::clone(&self.shared), Arc::clone(snapshot));
            let conflicts = spawn_blocking(move || locked(&shared).apply(&interval))
                .await
                .map_err(|error| SinkError::new(format!("the interval could not be added: {error}")))?;
            self.complain(&conflicts);
            let dropped = [("conflict", conflicts.len() as u64), ("unsupported", snapshot.count_notices())];
            Ok(Receipt::new(0, dropped))
        })
    }

    fn close(&mut self) -> Delivery<'_, ()> {
        Box::pin(async move { self.server.abort() })
    }
}
