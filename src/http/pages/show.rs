//! One series: what it did, who sends it, how it is read, where it goes.

use axum::extract::State as Extract;
use axum::response::Response;
use maud::{Markup, html};

use crate::http::AppState;
use crate::http::verdict::{self, Look};
use crate::protocol::Kind;
use crate::series::Series;
use crate::untrusted::in_url;
use crate::web::{Parameters, bad_request};

use super::data::{self, ByTag, Details, Points, SeriesRow};
use super::frame::{Frame, View};
use super::parts::{Curve, Drawing, Wire, ago, amount, count, date, drawing, icon, percent, series_url, share, tags};
use super::query::{OfSeries, State, StateParameters};

/// Values of a tag that are shown, and senders.
const VALUES: usize = 12;
const SENDERS: usize = 6;

/// How large a drawing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Large,
    Small,
}

/// Everything that is shown.
struct Shown {
    look: Look,
    query: State,
    row: SeriesRow,
    points: Points,
    details: Details,
}
/// One series, by its kind, name and tags
#[utoipa::path(
    get,
    path = "/series/show",
    params(
        ("name" = String, Query, description = "Its name"),
        ("tag" = Option<Vec<String>>, Query, description = "A tag as `key:value`; may be repeated"),
        StateParameters,
    ),
    responses((status = 200, description = "The page", content_type = "text/html", body = String)),
)]
pub(super) async fn page(
    Extract(state): Extract<AppState>,
    Parameters(OfSeries(query)): Parameters<OfSeries>,
) -> Result<Response, Response> {
    let (Some(name), Some(kind)) = (&query.name, &query.kind) else {
        return Err(bad_request("`kind` and `name` say which series; its tags are `tag=key:value`, one for each"));
    };
    let kind = Kind::ALL.into_iter().find(|known| known.name() == kind).unwrap_or(Kind::Counter);
    let tags: Vec<(&str, Option<&str>)> = query
        .tags
        .iter()
        .map(|tag| tag.split_once(':').map_or((&**tag, None), |(key, value)| (key, Some(value))))
        .collect();
    let series = Series::new(kind, name, &tags);
    let look = verdict::look(&state).await;
    let (for_work, bodies) = (state.clone(), state.bodies.clone());
    let shown = bodies
        .work(move || {
            let row = data::row_of(&for_work, &look, &series);
            let is_known = row.is_some();
            let row = row.unwrap_or_else(|| SeriesRow::unknown(&series));
            let points = data::points(&for_work, &look, &series, query.time(look.now));
            let details = data::details(&for_work, &look, &series);
            (Shown { look, query, row, points, details }, is_known)
        })
        .await?;
    let (shown, is_known) = shown;
    let title = super::parts::whole(&shown.row.series);
    let frame = Frame {
        state: &state,
        view: View::Metrics,
        query: &shown.query,
        look: &shown.look,
        path: "/series/show",
        title: Some(&title),
    };
    let content = if is_known { shown.content() } else { shown.unknown() };
    let mut response = frame.page(Some(shown.heading()), content).await?;
    if !is_known {
        *response.status_mut() = axum::http::StatusCode::NOT_FOUND;
    }
    Ok(response)
}

impl Shown {
    fn heading(&self) -> Markup {
        let series = &self.row.series;
        let name = series.name();
        let prefix = name.find('.').map_or("", |at| &name[..=at]);
        let id = series.id();
        html! {
            div.crumbs {
                p {
                    a href=(self.query.elsewhere("/series")) { "Metrics" }
                    @if !prefix.is_empty() { span.muted { " / " } a.mono href=(format!("/series?prefix={}", in_url(prefix))) { (Wire(prefix)) } }
                }
                div.acts {
                    button.js type="button" data-act="pin" data-id=(Wire(&id)) { (icon("pin")) "Pin " kbd { "p" } }
                    button.js type="button" data-act="compare" data-id=(Wire(&id)) { (icon("metrics")) "Compare " kbd { "c" } }
                    button.js type="button" data-act="link" { (icon("link")) "Copy link " kbd { "l" } }
                }
                div.title data-id=(Wire(&id)) {
                    h1 { (Wire(name)) }
                    span { (tags(series, &[], 20)) }
                    span.pill { (series.kind().name()) @if is_timer(series) { ", ms" } }
                    span.muted {
                        @for (n, fact) in self.seen().iter().enumerate() { @if n > 0 { ", " } (fact) }
                    }
                }
            }
        }
    }

    /// Who sends it, since when, and until when if it has stopped.
    fn seen(&self) -> Vec<Markup> {
        let details = &self.details;
        let senders = usize::try_from(details.senders_seen).unwrap_or(usize::MAX);
        let has_stopped = self.has_stopped();
        let facts = [
            (senders > 0).then(|| html! { (count(senders, "sender")) }),
            details.first_seen.map(|first| html! { "first seen " (date(first)) }),
            has_stopped
                .then(|| html! { span.warning { "stopped, last seen " (ago(self.look.now, self.row.last_seen)) } }),
        ];
        facts.into_iter().flatten().collect()
    }

    fn has_stopped(&self) -> bool {
        !self.row.is_current && self.row.last_seen > 0.0
    }

    fn unknown(&self) -> Markup {
        let name = self.row.series.name();
        html! {
            section.card {
                p { b { "This series is not known." } }
                p.muted {
                    "It was never received, or not for as long as the history goes back. "
                    a href=(format!("/series?q={}", in_url(name))) { "Search for its name" }
                }
            }
        }
    }

    fn content(&self) -> Markup {
        html! {
            div.show {
                div.stack {
                    section.card.facts data-live="facts" aria-label="Figures" { (self.facts()) }
                    (figure(&self.row.series, &self.points, Shape::Large, &self.query))
                    @if is_timer(&self.row.series) { (self.heat()) (self.count()) }
                }
                div.side.stack data-live="side" {
                    @for by in &self.details.by_tag { (self.by_tag(by)) }
                    (self.sent_by())
                    (self.reading())
                    (self.goes_to())
                }
            }
        }
    }

    fn facts(&self) -> Markup {
        let has_stopped = self.has_stopped();
        let fields = &self.points.fields;
        // A series begins with a part of an interval, from which it has always risen.
        let begin = self.points.times.first().copied();
        let is_old = self.details.first_seen.zip(begin).is_some_and(|(first, begin)| first < begin);
        let fact = |name: &str, words: &str, unit: &str| {
            let values = fields.iter().find(|(known, _)| known == name).map(|(_, values)| values);
            let known: Vec<f64> = values.map_or_else(Vec::new, |values| values.iter().flatten().copied().collect());
            let (Some(last), Some(first)) = (known.last(), known.first()) else { return html! {} };
            let (low, high) = (
                known.iter().copied().fold(f64::INFINITY, f64::min),
                known.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            );
            let is_up = is_old && *first > 0.0 && last / first >= 2.0;
            if has_stopped {
                return html! {
                    div {
                        p { (words) }
                        p.big { "none" }
                        p { "was " (amount(*last)) (unit) ", " (ago(self.look.now, self.row.last_seen)) }
                    }
                };
            }
            html! {
                div {
                    p { (words) }
                    p.big { (amount(*last)) " " small { (unit) } }
                    p {
                        @if is_up { span.warning { "▲ " (amount((last / first * 10.0).round() / 10.0)) " times in " (self.query.range_text()) } }
                        @else if known.len() == 1 { "one interval" }
                        @else if amount(low) == amount(high) { "unchanged in " (self.query.range_text()) }
                        @else { (amount(low)) " to " (amount(high)) }
                    }
                }
            }
        };
        let name_of = |field: &str| match field {
            "median" => "Median".to_string(),
            "rate" => "Rate".into(),
            "value" => "Value".into(),
            "count" => "Count".into(),
            "max" => "Max".into(),
            "min" => "Min".into(),
            "mean" => "Mean".into(),
            field => field.to_string(),
        };
        let is_timer = is_timer(&self.row.series);
        let shown = fields
            .iter()
            .map(|(name, _)| name.as_str())
            .filter(|name| !is_timer || !matches!(*name, "count" | "sum" | "mean" | "min" | "p50"));
        html! {
            @for name in shown {
                (fact(name, &name_of(name), if name == "rate" { "/s" } else if is_timer { "ms" } else { "" }))
            }
            @if is_timer {
                div {
                    p { "Precision" }
                    p.big { @if self.details.is_exact { "exact" } @else { "±0.1 " small { "%" } } }
                    p { @if self.details.is_exact { "from all samples" } @else { "from a histogram" } }
                }
            }
        }
    }

    fn heat(&self) -> Markup {
        html! {
            figure.card.js data-chart="heat" data-ids=(id_list(&self.row.series)) data-fields="count" data-range=(self.query.range) data-unit="ms" {
                figcaption { h2 { "Distribution" } span.sub { "how many samples, by interval and value" } }
                div.plot {}
            }
        }
    }

    fn count(&self) -> Markup {
        let line = self.points.line("rate", "count", "s3");
        html! {
            figure.card data-chart="area" data-ids=(id_list(&self.row.series)) data-fields="rate" data-range=(self.query.range) data-unit="/s" data-class="s3" {
                figcaption { h2 { "Count" } span.sub { "samples/s, corrected by the sample rate" } }
                div.plot.low { (drawing(Drawing::Lines, &[line], &self.points.times, &self.points.complete, true, "Samples a second")) }
            }
        }
    }

    fn by_tag(&self, by: &ByTag) -> Markup {
        let most = by.values.iter().filter_map(|(.., now)| *now).fold(0.0, f64::max);
        html! {
            section.card {
                header { h2 { "By " span.mono { (Wire(&by.key)) } } span.muted { (by.field) } }
                table.fixed {
                    tbody {
                        @for (value, series, now) in by.values.iter().take(VALUES) {
                            @let is_this = *series == self.row.series;
                            tr.sel[is_this] {
                                td.n { a.name href=(series_url(series, &self.query.kept_query())) { (Wire(value)) } }
                                td.b { (share(now.unwrap_or(0.0) / most.max(f64::MIN_POSITIVE), "s1")) }
                                td.num.v { @match now { Some(now) => (amount(*now)), None => span.muted { "none" } } }
                            }
                        }
                    }
                }
                @if by.values.len() > VALUES { p.muted { (by.values.len() - VALUES) " more" } }
            }
        }
    }

    fn sent_by(&self) -> Markup {
        html! {
            @if !self.details.senders.is_empty() {
                section.card {
                    header {
                        h2 { "Sent by" }
                        span.sub { @if self.has_stopped() { "of its prefix, as far as is known" } @else { "of its prefix" } }
                        span.muted { "share" }
                    }
                    table.fixed {
                        tbody {
                            @for sender in self.details.senders.iter().take(SENDERS) {
                                tr {
                                    td.n { a.name href=(format!("/senders?sender={}", in_url(&sender.id))) { (Wire(&sender.label)) } }
                                    td.num.v { (percent(sender.share)) " %" }
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    fn reading(&self) -> Markup {
        let details = &self.details;
        html! {
            section.card {
                header { h2 { "Reading" } }
                dl.pair {
                    dt { "Rule" } dd { @match &details.rule { Some(rule) => (Wire(rule)), None => "none matches" } }
                    @if !details.percentiles.is_empty() && is_timer(&self.row.series) { dt { "Percentiles" } dd { (list(&details.percentiles)) } }
                    @if !details.dropped_tags.is_empty() { dt { "Dropped tags" } dd { (Wire(&details.dropped_tags.join(", "))) } }
                    dt { "ID" } dd { (Wire(&self.row.series.id())) }
                }
            }
        }
    }

    fn goes_to(&self) -> Markup {
        html! {
            @if !self.details.goes_to.is_empty() {
                section.card {
                    header { h2 { "Goes to" } }
                    dl.pair {
                        @for (sink, names) in &self.details.goes_to {
                            dt { (Wire(sink)) }
                            @for name in names.iter().take(4) { dd { (Wire(name)) } }
                            @if names.len() > 4 { dd.muted { (names.len() - 4) " more" } }
                        }
                    }
                }
            }
        }
    }
}

pub(super) fn is_timer(series: &Series) -> bool {
    matches!(series.kind(), Kind::Timer | Kind::Histogram | Kind::Distribution)
}

/// The id of a series as a list, which may hold blanks.
fn id_list(series: &Series) -> Markup {
    let list = serde_json::to_string(&[series.id()]).unwrap_or_default();
    html! { (Wire(&list)) }
}

/// The main drawing of a series: percentiles as bands, a rate as an area, all else as a line.
pub(super) fn figure(series: &Series, points: &Points, shape: Shape, query: &State) -> Markup {
    let (kind, title, sub, fields, unit): (_, _, _, Vec<&str>, _) = match series.kind() {
        Kind::Timer | Kind::Histogram | Kind::Distribution => {
            let known = points.fields.iter().map(|(name, _)| name.as_str());
            let fields = known.filter(|name| *name == "median" || *name == "max" || name.starts_with('p')).collect();
            ("bands", "Percentiles", "of each interval; max above", fields, "ms")
        }
        Kind::Counter | Kind::Meter => ("area", "Rate", "per second", vec!["rate"], "/s"),
        Kind::Gauge => ("line", "Value", "at the end of each interval", vec!["value"], ""),
        Kind::Set => ("area", "Distinct values", "per interval", vec!["value"], ""),
        Kind::Kv => ("line", "Value", "the last of each interval", vec!["value"], ""),
    };
    let class = |field: &str, n: usize| match field {
        "max" => "s0",
        _ if kind == "bands" => "s1",
        _ => ["s1", "s2", "s3", "s4", "s5", "s6", "s7"][n % 7],
    };
    let lines: Vec<Curve> =
        fields.iter().enumerate().map(|(n, field)| points.line(field, field, class(field, n))).collect();
    let from_zero = kind != "line";
    let says = points.sentence(series, &fields);
    let size = if shape == Shape::Large { "plot" } else { "plot mini" };
    let body = html! {
        @if shape == Shape::Large { figcaption { h2 { (title) } span.sub { (sub) } } } @else { figcaption.hide { (title) } }
        div.(size) { (drawing(Drawing::Lines, &lines, &points.times, &points.complete, from_zero, &says)) }
    };
    html! {
        figure.card[shape == Shape::Large] data-chart=(kind) data-ids=(id_list(series)) data-fields=(fields.join(" "))
            data-range=(query.range) data-unit=(unit) data-log[query.is_log] { (body) }
    }
}

/// The values of the last interval.
pub(super) fn now_text(points: &Points, row: &SeriesRow) -> Markup {
    let known: Vec<(&str, f64)> = points
        .fields
        .iter()
        .filter(|(name, _)| name == "median" || name == "max" || name.starts_with('p'))
        .filter_map(|(name, values)| Some((name.as_str(), values.last().copied().flatten()?)))
        .collect();
    html! {
        @if known.is_empty() { (super::now::now(row)) }
        @else { @for (name, value) in known { (name) " " b { (amount(value)) } "  " } }
    }
}

/// Numbers with commas.
pub(super) fn list(numbers: &[f64]) -> String {
    numbers.iter().map(|number| amount(*number)).collect::<Vec<_>>().join(", ")
}
