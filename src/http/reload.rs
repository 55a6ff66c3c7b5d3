//! `POST /api/v1/reload`: reads the configuration again.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::reloads::{Outcome, Report};
use crate::web::{self, Nothing, Parameters, error, json, line};

use super::access::Caller;
use super::{AppState, openapi};

/// What became of a reload that was refused, with the error that every refusal has.
#[derive(Serialize, ToSchema)]
pub(super) struct Refusal<'a> {
    error: Problem<'a>,
    #[serde(flatten)]
    report: &'a Report,
}

#[derive(Serialize, ToSchema)]
struct Problem<'a> {
    code: &'static str,
    message: &'a str,
}

/// Reads the configuration again
///
/// From where it was read at the start. It is in force from the next interval on, which the answer waits for if that is soon; a bad
/// one changes nothing.
#[utoipa::path(
    post,
    path = "/api/v1/reload",
    responses(
        (status = 200, description = "It is in force: what has changed, and what needs a restart", body = Report),
        (status = 202, description = "It is right, and in force at `in_force_at`", body = Report),
        (status = 422, description = "Nothing has changed: what is wrong", body = Refusal<'_>),
        (status = 503, description = "The daemon stops, or has no configuration that could be read again", body = openapi::Failure),
    ),
)]
pub(super) async fn reload(
    State(state): State<AppState>,
    Parameters(Nothing): Parameters<Nothing>,
    caller: Caller,
) -> Result<Response, Response> {
    caller.may_change(&state.access, "a reload")?;
    let Some(report) = state.about.reloads.reload().await else {
        let message = "the daemon stops, hands over to another process, or was started without a configuration that could be read again";
        return Err(error(StatusCode::SERVICE_UNAVAILABLE, "no_reload", message));
    };
    match report.result {
        Outcome::Applied => return Ok(json(&*report)),
        Outcome::Accepted => return Ok((StatusCode::ACCEPTED, json(&*report)).into_response()),
        Outcome::Refused => {}
    }
    let message = report.problems.first().map_or("it cannot be in force", String::as_str);
    let refusal = Refusal { error: Problem { code: "bad_configuration", message }, report: &report };
    let mut response = web::with_type(web::JSON, line(&refusal));
    *response.status_mut() = StatusCode::UNPROCESSABLE_ENTITY;
    Ok(response.into_response())
}
