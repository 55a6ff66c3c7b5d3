//! From text, environment and command line to a [`Config`], with every mistake on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use toml::de::DeTable;

use crate::aggregate::rules::Rules;
use crate::protocol::{GaugeSign, MAX_NAME_BYTES, NameTags, Options};
use crate::sinks::LONG;
use crate::snapshot::Bins;

use super::reader::{Found, Problem, Section, Source};
use super::schema::{
    Config, DOGSTATSD_AGGREGATES, Etsy, Framing, Http, Idle, Listen, Log, LogFormat, Management, Profile, Workers,
};
use super::sink::Daemon;
use super::url::{ListenUrl, address, listen_url};

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
}

const INTERVAL: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(86_400);
pub(super) const LIFETIME: RangeInclusive<Duration> = Duration::from_millis(10)..=LONG;
const TIMESTAMPS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(1000 * 366 * 86_400);
/// More than there can be in the tag text that a line may carry.
const MOST_TAGS: u64 = 8192;
const GRACE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);
const BUSY_POLL: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(1);
const IDLE_TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(7 * 86_400);

/// Reads everything.
///
/// # Errors
/// All mistakes, in the order of the file.
pub fn load(sources: &Sources) -> Result<Config, Vec<Problem>> {
    let (file, text) = sources.file.as_ref().map_or(("", ""), |(file, text)| (file.as_str(), text.as_str()));
    let mut source = Source::new(file, text, &sources.env);
    let (root, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let place = source.place(error.span().unwrap_or(0..0));
        source.problem(place, "", error.message().trim().replace('\n', ", "));
    }
    if !source.problems.is_empty() {
        // What could be read of broken TOML would only add noise.
        source.problems.sort_by_key(Problem::position);
        return Err(source.problems);
    }
    let config = read(Section::root(Some(root.get_ref())), &mut source, sources);
    let mut problems = source.finish();
    problems.sort_by_key(Problem::position);
    if problems.is_empty() { Ok(config) } else { Err(problems) }
}

/// Every key that a file can set, as `section.key`; those of an array of tables only if the file has one.
pub fn known_keys(text: &str) -> BTreeSet<String> {
    let env = BTreeMap::new();
    let mut source = Source::new("", text, &env);
    source.known = Some(BTreeSet::new());
    let (root, _) = DeTable::parse_recoverable(text);
    let _ = read(Section::root(Some(root.get_ref())), &mut source, &Sources::default());
    source.known.unwrap_or_default()
}

fn read(mut root: Section<'_>, source: &mut Source<'_>, sources: &Sources) -> Config {
    let s = source;
    let profile = profile(&mut root, s);
    let etsy_profile = profile == Profile::Etsy;

    let interval = root.duration(s, "interval", INTERVAL);
    let interval = sources.interval.or(interval).unwrap_or(Duration::from_secs(10));
    if !INTERVAL.contains(&interval) {
        s.problem("--interval".into(), "", "from 10ms to 1day is right");
    }
    let percentiles = root.numbers(s, "percentiles", -100.0..=100.0);
    let percentiles = percentiles.unwrap_or_else(|| match profile {
        Profile::Etsy => vec![90.0],
        Profile::Dogstatsd => vec![95.0],
        Profile::Systole => vec![50.0, 90.0, 95.0, 99.0, 99.9],
    });
    let exact_samples = root.integer(s, "exact_samples", 1..=1_000_000).unwrap_or(4096) as usize;
    let digits = root.integer(s, "digits", 1..=5).unwrap_or(3) as u8;
    let etsy = etsy(&mut root, s);
    let deletes =
        etsy_profile && (etsy.delete_counters || etsy.delete_timers || etsy.delete_gauges || etsy.delete_sets);
    let minutes = |n: u64| Some(Duration::from_secs(60 * n));
    let gauge_ttl = root.lifetime(s, "gauge_ttl", LIFETIME);
    let gauge_ttl = gauge_ttl.unwrap_or(if etsy_profile { None } else { minutes(5) });
    let series_ttl = root.lifetime(s, "series_ttl", LIFETIME);
    let series_ttl = series_ttl.unwrap_or(if etsy_profile && !deletes { None } else { minutes(10) });
    let max_series = root.integer(s, "max_series", 1..=1_000_000_000).unwrap_or(1_000_000) as usize;
    let timestamp_past = root.duration(s, "timestamp_past", TIMESTAMPS).unwrap_or(Duration::from_secs(7 * 86_400));
    let timestamp_future = root.duration(s, "timestamp_future", TIMESTAMPS).unwrap_or(Duration::from_secs(3600));
    let prefix = root.string(s, "prefix").unwrap_or_default();
    let tags = root.map(s, "tags").unwrap_or_default();
    let self_metrics = root.bool(s, "self_metrics").unwrap_or(true);
    let shutdown_grace = root.duration(s, "shutdown_grace", GRACE).unwrap_or(Duration::from_secs(10));

    let mut defaults = Options::default();
    let max_tags = root.integer(s, "max_tags", 1..=MOST_TAGS);
    defaults.max_tags = max_tags.map_or(defaults.max_tags, |n| n as u32);
    if etsy_profile {
        defaults.sanitize = true;
        defaults.name_tags = NameTags { graphite: true, ..NameTags::NONE };
    }
    if profile == Profile::Dogstatsd {
        defaults.gauge_sign = GaugeSign::Absolute;
    }
    let aggregates = aggregates(&mut root, s);
    let section = root.section(s, "protocol");
    let protocol = protocol(section, s, defaults);
    let idle = idle(&mut root, s, etsy_profile, &etsy);
    let listen = listeners(&mut root, s, &protocol, &sources.listen);
    let sinks = super::sink::read_all(&mut root, s, Daemon { profile, interval }, &sources.sink);
    let rules = super::rule::read(&mut root, s, &sinks);
    let relays = super::relay::read(&mut root, s);
    let presence = super::presence::read(&mut root, s, etsy_profile);
    let management = management(&mut root, s);
    let http = http(&mut root, s, sources.http.as_deref());
    let log = log(&mut root, s);
    root.finish(s);
    Config {
        interval,
        profile,
        percentiles,
        exact_samples,
        digits,
        gauge_ttl,
        series_ttl,
        max_series,
        timestamp_past,
        timestamp_future,
        prefix,
        tags,
        self_metrics,
        shutdown_grace,
        protocol,
        idle,
        rules: Arc::new(Rules::new(rules)),
        listen,
        sinks,
        relays,
        etsy,
        aggregates,
        presence,
        management,
        http,
        log,
    }
}

/// What the naming `dogstatsd` tells of timers.
fn aggregates(root: &mut Section<'_>, s: &mut Source<'_>) -> Vec<String> {
    let mut section = root.section(s, "dogstatsd");
    let known = ["max", "min", "median", "avg", "sum", "count"];
    let mut aggregates = DOGSTATSD_AGGREGATES.map(String::from).to_vec();
    if let Some(items) = section.list(s, "aggregates") {
        aggregates.clear();
        for item in items {
            match item.string(s) {
                Some(text) if known.contains(&text.as_str()) => aggregates.push(text),
                Some(_) => item.refuse(s, &format!("one of {}", known.join(", "))),
                None => {}
            }
        }
    }
    section.finish(s);
    aggregates
}

fn profile(root: &mut Section<'_>, s: &mut Source<'_>) -> Profile {
    let words = [Profile::Systole, Profile::Etsy, Profile::Dogstatsd].map(|profile| (profile.name(), profile));
    root.choice(s, "profile", &words).unwrap_or(Profile::Systole)
}

fn protocol(mut section: Section<'_>, s: &mut Source<'_>, defaults: Options) -> Options {
    let mut options = defaults;
    if let Some(styles) = section.list(s, "name_tags") {
        options.name_tags = NameTags::NONE;
        for item in &styles {
            let Some(style) = item.string(s) else {
                continue;
            };
            // An empty variable means no style at all.
            if !style.is_empty() && !options.name_tags.enable(&style) {
                let hint = super::reader::suggestion(&style, NameTags::NAMES.into_iter());
                let known = NameTags::NAMES.map(|name| format!("`{name}`")).join(", ");
                s.problem(item.place.clone(), &item.key, format!("`{style}` is none of {known}{hint}"));
            }
        }
    }
    options.sanitize = section.bool(s, "sanitize").unwrap_or(options.sanitize);
    let signs = [("delta", GaugeSign::Delta), ("absolute", GaugeSign::Absolute)];
    options.gauge_sign = section.choice(s, "gauge_sign", &signs).unwrap_or(options.gauge_sign);
    options.abbreviated_meter = section.bool(s, "abbreviated_meter").unwrap_or(options.abbreviated_meter);
    options.absolute_counters = section.bool(s, "absolute_counters").unwrap_or(options.absolute_counters);
    options.binary = section.bool(s, "binary").unwrap_or(options.binary);
    let max_name = section.integer(s, "max_name", 1..=MAX_NAME_BYTES as u64);
    options.max_name = max_name.map_or(options.max_name, |n| n as usize);
    section.finish(s);
    options
}

fn idle(root: &mut Section<'_>, s: &mut Source<'_>, etsy_profile: bool, etsy: &Etsy) -> Idle {
    let mut section = root.section(s, "idle");
    let words = [("drop", false), ("zero", true)];
    let mut read = |key, delete: bool| section.choice(s, key, &words).unwrap_or(etsy_profile && !delete);
    let idle = Idle {
        counters_zero: read("counters", etsy.delete_counters),
        timers_zero: read("timers", etsy.delete_timers),
        sets_zero: read("sets", etsy.delete_sets),
    };
    section.finish(s);
    idle
}

fn listeners(root: &mut Section<'_>, s: &mut Source<'_>, protocol: &Options, urls: &[String]) -> Vec<Listen> {
    let mut listeners = Vec::new();
    for (section, place) in root.sections(s, "listen") {
        listeners.extend(listener(section, &place, s, protocol));
    }
    if !urls.is_empty() {
        listeners.clear();
    }
    for url in urls {
        match listen_url(url) {
            Ok(url) => listeners.push(Listen::new(url, *protocol)),
            Err(problem) => s.problem("--listen".into(), "", problem),
        }
    }
    if listeners.is_empty() && s.problems.is_empty() {
        let url = listen_url("udp://127.0.0.1:8125").expect("the default is a valid URL");
        listeners.push(Listen::new(url, *protocol));
    }
    listeners
}

fn listener(mut section: Section<'_>, place: &str, s: &mut Source<'_>, protocol_defaults: &Options) -> Option<Listen> {
    let mut url: Option<ListenUrl> = None;
    match section.find(s, "url") {
        None => section.missing(s, place, "url", "\"udp://127.0.0.1:8125\""),
        Some(found) => {
            if let Some(text) = found.string(s) {
                match listen_url(&text) {
                    Ok(good) => url = Some(good),
                    Err(problem) => s.problem(found.place, &found.key, problem),
                }
            }
        }
    }
    let fallback = listen_url("udp://127.0.0.1:8125").expect("the default is a valid URL");
    let mut listen = Listen::new(url.clone().unwrap_or(fallback), *protocol_defaults);
    if let Some(found) = section.find(s, "workers") {
        match found.text_or_number() {
            Some(text) if text == "auto" => {}
            Some(text) => match text.parse() {
                Ok(count @ 1..=64) => listen.workers = Workers::Count(count),
                _ => found.refuse(s, "\"auto\" or a whole number from 1 to 64"),
            },
            None => found.refuse(s, "\"auto\" or a whole number from 1 to 64"),
        }
    }
    listen.receive_buffer = section.size(s, "receive_buffer", 4096..=1 << 30).unwrap_or(listen.receive_buffer);
    listen.receive_buffer_force = section.bool(s, "receive_buffer_force").unwrap_or(listen.receive_buffer_force);
    let max_datagram = section.size(s, "max_datagram", 512..=64 << 10);
    listen.max_datagram = max_datagram.map_or(listen.max_datagram, |n| n as usize);
    if let Some(cores) = section.integers(s, "cores", 0..=1023) {
        listen.cores = cores.into_iter().map(|core| core as usize).collect();
    }
    listen.busy_poll = section.duration(s, "busy_poll", BUSY_POLL).unwrap_or(listen.busy_poll);
    listen.realtime = section.bool(s, "realtime").unwrap_or(listen.realtime);
    if let Some(networks) = section.list(s, "allow") {
        listen.allow = Some(networks.iter().filter_map(|item| network(item, s)).collect());
    }
    let max_connections = section.integer(s, "max_connections", 1..=1_000_000);
    listen.max_connections = max_connections.map_or(listen.max_connections, |n| n as usize);
    listen.idle_timeout = section.duration(s, "idle_timeout", IDLE_TIMEOUT).unwrap_or(listen.idle_timeout);
    let framings = [("newline", Framing::Newline), ("length", Framing::Length)];
    listen.framing = section.choice(s, "framing", &framings).unwrap_or(listen.framing);
    if let Some(found) = section.find(s, "mode") {
        let text = found.string(s).unwrap_or_default();
        match u32::from_str_radix(&text, 8) {
            Ok(mode) if mode <= 0o777 && text.len() >= 3 => listen.mode = mode,
            _ => found.refuse(s, "the rights of a file in octal, such as \"0660\""),
        }
    }
    let own = section.section(s, "protocol");
    listen.protocol = protocol(own, s, *protocol_defaults);
    section.finish(s);
    url.map(|_| listen)
}

pub(super) fn network(item: &Found<'_>, s: &mut Source<'_>) -> Option<IpNet> {
    let text = item.string(s)?;
    let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).ok();
    if network.is_none() {
        item.refuse(s, "a network such as \"10.0.0.0/8\" or \"fd00::/8\"");
    }
    network
}

fn etsy(root: &mut Section<'_>, s: &mut Source<'_>) -> Etsy {
    let mut section = root.section(s, "etsy");
    let mut etsy = Etsy::default();
    for (key, value) in [
        ("global_prefix", &mut etsy.names.global_prefix),
        ("global_suffix", &mut etsy.names.global_suffix),
        ("prefix_counter", &mut etsy.names.prefix_counter),
        ("prefix_timer", &mut etsy.names.prefix_timer),
        ("prefix_gauge", &mut etsy.names.prefix_gauge),
        ("prefix_set", &mut etsy.names.prefix_set),
        ("prefix_stats", &mut etsy.names.prefix_stats),
    ] {
        if let Some(text) = section.string(s, key) {
            *value = text;
        }
    }
    let delete_idle = section.bool(s, "delete_idle_stats").unwrap_or(false);
    for (key, value, default) in [
        ("legacy_namespace", &mut etsy.names.legacy_namespace, true),
        ("flush_counts", &mut etsy.names.flush_counts, true),
        ("delete_counters", &mut etsy.delete_counters, delete_idle),
        ("delete_timers", &mut etsy.delete_timers, delete_idle),
        ("delete_gauges", &mut etsy.delete_gauges, delete_idle),
        ("delete_sets", &mut etsy.delete_sets, delete_idle),
    ] {
        *value = section.bool(s, key).unwrap_or(default);
    }
    etsy.gauges_max_ttl = section.integer(s, "gauges_max_ttl", 1..=1_000_000).unwrap_or(1) as u32;
    etsy.names.calculated_timer_metrics = section.strings(s, "calculated_timer_metrics").unwrap_or_default();
    for (mut histogram, place) in section.sections(s, "histogram") {
        let metric = histogram.string(s, "metric").unwrap_or_default();
        let Some(bins) = histogram.list(s, "bins") else {
            histogram.missing(s, &place, "bins", "[10, 100, \"inf\"]");
            continue;
        };
        let limits = bins.iter().filter_map(|bin| match bin.text_or_number().as_deref() {
            Some("inf") => Some(None),
            Some(text) if text.parse::<f64>().is_ok_and(f64::is_finite) => text.parse().ok().map(Some),
            _ => {
                bin.refuse(s, "a number or \"inf\"");
                None
            }
        });
        etsy.histogram.push(Bins { metric, limits: limits.collect() });
        histogram.finish(s);
    }
    section.finish(s);
    etsy
}

fn management(root: &mut Section<'_>, s: &mut Source<'_>) -> Management {
    let mut section = root.section(s, "management");
    let mut management = Management { address: None, healthy: true, allow: None };
    if let Some(networks) = section.list(s, "allow") {
        management.allow = Some(networks.iter().filter_map(|item| network(item, s)).collect());
    }
    if let Some(found) = section.find(s, "address")
        && let Some(text) = found.string(s).filter(|text| text != "off")
    {
        match address(&text) {
            Ok(good) if !good.ip().is_loopback() && management.allow.is_none() => {
                let way_out = "say who may delete series with `allow = [\"10.0.0.0/8\"]`";
                s.problem(found.place, &found.key, format!("`{text}` is not on loopback; {way_out}"));
            }
            Ok(good) => management.address = Some(good),
            Err(problem) => {
                s.problem(found.place, &found.key, format!("{problem}; \"127.0.0.1:8126\" or \"off\" is right"));
            }
        }
    }
    management.healthy = section.choice(s, "health", &[("up", true), ("down", false)]).unwrap_or(true);
    section.finish(s);
    management
}

fn http(root: &mut Section<'_>, s: &mut Source<'_>, option: Option<&str>) -> Http {
    let mut section = root.section(s, "http");
    let found = section.find(s, "address");
    let (text, place, key) = match (option, &found) {
        (Some(text), _) => (text.to_string(), "--http".to_string(), String::new()),
        (None, Some(found)) => (found.string(s).unwrap_or("off".into()), found.place.clone(), found.key.clone()),
        (None, None) => ("127.0.0.1:8127".to_string(), String::new(), String::new()),
    };
    let token = section.secret(s, "token").filter(|token| !token.is_empty());
    let mut bound = None;
    if text != "off" {
        match address(&text) {
            Ok(good) => bound = Some(good),
            Err(problem) => {
                s.problem(place.clone(), &key, format!("{problem}; \"127.0.0.1:8127\" or \"off\" is right"))
            }
        }
    }
    if bound.is_some_and(|address| !address.ip().is_loopback()) && token.is_none() {
        s.problem(place, &key, format!("`{text}` is not on loopback, so `http.token` must be set"));
    }
    let mut hosts = Vec::new();
    for item in section.list(s, "hosts").unwrap_or_default() {
        match item.string(s) {
            Some(host) if host.is_empty() || host.contains(|c: char| c == '/' || c == ':' || c.is_whitespace()) => {
                item.refuse(s, "a name without scheme and port, such as `stats.example.org`");
            }
            Some(host) => hosts.push(host),
            None => {}
        }
    }
    section.finish(s);
    Http { address: bound, token, hosts }
}

fn log(root: &mut Section<'_>, s: &mut Source<'_>) -> Log {
    let mut section = root.section(s, "log");
    let levels = ["error", "warn", "info", "debug", "trace"].map(|level| (level, level));
    let level = section.choice(s, "level", &levels).unwrap_or("info").to_string();
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    let format = section.choice(s, "format", &formats).unwrap_or(LogFormat::Text);
    section.finish(s);
    Log { level, format }
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

impl Default for Config {
    fn default() -> Config {
        load(&Sources::default()).expect("an empty configuration has no mistakes")
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
