//! `/api/v1/history`: points of series and of the ledger over time.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::get;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use utoipa::ToSchema;

use crate::history::{Archive, ArchiveError, ArchiveQuery, Archived, Points, PointsQuery};
use crate::series::Series;
use crate::sys::unix_time;
use crate::web::{self, FromGiven, Given, Parameters, line};

use super::caching;
use super::series::no_history;
use super::{AppState, Live};

/// Most series, and most paths of the ledger, of an answer.
const MOST_SERIES: usize = 20;
const MOST_LEDGER: usize = 40;

/// Most fields that are named, and the longest name of one or of a path, in bytes.
const MOST_FIELDS: usize = 40;
const MOST_NAME: usize = 1000;

/// Seconds of an answer where nobody says from when on.
const USUAL_SECS: f64 = 1800.0;

/// Times in Unix seconds are below this: in the year 5138.
const LATEST: f64 = 1e11;

pub(super) fn routes() -> Router<Live> {
    Router::new().route("/api/v1/history", get(points))
}

/// Points that are asked for; the times as they were given.
pub(super) struct Asked {
    query: PointsQuery,
    from: Option<f64>,
    to: Option<f64>,
}

impl FromGiven for Asked {
    const NAMES: &'static [&'static str] = &["id", "ledger", "field", "from", "to", "step", "heat"];
    const REPEATED: &'static [&'static str] = &["id", "ledger", "field"];

    fn from_given(given: &Given) -> Result<Asked, String> {
        let number = |text: &str| text.parse().ok().filter(|number: &f64| (0.0..=LATEST).contains(number));
        let from = given.parsed("from", "a time in Unix seconds", number)?;
        let to = given.parsed("to", "a time in Unix seconds", number)?;
        let above = |text: &str| number(text).filter(|step| *step > 0.0);
        let step = given.parsed("step", "a number of seconds above 0", above)?;
        let series = |id: &str| {
            let wrong =
                || format!("`{}` is no id of a series, as `/api/v1/series` has them", crate::untrusted::Escaped(id));
            Series::from_id(id).ok_or_else(wrong)
        };
        let query = PointsQuery {
            series: given.all("id").map(series).collect::<Result<_, _>>()?,
            ledger: given.all("ledger").map(String::from).collect(),
            fields: given.all("field").map(String::from).collect(),
            step,
            heat: given.flag("heat")?,
            ..PointsQuery::default()
        };
        Ok(Asked { query, from, to })
    }
}

/// The interval that is not closed yet.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
struct OpenInterval {
    /// Its begin, Unix seconds.
    from: f64,
    /// When it will end.
    to: f64,
    /// Now.
    now: f64,
}

/// Points, and the interval that is open.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PointsAnswer {
    #[serde(flatten)]
    points: Points,
    /// `null` before the first interval has ended.
    open: Option<OpenInterval>,
}

/// Who keeps points for longer than the history.
#[derive(Clone, Debug)]
pub struct Past {
    archive: Arc<dyn Archive>,
    /// One reads at a time: it takes the disk, and a thread.
    turn: Arc<Semaphore>,
}

impl Past {
    /// Points of this archive.
    pub fn new(archive: Arc<dyn Archive>) -> Past {
        Past { archive, turn: Arc::new(Semaphore::new(1)) }
    }

    /// Reads points; `None` if they cannot be read, which the log says.
    async fn read(&self, query: ArchiveQuery) -> Result<Option<Archived>, Response> {
        // It is never closed.
        let turn = Arc::clone(&self.turn).acquire_owned().await;
        let archive = Arc::clone(&self.archive);
        let read = spawn_blocking(move || {
            let _turn = turn;
            archive.read(&query)
        });
        match read.await {
            Ok(Ok(archived)) => Ok(Some(archived)),
            Ok(Err(ArchiveError::TooMuch(message))) => Err(web::too_costly(&message)),
            Ok(Err(error)) => {
                tracing::warn!(%error, "what is older than the history cannot be read");
                Ok(None)
            }
            Err(error) => {
                tracing::error!(%error, "what is older than the history could not be read");
                Ok(None)
            }
        }
    }
}

/// Points of the history.
async fn in_memory(state: &AppState, query: PointsQuery) -> Result<Points, Response> {
    let history = state.history.clone();
    let points = state.bodies.work(move || history.points(&query)).await?;
    points.map_err(|error| web::too_costly(&error.to_string()))
}

/// What is too much of a query.
fn excess(query: &PointsQuery) -> Option<Response> {
    let longest = query.ledger.iter().chain(&query.fields).map(String::len).max().unwrap_or(0);
    let limits = [
        ("max_series", "series", query.series.len(), MOST_SERIES),
        ("max_ledger", "paths of the ledger", query.ledger.len(), MOST_LEDGER),
        ("max_fields", "fields", query.fields.len(), MOST_FIELDS),
        ("max_name", "bytes of a name", longest, MOST_NAME),
    ];
    let (limit, what, count, most) = limits.into_iter().find(|(_, _, count, most)| count > most)?;
    Some(web::too_much(limit, &format!("{count} {what}; at most {most}")))
}

/// Points over time
///
/// Of series by their ids, and of numbers of the ledger by their paths. The time of a point is the end of its interval; what is
/// missing is `null`. Where a point is several intervals its numbers are means per interval.
#[utoipa::path(
    get,
    path = "/api/v1/history",
    params(
        ("id" = Option<Vec<String>>, Query, description = "Series, as `/api/v1/series` has them; at most 20", max_items = 20),
        ("ledger" = Option<Vec<String>>, Query, description = "Paths in the ledger, such as `lines.read`, `sinks.graphite.queued`, `datagrams`; at most 40"),
        ("field" = Option<Vec<String>>, Query, description = "Only these fields of series, such as `rate` or `p99`"),
        ("from" = Option<f64>, Query, description = "From here on, Unix seconds; half an hour before `to` by default", minimum = 0),
        ("to" = Option<f64>, Query, description = "To here, Unix seconds; now by default", minimum = 0),
        ("step" = Option<f64>, Query, description = "Distance of points, seconds; by default the finest that there is for `from`. At most 2,000 points of a series", exclusive_minimum = 0),
        ("heat" = Option<u8>, Query, description = "1: coarse histograms of timers, from the first time on that somebody asks for them", minimum = 0, maximum = 1),
    ),
    responses((status = 200, body = PointsAnswer)),
)]
pub(super) async fn points(
    State(state): State<AppState>,
    headers: HeaderMap,
    Parameters(asked): Parameters<Asked>,
) -> Result<Response, Response> {
    if let Some(off) = no_history(&state) {
        return Err(off);
    }
    let Asked { mut query, from, to } = asked;
    if let Some(refusal) = excess(&query) {
        return Err(refusal);
    }
    let now = unix_time();
    query.to = to.unwrap_or(now);
    query.from = from.unwrap_or((query.to - USUAL_SECS).max(0.0));
    if query.from >= query.to {
        return Err(web::bad_request("`from` is before `to`, and `to` is now if it is not given"));
    }
    query.check().map_err(|error| web::too_costly(&error.to_string()))?;
    // What is older than the history has no interval: it is read each time.
    let is_past = state.past.is_some() && state.history.before(&query).is_some();
    let tag = caching::history_tag(&state).filter(|_| !is_past);
    if let Some(unchanged) = tag.as_deref().and_then(|tag| caching::unchanged(&headers, tag)) {
        return Ok(unchanged);
    }
    let points = match (&state.past, state.history.before(&query)) {
        (Some(past), Some((older, rest))) => {
            let (from, to) = (query.from, query.to);
            let archived = past.read(older).await?;
            let mut points = in_memory(&state, rest).await?;
            points.to = to;
            match archived {
                Some(archived) => points.prepend(from, archived),
                None => points.from = from,
            }
            points
        }
        _ => in_memory(&state, query).await?,
    };
    let history = state.history.clone();
    let answer = state.bodies.work(move || {
        let open = history.last_end().map(|from| OpenInterval { from, to: from + points.interval, now });
        line(&PointsAnswer { points, open })
    });
    let mut response = state.bodies.whole(web::JSON, answer.await?).await?;
    if let Some(tag) = tag {
        caching::mark(&mut response, &tag, caching::ASK_AGAIN);
    }
    Ok(response)
}
