//! The dead man's switch: requests an external URL every minute, but only while the daemon is healthy.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use tokio::sync::watch;

use crate::http_client::HttpClient;
use crate::supervise::{Part, caught};

use super::{DEADLINE, TargetList};

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
    /// All targets.
    pub(super) targets: TargetList,
    pub(super) part: Part,
}

impl DeadManSwitch {
    pub(super) async fn run(mut self) {
        while let Err(panic) = caught(self.request()).await {
            self.part.restart(panic).await;
        }
    }

    /// Why it is not requested, if it is not.
    async fn problem(&self) -> Option<&'static str> {
        match (self.watchdog)().await {
            None if self.targets.queues().iter().any(|outbox| outbox.fails()) => Some("alerts cannot be delivered"),
            problem => problem,
        }
    }

    async fn request(&mut self) {
        let mut withheld = None;
        loop {
            self.part.alive();
            let problem = self.problem().await;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notify::{Outboxes, TargetKind, TargetOptions, Targets};
    use crate::presence::Identity;

    #[tokio::test]
    async fn a_test_alert_that_arrives_ends_what_withholds_it() {
        let identity = Some(Identity { node: "n".into(), boot: 1 });
        let all = vec![TargetOptions::new("t", TargetKind::Slack)];
        let mut outboxes = Outboxes::new(Targets { all, identity, ..Targets::default() }).expect("no files");
        let switch = DeadManSwitch {
            url: String::new(),
            client: HttpClient::new().expect("a client"),
            stop: watch::channel(false).1,
            watchdog: Arc::new(|| Box::pin(async { None })),
            targets: outboxes.list(),
            part: Part::new("notify"),
        };
        assert_eq!(switch.problem().await, None);
        outboxes.targets[0].note(Err("nobody is there"));
        assert_eq!(switch.problem().await, Some("alerts cannot be delivered"));
        // As the test notes it.
        switch.targets.queues()[0].note_success();
        assert_eq!(switch.problem().await, None);
    }
}
