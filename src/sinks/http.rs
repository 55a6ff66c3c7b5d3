//! What sinks that deliver over HTTP share: where to, with which credentials, and what an answer means.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::Method;
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio_rustls::TlsConnector;

use crate::http_client::{Answer, HttpClient, Tls, append, masked, split_login};
use crate::nats_client::NatsLogin;
use crate::snapshot::{Snapshot, SnapshotId};
use crate::untrusted::excerpt;

use super::{Opt, OptionVisitor, SinkContext, SinkError};

/// Characters of a refusal that are logged.
const EXCERPT_CHARS: usize = 300;

/// Where a sink posts, and as whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) url: String,
    /// For basic authentication.
    pub(super) username: String,
    pub(super) password: String,
    /// For `Authorization: Bearer`.
    pub(super) token: String,
    /// Any others.
    pub(super) headers: BTreeMap<String, String>,
    pub(super) tls: Tls,
}

impl Endpoint {
    pub(super) fn options(&mut self, visitor: &mut dyn OptionVisitor, example: &str) {
        visitor.field("url", "URL of the receiver.", Opt::Url(&mut self.url));
        visitor.require_one("url", !self.url.is_empty(), example);
        visitor.field("username", "Name for basic authentication.", Opt::TextOrNone(&mut self.username));
        visitor.example("username", "\"systole\"");
        visitor.field("password", "Password for basic authentication.", Opt::Secret(&mut self.password));
        visitor.example("password", "\"a secret\"");
        visitor.field("token", "Token for `Authorization: Bearer`.", Opt::Secret(&mut self.token));
        visitor.example("token", "\"a secret\"");
        visitor.field("headers", "Further headers; the values are never shown.", Opt::Secrets(&mut self.headers));
        visitor.example("headers", "{ \"X-Scope-OrgID\" = \"1\" }");
        let has_header = self.headers.keys().any(|name| name.eq_ignore_ascii_case("authorization"));
        one_login(visitor, &self.url, !self.username.is_empty() || !self.token.is_empty() || has_header);
        let bad = self.headers.iter().find(|(name, value)| {
            HeaderName::try_from(name.as_str()).is_err() || HeaderValue::from_str(value).is_err()
        });
        visitor.require("headers", bad.map_or(Ok(()), |(name, _)| Err(format!("`{name}` is no header"))));
        tls(visitor, &mut self.tls);
    }

    /// The URL without what may be secret.
    pub(super) fn place(&self) -> String {
        masked(&self.url)
    }

    /// Headers that say who we are.
    fn credentials(&self) -> Vec<(HeaderName, String)> {
        let mut all: Vec<(HeaderName, String)> = Vec::new();
        if !self.token.is_empty() {
            all.push((AUTHORIZATION, format!("Bearer {}", self.token)));
        } else if !self.username.is_empty() {
            let login = BASE64_STANDARD.encode(format!("{}:{}", self.username, self.password));
            all.push((AUTHORIZATION, format!("Basic {login}")));
        }
        let others = self.headers.iter();
        all.extend(others.filter_map(|(name, value)| Some((HeaderName::try_from(name.as_str()).ok()?, value.clone()))));
        all
    }
}

/// Says that who we are stands in the URL or beside it, not both.
pub(super) fn one_login(visitor: &mut dyn OptionVisitor, url: &str, is_beside: bool) {
    let is_both = is_beside && split_login(url).1.is_some();
    let problem = "it has a login, and another stands beside it; one of them is right";
    visitor.require("url", if is_both { Err(problem.into()) } else { Ok(()) });
}

/// Options of TLS.
pub(super) fn tls(visitor: &mut dyn OptionVisitor, tls: &mut Tls) {
    visitor.in_table("tls", &mut |visitor| {
        visitor.field("ca", "Root certificates that are trusted in place of the system's.", Opt::Path(&mut tls.ca));
        visitor.example("ca", "\"/etc/ssl/certs/ca-certificates.crt\"");
        visitor.field("certificate", "Certificate of the client.", Opt::Path(&mut tls.certificate));
        visitor.example("certificate", "\"/etc/systole/client.pem\"");
        visitor.field("key", "Private key of the client's certificate.", Opt::Path(&mut tls.key));
        visitor.example("key", "\"/etc/systole/client.key\"");
        let has_key = !tls.key.as_os_str().is_empty();
        let is_asked_for = !tls.certificate.as_os_str().is_empty();
        visitor.require_one("key", has_key || !is_asked_for, "\"/etc/systole/client.key\"");
        visitor.require_one("certificate", is_asked_for || !has_key, "\"/etc/systole/client.pem\"");
    });
}

/// Who we are at servers of NATS.
pub(crate) fn nats_login(visitor: &mut dyn OptionVisitor, login: &mut NatsLogin) {
    visitor.field("username", "Name of the user.", Opt::TextOrNone(&mut login.username));
    visitor.example("username", "\"systole\"");
    visitor.field("password", "Password of the user.", Opt::Secret(&mut login.password));
    visitor.example("password", "\"a secret\"");
    visitor.field("token", "Token, in place of a name.", Opt::Secret(&mut login.token));
    visitor.example("token", "\"a secret\"");
    visitor.field("credentials", "File of credentials.", Opt::Path(&mut login.credentials));
    visitor.example("credentials", "\"/etc/systole/nats.creds\"");
    tls(visitor, &mut login.tls);
}

/// TLS on a connection of one's own: on where `secure` is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Security {
    secure: bool,
    tls: Tls,
}

impl Security {
    pub(super) fn options(&mut self, visitor: &mut dyn OptionVisitor) {
        visitor.field("secure", "Use TLS, over TCP.", Opt::Flag(&mut self.secure));
        visitor.example("secure", "true");
        tls(visitor, &mut self.tls);
        let is_idle = !self.secure && !self.tls.is_default();
        visitor.require(
            "secure",
            if is_idle { Err("`tls` says something without `secure = true`".into()) } else { Ok(()) },
        );
    }

    pub(super) fn connector(&self) -> Result<Option<TlsConnector>, String> {
        if !self.secure {
            return Ok(None);
        }
        self.tls.connector().map(Some).map_err(|error| format!("cannot set up TLS: {error}"))
    }
}

/// What became of a request that was answered.
pub(super) enum Outcome {
    /// It was taken.
    Taken(Answer),
    /// It never will be.
    Refused(Answer),
}

/// Posts bodies, and tells permanent refusals from failures.
pub(super) struct Post {
    endpoint: Endpoint,
    credentials: Vec<(HeaderName, String)>,
    client: HttpClient,
    timeout: Duration,
    log_every: Duration,
    refusal_logged: Option<Instant>,
}

impl Post {
    /// A client for an endpoint.
    pub(super) fn new(endpoint: Endpoint, context: &SinkContext) -> Result<Post, String> {
        let client = HttpClient::with(&endpoint.tls)
            .map_err(|error| format!("cannot set up TLS for {}: {error}", endpoint.place()))?;
        Ok(Post {
            credentials: endpoint.credentials(),
            endpoint,
            client,
            timeout: context.timeout,
            log_every: context.interval,
            refusal_logged: None,
        })
    }

    /// Base of the URL, without a slash at its end.
    pub(super) fn base(&self) -> &str {
        self.endpoint.url.trim_end_matches('/')
    }

    /// The URL with more of a path, which may bring a query.
    pub(super) fn url(&self, path: &str) -> String {
        append(&self.endpoint.url, path)
    }

    /// Sends a body; what is neither taken nor refused permanently is a failure. A refusal is logged.
    pub(super) async fn send(
        &mut self,
        url: &str,
        headers: &[(HeaderName, &str)],
        body: Vec<u8>,
    ) -> Result<Outcome, SinkError> {
        let outcome = self.attempt(url, headers, body).await?;
        if let Outcome::Refused(answer) = &outcome {
            self.log_answer(answer);
        }
        Ok(outcome)
    }

    /// The same without logging a refusal, for callers that have another way to send the body. Statuses 401, 403, 404 and 405 are
    /// failures, since a change of configuration ends them, and so are 408, 425 and 429, which pass.
    pub(super) async fn attempt(
        &self,
        url: &str,
        headers: &[(HeaderName, &str)],
        body: Vec<u8>,
    ) -> Result<Outcome, SinkError> {
        let mut all = self.credentials.clone();
        all.extend(headers.iter().map(|(name, value)| (name.clone(), value.to_string())));
        let answer = self.client.send(Method::POST, url, all, body, self.timeout).await;
        let answer = answer.map_err(|error| SinkError::new(format!("{}: {error}", self.endpoint.place())))?;
        if answer.is_good() {
            return Ok(Outcome::Taken(answer));
        }
        let status = answer.status;
        if !(400..500).contains(&status) || [401, 403, 404, 405, 408, 425, 429].contains(&status) {
            let said = excerpt(&answer.body, EXCERPT_CHARS);
            let what = format!("{} answered {status}: {said}", self.endpoint.place());
            return Err(SinkError { what, retry_after: answer.retry_after() });
        }
        Ok(Outcome::Refused(answer))
    }

    /// Says that records were refused with this answer.
    pub(super) fn log_answer(&mut self, answer: &Answer) {
        self.log_refusal(&format!("{}: {}", answer.status, excerpt(&answer.body, EXCERPT_CHARS)));
    }

    /// Says that records were refused, at most once in an interval.
    pub(super) fn log_refusal(&mut self, said: &str) {
        if self.refusal_logged.is_none_or(|last| last.elapsed() >= self.log_every) {
            self.refusal_logged = Some(Instant::now());
            tracing::warn!(url = self.endpoint.place(), said, "records were refused; they are dropped");
        }
    }
}

/// The requests of an interval that are still to be sent. Over several attempts those that were taken are not sent again:
/// what is sent as a difference would count twice.
#[derive(Serialize, Deserialize)]
pub(super) struct Ready<R> {
    /// Which interval.
    of: Option<SnapshotId>,
    left: VecDeque<R>,
    /// Records that were refused so far.
    pub(super) refused: u64,
}

impl<R> Default for Ready<R> {
    fn default() -> Ready<R> {
        Ready { of: None, left: VecDeque::new(), refused: 0 }
    }
}

impl<R: Clone> Ready<R> {
    /// Whether these are the requests of a snapshot.
    pub(super) fn is_of(&self, snapshot: &Snapshot) -> bool {
        self.of == Some(snapshot.identity())
    }

    pub(super) fn set(&mut self, snapshot: &Snapshot, requests: Vec<R>) {
        self.of = Some(snapshot.identity());
        self.left = requests.into();
        self.refused = 0;
    }

    /// The next; it stays until it is done.
    pub(super) fn next(&self) -> Option<R> {
        self.left.front().cloned()
    }

    pub(super) fn done(&mut self) {
        self.left.pop_front();
    }

    /// Whether all were taken.
    pub(super) fn is_done(&self) -> bool {
        self.left.is_empty()
    }

    /// Two in place of the next.
    #[cfg(feature = "postgres")]
    pub(super) fn split(&mut self, first: R, second: R) {
        self.left.pop_front();
        self.left.push_front(second);
        self.left.push_front(first);
    }
}

impl<R: Serialize + DeserializeOwned> Ready<R> {
    /// What is left as bytes, for the next start; `None` if nothing is.
    pub(super) fn save(&self) -> Option<Vec<u8>> {
        if self.left.is_empty() { None } else { postcard::to_stdvec(self).ok() }
    }

    /// What was left by an earlier start.
    ///
    /// # Errors
    /// If these bytes are not what [`Ready::save`] makes.
    pub(super) fn restored(saved: &[u8]) -> Result<Ready<R>, SinkError> {
        let invalid = |error| SinkError::new(format!("what was saved of it cannot be used: {error}"));
        postcard::from_bytes(saved).map_err(invalid)
    }
}

/// A body, gzipped.
pub(super) fn gzip(body: &[u8]) -> Result<Vec<u8>, SinkError> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    Ok(encoder.write_all(body).and_then(|()| encoder.finish())?)
}
