//! Every setting that is in force, with its default and where it is set, for the page.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::http::{Effective, Origin, Setting};
use crate::settings::{Described, Opt, OptionVisitor, Tables};
use crate::sinks::SinkKind;

use super::print::{MASK, inside, shown};
use super::schema::{Config, Listen, Profile, Sink};

/// What stands in place of a secret.
const SECRET: &str = "***";

/// Where settings were found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins {
    /// The file, if there is one.
    pub file: Option<String>,
    /// By path, such as `http.address` or `rule[0]`: `file:line:column`, a flag, or a variable of the environment.
    pub(super) places: BTreeMap<String, String>,
}

impl Origins {
    /// What a setting comes from, and the line if that is the file. `is_usual` says that it is what its table begins with.
    fn of(&self, path: &str, is_usual: bool) -> (Origin, Option<usize>) {
        // Tables that a flag or a variable makes have their place for all that it says of them.
        let (whole, key) = path.split_once(']').map_or((None, ""), |(table, key)| (Some(format!("{table}]")), key));
        let found = self.places.get(path);
        let by_table = whole.as_ref().and_then(|table| self.places.get(table)).filter(|place| !self.is_in_file(place));
        match found.or(by_table.filter(|_| !is_usual || matches!(key, ".url" | ".type"))) {
            None => (Origin::Default, None),
            Some(place) if self.is_in_file(place) => (Origin::File, line(place)),
            Some(place) if place.starts_with("--") => (Origin::Flag, None),
            Some(_) => (Origin::Environment, None),
        }
    }

    fn is_in_file(&self, place: &str) -> bool {
        self.file.as_ref().is_some_and(|file| place.strip_prefix(&**file).is_some_and(|rest| rest.starts_with(':')))
    }

    /// Where a table stands, such as `test[0]`.
    pub fn place_of(&self, path: &str) -> Option<&str> {
        self.places.get(path).map(String::as_str)
    }

    /// The lines of the rules in the file.
    pub fn lines_of_rules(&self) -> Vec<usize> {
        let place = |n: usize| self.places.get(&format!("rule[{n}]"));
        (0..).map_while(place).map(|place| line(place).unwrap_or(0)).collect()
    }
}

/// The line of `file:line:column`.
fn line(place: &str) -> Option<usize> {
    place.rsplit(':').nth(1)?.parse().ok()
}

/// Every setting that is in force.
pub fn effective(config: &Config, origins: &Origins) -> Effective {
    let collected = |config: Config| {
        let mut all = Vec::new();
        each_setting(config, &mut |path, field, doc| all.push((path, as_shown(field), doc.trim().to_string())));
        all
    };
    let mut first = Config::of(config.profile);
    first.interval = config.interval;
    let mut defaults: BTreeMap<String, Value> =
        collected(first).into_iter().map(|(path, value, _)| (path, value)).collect();
    // The others hang on these two.
    let own = collected(Config::default()).into_iter().filter(|(path, ..)| path == "profile" || path == "interval");
    defaults.extend(own.map(|(path, value, _)| (path, value)));
    let usual: BTreeMap<String, Value> =
        collected(usual_tables(config)).into_iter().map(|(path, value, _)| (path, value)).collect();
    let settings = collected(config.clone()).into_iter().map(|(path, value, about)| {
        let (from, line) = origins.of(&path, usual.get(&path) == Some(&value));
        let default = defaults.get(&path).cloned().unwrap_or(Value::Null);
        Setting { default, from, line, about, value, path }
    });
    let absolute = |file: &String| std::path::absolute(file).map_or(file.clone(), |path| path.display().to_string());
    Effective { file: origins.file.as_ref().map(absolute), settings: settings.collect() }
}

/// The same listeners and sinks, as they are where nothing more is said of them.
fn usual_tables(config: &Config) -> Config {
    let sink = |sink: &Sink| {
        let name = sink.kind.name();
        SinkKind::from_name(name).map_or_else(|| sink.clone(), |kind| Sink::new(name, kind))
    };
    Config {
        listen: config.listen.iter().map(|listen| Listen::new(listen.url.clone(), config.protocol)).collect(),
        sinks: config.sinks.iter().map(sink).collect(),
        ..config.clone()
    }
}

/// Takes a setting: its path, what it is, and a sentence about it.
type Take<'t> = dyn FnMut(String, &Opt<'_>, &'static str) + 't;

/// Visits every setting of a configuration.
pub(super) fn each_setting<'c>(mut config: Config, take: &'c mut Take<'c>) {
    let (profile, interval) = (config.profile, config.interval);
    config.describe(&mut Collector { take, path: String::new(), profile, interval });
}

/// A setting as it is shown.
pub(super) fn as_shown(field: &Opt<'_>) -> Value {
    shown(field).as_ref().map_or(Value::Null, as_json)
}

/// Collects settings.
struct Collector<'c> {
    take: &'c mut Take<'c>,
    path: String,
    profile: Profile,
    interval: Duration,
}

impl Collector<'_> {
    fn at(&mut self, path: String) -> Collector<'_> {
        Collector { take: self.take, path, profile: self.profile, interval: self.interval }
    }
}

/// A value of TOML as JSON, with secrets as they are shown here.
fn as_json(value: &toml::Value) -> Value {
    match value {
        toml::Value::String(text) if text == MASK => SECRET.into(),
        toml::Value::Array(all) => all.iter().map(as_json).collect(),
        toml::Value::Table(table) => table.iter().map(|(key, value)| (key.clone(), as_json(value))).collect(),
        other => serde_json::to_value(other).unwrap_or_default(),
    }
}

impl OptionVisitor for Collector<'_> {
    fn field(&mut self, key: &'static str, doc: &'static str, field: Opt<'_>) {
        (self.take)(inside(&self.path, key), &field, doc);
    }

    fn in_table(&mut self, key: &'static str, inner: &mut dyn FnMut(&mut dyn OptionVisitor)) {
        let path = inside(&self.path, key);
        inner(&mut self.at(path));
    }

    fn sections(&mut self, key: &'static str, _: &'static str, tables: &mut dyn Tables) {
        for number in 0..tables.count() {
            let path = format!("{}[{number}]", inside(&self.path, key));
            tables.describe(number, &mut self.at(path));
        }
    }

    fn require_one(&mut self, _: &'static str, _: bool, _: &str) {}

    fn require(&mut self, _: &'static str, _: Result<(), String>) {}

    fn profile(&self) -> &'static str {
        self.profile.name()
    }

    fn interval(&self) -> Duration {
        self.interval
    }
}
