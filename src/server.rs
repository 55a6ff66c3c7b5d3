//! The state: binds everything, starts it in order, and ends it in the order of the data.

use std::fmt::Write;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::acl::AccessList;
use crate::aggregate::{Quota, Shard};
use crate::assemble;
use crate::capture;
use crate::config::{self, Config, ListenUrl, Sink, show_duration, show_size};
use crate::flush::{Flusher, ListenerHandle};
use crate::http::{About, AppState, Published};
use crate::log::Log;
use crate::management::{self, ManagementState};
use crate::manager::{Manager, NotifyState};
use crate::net::{self, BoundListener, Transport, relay};
use crate::notify::{self, Watchdog};
use crate::presence::Identity;
use crate::presence_driver::{self, PresenceHandle};
use crate::rollup::Registry;
use crate::sinks::{self, DriverOptions, SinkDriver};
use crate::sys::{host_name, survive_file_size_limit, unix_time};

/// How much later than two intervals a flush may be before no sign of life is sent, and how long presence may take.
const WATCHDOG_PATIENCE: Duration = Duration::from_secs(5);

/// Least time for a thread to end, for instance to save its state, however late it is.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// Requests of the management port that may wait.
const REQUESTS: usize = 16;

/// Why the daemon cannot start: one sentence that says what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(String);

/// What no configuration says: it comes from the command line, or from a program that runs the daemon itself.
#[derive(Default)]
pub struct Extras {
    /// Log what was received and lost so often.
    pub status_every: Option<Duration>,
    /// Record the wire here.
    pub capture: Option<PathBuf>,
    /// The log of this process, to account for what it lost.
    pub log: Option<Log>,
    /// Sinks beside the configured ones, with how they are driven.
    pub sinks: Vec<OpenSink>,
}

/// Runs until `shutdown` resolves, then drains, delivers and returns. `announce` gets the start-up block
/// once everything is bound.
///
/// # Errors
/// If a port is taken, a file cannot be opened, and the like.
pub async fn run(
    config: Config,
    extras: Extras,
    shutdown: impl Future<Output = ()>,
    announce: impl FnOnce(&str),
) -> Result<(), StartError> {
    let started = Instant::now();
    survive_file_size_limit();
    let mut sinks = open_sinks(&config)?;
    sinks.extend(extras.sinks);
    let mut bound: Vec<(ListenUrl, BoundListener)> = Vec::new();
    for listen in &config.listen {
        let socket = net::bind(assemble::listener(&config, listen))
            .map_err(|error| cannot_listen(&listen.url.to_string(), &error))?;
        bound.push((listen.url.clone().at(socket.address()), socket));
    }
    let page = match config.http.address {
        Some(address) => {
            let url = format!("http://{address}");
            Some(TcpListener::bind(address).await.map_err(|error| cannot_listen(&url, &error))?)
        }
        None => None,
    };
    let management = match config.management.address {
        Some(address) => {
            let url = format!("tcp://{address}");
            Some(TcpListener::bind(address).await.map_err(|error| cannot_listen(&url, &error))?)
        }
        None => None,
    };
    let page_address = page.as_ref().and_then(|listener| listener.local_addr().ok());
    let management_address = management.as_ref().and_then(|listener| listener.local_addr().ok());
    announce(&start_up_block(&config, &bound, management_address, page_address));

    let quota = Quota::new(config.max_series);
    let seed = random_seed();
    let cannot_watch = |error: io::Error| StartError(format!("cannot start the presence thread: {error}"));
    let identity = Identity { node: host_name().unwrap_or_else(|_| "systole".into()), boot: unix_time() as u64 };
    let (publish, published) = watch::channel(Arc::new(Published::default()));
    let (watched, watchdog) = watchdog(published.clone(), config.interval);
    let page_url = page_address.map(|address| format!("http://{address}"));
    let notifiers = notify::start(assemble::targets(&config, &identity, page_url), watchdog)
        .map_err(|error| StartError(format!("cannot tell others of alarms: {error}")))?;
    let told = notifiers.outboxes.clone();
    let (presence, watching) = match assemble::presence(&config, seed, identity, |name| std::env::var(name).ok()) {
        Some(options) => presence_driver::start(options, told)
            .map(|(presence, thread)| (Some(presence), Some(thread)))
            .map_err(cannot_watch)?,
        None => (None, None),
    };
    // Nobody asks before the first minute is over, and then an empty cell only means that presence is off.
    let _ = watched.set(presence.clone());
    let capturing = match &extras.capture {
        Some(path) => {
            let cannot = |error: io::Error| StartError(format!("cannot write {}: {error}", path.display()));
            Some(capture::start(path, unix_time(), None).map_err(cannot)?)
        }
        None => None,
    };
    let (capture_writer, capturing) = capturing.unzip();
    let captured = capture_writer.as_ref().map(capture::CaptureWriter::counter);
    let (mut relay_handles, mut relayed, mut relaying) = (Vec::new(), Vec::new(), Vec::new());
    for relay in &config.relays {
        let started = relay::start(relay.clone());
        let (handle, shown, thread) =
            started.map_err(|error| StartError(format!("cannot start the relay {}: {error}", relay.name)))?;
        relay_handles.push(handle);
        relayed.push(shown);
        relaying.push(thread);
    }
    let mut listeners = Vec::new();
    let mut shards = 0;
    for (url, socket) in bound {
        if socket.is_short_of_buffer() {
            tracing::warn!(
                listener = %url,
                granted = show_size(socket.receive_buffer()),
                "the kernel granted a smaller receive buffer than asked for; raise it with `sysctl -w net.core.rmem_max=…`"
            );
        }
        let receive_buffer = socket.receive_buffer();
        shards += socket.workers();
        let listener = socket
            .start(
                || Shard::new(assemble::shard_options(&config, &quota, seed)),
                presence.as_ref(),
                capture_writer.as_ref(),
                &relay_handles,
            )
            .map_err(|error| StartError(format!("cannot start receive workers for {url}: {error}")))?;
        tracing::info!(listener = %url, "listening");
        listeners.push(ListenerHandle { url: url.to_string(), receive_buffer, listener });
    }
    drop(capture_writer);
    drop(relay_handles);
    let drivers = sinks.into_iter().map(start_sink).collect::<Result<_, _>>()?;
    let registry = Registry::new(assemble::registry_options(&config, true), shards);
    let (ask, asked) = mpsc::channel(REQUESTS);
    let http_requests = Arc::<AtomicU64>::default();
    let flusher =
        Flusher::new(config.interval, listeners, registry, drivers, publish, extras.status_every, presence.clone())
            .answering(management.is_some().then_some(asked), Arc::clone(&http_requests))
            .watching(relayed)
            .accounting_for(extras.log, captured);

    let manager =
        Manager::start().map_err(|error| StartError(format!("cannot start the service manager's thread: {error}")))?;
    let published_for_watchdog = published.clone();
    let (stop, stopped) = watch::channel(None);
    let flusher = flusher.until(stopped);
    let ready = Arc::new(AtomicBool::new(false));
    let state = AppState {
        about: About { profile: config.profile.name(), interval: config.interval, started },
        published,
        ready: Arc::clone(&ready),
        presence: presence.clone(),
        write_token: config.http.token.as_deref().map(Arc::from),
        streams: Arc::new(Semaphore::new(crate::http::STREAMS)),
        token: config.http.address.filter(|a| !a.ip().is_loopback()).and(config.http.token.as_deref()).map(Arc::from),
        hosts: config.http.address.filter(|a| a.ip().is_loopback()).map(|_| config.http.hosts.clone().into()),
    };
    let (stop_page, page_stopped) = watch::channel(false);
    let serving = page.map(|listener| tokio::spawn(crate::http::serve(listener, state, page_stopped)));
    let managing = management.map(|listener| {
        let state = ManagementState {
            flusher: ask,
            config: config::flat(&config),
            started: unix_time(),
            healthy: AtomicBool::new(config.management.healthy),
            allow: AccessList::new(config.management.allow.clone()),
            http_requests,
        };
        tokio::spawn(management::serve(listener, state, stop_page.subscribe()))
    });
    let flushed = start_beating(flusher)?;
    ready.store(true, Ordering::Relaxed);
    manager.tell(NotifyState::Ready);
    let watchdog = tokio::spawn(feed_watchdog(manager.clone(), published_for_watchdog, config.interval));

    shutdown.await;
    manager.tell(NotifyState::Stopping);
    watchdog.abort();
    tracing::info!("stopping: reading what the kernel holds, then delivering the last interval");
    ready.store(false, Ordering::Relaxed);
    // One deadline for everything that follows.
    let deadline = Instant::now() + config.shutdown_grace;
    let _ = stop.send(Some(deadline));
    let Ok(drivers) = flushed.await else {
        return Err(StartError("the flusher failed; its message is above".into()));
    };
    // The last interval waits in the drivers, and no worker sends anything to anybody any more.
    let delivering: Vec<_> = drivers.into_iter().map(|driver| tokio::spawn(driver.finish(deadline))).collect();
    let delivering = async {
        for sink in delivering {
            let _ = sink.await;
        }
    };
    let telling = async {
        if let (Some(presence), Some(watching)) = (presence, watching) {
            let end = move || {
                presence.stop();
                watching.join()
            };
            ended_by(deadline, "presence", end).await;
        }
        notifiers.finish(deadline).await;
    };
    let relaying = async {
        for thread in relaying {
            // What it holds is sent when the last worker has ended.
            ended_by(deadline, "a relay", move || thread.join()).await;
        }
    };
    let capturing = async {
        match capturing {
            Some(thread) => ended_by(deadline, "the capture", move || thread.join()).await,
            None => None,
        }
    };
    let ((), (), (), captured) = tokio::join!(delivering, telling, relaying, capturing);
    if let Some(captured) = captured {
        match captured.problem {
            None => tracing::info!(rows = captured.rows, lost = captured.lost, "the capture is written"),
            Some(problem) => {
                tracing::error!(rows = captured.rows, lost = captured.lost, problem, "the capture is not whole");
            }
        }
    }
    let _ = stop_page.send(true);
    if let Some(managing) = managing {
        managing.abort();
    }
    if let Some(serving) = serving {
        // A browser that keeps its connection open does not hold us up.
        serving.abort();
    }
    tracing::info!("stopped");
    Ok(())
}

/// What a thread that is being joined by `join` leaves behind, if it ends by the deadline; if not, it is left alone, and
/// that is logged. A little time it has in any case: a sink may have taken the rest.
async fn ended_by<T: Send + 'static>(
    deadline: Instant,
    what: &str,
    join: impl FnOnce() -> std::thread::Result<T> + Send + 'static,
) -> Option<T> {
    let deadline = deadline.max(Instant::now() + LAST_WORDS);
    match tokio::time::timeout_at(deadline.into(), tokio::task::spawn_blocking(join)).await {
        Ok(Ok(Ok(left))) => return Some(left),
        Ok(Ok(Err(_)) | Err(_)) => tracing::error!("{what} failed; its message is above"),
        Err(_) => tracing::error!("{what} did not end within `shutdown_grace`; it is left behind"),
    }
    None
}

/// Whether the last flush was too long ago.
fn is_late(published: &Published, interval: Duration) -> bool {
    published.at.is_some_and(|at| at.elapsed() > interval * 2 + WATCHDOG_PATIENCE)
}

/// Says whether all is well here: intervals are closed, next to nothing is dropped, and presence answers.
fn watchdog(
    published: watch::Receiver<Arc<Published>>,
    interval: Duration,
) -> (Arc<OnceLock<Option<PresenceHandle>>>, Watchdog) {
    let cell: Arc<OnceLock<Option<PresenceHandle>>> = Arc::default();
    let known = Arc::clone(&cell);
    let watchdog = move || {
        let presence = known.get().cloned().flatten();
        let published = Arc::clone(&published.borrow());
        let is_late = is_late(&published, interval);
        let completeness = published.snapshot.as_ref().map_or(1.0, |snapshot| snapshot.ledger.completeness);
        let check = async move {
            if is_late {
                return Some("intervals are not closed in time");
            }
            if completeness < 0.99 {
                return Some("the kernel drops datagrams");
            }
            match presence {
                Some(presence) => match tokio::time::timeout(WATCHDOG_PATIENCE, presence.ask(|_| ())).await {
                    Ok(Ok(())) => None,
                    Ok(Err(_)) | Err(_) => Some("presence does not answer"),
                },
                None => None,
            }
        };
        Box::pin(check) as std::pin::Pin<Box<dyn Future<Output = _> + Send>>
    };
    (cell, Arc::new(watchdog))
}

/// Tells systemd's watchdog, if there is one, that intervals are closed in time.
async fn feed_watchdog(manager: Manager, published: watch::Receiver<Arc<Published>>, interval: Duration) {
    let Some(length) = sd_notify::watchdog_enabled() else { return };
    loop {
        if !is_late(&published.borrow(), interval) {
            manager.tell(NotifyState::Watchdog);
        }
        tokio::time::sleep(length / 2).await;
    }
}

/// Runs the flusher on a thread of its own, so that no sink's work can delay a tick. Resolves to the drivers when it has
/// ended; an error means that it failed.
fn start_beating(flusher: Flusher) -> Result<oneshot::Receiver<Vec<SinkDriver>>, StartError> {
    let cannot = |error: io::Error| StartError(format!("cannot start the flush thread: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(cannot)?;
    let (ended, flushed) = oneshot::channel();
    let beat = move || {
        let _ = ended.send(runtime.block_on(flusher.run()));
    };
    std::thread::Builder::new().name("flush".into()).spawn(beat).map_err(cannot)?;
    Ok(flushed)
}

fn cannot_listen(url: &str, error: &io::Error) -> StartError {
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse if url.starts_with("unix") => {
            "another process listens there, or it is no socket: stop it, or choose another path"
        }
        io::ErrorKind::AddrInUse => "another process has this port: stop it, or choose another",
        io::ErrorKind::PermissionDenied => "ports below 1024 need more rights: choose a higher one",
        io::ErrorKind::NotFound if url.starts_with("fd:") => {
            "start it by socket activation, or listen at udp://127.0.0.1:8125"
        }
        io::ErrorKind::NotFound => "make its folder, or choose another path",
        io::ErrorKind::AddrNotAvailable => "this machine does not have that address: choose one of its own, or 0.0.0.0",
        _ => "check the address",
    };
    StartError(format!("cannot listen on {url}: {error}; {advice}"))
}

/// How a sink is driven, and the sink.
pub type OpenSink = (DriverOptions, Box<dyn sinks::Sink>);

fn open_sinks(config: &Config) -> Result<Vec<OpenSink>, StartError> {
    config.sinks.iter().map(|sink| Ok((driver_options(config, sink), open_sink(config, sink)?))).collect()
}

fn driver_options(config: &Config, sink: &Sink) -> DriverOptions {
    let every = sink.interval.map_or(1, |own| own.as_nanos() / config.interval.as_nanos().max(1));
    DriverOptions {
        filter: sink.filter.clone(),
        queue: sink.queue,
        timeout: sink.timeout,
        every: u32::try_from(every).unwrap_or(1).max(1),
        spool: sink.spool.clone(),
        ..DriverOptions::new(&sink.name, sink.kind.name(), config.interval)
    }
}

fn start_sink((options, sink): OpenSink) -> Result<SinkDriver, StartError> {
    let (name, spool) = (options.name.clone(), options.spool.clone());
    SinkDriver::start(options, sink).map_err(|error| {
        let folder = spool.map_or_else(String::new, |spool| spool.path.display().to_string());
        StartError(format!(
            "sink {name}: cannot spool to {folder}: {error}; choose a folder of its own that can be written"
        ))
    })
}

fn open_sink(config: &Config, sink: &Sink) -> Result<Box<dyn sinks::Sink>, StartError> {
    let context = assemble::sink_context(config, &sink.name, sink.timeout);
    sink.kind.spec().open(&context).map_err(|problem| StartError(format!("sink {}: {problem}", sink.name)))
}

fn start_up_block(
    config: &Config,
    bound: &[(ListenUrl, BoundListener)],
    management: Option<SocketAddr>,
    page: Option<SocketAddr>,
) -> String {
    let mut out = format!("systole {}\n", env!("CARGO_PKG_VERSION"));
    for (url, socket) in bound {
        let detail = match socket.transport() {
            Transport::Udp => {
                let workers = socket.workers();
                let s = if workers == 1 { "" } else { "s" };
                format!("  ({workers} worker{s}, receive buffer {})", show_size(socket.receive_buffer()))
            }
            Transport::Tcp | Transport::Unix | Transport::Unixgram => String::new(),
        };
        let _ = writeln!(out, "  listen    {url}{detail}");
    }
    let _ = writeln!(out, "  interval  {}, profile {}", show_duration(config.interval), config.profile.name());
    for sink in &config.sinks {
        let place = sink.kind.spec().place();
        let gap = if place.is_empty() { "" } else { "  " };
        let _ = writeln!(out, "  sink      {}{gap}{place}", sink.name);
    }
    for relay in &config.relays {
        let targets = relay.targets.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", ");
        let _ = writeln!(out, "  relay     {}  {targets}", relay.name);
    }
    if let Some(address) = management {
        let _ = writeln!(out, "  manage    tcp://{address}");
    }
    let _ = match page {
        Some(address) => writeln!(out, "  page      http://{address}"),
        None => writeln!(out, "  page      off"),
    };
    if let Some((ListenUrl::Udp(address), _)) = bound.iter().find(|(url, _)| matches!(url, ListenUrl::Udp(_))) {
        let host = if address.ip().is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { address.ip() };
        let near = SocketAddr::new(host, address.port());
        let to = if near == SocketAddr::from((Ipv4Addr::LOCALHOST, 8125)) {
            String::new()
        } else {
            format!(" --to udp://{near}")
        };
        let _ = writeln!(out, "  try       systole send 'hello:1|c'{to}");
        let _ = writeln!(out, "  or        echo 'hello:1|c' | nc -u -q0 {host} {}", near.port());
    }
    out
}

/// A key for the tables' hashes that a sender cannot know.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}
