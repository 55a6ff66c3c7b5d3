//! Limits the lines of one kind. A kind is a call site, so the number of kinds, and with it memory, is bounded by the
//! code. When a window ends, one line per kind reports what was suppressed.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::{self, Write};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::Counts;
use super::queue::Queue;

/// Lines of one kind that pass in a window.
pub const LINES_OF_A_KIND: u32 = 20;
/// Length of a window. It begins with the first line of its kind.
pub const WINDOW: Duration = Duration::from_secs(10);

/// Characters of a suppressed line that are shown.
const EXAMPLE_CHARS: usize = 120;
/// The target of the log's own lines, which are never limited.
const OWN: &str = "systole::log";

#[derive(Debug)]
pub(super) struct Limiter {
    kinds: Mutex<HashMap<Identifier, Kind>>,
    counts: Arc<Counts>,
}

#[derive(Debug)]
struct Kind {
    began: Instant,
    passed: u32,
    suppressed: Option<Suppressed>,
}

/// Lines of a kind that were suppressed and not reported yet.
#[derive(Debug)]
struct Suppressed {
    since: Instant,
    lines: u64,
    level: Level,
    example: String,
}

/// What happens to a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Passes,
    /// Suppressed, as the first since the last report.
    First,
    Suppressed,
}

impl Limiter {
    pub(super) fn new(counts: Arc<Counts>) -> Limiter {
        Limiter { kinds: Mutex::default(), counts }
    }

    fn kinds(&self) -> MutexGuard<'_, HashMap<Identifier, Kind>> {
        // Every update leaves the table consistent, so a poisoned lock is harmless.
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides about a line of this kind.
    fn decide(&self, id: Identifier, level: Level, now: Instant) -> Verdict {
        let mut kinds = self.kinds();
        let kind = match kinds.entry(id) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Kind { began: now, passed: 0, suppressed: None }),
        };
        if now.duration_since(kind.began) >= WINDOW {
            (kind.began, kind.passed) = (now, 0);
        }
        if kind.passed < LINES_OF_A_KIND {
            kind.passed += 1;
            return Verdict::Passes;
        }
        self.counts.suppressed.fetch_add(1, Ordering::Relaxed);
        match &mut kind.suppressed {
            Some(suppressed) => {
                suppressed.lines += 1;
                Verdict::Suppressed
            }
            None => {
                kind.suppressed = Some(Suppressed { since: now, lines: 1, level, example: String::new() });
                Verdict::First
            }
        }
    }

    fn remember(&self, id: &Identifier, example: String) {
        if let Some(suppressed) = self.kinds().get_mut(id).and_then(|kind| kind.suppressed.as_mut()) {
            suppressed.example = example;
        }
    }

    /// When the next report is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.kinds().values().filter_map(|kind| kind.suppressed.as_ref()).map(|some| some.since + WINDOW).min()
    }

    fn take(&self, now: Option<Instant>) -> Vec<Suppressed> {
        let is_due = |some: &mut Suppressed| now.is_none_or(|now| now >= some.since + WINDOW);
        self.kinds().values_mut().filter_map(|kind| kind.suppressed.take_if(is_due)).collect()
    }

    /// Reports what was suppressed in windows that ended by `now`, or in all.
    pub(super) fn report(&self, now: Option<Instant>) {
        for Suppressed { lines, level, example, .. } in self.take(now) {
            match level {
                Level::ERROR => tracing::error!(lines, example, "more lines of one kind were suppressed"),
                Level::WARN => tracing::warn!(lines, example, "more lines of one kind were suppressed"),
                _ => tracing::info!(lines, example, "more lines of one kind were suppressed"),
            }
        }
    }
}

/// The limiter as a layer of the subscriber.
pub(super) struct Limit {
    pub(super) limiter: Arc<Limiter>,
    pub(super) queue: Arc<Queue>,
}

impl<S: Subscriber> Layer<S> for Limit {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        if *metadata.level() > Level::INFO || metadata.target().starts_with(OWN) {
            return true;
        }
        match self.limiter.decide(metadata.callsite(), *metadata.level(), Instant::now()) {
            Verdict::Passes => true,
            Verdict::Suppressed => false,
            Verdict::First => {
                // Formatting runs foreign code, so it happens without the lock.
                let mut example = Example(String::new());
                event.record(&mut example);
                self.limiter.remember(&metadata.callsite(), example.0.chars().take(EXAMPLE_CHARS).collect());
                self.queue.wake();
                false
            }
        }
    }
}

/// The message of an event.
struct Example(String);

impl Visit for Example {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            // Writing to a string cannot fail.
            let _ = write!(self.0, "{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    /// Two kinds.
    fn kinds() -> [Identifier; 2] {
        struct Site;
        impl tracing::Callsite for Site {
            fn set_interest(&self, _: tracing::subscriber::Interest) {}
            fn metadata(&self) -> &tracing::Metadata<'_> {
                unreachable!("only its address counts")
            }
        }
        // Values of a zero-sized type may share one address.
        static SITES: [(Site, u8); 2] = [(Site, 0), (Site, 1)];
        [Identifier(&SITES[0].0), Identifier(&SITES[1].0)]
    }

    #[test]
    fn a_flood_of_one_kind_is_cut_and_told_and_leaves_others_alone() {
        let counts = Arc::new(Counts { lost: AtomicU64::new(0), suppressed: AtomicU64::new(0) });
        let limiter = Limiter::new(Arc::clone(&counts));
        let [flood, other] = kinds();
        let began = Instant::now();
        let at = |ms: u64| began + Duration::from_millis(ms);
        let verdicts: Vec<Verdict> =
            (0..14_000).map(|n| limiter.decide(flood.clone(), Level::WARN, at(n / 5))).collect();
        let of = |verdict| verdicts.iter().filter(|&&v| v == verdict).count();
        assert_eq!((of(Verdict::Passes), of(Verdict::First), of(Verdict::Suppressed)), (20, 1, 13_979));
        assert_eq!(limiter.decide(other, Level::ERROR, at(2_800)), Verdict::Passes);
        assert_eq!(counts.suppressed.load(Ordering::Relaxed), 13_980);
        limiter.remember(&flood, "refused".into());
        assert_eq!(limiter.due(), Some(at(4) + WINDOW));
        assert!(limiter.take(Some(at(10_003))).is_empty());
        // The next window lets lines pass before the last one is reported.
        assert_eq!(limiter.decide(flood, Level::WARN, at(10_003)), Verdict::Passes);
        let told = limiter.take(Some(at(10_004)));
        assert_eq!(told.len(), 1);
        assert_eq!((told[0].lines, &*told[0].example), (13_980, "refused"));
        assert_eq!(limiter.due(), None);
    }
}
