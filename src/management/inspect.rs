//! Formats objects like Node's `util.inspect`, because the original does: on one line what fits into 72 columns,
//! otherwise one line per entry; lists of more than six numbers in columns; after 100 items `... n more items`.
//!
//! The rules are those of Node 18 and 20 (`lib/internal/util/inspect.js`), for objects of numbers and lists of numbers.

use std::fmt::Write;

use crate::flush::OpenValue;

/// Width of a line in columns.
const BREAK: usize = 80;
/// Columns of a line beyond its entries and their separators.
const SPARE: usize = 10;
/// Lists of more items than this are written in columns.
const UNGROUPED: usize = 6;
/// Most columns of a list, and of a list of long items.
const MAX_COLUMNS: usize = 15;
/// `compact` times four.
const COMPACT_COLUMNS: usize = 12;
/// Formats names with their values; `more` names are left out.
pub(super) fn object(entries: &[(String, OpenValue)], more: u64) -> String {
    let mut ordered: Vec<&(String, OpenValue)> = entries.iter().collect();
    // Names that look like array indices come first, in numeric order; all others in insertion order.
    ordered.sort_by_key(|(name, _)| index(name).map_or((1, 0), |n| (0, n)));
    let mut items: Vec<String> = ordered
        .iter()
        .map(|(name, shown)| {
            let shown = match shown {
                OpenValue::Number(value) => number(*value),
                OpenValue::List(values, all) => list(values, *all),
            };
            format!("{}: {shown}", key(name))
        })
        .collect();
    if more > 0 {
        items.push(rest(more));
    }
    lay_out(&items, items.len(), 0, '{', '}')
}

pub(super) fn rest(more: u64) -> String {
    format!("... {more} more item{}", if more == 1 { "" } else { "s" })
}

fn list(values: &[f64], all: u64) -> String {
    let mut items: Vec<String> = values.iter().map(|&value| number(value)).collect();
    let more = all - values.len() as u64;
    if more > 0 {
        items.push(rest(more));
    }
    let entries = items.len();
    // Two columns for the nesting inside an object.
    let indentation = 2;
    if entries > UNGROUPED {
        items = in_columns(items, more > 0, indentation);
    }
    lay_out(&items, entries, indentation, '[', ']')
}

/// `items` between brackets; if they were grouped into columns there are fewer than `entries`.
fn lay_out(items: &[String], entries: usize, indentation: usize, open: char, close: char) -> String {
    if items.is_empty() {
        return format!("{open}{close}");
    }
    let used: usize = items.iter().map(|item| item.chars().count()).sum();
    let start = items.len() + indentation + 1 + SPARE;
    if entries == items.len() && used + items.len() + start <= BREAK && !items.iter().any(|item| item.contains('\n')) {
        return format!("{open} {} {close}", items.join(", "));
    }
    let line = format!("\n{}", " ".repeat(indentation));
    let mut out = String::with_capacity(items.iter().map(|item| item.len() + line.len() + 3).sum::<usize>() + 16);
    out.push(open);
    for (n, item) in items.iter().enumerate() {
        let separator = if n > 0 { "," } else { "" };
        [separator, &line, "  ", item].into_iter().for_each(|part| out.push_str(part));
    }
    out.push_str(&line);
    out.push(close);
    out
}

/// Groups items into lines of columns, approximately square; `... n more items` stays alone.
fn in_columns(items: Vec<String>, has_rest: bool, indentation: usize) -> Vec<String> {
    const SEPARATOR: usize = 2;
    let shown = items.len() - usize::from(has_rest);
    let lengths: Vec<usize> = items[..shown].iter().map(|item| item.len()).collect();
    let total: usize = lengths.iter().map(|length| length + SEPARATOR).sum();
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let widest = longest + SEPARATOR;
    let is_even = total as f64 / widest as f64 > 5.0 || longest <= UNGROUPED;
    if widest * 3 + indentation >= BREAK || !is_even {
        return items;
    }
    let bias = (widest as f64 - total as f64 / items.len() as f64).sqrt();
    let biased = f64::max(widest as f64 - 3.0 - bias, 1.0);
    // A character is about two and a half times as high as wide.
    let square = (((2.5 * biased * shown as f64).sqrt() / biased) + 0.5).floor() as usize;
    let columns = square.min((BREAK - indentation) / widest).min(COMPACT_COLUMNS).min(MAX_COLUMNS);
    if columns <= 1 {
        return items;
    }
    let width = |column: usize| lengths.iter().skip(column).step_by(columns).copied().max().unwrap_or(0) + SEPARATOR;
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut lines: Vec<String> = Vec::new();
    for row in items[..shown].chunks(columns) {
        let mut line = String::new();
        for (n, item) in row.iter().enumerate() {
            let width = widths[n];
            // Numbers are aligned to the right.
            let _ = if n + 1 < row.len() {
                write!(line, "{:>width$}", format!("{item}, "))
            } else {
                write!(line, "{item:>0$}", width - SEPARATOR)
            };
        }
        lines.push(line);
    }
    lines.extend(items.into_iter().skip(shown));
    lines
}

/// A name as a number, if it could be the index of an array.
fn index(name: &str) -> Option<u32> {
    let number: u32 = name.parse().ok()?;
    (number < u32::MAX && number.to_string() == name).then_some(number)
}

/// A name as a key: bare if it is an identifier, otherwise quoted, with active characters escaped.
fn key(name: &str) -> String {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && name.chars().all(is_word) {
        return name.to_string();
    }
    let quote = ['\'', '"', '`'].into_iter().find(|quote| !name.contains(*quote)).unwrap_or('\'');
    let mut out = String::from(quote);
    for c in name.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\u{b}' => out.push_str("\\v"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => out.extend(['\\', c]),
            c if c.is_ascii_control() || ('\u{80}'..'\u{a0}').contains(&c) => {
                // Writing to memory cannot fail.
                let _ = write!(out, "\\x{:02X}", u32::from(c));
            }
            c if crate::untrusted::is_active(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

/// A number as JavaScript prints it (ECMA-262, Number::toString).
pub(super) fn number(value: f64) -> String {
    if value == 0.0 {
        return if value.is_sign_negative() { "-0".into() } else { "0".into() };
    }
    // The shortest digits that read back as the same double.
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-6..21).contains(&exponent) {
        return format!("{value}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{}", exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flush::MAX_ITEMS;

    fn numbers(values: &[f64]) -> OpenValue {
        OpenValue::List(values.iter().take(MAX_ITEMS).copied().collect(), values.len() as u64)
    }

    fn shown(entries: &[(&str, OpenValue)]) -> String {
        object(&entries.iter().map(|(name, shown)| (name.to_string(), shown.clone())).collect::<Vec<_>>(), 0)
    }

    // What Node 20 prints for the same objects; a differential test has many more (tests/oracle/management.py).
    #[test]
    fn objects_look_as_node_prints_them() {
        assert_eq!(shown(&[]), "{}");
        assert_eq!(shown(&[("t", numbers(&[5.0]))]), "{ t: [ 5 ] }");
        assert_eq!(shown(&[("t", numbers(&[]))]), "{ t: [] }");
        assert_eq!(
            shown(&[("b.c", OpenValue::Number(1.0)), ("7", OpenValue::Number(-2.5)), ("it's", OpenValue::Number(0.0))]),
            "{ '7': -2.5, 'b.c': 1, \"it's\": 0 }"
        );
        let long: Vec<(&str, OpenValue)> =
            ["statsd.bad_lines_seen", "statsd.packets_received", "statsd.metrics_received"]
                .map(|name| (name, OpenValue::Number(0.0)))
                .to_vec();
        assert_eq!(
            shown(&long),
            "{\n  'statsd.bad_lines_seen': 0,\n  'statsd.packets_received': 0,\n  'statsd.metrics_received': 0\n}"
        );
        let seven: Vec<f64> = (1..=7).map(f64::from).collect();
        assert_eq!(shown(&[("t", numbers(&seven))]), "{\n  t: [\n    1, 2, 3, 4,\n    5, 6, 7\n  ]\n}");
    }

    #[test]
    fn numbers_look_as_javascript_prints_them() {
        for (value, text) in [
            (1e21, "1e+21"),
            (123_456_789_012_345_680_000.0, "123456789012345680000"),
            (1e-7, "1e-7"),
            (1.5e-6, "0.0000015"),
            (0.1, "0.1"),
            (-3.0, "-3"),
            (1.25e300, "1.25e+300"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}
