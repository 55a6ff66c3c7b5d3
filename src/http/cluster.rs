//! `/api/v1/cluster`: nodes, partitions and edges of the cluster that this node is in.

use axum::extract::State;
use axum::response::Response;

use crate::cluster_driver::{ClusterStatus, StatusBoard};
use crate::web::{Nothing, Parameters, TokenAlone, error, json};

use super::access::Caller;
use super::{AppState, StatusCode, openapi};

/// Nodes, partitions and edges of the cluster
///
/// As this node sees them. An edge that is nothing else knows of itself alone.
#[utoipa::path(
    get,
    path = "/api/v1/cluster",
    params(
        ("token" = Option<String>, Query, description = "Not looked at"),
    ),
    responses(
        (status = 200, description = "What is known", body = ClusterStatus),
        (status = 404, description = "This node is in no cluster", body = openapi::Failure),
    ),
)]
pub(super) async fn cluster(State(state): State<AppState>, Parameters(TokenAlone): Parameters<TokenAlone>) -> Response {
    board(&state).map_or_else(|problem| problem, |board| json(&board.read()))
}

/// Lets this node give up its partitions
///
/// It takes none again until its next start. It still receives, if it does so.
#[utoipa::path(
    post,
    path = "/api/v1/cluster/drain",
    request_body(content = Object),
    responses(
        (status = 200, description = "It has begun; `is_ours` of the partitions says how far it is", body = ClusterStatus),
        (status = 404, description = "This node is in no cluster", body = openapi::Failure),
    ),
)]
pub(super) async fn drain(
    State(state): State<AppState>,
    Parameters(Nothing): Parameters<Nothing>,
    caller: Caller,
) -> Result<Response, Response> {
    caller.may_change(&state.access, "giving partitions up")?;
    let board = board(&state)?;
    tracing::info!("this node is asked to give up its partitions");
    board.drain();
    Ok(json(&board.read()))
}

#[expect(clippy::result_large_err, reason = "an answer is what an error of a route is")]
fn board(state: &AppState) -> Result<&StatusBoard, Response> {
    let message = "this node is in no cluster: its `cluster.role` is \"standalone\"";
    state.cluster.as_ref().ok_or_else(|| error(StatusCode::NOT_FOUND, "no_cluster", message))
}
