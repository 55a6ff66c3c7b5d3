//! The two servers: HTTP and the management port. Their listeners are [`crate::ports`].

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout_at;

use crate::acl::AccessList;
use crate::assemble;
use crate::cluster_driver::StatusBoard;
use crate::config::{self, Config, Origins};
use crate::flush::FlusherHandle;
use crate::history::History;
use crate::http::{
    self, About, Access, AccessOptions, AppState, HandedOver, LastRead, Live, OnceEach, Orders, Sources, Streams,
};
use crate::journal::Journal;
use crate::management::ManagementState;
use crate::notify::Tester;
use crate::ports::{self, Buffers, Patience, Port, PortCounters, PortOptions, Ports, ServerTls, TlsFiles};
use crate::presence_driver::PresenceHandle;
use crate::reloads::Reloads;
use crate::senders::Senders;
use crate::supervise::{Part, Readiness, Role, Supervisor};
use crate::sys::unix_time;
use crate::tail::Tail;
use crate::web::{Bodies, Gzip};

use super::StartError;
use super::listeners::cannot_listen;

/// Longest wait of a stop for the answers that are being sent.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// A server whose port is bound.
#[derive(Debug)]
pub(super) struct BoundServer {
    listener: Arc<TcpListener>,
    address: SocketAddr,
    port: Port,
}

impl BoundServer {
    /// The page and the API, if they are on.
    pub(super) fn http(config: &Config, ports: &Ports) -> Result<Option<BoundServer>, StartError> {
        let http = &config.http;
        let scheme = if http.tls.is_on() { "https" } else { "http" };
        let (limits, patience, buffers) = (http.limits, Patience::HTTP, Buffers::HTTP);
        let options = PortOptions { limits, patience, buffers, allow: AccessList::default() };
        http.address.map(|address| BoundServer::bind(scheme, address, &http.tls, options, ports)).transpose()
    }

    /// The management port, if it is on.
    pub(super) fn management(config: &Config, ports: &Ports) -> Result<Option<BoundServer>, StartError> {
        let management = &config.management;
        let (limits, patience, buffers) = (management.limits, Patience::COMMANDS, Buffers::COMMANDS);
        let options = PortOptions { limits, patience, buffers, allow: AccessList::new(management.allow.clone()) };
        management.address.map(|address| BoundServer::bind("tcp", address, &management.tls, options, ports)).transpose()
    }

    fn bind(
        scheme: &str,
        address: SocketAddr,
        tls: &TlsFiles,
        options: PortOptions,
        ports: &Ports,
    ) -> Result<BoundServer, StartError> {
        let (listener, address) =
            ports::bind(address, ports).map_err(|error| cannot_listen(&format!("{scheme}://{address}"), &error))?;
        let url = format!("{scheme}://{address}");
        let tls = self::tls(&url, tls, ports.supervisor())?;
        Ok(BoundServer { listener, address, port: Port::new(url, tls, options, ports) })
    }

    /// The address, with the port that the kernel chose.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The large bodies that are sent.
    pub(super) fn bodies(&self) -> Bodies {
        self.port.bodies()
    }

    /// What its port has counted.
    pub(super) fn counters(&self) -> Arc<PortCounters> {
        self.port.counters()
    }

    /// What it is called, with the port that the kernel chose.
    pub(super) fn url(&self) -> &str {
        self.port.url()
    }

    /// Serves the page and the API, and hands lines on to those who look at them, which is the work of `tail`.
    pub(super) fn serve_http(self, state: Live, tail: Part) -> Server {
        self.serve(move |port, listener, stop| {
            let (own, part, stopped) = (state.now().tail.clone(), tail.clone(), stop.clone());
            tail.keep_task(move || own.clone().run(part.clone(), stopped.clone()));
            crate::http::serve(port, listener, state, stop)
        })
    }

    /// Serves the management port.
    pub(super) fn serve_management(
        self,
        config: &Config,
        shown: &Arc<Mutex<String>>,
        flusher: FlusherHandle,
    ) -> Server {
        let state = management_state(config, Arc::clone(shown), flusher);
        self.serve(|port, listener, stop| crate::management::serve(port, listener, state, stop))
    }

    /// Starts a task that serves until the flag it gets turns true.
    fn serve<F>(self, serve: impl FnOnce(Port, Arc<TcpListener>, watch::Receiver<bool>) -> F) -> Server
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (stop, stopped) = watch::channel(false);
        let (part, port) = (self.port.part(), self.port.clone());
        Server { port, stop, task: part.task(serve(self.port, self.listener, stopped)) }
    }
}

/// A running server.
#[derive(Debug)]
pub(super) struct Server {
    port: Port,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Server {
    /// Closes the port at once. Connections end with the answer that they are at, for which the stop waits a moment: an event
    /// stream has yet to send the last interval.
    pub(super) async fn stop(self, deadline: Instant) {
        let _ = self.stop.send(true);
        self.task.abort();
        // When the task is gone its port is free.
        let _ = self.task.await;
        // Whoever does not read its answer by then goes without the rest.
        let until = deadline.min(Instant::now() + LAST_ANSWERS);
        let _ = timeout_at(until.into(), self.port.all_ended()).await;
    }
}

/// TLS of a port; its files are followed.
pub(super) fn tls(port: &str, files: &TlsFiles, supervisor: &Supervisor) -> Result<Option<ServerTls>, StartError> {
    let tls = ServerTls::load(files).map_err(|error| StartError(format!("cannot set up TLS of {port}: {error}")))?;
    if let Some(tls) = &tls {
        tls.follow(port, supervisor);
    }
    Ok(tls)
}

/// What routes and streams tell of.
pub(super) fn sources(
    config: &Config,
    started: Instant,
    flusher: FlusherHandle,
    presence: Option<PresenceHandle>,
    journal: Journal,
    history: History,
    reloads: Reloads,
) -> Sources {
    let about = About {
        node: assemble::node(config).into(),
        profile: config.profile.name(),
        interval: config.interval,
        started,
        max_series: Arc::new(AtomicU64::new(config.max_series as u64)),
        reloads,
    };
    Sources { about, flusher, presence, journal, history }
}

/// What the page and the API show beside [`Sources`].
pub(super) struct Page {
    pub(super) sources: Sources,
    pub(super) boot: u64,
    pub(super) senders: Senders,
    pub(super) tail: Tail,
    pub(super) tester: Tester,
    pub(super) cluster: Option<StatusBoard>,
    pub(super) orders: Option<Orders>,
    pub(super) handed_over: Option<Arc<HandedOver>>,
}

impl Page {
    /// Serves them.
    pub(super) fn serve(
        self,
        bound: BoundServer,
        config: (&Config, &Origins),
        readiness: &Readiness,
        supervisor: &Supervisor,
    ) -> (Server, Shown) {
        let Page { sources, boot, senders, tail, tester, cluster, orders, handed_over } = self;
        let part = supervisor.part("streams", Role::Ordinary);
        let live = Streams::start(sources.clone(), bound.bodies(), boot, &part);
        let state = http_state(config, sources, live, readiness, &bound);
        let state = AppState { senders, tail, tester, cluster, orders, handed_over, ..state };
        let tls = bound.port.tls().cloned();
        let shown = Shown { live: Live::new(state), port: bound.address().port(), counters: bound.counters(), tls };
        (bound.serve_http(shown.live.clone(), supervisor.part("tail", Role::Ordinary)), shown)
    }
}

/// The page and the API, as far as a reload changes them.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) live: Live,
    pub(super) port: u16,
    pub(super) counters: Arc<PortCounters>,
    pub(super) tls: Option<ServerTls>,
}

fn http_state(
    (config, origins): (&Config, &Origins),
    sources: Sources,
    live: Streams,
    readiness: &Readiness,
    server: &BoundServer,
) -> AppState {
    let bodies = server.bodies();
    AppState {
        about: sources.about,
        flusher: sources.flusher,
        readiness: readiness.clone(),
        presence: sources.presence,
        access: Arc::new(Access::new(access_options(config, server.address.port()), server.port.counters())),
        gzip: Gzip::new(&bodies),
        journal: sources.journal,
        live,
        streams: Arc::new(Semaphore::new(http::STREAMS)),
        bodies,
        last_read: LastRead::default(),
        once: OnceEach::default(),
        senders: Senders::default(),
        history: sources.history,
        tail: Tail::default(),
        past: assemble::archive(config).map(http::Past::new),
        explainer: assemble::explainer(config, origins),
        config: Arc::new(config::effective(config, origins)),
        tester: Tester::default(),
        cluster: None,
        orders: None,
        handed_over: None,
    }
}

/// Who may read, and who may change something, at this port.
pub(super) fn access_options(config: &Config, port: u16) -> AccessOptions {
    let http = &config.http;
    let is_local = http.address.is_some_and(|address| address.ip().is_loopback());
    AccessOptions {
        token: http.token.as_deref().map(Arc::from),
        peer_token: config.presence.peers.token.as_deref().map(Arc::from),
        guards_reading: !is_local && http.token.is_some(),
        hosts: is_local.then(|| http.hosts.clone().into()),
        port,
        is_secured: http.tls.is_on(),
    }
}

fn management_state(config: &Config, shown: Arc<Mutex<String>>, flusher: FlusherHandle) -> ManagementState {
    ManagementState { flusher, config: shown, started: unix_time(), healthy: AtomicBool::new(config.management.health) }
}
