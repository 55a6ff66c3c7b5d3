//! Blindness: the clock of suspicion runs only while we can see. Our restarts, our pauses and what we dropped count against
//! nobody. How that moves deadlines is the [`Detector`](super::detector::Detector)'s.

use super::time::EngineTime;

/// Drops that come after this long without any, in seconds, are a new time of them, which is warned of.
const NEW_AFTER: f64 = 60.0;

/// While they go on there is a warning so often, in seconds: less than an alarm of them lasts without one.
const WARN_EVERY: f64 = 240.0;

/// Losses of two kinds that come closer, in seconds, are of the same second.
const SAME_SECOND: f64 = 0.9;

/// Seconds in which we could not see, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BlindSeconds {
    /// We were not running.
    pub restart: f64,
    /// We stood still.
    pub pause: f64,
    /// The kernel dropped datagrams.
    pub drops: f64,
    /// Our own queue was full.
    pub queue: f64,
    /// A peer that alone had heard some did not answer.
    pub peer: f64,
}

/// What follows from a second in which too much was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LossySecond {
    /// There was no warning of late.
    pub(super) warns: bool,
    /// It was not left out yet for a loss of the other kind.
    pub(super) is_left_out: bool,
}

/// When something was dropped last, and when that was warned of.
#[derive(Clone, Copy, Debug)]
struct Drops {
    at: EngineTime,
    warned_at: EngineTime,
}

impl Drops {
    const NONE: Drops = Drops { at: EngineTime::LONG_AGO, warned_at: EngineTime::LONG_AGO };

    /// There are some now; whether that is to be warned of.
    fn note(&mut self, now: EngineTime) -> bool {
        let warns = now - self.at > NEW_AFTER || now - self.warned_at >= WARN_EVERY;
        self.at = now;
        if warns {
            self.warned_at = now;
        }
        warns
    }
}

/// What was lost of late, and how long we were blind.
#[derive(Clone, Debug)]
pub(super) struct Blindness {
    drops: Drops,
    queue_drops: Drops,
    seconds: BlindSeconds,
    reported: BlindSeconds,
}

impl Default for Blindness {
    fn default() -> Blindness {
        Blindness {
            drops: Drops::NONE,
            queue_drops: Drops::NONE,
            seconds: BlindSeconds::default(),
            reported: BlindSeconds::default(),
        }
    }
}

/// Whether so much of a second was lost that it counts against nobody: `ratio` is the share from which on that is so.
pub(super) fn is_too_much(lost: u64, seen: u64, ratio: f64) -> bool {
    let (lost, seen) = (lost as f64, seen as f64);
    lost > 0.0 && lost / (lost + seen) >= ratio
}

impl Blindness {
    /// A second in which the kernel dropped too much.
    pub(super) fn note_kernel_drops(&mut self, now: EngineTime) -> LossySecond {
        let warns = self.drops.note(now);
        let is_left_out = now - self.queue_drops.at >= SAME_SECOND;
        self.seconds.drops += f64::from(u8::from(is_left_out));
        LossySecond { warns, is_left_out }
    }

    /// A second in which our own queue dropped too much.
    pub(super) fn note_queue_drops(&mut self, now: EngineTime) -> LossySecond {
        let warns = self.queue_drops.note(now);
        let is_left_out = now - self.drops.at >= SAME_SECOND;
        self.seconds.queue += f64::from(u8::from(is_left_out));
        LossySecond { warns, is_left_out }
    }

    pub(super) fn note_pause(&mut self, secs: f64) {
        self.seconds.pause += secs;
    }

    pub(super) fn note_lost_peer(&mut self, secs: f64) {
        self.seconds.peer += secs;
    }

    pub(super) fn note_restart(&mut self, secs: f64) {
        self.seconds.restart = secs.max(0.0);
    }

    /// Seconds in which we could not see, since the start.
    pub(super) fn seconds(&self) -> BlindSeconds {
        self.seconds
    }

    /// The same, and what they were when this was last asked.
    pub(super) fn take_report(&mut self) -> (BlindSeconds, BlindSeconds) {
        (self.seconds, std::mem::replace(&mut self.reported, self.seconds))
    }

    /// When the kernel last dropped too much.
    pub(super) fn drops_at(&self) -> EngineTime {
        self.drops.at
    }

    /// When our own queue last dropped too much.
    pub(super) fn queue_drops_at(&self) -> EngineTime {
        self.queue_drops.at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_is_left_out_once_and_warnings_are_a_minute_apart() {
        let mut blindness = Blindness::default();
        let at = EngineTime::from_secs;
        assert_eq!(blindness.note_kernel_drops(at(1.0)), LossySecond { warns: true, is_left_out: true });
        assert_eq!(blindness.note_queue_drops(at(1.1)), LossySecond { warns: true, is_left_out: false });
        assert_eq!(blindness.note_kernel_drops(at(2.5)), LossySecond { warns: false, is_left_out: true });
        assert_eq!(blindness.note_kernel_drops(at(62.6)), LossySecond { warns: true, is_left_out: true });
        let seconds = BlindSeconds { drops: 3.0, ..BlindSeconds::default() };
        assert_eq!(blindness.take_report(), (seconds, BlindSeconds::default()));
        assert_eq!(blindness.take_report(), (seconds, seconds));
    }

    #[test]
    fn drops_that_go_on_are_warned_of_again_and_again() {
        let mut blindness = Blindness::default();
        let warned = (0..=600).filter(|n| blindness.note_kernel_drops(EngineTime::from_secs(f64::from(*n))).warns);
        assert_eq!(warned.collect::<Vec<_>>(), [0, 240, 480]);
    }

    #[test]
    fn a_share_of_what_came_is_too_much() {
        assert!(!is_too_much(0, 0, 0.01) && !is_too_much(1, 1000, 0.01));
        assert!(is_too_much(20, 1000, 0.01) && is_too_much(1, 0, 0.01));
        // One of a hundred is.
        assert!(is_too_much(10, 990, 0.01) && !is_too_much(10, 991, 0.01));
    }
}
