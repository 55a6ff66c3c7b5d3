//! The contract of a bus (`src/cluster_bus`): one test for all of them.

mod contract;
#[cfg(feature = "nats")]
mod jetstream;

use std::sync::Arc;
use std::time::Duration;

use systole::internals::cluster_bus::{Bus, MemoryBus, MemoryFault, MemoryOptions};

use contract::{Place, SESSION_MAX_AGE};

/// A bus in memory. Its leader is away for a while, in which some of what it takes is stored and not acknowledged.
struct InMemory(Arc<MemoryBus>);

impl Place for InMemory {
    fn bus(&self, _: usize) -> Arc<dyn Bus> {
        self.0.clone()
    }

    async fn kill_leader(&self) {
        self.0.set_fault(MemoryFault::AnswersLost);
        let bus = self.0.clone();
        tokio::spawn(async move {
            for fault in [MemoryFault::Away, MemoryFault::None] {
                tokio::time::sleep(Duration::from_secs(3)).await;
                bus.set_fault(fault);
            }
        });
    }
}

#[tokio::test(start_paused = true)]
async fn a_bus_in_memory_keeps_the_contract() {
    let options = MemoryOptions { session_max_age: SESSION_MAX_AGE, page: 7, ..MemoryOptions::default() };
    contract::holds(Arc::new(InMemory(MemoryBus::new(options)))).await;
}
