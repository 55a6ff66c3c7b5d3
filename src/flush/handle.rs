//! What others ask of a running flusher, which alone knows the open interval.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::aggregate::Class;
use crate::telemetry::SinkAccount;

/// Most requests that wait for the flusher.
const QUEUE: usize = 16;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Most series in a listing.
pub const MAX_SERIES: usize = 20_000;

/// Most numbers of a list in a listing.
pub const MAX_ITEMS: usize = 100;

/// A request to the flusher, with where the answer goes.
#[derive(Debug)]
pub(super) enum Request {
    /// The series of a class with their values.
    Show(Class, oneshot::Sender<Listing>),
    /// Removes series.
    Delete(Class, Vec<String>, oneshot::Sender<Vec<Vec<String>>>),
    /// Numbers since the start.
    Stats(oneshot::Sender<Stats>),
}

/// The value of a name in the open interval.
#[derive(Clone, Debug, PartialEq)]
pub enum Shown {
    /// A number.
    Number(f64),
    /// The first numbers of a list, at most [`MAX_ITEMS`], and the total number.
    List(Vec<f64>, u64),
}

/// Series and their values.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// At most [`MAX_SERIES`], in the order of creation.
    pub entries: Vec<(String, Shown)>,
    /// The number of further series.
    pub more: u64,
}

/// Numbers since the start.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Time of the last receipt, Unix seconds.
    pub last_heard: Option<f64>,
    /// Malformed lines.
    pub bad_lines: u64,
    /// Sinks: label, type, account.
    pub sinks: Vec<(String, &'static str, SinkAccount)>,
}

/// The requests of all handles.
#[derive(Debug)]
pub struct Requests(pub(super) mpsc::Receiver<Request>);

/// A handle to a running flusher. Answers are `None` if it is gone, or too busy.
#[derive(Clone, Debug)]
pub struct FlusherHandle(mpsc::Sender<Request>);

impl FlusherHandle {
    /// A handle, and the requests that come through it.
    pub fn new() -> (FlusherHandle, Requests) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (FlusherHandle(sender), Requests(receiver))
    }

    /// The series of a class with their values in the open interval.
    pub async fn show(&self, class: Class) -> Option<Listing> {
        self.ask(|reply| Request::Show(class, reply)).await
    }

    /// Removes series: each name is that of one series, or a prefix that ends in `.` (written as `a.*`). The answer has the
    /// removed series for each name, in the same order.
    pub async fn delete(&self, class: Class, names: Vec<String>) -> Option<Vec<Vec<String>>> {
        self.ask(|reply| Request::Delete(class, names, reply)).await
    }

    /// Numbers since the start.
    pub async fn stats(&self) -> Option<Stats> {
        self.ask(Request::Stats).await
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.0.send(request(reply)).await.ok()?;
            answer.await.ok()
        };
        timeout(PATIENCE, asked).await.ok().flatten()
    }
}
