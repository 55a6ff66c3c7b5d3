//! Datagrams made from the grammar: no panic, every line and sample accounted for, every record printable.
#![no_main]

#[path = "../../it/support/grammar.rs"]
mod grammar;

use std::sync::Arc;
use std::time::Duration;

use grammar::{Choices, FromBytes, Shape, State, random_form};
use libfuzzer_sys::fuzz_target;
use systole::internals::aggregate::{Columns, Quota, Shard, ShardOptions, TimeWindow, TimerPolicy};
use systole::internals::protocol::{Heartbeats, Options};
use systole::internals::rollup::{GaugeLife, Interval, Registry, RegistryOptions};
use systole::internals::codec::Records;
use systole::internals::snapshot::SummaryPolicy;

const NOW: u64 = 1_700_000_000;

fuzz_target!(|data: &[u8]| {
    let mut choices = FromBytes(data);
    let switches = choices.below(256);
    let on = |bit: usize| switches >> bit & 1 == 1;
    let timers = TimerPolicy { exact_samples: if on(0) { 3 } else { 4096 }, weighted: on(1), ..TimerPolicy::default() };
    let mut shard = Shard::new(ShardOptions {
        timers,
        fold_histograms: on(2),
        quota: Quota::new(if on(3) { 4 } else { 100_000 }),
        seed: 1,
        rules: None,
        heartbeats: on(4).then(|| Arc::new(Heartbeats::default())),
        times: TimeWindow { past_secs: 604_800.0, future_secs: 3_600.0, origin: Some(0.0) },
    });
    let mut registry = Registry::new(
        RegistryOptions {
            summary: Arc::new(SummaryPolicy { timers, percentiles: vec![0.0, 50.0, 99.9], ..SummaryPolicy::default() }),
            zero_when_idle: [on(5); 3],
            gauge_life: GaugeLife::Secs(20.0),
            series_ttl_secs: [Some(10.0); 5],
            ..RegistryOptions::default()
        },
        1,
    );
    let options = Options { sanitize: on(6), binary: on(7), ..Options::default() };
    let mut state = State::default();
    for interval in 1..=3u32 {
        let now = NOW as f64 + f64::from(interval) * 10.0;
        for _ in 0..3 {
            let shape = Shape { name: String::new(), form: random_form(&mut choices) };
            let room = [100, 1400, 20_000, 65_507][choices.below(4)];
            let datagram = grammar::datagram(&shape, &mut state, room, NOW, &mut choices);
            shard.ingest(&datagram, &options, None, now);
        }
        shard.take_signals().for_each(drop);
        let retired = registry.retirements(0, now - 10.0);
        let mut partials = [shard.close(retired, Columns::default())];
        let snapshot = registry.close(&mut partials, Interval::new(now, 10.0, now, Duration::from_secs(10)));
        assert_eq!(snapshot.ledger.check(), Ok(()));
        let mut records = Vec::new();
        Records { sorted: true, ..Records::ALL }.write(&snapshot, &mut records);
        assert!(records.iter().all(|&b| b == b'\n' || b >= b' '), "a record has a control character");
    }
});
