//! How the daemon is.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::flush::{FlusherHandle, Published};
use crate::notify::Watchdog;
use crate::presence_driver::PresenceHandle;
use crate::supervise::Supervisor;

/// How much later than two intervals a flush may be before it is late, and how long presence may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Share of the datagrams below which the dead man's switch is withheld.
const LEAST_COMPLETENESS: f64 = 0.99;

/// How a running daemon is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// It listens, closes intervals, every part works, and no stop was asked for: what `/ready` answers.
    pub ready: bool,
    /// Intervals are closed in time, and receive workers, the flush and presence answer: what the watchdog of a service
    /// manager is told.
    pub on_time: bool,
}

/// Whether the last flush was too long ago.
pub(super) fn is_late(published: &Published, interval: Duration) -> bool {
    published.at.is_some_and(|at| at.elapsed() > interval * 2 + PATIENCE)
}

/// The condition of the dead man's switch: intervals are closed, hardly anything is dropped, and presence answers.
pub(super) fn watchdog(
    flusher: FlusherHandle,
    interval: Duration,
    presence: Option<PresenceHandle>,
    supervisor: Supervisor,
) -> Watchdog {
    let check = move || {
        let is_alive = supervisor.is_alive();
        let presence = presence.clone();
        let published = flusher.published();
        let is_late = is_late(&published, interval);
        let completeness = published.snapshot.as_ref().map_or(1.0, |snapshot| snapshot.ledger.completeness);
        let check = async move {
            if is_late {
                return Some("intervals are not closed in time");
            }
            if !is_alive {
                return Some("a part of the daemon failed or hangs");
            }
            if completeness < LEAST_COMPLETENESS {
                return Some("the kernel drops datagrams");
            }
            match presence {
                Some(presence) => match tokio::time::timeout(PATIENCE, presence.ask(|_| ())).await {
                    Ok(Ok(())) => None,
                    Ok(Err(_)) | Err(_) => Some("presence does not answer"),
                },
                None => None,
            }
        };
        Box::pin(check) as Pin<Box<dyn Future<Output = _> + Send>>
    };
    Arc::new(check)
}
