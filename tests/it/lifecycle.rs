//! The daemon as a library runs it: bound, started, drained and stopped, again and again in one process.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use systole::{Config, Daemon, Delivery, DriverOptions, Receipt, Running, Sink, SinkError, Snapshot};
use tokio::runtime::Runtime;

use crate::support::{get, runtime, until};

const GRACE: Duration = Duration::from_secs(20);

/// Keeps every interval.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<Arc<Snapshot>>>>);

impl Sink for Kept {
    fn deliver<'a>(&'a mut self, snapshot: &'a Arc<Snapshot>) -> Delivery<'a, Result<Receipt, SinkError>> {
        Box::pin(async move {
            self.0.lock().expect("nobody panicked").push(Arc::clone(snapshot));
            Ok(Receipt::new(0, []))
        })
    }

    fn close(&mut self) -> Delivery<'_, ()> {
        Box::pin(async {})
    }
}

impl Kept {
    /// Sum of a counter over all intervals.
    fn sum(&self, name: &str) -> f64 {
        let snapshots = self.0.lock().expect("nobody panicked");
        let counters = snapshots.iter().flat_map(|snapshot| &snapshot.counters);
        counters.filter(|counter| counter.series.name() == name).map(|counter| counter.sum.value()).sum()
    }
}

/// Where a daemon listens.
#[derive(Clone, Copy)]
struct Ports {
    udp: SocketAddr,
    tcp: SocketAddr,
    http: SocketAddr,
    management: SocketAddr,
}

fn bind(runtime: &Runtime, ports: Option<Ports>, kept: &Kept) -> (Daemon, Ports) {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let wanted = ports.unwrap_or(Ports { udp: any, tcp: any, http: any, management: any });
    let text = format!(
        "state_dir = \"off\"\ninterval = \"10m\"\nself_metrics = false\n[[listen]]\nurl = \"udp://{}\"\nworkers = 1\n[[listen]]\nurl = \"tcp://{}\"\n\
         [http]\naddress = \"{}\"\n[management]\naddress = \"{}\"\n[presence]\nstate_file = \"off\"\n",
        wanted.udp, wanted.tcp, wanted.http, wanted.management
    );
    let mut config = Config::parse(&text).expect("a good configuration");
    config.sinks.clear();
    let options = DriverOptions::new("kept", "kept", config.interval);
    let _inside = runtime.enter();
    let daemon = Daemon::bind(config).expect("the ports are free").with_sink(options, Box::new(kept.clone()));
    let urls = daemon.listeners();
    let of = |scheme: &str| {
        let url = urls.iter().find_map(|url| url.strip_prefix(scheme)).expect("such a listener");
        url.parse().expect("an address")
    };
    let bound = Ports {
        udp: of("udp://"),
        tcp: of("tcp://"),
        http: daemon.http_address().expect("HTTP is on"),
        management: daemon.management_address().expect("the management port is on"),
    };
    (daemon, bound)
}

fn start(runtime: &Runtime, daemon: Daemon) -> Running {
    let _inside = runtime.enter();
    daemon.start().expect("it starts")
}

/// Names of this process's threads that belong to a daemon at these ports. Others of this test binary run daemons as
/// processes of their own.
fn threads(ports: Ports) -> Vec<String> {
    let own = [format!("udp-{}-0", ports.udp.port()), format!("tcp-{}", ports.tcp.port()), "flush".into()];
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux has it").flatten();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    names.map(|name| name.trim().to_string()).filter(|name| own.contains(name)).collect()
}

#[test]
fn a_daemon_stops_and_starts_again_at_its_ports_and_leaves_nothing_behind() {
    let runtime = runtime();
    let mut ports = None;
    for round in 0..3 {
        let kept = Kept::default();
        let (daemon, bound) = bind(&runtime, ports, &kept);
        ports = Some(bound);
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        // The kernel keeps what comes before the start.
        udp.send_to(b"u:1|c", bound.udp).expect("sent");
        let mut running = start(&runtime, daemon);
        assert!(running.health().ready && running.health().on_time);
        assert_eq!(get(bound.http, "/ready", "").0, 200);
        udp.send_to(b"u:2|c", bound.udp).expect("sent");
        let mut tcp = TcpStream::connect(bound.tcp).expect("connected");
        tcp.write_all(b"t:4|c\n").expect("sent");
        let mut management = TcpStream::connect(bound.management).expect("connected");
        management.set_read_timeout(Some(GRACE)).expect("set");
        management.write_all(b"health\n").expect("sent");
        let mut answer = [0; 11];
        management.read_exact(&mut answer).expect("an answer");
        assert_eq!(&answer, b"health: up\n");

        let deadline = Instant::now() + GRACE;
        runtime.block_on(running.drain(deadline)).expect("it drains");
        assert!(!running.health().ready);
        assert_eq!(get(bound.http, "/ready", "").0, 503);
        assert!(kept.0.lock().expect("nobody panicked").is_empty(), "the interval is still open");
        // Its own end was told, and nothing is read any more.
        assert_eq!(tcp.read(&mut [0]).expect("the end"), 0);
        runtime.block_on(running.stop(deadline)).expect("it stops");

        assert_eq!((kept.sum("u"), kept.sum("t")), (3.0, 4.0), "round {round}");
        assert_eq!(kept.0.lock().expect("nobody panicked").len(), 1, "one interval");
        assert_eq!(management.read(&mut [0]).expect("the end"), 0, "an open conversation ends");
        until("without tasks", || runtime.metrics().num_alive_tasks() == 0);
        until("without threads", || threads(bound).is_empty());
    }
}

#[test]
fn a_daemon_that_is_dropped_gives_its_ports_back() {
    let runtime = runtime();
    let kept = Kept::default();
    let (daemon, ports) = bind(&runtime, None, &kept);
    drop(daemon);
    let (daemon, ports) = bind(&runtime, Some(ports), &kept);
    drop(start(&runtime, daemon));
    let addresses = [ports.tcp, ports.http, ports.management];
    until("free", || addresses.iter().all(|address| TcpListener::bind(address).is_ok()));
    until("free", || UdpSocket::bind(ports.udp).is_ok());
    until("without tasks", || runtime.metrics().num_alive_tasks() == 0);
    until("without threads", || threads(ports).is_empty());
}

#[test]
fn two_sinks_of_one_name_are_refused() {
    let runtime = runtime();
    let (daemon, _) = bind(&runtime, None, &Kept::default());
    let options = DriverOptions::new("kept", "kept", Duration::from_secs(1));
    let _inside = runtime.enter();
    let error = daemon.with_sink(options, Box::new(Kept::default())).start().expect_err("twice the same name");
    assert_eq!(error.to_string(), "sink kept: there are two of this name");
}
