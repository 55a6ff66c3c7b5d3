//! What the configuration, the start and `check` need to know of a kind of sink: a [`Spec`], beside the sink itself. It
//! describes its options once, to a [`OptionVisitor`], which reads them from a file, prints them, or lists them.

use std::fmt;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::history::Archive;
use crate::memory::Memory;
use crate::ports::{Ports, TlsFiles};
use crate::series::Series;
use crate::settings::OptionVisitor;
use crate::snapshot::{Point, Snapshot};

use super::Sink;
use super::graphite::EtsyNames;

/// Longest attempt to reach a receiver, for `check --connect`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A kind of sink with its options.
pub trait Spec: fmt::Debug {
    /// Shows every option to a visitor.
    fn options(&mut self, visitor: &mut dyn OptionVisitor);

    /// Takes its place from what follows `type://` in a URL.
    ///
    /// # Errors
    /// What would be right.
    fn set_from_url(&mut self, place: &str) -> Result<(), String> {
        let _ = place;
        Err("it cannot be said in a URL; write a [[sink]] with its `type`".into())
    }

    /// Whether its place is a URL that may have a query of its own.
    fn has_query(&self) -> bool {
        false
    }

    /// Where it delivers, without secrets; empty where that goes without saying.
    fn place(&self) -> String;

    /// Tries the receiver; what was found.
    ///
    /// # Errors
    /// What is wrong.
    fn probe(&self) -> Result<String, String>;

    /// The certificates of its port, if it has one.
    fn tls_files(&self) -> Option<&TlsFiles> {
        None
    }

    /// Where it listens itself, if it does.
    fn listens_at(&self) -> Option<SocketAddr> {
        None
    }

    /// The file that it writes, if it has one.
    fn file(&self) -> Option<&Path> {
        None
    }

    /// The names under which the receiver has the series of an interval, each once.
    fn names(&self, snapshot: &Snapshot, context: &SinkContext) -> Vec<String> {
        let _ = context;
        unique(series_of(snapshot).map(Series::to_string))
    }

    /// Whether it holds series over intervals, at most `max_series`.
    fn holds_series(&self) -> bool {
        false
    }

    /// What is allowed and most likely not meant, in a sentence.
    fn warning(&self) -> Option<String> {
        None
    }

    /// Whether the receiver takes an interval after a later one.
    fn accepts_out_of_order(&self) -> bool {
        false
    }

    /// Where its points can be read again, of series that get a prefix and tags on their way to it; `completeness` is the
    /// name of the daemon's own gauge.
    fn archive(&self, _prefix: &str, _tags: &[(String, String)], _completeness: &str) -> Option<Arc<dyn Archive>> {
        None
    }

    /// Makes the sink.
    ///
    /// # Errors
    /// In one sentence, what is wrong and what would be right.
    fn open(&self, context: &SinkContext) -> Result<Box<dyn Sink>, String>;
}

/// The series of an interval.
pub(super) fn series_of(snapshot: &Snapshot) -> impl Iterator<Item = &Series> {
    let points = (0..).map_while(|n| snapshot.point(n)).map(Point::series);
    points.chain(snapshot.timestamped.iter().map(|one| &one.series))
}

/// Names, each once, in order.
pub(super) fn unique(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for name in names {
        if !all.contains(&name) {
            all.push(name);
        }
    }
    all
}

/// What a sink needs to know of its daemon.
#[derive(Clone, Debug)]
pub struct SinkContext {
    /// Label of the sink.
    pub name: String,
    /// Longest delivery.
    pub timeout: Duration,
    /// Time between flushes; a failure that lasts is logged once in so long.
    pub interval: Duration,
    /// Profile of the configuration.
    pub profile: &'static str,
    /// Names of the naming `etsy`.
    pub etsy: EtsyNames,
    /// Most series of senders, for sinks that remember them.
    pub max_series: usize,
    /// Aggregates of timers in the naming `dogstatsd`.
    pub aggregates: Vec<String>,
    /// Where ports are accounted for.
    pub ports: Ports,
    /// The memory that it lies in.
    pub memory: Memory,
}

/// What follows the scheme of a URL, without slashes around it.
pub(super) fn bare(place: &str) -> &str {
    place.strip_prefix("//").unwrap_or(place).trim_end_matches('/')
}

/// Whether a name can stand in SQL as it is.
pub(super) fn sql_name(name: &str) -> Result<(), String> {
    match name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !name.is_empty() {
        true => Ok(()),
        false => Err(format!("`{name}` has more than letters, digits and `_`")),
    }
}

/// Whether `host:port` accepts connections.
pub(super) fn reach(address: &str) -> Result<String, String> {
    let all = address.to_socket_addrs().map_err(|e| format!("cannot look up {address}: {e}"))?;
    let mut last = format!("{address} has no address");
    for one in all {
        match TcpStream::connect_timeout(&one, CONNECT_TIMEOUT) {
            Ok(_) => return Ok(format!("{address} accepts connections")),
            Err(error) => last = format!("cannot reach {address}: {error}"),
        }
    }
    Err(last)
}

/// Whether the host of a URL accepts connections.
pub(super) fn reach_url(url: &str) -> Result<String, String> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    let host = rest.split(['/', '?']).next().unwrap_or("").rsplit('@').next().unwrap_or("");
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let port = if scheme == "https" { 443 } else { 80 };
    reach(&if has_port { host.to_string() } else { format!("{host}:{port}") })
}

macro_rules! kinds {
    ($($(#[doc = $doc:literal])* $(#[cfg(feature = $feature:literal)])? $variant:ident($spec:ty) = $name:literal,)*) => {
        /// What a sink is, with its own options.
        #[derive(Clone, Debug, PartialEq)]
        pub enum SinkKind {
            $($(#[doc = $doc])* $(#[cfg(feature = $feature)])? $variant($spec),)*
        }

        impl SinkKind {
            /// Every kind's word, and the feature that it is built with; empty if it is always there.
            pub const NAMES: &[(&'static str, &'static str)] = &[$(($name, concat!("" $(, $feature)?)),)*];

            /// The kind of a word, with the defaults of its options; `None` if there is none, or not in this build.
            pub fn from_name(name: &str) -> Option<SinkKind> {
                match name {
                    $($(#[cfg(feature = $feature)])? $name => Some(SinkKind::$variant(<$spec>::default())),)*
                    _ => None,
                }
            }

            /// The word of the configuration.
            pub fn name(&self) -> &'static str {
                match self {
                    $($(#[cfg(feature = $feature)])? SinkKind::$variant(_) => $name,)*
                }
            }

            /// What is known of it.
            pub fn spec(&self) -> &dyn Spec {
                match self {
                    $($(#[cfg(feature = $feature)])? SinkKind::$variant(spec) => spec,)*
                }
            }

            /// The same, to be changed.
            pub fn spec_mut(&mut self) -> &mut dyn Spec {
                match self {
                    $($(#[cfg(feature = $feature)])? SinkKind::$variant(spec) => spec,)*
                }
            }
        }
    };
}

// To add a sink: its file, and its line here.
kinds! {
    /// ClickHouse over HTTP.
    Clickhouse(super::clickhouse::ClickhouseSpec) = "clickhouse",
    /// Standard output: a table on a terminal, records otherwise.
    Console(super::console::ConsoleSpec) = "console",
    /// Datadog's API.
    Datadog(super::datadog::DatadogSpec) = "datadog",
    /// Elasticsearch's bulk API.
    Elasticsearch(super::elasticsearch::ElasticsearchSpec) = "elasticsearch",
    /// A command that reads records.
    Exec(super::exec::ExecSpec) = "exec",
    /// A file of records.
    File(super::file::FileSpec) = "file",
    /// Graphite over TCP.
    Graphite(super::graphite::GraphiteSpec) = "graphite",
    /// An HdrHistogram interval log.
    Hdrlog(super::hdrlog::HdrlogSpec) = "hdrlog",
    /// An Influx database.
    Influx(super::influx::InfluxSpec) = "influx",
    /// A topic of Kafka.
    #[cfg(feature = "kafka")]
    Kafka(super::kafka::KafkaSpec) = "kafka",
    /// A stream of NATS.
    #[cfg(feature = "nats")]
    Nats(super::nats::NatsSpec) = "nats",
    /// OpenTelemetry over HTTP.
    Otlp(super::otlp::OtlpSpec) = "otlp",
    /// A PostgreSQL database.
    #[cfg(feature = "postgres")]
    Postgres(super::postgres::PostgresSpec) = "postgres",
    /// A scrape endpoint.
    Prometheus(super::prometheus::PrometheusSpec) = "prometheus",
    /// Prometheus by remote write.
    RemoteWrite(super::remote_write::RemoteWriteSpec) = "remote_write",
    /// A database in a file.
    #[cfg(feature = "sqlite")]
    Sqlite(super::sqlite::SqliteSpec) = "sqlite",
    /// Another StatsD server.
    Statsd(super::statsd::StatsdSpec) = "statsd",
}
