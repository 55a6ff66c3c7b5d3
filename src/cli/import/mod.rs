//! `systole import`: converts the configuration of another StatsD server, with a list of what cannot be carried over.
//! Nothing in it is executed; the kind of file is recognised from its text.

mod datadog;
mod exporter;
mod exporter_templates;
mod layout;
mod literal;
mod statsd;
mod telegraf;
mod telegraf_outputs;

use std::path::PathBuf;

use clap::Args;
use toml::{Table, Value};

use crate::aggregate::pattern::{Pattern, PatternKind};
use crate::config::{Config, Problem, Sources, load};

use super::{FAILED, USAGE, print, print_error, read_text};

#[derive(Args)]
pub(super) struct ImportArgs {
    /// statsd's config.js or its proxy's, a mapping of statsd_exporter, telegraf's configuration with [[inputs.statsd]], or
    /// datadog.yaml; `-` is the standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// A configuration under construction.
#[derive(Default)]
struct Import {
    root: Table,
    /// Arrays of tables, one after the other.
    entries: Vec<Entry>,
    /// What was not carried over, in the order of the file.
    left: Vec<String>,
    /// What is carried over but works differently.
    notes: Vec<String>,
}

/// A table of an array of tables.
struct Entry {
    array: &'static str,
    table: Table,
    /// Where it comes from.
    origin: Option<String>,
}

impl Import {
    fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.root.insert(key.into(), value.into());
    }

    /// Sets a key of a section.
    fn set_in(&mut self, section: &str, key: &str, value: impl Into<Value>) {
        let table = self.root.entry(section).or_insert_with(|| Value::Table(Table::new()));
        if let Value::Table(table) = table {
            table.insert(key.into(), value.into());
        }
    }

    /// Adds a table to an array of tables.
    fn push(&mut self, array: &'static str, table: Table) {
        self.entries.push(Entry { array, table, origin: None });
    }

    /// The same with a word on where it comes from.
    fn push_from(&mut self, array: &'static str, table: Table, origin: impl Into<String>) {
        self.entries.push(Entry { array, table, origin: Some(origin.into()) });
    }

    fn leave(&mut self, key: &str, why: impl std::fmt::Display) {
        self.left.push(format!("{key}: {why}"));
    }

    fn note(&mut self, text: impl Into<String>) {
        let text = text.into();
        if !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }
}

/// A table of pairs.
fn table<const N: usize>(pairs: [(&str, Value); N]) -> Table {
    pairs.into_iter().map(|(key, value)| (key.to_string(), value)).collect()
}

pub(super) fn run(args: &ImportArgs) -> u8 {
    let text = match read_text(&args.file) {
        Ok(text) => text,
        Err(code) => return code,
    };
    let name = args.file.display();
    let (kind, read) = match kind_of(&text) {
        Some(Kind::Telegraf) => ("telegraf's [[inputs.statsd]]", telegraf::read(&text)),
        Some(Kind::Exporter) => ("a mapping of statsd_exporter", exporter::read(&text)),
        Some(Kind::Datadog) => ("datadog.yaml", datadog::read(&text)),
        Some(Kind::Statsd) => ("statsd's config.js", statsd::read(&text)),
        None => {
            print_error(format_args!(
                "{name}: neither statsd's config.js (an object in braces), nor a mapping of statsd_exporter (`mappings:`), nor \
                 telegraf's configuration (`[[inputs.statsd]]`), nor datadog.yaml (`dogstatsd_…:`)"
            ));
            return USAGE;
        }
    };
    let mut import = match read {
        Ok(import) => import,
        Err(problem) => {
            print_error(format_args!("{name}: {problem}"));
            return USAGE;
        }
    };
    warn_of_heartbeats(&mut import);
    let mut out = format!("# From {kind}: {name}\n");
    for (head, lines) in [("Not carried over:", &import.left), ("Different here:", &import.notes)] {
        if !lines.is_empty() {
            out.push_str(&format!("#\n# {head}\n"));
            // Text from the file must not end a comment.
            lines.iter().for_each(|line| out.push_str(&format!("#   {}\n", crate::untrusted::Escaped(line))));
        }
    }
    out.push('\n');
    out.push_str(&layout::write(&import));
    if !print(out.as_bytes()) {
        return FAILED;
    }
    if !import.left.is_empty() {
        let count = import.left.len();
        let s = if count == 1 { "" } else { "s" };
        print_error(format_args!(
            "{count} setting{s} of {name} could not be carried over; the list is at the top of the output"
        ));
    }
    let sources = Sources { file: Some(("the output".into(), out)), ..Sources::default() };
    if let Err(problems) = load(&sources) {
        // The variables of the machine that it is for need not be set on this one.
        let is_variable = |problem: &&Problem| problem.message.starts_with("environment variable ");
        let (variables, mistakes): (Vec<&Problem>, Vec<&Problem>) = problems.iter().partition(is_variable);
        variables.iter().for_each(|problem| print_error(format_args!("{problem}; the daemon needs it")));
        mistakes.iter().for_each(|problem| print_error(format_args!("{problem}; please change it")));
        if !mistakes.is_empty() {
            return FAILED;
        }
    }
    0
}

/// Names that are heartbeats here come to nothing as metrics.
fn warn_of_heartbeats(import: &mut Import) {
    let names = Config::default().presence.policy.names;
    let pattern = |entry: &Entry| {
        let forms = PatternKind::ALL.into_iter().filter(|_| entry.array == "rule");
        let text = |form: PatternKind| Some((form, entry.table.get(form.key())?.as_str()?.to_string()));
        forms.into_iter().find_map(text).and_then(|(form, text)| Pattern::new(form, text).ok())
    };
    let is_heartbeat = |pattern: &Pattern| names.iter().any(|name| pattern.is_within(name));
    let found: Vec<Pattern> = import.entries.iter().filter_map(pattern).filter(is_heartbeat).collect();
    for pattern in found {
        import.note(format!(
            "{pattern}: such names are heartbeats here (docs/presence.md) and no metrics; with `forward_raw = true` in [presence] they \
             are both, with `names = []` there metrics alone"
        ));
    }
}

enum Kind {
    Statsd,
    Exporter,
    Telegraf,
    Datadog,
}

fn kind_of(text: &str) -> Option<Kind> {
    let starts = |words: &[&str]| text.lines().any(|line| words.iter().any(|word| line.trim_end().starts_with(word)));
    if text.contains("[[inputs.statsd]]") {
        Some(Kind::Telegraf)
    } else if starts(&["mappings:", "defaults:"]) {
        Some(Kind::Exporter)
    } else if starts(&["dogstatsd_", "use_dogstatsd:", "statsd_forward_host:", "statsd_metric_namespace:"]) {
        Some(Kind::Datadog)
    } else {
        literal::begins_with_object(text).then_some(Kind::Statsd)
    }
}
