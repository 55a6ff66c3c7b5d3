//! Accounts that others keep and anybody may read at any time, without asking a worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::capture::CaptureCounter;
use crate::log::Log;
use crate::net::relay::RelayStats;
use crate::sinks::SinkStats;
use crate::telemetry::{Ledger, ManagementAccount};

/// Who keeps them.
#[derive(Clone, Debug, Default)]
pub(super) struct Sources {
    pub(super) sinks: Arc<[SinkStats]>,
    pub(super) relays: Arc<[RelayStats]>,
    pub(super) log: Option<Log>,
    pub(super) capture: Option<CaptureCounter>,
    pub(super) http_requests: Arc<AtomicU64>,
}

impl Sources {
    /// Puts what they have counted since the start into a ledger.
    pub(super) fn read_into(&self, ledger: &mut Ledger) {
        ledger.sinks = self.sinks.iter().map(|sink| (sink.name().to_string(), sink.account())).collect();
        ledger.relays = self.relays.iter().map(|relay| (relay.name().to_string(), relay.account())).collect();
        ledger.log = self.log.as_ref().map(Log::account).unwrap_or_default();
        ledger.capture = self.capture.as_ref().map(CaptureCounter::account);
        ledger.management = ManagementAccount { http_requests: self.http_requests.load(Ordering::Relaxed) };
    }
}
