//! Says once an interval what was given up because memory is short.

use crate::aggregate::Partial;
use crate::memory::{Holder, Level, Memory};
use crate::telemetry::{Account, Limit, Tally};
use crate::untrusted::Escaped;

use super::worst;

/// Logs what gave way in an interval, and when that is over. `logged` is the level that the log knows.
pub(super) fn log_given_up(partials: &[Partial], memory: &Memory, logged: &mut Level) {
    let mut all = Tally::default();
    for partial in partials {
        all.memory.add(&partial.tally.memory);
        all.samples.add(&partial.tally.samples);
    }
    let (given_up, samples_dropped) = (&all.memory, all.samples.limited.of(Limit::Memory));
    let peak = memory.peak();
    let is_nothing = given_up.caches_dropped + given_up.early_estimates + given_up.folded + given_up.events_dropped
        == 0
        && samples_dropped == 0;
    let (live, _) = memory.measured();
    if is_nothing && peak == *logged {
        return;
    }
    if is_nothing && peak == Level::Calm {
        tracing::info!(live_mib = live >> 20, "memory is enough again; nothing gives way");
        *logged = peak;
        return;
    }
    let above = Holder::ALL.iter().filter(|holder| memory.is_over(**holder)).map(|holder| holder.name());
    let (folded_prefix, _) = worst(partials, |partial| &partial.offenders).unwrap_or_default();
    let (dropped_prefix, _) = worst(partials, |partial| &partial.dropped).unwrap_or_default();
    tracing::warn!(
        level = peak.number(),
        live_mib = live >> 20,
        max_mib = memory.max().unwrap_or(0) >> 20,
        above_their_share = above.collect::<Vec<_>>().join(" "),
        caches_dropped = given_up.caches_dropped,
        early_estimates = given_up.early_estimates,
        folded = given_up.folded,
        worst_prefix = %Escaped(&folded_prefix),
        events_dropped = given_up.events_dropped,
        samples_dropped,
        worst_dropped_prefix = %Escaped(&dropped_prefix),
        "memory is short"
    );
    *logged = peak;
}
