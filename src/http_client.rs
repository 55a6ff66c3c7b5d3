//! HTTP and HTTPS requests, each with a deadline, and streams over TCP and TLS. TLS is rustls with the system's roots or
//! configured ones, and a client certificate where one is configured. A login in a URL, `http://user:password@host`, is
//! used for basic authentication, unless a request has its own.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Collected, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Request, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::untrusted::from_url;

/// Longest response that is read, in bytes.
const MAX_ANSWER: usize = 64 << 20;

/// Longest wait for the body of an answer whose status is what counts.
const BODY_PATIENCE: Duration = Duration::from_secs(2);

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The URL is invalid.
    #[error("`{0}` is no URL")]
    BadUrl(String),
    /// No response before the deadline.
    #[error("no answer within {} s", .0.as_secs_f64())]
    Slow(Duration),
    /// The connection failed.
    #[error("{0}")]
    Failed(String),
}

/// A response, whatever its status.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status code.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// Whether the status is 2xx.
    pub fn is_good(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The `Retry-After` of the response (RFC 9110, 10.2.3: seconds, or a date).
    pub fn retry_after(&self) -> Option<Duration> {
        let text = self.headers.get(RETRY_AFTER)?.to_str().ok()?;
        let until = |date: SystemTime| date.duration_since(SystemTime::now()).unwrap_or_default();
        text.parse().map(Duration::from_secs).ok().or_else(|| httpdate::parse_http_date(text).ok().map(until))
    }
}

/// Options of TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// A file of roots (PEM) in place of the system's; empty for the system's.
    pub ca: PathBuf,
    /// A client certificate (PEM), for servers that request one; empty for none.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Tls {
    /// Whether all options have their defaults.
    pub fn is_default(&self) -> bool {
        *self == Tls::default()
    }

    /// The configuration for rustls.
    ///
    /// # Errors
    /// If a file cannot be read, or TLS cannot be set up.
    pub fn client(&self) -> io::Result<ClientConfig> {
        let bad = |path: &Path, problem: &dyn std::fmt::Display| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("{}: {problem}", path.display()))
        };
        let certificates = |path: &Path| -> io::Result<Vec<CertificateDer<'static>>> {
            let all = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
            let all: Vec<_> = all.map_err(|error| bad(path, &error))?;
            if all.is_empty() { Err(bad(path, &"there is no certificate in it")) } else { Ok(all) }
        };
        let mut roots = RootCertStore::empty();
        if self.ca.as_os_str().is_empty() {
            // Sections of the file that are not certificates are skipped.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        } else {
            for root in certificates(&self.ca)? {
                roots.add(root).map_err(|error| bad(&self.ca, &error))?;
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots);
        if self.certificate.as_os_str().is_empty() {
            return Ok(client.with_no_client_auth());
        }
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|error| bad(&self.key, &error))?;
        let chain = certificates(&self.certificate)?;
        client.with_client_auth_cert(chain, key).map_err(|error| bad(&self.certificate, &error))
    }

    /// A connector for TLS.
    ///
    /// # Errors
    /// If a file cannot be read, or TLS cannot be set up.
    pub fn connector(&self) -> io::Result<TlsConnector> {
        Ok(TlsConnector::from(Arc::new(self.client()?)))
    }
}

/// A connection, with or without TLS.
pub trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for T {}

/// Connects to `host:port`, with TLS and a send buffer of a given size if they are given.
///
/// # Errors
/// If the connection fails, or the server's certificate is not valid.
pub async fn connect(
    address: &str,
    connector: Option<&TlsConnector>,
    send_buffer: Option<usize>,
) -> io::Result<Box<dyn Stream>> {
    let stream = TcpStream::connect(address).await?;
    if let Some(bytes) = send_buffer {
        socket2::SockRef::from(&stream).set_send_buffer_size(bytes)?;
    }
    let Some(connector) = connector else { return Ok(Box::new(stream)) };
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
    let name = ServerName::try_from(host.to_string()).map_err(io::Error::other)?;
    Ok(Box::new(connector.connect(name, stream).await?))
}

/// Looks, for so long at most, whether the other end of a connection that lines were sent on has refused them: a port with TLS
/// answers with an alert (RFC 8446, 5.1 and 6), and one that closes without reading resets the connection. An end, or
/// silence, is no answer.
///
/// # Errors
/// That it speaks TLS, or has reset the connection.
pub fn refuses_lines(mut stream: &socket2::Socket, patience: Duration) -> io::Result<()> {
    const ALERT: u8 = 0x15;
    // Zero would be for ever.
    stream.set_read_timeout(Some(patience.max(Duration::from_millis(1))))?;
    let mut first = [0];
    match io::Read::read(&mut stream, &mut first) {
        Ok(1) if first == [ALERT] => Err(io::Error::new(
            io::ErrorKind::ConnectionRefused,
            "it speaks TLS, and the lines were sent as plain text: nothing was counted",
        )),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Err(io::Error::new(
            io::ErrorKind::ConnectionReset,
            "the connection was reset: the lines were not read, or not all of them",
        )),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// A client. Cheap to clone; connections are reused.
#[derive(Clone, Debug)]
pub struct HttpClient {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl HttpClient {
    /// A client with the system's roots. Without any, as in a small container, HTTP still works, and HTTPS fails with an
    /// unknown issuer.
    ///
    /// # Errors
    /// If TLS cannot be set up.
    pub fn new() -> io::Result<HttpClient> {
        HttpClient::with(&Tls::default())
    }

    /// A client with configured roots and certificate.
    ///
    /// # Errors
    /// If a file cannot be read, or TLS cannot be set up.
    pub fn with(tls: &Tls) -> io::Result<HttpClient> {
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls.client()?).https_or_http().enable_http1().build();
        Ok(HttpClient { client: Client::builder(TokioExecutor::new()).build(connector) })
    }

    /// Sends a request to `url`, with a JSON body and a bearer token if they are given, and waits for the whole response.
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
    ) -> Result<Answer, HttpError> {
        let mut headers = Vec::new();
        if json.is_some() {
            headers.push((CONTENT_TYPE, "application/json".to_string()));
        }
        if let Some(token) = token {
            headers.push((AUTHORIZATION, format!("Bearer {token}")));
        }
        self.send(method, url, headers, json.unwrap_or_default(), deadline).await
    }

    /// Sends a body with headers to `url`, and waits for the whole response.
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
    ) -> Result<Answer, HttpError> {
        let request = request(method, url, headers, body)?;
        let exchange = async {
            let answer = self.client.request(request).await.map_err(|error| HttpError::Failed(causes(&error)))?;
            let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
            let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
            let body = body.map_err(|error| HttpError::Failed(error.to_string()))?.to_bytes();
            Ok(Answer { status, headers, body })
        };
        tokio::time::timeout(deadline, exchange).await.unwrap_or(Err(HttpError::Slow(deadline)))
    }

    /// The same for whoever wants to know whether a body was taken: waits for the status, and reads no more than `most` bytes of
    /// the answer's body, of which nothing may be there.
    ///
    /// # Errors
    /// If nobody answers within `deadline`, or not with HTTP.
    pub async fn submit(
        &self,
        method: Method,
        url: &str,
        headers: Vec<(HeaderName, String)>,
        body: Vec<u8>,
        deadline: Duration,
        most: usize,
    ) -> Result<Answer, HttpError> {
        let request = request(method, url, headers, body)?;
        let answer = tokio::time::timeout(deadline, self.client.request(request)).await;
        let answer = answer.map_err(|_| HttpError::Slow(deadline))?;
        let answer = answer.map_err(|error| HttpError::Failed(causes(&error)))?;
        let (status, headers, mut body) = (answer.status().as_u16(), answer.headers().clone(), answer.into_body());
        let mut read = Vec::new();
        let reading = async {
            while read.len() < most
                && let Some(Ok(frame)) = body.frame().await
            {
                if let Ok(piece) = frame.into_data() {
                    read.extend_from_slice(&piece[..piece.len().min(most - read.len())]);
                }
            }
        };
        // What it says more is no reason to send the same again.
        let _ = tokio::time::timeout(deadline.min(BODY_PATIENCE), reading).await;
        Ok(Answer { status, headers, body: read.into() })
    }

    /// Asks for an answer that has no end; returns its status, and its body to be read as it comes.
    ///
    /// # Errors
    /// If nobody begins to answer within `deadline`, or not with HTTP.
    pub async fn open(
        &self,
        url: &str,
        headers: Vec<(HeaderName, String)>,
        deadline: Duration,
    ) -> Result<(u16, Incoming), HttpError> {
        let request = request(Method::GET, url, headers, Vec::new())?;
        let answer = tokio::time::timeout(deadline, self.client.request(request)).await;
        let answer = answer.map_err(|_| HttpError::Slow(deadline))?;
        let answer = answer.map_err(|error| HttpError::Failed(causes(&error)))?;
        Ok((answer.status().as_u16(), answer.into_body()))
    }
}

/// A request with the login of its URL.
fn request(
    method: Method,
    url: &str,
    headers: Vec<(HeaderName, String)>,
    body: Vec<u8>,
) -> Result<Request<Full<Bytes>>, HttpError> {
    let bad = || HttpError::BadUrl(masked(url));
    let (plain, login) = split_login(url);
    let login = login.map(|login| login.authorization()).transpose().map_err(|_| bad())?;
    let uri: Uri = plain.parse().map_err(|_| bad())?;
    let mut headers = headers;
    if let Some(login) = login.filter(|_| headers.iter().all(|(name, _)| name != AUTHORIZATION)) {
        headers.push((AUTHORIZATION, login));
    }
    let mut request =
        Request::builder().method(method).uri(uri).header(USER_AGENT, concat!("systole/", env!("CARGO_PKG_VERSION")));
    for (name, value) in headers {
        let value = HeaderValue::from_str(&value);
        request = request.header(name, value.map_err(|_| HttpError::Failed("a header is no text".into()))?);
    }
    request.body(Full::from(body)).map_err(|_| bad())
}

/// A response whose body is read while it comes.
#[derive(Debug)]
pub struct OpenAnswer {
    /// HTTP status code.
    pub status: u16,
    body: Incoming,
}

impl OpenAnswer {
    /// An answer of [`HttpClient::open`].
    pub fn new((status, body): (u16, Incoming)) -> OpenAnswer {
        OpenAnswer { status, body }
    }

    /// The next piece of the body; `None` after the last.
    ///
    /// # Errors
    /// If the connection breaks before the end.
    pub async fn piece(&mut self) -> Result<Option<Bytes>, HttpError> {
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|error| HttpError::Failed(causes(&error)))?;
            // Trailers say nothing.
            if let Ok(piece) = frame.into_data() {
                return Ok(Some(piece));
            }
        }
        Ok(None)
    }

    /// The rest of the body.
    ///
    /// # Errors
    /// If the connection breaks before the end, or it is longer than anything that is read.
    pub async fn whole(self) -> Result<Bytes, HttpError> {
        let body = Limited::new(self.body, MAX_ANSWER).collect().await;
        body.map(Collected::to_bytes).map_err(|error| HttpError::Failed(error.to_string()))
    }
}

/// A user and a password from a URL, still percent-encoded.
#[derive(Clone, Copy, Debug)]
pub struct Login<'a>(&'a str);

impl Login<'_> {
    /// The header of basic authentication (RFC 7617).
    ///
    /// # Errors
    /// What is wrong.
    pub fn authorization(&self) -> Result<String, String> {
        let (user, password) = self.0.split_once(':').unwrap_or((self.0, ""));
        let (user, password) = (from_url(user)?, from_url(password)?);
        if user.contains(':') {
            return Err("a user has no `:`".into());
        }
        Ok(format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}"))))
    }
}

/// Splits a URL into the URL without its login, and the login, if it has one.
pub fn split_login(url: &str) -> (String, Option<Login<'_>>) {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (host, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    match host.rsplit_once('@') {
        Some((login, host)) => (format!("{scheme}://{host}{path}"), Some(Login(login))),
        None => (url.to_string(), None),
    }
}

/// A URL with its login and its query masked, whatever else is wrong with it.
pub fn without_login(url: &str) -> String {
    let (url, query) = match url.split_once('?') {
        Some((url, _)) => (url, "?***"),
        None => (url, ""),
    };
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    match rest.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://***@{host}{query}"),
        None => format!("{url}{query}"),
    }
}

/// Appends to the path of a URL, before its query; `path` may have a query too.
pub fn append(url: &str, path: &str) -> String {
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let mark = match query {
        "" => "",
        _ if path.contains('?') => "&",
        _ => "?",
    };
    format!("{}{path}{mark}{query}", base.trim_end_matches('/'))
}

/// A URL with everything masked that may be secret: a user, a path, a query.
pub fn masked(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (host, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let host = host.rsplit_once('@').map_or(host.to_string(), |(_, host)| format!("***@{host}"));
    let path = if matches!(path, "" | "/") { path } else { "/***" };
    format!("{scheme}://{host}{path}")
}

/// An error with its causes: the outermost one is only "client error".
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
        for (url, expected) in [
            ("http://127.0.0.1:9093/x", "http://127.0.0.1:9093/x"),
            ("http://me:secret@127.0.0.1:1/<script>?token=secret", "http://***@127.0.0.1:1/<script>?***"),
            ("http://h?token=a@secret", "http://h?***"),
        ] {
            assert_eq!(without_login(url), expected);
        }
    }

    #[test]
    fn a_login_is_split_off_and_read() {
        for (url, plain, header) in [
            ("http://host:1/x?a=@b", "http://host:1/x?a=@b", None),
            ("http://me@host", "http://host", Some("me:")),
            ("https://me:a%40b%3Ac@host:1/x", "https://host:1/x", Some("me:a@b:c")),
            ("http://me:a@b@host/", "http://host/", Some("me:a@b")),
        ] {
            let (found, login) = split_login(url);
            let expected = header.map(|text| format!("Basic {}", BASE64_STANDARD.encode(text)));
            assert_eq!((found.as_str(), login.map(|login| login.authorization())), (plain, expected.map(Ok)), "{url}");
        }
        for url in ["http://a%3Ab@host", "http://me:100%@host", "http://%ff@host"] {
            assert!(split_login(url).1.expect("a login").authorization().is_err(), "{url}");
        }
    }

    #[test]
    fn a_path_goes_before_a_query() {
        for (url, path, expected) in [
            ("http://h", "/v1", "http://h/v1"),
            ("http://h/x/", "/v1", "http://h/x/v1"),
            ("http://h/x?a=b/", "/v1", "http://h/x/v1?a=b/"),
            ("http://h?a=b", "/w?db=d", "http://h/w?db=d&a=b"),
        ] {
            assert_eq!(append(url, path), expected);
        }
    }
}
