//! The dead man's switch: requests an external URL every minute, but only while the daemon is healthy.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper::Method;
use tokio::sync::watch;

use crate::http_client::HttpClient;
use crate::supervise::{Part, caught};

use super::DEADLINE;

/// Checks the daemon's health; `None`, or the problem.
pub type Watchdog = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Option<&'static str>> + Send>> + Send + Sync>;

/// Time between two requests.
const EVERY: Duration = Duration::from_secs(60);

/// What requests it.
pub(super) struct DeadManSwitch {
    pub(super) url: String,
    pub(super) client: HttpClient,
    pub(super) stop: watch::Receiver<bool>,
    pub(super) watchdog: Watchdog,
    /// How many receivers cannot be reached.
    pub(super) failing: Arc<AtomicUsize>,
    pub(super) part: Part,
}

impl DeadManSwitch {
    pub(super) async fn run(mut self) {
        while let Err(panic) = caught(self.request()).await {
            self.part.restart(panic).await;
        }
    }

    async fn request(&mut self) {
        let mut withheld = None;
        loop {
            self.part.alive();
            let problem = match (self.watchdog)().await {
                None if self.failing.load(Ordering::Relaxed) > 0 => Some("alerts cannot be delivered"),
                problem => problem,
            };
            if problem != withheld
                && let Some(problem) = problem
            {
                tracing::warn!(problem, "`presence.snitch_url` is not requested while there is a problem");
            }
            withheld = problem;
            if problem.is_none() {
                match self.client.ask(Method::GET, &self.url, None, None, DEADLINE).await {
                    Ok(answer) if answer.is_good() => tracing::debug!("`presence.snitch_url` was requested"),
                    Ok(answer) => tracing::warn!(status = answer.status, "`presence.snitch_url` answers with an error"),
                    Err(error) => tracing::warn!(%error, "`presence.snitch_url` cannot be reached"),
                }
            }
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                _ = self.stop.wait_for(|stop| *stop) => return,
            }
        }
    }
}
