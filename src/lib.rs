//! Systole: a StatsD server.
pub mod protocol;
