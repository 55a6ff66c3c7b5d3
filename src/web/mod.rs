//! What the ports that speak HTTP have in common: errors, parameters, and bodies that wait for their readers. It serves
//! nothing itself.
//!
//! Every error is `{"error":{"code":"…","message":"…"}}` with the right status, those that axum and hyper make among them
//! ([`promised`], [`WholeErrors`]). What a route takes is said once, in the type of its [`Parameters`] or [`Fields`]; all
//! else is an error that names it. A large body is made while it is read, in pieces of [`PIECE`] bytes ([`Bodies`]).

mod bodies;
mod gzip;
mod once;
mod parameters;
mod whole_errors;

use std::fmt::Write;
use std::net::IpAddr;
use std::os::fd::AsFd;

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use socket2::SockRef;

use crate::acl::equal;
use crate::codec::write_json;
use crate::settings::suggestion;
use crate::untrusted::{Escaped, from_url};

pub use bodies::{Bodies, Held, PIECE, Pieces};
pub use gzip::{Gzip, compressed, takes_gzip};
pub use once::Once;
pub use parameters::{Fields, FromGiven, Given, Nothing, Parameters, TokenAlone, given};
pub use whole_errors::WholeErrors;

/// Longest body of a request, in bytes.
pub const MOST_BODY: usize = 64 << 10;

/// Longest text of a library that is passed on in an error, in bytes.
const MOST_SAID: usize = 4096;

/// What JSON says of itself.
pub const JSON: &str = "application/json";

/// Bytes that the kernel takes of an answer before they can be sent.
const UNSENT: u32 = 128 << 10;

/// Keeps the kernel from taking megabytes of an answer that nobody reads. For a socket that listens: those that it accepts
/// are like it. An answer is made as fast as it is taken, so this also keeps many from being made for nobody.
pub fn limit_unsent(listener: &impl AsFd) {
    if let Err(error) = SockRef::from(listener).set_tcp_notsent_lowat(UNSENT) {
        tracing::debug!(%error, "the kernel does not limit what is not sent");
    }
}

/// The other end of the connection of a request.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub IpAddr);

/// Bytes as digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut digits, byte| {
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}

/// A body of plain text that never changes.
pub fn text(body: &'static str) -> Response {
    with_type("text/plain; charset=utf-8", body.as_bytes())
}

/// A value as JSON, on a line. For what is small: it is in memory as a whole.
pub fn json<T: Serialize>(value: &T) -> Response {
    with_type(JSON, line(value))
}

/// A value as JSON and the end of the line.
pub fn line<T: Serialize>(value: &T) -> Vec<u8> {
    let mut out = Vec::new();
    write_json(value, &mut out);
    out.push(b'\n');
    out
}

/// A body with its type.
pub fn with_type(kind: &'static str, body: impl Into<Body>) -> Response {
    ([(header::CONTENT_TYPE, kind)], body.into()).into_response()
}

/// What an error says, as an extension of its response: for who answers with a page instead.
#[derive(Clone, Debug)]
pub struct Problem(pub String);

/// An error as it is promised.
pub fn error(status: StatusCode, code: &str, message: &str) -> Response {
    let mut response =
        (status, json(&serde_json::json!({"error": {"code": code, "message": message}}))).into_response();
    response.extensions_mut().insert(Problem(message.to_string()));
    // What RFC 9110 wants beside these.
    let more: Option<(HeaderName, &str)> = match status {
        StatusCode::UNAUTHORIZED => Some((header::WWW_AUTHENTICATE, "Bearer")),
        StatusCode::SERVICE_UNAVAILABLE => Some((header::RETRY_AFTER, "1")),
        _ => None,
    };
    if let Some((name, value)) = more {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// The answer to who does not show the token; what it must show.
pub fn unauthorized(message: &str) -> Response {
    error(StatusCode::UNAUTHORIZED, "unauthorized", message)
}

/// Whether a request shows a token, in a header or as a parameter.
pub fn shows(request: &Request, token: &str) -> bool {
    let in_query = in_query(request.uri().query().unwrap_or(""));
    let mut shown = bearer(request.headers()).into_iter().chain(in_query.iter().map(String::as_str));
    shown.any(|shown| equal(shown.as_bytes(), token.as_bytes()))
}

/// What the parameter `token` may mean: one with a `+` or a `%` may have been pasted as it is.
pub fn in_query(query: &str) -> Vec<String> {
    let pasted = query.split('&').find_map(|pair| pair.strip_prefix("token=")).map(String::from);
    let mut meant: Vec<String> = pasted.into_iter().chain(query.split('&').find_map(token_of)).collect();
    meant.dedup();
    meant
}

/// Whether a pair of a query is the parameter `token`, however it is written.
pub fn is_token(pair: &str) -> bool {
    pair == "token" || pair.starts_with("token=") || token_of(pair).is_some()
}

/// The token of a pair of a query, decoded. Other pairs are of no concern: they may be repeated, or wrong.
fn token_of(pair: &str) -> Option<String> {
    given(pair).ok()?.text("token").map(String::from)
}

/// The token of the header `Authorization`.
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

/// A request that is wrong.
pub fn bad_request(message: &str) -> Response {
    error(StatusCode::BAD_REQUEST, "bad_request", message)
}

/// A request that costs too much: the limit's name, and what it allows.
pub fn too_much(limit: &str, message: &str) -> Response {
    too_costly(&format!("`{limit}`: {message}"))
}

/// The same, where the message begins with the limit's name.
pub fn too_costly(message: &str) -> Response {
    error(StatusCode::BAD_REQUEST, "too_much", message)
}

/// The answer where there is no page; `pages` are those that there are, and `more` is what else there is.
pub fn not_found(path: &str, pages: &[&str], more: &str) -> Response {
    let near = suggestion(path.get(..MOST_SAID).unwrap_or(path), pages.iter().copied());
    let pages: Vec<String> = pages.iter().map(|page| format!("`{page}`")).collect();
    let message = format!("no such page{near}; there are {}{more}", pages.join(", "));
    error(StatusCode::NOT_FOUND, "not_found", &message)
}

/// The answer to a method that a page does not take. The header `Allow` names those that it does.
pub fn method_not_allowed() -> Response {
    let message = "not with this method; the header `Allow` has those of this page";
    error(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
}

/// The code of a status for which nobody chose one.
fn code(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => "unauthorized",
        StatusCode::NOT_FOUND => "not_found",
        StatusCode::METHOD_NOT_ALLOWED => "method_not_allowed",
        StatusCode::REQUEST_TIMEOUT => "timeout",
        StatusCode::PAYLOAD_TOO_LARGE => "too_large",
        StatusCode::URI_TOO_LONG => "uri_too_long",
        StatusCode::UNSUPPORTED_MEDIA_TYPE => "unsupported_media_type",
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => "headers_too_large",
        StatusCode::SERVICE_UNAVAILABLE => "busy",
        status if status.is_server_error() => "internal",
        _ => "bad_request",
    }
}

/// What to say of a status for which nobody said anything.
fn message(status: StatusCode) -> String {
    let right = match status {
        StatusCode::PAYLOAD_TOO_LARGE => format!("the body of a request has at most {MOST_BODY} bytes"),
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
            format!("a request has at most 100 headers, and {PIECE} bytes of them with its first line")
        }
        StatusCode::URI_TOO_LONG => "the path and its parameters have at most 65534 bytes".into(),
        StatusCode::BAD_REQUEST => "this is no request of HTTP/1.1 as RFC 9112 has it".into(),
        _ => String::new(),
    };
    match status.canonical_reason() {
        _ if !right.is_empty() => right,
        Some(reason) => reason.to_lowercase(),
        None => status.to_string(),
    }
}

/// A middleware: refuses paths that are not encoded as they must be, and makes errors of axum those that are promised.
pub async fn promised(request: Request, next: Next) -> Response {
    if let Err(problem) = from_url(request.uri().path()) {
        return bad_request(&format!("the path `{}` cannot be decoded: {problem}", Escaped(request.uri().path())));
    }
    let response = next.run(request).await;
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    let kind = response.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    // What is said to people in a page is an answer of ours, too.
    if !is_error || kind.is_some_and(|kind| kind == JSON.as_bytes() || kind.starts_with(b"text/html")) {
        return response;
    }
    let (head, body) = response.into_parts();
    // Longer than what a library says it is not.
    let said = to_bytes(body, MOST_SAID).await.unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    let has_own = status == StatusCode::PAYLOAD_TOO_LARGE || said.is_empty();
    let said = if has_own { message(status) } else { said.into_owned() };
    let mut promised = error(status, code(status), &said);
    for (name, value) in &head.headers {
        if name != header::CONTENT_TYPE && name != header::CONTENT_LENGTH {
            promised.headers_mut().insert(name, value.clone());
        }
    }
    promised
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_found_beside_whatever_other_parameters_there_are() {
        for (query, expected) in [
            ("", &[][..]),
            ("token=ab", &["ab"]),
            ("token=a%2Bb", &["a%2Bb", "a+b"]),
            ("id=a&id=b&token=a%2Bb", &["a%2Bb", "a+b"]),
            ("x=%zz&token=a+b", &["a+b", "a b"]),
            ("token=%zz", &["%zz"]),
            ("%74oken=a", &["a"]),
            ("nottoken=a&x=token", &[]),
        ] {
            assert_eq!(in_query(query), expected, "{query}");
        }
    }
}
