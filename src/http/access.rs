//! Who may read, and who may change something.
//!
//! On loopback anybody of this machine may read. Elsewhere, and for every change, a client shows the token of `http.token`:
//! a program in the header `Authorization`, a browser by the cookie that the form at `/login` sets. The cookie has a digest of
//! the token, so that it opens this port and nothing else. A token in a URL would stay in histories and logs: who sends one
//! is sent on to the same URL without it, and has the cookie.
//!
//! The cookie is `SameSite=Strict`, so other sites cannot send it. As other ports of the same host are the same site, a form
//! that counts on it must also come from a page of this port, by `Sec-Fetch-Site` or `Origin`.

use std::collections::hash_map::RandomState;
use std::convert::Infallible;
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use maud::Markup;
use ring::hmac;

use crate::acl::equal;
use crate::ports::{PortCounters, machine};
use crate::untrusted::Escaped;
use crate::web::{self, Peer, error, in_query, is_token, with_type};

use super::{AppState, HTML, Live, login};

/// What a page may load and where it may send: of this port alone, and nothing that stands in the page itself.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// What observers tell each other.
const PEER: &str = "/api/v1/presence/peer";

/// How long a browser keeps the cookie, in seconds: 30 days.
const COOKIE_AGE: u64 = 30 * 24 * 60 * 60;

/// Wrong tokens that an address may show at once, and the time after which it may show another.
const MOST_WRONG: f64 = 10.0;
const ONE_MORE: Duration = Duration::from_secs(5);

/// Addresses are counted in so many places; those that share one are counted together.
const PLACES: usize = 1024;

/// Wrong tokens of a place that are known: behind a proxy several scripts may each repeat one of their own.
const KNOWN: usize = 8;

/// What access hangs on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessOptions {
    /// `http.token`.
    pub token: Option<Arc<str>>,
    /// `presence.peer_token`, for what observers tell each other.
    pub peer_token: Option<Arc<str>>,
    /// Whether reading needs it.
    pub guards_reading: bool,
    /// Names under which we may be asked, beside those of loopback; `None` for any.
    pub hosts: Option<Arc<[String]>>,
    /// The port, which is in the name of the cookie: browsers keep the cookies of all ports of a host together.
    pub port: u16,
    /// Whether it has TLS.
    pub is_secured: bool,
}

/// Decides who may.
#[derive(Debug)]
pub struct Access {
    options: AccessOptions,
    /// Name and value of the cookie of who has shown the token.
    cookie: String,
    digest: Option<String>,
    tries: Tries,
    /// The same of tokens of peers.
    peer_tries: Tries,
    counters: Arc<PortCounters>,
}

/// What was found of a token that was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judged {
    Right,
    Wrong,
    /// It was not looked at: the address has shown too many wrong ones.
    TooMany,
}

impl Access {
    /// Counts wrong tokens with the port.
    pub fn new(options: AccessOptions, counters: Arc<PortCounters>) -> Access {
        let cookie = format!("systole_{}", options.port);
        let digest = options.token.as_deref().map(|token| {
            let key = hmac::Key::new(hmac::HMAC_SHA256, token.as_bytes());
            web::hex(hmac::sign(&key, format!("systole cookie 1 {cookie}").as_bytes()).as_ref())
        });
        Access { options, cookie, digest, tries: Tries::default(), peer_tries: Tries::default(), counters }
    }

    /// The port.
    pub(super) fn port(&self) -> u16 {
        self.options.port
    }

    /// Whether anybody can change something.
    pub(super) fn has_token(&self) -> bool {
        self.options.token.is_some()
    }

    /// Looks at a token, which may be meant in several ways.
    pub(super) fn evaluate(&self, peer: IpAddr, shown: &[&str]) -> Judged {
        let Some(token) = self.options.token.as_deref() else { return Judged::Wrong };
        let judged = self.tries.evaluate(machine(peer), shown, token, Instant::now());
        if judged != Judged::Right {
            self.counters.refuse_token();
        }
        judged
    }

    /// The answer to who may not be told what observers tell each other.
    pub(super) fn refused_peer(&self, headers: &HeaderMap, extensions: &Extensions) -> Option<Response> {
        let Some(token) = self.options.peer_token.as_deref() else {
            let message = "this node knows no other observers (`presence.peer_token` is not set)";
            return Some(error(StatusCode::NOT_FOUND, "no_peers", message));
        };
        let judged = web::bearer(headers)
            .map(|shown| self.peer_tries.evaluate(machine(peer(extensions)), &[shown], token, Instant::now()));
        if judged != Some(Judged::Right) {
            self.counters.refuse_token();
        }
        match judged {
            Some(Judged::Right) => None,
            Some(Judged::TooMany) => Some(too_many()),
            Some(Judged::Wrong) | None => {
                let message = "observers show `Authorization: Bearer TOKEN` with the token of `presence.peer_token`";
                Some(web::unauthorized(message))
            }
        }
    }

    /// Whether a request has the cookie.
    pub(super) fn has_cookie(&self, headers: &HeaderMap) -> bool {
        let Some(digest) = &self.digest else { return false };
        let all = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut pairs = all.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.any(|(name, value)| name == self.cookie && equal(value.as_bytes(), digest.as_bytes()))
    }

    /// Sets the cookie with an answer.
    pub(super) fn set_cookie(&self, response: &mut Response) {
        if let Some(digest) = &self.digest {
            self.say_cookie(response, digest, COOKIE_AGE);
        }
    }

    /// Takes the cookie away with an answer.
    pub(super) fn drop_cookie(&self, response: &mut Response) {
        self.say_cookie(response, "", 0);
    }

    fn say_cookie(&self, response: &mut Response, value: &str, age: u64) {
        let secure = if self.options.is_secured { "; Secure" } else { "" };
        let cookie = format!("{}={value}; Path=/; Max-Age={age}; HttpOnly; SameSite=Strict{secure}", self.cookie);
        if let Ok(cookie) = HeaderValue::from_str(&cookie) {
            response.headers_mut().append(header::SET_COOKIE, cookie);
        }
    }

    /// The answer to who may not have another.
    fn refusal(&self, request: &Request) -> Option<Response> {
        let (headers, path) = (request.headers(), request.uri().path());
        if let Some(stranger) = self.stranger(headers, request.uri()) {
            let message = format!(
                "`{}` is no name of this daemon: ask for localhost, or list the name in `http.hosts`",
                Escaped(&stranger)
            );
            return Some(error(StatusCode::MISDIRECTED_REQUEST, "unknown_host", &message));
        }
        if is_made_elsewhere(request) {
            let message = "a page of another place makes this request, and could not read its answer";
            return Some(error(StatusCode::FORBIDDEN, "cross_origin", message));
        }
        if let Some(answer) = self.without_token_in_url(request) {
            return Some(answer);
        }
        let is_open = !self.options.guards_reading
            || path.starts_with("/assets/")
            // Peers have a token of their own.
            || matches!(path, "/login" | "/logout" | PEER)
            || self.has_cookie(headers);
        if is_open {
            return None;
        }
        match web::bearer(headers).map(|shown| self.evaluate(peer(request.extensions()), &[shown])) {
            Some(Judged::Right) => None,
            judged => Some(login::refused(request, judged)),
        }
    }

    /// A name in a request that is none of ours. A target with a name of its own (RFC 9112, 3.2.2) must not say another one
    /// than `Host`.
    fn stranger(&self, headers: &HeaderMap, uri: &Uri) -> Option<String> {
        let ours = self.options.hosts.as_ref()?;
        let said = headers.get_all(header::HOST).iter().map(HeaderValue::as_bytes).map(String::from_utf8_lossy);
        let named = uri.authority().map(|authority| authority.as_str().into());
        said.chain(named).find(|host| !is_ours(host, ours)).map(|host| host.into_owned())
    }

    /// Who shows a token in the URL is sent on to the one without it, with the cookie.
    fn without_token_in_url(&self, request: &Request) -> Option<Response> {
        let shown = in_query(request.uri().query()?);
        if shown.is_empty() || !matches!(*request.method(), Method::GET | Method::HEAD) {
            return None;
        }
        let shown: Vec<&str> = shown.iter().map(String::as_str).collect();
        if self.has_token() {
            let judged = self.evaluate(peer(request.extensions()), &shown);
            if judged != Judged::Right {
                return Some(login::refused(request, Some(judged)));
            }
        }
        let mut response = see_other(&without_token(request.uri()));
        *response.body_mut() =
            "a token goes into `Authorization: Bearer TOKEN`; the cookie of this answer works as well\n".into();
        self.set_cookie(&mut response);
        Some(response)
    }

    /// Whether a form was sent by a page of this port.
    fn is_own_page(&self, headers: &HeaderMap) -> bool {
        let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        if let Some(site) = text(HeaderName::from_static("sec-fetch-site")) {
            return site == "same-origin";
        }
        let origin = text(header::ORIGIN).and_then(|origin| origin.parse::<Uri>().ok());
        let Some(authority) = origin.as_ref().and_then(Uri::authority) else { return false };
        // A reverse proxy may have put its own name into `Host`. It has the port of its scheme, or ours: what listens at
        // another port of the same host is somebody else.
        let is_port_right = authority.port_u16().is_none_or(|port| port == self.options.port);
        let mut listed = self.options.hosts.iter().flat_map(|hosts| hosts.iter());
        text(header::HOST).is_some_and(|host| host.eq_ignore_ascii_case(authority.as_str()))
            || is_port_right && listed.any(|host| host.eq_ignore_ascii_case(authority.host()))
    }
}

/// Whether a page of another place makes a request, other than by a link that somebody follows. Nobody could read the answer; the
/// work would be ours, and a wrong token would count against whoever looks at that page. Browsers say so where it matters, of
/// requests to loopback and over TLS (W3C Fetch Metadata).
fn is_made_elsewhere(request: &Request) -> bool {
    let said = |name: &'static str| request.headers().get(HeaderName::from_static(name)).map(HeaderValue::as_bytes);
    let is_elsewhere = said("sec-fetch-site").is_some_and(|site| !matches!(site, b"same-origin" | b"none"));
    let is_followed = said("sec-fetch-mode") == Some(b"navigate")
        && said("sec-fetch-dest") == Some(b"document")
        && matches!(*request.method(), Method::GET | Method::HEAD);
    is_elsewhere && !is_followed
}

/// A redirect to a place of this port.
pub(super) fn see_other(to: &str) -> Response {
    (StatusCode::SEE_OTHER, [(header::LOCATION, to)]).into_response()
}

/// Path and parameters of a URL without the token, as a place of this port.
pub(super) fn without_token(uri: &Uri) -> String {
    let pairs = uri.query().unwrap_or("").split('&');
    let kept: Vec<&str> = pairs.filter(|pair| !pair.is_empty() && !is_token(pair)).collect();
    let query = if kept.is_empty() { String::new() } else { format!("?{}", kept.join("&")) };
    local(&format!("{}{query}", uri.path()))
}

/// A place of this port, whatever is asked for: `//name` and `/\name` would be places of others.
pub(super) fn local(place: &str) -> String {
    let is_plain = place.bytes().all(|b| b.is_ascii_graphic());
    let parsed = place.parse::<Uri>().ok().filter(|uri| is_plain && uri.authority().is_none());
    let Some(place) = parsed.as_ref().and_then(Uri::path_and_query) else { return "/".into() };
    format!("/{}", place.as_str().trim_start_matches(['/', '\\']))
}

/// Where a request comes from.
pub(super) fn peer(extensions: &Extensions) -> IpAddr {
    extensions.get::<Peer>().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0)
}

/// Whether a browser asks for a page.
pub(super) fn is_browser(headers: &HeaderMap) -> bool {
    headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).is_some_and(|accept| accept.contains("text/html"))
}

/// A page.
pub(super) fn html(page: Markup) -> Response {
    with_type(HTML, page.into_string())
}

/// A middleware: refuses who may not, and sets the headers that keep a browser from guessing, and from keeping what does not
/// say that it may be kept.
pub(super) async fn guard(State(state): State<AppState>, request: Request, next: Next) -> Response {
    // They say nothing, and probes come with names of their own.
    let is_probe = matches!(request.uri().path(), "/health" | "/ready");
    let refusal = if is_probe { None } else { state.access.refusal(&request) };
    let mut response = match refusal {
        Some(refusal) => refusal,
        None => next.run(request).await,
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // Forms say where they come from by `Origin`, which `no-referrer` would take away.
        (header::REFERRER_POLICY, "same-origin"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
    ] {
        headers.insert::<HeaderName>(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Who asks, for what needs more than reading.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) peer: IpAddr,
    bearer: Option<String>,
    /// Whether it has the cookie.
    pub(super) is_known: bool,
    is_own_page: bool,
}

impl FromRequestParts<Live> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, live: &Live) -> Result<Caller, Infallible> {
        Ok(Caller::new(&live.now(), &parts.headers, &parts.extensions))
    }
}

impl Caller {
    pub(super) fn new(state: &AppState, headers: &HeaderMap, extensions: &Extensions) -> Caller {
        Caller {
            peer: peer(extensions),
            bearer: web::bearer(headers).map(String::from),
            is_known: state.access.has_cookie(headers),
            is_own_page: state.access.is_own_page(headers),
        }
    }

    /// The answer to a program that may not change something.
    pub(super) fn refused_change(&self, access: &Access) -> Option<Response> {
        access.refused(self.peer, self.bearer.as_deref())
    }

    /// Whether a program may change something; `what` is what the log says of it.
    #[expect(clippy::result_large_err, reason = "an answer is what an error of a route is")]
    pub(super) fn may_change(&self, access: &Access, what: &str) -> Result<(), Response> {
        let Some(refused) = self.refused_change(access) else { return Ok(()) };
        tracing::warn!(from = %self.peer, "{what} was refused: {}", self.shown(None));
        Err(refused)
    }

    /// What a refused request has shown, itself or in a field of its form.
    pub(super) fn shown(&self, field: Option<&str>) -> &'static str {
        match field.or(self.bearer.as_deref()) {
            Some(_) => "the token that it shows is not the one in force",
            None => "it shows no token",
        }
    }

    /// The answer to a form that may not; it has a field for the token.
    pub(super) fn refused_form(&self, access: &Access, token: Option<&str>) -> Option<Response> {
        if token.is_none() && self.bearer.is_none() && self.is_known {
            let message = "a form counts on the cookie only if a page of this daemon sends it";
            let refusal = || error(StatusCode::FORBIDDEN, "cross_origin", message);
            return if self.is_own_page { None } else { Some(refusal()) };
        }
        access.refused(self.peer, token.or(self.bearer.as_deref()))
    }
}

/// What is said of a wrong token.
pub(super) const WRONG: &str = "the token that was shown is not that of `http.token` that is in force";

impl Access {
    /// The answer to a change that shows no right token: which of none, a wrong one, and none to be shown it is.
    fn refused(&self, peer: IpAddr, shown: Option<&str>) -> Option<Response> {
        match shown.map(|shown| self.evaluate(peer, &[shown])) {
            Some(Judged::Right) => None,
            Some(Judged::TooMany) => Some(too_many()),
            _ if !self.has_token() => {
                let message = "changes need a token, and `http.token` is not set: set it, and show it as `Authorization: Bearer TOKEN`";
                Some(error(StatusCode::UNAUTHORIZED, "no_token", message))
            }
            Some(Judged::Wrong) => Some(web::unauthorized(WRONG)),
            None => {
                Some(web::unauthorized("changes need `Authorization: Bearer TOKEN` with the token of `http.token`"))
            }
        }
    }
}

/// What is said to who may not try on.
pub(super) const TOO_MANY: &str = "too many wrong tokens came from this address; ask again in 5 seconds";

/// The answer to who may not try on.
pub(super) fn too_many() -> Response {
    let mut response = error(StatusCode::TOO_MANY_REQUESTS, "too_many_tries", TOO_MANY);
    response.headers_mut().insert(header::RETRY_AFTER, ONE_MORE.as_secs().into());
    response
}

/// Bounds how often can be guessed. Who repeats one wrong token, such as a script with that of last week, guesses nothing.
#[derive(Debug)]
struct Tries {
    places: Mutex<Vec<Guesses>>,
    hasher: RandomState,
}

#[derive(Clone, Copy, Debug, Default)]
struct Guesses {
    /// Wrong ones, as they are forgotten.
    wrong: f64,
    since: Option<Instant>,
    /// Hashes of the last wrong ones, and where the next one goes.
    known: [Option<NonZeroU64>; KNOWN],
    next: usize,
}

impl Default for Tries {
    fn default() -> Tries {
        Tries { places: Mutex::new(vec![Guesses::default(); PLACES]), hasher: RandomState::new() }
    }
}

impl Tries {
    fn evaluate(&self, from: IpAddr, shown: &[&str], right: &str, now: Instant) -> Judged {
        let number = self.hasher.hash_one(from) as usize % PLACES;
        let hash = |token: &&str| NonZeroU64::new(self.hasher.hash_one(token) | 1);
        // Every change leaves it whole.
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let place = &mut places[number];
        let passed = place.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        place.wrong = (place.wrong - passed.as_secs_f64() / ONE_MORE.as_secs_f64()).max(0.0);
        place.since = Some(now);
        let is_repeated = shown.iter().all(|token| place.known.contains(&hash(token)));
        if !is_repeated && place.wrong > MOST_WRONG - 1.0 {
            return Judged::TooMany;
        }
        if shown.iter().any(|shown| equal(shown.as_bytes(), right.as_bytes())) {
            return Judged::Right;
        }
        if !is_repeated {
            place.wrong += 1.0;
        }
        for this in shown.iter().map(hash) {
            if !place.known.contains(&this) {
                place.known[place.next] = this;
                place.next = (place.next + 1) % KNOWN;
            }
        }
        Judged::Wrong
    }
}

/// Whether a `Host`, with or without a port, is one of loopback or of `ours`.
fn is_ours(host: &str, ours: &[String]) -> bool {
    let has_port = |port: &str| port.bytes().all(|b| b.is_ascii_digit());
    let name = match host.rsplit_once(':') {
        Some((name, port)) if has_port(port) && (name.ends_with(']') || !name.contains(':')) => name,
        _ => host,
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    let address = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    address.parse().is_ok_and(|address: IpAddr| address.is_loopback())
        || name.eq_ignore_ascii_case("localhost")
        || ours.iter().any(|known| known.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_loopback_and_those_that_are_listed_are_ours() {
        let ours = ["stats.example".to_string()];
        for (host, expected) in [
            ("localhost", true),
            ("LocalHost:8127", true),
            ("localhost.", true),
            ("127.0.0.1:8127", true),
            ("127.1.2.3", true),
            ("[::1]:8127", true),
            ("[::1]", true),
            ("stats.example:80", true),
            ("STATS.example", true),
            ("", false),
            ("evil.example", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example:8127", false),
            ("evil.example:127.0.0.1", false),
            ("localhost:8127:1", false),
            ("a@localhost", false),
            ("10.0.0.1", false),
            ("[::ffff:10.0.0.1]", false),
            ("0.0.0.0", false),
        ] {
            assert_eq!(is_ours(host, &ours), expected, "{host}");
        }
    }

    #[test]
    fn a_place_is_always_of_this_port() {
        for (asked, expected) in [
            ("/", "/"),
            ("/presence/pay?x=1&y=2", "/presence/pay?x=1&y=2"),
            ("//evil.example/", "/evil.example/"),
            ("///evil.example", "/evil.example"),
            ("/\\evil.example", "/evil.example"),
            ("https://evil.example/", "/"),
            ("evil.example", "/"),
            ("javascript:alert(1)", "/"),
            ("/a\r\nSet-Cookie: x=1", "/"),
            ("", "/"),
        ] {
            assert_eq!(local(asked), expected, "{asked}");
        }
        for (asked, expected) in [
            ("/?token=a", "/"),
            ("/x?token=a&y=1", "/x?y=1"),
            ("/x?y=1&token=a%20b&z", "/x?y=1&z"),
            ("/x?%74oken=a&tok%65n&id=token&token", "/x?id=token"),
            ("//evil.example/?token=a", "/evil.example/"),
        ] {
            assert_eq!(without_token(&asked.parse().expect("a target")), expected, "{asked}");
        }
    }

    #[test]
    fn guesses_are_bounded_by_address_and_repeats_are_none() {
        let (tries, start) = (Tries::default(), Instant::now());
        let from = |n: u8| IpAddr::from([10, 0, 0, n]);
        let evaluate =
            |n: u8, shown: &str, at: u64| tries.evaluate(from(n), &[shown], "right", start + Duration::from_secs(at));
        for _ in 0..100 {
            assert_eq!(evaluate(1, "of last week", 0), Judged::Wrong);
        }
        for n in 1..10 {
            assert_eq!(evaluate(1, &format!("guess {n}"), 0), Judged::Wrong);
        }
        assert_eq!(evaluate(1, "guess 10", 0), Judged::TooMany);
        assert_eq!(evaluate(1, "right", 4), Judged::TooMany);
        // Of few others none is counted with it, but perhaps one.
        let others = (2..6).filter(|n| evaluate(*n, "right", 4) == Judged::Right).count();
        assert!(others >= 3, "{others}");
        assert_eq!(evaluate(1, "guess 11", 5), Judged::Wrong);
        assert_eq!(evaluate(1, "guess 12", 5), Judged::TooMany);
        assert_eq!(evaluate(1, "right", 1000), Judged::Right);
    }

    #[test]
    fn several_scripts_with_old_tokens_keep_nobody_out() {
        let (tries, start, from) = (Tries::default(), Instant::now(), IpAddr::from([10, 0, 0, 1]));
        let evaluate = |shown: &[&str]| tries.evaluate(from, shown, "right", start);
        for _ in 0..100 {
            for n in 0..KNOWN {
                assert_eq!(evaluate(&[&format!("old {n}")]), Judged::Wrong);
            }
        }
        // The same one as a parameter, as it is written and as it is meant.
        (0..100).for_each(|_| assert_eq!(evaluate(&["old 1", "old 1"]), Judged::Wrong));
        assert_eq!(evaluate(&["right"]), Judged::Right);
    }
}
