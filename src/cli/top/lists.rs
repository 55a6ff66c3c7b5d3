//! The lists of the seven views: their columns, and their rows filtered and sorted.

use std::cmp::Ordering;

use ratatui::style::Style;

use super::super::account::{self, Flow};
use super::super::figures::{Grade, bytes, clock, delay, grouped, percent, short, up_for};
use super::keys::{App, SeriesOrder, View};
use super::model::{Data, RawLine, SeriesRow, Service};
use super::screen::{self, NO_SAMPLE, PLAIN, spark};

/// Columns of a sparkline in a list.
const SPARK_COLUMNS: usize = 8;

/// A column of a list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    pub(super) title: &'static str,
    /// Columns of the terminal; 0 for what is left.
    pub(super) width: u16,
    pub(super) is_right: bool,
    /// Narrowest list that shows it.
    pub(super) from: u16,
    /// Whether `s` sorts by it.
    pub(super) sorts: bool,
}

const fn column(title: &'static str, width: u16, from: u16) -> Column {
    Column { title, width, is_right: false, from, sorts: false }
}

impl Column {
    const fn right(self) -> Column {
        Column { is_right: true, ..self }
    }

    const fn sorted(self) -> Column {
        Column { sorts: true, ..self }
    }
}

/// What stands in a row and a column.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) text: String,
    pub(super) style: Style,
    /// What it is sorted by, in place of the text.
    pub(super) number: Option<f64>,
}

fn entry(text: impl Into<String>) -> Entry {
    Entry { text: text.into(), style: PLAIN, number: None }
}

impl Entry {
    fn styled(self, style: Style) -> Entry {
        Entry { style, ..self }
    }
}

/// A number, by which is sorted, as a text; a dash where there is none.
fn figure(value: Option<f64>, text: impl Fn(f64) -> String) -> Entry {
    let number = Some(value.unwrap_or(-1.0));
    Entry { text: value.map_or("-".into(), text), style: if value.is_some() { PLAIN } else { screen::MUTED }, number }
}

/// A row.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// What it is about: stays while its place changes.
    pub(super) key: String,
    pub(super) entries: Vec<Entry>,
    /// A line that can be explained.
    pub(super) line: Option<String>,
}

/// A list.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    pub(super) columns: Vec<Column>,
    pub(super) rows: Vec<Row>,
    /// The column that it is sorted by, and whether downwards.
    pub(super) sorted: Option<(usize, bool)>,
    /// Rows that the daemon has beyond these.
    pub(super) more: u64,
    /// What they are part of, if that is to be said.
    pub(super) of: &'static str,
    /// What is said in place of rows, or beneath them.
    pub(super) word: String,
}

/// The list of the view.
pub(super) fn table(app: &App) -> Table {
    let data = app.data();
    let look = app.look();
    let mut table = match app.view {
        View::Series => series(data, app.order),
        View::Senders => senders(data),
        View::TagKeys => tag_keys(data),
        View::Presence => presence(data, app.utf8),
        View::Sinks => sinks(data, app.utf8),
        View::Losses => losses(data, app.utf8),
        View::Lines => lines(data),
    };
    if app.view != View::Series {
        let wanted = look.filter.trim().to_lowercase();
        if !wanted.is_empty() {
            let has = |row: &Row| row.entries.iter().any(|entry| entry.text.to_lowercase().contains(&wanted));
            table.rows.retain(has);
            if table.rows.is_empty() && table.word.is_empty() {
                table.word = format!("nothing here has `{}`", look.filter.trim());
            }
        }
        if let Some(column) = look.sort {
            table.rows.sort_by(|a, b| order(&a.entries[column], &b.entries[column]));
            table.sorted = Some((column, table.rows.first().is_some_and(|row| row.entries[column].number.is_some())));
        }
    }
    if look.is_reversed {
        table.rows.reverse();
        table.sorted = table.sorted.map(|(column, is_down)| (column, !is_down));
    }
    table
}

/// Numbers downwards, text upwards.
fn order(a: &Entry, b: &Entry) -> Ordering {
    match (a.number, b.number) {
        (Some(a), Some(b)) => b.total_cmp(&a),
        _ => a.text.cmp(&b.text),
    }
}

/// The letter of a kind.
fn letter(kind: &str) -> &'static str {
    match kind {
        "counter" => "C",
        "gauge" => "G",
        "timer" => "T",
        "histogram" => "H",
        "distribution" => "D",
        "set" => "S",
        "kv" => "K",
        _ => "?",
    }
}

/// The value of a series now.
pub(super) fn value(row: &SeriesRow) -> String {
    let Some(value) = row.value else { return "none".into() };
    match row.kind.as_str() {
        "counter" => format!("{}/s", short(value)),
        "timer" => format!("{} {} ms", row.field, short(value)),
        "histogram" | "distribution" => format!("{} {}", row.field, short(value)),
        _ => short(value),
    }
}

/// The sparkline of a series; that of a gauge begins at its least value, and says so.
pub(super) fn series_spark(row: &SeriesRow, columns: usize) -> String {
    if row.kind == "gauge" {
        return format!("~{}", spark(&row.spark, columns, true, NO_SAMPLE));
    }
    spark(&row.spark, columns, false, NO_SAMPLE)
}

fn series(data: &Data, order: SeriesOrder) -> Table {
    let columns = vec![
        column("K", 1, 0),
        column("NAME", 0, 0),
        column("LINES/S", 9, 0).right(),
        column("VALUE", 13, 90),
        column("5 MIN", 9, 90),
        column("SEEN", 8, 70).right(),
    ];
    let now = data.answered.map_or(0.0, |answered| answered + data.ahead);
    let row = |row: &SeriesRow| {
        let seen = match row.last_seen {
            _ if row.is_current => "now".to_string(),
            Some(seen) if now > seen => up_for_short(now - seen),
            Some(_) | None => "-".into(),
        };
        let style = if row.is_current { PLAIN } else { screen::MUTED };
        Row {
            key: row.id.clone(),
            line: Some(row.example()),
            entries: vec![
                entry(letter(&row.kind)).styled(screen::MUTED),
                entry(row.label()).styled(style),
                figure(row.rate, short),
                entry(value(row)).styled(style),
                entry(series_spark(row, SPARK_COLUMNS)).styled(screen::SPARK),
                entry(seen).styled(screen::MUTED),
            ],
        }
    };
    let mut table = Table { columns, ..Table::default() };
    table.sorted = Some(match order {
        SeriesOrder::Loudest => (2, true),
        SeriesOrder::Name => (1, false),
        SeriesOrder::Changed => (4, true),
        SeriesOrder::Newest => (5, true),
    });
    match data.series.known() {
        None => table.word = data.series.word("list of series"),
        Some(page) => {
            table.rows = page.series.iter().map(row).collect();
            table.more = page.matched.saturating_sub(page.series.len() as u64);
            table.of = " in history";
            if page.series.is_empty() {
                let near =
                    page.near.first().map(|near| format!("; nearest: {} ({})", near.text, grouped(near.matched)));
                table.word = match page.total {
                    0 => "nothing has arrived yet: try `systole send 'hello:1|c'`".into(),
                    total => format!("no series matches{}; {} searched", near.unwrap_or_default(), grouped(total)),
                };
            }
        }
    }
    table
}

/// How long ago, in one unit.
fn up_for_short(seconds: f64) -> String {
    let text = up_for(seconds);
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

fn senders(data: &Data) -> Table {
    let columns = vec![
        column("SENDER", 0, 0).sorted(),
        column("ALSO", 18, 70),
        column("LINES/S", 9, 0).right().sorted(),
        column("%", 7, 0).right(),
        column("BYTES/S", 10, 100).right().sorted(),
        column("BAD/S", 7, 0).right().sorted(),
        column("NEW/S", 7, 0).right().sorted(),
        column("5 MIN", 8, 90),
    ];
    let mut table = Table { columns, sorted: Some((2, true)), ..Table::default() };
    match data.senders.known() {
        None => table.word = data.senders.word("list of senders"),
        Some(page) => {
            table.more = page.seen.saturating_sub(page.senders.len() as u64);
            table.rows = page
                .senders
                .iter()
                .map(|sender| Row {
                    key: sender.id.clone(),
                    line: None,
                    entries: vec![
                        entry(sender.id.clone()),
                        entry(sender.also()).styled(screen::MUTED),
                        figure(sender.lines_per_sec, short),
                        figure(sender.share, percent),
                        figure(sender.bytes_per_sec, bytes),
                        figure(sender.malformed_per_sec, short),
                        figure(sender.new_series_per_sec, short),
                        entry(spark(&sender.spark, SPARK_COLUMNS, false, NO_SAMPLE)).styled(screen::SPARK),
                    ],
                })
                .collect();
            if page.senders.is_empty() {
                table.word = "nobody was seen yet".into();
            }
        }
    }
    table
}

fn tag_keys(data: &Data) -> Table {
    let columns = vec![
        column("TAG KEY", 0, 0).sorted(),
        column("VALUES", 10, 0).right().sorted(),
        column("NEW/S", 9, 0).right().sorted(),
        column("UNDER", 18, 70),
        column("SENDER", 16, 90),
    ];
    let mut table = Table { columns, sorted: Some((1, true)), ..Table::default() };
    match data.senders.known() {
        None => table.word = data.senders.word("list of tag keys"),
        Some(page) => {
            let text = |text: &Option<String>| entry(text.clone().unwrap_or_default()).styled(screen::MUTED);
            table.rows = page
                .tag_keys
                .iter()
                .map(|key| Row {
                    key: key.key.clone(),
                    line: None,
                    entries: vec![
                        entry(key.key.clone()),
                        figure(key.values, short),
                        figure(key.new_per_sec, short),
                        text(&key.under),
                        text(&key.sender),
                    ],
                })
                .collect();
            table.word = page.warnings.first().cloned().unwrap_or_default();
            if page.tag_keys.is_empty() && table.word.is_empty() {
                table.word = "no tags yet".into();
            }
        }
    }
    table
}

/// The sign of a service's state, with its style.
pub(super) fn service_sign(service: &Service, utf8: bool) -> (char, Style) {
    match service.state.as_str() {
        _ if service.is_maintained() => ('=', screen::MAINTENANCE),
        "up" if service.instances.iter().any(|one| one.state == "late") => ('~', screen::WARNING),
        "up" => (Grade::Fine.sign(utf8), screen::GOOD),
        "degraded" => (Grade::Warning.sign(utf8), screen::WARNING),
        "down" => (Grade::Bad.sign(utf8), screen::BAD),
        _ => ('?', screen::UNKNOWN),
    }
}

/// Services, those that are worth a look first.
pub(super) fn by_urgency(services: &[Service]) -> Vec<&Service> {
    let mut all: Vec<&Service> = services.iter().collect();
    all.sort_by(|a, b| (a.urgency(), &a.service).cmp(&(b.urgency(), &b.service)));
    all
}

fn presence(data: &Data, utf8: bool) -> Table {
    let columns = vec![
        column("", 1, 0),
        column("SERVICE", 0, 0).sorted(),
        column("STATE", 12, 0).sorted(),
        column("PRESENT", 9, 0).right(),
        column("INSTANCES", 16, 0),
        column("NEXT", 16, 76),
        column("SINCE", 9, 90),
    ];
    let mut table = Table { columns, ..Table::default() };
    match data.presence.known() {
        None => table.word = data.presence.word("presence, or it is off"),
        Some(services) => {
            let row = |service: &Service| {
                let (sign, style) = service_sign(service, utf8);
                let since = service.since.as_ref().and_then(|since| since.get(11..19)).unwrap_or("");
                let state = if service.is_maintained() { "maintenance" } else { &service.state };
                Row {
                    key: service.service.clone(),
                    line: None,
                    entries: vec![
                        entry(sign).styled(style),
                        entry(service.service.clone()),
                        entry(state).styled(style),
                        entry(format!("{} of {}", service.present, service.present + service.down)),
                        entry(service.tiles()),
                        entry(service.next()).styled(screen::MUTED),
                        entry(since).styled(screen::MUTED),
                    ],
                }
            };
            table.rows = by_urgency(services).into_iter().map(row).collect();
            if services.is_empty() {
                table.word = "nobody was heard yet: try `systole beat SERVICE/INSTANCE`".into();
            }
        }
    }
    table
}

/// The style of what a sink does.
pub(super) fn flow_style(flow: Flow) -> Style {
    match flow {
        Flow::Failing => screen::BAD,
        Flow::Behind => screen::WARNING,
        Flow::Delivering => screen::GOOD,
        Flow::Idle => screen::MUTED,
    }
}

fn sinks(data: &Data, utf8: bool) -> Table {
    let columns = vec![
        column("", 1, 0),
        column("SINK", 14, 0).sorted(),
        column("DELIVERED", 12, 90).right().sorted(),
        column("WAITING", 9, 0).right().sorted(),
        column("DROPPED", 9, 0).right().sorted(),
        column("TOOK", 8, 90).right().sorted(),
        column("LAST", 9, 90).sorted(),
        column("DOES", 0, 0),
    ];
    let mut all = account::sinks(data.status());
    all.sort_by_key(|sink| sink.flow);
    let count = |n: u64| Entry { number: Some(n as f64), ..entry(grouped(n)) };
    let rows: Vec<Row> = all
        .into_iter()
        .map(|sink| Row {
            line: None,
            entries: vec![
                entry(sink.flow.sign(utf8)).styled(flow_style(sink.flow)),
                entry(sink.name.clone()),
                count(sink.delivered),
                count(sink.waiting),
                count(sink.dropped).styled(if sink.dropped > 0 { screen::BAD } else { PLAIN }),
                figure(sink.took_secs, delay),
                figure(Some(sink.last_success).filter(|at| *at > 0.0), clock),
                entry(sink.text).styled(flow_style(sink.flow)),
            ],
            key: sink.name,
        })
        .collect();
    let word = match (rows.is_empty(), &data.status) {
        (true, None) => "asking…",
        (true, Some(_)) => "no sinks",
        (false, _) => "",
    };
    Table { columns, rows, word: word.into(), ..Table::default() }
}

fn losses(data: &Data, utf8: bool) -> Table {
    let columns = vec![
        column("WHAT", 31, 0).sorted(),
        column("WHERE, WHY", 0, 0).sorted(),
        column("NOW/S", 8, 0).right().sorted(),
        column("SINCE START", 11, 0).right().sorted(),
    ];
    let mut rows: Vec<Row> = Vec::new();
    for warning in account::warnings(data.status()) {
        // It has the whole row, and stays above all numbers.
        let none = || Entry { number: Some(f64::INFINITY), ..entry("") };
        let text = entry(format!("{} {warning}", Grade::Warning.sign(utf8))).styled(screen::WARNING);
        rows.push(Row { key: warning, line: None, entries: vec![text, entry(""), none(), none()] });
    }
    let mut lost: Vec<_> = data.losses.iter().filter(|loss| loss.total > 0).collect();
    // What is lost now before what was, and that in the order of the ledger.
    lost.sort_by_key(|loss| std::cmp::Reverse(loss.per_sec > 0.0));
    rows.extend(lost.into_iter().map(|loss| Row {
        key: format!("{} {}", loss.what, loss.place),
        line: None,
        entries: vec![
            entry(loss.what.clone()),
            entry(loss.place.clone()),
            figure(Some(loss.per_sec), short).styled(if loss.per_sec > 0.0 { screen::BAD } else { screen::MUTED }),
            Entry { number: Some(loss.total as f64), ..entry(grouped(loss.total)) },
        ],
    }));
    let examples = data.senders.known().map_or(&[][..], |page| &page.examples);
    rows.extend(examples.iter().map(|example| Row {
        key: example.line.clone(),
        line: Some(example.line.clone()),
        entries: vec![
            entry(format!("  {}", example.line)),
            entry(match &example.sender {
                Some(sender) => format!("{} from {sender}", example.reason),
                None => example.reason.clone(),
            })
            .styled(screen::MUTED),
            figure(example.per_sec, short),
            Entry { number: Some(-1.0), ..entry("") },
        ],
    }));
    let word = match (rows.is_empty(), &data.status) {
        (true, None) => "asking…",
        (true, Some(_)) => "nothing was lost, refused or left out since the start",
        (false, _) => "",
    };
    Table { columns, rows, word: word.into(), ..Table::default() }
}

fn lines(data: &Data) -> Table {
    let columns = vec![
        column("TIME", 8, 70),
        column("FROM", 18, 90),
        column("VERDICT", 14, 0).sorted(),
        column("LINE", 0, 0).sorted(),
    ];
    let mut table = Table { columns, ..Table::default() };
    match data.tail.known() {
        None => table.word = data.tail.word("tail of lines"),
        Some(lines) => {
            // The newest first.
            let numbered = lines.iter().rev().enumerate();
            table.rows = numbered.map(|(n, line)| raw_line(lines.len() - n, line)).collect();
            if lines.is_empty() {
                table.word = "no line has come since this view was opened".into();
            }
        }
    }
    table
}

fn raw_line(number: usize, line: &RawLine) -> Row {
    let (verdict, style) = match (&line.reason, line.verdict.as_str()) {
        _ if line.skipped > 0 => (format!("{} more", grouped(line.skipped)), screen::MUTED),
        (Some(reason), _) => (reason.clone(), screen::BAD),
        (None, "ok") => ("ok".into(), screen::GOOD),
        (None, other) => (other.to_string(), screen::BAD),
    };
    Row {
        key: format!("{} {number}", line.time),
        line: (line.skipped == 0).then(|| line.line.clone()),
        entries: vec![
            entry(if line.time > 0.0 { clock(line.time) } else { String::new() }).styled(screen::MUTED),
            entry(line.from.clone().unwrap_or_default()).styled(screen::MUTED),
            entry(verdict).styled(style),
            entry(line.line.clone()),
        ],
    }
}
