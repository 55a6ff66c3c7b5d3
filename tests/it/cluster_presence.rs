//! Presence in a cluster: whoever hears it, one alarm; whoever dies, one alarm of its own.

use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use systole::Config;
use systole::internals::cluster_bus::MemoryFault;

use crate::cluster_nodes::{Fleet, Node};
use crate::support::receiver::{Reply, serve};
use crate::support::{get, until};

/// What a pager got: the key, the phase, and when.
#[derive(Clone, Default)]
struct Pager(Arc<Mutex<Vec<(String, bool, Instant)>>>);

impl Pager {
    /// Takes webhooks; its address.
    fn serve(&self) -> SocketAddr {
        let all = Arc::clone(&self.0);
        serve("127.0.0.1:0".parse().expect("an address"), move |request| {
            let said: Value = serde_json::from_slice(&request.body).expect("JSON");
            let mut all = all.lock().expect("nobody panicked");
            let keys = said["dedup_keys"].as_array().into_iter().flatten();
            for (key, event) in keys.zip(said["events"].as_array().into_iter().flatten()) {
                let key = key.as_str().unwrap_or("none").to_string();
                all.push((key, event["resolved"] == true, Instant::now()));
            }
            Reply::Says(200, "")
        })
    }

    fn all(&self) -> Vec<(String, bool, Instant)> {
        self.0.lock().expect("nobody panicked").clone()
    }

    fn begun(&self) -> Vec<String> {
        self.all().into_iter().filter(|(_, is_over, _)| !is_over).map(|(key, _, _)| key).collect()
    }
}

/// A fleet whose judges tell a pager.
fn fleet() -> (Fleet, Pager) {
    let (mut fleet, pager) = (Fleet::new(), Pager::default());
    fleet.more = format!("[[notify]]\ntype = \"webhook\"\nurl = \"http://{}\"\n", pager.serve());
    (fleet, pager)
}

/// Sends heartbeats of services, each to one address, four times a second.
struct Senders {
    socket: UdpSocket,
    all: Vec<(String, SocketAddr)>,
}

impl Senders {
    fn new(all: &[(&str, SocketAddr)]) -> Senders {
        let all = all.iter().map(|(service, to)| ((*service).to_string(), *to)).collect();
        Senders { socket: UdpSocket::bind("127.0.0.1:0").expect("a socket"), all }
    }

    fn beat_until(&self, what: &str, is_so: impl Fn() -> bool) {
        until(what, || {
            for (service, to) in &self.all {
                let line = format!("heartbeat.{service}.1:2|g");
                self.socket.send_to(line.as_bytes(), to).expect("sent");
            }
            is_so()
        });
    }

    fn beat_for(&self, during: Duration) {
        let began = Instant::now();
        self.beat_until("the time has passed", || began.elapsed() >= during);
    }
}

fn json(node: &Node, path: &str) -> Value {
    serde_json::from_str(&get(node.http, path, "").1).expect("JSON")
}

/// The state of a service, as a node has it.
fn state(node: &Node, service: &str) -> String {
    json(node, &format!("/api/v1/presence/{service}"))["state"].as_str().unwrap_or("none").to_string()
}

fn speaker(node: &Node) -> String {
    json(node, "/api/v1/status")["observers"]["speaker"].as_str().unwrap_or("none").to_string()
}

#[test]
fn a_service_that_dies_together_with_the_node_that_notifies_is_one_alarm() {
    let (fleet, pager) = fleet();
    let (a, b) = (fleet.start("a", "edge+global"), fleet.start("b", "global"));
    let edge = fleet.start("edge", "edge");
    let mut senders = Senders::new(&[("pay", edge.udp), ("mail", edge.udp), ("web", a.udp)]);
    let all = ["pay", "mail", "web"];
    senders.beat_until("both judges know everybody", || {
        let is_known = |node: &Node| speaker(node) == "a" && all.iter().all(|one| state(node, one) == "up");
        is_known(&a) && is_known(&b)
    });
    // On a node that only receives nothing is said of who is there.
    let (status, said) = get(edge.http, "/api/v1/presence/pay/check", "");
    assert!(status == 404 && said.contains("this node only receives"), "{said}");
    let timeout = json(&b, "/api/v1/presence/pay")["instances"][0]["timeout_s"].as_f64().expect("a number");
    senders.beat_for(Duration::from_secs(2));
    assert_eq!(pager.begun(), Vec::<String>::new());
    assert_eq!(fleet.table.most_of_presence(0.0), 1, "one node gives the sinks what is known of services");

    drop(a.running);
    let (died, unix) = (Instant::now(), fleet.bus.now());
    // It finds another node.
    senders.all = vec![("mail".into(), edge.udp), ("web".into(), edge.udp)];
    senders.beat_until("the alarm is there", || pager.begun().iter().any(|key| key.contains("pay")));
    let took = died.elapsed().as_secs_f64();
    assert!(took < timeout + 7.0, "{took} s, {timeout} s: {:?}", pager.all());
    senders.beat_until("the dead node is told", || pager.begun().iter().any(|key| key.contains("Peer")));
    senders.beat_for(Duration::from_secs(3));
    let begun = pager.begun();
    assert_eq!(begun.len(), 2, "{begun:?}");
    senders.beat_until("the sinks have it from the other", || fleet.table.most_of_presence(unix + 5.0) == 1);
    assert_eq!((speaker(&b), state(&b, "mail"), state(&b, "web")), ("b".into(), "up".into(), "up".into()));
    fleet.stop(b);
    fleet.stop(edge);
}

#[test]
fn an_edge_that_dies_is_one_alarm_and_those_it_heard_are_none() {
    let (fleet, pager) = fleet();
    let (a, b) = (fleet.start("a", "global"), fleet.start("b", "global"));
    let (one, two) = (fleet.start("one", "edge"), fleet.start("two", "edge"));
    let mut senders = Senders::new(&[("pay", one.udp), ("mail", one.udp), ("web", two.udp)]);
    senders.beat_until("both judges know everybody", || {
        [&a, &b].iter().all(|node| ["pay", "mail", "web"].iter().all(|service| state(node, service) == "up"))
    });
    drop(one.running);
    // One of its senders finds another edge, and one does not.
    senders.all = vec![("pay".into(), two.udp), ("web".into(), two.udp)];
    senders.beat_until("the dead edge is told", || !pager.begun().is_empty());
    senders.beat_for(Duration::from_secs(4));
    let begun = pager.begun();
    assert!(begun.len() == 1 && begun[0].contains("one") && begun[0].contains("systole"), "{begun:?}");
    assert!(["pay", "web"].iter().all(|service| state(&b, service) == "up"));

    // It is back, and so is its last sender.
    let one = fleet.start("one", "edge");
    senders.all.push(("mail".into(), one.udp));
    senders.beat_until("that is over", || pager.all().iter().any(|(_, is_over, _)| *is_over));
    senders.beat_for(Duration::from_secs(3));
    assert_eq!((pager.all().len(), state(&a, "mail")), (2, "up".into()), "{:?}", pager.all());
    for node in [a, b, one, two] {
        fleet.stop(node);
    }
}

#[test]
fn while_the_bus_is_away_nobody_is_judged() {
    let (fleet, pager) = fleet();
    let a = fleet.start("a", "global");
    let one = fleet.start("one", "edge");
    let senders = Senders::new(&[("pay", one.udp), ("mail", one.udp)]);
    senders.beat_until("the judge knows everybody", || ["pay", "mail"].iter().all(|one| state(&a, one) == "up"));
    fleet.bus.set_fault(MemoryFault::Disconnected);
    senders.beat_until("it is told", || !pager.begun().is_empty());
    senders.beat_for(Duration::from_secs(4));
    let begun = pager.begun();
    assert!(begun.len() == 1 && begun[0].contains("the bus of systole"), "{begun:?}");
    fleet.bus.set_fault(MemoryFault::None);
    senders.beat_until("that is over", || pager.all().iter().any(|(_, is_over, _)| *is_over));
    senders.beat_for(Duration::from_secs(3));
    assert_eq!((pager.all().len(), state(&a, "pay")), (2, "up".into()), "{:?}", pager.all());
    for node in [a, one] {
        fleet.stop(node);
    }
}

#[test]
fn peers_in_a_cluster_are_a_mistake() {
    let text = "[presence]\nnode = \"x\"\npeers = [\"http://b:8127\"]\npeer_token = \"t\"\n\
                [cluster]\nrole = \"edge\"\nbus = [\"b:1\"]\nnode = \"y\"\n";
    let problems = Config::parse(text).expect_err("mistakes").to_string();
    for key in ["presence.peers", "presence.peer_token", "presence.node"] {
        assert!(problems.contains(key), "{key}: {problems}");
    }
    assert!(problems.contains("ask each other over its bus") && problems.contains("leave it out"), "{problems}");
}
