//! The dead man's switch: requests an external URL every minute, but only while the daemon is healthy.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper::Method;
use tokio::sync::watch;

use crate::http_client::HttpClient;

use super::DEADLINE;

/// Checks the daemon's health; `None`, or the problem.
pub type Watchdog = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Option<&'static str>> + Send>> + Send + Sync>;

/// Time between two requests.
const EVERY: Duration = Duration::from_secs(60);

pub(super) async fn run(
    url: String,
    client: HttpClient,
    mut stop: watch::Receiver<bool>,
    watchdog: Watchdog,
    failing: Arc<AtomicUsize>,
) {
    let mut withheld = None;
    loop {
        let problem = match watchdog().await {
            None if failing.load(Ordering::Relaxed) > 0 => Some("alerts cannot be delivered"),
            problem => problem,
        };
        if problem != withheld
            && let Some(problem) = problem
        {
            tracing::warn!(problem, "`presence.snitch_url` is not requested while there is a problem");
        }
        withheld = problem;
        if problem.is_none() {
            match client.ask(Method::GET, &url, None, None, DEADLINE).await {
                Ok(answer) if answer.is_good() => tracing::debug!("`presence.snitch_url` was requested"),
                Ok(answer) => tracing::warn!(status = answer.status, "`presence.snitch_url` answers with an error"),
                Err(error) => tracing::warn!(%error, "`presence.snitch_url` cannot be reached"),
            }
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}
