//! From text, flags and environment to a [`Config`], with every mistake on the way.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use toml::de::DeTable;

use crate::cluster::Late;
use crate::http_client::without_login;
use crate::settings::{Described, List, Opt, OptionVisitor, Parsed, Tables, Wrong, suggestion};
use crate::sys::may_collide;

use super::cluster::Role;
use super::effective::Origins;
use super::environment::{LISTEN, SINK, urls};
use super::presence_peers;
use super::reader::{Found, Problem, Section, Source};
use super::schema::{Config, Listen, Profile, Sink};
use super::sink;
use super::url::{ListenUrl, address, host_and_port, http_url, listen_url};
use super::value::show_duration;

/// Where the configuration comes from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The file's name and text, if there is one.
    pub file: Option<(String, String)>,
    /// The environment.
    pub env: BTreeMap<String, String>,
    /// `--listen`: in place of the file's listeners.
    pub listen: Vec<String>,
    /// `--sink`: in place of the file's sinks.
    pub sink: Vec<String>,
    /// `--interval`.
    pub interval: Option<Duration>,
    /// `--http`.
    pub http: Option<String>,
    /// Whether the files of TLS that it names are read, too, and what is wrong with them is a mistake.
    pub reads_files: bool,
}

impl Config {
    /// Reads a configuration as a file has it; what it leaves out has its default. The environment is not looked at.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn parse(toml: &str) -> Result<Config, ConfigError> {
        let sources = Sources { file: Some(("configuration".into(), toml.into())), ..Sources::default() };
        load(&sources).map_err(|problems| ConfigError { problems })
    }
}

/// A configuration with mistakes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    problems: Vec<Problem>,
}

impl ConfigError {
    /// Each mistake in a line of its own: where, which setting, and what would be right.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.problems.iter().map(Problem::to_string)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines().collect::<Vec<_>>().join("\n"))
    }
}

impl std::error::Error for ConfigError {}

/// Reads everything.
///
/// # Errors
/// All mistakes, in the order of the file.
pub fn load(sources: &Sources) -> Result<Config, Vec<Problem>> {
    load_with_origins(sources).map(|(config, _)| config)
}

/// The same, and where settings were found.
///
/// # Errors
/// All mistakes, in the order of the file.
pub fn load_with_origins(sources: &Sources) -> Result<(Config, Origins), Vec<Problem>> {
    let (file, text) = sources.file.as_ref().map_or(("", ""), |(file, text)| (file.as_str(), text.as_str()));
    let mut source = Source::new(file, text, &sources.env);
    source.reads_files = sources.reads_files;
    source.flags.extend(sources.interval.map(|interval| ("interval", ("--interval", show_duration(interval)))));
    source.flags.extend(sources.http.clone().map(|address| ("http.address", ("--http", address))));
    let (root, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let place = source.place(error.span().unwrap_or(0..0));
        let message = error.message().trim().replace('\n', ", ");
        let named = error.span().and_then(|span| text.get(span)).filter(|_| message == "duplicate key");
        let message = match named.map(str::trim).filter(|key| !key.is_empty() && !key.contains('\n')) {
            Some(key) => format!("duplicate key `{key}`; leave one of them out"),
            None => message,
        };
        source.problem(place, "", message);
    }
    if !source.problems.is_empty() {
        // What could be read of broken TOML would only add noise.
        source.problems.sort_by_key(Problem::position);
        return Err(source.problems);
    }
    let config = read(root.get_ref(), &mut source, sources);
    let Source { mut problems, places, .. } = source;
    problems.sort_by_key(Problem::position);
    let origins = Origins { file: sources.file.as_ref().map(|(file, _)| file.clone()), places };
    if problems.is_empty() { Ok((config, origins)) } else { Err(problems) }
}

fn read(table: &DeTable<'_>, s: &mut Source<'_>, sources: &Sources) -> Config {
    let mut config = defaults(table, s);
    let mut root = Section::root(Some(table));
    let base = config.clone();
    config.describe(&mut Reader::new(&mut root, s, "", &base));
    root.finish(s);
    let (listen, from) = urls("--listen", &sources.listen, LISTEN, &sources.env);
    if !listen.is_empty() {
        config.listen.clear();
        s.places.retain(|path, _| !path.starts_with("listen["));
    }
    for (n, url) in listen.into_iter().enumerate() {
        s.places.insert(format!("listen[{n}]"), from.to_string());
        match listen_url(&url) {
            Ok(url) => config.listen.push(Listen::new(url, config.protocol)),
            Err(problem) => s.problem(from.into(), "", problem),
        }
    }
    let (sinks, from) = urls("--sink", &sources.sink, SINK, &sources.env);
    if !sinks.is_empty() {
        s.places.retain(|path, _| !path.starts_with("sink["));
        s.places.extend((0..sinks.len()).map(|n| (format!("sink[{n}]"), from.to_string())));
    }
    sink::replace(&mut config, s, &sinks, from);
    check(&config, table, s, (!sinks.is_empty()).then_some(from));
    config
}

/// The defaults: those that hang on other settings by what is said of these.
fn defaults(table: &DeTable<'_>, s: &mut Source<'_>) -> Config {
    // Mistakes are reported when everything is read.
    let known = s.problems.len();
    let mut only = |config: &mut Config, keys: &'static [&'static str]| {
        let (mut root, base) = (Section::root(Some(table)), config.clone());
        config.describe(&mut Only { keys, reader: Reader::new(&mut root, s, "", &base) });
        s.problems.truncate(known);
    };
    let mut first = Config::default();
    only(&mut first, &["profile", "interval"]);
    let mut config = Config { interval: first.interval, ..Config::of(first.profile) };
    only(&mut config, &["etsy"]);
    config.etsy.default_by_delete_idle_stats();
    only(&mut config, &["etsy"]);
    config.default_by_etsy();
    only(&mut config, &["protocol"]);
    config.default_by_protocol();
    config
}

/// What can be wrong between tables. `replaced` is what the sinks come from, if that is not the file.
fn check(config: &Config, table: &DeTable<'_>, s: &mut Source<'_>, replaced: Option<&str>) {
    let mut root = Section::root(Some(table));
    let known = s.problems.len();
    let mut places =
        |s: &mut Source<'_>, key| root.sections(s, key).into_iter().map(|(_, place)| place).collect::<Vec<_>>();
    let listeners = places(s, "listen");
    let relays = places(s, "relay");
    let sinks = places(s, "sink");
    let targets = places(s, "notify");
    let rules = root.sections(s, "rule");
    s.problems.truncate(known);
    check_listeners(config, s, &listeners);
    for (n, place) in relays.into_iter().enumerate() {
        let name = &config.relays[n].name;
        if config.relays[..n].iter().any(|other| other.name == *name) {
            let problem = format!("two relays are called `{name}`; give one another `name`");
            s.problem(place, &format!("relay[{n}].name"), problem);
        }
    }
    for (n, place) in targets.into_iter().enumerate() {
        let Some(name) = config.notify.get(n).map(|target| &target.name) else { continue };
        if !name.is_empty() && config.notify[..n].iter().any(|other| other.name == *name) {
            let problem = format!("two targets are called `{name}`; give one another `name`");
            s.problem(place, &format!("notify[{n}].name"), problem);
        }
    }
    for n in 1..config.sinks.len() {
        let name = &config.sinks[n].name;
        if !name.is_empty() && config.sinks[..n].iter().any(|other| other.name == *name) {
            let (place, key) = match replaced {
                Some(from) => (from.to_string(), String::new()),
                None => (sinks.get(n).cloned().unwrap_or_default(), format!("sink[{n}].name")),
            };
            s.problem(place, &key, format!("two sinks are called `{name}`; give one another `name`"));
        }
    }
    check_peers(config, s);
    check_cluster(config, s, |n| match replaced {
        Some(from) => from.to_string(),
        None => sinks.get(n).cloned().unwrap_or_default(),
    });
    let of_sink = |n: usize, key: &str| match replaced {
        Some(from) => (from.to_string(), String::new()),
        None => (sinks.get(n).cloned().unwrap_or_default(), format!("sink[{n}].{key}")),
    };
    check_addresses(config, s, |n| of_sink(n, "address"));
    check_files(config, s, of_sink);
    for (mut rule, _) in rules {
        let known = s.problems.len();
        let items = rule.list(s, "sinks").unwrap_or_default();
        let names: Vec<_> = items.into_iter().map(|item| (item.string(s).unwrap_or_default(), item)).collect();
        // What is wrong with the list itself is known.
        s.problems.truncate(known);
        for (name, item) in names.into_iter().filter(|(name, _)| !name.is_empty()) {
            if !config.sinks.iter().any(|sink| sink.name == name) {
                let hint = suggestion(&name, config.sinks.iter().map(|sink| sink.name.as_str()));
                s.problem(item.place, &item.key, format!("no sink is called `{name}`{hint}"));
            }
        }
    }
}

/// No address is listened at twice.
fn check_listeners(config: &Config, s: &mut Source<'_>, tables: &[String]) {
    for (n, Listen { url, .. }) in config.listen.iter().enumerate() {
        let problem = match config.listen[..n].iter().find(|other| overlap(&other.url, url)) {
            Some(other) if other.url == *url => format!("`{url}` is there twice; leave one of them out"),
            Some(other) => format!("`{url}` is an address of `{}`, too; leave one of them out", other.url),
            None => continue,
        };
        let key = format!("listen[{n}]");
        // From the command line or the environment, or a table of the file.
        let from = s.places.get(&key).or(tables.get(n)).cloned().unwrap_or_default();
        s.problem(from, &format!("{key}.url"), problem);
    }
}

/// Whether the kernel refuses the second of two listeners.
fn overlap(one: &ListenUrl, other: &ListenUrl) -> bool {
    let is_file = matches!(one, ListenUrl::Unix(_) | ListenUrl::Unixgram(_));
    one.collides_with(other) && (one == other || !is_file)
}

/// Two sinks cannot write one file, nor have one folder for what waits. `of_sink` is where a sink stands, and a key of it.
fn check_files(config: &Config, s: &mut Source<'_>, of_sink: impl Fn(usize, &str) -> (String, String)) {
    let file = |sink: &Sink| sink.kind.spec().file().map(PathBuf::from);
    let spool = |sink: &Sink| sink.spool.as_ref().map(|spool| spool.path.clone());
    check_paths(&config.sinks, s, file, |n| of_sink(n, "path"));
    check_paths(&config.sinks, s, spool, |n| of_sink(n, "spool.path"));
}

fn check_paths(
    sinks: &[Sink],
    s: &mut Source<'_>,
    path_of: impl Fn(&Sink) -> Option<PathBuf>,
    place_of: impl Fn(usize) -> (String, String),
) {
    for (n, sink) in sinks.iter().enumerate() {
        // Devices and databases in memory are no files that two could spoil.
        let is_file = |path: &PathBuf| path.is_absolute() && !path.starts_with("/dev");
        let Some(path) = path_of(sink).filter(is_file) else { continue };
        if let Some(other) = sinks[..n].iter().find(|other| path_of(other).as_ref() == Some(&path)) {
            let (place, key) = place_of(n);
            let path = path.display();
            s.problem(
                place,
                &key,
                format!("`{path}` is that of the sink `{}`, too; give one of them another", other.name),
            );
        }
    }
}

/// Two ports cannot have one address. `of_sink` is where a sink stands, and the key of its address.
fn check_addresses(config: &Config, s: &mut Source<'_>, of_sink: impl Fn(usize) -> (String, String)) {
    let lines = config.listen.iter().filter_map(|listen| match listen.url {
        ListenUrl::Tcp(address) => Some((format!("the listener {}", listen.url), address)),
        ListenUrl::Udp(_) | ListenUrl::Unix(_) | ListenUrl::Unixgram(_) | ListenUrl::Fd(_) => None,
    });
    let mut taken: Vec<_> = lines.collect();
    let own = [
        ("management.address", "`management.address`", config.management.address),
        ("http.address", "the page (`http.address`)", config.http.address),
    ];
    for (key, who, address) in own {
        let Some(address) = address else { continue };
        if let Some((other, _)) = taken.iter().find(|(_, other)| may_collide(&address, other)) {
            let place = s.places.get(key).cloned().unwrap_or_default();
            s.problem(place, key, format!("`{address}` is taken by {other}; give one of them another port"));
        }
        taken.push((who.to_string(), address));
    }
    for (n, sink) in config.sinks.iter().enumerate() {
        let Some(address) = sink.kind.spec().listens_at() else { continue };
        if let Some((who, _)) = taken.iter().find(|(_, other)| may_collide(&address, other)) {
            let (place, key) = of_sink(n);
            s.problem(place, &key, format!("`{address}` is taken by {who}; give one of them another port"));
        }
        taken.push((format!("the sink `{}`", sink.name), address));
    }
}

/// A peer is another node, and its URL that of all its pages.
fn check_peers(config: &Config, s: &mut Source<'_>) {
    if config.cluster.role != Role::Standalone {
        let peers = &config.presence.peers;
        let own = &config.cluster.node;
        let why = "the nodes of a cluster ask each other over its bus, by their names there";
        let settings = [
            ("presence.peers", !peers.urls.is_empty()),
            ("presence.peer_token", peers.token.is_some()),
            ("presence.node", !peers.node.is_empty() && peers.node != *own),
        ];
        for (key, _) in settings.into_iter().filter(|(_, is_set)| *is_set) {
            let place = s.places.get(key).cloned().unwrap_or_default();
            s.problem(place, key, format!("{why}: leave it out"));
        }
        return;
    }
    let own = config.http.address;
    for (n, url) in config.presence.peers.urls.iter().enumerate() {
        let key = format!("presence.peers[{n}]");
        let problem = if own.is_some_and(|own| presence_peers::is_at(url, own)) {
            "is this node itself (`http.address`); give the address of the other one".to_string()
        } else if let Some(pages) = presence_peers::before_page(url) {
            format!("is one page of it; `{pages}` is right, where all of them begin")
        } else {
            continue;
        };
        let place = s.places.get(&key).or_else(|| s.places.get("presence.peers")).cloned().unwrap_or_default();
        s.problem(place, &key, format!("`{}` {problem}", without_login(url)));
    }
}

/// Kinds of sinks that overwrite an interval that they get again.
const OVERWRITING: [&str; 4] = ["graphite", "influx", "postgres", "sqlite"];

/// Owners of partitions change, so a sink of a cluster keeps nothing over intervals.
fn check_cluster(config: &Config, s: &mut Source<'_>, of_sink: impl Fn(usize) -> String) {
    if !config.cluster.role.is_global() {
        return;
    }
    for (n, sink) in config.sinks.iter().enumerate() {
        if sink.interval.is_some() {
            let problem =
                "a sink of a cluster has the interval of the cluster: what it gathers would be lost with its node";
            s.problem(of_sink(n), &format!("sink[{n}].interval"), problem);
        }
        let kind = sink.kind.name();
        if config.cluster.late == Late::Amend && !OVERWRITING.contains(&kind) {
            let problem = format!(
                "a sink `{kind}` cannot overwrite an interval that it gets again; `cluster.late = \"drop\"` is right"
            );
            s.problem(of_sink(n), &format!("sink[{n}].type"), problem);
        }
    }
}

/// Reads settings from a table.
pub(super) struct Reader<'r, 'a, 's> {
    section: &'r mut Section<'a>,
    source: &'r mut Source<'s>,
    /// Of the table.
    place: &'r str,
    profile: Profile,
    interval: Duration,
    /// Mistakes that were there before this table.
    known: usize,
}

impl<'r, 'a, 's> Reader<'r, 'a, 's> {
    /// A reader; what settings depend on is in `config`.
    pub(super) fn new(
        section: &'r mut Section<'a>,
        source: &'r mut Source<'s>,
        place: &'r str,
        config: &Config,
    ) -> Reader<'r, 'a, 's> {
        let known = source.problems.len();
        Reader { section, source, place, profile: config.profile, interval: config.interval, known }
    }

    /// Reads a setting; whether it is there and right.
    fn read(&mut self, key: &'static str, field: Opt<'_>) -> bool {
        let (section, s) = (&mut *self.section, &mut *self.source);
        match field {
            Opt::Maybe(is_there, inner) => {
                let read = self.read(key, *inner);
                *is_there |= read;
                read
            }
            Opt::HostPort(value) => self.tested(key, value, host_and_port, "; \"127.0.0.1:2003\" is right"),
            Opt::Url(value) => self.tested(key, value, http_url, ""),
            Opt::UrlOrEmpty(value) => {
                self.tested(key, value, |url| if url.is_empty() { Ok(()) } else { http_url(url) }, "")
            }
            Opt::Text(value) | Opt::TextOrNone(value) => put(value, section.string(s, key)),
            Opt::Secret(value) => put(value, section.secret(s, key)),
            Opt::Path(value) => put(value, section.string(s, key).map(PathBuf::from)),
            Opt::Address(value) => self.address(key, value, "", "\"127.0.0.1:9125\" is right"),
            Opt::AddressOrOff(value, example) => {
                self.address(key, value, "off", &format!("\"{example}\" or \"off\" is right"))
            }
            Opt::Flag(value) => put(value, section.bool(s, key)),
            Opt::Whole(value, range) => put(value, section.integer(s, key, range)),
            Opt::Number(value, range) => put(value, section.number(s, key, range)),
            Opt::Duration(value, range) => put(value, section.duration(s, key, range)),
            Opt::MaybeDuration(value, range) => put(value, section.duration(s, key, range).map(Some)),
            Opt::Lifetime(value, range) => put(value, section.lifetime(s, key, range)),
            Opt::Size(value, range) => put(value, section.size(s, key, range)),
            Opt::MaybeSize(value, range) => put(value, section.size(s, key, range).map(Some)),
            Opt::Texts(value) | Opt::Command(value) => put(value, section.strings(s, key)),
            Opt::Numbers(value, range) => put(value, section.numbers(s, key, range)),
            Opt::Wholes(value, range) => put(value, section.integers(s, key, range)),
            Opt::Networks(value) => {
                let items = section.list(s, key);
                let networks = items.map(|items| items.iter().filter_map(|item| network(item, s)).collect());
                put(value, networks.map(Some))
            }
            Opt::Urls(value) => self.urls(key, value),
            Opt::Map(value) | Opt::Secrets(value) => put(value, section.map(s, key)),
            Opt::NumbersByKey(value) => put(value, section.numbers_by_key(s, key)),
            Opt::Choice(words, value) => {
                let words: Vec<(&str, usize)> = words.iter().zip(0..).map(|(word, n)| (*word, n)).collect();
                put(value, section.choice(s, key, &words))
            }
            Opt::Parsed(parsed) => self.parsed(key, parsed),
            Opt::List(list) => self.list(key, list),
        }
    }

    /// A text that must pass a test, also where a URL has brought it.
    fn tested(
        &mut self,
        key: &'static str,
        value: &mut String,
        test: fn(&str) -> Result<(), String>,
        example: &str,
    ) -> bool {
        let (place, text) = match self.section.find(self.source, key) {
            Some(found) => match found.string(self.source) {
                Some(text) => (found.place, text),
                None => return false,
            },
            None if value.is_empty() => return false,
            None => (self.place.to_string(), value.clone()),
        };
        match test(&text) {
            Ok(()) => put(value, Some(text)),
            Err(problem) => {
                self.source.problem(place, &self.section.full(key), format!("{problem}{example}"));
                false
            }
        }
    }

    /// An address that is looked up; `off` is the word for none.
    fn address(&mut self, key: &'static str, value: &mut Option<SocketAddr>, off: &str, right: &str) -> bool {
        let Some(found) = self.section.find(self.source, key) else { return false };
        let Some(text) = found.string(self.source) else { return false };
        if !off.is_empty() && text == off {
            return put(value, Some(None));
        }
        match address(&text) {
            Ok(good) => put(value, Some(Some(good))),
            Err(problem) => {
                self.source.problem(found.place, &found.key, format!("{problem}; {right}"));
                false
            }
        }
    }

    fn urls(&mut self, key: &'static str, value: &mut Vec<String>) -> bool {
        let Some(items) = self.section.list(self.source, key) else { return false };
        value.clear();
        for item in items {
            let Some(url) = item.string(self.source).filter(|url| !url.is_empty()) else { continue };
            match http_url(&url) {
                Ok(()) => value.push(url),
                Err(problem) => self.source.problem(item.place, &item.key, problem),
            }
        }
        true
    }

    fn parsed(&mut self, key: &'static str, parsed: Parsed<'_>) -> bool {
        let Some(found) = self.section.find(self.source, key) else { return false };
        let text = if parsed.takes_numbers {
            let text = found.text_or_number();
            if text.is_none() {
                found.refuse(self.source, parsed.form);
            }
            text
        } else {
            found.string(self.source)
        };
        let Some(text) = text else { return false };
        match (parsed.read)(&text) {
            Ok(()) => true,
            Err(wrong) => {
                refuse(&found, self.source, wrong);
                false
            }
        }
    }

    fn list(&mut self, key: &'static str, list: List<'_>) -> bool {
        if self.section.find(self.source, key).is_none() {
            return false;
        }
        let items = match list.or_one {
            true => self.section.one_or_more(self.source, key),
            false => match self.section.list(self.source, key) {
                Some(items) => items,
                None => return false,
            },
        };
        list.items.clear();
        for item in items {
            let text = match list.takes_numbers {
                // What is neither a text nor a number is no item of any list.
                true => item.text_or_number().unwrap_or_default(),
                false => match item.string(self.source) {
                    Some(text) => text,
                    None => continue,
                },
            };
            if let Err(wrong) = list.items.add(&text) {
                refuse(&item, self.source, wrong);
            }
        }
        true
    }
}

fn put<T>(value: &mut T, read: Option<T>) -> bool {
    let is_there = read.is_some();
    if let Some(read) = read {
        *value = read;
    }
    is_there
}

fn refuse(found: &Found<'_>, s: &mut Source<'_>, wrong: Wrong) {
    match wrong {
        Wrong::Not(expected) => found.refuse(s, &expected),
        Wrong::Because(problem) => s.problem(found.place.clone(), &found.key, problem),
    }
}

fn network(item: &Found<'_>, s: &mut Source<'_>) -> Option<IpNet> {
    let text = item.string(s)?;
    let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).ok();
    if network.is_none() {
        item.refuse(s, "a network such as \"10.0.0.0/8\" or \"fd00::/8\"");
    }
    network
}

impl OptionVisitor for Reader<'_, '_, '_> {
    fn field(&mut self, key: &'static str, _: &'static str, field: Opt<'_>) {
        self.read(key, field);
    }

    fn in_table(&mut self, key: &'static str, inner: &mut dyn FnMut(&mut dyn OptionVisitor)) {
        let own_place = self.section.place_of(self.source, key);
        let mut section = self.section.section(self.source, key);
        let known = self.source.problems.len();
        let place = own_place.as_deref().unwrap_or(self.place);
        let (profile, interval) = (self.profile, self.interval);
        inner(&mut Reader { section: &mut section, source: self.source, place, profile, interval, known });
        section.finish(self.source);
    }

    fn in_optional_table(
        &mut self,
        key: &'static str,
        _: bool,
        inner: &mut dyn FnMut(&mut dyn OptionVisitor, bool),
    ) -> bool {
        let is_there = self.section.has_table(self.source, key);
        self.in_table(key, &mut |visitor| inner(visitor, is_there));
        is_there
    }

    fn sections(&mut self, key: &'static str, _: &'static str, tables: &mut dyn Tables) {
        let found = self.section.sections(self.source, key);
        if !found.is_empty() {
            tables.clear();
        }
        for (n, (mut section, place)) in found.into_iter().enumerate() {
            tables.add();
            let known = self.source.problems.len();
            let (source, profile, interval) = (&mut *self.source, self.profile, self.interval);
            let mut reader = Reader { section: &mut section, source, place: &place, profile, interval, known };
            tables.describe(n, &mut reader);
            section.finish(self.source);
        }
    }

    fn require_one(&mut self, key: &'static str, is_there: bool, example: &str) {
        let full = self.section.full(key);
        // What is there and wrong is reported already.
        let is_of = |problem: &Problem| {
            let inner = full.strip_prefix(&problem.key).filter(|_| !problem.key.is_empty());
            problem.key.starts_with(&full)
                || inner.is_some_and(|rest| rest.starts_with('.') && rest.len() == key.len() + 1)
        };
        if !is_there && !self.source.problems.iter().any(is_of) {
            self.section.missing(self.source, self.place, key, example);
        }
    }

    fn require(&mut self, key: &'static str, verdict: Result<(), String>) {
        let Err(problem) = verdict else { return };
        if key.is_empty() {
            if self.source.problems.len() == self.known {
                self.source.problem(self.place.to_string(), self.section.kind(), problem);
            }
            return;
        }
        let found = self.section.find(self.source, key);
        let there = found.map(|found| (found.place, found.key));
        let (place, full) = there.unwrap_or_else(|| (self.place.to_string(), self.section.full(key)));
        self.source.problem(place, &full, problem);
    }

    fn give_up(&mut self) {
        self.section.give_up();
    }

    fn is_reader(&self) -> bool {
        true
    }

    fn reads_files(&self) -> bool {
        self.source.reads_files
    }

    fn profile(&self) -> &'static str {
        self.profile.name()
    }

    fn interval(&self) -> Duration {
        self.interval
    }
}

/// Reads only some settings of the root, and tables.
struct Only<'r, 'a, 's> {
    keys: &'static [&'static str],
    reader: Reader<'r, 'a, 's>,
}

impl OptionVisitor for Only<'_, '_, '_> {
    fn field(&mut self, key: &'static str, doc: &'static str, field: Opt<'_>) {
        if self.keys.contains(&key) {
            self.reader.field(key, doc, field);
        }
    }

    fn in_table(&mut self, key: &'static str, inner: &mut dyn FnMut(&mut dyn OptionVisitor)) {
        if self.keys.contains(&key) {
            self.reader.in_table(key, inner);
        }
    }

    fn require_one(&mut self, _: &'static str, _: bool, _: &str) {}

    fn require(&mut self, _: &'static str, _: Result<(), String>) {}

    fn profile(&self) -> &'static str {
        self.reader.profile()
    }
}
