//! Upgrades through the front door: a new process takes over, and nothing that was sent is lost or counted twice.

mod hazards;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

use crate::support::{Daemon, SYSTOLE, get, pause_ms, records, status_when, sum, systole, text, until};

/// How often a client sends.
const EVERY_MS: u64 = 2;

/// A port that was free a moment ago: the new process is to find the same address in its configuration.
fn free_port() -> u16 {
    let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = tcp.local_addr().expect("an address").port();
    // Nobody has the number for UDP either.
    UdpSocket::bind(("127.0.0.1", port)).map_or_else(|_| free_port(), |_| port)
}

/// The process that took over: killed, by its own PID, when it goes out of scope.
struct Heir(u32);

impl Heir {
    fn is_alive(&self) -> bool {
        // A zombie, whose parent was killed, has ended.
        std::fs::read_to_string(format!("/proc/{}/stat", self.0))
            .is_ok_and(|stat| !stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')))
    }

    fn signal(&self, signal: &str) {
        // It may have ended.
        let _ = Command::new("kill").args([signal, &self.0.to_string()]).status();
    }

    fn stop(self) {
        self.signal("-TERM");
        until("the end of the last process", || !self.is_alive());
    }
}

impl Drop for Heir {
    fn drop(&mut self) {
        if self.is_alive() {
            self.signal("-KILL");
        }
    }
}

struct Ports {
    statsd: u16,
    page: SocketAddr,
}

fn ports() -> Ports {
    Ports { statsd: free_port(), page: SocketAddr::from(([127, 0, 0, 1], free_port())) }
}

fn config(dir: &Path, ports: &Ports) -> String {
    format!(
        "interval = \"1s\"\n[[listen]]\nurl = \"udp://127.0.0.1:{0}\"\nworkers = 2\n[[listen]]\nurl = \"tcp://127.0.0.1:{0}\"\n[[listen]]\n\
         url = \"unixgram://{1}/s.sock\"\n[[sink]]\ntype = \"file\"\npath = \"{1}/records.jsonl\"\n[http]\naddress = \"{2}\"\n\
         token = \"secret\"\n",
        ports.statsd,
        dir.display(),
        ports.page
    )
}

/// Asks for an upgrade; the exit code, and what was printed.
fn upgrade(ports: &Ports, token: &str) -> (Option<i32>, String) {
    let output = systole(&["upgrade", "--url", &format!("http://{}", ports.page), "--token", token], b"");
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

fn process(status: &Value) -> u32 {
    status["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a process")
}

/// Sends until it is told to stop; how many lines it has sent.
fn client(stop: &Arc<AtomicBool>, mut send: impl FnMut() -> u64 + Send + 'static) -> JoinHandle<u64> {
    let stop = Arc::clone(stop);
    std::thread::spawn(move || {
        let mut sent = 0;
        while !stop.load(Ordering::Relaxed) {
            sent += send();
            pause_ms(EVERY_MS);
        }
        sent
    })
}

/// A client that connects anew when the other end has closed, as it must anyway when a server is restarted.
fn over_tcp(to: SocketAddr) -> impl FnMut() -> u64 {
    let mut open: Option<TcpStream> = None;
    move || {
        let has_ended = |stream: &mut TcpStream| {
            stream.set_nonblocking(true).expect("it can be set");
            let ended = !matches!(stream.read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock);
            stream.set_nonblocking(false).expect("it can be set");
            ended
        };
        open.take_if(has_ended);
        let stream = open.get_or_insert_with(|| TcpStream::connect(to).expect("somebody listens"));
        stream.write_all(b"tcp:1|c\ntcp:1|c\n").expect("sent");
        2
    }
}

#[test]
fn upgrades_lose_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let ports = ports();
    let mut daemon = Daemon::start(dir.path(), &config(dir.path(), &ports));
    let stop = Arc::new(AtomicBool::new(false));
    let to = SocketAddr::from(([127, 0, 0, 1], ports.statsd));
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let unix = UnixDatagram::unbound().expect("a socket");
    let path = dir.path().join("s.sock");
    let clients = [
        ("udp", client(&stop, move || (0..20).map(|_| udp.send_to(b"udp:1|c", to).map_or(0, |_| 1)).sum())),
        ("tcp", client(&stop, over_tcp(to))),
        ("unix", client(&stop, move || unix.send_to(b"unix:1|c", &path).map_or(0, |_| 1))),
    ];
    let mut heir = None;
    for _ in 0..4 {
        pause_ms(700);
        let (code, said) = upgrade(&ports, "secret");
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("reads the sockets after a pause of "), "{said}");
        let status = status_when(ports.page, "an upgrade", |status| status["upgrade"]["is_clean"] == true);
        let pause_secs = status["upgrade"]["pause_secs"].as_f64().expect("a number");
        assert!(0.0 < pause_secs && pause_secs < 0.3, "{pause_secs}");
        // The one before has ended by itself.
        heir = Some(Heir(process(&status)));
    }
    assert_eq!(daemon.wait(Duration::from_secs(10)), Some(0));
    stop.store(true, Ordering::Relaxed);
    let sent = clients.map(|(name, client)| (name, client.join().expect("it sends") as f64));
    heir.expect("four took over").stop();
    assert!(sent.iter().all(|(_, lines)| *lines > 500.0), "{sent:?}");
    assert_eq!(sent.map(|(name, _)| (name, sum(dir.path(), name))), sent);
    let all = records(&dir.path().join("records.jsonl"));
    let ledgers: Vec<&Value> = all.iter().filter(|record| record["type"] == "ledger").collect();
    let drops = |ledger: &&Value| {
        let listeners = ledger["listeners"].as_array().cloned().unwrap_or_default();
        listeners.iter().filter_map(|listener| listener["kernel_drops"].as_u64()).sum::<u64>()
    };
    assert_eq!(ledgers.iter().map(drops).sum::<u64>(), 0);
    let mut ends: Vec<f64> = ledgers.iter().filter_map(|ledger| ledger["time"].as_f64()).collect();
    let all_ends = ends.len();
    ends.dedup();
    assert_eq!((ends.len(), ends.is_sorted()), (all_ends, true));
    // No interval was cut: all but the last end with a second, and their lengths are the time that has passed.
    assert!(ends[..all_ends - 1].iter().all(|end| end.fract() == 0.0), "{ends:?}");
    let lengths: f64 = ledgers[1..].iter().filter_map(|ledger| ledger["interval"].as_f64()).sum();
    let passed = ends[all_ends - 1] - ends[0];
    assert!((lengths - passed).abs() < 0.1, "{lengths} s in intervals, {passed} s passed");
}

/// A page's own number in a field of `/proc/PID/stat`, counted from 1.
fn stat(pid: u32, field: usize) -> i64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    // The name, field 2, may have blanks.
    let rest = text.rsplit(')').next().expect("a name in parentheses");
    rest.split_whitespace().nth(field - 3).and_then(|field| field.parse().ok()).expect("a number")
}

#[test]
fn what_one_process_knows_the_next_one_goes_on_with() {
    let dir = tempfile::tempdir().expect("a folder");
    let ports = ports();
    // A receiver that takes connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let config = format!(
        "gauge_ttl = \"1h\"\n{}[[sink]]\ntype = \"influx\"\nname = \"silent\"\nurl = \"http://{}\"\ndatabase = \"d\"\n[presence]\n\
         state_file = \"{}/presence.json\"\n",
        config(dir.path(), &ports),
        silent.local_addr().expect("an address"),
        dir.path().display()
    );
    let mut daemon = Daemon::start(dir.path(), &config);
    let (before, nice) = (daemon.pid(), stat(daemon.pid(), 19));
    daemon.send_udp(&[b"g:5|g", b"g:+2|g", b"heartbeat.web.a:60|g"]);
    daemon.closed(2);
    daemon.send_udp(&[b"c:3|c", b"g:+1|g", b"t:7|ms"]);
    daemon.status_when("three lines", |status| status["lines"]["read"] == 6);
    let (code, said) = upgrade(&ports, "secret");
    assert_eq!(code, Some(0), "{said}");
    let status = status_when(ports.page, "another process", |status| status["pid"] != before);
    let heir = Heir(process(&status));
    // A receiver that does not answer holds nobody up.
    assert!(status["upgrade"]["took_secs"].as_f64().expect("a number") < 8.0, "{status}");
    assert_eq!(stat(heir.0, 19), nice, "the priority is the same");
    assert_eq!(daemon.wait(Duration::from_secs(20)), Some(0));
    daemon.send_udp(&[b"c:4|c", b"g:+1|g"]);
    let (_, presence) = get(ports.page, "/api/v1/presence", "");
    // Who was there is known, and confirmed by the next heartbeat.
    assert!(presence.contains("\"service\":\"web\"") && presence.contains("\"down\":0"), "{presence}");
    let read = status_when(ports.page, "two lines", |status| status["lines"]["read"].as_u64() >= Some(2));
    // The last interval, which a stop ends, may have any length.
    status_when(ports.page, "an interval", |status| status["as_of"].as_f64() > read["as_of"].as_f64());
    heir.stop();
    assert_eq!((sum(dir.path(), "c"), last_gauge(dir.path(), "g")), (7.0, 9.0));
    let all = records(&dir.path().join("records.jsonl"));
    let sequences: Vec<f64> = all.iter().filter(|r| r["type"] == "ledger").filter_map(|r| r["time"].as_f64()).collect();
    assert!(sequences.is_sorted(), "{sequences:?}");
    let rate = |r: &&Value| (r["rate"].as_f64()?, r["interval"].as_f64()?, r["value"].as_f64()?).into();
    for (rate, interval, value) in
        all.iter().filter(|r| r["name"] == "c").filter_map(|r| -> Option<(f64, f64, f64)> { rate(&r) })
    {
        assert!((rate * interval - value).abs() < 1e-6 && interval > 0.5, "{rate} × {interval} ≠ {value}");
    }
}

fn last_gauge(dir: &Path, name: &str) -> f64 {
    let all = records(&dir.join("records.jsonl"));
    let gauges = all.iter().filter(|r| r["name"] == name && r["type"] == "gauge");
    gauges.filter_map(|r| r["value"].as_f64()).next_back().expect("a gauge")
}

#[test]
fn a_new_process_that_cannot_bind_or_open_leaves_everything_as_it_was() {
    let dir = tempfile::tempdir().expect("a folder");
    let ports = ports();
    let good = config(dir.path(), &ports);
    let mut daemon = Daemon::start(dir.path(), &good);
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let _holder = TcpListener::bind(taken).expect("a port");
    let path = dir.path().display();
    let bad = [
        format!("{good}[management]\naddress = \"{taken}\"\n"),
        format!("{good}[[sink]]\ntype = \"prometheus\"\naddress = \"{taken}\"\n"),
        format!("{good}[[sink]]\ntype = \"sqlite\"\npath = \"{path}\"\n"),
        good.replace("records.jsonl", "none/records.jsonl"),
    ];
    let unix = UnixDatagram::unbound().expect("a socket");
    for (n, config) in bad.iter().enumerate() {
        std::fs::write(dir.path().join("systole.toml"), config).expect("written");
        let (code, said) = upgrade(&ports, "secret");
        assert_eq!(code, Some(1), "{said}{config}");
        let at = [taken.to_string(), taken.to_string(), path.to_string(), "none/records.jsonl".into()];
        assert!(said.contains("the new process cannot start: ") && said.contains(&at[n]), "{said}");
        unix.send_to(b"x:1|c", dir.path().join("s.sock")).expect("somebody has the socket");
        daemon.status_when("a line", |status| status["lines"]["read"] == n as u64 + 1);
    }
    daemon.next_flush();
    daemon.signal("-TERM");
    assert_eq!(daemon.wait(Duration::from_secs(10)), Some(0));
    assert_eq!(sum(dir.path(), "x"), bad.len() as f64);
}

#[test]
fn an_interval_in_which_an_upgrade_falls_is_one_interval() {
    let dir = tempfile::tempdir().expect("a folder");
    let ports = ports();
    let config = config(dir.path(), &ports).replace("interval = \"1s\"", "interval = \"1h\"");
    let mut daemon = Daemon::start(dir.path(), &config);
    let began = std::time::Instant::now();
    daemon.send_udp(&[b"x:1|c\nt:10|ms\ng:5|g\nu:a|s\n_e{1,1}:a|b"]);
    status_when(ports.page, "five lines", |status| status["lines"]["read"] == 5);
    for n in 1..=2 {
        let (code, said) = upgrade(&ports, "secret");
        assert_eq!(code, Some(0), "{said}");
        daemon.send_udp(&[b"x:1|c\nt:20|ms\ng:+1|g\nu:b|s"]);
        status_when(ports.page, "four lines", |status| status["lines"]["read"] == 4);
        if n == 1 {
            assert_eq!(daemon.wait(Duration::from_secs(10)), Some(0));
        }
    }
    let heir = Heir(process(&status_when(ports.page, "the last process", |_| true)));
    let length = began.elapsed().as_secs_f64();
    heir.stop();
    let all = records(&dir.path().join("records.jsonl"));
    let ledgers: Vec<&Value> = all.iter().filter(|record| record["type"] == "ledger").collect();
    assert_eq!(ledgers.len(), 1, "{ledgers:?}");
    let own = ledgers[0]["interval"].as_f64().expect("a length");
    assert!((length - 1.0..length + 5.0).contains(&own), "{own} s of {length} s");
    let value =
        |name: &str, field: &str| all.iter().find(|record| record["name"] == name).map(|record| record[field].clone());
    assert_eq!(sum(dir.path(), "x"), 3.0);
    assert_eq!((value("g", "value"), value("u", "value")), (Some(7.0.into()), Some(2.0.into())));
    assert_eq!((value("t", "count"), value("t", "sum")), (Some(3.0.into()), Some(50.0.into())));
    assert_eq!(all.iter().filter(|record| record["type"] == "event").count(), 1);
}

#[test]
fn a_process_without_the_state_of_the_one_before_goes_on_with_the_next_interval() {
    let dir = tempfile::tempdir().expect("a folder");
    let ports = ports();
    let good = config(dir.path(), &ports).replace("interval = \"1s\"", "interval = \"1h\"");
    let other = format!("state_dir = \"{}/other\"\n{good}", dir.path().display());
    let mut daemon = Daemon::start(dir.path(), &good);
    daemon.send_udp(&[b"x:3|c"]);
    daemon.status_when("a line", |status| status["lines"]["read"] == 1);
    std::fs::write(dir.path().join("systole.toml"), other).expect("written");
    let (code, said) = upgrade(&ports, "secret");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("closed and delivered its interval itself: the new process keeps its state in "), "{said}");
    assert_eq!(daemon.wait(Duration::from_secs(10)), Some(0));
    assert_eq!(sum(dir.path(), "x"), 3.0, "it is delivered by now");
    daemon.send_udp(&[b"x:1|c"]);
    let status = status_when(ports.page, "a line", |status| status["lines"]["read"] == 1);
    assert!(status["upgrade"]["no_state"].is_string(), "{status}");
    Heir(process(&status)).stop();
    assert_eq!(sum(dir.path(), "x"), 4.0);
    let all = records(&dir.path().join("records.jsonl"));
    assert_eq!(all.iter().filter(|record| record["type"] == "ledger").count(), 2);
}

#[test]
fn a_new_process_that_fails_costs_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let ports = ports();
    let good = config(dir.path(), &ports);
    let mut daemon = Daemon::start(dir.path(), &good);
    let (code, said) = upgrade(&ports, "wrong");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("token") && said.contains("or send SIGUSR2 to the process"), "{said}");
    std::fs::write(dir.path().join("systole.toml"), format!("{good}nonsense = 1\n")).expect("written");
    let (code, said) = upgrade(&ports, "secret");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("the new process cannot start: ") && said.contains("nonsense: unknown key"), "{said}");
    let status = status_when(ports.page, "the failure", |status| status["failed_upgrade"]["error"].is_string());
    assert!(status["verdict"].to_string().contains("the last upgrade failed"), "{}", status["verdict"]);
    daemon.wait_for("what is wrong", |lines| lines.iter().any(|line| line.contains("nonsense")));
    daemon.send_udp(&[b"x:1|c"]);
    daemon.closed(1);
    std::fs::write(dir.path().join("systole.toml"), good).expect("written");
    daemon.signal("-USR2");
    let before = daemon.pid();
    let status = status_when(ports.page, "another process", |status| status["pid"] != before);
    let heir = Heir(process(&status));
    assert_eq!(daemon.wait(Duration::from_secs(10)), Some(0));
    daemon.send_udp(&[b"x:1|c"]);
    // The one that the process before had read is counted when its interval is closed.
    status_when(ports.page, "a line", |status| status["lines"]["read"].as_u64() >= Some(1));
    assert!(dir.path().join("s.sock").exists());
    heir.stop();
    assert!(!dir.path().join("s.sock").exists());
    assert_eq!(sum(dir.path(), "x"), 2.0);
}

#[test]
fn a_link_that_was_found_by_its_name_alone_may_lead_elsewhere_by_now() {
    let dir = tempfile::tempdir().expect("a folder");
    let ports = ports();
    let (link, next) = (dir.path().join("bin/systole"), dir.path().join("next"));
    std::fs::create_dir(dir.path().join("bin")).expect("a folder");
    symlink(SYSTOLE, &link).expect("a link");
    let by_name = format!("PATH={}:$PATH; shift; set -- systole \"$@\"", dir.path().join("bin").display());
    let mut daemon = Daemon::start_after(dir.path(), &config(dir.path(), &ports), &by_name);
    std::fs::write(&next, format!("#!/bin/sh\nexec '{SYSTOLE}' \"$@\"\n")).expect("written");
    std::fs::set_permissions(&next, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    std::fs::remove_file(&link).expect("removed");
    symlink(&next, &link).expect("a link");
    let (code, said) = upgrade(&ports, "secret");
    assert_eq!(code, Some(0), "{said}");
    let file = next.canonicalize().expect("a file").display().to_string();
    assert!(said.contains(&format!(", {file} ({})) runs in place", link.display())), "{said}");
    let before = daemon.pid();
    let status = status_when(ports.page, "another process", |status| status["pid"] != before);
    daemon.wait_for("the file in the log", |lines| lines.iter().any(|line| line.contains(&file)));
    Heir(process(&status)).stop();
}

#[test]
fn a_new_process_that_ends_when_its_turn_has_come_costs_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let ports = ports();
    // The old process has no turn to pass.
    let mut daemon = Daemon::start_faulty(dir.path(), &config(dir.path(), &ports), &[], "turn@1");
    let tcp = TcpStream::connect(("127.0.0.1", ports.statsd)).expect("somebody listens");
    // One connection stays open.
    (&tcp).write_all(b"x:0|c\nx:").expect("sent");
    let send = || {
        (&tcp).write_all(b"1|c\nx:").expect("sent");
        daemon.send_udp(&[b"x:1|c"]);
        let unix = UnixDatagram::unbound().expect("a socket");
        unix.send_to(b"x:1|c", dir.path().join("s.sock")).expect("somebody has the socket");
        let mut tcp = TcpStream::connect(("127.0.0.1", ports.statsd)).expect("somebody listens");
        tcp.write_all(b"x:1|c\n").expect("sent");
    };
    send();
    for n in 1..=2 {
        let (code, said) = upgrade(&ports, "secret");
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("the new process has ended"), "{said}");
        send();
        daemon.status_when("four lines", |status| status["lines"]["read"] == 4 * (n + 1) + 1);
    }
    drop(tcp);
    daemon.next_flush();
    daemon.signal("-TERM");
    assert_eq!(daemon.wait(Duration::from_secs(10)), Some(0));
    assert_eq!(sum(dir.path(), "x"), 12.0);
}

#[test]
fn connections_are_passed_on_in_the_middle_of_a_line() {
    let dir = tempfile::tempdir().expect("a folder");
    let ports = ports();
    let path = dir.path().join("stream.sock");
    let config = format!(
        "{}[[listen]]\nurl = \"unix://{}\"\nframing = \"length\"\n",
        config(dir.path(), &ports).replace("interval = \"1s\"", "interval = \"1h\""),
        path.display()
    );
    let mut daemon = Daemon::start(dir.path(), &config);
    let tcp = TcpStream::connect(("127.0.0.1", ports.statsd)).expect("somebody listens");
    let unix = UnixStream::connect(&path).expect("somebody listens");
    let silent: Vec<_> = (0..100).map(|_| TcpStream::connect(("127.0.0.1", ports.statsd)).expect("a socket")).collect();
    // What does not fit into a message is read to its end by the process that has begun.
    let long = TcpStream::connect(("127.0.0.1", ports.statsd)).expect("somebody listens");
    (&long).write_all(&[b"x:0|c\n".to_vec(), vec![b'l'; 9000]].concat()).expect("sent");
    (&tcp).write_all(b"x:1|c\nx:1").expect("sent");
    (&unix).write_all(b"\x05\0\0\0x:1|c\x05\0\0\0x:").expect("sent");
    daemon.status_when("three lines", |status| status["lines"]["read"] == 3);
    let mut heir: Option<Heir> = None;
    for n in 1..=2 {
        let (code, said) = upgrade(&ports, "secret");
        assert_eq!(code, Some(0), "{said}");
        (&tcp).write_all(b"0|c\nx:1").expect("sent");
        (&unix).write_all(b"1|c\x05\0\0\0x:").expect("sent");
        let before = heir.as_ref().map_or(daemon.pid(), |heir| heir.0);
        let next = |status: &Value| status["pid"] != before && status["lines"]["read"] == 2;
        heir = Some(Heir(process(&status_when(ports.page, &format!("two lines after upgrade {n}"), next))));
    }
    assert_eq!(daemon.wait(Duration::from_secs(10)), Some(0));
    for silent in &silent {
        let mut silent = silent;
        silent.write_all(b"y:1|c\n").expect("sent");
    }
    status_when(ports.page, "all lines", |status| status["lines"]["read"] == 102);
    let screen = systole(&["status", "--token", "secret", "--url", &format!("http://{}", ports.page)], b"");
    let screen = text(&screen.stdout);
    assert!(screen.contains("  0 connections and 101 taken over, "), "{screen}");
    drop((tcp, unix, long, silent));
    heir.expect("two took over").stop();
    assert_eq!((sum(dir.path(), "x"), sum(dir.path(), "y")), (24.0, 100.0));
    let all = records(&dir.path().join("records.jsonl"));
    let counted = |of: &str| -> f64 {
        let ledgers = all.iter().filter(|record| record["type"] == "ledger");
        ledgers
            .flat_map(|ledger| ledger["listeners"].as_array().cloned().unwrap_or_default())
            .filter_map(|one| one[of].as_f64())
            .sum()
    };
    assert_eq!(counted("connections"), 103.0, "each is counted where it was accepted");
}

#[test]
fn the_service_manager_is_told_to_close_sockets_that_an_upgrade_gives_up() {
    let dir = tempfile::tempdir().expect("a folder");
    let ports = ports();
    let path = dir.path().join("notify");
    let manager = UnixDatagram::bind(&path).expect("a socket");
    manager.set_read_timeout(Some(Duration::from_secs(20))).expect("it can be set");
    // Messages until one of them says this; the names of the sockets that it is to keep, or to close.
    let names_until = |last: &str, what: &str| {
        let mut names = Vec::new();
        loop {
            let mut buffer = [0; 256];
            let count = manager.recv(&mut buffer).expect("a message");
            let said = text(&buffer[..count]);
            if said.contains(what) {
                names.extend(said.lines().find_map(|line| line.strip_prefix("FDNAME=")).map(str::to_string));
            }
            if said.contains(last) {
                return names;
            }
        }
    };
    let good = config(dir.path(), &ports);
    let environment = [("NOTIFY_SOCKET", path.to_str().expect("a plain path")), ("FDSTORE", "8")];
    let mut daemon = Daemon::start_in(dir.path(), &good, "", &environment);
    let kept = names_until("READY=1", "FDSTORE=1");
    // Two workers have one name.
    assert!(kept.len() == 4 && kept[0] == kept[1] && kept[1] != kept[2], "{kept:?}");
    let without = good.replace(&format!("[[listen]]\nurl = \"tcp://127.0.0.1:{}\"\n", ports.statsd), "");
    assert_ne!(without, good);
    std::fs::write(dir.path().join("systole.toml"), without).expect("written");
    let (code, said) = upgrade(&ports, "secret");
    assert_eq!(code, Some(0), "{said}");
    let before = daemon.pid();
    let heir = Heir(process(&status_when(ports.page, "another process", |status| status["pid"] != before)));
    let forgotten = names_until("READY=1", "FDSTOREREMOVE=1");
    assert!(forgotten.contains(&kept[2]) && !forgotten.contains(&kept[0]), "{forgotten:?} of {kept:?}");
    assert_eq!(daemon.wait(Duration::from_secs(10)), Some(0));
    heir.stop();
}

#[test]
fn a_socket_of_the_service_manager_is_passed_on() {
    let dir = tempfile::tempdir().expect("a folder");
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let to = socket.local_addr().expect("an address");
    let page = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let config = format!(
        "interval = \"1s\"\n[[listen]]\nurl = \"fd://0\"\n[[sink]]\ntype = \"file\"\npath = \"{}/records.jsonl\"\n[http]\n\
         address = \"{page}\"\n",
        dir.path().display()
    );
    let mut daemon = Daemon::start_inheriting(dir.path(), &config, socket.try_clone().expect("a socket").into());
    let sender = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    sender.send_to(b"x:1|c", to).expect("sent");
    let before = status_when(page, "a line", |status| status["lines"]["read"] == 1);
    daemon.signal("-USR2");
    let after = status_when(page, "another process", |status| status["pid"] != before["pid"]);
    let heir = Heir(process(&after));
    assert_eq!(daemon.wait(Duration::from_secs(10)), Some(0));
    sender.send_to(b"x:1|c", to).expect("sent");
    status_when(page, "a line", |status| status["lines"]["read"].as_u64() >= Some(1));
    heir.stop();
    assert_eq!(sum(dir.path(), "x"), 2.0);
}
