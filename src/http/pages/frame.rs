//! What stands around every page: the header with its tabs, the verdict, the footer.

use axum::response::Response;
use maud::{Markup, PreEscaped, html};

use crate::http::verdict::{About, Grade, Look};
use crate::http::{AppState, HTML, assets};

use super::parts::{DOCTYPE, Wire, amount, clock, count, grouped, icon, sign};
use super::query::{RANGES, State};

/// The views.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    Now,
    Metrics,
    Presence,
    Senders,
    Events,
    Explain,
    Configuration,
}

impl View {
    const ALL: [View; 7] =
        [View::Now, View::Metrics, View::Presence, View::Senders, View::Events, View::Explain, View::Configuration];

    /// The name for scripts.
    fn name(self) -> &'static str {
        match self {
            View::Now => "now",
            View::Metrics => "metrics",
            View::Presence => "presence",
            View::Senders => "senders",
            View::Events => "events",
            View::Explain => "explain",
            View::Configuration => "config",
        }
    }

    fn title(self) -> &'static str {
        match self {
            View::Now => "Now",
            View::Metrics => "Metrics",
            View::Presence => "Presence",
            View::Senders => "Senders",
            View::Events => "Events",
            View::Explain => "Explain",
            View::Configuration => "Configuration",
        }
    }

    fn path(self) -> &'static str {
        match self {
            View::Now => "/",
            View::Metrics => "/series",
            View::Presence => "/presence",
            View::Senders => "/senders",
            View::Events => "/events",
            View::Explain => "/explain",
            View::Configuration => "/config",
        }
    }

    fn is_in_bar(self) -> bool {
        matches!(self, View::Now | View::Metrics | View::Presence | View::Senders)
    }
}

/// A page around its content.
pub(super) struct Frame<'a> {
    pub(super) state: &'a AppState,
    pub(super) view: View,
    pub(super) query: &'a State,
    pub(super) look: &'a Look,
    /// Where this page is.
    pub(super) path: &'a str,
    /// What stands before the name of the daemon in the title; the verdict if there is nothing.
    pub(super) title: Option<&'a str>,
}

impl Frame<'_> {
    /// The whole page. `heading` is the page's own verdict with the only `h1`; without one it is that of all data.
    pub(super) async fn page(&self, heading: Option<Markup>, content: Markup) -> Result<Response, Response> {
        let text = self.render(heading, content).into_string();
        self.state.bodies.whole(HTML, text).await
    }

    pub(super) fn render(&self, heading: Option<Markup>, content: Markup) -> Markup {
        let node = &*self.state.about.node;
        let last = self.look.published.as_of.unwrap_or(0.0);
        html! {
            (DOCTYPE)
            html lang="en" data-view=(self.view.name()) data-node=(Wire(node))
                data-interval=(self.state.about.interval.as_secs_f64()) data-last=(last) data-now=(self.look.now)
            {
                head {
                    meta charset="utf-8";
                    title { (Wire(&self.title())) }
                    meta name="viewport" content="width=device-width,initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    link rel="stylesheet" href=(assets::url("style.css"));
                    link rel="icon" href=(assets::url("icon.svg")) type="image/svg+xml";
                    @if let Some(theme) = assets::known("theme.js") { script src=(theme) {} }
                    @if let Some(main) = assets::known("main.js") { script type="module" src=(main) {} }
                }
                body {
                    a.skip href="#main" { "Skip to the content" }
                    (self.header(node))
                    main #main tabindex="-1" {
                        div.offline hidden role="alert" data-offline-text {}
                        @match heading { Some(heading) => (heading), None => (self.verdict()) }
                        (content)
                    }
                    (self.footer(last))
                    (self.bar())
                }
            }
            (PreEscaped("\n"))
        }
    }

    fn title(&self) -> String {
        let node = &*self.state.about.node;
        let verdict = &self.look.verdict;
        let what = match self.title {
            Some(title) => title.to_string(),
            None if verdict.about == About::Fine => "all accounted for".into(),
            None => lower_first(&verdict.sentence),
        };
        format!("{} {what} · {node}", verdict.sign)
    }

    fn current(&self, view: View) -> Option<&'static str> {
        (view == self.view).then_some("page")
    }

    fn header(&self, node: &str) -> Markup {
        html! {
            header.top {
                div.in {
                    a.brand href=(self.query.elsewhere("/")) {
                        svg viewBox="0 0 24 24" aria-hidden="true" { path d="M1 13h5l3-8 5 14 3-9 1.500 3H23" stroke-linecap="round" stroke-linejoin="round" {} }
                        b { "systole" } span title=(Wire(node)) { (Wire(node)) }
                    }
                    nav.tabs aria-label="Views" {
                        @for view in View::ALL {
                            a href=(self.query.elsewhere(view.path())) aria-current=[self.current(view)] {
                                (view.title()) @if view == View::Presence { (self.badge()) }
                            }
                        }
                    }
                    form.find role="search" action="/series" {
                        (icon("search"))
                        input type="search" name="q" data-search="global" placeholder="Find a series" aria-label="Find a series" autocomplete="off" spellcheck="false";
                        @for (name, value) in self.query.hidden(&["q", "kind", "sort", "sel", "tag", "prefix", "name", "by", "sender", "line", "state", "instance", "y"]) {
                            input type="hidden" name=(name) value=(Wire(value));
                        }
                        kbd.js { "/" }
                    }
                    (self.ranges())
                    button.live.js type="button" data-act="live" data-state="live" aria-label="Live: pause or go on" {
                        i.dot {} span.live-word data-live-text { "Live" }
                    }
                    button.icon.theme.js type="button" data-act="theme" aria-label="Dark or light" { (icon("theme")) }
                }
                div.beat aria-hidden="true" { i {} }
            }
        }
    }

    /// How many instances are down and jobs are not well, and not in maintenance.
    fn badge(&self) -> Markup {
        let Some(seen) = &self.look.presence else { return html! {} };
        let down = seen.down_instances - seen.down_in_maintenance;
        let jobs = (seen.jobs.critical + seen.jobs.warning).saturating_sub(seen.jobs.bad_in_maintenance);
        let says = match (down, jobs) {
            (down, 0) => format!("{} down", count(down, "instance")),
            (0, jobs) => format!("{} not well", count(jobs, "job")),
            (down, jobs) => format!("{} down, {} not well", count(down, "instance"), count(jobs, "job")),
        };
        html! { @if down + jobs > 0 { span.badge aria-label=(says) { "✕ " (grouped((down + jobs) as u64)) } } }
    }

    fn ranges(&self) -> Markup {
        html! {
            details.menu data-menu="range" {
                summary aria-label=(format!("Time shown: last {}", self.query.range_text())) {
                    (icon("clock"))
                    span data-range-text {
                        @if !self.query.range.is_empty() { span.more { "Last " } }
                        (self.query.range_text())
                    }
                }
                div {
                    @for (name, _, words) in RANGES {
                        @let is_current = self.query.range == name;
                        a href=(self.query.link(self.path, &[("range", Some(name)), ("from", None), ("to", None)])) aria-current=[is_current.then_some("true")] {
                            "Last " (words)
                        }
                    }
                }
            }
        }
    }

    /// Whether the data can be trusted.
    pub(super) fn verdict(&self) -> Markup {
        let verdict = &self.look.verdict;
        let (class, role) = match (verdict.level, verdict.about) {
            (Grade::Ok, About::Empty | About::First) => ("wait", "status"),
            (Grade::Error, About::Loss) => ("error", "alert"),
            (grade, _) => (grade.as_str(), "status"),
        };
        let pills = verdict.pills.iter().take(4);
        heading(
            class,
            role,
            html! { (Wire(&verdict.sentence)) },
            html! {
                (coded(&verdict.detail))
                @if let Some(action) = verdict.action.as_ref().filter(|_| verdict.about != About::Loss || self.view != View::Now) {
                    span.action { " What to do: " (coded(action)) "." }
                }
            },
            html! {
                @if !verdict.pills.is_empty() {
                    div.pills {
                        @for pill in pills {
                            @let to = match pill.about { About::Presence | About::Observers | About::Alerts => "/presence", About::Limit => "/senders", _ => "/" };
                            a.{"pill " (pill.level)} href=(self.query.elsewhere(to)) { (sign(pill.level.as_str())) (Wire(&pill.text)) }
                        }
                        @if verdict.pills.len() > 4 { span.pill { (verdict.pills.len() - 4) " more" } }
                    }
                }
            },
        )
    }

    fn footer(&self, last: f64) -> Markup {
        let about = &self.state.about;
        html! {
            footer.foot data-live="foot" {
                span { (amount(about.interval.as_secs_f64())) " s intervals" }
                @if last > 0.0 { span { "last closed " (clock(last)) } }
                @if let Some(history) = super::data::history_text(self.look) { span { (history) } }
                span { "systole " (env!("CARGO_PKG_VERSION")) }
                span { "profile " (about.profile) }
                span { "times in " span data-zone { "UTC" } }
                noscript { span { "Live charts need JavaScript." } }
                button.js type="button" data-act="help" { kbd { "?" } "keyboard" }
            }
        }
    }

    /// The tabs of a phone.
    fn bar(&self) -> Markup {
        let is_more = !self.view.is_in_bar();
        html! {
            nav.bar aria-label="Views" {
                @for view in View::ALL.into_iter().filter(|view| view.is_in_bar()) {
                    a href=(self.query.elsewhere(view.path())) aria-current=[self.current(view)] { (icon(view.name())) (view.title()) }
                }
                details.menu {
                    summary aria-current=[is_more.then_some("true")] { (icon("more")) "More" }
                    div {
                        @for view in View::ALL.into_iter().filter(|view| !view.is_in_bar()) {
                            a href=(self.query.elsewhere(view.path())) aria-current=[self.current(view)] { (view.title()) }
                        }
                        button.js type="button" data-act="live" data-state="live" { i.dot {} span data-live-text { "Live" } " · pause or go on" }
                        button.js type="button" data-act="theme" { "Dark or light" }
                    }
                }
            }
        }
    }
}

/// The first thing on a page: its verdict, which has its only `h1`.
pub(super) fn heading(class: &str, role: &str, sentence: Markup, detail: Markup, more: Markup) -> Markup {
    html! {
        section.{"verdict " (class)} data-live="verdict" {
            span.sign { (sign(class)) }
            div {
                // Only the sentence is read out when it changes, not each number beside it.
                div role=(role) { h1 { (sentence) } }
                p { (detail) }
            }
            (more)
        }
    }
}

/// Text in which what stands between backticks is code.
pub(super) fn coded(text: &str) -> Markup {
    let parts: Vec<&str> = text.split('`').collect();
    // An odd one is a backtick of its own.
    if parts.len().is_multiple_of(2) {
        return html! { (Wire(text)) };
    }
    html! {
        @for (n, part) in parts.iter().enumerate() {
            @if n % 2 == 1 { code { (Wire(part)) } } @else { (Wire(part)) }
        }
    }
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}
