//! The first page: whether the data can be trusted, how much arrives, what became of it, who sends it.

use axum::extract::State as Extract;
use axum::response::Response;
use maud::{Markup, html};

use crate::cluster_driver::{ClusterStatus, StatusBoard};
use crate::http::AppState;
use crate::http::series as of_series;
use crate::http::verdict::{self, About, Grade, Look};
use crate::journal;
use crate::telemetry::{Ledger, ListenerAccount, SinkAccount};
use crate::web::Parameters;

use super::data::{self, Found, Happened, Senders, SeriesRow, Trends};
use super::frame::{Frame, View, coded};
use super::parts::{
    Curve, Drawing, Part, Wire, ago, amount, axis, clock, count, drawing, equation, grouped, icon, percent, pill,
    series_cells, share, sign, spark,
};
use super::query::{Plain, State, StateParameters};

/// Rows of each list.
const SERIES: usize = 8;
const SENDERS: usize = 5;
const CHANGES: usize = 8;
const REFUSED: usize = 4;
const SINKS: usize = 20;
const LISTENERS: usize = 12;

/// Time over which tiles say what changed, in seconds.
const LATELY: f64 = 300.0;

const PATHS: [&str; 11] = [
    "lines.read",
    "lines.metrics",
    "lines.heartbeats",
    "lines.service_checks",
    "lines.events",
    "lines.malformed",
    "completeness",
    "series",
    "flush.duration_secs",
    "kernel_drops",
    "samples.folded",
];

/// Everything that is shown.
struct Shown {
    look: Look,
    query: State,
    trends: Trends,
    loudest: Found,
    senders: Senders,
    happened: Vec<Happened>,
    /// `None` if this node is in none.
    cluster: Option<ClusterStatus>,
}

/// Whether the data can be trusted, how much arrives, and what changed
#[utoipa::path(
    get,
    path = "/",
    params(
        StateParameters,
    ),
    responses((status = 200, description = "The page", content_type = "text/html", body = String)),
)]
pub(super) async fn page(
    Extract(state): Extract<AppState>,
    Parameters(Plain(query)): Parameters<Plain>,
) -> Result<Response, Response> {
    let look = verdict::look(&state).await;
    let senders = data::senders(&state, None, None, None);
    let happened = data::happened(&state, &journal::Query { most: CHANGES, ..journal::Query::default() });
    let (for_work, bodies) = (state.clone(), state.bodies.clone());
    // Of a million series it takes a moment to find the loudest.
    let shown = bodies
        .work(move || {
            let time = query.time(look.now);
            let sinks = look.ledger.sinks.keys().take(SINKS).map(|name| format!("sinks.{name}.delivered"));
            let sinks: Vec<String> = sinks.collect();
            let paths: Vec<&str> = PATHS.into_iter().chain(sinks.iter().map(String::as_str)).collect();
            let trends = data::trends(&for_work, &look, time, &paths);
            let loudest = data::search(&for_work, &look, &data::loudest(SERIES))?;
            let cluster = for_work.cluster.as_ref().map(StatusBoard::read);
            Ok(Shown { look, query, trends, loudest, senders, happened, cluster })
        })
        .await?
        .map_err(of_series::refused)?;
    let frame =
        Frame { state: &state, view: View::Now, query: &shown.query, look: &shown.look, path: "/", title: None };
    frame.page(None, shown.content()).await
}

impl Shown {
    fn content(&self) -> Markup {
        let (level, about) = (self.look.verdict.level, self.look.verdict.about);
        html! {
            (self.to_do())
            @if about == About::Empty && level == Grade::Ok { (self.first_steps()) }
            section.tiles data-live="tiles" aria-label="Figures" { (self.tiles()) }
            div.grid {
                (self.throughput())
                section.card.c4.full data-live="ledger" { (self.ledger()) }
                @if let Some(cluster) = &self.cluster { (super::cluster::cards(cluster, self.look.now)) }
                section.card.c5 data-live="loudest" { (self.series()) }
                section.card.c4 data-live="senders" { (self.senders()) }
                section.card.c3 data-live="changed" { (self.changed()) }
                section.card.c8 data-live="sinks" { (self.sinks()) }
                section.card.c4 data-live="listeners" { (self.listeners()) }
            }
        }
    }

    fn last(&self) -> Option<&Ledger> {
        self.look.snapshot().map(|snapshot| &snapshot.ledger)
    }

    /// What helps, best first, where the worst needs somebody.
    fn to_do(&self) -> Markup {
        let verdict = &self.look.verdict;
        let (Grade::Error, About::Loss) = (verdict.level, verdict.about) else { return html! {} };
        let lost = self.look.published.recent.last().filter(|lost| lost.dropped > 0);
        let Some(lost) = lost else { return html! {} };
        let loudest = self.senders.rows.first();
        let room = lost.worst.2;
        let wanted = (room * 4).clamp(8 << 20, 256 << 20);
        html! {
            section.card.error.todo data-live="todo" {
                header { h2 { "What to do" } span.sub { "most effective first" } }
                ol {
                    li {
                        h3 { "Find the flood" }
                        p {
                            @if let Some(loudest) = loudest {
                                code { (Wire(&loudest.id)) } " sends " (percent(loudest.share)) " % of all lines. "
                            }
                            a href=(self.query.elsewhere("/senders")) { "Open Senders" }
                        }
                    }
                    li {
                        h3 { "Give the kernel more room" }
                        p {
                            (grouped(room >> 10)) " KiB granted. Try " code { "sysctl net.core.rmem_max=" (wanted) } " and "
                            code { "receive_buffer = \"" (wanted >> 20) "MiB\"" }
                        }
                    }
                    li {
                        h3 { "Use more cores" }
                        p { "Set " code { "workers = 4" } " in " code { "[[listen]]" } " and restart." }
                    }
                }
            }
        }
    }

    /// What to try where nothing has arrived.
    fn first_steps(&self) -> Markup {
        let listeners = self.look.ledger.listeners.iter();
        let (host, port) = data::udp_address(&self.look.ledger);
        html! {
            section.card data-live="first" {
                header { h2 { "Send something" } span.sub { "any StatsD client will do" } }
                p { code { "systole send 'hello:1|c' --to udp://" (Wire(&host)) ":" (Wire(&port)) } }
                p { code { "echo 'hello:1|c' | nc -u -q0 " (Wire(&host)) " " (Wire(&port)) } }
                p.muted { "Listening on " @for (n, listener) in listeners.enumerate() { @if n > 0 { ", " } code { (Wire(&listener.url)) } } "." }
            }
        }
    }

    fn tiles(&self) -> Markup {
        html! {
            (self.lines_tile()) (self.complete_tile()) (self.series_tile())
            (self.malformed_tile()) (self.flush_tile()) (self.services_tile())
        }
    }

    fn rate(&self, count: u64) -> f64 {
        count as f64 / self.look.snapshot().map_or(1.0, |snapshot| snapshot.interval_secs.max(0.001))
    }

    fn lines_tile(&self) -> Markup {
        let rate = self.last().map(|last| self.rate(last.lines.read));
        let before = self.trends.before("lines.read", LATELY).map(|lines| lines / self.trends.interval.max(0.001));
        let sub = match rate.zip(before) {
            Some((now, before)) if before > 0.0 => change(now, before),
            _ => format!("{} since the start", grouped(self.look.ledger.lines.read)),
        };
        Tile { label: "Lines received", number: rate.map(amount), unit: "/s", sub, class: "s1", ..Tile::default() }
            .render(&self.query.elsewhere("/senders"), &self.trends.per_sec("lines.read"))
    }

    fn complete_tile(&self) -> Markup {
        let complete = self.last().map(|last| last.completeness);
        let recent: u64 = self.look.published.recent.iter().map(|lost| lost.dropped).sum();
        let lost = (self.look.hour.dropped as u64).max(recent);
        let all: u64 = self.look.ledger.listeners.iter().map(|listener| listener.kernel_drops).sum();
        let is_known = self.look.hour.known_secs > 0.0;
        let (number, when) = if is_known { (lost, "in 1 h") } else { (all, "since the start") };
        let grade = match complete {
            Some(complete) if complete < 1.0 => Grade::Error,
            _ if number > 0 && (is_known || recent > 0) => Grade::Warning,
            _ => Grade::Ok,
        };
        let tile = Tile {
            label: "Complete",
            number: complete.map(percent),
            unit: "%",
            sub: format!("{} datagrams lost {when}", grouped(number)),
            class: match grade {
                Grade::Ok => "su",
                Grade::Warning => "late",
                Grade::Error => "sd",
            },
            grade,
            has_sign: true,
        };
        tile.render("/", self.trends.of("completeness"))
    }

    fn series_tile(&self) -> Markup {
        let series = self.last().map(|last| &last.series);
        let held = series.map(|s| s.counters + s.gauges + s.timers + s.sets + s.kvs);
        let before = self.trends.before("series", LATELY);
        let sub = match held.zip(before) {
            Some((now, before)) => {
                let more = now as f64 - before;
                format!("held, {}{} in 5 min", if more > 0.0 { "+" } else { "" }, amount(more))
            }
            None => format!("held, of at most {}", axis(self.look.max_series as f64)),
        };
        let is_near =
            self.look.verdict.pills.iter().any(|pill| pill.about == About::Limit && pill.text.contains("series"))
                || self.look.verdict.about == About::Limit && self.look.verdict.sentence.contains("series");
        let sub = self.look.explosion.clone().unwrap_or(sub);
        let grade = if is_near || self.look.explosion.is_some() { Grade::Warning } else { Grade::Ok };
        Tile { label: "Series", number: held.map(grouped), sub, class: "s4", grade, ..Tile::default() }
            .render(&self.query.elsewhere("/series"), self.trends.of("series"))
    }

    fn malformed_tile(&self) -> Markup {
        let malformed = self.last().map_or(0, Ledger::malformed_total);
        let read = self.last().map_or(0, |last| last.lines.read);
        let reasons = self.last().map_or(0, |last| last.lines.malformed.iter().count());
        let share = if read == 0 { 0.0 } else { malformed as f64 / read as f64 };
        let sub = match malformed {
            0 => "no line refused".to_string(),
            _ => format!("{} lines/s, {}", amount(self.rate(malformed)), count(reasons, "reason")),
        };
        let number = self.last().map(|_| percent(share));
        Tile { label: "Malformed", number, unit: "%", sub, class: "s2", ..Tile::default() }
            .render(&self.query.elsewhere("/senders"), &self.trends.per_sec("lines.malformed"))
    }

    fn flush_tile(&self) -> Markup {
        let flush = self.last().map(|last| &last.flush);
        let ms = |secs: f64| amount(secs * 1000.0);
        let sub = flush.map_or_else(String::new, |flush| match flush.late_secs {
            late if late < 0.000_5 => "on time".into(),
            late => format!("{} ms late", ms(late)),
        });
        Tile {
            label: "Flush",
            number: flush.map(|flush| ms(flush.duration_secs)),
            unit: "ms",
            sub,
            class: "s3",
            ..Tile::default()
        }
        .render("/", self.trends.of("flush.duration_secs"))
    }

    fn services_tile(&self) -> Markup {
        let Some(seen) = &self.look.presence else {
            let tile = Tile { label: "Services up", sub: "presence is off".into(), class: "s0", ..Tile::default() };
            return tile.render("/presence", &[]);
        };
        let blind = seen.blind.pause + seen.blind.drops + seen.blind.queue + seen.blind.peer;
        let (grade, sub) = match seen {
            seen if seen.services == 0 => (Grade::Ok, "nobody was heard yet".to_string()),
            seen if seen.down > 0 => (Grade::Error, format!("{} down", seen.down)),
            seen if seen.degraded > 0 => (Grade::Warning, format!("{} degraded", seen.degraded)),
            seen if seen.failing > 0 => (Grade::Warning, format!("{} says critical", count(seen.failing, "instance"))),
            seen if seen.unconfirmed > 0 => {
                (Grade::Ok, format!("{} not confirmed yet", grouped(seen.unconfirmed as u64)))
            }
            _ if blind > 0.0 => (Grade::Ok, format!("blind for {} s", amount(blind))),
            seen => (Grade::Ok, count(seen.present, "instance") + " present"),
        };
        let class = match grade {
            Grade::Ok => "su",
            Grade::Warning => "late",
            Grade::Error => "sd",
        };
        let unit = format!("of {}", seen.services);
        let tile = Tile {
            label: "Services up",
            number: Some(seen.up.to_string()),
            unit: &unit,
            sub,
            class,
            grade,
            has_sign: grade != Grade::Ok,
        };
        // Of no services nothing is drawn.
        let course = [Some(seen.up as f64); 2];
        tile.render(&self.query.elsewhere("/presence"), if seen.services == 0 { &[] } else { &course })
    }

    /// What arrives, by what it is.
    fn throughput(&self) -> Markup {
        let line =
            |label: &str, class, path: &str| Curve { label: label.into(), class, values: self.trends.per_sec(path) };
        let all = [
            line("metrics", "s1", "lines.metrics"),
            line("heartbeats", "s4", "lines.heartbeats"),
            line("checks", "s3", "lines.service_checks"),
            line("events", "s6", "lines.events"),
            line("malformed", "s2", "lines.malformed"),
        ];
        let has_some = |line: &Curve| line.values.iter().flatten().any(|value| *value > 0.0);
        let mut lines: Vec<Curve> = all.iter().filter(|line| has_some(line)).cloned().collect();
        if lines.is_empty() {
            lines = all[..1].to_vec();
        }
        let says = self.last().map_or_else(String::new, |last| {
            format!("{} lines a second in the last interval", amount(self.rate(last.lines.read)))
        });
        html! {
            figure.card.c8 data-chart="stack" data-per-sec data-unit="lines/s"
                data-ledger="lines.metrics lines.heartbeats lines.service_checks lines.events lines.malformed"
                data-names="metrics heartbeats checks events malformed" data-range=(self.query.range)
            {
                figcaption {
                    h2 { "Throughput" } span.sub { "lines/s by what they are, received" }
                    span.muted { span.su { "— " } "complete  " span.sd { "■ " } "lost" }
                }
                div.plot {
                    (drawing(Drawing::Stack, &lines, &self.trends.times, &self.trends.complete, true, &says))
                }
            }
        }
    }

    fn ledger(&self) -> Markup {
        let Some(snapshot) = self.look.snapshot() else {
            return html! { header { h2 { "Ledger" } } p.empty { "The first interval is still open." } };
        };
        let ledger = &snapshot.ledger;
        let is_balanced = ledger.check().is_ok();
        html! {
            header {
                h2 { "Ledger" } span.sub { "last interval, " (amount((snapshot.interval_secs * 1000.0).round() / 1000.0)) " s" }
                @if is_balanced { span.muted { "all balanced ✓" } } @else { span.error { "✕ not balanced" } }
            }
            div.eqs { (datagrams(ledger)) (lines(ledger)) (samples(ledger)) (offered(&self.look.ledger)) }
        }
    }

    fn series(&self) -> Markup {
        let row = |row: &SeriesRow| {
            html! {
                tr data-id=(Wire(&row.series.id())) {
                    (series_cells(&row.series, &[], &self.query.kept_query()))
                    td.s { (spark(&row.spark, "s1", false)) }
                    td.num.v {
                        @if row.is_current { (row.rate.map_or_else(|| now(row), amount)) }
                        @else { span.muted { "none, " (ago(self.look.now, row.last_seen)) } }
                    }
                }
            }
        };
        html! {
            header {
                h2 { "Loudest series" } span.sub { "per second, last interval" }
                a href=(self.query.elsewhere("/series?sort=loudest").replacen("?sort=loudest?", "?sort=loudest&", 1)) { "all " (grouped(self.loudest.total)) " in the history" }
            }
            @if self.loudest.rows.is_empty() {
                p.empty { "No series in the last interval." }
            } @else {
                table.fixed.loud { tbody { @for one in &self.loudest.rows { (row(one)) } } }
            }
        }
    }

    fn senders(&self) -> Markup {
        let most = self.senders.rows.iter().map(|row| row.share).fold(0.0, f64::max);
        html! {
            header {
                h2 { "Loudest senders" } span.sub { "lines/s" }
                a href=(self.query.elsewhere("/senders")) { "all " (grouped(self.senders.seen)) }
            }
            @if self.senders.rows.is_empty() {
                p.empty { "No sender is known in the last interval." }
            } @else {
                table.fixed {
                    tbody {
                        @for row in self.senders.rows.iter().take(SENDERS) {
                            tr {
                                td.n title=(Wire(&format!("{} {}", row.id, row.more))) { a.name href=(format!("/senders?sender={}", crate::untrusted::in_url(&row.id))) { (Wire(&row.id)) } " " span.muted { (Wire(&row.more)) } }
                                td.b { (share(row.share / most.max(f64::MIN_POSITIVE), "s1")) }
                                td.num.v { (amount(row.lines_per_sec)) }
                            }
                        }
                    }
                }
            }
            (refused(&self.senders, &self.look))
        }
    }

    fn changed(&self) -> Markup {
        html! {
            header { h2 { "Changed" } a href=(self.query.elsewhere("/events")) { "all events" } }
            @if self.happened.is_empty() {
                p.empty { "Nothing has changed yet." }
            } @else {
                (event_list(&self.happened, false))
            }
        }
    }

    fn sinks(&self) -> Markup {
        let sinks = &self.look.ledger.sinks;
        html! {
            header { h2 { "Sinks" } span.sub { "records per interval" } @if sinks.len() > SINKS { span.muted { (SINKS) " of " (sinks.len()) } } }
            @if sinks.is_empty() {
                @if self.cluster.is_some() {
                    p.empty { "What is heard here goes to the cluster; nodes that merge have its sinks." }
                } @else {
                    p.empty { "No sink is configured: nothing leaves this daemon." }
                }
            } @else {
                table {
                    thead {
                        tr {
                            th scope="col" { "Sink" } th scope="col" { "State" } th.num scope="col" { "Delivered" }
                            th.s scope="col" { "Trend" }
                            th.num.wide-only scope="col" { "Queued" } th.num.wide-only scope="col" { "On disk" }
                            th.num.wide-only scope="col" { "Dropped" } th.wide-only scope="col" { "Last success" }
                        }
                    }
                    tbody { @for (name, sink) in sinks.iter().take(SINKS) { (self.sink(name, sink)) } }
                }
            }
        }
    }

    fn sink(&self, name: &str, sink: &SinkAccount) -> Markup {
        let (state, text) = sink_state(sink);
        let path = format!("sinks.{name}.delivered");
        let trend = self.trends.of(&path);
        let delivered = trend.last().copied().flatten();
        html! {
            tr {
                td { b { (Wire(name)) } }
                td { (pill(state, text)) }
                td.num { @match delivered { Some(records) => (grouped(records as u64)), None => (grouped(sink.delivered)) } }
                td.s { (spark(trend, "s1", false)) }
                td.num.wide-only { (grouped(sink.queued)) }
                td.num.wide-only { @if sink.spooled > 0 { span.warning { (grouped(sink.spooled)) " records" } } @else { "0" } }
                td.num.wide-only {
                    @if sink.dropped.lost() > 0 { span.error { "✕ " (grouped(sink.dropped.total())) } }
                    @else { (grouped(sink.dropped.total())) }
                }
                td.wide-only { @if sink.last_success > 0.0 { (ago(self.look.now, sink.last_success)) } @else { "never" } }
            }
        }
    }

    fn listeners(&self) -> Markup {
        let Some(last) = self.last() else {
            return html! { header { h2 { "Listeners" } } @for one in &self.look.ledger.listeners { p { code { (Wire(&one.url)) } } } };
        };
        let row = |listener: &ListenerAccount| {
            let rate = amount(self.rate(listener.datagrams));
            let is_stream =
                listener.url.starts_with("tcp") || listener.url.starts_with("unix:") || listener.url.starts_with("tls");
            html! {
                tr {
                    td { span.name { (Wire(&listener.url)) } }
                    td.num { @if is_stream { (amount(self.rate(listener.bytes))) " B" } @else { (rate) } }
                    td.num {
                        @if listener.kernel_drops > 0 { span.error { "✕ " (amount(self.rate(listener.kernel_drops))) "/s" } } @else { "0" }
                    }
                }
            }
        };
        html! {
            header { h2 { "Listeners" } @if last.listeners.len() > LISTENERS { span.muted { (LISTENERS) " of " (last.listeners.len()) } } }
            table {
                thead { tr { th scope="col" { "Address" } th.num scope="col" { "Datagrams/s" } th.num scope="col" { "Dropped" } } }
                tbody { @for listener in last.listeners.iter().take(LISTENERS) { (row(listener)) } }
            }
        }
    }
}

/// How a sink is: a state and that in words.
fn sink_state(sink: &SinkAccount) -> (&'static str, &'static str) {
    let is_failing = sink.last_error.is_some() && sink.last_failure >= sink.last_success;
    match sink {
        _ if is_failing && sink.dropped.lost() > 0 => ("error", "losing records"),
        _ if is_failing => ("late", "not reachable"),
        sink if sink.spooled > 0 => ("late", "catching up"),
        sink if sink.last_success > 0.0 => ("ok", "delivering"),
        _ => ("waiting", "nothing delivered yet"),
    }
}

/// What a number of a series is, with its name where it has one.
pub(super) fn now(row: &SeriesRow) -> String {
    match row.value {
        Some(value) if row.field == "rate" => format!("{} /s", amount(value)),
        Some(value) if row.field == "value" => amount(value),
        Some(value) => format!("{} {}", row.field, amount(value)),
        None => "none".into(),
    }
}

/// What changed in the last five minutes, in words.
fn change(now: f64, before: f64) -> String {
    let share = now / before - 1.0;
    match share {
        share if share.abs() < 0.001 => "unchanged in 5 min".into(),
        share if share >= 9.0 => format!("{} times in 5 min", amount((now / before).round())),
        share => {
            format!("{}{} % in 5 min", if share > 0.0 { "+" } else { "" }, amount((share * 1000.0).round() / 10.0))
        }
    }
}

fn datagrams(ledger: &Ledger) -> Markup {
    let sum = |of: fn(&ListenerAccount) -> u64| ledger.listeners.iter().map(of).sum::<u64>();
    let (read, dropped, unread) = (sum(|l| l.datagrams), sum(|l| l.kernel_drops), sum(|l| l.unread));
    html! {
        @if dropped + unread > 0 {
            (equation(read + dropped + unread, "datagrams arrived", &[
                Part::new("received", read, "s1"),
                Part::new("dropped by kernel", dropped, "sd"),
                Part::new("unread", unread, "s2"),
            ]))
        }
    }
}

fn lines(ledger: &Ledger) -> Markup {
    let l = &ledger.lines;
    let mut parts = vec![
        Part::new("metrics", l.metrics, "s1"),
        Part::new("malformed", l.malformed.total(), "s2"),
        Part::new("beats", l.heartbeats, "s4"),
        Part::new("checks", l.service_checks, "s3"),
        Part::new("events", l.events, "s6"),
        Part::new("empty", l.empty, "s7"),
    ];
    if l.internal_error > 0 {
        parts.push(Part::new("internal error", l.internal_error, "sd"));
    }
    equation(l.read, "lines read", &parts)
}

fn samples(ledger: &Ledger) -> Markup {
    let s = &ledger.samples;
    equation(
        s.read,
        "samples read",
        &[
            Part::new("recorded", s.recorded, "s1"),
            Part::new("by rule", s.dropped_by_rule, "s7"),
            Part::new("own time", s.timestamped, "s3"),
            Part::new("folded", s.folded, "s2"),
            Part::new("limited", s.limited.total(), "sd"),
        ],
    )
}

fn offered(ledger: &Ledger) -> Markup {
    let sum = |of: fn(&SinkAccount) -> u64| ledger.sinks.values().map(of).sum::<u64>();
    let what = format!("records offered to {} since the start", count(ledger.sinks.len(), "sink"));
    html! {
        @if !ledger.sinks.is_empty() {
            (equation(sum(|s| s.offered), &what, &[
                Part::new("delivered", sum(|s| s.delivered), "s1"),
                Part::new("queued", sum(|s| s.queued), "s3"),
                Part::new("spooled", sum(|s| s.spooled), "s4"),
                Part::new("dropped", sum(|s| s.dropped.total()), "sd"),
            ]))
        }
    }
}

/// Lines that were refused, one example a reason.
pub(super) fn refused(senders: &Senders, look: &Look) -> Markup {
    let counted = data::refused_of_ledger(look);
    let all = if senders.refused.is_empty() { &counted } else { &senders.refused };
    html! {
        @if !all.is_empty() {
            h2.lines { "Refused lines " span.muted { "one example a reason" } }
            ul.lines {
                @for one in all.iter().take(REFUSED) {
                    li {
                        span.error { (Wire(&one.reason)) }
                        span {
                            @if !one.line.is_empty() { a.name href=(format!("/explain?line={}", crate::untrusted::in_url(&one.line))) { (Wire(&one.line)) } }
                            @if let Some(sender) = &one.sender { " " span.muted { (Wire(sender)) } }
                        }
                        span { @if let Some(rate) = one.per_sec { (amount(rate)) "/s" } }
                    }
                }
            }
        }
    }
}

/// What happened, newest first.
pub(super) fn event_list(all: &[Happened], is_long: bool) -> Markup {
    html! {
        ol.log.rows {
            @for one in all {
                li {
                    (clock(one.time))
                    span.(one.level) title=(one.kind) { (sign_of(one)) }
                    span {
                        @match &one.service {
                            Some(service) => a.plain href=(format!("/presence/{}", crate::untrusted::in_url(service))) { (Wire(&one.title)) },
                            None => (coded(&one.title)),
                        }
                        @if is_long && !one.text.is_empty() { " " span.muted { (Wire(&one.text)) } }
                    }
                }
            }
        }
    }
}

/// The sign of something that happened.
pub(super) fn sign_of(one: &Happened) -> Markup {
    match (&*one.level, &*one.kind) {
        ("error" | "warning", _) => sign(&one.level),
        (_, "event" | "start") => icon("flag"),
        (_, "series") => icon("new"),
        ("info", "presence") => sign(state_of(&one.title)),
        ("info", _) => icon("wait"),
        _ => sign("ok"),
    }
}

/// The state that a change of presence without a grave level is about.
fn state_of(title: &str) -> &'static str {
    const STATES: [(&str, &str); 5] = [
        (" is late", "late"),
        ("maintenance", "maintenance"),
        (" said goodbye", "left"),
        (" has left", "left"),
        (" fell silent", "left"),
    ];
    STATES.iter().find(|(words, _)| title.contains(words)).map_or("wait", |(_, state)| state)
}

/// A tile.
struct Tile<'a> {
    label: &'a str,
    /// `None` while there is none.
    number: Option<String>,
    unit: &'a str,
    sub: String,
    class: &'a str,
    grade: Grade,
    has_sign: bool,
}

impl Default for Tile<'_> {
    fn default() -> Self {
        Tile { label: "", number: None, unit: "", sub: String::new(), class: "s1", grade: Grade::Ok, has_sign: false }
    }
}

impl Tile<'_> {
    fn render(&self, to: &str, values: &[Option<f64>]) -> Markup {
        let grade = if self.grade == Grade::Ok { "" } else { self.grade.as_str() };
        html! {
            a.{"tile " (grade)} href=(to) {
                span.label {
                    (self.label)
                    @if self.has_sign || self.grade != Grade::Ok { span.(self.grade) { (sign(self.grade.as_str())) } }
                }
                span.big { @match &self.number { Some(number) => (number), None => "–" } small { (self.unit) } }
                span.sub { (self.sub) }
                (spark(values, self.class, true))
            }
        }
    }
}
