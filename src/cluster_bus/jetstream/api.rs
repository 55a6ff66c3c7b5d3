//! Requests to JetStream, each one message and one answer, and what their errors mean.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, Event, HeaderMap, Message, Request, RequestErrorKind, ServerError};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::timeout;

use crate::cluster::{Sequence, Stored, StoredBatch};

use super::super::{BusError, BusStatus};

/// When the edge sent a batch, by its own wall clock, in Unix seconds.
pub(super) const SENT: &str = "Systole-Sent";

/// Codes of JetStream's errors.
const NO_MESSAGE: u16 = 10037;
pub(super) const NO_STREAM: u16 = 10059;
const WRONG_LAST_SEQUENCE: u16 = 10071;

/// What is known of the connection beside what the client knows.
#[derive(Debug, Default)]
pub(super) struct Connection {
    is_closed: AtomicBool,
    trouble: Mutex<Trouble>,
}

#[derive(Debug, Default)]
struct Trouble {
    last: Option<String>,
    /// What we were not allowed to do, and how many times that was.
    denied: (u64, String),
}

impl Connection {
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }

    pub(super) fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
    }

    fn trouble(&self) -> MutexGuard<'_, Trouble> {
        self.trouble.lock().expect("nobody panics with the lock")
    }

    /// Takes what the client tells.
    pub(super) fn take(&self, event: &Event) {
        let mut trouble = self.trouble();
        match event {
            Event::Connected => trouble.last = None,
            Event::ServerError(ServerError::Other(text)) if text.to_lowercase().contains("permissions violation") => {
                let text = format!("{text}: allow this user `$JS.API.>`, `_INBOX.>` and the subjects of the cluster");
                trouble.denied = (trouble.denied.0 + 1, text.clone());
                trouble.last = Some(text);
            }
            Event::ServerError(error) => trouble.last = Some(advice(&error.to_string())),
            Event::ClientError(error) => trouble.last = Some(advice(&error.to_string())),
            Event::SlowConsumer(_) => trouble.last = Some("this node reads more slowly than it is sent to".into()),
            Event::LameDuckMode => trouble.last = Some("the server is about to stop".into()),
            Event::Disconnected | Event::Draining | Event::Closed => {}
        }
    }

    fn denials(&self) -> u64 {
        self.trouble().denied.0
    }
}

/// An error of a connection, with what to do about it.
fn advice(error: &str) -> String {
    if error.contains("authorization") || error.contains("authentication") {
        format!("{error}: check the user, the token or the credentials of [cluster]")
    } else {
        error.trim_start_matches("nats: ").to_string()
    }
}

/// What all calls use.
#[derive(Debug)]
pub(super) struct Api {
    pub(super) client: Client,
    pub(super) connection: Arc<Connection>,
    /// Where the servers are, for messages.
    pub(super) place: String,
    /// How many requests were made.
    pub(super) requests: AtomicU64,
}

/// A message that was read.
#[derive(Debug)]
pub(super) struct Raw {
    pub(super) subject: String,
    pub(super) sequence: Sequence,
    pub(super) stored: f64,
    pub(super) headers: Headers,
    pub(super) payload: Bytes,
}

/// Headers as they were sent.
#[derive(Debug, Default)]
pub(super) enum Headers {
    #[default]
    None,
    Map(HeaderMap),
    Text(String),
}

impl Headers {
    pub(super) fn map(map: Option<HeaderMap>) -> Headers {
        map.map_or(Headers::None, Headers::Map)
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        match self {
            Headers::None => None,
            Headers::Map(map) => map.get(name).map(|value| value.as_str()),
            Headers::Text(text) => text.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim())
            }),
        }
    }
}

impl Raw {
    pub(super) fn into_stored(self) -> Stored {
        Stored { sequence: self.sequence, stored: self.stored, payload: self.payload }
    }

    /// A batch without the time of its sending was sent when it was stored.
    pub(super) fn into_batch(self) -> StoredBatch {
        let sent = self.headers.get(SENT).and_then(|text| text.parse().ok()).filter(|sent: &f64| sent.is_finite());
        let sent = sent.unwrap_or(self.stored);
        StoredBatch { sequence: self.sequence, stored: self.stored, sent, payload: self.payload }
    }
}

/// Seconds of nanoseconds.
pub(super) fn seconds(nanoseconds: i128) -> f64 {
    const SECOND: i128 = 1_000_000_000;
    (nanoseconds / SECOND) as f64 + (nanoseconds % SECOND) as f64 / 1e9
}

#[derive(Deserialize)]
pub(super) struct ApiError {
    #[serde(default)]
    pub(super) err_code: u16,
    #[serde(default)]
    description: String,
}

impl ApiError {
    /// What to say of it; `about` is the stream.
    pub(super) fn explain(&self, about: &str) -> BusError {
        let text = &self.description;
        let way_out = match self.err_code {
            WRONG_LAST_SEQUENCE => return BusError::Refused,
            NO_STREAM => "a node of the cluster makes it when it starts",
            10_039 | 10_076 => "switch JetStream on for this account of nats-server",
            10_005 | 10_074 => "fewer servers are there than `replicas` asks for: start them, or ask for fewer",
            10_002 | 10_023 | 10_028 | 10_047 => "raise the limits of JetStream, or lower `max_bytes` of [cluster]",
            10_077 if text.contains("maximum") => "the stream is full: raise `max_bytes`, or lower `max_age`",
            10_008 | 10_009 | 10_077 => "the servers are choosing a leader: it is tried again",
            10_065 => "another stream has the same subjects: give this cluster another `name`",
            _ => return BusError::Failed(format!("{about}: {text}")),
        };
        BusError::Failed(format!("{about}: {text}: {way_out}"))
    }
}

#[derive(Deserialize)]
struct Head {
    error: Option<ApiError>,
}

/// An answer of JetStream, or its error.
pub(super) fn parse<T: DeserializeOwned>(payload: &[u8]) -> Result<Result<T, ApiError>, BusError> {
    let bad = |error: serde_json::Error| BusError::Failed(format!("an answer of JetStream is unreadable: {error}"));
    match serde_json::from_slice::<Head>(payload).map_err(bad)?.error {
        Some(error) => Ok(Err(error)),
        None => Ok(Ok(serde_json::from_slice(payload).map_err(bad)?)),
    }
}

/// The acknowledgement of a message.
#[derive(Deserialize)]
struct Acknowledgement {
    seq: Sequence,
}

#[derive(Deserialize)]
struct Found {
    message: FoundMessage,
}

#[derive(Deserialize)]
struct FoundMessage {
    subject: String,
    seq: Sequence,
    #[serde(default)]
    data: String,
    #[serde(default)]
    hdrs: String,
    time: String,
}

impl Api {
    pub(super) fn status(&self) -> BusStatus {
        let info = self.client.try_server_info();
        let server = info.map(|info| format!("{} ({}:{})", info.server_name, info.host, info.port));
        let connected = self.is_connected();
        BusStatus { connected, server, last_error: self.connection.trouble().last.clone() }
    }

    fn is_connected(&self) -> bool {
        !self.connection.is_closed() && self.client.connection_state() == State::Connected
    }

    /// Whether anything can be sent. What is sent without a connection would wait for one, and arrive late.
    pub(super) fn ready(&self) -> Result<(), BusError> {
        if self.connection.is_closed() {
            return Err(BusError::Failed("the bus is closed".into()));
        }
        if self.is_connected() {
            return Ok(());
        }
        let text = match &self.connection.trouble().last {
            Some(last) => format!("not connected to {}: {last}", self.place),
            None => format!("not connected to {} yet", self.place),
        };
        Err(BusError::Failed(text))
    }

    /// Does something within a time.
    pub(super) async fn limited<T>(
        &self,
        limit: Duration,
        act: impl Future<Output = Result<T, BusError>>,
    ) -> Result<T, BusError> {
        self.ready()?;
        let denials = self.connection.denials();
        match timeout(limit, act).await {
            Ok(answer) => answer,
            // Who may not do something gets no answer but that on the connection.
            Err(_) => match &self.connection.trouble().denied {
                (now, text) if *now > denials => Err(BusError::Failed(text.clone())),
                _ => Err(BusError::TimedOut),
            },
        }
    }

    async fn send(&self, subject: &str, request: Request) -> Result<Message, BusError> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        // Who asks has a limit of its own.
        let answer = self.client.send_request(subject.to_string(), request.timeout(None)).await;
        answer.map_err(|error| match error.kind() {
            RequestErrorKind::NoResponders if subject.starts_with("$JS.") => {
                BusError::Failed(format!("{} has no JetStream: start nats-server with it (`-js`)", self.place))
            }
            RequestErrorKind::NoResponders => BusError::Failed(format!(
                "no stream takes `{subject}`: it is missing, or its servers are choosing a leader, and it is tried again"
            )),
            RequestErrorKind::MaxPayloadExceeded => {
                BusError::Failed(format!("`{subject}`: {error}: raise `max_payload` of nats-server"))
            }
            RequestErrorKind::TimedOut => BusError::TimedOut,
            _ => BusError::Failed(error.to_string()),
        })
    }

    /// Asks JetStream.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        subject: &str,
        request: &Value,
    ) -> Result<Result<T, ApiError>, BusError> {
        let payload = if request.is_null() { Bytes::new() } else { request.to_string().into() };
        parse(&self.send(&format!("$JS.API.{subject}"), Request::new().payload(payload)).await?.payload)
    }

    /// Appends a message.
    pub(super) async fn put(
        &self,
        subject: &str,
        headers: &[(&str, String)],
        payload: Bytes,
    ) -> Result<Sequence, BusError> {
        let mut request = Request::new().payload(payload);
        if !headers.is_empty() {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.insert(*name, value.as_str());
            }
            request = request.headers(map);
        }
        let answer = parse::<Acknowledgement>(&self.send(subject, request).await?.payload)?;
        answer.map(|stored| stored.seq).map_err(|error| error.explain(subject))
    }

    /// Asks whoever subscribes to a subject.
    pub(super) async fn question(&self, subject: &str, payload: Bytes) -> Result<Bytes, BusError> {
        let request = Request::new().payload(payload).timeout(None);
        let answer = self.client.send_request(subject.to_string(), request).await;
        answer.map(|answer| answer.payload).map_err(|error| match error.kind() {
            RequestErrorKind::NoResponders => BusError::Failed("the node is not connected with the bus".into()),
            RequestErrorKind::TimedOut => BusError::TimedOut,
            _ => BusError::Failed(error.to_string()),
        })
    }

    /// One message, as the leader of the stream has it.
    pub(super) async fn get(&self, stream: &str, which: &Value) -> Result<Option<Raw>, BusError> {
        let found = match self.ask::<Found>(&format!("STREAM.MSG.GET.{stream}"), which).await? {
            Ok(found) => found.message,
            Err(error) if error.err_code == NO_MESSAGE => return Ok(None),
            Err(error) => return Err(error.explain(stream)),
        };
        let bad = |error: &dyn fmt::Display| BusError::Failed(format!("a message of {stream} is unreadable: {error}"));
        let decode = |text: &str| BASE64_STANDARD.decode(text).map_err(|error| bad(&error));
        let time = found.time.parse::<jiff::Timestamp>().map_err(|error| bad(&error))?;
        let headers = decode(&found.hdrs)?;
        Ok(Some(Raw {
            subject: found.subject,
            sequence: found.seq,
            stored: seconds(time.as_nanosecond()),
            headers: Headers::Text(String::from_utf8_lossy(&headers).into_owned()),
            payload: decode(&found.data)?.into(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_found_in_both_forms() {
        let mut map = HeaderMap::new();
        map.insert(SENT, "1.5");
        let text = "NATS/1.0\r\nOther: 2\r\nSystole-Sent: 1.5\r\n\r\n".to_string();
        for headers in [Headers::Map(map), Headers::Text(text)] {
            assert_eq!((headers.get(SENT), headers.get("Missing")), (Some("1.5"), None));
        }
    }

    #[test]
    fn an_error_says_what_to_do() {
        for (code, text, expected) in [
            (10_039, "jetstream not enabled for account", "switch JetStream on"),
            (10_077, "maximum bytes exceeded", "raise `max_bytes`"),
            (10_059, "stream not found", "makes it when it starts"),
            (10_074, "replicas > 1 not supported in non-clustered mode", "ask for fewer"),
        ] {
            let answer = format!(r#"{{"error":{{"code":400,"err_code":{code},"description":"{text}"}}}}"#);
            let Ok(Err(error)) = parse::<Value>(answer.as_bytes()) else { panic!("{answer}") };
            let text = error.explain("SYSTOLE_P0").to_string();
            assert!(text.starts_with("SYSTOLE_P0: ") && text.contains(expected), "{text}");
        }
        let refused = r#"{"error":{"err_code":10071,"description":"wrong last sequence: 5"},"seq":0}"#;
        let Ok(Err(error)) = parse::<Value>(refused.as_bytes()) else { panic!("no error") };
        assert_eq!(error.explain("x"), BusError::Refused);
    }

    #[test]
    fn what_goes_wrong_stands_until_there_is_a_connection() {
        let connection = Connection::default();
        connection.take(&Event::ServerError(ServerError::AuthorizationViolation));
        let last = connection.trouble().last.clone().expect("an error");
        assert!(last.contains("check the user"), "{last}");
        let denied = "Permissions Violation for Publish to \"systole.p.00.a\"";
        connection.take(&Event::ServerError(ServerError::Other(denied.into())));
        assert_eq!(connection.denials(), 1);
        connection.take(&Event::Connected);
        assert_eq!(connection.trouble().last, None);
    }
}
