//! Restarts, crashes, reloads and upgrades under attack: the daemon's flusher, shards, sink drivers, spools and state folder in
//! virtual time, from one seed each. The disk tears what was not synced, is full, slow, or fails; receivers are slow, refuse, or take
//! an interval and do not say so; the process is killed at any change of the disk, the power is cut, it restarts, reloads and hands
//! over. In the end all that receivers got is compared with what was sent.
//!
//! Not simulated are sockets (`tests/it/upgrade.rs`, `tests/oracle/upgrades.py`), and presence, which keeps its state by itself.
//!
//! `SYSTOLE_TEST_RESTART_SEEDS` is the number of seeds, `SYSTOLE_TEST_RESTART_FIRST` the first one; without a number as many are
//! run as fit into some seconds. A seed that fails prints the shortest history that does.

mod disk;
mod judge;
mod receiver;
mod world;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::support::size;

use disk::DiskMode;
use receiver::SinkMode;
use world::{Shape, Step, What, World};

/// Threads that share the seeds.
const THREADS: usize = 2;
/// How long seeds are run without a number, and how many at least.
const QUICK: Duration = Duration::from_secs(20);
const QUICK_LEAST: u64 = 100;
/// Seeds whose histories are made shorter.
const SHOWN: usize = 1;

#[derive(Default)]
struct Outcome {
    seeds: u64,
    failed: Vec<(u64, Vec<String>)>,
    figures: BTreeMap<&'static str, u64>,
}

/// What is wrong after a history.
fn violations(shape: &Shape, history: &[Step]) -> (Vec<String>, World) {
    let mut world = World::new(shape, history);
    world.run();
    (judge::judge(&world), world)
}

#[test]
fn whatever_happens_costs_no_more_than_was_promised() {
    let _alone = crate::support::alone();
    let (first, seeds) = (size("SYSTOLE_TEST_RESTART_FIRST", 0), size("SYSTOLE_TEST_RESTART_SEEDS", 0));
    let (next, began) = (AtomicU64::new(first), Instant::now());
    let all: Mutex<Outcome> = Mutex::default();
    let is_over = |seed: u64| match seeds {
        0 => seed >= first + QUICK_LEAST && began.elapsed() >= QUICK,
        most => seed >= first + most,
    };
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if is_over(seed) {
                        break;
                    }
                    let shape = Shape::of_seed(seed);
                    let (wrong, world) = violations(&shape, &shape.history());
                    let mut all = all.lock().expect("nobody panics with it");
                    all.seeds += 1;
                    for (name, count) in &world.figures {
                        *all.figures.entry(name).or_default() += count;
                    }
                    *all.figures.entry("datagrams").or_default() += world.datagrams.len() as u64;
                    *all.figures.entry("changes of the disk").or_default() += world.disk.operations();
                    let most = all.figures.entry("most calls of the disk").or_default();
                    *most = world.disk.calls().max(*most);
                    let packets = world.receivers.iter().map(|one| one.inner().packets.len() as u64).sum::<u64>();
                    *all.figures.entry("deliveries").or_default() += packets;
                    if !wrong.is_empty() {
                        all.failed.push((seed, wrong));
                    }
                }
            });
        }
    });
    let Outcome { seeds, failed, figures } = all.into_inner().expect("nobody panics with it");
    println!("{seeds} seeds from {first} in {:.1?}: {figures:?}", began.elapsed());
    let first =
        |(seed, wrong): &(u64, Vec<String>)| println!("seed {seed}: {} violations, first: {}", wrong.len(), wrong[0]);
    failed.iter().for_each(first);
    failed.iter().take(SHOWN).for_each(|(seed, wrong)| show_shortest(*seed, &wrong[0]));
    let failing: Vec<u64> = failed.iter().map(|(seed, _)| *seed).collect();
    assert!(failing.is_empty(), "{} seeds fail: {failing:?}", failing.len());
    // The attacks happen.
    for name in
        ["kills", "power cuts", "restarts", "upgrades", "failed upgrades", "reloads", "failing receivers", "bad disks"]
    {
        let count = figures.get(name).copied().unwrap_or(0);
        assert!(count * 10 >= seeds, "{name}: {count}");
    }
}

/// What a violation is, without names and numbers.
fn kind(violation: &str) -> String {
    let words = violation.split_once(": ").map_or(violation, |(_, rest)| rest);
    words.chars().filter(|c| c.is_alphabetic() || *c == ' ').collect()
}

/// Prints the shortest history of a seed that fails in the same way, by leaving out one step after the other.
fn show_shortest(seed: u64, first: &str) {
    let shape = Shape::of_seed(seed);
    let mut history = shape.history();
    let is_same = |history: &[Step]| violations(&shape, history).0.iter().any(|one| kind(one) == kind(first));
    let mut n = 0;
    while n < history.len() {
        let mut shorter = history.clone();
        shorter.remove(n);
        if is_same(&shorter) {
            history = shorter;
        } else {
            n += 1;
        }
    }
    println!("{shape:?}");
    history.iter().for_each(|step| println!("  {:7.3}  {:?}", step.at, step.what));
    let (wrong, world) = violations(&shape, &history);
    for life in &world.lives {
        let [born, ended, registry, open] =
            [life.born, life.ended, life.registry, life.open].map(|at| at - world::EPOCH);
        println!("  life from {born:.3} to {ended:.3}: {:?}; registry {registry:.3}, open {open:.3}", life.how);
    }
    for (shape, receiver) in shape.sinks.iter().zip(&world.receivers) {
        println!("  what {} got", shape.name);
        for packet in receiver.inner().packets.iter().filter(|packet| !packet.counters.is_empty()) {
            let names: Vec<&str> =
                packet.counters.keys().map(String::as_str).filter(|name| name.contains('d')).collect();
            let [end, at] = [packet.end, packet.at].map(|at| at - world::EPOCH);
            println!("    {:7.3}  interval {} to {end:.3}: {}", at, packet.id.0, names.join(" "));
        }
    }
    wrong.iter().take(10).for_each(|one| println!("  {one}"));
}

#[test]
fn a_disk_that_is_always_too_late_gets_the_open_interval_all_the_same() {
    let shape = Shape { interval: 20, keeps_open: true, ..Shape::of_seed(0) };
    let step = |at, what| Step { at, what };
    let mut history = vec![step(0.0, What::Disk(DiskMode::Crawling, 18.0))];
    history.extend((1..15).map(|at| step(f64::from(at), What::Lines(1))));
    history.push(step(18.0, What::Kill(1)));
    let (wrong, world) = violations(&shape, &history);
    let age = world.lives[0].ended - world.lives[0].open;
    assert!(wrong.is_empty() && age < 8.0, "{age}: {wrong:#?}");
}

#[test]
fn what_a_sink_was_given_at_a_start_is_gone_from_the_disk_before_it_delivers() {
    for seed in 0..12 {
        let mut shape = Shape { interval: 1, keeps_open: false, ..Shape::of_seed(seed) };
        shape.sinks.iter_mut().for_each(|sink| (sink.has_spool, sink.every) = (false, 1));
        let step = |at, what| Step { at, what };
        let mut history: Vec<Step> = (0..8).map(|n| step(f64::from(n) * 0.4, What::Lines(2))).collect();
        // It is well again when the next process begins, whose power is cut when it has delivered.
        history.push(step(0.1, What::Sink(0, SinkMode::Failing, 4.0)));
        history.push(step(3.5, What::Restart(0.1)));
        history.push(step(3.6, What::PowerCut(1000)));
        history.sort_by(|a, b| a.at.total_cmp(&b.at));
        let (wrong, _) = violations(&shape, &history);
        assert!(wrong.is_empty(), "seed {seed}: {wrong:#?}");
    }
}

#[test]
fn a_longer_interval_ends_at_its_tick_though_a_process_stops_just_before() {
    let mut shape = Shape { interval: 3, keeps_open: false, ..Shape::of_seed(0) };
    shape.sinks.iter_mut().for_each(|sink| sink.every = 1);
    let step = |at, what| Step { at, what };
    // It ends at 10.
    let mut history = vec![step(9.2, What::Restart(0.2))];
    history.extend([8.0, 8.5, 9.1, 9.6, 9.8].map(|at| step(at, What::Lines(3))));
    history.sort_by(|a, b| a.at.total_cmp(&b.at));
    let (wrong, world) = violations(&shape, &history);
    assert!(wrong.is_empty(), "{wrong:#?}");
    let longer = world.datagrams.iter().enumerate().filter(|(_, datagram)| datagram.has_longer);
    let longer: Vec<String> = longer.map(|(id, _)| format!("slow.d{id}")).collect();
    let packets = world.receivers[0].inner().packets.clone();
    let found = packets.iter().find(|packet| packet.end == world::EPOCH + 10.0).expect("an interval that ends then");
    assert!(longer.len() > 3 && longer.iter().all(|name| found.counters.contains_key(name)), "{longer:?}: {found:?}");
}

#[test]
fn a_seed_gives_the_same_run_again() {
    let run = |seed| {
        let shape = Shape::of_seed(seed);
        let mut world = World::new(&shape, &shape.history());
        world.run();
        let mut lines: Vec<String> = world.lives.iter().map(|life| format!("{life:?}")).collect();
        for receiver in &world.receivers {
            // Series have another order in each run.
            let packets = receiver.inner().packets.clone().into_iter();
            lines.extend(packets.map(|packet| format!("{:?}", receiver::Packet { checksum: 0, ..packet })));
        }
        lines
    };
    for seed in 0..5 {
        let (first, second) = (run(seed), run(seed));
        let differs = first.iter().zip(&second).find(|(first, second)| first != second);
        assert!(differs.is_none() && first.len() == second.len(), "seed {seed}: {differs:#?}");
    }
}
