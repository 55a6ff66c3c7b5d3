//! A month of a fleet, through the engine and the alert book: 40 services with 300 instances, deploys with and without
//! goodbyes, blue/green, autoscaling, loss, brown-outs, our own restarts; two real outages and three crashes. What somebody
//! on call is notified of is the outages, once each, the crashes, and no more false downs than the loss makes likely.
//!
//! No service to which something really happens is deployed or scaled within a quarter of an hour of that: a newcomer of
//! that time replaces a dead instance, as the design wants it. `SYSTOLE_TEST_HOURS` and `SYSTOLE_TEST_MONTHS` are the hours
//! of a run and the number of runs (720 and 5 in `tests/long`).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use systole::internals::presence::policy::{Misses, Override, Policy};
use systole::internals::presence::{Alarm, AlertBook, AlertName, Engine, EngineTime, Epoch, Saved, Severity, UnixTime};
use systole::internals::protocol::{Heartbeat, JobStatus, JobTags};

use crate::support::{Random as Rng, alone, mix, size};

const DAY: f64 = 86_400.0;
const TICK: f64 = 0.25;

/// How long warnings about instances wait for an alarm of their service.
const GROUP_WAIT: f64 = 10.0;

/// How long our own restarts take, in seconds.
const AWAY: f64 = 60.0;

/// How long a deploy takes at most, in seconds.
const DEPLOY: f64 = 1200.0;

/// Between what really happens and a change that is meant, in seconds.
const CALM: f64 = 900.0;

/// Services of each kind: one of 8 and sixteen of 12 instances that beat every 10 s; ten of 6 that beat every minute; ten of
/// three cron jobs each; three of laptops.
const TENS: usize = 17;
const MINUTES: usize = 10;
const CRONS: usize = 10;
const LAPTOPS: [usize; 3] = [4, 3, 3];

/// How often the cron jobs of a service run, in seconds.
const CRON_EVERY: [f64; CRONS] = [300.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 3600.0, 21_600.0, DAY, DAY];

/// What a cron job of a service says: that it is there, as itself or under a new id in each run; or when its runs begin and
/// end, each with an id.
#[derive(Clone, Copy, PartialEq)]
enum Says {
    Beats,
    BeatsOfPods,
    Runs,
}

/// Services of the site that loses a datagram of twenty, which run with `misses = "auto"`.
const LOSSY: [usize; 3] = [3, 4, TENS + 2];

fn time(secs: f64) -> EngineTime {
    EngineTime::from_secs(secs)
}

fn name(service: usize) -> String {
    match service {
        s if s < TENS => format!("api-{s}"),
        s if s < TENS + MINUTES => format!("worker-{s}"),
        s if s < TENS + MINUTES + CRONS => format!("cron-{s}"),
        s => format!("laptop-{s}"),
    }
}

fn slots(service: usize) -> usize {
    match service {
        0 => 8,
        s if s < TENS => 12,
        s if s < TENS + MINUTES => 6,
        s if s < TENS + MINUTES + CRONS => 3,
        s => LAPTOPS[s - TENS - MINUTES - CRONS],
    }
}

fn interval(service: usize) -> f64 {
    match service {
        s if s < TENS => 10.0,
        s if s < TENS + MINUTES => 60.0,
        s if s < TENS + MINUTES + CRONS => CRON_EVERY[s - TENS - MINUTES],
        _ => 10.0,
    }
}

fn says(service: usize) -> Says {
    match service.checked_sub(TENS + MINUTES) {
        Some(4 | 6) => Says::BeatsOfPods,
        Some(7 | 8) => Says::Runs,
        _ => Says::Beats,
    }
}

fn loss(service: usize) -> f64 {
    if LOSSY.contains(&service) { 0.05 } else { 0.01 }
}

/// One process that beats.
#[derive(Clone)]
struct Sender {
    service: usize,
    slot: usize,
    beat: Heartbeat,
    ends: f64,
    says_goodbye: bool,
}

/// Something that really happened, from then to then.
#[derive(Clone, Copy, PartialEq)]
enum Incident {
    /// All of the service of 8 dies.
    Outage,
    /// 150 of the 200 that beat every 10 s are cut off.
    Cut,
    /// One instance of a service dies.
    Crash(usize, usize),
}

impl Incident {
    fn is_about(self, service: usize) -> bool {
        match self {
            Incident::Outage => service == 0,
            Incident::Cut => (1..=13).contains(&service),
            Incident::Crash(crashed, _) => service == crashed,
        }
    }

    fn silences(self, sender: &Sender) -> bool {
        match self {
            Incident::Outage => sender.service == 0,
            Incident::Cut => matches!((sender.service, sender.slot), (1..=12, _) | (13, 0..6)),
            Incident::Crash(service, slot) => (sender.service, sender.slot) == (service, slot),
        }
    }
}

/// What happens in a run: when beats come is decided as they do.
struct Plan {
    end: f64,
    senders: Vec<(f64, Sender)>,
    incidents: Vec<(f64, f64, Incident)>,
    brown_outs: Vec<f64>,
    restarts: Vec<f64>,
}

impl Plan {
    fn new(days: f64, r: &mut Rng) -> Plan {
        let end = days * DAY;
        let at = |share: f64| share * end;
        let crash = |share, service, slot| (at(share), at(share) + 1800.0, Incident::Crash(service, slot));
        let incidents = vec![
            crash(0.2, 15, 2),
            (at(0.35), at(0.35) + 1200.0, Incident::Outage),
            crash(0.5, TENS + 5, 1),
            (at(0.65), at(0.65) + 400.0, Incident::Cut),
            crash(0.85, 16, 7),
        ];
        // One of them in the outage, when that has been notified.
        let restart = at(0.35) + 600.0;
        let restarts = (-4..=4).map(|week| restart + 7.0 * DAY * f64::from(week));
        let restarts = restarts.filter(|restart| (0.0..end).contains(restart)).collect();
        let brown_outs = (0..days.ceil() as u32).map(|day| (f64::from(day) + r.u()) * DAY.min(end)).collect();
        let mut plan = Plan { end, senders: Vec::new(), incidents, brown_outs, restarts };
        plan.populate(days, r);
        plan
    }

    /// A time of a day that is away from everything that really happens to a service.
    fn calm(&self, day: u32, service: usize, length: f64, r: &mut Rng) -> f64 {
        loop {
            let from = (f64::from(day) + r.u()) * DAY.min(self.end);
            let is_calm = |&(begin, over, what): &(f64, f64, Incident)| {
                !what.is_about(service) || from > over + CALM || from + length + CALM < begin
            };
            if from > 600.0 && self.incidents.iter().all(is_calm) {
                return from;
            }
        }
    }

    fn populate(&mut self, days: f64, r: &mut Rng) {
        let services = TENS + MINUTES + CRONS + LAPTOPS.len();
        // Who holds each slot now, and since when.
        let mut current: Vec<Vec<(f64, Sender)>> = Vec::new();
        for service in 0..services {
            let new = |slot| (r.u() * interval(service), Plan::sender(service, slot, 0));
            current.push((0..slots(service)).map(new).collect());
        }
        for day in 0..days.ceil() as u32 {
            // No service is deployed twice a day, and none for a second time before the first is through.
            let mut deployed: Vec<(f64, usize)> = Vec::new();
            while deployed.len() < 6 {
                let service = r.below((TENS + MINUTES) as u64) as usize;
                if deployed.iter().all(|&(_, other)| other != service) {
                    deployed.push((self.calm(day, service, DEPLOY, r), service));
                }
            }
            for (n, &(at, service)) in deployed.iter().enumerate() {
                self.deploy(n, (at, day), &mut current[service], r);
            }
            for n in 0..20 {
                let service = r.below((TENS + MINUTES) as u64) as usize;
                let length = 1200.0 + r.u() * 4000.0;
                let from = self.calm(day, service, length, r);
                let sender = Plan::sender(service, 100, 0);
                let beat = Heartbeat { instance: format!("scaled-{day}-{n}").into(), ..sender.beat.clone() };
                self.senders.push((from, Sender { beat, ends: from + length, says_goodbye: true, ..sender }));
            }
        }
        self.senders.extend(current.into_iter().flatten());
    }

    /// The `n`th deploy of a day: the first is blue/green, with a bake of ten minutes; of the others two say no goodbye.
    fn deploy(&mut self, n: usize, (at, day): (f64, u32), service: &mut [(f64, Sender)], r: &mut Rng) {
        let is_blue_green = n == 0;
        for (slot, holder) in service.iter_mut().enumerate() {
            // Two days in a row may deploy it within minutes.
            let at = at.max(holder.0 + DEPLOY);
            let from = if is_blue_green { at } else { at + 30.0 * slot as f64 } + r.u() * 3.0;
            let fresh = (from, Plan::sender(holder.1.service, slot, day + 1));
            let (began, mut old) = std::mem::replace(holder, fresh);
            (old.ends, old.says_goodbye) = (from + if is_blue_green { 600.0 } else { 15.0 }, n % 3 != 1);
            self.senders.push((began, old));
        }
    }

    fn sender(service: usize, slot: usize, generation: u32) -> Sender {
        let beat = Heartbeat {
            service: name(service).into(),
            instance: format!("i{slot}-{generation}").into(),
            interval: Some(interval(service)),
            ..Heartbeat::default()
        };
        Sender { service, slot, beat, ends: f64::INFINITY, says_goodbye: false }
    }

    /// Whether a sender's datagrams are lost at a time, whatever else happens.
    fn is_silent(&self, sender: &Sender, t: f64, r: &mut Rng) -> bool {
        let is_laptop = sender.service >= TENS + MINUTES + CRONS;
        // Laptops sleep two hours of three.
        (is_laptop && (t / 3600.0 + sender.slot as f64) % 3.0 > 1.0)
            || self.incidents.iter().any(|&(from, to, what)| (from..to).contains(&t) && what.silences(sender))
            || (self.brown_outs.iter().any(|at| (0.0..6.0).contains(&(t - at))) && r.u() < 0.8)
    }
}

fn policy() -> Policy {
    let mut overrides =
        vec![Override { pattern: "laptop-*".into(), ephemeral: Some(true), min: Some(0), ..Override::default() }];
    overrides.extend(LOSSY.map(|service| Override {
        pattern: name(service),
        misses: Some(Misses::Auto),
        ..Override::default()
    }));
    Policy { overrides, ..Policy::default() }
}

/// What was notified: when, what, of whom, whether it is an end, and how grave it is.
#[derive(Debug)]
struct Told {
    at: f64,
    name: AlertName,
    service: String,
    instance: String,
    is_over: bool,
    severity: Severity,
}

struct Run {
    engine: Engine,
    alerts: AlertBook,
    told: Vec<Told>,
    events: u64,
    next_tick: f64,
}

impl Run {
    fn new() -> Run {
        let mut engine = Engine::new(policy(), EngineTime::default(), 1);
        engine.set_epoch(Epoch::UNIX);
        let alerts = AlertBook::new(GROUP_WAIT, Vec::new());
        Run { engine, alerts, told: Vec::new(), events: 0, next_tick: TICK }
    }

    /// Judges at each tick up to a time.
    fn advance(&mut self, until: f64) {
        while self.next_tick <= until {
            self.engine.tick(time(self.next_tick));
            let mut out = Vec::new();
            for event in self.engine.take_events() {
                self.events += 1;
                out.append(&mut self.alerts.take(self.events, &event.in_unix_time(Epoch::UNIX)));
            }
            let unix = UnixTime::from_secs(self.next_tick);
            out.append(&mut self.alerts.tick(unix, |service, instance| self.engine.is_maintained(service, instance)));
            self.told.extend(out.into_iter().map(|notification| Told {
                at: self.next_tick,
                name: notification.alarm.key.name,
                service: notification.alarm.key.service.as_deref().unwrap_or_default().to_string(),
                instance: notification.alarm.key.instance.as_deref().unwrap_or_default().to_string(),
                is_over: notification.resolved,
                severity: notification.alarm.severity,
            }));
            // Alarms that wait are looked at every second.
            let idle = self.engine.idle_until().as_secs().min(self.next_tick + 1.0);
            self.next_tick = (self.next_tick + TICK).max((idle / TICK).floor() * TICK);
        }
    }

    /// We stop and start again, with what the state file has.
    fn restart(&mut self, down: f64, up: f64) {
        self.advance(down);
        let mut file = Vec::new();
        self.engine.store(&mut file).expect("memory");
        let saved: Saved = serde_json::from_slice(&file).expect("a state");
        self.engine = Engine::restored(policy(), saved, time(up), 1);
        self.engine.set_epoch(Epoch::UNIX);
        let open = serde_json::to_string(&self.alerts.open().collect::<Vec<_>>()).expect("JSON");
        let open: Vec<Alarm> = serde_json::from_str(&open).expect("alarms");
        self.alerts = AlertBook::new(GROUP_WAIT, open);
        self.next_tick = up;
    }
}

/// What a sender does next: it beats, or begins a run, for the so-manieth time; or ends that run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Beat(u64),
    EndOfRun(u64),
}

/// What a sender sends in a step; three times, a run being worth it, or once.
fn datagram(sender: &Sender, step: Step, is_over: bool) -> (Heartbeat, u32) {
    let beat = sender.beat.clone();
    let is_cron = interval(sender.service) > 60.0;
    let beat = match (says(sender.service), step) {
        _ if is_over => Heartbeat { goodbye: true, ..beat },
        (Says::Beats, _) => beat,
        (Says::BeatsOfPods, Step::Beat(run) | Step::EndOfRun(run)) => {
            Heartbeat { instance: format!("i{}-run{run}", sender.slot).into(), ..beat }
        }
        (Says::Runs, Step::Beat(run)) => with_status(beat, JobStatus::Start, run),
        (Says::Runs, Step::EndOfRun(run)) => with_status(beat, JobStatus::Ok, run),
    };
    (beat, if is_over || is_cron { 3 } else { 1 })
}

fn with_status(beat: Heartbeat, status: JobStatus, run: u64) -> Heartbeat {
    let tags = JobTags { status: Some(status), run: Some(format!("run{run}").into()), ..JobTags::default() };
    Heartbeat { job: Some(Box::new(tags)), ..beat }
}

fn play(plan: &Plan, r: &mut Rng) -> Vec<Told> {
    let mut run = Run::new();
    // Milliseconds are ordered like times.
    let millis = |t: f64| (t * 1000.0).ceil() as u64;
    let first = |(n, (from, _)): (usize, &(f64, Sender))| Reverse((millis(*from), n, Step::Beat(0)));
    let mut queue: BinaryHeap<Reverse<(u64, usize, Step)>> = plan.senders.iter().enumerate().map(first).collect();
    let mut restarts = plan.restarts.iter().copied().peekable();
    while let Some(Reverse((at, n, step))) = queue.pop() {
        let (t, (began, sender)) = (at as f64 / 1000.0, &plan.senders[n]);
        if t >= plan.end {
            break;
        }
        if let Some(down) = restarts.next_if(|down| t >= down + AWAY) {
            run.restart(down, down + AWAY);
        }
        // While we are away nobody listens.
        let are_away = restarts.peek().is_some_and(|&down| t >= down);
        let is_over = t >= sender.ends;
        let (beat, copies) = datagram(sender, step, is_over);
        let heard = (0..copies).filter(|_| r.u() >= loss(sender.service)).count() > 0;
        let says = !is_over || sender.says_goodbye;
        if says && heard && !plan.is_silent(sender, t, r) && !are_away {
            run.advance(t);
            run.engine.at(time(t));
            run.engine.beat(&beat);
        }
        let every = interval(sender.service);
        let Step::Beat(beats) = step else { continue };
        if is_over {
            continue;
        }
        if says_runs(sender) {
            queue.push(Reverse((millis(t + 0.1 * every * r.u()), n, Step::EndOfRun(beats))));
        }
        let jitter = if every > 60.0 { r.u() * 20.0 } else { r.u() * 0.02 };
        let next = began + (beats + 1) as f64 * every + jitter;
        queue.push(Reverse((millis(next.min(sender.ends.max(t))), n, Step::Beat(beats + 1))));
    }
    run.advance(plan.end);
    run.told
}

fn says_runs(sender: &Sender) -> bool {
    says(sender.service) == Says::Runs
}

/// False downs of instances that beat every 10 s and every minute, and of the lossy site.
#[derive(Clone, Copy, Debug, Default)]
struct False {
    tens: u64,
    minutes: u64,
    rare: u64,
    lossy: u64,
}

/// What of a run is wrong, and its false downs.
fn judge(plan: &Plan, told: &[Told]) -> (Vec<String>, False) {
    let mut wrong = Vec::new();
    let mut false_downs = False::default();
    let mut is_explained = vec![false; told.len()];
    for &(from, to, what) in &plan.incidents {
        let during = from..to + 900.0;
        let mine: Vec<usize> = (0..told.len())
            .filter(|&n| {
                let one = &told[n];
                let is_about = match what {
                    Incident::Outage => one.service == name(0),
                    Incident::Cut => one.name == AlertName::MassSilence,
                    Incident::Crash(service, slot) => {
                        one.service == name(service) && one.instance.starts_with(&format!("i{slot}-"))
                    }
                };
                is_about && during.contains(&one.at)
            })
            .collect();
        mine.iter().for_each(|&n| is_explained[n] = true);
        let (patience, severity) = match what {
            Incident::Outage | Incident::Cut => (46.0, Severity::Critical),
            Incident::Crash(service, _) if service < TENS => (46.0 + GROUP_WAIT, Severity::Warning),
            Incident::Crash(..) => (211.0 + GROUP_WAIT, Severity::Warning),
        };
        let of =
            |is_over: bool| mine.iter().filter(move |&&n| told[n].is_over == is_over && told[n].severity == severity);
        let found = of(false).map(|&n| told[n].at - from).next();
        let is_told_once = mine.len() == 2 && of(false).count() == 1 && of(true).count() == 1;
        if !is_told_once || found.is_none_or(|after| after > patience) {
            let mine: Vec<&Told> = mine.iter().map(|&n| &told[n]).collect();
            wrong.push(format!("{from}: found after {found:?}: {mine:#?}"));
        }
    }
    let of_service = |wanted: &str| (0..TENS + MINUTES + CRONS).find(|&service| name(service) == wanted);
    for (one, _) in told.iter().zip(&is_explained).filter(|(_, is_explained)| !**is_explained) {
        let count = match of_service(&one.service) {
            Some(service) if LOSSY.contains(&service) => &mut false_downs.lossy,
            Some(service) if service < TENS => &mut false_downs.tens,
            Some(service) if service < TENS + MINUTES => &mut false_downs.minutes,
            _ => &mut false_downs.rare,
        };
        if one.name == AlertName::InstanceDown && of_service(&one.service).is_some() {
            *count += u64::from(!one.is_over);
        } else {
            wrong.push(format!("{one:?}"));
        }
    }
    wrong.extend(unpaired(plan, told));
    (wrong, false_downs)
}

/// Ends without a problem, problems that are told twice, and those that last: who is not back within a day and a half is
/// forgotten, and that is an end.
fn unpaired(plan: &Plan, told: &[Told]) -> Vec<String> {
    let mut open: BTreeMap<_, f64> = BTreeMap::new();
    let mut wrong = Vec::new();
    for one in told {
        let key = (one.name.to_string(), &one.service, &one.instance);
        let is_pair = if one.is_over { open.remove(&key).is_some() } else { open.insert(key, one.at).is_none() };
        if !is_pair {
            wrong.push(format!("not in pairs: {one:?}"));
        }
    }
    let lasting = open.into_iter().filter(|&(_, since)| since < plan.end - 1.5 * DAY);
    wrong.extend(lasting.map(|(key, since)| format!("without an end since {since}: {key:?}")));
    wrong
}

/// The most that chance explains where so many are likely.
fn allowance(likely: f64) -> u64 {
    (likely + 3.0 * likely.sqrt() + 3.0) as u64
}

#[test]
fn a_month_of_a_fleet_notifies_of_what_really_happens() {
    let _alone = alone();
    let (days, runs) = (size("SYSTOLE_TEST_HOURS", 6) as f64 / 24.0, size("SYSTOLE_TEST_MONTHS", 1));
    let (mut wrong, mut all) = (Vec::new(), False::default());
    for seed in 0..runs {
        let mut r = Rng(mix(mix(16) ^ seed));
        let plan = Plan::new(days, &mut r);
        let told = play(&plan, &mut r);
        let (faults, downs) = judge(&plan, &told);
        let warned = told.iter().filter(|one| !one.is_over).count();
        println!("seed {seed}: {warned} problems and {} ends notified, {downs:?}", told.len() - warned);
        wrong.extend(faults.into_iter().map(|fault| format!("seed {seed}: {fault}")));
        all.tens += downs.tens;
        all.minutes += downs.minutes;
        all.rare += downs.rare;
        all.lossy += downs.lossy;
    }
    let likely = |instances: f64, every: f64, p: f64, misses: i32| {
        instances * days * runs as f64 * DAY / every * (1.0 - p) * p.powi(misses)
    };
    let (tens, minutes) = (likely(176.0, 10.0, 0.01, 4), likely(54.0, 60.0, 0.01, 3));
    let lossy = 30.0 * days * runs as f64 * 0.001;
    println!("false downs: {all:?}; likely {tens:.1} of 10 s, {minutes:.1} of 60 s, {lossy:.1} of the lossy site");
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(all.tens <= allowance(tens) && all.minutes <= allowance(minutes), "{all:?}");
    assert!(all.lossy <= allowance(lossy) && all.rare <= 3, "{all:?}");
}
