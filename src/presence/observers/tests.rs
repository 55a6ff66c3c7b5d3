//! Several nodes that tell each other what they have heard, without a network.

use std::sync::Arc;

use super::*;
use crate::presence::alert_book::{AlertBook, AlertName, AlertState};
use crate::presence::announced::Announced;
use crate::presence::describe::describe;
use crate::presence::engine::Saved;
use crate::presence::event::Severity;
use crate::presence::jobs::{JobRule, JobState, JobView, RunResult};
use crate::presence::policy::{Policy, Rules};
use crate::presence::time::Epoch;
use crate::protocol::{Heartbeat, JobStatus, JobTags, Seen};
use crate::watches::{Evidence, MetricWatch, Template, Watches};

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
        let waited = one.alerts.tick(unix(t), |service, instance| one.engine.is_maintained(service, instance));
        one.observers.note(waited, at(t));
        one.observers.note_target(TARGET, true);
        let spoken = one.observers.speak(&one.engine, TARGET);
        for sent in &spoken.notifications {
            one.observers.note_arrived(TARGET, &crate::presence::which(sent), at(t));
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
                let said = Announced { by: Some("me".into()), why: Some("upgrade".into()) };
                assert!(world.nodes[1].engine.announce("web", None, 3600.0, said).is_some());
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
        let view = world.nodes[0].engine.view_of("web", Epoch::UNIX).expect("it is known");
        let (until, why) = (view.maintenance_until.as_deref(), view.maintenance_why.as_deref());
        assert_eq!((until.is_some(), why), (true, Some("upgrade")), "{is_told_first}");
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

/// What a job says.
fn job_line(instance: &str, status: JobStatus, exit: Option<i64>) -> Heartbeat {
    let tags = JobTags { status: Some(status), exit, ..JobTags::default() };
    let (service, instance) = ("backup".into(), instance.into());
    Heartbeat { service, instance, job: Some(Box::new(tags)), ..Heartbeat::default() }
}

fn with_job() -> Policy {
    let rule = JobRule {
        service: "backup".into(),
        instance: None,
        schedule: None,
        every: Some(60.0),
        grace: Some(5.0),
        max_runtime: Some(30.0),
    };
    Policy { jobs: vec![rule], ..Policy::default() }
}

impl World {
    fn job(&mut self, node: usize, status: JobStatus) {
        let exit = (status == JobStatus::Fail).then_some(3);
        self.nodes[node].engine.beat(&job_line("-", status, exit));
    }

    /// A line of a run with an id, to both nodes.
    fn run_line(&mut self, status: JobStatus, run: &str) {
        let mut line = job_line("-", status, None);
        line.job.as_mut().expect("tags").run = Some(run.into());
        self.nodes.iter_mut().for_each(|node| node.engine.beat(&line));
    }

    /// A line of the metric that is watched.
    fn watched(&mut self, node: usize) {
        let (service, instance) = ("web".into(), "one".into());
        self.nodes[node].engine.watched(&Seen { watch: 0, service, instance, lines: 1, ..Seen::default() });
    }

    fn job_states(&self) -> Vec<(JobState, Vec<RunResult>)> {
        let view = |node: &Node| node.engine.view_jobs(None, None, None, (9, 99), Epoch::UNIX).remove(0);
        let state = |job: JobView| (job.state, job.runs.iter().map(|run| run.result).collect());
        self.nodes.iter().map(view).map(state).collect()
    }
}

#[test]
fn runs_whose_lines_reach_one_node_each_are_runs_of_all() {
    let mut world = World::new(&["a", "b"], &with_job());
    world.run(0.0, 600.0, |world, t| {
        let run = (t / 60.0) as usize;
        let status = if run == 6 { JobStatus::Fail } else { JobStatus::Ok };
        match t % 60.0 {
            // Without a start there would be no next run; the end comes to the other node, 20 s or half a second later.
            10.0 => world.job(run % 2, JobStatus::Start),
            10.5 if run.is_multiple_of(3) => world.job(1 - run % 2, status),
            30.0 if !run.is_multiple_of(3) => world.job(1 - run % 2, status),
            _ => {}
        }
    });
    assert_eq!(world.sent(), [("a", "PresenceJob/backup/-", false), ("a", "PresenceJob/backup/-", true)]);
    let states = world.job_states();
    assert_eq!(states[0], states[1]);
    assert_eq!(states[0].1.iter().filter(|result| **result == RunResult::Ok).count(), 9);
}

#[test]
fn a_start_or_an_end_that_is_lost_on_the_way_to_one_node_is_no_problem() {
    let mut world = World::new(&["a", "b"], &with_job());
    world.run(0.0, 600.0, |world, t| {
        let run = (t / 60.0) as usize;
        for (second, status) in [(10.0, JobStatus::Start), (15.0, JobStatus::Ok)] {
            // One of four lines reaches one node alone, in turns.
            let alone = (run % 2 == usize::from(second > 12.0)).then_some(run % 4 / 2);
            if t % 60.0 == second {
                (0..2).filter(|node| alone.is_none_or(|alone| alone == *node)).for_each(|node| world.job(node, status));
            }
        }
    });
    assert_eq!(world.sent(), []);
    let states = world.job_states();
    assert_eq!(states, [(JobState::Ok, vec![RunResult::Ok; 10]), (JobState::Ok, vec![RunResult::Ok; 10])]);
}

#[test]
fn runs_that_really_hang_or_do_not_come_are_told_once() {
    let mut world = World::new(&["a", "b"], &with_job());
    world.run(0.0, 400.0, |world, t| match t {
        10.0 => world.job(0, JobStatus::Start),
        20.0 => world.job(1, JobStatus::Ok),
        // This one hangs, and none comes after it.
        70.0 => world.job(1, JobStatus::Start),
        128.0 => world.job(0, JobStatus::Ok),
        _ => {}
    });
    let key = "PresenceJob/backup/-";
    assert_eq!(world.sent(), [("a", key, false), ("a", key, true), ("a", key, false)]);
    let states = world.job_states();
    assert_eq!(states[0], states[1]);
}

#[test]
fn a_restart_opens_no_run_that_is_over_and_hides_none_that_does_not_come() {
    for restarts in [&[0][..], &[1], &[0, 1]] {
        let mut world = World::new(&["a", "b"], &with_job());
        world.run(0.0, 500.0, |world, t| {
            let run = (t / 60.0) as usize;
            match t % 60.0 {
                // The first one hangs and is overtaken, and from 360 s on none comes.
                10.0 if t < 360.0 => world.run_line(JobStatus::Start, &run.to_string()),
                15.0 if t < 360.0 && run > 0 => world.run_line(JobStatus::Ok, &run.to_string()),
                _ => {}
            }
            if t == 200.0 {
                for &node in restarts {
                    world.nodes[node] = restarted(&world.nodes[node], with_job(), t);
                }
            }
        });
        let key = "PresenceJob/backup/-";
        assert_eq!(world.sent(), [("a", key, false), ("a", key, true), ("a", key, false)], "{restarts:?}");
        let states = world.job_states();
        assert_eq!(states[0], states[1]);
        assert_eq!(states[0].0, JobState::Missed);
    }
}

#[test]
fn a_run_that_only_a_lost_node_may_have_heard_is_unheard_once_and_known_when_it_is_back() {
    let mut world = World::new(&["a", "b"], &with_job());
    world.run(0.0, 400.0, |world, t| {
        world.cut = if (100.0..180.0).contains(&t) { vec![(0, 1)] } else { Vec::new() };
        match t % 60.0 {
            10.0 => world.job(1, JobStatus::Start),
            20.0 => world.job(1, JobStatus::Ok),
            _ => {}
        }
    });
    let told: Vec<_> = world.sent().into_iter().filter(|(_, key, _)| key.contains("Job")).collect();
    assert_eq!(told, []);
    let states = world.job_states();
    assert_eq!((states[0].0, states[1].0), (JobState::Ok, JobState::Ok));
    let well = |results: &[RunResult]| results.iter().filter(|result| **result == RunResult::Ok).count();
    assert_eq!((well(&states[0].1), well(&states[1].1)), (7, 7));
}

#[test]
fn no_run_that_only_a_lost_node_may_have_heard_is_missed_as_long_as_it_is_lost() {
    for restarts in [false, true] {
        let (mut world, mut away) = (World::new(&["a", "b"], &with_job()), None);
        world.run(0.0, 1500.0, |world, t| {
            world.cut = if (100.0..1300.0).contains(&t) { vec![(0, 1)] } else { Vec::new() };
            match t % 60.0 {
                10.0 => world.job(1, JobStatus::Start),
                20.0 => world.job(1, JobStatus::Ok),
                _ => {}
            }
            if restarts && t == 600.0 {
                // In its place is for a while one that knows of nothing.
                let other = node("a", &["a", "b"], Policy::default(), t);
                away = Some(std::mem::replace(&mut world.nodes[0], other));
            }
            if let Some(one) = away.take_if(|_| t == 800.0) {
                world.nodes[0] = restarted(&one, with_job(), t);
            }
        });
        let told: Vec<_> = world.sent().into_iter().filter(|(_, key, _)| key.contains("Job")).collect();
        assert_eq!(told, [], "{restarts}");
        let states = world.job_states();
        assert_eq!((states[0].0, states[1].0), (JobState::Ok, JobState::Ok));
    }
}

#[test]
fn a_run_that_came_while_both_were_away_is_not_missed() {
    let (mut world, mut away) = (World::new(&["a", "b"], &with_job()), Vec::new());
    world.run(0.0, 500.0, |world, t| {
        // In their places are for a while two that know of nothing.
        let is_away = (300.0..320.0).contains(&t);
        if t == 300.0 {
            let others = ["a", "b"].map(|name| node(name, &["a", "b"], Policy::default(), t));
            away = std::mem::replace(&mut world.nodes, others.into());
        }
        if t == 320.0 {
            world.nodes = away.iter().map(|one| restarted(one, with_job(), t)).collect();
        }
        match t % 60.0 {
            10.0 if !is_away => world.run_line(JobStatus::Start, &t.to_string()),
            15.0 if !is_away => world.run_line(JobStatus::Ok, &(t - 5.0).to_string()),
            _ => {}
        }
    });
    assert_eq!(world.sent(), []);
    let runs = &world.job_states()[0].1;
    assert_eq!(runs.iter().filter(|result| **result == RunResult::Unheard).count(), 1);
}

#[test]
fn losses_and_drops_of_seconds_hide_one_run_in_a_row() {
    for drops in [false, true] {
        let mut world = World::new(&["a", "b"], &with_job());
        world.run(0.0, 500.0, |world, t| {
            let (run, second) = ((t / 60.0) as usize, t % 60.0);
            // No run comes from 300 s on, and each time when one is due the two lose each other, or both drop.
            let is_blind = (12.0..15.0).contains(&second);
            world.cut = if is_blind && !drops { vec![(0, 1)] } else { Vec::new() };
            if is_blind && drops && is_time_for(t, 1.0) {
                world.nodes.iter_mut().for_each(|node| node.engine.kernel_drops(at(t), 50, 50));
            }
            match second {
                10.0 if t < 300.0 => world.job(run % 2, JobStatus::Start),
                20.0 if t < 300.0 => world.job(run % 2, JobStatus::Ok),
                _ => {}
            }
        });
        let told: Vec<_> = world.sent().into_iter().filter(|(_, key, _)| key.contains("Job")).collect();
        assert_eq!(told, [("a", "PresenceJob/backup/-", false)], "{drops}");
        let runs = &world.job_states()[0].1;
        let count = |wanted| runs.iter().filter(|result| **result == wanted).count();
        assert_eq!((count(RunResult::Ok), count(RunResult::Unheard), count(RunResult::Missed)), (5, 1, 3));
    }
}

#[test]
fn a_loss_that_is_told_excuses_also_the_run_after_one_that_was_not_heard() {
    let mut world = World::new(&["a", "b"], &with_job());
    world.run(0.0, 400.0, |world, t| {
        // Of a loss of three seconds when a run was due nobody was told; of the next one somebody is.
        world.cut = if (312.0..315.0).contains(&t) || t >= 330.0 { vec![(0, 1)] } else { Vec::new() };
        match t % 60.0 {
            10.0 if t < 300.0 => world.job(1, JobStatus::Start),
            20.0 if t < 300.0 => world.job(1, JobStatus::Ok),
            _ => {}
        }
    });
    let states = world.job_states();
    assert_eq!((states[0].0, states[1].0), (JobState::Unheard, JobState::Missed));
    assert_eq!(states[0].1[..3], [RunResult::Unheard, RunResult::Unheard, RunResult::Ok]);
}

#[test]
fn a_run_whose_end_only_a_lost_node_may_have_heard_does_not_last_too_long() {
    let mut world = World::new(&["a", "b"], &Policy::default());
    world.run(0.0, 700.0, |world, t| {
        world.cut = if (100.0..600.0).contains(&t) { vec![(0, 1)] } else { Vec::new() };
        let mut line = job_line("-", if t < 100.0 { JobStatus::Start } else { JobStatus::Ok }, None);
        line.job.as_mut().expect("tags").max_runtime = Some(60.0);
        if t == 90.0 || t == 120.0 {
            world.nodes[1].engine.beat(&line);
        }
    });
    let told: Vec<_> = world.sent().into_iter().filter(|(_, key, _)| key.contains("Job")).collect();
    assert_eq!(told, []);
    let states = world.job_states();
    assert_eq!((states[0].0, states[1].0), (JobState::Ok, JobState::Ok));
}

#[test]
fn a_job_that_is_forgotten_at_one_node_has_no_alarm_at_the_other() {
    let mut world = World::new(&["a", "b"], &Policy::default());
    world.run(0.0, 100.0, |world, t| match t {
        10.0 => (0..2).for_each(|node| world.job(node, JobStatus::Fail)),
        50.0 => assert!(world.nodes[1].engine.forget("backup", None)),
        _ => {}
    });
    let key = "PresenceJob/backup/-";
    assert_eq!(world.sent(), [("a", key, false), ("a", key, true)]);
    assert!((0..2).all(|node| !world.nodes[node].engine.has_jobs()));
}

#[test]
fn the_later_service_check_holds_whichever_node_has_heard_it() {
    let rules = Rules { health_alerts: true, ..Rules::default() };
    let mut world = World::new(&["a", "b"], &Policy { rules, ..Policy::default() });
    world.run(0.0, 60.0, |world, t| {
        if is_time_for(t, 5.0) {
            // In turns; bad from 20 s on, and well again from 40 s on.
            let health = Some(if (20.0..40.0).contains(&t) { 2 } else { 0 });
            let (service, instance) = ("web".into(), "one".into());
            let beat = Heartbeat { service, instance, interval: Some(10.0), health, ..Heartbeat::default() };
            world.nodes[(t / 5.0) as usize % 2].engine.beat(&beat);
        }
    });
    let key = "PresenceHealth/web/one";
    assert_eq!(world.sent(), [("a", key, false), ("a", key, true)]);
}

fn with_floor(floor: u32) -> Policy {
    let template = |text| Template::parse(text, 0).expect("a template");
    let watch = MetricWatch {
        pattern: "m".into(),
        service: template("web"),
        instance: template("one"),
        interval: Some(30.0),
        evidence: Evidence::Any,
        floor: Some(floor),
        max_instances: 10,
    };
    Policy { watches: Arc::new(Watches::new(vec![watch])), ..Policy::default() }
}

#[test]
fn a_floor_is_for_the_lines_of_all_nodes_together() {
    let mut world = World::new(&["a", "b"], &with_floor(6));
    world.run(0.0, 600.0, |world, t| {
        // Eight lines a minute, four of them to each; two of them to each from 300 s on.
        let every = if t < 300.0 { 7.5 } else { 15.0 };
        if is_time_for(t, every) {
            let node = (t / every) as usize % 2;
            world.watched(node);
        }
    });
    let key = "PresenceWatch/web/one";
    assert_eq!(world.sent(), [("a", key, false)]);
}

#[test]
fn a_floor_is_not_judged_while_a_node_is_lost_that_has_counted_for_it() {
    // Clients send eight lines a minute to each of the two, so that the floor is doubled; from 1400 s on a quarter of that.
    let mut world = World::new(&["a", "b"], &with_floor(12));
    world.run(0.0, 1700.0, |world, t| {
        world.cut = if (300.0..1200.0).contains(&t) { vec![(0, 1)] } else { Vec::new() };
        if is_time_for(t, if t < 1400.0 { 7.5 } else { 30.0 }) {
            (0..2).for_each(|node| world.watched(node));
        }
        if t == 700.0 {
            world.nodes[0] = restarted(&world.nodes[0], with_floor(12), t);
        }
        if t == 1400.0 {
            assert!(world.sent().iter().all(|(_, key, _)| key.starts_with("PresencePeer")), "{:?}", world.sent());
        }
    });
    assert_eq!(world.sent().last(), Some(&("a", "PresenceWatch/web/one", false)));
}

#[test]
fn whom_only_a_lost_peer_had_heard_is_still_quiet_after_a_restart_and_judged_when_that_is_back() {
    for is_down_by_then in [false, true] {
        let mut world = World::new(&["a", "b"], &Policy::default());
        let (cut, restart) = (100.0, if is_down_by_then { 550.0 } else { 130.0 });
        world.run(0.0, 1400.0, |world, t| {
            if is_time_for(t, 10.0) {
                (0..5).for_each(|n| world.beat(0, "here", &n.to_string()));
                // One of them dies while nobody hears them.
                let there = if t < cut { 0 } else { 1 };
                (there..5).for_each(|n| world.beat(1, "there", &n.to_string()));
            }
            world.cut = if (cut..1000.0).contains(&t) { vec![(0, 1)] } else { Vec::new() };
            if t == 1000.0 {
                // The peer comes back without anything.
                world.nodes[1] = node("b", &["a", "b"], Policy::default(), t);
            }
            if t == restart {
                world.nodes[0] = restarted(&world.nodes[0], Policy::default(), t);
            }
        });
        let told: Vec<_> = world.sent().into_iter().filter(|(name, ..)| *name == "a").collect();
        let instances: Vec<_> = told.iter().filter(|(_, key, _)| key.contains("there")).collect();
        // When the peer is back, and tells of the others: the dead one, by name.
        assert_eq!(instances, [&("a", "PresenceInstanceDown/there/0", false)], "{told:?}");
    }
}

/// A node that starts again with what it had saved.
#[test]
fn what_a_node_heard_just_before_it_was_away_says_nothing_of_the_time_in_which_it_was() {
    let mut world = World::new(&["a", "b"], &Policy::default());
    let beat = |world: &mut World, t: f64| {
        if is_time_for(t, 10.0) {
            world.beat(0, "web", "1");
        }
    };
    world.run(0.0, 150.0, beat);
    // `a` hears one more, which `b` does not ask for before all stands still there for a minute.
    world.nodes[0].engine.at(at(150.0));
    world.beat(0, "web", "1");
    world.cut.push((0, 1));
    for step in 0..120 {
        let t = 150.0 + f64::from(step) / 2.0;
        world.poll(1, t);
        world.tick(1, t);
    }
    world.cut.clear();
    world.nodes[0].engine.stalled(at(210.0), 60.0);
    // The next one is lost.
    world.run(210.0, 300.0, |world, t| {
        if t >= 225.0 {
            beat(world, t)
        }
    });
    let peer = "PresencePeerUnreachable/a/b";
    assert_eq!(world.sent(), [("b", peer, false), ("a", peer, true)]);
    // It is watched again.
    world.run(300.0, 400.0, |_, _| {});
    assert_eq!(world.sent().last(), Some(&("a", "PresenceServiceDown/web", false)));
}

#[test]
fn the_drops_of_a_node_are_one_alarm_that_ends_when_it_drops_nothing_or_is_gone() {
    let drops = ("a", "PresenceIngest/ingest_drops", false);
    let mut world = World::new(&["a", "b"], &Policy::default());
    world.run(0.0, 1200.0, |world, t| {
        if (20.0..800.0).contains(&t) && is_time_for(t, 1.0) {
            world.nodes[0].engine.kernel_drops(at(t), 500, 500);
        }
    });
    assert_eq!(world.sent(), [drops, ("a", drops.1, true)]);
    let mut world = World::new(&["a", "b"], &Policy::default());
    world.run(0.0, 40.0, |world, t| {
        if t >= 20.0 && is_time_for(t, 1.0) {
            world.nodes[0].engine.kernel_drops(at(t), 500, 500);
        }
    });
    world.cut.push((0, 1));
    for step in 0..60 {
        let t = 40.0 + f64::from(step) / 2.0;
        world.poll(1, t);
        world.tick(1, t);
    }
    let mut sent = world.sent();
    sent[1..].sort_unstable();
    assert_eq!(sent, [drops, ("b", drops.1, true), ("b", "PresencePeerUnreachable/a/b", false)]);
}

fn restarted(one: &Node, policy: Policy, t: f64) -> Node {
    let saved = serde_json::to_string(&one.engine.save()).expect("JSON");
    let saved = serde_json::from_str(&saved).expect("what was saved");
    let mut text = Vec::new();
    one.observers.store(&mut text).expect("JSON");
    let observers: SavedObservers = serde_json::from_slice(&text).expect("what was saved");
    let urls: Vec<String> = one.observers.peers.iter().map(|peer| peer.url.clone()).collect();
    let mut engine = Engine::restored(policy, saved, at(t), 1).shared();
    engine.set_epoch(Epoch::new(unix(t), at(t)));
    observers.place_peers(&urls, &mut engine);
    let alarms: Vec<Alarm> = one.alerts.open().cloned().collect();
    let firing = alarms.clone().into_iter();
    let observers = Observers::new(one.name, 1 + (t * 1e6) as u64, &urls, observers, firing, (at(t), unix(t)));
    Node { name: one.name, engine, alerts: AlertBook::new(0.0, alarms), observers, events: 1 }
}

/// A node that knows one peer, and is told nothing by it any more.
fn cut_off(saved: SavedObservers, engine: Engine, why: &str) -> Node {
    let now = engine.now();
    let url = ["https://b".to_string()];
    let observers = Observers::new("a", 1, &url, saved, std::iter::empty(), (now, unix(0.0)));
    let mut one = Node { name: "a", engine, alerts: AlertBook::new(0.0, Vec::new()), observers, events: 1 };
    (0..3).for_each(|_| one.observers.miss(0, Missed::Silent, &mut one.engine));
    one.observers.note_trouble(0, why);
    one
}

#[test]
fn who_refuses_our_token_after_a_restart_makes_nobody_silent_and_is_called_by_its_name_with_whom_nobody_hears() {
    let mut world = World::new(&["a", "b"], &Policy::default());
    world.run(0.0, 60.0, |world, t| {
        if is_time_for(t, 5.0) {
            ["one", "two"].iter().for_each(|name| world.beat(1, "web", name));
        }
    });
    let a = world.nodes.remove(0);
    let saved: Saved = serde_json::from_str(&serde_json::to_string(&a.engine.save()).expect("JSON")).expect("a state");
    let mut file = Vec::new();
    a.observers.store(&mut file).expect("JSON");
    let others: SavedObservers = serde_json::from_slice(&file).expect("what was saved");
    let engine = Engine::restored(Policy::default(), saved, at(70.0), 1).shared();
    let mut a = cut_off(others, engine, "it answers 401");
    let mut texts = Vec::new();
    for second in 70..400 {
        let now = f64::from(second);
        a.engine.at(at(now));
        a.engine.tick(at(now));
        a.observers.tick(&mut a.engine, unix(now));
        let told = a.engine.take_events().into_iter().filter(|event| event.notify);
        texts.extend(told.map(|event| (describe(&event), event.nodes)));
    }
    let nodes = Some(["a".into(), "b".into()]);
    assert_eq!(texts, [("the observer b does not answer a; it answers 401".to_string(), nodes.clone())]);
    let unheard = a.observers.unwatched(nodes.as_ref(), &a.engine);
    assert!(unheard.starts_with("It alone had heard web/one, web/two, 2 instances that nobody hears now"), "{unheard}");
    let view = a.observers.view(&a.engine);
    assert_eq!((view.unwatched, view.peers[0].gone), (2, true));
    assert_eq!(view.peers[0].problem.as_deref(), Some("it answers 401"));
    // Who never said anything may hear whomever.
    let mut new = cut_off(SavedObservers::default(), Engine::new(Policy::default(), at(0.0), 1).shared(), "no");
    new.engine.at(at(20.0));
    new.observers.tick(&mut new.engine, unix(20.0));
    let nodes = ["a".into(), "https://b".into()];
    assert!(new.observers.unwatched(Some(&nodes), &new.engine).starts_with("It has not answered"));
}

#[test]
fn two_of_one_name_are_an_alarm_of_their_own_and_what_is_no_peer_any_more_is_not_back() {
    // This node was called `b` until now, and asked `a`, which did not answer.
    let saved = || SavedObservers { peers: vec![("https://b".into(), Some("a".into()))], ..SavedObservers::default() };
    let mut engine = Engine::new(Policy::default(), at(0.0), 1).shared();
    let key = AlertKey { nodes: Some(["a".into(), "b".into()]), ..AlertKey::of(AlertName::PeerUnreachable) };
    let (severity, state) = (Severity::Critical, AlertState::Firing);
    let alarm = Alarm { key, severity, text: String::new(), since: unix(0.0), until: None, state };
    let url = ["https://b".to_string()];
    let mut observers = Observers::new("a", 1, &url, saved(), std::iter::once(alarm), (at(0.0), unix(0.0)));
    (0..3).for_each(|_| observers.miss(0, Missed::Namesake, &mut engine));
    observers.note_trouble(0, &Mistaken::Namesake("a".into()).to_string());
    for second in 0..20 {
        engine.at(at(f64::from(second)));
        observers.tick(&mut engine, unix(f64::from(second)));
    }
    let texts: Vec<String> = engine.take_events().iter().map(describe).collect();
    assert_eq!(
        texts,
        [
            "the observers a and b do not ask each other any more",
            "the observer https://b does not answer a; it calls itself `a`, which is the name of this node or of another observer",
        ]
    );
    assert!(observers.view(&engine).peers[0].same_name);
}

#[test]
fn who_is_heard_and_does_not_hear_is_said_to_notify_as_well_on_both_sides() {
    let mut world = World::new(&["a", "b"], &Policy::default());
    // b asks a at a wrong address; a hears it.
    let mut t = 0.0;
    while t < 20.0 {
        world.poll(0, t);
        let Node { engine, observers, .. } = &mut world.nodes[1];
        engine.at(at(t));
        observers.note_asker("a", at(t));
        observers.miss(0, Missed::Silent, engine);
        (0..2).for_each(|node| world.tick(node, t));
        t += 0.5;
    }
    let views = world.nodes.iter().map(|node| node.observers.view(&node.engine));
    let said: Vec<_> = views.map(|view| (view.speaker.expect("one"), view.also)).collect();
    assert_eq!(said, [("a".into(), vec!["b".into()]), ("b".into(), vec!["a".into()])]);
}
