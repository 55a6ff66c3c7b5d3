//! What happened, in order.

use axum::extract::State as Extract;
use axum::response::Response;
use maud::{Markup, html};

use crate::http::AppState;
use crate::http::verdict;
use crate::journal::{EntryKind, Query};
use crate::web::{Parameters, bad_request};

use super::data::{self, Happened};
use super::frame::{Frame, View};
use super::now::event_list;
use super::parts::{Wire, count, icon};
use super::query::{OfEvents, State, StateParameters};

/// Most events on the page; the API has all that are kept.
const EVENTS: usize = 200;
/// What happened
#[utoipa::path(
    get,
    path = "/events",
    params(
        ("state" = Option<String>, Query, description = "Only events of this kind"),
        StateParameters,
    ),
    responses((status = 200, description = "The page", content_type = "text/html", body = String)),
)]
pub(super) async fn page(
    Extract(state): Extract<AppState>,
    Parameters(OfEvents(query)): Parameters<OfEvents>,
) -> Result<Response, Response> {
    let kind = match query.state.as_deref() {
        None => None,
        Some(name) => Some(EntryKind::from_name(name).ok_or_else(|| {
            let names: Vec<&str> = EntryKind::ALL.iter().map(|kind| kind.as_str()).collect();
            bad_request(&format!("`state` is one of {}", names.join(", ")))
        })?),
    };
    let look = verdict::look(&state).await;
    let text = query.q.clone().unwrap_or_default();
    let all = data::happened(&state, &Query { since: 0, kind, text, most: EVENTS });
    let frame =
        Frame { state: &state, view: View::Events, query: &query, look: &look, path: "/events", title: Some("events") };
    frame.page(None, content(&query, kind, &all)).await
}

fn plural(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::Event => "Events",
        EntryKind::ServiceCheck => "Service checks",
        EntryKind::Presence => "Presence",
        EntryKind::Sink => "Sinks",
        EntryKind::Limit => "Limits",
        EntryKind::Loss => "Losses",
        EntryKind::Part => "Parts",
        EntryKind::Series => "New prefixes",
        EntryKind::Start => "Starts",
    }
}

fn content(query: &State, kind: Option<EntryKind>, all: &[Happened]) -> Markup {
    html! {
        form.seek role="search" action="/events" {
            label.find {
                (icon("search")) span.hide { "Find an event" }
                input type="search" name="q" value=(Wire(query.q.as_deref().unwrap_or(""))) data-filter="events" placeholder="Words of an event" autocomplete="off" spellcheck="false";
            }
            @for (name, value) in query.hidden(&["q"]) { input type="hidden" name=(name) value=(Wire(value)); }
            nav.chips aria-label="Kind" {
                a.chip href=(query.link("/events", &[("state", None)])) aria-current=[kind.is_none().then_some("true")] { "All" }
                @for one in EntryKind::ALL {
                    a.chip href=(query.link("/events", &[("state", Some(one.as_str()))])) aria-current=[(kind == Some(one)).then_some("true")] { (plural(one)) }
                }
            }
        }
        section.card data-live="events" {
            header { h2 { "What happened" } span.sub { "newest first" } span.muted { (count(all.len(), "event")) } }
            @if all.is_empty() {
                p.empty { @if query.q.is_some() || kind.is_some() { b { "No event matches." } " " a href="/events" { "Show all" } } @else { "Nothing has happened yet." } }
            } @else { (event_list(all, true)) }
        }
    }
}
