//! `systole run`: the daemon.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::time::{Duration, Instant};

use clap::{ArgAction, Args};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing_subscriber::filter::LevelFilter;

use crate::assemble;
use crate::config::{self, Config, LogFormat, Problem};
use crate::daemon::{self, Daemon, Predecessor, Running, StartError, StopError, Successor};
use crate::http::{Order, Orders};
use crate::log::Log;
use crate::sys;

use super::service_manager::{NotifyState, ServiceManager};
use super::{ConfigArgs, FAILED, SOFTWARE, duration, load_with_origins, print_error, sources};

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
    let ignored = match Ignored::listen() {
        Ok(ignored) => ignored,
        Err(error) => return cannot_listen(error),
    };
    let predecessor = match Predecessor::find() {
        Ok(predecessor) => predecessor,
        Err(problem) => {
            print_error(problem);
            return FAILED;
        }
    };
    let loaded = sources(&args.config).and_then(|mut sources| {
        sources.listen = args.listen;
        sources.sink = args.sink;
        sources.interval = args.interval;
        sources.http = args.http;
        let unknown = config::unknown_variables(&sources);
        let (config, origins) = load_with_origins(&sources).inspect_err(|_| {
            unknown.iter().for_each(|unknown| print_error(format_args!("warning: {unknown}")));
        })?;
        Ok((config, origins, unknown))
    });
    let (config, origins, unknown) = match loaded {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let log = match Log::start(level(&config, args.verbose), config.log.format == LogFormat::Json) {
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
    let Ignored { hangup, user1, user2 } = ignored;
    runtime.spawn(log_ignored(hangup, user1));
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
    sys::offer_kept_sockets();
    let daemon = || {
        let mut daemon = Daemon::bind_after(predecessor, config)?.with_origins(origins).with_log(log.clone());
        if let Some(path) = &args.capture {
            daemon = daemon.with_capture(path);
        }
        if let Some(every) = args.status_interval {
            daemon = daemon.with_status_log(every);
        }
        Ok(daemon)
    };
    let outcome = runtime.block_on(serve(daemon, &log, stop, user2));
    // A sink that blocks for ever must not keep the process alive.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => 0,
        Err(error) => {
            log.say(&format!("systole: {error}\n"));
            if error.is::<StopError>() { SOFTWARE } else { FAILED }
        }
    }
}

/// Runs the daemon until `stop` resolves or another process takes over, and tells the service manager how it is. An order
/// to hand over comes by the API or the signal `upgrade`.
async fn serve(
    daemon: impl FnOnce() -> Result<Daemon, StartError>,
    log: &Log,
    stop: impl Future<Output = ()>,
    mut upgrade: Signal,
) -> Result<(), Box<dyn Error>> {
    let (orders, mut taken) = Orders::channel();
    let daemon = daemon()?.taking_orders(orders);
    let grace = daemon.shutdown_grace();
    log.say(&daemon.summary());
    let service_manager =
        ServiceManager::start().map_err(|error| format!("cannot start the service manager's thread: {error}"))?;
    let running = daemon.with_part(service_manager.part()).start()?;
    let restored = running.restored().await;
    if !restored.is_empty() {
        log.say(&restored);
    }
    if service_manager.keeps_sockets() {
        match running.keep_listeners().await {
            Ok(sockets) => service_manager.keep_sockets(sockets),
            Err(problem) => tracing::warn!(problem, "the service manager is given no sockets to keep"),
        }
    }
    service_manager.notify(NotifyState::Ready);
    let mut stop = pin!(stop);
    let successor = loop {
        let reply = tokio::select! {
            () = &mut stop => break None,
            () = running.failed() => break None,
            () = feed_watchdog(&service_manager, &running) => break None,
            Some(()) = upgrade.recv() => None,
            Some(Order::Upgrade(reply)) = taken.recv() => Some(reply),
        };
        let begun = tokio::select! {
            begun = running.begin_upgrade() => begun,
            () = feed_watchdog(&service_manager, &running) => break None,
        };
        if let Err(problem) = &begun {
            tracing::error!(problem, "there is no upgrade; this process goes on");
        }
        let upgrading = begun.as_ref().map(Successor::upgrading).map_err(String::clone);
        if let Some(reply) = reply {
            // Whoever asked may have gone.
            let _ = reply.send(upgrading);
        }
        let Ok(successor) = begun else { continue };
        if timeout(Duration::ZERO, &mut stop).await.is_err() {
            break Some(successor);
        }
        // Whoever asked for a stop meanwhile wants no process at all.
        successor.end();
        break None;
    };
    let deadline = Instant::now() + grace;
    match successor {
        Some(successor) => {
            service_manager.notify(NotifyState::MainPid(successor.upgrading().pid));
            Ok(running.hand_over(successor, deadline).await?)
        }
        None => {
            service_manager.notify(NotifyState::Stopping);
            Ok(running.stop(deadline).await?)
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
struct Ignored {
    hangup: Signal,
    user1: Signal,
    user2: Signal,
}

impl Ignored {
    /// Installs handlers for the signals. Call it inside a runtime.
    fn listen() -> io::Result<Ignored> {
        Ok(Ignored {
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }
}

/// Logs the signals that change nothing, including those that have arrived already.
async fn log_ignored(mut hangup: Signal, mut user1: Signal) {
    loop {
        tokio::select! {
            Some(()) = hangup.recv() => tracing::info!(
                "SIGHUP changes nothing: the configuration is read at the start; restart to apply another"
            ),
            Some(()) = user1.recv() => tracing::info!("SIGUSR1 changes nothing: it has no meaning here"),
            else => return,
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
