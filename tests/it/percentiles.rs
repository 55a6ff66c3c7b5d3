//! How exact percentiles are: six shapes of data, 10 to 1,000,000 samples, with and without sample rates, against the exact
//! value of the same rank. Within 0.1 %; count, sum, minimum and maximum exact; no series over 128 KiB.
//!
//! A hundred thousand samples a series by default; `SYSTOLE_TEST_SAMPLES` sets the most (tests/all: a million).

use systole::internals::aggregate::{Timer, TimerPolicy};
use systole::internals::snapshot::{SummaryPolicy, summarize};

use crate::support::{Random, alone, size};

const PERCENTILES: [f64; 9] = [0.1, 1.0, 10.0, 50.0, 90.0, 95.0, 99.0, 99.9, 99.99];

/// A number between 0 and 1.
fn uniform(random: &mut Random) -> f64 {
    (random.next() >> 11) as f64 / (1_u64 << 53) as f64
}

/// Box and Muller, 1958.
fn normal(random: &mut Random) -> f64 {
    let (u, v) = (uniform(random).max(1e-300), uniform(random));
    (-2.0 * u.ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos()
}

type Shape = (&'static str, fn(&mut Random) -> f64);

const SHAPES: [Shape; 6] = [
    ("uniform", |random| 1.0 + 999.0 * uniform(random)),
    ("log-normal", |random| (3.0 + 1.5 * normal(random)).exp()),
    (
        "bimodal",
        |random| if uniform(random) < 0.7 { 5.0 + normal(random).abs() } else { 900.0 + 50.0 * normal(random) },
    ),
    ("constant", |_| 17.25),
    ("negative", |random| -(2.0 + normal(random)).exp() + 3.0),
    // Pareto with an exponent of 0.8: no mean, over nine decades.
    ("heavy-tailed", |random| uniform(random).max(1e-9).powf(-1.25)),
];

const RATES: [&[f64]; 3] = [&[1.0], &[0.1], &[1.0, 0.5, 0.25]];

/// The exact value: the k-th smallest of n for equal weights, else the smallest whose cumulative weight reaches the share.
fn exact(sorted: &[(f64, f64)], percentile: f64) -> Option<f64> {
    if sorted.iter().all(|(_, weight)| *weight == sorted[0].1) {
        let rank = (percentile / 100.0 * sorted.len() as f64 + 0.5).floor() as usize;
        return rank.checked_sub(1).map(|at| sorted[at.min(sorted.len() - 1)].0);
    }
    let total: f64 = sorted.iter().map(|(_, weight)| weight).sum();
    let wanted = percentile / 100.0 * total;
    let mut passed = 0.0;
    let found = sorted.iter().find(|(_, weight)| {
        passed += weight;
        passed >= wanted - 1e-9 * wanted.max(1.0)
    });
    found.or(sorted.last()).map(|(value, _)| *value)
}

#[test]
fn percentiles_are_within_a_thousandth_and_sums_exact_in_bounded_memory() {
    let _alone = alone();
    let most = size("SYSTOLE_TEST_SAMPLES", 100_000);
    let timers = TimerPolicy::default();
    let policy = SummaryPolicy { timers, percentiles: PERCENTILES.to_vec(), ..SummaryPolicy::default() };
    let (mut worst, mut largest, mut checked) = (0.0_f64, 0, 0);
    for (name, draw) in SHAPES {
        for rates in RATES {
            for count in [10, 100, 1000, 4096, 4097, 20_000, 100_000, 1_000_000].into_iter().filter(|n| *n <= most) {
                let mut random = Random(count + rates.len() as u64);
                let samples: Vec<(f64, f64)> =
                    (0..count).map(|n| (draw(&mut random), 1.0 / rates[n as usize % rates.len()])).collect();
                let mut timer = Timer::default();
                samples.iter().for_each(|&(value, weight)| timer.record(value, weight, &timers));
                largest = largest.max(timer.memory_bytes());
                let summary = summarize(&timer, name, &policy, None);
                let case = format!("{name}, {count} samples, rates {rates:?}");
                // Beside large values of both signs, the room does not reach to the smallest ones.
                let clamped = if name == "negative" { count / 100 } else { 0 };
                assert!(summary.samples == count && timer.clamped() <= clamped, "{case}: {}", timer.clamped());

                let mut sorted = samples;
                sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
                assert_eq!((summary.min, summary.max), (sorted[0].0, sorted[sorted.len() - 1].0), "{case}");
                let near = |a: f64, b: f64, tolerance: f64| (a - b).abs() <= tolerance * b.abs().max(f64::MIN_POSITIVE);
                assert!(near(summary.count, sorted.iter().map(|(_, weight)| weight).sum(), 1e-12), "{case}");
                // The sum of the larger terms alone would hide what is lost; in ascending size it loses least.
                let mut terms: Vec<f64> = sorted.iter().map(|(value, weight)| value * weight).collect();
                terms.sort_by(|a, b| a.abs().total_cmp(&b.abs()));
                let (sum, size) = terms.iter().fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
                assert!((summary.sum - sum).abs() <= 1e-12 * size, "{case}: sum {} instead of {sum}", summary.sum);

                for &percentile in &PERCENTILES {
                    let told = summary.percentiles.iter().find(|p| p.percentile == percentile).map(|p| p.value);
                    let (Some(told), Some(expected)) = (told, exact(&sorted, percentile)) else {
                        assert_eq!(told, exact(&sorted, percentile), "{case}: p{percentile}");
                        continue;
                    };
                    let error = if told == expected { 0.0 } else { (told / expected - 1.0).abs() };
                    assert!(error <= 0.001, "{case}: p{percentile} is {told} instead of {expected}");
                    worst = worst.max(error);
                    checked += 1;
                }
            }
        }
    }
    println!("{checked} percentiles, worst error {:.4} %, largest series {} KiB", 100.0 * worst, largest / 1024);
    assert!(largest <= 128 << 10, "a series takes {largest} bytes");
}
