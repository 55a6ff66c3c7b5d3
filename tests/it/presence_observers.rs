//! Two observers of a fleet of 40 instances in 4 services, promising 10 s, with 0.5 % loss: the real engines, alert books,
//! observers and queues of targets on two clocks that do not agree, over a network with delays. What goes wrong with the fleet
//! is crossed with what goes wrong with an observer, where each instance sends to both, and where a balancer sends each to one.
//!
//! Beside the fleet there are two jobs, of which one fails once, and a service whose maintenance is announced at one of the
//! nodes before it falls silent. Of a job each line goes to both nodes, or to one after the other. Each node has two targets.
//!
//! What receivers got is judged by what was true: nothing is missed, nothing is wrong, and whoever honours keys has each
//! problem once. A plain webhook may have one twice while the two cannot reach each other.
//! `SYSTOLE_TEST_OBSERVERS` is the number of seeds (5 in `tests/long`); without it a part of all is tried with one.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};

use std::sync::Arc;

use systole::internals::notify::{Outbox, Outcome, Route as Wanted};
use systole::internals::presence::observers::{Digest, Missed, Observers, POLL_SECS, SavedObservers};
use systole::internals::presence::policy::Policy;
use systole::internals::presence::{
    AlertBook, Engine, EngineTime, Epoch, JobRule, Notification, Saved, UnixTime, which,
};
use systole::internals::presence_driver::Among;
use systole::internals::protocol::{Heartbeat, JobStatus, JobTags};

use crate::support::{Random, alone, mix, size};

const SERVICES: usize = 4;
const PER: usize = 10;
const PROMISE: f64 = 10.0;
const TIMEOUT: f64 = 45.0;
const TICK: f64 = 0.25;
/// When the faults begin, how long one that ends lasts, and when everything ends.
const T0: f64 = 150.0;
const CUT: f64 = 120.0;
const END: f64 = 420.0;
/// What operators do: when maintenance of `quiet` begins and when it is ended in `s3`, where it was begun half a second before.
const ANNOUNCED: f64 = T0 - 20.0;
/// When the job `report` fails, and when it ends well again; the runs of a job are so many seconds apart.
const FAILS: f64 = T0 + 100.0;
const EVERY: f64 = 60.0;
/// Targets of each node.
const TARGETS: usize = 2;
/// A balancer notices after so long that a node is gone.
const MOVES_AFTER: f64 = 30.0;

/// Who sends where.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Route {
    /// A balancer sends each instance to one of the two.
    Half,
    /// Each instance sends to both.
    Both,
}

/// What goes wrong with the fleet.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    Instance,
    Service,
    /// So many of ten of each service cannot be heard for [`CUT`].
    Cut(usize),
    /// All die.
    All,
}

const FAULTS: [Fault; 7] =
    [Fault::None, Fault::Instance, Fault::Service, Fault::Cut(10), Fault::Cut(6), Fault::Cut(3), Fault::All];

/// What goes wrong with an observer.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Trouble {
    None,
    Dead(usize),
    /// It dies as soon as it has sent the first alarm, before a peer has heard of that.
    DeadAfterSending(usize),
    /// It dies, and no instance finds the other one.
    DeadForAll(usize),
    /// The two cannot reach each other for [`CUT`].
    Apart,
    Restarts(usize),
    /// It is killed, and comes back with what it saved last.
    Killed(usize),
    /// It comes back without anything.
    Forgets(usize),
    BothRestart,
    /// It answers every fourth poll for a minute.
    Slow(usize),
    /// The network loses half of what it hears.
    HearsHalf(usize),
    /// Its socket drops half of it for a minute, and it knows.
    Drops(usize),
    /// It stands still for a minute.
    Freezes(usize),
    /// Its receivers cannot be reached for [`CUT`].
    CannotSend(usize),
    /// One of them cannot.
    CannotSendToOne(usize),
}

const TROUBLES: [Trouble; 21] = [
    Trouble::None,
    Trouble::Dead(0),
    Trouble::Dead(1),
    Trouble::DeadAfterSending(0),
    Trouble::DeadForAll(1),
    Trouble::Apart,
    Trouble::Restarts(0),
    Trouble::Restarts(1),
    Trouble::Killed(0),
    Trouble::Killed(1),
    Trouble::Forgets(0),
    Trouble::Forgets(1),
    Trouble::BothRestart,
    Trouble::Slow(0),
    Trouble::Slow(1),
    Trouble::HearsHalf(1),
    Trouble::Drops(1),
    Trouble::Freezes(0),
    Trouble::CannotSend(0),
    Trouble::CannotSend(1),
    Trouble::CannotSendToOne(0),
];

/// One of so many combinations is tried where time is short; it shares no divisor with the number of troubles.
const PART: usize = 23;

/// Seconds for which a node is away.
const AWAY: f64 = 30.0;

/// What happens, in the order of time.
enum Happening {
    Beat(usize, usize),
    /// A line of a job of so many, of its run of so many.
    Job(usize, usize, JobStatus),
    Act(Act),
    Tick(usize),
    Poll(usize),
    /// An answer arrives at a node: when it was asked for, and by which of its starts.
    Answer(usize, f64, u64, Option<Box<Digest>>),
    /// A node tries what waits for a target.
    Deliver(usize, usize),
    Save(usize),
}

/// What an operator does.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// Maintenance of `quiet`.
    Quiet,
    /// That of `s3` begins, or ends.
    Begin,
    End,
    /// An instance of `quiet` is forgotten.
    Forget,
}

struct Entry(f64, u64, Happening);

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> std::cmp::Ordering {
        // The earliest first.
        other.0.total_cmp(&self.0).then(other.1.cmp(&self.1))
    }
}

/// What a node saves.
struct Snapshot {
    engine: Vec<u8>,
    alarms: Vec<systole::internals::presence::Alarm>,
    observers: Vec<u8>,
    at: f64,
}

/// A node: what the presence thread and its notifiers are in the daemon.
struct Node {
    engine: Engine,
    alerts: AlertBook,
    among: Among,
    start: u64,
    next_event: u64,
    targets: Vec<Target>,
}

/// A target of a node: its queue, and what the task that empties it has in work.
struct Target {
    outbox: Arc<Outbox>,
    batch: Vec<Notification>,
    /// An attempt is to come.
    is_busy: bool,
    pause: f64,
}

impl Node {
    fn outboxes(&self) -> Vec<Arc<Outbox>> {
        self.targets.iter().map(|target| Arc::clone(&target.outbox)).collect()
    }
}

/// Something that receivers got.
#[derive(Clone, Debug)]
struct Post {
    at: f64,
    target: usize,
    key: String,
    resolved: bool,
    /// Whether the two could not reach each other, as one of them saw it, then or just before.
    apart: bool,
}

struct World {
    route: Route,
    fault: Fault,
    trouble: Trouble,
    rng: Random,
    queue: BinaryHeap<Entry>,
    count: u64,
    nodes: [Option<Node>; 2],
    snapshots: [Option<Snapshot>; 2],
    starts: u64,
    posts: Vec<Post>,
    apart_until: f64,
    /// When somebody was last heard by whom that is not dead for good.
    is_dead: [bool; 2],
    frozen: Vec<(f64, Happening)>,
}

/// The clocks of the two: where they stand when the world's is at 0.
const CLOCKS: [(f64, f64); 2] = [(0.0, 1_700_000_000.0), (5_000.0, 1_700_000_037.0)];
const NAMES: [&str; 2] = ["a", "b"];

const JOBS: [&str; 2] = ["backup", "report"];

fn policy() -> Policy {
    let rule = |service: &&str| JobRule {
        service: (*service).into(),
        instance: None,
        schedule: None,
        every: Some(EVERY),
        grace: Some(10.0),
        max_runtime: Some(40.0),
    };
    Policy { jobs: JOBS.iter().map(rule).collect(), ..Policy::default() }
}

fn engine_time(node: usize, t: f64) -> EngineTime {
    EngineTime::from_secs(CLOCKS[node].0 + t)
}

fn unix_time(node: usize, t: f64) -> UnixTime {
    UnixTime::from_secs(CLOCKS[node].1 + t)
}

impl World {
    fn at(&mut self, t: f64, happening: Happening) {
        self.count += 1;
        self.queue.push(Entry(t, self.count, happening));
    }

    fn boot(&mut self, node: usize, t: f64, snapshot: Option<Snapshot>) {
        self.starts += 1;
        let (now, unix) = (engine_time(node, t), unix_time(node, t));
        let urls = [format!("https://{}", NAMES[1 - node])];
        let (engine, alarms, saved) = match snapshot {
            Some(saved) => {
                let observers = serde_json::from_slice(&saved.observers).expect("what was saved");
                let engine: Saved = serde_json::from_slice(&saved.engine).expect("what was saved");
                (Engine::restored(policy(), engine, now, 1), saved.alarms, observers)
            }
            None => (Engine::new(policy(), now, 1), Vec::new(), SavedObservers::default()),
        };
        let mut engine = engine.shared();
        engine.set_epoch(Epoch::new(unix, now));
        saved.place_peers(&urls, &mut engine);
        let alerts = AlertBook::new(0.0, alarms);
        let firing: Vec<_> = alerts.firing().cloned().collect();
        let observers = Observers::new(NAMES[node], self.starts, &urls, saved, firing.into_iter(), (now, unix));
        let target = |n: usize| Target {
            outbox: Arc::new(Outbox::new(&format!("target-{n}"), Wanted::default(), false, false)),
            batch: Vec::new(),
            is_busy: false,
            pause: 1.0,
        };
        self.nodes[node] = Some(Node {
            engine,
            alerts,
            among: Among::new(observers),
            start: self.starts,
            next_event: 1,
            targets: (0..TARGETS).map(target).collect(),
        });
        let phase = self.rng.u() * TICK;
        self.at(t + phase, Happening::Tick(node));
        let phase = self.rng.u() * POLL_SECS;
        self.at(t + phase, Happening::Poll(node));
    }

    fn save(&mut self, node: usize, t: f64) {
        let Some(one) = &self.nodes[node] else { return };
        let mut observers = Vec::new();
        one.among.observers.store(&mut observers).expect("JSON");
        let alarms = one.alerts.open().cloned().collect();
        let engine = serde_json::to_vec(&one.engine.save()).expect("JSON");
        self.snapshots[node] = Some(Snapshot { engine, alarms, observers, at: t });
    }

    /// Whether an instance is silent for good or for a time at `t`.
    fn is_silent(&self, service: usize, instance: usize, t: f64) -> bool {
        let during = (T0..T0 + CUT).contains(&t);
        if service >= SERVICES {
            return t >= T0;
        }
        match self.fault {
            Fault::None => false,
            Fault::Instance => (service, instance) == (1, 3) && t >= T0,
            Fault::Service => service == 2 && t >= T0,
            Fault::Cut(tenths) => during && instance < tenths,
            Fault::All => t >= T0,
        }
    }

    /// The nodes that hear a beat.
    fn targets(&self, service: usize, instance: usize, t: f64) -> Vec<usize> {
        if self.route == Route::Both {
            return vec![0, 1];
        }
        let home = (service * PER + instance) % 2;
        vec![if self.has_moved(home, t) { 1 - home } else { home }]
    }

    fn beat(&mut self, service: usize, instance: usize, t: f64) {
        let beat = Heartbeat {
            service: if service < SERVICES { format!("s{service}") } else { "quiet".into() }.into(),
            instance: format!("i{instance}").into(),
            interval: Some(PROMISE),
            ..Heartbeat::default()
        };
        for node in self.targets(service, instance, t) {
            self.hear(node, &beat, t);
        }
    }

    /// A line reaches a node, unless the network or its socket loses it.
    fn hear(&mut self, node: usize, beat: &Heartbeat, t: f64) {
        let half = match self.trouble {
            Trouble::HearsHalf(which) => which == node && t >= T0,
            Trouble::Drops(which) => which == node && (T0..T0 + 60.0).contains(&t),
            _ => false,
        };
        if half && self.rng.u() < 0.5 {
            return;
        }
        if let Some(one) = &mut self.nodes[node] {
            one.engine.at(engine_time(node, t));
            one.engine.beat(beat);
        }
    }

    /// A line of a job: to both nodes, or to one of them, the end of a run to the other one than its start.
    fn job(&mut self, job: usize, run: usize, status: JobStatus, t: f64, is_deaf: impl Fn(usize) -> bool) {
        let tags =
            JobTags { status: Some(status), exit: (status == JobStatus::Fail).then_some(2), ..JobTags::default() };
        let (service, instance) = (JOBS[job].into(), "-".into());
        let beat = Heartbeat { service, instance, job: Some(Box::new(tags)), ..Heartbeat::default() };
        let nodes = if self.route == Route::Both {
            vec![0, 1]
        } else {
            let home = (run + usize::from(status != JobStatus::Start)) % 2;
            vec![if self.has_moved(home, t) { 1 - home } else { home }]
        };
        for node in nodes {
            // Three copies, of which the network may lose some.
            if !is_deaf(node) && self.rng.u() >= 0.005_f64.powi(3) {
                for copy in 0..3 {
                    self.hear(node, &beat, t + 0.001 * f64::from(copy));
                }
            }
        }
    }

    /// Whether a balancer has noticed that a node is gone.
    fn has_moved(&self, home: usize, t: f64) -> bool {
        self.nodes[home].is_none() && t > T0 + MOVES_AFTER && !matches!(self.trouble, Trouble::DeadForAll(_))
    }

    fn act(&mut self, act: Act, t: f64) {
        let node = if matches!(act, Act::Forget) { 0 } else { 1 };
        let Some(one) = self.nodes[node].as_mut() else { return };
        one.engine.at(engine_time(node, t));
        match act {
            Act::Quiet => drop(one.engine.maintenance("quiet", None, 3600.0)),
            Act::Begin => drop(one.engine.maintenance("s3", None, 3600.0)),
            Act::End => drop(one.engine.maintenance("s3", None, 0.0)),
            Act::Forget => drop(one.engine.forget("quiet", Some("i1"))),
        }
    }

    fn poll(&mut self, node: usize, t: f64) {
        let Some(start) = self.nodes[node].as_ref().map(|one| one.start) else { return };
        self.at(t + POLL_SECS, Happening::Poll(node));
        self.ask(node, t, start);
    }

    /// Asks the other node.
    fn ask(&mut self, node: usize, t: f64, start: u64) {
        let (there, back) = (0.001 + 0.02 * self.rng.u(), 0.001 + 0.02 * self.rng.u());
        let other = 1 - node;
        let is_slow = match self.trouble {
            Trouble::Slow(which) => {
                which == other && (T0..T0 + 60.0).contains(&t) && !((t / POLL_SECS) as u64).is_multiple_of(4)
            }
            Trouble::Freezes(which) => which == other && (T0..T0 + 60.0).contains(&t),
            _ => false,
        };
        let is_cut = self.trouble == Trouble::Apart && (T0..T0 + CUT).contains(&t);
        let since = self.nodes[node].as_ref().and_then(|one| one.among.observers.cursor(0));
        let Some(peer) = self.nodes[other].as_mut().filter(|_| !is_slow && !is_cut) else {
            // A dead one refuses at once, and of the others nothing comes.
            self.at(t + POLL_SECS - 0.001, Happening::Answer(node, t, start, None));
            return;
        };
        peer.engine.at(engine_time(other, t + there));
        let digest = peer.among.observers.digest(&peer.engine, since, unix_time(other, t + there));
        // Over the wire.
        let text = serde_json::to_vec(&digest).expect("JSON");
        let digest = Digest::read(&text).expect("a digest");
        self.at(t + there + back, Happening::Answer(node, t, start, Some(Box::new(digest))));
    }

    fn answer(&mut self, node: usize, t: f64, asked: f64, start: u64, digest: Option<Digest>) {
        let Some(one) = self.nodes[node].as_mut().filter(|one| one.start == start) else { return };
        one.engine.at(engine_time(node, t));
        match digest {
            Some(digest) => {
                let times = (engine_time(node, asked), unix_time(node, t));
                let more = one.among.observers.take_digest(0, digest, &mut one.engine, times);
                if more.expect("an answer that is right") {
                    self.ask(node, t, start);
                }
            }
            None => one.among.observers.miss(0, Missed::Silent, &mut one.engine),
        }
    }

    fn tick(&mut self, node: usize, t: f64) {
        let Some(one) = self.nodes[node].as_mut() else { return };
        self.count += 1;
        self.queue.push(Entry(t + TICK, self.count, Happening::Tick(node)));
        let (now, unix) = (engine_time(node, t), unix_time(node, t));
        one.engine.at(now);
        let epoch = Epoch::new(unix, now);
        one.engine.set_epoch(epoch);
        if one.among.observers.may_judge(now) {
            one.engine.tick(now);
        }
        one.among.observers.tick(&mut one.engine, unix);
        let mut notifications = Vec::new();
        for event in one.engine.take_events() {
            notifications.append(&mut one.alerts.take(one.next_event, &event.in_unix_time(epoch)));
            one.next_event += 1;
        }
        notifications
            .append(&mut one.alerts.tick(unix, |service, instance| one.engine.is_maintained(service, instance)));
        one.among.observers.note(notifications, now);
        let outboxes = one.outboxes();
        one.among.speak(&one.engine, &outboxes);
        outboxes.iter().for_each(|outbox| outbox.tick(unix));
        if one.among.observers.answering().next().is_none() {
            self.apart_until = t + 2.0;
        }
        let idle = |target: &mut Target| !target.outbox.is_idle() && !std::mem::replace(&mut target.is_busy, true);
        let begin: Vec<usize> = (0..TARGETS).filter(|&n| idle(&mut one.targets[n])).collect();
        for target in begin {
            let delay = 0.01 + 0.1 * self.rng.u();
            self.at(t + delay, Happening::Deliver(node, target));
        }
    }

    /// An attempt of a target, as its task makes it.
    fn deliver(&mut self, node: usize, n: usize, t: f64) {
        let is_cut = (T0..T0 + CUT).contains(&t);
        let cannot = match self.trouble {
            Trouble::CannotSend(which) => which == node && is_cut,
            Trouble::CannotSendToOne(which) => which == node && n == 0 && is_cut,
            _ => false,
        };
        let Some(one) = self.nodes[node].as_mut() else { return };
        let target = &mut one.targets[n];
        target.outbox.keep_wanted(&mut target.batch);
        if target.batch.is_empty() {
            target.batch = target.outbox.take(100);
        }
        if target.batch.is_empty() {
            target.is_busy = false;
            return;
        }
        if cannot {
            target.outbox.note_failure("nobody is there");
            let pause = target.pause;
            target.pause = (2.0 * pause).min(60.0);
            self.at(t + pause, Happening::Deliver(node, n));
            return;
        }
        target.outbox.note_success();
        let sent = std::mem::take(&mut target.batch);
        target.outbox.finish(&sent.iter().map(which).collect::<Vec<_>>(), Outcome::Delivered);
        target.pause = 1.0;
        let has_alarm = sent.iter().any(|notification| !notification.resolved);
        let apart = t < self.apart_until;
        for Notification { alarm, resolved, .. } in sent {
            self.posts.push(Post { at: t, target: n, key: alarm.key.dedup_key(), resolved, apart });
        }
        self.at(t, Happening::Deliver(node, n));
        if has_alarm && n + 1 == TARGETS && self.trouble == Trouble::DeadAfterSending(node) && t >= T0 {
            self.nodes[node] = None;
            self.is_dead[node] = true;
        }
    }

    /// What happens to an observer between two times.
    fn trouble(&mut self, before: f64, t: f64) {
        let passes = |at: f64| before < at && at <= t;
        match self.trouble {
            Trouble::Dead(node) | Trouble::DeadForAll(node) if passes(T0) => {
                self.nodes[node] = None;
                self.is_dead[node] = true;
            }
            Trouble::Restarts(node) => self.restart(node, (before, t), true),
            Trouble::BothRestart => (0..2).for_each(|node| self.restart(node, (before, t), true)),
            Trouble::Killed(node) | Trouble::Forgets(node) => self.restart(node, (before, t), false),
            Trouble::Drops(node) => {
                for second in 1..=60 {
                    if passes(T0 + f64::from(second)) {
                        let now = engine_time(node, t);
                        self.nodes[node].iter_mut().for_each(|one| one.engine.kernel_drops(now, 100, 100));
                    }
                }
            }
            Trouble::Freezes(node) if passes(T0 + 60.0) => {
                let now = engine_time(node, t);
                if let Some(one) = &mut self.nodes[node] {
                    one.engine.at(now);
                    one.engine.stalled(now, 60.0);
                }
                for (_, happening) in std::mem::take(&mut self.frozen) {
                    self.at(t + 0.001, happening);
                }
            }
            _ => {}
        }
    }

    fn restart(&mut self, node: usize, (before, t): (f64, f64), is_clean: bool) {
        let passes = |at: f64| before < at && at <= t;
        if is_clean && passes(T0 - 1.0) {
            self.nodes[node].iter_mut().for_each(|one| one.among.observers.leave());
        }
        if passes(T0) {
            if is_clean {
                self.nodes[node].iter_mut().for_each(|one| one.engine.take_all_job_lines());
                self.tick(node, t);
                self.save(node, t);
            }
            self.nodes[node] = None;
        }
        if passes(T0 + AWAY) {
            let forgets = matches!(self.trouble, Trouble::Forgets(_));
            let saved = self.snapshots[node].take().filter(|_| !forgets);
            if let Some(saved) = &saved {
                assert!(saved.at <= T0 + 0.3);
            }
            self.boot(node, t, saved);
        }
    }

    fn run(&mut self) {
        for (job, first) in [30.0, 10.0].into_iter().enumerate() {
            for run in 0_u16.. {
                let begins = first + EVERY * f64::from(run);
                if begins >= END {
                    break;
                }
                let status = if job == 1 && begins == FAILS { JobStatus::Fail } else { JobStatus::Ok };
                self.at(begins, Happening::Job(job, usize::from(run), JobStatus::Start));
                let ends = begins + 0.5 + 20.0 * self.rng.u();
                self.at(ends, Happening::Job(job, usize::from(run), status));
            }
        }
        for (when, act) in
            [(ANNOUNCED, Act::Quiet), (ANNOUNCED, Act::Begin), (ANNOUNCED + 0.7, Act::End), (T0 + 60.0, Act::Forget)]
        {
            self.at(when, Happening::Act(act));
        }
        for service in 0..=SERVICES {
            for instance in 0..if service < SERVICES { PER } else { 2 } {
                let mut t = self.rng.u() * PROMISE;
                while t < END {
                    if self.rng.u() >= 0.005 && !self.is_silent(service, instance, t) {
                        self.at(t, Happening::Beat(service, instance));
                    }
                    t += PROMISE;
                }
            }
        }
        (0..2).for_each(|node| self.boot(node, 0.0, None));
        (0..2).for_each(|node| self.at(10.0, Happening::Save(node)));
        let mut before = 0.0;
        while let Some(Entry(t, _, happening)) = self.queue.pop() {
            if t > END {
                return;
            }
            self.trouble(before, t);
            before = t;
            let frozen = matches!(self.trouble, Trouble::Freezes(_)) && (T0..T0 + 60.0).contains(&t);
            match happening {
                Happening::Tick(0) | Happening::Poll(0) | Happening::Answer(0, ..) | Happening::Deliver(0, _)
                    if frozen =>
                {
                    // The last of what came for a node that stands still; beats are lost.
                    if !matches!(happening, Happening::Answer(..)) {
                        self.frozen.push((t, happening));
                    }
                }
                Happening::Beat(service, instance) if frozen => {
                    if self.targets(service, instance, t).contains(&1) {
                        let saved = self.nodes[0].take();
                        self.beat(service, instance, t);
                        self.nodes[0] = saved;
                    }
                }
                Happening::Beat(service, instance) => self.beat(service, instance, t),
                Happening::Job(job, run, status) => self.job(job, run, status, t, |node| frozen && node == 0),
                Happening::Act(act) => self.act(act, t),
                Happening::Tick(node) => self.tick(node, t),
                Happening::Poll(node) => self.poll(node, t),
                Happening::Answer(node, asked, start, digest) => {
                    self.answer(node, t, asked, start, digest.map(|digest| *digest));
                }
                Happening::Deliver(node, target) => self.deliver(node, target, t),
                Happening::Save(node) => {
                    if self.nodes[node].is_some() && t < T0 {
                        self.save(node, t);
                    }
                    self.at(t + 10.0, Happening::Save(node));
                }
            }
        }
    }
}

/// What is true of a receiver's problems.
#[derive(Debug, Default)]
struct Verdict {
    /// Problems that whoever honours keys has, with the times of their beginnings.
    begun: BTreeMap<String, Vec<f64>>,
    /// Those that are still there at the end.
    open: BTreeSet<String>,
    /// Problems that a plain webhook had twice although the two could reach each other.
    twice: Vec<String>,
    wrong: Vec<String>,
}

/// What one of the targets got, by what was true.
fn judge(world: &World, target: usize) -> Verdict {
    let mut verdict = Verdict::default();
    let mut state: HashMap<&str, bool> = HashMap::new();
    for post in world.posts.iter().filter(|post| post.target == target) {
        let is_open = state.insert(&post.key, !post.resolved).unwrap_or(false);
        match (is_open, post.resolved) {
            (false, false) => verdict.begun.entry(post.key.clone()).or_default().push(post.at),
            (true, false) if !post.apart => verdict.twice.push(format!("{} at {:.1}", post.key, post.at)),
            (false, true) if !post.apart => verdict.wrong.push(format!("{} ended twice at {:.1}", post.key, post.at)),
            _ => {}
        }
    }
    // A node that loses packets makes the false alarms that a single one would make, where nobody else hears the same.
    if world.route == Route::Half && matches!(world.trouble, Trouble::HearsHalf(_)) {
        check_missed(world, &mut verdict);
        return verdict;
    }
    verdict.open = state.into_iter().filter(|(_, open)| *open).map(|(key, _)| key.to_string()).collect();
    let begun: Vec<(String, Vec<f64>)> = verdict.begun.iter().map(|(key, at)| (key.clone(), at.clone())).collect();
    for (key, times) in &begun {
        if times.len() > 1 {
            verdict.wrong.push(format!("{key} begun {times:.1?}"));
        }
        if !may_be(world, key) {
            verdict.wrong.push(format!("{key} at {:.1} is not true", times[0]));
        }
        if times[0] < T0 || key.starts_with("PresenceJob") && times[0] < FAILS {
            verdict.wrong.push(format!("{key} at {:.1} is too early", times[0]));
        }
    }
    check_missed(world, &mut verdict);
    check_ends(world, &mut verdict);
    verdict
}

/// Whether a problem is one.
fn may_be(world: &World, key: &str) -> bool {
    let parts: Vec<&str> = key.split('/').collect();
    let is_gone = matches!(
        world.trouble,
        Trouble::Dead(_)
            | Trouble::DeadForAll(_)
            | Trouble::DeadAfterSending(_)
            | Trouble::Apart
            | Trouble::Killed(_)
            | Trouble::Forgets(_)
            | Trouble::Freezes(_)
    );
    match parts[0] {
        "PresencePeerUnreachable" => is_gone && parts[1..] == ["a", "b"],
        "PresenceInstanceDown" => match world.fault {
            Fault::Instance => parts[1..] == ["s1", "i3"],
            Fault::Service => parts[1] == "s2",
            Fault::Cut(tenths) => parts[2][1..].parse::<usize>().is_ok_and(|instance| instance < tenths),
            // A node that has just started takes those as they are who were silent for their time by then.
            Fault::All => {
                world.route == Route::Half && matches!(world.trouble, Trouble::Restarts(_) | Trouble::Killed(_))
            }
            Fault::None => false,
        },
        "PresenceServiceDown" => match world.fault {
            Fault::Service => parts[1] == "s2",
            Fault::Cut(10) => world.route == Route::Half,
            _ => false,
        },
        "PresenceServiceDegraded" => match world.fault {
            Fault::Service => parts[1] == "s2",
            Fault::Cut(_) => true,
            _ => false,
        },
        // Of the other one all runs are well, though some may not be heard.
        "PresenceJob" => parts[1] == JOBS[1],
        "PresenceMassSilence" => matches!(world.fault, Fault::Cut(6 | 10) | Fault::All),
        "PresenceIngest" => matches!(
            (world.trouble, parts.last()),
            (Trouble::Drops(_), Some(&"ingest_drops"))
                | (Trouble::HearsHalf(_) | Trouble::Drops(_), Some(&"high_loss"))
        ),
        _ => false,
    }
}

/// What must have come, and when at the latest.
fn check_missed(world: &World, verdict: &mut Verdict) {
    let is_both = world.route == Route::Both;
    let first = |names: &[&str]| {
        let all = verdict.begun.iter().filter(|(key, _)| names.iter().any(|name| key.starts_with(name)));
        all.map(|(_, times)| times[0]).min_by(f64::total_cmp)
    };
    let mass = &["PresenceMassSilence", "PresenceServiceDown"][..];
    let wanted: Option<&[&str]> = match world.fault {
        Fault::None => None,
        Fault::Instance => Some(&["PresenceInstanceDown/s1/i3"]),
        Fault::Service => Some(&["PresenceServiceDown/s2"]),
        Fault::Cut(3) => Some(&["PresenceInstanceDown"]),
        // Whom a node that drops hears is neither silent nor heard, so the others are no majority.
        Fault::Cut(6) if matches!(world.trouble, Trouble::Drops(_)) && !is_both => Some(&["PresenceInstanceDown"]),
        // The same of whom a node would hear that is away: who is told one by one is not told as a whole.
        Fault::Cut(6)
            if matches!(
                world.trouble,
                Trouble::Killed(_) | Trouble::Forgets(_) | Trouble::Dead(_) | Trouble::Restarts(_)
            ) && !is_both =>
        {
            Some(&["PresenceMassSilence", "PresenceInstanceDown"])
        }
        Fault::Cut(6 | 10) | Fault::All => Some(mass),
        Fault::Cut(_) => None,
    };
    // What only a lost node could hear is late by the time until its instances have found the other, or is not known.
    let slack = match world.trouble {
        _ if is_both => 2.0,
        Trouble::Dead(_) | Trouble::DeadAfterSending(_) => MOVES_AFTER + 2.0 * PROMISE + 2.0,
        Trouble::Restarts(_) | Trouble::BothRestart | Trouble::Killed(_) | Trouble::Forgets(_) => {
            AWAY + TIMEOUT + PROMISE + 2.0
        }
        Trouble::Freezes(_) => 60.0 + TIMEOUT + 2.0,
        Trouble::Drops(_) => TIMEOUT + 2.0,
        Trouble::Apart => CUT + 2.0,
        _ => 2.0,
    };
    let slack = match world.trouble {
        // Nobody was there.
        Trouble::BothRestart => AWAY + TIMEOUT + 2.0,
        // Blind, in a way that it knows.
        Trouble::CannotSend(0) | Trouble::CannotSendToOne(0) => slack + 1.5,
        _ => slack,
    };
    // Half of the lines of jobs go to who is not there any more, or is half deaf.
    let loses_lines = !is_both && matches!(world.trouble, Trouble::DeadForAll(_) | Trouble::HearsHalf(_));
    let failed = verdict.begun.get("PresenceJob/report/-").map(|times| times[0]);
    if !loses_lines && failed.is_none_or(|at| at > FAILS + 20.5 + 2.0 + if cannot_send(world) { 1.5 } else { 0.0 }) {
        verdict.wrong.push(format!("that the job failed was missed, or late: {failed:?}"));
    }
    let Some(wanted) = wanted else { return };
    let is_hidden = !is_both && matches!(world.trouble, Trouble::DeadForAll(_));
    match first(wanted) {
        None if is_hidden => {}
        None => verdict.wrong.push(format!("{wanted:?} was missed")),
        Some(at) if at > T0 + TIMEOUT + slack => {
            verdict.wrong.push(format!("{wanted:?} at {at:.1}, later than {:.1}", T0 + TIMEOUT + slack));
        }
        Some(_) => {}
    }
}

/// Whether one of the nodes finds out that it cannot send by trying.
fn cannot_send(world: &World) -> bool {
    matches!(world.trouble, Trouble::CannotSend(0) | Trouble::CannotSendToOne(0))
}

/// What is over must have ended.
fn check_ends(world: &World, verdict: &mut Verdict) {
    let is_for_good = matches!(world.fault, Fault::Instance | Fault::Service | Fault::All);
    let stays = |key: &str| match key {
        _ if key.starts_with("PresencePeer") => world.is_dead.contains(&true),
        _ if key.starts_with("PresenceIngest") => true,
        _ => is_for_good,
    };
    let left: Vec<String> = verdict.open.iter().filter(|key| !stays(key)).cloned().collect();
    verdict.wrong.extend(left.into_iter().map(|key| format!("{key} has no end")));
    let gone = world.is_dead.contains(&true);
    if gone && !verdict.begun.keys().any(|key| key.starts_with("PresencePeer")) {
        verdict.wrong.push("that the peer is gone was missed".into());
    }
    if !matches!(world.fault, Fault::Service | Fault::Cut(_) | Fault::All | Fault::Instance)
        && verdict.open.iter().any(|key| key.starts_with("PresenceInstance"))
    {
        verdict.wrong.push("somebody is down".into());
    }
}

/// What the targets got.
fn run(route: Route, fault: Fault, trouble: Trouble, seed: u64) -> Verdict {
    let mut world = World {
        route,
        fault,
        trouble,
        rng: Random(mix(seed)),
        queue: BinaryHeap::new(),
        count: 0,
        nodes: [None, None],
        snapshots: [None, None],
        starts: 0,
        posts: Vec::new(),
        apart_until: 0.0,
        is_dead: [false, false],
        frozen: Vec::new(),
    };
    world.run();
    let mut verdict = judge(&world, 0);
    for target in 1..TARGETS {
        let other = judge(&world, target);
        verdict.wrong.extend(other.wrong);
        verdict.twice.extend(other.twice);
    }
    verdict
}

#[test]
fn two_observers_notify_once_of_what_is_true() {
    let _alone = alone();
    let seeds = size("SYSTOLE_TEST_OBSERVERS", 0);
    let (mut wrong, mut count) = (Vec::new(), 0);
    for seed in 0..seeds.max(1) {
        for route in [Route::Both, Route::Half] {
            for fault in FAULTS {
                for trouble in TROUBLES {
                    count += 1;
                    if seeds == 0 && count % PART != 0 {
                        continue;
                    }
                    let verdict = run(route, fault, trouble, 1000 * seed + 7);
                    let first = verdict.begun.values().flatten().copied().min_by(f64::total_cmp);
                    println!(
                        "| {route:?} | {fault:?} | {trouble:?} | {} | {} | {} |",
                        verdict.begun.len(),
                        first.map_or("-".into(), |at| format!("{:.1}", at - T0)),
                        verdict.twice.len(),
                    );
                    let all: Vec<&String> = verdict.wrong.iter().chain(&verdict.twice).collect();
                    if !all.is_empty() {
                        wrong.push(format!("{route:?}, {fault:?}, {trouble:?}, seed {seed}: {all:?}"));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong: {wrong:#?}", wrong.len());
}
