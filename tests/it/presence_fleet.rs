//! A fleet of 200 instances in 20 services, promising 10 s, with 0.5 % loss, through the engine: what somebody on call
//! sees when the network, the socket, we ourselves, or the services fail. Ported from the design's fleet simulation, with
//! its random streams. `SYSTOLE_TEST_FLEETS` is the number of runs of each (5 in `tests/long`).

use systole::internals::presence::policy::Policy;
use systole::internals::presence::{Change, Engine, EngineTime, Event, MassSilencePhase, ServiceState, State};
use systole::internals::protocol::Heartbeat;

use crate::support::{Random as Rng, alone, mix, size};

const SERVICES: usize = 20;
const PER: usize = 10;
const PROMISE: f64 = 10.0;
const END: f64 = 1800.0;
/// When the fault begins.
const T0: f64 = 600.0;
const TICK: f64 = 0.5;

/// The silence that means down at this promise.
const TIMEOUT: f64 = 45.0;

/// What is done to us.
#[derive(Clone, Copy)]
enum Control {
    /// The kernel dropped and gave so many datagrams in the second before.
    Drops(u64, u64),
    /// We stand still for so long, and the last so many datagrams of that are lost.
    Freeze(f64, usize),
    /// We are away for so long; what we knew survives or not.
    Restart(f64, bool),
}

fn time(secs: f64) -> EngineTime {
    EngineTime::from_secs(secs)
}

type Arrival = (f64, usize, usize);

/// Beats that arrive; `cut` says which the fault takes.
fn arrivals(rng: &mut Rng, loss: f64, cut: impl Fn(usize, usize, f64, &mut Rng) -> bool) -> Vec<Arrival> {
    let mut out = Vec::new();
    for service in 0..SERVICES {
        for instance in 0..PER {
            let mut t = rng.u() * PROMISE;
            while t < END {
                if rng.u() >= loss && !cut(service, instance, t, rng) {
                    out.push((t + 0.0003 + rng.lognormal(0.002, 1.0), service, instance));
                }
                t += PROMISE;
            }
        }
    }
    out.sort_by(|a, b| a.0.total_cmp(&b.0));
    out
}

fn beat(engine: &mut Engine, arrival: Arrival) {
    engine.beat(&Heartbeat {
        service: format!("s{}", arrival.1).into(),
        instance: format!("i{}", arrival.2).into(),
        interval: Some(PROMISE),
        ..Heartbeat::default()
    });
}

fn play(arrivals: &[Arrival], controls: &[(f64, Control)]) -> Vec<Event<EngineTime>> {
    let policy = Policy::default();
    let mut engine = Engine::new(policy.clone(), EngineTime::default(), 1);
    let mut events = Vec::new();
    let (mut a, mut c, mut n) = (0, 0, 1_u64);
    while n as f64 * TICK <= END {
        let mut t = n as f64 * TICK;
        loop {
            let arrival = arrivals.get(a).filter(|arrival| arrival.0 <= t);
            let control = controls.get(c).filter(|control| control.0 <= t);
            match (arrival, control) {
                (_, Some(&(at, control))) if arrival.is_none_or(|arrival| at <= arrival.0) => {
                    c += 1;
                    engine.at(time(at));
                    let wake = match control {
                        Control::Drops(dropped, received) => {
                            engine.kernel_drops(time(at), dropped, received);
                            continue;
                        }
                        Control::Freeze(length, lost) => {
                            let held = arrivals[a..].iter().take_while(|arrival| arrival.0 <= at + length).count();
                            engine.stalled(time(at + length), length);
                            arrivals[a..a + held.saturating_sub(lost)].iter().for_each(|&one| beat(&mut engine, one));
                            a += held;
                            at + length
                        }
                        Control::Restart(length, remembers) => {
                            let wake = at + length;
                            a += arrivals[a..].iter().take_while(|arrival| arrival.0 < wake).count();
                            let saved = engine.save();
                            events.append(&mut engine.take_events());
                            engine = match remembers {
                                true => Engine::restored(policy.clone(), saved, time(wake), 1),
                                false => Engine::new(policy.clone(), time(wake), 1),
                            };
                            wake
                        }
                    };
                    n = (wake / TICK).ceil() as u64;
                    t = n as f64 * TICK;
                }
                (Some(&arrival), _) => {
                    a += 1;
                    engine.at(time(arrival.0));
                    beat(&mut engine, arrival);
                }
                (None, _) => break,
            }
        }
        engine.tick(time(t));
        n += 1;
    }
    events.append(&mut engine.take_events());
    events
}

/// Notifications since the fault, and when the first alarm came after it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Told {
    mass: usize,
    service: usize,
    degraded: usize,
    instance: usize,
    other: usize,
    resolved: usize,
    first: Option<f64>,
}

fn tally(events: &[Event<EngineTime>]) -> Told {
    let mut told = Told::default();
    for event in events.iter().filter(|event| event.notify && event.at >= time(T0)) {
        let (count, is_alarm) = match event.change {
            Change::Instance { to: Some(State::Down), .. } => (&mut told.instance, true),
            Change::Service { to: Some(ServiceState::Down), .. } => (&mut told.service, true),
            Change::Service { to: Some(ServiceState::Degraded), .. } => (&mut told.degraded, false),
            Change::MassSilence(MassSilencePhase::Start) => (&mut told.mass, true),
            Change::Instance { .. } | Change::Service { .. } | Change::MassSilence(_) => (&mut told.resolved, false),
            _ => (&mut told.other, false),
        };
        *count += 1;
        if is_alarm {
            told.first.get_or_insert(event.at - time(T0));
        }
    }
    told
}

type Cut = fn(usize, usize, f64, &mut Rng) -> bool;

/// Name, number in the design's simulation (it seeds the streams), loss, what is cut, what is done to us, what must come.
type Experiment = (&'static str, u64, f64, Cut, Vec<(f64, Control)>, fn(&Told) -> bool);

fn in_time(told: &Told, least: f64, most: f64) -> bool {
    told.first.is_some_and(|first| (least..=most).contains(&first))
}

fn silent(told: &Told) -> bool {
    (told.mass, told.service, told.instance, told.degraded, told.resolved) == (0, 0, 0, 0, 0)
}

/// One instance and nothing else.
fn one_instance(told: &Told) -> bool {
    told.instance == 1 && told.mass + told.service + told.degraded + told.resolved == 0
}

/// One mass silence, its end or not, and nothing else.
fn one_mass(told: &Told, ends: usize) -> bool {
    (told.mass, told.resolved) == (1, ends)
        && told.service + told.instance + told.degraded == 0
        && in_time(told, 0.0, TIMEOUT + 0.5)
}

fn experiments() -> Vec<Experiment> {
    let drops: Vec<(f64, Control)> = (0..60).map(|k| (T0 + f64::from(k) + 1.0, Control::Drops(100, 100))).collect();
    let never: Cut = |_, _, _, _| false;
    let half: Cut = |_, _, t, rng| (T0..T0 + 60.0).contains(&t) && rng.u() < 0.5;
    vec![
        ("steady, 0.5% loss", 0, 0.005, never, vec![], silent),
        (
            "partition of everything, 120 s",
            2,
            0.005,
            |_, _, t, _| (T0..T0 + 120.0).contains(&t),
            vec![],
            // One alarm, one end, and nothing else: G4.
            |told| one_mass(told, 1),
        ),
        (
            "partition of everything, 15 min",
            4,
            0.005,
            |_, _, t, _| (T0..T0 + 900.0).contains(&t),
            vec![],
            |told| one_mass(told, 1),
        ),
        ("all 200 really die", 5, 0.005, |_, _, t, _| t >= T0, vec![], |told| one_mass(told, 0)),
        (
            "60% of each service cut, 120 s",
            6,
            0.005,
            |s, n, t, _| ((s * PER + n) % 10) < 6 && (T0..T0 + 120.0).contains(&t),
            vec![],
            |told| one_mass(told, 1),
        ),
        (
            "30% of each service cut, 120 s",
            7,
            0.005,
            |s, n, t, _| ((s * PER + n) % 10) < 3 && (T0..T0 + 120.0).contains(&t),
            vec![],
            // Less than half: everybody by himself, and everybody's end.
            |told| told.mass + told.service + told.degraded == 0 && told.instance == 60 && told.resolved == 60,
        ),
        (
            "one service of 20 dies",
            8,
            0.005,
            |s, _, t, _| s < 1 && t >= T0,
            vec![],
            // It is degraded on the way, and its instances go one after the other.
            |told| told.mass + told.resolved == 0 && told.service == 1 && told.instance <= 9 && told.degraded <= 1,
        ),
        (
            "one instance dies",
            9,
            0.005,
            |s, n, t, _| s == 3 && n == 3 && t >= T0,
            vec![],
            |told| one_instance(told) && in_time(told, TIMEOUT - PROMISE, TIMEOUT + 0.5),
        ),
        // G6: dropped datagrams hurt nobody, and hide a crash for no longer than twice the timeout.
        ("our socket drops 50% for 60 s", 10, 0.005, half, drops.clone(), silent),
        (
            "the same, and one instance dies at its start",
            12,
            0.005,
            |s, n, t, rng| (T0..T0 + 60.0).contains(&t) && rng.u() < 0.5 || (s == 3 && n == 3 && t >= T0),
            drops,
            |told| one_instance(told) && in_time(told, 0.0, 2.0 * TIMEOUT + 0.5),
        ),
        // G7.
        ("we freeze 60 s, the buffer keeps 5%", 13, 0.005, never, vec![(T0, Control::Freeze(60.0, 1140))], silent),
        // G5.
        ("we restart, 90 s away", 15, 0.005, never, vec![(T0, Control::Restart(90.0, true))], silent),
        (
            "we restart, one service dies meanwhile",
            17,
            0.005,
            |s, _, t, _| s < 1 && t >= T0 + 10.0,
            vec![(T0, Control::Restart(90.0, true))],
            |told| {
                told.service == 1
                    && told.instance + told.mass + told.degraded + told.resolved == 0
                    && in_time(told, 90.0, 90.0 + TIMEOUT + 1.0)
            },
        ),
        (
            "we restart without state, one service dies meanwhile",
            18,
            0.005,
            |s, _, t, _| s < 1 && t >= T0 + 10.0,
            vec![(T0, Control::Restart(90.0, false))],
            // Nobody can know, and nobody is told.
            silent,
        ),
    ]
}

#[test]
fn a_fleet_is_told_of_as_the_design_wants() {
    let _alone = alone();
    let runs = size("SYSTOLE_TEST_FLEETS", 1);
    println!("| fault at t=0 | first alarm s | mass | service down | degraded | instance down | other | resolved |");
    println!("|---|--:|--:|--:|--:|--:|--:|--:|");
    let mut wrong = Vec::new();
    for (name, number, loss, cut, controls, is_right) in experiments() {
        // That datagrams are dropped is told once, as long as it lasts.
        let others = usize::from(controls.iter().any(|(_, control)| matches!(control, Control::Drops(..))));
        for run in 0..runs {
            let mut rng = Rng(mix(mix(7) ^ (1000 * number + run)));
            let told = tally(&play(&arrivals(&mut rng, loss, cut), &controls));
            println!(
                "| {name} | {} | {} | {} | {} | {} | {} | {} |",
                told.first.map_or("-".into(), |first| format!("{first:.1}")),
                told.mass,
                told.service,
                told.degraded,
                told.instance,
                told.other,
                told.resolved
            );
            if !is_right(&told) || told.other != others {
                wrong.push(format!("{name}, run {run}: {told:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
