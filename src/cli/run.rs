//! `systole run`: the daemon.

use std::collections::BTreeSet;
use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{ArgAction, Args};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;
use tracing_subscriber::filter::LevelFilter;

use crate::assemble;
use crate::config::{self, Config, LogFormat, Origins, Problem, Sources};
use crate::daemon::{self, Daemon, Loaded, Predecessor, Reloading, Running, StartError, Step, StopError};
use crate::http::{Order, Orders};
use crate::log::Log;
use crate::reloads::Reloads;
use crate::sys;

use super::service_manager::{NotifyState, ServiceManager};
use super::{ConfigArgs, FAILED, SOFTWARE, duration, load_with_origins, print_error, read_sources, sources};

#[derive(Args, Default)]
pub(super) struct RunArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Listen here, in place of the configured listeners: udp://HOST:PORT, tcp://HOST:PORT,
    /// unix:///PATH, unixgram:///PATH or fd://NAME (may be repeated); without it those of
    /// SYSTOLE_LISTEN, with blanks between them
    #[arg(long, value_name = "URL")]
    listen: Vec<String>,
    /// Deliver here, in place of the configured sinks: console:, file:///PATH, graphite://HOST:PORT,
    /// prometheus://ADDRESS:PORT, statsd://HOST:PORT, sqlite:///PATH, otlp://HOST:PORT,
    /// clickhouse://HOST:PORT, influx://HOST:PORT, remote_write://HOST:PORT/PATH, exec:///PATH,
    /// hdrlog:///PATH, elasticsearch://HOST:PORT; with any option of a [[sink]] as
    /// ?KEY=VALUE&TABLE.KEY=VALUE (may be repeated); without it those of SYSTOLE_SINK, with blanks
    /// between them
    #[arg(long, value_name = "URL")]
    sink: Vec<String>,
    /// Time between flushes, such as 10s
    #[arg(long, value_name = "DUR", value_parser = duration)]
    interval: Option<Duration>,
    /// Address of the page and the API, or off
    #[arg(long, value_name = "ADDR")]
    http: Option<String>,
    /// Log more: -v for every flush, -vv for everything
    #[arg(short, long, action = ArgAction::Count)]
    verbose: u8,
    /// Log what was received and lost since the start, this often
    #[arg(long, value_name = "DUR", value_parser = duration)]
    status_interval: Option<Duration>,
    /// Record everything that comes in, with times, for `systole replay`
    #[arg(long, value_name = "FILE")]
    capture: Option<PathBuf>,
}

pub(super) fn run(args: RunArgs) -> u8 {
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        // Sinks and pages yield to receiving.
        .on_thread_start(sys::yielding_thread)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            print_error(format_args!("cannot start threads: {error}"));
            return FAILED;
        }
    };
    let _inside = runtime.enter();
    let _ = daemon::program();
    let cannot_listen = |error: io::Error| {
        print_error(format_args!("cannot listen for signals: {error}"));
        FAILED
    };
    // Before anything that takes time: SIGHUP and its like must not end the process while the configuration is read. SIGTERM may.
    let Signals { hangup, user1, user2 } = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => return cannot_listen(error),
    };
    let predecessor = match Predecessor::find(end_orphaned) {
        Ok(predecessor) => predecessor,
        Err(problem) => {
            print_error(problem);
            return FAILED;
        }
    };
    let RunArgs { config, listen, sink, interval, http, verbose, status_interval, capture } = args;
    let flags = Flags { config, listen, sink, interval, http };
    let (config, origins, unknown) = match flags.load_first() {
        Ok(loaded) => loaded,
        Err(code) => {
            if let Some(first) = predecessor.as_ref().and_then(|_| flags.load().err()?.into_iter().next()) {
                daemon::say_failure(&first);
            }
            return code;
        }
    };
    let log = match Log::start(level(&config, verbose), config.log.format == LogFormat::Json) {
        Ok(log) => log,
        Err(error) => {
            print_error(format_args!("cannot start the log: {error}"));
            return FAILED;
        }
    };
    let _ending = log.ending();
    for warning in unknown.iter().map(Problem::to_string).chain(assemble::warnings(&config)) {
        tracing::warn!("{warning}");
    }
    let stop = match stop_signal(log.clone()) {
        Ok(stop) => stop,
        Err(error) => return cannot_listen(error),
    };
    sys::survive_file_size_limit();
    #[cfg(feature = "internals")]
    if let Ok(faults) = std::env::var(crate::fault::VARIABLE)
        && let Err(problem) = crate::fault::arm(&faults)
    {
        print_error(problem);
        return FAILED;
    }
    match sys::raise_descriptor_limit() {
        Ok((before, limit)) => tracing::debug!(before, limit, "raised the limit of open descriptors to its hard limit"),
        Err(error) => tracing::warn!(%error, "cannot raise the limit of open descriptors to its hard limit"),
    }
    let kept = sys::offer_kept_sockets();
    if !kept.is_empty() {
        tracing::info!(sockets = kept.join(", "), "the service manager has kept these sockets; they go on");
    }
    let its_log = log.clone();
    let daemon = |note: Box<dyn Fn(Step) + Send>| {
        let apply = Arc::new(move |config: &Config| its_log.set_level(level(config, verbose)));
        let reloading = Reloading { load: Arc::new(move || flags.load()), note, apply };
        let daemon = Daemon::bind_after(predecessor, config)?.with_origins(origins).with_log(log.clone());
        let mut daemon = daemon.with_reloading(reloading);
        if let Some(path) = &capture {
            daemon = daemon.with_capture(path);
        }
        if let Some(every) = status_interval {
            daemon = daemon.with_status_log(every);
        }
        Ok(daemon)
    };
    let outcome = runtime.block_on(serve(daemon, &log, stop, (hangup, user1, user2)));
    // A sink that blocks for ever must not keep the process alive.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => 0,
        Err(error) => {
            log.say(&format!("systole: {error}\n"));
            if error.is::<StartError>() {
                daemon::say_failure(&error.to_string());
            }
            if error.is::<StopError>() { SOFTWARE } else { FAILED }
        }
    }
}

/// Ends a process that gets no sockets any more.
fn end_orphaned() {
    print_error("the process before this one is gone, and has not handed over");
    std::process::exit(i32::from(FAILED));
}

/// What the command line says, which stays above what is read for a reload.
struct Flags {
    config: ConfigArgs,
    listen: Vec<String>,
    sink: Vec<String>,
    interval: Option<Duration>,
    http: Option<String>,
}

impl Flags {
    fn above(&self, sources: Sources) -> Sources {
        let (listen, sink, http) = (self.listen.clone(), self.sink.clone(), self.http.clone());
        Sources { listen, sink, interval: self.interval, http, ..sources }
    }

    /// Reads all at the start, with what is unknown in the environment; the exit code, if that cannot be used.
    fn load_first(&self) -> Result<(Config, Origins, Vec<Problem>), u8> {
        let sources = self.above(sources(&self.config)?);
        let unknown = config::unknown_variables(&sources);
        let (config, origins) = load_with_origins(&sources).inspect_err(|_| {
            unknown.iter().for_each(|unknown| print_error(format_args!("warning: {unknown}")));
        })?;
        Ok((config, origins, unknown))
    }

    /// Reads all again. Files of TLS are read, too: a bad one is a mistake at its place.
    fn load(&self) -> Result<Loaded, Vec<String>> {
        let sources = self.above(read_sources(&self.config, sys::read_text).map_err(|problem| vec![problem])?);
        let sources = Sources { reads_files: true, ..sources };
        let text = |problems: &[Problem]| problems.iter().map(Problem::to_string).collect::<Vec<_>>();
        let (config, origins) = config::load_with_origins(&sources).map_err(|problems| text(&problems))?;
        let warnings = [text(&config::unknown_variables(&sources)), assemble::warnings(&config)].concat();
        Ok(Loaded { config, origins, warnings })
    }
}

/// Runs the daemon until `stop` resolves or another process takes over, and tells the service manager how it is. An order
/// to hand over comes by the API or by the last signal; the first one reloads.
async fn serve(
    daemon: impl FnOnce(Box<dyn Fn(Step) + Send>) -> Result<Daemon, StartError>,
    log: &Log,
    stop: impl Future<Output = ()>,
    (hangup, user1, mut user2): (Signal, Signal, Signal),
) -> Result<(), Box<dyn Error>> {
    let (orders, mut taken) = Orders::channel();
    let upgrades = orders.clone();
    let service_manager =
        ServiceManager::start().map_err(|error| format!("cannot start the service manager's thread: {error}"))?;
    let (manager, reloaded) = (service_manager.clone(), Arc::new(Notify::new()));
    let has_reloaded = Arc::clone(&reloaded);
    let note = move |step| match step {
        Step::Begun => manager.notify_reloading(),
        Step::Ended => {
            manager.notify(NotifyState::Ready);
            has_reloaded.notify_one();
        }
    };
    let daemon = daemon(Box::new(note))?.taking_orders(orders);
    log.say(&daemon.summary());
    let running = daemon.with_part(service_manager.part()).start()?;
    let restored = running.restored().await;
    if !restored.is_empty() {
        log.say(&restored);
    }
    let mut kept = HeldSockets::new(&service_manager, running.unwanted_sockets());
    kept.renew(&running).await;
    service_manager.notify(NotifyState::Ready);
    let (mut stop, mut others) = (pin!(stop), pin!(attend(hangup, user1, running.reloads())));
    let successor = loop {
        let reply = tokio::select! {
            () = &mut stop => break None,
            () = &mut others => break None,
            () = running.failed() => break None,
            () = feed_watchdog(&service_manager, &running) => break None,
            () = reloaded.notified() => {
                kept.renew(&running).await;
                continue;
            }
            Some(()) = user2.recv() => None,
            Some(Order::Upgrade(reply)) = taken.recv() => Some(reply),
        };
        let upgrade = upgrades.begin_upgrade();
        let begun = tokio::select! {
            begun = running.start_successor(|pid| upgrade.runs(pid)) => begun,
            () = &mut stop => break None,
            () = feed_watchdog(&service_manager, &running) => break None,
        };
        let begun = match begun {
            Ok(successor) => running.let_read(successor).await,
            Err(problem) => Err(problem),
        };
        // One that has failed is over before anybody hears of that.
        let begun = begun.map(|successor| (successor, upgrade));
        if let Err(problem) = &begun {
            tracing::error!(problem, "there is no upgrade; this process goes on");
            running.reloads().note_failed_upgrade(problem);
        }
        if let Some(reply) = reply {
            // Whoever asked may have gone.
            let _ =
                reply.send(begun.as_ref().map(|(successor, _)| running.upgrading(successor)).map_err(String::clone));
        }
        if let Ok(begun) = begun {
            break Some(begun);
        }
    };
    let Some((successor, _upgrade)) = successor else {
        service_manager.notify(NotifyState::Stopping);
        let deadline = Instant::now() + running.grace();
        return Ok(running.stop(deadline).await?);
    };
    service_manager.notify(NotifyState::MainPid(successor.pid()));
    let ended = running.hand_over(&successor).await;
    // Whoever asked this process for a stop meanwhile wants none to go on.
    if timeout(Duration::ZERO, &mut stop).await.is_ok() {
        successor.stop();
    }
    Ok(ended?)
}

/// The sockets that the service manager keeps for the next process.
struct HeldSockets<'a> {
    service_manager: &'a ServiceManager,
    /// The names that it has for them.
    names: BTreeSet<String>,
}

impl HeldSockets<'_> {
    /// Has it close those that it has kept since an earlier process and that nobody reads any more.
    fn new<'a>(service_manager: &'a ServiceManager, unwanted: &[String]) -> HeldSockets<'a> {
        if service_manager.keeps_sockets() {
            unwanted.iter().for_each(|name| service_manager.forget(name.clone()));
        }
        HeldSockets { service_manager, names: BTreeSet::new() }
    }

    /// Has it keep those of the listeners that there are now, and no others.
    async fn renew(&mut self, running: &Running) {
        if !self.service_manager.keeps_sockets() {
            return;
        }
        let sockets = match running.keep_listeners().await {
            Ok(sockets) => sockets,
            Err(problem) => return tracing::warn!(problem, "the service manager is given no sockets to keep"),
        };
        let names = sockets.iter().map(|(name, _)| name.clone()).collect();
        for name in std::mem::replace(&mut self.names, names).difference(&self.names) {
            self.service_manager.forget(name.clone());
        }
        for (name, socket) in sockets {
            self.service_manager.keep(name, socket);
        }
    }
}

/// Tells the watchdog of the service manager, if there is one, that intervals are closed in time and all essential parts live.
async fn feed_watchdog(service_manager: &ServiceManager, running: &Running) {
    let Some(patience) = sd_notify::watchdog_enabled() else { return std::future::pending().await };
    loop {
        if running.health().on_time {
            service_manager.notify(NotifyState::Watchdog);
        }
        tokio::time::sleep(patience / 2).await;
    }
}

/// Signals that would otherwise end the process. SIGPIPE is ignored anyway, as in every Rust program.
struct Signals {
    hangup: Signal,
    user1: Signal,
    user2: Signal,
}

impl Signals {
    /// Installs handlers for the signals. Call it inside a runtime.
    fn listen() -> io::Result<Signals> {
        Ok(Signals {
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }
}

/// Reloads at each SIGHUP, and logs the signal that changes nothing, also for those that have arrived already. It never ends.
async fn attend(mut hangup: Signal, mut user1: Signal, reloads: Reloads) {
    loop {
        tokio::select! {
            // What becomes of it is logged. Signals that come meanwhile are one more reload.
            Some(()) = hangup.recv() => reloads.signal(),
            Some(()) = user1.recv() => tracing::info!("SIGUSR1 changes nothing: it has no meaning here"),
            else => std::future::pending().await,
        }
    }
}

/// Resolves at the first SIGTERM or SIGINT. A second one ends the process at once, also during the start. Call it inside
/// a runtime.
fn stop_signal(log: Log) -> io::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (stop, stopped) = oneshot::channel();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        next().await;
        let _ = stop.send(());
        next().await;
        log.say("systole: stopped at once by a second signal; what was not delivered is lost\n");
        log.finish();
        std::process::exit(i32::from(FAILED));
    });
    Ok(async move {
        // The task above ends with the process.
        let _ = stopped.await;
    })
}

fn level(config: &Config, verbose: u8) -> LevelFilter {
    match (verbose, config.log.level) {
        (0, "error") => LevelFilter::ERROR,
        (0, "warn") => LevelFilter::WARN,
        (0, "debug") | (1, _) => LevelFilter::DEBUG,
        (0, "trace") | (2.., _) => LevelFilter::TRACE,
        _ => LevelFilter::INFO,
    }
}
