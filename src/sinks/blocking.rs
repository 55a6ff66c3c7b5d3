//! Work that may block its thread. Files and pipes are written on a thread of the blocking pool, and a delivery that
//! outlived its deadline is waited for, not written a second time. Encoding that takes long runs where it is called.

use std::io;
use std::sync::Arc;

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::{JoinError, JoinHandle, block_in_place, spawn_blocking};

use crate::snapshot::{Snapshot, SnapshotId};

use super::{Receipt, SinkError};

/// Runs work that takes long, such as encoding an interval. On a runtime of several threads, other tasks continue on another
/// one meanwhile; on a current-thread runtime they wait.
pub(super) fn run_in_place<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => block_in_place(work),
        _ => work(),
    }
}

/// The result of work on another thread. A panic there goes on here: the driver gives the interval up, and opens the sink
/// anew.
///
/// # Errors
/// If the runtime ends.
pub(super) fn joined<T>(result: Result<T, JoinError>) -> Result<T, SinkError> {
    result.map_err(|error| match error.try_into_panic() {
        Ok(payload) => std::panic::resume_unwind(payload),
        Err(error) => SinkError::new(format!("the work has no end: {error}")),
    })
}

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
    busy: Option<(SnapshotId, Work<W>)>,
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
                let (writer, outcome) = joined(written)?;
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
    use crate::aggregate::Sum;
    use crate::memory::Memory;
    use crate::protocol::Kind;
    use crate::series::Series;
    use crate::sinks::graphite::EtsyNames;
    use crate::sinks::{Opt, OptionVisitor, SinkContext, SinkKind};
    use crate::snapshot::CounterPoint;

    /// Sets the option `url`.
    struct SetUrl(String);

    impl OptionVisitor for SetUrl {
        fn field(&mut self, key: &'static str, _: &'static str, field: Opt<'_>) {
            if let (Opt::Url(url), "url") = (field, key) {
                url.clone_from(&self.0);
            }
        }
        fn in_table(&mut self, _: &'static str, _: &mut dyn FnMut(&mut dyn OptionVisitor)) {}
        fn require_one(&mut self, _: &'static str, _: bool, _: &str) {}
        fn require(&mut self, _: &'static str, _: Result<(), String>) {}
        fn profile(&self) -> &'static str {
            "etsy"
        }
    }

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

    #[tokio::test]
    async fn a_part_of_an_interval_is_taken_for_no_other_part_of_it() {
        let written = Arc::default();
        let mut writer = Blocking::new(Slow(Arc::clone(&written)));
        let [one, two] = [1, 2].map(|part| Arc::new(Snapshot { sequence: 7, part, end: 1.0, ..Snapshot::default() }));
        let cut_short = tokio::time::timeout(Duration::from_millis(10), writer.deliver(&one)).await;
        assert!(cut_short.is_err());
        writer.deliver(&two).await.expect("written");
        assert_eq!(*written.lock().expect("no panic"), [1.0, 1.0]);
    }

    #[test]
    fn sinks_that_encode_in_place_deliver_on_a_current_thread_runtime_too() {
        let series = Series::new(Kind::Counter, "a", &[]);
        let counters = vec![CounterPoint { series, sum: Sum::default() }];
        let snapshot = Arc::new(Snapshot { sequence: 1, counters, ..Snapshot::default() });
        let receiver = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = receiver.local_addr().expect("bound");
        drop(receiver);
        let second = Duration::from_secs(1);
        let context = SinkContext {
            name: "sink".into(),
            timeout: second,
            interval: second,
            profile: "etsy",
            etsy: EtsyNames::default(),
            max_series: 10,
            ports: Default::default(),
            aggregates: Vec::new(),
            memory: Memory::unlimited(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        for kind in ["datadog", "otlp"] {
            let mut kind = SinkKind::from_name(kind).expect("it is built in");
            let spec = kind.spec_mut();
            spec.options(&mut SetUrl(format!("http://{address}")));
            let mut sink = spec.open(&context).expect("a sink");
            let error = runtime.block_on(sink.deliver(&snapshot)).expect_err("nobody listens there");
            assert!(error.what.contains(&address.to_string()), "{error}");
        }
    }
}
