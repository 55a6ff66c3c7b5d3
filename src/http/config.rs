//! `/api/v1/config`: what is in force, and where it is set. Secrets are masked before they come here.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::web::{self, Nothing, Parameters, line};

use super::AppState;

/// What a setting comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// The file.
    File,
    /// A flag of the command line.
    Flag,
    /// A variable of the environment.
    Environment,
}

/// A setting that is in force.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Setting {
    /// Its place in the configuration, such as `http.address` or `sink[0].type`.
    pub path: String,
    /// Its value as a file has it; `***` for a secret.
    pub value: Value,
    /// What it is where nobody sets it; `null` where there is no such value.
    pub default: Value,
    /// What it comes from.
    pub from: Origin,
    /// The line of the file where it stands, from 1.
    pub line: Option<usize>,
    /// A sentence about it.
    pub about: String,
}

/// What is in force.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct Effective {
    /// The file, if there is one.
    pub file: Option<String>,
    /// Every setting in the order of the reference.
    pub settings: Vec<Setting>,
}

/// What is in force, and where it is set
///
/// It does not change while the daemon runs.
#[utoipa::path(
    get,
    path = "/api/v1/config",
    responses((status = 200, description = "Every setting", body = Effective)),
)]
pub(super) async fn config(
    State(state): State<AppState>,
    Parameters(Nothing): Parameters<Nothing>,
) -> Result<Response, Response> {
    let effective: Arc<Effective> = Arc::clone(&state.config);
    state.bodies.whole(web::JSON, line(&*effective)).await
}
