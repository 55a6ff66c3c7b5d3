//! `[[relay]]`.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::net::relay::{Mode, RelaySpec};
use crate::settings::{ItemsOf, List, Opt, OptionVisitor, TablesOf, Wrong, choice, count, maybe_count};

use super::url::address;

const MODES: [(&str, Mode); 2] = [("mirror", Mode::Mirror), ("spread", Mode::Spread)];
const HEALTH_EVERY: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(3600);

/// A relay with every default, by its number.
fn new(number: usize) -> RelaySpec {
    RelaySpec {
        name: if number == 0 { "relay".into() } else { format!("relay{}", number + 1) },
        targets: Vec::new(),
        mode: Mode::Mirror,
        max_datagram: 1432,
        queue: 16_384,
        health_port: None,
        health_every: Duration::from_secs(5),
        gso: false,
    }
}

pub(super) fn describe(visitor: &mut dyn OptionVisitor, _: &str, doc: &'static str, relays: &mut Vec<RelaySpec>) {
    visitor.sections("relay", doc, &mut TablesOf { tables: relays, new, describe: one });
}

fn one(relay: &mut RelaySpec, v: &mut dyn OptionVisitor) {
    fn target(text: &str) -> Result<Option<SocketAddr>, Wrong> {
        let right = |problem| Wrong::Because(format!("{problem}; \"127.0.0.1:8125\" is right"));
        address(text).map(Some).map_err(right)
    }
    let own = relay.name.clone();
    v.field("name", "Label in status and ledger.", Opt::Text(&mut relay.name));
    if relay.name.is_empty() {
        relay.name = own;
    }
    let mut items = ItemsOf { items: &mut relay.targets, read: target, show: |target| target.to_string().into() };
    let list = List { items: &mut items, form: "addresses", takes_numbers: false, or_one: false };
    v.field("targets", "The servers.", Opt::List(list));
    v.require_one("targets", !relay.targets.is_empty(), "[\"127.0.0.1:8125\"]");
    choice(
        v,
        "mode",
        "All servers get every line (\"mirror\"), or each line goes by its name to one of those that are up (\"spread\").",
        &MODES,
        &mut relay.mode,
    );
    count(v, "max_datagram", "Longest datagram sent, in bytes.", &mut relay.max_datagram, 512..=65_507);
    count(v, "queue", "Datagrams, or pieces of streams, that may wait.", &mut relay.queue, 1..=10_000_000);
    maybe_count(
        v,
        "health_port",
        "The original's management port of the servers, which is asked for their health.",
        &mut relay.health_port,
        1..=65_535,
    );
    v.example("health_port", "8126");
    v.field(
        "health_every",
        "How often that is asked; and how long a server is left alone at whose port nobody listens.",
        Opt::Duration(&mut relay.health_every, HEALTH_EVERY),
    );
    v.field(
        "gso",
        "Send many datagrams as one, filled up to equal length with newlines, and let the kernel cut it.",
        Opt::Flag(&mut relay.gso),
    );
}
