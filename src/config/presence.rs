//! `[presence]`: how heartbeats are read and silence is judged.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::acl::AccessList;
use crate::presence::policy::{Expected, Guard, Misses, Notify, Override, Policy, Rules, SeriesOf};
use crate::presence_driver::QUEUE;
use crate::settings::{
    Opt, OptionVisitor, Parsed, TablesOf, Wrong, choice, count, maybe, maybe_choice, maybe_count, maybe_seconds,
    seconds,
};

use super::kinds::{networks, secret};
use super::presence_job;
use super::presence_peers::{self, Peers};
use super::value::show_duration;

/// What can be configured of presence.
#[derive(Clone, Debug, PartialEq)]
pub struct Presence {
    /// Whether heartbeats are more than metrics (default true).
    pub enabled: bool,
    /// Who does not name its instance is known by its address (`default_instance = "source_ip"`).
    pub by_address: bool,
    /// Where the state is kept.
    pub state_file: StatePath,
    /// Heartbeats are recorded as metrics too (default false; `etsy`: true).
    pub forward_raw: bool,
    /// Base URLs of Alertmanagers that are told of alarms.
    pub alertmanager: Vec<String>,
    /// URLs that are told of alarms.
    pub webhook: Vec<String>,
    /// Warnings about instances wait so long for a service's alarm that replaces them (default 10 s).
    pub group_wait: Duration,
    /// Heartbeats that may wait to be judged (1..=1,000,000, default 8,192).
    pub queue: usize,
    /// Asked every minute while all is well here.
    pub snitch_url: Option<String>,
    /// Other observers of the same fleet.
    pub peers: Peers,
    /// Everything else.
    pub policy: Policy,
}

/// Where a state is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StatePath {
    /// In `$STATE_DIRECTORY`, else in the user's state folder.
    Auto,
    /// Nowhere: a restart forgets.
    Off,
    /// In this file, or in this folder.
    Path(PathBuf),
}

impl Default for Presence {
    fn default() -> Presence {
        Presence {
            enabled: true,
            by_address: false,
            state_file: StatePath::Auto,
            forward_raw: false,
            alertmanager: Vec::new(),
            webhook: Vec::new(),
            group_wait: Duration::from_secs(10),
            queue: QUEUE,
            snitch_url: None,
            peers: Peers::default(),
            policy: Policy::default(),
        }
    }
}

/// The most that a limit can be set to.
const MOST_LIMIT: u64 = 10_000_000;

const SECONDS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(366 * 86_400);

/// How long what may be replaced waits: for longer, nobody would be told in time.
const GROUP_WAIT: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);

const SERIES: [(&str, SeriesOf); 3] =
    [("auto", SeriesOf::Auto), ("instance", SeriesOf::Instances), ("service", SeriesOf::Services)];

pub(super) fn describe(visitor: &mut dyn OptionVisitor, key: &'static str, doc: &'static str, all: &mut Presence) {
    visitor.section(key, doc, &mut |v| {
        general(all, v);
        presence_peers::describe(&mut all.peers, v);
        limits(&mut all.policy, v);
        judging(&mut all.policy, v);
        v.require("forget_down", outlives(all.policy.forget_down, all.group_wait));
        services(&mut all.policy, v);
        let most = all.policy.max_instances_per_service.min(all.policy.max_instances) as u64;
        expected(&mut all.policy.expect, most, v);
        super::presence_watch::describe(&mut all.policy.watches, v);
        presence_job::jobs(&mut all.policy.jobs, v);
    });
}

/// What is read, kept and notified.
fn general(all: &mut Presence, v: &mut dyn OptionVisitor) {
    let policy = &mut all.policy;
    v.field("enabled", "Whether heartbeats are more than metrics.", Opt::Flag(&mut all.enabled));
    v.field("names", "Names of metrics that are heartbeats.", Opt::Texts(&mut policy.names));
    let doc = "With \"assist\", metrics with the tags `service` and `instance` show that a known instance lives.";
    choice(v, "implicit", doc, &[("off", false), ("assist", true)], &mut policy.assist);
    let doc = "With \"source_ip\", a sender that names no instance is known by its address.";
    choice(v, "default_instance", doc, &[("-", false), ("source_ip", true)], &mut all.by_address);
    let doc = "Where the state is kept: \"auto\" is in `state_dir` if that is a path, else in $STATE_DIRECTORY or the user's \
               state folder.";
    state_file(&mut all.state_file, doc, v);
    v.field("forward_raw", "Record heartbeats as metrics, too.", Opt::Flag(&mut all.forward_raw));
    v.field("alertmanager", "Base URLs of Alertmanagers that are notified.", Opt::Urls(&mut all.alertmanager));
    v.field("webhook", "URLs that get every alert, and its end, as JSON.", Opt::Urls(&mut all.webhook));
    v.field(
        "group_wait",
        "How long warnings about instances and degraded services wait; a service that is down replaces them.",
        Opt::Duration(&mut all.group_wait, GROUP_WAIT),
    );
    let mut url = all.snitch_url.take().unwrap_or_default();
    let doc = "Dead man's switch: requested every minute while all is well here.";
    v.field("snitch_url", doc, Opt::UrlOrEmpty(&mut url));
    all.snitch_url = Some(url).filter(|url| !url.is_empty());
    count(v, "queue", "Heartbeats that may wait to be judged.", &mut all.queue, 1..=1_000_000);
}

/// A file where a state is kept; `doc` says what it is.
pub(super) fn state_file(path: &mut StatePath, doc: &'static str, v: &mut dyn OptionVisitor) {
    state_path("state_file", doc, path, v);
}

/// A path under which a state is kept.
pub(super) fn state_path(key: &'static str, doc: &'static str, path: &mut StatePath, v: &mut dyn OptionVisitor) {
    let shown = match path {
        StatePath::Auto => "auto".into(),
        StatePath::Off => "off".into(),
        StatePath::Path(path) => path.to_string_lossy().as_ref().into(),
    };
    let mut read = |text: &str| {
        *path = match text {
            "auto" => StatePath::Auto,
            "off" => StatePath::Off,
            path => StatePath::Path(path.into()),
        };
        Ok(())
    };
    let form = "\"auto\", \"off\" or a path";
    v.field(key, doc, Opt::Parsed(Parsed { shown: Some(shown), form, takes_numbers: false, read: &mut read }));
}

fn limits(policy: &mut Policy, v: &mut dyn OptionVisitor) {
    for (key, doc, limit) in [
        ("max_services", "Most services.", &mut policy.max_services),
        ("max_instances_per_service", "Most instances of a service.", &mut policy.max_instances_per_service),
        ("max_instances", "Most instances altogether.", &mut policy.max_instances),
        ("max_registrations_per_second", "Most registrations in a second.", &mut policy.max_registrations_per_second),
        (
            "max_services_per_source",
            "Most services that one address may register in a minute while the table is more than half full or many \
             register.",
            &mut policy.max_services_per_source,
        ),
        (
            "max_instances_per_source",
            "Most instances that it may register, likewise.",
            &mut policy.max_instances_per_source,
        ),
    ] {
        count(v, key, doc, limit, 1..=MOST_LIMIT);
    }
}

/// How silence is judged where no pattern says otherwise.
fn judging(policy: &mut Policy, v: &mut dyn OptionVisitor) {
    let doc = "With \"same_ip\", a goodbye counts only from the address of the heartbeats.";
    choice(v, "goodbye_from", doc, &[("any", false), ("same_ip", true)], &mut policy.goodbye_same_ip);
    let doc = "Series of instances and services (\"instance\"), of services alone (\"service\"), or of services alone above \
               10,000 instances and jobs (\"auto\").";
    choice(v, "series", doc, &SERIES, &mut policy.series);
    v.field("maintenance_wire", "Whether `maintenance.*` counts.", Opt::Flag(&mut policy.maintenance_wire));
    let doc = "Silence of more than this share of all is reported once, and holds other alerts back.";
    v.field("mass_fraction", doc, Opt::Number(&mut policy.mass_fraction, 0.0..=1.1));
    for (key, doc, length) in [
        ("mass_hold", "How long it holds them back.", &mut policy.mass_hold),
        (
            "learn_timeout",
            "Silence after which an instance whose interval is not known yet has left.",
            &mut policy.learn_timeout,
        ),
        ("forget_left", "How long an instance that left is remembered.", &mut policy.forget_left),
        ("forget_down", "How long an instance that is down is remembered.", &mut policy.forget_down),
        ("forget_ephemeral", "The same of an instance of an ephemeral service.", &mut policy.forget_ephemeral),
        ("forget_service", "The same while no instance of its service is present.", &mut policy.forget_service),
        ("flap_window", "Flapping is over after so long without a change.", &mut policy.flap_quiet),
        ("maintenance_max", "Longest maintenance.", &mut policy.maintenance_max),
    ] {
        seconds(v, key, doc, length, SECONDS);
    }
    let rules = policy.rules;
    let mut general = Override {
        misses: Some(rules.misses),
        grace: rules.grace,
        quorum: Some(rules.quorum),
        min: rules.min,
        ephemeral: Some(rules.ephemeral),
        within: Some(rules.within),
        notify: Some(rules.notify),
        health_alerts: Some(rules.health_alerts),
        ..Override::default()
    };
    self::rules(&mut general, v);
    policy.rules = Rules {
        misses: general.misses.unwrap_or(rules.misses),
        grace: general.grace,
        quorum: general.quorum.unwrap_or(rules.quorum),
        min: general.min,
        ephemeral: general.ephemeral.unwrap_or(rules.ephemeral),
        within: general.within.unwrap_or(rules.within),
        notify: general.notify.unwrap_or(rules.notify),
        guard: rules.guard,
        health_alerts: general.health_alerts.unwrap_or(rules.health_alerts),
    };
}

/// What may be said of all services, or of those that match a pattern.
fn rules(rules: &mut Override, v: &mut dyn OptionVisitor) {
    let form = "a whole number from 1 to 100, or \"auto\"";
    let shown = match rules.misses {
        Some(Misses::Auto) => Some("auto".into()),
        Some(Misses::Fixed(misses)) => Some(i64::from(misses).into()),
        // By the interval, as without the key.
        Some(Misses::ByInterval) | None => None,
    };
    let mut read = |text: &str| {
        rules.misses = Some(match text.parse() {
            _ if text == "auto" => Misses::Auto,
            Ok(misses @ 1..=100) => Misses::Fixed(misses),
            _ => return Err(Wrong::Not(form.into())),
        });
        Ok(())
    };
    v.field(
        "misses",
        "Heartbeats that may be missed; without it by the interval; \"auto\" by the measured loss.",
        Opt::Parsed(Parsed { shown, form, takes_numbers: true, read: &mut read }),
    );
    v.example("misses", "4");
    maybe_seconds(v, "grace", "Allowance for delay; without it by the interval.", &mut rules.grace, SECONDS);
    v.example("grace", "\"5s\"");
    let doc = "Share of a service's instances without which it is degraded; 0 is off.";
    maybe(v, "quorum", doc, &mut rules.quorum, |quorum| Opt::Number(quorum, 0.0..=1.0));
    v.example("quorum", "0.25");
    maybe_count(v, "min", "Number of instances without which it is degraded.", &mut rules.min, 0..=1000);
    v.example("min", "2");
    let doc = "Instances come and go: a lost one causes no alert.";
    maybe(v, "ephemeral", doc, &mut rules.ephemeral, |value| Opt::Flag(value));
    v.example("ephemeral", "true");
    maybe_seconds(v, "within", "How long after its start that number holds.", &mut rules.within, SECONDS);
    v.example("within", "\"1m\"");
    let doc = "What of a service is notified: it and its instances (\"all\"), it alone (\"service\"), or nothing (\"never\").";
    let levels = Notify::ALL.map(|level| (level.as_str(), level));
    maybe_choice(v, "notify", doc, &levels, &mut rules.notify);
    v.example("notify", "\"service\"");
    let doc = "With \"alert\", a service check with status 2 or 3 is an alert of its own; with \"show\" it is shown.";
    maybe_choice(v, "health", doc, &[("show", false), ("alert", true)], &mut rules.health_alerts);
    v.example("health", "\"alert\"");
}

/// `[[presence.service]]`.
#[derive(Default)]
struct Service {
    rules: Override,
    allow: Option<Vec<IpNet>>,
    key: Option<String>,
}

impl Service {
    fn describe(&mut self, v: &mut dyn OptionVisitor) {
        let mut is_there = !v.is_reader();
        let pattern = Opt::Text(&mut self.rules.pattern);
        v.field("match", "Pattern of the services' names.", Opt::Maybe(&mut is_there, Box::new(pattern)));
        v.require_one("match", is_there, "\"worker*\"");
        rules(&mut self.rules, v);
        networks(v, "allow", "Only from these networks.", &mut self.allow);
        v.example("allow", "[\"10.0.0.0/8\"]");
        secret(v, "key", "Only with this text in the tag `key`.", &mut self.key);
        v.example("key", "\"a secret\"");
    }
}

fn services(policy: &mut Policy, v: &mut dyn OptionVisitor) {
    let guards = std::mem::take(&mut policy.guards);
    let of_override = |rules: Override| {
        let guard = rules.guard.and_then(|at| guards.get(usize::from(at)));
        let allow = guard.and_then(|guard| guard.allow.networks().map(<[IpNet]>::to_vec));
        Service { rules, allow, key: guard.and_then(|guard| guard.key.clone()) }
    };
    let mut all: Vec<Service> = std::mem::take(&mut policy.overrides).into_iter().map(of_override).collect();
    let doc = "For some services; the first pattern that says something of a key decides.";
    let new = |_| Service::default();
    v.sections("service", doc, &mut TablesOf { tables: &mut all, new, describe: Service::describe });
    for Service { mut rules, allow, key } in all {
        rules.guard = None;
        if allow.is_some() || key.is_some() {
            policy.guards.push(Guard { allow: AccessList::new(allow), key });
            rules.guard = u16::try_from(policy.guards.len() - 1).ok();
        }
        policy.overrides.push(rules);
    }
}

/// Whether an instance that is down is remembered until it is reported. Those of ephemeral services are not reported.
fn outlives(forget_down: f64, group_wait: Duration) -> Result<(), String> {
    if forget_down > group_wait.as_secs_f64() {
        return Ok(());
    }
    let wait = show_duration(group_wait);
    Err(format!(
        "an instance would be forgotten before it is reported, `group_wait` ({wait}) after it is down: longer than that is right"
    ))
}

/// Whether senders can have this name, which is no pattern as in `[[presence.service]]`.
fn expected_name(name: &str) -> Result<(), String> {
    if name.contains(['*', '?']) {
        return Err(format!("`{name}` is taken as it is, not as a pattern: one table for each service is right"));
    }
    presence_job::name(name)
}

/// `[[presence.expect]]`.
fn expected(all: &mut Vec<Expected>, most: u64, v: &mut dyn OptionVisitor) {
    let new = |_| Expected { service: String::new(), min: 1, within: None };
    let describe = |one: &mut Expected, v: &mut dyn OptionVisitor| {
        let mut is_there = !v.is_reader();
        let service = Opt::Text(&mut one.service);
        v.field("service", "Its name.", Opt::Maybe(&mut is_there, Box::new(service)));
        v.require_one("service", is_there, "\"payments\"");
        v.require("service", if one.service.is_empty() { Ok(()) } else { expected_name(&one.service) });
        count(v, "min", "Instances that must be present.", &mut one.min, 1..=1000);
        v.example("min", "2");
        let is_beyond = u64::from(one.min) > most;
        let problem = || {
            format!(
                "{} instances cannot be: `max_instances_per_service` and `max_instances` leave room for {most}",
                one.min
            )
        };
        v.require("min", if is_beyond { Err(problem()) } else { Ok(()) });
        maybe_seconds(v, "within", "From when on; the service's own by default.", &mut one.within, SECONDS);
        v.example("within", "\"5m\"");
    };
    let doc = "A service that is reported even if it never sent a heartbeat.";
    v.sections("expect", doc, &mut TablesOf { tables: all, new, describe });
    let is_known = |n: usize| all[..n].iter().any(|other| other.service == all[n].service);
    let twice = (0..all.len()).find(|&n| !all[n].service.is_empty() && is_known(n));
    let problem = |n: usize| format!("service `{}` is there twice; leave one of them out", all[n].service);
    v.require("expect", twice.map_or(Ok(()), |n| Err(problem(n))));
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn what_would_keep_instances_from_being_reported_is_refused() {
        for (text, says) in [
            ("group_wait = \"30d\"", "group_wait"),
            ("group_wait = \"61m\"", "1h"),
            ("forget_down = \"5s\"", "`group_wait` (10s) after it is down: longer than that is right"),
            ("forget_down = \"10m\"\ngroup_wait = \"10m\"", "`group_wait` (10m)"),
            ("forget_down = \"0s\"\ngroup_wait = \"0s\"", "`group_wait` (0s)"),
        ] {
            let problem = Config::parse(&format!("[presence]\n{text}\n")).expect_err(text).to_string();
            assert!(problem.contains(says), "{text}: {problem}");
        }
        for text in
            ["group_wait = \"1h\"", "forget_down = \"11s\"", "forget_ephemeral = \"5s\"", "forget_service = \"5s\""]
        {
            assert!(Config::parse(&format!("[presence]\n{text}\n")).is_ok(), "{text}");
        }
    }
}
