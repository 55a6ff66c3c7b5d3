//! What presence costs: 100,000 instances that promise 10 s, after registration. Time is virtual, costs are real:
//! `cargo bench --bench presence`.

use std::sync::Arc;
use std::time::Instant;

use systole::internals::aggregate::{Quota, Shard, ShardOptions, TimeWindow, TimerPolicy};
use systole::internals::presence::policy::Policy;
use systole::internals::presence::{Engine, EngineTime, Sighting};
use systole::internals::protocol::{Heartbeat, JobStatus, JobTags, Options};
use systole::internals::watches::{Evidence, MetricWatch, Template, Watches};

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

/// 5,000 watched metrics among 100,000 series, all of which are updated between any two ticks.
fn watches(is_short: bool) {
    let (watched, series, ticks) = if is_short { (50, 1000, 20) } else { (5000, 100_000, 2000) };
    let template = |text: &str| Template::parse(text, 1).expect("a template");
    let watch = MetricWatch {
        pattern: "job.*.done".into(),
        service: template("job"),
        instance: template("{1}"),
        interval: Some(PROMISE),
        evidence: Evidence::Any,
        floor: None,
        max_instances: 10_000,
    };
    let watches = Arc::new(Watches::new(vec![watch]));
    let (policy, options) = (Policy::default(), Options::default());
    let policy = Policy { max_instances_per_service: 10_000, watches: Arc::clone(&watches), ..policy };
    let mut engine = Engine::new(policy, EngineTime::default(), 1);
    let mut shard = Shard::new(ShardOptions {
        timers: TimerPolicy::default(),
        fold_histograms: false,
        quota: Quota::new(2 * series),
        seed: 1,
        rules: None,
        heartbeats: None,
        times: TimeWindow::ANY,
    });
    shard = shard.watching(&watches);
    let lines: Vec<Vec<u8>> = (0..watched).map(|n| format!("job.{n:04}.done:1|c").into_bytes()).collect();
    (0..series).for_each(|n| shard.ingest(format!("beside.{n}:1|c").as_bytes(), &options, None, 0.0));
    let (mut looks, mut judging) = (Vec::new(), Vec::new());
    for tick in 0..ticks {
        let now = EngineTime::from_secs(TICK * f64::from(tick));
        lines.iter().for_each(|line| shard.ingest(line, &options, None, 0.0));
        let began = Instant::now();
        shard.look_at_watched();
        looks.push(began.elapsed().as_secs_f64() * 1e3);
        let began = Instant::now();
        engine.at(now);
        shard.take_signals().for_each(|signal| engine.signal(&signal));
        engine.tick(now);
        judging.push(began.elapsed().as_secs_f64() * 1e3);
    }
    assert_eq!(engine.len(), watched);
    looks.sort_by(f64::total_cmp);
    judging.sort_by(f64::total_cmp);
    let p99 = |all: &[f64]| all[all.len() * 99 / 100];
    println!(
        "{watched} watched of {series} series, all updated in each tick: a look takes a worker {:.2} ms (p99 {:.2} ms), a tick with \
         their beats {:.2} ms (p99 {:.2} ms)",
        looks[looks.len() / 2],
        p99(&looks),
        judging[judging.len() / 2],
        p99(&judging),
    );
}

/// What happens rarely, to everybody at once: a second in which too much was dropped, among observers, and a tick in which
/// half of each service goes down.
fn rare_ticks(services: usize) {
    let (count, at) = (services * PER, EngineTime::from_secs);
    let name = |n: usize| (format!("service-{:04}", n / PER), format!("web-{}.example.org", n % PER));
    let policy = || Policy { mass_fraction: 1.1, max_registrations_per_second: count, ..Policy::default() };
    let beat = |n: usize| {
        let (service, instance) = name(n);
        let (service, instance) = (service.into(), instance.into());
        Heartbeat { service, instance, interval: Some(PROMISE), ..Heartbeat::default() }
    };
    let mut engine = Engine::new(policy(), at(0.0), 1).shared();
    for n in 0..count {
        engine.beat(&beat(n));
        let (service, instance) = name(n);
        let heard = Sighting {
            service: service.into(),
            instance: instance.into(),
            interval: Some(PROMISE),
            ..Sighting::default()
        };
        engine.observe_elsewhere(0, &heard, at(0.0));
    }
    let mut seconds: Vec<f64> = (1..10)
        .map(|second| {
            let began = Instant::now();
            engine.kernel_drops(at(f64::from(second)), 50, 100);
            began.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    let mut engine = Engine::new(policy(), at(0.0), 1);
    for second in [0, 10, 20, 30, 40, 50] {
        engine.at(at(f64::from(second)));
        // Half of each service, and the first of the others, which die at 0.
        (0..count).filter(|n| n % 2 == 0 || second == 0).for_each(|n| engine.beat(&beat(n)));
        if second < 40 {
            engine.tick(at(f64::from(second)));
        }
    }
    let began = Instant::now();
    engine.tick(at(50.0));
    let down = began.elapsed().as_secs_f64() * 1e3;
    println!(
        "among observers a second with drops takes {:.2} ms; a tick in which {} of {count} go down {down:.0} ms",
        seconds[seconds.len() / 2],
        count / 2,
    );
}

/// 10,000 jobs with the 20 runs that are kept of each, their messages among them.
fn jobs(is_short: bool) {
    let (services, per, runs) = if is_short { (10, 10, 2) } else { (100, 100, 20) };
    let mut engine = Engine::new(Policy::default(), EngineTime::default(), 1);
    let (mut now, mut judging) = (0.0, Vec::new());
    for run in 0..runs {
        for n in 0..services * per {
            if n % 200 == 0 {
                now += TICK;
                let began = Instant::now();
                engine.tick(EngineTime::from_secs(now));
                judging.push(began.elapsed().as_secs_f64() * 1e3);
                engine.take_events();
            }
            engine.at(EngineTime::from_secs(now));
            for status in [JobStatus::Start, JobStatus::Ok] {
                let tags = JobTags {
                    status: Some(status),
                    run: Some(format!("{n:08x}{run:08x}").into()),
                    ..JobTags::default()
                };
                engine.beat(&Heartbeat {
                    service: format!("service-{:04}", n / per).into(),
                    instance: format!("job-{}.example.org", n % per).into(),
                    interval: Some(3600.0),
                    job: Some(Box::new(tags)),
                    message: Some("x".repeat(200).into()),
                    ..Heartbeat::default()
                });
            }
        }
        now += 600.0;
    }
    judging.sort_by(f64::total_cmp);
    let began = Instant::now();
    let mut file = std::io::BufWriter::new(tempfile::tempfile().expect("a file"));
    engine.store(&mut file).expect("written");
    let stored = began.elapsed().as_secs_f64() * 1e3;
    let bytes = file.into_inner().expect("written").metadata().expect("a file").len();
    let began = Instant::now();
    let readings = engine.readings().len();
    println!(
        "{} jobs with {runs} runs each: a tick p99 {:.2} ms, {} MB of state written in {stored:.0} ms, {readings} readings in {:.0} ms, \
         {:.1} MiB accounted",
        services * per,
        judging[judging.len() * 99 / 100],
        bytes / 1_000_000,
        began.elapsed().as_secs_f64() * 1e3,
        engine.heap_bytes() as f64 / 1024.0 / 1024.0,
    );
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
    // All register within ten seconds, and go on beating: whoever was down once takes more memory.
    let policy = Policy { max_registrations_per_second: count, ..Policy::default() };
    let mut engine = Engine::new(policy, EngineTime::default(), 1);
    let mut now = 0.0;
    for tick in 0..TICKS {
        now += TICK;
        engine.at(EngineTime::from_secs(now));
        (tick..count).step_by(TICKS).for_each(|n| engine.beat(&beat(n)));
        engine.tick(EngineTime::from_secs(now));
        engine.take_events();
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
    drop(engine);
    // After that: the memory that these free would be taken again, and not seen.
    watches(is_short);
    jobs(is_short);
    rare_ticks(services);
}
