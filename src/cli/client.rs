//! Asks a running daemon over HTTP: the flags that say where it is, and one request.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use hyper::Method;
use hyper::body::Incoming;
use hyper::header::AUTHORIZATION;
use serde_json::Value;

use crate::config::http_url;
use crate::http_client::{Answer, HttpClient, Tls, append, without_login};
use crate::untrusted::Escaped;

/// Longest wait for a response.
const DEADLINE: Duration = Duration::from_secs(10);

/// Where the daemon is, and what it asks for.
#[derive(Args, Clone, Debug)]
pub(super) struct ClientArgs {
    /// Base URL of the daemon's page
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8127", global = true)]
    pub(super) url: String,
    /// The token (`http.token`); by default that of SYSTOLE_TOKEN
    #[arg(long, value_name = "TOKEN", global = true)]
    token: Option<String>,
    /// Roots (PEM) of the page's certificate, in place of the system's
    #[arg(long, value_name = "FILE", global = true)]
    tls_ca: Option<PathBuf>,
    /// Our certificate (PEM), for a page that asks for one
    #[arg(long, value_name = "FILE", global = true, requires = "tls_key")]
    tls_certificate: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", global = true, requires = "tls_certificate")]
    tls_key: Option<PathBuf>,
}

impl ClientArgs {
    /// A client with these flags.
    ///
    /// # Errors
    /// If the URL is none, or a file of TLS cannot be read.
    pub(super) fn client(&self) -> Result<DaemonClient, String> {
        http_url(&self.url).map_err(|problem| format!("--url: {problem}"))?;
        let file = |path: &Option<PathBuf>| path.clone().unwrap_or_default();
        let tls = Tls { ca: file(&self.tls_ca), certificate: file(&self.tls_certificate), key: file(&self.tls_key) };
        let client = HttpClient::with(&tls).map_err(|error| format!("cannot set up TLS: {error}"))?;
        let token = self.token.clone().or_else(|| std::env::var(crate::config::TOKEN).ok());
        Ok(DaemonClient { client, url: self.url.clone(), token, is_from_flag: self.token.is_some() })
    }
}

/// A client of a running daemon. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct DaemonClient {
    pub(super) client: HttpClient,
    pub(super) url: String,
    pub(super) token: Option<String>,
    /// Whether the token is that of `--token`.
    is_from_flag: bool,
}

impl DaemonClient {
    /// The same for another place.
    pub(super) fn at(self, url: String) -> DaemonClient {
        DaemonClient { url, ..self }
    }

    /// Requests `path` and waits for the whole response, whatever its status.
    ///
    /// # Errors
    /// That nobody answers, with what helps.
    pub(super) async fn request(&self, method: Method, path: &str, body: Option<Value>) -> Result<Answer, String> {
        self.request_within(method, path, body, DEADLINE).await
    }

    /// The same with a deadline of its own.
    async fn request_within(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
        deadline: Duration,
    ) -> Result<Answer, String> {
        let url = append(&self.url, path);
        let body = body.map(|body| body.to_string().into_bytes());
        let answer = self.client.ask(method, &url, body, self.token.as_deref(), deadline).await;
        answer.map_err(|error| unreachable(&url, &error.to_string()))
    }

    /// Opens a response that has no end; returns its status, and its body to be read as it comes.
    ///
    /// # Errors
    /// That nobody answers, with what helps.
    pub(super) async fn open(&self, path: &str) -> Result<(u16, Incoming), String> {
        let url = append(&self.url, path);
        let token = self.token.as_ref().map(|token| (AUTHORIZATION, format!("Bearer {token}")));
        let answer = self.client.open(&url, token.into_iter().collect(), DEADLINE).await;
        answer.map_err(|error| unreachable(&url, &error.to_string()))
    }

    /// The status and the body of the response.
    ///
    /// # Errors
    /// That nobody answers, or not with JSON.
    pub(super) async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Result<(u16, Value), String> {
        self.ask_within(method, path, body, DEADLINE).await
    }

    /// The same with a deadline of its own.
    ///
    /// # Errors
    /// That nobody answers in time, or not with JSON.
    pub(super) async fn ask_within(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
        deadline: Duration,
    ) -> Result<(u16, Value), String> {
        let answer = self.request_within(method, path, body, deadline).await?;
        self.read(path, &answer)
    }

    /// The status and the JSON of a response.
    fn read(&self, path: &str, answer: &Answer) -> Result<(u16, Value), String> {
        let value = serde_json::from_slice(&answer.body);
        let not_ours = |_| {
            format!("{} answers {}, but not as systole does", without_login(&append(&self.url, path)), answer.status)
        };
        Ok((answer.status, value.map_err(not_ours)?))
    }

    /// The same, with an error for anything but success.
    pub(super) async fn good(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, String> {
        self.good_within(method, path, body, DEADLINE).await
    }

    /// The same with a deadline of its own.
    ///
    /// # Errors
    /// That nobody answers in time, not with JSON, or with an error.
    pub(super) async fn good_within(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
        deadline: Duration,
    ) -> Result<Value, String> {
        let answer = self.request_within(method, path, body, deadline).await?;
        match self.read(path, &answer)? {
            (200..300, value) => Ok(value),
            (status, value) => Err(self.refused(status, &value)),
        }
    }

    /// Why the daemon refuses a request, and what helps if that is the token.
    pub(super) fn refused(&self, status: u16, body: &Value) -> String {
        let why = refusal(status, body);
        match (&self.token, status) {
            // That there is none in force is said already.
            (_, 401) if body["error"]["code"] == "no_token" => why,
            (None, 401) => format!("{why}; give it with `--token` or in SYSTOLE_TOKEN"),
            (Some(_), 401) => {
                format!("{why}; it came from {}", if self.is_from_flag { "`--token`" } else { "SYSTOLE_TOKEN" })
            }
            _ => why,
        }
    }
}

/// That nobody answers, with what helps.
fn unreachable(url: &str, error: &str) -> String {
    let url = without_login(url);
    format!("cannot ask {url}: {error}; {}", advice(&url, error))
}

/// Why the daemon refuses a request.
pub(super) fn refusal(status: u16, body: &Value) -> String {
    match body["error"]["message"].as_str() {
        Some(message) => Escaped(message).to_string(),
        None => format!("the daemon answers {status}"),
    }
}

/// What to do about a request that failed.
fn advice(url: &str, error: &str) -> &'static str {
    let says = |word: &str| error.contains(word);
    match () {
        // An alert of TLS begins with no version of HTTP.
        () if url.starts_with("http://") && says("invalid HTTP version") => "it speaks TLS: give `--url https://…`",
        () if says("UnknownIssuer") => "give the root that signed its certificate with `--tls-ca FILE`",
        () if says("CertificateRequired") => {
            "it asks for a certificate: give one that its `client_ca` has signed with `--tls-certificate FILE --tls-key FILE`"
        }
        () if says("NotValidForName") => "give `--url` with a name that is in its certificate",
        // The message of rustls for an answer that is not TLS.
        () if url.starts_with("https://") && says("corrupt message") => "it does not speak TLS: give `--url http://…`",
        () => "is the daemon running, with its page?",
    }
}
