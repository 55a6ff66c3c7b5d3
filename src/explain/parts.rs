//! The parts of a line, for people: which bytes say what. It cuts where the separators stand, whether or not the line is
//! right.

use std::ops::Range;

use serde::Serialize;
use utoipa::ToSchema;

use crate::protocol::lossy;

/// A part of a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Part {
    /// Its first byte in the line.
    pub from: usize,
    /// The byte behind it.
    pub to: usize,
    /// Its text.
    pub text: String,
    /// What it says, in a word.
    pub name: &'static str,
}

/// The parts of a line, in order, without the separators between them.
pub(super) fn parts(line: &[u8]) -> Vec<Part> {
    let cut = |range: Range<usize>, name| Part {
        from: range.start,
        to: range.end,
        text: lossy(&line[range]).into_owned(),
        name,
    };
    let sections = sections(line);
    let mut all = Vec::new();
    let first = sections.first().cloned().unwrap_or(0..0);
    let is_event = line.starts_with(b"_e{");
    let is_check = line.starts_with(b"_sc|");
    // The header of an event has a `:` of its own, a check none; else the value begins behind the last `:` but for packed
    // ones, which all belong to the value.
    let colon = line[first.clone()].iter().position(|&b| b == b':').map(|at| first.start + at);
    match colon.filter(|_| !is_check) {
        Some(at) => {
            all.push(cut(first.start..at, if is_event { "header" } else { "name" }));
            all.push(cut(at + 1..first.end, if is_event { "title" } else { "value" }));
        }
        None => all.push(cut(first, if is_check { "header" } else { "name" })),
    }
    for (number, section) in sections.into_iter().enumerate().skip(1) {
        let name = name(&line[section.clone()], number, is_event, is_check);
        all.push(cut(section, name));
    }
    all.retain(|part| part.from < part.to);
    all
}

/// Where the sections of a line stand, which `|` separates.
fn sections(line: &[u8]) -> Vec<Range<usize>> {
    let mut start = 0;
    let mut all: Vec<Range<usize>> = Vec::new();
    for end in memchr::memchr_iter(b'|', line).chain([line.len()]) {
        all.push(start..end);
        start = end + 1;
    }
    all
}

fn name(section: &[u8], number: usize, is_event: bool, is_check: bool) -> &'static str {
    match (section, number) {
        (_, 1) if is_event => "text",
        (_, 1) if is_check => "name",
        (_, 2) if is_check => "status",
        (_, 1) => "type",
        ([b'@', ..], _) => "rate",
        ([b'#', ..], _) => "tags",
        ([b'T', ..], _) => "timestamp",
        ([b'd', b':', ..], _) => "time",
        ([b'h', b':', ..], _) => "host",
        ([b'm', b':', ..], _) => "message",
        ([b'p', b':', ..], _) if is_event => "priority",
        ([b't', b':', ..], _) if is_event => "alert type",
        ([b's', b':', ..], _) if is_event => "source",
        ([b'k', b':', ..], _) if is_event => "aggregation key",
        ([b'c', b':', ..], _) => "container",
        ([b'e', b':', ..], _) => "external data",
        (section, _) if section.starts_with(b"card:") => "cardinality",
        _ => "not known",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_where_its_separators_stand() {
        for (line, expected) in [
            (
                "a.b:1:2|ms|@0.5|#k:v|T17|c:x|e:y|zz",
                "name a.b, value 1:2, type ms, rate @0.5, tags #k:v, timestamp T17, container c:x, external data e:y, not known zz",
            ),
            ("a", "name a"),
            ("a:", "name a"),
            (":1|c", "value 1, type c"),
            ("_e{1,1}:t|x|d:1|k:a|#b", "header _e{1,1}, title t, text x, time d:1, aggregation key k:a, tags #b"),
            ("_sc|db|2|#a:b|m:no: way", "header _sc, name db, status 2, tags #a:b, message m:no: way"),
            ("", ""),
            ("||", ""),
        ] {
            let parts = parts(line.as_bytes());
            for part in &parts {
                assert_eq!(&line[part.from..part.to], part.text, "{line}");
            }
            let told: Vec<String> = parts.iter().map(|part| format!("{} {}", part.name, part.text)).collect();
            assert_eq!(told.join(", "), expected, "{line}");
        }
    }
}
