//! Tells when every sink is done with an interval: it is delivered, on disk, or dropped and counted. Until the sinks were
//! given it, that it is gone says nothing.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What each copy of an interval on its way to a sink holds. When the last one is gone, no sink has the interval any more.
#[derive(Clone)]
pub struct DeliveryGuard {
    guard: Arc<Guard>,
}

struct Guard {
    is_offered: AtomicBool,
    done: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl DeliveryGuard {
    /// Runs `done` once it is [offered](DeliveryGuard::offered) and the last clone of this is dropped, wherever that happens; so
    /// `done` must not block.
    pub fn new(done: impl FnOnce() + Send + Sync + 'static) -> DeliveryGuard {
        let (is_offered, done) = (AtomicBool::new(false), Some(Box::new(done) as Box<_>));
        DeliveryGuard { guard: Arc::new(Guard { is_offered, done }) }
    }

    /// All sinks have a clone.
    pub fn offered(&self) {
        self.guard.is_offered.store(true, Ordering::Release);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(done) = self.done.take().filter(|_| self.is_offered.load(Ordering::Acquire)) {
            done();
        }
    }
}

impl fmt::Debug for DeliveryGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeliveryGuard").finish_non_exhaustive()
    }
}
