//! The aggregator without a network, for whoever embeds it: datagrams in, closed intervals out. It is one shard and its
//! registry, put together from a configuration as the daemon puts its own together.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use crate::aggregate::{Columns, Quota, Shard, ShardOptions};
use crate::assemble;
use crate::config::Config;
use crate::protocol::Options;
use crate::rollup::{Interval, Registry, RegistryOptions, SelfMetrics};
use crate::snapshot::Snapshot;

/// Aggregates lines of StatsD. Pure: it knows no socket and no clock, time is an argument.
#[derive(Debug)]
pub struct Aggregator {
    shard: Shard,
    registry: Registry,
    protocol: Options,
    /// Columns that an earlier interval has been drained from.
    spare: Columns,
    interval: Duration,
    /// Unix seconds at which the last interval ended.
    last_end: Option<f64>,
}

impl Aggregator {
    /// An aggregator as `config` has it: its interval, percentiles, rules, lifetimes, prefix, tags and bounds. Listeners,
    /// sinks and presence belong to the daemon; here a heartbeat is an ordinary metric.
    pub fn new(config: &Config) -> Aggregator {
        let options = ShardOptions {
            heartbeats: None,
            ..assemble::shard_options(
                config,
                &Quota::new(config.max_series),
                RandomState::new().build_hasher().finish(),
            )
        };
        let registry = RegistryOptions { self_metrics: SelfMetrics::Off, ..assemble::registry_options(config, false) };
        Aggregator {
            shard: Shard::new(options),
            registry: Registry::new(registry, 1),
            protocol: assemble::protocol(config, &config.protocol),
            interval: config.interval,
            spare: Columns::default(),
            last_end: None,
        }
    }

    /// Reads a datagram, or whole lines of a stream, that came at `now` Unix seconds. Malformed lines are counted in the
    /// next snapshot's ledger.
    pub fn ingest(&mut self, datagram: &[u8], now: f64) {
        self.shard.ingest(datagram, &self.protocol, None, now);
        // Without heartbeats there is nobody to hand these to.
        self.shard.take_signals().for_each(drop);
    }

    /// Closes the interval at `end`, Unix seconds. It is as long as the time since the last one ended; the first one, and
    /// one that ends before that, is as long as configured.
    pub fn close(&mut self, end: f64) -> Snapshot {
        let configured = self.interval.as_secs_f64();
        let length = self.last_end.map(|last| end - last).filter(|length| *length > 0.0).unwrap_or(configured);
        let retired = self.registry.retirements(0, end);
        let mut partials = [self.shard.close(retired, std::mem::take(&mut self.spare))];
        let mut snapshot = self.registry.close(&mut partials, Interval::new(end, length, end, self.interval));
        let [partial] = partials;
        self.spare = partial.columns;
        snapshot.ledger.update_completeness();
        self.last_end = Some(end);
        snapshot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_as_points_and_rates_go_by_the_time_that_passed() {
        let config = Config::parse("interval = \"10s\"\npercentiles = [90]").expect("it is right");
        let mut aggregator = Aggregator::new(&config);
        aggregator.ingest(b"hits:3|c\nheartbeat.web:10|g\nbroken", 95.0);
        let first = aggregator.close(100.0);
        assert_eq!((first.counters[0].sum.value(), first.interval_secs), (3.0, 10.0));
        assert_eq!(first.gauges.len(), 1, "a heartbeat is an ordinary metric here");
        assert_eq!(first.ledger.malformed_total(), 1);
        aggregator.ingest(b"hits:4|c", 104.0);
        let second = aggregator.close(105.0);
        assert_eq!((second.counters[0].sum.value(), second.interval_secs), (4.0, 5.0));
    }
}
