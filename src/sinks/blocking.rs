//! Writing where a write may block: files and pipes. The writer works on a thread of the blocking pool, and a
//! delivery that outlived its deadline is waited for, not written a second time.

use std::io;
use std::sync::Arc;

use tokio::task::{JoinHandle, spawn_blocking};

use crate::snapshot::Snapshot;

use super::{Receipt, SinkError};

/// Something that writes a snapshot and may block.
pub(super) trait Writer: Send + 'static {
    /// Writes a snapshot whole; what it left out.
    fn write(&mut self, snapshot: &Snapshot) -> io::Result<Receipt>;
}

/// A write at work, which brings the writer back.
type Work<W> = JoinHandle<(W, io::Result<Receipt>)>;

/// A writer, here or at work.
pub(super) struct Blocking<W> {
    idle: Option<W>,
    /// The snapshot being written, and the work.
    busy: Option<((u64, u64), Work<W>)>,
}

impl<W: Writer> Blocking<W> {
    pub(super) fn new(writer: W) -> Blocking<W> {
        Blocking { idle: Some(writer), busy: None }
    }

    pub(super) async fn deliver(&mut self, snapshot: &Arc<Snapshot>) -> Result<Receipt, SinkError> {
        loop {
            if let Some((identity, work)) = &mut self.busy {
                let written = work.await;
                let identity = *identity;
                self.busy = None;
                let (writer, outcome) =
                    written.map_err(|error| SinkError::new(format!("the writer failed: {error}")))?;
                self.idle = Some(writer);
                if identity == snapshot.identity() {
                    return outcome.map_err(SinkError::from);
                }
            }
            let Some(mut writer) = self.idle.take() else {
                return Err(SinkError::new("the writer is gone"));
            };
            let snapshot = Arc::clone(snapshot);
            let identity = snapshot.identity();
            let work = spawn_blocking(move || {
                let outcome = writer.write(&snapshot);
                (writer, outcome)
            });
            self.busy = Some((identity, work));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use super::*;

    /// Takes its time, and remembers the ends of what it wrote.
    struct Slow(Arc<Mutex<Vec<f64>>>);

    impl Writer for Slow {
        fn write(&mut self, snapshot: &Snapshot) -> io::Result<Receipt> {
            std::thread::sleep(Duration::from_millis(100));
            self.0.lock().expect("no panic").push(snapshot.end);
            Ok(Receipt::default())
        }
    }

    #[tokio::test]
    async fn a_write_that_outlived_its_deadline_is_taken_for_no_other_interval_of_that_number() {
        let written = Arc::default();
        let mut writer = Blocking::new(Slow(Arc::clone(&written)));
        // What a spool holds of an earlier start has numbers that come again.
        let [earlier, later] = [1.0, 2.0].map(|end| Arc::new(Snapshot { sequence: 7, end, ..Snapshot::default() }));
        let cut_short = tokio::time::timeout(Duration::from_millis(10), writer.deliver(&earlier)).await;
        assert!(cut_short.is_err());
        writer.deliver(&later).await.expect("written");
        assert_eq!(*written.lock().expect("no panic"), [1.0, 2.0]);
    }
}
