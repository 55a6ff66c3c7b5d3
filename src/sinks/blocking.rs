//! Writing where a write may block: files and pipes. The writer works on a thread of the blocking pool, and a
//! delivery that outlived its deadline is waited for, not written a second time.

use std::io;
use std::sync::Arc;

use tokio::task::{JoinHandle, spawn_blocking};

use crate::snapshot::Snapshot;

use super::{Receipt, SinkError};

/// Something that writes a snapshot and may block.
pub(super) trait Writer: Send + 'static {
    /// Writes a snapshot whole.
    fn write(&mut self, snapshot: &Snapshot) -> io::Result<()>;
}

/// A write at work, which brings the writer back.
type Work<W> = JoinHandle<(W, io::Result<()>)>;

/// A writer, here or at work.
pub(super) struct Blocking<W> {
    idle: Option<W>,
    /// The snapshot being written, and the work.
    busy: Option<(u64, Work<W>)>,
}

impl<W: Writer> Blocking<W> {
    pub(super) fn new(writer: W) -> Blocking<W> {
        Blocking { idle: Some(writer), busy: None }
    }

    pub(super) async fn deliver(&mut self, snapshot: &Arc<Snapshot>) -> Result<Receipt, SinkError> {
        loop {
            if let Some((sequence, work)) = &mut self.busy {
                let written = work.await;
                let sequence = *sequence;
                self.busy = None;
                let (writer, outcome) =
                    written.map_err(|error| SinkError::new(format!("the writer failed: {error}")))?;
                self.idle = Some(writer);
                if sequence == snapshot.sequence {
                    return outcome.map(|()| Receipt::default()).map_err(SinkError::from);
                }
            }
            let Some(mut writer) = self.idle.take() else {
                return Err(SinkError::new("the writer is gone"));
            };
            let snapshot = Arc::clone(snapshot);
            let sequence = snapshot.sequence;
            let work = spawn_blocking(move || {
                let outcome = writer.write(&snapshot);
                (writer, outcome)
            });
            self.busy = Some((sequence, work));
        }
    }
}
