//! `/api/v1/tail`: lines as they arrive, as JSON Lines or server-sent events, without end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream::{self, Stream};
use ipnet::IpNet;
use tokio::time::timeout;

use crate::acl::AccessList;
use crate::codec::write_json;
use crate::tail::{Filter, MOST_CLIENTS, TailItem, TailLine, TailReader};
use crate::web::{FromGiven, Given, Held, Parameters, error};

use super::AppState;
use super::stream::EVENT_STREAM;

/// What JSON Lines say of themselves.
const LINES: &str = "application/x-ndjson";

/// Longest pattern, in bytes.
const MOST_PATTERN: usize = 1024;

/// When nothing was sent for so long, an event stream has a comment and JSON Lines a blank one, so that both ends and those
/// between them know that the other is there.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Which lines are asked for.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    filter: Filter,
    limit: Option<u64>,
}

/// An address, or a network such as `10.0.0.0/8`.
fn network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse().ok().map(|address: std::net::IpAddr| address.into()))
}

impl FromGiven for Wanted {
    const NAMES: &'static [&'static str] = &["match", "invalid", "from", "limit"];

    fn from_given(given: &Given) -> Result<Wanted, String> {
        let name = given.text("match").filter(|name| !name.is_empty());
        if let Some(long) = name.filter(|name| name.len() > MOST_PATTERN) {
            return Err(format!("`match` has {} bytes; at most {MOST_PATTERN}", long.len()));
        }
        let malformed = given.flag("invalid")?;
        let from = given.parsed("from", "an address or a network such as 10.0.0.0/8", network)?;
        let limit = given.number("limit", 1..=1_000_000_000)?;
        let from = from.map_or_else(AccessList::default, |network| AccessList::new(Some(vec![network])));
        Ok(Wanted { filter: Filter { name: name.map(String::from), malformed, from }, limit })
    }
}

/// Lines as they arrive
///
/// JSON Lines, one object a line of the wire, or server-sent events `line` with `Accept: text/event-stream`. It goes on until
/// the client leaves, or has `limit` lines. Lines are sampled: at most 100 a second are shown; `{"skipped":N}` says now and
/// then how many came and were not looked at or not shown.
#[utoipa::path(
    get,
    path = "/api/v1/tail",
    params(
        ("match" = Option<String>, Query, description = "A pattern of the whole name with `*` and `?`, or a text that it contains"),
        ("invalid" = Option<u8>, Query, description = "1: only malformed lines", maximum = 1),
        ("from" = Option<String>, Query, description = "Only lines of this address or network"),
        ("limit" = Option<u64>, Query, description = "End after so many lines", minimum = 1),
    ),
    responses(
        (status = 200, content_type = "application/x-ndjson", body = TailLine),
        (status = 503, description = "8 clients look already"),
    ),
)]
pub(super) async fn tail(
    State(state): State<AppState>,
    Parameters(Wanted { filter, limit }): Parameters<Wanted>,
    headers: HeaderMap,
) -> Result<Response, Response> {
    let Some(reader) = state.tail.open(filter, limit) else {
        let message = format!("{MOST_CLIENTS} clients look at lines already");
        return Err(error(StatusCode::SERVICE_UNAVAILABLE, "busy", &message));
    };
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    let is_stream = accept.contains(EVENT_STREAM);
    let kind = if is_stream { EVENT_STREAM } else { LINES };
    state.bodies.streamed(Held::Bytes(0), kind, pieces(reader, is_stream)).await
}

fn pieces(reader: TailReader, is_stream: bool) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    stream::unfold(Arc::new(reader), move |reader| async move {
        let mut out = Vec::new();
        match timeout(HEARTBEAT, reader.next()).await {
            Ok(None) => return None,
            Ok(Some(item)) => write(&item, is_stream, &mut out),
            Err(_) if is_stream => out.extend_from_slice(b":\n\n"),
            Err(_) => out.push(b'\n'),
        }
        Some((Ok(out.into()), reader))
    })
}

fn write(item: &TailItem, is_stream: bool, out: &mut Vec<u8>) {
    let name = match item {
        TailItem::Line(_) => "line",
        TailItem::Skipped(_) => "skipped",
    };
    if is_stream {
        out.extend_from_slice(format!("event: {name}\ndata: ").as_bytes());
    }
    match item {
        TailItem::Line(line) => write_json(&**line, out),
        TailItem::Skipped(count) => write_json(&serde_json::json!({"skipped": count}), out),
    }
    out.extend_from_slice(if is_stream { b"\n\n" } else { b"\n" });
}
