//! How others see a running flusher: what it publishes with every interval, and what it answers.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::aggregate::Class;
use crate::hints::Hints;
use crate::net::NamedConnection;
use crate::sinks::SinkDriver;
use crate::snapshot::Snapshot;
use crate::state::{StateStatus, Trial};
use crate::sys::{now, unix_time};
use crate::telemetry::{Concern, Ledger, SinkAccount, Warning};

use super::changeover::{Changeover, HeldDriver, LeavingSink};
use super::cluster::ClusterProblems;
use super::recent::LostTime;
use super::sources::Sources;

/// Most requests that wait for the flusher.
const REQUESTS: usize = 16;

/// Longest wait for series, or for their deletion.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longest wait for live counters; then those of the last reading are shown.
const LIVE_PATIENCE: Duration = Duration::from_millis(500);

/// Longest wait for an interval that is being closed.
const CLOSING: Duration = Duration::from_secs(5);

/// Most series of a listing; there is no end to what a table may hold.
pub const MAX_SERIES: usize = 20_000;

/// Most numbers of a list in a listing.
pub const MAX_ITEMS: usize = 100;

/// Most bytes of a listing, or of the names of deleted series: names may be long. A number counts as its text.
pub(super) const MAX_LISTING_BYTES: usize = 2 << 20;

/// Bytes that a number counts as.
const NUMBER_BYTES: usize = 20;

/// The value of a series in the open interval.
#[derive(Clone, Debug, PartialEq)]
pub enum OpenValue {
    /// A number.
    Number(f64),
    /// The first numbers of a list, at most [`MAX_ITEMS`], and how many there are.
    List(Vec<f64>, u64),
}

impl OpenValue {
    /// Bytes that it counts as.
    pub(super) fn bytes(&self) -> usize {
        match self {
            OpenValue::Number(_) => NUMBER_BYTES,
            OpenValue::List(values, _) => (1 + values.len()) * NUMBER_BYTES,
        }
    }
}

/// Names of series that were deleted.
#[derive(Clone, Debug, Default)]
pub struct Deleted {
    /// The first ones, as many as there is room for in a listing.
    pub names: Vec<String>,
    /// How many there are beside these.
    pub more: u64,
}

/// Series of the open interval and their values.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// At most [`MAX_SERIES`], and as many as there is room for, in the order of their coming.
    pub entries: Vec<(String, OpenValue)>,
    /// How many there are beside these.
    pub more: u64,
}

/// Numbers since the start.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// When something was received last, Unix seconds.
    pub last_heard: Option<f64>,
    /// Malformed lines.
    pub bad_lines: u64,
    /// Sinks: label, type, account.
    pub sinks: Vec<(String, &'static str, SinkAccount)>,
}

/// A socket of a listener, with the name under which the service manager passed it.
pub type NamedSocket = (String, OwnedFd);

/// A request of a handle.
#[derive(Debug)]
pub(super) enum Request {
    /// The series of a class with their values.
    List(Class, oneshot::Sender<Listing>),
    /// Forget series.
    Delete(Class, Vec<String>, oneshot::Sender<Vec<Deleted>>),
    /// Numbers since the start.
    Stats(oneshot::Sender<Stats>),
    /// Be as this says from the next interval on; the answer comes when it is.
    ChangeOver(Box<Changeover>, oneshot::Sender<Vec<String>>),
    /// Hand out the sink of this name that leaves.
    TakeLeaving(String, oneshot::Sender<Option<HeldDriver>>),
    /// Tell which folders sinks have for their spools.
    Spools(oneshot::Sender<Vec<(String, PathBuf)>>),
    /// Read the counters of the open interval.
    Read(oneshot::Sender<Arc<Published>>),
    /// Duplicate the sockets of the listeners.
    Sockets(oneshot::Sender<io::Result<Vec<NamedSocket>>>),
    /// Leave them open at the stop: the service manager holds them.
    KeepSockets(oneshot::Sender<()>),
    /// Write for trial what another process is to go on with.
    TryState(oneshot::Sender<Result<Vec<Trial>, String>>),
    /// Read what they hold and nothing more, for another process is to read on.
    PauseReading(Vec<Trial>, oneshot::Sender<Vec<NamedConnection>>),
    /// Read on after all.
    ResumeReading(oneshot::Sender<()>),
}

/// What the flusher publishes.
#[derive(Clone, Debug, Default)]
pub struct Published {
    /// The last closed interval.
    pub snapshot: Option<Arc<Snapshot>>,
    /// What was counted since the start, as of the last tick or the last reading of the open interval.
    pub(super) totals: Ledger,
    /// What the last interval lost.
    pub(super) losses: Arc<[Warning]>,
    /// Who sent what `allow` refused, of the last interval that has one.
    pub refused_from: Option<IpAddr>,
    /// Lines of closed intervals.
    pub closed_lines: u64,
    /// Times of the last hour that lost data, the oldest first.
    pub recent: Arc<[LostTime]>,
    pub(super) sources: Sources,
    /// A large last interval was let go to make room for the next, which is here in a moment.
    pub closing: bool,
    /// Listeners that were taken out, and whose sockets are not closed yet.
    pub(super) leaving: Vec<String>,
    /// Receive workers that go on as before a change until they answer.
    pub behind: Vec<String>,
    /// When the last interval was published.
    pub at: Option<Instant>,
    /// The last tick, in Unix seconds.
    pub as_of: Option<f64>,
}

impl Published {
    /// The account since the start: sinks, relays, log, capture and management as they are now, the rest as it was read last.
    pub fn ledger(&self) -> Ledger {
        let mut ledger = self.totals.clone();
        self.sources.read_into(&mut ledger);
        ledger
    }

    /// How the state folder is, and what was found there.
    pub(crate) fn state(&self) -> StateStatus {
        self.sources.state.status()
    }

    /// What somebody should look at before data is lost, or because it was lost in the last interval.
    pub(crate) fn warnings(&self, ledger: &Ledger) -> Vec<Warning> {
        let mut all = ledger.warnings();
        all.extend(super::losses::alerts(ledger));
        all.extend(super::losses::certificates(ledger, unix_time()));
        all.extend(self.losses.iter().cloned());
        all.extend(
            self.sources
                .state
                .status()
                .problem
                .map(|problem| Concern::Unsaved.says(format!("the state folder is not up to date: {problem}"))),
        );
        all.extend(self.sources.cluster.iter().flat_map(ClusterProblems::warnings));
        all
    }
}

/// Asks a flusher, and sees what it publishes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct FlusherHandle {
    requests: mpsc::Sender<Request>,
    /// Where sinks go that nobody takes.
    leave: mpsc::UnboundedSender<LeavingSink>,
    published: watch::Receiver<Arc<Published>>,
    http_requests: Arc<AtomicU64>,
    hints: Hints,
}

/// The flusher's end of its handles.
#[derive(Debug)]
pub struct Inbox {
    /// `None` when no more requests are answered.
    pub(super) requests: Option<mpsc::Receiver<Request>>,
    /// Sinks that nobody has taken, and where they come from.
    pub(super) untaken: mpsc::UnboundedReceiver<LeavingSink>,
    pub(super) leave: mpsc::UnboundedSender<LeavingSink>,
    pub(super) published: watch::Sender<Arc<Published>>,
    /// Requests of HTTP that came to the management port.
    pub(super) http_requests: Arc<AtomicU64>,
    /// Given to the status.
    pub(super) hints: Hints,
}

/// A handle, and its other end for the flusher that is to be made.
pub fn channel() -> (FlusherHandle, Inbox) {
    let (requests, inbox) = mpsc::channel(REQUESTS);
    let (leave, untaken) = mpsc::unbounded_channel();
    let (publish, published) = watch::channel(Arc::default());
    let http_requests = Arc::<AtomicU64>::default();
    let hints = Hints::default();
    let handle = FlusherHandle {
        requests,
        leave: leave.clone(),
        published,
        http_requests: Arc::clone(&http_requests),
        hints: hints.clone(),
    };
    (handle, Inbox { requests: Some(inbox), untaken, leave, published: publish, http_requests, hints })
}

impl FlusherHandle {
    /// What comes near to what was meant.
    pub fn hints(&self) -> &Hints {
        &self.hints
    }

    /// What was published last.
    pub fn published(&self) -> Arc<Published> {
        Arc::clone(&self.published.borrow())
    }

    /// Sees everything that is published from now on, and its end with that of the flusher.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Published>> {
        self.published.clone()
    }

    /// What was published, with the last interval: while one is being closed that takes a moment.
    pub async fn published_whole(&self) -> Arc<Published> {
        let mut published = self.published.clone();
        // Without the flusher, or if it takes too long, there is no interval to show.
        let _ = timeout(CLOSING, published.wait_for(|published| !published.closing)).await;
        self.published()
    }

    /// What was published, with the counters of the open interval. While the flusher is busy with closing one, and after its
    /// end, they are those of the last reading.
    pub async fn live(&self) -> Arc<Published> {
        self.ask(LIVE_PATIENCE, Request::Read).await.unwrap_or_else(|| self.published())
    }

    /// The series of a class in the open interval.
    pub async fn list(&self, class: Class) -> Option<Listing> {
        self.ask(PATIENCE, |reply| Request::List(class, reply)).await
    }

    /// Forgets series: each name is that of one, or stands for all whose names begin with a text that ends in `.` (sent as
    /// `a.*`). The answer has what was forgotten under each name, in the same order.
    pub async fn delete(&self, class: Class, names: Vec<String>) -> Option<Vec<Deleted>> {
        self.ask(PATIENCE, |reply| Request::Delete(class, names, reply)).await
    }

    /// Numbers since the start.
    pub async fn stats(&self) -> Option<Stats> {
        self.ask(PATIENCE, Request::Stats).await
    }

    /// The sockets of all listeners, for another process; an error if they cannot be duplicated.
    pub async fn sockets(&self) -> Option<io::Result<Vec<NamedSocket>>> {
        self.ask(PATIENCE, Request::Sockets).await
    }

    /// The service manager holds the sockets, too: the stop leaves them open, with what they hold.
    pub async fn keep_sockets(&self) -> Option<()> {
        self.ask(PATIENCE, Request::KeepSockets).await
    }

    /// Reads what the sockets hold and nothing more, for another process is to read on: the stop leaves them open. Those of the
    /// connections that it can read on are in the answer. Until the state is saved for that process, or this one reads on, the
    /// room of the trial is held.
    pub async fn pause_reading(&self, trial: Vec<Trial>) -> Option<Vec<NamedConnection>> {
        self.ask(PATIENCE, |reply| Request::PauseReading(trial, reply)).await
    }

    /// Writes for trial what another process is to go on with; why that cannot be saved. `None` if it takes longer.
    pub async fn try_state(&self, longest: Duration) -> Option<Result<Vec<Trial>, String>> {
        self.ask(longest, Request::TryState).await
    }

    /// Reads on, for no other process does.
    pub async fn resume_reading(&self) -> Option<()> {
        self.ask(PATIENCE, Request::ResumeReading).await
    }

    /// Waits until listeners that were taken out have closed their sockets, or for so long: those whose URLs are in the way.
    pub async fn listeners_have_left(&self, is_in_the_way: impl Fn(&str) -> bool, longest: Duration) {
        let mut published = self.published.clone();
        let is_free = |published: &Arc<Published>| !published.leaving.iter().any(|url| is_in_the_way(url));
        // Without a flusher nobody has a socket any more.
        let _ = timeout(longest, published.wait_for(is_free)).await;
    }

    /// Makes the next interval be as `change` says. The receiver resolves when it has begun, to the workers that go on as before
    /// until they answer, or to an error if the flusher ends before; then nothing has changed.
    pub async fn change_over(&self, change: Changeover) -> oneshot::Receiver<Vec<String>> {
        let (reply, answer) = oneshot::channel();
        // Without a flusher the reply is dropped.
        let _ = self.requests.send(Request::ChangeOver(Box::new(change), reply)).await;
        answer
    }

    /// Holds the driver of a new sink until a change puts it in place. If none does, the sink leaves, and may go on delivering for so
    /// long.
    pub fn hold(&self, driver: SinkDriver, grace: Duration) -> HeldDriver {
        HeldDriver::new(driver, now() + grace, self.leave.clone())
    }

    /// The sink of this name that was taken out and has not delivered all it had, if there is one. It is whoever asks who ends it.
    pub async fn take_leaving(&self, name: String) -> Option<HeldDriver> {
        self.ask(PATIENCE, |reply| Request::TakeLeaving(name, reply)).await.flatten()
    }

    /// Sinks with the folders of their spools, also those that were taken out and have not delivered all they had.
    pub async fn spools(&self) -> Vec<(String, PathBuf)> {
        self.ask(PATIENCE, Request::Spools).await.unwrap_or_default()
    }

    /// Counts a request of HTTP that came to the management port.
    pub fn count_http_request(&self) {
        // A count on its own: nothing else is published through it.
        self.http_requests.fetch_add(1, Ordering::Relaxed);
    }

    async fn ask<T>(&self, patience: Duration, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.requests.send(request(reply)).await.ok()?;
            answer.await.ok()
        };
        timeout(patience, asked).await.ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_listener_that_leaves_is_waited_for_only_where_it_is_in_the_way() {
        let (handle, inbox) = channel();
        inbox.published.send_modify(|published| Arc::make_mut(published).leaving = vec!["udp://127.0.0.1:8125".into()]);
        let began = tokio::time::Instant::now();
        handle.listeners_have_left(|url| url == "udp://127.0.0.1:8126", PATIENCE).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
        handle.listeners_have_left(|url| url == "udp://127.0.0.1:8125", PATIENCE).await;
        assert!(began.elapsed() >= PATIENCE);
    }
}
