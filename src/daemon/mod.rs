//! The daemon as a program runs it: parts that are bound, started, and stopped in the order of the data.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::{Duration, Instant};
//! use systole::{Config, Daemon};
//!
//! let config = Config::parse("interval = \"10s\"")?;
//! let grace = config.shutdown_grace;
//! let running = Daemon::bind(config)?.start()?;
//! assert!(running.health().ready);
//! tokio::signal::ctrl_c().await?;
//! running.stop(Instant::now() + grace).await?;
//! # Ok(())
//! # }
//! ```
//!
//! Each part has a file here with its struct, its start and its stop. The order of a stop is [`DRAIN`], then [`DELIVER`].
//! Signals, the log and the service manager belong to the process and so to [`crate::cli`].
//!
//! Both run inside a Tokio runtime with at least two threads; sinks, notifiers, HTTP and management are its tasks. Receive
//! workers, relays, the capture, presence and the flusher have threads of their own.

mod capture;
mod cluster;
mod flush;
mod handover;
mod health;
mod history;
mod listeners;
mod memory;
mod presence;
mod relays;
mod reload;
mod server;
mod sinks;
mod spools;
mod state;
mod summary;
mod thread;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::aggregate::{Quota, Shard};
use crate::assemble;
use crate::cluster_bus::Bus;
use crate::config::{self, Config, Origins};
use crate::flush::{Flusher, FlusherHandle};
use crate::http::{Orders, Upgrading};
use crate::journal::Journal;
use crate::log::Log;
use crate::memory::Memory;
use crate::net::Taps;
use crate::notify::{Notifiers, Outboxes};
use crate::ports::Ports;
use crate::presence::Identity;
use crate::reloads::Reloads;
use crate::rollup::{Registry, RegistryOptions};
use crate::senders::Senders;
use crate::sinks::{DriverOptions, Sink};
use crate::state::{StateFolder, Trial};
use crate::supervise::{Gate, Readiness, Role, Supervisor};
use crate::sys::{close_untaken, count_own_descriptors, kept_name, unix_time};
use crate::tail::Tail;

use capture::Capture;
use cluster::Cluster;
use flush::FlushThread;
use handover::Stopped;
use history::History;
use listeners::BoundListeners;
use memory::MemoryMonitor;
use presence::Presence;
use relays::Relays;
use reload::{Notifying, Receiving, ReloadTask, Reloader, Showing, Whole};
use server::{BoundServer, Page, Server};
use sinks::{OpenSink, Sinks};
use spools::KnownSpools;
use state::Keeping;

pub(crate) use cluster::connect as connect_bus;
pub(crate) use handover::{Predecessor, Successor, program, say_failure};
pub use health::Health;
pub(crate) use reload::{Loaded, Reloading, Step};
#[cfg(feature = "internals")]
pub use sinks::{end as end_sink, resume as resume_sinks};
pub(crate) use spools::{PART as SPOOLS, decode as decode_spools};

/// Why the daemon cannot start: one sentence that says what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(String);

/// Why a stop is incomplete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StopError {
    /// The flush thread panicked.
    #[error("the flusher failed; its message is above")]
    FlusherFailed,
    /// A receive worker panicked again and again, or could not go on.
    #[error("a receive worker failed; its messages are above")]
    WorkerFailed,
}

/// Longest wait for what presence had saved: it is only told.
const RESTORING: Duration = Duration::from_secs(1);

/// So long after the interval the account of a target that was removed is there: that interval has what became of it.
const ACCOUNT_LINGERS: Duration = Duration::from_secs(1);

/// Longest time for a process that hands over to end: intervals stand still meanwhile.
const HANDING_OVER: Duration = Duration::from_secs(5);

/// What the journal says of a start.
const STARTED: &str = concat!("systole ", env!("CARGO_PKG_VERSION"), " started");

/// The flush thread among the parts.
const FLUSH: &str = "flush";

/// What stops at a time of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// Partitions of the cluster: others take them.
    ClusterOwner,
    /// The sockets: connections are read to their ends, then the kernel refuses datagrams, and what it holds is read.
    Listeners,
    /// Presence judges nobody any more, and other observers know that this one leaves.
    Judging,
    /// What relays hold goes out, so that the last account includes it.
    RelayQueues,
    /// The last interval is closed with its true length, and the receive workers end.
    Flusher,
    /// The last batches go to the cluster; those that do not are kept for the next start.
    Cluster,
    /// Every sink delivers what waits; the rest is on disk, kept in the state, or counted as lost.
    Sinks,
    /// Presence takes in the last heartbeats, notifies, and saves its state.
    Presence,
    /// Alerts that wait are sent.
    Notifiers,
    /// The state of presence says what was told by that.
    PresenceState,
    /// Relay threads, whose input has closed.
    Relays,
    /// The rest of the capture is written.
    Capture,
    /// The history has taken in the last interval.
    History,
    /// The management port.
    Management,
    /// The page and the API.
    Http,
}

/// Stages follow one another. The lanes of a stage run side by side, the parts of a lane one after the other. A part ends
/// when its input has closed and is worked off, or at the deadline, which is the same for all.
type Stage = &'static [&'static [Part]];

/// How the daemon stops taking data in.
const DRAIN: &[Stage] = &[&[&[Part::ClusterOwner]], &[&[Part::Listeners], &[Part::Judging]], &[&[Part::RelayQueues]]];

/// How it delivers what it has, after [`DRAIN`]. `/ready` and the API answer until the end.
const DELIVER: &[Stage] = &[
    &[&[Part::Flusher]],
    &[
        &[Part::Sinks],
        &[Part::Cluster],
        &[Part::Presence, Part::Notifiers, Part::PresenceState],
        &[Part::Relays],
        &[Part::Capture],
        &[Part::History],
    ],
    &[&[Part::Management], &[Part::Http]],
];

/// A daemon whose sockets are bound and whose sinks are open, but which reads nothing yet.
#[derive(Debug)]
pub struct Daemon {
    config: Config,
    /// Where its settings were found.
    origins: Origins,
    started: Instant,
    memory: Memory,
    listeners: BoundListeners,
    sinks: Vec<OpenSink>,
    http: Option<BoundServer>,
    management: Option<BoundServer>,
    supervisor: Supervisor,
    ports: Ports,
    /// What outlives the process.
    state: StateFolder,
    capture: Option<PathBuf>,
    status_every: Option<Duration>,
    log: Option<Log>,
    reloading: Option<Reloading>,
    /// In place of the configured one.
    bus: Option<Arc<dyn Bus>>,
    /// Who hands over to this one: the configured sinks are opened when it has left.
    predecessor: Option<Predecessor>,
    orders: Option<Orders>,
    /// Names of sockets that the service manager need not keep any more.
    unwanted: Vec<String>,
}

impl Daemon {
    /// Binds every socket and opens every sink. To be called inside a Tokio runtime.
    ///
    /// # Errors
    /// If a port is taken, a sink's options do not fit, and the like.
    pub fn bind(config: Config) -> Result<Daemon, StartError> {
        Daemon::bind_after(None, config)
    }

    /// The same after another process, which hands over when this one is started, if there is one.
    ///
    /// # Errors
    /// The same.
    pub(crate) fn bind_after(predecessor: Option<Predecessor>, config: Config) -> Result<Daemon, StartError> {
        let started = Instant::now();
        let config = assemble::of_role(config);
        let memory = assemble::memory(&config);
        let supervisor = Supervisor::default();
        // What the process before this one has is neither read nor shown before it has left.
        let gate = if predecessor.is_some() { Gate::closed() } else { Gate::default() };
        let ports = Ports::new(&memory, &supervisor).behind(gate);
        let sinks = sinks::open(&config, &memory, &ports)?;
        if predecessor.is_some() {
            sinks::check_spools(&config)?;
        }
        let unwanted = BoundListeners::close_others(&config);
        let listeners = BoundListeners::bind(&config, &supervisor)?;
        let http = BoundServer::http(&config, &ports)?;
        let management = BoundServer::management(&config, &ports)?;
        let state = if predecessor.is_some() { StateFolder::off() } else { state::open(&config, None) };
        Ok(Daemon {
            config,
            origins: Origins::default(),
            started,
            memory,
            listeners,
            sinks,
            http,
            management,
            supervisor,
            ports,
            state,
            capture: None,
            status_every: None,
            log: None,
            reloading: None,
            bus: None,
            predecessor,
            orders: None,
            unwanted,
        })
    }

    /// Adds a sink beside the configured ones.
    #[must_use]
    pub fn with_sink(mut self, options: DriverOptions, sink: Box<dyn Sink>) -> Daemon {
        self.sinks.push(OpenSink { options, sink, reopen: None });
        self
    }

    /// Records everything that is received in this file, for `systole replay`.
    #[must_use]
    pub fn with_capture(self, path: &Path) -> Daemon {
        Daemon { capture: Some(path.to_path_buf()), ..self }
    }

    /// Logs what was received and lost since the start, every so often.
    #[must_use]
    pub fn with_status_log(self, every: Duration) -> Daemon {
        Daemon { status_every: Some(every), ..self }
    }

    /// Uses this bus in place of the configured one.
    #[cfg(feature = "internals")]
    #[must_use]
    pub fn with_bus(self, bus: Arc<dyn Bus>) -> Daemon {
        Daemon { bus: Some(bus), ..self }
    }

    /// Says on the page where settings were found.
    #[must_use]
    pub(crate) fn with_origins(self, origins: Origins) -> Daemon {
        Daemon { origins, ..self }
    }

    /// Accounts for the lines that this log loses.
    #[must_use]
    pub(crate) fn with_log(self, log: Log) -> Daemon {
        Daemon { log: Some(log), ..self }
    }

    /// Passes on what operators ask for by the API.
    #[must_use]
    pub(crate) fn taking_orders(self, orders: Orders) -> Daemon {
        Daemon { orders: Some(orders), ..self }
    }

    /// Reads the configuration again when somebody asks for that.
    #[must_use]
    pub(crate) fn with_reloading(self, reloading: Reloading) -> Daemon {
        Daemon { reloading: Some(reloading), ..self }
    }

    /// Watches this part of the process, too.
    #[must_use]
    pub(crate) fn with_part(self, part: Option<&crate::supervise::Part>) -> Daemon {
        if let Some(part) = part {
            self.supervisor.adopt(part);
        }
        self
    }

    /// What is bound and where data goes, as lines of text.
    pub fn summary(&self) -> String {
        summary::text(self)
    }

    /// URLs of the listeners, with the ports that the kernel chose.
    pub fn listeners(&self) -> Vec<String> {
        self.listeners.urls()
    }

    /// Address of the page and the API, with the port that the kernel chose.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http.as_ref().map(BoundServer::address)
    }

    /// Address of the management port, with the port that the kernel chose.
    pub fn management_address(&self) -> Option<SocketAddr> {
        self.management.as_ref().map(BoundServer::address)
    }

    /// Starts every part. To be called inside a Tokio runtime.
    ///
    /// # Errors
    /// If a thread cannot be started, a spool or the capture cannot be written, and the like; what has started ends then.
    #[expect(clippy::too_many_lines, reason = "what is started, and in which order, is one list")]
    pub fn start(self) -> Result<Running, StartError> {
        let Daemon { config, origins, started, memory, listeners, sinks, http, management, mut state, .. } = self;
        let Daemon { supervisor, ports, predecessor, orders, .. } = self;
        let (capture, status_every, log, bus, mut unwanted) =
            (self.capture, self.status_every, self.log, self.bus, self.unwanted);
        let (reloads, reload_inbox) = crate::reloads::channel();
        let listening = listeners.listening(&config);
        // Whoever hands over to this process has started it.
        let parent = std::os::unix::process::parent_id();
        let (seed, boot) = (random_seed(), unix_time() as u64);
        let identity = Identity { node: assemble::node(&config), boot };
        let (flusher_handle, inbox) = crate::flush::channel();
        flusher_handle.hints().set_options(assemble::hint_options(&config));
        let journal = journal(&memory, &listeners);
        log.iter().for_each(|log| supervisor.adopt(log.part()));
        let page_url = http.as_ref().map(|http| http.url().to_string());
        let outboxes = Outboxes::new(assemble::targets(&config, &identity, page_url.clone()))
            .map_err(|error| StartError(format!("cannot send alerts: {error}")))?;
        let gate = ports.gate().clone();
        let mut presence =
            Presence::start(&config, &memory, (seed, identity.clone()), outboxes.list().queues(), &gate, &supervisor)?;
        let presence_handle = presence.as_ref().map(Presence::handle);
        let watchdog =
            health::watchdog(flusher_handle.clone(), config.interval, presence_handle.clone(), supervisor.clone());
        let (target_list, tester) = (outboxes.list(), outboxes.tester());
        let notifiers = outboxes.start(watchdog, &supervisor, config.interval + ACCOUNT_LINGERS);
        let notifying = Notifying { notifiers: notifiers.clone(), identity, page: page_url.clone() };

        let no_upgrade = handover::obstacle(&config, capture.is_some());
        let (capture, capture_writer) = Capture::start(capture.as_deref(), &memory, &supervisor)?.unzip();
        let (relays, relaying) = Relays::start(&config.relays, &memory, &supervisor)?;
        let tail = Tail::new(assemble::heartbeats(&config), assemble::time_window(&config), &memory);
        let capture_counter = capture_writer.as_ref().map(|writer| writer.counter());
        let (tap, presence_tap) = (Some(tail.tap()), presence_handle.clone());
        // The capture and the relays end when the last worker has, and nobody can reload any more.
        let relay_handles = relaying.iter().map(|relay| relay.handle.clone()).collect();
        let taps = Taps { presence: presence_tap, capture: capture_writer, relays: relay_handles, tail: tap };
        let kept_taps = self.reloading.is_some().then(|| Taps { relays: Vec::new(), ..taps.clone() });
        let quota = Quota::new(config.max_series).in_memory(&memory);
        let shards = listeners.workers();
        let watches = assemble::watches(&config);
        let shard = || Shard::new(assemble::shard_options(&config, &quota, seed)).watching(&watches);
        let (cluster, links) = Cluster::start(&config, bus, seed, presence_handle.clone(), &supervisor)?;
        presence.iter_mut().for_each(|presence| presence.join(&cluster, &supervisor));
        let (mut listeners, hold) = listeners.start(shard, taps, &supervisor)?;
        if let Some(presence) = presence_handle.as_ref().filter(|_| !watches.is_empty()) {
            presence.look_with(listeners.look_at_watched());
        }
        let mut stopped =
            predecessor.map(|before| before.await_turn(Keeping::configured(&config), page_url.clone())).transpose()?;
        listeners.begin();
        listeners.adopt(stopped.as_mut().map(Stopped::take_connections).unwrap_or_default());
        let reading_since = Instant::now();
        drop(hold);
        let handed_over = stopped.map(|stopped| stopped.take_over()).transpose()?.map(Arc::new);
        if handed_over.is_some() {
            state = state::open(&config, Some(parent));
            // Those are of listeners that are not configured any more.
            unwanted.extend(close_untaken());
        }
        let own_sinks = sinks.len() - config.sinks.len();
        gate.open();
        state::begin_run(&state, &journal);
        let drivers = sinks::start(sinks, &memory, &supervisor, &state)?;
        let known_spools = KnownSpools::start(&config, &state);
        state.forget_unsaved();

        let (history, history_queue) = History::start(&config, &memory, &supervisor, &state)?;
        let registry = registry(&config, links.edge.is_some(), shards).in_memory(&memory);
        let (control, inputs) = flush::control();
        let (senders, running_ports) = (Senders::default(), ports.clone());
        let flush_part = supervisor.part(FLUSH, Role::Essential);
        let flusher =
            Flusher::new(config.interval, listeners, registry, drivers, inbox, status_every, presence_handle.clone())
                .accounting_for(relays.stats(), log, capture_counter, ports)
                .accounting_for_targets(target_list)
                .in_memory(&memory)
                .writing(journal.clone())
                .publishing_senders(&senders, &config.prefix)
                .remembered_by(history.handle(), history_queue)
                .in_cluster(links)
                .reading_since(reading_since)
                .keeping(state::options(&config, &state, reading_since))
                .controlled_by(inputs)
                .supervised_by(&supervisor, &flush_part);

        let readiness = cluster.readiness(Readiness::new(&supervisor));
        let (asked, own_history) = (flusher_handle.clone(), history.handle());
        let (kept_journal, its_reloads) = (journal.clone(), reloads.clone());
        let sources = server::sources(&config, started, asked, presence_handle, journal, own_history, its_reloads);
        let cluster_status = cluster.status();
        let page = Page { sources, boot, senders, tail, tester, cluster: cluster_status, orders, handed_over };
        let served = http.map(|bound| page.serve(bound, (&config, &origins), &readiness, &supervisor));
        let (http, page) = served.unzip();
        let shown = Arc::new(Mutex::new(config::flat(&config)));
        let management = management.map(|bound| bound.serve_management(&config, &shown, flusher_handle.clone()));
        let (flusher, sinks) = FlushThread::start(flusher, control, &flush_part)?;
        let (grace, interval) = (Arc::new(Mutex::new(config.shutdown_grace)), config.interval);
        let (ports, its_memory, handle) = (running_ports.clone(), memory.clone(), flusher_handle.clone());
        let whole = Whole {
            config,
            own_sinks,
            memory: its_memory,
            ports,
            supervisor: supervisor.clone(),
            flusher: handle,
            state: state.clone(),
            known_spools,
            notifying,
        };
        let receiving = Receiving { quota, seed, listening, relaying, relays: relays.shared() };
        let showing =
            Showing { reloads: reloads.clone(), journal: kept_journal, page, shown, grace: Arc::clone(&grace) };
        let reload = self.reloading.zip(kept_taps);
        let reload = reload.map(|with| Reloader::new(with, whole, receiving, showing).start(reload_inbox));
        supervisor.watch();
        count_own_descriptors();
        let memory = MemoryMonitor::start(memory, &supervisor)?;
        readiness.set_open(true);
        Ok(Running {
            _memory: memory,
            readiness,
            supervisor: Watched(supervisor),
            flusher: flusher_handle,
            ports: running_ports,
            interval,
            reloads,
            reload,
            grace,
            unwanted,
            no_upgrade,
            page_url,
            is_drained: false,
            state: state.clone(),
            parts: Parts {
                is_handed_over: false,
                flusher: Some(flusher),
                relays: Some(relays),
                cluster: Some(cluster),
                sinks: Some(sinks.kept_in(state.clone())),
                presence,
                notifiers: Some(notifiers),
                capture,
                history: Some(history),
                management,
                http,
            },
        })
    }
}

/// A running daemon. Dropping it stops it in the background, without a grace.
#[derive(Debug)]
pub struct Running {
    /// What `/ready` answers.
    readiness: Readiness,
    /// Before the parts, so that their ends are no failures when all is dropped.
    supervisor: Watched,
    flusher: FlusherHandle,
    ports: Ports,
    interval: Duration,
    reloads: Reloads,
    reload: Option<ReloadTask>,
    /// Longest stop, as it is configured.
    grace: Arc<Mutex<Duration>>,
    /// Names of sockets that the service manager need not keep any more.
    unwanted: Vec<String>,
    /// Why it cannot hand over to another process, if so.
    no_upgrade: Option<&'static str>,
    /// Where its page is.
    page_url: Option<String>,
    is_drained: bool,
    state: StateFolder,
    parts: Parts,
    /// It measures until the daemon has ended.
    _memory: MemoryMonitor,
}

/// The parts of a running daemon. Once this is dropped they may end.
#[derive(Debug)]
struct Watched(Supervisor);

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl Running {
    /// How the daemon is now; `ready` is what `/ready` answers.
    pub fn health(&self) -> Health {
        Health {
            ready: self.readiness.obstacle().is_none(),
            on_time: self.supervisor.0.is_alive() && !health::is_late(&self.flusher.published(), self.interval),
        }
    }

    /// Asks for reloads of the configuration.
    pub(crate) fn reloads(&self) -> Reloads {
        self.reloads.clone()
    }

    /// Longest stop, as it is configured now.
    pub(crate) fn grace(&self) -> Duration {
        *self.grace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What presence knows from an earlier run, as a line of text below those of [`Daemon::summary`]; empty if it is nothing.
    pub async fn restored(&self) -> String {
        let presence = self.parts.presence.as_ref().map(Presence::handle);
        let Some(presence) = presence else { return String::new() };
        let restored = timeout(RESTORING, presence.restored()).await.ok().flatten();
        restored
            .filter(|restored| restored.services > 0)
            .map_or_else(String::new, |restored| summary::restored(&restored))
    }

    /// Resolves when a part has failed without which the daemon cannot go on: the flush, or a receive worker again and again.
    /// What remains is to [`Running::stop`] it, which closes and delivers the last interval.
    pub async fn failed(&self) {
        self.supervisor.0.failed().await;
    }

    /// Starts the program anew, says which process that is, and waits until it is ready to read. It ends if this is given up.
    ///
    /// # Errors
    /// In words, why there is no upgrade.
    pub(crate) async fn start_successor(&self, has_started: impl FnOnce(u32)) -> Result<Successor, String> {
        if let Some(obstacle) = self.no_upgrade {
            return Err(obstacle.into());
        }
        let cannot = |error: io::Error| format!("cannot pass the sockets on: {error}");
        let listeners = self.flusher.sockets().await.ok_or("the flusher does not answer")?.map_err(cannot)?;
        let ports = self.ports.duplicates().map_err(cannot)?;
        let sockets = listeners.into_iter().chain(ports.into_iter().map(|socket| (String::new(), socket))).collect();
        // Threads for blocking work have a lower priority, which the new process would have, too.
        let successor = Successor::spawn()?;
        has_started(successor.pid());
        let ending = successor.kill_on_drop();
        let keeping = Keeping::of(&self.state);
        let passed = tokio::task::spawn_blocking(move || successor.pass(sockets, &keeping)).await;
        let passed = passed.map_err(|error| error.to_string())?;
        ending.disarm();
        passed
    }

    /// Makes sure that what this process knows can be saved for the new one, which takes so long.
    async fn try_state(&self) -> Result<(Vec<Trial>, Duration), String> {
        let began = Instant::now();
        let slow = || format!("the state cannot be saved within {} s", HANDING_OVER.as_secs());
        let trial = self.flusher.try_state(HANDING_OVER).await.ok_or_else(slow)??;
        Ok((trial, began.elapsed()))
    }

    /// Lets the new process read in place of this one. If it does not, or could not go on with what this one would save for it, this
    /// one reads on.
    ///
    /// # Errors
    /// In words, why there is no upgrade.
    pub(crate) async fn let_read(&self, mut successor: Successor) -> Result<Successor, String> {
        let mut trial = Vec::new();
        if successor.goes_on_with_state() {
            match self.try_state().await {
                Ok((tried, took)) => (trial, successor.saving) = (tried, took),
                Err(problem) => {
                    successor.kill();
                    return Err(problem);
                }
            }
        }
        let Some(connections) = self.flusher.pause_reading(trial).await else {
            successor.kill();
            return Err("the flusher does not answer".into());
        };
        let reads = tokio::task::spawn_blocking(move || successor.let_read(connections, handover::TURN)).await;
        let reads = reads.map_err(|error| error.to_string()).and_then(|reads| reads);
        if reads.is_err() && self.flusher.resume_reading().await.is_none() {
            tracing::error!("the flusher does not answer: nothing is read any more");
        }
        reads
    }

    /// What is said of a new process that reads.
    pub(crate) fn upgrading(&self, successor: &Successor) -> Upgrading {
        successor.upgrading(self.page_url.as_deref())
    }

    /// Names of sockets that the service manager keeps, and that no listener reads since the start.
    pub(crate) fn unwanted_sockets(&self) -> &[String] {
        &self.unwanted
    }

    /// The sockets of the listeners for the service manager, with names; a stop leaves them open from now on.
    ///
    /// # Errors
    /// In words.
    pub(crate) async fn keep_listeners(&self) -> Result<Vec<(String, OwnedFd)>, String> {
        let cannot = |error: io::Error| format!("cannot duplicate the sockets: {error}");
        let sockets = self.flusher.sockets().await.ok_or("the flusher does not answer")?.map_err(cannot)?;
        self.flusher.keep_sockets().await.ok_or("the flusher does not answer")?;
        // Those that have a name are kept by their socket unit.
        let own = sockets.into_iter().filter(|(name, _)| name.is_empty());
        own.map(|(_, socket)| Ok((kept_name(&socket)?, socket))).collect::<io::Result<_>>().map_err(cannot)
    }

    /// Saves what this process has for another one, which reads already, and ends. What sinks have not delivered soon is left to
    /// that one as well. If that one does not go on with it, this is an ordinary stop.
    ///
    /// # Errors
    /// As of [`Running::stop`].
    pub(crate) async fn hand_over(mut self, successor: &Successor) -> Result<(), StopError> {
        let Upgrading { pid, program, version, no_state, .. } = self.upgrading(successor);
        let grace = self.grace();
        let patience = match &no_state {
            None => {
                tracing::info!(
                    pid,
                    version,
                    program,
                    "another process reads from now on; this one saves what it has and ends"
                );
                // Saving takes as long as it took for trial, or somewhat longer.
                HANDING_OVER.min(grace) + 2 * successor.saving
            }
            Some(why) => {
                tracing::warn!(
                    pid,
                    version,
                    program,
                    "another process reads from now on, without the state of this one, which closes its interval and ends: {why}"
                );
                grace
            }
        };
        self.parts.is_handed_over = no_state.is_none();
        let state = self.state.clone();
        self.stop(Instant::now() + patience).await?;
        successor.leave(&state);
        Ok(())
    }

    /// Stops taking data in: connections are read to their ends, what the kernel has queued is read, and it refuses the rest.
    /// Half of the time until `deadline` is left for delivering. No interval is closed any more until [`Running::stop`].
    ///
    /// # Errors
    /// If the flusher has failed.
    pub async fn drain(&mut self, deadline: Instant) -> Result<(), StopError> {
        if std::mem::replace(&mut self.is_drained, true) {
            return Ok(());
        }
        tracing::info!("stopping: reading what the kernel holds, then delivering the last interval");
        self.readiness.set_open(false);
        self.supervisor.0.stop();
        if let Some(reload) = self.reload.take() {
            reload.stop().await;
        }
        self.parts.stop_all(DRAIN, deadline).await
    }

    /// Drains, closes the last interval, delivers it, and ends every part, by `deadline`. What is not delivered then is on
    /// disk or counted.
    ///
    /// # Errors
    /// If the flusher or a receive worker has failed; the other parts are stopped all the same.
    pub async fn stop(mut self, deadline: Instant) -> Result<(), StopError> {
        let drained = self.drain(deadline).await;
        let delivered = self.parts.stop_all(DELIVER, deadline).await;
        drained.and(delivered)?;
        state::end_run(&self.state).await;
        match self.supervisor.0.given_up() {
            None => {}
            Some(part) if part == FLUSH => return Err(StopError::FlusherFailed),
            Some(_) => return Err(StopError::WorkerFailed),
        }
        tracing::info!("stopped");
        Ok(())
    }
}

/// The end of a part.
type Ending = Pin<Box<dyn Future<Output = Result<(), StopError>> + Send>>;

/// What runs. A part is gone from here when it was stopped.
#[derive(Debug)]
struct Parts {
    /// Another process goes on: it closes the open interval.
    is_handed_over: bool,
    flusher: Option<FlushThread>,
    relays: Option<Relays>,
    cluster: Option<Cluster>,
    sinks: Option<Sinks>,
    presence: Option<Presence>,
    notifiers: Option<Notifiers>,
    capture: Option<Capture>,
    history: Option<History>,
    management: Option<Server>,
    http: Option<Server>,
}

impl Parts {
    /// Stops parts stage by stage. An error of one ends no other early; the first is returned.
    async fn stop_all(&mut self, stages: &[Stage], deadline: Instant) -> Result<(), StopError> {
        let mut outcome = Ok(());
        for stage in stages {
            let mut lanes = JoinSet::new();
            for lane in *stage {
                let endings: Vec<Ending> = lane.iter().map(|part| self.stop(*part, deadline)).collect();
                lanes.spawn(async move {
                    let mut outcome = Ok(());
                    for ending in endings {
                        outcome = outcome.and(ending.await);
                    }
                    outcome
                });
            }
            while let Some(lane) = lanes.join_next().await {
                match lane {
                    Ok(lane) => outcome = outcome.and(lane),
                    Err(error) => tracing::error!(%error, "a part failed while it stopped"),
                }
            }
        }
        outcome
    }

    /// Stops a part; one that does not run has nothing to do.
    fn stop(&mut self, part: Part, deadline: Instant) -> Ending {
        fn stopped<P, F: Future<Output = ()> + Send + 'static>(part: Option<P>, stop: impl FnOnce(P) -> F) -> Ending {
            let ending = part.map(stop);
            Box::pin(async {
                if let Some(ending) = ending {
                    ending.await;
                }
                Ok(())
            })
        }
        match part {
            Part::Listeners => match &self.flusher {
                Some(flusher) => Box::pin(flusher.stop_listeners(deadline)),
                None => Box::pin(async { Ok(()) }),
            },
            Part::ClusterOwner => stopped(self.cluster.as_mut(), |cluster| cluster.stop_owner(deadline)),
            Part::Cluster => stopped(self.cluster.take(), |cluster| cluster.stop(deadline)),
            Part::Judging => stopped(self.presence.as_mut(), Presence::stop_judging),
            Part::RelayQueues => match &self.relays {
                Some(relays) => Box::pin(relays.empty_queues(deadline)),
                None => Box::pin(async { Ok(()) }),
            },
            Part::Flusher => match self.flusher.take() {
                Some(flusher) => Box::pin(flusher.stop(deadline, self.is_handed_over)),
                None => Box::pin(async { Ok(()) }),
            },
            Part::Sinks => stopped(self.sinks.take(), |sinks| sinks.stop(deadline)),
            Part::Presence => stopped(self.presence.as_ref(), |presence| presence.finish(deadline)),
            Part::Notifiers => stopped(self.notifiers.take(), |notifiers| notifiers.stop(deadline)),
            Part::PresenceState => stopped(self.presence.take(), |presence| presence.stop(deadline)),
            Part::Relays => stopped(self.relays.take(), |relays| relays.stop(deadline)),
            Part::Capture => stopped(self.capture.take(), |capture| capture.stop(deadline)),
            Part::History => stopped(self.history.take(), |history| history.stop(deadline)),
            Part::Management => stopped(self.management.take(), |management| management.stop(deadline)),
            Part::Http => stopped(self.http.take(), |http| http.stop(deadline)),
        }
    }
}

/// The journal of a daemon that starts.
fn journal(memory: &Memory, listeners: &BoundListeners) -> Journal {
    let journal = Journal::new(memory);
    journal.add_start(unix_time(), STARTED, &format!("listening on {}", listeners.urls().join(", ")));
    journal
}

/// The registry of all shards; that of an edge of a cluster closes intervals as parts.
fn registry(config: &Config, is_edge: bool, shards: usize) -> Registry {
    let options = RegistryOptions { is_partial: is_edge, ..assemble::registry_options(config, true) };
    Registry::new(options, shards)
}

/// A key for the tables' hashes that a sender cannot know.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}
