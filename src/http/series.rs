//! `/api/v1/series`: which series there are; `/api/v1/series/details`: one of them.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::get;
use serde::Serialize;
use utoipa::ToSchema;

use crate::explain::{GoesTo, Rule};
use crate::history::{ByTag, Cursor, Details, SearchError, SearchQuery, SeriesInfo, SeriesPage, Sort, Wanted};
use crate::protocol::Kind;
use crate::senders::Share;
use crate::series::Series;
use crate::snapshot::{Point, Snapshot};
use crate::web::{self, FromGiven, Given, Parameters, error, line};

use super::caching;
use super::snapshot::KindName;
use super::{AppState, Live};

/// Series of a page: usually, and at most.
const USUAL: u64 = 50;
const MOST: u64 = 200;

/// Most points of a sparkline.
const MOST_SPARK: u64 = 120;

pub(super) fn routes() -> Router<Live> {
    Router::new().route("/api/v1/series", get(list)).route("/api/v1/series/details", get(details))
}

/// The answer where there is no history.
pub(super) fn no_history(state: &AppState) -> Option<Response> {
    let off = || error(StatusCode::NOT_FOUND, "history_off", "there is no history: `history.enabled = false`");
    (!state.history.is_enabled()).then(off)
}

/// What is searched for.
pub(super) struct Asked {
    text: String,
    wanted: Result<Wanted, SearchError>,
    sort: Sort,
    limit: usize,
    cursor: Option<Cursor>,
    spark: usize,
    facets: bool,
}

/// The kind of series that is asked for.
fn kind(given: &Given) -> Result<Option<Kind>, String> {
    given.one_of("kind", &Kind::OF_SERIES.map(Kind::name), Kind::of_series)
}

impl FromGiven for Asked {
    const NAMES: &'static [&'static str] =
        &["q", "kind", "tag", "prefix", "sort", "limit", "cursor", "spark", "facets"];
    const REPEATED: &'static [&'static str] = &["tag"];

    fn from_given(given: &Given) -> Result<Asked, String> {
        let text = given.text("q").unwrap_or("").to_string();
        let kind = kind(given)?;
        let tags: Vec<String> = given.all("tag").map(String::from).collect();
        if let Some(tag) = tags.iter().find(|tag| !tag.contains(':')) {
            return Err(format!("`tag` is `key:value`, and not `{}`", crate::untrusted::Escaped(tag)));
        }
        let by_name = |name: &str| Sort::ALL.iter().find(|(known, _)| *known == name).map(|(_, sort)| *sort);
        Ok(Asked {
            wanted: Wanted::new(&text, kind, &tags, given.text("prefix")),
            text,
            sort: given.parsed("sort", "one of name, loudest, changed, newest", by_name)?.unwrap_or_default(),
            limit: given.number("limit", 1..=MOST)?.unwrap_or(USUAL) as usize,
            cursor: given.parsed("cursor", "the `next` of another page", Cursor::parse)?,
            spark: given.number("spark", 0..=MOST_SPARK)?.unwrap_or(0) as usize,
            facets: given.flag("facets")?,
        })
    }
}

/// Series that match a search
///
/// One page of them, with the number that is shown of each. A series that is not sent any more stays until the history has
/// nothing of it. The daemon's own series, those of presence among them, are found by a `q` or a `prefix` that begins
/// with `systole` or `presence` only.
#[utoipa::path(
    get,
    path = "/api/v1/series",
    params(
        ("q" = Option<String>, Query, description = "Words that must all match: part of the name or of a tag; `key:value` a tag whose value begins so; `key:` a tag with this key; with `*` or `?` a pattern of the whole name. Any case"),
        ("kind" = Option<KindName>, Query, description = "Only of this kind"),
        ("tag" = Option<Vec<String>>, Query, description = "`key:value`: only with this tag, or with all if there are several"),
        ("prefix" = Option<String>, Query, description = "Only names that begin so"),
        ("sort" = Option<String>, Query, description = "`name` (default), `loudest`, `changed` or `newest`", pattern = "^(name|loudest|changed|newest)$"),
        ("limit" = Option<u64>, Query, description = "Series of a page: 1 to 200, 50 by default", minimum = 1, maximum = 200),
        ("cursor" = Option<String>, Query, description = "`next` of the page before"),
        ("spark" = Option<u64>, Query, description = "Points of a sparkline: 0 to 120, 0 by default", minimum = 0, maximum = 120),
        ("facets" = Option<u8>, Query, description = "1: count kinds, prefixes and tags of those that match", minimum = 0, maximum = 1),
    ),
    responses((status = 200, body = SeriesPage)),
)]
pub(super) async fn list(
    State(state): State<AppState>,
    headers: HeaderMap,
    Parameters(asked): Parameters<Asked>,
) -> Result<Response, Response> {
    if let Some(off) = no_history(&state) {
        return Err(off);
    }
    let Asked { text, wanted, sort, limit, cursor, spark, facets } = asked;
    let wanted = wanted.map_err(refused)?;
    let query = SearchQuery { wanted, text, sort, limit, cursor, spark, facets };
    let tag = caching::history_tag(&state);
    if let Some(unchanged) = tag.as_deref().and_then(|tag| caching::unchanged(&headers, tag)) {
        return Ok(unchanged);
    }
    let history = state.history.clone();
    let page = state.bodies.work(move || {
        let began = Instant::now();
        let mut page = history.search(&query)?;
        page.took_ms = (began.elapsed().as_secs_f64() * 1e5).round() / 1e2;
        Ok(line(&page))
    });
    let mut response = state.bodies.whole(web::JSON, page.await?.map_err(refused)?).await?;
    if let Some(tag) = tag {
        caching::mark(&mut response, &tag, caching::ASK_AGAIN);
    }
    Ok(response)
}

/// The answer to a search that cannot be made.
pub(super) fn refused(error: SearchError) -> Response {
    match error {
        SearchError::Control => web::bad_request(&error.to_string()),
        SearchError::Long => web::too_much("max_query", &error.to_string()),
        SearchError::Costly => web::too_much("max_pattern_steps", &error.to_string()),
    }
}

/// Which series is meant.
pub(super) struct Which(Series);

impl FromGiven for Which {
    const NAMES: &'static [&'static str] = &["id", "kind", "name", "tag"];
    const REPEATED: &'static [&'static str] = &["tag"];

    fn from_given(given: &Given) -> Result<Which, String> {
        let id = given.parsed("id", "`kind:name;key=value` as `/api/v1/series` has it", Series::from_id)?;
        let kind = kind(given)?;
        match (id, kind, given.text("name")) {
            (Some(series), None, None) if given.all("tag").next().is_none() => Ok(Which(series)),
            (None, Some(kind), Some(name)) => {
                let tag = |tag: &'_ str| {
                    tag.split_once(':')
                        .map_or((tag.to_string(), None), |(key, value)| (key.to_string(), Some(value.to_string())))
                };
                let tags: Vec<(String, Option<String>)> = given.all("tag").map(tag).collect();
                let tags: Vec<(&str, Option<&str>)> =
                    tags.iter().map(|(key, value)| (key.as_str(), value.as_deref())).collect();
                Ok(Which(Series::new(kind, name, &tags)))
            }
            _ => Err("say which series: either `id`, or `kind` and `name` with a `tag` for each of its tags".into()),
        }
    }
}

/// One series in detail.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SeriesDetails {
    /// The series.
    series: SeriesInfo,
    /// The rule that treats it; `null` if none does.
    rule: Option<Rule>,
    /// Percentiles of a timer.
    percentiles: Vec<f64>,
    /// Patterns of the keys of tags that this rule drops.
    dropped_tags: Vec<String>,
    /// Sinks that get it.
    goes_to: Vec<GoesTo>,
    /// Who sends it, as far as it is known.
    senders: Vec<Share>,
    /// Series of the same name that differ in one tag, by tag.
    by_tag: Vec<ByTag>,
    /// Whether percentiles of the last interval are exact.
    exact: bool,
}

/// The rule that treats a series, and the patterns of the tags that it drops.
pub(super) fn rule_of(state: &AppState, series: &Series) -> (Option<Rule>, Vec<String>) {
    let Some(met) = state.explainer.rule_of(series) else { return (None, Vec::new()) };
    let dropped = met.drop_tags.clone();
    (Some(state.explainer.rule(met)), dropped)
}

/// The series alone as the last interval has it, to see which sinks get it.
fn alone(snapshot: &Snapshot, series: &Series) -> Option<Snapshot> {
    let empty = Snapshot {
        rate_secs: snapshot.rate_secs,
        interval_secs: snapshot.interval_secs,
        policy: Arc::clone(&snapshot.policy),
        overrides: snapshot.overrides.clone(),
        stats_prefix: snapshot.stats_prefix.clone(),
        ..Snapshot::default()
    };
    let mut points = (0..).map_while(|n| snapshot.point(n));
    Some(match points.find(|point| point.series() == series)? {
        Point::Counter(point) => Snapshot { counters: vec![point.clone()], ..empty },
        Point::Gauge(point) => Snapshot { gauges: vec![point.clone()], ..empty },
        Point::Timer(point) => Snapshot { timers: vec![point.clone()], ..empty },
        Point::Set(point) => Snapshot { sets: vec![point.clone()], ..empty },
        Point::Kv(point) => Snapshot { kvs: vec![point.clone()], ..empty },
    })
}

/// Sinks that get a series, if the last interval has it.
pub(super) fn goes_to(state: &AppState, snapshot: Option<&Snapshot>, series: &Series) -> Vec<GoesTo> {
    let alone = snapshot.and_then(|snapshot| alone(snapshot, series));
    alone.map_or_else(Vec::new, |alone| state.explainer.destinations(&alone))
}

/// One series in detail
///
/// Its shown number, its percentiles, and the series of the same name that differ in one tag.
#[utoipa::path(
    get,
    path = "/api/v1/series/details",
    params(
        ("id" = Option<String>, Query, description = "The series, as `/api/v1/series` has it"),
        ("kind" = Option<KindName>, Query, description = "Without `id`: its kind"),
        ("name" = Option<String>, Query, description = "Without `id`: its name"),
        ("tag" = Option<Vec<String>>, Query, description = "Without `id`: its tags, `key:value` or `key`"),
    ),
    responses((status = 200, body = SeriesDetails), (status = 404, description = "It is not known")),
)]
pub(super) async fn details(
    State(state): State<AppState>,
    Parameters(Which(series)): Parameters<Which>,
) -> Result<Response, Response> {
    if let Some(off) = no_history(&state) {
        return Err(off);
    }
    let (history, wanted) = (state.history.clone(), series.clone());
    let known = state.bodies.work(move || history.details(&wanted)).await?;
    let Some(Details { series: info, percentiles, by_tag, exact }) = known else {
        let message = format!("no series `{}`; `/api/v1/series` has those that there are", series.id());
        return Err(error(StatusCode::NOT_FOUND, "unknown", &message));
    };
    let (rule, dropped_tags) = rule_of(&state, &series);
    let (of_sinks, wanted) = (state.clone(), series.clone());
    let snapshot = state.flusher.published_whole().await.snapshot.clone();
    // A million series take a while to look through.
    let goes_to = state.bodies.work(move || goes_to(&of_sinks, snapshot.as_deref(), &wanted)).await?;
    let details = SeriesDetails {
        series: info,
        rule,
        percentiles,
        dropped_tags,
        goes_to,
        senders: state.senders.of_series(series.name()),
        by_tag,
        exact,
    };
    state.bodies.whole(web::JSON, line(&details)).await
}
