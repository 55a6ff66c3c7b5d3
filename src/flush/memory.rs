//! Says once an interval what was given up because memory is short, why, and what helps.

use crate::aggregate::Partial;
use crate::memory::{Holder, Level, Memory};
use crate::telemetry::{Account, Concern, Limit, Tally, Warning};
use crate::untrusted::Escaped;

use super::worst;

const REMEDY: &str = "drop or rename the identifier in their names or tags with a rule, or raise `max_memory`";

/// What the log said last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Reported {
    /// Nothing, or that it is over.
    #[default]
    Nothing,
    /// What was given up in an interval.
    GivenUp,
    /// That nothing was given up any more, while the level was still above [`Level::Calm`].
    Level,
}

/// Logs what gave way in an interval, and when that is over; what gave way.
pub(super) fn log_given_up(partials: &[Partial], memory: &Memory, said: &mut Reported) -> Vec<Warning> {
    let mut all = Tally::default();
    for partial in partials {
        all.memory.add(&partial.tally.memory);
        all.samples.add(&partial.tally.samples);
    }
    let (peak, (live, _)) = (memory.peak(), memory.measured());
    let reason = Reason { memory, peak, reached: memory.take_reached() };
    let prefix = |of| worst(partials, of).map(|(prefix, _)| prefix).unwrap_or_default();
    let folded = prefix(|partial: &Partial| &partial.offenders);
    let dropped = prefix(|partial: &Partial| &partial.dropped);
    let sentences = sentences(&all, &reason, &folded, &dropped);
    let level = peak.number();
    if !sentences.is_empty() {
        let some = |count: u64| (count > 0).then_some(count);
        tracing::warn!(
            level,
            live_mib = live >> 20,
            max_mib = memory.max().unwrap_or(0) >> 20,
            caches_dropped = some(all.memory.caches_dropped),
            early_estimates = some(all.memory.early_estimates),
            folded = some(all.memory.folded),
            events_dropped = some(all.memory.events_dropped),
            samples_dropped = some(all.samples.limited.of(Limit::Memory)),
            "{}",
            sentences.iter().map(|warning| &*warning.text).collect::<Vec<_>>().join("; ")
        );
        *said = Reported::GivenUp;
    } else if peak == Level::Calm {
        if *said != Reported::Nothing {
            tracing::info!(live_mib = live >> 20, "memory is enough again: nothing gives way any more");
        }
        *said = Reported::Nothing;
    } else {
        if *said == Reported::GivenUp {
            let gives_way = peak.gives_way();
            tracing::info!(level, live_mib = live >> 20, gives_way, "nothing more was lost for want of memory");
        }
        *said = Reported::Level;
    }
    sentences
}

/// Why something gives way.
struct Reason<'a> {
    memory: &'a Memory,
    peak: Level,
    /// Holders whose share was reached, or the part of it that counts, and the most bytes that they had.
    reached: Vec<(Holder, u64)>,
}

impl Reason<'_> {
    /// In words, for what gives way from a level on, and by the shares of these holders.
    fn text(&self, from: Level, holders: &[Holder]) -> String {
        let mut reasons: Vec<String> = Vec::new();
        for (holder, bytes) in self.reached.iter().filter(|(holder, _)| holders.contains(holder)) {
            let (cap, name) = (self.memory.cap(*holder), holder.name());
            // To the last percent: the next name may be long.
            let verb = if *bytes >= cap / 100 * 97 { "has reached" } else { "comes near to" };
            reasons.push(format!("`{name}` {verb} its share, {} of {} MiB", bytes >> 20, cap >> 20));
        }
        if self.peak >= from {
            let (live, max) = (self.memory.measured().0 >> 20, self.memory.max().unwrap_or(0) >> 20);
            reasons.push(format!("memory was at level {}, now {live} of {max} MiB live", self.peak.number()));
        }
        if reasons.is_empty() { "memory was short".into() } else { reasons.join(", ") }
    }
}

/// What gave way, a sentence each, the worst first.
fn sentences(all: &Tally, reason: &Reason<'_>, folded_prefix: &str, dropped_prefix: &str) -> Vec<Warning> {
    let mut out = Vec::new();
    let given_up = &all.memory;
    if given_up.folded > 0 {
        let why = reason.text(Level::Series, &[Holder::SeriesKeys, Holder::Values, Holder::Samples]);
        out.push(Concern::Series.says(format!(
            "{} samples of new series went to `systole.overflow`: {why}; most of their names begin with `{}`: {REMEDY}",
            given_up.folded,
            Escaped(folded_prefix)
        )));
    }
    let samples = all.samples.limited.of(Limit::Memory);
    if given_up.events_dropped + samples > 0 {
        let why = reason.text(Level::Events, &[Holder::Events, Holder::Timestamped, Holder::Samples]);
        let most = if dropped_prefix.is_empty() {
            String::new()
        } else {
            format!("; most of their names begin with `{}`", Escaped(dropped_prefix))
        };
        let about = if given_up.events_dropped > 0 { Concern::Events } else { Concern::Values };
        out.push(about.says(format!(
            "{} events and service checks, and {samples} samples with a timestamp or of `kv` pairs were dropped: \
             {why}{most}: send less of them, or raise `max_memory`",
            given_up.events_dropped
        )));
    }
    if given_up.early_estimates > 0 {
        let why = reason.text(Level::Samples, &[Holder::Samples, Holder::Values]);
        out.push(Concern::Accuracy.says(format!(
            "{} timers and sets became less exact than configured: {why}; lower `exact_samples`, or raise `max_memory`",
            given_up.early_estimates
        )));
    }
    if given_up.caches_dropped > 0 {
        let why = reason.text(Level::Caches, &[Holder::SeriesKeys]);
        let text = format!("caches were let go, so that lines with tags take longer to read: {why}");
        out.push(Concern::Caches.says(text));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_up_is_said_with_its_reason_and_then_that_it_is_over() {
        let memory = Memory::new(crate::memory::LEAST_MAX_MEMORY);
        let keys = memory.holding(Holder::SeriesKeys);
        keys.set(memory.cap(Holder::SeriesKeys) - 1000);
        memory.note_reached(Holder::SeriesKeys);
        let mut partials = [Partial::default()];
        partials[0].tally.memory.folded = 7;
        partials[0].offenders.add(b"checkout.4711");
        let mut said = Reported::default();
        assert_eq!(
            log_given_up(&partials, &memory, &mut said).iter().map(|warning| &*warning.text).collect::<Vec<_>>(),
            ["7 samples of new series went to `systole.overflow`: `series_keys` has reached its share, 89 of 89 MiB; \
                 most of their names begin with `checkout`: drop or rename the identifier in their names or tags with \
                 a rule, or raise `max_memory`"]
        );
        assert_eq!(said, Reported::GivenUp);
        // The level never rose, and it is over all the same.
        assert!(log_given_up(&[], &memory, &mut said).is_empty());
        assert_eq!(said, Reported::Nothing);
        memory.set_level(Level::Series);
        let lines = log_given_up(&partials, &memory, &mut said);
        assert!(lines[0].text.contains("memory was at level 3"), "{lines:?}");
        assert!(log_given_up(&[], &memory, &mut said).is_empty());
        assert_eq!(said, Reported::Level);
        memory.set_level(Level::Calm);
        memory.take_peak();
        log_given_up(&[], &memory, &mut said);
        assert_eq!(said, Reported::Nothing);
    }
}
