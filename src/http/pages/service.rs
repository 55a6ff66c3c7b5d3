//! One service, one instance, and the forms that change something: on a page of their own, so that nothing wipes them.

use axum::extract::{Path, State as Extract};
use axum::response::Response;
use compact_str::CompactString;
use maud::{Markup, html};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::http::AppState;
use crate::http::access::{Caller, see_other};
use crate::http::presence::{Announcement, announce, ask, forget, may, unknown};
use crate::http::verdict::{self, Look};
use crate::presence::describe::{how_many, length};
use crate::presence::{Event, InstanceView, JobView, RunResult, ServiceState, ServiceView, UnixTime};
use crate::untrusted::in_url;
use crate::web::{Fields, FromGiven, Given, Nothing, Parameters};

use super::board::{day, event_card, silence, square};
use super::frame::{Frame, View, heading};
use super::parts::{Wire, amount, count, icon, pill};
use super::query::{OfService, Plain, State, StateParameters};

/// Most instances on the page of a service; the API has all.
const INSTANCES: usize = 250;

/// Events of a service.
const EVENTS: usize = 40;

/// Longest maintenance of a form, in minutes.
const LONGEST: u32 = 240;

/// A service and what happened to it.
async fn find(state: &AppState, name: String) -> Result<(ServiceView, Vec<Event>), Response> {
    let found = ask(state, move |presence| {
        let view = presence.service(&name).ok_or_else(|| presence.like(&name))?;
        let mine = presence.last_events().filter(|event| event.service.as_deref() == Some(&*name));
        let events: Vec<Event> = mine.take(EVENTS).cloned().collect();
        Ok((view, events))
    });
    found.await?.map_err(|near| unknown("service", near))
}

/// A service with its instances
#[utoipa::path(
    get,
    path = "/presence/{service}",
    params(
        ("service" = String, Path, description = "Its name"),
        StateParameters,
    ),
    responses((status = 200, description = "The page", content_type = "text/html", body = String)),
)]
pub(super) async fn page(
    Extract(state): Extract<AppState>,
    Path(name): Path<String>,
    Parameters(Plain(query)): Parameters<Plain>,
) -> Result<Response, Response> {
    // Until it has a place, so that of those that wait for one few are in memory.
    let _turn = state.bodies.turn().await;
    let (service, happened) = find(&state, name).await?;
    let look = verdict::look(&state).await;
    let path = format!("/presence/{}", in_url(&service.service));
    let frame = Frame {
        state: &state,
        view: View::Presence,
        query: &query,
        look: &look,
        path: &path,
        title: Some(&service.service),
    };
    let content = html! {
        @if !service.jobs.is_empty() { section.card data-live="jobs" { (jobs(&service)) } }
        @if service.jobs.is_empty() || !service.instances.is_empty() {
            section.card data-live="instances" { (instances(&service)) }
        }
        (event_card(&happened))
    };
    frame.page(Some(service_heading(&service)), content).await
}

fn level(state: ServiceState) -> &'static str {
    match state {
        ServiceState::Up => "ok",
        ServiceState::Down => "error",
        ServiceState::Degraded => "warning",
        ServiceState::Maintenance | ServiceState::Unknown | ServiceState::Left => "wait",
    }
}

fn service_heading(service: &ServiceView) -> Markup {
    let name = &service.service;
    let detail = html! {
        @if !service.jobs.is_empty() { (count(service.jobs.len(), "job")) }
        @if !service.jobs.is_empty() && !service.instances.is_empty() { ". " }
        @if service.jobs.is_empty() || !service.instances.is_empty() {
            (how_many(service.present, service.present + service.down, service.min))
            @match service.min { Some(min) => { ", at least " (min) " wanted" }, None => { ", degraded below " (service.quorum) } }
        }
        ". "
        @match &service.maintenance_until {
            // It was in its state before somebody announced that.
            Some(_) if service.state == ServiceState::Maintenance => {}
            _ => { (service.state) " since " (both_times(&service.since)) ". " }
        }
        @if let Some(until) = &service.maintenance_until {
            "In maintenance " (until_when(until, &service.maintenance_by, &service.maintenance_why)) "."
        }
        @if service.left > 0 { " " (service.left) " left." }
    };
    let more = html! {
        div.acts {
            a.ctl href=(format!("/maintenance?q={}", in_url(name))) { (icon("pause")) "Maintenance…" }
        }
    };
    html! {
        p.crumbs { span { a href="/presence" { "Presence" } span.muted { " / " } span.mono { (Wire(name)) } } }
        (heading(level(service.state), "status", html! { (Wire(name)) " is " (service_state(service.state)) }, detail, more))
    }
}

fn service_state(state: ServiceState) -> &'static str {
    match state {
        ServiceState::Maintenance => "in maintenance",
        ServiceState::Left => "gone: all have left",
        state => state.as_str(),
    }
}

/// A time without its seconds.
fn minute(rfc3339: &str) -> String {
    rfc3339[..rfc3339.len().min(19)].replace('T', " ")
}

/// A time in UTC, beside which a script puts the time of the reader's zone.
fn both_times(text: &str) -> Markup {
    let time = humantime::parse_rfc3339(text).ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    html! {
        time datetime=(text) { (minute(text)) " UTC" }
        @if let Some(time) = time { span.muted data-local=(time.as_secs()) {} }
    }
}

/// Until when a maintenance lasts, who announced it, and why.
fn until_when(until: &str, by: &Option<CompactString>, why: &Option<CompactString>) -> Markup {
    html! {
        "until " (both_times(until))
        @if let Some(by) = by { ", announced by " (Wire(by)) }
        @if let Some(why) = why { ": " (Wire(why)) }
    }
}

/// When a program began, if it says a time, else what it says.
fn started(start: &str) -> Markup {
    match UnixTime::of_start(start) {
        Some(at) => both_times(&at.rfc3339()),
        None => html! { span.mono { (Wire(start)) } },
    }
}

/// Most runs of a job on the page of its service.
const RUNS: usize = 10;

/// The jobs of a service, each with its last runs.
fn jobs(service: &ServiceView) -> Markup {
    html! {
        header { h2 { "Jobs" } }
        div.wide {
            table.runs {
                thead {
                    tr {
                        th scope="col" { "Job" } th scope="col" { "State" } th scope="col" { "Run" }
                        th scope="col" { "Began, UTC" } th scope="col" { "Result" } th.num scope="col" { "Took" }
                        th scope="col" { "Exit" } th scope="col" { "It said" }
                    }
                }
                tbody { @for job in &service.jobs { (job_rows(job)) } }
            }
        }
    }
}

/// The machine of a run.
fn on(host: &Option<CompactString>) -> Markup {
    html! { @if let Some(host) = host { " on " span.mono { (Wire(host)) } } }
}

fn job_rows(job: &JobView) -> Markup {
    let when = job.schedule.as_ref().map(|fields| format!("{fields} {}", job.timezone.as_deref().unwrap_or("")));
    let when = when.or(job.every_s.map(|every| format!("every {}", length(every))));
    html! {
        tr {
            td { @if job.instance == "-" { "whoever runs it" } @else { span.mono { (Wire(&job.instance)) } } }
            td { span.error[job.level == 2] { (job.state) } " since " (minute(&job.since)) }
            td.when colspan="6" {
                @if let Some(when) = &when { (Wire(when)) ". " }
                @if let Some(due) = &job.due { "Next run " (minute(due)) " UTC. " }
                @if let Some(at) = &job.last_success { "Last good run " (minute(at)) " UTC. " }
                @if let Some(until) = &job.maintenance_until {
                    "In maintenance " (until_when(until, &job.maintenance_by, &job.maintenance_why)) "."
                }
            }
        }
        @for run in &job.running {
            tr {
                td {} td {}
                td.id { span.mono { (Wire(run.run.as_deref().unwrap_or("–"))) } (on(&run.host)) }
                td { (minute(&run.since)) }
                td { @if run.overrun { "overrun" } @else { "running" } }
                td.num data-says="for" { (length(run.running_s)) }
                td {} td {}
            }
        }
        @for run in job.runs.iter().take(RUNS) {
            tr {
                td {} td {}
                td.id { span.mono { (Wire(run.run.as_deref().unwrap_or("–"))) } (on(&run.host)) }
                td { @if let Some(at) = run.started.as_ref().or(run.ended.as_ref()) { (minute(at)) } }
                td { span.error[run.result == RunResult::Failed] { (run.result) } }
                td.num data-says="took" { @if let Some(lasted) = run.duration_s { (length(lasted)) } }
                td data-says="exit" { @if let Some(exit) = run.exit { (exit) } }
                td { (Wire(run.message.as_deref().unwrap_or(""))) }
            }
        }
    }
}

fn instances(service: &ServiceView) -> Markup {
    let shown = &service.instances[..service.instances.len().min(INSTANCES)];
    html! {
        header {
            h2 { "Instances" }
            @if service.instances.len() > INSTANCES { span.muted { (INSTANCES) " of " (service.instances.len()) ", all in the API" } }
        }
        @if service.instances.len() > 1 {
            p.muted { "Last 24 h, the worst of all instances" }
            (day(&service.instances))
        }
        div.wide {
            table {
                thead {
                    tr {
                        th scope="col" { "Instance" } th scope="col" { "State" } th scope="col" { "Silent" }
                        th.num scope="col" { "Lost, 1 h" } th scope="col" { "Interval" } th scope="col" { "Last 24 h" }
                        th scope="col" { "Version" } th scope="col" { "Start" } th scope="col" { "Source" }
                        th scope="col" { "Health" } th scope="col" { "Flags" }
                    }
                }
                tbody { @for instance in shown { (row(service, instance)) } }
            }
        }
    }
}

fn row(service: &ServiceView, instance: &InstanceView) -> Markup {
    html! {
        tr {
            td { (square(instance)) a.name href=(format!("/presence/{}/{}", in_url(&service.service), in_url(&instance.instance))) { (Wire(&instance.instance)) } }
            td { (pill(instance.state.as_str(), instance.state.as_str())) }
            td { (silence(instance)) }
            td.num { @if let Some(loss) = instance.loss_1h { (amount((loss * 1000.0).round() / 10.0)) " %" } }
            td { (interval(instance)) }
            td.dy { (day(std::slice::from_ref(instance))) }
            td.mono { (Wire(instance.version.as_deref().unwrap_or(""))) }
            td { @if let Some(start) = &instance.start { (started(start)) } }
            td.mono { (instance.source.as_deref().unwrap_or("")) }
            td { (health(instance)) }
            td { (flags(instance)) @if let Some(watch) = &instance.watch { " fed by " span.mono { (Wire(watch)) } } }
        }
    }
}

fn interval(instance: &InstanceView) -> String {
    match instance.interval_s {
        Some(interval) => format!("{}, {}", length(interval), instance.interval_source),
        None => "learning".into(),
    }
}

fn health(instance: &InstanceView) -> Markup {
    let name = match instance.health {
        Some(0) => "ok",
        Some(1) => "warning",
        Some(2) => "critical",
        Some(_) => "unknown",
        None => "",
    };
    html! {
        span.error[instance.is_failing()] { (name) " " (Wire(instance.message.as_deref().unwrap_or(""))) }
    }
}

fn flags(instance: &InstanceView) -> String {
    instance.flags.iter().map(|flag| flag.as_str()).collect::<Vec<_>>().join(" ")
}

/// An instance
#[utoipa::path(
    get,
    path = "/presence/{service}/{instance}",
    params(
        ("service" = String, Path, description = "Its name"),
        ("instance" = String, Path, description = "Its name"),
        StateParameters,
    ),
    responses((status = 200, description = "The page", content_type = "text/html", body = String)),
)]
pub(super) async fn instance(
    Extract(state): Extract<AppState>,
    Path((service, name)): Path<(String, String)>,
    Parameters(Plain(query)): Parameters<Plain>,
) -> Result<Response, Response> {
    let _turn = state.bodies.turn().await;
    let (wanted, of) = (name.clone(), service.clone());
    let found = ask(&state, move |presence| {
        let view = presence.instance(&of, &wanted).ok_or_else(|| presence.like(&of))?;
        let is_mine =
            |event: &&Event| event.service.as_deref() == Some(&*of) && event.instance.as_deref() == Some(&*wanted);
        let events: Vec<Event> = presence.last_events().filter(is_mine).take(EVENTS).cloned().collect();
        Ok((view, events))
    });
    let found = found.await?;
    // A job has a place on the page of its service.
    let (of, wanted) = (service.clone(), name.clone());
    if found.is_err() && ask(&state, move |presence| presence.job(&of, &wanted).is_some()).await? {
        return Ok(see_other(&format!("/presence/{}", in_url(&service))));
    }
    let (instance, happened) = found.map_err(|near| unknown("instance", near))?;
    let look = verdict::look(&state).await;
    let path = format!("/presence/{}/{}", in_url(&service), in_url(&name));
    let title = format!("{service}/{name}");
    let frame =
        Frame { state: &state, view: View::Presence, query: &query, look: &look, path: &path, title: Some(&title) };
    let content = html! {
        div.show {
            section.card data-live="instance" { (facts(&instance)) }
            div.side.stack { (event_card(&happened)) }
        }
    };
    frame.page(Some(instance_heading(&service, &instance)), content).await
}

fn instance_heading(service: &str, instance: &InstanceView) -> Markup {
    let level = match instance.state.as_str() {
        _ if instance.is_failing() => "error",
        "up" => "ok",
        "late" => "warning",
        "down" => "error",
        _ => "wait",
    };
    let to = format!("/maintenance?q={}&instance={}", in_url(service), in_url(&instance.instance));
    html! {
        p.crumbs {
            span {
                a href="/presence" { "Presence" } span.muted { " / " }
                a.mono href=(format!("/presence/{}", in_url(service))) { (Wire(service)) } span.muted { " / " }
                span.mono { (Wire(&instance.instance)) }
            }
        }
        (heading(
            level,
            "status",
            html! { (Wire(&instance.instance)) " is " (instance.state) },
            html! { (instance.state) " since " (both_times(&instance.since)) ". Silent for " (length(instance.silence_s)) " of " (length(instance.timeout_s)) "." },
            html! { div.acts { a.ctl href=(to) { (icon("pause")) "Maintenance…" } } },
        ))
    }
}

fn facts(instance: &InstanceView) -> Markup {
    let secs = |secs: Option<f64>| secs.map_or("–".to_string(), |secs| format!("in {}", length(secs)));
    html! {
        header { h2 { "Last 24 h" } }
        (day(std::slice::from_ref(instance)))
        dl.kv {
            dt { "State" } dd { (pill(instance.state.as_str(), instance.state.as_str())) }
            dt { "Silent" } dd { (silence(instance)) }
            dt { "Interval" } dd { (interval(instance)) @if let Some(misses) = instance.misses { ", down after " (misses) " missed" } }
            dt { "Late" } dd { (secs(instance.late_in_s)) }
            dt { "Down" } dd { (secs(instance.down_in_s)) }
            dt { "Lost, 1 h" } dd { @match instance.loss_1h { Some(loss) => { (amount((loss * 1000.0).round() / 10.0)) " %" }, None => { "–" } } }
            dt { "Version" } dd.mono { (Wire(instance.version.as_deref().unwrap_or("–"))) }
            dt { "Start" } dd { @match &instance.start { Some(start) => (started(start)), None => "–" } }
            dt { "Source" } dd.mono { (instance.source.as_deref().unwrap_or("–")) }
            @if let Some(watch) = &instance.watch { dt { "Watch" } dd { "fed by " span.mono { (Wire(watch)) } } }
            dt { "Health" } dd { (health(instance)) }
            dt { "Flags" } dd { (flags(instance)) }
            @if let Some(until) = &instance.maintenance_until {
                dt { "Maintenance" } dd { (until_when(until, &instance.maintenance_by, &instance.maintenance_why)) }
            }
        }
    }
}

/// The forms for maintenance of a service, and for forgetting it; `q` is its name
#[utoipa::path(
    get,
    path = "/maintenance",
    params(
        ("instance" = Option<String>, Query, description = "The instance that is chosen"),
        StateParameters,
    ),
    responses((status = 200, description = "The page", content_type = "text/html", body = String)),
)]
pub(super) async fn maintenance(
    Extract(state): Extract<AppState>,
    Parameters(OfService(query)): Parameters<OfService>,
    caller: Caller,
) -> Result<Response, Response> {
    let (service, _) = find(&state, query.q.clone().unwrap_or_default()).await?;
    let look = verdict::look(&state).await;
    let title = format!("maintenance of {}", service.service);
    let frame = Frame {
        state: &state,
        view: View::Presence,
        query: &query,
        look: &look,
        path: "/maintenance",
        title: Some(&title),
    };
    let back = format!("/presence/{}", in_url(&service.service));
    let heading = html! {
        p.crumbs {
            span {
                a href="/presence" { "Presence" } span.muted { " / " } a.mono href=(back) { (Wire(&service.service)) }
                span.muted { " / " } "Maintenance"
            }
        }
        div.title { h1 { "Maintenance of " (Wire(&service.service)) } }
    };
    frame.page(Some(heading), forms(&state, &look, &service, &query, caller.is_known)).await
}

/// The forms; who is known need not show the token.
fn forms(state: &AppState, _look: &Look, service: &ServiceView, query: &State, is_known: bool) -> Markup {
    if !state.access.has_token() {
        return html! {
            section.card { p { "To start maintenance here, or to remove instances, set " code { "http.token" } "." } }
        };
    }
    let action = format!("/presence/{}", in_url(&service.service));
    let wanted = query.instance.as_deref();
    let whom = html! {
        label {
            "Of"
            select name="instance" {
                option value="" { "the whole service" }
                @for instance in service.instances.iter().take(INSTANCES) {
                    option value=(Wire(&instance.instance)) selected[wanted == Some(&*instance.instance)] { (Wire(&instance.instance)) }
                }
            }
        }
    };
    let token = html! {
        @if !is_known { label { "Token" input type="password" name="token" required autocomplete="current-password"; } }
    };
    html! {
        div.grid {
            section.card.c6 {
                header { h2 { "Announce" } span.sub { "silence wakes nobody until it is over" } }
                form.stack method="post" action=(action) {
                    input type="hidden" name="action" value="maintenance";
                    (whom)
                    label { "Minutes; 0 ends it" input type="number" name="minutes" min="0" max=(LONGEST) value="30" required; }
                    label { "Why" input name="why" maxlength="200" placeholder="disk swap"; }
                    (token)
                    p.acts { button.main { "Announce" } a.ctl href=(action) { "Back" } }
                }
            }
            section.card.c6 {
                header { h2 { "Forget" } span.sub { "it comes back when it is heard" } }
                form.stack method="post" action=(action) {
                    input type="hidden" name="action" value="forget";
                    (whom)
                    (token)
                    p.acts { button { "Forget" } }
                }
            }
        }
    }
}

/// What a form asks for.
enum Action {
    /// Maintenance of so many minutes.
    Maintenance(f64),
    Forget,
}

/// The fields of a form.
pub(super) struct Change {
    action: Action,
    instance: Option<String>,
    why: Option<String>,
    token: Option<String>,
}

impl FromGiven for Change {
    const NAMES: &'static [&'static str] = &["action", "instance", "minutes", "why", "token"];

    fn from_given(given: &Given) -> Result<Change, String> {
        // A field that a browser shows and nobody fills in is sent without a value.
        let text = |name| given.text(name).filter(|text| !text.is_empty()).map(String::from);
        let number = |text: &str| text.parse().ok().filter(|minutes: &f64| (0.0..=1e7).contains(minutes));
        let action = match given.text("action") {
            Some("maintenance") => {
                given.parsed("minutes", "a number from 0 to 10,000,000", number)?.map(Action::Maintenance)
            }
            Some("forget") => Some(Action::Forget),
            _ => return Err("`action` is `maintenance` or `forget`".into()),
        };
        let action = action.ok_or("`minutes` says how long the maintenance takes")?;
        Ok(Change { action, instance: text("instance"), why: text("why"), token: text("token") })
    }
}

/// What a form asks for, for the document.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum ActionName {
    Maintenance,
    Forget,
}

/// The fields of a form on a service's page, as they are sent.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "it describes what `Change` is read from")]
pub(super) struct ChangeForm {
    action: ActionName,
    /// One of the service; without it the whole service.
    instance: Option<String>,
    /// How long the maintenance takes.
    #[schema(minimum = 0, maximum = 16_000_000)]
    minutes: f64,
    /// A reason.
    why: Option<String>,
    /// The token, where the cookie is not there.
    token: Option<String>,
}

/// Does what a form on the page of a service asks for
#[utoipa::path(
    post,
    path = "/presence/{service}",
    params(
        ("service" = String, Path, description = "Its name"),
    ),
    request_body(content = ChangeForm, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 303, description = "It is done"),
    ),
)]
pub(super) async fn change(
    Extract(state): Extract<AppState>,
    Path(service): Path<String>,
    Parameters(Nothing): Parameters<Nothing>,
    caller: Caller,
    Fields(change): Fields<Change>,
) -> Result<Response, Response> {
    let Change { action, instance, why, token } = change;
    may(&state, &caller, token.as_deref(), caller.refused_form(&state.access, token.as_deref())).await?;
    match action {
        Action::Maintenance(minutes) => {
            let by = Some("the board".to_string());
            let seconds = minutes * 60.0;
            announce(&state, Announcement { service: service.clone(), instance, seconds, by, why }).await?;
        }
        Action::Forget => drop(forget(&state, service.clone(), instance).await?),
    }
    // A service that was removed has no page any more.
    let is_known = ask(&state, {
        let service = service.clone();
        move |presence| presence.knows(&service)
    });
    let to = if is_known.await? { format!("/presence/{}", in_url(&service)) } else { "/presence".into() };
    let mut response = see_other(&to);
    // The next change needs no token.
    state.access.set_cookie(&mut response);
    Ok(response)
}
