//! Parts that several pages show: numbers for people, icons, lines, bars, tags. Text of clients goes in through [`Wire`] only.

use std::fmt::Write;
use std::time::{Duration, UNIX_EPOCH};

use maud::{Markup, PreEscaped, Render, html};

use crate::presence::describe::length;
use crate::protocol::Kind;
use crate::series::Series;
pub(in crate::http) use crate::snapshot::grouped;
use crate::snapshot::short_number;
use crate::untrusted::{Html, in_url};

/// Text that came over the wire.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wire<'a>(pub(super) &'a str);

impl Render for Wire<'_> {
    fn render_to(&self, out: &mut String) {
        let _ = write!(out, "{}", Html(self.0));
    }
}

/// A number with three significant digits, or with all before its point.
pub(in crate::http) fn amount(value: f64) -> String {
    let size = value.abs();
    let sign = if value < 0.0 { "−" } else { "" };
    match size {
        size if size >= 1e15 || (size > 0.0 && size < 0.001) => short_number(value).replacen('-', "−", 1),
        size if size >= 100.0 || size == size.trunc() => format!("{sign}{}", grouped(size.round() as u64)),
        size => {
            let digits = if size >= 10.0 {
                1
            } else if size >= 1.0 {
                2
            } else {
                3
            };
            let text = format!("{sign}{size:.digits$}");
            text.trim_end_matches('0').trim_end_matches('.').to_string()
        }
    }
}

/// A number beside an axis.
pub(super) fn axis(value: f64) -> String {
    let (scaled, unit) = match value.abs() {
        size if size >= 1e9 => (value / 1e9, " G"),
        size if size >= 1e6 => (value / 1e6, " M"),
        size if size >= 1e4 => (value / 1e3, " k"),
        _ => (value, ""),
    };
    format!("{}{unit}", amount(scaled))
}

/// A share of 1 as percent, as long as it is not quite 1 never `100`.
pub(in crate::http) fn percent(share: f64) -> String {
    let cut = |factor: f64| amount((share * 100.0 * factor).floor() / factor);
    match share {
        share if share >= 1.0 => "100".into(),
        share if share > 0.99 => ((share * 10_000.0).floor() / 100.0).to_string(),
        share if share * 100.0 >= 10.0 => cut(1.0),
        share if share * 100.0 >= 1.0 => amount((share * 1000.0).round() / 10.0),
        share if share <= 0.0 => "0".into(),
        share if share < 0.0001 => "< 0.01".into(),
        share => amount((share * 10_000.0).round() / 100.0),
    }
}

/// A number of things: `1 line`, `2 lines`.
pub(in crate::http) fn count(number: usize, thing: &str) -> String {
    let s = if number == 1 { "" } else { "s" };
    format!("{} {thing}{s}", grouped(number as u64))
}

/// Time of day in UTC, which a script shows in the zone of the reader.
pub(super) fn clock(unix: f64) -> Markup {
    let full = rfc3339(unix);
    html! { time datetime=(full) data-t=(unix as u64) data-f="s" title=(full) { (&full[11..19]) } }
}

/// Day and time of day.
pub(super) fn date(unix: f64) -> Markup {
    let full = rfc3339(unix);
    html! { time datetime=(full) data-t=(unix as u64) data-f="d" { (&full[..10]) " " (&full[11..16]) } }
}

pub(in crate::http) fn rfc3339(unix: f64) -> String {
    let time = UNIX_EPOCH + Duration::from_secs_f64(unix.clamp(0.0, 2.5e11));
    humantime::format_rfc3339_seconds(time).to_string()
}

/// How long ago something was.
pub(super) fn ago(now: f64, then: f64) -> Markup {
    html! { span data-ago=(then as u64) { (length((now - then).max(0.0).round())) " ago" } }
}

const ICONS: &[(&str, &str)] = &[
    ("now", "M1 9h3l2-5 3 9 2.5-6 1 2H15"),
    ("metrics", "M2 2v12h12M4.500 10l3-3 2.500 2L14 4"),
    ("presence", "M2 2h4.500v4.500H2zM9.500 2H14v4.500H9.500zM2 9.500h4.500V14H2zM10 10l4 4m0-4-4 4"),
    ("senders", "M1 8h9M7 4.500 10.500 8 7 11.500M14 2v12"),
    ("events", "M5 3h9M5 8h9M5 13h9M2 3h.01M2 8h.01M2 13h.01"),
    ("more", "M2 4h12M2 8h12M2 12h12"),
    ("search", "M7 2.500a4.500 4.500 0 1 0 0 9 4.500 4.500 0 0 0 0-9zM10.500 10.500 14 14"),
    ("clock", "M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2zM8 4.500V8l2.500 1.500"),
    ("theme", "M13.500 9.500A6 6 0 1 1 6.500 2.500a5 5 0 0 0 7 7z"),
    ("ok", "M3.500 8.500 6.500 11.500 12.500 5"),
    ("error", "M4.500 4.500l7 7m0-7-7 7"),
    ("warning", "M8 2.500 14.500 13.500h-13zM8 6.500v3M8 11.500v.01"),
    ("pause", "M6 3.500v9M10 3.500v9"),
    ("unknown", "M5.500 6a2.500 2.500 0 1 1 3.500 2.300c-.7.400-1 .8-1 1.700M8 12.500v.01"),
    ("left", "M6.500 2.500h-4v11h4M9.500 5.500 12.500 8l-3 2.500M6 8h6.500"),
    ("new", "M8 3v10M3 8h10"),
    ("gone", "M3 8h10"),
    ("up", "M3.500 10 8 5.500 12.500 10"),
    ("flag", "M3.500 14V2.500M3.500 3h9l-2.500 3 2.500 3h-9"),
    ("pin", "M6 2h4v4.500l2 2.500H4l2-2.500zM8 9v5"),
    (
        "link",
        "M7 9.500a3 3 0 0 0 4.300 0l2-2a3 3 0 0 0-4.300-4.300l-.7.700M9 6.500a3 3 0 0 0-4.300 0l-2 2a3 3 0 0 0 4.300 4.300l.7-.700",
    ),
    ("wait", "M4 8h.01M8 8h.01M12 8h.01"),
];

/// A small drawing; whatever it means stands beside it in words.
pub(super) fn icon(name: &str) -> Markup {
    let path = ICONS.iter().find(|(known, _)| *known == name).map_or("", |(_, path)| path);
    html! { svg.i viewBox="0 0 16 16" aria-hidden="true" { path d=(path) {} } }
}

/// The drawing of a level or a state.
pub(super) fn sign(state: &str) -> Markup {
    icon(match state {
        "ok" | "up" | "delivering" => "ok",
        "warning" | "degraded" => "warning",
        "late" | "waiting" => "clock",
        "error" | "down" => "error",
        "maintenance" => "pause",
        "left" => "left",
        "wait" => "wait",
        _ => "unknown",
    })
}

/// A state in words, with its sign.
pub(super) fn pill(state: &str, text: &str) -> Markup {
    html! { span.{"pill " (state)} { (sign(state)) (Wire(text)) } }
}

/// The letter of a kind.
pub(super) fn kind(kind: Kind) -> Markup {
    let letter = match kind {
        Kind::Counter | Kind::Meter => "C",
        Kind::Gauge => "G",
        Kind::Timer => "T",
        Kind::Histogram => "H",
        Kind::Distribution => "D",
        Kind::Set => "S",
        Kind::Kv => "K",
    };
    html! { span.kind title=(kind.name()) aria-label=(kind.name()) { (letter) } }
}

/// Text with the parts underlined that match one of some words.
pub(super) fn marked(text: &str, words: &[String]) -> Markup {
    let lower = text.to_lowercase();
    let found = words.iter().filter(|word| !word.is_empty());
    // Lower case may have other places where it has another length.
    let place = found.filter_map(|word| Some((lower.find(word.as_str())?, word.len()))).min();
    match place.filter(|_| lower.len() == text.len()) {
        Some((at, length)) if text.is_char_boundary(at) && text.is_char_boundary(at + length) => html! {
            (Wire(&text[..at])) mark { (Wire(&text[at..at + length])) } (Wire(&text[at + length..]))
        },
        _ => html! { (Wire(text)) },
    }
}

/// Most tags of a row that are shown whole; the others are counted.
const TAGS: usize = 3;

/// A tag as it is written in a line.
pub(super) fn tag_text((key, value): (&str, Option<&str>)) -> String {
    value.map_or_else(|| key.to_string(), |value| format!("{key}:{value}"))
}

/// Tags, those that match first, at most so many.
pub(super) fn tags(series: &Series, words: &[String], most: usize) -> Markup {
    let mut texts: Vec<String> = series.tags().map(tag_text).collect();
    texts.sort_by_key(|tag| !words.iter().any(|word| !word.is_empty() && tag.to_lowercase().contains(word.as_str())));
    let more = texts.len().saturating_sub(most);
    html! {
        @for tag in texts.iter().take(most) { span.tag { (marked(tag, words)) } }
        @if more > 0 { span.tag title=(Wire(&texts[most..].join(" "))) { "+" (more) } }
    }
}

/// The address of a series' page.
pub(super) fn series_url(series: &Series, kept: &str) -> String {
    let mut out = format!("/series/show?kind={}&name={}", series.kind().name(), in_url(series.name()));
    for tag in series.tags() {
        let _ = write!(out, "&tag={}", in_url(&tag_text(tag)));
    }
    if !kept.is_empty() {
        let _ = write!(out, "&{}", kept.trim_start_matches('?'));
    }
    out
}

/// A series as words: its name and all its tags.
pub(super) fn whole(series: &Series) -> String {
    let tags: Vec<String> = series.tags().map(tag_text).collect();
    if tags.is_empty() { series.name().to_string() } else { format!("{} {}", series.name(), tags.join(" ")) }
}

/// A series' letter, name and tags as two cells.
pub(super) fn series_cells(series: &Series, words: &[String], kept: &str) -> Markup {
    html! {
        td.k { (kind(series.kind())) }
        td.n title=(Wire(&whole(series))) {
            a.name href=(series_url(series, kept)) { (marked(series.name(), words)) }
            (tags(series, words, TAGS))
            @let count = series.tags().count();
            @if count > 1 { span.tag.rest { "+" (count - 1) } }
        }
    }
}

/// The smallest share of its maximum that a line's scale spans, so that noise looks like noise.
const LEAST_SPAN: f64 = 0.3;

/// Bottom and top of a line's scale.
fn scale(values: &[Option<f64>], from_zero: bool) -> Option<(f64, f64)> {
    let known = || values.iter().flatten().copied().filter(|value| value.is_finite());
    let (low, high) = (known().fold(f64::INFINITY, f64::min), known().fold(f64::NEG_INFINITY, f64::max));
    if low > high {
        return None;
    }
    if low == 0.0 && high == 0.0 {
        // Nothing lies at the bottom.
        return Some((0.0, 1.0));
    }
    let low = if from_zero { low.min(0.0) } else { low };
    let least = (high.abs().max(low.abs()) * LEAST_SPAN).max(f64::MIN_POSITIVE);
    if high - low >= least {
        return Some((low, high));
    }
    let middle = f64::midpoint(low, high);
    Some((middle - least / 2.0, middle + least / 2.0))
}

/// The path of a line through values; where one is missing it breaks, and a lone value is a dot.
fn path(values: &[Option<f64>], x: impl Fn(usize) -> f64, y: impl Fn(f64) -> f64) -> String {
    let (mut out, mut is_open) = (String::new(), false);
    let known = |n: usize| values.get(n).copied().flatten().filter(|value| value.is_finite());
    for n in 0..values.len() {
        let Some(value) = known(n) else {
            is_open = false;
            continue;
        };
        let _ = write!(out, "{}{} {}", if is_open { 'L' } else { 'M' }, short(x(n)), short(y(value)));
        if !is_open && known(n + 1).is_none() {
            out.push_str("h.1");
        }
        is_open = true;
    }
    out
}

/// A coordinate with one digit after the point.
fn short(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// The area between a line and another below it, for every run of known values.
fn area(values: &[Option<f64>], base: &[Option<f64>], x: impl Fn(usize) -> f64, y: impl Fn(f64) -> f64) -> String {
    let (mut out, mut run) = (String::new(), Vec::new());
    for n in 0..=values.len() {
        if values.get(n).copied().flatten().is_some_and(f64::is_finite) {
            run.push(n);
            continue;
        }
        for (i, &n) in run.iter().enumerate() {
            let value = values[n].unwrap_or(0.0);
            let _ = write!(out, "{}{} {}", if i == 0 { 'M' } else { 'L' }, short(x(n)), short(y(value)));
        }
        for &n in run.iter().rev() {
            let value = base.get(n).copied().flatten().unwrap_or(f64::NEG_INFINITY);
            let _ = write!(out, "L{} {}", short(x(n)), short(y(value)));
        }
        if !run.is_empty() {
            out.push('Z');
        }
        run.clear();
    }
    out
}

/// A small line: the course of a number over the history, with an area under it.
pub(super) fn spark(values: &[Option<f64>], class: &str, with_end: bool) -> Markup {
    const WIDTH: f64 = 120.0;
    const HEIGHT: f64 = 30.0;
    let Some((low, high)) = scale(values, false) else {
        return html! { svg.{"spark " (class)} viewBox="0 0 120 30" preserveAspectRatio="none" aria-hidden="true" {} };
    };
    let last = values.len().saturating_sub(1).max(1) as f64;
    let right = if with_end { WIDTH - 4.0 } else { WIDTH };
    let x = |n: usize| if values.len() == 1 { right } else { right * n as f64 / last };
    // Above all of it there is a little room, and below some more for the area.
    let y = |value: f64| {
        if value == f64::NEG_INFINITY { HEIGHT } else { HEIGHT - 6.0 - (value - low) / (high - low) * (HEIGHT - 9.0) }
    };
    let end = values.last().copied().flatten().filter(|value| with_end && value.is_finite());
    html! {
        svg.{"spark " (class)} viewBox="0 0 120 30" preserveAspectRatio="none" aria-hidden="true" {
            path.fill d=(area(values, &[], x, y)) {}
            path d=(path(values, x, y)) {}
            @if let Some(end) = end { path.end d=(format!("M{} {}h.1", short(right), short(y(end)))); }
        }
    }
}

/// A line of a large drawing.
#[derive(Clone, Debug)]
pub(super) struct Curve {
    /// What stands at its end.
    pub(super) label: String,
    /// Class of its colour.
    pub(super) class: &'static str,
    pub(super) values: Vec<Option<f64>>,
}

/// How a large drawing is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drawing {
    /// Lines beside each other.
    Lines,
    /// Each line on the one below it.
    Stack,
}

/// A step of an axis that people count in, and how many there are: 3 to 5 from 0 to a maximum.
fn ticks(low: f64, high: f64) -> (f64, f64, f64) {
    let span = (high - low).max(f64::MIN_POSITIVE);
    let rough = span / 4.0;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].map(|n| n * power).into_iter().find(|step| *step >= rough * 0.999);
    let step = step.unwrap_or(power * 10.0);
    ((low / step).floor() * step, (high / step).ceil() * step, step)
}

/// A large drawing with axes: what a page without script shows, and with one until the canvas is painted. `times` are ends of
/// intervals; `complete` says how much of each was seen.
pub(super) fn drawing(
    kind: Drawing,
    lines: &[Curve],
    times: &[f64],
    complete: &[Option<f64>],
    from_zero: bool,
    says: &str,
) -> Markup {
    let stacked = stacked(kind, lines);
    let all: Vec<Option<f64>> = stacked.iter().flat_map(|line| line.values.iter().copied()).collect();
    let Some((low, high)) = scale(&all, from_zero) else {
        return html! { p.empty { "No interval of this range has a value." } };
    };
    let (bottom, top, step) = ticks(low.min(high), high);
    let last = times.len().saturating_sub(1).max(1) as f64;
    let x = |n: usize| if times.len() == 1 { 1000.0 } else { 1000.0 * n as f64 / last };
    let height = (top - bottom).max(f64::MIN_POSITIVE);
    let y = |value: f64| {
        if value == f64::NEG_INFINITY { 1000.0 } else { 1000.0 - (value - bottom) / height * 1000.0 }
    };
    let steps = (height / step).round() as usize;
    let at = |value: f64| format!("{}%", short(y(value) / 10.0));
    html! {
        svg.served role="img" aria-label=(says) {
            @for n in 0..=steps.min(12) {
                @let value = bottom + step * n as f64;
                line x1="0" x2="100%" y1=(at(value)) y2=(at(value)) {}
                text x="-8" y=(at(value)) dy="4" text-anchor="end" { (axis(value)) }
            }
            (time_marks(times))
            svg width="100%" height="100%" viewBox="0 0 1000 1000" preserveAspectRatio="none" {
                @for (n, line) in stacked.iter().enumerate() {
                    @let base = if n > 0 && kind == Drawing::Stack { &stacked[n - 1].values[..] } else { &[] };
                    g.(line.class) {
                        @if kind == Drawing::Stack {
                            path.fill.heavy d=(area(&line.values, base, x, y)) {}
                        } @else if lines.len() == 1 {
                            path.fill d=(area(&line.values, base, x, y)) {}
                        }
                        path d=(path(&edge(&line.values, base, height), x, y)) {}
                    }
                }
            }
            (lane(complete))
            (names(&stacked, height, kind, &y))
        }
    }
}

/// Below this share of the height nothing is seen of a part: two pixels.
const THIN: f64 = 0.01;

/// A line where it is visibly above another one: the edge of a part that is nothing would be that of all below it.
fn edge(values: &[Option<f64>], base: &[Option<f64>], height: f64) -> Vec<Option<f64>> {
    let is_seen = |n: usize, value: f64| {
        base.get(n).copied().flatten().is_none_or(|below| base.is_empty() || value - below >= height * THIN)
    };
    values.iter().enumerate().map(|(n, value)| value.filter(|value| is_seen(n, *value))).collect()
}

/// Lines as they are drawn: of a stack, each is the sum up to it.
fn stacked(kind: Drawing, lines: &[Curve]) -> Vec<Curve> {
    let mut out: Vec<Curve> = Vec::with_capacity(lines.len());
    for line in lines {
        let mut line = line.clone();
        if let (Drawing::Stack, Some(below)) = (kind, out.last()) {
            for (value, below) in line.values.iter_mut().zip(&below.values) {
                *value = value.zip(*below).map(|(value, below)| value + below);
            }
        }
        out.push(line);
    }
    out
}

/// Marks of time below a drawing.
fn time_marks(times: &[f64]) -> Markup {
    let (Some(first), Some(end)) = (times.first().copied(), times.last().copied()) else { return html! {} };
    let span = end - first;
    let step = [10.0, 30.0, 60.0, 300.0, 600.0, 1800.0, 3600.0, 10_800.0, 21_600.0, 86_400.0];
    let step = step.into_iter().find(|step| span / step <= 6.5).unwrap_or(86_400.0);
    let marks: Vec<f64> =
        (1..=8).map(|n| ((first / step).floor() + f64::from(n)) * step).filter(|t| *t <= end).collect();
    html! {
        @for mark in marks {
            @let x = format!("{}%", short((mark - first) / span.max(1.0) * 100.0));
            @let full = rfc3339(mark);
            line x1=(x) x2=(x) y1="0" y2="100%" {}
            text x=(x) y="100%" dy="22" text-anchor="middle" data-t=(mark as u64) data-f="m" {
                @if step < 60.0 { (&full[11..19]) } @else { (&full[11..16]) }
            }
        }
    }
}

/// The lane under a drawing: complete, a part lost, or nothing.
fn lane(complete: &[Option<f64>]) -> Markup {
    let all = complete.len().max(1) as f64;
    let mut runs: Vec<(usize, usize, bool)> = Vec::new();
    for (n, share) in complete.iter().enumerate() {
        let Some(share) = share else { continue };
        let is_lost = *share < 1.0;
        match runs.last_mut() {
            Some((_, end, lost)) if *end == n && *lost == is_lost => *end = n + 1,
            _ => runs.push((n, n + 1, is_lost)),
        }
    }
    let at = |n: usize| format!("{}%", short(n as f64 / all * 100.0));
    html! {
        svg y="100%" width="100%" height="12" {
            @for (from, to, is_lost) in runs {
                line.(if is_lost { "lost" } else { "lane" }) x1=(at(from)) x2=(at(to)) y1="6" y2="6" {}
            }
        }
    }
}

/// Labels at the ends of lines, apart from each other and inside; what is too small to be seen has none.
fn names(lines: &[Curve], height: f64, kind: Drawing, y: &impl Fn(f64) -> f64) -> Markup {
    const APART: f64 = 75.0;
    let last = |line: &Curve| line.values.iter().rev().flatten().next().copied();
    let is_seen = |n: usize| {
        let below = n.checked_sub(1).filter(|_| kind == Drawing::Stack).map(|n| &lines[n].values);
        let parts = |below: &Vec<Option<f64>>| edge(&lines[n].values, below, height).iter().any(Option::is_some);
        below.is_none_or(parts)
    };
    let named = lines.iter().enumerate().filter(|(n, _)| is_seen(*n));
    let mut places: Vec<(f64, &Curve)> = named.filter_map(|(_, line)| Some((y(last(line)?), line))).collect();
    places.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut above = f64::INFINITY;
    for (place, _) in &mut places {
        *place = place.min(above - APART);
        above = *place;
    }
    let mut top = 0.0_f64;
    for (place, _) in places.iter_mut().rev() {
        *place = place.max(top);
        top = *place + APART;
    }
    html! {
        @for (place, line) in places {
            g.{"name " (line.class)} {
                text x="100%" y=(format!("{}%", short(place / 10.0))) dx="8" dy="4" { (Wire(&line.label)) }
            }
        }
    }
}

/// A bar that shows a share of 1.
pub(super) fn share(of_one: f64, class: &str) -> Markup {
    let width = (of_one.clamp(0.0, 1.0) * 100.0).max(if of_one > 0.0 { 2.0 } else { 0.0 });
    html! {
        svg.{"share " (class)} viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true" {
            rect width="100" height="8" rx="1" {} rect width=(short(width)) height="8" rx="1" {}
        }
    }
}

/// A term of an equation of the ledger.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) name: &'static str,
    pub(super) value: u64,
    pub(super) class: &'static str,
}

impl Part {
    pub(super) fn new(name: &'static str, value: u64, class: &'static str) -> Part {
        Part { name, value, class }
    }
}

/// An equation of the ledger: the whole, its parts as a bar of one length, and every part with its number.
pub(super) fn equation(whole: u64, what: &str, parts: &[Part]) -> Markup {
    const WIDTH: f64 = 1000.0;
    const LEAST: f64 = 8.0;
    let sum: u64 = parts.iter().map(|part| part.value).sum();
    let shown: Vec<&Part> = parts.iter().filter(|part| part.value > 0).collect();
    let gaps = 4.0 * shown.len().saturating_sub(1) as f64;
    let room = WIDTH - gaps - LEAST * shown.len() as f64;
    let mut x = 0.0;
    let rects: Vec<(f64, f64, &str)> = shown
        .iter()
        .map(|part| {
            let width = LEAST + room * part.value as f64 / sum.max(1) as f64;
            let at = x;
            x += width + 4.0;
            (short(at), short(width), part.class)
        })
        .collect();
    html! {
        div.eq {
            p {
                span { b { (grouped(whole)) } " " (what) }
                @if sum == whole { span.ok { "= balanced" } }
                @else { span.error { "✕ off by " (grouped(sum.abs_diff(whole))) } }
            }
            svg.ledger viewBox="0 0 1000 10" preserveAspectRatio="none" aria-hidden="true" {
                @if rects.is_empty() { g.s0 { rect width="1000" height="10" opacity=".4" {} } }
                @for (x, width, class) in rects { g.(class) { rect x=(x) width=(width) height="10" {} } }
            }
            p.terms {
                @for part in parts {
                    span.zero[part.value == 0] {
                        span.{"sq " (part.class)} {} (part.name) " " b { (grouped(part.value)) }
                    }
                }
            }
        }
    }
}

/// A document type that maud's own would add a dependency for.
pub(super) const DOCTYPE: PreEscaped<&str> = PreEscaped("<!doctype html>");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_as_people_read_them() {
        for (value, text) in [
            (0.0, "0"),
            (184_232.4, "184,232"),
            (921.4, "921"),
            (41.234, "41.2"),
            (0.38, "0.38"),
            (-1.5, "−1.5"),
            (2.0, "2"),
            (1e300, "1e+300"),
        ] {
            assert_eq!(amount(value), text, "{value}");
        }
        for (share, text) in
            [(1.0, "100"), (0.9999999, "99.99"), (0.979, "97"), (0.0005, "0.05"), (0.0, "0"), (1e-9, "< 0.01")]
        {
            assert_eq!(percent(share), text, "{share}");
        }
        assert_eq!((axis(180_000.0), axis(1_000_000.0)), ("180 k".into(), "1 M".into()));
    }

    #[test]
    fn a_line_breaks_where_a_value_is_missing_and_a_lone_one_is_a_dot() {
        let values = [Some(1.0), Some(2.0), None, Some(3.0), None, Some(f64::NAN), Some(4.0)];
        let line = path(&values, |n| n as f64, |value| value);
        assert_eq!(line, "M0 1L1 2M3 3h.1M6 4h.1");
        assert_eq!(area(&values[..3], &[], |n| n as f64, |v| if v.is_finite() { v } else { 9.0 }), "M0 1L1 2L1 9L0 9Z");
    }

    #[test]
    fn the_scale_of_a_small_line_spans_a_third_of_its_maximum() {
        assert_eq!(scale(&[Some(100.0), Some(101.0)], false), Some((85.35, 115.65)));
        assert_eq!(scale(&[Some(0.0), Some(10.0)], false), Some((0.0, 10.0)));
        assert_eq!(scale(&[Some(0.0), Some(0.0)], false), Some((0.0, 1.0)));
        assert_eq!(scale(&[None], false), None);
    }

    #[test]
    fn hostile_text_is_inert() {
        let markup = html! { span title=(Wire("\"><b>\u{202e}")) { (marked("<script>x", &["script".into()])) } };
        assert_eq!(
            markup.into_string(),
            "<span title=\"&quot;&gt;&lt;b&gt;\\u{202e}\">&lt;<mark>script</mark>&gt;x</span>"
        );
    }
}
