//! What a closed interval takes in memory, published until the interval is dropped.

use std::mem::size_of_val;

use crate::aggregate::{EventOrCheck, TimestampedSample};
use crate::memory::{Holder, Holding, Memory, footprint, vec_footprint};
use crate::presence::Event;
use crate::series::Series;

use super::{CounterPoint, GaugePoint, KvPoint, SetPoint, Snapshot, TimerPoint};

/// The part of the memory that an interval is. A copy of the interval is none until it is [held](Snapshot::hold) itself.
#[derive(Debug, Default)]
pub struct Footprint(Option<Holding>);

impl Clone for Footprint {
    fn clone(&self) -> Footprint {
        Footprint(None)
    }
}

impl Footprint {
    /// Bytes that were published; 0 if it is not held.
    pub fn bytes(&self) -> u64 {
        self.0.as_ref().map_or(0, Holding::bytes)
    }
}

impl Snapshot {
    /// Publishes what it takes, until it is dropped or this is called again.
    pub fn hold(&mut self, memory: &Memory) {
        let holding = memory.holding(Holder::ClosedIntervals);
        holding.set(self.heap_bytes());
        self.footprint = Footprint(Some(holding));
    }

    /// Bytes that it takes beside itself. A key that the table of series has too is not counted again.
    pub fn heap_bytes(&self) -> u64 {
        let own_key = |series: &Series| if series.is_shared() { 0 } else { series.heap_bytes() };
        let mut bytes = vec_footprint::<CounterPoint>(self.counters.capacity())
            + vec_footprint::<GaugePoint>(self.gauges.capacity())
            + vec_footprint::<TimerPoint>(self.timers.capacity())
            + vec_footprint::<SetPoint>(self.sets.capacity())
            + vec_footprint::<KvPoint>(self.kvs.capacity())
            + vec_footprint::<TimestampedSample>(self.timestamped.capacity())
            + vec_footprint::<EventOrCheck>(self.events_and_checks.capacity())
            + vec_footprint::<Event>(self.presence.capacity());
        bytes += self.counters.iter().map(|point| own_key(&point.series)).sum::<usize>();
        bytes += self.gauges.iter().map(|point| own_key(&point.series)).sum::<usize>();
        bytes += self.timers.iter().map(|point| own_key(&point.series) + point.timer.heap_bytes()).sum::<usize>();
        bytes += self.sets.iter().map(|point| own_key(&point.series) + point.members.heap_bytes()).sum::<usize>();
        let values = |point: &KvPoint| vec_footprint::<f64>(point.values.capacity());
        bytes += self.kvs.iter().map(|point| own_key(&point.series) + values(point)).sum::<usize>();
        bytes += self.timestamped.iter().map(|one| own_key(&one.series)).sum::<usize>();
        bytes += self.events_and_checks.iter().map(EventOrCheck::heap_bytes).sum::<usize>();
        bytes += self.presence.iter().map(Event::heap_bytes).sum::<usize>();
        (bytes + footprint(size_of_val(self))) as u64
    }
}
