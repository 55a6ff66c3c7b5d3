//! The flush thread. The flusher runs on a thread of its own, so that no sink's work can delay a tick.

use std::io;
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot, watch};

use crate::flush::{Flusher, FlusherInputs, StopStep};
use crate::supervise::Part;

use super::sinks::Sinks;
use super::{Ending, StartError, StopError};

/// What the daemon controls a flusher with.
#[derive(Clone, Debug)]
pub(super) struct Control {
    deadline: watch::Sender<Option<Instant>>,
    steps: mpsc::Sender<(StopStep, oneshot::Sender<()>)>,
}

/// A control, and its other end for the flusher.
pub(super) fn control() -> (Control, FlusherInputs) {
    let (deadline, its_deadline) = watch::channel(None);
    let (steps, its_steps) = mpsc::channel(1);
    (Control { deadline, steps }, FlusherInputs { deadline: its_deadline, steps: its_steps })
}

impl Control {
    /// Ends the ticks, lets the flusher do a step of a stop, and waits for it.
    async fn step(&self, step: StopStep, deadline: Instant) -> Result<(), StopError> {
        self.deadline.send_replace(Some(deadline));
        let (done, is_done) = oneshot::channel();
        let sent = self.steps.send((step, done)).await;
        sent.map_err(|_| StopError::FlusherFailed)?;
        is_done.await.map_err(|_| StopError::FlusherFailed)
    }
}

/// The running flush thread.
#[derive(Debug)]
pub(super) struct FlushThread {
    control: Control,
    thread: JoinHandle<bool>,
}

impl FlushThread {
    pub(super) fn start(flusher: Flusher, control: Control, part: &Part) -> Result<(FlushThread, Sinks), StartError> {
        let cannot = |error: io::Error| StartError(format!("cannot start the flush thread: {error}"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(cannot)?;
        let (pass_on, sinks) = oneshot::channel();
        let run = move |_: &Part| {
            let (sinks, is_closed) = runtime.block_on(flusher.run());
            if let Err(sinks) = pass_on.send(sinks) {
                // The daemon was dropped: nobody waits for a delivery.
                sinks.into_iter().for_each(|sink| drop(runtime.block_on(sink.finish(Instant::now()))));
            }
            is_closed
        };
        let thread = part.thread("flush", run).map_err(cannot)?;
        Ok((FlushThread { control, thread }, Sinks::new(sinks)))
    }

    /// Makes the listeners read what the kernel holds, and then nothing more, in half of the time that is left.
    pub(super) fn stop_listeners(&self, deadline: Instant) -> Ending {
        let control = self.control.clone();
        let now = Instant::now();
        let reading = now + deadline.saturating_duration_since(now) / 2;
        Box::pin(async move { control.step(StopStep::StopListeners(reading), deadline).await })
    }

    /// Closes the last interval, or saves it for another process, and ends the workers, then the thread: it passes the sinks on.
    pub(super) async fn stop(self, deadline: Instant, is_handed_over: bool) -> Result<(), StopError> {
        let FlushThread { control, thread } = self;
        let last = if is_handed_over { StopStep::KeepLastInterval } else { StopStep::CloseLastInterval };
        let closed = control.step(last, deadline).await;
        drop(control);
        // Nothing is left to do for it.
        let joined = tokio::task::spawn_blocking(move || thread.join()).await;
        if matches!(joined, Ok(Ok(true))) { closed } else { Err(StopError::FlusherFailed) }
    }
}
