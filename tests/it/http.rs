//! HTTP as a client sees it: every error as it is promised, every parameter known or refused, and clients that ask for much
//! and do not read it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::ports::PROBE_MS;
use crate::support::{Daemon, alone, get, least_of_three, pause_ms, poll, size, text, until};

/// A daemon with presence, changes allowed, and a scrape port.
fn start(dir: &Path) -> (Daemon, SocketAddr) {
    let scrape = TcpListener::bind("127.0.0.1:0").and_then(|place| place.local_addr()).expect("a port");
    let config = format!(
        "interval = \"200ms\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\n[[sink]]\ntype = \"prometheus\"\n\
         address = \"{scrape}\"\n[http]\naddress = \"127.0.0.1:0\"\ntoken = \"secret\"\n"
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
const FORM: &str = "Content-Type: application/x-www-form-urlencoded\r\n";

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
        (page, "POST", "/presence/pay", FORM, "action=forget&token=a", (401, "unauthorized"), "Bearer"),
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
const ROUTES: [(&str, &str); 16] = [
    ("GET", "/"),
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
fn an_unknown_parameter_is_an_error_on_every_route_and_the_token_is_known_on_all() {
    let dir = tempfile::tempdir().expect("a folder");
    let (daemon, scrape) = start(dir.path());
    let page = daemon.http.expect("HTTP");
    let scraped = [("GET", "/"), ("GET", "/metrics")].map(|route| (scrape, route));
    for (to, (method, path)) in ROUTES.map(|route| (page, route)).into_iter().chain(scraped) {
        let what = format!("{method} {path}");
        let ask = |query: &str| request(to, method, &format!("{path}?{query}"), TOKEN, "");
        let message = promised(&what, ask("nonsense=1"), (400, "bad_request"));
        assert!(message.starts_with("unknown parameter `nonsense`; the parameter"), "{what}: {message}");
        assert!(message.ends_with("`token`"), "{what}: {message}");
        let message = promised(&what, ask("tokn=1"), (400, "bad_request"));
        assert!(message.contains("(did you mean `token`?)"), "{what}: {message}");
        let message = promised(&what, ask("token=a&token=b"), (400, "bad_request"));
        assert!(message.contains("`token` is given more than once"), "{what}: {message}");
        let (code, _, body) = ask("token=secret");
        let known = text(&body);
        assert!(!known.contains("unknown parameter"), "{what}: {known}");
        assert!(code == 200 || method != "GET", "{what}: {code} {known}");
    }
    for (path, known) in [
        ("/api/v1/presence", "`service`, `state`, `health`, `token`"),
        ("/api/v1/presence/pay/check", "`min`, `token`"),
        ("/api/v1/presence/events", "`since`, `token`"),
    ] {
        let message = promised(path, request(page, "GET", &format!("{path}?x=1"), "", ""), (400, "bad_request"));
        assert!(message.ends_with(&format!("the parameters here are {known}")), "{message}");
    }
    daemon.stop();
}

#[test]
fn a_token_with_any_characters_works_in_a_link() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = "interval = \"200ms\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\n[http]\naddress = \"0.0.0.0:0\"\ntoken = \"a+b%c &d\"\n";
    let daemon = Daemon::start(dir.path(), config);
    let to = ([127, 0, 0, 1], daemon.http.expect("HTTP").port()).into();
    let (code, page) = get(to, "/?token=a%2Bb%25c%20%26d", "");
    assert_eq!(code, 200, "{page}");
    let link = page.split("\"/presence").nth(1).and_then(|rest| rest.split('"').next()).expect("a link");
    assert_eq!(get(to, &format!("/presence{link}"), "").0, 200, "{link}");
    assert_eq!(get(to, "/?token=a%2Bb%25c%20%26e", "").0, 401);
    daemon.stop();
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
                  [[listen]]\nurl = \"tcp://127.0.0.1:0\"\n[http]\naddress = \"127.0.0.1:0\"\n[presence]\nenabled = false\n";
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
