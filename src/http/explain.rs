//! `/api/v1/explain`: how a line is read, what is flushed of it, and where that goes.

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use crate::explain::Explanation;
use crate::web::{self, FromGiven, Given, Parameters, line, too_much};

use super::AppState;

/// Longest text to explain, in characters, and most lines of it.
const MOST_TEXT: usize = 2000;
const MOST_LINES: usize = 20;

/// What is to be explained.
pub(super) struct Asked {
    line: String,
}

impl FromGiven for Asked {
    const NAMES: &'static [&'static str] = &["line"];

    fn from_given(given: &Given) -> Result<Asked, String> {
        let line = given.bounded("line", MOST_TEXT)?.ok_or("`line` is missing; `?line=api.hits:1|c` is right")?;
        Ok(Asked { line: line.to_string() })
    }
}

/// An explanation, or one for each line of a packet.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = Explained)]
pub(super) enum Answer {
    One(Box<Explanation>),
    Several(Vec<Explanation>),
}

/// The lines of a text that say something.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.trim().is_empty())
}

/// The explanations of the first lines of a text.
pub(super) fn first(state: &AppState, text: &str) -> Vec<Explanation> {
    let first: Vec<&str> = lines(text).take(MOST_LINES).collect();
    let mut all = state.explainer.explain(first.join("\n").as_bytes());
    let report = state.senders.report();
    for one in &mut all {
        let reason = one.error.as_ref().map(|error| error.reason);
        one.arrives_per_sec = reason.map(|reason| {
            let same = report.examples.iter().filter(|example| example.reason == reason);
            same.map(|example| example.per_sec).sum()
        });
    }
    all
}

/// How a line is read, what is flushed of it, and where that goes
///
/// Nothing is recorded. A packet of several lines, up to 20, has an explanation for each.
#[utoipa::path(
    get,
    path = "/api/v1/explain",
    params(("line" = String, Query, description = "A line, or several", max_length = 2000)),
    responses((status = 200, description = "The explanation", body = Answer)),
)]
pub(super) async fn explain(
    State(state): State<AppState>,
    Parameters(asked): Parameters<Asked>,
) -> Result<Response, Response> {
    if lines(&asked.line).nth(MOST_LINES).is_some() {
        return Err(too_much("max_lines", &format!("at most {MOST_LINES} lines are explained")));
    }
    let bodies = state.bodies.clone();
    let mut all = bodies.work(move || first(&state, &asked.line)).await?;
    let answer = if all.len() == 1 { Answer::One(Box::new(all.remove(0))) } else { Answer::Several(all) };
    bodies.whole(web::JSON, line(&answer)).await
}
