//! What receive workers pass on besides aggregating: heartbeats to presence, raw bytes to the capture, the relays,
//! and whoever looks at lines as they arrive.

use std::net::SocketAddr;

use crate::aggregate::Shard;
use crate::capture::CaptureWriter;
use crate::presence_driver::PresenceHandle;
use crate::protocol::Options;
use crate::tail::{TailBatch, TailTap};

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
    /// Gets some of the lines while somebody looks.
    pub tail: Option<TailTap>,
}

/// What a shard had read before a batch.
#[derive(Clone, Copy)]
pub(super) struct Progress {
    lines: u64,
    malformed: u64,
}

impl Progress {
    pub(super) fn of(shard: &mut Shard) -> Progress {
        let lines = &shard.tally().lines;
        Progress { lines: lines.read, malformed: lines.malformed.total() }
    }

    /// What it has read since, at Unix seconds.
    pub(super) fn batch(self, shard: &mut Shard, at: f64) -> TailBatch {
        let now = Progress::of(shard);
        // An interval that is closed in between begins anew.
        TailBatch { at, lines: now.lines.saturating_sub(self.lines), is_malformed: now.malformed != self.malformed }
    }
}

impl Taps {
    /// The same for a worker of a listener, whose lines are read with these options.
    pub(super) fn of_listener(&self, url: &str, options: Options) -> Taps {
        let tail = self.tail.as_ref().map(|tail| tail.of_listener(url, options));
        Taps { tail, ..self.clone() }
    }

    /// Who gets lines, if somebody looks: one relaxed load.
    #[inline]
    pub(super) fn tail(&self) -> Option<&TailTap> {
        self.tail.as_ref().filter(|tail| tail.is_on())
    }

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
