//! The sinks of a reload: one of the same name keeps its queue, its account and its spool, whatever else changes.

use std::path::PathBuf;
use std::time::Instant;

use tokio::runtime::Handle;

use crate::assemble;
use crate::config::{self, Config};
use crate::flush::{FlusherHandle, NextDriver};
use crate::sinks::{DriverOptions, Handover, NextSink, SinkChange, SinkDriver};
use crate::supervise::Gate;

use super::super::StartError;
use super::super::sinks::{self as started, OpenSink};
use super::Reloader;

/// A sink of the next configuration.
pub(super) enum NextOpen {
    /// The one at this place, as it is.
    Same(usize),
    /// The one at this place, changed.
    Changed(usize, Box<SinkChange>),
    /// A new one.
    New(Box<OpenSink>),
}

/// Ends sinks of these names that were taken out and have not delivered all they had; what others go on with.
async fn end_leaving(flusher: FlusherHandle, names: Vec<String>) -> Vec<Handover> {
    let mut handovers = Vec::new();
    for name in names {
        if let Some(driver) = flusher.take_leaving(name).await.and_then(|mut held| held.take()) {
            handovers.push(driver.hand_over(Instant::now()).await);
        }
    }
    handovers
}

/// Names of sinks that there are none of.
fn new_names(sinks: &[NextOpen]) -> Vec<String> {
    let names = sinks.iter().filter_map(|next| match next {
        NextOpen::New(open) => Some(open.options.name.clone()),
        NextOpen::Same(_) | NextOpen::Changed(..) => None,
    });
    names.collect()
}

impl Reloader {
    /// Opens what is new of the sinks.
    pub(super) fn open_sinks(&self, next: &Config) -> Result<Vec<NextOpen>, StartError> {
        let has_spools = next.sinks.iter().any(|sink| sink.spool.is_some());
        let held = if has_spools { Handle::current().block_on(self.flusher.spools()) } else { Vec::new() };
        next.sinks.iter().map(|sink| self.check_spool(sink, &held).and_then(|()| self.open_sink(next, sink))).collect()
    }

    /// Whether a sink can have its spool; `held` are those of all that run.
    fn check_spool(&self, sink: &config::Sink, held: &[(String, PathBuf)]) -> Result<(), StartError> {
        let Some(spool) = &sink.spool else { return Ok(()) };
        let (name, folder) = (&sink.name, spool.path.display());
        match held.iter().find(|(_, path)| *path == spool.path) {
            // It has, or had, that one, and goes on with it.
            Some((holder, _)) if holder == name => Ok(()),
            Some((holder, _)) => Err(StartError(format!(
                "sink {name}: cannot spool to {folder}: the sink {holder} has that folder until it has ended, or delivered what \
                 lies there; reload without this spool, and with it when that is done, or restart"
            ))),
            None => {
                let known = self.config.sinks.iter().find(|known| known.name == *name);
                match known.map(|known| known.spool.as_ref().map(|spool| &spool.path)) {
                    Some(path) if path != Some(&spool.path) => {
                        SinkDriver::check_spool(spool).map_err(|error| started::cannot_spool(name, &spool.path, &error))
                    }
                    // A new one opens it, and fails if it cannot.
                    Some(_) | None => Ok(()),
                }
            }
        }
    }

    fn open_sink(&self, next: &Config, sink: &config::Sink) -> Result<NextOpen, StartError> {
        let was = &self.config;
        let known = was.sinks.iter().enumerate().find(|(_, known)| known.name == sink.name);
        let open = || started::open_one(next, sink, &self.memory, &self.ports);
        let Some((place, known)) = known else { return open().map(|open| NextOpen::New(Box::new(open))) };
        let context = |config: &Config, sink: &config::Sink| {
            let context = assemble::sink_context(config, &sink.name, sink.timeout);
            let most_series = sink.kind.spec().holds_series().then_some(context.max_series);
            (context.timeout, context.profile, context.etsy, most_series, context.aggregates)
        };
        if known.kind == sink.kind && context(was, known) == context(next, sink) {
            if known == sink {
                return Ok(NextOpen::Same(place));
            }
            let options = started::driver_options(next, sink);
            return Ok(NextOpen::Changed(place, Box::new(SinkChange { options, sink: None })));
        }
        let goes_on = known.kind.name() == sink.kind.name();
        let OpenSink { sink: opened, reopen, .. } = open()?;
        let reopen = reopen.unwrap_or_else(|| started::reopen(next, sink, &self.memory, &self.ports));
        let next_sink = NextSink { sink: opened, reopen, goes_on };
        let options = started::driver_options(next, sink);
        Ok(NextOpen::Changed(place, Box::new(SinkChange { options, sink: Some(next_sink) })))
    }

    /// Starts the drivers of new sinks, which go on with what others of their names have left: in this process, or an earlier one.
    /// `None` if all sinks are as they were. To be called when nothing else can fail.
    pub(super) fn start_sinks(&self, sinks: Vec<NextOpen>) -> Result<Option<Vec<NextDriver>>, StartError> {
        let is_same = |(n, one): (usize, &NextOpen)| matches!(one, NextOpen::Same(place) if *place == n);
        if sinks.len() == self.config.sinks.len() && sinks.iter().enumerate().all(is_same) {
            return Ok(None);
        }
        let gate = Gate::closed();
        let all = self.start_new(sinks, &gate);
        // If not all have started, the others end only then.
        gate.open();
        all.map(Some)
    }

    fn start_new(&self, sinks: Vec<NextOpen>, gate: &Gate) -> Result<Vec<NextDriver>, StartError> {
        let runtime = Handle::current();
        let names = new_names(&sinks);
        let held = if names.is_empty() { Vec::new() } else { runtime.block_on(self.flusher.spools()) };
        let start = |open| {
            let driver = started::start_one(open, &self.memory, &self.supervisor, gate)?;
            Ok(NextDriver::New(self.flusher.hold(driver, self.config.shutdown_grace)))
        };
        let is_held = |OpenSink { options: DriverOptions { name, spool, .. }, .. }: &OpenSink| {
            spool.as_ref().is_some_and(|spool| held.contains(&(name.clone(), spool.path.clone())))
        };
        let (mut all, mut waiting) = (Vec::new(), Vec::new());
        for one in sinks {
            all.push(match one {
                NextOpen::Same(place) => Some(NextDriver::Kept(place, None)),
                NextOpen::Changed(place, change) => Some(NextDriver::Kept(place, Some(change))),
                // The folder is free when the one that leaves has ended. One that another sink has is not, so that this fails.
                NextOpen::New(open) if is_held(&open) => {
                    waiting.push((all.len(), open));
                    None
                }
                NextOpen::New(open) => Some(start(*open)?),
            });
        }
        // Before that everything else has started that may fail to.
        let mut handovers = runtime.block_on(end_leaving(self.flusher.clone(), names));
        let mut late = waiting.into_iter();
        let failed = late.find_map(|(place, open)| start(*open).map(|next| all[place] = Some(next)).err());
        let mut all: Vec<NextDriver> = all.into_iter().flatten().collect();
        // Also if one has failed: the others leave then, with what they had.
        let others = resume(&all, &mut handovers);
        for handover in handovers {
            runtime.block_on(started::keep(handover, &self.state, Instant::now()));
        }
        if let Some(error) = failed {
            return Err(error);
        }
        started::resume_each(others.into_iter(), &self.memory, &self.state);
        // Sinks that the program itself has added stay.
        let configured = self.config.sinks.len();
        all.extend((configured..configured + self.own_sinks).map(|place| NextDriver::Kept(place, None)));
        Ok(all)
    }
}

/// Lets new sinks go on with what those of their names leave to them; those that nothing was left to.
fn resume<'a>(all: &'a [NextDriver], handovers: &mut Vec<Handover>) -> Vec<&'a SinkDriver> {
    let new = all.iter().filter_map(|next| match next {
        NextDriver::New(new) => new.driver(),
        NextDriver::Kept(..) => None,
    });
    let mut others = Vec::new();
    for driver in new {
        match handovers.iter().position(|one| one.name() == driver.name()) {
            Some(at) => driver.resume(handovers.swap_remove(at)),
            None => others.push(driver),
        }
    }
    others
}
