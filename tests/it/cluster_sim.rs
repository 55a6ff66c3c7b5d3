//! Scale-out under attack: edges, a bus, owners and sinks in virtual time, from one seed each. The bus loses, delays,
//! reorders and doubles messages, fails over and says yes to two at once; nodes crash, stop and come back, their clocks
//! differ, and sinks are slow. In the end all that was emitted is compared with what one node would have said.
//!
//! Some rules only save work, and nothing is wrong without them: a record of which nothing was seen for long may be given
//! up instead of sent again (whoever wrote the first one that is valid finds out), a node that is not trusted may seal (the
//! record decides; there are more doubles), and a batch in flight may be dropped from a spool (it is counted if it never
//! came). That a refused record is not written again behind the one that won is what fences.
//!
//! `SYSTOLE_TEST_CLUSTER_SEEDS` is the number of seeds, `SYSTOLE_TEST_CLUSTER_FIRST` the first one.

mod bus;
mod content;
mod judge;
mod world;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::support::size;

use world::World;

/// Threads that share the seeds.
const THREADS: usize = 2;

#[test]
fn n_nodes_give_the_result_of_one() {
    let (first, seeds) = (size("SYSTOLE_TEST_CLUSTER_FIRST", 0), size("SYSTOLE_TEST_CLUSTER_SEEDS", 200));
    let next = AtomicU64::new(first);
    let all: Mutex<(Vec<String>, BTreeMap<&'static str, u64>)> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + seeds {
                        break;
                    }
                    let mut world = World::new(seed);
                    world.run();
                    let (violations, figures) = judge::judge(&world);
                    let mut all = all.lock().expect("nobody panics with it");
                    let line = |one: &String| format!("seed {seed}: {} violations, first: {one}", violations.len());
                    all.0.extend(violations.first().map(line));
                    for (name, count) in figures {
                        *all.1.entry(name).or_default() += count;
                    }
                }
            });
        }
    });
    let (violations, figures) = all.into_inner().expect("nobody panics with it");
    println!("{seeds} seeds from {first}: {figures:?}");
    assert!(violations.is_empty(), "{} seeds fail\n{}", violations.len(), violations.join("\n"));
    let count = |name| figures.get(name).copied().unwrap_or(0);
    assert!(count("untold") * 100 <= count("lost"), "what the log loses is told: {figures:?}");
    // The attacks happen.
    for (name, least) in [("claims", 2), ("emitted again", 1), ("late", 1), ("races", 1)] {
        let count = count(name);
        assert!(seeds < 100 || count >= least * seeds / 10, "{name}: {count}");
    }
}

#[test]
fn a_seed_gives_the_same_run_again() {
    let run = |seed| {
        let mut world = World::new(seed);
        world.run();
        format!("{:?}", world.emits)
    };
    assert_eq!(run(7), run(7));
}
