//! From the configuration to what each room needs: the one place that knows both.

use std::ffi::OsString;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::Uri;
use rapidhash::v3::rapidhash_v3;

use crate::acl::AccessList;
use crate::aggregate::rules::{Rule, Rules};
use crate::aggregate::{Quota, ShardOptions, TimeWindow, TimerPolicy};
use crate::cluster::{ContentOptions, EdgeOptions, NodeName, NodeRole, Terms};
use crate::cluster_driver::BoardOptions;
use crate::config::{self, Config, Listen, ListenUrl, Origins, Profile, StatePath, Workers, show_size};
use crate::explain::{Destination, Explainer, ExplainerOptions, RulePlace};
use crate::hints::{HintOptions, Scraped};
use crate::history::{Archive, HistoryOptions};
use crate::http_client::split_login;
use crate::memory::{LEAST_MAX_MEMORY, Memory};
use crate::net::{Framing, ListenAddress, ListenerOptions, Transport};
use crate::notify::{TargetOptions, Targets};
use crate::ports::{Ports, TlsFiles, token_in_plain_text};
use crate::presence::describe::length;
use crate::presence::observers::MemberOptions;
use crate::presence::observers::is_node_name;
use crate::presence::policy::{Notify, Policy};
use crate::presence::{Identity, JobRule, Severity, UnixTime};
use crate::presence_driver::{Peering, PresenceOptions, shown_peers};
use crate::protocol::{Heartbeats, Options};
use crate::rollup::{GaugeLife, RegistryOptions, SelfMetrics};
use crate::sinks::SinkContext;
use crate::sinks::graphite::GraphiteNames;
use crate::snapshot::SummaryPolicy;
use crate::supervise::Gate;
use crate::sys::{Available, host_name, unix_time};
use crate::untrusted::Escaped;
use crate::watches::Watches;

/// Most workers that `auto` chooses.
const MAX_AUTO_WORKERS: usize = 8;

/// The file of presence in the state folder.
pub const PRESENCE_FILE: &str = "presence.json";

/// How timers keep their samples.
pub fn timer_policy(config: &Config) -> TimerPolicy {
    TimerPolicy {
        exact_samples: config.exact_samples,
        digits: config.digits,
        weighted: config.profile != Profile::Etsy,
    }
}

/// Which times of their own samples, events and checks may have, for shards that are told the Unix time.
pub fn time_window(config: &Config) -> TimeWindow {
    TimeWindow {
        past_secs: config.timestamp_past.as_secs_f64(),
        future_secs: config.timestamp_future.as_secs_f64(),
        origin: Some(0.0),
    }
}

/// How lines are read by a listener whose protocol this is.
pub fn protocol(config: &Config, of: &Options) -> Options {
    Options { max_tags: config.max_tags, ..*of }
}

/// Which lines are heartbeats; `None` if none is.
pub fn heartbeats(config: &Config) -> Option<Heartbeats> {
    let presence = &config.presence;
    presence.enabled.then(|| Heartbeats {
        names: presence.policy.names.clone(),
        maintenance: presence.policy.maintenance_wire,
        assist: presence.policy.assist,
        by_address: presence.by_address,
        forward: presence.forward_raw,
        secrets: presence.policy.guards.iter().filter_map(|guard| guard.key.clone()).collect(),
    })
}

/// How silence is judged. Without presence no service is expected, and without heartbeats there is nothing else to judge.
pub fn policy(config: &Config) -> Policy {
    let policy = config.presence.policy.clone();
    if config.presence.enabled { policy } else { Policy { expect: Vec::new(), jobs: Vec::new(), ..policy } }
}

/// Which metrics are heartbeats, too.
pub fn watches(config: &Config) -> Arc<Watches> {
    if config.presence.enabled { Arc::clone(&config.presence.policy.watches) } else { Arc::default() }
}

/// The name of this node among observers.
pub fn node(config: &Config) -> String {
    if config.cluster.role != config::Role::Standalone
        && let Ok(name) = cluster_node(config)
    {
        return name.as_str().into();
    }
    let name = &config.presence.peers.node;
    if !name.is_empty() {
        return name.clone();
    }
    // A kernel takes any bytes for a host's name.
    host_name().ok().filter(|name| is_node_name(name)).unwrap_or_else(|| "systole".into())
}

/// How presence is run; `None` if presence is off. `env` is the environment.
pub fn presence(
    config: &Config,
    seed: u64,
    identity: Identity,
    env: impl Fn(&str) -> Option<String>,
) -> Option<PresenceOptions> {
    let presence = &config.presence;
    let state_file = presence_state_file(config, env);
    presence.enabled.then(|| PresenceOptions {
        policy: policy(config),
        state_file,
        seed,
        identity,
        group_wait: presence.group_wait,
        interval: config.interval,
        queue: presence.queue,
        memory: Memory::unlimited(),
        peering: peering(config),
        gate: Gate::default(),
    })
}

/// Who observes the fleet beside this node.
fn peering(config: &Config) -> Peering {
    let peers = &config.presence.peers;
    match config.cluster.role {
        config::Role::Standalone if peers.are_on() => Peering::Urls(shown_peers(&peers.urls)),
        config::Role::Standalone => Peering::Alone,
        role => Peering::Cluster(MemberOptions {
            cluster: config.cluster.name.as_str().into(),
            listens_only: !role.is_global(),
            forget_after: config.cluster.max_age.as_secs_f64(),
        }),
    }
}

/// Where presence is kept; `None` is nowhere. `env` is the environment.
pub fn presence_state_file(config: &Config, env: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    state_file(config, &config.presence.state_file, PRESENCE_FILE, env)
}

/// Where a state is kept, in a file of this name beside the rest where the configuration leaves it to us; `None` is nowhere.
fn state_file(config: &Config, path: &StatePath, name: &str, env: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let folder = match (path, &config.state_dir) {
        (StatePath::Off, _) => return None,
        (StatePath::Path(path), _) => return Some(path.clone()),
        (StatePath::Auto, StatePath::Path(folder)) => Some(folder.clone()),
        (StatePath::Auto, _) => own_folder(env),
    };
    folder.map(|folder| folder.join(name))
}

/// The folder of what outlives a restart; `None` is nowhere. `env` is the environment.
pub fn state_dir(config: &Config, env: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    match &config.state_dir {
        StatePath::Off => None,
        StatePath::Path(path) => Some(path.clone()),
        StatePath::Auto => own_folder(env),
    }
}

/// The folder for states where the configuration leaves it to us; `None` if there is no place for one.
fn own_folder(env: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let folder = |name: &str| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    // systemd gives several folders with a colon between them.
    let given = env("STATE_DIRECTORY").and_then(|all| all.split(':').next().map(PathBuf::from));
    let state = folder("XDG_STATE_HOME").or_else(|| folder("HOME").map(|home| home.join(".local/state")));
    given.or_else(|| state.map(|state| state.join("systole")))
}

/// Who is notified of alarms; `page` is where our own page is, unless it is configured.
pub fn targets(config: &Config, identity: &Identity, page: Option<String>) -> Targets {
    let presence = &config.presence;
    if !presence.enabled {
        return Targets::default();
    }
    Targets {
        all: config::targets(config),
        dead_man_switch: presence.snitch_url.clone(),
        page: Some(config.http.external_url.clone()).filter(|url| !url.is_empty()).or(page),
        identity: Some(identity.clone()),
    }
}

fn rules(config: &Config) -> Option<Arc<Rules>> {
    (!config.rules.all().is_empty()).then(|| Arc::clone(&config.rules))
}

/// What the process may take beside `max_memory`, in bytes: code, stacks, and what comes between two measurements.
const BESIDE_MAX_MEMORY: u64 = 48 << 20;

/// The memory of the process, with the bound that it has.
pub fn memory(config: &Config) -> Memory {
    Memory::new(config.max_memory.unwrap_or_else(|| Available::read().default_max_memory()))
}

/// A shard's options; `quota` is shared by all of them.
pub fn shard_options(config: &Config, quota: &Quota, seed: u64) -> ShardOptions {
    ShardOptions {
        timers: timer_policy(config),
        fold_histograms: config.profile == Profile::Etsy,
        quota: quota.clone(),
        seed,
        rules: rules(config),
        heartbeats: heartbeats(config).map(Arc::new),
        times: time_window(config),
    }
}

/// How intervals are closed. `lag` lets the profile `etsy` tell its timestamp lag.
pub fn registry_options(config: &Config, lag: bool) -> RegistryOptions {
    let etsy = config.profile == Profile::Etsy;
    let secs = |duration: Duration| duration.as_secs_f64();
    let gauge_life = match config.gauge_ttl {
        _ if etsy && config.etsy.delete_gauges => GaugeLife::Flushes(config.etsy.gauges_max_ttl),
        Some(ttl) => GaugeLife::Secs(secs(ttl)),
        None => GaugeLife::Forever,
    };
    let self_metrics = match config.profile {
        _ if !config.self_metrics => SelfMetrics::Off,
        Profile::Systole | Profile::Dogstatsd => SelfMetrics::Ledger,
        Profile::Etsy => SelfMetrics::Etsy { prefix: Arc::from(config.etsy.names.prefix_stats.as_str()), lag },
    };
    RegistryOptions {
        summary: Arc::new(SummaryPolicy {
            timers: timer_policy(config),
            percentiles: config.percentiles.clone(),
            agent: config.profile == Profile::Dogstatsd,
            bins: config.etsy.histogram.clone(),
        }),
        zero_when_idle: [config.idle.counters, config.idle.timers, config.idle.sets],
        gauge_life,
        series_ttl_secs: [config.series_ttl.map(secs); 5],
        prefix: config.prefix.clone(),
        tags: config.tags.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
        rate_secs: etsy.then(|| secs(config.interval)),
        self_metrics,
        rules: rules(config),
        is_partial: false,
    }
}

/// The configuration as the role in a cluster has it: an edge has no sinks, and who only merges does not receive.
pub fn of_role(mut config: Config) -> Config {
    match config.cluster.role {
        config::Role::Standalone | config::Role::Both => {}
        config::Role::Edge => {
            config.sinks.clear();
            // Those who judge notify.
            config.notify.clear();
            config.presence.alertmanager.clear();
            config.presence.webhook.clear();
        }
        config::Role::Global => {
            config.listen.clear();
            config.relays.clear();
        }
    }
    config
}

/// Where the bus of the cluster is, and what its streams are made with.
///
/// # Errors
/// If this node has no name.
#[cfg(feature = "nats")]
pub fn bus_options(config: &Config, seed: u64) -> Result<crate::cluster_bus::BusOptions, String> {
    let cluster = &config.cluster;
    Ok(crate::cluster_bus::BusOptions {
        urls: cluster.bus.clone(),
        name: cluster.name.clone(),
        partitions: cluster.partitions,
        streams: cluster.streams,
        replicas: cluster.replicas,
        max_bytes: cluster.max_bytes,
        max_age: cluster.max_age,
        login: cluster.login.clone(),
        connection_name: format!("systole {}", cluster_node(config)?),
        seed,
        ..crate::cluster_bus::BusOptions::default()
    })
}

/// The name of this node in the cluster.
///
/// # Errors
/// If it has none, and the host's cannot be one.
pub fn cluster_node(config: &Config) -> Result<NodeName, String> {
    let given = &config.cluster.node;
    let name = if given.is_empty() { host_name().unwrap_or_default() } else { given.clone() };
    let problem = |error| format!("the name of this host, {name:?}, is no name of a node: {error}; set `cluster.node`");
    name.parse().map_err(problem)
}

/// Where an edge keeps its state. `env` is the environment.
pub fn cluster_state_file(config: &Config, env: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    // Several nodes of one host do not share it.
    let node = cluster_node(config).map_or_else(|_| String::new(), String::from);
    state_file(config, &config.cluster.state_file, &format!("cluster-{}-{node}.state", config.cluster.name), env)
}

/// A hash of all settings that shape what is sent and what is made of it; all nodes must have the same.
pub fn cluster_hash(config: &Config) -> u64 {
    const SHAPING: [&str; 13] = [
        "interval",
        "profile",
        "percentiles",
        "exact_samples",
        "digits",
        "gauge_ttl",
        "series_ttl",
        "prefix",
        "idle",
        "rule",
        "etsy",
        "dogstatsd",
        "protocol",
    ];
    let all = config::flat(config);
    let shaping = |line: &&str| SHAPING.iter().any(|key| line.split([':', ' ']).next() == Some(key));
    let text: String = all.lines().filter(shaping).flat_map(|line| [line, "\n"]).collect();
    rapidhash_v3(format!("{}\n{text}", config.cluster.partitions).as_bytes())
}

/// What an edge is told; the number of its start is not known yet.
pub fn edge_options(config: &Config, name: NodeName, seed: u64) -> EdgeOptions {
    let spool = config.cluster.spool_memory;
    EdgeOptions {
        name,
        boot: 0,
        partitions: config.cluster.partitions,
        config: cluster_hash(config),
        spool_bytes: memory(config).max().map_or(spool, |max| spool.min(max as usize / 4)),
        seed,
    }
}

/// What all owners have to agree about.
pub fn cluster_terms(config: &Config) -> Terms {
    Terms {
        partitions: config.cluster.partitions,
        interval_secs: config.interval.as_secs_f64(),
        lateness_secs: config.cluster.lateness.as_secs_f64(),
        late: config.cluster.late,
        forget_secs: config.cluster.max_age.as_secs_f64(),
        config: cluster_hash(config),
    }
}

/// What the status of the cluster is told of this node.
pub fn board_options(config: &Config, node: &NodeName) -> BoardOptions {
    let cluster = &config.cluster;
    BoardOptions {
        node: node.to_string(),
        role: match cluster.role {
            config::Role::Global => NodeRole::Global,
            config::Role::Both => NodeRole::Both,
            config::Role::Standalone | config::Role::Edge => NodeRole::Edge,
        },
        interval_secs: config.interval.as_secs_f64(),
        lateness_secs: cluster.lateness.as_secs_f64(),
        forget_secs: cluster.max_age.as_secs_f64(),
        config: cluster_hash(config),
    }
}

/// How batches are merged.
pub fn cluster_content(config: &Config) -> ContentOptions {
    ContentOptions { registry: registry_options(config, false), interval_secs: config.interval.as_secs_f64() }
}

/// How much of the past is kept in memory.
pub fn history_options(config: &Config) -> HistoryOptions {
    HistoryOptions {
        enabled: config.history.enabled,
        interval_secs: config.interval.as_secs_f64(),
        intervals: config.history.intervals,
        minutes: config.history.minutes,
        own_prefix: format!("{}systole.", config.prefix),
    }
}

/// Who keeps points for longer than the history: the first sink that does.
pub fn archive(config: &Config) -> Option<Arc<dyn Archive>> {
    let completeness = format!("{}systole.completeness", config.prefix);
    config.sinks.iter().find_map(|sink| sink.kind.spec().archive(&sink.filter.prefix, &sink.filter.tags, &completeness))
}

/// What hints about near misses hang on.
pub fn hint_options(config: &Config) -> HintOptions {
    let kinds: Vec<&str> = config.sinks.iter().map(|sink| sink.kind.name()).collect();
    let scraped = match () {
        () if kinds.contains(&"prometheus") => Scraped::Sink,
        () if kinds.iter().all(|kind| *kind == "console") => Scraped::Nobody,
        () => Scraped::Elsewhere,
    };
    let presence = &config.presence;
    let (heartbeats, watched) = match presence.enabled {
        true => (
            presence.policy.names.clone(),
            presence.policy.watches.all().iter().map(|one| one.pattern.to_string()).collect(),
        ),
        false => (Vec::new(), Vec::new()),
    };
    HintOptions { heartbeats, watched, scraped }
}

/// What explains lines; `origins` are those of the configuration.
pub fn explainer(config: &Config, origins: &Origins) -> Explainer {
    let destination = |sink: &config::Sink| Destination {
        name: sink.name.clone(),
        filter: sink.filter.clone(),
        kind: sink.kind.clone(),
        context: sink_context(config, &sink.name, sink.timeout),
    };
    let file = origins.file.clone().unwrap_or_default();
    let places = origins.lines_of_rules().into_iter();
    Explainer::new(ExplainerOptions {
        protocol: protocol(config, &config.protocol),
        shard: shard_options(config, &Quota::new(config.max_series), 0),
        max_series: config.max_series,
        registry: registry_options(config, false),
        interval: config.interval,
        names: graphite_names(config),
        rules: Arc::clone(&config.rules),
        rule_places: places.map(|line| RulePlace { file: file.clone(), line }).collect(),
        destinations: config.sinks.iter().map(destination).collect(),
        policy: config.presence.enabled.then(|| Arc::new(policy(config))),
    })
}

/// What a sink is told of the daemon.
pub fn sink_context(config: &Config, name: &str, timeout: Duration) -> SinkContext {
    SinkContext {
        name: name.to_string(),
        timeout,
        interval: config.interval,
        profile: config.profile.name(),
        etsy: config.etsy.names.clone(),
        max_series: config.max_series,
        aggregates: config.dogstatsd.aggregates.clone(),
        ports: Ports::default(),
        memory: Memory::unlimited(),
    }
}

/// How Graphite names are written where no sink says it.
pub fn graphite_names(config: &Config) -> GraphiteNames {
    GraphiteNames::of(&sink_context(config, "graphite", Duration::ZERO))
}

/// The files of TLS of every port, with the port's URL.
pub fn tls_files(config: &Config) -> Vec<(String, &TlsFiles)> {
    let mut all: Vec<_> = config.listen.iter().map(|listen| (listen.url.to_string(), &listen.tls)).collect();
    all.push(("management".into(), &config.management.tls));
    all.push(("http".into(), &config.http.tls));
    all.extend(
        config.sinks.iter().filter_map(|sink| Some((format!("sink {}", sink.name), sink.kind.spec().tls_files()?))),
    );
    all
}

/// What is allowed and most likely not meant.
pub fn warnings(config: &Config) -> Vec<String> {
    let of_sinks =
        config.sinks.iter().filter_map(|sink| Some(format!("sink {}: {}", sink.name, sink.kind.spec().warning()?)));
    let http = &config.http;
    let open = http.address.filter(|address| !address.ip().is_loopback() && http.token.is_some() && !http.tls.is_on());
    let of_page = open.map(|address| format!("http: {}", token_in_plain_text(address)));
    of_page
        .into_iter()
        .chain(of_sinks)
        .chain(of_peers(&config.presence.peers.urls))
        .chain(of_presence_off(config))
        .chain(of_cluster(config))
        .chain(of_open_interval(config))
        .chain(of_no_place(config, |name| std::env::var(name).ok()))
        .chain(of_rules(config))
        .chain(of_expected(config))
        .chain(of_watches(config))
        .chain(of_jobs(config))
        .chain(of_commands(config))
        .chain(beyond_memory(config, Available::read()))
        .collect()
}

/// What is said of presence that is configured and off, or that no peer can ask.
fn of_presence_off(config: &Config) -> Vec<String> {
    let presence = &config.presence;
    if presence.enabled {
        let is_hidden = !presence.peers.urls.is_empty() && config.http.address.is_none();
        let why = "presence.peers: `http.address` is off, so no peer can ask this node whom it hears";
        return is_hidden.then(|| why.to_string()).into_iter().collect();
    }
    let policy = &presence.policy;
    let all = [
        ("presence.job", policy.jobs.is_empty()),
        ("presence.watch", policy.watches.all().is_empty()),
        ("presence.expect", policy.expect.is_empty()),
        ("notify", config.notify.is_empty()),
    ];
    let those = all.into_iter().filter(|(_, is_none)| !is_none);
    those.map(|(table, _)| format!("{table}: `presence.enabled` is false: nothing comes of it")).collect()
}

/// What is said of settings that come to nothing in a cluster, or outside of one.
fn of_cluster(config: &Config) -> Vec<String> {
    let default = Config::default();
    let has_own_sinks = config.sinks != default.sinks;
    let mut all = Vec::new();
    match config.cluster.role {
        config::Role::Standalone => {
            if config.cluster != default.cluster {
                all.push("cluster: `role` is \"standalone\": nothing else of [cluster] does anything; `role = \"edge+global\"`?".into());
            }
        }
        config::Role::Global | config::Role::Both => {
            if !has_own_sinks {
                all.push(
                    "cluster: this node merges and has no `[[sink]]`: what it merges goes to the console alone".into(),
                );
            }
        }
        config::Role::Edge => {
            let names: Vec<&str> = config.sinks.iter().map(|sink| sink.name.as_str()).collect();
            if has_own_sinks {
                let names = names.join(", ");
                all.push(format!(
                    "sink {names}: an edge hands all to the cluster and uses no sink; nodes that merge need it"
                ));
            }
            if !config.notify.is_empty() {
                all.push("notify: an edge notifies nobody; nodes that merge need it".into());
            }
        }
    }
    all
}

/// What is said of an open interval that is to be kept and is not, or hardly ever.
fn of_open_interval(config: &Config) -> Option<String> {
    let problem = if !config.keep_open_interval {
        return None;
    } else if config.cluster.role != config::Role::Standalone {
        "a node of a cluster keeps no open interval"
    } else if config.state_dir == StatePath::Off {
        "nothing is kept, as `state_dir` is \"off\""
    } else if config.state_interval >= config.interval {
        "most intervals are closed before they are written: make `state_interval` shorter than `interval`"
    } else {
        return None;
    };
    Some(format!("keep_open_interval: {problem}"))
}

/// What is said of state that is to be kept and has no place. `env` is the environment.
fn of_no_place(config: &Config, env: impl Fn(&str) -> Option<String>) -> Option<String> {
    let presence = &config.presence;
    let (keeps_state, keeps_presence) = (config.state_dir != StatePath::Off, presence.state_file != StatePath::Off);
    let key = if keeps_state && state_dir(config, &env).is_none() {
        "state_dir"
    } else if presence.enabled && keeps_presence && presence_state_file(config, &env).is_none() {
        "presence.state_file"
    } else {
        return None;
    };
    Some(format!(
        "{key}: none of $STATE_DIRECTORY, $XDG_STATE_HOME and $HOME is set, so nothing is kept over a restart; set it to a path, or to \"off\""
    ))
}

/// What is said of peers to which the token goes in plain text.
fn of_peers(urls: &[String]) -> Vec<String> {
    let is_here = |host: &str| {
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    };
    let is_open = |url: &String| {
        let host = split_login(url).0.parse::<Uri>().ok().and_then(|url| url.host().map(is_here));
        url.starts_with("http://") && host == Some(false)
    };
    let shown = shown_peers(urls).into_iter().zip(urls).filter(|(_, url)| is_open(url));
    let why = "is not on this host and has no TLS, so everybody on the way can read `peer_token`; use https://";
    shown.map(|(shown, _)| format!("presence.peers: {shown} {why}")).collect()
}

/// What is said of rules that are never met.
fn of_rules(config: &Config) -> Vec<String> {
    let all = config.rules.all();
    let says = |(by, n): (usize, usize)| {
        let (before, rule) = (&all[by].pattern, &all[n].pattern);
        format!(
            "rule {} (match = \"{rule}\") is never met: rule {} (match = \"{before}\") before it takes all that it could; move it up",
            n + 1,
            by + 1
        )
    };
    config.rules.hidden().into_iter().map(says).chain(of_heartbeats(config)).collect()
}

/// What is said of rules whose lines are heartbeats, and so no metrics.
fn of_heartbeats(config: &Config) -> Vec<String> {
    let presence = &config.presence;
    if !presence.enabled || presence.forward_raw {
        return Vec::new();
    }
    let says = |(n, rule): (usize, &Rule)| {
        let name = presence.policy.names.iter().find(|name| rule.pattern.is_within(name))?;
        Some(format!(
            "rule {} (match = \"{}\") has names of heartbeats, which are no metrics and meet no rule: with `presence.forward_raw = true` \
             they are both, without \"{name}\" in `presence.names` metrics alone",
            n + 1,
            rule.pattern
        ))
    };
    config.rules.all().iter().enumerate().filter_map(says).collect()
}

/// What is said of services that are awaited and cannot be heard, or are reported to nobody.
fn of_expected(config: &Config) -> Vec<String> {
    let policy = &config.presence.policy;
    let says = |service: &str| {
        let rules = policy.rules_of(service);
        let guard = rules.guard.and_then(|at| policy.guards.get(usize::from(at)));
        let watches = policy.watches.all();
        if guard.and_then(|guard| guard.allow.networks()).is_some_and(<[_]>::is_empty) {
            Some("its `allow` is empty, so it can be heard from nowhere")
        } else if policy.names.is_empty() && !policy.assist && watches.is_empty() {
            Some("`presence.names` is empty, so nobody can be heard")
        } else if rules.notify == Notify::Never {
            Some("its `notify` is \"never\", so nobody is told that it is missing")
        } else {
            None
        }
    };
    let expected = policy.expect.iter().filter(|_| config.presence.enabled);
    expected
        .filter_map(|one| Some(format!("presence.expect: service `{}`: {}", one.service, says(&one.service)?)))
        .collect()
}

/// Runs of a job that are looked at to see how often it is due.
const RUNS_LOOKED_AT: usize = 50;

/// What is said of watches that take no line, or whose lines count for nothing.
fn of_watches(config: &Config) -> Vec<String> {
    let policy = &config.presence.policy;
    let hidden = policy.watches.hidden().into_iter().map(|(by, watch)| {
        format!(
            "presence.watch: `{}` takes no line, because `{}` before it takes all of them",
            watch.pattern, by.pattern
        )
    });
    let guarded = policy.watches.all().iter().filter_map(|watch| {
        let service = watch.service.to_string();
        let is_guarded = !service.contains('{') && policy.rules_of(&service).guard.is_some();
        let why = "which a watched metric cannot show: its lines count for nothing";
        is_guarded
            .then(|| format!("presence.watch: `{}`: service `{service}` has `key` or `allow`, {why}", watch.pattern))
    });
    let named = policy.watches.all().iter().filter_map(|watch| {
        let pattern = watch.pattern.to_string();
        let is_reserved = heartbeats(config).is_some_and(|names| names.is_reserved(&pattern));
        if is_reserved {
            Some(format!("presence.watch: `{pattern}` takes no line: a heartbeat is never taken by a watch"))
        } else if pattern.contains(['{', '}']) {
            Some(format!("presence.watch: `{pattern}`: braces are plain text in `match`; `*` is any text, and is `{{1}}` in `service`"))
        } else {
            None
        }
    });
    hidden.chain(guarded).chain(named).collect()
}

/// The time between two runs that a job's schedule asks for at the least, in seconds, as far as its next runs show it.
fn period(job: &JobRule) -> Option<f64> {
    let Some(schedule) = &job.schedule else { return job.every };
    let mut times =
        std::iter::successors(schedule.next_time(UnixTime::from_secs(unix_time())), |at| schedule.next_time(*at));
    let mut last = times.next()?;
    let gaps = times.take(RUNS_LOOKED_AT).map(|at| at - std::mem::replace(&mut last, at));
    gaps.reduce(f64::min)
}

/// What is said of jobs that are not judged as somebody may think.
fn of_jobs(config: &Config) -> Vec<String> {
    let mut all = Vec::new();
    for job in &config.presence.policy.jobs {
        let who = job_name(job);
        if job.schedule.is_none() && job.every.is_none() {
            all.push(format!(
                "presence.job: `{who}` has no `schedule` and no `every`: a run that does not come is missed only if its lines \
                 say when the next one is due"
            ));
        }
        if let Some((service, instance)) = job.service.split_once('/').filter(|_| job.instance.is_none()) {
            all.push(format!(
                "presence.job: service = \"{}\" is not what `systole beat {}` sends; service = \"{service}\" with instance = \
                 \"{instance}\" is",
                job.service, job.service
            ));
        }
        if let (Some(longest), Some(period)) = (job.max_runtime, period(job))
            && longest > period
        {
            all.push(format!(
                "presence.job: `{who}` is due again after {}, and may run for {}: while it does, a run that does not come is a \
                 warning",
                length(period),
                length(longest)
            ));
        }
    }
    all
}

/// What is said of commands that cannot be run.
fn of_commands(config: &Config) -> Vec<String> {
    let problem = |target: &TargetOptions| {
        let program = Path::new(target.command.first()?);
        let path = target.env.get("PATH").map(OsString::from).or_else(|| std::env::var_os("PATH"))?;
        let has_path = program.components().count() > 1;
        let folders = std::env::split_paths(&path).filter(|_| !has_path);
        let places = folders.map(|folder| folder.join(program)).chain(has_path.then(|| program.to_path_buf()));
        let found: Vec<fs::Metadata> = places.filter_map(|place| fs::metadata(place).ok()).collect();
        let is_executable = |file: &fs::Metadata| file.is_file() && file.permissions().mode() & 0o111 != 0;
        let why = match found.is_empty() {
            _ if found.iter().any(is_executable) => return None,
            true if has_path => "does not exist",
            true => "is in no folder of PATH",
            false => "is not executable",
        };
        let (name, program) = (Escaped(&target.name), program.display().to_string());
        Some(format!("notify {name}: the program `{}` {why}: no alert can be delivered to it", Escaped(&program)))
    };
    config::targets(config).iter().filter_map(problem).collect()
}

/// The targets of notifications, each with its name, its type, where it is without secrets, and what it is sent.
pub fn listed_targets(config: &Config) -> Vec<String> {
    let shown = |target: TargetOptions| {
        let route = &target.route;
        let mut sent = vec![match route.least {
            Severity::Critical => "critical alerts".to_string(),
            Severity::Warning => "critical alerts and warnings".into(),
            Severity::Info => "all alerts".into(),
        }];
        for (what, patterns) in
            [("of", &route.services), ("except of", &route.except), ("of the instances", &route.instances)]
        {
            if !patterns.is_empty() {
                sent.push(format!("{what} {}", patterns.join(", ")));
            }
        }
        if !route.general {
            sent.push("of single services only".into());
        }
        if !route.resolved {
            sent.push("without their ends".into());
        }
        Escaped(&format!("{}: {} {}, {}", target.name, target.kind, target.place(), sent.join(" "))).to_string()
    };
    config::targets(config).into_iter().map(shown).collect()
}

/// The name of a job, as lists have it.
pub fn job_name(job: &JobRule) -> String {
    job.instance.as_ref().map_or_else(|| job.service.clone(), |instance| format!("{}/{instance}", job.service))
}

/// When a job is due, for people.
pub fn job_times(job: &JobRule) -> String {
    let every = || job.every.map_or("when its lines say".to_string(), |every| format!("every {}", length(every)));
    let Some(schedule) = &job.schedule else { return every() };
    let next = schedule
        .next_time(UnixTime::from_secs(unix_time()))
        .map_or(String::new(), |at| format!(", next {}", at.rfc3339()));
    format!("{} {}{next}", schedule.fields(), schedule.zone())
}

/// What is said of a `max_memory` that the process cannot have.
fn beyond_memory(config: &Config, available: Available) -> Option<String> {
    let (max, bytes) = (config.max_memory.unwrap_or_else(|| available.default_max_memory()), available.bytes()?);
    (max.saturating_add(BESIDE_MAX_MEMORY) > bytes).then(|| {
        format!(
            "max_memory is {}, of {} {} of memory: with up to {} beside it the kernel would end the process before \
             anything gives way; at most {} is right",
            show_size(max),
            available.whose(),
            in_mib(bytes),
            show_size(BESIDE_MAX_MEMORY),
            in_mib(bytes.saturating_sub(BESIDE_MAX_MEMORY)),
        )
    })
}

/// A size that nobody wrote, in whole MiB.
fn in_mib(bytes: u64) -> String {
    format!("{}MiB", bytes >> 20)
}

/// Where `max_memory` comes from, for the start.
pub fn origin_of_max_memory(config: &Config) -> String {
    let available = Available::read();
    let asked = available.default_max_memory();
    match (config.max_memory, available.bytes()) {
        (Some(_), _) => String::new(),
        (None, Some(bytes)) if asked > LEAST_MAX_MEMORY => {
            format!(": {} % of {} {}", available.percent(), available.whose(), in_mib(bytes))
        }
        (None, Some(bytes)) => format!(": the least there is, of {} {}", available.whose(), in_mib(bytes)),
        (None, None) => ": the least there is".into(),
    }
}

/// Whether listeners ask for the sender of every datagram, because presence needs it.
pub fn asks_for_senders(config: &Config) -> bool {
    let policy = &config.presence.policy;
    config.presence.enabled && (config.presence.by_address || policy.goodbye_same_ip || !policy.guards.is_empty())
}

/// What a listener is made of.
pub fn listener(config: &Config, listen: &Listen) -> ListenerOptions {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    ListenerOptions {
        transport: match listen.url {
            ListenUrl::Udp(_) | ListenUrl::Fd(_) => Transport::Udp,
            ListenUrl::Tcp(_) => Transport::Tcp,
            ListenUrl::Unix(_) => Transport::Unix,
            ListenUrl::Unixgram(_) => Transport::Unixgram,
        },
        address: match &listen.url {
            ListenUrl::Udp(address) | ListenUrl::Tcp(address) => ListenAddress::Ip(*address),
            ListenUrl::Unix(path) | ListenUrl::Unixgram(path) => ListenAddress::Path(path.clone(), listen.mode),
            ListenUrl::Fd(name) => ListenAddress::Inherited(name.clone()),
        },
        framing: match listen.framing {
            config::Framing::Newline => Framing::Newline,
            config::Framing::Length => Framing::Length,
        },
        workers: match listen.workers {
            Workers::Auto => (cores / 2).clamp(1, MAX_AUTO_WORKERS),
            Workers::Count(count) => count,
        },
        receive_buffer: listen.receive_buffer,
        receive_buffer_force: listen.receive_buffer_force,
        max_datagram: listen.max_datagram,
        cores: listen.cores.clone(),
        busy_poll_us: u32::try_from(listen.busy_poll.as_micros()).ok().filter(|&us| us > 0),
        realtime: listen.realtime,
        allow: AccessList::new(listen.allow.clone()),
        with_senders: asks_for_senders(config),
        max_connections: listen.max_connections,
        max_connections_per_address: listen.max_connections_per_address,
        idle_timeout: listen.idle_timeout,
        // Its files are read when it is bound.
        tls: None,
        protocol: protocol(config, &listen.protocol),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_goes_to_another_host_in_plain_text_is_warned_of() {
        let urls = ["http://[::1]:8127", "http://localhost", "https://b", "http://u:p@b:8127/x", "http://127.0.0.9/b"];
        let warnings = of_peers(&urls.map(String::from));
        assert!(
            matches!(&warnings[..], [one] if one.contains("http://***@b:8127/*** is not on this host")),
            "{warnings:?}"
        );
    }

    #[test]
    fn an_open_interval_that_is_not_kept_is_warned_of() {
        let of = |more: &str| {
            let config = Config::parse(&format!("keep_open_interval = true\n{more}")).expect("it is right");
            of_open_interval(&config).unwrap_or_default()
        };
        assert!(of("").contains("shorter than `interval`"));
        assert_eq!(of("state_interval = \"1s\""), "");
        assert!(of("state_interval = \"1s\"\nstate_dir = \"off\"").contains("state_dir"));
        let edge = "state_interval = \"1s\"\n[cluster]\nrole = \"edge\"\nbus = [\"memory:1\"]";
        assert!(of(edge).contains("a node of a cluster"));
        assert_eq!(of_open_interval(&Config::default()), None);
    }

    #[test]
    fn states_are_kept_together_and_what_has_no_place_is_warned_of() {
        let here = |name: &str| (name == "HOME").then(|| "/h".to_string());
        let of = |text: &str| Config::parse(text).expect("it is right");
        let presence = |text: &str| presence_state_file(&of(text), here);
        assert_eq!(presence(""), Some("/h/.local/state/systole/presence.json".into()));
        assert_eq!(presence("state_dir = \"/s\""), Some("/s/presence.json".into()));
        assert_eq!(presence("state_dir = \"/s\"\npresence.state_file = \"/p.json\""), Some("/p.json".into()));
        assert_eq!(presence("state_dir = \"off\""), Some("/h/.local/state/systole/presence.json".into()));
        let warning = |text: &str| of_no_place(&of(text), |_| None).unwrap_or_default();
        assert!(warning("").starts_with("state_dir: none of"), "{}", warning(""));
        assert!(warning("state_dir = \"off\"").starts_with("presence.state_file: none of"));
        for fine in ["state_dir = \"/s\"", "state_dir = \"off\"\npresence.state_file = \"off\""] {
            assert_eq!(warning(fine), "");
        }
        assert_eq!(of_no_place(&Config::default(), here), None);
    }

    #[test]
    fn a_max_memory_beyond_what_there_is_is_warned_of_with_both_numbers() {
        let with = |max_memory| Config { max_memory, ..Config::default() };
        let of = |max, available| beyond_memory(&with(max), available);
        assert_eq!(of(Some(448 << 20), Available::Group(512 << 20)), None);
        let text = of(Some(1 << 30), Available::Group(512 << 20)).expect("a warning");
        assert!(text.contains("max_memory is 1GiB, of the control group's 512MiB"), "{text}");
        assert!(text.contains("at most 464MiB"), "{text}");
        assert!(of(None, Available::Machine(200 << 20)).is_some() && of(None, Available::Machine(8 << 30)).is_none());
        assert_eq!(of(Some(1 << 40), Available::Unknown), None);
    }
}
