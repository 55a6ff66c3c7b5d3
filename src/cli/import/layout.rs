//! A configuration written to be read: tables and keys in the order of `examples/systole.toml`, and above a table where it comes
//! from.

use std::fmt::Write;

use toml::{Table, Value};

use crate::config::{OrderedTable, order};
use crate::untrusted::Escaped;

use super::Import;

/// The text of a configuration.
pub(super) fn write(import: &Import) -> String {
    let order = order();
    let known = |head: &str| order.iter().any(|table| table.head == head);
    let is_section = |key: &str| known(&format!("[{key}]"));
    let mut out = String::new();
    let plain: Table = import.root.iter().filter(|(key, _)| !is_section(key)).map(owned).collect();
    keys(&mut out, &plain, &keys_of(&order, "", ""));
    let mut heads: Vec<&str> = Vec::new();
    for table in &order {
        if !heads.contains(&table.head.as_str()) {
            heads.push(&table.head);
        }
    }
    for head in heads {
        let key = head.trim_matches(['[', ']']);
        if let (Some(Value::Table(table)), true) = (import.root.get(key), is_section(key)) {
            let _ = writeln!(out, "\n{head}");
            keys(&mut out, table, &keys_of(&order, head, ""));
        }
        for entry in import.entries.iter().filter(|entry| head == format!("[[{}]]", entry.array)) {
            out.push('\n');
            if let Some(origin) = &entry.origin {
                // Text from the file must not end a comment.
                let _ = writeln!(out, "# {}", Escaped(origin));
            }
            let _ = writeln!(out, "{head}");
            let kind = entry.table.get("type").and_then(Value::as_str).unwrap_or("");
            keys(&mut out, &entry.table, &keys_of(&order, head, kind));
        }
    }
    out
}

fn owned((key, value): (&String, &Value)) -> (String, Value) {
    (key.clone(), value.clone())
}

/// The keys of a table, and those of its kind, in order.
fn keys_of<'o>(order: &'o [OrderedTable], head: &str, kind: &str) -> Vec<&'o str> {
    let is_this = |table: &&OrderedTable| table.head == head && (table.kind.is_empty() || table.kind == kind);
    order.iter().filter(is_this).flat_map(|table| table.keys.iter().map(String::as_str)).collect()
}

/// Writes what is in a table; what has no place in the order comes last.
fn keys(out: &mut String, table: &Table, order: &[&str]) {
    let is = |known: &str, key: &str| known == key || known.strip_prefix(key).is_some_and(|rest| rest.starts_with('.'));
    let place = |key: &str| order.iter().position(|known| is(known, key)).unwrap_or(usize::MAX);
    let mut all: Vec<(&String, &Value)> = table.iter().collect();
    all.sort_by_key(|(key, _)| place(key));
    for (key, value) in all {
        // Writing to memory cannot fail.
        let _ = writeln!(out, "{key} = {value}");
    }
}
