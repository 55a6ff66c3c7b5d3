//! `[[relay]]`.

use std::time::Duration;

use toml::Value;

use crate::net::relay::{Mode, RelaySpec};

use super::print::Out;
use super::reader::{Section, Source};
use super::url::address;
use super::value::show_duration;

const MODES: [(&str, Mode); 2] = [("mirror", Mode::Mirror), ("spread", Mode::Spread)];

pub(super) fn read(root: &mut Section<'_>, s: &mut Source<'_>) -> Vec<RelaySpec> {
    let mut relays: Vec<RelaySpec> = Vec::new();
    for (n, (mut section, place)) in root.sections(s, "relay").into_iter().enumerate() {
        let mut relay = RelaySpec {
            name: if n == 0 { "relay".into() } else { format!("relay{}", n + 1) },
            targets: Vec::new(),
            mode: Mode::Mirror,
            max_datagram: 1432,
            queue: 16_384,
            health_port: None,
            health_every: Duration::from_secs(5),
            gso: false,
        };
        relay.name = section.string(s, "name").filter(|name| !name.is_empty()).unwrap_or(relay.name);
        let before = s.problems.len();
        for item in section.list(s, "targets").unwrap_or_default() {
            let Some(text) = item.string(s) else { continue };
            match address(&text) {
                Ok(good) => relay.targets.push(good),
                Err(problem) => s.problem(item.place, &item.key, format!("{problem}; \"127.0.0.1:8125\" is right")),
            }
        }
        if relay.targets.is_empty() && s.problems.len() == before {
            section.missing(s, &place, "targets", "[\"127.0.0.1:8125\"]");
        }
        relay.mode = section.choice(s, "mode", &MODES).unwrap_or(relay.mode);
        relay.max_datagram =
            section.integer(s, "max_datagram", 512..=65_507).map_or(relay.max_datagram, |n| n as usize);
        relay.queue = section.integer(s, "queue", 1..=10_000_000).map_or(relay.queue, |n| n as usize);
        relay.health_port = section.integer(s, "health_port", 1..=65_535).map(|port| port as u16);
        let range = Duration::from_millis(10)..=Duration::from_secs(3600);
        relay.health_every = section.duration(s, "health_every", range).unwrap_or(relay.health_every);
        relay.gso = section.bool(s, "gso").unwrap_or(relay.gso);
        if relays.iter().any(|other| other.name == relay.name) {
            let problem = format!("two relays are called `{}`; give one another `name`", relay.name);
            s.problem(place, &section.full("name"), problem);
        }
        section.finish(s);
        relays.push(relay);
    }
    relays
}

pub(super) fn print(out: &mut Out, relay: &RelaySpec) {
    out.head("[[relay]]");
    out.set("name", relay.name.as_str());
    out.set("targets", Value::Array(relay.targets.iter().map(|target| Value::from(target.to_string())).collect()));
    out.set("mode", MODES.iter().find(|(_, mode)| *mode == relay.mode).map_or("", |(name, _)| name));
    out.set("max_datagram", relay.max_datagram as i64);
    out.set("queue", relay.queue as i64);
    if let Some(port) = relay.health_port {
        out.set("health_port", i64::from(port));
    }
    out.set("health_every", show_duration(relay.health_every));
    out.set("gso", relay.gso);
}
