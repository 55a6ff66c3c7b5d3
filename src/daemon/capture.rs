//! The capture of everything that is received (`--capture`).

use std::io;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::Instant;

use crate::capture::{self, CaptureSummary, CaptureWriter};
use crate::memory::Memory;
use crate::supervise::{Role, Supervisor};
use crate::sys::unix_time;

use super::StartError;
use super::thread::join_by;

/// A running capture: it ends when the last writer is dropped.
#[derive(Debug)]
pub(super) struct Capture {
    thread: JoinHandle<CaptureSummary>,
}

impl Capture {
    /// Starts one in this file, if there is one.
    pub(super) fn start(
        path: Option<&Path>,
        memory: &Memory,
        supervisor: &Supervisor,
    ) -> Result<Option<(Capture, CaptureWriter)>, StartError> {
        let Some(path) = path else { return Ok(None) };
        let cannot = |error: io::Error| StartError(format!("cannot write {}: {error}", path.display()));
        let part = supervisor.part("capture", Role::Ordinary);
        let (writer, thread) = capture::start(path, unix_time(), None, memory, &part).map_err(cannot)?;
        Ok(Some((Capture { thread }, writer)))
    }

    /// Waits until the rest is written.
    pub(super) async fn stop(self, deadline: Instant) {
        let Some(captured) = join_by(deadline, "the capture", move || self.thread.join()).await else { return };
        match captured.problem {
            None => tracing::info!(rows = captured.rows, lost = captured.lost, "the capture is written"),
            Some(problem) => {
                tracing::error!(rows = captured.rows, lost = captured.lost, problem, "the capture is not whole");
            }
        }
    }
}
