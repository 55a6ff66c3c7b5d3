//! Bounds on what senders can make a shard hold, and who reached them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::memory::Memory;
use crate::protocol::{Kind, cut_lossy};
use crate::series::Series;

/// Name of the series, one per kind, that takes samples of new names above `max_series`.
pub const OVERFLOW_NAME: &str = "systole.overflow";

/// Events and service checks kept per worker and interval.
pub const MAX_EVENTS_AND_CHECKS: usize = 10_000;

/// Bytes of events and service checks kept per worker and interval; the one that reaches it is still kept.
pub(super) const MAX_EVENT_AND_CHECK_BYTES: usize = 32 << 20;

/// Samples with a timestamp that a worker keeps per interval, and bytes of their series' keys.
pub(crate) const MAX_TIMESTAMPED: usize = 100_000;
pub(super) const MAX_TIMESTAMPED_BYTES: usize = 32 << 20;

/// Prefixes watched for the worst offender. Small, so that a flood of new names stays cheap.
const WATCHED_PREFIXES: usize = 16;
/// Longest prefix remembered, in bytes.
const PREFIX_BYTES: usize = 64;

/// The number of series that all workers together may hold.
#[derive(Clone, Debug)]
pub struct Quota {
    used: Arc<AtomicUsize>,
    max_series: Arc<AtomicUsize>,
    memory: Memory,
}

impl Quota {
    /// Room for `max_series` series.
    pub fn new(max_series: usize) -> Quota {
        Quota { used: Arc::default(), max_series: Arc::new(max_series.into()), memory: Memory::unlimited() }
    }

    /// The same in this memory.
    #[must_use]
    pub fn in_memory(self, memory: &Memory) -> Quota {
        Quota { memory: memory.clone(), ..self }
    }

    /// The memory that the series lie in.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Room for so many from now on; series that are held stay.
    pub fn set_max(&self, max_series: usize) {
        self.max_series.store(max_series, Ordering::Relaxed);
    }

    /// How many series there is room for.
    pub fn max(&self) -> usize {
        self.max_series.load(Ordering::Relaxed)
    }

    /// Reserves room for one series; `false` if there is none.
    pub fn take(&self) -> bool {
        // The counter guards nothing but the amount of memory, so relaxed ordering is enough.
        let max = self.max();
        let took = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < max).then_some(n + 1));
        took.is_ok()
    }

    /// Whether four fifths of the room are taken.
    #[inline]
    pub(super) fn is_nearly_taken(&self) -> bool {
        self.used.load(Ordering::Relaxed) >= self.max() / 5 * 4
    }

    /// Releases the room of one series.
    pub fn give(&self) {
        self.used.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The window of accepted timestamps of samples, events and service checks, relative to the time of receipt. It keeps
/// senders from writing into arbitrary days: each would be a partition or an index at some receiver.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TimeWindow {
    /// How far in the past, in seconds.
    pub past_secs: f64,
    /// How far in the future, in seconds.
    pub future_secs: f64,
    /// Unix seconds of the shard's time 0; `None` if that is not known, and then every timestamp is accepted.
    pub origin: Option<f64>,
}

impl TimeWindow {
    /// Accepts every timestamp.
    pub const ANY: TimeWindow = TimeWindow { past_secs: f64::INFINITY, future_secs: f64::INFINITY, origin: None };

    /// Whether a timestamp, in Unix seconds, is accepted at `now` seconds of the shard's time.
    pub fn holds(&self, time: u64, now: f64) -> bool {
        let Some(origin) = self.origin else { return true };
        let ahead = time as f64 - (origin + now);
        -self.past_secs <= ahead && ahead <= self.future_secs
    }
}

/// The overflow series of a kind.
pub fn overflow_series(kind: Kind) -> Series {
    Series::new(kind, OVERFLOW_NAME, &[])
}

/// The prefixes (up to the first dot) with most samples beyond a bound: the space-saving algorithm (Metwally,
/// Agrawal, El Abbadi, 2005), which finds the worst one even among many prefixes.
#[derive(Clone, Debug, Default)]
pub struct Offenders {
    counts: Vec<(Vec<u8>, u64)>,
}

impl Offenders {
    /// Counts a sample of `name`.
    pub fn add(&mut self, name: &[u8]) {
        let end = memchr::memchr(b'.', name).unwrap_or(name.len());
        let prefix = cut_lossy(&name[..end], PREFIX_BYTES);
        let prefix = prefix.as_bytes();
        if let Some((_, count)) = self.counts.iter_mut().find(|(known, _)| known == prefix) {
            *count += 1;
        } else if self.counts.len() < WATCHED_PREFIXES {
            self.counts.push((prefix.to_vec(), 1));
        } else if let Some((known, count)) = self.counts.iter_mut().min_by_key(|(_, count)| *count) {
            known.clear();
            known.extend_from_slice(prefix);
            *count += 1;
        }
    }

    /// Adds another worker's counts.
    pub fn merge(&mut self, other: &Offenders) {
        for (prefix, count) in &other.counts {
            match self.counts.iter_mut().find(|(known, _)| known == prefix) {
                Some((_, ours)) => *ours += count,
                None => self.counts.push((prefix.clone(), *count)),
            }
        }
    }

    /// The worst prefix, and approximately how many of its samples were folded.
    pub fn worst(&self) -> Option<(String, u64)> {
        let (prefix, count) = self.counts.iter().max_by_key(|(_, count)| *count)?;
        Some((String::from_utf8_lossy(prefix).into_owned(), *count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_prefix_is_named_among_many() {
        let mut offenders = Offenders::default();
        for n in 0..1000 {
            offenders.add(format!("noise{n}.x").as_bytes());
            offenders.add(b"user.1234");
            offenders.add(b"user.5678");
        }
        assert_eq!(offenders.worst().map(|(prefix, _)| prefix), Some("user".into()));
    }

    #[test]
    fn a_quota_gives_out_no_more_than_it_has() {
        let quota = Quota::new(2);
        assert_eq!([quota.take(), quota.take(), quota.take()], [true, true, false]);
        quota.give();
        assert!(quota.take());
    }
}
