//! Who sends what, and who is too loud.

use axum::extract::State as Extract;
use axum::response::Response;
use maud::{Markup, html};

use crate::http::AppState;
use crate::http::verdict::{self, Look};
use crate::untrusted::in_url;
use crate::web::Parameters;

use super::data::{self, SenderRow, Senders, Trends};
use super::frame::{Frame, View, coded, heading};
use super::now::refused;
use super::parts::{Curve, Drawing, Wire, amount, drawing, grouped, icon, percent, share, spark};
use super::query::{OfSenders, State, StateParameters};

/// Rows of each list.
const SENDERS: usize = 40;
const PREFIXES: usize = 20;
const TAG_KEYS: usize = 12;

/// New series a second of one sender or one tag that are worth a mark.
const MANY_NEW: f64 = 10.0;

struct Shown {
    look: Look,
    query: State,
    senders: Senders,
    /// All of them, where `senders` are those that were asked for.
    of_all: Option<Senders>,
    trends: Trends,
}
/// Who sends what
#[utoipa::path(
    get,
    path = "/senders",
    params(
        ("by" = Option<String>, Query, description = "`address`, `container`, `process` or `prefix`", pattern = "^(address|container|process|prefix)?$"),
        ("sender" = Option<String>, Query, description = "The id of one whose prefixes are shown"),
        StateParameters,
    ),
    responses((status = 200, description = "The page", content_type = "text/html", body = String)),
)]
pub(super) async fn page(
    Extract(state): Extract<AppState>,
    Parameters(OfSenders(query)): Parameters<OfSenders>,
) -> Result<Response, Response> {
    let look = verdict::look(&state).await;
    let senders = data::senders(&state, query.by.as_deref(), query.sender.as_deref(), query.q.as_deref());
    let is_part = [&query.by, &query.sender, &query.q]
        .into_iter()
        .any(|asked| asked.as_ref().is_some_and(|text| !text.is_empty()));
    let of_all = is_part.then(|| data::senders(&state, None, None, None));
    let trends = data::trends(&state, &look, query.time(look.now), &["series"]);
    let shown = Shown { look, query, senders, of_all, trends };
    let frame = Frame {
        state: &state,
        view: View::Senders,
        query: &shown.query,
        look: &shown.look,
        path: "/senders",
        title: Some("senders"),
    };
    frame.page(Some(shown.heading()), shown.content()).await
}

/// What senders are told apart by, in the URL and in words.
const BY: [(&str, &str); 4] =
    [("address", "By address"), ("container", "By container"), ("process", "By process"), ("prefix", "By prefix")];

impl Shown {
    fn by(&self) -> &str {
        self.query.by.as_deref().unwrap_or("address")
    }

    /// The verdict on all senders, whichever are shown.
    fn heading(&self) -> Markup {
        let senders = self.of_all.as_ref().unwrap_or(&self.senders);
        if let Some(warning) = senders.warnings.first() {
            let more = senders.warnings.len() - 1;
            let detail = html! { @if more > 0 { (more) " more: " (coded(&senders.warnings[1])) } };
            return heading("warning", "status", coded(warning), detail, html! {});
        }
        let new = |row: &&SenderRow| row.new_series_per_sec;
        let worst = senders.rows.iter().max_by(|a, b| new(a).total_cmp(&new(b)));
        if let Some(worst) = worst.filter(|row| row.new_series_per_sec >= MANY_NEW) {
            return heading(
                "warning",
                "status",
                html! { (Wire(&worst.id)) " makes " (amount(worst.new_series_per_sec)) " new series a second" },
                html! { "Where that goes on, a name or a tag holds what is different each time: look at its prefixes and at the tag keys." },
                html! {},
            );
        }
        match senders.rows.first() {
            Some(loudest) => heading(
                "ok",
                "status",
                html! { (grouped(senders.seen)) @if senders.seen == 1 { " sender" } @else { " senders" } ", none makes new series without end" },
                html! { span.mono { (Wire(&loudest.id)) } " sends most: " (percent(loudest.share)) " % of " (amount(senders.lines_per_sec)) " lines/s." },
                html! {},
            ),
            None => heading(
                "wait",
                "status",
                html! { "No sender is known yet" },
                html! { "Nothing was sampled in the last interval." },
                html! {},
            ),
        }
    }

    fn content(&self) -> Markup {
        html! {
            (self.seek())
            div.grid {
                div.stack.c8 {
                    section.card data-live="senders" { (self.senders()) }
                    section.card data-live="prefixes" { (self.prefixes()) }
                }
                div.stack.c4.full {
                    section.card data-live="tags" { (self.tag_keys()) }
                    (self.held())
                section.card data-tail data-live="refused" {
                    header { h2 { "Lines" } span.sub { "as they arrive, sampled" } }
                    (refused(&self.senders, &self.look))
                    @if self.senders.refused.is_empty() && self.look.snapshot().is_none_or(|last| last.ledger.malformed_total() == 0) {
                        p.empty { "No line was refused in the last interval." }
                    }
                    p.muted { "All of them: " code { "systole tail" } ", those that are refused: " code { "systole tail --invalid" } "." }
                }
                }
            }
        }
    }

    fn seek(&self) -> Markup {
        html! {
            form.seek role="search" action="/senders" {
                label.find {
                    (icon("search")) span.hide { "Find a sender" }
                    input type="search" name="q" value=(Wire(self.query.q.as_deref().unwrap_or(""))) data-search="senders" placeholder="Who sends… a name, prefix, address, container or pid" autocomplete="off" spellcheck="false";
                }
                @for (name, value) in self.query.hidden(&["q"]) { input type="hidden" name=(name) value=(Wire(value)); }
                nav.chips aria-label="Told apart" {
                    @for (by, words) in BY {
                        a.chip href=(self.query.link("/senders", &[("by", Some(by)), ("sender", None)])) aria-current=[(self.by() == by).then_some("true")] { (words) }
                    }
                }
            }
        }
    }

    fn row(&self, row: &SenderRow, most: f64) -> Markup {
        let is_selected = self.query.sender.as_deref() == Some(&*row.id);
        let is_bad = row.new_series_per_sec >= MANY_NEW;
        let link = match self.by() {
            "prefix" => format!("/series?prefix={}", in_url(&row.id)),
            _ => self.query.link("/senders", &[("sender", (!is_selected).then_some(&*row.id))]),
        };
        html! {
            tr.sel[is_selected] data-id=(Wire(&row.id)) {
                td.n title=(Wire(&format!("{} {}", row.id, row.more))) { a.name href=(link) aria-current=[is_selected.then_some("true")] { (Wire(&row.id)) } " " span.muted { (Wire(&row.more)) } }
                td.b.wide-only { (share(row.share / most.max(f64::MIN_POSITIVE), if is_bad { "s2" } else { "s1" })) }
                td.num { (percent(row.share)) " %" }
                td.num { (amount(row.lines_per_sec)) }
                td.num.wide-only { (amount(row.bytes_per_sec / 1e3)) }
                td.num.wide-only { @if row.malformed_per_sec > 0.0 { span.warning { (amount(row.malformed_per_sec)) } } @else { span.muted { "0" } } }
                td.num { (new_series(row.new_series_per_sec)) }
                td.s { (spark(&row.spark, if is_bad { "s2" } else { "s7" }, false)) }
            }
        }
    }

    fn senders(&self) -> Markup {
        let senders = &self.senders;
        let by_prefix = self.by() == "prefix";
        let rows = if by_prefix { &senders.prefixes } else { &senders.rows };
        let most = rows.iter().map(|row| row.share).fold(0.0, f64::max);
        html! {
            header {
                h2 { @if by_prefix { "Prefixes" } @else { "Senders" } }
                span.sub { (grouped(senders.seen)) " seen; shares within " (percent(senders.error)) " %" }
                span.muted { "sketch of " (grouped(senders.capacity)) " counters" }
            }
            @if rows.is_empty() {
                p.empty { @if self.query.q.is_some() { b { "No sender matches." } } @else { "Nothing was sampled in the last interval." } }
            } @else {
                table {
                    thead {
                        tr {
                            th scope="col" { @if by_prefix { "Prefix" } @else { "Sender" } } th.b.wide-only scope="col" { span.hide { "Share as a bar" } }
                            th.num scope="col" { "Share" } th.num scope="col" aria-sort="descending" { "Lines/s" } th.num.wide-only scope="col" { "kB/s" }
                            th.num.wide-only scope="col" { "Refused/s" } th.num scope="col" { "New series/s" } th.s scope="col" { "Trend" }
                        }
                    }
                    tbody { @for row in rows.iter().take(SENDERS) { (self.row(row, most)) } }
                }
                @if rows.len() > SENDERS { p.muted { (grouped((rows.len() - SENDERS) as u64)) " more: search, or ask " code { "/api/v1/senders" } "." } }
            }
        }
    }

    fn tag_keys(&self) -> Markup {
        let most = self.senders.tag_keys.iter().map(|key| key.values).max().unwrap_or(0);
        // Keys differ by orders of magnitude.
        let scale = |values: u64| (values.max(1) as f64).ln_1p() / (most.max(1) as f64).ln_1p();
        html! {
            header { h2 { "Tag keys by distinct values" } span.sub { "estimated, ±2 %" } }
            @if self.senders.tag_keys.is_empty() {
                p.empty { "No tag was seen in a new series." }
            } @else {
                table.fixed {
                    thead { tr { th scope="col" { "Key" } th.b.wide-only scope="col" {} th.num scope="col" { "Values" } th.num scope="col" { "New/s" } } }
                    tbody {
                        @for key in self.senders.tag_keys.iter().take(TAG_KEYS) {
                            @let is_bad = key.new_per_sec >= MANY_NEW;
                            tr.hot[is_bad] {
                                td.n title=(Wire(&format!("{}: {}", key.key, key.about))) { a.name href=(format!("/series?q={}", in_url(&format!("{}:", key.key)))) { (Wire(&key.key)) } }
                                td.b.wide-only { (share(scale(key.values), if is_bad { "s2" } else { "s7" })) }
                                td.num { (grouped(key.values)) }
                                td.num { (new_series(key.new_per_sec)) }
                            }
                        }
                    }
                }
            }
        }
    }

    /// Series held, against their limit.
    fn held(&self) -> Markup {
        let max = grouped(self.look.max_series);
        let line = Curve { label: String::new(), class: "s2", values: self.trends.of("series").to_vec() };
        let label = line.values.last().copied().flatten().map_or_else(String::new, |held| grouped(held as u64));
        let line = Curve { label, ..line };
        html! {
            figure.card data-chart="area" data-ledger="series.counters series.gauges series.timers series.sets series.kvs" data-sum data-range=(self.query.range) data-class="s2" {
                figcaption { h2 { "Series held" } span.sub { "limit " (max) } }
                div.plot.mini { (drawing(Drawing::Lines, &[line], &self.trends.times, &[], true, "Series held")) }
            }
        }
    }

    fn prefixes(&self) -> Markup {
        let of = self.query.sender.as_deref();
        let rows = &self.senders.prefixes;
        let most = rows.iter().map(|row| row.share).fold(0.0, f64::max);
        html! {
            header {
                @match of {
                    Some(of) => { h2 { "Prefixes of " span.mono { (Wire(of)) } } span.sub { "what this sender sends" } },
                    None => { h2 { "Prefixes" } span.sub { "what is sent, of all senders" } },
                }
            }
            @if rows.is_empty() { p.empty { "Nothing was sampled in the last interval." } }
            @else {
                table.fixed {
                    thead { tr { th scope="col" { "Prefix" } th.b.wide-only scope="col" {} th.num scope="col" { "Share" } th.num scope="col" { "Lines/s" } th.num scope="col" { "New series/s" } } }
                    tbody {
                        @for row in rows.iter().take(PREFIXES) {
                            tr {
                                td.n title=(Wire(&row.id)) { a.name href=(format!("/series?prefix={}", in_url(&row.id))) { (Wire(&row.id)) } }
                                td.b.wide-only { (share(row.share / most.max(f64::MIN_POSITIVE), if row.new_series_per_sec >= MANY_NEW { "s2" } else { "s7" })) }
                                td.num { (percent(row.share)) " %" }
                                td.num { (amount(row.lines_per_sec)) }
                                td.num { (new_series(row.new_series_per_sec)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn new_series(per_sec: f64) -> Markup {
    html! {
        @if per_sec >= MANY_NEW { b.error { "✕ " (amount(per_sec)) } }
        @else { span.muted { (amount((per_sec * 10.0).round() / 10.0)) } }
    }
}
