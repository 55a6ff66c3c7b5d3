//! Daemons as nodes of a cluster, on a bus in memory: what was sent to any of them is at the sinks once.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use systole::internals::cluster_bus::{MemoryBus, MemoryFault, MemoryOptions};
use systole::{Config, CounterPoint, Daemon, Delivery, DriverOptions, Receipt, Running, Sink, SinkError, Snapshot};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::support::{get, pause_ms, runtime, systole, text, until};

const GRACE: Duration = Duration::from_secs(20);

/// A counter of an interval: its name, and the end of the interval.
type Key = (String, u64);

/// A sink of all nodes that overwrites, as a database does, and tells when a value is replaced by another one. It knows how often
/// each was delivered.
#[derive(Clone, Default)]
pub struct Table(Arc<Mutex<BTreeMap<Key, (f64, u32)>>>);

impl Sink for Table {
    fn deliver<'a>(&'a mut self, snapshot: &'a Arc<Snapshot>) -> Delivery<'a, Result<Receipt, SinkError>> {
        Box::pin(async move {
            let mut all = self.0.lock().expect("nobody panicked");
            // Those of presence have tags, and are of the node that notifies.
            let own = |point: &&CounterPoint| !point.series.name().starts_with("presence_");
            for point in snapshot.counters.iter().filter(own) {
                let key = (point.series.name().to_string(), snapshot.end.to_bits());
                let (value, times) = all.entry(key.clone()).or_insert((point.sum.value(), 0));
                assert!(*value == point.sum.value(), "{key:?} was {value}");
                *times += 1;
            }
            // Levels of presence, by their tags, too.
            for point in snapshot.gauges.iter().filter(|point| point.series.name().starts_with("presence_")) {
                let key = (point.series.to_string(), snapshot.end.to_bits());
                all.entry(key).or_insert((0.0, 0)).1 += 1;
            }
            Ok(Receipt::new(0, []))
        })
    }

    fn close(&mut self) -> Delivery<'_, ()> {
        Box::pin(async {})
    }
}

impl Table {
    /// How often anything of presence came for one interval, at most; 0 if nothing of it came after a time.
    pub fn most_of_presence(&self, after: f64) -> u32 {
        let all = self.0.lock().expect("nobody panicked");
        let counts =
            all.iter().filter(|((name, end), _)| name.starts_with("presence_") && f64::from_bits(*end) > after);
        counts.map(|(_, (_, times))| *times).max().unwrap_or(0)
    }

    /// Sum over all intervals of the counters whose names begin so.
    fn sum(&self, prefix: &str) -> f64 {
        let all = self.0.lock().expect("nobody panicked");
        all.iter().filter(|((name, _), _)| name.starts_with(prefix)).map(|(_, (value, _))| value).sum()
    }

    /// Whether something was delivered twice.
    fn has_doubles(&self) -> bool {
        self.0.lock().expect("nobody panicked").values().any(|(_, times)| *times > 1)
    }
}

pub struct Node {
    pub running: Running,
    pub udp: SocketAddr,
    pub http: SocketAddr,
}

/// Nodes on one bus, and the sink of those that merge.
pub struct Fleet {
    pub runtime: Runtime,
    dir: TempDir,
    pub bus: Arc<MemoryBus>,
    pub table: Table,
    /// More of the configuration of nodes that judge.
    pub more: String,
}

impl Fleet {
    pub fn new() -> Fleet {
        let dir = tempfile::tempdir().expect("a folder");
        let bus = MemoryBus::new(MemoryOptions::default());
        Fleet { runtime: runtime(), dir, bus, table: Table::default(), more: String::new() }
    }

    pub fn start(&self, name: &str, role: &str) -> Node {
        self.start_in(self.dir.path(), name, role)
    }

    /// Starts a node that keeps its state in a folder.
    fn start_in(&self, dir: &Path, name: &str, role: &str) -> Node {
        let more = if role == "edge" { "" } else { &self.more };
        node(&self.runtime, &self.bus, &self.table, dir, (name, role, more))
    }

    pub fn stop(&self, node: Node) {
        self.stop_within(node, GRACE);
    }

    fn stop_within(&self, node: Node, grace: Duration) {
        self.runtime.block_on(node.running.stop(Instant::now() + grace)).expect("it stops");
    }

    /// Waits until the sink has all that was sent under a name, and no more.
    fn has_all(&self, prefix: &str, sent: f64) {
        until("all of it is there", || self.table.sum(prefix) >= sent);
        assert_eq!(self.table.sum(prefix), sent);
    }
}

/// What is wrong with the cluster, as a node sees it.
fn problems(node: &Node) -> String {
    let status: serde_json::Value = serde_json::from_str(&get(node.http, "/api/v1/cluster", "").1).expect("JSON");
    status["problems"].to_string()
}

fn node(
    runtime: &Runtime,
    bus: &Arc<MemoryBus>,
    table: &Table,
    dir: &Path,
    (name, role, more): (&str, &str, &str),
) -> Node {
    node_with(runtime, bus, table, dir, (name, role, more), "1s")
}

fn node_with(
    runtime: &Runtime,
    bus: &Arc<MemoryBus>,
    table: &Table,
    dir: &Path,
    (name, role, more): (&str, &str, &str),
    interval: &str,
) -> Node {
    let text = format!(
        "state_dir = \"off\"\ninterval = \"{interval}\"\nself_metrics = false\n[[listen]]\nurl = \"udp://127.0.0.1:0\"\nworkers = 1\n\
         [http]\naddress = \"127.0.0.1:0\"\n[presence]\nstate_file = \"off\"\n\
         [cluster]\nrole = \"{role}\"\nbus = [\"memory:1\"]\nnode = \"{name}\"\npartitions = 8\nlateness = \"3s\"\n\
         state_file = \"{}\"\n{more}",
        dir.join(format!("{name}.state")).display()
    );
    let mut config = Config::parse(&text).expect("a good configuration");
    config.sinks.clear();
    let options = DriverOptions::new("table", "table", config.interval);
    let _inside = runtime.enter();
    let daemon = Daemon::bind(config).expect("the ports are free").with_bus(bus.clone());
    let daemon = if role == "edge" { daemon } else { daemon.with_sink(options, Box::new(table.clone())) };
    let urls = daemon.listeners();
    let udp = urls.first().map_or(SocketAddr::from(([127, 0, 0, 1], 9)), |url| {
        url.strip_prefix("udp://").expect("of UDP").parse().expect("an address")
    });
    let http = daemon.http_address().expect("HTTP is on");
    Node { running: daemon.start().expect("it starts"), udp, http }
}

/// Sends lines to nodes in turn, for a while; how many.
fn send(to: &[SocketAddr], name: &str, during: Duration) -> f64 {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let (began, mut sent) = (Instant::now(), 0_u32);
    while began.elapsed() < during {
        for (n, to) in to.iter().enumerate() {
            let line = format!("{name}.{}:1|c", (sent + n as u32) % 40);
            socket.send_to(line.as_bytes(), to).expect("sent");
        }
        sent += 1;
        pause_ms(2);
    }
    f64::from(sent) * to.len() as f64
}

#[test]
fn what_was_sent_to_any_node_is_at_the_sinks_once_while_nodes_come_and_go() {
    let fleet = Fleet::new();
    let (a, b, c) = (fleet.start("a", "edge+global"), fleet.start("b", "edge+global"), fleet.start("c", "edge"));
    let mut sent = send(&[a.udp, b.udp, c.udp], "all", Duration::from_secs(3));
    // One that merges leaves, and comes back; then an edge does.
    fleet.stop(b);
    sent += send(&[a.udp, c.udp], "all", Duration::from_secs(2));
    let b = fleet.start("b", "edge+global");
    fleet.stop(c);
    sent += send(&[a.udp, b.udp], "all", Duration::from_secs(3));
    fleet.has_all("all.", sent);
    let status: serde_json::Value = serde_json::from_str(&get(a.http, "/api/v1/cluster", "").1).expect("JSON");
    assert_eq!(status["partitions"].as_array().map(Vec::len), Some(8), "{status}");
    let said = systole(&["cluster", "status", "--url", &format!("http://{}", a.http)], b"");
    let screen = text(&said.stdout);
    assert!(screen.starts_with("All is well.\n\nnode        a (edge+global)\n") && said.status.success(), "{screen}");
    fleet.stop(a);
    fleet.stop(b);
}

#[test]
fn a_bus_that_is_away_costs_nothing_that_was_sent_meanwhile() {
    let fleet = Fleet::new();
    let (edge, global) = (fleet.start("edge", "edge"), fleet.start("global", "global"));
    let mut sent = send(&[edge.udp], "away", Duration::from_secs(2));
    fleet.bus.set_fault(MemoryFault::Away);
    sent += send(&[edge.udp], "away", Duration::from_secs(8));
    fleet.bus.set_fault(MemoryFault::None);
    sent += send(&[edge.udp], "away", Duration::from_secs(2));
    fleet.has_all("away.", sent);
    fleet.stop(edge);
    fleet.stop(global);
}

#[test]
fn nothing_is_late_because_the_bus_was_full() {
    let fleet = Fleet::new();
    let (edge, both) = (fleet.start("edge", "edge"), fleet.start("both", "edge+global"));
    let mut sent = send(&[edge.udp, both.udp], "full", Duration::from_secs(2));
    fleet.bus.set_fault(MemoryFault::Full);
    sent += send(&[edge.udp, both.udp], "full", Duration::from_secs(9));
    fleet.bus.set_fault(MemoryFault::None);
    sent += send(&[edge.udp, both.udp], "full", Duration::from_secs(2));
    fleet.has_all("full.", sent);
    fleet.stop(edge);
    fleet.stop(both);
}

#[test]
fn each_partition_has_one_owner_after_all_records_were_lost() {
    let fleet = Fleet::new();
    let nodes = ["a", "b", "c"].map(|name| fleet.start(name, "edge+global"));
    let udp: Vec<SocketAddr> = nodes.iter().map(|node| node.udp).collect();
    let mut sent = send(&udp, "lost", Duration::from_secs(4));
    fleet.bus.lose_records();
    sent += send(&udp, "lost", Duration::from_secs(4));
    fleet.has_all("lost.", sent);
    let owners = || -> Vec<u64> {
        let status = |node: &Node| -> serde_json::Value {
            serde_json::from_str(&get(node.http, "/api/v1/cluster", "").1).expect("JSON")
        };
        let all = nodes.each_ref().map(status);
        (0..8).map(|at| all.iter().filter(|one| one["partitions"][at]["is_ours"] == true).count() as u64).collect()
    };
    until("each partition has one owner", || owners() == [1; 8]);
    assert!(!fleet.table.has_doubles());
    nodes.into_iter().for_each(|node| fleet.stop(node));
}

#[test]
fn what_a_bus_does_not_take_before_a_stop_is_sent_by_the_next_start() {
    let fleet = Fleet::new();
    let (edge, global) = (fleet.start("edge", "edge"), fleet.start("global", "global"));
    let mut sent = send(&[edge.udp], "kept", Duration::from_secs(2));
    fleet.bus.set_fault(MemoryFault::Away);
    sent += send(&[edge.udp], "kept", Duration::from_secs(2));
    fleet.stop_within(edge, Duration::from_secs(1));
    fleet.bus.set_fault(MemoryFault::None);
    let edge = fleet.start("edge", "edge");
    sent += send(&[edge.udp], "kept", Duration::from_secs(1));
    fleet.has_all("kept.", sent);
    fleet.stop(edge);
    fleet.stop(global);
}

#[test]
fn a_second_node_of_the_same_name_is_told() {
    let fleet = Fleet::new();
    let start = |folder: &str| fleet.start_in(&fleet.dir.path().join(folder), "same", "global");
    let (one, two) = (start("one"), start("two"));
    until("both say so", || {
        [&one, &two].iter().all(|node| problems(node).contains("another node runs under the name same"))
    });
    fleet.stop(one);
    fleet.stop(two);
}

#[test]
fn the_earlier_of_two_nodes_of_one_name_is_merged_again_when_the_later_one_is_gone() {
    for (role, others) in [("edge", &["one", "two"][..]), ("edge+global", &["one"])] {
        let fleet = Fleet::new();
        let others: Vec<Node> = others.iter().map(|name| fleet.start(name, "global")).collect();
        let start = |folder: &str| fleet.start_in(&fleet.dir.path().join(folder), "same", role);
        let ready = |node: &Node| get(node.http, "/ready", "");
        let earlier = start("earlier");
        let before = send(&[earlier.udp], "before", Duration::from_secs(2));
        fleet.has_all("before.", before);
        let later = start("later");
        until("the earlier one is not ready", || ready(&earlier).0 == 503);
        assert!(problems(&earlier).contains("until that one is gone"), "{}", problems(&earlier));
        send(&[earlier.udp], "ignored", Duration::from_secs(2));
        let sent = send(&[later.udp], "later", Duration::from_secs(2));
        until("it is told", || problems(&others[0]).contains("batches of an edge are ignored"));
        fleet.stop(later);
        until("the earlier one is ready again", || ready(&earlier) == (200, "ready\n".into()));
        assert!(!problems(&earlier).contains("under the name"), "{}", problems(&earlier));
        let after = send(&[earlier.udp], "after", Duration::from_secs(2));
        fleet.has_all("after.", after);
        for (name, sent) in [("before.", before), ("later.", sent), ("ignored.", 0.0)] {
            assert_eq!(fleet.table.sum(name), sent, "{role} {name}");
        }
        fleet.stop(earlier);
        others.into_iter().for_each(|node| fleet.stop(node));
    }
}

#[test]
fn an_edge_tells_that_no_node_merges_and_which_one_has_another_interval() {
    let fleet = Fleet::new();
    let (edge, global) = (fleet.start("edge", "edge"), fleet.start("global", "global"));
    let slow = node_with(&fleet.runtime, &fleet.bus, &fleet.table, fleet.dir.path(), ("slow", "edge", ""), "2s");
    until("partitions have owners", || {
        get(edge.http, "/api/v1/cluster", "").1.contains("\"node\":\"global\",\"start\"")
    });
    for node in [&edge, &global] {
        until("the other interval is told", || {
            problems(node).contains("the node slow has an interval of 2 s, this one 1 s: they cannot be merged")
        });
        assert!(!problems(node).contains("no node merges"), "{}", problems(node));
    }
    fleet.stop(global);
    until("the edge says so", || problems(&edge).contains("no node merges: none with the role"));
    assert!(!problems(&edge).contains("not heard"), "it has stopped on purpose: {}", problems(&edge));
    let url = format!("http://{}", edge.http);
    let said = systole(&["cluster", "status", "--url", &url], b"");
    let screen = text(&said.stdout);
    assert!(
        screen.contains("node        global: global, ")
            && screen.contains(", stopped\n")
            && said.status.code() == Some(1),
        "{screen}"
    );
    assert_eq!(systole(&["status", "--url", &url], b"").status.code(), Some(1));
    let scraped = get(edge.http, "/metrics", "").1;
    for line in ["systole_cluster_nodes{role=\"edge\",state=\"live\"} 2", "systole_cluster_bus_answers 1"] {
        assert!(scraped.lines().any(|one| one == line), "{line}: {scraped}");
    }
    fleet.stop(edge);
    fleet.stop(slow);
}

#[test]
fn without_the_bus_an_edge_is_ready_as_long_as_it_can_keep_what_it_hears_and_who_only_merges_is_not() {
    let fleet = Fleet::new();
    let (edge, global) = (fleet.start("edge", "edge"), fleet.start("global", "global"));
    let ready = |node: &Node| get(node.http, "/ready", "");
    until("both are ready", || [&edge, &global].iter().all(|node| ready(node) == (200, "ready\n".into())));
    fleet.bus.set_fault(MemoryFault::Away);
    until("the node that merges is not", || ready(&global).0 == 503);
    let why = ready(&global).1;
    assert!(why.contains("nothing is merged here: the bus of the cluster is away"), "{why}");
    until("the edge says what it keeps", || ready(&edge).1.starts_with("ready; the bus of the cluster is away; "));
    assert_eq!(ready(&edge).0, 200);
    assert!(
        problems(&edge).contains("connected and stores nothing: most of its servers are away"),
        "{}",
        problems(&edge)
    );
    fleet.bus.set_fault(MemoryFault::None);
    until("both are ready again", || [&edge, &global].iter().all(|node| ready(node).1 == "ready\n"));
    fleet.stop(edge);
    fleet.stop(global);
}

#[test]
fn a_check_warns_of_what_comes_to_nothing_in_a_cluster() {
    let sink = "[[sink]]\ntype = \"file\"\npath = \"a.jsonl\"\n";
    let notify = "[[notify]]\ntype = \"ntfy\"\nurl = \"http://127.0.0.1:9/a\"\n";
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("a.toml");
    let warnings = |role: &str, more: &str| {
        std::fs::write(&path, format!("[cluster]\nbus = [\"127.0.0.1:9\"]\n{role}\n{more}")).expect("written");
        let output = systole(&["check", "-c", &path.display().to_string()], b"");
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stderr)
    };
    for (role, more, expected) in [
        ("", "", "nothing else of [cluster] does anything"),
        ("role = \"global\"", "", "has no `[[sink]]`"),
        ("role = \"edge\"", sink, "an edge hands all to the cluster and uses no sink"),
        ("role = \"edge\"", notify, "an edge notifies nobody; nodes that merge need it"),
    ] {
        let said = warnings(role, more);
        assert!(said.contains(expected), "{expected}: {said}");
    }
    assert_eq!(warnings("role = \"edge+global\"", sink), "");
    assert_eq!(warnings("role = \"edge\"", ""), "");
}

#[test]
fn a_drain_is_refused_without_the_token_and_says_so_by_a_node_that_only_merges() {
    let fleet = Fleet::new();
    let global = fleet.start("global", "global");
    let output = systole(&["cluster", "drain", "--url", &format!("http://{}", global.http)], b"");
    let said = text(&output.stderr);
    assert!(said.contains("`http.token`") && said.contains("A stop of the node"), "{said}");
    assert!(!said.contains("presence"), "{said}");
    fleet.stop(global);
}

#[test]
fn a_sink_that_would_lose_what_it_gathers_is_a_mistake() {
    let text = "[cluster]\nrole = \"global\"\nlate = \"amend\"\n[[sink]]\ntype = \"prometheus\"\ninterval = \"20s\"\n";
    let problems = Config::parse(text).expect_err("mistakes").to_string();
    for part in [
        "`bus = [\"127.0.0.1:4222\"]` is right",
        "has the interval of the cluster",
        "`cluster.late = \"drop\"` is right",
    ] {
        assert!(problems.contains(part), "{part}: {problems}");
    }
}
