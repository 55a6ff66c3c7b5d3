//! Systole: a StatsD server.
pub mod aggregate;
pub mod inert;
pub mod net;
pub mod protocol;
pub mod series;
pub mod sinks;
pub mod snapshot;
pub mod telemetry;
pub mod config;
