//! Systole is a StatsD server: it reads metrics of every StatsD dialect from UDP, TCP and unix sockets, aggregates them
//! per interval, and pushes the roll-up to sinks at each interval, with an account of everything it read and lost.
//!
//! This crate is first of all the daemon `systole`. As a library it offers the aggregator without a network, and the
//! daemon with sinks of your own:
//!
//! ```
//! use systole::{Aggregator, Config};
//!
//! let config = Config::parse("percentiles = [50, 99]\ninterval = \"10s\"")?;
//! let mut aggregator = Aggregator::new(&config);
//! // Time is an argument, in Unix seconds: tests and simulations need no sleeps.
//! for n in 0..100 {
//!     aggregator.ingest(format!("api.hits:1|c\napi.latency:{n}|ms").as_bytes(), 1_700_000_000.0);
//! }
//! let snapshot = aggregator.close(1_700_000_010.0);
//! assert_eq!(snapshot.counters[0].sum.value(), 100.0);
//! assert_eq!(snapshot.timers[0].timer.count(), 100.0);
//! # Ok::<(), systole::ConfigError>(())
//! ```
//!
//! The rooms inside, from pure to shell; each imports only from those before it (`tests/it/layering.rs`). They are
//! private: `docs/api.txt` lists what is not. The feature `internals` opens them for this crate's own tests, benches and
//! fuzz targets, without any promise.
//!
//! | rooms | are |
//! |---|---|
//! | `memory`, `named`, `hyperloglog`, `protocol`, `series`, `untrusted`, `acl`, `glob`, `settings`, `fault`, `watches`, `random` | who holds memory, lines read into borrowed values, identities, harmless text |
//! | `telemetry`, `senders`, `aggregate`, `presence`, `snapshot`, `prometheus_text`, `rollup`, `codec`, `journal`, `history`, `cluster` | the ledger, shards, who is there, closed intervals; time is an argument |
//! | `sys`, `supervise`, `log`, `reloads`, `hints`, `disk`, `state`, `http_client`, `nats_client`, `web`, `capture`, `tail`, `notify`, `presence_driver`, `ports`, `net`, `load`, `sinks`, `cluster_bus`, `flush`, `cluster_driver`, `management`, `http` | the outside: sockets, files, threads |
//! | `config`, `assemble`, `aggregator`, `daemon`, `cli` | what puts them together |

#![cfg_attr(feature = "internals", warn(unreachable_pub))]
#![cfg_attr(
    not(feature = "internals"),
    allow(unused_imports, reason = "rooms export for tests what the daemon itself does not name")
)]

mod acl;
mod aggregate;
mod aggregator;
mod assemble;
mod capture;
mod cli;
#[cfg_attr(
    not(feature = "internals"),
    allow(dead_code, reason = "simulations and benches look deeper than the daemon")
)]
mod cluster;
#[cfg_attr(not(feature = "internals"), allow(dead_code, reason = "without NATS there is none"))]
mod cluster_bus;
mod cluster_driver;
mod codec;
mod config;
mod daemon;
mod disk;
mod explain;
mod fault;
mod flush;
mod glob;
mod hints;
mod history;
mod http;
mod http_client;
mod hyperloglog;
mod journal;
mod load;
mod log;
mod management;
mod memory;
mod named;
mod nats_client;
mod net;
mod notify;
mod ports;
mod presence;
mod presence_driver;
mod prometheus_text;
mod protocol;
mod random;
mod reloads;
mod rollup;
mod senders;
mod series;
mod settings;
mod sinks;
mod snapshot;
mod state;
mod supervise;
mod sys;
mod tail;
mod telemetry;
mod untrusted;
mod watches;
mod web;

pub use aggregate::{Gauge, Members, Sum, Timer};
pub use aggregator::Aggregator;
pub use codec::{RecordType, Records};
pub use config::{Config, ConfigError};
pub use daemon::{Daemon, Health, Running, StartError, StopError};
pub use protocol::Kind;
pub use series::Series;
pub use sinks::{Delivery, DriverOptions, Receipt, Sink, SinkError};
pub use snapshot::{CounterPoint, GaugePoint, KvPoint, SetPoint, Snapshot, TimerPoint};
pub use telemetry::Ledger;

#[doc(hidden)]
pub use cli::main as command_line;

/// The allocator of the command `systole`, which knows how many bytes live. A program that embeds the library may install
/// it, too; without it the resident size of the process takes the place of that number.
pub use sys::CountingAllocator;

/// The rooms, for this crate's own tests, benches and fuzz targets. Nothing in here is promised to anybody.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals {
    macro_rules! open {
        ($($room:ident)*) => {
            $(
                #[allow(missing_docs)]
                pub mod $room {
                    pub use crate::$room::*;
                }
            )*
        };
    }
    open! {
        acl aggregate assemble capture cli cluster cluster_bus cluster_driver codec config daemon disk explain fault flush glob hints history http http_client journal load log management memory net notify ports presence presence_driver
        prometheus_text protocol random reloads rollup senders series settings sinks snapshot state supervise sys tail telemetry untrusted watches web
    }
}
