//! Test alerts over HTTP.

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::post;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::notify::{NoTest, TestReport};
use crate::presence::Severity;
use crate::untrusted::Escaped;
use crate::web::{Nothing, Parameters, bad_request, error, json};

use super::presence::body_of_change;
use super::{AppState, Live};

pub(super) fn routes() -> Router<Live> {
    Router::new().route("/api/v1/notify/test", post(test))
}

/// A test alert.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TestRequest {
    /// Only this target; without it all that take alerts of the severity
    target: Option<String>,
    /// `critical`, `warning` or `info`; `critical` without it
    #[schema(value_type = Option<String>, pattern = "^(critical|warning|info)$")]
    severity: Option<Severity>,
}

/// What became of a test alert.
#[derive(Serialize, ToSchema)]
pub(super) struct TestAnswer {
    /// Whether everything that was sent was delivered.
    delivered: bool,
    /// By target, in the order of the configuration.
    targets: Vec<TestReport>,
}

/// Sends a test alert to the targets of notifications
///
/// A problem and, if it was delivered, its end, at once and outside of the queues; the answer comes when every target has
/// answered, or has had its `timeout`.
#[utoipa::path(
    post,
    path = "/api/v1/notify/test",
    request_body(content = TestRequest),
    responses(
        (status = 200, description = "What became of it", body = TestAnswer),
        (status = 404, description = "No target is configured, or none has this name", body = Object),
        (status = 503, description = "Another test is on its way", body = Object),
    ),
)]
pub(super) async fn test(
    State(state): State<AppState>,
    Parameters(Nothing): Parameters<Nothing>,
    request: Request,
) -> Result<Response, Response> {
    let body = body_of_change(&state, request).await?;
    let right = "{\"target\":\"…\",\"severity\":\"critical\"} is right, and both may be left out";
    let wanted = if body.is_empty() { Ok(TestRequest::default()) } else { serde_json::from_slice(&body) };
    let wanted: TestRequest = wanted.map_err(|problem| bad_request(&format!("{problem}; {right}")))?;
    let severity = wanted.severity.unwrap_or(Severity::Critical);
    tracing::info!(
        to = %Escaped(wanted.target.as_deref().unwrap_or("all targets")),
        severity = severity.as_str(),
        "a test alert was asked for"
    );
    let targets = state.tester.test(wanted.target.as_deref(), severity).await.map_err(refusal)?;
    Ok(json(&TestAnswer { delivered: targets.iter().all(TestReport::is_good), targets }))
}

fn refusal(why: NoTest) -> Response {
    match why {
        NoTest::NoTargets => {
            let message = "no target is configured: `[[notify]]`, or `alertmanager` and `webhook` of `[presence]`";
            error(StatusCode::NOT_FOUND, "no_targets", message)
        }
        NoTest::Unknown(names) => {
            let message = format!("no target has this name; there are {}", names.join(", "));
            error(StatusCode::NOT_FOUND, "unknown", &Escaped(&message).to_string())
        }
        NoTest::Busy => error(StatusCode::SERVICE_UNAVAILABLE, "busy", "another test is on its way"),
    }
}
