//! The ports for HTTP, scrapes and management under slow and hostile clients. `tests/long` runs the floods at full length.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::slow::{Slow, SlowClients};
use crate::support::{self, Daemon, alone, get, least_of_three, pause_ms, poll, size, until};

/// What a probe may take, in ms, beyond what a mere pause is late by: a daemon built to debug is several times as slow, and its
/// slowest answers are those to a probe that gives up after a second.
pub const PROBE_MS: f64 = if cfg!(debug_assertions) { 1000.0 } else { 250.0 };

/// A daemon with all three ports, and where they are.
struct Ports {
    daemon: Daemon,
    http: SocketAddr,
    scrape: SocketAddr,
    management: SocketAddr,
}

/// `http`, `scrape` and `management` are settings of these ports.
fn start(dir: &Path, http: &str, scrape: &str, management: &str) -> Ports {
    let config = format!(
        "interval = \"200ms\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\nworkers = 1\n\
         [[sink]]\ntype = \"file\"\npath = \"{}\"\nmax_size = \"64KiB\"\nkeep = 3\n\
         [[sink]]\ntype = \"prometheus\"\naddress = \"127.0.0.1:0\"\n{scrape}\n\
         [http]\naddress = \"127.0.0.1:0\"\n{http}\n[management]\naddress = \"127.0.0.1:0\"\n{management}\n",
        dir.join("records.jsonl").display()
    );
    let daemon = Daemon::start(dir, &config);
    let status = daemon.status();
    let http = daemon.http.expect("HTTP is on");
    let of = |scheme: &str| {
        let urls = status["ports"].as_object().expect("ports").keys();
        let mut addresses = urls.filter_map(|url| url.strip_prefix(scheme)?.strip_prefix("://")?.parse().ok());
        addresses.find(|address| *address != http).expect("it is on")
    };
    let (scrape, management) = (of("http"), of("tcp"));
    Ports { daemon, http, scrape, management }
}

impl Ports {
    fn account(&self, url: &str) -> Value {
        self.daemon.status()["ports"][url].clone()
    }

    fn http_account(&self) -> Value {
        self.account(&format!("http://{}", self.http))
    }
}

/// Asks `/ready` again and again; the 99th percentile of what that takes, in ms, less that of what the pauses between are late by.
pub fn probe(http: SocketAddr, seconds: u64) -> f64 {
    let ends = Instant::now() + Duration::from_secs(seconds);
    const PAUSE_MS: u64 = 10;
    let (mut took, mut late, mut failure) = (Vec::new(), Vec::new(), None);
    while Instant::now() < ends {
        let began = Instant::now();
        let mut stream = TcpStream::connect(http).expect("connected");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        let mut answer = String::new();
        let asked = stream.write_all(b"GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let read = asked.and_then(|()| stream.read_to_string(&mut answer));
        let is_ready = read.is_ok() && answer.contains("ready\n");
        // One that is refused has waited for ever.
        took.push(if is_ready { began.elapsed().as_secs_f64() * 1000.0 } else { f64::INFINITY });
        if !is_ready {
            failure.get_or_insert((read, answer));
        }
        let began = Instant::now();
        pause_ms(PAUSE_MS);
        late.push(began.elapsed().as_secs_f64() * 1000.0 - PAUSE_MS as f64);
    }
    if let Some(failure) = failure {
        eprintln!("a probe was not answered: {failure:?}");
    }
    let p99 = |mut of: Vec<f64>| {
        of.sort_by(f64::total_cmp);
        of[(of.len() * 99 / 100).min(of.len() - 1)]
    };
    p99(took) - p99(late)
}

/// Floods each port in turn with slow clients from so many addresses, while UDP goes on.
fn flood(addresses: usize) {
    let _alone = alone();
    let seconds = size("SYSTOLE_TEST_SLOW_SECS", 2);
    let rate = size("SYSTOLE_TEST_SLOW_RATE", 2_000);
    let dir = tempfile::tempdir().expect("a folder");
    let ports = start(dir.path(), "", "", "");
    // Too slow for any request, and never a whole one. Management takes a pause as the end of a command.
    let every = Duration::from_millis(if seconds > 10 { 5000 } else { 500 });
    let targets = [
        (ports.http, Slow { clients: 2000, addresses, every, text: "GET /api/v1/status HTTP/1.1\r\nA: b\r\n" }),
        (ports.scrape, Slow { clients: 2000, addresses, every, text: "GET /metrics HTTP/1.1\r\nA: b\r\n" }),
        (ports.management, Slow { clients: 2000, addresses, every, text: "counters" }),
    ];
    let mut sent = 0;
    for (port, slow) in targets {
        let clients = SlowClients::start(port, slow);
        until("the clients are there", || clients.connected() >= 2000 || clients.open() > 1000);
        let udp = ports.daemon.udp.expect("a UDP listener");
        let sender = std::thread::spawn(move || {
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
            let (began, mut lines) = (Instant::now(), 0_u64);
            while began.elapsed() < Duration::from_secs(seconds) {
                while (lines as f64) < began.elapsed().as_secs_f64() * rate as f64 {
                    let line = format!("flood.requests.endpoint_{}:1|c", lines % 100);
                    socket.send_to(line.as_bytes(), udp).expect("sent");
                    lines += 1;
                }
                pause_ms(1);
            }
            lines
        });
        let p99 = least_of_three(PROBE_MS, || probe(ports.http, seconds));
        eprintln!("{port} from {addresses} addresses: /ready p99 {p99:.1} ms, {} connections", clients.connected());
        assert!(p99 <= PROBE_MS, "{port} from {addresses} addresses: /ready took {p99} ms");
        // The port itself serves others, too.
        if port == ports.scrape {
            let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
            poll("an answer", || command(port, request).map(|said| assert!(said.starts_with("HTTP/1.1 200"))));
        } else if port == ports.management {
            // A connection lives for some milliseconds in such a flood; on a busy machine that may be too short.
            poll("an answer", || command(port, "health\n").map(|said| assert!(said.starts_with("health: up"))));
        }
        sent += sender.join().expect("it ends");
        drop(clients);
        let status =
            ports.daemon.status_when("everything sent", |status| status["lines"]["read"].as_u64() >= Some(sent));
        let listener = &status["listeners"][0];
        assert_eq!((listener["kernel_drops"].as_u64(), status["lines"]["read"].as_u64()), (Some(0), Some(sent)));
    }
    for url in ports.daemon.status()["ports"].as_object().expect("ports").keys() {
        let account = ports.account(url);
        let reason = if addresses == 1 { "per_address" } else { "full" };
        assert!(account["refused"][reason].as_u64() > Some(1000), "{url}: {account}");
    }
    let rotated = std::fs::read_dir(dir.path()).expect("a folder").filter_map(Result::ok);
    let files = rotated.filter(|file| file.file_name().to_string_lossy().starts_with("records")).count();
    assert!(files > 1, "the file was rotated");
    ports.daemon.stop();
}

/// A command of management and the beginning of its answer.
fn command(port: SocketAddr, line: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(port)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(line.as_bytes())?;
    let mut answer = [0; 256];
    match stream.read(&mut answer)? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        count => Ok(support::text(&answer[..count])),
    }
}

#[test]
fn probes_get_in_beside_two_thousand_slow_connections_from_one_address() {
    flood(1);
}

#[test]
fn probes_get_in_beside_two_thousand_slow_connections_from_two_hundred_addresses() {
    flood(200);
}

/// A connection over which a request went.
fn kept_alive(http: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(http).expect("connected");
    ask(&mut stream);
    stream
}

/// Asks `/health` over a connection and reads the answer.
fn ask(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sent");
    let mut answer = Vec::new();
    while !answer.ends_with(b"up\n") {
        let mut chunk = [0; 1024];
        let count = stream.read(&mut chunk).expect("an answer");
        assert!(count > 0, "closed");
        answer.extend_from_slice(&chunk[..count]);
    }
}

/// Waits until the other end has closed.
fn is_closed(stream: &mut TcpStream, what: &str) {
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    let mut chunk = [0; 1024];
    match stream.read(&mut chunk) {
        Ok(0) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        other => panic!("{what}: {other:?}"),
    }
}

#[test]
fn the_connection_that_is_longest_without_a_request_gives_way_and_streams_stay() {
    let dir = tempfile::tempdir().expect("a folder");
    let ports = start(dir.path(), "max_connections = 4\nmax_connections_per_address = 4", "", "");
    // A stream of events makes no request any more, and is served.
    let mut stream = TcpStream::connect(ports.http).expect("connected");
    let request = "GET /api/v1/presence/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("sent");
    let mut head = [0; 12];
    stream.read_exact(&mut head).expect("an answer");
    assert_eq!(&head, b"HTTP/1.1 200");
    let mut idle = kept_alive(ports.http);
    let mut silent = TcpStream::connect(ports.http).expect("connected");
    let mut dripping = TcpStream::connect(ports.http).expect("connected");
    dripping.write_all(b"GET / HT").expect("sent");
    // A connection is young for half a second, and gives way after others.
    pause_ms(600);
    assert_eq!(ports.daemon.get("/health").0, 200);
    is_closed(&mut silent, "silent");
    let mut second = TcpStream::connect(ports.http).expect("connected");
    let mut third = TcpStream::connect(ports.http).expect("connected");
    third.write_all(b"GET /health HTTP/1.1\r\n").expect("sent");
    is_closed(&mut dripping, "dripping");
    // Now one that has completed requests gives way, for both others are young.
    let mut fourth = TcpStream::connect(ports.http).expect("connected");
    fourth.write_all(b"G").expect("sent");
    is_closed(&mut idle, "idle");
    third.write_all(b"Host: localhost\r\n\r\n").expect("the third is still there");
    let mut answer = [0; 12];
    third.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 200");
    // The stream has outlived them all.
    stream.set_nonblocking(true).expect("set");
    let mut rest = [0; 4096];
    let is_open = loop {
        match stream.read(&mut rest) {
            Ok(0) => break false,
            Ok(_) => {}
            Err(error) => break error.kind() == std::io::ErrorKind::WouldBlock,
        }
    };
    assert!(is_open, "the stream of events was closed");
    let _ = second.write_all(b"G");
    let account = ports.http_account();
    assert!(account["refused"]["per_address"].as_u64() >= Some(3), "{account}");
    ports.daemon.stop();
}

#[test]
fn clients_that_do_not_read_their_answers_give_way() {
    let dir = tempfile::tempdir().expect("a folder");
    let ports = start(dir.path(), "max_connections = 8\nmax_connections_per_address = 8", "", "");
    // More than the buffers of two kernels hold.
    let series = 40_000;
    let lines: Vec<String> = (0..series).map(|n| format!("{}.{n}:1|g", "part".repeat(60))).collect();
    for datagram in lines.chunks(200) {
        ports.daemon.send_udp(&[datagram.join("\n").as_bytes()]);
        pause_ms(1);
    }
    ports.daemon.flushed_when("all series", |status| status["series"]["gauges"].as_u64() >= Some(series));
    let mut unread = Vec::new();
    for _ in 0..30 {
        let mut stream = TcpStream::connect(ports.http).expect("connected");
        stream.write_all(b"GET /api/v1/snapshot HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sent");
        unread.push(stream);
        pause_ms(50);
    }
    // They are answered at once, or as soon as others stall.
    until("nobody waits", || probe(ports.http, 1) <= PROBE_MS);
    let account = ports.http_account();
    assert!(account["refused"]["per_address"].as_u64() >= Some(22), "{account}");
    ports.daemon.stop();
}

#[test]
fn a_request_that_drips_has_a_total_time() {
    let dir = tempfile::tempdir().expect("a folder");
    let ports = start(dir.path(), "", "", "");
    let mut silent = TcpStream::connect(ports.http).expect("connected");
    let mut dripping = TcpStream::connect(ports.http).expect("connected");
    let mut scrape = TcpStream::connect(ports.scrape).expect("connected");
    let mut management = TcpStream::connect(ports.management).expect("connected");
    // Faster than the pause that ends a command; where a busy machine pauses, the next one begins.
    let commands = std::thread::spawn(move || {
        while management.write_all(b"x").is_ok() {
            pause_ms(5);
        }
    });
    let began = Instant::now();
    dripping.write_all(b"GET / HTTP/1.1\r\nA: ").expect("sent");
    scrape.write_all(b"GET / HTTP/1.1\r\nA: ").expect("sent");
    let mut ends = [None; 3];
    while ends.iter().any(Option::is_none) && began.elapsed() < Duration::from_secs(25) {
        for (stream, end) in [(&mut dripping, 0), (&mut scrape, 1)] {
            if ends[end].is_none() && stream.write_all(b"a").is_err() {
                ends[end] = Some(began.elapsed());
            }
        }
        silent.set_read_timeout(Some(Duration::from_millis(1))).expect("set");
        let is_over = match silent.read(&mut [0; 16]) {
            Ok(_) => true,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        };
        if is_over {
            ends[2].get_or_insert(began.elapsed());
        }
        pause_ms(20);
    }
    for (n, end) in ends.iter().enumerate() {
        let end = end.unwrap_or_else(|| panic!("{n} is still open"));
        assert!((Duration::from_secs(9)..Duration::from_secs(20)).contains(&end), "{n} ended after {end:?}");
    }
    until("the command is cut", || commands.is_finished());
    assert_eq!(ports.http_account()["refused"]["timeout"], 2);
    assert_eq!(ports.account(&format!("tcp://{}", ports.management))["refused"]["timeout"], 1);
    ports.daemon.stop();
}

#[test]
fn a_scrape_needs_the_token_and_an_open_port_without_one_is_warned_of() {
    let dir = tempfile::tempdir().expect("a folder");
    let ports = start(dir.path(), "", "token = \"s3cret\"", "");
    let bearer = |token: &str| format!("Authorization: Bearer {token}\r\n");
    for (path, headers, expected) in [
        ("/metrics", String::new(), 401),
        ("/metrics", bearer("s3cre"), 401),
        ("/metrics", bearer("s3cret"), 200),
        ("/", String::new(), 401),
        ("/", bearer("s3cret"), 200),
    ] {
        let (code, body) = get(ports.scrape, path, &headers);
        assert_eq!(code, expected, "{path} {headers}: {body}");
        assert!(code == 200 || body.contains("\"code\":\"unauthorized\""), "{body}");
    }
    ports.daemon.stop();
    let check = |options: &str| {
        let file = dir.path().join("check.toml");
        std::fs::write(&file, format!("[[sink]]\ntype = \"prometheus\"\n{options}\n")).expect("written");
        let output = support::systole(&["check", "-c", file.to_str().expect("plain")], b"");
        (output.status.code(), support::text(&output.stderr))
    };
    let (code, said) = check("address = \"0.0.0.0:9125\"");
    assert!(code == Some(0) && said.contains("0.0.0.0:9125 is not on loopback"), "{said}");
    assert_eq!(check("address = \"127.0.0.1:9125\""), (Some(0), String::new()));
    // With a token, what is left to say is that it can be read on the way.
    let (code, said) = check("address = \"0.0.0.0:9125\"\ntoken = \"x\"");
    assert!(code == Some(0) && said.lines().count() == 1 && said.contains("has no TLS"), "{said}");
}
