//! Systole is a StatsD server: it reads metrics of every StatsD dialect from UDP and TCP, aggregates them per
//! interval, and pushes the roll-up to sinks on every beat, with an account of everything it read and lost.
//!
//! The rooms, from pure to shell; each imports only from those before it (`tests/it/layering.rs`):
//!
//! | room | is |
//! |---|---|
//! | [`protocol`], [`series`], [`untrusted`], [`acl`], [`glob`] | words: lines read into borrowed values, identities, harmless text |
//! | [`aggregate`], [`presence`], [`telemetry`], [`snapshot`], [`rollup`], [`codec`] | machines: shards, who is there, the ledger, closed intervals, how they are made and written; time is an argument |
//! | [`sys`], [`log`], [`manager`], [`http_client`], [`capture`], [`notify`], [`presence_driver`], [`net`], [`load`], [`sinks`], [`management`], [`http`] | the outside |
//! | [`config`], [`assemble`], [`flush`], [`server`], [`cli`] | the house |

pub mod acl;
pub mod aggregate;
pub mod assemble;
pub mod capture;
pub mod cli;
pub mod codec;
pub mod config;
pub mod flush;
pub mod glob;
pub mod http;
pub mod http_client;
pub mod lasting;
pub mod load;
pub mod log;
pub mod management;
pub mod manager;
pub mod net;
pub mod notify;
pub mod presence;
pub mod presence_driver;
pub mod protocol;
pub mod rollup;
pub mod series;
pub mod server;
pub mod sinks;
pub mod snapshot;
pub mod sys;
pub mod telemetry;
pub mod untrusted;
