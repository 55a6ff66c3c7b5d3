//! Nodes of a cluster: who is one changes, and the bus that they share may be away.

use super::*;
use crate::presence::alert_book::AlertBook;
use crate::presence::policy::Policy;
use crate::presence::time::Epoch;
use crate::protocol::Heartbeat;

const TARGET: &str = "hook";

/// A node that does not answer is forgotten after so many seconds.
const FORGET_AFTER: f64 = 1000.0;

struct Node {
    name: &'static str,
    engine: Engine,
    alerts: AlertBook,
    observers: Observers,
    events: u64,
    is_dead: bool,
}

/// Judges come first, and then those that only receive.
struct Cluster {
    nodes: Vec<Node>,
    judges: usize,
    no_bus: Option<&'static str>,
    bus_answers: bool,
    now: f64,
    sent: Vec<(String, bool)>,
}

fn at(secs: f64) -> EngineTime {
    EngineTime::from_secs(secs)
}

fn unix(secs: f64) -> UnixTime {
    UnixTime::from_secs(1_700_000_000.0 + secs)
}

fn node(name: &'static str, listens_only: bool, saved: SavedObservers, now: f64) -> Node {
    let options = MemberOptions { cluster: "systole".into(), listens_only, forget_after: FORGET_AFTER };
    let engine = Engine::new(Policy::default(), at(now), 1).shared();
    let mut engine = if listens_only { engine.listening_only() } else { engine };
    engine.set_epoch(Epoch::new(unix(now), at(now)));
    let start = 1 + (now * 1e6) as u64;
    let observers = Observers::in_cluster(name, start, options, saved, std::iter::empty(), (at(now), unix(now)));
    Node { name, engine, alerts: AlertBook::new(0.0, Vec::new()), observers, events: 1, is_dead: false }
}

impl Cluster {
    fn new(judges: &[&'static str], edges: &[&'static str]) -> Cluster {
        let saved = SavedObservers::default;
        let nodes = judges.iter().map(|name| node(name, false, saved(), 0.0));
        let nodes = nodes.chain(edges.iter().map(|name| node(name, true, saved(), 0.0))).collect();
        Cluster { nodes, judges: judges.len(), no_bus: None, bus_answers: true, now: 0.0, sent: Vec::new() }
    }

    fn of(&mut self, name: &str) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.name == name).expect("a node")
    }

    fn poll(&mut self, asking: usize) {
        let (t, no_bus, answers) = (self.now, self.no_bus, self.bus_answers);
        let live = self.nodes.iter().filter(|node| !node.is_dead).map(|node| node.name.into());
        let seen: Vec<CompactString> = if no_bus.is_none() { live.collect() } else { Vec::new() };
        let Node { engine, observers, .. } = &mut self.nodes[asking];
        for (place, name) in observers.set_members(&seen, (no_bus, answers), engine) {
            let since = self.nodes[asking].observers.cursor(place);
            let asked = self.nodes.iter_mut().find(|node| node.name == name).expect("a node");
            asked.engine.at(at(t));
            let digest = (!asked.is_dead && no_bus.is_none()).then(|| {
                let digest = asked.observers.digest(&asked.engine, since, unix(t));
                Digest::read(&serde_json::to_vec(&digest).expect("JSON")).expect("an answer")
            });
            let Node { engine, observers, .. } = &mut self.nodes[asking];
            match digest {
                Some(digest) => drop(observers.take_digest(place, digest, engine, (at(t), unix(t))).expect("taken")),
                None => observers.miss(place, Missed::Silent, engine),
            }
        }
    }

    fn tick(&mut self, which: usize) {
        let t = self.now;
        let one = &mut self.nodes[which];
        if one.observers.may_judge(at(t)) {
            one.engine.tick(at(t));
        }
        one.observers.tick(&mut one.engine, unix(t));
        for event in one.engine.take_events() {
            let event = event.in_unix_time(Epoch::new(unix(t), at(t)));
            let notifications = one.alerts.take(one.events, &event);
            one.observers.note(notifications, at(t));
            one.events += 1;
        }
        if one.observers.listens_only() {
            return;
        }
        one.observers.note_target(TARGET, true);
        let spoken = one.observers.speak(&one.engine, TARGET);
        for sent in &spoken.notifications {
            one.observers.note_arrived(TARGET, &crate::presence::which(sent), at(t));
        }
        self.sent.extend(spoken.notifications.into_iter().map(|one| (one.alarm.key.dedup_key(), one.resolved)));
    }

    /// Time passes; beats come every five seconds: a service, and the node that hears it.
    fn run(&mut self, secs: f64, beats: &[(&str, &str)]) {
        let until = self.now + secs;
        while self.now < until {
            for node in self.nodes.iter_mut().filter(|node| !node.is_dead) {
                node.engine.at(at(self.now));
            }
            if self.now % 5.0 == 0.0 {
                for (service, to) in beats {
                    let beat = Heartbeat {
                        service: (*service).into(),
                        instance: "1".into(),
                        interval: Some(10.0),
                        ..Heartbeat::default()
                    };
                    self.of(to).engine.beat(&beat);
                }
            }
            let live = |cluster: &Cluster, node: usize| !cluster.nodes[node].is_dead;
            for judge in 0..self.judges {
                if live(self, judge) {
                    self.poll(judge);
                }
            }
            for node in 0..self.nodes.len() {
                if live(self, node) {
                    self.tick(node);
                }
            }
            self.now += 0.5;
        }
    }

    fn take_sent(&mut self) -> Vec<(String, bool)> {
        std::mem::take(&mut self.sent)
    }

    fn state(&self, judge: usize, service: &str) -> String {
        let view = self.nodes[judge].engine.view_of(service, Epoch::new(unix(self.now), at(self.now)));
        view.map_or("none".into(), |view| view.state.to_string())
    }

    fn peers(&self, judge: usize) -> usize {
        self.nodes[judge].observers.view(&self.nodes[judge].engine).peers.len()
    }
}

fn peer(nodes: &str) -> String {
    format!("PresencePeerUnreachable/{nodes}")
}

#[test]
fn one_alarm_for_a_lost_node_whoever_asks_it_and_none_for_one_that_was_stopped() {
    let mut all = Cluster::new(&["a", "b", "c"], &["one", "two", "three"]);
    all.run(60.0, &[("pay", "one"), ("mail", "two")]);
    assert_eq!((all.take_sent(), all.peers(0)), (vec![], 5));
    all.of("one").is_dead = true;
    all.run(60.0, &[("pay", "three"), ("mail", "two")]);
    assert_eq!((all.take_sent(), all.state(1, "pay")), (vec![(peer("one/systole"), false)], "up".into()));
    // Two is stopped, and says so.
    all.of("two").observers.leave();
    all.run(1.0, &[]);
    all.of("two").is_dead = true;
    all.run(400.0, &[("pay", "three"), ("mail", "three")]);
    assert_eq!((all.take_sent(), all.peers(0), all.state(1, "mail")), (vec![], 4, "up".into()));
    // One is forgotten at last.
    all.run(700.0, &[("pay", "three"), ("mail", "three")]);
    assert_eq!((all.take_sent(), all.peers(2)), (vec![(peer("one/systole"), true)], 3));
    // It is back.
    all.of("one").is_dead = false;
    all.run(10.0, &[("pay", "one"), ("mail", "three")]);
    all.run(60.0, &[("mail", "three")]);
    assert_eq!((all.peers(0), all.state(2, "pay")), (4, "down".into()));
    assert_eq!(
        all.take_sent(),
        [("ServiceDown/pay".to_string(), false)].map(|(key, end)| (format!("Presence{key}"), end))
    );
}

#[test]
fn the_only_other_node_that_is_stopped_and_whose_instance_moved_nowhere_is_told_in_the_end() {
    let mut all = Cluster::new(&["a"], &["one", "two"]);
    all.run(60.0, &[("pay", "one"), ("mail", "two")]);
    all.of("one").observers.leave();
    all.run(1.0, &[]);
    all.of("one").is_dead = true;
    all.run(290.0, &[("mail", "two")]);
    assert_eq!((all.take_sent(), all.state(0, "pay")), (vec![], "up".into()));
    all.run(120.0, &[("mail", "two")]);
    assert_eq!(all.state(0, "pay"), "down");
}

#[test]
fn a_bus_that_is_away_is_one_alarm_of_each_judge_and_nothing_else() {
    let mut all = Cluster::new(&["a", "b"], &["one", "two"]);
    let beats = [("pay", "one"), ("mail", "two")];
    all.run(60.0, &beats);
    all.no_bus = Some("not connected");
    all.run(900.0, &beats);
    let mut sent = all.take_sent();
    sent.sort();
    assert_eq!(sent, [(peer("a/the bus of systole"), false), (peer("b/the bus of systole"), false)]);
    all.no_bus = None;
    all.run(60.0, &beats);
    let mut sent = all.take_sent();
    sent.sort();
    assert_eq!(sent, [(peer("a/the bus of systole"), true), (peer("b/the bus of systole"), true)]);
    assert_eq!((all.state(0, "pay"), all.state(1, "mail")), ("up".into(), "up".into()));
    // Who dies now is told.
    all.run(60.0, &beats[..1]);
    assert_eq!(all.take_sent(), [("PresenceServiceDown/mail".to_string(), false)]);
}

#[test]
fn who_was_forgotten_stays_so_after_a_restart_and_who_was_lost_stays_told() {
    let mut all = Cluster::new(&["a"], &["one", "two", "three"]);
    all.run(30.0, &[]);
    all.of("one").is_dead = true;
    all.run(1100.0, &[]);
    all.of("two").is_dead = true;
    all.run(30.0, &[]);
    assert_eq!(all.peers(0), 2);
    let mut file = Vec::new();
    all.of("a").observers.store(&mut file).expect("JSON");
    let saved: SavedObservers = serde_json::from_slice(&file).expect("what was saved");
    let firing: Vec<Alarm> = all.nodes[0].alerts.firing().cloned().collect();
    let options = MemberOptions { cluster: "systole".into(), listens_only: false, forget_after: FORGET_AFTER };
    let times = (at(all.now), unix(all.now));
    all.of("a").observers = Observers::in_cluster("a", 9, options, saved, firing.into_iter(), times);
    all.sent.clear();
    all.run(60.0, &[]);
    assert_eq!((all.take_sent(), all.peers(0)), (vec![], 2));
    all.of("two").is_dead = false;
    all.run(10.0, &[]);
    assert_eq!(all.take_sent(), [(peer("systole/two"), true)]);
}

#[test]
fn one_that_only_receives_tells_what_it_has_lost_and_nothing_of_services() {
    let mut all = Cluster::new(&["a"], &["one", "two"]);
    all.run(60.0, &[("pay", "one")]);
    all.run(120.0, &[("pay", "two")]);
    let edge = all.of("one");
    let view = edge.engine.view_of("pay", Epoch::new(unix(0.0), at(0.0))).expect("known");
    assert_eq!(view.instances[0].state.to_string(), "left");
    assert_eq!((all.take_sent(), all.state(0, "pay")), (vec![], "up".into()));
    let now = all.now;
    all.of("one").engine.kernel_drops(at(now), 50, 100);
    all.run(10.0, &[("pay", "two")]);
    assert_eq!(all.take_sent(), [("PresenceIngest/ingest_drops".to_string(), false)]);
}

#[test]
fn all_others_that_are_dead_are_no_bus_that_is_away() {
    let mut all = Cluster::new(&["a"], &["one", "two"]);
    let beats = [("pay", "one"), ("web", "a")];
    all.run(60.0, &beats);
    for name in ["one", "two"] {
        all.of(name).is_dead = true;
    }
    // Nothing is stored, either.
    all.bus_answers = false;
    let bus = peer("a/the bus of systole");
    all.run(200.0, &beats[1..]);
    assert_eq!(all.take_sent(), [(bus.clone(), false)]);
    all.run(200.0, &beats[1..]);
    let mut sent = all.take_sent();
    sent.sort();
    assert_eq!(sent, [(bus, true), (peer("one/systole"), false), (peer("systole/two"), false)]);
    // Those whom it hears itself are judged.
    all.run(60.0, &[]);
    assert_eq!(all.take_sent(), [("PresenceServiceDown/web".to_string(), false)]);
}

#[test]
fn all_others_that_are_dead_are_told_at_once_where_the_bus_works() {
    let mut all = Cluster::new(&["a"], &["one", "two"]);
    all.run(60.0, &[]);
    for name in ["one", "two"] {
        all.of(name).is_dead = true;
    }
    all.run(20.0, &[]);
    assert_eq!(all.take_sent(), [(peer("one/systole"), false), (peer("systole/two"), false)]);
}

#[test]
fn a_node_that_joins_and_does_not_answer_yet_silences_nobody() {
    let mut all = Cluster::new(&["a", "b"], &["one"]);
    all.run(30.0, &[]);
    let node = &mut all.nodes[0];
    let seen = ["a", "b", "one", "new"].map(CompactString::from);
    node.observers.set_members(&seen, (None, true), &mut node.engine);
    let view = node.observers.view(&node.engine);
    assert_eq!((view.speaker.as_deref(), view.peers.len(), node.observers.reports()), (Some("a"), 3, true));
}

#[test]
fn a_node_that_is_seen_and_does_not_answer_is_not_forgotten() {
    let mut all = Cluster::new(&["a"], &["one", "two"]);
    all.run(30.0, &[]);
    all.of("two").is_dead = true;
    all.run(FORGET_AFTER + 60.0, &[]);
    assert_eq!((all.take_sent().len(), all.peers(0)), (2, 1));
    // Its presence hangs, and its session does not.
    let node = &mut all.nodes[0];
    let mut t = all.now;
    while t < all.now + FORGET_AFTER + 60.0 {
        t += 0.5;
        node.engine.at(at(t));
        for (place, _) in node.observers.set_members(&["one".into(), "two".into()], (None, true), &mut node.engine) {
            node.observers.miss(place, Missed::Silent, &mut node.engine);
        }
        node.observers.tick(&mut node.engine, unix(t));
    }
    assert_eq!(node.observers.view(&node.engine).peers.len(), 2);
}

#[test]
fn one_that_was_stopped_is_no_alarm_after_a_restart_of_who_asks() {
    let mut all = Cluster::new(&["a"], &["one", "two"]);
    all.run(30.0, &[]);
    all.of("one").observers.leave();
    all.run(1.0, &[]);
    all.of("one").is_dead = true;
    all.run(10.0, &[]);
    let mut file = Vec::new();
    all.of("a").observers.store(&mut file).expect("JSON");
    let saved = serde_json::from_slice(&file).expect("what was saved");
    let now = all.now;
    *all.of("a") = node("a", false, saved, now);
    all.run(400.0, &[]);
    assert_eq!((all.take_sent(), all.peers(0)), (vec![], 1));
}

#[test]
fn a_node_that_judges_no_more_holds_no_problem_of_a_service() {
    let mut all = Cluster::new(&["a"], &[]);
    all.run(60.0, &[("pay", "a")]);
    all.run(60.0, &[]);
    let firing: Vec<Alarm> = all.nodes[0].alerts.firing().cloned().collect();
    assert_eq!((firing.len(), all.take_sent().len()), (1, 1));
    let options = MemberOptions { cluster: "systole".into(), listens_only: true, forget_after: FORGET_AFTER };
    let (now, saved) = (all.now, SavedObservers::default());
    let observers = Observers::in_cluster("a", 9, options, saved, firing.into_iter(), (at(now), unix(now)));
    let digest = observers.digest(&all.nodes[0].engine, None, unix(now));
    assert!(digest.listens_only && digest.problems.iter().all(|row| !row.open), "{:?}", digest.problems);
}
