//! The receivers of the simulation, and the sinks that deliver to them: slow, failing, and saying nothing of what they took.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use systole::internals::random::Random;
use systole::internals::sinks::{Delivery, Receipt, Sink, SinkError};
use systole::internals::snapshot::Snapshot;
use systole::internals::sys::unix_time;

use super::disk::SimDisk;

/// How a receiver is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SinkMode {
    Well,
    /// It refuses.
    Failing,
    /// It takes what it is sent, and says that it failed.
    Mute,
    /// It answers late, also after the deadline.
    Slow,
}

/// What identifies an interval.
pub type Id = (u64, u64, u64);

/// An interval as a receiver got it.
#[derive(Clone, Debug)]
pub struct Packet {
    pub id: Id,
    pub end: f64,
    pub secs: f64,
    /// When it came.
    pub at: f64,
    /// Counters, by name: those that have a value.
    pub counters: BTreeMap<String, f64>,
    pub gauges: BTreeMap<String, f64>,
    /// How many values timers have, and members sets.
    pub timed: u64,
    pub members: f64,
    pub lines: u64,
    pub unclean: Option<f64>,
    /// Of its counters and gauges, in their order.
    pub checksum: u32,
    pub check: Result<(), String>,
}

impl Packet {
    fn of(snapshot: &Snapshot) -> Packet {
        let mut checksum = crc32fast::Hasher::new();
        let numbers = snapshot.counters.iter().map(|one| (&one.series, one.sum.value()));
        for (series, value) in numbers.chain(snapshot.gauges.iter().map(|one| (&one.series, one.gauge.value()))) {
            checksum.update(series.name().as_bytes());
            checksum.update(&value.to_le_bytes());
        }
        checksum.update(&snapshot.interval_secs.to_le_bytes());
        let counters = snapshot.counters.iter().map(|one| (one.series.name().to_string(), one.sum.value()));
        let gauges = snapshot.gauges.iter().map(|one| (one.series.name().to_string(), one.gauge.value()));
        Packet {
            id: snapshot.identity(),
            end: snapshot.end,
            secs: snapshot.interval_secs,
            at: unix_time(),
            counters: counters.filter(|(_, sum)| *sum != 0.0).collect(),
            gauges: gauges.collect(),
            timed: snapshot.timers.iter().map(|one| one.timer.samples()).sum(),
            members: snapshot.sets.iter().map(|one| one.members.count()).sum(),
            lines: snapshot.ledger.lines.read,
            unclean: snapshot.ledger.unclean_stop,
            checksum: checksum.finalize(),
            check: snapshot.ledger.check(),
        }
    }
}

/// What a receiver of totals was told.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    /// Which start of the totals.
    pub start: u64,
    pub total: f64,
}

#[derive(Debug)]
pub struct Inner {
    pub packets: Vec<Packet>,
    pub totals: Vec<Told>,
    mode: SinkMode,
    random: Random,
    starts: u64,
}

/// A receiver. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Receiver {
    inner: Arc<Mutex<Inner>>,
    disk: SimDisk,
}

impl Receiver {
    pub fn new(seed: u64, disk: &SimDisk) -> Receiver {
        let (packets, totals) = (Vec::new(), Vec::new());
        let inner = Inner { packets, totals, mode: SinkMode::Well, random: Random::new(seed), starts: 0 };
        Receiver { inner: Arc::new(Mutex::new(inner)), disk: disk.clone() }
    }

    pub fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("nobody panics with it")
    }

    pub fn set_mode(&self, mode: SinkMode) {
        self.inner().mode = mode;
    }

    /// A sink that delivers here.
    pub fn sink(&self) -> Box<dyn Sink> {
        let start = {
            let mut inner = self.inner();
            inner.starts += 1;
            inner.starts
        };
        Box::new(SimSink { receiver: self.clone(), totals: Totals { start, total: 0.0, last: None } })
    }
}

#[derive(Clone, Copy, Debug)]
struct Totals {
    start: u64,
    total: f64,
    /// The last interval that is in there.
    last: Option<Id>,
}

struct SimSink {
    receiver: Receiver,
    totals: Totals,
}

impl Sink for SimSink {
    fn deliver<'a>(&'a mut self, snapshot: &'a Arc<Snapshot>) -> Delivery<'a, Result<Receipt, SinkError>> {
        Box::pin(async move {
            let packet = Packet::of(snapshot);
            if self.totals.last != Some(packet.id) {
                self.totals.last = Some(packet.id);
                self.totals.total += packet.counters.get("sum").copied().unwrap_or(0.0);
            }
            let (mode, before, after) = {
                let mut inner = self.receiver.inner();
                let most_us = if inner.mode == SinkMode::Slow { 4_000_000 } else { 20_000 };
                let mut pause = || Duration::from_micros(200 + inner.random.below(most_us));
                let (before, after) = (pause(), pause());
                (inner.mode, before, after)
            };
            tokio::time::sleep(before).await;
            if self.receiver.disk.is_dead() {
                std::future::pending::<()>().await;
            }
            if mode == SinkMode::Failing {
                return Err(SinkError::new("it refuses"));
            }
            let told = Told { start: self.totals.start, total: self.totals.total };
            {
                let mut inner = self.receiver.inner();
                inner.packets.push(packet);
                inner.totals.push(told);
            }
            tokio::time::sleep(after).await;
            if mode == SinkMode::Mute {
                return Err(SinkError::new("its answer is lost"));
            }
            Ok(Receipt::new(100, []))
        })
    }

    fn save(&self) -> Option<Vec<u8>> {
        let Totals { start, total, last } = self.totals;
        let (sequence, end, part) = last.unwrap_or_default();
        let numbers = [start, total.to_bits(), u64::from(last.is_some()), sequence, end, part];
        Some(numbers.iter().flat_map(|number| number.to_le_bytes()).collect())
    }

    fn restore(&mut self, saved: &[u8]) -> Result<(), SinkError> {
        let number = |bytes: &[u8]| Some(u64::from_le_bytes(bytes.try_into().ok()?));
        let numbers: Option<Vec<u64>> = saved.chunks(8).map(number).collect();
        let Some([start, total, has_last, sequence, end, part]) = numbers.as_deref() else {
            return Err(SinkError::new("it is something else"));
        };
        let last = (*has_last == 1).then_some((*sequence, *end, *part));
        self.totals = Totals { start: *start, total: f64::from_bits(*total), last };
        Ok(())
    }

    fn close(&mut self) -> Delivery<'_, ()> {
        Box::pin(async {})
    }
}
