//! What `top` draws, as text: an invented installation on screens of several sizes. `UPDATE=1 cargo test --lib cli::top` writes
//! the screens anew.

use std::path::Path;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::{Color, Modifier};
use serde_json::{Value, json};

use super::draw::draw;
use super::keys::{Action, App};
use super::model::{Block, Trouble};
use super::source::Answered;

/// 2026-11-26 02:31:46.
const NOW: f64 = 1_795_660_306.0;
/// The last tick.
const TICK: f64 = NOW - 6.0;

fn status() -> Value {
    json!({
        "version": "0.2.0", "node": "edge-2", "uptime_secs": 533_460.0, "profile": "systole", "interval": 10.0, "ready": true, "as_of": TICK,
        "warnings": [],
        "verdict": {"level": "ok", "sentence": "All data accounted for", "detail": "184,232 lines/s, nothing lost in the last hour.",
            "pills": [{"level": "warning", "text": "checkout degraded, 1 of 3 present"}]},
        "listeners": [{"url": "udp://0.0.0.0:8125", "datagrams": 92_000, "kernel_drops": 0, "refused": 3}],
        "lines": {"read": 1_842_317, "metrics": 1_841_166, "events": 14, "service_checks": 60, "heartbeats": 212,
            "malformed": {"bad_value": 790, "missing_type": 75}},
        "samples": {"read": 1_841_166, "recorded": 1_841_166},
        "series": {"counters": 40_000, "gauges": 6_000, "timers": 2_212},
        "sinks": {
            "graphite": {"offered": 900, "delivered": 900, "last_success": TICK, "last_error": null, "delivery_ms": 12.0},
            "influx": {"offered": 9000, "delivered": 5788, "spooled": 3212, "spool_bytes": 409_600, "last_success": TICK, "last_error": null},
            "prometheus": {"offered": 7, "delivered": 7, "last_success": TICK, "last_error": null}},
        "memory": {"live": 192_937_984, "max": 268_435_456, "level": 0}, "flush": {"duration_secs": 0.041, "late_secs": 0.0004},
        "completeness": 1.0, "parts": {"flush": {"state": "running", "up": true}},
    })
}

/// So many points, the last ones first given; missing ones below zero.
fn points(values: &[f64]) -> Vec<Option<f64>> {
    values.iter().map(|value| (*value >= 0.0).then_some(*value)).collect()
}

fn ledger() -> Value {
    let waves: Vec<f64> =
        (0..44).map(|n| 1_842_317.0 + f64::from(n % 7) * 90_000.0 - f64::from(n % 5) * 60_000.0).collect();
    let mut lines = points(&waves);
    lines[12] = None;
    lines[43] = Some(1_842_317.0);
    let flat = |value: f64| vec![value; 44];
    let growing: Vec<f64> = (0..44).map(|n| 40_000.0 - f64::from(43 - n)).collect();
    json!({
        "from": TICK - 440.0, "to": TICK, "interval": 10.0, "step": 10.0,
        "times": (0..44).map(|n| TICK - f64::from(43 - n) * 10.0).collect::<Vec<_>>(), "completeness": flat(1.0), "series": [],
        "ledger": {"lines.read": lines, "lines.metrics": flat(1_841_166.0), "lines.events": flat(14.0), "lines.service_checks": flat(60.0),
            "lines.heartbeats": flat(212.0), "lines.empty": flat(0.0), "lines.malformed": flat(865.0), "lines.internal_error": flat(0.0),
            "series.counters": growing, "series.gauges": flat(6000.0), "series.timers": flat(2212.0)}
    })
}

fn series() -> Value {
    let row = |kind: &str, name: &str, tags: Value, rate: f64, field: &str, value: Value, spark: &[f64], seen: f64| {
        json!({"id": format!("{kind}:{name}"), "kind": kind, "name": name, "tags": tags, "last_seen": TICK - seen, "is_current": seen == 0.0,
            "rate": rate, "field": field, "value": value, "spark": points(spark)})
    };
    let busy = [5.0, 5.0, 4.0, 4.0, 3.0, 4.0, 5.0, 4.0];
    let rises = [1.0, 1.0, 1.0, 2.0, 5.0, 7.0, 8.0, 8.0];
    let stops = [4.0, 4.0, 3.0, 4.0, -1.0, -1.0, -1.0, -1.0];
    json!({"total": 48_212, "matched": 48_212, "took_ms": 3.1, "next": "x", "series": [
        row("counter", "api.requests", json!({"route": "/cart", "status": "200"}), 18_422.0, "rate", json!(18_422.0), &busy, 0.0),
        row("timer", "checkout.latency", json!({"route": "/pay"}), 9214.0, "p99", json!(812.0), &rises, 0.0),
        row("histogram", "db.rows", json!({"table": "orders"}), 6120.0, "p99", json!(4100.0), &busy, 0.0),
        row("gauge", "pool.in_use", json!({"db": "orders"}), 3180.0, "value", json!(74.0), &rises, 0.0),
        row("set", "users\u{1b}[2J", json!({"flag": null, "many": ["a", "b"]}), 12.0, "value", json!(1234.0), &busy, 0.0),
        row("timer", "legacy.latency", json!({"route": "/pay"}), 0.0, "p99", Value::Null, &stops, 240.0),
    ]})
}

fn senders() -> Value {
    let sender = |id: &str, container: &str, rate: f64, share: f64, new: f64| {
        json!({"id": id, "container": container, "lines_per_sec": rate, "bytes_per_sec": rate * 40.0, "malformed_per_sec": 0.0,
            "new_series_per_sec": new, "share": share, "spark": [1.0, 2.0, 3.0]})
    };
    json!({"time": TICK, "interval": 10.0, "sampled_one_in": 64, "error": 0.01, "seen": 198, "capacity": 1024, "lines_per_sec": 184_232.0,
        "senders": [sender("10.4.7.19", "api-7d9f", 61_204.0, 0.332, 31.0), sender("10.4.7.22", "checkout-5c", 42_310.0, 0.23, 28.0),
            {"id": "unix pid 4121", "pid": 4121, "process": "nginx", "lines_per_sec": 24_890.0, "share": 0.135, "new_series_per_sec": 0.0},
            sender("10.4.9.3", "worker-1", 18_022.0, 0.098, 2.0)],
        "prefixes": [{"prefix": "job.step.", "share": 0.7, "lines_per_sec": 1200.0, "new_series_per_sec": 9.0}],
        "tag_keys": [{"key": "request_id", "values": 768_912, "new_per_sec": 1240.0, "under": "job.step.", "sender": "10.4.9.3"},
            {"key": "route", "values": 41, "new_per_sec": 0.0, "under": null, "sender": null}],
        "examples": [{"reason": "bad_value", "line": "api.latncy:12,5|ms", "sender": "10.4.9.3", "per_sec": 79.0},
            {"reason": "missing_type", "line": "hello:1", "sender": "10.4.7.22", "per_sec": 8.0}],
        "warnings": ["Tag `request_id` makes 1,240 new series a second, under `job.step.`, from 10.4.9.3"]})
}

fn presence() -> Value {
    let one = |name: &str, state: &str, late: f64, flags: Value| json!({"instance": name, "state": state, "late_in_s": late, "down_in_s": late + 11.0, "flags": flags});
    let many = |states: &[&str]| -> Vec<Value> {
        states.iter().enumerate().map(|(n, state)| one(&format!("i{n}"), state, 11.0, json!([]))).collect()
    };
    let mut all = vec![
        json!({"service": "checkout", "state": "degraded", "present": 1, "down": 2, "since": "2026-11-26T02:31:10.000Z",
            "instances": many(&["up", "down", "down"])}),
        json!({"service": "search", "state": "up", "present": 6, "down": 0, "instances": many(&["up", "up", "late", "up", "up", "up"])}),
        json!({"service": "mailer", "state": "down", "present": 0, "down": 2,
            "instances": [one("a", "down", 0.0, json!(["maintenance"])), one("b", "down", 0.0, json!(["maintenance"]))]}),
        json!({"service": "invoice", "state": "unknown", "present": 0, "down": 1, "instances": many(&["unknown"])}),
    ];
    all.extend((0..14).map(|n| json!({"service": format!("svc{n:02}"), "state": "up", "present": 8, "down": 0, "instances": many(&["up"; 8])})));
    Value::Array(all)
}

fn events() -> Value {
    json!([
        {"id": "3", "time": TICK - 10.0, "kind": "sink", "level": "warning", "title": "sink influx slow"},
        {"id": "2", "time": TICK - 30.0, "kind": "presence", "level": "warning", "title": "checkout degraded"},
        {"id": "1", "time": TICK - 120.0, "kind": "series", "level": "info", "title": "312 new under feature."},
    ])
}

fn chart() -> Value {
    let gap = |n: usize| (70..80).contains(&n);
    let wave = |n: usize| if n < 120 { 180.0 } else { 180.0 + (n - 120) as f64 * 11.0 };
    let of = |factor: f64| -> Vec<Option<f64>> { (0..180).map(|n| (!gap(n)).then(|| wave(n) * factor)).collect() };
    let whole: Vec<Option<f64>> = (0..180)
        .map(|n| {
            if (75..80).contains(&n) {
                None
            } else if n == 100 {
                Some(0.979)
            } else {
                Some(1.0)
            }
        })
        .collect();
    json!({"from": TICK - 1800.0, "to": TICK, "interval": 10.0, "step": 10.0, "resolution": "interval", "completeness": whole,
        "times": (0..180).map(|n| TICK - f64::from(179 - n) * 10.0).collect::<Vec<_>>(),
        "series": [{"id": "timer:checkout.latency", "kind": "timer", "name": "checkout.latency",
            "fields": {"p99": of(1.0), "p50": of(0.3), "median": of(0.3), "max": of(1.9), "count": of(50.0)}}]})
}

fn details() -> Value {
    json!({"rule": {"match": "checkout.*", "file": "/etc/systole.toml", "line": 12}, "senders": [{"id": "10.4.7.22", "label": "checkout-5c", "share": 0.61}],
        "goes_to": [{"sink": "graphite", "as": ["checkout.latency.p99;route=/pay"]}]})
}

fn known<T: serde::de::DeserializeOwned>(value: Value) -> Block<T> {
    Block::Known(serde_json::from_value(value).expect("it is understood"))
}

/// What the installation answers.
fn answers() -> Vec<Answered> {
    vec![
        Answered::Status { status: status(), ahead: 0.0 },
        Answered::Ledger(known(ledger())),
        Answered::Series(known(series())),
        Answered::Senders(known(senders())),
        Answered::Presence(known(presence())),
        Answered::Events(known(events())),
    ]
}

fn fresh() -> App {
    App::new("http://127.0.0.1:8127".into(), true, true)
}

/// A `top` that has been answered.
fn answered() -> App {
    let mut app = fresh();
    for answer in answers() {
        give(&mut app, answer, NOW - 2.0);
    }
    app
}

/// Answers what is wished now.
fn give(app: &mut App, answered: Answered, now: f64) {
    let of = app.wish();
    app.take(&of, answered, now);
}

fn press(app: &mut App, keys: &str) {
    for c in keys.chars() {
        let code = match c {
            '\n' => KeyCode::Enter,
            '\u{1b}' => KeyCode::Esc,
            '↓' => KeyCode::Down,
            '↑' => KeyCode::Up,
            c => KeyCode::Char(c),
        };
        assert_ne!(app.press(KeyEvent::new(code, KeyModifiers::NONE)), Action::Quit, "{keys}");
    }
}

fn cells(app: &mut App, columns: u16, rows: u16) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(columns, rows)).expect("a terminal");
    // What has room is known after the first time.
    for _ in 0..2 {
        terminal.draw(|frame| draw(frame.buffer_mut(), app, NOW)).expect("drawn");
        let wish = app.wish();
        if wish.chart.is_some() && app.live.chart == Block::Awaited {
            give(app, Answered::Chart(known(chart())), NOW);
            give(app, Answered::Details(Block::Known(details())), NOW);
        }
    }
    terminal.backend().buffer().clone()
}

fn text(cells: &Buffer) -> String {
    let rows = cells.content().chunks(usize::from(cells.area().width));
    rows.map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>().trim_end().to_string() + "\n").collect()
}

fn screen(app: &mut App, columns: u16, rows: u16) -> String {
    text(&cells(app, columns, rows))
}

/// Compares a screen with the one that is kept.
fn holds(name: &str, screen: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("src/cli/top/screens/{name}.txt"));
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, screen).expect("written");
        return;
    }
    let kept = std::fs::read_to_string(&path).expect("a screen that is kept");
    assert_eq!(screen, kept, "{name}: is\n{screen}\nand was\n{kept}");
}

#[test]
fn the_screens_of_an_installation_are_as_they_were() {
    for (name, columns, rows) in [("80x24", 80, 24), ("100x30", 100, 30), ("200x50", 200, 50), ("50x12", 50, 12)] {
        let mut app = answered();
        press(&mut app, "↓");
        holds(name, &screen(&mut app, columns, rows));
    }
    let mut app = fresh();
    holds("nothing-yet", &screen(&mut app, 100, 30));
    for (keys, name) in [
        ("2", "senders"),
        ("2\n", "prefixes"),
        ("3", "tag-keys"),
        ("4", "presence"),
        ("5", "sinks"),
        ("6", "losses"),
        ("7", "lines"),
        ("↓\n", "chart"),
        ("e\n", "explain"),
        ("?", "help"),
    ] {
        let mut app = answered();
        press(&mut app, keys);
        give(&mut app, Answered::Prefixes(known(senders())), NOW);
        give(&mut app, Answered::Explained(Block::Known(explained())), NOW);
        give(&mut app, Answered::Lines(known(raw_lines())), NOW);
        holds(name, &screen(&mut app, 80, 24));
    }
}

fn explained() -> Value {
    json!({"line": "api.latncy:12,5|ms", "ok": false, "parts": [{"from": 0, "to": 10, "text": "api.latncy", "name": "name"}],
        "error": {"reason": "bad_value", "from": 11, "to": 15, "message": "not a decimal number", "write": "api.latncy:12.5|ms"},
        "arrives_per_sec": 79.0})
}

fn raw_lines() -> Value {
    json!([
        {"time": NOW - 3.0, "from": "10.4.9.3", "line": "api.hits:1|c", "verdict": "ok", "reason": null},
        {"skipped": 900},
        {"time": NOW - 2.0, "from": "10.4.9.3", "line": "api.latncy:12,5|ms\u{1b}[31m", "verdict": "malformed", "reason": "bad_value"},
    ])
}

#[test]
fn losing_data_fills_the_second_line_in_white_on_red() {
    let mut app = answered();
    let mut losing = status();
    losing["verdict"] = json!({"level": "error", "sign": "✕", "sentence": "Losing data: 2.1 % of datagrams since 02:24:10",
        "detail": "The receive buffer of udp://0.0.0.0:8125 overflows.", "action": "Raise `receive_buffer`.", "pills": []});
    give(&mut app, Answered::Status { status: losing, ahead: 0.0 }, NOW);
    let cells = cells(&mut app, 100, 30);
    holds("losing", &text(&cells));
    for x in 0..100 {
        assert_eq!((cells[(x, 1)].fg, cells[(x, 1)].bg), (Color::White, Color::Red), "column {x}");
    }
}

#[test]
fn an_older_daemon_is_shown_as_far_as_it_goes() {
    let mut app = fresh();
    let mut older = status();
    let fields = older.as_object_mut().expect("an object");
    fields.remove("verdict");
    fields.remove("node");
    for (n, lacking) in [
        Answered::Ledger(Block::Lacking),
        Answered::Series(Block::Lacking),
        Answered::Senders(Block::Lacking),
        Answered::Events(Block::Refused("the daemon answers 500".into())),
    ]
    .into_iter()
    .enumerate()
    {
        let at = NOW - 20.0 + n as f64 * 5.0;
        older["lines"]["read"] = json!(1_842_317 + n * 500);
        older["lines"]["metrics"] = json!(1_841_166 + n * 500);
        older["listeners"][0]["kernel_drops"] = json!(if n > 1 { 700 } else { 0 });
        give(&mut app, Answered::Status { status: older.clone(), ahead: 0.0 }, at);
        give(&mut app, lacking, at);
    }
    holds("older", &screen(&mut app, 100, 30));
    older["lines"]["read"] = json!(3);
    give(&mut app, Answered::Status { status: older, ahead: 0.0 }, NOW);
    assert!(!screen(&mut app, 100, 30).contains("LOSING"), "another start");
}

#[test]
fn without_an_answer_nothing_looks_current() {
    let mut app = answered();
    let trouble = |is_refusal, why: &str| Trouble { why: why.into(), is_refusal, again: NOW + 2.0 };
    give(&mut app, Answered::Trouble(trouble(false, "connection refused")), NOW);
    let cells = cells(&mut app, 100, 30);
    holds("disconnected", &text(&cells));
    let muted = |x: u16, y: u16| cells[(x, y)].fg == Color::DarkGray;
    assert!((2..30).all(|y| (0..100).all(|x| muted(x, y))));
    give(&mut app, Answered::Trouble(trouble(true, "this needs the token")), NOW);
    assert!(screen(&mut app, 100, 30).contains("http://127.0.0.1:8127: this needs the token, trying again in 2 s."));
    give(&mut app, Answered::Status { status: status(), ahead: 0.0 }, NOW);
    assert!(screen(&mut app, 100, 30).contains("LIVE"));
}

#[test]
fn a_terminal_without_utf_8_and_colour_loses_nothing() {
    for keys in ["", "4", "5", "↓\n", "?"] {
        let mut app = App::new("http://127.0.0.1:8127".into(), false, false);
        for answer in answers() {
            give(&mut app, answer, NOW - 2.0);
        }
        press(&mut app, keys);
        let drawn = cells(&mut app, 100, 30);
        assert!(text(&drawn).is_ascii(), "{}", text(&drawn));
        assert!(drawn.content().iter().all(|cell| (cell.fg, cell.bg) == (Color::Reset, Color::Reset)));
        if keys.is_empty() {
            holds("ascii", &text(&drawn));
            assert!(drawn[(10, 9)].modifier.contains(Modifier::REVERSED), "the first row is selected");
        }
    }
}

#[test]
fn keys_change_what_is_asked_for_and_shown() {
    let mut app = answered();
    assert_eq!((app.wish().order.name(), app.wish().query.as_str()), ("loudest", ""));
    press(&mut app, "/checkout lat");
    assert!(screen(&mut app, 80, 24).contains("[1] Series /filter: checkout lat"));
    assert_eq!(app.wish().query, "checkout lat");
    press(&mut app, "\ns");
    assert_eq!((app.wish().order.name(), app.wish().query.as_str()), ("name", "checkout lat"));
    press(&mut app, "\u{1b}");
    assert_eq!(app.wish().query, "");
    // Another view is filtered and sorted here.
    press(&mut app, "4/search\n");
    let filtered = screen(&mut app, 80, 24);
    assert!(filtered.contains(" search ") && !filtered.contains(" invoice "), "{filtered}");
    press(&mut app, "\u{1b}sr");
    let sorted = screen(&mut app, 80, 24);
    assert!(sorted.contains("SERVICE▾") && sorted.find("svc13") < sorted.find("svc08"), "{sorted}");
    // A tag key leads to its series, a series to its chart.
    press(&mut app, "3\n");
    assert_eq!(app.wish().query, "request_id:");
    press(&mut app, "\n");
    assert!(app.wish().chart.is_some());
    let reach = app.wish().reach_secs;
    press(&mut app, "--");
    assert_eq!((reach, app.wish().reach_secs), (1800.0, 21_600.0));
    press(&mut app, "+++++");
    assert_eq!(app.wish().reach_secs, 300.0);
    press(&mut app, "\u{1b}2\n");
    assert_eq!((app.wish().chart, app.wish().sender.as_deref()), (None, Some("10.4.7.19")));
    // A line that was refused is explained.
    press(&mut app, "6↓↓↓\n");
    assert_eq!(app.wish().line.as_deref(), Some("api.latncy:12,5|ms"));
    let earlier = app.wish();
    press(&mut app, "x\n");
    app.wish();
    app.take(&earlier, Answered::Explained(Block::Known(json!({"line": "of an earlier wish"}))), NOW);
    assert!(!screen(&mut app, 80, 24).contains("earlier"));
    press(&mut app, "\u{1b}");
    assert_eq!(app.press(KeyEvent::new(KeyCode::Char('q'), KeyModifiers::NONE)), Action::Quit);
    assert_eq!(app.press(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Action::Quit);
}

#[test]
fn a_selection_follows_its_row() {
    let mut app = answered();
    press(&mut app, "↓");
    let before = app.selected_key();
    let mut page = series();
    let rows = page["series"].as_array_mut().expect("a list");
    rows.reverse();
    give(&mut app, Answered::Series(known(page)), NOW);
    assert_eq!(app.selected_key(), before);
    press(&mut app, "G");
    assert_eq!(app.selected_key().as_deref(), Some("counter:api.requests"));
}

#[test]
fn a_paused_screen_stays_as_it_is_and_goes_on_with_what_is_true() {
    let mut app = answered();
    press(&mut app, " ");
    let frozen = screen(&mut app, 100, 30);
    assert!(frozen.contains("PAUSED"), "{frozen}");
    let mut later = status();
    later["lines"]["read"] = json!(9_999_999);
    later["uptime_secs"] = json!(7.0);
    give(&mut app, Answered::Status { status: later, ahead: 0.0 }, NOW);
    give(&mut app, Answered::Series(known(json!({"total": 0}))), NOW);
    assert_eq!(screen(&mut app, 100, 30), frozen);
    // What is asked for by a key is shown, though.
    press(&mut app, "/x\n");
    give(
        &mut app,
        Answered::Series(known(json!({"total": 7, "matched": 0, "near": [{"text": "latency", "matched": 18}]}))),
        NOW,
    );
    let searched = screen(&mut app, 100, 30);
    assert!(searched.contains("no series matches; nearest: latency (18); 7 searched"), "{searched}");
    press(&mut app, " ");
    assert!(screen(&mut app, 100, 30).contains("up 7 s"));
}

#[test]
fn the_beat_changes_few_cells_and_every_size_is_drawn() {
    let mut app = answered();
    let mut terminal = Terminal::new(TestBackend::new(100, 30)).expect("a terminal");
    let mut at = |now: f64| {
        terminal.draw(|frame| draw(frame.buffer_mut(), &mut app, now)).expect("drawn");
        terminal.backend().buffer().clone()
    };
    let (first, second) = (at(NOW), at(NOW + 0.5));
    assert!(first.diff(&second).len() <= 12, "{:?}", first.diff(&second));
    for keys in ["", "4", "7", "\n", "e", "?", "2\n"] {
        let mut app = answered();
        press(&mut app, keys);
        for (columns, rows) in
            (0..40).map(|n| (n * 3, n)).chain([(1, 200), (300, 1), (160, 30), (300, 100), (60, 15), (99, 80)])
        {
            if columns > 0 && rows > 0 {
                drop(cells(&mut app, columns, rows));
            }
        }
    }
}

#[test]
fn an_answer_is_shown_when_something_else_was_chosen_meanwhile() {
    let mut app = answered();
    press(&mut app, "/lat");
    let asked = app.wish();
    press(&mut app, "↓");
    let page = json!({"total": 7, "matched": 0, "near": [{"text": "latency", "matched": 18}]});
    screen(&mut app, 200, 50);
    assert!(app.wish().number > asked.number, "the chart is another");
    app.take(&asked, Answered::Series(known(page.clone())), NOW);
    assert!(screen(&mut app, 80, 24).contains("nearest: latency (18)"));
    // Not of other words.
    let mut app = answered();
    press(&mut app, "/lat");
    let asked = app.wish();
    press(&mut app, "x");
    app.wish();
    app.take(&asked, Answered::Series(known(page)), NOW);
    assert!(!screen(&mut app, 80, 24).contains("nearest"));
}

#[test]
fn rounded_numbers_of_the_history_are_not_an_error() {
    let ledger_of = |metrics: f64| {
        let points = |value: f64| json!([null, value]);
        json!({"interval": 10.0, "step": 10.0, "from": TICK - 20.0, "to": TICK, "times": [TICK - 10.0, TICK], "completeness": [1.0, 1.0],
            "ledger": {"lines.read": points(20_000_004.0), "lines.metrics": points(metrics), "lines.malformed": points(3.0)}})
    };
    let mut app = answered();
    give(&mut app, Answered::Ledger(known(ledger_of(20_000_000.0))), NOW);
    let (equation, _) = app.data().equation();
    assert_eq!((equation.off(), equation.whole), (0, 20_000_003));
    give(&mut app, Answered::Ledger(known(ledger_of(19_999_000.0))), NOW);
    assert_eq!(app.data().equation().0.off(), 1001);
    // What does not agree in the exact sums is told.
    let mut off = status();
    off["lines"]["read"] = json!(off["lines"]["read"].as_u64().expect("a number") + 1);
    give(&mut app, Answered::Status { status: off, ahead: 0.0 }, NOW);
    give(&mut app, Answered::Ledger(known(ledger_of(20_000_000.0))), NOW);
    assert_eq!(app.data().equation().0.off(), 1);
}

#[test]
fn points_that_are_far_apart_are_not_joined() {
    let history = |step: f64| {
        json!({"interval": 10.0, "step": step, "from": TICK - 600.0, "to": TICK, "times": [TICK - 600.0, TICK - 540.0, TICK - 60.0, TICK],
            "completeness": [1.0, 1.0, 1.0, 1.0],
            "series": [{"name": "api.requests", "kind": "counter", "fields": {"rate": [5.0, 5.0, 5.0, 5.0]}}]})
    };
    let dots = |step: f64| {
        let mut app = answered();
        press(&mut app, "\n");
        screen(&mut app, 80, 24);
        give(&mut app, Answered::Chart(known(history(step))), NOW);
        screen(&mut app, 80, 24).chars().filter(|c| ('\u{2801}'..='\u{28ff}').contains(c)).count()
    };
    let (joined, apart) = (dots(480.0), dots(60.0));
    assert!(apart * 3 < joined && apart > 0, "{apart} of {joined}");
}
