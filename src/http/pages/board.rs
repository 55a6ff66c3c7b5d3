//! The board: who is there, what needs a look first, and what happens next.

use std::collections::BTreeMap;

use axum::extract::State as Extract;
use axum::response::Response;
use compact_str::CompactString;
use maud::{Markup, html};

use crate::http::presence::ask;
use crate::http::verdict::{self, Grade, Look};
use crate::http::{AppState, HTML};
use crate::presence::describe::{describe, length};
use crate::presence::observers::ObserversView;
use crate::presence::{
    Event, Flag, InstanceView, JobState, JobSummary, JobView, RunResult, ServiceState, ServiceView,
    State as InstanceState,
};
use crate::presence_driver::PresenceState;
use crate::untrusted::in_url;
use crate::web::{Parameters, bad_request};

use super::data;
use super::frame::{Frame, View, coded, heading};
use super::parts::{Wire, amount, count, grouped, icon, pill, share, sign};
use super::query::{OfBoard, State, StateParameters};

/// Most services on the board, most rows of instances, and most squares of a service; the API has all.
const SERVICES: usize = 200;
const ROWS: usize = 80;
const SQUARES: usize = 40;

/// Up to so many instances have a square each; of more, those that are up are counted.
const SINGLE: usize = 6;

/// Instances of a service that have a row of their own, where it needs a look.
const OPENED: usize = 8;

/// Events beside the board.
const EVENTS: usize = 12;

/// Targets that alerts are not delivered to, of which the verdict says so.
const ALERTS: usize = 4;

/// Half hours of a day.
const CELLS: usize = 48;

/// Everything the board shows, taken at one moment.
struct Seen {
    services: Vec<ServiceView>,
    /// How the jobs of those services are that have some.
    jobs: Jobs,
    events: Vec<Event>,
}

type Jobs = BTreeMap<CompactString, JobSummary>;

fn collect(presence: &PresenceState) -> Seen {
    let (mut services, mut jobs) = (Vec::new(), BTreeMap::new());
    for (service, seen) in presence.services_and_jobs() {
        if seen.jobs > 0 {
            jobs.insert(service.service.clone(), seen);
        }
        services.push(service);
    }
    Seen { services, jobs, events: presence.last_events().take(EVENTS).cloned().collect() }
}

/// Worst first.
fn rank(state: ServiceState) -> u8 {
    match state {
        ServiceState::Down => 0,
        ServiceState::Degraded => 1,
        ServiceState::Unknown => 3,
        ServiceState::Maintenance => 2,
        ServiceState::Up => 4,
        ServiceState::Left => 5,
    }
}

/// How bad a service is, its worst job included.
fn badness(service: &ServiceView) -> u8 {
    let of_job = |job: &JobView| match (job.level, job.state) {
        (2.., _) => rank(ServiceState::Down),
        (1, _) => rank(ServiceState::Degraded),
        (_, JobState::Waiting | JobState::Unheard) => rank(ServiceState::Unknown),
        _ => rank(ServiceState::Up),
    };
    // The worst is the first.
    service.jobs.first().map_or(u8::MAX, of_job).min(rank(service.state))
}

/// Whether its watched metric has too few lines.
fn is_low(instance: &InstanceView) -> bool {
    instance.state != InstanceState::Left && instance.flags.contains(&Flag::Low)
}

/// Whether all of a service has left.
fn has_left(service: &ServiceView) -> bool {
    badness(service) == rank(ServiceState::Left)
}

/// Whether somebody should look at a service.
fn needs_a_look(service: &ServiceView) -> bool {
    if badness(service) <= rank(ServiceState::Unknown) {
        return true;
    }
    match service.state {
        ServiceState::Down | ServiceState::Degraded | ServiceState::Unknown | ServiceState::Maintenance => true,
        ServiceState::Up => service.instances.iter().any(|one| {
            !matches!(one.state, InstanceState::Up | InstanceState::Left) || one.is_failing() || is_low(one)
        }),
        ServiceState::Left => false,
    }
}
/// The board: who is there, worst first
#[utoipa::path(
    get,
    path = "/presence",
    params(
        ("state" = Option<String>, Query, description = "Only services with an instance in this state"),
        StateParameters,
    ),
    responses((status = 200, description = "The page", content_type = "text/html", body = String)),
)]
pub(super) async fn page(
    Extract(state): Extract<AppState>,
    Parameters(OfBoard(query)): Parameters<OfBoard>,
) -> Result<Response, Response> {
    if let Some(wanted) = &query.state
        && !STATES.iter().any(|(name, _)| name == wanted)
    {
        let names: Vec<&str> = STATES.iter().map(|(name, _)| *name).collect();
        return Err(bad_request(&format!("`state` is one of {}", names.join(", "))));
    }
    // A hundred thousand instances are much to collect, and take a while to write.
    let key = query.link("", &[]);
    let page = state.once.board.share(&key, async {
        let _turn = state.bodies.turn().await;
        let seen = ask(&state, |presence| collect(presence)).await?;
        let look = verdict::look(&state).await;
        let (for_page, query) = (state.clone(), query.clone());
        state.bodies.work(move || render(&for_page, &look, seen, &query).into_string().into()).await
    });
    state.bodies.shared(HTML, page.await?).await
}

/// What instances and services can be chosen by, with their words.
const STATES: [(&str, &str); 7] = [
    ("down", "down"),
    ("degraded", "degraded"),
    ("late", "late"),
    ("critical", "critical"),
    ("maintenance", "in maintenance"),
    ("unknown", "unknown"),
    ("left", "left"),
];

fn is_in(service: &ServiceView, state: &str) -> bool {
    let has = |wanted: InstanceState| service.instances.iter().any(|one| one.state == wanted);
    match state {
        "down" => has(InstanceState::Down) || is_down_by_jobs(service),
        "late" => has(InstanceState::Late),
        "unknown" => service.state == ServiceState::Unknown || has(InstanceState::Unknown),
        "left" => has(InstanceState::Left),
        "degraded" => service.state == ServiceState::Degraded,
        "critical" => service.failing().next().is_some(),
        _ => {
            service.state == ServiceState::Maintenance
                || service.instances.iter().any(|one| one.flags.contains(&Flag::Maintenance))
        }
    }
}

/// Whether a service that has only jobs is down.
fn is_down_by_jobs(service: &ServiceView) -> bool {
    service.instances.is_empty() && service.state == ServiceState::Down && !service.jobs.is_empty()
}

fn render(state: &AppState, look: &Look, mut seen: Seen, query: &State) -> Markup {
    let chips = chips(&seen.services, query);
    seen.services.sort_by_key(|service| (!needs_a_look(service), badness(service), service.failing().next().is_none()));
    let all = seen.services.len();
    let q = query.q.as_deref().map(str::to_lowercase);
    seen.services.retain(|service| {
        q.as_deref().is_none_or(|q| service.service.to_lowercase().contains(q))
            && query.state.as_deref().is_none_or(|state| is_in(service, state))
    });
    let frame = Frame { state, view: View::Presence, query, look, path: "/presence", title: None };
    let content = html! {
        @if all == 0 { (nobody(look)) } @else {
            (filter(chips, all, query))
            div.board data-live="board" {
                div.card { (table(&seen.services, &seen.jobs, look)) }
                div.side.stack { (beside(&seen.events, query)) (legend()) }
            }
        }
    };
    frame.render(Some(verdict_of(look, &seen)), content)
}

/// The verdict on presence, and whether we see at all.
fn verdict_of(look: &Look, seen: &Seen) -> Markup {
    let Some(summary) = &look.presence else {
        return heading("warning", "status", html! { "Presence does not answer" }, html! {}, html! {});
    };
    let (mut grade, mut sentence) = verdict::of_presence(summary);
    let undelivered = verdict::of_alerts(&look.ledger, look.now);
    // Who is silent matters most; that nobody is told comes next.
    if let Some((level, worst, _)) = undelivered.first().filter(|(level, ..)| *level > grade) {
        (grade, sentence) = (*level, worst.clone());
    }
    let class =
        if summary.services + summary.jobs.jobs == 0 && undelivered.is_empty() { "wait" } else { grade.as_str() };
    let detail = html! {
        @if summary.services > 0 { (summary.up) " of " (count(summary.services, "service")) " up. " }
        @if summary.jobs.jobs > 0 {
            @let not_well = summary.jobs.critical + summary.jobs.warning + summary.jobs.unheard;
            (summary.jobs.jobs - not_well) " of " (count(summary.jobs.jobs, "job")) " well. "
        }
        (ingest(look, seen))
        @for (level, what, detail) in undelivered.iter().take(ALERTS) {
            " " span.(level) { @if *what != sentence { (Wire(what)) ": " } (Wire(detail)) }
        }
    };
    heading(
        class,
        "status",
        html! { (Wire(&sentence)) },
        detail,
        html! {
            @if look.verdict.level != Grade::Ok && !matches!(look.verdict.about, verdict::About::Presence | verdict::About::Observers | verdict::About::Alerts) {
                a.{"pill " (look.verdict.level)} href="/" { (sign(look.verdict.level.as_str())) (Wire(&look.verdict.sentence)) }
            }
        },
    )
}

/// What arrives, what is lost, how long we were blind.
fn ingest(look: &Look, seen: &Seen) -> Markup {
    let beats = look.snapshot().map(|last| last.ledger.lines.heartbeats as f64 / last.interval_secs.max(0.001));
    let silences = seen.services.iter().flat_map(|service| &service.instances).map(|instance| instance.silence_s);
    let newest = silences.fold(f64::INFINITY, f64::min);
    let drops: u64 = look.ledger.listeners.iter().map(|listener| listener.kernel_drops).sum();
    let Some(summary) = &look.presence else { return html! {} };
    let blind = summary.blind.pause + summary.blind.drops + summary.blind.queue + summary.blind.peer;
    html! {
        @if let Some(beats) = beats { (amount(beats)) " heartbeats/s, " }
        @if newest.is_finite() { "last " (length(newest)) " ago, " }
        @if drops > 0 { span.error { (grouped(drops)) " datagrams lost" } } @else { "nothing lost" }
        ", blind for " (length(blind)) "."
        @if summary.unconfirmed > 0 { " Since our restart, " (summary.unconfirmed) " unconfirmed." }
        @if let Some(observers) = &summary.observers { (peers(observers)) }
        @for pattern in &summary.idle_watches {
            " The watch " (Wire(pattern)) " has taken no line since the start."
        }
    }
}

/// Most observers that are named though all is well.
const MOST_NAMED: usize = 3;

/// The other observers, and who notifies.
fn peers(observers: &ObserversView) -> Markup {
    let are_many = observers.peers.len() > MOST_NAMED;
    let answering = observers.peers.iter().filter(|peer| peer.reachable).count();
    html! {
        @if observers.listens_only {
            " This node only receives: who is there is judged by the nodes of the cluster that merge."
        }
        @if are_many { " " (answering) " of " (count(observers.peers.len(), "node")) " answer." }
        @for peer in observers.peers.iter().filter(|peer| !(are_many && peer.reachable)) {
            @let name = peer.node.as_deref().unwrap_or(&peer.url);
            @if peer.same_name {
                " " span.error { "The observer at " (Wire(&peer.url)) " has the name of another one: set " code { "presence.node" } "." }
            } @else if peer.reachable {
                " The observer " (Wire(name)) " was heard " (length(peer.digest_age_s)) " ago."
            } @else {
                " " span.error {
                    "The observer " (Wire(name)) " does not answer"
                    @if let Some(problem) = &peer.problem { ": " (Wire(problem)) }
                    "."
                }
            }
        }
        @if let Some(speaker) = &observers.speaker {
            " " (Wire(speaker)) " notifies"
            @for (target, by) in &observers.targets { ", " (Wire(by)) " " (Wire(target)) }
            @for by in &observers.also { ", " (Wire(by)) " as well, for not all of them reach each other" }
            "."
        }
        @if observers.unwatched > 0 {
            " " span.error { (count(observers.unwatched, "instance")) " heard by nobody: " (Wire(&unheard(observers))) "." }
        }
    }
}

/// The first of those whom nobody hears.
pub(in crate::http) fn unheard(observers: &ObserversView) -> String {
    let more = observers.unwatched.saturating_sub(observers.unwatched_names.len());
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    observers.unwatched_names.join(", ") + &more
}

fn nobody(look: &Look) -> Markup {
    let (host, port) = data::udp_address(&look.ledger);
    html! {
        section.card {
            p { b { "Nobody has sent a heartbeat yet." } " Any StatsD client can, and so can a shell:" }
            p { code { "systole send 'heartbeat.checkout.web-1:10|g' --to udp://" (Wire(&host)) ":" (Wire(&port)) } }
            p { code { "echo 'heartbeat.checkout.web-1:10|g' | nc -u -q0 " (Wire(&host)) " " (Wire(&port)) } }
            p.muted { "The 10 is a promise: you will hear from me again within 10 seconds." }
        }
        (legend())
    }
}

fn chips(services: &[ServiceView], query: &State) -> Vec<(String, String, &'static str, bool)> {
    let current = query.state.as_deref();
    STATES
        .iter()
        .filter_map(|(name, words)| {
            let n = match *name {
                "down" => {
                    let by_jobs = services.iter().filter(|service| is_down_by_jobs(service)).count();
                    instances(services, |one| one.state == InstanceState::Down) + by_jobs
                }
                "late" => instances(services, |one| one.state == InstanceState::Late),
                "left" => instances(services, |one| one.state == InstanceState::Left),
                "critical" => instances(services, InstanceView::is_failing),
                name => services.iter().filter(|service| is_in(service, name)).count(),
            };
            let is_on = current == Some(name);
            (n > 0 || is_on).then(|| {
                let link = query.link("/presence", &[("state", (!is_on).then_some(name))]);
                (format!("{} {words}", grouped(n as u64)), link, *name, is_on)
            })
        })
        .collect()
}

fn instances(services: &[ServiceView], is: impl Fn(&InstanceView) -> bool) -> usize {
    services.iter().flat_map(|service| &service.instances).filter(|one| is(one)).count()
}

fn filter(chips: Vec<(String, String, &'static str, bool)>, all: usize, query: &State) -> Markup {
    html! {
        form.seek action="/presence" data-live="filter" {
            nav.chips aria-label="By state" {
                a.chip href=(query.link("/presence", &[("state", None)])) aria-current=[query.state.is_none().then_some("true")] { "All " (grouped(all as u64)) }
                @for (words, link, name, is_on) in chips {
                    a.chip href=(link) aria-current=[is_on.then_some("true")] {
                        span.(name) { (sign(if name == "critical" { "error" } else { name })) } (words)
                    }
                }
            }
            label.find {
                (icon("search")) span.hide { "Filter services" }
                input type="search" name="q" value=(Wire(query.q.as_deref().unwrap_or(""))) data-filter="presence" placeholder="Filter services" autocomplete="off" spellcheck="false";
                kbd.js { "f" }
            }
            @for (name, value) in query.hidden(&["q"]) { input type="hidden" name=(name) value=(Wire(value)); }
        }
    }
}

fn table(services: &[ServiceView], jobs: &Jobs, look: &Look) -> Markup {
    if services.is_empty() {
        return html! { p.empty { b { "No service matches." } " " a href="/presence" { "Show all" } } };
    }
    let shown = &services[..services.len().min(SERVICES)];
    let worst = shown.iter().take_while(|service| needs_a_look(service)).count();
    let mut rows = ROWS;
    html! {
        table.board-table {
            thead {
                tr {
                    th scope="col" { "State" } th scope="col" { "Service" } th scope="col" { "Instances" }
                    th.num scope="col" { "Present" } th scope="col" { "Last 24 h" } th scope="col" { "Since" } th scope="col" { "Next" }
                }
            }
            @if worst > 0 {
                tbody.need {
                    tr { th colspan="7" scope="rowgroup" { "Needs a look, " (worst) } }
                    @for service in &shown[..worst] {
                        (row(service, jobs.get(&service.service), look))
                        @let opened = opened(service, &mut rows);
                        @for instance in opened { (instance_row(service, instance)) }
                        @for job in bad_jobs(service, &mut rows) { (job_row(service, job, look)) }
                    }
                }
            }
            // Those that left are behind those that are up.
            @for (word, is_wanted) in [("Up", false), ("Left", true)] {
                @let all = services[worst..].iter().filter(|service| has_left(service) == is_wanted).count();
                @if all > 0 {
                    tbody.fine {
                        tr { th colspan="7" scope="rowgroup" { (word) ", " (grouped(all as u64)) } }
                        @for service in shown[worst..].iter().filter(|service| has_left(service) == is_wanted) {
                            (row(service, jobs.get(&service.service), look))
                        }
                    }
                }
            }
        }
        @if services.len() > SERVICES { p.muted { "And " (grouped((services.len() - SERVICES) as u64)) " more: filter by name, or ask " code { "/api/v1/presence" } "." } }
    }
}

/// Instances that have a row of their own: those that are not well, of a service that needs a look.
fn opened<'a>(service: &'a ServiceView, rows: &mut usize) -> Vec<&'a InstanceView> {
    if matches!(service.state, ServiceState::Maintenance | ServiceState::Unknown) {
        return Vec::new();
    }
    let is_small = service.instances.len() <= OPENED;
    let is_bad = |one: &&InstanceView| {
        is_small && service.state != ServiceState::Up
            || !matches!(one.state, InstanceState::Up | InstanceState::Left)
            || one.is_failing()
            || is_low(one)
    };
    let opened: Vec<&InstanceView> = service.instances.iter().filter(is_bad).take(OPENED.min(*rows)).collect();
    *rows -= opened.len();
    opened
}

/// Jobs that have a row of their own: those that are not well.
fn bad_jobs<'a>(service: &'a ServiceView, rows: &mut usize) -> Vec<&'a JobView> {
    let is_bad = |job: &&JobView| job.level > 0 || matches!(job.state, JobState::Waiting | JobState::Unheard);
    let jobs: Vec<&JobView> = service.jobs.iter().filter(is_bad).take(*rows).collect();
    *rows -= jobs.len();
    jobs
}

/// A job: what became of its last run, how long that took, when one was last good, and when the next is due.
fn job_row(service: &ServiceView, job: &JobView, look: &Look) -> Markup {
    let last = job.runs.first();
    let class = match job.level {
        2.. => "error",
        1 => "warning",
        _ => "muted",
    };
    html! {
        tr.inst {
            td.st {}
            td.sv { "job " a.name href=(format!("/presence/{}", in_url(&service.service))) { (Wire(&job.instance)) } }
            td.in {
                span.(class) { (job.state) }
                @if let Some(exit) = last.and_then(|run| run.exit) { ", exit " (exit) }
                @if let Some(lasted) = last.and_then(|run| run.duration_s) { ", took " (length(lasted)) }
                @if let Some(run) = job.running.first() { ", runs for " (length(run.running_s)) }
            }
            td.num.pr {}
            td.dy { (runs(job)) }
            td.si { (since(&job.since, look.now)) }
            td.nx {
                @match &job.last_success { Some(at) => { "good " (since(at, look.now)) " ago" }, None => "never good" }
                @if job.due_in_s.is_some() { ", " (due(job)) }
                @if let Some(message) = last.and_then(|run| run.message.as_ref()).filter(|_| job.level > 0) {
                    " " span.mono.error { (Wire(message.lines().last().unwrap_or(""))) }
                }
                (maintained(&job.maintenance_until))
            }
        }
    }
}

/// The last runs of a job, the newest last.
fn runs(job: &JobView) -> Markup {
    html! {
        @for run in job.runs.iter().rev() {
            @let (letter, class) = match run.result {
                RunResult::Ok => ('U', 'U'),
                RunResult::Failed | RunResult::Missed => ('!', 'D'),
                RunResult::Lost => ('L', 'L'),
                RunResult::Unheard => ('?', 'Q'),
            };
            @let at = run.started.as_ref().or(run.ended.as_ref()).map_or("", |at| at.get(..16).unwrap_or(at));
            @let says = format!("{} {at}", run.result);
            span.{"u " (class)} role="img" aria-label=(says) title=(says) { (letter) }
        }
    }
}

/// When a job is due.
fn due(job: &JobView) -> Markup {
    html! {
        @match job.due_in_s {
            Some(secs) if secs >= 0.0 => span.muted title=[job.due.as_deref()] { "due in " (length(secs)) },
            Some(secs) => span.late title=[job.due.as_deref()] { "due " (length(-secs)) " ago" },
            None => {},
        }
    }
}

fn row(service: &ServiceView, jobs: Option<&JobSummary>, look: &Look) -> Markup {
    let total = (service.present + service.down).max(service.min.unwrap_or(0) as usize);
    let late = service.instances.iter().filter(|one| one.state == InstanceState::Late).count();
    let failing = service.failing().count();
    let low = service.instances.iter().filter(|one| is_low(one)).count();
    let bad = jobs.map_or((0, 0), |jobs| (jobs.critical, jobs.critical + jobs.warning));
    let (state, text) = match service.state {
        ServiceState::Up if bad.1 > 0 => {
            (if bad.0 > 0 { "error" } else { "warning" }, format!("{} not well", count(bad.1, "job")))
        }
        ServiceState::Up if failing > 0 => ("error", format!("{failing} critical")),
        ServiceState::Up if low > 0 => ("warning", format!("{low} low")),
        ServiceState::Up if late > 0 => ("late", format!("{late} late")),
        state => (state.as_str(), state.to_string()),
    };
    html! {
        tr.svc-row {
            td.st { @if service.state == ServiceState::Down { span.{"pill fill down"} { (sign("down")) "down" } } @else { (pill(state, &text)) } }
            td.sv { b { a.plain href=(format!("/presence/{}", in_url(&service.service))) { (Wire(&service.service)) } } }
            td.in {
                (squares(service))
                @if let Some(jobs) = jobs { span.muted { @if !service.instances.is_empty() { " " } (count(jobs.jobs, "job")) } }
            }
            td.num.pr { @if jobs.is_none() || !service.instances.is_empty() { (service.present) " of " (total) } }
            td.dy {
                @match (service.instances.is_empty(), &service.jobs[..]) {
                    (true, [job]) => (runs(job)),
                    _ => (day(&service.instances)),
                }
            }
            td.si { (since(&service.since, look.now)) }
            td.nx { @if service.instances.is_empty() && jobs.is_some() { (next_job(service)) } @else { (next(service)) }
                (maintained(&service.maintenance_until))
                @let some = service.instances.iter().filter(|one| one.flags.contains(&Flag::Maintenance)).count();
                @if some > 0 && service.maintenance_until.is_none() { " " span.muted { (some) " in maintenance" } }
            }
        }
    }
}

/// Until when something is in maintenance, if it is.
fn maintained(until: &Option<String>) -> Markup {
    html! {
        @if let Some(until) = until {
            " " span.muted title=(until) { "in maintenance until " (until.get(11..16).unwrap_or(until)) " UTC" }
        }
    }
}

/// The state of an instance as a letter.
fn letter(instance: &InstanceView) -> (char, char) {
    if instance.is_failing() {
        return ('!', 'D');
    }
    match instance.state {
        InstanceState::Up => ('U', 'U'),
        InstanceState::Late => ('L', 'L'),
        InstanceState::Down => ('D', 'D'),
        InstanceState::Left => ('G', 'G'),
        InstanceState::Unknown => ('?', 'Q'),
    }
}

pub(super) fn square(instance: &InstanceView) -> Markup {
    let (letter, class) = letter(instance);
    let is_maintained = instance.flags.contains(&Flag::Maintenance);
    let critical = match (instance.is_failing(), instance.message.as_deref()) {
        (false, _) => String::new(),
        (true, None) => ", critical".into(),
        (true, Some(message)) => format!(", critical: {message}"),
    };
    let says = format!("{} {}{critical}", instance.instance, instance.state);
    let silent = format!("{says}, silent for {} of {}", length(instance.silence_s), length(instance.timeout_s));
    html! {
        span.{"u " (class)}.M[is_maintained] role="img" aria-label=(Wire(&says)) title=(Wire(&silent)) { (letter) }
    }
}

fn squares(service: &ServiceView) -> Markup {
    let is_up = |one: &&InstanceView| one.state == InstanceState::Up && !one.is_failing() && one.flags.is_empty();
    let up = service.instances.iter().filter(is_up).count();
    let is_counted = service.instances.len() > SINGLE && up > 1;
    let single = service.instances.iter().filter(|one| !(is_counted && is_up(one)));
    let all = single.clone().count();
    html! {
        @if is_counted {
            span.u.U role="img" aria-label=(format!("{up} instances up")) { "U" } span.muted { "× " (grouped(up as u64)) " " }
        }
        @for instance in single.take(SQUARES) { (square(instance)) }
        @if all > SQUARES { span.muted { " and " (grouped((all - SQUARES) as u64)) " more" } }
    }
}

fn instance_row(service: &ServiceView, instance: &InstanceView) -> Markup {
    html! {
        tr.inst {
            td.st {}
            td.sv { (square(instance)) a.name href=(format!("/presence/{}/{}", in_url(&service.service), in_url(&instance.instance))) { (Wire(&instance.instance)) } }
            td.in { (silence(instance)) }
            td.num.pr {}
            td.dy { (day(std::slice::from_ref(instance))) }
            td.si { span.muted { @if let Some(loss) = instance.loss_1h { "loss " (amount((loss * 1000.0).round() / 10.0)) " %" } } }
            td.nx.mono {
                @if let Some(message) = instance.message.as_ref().filter(|_| instance.is_failing()) { span.error { (Wire(message)) " " } }
                (instance.source.as_deref().unwrap_or("")) " " (Wire(instance.version.as_deref().unwrap_or("")))
                @for flag in instance.flags.iter().filter(|flag| **flag != Flag::Maintenance) { " " (flag) }
                (maintained(&instance.maintenance_until))
                @if let Some(watch) = &instance.watch { " fed by " (Wire(watch)) }
                @if let (true, Some(lines), Some(floor)) = (is_low(instance), instance.lines_per_minute, instance.floor) {
                    ": " span.warning { (lines) " of " (floor) " lines a minute" }
                }
            }
        }
    }
}

/// How long an instance is silent, of what it may be.
pub(super) fn silence(instance: &InstanceView) -> Markup {
    let part = instance.silence_s / instance.timeout_s.max(0.001);
    let class = match instance.state {
        InstanceState::Down => "down",
        InstanceState::Late => "late",
        InstanceState::Up | InstanceState::Left | InstanceState::Unknown => "up",
    };
    html! {
        span.silence {
            (share(part, class))
            span.(class) { (length(instance.silence_s)) " of " (length(instance.timeout_s)) }
        }
    }
}

/// Since when, as a length of time.
fn since(text: &str, now: f64) -> Markup {
    let since = humantime::parse_rfc3339(text).ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    html! {
        @match since {
            Some(since) => span.muted data-since=(since.as_secs()) title=(text) { (length((now - since.as_secs_f64()).max(0.0).round())) },
            None => span.muted { (text) },
        }
    }
}

/// The job of a service that is due first.
fn next_job(service: &ServiceView) -> Markup {
    let timed = service.jobs.iter().filter_map(|job| Some((job, job.due_in_s?)));
    html! {
        @if let Some((job, _)) = timed.min_by(|a, b| a.1.total_cmp(&b.1)) {
            @if service.jobs.len() > 1 { (Wire(&job.instance)) " " }
            (due(job))
        }
    }
}

/// What happens next if nothing is heard.
fn next(service: &ServiceView) -> Markup {
    let held = service.instances.iter().filter(|one| one.flags.contains(&Flag::Held)).count();
    if held > 0 {
        return html! { span.muted { (held) " held back by the mass silence" } };
    }
    let present = service.instances.iter().filter(|one| one.state != InstanceState::Left);
    let deadlines = present.filter_map(|one| {
        let late = one.late_in_s.filter(|_| one.state == InstanceState::Up);
        late.map(|secs| (one, "late", secs)).or(one.down_in_s.map(|secs| (one, "down", secs)))
    });
    let flapping = service.instances.iter().any(|one| one.flags.contains(&Flag::Flapping));
    html! {
        @match deadlines.min_by(|a, b| a.2.total_cmp(&b.2)) {
            Some((one, what, secs)) => span.(if what == "down" { "late" } else { "muted" }) {
                @if service.instances.len() > 1 && what == "down" || needs_a_look(service) { (Wire(&one.instance)) " " }
                (what) " in " (length(secs))
            },
            None => span.muted { @if service.instances.is_empty() { "never heard" } },
        }
        @if flapping { " " span.warning { "flapping" } }
    }
}

/// How bad a half hour was.
fn gravity(letter: char) -> usize {
    ['.', 'G', 'U', '?', 'L', 'D'].iter().position(|known| *known == letter).unwrap_or(0)
}

/// The last day, the worst of each half hour; height is how bad it was.
pub(super) fn day(instances: &[InstanceView]) -> Markup {
    let mut worst = ['.'; CELLS];
    for instance in instances {
        let letters: Vec<char> = instance.day.chars().collect();
        for (cell, letter) in worst.iter_mut().rev().zip(letters.iter().rev()) {
            if gravity(*letter) > gravity(*cell) {
                *cell = *letter;
            }
        }
    }
    let mut runs: Vec<(char, usize, usize)> = Vec::new();
    for (n, letter) in worst.into_iter().enumerate() {
        match runs.last_mut() {
            Some((last, _, end)) if *last == letter => *end = n + 1,
            _ => runs.push((letter, n, n + 1)),
        }
    }
    let x = |cell: usize| cell * 10;
    html! {
        svg.day viewBox="0 0 480 24" preserveAspectRatio="none" role="img" aria-label=(day_text(&worst)) {
            @for (letter, from, to) in runs {
                @let (x, width) = (x(from), x(to) - x(from));
                @match letter {
                    'U' => rect.U x=(x) width=(width) y="18" height="5" {},
                    'L' => rect.L x=(x) width=(width) y="12" height="11" {},
                    'D' => rect.D x=(x) width=(width) y="2" height="21" {},
                    'G' => line.gone x1=(x) x2=(x + width) y1="22" y2="22" {},
                    '?' => line.q x1=(x) x2=(x + width) y1="16" y2="16" {},
                    // How long a day is, where nothing is known of it.
                    _ => line.none x1=(x) x2=(x + width) y1="23" y2="23" {},
                }
            }
        }
    }
}

fn day_text(worst: &[char]) -> String {
    let halves = |wanted: char| worst.iter().filter(|letter| **letter == wanted).count() as f64 / 2.0;
    let (down, late) = (halves('D'), halves('L'));
    match (down, late) {
        (0.0, 0.0) => "last 24 hours: neither down nor late".into(),
        (down, late) => format!("last 24 hours: down within {down} h, late within {late} h of them"),
    }
}

fn beside(events: &[Event], query: &State) -> Markup {
    html! {
        section.card {
            header { h2 { "What happened" } a href=(query.elsewhere("/events")) { "all events" } }
            @if events.is_empty() { p.empty { "Nothing yet." } }
            @else { (super::now::event_list(&events.iter().map(data::of_presence).collect::<Vec<_>>(), false)) }
        }
    }
}

/// How to read squares and bars.
fn legend() -> Markup {
    let one = |letter: &str, class: &str, bar: Markup, word: &str, means: &str| {
        html! {
            tr {
                td { span.{"u " (class)} { (letter) } }
                td { svg.day.small viewBox="0 0 40 24" preserveAspectRatio="none" aria-hidden="true" { (bar) } }
                td { b { (word) } }
                td.muted { (means) }
            }
        }
    };
    let rect = |class: &str, y: u32| html! { rect.(class) width="40" y=(y) height=(23 - y) {} };
    html! {
        section.card.legend {
            header { h2 { "How to read this" } }
            table {
                tbody {
                    (one("U", "U", rect("U", 18), "up", "heard in time"))
                    (one("L", "L", rect("L", 12), "late", "a beat is missed"))
                    (one("D", "D", rect("D", 2), "down", "enough beats are missed"))
                    (one("!", "D", rect("U", 18), "critical", "there, and says it fails"))
                    (one("G", "G", html! { line.gone x2="40" y1="22" y2="22" {} }, "left", "said goodbye"))
                    (one("?", "Q", html! { line.q x2="40" y1="16" y2="16" {} }, "unknown", "expected, or unconfirmed"))
                    (one("D", "D M", rect("D", 2), "maintenance", "announced: line above"))
                }
            }
        }
    }
}

/// Events in words, for the page of a service.
pub(super) fn event_card(events: &[Event]) -> Markup {
    html! {
        @if !events.is_empty() {
            section.card {
                header { h2 { "What happened" } }
                ol.log.rows {
                    @for event in events {
                        @let one = data::of_presence(event);
                        li { (super::parts::clock(one.time)) span.(one.level) { (super::now::sign_of(&one)) } span { (coded(&describe(event))) } }
                    }
                }
            }
        }
    }
}
