//! Requests over HTTP and HTTPS to others, each within a deadline. TLS is rustls with the system's roots.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, Request, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

/// Most that is read of an answer, in bytes.
const MAX_ANSWER: usize = 64 << 20;

/// Why a request was not answered.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The URL means nothing.
    #[error("`{0}` is no URL")]
    BadUrl(String),
    /// Nobody answered in time.
    #[error("no answer within {} s", .0.as_secs_f64())]
    Slow(Duration),
    /// The connection failed.
    #[error("{0}")]
    Failed(String),
}

/// An answer, whatever its status.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status code.
    pub status: u16,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// Whether it is one of success.
    pub fn is_good(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// A client. Cheap to clone; connections are kept.
#[derive(Clone, Debug)]
pub struct Fetch {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Fetch {
    /// A client with the system's roots. Where there are none, as in a small container, HTTP works all the same, and
    /// HTTPS says that it knows no issuer.
    ///
    /// # Errors
    /// If TLS cannot be set up.
    pub fn new() -> io::Result<Fetch> {
        let mut roots = rustls::RootCertStore::empty();
        // What is no certificate is no root.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
        Ok(Fetch { client: Client::builder(TokioExecutor::new()).build(connector) })
    }

    /// Asks `url`, with a JSON body and a bearer token if they are given, and waits for the whole answer.
    ///
    /// # Errors
    /// If nobody answers within `deadline`, or not with HTTP.
    pub async fn ask(
        &self,
        method: Method,
        url: &str,
        json: Option<Vec<u8>>,
        token: Option<&str>,
        deadline: Duration,
    ) -> Result<Answer, FetchError> {
        let mut headers = Vec::new();
        if json.is_some() {
            headers.push((CONTENT_TYPE, "application/json".to_string()));
        }
        if let Some(token) = token {
            headers.push((AUTHORIZATION, format!("Bearer {token}")));
        }
        self.send(method, url, headers, json.unwrap_or_default(), deadline).await
    }

    /// Sends a body with headers to `url`, and waits for the whole answer.
    ///
    /// # Errors
    /// If nobody answers within `deadline`, or not with HTTP.
    pub async fn send(
        &self,
        method: Method,
        url: &str,
        headers: Vec<(HeaderName, String)>,
        body: Vec<u8>,
        deadline: Duration,
    ) -> Result<Answer, FetchError> {
        let bad = || FetchError::BadUrl(url.to_string());
        let uri: Uri = url.parse().map_err(|_| bad())?;
        let mut request = Request::builder()
            .method(method)
            .uri(uri)
            .header(USER_AGENT, concat!("systole/", env!("CARGO_PKG_VERSION")));
        for (name, value) in headers {
            let value = HeaderValue::from_str(&value);
            request = request.header(name, value.map_err(|_| FetchError::Failed("a header is no text".into()))?);
        }
        let request = request.body(Full::from(body)).map_err(|_| bad())?;
        let exchange = async {
            let answer = self.client.request(request).await.map_err(|error| FetchError::Failed(causes(&error)))?;
            let status = answer.status().as_u16();
            let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
            let body = body.map_err(|error| FetchError::Failed(error.to_string()))?.to_bytes();
            Ok(Answer { status, body })
        };
        tokio::time::timeout(deadline, exchange).await.unwrap_or(Err(FetchError::Slow(deadline)))
    }
}

/// A URL without what may be secret in it: a user, a path, a query.
pub fn masked(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (host, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let host = host.rsplit_once('@').map_or(host.to_string(), |(_, host)| format!("***@{host}"));
    let path = if matches!(path, "" | "/") { path } else { "/***" };
    format!("{scheme}://{host}{path}")
}

/// An error with what caused it: the outermost alone says "client error".
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = cause.to_string();
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_in_urls_are_masked() {
        for (url, expected) in [
            ("http://127.0.0.1:9093", "http://127.0.0.1:9093"),
            ("https://me:secret@host/", "https://***@host/"),
            ("https://hooks.example.org/services/T0/B0/secret", "https://hooks.example.org/***"),
            ("https://host?token=secret", "https://host/***"),
        ] {
            assert_eq!(masked(url), expected);
        }
    }
}
