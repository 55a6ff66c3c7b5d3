//! How a line would be read, and where it would end. Nothing is sent or counted.

use axum::extract::State as Extract;
use axum::response::Response;
use maud::{Markup, html};
use serde_json::Value;

use crate::http::AppState;
use crate::http::verdict;
use crate::presence::describe::length;
use crate::untrusted::in_url;
use crate::web::Parameters;

use super::data;
use super::frame::{Frame, View, coded};
use super::parts::{Wire, amount, pill};
use super::query::{OfExplain, State, StateParameters};

/// Lines that are explained; of more, the first.
const LINES: usize = 20;

/// Sinks and names at each that are shown.
const NAMES: usize = 6;

/// Examples to try.
const EXAMPLES: [(&str, &str); 8] = [
    ("a counter", "page.views:1|c|#route:/cart"),
    ("a sampled timer", "checkout.latency:320:12|ms|@0.5|#route:/pay"),
    ("a set", "users:alice|s"),
    ("a gauge change", "pool.in_use:+5|g"),
    ("Telegraf tags", "cpu,host=web-1:42|g"),
    ("an event", "_e{6,4}:deploy|4.12|t:info"),
    ("a service check", "_sc|db|2|m:no answer"),
    ("a goodbye", "heartbeat.checkout.web-1:0|g"),
];
/// How lines would be read, and where they would end
#[utoipa::path(
    get,
    path = "/explain",
    params(
        ("line" = Option<String>, Query, description = "One or several lines"),
        StateParameters,
    ),
    responses((status = 200, description = "The page", content_type = "text/html", body = String)),
)]
pub(super) async fn page(
    Extract(state): Extract<AppState>,
    Parameters(OfExplain(query)): Parameters<OfExplain>,
) -> Result<Response, Response> {
    let look = verdict::look(&state).await;
    let text = query.line.clone().unwrap_or_default().replace("\r\n", "\n");
    let all = if text.trim().is_empty() { Vec::new() } else { data::explain(&state, &text).await? };
    let frame = Frame {
        state: &state,
        view: View::Explain,
        query: &query,
        look: &look,
        path: "/explain",
        title: Some("explain"),
    };
    let heading = html! { h1.hide { "Explain" } };
    frame.page(Some(heading), content(&query, &text, &all)).await
}

fn content(query: &State, text: &str, all: &[Value]) -> Markup {
    let (good, bad): (Vec<_>, Vec<_>) =
        all.iter().take(LINES).enumerate().partition(|(_, one)| one["ok"] == true && one["heartbeat"].is_null());
    let rows = text.lines().count().clamp(3, 12);
    let bad = html! {
        @for (n, one) in &bad {
            @if one["heartbeat"].is_null() { (refused(*n, one)) } @else { (heartbeat(*n, one)) }
        }
    };
    html! {
        section.card {
            form action="/explain" data-live-form {
                header.seek { h2 { "Type or paste lines" } span.sub { "nothing is sent or counted" } }
                label {
                    span.hide { "Lines" }
                    textarea name="line" rows=(rows) data-explain spellcheck="false" autocapitalize="off" placeholder="checkout.latency:320:12|ms|@0.5|#route:/pay" { (Wire(text)) }
                }
                @for (name, value) in query.hidden(&["line"]) { input type="hidden" name=(name) value=(Wire(value)); }
                p.acts { button.main { "Explain" } }
            }
        }
        div.grid data-live="explained" {
            div.stack.c7 {
                @if all.is_empty() {
                    section.card { p.empty { "A line is cut into its parts here: how it is read, which rule changes it, what is flushed of it, and what each sink calls it." } }
                }
                @for (n, one) in &good { (read(*n, one)) }
                // Where nothing else is to be said, it stands where one looks first.
                @if good.is_empty() { (bad) }
                @if all.len() > LINES { p.muted { "The first " (LINES) " lines are explained." } }
            }
            div.stack.c5.full {
                @if !good.is_empty() { (bad) }
                section.card {
                    header { h2 { "Try one" } }
                    div.chips { @for (words, line) in EXAMPLES { a.chip href=(format!("/explain?line={}", in_url(line))) { (words) } } }
                }
            }
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("")
}

/// A value as it is written, without quotes.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.as_f64().map_or_else(|| number.to_string(), amount),
        Value::Array(all) => all.iter().map(plain).collect::<Vec<_>>().join(", "),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// The colour of a part of a line.
fn class(name: &str) -> &'static str {
    match name {
        "name" => "s1",
        name if name.starts_with("value") => "s3",
        "type" => "s2",
        "sample rate" | "rate" => "s4",
        name if name.starts_with("tag") => "s6",
        "" => "muted",
        _ => "s7",
    }
}

/// A line with a name under each of its parts.
fn parts(one: &Value) -> Markup {
    let all = one["parts"].as_array().map_or(&[][..], Vec::as_slice);
    html! {
        div.parts {
            @for part in all {
                @let name = text(&part["name"]);
                span.(class(name)) { b.on[!name.is_empty()] { (Wire(text(&part["text"]))) } small { (Wire(name)) } }
            }
            @if all.is_empty() { b { (Wire(text(&one["line"]))) } }
        }
    }
}

fn read(n: usize, one: &Value) -> Markup {
    let read = &one["read"];
    let kind = text(&read["kind"]);
    html! {
        section.card {
            header {
                h2 { @if kind.is_empty() { "Read" } @else { "One " (Wire(kind)) } }
                span.sub { "line " (n + 1) ", well-formed, " (text(&one["line"]).len()) " bytes" }
                (pill("ok", "read"))
            }
            (parts(one))
            (step(1, "Read", read_facts(read)))
            (step(2, if one["rule"].is_null() { "No rule matches" } else { "A rule matches" }, rule(one)))
            (step(3, "What is flushed, if nothing else arrives", flushed(one)))
            (step(4, "Goes to", goes_to(one)))
            @if !one["watch"].is_null() { (step(5, "A watch takes it as a heartbeat", watch(&one["watch"]))) }
        }
    }
}

/// What a watch makes of a line.
fn watch(watch: &Value) -> Markup {
    let secs = |key: &str| watch[key].as_f64().map(length);
    html! {
        dl.kv {
            dt { "Watch" } dd.mono { (Wire(text(&watch["match"]))) }
            @if !text(&watch["message"]).is_empty() { dt { "But" } dd { (text(&watch["message"])) } }
            @if !text(&watch["service"]).is_empty() {
                dt { "Instance" }
                dd { span.mono { (Wire(text(&watch["instance"]))) } " of service " a.mono href=(format!("/presence/{}", in_url(text(&watch["service"])))) { (Wire(text(&watch["service"]))) } }
            }
            dt { "Evidence" } dd { (text(&watch["evidence"])) }
            @if let Some(interval) = secs("interval") { dt { "Promises" } dd { "the next one within " (interval) } }
            @if let Some(late) = secs("late_after") { dt { "Late after" } dd { (late) } }
            @if let Some(down) = secs("down_after") { dt { "Down after" } dd { (down) } }
            @if let Some(floor) = watch["floor"].as_u64() { dt { "Floor" } dd { (floor) " lines a minute" } }
        }
    }
}

fn step(n: usize, title: &str, body: Markup) -> Markup {
    html! { div.step { b { (n) } div { h3 { (title) } (body) } } }
}

fn read_facts(read: &Value) -> Markup {
    let tags = read["tags"].as_object();
    html! {
        dl.kv {
            @if !text(&read["name"]).is_empty() { dt { "Name" } dd.mono { (Wire(text(&read["name"]))) } }
            @if !read["samples"].is_null() {
                dt { "Values" }
                dd { (Wire(&plain(&read["samples"]))) @if let Some(rate) = read["rate"].as_f64().filter(|rate| *rate != 1.0 && *rate > 0.0) { span.muted { " each stands for " (amount(1.0 / rate)) " (sample rate " (amount(rate)) ")" } } }
            }
            @if let Some(tags) = tags.filter(|tags| !tags.is_empty()) {
                dt { "Tags" }
                dd { @for (key, value) in tags { span.tag { (Wire(key)) @if !value.is_null() { ":" (Wire(&plain(value))) } } } }
            }
            @for key in ["container", "timestamp", "op"] {
                @if !read[key].is_null() { dt { (key) } dd.mono { (Wire(&plain(&read[key]))) } }
            }
        }
    }
}

fn rule(one: &Value) -> Markup {
    let rule = &one["rule"];
    html! {
        @if rule.is_null() { p.muted { "It is recorded as it is." } }
        @else {
            dl.kv {
                dt { "Match" } dd.mono { (Wire(text(&rule["match"]))) }
                @for (key, value) in rule.as_object().into_iter().flatten().filter(|(key, value)| !matches!(key.as_str(), "match" | "file" | "line") && !value.is_null()) {
                    dt { (Wire(key)) } dd.mono { (Wire(&plain(value))) }
                }
                @if !rule["file"].is_null() { dt { "Set in" } dd.mono { (Wire(text(&rule["file"]))) @if !rule["line"].is_null() { " line " (plain(&rule["line"])) } } }
            }
        }
    }
}

fn flushed(one: &Value) -> Markup {
    let all = one["flushed"].as_array().map_or(&[][..], Vec::as_slice);
    let hidden = ["time", "interval", "type", "name", "tags"];
    html! {
        @if all.is_empty() { p.muted { "Nothing." } }
        @for record in all.iter().take(4) {
            p { span.muted { (Wire(text(&record["type"]))) " " } span.name { (Wire(text(&record["name"]))) }
                @for (key, value) in record["tags"].as_object().into_iter().flatten() { span.tag { (Wire(key)) @if !value.is_null() { ":" (Wire(&plain(value))) } } }
            }
            dl.outs {
                @for (key, value) in record.as_object().into_iter().flatten().filter(|(key, _)| !hidden.contains(&key.as_str())) {
                    @match value.as_object() {
                        Some(inner) => { @for (key, value) in inner { div { dt { "p" (Wire(key)) } dd { (Wire(&plain(value))) } } } },
                        None => div { dt { (Wire(key)) } dd { (Wire(&plain(value))) } },
                    }
                }
            }
        }
    }
}

fn goes_to(one: &Value) -> Markup {
    let all = one["goes_to"].as_array().map_or(&[][..], Vec::as_slice);
    html! {
        @if all.is_empty() { p.muted { "No sink is configured." } }
        dl.kv {
            @for sink in all {
                dt { (Wire(text(&sink["sink"]))) }
                dd.mono {
                    @let names = sink["as"].as_array().map_or(&[][..], Vec::as_slice);
                    @for name in names.iter().take(NAMES) { div { (Wire(text(name))) } }
                    @if names.len() > NAMES { div.muted { (names.len() - NAMES) " more" } }
                }
            }
        }
    }
}

fn refused(n: usize, one: &Value) -> Markup {
    let error = &one["error"];
    let line = text(&one["line"]);
    let place = |key: &str| error[key].as_u64().map_or(line.len(), |at| at as usize).min(line.len());
    let (from, to) = (place("from"), place("to").max(place("from")));
    let is_whole = line.is_char_boundary(from) && line.is_char_boundary(to);
    let (from, to) = if is_whole { (from, to) } else { (line.len(), line.len()) };
    html! {
        section.card.error {
            header { h2 { "Refused" } span.sub { "line " (n + 1) ", " (line.len()) " bytes" } span.{"pill fill"} { (super::parts::icon("error")) (Wire(text(&error["reason"]))) } }
            p.said { (Wire(&line[..from])) span.bad { (Wire(&line[from..to])) } (Wire(&line[to..])) }
            p { b { (Wire(text(&error["message"]))) } }
            @if let Some(write) = error["write"].as_str() { p { "Write " code { (Wire(write)) } "." } }
            @match one["arrives_per_sec"].as_f64() {
                Some(rate) if rate > 0.0 => p.muted { (amount(rate)) " a second like this arrive now. " a href="/senders" { "Show the senders" } },
                _ => p.muted { "No such line arrived in the last interval." },
            }
        }
    }
}

fn heartbeat(n: usize, one: &Value) -> Markup {
    let beat = &one["heartbeat"];
    let secs = |key: &str| beat[key].as_f64().map(length);
    let hidden = ["service", "instance", "interval", "late_after", "down_after", "job"];
    html! {
        section.card {
            header { h2 { "A heartbeat" } span.sub { "line " (n + 1) ", " (text(&one["line"]).len()) " bytes" } (pill("ok", "read")) }
            p.said { (Wire(text(&one["line"]))) }
            dl.kv {
                dt { "Instance" }
                dd { span.mono { (Wire(text(&beat["instance"]))) } " of service " a.mono href=(format!("/presence/{}", in_url(text(&beat["service"])))) { (Wire(text(&beat["service"]))) } }
                @if let Some(interval) = secs("interval") { dt { "Promises" } dd { "the next beat within " (interval) } }
                @if let Some(job) = beat.get("job") {
                    dt { "A run" }
                    dd { (text(&job["counts_as"])) @if let Some(exit) = job["exit"].as_i64() { ", exit " (exit) } @if job["message"].is_string() { ": " (Wire(text(&job["message"]))) } }
                }
                @if let Some(late) = secs("late_after") { dt { "Late after" } dd { (late) } }
                @if let Some(down) = secs("down_after") { dt { "Down after" } dd { (down) } }
                @for (key, value) in beat.as_object().into_iter().flatten().filter(|(key, value)| !hidden.contains(&key.as_str()) && !value.is_null()) {
                    dt { (Wire(&key.replace('_', " "))) } dd.mono { (coded(&plain(value))) }
                }
            }
        }
    }
}
