//! A datagram, under every option: no panic, and every line and sample accounted for, however often it comes.
#![no_main]

use std::sync::Arc;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use systole::internals::aggregate::rules::{Rule, Rules};
use systole::internals::aggregate::{Columns, GaugePolicy, Quota, Shard, ShardOptions, TimeWindow, TimerPolicy, SeriesOverrides};
use systole::internals::protocol::{GaugeSign, Heartbeats, NameTags, Options};
use systole::internals::sinks::graphite::{Encoder, EtsyNames, GraphiteNames, Wire};
use systole::internals::rollup::{GaugeLife, Interval, Registry, RegistryOptions};
use systole::internals::codec::Records;
use systole::internals::snapshot::SummaryPolicy;

fn rules() -> Arc<Rules> {
    let rule = |pattern: &str| Rule { pattern: pattern.into(), ..Rule::default() };
    Arc::new(Rules::new(vec![
        Rule { drop: true, ..rule("d*") },
        Rule { rename: Some("r.$1.${2}".into()), add_tags: vec![("k".into(), "$2".into())], ..rule("*.*") },
        Rule {
            overrides: SeriesOverrides {
                gauge: GaugePolicy::Mean,
                digits: Some(1),
                buckets: vec![0.0, 10.0],
                every: 2,
                ..SeriesOverrides::default()
            },
            ..rule("*")
        },
    ]))
}

fuzz_target!(|data: &[u8]| {
    let Some((&[switches, more], datagram)) = data.split_first_chunk::<2>() else { return };
    let on = |bit: u8| switches >> bit & 1 == 1;
    let options = Options {
        sanitize: on(0),
        gauge_sign: if on(1) { GaugeSign::Absolute } else { GaugeSign::Delta },
        abbreviated_meter: on(2),
        absolute_counters: on(3),
        binary: on(4),
        name_tags: if on(5) { NameTags::NONE } else { Options::default().name_tags },
        max_name: if on(6) { 8 } else { 1024 },
        ..Options::default()
    };
    let timers = TimerPolicy { exact_samples: 3, weighted: on(7), ..TimerPolicy::default() };
    let rules = (more & 1 == 1).then(rules);
    let mut shard = Shard::new(ShardOptions {
        timers,
        fold_histograms: more & 2 == 2,
        quota: Quota::new(4),
        seed: 1,
        rules: rules.clone(),
        heartbeats: (more & 4 == 4).then(|| Arc::new(Heartbeats::default())),
        times: TimeWindow::ANY,
    });
    let summary = SummaryPolicy {
        timers,
        percentiles: vec![0.0, 50.0, 99.9, -10.0, 100.0],
        agent: more & 8 == 8,
        ..SummaryPolicy::default()
    };
    let mut registry = Registry::new(
        RegistryOptions {
            summary: Arc::new(summary),
            zero_when_idle: [more & 16 == 16; 3],
            gauge_life: GaugeLife::Secs(20.0),
            series_ttl_secs: [Some(10.0); 5],
            rules,
            ..RegistryOptions::default()
        },
        1,
    );
    for interval in 1..=3 {
        let end = f64::from(interval * 10);
        // Twice: the second time the bytes are known.
        shard.ingest(datagram, &options, None, end);
        shard.ingest(datagram, &options, None, end);
        shard.take_signals().for_each(drop);
        let retired = registry.retirements(0, end - 10.0);
        let mut partials = [shard.close(retired, Columns::default())];
        let interval = Interval::new(end, 10.0, end, Duration::from_secs(10));
        let snapshot = registry.close(&mut partials, interval);
        assert_eq!(snapshot.ledger.check(), Ok(()));
        let mut records = Vec::new();
        Records { sorted: true, ..Records::ALL }.write(&snapshot, &mut records);
        assert!(records.iter().all(|&b| b == b'\n' || b >= b' '), "a record has a control character");
        for names in [
            GraphiteNames::Systole,
            GraphiteNames::Etsy(EtsyNames::default()),
            GraphiteNames::Dogstatsd(vec!["max".into(), "count".into()]),
        ] {
            for wire in [Wire::Plaintext, Wire::Pickle] {
                let (mut bytes, mut encoder) = (Vec::new(), Encoder::new(&snapshot, &names, None, wire));
                while encoder.fill(&mut bytes, 100) {}
                if wire == Wire::Plaintext {
                    let lines = bytes.split(|&b| b == b'\n').filter(|line| !line.is_empty());
                    lines.for_each(|line| assert_eq!(line.iter().filter(|&&b| b == b' ').count(), 2));
                }
            }
        }
    }
});
