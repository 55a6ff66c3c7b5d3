//! Shards for the tests of the registry, and of what is saved of it.

use super::{Registry, RegistryOptions};
use crate::aggregate::{Columns, Partial, Quota, Shard, ShardOptions, TimeWindow, TimerPolicy};

/// So many shards with the rules of a registry and a quota of all together.
pub(super) fn shards(count: usize, options: &RegistryOptions, max_series: usize) -> Vec<Shard> {
    let quota = Quota::new(max_series);
    let shard = |seed| {
        Shard::new(ShardOptions {
            timers: TimerPolicy::default(),
            fold_histograms: false,
            quota: quota.clone(),
            seed,
            rules: options.rules.clone(),
            heartbeats: None,
            times: TimeWindow::ANY,
        })
    };
    (0..count as u64).map(shard).collect()
}

/// Closes the interval of each, at a time of the registry's clock, into spare columns as long as there are any.
pub(super) fn close(shards: &mut [Shard], registry: &Registry, now: f64, spare: &mut Vec<Columns>) -> Vec<Partial> {
    let mut close =
        |(n, shard): (usize, &mut Shard)| shard.close(registry.retirements(n, now), spare.pop().unwrap_or_default());
    shards.iter_mut().enumerate().map(&mut close).collect()
}
