//! The ports that others connect to: what their listeners share, whatever they speak.
//!
//! | file | does |
//! |---|---|
//! | `tls` | TLS: the files, and the configuration made of them, replaced while the daemon runs |
//! | `validity` | reads from a certificate when it holds |

mod tls;
mod validity;

pub use tls::{ServerTls, TlsError, TlsFiles, tls_options};
