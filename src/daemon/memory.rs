//! The monitor of the memory: measures it ten times a second, sets the level at which holders give way, and gives back to
//! the system what was freed. A thread of its own: giving back takes as long as there is memory to look through.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::config::show_size;
use crate::memory::{Level, Memory};
use crate::supervise::{Part, Role, Supervisor};
use crate::sys::{live_bytes, private_bytes, resident_bytes, trim, yielding_thread};

use super::StartError;

/// How often memory is measured.
const EVERY: Duration = Duration::from_millis(100);

/// Least time between two returns of memory to the system.
const TRIM_PAUSE: Duration = Duration::from_secs(1);

/// The same while nothing fell and nothing is short: what lies free between other pieces adds up slowly.
const LOOSE_PAUSE: Duration = Duration::from_secs(60);

/// Least number of bytes that are free in the process but not given back for a return to be worth its time.
const WORTH_TRIMMING: u64 = 8 << 20;

/// The running monitor. Dropping it ends it.
#[derive(Debug)]
pub(super) struct MemoryMonitor {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl MemoryMonitor {
    pub(super) fn start(memory: Memory, supervisor: &Supervisor) -> Result<MemoryMonitor, StartError> {
        let (stop, stopped) = mpsc::channel();
        let mut state = State::new(memory, Instant::now());
        // Once before anything is received, so that nobody sees zeros.
        state.measure(Instant::now());
        let run = move |part: &Part| {
            yielding_thread();
            part.keep(|| {
                while matches!(stopped.recv_timeout(EVERY), Err(RecvTimeoutError::Timeout)) {
                    part.alive();
                    state.measure(Instant::now());
                }
            });
        };
        let thread = supervisor
            .part("memory", Role::Ordinary)
            .thread("memory", run)
            .map_err(|error| StartError(format!("cannot start the thread that measures memory: {error}")))?;
        Ok(MemoryMonitor { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for MemoryMonitor {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It ends at once, or after a return of memory.
            let _ = thread.join();
        }
    }
}

struct State {
    memory: Memory,
    level: Level,
    /// The most live bytes since memory was given back last.
    peak: u64,
    trimmed: Instant,
    has_warned: bool,
}

impl State {
    fn new(memory: Memory, now: Instant) -> State {
        State { memory, level: Level::Calm, peak: 0, trimmed: now, has_warned: false }
    }

    fn measure(&mut self, now: Instant) {
        let (live, mut private) = (live_bytes(), private_bytes());
        self.peak = self.peak.max(live);
        if self.wants_trim(live, private, now) {
            trim();
            (self.peak, self.trimmed) = (live, now);
            private = private_bytes();
        }
        self.memory.set_measured(live, resident_bytes());
        let Some(max) = self.memory.max() else { return };
        // What lies between live bytes is taken, too, though nobody holds it.
        let level = self.level.after(live.max(private), max);
        if level > self.level && !self.has_warned {
            self.has_warned = true;
            tracing::warn!(
                live_mib = live >> 20,
                max_memory = show_size(max),
                gives_way = level.gives_way(),
                "memory comes near to `max_memory`: parts give way, as docs/memory.md says"
            );
        }
        self.level = level;
        self.memory.set_level(level);
    }

    /// Whether enough was freed since the last peak, and is still resident, for a return to be worth its time.
    fn wants_trim(&self, live: u64, private: u64, now: Instant) -> bool {
        let is_idle = private.saturating_sub(live);
        let fell = live < self.peak / 4 * 3;
        let is_loose = is_idle > live / 4;
        // Under pressure every page counts.
        let pause = if fell || (is_loose && self.level > Level::Calm) { TRIM_PAUSE } else { LOOSE_PAUSE };
        (fell || is_loose) && is_idle > WORTH_TRIMMING && now.duration_since(self.trimmed) >= pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_free_between_other_pieces_is_given_back_from_time_to_time() {
        let (start, mib) = (Instant::now(), 1 << 20);
        let mut state = State::new(Memory::unlimited(), start);
        state.peak = 60 * mib;
        let wants =
            |state: &State, private, secs| state.wants_trim(60 * mib, private * mib, start + Duration::from_secs(secs));
        assert!(!wants(&state, 90, 59) && wants(&state, 90, 60));
        assert!(!wants(&state, 70, 600), "a return finds little");
        state.peak = 90 * mib;
        assert!(!wants(&state, 90, 0) && wants(&state, 90, 1), "much was freed");
    }
}
