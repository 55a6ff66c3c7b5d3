//! The relays.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::memory::Memory;
use crate::net::relay::{self, RelayHandle, RelaySpec, RelayStats};
use crate::supervise::Supervisor;

use super::thread::join_by;
use super::{Ending, StartError};

/// How often the queues are looked at while they empty.
const POLL: Duration = Duration::from_millis(2);

/// The running relays: each ends when the last worker has dropped its handle.
#[derive(Debug)]
pub(super) struct Relays {
    stats: Vec<RelayStats>,
    threads: Vec<JoinHandle<()>>,
}

impl Relays {
    pub(super) fn start(
        relays: &[RelaySpec],
        memory: &Memory,
        supervisor: &Supervisor,
    ) -> Result<(Relays, Vec<RelayHandle>), StartError> {
        let mut running = Relays { stats: Vec::new(), threads: Vec::new() };
        let mut handles = Vec::new();
        for options in relays {
            let (handle, stats, thread) = relay::start(options.clone(), memory, supervisor)
                .map_err(|error| StartError(format!("cannot start the relay {}: {error}", options.name)))?;
            handles.push(handle);
            running.stats.push(stats);
            running.threads.push(thread);
        }
        Ok((running, handles))
    }

    /// Views of their accounts.
    pub(super) fn stats(&self) -> Vec<RelayStats> {
        self.stats.clone()
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
        for thread in self.threads {
            join_by(deadline, "a relay", move || thread.join()).await;
        }
    }
}
