//! Presence under random histories and hostile lines: what must hold, holds. The invariants are those of the design's
//! reference model. `SYSTOLE_TEST_INPUTS` is the number of heartbeats of either kind (1,000,000 in `tests/all`).

use std::collections::HashMap;

use systole::internals::presence::policy::{Expected, Misses, Notify, Override, Policy};
use systole::internals::presence::{Change, Engine, EngineTime, Epoch, Event, Phase, Reason, ServiceState, State};
use systole::internals::protocol::{Heartbeat, Heartbeats, Line, Options, Signal, parse_line};

use crate::support::heap::held_bytes;
use crate::support::{Random as Rng, alone, mix, size};

const TICK: f64 = 0.25;

fn time(secs: f64) -> EngineTime {
    EngineTime::from_secs(secs)
}

fn inputs() -> u64 {
    size("SYSTOLE_TEST_INPUTS", 100_000)
}

#[derive(Default)]
struct Checker {
    /// Last state, by who, and whether a problem of its was told.
    instances: HashMap<(String, String), (Option<State>, bool)>,
    services: HashMap<String, (Option<ServiceState>, bool)>,
    /// Who flaps, and whether that was notified.
    flapping: HashMap<(String, String), bool>,
}

impl Checker {
    /// An event begins where the last one of its subject ended; a resolve is told if and only if its problem was.
    fn check(&mut self, event: &Event<EngineTime>) {
        let service = event.service.as_deref().unwrap_or("").to_string();
        match event.change {
            Change::Instance { from, to, .. } => {
                let who = (service, event.instance.as_deref().unwrap_or("").to_string());
                let (last, told) = self.instances.entry(who).or_insert((None, false));
                let we_restarted = from == Some(State::Unknown) && matches!(*last, Some(State::Up | State::Late));
                assert!(from == *last || we_restarted, "chain: was {last:?}: {event:?}");
                *last = to;
                if to == Some(State::Down) {
                    assert!(!(event.notify && *told), "told twice: {event:?}");
                    *told |= event.notify;
                } else if from == Some(State::Down) {
                    assert_eq!(event.notify, *told, "pairing: {event:?}");
                    *told = false;
                }
                assert!(from != Some(State::Left) || matches!(to, Some(State::Up) | None), "left: {event:?}");
            }
            Change::Service { from, to } => {
                let (last, told) = self.services.entry(service).or_insert((None, false));
                let was_expected = last.is_none() && from == Some(ServiceState::Unknown);
                assert!(from == *last || was_expected, "chain of a service: was {last:?}: {event:?}");
                *last = to;
                if matches!(to, Some(ServiceState::Down | ServiceState::Degraded)) {
                    *told |= event.notify;
                } else {
                    assert_eq!(event.notify, *told, "pairing of a service: {event:?}");
                    *told = false;
                }
            }
            Change::Flapping(phase) => {
                let who = (service, event.instance.as_deref().unwrap_or("").to_string());
                let was = match phase {
                    Phase::Start => self.flapping.insert(who, event.notify).is_none(),
                    Phase::End => self.flapping.remove(&who) == Some(event.notify),
                };
                assert!(was, "flapping begins and ends in turn: {event:?}");
            }
            Change::Job { .. }
            | Change::Health { .. }
            | Change::Watch { .. }
            | Change::Peer(_)
            | Change::MassSilence(_)
            | Change::Maintenance(_)
            | Change::Warning(_)
            | Change::Restored(_) => {}
        }
    }
}

/// A service's state and count are what its instances make of it.
fn is_sound(engine: &Engine) {
    for service in engine.view(Epoch::UNIX) {
        let count = |states: &[State]| service.instances.iter().filter(|i| states.contains(&i.state)).count();
        assert_eq!(service.present, count(&[State::Up, State::Late, State::Unknown]), "{service:?}");
        if service.present > 0 {
            assert!(matches!(service.state, ServiceState::Up | ServiceState::Degraded), "{service:?}");
        }
        if service.state == ServiceState::Down && service.min.is_none() {
            assert!(count(&[State::Down]) > 0 && service.present == 0, "{service:?}");
        }
        for one in service.instances.iter().filter(|one| one.is_present() && !engine.is_mass_silence()) {
            // Blind time and runs may double the timeout, and no more.
            let is_bounded = one.silence_s <= 2.0 * one.timeout_s + 1.0 || one.down_in_s.is_some_and(|left| left > 0.0);
            assert!(is_bounded, "{}: {one:?}", service.service);
        }
    }
}

/// Beats of a service of runs: a new name each time.
fn run(r: &mut Rng, engine: &mut Engine, step: u64, (service, every): (&str, f64)) -> u64 {
    if step % (every / TICK) as u64 != 40 || r.u() >= 0.9 {
        return 0;
    }
    let count = *r.pick(&[1, 1, 1, 3]);
    for n in 0..count {
        let instance = format!("r{step}-{n}").into();
        engine.beat(&Heartbeat { service: service.into(), instance, interval: Some(every), ..Heartbeat::default() });
    }
    count
}

/// A deploy: everybody of a service comes back under another name, and the old ones go, sooner or later.
fn deploy(r: &mut Rng, lives: &mut Vec<Life>, service: &'static str, (step, t): (u64, f64)) {
    let old: Vec<usize> = (0..lives.len()).filter(|&n| lives[n].service == service).collect();
    for &n in &old {
        if r.u() < 0.9 {
            let promise = lives[n].promise;
            let instance = format!("g{step}-{n}");
            let (next, start) = (t + r.u() * 10.0, format!("{step}"));
            lives.push(Life { service, instance, next, promise, start, ends: f64::INFINITY });
        }
        let stays = if r.u() < 0.9 { 0.0 } else { *r.pick(&[100.0, 700.0, 2000.0]) };
        lives[n].ends = t + stays;
    }
    lives.retain(|life| life.ends > t || life.service != service);
}

struct Life {
    service: &'static str,
    instance: String,
    next: f64,
    promise: Option<f64>,
    start: String,
    /// From then on it says nothing.
    ends: f64,
}

/// What a random history is judged by.
fn policy(r: &mut Rng) -> Policy {
    let min = *r.pick(&[None, Some(1), Some(2)]);
    let ephemeral = Override { pattern: "e*".into(), ephemeral: Some(true), min, ..Override::default() };
    let mut overrides = vec![ephemeral];
    if r.u() < 0.5 {
        let notify = Some(*r.pick(&Notify::ALL));
        overrides.insert(0, Override { pattern: "s1".into(), notify, ..Override::default() });
        overrides.insert(0, Override { pattern: "e1".into(), min: Some(0), ..Override::default() });
    }
    if r.u() < 0.5 {
        let misses = Some(Misses::Auto);
        overrides.push(Override { pattern: "s0".into(), misses, ..Override::default() });
    }
    let expect = Expected { service: "x0".into(), min: 1, within: Some(60.0) };
    Policy {
        forget_left: *r.pick(&[50.0, 300.0]),
        forget_down: *r.pick(&[200.0, 2000.0]),
        forget_service: 3000.0,
        flap_quiet: *r.pick(&[200.0, 600.0]),
        mass_hold: *r.pick(&[30.0, 300.0]),
        overrides,
        expect: if r.u() < 0.3 { vec![expect] } else { Vec::new() },
        ..Policy::default()
    }
}

/// One random history; how many beats were sent in it.
fn history(seed: u64) -> u64 {
    let mut r = Rng(mix(seed));
    let policy = policy(&mut r);
    let runs = ["c0", "c1"].map(|service| (service, *r.pick(&[60.0, 120.0, 300.0])));
    let mut lives: Vec<Life> = Vec::new();
    for service in ["s0", "s1", "e0", "e1", "x0", "x1"] {
        for n in 0..1 + r.below(4) {
            let promise = *r.pick(&[None, Some(5.0), Some(10.0), Some(10.0), Some(30.0)]);
            let (instance, next, start) = (format!("i{n}"), r.u() * 10.0, "0".into());
            lives.push(Life { service, instance, next, promise, start, ends: f64::INFINITY });
        }
    }
    let mut engine = Engine::new(policy.clone(), EngineTime::default(), seed);
    let mut checker = Checker::default();
    let loss = *r.pick(&[0.0, 0.05, 0.3]);
    let (mut outage, mut t, mut sent) = (0.0, 0.0, 0);
    for step in 0..4000 {
        t += TICK;
        let x = r.u();
        if x < 0.002 {
            outage = t + *r.pick(&[20.0, 60.0, 200.0, 500.0]);
        }
        if x > 0.9985 {
            engine.at(time(t));
            let saved = engine.save();
            // What survives is text.
            let saved = serde_json::from_str(&serde_json::to_string(&saved).expect("JSON")).expect("the same");
            engine.take_events().iter().for_each(|event| checker.check(event));
            t += *r.pick(&[5.0, 60.0]);
            engine = Engine::restored(policy.clone(), saved, time(t), seed);
        }
        engine.at(time(t));
        if t >= outage {
            sent += runs.map(|one| run(&mut r, &mut engine, step, one)).iter().sum::<u64>();
        }
        if r.u() < 0.0006 {
            deploy(&mut r, &mut lives, "s1", (step, t));
        }
        for life in &mut lives {
            let say = |promise: Option<f64>, goodbye, start: Option<&str>| Heartbeat {
                service: life.service.into(),
                instance: life.instance.as_str().into(),
                interval: promise,
                goodbye,
                start: start.map(Into::into),
                ..Heartbeat::default()
            };
            match r.u() {
                y if y < 0.0005 => life.next = t + *r.pick(&[30.0, 100.0, 500.0]),
                y if y < 0.001 => {
                    for _ in 0..r.below(3) {
                        let start = if r.u() < 0.5 { Some(life.start.as_str()) } else { None };
                        engine.beat(&say(None, true, start));
                    }
                    life.next = t + *r.pick(&[1.0, 40.0, 400.0]);
                    life.start = format!("{step}");
                }
                y if y < 0.0013 => {
                    let instance = if r.u() < 0.5 { Some(life.instance.as_str()) } else { None };
                    engine.maintenance(life.service, instance, *r.pick(&[0.0, 50.0, 300.0]));
                }
                y if y < 0.0015 => drop(engine.forget(life.service, Some(&life.instance))),
                _ => {}
            }
            if t >= life.next && t < life.ends {
                let interval = life.promise.unwrap_or(10.0);
                life.next = if life.next + interval < t { t + interval } else { life.next + interval };
                if t >= outage && r.u() >= loss {
                    let start = if r.u() < 0.5 { Some(life.start.clone()) } else { None };
                    let beat = Heartbeat {
                        service: life.service.into(),
                        instance: life.instance.as_str().into(),
                        interval: life.promise,
                        start: start.map(Into::into),
                        ..Heartbeat::default()
                    };
                    engine.beat(&beat);
                    sent += 1;
                }
            }
        }
        if r.u() < 0.01 {
            engine.kernel_drops(time(t), 50, 50);
        }
        if r.u() < 0.001 {
            engine.stalled(time(t), *r.pick(&[2.0, 30.0]));
        }
        engine.tick(time(t));
        engine.take_events().iter().for_each(|event| checker.check(event));
        if step % 50 == 0 {
            is_sound(&engine);
        }
    }
    sent
}

#[test]
fn random_histories_keep_the_invariants() {
    let _alone = alone();
    let (mut sent, mut seed) = (0, 1);
    while sent < inputs() {
        sent += history(seed);
        seed += 1;
    }
    println!("{} histories, {sent} heartbeats", seed - 1);
}

/// A history of services that no new name ever joins, with restarts and crashes; in the end some die for good. Each of
/// these is named, or its service is, within twice the timeout and the time of a flapping or a mass silence.
fn deaths(seed: u64) {
    const AT: f64 = 5000.0;
    let mut r = Rng(mix(0xdead ^ seed));
    let mut engine = Engine::new(Policy::default(), EngineTime::default(), seed);
    let mut lives: Vec<(Heartbeat, f64, f64)> = Vec::new();
    for service in 0..2 + r.below(4) {
        let every = *r.pick(&[10.0, 30.0, 60.0]);
        for instance in 0..1 + r.below(5) {
            let (service, instance) = (format!("s{service}").into(), format!("i{instance}").into());
            let beat = Heartbeat { service, instance, interval: Some(every), ..Heartbeat::default() };
            lives.push((beat, r.u() * every, f64::INFINITY));
        }
    }
    for _ in 0..1 + r.below(lives.len() as u64 / 4 + 1) {
        let doomed = r.below(lives.len() as u64) as usize;
        lives[doomed].2 = AT + r.u() * 600.0;
    }
    let mut events = Vec::new();
    for step in 1..=36_000 {
        let t = f64::from(step) * TICK;
        engine.at(time(t));
        for (beat, next, dies) in &mut lives {
            if t < AT && r.u() < 0.00006 {
                if r.u() < 0.5 {
                    engine.beat(&Heartbeat { goodbye: true, ..beat.clone() });
                }
                *next = t + *r.pick(&[3.0, 30.0, 90.0, 300.0]);
            }
            if t >= *next && t < *dies {
                *next = t + beat.interval.unwrap_or(10.0);
                engine.beat(beat);
            }
        }
        engine.tick(time(t));
        events.append(&mut engine.take_events());
    }
    let is_of = |event: &Event<EngineTime>, beat: &Heartbeat| event.service.as_ref() == Some(&beat.service);
    for (beat, _, _) in lives.iter().filter(|life| life.2.is_finite()) {
        let mut own =
            events.iter().filter(|event| is_of(event, beat) && event.instance.as_deref() == Some(&*beat.instance));
        let last = own.rfind(|event| matches!(event.change, Change::Instance { to: Some(_), .. }));
        if last.is_some_and(|event| matches!(event.change, Change::Instance { reason: Reason::Goodbye, .. })) {
            // It said goodbye, and would have been back after its death: none is told.
            continue;
        }
        let view = engine.view_of_instance(&beat.service, &beat.instance, Epoch::UNIX).expect("it is still known");
        let (seen, timeout) = (9000.0 - view.silence_s, view.timeout_s);
        let in_time = time(seen)..=time(seen + 2.0 * timeout + 1300.0);
        let is_told = |event: &&Event<EngineTime>| {
            let is_about = match event.change {
                Change::MassSilence(_) => true,
                Change::Instance { to, .. } => to == Some(State::Down),
                Change::Service { to, .. } => to.is_some_and(ServiceState::is_bad),
                Change::Flapping(phase) => phase == Phase::Start,
                _ => false,
            };
            let is_ours = is_of(event, beat) || matches!(event.change, Change::MassSilence(_));
            event.notify && is_about && is_ours && in_time.contains(&event.at)
        };
        let mut before = events.iter().filter(|event| is_of(event, beat) && event.at <= time(seen + timeout));
        let flaps = before.rfind(|event| matches!(event.change, Change::Flapping(_)));
        let stands = flaps.is_some_and(|event| event.change == Change::Flapping(Phase::Start));
        assert!(stands || events.iter().any(|event| is_told(&event)), "seed {seed}: {beat:?}, {view:?}");
    }
}

#[test]
fn whoever_dies_for_good_is_named_or_its_service_is() {
    let _alone = alone();
    (0..(inputs() / 25_000).max(1)).for_each(deaths);
}

/// A name from the worst that the wire can hold.
fn name(r: &mut Rng) -> Vec<u8> {
    let length = *r.pick(&[1, 1, 2, 3, 8, 8, 30, 127, 128, 129, 1000]);
    let alphabet = r.below(8);
    (0..length)
        .map(|_| match alphabet {
            0..=4 => b'a' + r.below(5) as u8,
            5 => *r.pick(b"<>&\"'/\\;=.,_-%\x1b\x07\x00 "),
            6 => 0x80 | r.below(128) as u8,
            _ => r.below(256) as u8,
        })
        .filter(|byte| !b"\n".contains(byte))
        .collect()
}

fn line(r: &mut Rng) -> Vec<u8> {
    let mut out: Vec<u8> =
        r.pick(&[&b"heartbeat"[..], b"heartbeat", b"heartbeat", b"maintenance", b"_sc|heartbeat"]).to_vec();
    let is_check = out.starts_with(b"_sc");
    if !is_check && r.below(2) == 0 {
        out.push(b'.');
        out.extend(name(r));
        if r.below(2) == 0 {
            out.push(b'.');
            out.extend(name(r));
        }
    }
    let values = [
        "10",
        "1",
        "0",
        "-5",
        "+5",
        "1e308",
        "1e-308",
        "NaN",
        "inf",
        "604800",
        "604801",
        "0.5",
        "",
        "x",
        "10:20",
        "99999999999999999999",
        "10",
        "10",
        "10",
        "30",
        "2",
        "60",
        "1",
    ];
    if is_check {
        out.extend(format!("|{}", r.below(5)).bytes());
    } else {
        out.push(b':');
        out.extend(r.pick(&values).bytes());
        out.push(b'|');
        out.extend(r.pick(&["g", "g", "g", "g", "g", "c", "ms", "s", "h", "zz", ""]).bytes());
    }
    if r.below(4) == 0 {
        out.extend(format!("|@{}", *r.pick(&values)).bytes());
    }
    if r.below(2) == 0 || is_check {
        out.extend(b"|#service:");
        out.extend(name(r));
        out.extend(b",instance:");
        out.extend(name(r));
        if r.below(2) == 0 {
            out.extend(format!(",interval:{},start:{},version:", *r.pick(&values), r.next()).bytes());
            out.extend(name(r));
        }
    }
    out
}

#[test]
fn hostile_lines_evict_nobody_who_is_established_and_stay_within_the_limits() {
    let _alone = alone();
    let policy =
        Policy { max_services: 2000, max_instances: 5000, max_instances_per_service: 100, ..Policy::default() };
    let mut r = Rng(mix(99));
    let heartbeats = Heartbeats { assist: true, ..Heartbeats::default() };
    let mut engine = Engine::new(policy.clone(), EngineTime::default(), 5);
    let ours: Vec<Heartbeat> = (0..40)
        .map(|n| Heartbeat {
            service: format!("ours-{}", n % 4).into(),
            instance: format!("i{n}").into(),
            interval: Some(10.0),
            ..Heartbeat::default()
        })
        .collect();
    let mut checker = Checker::default();
    let (mut t, mut signals, mut peak) = (0.0, 0_u64, 0);
    // Established: heard three times, and for longer than its timeout. Others give way, which is what they are invented for.
    for _ in 0..10 {
        t += 7.5;
        engine.at(time(t));
        ours.iter().for_each(|beat| engine.beat(beat));
        engine.tick(time(t));
        engine.take_events().iter().for_each(|event| checker.check(event));
    }
    let (before, mut most_held) = (held_bytes(), 0);
    for n in 0..inputs() {
        if n % 100 == 0 {
            t += TICK;
            engine.at(time(t));
            // Ours beat in time, among all that.
            if n % 3000 == 0 {
                ours.iter().for_each(|beat| engine.beat(beat));
            }
            engine.tick(time(t));
            engine.take_events().iter().for_each(|event| checker.check(event));
        }
        let line = line(&mut r);
        let signal = match parse_line(&line, &Options::default()) {
            Ok(Line::Samples(mut samples)) => match samples.next() {
                Some(Ok(metric)) => heartbeats.of_metric(&metric, None),
                _ => None,
            },
            Ok(Line::ServiceCheck(check)) => heartbeats.of_check(&check, None),
            _ => None,
        };
        if let Some(signal) = signal {
            if let Signal::Heartbeat(beat) = &signal {
                assert!(beat.service.len() <= 128 && beat.instance.len() <= 128, "{beat:?}");
                assert!(beat.interval.is_none_or(|promise| (1.0..=604_800.0).contains(&promise)), "{beat:?}");
            }
            signals += 1;
            engine.signal(&signal);
        }
        peak = peak.max(engine.len());
        most_held = most_held.max(held_bytes() - before);
    }
    let services = engine.view(Epoch::UNIX);
    assert!(peak <= policy.max_instances && services.len() <= policy.max_services, "{peak}, {}", services.len());
    assert!(services.iter().all(|service| service.instances.len() <= policy.max_instances_per_service));
    for beat in &ours {
        let service = services.iter().find(|service| service.service == beat.service).expect("ours is still there");
        let instance = service.instances.iter().find(|instance| instance.instance == beat.instance);
        let instance = instance.expect("nobody was evicted");
        assert_eq!((instance.state, instance.flags.len()), (State::Up, 0), "{instance:?}");
        let key = (beat.service.to_string(), beat.instance.to_string());
        assert_eq!(checker.instances[&key].0, Some(State::Up), "it never fell");
    }
    let refused = engine.refusals();
    let most_kib = most_held / 1024;
    println!("{signals} signals, at most {peak} instances, {refused:?}, {most_kib} KiB");
    assert!(signals > inputs() / 4, "most lines mean nothing: {signals}");
    // 5,000 instances of long names at about 2 KiB, and what is kept of each to check the events.
    assert!(most_kib < 32 * 1024, "{most_kib} KiB");
}
