//! The chart of a series, in braille: two points a column and four a row. What is missing is left out, never drawn at zero; a
//! lone point is a dot. The row beneath says how complete each interval was.

use ratatui::layout::Rect;
use ratatui::style::Style;
use serde_json::Value;

use super::super::figures::{clock, short};
use super::draw::selected_series;
use super::keys::App;
use super::model::{Block, History, SeriesHistory};
use super::screen::{self, BOLD, MUTED, NOT_SEEN, PLAIN, Screen};

/// Columns for the scale at the left and for the names of lines at the right.
const SCALE: u16 = 8;
const NAMES: u16 = 8;
/// Rows from which on senders, rule and sinks of the series stand beneath.
const ROOMY: u16 = 14;

/// A line of the chart.
struct Track<'a> {
    name: &'a str,
    points: &'a [Option<f64>],
    style: Style,
}

/// Dots, and the style of each cell.
struct Dots {
    columns: usize,
    rows: usize,
    cells: Vec<(u8, Style)>,
}

impl Dots {
    fn new(columns: usize, rows: usize) -> Dots {
        Dots { columns, rows, cells: vec![(0, PLAIN); columns * rows] }
    }

    /// Sets a dot, counted from the left and from the bottom.
    fn set(&mut self, x: i64, y: i64, style: Style) {
        const BITS: [[u8; 2]; 4] = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]];
        let (across, down) = (self.columns as i64 * 2, self.rows as i64 * 4);
        let (x, y) = (x.clamp(0, across - 1), (down - 1 - y).clamp(0, down - 1));
        let cell = &mut self.cells[y as usize / 4 * self.columns + x as usize / 2];
        *cell = (cell.0 | BITS[y as usize % 4][x as usize % 2], style);
    }

    /// A straight line between two dots.
    fn join(&mut self, from: (i64, i64), to: (i64, i64), style: Style) {
        let steps = (to.0 - from.0).abs().max((to.1 - from.1).abs()).max(1);
        for step in 0..=steps {
            let at = |a: i64, b: i64| a + ((b - a) as f64 * step as f64 / steps as f64).round() as i64;
            self.set(at(from.0, to.0), at(from.1, to.1), style);
        }
    }
}

/// Draws the chart of the selected series.
pub(super) fn draw(screen: &mut Screen, app: &App, area: Rect, now: f64) {
    if area.height < 6 || area.width < 30 {
        return;
    }
    let end = area.right();
    let Some((label, kind, value)) = selected_series(app) else {
        screen.put(area.x + 1, area.y, "no series is selected", MUTED, area.width - 1);
        return;
    };
    let data = app.data();
    let reach = data.chart.known().map_or(String::new(), |history| length(history.to - history.from));
    let right = screen.right(end - 1, area.y, &format!("{value}   {reach}"), BOLD);
    screen.put(area.x + 1, area.y, &label, BOLD, right.saturating_sub(area.x + 3));
    let history = match &data.chart {
        Block::Known(history) => history,
        other => {
            screen.put(area.x + 1, area.y + 2, &other.word("history"), MUTED, area.width - 2);
            return;
        }
    };
    let Some(series) = history.series.first() else {
        screen.put(area.x + 1, area.y + 2, "the daemon has no points of it yet", MUTED, area.width - 2);
        return;
    };
    let details = if area.height >= ROOMY { details(data.details.known()) } else { Vec::new() };
    let below = details.len() as u16;
    let plot = Rect::new(
        area.x + SCALE + 1,
        area.y + 1,
        area.width.saturating_sub(SCALE + NAMES + 2),
        area.height.saturating_sub(3 + below),
    );
    draw_plot(screen, plot, history, series, &kind, now + data.ahead);
    for (y, text) in (plot.bottom() + 2..).zip(details) {
        screen.put(area.x + 1, y, &text, MUTED, area.width.saturating_sub(2));
    }
}

fn length(seconds: f64) -> String {
    match seconds {
        s if s < 90.0 => format!("{s:.0} s"),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.0} h", s / 3600.0),
    }
}

/// The lines of a series: one, or of timers the median, the highest percentile and the maximum.
fn tracks<'a>(series: &'a SeriesHistory, kind: &str) -> Vec<Track<'a>> {
    let of = |name: &'a str, style| {
        series.fields.get_key_value(name).map(|(name, points)| Track { name: name.as_str(), points, style })
    };
    if kind == "counter" {
        return of("rate", screen::SPARK).or_else(|| of("value", screen::SPARK)).into_iter().collect();
    }
    if series.fields.contains_key("value") {
        return of("value", screen::SPARK).into_iter().collect();
    }
    let number = |name: &str| name.strip_prefix('p').and_then(|number| number.parse::<f64>().ok());
    let percentiles = series.fields.keys().filter(|name| number(name).is_some());
    let highest = percentiles.max_by(|a, b| number(a).partial_cmp(&number(b)).unwrap_or(std::cmp::Ordering::Equal));
    let highest = highest.and_then(|name| of(name, screen::SPARK));
    [of("max", MUTED), of("median", screen::SECOND), highest].into_iter().flatten().collect()
}

/// The end of a scale: 1, 2, 2.5 or 5 times a power of ten.
fn round_up(value: f64) -> f64 {
    if value <= 0.0 || !value.is_finite() {
        return 1.0;
    }
    let power = 10_f64.powf(value.log10().floor());
    [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().map(|step| step * power).find(|end| *end >= value).unwrap_or(value)
}

fn draw_plot(screen: &mut Screen, plot: Rect, history: &History, series: &SeriesHistory, kind: &str, now: f64) {
    let tracks = tracks(series, kind);
    let values = || tracks.iter().flat_map(|track| track.points.iter().flatten().copied()).filter(|v| v.is_finite());
    if plot.width < 8 || plot.height < 2 {
        return;
    }
    let (from, to) = (history.from, if history.to > history.from { history.to } else { now.max(history.from + 1.0) });
    if values().next().is_none() {
        screen.put(plot.x, plot.y + plot.height / 2, "no sample in this time", MUTED, plot.width);
    } else {
        let (least, most) = values().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)));
        // Counters and timers begin at zero; a level that hardly moves is shown near where it is.
        let near = kind == "gauge" && least > 0.0 && (most - least) < least * 0.5;
        let bottom = if least < 0.0 {
            -round_up(-least)
        } else if near {
            least - (most - least) * 0.1
        } else {
            0.0
        };
        let top = if near { most + ((most - least) * 0.1).max(most * 0.01) } else { round_up(most) };
        let top = if top > bottom { top } else { bottom + 1.0 };
        let mut dots = Dots::new(usize::from(plot.width), usize::from(plot.height));
        let across = f64::from(plot.width) * 2.0 - 1.0;
        let up = f64::from(plot.height) * 4.0 - 1.0;
        let place_of = |time: f64, value: f64| {
            let (x, y) = ((time - from) / (to - from) * across, (value - bottom) / (top - bottom) * up);
            (x.round() as i64, y.round() as i64)
        };
        // Where nobody looked, coarse times are further apart and have no points of their own.
        let most = if history.step > 0.0 { history.step * 1.5 } else { f64::INFINITY };
        for track in &tracks {
            let mut before: Option<(f64, (i64, i64))> = None;
            for (time, point) in history.times.iter().zip(track.points) {
                let here = point.filter(|value| value.is_finite()).map(|value| (*time, place_of(*time, value)));
                match (before, here) {
                    (Some((then, before)), Some((_, here))) if time - then <= most => {
                        dots.join(before, here, track.style)
                    }
                    (_, Some((_, here))) => dots.set(here.0, here.1, track.style),
                    (_, None) => {}
                }
                before = here;
            }
        }
        scale(screen, plot, bottom, top);
        for (n, (bits, style)) in dots.cells.iter().enumerate().filter(|(_, (bits, _))| *bits > 0) {
            let (x, y) = ((n % dots.columns) as u16, (n / dots.columns) as u16);
            let dot = char::from_u32(0x2800 + u32::from(*bits)).unwrap_or(' ');
            screen.put(plot.x + x, plot.y + y, &dot.to_string(), *style, 1);
        }
        names(screen, plot, &tracks, |value| ((value - bottom) / (top - bottom)).clamp(0.0, 1.0));
    }
    lane(screen, plot, history, &tracks, (from, to));
    let y = plot.bottom() + 1;
    screen.put(plot.x, y, &clock(from), MUTED, plot.width);
    if plot.width > 40 {
        screen.put(plot.x + plot.width / 2 - 4, y, &clock((from + to) / 2.0), MUTED, 8);
    }
    screen.right(plot.right(), y, &clock(to), MUTED);
}

/// Numbers at the left: the end of the scale, its middle, its beginning.
fn scale(screen: &mut Screen, plot: Rect, bottom: f64, top: f64) {
    let middle = plot.y + plot.height / 2;
    let mut marks = vec![(plot.y, top), (plot.bottom() - 1, bottom)];
    if plot.height >= 5 {
        marks.push((middle, (bottom + top) / 2.0));
    }
    for (y, value) in marks {
        screen.right(plot.x - 1, y, &short(value), MUTED);
    }
}

/// Names at the end of the lines, each in a row of its own.
fn names(screen: &mut Screen, plot: Rect, tracks: &[Track], share: impl Fn(f64) -> f64) {
    let mut wanted: Vec<(u16, &Track)> = tracks
        .iter()
        .filter_map(|track| {
            let last = track.points.iter().rev().flatten().find(|value| value.is_finite())?;
            let row = (f64::from(plot.height - 1) * (1.0 - share(*last))).round() as u16;
            Some((plot.y + row, track))
        })
        .collect();
    wanted.sort_by_key(|(row, _)| *row);
    let mut free = plot.y;
    let count = wanted.len() as u16;
    for (n, (row, track)) in wanted.into_iter().enumerate() {
        // The later ones need their rows, too.
        let most = plot.bottom().saturating_sub(count - n as u16);
        let row = row.max(free).min(most.max(plot.y));
        screen.put(plot.right() + 1, row, track.name, track.style, NAMES);
        free = row + 1;
    }
}

/// How complete each interval was: a line for complete, a block for one of which a part was lost, a slash for one that was
/// not seen, nothing where no sample came.
fn lane(screen: &mut Screen, plot: Rect, history: &History, tracks: &[Track], (from, to): (f64, f64)) {
    let y = plot.bottom();
    screen.right(plot.x - 1, y, "whole", MUTED);
    let length = if history.step > 0.0 { history.step } else { (to - from) / f64::from(plot.width) };
    for x in 0..plot.width {
        let at = |x: u16| from + (to - from) * f64::from(x) / f64::from(plot.width);
        // A point's time is the end of its interval.
        let touches = |time: &f64| *time > at(x) && *time - length < at(x + 1);
        let mine: Vec<usize> = (0..history.times.len()).filter(|n| touches(&history.times[*n])).collect();
        let shares: Vec<Option<f64>> = mine.iter().map(|n| history.completeness.get(*n).copied().flatten()).collect();
        let has_sample =
            mine.iter().any(|n| tracks.iter().any(|track| track.points.get(*n).is_some_and(Option::is_some)));
        let (sign, style) = if shares.iter().flatten().any(|share| *share < 1.0) {
            ('█', screen::BAD)
        } else if mine.is_empty() || shares.iter().all(Option::is_none) {
            (NOT_SEEN, MUTED)
        } else if has_sample {
            ('─', screen::GOOD)
        } else {
            (' ', PLAIN)
        };
        screen.put(plot.x + x, y, &sign.to_string(), style, 1);
    }
}

/// Who sends it, which rule is for it, and where it goes.
fn details(details: Option<&Value>) -> Vec<String> {
    let Some(details) = details else { return Vec::new() };
    let text = |value: &Value| value.as_str().unwrap_or("").to_string();
    let list = |key: &str| details[key].as_array().into_iter().flatten();
    let mut out = Vec::new();
    let senders: Vec<String> = list("senders")
        .take(3)
        .map(|sender| {
            let name = sender["label"].as_str().or(sender["id"].as_str()).unwrap_or("").to_string();
            match sender["share"].as_f64() {
                Some(share) => format!("{name} {:.0} %", share * 100.0),
                None => name,
            }
        })
        .collect();
    if !senders.is_empty() {
        out.push(format!("from   {}", senders.join(", ")));
    }
    let rule = &details["rule"];
    if rule.is_object() {
        let place = match (rule["file"].as_str(), rule["line"].as_u64()) {
            (Some(file), Some(line)) => format!("  {file}:{line}"),
            _ => String::new(),
        };
        out.push(format!("rule   {}{place}", text(&rule["match"])));
    }
    let goes: Vec<String> = list("goes_to")
        .take(3)
        .map(|to| {
            let name = to["as"].as_array().and_then(|names| names.first()).map_or(String::new(), text);
            format!("{}: {name}", text(&to["sink"]))
        })
        .collect();
    if !goes.is_empty() {
        out.push(format!("to     {}", goes.join("   ")));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_ends_at_a_round_number() {
        for (value, expected) in [(0.0, 1.0), (0.7, 1.0), (1.2, 2.0), (2.4, 2.5), (842.0, 1000.0), (18_422.0, 20_000.0)]
        {
            assert_eq!(round_up(value), expected);
        }
    }

    #[test]
    fn dots_are_joined_and_stay_inside() {
        let mut dots = Dots::new(2, 1);
        dots.join((0, 0), (3, 3), PLAIN);
        assert_eq!(dots.cells.iter().map(|cell| cell.0).collect::<Vec<_>>(), [0x40 | 0x20, 0x02 | 0x08]);
        dots.set(-5, 99, PLAIN);
        assert_eq!(dots.cells[0].0 & 0x01, 0x01);
    }
}
