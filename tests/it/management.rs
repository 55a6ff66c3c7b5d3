//! The management port through the front door. Beside the original itself it is compared in `tests/oracle/management.py`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::{self, Daemon, systole, text};

const PORT: &str = "[management]\naddress = \"127.0.0.1:0\"\n";

fn start(dir: &Path, more: &str) -> (Daemon, SocketAddr) {
    let config = format!(
        "{more}\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\nworkers = 2\n[[sink]]\ntype = \"file\"\npath = \"{}\"\n\
         [http]\naddress = \"127.0.0.1:0\"\n{PORT}",
        dir.join("records.jsonl").display()
    );
    let daemon = Daemon::start(dir, &config);
    let line = daemon.lines.iter().find_map(|line| line.trim().strip_prefix("manage")).expect("it says where");
    let address = line.trim().strip_prefix("tcp://").and_then(|a| a.parse().ok()).expect("an address");
    (daemon, address)
}

/// Sends bytes and reads until nothing comes for a while.
fn talk(port: SocketAddr, sent: &[u8]) -> String {
    let mut stream = TcpStream::connect(port).expect("connected");
    stream.write_all(sent).expect("sent");
    hear(&mut stream)
}

/// The answer may take its time on a busy machine; what belongs to it comes in one go.
fn hear(stream: &mut TcpStream) -> String {
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
    let (mut heard, mut chunk) = (Vec::new(), [0; 65536]);
    while let Ok(count @ 1..) = stream.read(&mut chunk) {
        heard.extend_from_slice(&chunk[..count]);
        stream.set_read_timeout(Some(Duration::from_millis(300))).expect("set");
    }
    text(&heard)
}

/// Sends the same until the answer is what is waited for.
fn talk_until(port: SocketAddr, sent: &[u8], done: impl Fn(&str) -> bool) -> String {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let heard = talk(port, sent);
        if done(&heard) {
            return heard;
        }
        assert!(Instant::now() < deadline, "{heard}");
    }
}

#[test]
fn commands_are_answered_as_the_original_answers_them() {
    let dir = tempfile::tempdir().expect("a folder");
    let (daemon, port) = start(dir.path(), "profile = \"etsy\"\ninterval = \"1day\"");
    for (sent, expected) in [
        (
            "help\n",
            "Commands: stats, counters, timers, gauges, delcounters, deltimers, delgauges, health, config, quit\n\n",
        ),
        ("health\r\n", "health: up\n"),
        ("health", "health: up\n"),
        ("health DOWN\nhealth\nhealth sideways\nhealth up\n", "health: down\nhealth: down\nhealth: down\nhealth: up\n"),
        ("\n", "ERROR\n"),
        ("Health\n", "ERROR\n"),
        ("timers\n", "{}\nEND\n\n"),
        ("deltimers\n", "END\n\n"),
        ("delgauges a b.*\n", "metric a not found\nmetric b.* not found\nEND\n\n"),
    ] {
        assert_eq!(talk(port, sent.as_bytes()), expected, "{sent:?}");
    }
    let mut stream = TcpStream::connect(port).expect("connected");
    stream.write_all(b"quit\nhelp\n").expect("sent");
    let mut heard = String::new();
    // The end of the stream, or a reset because of what was not read.
    let _ = stream.read_to_string(&mut heard);
    assert_eq!(heard, "");
    daemon.stop();
}

#[test]
fn the_open_interval_is_shown_over_all_workers_and_series_can_be_deleted() {
    let dir = tempfile::tempdir().expect("a folder");
    let (daemon, port) = start(dir.path(), "interval = \"1day\"");
    // Each call is another sender, so that both workers have some of it.
    for _ in 0..8 {
        daemon.send_udp(&[b"a.b:1|c\na.c:2|c|#k:v\nz:1|c\nt:5|ms\ng:+1|g\nbroken"]);
    }
    talk_until(port, b"counters\n", |counters| {
        ["'a.b': 8", "'a.c;k=v': 16", "z: 8"].iter().all(|expected| counters.contains(expected))
    });
    assert_eq!(talk(port, b"timers\n"), "{\n  t: [\n    5, 5, 5, 5,\n    5, 5, 5, 5\n  ]\n}\nEND\n\n");
    assert_eq!(talk(port, b"gauges\n"), "{ g: 8 }\nEND\n\n");
    let stats = talk(port, b"stats\n");
    assert!(stats.contains("messages.bad_lines_seen: 8\n") && stats.ends_with("END\n\n"), "{stats}");

    let deleted = talk(port, b"delcounters z z a.*\n");
    let mut lines: Vec<&str> = deleted.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["", "END", "deleted: a.b", "deleted: a.c;k=v", "deleted: z", "metric z not found"]);
    assert_eq!(talk(port, b"delgauges g\n"), "deleted: g\nEND\n\n");
    daemon.send_udp(&[b"a.b:3|c\ng:+2|g"]);
    talk_until(port, b"counters\n", |counters| counters == "{ 'a.b': 3 }\nEND\n\n");
    assert_eq!(talk(port, b"gauges\n"), "{ g: 2 }\nEND\n\n");
    daemon.stop();
    let records = support::records(&dir.path().join("records.jsonl"));
    let value =
        |name: &str| records.iter().filter(|r| r["name"] == name).map(|r| r["value"].clone()).collect::<Vec<_>>();
    assert_eq!((value("a.b"), value("z"), value("g")), (vec![3.0.into()], vec![], vec![2.0.into()]));
}

#[test]
fn deleting_from_interval_to_interval_leaves_the_rest_as_it_was() {
    let dir = tempfile::tempdir().expect("a folder");
    let (daemon, port) = start(dir.path(), "interval = \"200ms\"\nself_metrics = false\nmax_series = 6");
    for round in 0..10 {
        let lines = format!("keep:1|c\nkept:{round}|g\ngone.a{round}:1|c\ngone.b:1|g\n");
        daemon.send_udp(&[lines.as_bytes()]);
        // In the interval of its lines, or in a later one.
        if round % 2 == 1 {
            daemon.closed(4 * (round + 1));
        }
        talk_until(port, b"delcounters gone.*\n", |deleted| deleted.contains(&format!("deleted: gone.a{round}\n")));
        assert_eq!(talk(port, b"delgauges gone.b\n"), "deleted: gone.b\nEND\n\n", "round {round}");
    }
    // What was deleted made room: none of the ten names was folded.
    let status = daemon.flushed_when("all is closed", |s| s["series"]["counters"] == 1);
    assert_eq!((&status["samples"]["folded"], &status["samples"]["recorded"]), (&0.into(), &40.into()), "{status}");
    daemon.stop();
    let records = support::records(&dir.path().join("records.jsonl"));
    let sum: f64 = records.iter().filter(|r| r["name"] == "keep").filter_map(|r| r["value"].as_f64()).sum();
    assert_eq!(sum, 10.0);
}

#[test]
fn hostile_input_is_bounded() {
    let dir = tempfile::tempdir().expect("a folder");
    let (daemon, port) = start(dir.path(), "interval = \"1day\"");
    // No newline and no end.
    let mut stream = TcpStream::connect(port).expect("connected");
    for _ in 0..64 {
        if stream.write_all(&[b'x'; 16 << 10]).is_err() {
            break;
        }
    }
    assert!(hear(&mut stream).starts_with("ERROR\n"));
    assert_eq!(talk(port, b"delcounters \xff\xfe\x1b[2J\n").lines().last(), Some(""));
    // More connections than there may be: some are closed, and it goes on when they have gone.
    let many: Vec<TcpStream> = (0..80).map(|_| TcpStream::connect(port).expect("connected")).collect();
    drop((many, stream));
    talk_until(port, b"health\n", |answer| answer == "health: up\n");
    daemon.stop();
}

#[test]
fn it_is_off_by_default_and_not_open_to_everybody_by_mistake() {
    let printed = text(&systole(&["check", "--print"], b"").stdout);
    assert!(printed.contains("[management]\naddress = \"off\"\nhealth = \"up\"\n"), "{printed}");
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("c.toml");
    std::fs::write(&file, "[management]\naddress = \"0.0.0.0:8126\"\n").expect("written");
    let output = systole(&["check", "-c", file.to_str().expect("plain")], b"");
    let said = text(&output.stderr);
    assert!(
        said.contains(":2:11: management.address: `0.0.0.0:8126` is not on loopback; say who may delete"),
        "{said}"
    );
}

#[test]
fn config_tells_what_is_effective_without_secrets() {
    let dir = tempfile::tempdir().expect("a folder");
    let (daemon, port) = start(dir.path(), "interval = \"1h\"\ntags = { host = \"h\" }\n");
    let told = talk(port, b"config\n");
    assert!(told.starts_with('\n') && !told.contains("END"), "{told}");
    for expected in ["interval: 1h\n", "tags > host: h\n", "listen > 0 > workers: 2\n", "management > health: up\n"] {
        assert!(told.contains(expected), "{expected} in {told}");
    }
    daemon.stop();
}

#[test]
fn long_names_make_no_long_replies_and_no_client_that_does_not_read_takes_memory() {
    const SERIES: u64 = 4000;
    let dir = tempfile::tempdir().expect("a folder");
    let (daemon, port) =
        start(dir.path(), "interval = \"1day\"\nmax_memory = \"256MiB\"\n[[listen]]\nurl = \"tcp://127.0.0.1:0\"");
    let mut stream = TcpStream::connect(daemon.tcp.expect("TCP")).expect("connected");
    let tail = "x".repeat(7000);
    for n in 0..SERIES {
        stream.write_all(format!("a.{n}:1|c|#tail:{tail}\n").as_bytes()).expect("sent");
    }
    daemon.status_when("all are here", |status| status["lines"]["metrics"] == SERIES);
    let before = daemon.peak_kib();
    let unread: Vec<TcpStream> = (0..12)
        .map(|_| {
            // What the kernel does not take stays in the daemon.
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
            socket.set_recv_buffer_size(4096).expect("set");
            socket.connect(&port.into()).expect("connected");
            let mut stream = TcpStream::from(socket);
            stream.write_all(b"counters\n").expect("sent");
            stream
        })
        .collect();
    let held = |status: &serde_json::Value| status["memory"]["holders"]["http_bodies"]["bytes"].as_u64();
    daemon.status_when("they are held", |status| held(status) > Some(4 << 20));
    // The last one is answered, too, or told that there are too many.
    let listed = talk_until(port, b"counters\n", |listed| listed.len() > 1000);
    assert!(listed.len() < 3 << 20, "{} bytes", listed.len());
    assert!(listed.ends_with(" more items\n}\nEND\n\n"), "{}", &listed[listed.len() - 100..]);
    let grown = (daemon.peak_kib() - before) >> 10;
    assert!(grown < 80, "{grown} MiB");
    drop(unread);
    let deleted = talk_until(port, b"delcounters a.*\n", |deleted| deleted.starts_with("deleted: a."));
    assert!(deleted.len() < 3 << 20 && deleted.ends_with(" more items\nEND\n\n"), "{} bytes", deleted.len());
    let told = deleted.lines().filter(|line| line.starts_with("deleted: a.")).count() as u64;
    assert!(deleted.contains(&format!("deleted: ... {} more items", SERIES - told)));
    assert_eq!(talk(port, b"counters\n"), "{}\nEND\n\n");
    daemon.stop();
}
