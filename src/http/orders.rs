//! What operators ask of the process itself by the API. Whoever runs the process carries it out.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;
use utoipa::ToSchema;

use crate::web::{Nothing, Parameters, error, json};

use super::access::Caller;
use super::{AppState, openapi};

/// Longest wait for a new process that reads the sockets.
const PATIENCE: Duration = Duration::from_secs(40);

/// Orders at a time.
const WAITING: usize = 1;

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
}

impl Orders {
    /// A channel for orders.
    pub fn channel() -> (Orders, mpsc::Receiver<Order>) {
        let (orders, taken) = mpsc::channel(WAITING);
        (Orders { sender: orders, free: Arc::new(Semaphore::new(WAITING)) }, taken)
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
    let _own = orders.free.try_acquire().map_err(|_| busy())?;
    let (reply, outcome) = oneshot::channel();
    orders.sender.try_send(Order::Upgrade(reply)).map_err(|_| busy())?;
    match timeout(PATIENCE, outcome).await {
        Ok(Ok(Ok(upgrading))) => Ok(json(&upgrading)),
        Ok(Ok(Err(problem))) => Err(error(StatusCode::CONFLICT, "no_upgrade", &problem)),
        Ok(Err(_)) | Err(_) => Err(busy()),
    }
}

fn busy() -> Response {
    error(StatusCode::CONFLICT, "busy", "an upgrade is under way already, or the process is stopping; ask again")
}
