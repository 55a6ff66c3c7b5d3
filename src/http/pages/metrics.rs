//! The list of series: search, facets, order, pages, and beside it what the selected one does.

use axum::extract::State as Extract;
use axum::response::Response;
use maud::{Markup, html};

use crate::history::Sort;
use crate::http::AppState;
use crate::http::series as of_series;
use crate::http::verdict::{self, Grade, Look};
use crate::presence::describe::length;
use crate::series::Series;
use crate::web::Parameters;

use super::data::{self, Details, Found, MOST_ROWS, Points, SeriesRow};
use super::frame::{Frame, View};
use super::now::now;
use super::parts::{
    Wire, ago, amount, axis, count, grouped, icon, kind, marked, series_cells, series_url, spark, tags,
};
use super::query::{OfMetrics, State, StateParameters};
use super::show::{self, Shape};

/// Values of a facet that are shown.
const FACET: usize = 8;

/// Everything that is shown.
struct Shown {
    look: Look,
    query: State,
    found: Found,
    selected: Option<(SeriesRow, Points, Details)>,
}
/// The list of series, searched
#[utoipa::path(
    get,
    path = "/series",
    params(
        ("tag" = Option<Vec<String>>, Query, description = "A tag as `key:value`; may be repeated"),
        ("prefix" = Option<String>, Query, description = "What names begin with"),
        ("cursor" = Option<String>, Query, description = "Where the page begins: of the link to the next one"),
        StateParameters,
    ),
    responses((status = 200, description = "The page", content_type = "text/html", body = String)),
)]
pub(super) async fn page(
    Extract(state): Extract<AppState>,
    Parameters(OfMetrics(query)): Parameters<OfMetrics>,
) -> Result<Response, Response> {
    let look = verdict::look(&state).await;
    let wanted = data::search_of(&query, MOST_ROWS).map_err(|message| crate::web::bad_request(&message))?;
    let (for_work, bodies) = (state.clone(), state.bodies.clone());
    let shown = bodies
        .work(move || {
            let found = data::search(&for_work, &look, &wanted)?;
            let selected = query.sel.as_deref().and_then(Series::from_id);
            let row = match &selected {
                Some(series) => found.rows.iter().find(|row| row.series == *series).cloned(),
                None => found.rows.first().cloned(),
            };
            let row = row.or_else(|| data::row_of(&for_work, &look, selected.as_ref()?));
            let selected = row.map(|row| {
                let points = data::points(&for_work, &look, &row.series, query.time(look.now));
                let details = data::details(&for_work, &look, &row.series);
                (row, points, details)
            });
            Ok(Shown { look, query, found, selected })
        })
        .await?
        .map_err(of_series::refused)?;
    let title = shown.query.q.as_deref().map_or("metrics".to_string(), |q| format!("{q} · metrics"));
    let frame = Frame {
        state: &state,
        view: View::Metrics,
        query: &shown.query,
        look: &shown.look,
        path: "/series",
        title: Some(&title),
    };
    let heading = shown.heading(&frame);
    frame.page(Some(heading), shown.content()).await
}

impl Shown {
    fn count_text(&self) -> String {
        let (matched, total) = (grouped(self.found.matched), grouped(self.found.total));
        let took = amount(self.found.took_ms);
        if self.found.matched == self.found.total {
            format!("{total} series, {took} ms")
        } else {
            format!("{matched} of {total} series, {took} ms")
        }
    }

    /// The data's verdict where something is wrong; the search says how many there are.
    fn heading(&self, frame: &Frame<'_>) -> Markup {
        html! {
            @if self.look.verdict.level == Grade::Ok { h1.hide { "Metrics: " (self.count_text()) } }
            @else { (frame.verdict()) }
        }
    }

    fn content(&self) -> Markup {
        html! {
            (self.seek())
            div.pins data-pins {}
            div.metrics data-live="metrics" {
                nav.card.facets aria-label="Narrow the search" data-facets { (self.facets(false)) }
                div.chips.narrow { (self.facets(true)) }
                div.card { (self.table()) }
                aside.card data-preview data-of=[self.selected.as_ref().map(|(row, ..)| row.series.id())] aria-label="The selected series" {
                    @match &self.selected {
                        Some((row, points, details)) => (self.preview(row, points, details)),
                        None => p.empty { "No series is selected." },
                    }
                }
            }
        }
    }

    fn seek(&self) -> Markup {
        let q = self.query.q.as_deref().unwrap_or("");
        let current = data::order(&self.query);
        html! {
            form.seek role="search" action="/series" {
                label.find {
                    (icon("search"))
                    span.hide { "Search series" }
                    input type="search" name="q" value=(Wire(q)) data-search="series" placeholder="Words of a name or a tag, route:/pay, api.*" autocomplete="off" spellcheck="false";
                    span.muted data-count role="status" { (self.count_text()) }
                }
                @for (name, value) in self.query.hidden(&["q", "sel"]) { input type="hidden" name=(name) value=(Wire(value)); }
                nav.chips aria-label="Order" {
                    @for ((name, sort), words) in Sort::ALL.into_iter().zip(data::ORDERS) {
                        a.chip href=(self.query.link("/series", &[("sort", Some(name))])) aria-current=[(sort == current).then_some("true")] data-sort=(name) { (words) }
                    }
                }
            }
        }
    }

    /// Facets as lists, or as menus where there is no room.
    fn facets(&self, is_menu: bool) -> Markup {
        let all = &self.found.facets;
        let kind = self.query.kind.as_deref();
        let kinds = all.kinds.iter().map(|(name, n)| {
            let is_on = kind == Some(name);
            let link = self.query.link("/series", &[("kind", (!is_on).then_some(name))]);
            (format!("{}s", capital(name)), *n, link, is_on)
        });
        let prefix = self.query.prefix.as_deref();
        let prefixes = all.prefixes.iter().map(|(name, n)| {
            let is_on = prefix == Some(name);
            (name.clone(), *n, self.query.link("/series", &[("prefix", (!is_on).then_some(name))]), is_on)
        });
        html! {
            (facet("Kind", kinds.collect(), false, is_menu))
            (facet("Prefix", prefixes.collect(), true, is_menu))
            @for (key, values) in &all.tags {
                @let values = values.iter().map(|(value, n)| {
                    let tag = if value.is_empty() { key.clone() } else { format!("{key}:{value}") };
                    let is_on = self.query.tags.contains(&tag);
                    (value.clone(), *n, self.query.link("/series", &[("tag", (!is_on).then_some(&*tag))]), is_on)
                });
                (facet(&format!("Tag {key}"), values.collect(), true, is_menu))
            }
        }
    }

    fn table(&self) -> Markup {
        if self.found.rows.is_empty() {
            return self.nothing();
        }
        let words = self.query.searched();
        let selected = self.selected.as_ref().map(|(row, ..)| &row.series);
        let row = |row: &SeriesRow| {
            let is_selected = selected == Some(&row.series);
            html! {
                tr.sel[is_selected] data-id=(Wire(&row.series.id())) aria-current=[is_selected.then_some("true")] {
                    (series_cells(&row.series, &words, &self.query.kept_query()))
                    td.s { (spark(&row.spark, if is_selected { "s1" } else { "s7" }, false)) }
                    td.num.v { @if row.value.is_some() { (now(row)) } @else { span.muted { "none" } } }
                    td.num.r { @if let Some((low, high)) = row.range { (amount(low)) " to " (amount(high)) } }
                    td.num.a { @if row.is_current { "now" } @else { span.warning { (ago(self.look.now, row.last_seen)) } } }
                }
            }
        };
        let shown = self.found.rows.len() as u64;
        html! {
            table.fixed.list data-series data-next=(self.found.next.as_deref().unwrap_or("")) {
                thead {
                    tr {
                        th.k scope="col" { span.hide { "Kind" } } th scope="col" { "Series" }
                        th.s scope="col" { (self.query.range_text()) }
                        th.num.v scope="col" { "Now" } th.num.r scope="col" { "Range" } th.num.a scope="col" { "Seen" }
                    }
                }
                tbody { @for one in &self.found.rows { (row(one)) } }
            }
            @if let Some(next) = &self.found.next {
                p.acts { a.ctl href=(self.query.link("/series", &[("cursor", Some(next))])) rel="next" { "Next " (MOST_ROWS) } }
            } @else if self.query.cursor.is_none() && shown < self.found.matched {
                p.empty { (grouped(shown)) " of " (grouped(self.found.matched)) " are shown. Narrow the search." }
            }
        }
    }

    /// Why there is nothing.
    fn nothing(&self) -> Markup {
        let total = grouped(self.found.total);
        let narrowed = self.query.kind.is_some() || self.query.prefix.is_some() || !self.query.tags.is_empty();
        html! {
            div.empty {
                @match &self.query.q {
                    Some(q) => p { b { "No series matches " code { (Wire(q)) } "." } },
                    None if narrowed => p { b { "No series matches." } },
                    None if self.look.ledger.lines.read == 0 => p { b { "No line was read yet." } },
                    None => p { b { "No series in the history." } },
                }
                p {
                    @if !self.found.near.is_empty() {
                        "Nearest: "
                        @for (n, (word, matched)) in self.found.near.iter().enumerate() {
                            @if n > 0 { ", " }
                            a href=(self.query.link("/series", &[("q", Some(word))])) { (Wire(word)) } " (" (grouped(*matched)) ")"
                        }
                        ". "
                    }
                    (total) " searched."
                    @if self.query.q.is_some() || narrowed { " " a href=(self.query.elsewhere("/series")) { "Show all" } }
                }
            }
        }
    }

    fn preview(&self, row: &SeriesRow, points: &Points, details: &Details) -> Markup {
        let series = &row.series;
        let kept = self.query.kept_query();
        html! {
            header {
                (kind(series.kind())) h2.name { (marked(series.name(), &self.query.searched())) }
                span.acts {
                    button.icon.js type="button" data-act="pin" data-id=(Wire(&series.id())) aria-label="Pin" { (icon("pin")) }
                    button.icon.js type="button" data-act="link" aria-label="Copy link" { (icon("link")) }
                }
            }
            p { (tags(series, &[], 12)) }
            (show::figure(series, points, Shape::Small, &self.query))
            dl.kv {
                dt { "Now" } dd { (show::now_text(points, row)) }
                @if let Some(rate) = row.rate { dt { "Count" } dd { (amount(rate)) "/s" } }
                @if let Some((low, high)) = row.range { dt { "Range" } dd { (amount(low)) " to " (amount(high)) } }
                dt { "Seen" } dd {
                    @if row.is_current { "now" } @else { (ago(self.look.now, row.last_seen)) }
                    @if let Some(first) = details.first_seen { ", first " (length((self.look.now - first).max(0.0))) " ago" }
                }
                @if !details.senders.is_empty() {
                    dt { "Sent by" }
                    dd {
                        (count(details.senders.len(), "sender")) ", most " span.mono { (Wire(&details.senders[0].label)) } " "
                        (amount((details.senders[0].share * 100.0).round())) " %"
                    }
                }
                @if let Some(rule) = &details.rule { dt { "Rule" } dd { code { (Wire(rule)) } } }
                @if !details.percentiles.is_empty() && show::is_timer(series) { dt { "Percentiles" } dd { (show::list(&details.percentiles)) } }
                @if !details.goes_to.is_empty() {
                    dt { "Goes to" } dd { @for (n, (sink, _)) in details.goes_to.iter().enumerate() { @if n > 0 { ", " } (Wire(sink)) } }
                }
                @if let Some(history) = data::history_text(&self.look) { dt { "History" } dd { (history.trim_start_matches("history ")) } }
            }
            div.acts {
                a.ctl.main href=(series_url(series, &kept)) { "Open " kbd.js { "Enter" } }
                button.js type="button" data-act="compare" data-id=(Wire(&series.id())) { "Compare " kbd { "c" } }
            }
        }
    }
}

type FacetRow = (String, u64, String, bool);

fn facet(name: &str, rows: Vec<FacetRow>, is_wire: bool, is_menu: bool) -> Markup {
    let on = rows.iter().find(|(.., is_on)| *is_on).map(|(name, ..)| name.clone());
    let (shown, rest) = rows.split_at(rows.len().min(FACET));
    let more: u64 = rest.iter().map(|(_, n, ..)| n).sum();
    let links = html! {
        @for (name, n, link, is_on) in shown {
            a.mono[is_wire] href=(link) aria-current=[is_on.then_some("true")] { span title=(Wire(name)) { (Wire(name)) } span { (axis(*n as f64)) } }
        }
        @if !rest.is_empty() { a.muted { span { (rest.len()) " more" } span { (axis(more as f64)) } } }
    };
    html! {
        @if rows.is_empty() {}
        @else if is_menu {
            details.menu {
                summary { (Wire(name)) @if let Some(on) = on { ": " (Wire(&on)) } }
                div { (links) }
            }
        } @else {
            h2 { (Wire(name)) } (links)
        }
    }
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}
