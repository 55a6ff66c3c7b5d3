//! The relays.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::memory::Memory;
use crate::net::relay::{self, RelaySpec, RelayStats};
use crate::supervise::Supervisor;

use super::reload::Relaying;
use super::thread::join_by;
use super::{Ending, StartError};

/// How often the queues are looked at while they empty.
const POLL: Duration = Duration::from_millis(2);

/// The running relays: each ends when the last worker has dropped its handle.
#[derive(Debug)]
pub(super) struct Relays(SharedRelays);

/// The accounts of the relays, and the threads that a stop waits for. Clones are one.
#[derive(Clone, Debug, Default)]
pub(super) struct SharedRelays(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    stats: Vec<RelayStats>,
    threads: Vec<JoinHandle<()>>,
}

impl SharedRelays {
    fn lock(&self) -> MutexGuard<'_, Known> {
        // Every change leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These are the relays from now on; `more` are threads of new ones.
    pub(super) fn replace(&self, stats: Vec<RelayStats>, more: Vec<JoinHandle<()>>) {
        let mut known = self.lock();
        known.stats = stats;
        known.threads.retain(|thread| !thread.is_finished());
        known.threads.extend(more);
    }
}

impl Relays {
    pub(super) fn start(
        relays: &[RelaySpec],
        memory: &Memory,
        supervisor: &Supervisor,
    ) -> Result<(Relays, Vec<Relaying>), StartError> {
        let (mut all, mut threads) = (Vec::new(), Vec::new());
        for options in relays {
            let (handle, stats, thread) = relay::start(options.clone(), memory, supervisor)
                .map_err(|error| StartError(format!("cannot start the relay {}: {error}", options.name)))?;
            all.push(Relaying { spec: options.clone(), handle, stats });
            threads.push(thread);
        }
        let running = SharedRelays::default();
        running.replace(all.iter().map(|relay| relay.stats.clone()).collect(), threads);
        Ok((Relays(running), all))
    }

    /// What a reload changes of them.
    pub(super) fn shared(&self) -> SharedRelays {
        self.0.clone()
    }

    /// Views of their accounts.
    pub(super) fn stats(&self) -> Vec<RelayStats> {
        self.0.lock().stats.clone()
    }

    /// Waits until nothing is queued, for half of the time that is left: usually that takes milliseconds, and then the last
    /// account says where everything went.
    pub(super) fn empty_queues(&self, deadline: Instant) -> Ending {
        let stats = self.stats();
        Box::pin(async move {
            let now = Instant::now();
            let until = now + deadline.saturating_duration_since(now) / 2;
            while stats.iter().any(|relay| relay.account().queued > 0) && Instant::now() < until {
                tokio::time::sleep(POLL).await;
            }
            Ok(())
        })
    }

    /// Waits until the threads have sent what they hold.
    pub(super) async fn stop(self, deadline: Instant) {
        let threads = std::mem::take(&mut self.0.lock().threads);
        for thread in threads {
            join_by(deadline, "a relay", move || thread.join()).await;
        }
    }
}
