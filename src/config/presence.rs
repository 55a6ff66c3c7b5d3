//! `[presence]`: how heartbeats are read and silence is judged.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use toml::Value;

use crate::acl::AccessList;
use crate::presence::policy::{Expected, Guard, Misses, Override, Policy, SeriesOf};
use crate::protocol::TAKEN;

use super::load::network;
use super::print::{MASK, Out, networks, number};
use super::reader::{Section, Source};
use super::url::http_url;
use super::value::show_duration;
use crate::http_client::masked;
use crate::presence_driver::QUEUE;

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
    /// Everything else.
    pub policy: Policy,
}

/// Where presence keeps its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StatePath {
    /// In `$STATE_DIRECTORY`, else in the user's state folder.
    Auto,
    /// Nowhere: a restart forgets.
    Off,
    /// In this file.
    Path(PathBuf),
}

/// The most that a limit can be set to.
const MOST_LIMIT: u64 = 10_000_000;

const SECONDS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(366 * 86_400);

pub(super) fn read(root: &mut Section<'_>, s: &mut Source<'_>, is_etsy: bool) -> Presence {
    let mut section = root.section(s, "presence");
    let mut policy = Policy::default();
    let enabled = section.bool(s, "enabled").unwrap_or(true);
    if let Some(names) = section.strings(s, "names") {
        policy.names = names;
    }
    policy.assist = section.choice(s, "implicit", &[("off", false), ("assist", true)]).unwrap_or(false);
    let by_address = section.choice(s, "default_instance", &[("-", false), ("source_ip", true)]).unwrap_or(false);
    let state_file = match section.string(s, "state_file").as_deref() {
        None | Some("auto") => StatePath::Auto,
        Some("off") => StatePath::Off,
        Some(path) => StatePath::Path(path.into()),
    };
    let forward_raw = section.bool(s, "forward_raw").unwrap_or(is_etsy);
    let alertmanager = urls(&mut section, s, "alertmanager");
    let webhook = urls(&mut section, s, "webhook");
    let group_wait = section.duration(s, "group_wait", SECONDS).unwrap_or(Duration::from_secs(10));
    let queue = section.integer(s, "queue", 1..=1_000_000).map_or(QUEUE, |count| count as usize);
    for (key, limit) in limits(&mut policy) {
        *limit = section.integer(s, key, 1..=MOST_LIMIT).map_or(*limit, |count| count as usize);
    }
    let snitch_url = section.find(s, "snitch_url").and_then(|found| {
        let url = found.string(s)?;
        match http_url(&url) {
            _ if url.is_empty() => None,
            Ok(()) => Some(url),
            Err(problem) => {
                s.problem(found.place.clone(), &found.key, problem);
                None
            }
        }
    });
    policy.goodbye_same_ip = section.choice(s, "goodbye_from", &[("any", false), ("same_ip", true)]).unwrap_or(false);
    let series = [("auto", SeriesOf::Auto), ("instance", SeriesOf::Instances), ("service", SeriesOf::Services)];
    policy.series = section.choice(s, "series", &series).unwrap_or(SeriesOf::Auto);
    policy.maintenance_wire = section.bool(s, "maintenance_wire").unwrap_or(policy.maintenance_wire);
    policy.mass_fraction = section.number(s, "mass_fraction", 0.0..=1.1).unwrap_or(policy.mass_fraction);
    for (key, seconds) in lengths(&mut policy) {
        *seconds = section.duration(s, key, SECONDS).map_or(*seconds, |length| length.as_secs_f64());
    }
    let general = rules(&mut section, s, String::new());
    policy.rules.misses = general.misses.unwrap_or(policy.rules.misses);
    policy.rules.grace = general.grace.or(policy.rules.grace);
    policy.rules.quorum = general.quorum.unwrap_or(policy.rules.quorum);
    policy.rules.min = general.min.or(policy.rules.min);
    policy.rules.ephemeral = general.ephemeral.unwrap_or(policy.rules.ephemeral);
    policy.rules.within = general.within.unwrap_or(policy.rules.within);
    for (mut one, place) in section.sections(s, "service") {
        match one.string(s, "match") {
            Some(pattern) => {
                let mut rules = rules(&mut one, s, pattern);
                rules.guard = guard(&mut one, s, &mut policy.guards);
                policy.overrides.push(rules);
            }
            None => one.missing(s, &place, "match", "\"worker*\""),
        }
        one.finish(s);
    }
    for (mut one, place) in section.sections(s, "expect") {
        let min = one.integer(s, "min", 1..=1000).unwrap_or(1) as u32;
        let within = one.duration(s, "within", SECONDS).map(|within| within.as_secs_f64());
        match one.string(s, "service") {
            Some(service) if TAKEN.contains(&&*service) => {
                s.problem(
                    place,
                    "service",
                    format!("no service is called `{service}`: the API has that word in its paths"),
                );
            }
            Some(service) => policy.expect.push(Expected { service, min, within }),
            None => one.missing(s, &place, "service", "\"payments\""),
        }
        one.finish(s);
    }
    section.finish(s);
    Presence {
        enabled,
        by_address,
        state_file,
        forward_raw,
        alertmanager,
        webhook,
        group_wait,
        queue,
        snitch_url,
        policy,
    }
}

fn urls(section: &mut Section<'_>, s: &mut Source<'_>, key: &'static str) -> Vec<String> {
    let mut urls = Vec::new();
    for item in section.list(s, key).unwrap_or_default() {
        match item.string(s) {
            Some(url) if url.is_empty() => {}
            Some(url) => match http_url(&url) {
                Ok(()) => urls.push(url),
                Err(problem) => s.problem(item.place.clone(), &item.key, problem),
            },
            None => {}
        }
    }
    urls
}

/// Whose word counts of a service: a place among the `guards`.
fn guard(section: &mut Section<'_>, s: &mut Source<'_>, guards: &mut Vec<Guard>) -> Option<u16> {
    let networks = section.list(s, "allow");
    let networks = networks.map(|items| items.iter().filter_map(|item| network(item, s)).collect());
    let key = section.secret(s, "key").filter(|key| !key.is_empty());
    if networks.is_none() && key.is_none() {
        return None;
    }
    guards.push(Guard { allow: AccessList::new(networks), key });
    u16::try_from(guards.len() - 1).ok()
}

/// Lengths of time that are set by their key alone.
fn lengths(policy: &mut Policy) -> [(&'static str, &mut f64); 8] {
    [
        ("mass_hold", &mut policy.mass_hold),
        ("learn_timeout", &mut policy.learn_timeout),
        ("forget_left", &mut policy.forget_left),
        ("forget_down", &mut policy.forget_down),
        ("forget_ephemeral", &mut policy.forget_ephemeral),
        ("forget_service", &mut policy.forget_service),
        ("flap_window", &mut policy.flap_quiet),
        ("maintenance_max", &mut policy.maintenance_max),
    ]
}

/// Limits that are set by their key alone.
fn limits(policy: &mut Policy) -> [(&'static str, &mut usize); 6] {
    [
        ("max_services", &mut policy.max_services),
        ("max_instances_per_service", &mut policy.max_instances_per_service),
        ("max_instances", &mut policy.max_instances),
        ("max_registrations_per_second", &mut policy.max_registrations_per_second),
        ("max_services_per_source", &mut policy.max_services_per_source),
        ("max_instances_per_source", &mut policy.max_instances_per_source),
    ]
}

/// What may be said of all services, or of those that match a pattern.
fn rules(section: &mut Section<'_>, s: &mut Source<'_>, pattern: String) -> Override {
    let misses = section.find(s, "misses").and_then(|found| match found.text_or_number().as_deref() {
        Some("auto") => Some(Misses::Auto),
        text => {
            let count = text.and_then(|text| text.parse().ok()).filter(|count| (1..=100).contains(count));
            if count.is_none() {
                found.refuse(s, "a whole number from 1 to 100, or \"auto\"");
            }
            count.map(Misses::Fixed)
        }
    });
    Override {
        pattern,
        misses,
        grace: section.duration(s, "grace", SECONDS).map(|grace| grace.as_secs_f64()),
        quorum: section.number(s, "quorum", 0.0..=1.0),
        min: section.integer(s, "min", 0..=1000).map(|min| min as u32),
        ephemeral: section.bool(s, "ephemeral"),
        within: section.duration(s, "within", SECONDS).map(|within| within.as_secs_f64()),
        guard: None,
    }
}

pub(super) fn print(out: &mut Out, presence: &Presence) {
    let mut policy = presence.policy.clone();
    out.head("[presence]");
    out.set("enabled", presence.enabled);
    out.set("names", Value::Array(policy.names.iter().map(|name| Value::from(name.as_str())).collect()));
    out.set("implicit", if policy.assist { "assist" } else { "off" });
    out.set("default_instance", if presence.by_address { "source_ip" } else { "-" });
    out.set(
        "state_file",
        match &presence.state_file {
            StatePath::Auto => "auto".into(),
            StatePath::Off => "off".into(),
            StatePath::Path(path) => path.to_string_lossy().into_owned(),
        },
    );
    out.set("forward_raw", presence.forward_raw);
    let list = |urls: &[String]| Value::Array(urls.iter().map(|url| Value::from(masked(url))).collect());
    out.set("alertmanager", list(&presence.alertmanager));
    out.set("webhook", list(&presence.webhook));
    out.set("group_wait", show_duration(presence.group_wait));
    out.set("snitch_url", presence.snitch_url.as_deref().map_or(String::new(), masked));
    out.set("queue", presence.queue as i64);
    for (key, limit) in limits(&mut policy) {
        out.set(key, *limit as i64);
    }
    out.set("goodbye_from", if policy.goodbye_same_ip { "same_ip" } else { "any" });
    out.set(
        "series",
        match policy.series {
            SeriesOf::Auto => "auto",
            SeriesOf::Instances => "instance",
            SeriesOf::Services => "service",
        },
    );
    out.set("maintenance_wire", policy.maintenance_wire);
    out.set("mass_fraction", number(policy.mass_fraction));
    for (key, seconds) in lengths(&mut policy) {
        out.set(key, seconds_text(*seconds));
    }
    let rules = policy.rules;
    print_rules(
        out,
        &Override {
            misses: Some(rules.misses),
            grace: rules.grace,
            quorum: Some(rules.quorum),
            min: rules.min,
            ephemeral: Some(rules.ephemeral),
            within: Some(rules.within),
            guard: None,
            pattern: String::new(),
        },
    );
    for one in &policy.overrides {
        out.head("[[presence.service]]");
        out.set("match", one.pattern.as_str());
        print_rules(out, one);
        if let Some(guard) = one.guard.and_then(|at| policy.guards.get(usize::from(at))) {
            if let Some(all) = guard.allow.networks() {
                out.set("allow", networks(all));
            }
            if guard.key.is_some() {
                out.set("key", MASK);
            }
        }
    }
    for one in &policy.expect {
        out.head("[[presence.expect]]");
        out.set("service", one.service.as_str());
        out.set("min", i64::from(one.min));
        if let Some(within) = one.within {
            out.set("within", seconds_text(within));
        }
    }
}

fn print_rules(out: &mut Out, rules: &Override) {
    match rules.misses {
        Some(Misses::Auto) => out.set("misses", "auto"),
        Some(Misses::Fixed(misses)) => out.set("misses", i64::from(misses)),
        // By the interval, as without the key.
        Some(Misses::ByInterval) | None => {}
    }
    if let Some(grace) = rules.grace {
        out.set("grace", seconds_text(grace));
    }
    if let Some(quorum) = rules.quorum {
        out.set("quorum", number(quorum));
    }
    if let Some(min) = rules.min {
        out.set("min", i64::from(min));
    }
    if let Some(ephemeral) = rules.ephemeral {
        out.set("ephemeral", ephemeral);
    }
    if let Some(within) = rules.within {
        out.set("within", seconds_text(within));
    }
}

fn seconds_text(seconds: f64) -> String {
    show_duration(Duration::from_secs_f64(seconds))
}
