//! A line of a series already known allocates nothing, tagged or not.

use systole::internals::aggregate::{Quota, Shard, ShardOptions, TimeWindow, TimerPolicy};
use systole::internals::memory::{LEAST_MAX_MEMORY, Level, Memory};
use systole::internals::protocol::Options;
use systole::internals::senders::Origin;

use crate::support::heap::allocations;

#[test]
fn a_line_of_a_known_series_allocates_nothing() {
    let quota = Quota::new(1000);
    let mut shard = Shard::new(ShardOptions {
        timers: TimerPolicy::default(),
        fold_histograms: false,
        quota,
        seed: 1,
        rules: None,
        heartbeats: None,
        times: TimeWindow::ANY,
    });
    let lines: [&[u8]; 9] = [
        b"api.hits:1|c",
        b"api.hits:1.5|c|@0.1",
        b"api.hits:1|c|#env:prod,host:web-1,region:eu,service:api,version:12",
        b"api.hits;env=prod;host=a:1|c|#zone:b",
        b"pool.size:5|g\npool.size:+3|g\npool.size:-1|g|#a:b",
        b"users:bob|s|#k:v",
        b"broken:line",
        b"api[k=v].hits:1|c|c:container|e:x|unknown",
        b"api.hits;env=prod;host=a:1|c:2|c:3:4|g|@0.5:5|g|#k:v|@1:6|c",
    ];
    let options = Options::default();
    // The first round makes the series; the second has room for whatever grows.
    for _ in 0..2 {
        lines.iter().for_each(|line| shard.ingest(line, &options, None, 1.0));
    }
    for line in lines {
        let before = allocations();
        (0..100).for_each(|_| shard.ingest(line, &options, None, 1.0));
        let made = allocations() - before;
        assert_eq!(made, 0, "{}", String::from_utf8_lossy(line));
    }
}

#[test]
fn a_sample_that_folds_for_want_of_memory_allocates_nothing() {
    let memory = Memory::new(LEAST_MAX_MEMORY);
    let mut shard = Shard::new(ShardOptions {
        timers: TimerPolicy::default(),
        fold_histograms: false,
        quota: Quota::new(1000).in_memory(&memory),
        seed: 1,
        rules: None,
        heartbeats: None,
        times: TimeWindow::ANY,
    });
    let options = Options::default();
    (0..14).for_each(|_| shard.ingest(b"even:1|ms\nuneven:0.12345|ms", &options, None, 1.0));
    memory.set_level(Level::Events);
    shard.begin_batch();
    // Each would need another form of the samples, which takes more memory: of doubles, or of weights.
    let line = b"even:0.12345|ms\nuneven:0.12345|ms|@0.5";
    let mut round = || (0..300).for_each(|_| shard.ingest(line, &options, None, 1.0));
    // The overflow series grows into its last form.
    round();
    let before = allocations();
    round();
    assert_eq!(allocations() - before, 0);
    assert_eq!(shard.open_tally().memory.folded, 4 * 300);
}

#[test]
fn attending_to_senders_allocates_nothing_for_those_that_are_known() {
    let mut shard = Shard::new(ShardOptions {
        timers: TimerPolicy::default(),
        fold_histograms: false,
        quota: Quota::new(1000),
        seed: 1,
        rules: None,
        heartbeats: None,
        times: TimeWindow::ANY,
    });
    shard.attend_to_senders(false, false);
    let lines: [&[u8]; 3] = [b"api.hits:1|c", b"job.step.load:1|c|c:ci-4f1c", b"broken:line\njob.step:1|c|#a:b"];
    let options = Options::default();
    let mut round = || {
        shard.begin_batch();
        assert!(shard.asks_for_senders(), "of few batches each is looked at");
        for n in 0..50_u8 {
            for line in lines {
                shard.note_sender(line, || Origin::at([10, 0, 0, n].into()));
                shard.ingest(line, &options, None, 1.0);
            }
        }
    };
    (0..2).for_each(|_| round());
    let before = allocations();
    round();
    assert_eq!(allocations() - before, 0);
}
