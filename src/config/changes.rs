//! What is different between two configurations, and what of it a running daemon cannot be made to do.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::Value;

use crate::presence::policy::Policy;
use crate::reloads::Change;
use crate::settings::Opt;

use super::effective::{as_shown, each_setting};
use super::presence::Presence;
use super::schema::{Config, Listen};

/// Tables that are what they are by one of their settings, not by their places.
const NAMED: [(&str, &str); 4] = [("listen", "url"), ("sink", "name"), ("relay", "name"), ("notify", "name")];

/// Settings that so much hangs on that no configuration with others can be in force before a restart.
const WHOLE: [&str; 3] = ["interval", "profile", "cluster"];

/// A part of the configuration that stays until a restart.
type Part = fn(&Config, &mut Config);

/// What stays as it was at the start, whatever a file says later.
const STAYS: [Part; 6] = [
    |was, is| is.history = was.history.clone(),
    |was, is| is.management = was.management.clone(),
    |was, is| {
        is.state_dir.clone_from(&was.state_dir);
        (is.state_interval, is.keep_open_interval) = (was.state_interval, was.keep_open_interval);
    },
    |was, is| is.log.format = was.log.format,
    |was, is| {
        (is.http.address, is.http.limits) = (was.http.address, was.http.limits);
        if was.http.tls.is_on() != is.http.tls.is_on() {
            is.http.tls = was.http.tls.clone();
        }
    },
    |was, is| is.presence = presence(&was.presence, &is.presence),
];

/// How silence is judged and who is notified changes; what a line is a heartbeat of and who else observes stays.
fn presence(was: &Presence, is: &Presence) -> Presence {
    let policy = Policy {
        names: was.policy.names.clone(),
        assist: was.policy.assist,
        maintenance_wire: was.policy.maintenance_wire,
        guards: was.policy.guards.clone(),
        goodbye_same_ip: was.policy.goodbye_same_ip,
        watches: Arc::clone(&was.policy.watches),
        ..is.policy.clone()
    };
    let (alertmanager, webhook) = (is.alertmanager.clone(), is.webhook.clone());
    Presence { policy, group_wait: is.group_wait, alertmanager, webhook, ..was.clone() }
}

/// What a reload changes.
#[derive(Debug)]
pub struct Plan {
    /// What is in force afterwards.
    pub config: Config,
    /// What has changed then.
    pub changes: Vec<Change>,
    /// What the file has, and what stays as it was until a restart.
    pub needs_restart: Vec<Change>,
}

/// What it takes to go from one configuration to another.
///
/// # Errors
/// Why that takes a restart as a whole: each in a line.
pub fn compare(was: &Config, wanted: Config) -> Result<Plan, Vec<String>> {
    let all = changes(was, &wanted);
    let is_whole = |change: &&Change| WHOLE.iter().any(|key| change.path.split('.').next() == Some(key));
    let whole: Vec<String> = all.iter().filter(is_whole).map(needs_restart).collect();
    if !whole.is_empty() {
        return Err(whole);
    }
    let mut config = wanted.clone();
    STAYS.iter().for_each(|stay| stay(was, &mut config));
    for listen in &mut config.listen {
        if let Some(before) = was.listen.iter().find(|before| before.url == listen.url) {
            keep_socket(before, listen);
        }
    }
    let (changes, needs_restart) = (changes(was, &config), changes(&config, &wanted));
    Ok(Plan { config, changes, needs_restart })
}

/// Keeps what a socket, and the number of those who read it, are made with.
fn keep_socket(was: &Listen, is: &mut Listen) {
    *is = Listen {
        max_datagram: is.max_datagram,
        allow: is.allow.take(),
        max_connections: is.max_connections,
        max_connections_per_address: is.max_connections_per_address,
        idle_timeout: is.idle_timeout,
        tls: std::mem::take(&mut is.tls),
        protocol: is.protocol,
        ..was.clone()
    };
}

fn needs_restart(change: &Change) -> String {
    let Change { path, was, is } = change;
    format!("{path}: {was} is in force, and {is} needs a restart; so much hangs on it that nothing was changed")
}

/// A setting as it is shown, and as it is.
struct Found {
    path: String,
    value: Value,
    exact: Value,
}

/// What is different, in the order of the newer one; what is gone comes last.
pub(super) fn changes(was: &Config, is: &Config) -> Vec<Change> {
    let (was, is) = (collected(was), collected(is));
    let (old_tables, new_tables) = (tables(&was), tables(&is));
    let by_name = |tables: &BTreeMap<String, Table>| -> HashMap<String, String> {
        tables.iter().map(|(path, table)| (table.name.clone(), path.clone())).collect()
    };
    let (old_names, new_names) = (by_name(&old_tables), by_name(&new_tables));
    let mut before: HashMap<String, &Found> = HashMap::new();
    let mut all: Vec<Change> = Vec::new();
    for found in &was {
        let path = match table_of(&found.path) {
            // At the place that it has now.
            Some((table, rest)) => match old_tables.get(table).map(|table| new_names.get(&table.name)) {
                Some(Some(now)) => format!("{now}{rest}"),
                Some(None) => continue,
                None => found.path.clone(),
            },
            None => found.path.clone(),
        };
        before.insert(path, found);
    }
    for found in &is {
        let known = before.remove(&found.path);
        if let Some((path, _)) = table_of(&found.path)
            && let Some(table) = new_tables.get(path).filter(|table| !old_names.contains_key(&table.name))
        {
            // The whole table in one line; its settings follow each other.
            if all.last().is_none_or(|last| last.path != path) {
                all.push(Change { path: path.to_string(), was: Value::Null, is: table.shown.clone() });
            }
            continue;
        }
        match known {
            Some(known) if known.exact == found.exact => {}
            Some(known) => {
                all.push(Change { path: found.path.clone(), was: known.value.clone(), is: found.value.clone() })
            }
            None if is_left_out(&found.value) => {}
            None => all.push(Change { path: found.path.clone(), was: Value::Null, is: found.value.clone() }),
        }
    }
    let mut gone: Vec<(&String, &&Found)> = before.iter().filter(|(_, found)| !is_left_out(&found.value)).collect();
    gone.sort_by_key(|(path, _)| *path);
    all.extend(gone.into_iter().map(|(path, found)| Change {
        path: path.clone(),
        was: found.value.clone(),
        is: Value::Null,
    }));
    let gone = old_tables.into_iter().filter(|(_, table)| !new_names.contains_key(&table.name));
    all.extend(gone.map(|(path, table)| Change { path, was: table.shown, is: Value::Null }));
    all
}

/// What a table that comes or goes leaves out is no change.
fn is_left_out(value: &Value) -> bool {
    value.is_null() || value.as_array().is_some_and(Vec::is_empty)
}

/// The table of a path that is known by a name, and the rest of the path.
fn table_of(path: &str) -> Option<(&str, &str)> {
    let end = path.find(']')? + 1;
    let (table, rest) = path.split_at(end);
    NAMED.iter().any(|(key, _)| table.split('[').next() == Some(key)).then_some((table, rest))
}

/// A table that is known by a name.
struct Table {
    /// With its kind; different from those of all others.
    name: String,
    /// The name alone, as it is shown.
    shown: Value,
}

/// Tables that are known by names, by their paths.
fn tables(all: &[Found]) -> BTreeMap<String, Table> {
    let mut tables = BTreeMap::new();
    // Several may have one name, such as a port that the kernel chooses.
    let mut alike: HashMap<String, usize> = HashMap::new();
    for found in all {
        let Some((table, rest)) = table_of(&found.path) else { continue };
        let kind = table.split('[').next().unwrap_or("");
        let is_name = NAMED.iter().any(|(key, name)| *key == kind && rest.strip_prefix('.') == Some(name));
        if is_name {
            let name = format!("{kind} {}", found.exact);
            let before = alike.entry(name.clone()).or_default();
            let name = name + &"'".repeat(*before);
            *before += 1;
            tables.insert(table.to_string(), Table { name, shown: found.value.clone() });
        }
    }
    tables
}

fn collected(config: &Config) -> Vec<Found> {
    let mut all = Vec::new();
    each_setting(config.clone(), &mut |path, field, _| {
        all.push(Found { path, value: as_shown(field), exact: exact(field) });
    });
    all
}

/// A value that tells it from every other, secrets as they are.
fn exact(field: &Opt<'_>) -> Value {
    match field {
        Opt::Maybe(is_there, inner) if **is_there => exact(inner),
        Opt::Url(value) | Opt::UrlOrEmpty(value) | Opt::Secret(value) => value.as_str().into(),
        Opt::Urls(value) | Opt::Command(value) => value.iter().map(String::as_str).collect(),
        Opt::Secrets(value) => value.iter().map(|(key, value)| (key.clone(), Value::from(value.as_str()))).collect(),
        other => as_shown(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(toml: &str) -> Config {
        Config::parse(toml).expect("right")
    }

    fn shown(was: &str, is: &str) -> Vec<String> {
        let all = changes(&config(was), &config(is));
        all.into_iter().map(|Change { path, was, is }| format!("{path}: {was} -> {is}")).collect()
    }

    #[test]
    fn settings_that_changed_are_told_with_what_they_were_and_are() {
        assert_eq!(shown("", ""), [""; 0]);
        assert_eq!(shown("", "percentiles = [50]"), ["percentiles: [50,90,95,99,99.9] -> [50]"]);
        assert_eq!(shown("http.token = \"a\"", "http.token = \"b\""), ["http.token: \"***\" -> \"***\""]);
        let sinks = |names: &[&str]| -> String {
            names.iter().map(|name| format!("[[sink]]\ntype = \"console\"\nname = \"{name}\"\n")).collect()
        };
        assert_eq!(shown(&sinks(&["a", "b"]), &sinks(&["b", "a"])), [""; 0]);
        assert_eq!(
            shown(&sinks(&["a", "b"]), &format!("{}queue = 9\n", sinks(&["c", "b"]))),
            ["sink[0]: null -> \"c\"", "sink[1].queue: 4 -> 9", "sink[0]: \"a\" -> null"]
        );
        let rule = "[[rule]]\nmatch = \"a.*\"\ndrop = true\n";
        let all = shown("", rule);
        assert!(all.contains(&"rule[0].match: null -> \"a.*\"".to_string()), "{all:?}");
        assert_eq!(shown("", rule).len(), shown(rule, "").len());
    }

    #[test]
    fn what_needs_a_restart_stays_and_the_rest_is_in_force() {
        let was = config("[[listen]]\nurl = \"udp://127.0.0.1:8125\"\nworkers = 1\n");
        let wanted = config(
            "percentiles = [50]\nlog = { level = \"debug\", format = \"json\" }\nhistory.minutes = 5\n\
             [[listen]]\nurl = \"udp://127.0.0.1:8125\"\nworkers = 2\nmax_datagram = 1000\n",
        );
        let plan = compare(&was, wanted).expect("a plan");
        let paths = |changes: &[Change]| changes.iter().map(|one| one.path.clone()).collect::<Vec<_>>();
        assert_eq!(paths(&plan.changes), ["percentiles", "listen[0].max_datagram", "log.level"]);
        assert_eq!(paths(&plan.needs_restart), ["listen[0].workers", "history.minutes", "log.format"]);
        assert_eq!((plan.config.listen[0].max_datagram, plan.config.listen[0].workers), (1000, was.listen[0].workers));
    }

    #[test]
    fn what_everything_hangs_on_refuses_the_whole() {
        let problems = compare(&config(""), config("interval = \"5s\"\npercentiles = [50]")).expect_err("refused");
        assert!(
            matches!(&problems[..], [one] if one.starts_with("interval: \"10s\" is in force, and \"5s\"")),
            "{problems:?}"
        );
    }
}
