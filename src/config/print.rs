//! The effective configuration as TOML that reads back as the same configuration, secrets masked.

use std::fmt::Write;

use toml::Value;

use crate::http_client::masked;
use crate::settings::{Described, Opt, OptionVisitor, Tables};
use crate::untrusted::Escaped;

use super::schema::{Config, Profile};
use super::value::{show_duration, show_size};

/// What stands in place of a secret.
pub(super) const MASK: &str = "********";

/// The configuration as TOML.
pub fn print(config: &Config) -> String {
    let mut out = Out::default();
    config.clone().describe(&mut Printer { out: &mut out, path: String::new(), profile: config.profile });
    out.text
}

/// The configuration as lines `key: value` and `section > key: value`, deeper ones likewise.
pub fn flat(config: &Config) -> String {
    fn write_flat(out: &mut String, path: &str, value: &Value) {
        let inner = |key: &str| if path.is_empty() { key.to_string() } else { format!("{path} > {key}") };
        // Writing to memory cannot fail.
        let _ = match value {
            Value::Table(table) => return table.iter().for_each(|(key, value)| write_flat(out, &inner(key), value)),
            Value::Array(all) => {
                return all.iter().enumerate().for_each(|(n, value)| write_flat(out, &inner(&n.to_string()), value));
            }
            Value::String(text) => writeln!(out, "{path}: {}", Escaped(text)),
            other => writeln!(out, "{path}: {other}"),
        };
    }
    let mut out = String::new();
    // What is printed reads back.
    if let Ok(table) = print(config).parse() {
        write_flat(&mut out, "", &Value::Table(table));
    }
    out
}

/// A value as it is printed; `None` where there is none.
pub(super) fn shown(field: &Opt<'_>) -> Option<Value> {
    Some(match field {
        Opt::Maybe(is_there, inner) => return shown(inner).filter(|_| **is_there),
        Opt::TextOrNone(value) | Opt::HostPort(value) if value.is_empty() => return None,
        Opt::Text(value) | Opt::TextOrNone(value) | Opt::HostPort(value) => value.as_str().into(),
        Opt::Url(value) if value.is_empty() => return None,
        Opt::UrlOrEmpty(value) if value.is_empty() => "".into(),
        Opt::Url(value) | Opt::UrlOrEmpty(value) => masked(value).into(),
        Opt::Urls(value) => Value::Array(value.iter().map(|url| masked(url).into()).collect()),
        Opt::Secret(value) => return (!value.is_empty()).then(|| MASK.into()),
        Opt::Path(value) => return (!value.as_os_str().is_empty()).then(|| value.to_string_lossy().as_ref().into()),
        Opt::Address(value) => return value.map(|address| address.to_string().into()),
        Opt::AddressOrOff(value, _) => value.map_or("off".into(), |address| address.to_string()).into(),
        Opt::Flag(value) => (**value).into(),
        Opt::Whole(value, _) => (**value as i64).into(),
        Opt::Number(value, _) => number(**value),
        Opt::Duration(value, _) => show_duration(**value).into(),
        Opt::MaybeDuration(value, _) => return value.map(|value| show_duration(value).into()),
        Opt::Lifetime(value, _) => value.map_or("forever".into(), show_duration).into(),
        Opt::Size(value, _) => show_size(**value).into(),
        Opt::MaybeSize(value, _) => return value.map(|value| show_size(value).into()),
        Opt::Texts(value) => Value::Array(value.iter().map(|text| text.as_str().into()).collect()),
        Opt::Command(value) => {
            let all = value.iter().enumerate().map(|(n, text)| if n == 0 { text.as_str() } else { MASK });
            Value::Array(all.map(Into::into).collect())
        }
        Opt::Numbers(value, _) => Value::Array(value.iter().map(|&value| number(value)).collect()),
        Opt::Wholes(value, _) => Value::Array(value.iter().map(|&value| (value as i64).into()).collect()),
        Opt::Networks(value) => {
            let networks = value.as_ref()?.iter();
            Value::Array(networks.map(|network| network.to_string().into()).collect())
        }
        Opt::Map(value) => {
            Value::Table(value.iter().map(|(key, value)| (key.clone(), value.as_str().into())).collect())
        }
        Opt::NumbersByKey(value) => {
            Value::Table(value.iter().map(|(key, value)| (key.clone(), number(*value))).collect())
        }
        Opt::Secrets(value) => Value::Table(value.keys().map(|key| (key.clone(), MASK.into())).collect()),
        Opt::Choice(words, value) => return words.get(**value).map(|word| (*word).into()),
        Opt::Parsed(parsed) => return parsed.shown.clone(),
        Opt::List(list) => return list.items.show().map(Value::Array),
    })
}

/// Prints settings.
struct Printer<'p> {
    out: &'p mut Out,
    /// Of the table, as its head has it.
    path: String,
    profile: Profile,
}

/// The path of a table inside of another.
pub(super) fn inside(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_string() } else { format!("{path}.{key}") }
}

impl OptionVisitor for Printer<'_> {
    fn field(&mut self, key: &'static str, _: &'static str, field: Opt<'_>) {
        if let Some(value) = shown(&field) {
            self.out.set(key, value);
        }
    }

    fn in_table(&mut self, key: &'static str, inner: &mut dyn FnMut(&mut dyn OptionVisitor)) {
        let (path, profile) = (self.path.clone(), self.profile);
        self.out.inner(key, |out| inner(&mut Printer { out, path, profile }));
    }

    fn section(&mut self, key: &'static str, _: &'static str, inner: &mut dyn FnMut(&mut dyn OptionVisitor)) {
        let path = inside(&self.path, key);
        self.out.head(&format!("[{path}]"));
        inner(&mut Printer { out: self.out, path, profile: self.profile });
    }

    fn sections(&mut self, key: &'static str, _: &'static str, tables: &mut dyn Tables) {
        for number in 0..tables.count() {
            let path = inside(&self.path, key);
            self.out.head(&format!("[[{path}]]"));
            tables.describe(number, &mut Printer { out: self.out, path, profile: self.profile });
        }
    }

    fn require_one(&mut self, _: &'static str, _: bool, _: &str) {}

    fn require(&mut self, _: &'static str, _: Result<(), String>) {}

    fn profile(&self) -> &'static str {
        self.profile.name()
    }
}

/// A whole number without its point.
pub(super) fn number(value: f64) -> Value {
    if value == value.trunc() && value.abs() < 1e15 { Value::from(value as i64) } else { Value::from(value) }
}

/// TOML, line by line.
#[derive(Default)]
struct Out {
    text: String,
    /// What stands before keys: `table.` inside a table that is written with dots.
    prefix: String,
}

impl Out {
    fn head(&mut self, head: &str) {
        let _ = writeln!(self.text, "\n{head}");
    }

    fn set(&mut self, key: &str, value: impl Into<Value>) {
        let _ = writeln!(self.text, "{}{key} = {}", self.prefix, value.into());
    }

    /// Writes keys of a table inside this one.
    fn inner(&mut self, key: &str, write: impl FnOnce(&mut Out)) {
        let outer = self.prefix.clone();
        self.prefix = format!("{outer}{key}.");
        write(self);
        self.prefix = outer;
    }
}
