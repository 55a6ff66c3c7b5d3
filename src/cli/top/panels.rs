//! What takes the list's place for a while: help, the explanation of a line, the prefixes of a sender.

use ratatui::layout::Rect;
use ratatui::style::Style;
use serde_json::Value;

use crate::untrusted::Escaped;

use super::super::figures::{percent, short};
use super::keys::App;
use super::model::Block;
use super::screen::{self, BOLD, MUTED, PLAIN, Screen, width};

const HELP: [(&str, &str); 19] = [
    ("1 to 7", "series, senders, tag keys, presence, sinks, losses, lines"),
    ("tab, left, right", "the view beside it"),
    ("up, down, j, k", "select; page up, page down, home, end"),
    ("enter", "open: a series' chart, a sender's prefixes, a key's series"),
    ("esc", "back; in a list: no filter"),
    ("/", "filter: words, globs, key:value; elsewhere any text"),
    ("s, r", "sort by the next column, reverse the order"),
    ("space", "freeze the screen; data goes on"),
    ("+, -", "in a chart: a shorter, a longer time"),
    ("e", "explain a line: how it is read, and where it goes"),
    ("ctrl-l, ctrl-z", "draw anew, suspend"),
    ("q, ctrl-c", "quit"),
    ("", ""),
    ("K", "Counter Gauge Timer Histogram Distribution Set Key-value"),
    ("instances", "Up Late Down Gone (left), ? unknown, = in maintenance"),
    ("sparklines", "from 0, of a gauge (~) from its least; · none, / unseen"),
    ("charts", "gaps are gaps; beneath: ─ whole, █ part lost, / unseen"),
    ("sinks", "✓ delivering, ~ behind, ✕ takes nothing"),
    ("ledger", "✓ what was read is what became of it, or by how much not"),
];

/// The keys and the signs.
pub(super) fn help(screen: &mut Screen, utf8: bool) {
    let area = *screen.cells.area();
    let columns = area.width.min(84);
    let rows = area.height.min(HELP.len() as u16 + 3);
    let frame = Rect::new((area.width - columns) / 2, (area.height - rows) / 2, columns, rows);
    screen.clear(frame);
    let (corner, across) = if utf8 { ("│", "─") } else { ("|", "-") };
    for x in frame.left()..frame.right() {
        screen.put(x, frame.top(), across, MUTED, 1);
        screen.put(x, frame.bottom() - 1, across, MUTED, 1);
    }
    for y in frame.top() + 1..frame.bottom() - 1 {
        screen.put(frame.left(), y, corner, MUTED, 1);
        screen.put(frame.right() - 1, y, corner, MUTED, 1);
    }
    screen.put(frame.x + 2, frame.y, " systole top ", BOLD, columns.saturating_sub(4));
    for (y, (key, does)) in (frame.y + 1..frame.bottom() - 1).zip(HELP) {
        screen.put(frame.x + 2, y, key, BOLD, 17);
        screen.put(frame.x + 20, y, does, PLAIN, columns.saturating_sub(22));
    }
}

/// The prefixes of a sender.
pub(super) fn prefixes(screen: &mut Screen, app: &App, area: Rect) {
    let sender = app.sender.as_deref().unwrap_or("");
    screen.pieces(area.x + 1, area.y, &[("What ", MUTED), (sender, BOLD), (" sends", MUTED)], area.right());
    let page = match &app.data().prefixes {
        Block::Known(page) => page,
        other => {
            screen.put(area.x + 4, area.y + 2, &other.word("list of senders"), MUTED, area.width.saturating_sub(5));
            return;
        }
    };
    let ends = [20, 11, 2].map(|from| area.right().saturating_sub(from));
    screen.put(area.x + 4, area.y + 1, "PREFIX", MUTED, 20);
    for (end, title) in ends.into_iter().zip(["LINES/S", "%", "NEW/S"]) {
        screen.right(end, area.y + 1, title, MUTED);
    }
    if page.prefixes.is_empty() {
        screen.put(area.x + 4, area.y + 2, "nothing was sampled yet", MUTED, area.width.saturating_sub(5));
    }
    for (y, prefix) in (area.y + 2..area.bottom()).zip(&page.prefixes) {
        screen.put(area.x + 4, y, &prefix.prefix, PLAIN, area.width.saturating_sub(34));
        let texts = [prefix.lines_per_sec.map(short), prefix.share.map(percent), prefix.new_series_per_sec.map(short)];
        for (end, text) in ends.into_iter().zip(texts) {
            screen.right(end, y, &text.unwrap_or("-".into()), PLAIN);
        }
    }
}

/// The line that is typed, and what the daemon says of it.
pub(super) fn explain(screen: &mut Screen, app: &App, area: Rect) {
    let x = screen.put(area.x + 1, area.y, "Explain  ", BOLD, area.width);
    let room = area.right().saturating_sub(x + 2);
    // The end of a long line is where it is typed.
    let typed = Escaped(&app.typed).to_string();
    let mut shown: &str = &typed;
    while width(shown) >= room && !shown.is_empty() {
        shown = &shown[shown.chars().next().map_or(0, char::len_utf8)..];
    }
    let x = screen.put(x, area.y, shown, PLAIN, room);
    screen.put(x, area.y, " ", screen::SELECTED, 1);
    let body = Rect::new(area.x + 1, area.y + 2, area.width.saturating_sub(2), area.height.saturating_sub(2));
    let answer = match &app.data().explained {
        Block::Known(answer) => answer,
        Block::Awaited if app.typed.is_empty() => {
            screen.put(body.x, body.y, "Type a line, such as api.time:12|ms|#route:/a", MUTED, body.width);
            return;
        }
        Block::Awaited => {
            screen.put(body.x, body.y, "Press enter.", MUTED, body.width);
            return;
        }
        other => {
            screen.put(body.x, body.y, &other.word("explanation"), MUTED, body.width);
            return;
        }
    };
    let mut rows = Vec::new();
    match answer {
        Value::Array(several) => several.iter().for_each(|one| explained(one, &mut rows)),
        one => explained(one, &mut rows),
    }
    for (y, (name, text, style)) in (body.y..body.bottom()).zip(rows) {
        screen.put(body.x, y, &name, MUTED, 10);
        screen.put(body.x + 11, y, &text, style, body.width.saturating_sub(11));
    }
}

/// A value as people write it.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.as_f64().map_or(number.to_string(), short),
        Value::Array(all) => all.iter().map(plain).collect::<Vec<_>>().join(", "),
        Value::Object(all) => {
            let pairs = all.iter().filter(|(_, value)| !value.is_null());
            pairs.map(|(key, value)| format!("{key} {}", plain(value))).collect::<Vec<_>>().join("  ")
        }
        Value::Bool(flag) => flag.to_string(),
        Value::Null => "none".into(),
    }
}

/// Rows on one line: a name, what is so, and its style.
fn explained(answer: &Value, rows: &mut Vec<(String, String, Style)>) {
    let line = answer["line"].as_str().unwrap_or("");
    let error = &answer["error"];
    rows.push(("line".into(), line.into(), if error.is_object() { screen::BAD } else { screen::GOOD }));
    let mut push = |name: &str, text: String, style: Style| rows.push((name.into(), text, style));
    if error.is_object() {
        let at = |key: &str| error[key].as_u64().unwrap_or(0) as usize;
        let (from, to) = (at("from"), at("to"));
        if let Some(before) = line.get(..from) {
            let before = usize::from(width(&Escaped(before).to_string()));
            let marked = line.get(from..to).map_or(1, |text| usize::from(width(&Escaped(text).to_string())));
            push("", format!("{}{}", " ".repeat(before), "^".repeat(marked.max(1))), screen::BAD);
        }
        push("refused", format!("{}: {}", plain(&error["reason"]), plain(&error["message"])), screen::BAD);
        if let Some(write) = error["write"].as_str() {
            push("write", write.into(), screen::GOOD);
        }
    }
    for part in answer["parts"].as_array().into_iter().flatten() {
        push("", format!("{:<14}  {}", plain(&part["text"]), plain(&part["name"])), PLAIN);
    }
    if answer["read"].is_object() {
        push("read", plain(&answer["read"]), PLAIN);
    }
    if answer["heartbeat"].is_object() {
        push("heartbeat", plain(&answer["heartbeat"]), PLAIN);
    }
    if answer["rule"].is_object() {
        push("rule", plain(&answer["rule"]), PLAIN);
    }
    for (n, record) in answer["flushed"].as_array().into_iter().flatten().enumerate() {
        let shown = record.as_object().map(|record| {
            let pairs = record.iter().filter(|(key, _)| !matches!(key.as_str(), "time" | "interval" | "type"));
            let pairs = pairs.filter(|(_, value)| !value.is_null() && **value != Value::Object(Default::default()));
            pairs.map(|(key, value)| format!("{key} {}", plain(value))).collect::<Vec<_>>().join("  ")
        });
        push(if n == 0 { "flushed" } else { "" }, shown.unwrap_or_default(), PLAIN);
    }
    for (n, to) in answer["goes_to"].as_array().into_iter().flatten().enumerate() {
        push(if n == 0 { "goes to" } else { "" }, format!("{}: {}", plain(&to["sink"]), plain(&to["as"])), PLAIN);
    }
    if let Some(rate) = answer["arrives_per_sec"].as_f64() {
        push("now", format!("such lines arrive: {} a second", short(rate)), MUTED);
    }
}
