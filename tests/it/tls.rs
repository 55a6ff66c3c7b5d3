//! TLS on our ports.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;

use crate::support::certs::{self, Authority, put};
use crate::support::{Daemon, exit_within, pause_ms, poll, systole, text, until};

/// A daemon with TLS on every port that is not for lines, and where they are.
struct Secured {
    daemon: Daemon,
    /// HTTP, the scrape, management.
    ports: [SocketAddr; 3],
    client: Arc<ClientConfig>,
}

/// What is asked on each port, and how the answer begins.
const ASKED: [(&str, &str); 3] = [
    ("GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", "HTTP/1.1 200"),
    ("GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", "HTTP/1.1 200"),
    ("health\nquit\n", "health: up\n"),
];

/// `tls` is the setting of each port; `client` is let in everywhere.
fn start(dir: &Path, tls: &str, client: Arc<ClientConfig>) -> Secured {
    let config = format!(
        "interval = \"200ms\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\nworkers = 1\n\
         [[sink]]\ntype = \"prometheus\"\naddress = \"127.0.0.1:0\"\n{tls}\n\
         [http]\naddress = \"127.0.0.1:0\"\n{tls}\n[management]\naddress = \"127.0.0.1:0\"\n{tls}\n"
    );
    let daemon = Daemon::start(dir, &config);
    let page = daemon.lines.iter().find_map(|line| line.trim().strip_prefix("page")?.trim().strip_prefix("https://"));
    let page = page.and_then(|rest| rest.split("  ").next()).expect("a page with TLS");
    let http: SocketAddr = page.parse().expect("an address");
    let mut secured = Secured { daemon, ports: [http; 3], client };
    let status = secured.status();
    let urls: Vec<&String> = status["ports"].as_object().expect("ports").keys().collect();
    let find = |scheme: &str| -> SocketAddr {
        let mut all = urls.iter().filter_map(|url| url.strip_prefix(scheme)?.strip_prefix("://")?.parse().ok());
        all.find(|address| *address != http).expect("it is on")
    };
    secured.ports = [http, find("https"), find("tcp")];
    secured
}

impl Secured {
    fn status(&self) -> Value {
        let answer = ask(
            self.ports[0],
            &self.client,
            "GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        );
        let answer = answer.expect("an answer");
        serde_json::from_str(answer.split("\r\n\r\n").nth(1).expect("a body")).expect("JSON")
    }

    /// The account of a port.
    fn account(&self, port: usize) -> Value {
        let scheme = if port == 2 { "tcp" } else { "https" };
        self.status()["ports"][format!("{scheme}://{}", self.ports[port])].clone()
    }

    fn refused(&self, port: usize) -> u64 {
        self.account(port)["refused"]["tls"].as_u64().unwrap_or(0)
    }
}

/// Asks over a connection of its own; the whole answer.
fn ask(to: SocketAddr, client: &Arc<ClientConfig>, request: &str) -> std::io::Result<String> {
    let mut stream = certs::connect(to, client)?;
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        // The end may come without a word of TLS.
        Err(error) if error.kind() != std::io::ErrorKind::UnexpectedEof || answer.is_empty() => Err(error),
        _ => Ok(text(&answer)),
    }
}

#[test]
fn check_reads_the_files_of_tls_and_says_which_is_wrong() {
    let dir = tempfile::tempdir().expect("a folder");
    let authority = Authority::new();
    let setting = authority.setting(dir.path(), Some(&authority));
    let file = put(dir.path(), "c.toml", &format!("[[listen]]\nurl = \"tcp://127.0.0.1:8125\"\n{setting}\n"));
    let check = || systole(&["check", "-c", file.to_str().expect("plain")], b"");
    let output = check();
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), format!("{}: good\n", file.display())));
    let (expired, stranger) = (authority.expired("127.0.0.1"), authority.issue("127.0.0.1"));
    for (name, content, problem) in [
        ("server.pem", expired.cert.as_str(), "the certificate has expired on 2002-02-03T00:00:00Z"),
        ("server.pem", &authority.issue("127.0.0.1").cert, "this is not the key of the first certificate"),
        ("server.key", &stranger.cert, "there is no private key in it"),
        ("clients.pem", &stranger.key, "there is no certificate in it"),
    ] {
        authority.setting(dir.path(), Some(&authority));
        let wrong = put(dir.path(), name, content);
        let output = check();
        let said = text(&output.stderr);
        let key = match name {
            _ if problem.starts_with("this is not") => "key",
            "server.pem" => "cert",
            "server.key" => "key",
            _ => "client_ca",
        };
        let begins = format!("{}:3:", file.display());
        let names_it = said.starts_with(&begins) && said.contains(&format!(": listen[0].tls.{key}: "));
        let names_file = said.contains(&wrong.display().to_string());
        assert!(output.status.code() == Some(2) && names_it && names_file && said.contains(problem), "{said}");
    }
    // With all other mistakes, and where there is no table in the file.
    put(dir.path(), "c.toml", &format!("intervall = \"1s\"\n[http]\n{setting}\n"));
    let said = text(&check().stderr);
    assert!(
        said.contains("intervall: unknown key") && said.contains(":3:") && said.contains(": http.tls.client_ca: "),
        "{said}"
    );
    put(dir.path(), "c.toml", "[http]\ntls = { certificate = \"a\", key = \"b\", ca = \"c\" }\n");
    let said = text(&check().stderr);
    assert!(said.contains("did you mean `cert`?") && said.contains("did you mean `client_ca`?"), "{said}");
    assert!(said.lines().any(|line| line.contains("c.toml:2:") && line.contains("http.tls.cert: missing")), "{said}");
    put(dir.path(), "c.toml", "[[listen]]\nurl = \"tls://127.0.0.1:8125\"\n");
    assert!(text(&check().stderr).contains("`url = \"tcp://127.0.0.1:8125\"` and `tls = {"));
    put(dir.path(), "c.toml", "[[sink]]\ntype = \"prometheus\"\naddress = \"127.0.0.1:8127\"\n");
    assert!(text(&check().stderr).contains("sink[0].address: `127.0.0.1:8127` is taken by the page"));
    put(dir.path(), "c.toml", "[http]\naddress = \"0.0.0.0:8127\"\ntoken = \"secret\"\n");
    assert!(text(&check().stderr).contains("warning: http: 0.0.0.0:8127 is not on loopback and has no TLS"));
    put(dir.path(), "c.toml", &format!("[[listen]]\nurl = \"udp://127.0.0.1:8125\"\n{setting}\n"));
    assert!(text(&check().stderr).contains("`tls` is for tcp:// alone"));
}

#[test]
fn every_port_lets_in_whom_its_authority_has_signed_and_counts_all_others() {
    let dir = tempfile::tempdir().expect("a folder");
    let (authority, other) = (Authority::new(), Authority::new());
    let own = authority.issue("client");
    let secured = start(dir.path(), &authority.setting(dir.path(), Some(&authority)), authority.client(Some(&own)));
    for (n, (request, begins)) in ASKED.iter().enumerate() {
        let port = secured.ports[n];
        let answer = ask(port, &secured.client, request).expect("let in");
        assert!(answer.starts_with(begins), "{answer}");
        let strangers = [
            ("no certificate", authority.client(None)),
            ("of another authority", authority.client(Some(&other.issue("client")))),
            ("expired", authority.client(Some(&authority.expired("client")))),
            // It refuses us, and says so.
            ("who trusts another authority", other.client(Some(&own))),
        ];
        for (what, client) in strangers {
            let before = secured.refused(n);
            assert!(ask(port, &client, request).is_err(), "{what} was let in");
            until(what, || secured.refused(n) == before + 1);
        }
        // Without TLS there is no answer in it.
        let before = secured.refused(n);
        let mut plain = TcpStream::connect(port).expect("connected");
        plain.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        plain.write_all(request.as_bytes()).expect("sent");
        let mut answer = Vec::new();
        let _ = plain.read_to_end(&mut answer);
        assert!(!text(&answer).contains("HTTP") && !text(&answer).contains("health"), "{}", text(&answer));
        until("no TLS at all", || secured.refused(n) == before + 1);
        // One that only looks whether the port is there is not refused.
        drop(TcpStream::connect(port).expect("connected"));
        assert!(ask(port, &secured.client, request).expect("let in").starts_with(begins));
        assert_eq!(secured.refused(n), before + 1);
        let account = secured.account(n);
        assert!(account["tls_expires"].as_f64() > Some(1.8e9), "{account}");
    }
    secured.daemon.stop();
}

#[test]
fn certificates_are_replaced_under_load_without_a_refused_client() {
    let dir = tempfile::tempdir().expect("a folder");
    let authority = Authority::new();
    let own = authority.issue("client");
    let secured = start(dir.path(), &authority.setting(dir.path(), Some(&authority)), authority.client(Some(&own)));
    let (stop, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for (n, (request, begins)) in ASKED.iter().enumerate() {
            let (port, client, stop, asked) = (secured.ports[n], &secured.client, &stop, &asked);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let answer = ask(port, client, request).expect("nobody is refused");
                    assert!(answer.starts_with(begins), "{answer}");
                    asked.fetch_add(1, Ordering::Relaxed);
                    pause_ms(2);
                }
            });
        }
        // What panics here must end the others, too.
        let _stop = OnDrop(&stop);
        for round in 1..=3 {
            // The key comes later than the certificate that it is for.
            let next = authority.issue("127.0.0.1");
            put(dir.path(), "server.pem", &next.cert);
            pause_ms(300);
            put(dir.path(), "server.key", &next.key);
            let wanted = CertificateDer::from_pem_slice(next.cert.as_bytes()).expect("a certificate");
            for port in secured.ports {
                until("the new certificate is shown", || {
                    let stream = certs::connect(port, &secured.client).expect("nobody is refused");
                    stream.conn.peer_certificates().and_then(|all| all.first()) == Some(&wanted)
                });
            }
            // What is no certificate is not used, and counted once.
            put(dir.path(), "server.pem", "half of a certif");
            for n in 0..3 {
                until("the bad file is counted", || secured.account(n)["tls_reloads_failed"] == round);
            }
            put(dir.path(), "server.pem", &next.cert);
        }
    });
    assert!(asked.load(Ordering::Relaxed) > 100, "{asked:?}");
    for n in 0..3 {
        let account = secured.account(n);
        assert!(account["tls_reloads"].as_u64() >= Some(3) && account["refused"] == serde_json::json!({}), "{account}");
    }
    secured.daemon.stop();
}

/// Sets a flag when it is dropped.
pub struct OnDrop<'a>(pub &'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn other_roots_of_client_certificates_hold_for_the_next_connection() {
    let dir = tempfile::tempdir().expect("a folder");
    let (authority, next) = (Authority::new(), Authority::new());
    let (own, theirs) = (authority.issue("client"), next.issue("client"));
    let secured = start(dir.path(), &authority.setting(dir.path(), Some(&authority)), authority.client(Some(&own)));
    let later = authority.client(Some(&theirs));
    let (request, begins) = ASKED[2];
    assert!(ask(secured.ports[2], &later, request).is_err());
    put(dir.path(), "clients.pem", &next.root());
    let answer = poll("the new ones are let in", || ask(secured.ports[2], &later, request));
    assert!(answer.starts_with(begins));
    // A session of before is not resumed either.
    assert!(ask(secured.ports[2], &secured.client, request).is_err());
    secured.daemon.stop();
}

#[test]
fn clients_of_others_are_served() {
    let dir = tempfile::tempdir().expect("a folder");
    let authority = Authority::new();
    let own = authority.issue("client");
    let secured = start(dir.path(), &authority.setting(dir.path(), Some(&authority)), authority.client(Some(&own)));
    let root = put(dir.path(), "root.pem", &authority.root());
    let (cert, key) = (put(dir.path(), "own.pem", &own.cert), put(dir.path(), "own.key", &own.key));
    // Our own commands too.
    let url = format!("https://{}", secured.ports[0]);
    let of = |path: &Path| path.to_str().expect("plain").to_string();
    let ours = ["presence", "list", "--url", &url, "--tls-ca", &of(&root)];
    let shown = [&of(&cert), &of(&key)];
    let output = systole(&[&ours[..], &["--tls-certificate", shown[0], "--tls-key", shown[1]]].concat(), b"");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    for (args, advice) in [
        (&ours[..], "--tls-certificate"),
        (&ours[..4], "--tls-ca"),
        (&["presence", "list", "--url", &url.replace("https", "http")][..], "it speaks TLS: give `--url https://"),
    ] {
        let output = systole(args, b"");
        let said = text(&output.stderr);
        assert!(output.status.code() == Some(1) && said.contains(advice), "{args:?}: {said}");
    }
    let has = |program: &str| Command::new(program).arg("version").output().is_ok();
    if has("curl") {
        let curl = |with: bool| {
            let mut command = Command::new("curl");
            command.args(["--silent", "--show-error", "--max-time", "10", "--cacert"]).arg(&root);
            if with {
                command.arg("--cert").arg(&cert).arg("--key").arg(&key);
            }
            command.arg(format!("https://{}/ready", secured.ports[0])).output().expect("curl runs")
        };
        let output = curl(true);
        assert_eq!(text(&output.stdout), "ready\n", "{}", text(&output.stderr));
        assert!(!curl(false).status.success(), "without a certificate");
    }
    if has("openssl") {
        let mut child = Command::new("openssl")
            .args(["s_client", "-quiet", "-verify_return_error", "-connect", &secured.ports[2].to_string(), "-CAfile"])
            .arg(&root)
            .arg("-cert")
            .arg(&cert)
            .arg("-key")
            .arg(&key)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("openssl runs");
        child.stdin.as_mut().expect("asked for").write_all(b"health\nquit\n").expect("sent");
        assert!(exit_within(&mut child, Duration::from_secs(20)).is_some(), "it ends with the connection");
        let mut said = String::new();
        child.stdout.take().expect("asked for").read_to_string(&mut said).expect("text");
        assert_eq!(said, "health: up\n");
    }
    secured.daemon.stop();
}
