//! Several nodes that tell each other what they have heard, without a network.

use super::*;
use crate::presence::alert_book::{AlertBook, AlertName};
use crate::presence::policy::{Policy, Rules};
use crate::presence::time::Epoch;
use crate::protocol::Heartbeat;

/// A node: its engine, its alert book, and what it knows of the others.
struct Node {
    name: &'static str,
    engine: Engine,
    alerts: AlertBook,
    observers: Observers,
    events: u64,
}

/// What a node would send: the alarm, and whether it is over.
type Sent = (String, bool);

/// The one target of all.
const TARGET: &str = "hook";

/// All nodes, on one clock; any two can be cut off from each other.
struct World {
    nodes: Vec<Node>,
    cut: Vec<(usize, usize)>,
    sent: Vec<(&'static str, Sent)>,
}

fn at(secs: f64) -> EngineTime {
    EngineTime::from_secs(secs)
}

fn unix(secs: f64) -> UnixTime {
    UnixTime::from_secs(1_700_000_000.0 + secs)
}

fn node(name: &'static str, names: &[&str], policy: Policy, now: f64) -> Node {
    let urls: Vec<String> = names.iter().filter(|one| **one != name).map(|one| format!("https://{one}")).collect();
    let mut engine = Engine::new(policy, at(now), 1).shared();
    engine.set_epoch(Epoch::new(unix(now), at(now)));
    let saved = SavedObservers::default();
    let start = 1 + (now * 1e6) as u64;
    let observers = Observers::new(name, start, &urls, saved, std::iter::empty(), (at(now), unix(now)));
    Node { name, engine, alerts: AlertBook::new(0.0, Vec::new()), observers, events: 1 }
}

impl World {
    fn new(names: &[&'static str], policy: &Policy) -> World {
        let nodes = names.iter().map(|name| node(name, names, policy.clone(), 0.0)).collect();
        World { nodes, cut: Vec::new(), sent: Vec::new() }
    }

    fn is_cut(&self, one: usize, other: usize) -> bool {
        self.cut.contains(&(one.min(other), one.max(other)))
    }

    /// A node asks all others.
    fn poll(&mut self, asking: usize, t: f64) {
        for asked in (0..self.nodes.len()).filter(|&other| other != asking) {
            let place = if asked < asking { asked } else { asked - 1 };
            let since = self.nodes[asking].observers.cursor(place);
            let digest = (!self.is_cut(asking, asked)).then(|| {
                let Node { engine, observers, .. } = &mut self.nodes[asked];
                engine.at(at(t));
                let text = serde_json::to_vec(&observers.digest(engine, since, unix(t))).expect("JSON");
                Digest::read(&text).expect("an answer")
            });
            let Node { engine, observers, .. } = &mut self.nodes[asking];
            engine.at(at(t));
            match digest {
                Some(digest) => drop(observers.take_digest(place, digest, engine, (at(t), unix(t)))),
                None => observers.miss(place, Missed::Silent, engine),
            }
        }
    }

    fn tick(&mut self, which: usize, t: f64) {
        let one = &mut self.nodes[which];
        one.engine.at(at(t));
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
        one.observers.note_target(TARGET, true);
        let spoken = one.observers.speak(&one.engine, TARGET);
        for sent in &spoken.notifications {
            one.observers.note_arrived(TARGET, (&sent.alarm.key, sent.resolved), at(t));
        }
        let all = spoken.notifications.into_iter().map(|one| (one.alarm.key.dedup_key(), one.resolved));
        self.sent.extend(all.map(|sent| (one.name, sent)));
    }

    /// Time passes: twice a second everybody asks and judges; `each` says before that what happens then.
    fn run(&mut self, from: f64, to: f64, mut each: impl FnMut(&mut World, f64)) {
        let mut t = from;
        while t < to {
            each(self, t);
            (0..self.nodes.len()).for_each(|node| self.poll(node, t));
            (0..self.nodes.len()).for_each(|node| self.tick(node, t));
            t += 0.5;
        }
    }

    fn beat(&mut self, node: usize, service: &str, instance: &str) {
        let (service, instance) = (service.into(), instance.into());
        self.nodes[node].engine.beat(&Heartbeat { service, instance, interval: Some(10.0), ..Heartbeat::default() });
    }

    fn sent(&self) -> Vec<(&'static str, &str, bool)> {
        self.sent.iter().map(|(name, (key, resolved))| (*name, key.as_str(), *resolved)).collect()
    }
}

fn is_time_for(t: f64, every: f64) -> bool {
    t % every == 0.0
}

#[test]
fn a_service_that_only_a_peer_has_heard_yet_may_be_short_for_a_minute() {
    let rules = Rules { min: Some(2), ..Rules::default() };
    let policy = Policy { rules, ..Policy::default() };
    let mut world = World::new(&["a", "b"], &policy);
    world.run(0.0, 50.0, |world, t| {
        if t >= 5.0 && is_time_for(t, 5.0) {
            world.beat(1, "web", "one");
        }
        if t >= 30.0 && is_time_for(t, 5.0) {
            world.beat(0, "web", "two");
        }
    });
    assert_eq!(world.sent(), []);
}

#[test]
fn maintenance_holds_where_its_service_is_learned_by_the_same_answer_or_later() {
    for is_told_first in [false, true] {
        let mut world = World::new(&["a", "b"], &Policy::default());
        world.run(0.0, 200.0, |world, t| {
            if is_time_for(t, 10.0) && t < 60.0 {
                world.beat(1, "web", "one");
                (0..5).for_each(|n| world.beat(1, "other", &n.to_string()));
            } else if is_time_for(t, 10.0) {
                (0..5).for_each(|n| world.beat(1, "other", &n.to_string()));
            }
            if t == 50.0 {
                assert!(world.nodes[1].engine.maintenance("web", None, 3600.0).is_some());
            }
            if t == 55.0 {
                // It comes back without anything, and with or without a word of the peer before it hears anything.
                world.nodes[0] = node("a", &["a", "b"], Policy::default(), t);
                world.cut = if is_told_first { Vec::new() } else { vec![(0, 1)] };
            }
            if t == 56.0 {
                world.cut.clear();
                if !is_told_first {
                    world.beat(0, "web", "one");
                }
            }
        });
        assert_eq!(world.sent(), [], "{is_told_first}");
        assert!(world.nodes[0].engine.is_maintained("web", None));
    }
}

#[test]
fn of_acts_within_a_second_the_later_one_holds_everywhere() {
    let mut world = World::new(&["a", "b", "c"], &Policy::default());
    world.run(0.0, 20.0, |world, t| {
        if is_time_for(t, 10.0) {
            (0..3).for_each(|node| world.beat(node, "web", "one"));
        }
        if t == 5.0 {
            assert!(world.nodes[0].engine.maintenance("web", None, 1800.0).is_some());
        }
        if t == 6.0 {
            assert!(
                (1..3).all(|node| world.nodes[node].engine.is_maintained("web", None)),
                "the first one came by itself"
            );
            assert!(world.nodes[0].engine.maintenance("web", None, 0.0).is_some());
        }
        if t == 7.0 {
            assert!((0..3).all(|node| !world.nodes[node].engine.is_maintained("web", None)));
            // And at two nodes.
            assert!(world.nodes[1].engine.maintenance("web", None, 1800.0).is_some());
        }
        if t == 7.5 {
            assert!(world.nodes[2].engine.maintenance("web", None, 0.0).is_some());
        }
    });
    assert!((0..3).all(|node| !world.nodes[node].engine.is_maintained("web", None)));
}

#[test]
fn who_is_forgotten_at_one_node_is_forgotten_everywhere_and_not_said_to_be_gone() {
    let mut world = World::new(&["a", "b"], &Policy::default());
    world.run(0.0, 5000.0, |world, t| {
        if is_time_for(t, 10.0) && t < 4000.0 {
            (0..2).for_each(|node| world.beat(node, "web", "one"));
        }
        if is_time_for(t, 10.0) {
            (0..2).for_each(|node| (0..5).for_each(|n| world.beat(node, "other", &n.to_string())));
        }
        if t == 4000.0 {
            let gone =
                Heartbeat { service: "web".into(), instance: "one".into(), goodbye: true, ..Heartbeat::default() };
            (0..2).for_each(|node| world.nodes[node].engine.beat(&gone));
        }
        if t == 4100.0 {
            assert!(world.nodes[1].engine.forget("web", None));
        }
    });
    assert_eq!(world.sent(), []);
    assert!((0..2).all(|node| !world.nodes[node].engine.knows("web")));
}

#[test]
fn that_two_nodes_which_do_not_speak_lost_each_other_is_told_once() {
    let mut world = World::new(&["a", "b", "c"], &Policy::default());
    world.run(0.0, 120.0, |world, t| {
        if is_time_for(t, 10.0) {
            (0..3).for_each(|node| world.beat(node, "web", "one"));
        }
        world.cut = if (20.0..80.0).contains(&t) { vec![(1, 2)] } else { Vec::new() };
    });
    let key = AlertKey { nodes: Some(in_order("b", "c")), ..AlertKey::of(AlertName::PeerUnreachable) }.dedup_key();
    assert_eq!(world.sent(), [("a", key.as_str(), false), ("a", key.as_str(), true)]);
}

#[test]
fn of_three_nodes_the_one_that_is_gone_is_one_problem() {
    let mut world = World::new(&["a", "b", "c"], &Policy::default());
    world.run(0.0, 120.0, |world, t| {
        if is_time_for(t, 10.0) {
            (0..3).for_each(|node| world.beat(node, "web", "one"));
        }
        world.cut = if t >= 20.0 { vec![(0, 2), (1, 2)] } else { Vec::new() };
    });
    let sent: Vec<_> = world.sent().into_iter().filter(|(name, ..)| *name != "c").collect();
    let key = AlertKey { nodes: Some(in_order("a", "c")), ..AlertKey::of(AlertName::PeerUnreachable) }.dedup_key();
    assert_eq!(sent, [("a", key.as_str(), false)]);
}
