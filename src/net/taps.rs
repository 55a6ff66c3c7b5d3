//! What gets a copy of everything that is read.

use std::net::SocketAddr;

use crate::aggregate::Shard;
use crate::capture::CaptureWriter;
use crate::presence_driver::PresenceHandle;

use super::relay::RelayHandle;

/// Who else wants to know what comes in.
#[derive(Clone, Debug)]
pub(super) struct Taps {
    pub(super) presence: Option<PresenceHandle>,
    pub(super) capture: Option<CaptureWriter>,
    pub(super) relays: Vec<RelayHandle>,
}

impl Taps {
    /// Passes on what lines said of presence.
    pub(super) fn send_signals(&self, shard: &mut Shard) {
        for signal in shard.take_signals() {
            if let Some(presence) = &self.presence {
                presence.signal(signal);
            }
        }
    }

    /// Whether senders' addresses are wanted of everything for now.
    pub(super) fn wants_senders(&self) -> bool {
        self.presence.as_ref().is_some_and(PresenceHandle::wants_senders)
    }

    pub(super) fn copy(&self, at: f64, bytes: &[u8], from: Option<SocketAddr>, via: &'static str) {
        if let Some(capture) = &self.capture {
            capture.put(at, bytes, from, via);
        }
        for relay in &self.relays {
            relay.put(bytes);
        }
    }
}
