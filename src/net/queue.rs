//! How full the receive buffers of a UDP listener are. Only the peak tells: it comes just before a worker reads, or while
//! one does not read at all. So a worker looks before it reads what has piled up, and the flusher looks at times of its own.
//!
//! The kernel drops a datagram when the buffer is full, so loss shows here before it happens.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use socket2::Socket;

use crate::sys::{self, SocketMemory};
use crate::telemetry::QUEUE_WARNING;

use super::Transport;

/// The receive buffers of a listener's workers. Anybody may look at them; the fullest counts.
#[derive(Debug)]
pub(super) struct Queues {
    url: String,
    /// Empty where the kernel keeps no account: unix senders wait instead, and a stream slows its sender down.
    sockets: Vec<Arc<Socket>>,
    /// The most that was seen, 0 to 1, as bits: of numbers that are not negative the bits have the same order.
    peak: AtomicU64,
    /// Whether the log was warned since the peak was taken.
    is_told: AtomicBool,
}

impl Queues {
    pub(super) fn new(url: &str, transport: Transport, sockets: &[Arc<Socket>]) -> Queues {
        let sockets = if transport == Transport::Udp { sockets.to_vec() } else { Vec::new() };
        Queues { url: url.to_string(), sockets, peak: AtomicU64::new(0), is_told: AtomicBool::new(false) }
    }

    /// Looks at the socket number `n`, if the kernel says something of it.
    pub(super) fn look(&self, n: usize) -> Option<SocketMemory> {
        let memory = sys::socket_memory(self.sockets.get(n)?).ok()?;
        let fill = memory.fill();
        if fill.to_bits() > self.peak.load(Ordering::Relaxed) {
            self.note(fill);
        }
        Some(memory)
    }

    /// Looks at all of them.
    pub(super) fn look_at_all(&self) -> impl Iterator<Item = Option<SocketMemory>> {
        (0..self.sockets.len()).map(|n| self.look(n))
    }

    #[cold]
    fn note(&self, fill: f64) {
        self.peak.fetch_max(fill.to_bits(), Ordering::Relaxed);
        if fill >= QUEUE_WARNING && !self.is_told.swap(true, Ordering::Relaxed) {
            // At once, by whoever sees it: the next tick may come after the first loss.
            tracing::warn!(
                listener = self.url,
                full = %format_args!("{:.0} %", fill * 100.0),
                "the receive buffer is nearly full: the kernel drops datagrams when it is; raise `receive_buffer` or \
                 `workers`"
            );
        }
    }

    /// The peak since it was taken last, 0 to 1.
    pub(super) fn peak(&self) -> f64 {
        f64::from_bits(self.peak.load(Ordering::Relaxed))
    }

    /// The peak, and begins anew.
    pub(super) fn take_peak(&self) -> f64 {
        self.is_told.store(false, Ordering::Relaxed);
        f64::from_bits(self.peak.swap(0, Ordering::Relaxed))
    }
}

/// Looks at the receive buffers of a listener from outside, as long as that is there.
#[derive(Clone, Debug)]
pub struct QueueWatch(Weak<Queues>);

impl QueueWatch {
    pub(super) fn of(queues: &Arc<Queues>) -> QueueWatch {
        QueueWatch(Arc::downgrade(queues))
    }

    /// Notes how full they are, and returns that of the fullest, 0 to 1. `None` if there is nothing to look at, and never will
    /// be.
    pub fn look(&self) -> Option<f64> {
        let queues = self.0.upgrade().filter(|queues| !queues.sockets.is_empty())?;
        Some(queues.look_at_all().flatten().map(SocketMemory::fill).fold(0.0, f64::max))
    }
}
