//! Upgrades through the front door: a new process takes over, and nothing that was sent is lost or counted twice.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

use crate::support::{Daemon, pause_ms, records, status_when, sum, systole, text, until};

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
        assert!(said.contains("reads the sockets without a pause"), "{said}");
        let status = status_when(ports.page, "an upgrade", |status| status["upgrade"]["is_clean"] == true);
        assert_eq!(status["upgrade"]["pause_secs"], 0.0);
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
fn a_new_process_that_fails_costs_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let ports = ports();
    let good = config(dir.path(), &ports);
    let mut daemon = Daemon::start(dir.path(), &good);
    let (code, said) = upgrade(&ports, "wrong");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("token"), "{said}");
    std::fs::write(dir.path().join("systole.toml"), format!("{good}nonsense = 1\n")).expect("written");
    let (code, said) = upgrade(&ports, "secret");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("the new process has ended"), "{said}");
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
