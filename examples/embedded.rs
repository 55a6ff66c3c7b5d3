//! The aggregator without a network: lines in, a closed interval out. `cargo run --example embedded`. Time is an argument,
//! so tests and simulations need no sleeps.

use systole::{Aggregator, Config, Records};

fn main() {
    let config = Config::parse(
        r#"
        percentiles = [50, 99]
        # No more series than these; the rest is folded into `systole.overflow`, and counted.
        max_series = 1000
        tags = { host = "here" }
        "#,
    )
    .expect("the configuration above is right");
    let mut aggregator = Aggregator::new(&config);
    for interval in 1..=2 {
        let end = f64::from(interval * 10);
        for n in 0..1000 {
            let line = format!("api.hits:1|c|#route:a\napi.latency:{}|ms", n % 100);
            aggregator.ingest(line.as_bytes(), end);
        }
        let snapshot = aggregator.close(end);
        let mut out = Vec::new();
        Records { sorted: true, ..Records::ALL }.write(&snapshot, &mut out);
        print!("{}", String::from_utf8_lossy(&out));
    }
}
