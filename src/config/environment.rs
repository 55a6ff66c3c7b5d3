//! Variables of the environment: `SYSTOLE_SECTION__KEY` for a setting, and those that stand for flags.

use std::collections::{BTreeMap, BTreeSet};

use crate::settings::suggestion;

use super::reference::variables;
use super::{Problem, Sources};

/// What every variable of ours begins with.
pub const PREFIX: &str = "SYSTOLE_";

/// In place of `--config`, `--listen` and `--sink`; several URLs are separated by blanks.
pub const CONFIG: &str = "SYSTOLE_CONFIG";
pub(super) const LISTEN: &str = "SYSTOLE_LISTEN";
pub(super) const SINK: &str = "SYSTOLE_SINK";
/// In place of `--token` of `systole presence`.
pub const TOKEN: &str = "SYSTOLE_TOKEN";

/// The variable of a setting, by its path.
pub(super) fn variable_of(path: &str) -> String {
    format!("{PREFIX}{}", path.to_uppercase().replace('.', "__"))
}

/// The URLs of a flag, or else of its variable; and which it was.
pub(super) fn urls<'s>(
    flag: &'static str,
    given: &'s [String],
    variable: &'static str,
    env: &'s BTreeMap<String, String>,
) -> (Vec<String>, &'static str) {
    if !given.is_empty() {
        return (given.to_vec(), flag);
    }
    let text = env.get(variable).map_or("", String::as_str);
    (text.split_whitespace().map(String::from).collect(), variable)
}

/// Variables that begin as ours and mean nothing, each with the nearest that does. Those that the file uses as
/// `${VARIABLE}` are the user's own; those that container platforms make for a service of this name are left alone.
pub fn unknown_variables(sources: &Sources) -> Vec<Problem> {
    let unknown = |name: &&String| name.starts_with(PREFIX) && !is_service_link(name);
    let mut names = sources.env.keys().filter(unknown).peekable();
    if names.peek().is_none() {
        return Vec::new();
    }
    let mut known: BTreeSet<String> = variables();
    known.extend([CONFIG, LISTEN, SINK, TOKEN].map(String::from));
    let text = sources.file.as_ref().map_or("", |(_, text)| text.as_str());
    let names = names.filter(|name| !known.contains(*name) && !is_used(text, name));
    let problem = |name: &String| {
        let hint = suggestion(name, known.iter().map(String::as_str));
        Problem { place: name.clone(), key: String::new(), message: format!("no such setting{hint}") }
    };
    names.map(problem).collect()
}

/// Whether a text has `${NAME}`, or `${NAME:-…}`.
fn is_used(text: &str, name: &str) -> bool {
    let behind = |at: usize| text[at..].strip_prefix(name).unwrap_or("");
    text.match_indices("${").any(|(at, mark)| {
        let rest = behind(at + mark.len());
        rest.starts_with('}') || rest.starts_with(":-")
    })
}

/// Whether Kubernetes or Docker make such a variable for a service whose name begins with `systole`:
/// `SYSTOLE_SERVICE_HOST`, `SYSTOLE_SERVICE_PORT_HTTP`, `SYSTOLE_PORT`, `SYSTOLE_PORT_8125_UDP_ADDR`.
fn is_service_link(name: &str) -> bool {
    let port = name.split_once("_PORT_").is_some_and(|(_, rest)| rest.starts_with(|c: char| c.is_ascii_digit()));
    port || name.ends_with("_PORT") || name.ends_with("_SERVICE_HOST") || name.contains("_SERVICE_PORT_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_variable_is_unknown_and_a_used_or_foreign_one_is_not() {
        let names = [
            "SYSTOLE_INTERVAL",
            "SYSTOLE_HTTP__ADRESS",
            "SYSTOLE_LISTN",
            "SYSTOLE_HOST_GROUP",
            "SYSTOLE_TOKEN",
            "SYSTOLE_PORT",
            "SYSTOLE_PORT_8125_UDP",
            "SYSTOLE_PORT_8125_UDP_ADDR",
            "SYSTOLE_SERVICE_HOST",
            "SYSTOLE_HTTP_SERVICE_PORT",
            "HOME",
        ];
        let sources = Sources {
            file: Some(("f".into(), "prefix = \"${SYSTOLE_HOST_GROUP}.\"".into())),
            env: names.map(|name| (name.to_string(), "x".to_string())).into(),
            ..Sources::default()
        };
        let said: Vec<String> = unknown_variables(&sources).iter().map(Problem::to_string).collect();
        assert_eq!(
            said,
            [
                "SYSTOLE_HTTP__ADRESS: no such setting (did you mean `SYSTOLE_HTTP__ADDRESS`?)",
                "SYSTOLE_LISTN: no such setting (did you mean `SYSTOLE_LISTEN`?)",
            ]
        );
    }
}
