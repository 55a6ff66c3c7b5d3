//! Receivers that behave badly, through the front door: what the status says of each, that nothing is delivered twice or lost,
//! and that the sink's equation holds. The sinks stand for all that deliver over HTTP, which share their way to do it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;

use crate::support::otlp::Export;
use crate::support::receiver::{
    Reply::{self, Breaks, Drips, Garbage, Nothing, Says, With},
    receiver,
};
use crate::support::{self, Daemon, alone, command, exit_within, least_of_three, poll, sink, systole, text, with_sink};

fn start(dir: &Path, options: &str) -> Daemon {
    Daemon::start(dir, &with_sink(options))
}

fn influx(address: SocketAddr) -> String {
    format!("type = \"influx\"\nurl = \"http://{address}\"\ndatabase = \"d\"\ntimeout = \"500ms\"\ngzip = false\n")
}

#[test]
fn a_receiver_that_behaves_badly_is_told_and_gets_the_interval_when_it_behaves() {
    let cases: [(Reply, &str); 7] = [
        (Nothing, "within 0.5 s"),
        (Drips, "within 0.5 s"),
        (Garbage, "invalid HTTP"),
        (Breaks, "error reading a body from connection"),
        (Says(503, "maintenance"), "answered 503: maintenance"),
        (Says(401, "who are you?"), "answered 401: who are you?"),
        (Says(307, ""), "answered 307"),
    ];
    for (reply, expected) in cases {
        let dir = tempfile::tempdir().expect("a folder");
        let (address, requests) = receiver(vec![reply.clone(), Says(204, "")]);
        let mut daemon = start(dir.path(), &influx(address));
        daemon.send_udp(&[b"a:7|c"]);
        daemon.wait_for(expected, |lines| {
            lines.iter().any(|line| line.contains("delivery failed") && line.contains(expected))
        });
        let status = daemon.status_when("delivered", |status| sink(status)["delivered"].as_u64() > Some(0));
        assert_eq!(sink(&status)["last_error"], Value::Null, "{reply:?}");
        let told: Vec<String> = requests.try_iter().map(|request| request.text()).collect();
        assert!(told.len() >= 2 && told[0] == told[1] && told[0].contains("value=7,"), "{reply:?}: {told:?}");
        daemon.stop();
    }
}

#[test]
fn while_it_fails_the_status_says_how_and_since_when_something_waits() {
    let dir = tempfile::tempdir().expect("a folder");
    let (address, _requests) = receiver(vec![Says(500, "no")]);
    let daemon = start(dir.path(), &(influx(address) + "queue = 2"));
    for n in 0..5 {
        daemon.send_udp(&[format!("a{n}:7|c").as_bytes()]);
        daemon.closed(n + 1);
    }
    let status = daemon.status_when("a full queue", |status| sink(status)["dropped"]["queue_full"].as_u64() > Some(0));
    let shown = sink(&status);
    assert!(shown["last_error"].as_str().is_some_and(|error| error.contains("answered 500: no")), "{shown}");
    assert!(shown["oldest_waiting"].as_f64() > Some(1e9) && shown["last_success"] == 0.0, "{shown}");
}

#[test]
fn what_a_full_queue_dropped_is_logged_when_deliveries_succeed_again_and_at_the_stop() {
    let dir = tempfile::tempdir().expect("a folder");
    let fails = Says(500, "no");
    let (address, _requests) = receiver([vec![fails.clone(); 4], vec![Says(204, ""), fails]].concat());
    let options = influx(address) + "queue = 1";
    let daemon = Daemon::start(dir.path(), &format!("shutdown_grace = \"500ms\"\n{}", with_sink(&options)));
    let dropped = |more_than: u64| {
        let status = poll("more in a full queue", || {
            daemon.send_udp(&[b"a:7|c"]);
            let status = daemon.status();
            if sink(&status)["dropped"]["queue_full"].as_u64() > Some(more_than) { Ok(status) } else { Err(status) }
        });
        (sink(&status)["dropped"]["queue_full"].as_u64().expect("a number"), status)
    };
    dropped(0);
    let delivered = |status: &Value| sink(status)["delivered"].as_u64() > Some(0);
    let before =
        sink(&daemon.status_when("a delivery", delivered))["dropped"]["queue_full"].as_u64().expect("a number");
    dropped(before);
    let log = daemon.stop();
    let said = |what: &str| -> u64 {
        let line = log.iter().find(|line| line.contains(what)).unwrap_or_else(|| panic!("no {what}: {log:#?}"));
        let number = line.split("queue_full ").nth(1).expect("a reason");
        number.split(|c: char| !c.is_ascii_digit()).next().and_then(|n| n.parse().ok()).expect("a number")
    };
    assert!(said("delivering again; records were dropped meanwhile") > 0);
    assert!(said("records were dropped since the last delivery") > 0);
}

#[test]
fn a_receiver_that_asks_for_time_gets_it() {
    for header in ["Retry-After: 2", "Retry-After: DATE"] {
        let dir = tempfile::tempdir().expect("a folder");
        let then = std::time::SystemTime::now() + Duration::from_secs(3);
        let header: &'static str = header.replace("DATE", &httpdate::fmt_http_date(then)).leak();
        let (address, requests) = receiver(vec![With(429, header, "slow down"), Says(204, "")]);
        let daemon = start(dir.path(), &influx(address));
        daemon.send_udp(&[b"a:7|c"]);
        let wait = || requests.recv_timeout(Duration::from_secs(20)).expect("a request");
        wait();
        let began = Instant::now();
        wait();
        // Left to itself it would come back after a quarter of a second.
        assert!(began.elapsed() > Duration::from_millis(900), "{header}: {:?}", began.elapsed());
        daemon.stop();
    }
}

#[test]
fn what_is_refused_for_good_is_dropped_and_counted_by_every_sink() {
    for (kind, more) in [
        ("remote_write", ""),
        ("otlp", ""),
        ("clickhouse", "create = false"),
        ("datadog", "api_key = \"k\""),
        ("elasticsearch", ""),
        ("influx", "database = \"d\""),
    ] {
        let dir = tempfile::tempdir().expect("a folder");
        let (address, _requests) = receiver(vec![Says(400, "that cannot be"), Says(204, "")]);
        let mut daemon = start(dir.path(), &format!("type = \"{kind}\"\nurl = \"http://{address}\"\n{more}"));
        daemon.send_udp(&[b"a:7|c"]);
        let status = daemon.status_when(kind, |status| sink(status)["dropped"]["refused"] == 1);
        assert_eq!(sink(&status)["queued"], 0);
        daemon.wait_for("a warning", |lines| {
            lines.iter().any(|line| line.contains("refused") && line.contains("that cannot be"))
        });
        daemon.stop();
    }
}

#[test]
fn credentials_go_along_and_are_never_shown() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("secret"), "hunter2\n").expect("written");
    let secret = format!("file:{}", dir.path().join("secret").display());
    for (more, expected) in [
        (format!("username = \"me\"\npassword = \"{secret}\""), "authorization: basic bwu6ahvudgvymg=="),
        (format!("token = \"{secret}\""), "authorization: bearer hunter2"),
        ("headers = { \"X-Key\" = \"hunter2\" }".to_string(), "x-key: hunter2"),
    ] {
        let (address, requests) = receiver(vec![Says(200, "")]);
        let config = format!("type = \"otlp\"\nurl = \"http://{address}\"\n{more}");
        let daemon = start(dir.path(), &config);
        daemon.send_udp(&[b"a:7|c"]);
        let request = requests.recv_timeout(Duration::from_secs(20)).expect("a request");
        assert!(request.headers.contains(expected), "{}", request.headers);
        let log = daemon.stop();
        assert!(log.iter().all(|line| !line.contains("hunter2")), "{log:?}");
        let file = dir.path().join("systole.toml");
        let printed = text(&systole(&["check", "--print", "-c", file.to_str().expect("plain")], b"").stdout);
        assert!(!printed.contains("hunter2") && printed.contains("type = \"otlp\""), "{printed}");
    }
}

/// An authority of ours, with a certificate for 127.0.0.1 and one for a client.
struct Authority {
    root: String,
    server: (String, String),
    client: (String, String),
}

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a root");
    let issue = |name: &str| {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.to_string()]).expect("parameters");
        (params.signed_by(&key, &issuer).expect("a certificate").pem(), key.serialize_pem())
    };
    Authority { root: issuer.pem(), server: issue("127.0.0.1"), client: issue("systole") }
}

/// An HTTPS server that asks for a certificate of the same authority if `asks`; answers 204 to everything.
fn secure(authority: &Authority, asks: bool) -> SocketAddr {
    let config = server_config(authority, asks);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let config = Arc::clone(&config);
            std::thread::spawn(move || {
                let connection = ServerConnection::new(config).expect("a connection");
                let mut stream = StreamOwned::new(connection, stream);
                let mut bytes = [0; 65536];
                while let Ok(1..) = stream.read(&mut bytes) {
                    if stream.write_all(b"HTTP/1.1 204 x\r\n\r\n").is_err() {
                        break;
                    }
                }
            });
        }
    });
    address
}

fn server_config(authority: &Authority, asks: bool) -> Arc<ServerConfig> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = vec![CertificateDer::from_pem_slice(authority.server.0.as_bytes()).expect("PEM")];
    let key = PrivateKeyDer::from_pem_slice(authority.server.1.as_bytes()).expect("PEM");
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.root.as_bytes()).expect("PEM")).expect("a root");
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
    let config = config.expect("versions");
    let config = if asks {
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().expect("a verifier");
        config.with_client_cert_verifier(verifier)
    } else {
        config.with_no_client_auth()
    };
    Arc::new(config.with_single_cert(chain, key).expect("a certificate with its key"))
}

/// A server of lines over TLS.
fn secure_lines(authority: &Authority) -> (SocketAddr, std::sync::mpsc::Receiver<String>) {
    use std::io::{BufRead, BufReader};
    let config = server_config(authority, false);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let (send, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let connection = ServerConnection::new(Arc::clone(&config)).expect("a connection");
            for line in BufReader::new(StreamOwned::new(connection, stream)).lines().map_while(Result::ok) {
                let _ = send.send(line);
            }
        }
    });
    (address, lines)
}

#[test]
fn tls_takes_the_right_certificates_and_no_others() {
    let (ours, foreign) = (authority(), authority());
    let dir = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    };
    let (root, other_root) = (write("root.pem", &ours.root), write("other.pem", &foreign.root));
    let (certificate, key) = (write("client.pem", &ours.client.0), write("client.key", &ours.client.1));
    let client = format!("tls = {{ ca = \"{root}\", certificate = \"{certificate}\", key = \"{key}\" }}");
    for (asks, tls, problem) in [
        (false, format!("tls = {{ ca = \"{root}\" }}"), None),
        (true, client, None),
        (false, format!("tls = {{ ca = \"{other_root}\" }}"), Some("invalid peer certificate")),
        (false, String::new(), Some("invalid peer certificate")),
        (true, format!("tls = {{ ca = \"{root}\" }}"), Some("")),
    ] {
        let address = secure(&ours, asks);
        let config = format!("type = \"influx\"\nurl = \"https://{address}\"\ndatabase = \"d\"\n{tls}");
        let daemon = start(dir.path(), &config);
        daemon.send_udp(&[b"a:7|c"]);
        let status = daemon.status_when("an outcome", |status| {
            sink(status)["delivered"] == 1 || sink(status)["last_error"].is_string()
        });
        match problem {
            None => assert_eq!(sink(&status)["delivered"], 1, "{config}: {status}"),
            Some(problem) => {
                let said = sink(&status)["last_error"].as_str().unwrap_or("").to_string();
                assert!(said.contains(problem) && !said.is_empty(), "{config}: {said}");
            }
        }
    }
    // Graphite and StatsD over TLS: what is sent is read on the other side.
    for kind in ["graphite", "statsd"] {
        let (address, lines) = secure_lines(&ours);
        let more = if kind == "statsd" { "transport = \"tcp\"" } else { "" };
        let config = format!("type = \"{kind}\"\naddress = \"{address}\"\nsecure = true\ntls.ca = \"{root}\"\n{more}");
        let daemon = start(dir.path(), &config);
        daemon.send_udp(&[b"secret.counter:7|c"]);
        let line = lines.recv_timeout(Duration::from_secs(20)).expect("a line");
        assert!(line.starts_with("secret.counter"), "{line}");
        daemon.stop();
    }
    let file = dir.path().join("bad.toml");
    let config = format!(
        "[http]\naddress = \"off\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\n[[sink]]\ntype = \"otlp\"\nurl = \"https://127.0.0.1:9\"\ntls.ca = \"{key}\"\n"
    );
    std::fs::write(&file, config).expect("written");
    let output = systole(&["run", "-c", file.to_str().expect("plain")], b"");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("there is no certificate in it"), "{}", text(&output.stderr));
}

#[test]
fn a_sink_that_is_not_in_the_build_says_so() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("c.toml");
    for (kind, is_there) in
        [("kafka", cfg!(feature = "kafka")), ("nats", cfg!(feature = "nats")), ("postgres", cfg!(feature = "postgres"))]
    {
        std::fs::write(&file, format!("[[sink]]\ntype = \"{kind}\"\n")).expect("written");
        let said = text(&systole(&["check", "-c", file.to_str().expect("plain")], b"").stderr);
        let expected = format!("sink[0].type: type `{kind}` is not in this build (feature `{kind}`)");
        assert_eq!(said.contains(&expected), !is_there, "{said}");
    }
}

#[test]
fn one_that_hangs_delays_no_other() {
    let _alone = alone();
    let late = least_of_three(0.1, latest_beside_one_that_hangs);
    assert!(late < 0.1, "{late}");
}

fn latest_beside_one_that_hangs() -> f64 {
    let dir = tempfile::tempdir().expect("a folder");
    let (address, _requests) = receiver(vec![Nothing]);
    let good = dir.path().join("records");
    let more =
        format!("{}[[sink]]\ntype = \"file\"\npath = \"{}\"", influx(address).replace("500ms", "30s"), good.display());
    let daemon = start(dir.path(), &more);
    for n in 1..=5 {
        // Each in an interval of its own, however busy the machine is.
        daemon.send_udp(&[b"a:1|c"]);
        daemon.status_when("the other went on", |status| status["sinks"]["file"]["delivered"].as_u64() == Some(n));
    }
    support::records(&good).iter().filter_map(|record| record["flush"]["late_secs"].as_f64()).fold(0.0, f64::max)
}

#[test]
fn a_sink_has_names_tags_and_an_interval_of_its_own() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = |name: &str| dir.path().join(name);
    let sink = format!(
        "type = \"file\"\npath = \"{}\"\nprefix = \"dc1.\"\ntags = {{ env = \"prod\", k = \"other\" }}\ninterval = \"1s\"\n\
         [[sink]]\nname = \"plain\"\ntype = \"file\"\npath = \"{}\"\n[[rule]]\nmatch = \"t\"\npercentiles = [50]",
        path("own").display(),
        path("plain").display()
    );
    let daemon = start(dir.path(), &sink);
    for n in 1..=12_u64 {
        daemon.send_udp(&[format!("c:{n}|c|#k:v\nt:{n}|ms\ns:{n}|s\ng:{n}|g").as_bytes()]);
        daemon.closed(4 * n);
    }
    daemon.stop();
    let of = |name: &str, series: &str| -> Vec<Value> {
        let all = support::records(&path(name));
        all.into_iter().filter(|record| record["name"] == series && record["value"] != 0.0).collect()
    };
    let number = |record: &Value, key: &str| record[key].as_f64().expect("a number");
    assert!(of("plain", "dc1.c").is_empty());
    let plain = of("plain", "c");
    assert_eq!(plain.len(), 12);
    let (mut sum, mut whole) = (0.0, 0);
    for counter in of("own", "dc1.c") {
        let (time, length) = (number(&counter, "time"), number(&counter, "interval"));
        let within = |record: &&Value| (time - length + 0.01..time + 0.01).contains(&number(record, "time"));
        let mine: Vec<f64> = plain.iter().filter(within).map(|record| number(record, "value")).collect();
        assert_eq!(number(&counter, "value"), mine.iter().sum::<f64>(), "{counter}");
        assert_eq!(counter["tags"], serde_json::json!({"env": "prod", "k": "v"}));
        let [timer, set, gauge] = ["dc1.t", "dc1.s", "dc1.g"].map(|series| {
            of("own", series).into_iter().find(|record| record["time"] == counter["time"]).expect("of the same second")
        });
        assert_eq!((number(&timer, "count"), number(&set, "value")), (mine.len() as f64, mine.len() as f64));
        let median = mine[mine.len().div_ceil(2) - 1];
        assert_eq!(timer["percentiles"], serde_json::json!({"50": median}));
        assert_eq!(number(&gauge, "value"), mine[mine.len() - 1]);
        sum += number(&counter, "value");
        whole += u32::from(mine.len() > 1 && (0.8..1.2).contains(&length));
    }
    assert_eq!(sum, 78.0);
    assert!(whole > 0, "no second has several intervals");
}

#[test]
fn every_sink_is_tried_by_check() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("c.toml");
    let gone = "http://127.0.0.1:1";
    let mut kinds = vec![
        ("graphite", "address = \"127.0.0.1:1\"".to_string(), false),
        ("statsd", "address = \"127.0.0.1:1\"\ntransport = \"tcp\"".into(), false),
        ("influx", format!("url = \"{gone}\"\ndatabase = \"d\""), false),
        ("remote_write", format!("url = \"{gone}\""), false),
        ("otlp", format!("url = \"{gone}\""), false),
        ("clickhouse", format!("url = \"{gone}\""), false),
        ("datadog", format!("url = \"{gone}\"\napi_key = \"k\""), false),
        ("elasticsearch", format!("url = \"{gone}\""), false),
        ("exec", "command = [\"/nonexistent\"]".into(), false),
        ("file", "path = \"/nonexistent/x\"".into(), false),
        ("hdrlog", "path = \"/nonexistent/x\"".into(), false),
        ("sqlite", "path = \"/nonexistent/x\"".into(), false),
        ("console", String::new(), true),
        ("prometheus", "address = \"127.0.0.1:0\"".into(), true),
    ];
    kinds.push(("sqlite", format!("path = \"{}/x\"", dir.path().display()), true));
    for (kind, options, is_good) in kinds {
        std::fs::write(&file, format!("[[sink]]\ntype = \"{kind}\"\n{options}\n")).expect("written");
        let output = systole(&["check", "--connect", "-c", file.to_str().expect("plain")], b"");
        let said = text(&output.stdout);
        assert_eq!(output.status.code(), Some(if is_good { 0 } else { 1 }), "{kind}: {said}{}", text(&output.stderr));
        assert!(said.contains(&format!("sink {kind}: ")), "{said}");
    }
    assert!(!dir.path().join("x").exists(), "a check leaves nothing behind");
}

#[test]
fn documents_of_a_bulk_are_as_published_and_each_refusal_is_honoured() {
    let dir = tempfile::tempdir().expect("a folder");
    let full = r#"{"errors":true,"items":[{"index":{"status":201}},{"index":{"status":429,"error":{"type":"full"}}}]}"#;
    let partly =
        r#"{"errors":true,"items":[{"index":{"status":200}},{"index":{"status":400,"error":{"type":"mapping"}}}]}"#;
    let whole = r#"{"errors":false,"items":[]}"#;
    let (address, requests) = receiver(vec![Says(200, full), Says(200, partly), Says(200, whole)]);
    let daemon = start(dir.path(), &format!("type = \"elasticsearch\"\nurl = \"http://{address}\""));
    daemon.send_udp(&[b"a:7|c|#k:v\n_e{1,1}:t|x"]);
    let status = daemon.status_when("partly delivered", |status| sink(status)["dropped"]["refused"] == 1);
    assert_eq!(sink(&status)["delivered"], 1);
    let (first, second) = (requests.recv().expect("a request"), requests.recv().expect("a request"));
    assert_eq!((first.first.as_str(), first.text()), ("POST /_bulk HTTP/1.1", second.text()));
    assert!(first.headers.contains("content-type: application/x-ndjson"), "{}", first.headers);
    let text = first.text();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(text.ends_with('\n') && lines.len() == 4, "{text}");
    let (to, document) = (&lines[0]["index"], &lines[1]);
    assert!(to["_index"].as_str().is_some_and(|name| name.starts_with("systole-20") && name.len() == 18), "{to}");
    assert!(to["_id"].as_str().is_some_and(|id| id.contains("-counter-")), "{to}");
    assert_eq!(
        (&document["name"], &document["value"], &document["tags"]["k"]),
        (&"a".into(), &7.0.into(), &"v".into())
    );
    assert!(document["@timestamp"].as_str().is_some_and(|time| time.ends_with('Z')), "{document}");
    assert_eq!(lines[3]["title"], "t");
    daemon.stop();
}

#[test]
fn a_login_in_a_url_is_used_and_its_query_stays_behind_the_path() {
    let kinds = [
        ("otlp", "", "/base/v1/metrics?x=y"),
        ("remote_write", "", "/base?x=y"),
        (
            "clickhouse",
            "create = false",
            "/base/?database=default&query=insert%20into%20systole%20format%20jsoneachrow&x=y",
        ),
        ("elasticsearch", "", "/base/_bulk?x=y"),
        ("datadog", "api_key = \"k\"", "/base/api/v2/series?x=y"),
        ("influx", "database = \"d\"", "/base/write?db=d&precision=ms&x=y"),
    ];
    for (kind, options, expected) in kinds {
        let dir = tempfile::tempdir().expect("a folder");
        let (address, requests) = receiver(vec![Says(200, r#"{"items":[]}"#)]);
        let url = format!("http://me:s%40cret%3A@{address}/base?x=y");
        let daemon = start(dir.path(), &format!("type = \"{kind}\"\nurl = \"{url}\"\n{options}"));
        daemon.send_udp(&[b"a:7|c"]);
        let request = requests.recv_timeout(Duration::from_secs(20)).expect("a request");
        let path = request.first.split(' ').nth(1).expect("a path").to_lowercase();
        assert_eq!(path, expected, "{kind}");
        // Headers come in lower case: `me:s@cret:`.
        assert!(request.headers.contains("authorization: basic bwu6c0bjcmv0og=="), "{kind}: {}", request.headers);
        assert!(!request.headers.contains("host: me"), "{kind}: {}", request.headers);
        let log = daemon.stop().join("\n");
        assert!(!log.contains("cret"), "{log}");
    }
}

#[test]
fn a_login_that_would_not_be_used_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("c.toml");
    let cases = [
        (
            "otlp",
            "url = \"http://me:s3cret@h\"\nusername = \"you\"",
            "sink[0].url: it has a login, and another stands beside it",
        ),
        ("otlp", "url = \"http://me:s3cret@h\"\nheaders = { AUTHORIZATION = \"x\" }", "another stands beside it"),
        ("influx", "url = \"http://me:s3cret@h\"\ndatabase = \"d\"\ntoken = \"t\"", "another stands beside it"),
        ("otlp", "url = \"http://me:100%s3cret@h\"", "has a login that cannot be read: a `%` is written `%25`"),
        ("otlp", "url = \"http://me:s3/cret@h\"", "is no URL: its port is no number"),
        ("otlp", "url = \"http://me:s3cret@\"", "has no host"),
        ("otlp", "url = \"http://h/x#part\"", "has a part behind `#`"),
        ("graphite", "address = \"me:s3cret@h:2003\"", "`***@h:2003` has a login, which is not used"),
        ("statsd", "address = \"me:s3cret@h:8125\"", "has a login, which is not used"),
        ("graphite", "address = \"h/x?y:2003\"", "has more than a host and a port"),
    ];
    for (kind, options, expected) in cases {
        std::fs::write(&file, format!("[[sink]]\ntype = \"{kind}\"\n{options}\n")).expect("written");
        let output = systole(&["check", "-c", file.to_str().expect("plain")], b"");
        let said = text(&output.stderr);
        assert!(said.contains(expected) && output.status.code() == Some(2), "{options}: {said}");
        assert!(!said.contains("cret"), "{said}");
    }
}

#[test]
fn a_url_on_the_command_line_holds_any_option() {
    let run = |url: &str| {
        let args = ["run", "--listen", "udp://127.0.0.1:0", "--http", "off", "--sink", url];
        let mut child = command(&args).stdin(Stdio::null()).spawn().expect("it starts");
        if exit_within(&mut child, Duration::from_secs(20)).is_none() {
            child.kill().expect("it runs");
            panic!("it takes {url}");
        }
        text(&child.wait_with_output().expect("it has ended").stderr)
    };
    for (url, expected) in [
        (
            "statsd://127.0.0.1:1?dialekt=etsy",
            "`statsd://127.0.0.1:1`: dialekt: unknown option (did you mean `dialect`?)",
        ),
        ("statsd://127.0.0.1:1?dialect=etsi", "dialect: `etsi` is none of `dogstatsd`, `etsy` (did you mean `etsy`?)"),
        ("statsd://127.0.0.1:1?queue=0&timeout=never", "queue: `0` is not a whole number from 1 to 10000"),
        ("statsd://127.0.0.1:1?queue=0&timeout=never", "timeout: `never` is not a duration"),
        ("statsd://127.0.0.1:1?address.x=1", "address.x: unknown option"),
        ("graphite://me:s3cret@127.0.0.1:1?naming=etsy", "has a login, which is not used"),
        ("otlp://127.0.0.1:1?temporalty=delta", "temporalty: unknown option (did you mean `temporality`?)"),
        ("file:///tmp/x?max_size=1%", "max_size: a `%` is written `%25`"),
    ] {
        let said = run(url);
        assert!(said.contains(expected) && !said.contains("cret"), "{url}: {said}");
    }
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let (address, requests) = receiver(vec![Says(200, "")]);
    let dir = tempfile::tempdir().expect("a folder");
    let config = "interval = \"200ms\"\nself_metrics = false\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\n\
                  [http]\naddress = \"127.0.0.1:0\"\n[presence]\nenabled = false\n";
    let statsd = format!(
        "statsd://{}?dialect=etsy&name=other&prefix=eu.&tags.dc=e%20u&include=a.*,b.*&queue=2",
        socket.local_addr().expect("bound")
    );
    let otlp = format!("otlp://{address}/x?a=b&temporality=cumulative&headers.x-one=1");
    let daemon = Daemon::start_with(dir.path(), config, &["--sink", &statsd, "--sink", &otlp]);
    daemon.send_udp(&[b"a.n:-7|g\nc.n:1|c"]);
    let mut buffer = [0; 2000];
    socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    let count = socket.recv(&mut buffer).expect("a datagram");
    assert_eq!(&buffer[..count], b"eu.a.n;dc=e u:0|g\neu.a.n;dc=e u:-7|g");
    let request = requests.recv_timeout(Duration::from_secs(20)).expect("a request");
    assert!(request.first.starts_with("POST /x/v1/metrics?a=b HTTP"), "{}", request.first);
    assert!(request.headers.contains("x-one: 1"), "{}", request.headers);
    let names: Vec<String> = daemon.status()["sinks"].as_object().expect("a table").keys().cloned().collect();
    assert_eq!(names, ["other", "otlp"]);
    daemon.stop();
}

#[test]
fn a_collector_that_takes_no_compression_gets_everything_plain() {
    for (options, replies, packed) in [
        ("", vec![Says(200, "")], [false, false, false]),
        ("gzip = true", vec![Says(200, "")], [true, true, true]),
        ("gzip = true", vec![Says(415, "no gzip"), Says(200, "")], [true, false, false]),
        ("gzip = true", vec![Says(400, "no protobuf"), Says(200, "")], [true, false, false]),
        // What is refused either way is refused.
        ("gzip = true", vec![Says(400, "bad"), Says(400, "bad"), Says(200, "")], [true, false, true]),
    ] {
        let is_refused = replies.len() == 3;
        let dir = tempfile::tempdir().expect("a folder");
        let (address, requests) = receiver(replies);
        let daemon = start(dir.path(), &format!("type = \"otlp\"\nurl = \"http://{address}\"\n{options}"));
        for (n, packed) in packed.into_iter().enumerate() {
            // A gauge comes again by itself.
            if n == 0 {
                daemon.send_udp(&[b"a:7|g"]);
            }
            let request = requests.recv_timeout(Duration::from_secs(20)).expect("a request");
            assert_eq!(
                request.headers.contains("content-encoding: gzip"),
                packed,
                "{options} {n}: {}",
                request.headers
            );
            assert!(request.body.starts_with(&[0x0a]) && request.text().contains("systole"), "{options} {n}");
        }
        let refused = u64::from(is_refused);
        let status = daemon.status_when("told", |status| sink(status)["delivered"].as_u64() > Some(0));
        assert_eq!(sink(&status)["dropped"]["refused"].as_u64().unwrap_or(0), refused, "{status}");
        let log = daemon.stop();
        let told = log.iter().filter(|line| line.contains("it gets everything plain")).count();
        assert_eq!(told, usize::from(packed == [true, false, false]), "{log:?}");
    }
}

#[test]
fn a_count_with_its_own_time_is_no_total_among_those_that_go_on() {
    const DELTA: i32 = 1;
    for (options, others) in [("", DELTA), ("temporality = \"cumulative\"", 2)] {
        let dir = tempfile::tempdir().expect("a folder");
        let (address, requests) = receiver(vec![Says(200, "")]);
        let daemon = start(dir.path(), &format!("type = \"otlp\"\nurl = \"http://{address}\"\n{options}"));
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
        daemon.send_udp(&[format!("hits:100|c\nhits:1|c|T{}", now - 60).as_bytes()]);
        let request = requests.recv_timeout(Duration::from_secs(20)).expect("a request");
        let export = Export::decode(&request.body[..]).expect("the message");
        let sums = export.metrics().filter(|metric| metric.name == "hits").filter_map(|metric| metric.sum);
        let mut points: Vec<(f64, i32)> =
            sums.flat_map(|sum| sum.points.into_iter().map(move |point| (point.value, sum.temporality))).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        assert_eq!(points, [(1.0, DELTA), (100.0, others)], "{options}");
        daemon.stop();
    }
}
