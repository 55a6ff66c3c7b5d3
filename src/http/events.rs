//! `/api/v1/events`: what happened, from the journal.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use crate::codec::Tags;
use crate::journal::{Entry, EntryKind, MOST_ENTRIES, Query, Severity};
use crate::web::{self, FromGiven, Given, Parameters, line};

use super::AppState;

/// Entries of an answer where nobody says how many.
const USUAL: u64 = 100;

/// The largest id: beyond it not every reader of JSON knows a whole number.
const MOST_ID: u64 = (1 << 53) - 1;

/// Longest text to look for, in characters.
const MOST_TEXT: usize = 1024;

/// Something that happened.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Event<'a> {
    /// A number that grows, as text.
    id: String,
    /// Unix seconds.
    time: f64,
    /// What it is about.
    #[schema(value_type = String, examples("event", "service_check", "presence", "sink", "limit", "loss", "part", "series", "start"))]
    kind: EntryKind,
    /// How grave it is.
    #[schema(value_type = String, examples("ok", "info", "warning", "error"))]
    level: Severity,
    /// One line.
    title: &'a str,
    /// More, or empty.
    text: &'a str,
    /// Tags of the client: `null` without a value, an array for a key with several values.
    #[schema(value_type = Object)]
    tags: EntryTags<'a>,
    /// The service that it is about.
    service: Option<&'a str>,
    /// The id of the series that it is about.
    series: Option<String>,
}

#[derive(Debug)]
struct EntryTags<'a>(&'a [(String, Option<String>)]);

impl Serialize for EntryTags<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Tags(self.0.iter().map(|(key, value)| (key.as_str(), value.as_deref()))).serialize(serializer)
    }
}

impl<'a> Event<'a> {
    /// An entry of the journal, as clients see it.
    pub(super) fn of(entry: &'a Entry) -> Event<'a> {
        Event {
            id: entry.number.to_string(),
            time: entry.time,
            kind: entry.kind,
            level: entry.level,
            title: &entry.title,
            text: &entry.text,
            tags: EntryTags(&entry.tags),
            service: entry.service.as_deref(),
            series: entry.series.as_ref().map(crate::series::Series::id),
        }
    }
}

/// The newest first.
#[derive(Debug, Serialize, ToSchema)]
struct Events<'a> {
    events: Vec<Event<'a>>,
    /// How many there were since the start that are not kept any more.
    dropped: u64,
}

/// Kinds of events, for the document.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case", as = EventKind)]
#[expect(dead_code, reason = "it describes a parameter")]
pub(super) enum KindName {
    Event,
    ServiceCheck,
    Presence,
    Sink,
    Limit,
    Loss,
    Part,
    Series,
    Start,
}

/// Which events are asked for.
#[derive(Clone, Debug)]
pub(super) struct Wanted(Query);

impl FromGiven for Wanted {
    const NAMES: &'static [&'static str] = &["since", "limit", "kind", "q"];

    fn from_given(given: &Given) -> Result<Wanted, String> {
        let since = given.number("since", 0..=MOST_ID)?.unwrap_or(0);
        let most = given.number("limit", 1..=MOST_ENTRIES as u64)?.unwrap_or(USUAL) as usize;
        let names: Vec<&str> = EntryKind::ALL.iter().map(|kind| kind.as_str()).collect();
        let kind = given.one_of("kind", &names, EntryKind::from_name)?;
        let text = given.bounded("q", MOST_TEXT)?.unwrap_or("").to_string();
        Ok(Wanted(Query { since, kind, text, most }))
    }
}

/// The last 1,000 things that happened
///
/// Events and changed service checks of clients, changes of presence, sinks that fail and recover, limits and losses that
/// begin and are over, parts of the daemon that failed, and its start; newest first.
#[utoipa::path(
    get,
    path = "/api/v1/events",
    params(
        ("since" = Option<u64>, Query, description = "Only events after the one with this id; all if it is not known", minimum = 0, maximum = 9_007_199_254_740_991_i64),
        ("limit" = Option<u64>, Query, description = "At most so many, the newest: 1 to 1000, 100 by default", minimum = 1, maximum = 1000),
        ("kind" = Option<KindName>, Query, description = "Only of this kind"),
        ("q" = Option<String>, Query, description = "Only events that contain this text, in any case", max_length = 1024),
    ),
    responses((status = 200, description = "What happened", body = Events)),
)]
pub(super) async fn events(
    State(state): State<AppState>,
    Parameters(Wanted(query)): Parameters<Wanted>,
) -> Result<Response, Response> {
    let (found, dropped): (Vec<Arc<Entry>>, u64) = state.journal.find(&query);
    let answer = Events { events: found.iter().map(|entry| Event::of(entry)).collect(), dropped };
    state.bodies.whole(web::JSON, line(&answer)).await
}
