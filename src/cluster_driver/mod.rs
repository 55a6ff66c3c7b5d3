//! Connects the machines of `cluster` with a bus, with the flusher of this node, and with time.
//!
//! ```text
//! flusher ── own intervals ──► edge thread ──► bus ──► owner thread ── merged intervals ──► flusher ──► sinks
//! ```
//!
//! An edge that is nothing else has the owner's thread, too: it owns nothing, says that this node lives, and watches the others.
//! Each of the two threads owns its machine. Calls of the bus are tasks, whose answers come back by a queue; so a bus that
//! hangs holds up neither thread.

mod changes;
mod edge;
mod emissions;
mod failures;
mod owner;
mod problems;
mod state;
mod status;
mod watched;

use std::time::{Duration, Instant};

pub use edge::{EdgeDriver, EdgeDriverOptions};
pub use owner::{OwnerDriver, OwnerDriverOptions};
pub use state::EdgeState;
pub use status::{BoardOptions, ClusterStatus, EdgeStatus, StatusBoard};

/// The clocks of a node: a monotonic one that begins with its start, and the wall clock, both in seconds.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Default for Clock {
    fn default() -> Clock {
        Clock(Instant::now())
    }
}

impl Clock {
    fn now(self) -> f64 {
        self.0.elapsed().as_secs_f64()
    }

    /// How long it is until a time of this clock, at least a millisecond.
    fn until(self, time: f64, longest: Duration) -> Duration {
        let secs = (time - self.now()).clamp(0.001, longest.as_secs_f64());
        Duration::from_secs_f64(secs)
    }
}
