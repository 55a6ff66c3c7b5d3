//! What receive workers pass on besides aggregating: heartbeats to presence, raw bytes to the capture and the relays.

use std::net::SocketAddr;

use crate::aggregate::Shard;
use crate::capture::CaptureWriter;
use crate::presence_driver::PresenceHandle;

use super::relay::RelayHandle;

/// Where workers pass on what they read. None of these ever makes a worker wait: what does not fit is counted there.
#[derive(Clone, Debug, Default)]
pub struct Taps {
    /// Gets heartbeats.
    pub presence: Option<PresenceHandle>,
    /// Gets everything that is received, with times.
    pub capture: Option<CaptureWriter>,
    /// Each gets everything that is received.
    pub relays: Vec<RelayHandle>,
}

impl Taps {
    /// Passes the heartbeats of the last lines on.
    pub(super) fn send_signals(&self, shard: &mut Shard) {
        for signal in shard.take_signals() {
            if let Some(presence) = &self.presence {
                presence.signal(signal);
            }
        }
    }

    /// Whether presence wants the sender of every datagram for now.
    pub(super) fn wants_senders(&self) -> bool {
        self.presence.as_ref().is_some_and(PresenceHandle::wants_senders)
    }

    /// Copies raw bytes, which came at `at` Unix seconds over the transport `via`.
    pub(super) fn copy(&self, at: f64, bytes: &[u8], from: Option<SocketAddr>, via: &'static str) {
        if let Some(capture) = &self.capture {
            capture.put(at, bytes, from, via);
        }
        for relay in &self.relays {
            relay.put(bytes);
        }
    }
}
