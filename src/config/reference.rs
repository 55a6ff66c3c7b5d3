//! The reference of all settings: `examples/systole.toml` and the tables of `docs/configuration.md`, made from the
//! table of settings. `UPDATE=1 cargo test --test it config::` writes both, and
//! `systole check --print-example` prints the former.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Duration;

use toml::Value;

use crate::notify::TargetKind;
use crate::settings::{Described, Opt, OptionVisitor, Tables};
use crate::sinks::SinkKind;

use super::environment::variable_of;
use super::notify;
use super::print::{inside, shown};
use super::schema::Config;
use super::value::{show_duration, show_size};

/// Longest line of the example.
const COLUMNS: usize = 120;

/// What the example begins with.
const HEAD: &str = "\
# Every setting of Systole with its default. A setting behind `#` without a blank has no default, or stands in a table
# that is absent by default: it is an example, and set when the `#` is taken away.
#
# `systole check -c FILE` reports every mistake with its place, `systole check --print -c FILE` prints what is effective.
# Scalars and lists can come from the environment (SYSTOLE_INTERVAL=1s, SYSTOLE_HTTP__ADDRESS=off), strings may hold
# ${VARIABLES}, secrets may be file:/paths. Durations are \"10s\", \"500ms\", \"1h 30m\"; sizes \"64KiB\", \"16MiB\".
";

/// A table of settings.
struct Table {
    /// As in TOML, with brackets; empty for the root.
    head: String,
    doc: &'static str,
    /// Whether it is there by default.
    is_there: bool,
    /// Whether the environment can set what is in it.
    has_variables: bool,
    /// The kind of sink whose own options these are.
    kind: &'static str,
    /// The type of target whose own options these are, in a table that is a whole one.
    of_type: &'static str,
    settings: Vec<Setting>,
}

/// A setting.
struct Setting {
    /// With dots inside of a table.
    key: String,
    doc: &'static str,
    /// What is right.
    form: String,
    /// Whether the form goes without saying where the default is shown.
    is_plain: bool,
    /// TOML.
    default: Option<Value>,
    example: Option<String>,
}

/// Every table with its settings, in order.
fn tables() -> Vec<Table> {
    let root = Table {
        head: String::new(),
        doc: "",
        is_there: true,
        has_variables: true,
        kind: "",
        settings: Vec::new(),
        of_type: "",
    };
    let mut all = vec![root];
    Config::default().describe(&mut Lister { all: &mut all, at: 0, path: String::new(), prefix: String::new() });
    all
}

/// A table of settings, by the order of which configurations are written.
pub struct OrderedTable {
    /// As in TOML, with brackets; empty for the root.
    pub head: String,
    /// The kind of sink whose own settings these are; empty for all others.
    pub kind: &'static str,
    /// With dots inside of a table.
    pub keys: Vec<String>,
}

/// Every table in order; those of kinds of sinks follow the table of all sinks.
pub fn order() -> Vec<OrderedTable> {
    let keys = |settings: Vec<Setting>| settings.into_iter().map(|setting| setting.key).collect();
    let tables = tables().into_iter();
    tables.map(|Table { head, kind, settings, .. }| OrderedTable { head, kind, keys: keys(settings) }).collect()
}

/// The variables of all settings that the environment can set.
pub(super) fn variables() -> BTreeSet<String> {
    let with_variables = tables().into_iter().filter(|table| table.has_variables);
    let paths = with_variables.flat_map(|table| {
        let section = table.head.trim_matches(['[', ']']).to_string();
        table.settings.into_iter().map(move |setting| inside(&section, &setting.key))
    });
    paths.map(|path| variable_of(&path)).collect()
}

/// Lists settings.
struct Lister<'l> {
    all: &'l mut Vec<Table>,
    /// The table that settings belong to.
    at: usize,
    path: String,
    /// Of keys: `table.` inside of a table that is written with dots.
    prefix: String,
}

impl Lister<'_> {
    fn setting(&mut self, key: &str) -> Option<&mut Setting> {
        let key = format!("{}{key}", self.prefix);
        self.all[self.at].settings.iter_mut().find(|setting| setting.key == key)
    }

    /// Begins a table; gives its number.
    fn begin(&mut self, head: String, doc: &'static str, is_there: bool, kind: &'static str) -> usize {
        let outer = &self.all[self.at];
        let has_variables = outer.has_variables && !head.starts_with("[[");
        let is_there = is_there && outer.is_there;
        self.all.push(Table { head, doc, is_there, has_variables, kind, of_type: "", settings: Vec::new() });
        self.all.len() - 1
    }

    /// The own options of each kind of sink.
    fn kinds(&mut self) {
        for mut kind in SinkKind::NAMES.iter().filter_map(|(name, _)| SinkKind::from_name(name)) {
            let at = self.begin("[[sink]]".into(), "", false, kind.name());
            let (path, prefix) = ("sink".to_string(), String::new());
            kind.spec_mut().options(&mut Lister { all: self.all, at, path, prefix });
        }
    }
}

/// What each type of target has beside what all have, as tables of their own; the first one is described whole.
impl Lister<'_> {
    fn kinds_of_targets(&mut self) {
        for kind in TargetKind::ALL.into_iter().skip(1) {
            let at = self.begin("[[notify]]".into(), "", false, "");
            self.all[at].of_type = kind.as_str();
            let (path, prefix) = ("notify".to_string(), String::new());
            notify::describe_kind(kind, &mut Lister { all: self.all, at, path, prefix });
        }
    }
}

impl OptionVisitor for Lister<'_> {
    fn field(&mut self, key: &'static str, doc: &'static str, field: Opt<'_>) {
        let (form, is_plain) = form(&field);
        let key = format!("{}{key}", self.prefix);
        let setting = Setting { key, doc: doc.trim(), form, is_plain, default: shown(&field), example: None };
        self.all[self.at].settings.push(setting);
    }

    fn example(&mut self, key: &'static str, example: &str) {
        if let Some(setting) = self.setting(key) {
            setting.example = Some(example.to_string());
        }
    }

    fn in_table(&mut self, key: &'static str, inner: &mut dyn FnMut(&mut dyn OptionVisitor)) {
        let prefix = format!("{}{key}.", self.prefix);
        inner(&mut Lister { all: self.all, at: self.at, path: self.path.clone(), prefix });
    }

    fn in_optional_table(
        &mut self,
        key: &'static str,
        is_there: bool,
        inner: &mut dyn FnMut(&mut dyn OptionVisitor, bool),
    ) -> bool {
        let (at, before) = (self.at, self.all[self.at].settings.len());
        self.in_table(key, &mut |visitor| inner(visitor, is_there));
        if !is_there {
            // The defaults hold once the table is there.
            for setting in &mut self.all[at].settings[before..] {
                let default = setting.default.take().map(|value| value.to_string());
                setting.example = setting.example.take().or(default);
            }
        }
        is_there
    }

    fn section(&mut self, key: &'static str, doc: &'static str, inner: &mut dyn FnMut(&mut dyn OptionVisitor)) {
        let path = inside(&self.path, key);
        // That of an item stands in for one of all.
        let is_there = !self.all[self.at].head.starts_with("[[");
        let at = self.begin(format!("[{path}]"), doc.trim(), is_there, "");
        inner(&mut Lister { all: self.all, at, path, prefix: String::new() });
    }

    fn sections(&mut self, key: &'static str, doc: &'static str, tables: &mut dyn Tables) {
        let is_there = tables.count() > 0;
        if !is_there {
            tables.add();
        }
        let path = inside(&self.path, key);
        let at = self.begin(format!("[[{path}]]"), doc.trim(), is_there, "");
        tables.describe(0, &mut Lister { all: self.all, at, path, prefix: String::new() });
        if key == "sink" {
            self.kinds();
        }
        if key == "notify" {
            self.kinds_of_targets();
        }
    }

    fn require_one(&mut self, key: &'static str, _: bool, example: &str) {
        let is_empty = |default: &Value| default.as_array().is_some_and(Vec::is_empty);
        if let Some(setting) = self.setting(key).filter(|setting| setting.default.as_ref().is_none_or(is_empty)) {
            setting.example.get_or_insert_with(|| example.to_string());
        }
    }

    fn require(&mut self, _: &'static str, _: Result<(), String>) {}

    fn profile(&self) -> &'static str {
        Config::default().profile.name()
    }
}

/// What a setting's value may be, and whether that goes without saying where a value is shown.
fn form(field: &Opt<'_>) -> (String, bool) {
    fn range<T>(range: &std::ops::RangeInclusive<T>, show: impl Fn(&T) -> String) -> String {
        format!("{} to {}", show(range.start()), show(range.end()))
    }
    let duration = |duration: &Duration| show_duration(*duration);
    let plain = |form: &str| (form.to_string(), true);
    let form = match field {
        Opt::Maybe(_, inner) => return self::form(inner),
        Opt::Text(_) | Opt::TextOrNone(_) => return plain("a text"),
        Opt::Secret(_) => return plain("a secret"),
        Opt::Path(_) => return plain("a path"),
        Opt::HostPort(_) => return plain("host:port"),
        Opt::Address(_) => return plain("an address"),
        Opt::AddressOrOff(..) => "an address or \"off\"".into(),
        Opt::Url(_) | Opt::UrlOrEmpty(_) => return plain("a URL"),
        Opt::Urls(_) => return plain("URLs"),
        Opt::Flag(_) => return plain("true or false"),
        Opt::Whole(_, all) => range(all, u64::to_string),
        Opt::Number(_, all) if *all.start() == f64::MIN => return plain("a number"),
        Opt::Number(_, all) => range(all, f64::to_string),
        Opt::Duration(_, all) | Opt::MaybeDuration(_, all) => range(all, duration),
        Opt::Lifetime(_, all) => format!("{}, or \"forever\"", range(all, duration)),
        Opt::Size(_, all) | Opt::MaybeSize(_, all) => range(all, |&size| show_size(size)),
        Opt::Texts(_) | Opt::Command(_) => return plain("texts"),
        Opt::Numbers(_, all) if *all.start() == f64::MIN => return plain("numbers"),
        Opt::Numbers(_, all) => format!("numbers, {}", range(all, f64::to_string)),
        Opt::Wholes(_, all) => range(all, u64::to_string),
        Opt::Networks(_) => return plain("networks"),
        Opt::Map(_) | Opt::Secrets(_) => return plain("texts by key"),
        Opt::NumbersByKey(_) => return plain("numbers by key"),
        Opt::Choice(words, _) => words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", "),
        Opt::Parsed(parsed) => {
            return (parsed.form.into(), !parsed.form.contains('"') || parsed.form.contains("octal"));
        }
        Opt::List(list) => return (list.form.into(), !list.form.contains(", ")),
    };
    (form, false)
}

/// A configuration with every setting: `examples/systole.toml`. The options of kinds of sinks that are not in this build are taken over from `before`.
pub fn example(before: &str) -> String {
    let mut out = HEAD.to_string();
    let mut said: BTreeSet<(String, &str)> = BTreeSet::new();
    let tables = tables();
    for (n, table) in tables.iter().enumerate() {
        if table.kind.is_empty() {
            if n > 0 {
                out.push('\n');
                comment(&mut out, table.doc);
                let _ = writeln!(out, "{}{}", if table.is_there { "" } else { "#" }, table.head);
            }
            settings(&mut out, table, &mut said, if table.is_there { "" } else { "#" });
            continue;
        }
        if tables[n - 1].kind.is_empty() {
            kinds(&mut out, &tables, &mut said, before);
        }
    }
    out
}

/// The blocks of all kinds of sinks, those of features last.
fn kinds(out: &mut String, tables: &[Table], said: &mut BTreeSet<(String, &'static str)>, before: &str) {
    let is_optional = |feature: &str| !feature.is_empty() && feature != "sqlite";
    for is_last in [false, true] {
        for (name, feature) in SinkKind::NAMES.iter().filter(|(_, feature)| is_optional(feature) == is_last) {
            let mark = if is_last { "# " } else { "#" };
            let begin = format!("\n{mark}[[sink]]\n{mark}type = \"{name}\"\n");
            match tables.iter().find(|table| table.kind == *name) {
                Some(table) if table.settings.is_empty() => {}
                Some(table) if is_last => {
                    let _ = write!(out, "\n# In a build with the feature `{feature}`:{begin}");
                    // Whatever build makes the file, its comments are the same.
                    settings(out, table, &mut BTreeSet::new(), mark);
                }
                Some(table) => {
                    out.push_str(&begin);
                    settings(out, table, said, mark);
                }
                None if is_last => {
                    let begin = format!("\n# In a build with the feature `{feature}`:{begin}");
                    let block = before.find(&begin).map(|at| &before[at..]);
                    out.push_str(block.map_or("", |block| block.find("\n\n").map_or(block, |end| &block[..=end])));
                }
                None => {}
            }
        }
    }
}

fn settings(out: &mut String, table: &Table, said: &mut BTreeSet<(String, &'static str)>, mark: &str) {
    for setting in &table.settings {
        // An option that several kinds of sinks have is described once.
        if table.kind.is_empty() || said.insert((setting.key.clone(), setting.doc)) {
            let doc = match (setting.is_plain, setting.doc.strip_suffix('.')) {
                (false, Some(doc)) => format!("{doc} ({}).", setting.form),
                (true, _) | (_, None) => setting.doc.to_string(),
            };
            comment(out, &doc);
        }
        let default = setting.default.as_ref().map(Value::to_string);
        let (mark, value) = match (mark, default, &setting.example) {
            ("", Some(default), _) => ("", default),
            ("", None, example) => ("#", example.clone().unwrap_or_default()),
            (mark, default, example) => (mark, example.clone().or(default).unwrap_or_default()),
        };
        let _ = writeln!(out, "{mark}{} = {value}", setting.key);
    }
}

fn comment(out: &mut String, text: &str) {
    let mut line = String::from("#");
    for word in text.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > COLUMNS {
            let _ = writeln!(out, "{line}");
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    if line.len() > 1 {
        let _ = writeln!(out, "{line}");
    }
}

/// The tables of `docs/configuration.md`. Those of kinds of sinks that are not in this build are taken over from
/// `before`.
#[cfg(feature = "internals")]
pub fn reference(before: &str) -> String {
    let mut out = String::new();
    let tables = tables();
    for (n, table) in tables.iter().enumerate() {
        if table.kind.is_empty() {
            let title = match (n, table.of_type) {
                (0, _) => "The root".to_string(),
                (_, "") => format!("`{}`", table.head),
                (_, of_type) => format!("`{}` with `type = \"{of_type}\"`", table.head),
            };
            let _ = write!(out, "\n### {title}\n\n");
            if !table.doc.is_empty() {
                let _ = write!(out, "{}\n\n", cell(table.doc));
            }
            rows(&mut out, table);
            continue;
        }
        if !tables[n - 1].kind.is_empty() {
            continue;
        }
        for (name, feature) in SinkKind::NAMES {
            let head = format!("\n### `type = \"{name}\"`\n");
            match tables.iter().find(|table| table.kind == *name) {
                Some(table) if table.settings.is_empty() => {}
                Some(table) => {
                    let _ = writeln!(out, "{head}");
                    if !feature.is_empty() {
                        let _ = write!(out, "In builds with the feature `{feature}`.\n\n");
                    }
                    rows(&mut out, table);
                }
                None => {
                    let block = before.find(&head).map_or("", |at| &before[at..]);
                    let end = block[1.min(block.len())..].find("\n###").map_or(block.len(), |end| end + 1);
                    out.push_str(&block[..end]);
                }
            }
        }
    }
    out
}

#[cfg(feature = "internals")]
fn rows(out: &mut String, table: &Table) {
    out.push_str("| setting | default | values | meaning |\n|---|---|---|---|\n");
    for setting in &table.settings {
        let default = setting.default.as_ref().map_or(String::new(), |value| format!("`{}`", cell(&value.to_string())));
        let _ = writeln!(out, "| `{}` | {default} | {} | {} |", setting.key, cell(&setting.form), cell(setting.doc));
    }
}

/// A text as it stands in a table of Markdown.
#[cfg(feature = "internals")]
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}
