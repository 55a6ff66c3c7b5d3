//! What a shard holds in memory, published once a batch, and how much of it gives way until the next.
//!
//! The level of the whole process decides, and beside it the share of each holder: whoever is above its share gives way
//! as if the level were there. Reading both costs a batch some loads; lines read only what was decided.

use crate::memory::{Holder, Holding, Level, Memory};

use super::timer::TimerPolicy;

/// Exact samples of a timer, and values of a `kv` pair, where samples give way.
pub(super) const SHORT_SAMPLES: usize = 256;

/// Most significant digits of a histogram where samples give way: with 3 it takes more than the samples that it replaces.
const SHORT_DIGITS: u8 = 2;

/// The same where new series give way, too.
const SHORTEST_DIGITS: u8 = 1;

/// Members of a set that are counted exactly where new series give way: one more, and its table would take more than the
/// registers of an estimate.
pub(super) const SHORT_MEMBERS: usize = 896;

/// Samples of a timer and members of a set that are always taken: established series of few samples stay exact.
pub(super) const ALWAYS_TAKEN: usize = 14;

/// Bytes that a shard holds, by holder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeldBytes {
    /// Keys of series and the tables that find them, caches included.
    pub series_keys: usize,
    /// Cells, and members of sets.
    pub values: usize,
    /// Samples of timers, and values of `kv` pairs.
    pub samples: usize,
    /// Events and service checks.
    pub events: usize,
    /// Samples with a time of their own.
    pub timestamped: usize,
    /// What is known of senders.
    pub senders: usize,
}

impl HeldBytes {
    /// All of it.
    pub fn total(&self) -> usize {
        self.series_keys + self.values + self.samples + self.events + self.timestamped + self.senders
    }
}

/// What gives way in this batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is decided by itself")]
pub(super) struct GivesWay {
    /// Caches.
    pub(super) caches: bool,
    /// Exact samples become histograms early, and members of sets estimates.
    pub(super) samples: bool,
    /// New series fold.
    pub(super) series: bool,
    /// Samples and members beyond [`ALWAYS_TAKEN`] that need more room fold.
    pub(super) growth: bool,
    /// Events and service checks are dropped.
    pub(super) events: bool,
    /// Samples with a time of their own are dropped.
    pub(super) timestamped: bool,
}

/// One shard's part of the memory.
#[derive(Debug)]
pub(super) struct MemoryUse {
    memory: Memory,
    series_keys: Holding,
    values: Holding,
    samples: Holding,
    events: Holding,
    timestamped: Holding,
    senders: Holding,
    published: HeldBytes,
    pub(super) gives_way: GivesWay,
}

impl MemoryUse {
    pub(super) fn new(memory: &Memory) -> MemoryUse {
        MemoryUse {
            series_keys: memory.holding(Holder::SeriesKeys),
            values: memory.holding(Holder::Values),
            samples: memory.holding(Holder::Samples),
            events: memory.holding(Holder::Events),
            timestamped: memory.holding(Holder::Timestamped),
            senders: memory.holding(Holder::Senders),
            published: HeldBytes::default(),
            gives_way: GivesWay::default(),
            memory: memory.clone(),
        }
    }

    /// Publishes what the shard holds.
    pub(super) fn publish(&mut self, held: HeldBytes) {
        if held == self.published {
            return;
        }
        let set = |holding: &Holding, bytes: usize, before: usize| {
            if bytes != before {
                holding.set(bytes as u64);
            }
        };
        set(&self.series_keys, held.series_keys, self.published.series_keys);
        set(&self.values, held.values, self.published.values);
        set(&self.samples, held.samples, self.published.samples);
        set(&self.events, held.events, self.published.events);
        set(&self.timestamped, held.timestamped, self.published.timestamped);
        set(&self.senders, held.senders, self.published.senders);
        self.published = held;
    }

    /// Decides what gives way until the next call.
    pub(super) fn decide(&mut self) {
        let memory = &self.memory;
        let level = memory.level();
        // Shares of a cap in percent, so that what was freed is not taken again at once.
        let has = |holder: Holder, percent: u64| {
            let reached = memory.bytes(holder) > memory.cap(holder) / 100 * percent;
            if reached {
                memory.note_reached(holder);
            }
            reached
        };
        let before = self.gives_way;
        let caches = if before.caches { 45 } else { 50 };
        let samples_full = has(Holder::Samples, 100);
        self.gives_way = GivesWay {
            caches: level >= Level::Caches || has(Holder::SeriesKeys, caches),
            samples: level >= Level::Samples || has(Holder::Samples, 60) || has(Holder::Values, 60),
            series: level >= Level::Series || has(Holder::SeriesKeys, 100) || has(Holder::Values, 100) || samples_full,
            growth: level >= Level::Events || samples_full || has(Holder::Values, 120),
            events: level >= Level::Events || has(Holder::Events, 100),
            timestamped: level >= Level::Events || has(Holder::Timestamped, 100),
        };
    }

    /// Whether there is room for so many bytes of series, beside those that are held now.
    pub(super) fn has_room_for(&self, bytes: usize, held_keys: usize) -> bool {
        let unpublished = held_keys.saturating_sub(self.published.series_keys);
        if self.gives_way.series {
            return false;
        }
        let has_room = !self.memory.would_exceed(Holder::SeriesKeys, (bytes + unpublished) as u64);
        if !has_room {
            self.memory.note_reached(Holder::SeriesKeys);
        }
        has_room
    }

    /// How timers keep their samples in this batch.
    pub(super) fn timers(&self, configured: TimerPolicy) -> TimerPolicy {
        if !self.gives_way.samples {
            return configured;
        }
        let digits = if self.gives_way.series { SHORTEST_DIGITS } else { SHORT_DIGITS };
        TimerPolicy {
            exact_samples: configured.exact_samples.min(SHORT_SAMPLES),
            digits: configured.digits.min(digits),
            ..configured
        }
    }
}
