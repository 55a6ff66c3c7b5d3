//! Relays through the front door: everything that is received goes on, whole and unparsed, to all or to one; a target that is
//! down moves its own lines alone, and nothing waits for it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::UdpSocket;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Daemon, pause_ms, records};

fn start(dir: &Path, relay: &str) -> Daemon {
    let config = format!(
        "interval = \"200ms\"\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\nworkers = 1\n[[listen]]\nurl = \"tcp://127.0.0.1:0\"\n\
         [[sink]]\ntype = \"console\"\n[[relay]]\n{relay}\n[http]\naddress = \"127.0.0.1:0\"\n[presence]\nenabled = false\n"
    );
    Daemon::start(dir, &config)
}

fn target() -> (UdpSocket, String) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
    let address = socket.local_addr().expect("bound").to_string();
    (socket, address)
}

/// The relay's account, if its equation holds.
fn account(status: &Value) -> (u64, u64, u64, u64) {
    let relay = &status["relays"]["relay"];
    let number = |key: &str| relay[key].as_u64().expect("a number");
    let dropped =
        relay["dropped"].as_object().expect("by reason").values().map(|n| n.as_u64().expect("a number")).sum();
    let (offered, delivered, queued) = (number("offered"), number("delivered"), number("queued"));
    assert_eq!(offered, delivered + queued + dropped, "{relay}");
    (offered, delivered, queued, dropped)
}

/// Lines that came, and how many datagrams they came in.
fn lines(socket: &UdpSocket) -> (Vec<String>, usize) {
    let (mut all, mut datagrams, mut buffer) = (Vec::new(), 0, [0; 65536]);
    while let Ok(count) = socket.recv(&mut buffer) {
        datagrams += 1;
        assert!(count <= 1432);
        let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
        all.extend(text.split('\n').filter(|line| !line.is_empty()).map(str::to_string));
    }
    (all, datagrams)
}

#[test]
fn a_mirror_passes_every_line_to_all_targets_as_it_came() {
    for gso in [false, true] {
        let dir = tempfile::tempdir().expect("a folder");
        let ((one, first), (two, second)) = (target(), target());
        let daemon = start(dir.path(), &format!("targets = [\"{first}\", \"{second}\"]\ngso = {gso}"));
        let sent: Vec<String> = (0..2000).map(|n| format!("some.name.{n}:{n}|c|@0.5|#k:v\u{fc}")).collect();
        let odd = ["no metric at all".to_string(), "_e{1,1}:a|b".to_string(), "t:1:2:3|ms".to_string()];
        let all: Vec<String> = sent.iter().chain(&odd).cloned().collect();
        let pieces: Vec<String> = all.chunks(20).map(|chunk| chunk.join("\n")).collect();
        for piece in pieces.chunks(10) {
            daemon.send_udp(&piece.iter().map(String::as_bytes).collect::<Vec<_>>());
            // No faster than the socket is read.
            pause_ms(2);
        }
        for socket in [one, two] {
            let (found, datagrams) = lines(&socket);
            assert_eq!(found, all, "gso {gso}");
            assert!(datagrams < 80, "{datagrams} datagrams for {} lines", all.len());
        }
        daemon.flushed_when("told", |status| {
            let targets = status["relays"]["relay"]["targets"].as_object();
            targets.is_some_and(|targets| targets.values().all(|target| target["lines"] == 2003))
        });
        let status = daemon.status_when("nothing waits", |status| account(status).2 == 0);
        assert_eq!(account(&status), (101, 101, 0, 0));
        assert_eq!(status["listeners"][0]["datagrams"], 101);
        daemon.stop();
    }
}

#[test]
fn a_line_longer_than_a_datagram_goes_whole() {
    for gso in [false, true] {
        let dir = tempfile::tempdir().expect("a folder");
        let (socket, address) = target();
        socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        let daemon = start(dir.path(), &format!("targets = [\"{address}\"]\nmax_datagram = 512\ngso = {gso}"));
        let short = (0..40).map(|n| format!("short.{n}:1|c"));
        let long = (0..3).map(|n| format!("long.{n}:1|c|#k:{}", "x".repeat(1000 + 500 * n)));
        let mut sent: Vec<String> = short.chain(long).collect();
        // Long ones come first, last and between others.
        sent.rotate_right(1);
        sent.swap(20, 42);
        daemon.send_udp(&[sent.join("\n").as_bytes()]);
        let (mut came, mut buffer) = (Vec::new(), [0; 65_536]);
        while came.len() < sent.len() {
            let count = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("gso {gso}: {error}: {came:?}"));
            let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
            let lines: Vec<String> = text.split('\n').filter(|line| !line.is_empty()).map(str::to_string).collect();
            assert!(count <= 512 || lines.len() == 1, "{count} bytes");
            came.extend(lines);
        }
        assert_eq!(came, sent, "gso {gso}");
        let status = daemon.status_when("nothing waits", |status| account(status).0 == 1 && account(status).2 == 0);
        assert_eq!(account(&status), (1, 1, 0, 0));
        daemon.stop();
    }
}

#[test]
fn spread_lines_go_by_their_name_and_move_when_a_target_is_down() {
    let dir = tempfile::tempdir().expect("a folder");
    let ((one, first), (two, second), (three, third)) = (target(), target(), target());
    let targets =
        format!("targets = [\"{first}\", \"{second}\", \"{third}\"]\nmode = \"spread\"\nhealth_every = \"2s\"");
    let daemon = start(dir.path(), &targets);
    let sent = |round: u32| (0..300).map(move |n| format!("name.{n}:{round}|c")).collect::<Vec<_>>();
    for round in 0..3 {
        daemon.send_udp(&[sent(round).join("\n").as_bytes()]);
    }
    let mut home: BTreeMap<String, usize> = BTreeMap::new();
    for (n, socket) in [&one, &two, &three].into_iter().enumerate() {
        for line in lines(socket).0 {
            let name = line.split(':').next().expect("a name").to_string();
            assert_eq!(*home.entry(name).or_insert(n), n, "{line}");
        }
    }
    assert_eq!(home.len(), 300);
    drop(two);
    // The first send is lost on nobody; the kernel tells with the next.
    for round in 3..5 {
        daemon.send_udp(&[sent(round).join("\n").as_bytes()]);
        daemon.status_when("it is sent", |status| account(status).1 == u64::from(round) + 1);
    }
    daemon.send_udp(&[sent(9).join("\n").as_bytes()]);
    let mut moved: BTreeSet<String> = BTreeSet::new();
    for (n, socket) in [(0, &one), (2, &three)] {
        for line in lines(socket).0.into_iter().filter(|line| line.contains(":9|")) {
            let name = line.split(':').next().expect("a name").to_string();
            assert!(home[&name] == n || home[&name] == 1, "{line} left a target that is up");
            assert!(moved.insert(name));
        }
    }
    assert_eq!(moved.len(), 300);
    let status = daemon.status();
    assert_eq!(status["relays"]["relay"]["targets"][&second]["up"], Value::Bool(false), "{}", status["relays"]);
    // What the kernel refused went to the others.
    let status = daemon.status_when("nothing waits", |status| account(status).2 == 0 && account(status).0 == 6);
    assert_eq!(account(&status), (6, 6, 0, 0));
    daemon.stop();
}

#[test]
fn a_target_that_says_it_is_ill_gets_nothing() {
    use std::io::{Read, Write};
    let dir = tempfile::tempdir().expect("a folder");
    let (one, first) = target();
    let (two, second) = target();
    let management = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = management.local_addr().expect("bound").port();
    std::thread::spawn(move || {
        for mut stream in management.incoming().map_while(Result::ok) {
            let mut asked = [0; 16];
            let _ = stream.read(&mut asked);
            let _ = stream.write_all(b"health: down\n");
        }
    });
    let daemon = start(
        dir.path(),
        &format!(
            "targets = [\"{first}\", \"{second}\"]\nmode = \"spread\"\nhealth_port = {port}\nhealth_every = \"50ms\""
        ),
    );
    daemon.status_when("both are down", |status| {
        let targets = status["relays"]["relay"]["targets"].as_object().expect("targets");
        targets.values().all(|target| target["up"] == false)
    });
    daemon.send_udp(&[b"a:1|c\nb:1|c"]);
    assert!(lines(&one).0.is_empty() && lines(&two).0.is_empty());
    let lost = |status: &Value| {
        let targets = status["relays"]["relay"]["targets"].as_object().expect("targets");
        targets.values().map(|target| target["lost"].as_u64().expect("a number")).sum::<u64>()
    };
    daemon.status_when("lost lines are counted", |status| lost(status) == 2);
    let status = daemon.status_when("nothing waits", |status| account(status).2 == 0);
    assert_eq!(account(&status), (1, 0, 0, 1));
    assert_eq!(status["relays"]["relay"]["dropped"], json!({"target_down": 1}));
    daemon.stop();
}

#[test]
fn what_a_relay_loses_is_in_the_record_the_series_and_the_scrape() {
    let dir = tempfile::tempdir().expect("a folder");
    let (one, first) = target();
    let (gone, second) = target();
    drop(gone);
    // A queue of one overflows; the mirror's second target is not there.
    let daemon = start(dir.path(), &format!("targets = [\"{first}\", \"{second}\"]\nqueue = 1\nhealth_every = \"1h\""));
    let mut sent = 0;
    let status = loop {
        for _ in 0..100 {
            daemon.send_udp(&[&b"a:1|c\nb:2|c"[..]; 5]);
            sent += 5;
        }
        let status = daemon.status_when("all is read", |status| account(status).0 == sent);
        let dropped = &status["relays"]["relay"]["dropped"];
        if dropped["queue_full"].as_u64() > Some(0) && dropped["target_down"].as_u64() > Some(0) {
            break status;
        }
        assert!(sent < 50_000, "{status}");
    };
    let status = if account(&status).2 == 0 {
        status
    } else {
        daemon.status_when("nothing waits", |status| account(status).2 == 0)
    };
    let (offered, delivered, _, dropped) = account(&status);
    let (_, scrape) = daemon.get("/metrics");
    let scraped = |name: &str| -> u64 {
        let of = scrape.lines().filter(|line| line.starts_with(&format!("{name}{{relay=\"relay\"")));
        of.map(|line| line.rsplit(' ').next().and_then(|n| n.parse::<u64>().ok()).expect("a number")).sum()
    };
    for (name, value) in
        [("offered_total", offered), ("delivered_total", delivered), ("dropped_total", dropped), ("queued", 0)]
    {
        assert_eq!(scraped(&format!("systole_relay_datagrams_{name}")), value, "{name}\n{scrape}");
    }
    drop(lines(&one));
    daemon.stop();
    let all = records(&dir.path().join("stdout"));
    let told = |name: &str| -> f64 {
        let of = all.iter().filter(|record| record["name"] == name && record["tags"]["relay"] == "relay");
        of.map(|record| record["value"].as_f64().expect("a number")).sum()
    };
    for (name, value) in [("offered", offered), ("delivered", delivered), ("dropped", dropped)] {
        assert_eq!(told(&format!("systole.relays.{name}")), value as f64, "{name}");
    }
    assert_eq!(all.iter().rfind(|record| record["name"] == "systole.relays.queued").expect("it is told")["value"], 0.0);
    for record in all.iter().filter(|record| record["type"] == "ledger") {
        account(record);
    }
}
