//! HTTP as a client sees it: every error as it is promised, every parameter known or refused, and clients that ask for much
//! and do not read it.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::ports::PROBE_MS;
use crate::support::sources::rust_files;
use crate::support::{Daemon, alone, get, least_of_three, pause_ms, poll, size, text, until};

/// A daemon with presence, changes allowed, and a scrape port.
fn start(dir: &Path) -> (Daemon, SocketAddr) {
    let scrape = TcpListener::bind("127.0.0.1:0").and_then(|place| place.local_addr()).expect("a port");
    let config = format!(
        "interval = \"200ms\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\n[[sink]]\ntype = \"prometheus\"\n\
         address = \"{scrape}\"\n[http]\naddress = \"127.0.0.1:0\"\ntoken = \"secret\"\nhosts = [\"stats.example\"]\n"
    );
    let daemon = Daemon::start(dir, &config);
    daemon.send_udp(&[b"a:1|c\nheartbeat.pay.web-1:60|g"]);
    until("a service is up", || daemon.get("/api/v1/presence/pay/check").0 == 200);
    (daemon, scrape)
}

/// What comes back for these bytes: status, head and body.
fn exchange(to: SocketAddr, request: &[u8]) -> (u16, String, Vec<u8>) {
    let mut stream = TcpStream::connect(to).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    // The other end may answer, and close, before it has read all of it.
    let _ = stream.write_all(request);
    let (mut heard, mut chunk) = (Vec::new(), [0; 4096]);
    while let Ok(count @ 1..) = stream.read(&mut chunk) {
        heard.extend_from_slice(&chunk[..count]);
    }
    let end = heard.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
    let head = text(&heard[..end]);
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    (code, head.to_lowercase(), heard.split_off(end + 4))
}

fn request(to: SocketAddr, method: &str, target: &str, headers: &str, body: &str) -> (u16, String, Vec<u8>) {
    let length = body.len();
    let request = format!(
        "{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    );
    exchange(to, request.as_bytes())
}

/// Holds that an answer is an error as it is promised; its message.
fn promised(what: &str, (code, head, body): (u16, String, Vec<u8>), expected: (u16, &str)) -> String {
    let said = text(&body);
    assert_eq!(code, expected.0, "{what}: {head}\n{said}");
    assert!(head.contains("\r\ncontent-type: application/json"), "{what}: {head}");
    let length = format!("\r\ncontent-length: {}", body.len());
    assert!(head.contains(&length), "{what}: {head}\n{said}");
    let error: Value = serde_json::from_slice(&body).unwrap_or_else(|error| panic!("{what}: {error}: {said}"));
    assert_eq!(error["error"]["code"], expected.1, "{what}: {error}");
    let keys = |value: &Value| value.as_object().map_or(0, |object| object.len());
    assert_eq!((keys(&error), keys(&error["error"])), (1, 2), "{what}: {error}");
    let message = error["error"]["message"].as_str().expect("a text").to_string();
    assert!(!message.is_empty() && message != expected.1, "{what}: {error}");
    message
}

const TOKEN: &str = "Authorization: Bearer secret\r\n";
/// A link of another site that somebody follows.
const LINK: &str = "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n";
const FORM: &str = "Content-Type: application/x-www-form-urlencoded\r\n";

#[test]
fn a_browser_gets_errors_of_pages_in_words() {
    let dir = tempfile::tempdir().expect("a folder");
    let (daemon, _) = start(dir.path());
    let headers = format!("{TOKEN}Accept: text/html,*/*\r\n");
    for (target, status, says) in [
        ("/?range=60d", 400, "at most 31d, and not `60d`"),
        ("/?range=%3Cb%3E", 400, "not `&lt;b&gt;`"),
        ("/presence/nobody", 404, "service"),
        ("/nothing", 404, "`/`"),
    ] {
        let (code, head, body) = request(daemon.http.expect("HTTP"), "GET", target, &headers, "");
        let body = text(&body);
        assert_eq!(code, status, "{target}");
        assert!(head.contains("\r\ncontent-type: text/html") && body.contains(says), "{target}: {head}\n{body}");
        assert!(body.contains("href=\"/series\""), "{body}");
    }
    let program = request(daemon.http.expect("HTTP"), "GET", "/api/v1/nothing", &headers, "");
    promised("a program's path", program, (404, "not_found"));
    daemon.stop();
}

#[test]
fn every_error_is_json_with_the_right_status() {
    let dir = tempfile::tempdir().expect("a folder");
    let (daemon, scrape) = start(dir.path());
    let page = daemon.http.expect("HTTP");
    let large = "x".repeat(100 << 10);
    let form = format!("{TOKEN}{FORM}");
    let maintenance = "/api/v1/presence/maintenance";
    for (to, method, target, headers, body, expected, says) in [
        // Where there is nothing.
        (page, "GET", "/nothing", "", "", (404, "not_found"), "`/api/v1/status`"),
        (page, "GET", "/api/v1/", "", "", (404, "not_found"), "`/`"),
        (page, "GET", "/api/v2/status", "", "", (404, "not_found"), "`/`"),
        (page, "GET", "//", "", "", (404, "not_found"), "`/`"),
        (page, "OPTIONS", "*", "", "", (404, "not_found"), "`/`"),
        (page, "POST", "/nothing", "", "", (404, "not_found"), "`/`"),
        (page, "GET", "/presence/nobody", "", "", (404, "unknown"), "service"),
        (page, "GET", "/api/v1/presence/nobody", "", "", (404, "unknown"), "service"),
        (page, "GET", "/api/v1/presence/pax", "", "", (404, "unknown"), "(did you mean the service `pay`?)"),
        (page, "GET", "/api/v1/presence/", "", "", (404, "not_found"), "(did you mean `/api/v1/presence`?)"),
        (page, "GET", "/api/v1/presence/pay/nobody", "", "", (404, "unknown"), "instance"),
        (page, "GET", "/api/v1/presence/nobody/check", "", "", (404, "unknown"), "service"),
        (page, "DELETE", "/api/v1/presence/nobody", TOKEN, "", (404, "unknown"), "service or instance"),
        (scrape, "GET", "/nothing", "", "", (404, "not_found"), "`/metrics`"),
        // Methods.
        (page, "POST", "/metrics", "", "", (405, "method_not_allowed"), "`Allow`"),
        (page, "OPTIONS", "/api/v1/status", "", "", (405, "method_not_allowed"), "`Allow`"),
        (page, "PUT", "/presence/pay", "", "", (405, "method_not_allowed"), "`Allow`"),
        (page, "BREW", "/", "", "", (405, "method_not_allowed"), "`Allow`"),
        (page, "GET", maintenance, "", "", (405, "method_not_allowed"), "`Allow`"),
        (scrape, "POST", "/metrics", "", "", (405, "method_not_allowed"), "`Allow`"),
        // Parameters.
        (page, "GET", "/api/v1/presence?state=dwn", "", "", (400, "bad_request"), "`state` is one of up, late, down"),
        (page, "GET", "/api/v1/presence?health=1", "", "", (400, "bad_request"), "`health` is one of ok, warning"),
        (page, "GET", "/api/v1/presence/pay/check?min=x", "", "", (400, "bad_request"), "`min` is a whole number"),
        (page, "GET", "/api/v1/presence/pay/check?min=0", "", "", (400, "bad_request"), "a whole number of 1 to"),
        (page, "GET", "/api/v1/presence/pay/check?min=1&min=1", "", "", (400, "bad_request"), "more than once"),
        (page, "GET", "/api/v1/presence?service=%ff", "", "", (400, "bad_request"), "UTF-8"),
        (page, "GET", "/api/v1/presence?service=%z", "", "", (400, "bad_request"), "`%25`"),
        (page, "GET", "/api/v1/presence/pay/web-1/check", "", "", (400, "bad_request"), "/api/v1/presence/pay/web-1"),
        (scrape, "GET", "/metrics?name=a", "", "", (400, "bad_request"), "unknown parameter `name`"),
        // Paths.
        (page, "GET", "/presence/%ff", "", "", (400, "bad_request"), "UTF-8"),
        (page, "GET", "/api/v1/presence/a%zz/b", "", "", (400, "bad_request"), "`%25`"),
        (scrape, "GET", "/%80", "", "", (400, "bad_request"), "UTF-8"),
        // Bodies.
        (page, "POST", maintenance, TOKEN, "{", (400, "bad_request"), "is right"),
        (page, "POST", maintenance, TOKEN, "{\"service\":\"pay\",\"seconds\":-1}", (400, "bad_request"), "0 or more"),
        (page, "POST", maintenance, TOKEN, &large, (413, "too_large"), "65536"),
        (page, "POST", "/presence/pay", &form, &large, (413, "too_large"), "65536"),
        (page, "POST", "/presence/pay", TOKEN, "action=forget", (415, "unsupported_media_type"), "urlencoded"),
        (page, "POST", "/presence/pay", &form, "action=forge", (400, "bad_request"), "`maintenance` or `forget`"),
        (page, "POST", "/presence/pay", &form, "action=maintenance", (400, "bad_request"), "`minutes`"),
        (page, "POST", "/presence/pay", &form, "action=forget&tokn=a", (400, "bad_request"), "did you mean `token`?"),
        (page, "POST", "/presence/pay", &form, "action=%ff", (400, "bad_request"), "UTF-8"),
        // Who may.
        (page, "POST", maintenance, "", "{}", (401, "unauthorized"), "Bearer"),
        (
            page,
            "DELETE",
            "/api/v1/presence/pay",
            "Authorization: Basic c2VjcmV0\r\n",
            "",
            (401, "unauthorized"),
            "Bearer",
        ),
        (
            page,
            "POST",
            "/presence/pay",
            FORM,
            "action=forget&token=a",
            (401, "unauthorized"),
            "not that of `http.token`",
        ),
    ] {
        let what = format!("{method} {target}");
        let answer = request(to, method, target, headers, body);
        if answer.0 == 405 {
            assert!(answer.1.contains("\r\nallow: "), "{what}: {}", answer.1);
        }
        if answer.0 == 401 {
            assert!(answer.1.contains("\r\nwww-authenticate: bearer"), "{what}: {}", answer.1);
        }
        let message = promised(&what, answer, expected);
        assert!(message.contains(says), "{what}: {message}");
    }
    // What hyper answers by itself.
    let many: String = (0..200).map(|n| format!("x-{n}: y\r\n")).collect();
    for (what, sent, expected) in [
        ("no HTTP", "hello\r\n\r\n".to_string(), (400, "bad_request")),
        ("a header without a colon", "GET / HTTP/1.1\r\nHost localhost\r\n\r\n".into(), (400, "bad_request")),
        ("a blank in the path", "GET /a b HTTP/1.1\r\nHost: localhost\r\n\r\n".into(), (400, "bad_request")),
        ("a version that is none", "GET / HTTP/3.7\r\nHost: localhost\r\n\r\n".into(), (400, "bad_request")),
        ("a length that is none", "GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n".into(), (400, "bad_request")),
        ("a large header", format!("GET / HTTP/1.1\r\nx: {large}\r\n\r\n"), (431, "headers_too_large")),
        ("many headers", format!("GET / HTTP/1.1\r\nHost: localhost\r\n{many}\r\n"), (431, "headers_too_large")),
        ("a large path", format!("GET /{large} HTTP/1.1\r\nHost: localhost\r\n\r\n"), (431, "headers_too_large")),
    ] {
        for to in [page, scrape] {
            promised(what, exchange(to, sent.as_bytes()), expected);
        }
    }
    // A HEAD has no body, whatever the status; it says how long it would be.
    for (target, expected) in [("/nothing", 404), ("/health", 200), ("/presence/%ff", 400), ("/api/v1/snapshot", 200)] {
        let (code, head, body) = request(page, "HEAD", target, "", "");
        assert_eq!((code, body.len()), (expected, 0), "{target}: {head}");
    }
    daemon.stop();
}

/// Every route of `docs/http.md`, as it is asked here.
const ROUTES: [(&str, &str); 24] = [
    ("GET", "/"),
    ("GET", "/series"),
    ("GET", "/series/show"),
    ("GET", "/senders"),
    ("GET", "/events"),
    ("GET", "/explain"),
    ("GET", "/config"),
    ("GET", "/maintenance"),
    ("GET", "/presence/pay/web-1"),
    ("GET", "/health"),
    ("GET", "/ready"),
    ("GET", "/metrics"),
    ("GET", "/api/v1/status"),
    ("GET", "/api/v1/snapshot"),
    ("GET", "/api/v1/events"),
    ("GET", "/presence"),
    ("GET", "/presence/pay"),
    ("GET", "/api/v1/presence"),
    ("GET", "/api/v1/presence/pay"),
    ("GET", "/api/v1/presence/pay/web-1"),
    ("GET", "/api/v1/presence/pay/check"),
    ("GET", "/api/v1/presence/events"),
    ("POST", "/api/v1/presence/maintenance"),
    ("DELETE", "/api/v1/presence/nobody"),
];

#[test]
fn who_shows_no_token_is_refused_before_a_body_is_sent() {
    let dir = tempfile::tempdir().expect("a folder");
    let (daemon, _) = start(dir.path());
    let to = daemon.http.expect("HTTP");
    let head = "POST /api/v1/presence/maintenance HTTP/1.1\r\nHost: localhost\r\nContent-Length: 65000\r\n";
    let message = promised("no body", exchange(to, format!("{head}\r\n").as_bytes()), (401, "unauthorized"));
    assert!(message.contains("Bearer"), "{message}");
    daemon.stop();
}

#[test]
fn an_unknown_parameter_is_an_error_on_every_route() {
    let dir = tempfile::tempdir().expect("a folder");
    let (daemon, scrape) = start(dir.path());
    let page = daemon.http.expect("HTTP");
    for (method, path) in ROUTES {
        let what = format!("{method} {path}");
        let message =
            promised(&what, request(page, method, &format!("{path}?nonsense=1"), TOKEN, ""), (400, "bad_request"));
        assert!(message.starts_with("unknown parameter `nonsense`; the"), "{what}: {message}");
    }
    for path in ["/", "/metrics"] {
        let ask = |query: &str| request(scrape, "GET", &format!("{path}?{query}"), "", "");
        let message = promised(path, ask("tokn=1"), (400, "bad_request"));
        assert!(message.ends_with("(did you mean `token`?); the parameter here is `token`"), "{path}: {message}");
        let message = promised(path, ask("token=a&token=b"), (400, "bad_request"));
        assert!(message.contains("`token` is given more than once"), "{path}: {message}");
        assert_eq!(ask("token=a").0, 200, "{path}");
    }
    for (path, known) in [
        ("/api/v1/presence", "parameters here are `service`, `state`, `health`"),
        ("/api/v1/presence/pay/check", "parameter here is `min`"),
        ("/api/v1/presence/events", "parameter here is `since`"),
        ("/", "`sel`, `pin`, `cmp`, `y`"),
        ("/explain", "`y`, `line`"),
        ("/api/v1/status", "are no parameters here"),
    ] {
        let message = promised(path, request(page, "GET", &format!("{path}?x=1"), "", ""), (400, "bad_request"));
        assert!(message.ends_with(known), "{message}");
    }
    daemon.stop();
}

/// The value of a header in a head in small letters.
fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

/// A daemon whose page needs a token with any characters.
fn start_guarded(dir: &Path) -> (Daemon, SocketAddr) {
    let config = "interval = \"200ms\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\n[http]\naddress = \"0.0.0.0:0\"\ntoken = \"a+b%c &d\"\n";
    let daemon = Daemon::start(dir, config);
    let to = ([127, 0, 0, 1], daemon.http.expect("HTTP").port()).into();
    (daemon, to)
}

const BROWSER: &str = "Accept: text/html,application/xhtml+xml,*/*;q=0.8\r\nSec-Fetch-Site: none\r\n";

#[test]
fn a_browser_shows_the_token_once_and_then_has_a_cookie() {
    let dir = tempfile::tempdir().expect("a folder");
    let (daemon, to) = start_guarded(dir.path());
    // Without it there is a form, and what it needs to be looked at.
    let (code, head, body) = request(to, "GET", "/presence?a=1", BROWSER, "");
    let page = text(&body);
    assert_eq!((code, header(&head, "content-type")), (401, Some("text/html; charset=utf-8")), "{page}");
    assert!(page.contains("This page needs the token.") && page.contains("value=\"/presence?a=1\""), "{page}");
    assert!(!page.contains("not the token") && !page.contains("http-equiv"), "{page}");
    let style = page.split("href=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a stylesheet");
    assert_eq!(request(to, "GET", style, "", "").0, 200, "{style}");
    // Who comes by a link of another site may have a cookie that the browser keeps back.
    let link = format!("Accept: text/html\r\n{LINK}");
    let (_, _, body) = request(to, "GET", "/presence", &link, "");
    assert!(text(&body).contains("content=\"0; url=/login?next=%2Fpresence\""), "{}", text(&body));
    // A program gets an error.
    promised("a program", request(to, "GET", "/presence", "", ""), (401, "unauthorized"));

    let login = |body: &str| request(to, "POST", "/login", &format!("{BROWSER}{FORM}"), body);
    let (code, head, body) = login("token=a%2Bb&next=%2Fpresence");
    assert_eq!((code, header(&head, "set-cookie")), (401, None));
    assert_eq!(header(&head, "content-type"), Some("text/html; charset=utf-8"));
    assert!(text(&body).contains("That is not the token."), "{}", text(&body));
    let (code, head, _) = login("token=a%2Bb%25c+%26d&next=%2Fpresence");
    assert_eq!((code, header(&head, "location")), (303, Some("/presence")), "{head}");
    let set = header(&head, "set-cookie").expect("a cookie").to_string();
    let (cookie, attributes) = set.split_once(';').expect("attributes");
    assert!(cookie.starts_with(&format!("systole_{}=", to.port())), "{set}");
    assert!(attributes.contains("httponly") && attributes.contains("samesite=strict"), "{set}");
    assert!(!set.contains("secure") && !set.contains("a+b") && attributes.contains("path=/"), "{set}");
    let with_cookie = format!("{BROWSER}Cookie: other=1; {cookie}\r\n");
    for path in ["/", "/presence", "/api/v1/status"] {
        let (code, head, body) = request(to, "GET", path, &with_cookie, "");
        assert_eq!(code, 200, "{path}");
        // Nothing in the page is run, and no page has the token in a link.
        let page = text(&body);
        assert!(!page.contains("token=") && !page.contains(" style=") && !page.contains("<style"), "{path}: {page}");
        let policy = header(&head, "content-security-policy").expect("a policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'self';") && !policy.contains("unsafe"), "{policy}");
    }
    for wrong in ["Cookie: systole_1=x\r\n", &format!("Cookie: {}x\r\n", cookie), "Cookie: ;;=\r\n"] {
        assert_eq!(request(to, "GET", "/", wrong, "").0, 401, "{wrong}");
    }
    // Who has it needs no form, and may give it back.
    let (code, head, _) = request(to, "GET", "/login?next=//evil.example/", &with_cookie, "");
    assert_eq!((code, header(&head, "location")), (303, Some("/evil.example/")), "{head}");
    let (code, head, _) = request(to, "POST", "/logout", &with_cookie, "");
    assert!(code == 303 && header(&head, "set-cookie").is_some_and(|set| set.contains("max-age=0")), "{head}");
    daemon.stop();
}

#[test]
fn a_token_in_a_url_is_taken_out_of_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let (daemon, to) = start_guarded(dir.path());
    for token in ["a%2Bb%25c%20%26d", "a%2bb%25c+%26d"] {
        let (code, head, _) = request(to, "GET", &format!("/presence?token={token}&x=1"), BROWSER, "");
        assert_eq!((code, header(&head, "location")), (303, Some("/presence?x=1")), "{head}");
        let cookie = header(&head, "set-cookie").and_then(|set| set.split(';').next()).expect("a cookie").to_string();
        assert_eq!(request(to, "GET", "/presence", &format!("Cookie: {cookie}\r\n"), "").0, 200);
    }
    let (code, head, body) = request(to, "GET", "/?token=a%2Bb%25c%20%26e", BROWSER, "");
    assert_eq!((code, header(&head, "set-cookie")), (401, None));
    assert!(text(&body).contains("That is not the token.") && !text(&body).contains("%26e"), "{}", text(&body));
    promised("a program", request(to, "GET", "/api/v1/status?token=x", "", ""), (401, "unauthorized"));
    // Other parameters may be repeated, and the name of this one be written otherwise.
    for (target, kept) in [
        ("/api/v1/history?id=a&id=b&token=a%2Bb%25c%20%26d", "/api/v1/history?id=a&id=b"),
        ("/presence?x=1&%74oken=a%2Bb%25c%20%26d", "/presence?x=1"),
    ] {
        let (code, head, _) = request(to, "GET", target, "", "");
        assert_eq!((code, header(&head, "location")), (303, Some(kept)), "{head}");
    }
    let (code, head, _) = request(to, "GET", "//evil.example/?token=a%2Bb%25c%20%26d", "", "");
    assert_eq!((code, header(&head, "location")), (303, Some("/evil.example/")));
    // Probes are answered, whatever they show.
    assert_eq!(request(to, "GET", "/health?token=x", "", "").0, 200);
    daemon.stop();
    // On loopback reading is open; an old bookmark loses its token all the same.
    let dir = tempfile::tempdir().expect("a folder");
    let (daemon, _) = start(dir.path());
    let page = daemon.http.expect("HTTP");
    let (code, head, _) = request(page, "GET", "/presence?token=secret", BROWSER, "");
    assert_eq!((code, header(&head, "location")), (303, Some("/presence")), "{head}");
    daemon.stop();
}

#[test]
fn guesses_are_bounded_and_known_clients_are_not() {
    let dir = tempfile::tempdir().expect("a folder");
    let (daemon, to) = start_guarded(dir.path());
    let ask = |token: &str| request(to, "GET", "/api/v1/status", &format!("Authorization: Bearer {token}\r\n"), "");
    let (_, head, _) = request(to, "GET", "/?token=a%2Bb%25c%20%26d", BROWSER, "");
    let cookie = header(&head, "set-cookie").and_then(|set| set.split(';').next()).expect("a cookie").to_string();
    // One that is wrong again and again guesses nothing.
    for _ in 0..50 {
        promised("one of last week", ask("of-last-week"), (401, "unauthorized"));
    }
    // Nor do two in turn, of two scripts behind a proxy: they take one more of the ten, and no other.
    for _ in 0..20 {
        promised("another", ask("of-last-month"), (401, "unauthorized"));
        promised("one of last week", ask("of-last-week"), (401, "unauthorized"));
    }
    let began = Instant::now();
    let codes: Vec<u16> = (0..20).map(|n| ask(&format!("guess-{n}")).0).collect();
    assert_eq!(codes[..8], [401; 8], "{codes:?}");
    let (taken, more) = (codes.iter().filter(|code| **code == 401).count(), began.elapsed().as_secs() as usize / 5);
    assert!(taken <= 10 + more && codes.iter().all(|code| matches!(code, 401 | 429)), "{codes:?}");
    let (code, head, body) = ask("a+b%c &d");
    assert_eq!((code, header(&head, "retry-after")), (429, Some("5")), "{}", text(&body));
    let (code, _, body) = request(to, "GET", "/", &format!("{BROWSER}Authorization: Bearer y\r\n"), "");
    assert!(code == 429 && text(&body).contains("too many wrong tokens"), "{}", text(&body));
    // Who has a cookie goes on.
    let (code, _, body) = request(to, "GET", "/api/v1/status", &format!("Cookie: {cookie}\r\n"), "");
    assert_eq!(code, 200);
    let status: Value = serde_json::from_slice(&body).expect("JSON");
    let ports = status["ports"].as_object().expect("ports");
    let refused: u64 = ports.values().filter_map(|port| port["tokens_refused"].as_u64()).sum();
    assert_eq!(refused, 112, "{status}");
    daemon.stop();
}

#[test]
fn forms_count_on_the_cookie_only_from_a_page_of_this_port() {
    let dir = tempfile::tempdir().expect("a folder");
    let (daemon, _) = start(dir.path());
    let to = daemon.http.expect("HTTP");
    assert!(text(&request(to, "GET", "/maintenance?q=pay", BROWSER, "").2).contains("name=\"token\""));
    let login = request(to, "POST", "/login", FORM, "token=secret");
    let cookie = header(&login.1, "set-cookie").and_then(|set| set.split(';').next()).expect("a cookie").to_string();
    let page = text(&request(to, "GET", "/maintenance?q=pay", &format!("Cookie: {cookie}\r\n"), "").2);
    assert!(page.contains("method=\"post\"") && !page.contains("name=\"token\""), "{page}");
    let change = |headers: &str| {
        let headers = format!("{FORM}Cookie: {cookie}\r\n{headers}");
        request(to, "POST", "/presence/pay", &headers, "action=maintenance&minutes=1")
    };
    let behind_a_proxy = format!("Origin: http://STATS.example:{}\r\n", to.port());
    for (headers, expected) in [
        ("Origin: https://stats.example\r\n", 303),
        (&*behind_a_proxy, 303),
        ("Origin: http://stats.example:1\r\n", 403),
        ("Sec-Fetch-Site: same-origin\r\nOrigin: http://localhost\r\n", 303),
        ("Origin: http://localhost\r\n", 303),
        ("Sec-Fetch-Site: same-site\r\nOrigin: http://localhost\r\n", 403),
        ("Sec-Fetch-Site: cross-site\r\nOrigin: http://localhost\r\n", 403),
        ("Origin: http://localhost:1\r\n", 403),
        ("Origin: http://evil.example\r\n", 403),
        ("Origin: null\r\n", 403),
        ("", 403),
    ] {
        assert_eq!(change(headers).0, expected, "{headers}");
    }
    promised("another page", change(""), (403, "cross_origin"));
    // A program shows the token: the cookie changes nothing.
    let delete = request(to, "DELETE", "/api/v1/presence/pay", &format!("Cookie: {cookie}\r\n"), "");
    promised("a program", delete, (401, "unauthorized"));
    daemon.stop();
}

#[test]
fn pages_of_other_places_neither_cost_nor_count_as_guesses() {
    let dir = tempfile::tempdir().expect("a folder");
    let (daemon, _) = start(dir.path());
    let to = daemon.http.expect("HTTP");
    let image = "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\nSec-Fetch-Dest: image\r\n";
    let frame = "Sec-Fetch-Site: same-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: iframe\r\n";
    for n in 0..30 {
        let form = request(to, "POST", "/login", &format!("{FORM}{LINK}"), &format!("token=w{n}"));
        promised("a form", form, (403, "cross_origin"));
        promised("an image", request(to, "GET", &format!("/?token=w{n}"), image, ""), (403, "cross_origin"));
    }
    promised("an image", request(to, "GET", "/api/v1/series", image, ""), (403, "cross_origin"));
    promised("a frame", request(to, "GET", "/", frame, ""), (403, "cross_origin"));
    // Somebody follows a link, and the right token still counts.
    assert_eq!(request(to, "GET", "/?token=secret", LINK, "").0, 303);
    assert_eq!(request(to, "DELETE", "/api/v1/presence/pay", TOKEN, "").0, 200);
    daemon.stop();
}

#[test]
fn files_of_pages_are_kept_as_long_as_their_version_is_the_same() {
    let dir = tempfile::tempdir().expect("a folder");
    let (daemon, _) = start(dir.path());
    let to = daemon.http.expect("HTTP");
    let page = text(&request(to, "GET", "/", "", "").2);
    let style = page.split("href=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a stylesheet");
    let (code, head, plain) = request(to, "GET", style, "", "");
    assert_eq!((code, header(&head, "content-type")), (200, Some("text/css; charset=utf-8")));
    assert_eq!(header(&head, "cache-control"), Some("public, max-age=31536000, immutable"));
    assert_eq!(header(&head, "content-encoding"), None);
    let tag = header(&head, "etag").expect("a tag").replacen("w/", "W/", 1);
    let (_, head, packed) = request(to, "GET", style, "Accept-Encoding: br, gzip\r\n", "");
    assert_eq!(header(&head, "content-encoding"), Some("gzip"));
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(&*packed).read_to_end(&mut unpacked).expect("gzip");
    assert!(unpacked == plain && packed.len() < plain.len() / 2, "{} of {}", packed.len(), plain.len());
    // Under another version, or none, it is asked for again.
    for path in ["/assets/style.css", "/assets/style.css?v=0"] {
        let (_, head, _) = request(to, "GET", path, "", "");
        assert_eq!(header(&head, "cache-control"), Some("private, no-cache"), "{path}");
        let (code, _, body) = request(to, "GET", path, &format!("If-None-Match: {tag}\r\n"), "");
        assert_eq!((code, body.len()), (304, 0), "{path}");
    }
    promised("no file", request(to, "GET", "/assets/style.cs", "", ""), (404, "not_found"));
    promised("no file", request(to, "GET", "/assets/..%2fmod.rs", "", ""), (404, "not_found"));
    daemon.stop();
}

#[test]
fn answers_are_compressed_for_who_takes_gzip() {
    let dir = tempfile::tempdir().expect("a folder");
    let (daemon, _) = start(dir.path());
    let to = daemon.http.expect("HTTP");
    let lines: Vec<String> = (0..2000).map(|n| format!("some.series.{n}:{n}|c")).collect();
    for some in lines.chunks(20) {
        daemon.send_udp(&[some.join("\n").as_bytes()]);
    }
    daemon.flushed_when("a flush", |status| status["lines"]["metrics"].as_u64() >= Some(2000));
    for path in ["/", "/metrics", "/api/v1/status", "/api/v1/snapshot", "/presence"] {
        let (code, head, body) = request(to, "GET", path, "Accept-Encoding: gzip\r\n", "");
        assert_eq!((code, header(&head, "content-encoding")), (200, Some("gzip")), "{path}: {head}");
        assert!(header(&head, "vary").is_some_and(|vary| vary.contains("accept-encoding")), "{path}: {head}");
        let body = if head.contains("transfer-encoding: chunked") { unchunked(&body) } else { body };
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(&*body).read_to_end(&mut unpacked).expect("gzip");
        assert!(unpacked.len() > body.len(), "{path}: {} of {}", body.len(), unpacked.len());
        if path.starts_with("/api") {
            serde_json::from_slice::<Value>(&unpacked).unwrap_or_else(|error| panic!("{path}: {error}"));
        }
        let (_, head, _) = request(to, "GET", path, "Accept-Encoding: gzip;q=0\r\n", "");
        assert_eq!(header(&head, "content-encoding"), None, "{path}");
    }
    // What is short stays as it is, and so do streams.
    let (_, head, _) = request(to, "GET", "/health", "Accept-Encoding: gzip\r\n", "");
    assert_eq!(header(&head, "content-encoding"), None);
    daemon.stop();
}

#[test]
fn a_snapshot_is_filtered_and_kept_until_the_next_interval() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = "interval = \"3s\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\n[http]\naddress = \"127.0.0.1:0\"\n";
    let daemon = Daemon::start(dir.path(), config);
    let to = daemon.http.expect("HTTP");
    daemon.send_udp(&[
        b"api.a:1|c|#route:/pay,env\napi.b:2|c|#route:/cart\napi.t:3|ms|#route:/pay\npool:4|g\n_e{1,1}:t|x",
    ]);
    until("an interval with them", || daemon.get("/api/v1/snapshot?name=api.*").1.contains("api.a"));
    let names = |query: &str| {
        let (code, said) = daemon.get(&format!("/api/v1/snapshot?{query}"));
        assert_eq!(code, 200, "{query}: {said}");
        let records: Vec<Value> = serde_json::from_str(&said).expect("JSON");
        let name = |record: &Value| record["name"].as_str().or(record["type"].as_str()).unwrap_or("").to_string();
        records.iter().map(name).collect::<Vec<String>>().join(" ")
    };
    for (query, expected) in [
        ("name=api.?", "api.a api.b api.t"),
        ("name=api.*&kind=counter", "api.a api.b"),
        ("name=api.*&limit=2", "api.a api.b"),
        ("tag=route:/pay", "api.a api.t"),
        ("tag=route:/pay&tag=env", "api.a"),
        ("tag=route&type=timer&type=gauge", "api.t"),
        ("name=pool", "pool"),
        ("type=ledger", "ledger"),
        ("type=event&type=ledger", "event ledger"),
        ("type=timer&kind=counter", ""),
        ("name=nothing*", ""),
    ] {
        assert_eq!(names(query), expected, "{query}");
    }
    for (query, says) in [
        ("kind=event", "`kind` is one of counter, gauge"),
        ("type=counters", "`type` is one of counter, gauge"),
        ("limit=0", "`limit` is a whole number of 1 to 10000000"),
        ("limit=1e9", "`limit` is a whole number"),
        (&format!("name={}", "*".repeat(300)), "`name` has more than 256 characters"),
        (&"tag=a&".repeat(11), "`tag` is given 11 times; at most 10"),
    ] {
        let said =
            promised(query, request(to, "GET", &format!("/api/v1/snapshot?{query}"), "", ""), (400, "bad_request"));
        assert!(said.contains(says), "{query}: {said}");
    }
    // While an interval is the last, who has it is sent nothing.
    until("the same is not sent again", || {
        let (_, head, _) = request(to, "GET", "/api/v1/snapshot?kind=gauge", "", "");
        let tag = header(&head, "etag").expect("a tag").replacen("w/", "W/", 1);
        let again = format!("If-None-Match: \"x\", {tag}\r\n");
        let (code, head, body) = request(to, "GET", "/api/v1/snapshot?kind=gauge", &again, "");
        code == 304 && body.is_empty() && header(&head, "cache-control") == Some("private, no-cache")
    });
    daemon.stop();
}

#[test]
fn the_document_describes_every_route_with_its_methods() {
    let dir = tempfile::tempdir().expect("a folder");
    let (daemon, _) = start(dir.path());
    let to = daemon.http.expect("HTTP");
    let (code, _, body) = request(to, "GET", "/api/v1/openapi.json", "", "");
    let document: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!((code, document["openapi"].as_str()), (200, Some("3.1.0")));
    let described = document["paths"].as_object().expect("paths");
    // Where a handler is given to a path.
    let mut routed = BTreeSet::new();
    for (_, text) in rust_files("src/http") {
        for rest in text.split(".route(").skip(1) {
            let path = rest.trim_start().strip_prefix('"').and_then(|rest| rest.split('"').next());
            routed.insert(path.expect("a path as it is").to_string());
        }
    }
    // It answers only with what is right.
    routed.remove("/api/v1/presence/{service}/{instance}/check");
    let paths: BTreeSet<String> = described.keys().cloned().collect();
    assert_eq!(paths, routed);
    let mut ids = BTreeSet::new();
    for (path, item) in described {
        let example = path.replace("{service}", "pay").replace("{instance}", "web-1").replace("{name}", "style.css");
        let (code, head, _) = request(to, "OPTIONS", &example, "", "");
        let allowed = header(&head, "allow").expect("methods").split(',').map(str::trim).filter(|name| *name != "head");
        let allowed: BTreeSet<&str> = allowed.collect();
        let methods: BTreeSet<&str> = item.as_object().expect("methods").keys().map(String::as_str).collect();
        assert_eq!((code, methods), (405, allowed), "{path}");
        for (method, operation) in item.as_object().expect("methods") {
            let what = format!("{method} {path}");
            assert!(ids.insert(operation["operationId"].as_str().expect("an id").to_string()), "{what}");
            assert!(operation["summary"].as_str().is_some_and(|summary| !summary.is_empty()), "{what}");
            for parameter in operation["parameters"].as_array().map_or(&[][..], |all| all) {
                assert!(parameter["description"].as_str().is_some_and(|text| !text.is_empty()), "{what}: {parameter}");
            }
        }
    }
    daemon.stop();
}

/// A body without the lengths of its chunks; the last one must be there.
fn unchunked(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    loop {
        let end = body.windows(2).position(|two| two == b"\r\n").expect("a length");
        let length = usize::from_str_radix(&text(&body[..end]), 16).expect("a length");
        if length == 0 {
            return whole;
        }
        whole.extend_from_slice(&body[end + 2..end + 2 + length]);
        body = &body[end + 4 + length..];
    }
}

#[test]
fn lists_of_presence_are_whole_however_many_there_are() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = "interval = \"1s\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\n[http]\naddress = \"127.0.0.1:0\"\n\
                  [presence]\nmax_services_per_source = 10000\nmax_instances_per_source = 10000\n\
                  max_registrations_per_second = 100000\n";
    let daemon = Daemon::start(dir.path(), config);
    // One service with more instances than a part has, many with few, and names that are not sent in their order.
    let mut names: Vec<(String, String)> =
        (0..700).map(|n| ("big".to_string(), format!("i{:04}", n * 7919 % 1009))).collect();
    names.extend((0..400).flat_map(|n| [0, 1].map(|i| (format!("s{:03}", n * 211 % 400), format!("i{i}")))));
    for some in names.chunks(20) {
        let lines: Vec<String> = some.iter().map(|(s, i)| format!("heartbeat.{s}.{i}:60|g")).collect();
        daemon.send_udp(&[lines.join("\n").as_bytes()]);
        pause_ms(5);
    }
    let metrics = || daemon.get("/metrics").1;
    let all = format!("presence_roster_instances {}\n", names.len());
    until("all are known", || metrics().contains(&all));
    names.sort();
    let listed = |path: &str| -> Vec<(String, String)> {
        let services: Value = serde_json::from_str(&daemon.get(path).1).expect("JSON");
        let name = |value: &Value| value.as_str().expect("a name").to_string();
        let services = services.as_array().expect("an array").iter();
        let instances = services.flat_map(|service| {
            let instances = service["instances"].as_array().expect("an array").iter();
            instances.map(move |instance| (name(&service["service"]), name(&instance["instance"])))
        });
        instances.collect()
    };
    assert_eq!(listed("/api/v1/presence"), names);
    assert_eq!(listed("/api/v1/presence?state=up&service=big"), names[..700]);
    assert_eq!(listed("/api/v1/presence?state=down"), []);
    let one: Value = serde_json::from_str(&daemon.get("/api/v1/presence/big").1).expect("JSON");
    assert_eq!(one["instances"].as_array().map(Vec::len), Some(700));
    assert_eq!((&one["present"], &one["state"]), (&700.into(), &"up".into()));
    daemon.stop();
}

/// A client that asks and never reads.
fn silent(to: SocketAddr, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(to).expect("connected");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sent");
    stream
}

/// Longest wait for `/ready` while clients that do not read are there, in milliseconds.
fn slowest_ready_ms(to: SocketAddr) -> f64 {
    let waits = (0..20).map(|_| {
        let began = Instant::now();
        assert_eq!(get(to, "/ready", "").0, 200);
        let took = began.elapsed();
        pause_ms(25);
        took
    });
    waits.max().expect("some").as_secs_f64() * 1000.0
}

#[test]
fn clients_that_do_not_read_hold_little_and_harm_nobody() {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("a folder");
    let config = "interval = \"15s\"\nself_metrics = false\nmax_series = 1000000\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\n\
                  [[listen]]\nurl = \"tcp://127.0.0.1:0\"\n[http]\naddress = \"127.0.0.1:0\"\n[history]\nenabled = false\n[presence]\nenabled = false\n";
    let daemon = Daemon::start(dir.path(), config);
    let to = daemon.http.expect("HTTP");
    let count = size("SYSTOLE_TEST_UNREAD_SERIES", 100_000);
    let lines: String = (0..count)
        .map(|n| format!("app.web.pool.size.of.endpoint_{n:06}:{n}|g|#zone:eu,host:web-{}\n", n % 10))
        .collect();
    let mut stream = TcpStream::connect(daemon.tcp.expect("TCP")).expect("connected");
    stream.write_all(lines.as_bytes()).expect("sent");
    daemon.closed(count);
    for clients in [40, 200] {
        // All of it within an interval: after a flush there is another snapshot.
        let mut growth = f64::INFINITY;
        until("one interval for all", || {
            let quiet = get(to, "/api/v1/snapshot", "").1;
            assert!(quiet.starts_with("[{") && quiet.ends_with("}]"));
            assert_eq!(quiet.matches("\"type\":\"gauge\"").count() as u64, count);
            let before = daemon.rss_kib();
            let unread: Vec<TcpStream> = (0..clients).map(|_| silent(to, "/api/v1/snapshot")).collect();
            let slowest = least_of_three(PROBE_MS, || slowest_ready_ms(to));
            let beside = get(to, "/api/v1/snapshot", "").1;
            growth = (daemon.rss_kib() as f64 - before as f64) / 1024.0;
            let held = || daemon.status()["memory"]["holders"]["http_bodies"]["bytes"].as_u64().expect("a number");
            assert!((1 << 20..32 << 20).contains(&held()), "{} bytes are held", held());
            drop(unread);
            until("what they held is free", || held() == 0);
            assert!(slowest <= PROBE_MS, "/ready took {slowest} ms beside {clients} clients");
            assert!(beside.ends_with("}]"), "{} bytes: {}", beside.len(), &beside[..beside.len().min(200)]);
            beside == quiet
        });
        // More than have a place: those that stall longest give way.
        let cut = daemon.status()["ports"][format!("http://{to}")]["answers_cut"].as_u64();
        assert_eq!(cut > Some(0), clients > 128, "{cut:?} of {clients}");
        println!("{clients} clients that do not read {count} series: {growth:.1} MiB");
        assert!(growth <= 32.0, "{growth:.1} MiB for {clients} clients");
    }
    daemon.stop();
}

#[test]
fn lists_and_pages_of_presence_that_are_not_read_hold_little() {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("a folder");
    let config = "interval = \"10s\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\n[http]\naddress = \"127.0.0.1:0\"\n\
                  [presence]\nmax_services_per_source = 100000\nmax_instances_per_source = 100000\n\
                  max_registrations_per_second = 1000000\nqueue = 100000\nseries = \"service\"\n";
    let daemon = Daemon::start(dir.path(), config);
    let to = daemon.http.expect("HTTP");
    let names: Vec<String> = (0..10_000).map(|n| format!("heartbeat.service{:03}.i{n:05}:600|g", n % 100)).collect();
    for some in names.chunks(20) {
        daemon.send_udp(&[some.join("\n").as_bytes()]);
        pause_ms(2);
    }
    let all = format!("presence_roster_instances {}\n", names.len());
    until("all are known", || daemon.get("/metrics").1.contains(&all));
    // What was touched for the first time is not what clients hold.
    let paths = ["/api/v1/presence", "/presence", "/metrics", "/", "/api/v1/presence/events", "/api/v1/snapshot"];
    for path in paths {
        // Presence may be at what it was sent.
        until(path, || daemon.get(path).0 == 200);
    }
    let before = daemon.rss_kib();
    let mut unread: Vec<TcpStream> = (0..30).flat_map(|_| paths.map(|path| silent(to, path))).collect();
    for _ in 0..30 {
        let mut stream = TcpStream::connect(to).expect("connected");
        let accept = "Accept: text/event-stream\r\n";
        write!(stream, "GET /api/v1/presence/events HTTP/1.1\r\nHost: localhost\r\n{accept}\r\n").expect("sent");
        unread.push(stream);
    }
    let slowest = least_of_three(PROBE_MS, || slowest_ready_ms(to));
    assert!(slowest <= PROBE_MS, "/ready took {slowest} ms");
    // One that is cut, because presence has too much to do, is no JSON.
    let list = poll("a whole list", || {
        let (code, list) = daemon.get("/api/v1/presence");
        serde_json::from_str::<Value>(&list).map(|_| (code, list.matches("\"instance\":").count()))
    });
    assert_eq!(list, (200, names.len()));
    assert!(daemon.get("/presence").1.ends_with("</html>\n"));
    let growth = (daemon.rss_kib() as f64 - before as f64) / 1024.0;
    println!("{} clients that do not read of {} instances: {growth:.1} MiB", unread.len(), names.len());
    assert!(growth <= 32.0, "{growth:.1} MiB");
    drop(unread);
    daemon.stop();
}
