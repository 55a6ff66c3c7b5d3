//! Threads of parts, which end by themselves when their input has closed.

use std::thread;
use std::time::{Duration, Instant};

/// Least time for a thread to end, however late it is: it may have to save its state.
const LEAST_TIME: Duration = Duration::from_millis(100);

/// Waits for a thread, which `join` joins, to end by the deadline, and returns its result. A thread that does not end is
/// left alone, and logged.
pub(super) async fn join_by<T: Send + 'static>(
    deadline: Instant,
    what: &str,
    join: impl FnOnce() -> thread::Result<T> + Send + 'static,
) -> Option<T> {
    let deadline = deadline.max(Instant::now() + LEAST_TIME);
    match tokio::time::timeout_at(deadline.into(), tokio::task::spawn_blocking(join)).await {
        Ok(Ok(Ok(result))) => return Some(result),
        Ok(Ok(Err(_)) | Err(_)) => tracing::error!("{what} failed; its message is above"),
        Err(_) => tracing::error!("{what} did not end within `shutdown_grace`; it is left behind"),
    }
    None
}
