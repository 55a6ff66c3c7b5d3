//! The aggregator without a network: lines in, a closed interval out. `cargo run --example embedded`. Time is an argument,
//! so tests and simulations need no sleeps.

use std::sync::Arc;
use std::time::Duration;

use systole::aggregate::{Quota, Shard, ShardOptions, TimeWindow, TimerPolicy};
use systole::codec::Records;
use systole::protocol::Options;
use systole::rollup::{GaugeLife, Interval, Registry, RegistryOptions, SelfMetrics};
use systole::snapshot::SummaryPolicy;

fn main() {
    let timers = TimerPolicy::default();
    let mut shard = Shard::new(ShardOptions {
        timers,
        fold_histograms: false,
        // No more series than these; the rest is folded into `systole.overflow`, and counted.
        quota: Quota::new(1000),
        seed: 1,
        rules: None,
        heartbeats: None,
        times: TimeWindow::ANY,
    });
    let mut registry = Registry::new(
        RegistryOptions {
            summary: Arc::new(SummaryPolicy { timers, percentiles: vec![50.0, 99.0], ..SummaryPolicy::default() }),
            zero_when_idle: [false; 3],
            gauge_life: GaugeLife::Secs(300.0),
            series_ttl_secs: [Some(600.0); 5],
            prefix: String::new(),
            tags: vec![("host".into(), "here".into())],
            rate_secs: None,
            self_metrics: SelfMetrics::Off,
            rules: None,
        },
        1,
    );
    let options = Options::default();
    for interval in 1..=2 {
        for n in 0..1000 {
            let line = format!("api.hits:1|c|#route:a\napi.latency:{}|ms", n % 100);
            shard.ingest(line.as_bytes(), &options, None, f64::from(interval * 10));
        }
        let end = f64::from(interval * 10);
        let retired = registry.retirements(0, end);
        let mut partials = [shard.close(&retired, Default::default())];
        let snapshot = registry.close(&mut partials, Interval::new(end, 10.0, end, Duration::from_secs(10)));
        let mut out = Vec::new();
        Records { sorted: true, ..Records::ALL }.write(&snapshot, &mut out);
        print!("{}", String::from_utf8_lossy(&out));
    }
}
