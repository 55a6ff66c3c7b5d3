//! Reading TOML so that every mistake is reported, all at once, each with file, line, column and key.
//!
//! A [`Section`] hands out values by key and remembers what was asked for; what is left over at
//! [`Section::finish`] is unknown, and the nearest known key is suggested. Scalars may come from flags and from the
//! environment (`SYSTOLE_SECTION__KEY`), and strings may hold `${VAR}`. What a URL says of one section in its query is
//! read as if it stood there, `tls.ca=/path` for a key of a table.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::{Range, RangeInclusive};
use std::str::FromStr;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::settings::suggestion;
use crate::sys::host_name;
use crate::untrusted::Escaped;

use super::environment::variable_of;
use super::value::{parse_duration, parse_size, show_duration, show_size};

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// `file:line:column`, the name of an environment variable, or an option.
    pub place: String,
    /// The key, as `section.key`; empty where the text is no TOML.
    pub key: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Names and values of the file and the environment do nothing to a terminal.
        let (place, message) = (Escaped(&self.place), Escaped(&self.message));
        if self.place.is_empty() {
            // Between settings that are in no file.
            return write!(f, "{}: {message}", Escaped(&self.key));
        }
        if self.key.is_empty() {
            return write!(f, "{place}: {message}");
        }
        write!(f, "{place}: {}: {message}", Escaped(&self.key))
    }
}

impl Problem {
    /// Line and column, for those that have them; the others come last.
    pub(super) fn position(&self) -> (usize, usize) {
        let mut parts = self.place.rsplit(':').map(|part| part.parse().ok());
        match (parts.next().flatten(), parts.next().flatten()) {
            (Some(column), Some(line)) => (line, column),
            _ => (usize::MAX, usize::MAX),
        }
    }
}

/// Where values come from, and the mistakes found so far.
pub(super) struct Source<'a> {
    pub(super) file: &'a str,
    pub(super) text: &'a str,
    pub(super) env: &'a BTreeMap<String, String>,
    pub(super) problems: Vec<Problem>,
    /// Whether files that settings name are read, too.
    pub(super) reads_files: bool,
    /// Settings that flags set: by key, the flag and the text.
    pub(super) flags: BTreeMap<&'static str, (&'static str, String)>,
    /// Keys of a URL's query, with their values.
    query: BTreeMap<String, String>,
    /// Those that were asked for.
    used_query: BTreeSet<String>,
    /// Every key that was asked for, without numbers of items, if somebody wants to know.
    pub(super) known: Option<BTreeSet<String>>,
    /// Where settings were found, by their paths.
    pub(super) places: BTreeMap<String, String>,
    /// Where each line begins.
    lines: Vec<usize>,
}

impl<'a> Source<'a> {
    pub(super) fn new(file: &'a str, text: &'a str, env: &'a BTreeMap<String, String>) -> Source<'a> {
        let lines = std::iter::once(0).chain(memchr::memchr_iter(b'\n', text.as_bytes()).map(|end| end + 1)).collect();
        Source {
            file,
            text,
            env,
            problems: Vec::new(),
            reads_files: false,
            flags: BTreeMap::new(),
            query: BTreeMap::new(),
            used_query: BTreeSet::new(),
            known: None,
            places: BTreeMap::new(),
            lines,
        }
    }

    /// A source of nothing but a URL's query; `option` is what the URL was said with.
    pub(super) fn of_query(
        option: &'a str,
        query: BTreeMap<String, String>,
        env: &'a BTreeMap<String, String>,
    ) -> Source<'a> {
        Source { query, ..Source::new(option, "", env) }
    }

    /// Keys of the query that nobody asked for.
    pub(super) fn unused_query(&self) -> impl Iterator<Item = &str> {
        self.query.keys().filter(|key| !self.used_query.contains(*key)).map(String::as_str)
    }

    pub(super) fn place(&self, span: Range<usize>) -> String {
        let at = span.start.min(self.text.len());
        let line = self.lines.partition_point(|&start| start <= at);
        let column = self.text[self.lines[line - 1]..at].chars().count() + 1;
        format!("{}:{line}:{column}", self.file)
    }

    pub(super) fn problem(&mut self, place: String, key: &str, message: impl Into<String>) {
        self.problems.push(Problem { place, key: key.to_string(), message: message.into() });
    }

    fn substitute(&mut self, text: &str, place: &str, key: &str) -> String {
        let mut out = String::new();
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            let Some(length) = rest[start..].find('}') else {
                break;
            };
            let (name, otherwise) = match rest[start + 2..start + length].split_once(":-") {
                // As in a shell: also in place of an empty value.
                Some((name, otherwise)) => (name, Some(otherwise)),
                None => (&rest[start + 2..start + length], None),
            };
            out.push_str(&rest[..start]);
            if !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit()) {
                // What a star of a rule stands for; no variable is called so.
                out.push_str(&rest[start..=start + length]);
                rest = &rest[start + length + 1..];
                continue;
            }
            // Shells know `HOSTNAME` but seldom export it.
            let value =
                self.env.get(name).cloned().or_else(|| (name == "HOSTNAME").then(|| host_name().ok()).flatten());
            match (value, otherwise) {
                (Some(value), None) => out.push_str(&value),
                (Some(value), Some(_)) if !value.is_empty() => out.push_str(&value),
                (_, Some(otherwise)) => out.push_str(otherwise),
                (None, None) => {
                    let problem =
                        format!("environment variable `{name}` is not set; `${{{name}:-x}}` is `x` without it");
                    self.problem(place.to_string(), key, problem);
                }
            }
            rest = &rest[start + length + 1..];
        }
        out.push_str(rest);
        out
    }
}

/// A value and where it stands.
pub(super) struct Found<'a> {
    pub(super) place: String,
    pub(super) key: String,
    value: Raw<'a>,
}

enum Raw<'a> {
    Toml(&'a DeValue<'a>),
    Env(String),
}

impl Found<'_> {
    fn describe(&self) -> String {
        match &self.value {
            Raw::Env(text) => format!("`{text}`"),
            Raw::Toml(DeValue::String(text)) => format!("`{text}`"),
            Raw::Toml(DeValue::Integer(number)) => format!("`{}`", number.as_str()),
            Raw::Toml(DeValue::Float(number)) => format!("`{}`", number.as_str()),
            Raw::Toml(DeValue::Boolean(flag)) => format!("`{flag}`"),
            Raw::Toml(DeValue::Datetime(_)) => "a date".into(),
            Raw::Toml(DeValue::Array(_)) => "an array".into(),
            Raw::Toml(DeValue::Table(_)) => "a table".into(),
        }
    }

    /// Reports that the value is not what is `expected`.
    pub(super) fn refuse(&self, source: &mut Source<'_>, expected: &str) {
        source.problem(self.place.clone(), &self.key, format!("{} is not {expected}", self.describe()));
    }

    pub(super) fn string(&self, source: &mut Source<'_>) -> Option<String> {
        match &self.value {
            Raw::Env(text) => Some(text.clone()),
            Raw::Toml(DeValue::String(text)) => Some(source.substitute(text, &self.place, &self.key)),
            Raw::Toml(_) => {
                self.refuse(source, "a string");
                None
            }
        }
    }

    /// A string or a decimal number, as text.
    pub(super) fn text_or_number(&self) -> Option<String> {
        match &self.value {
            Raw::Toml(DeValue::String(text)) => Some(text.to_string()),
            Raw::Toml(_) | Raw::Env(_) => self.number_text(),
        }
    }

    fn number_text(&self) -> Option<String> {
        match &self.value {
            Raw::Env(text) => Some(text.clone()),
            Raw::Toml(DeValue::Integer(number)) if number.radix() == 10 => Some(number.as_str().replace('_', "")),
            Raw::Toml(DeValue::Float(number)) => Some(number.as_str().replace('_', "")),
            Raw::Toml(_) => None,
        }
    }
}

/// A table of the configuration, being read.
pub(super) struct Section<'a> {
    path: String,
    table: Option<&'a DeTable<'a>>,
    /// Whether the environment can set keys here: not in arrays of tables.
    from_env: bool,
    known: Vec<&'static str>,
    /// Which keys are right cannot be known.
    is_given_up: bool,
}

impl<'a> Section<'a> {
    pub(super) fn root(table: Option<&'a DeTable<'a>>) -> Section<'a> {
        Section { path: String::new(), table, from_env: true, known: Vec::new(), is_given_up: false }
    }

    /// A table with nothing in it that the environment cannot fill.
    pub(super) fn empty() -> Section<'a> {
        Section { path: String::new(), table: None, from_env: false, known: Vec::new(), is_given_up: false }
    }

    /// Leaves unread keys alone.
    pub(super) fn give_up(&mut self) {
        self.is_given_up = true;
    }

    /// The table's path without the numbers of items at its end: `rule` for `rule[0]`.
    pub(super) fn kind(&self) -> &str {
        self.path.rsplit_once('[').map_or(&self.path, |(kind, _)| kind)
    }

    pub(super) fn full(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_string() } else { format!("{}.{key}", self.path) }
    }

    /// The value of a key, from the environment or the file.
    pub(super) fn find(&mut self, source: &mut Source<'_>, key: &'static str) -> Option<Found<'a>> {
        let found = self.look_for(source, key)?;
        source.places.insert(self.full(key), found.place.clone());
        Some(found)
    }

    fn look_for(&mut self, source: &mut Source<'_>, key: &'static str) -> Option<Found<'a>> {
        self.known.push(key);
        if !source.query.is_empty() {
            let full = self.full(key);
            if let Some(text) = source.query.get(&full).cloned() {
                source.used_query.insert(full.clone());
                return Some(Found { place: source.file.to_string(), key: full, value: Raw::Env(text) });
            }
        }
        if !self.from_env && self.table.is_none_or(|table| !table.contains_key(key)) {
            return None;
        }
        let full = self.full(key);
        if self.from_env {
            if let Some((flag, text)) = source.flags.get(full.as_str()).cloned() {
                return Some(Found { place: flag.to_string(), key: String::new(), value: Raw::Env(text) });
            }
            let variable = variable_of(&full);
            if let Some(text) = source.env.get(&variable).cloned() {
                return Some(Found { place: variable, key: full, value: Raw::Env(text) });
            }
        }
        let value = self.table?.get(key)?;
        Some(Found { place: source.place(value.span()), key: full, value: Raw::Toml(value.get_ref()) })
    }

    /// Whether something is said of a table.
    pub(super) fn has_table(&mut self, source: &mut Source<'_>, key: &'static str) -> bool {
        let start = format!("{}.", self.full(key));
        source.query.keys().any(|known| known.starts_with(&start)) || self.find(source, key).is_some()
    }

    pub(super) fn string(&mut self, source: &mut Source<'_>, key: &'static str) -> Option<String> {
        self.find(source, key)?.string(source)
    }

    /// A secret: from the file `file:/path` names, if it begins so.
    pub(super) fn secret(&mut self, source: &mut Source<'_>, key: &'static str) -> Option<String> {
        let found = self.find(source, key)?;
        let text = found.string(source)?;
        let Some(path) = text.strip_prefix("file:") else {
            return Some(text);
        };
        let problem = match crate::sys::read_text(path.as_ref()) {
            // Without it what it protects would be open to everybody.
            Ok(secret) if secret.trim().is_empty() => {
                format!("`{path}` is empty; write the secret there, or leave the key out")
            }
            Ok(secret) => return Some(secret.trim_end_matches(['\r', '\n']).to_string()),
            Err(error) => format!("cannot read `{path}`: {error}"),
        };
        source.problem(found.place.clone(), &found.key, problem);
        None
    }

    pub(super) fn bool(&mut self, source: &mut Source<'_>, key: &'static str) -> Option<bool> {
        let found = self.find(source, key)?;
        let flag = match &found.value {
            Raw::Toml(DeValue::Boolean(flag)) => Some(*flag),
            Raw::Env(text) => text.parse().ok(),
            Raw::Toml(_) => None,
        };
        if flag.is_none() {
            found.refuse(source, "true or false");
        }
        flag
    }

    /// One of some words. A wrong one is reported with the nearest.
    pub(super) fn choice<T: Copy>(
        &mut self,
        source: &mut Source<'_>,
        key: &'static str,
        words: &[(&str, T)],
    ) -> Option<T> {
        let found = self.find(source, key)?;
        let word = found.string(source)?;
        let chosen = words.iter().find(|(known, _)| *known == word).map(|(_, value)| *value);
        if chosen.is_none() {
            let all = words.iter().map(|(known, _)| format!("`{known}`")).collect::<Vec<_>>().join(", ");
            let other = OTHER_WORDS.iter().find(|(other, _)| *other == word);
            let other = other.filter(|(_, right)| words.iter().any(|(known, _)| known == right));
            let hint = match other {
                Some((_, right)) => format!(" (did you mean `{right}`?)"),
                None => suggestion(&word, words.iter().map(|(known, _)| *known)),
            };
            source.problem(found.place, &found.key, format!("`{word}` is none of {all}{hint}"));
        }
        chosen
    }

    pub(super) fn integer(
        &mut self,
        source: &mut Source<'_>,
        key: &'static str,
        range: RangeInclusive<u64>,
    ) -> Option<u64> {
        let found = self.find(source, key)?;
        let number = found.number_text().and_then(|text| text.parse().ok()).filter(|n| range.contains(n));
        if number.is_none() {
            let what =
                if key == "interval" { "a number of intervals, such as 12: a whole number" } else { "a whole number" };
            found.refuse(source, &format!("{what} from {} to {}", range.start(), range.end()));
        }
        number
    }

    pub(super) fn number(
        &mut self,
        source: &mut Source<'_>,
        key: &'static str,
        range: RangeInclusive<f64>,
    ) -> Option<f64> {
        let found = self.find(source, key)?;
        let number = found.number_text().and_then(|text| text.parse().ok()).filter(|n| range.contains(n));
        if number.is_none() {
            found.refuse(source, &format!("a number from {} to {}", range.start(), range.end()));
        }
        number
    }

    pub(super) fn duration(
        &mut self,
        source: &mut Source<'_>,
        key: &'static str,
        range: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let found = self.find(source, key)?;
        duration_of(&found, source, &range)
    }

    /// A duration, or `"forever"` as `None`.
    pub(super) fn lifetime(
        &mut self,
        source: &mut Source<'_>,
        key: &'static str,
        range: RangeInclusive<Duration>,
    ) -> Option<Option<Duration>> {
        let found = self.find(source, key)?;
        if matches!(&found.value, Raw::Toml(DeValue::String(text)) if *text == "forever")
            || matches!(&found.value, Raw::Env(text) if text == "forever")
        {
            return Some(None);
        }
        duration_or(&found, source, &range, ", or \"forever\"").map(Some)
    }

    pub(super) fn size(
        &mut self,
        source: &mut Source<'_>,
        key: &'static str,
        range: RangeInclusive<u64>,
    ) -> Option<u64> {
        let found = self.find(source, key)?;
        let size = match &found.value {
            Raw::Toml(DeValue::String(text)) => parse_size(text),
            Raw::Env(text) => parse_size(text),
            Raw::Toml(DeValue::Integer(number)) => number.as_str().replace('_', "").parse().ok(),
            Raw::Toml(_) => None,
        };
        let size = size.filter(|size| range.contains(size));
        if size.is_none() {
            let expected = format!(
                "a size such as \"64KiB\", from {} to {}",
                size_for_people(*range.start()),
                size_for_people(*range.end())
            );
            found.refuse(source, &expected);
        }
        size
    }

    /// Items of an array, each with its place.
    pub(super) fn list(&mut self, source: &mut Source<'_>, key: &'static str) -> Option<Vec<Found<'a>>> {
        let found = self.find(source, key)?;
        match &found.value {
            Raw::Toml(DeValue::Array(items)) => Some(
                items
                    .iter()
                    .enumerate()
                    .map(|(n, item)| Found {
                        place: source.place(item.span()),
                        key: format!("{}[{n}]", found.key),
                        value: Raw::Toml(item.get_ref()),
                    })
                    .collect(),
            ),
            Raw::Env(text) => Some(
                text.split(',')
                    .map(|item| Found {
                        place: found.place.clone(),
                        key: found.key.clone(),
                        value: Raw::Env(item.trim().to_string()),
                    })
                    .collect(),
            ),
            Raw::Toml(_) => {
                found.refuse(source, "an array");
                None
            }
        }
    }

    /// A value, or the items of an array.
    pub(super) fn one_or_more(&mut self, source: &mut Source<'_>, key: &'static str) -> Vec<Found<'a>> {
        match self.find(source, key) {
            Some(found) if matches!(found.value, Raw::Toml(DeValue::Array(_))) => {
                self.list(source, key).unwrap_or_default()
            }
            one => one.into_iter().collect(),
        }
    }

    pub(super) fn strings(&mut self, source: &mut Source<'_>, key: &'static str) -> Option<Vec<String>> {
        Some(self.list(source, key)?.iter().filter_map(|item| item.string(source)).collect())
    }

    pub(super) fn numbers(
        &mut self,
        source: &mut Source<'_>,
        key: &'static str,
        range: RangeInclusive<f64>,
    ) -> Option<Vec<f64>> {
        self.numbers_in(source, key, "a number", &range)
    }

    pub(super) fn integers(
        &mut self,
        source: &mut Source<'_>,
        key: &'static str,
        range: RangeInclusive<u64>,
    ) -> Option<Vec<u64>> {
        self.numbers_in(source, key, "a whole number", &range)
    }

    fn numbers_in<T: FromStr + PartialOrd + fmt::Display>(
        &mut self,
        source: &mut Source<'_>,
        key: &'static str,
        what: &str,
        range: &RangeInclusive<T>,
    ) -> Option<Vec<T>> {
        let items = self.list(source, key)?;
        let numbers = items.iter().filter_map(|item| {
            let number = item.number_text().and_then(|text| text.parse().ok()).filter(|n| range.contains(n));
            if number.is_none() {
                item.refuse(source, &format!("{what} from {} to {}", range.start(), range.end()));
            }
            number
        });
        Some(numbers.collect())
    }

    /// Keys and strings of a table.
    pub(super) fn map(&mut self, source: &mut Source<'_>, key: &'static str) -> Option<BTreeMap<String, String>> {
        let start = format!("{}.", self.full(key));
        let said =
            source.query.iter().filter_map(|(known, value)| Some((known.strip_prefix(&start)?.into(), value.clone())));
        let said: BTreeMap<String, String> = said.collect();
        if !said.is_empty() {
            self.known.push(key);
            source.used_query.extend(said.keys().map(|key| format!("{start}{key}")));
            return Some(said);
        }
        let items = self.items_by_key(source, key, "strings")?;
        Some(items.into_iter().filter_map(|(key, item)| Some((key, item.string(source)?))).collect())
    }

    /// Keys and values of a table of `what`.
    fn items_by_key(
        &mut self,
        source: &mut Source<'_>,
        key: &'static str,
        what: &str,
    ) -> Option<Vec<(String, Found<'a>)>> {
        let found = self.find(source, key)?;
        let Raw::Toml(DeValue::Table(table)) = &found.value else {
            found.refuse(source, &format!("a table of {what}"));
            return None;
        };
        let items = table.iter().map(|(key, value)| {
            let place = source.place(value.span());
            let item =
                Found { place, key: format!("{}.{}", found.key, key.get_ref()), value: Raw::Toml(value.get_ref()) };
            (key.get_ref().to_string(), item)
        });
        Some(items.collect())
    }

    /// Keys and numbers of a table.
    pub(super) fn numbers_by_key(
        &mut self,
        source: &mut Source<'_>,
        key: &'static str,
    ) -> Option<BTreeMap<String, f64>> {
        let mut map = BTreeMap::new();
        for (key, item) in self.items_by_key(source, key, "numbers")? {
            match item.number_text().and_then(|text| text.parse().ok()).filter(|number: &f64| number.is_finite()) {
                Some(number) => drop(map.insert(key, number)),
                None => item.refuse(source, "a number"),
            }
        }
        Some(map)
    }

    /// A table inside this one; an absent one reads as empty.
    pub(super) fn section(&mut self, source: &mut Source<'_>, key: &'static str) -> Section<'a> {
        self.known.push(key);
        let path = self.full(key);
        let table = self.table.and_then(|table| table.get(key)).and_then(|value| {
            let table = value.get_ref().as_table();
            if table.is_none() {
                let kind = without_numbers(&path);
                let problem = format!("it is no table; `{key} = {{ … }}`, or a head `[{kind}]` of its own, is right");
                source.problem(source.place(value.span()), &path, problem);
            }
            table
        });
        Section { path, table, from_env: self.from_env, known: Vec::new(), is_given_up: false }
    }

    /// Where the value of a key stands in the file, if it does.
    pub(super) fn place_of(&self, source: &Source<'_>, key: &str) -> Option<String> {
        self.table.and_then(|table| table.get(key)).map(|value| source.place(value.span()))
    }

    /// Tables of an array, each with its place.
    pub(super) fn sections(&mut self, source: &mut Source<'_>, key: &'static str) -> Vec<(Section<'a>, String)> {
        self.known.push(key);
        let path = self.full(key);
        let Some(value) = self.table.and_then(|table| table.get(key)) else {
            return Vec::new();
        };
        self.tables(source, &path, value)
    }

    fn tables(
        &self,
        source: &mut Source<'_>,
        path: &str,
        value: &'a Spanned<DeValue<'a>>,
    ) -> Vec<(Section<'a>, String)> {
        let Some(items) = value.get_ref().as_array() else {
            source.problem(source.place(value.span()), path, format!("expected tables `[[{path}]]`"));
            return Vec::new();
        };
        let mut sections = Vec::new();
        for (n, item) in items.iter().enumerate() {
            let place = source.place(item.span());
            let path = format!("{path}[{n}]");
            source.places.insert(path.clone(), place.clone());
            match item.get_ref().as_table() {
                Some(table) => {
                    let section =
                        Section { path, table: Some(table), from_env: false, known: Vec::new(), is_given_up: false };
                    sections.push((section, place));
                }
                None => source.problem(place, &path, "expected a table"),
            }
        }
        sections
    }

    /// Reports that a key is missing.
    pub(super) fn missing(&self, source: &mut Source<'_>, place: &str, key: &str, example: &str) {
        source.problem(place.to_string(), &self.full(key), format!("missing; for example `{key} = {example}`"));
    }

    /// Reports keys that nobody asked for.
    pub(super) fn finish(self, source: &mut Source<'_>) {
        if let Some(known) = &mut source.known {
            known.extend(self.known.iter().map(|key| without_numbers(&self.full(key))));
        }
        let Some(table) = self.table.filter(|_| !self.is_given_up) else { return };
        for key in table.keys() {
            let name = key.get_ref();
            if self.known.iter().any(|known| known == name) {
                continue;
            }
            let place = source.place(key.span());
            let full = self.full(name);
            let other_name = OTHER_NAMES.iter().find(|(other, known)| name == other && self.known.contains(known));
            let hint = match other_name {
                Some((_, known)) => format!(" (did you mean `{known}`?)"),
                None => suggestion(name, self.known.iter().copied()),
            };
            source.problem(place, &full, format!("unknown key{hint}"));
        }
    }
}

/// What others call a profile or a dialect.
const OTHER_WORDS: [(&str, &str); 5] =
    [("statsd", "etsy"), ("original", "etsy"), ("graphite", "etsy"), ("datadog", "dogstatsd"), ("dog", "dogstatsd")];

/// What others call a key, and what a sink calls the key of a port.
const OTHER_NAMES: [(&str, &str); 11] = [
    ("certificate", "cert"),
    ("cert", "certificate"),
    ("ca", "client_ca"),
    ("client_ca", "ca"),
    // Of other programs that notify and watch.
    ("webhook_url", "url"),
    ("webhook_url", "webhook"),
    ("service_key", "routing_key"),
    ("integration_key", "routing_key"),
    ("mute", "notify"),
    ("cron", "schedule"),
    ("interval", "every"),
];

/// A key without the numbers of items: `rule.match` for `rule[0].match`.
fn without_numbers(key: &str) -> String {
    key.split('[').map(|part| part.split_once(']').map_or(part, |(_, rest)| rest)).collect()
}

/// A size with its unit.
fn size_for_people(bytes: u64) -> String {
    let shown = show_size(bytes);
    if shown.ends_with('B') { shown } else { format!("{shown} bytes") }
}

/// A duration; whole days stay days.
fn duration_for_people(duration: Duration) -> String {
    const DAY: u64 = 86_400;
    match duration.as_secs() {
        secs if secs > DAY && secs.is_multiple_of(DAY) && duration.subsec_nanos() == 0 => format!("{}days", secs / DAY),
        _ => show_duration(duration),
    }
}

fn duration_of(found: &Found<'_>, source: &mut Source<'_>, range: &RangeInclusive<Duration>) -> Option<Duration> {
    duration_or(found, source, range, "")
}

/// The same; `or` is what else would be right.
fn duration_or(
    found: &Found<'_>,
    source: &mut Source<'_>,
    range: &RangeInclusive<Duration>,
    or: &str,
) -> Option<Duration> {
    let duration = match &found.value {
        Raw::Env(text) => parse_duration(text),
        Raw::Toml(DeValue::String(text)) => parse_duration(text),
        Raw::Toml(_) => None,
    };
    let duration = duration.filter(|duration| range.contains(duration));
    if duration.is_none() {
        let (low, high) = (duration_for_people(*range.start()), duration_for_people(*range.end()));
        found.refuse(source, &format!("a duration such as \"10s\", from {low} to {high}{or}"));
    }
    duration
}
