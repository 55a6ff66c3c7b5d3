//! What a line costs in memory, without a socket: parse, record, flush, beside a baseline that does the least
//! anything could do. Read the ratios: they hold on a noisy machine, nanoseconds don't.
//!
//! ```sh
//! cargo bench --bench pipeline
//! benches/instructions OLD NEW    # what two builds of this bench execute for a line, counted by callgrind: exact
//! ```

use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group};
use rapidhash::v3::rapidhash_v3;
use systole::internals::aggregate::rules::{Rule, Rules};
use systole::internals::aggregate::{Columns, Quota, Shard, ShardOptions, TimeWindow, TimerPolicy};
use systole::internals::protocol::{Options, lines, parse_metric};
use systole::internals::rollup::{Interval, Registry, RegistryOptions};
use systole::internals::senders::Origin;
use systole::internals::snapshot::SummaryPolicy;
use systole::internals::watches::{Evidence, MetricWatch, Template, Watches};

const SERIES: usize = 1000;
const LINES: usize = 20;

/// Datagrams of 20 counter lines over 1,000 series.
fn counters() -> Vec<Vec<u8>> {
    datagrams(|n| format!("app.web.requests.endpoint_{n:04}:1|c\n"))
}

fn datagrams(line: impl Fn(usize) -> String) -> Vec<Vec<u8>> {
    (0..SERIES / LINES)
        .map(|d| (0..LINES).map(|l| line((d * LINES + l * 37) % SERIES)).collect::<String>().into_bytes())
        .collect()
}

fn shard() -> Shard {
    shard_with(None)
}

/// 10,000 rules that match nothing here, and one that renames a part of a name.
fn rules(rename: bool) -> Option<Arc<Rules>> {
    let mut all: Vec<Rule> =
        (0..10_000).map(|n| Rule { pattern: format!("service-{n}.*").into(), drop: true, ..Rule::default() }).collect();
    if rename {
        let (pattern, rename) = ("app.web.*".into(), Some("web.$1".into()));
        all.push(Rule { pattern, rename, ..Rule::default() });
    }
    Some(Arc::new(Rules::new(all)))
}

fn shard_with(rules: Option<Arc<Rules>>) -> Shard {
    let quota = Quota::new(1_000_000);
    Shard::new(ShardOptions {
        timers: TimerPolicy::default(),
        fold_histograms: false,
        quota,
        seed: 1,
        rules,
        heartbeats: None,
        times: TimeWindow::ANY,
    })
}

/// Finds newline, colon and bar with memchr, hashes the name and adds the value to a slot.
fn baseline(datagram: &[u8], slots: &mut [f64]) {
    let mut rest = datagram;
    while let Some(end) = memchr::memchr(b'\n', rest) {
        let line = &rest[..end];
        rest = &rest[end + 1..];
        let Some(colon) = memchr::memchr(b':', line) else {
            continue;
        };
        let Some(bar) = memchr::memchr(b'|', &line[colon..]) else {
            continue;
        };
        let slot = rapidhash_v3(&line[..colon]) as usize % slots.len();
        slots[slot] += f64::from(line[colon + bar - 1] - b'0');
    }
}

fn per_line(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("line");
    group.throughput(Throughput::Elements(SERIES as u64));
    let all = counters();
    group.bench_function("baseline", |bencher| {
        let mut slots = vec![0.0; 4096];
        bencher.iter(|| all.iter().for_each(|datagram| baseline(black_box(datagram), &mut slots)));
    });
    group.bench_function("parse", |bencher| {
        let options = Options::default();
        bencher.iter(|| {
            for line in all.iter().flat_map(|datagram| lines(black_box(datagram))) {
                if let Ok(samples) = parse_metric(line, &options) {
                    samples.for_each(|sample| {
                        black_box(&sample);
                    });
                }
            }
        });
    });
    for (name, all) in [
        ("counter", all),
        ("gauge", datagrams(|n| format!("app.web.requests.endpoint_{n:04}:{n}|g\n"))),
        ("set", datagrams(|n| format!("app.web.requests.endpoint_{n:04}:user{}|s\n", n % 7))),
        (
            "counter with 5 tags",
            datagrams(|n| {
                format!("app.web.requests.endpoint_{n:04}:1|c|#env:prod,host:web-1,region:eu,service:api,version:12\n")
            }),
        ),
    ] {
        group.bench_function(format!("parse and record a known {name}"), |bencher| {
            let (mut shard, options) = (shard(), Options::default());
            all.iter().for_each(|datagram| shard.ingest(datagram, &options, None, 1.0));
            bencher.iter(|| all.iter().for_each(|datagram| shard.ingest(black_box(datagram), &options, None, 1.0)));
        });
    }
    // The rules lie in memory in each of these: where series lie among them alone makes a difference.
    for (name, used, rename) in [
        ("beside 10,000 rules that are not used", false, false),
        ("that no rule changes, of 10,000", true, false),
        ("that a rule renames", true, true),
    ] {
        group.bench_function(format!("parse and record a known counter {name}"), |bencher| {
            let rules = rules(rename);
            let (mut shard, options) = (shard_with(rules.clone().filter(|_| used)), Options::default());
            let all = counters();
            // A rule is looked for when a name is new, which is not what is measured.
            (0..3).for_each(|_| all.iter().for_each(|datagram| shard.ingest(datagram, &options, None, 1.0)));
            bencher.iter(|| all.iter().for_each(|datagram| shard.ingest(black_box(datagram), &options, None, 1.0)));
        });
    }
    group.finish();
}

/// A million series, each line another one, in an order that no cache foresees.
fn many(criterion: &mut Criterion) {
    const MANY: usize = 1_000_000;
    let mut group = criterion.benchmark_group("1,000,000 series");
    group.sample_size(10);
    group.throughput(Throughput::Elements(MANY as u64));
    let all: Vec<Vec<u8>> = (0..MANY / LINES)
        .map(|d| {
            let line = |l| format!("app.web.requests.endpoint_{:06}:1|c\n", (d * LINES + l) * 611_953 % MANY);
            (0..LINES).map(line).collect::<String>().into_bytes()
        })
        .collect();
    group.bench_function("parse and record a known counter", |bencher| {
        let (mut shard, options) = (shard(), Options::default());
        bencher.iter(|| all.iter().for_each(|datagram| shard.ingest(black_box(datagram), &options, None, 1.0)));
    });
    group.finish();
}

/// Workers share nothing: two should do twice what one does.
fn workers(criterion: &mut Criterion) {
    const ROUNDS: usize = 2000;
    let mut group = criterion.benchmark_group("workers");
    group.sample_size(20);
    let all = counters();
    for workers in [1, 2] {
        group.throughput(Throughput::Elements((ROUNDS * workers * SERIES) as u64));
        group.bench_function(format!("{workers} at once"), |bencher| {
            let mut shards: Vec<Shard> = (0..workers).map(|_| shard()).collect();
            bencher.iter(|| {
                std::thread::scope(|scope| {
                    for shard in &mut shards {
                        let all = &all;
                        scope.spawn(move || {
                            let options = Options::default();
                            for _ in 0..ROUNDS {
                                all.iter().for_each(|datagram| shard.ingest(black_box(datagram), &options, None, 1.0));
                            }
                        });
                    }
                });
            });
        });
    }
    group.finish();
}

fn flush(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("flush");
    group.sample_size(10);
    for (name, kind) in [("counters", "c"), ("timers of 10 samples", "ms")] {
        const COUNT: usize = 100_000;
        group.throughput(Throughput::Elements(COUNT as u64));
        let registry_options = RegistryOptions {
            summary: Arc::new(SummaryPolicy { percentiles: vec![50.0, 90.0, 99.0], ..SummaryPolicy::default() }),
            ..RegistryOptions::default()
        };
        let (mut shard, mut registry) = (shard(), Registry::new(registry_options, 1));
        let spare = std::cell::RefCell::new(Columns::default());
        let samples = if kind == "ms" { 10 } else { 1 };
        let input: Vec<u8> = (0..COUNT * samples)
            .map(|n| format!("app.series.{}:{}|{kind}\n", n % COUNT, n % 97))
            .collect::<String>()
            .into();
        group.bench_function(format!("100,000 {name}"), |bencher| {
            let none = [const { Vec::new() }; 5];
            bencher.iter_batched(
                || {
                    shard.ingest(&input, &Options::default(), None, 1.0);
                    vec![shard.close(none.clone(), spare.take())]
                },
                |mut partials| {
                    let snapshot =
                        registry.close(&mut partials, Interval::new(10.0, 10.0, 10.0, Duration::from_secs(10)));
                    *spare.borrow_mut() = partials.pop().map(|partial| partial.columns).unwrap_or_default();
                    snapshot
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

/// What lines of one sort are, for counting instructions.
fn workload(name: &str) -> Option<Vec<Vec<u8>>> {
    Some(match name {
        "counter" => counters(),
        "gauge" => datagrams(|n| format!("app.web.requests.endpoint_{n:04}:{n}|g\n")),
        "timer" => datagrams(|n| format!("app.web.requests.endpoint_{n:04}:{}.25|ms\n", n % 97)),
        "set" => datagrams(|n| format!("app.web.requests.endpoint_{n:04}:user{}|s\n", n % 7)),
        "sampled" => datagrams(|n| format!("app.web.requests.endpoint_{n:04}:1|c|@0.1\n")),
        "packed" => datagrams(|n| format!("app.web.requests.endpoint_{n:04}:1:2:3:4:5|d\n")),
        "tagged" => datagrams(|n| {
            format!("app.web.requests.endpoint_{n:04}:1|c|#env:prod,host:web-1,region:eu,service:api,version:12\n")
        }),
        _ => return None,
    })
}

/// Batches of full datagrams of so many lines under 40 prefixes from 500 senders, as a worker reads them at a rate at which one
/// batch in 64 is looked at; `attends` says whether senders are attended to at all.
fn execute_batches(lines: usize, attends: bool, rounds: usize) {
    const LINES_OF_ROUND: usize = 64_000;
    const SENDERS: usize = 500;
    let word = |n: usize| (0..2).map(|at| char::from(b'a' + (n / 7_usize.pow(at) % 7) as u8)).collect::<String>();
    let line = |n: usize| format!("{}.requests.endpoint_{:04}:1|c\n", word(n % 40), n * 37 % SERIES);
    let text = |d: usize| (0..lines).map(|l| line(d * lines + l)).collect::<String>().into_bytes();
    let all: Vec<Vec<u8>> = (0..SERIES * 4 / lines).map(text).collect();
    let origins: Vec<Origin> =
        (0..SENDERS).map(|n| Origin::at(Ipv4Addr::from(0x0a00_0000 + n as u32 * 7919).into())).collect();
    let (mut shard, options) = (shard(), Options::default());
    if attends {
        shard.attend_to_senders(false, false);
    }
    // The series are known, and so many datagrams have come before in this interval.
    all.iter().for_each(|datagram| shard.ingest(datagram, &options, None, 1.0));
    black_box(shard.close([const { Vec::new() }; 5], Columns::default()));
    shard.tally().listener.datagrams = 10_000_000;
    for n in 0..rounds * LINES_OF_ROUND / lines {
        if n.is_multiple_of(64) {
            black_box(shard.asks_for_senders());
            shard.begin_batch();
        }
        shard.tally().listener.datagrams += 1;
        let datagram = black_box(&all[n % all.len()]);
        shard.note_sender(datagram, || origins[n * 31 % SENDERS]);
        shard.ingest(datagram, &options, None, 1.0);
    }
    black_box(shard.close([const { Vec::new() }; 5], Columns::default()));
}

/// A shard that holds 100,000 series, 5,000 of which are watched if anything is: those of the lines, unless it is `others`.
fn watching(kind: &str) -> Shard {
    let (pattern, service) = if kind == "others" { ("beside.1?????", "beside") } else { ("app.web.*", "web-{1}") };
    let instance = if kind == "source" { "{source}" } else { "all" };
    let watch = MetricWatch {
        pattern: pattern.into(),
        service: Template::parse(service, 1).expect("a template"),
        instance: Template::parse(instance, 1).expect("a template"),
        interval: Some(10.0),
        evidence: Evidence::Any,
        floor: (kind == "floor").then_some(5),
        max_instances: 1000,
    };
    let watches = if kind == "nothing" { Vec::new() } else { vec![watch] };
    let mut shard = shard().watching(&Arc::new(Watches::new(watches)));
    for n in 0..100_000 {
        let name = if n < 5000 { format!("app.web.requests.endpoint_{n:04}") } else { format!("beside.{}", n * 20) };
        shard.ingest(format!("{name}:1|c").as_bytes(), &Options::default(), None, 1.0);
    }
    shard
}

/// Known lines of one sort, each datagram from another address than the last, in a shard that watches.
fn execute_watched(kind: &str, sort: &str, rounds: usize) {
    let all = workload(sort).expect("a sort of lines");
    let (mut shard, options) = (watching(kind), Options::default());
    let from = |n: usize| Some(SocketAddr::new(Ipv4Addr::from(0x0a00_0000 + n as u32 % 50).into(), 9));
    let mut spare = Columns::default();
    for _ in 0..rounds {
        all.iter().enumerate().for_each(|(n, datagram)| shard.ingest(black_box(datagram), &options, from(n), 1.0));
        // What a timer takes grows with its samples in an interval.
        if sort == "timer" {
            spare = emptied(shard.close([const { Vec::new() }; 5], spare).columns);
        }
    }
    shard.look_at_watched();
    black_box(shard.take_signals().count());
}

fn emptied(mut columns: Columns) -> Columns {
    columns.counters.drain(|_, value| _ = black_box(value));
    columns.gauges.drain(|_, value| _ = black_box(value));
    columns.timers.drain(|_, value| _ = black_box(value));
    columns.sets.drain(|_, value| _ = black_box(value));
    columns
}

/// Reads known lines of one sort so many times over, and closes the interval each time.
fn execute(name: &str, rounds: usize) {
    if let Some(of) = name.strip_prefix("batches of ") {
        let (lines, senders) = of.split_once(' ').unwrap_or((of, ""));
        return execute_batches(lines.parse().expect("lines of a datagram"), senders == "with senders", rounds);
    }
    if let Some((sort, kind)) = name.split_once(" watching ") {
        return execute_watched(kind, sort, rounds);
    }
    let all = workload(name).expect("counter, gauge, timer, set, sampled, packed or tagged");
    let (mut shard, options, mut spare) = (shard(), Options::default(), Columns::default());
    for _ in 0..rounds {
        all.iter().for_each(|datagram| shard.ingest(black_box(datagram), &options, None, 1.0));
        spare = emptied(shard.close([const { Vec::new() }; 5], spare).columns);
    }
}

criterion_group!(benches, per_line, many, workers, flush);

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let Some(at) = args.iter().position(|arg| arg == "--execute") {
        return execute(&args[at + 1], args[at + 2].parse().expect("rounds"));
    }
    benches();
    Criterion::default().configure_from_args().final_summary();
}
