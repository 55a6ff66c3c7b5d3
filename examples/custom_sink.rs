//! The daemon with a sink of your own: `cargo run --example custom_sink`, then `systole send 'hits:1|c'`.
//!
//! A sink is two methods. Task, queue, deadline, retries and the account are the driver's business: when `deliver` fails or
//! takes too long, the same interval is offered again, and what waits beyond the queue is given up and counted.

use std::sync::Arc;
use std::time::Instant;

use systole::{Config, Daemon, Delivery, DriverOptions, Receipt, Sink, SinkError, Snapshot};

/// Prints `time,name,value` for counters, and nothing else.
struct Csv {
    rows: u64,
}

impl Sink for Csv {
    fn deliver<'a>(&'a mut self, snapshot: &'a Arc<Snapshot>) -> Delivery<'a, Result<Receipt, SinkError>> {
        Box::pin(async move {
            for counter in &snapshot.counters {
                println!("{},{},{}", snapshot.end, counter.series, counter.sum.value());
                self.rows += 1;
            }
            // What this format cannot carry is said, so that the ledger adds up.
            let left_out = (snapshot.len() - snapshot.counters.len()) as u64;
            Ok(Receipt::new(0, [("unsupported", left_out)]))
        })
    }

    fn close(&mut self) -> Delivery<'_, ()> {
        Box::pin(async move { println!("# {} rows", self.rows) })
    }
}

#[tokio::main]
async fn main() {
    // As the command line would have it; the first argument may be another place to listen at.
    let listen = std::env::args().nth(1).unwrap_or_else(|| "udp://127.0.0.1:8125".into());
    let toml = format!(
        "interval = \"1s\"\nself_metrics = false\nlisten = [{{ url = \"{listen}\" }}]\n\
         [presence]\nenabled = false\n[http]\naddress = \"off\""
    );
    let mut config = Config::parse(&toml).expect("the configuration above is right");
    // The console is there by default.
    config.sinks.clear();
    // Every series, an interval at a time; four may wait in memory.
    let options = DriverOptions::new("csv", "csv", config.interval);
    let grace = config.shutdown_grace;
    let run = async {
        let daemon = Daemon::bind(config)?.with_sink(options, Box::new(Csv { rows: 0 }));
        eprint!("{}", daemon.summary());
        let running = daemon.start()?;
        let _ = tokio::signal::ctrl_c().await;
        running.stop(Instant::now() + grace).await?;
        Ok::<(), Box<dyn std::error::Error>>(())
    };
    if let Err(problem) = run.await {
        eprintln!("{problem}");
        std::process::exit(1);
    }
}
