//! What the formats of sinks cost beside Graphite's plaintext, for the same series in one run: a scrape of 100,000 series, a million
//! samples by remote write, and what a spool writes. CPU time of one thread, the best of several rounds.
//!
//! ```text
//! cargo bench --bench sinks [-- --rounds N]
//! ```

use std::time::{Duration, Instant};

use systole::internals::aggregate::{Gauge, Sum, Timer, TimerPolicy};
use systole::internals::protocol::Kind;
use systole::internals::series::Series;
use systole::internals::sinks::graphite::{self, GraphiteNames};
use systole::internals::sinks::prometheus::{Distributions, Exposition, Format};
use systole::internals::sinks::{influx, remote_write};
use systole::internals::snapshot::{CounterPoint, GaugePoint, Snapshot, SummaryPolicy, TimerPoint};

/// An interval of so many series: six of ten are counters, three gauges, one a timer of 20 samples.
fn snapshot(series: usize, with_timers: bool) -> Snapshot {
    let mut snapshot =
        Snapshot { sequence: 1, end: 1.7e9, interval_secs: 10.0, rate_secs: 10.0, ..Snapshot::default() };
    let policy = TimerPolicy::default();
    snapshot.policy = std::sync::Arc::new(SummaryPolicy {
        timers: policy,
        percentiles: vec![50.0, 90.0, 95.0, 99.0, 99.9],
        ..SummaryPolicy::default()
    });
    for n in 0..series {
        let name = format!("service{}.endpoint{}.requests", n % 20, n / 20);
        let route = format!("/api/v{}", n % 5);
        let tags = [("env", Some("production")), ("route", Some(route.as_str()))];
        match n % 10 {
            9 if with_timers => {
                let mut timer = Timer::default();
                (0..20).for_each(|k| timer.record(f64::from(k) * 3.7 + n as f64 / 100.0, 1.0, &policy));
                snapshot.timers.push(TimerPoint { series: Series::new(Kind::Timer, &name, &tags), timer });
            }
            6..=8 => {
                let gauge = Gauge::absolute(n as f64 / 8.0, 0.0);
                snapshot.gauges.push(GaugePoint { series: Series::new(Kind::Gauge, &name, &tags), gauge });
            }
            _ => {
                let mut sum = Sum::default();
                sum.add(n as f64);
                snapshot.counters.push(CounterPoint { series: Series::new(Kind::Counter, &name, &tags), sum });
            }
        }
    }
    snapshot
}

/// The best of several rounds, and how many bytes came of it.
fn best(rounds: usize, mut work: impl FnMut() -> usize) -> (Duration, usize) {
    let (mut best, mut bytes) = (Duration::MAX, 0);
    for _ in 0..rounds {
        let began = Instant::now();
        bytes = work();
        best = best.min(began.elapsed());
    }
    (best, bytes)
}

fn row(name: &str, (time, bytes): (Duration, usize), base: Duration) {
    let ratio = time.as_secs_f64() / base.as_secs_f64();
    println!("  {name:<44} {:>9.1} ms  {:>8.1} MB  {ratio:>5.2} x", time.as_secs_f64() * 1e3, bytes as f64 / 1e6);
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let after = |key: &str| args.iter().position(|arg| arg == key).and_then(|at| args.get(at + 1)?.parse().ok());
    let is_test = args.iter().any(|arg| arg == "--test");
    let rounds = if is_test { 1 } else { after("--rounds").unwrap_or(5) };
    let (scraped, pushed) = if is_test { (1000, 1000) } else { (100_000, 1_000_000) };

    println!("{scraped} series, of which a tenth are timers");
    let mixed = snapshot(scraped, true);
    let base = best(rounds, || graphite::encode(&mixed, &GraphiteNames::Systole).len());
    row("graphite, plaintext", base, base.0);
    row(
        "influx, line protocol",
        best(rounds, || {
            let mut out = Vec::new();
            influx::Encoder::new(&mixed).fill(&mut out, usize::MAX);
            out.len()
        }),
        base.0,
    );
    for (name, distributions) in [("summaries", Distributions::Summary), ("native histograms", Distributions::Native)] {
        let mut exposition = Exposition::new(3600.0, distributions);
        exposition.apply(&mixed);
        for format in [Format::Text, Format::OpenMetrics, Format::Protobuf] {
            row(
                &format!("prometheus, {name}, {format:?}"),
                best(rounds, || {
                    exposition.apply(&mixed);
                    exposition.encode(format).len()
                }),
                base.0,
            );
        }
    }
    row("spool", best(rounds, || mixed.encode().expect("it can be encoded").len()), base.0);
    row(
        "spool, read back",
        {
            let encoded = mixed.encode().expect("it can be encoded");
            best(rounds, || Snapshot::decode(&encoded).expect("it can be decoded").len())
        },
        base.0,
    );

    println!("{pushed} samples: counters");
    let counters = snapshot(pushed, false);
    let base = best(rounds, || graphite::encode(&counters, &GraphiteNames::Systole).len());
    row("graphite, plaintext", base, base.0);
    let mut exposition = Exposition::new(3600.0, Distributions::Native);
    exposition.apply(&counters);
    row(
        "remote write 1.0",
        best(rounds, || {
            exposition.apply(&counters);
            let mut bytes = 0;
            remote_write::requests(&exposition, counters.end, |body| bytes += body.len()).expect("encoded");
            bytes
        }),
        base.0,
    );
}
