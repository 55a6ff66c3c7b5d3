//! Accounts that others keep and anybody may read at any time, without asking a worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::capture::CaptureCounter;
use crate::history::History;
use crate::log::Log;
use crate::memory::{Holder, Memory};
use crate::net::relay::RelayStats;
use crate::notify::TargetList;
use crate::ports::Ports;
use crate::sinks::SinkStats;
use crate::state::{PartStatus, StateFolder};
use crate::supervise::Supervisor;
use crate::telemetry::{HolderAccount, Ledger, ManagementAccount, MemoryAccount, Reasons, StateAccount};

use super::cluster::ClusterProblems;

/// Who keeps them.
#[derive(Clone, Debug, Default)]
pub(super) struct Sources {
    pub(super) sinks: Arc<[SinkStats]>,
    pub(super) relays: Arc<[RelayStats]>,
    pub(super) targets: TargetList,
    pub(super) log: Option<Log>,
    pub(super) capture: Option<CaptureCounter>,
    pub(super) ports: Ports,
    pub(super) http_requests: Arc<AtomicU64>,
    pub(super) memory: Memory,
    pub(super) history: History,
    pub(super) parts: Option<Supervisor>,
    pub(super) cluster: Option<ClusterProblems>,
    pub(super) state: StateFolder,
}

impl Sources {
    /// Puts what they have counted since the start into a ledger.
    pub(super) fn read_into(&self, ledger: &mut Ledger) {
        ledger.sinks = self.sinks.iter().map(|sink| (sink.name().to_string(), sink.account())).collect();
        ledger.relays = self.relays.iter().map(|relay| (relay.name().to_string(), relay.account())).collect();
        ledger.notify = self.targets.accounts();
        ledger.parts = self.parts.as_ref().map(Supervisor::accounts).unwrap_or_default();
        ledger.log = self.log.as_ref().map(Log::account).unwrap_or_default();
        ledger.capture = self.capture.as_ref().map(CaptureCounter::account);
        ledger.ports = self.ports.accounts();
        ledger.management = ManagementAccount { http_requests: self.http_requests.load(Ordering::Relaxed) };
        ledger.history = self.history.account();
        ledger.state = self.state.status().parts.iter().map(|(part, own)| (part.clone(), account_of(own))).collect();
        self.read_memory(&mut ledger.memory);
    }

    /// Puts the levels of the memory into an account; its counters are the workers'.
    fn read_memory(&self, account: &mut MemoryAccount) {
        let memory = &self.memory;
        (account.live, account.rss) = memory.measured();
        account.max = memory.max().unwrap_or(0);
        account.level = memory.level().number().into();
        account.peak_level = memory.peak().number().into();
        let holder = |holder: Holder| HolderAccount {
            bytes: memory.bytes(holder),
            cap: memory.max().map_or(0, |_| memory.cap(holder)),
        };
        account.holders = Holder::ALL.iter().map(|&one| (one.name().to_string(), holder(one))).collect();
    }
}

/// The account of a part of the state folder.
fn account_of(part: &PartStatus) -> StateAccount {
    let mut discarded = Reasons::default();
    part.discarded.iter().for_each(|(reason, count)| discarded.count(*reason, *count));
    StateAccount { written: part.written, bytes: part.bytes, failures: part.failures, discarded }
}
