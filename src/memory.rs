//! What the process holds in memory, who holds it, and how much has to give way.
//!
//! A monitor in the shell measures the bytes that live, and sets one [`Level`] for all; holders read it with one relaxed
//! load and give way by themselves, one step more at each level. Beside that, each [`Holder`] publishes its own bytes and
//! has a share of `max_memory`; above it, it gives way whatever the level is. Nothing here allocates, locks or measures.
#![deny(clippy::disallowed_methods)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// The smallest `max_memory`, in bytes: below it there is no room for one interval and the next.
pub const LEAST_MAX_MEMORY: u64 = 256 << 20;

/// Bytes that an allocation of `size` bytes takes from the system: glibc puts a word before each, and gives multiples of 16
/// bytes, 32 at least. Nothing is allocated for 0 bytes.
#[inline]
pub const fn footprint(size: usize) -> usize {
    if size == 0 {
        return 0;
    }
    let chunk = (size + 8 + 15) & !15;
    if chunk < 32 { 32 } else { chunk }
}

/// Bytes that a vector of this capacity takes.
#[inline]
pub const fn vec_footprint<T>(capacity: usize) -> usize {
    footprint(capacity * size_of::<T>())
}

/// Bytes that a hash map of the standard library takes that holds so many without growing: a byte beside each place, of which
/// an eighth stays empty.
#[inline]
pub const fn map_footprint<K, V>(capacity: usize) -> usize {
    if capacity == 0 {
        return 0;
    }
    let places = if capacity < 8 { capacity.next_power_of_two() } else { (capacity * 8 / 7).next_power_of_two() };
    footprint(places * (size_of::<(K, V)>() + 1) + 16)
}

/// Bytes that an ordered map of the standard library takes, about: its nodes have 11 places, of which most are taken.
#[inline]
pub const fn tree_footprint<K, V>(len: usize) -> usize {
    const PLACES: usize = 11;
    const TAKEN: usize = 7;
    let leaf = footprint(PLACES * (size_of::<K>() + size_of::<V>()) + 16);
    let leaves = len.div_ceil(if len <= PLACES { PLACES } else { TAKEN });
    let inner = if leaves > 1 { leaves.div_ceil(TAKEN) * (leaf + (PLACES + 1) * size_of::<usize>()) } else { 0 };
    leaves * leaf + inner
}

/// How much gives way. Each level includes those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// Nothing.
    #[default]
    Calm,
    /// Caches.
    Caches,
    /// Timers become histograms early.
    Samples,
    /// New series fold into the overflow series.
    Series,
    /// Events, service checks and samples with a time of their own are dropped, and the oldest closed interval leaves.
    Events,
}

impl Level {
    /// Every level, in order.
    pub const ALL: [Level; 5] = [Level::Calm, Level::Caches, Level::Samples, Level::Series, Level::Events];

    /// The number, 0 to 4.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// What gives way, in a few words.
    pub fn gives_way(self) -> &'static str {
        match self {
            Level::Calm => "nothing",
            Level::Caches => "caches",
            Level::Samples => "exact samples",
            Level::Series => "new series",
            Level::Events => "events and samples with a timestamp",
        }
    }

    /// The level of a number.
    pub(crate) fn of(number: u8) -> Level {
        Level::ALL.get(usize::from(number)).copied().unwrap_or(Level::Events)
    }

    /// The share of `max_memory`, in percent, from which on this level holds.
    const fn percent(self) -> u64 {
        match self {
            Level::Calm => 0,
            Level::Caches => 60,
            Level::Samples => 70,
            Level::Series => 78,
            Level::Events => 86,
        }
    }

    /// The level that follows this one when `used` of `max` bytes are in use. Up goes at once; going back needs 10 % less
    /// than what led here.
    #[must_use]
    pub fn after(self, used: u64, max: u64) -> Level {
        let reached = |level: &Level, of_it: u64| {
            u128::from(used) * 10_000 >= u128::from(max) * u128::from(level.percent() * of_it)
        };
        let up = Level::ALL.into_iter().rev().find(|level| reached(level, 100)).unwrap_or_default();
        if up >= self {
            return up;
        }
        Level::ALL.into_iter().rev().find(|level| *level <= self && reached(level, 90)).unwrap_or_default()
    }
}

/// Who holds memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Holder {
    /// Names and tags of series, and the tables that find them.
    SeriesKeys,
    /// Sums, gauges, members of sets: the open interval.
    Values,
    /// Samples of timers and `kv` pairs: the open interval.
    Samples,
    /// Events and service checks: the open interval.
    Events,
    /// Samples with a time of their own: the open interval.
    Timestamped,
    /// Closed intervals: the published one, and those that wait for sinks.
    ClosedIntervals,
    /// What sinks keep from interval to interval, and what they are writing.
    Sinks,
    /// Queues of relays.
    Relays,
    /// The queue of the capture.
    Capture,
    /// Answers of HTTP that are being made or sent.
    HttpBodies,
    /// Connections of every port, with their buffers.
    Connections,
    /// Services, instances and events of presence.
    Presence,
    /// What is known of senders.
    Senders,
    /// The last intervals and minutes of series, and what finds them.
    History,
}

impl Holder {
    /// Every holder, in the order of its number.
    pub const ALL: [Holder; 14] = [
        Holder::SeriesKeys,
        Holder::Values,
        Holder::Samples,
        Holder::Events,
        Holder::Timestamped,
        Holder::ClosedIntervals,
        Holder::Sinks,
        Holder::Relays,
        Holder::Capture,
        Holder::HttpBodies,
        Holder::Connections,
        Holder::Presence,
        Holder::Senders,
        Holder::History,
    ];

    /// The name in the ledger.
    pub fn name(self) -> &'static str {
        match self {
            Holder::SeriesKeys => "series_keys",
            Holder::Values => "values",
            Holder::Samples => "samples",
            Holder::Events => "events",
            Holder::Timestamped => "timestamped",
            Holder::ClosedIntervals => "closed_intervals",
            Holder::Sinks => "sinks",
            Holder::Relays => "relays",
            Holder::Capture => "capture",
            Holder::HttpBodies => "http_bodies",
            Holder::Connections => "connections",
            Holder::Presence => "presence",
            Holder::Senders => "senders",
            Holder::History => "history",
        }
    }

    /// Its share of `max_memory`, in percent. Together they are more than all of it, because seldom all of them are in use
    /// at once; when they are, the level rises.
    const fn percent(self) -> u64 {
        match self {
            Holder::SeriesKeys => 35,
            Holder::ClosedIntervals => 30,
            Holder::Values | Holder::Samples | Holder::Sinks => 20,
            Holder::History => 15,
            Holder::Events
            | Holder::Timestamped
            | Holder::Relays
            | Holder::HttpBodies
            | Holder::Connections
            | Holder::Presence => 10,
            Holder::Capture => 5,
            Holder::Senders => 3,
        }
    }
}

#[derive(Debug)]
struct Shared {
    /// `max_memory`; `u64::MAX` without one.
    max: AtomicU64,
    level: AtomicU8,
    /// The highest level since it was taken.
    peak: AtomicU8,
    /// Live and resident bytes, as they were measured last.
    live: AtomicU64,
    resident: AtomicU64,
    bytes: [AtomicU64; Holder::ALL.len()],
    /// The most bytes with which a holder's share made something give way, since it was taken; 0 if it did not.
    reached: [AtomicU64; Holder::ALL.len()],
}

/// The memory of the process. Cheap to clone; clones are one.
#[derive(Clone, Debug)]
pub struct Memory(Arc<Shared>);

impl Default for Memory {
    fn default() -> Memory {
        Memory::unlimited()
    }
}

impl Memory {
    /// Memory of at most `max` bytes.
    pub fn new(max: u64) -> Memory {
        Memory(Arc::new(Shared {
            max: AtomicU64::new(max),
            level: AtomicU8::new(0),
            peak: AtomicU8::new(0),
            live: AtomicU64::new(0),
            resident: AtomicU64::new(0),
            bytes: Default::default(),
            reached: Default::default(),
        }))
    }

    /// Memory without a bound.
    pub fn unlimited() -> Memory {
        Memory::new(u64::MAX)
    }

    /// At most so many bytes from now on.
    pub fn set_max(&self, max: u64) {
        // A number on its own: nothing else is published through it.
        self.0.max.store(max, Ordering::Relaxed);
    }

    /// `max_memory` in bytes; `None` if there is no bound.
    pub fn max(&self) -> Option<u64> {
        let max = self.0.max.load(Ordering::Relaxed);
        (max < u64::MAX).then_some(max)
    }

    /// How much gives way now.
    #[inline]
    pub fn level(&self) -> Level {
        Level::of(self.0.level.load(Ordering::Relaxed))
    }

    /// Sets how much gives way; the monitor does.
    pub fn set_level(&self, level: Level) {
        self.0.level.store(level as u8, Ordering::Relaxed);
        self.0.peak.fetch_max(level as u8, Ordering::Relaxed);
    }

    /// The highest level since [`Memory::take_peak`].
    pub fn peak(&self) -> Level {
        Level::of(self.0.peak.load(Ordering::Relaxed))
    }

    /// The highest level since the last call; the level of now begins anew.
    pub fn take_peak(&self) -> Level {
        Level::of(self.0.peak.swap(self.level() as u8, Ordering::Relaxed))
    }

    /// Publishes what was measured: live bytes, and resident ones.
    pub fn set_measured(&self, live: u64, resident: u64) {
        self.0.live.store(live, Ordering::Relaxed);
        self.0.resident.store(resident, Ordering::Relaxed);
    }

    /// Live and resident bytes as they were measured last; 0 before.
    pub fn measured(&self) -> (u64, u64) {
        (self.0.live.load(Ordering::Relaxed), self.0.resident.load(Ordering::Relaxed))
    }

    /// Bytes that a holder has published, all its parts together.
    #[inline]
    pub fn bytes(&self, holder: Holder) -> u64 {
        self.0.bytes[holder as usize].load(Ordering::Relaxed)
    }

    /// The most that a holder may take, in bytes.
    #[inline]
    pub fn cap(&self, holder: Holder) -> u64 {
        self.0.max.load(Ordering::Relaxed) / 100 * holder.percent()
    }

    /// Whether a holder has more than its share.
    #[inline]
    pub fn is_over(&self, holder: Holder) -> bool {
        self.bytes(holder) > self.cap(holder)
    }

    /// Whether a holder would have more than its share with so many bytes more.
    #[inline]
    pub fn would_exceed(&self, holder: Holder, more: u64) -> bool {
        self.bytes(holder).saturating_add(more) > self.cap(holder)
    }

    /// Notes that something gives way because a holder has, or would have, its share.
    pub(crate) fn note_reached(&self, holder: Holder) {
        let (bytes, most) = (self.bytes(holder).max(1), &self.0.reached[holder as usize]);
        if bytes > most.load(Ordering::Relaxed) {
            most.fetch_max(bytes, Ordering::Relaxed);
        }
    }

    /// The holders whose shares made something give way since the last call, with the most bytes that they had then.
    pub(crate) fn take_reached(&self) -> Vec<(Holder, u64)> {
        let taken = Holder::ALL.map(|holder| (holder, self.0.reached[holder as usize].swap(0, Ordering::Relaxed)));
        taken.into_iter().filter(|(_, most)| *most > 0).collect()
    }

    /// What one part of the program holds, such as a shard or a sink: nothing at first.
    pub fn holding(&self, holder: Holder) -> Holding {
        Holding { memory: self.clone(), holder, bytes: AtomicU64::new(0) }
    }
}

/// What one part of the program holds. Dropping it gives all of it back.
#[derive(Debug)]
pub struct Holding {
    memory: Memory,
    holder: Holder,
    bytes: AtomicU64,
}

impl Holding {
    /// Publishes how many bytes it is now.
    pub fn set(&self, bytes: u64) {
        let before = self.bytes.swap(bytes, Ordering::Relaxed);
        // The sum wraps as its parts do, so it is right whenever all of them are.
        self.total().fetch_add(bytes.wrapping_sub(before), Ordering::Relaxed);
    }

    /// Publishes that it is so many bytes more.
    pub fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.total().fetch_add(bytes, Ordering::Relaxed);
    }

    /// Publishes that it is so many bytes less.
    pub fn sub(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.total().fetch_sub(bytes, Ordering::Relaxed);
    }

    /// What was published last, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether all parts of its holder together have more than their share.
    pub fn is_over(&self) -> bool {
        self.memory.is_over(self.holder)
    }

    /// The share of all parts of its holder together, in bytes.
    pub fn cap(&self) -> u64 {
        self.memory.cap(self.holder)
    }

    /// Whether they would have more than their share with so many bytes more.
    pub fn would_exceed(&self, more: u64) -> bool {
        self.memory.would_exceed(self.holder, more)
    }

    /// The memory it is a part of.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    fn total(&self) -> &AtomicU64 {
        &self.memory.0.bytes[self.holder as usize]
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_rises_at_once_and_falls_when_a_tenth_less_is_used() {
        let max = 1000;
        let mut level = Level::Calm;
        let seen = [599, 600, 541, 539, 700, 860, 775, 773, 630, 629, 540, 0].map(|used| {
            level = level.after(used, max);
            level.number()
        });
        assert_eq!(seen, [0, 1, 1, 0, 2, 4, 4, 3, 2, 1, 1, 0]);
        assert_eq!(Level::Calm.after(u64::MAX - 1, u64::MAX), Level::Events);
    }

    #[test]
    fn parts_add_up_and_give_back_what_they_held() {
        let memory = Memory::new(LEAST_MAX_MEMORY);
        let (first, second) = (memory.holding(Holder::Relays), memory.holding(Holder::Relays));
        first.set(10);
        second.add(5);
        first.set(7);
        second.sub(2);
        assert_eq!((memory.bytes(Holder::Relays), first.bytes(), memory.bytes(Holder::Sinks)), (10, 7, 0));
        let room = memory.cap(Holder::Relays) - 10;
        assert!(!first.is_over() && !first.would_exceed(room) && first.would_exceed(room + 1));
        drop(first);
        assert_eq!(memory.bytes(Holder::Relays), 3);
        drop(second);
        assert_eq!(memory.bytes(Holder::Relays), 0);
        assert!(!Memory::unlimited().would_exceed(Holder::Capture, u64::MAX / 100));
    }

    #[test]
    fn holders_are_in_the_order_of_their_numbers() {
        Holder::ALL.iter().enumerate().for_each(|(n, holder)| assert_eq!(*holder as usize, n));
        Level::ALL.iter().enumerate().for_each(|(n, level)| assert_eq!(usize::from(level.number()), n));
    }
}
