//! Tells when every sink has taken an interval: it is delivered, on disk, or dropped and counted; or the sink fails, and the
//! interval waits in its queue. Until the sinks were given it, that it is gone says nothing.

use std::collections::BTreeSet;
use std::fmt;
use std::mem::take;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What each copy of an interval on its way to a sink holds.
#[derive(Clone)]
pub struct DeliveryGuard(Arc<Guard>);

struct Guard(Mutex<State>);

#[derive(Default)]
struct State {
    /// Sinks that have yet to take it, once they were given it.
    sinks: Option<BTreeSet<String>>,
    done: Option<Box<dyn FnOnce() + Send>>,
}

impl DeliveryGuard {
    /// Runs `done` when no sink is waited for any more, wherever that happens; so it must not block.
    pub fn new(done: impl FnOnce() + Send + 'static) -> DeliveryGuard {
        DeliveryGuard(Arc::new(Guard(Mutex::new(State { sinks: None, done: Some(Box::new(done)) }))))
    }

    /// The sinks of these names are given a copy now.
    pub fn hand_to<'n>(&self, sinks: impl Iterator<Item = &'n str>) {
        self.0.lock().sinks = Some(sinks.map(String::from).collect());
    }

    /// The sink of this name is not waited for any more.
    pub fn let_go(&self, sink: &str) {
        let mut state = self.0.lock();
        let Some(sinks) = &mut state.sinks else { return };
        sinks.remove(sink);
        let done = if sinks.is_empty() { state.done.take() } else { None };
        drop(state);
        if let Some(done) = done {
            done();
        }
    }
}

impl Guard {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Nobody has a copy: all that were given one are done with it.
        let State { sinks, done } = take(&mut *self.lock());
        if let (Some(done), Some(_)) = (done, sinks) {
            done();
        }
    }
}

impl fmt::Debug for DeliveryGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeliveryGuard").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn guard() -> (DeliveryGuard, Arc<AtomicU32>) {
        let done = Arc::new(AtomicU32::new(0));
        let own = Arc::clone(&done);
        (DeliveryGuard::new(move || _ = own.fetch_add(1, Ordering::Relaxed)), done)
    }

    #[test]
    fn it_is_done_once_when_all_sinks_have_let_go() {
        let (guard, done) = guard();
        let copy = guard.clone();
        guard.hand_to(["a", "b"].into_iter());
        guard.let_go("a");
        guard.let_go("a");
        assert_eq!(done.load(Ordering::Relaxed), 0);
        copy.let_go("b");
        drop((guard, copy));
        assert_eq!(done.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn copies_that_are_gone_are_done_if_they_were_given_to_sinks() {
        let (given, done) = guard();
        given.hand_to(["a"].into_iter());
        drop(given);
        assert_eq!(done.load(Ordering::Relaxed), 1);
        let (never_given, done) = guard();
        drop(never_given);
        assert_eq!(done.load(Ordering::Relaxed), 0);
    }
}
