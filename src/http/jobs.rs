//! Jobs over HTTP: their states and their last runs.

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use utoipa::ToSchema;

use crate::presence::{JobState, JobView};
use crate::untrusted::from_url;
use crate::web::{self, FromGiven, Given, Parameters, line};

use super::presence::ask;
use super::{AppState, Live};

/// Most jobs that an answer may have, and how many it has unless it is asked otherwise.
const MOST_JOBS: u64 = 1000;

/// Longest name that is asked for, in bytes, and longest pair of a service and an instance, percent-encoded.
const MOST_NAME: usize = 300;
const MOST_PAIR: usize = 800;

/// Runs of each job in the list; the view of a service has all that are kept.
const RUNS: usize = 5;

pub(super) fn routes() -> Router<Live> {
    Router::new().route("/api/v1/jobs", get(list))
}

/// States of jobs, for the document.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case", as = JobStateName)]
#[expect(dead_code, reason = "it describes a parameter")]
pub(super) enum StateName {
    Waiting,
    Running,
    Ok,
    Failed,
    Overrun,
    Lost,
    Missed,
    Unheard,
}

/// Which jobs are asked for.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    service: Option<String>,
    state: Option<JobState>,
    after: Option<(String, String)>,
    limit: usize,
}

impl FromGiven for Wanted {
    const NAMES: &'static [&'static str] = &["service", "state", "after", "limit"];

    fn from_given(given: &Given) -> Result<Wanted, String> {
        let names: Vec<&str> =
            JobState::ALL.into_iter().filter(|state| *state != JobState::Retired).map(JobState::as_str).collect();
        let after = given.bounded("after", MOST_PAIR)?.map(pair).transpose()?;
        Ok(Wanted {
            service: given.bounded("service", MOST_NAME)?.map(String::from),
            state: given.one_of("state", &names, JobState::from_name)?,
            after,
            limit: given.number("limit", 1..=MOST_JOBS)?.unwrap_or(MOST_JOBS) as usize,
        })
    }
}

/// A service and an instance. A `/` in the name of the service is percent-encoded, and so is a `%` in either.
fn pair(text: &str) -> Result<(String, String), String> {
    let (service, instance) = text.split_once('/').ok_or("`after` is SERVICE/INSTANCE")?;
    Ok((from_url(service)?, from_url(instance)?))
}

/// Jobs with their last runs
///
/// In the order of their names. Of each the last five runs; `/api/v1/presence/{service}` has the last 20.
#[utoipa::path(
    get,
    path = "/api/v1/jobs",
    params(
        ("service" = Option<String>, Query, description = "Only those of this service", max_length = 300),
        ("state" = Option<StateName>, Query, description = "Only those in this state"),
        ("after" = Option<String>, Query, description = "Only those after this one: SERVICE/INSTANCE, each percent-encoded once more", max_length = 800, pattern = "^[^/]+/.+$"),
        ("limit" = Option<u64>, Query, description = "At most so many: 1 to 1000, 1000 by default", minimum = 1, maximum = 1000),
    ),
    responses((status = 200, description = "Those that pass", body = Vec<JobView>)),
)]
pub(super) async fn list(
    State(state): State<AppState>,
    Parameters(wanted): Parameters<Wanted>,
) -> Result<Response, Response> {
    let _turn = state.bodies.turn().await;
    let jobs = ask(&state, move |presence| {
        let after = wanted.after.as_ref().map(|(service, instance)| (service.as_str(), instance.as_str()));
        presence.jobs(wanted.service.as_deref(), wanted.state, after, (wanted.limit, RUNS))
    });
    state.bodies.whole(web::JSON, line(&jobs.await?)).await
}
