//! Reloads of the configuration: who asks for one, and what became of the last ones; and of the last upgrade, if that failed. Whoever
//! reads the configuration again, and changes the daemon, has the other end.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use serde_json::Value;
use tokio::sync::{Notify, mpsc, oneshot};
use utoipa::ToSchema;

use crate::named::named_enum;
use crate::sys::unix_time;

/// Most reloads that wait for their turn.
const WAITING: usize = 16;

named_enum! {
    /// What became of a reload.
    #[derive(ToSchema)]
    pub enum Outcome {
        /// The configuration is in force, but for what needs a restart.
        Applied = "applied",
        /// The configuration is right, and in force with the next interval, but for what needs a restart.
        Accepted = "accepted",
        /// Nothing has changed.
        Refused = "refused",
    }
}

/// A setting that is not what it was.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Change {
    /// Its place in the configuration, such as `http.token` or `sink[0].url`; a table alone that came or went.
    pub path: String,
    /// What it was, as a file has it; `***` for a secret. `null` if it was not there.
    pub was: Value,
    /// What it is. `null` if it is not there any more.
    pub is: Value,
}

/// What became of a reload.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Report {
    /// Whether the configuration is in force, or will be.
    #[schema(value_type = String)]
    pub result: Outcome,
    /// When it will be in force, Unix seconds, if that takes a while.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_force_at: Option<f64>,
    /// The file that was read, if there is one.
    pub file: Option<String>,
    /// When the configuration in force was read, Unix seconds.
    pub loaded_at: f64,
    /// What has changed.
    pub changes: Vec<Change>,
    /// What the file has, and what stays as it was until a restart.
    pub needs_restart: Vec<Change>,
    /// Receive workers that did not answer: they go on as before until they do.
    pub waiting_for: Vec<String>,
    /// What is wrong with the file, or why it cannot be in force: each in a line.
    pub problems: Vec<String>,
    /// What is allowed and most likely not meant.
    pub warnings: Vec<String>,
}

/// The last reload that was refused.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Refused {
    /// When, Unix seconds.
    pub at: f64,
    /// Why: each in a line.
    pub problems: Vec<String>,
}

/// How reloads went since the start.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct ReloadStatus {
    /// Reloads that are in force.
    pub applied: u64,
    /// Those that changed nothing, because something was wrong.
    pub refused: u64,
    /// When the configuration in force was read, Unix seconds.
    pub loaded_at: f64,
    /// When a reload that was accepted will be in force, Unix seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_force_at: Option<f64>,
    /// The last reload, if it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_refused: Option<Refused>,
    /// What the file had at the last reload that is not in force before a restart.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub needs_restart: Vec<Change>,
    /// Receive workers that have not answered since the last reload, and go on as before it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub waiting_for: Vec<String>,
}

/// Who waits for a report.
pub type Request = oneshot::Sender<Arc<Report>>;

/// Where those who ask come out.
#[derive(Debug)]
pub struct Inbox {
    requests: mpsc::Receiver<Request>,
    signalled: Arc<Notify>,
    /// A signal waits for its turn.
    is_due: bool,
}

/// What comes while a reload waits for its time.
#[derive(Debug)]
pub enum Meanwhile {
    /// Somebody asks, and waits for the answer.
    Asked(Request),
    /// A signal, which has its turn after that: [`Inbox::next`] has it.
    Signalled,
}

impl Inbox {
    /// The next one who asks, `None` in it for a signal, whose report nobody waits for. `None` if nobody can ask any more.
    pub async fn next(&mut self) -> Option<Option<Request>> {
        if std::mem::take(&mut self.is_due) {
            return Some(None);
        }
        tokio::select! {
            request = self.requests.recv() => request.map(Some),
            () = self.signalled.notified() => Some(None),
        }
    }

    /// What comes while the one before has not ended.
    pub async fn meanwhile(&mut self) -> Meanwhile {
        tokio::select! {
            Some(request) = self.requests.recv() => Meanwhile::Asked(request),
            () = self.signalled.notified() => {
                self.is_due = true;
                Meanwhile::Signalled
            }
        }
    }
}

/// Asks for reloads, and knows how they went. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Reloads(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    requests: mpsc::Sender<Request>,
    signalled: Arc<Notify>,
    status: Mutex<ReloadStatus>,
    failed_upgrade: Mutex<Option<FailedUpgrade>>,
}

/// An upgrade that failed.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct FailedUpgrade {
    /// When, Unix seconds.
    pub at: f64,
    /// Why.
    pub error: String,
}

impl Default for Reloads {
    /// Of a daemon whose configuration cannot be read again.
    fn default() -> Reloads {
        channel().0
    }
}

/// A handle, and where its requests come out.
pub fn channel() -> (Reloads, Inbox) {
    let (requests, asked) = mpsc::channel(WAITING);
    let signalled = Arc::new(Notify::new());
    let inbox = Inbox { requests: asked, signalled: Arc::clone(&signalled), is_due: false };
    let (loaded_at, needs_restart) = (unix_time(), Vec::new());
    let (in_force_at, last_refused, waiting_for) = (None, None, Vec::new());
    let status =
        ReloadStatus { applied: 0, refused: 0, loaded_at, in_force_at, last_refused, needs_restart, waiting_for };
    let (status, failed_upgrade) = (Mutex::new(status), Mutex::default());
    (Reloads(Arc::new(Shared { requests, signalled, status, failed_upgrade })), inbox)
}

impl Reloads {
    fn lock(&self) -> MutexGuard<'_, ReloadStatus> {
        // Every change leaves it whole.
        self.0.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How reloads went.
    pub fn status(&self) -> ReloadStatus {
        self.lock().clone()
    }

    /// Asks for a reload, and waits for what becomes of it; `None` if the configuration cannot be read again, or the daemon stops.
    pub async fn reload(&self) -> Option<Arc<Report>> {
        let (reply, report) = oneshot::channel();
        self.0.requests.send(reply).await.ok()?;
        report.await.ok()
    }

    /// Asks for a reload that nobody waits for. What asks so before its turn comes is the same one.
    pub fn signal(&self) {
        self.0.signalled.notify_one();
    }

    /// The last upgrade, if it failed.
    pub fn failed_upgrade(&self) -> Option<FailedUpgrade> {
        self.0.failed_upgrade.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes that an upgrade failed.
    pub fn note_failed_upgrade(&self, error: &str) {
        let failed = FailedUpgrade { at: unix_time(), error: error.to_string() };
        *self.0.failed_upgrade.lock().unwrap_or_else(PoisonError::into_inner) = Some(failed);
    }

    /// Notes what became of a reload.
    pub fn note(&self, report: &Report) {
        let mut status = self.lock();
        match report.result {
            Outcome::Applied => {
                status.applied += 1;
                (status.loaded_at, status.last_refused, status.in_force_at) = (report.loaded_at, None, None);
                status.needs_restart.clone_from(&report.needs_restart);
            }
            Outcome::Accepted => (status.in_force_at, status.last_refused) = (report.in_force_at, None),
            Outcome::Refused => {
                status.refused += 1;
                status.last_refused = Some(Refused { at: unix_time(), problems: report.problems.clone() });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_signal_that_comes_while_a_reload_waits_has_its_turn_once_after_it() {
        let (reloads, mut inbox) = channel();
        let asking = |reloads: &Reloads| {
            let reloads = reloads.clone();
            tokio::spawn(async move { reloads.reload().await })
        };
        reloads.signal();
        assert!(matches!(inbox.next().await, Some(None)));
        for _ in 0..3 {
            reloads.signal();
            assert!(matches!(inbox.meanwhile().await, Meanwhile::Signalled));
        }
        let refused = asking(&reloads);
        assert!(matches!(inbox.meanwhile().await, Meanwhile::Asked(_)));
        assert!(refused.await.is_ok_and(|report| report.is_none()));
        assert!(matches!(inbox.next().await, Some(None)), "its turn");
        let asked = asking(&reloads);
        assert!(matches!(inbox.next().await, Some(Some(_))), "there is no other");
        assert!(asked.await.is_ok());
        drop(reloads);
        assert!(inbox.next().await.is_none());
    }
}
