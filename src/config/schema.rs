//! The table of settings: each with its key, default, kind and what it means, once. From it come the structs, their
//! defaults, the reader, the printer, `examples/systole.toml`, the tables of `docs/configuration.md` and the names of
//! the environment's variables.
//!
//! To add a setting: one entry here (or, where it belongs to the options of a room, a field there and an entry beside
//! its kin in this folder), and its use. The order is that of the printed configuration.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::aggregate::rules::Rules;
use crate::net::relay::RelaySpec;
use crate::notify::TargetOptions;
use crate::ports::{ConnectionLimits, TlsFiles};
use crate::protocol::{GaugeSign, NameTags, Options};
use crate::settings::{OptionVisitor, settings};
use crate::sinks::graphite::EtsyNames;
use crate::sinks::{LONG, SinkKind, SpoolOptions};
use crate::snapshot::{Bins, Filter};

use super::cluster::Cluster;
use super::kinds::{
    address_or_off, dogstatsd_aggregates, duration, external_url, file_mode, flag, hosts, lifetime, limits,
    listen_url_of, map, max_memory, maybe_flag, networks, numbers, one_of, secret, section, size, state_dir, such_as,
    text, tls, whole, wholes, workers,
};
use super::presence::{Presence, StatePath};
use super::test::Test;
use super::url::ListenUrl;
use super::{cluster, etsy, listen, notify, presence, protocol, relay, rule, sink, test};

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
    const ALL: [(&'static str, Profile); 3] =
        [("systole", Profile::Systole), ("etsy", Profile::Etsy), ("dogstatsd", Profile::Dogstatsd)];

    /// The word of the configuration.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, profile)| *profile == self).map_or("", |(name, _)| name)
    }
}

/// How long something stays without updates; `None` is for ever.
pub type Lifetime = Option<Duration>;

const INTERVAL: RangeInclusive<Duration> = Duration::from_millis(10)..=secs(86_400);
pub(super) const LIFETIME: RangeInclusive<Duration> = Duration::from_millis(10)..=LONG;
const TIMESTAMPS: RangeInclusive<Duration> = Duration::ZERO..=secs(1000 * 366 * 86_400);
/// More than there can be in the tag text that a line may carry.
const MOST_TAGS: u64 = 8192;
const STATE_INTERVAL: RangeInclusive<Duration> = Duration::from_millis(100)..=secs(86_400);
const GRACE: RangeInclusive<Duration> = Duration::ZERO..=secs(3600);
const BUSY_POLL: RangeInclusive<Duration> = Duration::ZERO..=secs(1);
const IDLE_TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(100)..=secs(7 * 86_400);

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

settings! {
    /// The whole configuration.
    #[non_exhaustive]
    Config {
        /// Time between flushes, which happen at multiples of it.
        interval: Duration = secs(10), duration(INTERVAL);
        /// Whose defaults hold: "etsy" is the original statsd, "dogstatsd" the DataDog agent. A profile changes some of
        /// the defaults below; docs/configuration.md says which.
        profile: Profile = Profile::Systole, one_of(&Profile::ALL);
        /// Percentiles of timers, histograms and distributions; a negative one is of the smallest values.
        percentiles: Vec<f64> = vec![50.0, 90.0, 95.0, 99.0, 99.9], numbers(-100.0..=100.0);
        /// Samples that a timer keeps exactly per interval; beyond it a histogram takes over.
        exact_samples: usize = 4096, whole(1..=1_000_000);
        /// Significant digits of that histogram.
        digits: u8 = 3, whole(1..=5);
        /// How long a gauge without an update is repeated.
        gauge_ttl: Lifetime = Some(secs(300)), lifetime(LIFETIME);
        /// How long a series without an update is kept.
        series_ttl: Lifetime = Some(secs(600)), lifetime(LIFETIME);
        /// Most series held; new ones beyond it are summed up in `systole.overflow`.
        max_series: usize = 1_000_000, whole(1..=1_000_000_000);
        /// Most memory of the process; before it is reached, parts give way in an order: docs/memory.md. "auto" is 60 % of
        /// the control group's limit if there is one, else a quarter of the machine's memory, and 256MiB at least.
        max_memory: Option<u64> = None, max_memory;
        /// How old the own time of a sample (`|T`), an event or a service check (`d:`) may be at its receipt; a line with
        /// an older one is malformed (`bad_timestamp`).
        timestamp_past: Duration = secs(7 * 86_400), duration(TIMESTAMPS);
        /// How far ahead that time may be.
        timestamp_future: Duration = secs(3600), duration(TIMESTAMPS);
        /// Most tags of a sample, an event or a service check; further ones are cut and counted (`lines.tags_cut`).
        max_tags: u32 = Options::default().max_tags, whole(1..=MOST_TAGS);
        /// Put before every name.
        prefix: String = String::new(), text;
        /// Added to every series, such as `{ host = "${HOSTNAME}" }`.
        tags: BTreeMap<String, String> = BTreeMap::new(), map;
        /// Flush the ledger as series, too.
        self_metrics: bool = true, flag;
        /// Longest stop: half of it for reading what is queued, the rest for the sinks.
        shutdown_grace: Duration = secs(10), duration(GRACE);
        /// Folder of what outlives a restart, such as gauges: docs/restarts.md. "auto" is $STATE_DIRECTORY, else `systole` in
        /// the user's state folder.
        state_dir: StatePath = StatePath::Auto, state_dir;
        /// How often that is written while the daemon runs, beside once at the stop.
        state_interval: Duration = secs(60), duration(STATE_INTERVAL);
        /// Write what the open interval has so far, too, so that a crash loses no more than came after that.
        keep_open_interval: bool = false, flag;
        /// Where to listen. There may be several.
        listen: Vec<Listen> = vec![Listen::default()], listen::describe;
        /// How lines are read.
        protocol: Options = Options::default(), protocol::describe;
        /// What is flushed of a series without samples in an interval: nothing ("drop") or zeros ("zero").
        idle: Idle = Idle::default(), section;
        /// What series are called and how they are treated. The first rule that matches decides; in patterns `*` is any
        /// text, as short as possible, and `?` one character.
        rules: Arc<Rules> = Arc::new(Rules::new(Vec::new())), rule::describe;
        /// Where closed intervals go. Each sink has its own task, queue and deadline.
        sinks: Vec<Sink> = vec![Sink::new("console", SinkKind::Console(Default::default()))], sink::describe;
        /// Passes raw lines, before they are parsed, to other StatsD servers.
        relays: Vec<RelaySpec> = Vec::new(), relay::describe;
        /// Switches of the profile "etsy" and of the naming "etsy", with the original's defaults.
        etsy: Etsy = Etsy::default(), section;
        /// Switches of the naming "dogstatsd".
        dogstatsd: Dogstatsd = Dogstatsd::default(), section;
        /// Who is there: docs/presence.md.
        presence: Presence = Presence::default(), presence::describe;
        /// Who is notified of what presence finds: docs/presence.md. `alertmanager` and `webhook` of `presence` are short
        /// forms of such targets.
        notify: Vec<TargetOptions> = Vec::new(), notify::describe;
        /// The place of this node in a cluster: docs/scale.md.
        cluster: Cluster = Cluster::default(), cluster::describe;
        /// The original's management port. Whoever may connect may delete series.
        management: Management = Management::default(), section;
        /// The page and the API.
        http: Http = Http::default(), section;
        /// The last intervals of every series in memory, for the page and the API.
        history: History = History::default(), section;
        /// The log, on standard error. Lines that standard error does not take in time are counted (`log.lines_lost`).
        log: Log = Log::default(), section;
        /// Lines with what is expected to be flushed of them, alone and in one interval. `systole check` runs these tests and fails
        /// if one does; the daemon does not look at them.
        tests: Vec<Test> = Vec::new(), test::describe;
    }
}

settings! {
    /// A listener.
    Listen {
        /// udp://HOST:PORT, tcp://HOST:PORT, unix:///PATH (a stream), unixgram:///PATH, or fd://NAME (a socket that
        /// systemd opened). [::] takes IPv4, too.
        url: ListenUrl = ListenUrl::default(), listen_url_of;
        /// Receive workers of UDP; "auto" is one for every two cores, eight at most.
        workers: Workers = Workers::Auto, workers;
        /// Receive buffer to ask the kernel for; what it grants is logged at the start.
        receive_buffer: u64 = 16 << 20, size(4096..=1 << 30);
        /// Ask for more than `net.core.rmem_max` where that is allowed.
        receive_buffer_force: bool = true, flag;
        /// Longest datagram, and longest line of a stream.
        max_datagram: usize = 64 << 10, size(512..=64 << 10);
        /// Cores that workers are kept on, in turn, counted from 0; empty for any.
        cores: Vec<usize> = Vec::new(), wholes(0..=1023);
        /// Poll the device for so long when nothing is queued.
        busy_poll: Duration = Duration::ZERO, duration(BUSY_POLL);
        /// Run UDP workers before every ordinary process, where that is allowed.
        realtime: bool = false, flag;
        /// Source networks; absent is every one.
        allow: Option<Vec<IpNet>> = None, such_as("[\"127.0.0.0/8\", \"fd00::/8\"]", networks);
        /// Most connections of a stream at once. When there are so many, a new one takes the place of the one that has been
        /// longest without a good line.
        max_connections: usize = 1024, whole(1..=1_000_000);
        /// Most of them from one address, or from one /64 of IPv6.
        max_connections_per_address: usize = 256, whole(1..=1_000_000);
        /// A connection that sends no whole line for so long is closed.
        idle_timeout: Duration = secs(600), duration(IDLE_TIMEOUT);
        /// How streams are cut: at newlines, or by DogStatsD's length before each (4 bytes, little-endian).
        framing: Framing = Framing::Newline, one_of(&[("newline", Framing::Newline), ("length", Framing::Length)]);
        /// Rights of a unix socket's file.
        mode: u32 = 0o660, file_mode;
        /// TLS on a tcp:// listener.
        tls: TlsFiles = TlsFiles::default(), tls;
        /// Any of [protocol] for this listener alone.
        protocol: Options = Options::default(), protocol::describe;
    }
    check
}

impl Listen {
    fn check(&self, visitor: &mut dyn OptionVisitor) {
        let takes_tls = matches!(self.url, ListenUrl::Tcp(_) | ListenUrl::Fd(_));
        let problem = || format!("`tls` is for tcp:// alone, and this is {}", self.url);
        visitor.require("tls", if self.tls.is_on() && !takes_tls { Err(problem()) } else { Ok(()) });
    }
}

settings! {
    /// Whether idle series are flushed as zeros.
    Idle {
        /// Counters.
        counters: bool = false, one_of(&ZEROS);
        /// Timers.
        timers: bool = false, one_of(&ZEROS);
        /// Sets.
        sets: bool = false, one_of(&ZEROS);
    }
}

const ZEROS: [(&str, bool); 2] = [("drop", false), ("zero", true)];

settings! {
    /// The original's switches, under its own defaults.
    Etsy {
        /// How the naming `etsy` writes names.
        names: EtsyNames = EtsyNames::default(), etsy::names;
        /// Delete idle counters instead of flushing zeros.
        delete_counters: bool = false, flag;
        /// Delete idle timers.
        delete_timers: bool = false, flag;
        /// Delete gauges after `gauges_max_ttl` flushes.
        delete_gauges: bool = false, flag;
        /// Delete idle sets.
        delete_sets: bool = false, flag;
        /// The default of these four.
        delete_idle_stats: Option<bool> = None, such_as("false", maybe_flag);
        /// With delete_gauges: flushes in which a gauge is repeated after its last update.
        gauges_max_ttl: u32 = 1, whole(1..=1_000_000);
        /// Bins of timers whose names contain a text; the first match decides.
        histogram: Vec<Bins> = Vec::new(), etsy::histograms;
    }
}

settings! {
    /// Switches of the naming `dogstatsd`.
    Dogstatsd {
        /// Outputs of timers.
        aggregates: Vec<String> = ["max", "median", "avg", "count"].map(String::from).to_vec(), dogstatsd_aggregates;
    }
}

settings! {
    /// The original's management port.
    Management {
        /// Where; for example "127.0.0.1:8126".
        address: Option<SocketAddr> = None, address_or_off("127.0.0.1:8126");
        /// What `health` says until it is set.
        health: bool = true, one_of(&[("up", true), ("down", false)]);
        /// Source networks; this or `tls.client_ca` must be set when the address is not on loopback.
        allow: Option<Vec<IpNet>> = None, such_as("[\"10.0.0.0/8\"]", networks);
        /// How many may connect.
        limits: ConnectionLimits = ConnectionLimits { in_all: 128, per_address: 64 }, limits;
        /// TLS.
        tls: TlsFiles = TlsFiles::default(), tls;
    }
    check
}

impl Management {
    fn check(&self, visitor: &mut dyn OptionVisitor) {
        let is_open = self.allow.is_none() && !self.tls.wants_client_certificates();
        let open = self.address.filter(|address| !address.ip().is_loopback() && is_open);
        let way_out = "say who may delete series with `allow = [\"10.0.0.0/8\"]`, or with `tls.client_ca`";
        visitor.require(
            "address",
            open.map_or(Ok(()), |address| Err(format!("`{address}` is not on loopback; {way_out}"))),
        );
    }
}

settings! {
    /// The HTTP server.
    Http {
        /// Where.
        address: Option<SocketAddr> = Some(SocketAddr::from(([127, 0, 0, 1], 8127))), address_or_off("127.0.0.1:8127");
        /// Needed for every change, and for everything when the address is not on loopback.
        token: Option<String> = None, such_as("\"a secret\"", secret);
        /// URL under which the page is reached from elsewhere, for links in notifications; without it the address.
        external_url: String = String::new(), external_url;
        /// Names, beside localhost, 127.0.0.1 and [::1], under which the server may be asked on loopback: those that a
        /// proxy passes on.
        hosts: Vec<String> = Vec::new(), hosts;
        /// How many may connect.
        limits: ConnectionLimits = ConnectionLimits { in_all: 512, per_address: 256 }, limits;
        /// TLS.
        tls: TlsFiles = TlsFiles::default(), tls;
    }
    check
}

impl Http {
    fn check(&self, visitor: &mut dyn OptionVisitor) {
        let open = self.address.filter(|address| !address.ip().is_loopback() && self.token.is_none());
        let problem = |address| format!("`{address}` is not on loopback, so `http.token` must be set");
        visitor.require("address", open.map_or(Ok(()), |address| Err(problem(address))));
    }
}

settings! {
    /// The last intervals of every series in memory.
    History {
        /// Keep them.
        enabled: bool = true, flag;
        /// Last intervals that are kept.
        intervals: usize = 360, whole(30..=86_400);
        /// Last minutes of which mean, smallest and largest are kept, counted from now; the newest of them are those intervals.
        minutes: usize = 1440, whole(0..=44_640);
    }
}

settings! {
    /// The log, on standard error.
    Log {
        /// What is logged.
        level: &'static str = "info", one_of(&LEVELS.map(|level| (level, level)));
        /// Lines for people, or JSON Lines.
        format: LogFormat = LogFormat::Text, one_of(&[("text", LogFormat::Text), ("json", LogFormat::Json)]);
    }
}

const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

/// How many receive workers a UDP listener has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workers {
    /// One for every two cores, at least one, at most eight.
    Auto,
    /// So many, 1 to 64.
    Count(usize),
}

/// How streams are cut into what would be datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// At newlines.
    Newline,
    /// By DogStatsD's length before each: 4 bytes, little-endian.
    Length,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// JSON Lines.
    Json,
}

impl Listen {
    /// A listener with every default.
    pub fn new(url: ListenUrl, protocol: Options) -> Listen {
        Listen { url, protocol, ..Listen::default() }
    }
}

/// A sink.
#[derive(Clone, Debug, PartialEq)]
pub struct Sink {
    /// Label in status and ledger.
    pub name: String,
    /// What it is.
    pub kind: SinkKind,
    /// Intervals kept in memory while it is slow or down.
    pub queue: usize,
    /// Longest delivery.
    pub timeout: Duration,
    /// Which series it gets, under which names.
    pub filter: Filter,
    /// How often it gets them, a multiple of the daemon's interval; `None` is the daemon's.
    pub interval: Option<Duration>,
    /// Where intervals wait while it is down; `None` is in memory alone.
    pub spool: Option<SpoolOptions>,
}

impl Sink {
    /// A sink with every default.
    pub fn new(name: &str, kind: SinkKind) -> Sink {
        Sink {
            name: name.to_string(),
            kind,
            queue: 4,
            timeout: secs(10),
            filter: Filter::default(),
            interval: None,
            spool: None,
        }
    }
}

impl Etsy {
    /// Sets the defaults that hang on `delete_idle_stats`.
    pub(super) fn default_by_delete_idle_stats(&mut self) {
        let Some(delete) = self.delete_idle_stats else { return };
        let four = [&mut self.delete_counters, &mut self.delete_timers, &mut self.delete_gauges, &mut self.delete_sets];
        four.into_iter().for_each(|switch| *switch = delete);
    }
}

impl Config {
    /// The defaults of a profile.
    pub(super) fn of(profile: Profile) -> Config {
        let mut config = Config { profile, ..Config::default() };
        match profile {
            Profile::Systole => {}
            Profile::Etsy => {
                config.percentiles = vec![90.0];
                config.gauge_ttl = None;
                config.protocol.sanitize = true;
                config.protocol.name_tags = NameTags { graphite: true, ..NameTags::NONE };
                config.presence.forward_raw = true;
            }
            Profile::Dogstatsd => {
                config.percentiles = vec![95.0];
                config.protocol.gauge_sign = GaugeSign::Absolute;
            }
        }
        config.default_by_etsy();
        config.default_by_protocol();
        config
    }

    /// Sets the defaults that hang on `etsy`.
    pub(super) fn default_by_etsy(&mut self) {
        if self.profile == Profile::Etsy {
            let etsy = &self.etsy;
            self.idle = Idle { counters: !etsy.delete_counters, timers: !etsy.delete_timers, sets: !etsy.delete_sets };
            let deletes = etsy.delete_counters || etsy.delete_timers || etsy.delete_gauges || etsy.delete_sets;
            self.series_ttl = if deletes { Config::default().series_ttl } else { None };
        }
    }

    /// Sets the defaults that hang on `protocol`: those of listeners.
    pub(super) fn default_by_protocol(&mut self) {
        for listen in &mut self.listen {
            listen.protocol = self.protocol;
        }
    }
}
