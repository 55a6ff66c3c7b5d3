//! The clocks. Both are those of a simulation where one is: the monotonic one while tokio's is paused, the wall clock once a
//! simulation has set it for its thread. In a daemon neither can be.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

#[cfg(feature = "internals")]
pub use simulated::set_unix_time;

/// The monotonic clock.
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// The time since then; none if that is still to come.
pub fn since(then: Instant) -> Duration {
    now().saturating_duration_since(then)
}

/// Wall time in Unix seconds; 0 if the clock is before 1970.
pub fn unix_time() -> f64 {
    #[cfg(feature = "internals")]
    if let Some(now) = simulated::unix_time() {
        return now;
    }
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(feature = "internals")]
mod simulated {
    use std::cell::Cell;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Instant;

    /// Whether any thread has one.
    static IS_THERE: AtomicBool = AtomicBool::new(false);

    thread_local! {
        /// The wall time at a monotonic one.
        static WALL: Cell<Option<(f64, Instant)>> = const { Cell::new(None) };
    }

    /// Sets this thread's wall clock, which goes on as its monotonic one does; `None` is that of the system.
    pub fn set_unix_time(secs: Option<f64>) {
        IS_THERE.store(true, Ordering::Relaxed);
        WALL.set(secs.map(|secs| (secs, super::now())));
    }

    pub(super) fn unix_time() -> Option<f64> {
        if !IS_THERE.load(Ordering::Relaxed) {
            return None;
        }
        WALL.get().map(|(secs, then)| secs + super::since(then).as_secs_f64())
    }
}
