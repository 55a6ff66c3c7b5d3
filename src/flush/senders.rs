//! Who sends what: merges what the workers gathered, publishes it, and says once an interval what somebody should look at.

use std::sync::Arc;

use crate::aggregate::Partial;
use crate::memory::{Holder, Holding, Memory};
use crate::net::{Listener, Listeners};
use crate::rollup::Interval;
use crate::senders::{Closed, Part, SenderWarning, Senders, Summary};
use crate::sys::process_name;
use crate::telemetry::{Concern, Warning};

use super::repeats::Repeats;

/// What is known of the senders, and where it is published.
#[derive(Debug)]
pub(super) struct SenderAccount {
    summary: Summary,
    published: Senders,
    held: Holding,
}

impl Default for SenderAccount {
    fn default() -> SenderAccount {
        SenderAccount::new(&Senders::default(), "", &Memory::unlimited())
    }
}

impl SenderAccount {
    pub(super) fn new(published: &Senders, prepended: &str, memory: &Memory) -> SenderAccount {
        let (published, held) = (published.clone(), memory.holding(Holder::Senders));
        SenderAccount { summary: Summary::new(prepended), published, held }
    }

    /// What names of series have before the names that are sent, from now on.
    pub(super) fn prepend(&mut self, prepended: &str) {
        self.summary.prepend(prepended);
    }

    /// Accounts for what it holds in this memory.
    pub(super) fn hold_in(&mut self, memory: &Memory) {
        self.held = memory.holding(Holder::Senders);
    }

    /// Takes in an interval: partials in the order of workers. Returns warnings, which are in the log then.
    pub(super) fn close(
        &mut self,
        partials: &mut [Partial],
        listeners: &Listeners,
        interval: &Interval,
        repeats: &mut Repeats,
    ) -> Vec<Warning> {
        let of_worker = listeners.iter().flat_map(|listener: &Listener| {
            let url: Arc<str> = listener.url().into();
            std::iter::repeat_n(url, listener.workers())
        });
        let part = |(listener, partial): (Arc<str>, &mut Partial)| {
            let lines = partial.tally.lines.read.saturating_sub(partial.tally.lines.empty);
            partial.held.senders = 0;
            Part { listener, lines, gathered: std::mem::take(&mut partial.senders) }
        };
        let parts: Vec<Part> = of_worker.zip(partials).map(part).collect();
        if self.held.is_over() {
            self.summary.give_way();
        }
        let closed = Closed { end: interval.end, length_secs: interval.length_secs };
        let report = self.summary.close(&closed, &parts, process_name);
        self.held.set((self.summary.heap_bytes() + report.heap_bytes()) as u64);
        for notice in &report.warnings {
            let what = notice.short.split_once(' ').map_or(&*notice.short, |(_, what)| what);
            if repeats.is_new(&format!("intervals with many {what}"), 1) {
                tracing::warn!("{}", notice.text);
            }
        }
        let warning = |notice: &SenderWarning| Warning {
            short: Some(notice.short.clone()),
            ..Concern::Senders.says(notice.text.clone())
        };
        let warnings = report.warnings.iter().map(warning).collect();
        self.published.publish(report);
        warnings
    }
}
