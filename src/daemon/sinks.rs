//! The sinks. Running ones belong to the flusher, which hands them intervals, until it ends.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout_at;

use crate::assemble;
use crate::config::{self, Config};
use crate::memory::Memory;
use crate::ports::Ports;
use crate::sinks::{DriverOptions, Handover, Reopen, SHUTDOWN, Sink, SinkContext, SinkDriver};
use crate::state::{Discarded, Limits, StateFolder, sink_part};
use crate::supervise::{Gate, Supervisor};
use crate::sys::now;

use super::StartError;

/// How long keeping what a sink has not delivered may take, beside what the stop may take: it may be much, and the disk slow.
const ENDING: Duration = Duration::from_secs(10);

/// A sink, and how it is driven.
pub(super) struct OpenSink {
    pub(super) options: DriverOptions,
    pub(super) sink: Box<dyn Sink>,
    /// Opens it anew after a failure.
    pub(super) reopen: Option<Reopen>,
}

impl fmt::Debug for OpenSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenSink").field("options", &self.options).finish_non_exhaustive()
    }
}

/// Opens the configured sinks.
pub(super) fn open(config: &Config, memory: &Memory, ports: &Ports) -> Result<Vec<OpenSink>, StartError> {
    config.sinks.iter().map(|sink| open_one(config, sink, memory, ports)).collect()
}

/// Opens a sink.
pub(super) fn open_one(
    config: &Config,
    sink: &config::Sink,
    memory: &Memory,
    ports: &Ports,
) -> Result<OpenSink, StartError> {
    let mut reopen = reopen(config, sink, memory, ports);
    let opened = reopen().map_err(|problem| StartError(format!("sink {}: {problem}", sink.name)))?;
    Ok(OpenSink { options: driver_options(config, sink), sink: opened, reopen: Some(reopen) })
}

/// How a sink is driven.
pub(super) fn driver_options(config: &Config, sink: &config::Sink) -> DriverOptions {
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

/// Makes sure that spools can be opened once the process that has them hands over to this one.
pub(super) fn check_spools(config: &Config) -> Result<(), StartError> {
    let spools = config.sinks.iter().filter_map(|sink| Some((&sink.name, sink.spool.as_ref()?)));
    spools.into_iter().try_for_each(|(name, spool)| {
        SinkDriver::check_held_spool(spool).map_err(|error| cannot_spool(name, &spool.path, &error))
    })
}

/// What opens a sink, at any time.
pub(super) fn reopen(config: &Config, sink: &config::Sink, memory: &Memory, ports: &Ports) -> Reopen {
    let context = assemble::sink_context(config, &sink.name, sink.timeout);
    let context = SinkContext { memory: memory.clone(), ports: ports.clone(), ..context };
    let kind = sink.kind.clone();
    Box::new(move || kind.spec().open(&context))
}

/// Starts the tasks of each sink, which go on where an earlier process has stopped.
pub(super) fn start(
    sinks: Vec<OpenSink>,
    memory: &Memory,
    supervisor: &Supervisor,
    state: &StateFolder,
) -> Result<Vec<SinkDriver>, StartError> {
    let mut names = HashSet::new();
    for sink in &sinks {
        if !names.insert(&sink.options.name) {
            return Err(StartError(format!("sink {}: there are two of this name", sink.options.name)));
        }
    }
    let gate = Gate::closed();
    let start = |sink| start_one(sink, memory, supervisor, &gate);
    let drivers: Result<Vec<_>, _> = sinks.into_iter().map(start).collect();
    let drivers = drivers.inspect_err(|_| gate.open())?;
    resume(&drivers, memory, state);
    gate.open();
    Ok(drivers)
}

/// Starts the tasks of a sink, which deliver when the gate is open.
pub(super) fn start_one(
    OpenSink { options, sink, reopen }: OpenSink,
    memory: &Memory,
    supervisor: &Supervisor,
    gate: &Gate,
) -> Result<SinkDriver, StartError> {
    let (name, spool) = (options.name.clone(), options.spool.clone());
    SinkDriver::supervised(memory, options, sink, reopen, supervisor, gate).map_err(|error| {
        let folder = spool.map_or_else(PathBuf::new, |spool| spool.path);
        cannot_spool(&name, &folder, &error)
    })
}

/// Why a sink cannot have its spool.
pub(super) fn cannot_spool(name: &str, folder: &Path, error: &io::Error) -> StartError {
    let folder = folder.display();
    StartError(format!(
        "sink {name}: cannot spool to {folder}: {error}; choose a folder of its own that can be written"
    ))
}

/// Lets sinks go on where those of the same names have stopped in an earlier process. To be called before the first interval.
pub fn resume(drivers: &[SinkDriver], memory: &Memory, state: &StateFolder) {
    resume_each(drivers.iter(), memory, state);
    let parts: HashSet<String> = drivers.iter().map(|driver| sink_part(driver.name())).collect();
    for part in state.others("sink-", &parts, Handover::FORMAT, Limits::default()) {
        tracing::warn!(part, "what a sink had not delivered is kept for a day, but no sink of that name is configured");
    }
    for (sink, records) in state.uncounted() {
        tracing::warn!(
            sink,
            records,
            "the last process could not keep what a sink had not delivered, and no sink of that name is configured"
        );
    }
}

/// The same for some, which deliver nothing yet.
pub(super) fn resume_each<'a>(drivers: impl Iterator<Item = &'a SinkDriver>, memory: &Memory, state: &StateFolder) {
    let loaded = drivers.filter(|driver| resume_one(driver, memory, state)).count();
    if loaded > 0 && !state.sync() {
        tracing::warn!("what sinks had not delivered is loaded: after a power cut now it may come a second time");
    }
}

/// The same for one; whether there was anything.
fn resume_one(driver: &SinkDriver, memory: &Memory, state: &StateFolder) -> bool {
    let part = sink_part(driver.name());
    let saved = state.read(&part, Handover::FORMAT, Limits::default());
    driver.count_lost(state.take_lost(driver.name(), saved.is_some()));
    let Some(saved) = saved else { return false };
    match Handover::read(&saved.bytes, memory) {
        // It counts once: what cannot be removed would be delivered again after each start.
        Ok(handover) if state.remove(&part) => {
            driver.resume(handover);
            return true;
        }
        Ok(_) => tracing::warn!(
            part,
            "what a sink had not delivered cannot be removed from the state folder: it is not delivered, and stays there until that \
             is written anew"
        ),
        Err(error) => state.set_aside(&part, Discarded::Damaged, &error.to_string()),
    }
    false
}

/// The running sinks, as the flusher passes them on when it ends: the last interval waits in them.
#[derive(Debug)]
pub(super) struct Sinks {
    drivers: oneshot::Receiver<Vec<SinkDriver>>,
    state: StateFolder,
}

impl Sinks {
    /// Those that come from the flusher.
    pub(super) fn new(drivers: oneshot::Receiver<Vec<SinkDriver>>) -> Sinks {
        Sinks { drivers, state: StateFolder::off() }
    }

    /// What they do not deliver is kept in this folder.
    pub(super) fn kept_in(self, state: StateFolder) -> Sinks {
        Sinks { state, ..self }
    }

    /// Lets each deliver what it has, side by side.
    pub(super) async fn stop(self, deadline: Instant) {
        // A flusher that failed is reported by its own part.
        let Ok(drivers) = self.drivers.await else { return };
        let (mut stopping, mut names) = (JoinSet::new(), HashSet::new());
        for driver in drivers {
            let state = self.state.clone();
            // One that left for another one of its name comes later.
            if names.insert(driver.name().to_string()) {
                stopping.spawn(end(driver, state, deadline));
            } else {
                stopping.spawn(give_up(driver, state, deadline));
            }
        }
        stopping.join_all().await;
    }
}

/// Ends a sink. What it has not delivered is kept for the next start, if that is possible; what is lost is counted there.
pub async fn end(driver: SinkDriver, state: StateFolder, deadline: Instant) {
    if !state.is_kept() {
        driver.finish(deadline).await;
        return;
    }
    let (stats, before) = (driver.stats(), driver.account());
    let handover = driver.hand_over(deadline).await;
    state.leave_lost(stats.name(), stats.account().dropped.since(&before.dropped).of(SHUTDOWN));
    keep(handover, &state, deadline.max(now())).await;
}

/// Ends a sink that keeps nothing.
async fn give_up(driver: SinkDriver, state: StateFolder, deadline: Instant) {
    let (name, before) = (driver.name().to_string(), driver.account());
    let after = driver.finish(deadline).await;
    state.leave_lost(&name, after.dropped.since(&before.dropped).of(SHUTDOWN));
}

/// Keeps what a sink has not delivered for the next one of its name, if that is possible soon after the deadline. If it is not, the
/// next process counts it.
pub(super) async fn keep(handover: Handover, state: &StateFolder, deadline: Instant) {
    if handover.is_empty() {
        return;
    }
    let (own, disk) = (state.clone(), state.disk());
    let (sink, intervals, records) = (handover.name().to_string(), handover.intervals(), handover.records());
    let (name, (tell, is_kept)) = (sink.clone(), oneshot::channel());
    let write = move || {
        let is_written = own.write(&sink_part(&name), Handover::FORMAT, |out| handover.write(out));
        // Nobody may wait for it any more.
        let _ = tell.send(is_written);
        if !is_written {
            handover.give_up();
        } else if intervals > 0 {
            let (sink, waited_secs) = (name, handover.waited_secs());
            tracing::info!(
                sink,
                intervals,
                records,
                waited_secs,
                "not delivered before the end; kept for the next start"
            );
        }
    };
    match timeout_at((deadline + ENDING).into(), disk.work(Box::new(write))).await {
        Ok(Ok(())) => {}
        Ok(Err(_)) => tracing::error!(sink, intervals, records, "what a sink has not delivered could not be kept"),
        Err(_) => tracing::error!(
            sink,
            intervals,
            records,
            "the state folder does not answer: what a sink has not delivered is given up"
        ),
    }
    if !matches!(is_kept.now_or_never(), Some(Ok(true))) {
        state.leave_unkept(&sink, records);
    }
}
