//! `[cluster]`: the place of this node among others.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::cluster::{Late, NodeName};
use crate::nats_client::NatsLogin;
use crate::settings::{Opt, OptionVisitor, choice, count};
use crate::sinks::nats_login_options;

use super::presence::{StatePath, state_file};

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Everything, by itself.
    Standalone,
    /// Receives, and sends what it heard of each interval to the bus.
    Edge,
    /// Merges what edges sent, and has the sinks.
    Global,
    /// Both.
    Both,
}

impl Role {
    const ALL: [(&'static str, Role); 4] =
        [("standalone", Role::Standalone), ("edge", Role::Edge), ("global", Role::Global), ("edge+global", Role::Both)];

    /// Whether it receives.
    pub fn is_edge(self) -> bool {
        matches!(self, Role::Edge | Role::Both)
    }

    /// Whether it has the sinks of the cluster.
    pub fn is_global(self) -> bool {
        matches!(self, Role::Global | Role::Both)
    }

    /// The word of the configuration.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, role)| *role == self).map_or("", |(name, _)| name)
    }
}

/// What can be configured of a cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// What this node does.
    pub role: Role,
    /// `host:port` of servers of NATS.
    pub bus: Vec<String>,
    /// What streams and subjects begin with.
    pub name: String,
    /// The name of this node; empty for the host's.
    pub node: String,
    /// How many parts the series are divided into (1..=4096).
    pub partitions: u16,
    /// Streams that these are spread over (1..=64).
    pub streams: u16,
    /// Servers that have a copy of each stream (1..=5).
    pub replicas: u8,
    /// Most bytes of a stream of batches; `None` is no bound but their age.
    pub max_bytes: Option<u64>,
    /// How long batches are kept.
    pub max_age: Duration,
    /// How long after its end an interval waits for batches that are missing.
    pub lateness: Duration,
    /// What becomes of batches that come later.
    pub late: Late,
    /// Most memory for batches that wait for the bus, in bytes.
    pub spool_memory: usize,
    /// Where numbers of batches, and those that wait at a stop, are kept.
    pub state_file: StatePath,
    /// Who we are at the bus.
    pub login: NatsLogin,
}

impl Default for Cluster {
    fn default() -> Cluster {
        Cluster {
            role: Role::Standalone,
            bus: Vec::new(),
            name: "systole".into(),
            node: String::new(),
            partitions: 64,
            streams: 1,
            replicas: 3,
            max_bytes: None,
            max_age: Duration::from_secs(7200),
            lateness: Duration::from_secs(10),
            late: Late::Drop,
            spool_memory: 256 << 20,
            state_file: StatePath::Auto,
            login: NatsLogin::default(),
        }
    }
}

const MAX_AGE: RangeInclusive<Duration> = Duration::from_secs(60)..=Duration::from_secs(7 * 86_400);
const LATENESS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);
const BYTES: RangeInclusive<u64> = 1 << 20..=1 << 50;

pub(super) fn describe(visitor: &mut dyn OptionVisitor, key: &'static str, doc: &'static str, all: &mut Cluster) {
    visitor.section(key, doc, &mut |v| {
        place(all, v);
        log(all, v);
        nats_login_options(v, &mut all.login);
    });
}

/// What this node is.
fn place(all: &mut Cluster, v: &mut dyn OptionVisitor) {
    let doc = "What this node does: everything (\"standalone\"), receive (\"edge\"), merge and have the sinks (\"global\"), or \
               both (\"edge+global\").";
    choice(v, "role", doc, &Role::ALL, &mut all.role);
    v.field("bus", "Servers of NATS with JetStream.", Opt::Texts(&mut all.bus));
    v.example("bus", "[\"127.0.0.1:4222\"]");
    let is_missing = all.role != Role::Standalone && all.bus.is_empty();
    v.require("bus", if is_missing { Err(missing(all.role)) } else { Ok(()) });
    let with_login = all.bus.iter().any(|server| server.contains('@'));
    v.require("bus", if with_login { Err("say who we are with `username` and `password`".into()) } else { Ok(()) });
    v.field("node", "Name of this node, which no other has; without it that of the host.", Opt::Text(&mut all.node));
    v.require("node", name_of(&all.node));
    v.field("name", "What the streams and subjects of the cluster begin with.", Opt::Text(&mut all.name));
    let is_name = all.name.parse::<NodeName>().map_err(|error| error.to_string().replace("a node", "a cluster"));
    v.require("name", is_name.map(drop));
}

fn missing(role: Role) -> String {
    format!("the role \"{}\" needs servers of NATS; `bus = [\"127.0.0.1:4222\"]` is right", role.name())
}

/// Whether a name is one of a node; none is, too.
fn name_of(node: &str) -> Result<(), String> {
    if node.is_empty() { Ok(()) } else { node.parse::<NodeName>().map(drop).map_err(|error| error.to_string()) }
}

/// What is kept, and what is waited for.
fn log(all: &mut Cluster, v: &mut dyn OptionVisitor) {
    let doc = "Parts that the series are divided into, for the life of the streams.";
    count(v, "partitions", doc, &mut all.partitions, 1..=4096);
    count(v, "streams", "Streams that the parts are spread over.", &mut all.streams, 1..=64);
    let is_right = all.streams <= all.partitions;
    v.require("streams", if is_right { Ok(()) } else { Err("there are more streams than partitions".into()) });
    count(v, "replicas", "Servers that have a copy of each stream.", &mut all.replicas, 1..=5);
    v.field("max_bytes", "Most bytes of each stream of batches.", Opt::MaybeSize(&mut all.max_bytes, BYTES));
    v.example("max_bytes", "\"16GiB\"");
    v.field("max_age", "How long batches are kept on the bus.", Opt::Duration(&mut all.max_age, MAX_AGE));
    let doc = "How long after its end an interval waits for an edge that sends nothing.";
    v.field("lateness", doc, Opt::Duration(&mut all.lateness, LATENESS));
    let doc = "What becomes of what comes later: it is counted (\"drop\"), or the last three intervals are given to the sinks \
               again (\"amend\"), which must overwrite then.";
    choice(v, "late", doc, &[("drop", Late::Drop), ("amend", Late::Amend)], &mut all.late);
    let doc = "Most memory for what waits for the bus, a quarter of `max_memory` at most; beyond it the oldest is dropped and \
               counted.";
    let mut spool = all.spool_memory as u64;
    v.field("spool_memory", doc, Opt::Size(&mut spool, 1 << 20..=1 << 40));
    all.spool_memory = spool as usize;
    let doc = "Where numbers of batches are kept, and batches that wait at a stop: \"auto\" is in \
               `state_dir` if that is a path, else in $STATE_DIRECTORY or the user's state folder.";
    state_file(&mut all.state_file, doc, v);
}
