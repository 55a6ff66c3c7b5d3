//! The ports that others connect to: what their listeners share, whatever they speak.
//!
//! | file | does |
//! |---|---|
//! | `listener` | accepts connections within limits, and closes those whose time is over |
//! | `connection` | a connection, with or without TLS, and how far its request is |
//! | `victim` | which connection gives way when there is no room, and when its time is over |
//! | `http` | serves routes of HTTP on a port |
//! | `counters` | what every port has counted |
//! | `tls` | TLS: the files, and the configuration made of them, replaced while the daemon runs |
//! | `handshake` | why a handshake of TLS failed, in words |
//! | `validity` | reads from a certificate when it holds |
//!
//! A slow or hostile client costs others nothing: a request has a total time, however it drips; and where a port is full,
//! the connection that has waited longest without a complete request is closed for the new one, so that a probe always
//! gets in. Connections whose request is being answered are left alone while they make progress, such as streams of
//! events and long downloads.

mod connection;
mod counters;
mod handshake;
mod http;
mod listener;
mod tls;
mod validity;
mod victim;

pub use connection::{Conn, machine};
pub use counters::{InTheWay, PortCounters, Ports, until_reloaded};
pub use handshake::refusal;
pub use http::serve_http;
pub use listener::{ConnectionLimits, Port, PortOptions, Shareable, bind, bind_shareable, limit_options};
pub use tls::{OtherFiles, ServerTls, TlsError, TlsFiles, tls_options, token_in_plain_text};
pub use victim::{Buffers, Patience};
