//! What operators ask of the process itself by the API. Whoever runs the process carries it out.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;
use utoipa::ToSchema;

use crate::sys::{now, since};
use crate::web::{Nothing, Parameters, error, json};

use super::access::Caller;
use super::{AppState, openapi};

/// Longest wait for a new process that reads the sockets.
const PATIENCE: Duration = Duration::from_secs(40);

/// Orders at a time.
const WAITING: usize = 1;

/// What [`Upgrading::page`] says of a process that has none.
pub const NO_PAGE: &str = "off";

/// An order, and where to say what came of it.
#[derive(Debug)]
pub enum Order {
    /// Start the program anew, and hand over to it; an error in words if it does not take over.
    Upgrade(oneshot::Sender<Result<Upgrading, String>>),
}

/// Passes orders on.
#[derive(Clone, Debug)]
pub struct Orders {
    sender: mpsc::Sender<Order>,
    free: Arc<Semaphore>,
    under_way: Arc<Mutex<Option<UnderWay>>>,
}

/// An upgrade that has begun, and not ended.
#[derive(Clone, Copy, Debug)]
struct UnderWay {
    since: Instant,
    /// The new process.
    pid: Option<u32>,
}

/// An upgrade is under way until this is dropped.
#[derive(Debug)]
pub struct BegunUpgrade(Arc<Mutex<Option<UnderWay>>>);

impl BegunUpgrade {
    /// This is the new process.
    pub fn runs(&self, pid: u32) {
        if let Some(under_way) = lock(&self.0).as_mut() {
            under_way.pid = Some(pid);
        }
    }
}

impl Drop for BegunUpgrade {
    fn drop(&mut self) {
        *lock(&self.0) = None;
    }
}

fn lock(under_way: &Mutex<Option<UnderWay>>) -> MutexGuard<'_, Option<UnderWay>> {
    under_way.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Orders {
    /// A channel for orders.
    pub fn channel() -> (Orders, mpsc::Receiver<Order>) {
        let (orders, taken) = mpsc::channel(WAITING);
        (Orders { sender: orders, free: Arc::new(Semaphore::new(WAITING)), under_way: Arc::default() }, taken)
    }

    /// An upgrade begins, whoever asked for it: others are told so.
    pub fn begin_upgrade(&self) -> BegunUpgrade {
        *lock(&self.under_way) = Some(UnderWay { since: now(), pid: None });
        BegunUpgrade(Arc::clone(&self.under_way))
    }

    /// Why there can be none now.
    fn busy(&self) -> Response {
        let message = match *lock(&self.under_way) {
            Some(UnderWay { since: begun, pid }) => {
                let process = pid.map_or_else(String::new, |pid| format!(" (process {pid})"));
                format!("an upgrade is under way since {} s{process}", since(begun).as_secs())
            }
            None => "an upgrade is under way already, or the process is stopping; ask again".into(),
        };
        error(StatusCode::CONFLICT, "busy", &message)
    }
}

/// A new process reads the sockets; the one that answers ends.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Upgrading {
    /// The new process.
    pub pid: u32,
    /// The file that it runs, with the link that leads there.
    pub program: String,
    /// Its version.
    pub version: String,
    /// The version of the one that answers.
    pub from: &'static str,
    /// Where the page and the API of the new process are, if that is elsewhere: a URL, or `off`; `null` if it is not.
    pub page: Option<String>,
    /// Why the new process does not go on with the state of the one that answers, which closes and delivers its open interval
    /// itself; `null` if it does.
    pub no_state: Option<String>,
}

/// How this process took over from another one.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct HandedOver {
    /// The version of that one.
    pub from: String,
    /// Seconds in which nobody read the sockets. What came meanwhile was in the buffers of the kernel.
    pub pause_secs: f64,
    /// Seconds from the first read of this process until the other one had left.
    pub took_secs: f64,
    /// Whether the other one said that it had saved everything.
    pub is_clean: bool,
    /// Why this process does not go on with the state of the other one, which closed and delivered its open interval itself;
    /// `null` if it does.
    pub no_state: Option<String>,
}

/// Hands over to a new process of the program
///
/// The program is started anew, from where it was started, with the same arguments. It takes the sockets, reads them, and goes
/// on with the state; then this process ends. If the new one fails, this one goes on.
#[utoipa::path(
    post,
    path = "/api/v1/upgrade",
    responses(
        (status = 200, description = "The new process reads, and this one ends", body = Upgrading),
        (status = 409, description = "There is no hand-over: the message says why, and this process goes on", body = openapi::Failure),
        (status = 501, description = "The daemon is part of another program, which does not carry out orders", body = openapi::Failure),
    ),
)]
pub(super) async fn upgrade(
    State(state): State<AppState>,
    Parameters(Nothing): Parameters<Nothing>,
    caller: Caller,
) -> Result<Response, Response> {
    caller.may_change(&state.access, "an upgrade")?;
    let nobody = || {
        let message = "the daemon is part of another program, which does not carry out orders";
        error(StatusCode::NOT_IMPLEMENTED, "not_supported", message)
    };
    let orders = state.orders.as_ref().ok_or_else(nobody)?;
    if lock(&orders.under_way).is_some() {
        return Err(orders.busy());
    }
    let _own = orders.free.try_acquire().map_err(|_| orders.busy())?;
    let (reply, outcome) = oneshot::channel();
    orders.sender.try_send(Order::Upgrade(reply)).map_err(|_| orders.busy())?;
    match timeout(PATIENCE, outcome).await {
        Ok(Ok(Ok(upgrading))) => Ok(json(&upgrading)),
        Ok(Ok(Err(problem))) => Err(error(StatusCode::CONFLICT, "no_upgrade", &problem)),
        Ok(Err(_)) | Err(_) => Err(orders.busy()),
    }
}
