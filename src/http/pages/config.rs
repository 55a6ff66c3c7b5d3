//! What is in force, secrets masked, and where it is set.

use std::collections::BTreeMap;

use axum::extract::State as Extract;
use axum::response::Response;
use maud::{Markup, html};
use serde_json::Value;

use crate::http::AppState;
use crate::http::verdict;
use crate::web::Parameters;

use super::data;
use super::frame::{Frame, View};
use super::parts::{Wire, count, icon};
use super::query::{OfConfig, State, StateParameters};

/// Most settings on the page; the API has all.
const SETTINGS: usize = 290;
/// What is in force, secrets masked
#[utoipa::path(
    get,
    path = "/config",
    params(
        ("state" = Option<String>, Query, description = "`set` for settings that are not at their defaults"),
        StateParameters,
    ),
    responses((status = 200, description = "The page", content_type = "text/html", body = String)),
)]
pub(super) async fn page(
    Extract(state): Extract<AppState>,
    Parameters(OfConfig(query)): Parameters<OfConfig>,
) -> Result<Response, Response> {
    let look = verdict::look(&state).await;
    let config = data::config(&state);
    let frame = Frame {
        state: &state,
        view: View::Configuration,
        query: &query,
        look: &look,
        path: "/config",
        title: Some("configuration"),
    };
    frame.page(Some(html! { h1.hide { "Configuration" } }), content(&query, &config)).await
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("")
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn is_set(setting: &Value) -> bool {
    text(&setting["from"]) != "default"
}

fn content(query: &State, config: &Value) -> Markup {
    let all = config["settings"].as_array().map_or(&[][..], Vec::as_slice);
    let q = query.q.as_deref().unwrap_or("").to_lowercase();
    let only_set = query.state.as_deref() == Some("set");
    let has = |setting: &&Value| {
        (q.is_empty()
            || text(&setting["path"]).to_lowercase().contains(&q)
            || text(&setting["about"]).to_lowercase().contains(&q))
            && (!only_set || is_set(setting))
    };
    let found: Vec<&Value> = all.iter().filter(has).collect();
    let mut sections: BTreeMap<(bool, &str), Vec<&Value>> = BTreeMap::new();
    for setting in found.iter().take(SETTINGS) {
        let path = text(&setting["path"]);
        let section = path.rsplit_once('.').map_or("", |(section, _)| section);
        sections.entry((!section.is_empty(), section)).or_default().push(setting);
    }
    let set = all.iter().filter(|setting| is_set(setting)).count();
    html! {
        form.seek role="search" action="/config" {
            label.find {
                (icon("search")) span.hide { "Find a setting" }
                input type="search" name="q" value=(Wire(query.q.as_deref().unwrap_or(""))) data-filter="config" placeholder="A setting, or what it does" autocomplete="off" spellcheck="false";
                span.muted role="status" data-live="found" { (count(found.len(), "setting")) }
            }
            @for (name, value) in query.hidden(&["q"]) { input type="hidden" name=(name) value=(Wire(value)); }
            nav.chips aria-label="Which" {
                a.chip href=(query.link("/config", &[("state", None)])) aria-current=[(!only_set).then_some("true")] { "All" }
                a.chip href=(query.link("/config", &[("state", Some("set"))])) aria-current=[only_set.then_some("true")] { (set) " set" }
            }
        }
        section.card data-live="settings" {
            header {
                h2 { "In force" }
                @match config["file"].as_str() {
                    Some(file) => span.sub { "from " span.mono { (Wire(file)) } ", the environment and the command line; secrets are masked" },
                    None => span.sub { "without a file: defaults, the environment and the command line; secrets are masked" },
                }
            }
            @if found.is_empty() { p.empty { b { "No setting matches." } " " a href="/config" { "Show all" } } }
            @else {
                table.set {
                    thead { tr { th scope="col" { "Setting" } th scope="col" { "Value" } th scope="col" { "Default" } th scope="col" { "Set in" } th scope="col" { "What it does" } } }
                    @for ((_, section), settings) in &sections {
                        tbody {
                            tr { th colspan="5" scope="rowgroup" { @if section.is_empty() { "Everywhere" } @else { "[" (Wire(section)) "]" } } }
                            @for setting in settings { (row(setting)) }
                        }
                    }
                }
                @if found.len() > SETTINGS { p.muted { "The first " (SETTINGS) " are shown." } }
            }
        }
    }
}

fn row(setting: &Value) -> Markup {
    let path = text(&setting["path"]);
    let key = path.rsplit_once('.').map_or(path, |(_, key)| key);
    let from = text(&setting["from"]);
    let place = match (from, setting["line"].as_u64()) {
        ("file", Some(line)) => format!("line {line}"),
        ("default", _) => String::new(),
        (from, _) => from.to_string(),
    };
    html! {
        tr {
            td { span.name title=(path) { (Wire(key)) } }
            td.mono data-says="in force" {
                @let value = plain(&setting["value"]);
                @if value.is_empty() { span.muted { "empty" } } @else if is_set(setting) { b { (Wire(&value)) } } @else { span.muted { (Wire(&value)) } }
            }
            td.mono.muted data-says=[is_set(setting).then_some("default")] { @if is_set(setting) { (Wire(&plain(&setting["default"]))) } }
            td data-says=[(!place.is_empty()).then_some("set in")] { @if !place.is_empty() { span.pill { (place) } } }
            td.muted { (super::frame::coded(text(&setting["about"]))) }
        }
    }
}
