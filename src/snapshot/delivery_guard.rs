//! Tells when every sink is done with an interval: it is delivered, on disk, or dropped and counted.

use std::fmt;
use std::sync::Arc;

/// What each copy of an interval on its way to a sink holds. When the last one is gone, no sink has the interval any more.
#[derive(Clone)]
pub struct DeliveryGuard {
    _guard: Arc<Guard>,
}

struct Guard(Option<Box<dyn FnOnce() + Send + Sync>>);

impl DeliveryGuard {
    /// Runs `done` once the last clone of this is dropped, wherever that happens; so it must not block.
    pub fn new(done: impl FnOnce() + Send + Sync + 'static) -> DeliveryGuard {
        DeliveryGuard { _guard: Arc::new(Guard(Some(Box::new(done)))) }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            done();
        }
    }
}

impl fmt::Debug for DeliveryGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeliveryGuard").finish_non_exhaustive()
    }
}
