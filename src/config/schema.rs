//! What can be configured, and its defaults.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::aggregate::rules::Rules;
use crate::net::relay::RelaySpec;
use crate::protocol::Options;
use crate::sinks::graphite::EtsyNames;
use crate::sinks::{SinkKind, SpoolOptions};
use crate::snapshot::{Bins, Filter};

use super::presence::Presence;
use super::url::ListenUrl;

/// Sets defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Ours.
    Systole,
    /// The original statsd's.
    Etsy,
    /// The DataDog agent's.
    Dogstatsd,
}

impl Profile {
    /// The word of the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Profile::Systole => "systole",
            Profile::Etsy => "etsy",
            Profile::Dogstatsd => "dogstatsd",
        }
    }
}

/// What the naming `dogstatsd` tells of a timer by default.
pub(super) const DOGSTATSD_AGGREGATES: [&str; 4] = ["max", "median", "avg", "count"];

/// How long something stays without updates; `None` is for ever.
pub type Lifetime = Option<Duration>;

/// The whole configuration.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// Time between flushes, 10 ms to 1 day (default 10 s).
    pub interval: Duration,
    /// Which defaults hold.
    pub profile: Profile,
    /// Percentiles of timers, -100 to 100.
    pub percentiles: Vec<f64>,
    /// Exact samples per timer and interval (default 4096), then a histogram.
    pub exact_samples: usize,
    /// Digits of the histogram, 1 to 5 (default 3).
    pub digits: u8,
    /// How long a gauge is re-emitted (default 5 m; `etsy`: for ever).
    pub gauge_ttl: Lifetime,
    /// How long an idle series stays (default 10 m; `etsy`: for ever).
    pub series_ttl: Lifetime,
    /// Most series held (default 1,000,000).
    pub max_series: usize,
    /// How old a time of a sample's, event's or check's own may be (default 7 d); what is older is malformed.
    pub timestamp_past: Duration,
    /// How far ahead it may be (default 1 h).
    pub timestamp_future: Duration,
    /// Before every name.
    pub prefix: String,
    /// Added to every series.
    pub tags: BTreeMap<String, String>,
    /// Emit series of our own.
    pub self_metrics: bool,
    /// How long sinks may take at the end (default 10 s).
    pub shutdown_grace: Duration,
    /// How lines are read, unless a listener says otherwise.
    pub protocol: Options,
    /// What becomes of idle series.
    pub idle: Idle,
    /// What series are called, and whether they are kept; the first that matches decides.
    pub rules: Arc<Rules>,
    /// Listeners.
    pub listen: Vec<Listen>,
    /// Sinks.
    pub sinks: Vec<Sink>,
    /// Who else gets the raw lines.
    pub relays: Vec<RelaySpec>,
    /// Switches of the profile `etsy` and of the naming `etsy`.
    pub etsy: Etsy,
    /// What the naming `dogstatsd` tells of timers.
    pub aggregates: Vec<String>,
    /// Who is there.
    pub presence: Presence,
    /// The original's management port.
    pub management: Management,
    /// The HTTP server.
    pub http: Http,
    /// The log.
    pub log: Log,
}

/// Whether idle series are emitted as zeros instead of not at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Idle {
    /// Counters.
    pub counters_zero: bool,
    /// Timers.
    pub timers_zero: bool,
    /// Sets.
    pub sets_zero: bool,
}

/// How many receive workers a UDP listener has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workers {
    /// One for every two cores, at least one, at most eight.
    Auto,
    /// So many, 1 to 64.
    Count(usize),
}

/// A listener.
#[derive(Clone, Debug, PartialEq)]
pub struct Listen {
    /// Where.
    pub url: ListenUrl,
    /// Receive workers of UDP.
    pub workers: Workers,
    /// Receive buffer to ask the kernel for, in bytes (default 16 MiB).
    pub receive_buffer: u64,
    /// Ask for more than `net.core.rmem_max` where allowed (default true).
    pub receive_buffer_force: bool,
    /// Longest datagram, and longest line of a stream, in bytes (512 to 65536, default 65536).
    pub max_datagram: usize,
    /// Cores that workers are kept on, in turn, counted from 0; empty for any (default).
    pub cores: Vec<usize>,
    /// Poll the device for so long when nothing is queued; zero is off (default).
    pub busy_poll: Duration,
    /// Run UDP workers before every ordinary process, where that is allowed (default false).
    pub realtime: bool,
    /// Source networks; `None` is all.
    pub allow: Option<Vec<IpNet>>,
    /// Most connections at once (default 1024).
    pub max_connections: usize,
    /// A connection that is silent for so long is closed (default 10 m).
    pub idle_timeout: Duration,
    /// How streams are cut.
    pub framing: Framing,
    /// Rights of a unix socket's file (default 0o660).
    pub mode: u32,
    /// How lines are read.
    pub protocol: Options,
}

/// How streams are cut into what would be datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// At newlines.
    Newline,
    /// By DogStatsD's length before each: 4 bytes, little-endian.
    Length,
}

impl Listen {
    /// A listener with every default.
    pub fn new(url: ListenUrl, protocol: Options) -> Listen {
        Listen {
            url,
            workers: Workers::Auto,
            receive_buffer: 16 << 20,
            receive_buffer_force: true,
            max_datagram: 64 << 10,
            cores: Vec::new(),
            busy_poll: Duration::ZERO,
            realtime: false,
            allow: None,
            max_connections: 1024,
            idle_timeout: Duration::from_secs(600),
            framing: Framing::Newline,
            mode: 0o660,
            protocol,
        }
    }
}

/// A sink.
#[derive(Clone, Debug, PartialEq)]
pub struct Sink {
    /// Label in status and ledger.
    pub name: String,
    /// What it is.
    pub kind: SinkKind,
    /// Intervals kept in memory while it is slow or down, 1 to 10,000 (default 4).
    pub queue: usize,
    /// Longest delivery (default 10 s).
    pub timeout: Duration,
    /// Which series it gets (default all), under which names.
    pub filter: Filter,
    /// How often it gets them, a multiple of the daemon's interval (default the daemon's).
    pub interval: Option<Duration>,
    /// Where intervals wait while it is down (default in memory alone).
    pub spool: Option<SpoolOptions>,
}

impl Sink {
    /// A sink with every default.
    pub fn new(name: &str, kind: SinkKind) -> Sink {
        Sink {
            name: name.to_string(),
            kind,
            queue: 4,
            timeout: Duration::from_secs(10),
            filter: Filter::default(),
            interval: None,
            spool: None,
        }
    }
}

/// The original's switches, under its own defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct Etsy {
    /// How the naming `etsy` writes names.
    pub names: EtsyNames,
    /// Histograms of timers.
    pub histogram: Vec<Bins>,
    /// Idle counters are deleted instead of being zero.
    pub delete_counters: bool,
    /// Likewise timers.
    pub delete_timers: bool,
    /// Gauges are deleted after `gauges_max_ttl` flushes.
    pub delete_gauges: bool,
    /// Likewise sets, as counters.
    pub delete_sets: bool,
    /// Flushes that a gauge is reported in after its last update, with `delete_gauges`.
    pub gauges_max_ttl: u32,
}

impl Default for Etsy {
    fn default() -> Etsy {
        Etsy {
            names: EtsyNames::default(),
            histogram: Vec::new(),
            delete_counters: false,
            delete_timers: false,
            delete_gauges: false,
            delete_sets: false,
            gauges_max_ttl: 1,
        }
    }
}

/// The original's management port.
#[derive(Clone, Debug, PartialEq)]
pub struct Management {
    /// Where; `None` is off (default).
    pub address: Option<SocketAddr>,
    /// What `health` says until it is told otherwise (default up).
    pub healthy: bool,
    /// Source networks; `None` is all.
    pub allow: Option<Vec<IpNet>>,
}

/// The HTTP server.
#[derive(Clone, Debug, PartialEq)]
pub struct Http {
    /// Where; `None` is off.
    pub address: Option<SocketAddr>,
    /// For anything that changes state, and for everything when not on loopback.
    pub token: Option<String>,
    /// Names, without a port, under which it may be asked on loopback, beside those of loopback (default none).
    pub hosts: Vec<String>,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// JSON Lines.
    Json,
}

/// The log, on standard error.
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug`, `trace`.
    pub level: String,
    /// How.
    pub format: LogFormat,
}
