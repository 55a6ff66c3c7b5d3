//! `/api/v1/stream`: server-sent events for everything that a page shows live. One message an interval, made once for all who
//! asked for the same, has the values of chosen series, the ledger, and what happened; changes of presence come at once.
//!
//! | file | does |
//! |---|---|
//! | `hub` | a task that sees each interval, and hands messages to the clients |
//! | `client` | what waits for one client: two messages, the older of which gives way |
//! | `message` | what an interval is made into |
//! | `lookup` | finds chosen series among all of an interval |
//!
//! Nothing waits for a client, and a client that does not read holds no more than two messages and what the kernel takes; it
//! is cut as every large answer is ([`crate::web::Bodies`]).

mod client;
mod hub;
mod lookup;
mod message;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;

use crate::series::Series;
use crate::untrusted::excerpt;
use crate::web::{FromGiven, Given, Held, Parameters, error};

use super::AppState;

pub use hub::{Sources, Streams};

use client::Position;

/// Most series of a stream.
const MOST_SERIES: usize = 100;

/// Longest id, in bytes: a name and its tags are not longer in a line.
const MOST_ID: usize = 16 << 10;

/// Longest message, in bytes.
const MOST_MESSAGE: usize = 64 << 10;

/// What server-sent events say of themselves.
pub(super) const EVENT_STREAM: &str = "text/event-stream";

/// What a stream is about; several may be wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Topics(u8);

impl Topics {
    const INTERVAL: Topics = Topics(1);
    const LEDGER: Topics = Topics(2);
    const EVENTS: Topics = Topics(4);
    const PRESENCE: Topics = Topics(8);
    const NAMES: [(&'static str, Topics); 4] = [
        ("interval", Topics::INTERVAL),
        ("ledger", Topics::LEDGER),
        ("events", Topics::EVENTS),
        ("presence", Topics::PRESENCE),
    ];

    const ALL: Topics = Topics(15);

    fn has(self, one: Topics) -> bool {
        self.0 & one.0 != 0
    }

    /// Topics with a comma between them; `None` if one is unknown, or there is none.
    fn parse(text: &str) -> Option<Topics> {
        let one = |name: &str| Topics::NAMES.iter().find(|(known, _)| *known == name.trim()).map(|(_, topic)| topic.0);
        text.split(',').map(one).try_fold(0, |all, topic| Some(all | topic?)).map(Topics)
    }
}

/// What a client asked for. Equal ones get the same messages.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Subscription {
    topics: Topics,
    /// In their order, each once.
    series: Vec<Series>,
}

impl FromGiven for Subscription {
    const NAMES: &'static [&'static str] = &["topics", "id"];
    const REPEATED: &'static [&'static str] = &["id"];

    fn from_given(given: &Given) -> Result<Subscription, String> {
        let names: Vec<&str> = Topics::NAMES.iter().map(|(name, _)| *name).collect();
        let right = format!("a list of {} with commas between them", names.join(", "));
        let topics = given.parsed("topics", &right, Topics::parse)?.unwrap_or(Topics::ALL);
        let count = given.all("id").count();
        if count > MOST_SERIES {
            return Err(format!("`id` is given {count} times; at most {MOST_SERIES}"));
        }
        let read = |id: &str| {
            let wrong = || {
                let id = excerpt(id.as_bytes(), 60);
                format!("`id` is that of a series, such as `counter:api.hits;route=/a`, and not `{id}`")
            };
            Series::from_id(id).filter(|_| id.len() <= MOST_ID).ok_or_else(wrong)
        };
        let mut series = given.all("id").map(read).collect::<Result<Vec<_>, _>>()?;
        series.sort_by(Series::order);
        series.dedup();
        Ok(Subscription { topics, series })
    }
}

/// A stream of intervals and of what happens
///
/// Server-sent events. `interval`: once an interval, the values of the series that were asked for, the ledger of the interval,
/// and the verdict. `event`: as `/api/v1/events` has them. `presence`: as `/api/v1/presence/events`, at once. `gap`: so many
/// messages were missed. A comment comes when nothing else did for 15 s.
#[utoipa::path(
    get,
    path = "/api/v1/stream",
    params(
        ("topics" = Option<String>, Query, description = "`interval`, `ledger`, `events`, `presence`, with commas between them; all by default"),
        ("id" = Option<Vec<String>>, Query, description = "Ids of series whose values are wanted, at most 100"),
        ("Last-Event-ID" = Option<String>, Header, description = "The id of the last message that came: what happened since comes first"),
    ),
    responses((status = 200, content_type = "text/event-stream", body = String), (status = 503, description = "64 streams are open")),
)]
pub(super) async fn stream(
    State(state): State<AppState>,
    Parameters(subscription): Parameters<Subscription>,
    headers: HeaderMap,
) -> Result<Response, Response> {
    let busy = |message| error(StatusCode::SERVICE_UNAVAILABLE, "busy", message);
    let Ok(place) = state.streams.clone().try_acquire_owned() else {
        return Err(busy("too many event streams are open"));
    };
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok());
    let Some(reader) = state.live.open(subscription, last.map(Position::parse), place).await else {
        return Err(busy("the daemon stops: no more intervals are closed"));
    };
    // What waits is accounted for by itself.
    state.bodies.streamed(Held::Bytes(0), EVENT_STREAM, reader.pieces()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_a_list_of_names() {
        for (text, expected) in [
            ("interval", Some(Topics::INTERVAL)),
            ("ledger, events", Some(Topics(6))),
            ("interval,ledger,events,presence", Some(Topics::ALL)),
            ("", None),
            ("interval,", None),
            ("intervals", None),
        ] {
            assert_eq!(Topics::parse(text), expected, "{text}");
        }
    }
}
