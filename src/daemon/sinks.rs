//! The sinks. Running ones belong to the flusher, which hands them intervals, until it ends.

use std::collections::HashSet;
use std::fmt;
use std::time::Instant;

use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::assemble;
use crate::config::{self, Config};
use crate::memory::Memory;
use crate::ports::Ports;
use crate::sinks::{DriverOptions, Reopen, Sink, SinkContext, SinkDriver};
use crate::supervise::Supervisor;

use super::StartError;

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

fn open_one(config: &Config, sink: &config::Sink, memory: &Memory, ports: &Ports) -> Result<OpenSink, StartError> {
    let every = sink.interval.map_or(1, |own| own.as_nanos() / config.interval.as_nanos().max(1));
    let options = DriverOptions {
        filter: sink.filter.clone(),
        queue: sink.queue,
        timeout: sink.timeout,
        every: u32::try_from(every).unwrap_or(1).max(1),
        spool: sink.spool.clone(),
        ..DriverOptions::new(&sink.name, sink.kind.name(), config.interval)
    };
    let context = assemble::sink_context(config, &sink.name, sink.timeout);
    let context = SinkContext { memory: memory.clone(), ports: ports.clone(), ..context };
    let kind = sink.kind.clone();
    let open = move || kind.spec().open(&context);
    let opened = open().map_err(|problem| StartError(format!("sink {}: {problem}", sink.name)))?;
    Ok(OpenSink { options, sink: opened, reopen: Some(Box::new(open)) })
}

/// Starts the tasks of each sink.
pub(super) fn start(
    sinks: Vec<OpenSink>,
    memory: &Memory,
    supervisor: &Supervisor,
) -> Result<Vec<SinkDriver>, StartError> {
    let mut names = HashSet::new();
    for sink in &sinks {
        if !names.insert(&sink.options.name) {
            return Err(StartError(format!("sink {}: there are two of this name", sink.options.name)));
        }
    }
    sinks.into_iter().map(|sink| start_one(sink, memory, supervisor)).collect()
}

fn start_one(
    OpenSink { options, sink, reopen }: OpenSink,
    memory: &Memory,
    supervisor: &Supervisor,
) -> Result<SinkDriver, StartError> {
    let (name, spool) = (options.name.clone(), options.spool.clone());
    SinkDriver::supervised(memory, options, sink, reopen, supervisor).map_err(|error| {
        let folder = spool.map_or_else(String::new, |spool| spool.path.display().to_string());
        StartError(format!(
            "sink {name}: cannot spool to {folder}: {error}; choose a folder of its own that can be written"
        ))
    })
}

/// The running sinks, as the flusher passes them on when it ends: the last interval waits in them.
#[derive(Debug)]
pub(super) struct Sinks(pub(super) oneshot::Receiver<Vec<SinkDriver>>);

impl Sinks {
    /// Lets each deliver what it has, side by side.
    pub(super) async fn stop(self, deadline: Instant) {
        // A flusher that failed is reported by its own part.
        let Ok(drivers) = self.0.await else { return };
        let mut stopping = JoinSet::new();
        for driver in drivers {
            stopping.spawn(driver.finish(deadline));
        }
        stopping.join_all().await;
    }
}
