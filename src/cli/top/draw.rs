//! The screen: first lines, the list with its views, the lower blocks, and the keys. What has room is decided here:
//!
//! | screen | shows |
//! |---|---|
//! | from 160 columns on | a chart of the selected series beside the list |
//! | from 100 × 30 on | sparklines, the lower blocks of senders and presence |
//! | from 60 × 15 on | the first lines, the list, sinks, what was refused, what changed |
//! | below | the verdict, four numbers, the list |

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use serde_json::Value;

use super::super::account::{self, Flow, Verdict};
use super::super::figures::{Grade, clock, delay, grouped, interval, percent, short, up_for};
use super::keys::{App, Mode, View};
use super::lists::{self, Table, by_urgency, flow_style, service_sign};
use super::model::Data;
use super::screen::{self, BOLD, MUTED, NOT_SEEN, PLAIN, Screen, width};
use super::source::SPARK_SECS;
use super::{chart, panels};

/// Columns of a sparkline of the first lines.
const TILE_SPARK: usize = 22;
/// Rows of the list beside which senders and presence get more than four.
const LIST_ROWS: u16 = 24;

/// How much room there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    Tiny,
    Small,
    Full,
}

/// Draws everything at `now` Unix seconds.
pub(super) fn draw(cells: &mut Buffer, app: &mut App, now: f64) {
    let area = *cells.area();
    let size = match (area.width, area.height) {
        (width, height) if width < 60 || height < 15 => Size::Tiny,
        (width, height) if width < 100 || height < 30 => Size::Small,
        _ => Size::Full,
    };
    app.has_side = area.width >= 160 && size == Size::Full && app.view == View::Series;
    app.has_blocks = size == Size::Full;
    let mut screen = Screen { cells };
    if area.width == 0 || area.height == 0 {
        return;
    }
    if size == Size::Tiny {
        tiny(&mut screen, app, now);
    } else {
        whole(&mut screen, app, now, size);
    }
    if app.mode == Mode::Help {
        panels::help(&mut screen, app.utf8);
    }
    if app.data().trouble.is_some() {
        screen.mute_below(if size == Size::Tiny { 1 } else { 2 });
    }
    screen.finish(app.utf8, app.colours);
}

fn whole(screen: &mut Screen, app: &mut App, now: f64, size: Size) {
    let area = *screen.cells.area();
    header(screen, app, now);
    verdict(screen, app, 1, now);
    screen.rule(2);
    tiles(screen, app, size);
    screen.rule(6);
    tabs(screen, app);
    // From the bottom: keys, what changed, a rule, what was refused, sinks, the blocks, a rule.
    let bottom = area.height;
    keys(screen, app, bottom - 1);
    changed(screen, app.data(), bottom - 2);
    screen.rule(bottom - 3);
    let lists_end = if area.height < 18 {
        bottom - 3
    } else {
        refused(screen, app.data(), bottom - 4);
        sinks(screen, app, bottom - 5);
        let rows = match size {
            Size::Full => 4.max(area.height.saturating_sub(16 + LIST_ROWS)),
            Size::Small | Size::Tiny => 0,
        };
        let top = bottom - 5 - if rows > 0 { rows + 1 } else { 0 };
        if rows > 0 {
            blocks(screen, app, top, rows);
        }
        screen.rule(top - 1);
        top - 1
    };
    let side = if app.has_side { area.width / 2 } else { 0 };
    let list = Rect::new(0, 8, area.width - side, lists_end.saturating_sub(8));
    match app.mode {
        Mode::Explain => panels::explain(screen, app, Rect { width: area.width, ..list }),
        Mode::Prefixes => panels::prefixes(screen, app, Rect { width: area.width, ..list }),
        Mode::Chart => chart::draw(screen, app, Rect { width: area.width, ..list }, now),
        Mode::List | Mode::Filter | Mode::Help => {
            let table = app.table();
            draw_table(screen, app, &table, list);
            if app.has_side {
                for y in list.top()..list.bottom() {
                    screen.put(list.right(), y, "│", MUTED, 1);
                }
                chart::draw(screen, app, Rect::new(list.right() + 1, list.y, side - 1, list.height), now);
            }
        }
    }
}

/// Below 60 × 15: the verdict, four numbers, and the list.
fn tiny(screen: &mut Screen, app: &mut App, now: f64) {
    let area = *screen.cells.area();
    verdict(screen, app, 0, now);
    let data = app.data();
    let rate = data.line_rate().map_or("-".into(), short);
    let complete = data.completeness().map_or("-".into(), percent);
    let series = data.status().get("series").map_or("-".into(), |series| short(series_now(series) as f64));
    let memory = memory_share(data.status()).map_or("-".into(), percent);
    screen.pieces(
        1,
        1,
        &[
            ("lines/s ", MUTED),
            (&rate, BOLD),
            ("  complete ", MUTED),
            (&complete, BOLD),
            ("  series ", MUTED),
            (&series, BOLD),
            ("  memory ", MUTED),
            (&memory, BOLD),
        ],
        area.width,
    );
    let list = Rect::new(0, 2, area.width, area.height.saturating_sub(2));
    match app.mode {
        Mode::Explain => panels::explain(screen, app, list),
        Mode::Prefixes => panels::prefixes(screen, app, list),
        Mode::Chart => chart::draw(screen, app, list, now),
        Mode::List | Mode::Filter | Mode::Help => {
            let table = app.table();
            draw_table(screen, app, &table, list);
        }
    }
}

/// Texts beside each other: those of low rank (the last ones) give way where the line is too short.
fn fit(texts: &[(u8, String)], room: u16, gap: u16) -> Vec<&str> {
    let mut kept: Vec<usize> = (0..texts.len()).collect();
    let columns = |kept: &[usize]| kept.iter().map(|n| width(&texts[*n].1) + gap).sum::<u16>().saturating_sub(gap);
    while columns(&kept) > room
        && let Some(worst) = kept.iter().copied().max_by_key(|n| texts[*n].0)
    {
        kept.retain(|n| *n != worst);
    }
    kept.into_iter().map(|n| texts[n].1.as_str()).collect()
}

fn header(screen: &mut Screen, app: &App, now: f64) {
    let data = app.data();
    let status = data.status();
    let end = screen.cells.area().width;
    let (word, style) = match (&data.trouble, app.is_paused()) {
        (Some(_), _) => ("OFFLINE", screen::BAD),
        (None, true) => ("PAUSED", screen::ALARM),
        (None, false) if data.status.is_none() => ("ASKING", MUTED),
        (None, false) => ("LIVE", screen::GOOD),
    };
    let theirs = now + data.ahead;
    let right = screen.right(end - 1, 0, word, style);
    let right = screen.right(right - 2, 0, &format!("{} UTC", clock(theirs)), PLAIN);
    let length = data.interval();
    let mut texts = vec![(0, app.node())];
    if data.status.is_some() {
        texts.push((4, format!("up {}", up_for(status["uptime_secs"].as_f64().unwrap_or(0.0)))));
        texts.push((3, format!("{} intervals", interval(length))));
    }
    if let Some(tick) = status["as_of"].as_f64().filter(|_| data.trouble.is_none() && !app.is_paused()) {
        let since = (theirs - tick).max(0.0) % length;
        let filled = ((since / length) * 10.0) as usize;
        let bar = format!("[{}{}]", "#".repeat(filled.min(10)), "-".repeat(10 - filled.min(10)));
        texts.push((1, format!("next flush {:.0} s", (length - since).ceil())));
        texts.push((2, bar));
    }
    let x = screen.put(1, 0, "SYSTOLE ", BOLD, end);
    let texts = fit(&texts, right.saturating_sub(x + 2), 3);
    texts.into_iter().fold(x, |x, text| screen.put(x, 0, text, PLAIN, right.saturating_sub(x + 1)) + 3);
}

/// The sentence that says whether the data can be trusted.
fn verdict(screen: &mut Screen, app: &App, y: u16, now: f64) {
    let end = screen.cells.area().width;
    let data = app.data();
    if let Some(trouble) = &data.trouble {
        let since = data.answered.map_or(String::new(), |at| format!(" for {}", lengths(now - at)));
        let text = match trouble.is_refusal {
            true => format!("{}: {}", app.url, trouble.why),
            false => format!("No answer from {}{since}", app.url),
        };
        let again = format!(", trying again in {:.0} s", (trouble.again - now).max(0.0).ceil());
        let shown =
            data.answered.map_or(String::new(), |at| format!(" What you see is from {}.", clock(at + data.ahead)));
        return alarm(screen, y, &format!(" {} {text}{again}.{shown}", Grade::Bad.sign(app.utf8)), "");
    }
    if data.status.is_none() {
        screen.put(1, y, &format!("Asking {}", app.url), MUTED, end - 1);
        return;
    }
    let Verdict { grade, sentence, detail, action, pills } = data.verdict();
    let sign = grade.sign(app.utf8);
    let sentence = sentence.trim_end_matches('.');
    if grade == Grade::Bad {
        let also = [detail.as_str(), action.as_deref().unwrap_or("")].join(" ");
        return alarm(screen, y, &format!(" {sign} {sentence}   {also}"), "6: details");
    }
    let mut texts = vec![(0, sentence.to_string())];
    // What does not fit is left out part by part, from the end.
    texts.extend((2..).zip(detail.trim_end_matches('.').split(", ").map(String::from)));
    texts.extend(pills.iter().map(|(grade, pill)| (1, format!("{} {pill}", grade.sign(app.utf8)))));
    let x = screen.put(1, y, &format!("{sign} "), screen::of_grade(grade), end);
    let kept = fit(&texts, end.saturating_sub(x + 1), 3);
    // A sentence that is longer than the line is cut, not left out.
    let kept = if kept.is_empty() { vec![sentence] } else { kept };
    kept.into_iter().enumerate().fold(x, |x, (n, text)| {
        let pill = pills.iter().find(|(grade, pill)| text == format!("{} {pill}", grade.sign(app.utf8)));
        let style = match (n, pill) {
            (0, _) => BOLD,
            (_, Some((grade, _))) => screen::of_grade(*grade),
            (_, None) => PLAIN,
        };
        screen.put(x, y, text, style, end.saturating_sub(x + 1)) + 3
    });
}

/// Seconds in words that do not change each tick of a minute.
fn lengths(seconds: f64) -> String {
    if seconds < 90.0 { format!("{:.0} s", seconds.max(0.0)) } else { up_for(seconds) }
}

fn alarm(screen: &mut Screen, y: u16, text: &str, right: &str) {
    let end = screen.cells.area().width;
    screen.style(Rect::new(0, y, end, 1), screen::ALARM);
    let most = if right.is_empty() { end } else { screen.right(end - 1, y, right, screen::ALARM).saturating_sub(2) };
    screen.put(0, y, text, screen::ALARM, most);
}

/// Series held, all kinds together.
fn series_now(series: &Value) -> u64 {
    ["counters", "gauges", "timers", "sets", "kvs"].iter().map(|kind| account::count(&series[*kind])).sum()
}

fn memory_share(status: &Value) -> Option<f64> {
    let memory = &status["memory"];
    memory["live"].as_f64().zip(memory["max"].as_f64()).filter(|(_, max)| *max > 0.0).map(|(live, max)| live / max)
}

/// Numbers with their names, beside each other: those of low rank give way where the line is too short.
fn numbers(screen: &mut Screen, x: u16, y: u16, mut all: Vec<(u8, &str, String, Style)>) {
    let end = screen.cells.area().width;
    let columns = |all: &[(u8, &str, String, Style)]| {
        all.iter().map(|(_, name, text, _)| width(name) + width(text) + 3).sum::<u16>().saturating_sub(3)
    };
    while columns(&all) > end.saturating_sub(x + 1)
        && let Some(worst) = all.iter().map(|(rank, ..)| *rank).max().filter(|_| all.len() > 1)
    {
        all.retain(|(rank, ..)| *rank != worst);
    }
    all.into_iter().fold(x, |x, (_, name, text, style)| screen.pieces(x, y, &[(name, MUTED), (&text, style)], end) + 3);
}

/// The three rows of numbers.
fn tiles(screen: &mut Screen, app: &App, size: Size) {
    let data = app.data();
    let status = data.status();
    let end = screen.cells.area().width;
    let rate = data.line_rate().map_or("-".into(), |rate| grouped(rate.round() as u64));
    let held = status.get("series").map(series_now).map_or("-".into(), grouped);
    let mut x = 19;
    for (y, name, text) in [(3, "lines/s", rate), (4, "series", held)] {
        screen.put(1, y, name, MUTED, 8);
        screen.right(17, y, &text, BOLD);
        if size == Size::Full {
            let points = if y == 3 { data.line_rates() } else { data.series_counts() };
            // What is held is drawn from 0 too: its changes are small, and look so.
            let drawn = screen::spark(&points, TILE_SPARK, false, NOT_SEEN);
            screen.right(19 + TILE_SPARK as u16, y, &drawn, screen::SPARK);
            x = 22 + TILE_SPARK as u16;
        }
    }
    let complete = data.completeness();
    let malformed = data.malformed_rate();
    let seconds = |key: &str| status["flush"][key].as_f64();
    let flush = seconds("duration_secs").map_or("-".into(), delay);
    let late = seconds("late_secs").map_or(String::new(), |late| format!(" +{}", delay(late)));
    let style = |is_odd: bool, odd: Style| if is_odd { odd } else { BOLD };
    let first = vec![
        (
            0,
            "complete  ",
            complete.map_or("-".into(), percent),
            style(complete.is_some_and(|share| share < 1.0), screen::BAD),
        ),
        (
            1,
            "malformed  ",
            malformed.map_or("-".into(), |rate| format!("{}/s", short(if rate < 10.0 { rate } else { rate.round() }))),
            style(malformed.is_some_and(|rate| rate > 0.0), screen::WARNING),
        ),
        (2, "flush ", format!("{flush}{late}"), BOLD),
    ];
    numbers(screen, x, 3, first);
    let mut second = Vec::new();
    second.extend(series_change(data).map(|change| (1, "change ", change, BOLD)));
    if let Some(page) = data.senders.known() {
        let rates = page.senders.iter().filter_map(|sender| sender.new_series_per_sec);
        second.push((2, "new ", format!("{}/s", short(rates.sum())), BOLD));
    }
    let memory = &status["memory"];
    let mib = |key: &str| memory[key].as_f64().map(|bytes| (bytes / f64::from(1 << 20)).round() as u64);
    if let Some((live, max)) = mib("live").zip(mib("max")) {
        let share = memory_share(status).map_or(String::new(), |share| format!("{:.0} %", share * 100.0));
        let text = format!("{} of {} MiB  {share}", grouped(live), grouped(max));
        second.push((0, "memory ", text, style(account::count(&memory["level"]) > 0, screen::WARNING)));
    }
    numbers(screen, x, 4, second);
    screen.put(1, 5, "ledger", MUTED, 8);
    if data.status.is_some() {
        let (equation, of) = data.equation();
        let verdict = equation.verdict(app.utf8);
        let most = end.saturating_sub(10 + width(&verdict) + 3 + width(of));
        let style = if equation.off() == 0 { screen::GOOD } else { screen::BAD };
        let text = format!("{of}{}", equation.sentence_within(usize::from(most)));
        let x = screen.put(10, 5, &text, PLAIN, most + width(of)) + 3;
        screen.put(x, 5, &verdict, style, end.saturating_sub(x));
    }
}

/// By how many the series grew in the last minutes.
fn series_change(data: &Data) -> Option<String> {
    let history = data.ledger.known()?;
    let counts = data.series_counts();
    let last = counts.iter().rposition(Option::is_some)?;
    let end = *history.times.get(last)?;
    let first = (0..last).find(|n| counts[*n].is_some() && history.times[*n] >= end - SPARK_SECS)?;
    let change = counts[last]? - counts[first]?;
    let minutes = ((end - history.times[first]) / 60.0).round().max(1.0);
    let sign = if change < 0.0 { "-" } else { "+" };
    Some(format!("{sign}{} ({minutes:.0} min)", grouped(change.abs() as u64)))
}

fn tabs(screen: &mut Screen, app: &App) {
    let end = screen.cells.area().width;
    let (filter, is_typed) = (app.look().filter, app.mode == Mode::Filter);
    let gap = if end < 100 { 1 } else { 3 };
    let mut x = 1;
    // What is typed has the room of the other views.
    for view in View::ALL.into_iter().filter(|view| !is_typed || *view == app.view) {
        let (text, style) = match view == app.view {
            true => (format!("[{}] {}", view.number(), view.title()), BOLD),
            false => (format!("{} {}", view.number(), view.title()), MUTED),
        };
        x = screen.put(x, 7, &text, style, end.saturating_sub(x)) + gap;
    }
    let (text, style) = match (is_typed, filter.is_empty()) {
        (true, _) => (format!("/filter: {filter}"), screen::WARNING),
        (false, true) if end < 100 => return,
        (false, true) => ("/filter: none".to_string(), MUTED),
        (false, false) if end < 100 => (format!("/{filter}"), screen::WARNING),
        (false, false) => (format!("/filter: {filter}"), screen::WARNING),
    };
    x = screen.put(x, 7, &text, style, end.saturating_sub(x + 1));
    if is_typed {
        screen.put(x, 7, " ", screen::SELECTED, 1);
    }
}

/// Draws a list; the heading in its first row, what is left out in the last.
fn draw_table(screen: &mut Screen, app: &mut App, table: &Table, area: Rect) {
    if area.height < 2 || area.width < 10 {
        return;
    }
    let columns: Vec<usize> = (0..table.columns.len()).filter(|n| table.columns[*n].from <= area.width).collect();
    let fixed: u16 = columns.iter().map(|n| table.columns[*n].width + 2).sum();
    let flex = area.width.saturating_sub(fixed + 4).max(8);
    let widths: Vec<u16> =
        columns.iter().map(|n| if table.columns[*n].width == 0 { flex } else { table.columns[*n].width }).collect();
    let mut x = area.x + 4;
    for (&n, &columns) in columns.iter().zip(&widths) {
        let column = &table.columns[n];
        let (mark, style) = match table.sorted {
            Some((sorted, is_down)) if sorted == n => (if is_down { "▾" } else { "▴" }, BOLD),
            _ => ("", MUTED),
        };
        let title = format!("{}{mark}", column.title);
        if column.is_right {
            // The mark stands beside the column, so that the title stays over its numbers.
            let end = x + columns + if mark.is_empty() { 0 } else { 1 };
            screen.right(end, area.y, &title, style);
        } else {
            screen.put(x, area.y, &title, style, columns);
        }
        x += columns + 2;
    }
    let room = usize::from(area.height - 2);
    app.page = room;
    let selected = app.row_selected(table);
    let look = app.look_mut();
    look.cursor = selected;
    look.top = look.top.min(table.rows.len().saturating_sub(room)).min(selected);
    if selected >= look.top + room {
        look.top = selected + 1 - room.max(1);
    }
    let top = look.top;
    for (at, row) in table.rows.iter().enumerate().skip(top).take(room) {
        let y = area.y + 1 + (at - top) as u16;
        let mut x = area.x + 4;
        for (&n, &columns) in columns.iter().zip(&widths) {
            let entry = &row.entries[n];
            if table.columns[n].is_right {
                screen.right_within(x, x + columns, y, &entry.text, entry.style);
            } else {
                // What nothing follows has the rest of the row.
                let is_last = row.entries[n + 1..].iter().all(|entry| entry.text.is_empty());
                let most = if is_last { area.right().saturating_sub(x + 1) } else { columns };
                screen.put(x, y, &entry.text, entry.style, most);
            }
            x += columns + 2;
        }
        if at == selected {
            screen.put(area.x + 1, y, ">", BOLD, 1);
            screen.style(Rect::new(area.x + 3, y, area.width.saturating_sub(4), 1), screen::SELECTED);
        }
    }
    let below = table.rows.len().saturating_sub(top + room) as u64 + table.more;
    let last = area.y + 1 + table.rows.len().saturating_sub(top).min(room) as u16;
    let text = match (below, app.look().filter.is_empty(), table.word.is_empty()) {
        (0, _, _) => table.word.clone(),
        (n, true, true) => format!("… {} more{}, or type / to filter", grouped(n), table.of),
        (n, false, true) => format!("… {} more match{}", grouped(n), table.of),
        (n, _, false) => format!("… {} more   {}", grouped(n), table.word),
    };
    screen.put(area.x + 4, last, &text, MUTED, area.width.saturating_sub(5));
}

/// Senders at the left, presence at the right.
fn blocks(screen: &mut Screen, app: &App, top: u16, rows: u16) {
    let end = screen.cells.area().width;
    let middle = (end * 55 / 100).min(100);
    let data = app.data();
    let senders = data.senders.known();
    let seen = senders.map_or(String::new(), |page| format!("  {}", grouped(page.seen)));
    screen.pieces(1, top, &[("SENDERS", BOLD), (&seen, PLAIN)], middle);
    for (text, right) in [("LINES/S", middle - 15), ("%", middle - 9), ("NEW/S", middle - 1)] {
        screen.right(right, top, text, MUTED);
    }
    match senders {
        None => drop(screen.put(1, top + 1, &data.senders.word("list of senders"), MUTED, middle - 2)),
        Some(page) if page.senders.is_empty() => drop(screen.put(1, top + 1, "nobody was seen yet", MUTED, middle - 2)),
        Some(page) => {
            for (y, sender) in (top + 1..).zip(page.senders.iter().take(usize::from(rows))) {
                let names = middle.saturating_sub(24);
                let x = screen.put(1, y, &sender.id, PLAIN, names) + 2;
                let also = names.saturating_sub(x);
                screen.put(x.max(16), y, &sender.also(), MUTED, also.min(names.saturating_sub(x.max(16))));
                let dash = || "-".to_string();
                screen.right(
                    middle - 15,
                    y,
                    &sender.lines_per_sec.map_or_else(dash, |n| grouped(n.round() as u64)),
                    PLAIN,
                );
                screen.right(middle - 9, y, &sender.share.map_or_else(dash, |n| format!("{:.1}", n * 100.0)), PLAIN);
                screen.right(middle - 1, y, &sender.new_series_per_sec.map_or_else(dash, short), PLAIN);
            }
        }
    }
    for y in top..=top + rows {
        screen.put(middle, y, "│", MUTED, 1);
    }
    let x = middle + 2;
    let services = match data.presence.known() {
        None => {
            screen.put(x, top, "PRESENCE", BOLD, end - x);
            screen.put(x, top + 1, &data.presence.word("presence, or it is off"), MUTED, end.saturating_sub(x));
            return;
        }
        Some(services) => services,
    };
    let up = services.iter().filter(|service| service.state == "up").count();
    screen.pieces(x, top, &[("PRESENCE", BOLD), (&format!("  {up} of {} up", services.len()), PLAIN)], end);
    if services.is_empty() {
        screen.put(x, top + 1, "nobody was heard yet", MUTED, end.saturating_sub(x));
    }
    for (y, service) in (top + 1..).zip(by_urgency(services).into_iter().take(usize::from(rows))) {
        let (sign, style) = service_sign(service, app.utf8);
        screen.put(x, y, &sign.to_string(), style, 1);
        // What is beyond what the narrowest screen needs goes to the names.
        let at = x + 14 + end.saturating_sub(x + 43).min(20);
        screen.put(x + 2, y, &service.service, PLAIN, at - x - 3);
        screen.put(at, y, &format!("{} of {}", service.present, service.present + service.down), PLAIN, 7);
        screen.put(at + 8, y, &service.tiles(), style, 7);
        let next = if service.is_maintained() { "maintenance".to_string() } else { service.next() };
        screen.put(at + 16, y, &next, MUTED, end.saturating_sub(at + 16));
    }
}

fn sinks(screen: &mut Screen, app: &App, y: u16) {
    let end = screen.cells.area().width;
    let mut all = account::sinks(app.data().status());
    // Those that need a look must not fall off the right edge.
    all.sort_by_key(|sink| sink.flow);
    let mut x = screen.put(1, y, "SINKS", BOLD, end) + 3;
    if all.is_empty() {
        screen.put(x, y, if app.data().status.is_some() { "none" } else { "asking…" }, MUTED, end.saturating_sub(x));
    }
    for sink in all {
        let style = flow_style(sink.flow);
        x = screen.put(x, y, &format!("{} ", sink.name), PLAIN, end.saturating_sub(x));
        x = screen.put(x, y, &sink.flow.sign(app.utf8).to_string(), style, end.saturating_sub(x)) + 1;
        let text = if sink.flow == Flow::Delivering { "delivering".to_string() } else { sink.text };
        x = screen.put(x, y, &text, MUTED, end.saturating_sub(x)) + 3;
    }
}

/// Malformed lines: how many a second, why, an example, and from whom.
fn refused(screen: &mut Screen, data: &Data, y: u16) {
    let end = screen.cells.area().width;
    let x = screen.put(1, y, "REFUSED", BOLD, end) + 1;
    if let Some(page) = data.senders.known()
        && !page.examples.is_empty()
    {
        let mut x = x;
        for (n, example) in page.examples.iter().take(2).enumerate() {
            if n > 0 {
                x = screen.put(x + 2, y, "│", MUTED, end.saturating_sub(x + 2)) + 2;
            }
            let rate = example.per_sec.map_or(String::new(), |rate| format!("{}/s ", short(rate)));
            let sender = example.sender.as_deref().unwrap_or("");
            let most = if page.examples.len() > 1 { (end * 6 / 10).saturating_sub(x) } else { end.saturating_sub(x) };
            let most = if n > 0 { end.saturating_sub(x) } else { most };
            let from = x;
            x = screen.put(x, y, &format!("{rate}{}   ", example.reason), screen::WARNING, most);
            x = screen.put(x, y, &format!("{}  {sender}", example.line), PLAIN, (from + most).saturating_sub(x));
        }
        return;
    }
    let mut reasons: Vec<_> =
        data.losses.iter().filter(|loss| loss.what == "malformed lines" && loss.total > 0).collect();
    reasons.sort_by(|a, b| b.per_sec.total_cmp(&a.per_sec).then(b.total.cmp(&a.total)));
    let text: Vec<String> = reasons
        .iter()
        .take(4)
        .map(|loss| format!("{}/s {} ({} since the start)", short(loss.per_sec), loss.place, grouped(loss.total)))
        .collect();
    let text = match (&data.status, text.is_empty()) {
        (None, _) => "asking…".to_string(),
        (Some(_), true) => "nothing since the start".to_string(),
        (Some(_), false) => text.join("   "),
    };
    screen.put(x, y, &text, if reasons.is_empty() { MUTED } else { PLAIN }, end.saturating_sub(x));
}

/// What happened last.
fn changed(screen: &mut Screen, data: &Data, y: u16) {
    let end = screen.cells.area().width;
    let mut x = screen.put(1, y, "CHANGED", BOLD, end) + 1;
    let Some(events) = data.events.known() else {
        screen.put(x, y, &data.events.word("journal of events"), MUTED, end.saturating_sub(x));
        return;
    };
    if events.is_empty() {
        screen.put(x, y, "nothing happened since the start", MUTED, end.saturating_sub(x));
    }
    for (n, event) in events.iter().take(6).enumerate() {
        if x + 12 >= end {
            break;
        }
        if n > 0 {
            x = screen.put(x + 1, y, "│", MUTED, end.saturating_sub(x + 1)) + 1;
        }
        let style = match (event.level.as_str(), event.severity.as_str()) {
            ("error", _) | (_, "critical") => screen::BAD,
            ("warning", _) | (_, "warning") => screen::WARNING,
            _ => PLAIN,
        };
        x = screen.put(x, y, &format!("{} ", event.clock()), MUTED, end.saturating_sub(x));
        x = screen.put(x, y, event.sentence(), style, end.saturating_sub(x));
    }
}

/// The keys that do something now.
fn keys(screen: &mut Screen, app: &App, y: u16) {
    let end = screen.cells.area().width;
    let (arrows, enter) = if app.utf8 { ("↑↓", "↵") } else { ("j,k", "enter") };
    let opens = match app.view {
        View::Series => Some("chart"),
        View::Senders => Some("prefixes"),
        View::TagKeys => Some("series"),
        View::Losses | View::Lines => Some("explain"),
        View::Presence | View::Sinks => None,
    };
    let key = |rank: u8, key: &str, does: &str| (rank, format!("{key} {does}"));
    let texts: Vec<(u8, String)> = match app.mode {
        Mode::Filter => {
            vec![key(0, enter, "keep"), key(1, "esc", "clear"), key(2, "words, globs and key:value", "match")]
        }
        Mode::Explain => vec![key(0, enter, "explain"), key(1, "esc", "back"), key(2, "ctrl-u", "empty")],
        Mode::List | Mode::Chart | Mode::Prefixes | Mode::Help => {
            let mut keys = Vec::new();
            if app.mode != Mode::Prefixes {
                keys.push(key(5, arrows, "select"));
                let does = if app.mode == Mode::Chart { Some("list") } else { opens };
                keys.extend(does.map(|does| key(4, enter, does)));
            }
            if app.mode == Mode::Chart || app.mode == Mode::Prefixes {
                keys.push(key(0, "esc", "back"));
            }
            if app.mode == Mode::Chart {
                keys.push(key(1, "+ -", "zoom"));
            }
            keys.extend([
                key(3, "1-7", "view"),
                key(6, "s", "sort"),
                key(8, "r", "reverse"),
                key(2, "/", "filter"),
                key(7, "space", if app.is_paused() { "resume" } else { "pause" }),
                key(9, "e", "explain"),
                key(1, "?", "help"),
                key(0, "q", "quit"),
            ]);
            keys
        }
    };
    let kept = fit(&texts, end.saturating_sub(2), 2);
    kept.into_iter().fold(1, |x, text| {
        let (key, does) = text.rsplit_once(' ').unwrap_or((text, ""));
        let x = screen.put(x, y, key, BOLD, end.saturating_sub(x));
        screen.put(x + 1, y, does, MUTED, end.saturating_sub(x + 1)) + 2
    });
}

/// The label and the value of the selected series.
pub(super) fn selected_series(app: &App) -> Option<(String, String, String)> {
    let key = app.selected_key()?;
    let row = app.data().series.known()?.series.iter().find(|row| row.id == key)?;
    Some((row.label(), row.kind.clone(), lists::value(row)))
}
