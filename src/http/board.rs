//! The board at `/presence`, and a page for each service: plain HTML without script. What matters comes first: whether
//! the daemon receives, then the services, worst first.

use std::fmt::Write;

use axum::extract::{Path, State};
use axum::response::Response;
use utoipa::ToSchema;

use crate::presence::describe::{describe, length};
use crate::presence::{
    BlindSeconds, Event, Flag, InstanceView, ServiceState, ServiceView, Severity, State as InstanceState,
};
use crate::presence_driver::PresenceState;
use crate::untrusted::{Html, in_url};
use crate::web::{Fields, FromGiven, Given, Nothing, Parameters};

use super::access::{Caller, see_other};
use super::presence::{Announcement, announce, ask, forget, may, unknown};
use super::{AppState, HTML, page};

/// Most services on the board, and most instances of each; the API has all.
const SERVICES: usize = 500;
const SQUARES: usize = 200;

/// Events on the board, and on the page of a service.
const EVENTS: usize = 20;
const SERVICE_EVENTS: usize = 50;

/// Seconds after the start in which unconfirmed instances are normal.
const SETTLING: f64 = 120.0;

/// Everything the board shows, taken at one moment.
struct Seen {
    services: Vec<ServiceView>,
    events: Vec<Event>,
    is_mass: bool,
    blind: BlindSeconds,
}

fn look(presence: &PresenceState) -> Seen {
    Seen {
        services: presence.services(),
        events: presence.last_events().take(EVENTS).cloned().collect(),
        is_mass: presence.is_mass_silence(),
        blind: presence.blind(),
    }
}

/// Worst first.
fn rank(state: ServiceState) -> u8 {
    match state {
        ServiceState::Down => 0,
        ServiceState::Degraded => 1,
        ServiceState::Unknown => 2,
        ServiceState::Maintenance => 3,
        ServiceState::Up => 4,
        ServiceState::Left => 5,
    }
}

/// The board: who is there, worst first
#[utoipa::path(
    get,
    path = "/presence",
    responses(
        (status = 200, description = "The page", content_type = "text/html", body = String),
    ),
)]
pub(super) async fn board(
    State(state): State<AppState>,
    Parameters(Nothing): Parameters<Nothing>,
) -> Result<Response, Response> {
    // A hundred thousand instances are much to collect, and take a while to write.
    let page = state.once.board.share("", async {
        let _turn = state.bodies.turn().await;
        let seen = ask(&state, |presence| look(presence)).await?;
        let for_page = state.clone();
        state.bodies.work(move || render(&for_page, seen).into()).await
    });
    state.bodies.shared(HTML, page.await?).await
}

fn render(state: &AppState, mut seen: Seen) -> String {
    seen.services.sort_by_key(|service| (rank(service.state), service.failing().next().is_none()));
    let (headline, class) = headline(&seen);
    let mut out = page::head(&format!("{headline} · presence"), 5);
    let _ = write!(out, "<h1>Presence</h1><div class=\"banner {class}\"><b>{headline}</b><br>");
    banner(&mut out, state, &seen);
    let _ = write!(out, "</div><p class=\"sub\"><a href=\"/\">metrics</a></p>");
    if seen.services.is_empty() {
        let ledger = state.flusher.published().ledger();
        let addresses = ledger.listeners.iter().filter_map(|listener| listener.url.strip_prefix("udp://"));
        let address = addresses.filter_map(|address| address.rsplit_once(':')).next().unwrap_or(("127.0.0.1", "8125"));
        let _ = write!(
            out,
            "<p>Nobody has sent a heartbeat yet. Any StatsD client can, and so can a shell:</p>\
             <p><code>systole send 'heartbeat.checkout.web-1:10|g' --to udp://{0}:{1}</code><br>\
             <code>echo 'heartbeat.checkout.web-1:10|g' | nc -u -q0 {0} {1}</code></p>\
             <p>The 10 is a promise: <i>you will hear from me again within 10 seconds</i>.</p>",
            Html(address.0),
            Html(address.1),
        );
    }
    for service in seen.services.iter().take(SERVICES) {
        card(&mut out, service);
    }
    if seen.services.len() > SERVICES {
        let _ = write!(out, "<p>And {} more, in the API.</p>", seen.services.len() - SERVICES);
    }
    events(&mut out, &seen.events);
    out.push_str("</body></html>\n");
    out
}

/// Whether all present instances of a service report a failure.
fn fails_as_a_whole(service: &ServiceView) -> bool {
    service.present > 0 && service.failing().count() == service.present
}

/// The instances that report a failure, with their messages.
fn complaint(service: &ServiceView, instance: &InstanceView) -> String {
    let message = instance.message.as_deref().map_or(String::new(), |message| format!(", {}", Html(message)));
    format!("{}/{}{message}", Html(&service.service), Html(&instance.instance))
}

/// The first line: the verdict and its severity.
fn headline(seen: &Seen) -> (String, &'static str) {
    let count = |state: ServiceState| seen.services.iter().filter(|service| service.state == state).count();
    let (all, down, degraded) = (seen.services.len(), count(ServiceState::Down), count(ServiceState::Degraded));
    let instances = || seen.services.iter().flat_map(|service| &service.instances);
    let missing = instances().filter(|instance| instance.state == InstanceState::Down).count();
    let named = |state: ServiceState| {
        let names = seen.services.iter().filter(|service| service.state == state);
        let names: Vec<String> = names.take(3).map(|service| Html(&service.service).to_string()).collect();
        let more = if count(state) > names.len() { ", …" } else { "" };
        format!("{}{more}", names.join(", "))
    };
    let failing: usize = seen.services.iter().map(|service| service.failing().count()).sum();
    let more_failing = match failing {
        0 => String::new(),
        1 => "; 1 instance says critical".into(),
        n => format!("; {n} instances say critical"),
    };
    let services = |n: usize| if n == 1 { "1 service".to_string() } else { format!("{n} services") };
    if all == 0 {
        ("Nobody was heard yet".into(), "")
    } else if seen.is_mass {
        let silent =
            instances().filter(|instance| matches!(instance.state, InstanceState::Late | InstanceState::Down)).count();
        (format!("Mass silence: {silent} instances are silent at once; look for one cause"), "alarm")
    } else if down > 0 {
        let more = if degraded > 0 { format!("; {degraded} degraded") } else { String::new() };
        (format!("{} down: {}{more}{more_failing}", services(down), named(ServiceState::Down)), "alarm")
    } else if degraded > 0 {
        let class = if seen.services.iter().any(fails_as_a_whole) { "alarm" } else { "warn" };
        (format!("{} degraded: {}{more_failing}", services(degraded), named(ServiceState::Degraded)), class)
    } else if failing > 0 {
        let present: usize = seen.services.iter().map(|service| service.present).sum();
        let says = if failing == 1 { "says" } else { "say" };
        let who = seen.services.iter().flat_map(|service| service.failing().map(move |instance| (service, instance)));
        let who: Vec<String> = who.take(3).map(|(service, instance)| complaint(service, instance)).collect();
        let more = if failing > who.len() { "; …" } else { "" };
        let class = if seen.services.iter().any(fails_as_a_whole) { "alarm" } else { "warn" };
        (format!("{failing} of {present} {says} critical: {}{more}", who.join("; ")), class)
    } else if missing > 0 {
        let s = if missing == 1 { "instance is" } else { "instances are" };
        (format!("All services are up; {missing} {s} down"), "warn")
    } else {
        let present: usize = seen.services.iter().map(|service| service.present).sum();
        let are = if all == 1 { "is" } else { "are" };
        (format!("All is well: {} {are} up, {present} present", services(all)), "ok")
    }
}

/// Whether the daemon receives: what arrives, what is lost, since when.
fn banner(out: &mut String, state: &AppState, seen: &Seen) {
    let published = state.flusher.published();
    let totals = &published.ledger();
    if let Some(snapshot) = &published.snapshot {
        let datagrams: u64 = snapshot.ledger.listeners.iter().map(|listener| listener.datagrams).sum();
        let _ = write!(out, "{:.1} packets/s · ", datagrams as f64 / snapshot.interval_secs.max(0.001));
    }
    let silences = seen.services.iter().flat_map(|service| &service.instances).map(|instance| instance.silence_s);
    let newest = silences.fold(f64::INFINITY, f64::min);
    if newest.is_finite() {
        let _ = write!(out, "last heartbeat {} ago · ", length(newest));
    }
    let drops: u64 = totals.listeners.iter().map(|listener| listener.kernel_drops).sum();
    let blind = seen.blind.pause + seen.blind.drops + seen.blind.queue;
    let class = |bad: bool| if bad { "bad" } else { "" };
    let uptime = state.uptime_secs();
    let _ = write!(
        out,
        "<span class=\"{}\">{drops} datagrams lost</span> · <span class=\"{}\">blind for {}</span> · up {}",
        class(drops > 0),
        class(blind > 0.0),
        length(blind),
        length(uptime),
    );
    let instances = seen.services.iter().flat_map(|service| &service.instances);
    let unconfirmed = instances.filter(|instance| instance.state == InstanceState::Unknown).count();
    if unconfirmed > 0 {
        let _ = write!(out, " · since our restart {} ago: {unconfirmed} unconfirmed", length(uptime));
    } else if seen.blind.restart > 0.0 && uptime < SETTLING {
        let _ = write!(out, " · we were away for {}; everybody is confirmed", length(seen.blind.restart));
    }
}

fn letter(instance: &InstanceView) -> (char, char) {
    match instance.state {
        InstanceState::Up => ('U', 'U'),
        InstanceState::Late => ('L', 'L'),
        InstanceState::Down => ('D', 'D'),
        InstanceState::Left => ('G', 'G'),
        InstanceState::Unknown => ('?', 'Q'),
    }
}

fn card(out: &mut String, service: &ServiceView) {
    let total = service.present + service.down;
    let is_odd = service.down > 0 || service.instances.iter().any(|instance| instance.state == InstanceState::Late);
    let share = (100 * service.present).checked_div(total).unwrap_or(0);
    let _ = write!(
        out,
        "<div class=\"card\"><h2><span class=\"pill {}\">{}</span> <a href=\"/presence/{}\">{}</a></h2>\
         <p class=\"sub\"><svg class=\"bar\" viewBox=\"0 0 100 1\" preserveAspectRatio=\"none\"><rect class=\"{}\" width=\"{share}\" height=\"1\"/></svg> {} of {total} present",
        service.state,
        service.state,
        in_url(&service.service),
        Html(&service.service),
        if service.state == ServiceState::Down {
            "D"
        } else if is_odd {
            "L"
        } else {
            ""
        },
        service.present,
    );
    let failing = service.failing().count();
    if failing > 0 {
        let _ = write!(out, ", <span class=\"pill down\">{failing} critical</span>");
    }
    if let Some(min) = service.min {
        let _ = write!(out, " (at least {min})");
    }
    if service.left > 0 {
        let _ = write!(out, ", {} left", service.left);
    }
    let _ = write!(out, " · since {}", &service.since[..service.since.len().min(19)].replace('T', " "));
    let held = service.instances.iter().filter(|instance| instance.flags.contains(&Flag::Held)).count();
    if held > 0 {
        let _ = write!(out, " · {held} silent, held back by the mass silence");
    } else if let Some((what, seconds)) = next_deadline(service) {
        let _ = write!(out, " · next {what} in {}", length(seconds));
    }
    out.push_str("</p>");
    for instance in service.instances.iter().take(SQUARES) {
        let (letter, class) = if instance.is_failing() { ('!', 'D') } else { letter(instance) };
        let critical = match (instance.is_failing(), instance.message.as_deref()) {
            (false, _) => String::new(),
            (true, None) => ", critical".into(),
            (true, Some(message)) => format!(", critical: {}", Html(message)),
        };
        let _ = write!(
            out,
            "<span class=\"sq {class}\" title=\"{}: {}{critical}, silent for {} of {}\">{letter}</span>",
            Html(&instance.instance),
            instance.state,
            length(instance.silence_s),
            length(instance.timeout_s),
        );
    }
    if service.instances.len() > SQUARES {
        let _ = write!(out, " and {} more", service.instances.len() - SQUARES);
    }
    out.push_str("</div>");
}

/// The next change of state if nothing is heard.
fn next_deadline(service: &ServiceView) -> Option<(&'static str, f64)> {
    let present = service.instances.iter().filter(|instance| instance.state != InstanceState::Left);
    let deadlines = present.filter_map(|instance| {
        let late = instance.late_in_s.filter(|_| instance.state == InstanceState::Up);
        late.map(|secs| ("late", secs)).or(instance.down_in_s.map(|secs| ("down", secs)))
    });
    deadlines.min_by(|a, b| a.1.total_cmp(&b.1))
}

fn events(out: &mut String, events: &[Event]) {
    if events.is_empty() {
        return;
    }
    out.push_str("<h2>What happened</h2><table>");
    for event in events {
        let time = event.at.rfc3339();
        let class = match event.severity() {
            Severity::Critical => "bad",
            Severity::Warning | Severity::Info => "",
        };
        let _ = write!(
            out,
            "<tr><td class=\"n\" title=\"{time}\">{}</td><td class=\"name {class}\">{}</td></tr>",
            &time[11..19],
            Html(&describe(event)),
        );
    }
    out.push_str("</table><p class=\"sub\">Times are UTC.</p>");
}

/// The page of a service
#[utoipa::path(
    get,
    path = "/presence/{service}",
    params(
        ("service" = String, Path, description = "Its name"),
    ),
    responses(
        (status = 200, description = "The page", content_type = "text/html", body = String),
    ),
)]
pub(super) async fn service(
    State(state): State<AppState>,
    Path(name): Path<String>,
    Parameters(Nothing): Parameters<Nothing>,
    caller: Caller,
) -> Result<Response, Response> {
    // Until it has a place, so that of those that wait for one few are in memory.
    let _turn = state.bodies.turn().await;
    let wanted = name.clone();
    let found = ask(&state, move |presence| {
        let view = presence.service(&wanted).ok_or_else(|| presence.like(&wanted))?;
        let mine = presence.last_events().filter(|event| event.service.as_deref() == Some(&*wanted));
        let events: Vec<Event> = mine.take(SERVICE_EVENTS).cloned().collect();
        Ok((view, events))
    });
    let (service, happened) = found.await?.map_err(|near| unknown("service", near))?;
    let bodies = state.bodies.clone();
    let page = bodies.work(move || render_service(&state, &service, &happened, caller.is_known)).await?;
    bodies.whole(HTML, page).await
}

fn render_service(state: &AppState, service: &ServiceView, happened: &[Event], is_known: bool) -> String {
    let mut out = page::head(&format!("{} · presence", Html(&service.service)), 10);
    let _ = write!(
        out,
        "<p class=\"sub\"><a href=\"/presence\">presence</a></p><h1>{} <span class=\"pill {}\">{}</span></h1>\
         <p class=\"sub\">{} of {} present",
        Html(&service.service),
        service.state,
        service.state,
        service.present,
        service.present + service.down,
    );
    let _ = match service.min {
        Some(min) => write!(out, ", at least {min} wanted"),
        None => write!(out, ", degraded below {}", service.quorum),
    };
    let _ = write!(out, " · {} since {}</p>", service.state, &service.since[..service.since.len().min(19)]);
    out.push_str(
        "<div class=\"scroll\"><table><tr><th>instance<th>state<th>silent<th class=\"n\">lost, 1 h<th>interval<th>the last day\
         <th>version<th>start<th>source<th>health<th>flags</tr>",
    );
    for instance in &service.instances {
        row(&mut out, instance);
    }
    out.push_str("</table></div>");
    forms(&mut out, state, service, is_known);
    events(&mut out, happened);
    out.push_str("</body></html>\n");
    out
}

fn row(out: &mut String, instance: &InstanceView) {
    let (_, class) = letter(instance);
    let filled = (100.0 * instance.silence_s / instance.timeout_s.max(0.001)).clamp(0.0, 100.0) as u32;
    let interval = match instance.interval_s {
        Some(interval) => format!("{}, {}", length(interval), instance.interval_source),
        None => "learning".into(),
    };
    let health = match instance.health {
        Some(0) => "ok",
        Some(1) => "warning",
        Some(2) => "critical",
        Some(_) => "unknown",
        None => "",
    };
    let _ = write!(
        out,
        "<tr><td class=\"name\">{}</td><td><span class=\"pill {}\">{}</span></td>\
         <td><svg class=\"bar\" viewBox=\"0 0 100 1\" preserveAspectRatio=\"none\"><rect class=\"{class}\" width=\"{filled}\" height=\"1\"/></svg> {} of {}</td>\
         <td class=\"n\">{}</td><td>{interval}</td><td>",
        Html(&instance.instance),
        instance.state,
        instance.state,
        length(instance.silence_s),
        length(instance.timeout_s),
        instance.loss_1h.map_or(String::new(), |loss| format!("{:.1} %", 100.0 * loss)),
    );
    day(out, &instance.day);
    let _ = write!(
        out,
        "</td><td class=\"name\">{}</td><td class=\"name\">{}</td><td class=\"name\">{}</td><td class=\"{}\">{health} {}</td><td>{}</td></tr>",
        Html(instance.version.as_deref().unwrap_or("")),
        Html(instance.start.as_deref().unwrap_or("")),
        instance.source.as_deref().unwrap_or(""),
        if instance.is_failing() { "bad" } else { "" },
        Html(instance.message.as_deref().unwrap_or("")),
        instance.flags.iter().map(|flag| flag.as_str()).collect::<Vec<_>>().join(" "),
    );
}

/// The last day, one element per run of equal half hours; now is at the right.
fn day(out: &mut String, letters: &str) {
    out.push_str(
        "<svg class=\"day\" viewBox=\"0 0 48 1\" preserveAspectRatio=\"none\">\
         <title>the last 24 hours, now at the right</title>",
    );
    let mut at = 0;
    let missing = 48_usize.saturating_sub(letters.len());
    let mut piece = |letter: char, count: usize| {
        let class = match letter {
            '?' => 'Q',
            '.' => 'N',
            letter => letter,
        };
        if count > 0 {
            let _ = write!(out, "<rect class=\"{class}\" x=\"{at}\" width=\"{count}\" height=\"1\"/>");
            at += count;
        }
    };
    piece('.', missing);
    let mut rest = letters;
    while let Some(first) = rest.chars().next() {
        let run = rest.chars().take_while(|letter| *letter == first).count();
        piece(first, run);
        rest = &rest[run..];
    }
    out.push_str("</svg>");
}

/// The forms for changes; who is known need not show the token.
fn forms(out: &mut String, state: &AppState, service: &ServiceView, is_known: bool) {
    if !state.access.has_token() {
        out.push_str(
            "<p class=\"sub\">To start maintenance here, or to remove instances, set <code>http.token</code>.</p>",
        );
        return;
    }
    let action = format!("/presence/{}", in_url(&service.service));
    let mut whom = String::from("<select name=\"instance\"><option value=\"\">the whole service</option>");
    for instance in service.instances.iter().take(SQUARES) {
        let name = Html(&instance.instance);
        let _ = write!(whom, "<option value=\"{name}\">{name}</option>");
    }
    whom.push_str("</select>");
    let token = if is_known {
        ""
    } else {
        "<input type=\"password\" name=\"token\" placeholder=\"token\" required autocomplete=\"current-password\">"
    };
    let _ = write!(
        out,
        "<form method=\"post\" action=\"{action}\"><input type=\"hidden\" name=\"action\" value=\"maintenance\">\
         Maintenance of {whom} for <input name=\"minutes\" type=\"number\" min=\"0\" max=\"240\" value=\"30\" \
         class=\"short\"> min <input name=\"why\" placeholder=\"why\" maxlength=\"200\">{token}\
         <button>announce</button></form>\
         <form method=\"post\" action=\"{action}\"><input type=\"hidden\" name=\"action\" value=\"forget\">\
         Forget {whom} {token}<button>forget</button></form>"
    );
}

/// What a form on a service's page asks for.
enum Action {
    /// Maintenance of so many minutes.
    Maintenance(f64),
    Forget,
}

/// The fields of a form on a service's page.
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
        let number = |text: &str| text.parse().ok().filter(|minutes: &f64| *minutes >= 0.0);
        let action = match given.text("action") {
            Some("maintenance") => given.parsed("minutes", "a number, 0 or more", number)?.map(Action::Maintenance),
            Some("forget") => Some(Action::Forget),
            _ => return Err("`action` is `maintenance` or `forget`".into()),
        };
        let action = action.ok_or("`minutes` says how long the maintenance takes")?;
        Ok(Change { action, instance: text("instance"), why: text("why"), token: text("token") })
    }
}

/// The fields of a form on a service's page, as they are sent.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it describes what `Change` is read from")]
pub(super) struct ChangeForm {
    /// `maintenance` or `forget`.
    action: String,
    /// One of the service; without it the whole service.
    instance: Option<String>,
    /// How long the maintenance takes.
    #[schema(minimum = 0, maximum = 16_000_000)]
    minutes: Option<f64>,
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
    State(state): State<AppState>,
    Path(service): Path<String>,
    Parameters(Nothing): Parameters<Nothing>,
    caller: Caller,
    Fields(change): Fields<Change>,
) -> Result<Response, Response> {
    let Change { action, instance, why, token } = change;
    may(&state, caller.refused_form(&state.access, token.as_deref())).await?;
    match action {
        Action::Maintenance(minutes) => {
            let by = Some("the board".to_string());
            let seconds = minutes * 60.0;
            announce(&state, Announcement { service: service.clone(), instance, seconds, by, why }).await?;
        }
        Action::Forget => forget(&state, service.clone(), instance).await?,
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
