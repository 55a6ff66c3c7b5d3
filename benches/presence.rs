//! What presence costs: 100,000 instances that promise 10 s, after registration. Time is virtual, costs are real:
//! `cargo bench --bench presence`.

use std::time::Instant;

use systole::internals::presence::policy::Policy;
use systole::internals::presence::{Engine, EngineTime};
use systole::internals::protocol::Heartbeat;

const SERVICES: usize = 2000;
const PER: usize = 50;
const TICK: f64 = 0.25;
const PROMISE: f64 = 10.0;
/// Ticks in a promise.
const TICKS: usize = 40;
/// Virtual seconds that are measured.
const MEASURED: usize = 60;

fn resident_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS")).expect("a line");
    let kib: f64 = line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number");
    kib / 1024.0
}

fn main() {
    // `cargo bench -- --test` only asks whether it runs.
    let is_short = std::env::args().any(|arg| arg == "--test");
    let services = if is_short { 20 } else { SERVICES };
    let count = services * PER;
    let beat = |n: usize| Heartbeat {
        service: format!("service-{:04}", n / PER).into(),
        instance: format!("web-{}.example.org", n % PER).into(),
        interval: Some(PROMISE),
        start: Some("1700000000".into()),
        version: Some("1.4.2".into()),
        ..Heartbeat::default()
    };
    let empty = resident_mib();
    let mut engine = Engine::new(Policy::default(), EngineTime::default(), 1);
    let mut now = 0.0;
    // Registration is limited to 1,000 a second.
    for n in 0..count {
        if n % 200 == 0 {
            now += TICK;
            engine.tick(EngineTime::from_secs(now));
            engine.take_events();
        }
        engine.at(EngineTime::from_secs(now));
        engine.beat(&beat(n));
        // Whoever is known goes on beating.
        for known in ((n + 1) % (count / 100)..n).step_by(count / 100).filter(|_| n % 200 == 0) {
            engine.beat(&beat(known));
        }
    }
    assert_eq!(engine.len(), count);
    // Two rounds, so that gaps and histories are there.
    let mut round = |engine: &mut Engine, ticks: usize, measure: bool| -> (f64, Vec<f64>) {
        let (mut beats, mut judging) = (0.0, Vec::new());
        for tick in 0..ticks {
            now += TICK;
            let mine: Vec<Heartbeat> = (tick % TICKS..count).step_by(TICKS).map(beat).collect();
            let began = Instant::now();
            engine.at(EngineTime::from_secs(now));
            mine.iter().for_each(|beat| engine.beat(beat));
            beats += began.elapsed().as_secs_f64();
            let began = Instant::now();
            engine.tick(EngineTime::from_secs(now));
            judging.push(began.elapsed().as_secs_f64());
            if !measure {
                engine.take_events();
            }
        }
        (beats, judging)
    };
    round(&mut engine, 4 * TICKS, false);
    engine.take_events();
    let held = resident_mib() - empty;
    let (beats, mut judging) = round(&mut engine, MEASURED * 4, true);
    let events = engine.take_events().len();
    let ticks: f64 = judging.iter().sum();
    judging.sort_by(f64::total_cmp);
    let p99 = judging[judging.len() * 99 / 100];
    let began = Instant::now();
    let mut file = std::io::BufWriter::new(tempfile::tempfile().expect("a file"));
    engine.store(&mut file).expect("written");
    let stored = began.elapsed().as_secs_f64();
    let began = Instant::now();
    let readings = engine.readings().len();
    let read = began.elapsed().as_secs_f64();
    println!(
        "{count} instances at {PROMISE} s: {:.2} % of a core ({:.0} ns a beat, {:.2} ms a tick, p99 {:.2} ms), {held:.1} MiB, \
         state written in {:.0} ms, {readings} readings in {:.0} ms; {events} events",
        100.0 * (beats + ticks) / MEASURED as f64,
        beats / (count as f64 * MEASURED as f64 / PROMISE) * 1e9,
        ticks / judging.len() as f64 * 1e3,
        p99 * 1e3,
        stored * 1e3,
        read * 1e3,
    );
}
