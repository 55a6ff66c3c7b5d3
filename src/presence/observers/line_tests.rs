//! What nodes tell each other of jobs and checks, and what they do not tell any more.

use super::*;
use crate::presence::jobs::{JobRule, JobState};
use crate::presence::policy::Policy;
use crate::protocol::{Heartbeat, JobStatus, JobTags};

const DAY: f64 = 86_400.0;

fn at(secs: f64) -> EngineTime {
    EngineTime::from_secs(secs)
}

const UNIX: UnixTime = UnixTime::from_secs(1e9);

/// A node among one peer.
struct Node {
    engine: Engine,
    observers: Observers,
}

impl Node {
    /// One that knows nothing, and starts now.
    fn new(name: &str, policy: Policy, now: f64) -> Node {
        let (urls, none) = (["http://peer".to_string()], std::iter::empty());
        let policy = Policy { max_registrations_per_second: 1_000, ..policy };
        let engine = Engine::new(policy, at(now), 1).shared();
        let start = 1 + (now * 1e6) as u64;
        Node { engine, observers: Observers::new(name, start, &urls, SavedObservers::default(), none, (at(now), UNIX)) }
    }

    fn tick(&mut self, now: f64) {
        self.engine.at(at(now));
        self.engine.tick(at(now));
        self.observers.tick(&mut self.engine, UNIX);
    }

    fn observe(&mut self, now: f64, beat: &Heartbeat) {
        self.engine.at(at(now));
        self.engine.beat(beat);
    }

    fn digest(&mut self, since: Option<Cursor>, now: f64) -> Digest {
        self.engine.at(at(now));
        self.observers.digest(&self.engine, since, UNIX)
    }

    /// Takes what is new at the other.
    fn ask(&mut self, other: &mut Node, now: f64) {
        let digest = other.digest(self.observers.cursor(0), now);
        self.engine.at(at(now));
        self.observers.take_digest(0, digest, &mut self.engine, (at(now), UNIX)).expect("taken");
    }

    /// States of jobs by instance, and whether anything was notified since this was last asked.
    fn jobs(&mut self) -> (Vec<(CompactString, JobState)>, bool) {
        let jobs = self.engine.view_jobs(None, None, None, (99, 0), crate::presence::time::Epoch::UNIX);
        let is_told = self.engine.take_events().iter().any(|event| event.notify);
        (jobs.into_iter().map(|job| (job.instance, job.state)).collect(), is_told)
    }
}

fn line(instance: &str, status: JobStatus) -> Heartbeat {
    let job = Some(Box::new(JobTags { status: Some(status), ..JobTags::default() }));
    Heartbeat { service: "backup".into(), instance: instance.into(), job, ..Heartbeat::default() }
}

/// `backup` is one job, whoever runs it.
fn whole_service() -> Policy {
    let rule = JobRule {
        service: "backup".into(),
        instance: None,
        schedule: None,
        every: Some(30.0 * DAY),
        grace: Some(5.0),
        max_runtime: None,
    };
    Policy { jobs: vec![rule], ..Policy::default() }
}

#[test]
fn a_job_that_was_forgotten_does_not_come_back_when_a_node_starts_again() {
    for (policy, instance, of_job) in [(whole_service(), "pod-1", "-"), (Policy::default(), "box", "box")] {
        let (mut a, mut b) = (Node::new("a", policy.clone(), 0.0), Node::new("b", policy.clone(), 0.0));
        for node in [&mut a, &mut b] {
            node.observe(10.0, &line(instance, JobStatus::Fail));
            node.tick(12.0);
            assert!(node.jobs().1);
        }
        a.engine.forget("backup", Some(of_job));
        a.tick(20.0);
        b.ask(&mut a, 20.5);
        // What operators did a day ago is not remembered when something else is done.
        for node in [&mut a, &mut b] {
            node.observe(30.0, &Heartbeat { service: "web".into(), instance: "1".into(), ..Heartbeat::default() });
            node.tick(2.0 * DAY);
            node.observe(2.0 * DAY, &Heartbeat { service: "web".into(), instance: "1".into(), ..Heartbeat::default() });
            node.engine.maintenance("web", None, 60.0);
            node.tick(2.0 * DAY + 1.0);
            node.jobs();
        }
        let mut a = Node::new("a", policy, 2.0 * DAY + 2.0);
        a.ask(&mut b, 2.0 * DAY + 2.5);
        a.tick(2.0 * DAY + 4.0);
        let (jobs, is_told) = a.jobs();
        assert!(!is_told && jobs.iter().all(|(_, state)| *state == JobState::Waiting), "{of_job}: {jobs:?}");
    }
}

#[test]
fn forgetting_a_job_that_is_a_whole_service_is_about_the_lines_of_whoever_runs_it() {
    let (mut a, mut b) = (Node::new("a", whole_service(), 0.0), Node::new("b", whole_service(), 0.0));
    // Of these one waits for its turn, and the other was heard by the peer alone.
    a.observe(10.0, &line("pod-1", JobStatus::Fail));
    b.observe(10.0, &line("pod-2", JobStatus::Fail));
    a.engine.at(at(10.2));
    assert!(a.engine.forget("backup", Some("-")));
    a.ask(&mut b, 10.3);
    a.tick(12.0);
    assert_eq!(a.jobs(), (vec![("-".into(), JobState::Waiting)], false));
}

#[test]
fn a_job_that_said_goodbye_is_not_brought_back_and_peers_are_told_of_its_goodbye_alone() {
    let policy = Policy::default;
    let (mut a, mut b) = (Node::new("a", policy(), 0.0), Node::new("b", policy(), 0.0));
    let goodbye = Heartbeat { goodbye: true, job: None, ..line("box", JobStatus::Ok) };
    a.observe(10.0, &line("box", JobStatus::Fail));
    a.observe(10.1, &goodbye);
    b.observe(10.0, &line("box", JobStatus::Fail));
    a.tick(12.0);
    // The peer's answer was slow.
    a.ask(&mut b, 12.5);
    a.tick(14.0);
    assert_eq!(a.jobs().0, []);
    // The peer learns of the end, and one that starts now of nothing.
    b.tick(12.5);
    assert_eq!(b.jobs().0, [("box".into(), JobState::Failed)]);
    b.ask(&mut a, 14.0);
    b.tick(15.0);
    assert_eq!(b.jobs().0, []);
    let mut new = Node::new("b", policy(), 16.0);
    new.ask(&mut a, 16.5);
    new.tick(18.0);
    assert_eq!(new.jobs(), (Vec::new(), false));
    // It is a job again when it is heard again.
    b.observe(20.0, &line("box", JobStatus::Ok));
    b.tick(21.0);
    a.ask(&mut b, 21.0);
    a.tick(22.0);
    assert_eq!(a.jobs().0, [("box".into(), JobState::Ok)]);
}

#[test]
fn peers_are_told_of_no_job_that_has_given_way_or_is_forgotten_after_a_week() {
    let mut a = Node::new("a", Policy { max_instances: 10, ..Policy::default() }, 0.0);
    for n in 0..100 {
        let now = f64::from(n);
        a.observe(now, &line(&format!("hostile-{n}"), JobStatus::Fail));
        a.tick(now + 0.9);
    }
    let told: Vec<CompactString> = a.digest(None, 101.0).jobs.into_iter().map(|row| row.i).collect();
    assert_eq!(told, ["hostile-95", "hostile-96", "hostile-97", "hostile-98", "hostile-99"]);
    a.tick(100.0 + 7.1 * DAY);
    a.tick(100.0 + 7.2 * DAY);
    assert_eq!((a.digest(None, 100.0 + 7.2 * DAY).jobs, a.jobs().0), (Vec::new(), Vec::new()));
}

#[test]
fn what_a_check_said_in_words_is_known_to_all_and_stays_if_a_peer_tells_none() {
    let (mut a, mut b) = (Node::new("a", Policy::default(), 0.0), Node::new("b", Policy::default(), 0.0));
    let check = |status: u8, said: Option<&str>| Heartbeat {
        service: "web".into(),
        instance: "one".into(),
        interval: Some(60.0),
        health: Some(status),
        message: said.map(Into::into),
        ..Heartbeat::default()
    };
    let seen = |node: &Node| {
        let view = node.engine.view_of_instance("web", "one", crate::presence::time::Epoch::UNIX).expect("an instance");
        (view.health, view.message)
    };
    a.observe(10.0, &check(2, Some("disk full")));
    b.ask(&mut a, 10.5);
    assert_eq!(seen(&b), (Some(2), Some("disk full".into())));
    // One of the version before tells the same again, and no words of it.
    a.observe(20.0, &check(2, Some("disk full")));
    let mut digest = a.digest(b.observers.cursor(0), 20.5);
    digest.heard.iter_mut().for_each(|row| row.message = None);
    b.engine.at(at(20.5));
    b.observers.take_digest(0, digest, &mut b.engine, (at(20.5), UNIX)).expect("taken");
    assert_eq!(seen(&b), (Some(2), Some("disk full".into())));
    a.observe(30.0, &check(0, None));
    b.ask(&mut a, 30.5);
    assert_eq!(seen(&b), (Some(0), None));
}
