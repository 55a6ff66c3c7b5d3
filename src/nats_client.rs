//! How NATS servers are told who we are: a file of credentials, a token, or a name and a password, and TLS.

use std::path::PathBuf;

#[cfg(feature = "nats")]
use async_nats::ConnectOptions;

use crate::http_client::Tls;

/// Who we are. Of several ways the first one that is set is taken, in the order of the fields from `credentials` on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NatsLogin {
    /// A file of credentials, as `nsc` makes it; empty for none.
    pub credentials: PathBuf,
    /// A token; empty for none.
    pub token: String,
    /// Name of the user; empty for none.
    pub username: String,
    /// Password of the user.
    pub password: String,
    /// TLS, which is required if anything of it is set, or by an address with `tls://`.
    pub tls: Tls,
}

#[cfg(feature = "nats")]
impl NatsLogin {
    /// What a connection begins with.
    ///
    /// # Errors
    /// If a file can't be read, or has something else in it.
    pub fn options(&self) -> Result<ConnectOptions, String> {
        let mut options = ConnectOptions::new();
        if !self.credentials.as_os_str().is_empty() {
            let bad = |error: std::io::Error| format!("credentials `{}`: {error}", self.credentials.display());
            let text = crate::sys::read_text(&self.credentials).map_err(bad)?;
            options = options.credentials(&text).map_err(bad)?;
        } else if !self.token.is_empty() {
            options = options.token(self.token.clone());
        } else if !self.username.is_empty() {
            options = options.user_and_password(self.username.clone(), self.password.clone());
        }
        if !self.tls.is_default() {
            let tls = self.tls.client().map_err(|error| error.to_string())?;
            options = options.tls_client_config(tls).require_tls(true);
        }
        Ok(options)
    }
}
