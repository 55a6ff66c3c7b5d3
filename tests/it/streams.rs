//! Streams whose clients are hostile, with TLS and without, and what all connections of the daemon share: descriptors.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;
use socket2::{Domain, Socket, Type};

use crate::ports::{PROBE_MS, probe};
use crate::support::certs::{self, Authority, put};
use crate::support::slow::{Slow, SlowClients};
use crate::support::{
    self, Daemon, alone, least_of_three, pause_ms, poll, recording, records, size, systole, text, until,
};
use crate::tls::OnDrop;

fn config(dir: &Path, listeners: &str) -> String {
    recording(dir, "200ms", listeners)
}

/// Sum of a counter over all intervals.
fn sum(dir: &Path, name: &str) -> u64 {
    support::sum(dir, name) as u64
}

fn refused(status: &Value, listener: usize, reason: &str) -> u64 {
    status["listeners"][listener]["connections_refused"][reason].as_u64().unwrap_or(0)
}

/// A connection from an address of 127.0.0.0/8.
fn from(address: &str, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&format!("{address}:0").parse::<SocketAddr>().expect("an address").into()).expect("bound");
    socket.connect(&to.into()).expect("connected");
    socket.into()
}

/// Whether the other side has closed a connection.
fn is_closed(mut stream: &TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_millis(1))).expect("a timeout");
    match stream.read(&mut [0]) {
        Ok(count) => count == 0,
        Err(error) => !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
    }
}

/// Sends lines over a connection of their own, and waits until the daemon has read them to the end.
fn deliver(to: SocketAddr, lines: &[u8]) -> Duration {
    let began = Instant::now();
    let mut stream = TcpStream::connect(to).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    stream.write_all(lines).expect("sent");
    stream.shutdown(std::net::Shutdown::Write).expect("the end");
    assert_eq!(stream.read(&mut [0]).expect("the daemon closes when it has read everything"), 0);
    began.elapsed()
}

/// Slow connections from so many addresses, for so long: a client that was there stays, others get in at once, datagrams
/// are not lost, and everything is accounted for.
fn nobody_is_kept_out(addresses: usize, seconds: u64) {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("a folder");
    let listeners = format!(
        "[[listen]]\nurl = \"udp://127.0.0.1:0\"\n[[listen]]\nurl = \"tcp://127.0.0.1:0\"\n\
         [[sink]]\ntype = \"file\"\nname = \"rotated\"\npath = \"{}\"\nmax_size = \"4KiB\"\nkeep = 3\n",
        dir.path().join("rotated.jsonl").display()
    );
    let daemon = Daemon::start(dir.path(), &config(dir.path(), &listeners));
    let (tcp, http) = (daemon.tcp.expect("TCP"), daemon.http.expect("HTTP"));
    let mut loyal = TcpStream::connect(tcp).expect("connected");
    loyal.write_all(b"loyal:1|c\n").expect("sent");
    daemon.status_when("it is known", |status| status["lines"]["read"] == 1);

    let every = Duration::from_secs(5.min(seconds));
    let slow = SlowClients::start(tcp, Slow { clients: 2000, addresses, every, text: "slow.and.never.whole" });
    until("all have connected once", || slow.connected() >= 2000);
    // Pages are answered and files begun meanwhile.
    let files = || {
        let all = std::fs::read_dir(dir.path()).expect("a folder").filter_map(Result::ok);
        all.filter(|file| file.file_name().to_string_lossy().starts_with("rotated")).count()
    };
    let probing = std::thread::spawn(move || least_of_three(PROBE_MS, || probe(http, seconds)));
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let to = daemon.udp.expect("UDP");
    let (began, mut rounds, mut slowest) = (Instant::now(), 0_u64, Duration::ZERO);
    while began.elapsed() < Duration::from_secs(seconds) || rounds < 10 || !probing.is_finished() {
        slowest = slowest.max(deliver(tcp, b"good:1|c\ngood:1|c"));
        for _ in 0..100 {
            udp.send_to(b"udp:1|c", to).expect("sent");
        }
        // It says little, but what it says are whole lines.
        if rounds % 5 == 0 {
            loyal.write_all(b"loyal:1|c\n").expect("it is still connected");
        }
        rounds += 1;
        pause_ms(20);
    }
    let p99 = probing.join().expect("every probe was answered");
    assert!(p99 <= PROBE_MS, "/ready took {p99:.1} ms");
    until("the file was rotated", || files() > 1);
    assert!(slow.open() > if addresses == 1 { 200 } else { 500 }, "{} slow connections are no siege", slow.open());
    assert!(!is_closed(&loyal));
    drop(slow);
    drop(loyal);
    let loyal = 1 + rounds.div_ceil(5);
    let status = daemon.flushed_when("all is read", |status| {
        let good = loyal + rounds * 2 + rounds * 100;
        status["lines"]["metrics"] == good
    });
    eprintln!("{rounds} rounds, the slowest took {slowest:?}");
    // Milliseconds where the machine does nothing else; without the limits they would never get in.
    assert!(slowest < Duration::from_secs(10), "the slowest took {slowest:?}");
    let lines = &status["lines"];
    // What was cut off when a slow connection was closed, by the daemon or by its client.
    let cut: u64 = lines["malformed"].as_object().expect("a table").values().filter_map(Value::as_u64).sum();
    assert_eq!(lines["read"].as_u64(), lines["metrics"].as_u64().map(|good| good + cut), "{status}");
    assert_eq!((&status["listeners"][0]["kernel_drops"], &status["completeness"]), (&0.into(), &1.0.into()));
    assert!(refused(&status, 1, "full") + refused(&status, 1, "per_address") >= 2000 - 1024, "{status}");
    daemon.stop();
    assert_eq!((sum(dir.path(), "good"), sum(dir.path(), "loyal")), (rounds * 2, loyal));
    assert_eq!(sum(dir.path(), "udp"), rounds * 100);
}

#[test]
fn two_thousand_slow_connections_of_one_address_keep_nobody_out() {
    nobody_is_kept_out(1, size("SYSTOLE_TEST_SIEGE_SECS", 1));
}

#[test]
fn two_thousand_slow_connections_of_two_hundred_addresses_keep_nobody_out() {
    nobody_is_kept_out(200, size("SYSTOLE_TEST_SIEGE_SECS", 1));
}

#[test]
fn an_address_that_has_its_share_gives_way_to_itself() {
    let dir = tempfile::tempdir().expect("a folder");
    let listeners = "[[listen]]\nurl = \"tcp://127.0.0.1:0\"\nmax_connections = 4\nmax_connections_per_address = 2";
    let daemon = Daemon::start(dir.path(), &config(dir.path(), listeners));
    let tcp = daemon.tcp.expect("TCP");
    let accepted = |count: u64| {
        daemon.status_when("it is accepted", |status| status["listeners"][0]["connections"] == count);
    };
    let other = from("127.0.0.2", tcp);
    accepted(1);
    let mut first = from("127.0.0.1", tcp);
    first.write_all(b"whole:1|c\nhalf").expect("sent");
    accepted(2);
    let second = from("127.0.0.1", tcp);
    accepted(3);
    let third = from("127.0.0.1", tcp);
    accepted(4);
    // The first has sent a line, so the second is of less use.
    until("it gives way", || is_closed(&second));
    assert!(!is_closed(&other) && !is_closed(&first) && !is_closed(&third));
    let status = daemon.status_when("it is counted", |status| status["listeners"][0]["refused"] == 1);
    assert_eq!((refused(&status, 0, "per_address"), refused(&status, 0, "full")), (1, 0));
    // When there is no seat at all, whoever said nothing for longest goes, of whatever address.
    let fourth = from("127.0.0.3", tcp);
    accepted(5);
    let fifth = from("127.0.0.4", tcp);
    accepted(6);
    until("it gives way", || is_closed(&other));
    assert!(!is_closed(&first) && !is_closed(&fourth) && !is_closed(&fifth));
    let status = daemon.status_when("it is counted", |status| status["listeners"][0]["refused"] == 2);
    assert_eq!((refused(&status, 0, "per_address"), refused(&status, 0, "full")), (1, 1));
    let metrics = daemon.get("/metrics").1;
    let sample = metrics.lines().find(|line| line.contains("connections_refused_total{") && line.contains("\"full\""));
    assert!(sample.is_some_and(|line| line.ends_with(" 1")), "{metrics}");
    daemon.stop();
    assert_eq!(sum(dir.path(), "whole"), 1);
}

#[test]
fn blank_lines_keep_no_connection_when_a_client_needs_its_slot() {
    let dir = tempfile::tempdir().expect("a folder");
    let listeners = "[[listen]]\nurl = \"tcp://127.0.0.1:0\"\nmax_connections = 8";
    let daemon = Daemon::start(dir.path(), &config(dir.path(), listeners));
    let tcp = daemon.tcp.expect("TCP");
    let mut blank: Vec<TcpStream> = (0..8).map(|_| TcpStream::connect(tcp).expect("connected")).collect();
    daemon.status_when("all are here", |status| status["listeners"][0]["connections"] == 8);
    // Each is about to say something that is no line, again and again.
    for _ in 0..5 {
        blank.iter_mut().for_each(|stream| stream.write_all(b"\n\nnone\n").unwrap_or_default());
        deliver(tcp, b"good:1|c\n");
    }
    daemon.status_when("one gave way, and all good lines are read", |status| {
        refused(status, 0, "full") >= 1 && status["lines"]["metrics"] == 5
    });
    daemon.stop();
    assert_eq!(sum(dir.path(), "good"), 5);
}

#[test]
fn unfinished_lines_have_a_share_of_the_memory_and_clients_stay() {
    const CLIENTS: usize = 700;
    let dir = tempfile::tempdir().expect("a folder");
    let listeners = "[[listen]]\nurl = \"tcp://127.0.0.1:0\"\nmax_connections_per_address = 1024";
    let daemon = Daemon::start(dir.path(), &format!("max_memory = \"256MiB\"\n{}", config(dir.path(), listeners)));
    let tcp = daemon.tcp.expect("TCP");
    let mut client = TcpStream::connect(tcp).expect("connected");
    client.write_all(b"client:1|c\n").expect("sent");
    let held = |status: &Value| status["memory"]["holders"]["connections"]["bytes"].as_u64().expect("a number");
    let live = |status: &Value| status["memory"]["live"].as_u64().expect("a number");
    let before = daemon.status_when("it is known", |status| status["lines"]["read"] == 1);
    // A good line proves each to be a client, and its rest is not a line.
    let text = [b"good:1|c\n".as_slice(), "x".repeat(60_000).as_bytes()].concat();
    let mut unfinished: Vec<TcpStream> = Vec::new();
    let mut more = |count: usize| {
        for _ in 0..count {
            let mut stream = TcpStream::connect(tcp).expect("connected");
            // One may be cut off in the middle of its rest.
            let _ = stream.write_all(&text);
            unfinished.push(stream);
        }
        daemon.status_when("they are read", |status| status["lines"]["metrics"] == 1 + unfinished.len() as u64)
    };
    let some = more(120);
    let (known, grown) = (held(&some) - held(&before), live(&some).saturating_sub(live(&before)));
    assert!(known > 120 * 60_000, "{known} bytes");
    assert!(known as f64 > grown as f64 * 0.7, "{known} of {grown} bytes");
    assert_eq!(refused(&some, 0, "memory"), 0);
    let all = more(CLIENTS - 120);
    let cap = all["memory"]["holders"]["connections"]["cap"].as_u64().expect("a number");
    daemon.status_when("the share is kept", |status| held(status) <= cap && refused(status, 0, "memory") > 100);
    // What was cut off is malformed, nothing else is lost, and whoever sends whole lines is still there.
    client.write_all(b"client:1|c\n").expect("sent");
    deliver(tcp, b"late:1|c\n");
    drop(unfinished);
    daemon.flushed_when("all is read", |status| {
        let malformed = status["lines"]["malformed"].as_object().expect("a table").values();
        malformed.filter_map(Value::as_u64).sum::<u64>() == CLIENTS as u64 && status["lines"]["metrics"] == 3 + CLIENTS
    });
    assert!(!is_closed(&client));
    drop(client);
    daemon.status_when("all are gone", |status| held(status) <= held(&before));
    daemon.stop();
    assert_eq!((sum(dir.path(), "good"), sum(dir.path(), "late")), (CLIENTS as u64, 1));
}

#[test]
fn bytes_without_a_whole_line_keep_no_connection() {
    let dir = tempfile::tempdir().expect("a folder");
    let unix = dir.path().join("stream");
    let listeners = format!(
        "[[listen]]\nurl = \"tcp://127.0.0.1:0\"\nidle_timeout = \"1s\"\n[[listen]]\nurl = \"unix://{}\"\nidle_timeout = \"1s\"",
        unix.display()
    );
    let daemon = Daemon::start(dir.path(), &config(dir.path(), &listeners));
    let mut useful = TcpStream::connect(daemon.tcp.expect("TCP")).expect("connected");
    let mut dripping = TcpStream::connect(daemon.tcp.expect("TCP")).expect("connected");
    let mut local = UnixStream::connect(&unix).expect("connected");
    local.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    dripping.write_all(b"whole:1|c\n").expect("sent");
    local.write_all(b"whole:1|c\nhalf").expect("sent");
    let (began, mut lines) = (Instant::now(), 0);
    while !is_closed(&dripping) {
        // It fails when the other side has just closed.
        let _ = dripping.write_all(b"x");
        useful.write_all(b"useful:1|c\n").expect("sent");
        lines += 1;
        pause_ms(50);
        assert!(began.elapsed() < Duration::from_secs(20), "it is never closed");
    }
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    assert_eq!(local.read(&mut [0]).expect("closed"), 0);
    assert!(!is_closed(&useful));
    useful.write_all(b"useful:1|c\n").expect("sent");
    let status = daemon.flushed_when("both are counted", |status| {
        refused(status, 0, "timeout") == 1
            && refused(status, 1, "timeout") == 1
            && status["lines"]["metrics"] == lines + 3
    });
    // The rests of two lines; nobody was refused anything.
    assert_eq!(
        (&status["lines"]["malformed"]["bad_frame"], &status["listeners"][0]["refused"]),
        (&2.into(), &0.into())
    );
    daemon.stop();
    assert_eq!((sum(dir.path(), "whole"), sum(dir.path(), "useful")), (2, lines + 1));
}

#[test]
fn connections_leave_descriptors_for_files_and_pages() {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("a folder");
    let config = config(dir.path(), "[[listen]]\nurl = \"tcp://127.0.0.1:0\"\n[[listen]]\nurl = \"tcp://127.0.0.1:0\"")
        .replace("type = \"file\"", "type = \"file\"\nmax_size = \"4KiB\"");
    let daemon = Daemon::start_after(dir.path(), &config, "ulimit -n 200");
    let tcp = daemon.tcp.expect("TCP");
    let slow =
        SlowClients::start(tcp, Slow { clients: 400, addresses: 1, every: Duration::from_secs(1), text: "slow.lines" });
    until("all have connected once", || slow.connected() >= 400);
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).expect("it runs").count();
    let files = || {
        let all = std::fs::read_dir(dir.path()).expect("a folder").filter_map(Result::ok);
        all.filter(|file| file.file_name().to_string_lossy().starts_with("records")).count()
    };
    let before = files();
    let mut most = 0;
    until("the file sink has begun more files", || {
        most = most.max(descriptors());
        deliver(tcp, b"good:1|c\n");
        files() > before + 2
    });
    assert!((100..=200 - 60).contains(&most), "{most} descriptors");
    assert_eq!(daemon.get("/ready").0, 200);
    let status = daemon.status();
    // The first listener is not the one whose address is known: both are the same but for their ports.
    assert!(refused(&status, 0, "full") + refused(&status, 1, "full") > 0, "{status}");
    drop(slow);
    let log = daemon.stop();
    assert!(!log.iter().any(|line| line.contains("Too many open files")), "{log:?}");
}

#[test]
fn the_limit_of_descriptors_is_raised_for_the_daemon_and_not_for_its_commands() {
    let dir = tempfile::tempdir().expect("a folder");
    let told = dir.path().join("told");
    let command = format!("command = [\"sh\", \"-c\", \"ulimit -S -n > {}; cat > /dev/null\"]", told.display());
    let listeners = format!("[[listen]]\nurl = \"udp://127.0.0.1:0\"\n[[sink]]\ntype = \"exec\"\n{command}");
    let daemon = Daemon::start_after(dir.path(), &config(dir.path(), &listeners), "ulimit -S -n 300");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).expect("it runs");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("Linux says so");
    let numbers: Vec<&str> = line.split_whitespace().skip(3).take(2).collect();
    assert_eq!(numbers[0], numbers[1], "{line}");
    let said = poll("the command says it", || {
        let said = std::fs::read_to_string(&told).unwrap_or_default();
        if said.ends_with('\n') { Ok(said) } else { Err(said) }
    });
    assert_eq!(said.trim(), "300");
    daemon.stop();
}

#[test]
fn lines_come_over_tls() {
    let dir = tempfile::tempdir().expect("a folder");
    let authority = Authority::new();
    let listeners = format!("[[listen]]\nurl = \"tcp://127.0.0.1:0\"\n{}", authority.setting(dir.path(), None));
    let daemon = Daemon::start(dir.path(), &config(dir.path(), &listeners));
    let to = daemon.tcp.expect("TCP");
    let client = authority.client(None);
    let mut stream = certs::connect(to, &client).expect("trusted");
    for piece in ["a:1|c\na:", "2|c\n", "a:4|c"] {
        stream.write_all(piece.as_bytes()).expect("sent");
    }
    // More than a record, and more than is read at once.
    let mut large = certs::connect(to, &client).expect("trusted");
    large.write_all("large:1|c\n".repeat(20_000).as_bytes()).expect("sent");
    // The end that TLS knows makes a line of what came last; one that anybody on the way could have made does not.
    stream.conn.send_close_notify();
    stream.flush().expect("sent");
    large.write_all(b"cut:1|c").expect("sent");
    drop(large.sock.shutdown(std::net::Shutdown::Write));
    let status = daemon.flushed_when("all is read", |status| status["lines"]["read"] == 20_004);
    assert_eq!((&status["lines"]["malformed"]["bad_frame"], &status["completeness"]), (&1.into(), &1.0.into()));
    // Neither a client without TLS nor one that says nothing is served.
    let mut plain = TcpStream::connect(to).expect("connected");
    plain.write_all(b"plain:1|c\n").expect("sent");
    until("it is refused", || is_closed(&plain));
    let status = daemon.status_when("it is counted", |status| refused(status, 0, "tls") == 1);
    assert_eq!((&status["listeners"][0]["refused"], &status["lines"]["read"]), (&1.into(), &20_004.into()));
    daemon.stop();
    assert_eq!((sum(dir.path(), "a"), sum(dir.path(), "large")), (7, 20_000));
}

/// Whether the daemon takes lines of a client: it closes a connection whose certificate is no good.
fn is_served(to: SocketAddr, client: &Arc<ClientConfig>) -> bool {
    let Ok(mut stream) = certs::connect(to, client) else { return false };
    if stream.write_all(b"served:1|c\n").and_then(|()| stream.flush()).is_err() {
        return false;
    }
    stream.conn.send_close_notify();
    let _ = stream.flush();
    let _ = stream.sock.shutdown(std::net::Shutdown::Write);
    matches!(stream.read(&mut [0]), Ok(0))
}

#[test]
fn only_clients_with_a_good_certificate_are_served_where_one_is_asked_for() {
    let dir = tempfile::tempdir().expect("a folder");
    let (authority, clients, stranger) = (Authority::new(), Authority::new(), Authority::new());
    let listeners =
        format!("[[listen]]\nurl = \"tcp://127.0.0.1:0\"\n{}", authority.setting(dir.path(), Some(&clients)));
    let daemon = Daemon::start(dir.path(), &config(dir.path(), &listeners));
    let to = daemon.tcp.expect("TCP");
    let good = authority.client(Some(&clients.issue("client")));
    assert!(is_served(to, &good));
    let bad = [
        authority.client(None),
        authority.client(Some(&stranger.issue("client"))),
        authority.client(Some(&clients.expired("client"))),
    ];
    for (number, bad) in bad.iter().enumerate() {
        assert!(!is_served(to, bad), "{number}");
    }
    let status = daemon.status_when("they are counted", |status| refused(status, 0, "tls") == 3);
    assert_eq!(status["listeners"][0]["refused"], 3);
    assert!(is_served(to, &good));
    // Plain text, which nobody reads.
    let url = format!("tcp://{to}");
    for command in [&["send", "plain:1|c", "--to", &url][..], &["load", "--for", "100ms", "--to", &url][..]] {
        let output = systole(command, b"");
        let said = text(&output.stderr);
        assert!(output.status.code() == Some(1) && said.contains("it speaks TLS"), "{said}");
    }
    let log = daemon.stop();
    assert_eq!(sum(dir.path(), "served"), 2);
    for why in ["plain text", "shows no certificate", "not signed by any of `client_ca`", "has expired"] {
        let named =
            |line: &String| line.contains(why) && line.contains("WARN") && line.contains(&format!("tcp://{to}"));
        assert!(log.iter().any(named), "{why}: {log:?}");
    }
}

#[test]
fn certificates_of_a_listener_are_replaced_under_load_without_a_refused_client() {
    let dir = tempfile::tempdir().expect("a folder");
    let authority = Authority::new();
    let own = authority.issue("client");
    let listeners =
        format!("[[listen]]\nurl = \"tcp://127.0.0.1:0\"\n{}", authority.setting(dir.path(), Some(&authority)));
    let daemon = Daemon::start(dir.path(), &config(dir.path(), &listeners));
    let (to, client) = (daemon.tcp.expect("TCP"), authority.client(Some(&own)));
    let (stop, served) = (AtomicBool::new(false), AtomicU64::new(0));
    // One that was there before stays.
    let mut early = certs::connect(to, &client).expect("trusted");
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    assert!(is_served(to, &client), "nobody is refused");
                    served.fetch_add(1, Ordering::Relaxed);
                    pause_ms(2);
                }
            });
        }
        // What panics here must end the others, too.
        let _stop = OnDrop(&stop);
        for _ in 0..3 {
            let next = authority.issue("127.0.0.1");
            put(dir.path(), "server.pem", &next.cert);
            pause_ms(300);
            put(dir.path(), "server.key", &next.key);
            let wanted = CertificateDer::from_pem_slice(next.cert.as_bytes()).expect("a certificate");
            until("the new certificate is shown", || {
                let stream = certs::connect(to, &client).expect("nobody is refused");
                stream.conn.peer_certificates().and_then(|all| all.first()) == Some(&wanted)
            });
        }
    });
    early.write_all(b"early:1|c\n").expect("it is still served");
    early.conn.send_close_notify();
    early.flush().expect("sent");
    drop(early.sock.shutdown(std::net::Shutdown::Write));
    let served = served.load(Ordering::Relaxed);
    assert!(served > 20, "{served}");
    let status = daemon.flushed_when("all is read", |status| status["lines"]["metrics"] == served + 1);
    assert_eq!((refused(&status, 0, "tls"), &status["listeners"][0]["refused"]), (0, &0.into()));
    daemon.stop();
    assert_eq!((sum(dir.path(), "served"), sum(dir.path(), "early")), (served, 1));
}

#[test]
fn silent_handshakes_keep_nobody_out() {
    let dir = tempfile::tempdir().expect("a folder");
    let authority = Authority::new();
    let listeners = format!(
        "[[listen]]\nurl = \"tcp://127.0.0.1:0\"\nmax_connections = 8\n{}",
        authority.setting(dir.path(), None)
    );
    let daemon = Daemon::start(dir.path(), &config(dir.path(), &listeners));
    let to = daemon.tcp.expect("TCP");
    let _silent: Vec<TcpStream> = (0..50).map(|_| TcpStream::connect(to).expect("connected")).collect();
    for _ in 0..10 {
        assert!(is_served(to, &authority.client(None)));
    }
    daemon.status_when("they gave way", |status| refused(status, 0, "full") > 0);
    daemon.stop();
    assert_eq!(sum(dir.path(), "served"), 10);
}

#[test]
fn a_stop_reads_what_was_sent_over_tls() {
    const CLIENTS: u64 = 8;
    let dir = tempfile::tempdir().expect("a folder");
    let authority = Authority::new();
    let listeners = format!("[[listen]]\nurl = \"tcp://127.0.0.1:0\"\n{}", authority.setting(dir.path(), None));
    let daemon = Daemon::start(dir.path(), &config(dir.path(), &listeners).replace("200ms", "1day"));
    let (to, client) = (daemon.tcp.expect("TCP"), authority.client(None));
    let mut streams: Vec<_> = (0..CLIENTS).map(|_| certs::connect(to, &client).expect("trusted")).collect();
    for stream in &mut streams {
        stream.write_all("t:1|c\n".repeat(10_000).as_bytes()).expect("sent");
    }
    // The last one stays in the middle of a line, all stay open.
    streams[0].write_all(b"t:1|c\nhalf").expect("sent");
    daemon.stop();
    assert_eq!(sum(dir.path(), "t"), CLIENTS * 10_000 + 1);
    let all = records(&dir.path().join("records.jsonl"));
    let ledger = all.iter().find(|r| r["type"] == "ledger").expect("the account");
    assert_eq!(
        (&ledger["lines"]["malformed"]["bad_frame"], &ledger["listeners"][0]["unread_bytes"]),
        (&1.into(), &0.into())
    );
    for mut stream in streams {
        // It was told that this is the end.
        assert_eq!(stream.read(&mut [0]).expect("an end of TLS"), 0);
    }
}
